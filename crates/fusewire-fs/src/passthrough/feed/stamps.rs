//! What changed when: so that an answer that was read before a change is not remembered after it.
//!
//! An answer and the news of a change to what it says can pass each other. Whoever makes an answer therefore notes where the feed
//! stands before reading ([`Stamps::now`]), and asks at the end whether there was news since ([`Stamps::is_fresh`]). If so, the
//! kernel is told not to remember it. If not, the answer may still be on its way, or the caller not yet have been woken, when the
//! news comes: so each answer leaves a trace, by which the feed knows that it must tell the kernel once more, later
//! ([`Stamps::is_in_use`]). Of the two, one at least sees the other, as both write before they read.
//!
//! Places are found by a hash and shared: who shares one asks the directory, or tells the kernel, once too often.

use std::{
    ffi::CStr,
    hash::Hasher,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

/// An era is at least that long: so long an answer may be on its way into the kernel's memory, of the time that this process runs.
pub const ERA: Duration = Duration::from_secs(2);

/// A power of two.
const PLACES: usize = 1 << 13;

/// What an answer says something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject(u64);

fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

impl Subject {
    /// Attributes and content of a file: `ino` is its inode number.
    pub fn file(ino: u64) -> Self {
        Self(mix(ino))
    }

    /// What a name in the directory with this inode number leads to.
    pub fn name(ino: u64, name: &CStr) -> Self {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(name.to_bytes());
        Self(mix(ino ^ hasher.finish()))
    }

    fn place(self) -> usize {
        (self.0 >> 32) as usize & (PLACES - 1)
    }
}

/// Where the feed stood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Since(u64);

/// Changes, counted.
#[derive(Debug)]
pub struct Stamps {
    count: AtomicU64,
    /// Everything may have changed then.
    all: AtomicU64,
    changed: Box<[AtomicU64]>,
    /// In which era answers were made last; 0: never.
    used: Box<[AtomicU32]>,
    /// Eras, and not times: while the process stands still, an answer does not arrive.
    era: AtomicU32,
}

impl Default for Stamps {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            all: AtomicU64::new(0),
            changed: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            used: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
            era: AtomicU32::new(1),
        }
    }
}

impl Stamps {
    /// Where the feed stands now. To be asked before anything is read.
    pub fn now(&self) -> Since {
        Since(self.count.load(SeqCst))
    }

    /// Another era begins. `began`: when this one did, by the feed's thread.
    pub fn turn(&self, began: &mut Instant) {
        let now = Instant::now();
        if now.duration_since(*began) >= ERA {
            *began = now;
            self.era.fetch_add(1, SeqCst);
        }
    }

    /// Which era this is.
    pub fn era(&self) -> u32 {
        self.era.load(SeqCst)
    }

    /// Was there no news of `subjects` since? The answer is noted to be on its way.
    pub fn is_fresh(&self, since: Since, subjects: &[Subject]) -> bool {
        let era = self.era.load(SeqCst);
        for subject in subjects {
            self.used[subject.place()].store(era, SeqCst);
        }
        let newest = |subject: &Subject| self.changed[subject.place()].load(SeqCst);
        self.all.load(SeqCst) <= since.0 && subjects.iter().all(|subject| newest(subject) <= since.0)
    }

    /// There is news of `subjects`. To be called before the kernel is told.
    pub fn changed(&self, subjects: impl IntoIterator<Item = Subject>) {
        let now = self.count.fetch_add(1, SeqCst) + 1;
        for subject in subjects {
            self.changed[subject.place()].store(now, SeqCst);
        }
    }

    /// A moment between before and after: what is read later has a younger stamp than what was read until now.
    pub fn pass(&self) -> Since {
        Since(self.count.fetch_add(1, SeqCst) + 1)
    }

    /// Anything may have changed. To be called before the kernel is told.
    pub fn everything_changed(&self) {
        let now = self.count.fetch_add(1, SeqCst) + 1;
        self.all.store(now, SeqCst);
    }

    /// Was an answer about it made in this era or the one before? To be asked after [`changed`](Self::changed).
    pub fn is_in_use(&self, subject: Subject) -> bool {
        let used = self.used[subject.place()].load(SeqCst);
        used != 0 && self.era.load(SeqCst).wrapping_sub(used) <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_fresh_unless_there_was_news_of_it_since() {
        let stamps = Stamps::default();
        let (file, name, other) = (Subject::file(5), Subject::name(5, c"a"), Subject::name(5, c"b"));
        let since = stamps.now();
        assert!(stamps.is_fresh(since, &[file, name]));
        stamps.changed([name]);
        assert!(!stamps.is_fresh(since, &[file, name]));
        assert!(stamps.is_fresh(since, &[file, other]));
        assert!(stamps.is_fresh(stamps.now(), &[file, name]));
        stamps.everything_changed();
        assert!(!stamps.is_fresh(since, &[file, other]));
        assert!(stamps.is_fresh(stamps.now(), &[file, other]));
    }

    #[test]
    fn answers_leave_a_trace_for_a_while() {
        let stamps = Stamps::default();
        let file = Subject::file(5);
        assert!(!stamps.is_in_use(file));
        stamps.is_fresh(stamps.now(), &[file]);
        let past = || Instant::now().checked_sub(ERA).expect("the machine runs longer than that");
        for expected in [true, true, false] {
            assert_eq!(stamps.is_in_use(file), expected);
            stamps.turn(&mut past());
        }
        let mut now = Instant::now();
        stamps.is_fresh(stamps.now(), &[file]);
        (0..5).for_each(|_| stamps.turn(&mut now));
        assert!(stamps.is_in_use(file), "no time has passed");
    }

    /// Whatever the order: the answer is not remembered, or the feed knows of it.
    #[test]
    fn an_answer_and_news_do_not_miss_each_other() {
        let stamps = Stamps::default();
        let file = Subject::file(5);
        for _ in 0..2000 {
            let since = stamps.now();
            let (fresh, seen) = std::thread::scope(|scope| {
                let answer = scope.spawn(|| stamps.is_fresh(since, &[file]));
                stamps.changed([file]);
                let seen = stamps.is_in_use(file);
                (answer.join().expect("no panic"), seen)
            });
            assert!(!fresh || seen);
            stamps.used[file.place()].store(0, SeqCst);
        }
    }
}
