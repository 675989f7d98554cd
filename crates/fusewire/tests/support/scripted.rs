//! A filesystem that answers every operation with something distinct and remembers what it was asked.

use fusewire::{reply::*, *};
use std::{sync::Mutex, time::Duration};

pub const ATTR: Attr = Attr {
    ino: Some(0x1111),
    perm: 0o4751,
    nlink: 3,
    uid: 1001,
    gid: 1002,
    rdev: 0x803,
    size: 0x1_2345_6789,
    blocks: 77,
    blksize: 4096,
    atime: Timestamp { seconds: 1, nanos: 2 },
    mtime: Timestamp { seconds: -3, nanos: 4 },
    ctime: Timestamp { seconds: 5, nanos: 999_999_999 },
    flags: AttrFlags::DAX,
    ttl: Duration::from_millis(1500),
    ..Attr::file(0)
};

pub const ENTRY: Entry =
    Entry::new(NodeId::new(0xabc), ATTR).with_ttl(Duration::from_millis(2250)).with_generation(Generation(9));

pub const OPENED: Opened = Opened::new(Handle(0xf00d)).with_flags(FopenFlags::KEEP_CACHE);

/// Names that have another answer than [`ENTRY`].
const MISSING: &[u8] = b"missing";
const ABSENT: &[u8] = b"absent";

#[derive(Default)]
pub struct Scripted {
    asked: Mutex<Vec<String>>,
}

impl Scripted {
    fn log(&self, op: &dyn std::fmt::Debug) {
        self.asked.lock().unwrap().push(format!("{op:?}"));
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn entry(&self, op: &dyn std::fmt::Debug, name: Name<'_>) -> Result<Entry> {
        self.log(op);
        match name.as_bytes() {
            MISSING => Err(Errno::NOENT),
            ABSENT => Ok(Entry::absent(Duration::from_millis(3250))),
            _ => Ok(ENTRY),
        }
    }
}

/// Operations that are answered by a value.
macro_rules! answers { ($($method:ident($o:ident: $op:ty) -> $reply:ty = $answer:expr;)*) => {
    $(async fn $method(&self, _: &Context, $o: $op) -> Result<$reply> {
        self.log(&$o);
        $answer
    })*
}; }

/// Operations that make or find an entry of a name.
macro_rules! entries { ($($method:ident($op:ty);)*) => {
    $(async fn $method(&self, _: &Context, op: $op) -> Result<Entry> {
        self.entry(&op, op.name)
    })*
}; }

impl FileSystem for Scripted {
    fn init(&self, config: &mut Config) -> Result<()> {
        let all = InitFlags::SECURITY_CTX
            | InitFlags::CREATE_SUPP_GROUP
            | InitFlags::POSIX_LOCKS
            | InitFlags::FLOCK_LOCKS
            | InitFlags::HANDLE_KILLPRIV_V2
            | InitFlags::DO_READDIRPLUS
            | InitFlags::ATOMIC_O_TRUNC;
        config.want(all & config.offered());
        Ok(())
    }

    fn forget(&self, op: op::Forget) {
        self.log(&op);
    }

    entries! {
        lookup(op::Lookup<'_>);
        symlink(op::Symlink<'_>);
        mknod(op::Mknod<'_>);
        mkdir(op::Mkdir<'_>);
    }

    answers! {
        getattr(op: op::Getattr) -> Attr = Ok(ATTR);
        statx(op: op::Statx) -> (Attr, Extended) = Ok((ATTR, Extended {
            btime: Some(Timestamp { seconds: -7, nanos: 8 }),
            attributes: 0x10,
            attributes_mask: 0x30,
        }));
        setattr(op: op::Setattr) -> Attr = Ok(ATTR);
        unlink(op: op::Unlink<'_>) -> () = Ok(());
        rmdir(op: op::Rmdir<'_>) -> () = Err(Errno::NOTEMPTY);
        rename(op: op::Rename<'_>) -> () = Ok(());
        link(op: op::Link<'_>) -> Entry = Ok(ENTRY);
        open(op: op::Open) -> Opened = Ok(OPENED);
        write(op: op::Write<'_>) -> u32 = Ok(op.data.len() as u32);
        statfs(op: op::Statfs) -> StatFs = Ok(StatFs {
            blocks: 1, bfree: 2, bavail: 3, files: 4, ffree: 5, bsize: 6, namelen: 7, frsize: 8,
        });
        release(op: op::Release) -> () = Ok(());
        fsync(op: op::Fsync) -> () = Ok(());
        flush(op: op::Flush) -> () = Ok(());
        setxattr(op: op::Setxattr<'_>) -> () = Ok(());
        removexattr(op: op::Removexattr<'_>) -> () = Err(Errno::NODATA);
        access(op: op::Access) -> () = Err(Errno::ACCESS);
        create(op: op::Create<'_>) -> (Entry, Opened) = Ok((ENTRY, OPENED));
        tmpfile(op: op::Tmpfile<'_>) -> (Entry, Opened) = Ok((ENTRY, OPENED));
        opendir(op: op::Opendir) -> Opened = Ok(OPENED);
        releasedir(op: op::Releasedir) -> () = Ok(());
        fsyncdir(op: op::Fsyncdir) -> () = Ok(());
        getlk(op: op::Getlk) -> FileLock = Ok(FileLock { start: 1, end: 2, kind: LockKind::Write, pid: 3 });
        setlk(op: op::Setlk) -> () = if op.wait { Ok(()) } else { Err(Errno::AGAIN) };
        bmap(op: op::Bmap) -> u64 = Ok(0xb10c);
        poll(op: op::Poll) -> u32 = Ok(5);
        fallocate(op: op::Fallocate) -> () = Ok(());
        lseek(op: op::Lseek) -> u64 = Ok(0x1000);
        copy_file_range(op: op::CopyFileRange) -> u64 = Ok(op.length);
        syncfs(op: op::Syncfs) -> () = Ok(());
        setupmapping(op: op::Setupmapping) -> () = Ok(());
        removemapping(op: op::Removemapping<'_>) -> () = Ok(());
    }

    async fn readlink(&self, _: &Context, op: op::Readlink, out: &mut Sink<'_>) -> Result<()> {
        self.log(&op);
        out.put(b"../target");
        Ok(())
    }

    async fn read(&self, _: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        self.log(&op);
        out.put(b"some data");
        Ok(())
    }

    async fn getxattr(&self, _: &Context, op: op::Getxattr<'_>, out: &mut XattrSink<'_>) -> Result<()> {
        self.log(&op);
        out.put(b"value");
        Ok(())
    }

    async fn listxattr(&self, _: &Context, op: op::Listxattr, out: &mut XattrSink<'_>) -> Result<()> {
        self.log(&op);
        out.put(b"user.x\0");
        out.put(b"user.yy\0");
        Ok(())
    }

    async fn readdir(&self, _: &Context, op: op::Readdir, out: &mut DirSink<'_>) -> Result<()> {
        self.log(&op);
        let entries: [(u64, Option<FileType>, &[u8]); 3] = [
            (1, Some(FileType::Directory), b"."),
            (0xabc, Some(FileType::Regular), b"eight888"),
            (7, None, b"ninenine9"),
        ];
        for (i, (ino, kind, name)) in entries.into_iter().enumerate().skip(op.cookie as usize) {
            if !out.put(ino, kind, name, i as u64 + 1) {
                break;
            }
        }
        Ok(())
    }

    async fn readdirplus(&self, _: &Context, op: op::Readdirplus, out: &mut DirPlusSink<'_>) -> Result<()> {
        self.log(&op);
        assert!(out.put_unresolved(1, Some(FileType::Directory), b"..", 1));
        assert!(out.put(&ENTRY, b"name", 2));
        Ok(())
    }

    async fn ioctl(&self, _: &Context, op: op::Ioctl<'_>, out: &mut Sink<'_>) -> Result<IoctlResult> {
        self.log(&op);
        out.put(b"out");
        Ok(IoctlResult(-25))
    }

    async fn retrieved(&self, _: &Context, op: op::Retrieved<'_>) {
        self.log(&op);
    }
}
