//! Having the kernel look at a queue again.
//!
//! Requests that came while a queue had no entry are given out only when some request of that queue is answered: an entry
//! that is registered later does not take them (Linux 6.14 to 7.3, `fuse_uring_do_register`). If all who could answer wait for
//! something, that is never. So whoever gives a queue further entries has requests made on it, whose answers set the others
//! going. An answer sets one waiting request going, into the entry it was made in; so there are as many of them as there are
//! new entries.
//!
//! They must be requests that nobody waits for. A thread of this process that waits for this process cannot be killed, and
//! with it the process's memory stays, with that the rings, and with those every caller, until reboot (seen on 6.18.44).
//! Asking for page-cache content is such a request: it is one system call, and what comes is the answer to it, here of no
//! bytes, from the mount's root.

use crate::{channel::dev_fuse::allow, notify, types::*};
use fusewire_abi::{self as abi, notify_code};
use rustix::{
    fd::AsFd,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::IntoBytes;

/// Have `count` requests made on `queue`. Does not wait for them. `device` is `/dev/fuse`.
pub(super) fn kick(device: impl AsFd, queue: u16, count: usize) {
    // The kernel puts a request into the queue of the CPU it is made on.
    let mut there = CpuSet::new();
    there.set(queue.into());
    let usual = sched_getaffinity(None).unwrap_or_default();
    let moved = usual != there;
    if moved && sched_setaffinity(None, &there).is_err() {
        // A CPU that is not there, or not for this process.
        return;
    }
    for _ in 0..count {
        if let Err(errno) = rustix::io::write(&device, &retrieve()) {
            tracing::debug!(queue, %errno, "not kicked");
        }
    }
    if moved {
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| usual.is_set(cpu)).collect();
        allow(None, &cpus);
    }
}

/// A message that has the kernel make a request.
fn retrieve() -> Vec<u8> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let notify_unique = notify::own(NUMBER.fetch_add(1, Ordering::Relaxed));
    let out =
        abi::NotifyRetrieveOut { notify_unique, nodeid: NodeId::ROOT.raw(), offset: 0, size: 0, padding: 0 };
    let len = size_of::<abi::OutHeader>() + size_of_val(&out);
    let header = abi::OutHeader { len: len as u32, error: notify_code::RETRIEVE, unique: 0 };
    [header.as_bytes(), out.as_bytes()].concat()
}
