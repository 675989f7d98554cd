//! A mounted target and its daemon.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use serde::Serialize;

use crate::machine;
use crate::mounts::{self, Mount};
use crate::sys;
use crate::target::Target;

const MOUNT_TIME: Duration = Duration::from_secs(10);
const STOP_TIME: Duration = Duration::from_secs(5);
/// A daemon that used less than this in [`QUIET_TIME`] has nothing left to do.
const QUIET_CPU: Duration = Duration::from_micros(60);
const QUIET_TIME: Duration = Duration::from_millis(2);
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// Where one target can be used, mounted if it has to be.
#[derive(Debug)]
pub struct Mounted {
    /// Short name of the target.
    pub name: String,
    /// Directory to work in.
    pub root: PathBuf,
    daemon: Option<Daemon>,
}

#[derive(Debug)]
struct Daemon {
    child: Child,
    mount: Mount,
    log: PathBuf,
}

/// What a daemon has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// CPU time of all threads.
    pub cpu: Duration,
    /// Context switches of all threads, voluntary and not.
    pub switches: u64,
}

/// Memory of a daemon, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Resident, including pages of the program file.
    pub resident: u64,
    /// Resident and its own (heap, stacks).
    pub anonymous: u64,
    /// Descriptors that are open.
    pub descriptors: u64,
}

impl Mounted {
    /// Mounts `src` for this target below `work`, and waits until it is there.
    ///
    /// # Errors
    /// If the daemon cannot be started, ends, or mounts nothing within ten seconds.
    pub fn start(target: &Target, src: &Path, work: &Path, nofile: Option<u64>) -> Result<Self> {
        let root = work.join(format!("mnt-{}", target.name));
        let Some(words) = target.command_for(src, &root) else {
            return Ok(Self { name: target.name.clone(), root: src.to_owned(), daemon: None });
        };
        fs::create_dir(&root).with_context(|| format!("cannot make the mount point {}", root.display()))?;
        let log = work.join(format!("{}.log", target.name));
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // The terminal's Ctrl-C is for the bench, which then ends its daemons in order.
            .process_group(0);
        sys::tie_to_parent(&mut command, nofile);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", words[0].display()))?;

        let begin = Instant::now();
        loop {
            if let Some(mount) = mounts::find(&root).filter(Mount::is_fuse) {
                let daemon = Some(Daemon { child, mount, log });
                return Ok(Self { name: target.name.clone(), root, daemon });
            }
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status} before it had mounted anything{}", target.name, tail(&log));
            }
            if begin.elapsed() > MOUNT_TIME {
                let _ = child.kill();
                let _ = child.wait();
                bail!(
                    "{} mounted nothing on {} within {} s{}",
                    target.name,
                    root.display(),
                    MOUNT_TIME.as_secs(),
                    tail(&log)
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Number of the connection, if FUSE serves this target.
    pub fn connection(&self) -> Option<u32> {
        self.daemon.as_ref().map(|daemon| daemon.mount.minor)
    }

    /// What the daemon has used so far; nothing if there is none.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn usage(&self) -> Result<Usage> {
        let Some(daemon) = &self.daemon else { return Ok(Usage::default()) };
        let pid = daemon.child.id();
        let read = || -> io::Result<Usage> {
            let cpu = sys::process_cpu_time(pid)?;
            let mut switches = 0;
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                // A thread may end between the two.
                let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
                if is_zombie(&status) {
                    // Its clock can be read, and stands still, until it is waited for.
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                switches += switches_in(&status);
            }
            Ok(Usage { cpu, switches })
        };
        read().with_context(|| format!("the daemon of {} is gone{}", self.name, tail(&daemon.log)))
    }

    /// Memory of the daemon, `None` if there is none.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn memory(&self) -> Result<Option<Memory>> {
        let Some(daemon) = &self.daemon else { return Ok(None) };
        let pid = daemon.child.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("the daemon of {} is gone{}", self.name, tail(&daemon.log)))?;
        let bytes = |name| machine::field(&status, name).map(|kib| kib * 1024);
        let Some(resident) = bytes("VmRSS:") else {
            bail!("the daemon of {} has ended{}", self.name, tail(&daemon.log));
        };
        Ok(Some(Memory {
            resident,
            anonymous: bytes("RssAnon:").unwrap_or(0),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64),
        }))
    }

    /// Lets the kernel forget all unused names and files of this target and waits until the daemon knows.
    ///
    /// # Errors
    /// If the mount cannot be remounted or the daemon is gone.
    pub fn forget_all(&self) -> Result<()> {
        if let Some(daemon) = &self.daemon {
            daemon.mount.drop_names()?;
            self.settle()?;
        }
        Ok(())
    }

    /// Waits until the daemon has done what the kernel sent it without waiting for the answer, such as RELEASE and
    /// FORGET.
    ///
    /// # Errors
    /// If the daemon is gone or is still busy after ten seconds.
    pub fn settle(&self) -> Result<()> {
        let Some(daemon) = &self.daemon else { return Ok(()) };
        let begin = Instant::now();
        let mut before = self.usage()?.cpu;
        while begin.elapsed() < SETTLE_TIME {
            thread::sleep(QUIET_TIME);
            let now = sys::process_cpu_time(daemon.child.id())
                .with_context(|| format!("the daemon of {} is gone{}", self.name, tail(&daemon.log)))?;
            if now - before < QUIET_CPU && mounts::waiting(daemon.mount.minor).unwrap_or(0) == 0 {
                return Ok(());
            }
            before = now;
        }
        bail!(
            "{} is still busy {} s after the last operation; does it poll?{}",
            self.name,
            SETTLE_TIME.as_secs(),
            tail(&daemon.log)
        )
    }

    /// Asks the daemon to unmount and end, as a user would with Ctrl-C.
    ///
    /// # Errors
    /// If it does not end within five seconds, ends with an error or leaves the mount behind; it is gone in any
    /// case.
    pub fn stop(mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        daemon.signal(Signal::INT);
        let ended = daemon.wait(STOP_TIME);
        let left = mounts::find(&self.root).is_some();
        let log = tail(&daemon.log);
        match ended {
            None => bail!("{} did not end within {} s of SIGINT{log}", self.name, STOP_TIME.as_secs()),
            // One that does not handle SIGINT by itself died of it.
            Some(status) if !status.success() && status.signal() != Some(Signal::INT.as_raw()) => {
                bail!("{} ended with {status}{log}", self.name)
            }
            Some(_) if left => bail!("{} left its mount behind{log}", self.name),
            Some(_) => Ok(()),
        }
    }
}

impl Daemon {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Fails if it has ended already, which is what is wanted.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let begin = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if begin.elapsed() < limit => thread::sleep(Duration::from_millis(10)),
                _ => return None,
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            mounts::abort(self.mount.minor);
            mounts::detach(&self.mount.point);
            if self.wait(Duration::from_secs(1)).is_none() {
                self.signal(Signal::KILL);
                self.wait(STOP_TIME);
            }
        }
        if mounts::find(&self.mount.point).is_some() {
            mounts::detach(&self.mount.point);
        }
    }
}

/// Context switches in a `status` file of a thread.
pub fn switches_in(status: &str) -> u64 {
    ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]
        .iter()
        .filter_map(|name| machine::field(status, name))
        .sum()
}

fn is_zombie(status: &str) -> bool {
    status.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}

/// The last lines of a daemon's messages, for an error.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    match lines.as_slice() {
        [] => "; it said nothing".into(),
        lines => format!("; it said:\n  {}", lines[lines.len().saturating_sub(8)..].join("\n  ")),
    }
}
