//! The only unsafe code: fork, mappings, and calls that have no safe wrapper.
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::{Errno, Result};
use rustix::process::Pid;
use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

fn check(result: i64) -> Result<i64> {
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(result)
}

/// A path as the kernel takes it; a NUL inside is EINVAL here because no call can carry it.
fn c_string(path: &[u8]) -> Result<CString> {
    CString::new(path).map_err(|_| Errno::INVAL)
}

/// Forks; the child runs `body` and ends with its result, never returning into the caller's frames.
///
/// `body` must not wait for locks that other threads of the parent may hold: no standard streams, no environment.
/// Memory allocation is fine (glibc and musl repair their allocator's locks at fork).
pub fn fork(body: impl FnOnce() -> i32) -> Result<Pid> {
    // SAFETY: the child only runs `body`, then `_exit`; nothing of the parent's stack is unwound or dropped in it.
    // The allocator is usable after fork in both libcs; other locks are excluded by this function's contract.
    let pid = check(i64::from(unsafe { libc::fork() }))?;
    if pid == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
        // SAFETY: ends the process at once; no destructor or atexit handler runs, which is the intent.
        unsafe { libc::_exit(code) }
    }
    Pid::from_raw(pid as i32).ok_or(Errno::SRCH)
}

/// Closes every descriptor from 3 on but `keep`, so that a forked child holds nothing of its parent open: a copied
/// `/dev/fuse` would keep a dead daemon's connection alive, and with it whoever waits there.
pub fn close_all_but(keep: RawFd) {
    let keep = keep as u32;
    let ranges = [(3, keep.saturating_sub(1)), (keep + 1, u32::MAX)];
    for (first, last) in ranges.into_iter().filter(|(first, last)| first <= last) {
        // SAFETY: called in a fresh child that owns none of these descriptors as values it still uses or drops.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

/// `faccessat2(2)`: unlike the libc function it never emulates a flag.
pub fn faccessat2(dir: BorrowedFd<'_>, path: &[u8], mode: i32, flags: i32) -> Result<()> {
    let path = c_string(path)?;
    // SAFETY: `path` is a NUL-terminated string that outlives the call; the rest are integers.
    let result = unsafe { libc::syscall(libc::SYS_faccessat2, dir.as_raw_fd(), path.as_ptr(), mode, flags) };
    check(result).map(drop)
}

/// `truncate(2)`.
pub fn truncate(path: &[u8], size: i64) -> Result<()> {
    let path = c_string(path)?;
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    check(i64::from(unsafe { libc::truncate(path.as_ptr(), size) })).map(drop)
}

/// `ftruncate(2)`, with a negative size where wanted.
pub fn ftruncate(fd: impl AsFd, size: i64) -> Result<()> {
    // SAFETY: a live descriptor and an integer.
    check(i64::from(unsafe { libc::ftruncate(fd.as_fd().as_raw_fd(), size) })).map(drop)
}

/// `lseek(2)` with any whence and offset, also wrong ones.
pub fn lseek(fd: impl AsFd, offset: i64, whence: i32) -> Result<i64> {
    // SAFETY: a live descriptor and integers.
    check(unsafe { libc::lseek(fd.as_fd().as_raw_fd(), offset, whence) })
}

/// `fallocate(2)` with any mode, offset and length, also wrong ones.
pub fn fallocate(fd: impl AsFd, mode: i32, offset: i64, len: i64) -> Result<()> {
    // SAFETY: a live descriptor and integers.
    check(i64::from(unsafe { libc::fallocate(fd.as_fd().as_raw_fd(), mode, offset, len) })).map(drop)
}

/// `pread(2)` with any offset, also a negative one.
pub fn pread(fd: impl AsFd, len: usize, offset: i64) -> Result<Vec<u8>> {
    let mut buffer = vec![0; len];
    // SAFETY: the buffer is `len` bytes of initialised memory that outlives the call.
    let got = check(
        unsafe { libc::pread(fd.as_fd().as_raw_fd(), buffer.as_mut_ptr().cast(), len, offset) } as i64
    )?;
    buffer.truncate(got as usize);
    Ok(buffer)
}

/// `pwrite(2)` with any offset, also a negative one.
pub fn pwrite(fd: impl AsFd, data: &[u8], offset: i64) -> Result<usize> {
    // SAFETY: `data` is readable for its length during the call.
    let got = unsafe { libc::pwrite(fd.as_fd().as_raw_fd(), data.as_ptr().cast(), data.len(), offset) };
    check(got as i64).map(|n| n as usize)
}

/// `sync_file_range(2)`.
pub fn sync_file_range(fd: impl AsFd, offset: i64, len: i64, flags: u32) -> Result<()> {
    // SAFETY: a live descriptor and integers.
    check(i64::from(unsafe { libc::sync_file_range(fd.as_fd().as_raw_fd(), offset, len, flags) })).map(drop)
}

/// A record lock as `fcntl(2)` takes and gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: i32,
    /// `SEEK_SET`, `SEEK_CUR` or `SEEK_END`.
    pub whence: i32,
    /// First byte.
    pub start: i64,
    /// Bytes; 0 is to the end of the file.
    pub len: i64,
    /// Holder, in the answer.
    pub pid: i32,
}

/// `fcntl(2)` with one of the six locking commands.
pub fn record_lock(fd: impl AsFd, command: i32, lock: Lock) -> Result<Lock> {
    // SAFETY: `flock` is plain integers, all zero is valid (and the kernel wants l_pid 0 for OFD locks).
    let mut raw: libc::flock = unsafe { std::mem::zeroed() };
    raw.l_type = lock.kind as libc::c_short;
    raw.l_whence = lock.whence as libc::c_short;
    raw.l_start = lock.start;
    raw.l_len = lock.len;
    // SAFETY: the kernel reads and writes one `struct flock`, which lives across the call.
    check(i64::from(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, &raw mut raw) }))?;
    let (kind, whence) = (i32::from(raw.l_type), i32::from(raw.l_whence));
    Ok(Lock { kind, whence, start: raw.l_start, len: raw.l_len, pid: raw.l_pid })
}

static SIGNALS_SEEN: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: i32) {
    SIGNALS_SEEN.fetch_add(1, Ordering::Relaxed);
}

/// Catches `signal` without restarting the interrupted call, so that it ends with EINTR.
pub fn catch(signal: i32) -> Result<()> {
    // SAFETY: a zeroed sigaction is valid: empty mask, no flags (so no SA_RESTART).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count_signal as *const () as usize;
    // SAFETY: the handler only adds to an atomic, which is async-signal-safe; `action` lives across the call.
    check(i64::from(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) })).map(drop)
}

/// `kill(2)` by number.
pub fn kill(pid: Pid, signal: i32) -> Result<()> {
    // SAFETY: integers only.
    check(i64::from(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) })).map(drop)
}

/// Lowers the limit on file size (`RLIMIT_FSIZE`) of this process.
pub fn limit_file_size(bytes: u64) -> Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` lives across the call.
    check(i64::from(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) })).map(drop)
}

/// Memory mapped from a file; unmapped when dropped.
pub struct Map {
    base: NonNull<u8>,
    len: usize,
}

impl Map {
    /// `mmap(2)` at an address the kernel chooses.
    pub fn new(fd: impl AsFd, at: i64, len: usize, how: (i32, i32)) -> Result<Self> {
        let (protection, flags) = how;
        // SAFETY: no fixed address is asked for, so no existing mapping is replaced.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.as_fd().as_raw_fd(), at) };
        if base == libc::MAP_FAILED {
            return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
        }
        NonNull::new(base.cast()).map(|base| Self { base, len }).ok_or(Errno::NOMEM)
    }

    fn within(&self, at: usize, len: usize) -> Result<()> {
        at.checked_add(len).filter(|end| *end <= self.len).map(drop).ok_or(Errno::RANGE)
    }

    /// Bytes of the mapping; ERANGE outside it. May end the process with SIGBUS where the file has no such page.
    pub fn read(&self, at: usize, len: usize) -> Result<Vec<u8>> {
        self.within(at, len)?;
        // SAFETY: the range lies inside the mapping (checked), volatile since others may change it meanwhile.
        Ok((at..at + len).map(|i| unsafe { self.base.as_ptr().add(i).read_volatile() }).collect())
    }

    /// Stores bytes into the mapping; ERANGE outside it. May end the process with SIGBUS or SIGSEGV.
    pub fn write(&self, at: usize, data: &[u8]) -> Result<()> {
        self.within(at, data.len())?;
        for (i, byte) in data.iter().enumerate() {
            // SAFETY: inside the mapping (checked); volatile so that every store happens.
            unsafe { self.base.as_ptr().add(at + i).write_volatile(*byte) };
        }
        Ok(())
    }

    /// Writes `range` (start and length) of the mapping to a file with `pwrite(2)`: the kernel reads the mapping.
    pub fn write_out(&self, fd: impl AsFd, range: (usize, usize), at: i64) -> Result<usize> {
        let (start, len) = range;
        self.within(start, len)?;
        // SAFETY: the kernel reads memory inside the mapping (checked); no Rust reference to it exists.
        let done =
            unsafe { libc::pwrite(fd.as_fd().as_raw_fd(), self.base.as_ptr().add(start).cast(), len, at) };
        check(done as i64).map(|n| n as usize)
    }

    /// `msync(2)` over the whole mapping.
    pub fn sync(&self, flags: i32) -> Result<()> {
        // SAFETY: base and length are those of a live mapping.
        check(i64::from(unsafe { libc::msync(self.base.as_ptr().cast(), self.len, flags) })).map(drop)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: base and length are those of a live mapping that nobody else refers to.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A directory stream of the C library, for `telldir` and its relatives.
pub struct DirStream(NonNull<libc::DIR>);

impl DirStream {
    /// `fdopendir(3)`; takes the descriptor.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        use rustix::fd::IntoRawFd;
        let raw = fd.into_raw_fd();
        // SAFETY: the descriptor is ours to give away; on failure it is taken back and closed.
        let stream = unsafe { libc::fdopendir(raw) };
        NonNull::new(stream).map(Self).ok_or_else(|| {
            let error = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
            // SAFETY: fdopendir failed, so the descriptor is still open and still ours.
            drop(unsafe { OwnedFd::from_raw_fd(raw) });
            error
        })
    }

    /// `readdir(3)`: the next name, inode number and type.
    pub fn read(&mut self) -> Result<Option<(Vec<u8>, u64, u8)>> {
        // SAFETY: errno is this thread's own.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: the stream is open; the entry is copied before the next call on it.
        let entry = unsafe { libc::readdir64(self.0.as_ptr()) };
        if entry.is_null() {
            let error = std::io::Error::last_os_error();
            return if error.raw_os_error() == Some(0) {
                Ok(None)
            } else {
                Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
            };
        }
        // SAFETY: a non-null entry is valid until the next call; its name is NUL-terminated.
        let (name, ino, kind) =
            unsafe { (CStr::from_ptr((*entry).d_name.as_ptr()), (*entry).d_ino, (*entry).d_type) };
        Ok(Some((name.to_bytes().to_vec(), ino, kind)))
    }

    /// `telldir(3)`.
    pub fn tell(&mut self) -> i64 {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0.as_ptr()) }
    }

    /// `seekdir(3)`; `place` must come from [`Self::tell`].
    pub fn seek(&mut self, place: i64) {
        // SAFETY: the stream is open.
        unsafe { libc::seekdir(self.0.as_ptr(), place) };
    }

    /// `rewinddir(3)`.
    pub fn rewind(&mut self) {
        // SAFETY: the stream is open.
        unsafe { libc::rewinddir(self.0.as_ptr()) };
    }
}

impl Drop for DirStream {
    fn drop(&mut self) {
        // SAFETY: the stream is open and closed only here.
        unsafe { libc::closedir(self.0.as_ptr()) };
    }
}

/// `utimensat(2)` with a null pointer for the times: both become now, for whoever may write.
pub fn utimens_null(path: &[u8]) -> Result<()> {
    let path = c_string(path)?;
    // SAFETY: `path` is a NUL-terminated string that outlives the call; null times are allowed.
    check(i64::from(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), std::ptr::null(), 0) })).map(drop)
}
