//! A target in use, and its daemon.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

use crate::child;
use crate::client::{self, Pin};
use crate::device::Guest;
use crate::machine;
use crate::mounts::{self, Mount};
use crate::requests::{self, Requests};
use crate::sys::{self, Sampled};
use crate::target::{EchoCpu, Kind, Shows, Target};
use crate::tree::Tree;

const MOUNT_TIME: Duration = Duration::from_secs(10);
const STOP_TIME: Duration = Duration::from_secs(5);
/// A daemon that used less than this in [`QUIET_TIME`] has nothing left to do.
const QUIET_CPU: Duration = Duration::from_micros(60);
const QUIET_TIME: Duration = Duration::from_millis(2);
/// Requests that a daemon has done nothing about for that long it keeps on purpose.
const KEPT_TIME: Duration = Duration::from_millis(500);
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// Where one target can be used, mounted if it has to be.
#[derive(Debug)]
pub struct Mounted {
    /// What it is.
    pub target: Target,
    /// Directory to work in; meaningless for a pipe.
    pub root: PathBuf,
    /// Files of its own, if it does not show the source directory.
    pub own: Option<Tree>,
    /// The pipes, if it is one.
    pub pipe: Option<Pipe>,
    /// The guest, if it is a device.
    pub guest: Option<Guest>,
    /// Where a device listens.
    sockets: Vec<PathBuf>,
    daemon: Option<Daemon>,
    /// What somebody else has mounted.
    found: Option<Mount>,
}

/// This side of the pipes to and from an echoing process.
#[derive(Debug)]
pub struct Pipe {
    /// What is written here ...
    pub to: OwnedFd,
    /// ... can be read there.
    pub from: OwnedFd,
}

#[derive(Debug)]
struct Daemon {
    child: Child,
    mount: Option<Mount>,
    log: PathBuf,
}

/// What targets need to be started.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The source directory.
    pub src: &'a Path,
    /// Where mount points and messages go.
    pub work: &'a Path,
    /// Where clients will be kept.
    pub pin: Pin,
    /// Most files a daemon may have open.
    pub nofile: Option<u64>,
}

/// What a daemon has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// CPU time of all threads.
    pub cpu: Duration,
    /// Context switches of all threads, voluntary and not.
    pub switches: u64,
    /// How the CPU time is divided.
    pub sampled: Sampled,
}

impl Usage {
    /// CPU time in user mode: the exact sum, divided as the samples are. `None` if there are no samples.
    pub fn user_time(&self) -> Option<Duration> {
        let Sampled { user, all } = self.sampled;
        (!all.is_zero()).then(|| self.cpu.mul_f64(user.as_secs_f64() / all.as_secs_f64()))
    }
}

/// Memory of a daemon, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident, including pages of the program file.
    pub resident: u64,
    /// Resident and its own (heap, stacks).
    pub anonymous: u64,
    /// Descriptors that are open.
    pub descriptors: u64,
}

impl Mounted {
    /// Starts the target and waits until it is there.
    ///
    /// # Errors
    /// If the daemon cannot be started, ends, or mounts nothing within ten seconds.
    pub fn start(target: &Target, site: &Site<'_>) -> Result<Self> {
        let mut this = Self::nothing(target, site);
        match &target.kind {
            Kind::Directory => {}
            Kind::Pipe { cpu } => this.start_echo(*cpu, site)?,
            Kind::Device { .. } => {
                this.start_device(site, 1)?;
                let guest = Guest::connect(&this.sockets[0]).with_context(|| this.messages());
                this.guest = Some(guest.with_context(|| format!("{} does not work", target.name))?);
            }
            Kind::Mounted { dir } => {
                let tree = Tree::inside(dir)?;
                this.root = tree.path().to_owned();
                this.found = mounts::holding(&this.root);
                this.own = Some(tree);
            }
            Kind::Daemon { shows, .. } => {
                this.mount(site)?;
                if *shows == Shows::Own {
                    this.own = Some(Tree::at(&this.root));
                }
            }
        }
        Ok(this)
    }

    /// Starts a device at so many sockets, and has nobody connect.
    ///
    /// # Errors
    /// If it cannot be started, ends, or does not listen within ten seconds.
    pub fn listen(target: &Target, site: &Site<'_>, sockets: usize) -> Result<Self> {
        let mut this = Self::nothing(target, site);
        this.start_device(site, sockets)?;
        Ok(this)
    }

    fn nothing(target: &Target, site: &Site<'_>) -> Self {
        Self {
            target: target.clone(),
            root: site.src.to_owned(),
            own: None,
            pipe: None,
            guest: None,
            sockets: Vec::new(),
            daemon: None,
            found: None,
        }
    }

    fn start_device(&mut self, site: &Site<'_>, sockets: usize) -> Result<()> {
        let name = &self.target.name;
        let dir = tempfile::Builder::new().prefix("dev-").tempdir_in(site.work);
        let dir = dir.with_context(|| format!("cannot make a directory in {}", site.work.display()))?.keep();
        self.sockets = (0..sockets).map(|number| dir.join(number.to_string())).collect();
        let words = self.target.command_at(site.src, &self.sockets);
        let words = words.with_context(|| format!("{name} is no virtio-fs device"))?;
        let log = dir.with_extension("log");
        let mut daemon = Daemon { child: start(&words, &log, site.nofile)?, mount: None, log };
        let begin = Instant::now();
        // The last one is there when all are.
        while !self.sockets.iter().rev().all(|socket| socket.exists()) {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("{name} ended with {status} before it listened{}", tail(&daemon.log));
            }
            if begin.elapsed() > MOUNT_TIME {
                bail!("{name} does not listen after {} s{}", MOUNT_TIME.as_secs(), tail(&daemon.log));
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.daemon = Some(daemon);
        Ok(())
    }

    fn messages(&self) -> String {
        self.daemon.as_ref().map_or_else(String::new, |daemon| format!("the daemon{}", tail(&daemon.log)))
    }

    /// Where a device listens.
    pub fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// How many threads the daemon has.
    ///
    /// # Errors
    /// If it is gone.
    pub fn threads(&self) -> Result<u64> {
        Ok(self.tasks()?.len() as u64)
    }

    fn tasks(&self) -> Result<Vec<Pid>> {
        let pid = self.pid().context("there is no daemon")?;
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        let tasks = tasks.with_context(|| format!("the daemon of {} is gone", self.target.name))?;
        let numbers = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok());
        Ok(numbers.filter_map(Pid::from_raw).collect())
    }

    /// Keeps all threads of the daemon on these CPUs, and those that they start.
    ///
    /// # Errors
    /// If it is gone, or may not be moved.
    pub fn keep_on(&self, cpus: &[usize]) -> Result<()> {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|cpu| set.set(*cpu));
        for task in self.tasks()? {
            match rustix::thread::sched_setaffinity(Some(task), &set) {
                // It has ended meanwhile.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot keep the daemon of {} on CPUs {cpus:?}", self.target.name)
                    });
                }
            }
        }
        Ok(())
    }

    fn mount(&mut self, site: &Site<'_>) -> Result<()> {
        let name = &self.target.name;
        let dir = tempfile::Builder::new().prefix("mnt-").tempdir_in(site.work);
        self.root =
            dir.with_context(|| format!("cannot make a mount point in {}", site.work.display()))?.keep();
        let words = self.target.command_for(site.src, &self.root).unwrap_or_default();
        let log = self.root.with_extension("log");
        let mut child = start(&words, &log, site.nofile)?;

        let begin = Instant::now();
        loop {
            if let Some(mount) = mounts::find(&self.root).filter(Mount::is_fuse) {
                self.daemon = Some(Daemon { child, mount: Some(mount), log });
                return Ok(());
            }
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended with {status} before it had mounted anything{}", tail(&log));
            }
            if begin.elapsed() > MOUNT_TIME {
                let _ = child.kill();
                let _ = child.wait();
                bail!(
                    "{name} mounted nothing on {} within {} s{}",
                    self.root.display(),
                    MOUNT_TIME.as_secs(),
                    tail(&log)
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts a process that sends back what it gets.
    fn start_echo(&mut self, cpu: EchoCpu, site: &Site<'_>) -> Result<()> {
        let mut command = Command::new(env::current_exe().context("cannot find this program's own file")?);
        command.arg("echo").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = spawn(command, None)?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let (Some(to), Some(from)) = (to, from) else { bail!("the echoing process has no pipes") };
        self.pipe = Some(Pipe { to: to.into(), from: from.into() });
        let pid = child.id();
        self.daemon = Some(Daemon { child, mount: None, log: site.work.join("echo.log") });
        let wanted = |each: usize| match (site.pin, cpu) {
            (Pin::One(client), EchoCpu::Same) => each == client,
            (Pin::One(client), EchoCpu::Other) => each != client,
            _ => true,
        };
        let mut set = CpuSet::new();
        let cpus: Vec<_> = client::allowed_cpus().into_iter().filter(|cpu| wanted(*cpu)).collect();
        ensure!(!cpus.is_empty(), "{}: there is no other CPU", self.target.name);
        cpus.iter().for_each(|cpu| set.set(*cpu));
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        rustix::thread::sched_setaffinity(pid, &set).context("cannot choose the CPU of the echoing process")
    }

    /// Whether the usual files are used through it, or made in it.
    pub fn uses_files(&self) -> bool {
        match self.target.kind {
            Kind::Daemon { shows, .. } => matches!(shows, Shows::Source | Shows::Own),
            Kind::Directory | Kind::Mounted { .. } | Kind::Device { .. } => true,
            Kind::Pipe { .. } => false,
        }
    }

    /// Number of the connection, if FUSE serves this target.
    pub fn connection(&self) -> Option<u32> {
        Some(self.daemon.as_ref()?.mount.as_ref()?.minor)
    }

    /// Insists that a daemon that should hold a ring of io_uring does.
    ///
    /// # Errors
    /// If it does not, or is gone.
    pub fn check_ring(&self) -> Result<()> {
        let (Kind::Daemon { ring: true, .. }, Some(daemon)) = (&self.target.kind, &self.daemon) else {
            return Ok(());
        };
        let open = fs::read_dir(format!("/proc/{}/fd", daemon.child.id()))
            .with_context(|| format!("the daemon of {} is gone{}", self.target.name, tail(&daemon.log)))?;
        let is_ring = |file: fs::DirEntry| {
            fs::read_link(file.path()).is_ok_and(|to| to == Path::new("anon_inode:[io_uring]"))
        };
        ensure!(
            open.flatten().any(is_ring),
            "{} was asked for io_uring and has no ring; is it built with liburing, and does \
             /sys/module/fuse/parameters/enable_uring say Y?{}",
            self.target.name,
            tail(&daemon.log)
        );
        Ok(())
    }

    /// What its daemon was asked for so far; `None` of others than fusewire, which do not tell.
    ///
    /// # Errors
    /// If fusewire does not tell.
    pub fn requests(&self) -> Result<Option<Requests>> {
        match &self.target.kind {
            Kind::Daemon { command, .. } if command.get(1).is_some_and(|word| word == "mount") => {
                requests::of_mount(&command[0], &self.root).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Number of the daemon's process, if there is one.
    pub fn pid(&self) -> Option<u32> {
        Some(self.daemon.as_ref()?.child.id())
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
            Ok(Usage { cpu, switches, sampled: sys::sampled_cpu_time(pid)? })
        };
        read().with_context(|| format!("the daemon of {} is gone{}", self.target.name, tail(&daemon.log)))
    }

    /// Memory of the daemon, `None` if there is none.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn memory(&self) -> Result<Option<Memory>> {
        let Some(daemon) = &self.daemon else { return Ok(None) };
        let pid = daemon.child.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("the daemon of {} is gone{}", self.target.name, tail(&daemon.log)))?;
        let bytes = |name| machine::field(&status, name).map(|kib| kib * 1024);
        let Some(resident) = bytes("VmRSS:") else {
            bail!("the daemon of {} has ended{}", self.target.name, tail(&daemon.log));
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
        let mount = self.daemon.as_ref().and_then(|daemon| daemon.mount.as_ref()).or(self.found.as_ref());
        if let Some(mount) = mount {
            mount.drop_names()?;
            self.settle()?;
        }
        if let Some(guest) = &self.guest {
            guest.forget_all()?;
            self.settle()?;
        }
        Ok(())
    }

    /// Waits until the daemon has done what the kernel sent it without waiting for the answer, such as RELEASE and
    /// FORGET. Requests that it keeps while it does nothing for half a second are not among them: entries of a ring may rest over such.
    ///
    /// # Errors
    /// If the daemon is gone or is still busy after ten seconds.
    pub fn settle(&self) -> Result<()> {
        let Some(daemon) = &self.daemon else { return Ok(()) };
        let begin = Instant::now();
        let (mut before, mut quiet_since) = (self.usage()?.cpu, None);
        while begin.elapsed() < SETTLE_TIME {
            thread::sleep(QUIET_TIME);
            let now = sys::process_cpu_time(daemon.child.id()).with_context(|| {
                format!("the daemon of {} is gone{}", self.target.name, tail(&daemon.log))
            })?;
            let waiting = daemon.mount.as_ref().and_then(|mount| mounts::waiting(mount.minor));
            let (is_quiet, waiting) = (now - before < QUIET_CPU, waiting.unwrap_or(0));
            let since = *quiet_since.get_or_insert((begin.elapsed(), waiting));
            if !is_quiet || since.1 != waiting {
                quiet_since = None;
            } else if waiting == 0 || begin.elapsed() - since.0 >= KEPT_TIME {
                return Ok(());
            }
            before = now;
        }
        bail!(
            "{} is still busy {} s after the last operation; does it poll?{}",
            self.target.name,
            SETTLE_TIME.as_secs(),
            tail(&daemon.log)
        )
    }

    /// Asks the daemon to unmount and end, as a user would with Ctrl-C, or unmounts it; a device ends when its guest goes.
    ///
    /// # Errors
    /// If it does not end within five seconds, ends with an error or leaves the mount behind; it is gone in any
    /// case.
    pub fn stop(mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let left = self.guest.take().map_or(Ok(()), Guest::end);
        left.with_context(|| format!("the guest of {} cannot end{}", self.target.name, tail(&daemon.log)))?;
        // An echoing process ends when its pipes do.
        match self.pipe.take() {
            Some(pipe) => drop(pipe),
            None if !self.sockets.is_empty() => {}
            None if self.target.ends_by_unmount() => {
                daemon.mount.iter().for_each(|mount| mounts::detach(&mount.point));
            }
            None => child::signal(&daemon.child, Signal::INT),
        }
        let ended = child::wait(&mut daemon.child, STOP_TIME);
        let left = daemon.mount.is_some() && mounts::find(&self.root).is_some();
        let name = &self.target.name;
        let log = tail(&daemon.log);
        match ended {
            None => bail!("{name} did not end within {} s of being asked to{log}", STOP_TIME.as_secs()),
            // One that does not handle SIGINT by itself died of it.
            Some(status) if !status.success() && status.signal() != Some(Signal::INT.as_raw()) => {
                bail!("{name} ended with {status}{log}")
            }
            Some(_) if left => bail!("{name} left its mount behind{log}"),
            Some(_) => Ok(()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            if let Some(mount) = &self.mount {
                mounts::abort(mount.minor);
                mounts::detach(&mount.point);
            }
            if child::wait(&mut self.child, Duration::from_secs(1)).is_none() {
                child::signal(&self.child, Signal::KILL);
                child::wait(&mut self.child, STOP_TIME);
            }
        }
        if let Some(mount) = self.mount.as_ref().filter(|mount| mounts::find(&mount.point).is_some()) {
            mounts::detach(&mount.point);
        }
    }
}

/// Starts a daemon whose messages go to a file.
fn start(words: &[OsString], log: &Path, nofile: Option<u64>) -> Result<Child> {
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    spawn(command, nofile)
}

/// Starts a daemon that ends with this program.
fn spawn(mut command: Command, nofile: Option<u64>) -> Result<Child> {
    // The terminal's Ctrl-C is for the bench, which then ends its daemons in order.
    command.current_dir("/").process_group(0);
    sys::tie_to_parent(&mut command, nofile);
    command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// Sends back each byte from standard input until that ends.
///
/// # Errors
/// If standard input or output cannot be used.
pub fn echo() -> Result<()> {
    let (from, to) = (io::stdin(), io::stdout());
    let mut byte = [0];
    while rustix::io::read(&from, &mut byte)? == 1 {
        rustix::io::write(&to, &byte)?;
    }
    Ok(())
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
