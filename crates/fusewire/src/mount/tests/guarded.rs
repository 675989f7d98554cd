//! `auto_unmount`: the mount goes when its process dies, and nothing else does.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::guard::Guard;
use super::super::*;
use super::stage::{Server, answer_init, eventually, mounted_below, on_stage, unmount_idle};
use super::{EACH_WAY, plain};

/// Tells a copy of this test program what to do, and where.
pub const ROLE: &str = "FUSEWIRE_TEST_ROLE";
/// See [`ROLE`].
pub const PLACE: &str = "FUSEWIRE_TEST_PLACE";

/// Starts this test program again to play a role in [`super::user::role`], and waits until it says that it is ready.
pub fn start(command: &mut Command, role: &str, place: &Path) -> Child {
    let command = command.args(["--ignored", "--exact", "--nocapture", &role_test()]);
    let command = command.env(ROLE, role).env(PLACE, place).stdout(Stdio::piped());
    let mut started = command.spawn();
    // The program was just copied, and a fork in another test may still have it open for writing.
    while started.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ETXTBSY)) {
        thread::sleep(Duration::from_millis(5));
        started = command.spawn();
    }
    let mut child = started.expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let ready = lines.find(|line| line.contains("READY") || line.contains("FAILED"));
    // What it prints from now on must still go somewhere.
    thread::spawn(move || lines.for_each(drop));
    if !ready.as_ref().is_some_and(|line| line.contains("READY")) {
        let _ = child.kill();
        panic!("{role}: {ready:?}, {:?}", child.wait());
    }
    child
}

/// Name of the test that plays roles, wherever this module is.
fn role_test() -> String {
    let (_, path) = module_path!().split_once("::").expect("below a crate");
    path.replace("guarded", "user::role")
}

/// Whether the other end of the guard's line is closed within `time`: then it has ended.
fn has_ended(line: BorrowedFd<'_>, time: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(line, PollFlags::IN)];
    let time = Timespec::try_from(time).expect("short");
    poll(&mut fds, Some(&time)).expect("poll") == 1 && fds[0].revents().contains(PollFlags::HUP)
}

#[test]
fn a_mount_goes_with_its_killed_process() {
    on_stage("killed", |folder| {
        let at = folder.join("m");
        for role in ["guarded", "guarded-syscall"] {
            let this = std::env::current_exe().expect("this program");
            let mut child = start(&mut Command::new(this), role, &at);
            assert_eq!(mounted_below(folder), std::slice::from_ref(&at), "{role}");
            child.kill().expect("SIGKILL");
            child.wait().expect("dead");
            eventually("auto_unmount", || mounted_below(folder).is_empty());
        }
    });
}

#[test]
fn a_guard_ends_at_once_after_a_clean_unmount() {
    on_stage("dismissed", |folder| {
        let options = MountOptions { auto_unmount: true, ..Default::default() };
        for way in EACH_WAY {
            let mounted = mount_by(way, &folder.join("m"), &options, answer_init).expect("mounts");
            let line = match &*mounted.mount.guard() {
                Some(guard) => guard.line().try_clone_to_owned().expect("dup"),
                None => panic!("{way:?}: no guard"),
            };
            assert!(!has_ended(line.as_fd(), Duration::from_millis(100)), "{way:?}: it must watch");
            unmount_idle(&mounted.mount);
            assert!(has_ended(line.as_fd(), Duration::ZERO), "{way:?}");
        }
    });
}

#[test]
fn a_guard_unmounts_the_very_same_mount_or_nothing() {
    on_stage("same", |folder| {
        let at = folder.join("m");
        let (first, _server) = plain(Way::NewApi { sync_init: true }, &at);
        let guard = Guard::start(&at, first.identity, None).expect("starts");
        unmount_idle(&first);
        let (second, _other) = plain(Way::NewApi { sync_init: true }, &at);
        rustix::net::shutdown(guard.line(), rustix::net::Shutdown::Write).expect("end of file for the guard");
        assert!(has_ended(guard.line(), Duration::from_secs(5)));
        assert!(second.is_mounted(), "it was not the guard's to unmount");

        let guard = Guard::start(&at, second.identity, None).expect("starts");
        rustix::net::shutdown(guard.line(), rustix::net::Shutdown::Write).expect("end of file for the guard");
        assert!(has_ended(guard.line(), Duration::from_secs(5)));
        assert!(!second.is_mounted());
    });
}

#[test]
fn a_guard_does_not_keep_the_connection_alive() {
    on_stage("holds", |folder| {
        let at = folder.join("m");
        let options = MountOptions { auto_unmount: true, ..Default::default() };
        let Mounted { device, mount } = mount(&at, &options, answer_init).expect("mounts");
        drop(device);
        // A guard with a copy of the descriptor would let this wait for an answer.
        let error = std::fs::metadata(&at).expect_err("nobody serves any more");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
        mount.forget();
        assert_eq!(mounted_below(folder).len(), 1, "what was forgotten is guarded until the process ends");
        unmount_path(&at, true, false).expect("unmounts");
    });
}

/// Mounts and stays until it is killed.
pub fn mount_and_stay(way: Way, at: &Path) {
    let options = MountOptions { auto_unmount: true, ..Default::default() };
    let (_mount, _server) = Server::start(mount_by(way, at, &options, answer_init).expect("mounts"));
    println!("READY");
    thread::sleep(Duration::from_secs(60));
}
