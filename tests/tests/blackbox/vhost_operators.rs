//! `fusewire vhost` as those who run it need it: shut in, limited, with ids and names translated.

use super::vhost::{Device, wait};
use fusewire::Errno;
use fusewire_abi::{self as abi, AttrFlags, Opcode};
use fusewire_tests::{command, program::program, skip_unless};
use fusewire_vhost::kit::{Driver, Layout, Monitor};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zerocopy::{FromBytes, IntoBytes};

const ROOT: u64 = 1;

/// A share with a device and a monitor.
struct Shared {
    monitor: Monitor,
    device: Device,
    share: PathBuf,
    _dir: tempfile::TempDir,
}

impl Shared {
    fn new(words: &[&str]) -> Self {
        Self::with(words, |_| {})
    }

    fn with(words: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let (share, socket) = (dir.path().join("share"), dir.path().join("socket"));
        fs::create_dir(&share).expect("directory");
        prepare(&share);
        let device = Device::start(&socket, &share, words);
        let monitor = connect(&socket);
        Self { monitor, device, share, _dir: dir }
    }

    fn driver(&mut self) -> &mut Driver {
        self.monitor.driver()
    }

    /// The process that serves.
    fn inside(&self) -> u32 {
        let outside = self.device.0.id();
        let children = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).expect("proc");
        children.split_whitespace().next().map_or(outside, |child| child.parse().expect("a number"))
    }

    fn end(self) {
        drop(self.monitor);
        self.device.end();
    }
}

fn status(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("proc");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.trim_start_matches(':').trim().to_owned()
}

/// A monitor that is connected. The socket has its name a moment before anybody listens.
fn connect(socket: &Path) -> Monitor {
    let mut monitor = None;
    wait("somebody who listens", || match Monitor::connect(socket, Layout::default()) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => false,
        connected => {
            monitor = Some(connected.expect("monitor"));
            true
        }
    });
    monitor.expect("monitor")
}

/// Uses a share in all the ways that take different system calls. `dir` is where it is outside.
fn use_it(driver: &mut Driver, dir: &Path) {
    driver.init().expect("init");
    let (node, fh) = driver.create(ROOT, c"a").expect("create");
    assert_eq!(driver.write(node, fh, 0, b"content"), Ok(7));
    assert_eq!(driver.read(node, fh, 0, 100).as_deref(), Ok(&b"content"[..]));
    assert_eq!(fs::read(dir.join("a")).expect("file"), b"content");
    let sync = abi::FsyncIn { fh, ..Default::default() };
    driver.request(Opcode::Fsync, node, &sync).expect("fsync");
    let allocate = abi::FallocateIn { fh, offset: 0, length: 1 << 16, mode: 0, ..Default::default() };
    driver.request(Opcode::Fallocate, node, &allocate).expect("fallocate");
    let seek = abi::LseekIn { fh, offset: 0, whence: 3, ..Default::default() };
    driver.request(Opcode::Lseek, node, &seek).expect("lseek");
    driver.call(Opcode::Statfs, node, &[]).expect("statfs");
    let changes = |set: abi::SetattrIn| set;
    for args in [
        changes(abi::SetattrIn { valid: 1, mode: 0o640, ..Default::default() }),
        changes(abi::SetattrIn { valid: 1 << 3, size: 3, ..Default::default() }),
        changes(abi::SetattrIn { valid: 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8, ..Default::default() }),
    ] {
        driver.request(Opcode::Setattr, node, &args).expect("setattr");
    }
    set_xattr(driver, node, c"user.a", b"value").expect("setxattr");
    assert_eq!(list_xattrs(driver, node).expect("listxattr"), b"user.a\0");
    driver.call(Opcode::Removexattr, node, &[c"user.a".to_bytes_with_nul()]).expect("removexattr");
    driver.release(node, fh).expect("release");
    let dir_node = driver.mkdir(ROOT, c"d").expect("mkdir").nodeid;
    driver
        .call(Opcode::Symlink, dir_node, &[c"l".to_bytes_with_nul(), c"../a".to_bytes_with_nul()])
        .expect("symlink");
    let special = abi::MknodIn { mode: 0o010644, ..Default::default() };
    driver.call(Opcode::Mknod, dir_node, &[special.as_bytes(), c"p".to_bytes_with_nul()]).expect("mknod");
    let link = abi::LinkIn { oldnodeid: node };
    driver.call(Opcode::Link, dir_node, &[link.as_bytes(), c"b".to_bytes_with_nul()]).expect("link");
    let rename = abi::RenameIn { newdir: dir_node };
    driver
        .call(Opcode::Rename, ROOT, &[rename.as_bytes(), c"a".to_bytes_with_nul(), c"c".to_bytes_with_nul()])
        .expect("rename");
    let fh = match driver.call(Opcode::Opendir, dir_node, &[abi::OpenIn::default().as_bytes()]) {
        // With a cache that lasts, directories are listed without being opened.
        Err(Errno::NOSYS) => 0,
        bytes => abi::OpenOut::read_from_bytes(&bytes.expect("opendir")).expect("handle").fh,
    };
    assert_eq!(driver.readdir(dir_node, fh).expect("readdir").len(), 6);
    for name in [c"b", c"c", c"l", c"p"] {
        driver.unlink(dir_node, name).expect("unlink");
    }
    driver.call(Opcode::Rmdir, ROOT, &[c"d".to_bytes_with_nul()]).expect("rmdir");
    assert!(driver.lookup(ROOT, c"..").is_err());
    driver.destroy().expect("destroy");
    driver.init().expect("init");
}

fn set_xattr(driver: &mut Driver, node: u64, name: &std::ffi::CStr, value: &[u8]) -> Result<(), Errno> {
    let args = abi::SetxattrIn { size: value.len() as u32, ..Default::default() };
    driver.call(Opcode::Setxattr, node, &[args.as_bytes(), name.to_bytes_with_nul(), value]).map(drop)
}

fn list_xattrs(driver: &mut Driver, node: u64) -> Result<Vec<u8>, Errno> {
    let args = abi::GetxattrIn { size: 4000, ..Default::default() };
    driver.call(Opcode::Listxattr, node, &[args.as_bytes()])
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn by_default_nothing_but_the_directory_is_within_reach() {
    skip_unless!(is_root(), "what a process of another namespace sees is root's to look at");
    for words in [&["--xattr"][..], &["--xattr", "--inode-file-handles", "never", "--tag", "x", "--readonly"]]
    {
        let mut shared = Shared::with(words, |share| fs::write(share.join("seen"), "x").expect("file"));
        let pid = shared.inside();
        assert_ne!(pid, shared.device.0.id(), "the one that was called waits");
        if words.contains(&"--readonly") {
            let driver = shared.driver();
            driver.init().expect("init");
            assert_eq!(driver.create(ROOT, c"a").err(), Some(Errno::ROFS));
        } else {
            let share = shared.share.clone();
            use_it(shared.driver(), &share);
        }
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let mut names: Vec<_> =
            fs::read_dir(&root).expect("root").map(|entry| entry.expect("name").file_name()).collect();
        names.sort();
        assert_eq!(names, ["proc", "share"]);
        assert!(root.join("share/seen").exists());
        // Of all processes it sees itself.
        let numbers = fs::read_dir(root.join("proc")).expect("proc");
        let numbers: Vec<_> =
            numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).collect();
        assert_eq!(numbers, [1]);
        assert!(!root.join("proc/sys").exists());
        let namespace =
            |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("namespace");
        for kind in ["mnt", "net", "ipc", "uts", "pid"] {
            assert_ne!(namespace(&pid.to_string(), kind), namespace("self", kind), "{kind}");
        }
        // chown, dac_override, fowner, fsetid, setgid, setuid, mknod, setfcap; and dac_read_search for handles.
        let handles = if words.contains(&"never") { 0 } else { 1 << 2 };
        let kept = 1u64 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 27 | 1 << 31 | handles;
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
        for task in
            tasks.map(|task| task.expect("task").file_name().to_str().and_then(|task| task.parse().ok()))
        {
            let task = task.expect("a number");
            for key in ["CapPrm", "CapBnd"] {
                assert_eq!(u64::from_str_radix(&status(task, key), 16), Ok(kept), "{key} of {task}");
            }
            assert_eq!((status(task, "Seccomp").as_str(), status(task, "NoNewPrivs").as_str()), ("2", "1"));
        }
        shared.end();
    }
}

#[test]
fn every_sandbox_serves_under_the_list_of_system_calls() {
    skip_unless!(is_root(), "chroot needs root");
    for words in [
        &["--sandbox", "chroot"][..],
        &["--sandbox", "none"],
        &["--sandbox", "none", "--seccomp", "none"],
        &["--inode-file-handles", "never"],
        &["--cache", "always", "--shared-locks", "--posix-acl=auto", "--security-label=auto"],
        &["--cache", "never", "--modcaps=+sys_admin:-mknod"],
    ] {
        let mut shared = Shared::new(&[words, &["--xattr"]].concat());
        let share = shared.share.clone();
        use_it(shared.driver(), &share);
        let pid = shared.inside();
        let filtered = if words.contains(&"none") && words.len() == 4 { "0" } else { "2" };
        assert_eq!(status(pid, "Seccomp"), filtered, "{words:?}");
        if words.contains(&"chroot") {
            assert_eq!(fs::read_link(format!("/proc/{pid}/root")).expect("root"), share);
        }
        let capabilities = u64::from_str_radix(&status(pid, "CapEff"), 16).expect("a number");
        if words.contains(&"--modcaps=+sys_admin:-mknod") {
            assert_eq!((capabilities >> 21 & 1, capabilities >> 27 & 1), (1, 0));
        }
        shared.end();
    }
}

#[test]
fn a_killed_warden_takes_the_device_with_it_and_a_signal_ends_both() {
    let mut shared = Shared::new(&[]);
    shared.driver().init().expect("init");
    let (inside, outside) = (shared.inside(), shared.device.0.id());
    assert_ne!(inside, outside);
    shared.device.0.kill().expect("kill");
    let gone = || !Path::new(&format!("/proc/{inside}")).exists();
    wait("the end of the process that serves", gone);

    let dir = tempfile::tempdir().expect("directory");
    let socket = dir.path().join("socket");
    let device = Device::start(&socket, dir.path(), &[]);
    // Until it serves it may not have come to catch signals.
    let mut monitor = connect(&socket);
    monitor.driver().init().expect("init");
    let outside = rustix::process::Pid::from_raw(device.0.id() as i32).expect("a process");
    rustix::process::kill_process(outside, rustix::process::Signal::TERM).expect("signal");
    device.end();
    assert!(!socket.exists());
}

/// The command line, as another user.
fn as_user(uid: u32, line: &mut Command) -> &mut Command {
    line.uid(uid).gid(uid)
}

#[test]
fn without_root_a_user_namespace_does_or_the_remedy_is_named() {
    skip_unless!(is_root(), "other users are root's to be");
    let dir = tempfile::tempdir().expect("directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
    let (share, socket) = (dir.path().join("share"), dir.path().join("socket"));
    fs::create_dir(&share).expect("directory");
    for path in [dir.path(), &share] {
        std::os::unix::fs::chown(path, Some(1234), Some(1234)).expect("owner");
    }
    // The program itself must be within that user's reach.
    let copy = dir.path().join("fusewire");
    fs::copy(command::binary(), &copy).expect("copy");
    let mut line = Command::new(&copy);
    line.arg("vhost").arg("--socket-path").arg(&socket).arg("--shared-dir").arg(&share).stdin(Stdio::null());
    let mut child = as_user(1234, &mut line).stderr(Stdio::piped()).spawn().expect("fusewire");
    let mut ended = None;
    wait("the socket or the end", || {
        ended = child.try_wait().expect("child");
        ended.is_some()
            || fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()))
                .is_ok_and(|text| !text.is_empty())
    });
    if ended.is_some() {
        let output = child.wait_with_output().expect("output");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("user namespace") && text.contains("--sandbox none"), "{text}");
        return;
    }
    let device = Device(child);
    let mut monitor = connect(&socket);
    let driver = monitor.driver();
    driver.init().expect("init");
    let (node, fh) = driver.create(ROOT, c"a").expect("create");
    assert_eq!(driver.write(node, fh, 0, b"x"), Ok(1));
    assert_eq!(fs::metadata(share.join("a")).expect("file").uid(), 1234, "all belongs to that user");
    drop(monitor);
    device.end();

    let line = ["vhost", "--socket-path"];
    let mut asked = Command::new(&copy);
    asked.args(line).arg(&socket).arg("--shared-dir").arg(&share).args(["--uid-map", ":0:100000:65536:"]);
    let output = as_user(1234, &mut asked).output().expect("fusewire");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("newuidmap"), "{text}");
}

#[test]
fn ids_of_a_user_namespace_are_those_that_are_named() {
    skip_unless!(is_root(), "maps of ids are written by root here");
    let words = ["--uid-map", ":0:100000:1000:", "--gid-map", ":0:100000:1000:"];
    let mut shared = Shared::with(&words, |share| {
        std::os::unix::fs::chown(share, Some(100_000), Some(100_000)).expect("owner");
        // The way there is for everybody.
        fs::set_permissions(share.parent().expect("parent"), fs::Permissions::from_mode(0o755))
            .expect("mode");
    });
    let share = shared.share.clone();
    let driver = shared.driver();
    driver.init().expect("init");
    driver.create(ROOT, c"a").expect("create");
    let made = fs::metadata(share.join("a")).expect("file");
    assert_eq!((made.uid(), made.gid()), (100_000, 100_000));
    let node = driver.lookup(ROOT, c"a").expect("lookup");
    assert_eq!((node.attr.uid, node.attr.gid), (0, 0));
    shared.end();
}

#[test]
fn a_share_out_of_descriptors_says_so_and_works_again() {
    const FILES: usize = 5000;
    let words = ["--rlimit-nofile", "600", "--cache", "never"];
    let mut shared = Shared::with(&words, |share| {
        for i in 0..FILES {
            fs::write(share.join(i.to_string()), i.to_string()).expect("file");
        }
    });
    let driver = shared.driver();
    driver.init().expect("init");
    for round in 0..2 {
        let (mut open, mut refused) = (Vec::new(), 0);
        for i in 0..FILES {
            let name = CString::new(i.to_string()).expect("name");
            // All can be looked up, whatever is open.
            let node = driver.lookup(ROOT, &name).expect("lookup").nodeid;
            match driver.open(node, 2) {
                Ok(fh) => open.push((i, node, fh)),
                Err(Errno::MFILE | Errno::NFILE) => refused += 1,
                Err(error) => panic!("{i}: {error}"),
            }
        }
        assert!(open.len() > 200 && refused > 4000, "round {round}: {} open, {refused} refused", open.len());
        // What needs no open file goes on, and what is open works.
        let (i, node, fh) = open[open.len() / 2];
        assert_eq!(driver.read(node, fh, 0, 100).expect("read"), i.to_string().as_bytes());
        driver.getattr(node).expect("getattr");
        driver.mkdir(ROOT, c"d").expect("mkdir");
        driver.call(Opcode::Rmdir, ROOT, &[c"d".to_bytes_with_nul()]).expect("rmdir");
        for (_, node, fh) in open {
            driver.release(node, fh).expect("release");
        }
    }
    let node = driver.lookup(ROOT, c"4999").expect("lookup").nodeid;
    let fh = driver.open(node, 0).expect("open");
    assert_eq!(driver.read(node, fh, 0, 100).as_deref(), Ok(&b"4999"[..]));
    shared.end();
}

#[test]
fn users_and_groups_are_translated() {
    skip_unless!(is_root(), "files are given away by root");
    let words = [
        "--translate-uid",
        "map:0:100000:1000",
        "--translate-gid",
        "squash-guest:0:777:5000",
        "--translate-uid",
        "forbid-guest:2000:10",
        "--translate-gid",
        "host:777:0:1",
    ];
    let mut shared = Shared::with(&words, |share| {
        std::os::unix::fs::chown(share, Some(100_000), Some(777)).expect("owner");
        fs::write(share.join("old"), "").expect("file");
        std::os::unix::fs::chown(share.join("old"), Some(100_007), Some(8)).expect("owner");
    });
    let share = shared.share.clone();
    let driver = shared.driver();
    driver.init().expect("init");
    let old = driver.lookup(ROOT, c"old").expect("lookup");
    assert_eq!((old.attr.uid, old.attr.gid), (7, 8));
    let (node, _) = driver.create(ROOT, c"new").expect("create");
    let made = fs::metadata(share.join("new")).expect("file");
    assert_eq!((made.uid(), made.gid()), (100_000, 777));
    let attr = driver.getattr(node).expect("getattr");
    assert_eq!((attr.uid, attr.gid), (0, 0));
    let give = |uid, gid| abi::SetattrIn { valid: 1 << 1 | 1 << 2, uid, gid, ..Default::default() };
    driver.request(Opcode::Setattr, node, &give(12, 3000)).expect("chown");
    let made = fs::metadata(share.join("new")).expect("file");
    assert_eq!((made.uid(), made.gid()), (100_012, 777));
    assert_eq!(driver.request(Opcode::Setattr, node, &give(2001, 0)).err(), Some(Errno::PERM));
    shared.end();
    let done = program(command::binary())
        .args(["vhost", "--socket-path", "/nonexistent/s", "--shared-dir", "/", "--posix-acl"])
        .args(["--translate-uid", "map:0:1:1"])
        .run();
    assert_eq!(done.status.code(), Some(2), "{done}");
}

#[test]
fn attributes_have_other_names_in_the_directory() {
    skip_unless!(is_root(), "the namespace trusted is root's");
    let mut shared = Shared::new(&["--xattrmap", ":map::user.virtiofs.:"]);
    let share = shared.share.clone();
    let driver = shared.driver();
    driver.init().expect("init");
    let (node, _) = driver.create(ROOT, c"a").expect("create");
    set_xattr(driver, node, c"trusted.a", b"value").expect("setxattr");
    assert_eq!(list_xattrs(driver, node).expect("listxattr"), b"trusted.a\0");
    let mut value = [0; 16];
    let length =
        rustix::fs::getxattr(share.join("a"), "user.virtiofs.trusted.a", &mut value[..]).expect("getxattr");
    assert_eq!(&value[..length], b"value");
    rustix::fs::setxattr(share.join("a"), "user.hidden", b"x", rustix::fs::XattrFlags::empty())
        .expect("setxattr");
    assert_eq!(list_xattrs(driver, node).expect("listxattr"), b"trusted.a\0");
    // Without --posix-acl there are none.
    let refused = set_xattr(driver, node, c"system.posix_acl_access", b"x");
    assert_eq!(refused, Err(Errno::NOTSUP));
    shared.end();
}

#[test]
fn mounts_inside_are_announced() {
    skip_unless!(is_root(), "mounts are root's");
    let Some(_sandbox) = fusewire_tests::sandbox::enter() else { return };
    for (words, announced) in [(&[][..], true), (&["--no-announce-submounts"][..], false)] {
        let mut shared = Shared::with(words, |share| {
            fs::create_dir(share.join("inner")).expect("directory");
            fusewire_tests::sandbox::mount("tmpfs", "inner", &share.join("inner"), "");
            fs::write(share.join("inner/a"), "x").expect("file");
        });
        let inner = shared.share.join("inner");
        let driver = shared.driver();
        driver.init().expect("init");
        let entry = driver.lookup(ROOT, c"inner").expect("lookup");
        assert_eq!(entry.attr.flags & AttrFlags::SUBMOUNT.bits() != 0, announced);
        assert_eq!(driver.lookup(entry.nodeid, c"a").map(|entry| entry.attr.size), Ok(1));
        rustix::mount::unmount(&inner, rustix::mount::UnmountFlags::DETACH).expect("unmount");
        shared.end();
    }
}

#[test]
fn libvirts_way_of_calling_it_works() {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;
    let dir = tempfile::tempdir().expect("directory");
    let (share, socket) = (dir.path().join("share"), dir.path().join("socket"));
    fs::create_dir(&share).expect("directory");
    let name = dir.path().join("fusewire-virtiofsd");
    std::os::unix::fs::symlink(command::binary(), &name).expect("link");
    let listener = UnixListener::bind(&socket).expect("socket");
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).expect("inherited");
    let source = format!("source={},cache=always,xattr", share.display());
    let mut line = Command::new(&name);
    line.arg(format!("--fd={}", listener.as_raw_fd())).args(["-o", &source, "--syslog"]);
    let device = Device(line.stdin(Stdio::null()).spawn().expect("fusewire"));
    drop(listener);
    let mut monitor = connect(&socket);
    use_it(monitor.driver(), &share);
    drop(monitor);
    device.end();
    let done = program(&name).args(["--print-capabilities"]).run();
    let json: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    assert_eq!(json["type"], "fs");
}
