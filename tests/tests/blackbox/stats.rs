//! What a mount was asked for: the command, the socket behind it, the table at the end, and the metrics.

use fusewire_tests::command::{self, Cache};
use fusewire_tests::mount::{self, Mount, Plan};
use fusewire_tests::program::{Finished, Program, program};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::wait::{self, SOON};
use fusewire_tests::{need, skip_unless};
use prometheus_parse::{Scrape, Value as Sample};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn stats(point: &Path) -> Program {
    program(command::binary()).arg("stats").arg(point).limit(30)
}

fn report(mount: &Mount) -> Value {
    let text = stats(mount.path()).arg("--json").ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Requests and errors of an operation.
fn of(report: &Value, name: &str) -> (u64, u64) {
    let operations = report["operations"].as_array().expect("operations");
    let found = operations.iter().find(|operation| operation["name"] == name);
    let number = |key: &str| found.map_or(0, |operation| operation[key].as_u64().expect("a number"));
    (number("requests"), number("errors"))
}

fn socket(mount: &Mount, sandbox: &Sandbox) -> PathBuf {
    let device = mount.path().metadata().expect("stat of the mount").dev();
    assert_ne!(device, sandbox.dir().metadata().expect("stat").dev());
    PathBuf::from(format!("/run/fusewire/{}.sock", rustix::fs::minor(device)))
}

/// Everything asks the daemon, and data goes through it.
fn asking(sandbox: &Sandbox) -> Plan<'_> {
    mount::passthrough(sandbox).cache(Cache::None).option("passthrough=off")
}

/// A mount is there before its server offers anything.
fn started(plan: Plan<'_>) -> Mount {
    let mount = plan.start();
    wait::assert_within(SOON, "statistics are offered", || stats(mount.path()).run().code() == Some(0));
    mount
}

#[track_caller]
fn assert_refused(done: &Finished, about: &str) {
    assert_eq!(done.code(), Some(1), "{done}");
    assert!(done.stderr.contains(about) && !done.stderr.contains("panicked"), "{done}");
}

#[test]
fn each_request_is_counted_once() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has no statistics");
    let mount = started(asking(&sandbox));
    fs::write(mount.below("file"), vec![7; 5000]).unwrap();
    let before = report(&mount);
    for _ in 0..5 {
        assert_eq!(fs::read(mount.join("file")).unwrap().len(), 5000);
    }
    for _ in 0..3 {
        fs::metadata(mount.join("missing")).unwrap_err();
    }
    fs::write(mount.join("new"), vec![1; 777]).unwrap();
    fs::create_dir(mount.join("dir")).unwrap();
    // RELEASE is not waited for.
    wait::assert_within(SOON, "each OPEN and CREATE gets its RELEASE", || {
        let now = report(&mount);
        of(&now, "RELEASE").0 - of(&before, "RELEASE").0 == 6
    });
    let after = report(&mount);
    let more = |name| of(&after, name).0 - of(&before, name).0;
    assert_eq!((more("OPEN"), more("CREATE"), more("MKDIR")), (5, 1, 1), "{after:#}");
    assert!(more("LOOKUP") >= 9 && more("READ") >= 5 && more("WRITE") >= 1, "{after:#}");
    assert!(of(&after, "LOOKUP").1 - of(&before, "LOOKUP").1 >= 3, "{after:#}");
    let bytes = |key: &str| after[key].as_u64().unwrap() - before[key].as_u64().unwrap();
    assert_eq!((bytes("read_bytes"), bytes("written_bytes")), (25_000, 777));
    let sum: u64 =
        after["operations"].as_array().unwrap().iter().map(|one| one["requests"].as_u64().unwrap()).sum();
    assert_eq!(after["requests"], sum);
    assert_eq!((&after["panics"], &after["refused"], &after["timed"]), (&0.into(), &0.into(), &false.into()));
    assert_eq!(after["spared"]["opens"].as_u64().unwrap() - before["spared"]["opens"].as_u64().unwrap(), 6);
    assert_eq!(after["process"]["pid"], mount.pid().as_raw_nonzero().get());
    assert_eq!(after["channel"], if command::is_over_ring() { "uring" } else { "dev-fuse" });
    let text = stats(mount.path()).ok();
    assert!(text.contains("LOOKUP") && text.contains("mount with --stats"), "{text}");
}

#[test]
fn asking_is_no_request() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has no statistics");
    let mount = started(asking(&sandbox));
    let first = report(&mount);
    for _ in 0..5 {
        assert_eq!(report(&mount)["requests"], first["requests"]);
    }
}

#[test]
fn forwarded_opens_are_told() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has no statistics");
    let mount = started(mount::passthrough(&sandbox).option("passthrough=always"));
    let features = report(&mount)["features"].as_array().unwrap().clone();
    skip_unless!(features.contains(&"PASSTHROUGH".into()), "this kernel forwards nothing");
    fs::write(mount.below("file"), vec![7; 100_000]).unwrap();
    assert_eq!(fs::read(mount.join("file")).unwrap().len(), 100_000);
    let report = report(&mount);
    assert_eq!((&report["spared"]["forwarded"], of(&report, "READ").0), (&1.into(), 0), "{report:#}");
    assert!(stats(mount.path()).ok().contains("1 of 1 opens are forwarded"));
}

#[test]
fn the_socket_is_for_its_user_only_and_goes_with_the_mount() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has no statistics");
    let mount = started(mount::passthrough(&sandbox));
    let socket = socket(&mount, &sandbox);
    report(&mount);
    let mode = |path: &Path| path.metadata().expect("it is there").mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    // Another test's mount may have the number next, and a socket of this name, even the number of its inode: but one that was made later.
    let made = || socket.symlink_metadata().ok().map(|meta| (meta.ino(), meta.ctime(), meta.ctime_nsec()));
    let own = made();
    mount.stop();
    assert!(own.is_some() && made() != own, "it is left behind");
}

#[test]
fn who_has_no_answer_says_why() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has no statistics");
    let dir = sandbox.make_dir("dir");
    let tmpfs = sandbox.tmpfs("tmpfs", "size=1m");
    for place in [&dir, &tmpfs, &dir.join("missing")] {
        assert_refused(&stats(place).run(), "is no mount point of a FUSE filesystem");
    }
    let mount = started(mount::passthrough(&sandbox));
    // The one that is meant may be among those that are named.
    assert_refused(&stats(&dir).run(), &format!("fusewire stats {}", mount.path().display()));
    fs::remove_file(socket(&mount, &sandbox)).unwrap();
    assert_refused(&stats(mount.path()).run(), "offers no statistics");
    let usage = stats(mount.path()).args(["--watch", "0"]).run();
    assert_eq!(usage.code(), Some(2), "{usage}");
}

#[test]
fn a_mount_that_hangs_does_not_hang_the_command() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has no statistics");
    let mut mount = started(asking(&sandbox));
    let socket = socket(&mount, &sandbox);
    mount.pause();
    let begin = Instant::now();
    assert_refused(&stats(mount.path()).run(), "does not answer");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    mount.signal(Signal::CONT);
    report(&mount);
    // Killed, it leaves its name behind, and the mount as well.
    mount.kill();
    assert!(socket.exists());
    assert_refused(&stats(mount.path()).run(), "nobody serves");
    // As long as the mount is there, the name is nobody else's.
    fs::remove_file(socket).unwrap();
    drop(mount);
}

#[test]
fn root_may_ask_the_mount_of_another_user() {
    let Some(sandbox) = sandbox::enter() else { return };
    need!("setpriv", "fusermount3");
    skip_unless!(command::other_server().is_none(), "the stand-in server has no statistics");
    let mount = mount::passthrough(&sandbox).user("daemon").start();
    // A mount is there before its server offers anything, and of another user's no attributes tell.
    wait::assert_within(SOON, "statistics are offered", || stats(mount.path()).run().code() == Some(0));
    let report = report(&mount);
    assert_eq!(report["process"]["pid"], mount.pid().as_raw_nonzero().get());
    let copy = sandbox.dir().join("fusewire");
    let own = fusewire_tests::program::as_user("daemon", &copy);
    own.arg("stats").arg(mount.path()).without_env("XDG_RUNTIME_DIR").ok();
    let other = fusewire_tests::program::as_user("bin", &copy);
    assert_refused(&other.arg("stats").arg(mount.path()).run(), "another user's");
}

#[test]
fn watching_ends_with_the_mount() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has no statistics");
    let mount = started(asking(&sandbox));
    let mut watching = stats(mount.path()).args(["--json", "--watch", "0.1"]).start();
    wait::assert_within(SOON, "three reports", || {
        fs::metadata(mount.join("missing")).unwrap_err();
        watching.stdout().lines().count() >= 3
    });
    mount.stop();
    let text = watching.finish(SOON).ok();
    let reports: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a report in each line")).collect();
    let requests: Vec<u64> = reports.iter().map(|one| one["requests"].as_u64().unwrap()).collect();
    assert!(requests.len() >= 3 && requests.is_sorted() && requests[0] < requests[2], "{requests:?}");
}

/// The mount is there before the signal is understood.
fn hears_signals(mount: &Mount) {
    wait::assert_within(SOON, "the signal is heard", || {
        let threads = fs::read_dir(format!("/proc/{}/task", mount.pid().as_raw_nonzero())).unwrap().flatten();
        let name = |path: PathBuf| fs::read_to_string(path.join("comm")).unwrap_or_default();
        threads.map(|thread| name(thread.path())).any(|name| name.trim() == "stats-signal")
    });
}

#[test]
fn the_table_comes_at_the_end_and_on_a_signal() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has no statistics");
    let mount = asking(&sandbox).option("stats").start();
    let log = sandbox.dir().join("a.log");
    fs::metadata(mount.join("missing")).unwrap_err();
    let printed = || fs::read_to_string(&log).unwrap().matches("Times are the daemon's own").count();
    // The mount is there before the signal is understood; asked, the process is ready.
    wait::assert_within(SOON, "it answers", || stats(mount.path()).run().code() == Some(0));
    hears_signals(&mount);
    mount.signal(Signal::USR1);
    wait::assert_within(SOON, "a table", || printed() == 1);
    assert!(mount.log().contains("LOOKUP") && mount.log().contains("p99"), "{}", mount.log());
    let report = report(&mount);
    let lookup = &report["operations"][0];
    assert_eq!(lookup["latency"]["count"], lookup["requests"], "{report:#}");
    assert!(lookup["latency"]["p50_ns"].as_u64().unwrap() > 0, "{report:#}");
    mount.stop();
    assert_eq!(printed(), 2);
}

/// What a web server answers: the status line, the head, the body.
/// In the background nobody sees what is printed, so it goes to the log, which says little else by default.
/// It is nothing that a server should end of, with or without them.
#[test]
fn a_signal_for_statistics_that_nobody_asked_for_ends_nothing() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has no statistics");
    let mount = started(asking(&sandbox));
    fs::metadata(mount.join("missing")).unwrap_err();
    hears_signals(&mount);
    mount.signal(Signal::USR1);
    wait::assert_within(SOON, "the table", || mount.log().contains("How long they took is not known"));
    assert!(mount.path().read_dir().is_ok());
    mount.stop();
}

#[test]
fn of_a_mount_in_the_background_the_table_is_in_the_log() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has no statistics");
    let (source, point, log) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"), sandbox.dir().join("log"));
    let mount = program(command::binary()).args(["mount", "--daemon", "--stats", "--log-file"]).arg(&log);
    mount.args([&source, &point]).limit(30).ok();
    fs::write(point.join("file"), "text").unwrap();
    program(command::binary()).arg("unmount").arg(&point).limit(30).ok();
    wait::assert_within(SOON, "a table", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("Times are the daemon's own"))
    });
    wait::assert_within(SOON, "it ends", || sandbox.processes().is_empty());
}

fn http(address: &str, request: &str) -> (String, String, String) {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(SOON)).unwrap();
    let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { dechunked(body) } else { body.to_owned() };
    (head.lines().next().unwrap().to_owned(), head.to_owned(), body)
}

fn dechunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("size of a chunk");
        if size == 0 {
            break;
        }
        text += &rest[..size];
        body = &rest[size + 2..];
    }
    text
}

#[test]
fn metrics_can_be_read_and_parsed() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has no statistics");
    let mount = asking(&sandbox).option("metrics=0").start();
    for _ in 0..7 {
        fs::metadata(mount.join("missing")).unwrap_err();
    }
    wait::assert_within(SOON, "it answers", || stats(mount.path()).run().code() == Some(0));
    let report = report(&mount);
    let url = report["metrics"].as_str().expect("where metrics are");
    let address = url.strip_prefix("http://").and_then(|url| url.strip_suffix("/metrics")).unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{address}");

    let (status, head, body) = http(address, "GET /metrics");
    assert!(status.ends_with("200 OK"), "{status}");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let scrape = Scrape::parse(body.lines().map(|line| Ok(line.to_owned()))).expect("it parses");
    let sample = |name: &str, opcode: Option<&str>| {
        let found =
            scrape.samples.iter().find(|one| one.metric == name && one.labels.get("opcode") == opcode);
        match found.unwrap_or_else(|| panic!("no {name} {opcode:?} in\n{body}")).value {
            Sample::Counter(number) | Sample::Gauge(number) | Sample::Untyped(number) => number,
            ref other => panic!("{name} is {other:?}"),
        }
    };
    let lookups = of(&report, "LOOKUP");
    assert!(lookups.0 >= 7 && lookups.1 >= 7, "{report:#}");
    assert_eq!(sample("fusewire_requests_total", Some("LOOKUP")), lookups.0 as f64);
    assert_eq!(sample("fusewire_request_errors_total", Some("LOOKUP")), lookups.1 as f64);
    assert_eq!(sample("fusewire_request_duration_seconds_count", Some("LOOKUP")), lookups.0 as f64);
    assert!(sample("fusewire_request_duration_seconds_sum", Some("LOOKUP")) > 0.0);
    assert!(sample("process_resident_memory_bytes", None) > 1e6);
    let started = sample("process_start_time_seconds", None);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 120.0..=now).contains(&started), "{started} {now}");
    let histogram = scrape
        .samples
        .iter()
        .find_map(|one| match &one.value {
            Sample::Histogram(classes) if one.labels.get("opcode") == Some("LOOKUP") => Some(classes),
            _ => None,
        })
        .expect("a histogram");
    assert_eq!(histogram.last().map(|class| class.count), Some(lookups.0 as f64));
    assert!(histogram.is_sorted_by_key(|class| class.count));

    assert!(http(address, "GET /other").0.contains("404"));
    assert!(http(address, "POST /metrics").0.contains("405"));
    // Who is taken says so before anything is mounted.
    let taken = mount::passthrough(&sandbox).name("b").option(&format!("metrics={address}"));
    let (source, point) = (sandbox.make_dir("taken.src"), sandbox.make_dir("taken.mnt"));
    let done = taken.refused(&source, &point);
    assert_refused(&done, "cannot serve metrics at");
}
