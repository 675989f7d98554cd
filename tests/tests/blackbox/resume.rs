//! A daemon that is replaced while its guest stays: `fusewire vhost --resume`.

use super::vhost::{Device, wait};
use fusewire_vhost::kit::{Layout, Maps, Monitor};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::net::UnixStream;
use std::path::Path;

const ROOT: u64 = 1;

fn layout() -> Layout {
    Layout { window: Maps::Nothing, ..Layout::default() }
}

fn connect(socket: &Path) -> UnixStream {
    let mut stream = None;
    wait("the daemon", || {
        stream = UnixStream::connect(socket).ok();
        stream.is_some()
    });
    stream.expect("a connection")
}

/// Ends a daemon with a signal, and waits until it and whatever it has started are gone.
fn end(mut device: Device, signal: Signal) {
    let pid = Pid::from_child(&device.0);
    kill_process(pid, signal).expect("signal");
    _ = device.0.wait();
}

#[test]
fn a_guest_goes_on_with_a_daemon_that_takes_the_place_of_its_own() {
    fusewire_tests::skip_unless!(rustix::process::geteuid().is_root(), "file handles need root");
    for (sandbox, signal) in [
        ("none", Signal::KILL),
        ("none", Signal::TERM),
        ("namespace", Signal::KILL),
        ("namespace", Signal::TERM),
    ] {
        let dir = tempfile::tempdir().expect("directory");
        let (share, socket) = (dir.path().join("share"), dir.path().join("socket"));
        std::fs::create_dir(&share).expect("directory");
        let words = ["--resume", "--sandbox", sandbox, "--queues", "1", "--tag", "share"];
        let device = Device::start(&socket, &share, &words);
        let mut monitor = Monitor::start(connect(&socket), layout()).expect("monitor");
        let driver = monitor.driver();
        driver.init().expect("init");
        let sub = driver.mkdir(ROOT, c"sub").expect("mkdir").nodeid;
        let (node, fh) = driver.create(sub, c"a").expect("create");
        assert_eq!(driver.write(node, fh, 0, b"before"), Ok(6));
        end(device, signal);
        _ = std::fs::remove_file(&socket);
        // Nobody serves it meanwhile.
        let frame = monitor.driver().send_read(node, fh, 0, 100);
        let device = Device::start(&socket, &share, &words);
        monitor.reconnect(connect(&socket), true).expect("reconnect");
        let reply = monitor.driver().receive(std::time::Duration::from_secs(10)).expect("an answer");
        assert_eq!(reply.frame, frame);
        assert_eq!(monitor.driver().data_of(reply).as_deref(), Ok(&b"before"[..]), "{sandbox} {signal:?}");
        let driver = monitor.driver();
        assert_eq!(driver.lookup(sub, c"a").map(|entry| entry.nodeid), Ok(node));
        assert_eq!(driver.write(node, fh, 6, b" and after"), Ok(10));
        assert_eq!(std::fs::read(share.join("sub/a")).expect("file"), b"before and after");
        drop(monitor);
        device.end();
        // Whoever comes next is another guest.
        let device = Device::start(&socket, &share, &words);
        let mut monitor = Monitor::start(connect(&socket), layout()).expect("monitor");
        assert!(monitor.driver().getattr(node).is_err());
        monitor.driver().init().expect("init");
        drop(monitor);
        device.end();
    }
}

#[test]
fn a_state_file_that_others_could_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("directory");
    let state = dir.path().join("socket.state");
    std::fs::write(&state, "").expect("file");
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o666)).expect("mode");
    let socket = dir.path().join("socket");
    let words =
        ["vhost", "--resume", "--socket-path", socket.to_str().expect("path"), "--shared-dir", "/tmp"];
    let done = fusewire_tests::program::program(fusewire_tests::command::binary()).args(words).run();
    assert!(!done.status.success());
    assert!(done.stderr.contains("others could write to it"), "{done}");
}
