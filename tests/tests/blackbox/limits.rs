//! More files than the server may open.

use fusewire_tests::command::Cache;
use fusewire_tests::mount;
use fusewire_tests::program::{program, shell};
use fusewire_tests::{sandbox, sys, tree};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::time::Duration;

/// Opens files through the mount until that is refused, keeps them all open, and checks every one of them.
fn open_files_stay_right(limit: u64, wanted: usize) {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).nofile(limit).start();
    for i in 0..wanted {
        std::fs::write(mount.below(format!("f{i}")), format!("first {i}")).unwrap();
    }
    let mut open = Vec::new();
    for i in 0..wanted {
        match File::options().read(true).write(true).open(mount.join(format!("f{i}"))) {
            Ok(file) => open.push((i, file)),
            Err(error) => {
                let full = [libc::EMFILE, libc::ENFILE];
                assert!(
                    error.raw_os_error().is_some_and(|number| full.contains(&number)),
                    "open of f{i}: {error}"
                );
            }
        }
    }
    // Some descriptors are the server's own; most must be there for clients.
    assert!(
        open.len() as u64 >= limit / 4,
        "only {} files could be opened under the limit {limit}",
        open.len()
    );
    for (i, file) in &mut open {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap_or_else(|error| panic!("read of f{i}: {error}"));
        assert_eq!(text, format!("first {i}"));
        file.rewind().unwrap();
        file.write_all(format!("later {i}").as_bytes())
            .unwrap_or_else(|error| panic!("write of f{i}: {error}"));
        file.set_len(3).unwrap_or_else(|error| panic!("truncate of f{i}: {error}"));
        file.sync_all().unwrap_or_else(|error| panic!("fsync of f{i}: {error}"));
        assert_eq!(file.metadata().unwrap_or_else(|error| panic!("stat of f{i}: {error}")).len(), 3);
    }
    let held: Vec<_> = open.iter().map(|(i, _)| *i).collect();
    for (i, file) in open {
        sys::close(file.into()).unwrap_or_else(|error| panic!("close of f{i}: {error}"));
    }
    for i in held {
        assert_eq!(std::fs::read_to_string(mount.below(format!("f{i}"))).unwrap(), "lat");
    }
    // With the files closed there is room again; RELEASE is sent without anybody waiting for it.
    fusewire_tests::wait::assert_within(Duration::from_secs(5), "a file can be created again", || {
        File::create(mount.join("new")).is_ok()
    });
    mount.stop();
}

#[test]
fn files_stay_right_with_64_descriptors() {
    open_files_stay_right(64, 300);
}

#[test]
fn files_stay_right_with_200_descriptors() {
    open_files_stay_right(200, 900);
}

/// Names looked up stay known to the kernel, and with that to the server, long after they were used.
fn many_names(limit: u64, directories: usize, files: usize, cache: Cache) {
    let Some(sandbox) = sandbox::Sandbox::enter(Duration::from_secs(400)) else { return };
    let mount = mount::passthrough(&sandbox).cache(cache).nofile(limit).start();
    tree::many(mount.source(), directories, files);
    let total = (directories * files).to_string();
    let count = |line: &str| shell(line, &[mount.path()]).limit(180).ok().trim().to_owned();
    assert_eq!(count(r#"ls -lR "$1" | grep -c ' f[0-9]*$'"#), total);
    assert_eq!(count(r#"grep -rch needle "$1" | wc -l"#), total);
    assert_eq!(count(r#"tar -C "$1" -cf - . | tar -tf - | grep -c /f"#), total);
    assert_eq!(
        count(r#"mkdir "$1/copy"; cp -a "$1"/d0 "$1/copy/"; find "$1/copy" -type f | wc -l"#),
        files.to_string()
    );
    assert_eq!(count(r#"find "$1" -type f -name 'f1*' -delete; find "$1" -type f -name 'f1*' | wc -l"#), "0");
    mount.stop();
}

#[test]
fn a_tree_of_26000_files_under_the_limit_of_20000() {
    many_names(20_000, 52, 500, Cache::Auto);
}

#[test]
fn a_tree_of_3000_files_under_the_limit_of_200() {
    many_names(200, 30, 100, Cache::Always);
}

#[test]
fn many_names_on_a_directory_without_file_handles() {
    // Overlayfs without index gives no file handles, so that identity needs descriptors and these need eviction.
    let Some(sandbox) = sandbox::enter() else { return };
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| sandbox.make_dir(name));
    tree::many(&lower, 20, 100);
    let merged = sandbox.make_dir("merged");
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    sandbox::mount("overlay", "overlay", &merged, &options);
    let mount = mount::passthrough(&sandbox).source(&merged).nofile(200).start();
    let count = |line: &str| shell(line, &[mount.path()]).ok().trim().to_owned();
    assert_eq!(count(r#"ls -lR "$1" | grep -c ' f[0-9]*$'"#), "2000");
    assert_eq!(count(r#"grep -rch needle "$1" | wc -l"#), "2000");
    // Deep enough that walking it holds more directories than there are descriptors.
    assert_eq!(count(r#"cd "$1"; for i in $(seq 250); do mkdir d; cd d; done; echo x > f; cat f"#), "x");
    assert_eq!(count(r#"find "$1/d" | wc -l"#), "251");
    program("rm").arg("-rf").arg(mount.join("d")).ok();
    mount.stop();
}

#[test]
fn memory_does_not_grow_with_use() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    let round = || {
        let line = r#"cd "$1"; mkdir t; for i in $(seq 400); do echo $i > t/$i; mv t/$i t/m$i; done; cat t/* >/dev/null; rm -r t"#;
        shell(line, &[mount.path()]).ok();
    };
    round();
    // What is lost is lost each time; a thread that was made meanwhile, with all that it takes, stays and is no loss.
    let grown = || {
        let before = mount.resident_kib();
        (0..6).for_each(|_| round());
        mount.resident_kib().saturating_sub(before)
    };
    let mut all = Vec::new();
    while all.len() < 3 && all.last().is_none_or(|&kib| kib >= 4096) {
        all.push(grown());
    }
    assert!(all.last().is_some_and(|&kib| kib < 4096), "KiB more, each time after six equal rounds: {all:?}");
    mount.stop();
}

#[test]
fn a_known_file_costs_less_than_200_bytes() {
    let Some(sandbox) = sandbox::Sandbox::enter(Duration::from_secs(1500)) else { return };
    let full = std::env::var_os("FUSEWIRE_TEST_FULL").is_some();
    let files: u64 = if full { 1_000_000 } else { 100_000 };
    let mount = mount::passthrough(&sandbox).start();
    let line =
        r#"for d in $(seq "$2"); do mkdir "$1/d$d"; (cd "$1/d$d"; seq -f 'f%.0f' 5000 | xargs touch); done"#;
    let directories = (files / 5000).to_string();
    shell(line, &[mount.source(), std::path::Path::new(&directories)]).limit(600).ok();
    std::fs::read_dir(mount.path()).unwrap().for_each(drop);
    let before = mount.resident_kib();
    let listed = shell(r#"ls -lR "$1" | grep -c ' f[0-9]*$'"#, &[mount.path()]).limit(600).ok();
    assert_eq!(listed.trim(), files.to_string());
    let each = (mount.resident_kib().saturating_sub(before)) * 1024 / files;
    println!("{each} bytes per file");
    assert!(each < 200, "{each} bytes of memory for each of {files} files");
    mount.stop();
}

/// The kernel forgets what was removed, and tells by messages that over io_uring come by a way of their own.
#[test]
fn files_made_and_removed_leave_nothing_behind() {
    const FILES: usize = 100_000;
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    let pid = mount.pid().as_raw_nonzero();
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let work = |files: usize| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let mount = &mount;
                scope.spawn(move || {
                    for i in 0..files / 4 {
                        let path = mount.join(format!("{thread}-{i}"));
                        drop(File::create_new(&path).unwrap());
                        std::fs::remove_file(&path).unwrap();
                    }
                });
            }
        });
    };
    work(2000);
    std::thread::sleep(Duration::from_secs(1));
    let (open, resident) = (descriptors(), mount.resident_kib());
    work(FILES);
    // RELEASE and FORGET are sent without anybody waiting for them.
    let limit = Duration::from_secs(20);
    fusewire_tests::wait::assert_within(limit, "descriptors are closed", || descriptors() <= open + 16);
    // A node that is kept takes a hundred bytes at least.
    let grown = || mount.resident_kib().saturating_sub(resident);
    let forgotten = fusewire_tests::wait::until(limit, || (grown() < 6 << 10).then_some(()));
    assert!(forgotten.is_some(), "{} KiB more after {FILES} files", grown());
    mount.stop();
}
