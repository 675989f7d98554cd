//! The system calls for which no safe wrapper is at hand.
#![allow(unsafe_code)]

use rustix::thread::UnshareFlags;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

/// Gives the calling thread (and the processes it starts from now on) a mount namespace of its own.
pub fn own_mount_namespace() -> io::Result<()> {
    // SAFETY: only CLONE_FILES is dangerous to other threads, and it is not asked for. NEWNS separates root and working
    // directory of this thread, which no code here shares on purpose.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(())
}

/// Closes a descriptor and tells what `close` answered, which dropping it would hide.
pub fn close(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is ours alone and nothing uses it afterwards.
    match unsafe { libc::close(fd.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What to do with a range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Take a read lock.
    Shared,
    /// Take a write lock.
    Exclusive,
    /// Give it back.
    Unlock,
}

/// POSIX record lock on `length` bytes from `start` (0: to the end), through `fcntl`; `wait` blocks until it is granted.
pub fn range_lock(fd: BorrowedFd<'_>, range: Range, wait: bool, bytes: (i64, i64)) -> io::Result<()> {
    let kind = match range {
        Range::Shared => libc::F_RDLCK,
        Range::Exclusive => libc::F_WRLCK,
        Range::Unlock => libc::F_UNLCK,
    };
    // SAFETY: flock is plain old data, for which zero is a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    (lock.l_start, lock.l_len) = bytes;
    let command = if wait { libc::F_SETLKW } else { libc::F_SETLK };
    // SAFETY: the descriptor is open for the time of the call, and `lock` outlives it.
    match unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Who holds a lock that would stop an exclusive lock of the whole file: `None` when nobody does.
pub fn range_lock_holder(fd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    // SAFETY: flock is plain old data, for which zero is a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: the descriptor is open for the time of the call, and `lock` outlives it.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETLK, &raw mut lock) } {
        0 if lock.l_type == libc::F_UNLCK as libc::c_short => Ok(None),
        0 => Ok(Some(lock.l_pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes SIGUSR1 interrupt system calls (EINTR) without doing anything else.
pub fn interrupt_on_usr1() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: sigaction is plain old data; an empty mask and no SA_RESTART are what is wanted.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler does nothing, so it is async-signal-safe; `action` is valid for the call.
    match unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Memory on whole pages: of its own, or a file's.
#[derive(Debug)]
pub struct Pages {
    base: *mut u8,
    length: usize,
}

impl Pages {
    /// New memory, as `O_DIRECT` wants it.
    pub fn new(length: usize) -> io::Result<Self> {
        Self::map(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// The first `length` bytes of a file that is open for reading and writing: what is changed there changes the file.
    pub fn of(file: &impl AsRawFd, length: usize) -> io::Result<Self> {
        Self::map(length, libc::MAP_SHARED, file.as_raw_fd())
    }

    fn map(length: usize, flags: libc::c_int, fd: libc::c_int) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), length })
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is as long, readable and writable, and borrowed exclusively by `self`. Of a file, the tests
        // see to it that nobody shortens or changes it meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: made by `map` with this length; nobody borrows from it any more.
        unsafe { libc::munmap(self.base.cast(), self.length) };
    }
}
