//! What has no safe wrapper: one ioctl, and the fork of the guard.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::Pid;

use super::guard::{self, Watch};

const SYNC_INIT: rustix::ioctl::Opcode = fusewire_abi::DEV_IOC_SYNC_INIT;

/// Asks that mounting waits for the answer to INIT. `ENOTTY` where the kernel cannot.
pub(super) fn request_sync_init(device: BorrowedFd<'_>) -> rustix::io::Result<()> {
    // SAFETY: the number is the ioctl's, which takes no argument, so the kernel touches no memory of ours.
    unsafe { rustix::ioctl::ioctl(device, rustix::ioctl::NoArg::<SYNC_INIT>::new()) }
}

/// `statmount(2)`, the same number on every architecture (Linux 6.8).
const STATMOUNT: libc::c_long = 457;

/// `struct mnt_id_req` in its first version.
#[repr(C)]
struct MountIdRequest {
    size: u32,
    spare: u32,
    mount_id: u64,
    param: u64,
}

/// Whether the mount with this number, one that is never used again, is in the calling thread's mount namespace.
///
/// # Errors
/// `ENOSYS` before Linux 6.8; `EPERM` if it is outside the root directory of a thread without privileges.
pub(super) fn mount_exists(unique: u64) -> rustix::io::Result<bool> {
    let size = size_of::<MountIdRequest>() as u32;
    let request = MountIdRequest { size, spare: 0, mount_id: unique, param: 0 };
    let mut answer = [0u64; 128];
    // SAFETY: the request has the size that it states, and the answer, of which nothing is asked but that it comes,
    // cannot exceed the size given for it; both outlive the call.
    let result = unsafe {
        libc::syscall(STATMOUNT, &request, answer.as_mut_ptr(), size_of_val(&answer), 0 as libc::c_uint)
    };
    match result {
        0 => Ok(true),
        _ => match last_error() {
            Errno::NOENT => Ok(false),
            error => Err(error),
        },
    }
}

/// Starts a child that runs [`guard::stand`] with `watch` and then ends.
///
/// It has no descriptor but `watch.line`, as number 0, and blocks every signal that can be blocked.
pub(super) fn start_guard(watch: &mut Watch<'_>) -> rustix::io::Result<Pid> {
    // SAFETY: this process may have other threads, so until it exits the child calls only async-signal-safe
    // functions: bare system calls, on memory allocated before. Nothing in it panics.
    match unsafe { libc::fork() } {
        0 => {
            stand_alone(watch);
            // SAFETY: ends the process without running exit handlers, which belong to the parent.
            unsafe { libc::_exit(0) }
        }
        child => Pid::from_raw(child).filter(|_| child > 0).ok_or_else(last_error),
    }
}

/// In the child only: lets go of everything inherited, then watches.
fn stand_alone(watch: &mut Watch<'_>) {
    // SAFETY: system calls without memory, except for the set and the name, both local or constant.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, guard::PROCESS_NAME.as_ptr());
        libc::chdir(c"/".as_ptr());
        if libc::dup2(watch.line.as_raw_fd(), 0) != 0 {
            return;
        }
    }
    close_from_1();
    // SAFETY: 0 is open, and stays so until this process ends.
    guard::stand(unsafe { BorrowedFd::borrow_raw(0) }, watch);
}

/// In the guard only: becomes another program, with nothing as input and output. Returns if that fails.
pub(super) fn become_program(words: [&CStr; 6]) {
    let mut arguments = [std::ptr::null(); 7];
    for (argument, word) in arguments.iter_mut().zip(words) {
        *argument = word.as_ptr();
    }
    let environment = [c"PATH=/usr/bin:/bin".as_ptr(), std::ptr::null()];
    // SAFETY: async-signal-safe calls on local memory; both lists end with a null pointer and their strings live on.
    unsafe {
        let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for fd in 0..3 {
            libc::dup2(nothing, fd);
        }
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        libc::execve(words[0].as_ptr(), arguments.as_ptr(), environment.as_ptr());
    }
}

/// Closes all descriptors but 0.
fn close_from_1() {
    // SAFETY: nothing in this process uses them any more: it is a copy that lives for the guard alone.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) == 0 {
            return;
        }
        let mut limit = std::mem::zeroed::<libc::rlimit>();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        for fd in 1..limit.rlim_cur.min(1 << 20) as libc::c_int {
            libc::close(fd);
        }
    }
}

fn last_error() -> Errno {
    // SAFETY: the C library's own `errno` of this thread.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// Gives the calling thread a mount namespace of its own in which nothing propagates.
#[cfg(test)]
pub(super) fn private_namespace() -> std::io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: descriptors stay shared (no `FILES`), which is what the function is unsafe for.
    unsafe { unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }?;
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

/// Length of the name that the kernel keeps of a process, with the NUL.
const _: () = assert!(guard::PROCESS_NAME.to_bytes_with_nul().len() <= 16);
