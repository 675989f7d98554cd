//! What a server has from whoever started it: limits and signals that would end it, or that it would get wrong.

use fusewire_tests::command::{self, Filesystem, MountLine};
use fusewire_tests::mount;
use fusewire_tests::mountinfo;
use fusewire_tests::program::{Running, as_user, program, shell};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::wait::{self, SOON};
use fusewire_tests::{need, skip_unless};
use rustix::process::Signal;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A mount whose server is started by a shell that does `first` before; with its source and mount point.
fn started_after(sandbox: &Sandbox, first: &str) -> (Running, PathBuf, PathBuf) {
    let (source, point) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"));
    let mut line = MountLine::new(Filesystem::Passthrough);
    // What the kernel writes by itself is bound by the clients' limits alone.
    line.options.push("passthrough=off".into());
    let (binary, words) = line.program_and_words(&source, &point);
    let line = format!(r#"{first}; exec "$@""#);
    let running = shell(&line, &[&binary]).args(words).start();
    wait::assert_within(SOON, "mounted", || mountinfo::at(&point).is_some());
    (running, source, point)
}

fn end(mut running: Running, point: &Path) {
    running.signal(Signal::INT);
    assert_eq!(running.end_within(SOON).and_then(|status| status.code()), Some(0));
    assert!(mountinfo::at(point).is_none());
}

/// A write beyond the limit is a signal that kills whoever does not expect it.
#[test]
fn a_limit_of_file_sizes_fails_a_write_and_not_the_server() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server ends at the limit");
    // The shell counts in 512 bytes.
    let (running, source, point) = started_after(&sandbox, "ulimit -f 200");
    let mut file = std::fs::File::create(point.join("large")).unwrap();
    let error =
        (0..16).find_map(|_| file.write_all(&[7; 16 << 10]).err()).expect("102,400 bytes are allowed");
    assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    drop(file);
    assert!((64 << 10..=200 << 9).contains(&source.join("large").metadata().unwrap().len()));
    std::fs::write(point.join("small"), "text").unwrap();
    assert_eq!(std::fs::read_to_string(source.join("small")).unwrap(), "text");
    end(running, &point);
}

/// What may be raised is raised: clients have limits of their own.
#[test]
fn a_soft_limit_of_file_sizes_binds_nobody() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server ends at the limit");
    let (running, source, point) = started_after(&sandbox, "ulimit -Sf 20");
    std::fs::write(point.join("large"), vec![7; 1 << 20]).unwrap();
    assert_eq!(source.join("large").metadata().unwrap().len(), 1 << 20);
    end(running, &point);
}

#[test]
fn a_mount_started_by_nohup_outlives_its_terminal() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has its own signals");
    let (mut running, source, point) = started_after(&sandbox, "trap '' HUP");
    std::fs::write(source.join("file"), "text").unwrap();
    running.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(500));
    assert!(running.is_running());
    assert_eq!(std::fs::read_to_string(point.join("file")).unwrap(), "text");
    end(running, &point);
}

#[test]
fn a_mount_in_the_foreground_ends_with_its_terminal() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has its own signals");
    need!("python3");
    let (source, point) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"));
    let (binary, words) = MountLine::new(Filesystem::Passthrough).program_and_words(&source, &point);
    // Whoever runs the tests may have told this process to ignore it; a shell cannot take that back.
    let line = "import os,signal,sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])";
    let mut running = program("python3").args(["-c", line]).arg(binary).args(words).start();
    wait::assert_within(SOON, "mounted", || mountinfo::at(&point).is_some());
    running.signal(Signal::HUP);
    assert_eq!(running.end_within(SOON).and_then(|status| status.code()), Some(0));
    assert!(mountinfo::at(&point).is_none());
}

/// Who ignores the end of children has them end unseen, so that nobody can wait for `fusermount3`.
#[test]
fn an_ordinary_user_who_ignores_children_mounts_and_unmounts() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has its own signals");
    // Makes directories and a command that this user may use.
    mount::passthrough(&sandbox).user("daemon").start().stop();
    let [source, point] = ["a.src", "a.mnt"].map(|name| sandbox.dir().join(name));
    let binary = sandbox.dir().join("fusewire");
    let line =
        r#"trap '' CHLD; "$1" mount --daemon "$2" "$3"; echo text > "$3/file"; exec "$1" unmount "$3""#;
    as_user("daemon", "sh").args(["-ceu", line, "sh"]).args([&binary, &source, &point]).dir("/").ok();
    assert!(mountinfo::at(&point).is_none());
    assert_eq!(std::fs::read_to_string(source.join("file")).unwrap(), "text\n");
    wait::assert_within(SOON, "the server ends after unmount", || sandbox.processes().is_empty());
}

/// Makes standard error a pipe that nobody reads any more, as after the end of what it was piped into.
const UNREAD: &str = "mkfifo errors; exec 3<>errors 2>errors 3<&-";

/// In the directory of the sandbox, `place` is where standard error goes.
fn started_with_errors_to(sandbox: &Sandbox, place: &str, words: &[&str]) -> (Running, PathBuf, PathBuf) {
    let (source, point) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"));
    std::fs::write(source.join("file"), "text").unwrap();
    let (binary, mount) = MountLine::new(Filesystem::Passthrough).program_and_words(&source, &point);
    let line = format!(r#"{place}; exec "$@""#);
    let running = shell(&line, &[&binary]).args(mount).args(words).dir(sandbox.dir()).start();
    wait::assert_within(SOON, "mounted", || mountinfo::at(&point).is_some());
    (running, source, point)
}

/// Text for people that cannot be written is no reason to leave a dead mount.
#[test]
fn errors_that_cannot_be_written_keep_nobody_from_mounting() {
    skip_unless!(command::other_server().is_none(), "the stand-in server says other things");
    for place in [UNREAD, "exec 2>/dev/full"] {
        for words in [&["--stats", "--metrics", "0"][..], &["-q", "--log", "info"]] {
            let Some(sandbox) = sandbox::enter() else { return };
            let (running, _, point) = started_with_errors_to(&sandbox, place, words);
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(std::fs::read_to_string(point.join("file")).unwrap(), "text", "{place} {words:?}");
            end(running, &point);
        }
    }
}

/// Whatever is logged, and by whichever thread.
#[test]
fn a_log_that_nobody_reads_any_more_ends_no_thread() {
    skip_unless!(command::other_server().is_none(), "the stand-in server says other things");
    for place in [UNREAD, "exec 2>/dev/full"] {
        let Some(sandbox) = sandbox::enter() else { return };
        let (mut running, source, point) = started_with_errors_to(&sandbox, place, &["-vvv"]);
        let held = std::fs::File::create(point.join("held")).unwrap();
        for number in 0..200 {
            let name = format!("new-{number}");
            std::fs::write(point.join(&name), "text").unwrap();
            assert_eq!(std::fs::read_to_string(source.join(&name)).unwrap(), "text");
        }
        // Who uses it is named where nobody reads it.
        running.signal(Signal::TERM);
        wait::assert_within(SOON, "unmounted", || mountinfo::at(&point).is_none());
        drop(held);
        assert_eq!(running.end_within(SOON).and_then(|status| status.code()), Some(0), "{place}");
    }
}

#[test]
fn a_refusal_that_cannot_be_written_has_its_exit_code() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has its own codes");
    let (binary, point) = (command::binary(), sandbox.make_dir("mnt"));
    let refused =
        ["mount missing mnt", "mount -d missing mnt", "unmount mnt missing", "stats mnt", "probe missing"];
    let misused = ["mount -o unheard-of / mnt", "mount --unheard-of", "mount --cache sometimes / mnt"];
    for (code, lines) in [(1, &refused[..]), (2, &misused[..])] {
        for line in lines {
            for place in ["2>/dev/full", "2>&-"] {
                let line = format!(r#"exec "$1" {line} {place}"#);
                let done = shell(&line, &[&binary]).dir(sandbox.dir()).limit(20).run();
                assert_eq!(done.code(), Some(code), "{line}: {done}");
            }
        }
    }
    assert!(mountinfo::at(&point).is_none());
}

/// Who cannot start a thread more cannot start `fusermount3` either.
#[test]
fn a_limit_of_processes_leaves_no_dead_mount() {
    need!("fusermount3", "setpriv", "prlimit");
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server needs others");
    // Makes directories and a command that this user may use.
    mount::passthrough(&sandbox).user("daemon").start().stop();
    let [source, point] = ["a.src", "a.mnt"].map(|name| sandbox.dir().join(name));
    let binary = sandbox.dir().join("fusewire");
    let mut without_threads = 0;
    for limit in 1..=24 {
        let limit = format!("--nproc={limit}:{limit}");
        let done = as_user("daemon", "prlimit")
            .args([limit.as_str(), "--"])
            .arg(&binary)
            .args(["mount", "--daemon", "--channel", &command::channel()])
            .args([&source, &point])
            .dir("/")
            .limit(20)
            .run();
        match done.code() {
            Some(0) => {
                as_user("daemon", &binary).arg("unmount").arg(&point).dir("/").ok();
            }
            // Not even this program, or not all of it.
            Some(1 | 126) => without_threads += u32::from(done.stderr.contains("cannot start the threads")),
            _ => panic!("{limit}: {done}"),
        }
        assert!(mountinfo::at(&point).is_none(), "{limit}: left mounted: {done}");
        wait::assert_within(SOON, "the server has ended", || sandbox.processes().is_empty());
    }
    assert!(without_threads > 0, "there was no limit at which only the threads were missing");
}
