//! A daemon that takes the place of another one while its guests are at work: `fusewire vhost --upgrade`.

use super::vhost::{Device, wait};
use fusewire_tests::{command, program::program, skip_unless};
use fusewire_vhost::kit::{Layout, Maps, Monitor};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const ROOT: u64 = 1;

fn layout() -> Layout {
    Layout { window: Maps::Nothing, ..Layout::default() }
}

/// A place with a directory to share.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        fs::create_dir(dir.path().join("share")).expect("directory");
        Self { dir }
    }

    fn share(&self) -> PathBuf {
        self.dir.path().join("share")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn beside(&self, end: &str) -> PathBuf {
        self.dir.path().join(format!("socket.{end}"))
    }

    /// The process that serves, as the file beside the socket says.
    fn pid(&self) -> u32 {
        fs::read_to_string(self.beside("pid")).expect("the file").trim().parse().expect("a number")
    }

    fn start(&self, words: &[&str]) -> Device {
        Device::start(&self.socket(), &self.share(), words)
    }

    /// The daemon that is to take the place of the other.
    fn upgrade(&self, words: &[&str]) -> Child {
        let mut line = Command::new(command::binary());
        line.args(["vhost", "--upgrade", "--socket-path"]).arg(self.socket());
        line.arg("--shared-dir").arg(self.share()).args(words);
        line.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("fusewire")
    }
}

/// What a process that was not to go on has said.
fn refused(mut child: Child) -> String {
    let mut text = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut text).expect("text");
    assert_eq!(child.wait().expect("child").code(), Some(1), "{text}");
    text
}

#[test]
fn a_guest_notices_nothing_of_one_daemon_after_the_other() {
    skip_unless!(rustix::process::geteuid().is_root(), "file handles and sandboxes need root");
    let all: [&[&str]; 5] = [
        &["--sandbox", "none"],
        &["--sandbox", "namespace"],
        &["--sandbox", "chroot"],
        &["--sandbox", "namespace", "--resume"],
        &["--sandbox", "none", "--inode-file-handles", "never"],
    ];
    for words in all {
        let words = [words, &["--queues", "1", "--tag", "share"]].concat();
        let place = Place::new();
        let mut device = place.start(&words);
        let mut monitor = Monitor::connect(&place.socket(), layout()).expect("monitor");
        let driver = monitor.driver();
        driver.init().expect("init");
        let sub = driver.mkdir(ROOT, c"sub").expect("mkdir").nodeid;
        let (node, fh) = driver.create(sub, c"a").expect("create");
        let (gone, gone_fh) = driver.create(ROOT, c"gone").expect("create");
        assert_eq!(driver.write(gone, gone_fh, 0, b"still there"), Ok(11));
        driver.unlink(ROOT, c"gone").expect("unlink");
        for round in 0..3u64 {
            let next = place.upgrade(&words);
            let pid = next.id();
            // The one that there was ends well, by itself.
            std::mem::replace(&mut device, Device(next)).end();
            let driver = monitor.driver();
            assert_eq!(driver.write(node, fh, round, b"x"), Ok(1), "{words:?} {round}");
            assert_eq!(driver.read(gone, gone_fh, 0, 100).as_deref(), Ok(&b"still there"[..]));
            assert_eq!(driver.lookup(sub, c"a").map(|entry| entry.nodeid), Ok(node));
            assert_eq!(place.pid(), pid, "{words:?}");
            assert!(place.socket().exists() && place.beside("upgrade").exists());
            assert_eq!(&monitor.config(40).expect("configuration")[..6], b"share\0");
        }
        assert_eq!(fs::read(place.share().join("sub/a")).expect("file"), b"xxx");
        if words.contains(&"--resume") {
            // What is kept is up to date: the daemon is killed, and the monitor connects again.
            kill_process(Pid::from_child(&device.0), Signal::KILL).expect("signal");
            _ = device.0.wait();
            let words = [&words[..], &["--cache", "auto"]].concat();
            device = Device::start_anew(&place.socket(), &place.share(), &words);
            let stream = UnixStream::connect(place.socket()).expect("connect");
            monitor.reconnect(stream, true).expect("reconnect");
            assert_eq!(monitor.driver().lookup(sub, c"a").map(|entry| entry.nodeid), Ok(node));
            assert_eq!(monitor.driver().write(node, fh, 3, b"y"), Ok(1));
        }
        drop(monitor);
        // It is as any daemon: it ends with its guest, and what it has made goes.
        device.end();
        for left in [place.socket(), place.beside("pid"), place.beside("upgrade")] {
            assert!(!left.exists(), "{words:?}: {}", left.display());
        }
    }
}

#[test]
fn a_guest_that_is_at_work_all_the_time_loses_nothing_and_has_nothing_done_twice() {
    let place = Place::new();
    let words = ["--sandbox", "none", "--queues", "1", "--tag", "share"];
    let mut device = place.start(&words);
    let mut monitor = Monitor::connect(&place.socket(), layout()).expect("monitor");
    monitor.driver().init().expect("init");
    let enough = Arc::new(AtomicBool::new(false));
    let guest = std::thread::spawn({
        let enough = enough.clone();
        move || {
            let mut made = 0;
            while !enough.load(Ordering::Relaxed) {
                // A second time it would be EEXIST, and the file would have what was written twice.
                let name = std::ffi::CString::new(format!("f{made}")).expect("name");
                let (node, fh) = monitor.driver().create(ROOT, &name).expect("create");
                assert_eq!(
                    monitor.driver().write(node, fh, 0, name.to_bytes()),
                    Ok(name.to_bytes().len() as u32)
                );
                monitor.driver().release(node, fh).expect("release");
                monitor.hiprio().forget(node, 1).expect("forget");
                made += 1;
            }
            (monitor, made)
        }
    });
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(100));
        let next = place.upgrade(&words);
        std::mem::replace(&mut device, Device(next)).end();
    }
    enough.store(true, Ordering::Relaxed);
    let (monitor, made) = guest.join().expect("no panic");
    let names: Vec<_> =
        fs::read_dir(place.share()).expect("directory").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), made);
    for name in names {
        assert_eq!(fs::read(place.share().join(&name)).expect("file"), name.as_encoded_bytes());
    }
    drop(monitor);
    device.end();
}

/// A letter of an upgrade.
fn letter(kind: u32, bytes: &[u8]) -> Vec<u8> {
    let head = [u64::from_le_bytes(*b"fwupgr\0\x01"), kind.into(), bytes.len() as u64];
    [&head.map(u64::to_le_bytes).concat()[..], bytes].concat()
}

#[test]
fn whatever_goes_wrong_the_daemon_that_there_is_goes_on() {
    skip_unless!(rustix::process::geteuid().is_root(), "sandboxes need root");
    for sandbox in ["none", "namespace"] {
        let place = Place::new();
        let words = ["--sandbox", sandbox, "--queues", "2", "--tag", "share"];
        let device = place.start(&words);
        let mut monitor =
            Monitor::connect(&place.socket(), Layout { queues: 2, ..layout() }).expect("monitor");
        monitor.driver().init().expect("init");
        let (node, fh) = monitor.driver().create(ROOT, c"a").expect("create");
        let is_served = |monitor: &mut Monitor| {
            assert_eq!(monitor.driver().write(node, fh, 0, b"x"), Ok(1), "{sandbox}");
            assert_eq!(place.pid(), device.0.id());
            assert!(place.socket().exists() && place.beside("upgrade").exists());
        };
        // A daemon that is not like it.
        let told = refused(place.upgrade(&["--sandbox", sandbox, "--queues", "3", "--tag", "share"]));
        assert!(told.contains("3 request queues here, and 2 there") && told.contains("try:"), "{told}");
        is_served(&mut monitor);
        let told =
            refused(place.upgrade(&["--sandbox", sandbox, "--queues", "2", "--tag", "share", "--posix-acl"]));
        assert!(told.contains("options"), "{told}");
        is_served(&mut monitor);
        let elsewhere = tempfile::tempdir().expect("directory");
        let mut line = Command::new(command::binary());
        line.args(["vhost", "--upgrade", "--socket-path"]).arg(place.socket()).arg("--shared-dir");
        line.arg(elsewhere.path()).args(words).stdin(Stdio::null()).stderr(Stdio::piped());
        let told = refused(line.spawn().expect("fusewire"));
        assert!(told.contains("another directory"), "{told}");
        is_served(&mut monitor);
        // One that serves elsewhere, too.
        let mut line = Command::new(command::binary());
        line.args(["vhost", "--upgrade", "--socket-path"]).arg(place.socket()).arg("--socket-path");
        line.arg(place.beside("other"))
            .arg("--shared-dir")
            .arg(place.share())
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let told = refused(line.spawn().expect("fusewire"));
        assert!(told.contains("it serves at"), "{told}");
        is_served(&mut monitor);
        // One that ends when the guest has stopped already, and things that are no daemon at all.
        let hello = [&7u32.to_le_bytes()[..], place.socket().as_os_str().as_encoded_bytes(), b"\0"].concat();
        for say in [
            vec![letter(1, &hello), letter(3, b"")],
            vec![letter(1, &hello)],
            vec![letter(1, &hello), letter(5, b"")],
            vec![letter(3, b"")],
            vec![b"GET / HTTP/1.0\r\n\r\nxxxxxxxxxxxxxxxx".to_vec()],
            vec![],
        ] {
            let mut stream = UnixStream::connect(place.beside("upgrade")).expect("connect");
            for letter in &say {
                stream.write_all(letter).expect("written");
                std::thread::sleep(Duration::from_millis(50));
            }
            if say.len() == 2 {
                // Stopped, or refused; nobody is ready.
                std::thread::sleep(Duration::from_millis(100));
            }
            drop(stream);
            is_served(&mut monitor);
        }
        // And it can be upgraded all the same.
        let next = place.upgrade(&words);
        device.end();
        assert_eq!(monitor.driver().write(node, fh, 0, b"y"), Ok(1));
        drop(monitor);
        Device(next).end();
    }
}

#[test]
fn where_no_daemon_is_there_is_nothing_to_take() {
    let place = Place::new();
    let told = refused(place.upgrade(&["--sandbox", "none"]));
    assert!(told.contains("socket.upgrade") && told.contains("without --upgrade"), "{told}");
    let line =
        ["vhost", "--upgrade", "--dax-window", "2M", "--socket-path", "/tmp/x", "--shared-dir", "/tmp"];
    let done = program(command::binary()).args(line).run();
    assert_eq!(done.status.code(), Some(2), "{done}");
}

#[test]
fn a_daemon_that_nobody_is_connected_to_is_replaced_too() {
    let place = Place::new();
    let words = ["--sandbox", "none", "--queues", "1", "--tag", "share"];
    let device = place.start(&words);
    let next = place.upgrade(&words);
    device.end();
    let mut monitor = Monitor::connect(&place.socket(), layout()).expect("monitor");
    monitor.driver().init().expect("init");
    drop(monitor);
    Device(next).end();
}

const MANY: &str = "\
[defaults]
queues = 1
[shares.a]
shared-dir = '{dir}/a'
[shares.b]
shared-dir = '{dir}/b'
[guests.one]
socket-path = '{dir}/one.sock'
share = 'a'
[guests.two]
socket-path = '{dir}/two.sock'
share = 'b'
[guests.three]
socket-path = '{dir}/three.sock'
share = 'a'
";

fn many(file: &Path, words: &[&str]) -> Device {
    let mut line = Command::new(command::binary());
    line.args(["vhost", "--config"]).arg(file).args(words).stdin(Stdio::null());
    Device(line.spawn().expect("fusewire"))
}

#[test]
fn many_guests_are_taken_over_at_once() {
    skip_unless!(rustix::process::geteuid().is_root(), "sandboxes need root");
    for sandbox in ["none", "namespace", "chroot"] {
        let dir = tempfile::tempdir().expect("directory");
        for tree in ["a", "b"] {
            fs::create_dir(dir.path().join(tree)).expect("directory");
        }
        let file = dir.path().join("vhost.toml");
        fs::write(&file, MANY.replace("{dir}", &dir.path().display().to_string())).expect("file");
        let mut daemon = many(&file, &["--sandbox", sandbox]);
        let socket = |name: &str| dir.path().join(format!("{name}.sock"));
        wait("the sockets", || ["one", "two", "three"].iter().all(|name| socket(name).exists()));
        let guest = |name: &str| {
            let mut monitor = Monitor::connect(&socket(name), layout()).expect("monitor");
            monitor.driver().init().expect("init");
            monitor
        };
        let (mut one, mut two) = (guest("one"), guest("two"));
        let mut files =
            [&mut one, &mut two].map(|guest| guest.driver().create(ROOT, c"file").expect("create"));
        for _ in 0..2 {
            let next = many(&file, &["--sandbox", sandbox, "--upgrade"]);
            std::mem::replace(&mut daemon, next).end();
            for (guest, (node, fh)) in [&mut one, &mut two].into_iter().zip(files) {
                assert_eq!(guest.driver().write(node, fh, 0, b"x"), Ok(1), "{sandbox}");
            }
            // Others come, and come again.
            let mut three = guest("three");
            three.driver().lookup(ROOT, c"file").expect("lookup");
            drop(three);
            drop(two);
            two = guest("two");
            let node = two.driver().lookup(ROOT, c"file").expect("lookup").nodeid;
            files[1] = (node, two.driver().open(node, 2).expect("open"));
        }
        drop((one, two));
        let pid = Pid::from_child(&daemon.0);
        kill_process(pid, Signal::TERM).expect("signal");
        daemon.end();
        assert!(["one", "two", "three"].iter().all(|name| !socket(name).exists()), "{sandbox}");
        assert!(test_kill_process(pid).is_err());
    }
}

#[test]
fn without_root_a_program_that_was_installed_anew_takes_the_guest() {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    skip_unless!(rustix::process::geteuid().is_root(), "other users are root's to be");
    let place = Place::new();
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
    for path in [place.dir.path(), &place.share()] {
        chown(path, Some(1234), Some(1234)).expect("owner");
    }
    let program = place.dir.path().join("fusewire");
    let install = || {
        // As packages do: the file of the program that runs is gone.
        let early = place.dir.path().join("new");
        fs::copy(command::binary(), &early).expect("copy");
        fs::rename(&early, &program).expect("rename");
    };
    let start = |word: &[&str]| {
        let mut line = Command::new(&program);
        line.arg("vhost")
            .args(word)
            .arg("--socket-path")
            .arg(place.socket())
            .arg("--shared-dir")
            .arg(place.share());
        line.args(["--queues", "1", "--tag", "share"]).stdin(Stdio::null()).uid(1234).gid(1234);
        line.spawn().expect("fusewire")
    };
    install();
    let mut child = start(&[]);
    let mut ended = None;
    wait("the socket or the end", || {
        ended = child.try_wait().expect("child");
        ended.is_some() || place.beside("upgrade").exists()
    });
    skip_unless!(ended.is_none(), "there are no user namespaces for this user");
    let mut device = Device(child);
    let mut stream = None;
    wait("the daemon", || {
        stream = UnixStream::connect(place.socket()).ok();
        stream.is_some()
    });
    let mut monitor = Monitor::start(stream.expect("a connection"), layout()).expect("monitor");
    let driver = monitor.driver();
    driver.init().expect("init");
    let sub = driver.mkdir(ROOT, c"sub").expect("mkdir").nodeid;
    let (node, fh) = driver.create(sub, c"a").expect("create");
    let (gone, gone_fh) = driver.create(sub, c"gone").expect("create");
    driver.unlink(sub, c"gone").expect("unlink");
    // Known by its place alone.
    let (closed, closed_fh) = driver.create(sub, c"closed").expect("create");
    driver.release(closed, closed_fh).expect("release");
    for round in 0..3u64 {
        install();
        let next = Device(start(&["--upgrade"]));
        std::mem::replace(&mut device, next).end();
        let driver = monitor.driver();
        assert_eq!(driver.write(node, fh, round, b"x"), Ok(1), "{round}");
        assert_eq!(driver.write(gone, gone_fh, round, b"x"), Ok(1));
        assert_eq!(driver.getattr(gone).map(|attr| (attr.size, attr.nlink)), Ok((round + 1, 0)));
        assert_eq!(driver.lookup(sub, c"a").map(|entry| entry.nodeid), Ok(node));
        let fh = driver.open(closed, 2).expect("open");
        driver.release(closed, fh).expect("release");
        assert_eq!(driver.lookup(sub, c"closed").map(|entry| entry.nodeid), Ok(closed));
    }
    drop(monitor);
    device.end();
}

#[test]
fn a_daemon_for_one_guest_is_not_replaced_by_one_for_guests_that_come_again() {
    let place = Place::new();
    let words = ["--sandbox", "none", "--queues", "1", "--tag", "share"];
    let device = place.start(&words);
    let mut monitor = Monitor::connect(&place.socket(), layout()).expect("monitor");
    monitor.driver().init().expect("init");
    let (share, socket) = (place.share(), place.socket());
    let text = format!(
        "[shares.a]\nshared-dir = '{}'\ntag = 'share'\n[guests.a]\nsocket-path = '{}'\nshare = 'a'\nqueues = 1\n",
        share.display(),
        socket.display()
    );
    let file = place.dir.path().join("vhost.toml");
    fs::write(&file, text).expect("file");
    let mut line = Command::new(command::binary());
    line.args(["vhost", "--upgrade", "--sandbox", "none", "--config"]).arg(&file);
    let told = refused(line.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("fusewire"));
    assert!(told.contains("does not listen") && told.contains("without --config"), "{told}");
    monitor.driver().create(ROOT, c"a").expect("it is served");
    assert!(socket.exists());
    drop(monitor);
    device.end();
}
