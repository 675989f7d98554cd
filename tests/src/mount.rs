//! A mounted filesystem and the process that serves it.

use crate::command::{Cache, Filesystem, MountLine, binary, other_server};
use crate::program::{Finished, Program, program, tail};
use crate::sandbox::{Sandbox, abort_connection};
use crate::{mountinfo, wait};
use rustix::process::{Pid, Signal};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// What to mount; [`Plan::start`] does it.
#[derive(Debug)]
pub struct Plan<'a> {
    sandbox: &'a Sandbox,
    line: MountLine,
    name: String,
    source: Option<PathBuf>,
    nofile: Option<u64>,
    user: Option<String>,
    without: Option<String>,
}

/// A mount with its process; dropping it unmounts, and insists on a clean end.
#[derive(Debug)]
pub struct Mount {
    child: Child,
    source: PathBuf,
    point: PathBuf,
    log: PathBuf,
    connection: u32,
    expect_clean: bool,
}

/// A directory of the sandbox, re-exported.
pub fn passthrough(sandbox: &Sandbox) -> Plan<'_> {
    Plan::new(sandbox, Filesystem::Passthrough)
}

/// The same, whose files and directories are opened without requests.
pub fn stateless(sandbox: &Sandbox) -> Plan<'_> {
    let options = ["opens=stateless", "locks=mount", "passthrough=auto"];
    options.iter().fold(passthrough(sandbox).cache(Cache::Always), |plan, option| plan.option(option))
}

/// The in-memory filesystem.
pub fn mem(sandbox: &Sandbox) -> Plan<'_> {
    Plan::new(sandbox, Filesystem::Mem)
}

impl<'a> Plan<'a> {
    fn new(sandbox: &'a Sandbox, filesystem: Filesystem) -> Self {
        let line = MountLine::new(filesystem);
        Self { sandbox, line, name: "a".into(), source: None, nofile: None, user: None, without: None }
    }

    /// The caching profile.
    pub fn cache(mut self, cache: Cache) -> Self {
        self.line.cache = Some(cache);
        self
    }

    /// What the command does when nobody says what is to be cached.
    pub fn default_cache(mut self) -> Self {
        self.line.default_cache = true;
        self
    }

    /// One more word after `-o`.
    pub fn option(mut self, option: &str) -> Self {
        self.line.options.push(option.into());
        self
    }

    /// `--auto-unmount`.
    pub fn auto_unmount(mut self) -> Self {
        self.line.auto_unmount = true;
        self
    }

    /// Another name for the directories `NAME.src` and `NAME.mnt`, when a test has several mounts.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// An existing directory as the source.
    pub fn source(mut self, source: &Path) -> Self {
        self.source = Some(source.to_owned());
        self
    }

    /// Limit of open files of the process that serves, soft and hard.
    pub fn nofile(mut self, limit: u64) -> Self {
        self.nofile = Some(limit);
        self
    }

    /// Served by root without a capability, such as `chown`.
    pub fn without_capability(mut self, name: &str) -> Self {
        self.without = Some(name.into());
        self
    }

    /// Served by an ordinary user, who owns both directories.
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Others than the user who serves it may use it, too.
    pub fn allow_other(self) -> Self {
        let conf = self.sandbox.dir().join("fuse.conf");
        if !conf.exists() {
            std::fs::write(&conf, "user_allow_other\n").expect("fuse.conf");
            rustix::mount::mount_bind(&conf, "/etc/fuse.conf").expect("a fuse.conf of its own");
        }
        self.option("allow_other")
    }

    fn directories(&self) -> (PathBuf, PathBuf) {
        let source = self.source.clone().unwrap_or_else(|| {
            let dir = self.sandbox.dir().join(format!("{}.src", self.name));
            if dir.exists() { dir } else { self.sandbox.make_dir(&format!("{}.src", self.name)) }
        });
        let point = self.sandbox.dir().join(format!("{}.mnt", self.name));
        if mountinfo::at(&point).is_none() && !point.exists() {
            self.sandbox.make_dir(&format!("{}.mnt", self.name));
        }
        if let Some(user) = &self.user {
            open_dev_fuse(self.sandbox);
            program("chown").arg(user).args([&source, &point]).ok();
        }
        (source, point)
    }

    /// Words before the command: limits and users are set by the programs made for that.
    fn words(&self, source: &Path, point: &Path) -> Vec<std::ffi::OsString> {
        let (binary, words) = self.line.program_and_words(source, point);
        let mut all: Vec<std::ffi::OsString> = Vec::new();
        if let Some(limit) = self.nofile {
            all.extend(["prlimit".into(), format!("--nofile={limit}:{limit}").into(), "--".into()]);
        }
        if let Some(name) = &self.without {
            all.extend(["setpriv".into(), format!("--bounding-set=-{name}").into(), "--".into()]);
        }
        if let Some(user) = &self.user {
            let ids = ["setpriv".into(), format!("--reuid={user}"), format!("--regid={user}")];
            all.extend(ids.map(Into::into));
            all.extend(["--init-groups".into(), "--".into()]);
            all.push(readable_copy(self.sandbox, &binary).into());
        } else {
            all.push(binary.into());
        }
        all.extend(words);
        all
    }

    /// Starts the server and waits for the mount.
    #[track_caller]
    pub fn start(self) -> Mount {
        let (source, point) = self.directories();
        let log = self.sandbox.dir().join(format!("{}.log", self.name));
        let words = self.words(&source, &point);
        let before = mountinfo::at(&point).map(|entry| entry.id);
        let file = std::fs::File::create(&log).expect("log");
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).process_group(0);
        command.env("RUST_BACKTRACE", "1");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {words:?}: {error}"));
        let entry = wait::until(wait::SOON, || {
            let entry = mountinfo::at(&point).filter(|entry| Some(entry.id) != before);
            (entry.is_some() || child.try_wait().expect("wait").is_some()).then_some(entry)
        });
        let Some(Some(entry)) = entry else {
            let ended = child.try_wait().expect("wait");
            let _ = child.kill();
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("{words:?} mounted nothing (ended: {ended:?})\n{}", tail(&text));
        };
        if other_server().is_none() {
            assert!(entry.kind.starts_with("fuse"), "{words:?} mounted something else: {entry:?}");
            // Of another user's mount the kernel tells nobody anything, not even root.
            let device = |path: &Path| path.metadata().expect("stat of the mount").dev();
            let other = self.user.is_some() || device(&point) != device(self.sandbox.dir());
            assert!(other, "nothing is mounted at {}", point.display());
        }
        Mount { child, source, point, log, connection: entry.minor, expect_clean: true }
    }

    /// Runs `fusewire mount` where it has to fail; it must end by itself.
    #[track_caller]
    pub fn refused(self, source: &Path, point: &Path) -> Finished {
        let words = self.words(source, point);
        self.program(words).run()
    }

    fn program(&self, words: Vec<std::ffi::OsString>) -> Program {
        program(&words[0]).args(&words[1..]).limit(20)
    }
}

/// Lets every user open `/dev/fuse`, as is usual, in this namespace; a machine without udev may keep it to root.
pub fn open_dev_fuse(sandbox: &Sandbox) {
    let node = sandbox.dir().join("dev-fuse");
    if Path::new("/dev/fuse").metadata().expect("/dev/fuse").mode() & 0o666 == 0o666 || node.exists() {
        return;
    }
    program("mknod").args(["-m", "666"]).arg(&node).args(["c", "10", "229"]).ok();
    program("mount").arg("--bind").arg(&node).arg("/dev/fuse").ok();
}

/// A copy of the command which every user may execute, wherever the target directory lies.
pub fn readable_copy(sandbox: &Sandbox, binary: &Path) -> PathBuf {
    let copy = sandbox.dir().join("fusewire");
    if !copy.exists() {
        std::fs::copy(binary, &copy).expect("copy of the command");
        crate::sandbox::chmod(&copy, 0o755);
    }
    copy
}

impl Mount {
    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// A path below the mount point.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.point.join(name)
    }

    /// The directory underneath.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// A path below the directory underneath.
    pub fn below(&self, name: impl AsRef<Path>) -> PathBuf {
        self.source.join(name)
    }

    /// The process started for it.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What the process said on standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory of the process in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The part of it that is not mapped from files, which its code is: what it keeps data in.
    pub fn resident_data_kib(&self) -> u64 {
        self.status_kib("RssAnon:")
    }

    fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect(field);
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Whether it is still in the mount table.
    pub fn is_mounted(&self) -> bool {
        mountinfo::at(&self.point).is_some_and(|entry| entry.minor == self.connection)
    }

    /// Sends a signal to the process that serves.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("signal the server");
    }

    /// SIGSTOP; returns when every thread has stopped, after which nobody gets an answer.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        wait::assert_within(wait::SOON, "every thread of the server stops", || {
            let tasks =
                std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("threads").flatten();
            let stat = |path: PathBuf| std::fs::read_to_string(path.join("stat")).unwrap_or_default();
            tasks.map(|task| stat(task.path())).all(|stat| stat.contains(") T "))
        });
    }

    /// A number of the statistics of changes underneath, if they are to be had.
    pub fn changes(&self, name: &str) -> Option<u64> {
        let asked = program(binary()).args(["stats", "--json"]).arg(self.path()).limit(30).run();
        let report: serde_json::Value = serde_json::from_str(&asked.stdout).ok()?;
        report["changes"][name].as_u64()
    }

    /// Waits until the kernel has been told of all that has changed underneath, also of what it is told more than once, as far as that has
    /// come to be known.
    #[track_caller]
    pub fn until_told(&self) {
        let nothing_due = || self.changes("due") == Some(0);
        wait::assert_within(wait::SOON, "all changes have been told", || {
            nothing_due() && {
                std::thread::sleep(Duration::from_millis(100));
                nothing_due()
            }
        });
    }

    /// Aborts the connection through fusectl.
    pub fn abort(&mut self) {
        self.expect_clean = false;
        abort_connection(self.connection);
    }

    /// `kill -9` of the server; returns when it is dead.
    pub fn kill(&mut self) {
        self.expect_clean = false;
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// From here on the end of the server need not be clean.
    pub fn expect_trouble(&mut self) {
        self.expect_clean = false;
    }

    /// How the server ended, if it does within `limit`.
    pub fn end_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait::until(limit, || self.child.try_wait().expect("wait"))
    }

    /// SIGINT; the server must unmount and end with code 0.
    #[track_caller]
    pub fn stop(mut self) {
        self.end_cleanly();
    }

    #[track_caller]
    fn end_cleanly(&mut self) {
        if self.child.try_wait().expect("wait").is_none() {
            self.signal(Signal::INT);
        }
        let status = self.end_within(wait::SOON);
        self.expect_clean = false;
        let log = self.log();
        assert!(status.is_some(), "the server did not end after SIGINT\n{}", tail(&log));
        assert!(
            status.is_some_and(|status| status.success()),
            "the server ended with {status:?}\n{}",
            tail(&log)
        );
        assert!(!self.is_mounted(), "{} is still mounted after the server's end", self.point.display());
        assert!(!log.contains("panicked at"), "the server panicked\n{}", tail(&log));
    }

    fn end_by_force(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            // Stopped processes have to run to end.
            let _ = rustix::process::kill_process(self.pid(), Signal::CONT);
            abort_connection(self.connection);
            let _ = rustix::process::kill_process(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
        if self.is_mounted() {
            let _ = rustix::mount::unmount(&self.point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the server of {} said:\n{}", self.point.display(), tail(&self.log()));
        } else if self.expect_clean {
            self.end_cleanly();
        }
        self.end_by_force();
    }
}
