//! Which thread serves which queues, and how much memory their entries take.

use super::pool::Buffers;
use crate::{
    channel::{placement::Placement, poll::Poll},
    limits,
};

/// Smallest payload.
const MIN_PAYLOAD: u64 = limits::RING_PAGES as u64 * PAGE;
const PAGE: u64 = 4096;

/// The threads of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queues {
    /// For each thread the queues it serves.
    pub groups: Vec<Vec<u16>>,
    /// For each thread the CPU it is pinned to.
    pub cpus: Vec<usize>,
    /// The CPUs that threads may run on.
    pub allowed: Vec<usize>,
    /// How threads wait.
    pub poll: Poll,
    /// Whether they may step aside.
    pub placement: Placement,
    /// Bytes of an entry's payload.
    pub payload: usize,
    /// How many entries may keep the memory of long requests.
    pub entries: usize,
    /// Where payloads are.
    pub buffers: Buffers,
}

impl Queues {
    /// Spread `possible` queues (the kernel wants one per possible CPU, whether it is there or not) over at most `threads`
    /// threads on the CPUs `allowed`. A CPU's queue is served on that CPU if there is a thread; the others fold onto the
    /// threads there are. `payload` is what is wanted, `memory` what all payloads may keep together, bytes: too little to keep one
    /// for each queue makes them smaller.
    pub(crate) fn new(
        possible: usize,
        allowed: &[usize],
        threads: Option<usize>,
        payload: usize,
        memory: Option<u64>,
    ) -> Self {
        let count = threads.unwrap_or(allowed.len()).clamp(1, allowed.len().clamp(1, possible.max(1)));
        let cpus: Vec<usize> = allowed.iter().copied().chain([0]).take(count).collect();
        let mut groups = vec![Vec::new(); count];
        for queue in 0..possible {
            let own = cpus.iter().position(|&cpu| cpu == queue);
            groups[own.unwrap_or(queue % count)].push(queue as u16);
        }
        let least = possible as u64;
        let share = memory.map_or(u64::MAX, |memory| memory / least.max(1) / PAGE * PAGE);
        let payload = (payload as u64).min(share.max(MIN_PAYLOAD));
        let entries = (memory.unwrap_or(limits::RING_MEMORY) / payload).max(1) as usize;
        let (allowed, poll, placement) = (allowed.to_vec(), Poll::default(), Placement::default());
        let (payload, buffers) = (payload as usize, Buffers::default());
        Self { groups, cpus, allowed, poll, placement, payload, entries, buffers }
    }
}

/// How many CPUs there could ever be: as many queues the kernel has (`num_possible_cpus`). `list` is what
/// `/sys/devices/system/cpu/possible` says.
pub(super) fn possible_cpus(list: &str) -> Option<usize> {
    let last = list.trim().rsplit([',', '-']).next()?;
    last.parse::<usize>().ok().map(|last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn every_queue_has_one_thread_and_a_cpus_queue_its_own() {
        for (possible, allowed, threads) in [
            (2, vec![0, 1], None),
            (64, vec![0, 1], None),
            (8, vec![2, 5, 7], None),
            (8, (0..8).collect(), Some(3)),
            (1, vec![0], None),
        ] {
            let queues = Queues::new(possible, &allowed, threads, MIB, None);
            let mut all: Vec<u16> = queues.groups.concat();
            all.sort_unstable();
            assert_eq!(all, (0..possible as u16).collect::<Vec<_>>());
            assert_eq!(queues.groups.len(), threads.unwrap_or(allowed.len()).min(possible));
            for (cpu, group) in queues.cpus.iter().zip(&queues.groups) {
                assert!(group.contains(&(*cpu as u16)), "{queues:?}");
            }
        }
    }

    #[test]
    fn memory_bounds_entries_and_payload() {
        let queues = Queues::new(64, &[0, 1], None, MIB, Some(16 << 20));
        assert_eq!((queues.payload, queues.entries), (256 << 10, 64));
        let queues = Queues::new(2, &[0, 1], None, MIB, Some(8 << 20));
        assert_eq!((queues.payload, queues.entries), (MIB, 8));
        let queues = Queues::new(64, &[0, 1], None, MIB, Some(1));
        assert_eq!((queues.payload, queues.entries), (128 << 10, 1));
    }

    #[test]
    fn by_default_as_much_is_kept_whatever_the_number_of_cpus() {
        for possible in [1, 2, 64, 128, 1024] {
            let allowed: Vec<usize> = (0..possible).collect();
            let queues = Queues::new(possible, &allowed, None, MIB, None);
            assert_eq!((queues.payload, queues.entries), (MIB, 64));
            // Of longer ones, fewer.
            let queues = Queues::new(possible, &allowed, None, 16 * MIB, None);
            assert_eq!((queues.payload, queues.entries), (16 * MIB, 4));
        }
    }

    #[test]
    fn possible_cpus_are_counted() {
        assert_eq!(possible_cpus("0-1\n"), Some(2));
        assert_eq!(possible_cpus("0\n"), Some(1));
        assert_eq!(possible_cpus("0-3,8-63\n"), Some(64));
        assert_eq!(possible_cpus("\n"), None);
    }
}
