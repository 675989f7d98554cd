//! `--poll` of a device: on the command line and for each guest of a file, inside the sandbox.

use super::vhost::{Device, wait};
use fusewire_tests::{command, program::program};
use fusewire_vhost::kit::{Driver, Layout, Monitor};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const ROOT: u64 = 1;

fn mounted(socket: &Path) -> Monitor {
    let mut monitor = None;
    wait("somebody who listens", || {
        monitor = Monitor::connect(socket, Layout::default()).ok();
        monitor.is_some()
    });
    let mut monitor = monitor.expect("monitor");
    monitor.driver().init().expect("init");
    monitor
}

/// How often the device wants to be told of requests that come one after the other, with some time between.
fn kicks(driver: &mut Driver) -> u64 {
    let before = driver.ring.kicks;
    for _ in 0..300 {
        std::thread::sleep(Duration::from_micros(100));
        driver.getattr(ROOT).expect("getattr");
    }
    driver.ring.kicks - before
}

#[test]
fn a_guest_need_not_tell_of_requests_for_as_long_as_is_said() {
    let kicks = |poll: &str| {
        let dir = tempfile::tempdir().expect("directory");
        let socket = dir.path().join("socket");
        let device = Device::start(&socket, dir.path(), &["--queues", "1", "--tag", "t", "--poll", poll]);
        let mut monitor = mounted(&socket);
        let kicks = kicks(monitor.driver());
        drop(monitor);
        device.end();
        kicks
    };
    let (asleep, polled) = (kicks("off"), kicks("fixed:1000"));
    assert!(polled < asleep / 4 * 3, "{polled} kicks polled, {asleep} asleep");
    let line = ["vhost", "--socket-path", "/nonexistent/s", "--shared-dir", "/", "--poll"];
    for (poll, words) in [("on", "off, auto, or fixed:US"), ("fixed:0", "from 1 to 1000 microseconds")] {
        let done = program(command::binary()).args(line).arg(poll).run();
        assert_eq!(done.status.code(), Some(2), "{done}");
        assert!(done.stderr.contains(words), "{done}");
    }
}

/// A daemon of two guests, one of which is polled.
#[test]
fn each_guest_of_a_file_is_waited_for_in_its_own_way() {
    let dir = tempfile::tempdir().expect("directory");
    let (share, file) = (dir.path().join("share"), dir.path().join("vhost.toml"));
    fs::create_dir(&share).expect("directory");
    let path = dir.path().display();
    let text = format!(
        "[defaults]\nqueues = 1\npoll = 'fixed:1000'\n[shares.a]\nshared-dir = '{path}/share'\n[guests.one]\nsocket-path = '{path}/one'\n\
         share = 'a'\npoll = 'off'\n[guests.two]\nsocket-path = '{path}/two'\nshare = 'a'\n"
    );
    fs::write(&file, text).expect("file");
    let mut line = Command::new(command::binary());
    let child = line.args(["vhost", "--config"]).arg(&file).stdin(Stdio::null()).spawn().expect("fusewire");
    let daemon = Device(child);
    let [mut asleep, mut polled] = ["one", "two"].map(|name| mounted(&dir.path().join(name)));
    let (asleep, polled) = (kicks(asleep.driver()), kicks(polled.driver()));
    assert!(polled < asleep / 4 * 3, "{polled} kicks polled, {asleep} asleep");
    drop(daemon);
}

#[test]
fn how_busy_the_machine_is_can_be_seen_from_inside() {
    let dir = tempfile::tempdir().expect("directory");
    let (share, socket, log) = (dir.path().join("share"), dir.path().join("socket"), dir.path().join("log"));
    fs::create_dir(&share).expect("directory");
    let mut line = Command::new(command::binary());
    line.args(["vhost", "-vv", "--poll", "auto", "--queues", "1", "--tag", "t", "--socket-path"]);
    line.arg(&socket).arg("--shared-dir").arg(&share).stdin(Stdio::null());
    let child = line.stderr(fs::File::create(&log).expect("log")).spawn().expect("fusewire");
    let device = Device(child);
    let mut monitor = mounted(&socket);
    let said = || fs::read_to_string(&log).expect("log");
    // The governor is fed with what the system calls allow.
    wait("a decision", || {
        (0..500).for_each(|_| _ = monitor.driver().getattr(ROOT).expect("getattr"));
        said().contains("how a thread waits")
    });
    assert!(!said().contains("cannot be seen"), "{}", said());
    drop(monitor);
    device.end();
}
