//! What a thread that serves and its governor tell each other, without waiting for each other.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{ANYWHERE, Order, Poll};

/// How a thread waits, and what it has counted. On a cache line of its own. Counters are written by that thread alone, so no locked
/// instruction is needed.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Board {
    /// For how long to poll, microseconds.
    spin: AtomicU32,
    /// Where the thread sits, one more than the CPU's number; 0 if that does not matter.
    seat: AtomicU32,
    /// Requests that came from each queue; empty if nobody wants to know.
    requests: Box<[AtomicU64]>,
    /// Times that polling found something, and time that was spent polling, nanoseconds.
    hits: AtomicU64,
    spun: AtomicU64,
}

/// What a thread has counted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Requests of each queue.
    pub requests: Vec<u64>,
    /// Times that polling has found something.
    pub hits: u64,
    /// Time spent polling.
    pub spun: Duration,
}

impl Board {
    /// For a thread that serves `queues` queues.
    pub(crate) fn new(poll: Poll, queues: usize) -> Self {
        // A thread of one queue serves its own CPU, where it never polls unless told to.
        let counted = if poll == Poll::Auto && queues > 1 { queues } else { 0 };
        let spin = if let Poll::Fixed(time) = poll { time.as_micros() as u32 } else { 0 };
        let requests = (0..counted).map(|_| AtomicU64::new(0)).collect();
        Self { spin: spin.into(), requests, ..Self::default() }
    }

    /// For a thread of one queue, whose clients may be on any CPU.
    pub fn anywhere(poll: Poll) -> Self {
        let board = Self::new(poll, 1);
        let counted = usize::from(poll == Poll::Auto);
        Self { requests: (0..counted).map(|_| AtomicU64::new(0)).collect(), ..board }
    }

    /// Does somebody decide for this thread?
    pub fn is_governed(&self) -> bool {
        !self.requests.is_empty()
    }

    /// The governor has decided.
    pub(crate) fn order(&self, order: &Order) {
        self.seat.store(order.cpu as u32 + 1, Relaxed);
        self.spin.store(order.spin.as_micros() as u32, Relaxed);
    }

    /// It is to sleep until the next order.
    pub(crate) fn rest(&self) {
        self.spin.store(0, Relaxed);
    }

    /// A request has come from the queue with that index.
    pub(crate) fn came(&self, queue: usize) {
        if let Some(count) = self.requests.get(queue) {
            count.store(count.load(Relaxed) + 1, Relaxed);
        }
    }

    /// So many requests have come from the only queue.
    pub fn have_come(&self, requests: u64) {
        if let Some(count) = self.requests.first() {
            count.store(count.load(Relaxed) + requests, Relaxed);
        }
    }

    /// For how long to poll, if at all, where nobody knows from which CPU a request came.
    pub fn limit(&self) -> Option<Duration> {
        self.spin(ANYWHERE)
    }

    /// For how long to poll, having answered a request that came from queue `last`: not at all on that client's own CPU.
    pub(crate) fn spin(&self, last: u16) -> Option<Duration> {
        let micros = self.spin.load(Relaxed);
        let shares = || self.seat.load(Relaxed) == u32::from(last) + 1;
        (micros > 0 && !shares()).then(|| Duration::from_micros(micros.into()))
    }

    /// It has polled for so long, and something came or not.
    pub fn polled(&self, time: Duration, hit: bool) {
        self.spun.store(self.spun.load(Relaxed) + time.as_nanos() as u64, Relaxed);
        self.hits.store(self.hits.load(Relaxed) + u64::from(hit), Relaxed);
    }

    pub(crate) fn count(&self) -> Count {
        Count {
            requests: self.requests.iter().map(|count| count.load(Relaxed)).collect(),
            hits: self.hits.load(Relaxed),
            spun: Duration::from_nanos(self.spun.load(Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::poll::Why;

    const TEN: Duration = Duration::from_micros(10);

    #[test]
    fn a_thread_does_not_poll_on_the_cpu_of_the_client_it_waits_for() {
        let board = Board::new(Poll::Auto, 2);
        assert!(board.is_governed() && board.spin(0).is_none());
        board.order(&Order { cpu: 1, spin: TEN, why: Why::Pays });
        assert_eq!((board.spin(0), board.spin(1)), (Some(TEN), None));
    }

    #[test]
    fn fixed_polls_everywhere_and_off_nowhere() {
        assert_eq!(Board::new(Poll::Fixed(TEN), 1).spin(0), Some(TEN));
        for board in [Board::new(Poll::Off, 2), Board::new(Poll::Auto, 1)] {
            assert!(board.spin(0).is_none() && !board.is_governed());
        }
    }

    #[test]
    fn a_thread_whose_clients_may_be_anywhere_does_as_it_is_told() {
        let board = Board::anywhere(Poll::Auto);
        assert!(board.is_governed() && board.limit().is_none());
        board.order(&Order { cpu: 0, spin: TEN, why: Why::Pays });
        board.have_come(3);
        assert_eq!((board.limit(), board.count().requests), (Some(TEN), vec![3]));
        board.rest();
        assert_eq!(board.limit(), None);
        let fixed = Board::anywhere(Poll::Fixed(TEN));
        fixed.have_come(3);
        assert_eq!((fixed.limit(), fixed.is_governed()), (Some(TEN), false));
        let off = Board::anywhere(Poll::Off);
        assert!(off.limit().is_none() && !off.is_governed());
    }

    #[test]
    fn what_happened_is_counted() {
        let board = Board::new(Poll::Auto, 2);
        [1, 0, 1].into_iter().for_each(|queue| board.came(queue));
        board.polled(TEN, true);
        board.polled(TEN, false);
        assert_eq!(board.count(), Count { requests: vec![1, 2], hits: 1, spun: 2 * TEN });
    }
}
