//! `fusewire vhost --config`: many guests and trees in one process, and what each may have of it.

use super::vhost::wait;
use fusewire::Errno;
use fusewire_tests::{command, program::program, skip_unless};
use fusewire_vhost::kit::{Layout, Maps, Monitor, ring::Descriptor};
use std::fmt::Write;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROOT: u64 = 1;

/// A daemon with a file, and trees.
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Daemon {
    /// `{dir}` in the text becomes the directory, which has trees `a` and `b`.
    fn start(text: &str, words: &[&str]) -> Self {
        Self::limited(text, words, None)
    }

    fn limited(text: &str, words: &[&str], descriptors: Option<u64>) -> Self {
        let dir = prepare(text);
        let mut line = Command::new(command::binary());
        line.args(["vhost", "--config"]).arg(dir.path().join("vhost.toml")).args(words).stdin(Stdio::null());
        if let Some(most) = descriptors {
            line = limit(line, most);
        }
        let child = line.spawn().expect("fusewire");
        let daemon = Self { child, dir };
        let sockets = text.matches("socket-path").count();
        wait("the sockets", || daemon.sockets() == sockets);
        daemon
    }

    fn sockets(&self) -> usize {
        let names = fs::read_dir(self.dir.path()).expect("directory").flatten();
        names.filter(|name| name.file_name().to_string_lossy().ends_with(".sock")).count()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A guest that has mounted its share.
    fn guest(&self, name: &str) -> Monitor {
        let layout = Layout { data: 4096, depth: 8, size: 64, window: Maps::Nothing, ..Layout::default() };
        self.guest_as(name, layout)
    }

    fn guest_as(&self, name: &str, layout: Layout) -> Monitor {
        let mut monitor = Monitor::connect(&self.path(&format!("{name}.sock")), layout).expect("monitor");
        monitor.driver().init().expect("init");
        monitor
    }

    /// The process that serves.
    fn inside(&self) -> u32 {
        let outside = self.child.id();
        let children = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).expect("proc");
        children.split_whitespace().next().map_or(outside, |child| child.parse().expect("a number"))
    }

    /// What the process has of something, as `/proc/PID/status` says.
    fn status(&self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.inside())).expect("proc");
        let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the line");
        line.trim_start_matches(':').split_whitespace().next().expect("a number").parse().expect("a number")
    }

    fn descriptors(&self) -> u64 {
        fs::read_dir(format!("/proc/{}/fd", self.inside())).expect("proc").count() as u64
    }

    /// SIGTERM ends it well, and the sockets go.
    fn end(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal");
        wait("the end of the daemon", || self.child.try_wait().expect("child").is_some());
        assert!(self.child.wait().expect("child").success());
        assert_eq!(self.sockets(), 0);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A directory with two trees and the file.
fn prepare(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("directory");
    for tree in ["a", "b"] {
        fs::create_dir(dir.path().join(tree)).expect("directory");
        fs::write(dir.path().join(tree).join("file"), tree).expect("file");
    }
    let text = text.replace("{dir}", &dir.path().display().to_string());
    fs::write(dir.path().join("vhost.toml"), text).expect("file");
    dir
}

/// The same with so many descriptors for this program and those that it starts.
fn limit(line: Command, most: u64) -> Command {
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("ulimit -n {most}; exec \"$0\" \"$@\"")).arg(line.get_program());
    limited.args(line.get_args()).stdin(Stdio::null()).process_group(0);
    limited
}

const TWO: &str = "\
[defaults]
queues = 1
[shares.a]
shared-dir = '{dir}/a'
[shares.b]
shared-dir = '{dir}/b'
readonly = true
tag = 'second'
[guests.one]
socket-path = '{dir}/one.sock'
share = 'a'
[guests.two]
socket-path = '{dir}/two.sock'
share = 'b'
";

/// Two guests of one tree.
fn pair(one: &str) -> String {
    format!(
        "[defaults]\nqueues = 1\n[shares.a]\nshared-dir = '{{dir}}/a'\n[guests.one]\nsocket-path = '{{dir}}/one.sock'\n\
         share = 'a'\n{one}\n[guests.two]\nsocket-path = '{{dir}}/two.sock'\nshare = 'a'\n"
    )
}

#[test]
fn guests_have_their_trees_and_come_and_go() {
    skip_unless!(rustix::process::geteuid().is_root(), "copies of mounts need root");
    for sandbox in ["namespace", "chroot", "none"] {
        let daemon = Daemon::start(TWO, &["--sandbox", sandbox]);
        let (mut one, mut two) = (daemon.guest("one"), daemon.guest("two"));
        for (monitor, content) in [(&mut one, b"a"), (&mut two, b"b")] {
            let driver = monitor.driver();
            let node = driver.lookup(ROOT, c"file").expect("lookup").nodeid;
            let fh = driver.open(node, 0).expect("open");
            assert_eq!(driver.read(node, fh, 0, 10).as_deref(), Ok(&content[..]), "{sandbox}");
        }
        assert_eq!(&two.config(40).expect("configuration")[..7], b"second\0");
        assert_eq!(two.driver().create(ROOT, c"new").err(), Some(Errno::ROFS), "{sandbox}");
        one.driver().create(ROOT, c"new").expect("create");
        assert!(daemon.path("a/new").exists());
        // One that goes leaves the other, and can come again.
        for _ in 0..3 {
            drop(one);
            two.driver().getattr(ROOT).expect("getattr");
            one = daemon.guest("one");
            one.driver().lookup(ROOT, c"new").expect("lookup");
        }
        drop((one, two));
        daemon.end();
    }
}

#[test]
fn what_one_guest_does_wrong_is_not_the_others_affair() {
    let daemon = Daemon::start(&pair("descriptors = 300"), &["--sandbox", "none"]);
    let (mut bad, mut good) = (daemon.guest("one"), daemon.guest("two"));
    let node = good.driver().lookup(ROOT, c"file").expect("lookup").nodeid;
    let fh = good.driver().open(node, 0).expect("open");
    let mut is_served = || {
        let driver = good.driver();
        let begin = Instant::now();
        assert_eq!(driver.read(node, fh, 0, 10).as_deref(), Ok(&b"a"[..]));
        let (new, new_fh) = driver.create(ROOT, c"of the other").expect("create");
        assert_eq!(driver.write(new, new_fh, 0, b"x"), Ok(1));
        driver.unlink(ROOT, c"of the other").expect("unlink");
        assert!(begin.elapsed() < Duration::from_secs(5));
    };
    is_served();
    // It opens what it can.
    let mut open = Vec::new();
    let driver = bad.driver();
    let error = loop {
        match driver.create(ROOT, &std::ffi::CString::new(format!("f{}", open.len())).expect("name")) {
            Ok(file) => open.push(file),
            Err(error) => break error,
        }
        assert!(open.len() < 300, "more open files than descriptors");
    };
    assert!(error == Errno::MFILE || error == Errno::NFILE, "{error}");
    assert!(open.len() > 100, "{} files", open.len());
    for &(node, fh) in &open {
        assert_eq!(driver.write(node, fh, 0, b"data"), Ok(4), "what is open goes on working");
    }
    is_served();
    // A flood, with nobody who takes the answers.
    while driver.has_room() {
        driver.send(fusewire_abi::Opcode::Statfs as u32, ROOT, &[], (0, 0));
    }
    is_served();
    // Garbage in its rings: its queue is stopped.
    for index in 0..8 {
        driver.ring.describe(index, Descriptor::new(u64::MAX - 7, u32::MAX, 1, index));
    }
    driver.ring.publish(30_000);
    _ = driver.ring.kick.write(1);
    is_served();
    // It breaks the protocol, and off, and comes again.
    drop(bad);
    for _ in 0..2 {
        let mut stream = std::os::unix::net::UnixStream::connect(daemon.path("one.sock")).expect("connect");
        std::io::Write::write_all(&mut stream, &[0xff; 400]).expect("garbage");
        is_served();
    }
    let mut again = daemon.guest("one");
    again.driver().create(ROOT, c"again").expect("the descriptors are free again");
    is_served();
    drop((again, good));
    daemon.end();
}

#[test]
fn a_guest_at_its_budget_of_memory_has_what_it_knows() {
    let daemon = Daemon::start(&pair("memory = '16M'\nthreads = 6"), &["--sandbox", "none"]);
    let names: Vec<_> = (0..30_000).map(|number| format!("{number:0>200}")).collect();
    for name in &names {
        fs::write(daemon.path("a").join(name), "").expect("file");
    }
    let (mut bad, mut good) = (daemon.guest("one"), daemon.guest("two"));
    let before = daemon.status("VmRSS");
    let mut known = Vec::new();
    for name in &names {
        match bad.driver().lookup(ROOT, &std::ffi::CString::new(name.as_str()).expect("name")) {
            Ok(entry) => known.push(entry.nodeid),
            Err(error) => {
                assert_eq!(error, Errno::NOMEM);
                break;
            }
        }
    }
    assert!(known.len() > 5000 && known.len() < names.len(), "{} files", known.len());
    let grown = daemon.status("VmRSS").saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB for {} files", known.len());
    for &node in known.iter().step_by(997) {
        bad.driver().getattr(node).expect("what is known");
    }
    assert_eq!(bad.driver().create(ROOT, c"new").err(), Some(Errno::NOMEM));
    assert!(!daemon.path("a/new").exists());
    good.driver()
        .lookup(ROOT, &std::ffi::CString::new(&**names.last().expect("a name")).expect("name"))
        .expect("others");
    good.driver().create(ROOT, c"new").expect("others");
    drop((bad, good));
    daemon.end();
}

#[test]
fn what_is_wrong_is_told_before_anybody_can_connect() {
    let cases = [
        (TWO.replace("share = 'b'", "share = 'c'"), "vhost.toml:14:9: there is no share c"),
        (TWO.replace("two.sock", "one.sock"), "vhost.toml:13:15: one and two have the same socket"),
        (TWO.replace("{dir}/b'", "{dir}/a/..'"), "inside each other"),
        (TWO.replace("{dir}/b'", "{dir}/none'"), "vhost.toml:6:14: cannot share"),
        (TWO.replace("readonly", "read-only"), "vhost.toml:7:1: `read-only` is not known"),
        (TWO.replace("share = 'b'", "share = 'b'\ndescriptors = 1000000000"), "--rlimit-nofile"),
        (
            TWO.replace("readonly", "cache = 'never'\nwriteback = true\nreadonly"),
            "--writeback does not go with",
        ),
    ];
    for (text, words) in cases {
        let dir = prepare(&text);
        let file = dir.path().join("vhost.toml");
        let done = program(command::binary()).args(["vhost", "--config"]).arg(&file).run();
        assert_eq!(done.status.code(), Some(1), "{done}");
        assert!(done.stderr.contains(words) && done.stderr.contains("try:"), "{words}: {done}");
        assert!(!dir.path().join("one.sock").exists(), "{done}");
    }
    let line = ["vhost", "--config", "/nonexistent"];
    let done = program(command::binary()).args(line).run();
    assert!(done.stderr.contains("cannot read /nonexistent"), "{done}");
    for words in [
        &["--cache", "always"][..],
        &["--shared-dir", "/"],
        &["--socket-path", "/s"],
        &["--queues", "2"],
        &["-o", "xattr"],
    ] {
        let done = program(command::binary()).args(line).args(words).run();
        assert_eq!(done.status.code(), Some(2), "{done}");
        assert!(done.stderr.contains("--config") && done.stderr.contains("cannot be used"), "{done}");
    }
}

/// So many guests that do nothing.
fn text_of(count: u64) -> String {
    let dir = "{dir}";
    let mut text = format!("[defaults]\nqueues = 1\n[shares.a]\nshared-dir = '{dir}/a'\n");
    for number in 0..count {
        _ = write!(text, "[guests.g{number}]\nsocket-path = '{dir}/g{number}.sock'\nshare = 'a'\n");
    }
    text
}

/// What the daemon has for so many guests that do nothing. They are gone afterwards.
fn idle(daemon: &Daemon, count: u64) {
    let state = || (daemon.status("VmRSS"), daemon.status("Threads"), daemon.descriptors());
    let begin = state();
    let layout = Layout { data: 4096, depth: 2, size: 16, window: Maps::Nothing, ..Layout::default() };
    let mut guests: Vec<_> =
        (0..count).map(|number| daemon.guest_as(&format!("g{number}"), layout)).collect();
    for guest in &mut guests {
        guest.driver().lookup(ROOT, c"file").expect("lookup");
    }
    let now = state();
    eprintln!(
        "{count} idle guests: (KiB resident, threads, descriptors) = {now:?}, without guests {begin:?}"
    );
    // 200 MiB for a thousand; the daemon's own part is more of it with fewer.
    let own = if count < 1000 { 10 << 10 } else { 0 };
    assert!(now.0 <= count * 200 * 1024 / 1000 + own, "{} KiB", now.0);
    assert!(now.1 <= count * 5 + 10 && now.2 <= count * 22 + 50, "{now:?}");
    // All of them are served still.
    for guest in &mut guests {
        guest.driver().getattr(ROOT).expect("getattr");
    }
}

#[test]
fn a_hundred_idle_guests_take_little() {
    let daemon = Daemon::limited(&text_of(100), &["--sandbox", "none"], Some(11_000));
    let begin = daemon.descriptors();
    idle(&daemon, 100);
    // A guest's descriptors may go a moment after its threads.
    wait("the end of all", || daemon.status("Threads") < 10 && daemon.descriptors() <= begin + 10);
    daemon.end();
}

#[test]
#[ignore = "the long form: a thousand guests, whose monitors are in this process"]
fn a_thousand_idle_guests_take_less_than_200_mib() {
    // Budgets take 75 descriptors for each, which not every machine allows; the guests themselves have fewer than 20 while they are idle.
    let more = rustix::process::Rlimit { current: Some(100_000), maximum: Some(100_000) };
    if rustix::process::setrlimit(rustix::process::Resource::Nofile, more).is_ok() {
        let daemon = Daemon::limited(&text_of(1000), &["--sandbox", "none"], None);
        idle(&daemon, 1000);
        return daemon.end();
    }
    eprintln!("without a file: this process may not allow 100,000 descriptors");
    let dir = prepare("");
    let mut line = Command::new(command::binary());
    line.args(["vhost", "--sandbox", "none", "--queues", "1", "--tag", "a", "--shared-dir"])
        .arg(dir.path().join("a"));
    for number in 0..1000 {
        line.arg("--socket-path").arg(dir.path().join(format!("g{number}.sock")));
    }
    let mut daemon = Daemon { child: line.stdin(Stdio::null()).spawn().expect("fusewire"), dir };
    wait("the sockets", || daemon.sockets() == 1000);
    idle(&daemon, 1000);
    wait("the end of the daemon", || daemon.child.try_wait().expect("child").is_some());
}

/// The binary is there, whatever the other tests do.
#[test]
fn help_teaches_it() {
    let done = program(command::binary()).args(["vhost", "--help"]).run();
    for words in ["--config <FILE>", "[shares.home]", "docs/vhost.toml", "budgets"] {
        assert!(done.stdout.contains(words), "{words}: {done}");
    }
    assert!(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/vhost.toml")).exists());
}

/// In the sandbox, the name of the socket is one of the share's own files.
#[test]
fn a_daemon_that_cannot_serve_removes_nothing_from_its_share() {
    skip_unless!(rustix::process::geteuid().is_root(), "mounts need root");
    let dir = prepare(
        "[shares.a]\nshared-dir = '{dir}/m'\ninode-file-handles = 'mandatory'\n[guests.one]\nsocket-path = '{dir}/one.sock'\nshare = 'a'\n",
    );
    // A filesystem without file handles: found out inside, after the root directory was changed.
    let script = "cd \"$0\" && mkdir m t && mount -t tmpfs none t && mkdir t/upper t/work \
        && mount -t overlay none -o lowerdir=a,upperdir=t/upper,workdir=t/work m || exit 77
        mkdir -p \"m/$0\" && touch \"m/$0/one.sock\" \"m/$0/one.sock.pid\" || exit 77
        timeout 20 \"$1\" vhost --config vhost.toml --sandbox chroot && exit 78
        test -e \"m/$0/one.sock\" && test -e \"m/$0/one.sock.pid\"";
    let mut line = Command::new("unshare");
    line.args(["-m", "--propagation", "private", "sh", "-c", script]).arg(dir.path()).arg(command::binary());
    let status = line.status().expect("unshare");
    skip_unless!(status.code() != Some(77), "no overlay can be mounted here");
    assert_eq!(status.code(), Some(0));
    assert!(!dir.path().join("one.sock").exists(), "the daemon's own name is gone");
}
