//! Where changes are heard of: fanotify, on a whole filesystem.

use super::event::{Event, events};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{Errno, Result},
};
use std::{
    os::fd::{AsFd, OwnedFd},
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

/// Events read at once, bytes.
const BUFFER: usize = 64 << 10;

/// A queue of changes to one filesystem.
#[derive(Debug)]
pub struct Source {
    group: OwnedFd,
    /// Wakes the reader, to end.
    stop: OwnedFd,
}

/// What came of waiting.
pub enum Waited {
    /// There are events.
    Events,
    /// Time is up.
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
        let init = InitFlags::from_bits_retain(
            libc::FAN_CLASS_NOTIF
                | libc::FAN_CLOEXEC
                | libc::FAN_NONBLOCK
                | libc::FAN_REPORT_TID
                | libc::FAN_REPORT_DFID_NAME_TARGET,
        );
        let group = Fanotify::init(init, EventFFlags::O_RDONLY).map_err(errno)?;
        let mark = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
        let mask = MaskFlags::from_bits_retain(CHANGES);
        group.mark::<_, std::path::Path>(mark, mask, dir, Some(".".as_ref())).map_err(errno)?;
        Ok(Self { group: group.into(), stop: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Wait for events, for `limit` at most.
    pub fn wait(&self, limit: Option<Duration>) -> Result<Waited> {
        let mut fds = [PollFd::new(&self.group, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
        let limit = limit
            .map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() });
        match poll(&mut fds, limit.as_ref()) {
            Err(Errno::INTR) | Ok(0) => return Ok(Waited::Nothing),
            polled => polled?,
        };
        if !fds[1].revents().is_empty() {
            return Ok(Waited::Stopped);
        }
        Ok(Waited::Events)
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
        // It can only fail when it was called 2^64 times.
        _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

fn errno(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}
