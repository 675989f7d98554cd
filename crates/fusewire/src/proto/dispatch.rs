//! Operation in, answer out: the whole protocol in a few `match`es, one per family so that each stays readable.

use super::{
    decode::Op,
    encode::{self, put},
};
use crate::{
    context::Context,
    fs::FileSystem,
    pages::Pages,
    reply::{DirPlusSink, DirSink, Sink, XattrSink},
    types::*,
};
use fusewire_abi as abi;
use zerocopy::{Immutable, IntoBytes};

/// Serve one operation, whose data may have to go into a client's pages. Returns the answer's length in `area`, or its errno; operations that have no answer
/// return 0 and must not be answered.
pub(crate) async fn dispatch<F: FileSystem>(
    fs: &F,
    cx: &Context,
    (op, pages): (&Op<'_>, Option<Pages<'_>>),
    area: &mut [u8],
) -> Result<usize> {
    match *op {
        Op::Read(op) => {
            let mut sink = Sink::new(area, op.size as usize).into_pages(pages);
            fs.read(cx, op, &mut sink).await?;
            cx.counters().count_read(sink.len());
            Ok(sink.len())
        }
        Op::Write(op) => {
            let size = fs.write(cx, op).await?;
            cx.counters().count_written(size);
            put(area, &abi::WriteOut { size, padding: 0 })
        }
        Op::Lookup(op) => answer(area, fs.lookup(cx, op).await, |entry| {
            cx.counters().count_entry(entry);
            encode::entry(entry)
        }),
        Op::Getattr(op) => answer(area, fs.getattr(cx, op).await, |attr| encode::attr(op.node, attr)),
        Op::Open(op) => answer(area, fs.open(cx, op).await, |opened| {
            cx.counters().count_opened(opened);
            encode::opened(opened)
        }),
        Op::Release(op) => fs.release(cx, op).await.map(|()| 0),
        Op::Flush(op) => fs.flush(cx, op).await.map(|()| 0),
        Op::Forget(op) => {
            fs.forget(op);
            Ok(0)
        }
        Op::BatchForget(entries) => {
            fs.batch_forget(entries.iter());
            Ok(0)
        }
        Op::Interrupt(_) | Op::Destroy => Ok(0),
        Op::Symlink(_)
        | Op::Mknod(_)
        | Op::Mkdir(_)
        | Op::Link(_)
        | Op::Unlink(_)
        | Op::Rmdir(_)
        | Op::Rename(_)
        | Op::Create(_)
        | Op::Tmpfile(_)
        | Op::Opendir(_)
        | Op::Releasedir(_)
        | Op::Fsyncdir(_)
        | Op::Readdir(_)
        | Op::Readdirplus(_) => namespace(fs, cx, op, area).await,
        _ => others(fs, cx, op, area).await,
    }
}

/// Names and directories.
async fn namespace<F: FileSystem>(fs: &F, cx: &Context, op: &Op<'_>, area: &mut [u8]) -> Result<usize> {
    match *op {
        Op::Symlink(op) => answer(area, fs.symlink(cx, op).await, encode::entry),
        Op::Mknod(op) => answer(area, fs.mknod(cx, op).await, encode::entry),
        Op::Mkdir(op) => answer(area, fs.mkdir(cx, op).await, encode::entry),
        Op::Link(op) => answer(area, fs.link(cx, op).await, encode::entry),
        Op::Unlink(op) => fs.unlink(cx, op).await.map(|()| 0),
        Op::Rmdir(op) => fs.rmdir(cx, op).await.map(|()| 0),
        Op::Rename(op) => fs.rename(cx, op).await.map(|()| 0),
        Op::Create(op) => put_created((cx, area), &fs.create(cx, op).await),
        Op::Tmpfile(op) => put_created((cx, area), &fs.tmpfile(cx, op).await),
        Op::Opendir(op) => answer(area, fs.opendir(cx, op).await, |opened| {
            cx.counters().count_opened(opened);
            encode::opened(opened)
        }),
        Op::Releasedir(op) => fs.releasedir(cx, op).await.map(|()| 0),
        Op::Fsyncdir(op) => fs.fsyncdir(cx, op).await.map(|()| 0),
        Op::Readdir(op) => {
            let mut sink = DirSink::new(area, op.size as usize);
            fs.readdir(cx, op, &mut sink).await?;
            Ok(sink.len())
        }
        Op::Readdirplus(op) => {
            let mut sink = DirPlusSink::new(area, op.size as usize);
            fs.readdirplus(cx, op, &mut sink).await?;
            Ok(sink.len())
        }
        _ => Err(Errno::NOSYS),
    }
}

/// A reply as the wire has it, or its error. The reply is looked at where it stands, which spares a copy.
#[inline(always)]
fn answer<T, W: IntoBytes + Immutable>(
    area: &mut [u8],
    reply: Result<T>,
    encode: impl FnOnce(&T) -> W,
) -> Result<usize> {
    match &reply {
        Ok(reply) => put(area, &encode(reply)),
        Err(errno) => Err(*errno),
    }
}

fn put_created((cx, area): (&Context, &mut [u8]), created: &Result<(Entry, Opened)>) -> Result<usize> {
    let (entry, opened) = created.as_ref().map_err(|errno| *errno)?;
    cx.counters().count_opened(opened);
    let n = put(area, &encode::entry(entry))?;
    Ok(n + put(&mut area[n..], &encode::opened(opened))?)
}

/// Attributes, locks, space, and what few filesystems have.
async fn others<F: FileSystem>(fs: &F, cx: &Context, op: &Op<'_>, area: &mut [u8]) -> Result<usize> {
    match *op {
        Op::Setattr(op) => answer(area, fs.setattr(cx, op).await, |attr| encode::attr(op.node, attr)),
        Op::Statx(op) => {
            let (attr, extended) = fs.statx(cx, op).await?;
            put(area, &encode::statx(op.node, &attr, &extended))
        }
        Op::Readlink(op) => {
            let mut sink = Sink::new(area, crate::limits::TARGET_MAX);
            fs.readlink(cx, op, &mut sink).await?;
            Ok(sink.len())
        }
        Op::Statfs(op) => put(area, &encode::statfs(&fs.statfs(cx, op).await?)),
        Op::Access(op) => fs.access(cx, op).await.map(|()| 0),
        Op::Setxattr(op) => fs.setxattr(cx, op).await.map(|()| 0),
        Op::Removexattr(op) => fs.removexattr(cx, op).await.map(|()| 0),
        Op::Getxattr(op) => {
            let mut sink = XattrSink::new(area, op.size);
            fs.getxattr(cx, op, &mut sink).await?;
            let (len, fits) = (sink.len(), sink.fits());
            put_xattr(area, op.size, len, fits)
        }
        Op::Listxattr(op) => {
            let mut sink = XattrSink::new(area, op.size);
            fs.listxattr(cx, op, &mut sink).await?;
            let (len, fits) = (sink.len(), sink.fits());
            put_xattr(area, op.size, len, fits)
        }
        Op::Fsync(op) => fs.fsync(cx, op).await.map(|()| 0),
        Op::Getlk(op) => put(area, &encode::lock(&fs.getlk(cx, op).await?)),
        Op::Setlk(op) => fs.setlk(cx, op).await.map(|()| 0),
        Op::Bmap(op) => put(area, &abi::BmapOut { block: fs.bmap(cx, op).await? }),
        Op::Ioctl(op) => {
            let (head, data) = area.split_at_mut_checked(size_of::<abi::IoctlOut>()).ok_or(Errno::IO)?;
            let mut sink = Sink::new(data, op.out_size as usize);
            let IoctlResult(result) = fs.ioctl(cx, op, &mut sink).await?;
            Ok(put(head, &abi::IoctlOut { result, ..Default::default() })? + sink.len())
        }
        Op::Poll(op) => put(area, &abi::PollOut { revents: fs.poll(cx, op).await?, padding: 0 }),
        Op::Fallocate(op) => fs.fallocate(cx, op).await.map(|()| 0),
        Op::Lseek(op) => put(area, &abi::LseekOut { offset: fs.lseek(cx, op).await? }),
        Op::CopyFileRange(op) => {
            let size = u32::try_from(fs.copy_file_range(cx, op).await?).map_err(|_| Errno::OVERFLOW)?;
            put(area, &abi::WriteOut { size, padding: 0 })
        }
        Op::CopyFileRange64(op) => {
            let bytes_copied = fs.copy_file_range(cx, op).await?;
            put(area, &abi::CopyFileRangeOut { bytes_copied })
        }
        Op::Syncfs(op) => fs.syncfs(cx, op).await.map(|()| 0),
        Op::Setupmapping(op) => fs.setupmapping(cx, op).await.map(|()| 0),
        Op::Removemapping(op) => fs.removemapping(cx, op).await.map(|()| 0),
        Op::Retrieved(op) => {
            fs.retrieved(cx, op).await;
            Ok(0)
        }
        _ => Err(Errno::NOSYS),
    }
}

fn put_xattr(area: &mut [u8], asked: u32, len: usize, fits: bool) -> Result<usize> {
    if asked == 0 {
        let size = u32::try_from(len).map_err(|_| Errno::RANGE)?;
        return put(area, &abi::GetxattrOut { size, padding: 0 });
    }
    if fits { Ok(len) } else { Err(Errno::RANGE) }
}
