//! Names that are about to be moved or removed.

use super::{At, DISTINCT, FileKey, Nodes, WayBack, age, handle_of, stat_of};
use crate::passthrough::fds::Fd;
use fusewire::NodeId;
use rustix::fs::Timespec;
use std::{
    ffi::CStr,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
};

/// A file that is held while its name is removed.
#[derive(Debug)]
pub struct Held {
    node: NodeId,
    key: FileKey,
    fd: Arc<Fd>,
}

/// A name that was just looked up, and a descriptor of what it led to.
#[derive(Debug)]
pub struct Latest {
    parent: NodeId,
    name: Box<CStr>,
    asked: Timespec,
    held: Held,
}

impl Nodes {
    /// Keep the descriptor of what was looked up for a moment: the name is likely to be removed next.
    pub(super) fn remember(&self, at: At<'_>, asked: Timespec, (node, key, fd): (NodeId, FileKey, Fd)) {
        if self.budget.is_over() {
            return;
        }
        let held = Held { node, key, fd: Arc::new(fd) };
        let latest = Latest { parent: at.parent, name: at.name.into(), asked, held };
        let earlier = self.latest().replace(latest);
        // Closed with nothing locked.
        drop(earlier);
    }

    /// What was looked up last, if that was this name and a moment ago. A name changes: it is forgotten in any case.
    fn recall(&self, at: At<'_>) -> Option<Held> {
        let latest = self.latest().take()?;
        // Others may have changed the name since, as they may a moment later.
        let same = latest.parent == at.parent && *latest.name == *at.name;
        (same && age::is_recent(latest.asked, age::now())).then_some(latest.held)
    }

    fn latest(&self) -> MutexGuard<'_, Option<Latest>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keep hold of what a name leads to, because the name is about to be removed: a client may have it open in ways
    /// that we are not told of (`O_PATH`, FIFOs, a working directory), and without a name nor an open file the lower
    /// filesystem would dispose of it. The kernel forgets it when nobody uses it any more.
    ///
    /// `None` where nobody knows it. Also if that fails, which is no reason not to remove the name.
    pub fn hold(&self, at: At<'_>) -> Option<Held> {
        let held = match self.recall(at) {
            Some(held) => held,
            None if self.all_have_descriptors() => return None,
            None => self.find_and_open(at)?,
        };
        self.removals.observe();
        let Held { node, key, fd } = held;
        let fd = self.keep(node, &key, fd);
        Some(Held { node, key, fd })
    }

    fn find_and_open(&self, at: At<'_>) -> Option<Held> {
        let fd = Arc::new(self.glancing(|| at.open()).ok()?);
        let stat = stat_of(&*fd).ok()?;
        let mount = self.mounts.at(self.near(at.parent));
        let key = FileKey::new(&self.mounts, mount, &stat);
        let node = self.table.find(&key).filter(|_| stat.stx_mnt_id == mount.id)?;
        let other = self.table.with(node, |known, node| match &node.way_back {
            // Is it of this file, or of an earlier one of the same number?
            WayBack::Handle(handle) if *known == key && node.fd.is_none() && node.bits & DISTINCT == 0 => {
                Some(handle.clone())
            }
            _ => None,
        });
        let (node, key) = match other.flatten() {
            Some(other) => match handle_of(&*fd).ok()? {
                handle if handle == other => (node, key),
                handle => {
                    let key = key.told_apart(&handle);
                    (self.table.find(&key)?, key)
                }
            },
            None => (node, key),
        };
        Some(Held { node, key, fd })
    }

    /// The name is removed. From now on the descriptor is not given up; it may have been before.
    pub fn removed(&self, held: Option<Held>) {
        if let Some(Held { node, key, fd }) = held {
            self.keep(node, &key, fd);
        }
    }

    /// A name is about to be moved: what it leads to must be found all the same.
    pub fn prepare_move(&self, at: At<'_>) {
        self.recall(at);
        if self.all_have_descriptors() {
            return;
        }
        let by_name = |node| {
            self.table.with(node, |_, node| node.fd.is_none() && matches!(node.way_back, WayBack::Place(_)))
        };
        if self.find(at).and_then(by_name) == Some(true) {
            self.hold(at);
        }
    }

    /// A name was moved. Matters only where nodes are found by their names for want of handles.
    pub fn moved(&self, at: At<'_>) {
        if self.mounts.at(self.near(at.parent)).handles {
            return;
        }
        if let Some(node) = self.find(at) {
            self.table.with(node, |_, node| node.seen_at(at.parent, at.name));
        }
    }

    fn all_have_descriptors(&self) -> bool {
        self.holding() >= self.count.load(Ordering::Relaxed)
    }

    /// The node a name leads to, if it is known and on the directory's own mount.
    fn find(&self, at: At<'_>) -> Option<NodeId> {
        let mount = self.mounts.at(self.near(at.parent));
        let stat = at.stat().ok()?;
        let here = stat.stx_mnt_id == mount.id;
        here.then(|| self.table.find(&FileKey::new(&self.mounts, mount, &stat))).flatten()
    }
}
