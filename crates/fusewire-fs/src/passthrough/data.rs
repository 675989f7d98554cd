//! Content.

use super::{
    Passthrough, attr,
    fds::Fd,
    handle::{Content, File, Open},
    stateless::Use,
    sys,
};
use fusewire::{
    Context, IoctlResult, NodeId,
    op::{CopyFileRange, Fallocate, Ioctl, Lseek, Read, Write},
    reply::Sink,
};
use rustix::{
    fs::{FallocateFlags, OFlags, SeekFrom},
    io::{Errno, Result},
};
use std::{
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
};

/// Direct I/O is aligned to this at the least.
const SECTOR: u64 = 512;
/// How much is copied before the answer; a caller that wants more asks again. Without reflinks this is read and written,
/// and a thread is busy for as long.
const COPY: u64 = 64 << 20;

const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

/// `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS`, `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`, `FS_IOC_GETVERSION`.
const COMMANDS: [u32; 5] = [0x8008_6601, 0x4008_6602, 0x801c_581f, 0x401c_5820, 0x8008_7601];

/// Those that change something.
const CHANGES: [u32; 2] = [0x4008_6602, 0x401c_5820];

const SUID: u32 = 0o4000;

fn is_mark(mode: u16) -> bool {
    mode & 0o2010 == 0o2000
}

impl File {
    /// Has it a mark to keep? Asked of the lower file only after permissions were changed anywhere.
    fn is_marked(&self, fd: &Fd, mode_changes: u64) -> Result<bool> {
        let now = (mode_changes + 1) << 1;
        let known = self.marked.load(Ordering::Relaxed);
        if known & !1 == now {
            return Ok(known & 1 == 1);
        }
        let marked = is_mark(attr::stat(fd)?.stx_mode);
        self.marked.store(now | u64::from(marked), Ordering::Relaxed);
        Ok(marked)
    }
}

impl Open {
    fn as_file(&self) -> Result<&File> {
        match &self.content {
            Content::File(file) => Ok(file),
            Content::Directory(_) => Err(Errno::ISDIR),
        }
    }
}

/// Would `O_DIRECT` have accepted this, had the memory been aligned? If so the fault is ours.
fn aligned(offset: u64, len: usize) -> bool {
    offset.is_multiple_of(SECTOR) && (len as u64).is_multiple_of(SECTOR)
}

/// Data written back from the cache has a place of its own, also if the file it happens to be written through
/// is one that appends; and a client may have switched appending off since it opened the file.
fn appends(op: &Write<'_>) -> bool {
    OFlags::from_bits_retain(op.flags).contains(OFlags::APPEND) && !op.cached
}

/// Root keeps set-id bits; of requests that do not say so themselves.
fn may_keep_set_ids(cx: &Context) -> bool {
    cx.caller().is_none_or(|caller| caller.uid == 0)
}

impl Passthrough {
    fn file(&self, node: NodeId, handle: fusewire::Handle, how: Use) -> Result<Arc<Open>> {
        let open = self.open_node(node, handle, how)?;
        open.as_file()?;
        Ok(open)
    }

    pub(super) async fn read_file(&self, op: Read, out: &mut Sink<'_>) -> Result<()> {
        let open = self.open_node(op.node, op.handle, Use::Read)?;
        let file = open.as_file()?;
        self.dax.using(&open.path());
        match out.put_file(open.fd(&self.nodes)?, op.offset).await {
            Err(Errno::INVAL) if file.direct && aligned(op.offset, op.size as usize) => {
                out.put_file(self.plain(&open, file)?, op.offset).await?;
            }
            read => {
                read?;
            }
        }
        Ok(())
    }

    pub(super) async fn write_file(&self, cx: &Context, op: Write<'_>) -> Result<u32> {
        let how = if appends(&op) { Use::Append } else { Use::Write };
        let open = self.open_node(op.node, op.handle, how)?;
        let file = open.as_file()?;
        let _change = self.dax.changing(&open);
        let keeps_all = !op.kill_suid_gid;
        self.as_writing(cx, (&open, file), keeps_all, self.write_through(op, &open, file)).await
    }

    /// What takes set-id bits away as writing does, unless the caller may keep them all; whoever may keep a mark keeps that.
    async fn as_writing<R>(
        &self,
        cx: &Context,
        (open, file): (&Open, &File),
        keeps_all: bool,
        act: impl Future<Output = Result<R>>,
    ) -> Result<R> {
        let changes = self.mode_changes.load(Ordering::Relaxed);
        let mark = match !keeps_all && file.is_marked(open.fd(&self.nodes)?, changes)? {
            true => self.mark_to_keep(cx, &open.path())?,
            false => None,
        };
        self.creds.keep_set_ids(keeps_all)?;
        let done = act.await?;
        if mark.is_some() {
            self.set_mark(&open.path(), mark)?;
        }
        Ok(done)
    }

    /// A set-group-id bit without the group's right to execute is a mark (once for mandatory locking), which a member of the
    /// group may keep when writing. The daemon is not of the group, so the mark gets lost; this is the mode to set
    /// afterwards.
    pub(super) fn mark_to_keep(&self, cx: &Context, fd: &impl AsFd) -> Result<Option<u32>> {
        let stat = attr::stat(fd)?;
        let keep =
            is_mark(stat.stx_mode) && self.creds.caller_is_in(cx, self.options.groups.guest(stat.stx_gid));
        Ok(keep.then_some(u32::from(stat.stx_mode) & 0o7777 & !SUID))
    }

    /// Put a mark back that [`mark_to_keep`](Self::mark_to_keep) has found.
    pub(super) fn set_mark(&self, fd: &impl AsFd, mark: Option<u32>) -> Result<()> {
        let Some(mode) = mark else { return Ok(()) };
        self.creds.keep_set_ids(true)?;
        attr::change_mode(self, fd, mode)
    }

    async fn write_through(&self, op: Write<'_>, open: &Open, file: &File) -> Result<u32> {
        if file.append && !appends(&op) {
            return self.write_plain(op, open, file).await;
        }
        match op.data.to_file(open.fd(&self.nodes)?, op.offset).await {
            Err(Errno::INVAL) if file.direct && (op.cached || aligned(op.offset, op.data.len())) => {
                self.write_plain(op, open, file).await
            }
            written => Ok(written? as u32),
        }
    }

    async fn write_plain(&self, op: Write<'_>, open: &Open, file: &File) -> Result<u32> {
        Ok(op.data.to_file(self.plain(open, file)?, op.offset).await? as u32)
    }

    pub(super) async fn allocate(&self, cx: &Context, op: &Fallocate) -> Result<()> {
        let open = self.file(op.node, op.handle, Use::Write)?;
        let mode = FallocateFlags::from_bits_retain(op.mode);
        let _change = self.dax.changing(&open);
        let fd = open.fd(&self.nodes)?;
        let allocate = async { rustix::fs::fallocate(fd, mode, op.offset, op.length) };
        self.as_writing(cx, (&open, open.as_file()?), may_keep_set_ids(cx), allocate).await
    }

    pub(super) fn seek(&self, op: &Lseek) -> Result<u64> {
        if self.gathers() {
            // Linux (7.2) asks without having written what it has gathered, which would be holes here, and lost to whoever copies the
            // file by them. After this it takes all of a file for data.
            return Err(Errno::NOSYS);
        }
        let open = self.file(op.node, op.handle, Use::Read)?;
        let place = match op.whence {
            SEEK_DATA => SeekFrom::Data(op.offset),
            SEEK_HOLE => SeekFrom::Hole(op.offset),
            _ => return Err(Errno::INVAL),
        };
        // Moves the lower file's position, which nothing here goes by.
        rustix::fs::seek(open.fd(&self.nodes)?, place)
    }

    pub(super) async fn copy(&self, cx: &Context, op: &CopyFileRange) -> Result<u64> {
        let from = self.file(op.node, op.handle, Use::Read)?;
        let to = self.file(op.to_node, op.to_handle, Use::Write)?;
        if op.flags != 0 {
            return Err(Errno::INVAL);
        }
        if self.dax.has(&to.path()) {
            // Linux (7.3) frees what it has mapped of the target without waiting for those who use it, and warns of that. It copies by
            // itself then.
            return Err(Errno::OPNOTSUPP);
        }
        self.dax.using(&from.path());
        let _change = self.dax.changing(&to);
        let (mut offset, mut to_offset) = (op.offset, op.to_offset);
        let length = op.length.min(COPY) as usize;
        let file = to.as_file()?;
        // The lower filesystem refuses to copy into a file that appends; so did the kernel, if the client's does.
        let to_fd = if file.append { self.plain(&to, file)? } else { to.fd(&self.nodes)? };
        let from_fd = from.fd(&self.nodes)?;
        let copy = async {
            rustix::fs::copy_file_range(from_fd, Some(&mut offset), to_fd, Some(&mut to_offset), length)
        };
        Ok(self.as_writing(cx, (&to, file), may_keep_set_ids(cx), copy).await? as u64)
    }

    pub(super) fn control(&self, op: &Ioctl<'_>, out: &mut Sink<'_>) -> Result<IoctlResult> {
        if !COMMANDS.contains(&op.command) {
            return Err(Errno::NOTTY);
        }
        let open = self.open_node(op.node, op.handle, self.use_of(op.node))?;
        let mut argument = [0; sys::IOCTL_ARGUMENT];
        let given = op.input.len().min(argument.len());
        argument[..given].copy_from_slice(&op.input[..given]);
        let result = sys::ioctl(open.fd(&self.nodes)?, op.command, &mut argument)?;
        out.put(&argument[..(op.out_size as usize).min(argument.len())]);
        if CHANGES.contains(&op.command)
            && let Some(notifier) = self.notifier.get()
        {
            // The time of the change; of this the kernel's client does not think. Where it cannot be told, it learns of it later.
            _ = notifier.inval_inode(op.node, -1, 0);
        }
        Ok(IoctlResult(result))
    }
}
