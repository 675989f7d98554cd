//! What a process has from whoever started it, and how this one takes it.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

/// Makes what was inherited harmless: a limit of the size of files, at which the kernel kills whoever writes, and which is then
/// the mount with all its users; and children that nobody can wait for.
pub fn settle() {
    raise_file_size();
    // What is caught, and not ignored, a program that is started from here has as usual.
    let mut caught = vec![SIGXFSZ];
    if is_ignored(SIGCHLD) {
        caught.push(SIGCHLD);
    }
    for signal in caught {
        // If it cannot be caught, which never was heard of, all is as it was.
        _ = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
    }
}

/// The signals that end what runs in the foreground: SIGHUP only if it was not to be ignored, as by nohup(1).
pub fn endings() -> Vec<i32> {
    let mut signals = vec![SIGINT, SIGTERM];
    if !is_ignored(SIGHUP) {
        signals.push(SIGHUP);
    }
    signals
}

/// What clients write is bound by their own limits; a write beyond the one that is left here fails with `EFBIG`.
fn raise_file_size() {
    let limit = getrlimit(Resource::Fsize);
    if limit.current != limit.maximum {
        _ = setrlimit(Resource::Fsize, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

fn is_ignored(signal: i32) -> bool {
    ignored().is_ok_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// One bit for each signal that this process ignores.
fn ignored() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    mask_of(&status).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn mask_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read() {
        assert_eq!(mask_of("Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"), Some(0x1001));
        assert_eq!(mask_of("Name:\tx\n"), None);
        // The library of Rust ignores SIGPIPE.
        assert!(is_ignored(signal_hook::consts::SIGPIPE) && !is_ignored(SIGTERM));
    }
}
