//! What the kernel is to be told, without repetitions.

use fusewire::{Errno, NodeId, Result, notify::Notifier};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::{CStr, CString},
    time::{Duration, Instant},
};

/// Attributes are forgotten, nothing else: what `fuse_reverse_inval_inode` takes a negative offset for.
const ATTRIBUTES_ALONE: i64 = -1;

/// How a name is to be forgotten; a greater one includes a lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// It is looked up again before it is used. What holds on to it keeps it.
    Expired,
    /// What it led to is not there any more.
    ///
    /// Not `FUSE_NOTIFY_DELETE`, which marks what the name led to as dead: another directory may have its number by now.
    Gone,
}

/// What of a node is to be forgotten; a greater one includes a lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    Attributes,
    /// And pages: data, or the entries of a directory.
    Content,
}

/// What the kernel is to be told.
#[derive(Debug, Default)]
pub struct News {
    names: BTreeMap<(NodeId, CString), Name>,
    nodes: BTreeMap<NodeId, What>,
}

impl News {
    /// `name` in `dir` changed.
    pub fn name(&mut self, dir: NodeId, name: &CStr, how: Name) {
        let known = self.names.entry((dir, name.to_owned())).or_insert(how);
        *known = how.max(*known);
    }

    /// A node changed.
    pub fn node(&mut self, node: NodeId, what: What) {
        let known = self.nodes.entry(node).or_insert(what);
        *known = what.max(*known);
    }

    /// Of the nodes, those alone are to be told of of which `keeps` says so.
    pub fn retain_nodes(&mut self, mut keeps: impl FnMut(NodeId, &mut What) -> bool) {
        self.nodes.retain(|&node, what| keeps(node, what));
    }

    /// How much there is to tell.
    pub fn len(&self) -> usize {
        self.names.len() + self.nodes.len()
    }

    /// Tell the kernel; answers how many notifications that took. Names first: to forget one takes the lock that those hold who
    /// list the directory, so that what they still bring into the kernel is there to be forgotten with the directory's content.
    ///
    /// # Errors
    /// `NODEV` at the end of the connection.
    pub fn tell(self, notifier: &Notifier) -> Result<usize> {
        let count = self.len();
        for ((dir, name), how) in &self.names {
            patiently(notifier, || match *how {
                Name::Expired => notifier.expire_entry(*dir, name),
                Name::Gone => notifier.inval_entry(*dir, name),
            })?;
        }
        for (&node, what) in &self.nodes {
            let offset = if *what == What::Content { 0 } else { ATTRIBUTES_ALONE };
            patiently(notifier, || notifier.inval_inode(node, offset, 0))?;
        }
        Ok(count)
    }
}

/// Wait for room in the queue of notifications, which is bounded. (Whoever does this must not be serving requests.)
pub fn patiently(notifier: &Notifier, tell: impl Fn() -> Result<()>) -> Result<()> {
    loop {
        match tell() {
            Err(Errno::AGAIN) => notifier.flush(),
            told => return told,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Name(NodeId, CString),
    Node(NodeId, What),
}

/// What the kernel is to be told once more, when answers that were on their way have arrived.
#[derive(Debug, Default)]
pub struct Later {
    due: HashMap<Subject, (Instant, usize)>,
    /// More than can be kept: everything, then, and once more after that time.
    all: Option<(Instant, usize)>,
}

/// How many are kept.
const MOST: usize = 16 << 10;

/// After which times it is told once more, each from the one before. The first is for callers that run, the others for those that had
/// to wait long for a processor: whatever time that was, what they bring lives for about twice as long again, and for a second at most.
pub const TIMES: [Duration; 4] = [
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(240),
    Duration::from_millis(700),
];

impl Later {
    fn put(&mut self, subject: Subject, time: usize) {
        let due = Instant::now() + TIMES[time];
        if self.due.len() < MOST || self.due.contains_key(&subject) {
            // Afresh, also if it is waiting: the last change is what counts.
            self.due.insert(subject, (due, time));
        } else {
            self.everything(time);
        }
    }

    /// A name, that is.
    pub fn name(&mut self, dir: NodeId, name: &CStr) {
        self.put(Subject::Name(dir, name.to_owned()), 0);
    }

    /// A node, that is.
    pub fn node(&mut self, node: NodeId, what: What) {
        self.put(Subject::Node(node, what), 0);
    }

    /// Everything, in a while. If that is to be told soon anyhow it is enough that it is told once more after that: else many changes
    /// would have everything told again and again.
    fn everything(&mut self, time: usize) {
        self.due.clear();
        let begin = || (Instant::now() + TIMES[time], time + 1);
        let (due, next) = self.all.unwrap_or_else(begin);
        self.all = Some((due, next.min(TIMES.len() - 1)));
    }

    /// Everything, now and later. If that was begun already, it goes on from where it is.
    pub fn everything_now(&mut self) {
        self.due.clear();
        let now = Instant::now();
        let next = match self.all {
            None => 0,
            Some((due, next)) if due <= now => next.min(TIMES.len() - 1),
            Some((_, next)) => next.saturating_sub(1),
        };
        self.all = Some((now, next));
    }

    /// How much is to be told yet.
    pub fn len(&self) -> usize {
        self.due.len() + usize::from(self.all.is_some())
    }

    /// When to look again.
    pub fn next(&self) -> Option<Duration> {
        const TICK: Duration = Duration::from_millis(10);
        (self.all.is_some() || !self.due.is_empty()).then_some(TICK)
    }

    /// What is due now; `Err`: everything.
    pub fn take(&mut self) -> std::result::Result<News, ()> {
        let now = Instant::now();
        if let Some((due, next)) = self.all
            && due <= now
        {
            self.all = TIMES.get(next).map(|&time| (Instant::now() + time, next + 1));
            return Err(());
        }
        let mut news = News::default();
        let ready = self.due.extract_if(|_, (due, _)| *due <= now);
        let ready: Vec<_> = ready.map(|(subject, (_, time))| (subject, time)).collect();
        for (subject, time) in ready {
            match &subject {
                Subject::Name(dir, name) => news.name(*dir, name, Name::Expired),
                Subject::Node(node, what) => news.node(*node, *what),
            }
            if time + 1 < TIMES.len() {
                self.put(subject, time + 1);
            }
        }
        Ok(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greater_news_includes_the_lesser() {
        let mut news = News::default();
        let dir = NodeId::new(2);
        news.name(dir, c"a", Name::Gone);
        news.name(dir, c"a", Name::Expired);
        assert_eq!(news.names.values().collect::<Vec<_>>(), [&Name::Gone]);
        news.node(dir, What::Content);
        news.node(dir, What::Attributes);
        assert_eq!((news.nodes.get(&dir), news.len()), (Some(&What::Content), 2));
    }

    #[test]
    fn what_is_told_later_is_told_again_and_bounded() {
        let mut later = Later::default();
        later.node(NodeId::new(2), What::Attributes);
        assert_eq!(later.take().expect("not all").len(), 0);
        std::thread::sleep(TIMES[0]);
        assert_eq!(later.take().expect("not all").len(), 1);
        assert!(later.next().is_some());
        std::thread::sleep(TIMES[1]);
        assert_eq!(later.take().expect("not all").len(), 1);
        for node in 0..2 * MOST as u64 {
            later.node(NodeId::new(node + 2), What::Content);
        }
        assert!(later.due.len() <= MOST && later.all.is_some());
        std::thread::sleep(TIMES[0]);
        assert!(later.take().is_err());
    }

    /// How often everything is told, and at which time for the last time, if it is lost at these times (milliseconds).
    fn everything_lost_at(lost: &[u64]) -> (usize, u64) {
        let mut later = Later::default();
        let (mut count, mut last) = (0, 0);
        let begin = Instant::now();
        let mut lost = lost.iter().peekable();
        loop {
            let now = begin.elapsed().as_millis() as u64;
            if lost.next_if(|&&at| at <= now).is_some() {
                later.everything_now();
            }
            if later.take().is_err() {
                (count, last) = (count + 1, now);
            }
            if lost.peek().is_none() && later.next().is_none() {
                return (count, last);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_is_lost_again_is_told_at_once_and_later_but_not_all_over_again() {
        let once = everything_lost_at(&[0]);
        assert!(once.0 == 5 && once.1 >= 1060, "{once:?}");
        let again = [0, 50, 100, 150, 200, 250, 300];
        let (count, last) = everything_lost_at(&again);
        // Each at once, and four more.
        assert!(count <= again.len() + 4 && count > again.len(), "{count}");
        assert!(last >= 300 + 700, "{last}");
    }
}
