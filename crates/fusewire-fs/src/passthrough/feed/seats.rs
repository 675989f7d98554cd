//! Who has a watch, and who gives it up for others: what was not asked for longest, and what the kernel then has to forget.
//!
//! Neither files nor times are known here: a watch is whatever keeps it, and time is counted in eras, see [`stamps`](super::stamps).

use super::stamps::Since;
use lru::LruCache;
use std::{
    collections::HashSet,
    ffi::{CStr, CString},
};

/// What was asked for in this era or in so many before it stays: answers about it may be on their way still.
const IN_USE: u32 = 1;

/// So many names the kernel may remember of a directory that can give up its watch. Each may have to be told of.
const NAMES_OF_ONE: usize = 1024;

/// And of all directories of one [`Seats`].
const NAMES_OF_ALL: usize = 1 << 14;

/// At so many of those whose turn it is, and which have to stay, is looked at once.
const STEPS: usize = 8;

/// Watches by inode number, in the order in which they were last asked for.
#[derive(Debug)]
pub struct Seats<W> {
    all: LruCache<u64, Seat<W>>,
    /// How many names are kept.
    names: usize,
}

#[derive(Debug)]
struct Seat<W> {
    watch: W,
    /// What is read later is read under the watch.
    since: Since,
    /// The era in which it was last asked for.
    used: u32,
    names: Names,
    stay: Stay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    /// As long as it is used.
    InTurn,
    /// To the end.
    ForGood,
    /// The kernel is being told to forget what it guards. It guards that still, and nothing new.
    Leaving,
}

/// What the kernel remembers by a directory's watch beside the directory itself: names in it, also of what is not there.
#[derive(Debug)]
enum Names {
    These(HashSet<CString>),
    /// More than can be listed.
    Many,
}

/// What gives up its watch.
#[derive(Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Its inode number.
    pub ino: u64,
    /// Names in it that the kernel may remember.
    pub names: Vec<CString>,
}

impl<W> Default for Seats<W> {
    fn default() -> Self {
        Self { all: LruCache::unbounded(), names: 0 }
    }
}

impl<W> Seats<W> {
    /// `ino` is watched from now on, in `era`; `for_good`: it never gives that up for others.
    pub fn take(&mut self, ino: u64, (watch, since): (W, Since), (era, for_good): (u32, bool)) {
        let stay = if for_good { Stay::ForGood } else { Stay::InTurn };
        let seat = Seat { watch, since, used: era, names: Names::These(HashSet::new()), stay };
        self.all.put(ino, seat);
    }

    /// Is there a watch, be it of one that gives it up just now?
    pub fn has(&self, ino: u64) -> bool {
        self.all.contains(&ino)
    }

    /// Since when it has been watched, if what is answered now may be remembered by that.
    pub fn since(&self, ino: u64) -> Option<Since> {
        let seat = self.all.peek(&ino)?;
        (seat.stay != Stay::Leaving).then_some(seat.since)
    }

    /// The same; it was asked for in `era`, and if there is a `name` for that in it: the kernel may remember it from now on.
    pub fn asked(&mut self, ino: u64, era: u32, name: Option<&CStr>) -> Option<Since> {
        let seat = self.all.get_mut(&ino)?;
        if seat.stay == Stay::Leaving {
            return None;
        }
        seat.used = era;
        let since = seat.since;
        if let Some(name) = name
            && let Names::These(names) = &mut seat.names
            && !names.contains(name)
        {
            if names.len() < NAMES_OF_ONE && self.names < NAMES_OF_ALL {
                names.insert(name.to_owned());
                self.names += 1;
            } else {
                self.names -= names.len();
                seat.names = Names::Many;
            }
        }
        Some(since)
    }

    /// The watch was set anew, if there is one that stays.
    pub fn renewed(&mut self, ino: u64, since: Since) {
        if let Some(seat) = self.all.peek_mut(&ino) {
            seat.since = since;
        }
    }

    /// The watch of this file.
    pub fn watch(&self, ino: u64) -> Option<&W> {
        self.all.peek(&ino).map(|seat| &seat.watch)
    }

    /// Is it giving up its watch?
    pub fn is_leaving(&self, ino: u64) -> bool {
        self.all.peek(&ino).is_some_and(|seat| seat.stay == Stay::Leaving)
    }

    /// In which era that was last asked for whose turn it is to give up its watch, if it can: if it is not in use in `era`. What has to stay is
    /// put behind the others; a few such at a time.
    pub fn turn(&mut self, era: u32) -> Option<u32> {
        for _ in 0..STEPS {
            let (&ino, seat) = self.all.peek_lru()?;
            let can_leave = seat.stay == Stay::InTurn && matches!(seat.names, Names::These(_));
            if can_leave {
                let is_in_use = era.wrapping_sub(seat.used) <= IN_USE;
                return (!is_in_use).then_some(seat.used);
            }
            self.all.promote(&ino);
        }
        None
    }

    /// Whose [`turn`](Self::turn) it is gives up its watch: from now on nothing is to be remembered by it. It is there until [`left`](Self::left).
    pub fn leave(&mut self, era: u32) -> Option<Leaving> {
        self.turn(era)?;
        let (&ino, _) = self.all.peek_lru()?;
        // Behind the others, too: it is not to be asked again.
        let seat = self.all.get_mut(&ino)?;
        seat.stay = Stay::Leaving;
        let Names::These(names) = &mut seat.names else { return None };
        let names: Vec<_> = names.drain().collect();
        self.names -= names.len();
        Some(Leaving { ino, names })
    }

    /// The kernel has forgotten all that the watch of this file guarded: it may end. `None`: it has already, and there may be another.
    pub fn left(&mut self, ino: u64) -> Option<W> {
        if self.is_leaving(ino) { self.remove(ino) } else { None }
    }

    /// There is no watch any more.
    pub fn remove(&mut self, ino: u64) -> Option<W> {
        let seat = self.all.pop(&ino)?;
        if let Names::These(names) = &seat.names {
            self.names -= names.len();
        }
        Some(seat.watch)
    }

    /// All that are watched, or give that up just now.
    pub fn numbers(&self) -> Vec<u64> {
        self.all.iter().map(|(&ino, _)| ino).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passthrough::feed::stamps::Stamps;

    fn seats_of(inos: impl IntoIterator<Item = u64>, era: u32) -> Seats<()> {
        let mut seats = Seats::default();
        inos.into_iter().for_each(|ino| seats.take(ino, ((), Since::default()), (era, false)));
        seats
    }

    fn leave(seats: &mut Seats<()>, era: u32) -> Option<u64> {
        seats.leave(era).map(|leaving| leaving.ino)
    }

    #[test]
    fn what_was_not_asked_for_longest_gives_up_its_watch_first() {
        let mut seats = seats_of([1, 2, 3, 4], 1);
        assert!(seats.asked(1, 1, None).is_some() && seats.asked(3, 1, None).is_some());
        // To look is not to ask.
        assert!(seats.since(2).is_some() && seats.watch(2).is_some() && seats.has(2));
        let order: Vec<_> = std::iter::from_fn(|| leave(&mut seats, 3)).collect();
        assert_eq!(order, [2, 4, 1, 3]);
        assert_eq!(seats.len(), 4, "the kernel is still to be told");
    }

    #[test]
    fn what_is_in_use_stays() {
        let mut seats = seats_of([1, 2], 5);
        assert_eq!((leave(&mut seats, 5), leave(&mut seats, 6)), (None, None));
        seats.asked(1, 6, None);
        assert_eq!((seats.turn(7), leave(&mut seats, 7)), (Some(5), Some(2)));
        assert_eq!((seats.turn(7), leave(&mut seats, 7)), (None, None));
        assert_eq!(leave(&mut seats, 8), Some(1));
        // After the last number comes the first.
        let mut seats = seats_of([1], u32::MAX);
        assert_eq!((leave(&mut seats, 0), leave(&mut seats, 1)), (None, Some(1)));
    }

    #[test]
    fn by_a_watch_that_is_given_up_nothing_new_is_remembered() {
        let stamps = Stamps::default();
        let mut seats = seats_of([1, 2], 1);
        assert_eq!(leave(&mut seats, 9), Some(1));
        assert_eq!((seats.asked(1, 9, Some(c"a")), seats.since(1)), (None, None));
        assert!(seats.has(1) && seats.is_leaving(1) && !seats.is_leaving(2));
        assert_eq!((seats.left(1), seats.left(1), seats.left(2)), (Some(()), None, None));
        // Forgotten and watched anew while the kernel was told: that is another watch.
        assert_eq!(leave(&mut seats, 9), Some(2));
        seats.remove(2);
        seats.take(2, ((), stamps.pass()), (9, false));
        assert_eq!((seats.left(2), seats.since(2).is_some()), (None, true));
    }

    #[test]
    fn what_is_watched_for_good_and_what_has_too_many_names_stays() {
        let mut seats = seats_of([2, 3], 1);
        seats.take(1, ((), Since::default()), (1, true));
        let name = |number: usize| CString::new(number.to_string()).expect("a name");
        (0..=NAMES_OF_ONE).for_each(|number| _ = seats.asked(2, 1, Some(&name(number))));
        assert_eq!(seats.names, 0, "what cannot be told of is not kept");
        // Those that have to stay are in front.
        [3].iter().for_each(|&ino| _ = seats.asked(ino, 1, None));
        assert_eq!((leave(&mut seats, 9), leave(&mut seats, 9)), (Some(3), None));
        assert!(seats.since(1).is_some() && seats.since(2).is_some());
    }

    #[test]
    fn names_that_the_kernel_may_remember_are_told_of_and_their_number_is_bounded() {
        let mut seats = seats_of([1], 1);
        for name in [c"a", c"b", c"a"] {
            assert!(seats.asked(1, 1, Some(name)).is_some());
        }
        let mut leaving = seats.leave(9).expect("it may leave");
        leaving.names.sort();
        assert_eq!(leaving, Leaving { ino: 1, names: vec![c"a".to_owned(), c"b".to_owned()] });
        assert_eq!(seats.names, 0);
        let each = NAMES_OF_ONE / 2;
        let dirs = NAMES_OF_ALL as u64 / each as u64 + 5;
        let mut seats = seats_of(1..=dirs, 1);
        for ino in 1..=dirs {
            for number in 0..each {
                seats.asked(ino, 1, Some(&CString::new(number.to_string()).expect("a name")));
            }
            assert!(seats.names <= NAMES_OF_ALL);
        }
        (1..=dirs).for_each(|ino| _ = seats.remove(ino));
        assert_eq!((seats.names, seats.len()), (0, 0));
    }

    /// A long sequence of everything that can happen, by the numbers of a small generator: what leaves is always one that was not asked for
    /// longer than any other that can.
    #[test]
    fn the_order_is_that_of_a_plain_list() {
        let mut seats = Seats::default();
        let mut list: Vec<(u64, u32)> = Vec::new();
        let (mut state, mut era) = (0x9e37_79b9_7f4a_7c15u64, 1);
        let mut roll = |sides: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) % sides
        };
        for _ in 0..20_000 {
            let ino = roll(60) + 1;
            let at = list.iter().position(|(of, _)| *of == ino);
            match roll(10) {
                0..4 if at.is_none() => {
                    seats.take(ino, ((), Since::default()), (era, false));
                    list.push((ino, era));
                }
                0..7 => {
                    assert_eq!(seats.asked(ino, era, None).is_some(), at.is_some());
                    if let Some(at) = at {
                        list.remove(at);
                        list.push((ino, era));
                    }
                }
                7 => {
                    assert_eq!(seats.remove(ino).is_some(), at.is_some());
                    at.inspect(|&at| _ = list.remove(at));
                }
                8 => {
                    let first = list.first().filter(|(_, used)| era - used > IN_USE).map(|(ino, _)| *ino);
                    assert_eq!(leave(&mut seats, era), first);
                    if let Some(ino) = first {
                        assert!(seats.left(ino).is_some());
                        list.remove(0);
                    }
                }
                _ => era += u32::from(roll(4) == 0),
            }
            assert_eq!(seats.len(), list.len());
        }
    }
}
