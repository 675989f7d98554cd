//! The whole program on real mounts. Without root or /dev/fuse there is nothing to test: the tests say so and end.

#[path = "../src/skip.rs"]
mod skip;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_fusewire-bench");

fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !can {
        skip::skipped("mounting needs root and /dev/fuse");
    }
    can
}

/// Cargo builds examples beside the program when it builds tests.
fn fuser() -> PathBuf {
    let path = Path::new(BENCH).with_file_name("examples").join("fuser_passthrough");
    assert!(path.exists(), "{} is missing: run `cargo build --examples`", path.display());
    path
}

/// The command, if it has been built.
fn fusewire() -> Option<PathBuf> {
    let path = Path::new(BENCH).with_file_name("fusewire");
    let there = path.exists();
    if !there {
        skip::skipped("the command fusewire is not built beside the bench: cargo build -p fusewire-cli");
    }
    there.then_some(path)
}

fn bench(work: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BENCH);
    command.args(args).arg("--fuser").arg(fuser()).env("TMPDIR", work).stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn is_empty(work: &Path) -> bool {
    fs::read_dir(work).unwrap().next().is_none()
}

/// Children of a process of this name. Only they are looked at: to look at a stranger that hangs can hang.
fn children(pid: u32, name: &str) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<u32> = lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    let is_wanted =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    pids.into_iter().filter(is_wanted).collect()
}

/// The daemon of a running bench.
fn wait_for_daemon(bench: &mut Child) -> u32 {
    let begin = Instant::now();
    loop {
        if let Some(pid) = children(bench.id(), "fuser_passthrou").first() {
            return *pid;
        }
        assert!(bench.try_wait().unwrap().is_none(), "the bench ended before its daemon was seen");
        assert!(begin.elapsed() < Duration::from_secs(20), "no daemon within 20 s");
        thread::sleep(Duration::from_millis(20));
    }
}

fn send(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Waits for the end; a bench that hangs is killed, which fails the test.
fn finish(mut child: Child, limit: Duration) -> (bool, String) {
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the bench did not end within {limit:?}");
        }
        thread::sleep(Duration::from_millis(50));
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status.success(), said)
}

#[test]
fn compares_a_mount_with_its_directory() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let json = out.path().join("out.json");
    let args = ["passthrough", "--target", "native", "--target", "fuser", "--threads", "1,2", "--reps", "2"];
    let output = bench(work.path(), &args)
        .args(["--scale", "0.01", "--subject", "fuser", "--baseline", "native", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("| tmpfs | stat | 1 |"), "{}", text(&output));

    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let rows = report["suites"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 22);
    for row in rows {
        let number = |target: usize, name: &str| row["cells"][target]["slices"][1][name].as_f64().unwrap();
        // The mount must have cost its daemon something each time, or it was not the mount that was measured.
        assert!(number(1, "cpu_us") > number(1, "client_us"), "{row}");
        assert!(number(1, "resident") > 0.0 && number(0, "resident") == 0.0, "{row}");
        assert_eq!(number(0, "ops"), number(1, "ops"), "{row}");
    }
    // Every stat of a cold name is a round trip, which takes two switches.
    let stat = &rows[0]["cells"][1]["slices"][0];
    assert!(stat["switches"].as_f64().unwrap() > 0.9, "{stat}");
    assert!(is_empty(work.path()));
}

#[test]
fn memory_is_measured_and_a_daemon_at_its_limit_is_told() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let args = ["memory", "--target", "fuser", "--files", "2000", "--per-dir", "100"];
    let output = bench(work.path(), &args).args(["--nofile", "3000"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("| tmpfs | fuser |"), "{}", text(&output));

    // One descriptor per file does not go far.
    let output = bench(work.path(), &args).args(["--nofile", "1000"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("Too many open files"), "{}", text(&output));
    assert!(is_empty(work.path()));
}

#[test]
fn a_stopped_daemon_does_not_hang_the_bench() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let args = ["passthrough", "--target", "fuser", "--reps", "100", "--limit", "3"];
    let mut child = bench(work.path(), &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let daemon = wait_for_daemon(&mut child);
    thread::sleep(Duration::from_secs(2));
    send(daemon, rustix::process::Signal::STOP);
    let (success, said) = finish(child, Duration::from_secs(40));
    assert!(!success && said.contains("no progress within 3 s"), "{said}");
    assert!(is_empty(work.path()));
    assert!(!Path::new(&format!("/proc/{daemon}")).exists());
}

#[test]
fn a_killed_daemon_is_told() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let args = ["passthrough", "--target", "fuser", "--reps", "100"];
    let mut child = bench(work.path(), &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let daemon = wait_for_daemon(&mut child);
    thread::sleep(Duration::from_secs(2));
    send(daemon, rustix::process::Signal::KILL);
    let (success, said) = finish(child, Duration::from_secs(20));
    assert!(!success && said.contains("the daemon of fuser is gone"), "{said}");
    assert!(is_empty(work.path()));
}

#[test]
fn an_interrupt_ends_the_run_and_its_daemons() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let (out, name) = (tempfile::tempdir().unwrap(), "out.json");
    let args = ["passthrough", "--target", "native", "--target", "fuser", "--reps", "1000", "--scale", "0.1"];
    let mut child = bench(work.path(), &args)
        .arg("--json")
        .arg(out.path().join(name))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let daemon = wait_for_daemon(&mut child);
    thread::sleep(Duration::from_secs(3));
    send(child.id(), rustix::process::Signal::INT);
    let (success, said) = finish(child, Duration::from_secs(20));
    assert!(!success && said.contains("interrupted"), "{said}");
    // There is no progress bar where there is no terminal.
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(is_empty(work.path()));
    // The row that was not finished is there as far as it came.
    let report: Value = serde_json::from_slice(&fs::read(out.path().join(name)).unwrap()).unwrap();
    let turns = report["suites"][0]["rows"][0]["cells"][1]["slices"].as_array().unwrap().len();
    assert!((1..1000).contains(&turns), "{turns} turns");
    assert!(!Path::new(&format!("/proc/{daemon}")).exists());
}

#[test]
fn a_command_that_mounts_nothing_or_something_else_is_an_error() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let output = bench(work.path(), &["passthrough", "--target", "x=/bin/false {mnt}"]).output().unwrap();
    assert!(text(&output).contains("before it had mounted anything"), "{}", text(&output));

    let other = tempfile::tempdir().unwrap();
    let wrong = format!("x=env FROM={{src}} {} {} {{mnt}}", fuser().display(), other.path().display());
    let output = bench(work.path(), &["passthrough", "--target", &wrong]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("x does not work"), "{}", text(&output));
    assert!(is_empty(work.path()));
}

#[test]
fn round_trips_are_measured_beside_a_pipe() {
    let Some(fusewire) = can_mount().then(fusewire).flatten() else { return };
    let work = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let (json, html) = (out.path().join("out.json"), out.path().join("out.html"));
    let cpus = rustix::thread::sched_getaffinity(None).unwrap();
    let cpu = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| cpus.is_set(*cpu)).unwrap();
    let output =
        bench(work.path(), &["run", "round-trip", "--reps", "2", "--scale", "0.02", "--threads", "1"])
            .args(["-t", "pipe", "-t", "null", "-t", "short=fusewire:threads=1", "-t", "mem", "-t", "native"])
            .args(["--cpu", &cpu.to_string(), "--fusewire"])
            .arg(fusewire)
            .arg("--json")
            .arg(&json)
            .arg("--html")
            .arg(&html)
            .output()
            .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let rows = report["suites"][0]["rows"].as_array().unwrap();
    let names = |row: &Value| -> Vec<String> {
        let cells = row["cells"].as_array().unwrap().iter();
        cells.map(|cell| cell["target"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(rows.len(), 5);
    assert_eq!(names(&rows[0]), ["pipe", "null", "short", "mem", "native"]);
    assert_eq!(names(&rows[1]), ["null", "short", "mem", "native"], "a pipe carries no data");
    for cell in &rows[0]["cells"].as_array().unwrap()[..4] {
        // Each round trip is one switch there and one back.
        assert!(cell["slices"][1]["switches"].as_f64().unwrap() > 0.9, "{cell}");
        assert!(cell["slices"][1]["cpu_us"].as_f64() > cell["slices"][1]["client_us"].as_f64(), "{cell}");
    }
    assert!(fs::read_to_string(&html).unwrap().contains("compared with pipe"));
    assert!(is_empty(work.path()));
}

#[test]
fn a_slow_backend_is_slow_for_data_only_and_goals_are_told() {
    let Some(fusewire) = can_mount().then(fusewire).flatten() else { return };
    let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let json = out.path().join("out.json");
    let output = bench(work.path(), &["run", "backend", "--reps", "2", "--warmup", "0", "--scale", "0.05"])
        .args([
            "-t",
            "slow=null:channel=dev-fuse,delay=2ms",
            "-t",
            "fast=null:channel=dev-fuse",
            "--fusewire",
        ])
        .arg(fusewire)
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let rows = report["suites"][0]["rows"].as_array().unwrap();
    let median = |row: usize, cell: usize| rows[row]["cells"][cell]["slices"][1]["p50_us"].as_f64().unwrap();
    assert_eq!(rows[0]["workload"], "read-4k");
    assert!(median(0, 0) >= 2000.0 && median(0, 1) < 2000.0, "{}", rows[0]);
    assert!(median(1, 0) < 2000.0, "{}", rows[1]);
    let said = text(&output);
    for needle in ["## Goals", "| slow, operations per second | read-4k ×8 on tmpfs |", "≥ 3800", "slow/fast"]
    {
        assert!(said.contains(needle), "`{needle}` is missing in:\n{said}");
    }
    assert!(is_empty(work.path()));
}

/// A file of peers with one that runs the passthrough on fuser, which has no ring.
#[test]
fn a_peer_that_should_have_a_ring_and_has_none_is_refused() {
    if !can_mount() {
        return;
    }
    let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = out.path().join("peers.toml");
    let line = |ring: bool| {
        format!("peer = {{ programs = [\"fuser_passthrough\"], run = \"{{src}} {{mnt}}\", ring = {ring} }}\n")
    };
    let run = |ring: bool| {
        fs::write(&file, line(ring)).unwrap();
        bench(
            work.path(),
            &["passthrough", "--workload", "stat", "--reps", "1", "--scale", "0.01", "-t", "peer"],
        )
        .env("FUSEWIRE_BENCH_PEERS_DIR", fuser().parent().unwrap())
        .arg("--peers")
        .arg(&file)
        .output()
        .unwrap()
    };
    let output = run(false);
    assert!(output.status.success(), "{}", text(&output));
    let output = run(true);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("asked for io_uring and has no ring"), "{}", text(&output));
    assert!(is_empty(work.path()));
}

#[test]
fn the_own_code_of_a_daemon_is_told_where_perf_is() {
    let Some(fusewire) = can_mount().then(fusewire).flatten() else { return };
    if !Command::new("perf").arg("--version").output().is_ok_and(|output| output.status.success()) {
        skip::skipped("perf is not installed");
        return;
    }
    let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let json = out.path().join("out.json");
    let output = bench(work.path(), &["run", "user-time", "--reps", "1", "--warmup", "0", "--scale", "0.2"])
        .args(["-t", "pipe", "-t", "null:channel=dev-fuse", "-t", "native", "--cpu", "any", "--fusewire"])
        .arg(fusewire)
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let cells = report["suites"][0]["rows"][0]["cells"].as_array().unwrap();
    let number = |cell: usize, name: &str| cells[cell]["slices"][0][name].as_f64();
    let (own, daemon) =
        (number(1, "own_us").unwrap(), number(1, "cpu_us").unwrap() - number(1, "client_us").unwrap());
    assert!(own > 0.0 && own < daemon, "{}", cells[1]);
    assert!(number(0, "own_us").unwrap() < own, "an echo is less code than a filesystem: {}", cells[0]);
    assert_eq!((number(2, "own_us"), number(2, "user_us")), (None, None));
    assert!(is_empty(work.path()));
}

/// One of each kind of operation that `passthrough` does not have.
const ALL_KINDS: &str = r#"
    title = "every other kind"
    threads = [1, 2]
    [[workload]]
    name = "create"
    op = "create"
    ops = 40
    size = "5K"
    [[workload]]
    name = "rename"
    op = "rename"
    ops = 40
    [[workload]]
    name = "read-file"
    op = "read-file"
    ops = 40
    size = "5K"
    [[workload]]
    name = "append"
    op = "append"
    ops = 40
    size = 100
    [[workload]]
    name = "ls-l"
    op = "ls-l"
    ops = 200
    [[workload]]
    name = "write"
    op = "write"
    ops = 40
    block = "16K"
    total-size = "1M"
    [[workload]]
    name = "command"
    op = "command"
    sources = { dirs = 1, files = 2, headers = 3 }
    prepare = "cp -a {sources}/. {under}"
    run = "grep -rq 'int d0_f0' d0 && rm -r d0 && echo {threads} > made"
"#;

#[test]
fn every_kind_of_operation_works_on_files_of_the_source_and_of_the_mount() {
    if !can_mount() {
        return;
    }
    let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (file, json) = (out.path().join("kinds.toml"), out.path().join("out.json"));
    fs::write(&file, ALL_KINDS).unwrap();
    let mut command =
        bench(work.path(), &["run", "-t", "native", "-t", "fuser", "--reps", "1", "--warmup", "0"]);
    command.arg("--workloads").arg(&file).arg("--json").arg(&json);
    let mut targets = 2;
    if let Some(fusewire) = fusewire() {
        command.args(["-t", "mem", "--fusewire"]).arg(fusewire);
        targets += 1;
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["suites"][0]["name"], "kinds");
    let rows = report["suites"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 14);
    for cell in rows.iter().flat_map(|row| row["cells"].as_array().unwrap()) {
        assert_eq!(cell["slices"].as_array().unwrap().len(), 1, "{cell}");
    }
    assert!(rows.iter().all(|row| row["cells"].as_array().unwrap().len() == targets));
    assert!(is_empty(work.path()));
}

#[test]
fn fio_is_driven_on_a_mount() {
    let has_fio = Command::new("fio").arg("--version").output().is_ok_and(|output| output.status.success());
    if !has_fio {
        skip::skipped("fio is not installed");
    }
    if !can_mount() || !has_fio {
        return;
    }
    let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (file, json) = (out.path().join("fio.toml"), out.path().join("out.json"));
    let workload = "title = \"t\"\nthreads = [2]\n[[workload]]\nname = \"w\"\nop = \"fio\"\nfiles = 4\n\
        total-size = \"4M\"\nfio = { rw = \"randwrite\", bs = \"4k\", ioengine = \"psync\", direct = true }\n";
    fs::write(&file, workload).unwrap();
    let mut command =
        bench(work.path(), &["run", "-t", "native", "-t", "fuser", "--reps", "1", "--warmup", "0"]);
    let output = command.arg("--workloads").arg(&file).arg("--json").arg(&json).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let cells = &report["suites"][0]["rows"][0]["cells"];
    for target in 0..2 {
        let slice = &cells[target]["slices"][0];
        assert_eq!((slice["ops"].as_u64(), slice["bytes"].as_u64()), (Some(1024), Some(4 << 20)), "{slice}");
    }
    // Each write is a request: the daemon works as well.
    let daemon = &cells[1]["slices"][0];
    assert!(daemon["cpu_us"].as_f64().unwrap() > daemon["client_us"].as_f64().unwrap() + 1.0, "{daemon}");
    assert!(is_empty(work.path()));
}

#[test]
fn what_others_have_mounted_is_measured_in_a_directory_of_its_own() {
    if !can_mount() {
        return;
    }
    let (work, src, mnt) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // In a mount namespace of its own: nothing of it is left, whatever happens.
    let script = format!(
        "{} {} {} & daemon=$!; for i in $(seq 100); do mountpoint -q {2} && break; sleep 0.05; done; \
         {BENCH} run smallfile -t native -t at:{2} --reps 1 --warmup 0 --scale 0.01; status=$?; \
         umount {2}; wait $daemon; exit $status",
        fuser().display(),
        src.path().display(),
        mnt.path().display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--", "sh", "-c", &script])
        .env("TMPDIR", work.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("| at:"), "{}", text(&output));
    assert!(is_empty(work.path()) && is_empty(src.path()), "something was left behind");
}
