//! A filesystem that answers at once, keeps nothing and logs nothing: what remains is the cost of the protocol.

use super::scripted::{ATTR, ENTRY, OPENED};
use fusewire::{reply::*, *};

pub struct Quiet;

static ZEROS: [u8; 4096] = [0; 4096];

impl FileSystem for Quiet {
    async fn lookup(&self, _: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        if op.name.as_bytes() == b"missing" { Err(Errno::NOENT) } else { Ok(ENTRY) }
    }

    async fn getattr(&self, _: &Context, _: op::Getattr) -> Result<Attr> {
        Ok(ATTR)
    }

    async fn statx(&self, _: &Context, _: op::Statx) -> Result<(Attr, Extended)> {
        Ok((ATTR, Extended::default()))
    }

    async fn setattr(&self, _: &Context, op: op::Setattr) -> Result<Attr> {
        Ok(Attr { size: op.changes.size.unwrap_or(0), ..ATTR })
    }

    async fn readlink(&self, _: &Context, _: op::Readlink, out: &mut Sink<'_>) -> Result<()> {
        out.put(b"target");
        Ok(())
    }

    async fn symlink(&self, _: &Context, _: op::Symlink<'_>) -> Result<Entry> {
        Ok(ENTRY)
    }

    async fn mknod(&self, _: &Context, _: op::Mknod<'_>) -> Result<Entry> {
        Ok(ENTRY)
    }

    async fn mkdir(&self, _: &Context, _: op::Mkdir<'_>) -> Result<Entry> {
        Ok(ENTRY)
    }

    async fn unlink(&self, _: &Context, _: op::Unlink<'_>) -> Result<()> {
        Ok(())
    }

    async fn rmdir(&self, _: &Context, _: op::Rmdir<'_>) -> Result<()> {
        Ok(())
    }

    async fn rename(&self, _: &Context, _: op::Rename<'_>) -> Result<()> {
        Ok(())
    }

    async fn link(&self, _: &Context, _: op::Link<'_>) -> Result<Entry> {
        Ok(ENTRY)
    }

    async fn open(&self, _: &Context, _: op::Open) -> Result<Opened> {
        Ok(OPENED)
    }

    async fn read(&self, _: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        let mut left = op.size as usize;
        while left > 0 {
            match out.put(&ZEROS[..left.min(ZEROS.len())]) {
                0 => break,
                n => left -= n,
            }
        }
        Ok(())
    }

    async fn write(&self, _: &Context, op: op::Write<'_>) -> Result<u32> {
        Ok(op.data.len() as u32)
    }

    async fn fsync(&self, _: &Context, _: op::Fsync) -> Result<()> {
        Ok(())
    }

    async fn flush(&self, _: &Context, _: op::Flush) -> Result<()> {
        Ok(())
    }

    async fn getxattr(&self, _: &Context, _: op::Getxattr<'_>, out: &mut XattrSink<'_>) -> Result<()> {
        out.put(b"value");
        Ok(())
    }

    async fn listxattr(&self, _: &Context, _: op::Listxattr, out: &mut XattrSink<'_>) -> Result<()> {
        out.put(b"user.x\0");
        Ok(())
    }

    async fn access(&self, _: &Context, _: op::Access) -> Result<()> {
        Ok(())
    }

    async fn create(&self, _: &Context, _: op::Create<'_>) -> Result<(Entry, Opened)> {
        Ok((ENTRY, OPENED))
    }

    async fn opendir(&self, _: &Context, _: op::Opendir) -> Result<Opened> {
        Ok(OPENED)
    }

    async fn readdir(&self, _: &Context, op: op::Readdir, out: &mut DirSink<'_>) -> Result<()> {
        let mut next = op.cookie.wrapping_add(1);
        while out.put(next, Some(FileType::Regular), b"file", next) {
            next = next.wrapping_add(1);
        }
        Ok(())
    }

    async fn readdirplus(&self, _: &Context, op: op::Readdirplus, out: &mut DirPlusSink<'_>) -> Result<()> {
        let mut next = op.cookie.wrapping_add(1);
        while out.put(&ENTRY, b"file", next) {
            next = next.wrapping_add(1);
        }
        Ok(())
    }

    async fn lseek(&self, _: &Context, op: op::Lseek) -> Result<u64> {
        Ok(op.offset)
    }
}
