//! Operation in, answer out: the whole protocol in a few `match`es, one per family so that each stays readable.

use super::{
    decode::{Forgets, Refused, read},
    encode,
    message::Message,
    op::*,
};
use crate::{
    context::Context,
    fs::FileSystem,
    reply::{DirPlusSink, DirSink, Sink, XattrSink},
    types::*,
};
use fusewire_abi::{self as abi, Opcode};
use zerocopy::{Immutable, IntoBytes};

/// Why there is an error: the errno of the filesystem, or 0 for a request that no filesystem has seen, because it is not what
/// the protocol says. As wide as a length, so that both travel in the same register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure(usize);

impl Failure {
    /// Of the filesystem.
    #[inline(always)]
    pub fn errno(self) -> Option<Errno> {
        (self.0 != 0).then(|| Errno::from_raw_os_error(self.0 as i32))
    }
}

impl From<Errno> for Failure {
    #[inline(always)]
    fn from(errno: Errno) -> Self {
        Self(errno.raw_os_error() as usize)
    }
}

impl From<Refused> for Failure {
    #[inline(always)]
    fn from(_: Refused) -> Self {
        Self(0)
    }
}

/// The answer's length in its area.
pub(crate) type Served = core::result::Result<usize, Failure>;

/// Count what of the data was not copied.
#[inline]
fn count_moved(cx: &Context, m: &Message<'_>) {
    if let Some(pages) = &m.pages {
        cx.counters().count_moved(pages.moved());
    }
}

/// Serve one request of the operation `opcode`; requests that have no answer return 0 and must not be answered.
///
/// Each arm reads its own operation from the message and hands it on: there is no step at which it is any operation.
pub(crate) async fn dispatch<F: FileSystem>(
    (fs, cx): (&F, &Context),
    opcode: Opcode,
    m: &Message<'_>,
    area: &mut [u8],
) -> Served {
    match opcode {
        Opcode::Read => {
            let op: Read = read(m)?;
            let mut sink = Sink::new(area, op.size as usize).into_pages(m.pages);
            fs.read(cx, op, &mut sink).await?;
            cx.counters().count_read(sink.len());
            count_moved(cx, m);
            Ok(sink.len())
        }
        Opcode::Write => {
            let size = fs.write(cx, read(m)?).await?;
            cx.counters().count_written(size);
            count_moved(cx, m);
            put(area, &abi::WriteOut { size, padding: 0 })
        }
        Opcode::Lookup => answer(area, fs.lookup(cx, read(m)?).await, |entry| {
            cx.counters().count_entry(entry);
            encode::entry(entry)
        }),
        Opcode::Getattr => {
            let op: Getattr = read(m)?;
            answer(area, fs.getattr(cx, op).await, |attr| encode::attr(op.node, attr))
        }
        Opcode::Setattr => {
            let op: Setattr = read(m)?;
            let node = op.node;
            answer(area, fs.setattr(cx, op).await, |attr| encode::attr(node, attr))
        }
        Opcode::Open => opened((cx, area), fs.open(cx, read(m)?).await),
        Opcode::Release => empty(fs.release(cx, read(m)?).await),
        Opcode::Flush => empty(fs.flush(cx, read(m)?).await),
        Opcode::Create => created((cx, area), fs.create(cx, read(m)?).await),
        Opcode::Forget => {
            fs.forget(read(m)?);
            Ok(0)
        }
        Opcode::BatchForget => {
            fs.batch_forget(read::<Forgets<'_>>(m)?.iter());
            Ok(0)
        }
        Opcode::Symlink
        | Opcode::Mknod
        | Opcode::Mkdir
        | Opcode::Link
        | Opcode::Unlink
        | Opcode::Rmdir
        | Opcode::Rename
        | Opcode::Rename2
        | Opcode::Tmpfile
        | Opcode::Readlink
        | Opcode::Opendir
        | Opcode::Releasedir
        | Opcode::Fsyncdir
        | Opcode::Readdir
        | Opcode::Readdirplus => namespace((fs, cx), opcode, m, area).await,
        _ => others((fs, cx), opcode, m, area).await,
    }
}

/// Names and directories.
async fn namespace<F: FileSystem>(
    (fs, cx): (&F, &Context),
    opcode: Opcode,
    m: &Message<'_>,
    area: &mut [u8],
) -> Served {
    match opcode {
        Opcode::Symlink => answer(area, fs.symlink(cx, read(m)?).await, encode::entry),
        Opcode::Mknod => answer(area, fs.mknod(cx, read(m)?).await, encode::entry),
        Opcode::Mkdir => answer(area, fs.mkdir(cx, read(m)?).await, encode::entry),
        Opcode::Link => answer(area, fs.link(cx, read(m)?).await, encode::entry),
        Opcode::Unlink => empty(fs.unlink(cx, read(m)?).await),
        Opcode::Rmdir => empty(fs.rmdir(cx, read(m)?).await),
        Opcode::Rename | Opcode::Rename2 => empty(fs.rename(cx, read(m)?).await),
        Opcode::Tmpfile => created((cx, area), fs.tmpfile(cx, read(m)?).await),
        Opcode::Readlink => {
            let mut sink = Sink::new(area, crate::limits::TARGET_MAX);
            fs.readlink(cx, read(m)?, &mut sink).await?;
            Ok(sink.len())
        }
        Opcode::Opendir => opened((cx, area), fs.opendir(cx, read(m)?).await),
        Opcode::Releasedir => empty(fs.releasedir(cx, read(m)?).await),
        Opcode::Fsyncdir => empty(fs.fsyncdir(cx, read(m)?).await),
        Opcode::Readdir => {
            let op: Readdir = read(m)?;
            let mut sink = DirSink::new(area, op.size as usize);
            fs.readdir(cx, op, &mut sink).await?;
            Ok(sink.len())
        }
        Opcode::Readdirplus => {
            let op: Readdirplus = read(m)?;
            let mut sink = DirPlusSink::new(area, op.size as usize);
            fs.readdirplus(cx, op, &mut sink).await?;
            Ok(sink.len())
        }
        _ => Err(Refused.into()),
    }
}

/// Attributes, locks, space, and what few filesystems have.
async fn others<F: FileSystem>(
    (fs, cx): (&F, &Context),
    opcode: Opcode,
    m: &Message<'_>,
    area: &mut [u8],
) -> Served {
    match opcode {
        Opcode::Statx => {
            let op: Statx = read(m)?;
            let (attr, extended) = fs.statx(cx, op).await?;
            put(area, &encode::statx(op.node, &attr, &extended))
        }
        Opcode::Statfs => put(area, &encode::statfs(&fs.statfs(cx, read(m)?).await?)),
        Opcode::Access => empty(fs.access(cx, read(m)?).await),
        Opcode::Setxattr => empty(fs.setxattr(cx, read(m)?).await),
        Opcode::Removexattr => empty(fs.removexattr(cx, read(m)?).await),
        Opcode::Getxattr => {
            let op: Getxattr<'_> = read(m)?;
            let mut sink = XattrSink::new(area, op.size);
            fs.getxattr(cx, op, &mut sink).await?;
            let (len, fits) = (sink.len(), sink.fits());
            put_xattr(area, op.size, len, fits)
        }
        Opcode::Listxattr => {
            let op: Listxattr = read(m)?;
            let mut sink = XattrSink::new(area, op.size);
            fs.listxattr(cx, op, &mut sink).await?;
            let (len, fits) = (sink.len(), sink.fits());
            put_xattr(area, op.size, len, fits)
        }
        Opcode::Fsync => empty(fs.fsync(cx, read(m)?).await),
        Opcode::Getlk => put(area, &encode::lock(&fs.getlk(cx, read(m)?).await?)),
        Opcode::Setlk | Opcode::Setlkw => empty(fs.setlk(cx, read(m)?).await),
        Opcode::Bmap => put(area, &abi::BmapOut { block: fs.bmap(cx, read(m)?).await? }),
        Opcode::Ioctl => {
            let op: Ioctl<'_> = read(m)?;
            let (head, data) = area.split_at_mut_checked(size_of::<abi::IoctlOut>()).ok_or(Errno::IO)?;
            let mut sink = Sink::new(data, op.out_size as usize);
            let IoctlResult(result) = fs.ioctl(cx, op, &mut sink).await?;
            Ok(put(head, &abi::IoctlOut { result, ..Default::default() })? + sink.len())
        }
        Opcode::Poll => put(area, &abi::PollOut { revents: fs.poll(cx, read(m)?).await?, padding: 0 }),
        Opcode::Fallocate => empty(fs.fallocate(cx, read(m)?).await),
        Opcode::Lseek => put(area, &abi::LseekOut { offset: fs.lseek(cx, read(m)?).await? }),
        Opcode::CopyFileRange => {
            let copied = fs.copy_file_range(cx, read(m)?).await?;
            let size = u32::try_from(copied).map_err(|_| Errno::OVERFLOW)?;
            put(area, &abi::WriteOut { size, padding: 0 })
        }
        Opcode::CopyFileRange64 => {
            let bytes_copied = fs.copy_file_range(cx, read(m)?).await?;
            put(area, &abi::CopyFileRangeOut { bytes_copied })
        }
        Opcode::Syncfs => empty(fs.syncfs(cx, read(m)?).await),
        Opcode::Setupmapping => empty(fs.setupmapping(cx, read(m)?).await),
        Opcode::Removemapping => empty(fs.removemapping(cx, read(m)?).await),
        Opcode::NotifyReply => {
            fs.retrieved(cx, read(m)?).await;
            Ok(0)
        }
        Opcode::Destroy => {
            read::<()>(m)?;
            Ok(0)
        }
        _ => Err(Refused.into()),
    }
}

/// Write `value` at the start of `area`; returns its size. `IO` where the area is too small, which no channel's is.
#[inline(always)]
fn put<T: IntoBytes + Immutable>(area: &mut [u8], value: &T) -> Served {
    let bytes = value.as_bytes();
    area.get_mut(..bytes.len()).ok_or(Errno::IO)?.copy_from_slice(bytes);
    Ok(bytes.len())
}

/// A reply as the wire has it, or its error. The reply is looked at where it stands, which spares a copy.
#[inline(always)]
fn answer<T, W: IntoBytes + Immutable>(
    area: &mut [u8],
    reply: Result<T>,
    encode: impl FnOnce(&T) -> W,
) -> Served {
    match &reply {
        Ok(reply) => put(area, &encode(reply)),
        Err(errno) => Err(Failure::from(*errno)),
    }
}

/// No reply but that it is done.
#[inline(always)]
fn empty(reply: Result<()>) -> Served {
    reply.map(|()| 0).map_err(Failure::from)
}

#[inline(always)]
fn opened((cx, area): (&Context, &mut [u8]), reply: Result<Opened>) -> Served {
    answer(area, reply, |opened| {
        cx.counters().count_opened(opened);
        encode::opened(opened)
    })
}

#[inline(always)]
fn created((cx, area): (&Context, &mut [u8]), reply: Result<(Entry, Opened)>) -> Served {
    answer(area, reply, |(entry, opened)| {
        cx.counters().count_opened(opened);
        encode::created(entry, opened)
    })
}

fn put_xattr(area: &mut [u8], asked: u32, len: usize, fits: bool) -> Served {
    if asked == 0 {
        let size = u32::try_from(len).map_err(|_| Errno::RANGE)?;
        return put(area, &abi::GetxattrOut { size, padding: 0 });
    }
    if fits { Ok(len) } else { Err(Errno::RANGE.into()) }
}
