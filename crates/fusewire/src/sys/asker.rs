//! A small process that makes requests on a mount, so that no thread of this one has to wait for itself.
//!
//! It shares neither memory nor descriptors with this process: whatever it waits for, this process can be killed, and then
//! its rings and its `/dev/fuse` go, which ends the waiting.

use rustix::{
    fd::{AsRawFd, BorrowedFd, OwnedFd},
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair},
};
use std::{ffi::CString, io, mem, os::unix::ffi::OsStrExt, path::Path, ptr};

/// Name of the process in `ps -o comm`.
const PROCESS_NAME: &std::ffi::CStr = c"fusewire-ask";

/// How often a process is tried to be made, and how long to wait in between: two minutes in all.
const TRIES: u32 = 12_000;
const PAUSE: rustix::thread::Timespec = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// This process's end of the line to it. The process ends when this is dropped, or with this process.
#[derive(Debug)]
pub(crate) struct Asker(OwnedFd);

impl Asker {
    /// Start a process that asks for the attributes of `mountpoint`.
    pub(crate) fn start(mountpoint: &Path) -> io::Result<Self> {
        let path = CString::new(mountpoint.as_os_str().as_bytes())?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // SAFETY: the child makes system calls only, on memory that was made before, and leaves by `_exit`. Its own child is
        // nobody's to wait for: the first one ends at once, and is waited for here.
        unsafe {
            match libc::fork() {
                0 => {
                    if libc::fork() == 0 {
                        stand(&path, theirs.as_raw_fd());
                    }
                    libc::_exit(0)
                }
                -1 => return Err(io::Error::last_os_error()),
                child => {
                    while libc::waitpid(child, ptr::null_mut(), 0) < 0
                        && *libc::__errno_location() == libc::EINTR
                    {}
                }
            }
        }
        Ok(Self(ours))
    }

    /// Have it ask `count` times on `cpu`, one after the other. Does not wait.
    pub(crate) fn ask(&self, cpu: u16, count: u16) -> rustix::io::Result<()> {
        let [a, b] = cpu.to_ne_bytes();
        let [c, d] = count.to_ne_bytes();
        send(&self.0, &[a, b, c, d], SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
    }
}

/// The process's whole life: system calls only, no allocation, no panic.
fn stand(path: &CString, line: libc::c_int) {
    // SAFETY: system calls on local memory; descriptors that are closed are used by nobody in this copy of the process.
    unsafe {
        let mut all = mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, ptr::null_mut());
        // Its children are nobody's to wait for either.
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, PROCESS_NAME.as_ptr());
        libc::chdir(c"/".as_ptr());
        if libc::dup2(line, 0) != 0 || libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) != 0 {
            return;
        }
    }
    // SAFETY: 0 is open, and stays so until this process ends.
    let line = unsafe { BorrowedFd::borrow_raw(0) };
    let mut words = [0; 4];
    loop {
        match rustix::io::read(line, &mut words) {
            Ok(4) => {}
            Err(rustix::io::Errno::INTR) => continue,
            _ => return,
        }
        let [a, b, c, d] = words;
        let (cpu, count) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        // A process for each, since it may wait for long.
        // Where there may be no process more at the moment, it is tried again: requests may wait for that.
        for _ in 0..TRIES {
            // SAFETY: as above.
            match unsafe { libc::fork() } {
                0 => {
                    ask(path, cpu, count);
                    // SAFETY: ends this process without running anything of the one it is a copy of.
                    unsafe { libc::_exit(0) }
                }
                -1 => _ = rustix::thread::nanosleep(&PAUSE),
                _ => break,
            }
        }
    }
}

fn ask(path: &CString, cpu: u16, count: u16) {
    if usize::from(cpu) >= rustix::thread::CpuSet::MAX_CPU {
        return;
    }
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu.into());
    if rustix::thread::sched_setaffinity(None, &cpus).is_err() {
        // A CPU that is not there, or not for this process.
        return;
    }
    for _ in 0..count {
        // SAFETY: `statx` reads the path and writes one `statx`, which `about` is.
        unsafe {
            let mut about = mem::zeroed::<libc::statx>();
            libc::statx(
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::AT_STATX_FORCE_SYNC,
                libc::STATX_SIZE,
                &mut about,
            );
        }
    }
}

/// Length of the name that the kernel keeps of a process, with the NUL.
const _: () = assert!(PROCESS_NAME.to_bytes_with_nul().len() <= 16);
