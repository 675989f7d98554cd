//! Many guests of one process: what one costs that does nothing.

mod support;

use fusewire_vhost::{
    Options,
    kit::{Layout, Maps},
};
use std::{fs, path::Path};
use support::{Guest, passthrough};

const ROOT: u64 = 1;

/// What a process has of something, as `/proc/PID/status` says.
fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("proc");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the line");
    line.trim_start_matches(':').split_whitespace().next().expect("a number").parse().expect("a number")
}

fn descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").expect("proc").count() as u64
}

fn layout() -> Layout {
    Layout { data: 4096, depth: 2, size: 16, window: Maps::Nothing, ..Layout::default() }
}

fn guest(dir: &Path) -> Guest {
    let options = Options { queues: 1, ..Options::default() };
    let mut guest = Guest::start(passthrough(dir), options, layout());
    guest.monitor.driver().init().expect("init");
    guest.monitor.driver().getattr(ROOT).expect("getattr");
    guest
}

#[test]
fn a_guest_that_came_and_went_leaves_nothing() {
    let dir = tempfile::tempdir().expect("directory");
    guest(dir.path()).end();
    let before = (descriptors(), status("Threads"));
    for _ in 0..20 {
        guest(dir.path()).end();
    }
    assert_eq!((descriptors(), status("Threads")), before);
}

#[test]
#[ignore = "prints what a guest costs"]
fn what_a_guest_costs() {
    let dir = tempfile::tempdir().expect("directory");
    guest(dir.path()).end();
    let count = 100;
    let zero = status("VmRSS");
    let all: Vec<_> = (0..count).map(|_| passthrough(dir.path())().expect("fs")).collect();
    eprintln!("passthrough alone {} KiB", (status("VmRSS") - zero) / count);
    drop(all);
    let zero = status("VmRSS");
    let gate = std::sync::Arc::new(std::sync::Barrier::new(count as usize + 1));
    let all: Vec<_> = (0..count)
        .map(|_| {
            let gate = gate.clone();
            std::thread::spawn(move || {
                gate.wait();
                gate.wait();
            })
        })
        .collect();
    gate.wait();
    eprintln!("thread alone {} KiB", (status("VmRSS") - zero) / count);
    gate.wait();
    all.into_iter().for_each(|t| t.join().unwrap());
    let zero = status("VmRSS");
    let all: Vec<_> = (0..count)
        .map(|_| {
            fusewire_vhost::Device::new(passthrough(dir.path()), Options { queues: 1, ..Options::default() })
                .unwrap()
        })
        .collect();
    eprintln!("device alone {} KiB", (status("VmRSS") - zero) / count);
    drop(all);
    let zero = status("VmRSS");
    let all: Vec<_> = (0..count)
        .map(|_| {
            Guest::start(
                passthrough(dir.path()),
                Options { queues: 1, tag: Some("x".into()), ..Options::default() },
                layout(),
            )
        })
        .collect();
    eprintln!("connected {} KiB", (status("VmRSS") - zero) / count);
    drop(all);
    let before = (status("VmRSS"), status("Threads"), descriptors());
    let guests: Vec<_> = (0..count).map(|_| guest(dir.path())).collect();
    let after = (status("VmRSS"), status("Threads"), descriptors());
    eprintln!(
        "a guest, both sides: {} KiB, {:.1} threads, {:.1} descriptors",
        (after.0 - before.0) / count,
        (after.1 - before.1) as f64 / count as f64,
        (after.2 - before.2) as f64 / count as f64
    );
    guests.into_iter().for_each(Guest::end);
}
