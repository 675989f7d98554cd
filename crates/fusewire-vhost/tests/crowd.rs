//! Many guests of one process, one after the other.

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
