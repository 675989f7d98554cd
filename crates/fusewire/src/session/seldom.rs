//! What the other side can make happen as often as it likes, and must not fill the log with.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// How long it is not told of again, milliseconds.
const PAUSE: u64 = 1000;

/// Has something told once a second, however often it happens.
///
/// ```
/// static WRONG: fusewire::session::Seldom = fusewire::session::Seldom::new();
/// if let Some(times) = WRONG.happened() {
///     eprintln!("something was wrong, {times} times");
/// }
/// ```
#[derive(Debug, Default)]
pub struct Seldom {
    /// From when on it is told again, milliseconds of the process.
    next: AtomicU64,
    /// How often it has happened since it was told.
    times: AtomicU64,
}

impl Seldom {
    /// Nothing has happened yet.
    pub const fn new() -> Self {
        Self { next: AtomicU64::new(0), times: AtomicU64::new(0) }
    }

    /// It has happened. If it is to be told now: how often, since it was told last.
    pub fn happened(&self) -> Option<u64> {
        static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        self.happened_at(BEGIN.elapsed().as_millis() as u64)
    }

    fn happened_at(&self, now: u64) -> Option<u64> {
        self.times.fetch_add(1, Ordering::Relaxed);
        let next = self.next.load(Ordering::Relaxed);
        let is_time = now >= next
            && self.next.compare_exchange(next, now + PAUSE, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        is_time.then(|| self.times.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_once_a_second_with_their_number() {
        let seldom = Seldom::new();
        assert_eq!(seldom.happened_at(7), Some(1));
        assert!((7..1007).all(|now| seldom.happened_at(now).is_none()));
        assert_eq!(seldom.happened_at(1007), Some(1001));
        assert_eq!(seldom.happened_at(1008), None);
        assert_eq!(seldom.happened_at(9000), Some(2));
    }
}
