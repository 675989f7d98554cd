//! Virtio-fs devices of real daemons, whose guests are in the bench. Without root or the command fusewire there is nothing to test: the
//! tests say so and end.

#[path = "../src/skip.rs"]
mod skip;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_fusewire-bench");

/// The command, if it has been built, and if the bench can work at all.
fn fusewire() -> Option<PathBuf> {
    let fusewire = Path::new(BENCH).with_file_name("fusewire");
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists() && fusewire.exists();
    if !can {
        skip::skipped("needs root, /dev/fuse, and fusewire beside the bench: cargo build -p fusewire-cli");
    }
    can.then_some(fusewire)
}

fn bench(work: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(BENCH);
    command.args(args).env("TMPDIR", work).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn is_empty(work: &Path) -> bool {
    fs::read_dir(work).unwrap().next().is_none()
}

fn read(json: &Path) -> Value {
    serde_json::from_slice(&fs::read(json).unwrap()).unwrap()
}

#[test]
fn the_preset_measures_two_devices_in_turn() {
    let Some(fusewire) = fusewire() else { return };
    let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (json, html) = (out.path().join("out.json"), out.path().join("out.html"));
    // The same daemon under the name of the other one, which has one queue for its threads.
    let line = |name: &str, queues: &str| {
        let fusewire = fusewire.display();
        format!(
            "{name}={fusewire} vhost --sandbox none --queues {queues} --socket-path {{socket}} --shared-dir {{src}}"
        )
    };
    let targets = [line("virtiofsd", "1"), line("fusewire", "{cpus}")];
    let args =
        ["run", "vhost", "-t", &targets[0], "-t", &targets[1], "--reps", "2", "--warmup", "0", "--scale"];
    let files = ["0.01", "--json", json.to_str().unwrap(), "--html", html.to_str().unwrap()];
    let output = bench(work.path(), &[&args[..], &files].concat());
    assert!(output.status.success(), "{}", text(&output));

    let report = read(&json);
    let suite = &report["suites"][0];
    let rows = suite["rows"].as_array().unwrap();
    assert_eq!(rows.len(), suite["plan"]["workloads"].as_array().unwrap().len());
    for row in rows {
        for cell in row["cells"].as_array().unwrap() {
            let slices = cell["slices"].as_array().unwrap();
            assert_eq!((slices.len(), &cell["error"]), (2, &Value::Null), "{row}");
            let number = |name: &str| slices[1][name].as_f64().unwrap();
            // Driver and daemon have both worked.
            assert!(number("client_us") > 0.0 && number("cpu_us") > number("client_us"), "{row}");
            assert!(number("p50_us") <= number("p99_us") && number("p99_us") > 0.0, "{row}");
        }
    }
    let named = |name: &str| rows.iter().find(|row| row["workload"] == name).unwrap();
    let bytes = |name: &str| {
        let slice = &named(name)["cells"][0]["slices"][0];
        (slice["ops"].as_u64().unwrap(), slice["bytes"].as_u64().unwrap())
    };
    assert_eq!(bytes("read-1m"), (15, 15 << 20));
    assert_eq!(bytes("create").1, 0);
    // One request at a time puts both to sleep at each; on one CPU that is a switch for each of the two.
    assert!(named("getattr")["cells"][1]["slices"][0]["switches"].as_f64().unwrap() > 0.9);
    for needle in [
        "| one queue on one CPU: 1.2 times as many requests a second | fusewire/virtiofsd, operations per second |",
        "fusewire/virtiofsd, daemon's CPU µs per operation",
        "- create-all: CREATE and RELEASE, 8 at once",
    ] {
        assert!(text(&output).contains(needle), "`{needle}` is missing in {}", text(&output));
    }
    assert!(fs::read_to_string(&html).unwrap().contains("read-4k-apart-32"));
    assert!(is_empty(work.path()), "something was left behind");
}

#[test]
fn more_threads_than_queues_share_them() {
    let Some(fusewire) = fusewire() else { return };
    let work = tempfile::tempdir().unwrap();
    let fusewire = fusewire.display().to_string();
    let args =
        ["run", "vhost", "-t", "vhost:queues=1", "--fusewire", &fusewire, "--threads", "5", "--reps", "2"];
    let rows =
        ["--workload", "create-all", "--workload", "read-4k-all", "--workload", "getattr", "--scale", "0.2"];
    let output = bench(work.path(), &[&args[..], &rows].concat());
    assert!(output.status.success(), "{}", text(&output));
    for needle in ["| tmpfs | create-all | 5 | vhost:queues=1 |", "| tmpfs | getattr | 5 | vhost:queues=1 |"]
    {
        assert!(text(&output).contains(needle), "{}", text(&output));
    }
    // 64 threads with 8 requests each are more than fit.
    let args = ["run", "vhost", "-t", "vhost:queues=1", "--fusewire", &fusewire, "--threads", "64"];
    let output = bench(work.path(), &[&args[..], &["--workload", "read-4k-all", "--reps", "1"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("more than a queue of 256 holds"), "{}", text(&output));
}

#[test]
fn daemons_that_do_not_work_are_told() {
    let Some(fusewire) = fusewire() else { return };
    let work = tempfile::tempdir().unwrap();
    let fusewire = fusewire.display();
    let device = format!("{fusewire} vhost --sandbox none --socket-path {{socket}} --shared-dir");
    for (target, needle) in [
        (format!("wrong={device} {{src}}/list"), "LOOKUP of sentinel"),
        (format!("read={device} {{src}} --readonly"), "CREATE was answered with"),
        ("ends=false {src} {socket}".to_owned(), "before it listened"),
        ("deaf=touch {socket} {src}".to_owned(), "cannot use the device"),
    ] {
        let output = bench(work.path(), &["run", "vhost", "-t", &target, "--reps", "1"]);
        assert_eq!(output.status.code(), Some(1), "{target}");
        assert!(text(&output).contains(needle), "{target}: {}", text(&output));
    }
    assert!(is_empty(work.path()), "something was left behind");
}

#[test]
fn idle_guests_are_counted_and_bounded() {
    let Some(fusewire) = fusewire() else { return };
    let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let json = out.path().join("out.json");
    let fusewire = fusewire.display().to_string();
    let args = [
        "memory",
        "-t",
        "vhost",
        "--fusewire",
        &fusewire,
        "--guests",
        "20",
        "--json",
        json.to_str().unwrap(),
    ];
    let output = bench(work.path(), &args);
    assert!(output.status.success(), "{}", text(&output));
    let report = read(&json);
    let guests = &report["guests"][0];
    let number = |path: &str| {
        guests.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}: {guests}"))
    };
    assert_eq!(number("/many/guests"), 20);
    // Each has threads and descriptors of its own, and memory.
    assert!(number("/many/threads") >= 20 * 4, "{guests}");
    assert!(number("/many/all/descriptors") >= number("/many/nobody/descriptors") + 20 * 5, "{guests}");
    assert!(number("/many/all/resident") > number("/many/nobody/resident"), "{guests}");
    assert!(text(&output).contains("| vhost | 20 idle guests |"), "{}", text(&output));
    assert!(text(&output).contains("| vhost | idle |"), "{}", text(&output));
    // Guests for which there are no descriptors are told.
    let few = ["memory", "-t", "vhost", "--fusewire", &fusewire, "--guests", "50", "--nofile", "200"];
    let output = bench(work.path(), &few);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("**vhost on tmpfs failed**"), "{}", text(&output));
    assert!(is_empty(work.path()), "something was left behind");
}
