//! `--cache coherent`: the kernel remembers everything, and others change the directory all the same.

pub mod writers;

use fusewire::channel::layer::{Fault, Layer, Rule};
use fusewire::mount::{MountOptions, Unmount};
use fusewire::server::{Options, Server, ServerHandle};
use fusewire_abi::Opcode;
use fusewire_fs::passthrough::{CacheProfile, Coherence, Options as Lower, Passthrough};
use fusewire_tests::command::Cache;
use fusewire_tests::mount::{self, Mount};
use fusewire_tests::program::{program, shell};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::{tree, wait};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How old an answer may be at the most here, where machines are slow and busy. Usually it is below a millisecond.
pub const WINDOW: Duration = Duration::from_millis(500);

pub fn is_full() -> bool {
    std::env::var_os("FUSEWIRE_TEST_FULL").is_some()
}

/// The long forms take minutes.
pub fn enter() -> Option<Sandbox> {
    if is_full() { Sandbox::enter(Duration::from_secs(1800)) } else { sandbox::enter() }
}

fn coherent(sandbox: &Sandbox) -> Mount {
    let mount = mount::passthrough(sandbox).cache(Cache::Coherent).option("log=info").start();
    assert!(mount.log().contains("told of changes"), "{}", mount.log());
    mount
}

#[test]
fn changes_underneath_are_seen_within_a_moment_when_coherent() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).cache(Cache::Coherent).start();
    super::lower::changes_underneath(mount.source(), mount.path(), WINDOW);
    mount.stop();
}

/// What nobody asked for by name: links, lists, modes, times, sizes, absence.
#[test]
fn every_kind_of_change_reaches_a_warm_cache() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).cache(Cache::Coherent).start();
    every_kind_of_change(&mount);
    mount.stop();
}

/// Below, each seen above within [`WINDOW`].
pub fn every_kind_of_change(mount: &Mount) {
    let (below, above) = (mount.source().to_owned(), mount.path().to_owned());
    std::fs::create_dir(below.join("d")).unwrap();
    std::fs::write(below.join("d/f"), "x").unwrap();
    let look = || {
        let list = |dir: &Path| -> Vec<_> {
            let mut names: Vec<_> =
                std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        let of = |path: &Path| {
            let meta = path.symlink_metadata().ok()?;
            let text = std::fs::read(path).ok();
            let link = std::fs::read_link(path).ok();
            Some((meta.mode(), meta.nlink(), meta.len(), meta.mtime_nsec(), meta.uid(), text, link))
        };
        move |root: &Path| {
            let names = ["d/f", "d/g", "d/l", "d/sub"];
            (list(&root.join("d")), names.map(|name| of(&root.join(name))))
        }
    };
    let look = look();
    let step = |what: &str, change: &dyn Fn(&Path)| {
        // Warm: twice, so that also the listing is from the cache.
        look(&above);
        look(&above);
        change(&below.join("d"));
        let expected = look(&below);
        wait::assert_within(WINDOW, what, || {
            let (names, files) = look(&above);
            let (expected_names, expected_files) = &expected;
            names == *expected_names
                && files.iter().zip(expected_files).all(|(seen, expected)| match (seen, expected) {
                    // The size of a directory, and how many links it has, are the filesystem's own business.
                    (Some(seen), Some(expected)) => seen == expected,
                    (seen, expected) => seen.is_none() && expected.is_none(),
                })
        });
    };
    step("a hard link", &|d| std::fs::hard_link(d.join("f"), d.join("g")).unwrap());
    step("writing through the other name", &|d| std::fs::write(d.join("g"), "longer").unwrap());
    step("one name less", &|d| std::fs::remove_file(d.join("g")).unwrap());
    step("a mode", &|d| sandbox::chmod(&d.join("f"), 0o640));
    step("an owner", &|d| std::os::unix::fs::chown(d.join("f"), Some(7), None).unwrap());
    step("a time", &|d| {
        let file = File::options().write(true).open(d.join("f")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_nanos(1_000_000_007)).unwrap();
    });
    step("a shorter file", &|d| File::options().write(true).open(d.join("f")).unwrap().set_len(2).unwrap());
    step("a symbolic link", &|d| std::os::unix::fs::symlink("f", d.join("l")).unwrap());
    step("another in its place", &|d| {
        std::os::unix::fs::symlink("sub", d.join("l2")).unwrap();
        std::fs::rename(d.join("l2"), d.join("l")).unwrap();
    });
    step("a directory", &|d| std::fs::create_dir(d.join("sub")).unwrap());
    step("a mode of a directory", &|d| sandbox::chmod(&d.join("sub"), 0o700));
    step("no directory", &|d| std::fs::remove_dir(d.join("sub")).unwrap());
    step("a write to a mapping, at its end", &|d| {
        let line = "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nm[0:1]=b'M'\n";
        program("python3").args(["-c", line]).arg(d.join("f")).ok();
    });
}

#[test]
fn two_writers_are_coherent_above_and_below() {
    let Some(sandbox) = enter() else { return };
    let mount = coherent(&sandbox);
    let operations = if is_full() { 1_000_000 } else { 20_000 };
    let above = writers::Side { writer: mount.path(), readers: &[mount.path(), mount.path()] };
    let below = writers::Side { writer: mount.source(), readers: &[] };
    writers::run(&[above, below], operations);
    mount.stop();
}

#[test]
fn two_mounts_of_one_directory_are_coherent() {
    let Some(sandbox) = enter() else { return };
    let one = coherent(&sandbox);
    let plan = mount::passthrough(&sandbox).cache(Cache::Coherent).name("b").source(one.source());
    let two = plan.start();
    let operations = if is_full() { 200_000 } else { 10_000 };
    let sides = [&one, &two].map(|mount| (mount.path(), [mount.path()]));
    let sides = sides.each_ref().map(|(writer, readers)| writers::Side { writer, readers });
    writers::run(&sides, operations);
    two.stop();
    one.stop();
}

/// A mount that this process serves. Only other processes may use it.
fn serve(source: &Path, point: &Path) -> (Server, ServerHandle) {
    serve_with(source, point, ())
}

fn serve_with(source: &Path, point: &Path, layer: impl Layer) -> (Server, ServerHandle) {
    let options = Lower { cache: CacheProfile::Coherent, ..Lower::default() };
    let fs = Passthrough::new(source, options).expect("a passthrough");
    assert_eq!(fs.caching().coherence(), Coherence::Told);
    let mount = MountOptions { default_permissions: true, ..MountOptions::default() };
    let options = Options { mount, ..Options::default() };
    let server = Server::mount_with(fs, point, &options, layer).expect("a mount");
    let handle = server.handle();
    (server, handle)
}

fn end(server: Server, handle: &ServerHandle) {
    handle.unmount(Unmount::Lazy).expect("unmounted");
    server.join().expect("served");
}

#[test]
fn two_mounts_in_one_process_are_coherent() {
    let Some(sandbox) = sandbox::enter() else { return };
    let [source, one, two] = ["source", "one", "two"].map(|name| sandbox.make_dir(name));
    let (first, first_handle) = serve(&source, &one);
    let (second, second_handle) = serve(&source, &two);
    // `soon`: within half a second, as long as machines may be busy elsewhere.
    let line = r#"
        soon() { for _ in $(seq 50); do eval "$1" && return; sleep 0.01; done; eval "$1"; }
        cd "$1"; for i in $(seq 40); do
            [ ! -e "$2/f$i" ] || exit 1
            echo "$i" > "f$i"; soon '[ "$(cat "$2/f$i")" = "$i" ]' "$2" || exit 2
            echo "$i$i" > "$2/f$i"; soon '[ "$(cat "f$i")" = "$i$i" ]' "$2" || exit 3
            mv "f$i" "g$i"; soon '[ ! -e "$2/f$i" ] && [ -e "$2/g$i" ]' "$2" || exit 4
        done; soon '[ "$(ls)" = "$(ls "$2")" ]' "$2" || exit 5"#;
    let finished = shell(line, &[&one, &two]).limit(100).run();
    end(second, &second_handle);
    end(first, &first_handle);
    assert_eq!(finished.code(), Some(0), "{finished:?}");
}

#[test]
fn warm_lookups_attributes_listings_and_links_make_no_request() {
    let Some(sandbox) = sandbox::enter() else { return };
    let [source, point] = ["source", "point"].map(|name| sandbox.make_dir(name));
    std::fs::create_dir(source.join("d")).unwrap();
    std::fs::write(source.join("d/f"), "data").unwrap();
    std::os::unix::fs::symlink("f", source.join("d/l")).unwrap();
    let (server, handle) = serve(&source, &point);
    let line = r#"cd "$1"; for i in 1 2 3 4 5; do
        stat -c %s d/f d; readlink d/l; [ ! -e d/none ]; [ ! -e none/at/all ]; ls d; ls -l d; find d -newer d/f
        cat d/f; cat d/l; done"#;
    let requests = || {
        let stats = handle.stats();
        let count = |opcode| {
            stats.operations.iter().filter(|op| op.opcode == opcode).map(|op| op.requests).sum::<u64>()
        };
        use Opcode::*;
        [Lookup, Getattr, Readlink, Readdir, Readdirplus, Read, Access, Statx].map(|code| (code, count(code)))
    };
    let ran = (0..3).map(|_| {
        let finished = shell(line, &[&point]).limit(60).run();
        (finished.code(), requests())
    });
    let ran: Vec<_> = ran.collect();
    end(server, &handle);
    assert!(ran.iter().all(|(code, _)| *code == Some(0)), "{ran:?}");
    assert!(ran[0].1.iter().any(|(_, count)| *count > 0), "{ran:?}");
    assert_eq!(ran[1].1, ran[2].1, "the second time is warm");
}

/// What the mount's own clients do is no news: it does not make the kernel forget.
#[test]
fn changes_of_ones_own_do_not_cool_the_cache() {
    let Some(sandbox) = sandbox::enter() else { return };
    let [source, point] = ["source", "point"].map(|name| sandbox.make_dir(name));
    let (server, handle) = serve(&source, &point);
    let line = r#"cd "$1"; for i in $(seq 200); do echo $i > f$i; done; sleep 1.5"#;
    let finished = shell(line, &[&point]).limit(60).run();
    let lookups = |handle: &ServerHandle| {
        let stats = handle.stats();
        stats.operations.iter().filter(|op| op.opcode == Opcode::Lookup).map(|op| op.requests).sum::<u64>()
    };
    let before = lookups(&handle);
    let again =
        shell(r#"cd "$1"; for i in $(seq 200); do [ -e f$i ] || exit 1; done"#, &[&point]).limit(60).run();
    let after = lookups(&handle);
    end(server, &handle);
    assert_eq!((finished.code(), again.code()), (Some(0), Some(0)));
    assert!(after - before < 10, "{} of 200 names were looked up again", after - before);
}

/// An answer is read, the directory changes, the kernel is told, and only then the answer arrives.
#[test]
fn an_answer_that_the_news_of_a_change_has_overtaken_does_not_stay() {
    let Some(sandbox) = sandbox::enter() else { return };
    let [source, point] = ["source", "point"].map(|name| sandbox.make_dir(name));
    std::fs::create_dir(source.join("d")).unwrap();
    for name in ["looked", "changed"] {
        std::fs::write(source.join(name), "x").unwrap();
    }
    let held = Duration::from_millis(300);
    let held_back = [Opcode::Lookup, Opcode::Setattr, Opcode::Readdir, Opcode::Readdirplus];
    let (server, handle) = serve_with(&source, &point, Fault::new(7, [Rule::delay(held).on(held_back)]));
    // What is asked, what changes meanwhile, and what is true afterwards.
    let cases: [(&str, &dyn Fn(), &str); 4] = [
        ("stat -c %s looked", &|| std::fs::write(source.join("looked"), "longer").unwrap(), "6"),
        ("stat -c %s appears", &|| std::fs::write(source.join("appears"), "new").unwrap(), "3"),
        (
            "chmod 600 changed; stat -c %s changed",
            &|| {
                std::fs::write(source.join("changed"), "longer").unwrap();
            },
            "6",
        ),
        ("ls d", &|| std::fs::write(source.join("d/listed"), "").unwrap(), "listed"),
    ];
    let mut wrong = Vec::new();
    for (line, change, expected) in cases {
        let asking = shell(&format!(r#"cd "$1"; {line}"#), &[&point]).limit(30).start();
        // `chmod` asks for the name first.
        std::thread::sleep(if line.starts_with("ch") { held + held / 2 } else { held / 2 });
        change();
        asking.finish(Duration::from_secs(20));
        // The last time the kernel is told once more is a second later.
        std::thread::sleep(Duration::from_millis(1500));
        let question = line.rsplit(';').next().expect("one at least");
        let seen = shell(&format!(r#"cd "$1"; {question}"#), &[&point]).limit(30).run();
        if seen.stdout.trim() != expected {
            wrong.push((line, seen));
        }
    }
    end(server, &handle);
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// So that those who ask amid a storm get answers that the kernel takes.
#[test]
fn a_file_that_keeps_changing_is_told_of_at_a_pace() {
    const PACE: Duration = Duration::from_millis(10);
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = coherent(&sandbox);
    std::fs::write(mount.below("file"), [0; 64]).unwrap();
    let file = File::options().write(true).open(mount.below("file")).unwrap();
    let seen = || std::fs::read(mount.join("file")).unwrap();
    assert_eq!(seen(), [0; 64]);
    mount.until_told();
    let told = || mount.changes("notifications").expect("they are counted");
    let (before, begin) = (told(), Instant::now());
    let mut writes = 0_u64;
    while begin.elapsed() < Duration::from_millis(500) {
        writes += 1;
        file.write_all_at(&writes.to_le_bytes(), writes % 8 * 8).unwrap();
    }
    let most = begin.elapsed().as_millis() as u64 / PACE.as_millis() as u64 + 20;
    let stored = std::fs::read(mount.below("file")).unwrap();
    wait::assert_within(WINDOW, "the last of them", || seen() == stored);
    mount.until_told();
    let told = told() - before;
    assert!(writes > 4 * most && (1..most).contains(&told), "{told} for {writes} writes, at most {most}");
    drop(file);
    mount.stop();
}

#[test]
fn a_storm_of_changes_costs_bounded_memory_and_leaves_the_mount_right() {
    let Some(sandbox) = enter() else { return };
    let mount = coherent(&sandbox);
    let changes = if is_full() { 1_000_000 } else { 50_000 };
    tree::many(mount.source(), 20, 50);
    let walk = || program("find").arg(mount.path()).args(["-ls"]).ok();
    walk();
    walk();
    let before = mount.resident_kib();
    // While the server stands still, events pile up until the kernel gives up: everything is dropped then.
    mount.signal(rustix::process::Signal::STOP);
    storm(mount.source(), 40_000);
    mount.signal(rustix::process::Signal::CONT);
    storm(mount.source(), changes);
    wait::assert_within(Duration::from_secs(20), "the mount is as the directory", || {
        tree::difference(mount.source(), mount.path()).is_empty()
    });
    let grown = mount.resident_kib().saturating_sub(before);
    assert!(grown < 48 << 10, "the server grew by {grown} KiB");
    assert!(mount.log().contains("forgets everything"), "events were lost: {}", mount.log());
    mount.stop();
}

/// Makes, writes, moves and removes files, in directories that are known above.
pub fn storm(dir: &Path, changes: usize) {
    let dirs: Vec<_> = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()).collect();
    for number in 0..changes / 4 {
        let dir = &dirs[number % dirs.len()];
        let (old, new) = (dir.join(format!("s{}", number % 997)), dir.join(format!("t{}", number % 1009)));
        std::fs::write(&old, number.to_string()).unwrap();
        std::fs::rename(&old, &new).unwrap();
        if number % 3 == 0 {
            std::fs::remove_file(&new).unwrap();
        }
    }
}

/// A directory of a filesystem that has no file handles, and no number that fanotify could know it by.
#[test]
fn where_changes_cannot_be_heard_of_answers_are_kept_for_a_moment() {
    let Some(sandbox) = sandbox::enter() else { return };
    let lower = mount::mem(&sandbox).name("lower").start();
    let mount = mount::passthrough(&sandbox).cache(Cache::Coherent).source(lower.path()).start();
    assert!(mount.log().contains("no feed of changes"), "{}", mount.log());
    super::lower::changes_underneath(mount.source(), mount.path(), Duration::from_secs(8));
    mount.stop();
    lower.stop();
}
