//! Child processes: one per case with a time limit, and those a case forks itself.
//!
//! Everything that touches the filesystem under test happens in a child, because a broken filesystem may block for
//! ever, kill by SIGBUS, or leave credentials and masks changed.

use crate::sys;
use crate::words;
use crate::world::{Failure, World};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process_group, waitid, waitpid,
};
use serde::{Serialize, de::DeserializeOwned};
use std::time::{Duration, Instant};

/// How long a killed process may take to go before it is left behind.
const LAST_GRACE: Duration = Duration::from_secs(5);

/// Why a child gave no answer.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It did not finish in time. `gone` is false when not even SIGKILL ended it.
    Hung { limit: Duration, gone: bool },
    /// It died: the words say by what.
    Died(String),
    /// It could not be started.
    NotStarted(Errno),
}

/// Runs `job` in a forked child that holds no descriptor of this process, and gives its answer, or why there is none
/// after `limit`. No process of the child's group is left.
pub(crate) fn limited<T: Serialize + DeserializeOwned>(
    limit: Duration,
    job: impl FnOnce() -> T,
) -> Result<T, Ended> {
    let (answers, to_parent) = pipe_with(PipeFlags::CLOEXEC).map_err(Ended::NotStarted)?;
    let parent = rustix::process::getpid();
    let pid = sys::fork(|| {
        let _ = rustix::process::setpgid(None, None);
        if !dies_with(parent) {
            return 1;
        }
        sys::close_all_but(to_parent.as_raw_fd());
        send(&to_parent, &job()).map_or(1, |()| 0)
    })
    .map_err(Ended::NotStarted)?;
    drop(to_parent);
    // Both sides set the group: whichever comes first, the kill below finds it.
    let _ = rustix::process::setpgid(Some(pid), Some(pid));
    let deadline = Instant::now() + limit;
    let line = receive(&answers, deadline);
    let in_time = !matches!(line, Err(Errno::TIMEDOUT)) && wait_exit(pid, deadline);
    let _ = kill_process_group(pid, Signal::KILL);
    if !in_time {
        let gone = wait_exit(pid, Instant::now() + LAST_GRACE);
        if gone {
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
        return Err(Ended::Hung { limit, gone });
    }
    let status = waitpid(Some(pid), WaitOptions::empty()).ok().flatten();
    match line.map(|text| serde_json::from_str(&text)) {
        Ok(Ok(answer)) => Ok(answer),
        _ => Err(Ended::Died(status.map_or("no status".to_owned(), |(_, status)| show_status(status)))),
    }
}

/// Asks to be killed when the parent goes; false when it has gone already.
fn dies_with(parent: Pid) -> bool {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    rustix::process::getppid() == Some(parent)
}

/// Waits until the child has ended, without reaping it (its pid stays reserved).
fn wait_exit(pid: Pid, deadline: Instant) -> bool {
    let mut pause = Duration::from_micros(100);
    loop {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        if matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_)) | Err(Errno::CHILD)) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn show_status(status: WaitStatus) -> String {
    match (status.terminating_signal(), status.exit_status()) {
        (Some(signal), _) => format!("killed by {}", words::show_signal(signal)),
        (None, Some(101)) => "panicked".to_owned(),
        (None, code) => format!("ended with status {}", code.unwrap_or(-1)),
    }
}

fn send(to: &OwnedFd, message: &impl Serialize) -> Result<(), Errno> {
    let mut line = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
    line.push(b'\n');
    let mut rest = &line[..];
    while !rest.is_empty() {
        match write(to, rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// One line; TIMEDOUT at the deadline, PIPE when the other side closed first.
fn receive(from: &OwnedFd, deadline: Instant) -> Result<String, Errno> {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    while line.last() != Some(&b'\n') {
        if !readable(from, deadline.saturating_duration_since(Instant::now())) {
            return Err(Errno::TIMEDOUT);
        }
        match read(from, &mut chunk) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(n) => line.extend_from_slice(&chunk[..n]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    String::from_utf8(line).map_err(|_| Errno::ILSEQ)
}

/// Whether something can be read (or the end be seen) within the time.
pub(crate) fn readable(fd: impl AsFd, time: Duration) -> bool {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Err(Errno::INTR) => {}
            _ => return true,
        }
    }
}

/// A process forked by a case. It has the case's descriptors as they were at the fork and runs steps when told.
pub(crate) struct Actor {
    pid: Pid,
    orders: OwnedFd,
    answers: OwnedFd,
    /// Steps started and not yet answered.
    pending: u32,
    /// It has ended and been reaped: its pid may be somebody else's by now.
    reaped: bool,
}

/// A forked process that waits longer than this for a step is stuck; the case's own limit usually comes first.
const ACTOR_LIMIT: Duration = Duration::from_secs(600);

impl Actor {
    /// Forks; the child serves steps until it is told to end.
    pub fn fork(world: &mut World<'_>) -> Result<Self, Errno> {
        let (take, orders) = pipe_with(PipeFlags::CLOEXEC)?;
        let (answers, give) = pipe_with(PipeFlags::CLOEXEC)?;
        let parent = rustix::process::getpid();
        let pid = sys::fork(|| {
            // The others' pipes must not stay open here, or the end of the others would not be seen.
            world.actors.clear();
            if !dies_with(parent) {
                return 1;
            }
            while let Ok(line) = receive(&take, Instant::now() + ACTOR_LIMIT) {
                // Orders are answered one by one, so a line is one order.
                let Ok(at) = line.trim().parse::<usize>() else { return 0 };
                let answer = world.run_here(at).map_err(|failure| *failure);
                if send(&give, &answer).is_err() {
                    return 1;
                }
            }
            0
        })?;
        Ok(Self { pid, orders, answers, pending: 0, reaped: false })
    }

    /// Starts a step there. An error says how the process died.
    pub fn start(&mut self, at: usize) -> Result<(), String> {
        if self.pending > 0 {
            return Err("still busy with the step before".to_owned());
        }
        send(&self.orders, &at).map_err(|_| self.reap())?;
        self.pending += 1;
        Ok(())
    }

    /// Waits for the started step. The outer error says how the process died, the inner what failed.
    pub fn finish(&mut self) -> Result<Result<(), Box<Failure>>, String> {
        if self.pending == 0 {
            return Err("no step is running there".to_owned());
        }
        let line = receive(&self.answers, Instant::now() + ACTOR_LIMIT).map_err(|_| self.reap())?;
        self.pending -= 1;
        let answer: Result<(), Failure> = serde_json::from_str(&line).map_err(|e| e.to_string())?;
        Ok(answer.map_err(Box::new))
    }

    /// Whether a started step is still unanswered after `time`.
    pub fn still_busy(&self, time: Duration) -> bool {
        self.pending > 0 && !readable(&self.answers, time)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) -> Result<(), Errno> {
        if self.reaped {
            return Err(Errno::SRCH);
        }
        sys::kill(self.pid, signal)
    }

    /// The process's id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    fn reap(&mut self) -> String {
        let status =
            if self.reaped { None } else { waitpid(Some(self.pid), WaitOptions::empty()).ok().flatten() };
        self.reaped = true;
        status.map_or("it has ended".to_owned(), |(_, status)| show_status(status))
    }

    /// Ends it at once, so that no process is left to whoever adopts orphans.
    pub fn kill(mut self) {
        let _ = self.signal(libc::SIGKILL);
        self.reap();
    }

    /// Lets it end by itself and says how it did.
    pub fn end(mut self) -> String {
        // Closing the pipe would not do: the process itself has a copy of this end. Whatever is no number ends it.
        let _ = send(&self.orders, &"end");
        self.reap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back() {
        assert_eq!(limited(Duration::from_secs(5), || vec![1, 2, 3]).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn a_hang_is_ended() {
        let start = Instant::now();
        let ended = limited(Duration::from_millis(200), || std::thread::sleep(Duration::from_secs(60)));
        assert!(matches!(ended, Err(Ended::Hung { gone: true, .. })));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_death_is_told() {
        let me = || rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
        let ended = limited(Duration::from_secs(5), || me().is_ok());
        assert!(matches!(ended, Err(Ended::Died(why)) if why.contains("SIGKILL")));
    }
}
