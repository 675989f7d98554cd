//! Many guests of one process, one after the other.

mod support;

use fusewire_vhost::{
    Options,
    kit::{Layout, Maps},
};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
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

/// Whether it becomes so.
fn until(so: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let is_last = Instant::now() >= end;
        if so() || is_last {
            return so();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_guest_that_came_and_went_leaves_nothing() {
    let dir = tempfile::tempdir().expect("directory");
    guest(dir.path()).end();
    // A thread that was waited for is counted for a moment still, also one of before; twenty are what is left of twenty guests.
    let now = || [descriptors(), status("Threads")];
    let before = now();
    for _ in 0..20 {
        guest(dir.path()).end();
    }
    let none_is_left = || now().iter().zip(&before).all(|(now, before)| now <= before);
    assert!(until(none_is_left), "{:?}, and {before:?} before", now());
}

#[test]
fn a_guest_whose_requests_all_hang_takes_no_more_threads_than_it_may_have() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("pipe");
    let (fs, hung) = support::Hanging::over(&path);
    let mut good = guest(dir.path());
    let options = Options { queues: 1, spares: 2, ..Options::default() };
    let mut bad = Guest::start(move || Ok(fs.clone()), options, Layout { depth: 8, ..Layout::default() });
    bad.monitor.driver().init().expect("init");
    let before = status("Threads");
    for _ in 0..6 {
        bad.monitor.driver().send_read(ROOT, 0, 0, 4);
    }
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(10));
        good.monitor.driver().getattr(ROOT).expect("the other guest is served");
    }
    let more = || status("Threads") - before;
    assert!(until(|| more() > 0), "nobody stands in");
    std::thread::sleep(Duration::from_millis(100));
    assert!(more() <= 2, "{} threads stand in", more());
    hung.release(6);
    for _ in 0..6 {
        let reply = bad.monitor.driver().receive(Duration::from_secs(10)).expect("answer");
        assert_eq!(bad.monitor.driver().data_of(reply).as_deref(), Ok(&b"late"[..]));
    }
    good.end();
    bad.end();
}

#[test]
fn a_guest_whose_requests_never_end_can_be_ended_all_the_same() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("pipe");
    let (fs, hung) = support::Hanging::over(&path);
    let options = Options { queues: 1, spares: 2, ..Options::default() };
    let mut guest = Guest::start(move || Ok(fs.clone()), options, Layout { depth: 8, ..Layout::default() });
    guest.monitor.driver().init().expect("init");
    for _ in 0..3 {
        guest.monitor.driver().send_read(ROOT, 0, 0, 4);
    }
    std::thread::sleep(Duration::from_millis(200));
    let began = Instant::now();
    guest.end();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    hung.release(3);
}
