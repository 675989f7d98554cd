//! Descriptors by their paths, `/proc/self/fd/N`: what an `O_PATH` descriptor does not do by itself is done through its path.

use super::Nodes;
use crate::passthrough::Descriptors;
use rustix::{
    fs::{Mode, OFlags},
    io::Result,
};
use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// Where the process's descriptors are found by name.
#[derive(Debug)]
pub struct Proc {
    /// The directory.
    pub fd: OwnedFd,
    /// How it is called.
    pub descriptors: Descriptors,
}

impl Nodes {
    /// Open what a descriptor is of, anew.
    pub fn reopen(&self, fd: &impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        let name = Decimal::new(fd.as_fd().as_raw_fd());
        rustix::fs::openat(&self.proc.fd, name.as_c_str(), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Do something to a path that leads to `fd`.
    pub fn by_path<R>(&self, fd: &impl AsFd, act: impl FnOnce(&CStr) -> R) -> R {
        by_path(self.proc.descriptors, fd, act)
    }
}

/// Do something to a path that leads to `fd`: `/proc/self/fd/N`, or `N` if that is the working directory.
pub fn by_path<R>(descriptors: Descriptors, fd: &impl AsFd, act: impl FnOnce(&CStr) -> R) -> R {
    const LONGEST: usize = "/proc/self/fd/".len();
    let prefix = descriptors.prefix();
    let number = Decimal::new(fd.as_fd().as_raw_fd());
    let digits = number.as_c_str().to_bytes_with_nul();
    let mut path = [0; LONGEST + Decimal::ROOM];
    path[..prefix.len()].copy_from_slice(prefix);
    path[prefix.len()..][..digits.len()].copy_from_slice(digits);
    act(CStr::from_bytes_until_nul(&path).unwrap_or(c"/proc/self/fd/-"))
}

/// Do something to the name that `fd` has in the directory of the process's descriptors: with that at hand it is found
/// sooner than by its path.
pub fn by_number<R>(fd: &impl AsFd, act: impl FnOnce(&CStr) -> R) -> R {
    act(Decimal::new(fd.as_fd().as_raw_fd()).as_c_str())
}

/// A number as text, without asking for memory.
struct Decimal {
    text: [u8; Self::ROOM],
    start: usize,
}

impl Decimal {
    const ROOM: usize = 12;

    fn new(number: i32) -> Self {
        let mut text = [0; Self::ROOM];
        let mut start = Self::ROOM - 1;
        let mut rest = number.unsigned_abs();
        loop {
            start -= 1;
            text[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return Self { text, start };
            }
        }
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.text[self.start..]).unwrap_or(c"-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_text() {
        for number in [0, 1, 9, 10, 12345, i32::MAX] {
            assert_eq!(Decimal::new(number).as_c_str().to_str().unwrap(), number.to_string());
        }
    }
}
