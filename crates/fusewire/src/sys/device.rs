//! `/dev/fuse` ioctls.

use crate::types::{Errno, Result};
use fusewire_abi::{BackingMap, DEV_IOC_BACKING_CLOSE, DEV_IOC_BACKING_OPEN};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags, open},
    ioctl::{Setter, ioctl, opcode},
};
use std::{io, ptr};

const CLONE: rustix::ioctl::Opcode = opcode::read::<u32>(229, 0);

/// A further descriptor of the same connection, with its own queue of requests in work (`FUSE_DEV_IOC_CLONE`).
pub(crate) fn clone_device(device: impl AsFd) -> io::Result<OwnedFd> {
    let source: BorrowedFd<'_> = device.as_fd();
    let clone = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let number = source.as_raw_fd() as u32;
    // SAFETY: FUSE_DEV_IOC_CLONE reads one u32, the number of an open descriptor, from the address given; `Setter`
    // passes the address of a live u32.
    unsafe { ioctl(&clone, Setter::<CLONE, u32>::new(number))? };
    Ok(clone)
}

/// Have the kernel know `file` (`FUSE_DEV_IOC_BACKING_OPEN`); answers its number there, which is positive.
pub(crate) fn open_backing(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<i32> {
    let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the kernel reads one `fuse_backing_map`, which `map` is and which outlives the call.
    let id =
        unsafe { libc::ioctl(device.as_raw_fd(), DEV_IOC_BACKING_OPEN as libc::Ioctl, ptr::from_ref(&map)) };
    if id > 0 { Ok(id) } else { Err(last_error()) }
}

/// Have it forget that number (`FUSE_DEV_IOC_BACKING_CLOSE`).
pub(crate) fn close_backing(device: BorrowedFd<'_>, id: i32) -> Result<()> {
    // SAFETY: the kernel reads one u32, which `id` is as far as it is concerned and which outlives the call.
    let done =
        unsafe { libc::ioctl(device.as_raw_fd(), DEV_IOC_BACKING_CLOSE as libc::Ioctl, ptr::from_ref(&id)) };
    if done == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
