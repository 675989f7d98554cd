//! What a feed has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a feed has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedStats {
    /// Changes that were told of, several at once counting once.
    pub events: u64,
    /// Those that the mount's own clients asked for.
    pub own: u64,
    /// What the kernel was told.
    pub notifications: u64,
    /// How often everything was dropped, because events were lost.
    pub overflows: u64,
    /// Files and directories that are watched one by one, now.
    pub watched: u64,
    /// How often one of these was given up for another that was asked for.
    pub given_up: u64,
    /// What it is to be told yet: once more because answers were on their way, or of a file that keeps changing.
    pub due: u64,
    /// The longest time from reading of a change to the kernel's having been told, in microseconds.
    pub longest_us: u64,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub events: AtomicU64,
    pub own: AtomicU64,
    pub notifications: AtomicU64,
    pub overflows: AtomicU64,
    pub longest_us: AtomicU64,
    pub due: AtomicU64,
}

impl Counts {
    /// As they are; without what is known of watches.
    pub fn stats(&self) -> FeedStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        FeedStats {
            events: read(&self.events),
            own: read(&self.own),
            notifications: read(&self.notifications),
            overflows: read(&self.overflows),
            due: read(&self.due),
            longest_us: read(&self.longest_us),
            ..FeedStats::default()
        }
    }
}
