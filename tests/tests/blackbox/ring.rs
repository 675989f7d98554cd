//! The ring of FUSE over io_uring: one queue for each CPU there may ever be.

mod zero_copy;

use fusewire_tests::command::{Cache, is_over_ring};
use fusewire_tests::mount;
use fusewire_tests::sandbox;
use fusewire_tests::skip_unless;
use std::os::unix::fs::FileExt;

/// How many CPUs there may ever be.
fn possible() -> usize {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/possible").expect("possible CPUs");
    list.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok()).expect("a number") + 1
}

#[test]
fn memory_of_the_buffers_is_there_only_once_it_is_used() {
    skip_unless!(is_over_ring(), "FUSEWIRE_TEST_CHANNEL is not uring");
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox)
        .option("passthrough=off")
        .cache(Cache::None)
        .option("log=debug")
        .option("buffers=auto")
        .start();
    let before = mount.resident_kib();
    // The longest requests, on every CPU that is there, and many at a time.
    let bytes = vec![0x77; 1 << 20];
    std::thread::scope(|scope| {
        for number in 0..8 {
            let path = mount.join(format!("file{number}"));
            let bytes = &bytes;
            scope.spawn(move || {
                let file =
                    std::fs::File::options().read(true).write(true).create(true).truncate(true).open(path);
                let file = file.expect("open");
                for round in 0..8 {
                    file.write_all_at(bytes, round << 20).expect("write");
                    let mut found = vec![0; 1 << 20];
                    file.read_exact_at(&mut found, round << 20).expect("read");
                    assert_eq!(&found, bytes);
                }
            });
        }
    });
    let after = mount.resident_kib();
    eprintln!("{} possible CPUs: {before} KiB resident at first, {after} KiB after use", possible());
    assert!(before <= 32 << 10, "{before} KiB are resident before anything was asked");
    assert!(after <= 64 << 10, "{after} KiB are resident");
    mount.stop();
}

#[test]
fn every_queue_is_served_also_those_of_cpus_that_are_not_there() {
    skip_unless!(is_over_ring(), "FUSEWIRE_TEST_CHANNEL is not uring");
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).option("passthrough=off").option("log=debug").start();
    // Until every queue has an entry, the kernel answers nobody.
    std::fs::write(mount.join("name"), b"content").expect("write");
    assert_eq!(std::fs::read(mount.below("name")).expect("read below"), b"content");
    std::fs::remove_file(mount.join("name")).expect("unlink");
    let log = mount.log();
    let queues = format!("queues={}", possible());
    assert!(log.contains("requests come over io_uring") && log.contains(&queues), "{log}");
    mount.stop();
}

/// What the log of a mount with `buffers` says of them.
fn told(buffers: &str) -> Option<String> {
    let sandbox = sandbox::enter()?;
    let mount = mount::passthrough(&sandbox)
        .option("passthrough=off")
        .option("log=debug")
        .option(&format!("buffers={buffers}"))
        .start();
    std::fs::write(mount.join("name"), b"content").expect("write");
    let log = mount.log();
    mount.stop();
    let about =
        log.lines().filter(|line| line.contains("payload of its own") || line.contains("pool of payloads"));
    Some(about.collect::<Vec<_>>().join("\n"))
}

/// Whether this kernel has pools for the ring.
fn has_pools() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-', '+']).filter_map(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(7), Some(3))
}

#[test]
fn where_payloads_are_is_told_with_its_reason() {
    skip_unless!(is_over_ring(), "FUSEWIRE_TEST_CHANNEL is not uring");
    let Some(own) = told("own") else { return };
    assert!(own.contains("that was asked for"), "{own}");
    let auto = told("auto").expect("a sandbox");
    if !has_pools() {
        assert!(auto.contains("the kernel has no pools"), "{auto}");
        return;
    }
    assert!(auto.contains("pinned=false zero_copy=true"), "{auto}");
    let pool = told("pool").expect("a sandbox");
    assert!(pool.contains("pinned=false zero_copy=false"), "{pool}");
    let pinned = told("pinned").expect("a sandbox");
    // With the default memory there are four slots for each of 16 queues.
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").expect("sysfs");
    let last = possible.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok());
    let expected = format!("pinned={} zero_copy=true", last.expect("a number") < 16);
    assert!(pinned.contains(&expected), "{pinned}");
}

/// By how much memory for data grows when requests of 1 MiB read and write on a mount with `buffers`, in KiB.
fn growth(buffers: &str) -> Option<u64> {
    let sandbox = sandbox::enter()?;
    let plan = mount::passthrough(&sandbox)
        .option("passthrough=off")
        .cache(Cache::None)
        .option(&format!("buffers={buffers}"));
    let mount = plan.start();
    let file =
        std::fs::File::options().read(true).write(true).create(true).truncate(true).open(mount.join("file"));
    let file = file.expect("open");
    let before = mount.resident_data_kib();
    let bytes = vec![0x77; 1 << 20];
    file.write_all_at(&bytes, 0).expect("write");
    let mut found = vec![0; 1 << 20];
    file.read_exact_at(&mut found, 0).expect("read");
    assert_eq!(found, bytes);
    let after = mount.resident_data_kib();
    drop(file);
    mount.stop();
    Some(after - before)
}

#[test]
fn data_that_is_not_copied_takes_no_memory() {
    skip_unless!(is_over_ring() && has_pools(), "no zero copy: it takes Linux 7.3 and --channel uring");
    let Some(copied) = growth("pool") else { return };
    let lent = growth("zero-copy").expect("a sandbox");
    // Some pages of the slot have been used before.
    assert!(copied >= 900, "{copied} KiB: the data was not in a pool");
    assert!(lent < 512, "{lent} KiB: the data was copied");
}
