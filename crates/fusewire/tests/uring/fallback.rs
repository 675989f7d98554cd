//! Where there can be no ring: `/dev/fuse` serves, the log says why, and a mount that must have the ring is refused.

use crate::{callers::*, filter, lab::*, options, real};
use fusewire::{
    server::{Channel, Ended, Error, Options, Server},
    *,
};
use rustix::{
    process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit},
    thread::{CapabilitySet, capabilities, set_capabilities},
};
use std::{
    fs::File,
    io,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, atomic::Ordering},
    thread,
};

/// What was logged.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Logged;

impl io::Write for Logged {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log() -> String {
    String::from_utf8_lossy(&std::mem::take(&mut *LOG.lock().unwrap())).into_owned()
}

fn keep_log() {
    tracing_subscriber::fmt().with_writer(|| Logged).with_ansi(false).init();
}

/// The ring if it can be had.
fn auto() -> Options {
    Options { channel: Channel::Auto, threads: Some(2), ..Options::default() }
}

/// Mount with `auto`, which must fall back with this in the log, and serve; then with the ring or nothing, which must be
/// refused for the same reason, with this remedy.
fn falls_back(lab: fn() -> Lab, (level, reason): (&str, &str), remedy: &str) {
    let mount = Mounted::start(lab(), auto());
    assert_eq!(mount.handle().channel(), Channel::DevFuse);
    let log = log();
    let line = log.lines().find(|line| line.contains("requests come over /dev/fuse"));
    assert!(line.is_some_and(|line| line.contains(reason) && line.contains(level)), "{log}");
    read_at(&File::open(mount.at("plain")).unwrap(), 0);
    mount.end();
    let dir = tempfile::tempdir().unwrap();
    let Err(error) = Server::mount(lab(), dir.path(), &options()) else { panic!("there is a ring") };
    let text = error.to_string();
    assert!(matches!(error, Error::Uring { .. }), "{text}");
    assert!(text.contains(reason) && text.contains(remedy), "{text}");
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!table.contains(&*dir.path().to_string_lossy()), "it stays mounted");
}

/// A program on the first CPU that is given a path.
fn on_first_cpu(program: &str, path: &Path) -> Child {
    let cpu = allowed_cpus()[0].to_string();
    let mut words = Command::new("taskset");
    words.args(["-c", &cpu, program]).arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

pub fn limit_files(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap();
}

/// Serve and end, by whichever way.
fn serves(server: Server, path: &Path) -> Ended {
    read_at(&File::open(path.join("plain")).unwrap(), 0);
    unmount_idle(&server.handle());
    server.join().unwrap()
}

real! {
    /// The switch reads as off in this mount namespace alone.
    fn a_ring_that_is_switched_off_is_done_without() {
        keep_log();
        let off = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&off, "N\n").unwrap();
        let switch = Path::new(channel::uring::SWITCH);
        assert!(Command::new("mount").arg("--bind").args([off.path(), switch]).status().unwrap().success());
        falls_back(Lab::default, ("INFO", "it is switched off"), "echo Y > ");
    }

    fn a_filesystem_may_decline_the_ring() {
        keep_log();
        let without = || Lab { without: InitFlags::OVER_IO_URING, ..Lab::default() };
        falls_back(without, ("INFO", "the filesystem declined it"), "");
    }

    /// A thread that found out later would leave a mount that answers nothing.
    fn filters_that_forbid_io_uring_are_lived_with() {
        keep_log();
        for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_register, libc::SYS_io_uring_enter] {
            let filtered = move || {
                filter::forbid(call, libc::EPERM).unwrap();
                falls_back(Lab::default, ("WARN", "cannot set up io_uring"), "seccomp");
            };
            thread::spawn(filtered).join().unwrap();
        }
    }

    /// Where the memory of rings is counted: without the privilege to lock as much as one likes.
    fn too_little_locked_memory_is_lived_with() {
        keep_log();
        let mut sets = capabilities(None).unwrap();
        for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
            set.remove(CapabilitySet::IPC_LOCK | CapabilitySet::SYS_RESOURCE);
        }
        setrlimit(Resource::Memlock, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
        let poor = move || {
            set_capabilities(None, sets).unwrap();
            falls_back(Lab::default, ("WARN", "cannot set up io_uring"), "LimitMEMLOCK=");
        };
        thread::spawn(poor).join().unwrap();
    }

    /// After INIT, which no trial can tell: a list of CPUs of this mount namespace alone names more than there are, and the kernel takes no entry
    /// for the queues of those.
    fn entries_that_the_kernel_refuses_are_lived_with() {
        keep_log();
        let list = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&list, "0-63\n").unwrap();
        let possible = "/sys/devices/system/cpu/possible";
        assert!(Command::new("mount").arg("--bind").args([list.path(), possible.as_ref()]).status().unwrap().success());
        for channel in [Channel::Auto, Channel::Uring] {
            let mount = Mounted::start(Lab::default(), Options { channel, ..auto() });
            crowd(4, |i| {
                pin(i % allowed_cpus().len());
                let file = File::open(mount.at(["plain", "timer"][i / 2])).unwrap();
                (0..50).for_each(|round| read_at(&file, (i as u64 * 50 + round) * 4096));
            });
            let log = log();
            let line = log.lines().find(|line| line.contains("the kernel refused an entry of the ring"));
            assert!(line.is_some_and(|line| line.contains("WARN") && line.contains("Invalid argument")), "{log}");
            // What it refused is not missing for handlers that wait.
            let waiting: Vec<_> = (0..8).map(|_| on_first_cpu("cat", &mount.at("cancel"))).collect();
            wait_until(|| mount.fs.begun.load(Ordering::Acquire) >= 208);
            let mut stat = on_first_cpu("stat", &mount.at("plain"));
            let ended = ends_within(&mut stat, 5000 * MS);
            for mut caller in waiting {
                kill_process(Pid::from_child(&caller), Signal::TERM).unwrap();
                ends_within(&mut caller, 5000 * MS).expect("the interrupted request is answered");
            }
            assert!(ended.expect("a request waits behind others that wait").success());
            mount.end();
        }
    }

    /// Whatever the limit, the mount works by one way or the other, or is refused with what would help; it never hangs.
    fn at_every_limit_of_open_files_a_mount_is_served_or_refused() {
        keep_log();
        let (dir, open) = (tempfile::tempdir().unwrap(), std::fs::read_dir("/proc/self/fd").unwrap().count() as u64);
        let usual = getrlimit(Resource::Nofile).current.unwrap();
        let (mut refused, mut fallen_back, mut over_ring, mut too_few) = (0, 0, 0, 0);
        for more in 0..60 {
            limit_files(open + more);
            match Server::mount(Lab::default(), dir.path(), &auto()) {
                Ok(server) => {
                    match server.handle().channel() {
                        Channel::Uring => over_ring += 1,
                        _ => (fallen_back, too_few) = (fallen_back + 1, open + more),
                    }
                    // Callers need descriptors, too.
                    limit_files(usual);
                    assert_eq!(serves(server, dir.path()), Ended::Unmounted);
                }
                Err(error) => {
                    limit_files(usual);
                    assert!(matches!(error, Error::Mount(_) | Error::Threads { .. }), "{error}");
                    refused += 1;
                }
            }
            let log = log();
            if fallen_back > 0 && over_ring == 0 && log.contains("requests come over /dev/fuse") {
                assert!(log.contains("Too many open files"), "{log}");
            }
        }
        eprintln!("refused {refused} times, /dev/fuse {fallen_back} times, io_uring {over_ring} times");
        assert!(refused > 0 && fallen_back > 0 && over_ring > 0);
        limit_files(too_few);
        let forced = Server::mount(Lab::default(), dir.path(), &options());
        limit_files(usual);
        let Err(error) = forced else { panic!("there is a ring") };
        assert!(error.to_string().contains("LimitNOFILE="), "{error}");
    }
}
