//! Waiting for requests: asleep, or looking again and again; and on which CPU.
//!
//! A thread that sleeps must be woken: 0.7 us on the CPU of whoever wakes it, 4.4 us on another one. A thread that polls is not woken,
//! but keeps a CPU from everybody else, also from the client that it waits for. `Governor` decides for each ring thread, from what is
//! seen in windows of eight milliseconds; it is deterministic and does no I/O. A `Governed` tells it what there is to see of its thread,
//! on the thread of a watch, and its `Order`s reach the thread by a [`Board`]: for threads of the ring by `../uring/govern.rs`, for those of
//! virtual machines' queues by [`Pollers`]. Tables: `docs/polling.md`; reasons: `docs/adr/0009-polling.md` and
//! `docs/adr/0028-queue-polling.md`.

mod board;
mod govern;
mod governor;
mod pollers;
#[cfg(test)]
mod sim;

pub use board::Board;
pub(crate) use board::Count;
pub(crate) use govern::{Governed, online, others};
#[cfg(test)]
use governor::Why;
pub(crate) use governor::{Governor, Order, Room, Sample};
pub use pollers::{Pollers, look_around};

use std::{fmt, str::FromStr, time::Duration};

/// The queue of requests that come from no CPU in particular.
pub(crate) const ANYWHERE: u16 = u16::MAX;

/// How threads wait for requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Poll {
    /// They sleep, each on its CPU.
    Off,
    /// They sleep where their clients are. A thread polls only if its clients are all on other CPUs, a CPU is free, and it pays.
    #[default]
    Auto,
    /// They poll for that long before they sleep, whatever that costs others: 1 us to 1 ms. For CPUs that are reserved. Over `/dev/fuse`
    /// it is the reader that always works who polls, and only so.
    Fixed(Duration),
}

/// Longest time that may be asked for, microseconds.
const MOST: u64 = 1000;

/// Why a text is no way of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PollError {
    /// It is none of the three.
    #[error("it is off, auto, or fixed:US with a number of microseconds, such as fixed:20")]
    Form,
    /// The time is too short or too long.
    #[error("the time must be from 1 to {MOST} microseconds; more than 50 gains nothing, off is for none")]
    Time,
}

impl FromStr for Poll {
    type Err = PollError;

    fn from_str(text: &str) -> Result<Self, PollError> {
        match text {
            "off" => return Ok(Self::Off),
            "auto" => return Ok(Self::Auto),
            _ => {}
        }
        let digits = text.strip_prefix("fixed:").ok_or(PollError::Form)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PollError::Form);
        }
        match digits.parse() {
            Ok(micros @ 1..=MOST) => Ok(Self::Fixed(Duration::from_micros(micros))),
            _ => Err(PollError::Time),
        }
    }
}

impl fmt::Display for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Auto => f.write_str("auto"),
            Self::Fixed(time) => write!(f, "fixed:{}", time.as_micros()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for text in ["off", "auto", "fixed:1", "fixed:50", "fixed:1000"] {
            assert_eq!(text.parse::<Poll>().expect("parses").to_string(), text);
        }
        assert_eq!("fixed:50".parse(), Ok(Poll::Fixed(Duration::from_micros(50))));
        assert_eq!(Poll::default(), Poll::Auto);
    }

    #[test]
    fn mistakes_are_told_apart() {
        for text in
            ["", "on", "fixed", "fixed:", "fixed:x", "fixed:-1", "fixed:1.5", "fixed:+5", "Auto", "fixed: 5"]
        {
            assert_eq!(text.parse::<Poll>(), Err(PollError::Form), "{text}");
        }
        for text in ["fixed:0", "fixed:1001", "fixed:99999999999999999999999"] {
            assert_eq!(text.parse::<Poll>(), Err(PollError::Time), "{text}");
        }
        assert!(PollError::Time.to_string().contains("from 1 to 1000 microseconds"));
    }
}
