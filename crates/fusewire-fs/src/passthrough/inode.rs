//! The nodes: what each number the kernel knows stands for below.
//!
//! Nodes in use, directories above all, have an `O_PATH` descriptor: nothing is quicker to read attributes by, to open
//! again, and to keep hold of a file that loses its names. When there are enough, the one not used for longest (by a
//! clock) is closed. A node without a descriptor has a way back, one of
//!
//! * the place where it was last seen, parent and name: whatever is found there later must have the same device, inode
//!   number, kind and birth time, or the node is stale;
//! * the file handle, where the lower filesystem has lasting ones and we may use them. It leads to the file wherever that
//!   is moved.
//!
//! Where there are handles, new nodes have no descriptor, so that walking through a million files takes none, and files that
//! are only looked at have no handle either: looking one up takes a single system call. A place may do because the kernel
//! asks again, by name, when it is told `ESTALE` about a path; what a client holds on to otherwise must not depend on what
//! others do to names. So a node gets its handle
//!
//! * when it is opened, and when its descriptor is closed;
//! * from the start if it is a directory or special file, which clients use without our being told; if it is so young that
//!   another file might yet have its number and birth time; or if its filesystem's birth times do not tell files apart.
//!
//! And before a name is moved or removed through the mount, what it leads to gets a descriptor. Others may replace files under
//! our hands: a client whose file is gone looks its name up once more, and only once; so once that was seen, what is looked
//! up gets a descriptor for a while, which cannot be lost.
//!
//! The cache is marks in the nodes and a list beside them, instead of a ready-made cache beside the table, because a
//! request locks the node's shard anyway: a hit then costs nothing more.

mod age;
mod clock;
mod find;
mod habit;
mod keep;
mod lookup;
mod moves;
mod proc;

use super::{
    fds::{Budget, Fd, Permit, is_exhausted},
    feed::Feed,
    handle::OpenFiles,
    identity::{FileKey, Handle},
    keep::Writer,
    mounts::{FIELDS, Mount, Mounts},
    sys,
};
use clock::Clock;
use fusewire::{Generation, NodeId, table::NodeTable};
use habit::Habit;
use moves::Latest;
pub use proc::{Proc, by_number};
use rustix::{
    fs::{AtFlags, Mode, OFlags, Statx, Timespec},
    io::{Errno, Result},
};
use std::{
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

/// How many descriptors are given up at once when there are no more.
const BATCH: usize = 64;
/// How many nodes keep a descriptor at most where they can do without: enough for the directories in use.
const ENOUGH: usize = 256;
/// `O_PATH` of whatever it is, never through a symbolic link.
const PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The descriptor was used since the clock's hand passed.
const USED: u8 = 1;
/// The stamp is that of what the kernel may have cached.
const OPENED: u8 = 2;
/// Its number and birth time are no other file's, now or later; see [`Seen::distinct`].
const DISTINCT: u8 = 4;
/// It may be mapped for writing past us; see [`Nodes::may_be_mapped`].
const MAPPED: u8 = 8;
/// It was as large as to be forwarded when it was looked up last.
const IS_LARGE: u8 = 16;

/// What is kept of a node.
#[derive(Debug, Default)]
struct Node {
    fd: Option<Arc<Fd>>,
    way_back: WayBack,
    /// Times and size in one number; see [`Nodes::opened`].
    stamp: u64,
    /// Where on the clock it is, if it has a descriptor.
    place: u32,
    bits: u8,
}

/// How to find a file without a descriptor.
#[derive(Debug, Clone, Default)]
enum WayBack {
    /// Not known, or not known yet.
    #[default]
    None,
    Handle(Handle),
    Place(Place),
}

/// Where a file was last seen.
#[derive(Debug, Clone)]
struct Place {
    /// Does not keep the parent known: the number may be another directory's by now, or no directory's.
    parent: NodeId,
    name: Box<CStr>,
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// The directory.
    pub parent: NodeId,
    /// A descriptor of it.
    pub dir: &'a Fd,
    /// The name.
    pub name: &'a CStr,
}

/// What was found under a name, or behind a descriptor.
#[derive(Debug)]
struct Seen<'a> {
    stat: Statx,
    mount: &'a Mount,
    key: FileKey,
    /// Whether no other file has its number and birth time, or will have: it was old when it was seen, so that whoever gets
    /// the number later is born later.
    distinct: bool,
    /// When it was asked for.
    asked: Timespec,
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
    /// The kernel did not know of it.
    pub is_new: bool,
}

/// All nodes.
#[derive(Debug)]
pub struct Nodes {
    table: NodeTable<FileKey, Node>,
    /// The lower mounts.
    pub mounts: Mounts,
    /// The descriptors.
    pub budget: Arc<Budget>,
    /// What clients have open of nodes that could be lost.
    pub open_files: OpenFiles,
    root: Arc<Fd>,
    /// `/proc/self/fd`.
    proc: Proc,
    /// Nodes with a descriptor, without the root.
    clock: Clock,
    /// How many nodes there are, without the root.
    count: AtomicUsize,
    /// How many of them may be mapped.
    mapped: AtomicUsize,
    holding_limit: usize,
    /// Whether lookups of late found nodes that are known (2, 3) or not (0, 1): each case has its own cheapest way where
    /// there are no handles.
    habit: AtomicU8,
    /// Whether what is looked up is then opened, or removed.
    openings: Habit,
    removals: Habit,
    /// Whether what is looked up is gone before it is used: others remove or replace files underneath, just now.
    losses: Habit,
    /// What was looked up last, while names are removed after that.
    latest: Mutex<Option<Latest>>,
    /// Is told of nodes on the root's filesystem.
    feed: Option<Arc<Feed>>,
    /// Keeps what the client knows.
    pub ledger: Option<Writer>,
}

impl Nodes {
    /// Nodes below the root of `mounts`.
    pub fn new(mounts: Mounts, budget: Arc<Budget>, proc: Proc, feed: Option<Arc<Feed>>) -> Result<Self> {
        let permit = budget.take().ok_or(Errno::MFILE)?;
        let root =
            Arc::new(Fd::new(rustix::fs::openat(&mounts.root().fd, c".", PATH, Mode::empty())?, permit));
        let key = FileKey::new(&mounts, mounts.root(), &stat_of(&root)?);
        let node = Node { fd: Some(root.clone()), ..Node::default() };
        // Open files come first: they cannot be given up. Where nodes need descriptors they get most of what there is.
        let limit = budget.limit();
        let is_by_file = feed.as_ref().is_some_and(|feed| feed.is_by_file());
        let need_none = mounts.root().handles && !is_by_file;
        let holding_limit = if need_none { (limit / 2).min(ENOUGH) } else { limit / 4 * 3 };
        if let Some(feed) = &feed {
            feed.bound_watches(holding_limit / 2);
            feed.watch_root(key.ino(), root.clone());
        }
        Ok(Self {
            table: NodeTable::new(key, node),
            mounts,
            budget,
            open_files: OpenFiles::default(),
            root,
            proc,
            clock: Clock::default(),
            count: AtomicUsize::new(0),
            mapped: AtomicUsize::new(0),
            holding_limit,
            habit: AtomicU8::new(0),
            openings: Habit::default(),
            removals: Habit::default(),
            losses: Habit::default(),
            latest: Mutex::default(),
            feed,
            ledger: None,
        })
    }

    /// How many nodes there are, the root included.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed) + 1
    }

    /// How many of them have a descriptor, the root not counted.
    pub fn holding(&self) -> usize {
        self.clock.len()
    }

    /// The kernel forgets. Was that the last of the node?
    pub fn forget(&self, node: NodeId, count: u64) -> bool {
        // Before: the number may be another node's afterwards.
        self.ledger.iter().for_each(|ledger| ledger.forgotten(node, count));
        let Some((key, gone)) = self.table.forget(node, count) else { return false };
        self.gone(node, &key, &gone);
        true
    }

    /// The client is gone: all nodes but the root are.
    pub fn give_all_up(&self) {
        self.table.forget_all(|id, key, node| self.gone(id, &key, &node));
    }

    /// A node is not in the table any more.
    fn gone(&self, id: NodeId, key: &FileKey, node: &Node) {
        if let Some(feed) = self.feed.as_ref().filter(|_| key.is_on_root_device()) {
            feed.node_forgotten(key.ino(), id);
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.mapped.fetch_sub(usize::from(node.bits & MAPPED != 0), Ordering::Relaxed);
        if node.fd.is_some() {
            self.clock.remove(node.place);
        }
    }

    /// One lookup more of a node that is known.
    pub fn again(&self, node: NodeId) -> Result<Generation> {
        let generation = self.table.acquire_again(node).ok_or(Errno::STALE)?;
        self.ledger.iter().for_each(|ledger| ledger.looked_up(node, false));
        Ok(generation)
    }

    /// The inode number of a node on the root's own filesystem.
    pub fn ino_on_root_device(&self, node: NodeId) -> Option<u64> {
        self.table.with(node, |key, _| key.is_on_root_device().then(|| key.ino())).flatten()
    }

    /// The mount a node is on.
    pub fn mount(&self, node: NodeId) -> Result<&Mount> {
        if self.mounts.is_one() {
            return Ok(self.mounts.root());
        }
        let index = self.table.with(node, |key, _| key.mount).ok_or(Errno::STALE)?;
        Ok(self.mounts.at(index))
    }

    /// The mount of a directory, as a guess for what is in it.
    fn near(&self, parent: NodeId) -> u16 {
        if parent == NodeId::ROOT || self.mounts.is_one() {
            return 0;
        }
        self.table.with(parent, |key, _| key.mount).unwrap_or(0)
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

    /// Have a node keep a descriptor, which was opened for `key`; answers the one that it has if another thread was faster.
    fn keep(&self, id: NodeId, key: &FileKey, fd: Arc<Fd>) -> Arc<Fd> {
        if self.budget.is_over() {
            return fd;
        }
        let mut is_new = false;
        let kept = self.table.with(id, |known, node| {
            if known != key {
                // Forgotten meanwhile, and the number given to another file.
                return None;
            }
            if node.fd.is_none() {
                is_new = true;
                node.hold(id, fd.clone(), &self.clock);
                node.bits |= USED;
            }
            node.fd.clone()
        });
        if is_new {
            self.make_room();
        }
        kept.flatten().unwrap_or(fd)
    }

    /// A node has got a descriptor.
    fn make_room(&self) {
        if self.holding() > self.holding_limit {
            self.give_up(1);
        }
    }

    /// Close up to `count` descriptors of nodes, those first that were not used of late. Answers how many.
    fn give_up(&self, count: usize) -> usize {
        let mut given = 0;
        // Twice around: the first time takes the marks of use away.
        let mut steps = (self.holding() * 2).min(count * 64);
        while given < count && steps > 0 {
            steps -= 1;
            let Some((place, id)) = self.clock.advance() else { break };
            let release = |key: &FileKey, node: &mut Node| {
                // The watch has the descriptor, too: to close it here would give nothing back.
                let is_watched = key.is_on_root_device()
                    && self.feed.as_ref().is_some_and(|feed| feed.is_watched_by_itself(key.ino()));
                if is_watched { None } else { node.release(place, self.mounts.at(key.mount)) }
            };
            if let Some((fd, handle)) = self.table.with(id, release).flatten() {
                given += usize::from(self.give_up_one(id, &fd, handle));
            }
        }
        given
    }

    /// Close a node's descriptor unless it is all that is left of the file; take down the handle first if need be.
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
            let same = node.fd.take_if(|there| Arc::ptr_eq(there, fd))?;
            self.clock.remove(node.place);
            if let Some(way_back) = way_back {
                node.way_back = way_back;
            }
            Some(same)
        });
        closed.flatten().is_some()
    }

    /// The kernel may from now on have a file mapped, and written, without our knowing. Is that new? It holds for as long as the
    /// node is known: the mapping may outlive the open file.
    pub fn may_be_mapped(&self, node: NodeId) -> bool {
        let is_new = self.table.with(node, |_, node| {
            let before = node.bits;
            node.bits |= MAPPED;
            before & MAPPED == 0
        });
        let is_new = is_new.unwrap_or(false);
        self.mapped.fetch_add(usize::from(is_new), Ordering::Release);
        is_new
    }

    /// Was [`may_be_mapped`](Self::may_be_mapped) called for it?
    pub fn is_perhaps_mapped(&self, node: NodeId) -> bool {
        self.mapped.load(Ordering::Acquire) > 0
            && self.table.with(node, |_, node| node.bits & MAPPED != 0).unwrap_or(false)
    }

    /// Was the file large when it was looked up last?
    pub fn is_large(&self, node: NodeId) -> bool {
        self.table.with(node, |_, node| node.bits & IS_LARGE != 0).unwrap_or(false)
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
        let asked = age::now();
        let now = stat().map_or(0, |stat| age::stamp(&stat, asked));
        if now != 0 && now == before {
            return true;
        }
        self.table.with(node, |_, node| node.stamp = now);
        false
    }
}

impl Node {
    /// Take a descriptor.
    fn hold(&mut self, id: NodeId, fd: Arc<Fd>, clock: &Clock) {
        self.fd = Some(fd);
        self.place = clock.insert(id);
    }

    /// The descriptor, if it may be closed unless the file has no names left; and whether its handle is to be taken down.
    /// `place`: where the clock's hand stands.
    fn release(&mut self, place: u32, mount: &Mount) -> Option<(Arc<Fd>, bool)> {
        let fd = self.fd.as_ref().filter(|_| self.place == place)?;
        if self.bits & USED != 0 {
            self.bits &= !USED;
            return None;
        }
        match self.way_back {
            WayBack::Handle(_) => Some((fd.clone(), false)),
            // Names may have changed while the node had a descriptor to go by.
            WayBack::None | WayBack::Place(_) if mount.handles => Some((fd.clone(), true)),
            WayBack::Place(_) => Some((fd.clone(), false)),
            WayBack::None => None,
        }
    }

    fn seen_at(&mut self, parent: NodeId, name: &CStr) {
        match &self.way_back {
            WayBack::Handle(_) => {}
            WayBack::Place(place) if place.parent == parent && *place.name == *name => {}
            WayBack::None | WayBack::Place(_) => {
                self.way_back = WayBack::Place(Place { parent, name: name.into() });
            }
        }
    }
}

impl At<'_> {
    /// Attributes of what the name leads to, mounting nothing.
    fn stat(self) -> Result<Statx> {
        rustix::fs::statx(self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, FIELDS)
    }

    /// An `O_PATH` descriptor of what the name leads to.
    fn open(self) -> Result<OwnedFd> {
        rustix::fs::openat(self.dir, self.name, PATH, Mode::empty())
    }
}

fn handle_of(fd: &impl AsFd) -> Result<Handle> {
    sys::name_to_handle_at(fd, c"", libc::AT_EMPTY_PATH).map(|(raw, _)| Handle::new(&raw))
}

fn stat_of(fd: &impl AsFd) -> Result<Statx> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, FIELDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Node>() <= 56, "{}", size_of::<Node>());
    }
}
