//! The process outside, and its child.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};

use super::super::{sandbox, sys};
use crate::failure::{Failure, Outcome};
use crate::inherited;

/// The process that was called: it waits for the one that serves.
#[derive(Debug)]
pub struct Warden {
    child: Pid,
    handle: OwnedFd,
    ready: Option<File>,
}

/// What the process that serves ends with when another daemon has its guests.
pub const HANDED_OVER: i32 = 75;

/// What [`fork`] returns in which process.
pub enum Forked {
    /// In the process that was called.
    Warden(Warden),
    /// In its child: where it says that it is ready. It does not outlive the warden.
    Child(File),
}

/// Forks. To be called while there is one thread only.
///
/// # Errors
/// If there can be no more processes or descriptors.
pub fn fork() -> Outcome<Forked> {
    let failed = |error: io::Error| Failure::because("cannot start the process that serves", &error);
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    match sys::fork().map_err(failed)? {
        Some(child) => {
            let handle = pidfd_open(child, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
            Ok(Forked::Warden(Warden { child, handle, ready: Some(reader.into()) }))
        }
        None => {
            drop(reader);
            follow_warden(&writer).map_err(failed)?;
            Ok(Forked::Child(writer.into()))
        }
    }
}

/// Have this process end when its warden does. Whoever changes its user afterwards has to ask again.
///
/// # Errors
/// If the warden has ended already.
pub fn follow_warden(pipe: &OwnedFd) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before that was asked for; then nobody has the other end of the pipe.
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if fds[0].revents().contains(PollFlags::ERR) { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
}

impl Warden {
    /// Waits for the process that serves, and ends it at signals that ask for that. `takes`: another daemon has the sockets until this one
    /// says that it is ready. How it ended, where what it has said itself is not said again; and whether the names of its sockets are its own.
    pub fn wait(mut self, takes: bool) -> (Outcome<()>, bool) {
        let mut is_ready = false;
        match self.attend(&mut is_ready, takes) {
            Ok(Ended::HandedOver) => (Ok(()), false),
            Ok(Ended::Well) => (Ok(()), is_ready || !takes),
            Err(failure) => (Err(failure), is_ready || !takes),
        }
    }

    fn attend(&mut self, is_ready: &mut bool, takes: bool) -> Outcome<Ended> {
        let failed = |error: io::Error| Failure::because("cannot wait for the process that serves", &error);
        // There are no threads for it: whoever has made a namespace for processes cannot start any.
        let (told, tell) = UnixStream::pair().map_err(failed)?;
        for signal in inherited::endings() {
            let tell = tell.try_clone().map_err(failed)?;
            signal_hook::low_level::pipe::register(signal, tell).map_err(failed)?;
        }
        let mut ready = self.ready.take();
        loop {
            let mut fds = vec![PollFd::new(&self.handle, PollFlags::IN), PollFd::new(&told, PollFlags::IN)];
            fds.extend(ready.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                polled => polled.map_err(|error| failed(error.into()))?,
            };
            let [ended, asked] = [&fds[0], &fds[1]].map(|fd| !fd.revents().is_empty());
            let says = fds.get(2).is_some_and(|fd| !fd.revents().is_empty());
            if ended {
                return judge(self.child).map_err(failed)?;
            }
            if asked {
                // The first process of a namespace is deaf to anything else until it has asked for it.
                pidfd_send_signal(&self.handle, Signal::KILL).map_err(|error| failed(error.into()))?;
                _ = judge(self.child);
                return Ok(Ended::Well);
            }
            if says && let Some(mut pipe) = ready.take() {
                // It says one thing, or nothing and is gone.
                let mut status = String::new();
                if pipe.read_to_string(&mut status).is_ok() && !status.is_empty() {
                    *is_ready = true;
                    sandbox::notify(&status, takes);
                }
            }
        }
    }
}

/// What the process that serves has ended with.
#[derive(Debug)]
enum Ended {
    Well,
    HandedOver,
}

/// How a process has ended, or will have.
fn judge(child: Pid) -> io::Result<Outcome<Ended>> {
    let ended = loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) | Ok(None) => {}
            Err(error) => return Err(error.into()),
            Ok(Some((_, status))) => break status,
        }
    };
    Ok(match (ended.exit_status(), ended.terminating_signal()) {
        (Some(0), _) => Ok(Ended::Well),
        (Some(HANDED_OVER), _) => Ok(Ended::HandedOver),
        (Some(2), _) => Err(Failure::usage("")),
        (Some(_), _) => Err(Failure::told_already()),
        (None, Some(libc::SIGSYS)) => {
            Err(Failure::new("the process that serves was killed at a system call that is not on its list")
                .or_try("--seccomp log, which lets it through and has the kernel log it; please report that"))
        }
        (None, signal) => {
            let signal = signal.map_or_else(|| "something".to_owned(), |number| format!("signal {number}"));
            Err(Failure::new(format!("the process that serves was killed by {signal}")).or_try(
                "the same command once more; if nobody sent the signal: dmesg tells of memory that ran out",
            ))
        }
    })
}
