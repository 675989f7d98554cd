//! Which files the kernel reads and writes by itself.
//!
//! While a node is open, all its opens are forwarded to one backing or none is: so the first open decides, and the node's backing
//! lives until the last is closed. What cannot be registered is served here.

use fusewire::{
    Errno, Handle, NodeId, Opened, Result,
    backing::{Backing, Backings},
};
use std::{
    collections::HashMap,
    os::fd::AsFd,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Smaller files are not forwarded unless that is asked for: what is read or written with one request is not worth it.
pub const LARGE: u64 = 64 << 10;

/// Locks, so that opens of different files do not wait for each other.
const SHARDS: usize = 16;

/// The regular files that are open, where the kernel forwards.
#[derive(Debug, Default)]
pub struct Forwarding {
    backings: OnceLock<Backings>,
    shards: [Mutex<HashMap<NodeId, Shared>>; SHARDS],
    /// Somebody was told why a file is not forwarded.
    told: AtomicBool,
}

/// What all opens of a node share.
#[derive(Debug)]
struct Shared {
    /// `None`: it is served here.
    backing: Option<Backing>,
    opens: usize,
}

/// One open, counted: [`Forwarding::released`] is due at its end.
#[derive(Clone, Copy, Debug)]
pub struct Counted(());

impl Forwarding {
    /// The kernel takes files from now on.
    pub fn begin(&self, backings: Backings) {
        _ = self.backings.set(backings);
    }

    /// Does the kernel take files?
    pub fn is_on(&self) -> bool {
        self.backings.get().is_some_and(Backings::are_offered)
    }

    fn shard(&self, node: NodeId) -> MutexGuard<'_, HashMap<NodeId, Shared>> {
        self.shards[node.raw() as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `node` is opened: forward it, if it is open so already, or it is `wanted` and can be had. `path` opens the lower file with `O_PATH`, as the kernel will go on to hold it:
    /// an open file would be kept open, and with it the locks of whoever opened it.
    pub fn opened<Fd: AsFd>(
        &self,
        node: NodeId,
        wanted: impl FnOnce() -> bool,
        path: impl FnOnce() -> Result<Fd>,
    ) -> (Opened, Option<Counted>) {
        let reply = Opened::new(Handle(0));
        let Some(backings) = self.backings.get().filter(|backings| backings.are_offered()) else {
            return (reply, None);
        };
        let mut shard = self.shard(node);
        let register = || path().and_then(|path| backings.register(path));
        let shared = shard.entry(node).or_insert_with(|| Shared {
            backing: if wanted() { register().inspect_err(|&errno| self.tell(errno)).ok() } else { None },
            opens: 0,
        });
        shared.opens += 1;
        let reply = match &shared.backing {
            Some(backing) => reply.forwarded_to(backing),
            None => reply,
        };
        (reply, Some(Counted(())))
    }

    /// An open of `node` has ended.
    pub fn released(&self, node: NodeId, _: Counted) {
        let mut shard = self.shard(node);
        let Some(shared) = shard.get_mut(&node) else { return };
        shared.opens -= 1;
        let last = if shared.opens == 0 { shard.remove(&node) } else { None };
        // Given back with nothing locked.
        drop(shard);
        drop(last);
    }

    fn tell(&self, errno: Errno) {
        let why = match errno {
            Errno::PERM => "it takes CAP_SYS_ADMIN",
            Errno::LOOP => "its filesystem is stacked on others already",
            _ => "the kernel does not take it",
        };
        if self.told.swap(true, Ordering::Relaxed) {
            tracing::debug!(%errno, why, "a file is not forwarded");
        } else {
            tracing::info!(%errno, why, "files are read and written by requests, some at least");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_counted_where_the_kernel_takes_no_files() {
        let forwarding = Forwarding::default();
        let file = tempfile::tempfile().expect("a file");
        let node = NodeId::new(7);
        for _ in 0..2 {
            let (reply, counted) = forwarding.opened(node, || true, || Ok(&file));
            assert!(counted.is_none() && reply.backing_id == 0 && reply.flags.is_empty());
            forwarding.begin(Backings::default());
        }
    }
}
