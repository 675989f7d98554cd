//! `fusewire top` and `fusewire trace`: any FUSE mount of the machine, watched from outside.

use fusewire_tests::command::{Cache, binary, target_dir};
use fusewire_tests::mount::{self, Mount};
use fusewire_tests::program::{as_user, program};
use fusewire_tests::sandbox::{self, Sandbox, chmod};
use fusewire_tests::wait::{self, SOON};
use fusewire_tests::{mountinfo, skip_unless};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// `fusewire top` or `fusewire trace` with `--json`, which has begun to watch.
struct Watch {
    child: Child,
    lines: std::sync::mpsc::Receiver<Value>,
    /// What a trace says beside its lines.
    says: Arc<Mutex<String>>,
}

impl Watch {
    fn top(words: &[&OsStr]) -> Self {
        let watch = Self::start("top", Stdio::null(), words);
        // The first line says that counting has begun.
        watch.next();
        watch
    }

    fn trace(words: &[&OsStr]) -> Self {
        let mut watch = Self::start("trace", Stdio::piped(), words);
        let mut errors = BufReader::new(watch.child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("Ctrl-C ends") {
            line.clear();
            assert!(errors.read_line(&mut line).unwrap() > 0, "trace ended before it began");
        }
        let says = Arc::clone(&watch.says);
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                eprintln!("{line}");
                says.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        watch
    }

    fn start(command: &str, errors: Stdio, words: &[&OsStr]) -> Self {
        let mut child = Command::new(binary());
        child
            .args([command, "--json"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut child = child.spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        Self { child, lines, says: Arc::default() }
    }

    fn next(&self) -> Value {
        self.lines.recv_timeout(SOON).expect("a line of JSON")
    }

    /// Reads samples until one of them tells of this connection what is looked for.
    #[track_caller]
    fn until(&self, connection: u32, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + SOON;
        loop {
            let sample = self.next();
            assert_eq!(sample["counted"], true, "{sample:#}");
            let mounts = sample["mounts"].as_array().unwrap();
            let mount = mounts.iter().find(|mount| mount["connection"] == connection);
            if let Some(mount) = mount.filter(|mount| is_it(mount)) {
                return mount.clone();
            }
            assert!(Instant::now() < end, "{what} was not seen: {mount:#?}");
        }
    }

    /// Ends it with SIGTERM, and gives what it had not told yet.
    fn end(mut self) -> Vec<Value> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = wait::until(SOON, || self.child.try_wait().unwrap()).expect("it ends");
        assert!(status.success(), "{status}");
        self.lines.iter().collect()
    }

    /// The programs that it has loaded, by their numbers.
    fn programs(&self) -> Vec<u32> {
        let infos = std::fs::read_dir(format!("/proc/{}/fdinfo", self.child.id())).unwrap().flatten();
        let texts = infos.map(|info| std::fs::read_to_string(info.path()).unwrap_or_default());
        let number =
            |text: String| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
        texts.filter_map(number).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(output: ChildStdout) -> std::sync::mpsc::Receiver<Value> {
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if sender.send(value).is_err() {
                break;
            }
        }
    });
    lines
}

/// Whether the kernel lets requests be seen; says why not.
fn can_watch() -> bool {
    let output = Command::new(binary()).args(["top", "--once", "--json", "-i", "0.1"]).output().unwrap();
    let sample: Value = serde_json::from_slice(&output.stdout).unwrap();
    if sample["counted"] != true {
        fusewire_tests::skip::report(&format!("requests cannot be watched here: {}", sample["refused"]));
    }
    sample["counted"] == true
}

fn connection_of(point: &Path) -> u32 {
    let entry = mountinfo::at(point).expect("a mount");
    entry.major << 20 | entry.minor
}

/// Nothing is remembered, and nothing is forwarded.
fn asked_always(sandbox: &Sandbox) -> Mount {
    mount::passthrough(sandbox).cache(Cache::None).option("passthrough=off").start()
}

fn missing(dir: &Path, count: usize) {
    for number in 0..count {
        std::fs::symlink_metadata(dir.join(format!("missing-{number}"))).expect_err("it is not there");
    }
}

fn operation<'a>(mount: &'a Value, name: &str) -> Option<&'a Value> {
    mount["operations"].as_array()?.iter().find(|operation| operation["operation"] == name)
}

fn count(mount: &Value, name: &str) -> u64 {
    operation(mount, name).map_or(0, |operation| operation["total"]["count"].as_u64().unwrap())
}

/// What is done is what is counted, by operation.
fn count_exactly(point: &Path) -> Value {
    let connection = connection_of(point);
    let watch = Watch::top(&["-i".as_ref(), "0.1".as_ref(), point.as_ref()]);
    missing(point, 37);
    for _ in 0..11 {
        rustix::fs::statfs(point).unwrap();
    }
    let mount = watch.until(connection, "11 STATFS", |mount| count(mount, "STATFS") >= 11);
    assert_eq!(count(&mount, "LOOKUP"), 37, "{mount:#}");
    assert_eq!(count(&mount, "STATFS"), 11, "{mount:#}");
    let lookup = operation(&mount, "LOOKUP").unwrap();
    assert_eq!(lookup["total"]["errors"], 37, "none of them exists");
    let latency = &lookup["total"]["latency"];
    assert_eq!(latency["count"], 37, "each was timed");
    let histogram = lookup["histogram"].as_array().unwrap();
    assert_eq!(histogram.iter().map(|bucket| bucket["count"].as_u64().unwrap()).sum::<u64>(), 37);
    let time = |name: &str| latency[name].as_f64().unwrap();
    assert!(time("p50_us") > 0.3 && time("p50_us") <= time("p99_us"), "{latency}");
    assert!(time("mean_us") <= time("max_us"), "{latency}");
    assert_eq!(mount["in_flight"], 0, "{mount:#}");
    mount
}

#[test]
fn requests_of_a_mount_are_counted_by_operation() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(can_watch(), "see above");
    let mount = asked_always(&sandbox);
    let seen = count_exactly(mount.path());
    assert_eq!(seen["mountpoints"][0], mount.path().to_str().unwrap());
    assert_eq!(seen["type"], "fuse.fusewire");
    let servers = seen["servers"].as_array().unwrap();
    let pid = mount.pid().as_raw_nonzero().get();
    assert!(servers.iter().any(|server| server["pid"] == pid && server["name"] == "fusewire"), "{seen:#}");
    mount.stop();
}

#[test]
fn requests_of_other_programs_mounts_are_counted() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(can_watch(), "see above");
    let places =
        ["debug", "release"].map(|profile| target_dir().join(profile).join("examples/fuser_passthrough"));
    let Some(server) = places.into_iter().find(|path| path.is_file()) else {
        return fusewire_tests::skip::report("the example fuser_passthrough of fusewire-bench is not built");
    };
    let (source, point) = (sandbox.make_dir("other.src"), sandbox.make_dir("other.mnt"));
    let mut running = program(server).arg(&source).arg(&point).start();
    let is_mounted = || mountinfo::at(&point).is_some();
    assert!(wait::until(SOON, || (is_mounted() || !running.is_running()).then_some(())).is_some());
    assert!(is_mounted(), "{}", running.stdout());
    let seen = count_exactly(&point);
    let name = seen["servers"][0]["name"].as_str().unwrap().to_owned();
    program("umount").arg(&point).ok();
    assert!(running.end_within(SOON).is_some(), "it ends with its mount");
    assert_eq!(name, "fuser_passthrou", "{seen:#}");
}

#[test]
fn the_way_of_a_request_is_split() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(can_watch(), "see above");
    let mount = asked_always(&sandbox);
    let watch = Watch::top(&["-i".as_ref(), "0.1".as_ref(), "--split".as_ref(), mount.path().as_ref()]);
    missing(mount.path(), 50);
    let connection = connection_of(mount.path());
    let seen = watch.until(connection, "50 LOOKUP", |seen| count(seen, "LOOKUP") >= 50);
    let total = &operation(&seen, "LOOKUP").unwrap()["total"];
    // Each of them is delivered, whichever way, and its caller sleeps, unless the answer was faster than that.
    assert_eq!(total["queue"]["count"], 50, "{total:#}");
    assert_eq!(total["service"]["count"], 50, "{total:#}");
    let woken = total["wake"]["count"].as_u64().unwrap();
    assert!((1..=50).contains(&woken), "{total:#}");
    let mean = |part: &str| total[part]["mean_us"].as_f64().unwrap();
    let sum = mean("queue") + mean("service");
    assert!((sum - mean("latency")).abs() < 0.01, "queue and service are the whole: {total:#}");
    watch.end();
    mount.stop();
}

#[test]
fn a_stuck_request_is_shown_until_it_is_answered() {
    let Some(sandbox) = Sandbox::enter(Duration::from_secs(60)) else { return };
    skip_unless!(can_watch(), "see above");
    let mount = asked_always(&sandbox);
    let connection = connection_of(mount.path());
    let words: [&OsStr; 5] =
        ["-i".as_ref(), "0.1".as_ref(), "--stuck".as_ref(), "0.4".as_ref(), mount.path().as_ref()];
    let watch = Watch::top(&words);
    mount.pause();
    let client = program("stat").arg("--file-system").arg(mount.path()).start();
    let seen = watch.until(connection, "a stuck request", |seen| seen["stuck"] == 1);
    let request = &seen["requests"][0];
    assert_eq!(request["operation"], "STATFS", "{seen:#}");
    assert_eq!(request["comm"], "stat", "{seen:#}");
    assert_eq!(request["pid"], client.pid().as_raw_nonzero().get(), "{seen:#}");
    assert!(request["age_us"].as_f64().unwrap() >= 400_000.0, "{seen:#}");
    assert!(seen["waiting"].as_u64().unwrap() >= 1, "{seen:#}");
    assert_eq!(count(&seen, "STATFS"), 0, "it is not answered: {seen:#}");
    // Whoever comes later knows only that there is something.
    let later = program(binary()).args(["top", "--once", "-i", "0.1"]).arg(mount.path()).ok();
    assert!(later.contains("and 1 that were sent before counting began"), "{later}");
    mount.signal(Signal::CONT);
    let seen = watch.until(connection, "its answer", |seen| count(seen, "STATFS") == 1);
    assert_eq!((&seen["in_flight"], &seen["stuck"]), (&0.into(), &0.into()), "{seen:#}");
    assert!(operation(&seen, "STATFS").unwrap()["total"]["latency"]["max_us"].as_f64().unwrap() >= 400_000.0);
    client.finish(SOON);
    watch.end();
    mount.stop();
}

#[test]
fn the_trace_has_a_line_for_each_request() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(can_watch(), "see above");
    let mount = asked_always(&sandbox);
    let trace = Watch::trace(&["--op".as_ref(), "lookup,mkdir".as_ref(), mount.path().as_ref()]);
    missing(mount.path(), 3);
    rustix::fs::statfs(mount.path()).unwrap();
    std::fs::create_dir(mount.join("made")).unwrap();
    let lines: Vec<Value> = (0..5).map(|_| trace.next()).collect();
    assert!(trace.end().is_empty(), "{lines:#?}");
    for (number, line) in lines[..3].iter().enumerate() {
        assert_eq!(line["operation"], "LOOKUP", "{line}");
        assert_eq!(line["name"], format!("missing-{number}"), "{line}");
        assert_eq!((&line["error"], &line["errno"]), (&"ENOENT".into(), &2.into()), "{line}");
        assert_eq!(line["pid"], std::process::id(), "{line}");
        assert_eq!(line["node"], 1, "{line}");
        assert_eq!(line["mount"], mount.path().to_str().unwrap(), "{line}");
        assert_eq!(line["server"], mount.pid().as_raw_nonzero().get(), "{line}");
        assert!(line["latency_us"].as_f64().unwrap() > 0.3, "{line}");
    }
    assert_eq!((&lines[4]["operation"], &lines[4]["name"]), (&"MKDIR".into(), &"made".into()), "{lines:#?}");
    assert_eq!(lines[4]["error"], Value::Null, "{lines:#?}");
    mount.stop();
}

#[test]
fn the_trace_tells_only_what_is_asked_for() {
    let Some(sandbox) = Sandbox::enter(Duration::from_secs(60)) else { return };
    skip_unless!(can_watch(), "see above");
    let mount = asked_always(&sandbox);
    // Of another process than this one.
    let client =
        program("sh").args(["-c", "read _ < \"$0\"; exec stat \"$1/of-the-other\""]).arg(fifo(&sandbox));
    let client = client.arg(mount.path()).start();
    let pid = client.pid().as_raw_nonzero().get();
    let word = pid.to_string();
    let by_pid = Watch::trace(&["--pid".as_ref(), word.as_ref(), "--op".as_ref(), "lookup".as_ref()]);
    let slow = Watch::trace(&["--slow".as_ref(), "300000".as_ref(), mount.path().as_ref()]);
    missing(mount.path(), 5);
    mount.pause();
    std::fs::write(sandbox.dir().join("fifo"), "go\n").unwrap();
    let waiting = format!("/sys/fs/fuse/connections/{}/waiting", connection_of(mount.path()));
    wait::assert_within(SOON, "it waits", || std::fs::read_to_string(&waiting).unwrap().trim() != "0");
    std::thread::sleep(Duration::from_millis(500));
    mount.signal(Signal::CONT);
    client.finish(SOON);
    // Whatever else was slow.
    let line = std::iter::repeat_with(|| slow.next()).find(|line| line["pid"] == pid).unwrap();
    assert!(line["latency_us"].as_f64().unwrap() >= 300_000.0, "{line}");
    assert!(slow.end().iter().all(|line| line["latency_us"].as_f64().unwrap() >= 300_000.0));
    let lines = by_pid.end();
    assert!(lines.iter().all(|line| line["pid"] == pid), "{lines:#?}");
    assert!(lines.iter().any(|line| line["name"] == "of-the-other"), "{lines:#?}");
    mount.stop();
}

fn fifo(sandbox: &Sandbox) -> PathBuf {
    let path = sandbox.dir().join("fifo");
    program("mkfifo").arg(&path).ok();
    path
}

#[test]
fn what_is_lost_is_counted_and_told() {
    const MANY: usize = 30_000;
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(can_watch(), "see above");
    let mount = asked_always(&sandbox);
    let trace = Watch::trace(&["--op".as_ref(), "lookup".as_ref(), mount.path().as_ref()]);
    let pid = Pid::from_child(&trace.child);
    // What nobody reads fills the ring, which has room for about 22,000.
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    missing(mount.path(), MANY);
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    let says = Arc::clone(&trace.says);
    wait::assert_within(SOON, "the loss is told", || says.lock().unwrap().contains("were lost"));
    let told = trace.end().len();
    let summary =
        || says.lock().unwrap().lines().find(|line| line.contains(" requests, ")).map(str::to_owned);
    let summary = wait::until(SOON, summary).expect("a last line");
    assert!(told < MANY, "nothing was lost");
    assert_eq!(summary, format!("fusewire: {told} requests, {} lost", MANY - told));
    mount.stop();
}

#[test]
fn lines_end_where_they_are_told_to() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(can_watch(), "see above");
    let mount = asked_always(&sandbox);
    let mut trace = Watch::trace(&["--count".as_ref(), "4".as_ref(), mount.path().as_ref()]);
    missing(mount.path(), 9);
    assert!(wait::until(SOON, || trace.child.try_wait().unwrap()).expect("it ends").success());
    assert_eq!(trace.lines.iter().count(), 4);
    let mut text = program(binary()).args(["trace", "-n", "1", "--op", "lookup"]).arg(mount.path()).start();
    wait::assert_within(SOON, "the end", || {
        missing(mount.path(), 1);
        !text.is_running()
    });
    let line = text.finish(SOON).ok();
    // Of a request that was sent before it was watched, the name is not known.
    let is_named = line.contains("\"missing-0\"") || line.contains(" ? ");
    assert!(line.contains("LOOKUP") && line.contains("ENOENT") && is_named, "{line}");
    mount.stop();
}

#[test]
fn without_rights_the_reason_is_told_and_mounts_are_still_listed() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = asked_always(&sandbox);
    let command = sandbox.dir().join("fusewire");
    std::fs::copy(binary(), &command).unwrap();
    chmod(&command, 0o755);
    let trace = as_user("daemon", &command).arg("trace").fails();
    assert_eq!(trace.code(), Some(1));
    assert!(trace.stderr.contains("CAP_BPF") && trace.stderr.contains("try: "), "{trace}");
    let top = as_user("daemon", &command).args(["top", "--once", "--json", "-i", "0.1"]).ok();
    let sample: Value = serde_json::from_str(&top).unwrap();
    assert_eq!(sample["counted"], false);
    assert!(sample["refused"].as_str().unwrap().contains("CAP_BPF"), "{sample:#}");
    let mounts = sample["mounts"].as_array().unwrap();
    assert!(mounts.iter().any(|seen| seen["mountpoints"][0] == mount.path().to_str().unwrap()), "{sample:#}");
    let text = as_user("daemon", &command).args(["top", "--once", "-i", "0.1"]).ok();
    assert!(text.contains("cannot be counted") && text.contains("a.mnt"), "{text}");
    mount.stop();
}

#[test]
fn what_is_no_mount_is_refused() {
    let Some(sandbox) = sandbox::enter() else { return };
    for command in ["top", "trace"] {
        let done = program(binary()).arg(command).arg(sandbox.dir()).fails();
        assert_eq!(done.code(), Some(1), "{done}");
        assert!(done.stderr.contains("no FUSE filesystem is mounted on"), "{done}");
    }
    assert_eq!(program(binary()).args(["trace", "--op", "walk"]).fails().code(), Some(2));
    assert_eq!(program(binary()).args(["top", "-i", "0"]).fails().code(), Some(2));
}

#[test]
fn nothing_stays_in_the_kernel() {
    let Some(_sandbox) = sandbox::enter() else { return };
    skip_unless!(can_watch(), "see above");
    for (mut watch, how) in [
        (Watch::top(&["--split".as_ref()]), Signal::TERM),
        (Watch::top(&[]), Signal::KILL),
        (Watch::trace(&[]), Signal::KILL),
    ] {
        let programs = watch.programs();
        assert!(programs.len() >= 2, "{programs:?}");
        rustix::process::kill_process(Pid::from_child(&watch.child), how).unwrap();
        watch.child.wait().unwrap();
        // Links and programs are given back a moment later.
        wait::assert_within(SOON, "the programs are gone", || {
            let loaded = aya::programs::loaded_programs().flatten();
            loaded.map(|program| program.id()).all(|id| !programs.contains(&id))
        });
    }
}

const ROWS: NonZero<u16> = NonZero::new(24).unwrap();
const COLUMNS: NonZero<u16> = NonZero::new(80).unwrap();

/// A terminal of 80 columns and 24 lines with a program in it.
struct Terminal {
    screen: Arc<Mutex<vt100::Parser>>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn portable_pty::Child + Send + Sync>,
    _pty: Box<dyn portable_pty::MasterPty + Send>,
}

impl Terminal {
    fn start(words: &[&OsStr]) -> Self {
        let size = PtySize { rows: ROWS.get(), cols: COLUMNS.get(), pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(binary());
        command.env("TERM", "xterm-256color");
        command.args(words);
        let child = pty.slave.spawn_command(command).unwrap();
        drop(pty.slave);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let (mut output, shown) = (pty.master.try_clone_reader().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().process(&bytes[..count]);
            }
        });
        let keys = pty.master.take_writer().unwrap();
        Self { screen, keys, child, _pty: pty.master }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        let is_there = wait::until(SOON, || self.text().contains(text).then_some(()));
        assert!(is_there.is_some(), "{text:?} is not shown:\n{}", self.text());
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    /// It has ended well, and the terminal is as it was.
    fn ended(mut self) {
        let status = wait::until(SOON, || self.child.try_wait().unwrap()).expect("it ends");
        assert!(status.success(), "{status:?}\n{}", self.text());
        wait::assert_within(SOON, "the terminal is put back", || {
            let parser = self.screen.lock().unwrap();
            !parser.screen().alternate_screen() && !parser.screen().hide_cursor()
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_screen_shows_mounts_and_operations_and_ends_cleanly() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(can_watch(), "see above");
    let mount = asked_always(&sandbox);
    let point: &OsStr = mount.path().as_ref();
    let mut terminal = Terminal::start(&["top".as_ref(), "-i".as_ref(), "0.2".as_ref(), point]);
    terminal.shows("a.mnt");
    terminal.shows("REQ/S");
    assert!(terminal.screen.lock().unwrap().screen().alternate_screen());
    missing(mount.path(), 12);
    terminal.shows("GETATTR: 12 in all");
    // The root is asked for as often as the names in it; of two that are equal the name decides.
    terminal.press(b"\tj");
    terminal.shows("LOOKUP: 12 in all");
    terminal.shows("q quit");
    terminal.press(b"f");
    terminal.shows("0 in flight, 0 stuck");
    terminal.press(b"fs");
    terminal.shows("sorted by p99");
    terminal.press(b"q");
    terminal.ended();
    // Ctrl-C is a key there, and SIGTERM a signal.
    let mut terminal = Terminal::start(&["top".as_ref()]);
    terminal.shows("q quit");
    terminal.press(b"\x03");
    terminal.ended();
    let terminal = Terminal::start(&["top".as_ref()]);
    terminal.shows("q quit");
    let pid = terminal.child.process_id().unwrap();
    rustix::process::kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::TERM).unwrap();
    terminal.ended();
    mount.stop();
}
