//! Ends of all kinds: whoever waits for an answer gets one, or an error.

use crate::{callers::*, lab::*, options, real, sys};
use fusewire::{
    mount::Unmount,
    server::{Ended, Options, Server},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind},
    os::unix::fs::FileExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// Tells the process that is to be a daemon, and where it mounts.
const DAEMON: &str = "FUSEWIRE_TEST_DAEMON";
/// Tells it to fork when it has mounted.
const FORKS: &str = "FUSEWIRE_TEST_FORKS";

/// Not a test: the daemon of the others, in a process of its own that can be killed.
#[test]
#[ignore = "a part of other tests"]
fn daemon() {
    let Some(point) = std::env::var_os(DAEMON) else { return };
    let server = Server::mount(Lab::default(), Path::new(&point), &options()).unwrap();
    let child = std::env::var_os(FORKS).map_or(0, |_| sys::fork_sleeper().unwrap().as_raw_nonzero().get());
    println!("\nmounted {} {child}", server.handle().connection());
    server.join().unwrap();
}

struct Daemon {
    process: Child,
    connection: u64,
    /// A process that it has forked, with all its descriptors.
    child: Option<Pid>,
    dir: tempfile::TempDir,
}

impl Daemon {
    fn start(forks: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["teardown::daemon", "--exact", "--ignored", "--nocapture"]).env(DAEMON, dir.path());
        if forks {
            command.env(FORKS, "1");
        }
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.find_map(|line| line.unwrap().strip_prefix("mounted ").map(str::to_owned)).unwrap();
        let (connection, child) = line.split_once(' ').unwrap();
        let (connection, child) = (connection.parse().unwrap(), Pid::from_raw(child.parse().unwrap()));
        Self { process, connection, child, dir }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Through fusectl, as an administrator would.
    fn abort(&self) {
        std::fs::write(format!("{CONNECTIONS}/{}/abort", self.connection), "1").unwrap();
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        _ = std::fs::write(format!("{CONNECTIONS}/{}/abort", self.connection), "1");
        _ = self.process.kill();
        _ = self.process.wait();
        _ = self.child.map(|child| kill_process(child, Signal::KILL));
        _ = rustix::mount::unmount(self.dir.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Callers on every CPU that wait for an answer which does not come, more of them than there are entries.
pub fn waiting_callers(at: impl Fn(&str) -> std::path::PathBuf) -> Vec<Child> {
    let cpus = allowed_cpus();
    let callers = (0..24).map(|i| {
        let name = ["cancel", "never", "stuck"][i % 3];
        let mut words = Command::new("taskset");
        words.args(["-c", &cpus[i % cpus.len()].to_string(), "dd", "bs=4096", "count=1", "status=none"]);
        words
            .arg(format!("if={}", at(name).display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    });
    let callers = callers.collect();
    std::thread::sleep(300 * MS);
    callers
}

/// All of them must end, and none of them with an answer.
pub fn assert_all_fail(callers: Vec<Child>) {
    for mut caller in callers {
        let ended = ends_within(&mut caller, 5000 * MS).expect("a caller waits for ever");
        assert!(!ended.success(), "it got data");
    }
}

real! {
    fn a_busy_mount_is_not_unmounted_and_a_lazy_unmount_answers_who_waits() {
        let mount = Mounted::with(options());
        let files = ["timer", "sleep2", "plain"].map(|name| File::open(mount.at(name)).unwrap());
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..24).map(|i| {
                let file = &files[i % 3];
                scope.spawn(move || (0..20).for_each(|round| read_at(file, (round * 24 + i as u64) * 4096)))
            }).collect();
            assert!(mount.handle().unmount(Unmount::IfIdle).is_err(), "files are open");
            mount.handle().unmount(Unmount::Lazy).unwrap();
            callers.into_iter().for_each(|caller| caller.join().unwrap());
        });
        assert_eq!(mount.fs.served.load(Ordering::Relaxed), 24 * 20);
        drop(files);
        assert_eq!(mount.join(), Ended::Unmounted);
    }

    /// In handlers that await, that sleep and that compute, and in the kernel's queues.
    fn abort_releases_callers_wherever_their_requests_are() {
        let mount = Mounted::with(options());
        let names = ["cancel", "sleep2", "stuck", "plain", "timer", "never"];
        let refused = AtomicU64::new(0);
        let begin = std::thread::scope(|scope| {
            for i in 0..48 {
                let (mount, refused) = (&mount, &refused);
                scope.spawn(move || {
                    pin(allowed_cpus()[i % allowed_cpus().len()]);
                    loop {
                        let opened = File::open(mount.at(names[i % names.len()]));
                        match opened.and_then(|file| file.read_at(&mut [0; 4096], 0)) {
                            Ok(_) => {}
                            Err(error) => {
                                let kind = error.kind();
                                assert!(matches!(kind, ErrorKind::ConnectionAborted | ErrorKind::NotConnected), "{error}");
                                refused.fetch_add(1, Ordering::Relaxed);
                                return;
                            }
                        }
                    }
                });
            }
            std::thread::sleep(500 * MS);
            let begin = Instant::now();
            std::fs::write(format!("{CONNECTIONS}/{}/abort", mount.handle().connection()), "1").unwrap();
            begin
        });
        assert!(begin.elapsed() < 5000 * MS, "{:?}", begin.elapsed());
        assert!(refused.load(Ordering::Relaxed) == 48, "{refused:?}");
        assert_eq!(mount.join(), Ended::Aborted);
        assert!(begin.elapsed() < 12_000 * MS, "{:?}", begin.elapsed());
    }

    /// More callers than there is memory to keep, all of whose handlers never end: they are given up after a while.
    fn abort_gives_up_handlers_that_never_end() {
        let mount = Mounted::with(Options { threads: Some(1), memory: Some(16 << 20), ..options() });
        let file = File::open(mount.at("never")).unwrap();
        std::thread::scope(|scope| {
            for i in 0..100 {
                let file = &file;
                scope.spawn(move || {
                    pin(allowed_cpus()[i % allowed_cpus().len()]);
                    _ = file.read_at(&mut [0; 4096], i as u64 * 4096);
                });
            }
            wait_until(|| mount.fs.begun.load(Ordering::Acquire) == 100);
            mount.handle().abort().unwrap();
        });
        drop(file);
        let begin = Instant::now();
        assert_eq!(mount.join(), Ended::Aborted);
        assert!(begin.elapsed() < 10_000 * MS, "{:?}", begin.elapsed());
    }

    fn callers_of_a_killed_daemon_are_released() {
        let mut daemon = Daemon::start(false);
        let callers = waiting_callers(|name| daemon.at(name));
        daemon.kill();
        assert_all_fail(callers);
        // While the connection ends, there are other errors; answers there are none.
        wait_until(|| std::fs::metadata(daemon.at("plain")).unwrap_err().kind() == ErrorKind::NotConnected);
    }

    /// Its threads that stood in hold requests that nobody waits for, and others have come since.
    fn callers_of_a_killed_daemon_whose_spare_entries_rest_are_released() {
        let mut daemon = Daemon::start(false);
        for (name, time) in [("sleep2", 700 * MS), ("plain", 1500 * MS)] {
            let begin = Instant::now();
            let path = daemon.at(name);
            crowd(8, |i| {
                pin(allowed_cpus()[0]);
                let file = File::open(&path).unwrap();
                while begin.elapsed() < time {
                    read_at(&file, i as u64 * 4096);
                }
            });
        }
        let callers = waiting_callers(|name| daemon.at(name));
        daemon.kill();
        assert_all_fail(callers);
    }

    fn an_abort_from_outside_releases_callers_and_ends_the_daemon() {
        let mut daemon = Daemon::start(false);
        let callers = waiting_callers(|name| daemon.at(name));
        daemon.abort();
        assert_all_fail(callers);
        assert!(ends_within(&mut daemon.process, 12_000 * MS).is_some(), "the daemon goes on");
    }

    /// It has neither the daemon's `/dev/fuse`, which would keep the connection, nor its rings.
    fn callers_of_a_killed_daemon_are_released_although_its_child_lives() {
        let mut daemon = Daemon::start(true);
        let child = daemon.child.unwrap();
        let targets = || -> Vec<_> {
            let files = std::fs::read_dir(format!("/proc/{}/fd", child.as_raw_nonzero())).unwrap();
            files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok()).collect()
        };
        let has_device = || targets().iter().any(|target| target.ends_with("fuse"));
        // The daemon may have said that it has forked before its child has run at all.
        let begin = Instant::now();
        while has_device() && begin.elapsed() < 5_000 * MS {
            std::thread::sleep(MS);
        }
        let targets = targets();
        assert!(targets.len() > 3, "it inherits what others have open: {targets:?}");
        assert!(!targets.iter().any(|target| target.ends_with("fuse")), "{targets:?}");
        assert!(!targets.iter().any(|target| target.to_string_lossy().contains("[io_uring]")), "{targets:?}");
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.as_raw_nonzero())).unwrap();
        assert!(!maps.contains("[io_uring]"), "it inherits the memory of a ring");
        let callers = waiting_callers(|name| daemon.at(name));
        daemon.kill();
        assert_all_fail(callers);
        kill_process(child, Signal::KILL).unwrap();
    }
}
