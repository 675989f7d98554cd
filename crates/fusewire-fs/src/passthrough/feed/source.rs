//! Where changes are heard of: fanotify, on a whole filesystem or on single files.

use super::event::{Event, events};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{Errno, Result},
};
use std::{
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// What changes an answer that the kernel may have kept. `CLOSE_WRITE`, because writing a mapping tells nobody: its end does.
/// Not `ACCESS`: see «times of access» in `docs/semantics.md`.
const CHANGES: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_ATTRIB
    | libc::FAN_MODIFY
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ONDIR;

/// The same of a file that is watched by itself. `MOVE_SELF`: moving changes the time of change of attributes, of which the directories need not be
/// watched. `DELETE_SELF`: with that a mark ends, also where a descriptor is left, see [`Watches::renew`](super::watches::Watches::renew).
const CHANGES_OF_FILE: u64 =
    libc::FAN_ATTRIB | libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE | libc::FAN_MOVE_SELF | libc::FAN_DELETE_SELF;

/// And of a directory: its own changes, and those of the names in it.
const CHANGES_OF_DIRECTORY: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_ATTRIB
    | libc::FAN_MOVE_SELF
    | libc::FAN_ONDIR;

fn changes_of(is_dir: bool) -> u64 {
    if is_dir { CHANGES_OF_DIRECTORY } else { CHANGES_OF_FILE }
}

/// Events read at once, bytes.
const BUFFER: usize = 64 << 10;

/// A queue of changes to one filesystem, or to files of it.
#[derive(Debug)]
pub struct Source {
    group: Fanotify,
    /// Wakes the reader.
    wake: OwnedFd,
    /// It is to end.
    is_stopped: AtomicBool,
}

/// What came of waiting.
pub enum Waited {
    /// There are events.
    Events,
    /// Time is up, or somebody [woke](Source::wake) the reader.
    Nothing,
    /// [`Source::stop`] was called.
    Stopped,
}

impl Source {
    /// Hear of every change to the filesystem that `dir` is on from now on: by handle and name, and by which thread.
    ///
    /// # Errors
    /// `PERM` without `CAP_SYS_ADMIN`; `INVAL`, `NODEV`, `OPNOTSUPP`, `XDEV` where the filesystem has no handles, or no number of
    /// its own.
    pub fn new(dir: impl AsFd) -> Result<Self> {
        let source = Self::empty(libc::FAN_REPORT_TID)?;
        let whole = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
        source.mark(whole, CHANGES, (dir, c"."))?;
        Ok(source)
    }

    /// Hear of changes to what is [added](Self::add), by handle and name. It takes no rights. Of who did it is told only whether it was this
    /// process.
    ///
    /// # Errors
    /// `PERM` before Linux 5.13, `INVAL` before 5.17.
    pub fn of_files() -> Result<Self> {
        Self::empty(0)
    }

    fn empty(flags: u32) -> Result<Self> {
        let flags = flags
            | libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_REPORT_DFID_NAME_TARGET;
        let init = InitFlags::from_bits_retain(flags);
        let group = Fanotify::init(init, EventFFlags::O_RDONLY).map_err(errno)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { group, wake, is_stopped: AtomicBool::new(false) })
    }

    /// Hear of changes to the file that a name in a directory leads to from now on; if `is_dir`, also of those to the names in it.
    ///
    /// # Errors
    /// `ACCESS` if this process may not read it; `NOSPC` if the user has as many already as he may; `NODEV`, `OPNOTSUPP`, `XDEV` where files have
    /// no handles.
    pub fn add(&self, at: (impl AsFd, &CStr), is_dir: bool) -> Result<()> {
        self.mark(MarkFlags::FAN_MARK_ADD, changes_of(is_dir), at)
    }

    /// No more.
    ///
    /// # Errors
    /// `NOENT` if it was not added, `ACCESS` if this process may not read it any more.
    pub fn remove(&self, at: (impl AsFd, &CStr), is_dir: bool) -> Result<()> {
        self.mark(MarkFlags::FAN_MARK_REMOVE, changes_of(is_dir), at)
    }

    fn mark(&self, how: MarkFlags, mask: u64, (dir, path): (impl AsFd, &CStr)) -> Result<()> {
        let mask = MaskFlags::from_bits_retain(mask);
        self.group.mark(how, mask, dir, Some(path)).map_err(errno)
    }

    /// Wait for events, for `limit` at most.
    pub fn wait(&self, limit: Option<Duration>) -> Result<Waited> {
        let mut fds = [PollFd::new(&self.group, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        let limit = limit
            .map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() });
        match poll(&mut fds, limit.as_ref()) {
            Err(Errno::INTR) | Ok(0) => return Ok(Waited::Nothing),
            polled => polled?,
        };
        let (has_events, is_woken) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if is_woken {
            if self.is_stopped.load(Ordering::Acquire) {
                return Ok(Waited::Stopped);
            }
            _ = rustix::io::read(&self.wake, &mut [0u8; 8][..]);
        }
        Ok(if has_events { Waited::Events } else { Waited::Nothing })
    }

    /// Pass the events that are there to `take`, as many as are read at once. Answers whether there were any.
    pub fn read(&self, buffer: &mut Vec<u8>, take: impl FnMut(Event<'_>)) -> Result<bool> {
        buffer.resize(BUFFER, 0);
        let read = match rustix::io::read(&self.group, &mut buffer[..]) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            read => read?,
        };
        events(&buffer[..read]).for_each(take);
        Ok(read > 0)
    }

    /// Have the reader end.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.wake();
    }

    /// Have the reader look around.
    pub fn wake(&self) {
        // It can only fail when it was called 2^64 times.
        _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

fn errno(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}
