//! Having the kernel look at a queue again.
//!
//! Requests that came while a queue had no entry are given out only when some request of that queue is answered: an entry
//! that is registered later does not take them (Linux 6.14 to 7.3, `fuse_uring_do_register`). If all who could answer wait for
//! something, that is never. So whoever gives a queue further entries has requests made on it, whose answers set the others
//! going. An answer sets one waiting request going, into the entry it was made in; so there are as many of them as there are new
//! entries.
//!
//! Such a request is the answer to a notification, for no bytes of a file's content (see `rest.rs`): nobody waits for it, no
//! handler is asked, and it reaches the mount wherever that is by now, also out of sight or below another one. It needs a file
//! that the kernel keeps, and one that is open is kept. So one of those is remembered.
//!
//! While none is known to be open, the attributes of the mount's root are asked for on the queue's CPU, by its path. Another process
//! does that. A thread of this process that waits for this process cannot be killed, and with it the process's memory stays, with
//! that the rings, and with those every caller, until reboot (seen on 6.18.44).

use super::rest::Rest;
use crate::{sys::asker::Asker, types::Errno};
use fusewire_abi::Opcode;
use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// Has requests made.
#[derive(Debug)]
pub(super) struct Kicker {
    open: OpenFile,
    asker: Option<Asker>,
}

impl Kicker {
    pub(super) fn new(mountpoint: &Path) -> Self {
        let asker = Asker::start(mountpoint)
            .inspect_err(|error| tracing::warn!(%error, "requests may wait until others are answered"));
        Self { open: OpenFile::default(), asker: asker.ok() }
    }

    /// The file to ask for.
    pub(super) fn open(&self) -> &OpenFile {
        &self.open
    }

    /// Have `count` requests made on `queue`. Does not wait for them.
    pub(super) fn kick(&self, rest: &Rest, queue: u16, count: usize) {
        let stirred = self.open.node().map_or(Err(Errno::NOENT), |node| rest.stir(queue, node, count));
        tracing::debug!(queue, count, ?stirred, "kicked");
        if stirred.is_err() {
            self.ask(queue, count);
        }
    }

    /// The same as [`kick`](Self::kick), by the path alone.
    pub(super) fn ask(&self, queue: u16, count: usize) {
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        let asked = self.asker.as_ref().map_or(Err(Errno::CHILD), |asker| asker.ask(queue, count));
        tracing::debug!(queue, count, ?asked, "asked for the root");
    }
}

/// A file that is open, if one is known to be. Open is one that was opened by asking the filesystem, from the answer to that until the
/// first RELEASE of it: there may be more to come, but the next request for it tells that again.
#[derive(Debug, Default)]
pub(super) struct OpenFile(AtomicU64);

impl OpenFile {
    /// The kernel keeps it at least until the next RELEASE that begins has been answered.
    fn node(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&node| node != 0)
    }

    /// It was opened.
    pub(super) fn opened(&self, node: u64) {
        if self.0.load(Ordering::Relaxed) == 0 {
            self.0.store(node, Ordering::Relaxed);
        }
    }

    /// A request begins that is about `node`. One load on the hot path.
    pub(super) fn begins(&self, opcode: u32, node: u64) {
        const READ: u32 = Opcode::Read as u32;
        const WRITE: u32 = Opcode::Write as u32;
        const FLUSH: u32 = Opcode::Flush as u32;
        const FSYNC: u32 = Opcode::Fsync as u32;
        const RELEASE: u32 = Opcode::Release as u32;
        match opcode {
            READ | WRITE | FLUSH | FSYNC => self.opened(node),
            RELEASE if self.0.load(Ordering::Relaxed) == node => self.0.store(0, Ordering::Relaxed),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_from_its_opening_to_its_release() {
        let open = OpenFile::default();
        let begins = |opcode: Opcode, node| open.begins(opcode as u32, node);
        begins(Opcode::Lookup, 7);
        begins(Opcode::Getattr, 7);
        assert_eq!(open.node(), None);
        open.opened(7);
        begins(Opcode::Read, 8);
        begins(Opcode::Release, 8);
        assert_eq!(open.node(), Some(7));
        begins(Opcode::Release, 7);
        assert_eq!(open.node(), None);
        // It was open twice.
        begins(Opcode::Write, 7);
        assert_eq!(open.node(), Some(7));
    }
}
