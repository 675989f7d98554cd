//! A process that is a copy of this one.
#![allow(unsafe_code)]

use rustix::process::Pid;
use std::io;

/// Fork a process that has every descriptor of this one and does nothing but sleep.
pub fn fork_sleeper() -> io::Result<Pid> {
    // SAFETY: the child makes one system call again and again, without memory, and never returns from here.
    match unsafe { libc::fork() } {
        0 => loop {
            // SAFETY: as above.
            unsafe { libc::pause() };
        },
        child => Pid::from_raw(child).filter(|_| child > 0).ok_or_else(io::Error::last_os_error),
    }
}
