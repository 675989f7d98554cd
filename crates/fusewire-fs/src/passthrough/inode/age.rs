//! What can be told from times, which go by ticks.

use rustix::{
    fs::{Statx, StatxTimestamp, Timespec},
    time::ClockId,
};

/// Longer than a tick of any clock that stamps files, nanoseconds.
const TICK: i64 = 20_000_000;

/// The time now. What is to be compared with it is asked for afterwards: a thread may be stopped in between for any time.
pub fn now() -> Timespec {
    rustix::time::clock_gettime(ClockId::RealtimeCoarse)
}

/// Is `time` so shortly before `now` that something which happens later may get the same time? Or even after it.
pub fn is_recent(time: Timespec, now: Timespec) -> bool {
    let seconds = now.tv_sec.saturating_sub(time.tv_sec);
    seconds.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec - time.tv_nsec) < TICK
}

/// A file's time as that of a clock.
pub fn time(of: &StatxTimestamp) -> Timespec {
    Timespec { tv_sec: of.tv_sec, tv_nsec: of.tv_nsec.into() }
}

/// State of a file's content in one number; 0 where it was so young, when it was asked for, that a change in the same tick
/// would not show.
pub fn stamp(stat: &Statx, asked: Timespec) -> u64 {
    let changed = time(&stat.stx_ctime);
    if is_recent(changed, asked) {
        return 0;
    }
    let mut mixed = 0xcbf2_9ce4_8422_2325_u64;
    for part in [
        stat.stx_mtime.tv_sec as u64,
        stat.stx_mtime.tv_nsec.into(),
        changed.tv_sec as u64,
        changed.tv_nsec as u64,
        stat.stx_size,
    ] {
        mixed = (mixed ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    mixed.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_tick_old_is_not_recent() {
        let now = Timespec { tv_sec: 1000, tv_nsec: 5_000_000 };
        let changed = |tv_sec, tv_nsec| {
            let file = tempfile::tempfile().unwrap();
            let mut stat = rustix::fs::statx(
                &file,
                c"",
                rustix::fs::AtFlags::EMPTY_PATH,
                rustix::fs::StatxFlags::BASIC_STATS,
            )
            .unwrap();
            (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec) = (tv_sec, tv_nsec);
            stat
        };
        for (seconds, nanos, recent) in [
            (1000, 5_000_000, true),
            (999, 985_000_001, true),
            (999, 985_000_000, false),
            (0, 0, false),
            (i64::MIN, 0, false),
            (1000, 6_000_000, true),
            (i64::MAX, 0, true),
        ] {
            let stat = changed(seconds, nanos);
            assert_eq!(is_recent(time(&stat.stx_ctime), now), recent, "{seconds}.{nanos}");
            assert_eq!(stamp(&stat, now) == 0, recent);
        }
    }
}
