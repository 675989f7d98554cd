//! Tests that cannot run on a machine say so.

use std::io::Write;

/// Says `skipped: reason`, and adds it to the file named by `FUSEWIRE_SKIP_LOG`, whose lines `cargo xtask` repeats after the
/// run, because a test runner hides what passing tests print.
pub fn skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let line = format!("skipped: {reason} ({test})");
    eprintln!("{line}");
    if let Some(log) = std::env::var_os("FUSEWIRE_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(log);
        // One write per line: tests of several processes append to it.
        let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    }
}
