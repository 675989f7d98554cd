//! Opening: without requests, and of files that the kernel reads by itself.

use fusewire_tests::command::Cache;
use fusewire_tests::mount::{self, Mount};
use fusewire_tests::sandbox;
use fusewire_tests::skip_unless;
use fusewire_tests::wait;
use rustix::fs::{FlockOperation, SeekFrom};
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// Files and directories below a mount's source, as many as `files`.
fn make_tree(below: &Path, files: usize) {
    for file in 0..files {
        let dir = below.join(format!("d{}", file / 50));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{file}")), format!("{file}\n").repeat(40)).unwrap();
    }
}

/// Reads all small files there are; answers how many that is.
fn read_tree(root: &Path) -> usize {
    let mut files = 0;
    for dir in fs::read_dir(root).unwrap().filter(|dir| dir.as_ref().unwrap().file_name() != "large") {
        for file in fs::read_dir(dir.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let mut text = String::new();
            File::open(&path).unwrap().read_to_string(&mut text).unwrap();
            let number = path.file_name().unwrap().to_str().unwrap()[1..].to_owned();
            assert_eq!(text, format!("{number}\n").repeat(40));
            files += 1;
        }
    }
    files
}

/// What is known is opened, listed, read and closed without a single request: there is nobody who could answer one.
fn assert_read_without_requests(mount: &Mount, files: usize) {
    // Once for the data; once more for the attributes, since reading changes the time of the last access; and a third time
    // for those of the directories, where the second listed anew what had changed underneath.
    for _ in 0..3 {
        assert_eq!(read_tree(mount.path()), files);
    }
    mount.pause();
    let read = read_tree(mount.path());
    mount.signal(Signal::CONT);
    assert_eq!(read, files);
}

#[test]
fn a_known_tree_is_opened_and_read_while_the_server_is_stopped() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::stateless(&sandbox).start();
    make_tree(mount.source(), 300);
    assert_read_without_requests(&mount, 300);
    mount.stop();
}

#[test]
fn many_small_files_make_opens_stateless() {
    let Some(sandbox) = sandbox::enter() else { return };
    let plan = mount::passthrough(&sandbox).cache(Cache::Always);
    let options = ["locks=mount", "passthrough=auto", "log=info"];
    let mount = options.iter().fold(plan, |plan, option| plan.option(option)).start();
    make_tree(mount.source(), 300);
    let told = |mount: &Mount| mount.log().contains("opens: stateless");
    for _ in 0..30 {
        read_tree(mount.path());
    }
    assert!(!told(&mount), "that were not enough");
    let held = File::open(mount.join("d0/f1")).unwrap();
    for _ in 0..5 {
        read_tree(mount.path());
    }
    assert!(told(&mount), "{}", mount.log());
    assert_read_without_requests(&mount, 300);
    // What was opened before is closed as ever.
    let mut text = String::new();
    (&held).read_to_string(&mut text).unwrap();
    assert!(text.starts_with("1\n"));
    drop(held);
    mount.stop();
}

/// Lists the mount's directories, with the attributes of everything.
fn list_tree(root: &Path) -> usize {
    let dirs = fs::read_dir(root).unwrap().map(|dir| dir.unwrap().path());
    let files = dirs.flat_map(|dir| fs::read_dir(dir).unwrap());
    files.filter(|file| file.as_ref().unwrap().metadata().unwrap().is_file()).count()
}

#[test]
fn a_known_tree_is_listed_while_the_server_is_stopped_when_coherent() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).cache(Cache::Coherent).start();
    make_tree(mount.source(), 300);
    mount.until_told();
    for _ in 0..3 {
        assert_eq!(list_tree(mount.path()), 300);
    }
    mount.pause();
    let listed = list_tree(mount.path());
    mount.signal(Signal::CONT);
    assert_eq!(listed, 300);
    fs::write(mount.below("d0/new"), "").unwrap();
    wait::assert_within(Duration::from_secs(2), "what was made below", || list_tree(mount.path()) == 301);
    mount.stop();
}

#[test]
fn many_small_files_make_opens_stateless_when_coherent() {
    let Some(sandbox) = sandbox::enter() else { return };
    let plan = mount::passthrough(&sandbox).cache(Cache::Coherent);
    let options = ["locks=mount", "passthrough=auto", "log=info"];
    let mount = options.iter().fold(plan, |plan, option| plan.option(option)).start();
    make_tree(mount.source(), 300);
    // One large file now and then, as where programs are built, makes no difference.
    fs::create_dir(mount.source().join("large")).unwrap();
    fs::write(mount.below("large/f9"), "9\n".repeat(100 << 10)).unwrap();
    for _ in 0..35 {
        read_tree(mount.path());
        assert_eq!(fs::read(mount.join("large/f9")).unwrap().len(), 200 << 10);
    }
    fs::remove_dir_all(mount.source().join("large")).unwrap();
    wait::assert_within(Duration::from_secs(2), "what was removed below", || !mount.join("large").exists());
    assert!(mount.log().contains("opens: stateless"), "{}", mount.log());
    mount.until_told();
    assert_read_without_requests(&mount, 300);
    fs::write(mount.below("d0/f1"), "another text").unwrap();
    wait::assert_within(Duration::from_secs(2), "what was written below", || {
        fs::read(mount.join("d0/f1")).unwrap() == b"another text"
    });
    mount.stop();
}

/// Nobody hears of changes there, and opening asks nobody.
#[test]
fn without_requests_files_on_another_filesystem_inside_are_two_seconds_old_at_most() {
    let Some(sandbox) = sandbox::enter() else { return };
    let plan = mount::passthrough(&sandbox).cache(Cache::Coherent);
    let mount = plan.option("locks=mount").option("opens=stateless").option("passthrough=auto").start();
    let inner = mount.source().join("inner");
    sandbox.tmpfs(&format!("{}/inner", mount.source().file_name().unwrap().to_str().unwrap()), "size=1m");
    fs::write(inner.join("file"), "one").unwrap();
    let names = || fs::read_dir(mount.join("inner")).unwrap().count();
    let text = || fs::read_to_string(mount.join("inner/file")).unwrap();
    wait::assert_within(Duration::from_secs(3), "the filesystem inside", || names() == 1 && text() == "one");
    for (count, content) in [(2, "two"), (3, "six"), (4, "ten")] {
        fs::write(inner.join("file"), content).unwrap();
        fs::write(inner.join(content), "").unwrap();
        wait::assert_within(Duration::from_secs(4), content, || names() == count && text() == content);
    }
    mount.stop();
}

#[test]
fn opens_are_told_where_something_depends_on_it() {
    let Some(sandbox) = sandbox::enter() else { return };
    for (name, cache, locks) in
        [("below", Cache::Coherent, "locks=directory"), ("checked", Cache::Auto, "locks=mount")]
    {
        let plan = mount::passthrough(&sandbox).name(name).cache(cache);
        let mount = plan.option(locks).option("log=info").start();
        make_tree(mount.source(), 300);
        for _ in 0..36 {
            read_tree(mount.path());
        }
        assert!(mount.log().contains("opens: handles") && !mount.log().contains("opens: stateless"));
        mount.stop();
    }
}

#[test]
fn a_file_without_a_name_is_read_and_written_without_a_handle() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::stateless(&sandbox).start();
    for (name, other) in [("removed", None), ("replaced", Some("other"))] {
        fs::write(mount.below(name), "before").unwrap();
        let file = File::options().read(true).write(true).open(mount.join(name)).unwrap();
        match other {
            None => fs::remove_file(mount.join(name)).unwrap(),
            Some(other) => {
                fs::write(mount.join(other), "the other").unwrap();
                fs::rename(mount.join(other), mount.join(name)).unwrap();
            }
        }
        file.write_all_at(b"AFTER", 1).unwrap();
        let mut text = [0; 6];
        file.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(&text, b"bAFTER");
        assert_eq!(file.metadata().unwrap().len(), 6);
        file.set_len(2).unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 2);
    }
    assert_eq!(fs::read(mount.below("replaced")).unwrap(), b"the other");
    mount.stop();
}

#[test]
fn what_several_append_is_all_there_and_the_file_can_be_run_below_soon() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::stateless(&sandbox).start();
    fs::copy("/bin/true", mount.join("program")).unwrap();
    fs::set_permissions(mount.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    let append = || File::options().append(true).open(mount.join("program")).unwrap();
    let before = fs::metadata(mount.below("program")).unwrap().len();
    let (mut one, mut two) = (append(), append());
    for _ in 0..100 {
        one.write_all(b"one.").unwrap();
        two.write_all(b"two.").unwrap();
    }
    drop((one, two));
    let text = fs::read(mount.below("program")).unwrap();
    assert_eq!(&text[before as usize..], "one.two.".repeat(100).as_bytes());
    let runs =
        || std::process::Command::new(mount.below("program")).status().is_ok_and(|status| status.success());
    wait::assert_within(Duration::from_secs(10), "it is not open for writing any more", runs);
    mount.stop();
}

#[test]
fn a_forwarded_file_that_lost_its_name_does_all_that_an_open_file_does() {
    let Some(sandbox) = sandbox::enter() else { return };
    let plan = mount::passthrough(&sandbox).option("passthrough=always").option("log=debug");
    let mount = plan.start();
    let agreed = mount.log().lines().any(|line| line.contains("agreed") && line.contains("PASSTHROUGH"));
    skip_unless!(agreed, "this kernel does not forward reads and writes");
    fs::write(mount.below("file"), [b'x'; 100_000]).unwrap();
    let (file, other) = (File::open(mount.join("file")).unwrap(), File::open(mount.join("file")).unwrap());
    fs::remove_file(mount.join("file")).unwrap();
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(0)).unwrap(), 100_000);
    file.sync_all().unwrap();
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(rustix::fs::flock(&other, FlockOperation::NonBlockingLockShared).is_err());
    drop(file);
    rustix::fs::flock(&other, FlockOperation::NonBlockingLockShared).unwrap();
    let copy = File::create(mount.join("copy")).unwrap();
    assert_eq!(
        rustix::fs::copy_file_range(&other, Some(&mut 0), &copy, Some(&mut 0), 100_000).unwrap(),
        100_000
    );
    assert_eq!(other.metadata().unwrap().len(), 100_000);
    drop((other, copy));
    assert_eq!(fs::read(mount.below("copy")).unwrap(), [b'x'; 100_000]);
    mount.stop();
}
