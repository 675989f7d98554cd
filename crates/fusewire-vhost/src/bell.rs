//! Descriptors by which the monitor and the device tell each other something: that there are requests, that there are answers.

use crate::sys;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
};

/// An eventfd has no type.
const COUNTER: FileType = FileType::Unknown;

fn kind(file: impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode))
}

/// Is this an eventfd, whose writers never wait for somebody to read it?
pub(crate) fn is_counter(bell: &impl AsRawFd) -> bool {
    sys::copy(bell.as_raw_fd()).and_then(kind).is_ok_and(|kind| kind == COUNTER)
}

/// Nobody who reads or writes `file` is to wait there: the monitor decides what it is, and threads of ours use it while they hold locks.
///
/// # Errors
/// If that cannot be had. What is no eventfd, pipe or socket may keep whoever touches it for as long as it likes.
pub(crate) fn unwaiting(file: File) -> io::Result<File> {
    if ![FileType::Fifo, FileType::Socket, COUNTER].contains(&kind(&file)?) {
        let why = "the monitor gave a descriptor that is no eventfd, pipe or socket: refused";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::NONBLOCK)?;
    Ok(file)
}
