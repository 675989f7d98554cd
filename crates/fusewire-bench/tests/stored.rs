//! What the program does with files: stored results, workload files, its exit statuses. Nothing is mounted here.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fusewire-bench")).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A result with one row, in which `fusewire` has these CPU times and `native` a tenth of them.
fn result(cpu: &[f64]) -> Value {
    let slices = |factor: f64| -> Vec<Value> {
        let slice = |(rep, cpu): (usize, &f64)| {
            let cpu = cpu * factor;
            json!({
                "rep": rep, "ops": 8000, "bytes": 0, "seconds": 0.1, "cpu_us": cpu, "client_us": cpu / 2.0,
                "ops_per_s": 80_000.0, "p50_us": cpu, "p99_us": cpu * 2.0, "p999_us": cpu * 3.0, "switches": 2.0,
                "resident": 5_000_000, "others": [0.001, 0.2],
            })
        };
        cpu.iter().enumerate().map(slice).collect()
    };
    let workload =
        json!({"name": "stat", "about": "", "threads": [1], "ops": 8000, "passes": 1, "op": "stat"});
    json!({
        "schema": 2, "version": "0", "made": "2026-01-01T00:00:00Z", "command": ["fusewire-bench"],
        "machine": {"kernel": "6.18", "arch": "x86_64", "cpu": "c", "cpus": 2, "memory": 1 << 30, "load": 0.0},
        "suites": [{
            "name": "passthrough", "title": "t", "profile": "auto",
            "plan": {"workloads": [workload], "threads": [], "reps": cpu.len(), "warmup": 0, "scale": 1.0, "retries": 0,
                     "quiet": 0.12, "pin": "free"},
            "targets": [{"name": "native", "kind": "directory"},
                        {"name": "fusewire", "kind": {"daemon": {"command": ["f", "{src}", "{mnt}"], "shows": "source"}}}],
            "pairs": [{"subject": "fusewire", "baseline": "native"}],
            "rows": [{"lower": "tmpfs", "workload": "stat", "threads": 1, "cells": [
                {"target": "native", "slices": slices(0.1), "error": null},
                {"target": "fusewire", "slices": slices(1.0), "error": null},
            ]}],
        }],
    })
}

fn store(dir: &Path, name: &str, value: &Value) -> String {
    let path = dir.join(name);
    fs::write(&path, value.to_string()).unwrap();
    path.display().to_string()
}

#[test]
fn a_regression_beyond_noise_fails_and_noise_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let old = store(dir.path(), "old.json", &result(&[10.0, 10.1, 10.2, 10.3, 10.4]));
    let noise = store(dir.path(), "noise.json", &result(&[10.5, 9.9, 10.6, 10.1, 10.0]));
    let slow = store(dir.path(), "slow.json", &result(&[13.0, 13.1, 13.2, 13.3, 13.4]));

    for [old, new] in [[&old, &old], [&old, &noise], [&slow, &old]] {
        let output = bench(&["compare", old, new]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
    let output = bench(&["compare", &old, &slow]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("| fusewire | CPU µs per operation | 10.2 | 13.2 | 1.29 |"),
        "{}",
        text(&output)
    );
    assert!(text(&output).contains("2 regressions beyond noise"), "{}", text(&output));
    // Native has become slower as well: the machine did.
    let output = bench(&["compare", "--relative-to", "native", &old, &slow]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output = bench(&["compare", "--threshold", "50", &old, &slow]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output = bench(&["compare", "--metric", "throughput", "--metric", "memory", &old, &slow]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn what_stops_working_fails() {
    let dir = tempfile::tempdir().unwrap();
    let cpu = [10.0, 10.1, 10.2, 10.3, 10.4];
    let old = store(dir.path(), "old.json", &result(&cpu));
    let mut broken = result(&cpu);
    broken["suites"][0]["rows"][0]["cells"][1]["error"] = "EIO".into();
    let new = store(dir.path(), "new.json", &broken);
    let output = bench(&["compare", &old, &new]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("**FAILS**"), "{}", text(&output));
}

#[test]
fn a_stored_result_becomes_the_same_report_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let stored = store(dir.path(), "old.json", &result(&[10.0, 10.2, 10.4]));
    let (json, md, html) = (path("again.json"), path("out.md"), path("out.html"));
    let output = bench(&["report", &stored, "--json", &json, "--markdown", &md, "--html", &html]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(fs::read(&md).unwrap(), output.stdout);
    let again: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(again, result(&[10.0, 10.2, 10.4]));
    assert!(fs::read_to_string(&html).unwrap().contains("<svg"));
    let second = bench(&["report", &json]);
    assert_eq!(second.stdout, output.stdout);
}

#[test]
fn files_that_are_wrong_are_told_with_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    fs::write(&file, "title = \"t\"\n[[workload]]\nname = \"w\"\nop = \"stat\"\nthreads = [1]\n").unwrap();
    let output = bench(&["run", "--workloads", file.to_str().unwrap(), "-t", "native"]);
    assert_eq!(output.status.code(), Some(1));
    for needle in ["mine.toml", "workload \"w\"", "key \"ops\" is missing"] {
        assert!(text(&output).contains(needle), "{}", text(&output));
    }
    let output = bench(&["compare", "/no/such.json", "/no/such.json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("/no/such.json"), "{}", text(&output));
    let output = bench(&["run", "passthrough", "-t", "native", "--html", "/no/such/dir/x.html"]);
    assert!(text(&output).contains("there is no directory /no/such/dir"), "{}", text(&output));
}

#[test]
fn wrong_command_lines_end_with_2() {
    for args in [
        &[][..],
        &["run"],
        &["run", "passthrough", "--cpu", "x"],
        &["compare", "a"],
        &["compare", "a", "b", "--metric", "x"],
        &["run", "passthrough", "--pin", "--cpu", "0"],
    ] {
        assert_eq!(bench(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(bench(&["list"]).status.code(), Some(0));
}
