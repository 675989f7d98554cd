//! What this program says on standard error, besides its log.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes `text` and the end of the line. That nobody reads it, or that the disk is full, must neither end the thread that has something to
/// say nor what it serves, so nothing else here writes to standard error (`clippy::print_stderr`).
pub fn tell(text: impl Display) {
    // In one piece, so that lines of several threads are not mixed.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}
