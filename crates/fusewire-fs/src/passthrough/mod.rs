//! A directory, re-exported in full.
//!
//! Everything done on the mount is done to the directory by the same means, in the name of whoever asks. Nothing is kept
//! that the directory does not have, so that nothing is lost with the daemon.
//!
//! * Identity of files: a descriptor for as many as possible, the lower filesystem's file handles for the rest, or
//!   parent and name where it has none; see `inode.rs`.
//! * Identity of callers: new files are made with the caller's ids; see `creds.rs`. Permissions are checked by the
//!   kernel: mount with `default_permissions` (`POSIX_ACL`, which is asked for, implies it).
//! * Nothing outside of the directory is reached: names are single components, looked up in descriptors of directories,
//!   and symbolic links are never followed here. What is mounted inside the directory is part of it.
//! * Descriptors: open files are never closed for want of them, cached ones are; see `fds.rs`.

mod abandon;
mod attr;
mod bounds;
mod coherence;
mod creds;
mod data;
mod dax;
mod dir;
mod fds;
mod feed;
mod folded;
mod forward;
mod handle;
mod identity;
mod ids;
mod inode;
mod keep;
mod lease;
mod locks;
mod mounts;
mod names;
mod options;
mod stateless;
mod sys;
#[cfg(test)]
mod tests;
mod unheard;
mod writeback;
mod xattr;
mod xattr_map;

pub use bounds::{Bounds, Waits};
pub use coherence::{COHERENT_MINOR, Caching, Coherence, try_coherence};
pub use feed::{FeedStats, Refusal};
pub use ids::{IdMap, IdRule};
pub use keep::{Finding, Kept, Ledger, Lent, Resumed};
pub use lease::Leases;
pub use options::{
    CacheProfile, Dax, Descriptors, FileHandles, Forward, LockScope, Offer, Opens, Options, ZeroCopy,
};
pub use xattr_map::XattrMap;

use coherence::Coherent;
use creds::Creds;
use dax::Daxing;
use fds::{Budget, explain};
use forward::Forwarding;
use fusewire::{
    Attr, Config, Context, Entry, Errno, Extended, FileLock, FileSystem, InitFlags, IoctlResult, Opened,
    Result, Started, StatFs,
    notify::Notifier,
    op::*,
    reply::{DirPlusSink, DirSink, Sink, XattrSink},
    table::HandleTable,
};
use handle::{Content, Open};
use inode::{Nodes, Proc};
use lease::Tenant;
use locks::Locks;
use mounts::Mounts;
use options::Timeouts;
use rustix::fs::{AtFlags, Mode, OFlags};
use stateless::{Stateless, Use};
use std::{
    io,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A filesystem that is a directory.
#[derive(Debug)]
pub struct Passthrough {
    options: Options,
    timeouts: Timeouts,
    coherent: Coherent,
    nodes: Nodes,
    handles: HandleTable<Open>,
    locks: Locks,
    /// Requests that wait for locks.
    waits: Waits,
    forwarding: Forwarding,
    stateless: Stateless,
    dax: Daxing,
    notifier: OnceLock<Notifier>,
    creds: Creds,
    root_ino: u64,
    /// What was agreed on with the kernel; everything that is wanted until it is known.
    agreed: AtomicU64,
    /// How often permissions were changed through this mount: what was learned of a file's mode before is out of date.
    mode_changes: AtomicU64,
}

/// What descriptors are in use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorUse {
    /// How many there may be.
    pub limit: usize,
    /// How many there are.
    pub used: usize,
    /// Of these, how many are only there to be quick, or to find files by: they are given up first.
    pub cached: usize,
    /// Open files and directories of clients.
    pub open: usize,
    /// Holders of locks.
    pub locks: usize,
}

impl Passthrough {
    /// Re-export the directory `source`.
    ///
    /// Raises the process's limit on open files. Fails if `source` is no directory, cannot be opened, or has no file
    /// handles although [`FileHandles::Always`] asks for them.
    pub fn new(source: impl AsRef<Path>, options: Options) -> io::Result<Self> {
        Self::open(source.as_ref(), options, None)
    }

    /// The same for one of several virtual machines that it is shared with: how long this one may remember things is told by
    /// `leases`, which it has in common with the others. For the rest it is as with [`CacheProfile::Auto`].
    pub fn leased(source: impl AsRef<Path>, options: Options, leases: &Arc<Leases>) -> io::Result<Self> {
        let options = Options { cache: CacheProfile::Auto, ..options };
        Self::open(source.as_ref(), options, Some(leases.guest()))
    }

    fn open(source: &Path, mut options: Options, tenant: Option<Tenant>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(source, flags, Mode::empty())
            .map_err(|error| explain("cannot open the directory", source, error))?;
        let proc_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = options.descriptors.place();
        let proc = rustix::fs::open(place, proc_flags, Mode::empty())
            .map_err(|error| explain("is proc mounted? cannot open", place, error))?;
        let proc = Proc { fd: proc, descriptors: options.descriptors };
        let budget = Budget::new(options.fd_limit, place);
        let mounts = Mounts::new(root, options.file_handles).map_err(|error| {
            explain("no file handles (leave --file-handles at auto to do without) on", source, error)
        })?;
        let root_stat = attr::stat(&mounts.root().fd)
            .map_err(|error| explain("cannot read attributes of", source, error))?;
        let mut coherent = Coherent::new(&mut options, mounts.root(), &root_stat);
        coherent.tenant = tenant;
        let nodes = Nodes::new(mounts, budget, proc, coherent.feed().cloned())
            .map_err(|error| explain("cannot open the directory", source, error))?;
        Ok(Self {
            timeouts: options.timeouts(coherent.profile(options.cache)),
            coherent,
            dax: Daxing::new(options.dax.clone()),
            waits: options.waits.clone().unwrap_or_else(|| Waits::new(options.bounds.waits)),
            options,
            nodes,
            handles: HandleTable::new(),
            locks: Locks::default(),
            forwarding: Forwarding::default(),
            stateless: Stateless::default(),
            notifier: OnceLock::new(),
            creds: Creds::new(),
            root_ino: root_stat.stx_ino,
            agreed: AtomicU64::new(InitFlags::DONT_MASK.bits()),
            mode_changes: AtomicU64::new(0),
        })
    }

    /// What descriptors are in use for now.
    pub fn descriptor_use(&self) -> DescriptorUse {
        DescriptorUse {
            limit: self.nodes.budget.limit(),
            used: self.nodes.budget.used(),
            cached: self.nodes.holding(),
            open: self.handles.len(),
            locks: self.locks.len(),
        }
    }

    /// How many nodes the kernel knows, the root included.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Are there access control lists?
    fn has_acls(&self) -> bool {
        self.options.xattr && self.options.acl != Offer::Never
    }

    /// `NOSYS` unless this was agreed on: a guest may send what it was not offered.
    fn agreed_on(&self, flag: InitFlags) -> Result<()> {
        if self.agreed.load(Ordering::Relaxed) & flag.bits() == flag.bits() {
            Ok(())
        } else {
            Err(Errno::NOSYS)
        }
    }

    /// Does the kernel leave the mask of new files to us? It must where the directory has default ACLs, which take the
    /// mask's place.
    fn masks(&self) -> bool {
        self.agreed.load(Ordering::Relaxed) & InitFlags::DONT_MASK.bits() != 0
    }
}

/// Do security modules label files here?
fn labels() -> bool {
    ["/sys/fs/selinux/enforce", "/sys/fs/smackfs/load2"].iter().any(|path| Path::new(path).exists())
}

/// What the kernel is to keep.
fn cached(profile: CacheProfile) -> InitFlags {
    match profile {
        CacheProfile::None => InitFlags::empty(),
        // A link's target never changes, and a link that takes another's place is another node.
        CacheProfile::Auto => {
            InitFlags::AUTO_INVAL_DATA
                | InitFlags::CACHE_SYMLINKS
                | InitFlags::DO_READDIRPLUS
                | InitFlags::READDIRPLUS_AUTO
        }
        // Told of changes, the kernel needs no second way to see them, which would have it drop what it has written itself.
        CacheProfile::Coherent => {
            InitFlags::EXPLICIT_INVAL_DATA
                | InitFlags::CACHE_SYMLINKS
                | InitFlags::DO_READDIRPLUS
                | InitFlags::READDIRPLUS_AUTO
        }
        CacheProfile::Always => {
            InitFlags::CACHE_SYMLINKS | InitFlags::DO_READDIRPLUS | InitFlags::READDIRPLUS_AUTO
        }
    }
}

impl Passthrough {
    /// Refuses a client without what it must have.
    fn insist(&self, config: &Config) -> Result<()> {
        for (offer, flag, what) in [
            (self.options.labels, InitFlags::SECURITY_CTX, "security labels"),
            (self.options.acl, InitFlags::POSIX_ACL, "access control lists"),
        ] {
            if offer == Offer::Always && !config.offered().contains(flag) {
                tracing::error!("the client has no {what}, which it must have");
                return Err(Errno::PROTO);
            }
        }
        Ok(())
    }
}

impl FileSystem for Passthrough {
    fn init(&self, config: &mut Config) -> Result<()> {
        // Not ATOMIC_O_TRUNC: with it the kernel has `open(O_RDONLY | O_TRUNC)` empty a program that is running, and refuses
        // with ETXTBSY afterwards.
        let mut want = InitFlags::DONT_MASK
            | InitFlags::HANDLE_KILLPRIV_V2
            | InitFlags::CREATE_SUPP_GROUP
            | InitFlags::HAS_IOCTL_DIR
            | InitFlags::DIRECT_IO_ALLOW_MMAP
            | InitFlags::ASYNC_DIO
            | InitFlags::PARALLEL_DIROPS;
        if self.options.xattr_map.as_ref().is_some_and(|map| !map.keeps_capabilities()) {
            // The lower filesystem does not know of them, so the kernel has to drop them by itself.
            want -= InitFlags::HANDLE_KILLPRIV_V2;
        }
        if self.options.xattr {
            want |= InitFlags::SETXATTR_EXT;
        }
        if self.has_acls() {
            want |= InitFlags::POSIX_ACL;
        }
        if self.options.submounts {
            want |= InitFlags::SUBMOUNTS;
        }
        if self.options.locks == LockScope::Directory {
            want |= InitFlags::POSIX_LOCKS | InitFlags::FLOCK_LOCKS;
        }
        let labelled = match self.options.labels {
            Offer::Machine => labels(),
            offer => offer != Offer::Never,
        };
        if labelled {
            want |= InitFlags::SECURITY_CTX;
        }
        self.insist(config)?;
        self.coherent.negotiate(config);
        want |= cached(self.cache());
        if !self.options.readdirplus {
            want -= InitFlags::DO_READDIRPLUS | InitFlags::READDIRPLUS_AUTO;
        }
        if self.options.writeback && config.offered().contains(InitFlags::WRITEBACK_CACHE) {
            want |= InitFlags::WRITEBACK_CACHE;
        }
        if self.coherent.is_by_file() && self.cache() == CacheProfile::Coherent {
            // What is not watched is served as with `auto`.
            want -= InitFlags::EXPLICIT_INVAL_DATA;
            want |= InitFlags::AUTO_INVAL_DATA;
        }
        if self.options.forward != Forward::Off {
            want |= InitFlags::PASSTHROUGH;
            config.max_stack_depth = self.nodes.mounts.stack_depth();
        }
        want |= self.dax.wanted();
        if config.offered().contains(InitFlags::MAP_ALIGNMENT) && self.dax.is_wanted_at_all() {
            // No write that goes through the window reaches us: the guest's kernel is to clear set-id bits by itself.
            want -= InitFlags::HANDLE_KILLPRIV_V2;
        }
        if self.dax.is_for_all(config.offered()) {
            // There are no copies to be dropped. A kernel that drops pages of its own accord takes the host's from those who have
            // them mapped.
            want -= InitFlags::AUTO_INVAL_DATA;
            want |= InitFlags::EXPLICIT_INVAL_DATA;
        }
        config.want(want);
        Ok(())
    }

    fn started(&self, session: &Started) {
        self.agreed.store(session.agreed.bits(), Ordering::Relaxed);
        self.forwarding.begin(session.backings.clone());
        self.dax.begin(session.window.clone(), session.agreed);
        _ = self.notifier.set(session.notifier.clone());
        self.coherent.begin(&session.notifier);
        self.tell_opens();
    }

    fn abandoned(&self) {
        self.give_all_up();
    }

    fn destroyed(&self) {
        self.coherent.end();
    }

    async fn lookup(&self, _cx: &Context, op: Lookup<'_>) -> Result<Entry> {
        let name = op.name.as_c_str();
        let reading = self.reading();
        match self.nodes.lookup(op.parent, name).and_then(|found| self.within(found)) {
            Ok(found) => Ok(self.entry(&found, reading.under(op.parent, name))),
            Err(Errno::NOENT) => match self.absence_ttl(reading.under(op.parent, name)) {
                Duration::ZERO => Err(Errno::NOENT),
                ttl => Ok(Entry::absent(ttl)),
            },
            Err(error) => Err(error),
        }
    }

    fn forget(&self, op: Forget) {
        // Nobody has a lock on it any more: its owner would have it open. (To look for one now would be wrong, too: the
        // number may be another node's already.)
        if self.nodes.forget(op.node, op.count) {
            self.stateless.forgotten(op.node);
            self.dax.forgotten(op.node);
        }
    }

    async fn getattr(&self, _cx: &Context, op: Getattr) -> Result<Attr> {
        self.watch_again(op.node);
        let reading = self.reading();
        let stat = self.stat_node(op.node, op.handle)?;
        Ok(self.attr(op.node, &stat, &reading))
    }

    async fn statx(&self, _cx: &Context, op: Statx) -> Result<(Attr, Extended)> {
        self.extended(op.node, op.handle)
    }

    async fn setattr(&self, cx: &Context, op: Setattr) -> Result<Attr> {
        self.coherent.acting();
        self.change(cx, &op)
    }

    async fn readlink(&self, _cx: &Context, op: Readlink, out: &mut Sink<'_>) -> Result<()> {
        self.link_target(&op, out)
    }

    async fn symlink(&self, cx: &Context, op: Symlink<'_>) -> Result<Entry> {
        self.coherent.acting();
        self.room_for_node()?;
        self.make_symlink(cx, &op)
    }

    async fn mknod(&self, cx: &Context, op: Mknod<'_>) -> Result<Entry> {
        self.coherent.acting();
        self.room_for_node()?;
        self.make_special(cx, &op)
    }

    async fn mkdir(&self, cx: &Context, op: Mkdir<'_>) -> Result<Entry> {
        self.coherent.acting();
        self.room_for_node()?;
        self.make_directory(cx, &op)
    }

    async fn unlink(&self, _cx: &Context, op: Unlink<'_>) -> Result<()> {
        self.coherent.acting();
        self.remove(op.parent, op.name, AtFlags::empty())
    }

    async fn rmdir(&self, _cx: &Context, op: Rmdir<'_>) -> Result<()> {
        self.coherent.acting();
        self.remove(op.parent, op.name, AtFlags::REMOVEDIR)
    }

    async fn rename(&self, cx: &Context, op: Rename<'_>) -> Result<()> {
        self.coherent.acting();
        self.rename_name(cx, &op)
    }

    async fn link(&self, _cx: &Context, op: Link<'_>) -> Result<Entry> {
        self.coherent.acting();
        self.add_name(&op)
    }

    async fn open(&self, _cx: &Context, op: fusewire::op::Open) -> Result<Opened> {
        self.coherent.acting();
        self.room_for_handle()?;
        self.open_file(&op)
    }

    async fn read(&self, _cx: &Context, op: Read, out: &mut Sink<'_>) -> Result<()> {
        self.read_file(op, out).await
    }

    async fn write(&self, cx: &Context, op: Write<'_>) -> Result<u32> {
        self.coherent.acting();
        self.write_file(cx, op).await
    }

    async fn statfs(&self, _cx: &Context, op: Statfs) -> Result<StatFs> {
        self.filesystem(op.node)
    }

    async fn release(&self, _cx: &Context, op: Release) -> Result<()> {
        self.coherent.acting();
        self.released(op.node, op.handle, op.flock_owner)
    }

    async fn fsync(&self, cx: &Context, op: Fsync) -> Result<()> {
        let open = self.open_node(op.node, op.handle, Use::Read)?;
        let fd = open.fd(&self.nodes)?;
        self.dax.using(fd);
        cx.sync(fd, op.data_only).await
    }

    async fn flush(&self, _cx: &Context, op: Flush) -> Result<()> {
        self.flushed(&op)
    }

    async fn setxattr(&self, cx: &Context, op: Setxattr<'_>) -> Result<()> {
        self.coherent.acting();
        if self.options.xattr { self.set_xattr(cx, &op).await } else { Err(Errno::NOSYS) }
    }

    async fn getxattr(&self, _cx: &Context, op: Getxattr<'_>, out: &mut XattrSink<'_>) -> Result<()> {
        if self.options.xattr { self.get_xattr(&op, out) } else { Err(Errno::NOSYS) }
    }

    async fn listxattr(&self, cx: &Context, op: Listxattr, out: &mut XattrSink<'_>) -> Result<()> {
        if self.options.xattr { self.list_xattrs(cx, &op, out) } else { Err(Errno::NOSYS) }
    }

    async fn removexattr(&self, cx: &Context, op: Removexattr<'_>) -> Result<()> {
        self.coherent.acting();
        if self.options.xattr { self.remove_xattr(cx, &op).await } else { Err(Errno::NOSYS) }
    }

    async fn create(&self, cx: &Context, op: Create<'_>) -> Result<(Entry, Opened)> {
        self.coherent.acting();
        self.room_for_node()?;
        self.room_for_handle()?;
        self.make_file(cx, &op)
    }

    async fn tmpfile(&self, cx: &Context, op: Tmpfile<'_>) -> Result<(Entry, Opened)> {
        self.coherent.acting();
        self.room_for_node()?;
        self.room_for_handle()?;
        self.make_nameless(cx, &op)
    }

    async fn opendir(&self, _cx: &Context, op: Opendir) -> Result<Opened> {
        self.room_for_handle()?;
        self.open_directory(&op)
    }

    async fn readdir(&self, _cx: &Context, op: Readdir, out: &mut DirSink<'_>) -> Result<()> {
        self.list(&op, out)
    }

    async fn readdirplus(&self, _cx: &Context, op: Readdirplus, out: &mut DirPlusSink<'_>) -> Result<()> {
        self.list_plus(&op, out)
    }

    async fn releasedir(&self, _cx: &Context, op: Releasedir) -> Result<()> {
        self.released(op.node, op.handle, None)
    }

    async fn fsyncdir(&self, cx: &Context, op: Fsyncdir) -> Result<()> {
        let open = self.open_node(op.node, op.handle, Use::List)?;
        match &open.content {
            Content::Directory(_) => cx.sync(open.fd(&self.nodes)?, op.data_only).await,
            Content::File(_) => Err(Errno::NOTDIR),
        }
    }

    async fn getlk(&self, _cx: &Context, op: Getlk) -> Result<FileLock> {
        self.agreed_on(InitFlags::POSIX_LOCKS)?;
        self.test_lock(&op)
    }

    async fn setlk(&self, cx: &Context, op: Setlk) -> Result<()> {
        self.agreed_on(if op.flock { InitFlags::FLOCK_LOCKS } else { InitFlags::POSIX_LOCKS })?;
        self.set_lock(cx, &op).await
    }

    async fn ioctl(&self, _cx: &Context, op: Ioctl<'_>, out: &mut Sink<'_>) -> Result<IoctlResult> {
        self.coherent.acting();
        self.control(&op, out)
    }

    async fn fallocate(&self, cx: &Context, op: Fallocate) -> Result<()> {
        self.coherent.acting();
        self.allocate(cx, &op).await
    }

    async fn lseek(&self, _cx: &Context, op: Lseek) -> Result<u64> {
        self.seek(&op)
    }

    async fn copy_file_range(&self, cx: &Context, op: CopyFileRange) -> Result<u64> {
        self.coherent.acting();
        self.copy(cx, &op).await
    }

    async fn setupmapping(&self, _cx: &Context, op: Setupmapping) -> Result<()> {
        self.coherent.acting();
        self.map(&op)
    }

    async fn removemapping(&self, _cx: &Context, op: Removemapping<'_>) -> Result<()> {
        self.coherent.acting();
        self.unmap(&op)
    }

    async fn syncfs(&self, _cx: &Context, op: Syncfs) -> Result<()> {
        let mount = self.nodes.mount(op.node)?;
        self.dax.using_all();
        // An `O_PATH` descriptor cannot be synced by; the root's never is one.
        match rustix::fs::syncfs(&mount.fd) {
            Err(Errno::BADF) => rustix::fs::syncfs(&self.nodes.mounts.root().fd),
            done => done,
        }
    }
}
