//! What clients see, and what is left, when the server dies, hangs, is aborted or unmounted from outside.

use fusewire_tests::command::{self, Cache};
use fusewire_tests::mount::{self, Mount};
use fusewire_tests::mountinfo;
use fusewire_tests::program::{Running, as_user, program, shell};
use fusewire_tests::sandbox;
use fusewire_tests::skip::find_program;
use fusewire_tests::wait::{self, SOON};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

/// How long a client is watched before it counts as waiting.
const BLOCKED: Duration = Duration::from_millis(700);

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<Errno> {
    Errno::from_io_error(&result.expect_err("should have failed"))
}

/// The errors of a connection that is gone: ENOTCONN for new requests, ECONNABORTED for those under way; over the ring also
/// ECANCELED, for what the thread was to be given that has died.
fn is_disconnected(error: Option<Errno>) -> bool {
    matches!(error, Some(Errno::NOTCONN | Errno::CONNABORTED))
        || (command::is_over_ring() && error == Some(Errno::CANCELED))
}

/// Clients that wait in one directory: lookups of new names, creations, a listing.
fn clients_in(dir: &Path) -> Vec<Running> {
    let mut clients: Vec<_> =
        (0..3).map(|i| program("stat").arg(dir.join(format!("unknown-{i}"))).start()).collect();
    clients.extend((0..3).map(|i| program("touch").arg(dir.join(format!("new-{i}"))).start()));
    clients.push(program("ls").arg("-la").arg(dir).start());
    clients.push(program("mkdir").arg(dir.join("newdir")).start());
    clients
}

#[test]
fn clients_of_a_killed_server_get_enotconn_and_nothing_hangs() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mut mount = mount::passthrough(&sandbox).start();
    std::fs::write(mount.join("file"), "before").unwrap();
    let mut open = File::open(mount.join("file")).unwrap();
    mount.kill();
    if command::is_over_ring() {
        // The kernel takes a ring down a moment after its owner; a request that comes in between is aborted, or cancelled
        // if it was on its way to a thread that has ended.
        let between = errno(mount.join("unknown").metadata());
        assert!(is_disconnected(between) || between == Some(Errno::CANCELED), "{between:?}");
        wait::assert_within(SOON, "the ring is gone", || {
            errno(mount.join("file").metadata()) == Some(Errno::NOTCONN)
        });
    }
    assert_eq!(errno(mount.join("file").metadata()), Some(Errno::NOTCONN));
    assert_eq!(errno(std::fs::read_dir(mount.path())), Some(Errno::NOTCONN));
    assert_eq!(errno(File::create(mount.join("new"))), Some(Errno::NOTCONN));
    // What the kernel has in its cache may still be read; anything else must say so.
    let mut text = String::new();
    match open.read_to_string(&mut text) {
        Ok(_) => assert_eq!(text, "before"),
        Err(error) => assert!(is_disconnected(Errno::from_io_error(&error)), "{error}"),
    }
    drop(open);
    program("umount").arg(mount.path()).ok();
    assert!(!mount.is_mounted());
    assert_eq!(std::fs::read_to_string(mount.below("file")).unwrap(), "before");
}

#[test]
fn clients_waiting_for_a_killed_server_are_released() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mut mount = mount::passthrough(&sandbox).start();
    mount.pause();
    let mut clients = clients_in(mount.path());
    std::thread::sleep(BLOCKED);
    assert!(clients.iter_mut().all(Running::is_running), "the server is stopped and still somebody answers");
    mount.kill();
    for client in &mut clients {
        let status = client.end_within(SOON).expect("a client still waits for a dead server");
        assert!(!status.success());
    }
    program("umount").arg(mount.path()).ok();
}

#[test]
fn a_killed_server_leaves_no_mount_with_auto_unmount() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mut mount = mount::passthrough(&sandbox).auto_unmount().start();
    std::fs::write(mount.join("file"), "text").unwrap();
    mount.kill();
    wait::assert_within(SOON, "the mount of a killed server is gone", || !mount.is_mounted());
    assert_eq!(
        std::fs::read_dir(mount.path()).unwrap().count(),
        0,
        "the mount point is an empty directory again"
    );
}

/// Its path may be another one by then: a directory above was renamed, or it was moved itself.
#[test]
fn a_moved_mount_of_a_killed_server_goes_with_auto_unmount() {
    let Some(sandbox) = sandbox::enter() else { return };
    let may = |user: Option<&str>| user.is_none() || find_program("fusermount3").is_some();
    for (number, user) in [None, Some("daemon")].into_iter().filter(|user| may(*user)).enumerate() {
        for is_renamed in [true, false] {
            let parent = format!("{}-{number}", if is_renamed { "renamed" } else { "moved" });
            let plan = mount::passthrough(&sandbox).name(&format!("{parent}/a")).auto_unmount();
            let above = sandbox.make_dir(&parent);
            let mut mount = match user {
                Some(user) => plan.user(user).start(),
                None => plan.start(),
            };
            if let Some(user) = user {
                // Theirs is visible before it is served and guarded.
                as_user(user, "ls").arg(mount.path()).ok();
            }
            let other = sandbox.dir().join(format!("{parent}, elsewhere"));
            let now = if is_renamed {
                std::fs::rename(&above, &other).unwrap();
                other.join("a.mnt")
            } else {
                std::fs::create_dir(&other).unwrap();
                program("mount").arg("--move").args([mount.path(), &other]).ok();
                other
            };
            let connection = mountinfo::at(&now).expect("it is there now").minor;
            mount.kill();
            let is_there =
                || mountinfo::read().iter().any(|entry| entry.minor == connection && entry.is_fuse());
            wait::assert_within(SOON, "the mount of a killed server is gone", || !is_there());
        }
    }
}

#[test]
fn clients_waiting_for_a_stopped_server_can_be_killed() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    std::fs::create_dir(mount.join("dir")).unwrap();
    mount.pause();
    let mut clients = clients_in(&mount.join("dir"));
    std::thread::sleep(BLOCKED);
    assert!(clients.iter_mut().all(Running::is_running), "the server is stopped and still somebody answers");
    for client in &mut clients {
        client.signal(Signal::KILL);
    }
    // Over io_uring a request belongs to a thread of the server once the queue has an entry for it, and is copied by that
    // thread alone: whoever made it cannot be killed while the server is stopped (`docs/semantics.md`).
    if command::is_over_ring() {
        mount.signal(Signal::CONT);
    }
    for client in &mut clients {
        assert!(client.end_within(Duration::from_secs(5)).is_some(), "a waiting client cannot be killed");
    }
    mount.signal(Signal::CONT);
    assert_eq!(std::fs::read_dir(mount.join("dir")).unwrap().filter(|entry| entry.is_err()).count(), 0);
    std::fs::write(mount.join("dir/after"), "works again").unwrap();
    mount.stop();
}

#[test]
fn clients_waiting_for_a_stopped_server_go_on_when_it_does() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    mount.pause();
    let mut clients = clients_in(mount.path());
    std::thread::sleep(BLOCKED);
    mount.signal(Signal::CONT);
    for client in &mut clients {
        assert!(client.end_within(SOON).is_some(), "a client was forgotten");
    }
    for name in ["new-0", "new-1", "new-2", "newdir"] {
        assert!(mount.below(name).exists(), "{name}");
    }
    mount.stop();
}

#[test]
fn an_aborted_connection_releases_everybody_and_ends_the_server() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mut mount = mount::passthrough(&sandbox).start();
    let mut open = File::create(mount.join("file")).unwrap();
    open.write_all(b"text").unwrap();
    mount.pause();
    let mut clients = clients_in(mount.path());
    std::thread::sleep(BLOCKED);
    mount.abort();
    assert!(is_disconnected(errno(mount.join("unknown").metadata())));
    assert!(is_disconnected(errno(open.write_all(b"more").and_then(|()| open.sync_all()))));
    if command::is_over_ring() {
        // As above: what a stopped thread has taken over ends when the thread goes on.
        mount.signal(Signal::CONT);
    }
    for client in &mut clients {
        let status = client.end_within(SOON).expect("a client outlives the abort");
        // A server that goes on takes the dead mount away, and a name may then lead to what is below.
        assert!(command::is_over_ring() || !status.success());
    }
    mount.signal(Signal::CONT);
    let status = mount.end_within(SOON).expect("the server goes on without a connection");
    assert!(status.code().is_some(), "a signal ended the server: {status}");
    drop(open);
    assert_gone_or_dead(&mount);
}

/// After an abort the server may have unmounted, or has left the dead mount to its owner, who can.
fn assert_gone_or_dead(mount: &Mount) {
    if mount.is_mounted() {
        assert!(is_disconnected(errno(mount.path().metadata())));
        program("umount").arg(mount.path()).ok();
    }
    assert!(!mount.is_mounted());
}

#[test]
fn an_external_umount_ends_the_server_with_code_0() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mut mount = mount::passthrough(&sandbox).start();
    std::fs::write(mount.join("file"), "kept").unwrap();
    program("umount").arg(mount.path()).ok();
    let status = mount.end_within(SOON).expect("the server goes on without a mount");
    assert_eq!(status.code(), Some(0), "{}", mount.log());
    assert_eq!(std::fs::read_to_string(mount.below("file")).unwrap(), "kept");
}

#[test]
fn sigint_and_sigterm_unmount_and_end_with_code_0() {
    let Some(sandbox) = sandbox::enter() else { return };
    for (name, signal) in [("int", Signal::INT), ("term", Signal::TERM)] {
        let mut mount = mount::passthrough(&sandbox).name(name).start();
        std::fs::write(mount.join("file"), "kept").unwrap();
        mount.signal(signal);
        let status = mount.end_within(SOON).expect("the server ignores the signal");
        assert_eq!(status.code(), Some(0), "{}", mount.log());
        assert!(!mount.is_mounted());
        assert_eq!(std::fs::read_to_string(mount.below("file")).unwrap(), "kept");
    }
}

#[test]
fn what_was_written_before_sigint_is_there_afterwards() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    let source = mount.source().to_owned();
    let writer = shell(
        r#"i=0; while printf "$i\n" >> "$1/log" 2>&-; do i=$((i+1)); echo $i > "$2"; done"#,
        &[mount.path(), &sandbox.dir().join("count")],
    );
    let mut writer = writer.start();
    wait::assert_within(SOON, "the writer writes", || {
        std::fs::read_to_string(source.join("log")).is_ok_and(|text| text.lines().count() > 50)
    });
    writer.signal(Signal::KILL);
    writer.end_within(SOON).expect("the writer is killed");
    mount.stop();
    let acknowledged = std::fs::read_to_string(sandbox.dir().join("count")).unwrap_or_default();
    let acknowledged: usize = acknowledged.trim().parse().unwrap_or(0);
    let written = std::fs::read_to_string(source.join("log")).unwrap();
    assert!(written.lines().count() >= acknowledged, "{acknowledged} lines were acknowledged");
    assert!(written.lines().enumerate().all(|(i, line)| line == i.to_string()), "a line is missing or torn");
}

#[test]
fn a_busy_mount_goes_out_of_sight_at_sigint_and_ends_with_its_last_user() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mut mount = mount::passthrough(&sandbox).start();
    let mut open = File::create(mount.join("held")).unwrap();
    mount.signal(Signal::INT);
    wait::assert_within(SOON, "a busy mount is detached", || !mount.is_mounted());
    // The user is named, so that whoever waits knows for whom.
    wait::assert_within(SOON, "the log names the user of the busy mount", || {
        mount.log().contains(&std::process::id().to_string())
    });
    open.write_all(b"still served").unwrap();
    open.sync_all().unwrap();
    drop(open);
    let status = mount.end_within(SOON).expect("the server outlives its last user");
    assert_eq!(status.code(), Some(0), "{}", mount.log());
    assert_eq!(std::fs::read_to_string(mount.below("held")).unwrap(), "still served");
}

#[test]
fn a_second_signal_ends_a_busy_mount_at_once() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mut mount = mount::passthrough(&sandbox).start();
    let held = File::create(mount.join("held")).unwrap();
    mount.signal(Signal::INT);
    wait::assert_within(SOON, "a busy mount is detached", || !mount.is_mounted());
    mount.signal(Signal::INT);
    mount.expect_trouble();
    assert!(mount.end_within(SOON).is_some(), "the server ignores the second signal");
    assert!(is_disconnected(errno(held.metadata().and_then(|_| held.sync_all()))));
}

#[test]
fn a_running_program_cannot_be_overwritten() {
    let Some(sandbox) = sandbox::enter() else { return };
    for cache in Cache::ALL {
        let mount = mount::passthrough(&sandbox).name(cache.word()).cache(cache).start();
        let sleep = find_program("sleep").expect("sleep");
        std::fs::copy(sleep, mount.join("sleep")).unwrap();
        let length = mount.join("sleep").metadata().unwrap().len();
        let mut running = program(mount.join("sleep")).arg("1000").start();
        for flags in
            [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC, OFlags::WRONLY | OFlags::TRUNC]
        {
            let refused = rustix::fs::open(mount.join("sleep"), flags, Mode::empty());
            assert_eq!(refused.map(drop), Err(Errno::TXTBSY), "open with {flags:?}");
            // A server that is told of O_TRUNC at `open` has truncated before the kernel finds that it must not.
            assert_eq!(
                mount.below("sleep").metadata().unwrap().len(),
                length,
                "open with {flags:?} was refused"
            );
        }
        assert!(running.is_running());
        running.signal(Signal::TERM);
        assert!(running.end_within(SOON).is_some());
        mount.stop();
    }
}

#[test]
fn a_thousand_clients_at_once_get_their_own_answers() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let mount = &mount;
            scope.spawn(move || {
                for i in 0..64 {
                    let (path, text) =
                        (mount.join(format!("t{thread}-{i}")), format!("{thread}/{i}").repeat(1 + i * 50));
                    std::fs::write(&path, &text).unwrap();
                    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
                    std::fs::rename(&path, path.with_extension("done")).unwrap();
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(mount.source()).unwrap().count(), 16 * 64);
    mount.stop();
}
