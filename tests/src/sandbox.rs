//! A private mount namespace, a scratch directory and a watchdog for one test.

use crate::{actor, mountinfo, skip, sys, wait};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// Where the kernel lists FUSE connections.
pub const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// What a test has for itself. When it is dropped nothing may be left: no mount below the directory, no process in the
/// namespace; leftovers are removed and fail the test.
#[derive(Debug)]
pub struct Sandbox {
    dir: Option<tempfile::TempDir>,
    watchdog: Child,
}

/// [`Sandbox::enter`] with the usual limit: four minutes, with patience.
pub fn enter() -> Option<Sandbox> {
    Sandbox::enter(wait::patience(Duration::from_secs(240)))
}

impl Sandbox {
    /// Moves the calling thread into a mount namespace of its own and starts the watchdog, which after `limit` aborts
    /// every FUSE connection made here and kills every process started here. `None` (and `skipped: ...`) without root or
    /// `/dev/fuse`.
    pub fn enter(limit: Duration) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip::report("mounting in a namespace of its own needs root");
            return None;
        }
        if !Path::new("/dev/fuse").exists() {
            skip::report(
                "there is no /dev/fuse: the kernel lacks FUSE, or the container does not pass the device",
            );
            return None;
        }
        if let Err(error) = sys::own_mount_namespace() {
            skip::report(&format!("unshare(CLONE_NEWNS) is refused here: {error}"));
            return None;
        }
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).expect("make the mounts of this namespace private");
        if std::fs::read_dir(CONNECTIONS).map_or(true, |mut list| list.next().is_none()) {
            // Empty, it may still be mounted.
            let mounted = rustix::mount::mount("none", CONNECTIONS, "fusectl", MountFlags::empty(), c"");
            assert!(matches!(mounted, Ok(()) | Err(rustix::io::Errno::BUSY)), "mount fusectl: {mounted:?}");
        }
        let base =
            std::env::var_os("FUSEWIRE_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let dir =
            tempfile::Builder::new().prefix("fusewire-test-").tempdir_in(base).expect("scratch directory");
        // Other users work in there, too.
        chmod(dir.path(), 0o755);
        let watchdog = actor::start_watchdog(dir.path(), limit);
        Some(Self { dir: Some(dir), watchdog })
    }

    /// The scratch directory: mode 755, on a disk filesystem, reachable by every user.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("there until drop").path()
    }

    /// A new directory in it, mode 755.
    pub fn make_dir(&self, name: &str) -> PathBuf {
        let path = self.dir().join(name);
        std::fs::create_dir(&path).expect("create directory");
        chmod(&path, 0o755);
        path
    }

    /// A tmpfs of its own with the given options, such as `size=1m`.
    pub fn tmpfs(&self, name: &str, options: &str) -> PathBuf {
        let point = self.make_dir(name);
        mount("tmpfs", "none", &point, options);
        point
    }

    /// Mounts an image file; gone with the namespace, and its loop device too.
    pub fn loop_mount(&self, image: &Path, name: &str, options: &str) -> PathBuf {
        let point = self.make_dir(name);
        let loop_options = if options.is_empty() { "loop".to_owned() } else { format!("loop,{options}") };
        crate::program::program("mount").args(["-o", &loop_options]).args([image, &point]).ok();
        point
    }

    /// The processes of this namespace other than the test and its watchdog: (pid, command line).
    pub fn processes(&self) -> Vec<(i32, String)> {
        namespace_processes(&[std::process::id(), self.watchdog.id()])
    }

    /// Ends what is left, and tells what that was.
    fn sweep(&self) -> Vec<String> {
        let mut left = Vec::new();
        for entry in mountinfo::below(self.dir()) {
            if entry.is_fuse() {
                left.push(format!("mount {} ({})", entry.point.display(), entry.kind));
                abort_connection(entry.minor);
            }
            let _ = rustix::mount::unmount(&entry.point, UnmountFlags::DETACH);
        }
        // A process that was just told to end may need a moment.
        let quiet = wait::until(Duration::from_secs(8), || self.processes().is_empty().then_some(()));
        if quiet.is_none() {
            left.extend(self.processes().into_iter().map(|(pid, line)| format!("process {pid} ({line})")));
            kill_namespace(&[std::process::id(), self.watchdog.id()]);
        }
        left
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let left = self.sweep();
        // End of input is the sign that all went well.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
        if let Some(dir) = self.dir.take() {
            let _ = dir.close();
        }
        if std::thread::panicking() {
            eprintln!("left behind: {left:?}");
        } else {
            assert!(left.is_empty(), "the test left behind: {left:?}");
        }
    }
}

/// Mounts a kernel filesystem.
#[track_caller]
pub fn mount(kind: &str, source: &str, point: &Path, options: &str) {
    let options = std::ffi::CString::new(options).expect("mount options");
    rustix::mount::mount(source, point, kind, MountFlags::empty(), options.as_c_str()).unwrap_or_else(
        |error| panic!("mount -t {kind} -o {options:?} {source} {}: {error}", point.display()),
    );
}

/// Sets permission bits.
pub fn chmod(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Ends a FUSE connection by force: every waiting client gets an error.
pub fn abort_connection(number: u32) {
    let _ = std::fs::write(format!("{CONNECTIONS}/{number}/abort"), "1");
}

/// The processes in the mount namespace of the calling thread, without those named.
pub fn namespace_processes(spared: &[u32]) -> Vec<(i32, String)> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let ours = namespace("thread-self");
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| !spared.contains(&pid.cast_unsigned()))
        .filter(|pid| ours.is_some() && namespace(&pid.to_string()) == ours)
        .map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&line).replace('\0', " "))
        })
        .collect()
}

/// Kills the processes in the mount namespace of the calling thread, without those named. All of them descend from the
/// test, since nobody else knows the namespace.
pub fn kill_namespace(spared: &[u32]) {
    for (pid, _) in namespace_processes(spared) {
        // The descriptor pins the process, so that a second look tells whether the number is still the same process.
        let Some(fd) =
            Pid::from_raw(pid).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok())
        else {
            continue;
        };
        if namespace_processes(spared).iter().any(|(other, _)| *other == pid) {
            let _ = rustix::process::pidfd_send_signal(&fd, Signal::KILL);
        }
    }
}

/// Standard streams of a process that only listens.
pub(crate) fn piped_input(command: &mut std::process::Command) -> &mut std::process::Command {
    command.stdin(Stdio::piped()).stdout(Stdio::piped())
}
