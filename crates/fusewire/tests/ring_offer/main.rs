//! Trying whether there can be a ring. Alone in its process: it counts threads and descriptors.

mod sys;

use fusewire::{
    channel::uring::{Reason, RingSize},
    server::{Channel, Options, try_ring},
};
use std::{fs, thread, time::Duration};

fn count(what: &str) -> usize {
    fs::read_dir(format!("/proc/self/{what}")).expect("listed").count()
}

fn tried() -> Result<RingSize, Reason> {
    try_ring(&Options { threads: Some(1), memory: Some(8 << 20), ..Options::default() })
}

/// The same where a filter forbids one system call.
fn filtered(call: i64) -> Result<RingSize, Reason> {
    let body = move || {
        sys::forbid(call, libc::EPERM).expect("a filter");
        let tried = tried();
        if let Err(reason) = &tried {
            // What the filter forbids is told by the thread it is in force for.
            assert!(reason.remedy().contains("seccomp"), "{reason}: {}", reason.remedy());
        }
        tried
    };
    thread::spawn(body).join().expect("no panic")
}

#[test]
fn the_ring_is_tried_and_nothing_is_left_behind() {
    let before = (count("task"), count("fd"));
    let asked = try_ring(&Options { channel: Channel::DevFuse, ..Options::default() });
    assert_eq!(asked.expect_err("not asked for").to_string(), "/dev/fuse was asked for");
    match tried() {
        Ok(ring) => {
            assert!(ring.threads == 1 && ring.queues > 0 && ring.entries >= ring.queues, "{ring:?}");
            // A thread that found out later would leave a mount that answers nothing.
            for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_register, libc::SYS_io_uring_enter] {
                let reason = filtered(call).expect_err("it works without this system call");
                assert!(matches!(reason, Reason::SetUp(_)), "{call}: {reason}");
            }
        }
        Err(reason) => println!("no ring here: {reason}; {}", reason.remedy()),
    }
    // A thread that has been waited for is listed for a moment.
    for _ in 0..500 {
        if (count("task"), count("fd")) == before {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!((count("task"), count("fd")), before);
}
