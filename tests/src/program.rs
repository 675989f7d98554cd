//! Running a program with a limit, and reading what it said.

use crate::wait;
use rustix::process::{Pid, Signal};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A program about to run; killed with its whole process group when it takes longer than its limit.
#[derive(Debug)]
pub struct Program {
    command: Command,
    words: String,
    limit: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    words: String,
}

/// One that still runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    words: String,
}

/// A program by name or path. It gets no standard input, the plain C locale, and one minute.
pub fn program(name: impl AsRef<OsStr>) -> Program {
    let mut command = Command::new(&name);
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").stdin(Stdio::null()).process_group(0);
    Program { command, words: name.as_ref().display().to_string(), limit: Duration::from_secs(60) }
}

/// A line for `/bin/sh -c`, in which `$1`, `$2`, ... are the paths.
pub fn shell(line: &str, paths: &[&Path]) -> Program {
    program("sh").args(["-ceu", line, "sh"]).args(paths)
}

/// The same as another user: real, effective and saved ids and the groups of the account.
pub fn as_user(user: &str, program_name: impl AsRef<OsStr>) -> Program {
    // Not every user has a group of the same name.
    let group = program("id").args(["-g", user]).ok();
    let uid = [format!("--reuid={user}"), format!("--regid={}", group.trim())];
    program("setpriv").args(uid).args(["--init-groups", "--"]).arg(program_name)
}

impl Program {
    /// One more word.
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.words.push(' ');
        self.words.push_str(&word.as_ref().to_string_lossy());
        self.command.arg(word);
        self
    }

    /// More words.
    pub fn args(self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        words.into_iter().fold(self, Self::arg)
    }

    /// Working directory.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// One variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes a variable out of the environment.
    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Seconds it may take.
    pub fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Starts it.
    #[track_caller]
    pub fn start(mut self) -> Running {
        let stdout = tempfile::tempfile().expect("temporary file");
        let stderr = tempfile::tempfile().expect("temporary file");
        let copy = |file: &File| file.try_clone().expect("dup");
        self.command.stdout(copy(&stdout)).stderr(copy(&stderr));
        let child =
            self.command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", self.words));
        Running { child, stdout, stderr, words: self.words }
    }

    /// Runs it to its end, whatever that is.
    #[track_caller]
    pub fn run(self) -> Finished {
        let limit = self.limit;
        self.start().finish(limit)
    }

    /// Runs it, insists on exit code 0, and gives its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        self.run().ok()
    }

    /// Runs it and insists on failure (by exit code, not by a signal).
    #[track_caller]
    pub fn fails(self) -> Finished {
        let done = self.run();
        assert!(done.status.code().is_some_and(|code| code != 0), "should have failed: {done}");
        done
    }
}

impl Running {
    /// Process id, for as long as this value lives.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Sends a signal to its process group.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            let _ = rustix::process::kill_process_group(self.pid(), signal);
        }
    }

    /// Its end, if that comes within `limit`.
    pub fn end_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait::until(limit, || self.child.try_wait().expect("wait"))
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&mut self) -> String {
        text(&mut self.stdout)
    }

    /// Waits for the end and collects; panics and kills it after `limit`.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Finished {
        let Some(status) = self.end_within(limit) else {
            let (stdout, stderr) = (text(&mut self.stdout), text(&mut self.stderr));
            let waiting =
                std::fs::read_to_string(format!("/proc/{}/wchan", self.child.id())).unwrap_or_default();
            panic!("{} still ran after {limit:?} (waiting in {waiting})\n{stdout}\n{stderr}", self.words);
        };
        let (stdout, stderr) = (text(&mut self.stdout), text(&mut self.stderr));
        Finished { status, stdout, stderr, words: std::mem::take(&mut self.words) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        // A client of a dead mount may not be killable before the watchdog aborts the connection: do not wait for ever.
        let _ = self.end_within(Duration::from_secs(5));
    }
}

impl Finished {
    /// Insists on exit code 0 and gives the standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout
    }

    /// Exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, stdout, stderr, words } = self;
        write!(f, "{words}: {status}\n{}{}", tail(stdout), tail(stderr))
    }
}

/// The last lines of a long text.
pub fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].iter().map(|line| format!("  | {line}\n")).collect()
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // The offset is shared with the program, so it is put back to where the program writes.
    let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_code_are_kept_apart() {
        let done = shell("echo out; echo err >&2; exit 3", &[]).run();
        assert_eq!((done.code(), done.stdout.as_str(), done.stderr.as_str()), (Some(3), "out\n", "err\n"));
    }

    #[test]
    #[should_panic(expected = "still ran after")]
    fn a_program_over_its_limit_is_killed() {
        program("sleep").arg("100").limit(0).run();
    }
}
