//! Histories of a register: is each value that was read one that the register may have had?
//!
//! A register is anything with one value: the content of a file, its size, what a name leads to. Several threads set it, at times
//! that are known to lie between two moments; others read it, between two moments as well. A read is explained by a setting that had
//! begun when the read ended, and that no other had replaced, from beginning to end, before the read began. How long before: that is
//! how old the value was.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// One setting or one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    /// The value.
    pub value: u64,
    /// It did not happen before.
    pub begin: Instant,
    /// It had happened.
    pub end: Instant,
}

impl Act {
    /// Does something, and notes when. `None` if it did not happen.
    pub fn of(act: impl FnOnce() -> Option<u64>) -> Option<Self> {
        let begin = Instant::now();
        let value = act()?;
        Some(Self { value, begin, end: Instant::now() })
    }
}

/// A read that nothing explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No setting of this value had begun.
    FromNowhere(Act),
    /// The value had been replaced for this long.
    Stale(Act, Duration),
}

impl Wrong {
    /// For how long the value had been replaced.
    pub fn age(self) -> Option<Duration> {
        match self {
            Self::FromNowhere(_) => None,
            Self::Stale(_, age) => Some(age),
        }
    }
}

/// The settings of one register, made ready for questions.
#[derive(Debug)]
pub struct History {
    /// By when they began, with the earliest end of this one and all that began later.
    settings: Vec<(Act, Instant)>,
    /// Settings of each value: when they began, and the latest end of this one and those before.
    of_value: HashMap<u64, Vec<(Instant, Instant)>>,
}

impl History {
    /// All settings, the first value included.
    pub fn new(mut settings: Vec<Act>) -> Self {
        settings.sort_by_key(|act| act.begin);
        let mut of_value: HashMap<u64, Vec<(Instant, Instant)>> = HashMap::new();
        for act in &settings {
            let list = of_value.entry(act.value).or_default();
            let latest = list.last().map_or(act.end, |&(_, end)| end.max(act.end));
            list.push((act.begin, latest));
        }
        let mut with_ends: Vec<_> = settings.iter().map(|&act| (act, act.end)).collect();
        for index in (1..with_ends.len()).rev() {
            with_ends[index - 1].1 = with_ends[index - 1].1.min(with_ends[index].1);
        }
        Self { settings: with_ends, of_value }
    }

    /// How old was what was read? Zero if it may have been the value at some moment of the read.
    pub fn age(&self, read: Act) -> Result<Duration, Wrong> {
        let nowhere = Wrong::FromNowhere(read);
        let list = self.of_value.get(&read.value).ok_or(nowhere)?;
        let begun = list.partition_point(|&(begin, _)| begin <= read.end);
        // The one that lasts longest explains most.
        let (_, end) = begun.checked_sub(1).map(|last| list[last]).ok_or(nowhere)?;
        let later = self.settings.partition_point(|(act, _)| act.begin <= end);
        let replaced = self.settings.get(later).map(|&(_, earliest_end)| earliest_end);
        Ok(replaced.map_or(Duration::ZERO, |replaced| read.begin.saturating_duration_since(replaced)))
    }

    /// The same, where nothing may be older than `window`.
    pub fn check(&self, read: Act, window: Duration) -> Result<Duration, Wrong> {
        let age = self.age(read)?;
        if age <= window { Ok(age) } else { Err(Wrong::Stale(read, age)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(start: Instant, value: u64, begin: u64, end: u64) -> Act {
        let at = |ms| start + Duration::from_millis(ms);
        Act { value, begin: at(begin), end: at(end) }
    }

    #[test]
    fn reads_are_explained_or_not() {
        let t = Instant::now();
        let history = History::new(vec![act(t, 1, 0, 0), act(t, 2, 10, 20), act(t, 3, 30, 40)]);
        let age = |value, begin, end| history.age(act(t, value, begin, end));
        let ms = Duration::from_millis;
        assert_eq!(age(1, 5, 6), Ok(ms(0)));
        assert_eq!(age(1, 15, 16), Ok(ms(0)), "the second may not have happened yet");
        assert_eq!(age(2, 12, 13), Ok(ms(0)), "or may");
        assert_eq!(age(1, 25, 26), Ok(ms(5)));
        assert_eq!(age(1, 45, 46), Ok(ms(25)), "as old as its first successor");
        assert_eq!(age(2, 45, 46), Ok(ms(5)));
        assert_eq!(age(3, 45, 46), Ok(ms(0)));
        assert!(matches!(age(3, 25, 26), Err(Wrong::FromNowhere(_))), "from the future");
        assert!(matches!(age(9, 25, 26), Err(Wrong::FromNowhere(_))));
        assert!(history.check(act(t, 1, 45, 46), ms(25)).is_ok());
        assert!(matches!(history.check(act(t, 1, 45, 46), ms(24)), Err(Wrong::Stale(..))));
    }

    #[test]
    fn settings_at_the_same_time_may_have_happened_in_either_order() {
        let t = Instant::now();
        let history = History::new(vec![act(t, 0, 0, 0), act(t, 1, 10, 30), act(t, 2, 20, 25)]);
        for value in [1, 2] {
            assert_eq!(history.age(act(t, value, 100, 101)), Ok(Duration::ZERO));
        }
    }

    #[test]
    fn a_value_set_again_is_young_again() {
        let t = Instant::now();
        let history = History::new(vec![act(t, 0, 0, 0), act(t, 1, 10, 11), act(t, 0, 20, 21)]);
        assert_eq!(history.age(act(t, 0, 15, 16)), Ok(Duration::from_millis(4)));
        assert_eq!(history.age(act(t, 0, 30, 31)), Ok(Duration::ZERO));
    }
}
