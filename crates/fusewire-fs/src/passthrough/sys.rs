//! System calls that rustix does not wrap: file handles, identities of a thread, and a few newer forms.
#![allow(unsafe_code)]

use rustix::io::Errno;
use std::{
    ffi::{CStr, c_int, c_long},
    os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
    sync::atomic::AtomicU64,
};

/// Memory of a file, as words that several processes may change.
#[derive(Debug)]
pub struct Words {
    begin: std::ptr::NonNull<AtomicU64>,
    bytes: usize,
}

// SAFETY: it is a piece of memory that is only used through atomics.
unsafe impl Send for Words {}
// SAFETY: the same.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the first `bytes` of a file. Whoever touches what the file does not have ends the process.
    pub fn map(file: impl AsFd, bytes: usize) -> rustix::io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let (rights, shared) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: nothing is there yet; the kernel chooses the place.
        let begin = unsafe { mmap(std::ptr::null_mut(), bytes, rights, shared, file, 0)? };
        let begin = std::ptr::NonNull::new(begin.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { begin, bytes })
    }

    /// The words.
    pub fn all(&self) -> &[AtomicU64] {
        // SAFETY: mapped until this is dropped, aligned to a page, and any bytes are a word.
        unsafe { std::slice::from_raw_parts(self.begin.as_ptr(), self.bytes / size_of::<AtomicU64>()) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: it is what `map` has mapped, and nobody has a reference to it any more.
        _ = unsafe { rustix::mm::munmap(self.begin.as_ptr().cast(), self.bytes) };
    }
}

/// Largest file handle (`MAX_HANDLE_SZ`).
pub const MAX_HANDLE: usize = 128;

/// `struct file_handle` with room for the largest one.
#[repr(C)]
#[derive(Clone)]
pub struct RawHandle {
    /// Bytes used.
    len: u32,
    /// The filesystem's own kind of handle.
    pub kind: i32,
    data: [u8; MAX_HANDLE],
}

impl std::fmt::Debug for RawHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{:02x?}", self.kind, self.bytes())
    }
}

impl RawHandle {
    /// A handle made up of its parts; `bytes` beyond [`MAX_HANDLE`] are cut off.
    pub fn new(kind: i32, bytes: &[u8]) -> Self {
        let len = bytes.len().min(MAX_HANDLE);
        let mut data = [0; MAX_HANDLE];
        data[..len].copy_from_slice(&bytes[..len]);
        Self { len: len as u32, kind, data }
    }

    /// What identifies the file.
    pub fn bytes(&self) -> &[u8] {
        &self.data[..self.len as usize]
    }
}

fn check(rc: c_long) -> rustix::io::Result<c_long> {
    if rc >= 0 {
        return Ok(rc);
    }
    let errno = std::io::Error::last_os_error().raw_os_error();
    Err(Errno::from_raw_os_error(errno.unwrap_or(libc::EIO)))
}

/// `name_to_handle_at`: the handle of a name (or of `dir` itself, with an empty name and `AT_EMPTY_PATH`) and the id of
/// the mount it is on. Symbolic links are not followed.
pub fn name_to_handle_at(dir: impl AsFd, name: &CStr, flags: c_int) -> rustix::io::Result<(RawHandle, u64)> {
    let mut handle = RawHandle { len: MAX_HANDLE as u32, kind: 0, data: [0; MAX_HANDLE] };
    let mut mount: c_int = 0;
    // SAFETY: `handle` is laid out as `struct file_handle` followed by as many bytes as `len` announces, `name` is
    // NUL-terminated, and all pointers are valid for the length of the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            flags,
        )
    })?;
    handle.len = handle.len.min(MAX_HANDLE as u32);
    Ok((handle, mount as u64))
}

/// `open_by_handle_at`: opens what a handle names, on the mount of `mount`. `STALE`: there is no such file any more.
pub fn open_by_handle_at(mount: impl AsFd, handle: &RawHandle, flags: u32) -> rustix::io::Result<OwnedFd> {
    // SAFETY: `handle` is laid out as `struct file_handle`, its `len` within its bytes; the kernel only reads it.
    let opened = check(unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_fd().as_raw_fd(), &raw const *handle, flags)
    });
    // `iget_locked` has nothing for an inode that is just being made (`I_CREATING`), and filesystems call that `NOMEM`: the file
    // is gone, and its number is about to be another's. The kernel does not run out of memory for so little.
    let fd = opened.map_err(|error| if error == Errno::NOMEM { Errno::STALE } else { error })?;
    // SAFETY: the call has just made this descriptor, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// `setfsuid` for this thread; returns the id it had. An id that is not allowed leaves things as they are, without
/// telling.
pub fn setfsuid(uid: u32) -> u32 {
    // SAFETY: takes a number.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) as u32 }
}

/// `setfsgid` for this thread; see [`setfsuid`].
pub fn setfsgid(gid: u32) -> u32 {
    // SAFETY: takes a number.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) as u32 }
}

/// Give this thread a working directory and umask of its own.
pub fn unshare_fs() -> rustix::io::Result<()> {
    // SAFETY: `FS` concerns root, working directory and umask only; descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }
}

/// `fchmodat2` on a descriptor that may be `O_PATH`. `NOSYS` before Linux 6.6.
pub fn fchmod_path(fd: impl AsFd, mode: u32) -> rustix::io::Result<()> {
    const SYS_FCHMODAT2: c_long = 452;
    // SAFETY: the name is a static NUL-terminated string.
    check(unsafe {
        libc::syscall(SYS_FCHMODAT2, fd.as_fd().as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH)
    })?;
    Ok(())
}

/// `truncate` by path.
pub fn truncate(path: &CStr, length: u64) -> rustix::io::Result<()> {
    let length = libc::off_t::try_from(length).map_err(|_| Errno::FBIG)?;
    // SAFETY: `path` is NUL-terminated.
    check(unsafe { libc::syscall(libc::SYS_truncate, path.as_ptr(), length) })?;
    Ok(())
}

/// `getdents64`: fills `buf` with whole entries, returns how many bytes those are; 0 at the end.
pub fn getdents(fd: impl AsFd, buf: &mut [u8]) -> rustix::io::Result<usize> {
    // SAFETY: the kernel writes at most `buf.len()` bytes to `buf`.
    let n = check(unsafe {
        libc::syscall(libc::SYS_getdents64, fd.as_fd().as_raw_fd(), buf.as_mut_ptr(), buf.len())
    })?;
    Ok((n as usize).min(buf.len()))
}

/// `close`, telling of errors.
pub fn close(fd: OwnedFd) -> rustix::io::Result<()> {
    // SAFETY: the descriptor was owned and is not used again, whether or not closing it succeeds.
    check(unsafe { libc::syscall(libc::SYS_close, fd.into_raw_fd()) })?;
    Ok(())
}

/// Largest argument of an [`ioctl`], bytes.
pub const IOCTL_ARGUMENT: usize = 32;

/// `ioctl` whose argument is at most [`IOCTL_ARGUMENT`] bytes, by the size encoded in `command`, and holds no pointers.
/// Anything else is `NOTTY`.
pub fn ioctl(fd: impl AsFd, command: u32, argument: &mut [u8; IOCTL_ARGUMENT]) -> rustix::io::Result<i32> {
    if (command >> 16 & 0x3fff) as usize > IOCTL_ARGUMENT {
        return Err(Errno::NOTTY);
    }
    #[repr(C, align(8))]
    struct Aligned([u8; IOCTL_ARGUMENT]);
    let mut aligned = Aligned(*argument);
    // SAFETY: the argument is as large as `command` says at the least, aligned for any scalar, and contains no
    // addresses by this function's contract; the kernel copies it in and out during the call.
    let rc = check(unsafe {
        libc::ioctl(fd.as_fd().as_raw_fd(), command as libc::Ioctl, &raw mut aligned).into()
    })?;
    *argument = aligned.0;
    Ok(rc as i32)
}

/// A byte-range lock as `fcntl` has it: `length` 0 reaches to the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// `F_RDLCK`, `F_WRLCK`, `F_UNLCK`.
    pub kind: i16,
    /// First byte.
    pub start: i64,
    /// Bytes.
    pub length: i64,
    /// Holder, in answers: -1 where it is an open file and not a process.
    pub pid: i32,
}

/// What to do with a lock of an open file description.
#[derive(Clone, Copy, Debug)]
pub enum LockCommand {
    /// Say who stands in the way.
    Test,
    /// Set or drop it now, or fail with `AGAIN`.
    Set,
    /// Set it, waiting as long as it takes or until a signal comes.
    Wait,
}

/// `F_OFD_GETLK`, `F_OFD_SETLK`, `F_OFD_SETLKW`.
pub fn ofd_lock(fd: impl AsFd, command: LockCommand, range: Range) -> rustix::io::Result<Range> {
    let command = match command {
        LockCommand::Test => libc::F_OFD_GETLK,
        LockCommand::Set => libc::F_OFD_SETLK,
        LockCommand::Wait => libc::F_OFD_SETLKW,
    };
    let mut lock = libc::flock {
        l_type: range.kind,
        l_whence: libc::SEEK_SET as i16,
        l_start: range.start,
        l_len: range.length,
        l_pid: 0,
    };
    // SAFETY: `lock` is a `struct flock` of this thread's, valid during the call.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, &raw mut lock).into() })?;
    Ok(Range { kind: lock.l_type, start: lock.l_start, length: lock.l_len, pid: lock.l_pid })
}
