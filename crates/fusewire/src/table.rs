//! Tables a filesystem may keep its nodes and open files in: lookup counts, generations, numbers that cannot be forged.
//!
//! They are parts to use, not imposed: a filesystem whose node numbers are given by something else needs neither.
//!
//! Both are split into [`SHARDS`] independently locked parts. A lock is held for a hash lookup and the closure given,
//! never for a system call of the table's own; closures must not come back to the same table.

use crate::types::{Generation, Handle, NodeId};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Parts into which a table is split. A power of two; the low bits of every number say which part it belongs to.
pub const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 4;
/// The shard of the root: what the low bits of [`NodeId::ROOT`] say.
const ROOT_SHARD: usize = NodeId::ROOT.raw() as usize & (SHARDS - 1);
/// Slots are allocated in chunks, so that growing neither moves them nor leaves half of the memory unused.
const CHUNK: usize = 512;
/// End of a list of vacant slots.
const NONE: u32 = u32::MAX;

/// Locks a shard. A panic in a closure leaves the table itself in order, so poisoning says nothing.
fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A growing array in chunks with a list of vacant places.
#[derive(Debug)]
struct Slab<T> {
    chunks: Vec<Vec<Slot<T>>>,
    vacant: u32,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    Vacant { next: u32 },
    Used(T),
}

impl<T> Slab<T> {
    const fn new() -> Self {
        Self { chunks: Vec::new(), vacant: NONE, len: 0 }
    }

    fn slot(&mut self, index: u32) -> Option<&mut Slot<T>> {
        self.chunks.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)
    }

    fn get(&mut self, index: u32) -> Option<(u32, &mut T)> {
        match self.slot(index)? {
            Slot { generation, state: State::Used(value) } => Some((*generation, value)),
            Slot { state: State::Vacant { .. }, .. } => None,
        }
    }

    fn peek(&self, index: u32) -> Option<&T> {
        match &self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)?.state {
            State::Used(value) => Some(value),
            State::Vacant { .. } => None,
        }
    }

    /// Where the value went, and the generation of that place. The first use of a place has generation `first`.
    fn insert(&mut self, value: T, first: u32) -> (u32, u32) {
        self.len += 1;
        let index = self.vacant;
        if let Some(slot) = self.slot(index) {
            slot.generation = slot.generation.wrapping_add(1).max(1);
            let generation = slot.generation;
            if let State::Vacant { next } = mem::replace(&mut slot.state, State::Used(value)) {
                self.vacant = next;
            }
            return (index, generation);
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let full = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().expect("a chunk was pushed if there was none with room");
        let index = (full + chunk.len()) as u32;
        chunk.push(Slot { generation: first, state: State::Used(value) });
        (index, first)
    }

    fn remove(&mut self, index: u32) -> Option<T> {
        let next = self.vacant;
        let slot = self.slot(index)?;
        match mem::replace(&mut slot.state, State::Vacant { next }) {
            State::Used(value) => {
                self.vacant = index;
                self.len -= 1;
                Some(value)
            }
            State::Vacant { next } => {
                slot.state = State::Vacant { next };
                None
            }
        }
    }

    /// Fill a place that was not used yet; `false` if it is used. [`relink`](Self::relink) is due afterwards.
    fn place(&mut self, index: u32, generation: u32, value: T) -> bool {
        while self.chunks.len() <= index as usize / CHUNK {
            let full = |_| Slot { generation: 0, state: State::Vacant { next: NONE } };
            self.chunks.push((0..CHUNK).map(full).collect());
        }
        let last = self.chunks.last_mut().expect("there is one at least");
        while last.len() < CHUNK {
            last.push(Slot { generation: 0, state: State::Vacant { next: NONE } });
        }
        match self.slot(index) {
            Some(slot) if matches!(slot.state, State::Vacant { .. }) => {
                *slot = Slot { generation, state: State::Used(value) };
                self.len += 1;
                true
            }
            _ => false,
        }
    }

    /// Make the list of vacant places anew.
    fn relink(&mut self) {
        self.vacant = NONE;
        for (number, slot) in self.chunks.iter_mut().flatten().enumerate() {
            if let State::Vacant { next } = &mut slot.state {
                *next = mem::replace(&mut self.vacant, number as u32);
            }
        }
    }

    fn into_values(self) -> impl Iterator<Item = (u32, T)> {
        let values = self.chunks.into_iter().flatten().enumerate();
        values.filter_map(|(index, slot)| match slot.state {
            State::Used(value) => Some((index as u32, value)),
            State::Vacant { .. } => None,
        })
    }

    fn values(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten().filter_map(|slot| match &slot.state {
            State::Used(value) => Some(value),
            State::Vacant { .. } => None,
        })
    }
}

/// What a filesystem knows of the nodes the kernel knows.
///
/// Each has a key, by which the filesystem recognises it (device and inode number, a path, a row of a database), and a
/// value. The number given to the kernel is made here. A node lives until the kernel has [forgotten](Self::forget)
/// every lookup of it; its number may then be given to another node, with another generation.
///
/// Memory: per node the key and the value, 24 bytes (lookup count, generation, state; less where padding takes it in),
/// and 6 to 12 bytes of index. The key is stored once. Memory of forgotten nodes is kept for new ones.
pub struct NodeTable<K, V> {
    shards: Box<[Mutex<NodeShard<K, V>>]>,
    hasher: DefaultHashBuilder,
    /// Added to a hash's shard, so that the root comes to lie where its number says.
    turn: usize,
    /// By hash, nodes that [`restore`](NodeTable::restore) put elsewhere than where their keys belong.
    strays: Mutex<HashMap<u64, Vec<NodeId>>>,
    /// How many: where there are none, nobody looks.
    stray: AtomicUsize,
}

/// Most places of a shard that can be restored: whoever asks for more is making it up.
const RESTORED: u32 = 1 << 18;

/// A node as it was in another table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its number.
    pub id: NodeId,
    /// How often it had been looked up.
    pub lookups: u64,
    /// Its generation.
    pub generation: Generation,
}

struct NodeShard<K, V> {
    nodes: Slab<Node<K, V>>,
    index: HashTable<u32>,
}

struct Node<K, V> {
    lookups: u64,
    key: K,
    value: V,
}

impl<K, V> fmt::Debug for NodeTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeTable").finish_non_exhaustive()
    }
}

/// Number of the node in `slot` of `shard`.
const fn node_id(shard: usize, slot: u32) -> NodeId {
    // Slot 0 of the root's shard is the root, whose number is that of its shard alone; all others count from one.
    if shard == ROOT_SHARD && slot == 0 {
        return NodeId::ROOT;
    }
    NodeId::new(((slot as u64 + 1) << SHARD_BITS) | shard as u64)
}

/// Shard and slot of a node, whether or not there is one.
fn place(id: NodeId) -> Option<(usize, u32)> {
    let shard = id.raw() as usize & (SHARDS - 1);
    if id == NodeId::ROOT {
        return Some((shard, 0));
    }
    let slot = u32::try_from((id.raw() >> SHARD_BITS).checked_sub(1)?).ok()?;
    // The root has one name only.
    (shard != ROOT_SHARD || slot != 0).then_some((shard, slot))
}

impl<K: Hash + Eq, V> NodeTable<K, V> {
    /// A table that knows the root.
    pub fn new(root: K, value: V) -> Self {
        let hasher = DefaultHashBuilder::default();
        let mut table = Self {
            shards: (0..SHARDS)
                .map(|_| Mutex::new(NodeShard { nodes: Slab::new(), index: HashTable::new() }))
                .collect(),
            turn: 0,
            hasher,
            strays: Mutex::default(),
            stray: AtomicUsize::new(0),
        };
        let hash = table.hasher.hash_one(&root);
        table.turn = ROOT_SHARD.wrapping_sub(table.shard_of(hash));
        table.acquire(root, || value, |_, _, _| ());
        table
    }

    /// The top bits: the index inside a shard uses the others.
    fn shard_of(&self, hash: u64) -> usize {
        ((hash >> 48) as usize).wrapping_add(self.turn) & (SHARDS - 1)
    }

    /// One lookup more of the node with this key, which is made where there is none; then `then` on its number, its
    /// value and whether it is new.
    pub fn acquire<R>(
        &self,
        key: K,
        make: impl FnOnce() -> V,
        then: impl FnOnce(NodeId, &mut V, bool) -> R,
    ) -> (NodeId, Generation, R) {
        let hash = self.hasher.hash_one(&key);
        let (key, then) = match self.acquire_stray(hash, key, then) {
            Ok(acquired) => return acquired,
            Err(back) => back,
        };
        let shard_number = self.shard_of(hash);
        let shard = &mut *lock(&self.shards[shard_number]);
        let (slot, new) = match shard.find(hash, &key) {
            Some(slot) => (slot, false),
            None => {
                let (slot, _) = shard.nodes.insert(Node { lookups: 0, key, value: make() }, 0);
                let (nodes, hasher) = (&shard.nodes, &self.hasher);
                shard.index.insert_unique(hash, slot, |&slot| {
                    nodes.peek(slot).map_or(0, |node| hasher.hash_one(&node.key))
                });
                (slot, true)
            }
        };
        let id = node_id(shard_number, slot);
        let (generation, node) = shard.nodes.get(slot).expect("the slot was found or filled above");
        node.lookups += 1;
        (id, Generation(generation.into()), then(id, &mut node.value, new))
    }

    /// The same for a node that exists already; `None` where there is none.
    pub fn acquire_known<R>(
        &self,
        key: &K,
        then: impl FnOnce(NodeId, &mut V) -> R,
    ) -> Option<(NodeId, Generation, R)> {
        let hash = self.hasher.hash_one(key);
        if let Some(id) = self.stray(hash, key)
            && let Some((number, slot)) = place(id)
            && let Some((generation, node)) = lock(&self.shards[number]).nodes.get(slot)
            && node.key == *key
        {
            node.lookups += 1;
            return Some((id, Generation(generation.into()), then(id, &mut node.value)));
        }
        let shard_number = self.shard_of(hash);
        let shard = &mut *lock(&self.shards[shard_number]);
        let slot = shard.find(hash, key)?;
        let (generation, node) = shard.nodes.get(slot)?;
        node.lookups += 1;
        let id = node_id(shard_number, slot);
        Some((id, Generation(generation.into()), then(id, &mut node.value)))
    }

    /// One lookup more of a node whose number is known; its generation, or `None` where there is no such node.
    pub fn acquire_again(&self, id: NodeId) -> Option<Generation> {
        let (shard, slot) = place(id)?;
        let mut shard = lock(&self.shards[shard]);
        let (generation, node) = shard.nodes.get(slot)?;
        node.lookups += 1;
        Some(Generation(generation.into()))
    }

    /// The number of the node with this key, without counting a lookup.
    pub fn find(&self, key: &K) -> Option<NodeId> {
        let hash = self.hasher.hash_one(key);
        if let Some(id) = self.stray(hash, key) {
            return Some(id);
        }
        let shard = self.shard_of(hash);
        let slot = lock(&self.shards[shard]).find(hash, key)?;
        Some(node_id(shard, slot))
    }

    /// Use a node; `None` where there is no such node.
    pub fn with<R>(&self, id: NodeId, use_it: impl FnOnce(&K, &mut V) -> R) -> Option<R> {
        let (shard, slot) = place(id)?;
        let mut shard = lock(&self.shards[shard]);
        let (_, node) = shard.nodes.get(slot)?;
        Some(use_it(&node.key, &mut node.value))
    }

    /// A copy of a node's value.
    pub fn get(&self, id: NodeId) -> Option<V>
    where
        V: Clone,
    {
        self.with(id, |_, value| value.clone())
    }

    /// The kernel forgets `count` lookups. Answers the node if those were all: it is gone from the table.
    ///
    /// The root is never forgotten. More lookups than there were count as all there were, and are logged: the kernel,
    /// or a middleman, has miscounted.
    pub fn forget(&self, id: NodeId, count: u64) -> Option<(K, V)> {
        if id == NodeId::ROOT {
            return None;
        }
        let Some((number, slot)) = place(id) else {
            tracing::warn!(node = id.raw(), "forget of a number that was never given");
            return None;
        };
        let shard = &mut *lock(&self.shards[number]);
        let Some((_, node)) = shard.nodes.get(slot) else {
            tracing::warn!(node = id.raw(), count, "forget of a node that is not known");
            return None;
        };
        if count > node.lookups {
            tracing::warn!(
                node = id.raw(),
                count,
                lookups = node.lookups,
                "forget of more lookups than there were"
            );
        }
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups > 0 {
            return None;
        }
        let hash = self.hasher.hash_one(&node.key);
        if let Ok(entry) = shard.index.find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
        if self.stray.load(Ordering::Acquire) > 0 {
            let mut strays = lock(&self.strays);
            if let Some(ids) = strays.get_mut(&hash) {
                let before = ids.len();
                ids.retain(|&other| other != id);
                self.stray.fetch_sub(before - ids.len(), Ordering::Release);
            }
        }
        shard.nodes.remove(slot).map(|node| (node.key, node.value))
    }

    /// The client is gone: all nodes but the root go, and the memory that they took. `each` is called with nothing locked. Numbers may be
    /// given anew from here on, to other nodes.
    pub fn forget_all(&self, mut each: impl FnMut(NodeId, K, V)) {
        {
            let mut strays = lock(&self.strays);
            strays.clear();
            self.stray.store(0, Ordering::Release);
        }
        for (number, shard) in self.shards.iter().enumerate() {
            let gone = {
                let shard = &mut *lock(shard);
                let root = if number == ROOT_SHARD { shard.nodes.remove(0) } else { None };
                shard.index = HashTable::new();
                let gone = mem::replace(&mut shard.nodes, Slab::new());
                if let Some(root) = root {
                    let hash = self.hasher.hash_one(&root.key);
                    let (slot, _) = shard.nodes.insert(root, 0);
                    shard.index.insert_unique(hash, slot, |_| hash);
                }
                gone
            };
            gone.into_values().for_each(|(slot, node)| each(node_id(number, slot), node.key, node.value));
        }
    }

    /// A node that lies elsewhere than its key says.
    fn stray(&self, hash: u64, key: &K) -> Option<NodeId> {
        if self.stray.load(Ordering::Acquire) == 0 {
            return None;
        }
        let ids = lock(&self.strays).get(&hash)?.clone();
        ids.into_iter().find(|&id| self.with(id, |known, _| known == key).unwrap_or(false))
    }

    /// [`acquire`](Self::acquire) of such a node; what it was given comes back if there is none.
    fn acquire_stray<T, R>(&self, hash: u64, key: K, then: T) -> Result<(NodeId, Generation, R), (K, T)>
    where
        T: FnOnce(NodeId, &mut V, bool) -> R,
    {
        if let Some(id) = self.stray(hash, &key)
            && let Some((number, slot)) = place(id)
            && let Some((generation, node)) = lock(&self.shards[number]).nodes.get(slot)
            && node.key == key
        {
            node.lookups += 1;
            return Ok((id, Generation(generation.into()), then(id, &mut node.value, false)));
        }
        Err((key, then))
    }

    /// Put nodes of another table, with their numbers, into this one, which knows nothing but the root. `false` for each that was not
    /// taken: its number or its key is in use, or cannot be.
    pub fn restore(&mut self, nodes: impl Iterator<Item = (Restored, K, V)>) -> Vec<bool> {
        let taken = nodes.map(|(restored, key, value)| self.restore_one(restored, key, value)).collect();
        self.shards.iter().for_each(|shard| lock(shard).nodes.relink());
        taken
    }

    fn restore_one(&mut self, restored: Restored, key: K, value: V) -> bool {
        let id = restored.id;
        let Some((number, slot)) = place(id).filter(|&(_, slot)| slot < RESTORED) else { return false };
        let Ok(generation) = u32::try_from(restored.generation.0) else { return false };
        let hash = self.hasher.hash_one(&key);
        if id == NodeId::ROOT || restored.lookups == 0 || self.find(&key).is_some() {
            return false;
        }
        let shard = &mut *lock(&self.shards[number]);
        let node = Node { lookups: restored.lookups, key, value };
        if !shard.nodes.place(slot, generation, node) {
            return false;
        }
        if self.shard_of(hash) != number {
            lock(&self.strays).entry(hash).or_default().push(id);
            self.stray.fetch_add(1, Ordering::Release);
            return true;
        }
        let (nodes, hasher) = (&shard.nodes, &self.hasher);
        let hash_of = |&slot: &u32| nodes.peek(slot).map_or(0, |node| hasher.hash_one(&node.key));
        shard.index.insert_unique(hash, slot, hash_of);
        true
    }

    /// Call `visit` on every node, as it can be [restored](Self::restore).
    pub fn for_each_restorable(&self, mut visit: impl FnMut(Restored, &K, &V)) {
        for (number, shard) in self.shards.iter().enumerate() {
            let shard = lock(shard);
            for (index, slot) in shard.nodes.chunks.iter().flatten().enumerate() {
                if let State::Used(node) = &slot.state {
                    let id = node_id(number, index as u32);
                    let generation = Generation(slot.generation.into());
                    visit(Restored { id, lookups: node.lookups, generation }, &node.key, &node.value);
                }
            }
        }
    }

    /// How many nodes there are, the root included.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).nodes.len).sum()
    }

    /// Never: there is always the root.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Call `visit` on every node's lookup count, key and value, shard by shard.
    pub fn for_each(&self, mut visit: impl FnMut(u64, &K, &V)) {
        for shard in &self.shards {
            lock(shard).nodes.values().for_each(|node| visit(node.lookups, &node.key, &node.value));
        }
    }
}

impl<K: Eq, V> NodeShard<K, V> {
    fn find(&self, hash: u64, key: &K) -> Option<u32> {
        let is_it = |&slot: &u32| self.nodes.peek(slot).is_some_and(|node| node.key == *key);
        self.index.find(hash, is_it).copied()
    }
}

/// Open files and directories.
///
/// The number given to the kernel holds the place in the table and how often that place has been used, so that a number
/// which is out of date, or made up, leads to nothing instead of to somebody else's file.
pub struct HandleTable<T> {
    shards: Box<[Mutex<Slab<Arc<T>>>]>,
    next: AtomicUsize,
}

impl<T> fmt::Debug for HandleTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandleTable").finish_non_exhaustive()
    }
}

impl<T> Default for HandleTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> HandleTable<T> {
    /// An empty table.
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::new(Slab::new())).collect(), next: AtomicUsize::new(0) }
    }

    /// Take in an open file; the number is for the reply to `open`. It is never 0.
    pub fn insert(&self, open: T) -> Handle {
        self.insert_shared(Arc::new(open))
    }

    /// The same for one that is shared already.
    pub fn insert_shared(&self, open: Arc<T>) -> Handle {
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let (slot, generation) = lock(&self.shards[shard]).insert(open, 1);
        Handle(u64::from(generation) << 32 | u64::from(slot) << SHARD_BITS | shard as u64)
    }

    /// Put open files of another table, with their numbers, into this one, which is empty. `false` for each that was not taken: its
    /// number is in use, or cannot be one.
    pub fn restore(&mut self, opens: impl Iterator<Item = (Handle, Arc<T>)>) -> Vec<bool> {
        let taken = opens.map(|(handle, open)| {
            let (shard, slot, generation) = parts(handle);
            slot < RESTORED && generation > 0 && lock(&self.shards[shard]).place(slot, generation, open)
        });
        let taken = taken.collect();
        self.shards.iter().for_each(|shard| lock(shard).relink());
        taken
    }

    /// Call `visit` on every open file.
    pub fn for_each(&self, mut visit: impl FnMut(Handle, &Arc<T>)) {
        for (number, shard) in self.shards.iter().enumerate() {
            for (index, slot) in lock(shard).chunks.iter().flatten().enumerate() {
                if let State::Used(open) = &slot.state {
                    let low = (index << SHARD_BITS | number) as u64;
                    visit(Handle(u64::from(slot.generation) << 32 | low), open);
                }
            }
        }
    }

    /// The open file; `None` (answer `EBADF`) where the number is of none.
    pub fn get(&self, handle: Handle) -> Option<Arc<T>> {
        let (shard, slot, generation) = parts(handle);
        match lock(&self.shards[shard]).get(slot)? {
            (current, open) if current == generation => Some(open.clone()),
            _ => None,
        }
    }

    /// Take an open file out; it lives on until the requests that use it are over.
    pub fn remove(&self, handle: Handle) -> Option<Arc<T>> {
        let (shard, slot, generation) = parts(handle);
        let mut shard = lock(&self.shards[shard]);
        match shard.get(slot)? {
            (current, _) if current == generation => shard.remove(slot),
            _ => None,
        }
    }

    /// The client is gone: take all out. Those that requests use live on until these are over.
    pub fn remove_all(&self) -> Vec<Arc<T>> {
        let all = self.shards.iter().map(|shard| mem::replace(&mut *lock(shard), Slab::new()));
        all.flat_map(Slab::into_values).map(|(_, open)| open).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len).sum()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Shard, slot, generation.
fn parts(handle: Handle) -> (usize, u32, u32) {
    let low = handle.0 as u32;
    (low as usize & (SHARDS - 1), low >> SHARD_BITS, (handle.0 >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{hash::Hasher, thread};

    fn table() -> NodeTable<u64, u64> {
        NodeTable::new(0, 1000)
    }

    fn acquire(table: &NodeTable<u64, u64>, key: u64) -> (NodeId, Generation, bool) {
        table.acquire(key, || key + 1000, |_, _, new| new)
    }

    #[test]
    fn the_root_is_node_1_and_stays() {
        let table = table();
        assert_eq!(acquire(&table, 0).0, NodeId::ROOT);
        assert!(table.forget(NodeId::ROOT, u64::MAX).is_none());
        assert_eq!(table.get(NodeId::ROOT), Some(1000));
        assert_eq!(table.find(&0), Some(NodeId::ROOT));
    }

    #[test]
    fn lookups_are_counted_and_the_last_forget_takes_the_node_out() {
        let table = table();
        let (id, generation, new) = acquire(&table, 7);
        assert!(new && id != NodeId::ROOT);
        assert_eq!(acquire(&table, 7), (id, generation, false));
        assert_eq!(table.acquire_again(id), Some(generation));
        assert_eq!(table.acquire_known(&7, |id, _| id), Some((id, generation, id)));
        assert_eq!(table.forget(id, 3), None);
        assert_eq!(table.get(id), Some(1007));
        assert_eq!(table.forget(id, 1), Some((7, 1007)));
        assert_eq!((table.get(id), table.find(&7), table.acquire_again(id)), (None, None, None));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_client_that_is_gone_leaves_the_root_alone() {
        let (table, handles) = (table(), HandleTable::new());
        let ids: HashMap<u64, NodeId> = (1..2000).map(|key| (key, acquire(&table, key).0)).collect();
        let opens: Vec<_> = (0..100).map(|open| handles.insert(open)).collect();
        let mut gone = HashMap::new();
        table.forget_all(|id, key, value| {
            assert_eq!(value, key + 1000);
            gone.insert(key, id);
        });
        assert_eq!((gone, table.len()), (ids, 1));
        assert_eq!((table.get(NodeId::ROOT), table.find(&0)), (Some(1000), Some(NodeId::ROOT)));
        assert_eq!((acquire(&table, 0).0, acquire(&table, 7).2), (NodeId::ROOT, true));
        assert_eq!(handles.remove_all().len(), 100);
        assert!(handles.is_empty() && opens.into_iter().all(|open| handles.get(open).is_none()));
    }

    #[test]
    fn nodes_keep_their_numbers_in_another_table() {
        let one = table();
        let kept: Vec<_> = (1..2000).map(|key| (key, acquire(&one, key).0)).collect();
        kept.iter().filter(|(key, _)| key % 3 == 0).for_each(|&(_, id)| _ = one.forget(id, 1));
        _ = acquire(&one, 7);
        let mut nodes = Vec::new();
        one.for_each_restorable(|restored, &key, &value| nodes.push((restored, key, value)));
        let mut other = table();
        let taken = other.restore(nodes.iter().copied());
        assert_eq!(taken.iter().filter(|taken| !**taken).count(), 1, "the root is there already");
        for (key, id) in kept.into_iter().filter(|(key, _)| key % 3 != 0) {
            assert_eq!((other.get(id), other.find(&key)), (Some(key + 1000), Some(id)));
            assert_eq!((acquire(&other, key).0, acquire(&other, key).2), (id, false));
            assert_eq!(other.acquire_known(&key, |id, _| id).map(|found| found.0), Some(id));
            assert_eq!(other.forget(id, if key == 7 { 4 } else { 3 }), None);
            assert_eq!(other.forget(id, 1), Some((key, key + 1000)));
            assert_eq!(other.find(&key), None);
        }
        assert_eq!(other.stray.load(Ordering::Relaxed), 0);
        let ids: std::collections::HashSet<_> = (1..3000).map(|key| acquire(&other, key).0).collect();
        assert_eq!(ids.len(), 2999, "no number is given twice");
        let made_up = |id, lookups| Restored { id: NodeId::new(id), lookups, generation: Generation(0) };
        let wrong = [made_up(1, 1), made_up(u64::MAX, 1), made_up(1 << 24, 1), made_up(33, 0), made_up(2, 1)];
        assert!(!table().restore(wrong.map(|node| (node, 99, 0)).into_iter()).contains(&true));
    }

    #[test]
    fn open_files_keep_their_numbers_in_another_table() {
        let one = HandleTable::new();
        let all: Vec<_> = (0..100).map(|i| one.insert(i)).collect();
        all.iter().step_by(3).for_each(|&handle| _ = one.remove(handle));
        let mut kept = Vec::new();
        one.for_each(|handle, open| kept.push((handle, open.clone())));
        assert_eq!(kept.len(), 66);
        let mut other = HandleTable::new();
        assert!(!other.restore(kept.clone().into_iter()).contains(&false));
        assert!(kept.iter().all(|(handle, open)| other.get(*handle).as_ref() == Some(open)));
        for i in 0..100 {
            let handle = other.insert(i);
            assert!(!kept.iter().any(|&(known, _)| known == handle));
        }
    }

    #[test]
    fn forgetting_too_much_does_not_underflow() {
        let table = table();
        let (id, ..) = acquire(&table, 7);
        assert_eq!(table.forget(id, u64::MAX), Some((7, 1007)));
        assert_eq!(table.forget(id, 1), None);
        assert_eq!(table.forget(NodeId::new(u64::MAX), 1), None);
        assert_eq!(table.forget(NodeId::new(2), 1), None);
    }

    #[test]
    fn a_number_used_again_has_another_generation() {
        let table = table();
        let mut seen = HashMap::new();
        for key in 1..2000 {
            let (id, generation, _) = acquire(&table, key);
            assert!(seen.insert((id, generation), key).is_none(), "{id:?} {generation:?} given twice");
            assert!(table.forget(id, 1).is_some());
        }
        assert!(seen.keys().map(|(id, _)| id).collect::<std::collections::HashSet<_>>().len() <= SHARDS);
    }

    /// Keys whose hashes are all the same still are different nodes.
    #[test]
    fn equal_hashes_do_not_mix_nodes_up() {
        #[derive(PartialEq, Eq, Debug)]
        struct Same(u32);
        impl Hash for Same {
            fn hash<H: Hasher>(&self, state: &mut H) {
                0u32.hash(state);
            }
        }
        let table = NodeTable::new(Same(0), 0);
        let ids: Vec<_> = (1..100).map(|n| table.acquire(Same(n), || n, |_, _, _| ()).0).collect();
        for (n, id) in (1..).zip(&ids) {
            assert_eq!(table.get(*id), Some(n));
        }
        for (n, id) in (1..).zip(ids) {
            assert_eq!(table.forget(id, 1), Some((Same(n), n)));
        }
    }

    /// Random operations against a plain map of counts.
    #[test]
    fn agrees_with_a_model() {
        let table = table();
        let mut model: HashMap<u64, (NodeId, u64)> = HashMap::new();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..200_000 {
            let key = 1 + next(3000);
            if next(2) == 0 {
                let (id, _, new) = acquire(&table, key);
                let known = model.entry(key).or_insert((id, 0));
                assert_eq!(known.0, id, "one key, one number");
                assert_eq!(new, known.1 == 0);
                known.1 += 1;
            } else if let Some((id, lookups)) = model.get_mut(&key) {
                let count = 1 + next(*lookups);
                *lookups -= count;
                let gone = table.forget(*id, count);
                assert_eq!(gone.is_some(), *lookups == 0);
                if *lookups == 0 {
                    model.remove(&key);
                }
            }
        }
        assert_eq!(table.len(), model.len() + 1);
        for (key, (id, _)) in &model {
            assert_eq!(table.with(*id, |known, value| (*known, *value)), Some((*key, key + 1000)));
        }
    }

    #[test]
    fn threads_agree_on_counts() {
        let table = table();
        thread::scope(|scope| {
            for thread in 0..4u64 {
                let table = &table;
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let key = 1 + (round * 7 + thread) % 50;
                        let (id, ..) = acquire(table, key);
                        assert_eq!(table.get(id), Some(key + 1000));
                        table.forget(id, 1);
                    }
                });
            }
        });
        assert_eq!(table.len(), 1, "every lookup was forgotten");
    }

    #[test]
    fn a_node_takes_little_memory() {
        // A file handle (24 bytes), its kind and place: what a re-export needs at the least.
        assert!(size_of::<Slot<Node<[u64; 4], [u64; 2]>>>() <= 72);
    }

    #[test]
    fn stale_and_forged_handles_lead_nowhere() {
        let table = HandleTable::new();
        let first = table.insert("first");
        assert_ne!(first.0, 0);
        assert_eq!(table.get(first).as_deref(), Some(&"first"));
        assert_eq!(table.remove(first).as_deref(), Some(&"first"));
        assert!(table.remove(first).is_none());
        let others: Vec<_> = (0..SHARDS).map(|_| table.insert("other")).collect();
        assert!(table.get(first).is_none(), "the place is in use again, under another number");
        assert_eq!(table.len(), SHARDS);
        for other in others {
            for forged in [other.0 ^ 1 << 32, other.0 ^ 1 << 60, other.0 & 0xffff_ffff, other.0 | 0xff_fff0] {
                assert!(forged == other.0 || table.get(Handle(forged)).is_none());
            }
        }
        assert!(table.get(Handle(u64::MAX)).is_none());
    }

    #[test]
    fn threads_get_their_own_handles() {
        let table = HandleTable::new();
        thread::scope(|scope| {
            for thread in 0..4u32 {
                let table = &table;
                scope.spawn(move || {
                    for round in 0..20_000u32 {
                        let handle = table.insert((thread, round));
                        assert_eq!(table.get(handle).as_deref(), Some(&(thread, round)));
                        assert_eq!(table.remove(handle).as_deref(), Some(&(thread, round)));
                    }
                });
            }
        });
        assert!(table.is_empty());
    }
}
