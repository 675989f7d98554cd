//! Trials that need a system call without a safe wrapper.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use fusewire_abi::{BackingMap, DEV_IOC_BACKING_CLOSE, DEV_IOC_BACKING_OPEN, DEV_IOC_SYNC_INIT};

/// Asks the FUSE device to wait for INIT while mounting.
///
/// # Errors
/// `ENOTTY` from kernels before 6.18.
pub fn sync_init(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes no argument, and the descriptor is borrowed for the whole call.
    let status = unsafe { libc::ioctl(device.as_raw_fd(), DEV_IOC_SYNC_INIT as libc::Ioctl) };
    result(status.into()).map(drop)
}

/// Registers `file` with the connection of `device` for passthrough, and forgets it again.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, `ELOOP` for a file on a stack of filesystems that is too deep.
pub fn backing(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the kernel reads one `fuse_backing_map`, which `map` is and which outlives the call.
    let id = unsafe { libc::ioctl(device.as_raw_fd(), DEV_IOC_BACKING_OPEN as libc::Ioctl, &raw const map) };
    let id = u32::try_from(result(id.into())?).unwrap_or_default();
    // SAFETY: the kernel reads one `u32`, which `id` is and which outlives the call.
    let status =
        unsafe { libc::ioctl(device.as_raw_fd(), DEV_IOC_BACKING_CLOSE as libc::Ioctl, &raw const id) };
    result(status.into()).map(drop)
}

/// `struct file_handle` with room for the longest handle (`MAX_HANDLE_SZ`).
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

/// A file's handle, as the filesystem names it.
pub struct Named(FileHandle);

impl Named {
    /// Length of the handle in bytes.
    pub fn len(&self) -> u32 {
        self.0.bytes
    }
}

/// Asks for the file handle of an open directory.
///
/// # Errors
/// `EOPNOTSUPP` if the filesystem has no file handles.
pub fn file_handle(dir: BorrowedFd<'_>) -> io::Result<Named> {
    let mut handle = FileHandle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount_id = MaybeUninit::<libc::c_int>::uninit();
    // SAFETY: `handle` has room for the 128 bytes it announces, `mount_id` for one int, the path is a constant with a
    // NUL at its end; all outlive the call, which keeps none of them.
    let status = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            mount_id.as_mut_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    result(status).map(|_| Named(handle))
}

/// Opens the file that `handle` names, on the filesystem of `dir`, and closes it again.
///
/// # Errors
/// `EPERM` without `CAP_DAC_READ_SEARCH`.
pub fn open_handle(dir: BorrowedFd<'_>, handle: &mut Named) -> io::Result<()> {
    // SAFETY: the kernel reads the handle, whose announced length was written by the kernel itself, during the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            dir.as_raw_fd(),
            &raw mut handle.0,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    owned(fd).map(drop)
}

/// Watches the whole filesystem of `dir` for changes, and stops again.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, `ENODEV`, `EXDEV` or `EOPNOTSUPP` if the filesystem cannot be watched as a whole.
pub fn fanotify(dir: BorrowedFd<'_>) -> io::Result<()> {
    /// `FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_DFID_NAME`.
    const INIT: libc::c_uint = 0x1 | 0x2 | 0xc00;
    /// `FAN_MARK_ADD | FAN_MARK_FILESYSTEM`.
    const MARK: libc::c_uint = 0x1 | 0x100;
    /// `FAN_MODIFY | FAN_ATTRIB | FAN_MOVE | FAN_CREATE | FAN_DELETE | FAN_ONDIR`.
    const EVENTS: u64 = 0x2 | 0x4 | 0xc0 | 0x100 | 0x200 | 0x4000_0000;
    // SAFETY: no pointers are passed.
    let group = owned(unsafe { libc::fanotify_init(INIT, libc::O_RDONLY as libc::c_uint) }.into())?;
    // SAFETY: a null path makes the kernel use the directory descriptor, which is borrowed for the whole call.
    let status =
        unsafe { libc::fanotify_mark(group.as_raw_fd(), MARK, EVENTS, dir.as_raw_fd(), std::ptr::null()) };
    result(status.into()).map(drop)
}

fn result(status: libc::c_long) -> io::Result<libc::c_long> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(status) }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor to us, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
