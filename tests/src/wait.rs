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

/// Asks `probe` every few milliseconds until it gives a value; `None` after `limit`, with [`patience`]. What counts is a look that began
/// after the limit: whoever looked before it and was held up itself knows nothing of what it waits for.
pub fn until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience(limit);
    let mut pause = Duration::from_millis(1);
    loop {
        let is_last = Instant::now() >= deadline;
        if let Some(value) = probe() {
            return Some(value);
        }
        if is_last {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_began_before_the_limit_is_not_the_last() {
        let mut looks = 0;
        let held_up = || {
            looks += 1;
            std::thread::sleep(Duration::from_millis(40));
            (looks > 1).then_some(looks)
        };
        assert_eq!(until(Duration::from_millis(20), held_up), Some(2));
        let mut looks = 0;
        let mut look = || {
            looks += 1;
            None::<()>
        };
        assert_eq!(until(Duration::ZERO, &mut look), None);
        assert_eq!(looks, 1, "and without time there is one");
    }
}
