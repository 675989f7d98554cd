//! Which nodes have an inode number.

use fusewire::NodeId;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

const SHARDS: usize = 16;

/// Nodes by inode number: more than one where a file is seen through several mounts, or filesystems have the same numbers.
///
/// A node may be entered twice for a moment, when it is forgotten and found again at once; each time counts.
#[derive(Debug, Default)]
pub struct Index([Mutex<HashMap<u64, Nodes>>; SHARDS]);

#[derive(Debug)]
enum Nodes {
    One(NodeId),
    Several(Vec<NodeId>),
}

impl Nodes {
    fn all(&self) -> &[NodeId] {
        match self {
            Self::One(node) => std::slice::from_ref(node),
            Self::Several(nodes) => nodes,
        }
    }
}

impl Index {
    fn shard(&self, ino: u64) -> MutexGuard<'_, HashMap<u64, Nodes>> {
        self.0[ino as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a node of a file with this inode number.
    pub fn insert(&self, ino: u64, node: NodeId) {
        match self.shard(ino).entry(ino) {
            Entry::Vacant(place) => _ = place.insert(Nodes::One(node)),
            Entry::Occupied(mut place) => match place.get_mut() {
                Nodes::Several(nodes) => nodes.push(node),
                Nodes::One(other) => {
                    let both = vec![*other, node];
                    place.insert(Nodes::Several(both));
                }
            },
        }
    }

    /// There is no such node any more.
    pub fn remove(&self, ino: u64, node: NodeId) {
        let mut shard = self.shard(ino);
        let Entry::Occupied(mut place) = shard.entry(ino) else { return };
        match place.get_mut() {
            Nodes::One(only) if *only == node => _ = place.remove(),
            Nodes::One(_) => {}
            Nodes::Several(nodes) => {
                if let Some(at) = nodes.iter().position(|other| *other == node) {
                    nodes.swap_remove(at);
                }
                if let [last] = nodes[..] {
                    place.insert(Nodes::One(last));
                }
            }
        }
    }

    /// Pass the nodes with this number to `take`.
    pub fn each(&self, ino: u64, take: impl FnOnce(&[NodeId])) {
        if let Some(nodes) = self.shard(ino).get(&ino) {
            take(nodes.all());
        }
    }

    /// Pass all nodes to `take`, some at a time and with nothing locked.
    pub fn for_each(&self, mut take: impl FnMut(Vec<NodeId>)) {
        for shard in &self.0 {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let nodes = shard.values().flat_map(|nodes| nodes.all().iter().copied()).collect();
            drop(shard);
            take(nodes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(index: &Index, ino: u64) -> Vec<u64> {
        let mut found = Vec::new();
        index.each(ino, |nodes| found.extend(nodes.iter().map(|node| node.raw())));
        found.sort_unstable();
        found
    }

    #[test]
    fn nodes_are_found_by_number_until_they_are_removed() {
        let index = Index::default();
        let [one, two] = [NodeId::new(7), NodeId::new(8)];
        index.insert(5, one);
        assert_eq!((of(&index, 5), of(&index, 6)), (vec![7], vec![]));
        index.insert(5, two);
        assert_eq!(of(&index, 5), [7, 8]);
        index.remove(5, one);
        assert_eq!(of(&index, 5), [8]);
        index.remove(5, one);
        index.remove(5, two);
        assert_eq!(of(&index, 5), [0u64; 0]);
    }

    /// Found again before the table's removal of it has come here.
    #[test]
    fn a_node_entered_twice_and_removed_once_is_there() {
        let index = Index::default();
        index.insert(5, NodeId::new(7));
        index.insert(5, NodeId::new(7));
        index.remove(5, NodeId::new(7));
        assert_eq!(of(&index, 5), [7]);
    }
}
