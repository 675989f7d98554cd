//! What a device needs of the system that has no safe wrapper.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The descriptor that the caller has left open under this number.
///
/// # Errors
/// If there is none.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is looked at only, and for a number without a descriptor the call fails.
    let is_open = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if is_open < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open and, since it was so before this process began and is asked for by the user once, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes a tree of mounts that nobody else sees read-only as a whole.
///
/// # Errors
/// `ENOSYS` before Linux 5.12, `EPERM` without CAP_SYS_ADMIN.
pub fn make_read_only(tree: BorrowedFd<'_>) -> io::Result<()> {
    /// `struct mount_attr`.
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    /// `MOUNT_ATTR_RDONLY`.
    const READ_ONLY: u64 = 1;
    let attr = MountAttr { set: READ_ONLY, clear: 0, propagation: 0, userns: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a string, and the structure is as long as is said; both live until the call returns.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
