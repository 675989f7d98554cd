//! What going to the background needs of the system that has no safe wrapper.
#![allow(unsafe_code)]

use std::io;

/// Keeps programs that are started from now on from inheriting any descriptor but the three standard ones: a lock or a
/// pipe of whoever called would be held for as long as the mount lasts.
///
/// # Errors
/// `ENOSYS` or `EINVAL` from kernels before 5.11.
pub fn keep_descriptors() -> io::Result<()> {
    /// `CLOSE_RANGE_CLOEXEC`.
    const CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: with this flag nothing is closed, so every descriptor stays valid for who owns it; no pointers are passed.
    let status = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOEXEC) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
