//! `/dev/fuse` ioctls.

use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags, open},
    ioctl::{Setter, ioctl, opcode},
};
use std::io;

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
