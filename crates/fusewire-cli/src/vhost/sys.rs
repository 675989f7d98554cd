//! What a device needs of the system that has no safe wrapper.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

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

/// Lets so many more threads than by default wait for what blocks, for all guests together. To be called while there is one thread.
///
/// # Errors
/// If there are others.
pub fn allow_blocking(more: usize) -> io::Result<()> {
    /// What the crate `blocking` allows by default, and what it allows at most.
    const THREADS: (usize, usize) = (500, 10_000);
    if more == 0 || std::env::var_os("BLOCKING_MAX_THREADS").is_some() {
        return Ok(());
    }
    only_thread()?;
    let threads = (THREADS.0 + more).min(THREADS.1);
    // SAFETY: there is no other thread that could read the environment meanwhile.
    unsafe { std::env::set_var("BLOCKING_MAX_THREADS", threads.to_string()) };
    Ok(())
}

/// What mounts are to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountFlags(u8);

impl MountFlags {
    /// Nothing can be written through them.
    pub const READ_ONLY: Self = Self(1);
    /// What is mounted or unmounted elsewhere does not come here.
    pub const PRIVATE: Self = Self(2);
    /// Device nodes cannot be opened.
    pub const NO_DEVICES: Self = Self(4);
    /// Set-user-id bits mean nothing.
    pub const NO_SET_IDS: Self = Self(8);
    /// The topmost mount only.
    pub const SHALLOW: Self = Self(16);

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for MountFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for MountFlags {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// Changes a tree of mounts as a whole.
///
/// # Errors
/// `ENOSYS` before Linux 5.12, `EPERM` without CAP_SYS_ADMIN.
pub fn set_mounts(tree: BorrowedFd<'_>, flags: MountFlags) -> io::Result<()> {
    /// `struct mount_attr`.
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    let one = |flag, bit: u64| if flags.has(flag) { bit } else { 0 };
    let attr = MountAttr {
        set: one(MountFlags::READ_ONLY, libc::MOUNT_ATTR_RDONLY)
            | one(MountFlags::NO_DEVICES, libc::MOUNT_ATTR_NODEV)
            | one(MountFlags::NO_SET_IDS, libc::MOUNT_ATTR_NOSUID),
        clear: 0,
        propagation: one(MountFlags::PRIVATE, libc::MS_PRIVATE),
        userns: 0,
    };
    let depth = if flags.has(MountFlags::SHALLOW) { 0 } else { libc::AT_RECURSIVE };
    // SAFETY: the path is a string, and the structure is as long as is said; both live until the call returns.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | depth,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves this process, of one thread, into new namespaces.
///
/// # Errors
/// Whatever the kernel refuses.
pub fn unshare(spaces: UnshareFlags) -> io::Result<()> {
    only_thread()?;
    assert!(!spaces.contains(UnshareFlags::FILES));
    // SAFETY: no descriptors are unshared, and there is no other thread that could be surprised by anything else.
    unsafe { rustix::thread::unshare_unsafe(spaces) }.map_err(Into::into)
}

/// A copy of this process, of one thread: the copy's number, or nothing in the copy.
///
/// # Errors
/// If there are other threads, or there can be no more processes.
pub fn fork() -> io::Result<Option<Pid>> {
    only_thread()?;
    // SAFETY: there is one thread, so that no lock is held by another that the copy would not have.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        number => Pid::from_raw(number).filter(|_| number > 0).map(Some).ok_or_else(io::Error::last_os_error),
    }
}

fn only_thread() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        threads => Err(io::Error::other(format!("there are {threads} threads already"))),
    }
}

/// Takes on user and group 0, and no other groups.
///
/// # Errors
/// If they do not exist in this user namespace.
pub fn become_root() -> io::Result<()> {
    let check = |status| if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: these take numbers, and an empty list.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(0, 0, 0))?;
        check(libc::setresuid(0, 0, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sandbox::seccomp::{Action, apply};
    use std::io;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;

    /// How a program ends that is begun under the list of system calls: beginning a program is not on it.
    fn begin_under(action: Action) -> std::process::ExitStatus {
        let mut line = Command::new("true");
        let filter = move || {
            rustix::thread::set_no_new_privs(true)?;
            apply(action).map_err(|failure| io::Error::other(failure.to_string()))
        };
        // SAFETY: what runs between fork and exec asks for memory; the C library sees to it that its allocator works after a fork.
        unsafe { line.pre_exec(filter) };
        line.status().expect("a program")
    }

    #[test]
    fn what_is_not_on_the_list_is_the_end() {
        for action in [Action::Kill, Action::Trap] {
            assert_eq!(begin_under(action).signal(), Some(libc::SIGSYS), "{action:?}");
        }
        for action in [Action::Log, Action::None] {
            assert!(begin_under(action).success(), "{action:?}");
        }
    }
}
