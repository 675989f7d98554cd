//! The harness itself: what is left behind fails a test, and what hangs does not hang for ever.

use fusewire_tests::mount;
use fusewire_tests::program::program;
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::wait::{self, SOON};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// The message with which `work` panics.
fn complaint(work: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(work)).expect_err("nobody noticed");
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "no text".to_owned())
}

#[test]
fn the_watchdog_frees_the_clients_of_a_hung_server() {
    let start = Instant::now();
    let Some(sandbox) = Sandbox::enter(Duration::from_secs(6)) else { return };
    let mut mount = mount::passthrough(&sandbox).start();
    mount.expect_trouble();
    mount.pause();
    // Without the watchdog this waits for ever, and no signal to this thread could end it.
    mount.join("unknown").metadata().expect_err("the server is stopped");
    assert!(start.elapsed() >= Duration::from_secs(2), "it was not the watchdog");
    assert!(mount.end_within(SOON).is_some(), "the server outlives the watchdog");
}

#[test]
fn a_forgotten_process_fails_the_test() {
    let Some(sandbox) = sandbox::enter() else { return };
    let running = program("sleep").arg("1000").start();
    let message = complaint(|| drop(sandbox));
    assert!(message.contains("left behind") && message.contains("sleep"), "{message}");
    drop(running);
}

#[test]
fn a_forgotten_mount_fails_the_test() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mut mount = mount::passthrough(&sandbox).start();
    mount.kill();
    let message = complaint(|| drop(sandbox));
    assert!(message.contains("left behind") && message.contains("a.mnt"), "{message}");
    assert!(!mount.is_mounted(), "it is still there");
}

#[test]
fn a_server_that_mounts_nothing_fails_the_test() {
    let Some(sandbox) = sandbox::enter() else { return };
    let missing = sandbox.dir().join("missing");
    let message = complaint(|| drop(mount::passthrough(&sandbox).source(&missing).start()));
    assert!(message.contains("mounted nothing"), "{message}");
}

#[test]
fn a_server_killed_behind_the_back_of_the_test_is_noticed() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    mount.signal(rustix::process::Signal::KILL);
    let message = complaint(|| mount.stop());
    assert!(message.contains("the server ended with"), "{message}");
    let _ = program("umount").arg("-l").arg(sandbox.dir().join("a.mnt")).run();
}

#[test]
fn mounts_of_a_test_are_seen_by_nobody_else() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    // The first thread of this process never left the namespace in which the tests were started.
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is_main =
        std::fs::read_link("/proc/thread-self/ns/mnt").ok() == std::fs::read_link("/proc/self/ns/mnt").ok();
    let point = mount.path().to_string_lossy().into_owned();
    assert!(is_main || !table.contains(&point), "the mount can be seen outside of the test");
    wait::assert_within(SOON, "and it is there inside", || mount.is_mounted());
    mount.stop();
}
