//! Every bound, with its reason.

use std::time::Duration;

/// How long requests may take to end once their queue is stopped, and threads once their device is gone: longer than the system
/// calls of a busy disk, and short enough for whoever waits for the process to end.
pub const GRACE: Duration = Duration::from_secs(5);

/// How long requests may take to end before those that wait for something are told to ask the next process: no longer than a guest
/// would notice.
pub const AT_ONCE: Duration = Duration::from_millis(50);

/// Entries of a queue: what QEMU allows at most. Linux sends requests of as many pages as fit into a queue.
pub const QUEUE_SIZE: usize = 1024;

/// Most request queues: the vhost-user crates name the queues of a thread by the bits of a word, and one of them is for FORGET.
pub const MAX_QUEUES: u16 = 62;

/// How many requests of one thread may be waiting for something at once, unless it is said.
pub const SLOTS: usize = 256;

/// How many threads may stand in for others that are stuck, for all queues together, unless it is said.
pub const SPARES: usize = 64;

/// How much memory a slot keeps between requests, bytes, for the request and for the answer alike; the first of each thread keeps all.
pub const KEPT: usize = 32 << 10;

/// Room for how many pieces of guest memory it keeps, for the request and for the answer alike. Few requests have more than two.
pub const KEPT_PIECES: usize = 64;

/// Most pieces of guest memory of one request: a descriptor that reaches from one region of memory into the next is two.
pub const PIECES: usize = 2 * QUEUE_SIZE;

/// After how many answers the guest is told although more requests wait.
pub const ANSWERS_PER_SIGNAL: usize = 8;

/// Longest request beside the data of a WRITE, bytes: the longest value of an extended attribute, or a BATCH_FORGET, with room to
/// spare.
pub const LONGEST_REQUEST: usize = 256 << 10;

/// Smallest DAX window, bytes, of which every other is a multiple: Linux maps ranges of this size.
pub const WINDOW: u64 = 2 << 20;

/// Most ranges in any DAX window: each costs the monitor a descriptor and memory. Linux has one per 2 MiB, so that this is enough for 128 GiB.
const MAPPINGS: u64 = 65_536;

/// Most ranges in a small one, at least: not every guest has them as large as Linux.
const FEW_MAPPINGS: u64 = 1024;

/// What a range may cost the daemon, bytes: itself, the file, and the last page of that, twice.
pub const MAPPING: u64 = 9 << 10;

/// Most ranges in a DAX window of so many bytes.
pub const fn mappings(window: u64) -> u64 {
    match window / WINDOW {
        0 if window == 0 => 0,
        ..FEW_MAPPINGS => FEW_MAPPINGS,
        MAPPINGS.. => MAPPINGS,
        some => some,
    }
}

/// How many CPUs this process may use. Not `available_parallelism`: it reads files, and in a sandbox they may be a guest's.
pub fn cpus() -> usize {
    rustix::thread::sched_getaffinity(None).map_or(1, |cpus| cpus.count() as usize)
}
