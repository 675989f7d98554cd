//! Programs that run beside the bench: asked to end, waited for, and what they said.

use std::fs;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// Sends a signal to a program.
pub(crate) fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Fails if it has ended already, which is what is wanted.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// How a program ended, if it does within `limit`.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if begin.elapsed() < limit => thread::sleep(Duration::from_millis(10)),
            _ => return None,
        }
    }
}

/// All of a program's messages, for an error; nothing if there are none.
pub(crate) fn said(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    if text.trim().is_empty() { String::new() } else { format!("; it said:\n  {}", text.trim_end()) }
}
