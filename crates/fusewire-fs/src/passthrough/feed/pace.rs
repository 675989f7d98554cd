//! How often the kernel is told of one and the same file.
//!
//! When it is told that a file has changed, it drops the attributes that it is being answered at this moment, takes what it was told for
//! newer (`fuse_change_attributes`, by `attr_version`), and goes by those from before: a mode that was changed long ago decides who may
//! open the file, and a size who reads how much. It asks again next time, which is of no use to who asked now. Under a storm of changes that
//! hits every few of those who ask. So there is a moment between one telling and the next in which they are answered.

use super::news::{News, What};
use fusewire::NodeId;
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

/// So long nothing is told of a file that the kernel was told of: many times as long as an answer takes, and not longer than anybody notices.
pub const PACE: Duration = Duration::from_millis(10);

/// So many nodes are remembered at once, about.
const MOST: usize = 16 << 10;

/// What was told of late, and what waits for that.
#[derive(Debug, Default)]
pub struct Pace {
    told: HashMap<NodeId, Instant>,
    held: BTreeMap<NodeId, What>,
    /// When the first of these is due.
    due: Option<Instant>,
}

impl Pace {
    /// Keeps back what is not to be told now; the rest counts as told.
    pub fn hold(&mut self, news: &mut News, now: Instant) {
        let Self { told, held, due } = self;
        if told.len() > MOST {
            told.retain(|node, at| now < *at + PACE || held.contains_key(node));
        }
        news.retain_nodes(|node, what| {
            let before = told.get(&node).copied().filter(|&at| now < at + PACE);
            if let Some(at) = before {
                let known = held.entry(node).or_insert(*what);
                *known = (*known).max(*what);
                *due = Some(due.map_or(at + PACE, |due| due.min(at + PACE)));
                return false;
            }
            told.insert(node, now);
            if let Some(held) = held.remove(&node) {
                *what = held.max(*what);
            }
            true
        });
    }

    /// What was kept back and is due.
    pub fn take(&mut self, now: Instant) -> News {
        let mut news = News::default();
        if self.due.is_none_or(|due| now < due) {
            return news;
        }
        let (told, mut due) = (&mut self.told, None::<Instant>);
        self.held.retain(|&node, what| {
            let next = told.get(&node).map_or(now, |&at| at + PACE);
            if now < next {
                due = Some(due.map_or(next, |due| due.min(next)));
                return true;
            }
            told.insert(node, now);
            news.node(node, *what);
            false
        });
        self.due = due;
        news
    }

    /// All that was kept back, due or not.
    pub fn take_all(&mut self, now: Instant) -> News {
        let mut news = News::default();
        for (node, what) in std::mem::take(&mut self.held) {
            self.told.insert(node, now);
            news.node(node, what);
        }
        self.due = None;
        news
    }

    /// For how long nothing is due.
    pub fn next(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// How much is kept back.
    pub fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(node: u64, what: What) -> News {
        let mut news = News::default();
        news.node(NodeId::new(node), what);
        news
    }

    /// When a node is told of that changes at these times (milliseconds), if it is looked each of them.
    fn told(changes: &[u64]) -> Vec<u64> {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        let mut told = Vec::new();
        for time in 0..100 {
            let now = begin + Duration::from_millis(time);
            let due = pace.take(now);
            let mut news = if changes.contains(&time) { changed(2, What::Content) } else { News::default() };
            pace.hold(&mut news, now);
            assert!(due.len() + news.len() <= 1, "it is told once");
            if due.len() + news.len() == 1 {
                told.push(time);
            }
        }
        assert_eq!((pace.len(), pace.next(begin)), (0, None));
        told
    }

    #[test]
    fn a_change_is_told_at_once_and_the_next_after_a_moment() {
        assert_eq!(told(&[3]), [3]);
        assert_eq!(told(&[3, 4]), [3, 13]);
        assert_eq!(told(&[3, 20]), [3, 20]);
        let storm: Vec<u64> = (10..50).collect();
        assert_eq!(told(&storm), [10, 20, 30, 40, 50]);
    }

    #[test]
    fn what_is_kept_back_is_the_greater_of_what_changed_and_others_do_not_wait() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.hold(&mut changed(2, What::Content), now);
        pace.hold(&mut changed(2, What::Content), now);
        pace.hold(&mut changed(2, What::Attributes), now);
        let mut other = changed(3, What::Attributes);
        pace.hold(&mut other, now);
        assert_eq!((other.len(), pace.len()), (1, 1));
        assert_eq!(pace.next(now), Some(PACE));
        let mut due = pace.take(now + PACE);
        due.retain_nodes(|node, what| {
            assert_eq!((node, *what), (NodeId::new(2), What::Content));
            true
        });
        assert_eq!(due.len(), 1);
        // Late: both at once.
        pace.hold(&mut changed(2, What::Content), now + PACE);
        let mut news = changed(2, What::Attributes);
        pace.hold(&mut news, now + 2 * PACE);
        news.retain_nodes(|_, what| *what == What::Content);
        assert_eq!((news.len(), pace.len()), (1, 0));
        // Or whatever the time.
        pace.hold(&mut changed(2, What::Content), now + 2 * PACE);
        assert_eq!((pace.take_all(now + 2 * PACE).len(), pace.next(now)), (1, None));
    }
}
