//! The nodes: what each number the kernel knows stands for below.
//!
//! The first nodes, and those in use (directories above all), have an `O_PATH` descriptor: nothing is quicker to read
//! attributes by, to open again, and to keep hold of a file that loses its names. When there are enough, the one not used for
//! longest (by a clock) is closed, and the node falls back to
//!
//! * the file handle, where the lower filesystem has lasting ones and we may use them. New nodes then get a handle from
//!   the start and no descriptor, so that walking through a million files takes none;
//! * else the place where it was last seen, parent and name: whatever is found there later must have the same device,
//!   inode number and birth time, or the node is stale.
//!
//! The cache is a queue of its own and marks in the nodes, instead of a ready-made cache beside the table, because a
//! request locks the node's shard anyway: a hit then costs nothing more.

use super::{
    fds::{Budget, Fd, Permit, is_exhausted},
    identity::{FileKey, Handle, mentions},
    mounts::{FIELDS, Mount, Mounts},
    sys,
};
use fusewire::{FileType, Generation, NodeId, table::NodeTable};
use rustix::{
    fs::{AtFlags, Mode, OFlags, Statx},
    io::{Errno, Result},
};
use std::{
    collections::VecDeque,
    ffi::{CStr, CString},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

/// How often a lookup begins anew when the name leads to one file now and to another a moment later.
const ATTEMPTS: usize = 16;
/// How deep a path from the root may be when a node without a descriptor is searched for.
const DEPTH: usize = 256;
/// How many descriptors are given up at once when there are no more.
const BATCH: usize = 64;
/// How many nodes keep a descriptor at most where they can do without: enough for the directories in use. Looking a file up
/// and opening it takes less with its handle (measured: `stat` of a new name 4.3 µs instead of 4.4, `open` and `close` 9.9
/// instead of 10.5), and a descriptor that is not there need not be closed.
const ENOUGH: usize = 256;
/// `O_PATH` of whatever it is, never through a symbolic link.
const PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// `statx` of a name itself, mounting nothing.
const NAME_ITSELF: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

/// The descriptor was used since the clock's hand passed.
const USED: u8 = 1;
/// The stamp is that of what the kernel may have cached.
const OPENED: u8 = 2;

/// What is kept of a node.
#[derive(Debug)]
pub struct Node {
    fd: Option<Arc<Fd>>,
    way_back: WayBack,
    /// Times and size in one number; see [`Nodes::opened`].
    stamp: u64,
    kind: FileType,
    bits: u8,
}

/// How to find a file whose descriptor was closed.
#[derive(Debug, Clone)]
enum WayBack {
    /// Not known, or not known yet.
    None,
    Handle(Handle),
    /// Where it was last seen.
    Place(Box<Place>),
}

#[derive(Debug, Clone)]
struct Place {
    parent: NodeId,
    name: CString,
}

/// A file that was looked up.
#[derive(Debug)]
pub struct Found {
    /// Its number.
    pub node: NodeId,
    /// Which file of that number.
    pub generation: Generation,
    /// Its attributes.
    pub stat: Statx,
}

/// All nodes.
#[derive(Debug)]
pub struct Nodes {
    table: NodeTable<FileKey, Node>,
    /// The lower mounts.
    pub mounts: Mounts,
    /// The descriptors.
    pub budget: Arc<Budget>,
    root: Arc<Fd>,
    /// `/proc/self/fd`.
    proc: OwnedFd,
    /// Nodes with a descriptor, and some that no longer have one.
    clock: Mutex<VecDeque<NodeId>>,
    /// How many nodes have a descriptor, and how many there are; both without the root.
    holding: AtomicUsize,
    count: AtomicUsize,
    holding_limit: usize,
    /// Whether lookups of late found nodes that are known (2, 3) or not (0, 1): each case has its own cheapest way.
    habit: AtomicU8,
}

impl Nodes {
    /// Nodes below the root of `mounts`.
    pub fn new(mounts: Mounts, budget: Arc<Budget>, proc: OwnedFd) -> Result<Self> {
        let permit = budget.take().ok_or(Errno::MFILE)?;
        let root =
            Arc::new(Fd::new(rustix::fs::openat(&mounts.root().fd, c".", PATH, Mode::empty())?, permit));
        let key = FileKey::new(&mounts, mounts.root(), &stat_of(&root)?);
        let node = Node {
            fd: Some(root.clone()),
            way_back: WayBack::None,
            stamp: 0,
            kind: FileType::Directory,
            bits: 0,
        };
        // Open files come first: they cannot be given up. Where nodes need descriptors they get most of what there is.
        let limit = budget.limit();
        let holding_limit = if mounts.root().handles { (limit / 2).min(ENOUGH) } else { limit / 4 * 3 };
        Ok(Self {
            table: NodeTable::new(key, node),
            mounts,
            budget,
            root,
            proc,
            clock: Mutex::default(),
            holding: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            holding_limit,
            habit: AtomicU8::new(0),
        })
    }

    /// How many nodes there are, the root included.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed) + 1
    }

    /// How many of them have a descriptor, the root not counted.
    pub fn holding(&self) -> usize {
        self.holding.load(Ordering::Relaxed)
    }

    /// The kernel forgets. Was that the last of the node?
    pub fn forget(&self, node: NodeId, count: u64) -> bool {
        let Some((_, node)) = self.table.forget(node, count) else { return false };
        self.count.fetch_sub(1, Ordering::Relaxed);
        if node.fd.is_some() {
            self.holding.fetch_sub(1, Ordering::Relaxed);
        }
        true
    }

    /// One lookup more of a node that is known.
    pub fn again(&self, node: NodeId) -> Result<Generation> {
        self.table.acquire_again(node).ok_or(Errno::STALE)
    }

    /// The mount a node is on.
    pub fn mount(&self, node: NodeId) -> Result<&Mount> {
        if self.mounts.is_one() {
            return Ok(self.mounts.root());
        }
        let index = self.table.with(node, |key, _| key.mount).ok_or(Errno::STALE)?;
        Ok(self.mounts.at(index))
    }

    /// Permission for a descriptor, at the cost of cached ones if need be.
    pub fn permit(&self) -> Result<Permit> {
        for _ in 0..4 {
            if let Some(permit) = self.budget.take() {
                return Ok(permit);
            }
            if self.give_up(BATCH) == 0 {
                break;
            }
        }
        self.budget.take().ok_or(Errno::MFILE)
    }

    /// Open something for the length of a request, or for longer if there is enough.
    fn glancing(&self, open: impl Fn() -> Result<OwnedFd>) -> Result<Fd> {
        match self.opening(&open) {
            Err(Errno::MFILE | Errno::NFILE) => {
                let permit = self.budget.take_for_a_moment().ok_or(Errno::MFILE)?;
                Ok(Fd::new(open()?, permit))
            }
            opened => opened,
        }
    }

    /// Open something under the budget. If the process or the machine has none left although we should, cached
    /// descriptors are given up and it is tried once more.
    pub fn opening(&self, open: impl Fn() -> Result<OwnedFd>) -> Result<Fd> {
        let permit = self.permit()?;
        let mut fd = open();
        if is_exhausted(&fd) && self.give_up(BATCH) > 0 {
            fd = open();
        }
        Ok(Fd::new(fd?, permit))
    }

    /// An `O_PATH` descriptor of a node.
    pub fn fd(&self, node: NodeId) -> Result<Arc<Fd>> {
        self.fd_within(node, DEPTH)
    }

    fn fd_within(&self, node: NodeId, depth: usize) -> Result<Arc<Fd>> {
        if node == NodeId::ROOT {
            return Ok(self.root.clone());
        }
        let known = self.table.with(node, |key, node| match &node.fd {
            Some(fd) => {
                node.bits |= USED;
                Ok(fd.clone())
            }
            None => Err((key.clone(), node.way_back.clone())),
        });
        let (key, way_back) = match known.ok_or(Errno::STALE)? {
            Ok(fd) => return Ok(fd),
            Err(missing) => missing,
        };
        let fd = match way_back {
            WayBack::Handle(handle) => {
                let (mount, handle) = (self.mounts.at(key.mount), handle.raw());
                self.glancing(|| sys::open_by_handle_at(&mount.fd, &handle, PATH.bits()))?
            }
            WayBack::Place(place) => self.find_again(&key, &place, depth)?,
            WayBack::None => return Err(Errno::STALE),
        };
        Ok(self.keep(node, Arc::new(fd)))
    }

    /// Look where a node was last seen.
    fn find_again(&self, key: &FileKey, place: &Place, depth: usize) -> Result<Fd> {
        let dir = self.fd_within(place.parent, depth.checked_sub(1).ok_or(Errno::STALE)?)?;
        let stale = |error| if error == Errno::NOENT { Errno::STALE } else { error };
        let fd =
            self.glancing(|| rustix::fs::openat(&dir, &place.name, PATH, Mode::empty())).map_err(stale)?;
        let stat = stat_of(&fd)?;
        let mount = self.mounts.of(key.mount, &stat, (&dir, &place.name), &self.budget)?;
        if FileKey::new(&self.mounts, mount, &stat) == *key { Ok(fd) } else { Err(Errno::STALE) }
    }

    /// Have a node keep a descriptor; answers the one that it has if another thread was faster.
    fn keep(&self, node: NodeId, fd: Arc<Fd>) -> Arc<Fd> {
        if self.budget.is_over() {
            return fd;
        }
        let kept = self.table.with(node, |_, node| match &node.fd {
            Some(there) => (there.clone(), false),
            None => {
                node.fd = Some(fd.clone());
                node.bits |= USED;
                (fd.clone(), true)
            }
        });
        match kept {
            Some((fd, true)) => {
                self.enqueue(node);
                fd
            }
            Some((fd, false)) => fd,
            None => fd,
        }
    }

    fn clock(&self) -> MutexGuard<'_, VecDeque<NodeId>> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has got a descriptor.
    fn enqueue(&self, node: NodeId) {
        let holding = self.holding.fetch_add(1, Ordering::Relaxed) + 1;
        let queued = {
            let mut clock = self.clock();
            clock.push_back(node);
            clock.len()
        };
        if queued > 2 * self.holding_limit.max(BATCH) {
            // Most of these were forgotten.
            let queue = std::mem::take(&mut *self.clock());
            let still = queue
                .into_iter()
                .filter(|&id| self.table.with(id, |_, node| node.fd.is_some()) == Some(true));
            let still: VecDeque<_> = still.collect();
            self.clock().extend(still);
        }
        if holding > self.holding_limit {
            self.give_up(1);
        }
    }

    /// Close up to `count` descriptors of nodes, those first that were not used of late. Answers how many.
    fn give_up(&self, count: usize) -> usize {
        let mut given = 0;
        // Twice around: the first time takes the marks of use away.
        let mut steps = (self.clock().len() * 2).min(count * 64);
        while given < count && steps > 0 {
            steps -= 1;
            let Some(id) = self.clock().pop_front() else { break };
            let closed =
                match self.table.with(id, |key, node| node.release(self.mounts.at(key.mount).handles)) {
                    Some(Release::Later) => false,
                    Some(Release::Unless(fd, handle)) => self.give_up_one(id, &fd, handle),
                    // Forgotten meanwhile, and closed with that.
                    Some(Release::Nothing) | None => continue,
                };
            if closed {
                self.holding.fetch_sub(1, Ordering::Relaxed);
                given += 1;
            } else {
                self.clock().push_back(id);
            }
        }
        given
    }

    /// Close a node's descriptor unless it is all that is left of the file; take down the handle first, if there are any.
    fn give_up_one(&self, id: NodeId, fd: &Arc<Fd>, handle: bool) -> bool {
        if stat_of(fd).is_ok_and(|stat| stat.stx_nlink == 0) {
            return false;
        }
        let way_back = match handle.then(|| handle_of(fd)) {
            Some(Ok(handle)) => Some(WayBack::Handle(handle)),
            Some(Err(_)) => return false,
            None => None,
        };
        let closed = self.table.with(id, |_, node| {
            let same = node.fd.take_if(|there| Arc::ptr_eq(there, fd));
            if let (Some(_), Some(way_back)) = (&same, way_back) {
                node.way_back = way_back;
            }
            same
        });
        closed.flatten().is_some()
    }

    /// Are there so many descriptors that new nodes should do without?
    fn is_full(&self) -> bool {
        self.holding() >= self.holding_limit
    }

    /// Look a name up and count that.
    pub fn lookup(&self, parent: NodeId, name: &CStr) -> Result<Found> {
        let dir = self.fd(parent)?;
        self.lookup_in(parent, &dir, name)
    }

    /// The same with the directory at hand.
    pub fn lookup_in(&self, parent: NodeId, dir: &Fd, name: &CStr) -> Result<Found> {
        let mut near = self.near(parent);
        for _ in 0..ATTEMPTS {
            // Known nodes need no descriptor, only their attributes; unknown ones need one, and attributes through it.
            let known = self.habit.load(Ordering::Relaxed) >= 2;
            let found = if known || self.is_full() {
                self.look(parent, dir, name, &mut near)
            } else {
                self.grasp(parent, dir, name, &mut near)
            };
            match found {
                Ok(Some(found)) => return Ok(found),
                Ok(None) | Err(Errno::AGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        // Somebody replaces this name faster than it can be looked at.
        Err(Errno::BUSY)
    }

    fn found_known(&self, known: bool) {
        let habit = self.habit.load(Ordering::Relaxed);
        let next = if known { (habit + 1).min(3) } else { habit.saturating_sub(1) };
        if next != habit {
            self.habit.store(next, Ordering::Relaxed);
        }
    }

    /// The mount of a directory, as a guess for what is in it.
    fn near(&self, parent: NodeId) -> u16 {
        if parent == NodeId::ROOT || self.mounts.is_one() {
            return 0;
        }
        self.table.with(parent, |key, _| key.mount).unwrap_or(0)
    }

    /// The mount a file is on.
    fn mount_of(&self, near: &mut u16, stat: &Statx, dir: &Fd, name: &CStr) -> Result<&Mount> {
        let mount = match self.mounts.of(*near, stat, (dir, name), &self.budget) {
            Err(Errno::MFILE) if self.give_up(BATCH) > 0 => {
                self.mounts.of(*near, stat, (dir, name), &self.budget)?
            }
            mount => mount?,
        };
        *near = mount.index;
        Ok(mount)
    }

    /// Look a name up that is likely to lead to a node that is known. `None`: it led elsewhere in the meantime.
    fn look(&self, parent: NodeId, dir: &Fd, name: &CStr, near: &mut u16) -> Result<Option<Found>> {
        let stat = rustix::fs::statx(dir, name, NAME_ITSELF, FIELDS)?;
        let mount = self.mount_of(near, &stat, dir, name)?;
        let key = FileKey::new(&self.mounts, mount, &stat);
        let sure = self.table.acquire_known(&key, |_, node| {
            node.seen(&stat, parent, name, mount);
            node.fd.is_some() || !matches!(node.way_back, WayBack::Handle(_))
        });
        match sure {
            Some((node, generation, true)) => {
                self.found_known(true);
                return Ok(Some(Found { node, generation, stat }));
            }
            // The number is counted again below, after a closer look.
            Some((node, _, false)) => {
                self.forget(node, 1);
            }
            None => self.found_known(false),
        }
        if mount.handles && (self.is_full() || sure.is_some()) {
            return self.by_handle(dir, name, mount, key, stat);
        }
        self.grasp(parent, dir, name, near)
    }

    /// Look a name up without a descriptor. `None`: it led elsewhere in the meantime.
    fn by_handle(
        &self,
        dir: &Fd,
        name: &CStr,
        mount: &Mount,
        key: FileKey,
        stat: Statx,
    ) -> Result<Option<Found>> {
        let (raw, id) = sys::name_to_handle_at(dir, name, 0)?;
        if id != mount.id {
            return Ok(None);
        }
        if !mentions(&raw, stat.stx_ino) {
            let again = rustix::fs::statx(dir, name, NAME_ITSELF, FIELDS)?;
            let (same, _) = sys::name_to_handle_at(dir, name, 0)?;
            if again.stx_ino != stat.stx_ino || same.bytes() != raw.bytes() {
                return Ok(None);
            }
        }
        let handle = Handle::new(&raw);
        let key = match self.table.find(&key) {
            Some(node) if self.has_other_handle(node, &handle) => key.told_apart(&handle),
            _ => key,
        };
        Ok(Some(self.acquire(key, stat, None, WayBack::Handle(handle)).0))
    }

    fn has_other_handle(&self, node: NodeId, handle: &Handle) -> bool {
        let other = self.table.with(node, |_, node| match &node.way_back {
            WayBack::Handle(known) => node.fd.is_none() && known != handle,
            WayBack::None | WayBack::Place(_) => false,
        });
        other.unwrap_or(false)
    }

    /// Look a name up that is likely to lead to something new. `None`: it led elsewhere in the meantime.
    fn grasp(&self, parent: NodeId, dir: &Fd, name: &CStr, near: &mut u16) -> Result<Option<Found>> {
        let fd = self.glancing(|| rustix::fs::openat(dir, name, PATH, Mode::empty()))?;
        let stat = stat_of(&fd)?;
        let mount = self.mount_of(near, &stat, dir, name)?;
        let way_back = if mount.handles {
            WayBack::None
        } else {
            WayBack::Place(Box::new(Place { parent, name: name.to_owned() }))
        };
        self.settle(fd, mount, stat, way_back).map(Some)
    }

    /// Count a lookup of what a descriptor is of.
    fn settle(&self, fd: Fd, mount: &Mount, stat: Statx, way_back: WayBack) -> Result<Found> {
        let key = FileKey::new(&self.mounts, mount, &stat);
        let fd = Arc::new(fd);
        // Without a descriptor there must be another way back.
        let way_back = match way_back {
            WayBack::None if mount.handles && self.budget.is_over() => WayBack::Handle(handle_of(&fd)?),
            way_back => way_back,
        };
        let keep = matches!(way_back, WayBack::None) || !self.budget.is_over();
        let (found, known) = self.acquire(key.clone(), stat, keep.then(|| fd.clone()), way_back);
        // The node's descriptor was closed long ago. Is it of this file, or of an earlier one of the same number?
        let Some(known) = known else { return Ok(found) };
        let handle = handle_of(&fd).inspect_err(|_| {
            self.forget(found.node, 1);
        })?;
        if handle == known {
            self.keep(found.node, fd);
            return Ok(found);
        }
        self.forget(found.node, 1);
        Ok(self.acquire(key.told_apart(&handle), stat, Some(fd), WayBack::Handle(handle)).0)
    }

    /// A file that was just made and is at hand.
    pub fn adopt(&self, parent: NodeId, name: Option<&CStr>, fd: &impl AsFd) -> Result<Found> {
        let stat = stat_of(fd)?;
        let mount = self.mounts.at(self.near(parent));
        // Nothing is made across a mount point, except where somebody mounts at this very moment.
        if mount.id != stat.stx_mnt_id {
            return Err(Errno::STALE);
        }
        if mount.handles && self.is_full() {
            let way_back = WayBack::Handle(handle_of(fd)?);
            return Ok(self.acquire(FileKey::new(&self.mounts, mount, &stat), stat, None, way_back).0);
        }
        let path = self.glancing(|| self.reopen(fd, PATH - OFlags::NOFOLLOW))?;
        let way_back = match name {
            Some(name) if !mount.handles => WayBack::Place(Box::new(Place { parent, name: name.to_owned() })),
            _ => WayBack::None,
        };
        self.settle(path, mount, stat, way_back)
    }

    /// Count a lookup. A node that is known by its handle alone does not take the descriptor: its handle is answered.
    fn acquire(
        &self,
        key: FileKey,
        stat: Statx,
        fd: Option<Arc<Fd>>,
        way_back: WayBack,
    ) -> (Found, Option<Handle>) {
        let kind = FileType::from_mode(stat.stx_mode.into()).unwrap_or(FileType::Regular);
        let make = || Node { fd: None, way_back: WayBack::None, stamp: 0, kind, bits: 0 };
        let (node, generation, (new, kept, known)) = self.table.acquire(key, make, |_, node, new| {
            node.stamp_by(&stat);
            let (mut kept, mut known) = (false, None);
            if node.fd.is_none() {
                match (&node.way_back, fd) {
                    (WayBack::Handle(handle), Some(_)) => known = Some(handle.clone()),
                    (_, fd) => {
                        kept = fd.is_some();
                        node.fd = fd;
                    }
                }
            }
            if !matches!(way_back, WayBack::None) && known.is_none() {
                node.way_back = way_back;
            }
            (new, kept, known)
        });
        if new {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        self.found_known(!new);
        if kept {
            self.enqueue(node);
        }
        (Found { node, generation, stat }, known)
    }

    /// Open what a descriptor is of, anew.
    pub fn reopen(&self, fd: &impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        let name = Decimal::new(fd.as_fd().as_raw_fd());
        rustix::fs::openat(&self.proc, name.as_c_str(), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Open a node of that kind for reading, writing or listing. Others are refused: opening the lower one could block,
    /// or act on a device.
    pub fn open(&self, node: NodeId, kind: FileType, flags: OFlags) -> Result<Fd> {
        let flags = flags | OFlags::CLOEXEC;
        let at_hand = self.table.with(node, |key, node| match (&node.fd, &node.way_back) {
            _ if node.kind != kind => Err(Err(node.kind)),
            (None, WayBack::Handle(handle)) => Err(Ok((key.mount, handle.clone()))),
            (fd, _) => {
                node.bits |= USED;
                Ok(fd.clone())
            }
        });
        let fd = match at_hand.ok_or(Errno::STALE)? {
            Ok(Some(fd)) => fd,
            Ok(None) => self.fd(node)?,
            Err(Ok((mount, handle))) => {
                let (mount, handle) = (self.mounts.at(mount), handle.raw());
                return self.opening(|| sys::open_by_handle_at(&mount.fd, &handle, flags.bits()));
            }
            Err(Err(FileType::Directory)) => return Err(Errno::ISDIR),
            Err(Err(_)) if kind == FileType::Directory => return Err(Errno::NOTDIR),
            Err(Err(FileType::Symlink)) => return Err(Errno::LOOP),
            Err(Err(_)) => return Err(Errno::NXIO),
        };
        self.opening(|| self.reopen(&*fd, flags))
    }

    /// Keep hold of what a name leads to, because the name is about to be removed: a client may have it open in ways
    /// that we are not told of (`O_PATH`, FIFOs, a working directory), and without a name nor an open file the lower
    /// filesystem would dispose of it. The kernel forgets it when nobody uses it any more.
    pub fn hold(&self, parent: NodeId, dir: &Fd, name: &CStr) {
        if self.holding() >= self.count.load(Ordering::Relaxed) {
            return;
        }
        // Failing to hold it is no reason not to remove the name.
        if let Some(node) = self.find(parent, dir, name) {
            let _held = self.fd(node);
        }
    }

    /// A name was moved. Matters only where nodes are found by their names.
    pub fn moved(&self, parent: NodeId, name: &CStr) {
        if self.mounts.at(self.near(parent)).handles {
            return;
        }
        let Ok(dir) = self.fd(parent) else { return };
        if let Some(node) = self.find(parent, &dir, name) {
            self.table.with(node, |_, node| node.seen_at(parent, name));
        }
    }

    /// The node a name leads to, if it is known and on the directory's own mount.
    fn find(&self, parent: NodeId, dir: &Fd, name: &CStr) -> Option<NodeId> {
        let mount = self.mounts.at(self.near(parent));
        let stat = rustix::fs::statx(dir, name, NAME_ITSELF, FIELDS).ok()?;
        let here = stat.stx_mnt_id == mount.id;
        here.then(|| self.table.find(&FileKey::new(&self.mounts, mount, &stat))).flatten()
    }

    /// A regular file is being opened: may the kernel keep the data it has of it? `stat` is asked only if it may have
    /// any.
    ///
    /// It may if the file is as it was when the kernel began to cache it. The state then is that of the last lookup
    /// before the first open: whatever was read later was read in that state or in one that has another stamp.
    pub fn opened(&self, node: NodeId, stat: impl FnOnce() -> Result<Statx>) -> bool {
        let known = self.table.with(node, |_, node| {
            let before = (node.bits & OPENED != 0).then_some(node.stamp);
            node.bits |= OPENED;
            before
        });
        let Some(Some(before)) = known else { return false };
        let now = stat().map_or(0, |stat| stamp(&stat));
        if now != 0 && now == before {
            return true;
        }
        self.table.with(node, |_, node| node.stamp = now);
        false
    }

    /// Do something to a path that leads to `fd`: `/proc/self/fd/N`.
    pub fn by_path<R>(&self, fd: &impl AsFd, act: impl FnOnce(&CStr) -> R) -> R {
        const PREFIX: &[u8] = b"/proc/self/fd/";
        let number = Decimal::new(fd.as_fd().as_raw_fd());
        let digits = number.as_c_str().to_bytes_with_nul();
        let mut path = [0; PREFIX.len() + Decimal::ROOM];
        path[..PREFIX.len()].copy_from_slice(PREFIX);
        path[PREFIX.len()..][..digits.len()].copy_from_slice(digits);
        act(CStr::from_bytes_until_nul(&path).unwrap_or(c"/proc/self/fd/-"))
    }
}

/// What became of a node's descriptor.
enum Release {
    /// It is needed still.
    Later,
    /// It may be closed unless the file has no names left. Whether its handle is to be taken down.
    Unless(Arc<Fd>, bool),
    /// There was none.
    Nothing,
}

impl Node {
    fn release(&mut self, handles: bool) -> Release {
        let Some(fd) = &self.fd else { return Release::Nothing };
        if self.bits & USED != 0 {
            self.bits &= !USED;
            return Release::Later;
        }
        match self.way_back {
            WayBack::None if !handles => Release::Later,
            _ => Release::Unless(fd.clone(), handles),
        }
    }

    fn seen(&mut self, stat: &Statx, parent: NodeId, name: &CStr, mount: &Mount) {
        self.stamp_by(stat);
        if !mount.handles {
            self.seen_at(parent, name);
        }
    }

    fn stamp_by(&mut self, stat: &Statx) {
        if self.bits & OPENED == 0 && self.kind == FileType::Regular {
            self.stamp = stamp(stat);
        }
    }

    fn seen_at(&mut self, parent: NodeId, name: &CStr) {
        match &mut self.way_back {
            WayBack::Place(place) if place.parent == parent && *place.name == *name => {}
            way_back => *way_back = WayBack::Place(Box::new(Place { parent, name: name.to_owned() })),
        }
    }
}

fn handle_of(fd: &impl AsFd) -> Result<Handle> {
    sys::name_to_handle_at(fd, c"", libc::AT_EMPTY_PATH).map(|(raw, _)| Handle::new(&raw))
}

fn stat_of(fd: &impl AsFd) -> Result<Statx> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, FIELDS)
}

/// State of a file's content in one number; 0 where it is so young that a change in the same tick of the clock would
/// not show.
fn stamp(stat: &Statx) -> u64 {
    /// Coarser than any clock that stamps files.
    const TICK: i64 = 20_000_000;
    let changed = &stat.stx_ctime;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    let age = (now.tv_sec - changed.tv_sec)
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec - i64::from(changed.tv_nsec));
    if age < TICK {
        return 0;
    }
    let mut mixed = 0xcbf2_9ce4_8422_2325_u64;
    for part in [
        stat.stx_mtime.tv_sec as u64,
        stat.stx_mtime.tv_nsec.into(),
        changed.tv_sec as u64,
        changed.tv_nsec.into(),
        stat.stx_size,
    ] {
        mixed = (mixed ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    mixed.max(1)
}

/// A number as text, without asking for memory.
struct Decimal {
    text: [u8; Self::ROOM],
    start: usize,
}

impl Decimal {
    const ROOM: usize = 12;

    fn new(number: i32) -> Self {
        let mut text = [0; Self::ROOM];
        let mut start = Self::ROOM - 1;
        let mut rest = number.unsigned_abs();
        loop {
            start -= 1;
            text[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return Self { text, start };
            }
        }
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.text[self.start..]).unwrap_or(c"-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_text() {
        for number in [0, 1, 9, 10, 12345, i32::MAX] {
            assert_eq!(Decimal::new(number).as_c_str().to_str().unwrap(), number.to_string());
        }
    }

    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Node>() <= 56, "{}", size_of::<Node>());
    }
}
