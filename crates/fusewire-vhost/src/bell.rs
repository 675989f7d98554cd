//! Descriptors by which the monitor and the device tell each other something: that there are requests, that there are answers.

use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use std::{fs::File, io};

/// Nobody who reads or writes `file` is to wait there: the monitor decides what it is, and threads of ours use it while they hold locks.
///
/// # Errors
/// If that cannot be had. What is no eventfd, pipe or socket may keep whoever touches it for as long as it likes.
pub(crate) fn unwaiting(file: File) -> io::Result<File> {
    // An eventfd has no type.
    let kinds = [FileType::Fifo, FileType::Socket, FileType::Unknown];
    if !kinds.contains(&FileType::from_raw_mode(fstat(&file)?.st_mode)) {
        let why = "the monitor gave a descriptor that is no eventfd, pipe or socket: refused";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::NONBLOCK)?;
    Ok(file)
}
