//! What a ring thread has of each of its queues, as others see it.

use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// Written by its thread alone, so no locked instruction is needed.
#[derive(Debug)]
pub(super) struct Stock(Box<[Lot]>);

/// Of one queue. On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lot {
    /// Entries that the kernel has.
    free: AtomicUsize,
    /// Requests that have come and are not answered.
    held: AtomicUsize,
    /// Those of them over which entries rest.
    at_rest: AtomicUsize,
    /// Requests that have come here so far, but for our own, and entries that were given to the kernel: it grows with either.
    news: AtomicUsize,
    /// It needs a further entry and got none.
    is_bare: AtomicBool,
}

/// A queue as it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Entries that the kernel has, of threads that wait.
    pub free: usize,
    /// Requests that have come and are not answered, also those over which entries rest.
    pub held: usize,
    /// Those of them over which entries rest.
    pub at_rest: usize,
    /// Is another number once a request has come that is not our own, or an entry was added.
    pub news: usize,
    /// A thread needs a further entry and got none.
    pub is_bare: bool,
}

impl Found {
    /// Of two threads together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            free: self.free + other.free,
            held: self.held + other.held,
            at_rest: self.at_rest + other.at_rest,
            news: self.news + other.news,
            is_bare: self.is_bare || other.is_bare,
        }
    }
}

fn up(count: &AtomicUsize) {
    count.store(count.load(Relaxed) + 1, Release);
}

fn down(count: &AtomicUsize) {
    count.store(count.load(Relaxed).saturating_sub(1), Release);
}

impl Stock {
    /// For a thread of so many queues.
    pub(super) fn new(queues: usize) -> Self {
        Self((0..queues).map(|_| Lot::default()).collect())
    }

    /// An entry is offered to the kernel that had none of its requests.
    pub(super) fn offers(&self, queue: usize) {
        up(&self.0[queue].free);
        up(&self.0[queue].news);
    }

    /// A request is answered, and its entry the kernel's.
    pub(super) fn answers(&self, queue: usize) {
        down(&self.0[queue].held);
        up(&self.0[queue].free);
    }

    /// An entry has come back, with a request or an error.
    pub(super) fn takes(&self, queue: usize, is_request: bool) {
        down(&self.0[queue].free);
        if is_request {
            up(&self.0[queue].held);
        }
    }

    /// A request begins that is not one of our own.
    pub(super) fn begins(&self, queue: usize) {
        up(&self.0[queue].news);
    }

    /// An entry rests.
    pub(super) fn rests(&self, queue: usize) {
        up(&self.0[queue].at_rest);
    }

    /// One that rested takes part again.
    pub(super) fn takes_part(&self, queue: usize) {
        down(&self.0[queue].at_rest);
    }

    pub(super) fn set_bare(&self, queue: usize, is_bare: bool) {
        self.0[queue].is_bare.store(is_bare, Release);
    }

    /// What there is of a queue.
    pub(super) fn of(&self, queue: usize) -> Found {
        let Lot { free, held, at_rest, news, is_bare } = &self.0[queue];
        Found {
            free: free.load(Acquire),
            held: held.load(Acquire),
            at_rest: at_rest.load(Acquire),
            news: news.load(Acquire),
            is_bare: is_bare.load(Acquire),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_the_kernels_or_holds_a_request() {
        let stock = Stock::new(2);
        stock.offers(1);
        stock.offers(1);
        assert_eq!(stock.of(1), Found { free: 2, news: 2, ..Found::default() });
        stock.takes(1, true);
        stock.begins(1);
        assert_eq!(stock.of(1), Found { free: 1, held: 1, news: 3, ..Found::default() });
        stock.answers(1);
        // The kernel gives one back that it does not take.
        stock.takes(1, false);
        assert_eq!(stock.of(1), Found { free: 1, news: 3, ..Found::default() });
        assert_eq!(stock.of(0), Found::default());
        assert_eq!(stock.of(1).plus(stock.of(1)), Found { free: 2, news: 6, ..Found::default() });
    }
}
