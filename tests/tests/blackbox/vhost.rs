//! `fusewire vhost` as a monitor and a guest meet it; the guest is the kit's driver.

use fusewire::Errno;
use fusewire_tests::{command, program::program};
use fusewire_vhost::kit::{Layout, Monitor};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ROOT: u64 = 1;

/// A device that is killed at the end if it has not ended.
pub(super) struct Device(pub(super) Child);

impl Device {
    pub(super) fn start(socket: &Path, dir: &Path, words: &[&str]) -> Self {
        Self::started(socket, dir, words, || socket.exists())
    }

    /// The same where another has left its socket behind.
    pub(super) fn start_anew(socket: &Path, dir: &Path, words: &[&str]) -> Self {
        use std::os::unix::fs::MetadataExt;
        let ino = || std::fs::metadata(socket).map(|meta| meta.ino()).ok();
        let last = ino();
        Self::started(socket, dir, words, || ino().is_some_and(|now| Some(now) != last))
    }

    fn started(socket: &Path, dir: &Path, words: &[&str], is_there: impl FnMut() -> bool) -> Self {
        let mut line = Command::new(command::binary());
        line.arg("vhost").arg("--socket-path").arg(socket).arg("--shared-dir").arg(dir).args(words);
        let child = line.stdin(Stdio::null()).spawn().expect("fusewire");
        wait("the socket", is_there);
        Self(child)
    }

    /// It ends by itself, and well.
    pub(super) fn end(mut self) {
        wait("the end of the device", || self.0.try_wait().expect("child").is_some());
        assert!(self.0.wait().expect("child").success());
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[track_caller]
pub(super) fn wait(what: &str, done: impl FnMut() -> bool) {
    fusewire_tests::wait::assert_within(Duration::from_secs(20), what, done);
}

#[test]
fn a_directory_is_shared_until_the_monitor_goes() {
    let dir = tempfile::tempdir().expect("directory");
    let (share, socket) = (dir.path().join("share"), dir.path().join("socket"));
    std::fs::create_dir(&share).expect("directory");
    let device =
        Device::start(&socket, &share, &["--tag", "share", "--queues", "3", "--thread-pool-size", "4"]);
    let mode = std::fs::metadata(&socket).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else may connect");
    let mut monitor = Monitor::connect(&socket, Layout { queues: 3, ..Layout::default() }).expect("monitor");
    assert_eq!(&monitor.config(40).expect("configuration")[..6], b"share\0");
    let driver = monitor.driver();
    driver.init().expect("init");
    let (node, fh) = driver.create(ROOT, c"a").expect("create");
    assert_eq!(driver.write(node, fh, 0, b"from the guest"), Ok(14));
    assert_eq!(std::fs::read(share.join("a")).expect("file"), b"from the guest");
    drop(monitor);
    device.end();
    assert!(!socket.exists());
}

#[test]
fn a_read_only_share_refuses_every_change() {
    fusewire_tests::skip_unless!(rustix::process::geteuid().is_root(), "copies of mounts need root");
    let dir = tempfile::tempdir().expect("directory");
    let (share, socket) = (dir.path().join("share"), dir.path().join("socket"));
    std::fs::create_dir(&share).expect("directory");
    std::fs::write(share.join("a"), "content").expect("file");
    let device = Device::start(&socket, &share, &["--tag", "share", "--readonly"]);
    let mut monitor = Monitor::connect(&socket, Layout::default()).expect("monitor");
    let driver = monitor.driver();
    driver.init().expect("init");
    let node = driver.lookup(ROOT, c"a").expect("lookup").nodeid;
    assert_eq!(driver.open(node, 2).err(), Some(Errno::ROFS));
    assert_eq!(driver.create(ROOT, c"b").err(), Some(Errno::ROFS));
    assert_eq!(driver.unlink(ROOT, c"a").err(), Some(Errno::ROFS));
    let fh = driver.open(node, 0).expect("open");
    assert_eq!(driver.read(node, fh, 0, 100).as_deref(), Ok(&b"content"[..]));
    drop(monitor);
    device.end();
}

#[test]
fn capabilities_are_printed_and_a_socket_that_cannot_be_is_named() {
    let done = program(command::binary()).args(["vhost", "--print-capabilities"]).run();
    assert!(done.status.success(), "{done}");
    let json: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    assert_eq!(json["type"], "fs");
    let line = ["vhost", "--socket-path", "/nonexistent/socket", "--shared-dir", "/"];
    let done = program(command::binary()).args(line).run();
    assert_eq!(done.status.code(), Some(1), "{done}");
    assert!(done.stderr.contains("/nonexistent/socket"), "{done}");
}
