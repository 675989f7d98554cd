//! Requests that wait in the kernel although entries of their queue are free.
//!
//! The kernel gives a request that waits to nobody but to an entry of its queue that is just being answered. So after entries were added
//! somebody has to set requests going: see `kick.rs`. That is done once for each of them, by whoever adds them, and may come to nothing
//! all the same: no file is open and no path leads to the mount, or memory is short. The kernel itself leaves requests lying, too: of
//! several background requests that may begin at a time it gives out one. Where a handler waits for such a request, that is for ever.
//!
//! So while handlers wait, the watch compares what the kernel counts (`waiting` of the control filesystem) with what the threads have in
//! their hands. If there is more, and entries of a queue are free and stay so, requests are made on that queue until something comes,
//! less and less often. Where the kernel's number cannot be read, it is done some times after the last news of the queue.
//!
//! Deterministic: what is found goes in, what is to be done comes out.

use super::stock::Found;
use std::time::Duration;

/// How long a queue must have been without news.
const FIRST: Duration = Duration::from_millis(16);

/// The longest time between attempts, each of which comes after twice as long.
const LONGEST: Duration = Duration::from_secs(8);

/// How often it is looked whether anything waits: once that nothing does is known so often, nothing will before there is news.
const LOOKS: u32 = 3;

/// How often requests are made where nobody knows whether any waits.
const BLIND: u32 = 9;

/// How many requests are made at a time, at most.
const MOST: usize = 32;

/// What is to be done for a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Make so many requests; `by_path` if the way by an open file was tried before.
    Kick { count: usize, by_path: bool },
    /// Have its threads try again to get a further entry.
    Nudge,
}

/// A queue, and what has been done for it since the last news.
#[derive(Clone, Debug, Default)]
struct Queue {
    news: usize,
    attempts: u32,
    kicks: u32,
    /// When to look again, if at all.
    due: Option<Duration>,
}

impl Queue {
    /// An attempt is over; if there may be `another`, then after twice as long.
    fn put_off(&mut self, now: Duration, another: bool) {
        self.attempts += 1;
        self.due = another.then(|| now + (FIRST * 2u32.saturating_pow(self.attempts.min(16))).min(LONGEST));
    }
}

/// All queues of a ring.
#[derive(Clone, Debug)]
pub(super) struct Stall(Vec<Queue>);

impl Stall {
    pub(super) fn new(queues: usize) -> Self {
        Self(vec![Queue::default(); queues])
    }

    /// A look at time `now` at the queues as they are `found`. `unanswered`: how many requests the kernel counts; it is asked only if that
    /// matters. What is to be done for which queues?
    pub(super) fn look(
        &mut self,
        now: Duration,
        found: &[Found],
        unanswered: impl FnOnce() -> Option<usize>,
    ) -> Vec<(usize, Remedy)> {
        for (queue, found) in self.0.iter_mut().zip(found) {
            let may_stall = found.held > found.at_rest && (found.free > 0 || found.is_bare);
            if queue.news != found.news || !may_stall {
                *queue = Queue { news: found.news, ..Queue::default() };
            }
            if may_stall && queue.attempts == 0 && queue.due.is_none() {
                queue.due = Some(now + FIRST);
            }
        }
        let is_due = |queue: &Queue| queue.due.is_some_and(|due| due <= now);
        if !self.0.iter().any(is_due) {
            return Vec::new();
        }
        let held: usize = found.iter().map(|found| found.held).sum();
        let more = unanswered().map(|all| all.saturating_sub(held));
        let due = self.0.iter_mut().zip(found).enumerate().filter(|(_, (queue, _))| is_due(queue));
        due.filter_map(|(at, (queue, found))| Some((at, decide(queue, now, found, more)?))).collect()
    }

    /// When the next look is due, if there is to be one.
    pub(super) fn due(&self) -> Option<Duration> {
        self.0.iter().filter_map(|queue| queue.due).min()
    }
}

/// `more`: how many requests the kernel has beyond those in the hands of threads.
fn decide(queue: &mut Queue, now: Duration, found: &Found, more: Option<usize>) -> Option<Remedy> {
    let another = match more {
        _ if found.free == 0 => true,
        Some(0) => queue.attempts + 1 < LOOKS,
        Some(_) => true,
        None => queue.attempts + 1 < BLIND,
    };
    queue.put_off(now, another);
    if found.free == 0 {
        return Some(Remedy::Nudge);
    }
    let count = found.free.min(more.unwrap_or(MOST)).min(MOST);
    let by_path = queue.kicks % 2 == 1;
    queue.kicks += u32::from(count > 0);
    (count > 0).then_some(Remedy::Kick { count, by_path })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn waits(free: usize, news: usize) -> Found {
        Found { free, held: 5, at_rest: 2, news, is_bare: false }
    }

    /// What is done within a minute, looked at every 8 ms, and when, in milliseconds.
    fn minute(stall: &mut Stall, found: Found, unanswered: Option<usize>) -> Vec<(u128, Remedy)> {
        let looks = (0..7500u32).map(|i| MS * 8 * i);
        let done = looks.map(|now| (now, stall.look(now, &[found], || unanswered)));
        done.flat_map(|(now, done)| done.into_iter().map(move |(_, remedy)| (now.as_millis(), remedy)))
            .collect()
    }

    fn kick(count: usize, by_path: bool) -> Remedy {
        Remedy::Kick { count, by_path }
    }

    #[test]
    fn a_queue_whose_requests_wait_beside_free_entries_is_kicked_until_something_comes() {
        let mut stall = Stall::new(1);
        let done = minute(&mut stall, waits(4, 1), Some(5 + 3));
        assert_eq!(done[..3], [(16, kick(3, false)), (48, kick(3, true)), (112, kick(3, false))]);
        let last = done.windows(2).last().map(|pair| pair[1].0 - pair[0].0);
        assert_eq!(last, Some(LONGEST.as_millis()));
        assert!(stall.due().is_some());
        // Something has come: it begins anew.
        assert_eq!(minute(&mut stall, waits(9, 2), Some(5 + 100))[0], (16, kick(9, false)));
    }

    #[test]
    fn where_nothing_waits_it_is_looked_some_times_and_nothing_done() {
        let mut stall = Stall::new(1);
        assert_eq!(minute(&mut stall, waits(4, 1), Some(5)), []);
        assert_eq!(stall.due(), None);
        // It may do so again.
        stall.look(MS, &[waits(3, 2)], || None);
        assert_eq!(stall.due(), Some(MS + FIRST));
    }

    #[test]
    fn where_nobody_knows_it_is_tried_some_times() {
        let mut stall = Stall::new(1);
        let done = minute(&mut stall, waits(40, 1), None);
        assert_eq!((done[0], done.len()), ((16, kick(MOST, false)), BLIND as usize));
        assert_eq!(stall.due(), None);
    }

    #[test]
    fn the_kernel_is_not_asked_while_there_is_news_or_no_handler_waits() {
        let idle = |news| Found { free: 3, held: 2, at_rest: 2, news, is_bare: false };
        let used = |news| Found { free: 0, held: 7, at_rest: 0, news, is_bare: false };
        let mut stall = Stall::new(1);
        for i in 0..100 {
            for found in [waits(3, i), idle(1), used(1)] {
                assert!(stall.look(MS * 8 * i as u32, &[found], || panic!("it is asked")).is_empty());
            }
        }
        stall.look(MS * 800, &[idle(1)], || None);
        assert_eq!(stall.due(), None);
    }

    #[test]
    fn a_queue_that_got_no_entry_is_tried_again_for_ever() {
        let mut stall = Stall::new(2);
        let bare = Found { free: 0, held: 7, at_rest: 0, news: 3, is_bare: true };
        let (mut nudges, mut now) = (0, Duration::ZERO);
        for _ in 0..20 {
            let done = stall.look(now, &[Found::default(), bare], || Some(7));
            assert!(done.iter().all(|&remedy| remedy == (1, Remedy::Nudge)));
            nudges += done.len();
            now = stall.due().expect("it is tried again");
        }
        assert_eq!(nudges, 19);
    }
}
