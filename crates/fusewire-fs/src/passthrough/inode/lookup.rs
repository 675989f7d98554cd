//! From a name, or a new file, to its node.

use super::{
    At, BATCH, Clock, DISTINCT, FileKey, Found, Habit, Handle, IS_LARGE, Mount, Node, Nodes, OPENED, PATH,
    Seen, WayBack, age, handle_of, stat_of,
};
use crate::passthrough::{fds::Fd, forward::LARGE, identity::mentions, sys};
use fusewire::{FileType, NodeId};
use rustix::{
    fs::{OFlags, Statx, Timespec},
    io::{Errno, Result},
};
use std::{
    ffi::CStr,
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
};

/// How often a lookup begins anew when the name leads to one file now and to another a moment later.
const ATTEMPTS: usize = 16;

/// What a lookup brings to a node.
struct Arrival<'a> {
    seen: &'a Seen<'a>,
    fd: Option<Arc<Fd>>,
    way: Way<'a>,
}

/// A [`WayBack`] that was not asked for memory yet.
enum Way<'a> {
    None,
    Handle(Handle),
    Place(NodeId, &'a CStr),
}

impl Nodes {
    /// Look a name up and count that.
    pub fn lookup(&self, parent: NodeId, name: &CStr) -> Result<Found> {
        let dir = self.fd(parent)?;
        self.lookup_in(At { parent, dir: &dir, name })
    }

    /// The same with the directory at hand.
    pub fn lookup_in(&self, at: At<'_>) -> Result<Found> {
        let mut near = self.near(at.parent);
        for _ in 0..ATTEMPTS {
            // Known nodes need no descriptor, only their attributes; unknown ones need one where there are no handles, and
            // attributes through it.
            let known = self.habit.load(Ordering::Relaxed) >= 2;
            let found = if !self.losses.expect() && (known || self.mounts.at(near).handles) {
                self.look(at, &mut near)
            } else {
                self.grasp(at, &mut near)
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

    /// The mount a file is on.
    fn mount_of(&self, near: &mut u16, stat: &Statx, at: At<'_>) -> Result<&Mount> {
        let mount = match self.mounts.of(*near, stat, (at.dir, at.name), &self.budget) {
            Err(Errno::MFILE) if self.give_up(BATCH) > 0 => {
                self.mounts.of(*near, stat, (at.dir, at.name), &self.budget)?
            }
            mount => mount?,
        };
        *near = mount.index;
        Ok(mount)
    }

    fn seen<'a>(&self, mount: &'a Mount, stat: Statx, asked: Timespec) -> Seen<'a> {
        let key = FileKey::new(&self.mounts, mount, &stat);
        let distinct = mount.has_births(&stat) && !age::is_recent(age::time(&stat.stx_btime), asked);
        Seen { stat, mount, key, distinct, asked }
    }

    /// Look a name up without a descriptor, if that is possible. `None`: it led elsewhere in the meantime.
    fn look(&self, at: At<'_>, near: &mut u16) -> Result<Option<Found>> {
        let asked = age::now();
        // What will be wanted next, if it is as of late: the handle, before the attributes as in `take_handle`; or a
        // descriptor.
        let expect = |habit: &Habit| self.mounts.at(*near).handles && habit.expect();
        let handle =
            expect(&self.openings).then(|| sys::name_to_handle_at(at.dir, at.name, 0).ok()).flatten();
        let fd = expect(&self.removals).then(|| self.glancing(|| at.open()).ok()).flatten();
        let stat = fd.as_ref().map_or_else(|| at.stat(), stat_of)?;
        let seen = self.seen(self.mount_of(near, &stat, at)?, stat, asked);
        let known = if seen.may_go_by_place() {
            let way = match handle {
                Some((raw, id)) if id == seen.mount.id && mentions(&raw, seen.stat.stx_ino) => {
                    Way::Handle(Handle::new(&raw))
                }
                _ => Way::Place(at.parent, at.name),
            };
            Some(self.acquire(seen.key, Arrival { seen: &seen, fd: None, way }))
        } else {
            self.acquire_known(&seen, at)
        };
        match known {
            Some(Ok(found)) => {
                if let Some(fd) = fd {
                    self.remember(at, asked, (found.node, seen.key, fd));
                }
                Ok(Some(found))
            }
            Some(Err(other)) => self.by_handle(at, &seen, Some(&other)),
            None if seen.mount.handles => self.by_handle(at, &seen, None),
            None => {
                self.found_known(false);
                self.grasp(at, near)
            }
        }
    }

    /// Look a name up by its handle. `other`: that of the node which is known by the key. `None`: the name led elsewhere in
    /// the meantime.
    fn by_handle(&self, at: At<'_>, seen: &Seen<'_>, other: Option<&Handle>) -> Result<Option<Found>> {
        let (raw, id) = sys::name_to_handle_at(at.dir, at.name, 0)?;
        if id != seen.mount.id {
            return Ok(None);
        }
        let handle = Handle::new(&raw);
        let mentioned = mentions(&raw, seen.stat.stx_ino);
        // What is opened by it later must be what it is taken for, see `take_handle`.
        let is_sure = mentioned && (seen.key.kind != FileType::Regular || other == Some(&handle));
        if !is_sure {
            let key = FileKey::new(&self.mounts, seen.mount, &at.stat()?);
            let same =
                || sys::name_to_handle_at(at.dir, at.name, 0).map(|(raw, _)| Handle::new(&raw) == handle);
            if key != seen.key || !mentioned && !same()? {
                return Ok(None);
            }
        }
        self.acquire_by_handle(seen, None, handle).map(Some)
    }

    /// Look a name up by a descriptor, where there are no handles. `None`: it led elsewhere in the meantime.
    fn grasp(&self, at: At<'_>, near: &mut u16) -> Result<Option<Found>> {
        let fd = self.glancing(|| at.open())?;
        let asked = age::now();
        let stat = stat_of(&fd)?;
        let seen = self.seen(self.mount_of(near, &stat, at)?, stat, asked);
        let way = if seen.mount.handles { Way::None } else { Way::Place(at.parent, at.name) };
        self.settle(fd, &seen, way).map(Some)
    }

    /// Count a lookup of what a descriptor is of.
    fn settle(&self, fd: Fd, seen: &Seen<'_>, way: Way<'_>) -> Result<Found> {
        let fd = Arc::new(fd);
        let is_over = self.budget.is_over();
        // Without a descriptor there must be another way back.
        if seen.mount.handles && is_over {
            return self.acquire_by_handle(seen, None, handle_of(&*fd)?);
        }
        let keep = matches!(way, Way::None) || !is_over;
        let arrival = Arrival { seen, fd: keep.then(|| fd.clone()), way };
        match self.acquire(seen.key, arrival) {
            Ok(found) => Ok(found),
            // The node's descriptor was closed long ago. Is it of this file, or of an earlier one of the same number?
            Err(_) => {
                let handle = handle_of(&*fd)?;
                self.acquire_by_handle(seen, Some(fd), handle)
            }
        }
    }

    /// A file that was just made and is at hand.
    pub fn adopt(&self, parent: NodeId, name: Option<&CStr>, fd: &impl AsFd) -> Result<Found> {
        let asked = age::now();
        let stat = stat_of(fd)?;
        let mount = self.mounts.at(self.near(parent));
        // Nothing is made across a mount point, except where somebody mounts at this very moment.
        if mount.id != stat.stx_mnt_id {
            return Err(Errno::STALE);
        }
        let seen = self.seen(mount, stat, asked);
        if mount.handles {
            return self.acquire_by_handle(&seen, None, handle_of(fd)?);
        }
        let path = self.glancing(|| self.reopen(fd, PATH - OFlags::NOFOLLOW))?;
        self.settle(path, &seen, name.map_or(Way::None, |name| Way::Place(parent, name)))
    }

    /// Count a lookup of a file with this handle.
    fn acquire_by_handle(&self, seen: &Seen<'_>, fd: Option<Arc<Fd>>, handle: Handle) -> Result<Found> {
        let arrival = || Arrival { seen, fd: fd.clone(), way: Way::Handle(handle.clone()) };
        let found = self.acquire(seen.key, arrival());
        // The node known by that key is of an earlier file with the same number.
        found.or_else(|_| self.acquire(seen.key.told_apart(&handle), arrival())).map_err(|_| Errno::STALE)
    }

    /// Count a lookup of the node with this key, which is made where there is none. `Err`: it has this handle, and may be
    /// another file's.
    fn acquire(&self, key: FileKey, arrival: Arrival<'_>) -> std::result::Result<Found, Handle> {
        let seen = arrival.seen;
        let (node, generation, (new, met)) = self.table.acquire(key, Node::default, |id, node, new| {
            if new && let Some(feed) = self.feed.as_ref().filter(|_| key.is_on_root_device()) {
                feed.node_made(key.ino(), id);
            }
            self.ledger.iter().for_each(|ledger| ledger.looked_up(id, new));
            (new, arrival.meet(id, node, &self.clock))
        });
        if new {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        if !seen.mount.handles {
            self.found_known(!new);
        }
        self.arrived(met, Found { node, generation, stat: seen.stat, is_new: new })
    }

    /// The same for a node that is known; `None` where there is none.
    fn acquire_known(&self, seen: &Seen<'_>, at: At<'_>) -> Option<std::result::Result<Found, Handle>> {
        let way = if seen.mount.handles { Way::None } else { Way::Place(at.parent, at.name) };
        let arrival = Arrival { seen, fd: None, way };
        let (node, generation, met) = self.table.acquire_known(&seen.key, |id, node| {
            self.ledger.iter().for_each(|ledger| ledger.looked_up(id, false));
            arrival.meet(id, node, &self.clock)
        })?;
        if !seen.mount.handles {
            self.found_known(true);
        }
        Some(self.arrived(met, Found { node, generation, stat: seen.stat, is_new: false }))
    }

    fn arrived(&self, met: Met, found: Found) -> std::result::Result<Found, Handle> {
        match met {
            Met::Known => {
                self.note(found.node, found.generation);
                Ok(found)
            }
            Met::Held => {
                self.make_room();
                self.note(found.node, found.generation);
                Ok(found)
            }
            Met::Doubtful(handle) => {
                // It is counted again after a closer look.
                self.forget(found.node, 1);
                Err(handle)
            }
        }
    }
}

/// What came of an arrival at a node.
enum Met {
    Known,
    /// The node has a descriptor now.
    Held,
    /// The node has this handle, and may be of an earlier file with the same number.
    Doubtful(Handle),
}

impl Arrival<'_> {
    fn meet(self, id: NodeId, node: &mut Node, clock: &Clock) -> Met {
        let Self { seen, fd, way } = self;
        if let WayBack::Handle(known) = &node.way_back
            && node.fd.is_none()
            && node.bits & DISTINCT == 0
            && !matches!(&way, Way::Handle(handle) if handle == known)
        {
            return Met::Doubtful(known.clone());
        }
        if seen.distinct {
            node.bits |= DISTINCT;
        }
        if node.bits & OPENED == 0 && seen.key.kind == FileType::Regular {
            node.stamp = age::stamp(&seen.stat, seen.asked);
        }
        node.bits &= !IS_LARGE;
        if seen.key.kind == FileType::Regular && seen.stat.stx_size >= LARGE {
            node.bits |= IS_LARGE;
        }
        let holds = node.fd.is_some();
        match way {
            Way::Handle(handle) => node.way_back = WayBack::Handle(handle),
            // With a descriptor and handles there is no need for it.
            Way::Place(..) if holds && seen.mount.handles => {}
            Way::Place(parent, name) => node.seen_at(parent, name),
            Way::None => {}
        }
        match fd {
            Some(fd) if !holds => {
                node.hold(id, fd, clock);
                Met::Held
            }
            _ => Met::Known,
        }
    }
}

impl Seen<'_> {
    /// Is the place where it was seen enough to find it by, where there are handles?
    fn may_go_by_place(&self) -> bool {
        self.mount.handles && self.distinct && matches!(self.key.kind, FileType::Regular | FileType::Symlink)
    }
}
