//! Having the kernel look at a queue again.
//!
//! Requests that came while a queue had no entry are given out only when some request of that queue is answered: an entry
//! that is registered later does not take them (Linux 6.14 to 7.3, `fuse_uring_do_register`). If all who could answer wait for
//! something, that is never. So whoever gives a queue further entries has requests made on it, whose answers set the others
//! going: the attributes of the mount's root, asked for on that queue's CPU. An answer sets one waiting request going, into
//! the entry it was made in; so there are as many of them as there are new entries.

use crate::channel::dev_fuse::allow;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use std::{path::Path, sync::Arc, thread::Builder};

/// Makes requests, each time on a thread of its own: others may have taken the new entries before, and then it waits
/// until the queue gets further ones, for which there must be a further request.
#[derive(Debug)]
pub(super) struct Kicker {
    mountpoint: Arc<Path>,
    /// Where requests can be made.
    cpus: Vec<usize>,
}

impl Kicker {
    pub(super) fn new(mountpoint: &Path, cpus: Vec<usize>) -> Self {
        Self { mountpoint: mountpoint.into(), cpus }
    }

    /// Have `count` requests made on `queue`, one after the other. Does not wait for them.
    pub(super) fn kick(&self, queue: u16, count: usize) {
        let cpu = usize::from(queue);
        if !self.cpus.contains(&cpu) {
            return;
        }
        let mountpoint = self.mountpoint.clone();
        let body = move || {
            allow(None, &[cpu]);
            for _ in 0..count {
                let asked = rustix::fs::statx(CWD, &*mountpoint, AtFlags::STATX_FORCE_SYNC, StatxFlags::SIZE);
                tracing::debug!(queue, ok = asked.is_ok(), "kicked");
            }
        };
        if let Err(error) = Builder::new().name("fusewire-kick".into()).stack_size(256 << 10).spawn(body) {
            tracing::warn!(%error, "requests may wait until others are answered");
        }
    }
}
