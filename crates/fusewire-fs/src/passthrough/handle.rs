//! Open files and directories.

use super::{
    Passthrough, attr,
    dir::Stream,
    fds::Fd,
    forward::{Counted, LARGE},
    inode::Nodes,
    keep::kept_open,
    mounts::Mount,
    options::{CacheProfile, Forward, LockScope, ZeroCopy},
    stateless::Use,
    sys,
};
use fusewire::{
    FileType, FopenFlags, Handle, LockOwner, NodeId, Opened,
    op::{Flush, Open as OpenOp, Opendir},
};
use rustix::{
    fs::{OFlags, Statx},
    io::{Errno, Result},
};
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// Flags of an open file that are passed down. `O_CREAT` and `O_EXCL` have been dealt with, `O_NONBLOCK` means nothing
/// for what is opened here, and the rest is the kernel's own business.
const PASSED: OFlags = OFlags::RWMODE
    .union(OFlags::APPEND)
    .union(OFlags::TRUNC)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC)
    .union(OFlags::DIRECT)
    .union(OFlags::NOATIME);

/// Set-user-id and set-group-id.
const SET_IDS: u32 = 0o6000;

/// What of a client's flags holds for the lower file.
pub fn lower_flags(flags: u32) -> OFlags {
    OFlags::from_bits_retain(flags) & PASSED | OFlags::NOCTTY | OFlags::CLOEXEC
}

/// An open file or directory.
#[derive(Debug)]
pub struct Open {
    /// Of which node.
    pub node: NodeId,
    lower: Lower,
    /// Closing it may tell of errors.
    flush_errors: bool,
    /// How it was opened.
    pub flags: OFlags,
    /// What it is.
    pub content: Content,
}

/// The lower file.
#[derive(Debug)]
pub struct Lower {
    fd: OnceLock<Fd>,
    /// How to open it once it is needed: what by, and how.
    later: Option<(Arc<Fd>, OFlags)>,
}

impl Lower {
    /// To be opened once it is needed, by what `path` (`O_PATH`) leads to.
    fn later(path: Arc<Fd>, flags: OFlags) -> Self {
        Self { fd: OnceLock::new(), later: Some((path, flags)) }
    }
}

impl From<Fd> for Lower {
    fn from(fd: Fd) -> Self {
        Self { fd: OnceLock::from(fd), later: None }
    }
}

/// What is open.
#[derive(Debug)]
pub enum Content {
    /// A regular file.
    File(File),
    /// A directory.
    Directory(Mutex<Stream>),
}

/// How a file is open.
#[derive(Debug)]
pub struct File {
    /// It is open for writing.
    pub writes: bool,
    /// Writes go to its end.
    pub append: bool,
    /// Past the lower page cache.
    pub direct: bool,
    /// The same without these two, for writes that must go to a place, of a length that is not a multiple of a block.
    plain: OnceLock<Fd>,
    /// Whether it has a mark to keep, and as of which change of permissions; 0: not known.
    pub marked: AtomicU64,
    /// Among those that are forwarded, or could be.
    counted: Option<Counted>,
}

impl Open {
    /// An open regular file.
    pub fn file(
        node: NodeId,
        lower: Lower,
        flags: OFlags,
        (flush_errors, counted): (bool, Option<Counted>),
    ) -> Self {
        let file = File {
            writes: flags.intersects(OFlags::RWMODE),
            append: flags.contains(OFlags::APPEND),
            direct: flags.contains(OFlags::DIRECT),
            plain: OnceLock::new(),
            marked: AtomicU64::new(0),
            counted,
        };
        Self { node, lower, flush_errors, flags, content: Content::File(file) }
    }

    /// An open directory.
    pub fn directory(node: NodeId, fd: Fd, stream: Mutex<Stream>) -> Self {
        let content = Content::Directory(stream);
        Self { node, lower: fd.into(), flush_errors: false, flags: OFlags::DIRECTORY, content }
    }

    /// The lower file, open as the client's is.
    pub fn fd(&self, nodes: &Nodes) -> Result<&Fd> {
        if let Some(fd) = self.lower.fd.get() {
            return Ok(fd);
        }
        let (path, flags) = self.lower.later.as_ref().ok_or(Errno::BADF)?;
        let fd = nodes.opening(|| nodes.reopen(&**path, *flags))?;
        Ok(self.lower.fd.get_or_init(|| fd))
    }

    /// A descriptor of the lower file that is there already, perhaps an `O_PATH` one: for attributes, and to open it anew.
    pub fn path(&self) -> BorrowedFd<'_> {
        match (self.lower.fd.get(), &self.lower.later) {
            (Some(fd), _) => fd.as_fd(),
            (None, Some((path, _))) => path.as_fd(),
            // It is made of one or the other.
            (None, None) => rustix::fs::CWD,
        }
    }
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.path()
    }
}

/// What is open of nodes that could be lost, by node: those of mounts without file handles, which are found by names. If
/// others have moved or removed the name, an open file leads to the node all the same.
#[derive(Debug, Default)]
pub struct OpenFiles {
    all: Mutex<BTreeMap<(NodeId, Handle), Arc<Open>>>,
    /// How many: where there are handles, closing a file must not cost a lock.
    count: AtomicUsize,
}

impl OpenFiles {
    fn all(&self) -> MutexGuard<'_, BTreeMap<(NodeId, Handle), Arc<Open>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Any of those of a node.
    pub fn get(&self, node: NodeId) -> Option<Arc<Open>> {
        let all = self.all();
        let (&(of, _), open) = all.range((node, Handle(0))..).next()?;
        (of == node).then(|| open.clone())
    }

    /// What was open before this process began, if it could be lost.
    pub fn restore(&self, handle: Handle, open: Arc<Open>, nodes: &Nodes) {
        if nodes.mount(open.node).is_ok_and(|mount| !mount.handles) {
            self.insert(handle, open);
        }
    }

    /// The client is gone.
    pub fn give_up(&self) {
        let mut all = self.all();
        let gone = std::mem::take(&mut *all);
        self.count.store(0, Ordering::Release);
        drop(all);
        drop(gone);
    }

    fn insert(&self, handle: Handle, open: Arc<Open>) {
        let mut all = self.all();
        all.insert((open.node, handle), open);
        self.count.store(all.len(), Ordering::Release);
    }

    fn remove(&self, node: NodeId, handle: Handle) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut all = self.all();
        let gone = all.remove(&(node, handle));
        self.count.store(all.len(), Ordering::Release);
        drop(all);
        // Closed, if at all, with nothing locked.
        drop(gone);
    }
}

/// What is read or written with one request anyway is not.
fn is_worth_forwarding(stat: Statx) -> bool {
    stat.stx_size >= LARGE
}

impl Passthrough {
    fn insert(&self, open: Open, can_be_lost: bool) -> Handle {
        let open = Arc::new(open);
        let handle = self.handles.insert_shared(open.clone());
        self.nodes.ledger.iter().for_each(|ledger| ledger.opened(kept_open(handle, &open)));
        if can_be_lost {
            self.nodes.open_files.insert(handle, open);
        }
        handle
    }

    /// Is this what the kernel says for want of a handle?
    pub(super) fn is_stateless(&self, handle: Handle) -> bool {
        handle == Handle(0) && self.stateless.is_on()
    }

    /// What a handle is of; it must be of that node. Without a handle, what is open of the node for this use.
    pub(super) fn open_node(&self, node: NodeId, handle: Handle, how: Use) -> Result<Arc<Open>> {
        if self.is_stateless(handle) {
            return self.open_by_node(node, how);
        }
        self.handles.get(handle).filter(|open| open.node == node).ok_or(Errno::BADF)
    }

    pub(super) fn open_file(&self, op: &OpenOp) -> Result<Opened> {
        let flags = lower_flags(op.flags);
        let may_forward = self.options.forward != Forward::Off && self.forwarding.is_on();
        let is_large =
            may_forward && (self.options.forward == Forward::Always || self.nodes.is_large(op.node));
        self.open_is_told(op.node, is_large)?;
        if is_large && !flags.intersects(OFlags::RWMODE | OFlags::TRUNC) {
            return self.open_later(op.node, flags);
        }
        if flags.contains(OFlags::TRUNC) {
            self.creds.keep_set_ids(!op.kill_suid_gid)?;
        }
        let (fd, flags) =
            self.with_flags(flags, |flags| self.nodes.open(op.node, FileType::Regular, flags))?;
        self.opened(op.node, (fd, flags), None)
    }

    /// A file to be read, by the kernel itself, which opens it as it gets to know it: here it is opened when that turns out not to do. (Not for
    /// writing: where the kernel cannot open it, it says `EIO`, whatever the reason.)
    fn open_later(&self, node: NodeId, flags: OFlags) -> Result<Opened> {
        let path = self.nodes.file(node)?;
        let (reply, counted) = self.forwarding.opened(
            node,
            || true,
            || {
                self.creds.keep_set_ids(false)?;
                Ok(path.clone())
            },
        );
        let lower = Lower::later(path, flags);
        if reply.backing_id != 0 && !self.nodes.mount(node)?.flush_errors {
            return self.reply_to_open(node, lower, flags, (reply, counted));
        }
        let open = Open::file(node, lower, flags, (false, None));
        if let Err(error) = open.fd(&self.nodes) {
            counted.inspect(|&counted| self.forwarding.released(node, counted));
            return Err(error);
        }
        self.reply_to_open(node, open.lower, flags, (reply, counted))
    }

    /// The reply for a file that was just opened.
    pub(super) fn opened(
        &self,
        node: NodeId,
        (fd, flags): (Fd, OFlags),
        stat: Option<&Statx>,
    ) -> Result<Opened> {
        let is_generated = self.nodes.mount(node)?.is_generated;
        let is_large =
            || stat.map_or_else(|| attr::stat(&fd), |stat| Ok(*stat)).is_ok_and(is_worth_forwarding);
        let wanted = || !is_generated && (self.options.forward == Forward::Always || is_large());
        let forwarded = self.forwarding.opened(node, wanted, || self.backing_path(&fd));
        self.reply_to_open(node, fd.into(), flags, forwarded)
    }

    fn reply_to_open(
        &self,
        node: NodeId,
        lower: Lower,
        flags: OFlags,
        (mut opened, counted): (Opened, Option<Counted>),
    ) -> Result<Opened> {
        let mount = self.nodes.mount(node)?;
        let open = Open::file(node, lower, flags, (mount.flush_errors, counted));
        opened.flags |= match opened.backing_id {
            // The kernel reads no further than the size that it knows, unless told so.
            0 if mount.is_generated => FopenFlags::DIRECT_IO,
            0 => self.keeping(node, &open.path()) | self.copying(mount, flags),
            _ => self.guarding(node, &open.path(), flags),
        };
        if self.options.locks == LockScope::Mount && !mount.flush_errors {
            opened.flags |= FopenFlags::NOFLUSH;
        }
        self.dax.opened(node, flags);
        opened.handle = self.insert(open, !mount.handles);
        Ok(opened)
    }

    /// What the kernel is to know `fd` by. It uses the rights that this thread has when it is told: without the one to keep
    /// set-id bits, so that the lower filesystem clears them when the file is written.
    fn backing_path(&self, fd: &Fd) -> Result<OwnedFd> {
        self.creds.keep_set_ids(false)?;
        self.nodes.reopen(fd, OFlags::PATH)
    }

    /// What the kernel may keep of a file that is not forwarded.
    fn keeping(&self, node: NodeId, fd: &impl AsFd) -> FopenFlags {
        // A guest has no copy that it might drop of what is in its window, whatever the profile. Linux 7.3 would tear the pages from those
        // who use them instead, and warns of that (`dax_disassociate_entry`): as it opens a file that it is not to keep, and as it makes
        // one longer that is open with DIRECT_IO, which then fails (`fuse_direct_io`, EBUSY).
        if self.dax.is_seen_through(fd) {
            return FopenFlags::KEEP_CACHE;
        }
        match self.cache_of(node) {
            CacheProfile::None => FopenFlags::DIRECT_IO | FopenFlags::PARALLEL_DIRECT_WRITES,
            CacheProfile::Auto if self.nodes.opened(node, || attr::stat(fd)) => FopenFlags::KEEP_CACHE,
            CacheProfile::Auto => FopenFlags::empty(),
            CacheProfile::Coherent | CacheProfile::Always => FopenFlags::KEEP_CACHE,
        }
    }

    /// Whether the data of a file that is not forwarded goes without a copy. Ignored unless requests come over a ring that can do
    /// that.
    fn copying(&self, mount: &Mount, flags: OFlags) -> FopenFlags {
        let is_large = self.options.cache != CacheProfile::None || flags.contains(OFlags::DIRECT);
        match self.options.zero_copy == ZeroCopy::Always || is_large && mount.is_at_once(flags) {
            true => FopenFlags::IO_URING_ZERO_COPY,
            false => FopenFlags::empty(),
        }
    }

    /// What a file that is forwarded needs, since some things do not go by themselves then.
    fn guarding(&self, node: NodeId, fd: &impl AsFd, flags: OFlags) -> FopenFlags {
        let mode = flags & OFlags::RWMODE;
        if mode == OFlags::RDWR {
            self.may_be_mapped(node);
        }
        let may_set_ids = || attr::stat(fd).map_or(SET_IDS, |stat| stat.stx_mode.into()) & SET_IDS != 0;
        match mode != OFlags::RDONLY && may_set_ids() {
            // Whether a write clears the bits depends on who writes: writes come as requests. Mappings are forwarded.
            true => FopenFlags::DIRECT_IO,
            false => FopenFlags::empty(),
        }
    }

    /// The kernel may map `node` for writing and forward that: nobody is told when the mapping is written, which changes the lower
    /// file's times, nor when it ends. From now on the kernel is to remember no attributes of it.
    fn may_be_mapped(&self, node: NodeId) {
        const ATTRIBUTES_ALONE: i64 = -1;
        if !self.timeouts.attr.is_zero()
            && self.nodes.may_be_mapped(node)
            && let Some(notifier) = self.notifier.get()
        {
            // At its end, the connection has no attributes any more either.
            _ = notifier.inval_inode(node, ATTRIBUTES_ALONE, 0);
        }
    }

    pub(super) fn open_directory(&self, op: &Opendir) -> Result<Opened> {
        self.opendir_is_told()?;
        let noatime = if self.options.noatime { OFlags::NOATIME } else { OFlags::empty() };
        let noatime = OFlags::from_bits_retain(op.flags) & noatime;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | noatime;
        let fd = self.nodes.open(op.node, FileType::Directory, flags)?;
        let flags = match self.cache_of(op.node) {
            CacheProfile::Coherent | CacheProfile::Always => FopenFlags::CACHE_DIR | FopenFlags::KEEP_CACHE,
            CacheProfile::None | CacheProfile::Auto => FopenFlags::empty(),
        };
        let open = Open::directory(op.node, fd, Mutex::default());
        let handle = self.insert(open, !self.nodes.mount(op.node)?.handles);
        Ok(Opened::new(handle).with_flags(flags))
    }

    /// A client closed a descriptor. Needs no descriptor here: at the limit, files must still be closable.
    pub(super) fn flushed(&self, op: &Flush) -> Result<()> {
        if self.is_stateless(op.handle) {
            return Err(Errno::NOSYS);
        }
        let open = self.open_node(op.node, op.handle, Use::Read)?;
        self.locks.release(op.node, op.lock_owner);
        self.dax.using(&open.path());
        if !open.flush_errors {
            return Ok(());
        }
        match rustix::io::dup(open.path()) {
            Ok(fd) => sys::close(fd),
            // Errors of writes will be told by fsync; they are not worth failing every close for.
            Err(_) => Ok(()),
        }
    }

    pub(super) fn released(
        &self,
        node: NodeId,
        handle: Handle,
        _flock_owner: Option<LockOwner>,
    ) -> Result<()> {
        self.locks.ended(node, handle);
        self.nodes.ledger.iter().for_each(|ledger| ledger.closed(handle));
        // A flock lock is the lower open file's, and ends with it.
        let open = self.handles.remove(handle).ok_or(Errno::BADF)?;
        if let Content::File(File { counted, writes, .. }) = open.content {
            counted.inspect(|&counted| self.forwarding.released(open.node, counted));
            self.dax.released(open.node, writes);
        }
        self.nodes.open_files.remove(open.node, handle);
        if open.node == node { Ok(()) } else { Err(Errno::BADF) }
    }

    /// The same file without `O_APPEND` and `O_DIRECT`.
    pub(super) fn plain<'a>(&self, open: &'a Open, file: &'a File) -> Result<&'a Fd> {
        if let Some(fd) = file.plain.get() {
            return Ok(fd);
        }
        let lower = open.fd(&self.nodes)?;
        let mode = rustix::fs::fcntl_getfl(lower)? & OFlags::RWMODE;
        let fd = self.nodes.opening(|| self.nodes.reopen(lower, mode))?;
        Ok(file.plain.get_or_init(|| fd))
    }
}
