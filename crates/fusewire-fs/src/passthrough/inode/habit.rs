//! What clients do with the names they look up, these days.

use std::sync::atomic::{AtomicU8, Ordering};

/// How many lookups go by one observation. Enough that a run of the same takes its own cheapest way most of the time, few
/// enough that the wrong way ends soon.
const RUN: u8 = 8;

/// Whether the names looked up next are likely to be used in the way that was observed of late.
#[derive(Debug, Default)]
pub struct Habit(AtomicU8);

impl Habit {
    /// It was so once more.
    pub fn observe(&self) {
        self.0.store(RUN, Ordering::Relaxed);
    }

    /// A name is looked up: will it be so?
    pub fn expect(&self) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        if left > 0 {
            self.0.store(left - 1, Ordering::Relaxed);
        }
        left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_is_good_for_a_run() {
        let habit = Habit::default();
        assert!(!habit.expect());
        for _ in 0..2 {
            habit.observe();
            assert_eq!((0..100).filter(|_| habit.expect()).count(), usize::from(RUN));
        }
    }
}
