//! `--cache coherent` where changes to the filesystem cannot be heard of as a whole: its files are watched one by one.

use super::coherent::{WINDOW, enter, every_kind_of_change, is_full, storm, writers};
use fusewire::mount::{MountOptions, Unmount};
use fusewire::server::{Options, Server};
use fusewire_abi::Opcode;
use fusewire_fs::passthrough::{CacheProfile, Coherence, FileHandles, Options as Lower, Passthrough};
use fusewire_tests::command::Cache;
use fusewire_tests::mount::{self, Mount, Plan};
use fusewire_tests::program::{program, shell};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::{need, tree, wait};
use rustix::fs::Mode;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

/// What is not watched may be as old as that.
const UNWATCHED: Duration = Duration::from_millis(1500);

/// Served by root, who may not use file handles.
fn of_root(sandbox: &Sandbox) -> Plan<'_> {
    mount::passthrough(sandbox).cache(Cache::Coherent).option("log=info").option("file_handles=never")
}

/// Served by an ordinary user and used by others, too. What is made in this test, everybody may change.
fn of_user(sandbox: &Sandbox) -> Plan<'_> {
    rustix::process::umask(Mode::empty());
    mount::passthrough(sandbox).cache(Cache::Coherent).option("log=info").allow_other().user("daemon")
}

fn start(plan: Plan<'_>) -> Mount {
    let mount = plan.start();
    assert!(mount.log().contains("file by file"), "{}", mount.log());
    mount
}

fn ends_whole(mount: Mount) {
    assert!(!mount.log().contains("ERROR"), "{}", mount.log());
    mount.stop();
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[test]
fn every_kind_of_change_reaches_a_warm_cache_file_by_file() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = start(of_root(&sandbox));
    every_kind_of_change(&mount);
    ends_whole(mount);
}

#[test]
fn an_ordinary_user_s_mount_is_coherent() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = enter() else { return };
    let mount = start(of_user(&sandbox));
    let operations = if is_full() { 1_000_000 } else { 20_000 };
    let above = writers::Side { writer: mount.path(), readers: &[mount.path(), mount.path()] };
    let below = writers::Side { writer: mount.source(), readers: &[] };
    writers::run(&[above, below], operations);
    ends_whole(mount);
}

/// The one is told of the whole filesystem, the other file by file.
#[test]
fn a_mount_of_root_and_one_of_a_user_are_coherent() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = enter() else { return };
    let user = start(of_user(&sandbox));
    let root = mount::passthrough(&sandbox).cache(Cache::Coherent).name("b").source(user.source()).start();
    let operations = if is_full() { 200_000 } else { 10_000 };
    let sides = [&user, &root].map(|mount| (mount.path(), [mount.path()]));
    let sides = sides.each_ref().map(|(writer, readers)| writers::Side { writer, readers });
    writers::run(&sides, operations);
    root.stop();
    ends_whole(user);
}

/// Names by which nobody came to know the file, also outside of the source; and names that are no more.
#[test]
fn a_change_through_any_name_is_seen() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    for (name, plan) in [("r", of_root(&sandbox)), ("u", of_user(&sandbox))] {
        let mount = start(plan.name(name));
        let outside = sandbox.make_dir(&format!("{name}.outside"));
        let (above, below) = (mount.join("file"), mount.below("file"));
        fs::write(&below, "one").unwrap();
        let open = File::options().write(true).open(&below).unwrap();
        let seen = |expected: &str, links: u64| {
            wait::assert_within(WINDOW, expected, || {
                text(&above).as_deref() == Some(expected) && above.metadata().unwrap().nlink() == links
            });
            // Warm.
            (0..3).for_each(|_| assert_eq!(text(&above).as_deref(), Some(expected)));
        };
        seen("one", 1);
        fs::hard_link(&below, outside.join("other")).unwrap();
        seen("one", 2);
        fs::write(outside.join("other"), "two, longer").unwrap();
        seen("two, longer", 2);
        fs::remove_file(&below).unwrap();
        wait::assert_within(WINDOW, "no such name", || !above.exists());
        fs::rename(outside.join("other"), &below).unwrap();
        seen("two, longer", 1);
        // Opened when it had another name, which is gone.
        open.write_all_at(b"six", 0).unwrap();
        seen("six, longer", 1);
        ends_whole(mount);
    }
}

/// The name by which the mount came to know a file goes first. With the last one the kernel ends the watch.
#[test]
fn a_file_whose_names_are_all_gone_is_watched_as_long_as_it_is_open() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = start(of_root(&sandbox));
    fs::write(mount.below("a"), "one").unwrap();
    let above = File::open(mount.join("a")).unwrap();
    let below = File::options().write(true).open(mount.below("a")).unwrap();
    let seen = |expected: &str| {
        let mut bytes = [0; 20];
        let length = above.read_at(&mut bytes, 0).unwrap();
        &bytes[..length] == expected.as_bytes() && above.metadata().unwrap().len() == expected.len() as u64
    };
    fs::hard_link(mount.below("a"), mount.below("b")).unwrap();
    ["a", "b"].iter().for_each(|name| fs::remove_file(mount.below(name)).unwrap());
    wait::assert_within(WINDOW, "no name", || above.metadata().unwrap().nlink() == 0);
    // What is told once more has been.
    std::thread::sleep(Duration::from_millis(1500));
    for text in ["two, longer", "six, six times"] {
        (0..3).for_each(|_| _ = seen(text));
        below.write_all_at(text.as_bytes(), 0).unwrap();
        wait::assert_within(WINDOW, text, || seen(text));
    }
    drop((above, below));
    ends_whole(mount);
}

#[test]
fn directories_may_be_moved_and_replaced() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = start(of_user(&sandbox));
    let (below, above) = (mount.source(), mount.path());
    tree::many(below, 8, 6);
    let same = |what: &str| {
        wait::assert_within(WINDOW * 4, what, || tree::difference(below, above).is_empty());
    };
    same("a tree");
    let dirs = || {
        let mut dirs: Vec<_> = fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path()).collect();
        dirs.retain(|path| path.is_dir());
        dirs.sort();
        dirs
    };
    let known = dirs();
    fs::rename(&known[0], known[1].join("moved")).unwrap();
    fs::write(known[1].join("moved/new"), "in what was moved").unwrap();
    same("one moved into another");
    fs::rename(&known[1], below.join("renamed")).unwrap();
    fs::write(below.join("renamed/moved/new"), "and once more").unwrap();
    same("moved with what is in it");
    fs::remove_dir_all(&known[2]).unwrap();
    fs::create_dir(&known[2]).unwrap();
    fs::write(known[2].join("other"), "of a directory of the same name").unwrap();
    same("another in its place");
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        &known[3],
        rustix::fs::CWD,
        &known[4],
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .unwrap();
    fs::write(known[3].join("after"), "an exchange").unwrap();
    same("exchanged");
    fs::remove_dir_all(&known[5]).unwrap();
    same("removed");
    ends_whole(mount);
}

/// Few descriptors, so few watches.
#[test]
fn what_is_not_watched_is_kept_for_a_moment() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = start(of_user(&sandbox).nofile(400));
    let (below, above) = (mount.source(), mount.path());
    tree::many(below, 20, 40);
    let walk = || program("find").arg(above).args(["-type", "f", "-exec", "cat", "{}", "+"]).ok();
    walk();
    walk();
    assert!(mount.log().contains("no more files can be watched"), "{}", mount.log());
    let files = |dir: &Path| {
        let mut files = Vec::new();
        for dir in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
        {
            files.extend(fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()));
        }
        files
    };
    for file in files(below) {
        fs::write(&file, format!("changed {}", file.display())).unwrap();
        fs::write(file.with_extension("new"), "").unwrap();
    }
    wait::assert_within(UNWATCHED, "all of them", || tree::difference(below, above).is_empty());
    // Of files that stay open, and of the same length as before.
    let open: Vec<_> = files(above).into_iter().step_by(20).map(|path| File::open(path).unwrap()).collect();
    let read = |file: &File| {
        let mut bytes = [0; 4];
        let length = file.read_at(&mut bytes, 0).unwrap();
        bytes[..length].to_vec()
    };
    let before: Vec<_> = open.iter().map(read).collect();
    for file in files(below) {
        let length = file.metadata().unwrap().len().min(4) as usize;
        File::options().write(true).open(file).unwrap().write_all_at(&b"CHAN"[..length], 0).unwrap();
    }
    wait::assert_within(UNWATCHED, "their data", || {
        open.iter().map(read).zip(&before).all(|(now, before)| now == b"CHAN"[..before.len()])
    });
    drop(open);
    ends_whole(mount);
}

/// A user can watch what he may read.
#[test]
fn what_the_user_may_not_read_is_kept_for_a_moment() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = start(of_user(&sandbox));
    let (below, above) = (mount.below("secret"), mount.join("secret"));
    fs::write(&below, "x").unwrap();
    sandbox::chmod(&below, 0o600);
    for length in 2..5 {
        let size = || above.metadata().unwrap().len();
        size();
        fs::write(&below, "x".repeat(length)).unwrap();
        wait::assert_within(UNWATCHED, "its size", || size() == length as u64);
    }
    // From now on he may.
    sandbox::chmod(&below, 0o644);
    wait::assert_within(UNWATCHED, "its content", || text(&above).as_deref() == Some("xxxx"));
    std::thread::sleep(UNWATCHED);
    text(&above);
    fs::write(&below, "yy").unwrap();
    wait::assert_within(WINDOW, "its content", || text(&above).as_deref() == Some("yy"));
    ends_whole(mount);
}

/// A directory served by this process, file by file, with so few watches that half of it takes all. Only other processes may use it.
#[test]
fn what_is_asked_for_takes_the_watches_of_what_is_not() {
    need!("diff", "find");
    let Some(sandbox) = enter() else { return };
    let [source, point] = ["source", "point"].map(|name| sandbox.make_dir(name));
    let options = Lower {
        cache: CacheProfile::Coherent,
        file_handles: FileHandles::Never,
        fd_limit: Some(400),
        ..Lower::default()
    };
    let fs = Passthrough::new(&source, options).expect("a passthrough");
    let caching = fs.caching();
    let mount = MountOptions { default_permissions: true, ..MountOptions::default() };
    let server = Server::mount(fs, &point, &Options { mount, ..Options::default() }).expect("a mount");
    let handle = server.handle();
    let halves = ["one", "two"];
    for half in halves {
        fs::create_dir(source.join(half)).unwrap();
        tree::many(&source.join(half), 10, 12);
    }
    let rounds = if is_full() { 40 } else { 3 };
    let outcome = (0..rounds).try_for_each(|round| {
        let [asked, other] = if round % 2 == 0 { halves } else { [halves[1], halves[0]] };
        let stats = || caching.feed_stats().expect("a feed");
        let before = stats();
        // Also that there is no such name is remembered.
        let ask = || {
            let line = r#"cd "$1/$2"; find . -type f -exec cat {} + ; find . -newer . ; for d in d*; do [ ! -e $d/none ] || exit 1; done"#;
            shell(line, &[&point, Path::new(asked)]).limit(60).run().code()
        };
        let all = 10 * 12 + 10;
        let moved = wait::until(Duration::from_secs(30), || {
            let code = ask();
            std::thread::sleep(Duration::from_millis(1100));
            let is_done = round == 0 && stats().watched > 100 || stats().given_up >= before.given_up + all / 2;
            (code != Some(0) || is_done).then_some(code)
        });
        if moved != Some(Some(0)) {
            return Err(format!("round {round}: {moved:?}, {before:?}, then {:?}", stats()));
        }
        // What has given up its watches, some of it at least: nothing that was remembered by them may be left.
        change_half(&source.join(other), round);
        change_half(&source.join(asked), round);
        std::thread::sleep(UNWATCHED);
        let compare = r#"diff -r --no-dereference "$1" "$2" && cd "$1" && find . | sort | xargs stat -c '%n %s %h %Y %F %a' > "$1.list" &&
            cd "$2" && find . | sort | xargs stat -c '%n %s %h %Y %F %a' | diff "$1.list" - "#;
        let compared = shell(compare, &[&source, &point]).limit(60).run();
        if compared.code() != Some(0) {
            return Err(format!("round {round}: {compared:?}, {:?}", stats()));
        }
        // So that the next round begins as this one.
        let back = r#"cd "$1"; rm -f */d*/none; for f in */d*/gone; do mv $f ${f%gone}f0; done"#;
        if shell(back, &[&source]).run().code() != Some(0) {
            return Err(format!("round {round}: the directory is not as before"));
        }
        std::thread::sleep(UNWATCHED);
        Ok(())
    });
    let stats = caching.feed_stats().expect("a feed");
    handle.unmount(Unmount::Lazy).expect("unmounted");
    server.join().expect("served");
    outcome.unwrap();
    eprintln!("{stats:?}");
    assert!(stats.given_up > 50 && stats.watched <= 150, "{stats:?}");
}

/// Each kind of thing that may be remembered: names and that there are none, attributes, data, and listings.
fn change_half(half: &Path, round: usize) {
    for dir in fs::read_dir(half).unwrap().map(|entry| entry.unwrap().path()) {
        fs::write(dir.join("none"), "now there is one").unwrap();
        fs::rename(dir.join("f0"), dir.join("gone")).unwrap();
        fs::write(dir.join("f1"), format!("of round {round}")).unwrap();
        sandbox::chmod(&dir.join("f2"), if round.is_multiple_of(2) { 0o600 } else { 0o640 });
        fs::remove_file(dir.join("f3")).unwrap();
        std::os::unix::fs::symlink(round.to_string(), dir.join("f3")).unwrap();
    }
}

/// The kernel moves what it remembers of a name with the time for which it is to remember it, also to where nobody hears of changes.
#[test]
fn a_name_moved_to_where_nothing_is_watched_is_kept_for_a_moment() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = start(of_user(&sandbox));
    let (from, to) = (mount.below("from"), mount.below("to"));
    [&from, &to].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
    // The user may change names there, and not list it.
    sandbox::chmod(&to, 0o333);
    fs::write(from.join("name"), "x").unwrap();
    let above = |name: &str| mount.join(name);
    (0..3).for_each(|_| assert!(above("from/name").exists() && !above("to/name").exists()));
    fs::rename(above("from/name"), above("to/name")).unwrap();
    (0..3).for_each(|_| assert!(above("to/name").exists()));
    fs::remove_file(to.join("name")).unwrap();
    wait::assert_within(UNWATCHED, "no such name", || !above("to/name").exists());
    ends_whole(mount);
}

#[test]
fn a_storm_of_changes_leaves_the_mount_of_a_user_right() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = enter() else { return };
    let mount = start(of_user(&sandbox));
    tree::many(mount.source(), 20, 50);
    let walk = || program("find").arg(mount.path()).args(["-ls"]).ok();
    walk();
    walk();
    let before = mount.resident_kib();
    mount.signal(rustix::process::Signal::STOP);
    storm(mount.source(), 40_000);
    mount.signal(rustix::process::Signal::CONT);
    storm(mount.source(), if is_full() { 1_000_000 } else { 20_000 });
    wait::assert_within(Duration::from_secs(20), "the mount is as the directory", || {
        tree::difference(mount.source(), mount.path()).is_empty()
    });
    let grown = mount.resident_kib().saturating_sub(before);
    eprintln!("the server grew by {grown} KiB");
    assert!(grown < 48 << 10, "the server grew by {grown} KiB");
    assert!(mount.log().contains("forgets everything"), "events were lost: {}", mount.log());
    ends_whole(mount);
}

/// Without the right to watch the filesystem `make` makes one.
fn without_sys_admin<T>(make: impl FnOnce() -> T) -> T {
    let before = capabilities(None).expect("capabilities");
    let effective = before.effective - CapabilitySet::SYS_ADMIN;
    set_capabilities(None, CapabilitySets { effective, ..before }).expect("one less");
    let made = make();
    set_capabilities(None, before).expect("as before");
    made
}

/// As in a container: files are opened by their handles all the same.
#[test]
fn where_root_may_not_watch_the_filesystem_its_files_are_watched() {
    let Some(sandbox) = sandbox::enter() else { return };
    let [source, point] = ["source", "point"].map(|name| sandbox.make_dir(name));
    let options = Lower { cache: CacheProfile::Coherent, ..Lower::default() };
    let fs = without_sys_admin(|| Passthrough::new(&source, options).expect("a passthrough"));
    let caching = fs.caching();
    match caching.coherence() {
        Coherence::ToldOfKnown(refusal) => {
            let why = refusal.to_string();
            assert!(why.contains("CAP_SYS_ADMIN") && why.contains("not permitted"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    let mount = MountOptions { default_permissions: true, ..MountOptions::default() };
    let options = Options { mount, ..Options::default() };
    let server = Server::mount(fs, &point, &options).expect("a mount");
    let handle = server.handle();
    // `soon`: within half a second, as long as machines may be busy elsewhere.
    let line = r#"
        soon() { for _ in $(seq 50); do eval "$1" && return; sleep 0.01; done; eval "$1"; }
        cd "$1"; mkdir d; for i in $(seq 40); do
            [ ! -e "$above/d/f$i" ] || exit 1
            echo "$i" > "d/f$i"; soon '[ "$(cat "$above/d/f$i")" = "$i" ]' || exit 2
            ln "d/f$i" "l$i"; echo "$i$i" > "l$i"; soon '[ "$(cat "$above/d/f$i")" = "$i$i" ]' || exit 3
            mv "d/f$i" "g$i"; soon '[ ! -e "$above/d/f$i" ] && [ -e "$above/g$i" ]' || exit 4
            echo above > "$above/d/h$i"; soon '[ "$(cat "d/h$i")" = above ]' || exit 5
        done; soon '[ "$(ls . d)" = "$(cd "$above"; ls . d)" ]' || exit 6"#;
    let finished = shell(&format!("above=$2; {line}"), &[&source, &point]).limit(100).run();
    let watched = caching.feed_stats().expect("a feed").watched;
    handle.unmount(Unmount::Lazy).expect("unmounted");
    server.join().expect("served");
    assert_eq!(finished.code(), Some(0), "{finished:?}");
    assert!(watched > 80, "{watched}");
    assert_eq!(caching.feed_stats().expect("a feed").watched, 0, "no descriptor is kept");
}

/// What the mount's own clients do is no news, and what the kernel has forgotten is not watched any more.
#[test]
fn watches_end_and_changes_of_ones_own_are_no_news() {
    let Some(sandbox) = sandbox::enter() else { return };
    let [source, point] = ["source", "point"].map(|name| sandbox.make_dir(name));
    let options = Lower {
        cache: CacheProfile::Coherent,
        file_handles: FileHandles::Never,
        sole: true,
        ..Lower::default()
    };
    let fs = Passthrough::new(&source, options).expect("a passthrough");
    let caching = fs.caching();
    assert!(matches!(caching.coherence(), Coherence::ToldOfKnown(_)), "{caching:?}");
    let mount = MountOptions { default_permissions: true, ..MountOptions::default() };
    let options = Options { mount, ..Options::default() };
    let server = Server::mount(fs, &point, &options).expect("a mount");
    let handle = server.handle();
    let run = |line: &str| shell(&format!(r#"cd "$1"; {line}"#), &[&point]).limit(60).run().code();
    let lookups = || {
        let stats = handle.stats();
        stats.operations.iter().filter(|op| op.opcode == Opcode::Lookup).map(|op| op.requests).sum::<u64>()
    };
    let made = run("for i in $(seq 200); do echo $i > f$i; done; sleep 1.5");
    let before = lookups();
    let again = run("for i in $(seq 200); do [ -e f$i ] || exit 1; done");
    let after = lookups();
    let watched = caching.feed_stats().expect("a feed").watched;
    let removed = run("rm f*");
    let ended = wait::until(Duration::from_secs(5), || {
        let left = caching.feed_stats().expect("a feed").watched;
        (left < 10).then_some(left)
    });
    handle.unmount(Unmount::Lazy).expect("unmounted");
    server.join().expect("served");
    assert_eq!([made, again, removed], [Some(0); 3]);
    assert!(after - before < 10, "{} of 200 names were looked up again", after - before);
    assert!((201..=210).contains(&watched) && ended.is_some(), "{watched} watches, then {ended:?}");
}
