//! Requests over io_uring, under real loads.
//!
//! Needs root, `/dev/fuse` and a kernel that offers the ring, and passes with a word of explanation where there are none. Each
//! test is a process in a mount namespace of its own; a watchdog aborts the connections of one that takes too long.

#[path = "../support/callers.rs"]
mod callers;
#[path = "../support/every_channel.rs"]
mod every_channel;
#[path = "../support/lab.rs"]
mod lab;

use fusewire::server::{Channel, Options, try_ring};

/// The ring or nothing.
fn options() -> Options {
    Options { channel: Channel::Uring, ..Default::default() }
}

/// Why there can be no ring here.
fn missing() -> Option<String> {
    let reason = try_ring(&options()).err()?;
    Some(format!("there can be no ring: {reason}; {}", reason.remedy()))
}
