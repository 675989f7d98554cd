//! Who changed what last: of each directory and each file, the last two who did, and when.
//!
//! Two suffice to tell everybody when somebody *else* changed it last. What was changed long ago is forgotten when there is too much, and
//! then everything that is not known counts as changed at the time that the latest of what is forgotten was.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock, RwLockReadGuard},
    time::Instant,
};

/// How many files are known at most in each of two generations.
const MOST: usize = 32 << 10;

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
#[derive(Debug, Default)]
pub struct Heat(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    young: HashMap<u64, Place>,
    old: HashMap<u64, Place>,
    /// Anything may have been changed by anybody up to then.
    all: Option<Instant>,
    /// When `young` took the place of an earlier one, which is `old`.
    turned: Option<Instant>,
}

impl Heat {
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, write: impl FnOnce(&mut Known)) {
        write(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// `who` has changed the file or directory with this number.
    pub fn changed(&self, ino: u64, who: Who, now: Instant) {
        self.write(|known| {
            let mut place = known.young.get(&ino).or(known.old.get(&ino)).copied().unwrap_or_default();
            if place.latest.is_some_and(|(last, _)| last != who) {
                place.before = place.latest;
            }
            place.latest = Some((who, now));
            if known.young.len() >= MOST {
                known.old = std::mem::take(&mut known.young);
                known.all = known.turned.replace(now).max(known.all);
            }
            known.young.insert(ino, place);
        });
    }

    /// Anybody may have changed anything.
    pub fn everything_changed(&self, now: Instant) {
        self.write(|known| known.all = Some(now));
    }

    /// When it was last changed by somebody other than `who`; `None`: not once.
    pub fn by_others(&self, ino: u64, who: Who) -> Option<Instant> {
        let known = self.read();
        let place = known.young.get(&ino).or(known.old.get(&ino)).copied().unwrap_or_default();
        let of_others = |change: Change| change.filter(|(other, _)| *other != who).map(|(_, at)| at);
        of_others(place.latest).or(of_others(place.before)).max(known.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
        let (heat, one, now) = (Heat::default(), Who::guest(0), Instant::now());
        heat.everything_changed(now);
        assert_eq!(heat.by_others(7, one), Some(now));
        heat.changed(7, Who::OTHER, now + SECOND);
        assert_eq!(heat.by_others(7, one), Some(now + SECOND));
    }

    #[test]
    fn what_is_forgotten_counts_as_changed_by_others() {
        let (heat, one, now) = (Heat::default(), Who::guest(0), Instant::now());
        let turns = |ino: u64| 1 + (ino / MOST as u64) as u32;
        for ino in 0..4 * MOST as u64 {
            heat.changed(ino, one, now + turns(ino) * SECOND);
        }
        assert!(heat.read().young.len() + heat.read().old.len() <= 2 * MOST);
        for ino in [0, MOST as u64, 3 * MOST as u64, u64::MAX] {
            let latest = heat.by_others(ino, one).expect("something was forgotten");
            assert!(latest >= now + 2 * SECOND, "{ino} may have been among the forgotten");
        }
        heat.changed(5, Who::OTHER, now + 9 * SECOND);
        assert_eq!(heat.by_others(5, one), Some(now + 9 * SECOND));
    }
}
