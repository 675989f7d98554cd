//! The trait a filesystem implements.
//!
//! # The shape
//!
//! Every method is `(context, operation[, sink]) -> Result<reply, Errno>`. A filesystem that never waits never writes
//! `.await`. Futures are polled on the thread that owns the request's slot and never move to another, so they need not
//! be `Send`; the filesystem itself is shared by all threads and must be `Sync`.
//!
//! # Not implemented
//!
//! The defaults answer `ENOSYS`, and for many operations the kernel takes that as «never ask again on this mount»:
//! `docs/opcodes.md` says for which, and what it does instead. Do not answer `ENOSYS` for a single file.
//!
//! # Blocking
//!
//! A handler may make system calls. While one is stuck in the kernel, other requests are served by other threads; a call
//! that may take arbitrarily long (waiting for a lock, say) belongs into [`Context::blocking`].
//!
//! # Deadlocks
//!
//! Never wait, inside a handler, for something that needs this very mount: opening a path on it, or a notification
//! about the node being handled. `docs/deadlocks.md` states the rules.

use crate::{
    context::Context,
    proto::op::*,
    reply::{DirPlusSink, DirSink, Sink, XattrSink},
    session::Config,
    types::*,
};

/// A filesystem: what the kernel asks, and what is answered.
///
/// Node 1 is the root. See the [module documentation](self) for what holds for every method.
#[allow(async_fn_in_trait)] // Futures stay on the thread of their slot: no `Send` bound is wanted.
#[allow(unused_variables)]
pub trait FileSystem: Send + Sync + 'static {
    /// Say what this filesystem wants of what the kernel offers. Called once, before anything else.
    ///
    /// What is wanted and not offered (or not possible together) is refused, with the reason in the log;
    /// what was agreed on stands in [`Started::agreed`](crate::session::Started::agreed) when [`started`](Self::started) is called.
    fn init(&self, config: &mut Config) -> Result<()> {
        Ok(())
    }

    /// The session begins: these features were agreed on, and the notifier works.
    fn started(&self, session: &crate::session::Started) {}

    /// The client is gone, or has begun anew: no answer reaches it any more. Handlers may run on, stuck in system calls, and keep the session
    /// until they end. What is kept for the client alone can be given up now. May be called more than once, or not at all.
    fn abandoned(&self) {}

    /// The session is over. No handler runs any more.
    fn destroyed(&self) {}

    /// Resolve `op.name` in `op.parent`. Success raises the node's lookup count by one.
    ///
    /// `Err(NOENT)` is not remembered by the kernel; [`Entry::absent`] is, for its `ttl`.
    async fn lookup(&self, cx: &Context, op: Lookup<'_>) -> Result<Entry> {
        Err(Errno::NOSYS)
    }

    /// Lower a node's lookup count. There is no reply, so there is no error.
    fn forget(&self, op: Forget) {}

    /// Lower many lookup counts at once (memory pressure, unmount).
    fn batch_forget(&self, ops: impl Iterator<Item = Forget>) {
        ops.for_each(|op| self.forget(op));
    }

    /// Attributes of a node.
    async fn getattr(&self, cx: &Context, op: Getattr) -> Result<Attr> {
        Err(Errno::NOSYS)
    }

    /// Attributes and what `statx` adds. After `ENOSYS` the kernel uses `getattr` and shows no birth time.
    async fn statx(&self, cx: &Context, op: Statx) -> Result<(Attr, Extended)> {
        Err(Errno::NOSYS)
    }

    /// Change attributes, all or nothing; answers what they are afterwards.
    async fn setattr(&self, cx: &Context, op: Setattr) -> Result<Attr> {
        Err(Errno::NOSYS)
    }

    /// Put a symbolic link's target into `out`, without NUL.
    async fn readlink(&self, cx: &Context, op: Readlink, out: &mut Sink<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Make a symbolic link.
    async fn symlink(&self, cx: &Context, op: Symlink<'_>) -> Result<Entry> {
        Err(Errno::NOSYS)
    }

    /// Make a file, FIFO, socket or device node.
    async fn mknod(&self, cx: &Context, op: Mknod<'_>) -> Result<Entry> {
        Err(Errno::NOSYS)
    }

    /// Make a directory.
    async fn mkdir(&self, cx: &Context, op: Mkdir<'_>) -> Result<Entry> {
        Err(Errno::NOSYS)
    }

    /// Remove a name. The node stays usable until it is forgotten and its handles are released.
    async fn unlink(&self, cx: &Context, op: Unlink<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Remove an empty directory.
    async fn rmdir(&self, cx: &Context, op: Rmdir<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Move a name, replacing, exchanging or refusing as `op.flags` say. `ENOSYS` with flags set: no flags are supported.
    async fn rename(&self, cx: &Context, op: Rename<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Give a node one name more. Success raises its lookup count by one.
    async fn link(&self, cx: &Context, op: Link<'_>) -> Result<Entry> {
        Err(Errno::NOSYS)
    }

    /// Open a file. After `ENOSYS` the kernel opens every file by itself, with handle 0, and asks no more.
    async fn open(&self, cx: &Context, op: Open) -> Result<Opened> {
        Err(Errno::NOSYS)
    }

    /// Put up to `op.size` bytes from `op.offset` into `out`; fewer means end of file.
    async fn read(&self, cx: &Context, op: Read, out: &mut Sink<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Write `op.data` at `op.offset`; returns how many bytes were taken.
    async fn write(&self, cx: &Context, op: Write<'_>) -> Result<u32> {
        Err(Errno::ROFS)
    }

    /// State of the filesystem: size, free space.
    async fn statfs(&self, cx: &Context, op: Statfs) -> Result<StatFs> {
        Ok(StatFs { bsize: 4096, frsize: 4096, namelen: 255, ..StatFs::default() })
    }

    /// The last use of an open file is over.
    async fn release(&self, cx: &Context, op: Release) -> Result<()> {
        Ok(())
    }

    /// Write a file's changes to stable storage.
    async fn fsync(&self, cx: &Context, op: Fsync) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// A descriptor was closed: the last chance to tell a writer of an error; POSIX locks of the owner end.
    async fn flush(&self, cx: &Context, op: Flush) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Set an extended attribute.
    async fn setxattr(&self, cx: &Context, op: Setxattr<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Put an extended attribute's value into `out`; `NODATA` where there is none of the name.
    async fn getxattr(&self, cx: &Context, op: Getxattr<'_>, out: &mut XattrSink<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Put the names of all extended attributes into `out`, each with its NUL.
    async fn listxattr(&self, cx: &Context, op: Listxattr, out: &mut XattrSink<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Remove an extended attribute.
    async fn removexattr(&self, cx: &Context, op: Removexattr<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Check permission. Not asked under `default_permissions`; after `ENOSYS` everything is permitted.
    async fn access(&self, cx: &Context, op: Access) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Make a file and open it. After `ENOSYS` the kernel uses `mknod` and `open`.
    async fn create(&self, cx: &Context, op: Create<'_>) -> Result<(Entry, Opened)> {
        Err(Errno::NOSYS)
    }

    /// Make a file without a name and open it.
    async fn tmpfile(&self, cx: &Context, op: Tmpfile<'_>) -> Result<(Entry, Opened)> {
        Err(Errno::NOSYS)
    }

    /// Open a directory. After `ENOSYS` the kernel opens every directory by itself and may cache listings.
    async fn opendir(&self, cx: &Context, op: Opendir) -> Result<Opened> {
        Err(Errno::NOSYS)
    }

    /// Put directory entries after `op.cookie` into `out` until it is full. An empty answer ends the listing.
    async fn readdir(&self, cx: &Context, op: Readdir, out: &mut DirSink<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// The same with attributes. Every entry put raises that node's lookup count by one.
    async fn readdirplus(&self, cx: &Context, op: Readdirplus, out: &mut DirPlusSink<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// The last use of an open directory is over.
    async fn releasedir(&self, cx: &Context, op: Releasedir) -> Result<()> {
        Ok(())
    }

    /// Write a directory's changes to stable storage.
    async fn fsyncdir(&self, cx: &Context, op: Fsyncdir) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// A lock that stands in the way of `op.lock`, or one of kind [`LockKind::Unlock`]. Asked only if `POSIX_LOCKS` was agreed on.
    async fn getlk(&self, cx: &Context, op: Getlk) -> Result<FileLock> {
        Err(Errno::NOSYS)
    }

    /// Set or drop a lock; `AGAIN` where it is held by another and `op.wait` is false.
    async fn setlk(&self, cx: &Context, op: Setlk) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Map a block of a file to a block of the device.
    async fn bmap(&self, cx: &Context, op: Bmap) -> Result<u64> {
        Err(Errno::NOSYS)
    }

    /// Carry out a command; output goes into `out`. `NOTTY` for commands that are not known.
    async fn ioctl(&self, cx: &Context, op: Ioctl<'_>, out: &mut Sink<'_>) -> Result<IoctlResult> {
        Err(Errno::NOTTY)
    }

    /// Events that are ready now. After `ENOSYS` files are always ready.
    async fn poll(&self, cx: &Context, op: Poll) -> Result<u32> {
        Err(Errno::NOSYS)
    }

    /// Reserve, free or move space in a file.
    async fn fallocate(&self, cx: &Context, op: Fallocate) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Offset of the next data or hole; `NXIO` past the end. After `ENOSYS` the kernel takes every file for dense.
    async fn lseek(&self, cx: &Context, op: Lseek) -> Result<u64> {
        Err(Errno::NOSYS)
    }

    /// Copy between two open files; returns how many bytes. After `ENOSYS` the kernel copies through the page cache.
    async fn copy_file_range(&self, cx: &Context, op: CopyFileRange) -> Result<u64> {
        Err(Errno::NOSYS)
    }

    /// Write the whole filesystem to stable storage.
    async fn syncfs(&self, cx: &Context, op: Syncfs) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Map a range of a file into the DAX window (virtio-fs).
    async fn setupmapping(&self, cx: &Context, op: Setupmapping) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Unmap ranges of the DAX window (virtio-fs).
    async fn removemapping(&self, cx: &Context, op: Removemapping<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// Page-cache content a retrieve notification asked for has come.
    async fn retrieved(&self, cx: &Context, op: Retrieved<'_>) {}
}
