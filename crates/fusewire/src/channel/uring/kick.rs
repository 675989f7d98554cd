//! Having the kernel look at a queue again.
//!
//! Requests that came while a queue had no entry are given out only when some request of that queue is answered: an entry
//! that is registered later does not take them (Linux 6.14 to 7.3, `fuse_uring_do_register`). If all who could answer wait for
//! something, that is never. So whoever gives a queue further entries has requests made on it, whose answers set the others
//! going: the attributes of the mount's root, asked for on that queue's CPU. An answer sets one waiting request going, into
//! the entry it was made in; so there are as many of them as there are new entries.
//!
//! Another process makes them. A thread of this process that waits for this process cannot be killed, and with it the
//! process's memory stays, with that the rings, and with those every caller, until reboot (seen on 6.18.44).

use crate::sys::asker::Asker;
use std::path::Path;

/// Has requests made.
#[derive(Debug)]
pub(super) struct Kicker(Option<Asker>);

impl Kicker {
    pub(super) fn new(mountpoint: &Path) -> Self {
        let asker = Asker::start(mountpoint)
            .inspect_err(|error| tracing::warn!(%error, "requests may wait until others are answered"));
        Self(asker.ok())
    }

    /// Have `count` requests made on `queue`. Does not wait for them.
    pub(super) fn kick(&self, queue: u16, count: usize) {
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        let asked = self.0.as_ref().map_or(Ok(()), |asker| asker.ask(queue, count));
        tracing::debug!(queue, count, ?asked, "kicked");
    }
}
