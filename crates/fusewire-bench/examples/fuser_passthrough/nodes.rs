//! Known files: one `O_PATH` descriptor each, kept while the kernel remembers the file.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use rustix::fs::Stat;

/// Id of the root in the protocol.
pub const ROOT: u64 = 1;
const SHARDS: usize = 16;
/// Ids of files that do not live on the root's filesystem start here.
const FOREIGN: u64 = 1 << 63;

/// A file the kernel knows.
#[derive(Debug)]
pub struct Node {
    /// Opened with `O_PATH`.
    pub fd: OwnedFd,
    /// How often the kernel was told about it and has not forgotten yet.
    lookups: AtomicU64,
}

/// Inode numbers are spread well enough by one multiplication.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

type Shard = RwLock<HashMap<u64, Arc<Node>, BuildHasherDefault<IdHasher>>>;

/// Table from node ids to files.
#[derive(Debug)]
pub struct Nodes {
    root: Arc<Node>,
    root_dev: u64,
    root_ino: u64,
    shards: [Shard; SHARDS],
    foreign: Mutex<HashMap<(u64, u64), u64>>,
}

impl Nodes {
    /// A table that knows the root only.
    pub fn new(root: OwnedFd, stat: &Stat) -> Self {
        Self {
            root: Arc::new(Node { fd: root, lookups: AtomicU64::new(1) }),
            root_dev: stat.st_dev,
            root_ino: stat.st_ino,
            shards: Default::default(),
            foreign: Mutex::default(),
        }
    }

    /// The id of the file with these attributes. It is the inode number where that is unambiguous, since
    /// fuser reports the id as `st_ino`.
    pub fn id(&self, stat: &Stat) -> u64 {
        if stat.st_dev == self.root_dev {
            return if stat.st_ino == self.root_ino { ROOT } else { stat.st_ino };
        }
        let mut foreign = self.foreign.lock().expect("no panic while locked");
        let next = FOREIGN + foreign.len() as u64;
        *foreign.entry((stat.st_dev, stat.st_ino)).or_insert(next)
    }

    /// The file with this id, if the kernel was told about it.
    pub fn get(&self, id: u64) -> Option<Arc<Node>> {
        if id == ROOT {
            return Some(Arc::clone(&self.root));
        }
        self.shard(id).read().expect("no panic while locked").get(&id).cloned()
    }

    /// Counts one lookup of the file; keeps `fd` if the file is new.
    pub fn remember(&self, id: u64, fd: OwnedFd) {
        if id == ROOT {
            return;
        }
        let mut shard = self.shard(id).write().expect("no panic while locked");
        match shard.get(&id) {
            Some(known) => {
                known.lookups.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                shard.insert(id, Arc::new(Node { fd, lookups: AtomicU64::new(1) }));
            }
        }
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, id: u64, count: u64) {
        if id == ROOT {
            return;
        }
        let mut shard = self.shard(id).write().expect("no panic while locked");
        if let Some(node) = shard.get(&id)
            && node.lookups.fetch_sub(count, Ordering::Relaxed) <= count
        {
            shard.remove(&id);
        }
    }

    fn shard(&self, id: u64) -> &Shard {
        &self.shards[(id as usize ^ (id >> 8) as usize) % SHARDS]
    }
}
