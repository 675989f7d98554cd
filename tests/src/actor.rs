//! The second process: it does what the test tells it, one line at a time, or watches over the test.

use crate::sandbox::{abort_connection, kill_namespace, piped_input};
use crate::{mountinfo, sys, wait};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// A process that obeys. Lines: `open KEY PATH r|w|o|c|MODE` (for reading, for both, for writing only, made if need be), `flock KEY sh|ex|un wait|now`, `range KEY sh|ex|un wait|now START
/// LENGTH`, `holder KEY`, `read KEY OFFSET LENGTH`, `write KEY OFFSET TEXT`, `close KEY`. Paths have no blanks.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    answers: Receiver<String>,
}

/// What the actor said: a text, or the number of an error.
pub type Answer = Result<String, i32>;

impl Actor {
    /// Starts one.
    pub fn start() -> Self {
        let mut command = Command::new(program());
        let mut child = piped_input(command.arg("act")).spawn().expect("start the actor");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, answers) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, answers }
    }

    /// Tells it what to do, without waiting.
    pub fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{line}").expect("the actor reads");
    }

    /// Its next answer; `None` when it says nothing within `limit`.
    #[track_caller]
    pub fn answer(&mut self, limit: Duration) -> Option<Answer> {
        match self.answers.recv_timeout(limit) {
            Ok(line) => Some(match line.split_once(' ') {
                Some(("ok", text)) => Ok(text.to_owned()),
                Some(("error", number)) => Err(number.parse().expect("an errno")),
                _ => panic!("the actor said {line:?}"),
            }),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the actor ended: {:?}", self.child.wait()),
        }
    }

    /// Tells it what to do and waits for the answer.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> Answer {
        self.tell(line);
        self.answer(wait::SOON).unwrap_or_else(|| panic!("no answer to {line:?}"))
    }

    /// The same, and it must work.
    #[track_caller]
    pub fn must(&mut self, line: &str) -> String {
        self.ask(line).unwrap_or_else(|number| {
            panic!("{line}: {}", std::io::Error::from_raw_os_error(number));
        })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal; SIGUSR1 interrupts what it waits for.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("signal the actor");
    }

    /// Whether it ends within `limit`.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        wait::until(limit, || self.child.try_wait().expect("wait")).is_some()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = wait::until(Duration::from_secs(5), || self.child.try_wait().ok().flatten());
    }
}

/// The program in which actors and watchdogs run: it lies beside the directory of the tests.
fn program() -> PathBuf {
    let exe = std::env::current_exe().expect("path of the test");
    let profile = exe.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "deps"));
    let path = profile.and_then(Path::parent).expect("the test lies in deps").join("fusewire-test-actor");
    assert!(path.is_file(), "{} is missing; cargo builds it with the tests", path.display());
    path
}

/// The POSIX suite on a directory, in a process of its own since it forks. Lines of its output: `failed`, `skipped` or
/// `passed`, a tab, and which case and why, or how many.
pub fn posix(dir: &Path) -> crate::program::Program {
    crate::program::program(program()).arg("posix").arg(dir)
}

/// The process behind [`posix`].
pub fn run_posix(dir: &Path) {
    let options = fusewire_posix::Options::default();
    let report = fusewire_posix::run(dir, &options).expect("the suite runs");
    report.failures().for_each(|case| println!("failed\t{}", case.to_string().replace('\n', " ")));
    report.skipped().for_each(|(name, _)| println!("skipped\t{name}"));
    println!("passed\t{}", report.passed());
}

/// Starts the watchdog of a sandbox and waits until it watches.
pub(crate) fn start_watchdog(dir: &Path, limit: Duration) -> Child {
    let mut command = Command::new(program());
    command.arg("watch").arg(dir).arg(limit.as_secs().to_string()).arg(std::process::id().to_string());
    // A group of its own: it must outlive the test when a test runner ends the whole group of the test.
    let mut child = piped_input(command.process_group(0)).spawn().expect("start the watchdog");
    let mut ready = [0];
    child.stdout.take().expect("piped").read_exact(&mut ready).expect("the watchdog is ready");
    child
}

/// The watchdog: waits for the end of its input, which is the end of the test, but no longer than the limit. Then no FUSE
/// connection below `dir` stays alive, and no process stays in the namespace but `spared` while that lives.
pub fn watch(dir: &Path, limit: Duration, spared: u32) {
    let _ = std::io::stdout().write_all(b"!").and_then(|()| std::io::stdout().flush());
    let deadline = Instant::now() + limit;
    let input = std::io::stdin();
    let in_time = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        match rustix::event::poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => break false,
            Ok(_) => break true,
            Err(_) => {}
        }
    };
    if !in_time {
        eprintln!("watchdog: the test took longer than {limit:?}; its FUSE connections are aborted");
    }
    for _ in 0..3 {
        for entry in mountinfo::below(dir).into_iter().filter(mountinfo::Entry::is_fuse) {
            abort_connection(entry.minor);
            let _ = rustix::mount::unmount(&entry.point, UnmountFlags::DETACH);
        }
        std::thread::sleep(Duration::from_millis(if in_time { 0 } else { 500 }));
        kill_namespace(&[std::process::id(), spared]);
    }
}

/// The obeying side.
pub fn act() {
    sys::interrupt_on_usr1().expect("signal handler");
    let mut files = HashMap::new();
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<_> = line.split(' ').collect();
        match obey(&mut files, &words) {
            Ok(text) => println!("ok {text}"),
            Err(error) => println!("error {}", error.raw_os_error().unwrap_or(-1)),
        }
    }
}

fn obey(files: &mut HashMap<String, File>, words: &[&str]) -> std::io::Result<String> {
    let file = |key: &str| files.get(key).unwrap_or_else(|| panic!("{key} is not open"));
    let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{word} is no number"));
    match *words {
        ["open", key, path, how] => {
            let mode = u32::from_str_radix(how, 8);
            let mut options = File::options();
            options.read(how != "o").write(how != "r").create(how == "c" || mode.is_ok());
            let opened = options.mode(mode.unwrap_or(0o666)).open(path)?;
            files.insert(key.to_owned(), opened);
        }
        ["flock", key, kind, wait] => {
            let operation = match (kind, wait) {
                ("sh", "wait") => FlockOperation::LockShared,
                ("sh", _) => FlockOperation::NonBlockingLockShared,
                ("ex", "wait") => FlockOperation::LockExclusive,
                ("ex", _) => FlockOperation::NonBlockingLockExclusive,
                _ => FlockOperation::Unlock,
            };
            rustix::fs::flock(file(key), operation)?;
        }
        ["range", key, kind, wait, start, length] => {
            let range = match kind {
                "sh" => sys::Range::Shared,
                "ex" => sys::Range::Exclusive,
                _ => sys::Range::Unlock,
            };
            sys::range_lock(file(key).as_fd(), range, wait == "wait", (number(start), number(length)))?;
        }
        ["holder", key] => {
            let holder = sys::range_lock_holder(file(key).as_fd())?;
            return Ok(holder.map_or("nobody".to_owned(), |pid| pid.to_string()));
        }
        ["read", key, offset, length] => {
            let mut bytes = vec![0; usize::try_from(number(length)).expect("length")];
            let count = file(key).read_at(&mut bytes, number(offset).cast_unsigned())?;
            return Ok(String::from_utf8_lossy(&bytes[..count]).into_owned());
        }
        ["write", key, offset, text] => {
            file(key).write_all_at(text.as_bytes(), number(offset).cast_unsigned())?;
        }
        ["close", key] => {
            let open = files.remove(key).unwrap_or_else(|| panic!("{key} is not open"));
            sys::close(open.into())?;
        }
        _ => panic!("unknown words {words:?}"),
    }
    Ok(String::new())
}
