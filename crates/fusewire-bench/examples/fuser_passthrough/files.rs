//! Open files and directories, by handle.

use std::os::fd::OwnedFd;
use std::sync::{Arc, RwLock};

use slab::Slab;

/// Table from handles to descriptors.
#[derive(Debug, Default)]
pub struct Files(RwLock<Slab<Arc<OwnedFd>>>);

impl Files {
    /// Keeps an open file and returns its handle.
    pub fn insert(&self, fd: OwnedFd) -> u64 {
        self.0.write().expect("no panic while locked").insert(Arc::new(fd)) as u64
    }

    /// The open file with this handle.
    pub fn get(&self, handle: u64) -> Option<Arc<OwnedFd>> {
        self.0.read().expect("no panic while locked").get(handle as usize).cloned()
    }

    /// Forgets the handle; the file closes when the last request on it ends.
    pub fn remove(&self, handle: u64) {
        let removed = self.0.write().expect("no panic while locked").try_remove(handle as usize);
        // Closing can take long: not under the lock.
        drop(removed);
    }
}
