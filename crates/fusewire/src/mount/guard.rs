//! `auto_unmount`: a small process that outlives this one and then unmounts.
//!
//! The guard is forked, not a program started again, so that it works for every user of the library whatever their
//! `main` does with arguments. It holds no `/dev/fuse` descriptor, otherwise the connection would outlive the server.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, send, shutdown, socketpair};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::error::MountError;
use super::sys;
use super::table::{Identity, c_path, find_in_table};

/// Name of the guard in `ps -o comm`.
pub(super) const PROCESS_NAME: &CStr = c"fusewire-guard";

/// What a guard needs; made before the fork, because it may not allocate.
pub(super) struct Watch<'a> {
    /// End of file here means that the server is gone; a byte means that there is nothing to do any more.
    pub line: BorrowedFd<'a>,
    mountpoint: CString,
    identity: Identity,
    /// The program to unmount with; none if the guard may do so itself.
    program: Option<CString>,
    /// Room for the table of mounts.
    table: Vec<u8>,
    /// Room for a path from there.
    path: Vec<u8>,
}

/// More than any line of the table has: three paths, with up to four characters for each byte.
const TABLE_ROOM: usize = 1 << 16;
const PATH_ROOM: usize = 4096;

/// The server's end of a guard. If it is dropped, or closed by the end of the process, the guard unmounts.
#[derive(Debug)]
pub(super) struct Guard {
    line: OwnedFd,
    /// To wait for its end; none before Linux 5.3.
    process: Option<OwnedFd>,
}

impl Guard {
    /// Starts a guard of the mount `identity` at `mountpoint`. It unmounts with `program` (`fusermount3`), or with
    /// the system call if none is given.
    pub fn start(mountpoint: &Path, identity: Identity, program: Option<&Path>) -> Result<Self, MountError> {
        let failure = |error: Errno| MountError::Guard { path: mountpoint.to_owned(), source: error.into() };
        let (theirs, ours) = socket_pair().map_err(failure)?;
        let mut watch = Watch {
            line: theirs.as_fd(),
            mountpoint: c_path(mountpoint).map_err(failure)?,
            identity,
            program: program.map(c_path).transpose().map_err(failure)?,
            table: vec![0; TABLE_ROOM],
            path: vec![0; PATH_ROOM],
        };
        let pid = sys::start_guard(&mut watch).map_err(failure)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok();
        drop(theirs);
        let guard = Self { line: ours, process };
        // Once it has let go of what it inherited, descriptors of the mount among that, it says so.
        match rustix::io::retry_on_intr(|| rustix::io::read(&guard.line, &mut [0])) {
            Ok(1) => Ok(guard),
            Ok(_) => Err(failure(Errno::AGAIN)),
            Err(error) => Err(failure(error)),
        }
    }

    /// The guard's line, to see whether its other end is still there.
    #[cfg(test)]
    pub fn line(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }

    /// Ends the guard without unmounting, and waits until it is gone: its way out is short.
    pub fn dismiss(self) {
        // A guard that is gone already (EPIPE) is dismissed as well.
        let _ = send(&self.line, b"0", SendFlags::NOSIGNAL);
        self.wait();
    }

    /// Has the guard unmount now, and waits until it has tried.
    pub fn relieve(self) {
        // Not closed: another process that this one has forked may have a copy.
        let _ = shutdown(&self.line, Shutdown::Write);
        self.wait();
    }

    fn wait(&self) {
        if let Some(process) = &self.process {
            // No child of ours any more (ECHILD) if this process was forked in between, or ignores SIGCHLD.
            let wait = || waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED);
            let _ = rustix::io::retry_on_intr(wait);
        }
    }

    /// Leaves the guard on its post until this process ends.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

/// Two connected ends. Not a pipe: writing to one whose reader has gone would raise SIGPIPE.
pub(super) fn socket_pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// The guard's whole life. Runs in a forked child: system calls only, no allocation, no panic.
pub(super) fn stand(line: BorrowedFd<'_>, watch: &mut Watch<'_>) {
    let mut byte = [0];
    if send(line, &byte, SendFlags::NOSIGNAL).is_err() {
        return;
    }
    loop {
        match rustix::io::read(line, &mut byte) {
            Ok(0) => break,
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
    let Watch { mountpoint, identity, program, table, path, .. } = watch;
    // Only the very same mount: by now somebody may have unmounted it and mounted something else.
    let is_there = |path: &CStr| Identity::at_c(path) == Ok(*identity);
    let place = match is_there(mountpoint.as_c_str()) {
        true => Some(mountpoint.as_c_str()),
        // It was moved, or a directory above it renamed.
        false => find_in_table(identity, table, path).filter(|path| is_there(path)),
    };
    match (place, program) {
        (None, _) => {}
        (Some(place), None) => {
            let _ = unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
        (Some(place), Some(program)) => {
            sys::become_program([program.as_c_str(), c"-u", c"-q", c"-z", c"--", place])
        }
    }
}
