//! Counting what is asked of a daemon, on real mounts. Without root, /dev/fuse or the command fusewire there is nothing to
//! test: the tests say so and end.

#[path = "../src/skip.rs"]
mod skip;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_fusewire-bench");

const FILE: &str = r#"
title = "Counted"
threads = [1]
targets = [
    "native",
    "asking=fusewire:cache=none,passthrough=off",
    "keeping=fusewire:cache=always,passthrough=off",
    "unknown=fusewire:cache=somehow?",
]

[[workload]]
name = "twice"
op = "command"
counted = true
kernel = true
run = "for i in 1 2 3; do cat {kernel}/sub/Kbuild | cat; done > copy; test -s copy"

[[goal]]
about = "fewer"
subject = "keeping"
baseline = "asking"
metric = "requests"
at-most = 0.9
"#;

fn bench(kernel: &Path, work: &Path, args: &[&str]) -> Option<Output> {
    let fusewire = Path::new(BENCH).with_file_name("fusewire");
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() || !fusewire.exists() {
        skip::skipped("needs root, /dev/fuse, and fusewire beside the bench: cargo build -p fusewire-cli");
        return None;
    }
    let mut command = Command::new(BENCH);
    command.arg("run").args(args).arg("--fusewire").arg(fusewire).args(["--reps", "2", "--warmup", "0"]);
    command.env("TMPDIR", work).env("FUSEWIRE_BENCH_KERNEL", kernel).stdin(Stdio::null());
    Some(command.output().unwrap())
}

#[test]
fn requests_are_counted_by_operation_for_each_mount() {
    let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let kernel = out.path().join("sources");
    fs::create_dir_all(kernel.join("sub")).unwrap();
    fs::write(kernel.join("Kbuild"), "obj-y := a.o\n").unwrap();
    fs::write(kernel.join("sub/Kbuild"), "obj-y := b.o\n").unwrap();
    let path = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    let (file, json, html) = (path("counted.toml"), path("out.json"), path("out.html"));
    fs::write(&file, FILE).unwrap();
    let args = ["--workloads", &file, "--json", &json, "--html", &html];
    let Some(output) = bench(&kernel, work.path(), &args) else { return };
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{told}");
    assert!(told.contains("unknown=fusewire:cache=somehow is left out"), "{told}");

    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let cells = report["suites"][0]["rows"][0]["cells"].as_array().unwrap();
    let requests = |cell: usize, name: &str| {
        let slices = cells[cell]["slices"].as_array().unwrap();
        slices.iter().map(|slice| slice["requests"][name].as_u64().unwrap_or(0)).collect::<Vec<_>>()
    };
    assert_eq!(cells[0]["slices"][0]["requests"], Value::Null, "nobody serves the directory itself");
    // Through a pipe, since cat(1) has files copied by the kernel otherwise. Of each of three times: to read what is not kept is asked for again.
    assert_eq!(requests(1, "OPEN"), [3, 3], "{cells:#?}");
    assert!(requests(1, "READ").iter().all(|count| *count >= 3), "{cells:#?}");
    assert!(
        requests(1, "LOOKUP").iter().zip(requests(2, "LOOKUP")).all(|(many, few)| *many > few),
        "{cells:#?}"
    );
    assert_eq!(requests(1, "CREATE"), [1, 1], "{cells:#?}");

    assert!(said.contains("## Requests by operation: twice on tmpfs, 1 threads"), "{said}");
    assert!(said.contains("| operation | asking | keeping |") && said.contains("| **all** |"), "{said}");
    assert!(said.contains("requests per operation") && said.contains("reached"), "{said}");
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("Requests by operation: twice") && page.contains("lookup"), "{page}");
    assert!(fs::read_dir(work.path()).unwrap().next().is_none());
}

#[test]
fn without_kernel_sources_it_says_what_to_do() {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("counted.toml");
    fs::write(&file, FILE).unwrap();
    let nowhere = work.path().join("nowhere");
    let Some(output) = bench(&nowhere, work.path(), &["--workloads", file.to_str().unwrap()]) else { return };
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("FUSEWIRE_BENCH_KERNEL names"), "{told}");
    assert!(told.contains("workload twice"), "{told}");
}

/// Presets with a small table's worth of one workload each, and how many requests its pass must have made at least.
const OF_THE_RING: [(&str, &str, &str, u64); 5] = [
    ("paged-read", include_str!("../workloads/paged-read.toml"), "paged-read-128k", 8),
    ("dio-read", include_str!("../workloads/dio-read.toml"), "dio-read-1m", 8),
    ("mmap-read", include_str!("../workloads/mmap-read.toml"), "mmap-read-4k", 2048),
    ("fio-rw", include_str!("../workloads/fio-rw.toml"), "randwrite-4k-direct", 2048),
    ("field", include_str!("../workloads/field.toml"), "read-128k-d", 64),
];

/// What the kernel reads by itself says nothing of a channel.
#[test]
fn presets_of_the_ring_make_requests_over_both_channels() {
    if !Command::new("fio").arg("--version").output().is_ok_and(|output| output.status.success()) {
        skip::skipped("fio is not installed");
        return;
    }
    let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let json = out.path().join("out.json").to_str().unwrap().to_owned();
    let mut args = vec!["--json".to_owned(), json.clone()];
    for (name, text, workload, _) in OF_THE_RING {
        // As they are, with less to do, and counted.
        let small = |line: &str| match line.split(" = ").next() {
            Some("total-size") => "total-size = \"8M\"\n".to_owned(),
            Some("threads") => "threads = [1]\n".to_owned(),
            Some("op") => format!("{line}\ncounted = true\n"),
            _ => format!("{line}\n"),
        };
        let file = out.path().join(format!("{name}.toml"));
        fs::write(&file, text.lines().map(small).collect::<String>()).unwrap();
        args.extend(["--workloads", file.to_str().unwrap(), "--workload", workload].map(String::from));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some(output) = bench(out.path(), work.path(), &args) else { return };
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{told}", String::from_utf8_lossy(&output.stdout));

    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let mut channels = vec!["dev-fuse"];
    // Where there is none, it says so and goes on.
    if !told.contains("ring=fusewire:channel=uring,passthrough=off is left out") {
        channels.push("ring");
    }
    for ((name, _, workload, least), suite) in OF_THE_RING.iter().zip(report["suites"].as_array().unwrap()) {
        let row = &suite["rows"][0];
        assert_eq!((suite["name"].as_str(), row["workload"].as_str()), (Some(*name), Some(*workload)));
        for channel in &channels {
            let cell = row["cells"].as_array().unwrap().iter().find(|cell| cell["target"] == **channel);
            let cell = cell.unwrap_or_else(|| panic!("{name}: there is no {channel}"));
            let requests = &cell["slices"][0]["requests"];
            let data = ["READ", "WRITE"].map(|name| requests[name].as_u64().unwrap_or(0));
            assert!(data.iter().sum::<u64>() >= *least, "{name} over {channel}: {requests}");
        }
    }
    assert!(fs::read_dir(work.path()).unwrap().next().is_none());
}
