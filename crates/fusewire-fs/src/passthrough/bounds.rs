//! How much a client may have us keep for it.

use super::{Passthrough, inode::Found};
use rustix::io::{Errno, Result};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What is kept for a client at most; `None`: as much as it wants. (Descriptors: [`Options::fd_limit`](super::Options::fd_limit).)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Files that its kernel may know, the root included. Beyond that, what it does not know yet is not found and cannot be made:
    /// `ENOMEM`, until it forgets some. Listings are complete.
    pub nodes: Option<usize>,
    /// What it may have open. Beyond that: `ENFILE`.
    pub handles: Option<usize>,
    /// Ranges of files that it may have locked. Beyond that: `ENOLCK`.
    pub ranges: Option<usize>,
    /// How many of its requests may wait for locks, each of which takes a thread. Beyond that: `ENOLCK`.
    pub waits: Option<usize>,
}

/// How many requests may wait for locks at once, and do: of one client, over all filesystems that are made for it one after the other.
#[derive(Clone, Debug, Default)]
pub struct Waits(Arc<Turns>);

impl Waits {
    /// At most `most`.
    pub fn new(most: Option<usize>) -> Self {
        Self(Arc::new(Turns { most, taken: AtomicUsize::new(0) }))
    }

    /// One more, until it is dropped; `NOLCK` if there are enough.
    pub(super) fn take(&self) -> Result<Turn<'_>> {
        let taken = self.0.taken.fetch_add(1, Ordering::Relaxed);
        let turn = Turn(&self.0);
        if self.0.most.is_some_and(|most| taken >= most) { Err(Errno::NOLCK) } else { Ok(turn) }
    }
}

impl PartialEq for Waits {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Waits {}

#[derive(Debug, Default)]
struct Turns {
    most: Option<usize>,
    taken: AtomicUsize,
}

/// One of those.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Passthrough {
    /// Something is about to be made: may there be a node for it?
    pub(super) fn room_for_node(&self) -> Result<()> {
        let is_full = |most| self.nodes.len() >= most;
        if self.options.bounds.nodes.is_some_and(is_full) { Err(Errno::NOMEM) } else { Ok(()) }
    }

    /// Something is about to be opened: may there be a handle for it?
    pub(super) fn room_for_handle(&self) -> Result<()> {
        let is_full = |most| self.handles.len() >= most;
        if self.options.bounds.handles.is_some_and(is_full) { Err(Errno::NFILE) } else { Ok(()) }
    }

    /// What a lookup has found, unless it is one node too many.
    pub(super) fn within(&self, found: Found) -> Result<Found> {
        if self.options.bounds.nodes.is_none_or(|most| self.nodes.len() <= most) {
            return Ok(found);
        }
        // Was it the one that was made last?
        if self.nodes.forget(found.node, 1) {
            return Err(Errno::NOMEM);
        }
        self.nodes.again(found.node)?;
        Ok(found)
    }
}
