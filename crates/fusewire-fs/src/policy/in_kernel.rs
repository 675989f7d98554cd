//! Answers that the kernel gives again by itself.

use super::rules::{Action, Effect, Subject, Subjects};
use fusewire::{Generation, NodeId};
use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{
        Mutex, MutexGuard, PoisonError,
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

/// How many names the kernel is told to be absent, of the nodes of a lock together. With all locks that is what the programs' map
/// has room for.
const NAMES: usize = 4096;

/// How many of these may be of one node.
const NAMES_OF_NODE: usize = 16;

/// Which extended attributes are absent: an answer from before one was set must not be remembered after.
#[derive(Debug)]
pub(super) struct Attributes {
    shards: [Mutex<Shard>; SHARDS],
    /// For how long attributes were last said to be valid, in nanoseconds.
    valid: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    /// How often one was set, or may have been, of nodes together.
    set: u64,
    /// What the kernel was told to be absent, of each node the oldest first.
    told: HashMap<NodeId, Vec<Box<[u8]>>>,
    /// How many names that is.
    names: usize,
    /// Nodes whose attributes are valid for less than [`LONG`].
    short: HashMap<NodeId, Duration>,
}

impl Shard {
    /// What the kernel was told of a node, which it is told no more.
    fn take(&mut self, node: NodeId) -> Vec<Box<[u8]>> {
        let names = self.told.remove(&node).unwrap_or_default();
        self.names -= names.len();
        names
    }

    /// One more of the node. What makes room for it is handed to `take_back`.
    fn add(&mut self, (node, name): (NodeId, &[u8]), take_back: impl Fn(NodeId, &[u8])) {
        let known = self.told.entry(node).or_default();
        if known.iter().any(|known| **known == *name) {
            return;
        }
        known.push(name.into());
        self.names += 1;
        if known.len() > NAMES_OF_NODE {
            take_back(node, &known.remove(0));
            self.names -= 1;
        }
        if self.names > NAMES
            && let Some(&other) = self.told.keys().find(|other| **other != node)
        {
            self.take(other).iter().for_each(|name| take_back(other, name));
        }
    }
}

/// What is valid for longer is valid until somebody says otherwise.
const LONG: Duration = Duration::from_secs(3600);

impl Default for Attributes {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), valid: AtomicU64::new(0) }
    }
}

impl Attributes {
    fn shard(&self, node: NodeId) -> MutexGuard<'_, Shard> {
        self.shards[node.raw() as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The filesystem says that attributes of the node may be believed for so long.
    pub fn trusted_for(&self, node: NodeId, valid: Duration) {
        let nanos = u64::try_from(valid.as_nanos()).unwrap_or(u64::MAX);
        if self.valid.load(Ordering::Relaxed) != nanos {
            self.valid.store(nanos, Ordering::Relaxed);
        }
        match valid < LONG {
            true => _ = self.shard(node).short.insert(node, valid),
            false => _ = self.shard(node).short.remove(&node),
        }
    }

    /// To be asked for before the filesystem is.
    pub fn version(&self, node: NodeId) -> u64 {
        self.shard(node).set
    }

    /// An attribute of the node is set.
    pub fn set(&self, node: NodeId, tell: impl FnOnce()) {
        let mut shard = self.shard(node);
        shard.set += 1;
        tell();
    }

    /// Any may have been, by somebody else: `take_back` is what the kernel was told.
    pub fn perhaps_set(&self, node: NodeId, take_back: impl Fn(&[u8])) {
        let mut shard = self.shard(node);
        shard.set += 1;
        shard.take(node).iter().for_each(|name| take_back(name));
    }

    /// The node is forgotten.
    pub fn forgotten(&self, node: NodeId, take_back: impl Fn(&[u8])) {
        self.perhaps_set(node, take_back);
        self.shard(node).short.remove(&node);
    }

    /// The node has none of that name, unless one was set since that version, or nothing may be believed at all. `tell` says so, for so
    /// long, and `take_back` what is not known any more to make room.
    pub fn unless_set(
        &self,
        (node, name): (NodeId, &[u8]),
        version: u64,
        tell: impl FnOnce(Duration),
        take_back: impl Fn(NodeId, &[u8]),
    ) {
        let mut shard = self.shard(node);
        let last = || Duration::from_nanos(self.valid.load(Ordering::Relaxed));
        let valid = shard.short.get(&node).copied().unwrap_or_else(last);
        if shard.set != version || valid.is_zero() {
            return;
        }
        shard.add((node, name), take_back);
        tell(valid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn told(attributes: &Attributes, node: NodeId, version: u64) -> Option<Duration> {
        let mut told = None;
        attributes.unless_set((node, b"user.x"), version, |valid| told = Some(valid), |_, _| ());
        told
    }

    #[test]
    fn what_was_found_before_it_was_set_is_not_remembered() {
        let attributes = Attributes::default();
        let node = NodeId::new(5);
        let before = attributes.version(node);
        assert_eq!(told(&attributes, node, before), None, "nothing is to be believed");
        attributes.trusted_for(node, Duration::from_secs(1));
        assert_eq!(told(&attributes, node, before), Some(Duration::from_secs(1)));
        attributes.set(node, || ());
        assert_eq!(told(&attributes, node, before), None);
        assert!(told(&attributes, node, attributes.version(node)).is_some());
    }

    #[test]
    fn what_others_may_have_set_is_taken_back() {
        let attributes = Attributes::default();
        let node = NodeId::new(5);
        attributes.trusted_for(node, 2 * LONG);
        let before = attributes.version(node);
        assert_eq!(told(&attributes, node, before), Some(2 * LONG));
        let taken = RefCell::new(Vec::new());
        attributes.perhaps_set(node, |name| taken.borrow_mut().push(name.to_owned()));
        assert_eq!(taken.take(), [b"user.x"]);
        assert_eq!(told(&attributes, node, before), None, "it was read before");
        attributes.perhaps_set(node, |name| taken.borrow_mut().push(name.to_owned()));
        assert!(taken.take().is_empty());
    }

    #[test]
    fn what_is_valid_for_a_moment_is_so_by_node() {
        let attributes = Attributes::default();
        let (short, long) = (NodeId::new(5), NodeId::new(6));
        attributes.trusted_for(short, Duration::from_secs(1));
        attributes.trusted_for(long, 2 * LONG);
        assert_eq!(told(&attributes, short, 0), Some(Duration::from_secs(1)));
        assert_eq!(told(&attributes, long, 0), Some(2 * LONG));
    }

    #[test]
    fn there_is_a_bound_and_what_makes_room_is_taken_back() {
        let attributes = Attributes::default();
        let taken = RefCell::new(0);
        let walk = |nodes: std::ops::RangeInclusive<usize>, name: &[u8]| {
            for node in nodes {
                let node = NodeId::new(node as u64);
                attributes.trusted_for(node, 2 * LONG);
                attributes.unless_set((node, name), 0, |_| (), |_, _| *taken.borrow_mut() += 1);
            }
            taken.take()
        };
        let all = NAMES * SHARDS;
        // A tree that is walked by programs that ask for two attributes each time.
        assert_eq!((walk(1..=all / 2, b"user.x"), walk(1..=all / 2, b"user.y")), (0, 0));
        assert_eq!(walk(1..=all / 2, b"user.x"), 0, "known already");
        // The names of another node go at once, and there may be two of them.
        assert!((all / 2..=all / 2 + SHARDS).contains(&walk(all / 2 + 1..=all, b"user.x")));
        (1..=SHARDS).for_each(|node| attributes.forgotten(NodeId::new(node as u64), |_| ()));
        let names: usize = (1..=SHARDS).map(|node| attributes.shard(NodeId::new(node as u64)).names).sum();
        let told =
            |node| attributes.shard(NodeId::new(node as u64)).told.values().map(Vec::len).sum::<usize>();
        assert_eq!(names, (1..=SHARDS).map(told).sum::<usize>(), "they are counted");
    }

    #[test]
    fn one_node_does_not_take_the_room_of_others() {
        let attributes = Attributes::default();
        let (node, other) = (NodeId::new(5), NodeId::new(5 + SHARDS as u64));
        attributes.trusted_for(node, 2 * LONG);
        let taken = RefCell::new(Vec::new());
        let ask = |node, name: &[u8]| {
            attributes.unless_set(
                (node, name),
                0,
                |_| (),
                |of, name| taken.borrow_mut().push((of, name.to_vec())),
            );
        };
        ask(other, b"user.x");
        (0..3 * NAMES).for_each(|number| ask(node, format!("user.{number}").as_bytes()));
        let taken = taken.take();
        assert_eq!(taken.len(), 3 * NAMES - NAMES_OF_NODE);
        assert!(taken.iter().all(|(of, _)| *of == node) && taken[0].1 == b"user.0", "the oldest of its own");
    }
}
