//! Answers that the kernel gives again by itself.

use super::rules::{Action, Effect, Subject, Subjects};
use fusewire::{Generation, NodeId};
use std::{
    fmt::Debug,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A node at a time when something was decided about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The node.
    pub node: NodeId,
    /// Which use of its number.
    pub generation: Generation,
    /// The version of what is denied that was in force.
    pub version: u64,
}

/// What can have the kernel give answers again, such as programs for its security hooks. It may forget at any time, and
/// must not answer what it was not told.
pub trait InKernel: Debug + Send + Sync {
    /// `subject` may not do this. Holds only while the version is the one of the moment.
    fn denied(&self, moment: Moment, subject: Subject, action: Action);

    /// The version in force from now on. When this returns, nothing is denied because of another one.
    fn denials_of(&self, version: u64);

    /// Who has access to a node from now on, by the first that fits, or by `others`. If it answers true, the kernel sees to that
    /// without asking, until it is told otherwise; else what it was told before still holds.
    fn close(&self, node: (NodeId, Generation), list: &[Subjects], others: Effect) -> bool;

    /// Everybody has access to the node, or it was forgotten.
    fn open(&self, node: (NodeId, Generation));

    /// The node has no extended attribute of that name, and that may be believed for so long.
    fn absent(&self, node: (NodeId, Generation), name: &[u8], valid: Duration);

    /// How often the kernel answered by itself: that somebody may not, and that an attribute is absent.
    fn answered(&self) -> (u64, u64);

    /// The session is over: nothing is answered any more.
    fn ended(&self);

    /// It may have one. When this returns, it is not found absent because of what was told before.
    fn perhaps_present(&self, node: (NodeId, Generation), name: &[u8]);
}

/// Nodes with a lock in common.
const SHARDS: usize = 64;

/// When extended attributes were set: an answer from before must not be remembered after.
#[derive(Debug)]
pub(super) struct Attributes {
    /// How often one was set, of nodes together.
    set: [Mutex<u64>; SHARDS],
    /// For how long attributes were last said to be valid, in nanoseconds.
    valid: AtomicU64,
}

impl Default for Attributes {
    fn default() -> Self {
        Self { set: std::array::from_fn(|_| Mutex::new(0)), valid: AtomicU64::new(0) }
    }
}

impl Attributes {
    fn shard(&self, node: NodeId) -> &Mutex<u64> {
        &self.set[node.raw() as usize % SHARDS]
    }

    /// The filesystem says that its attributes may be believed for so long.
    pub fn trusted_for(&self, valid: Duration) {
        let nanos = u64::try_from(valid.as_nanos()).unwrap_or(u64::MAX);
        if self.valid.load(Ordering::Relaxed) != nanos {
            self.valid.store(nanos, Ordering::Relaxed);
        }
    }

    /// To be asked for before the filesystem is.
    pub fn version(&self, node: NodeId) -> u64 {
        *self.shard(node).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attribute of the node is set.
    pub fn set(&self, node: NodeId, tell: impl FnOnce()) {
        let mut count = self.shard(node).lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        tell();
    }

    /// Unless one was set since that version, or nothing may be believed at all.
    pub fn unless_set(&self, node: NodeId, version: u64, tell: impl FnOnce(Duration)) {
        let valid = Duration::from_nanos(self.valid.load(Ordering::Relaxed));
        let count = self.shard(node).lock().unwrap_or_else(PoisonError::into_inner);
        if *count == version && !valid.is_zero() {
            tell(valid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_before_it_was_set_is_not_remembered() {
        let attributes = Attributes::default();
        let node = NodeId::new(5);
        let told = |version| {
            let mut told = None;
            attributes.unless_set(node, version, |valid| told = Some(valid));
            told
        };
        let before = attributes.version(node);
        assert_eq!(told(before), None, "nothing is to be believed");
        attributes.trusted_for(Duration::from_secs(1));
        assert_eq!(told(before), Some(Duration::from_secs(1)));
        attributes.set(node, || ());
        assert_eq!(told(before), None);
        assert!(told(attributes.version(node)).is_some());
    }
}
