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
                "user_us": cpu / 5.0, "own_us": null,
                "ops_per_s": 80_000.0, "p50_us": cpu, "p99_us": cpu * 2.0, "p999_us": cpu * 3.0, "switches": 2.0,
                "resident": 5_000_000, "others": [0.001, 0.2],
            })
        };
        cpu.iter().enumerate().map(slice).collect()
    };
    let workload = json!({"name": "stat", "about": "", "threads": [1], "ops": 8000, "passes": 1, "busy_others": false, "sampled": false, "op": "stat"});
    json!({
        "schema": 2, "version": "0", "made": "2026-01-01T00:00:00Z", "command": ["fusewire-bench"],
        "machine": {"kernel": "6.18", "arch": "x86_64", "cpu": "c", "cpus": 2, "memory": 1 << 30, "load": 0.0},
        "suites": [{
            "name": "passthrough", "title": "t", "profile": "auto",
            "plan": {"workloads": [workload], "threads": [], "reps": cpu.len(), "warmup": 0, "scale": 1.0, "retries": 0,
                     "quiet": 0.12, "pin": "free"},
            "targets": [{"name": "native", "kind": "directory"},
                        {"name": "fusewire", "kind": {"daemon": {"command": ["f", "{src}", "{mnt}"], "shows": "source",
                                                     "ring": false, "ends_by_unmount": false}}}],
            "pairs": [{"subject": "fusewire", "baseline": "native"}],
            "goals": [{"about": "g", "workloads": [], "threads": [], "subject": "fusewire", "baseline": "native",
                       "metric": "cpu", "at-most": 9.0, "at-least": null, "rows": "each"}],
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
    // CPU time, median and 99th percentile of two targets; the result has their rate stay as it is.
    assert!(text(&output).contains("6 regressions beyond noise"), "{}", text(&output));
    // Native has become slower as well: the machine did.
    let output = bench(&["compare", "--relative-to", "native", &old, &slow]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output = bench(&["compare", "--threshold", "50", &old, &slow]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output = bench(&["compare", "--metric", "throughput", "--metric", "memory", &old, &slow]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn what_users_wait_for_is_compared_without_being_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let good = result(&[10.0, 10.1, 10.2, 10.3, 10.4]);
    let old = store(dir.path(), "old.json", &good);
    let with = |number: &str, factor: f64| {
        let mut new = good.clone();
        for slice in new["suites"][0]["rows"][0]["cells"][1]["slices"].as_array_mut().unwrap() {
            slice[number] = (slice[number].as_f64().unwrap() * factor).into();
        }
        store(dir.path(), &format!("{number}.json"), &new)
    };
    for (number, factor, title) in [
        ("cpu_us", 5.0, "CPU µs per operation"),
        ("ops_per_s", 0.2, "operations per second"),
        ("p50_us", 5.0, "median latency, µs"),
        ("p99_us", 5.0, "99th percentile of the latency, µs"),
    ] {
        let output = bench(&["compare", &old, &with(number, factor)]);
        assert_eq!(output.status.code(), Some(1), "{number}: {}", text(&output));
        let said = text(&output);
        assert!(said.contains(&format!("| fusewire | {title} |")), "{number}: {said}");
        assert!(said.contains("8 compared: 1 worse, 7 same.") && said.contains("one regression"), "{said}");
    }
    // No number of these says what somebody gets.
    for number in ["p999_us", "switches"] {
        let output = bench(&["compare", &old, &with(number, 5.0)]);
        assert_eq!(output.status.code(), Some(0), "{number}: {}", text(&output));
    }
    let help = text(&bench(&["compare", "--help"]));
    assert!(help.contains("[default: cpu throughput p50 p99]") && help.contains("--only-common"), "{help}");
}

#[test]
fn a_number_that_was_0_can_become_a_regression() {
    let dir = tempfile::tempdir().unwrap();
    let with_switches = |name: &str, switches: f64| {
        let mut result = result(&[10.0, 10.1, 10.2, 10.3, 10.4]);
        for slice in result["suites"][0]["rows"][0]["cells"][1]["slices"].as_array_mut().unwrap() {
            slice["switches"] = switches.into();
        }
        store(dir.path(), name, &result)
    };
    let none = with_switches("none.json", 0.0);
    for (name, switches, status) in [("few.json", 0.01, 0), ("many.json", 50.0, 1)] {
        let output = bench(&["compare", "--metric", "switches", &none, &with_switches(name, switches)]);
        assert_eq!(output.status.code(), Some(status), "{name}: {}", text(&output));
    }
}

#[test]
fn what_is_missing_in_the_new_result_fails_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let cpu = [10.0, 10.1, 10.2, 10.3, 10.4];
    let mut whole = result(&cpu);
    let rows = whole["suites"][0]["rows"].as_array_mut().unwrap();
    let mut second = rows[0].clone();
    second["threads"] = 2.into();
    rows.push(second);
    let old = store(dir.path(), "old.json", &whole);

    let mut no_target = whole.clone();
    for row in no_target["suites"][0]["rows"].as_array_mut().unwrap() {
        row["cells"].as_array_mut().unwrap().remove(0);
    }
    let mut no_row = whole.clone();
    no_row["suites"][0]["rows"].as_array_mut().unwrap().pop();
    let mut no_cell = whole.clone();
    no_cell["suites"][0]["rows"][1]["cells"].as_array_mut().unwrap().remove(0);
    let mut no_turns = whole.clone();
    no_turns["suites"][0]["rows"][1]["cells"][0]["slices"] = json!([]);
    for (name, new, what) in [
        ("target.json", &no_target, "only the old result has the target native in passthrough"),
        ("row.json", &no_row, "only the old result has passthrough/stat x2 on tmpfs"),
        ("cell.json", &no_cell, "only the old result has native at passthrough/stat x2 on tmpfs"),
        ("turns.json", &no_turns, "only the old result has turns of native at passthrough/stat x2 on tmpfs"),
    ] {
        let new = store(dir.path(), name, new);
        let output = bench(&["compare", &old, &new]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", text(&output));
        assert!(text(&output).contains(what), "{name}: {}", text(&output));
        assert!(text(&output).contains("1 missing in the new result"), "{}", text(&output));
        assert!(!text(&output).contains("regression"), "{}", text(&output));
        let output = bench(&["compare", "--only-common", &old, &new]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output));
        assert!(text(&output).contains(what), "it is told all the same: {}", text(&output));
    }
    // What is more is no failure.
    let output = bench(&["compare", &store(dir.path(), "less.json", &no_row), &old]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn a_comparison_that_shows_nothing_does_not_pass() {
    let dir = tempfile::tempdir().unwrap();
    let few = store(dir.path(), "few.json", &result(&[10.0, 10.1, 10.2, 10.3]));
    let many = store(dir.path(), "many.json", &result(&[20.0, 20.1, 20.2, 20.3, 20.4]));
    let output = bench(&["compare", &few, &many]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("--reps 5 or more"), "{}", text(&output));

    let mut noisy = result(&[10.0, 10.1, 10.2, 10.3, 10.4]);
    for cell in noisy["suites"][0]["rows"][0]["cells"].as_array_mut().unwrap() {
        for slice in cell["slices"].as_array_mut().unwrap() {
            slice["others"] = json!([0.1, 0.2]);
        }
    }
    let noisy = store(dir.path(), "noisy.json", &noisy);
    assert_eq!(bench(&["compare", &noisy, &noisy]).status.code(), Some(1));
    assert_eq!(bench(&["compare", "--with-noisy", &noisy, &noisy]).status.code(), Some(0));
}

#[test]
fn damaged_and_strange_results_are_told_with_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let good = result(&[10.0, 10.1, 10.2, 10.3, 10.4]);
    let whole = store(dir.path(), "good.json", &good);
    let mut hollow = good.clone();
    hollow["suites"][0]["rows"][0]["cells"][1]["slices"][2]["cpu_us"] = Value::Null;
    let hollow = store(dir.path(), "hollow.json", &hollow);
    let path = dir.path().join("cut.json");
    fs::write(&path, &good.to_string()[..700]).unwrap();
    let cut = path.display().to_string();
    for (file, name) in [(&hollow, "hollow.json"), (&cut, "cut.json")] {
        for args in [["compare", &whole, file], ["compare", file, &whole]] {
            let output = bench(&args);
            assert_eq!(output.status.code(), Some(1), "{}", text(&output));
            assert!(text(&output).contains(name) && !text(&output).contains("panicked"), "{}", text(&output));
        }
    }
    let mut other = good;
    other["suites"][0]["name"] = "another".into();
    let other = store(dir.path(), "other.json", &other);
    let output = bench(&["compare", &whole, &other]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("no row and target in common"), "{}", text(&output));
}

#[test]
fn other_machines_and_rows_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let cpu = [10.0, 10.1, 10.2, 10.3, 10.4];
    let old = store(dir.path(), "old.json", &result(&cpu));
    let mut new = result(&cpu);
    new["machine"]["cpus"] = 64.into();
    let mut row = new["suites"][0]["rows"][0].clone();
    row["threads"] = 2.into();
    new["suites"][0]["rows"].as_array_mut().unwrap().push(row);
    let new = store(dir.path(), "new.json", &new);
    let output = bench(&["compare", &old, &new]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    for needle in [
        "there were 2 CPUs and are 64; consider --relative-to",
        "only the new result has passthrough/stat x2",
    ] {
        assert!(text(&output).contains(needle), "{}", text(&output));
    }
}

#[test]
fn a_missing_program_is_told_with_its_package() {
    for (preset, package) in
        [("dio-read", "apt-get install fio"), ("user-time", "apt-get install linux-perf")]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_fusewire-bench"))
            .args(["run", preset, "-t", "native"])
            .env("PATH", "/nonexistent")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains(package), "{}", text(&output));
    }
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
fn a_result_of_an_earlier_version_can_still_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = result(&[10.0, 10.2, 10.4]);
    let suite = &mut old["suites"][0];
    suite.as_object_mut().unwrap().remove("goals").unwrap();
    let workload = suite["plan"]["workloads"][0].as_object_mut().unwrap();
    ["sampled", "busy_others"].iter().for_each(|key| drop(workload.remove(*key).unwrap()));
    for slice in suite["rows"][0]["cells"][1]["slices"].as_array_mut().unwrap() {
        slice.as_object_mut().unwrap().retain(|key, _| key != "user_us" && key != "own_us");
    }
    let output = bench(&["report", &store(dir.path(), "old.json", &old)]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("| tmpfs | stat | 1 |"), "{}", text(&output));
}

#[test]
fn goals_are_told_again() {
    let dir = tempfile::tempdir().unwrap();
    let stored = store(dir.path(), "r.json", &result(&[10.0, 10.2, 10.4]));
    let output = bench(&["report", &stored]);
    let line =
        "| g | fusewire/native, CPU µs per operation | stat ×1 on tmpfs | 10.0 [10.0, 10.0] | ≤ 9 | missed |";
    assert!(text(&output).contains(line), "{}", text(&output));
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
