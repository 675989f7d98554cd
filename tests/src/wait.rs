//! Waiting for something to become true, with a limit.

use std::time::{Duration, Instant};

/// Time that anything which should be immediate may take on a loaded two-core machine.
pub const SOON: Duration = Duration::from_secs(15);

/// Asks `probe` every few milliseconds until it gives a value; `None` after `limit`.
pub fn until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Panics with `what` unless `probe` answers true within `limit`.
#[track_caller]
pub fn assert_within(limit: Duration, what: &str, mut probe: impl FnMut() -> bool) {
    assert!(until(limit, || probe().then_some(())).is_some(), "not within {limit:?}: {what}");
}
