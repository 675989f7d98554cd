//! Waiting until the kernel has been told of all that has changed.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long anybody waits. What is told may wait for those who have the kernel's locks, and they for this: whoever changes an ACL has the
/// lock of a directory, which to forget a name in it takes.
const LIMIT: Duration = Duration::from_millis(100);

/// How far the kernel has been told, and how far somebody waits for that.
#[derive(Debug, Default)]
pub struct Settled {
    counts: Mutex<Counts>,
    reached: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    wanted: u64,
    reached: u64,
}

impl Settled {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait until what is there to be told has been told, having asked for that by `wake`.
    pub fn wait(&self, wake: impl FnOnce()) {
        let mine = {
            let mut counts = self.counts();
            counts.wanted += 1;
            counts.wanted
        };
        wake();
        let is_waiting = |counts: &mut Counts| counts.reached < mine;
        drop(self.reached.wait_timeout_while(self.counts(), LIMIT, is_waiting));
    }

    /// Does somebody wait? Then [`reached`](Self::reached) is to be called with this once what has been there now was told.
    pub fn wanted(&self) -> Option<u64> {
        let counts = self.counts();
        (counts.reached < counts.wanted).then_some(counts.wanted)
    }

    /// What was there when so much was wanted has been told.
    pub fn reached(&self, wanted: u64) {
        self.counts().reached = wanted;
        self.reached.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{thread, time::Instant};

    #[test]
    fn who_waits_is_let_go_when_what_was_wanted_is_reached_and_not_before() {
        let settled = Settled::default();
        assert_eq!(settled.wanted(), None);
        thread::scope(|scope| {
            let waits = scope.spawn(|| settled.wait(|| {}));
            let wanted = loop {
                if let Some(wanted) = settled.wanted() {
                    break wanted;
                }
            };
            settled.reached(wanted);
            waits.join().expect("it waited");
        });
        assert_eq!(settled.wanted(), None);
        let begin = Instant::now();
        settled.wait(|| {});
        assert!(begin.elapsed() >= LIMIT, "nobody has told anything");
        assert_eq!(settled.wanted(), Some(2));
    }
}
