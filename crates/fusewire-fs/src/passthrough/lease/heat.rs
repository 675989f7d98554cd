//! Who changed what last: of each directory and each file, the last two who did, and when.
//!
//! Two suffice to tell everybody when somebody *else* changed it last. Places are found by a hash and shared: who shares one gets
//! shorter leases than he could have.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A power of two.
const PLACES: usize = 1 << 12;

/// Somebody who changes things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who(u32);

impl Who {
    /// Whoever is none of the guests.
    pub const OTHER: Self = Self(1);

    /// The guest with this number, counted from 0.
    pub fn guest(number: u32) -> Self {
        Self(number.saturating_add(2))
    }
}

/// A change, if there ever was one.
type Change = Option<(Who, Instant)>;

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    latest: Change,
    /// The latest that somebody else made than who made `latest`.
    before: Change,
}

/// Changes by inode number.
#[derive(Debug)]
pub struct Heat {
    places: Box<[Mutex<Place>]>,
    began: Instant,
    /// Anything may have been changed by anybody then, in milliseconds since the beginning; 0: never.
    all: AtomicU64,
}

impl Default for Heat {
    fn default() -> Self {
        let places = (0..PLACES).map(|_| Mutex::default()).collect();
        Self { places, began: Instant::now(), all: AtomicU64::new(0) }
    }
}

impl Heat {
    fn place(&self, ino: u64) -> std::sync::MutexGuard<'_, Place> {
        let mixed = ino.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = (mixed >> 40) as usize & (PLACES - 1);
        self.places[place].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `who` has changed the file or directory with this number.
    pub fn changed(&self, ino: u64, who: Who, now: Instant) {
        let mut place = self.place(ino);
        if place.latest.is_some_and(|(last, _)| last != who) {
            place.before = place.latest;
        }
        place.latest = Some((who, now));
    }

    /// Anybody may have changed anything.
    pub fn everything_changed(&self, now: Instant) {
        let since = now.saturating_duration_since(self.began).as_millis() as u64;
        self.all.store(since.max(1), Ordering::SeqCst);
    }

    /// When it was last changed by somebody other than `who`; `None`: not once.
    pub fn by_others(&self, ino: u64, who: Who) -> Option<Instant> {
        let place = *self.place(ino);
        let of_others = |change: Change| change.filter(|(other, _)| *other != who).map(|(_, at)| at);
        let all = match self.all.load(Ordering::SeqCst) {
            0 => None,
            millis => Some(self.began + Duration::from_millis(millis)),
        };
        of_others(place.latest).or(of_others(place.before)).max(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn everybody_learns_when_somebody_else_changed_it() {
        let (heat, start) = (Heat::default(), Instant::now());
        let [one, two] = [Who::guest(0), Who::guest(1)];
        assert_eq!(heat.by_others(5, one), None);
        for second in 1..4 {
            heat.changed(5, one, start + second * SECOND);
        }
        assert_eq!(heat.by_others(5, one), None, "its own changes are nobody else's");
        assert_eq!(heat.by_others(5, two), Some(start + 3 * SECOND));
        heat.changed(5, two, start + 4 * SECOND);
        heat.changed(5, two, start + 5 * SECOND);
        assert_eq!(heat.by_others(5, one), Some(start + 5 * SECOND));
        assert_eq!(heat.by_others(5, two), Some(start + 3 * SECOND));
        heat.changed(5, Who::OTHER, start + 6 * SECOND);
        for who in [one, two] {
            assert_eq!(heat.by_others(5, who), Some(start + 6 * SECOND));
        }
        heat.changed(5, one, start + 7 * SECOND);
        assert_eq!(heat.by_others(5, one), Some(start + 6 * SECOND));
    }

    #[test]
    fn lost_news_are_news_of_everything() {
        let (heat, one) = (Heat::default(), Who::guest(0));
        let now = Instant::now() + SECOND;
        heat.everything_changed(now);
        let at = heat.by_others(7, one).expect("changed");
        assert!(now.duration_since(at) < Duration::from_millis(2));
        heat.changed(7, Who::OTHER, now + SECOND);
        assert_eq!(heat.by_others(7, one), Some(now + SECOND));
    }
}
