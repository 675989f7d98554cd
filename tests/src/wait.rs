//! Waiting for something to become true, with a limit.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Time that anything which should be immediate may take on a loaded two-core machine.
pub const SOON: Duration = Duration::from_secs(15);

/// How long a limit is on this machine: as often as long as `FUSEWIRE_TEST_PATIENCE` says (1), for machines that are emulated. Moments
/// in which something must not happen stay what they are: they are shorter than a second.
pub fn patience(limit: Duration) -> Duration {
    static TIMES: LazyLock<u32> = LazyLock::new(|| {
        std::env::var("FUSEWIRE_TEST_PATIENCE").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
    });
    if limit < Duration::from_secs(1) { limit } else { limit * *TIMES }
}

/// Asks `probe` every few milliseconds until it gives a value; `None` after `limit`, with [`patience`].
pub fn until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience(limit);
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
