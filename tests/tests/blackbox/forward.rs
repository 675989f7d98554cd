//! Files that the kernel reads, writes and maps by itself.

use fusewire_tests::command::Cache;
use fusewire_tests::mount::{self, Mount};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::{skip_unless, sys};
use rustix::process::Signal;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn forwarding(sandbox: &Sandbox, cache: Cache) -> Mount {
    mount::passthrough(sandbox)
        .name(cache.word())
        .cache(cache)
        .option("passthrough=always")
        .option("log=debug")
        .start()
}

/// The kernel offers it, and it was agreed on.
fn is_agreed(mount: &Mount) -> bool {
    mount.log().lines().any(|line| line.contains("agreed") && line.contains("PASSTHROUGH"))
}

#[test]
fn reads_and_writes_go_on_while_the_server_is_stopped() {
    let Some(sandbox) = sandbox::enter() else { return };
    for cache in Cache::ALL {
        let mount = forwarding(&sandbox, cache);
        skip_unless!(is_agreed(&mount), "this kernel does not forward reads and writes");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(mount.join("file"))
            .unwrap();
        // Before the first write the kernel asks whether the file has capabilities that are to be taken away.
        file.write_all_at(b"first", 0).unwrap();
        mount.pause();
        file.write_all_at(&[b'x'; 8192], 0).unwrap();
        let mut back = [0; 8192];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back, [b'x'; 8192]);
        let mut map = sys::Pages::of(&file, 8192).unwrap();
        map.bytes()[4096] = b'y';
        drop(map);
        assert_eq!(std::fs::read(mount.below("file")).unwrap()[4095..4098], *b"xyx");
        mount.signal(Signal::CONT);
        drop(file);
        mount.stop();
    }
}

#[test]
fn writing_a_mapping_changes_the_time_of_the_file() {
    let Some(sandbox) = sandbox::enter() else { return };
    for cache in Cache::ALL {
        let mount = forwarding(&sandbox, cache);
        let path = mount.join("file");
        std::fs::write(&path, [b'x'; 4096]).unwrap();
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        let before = path.metadata().unwrap();
        assert_eq!(before.modified().unwrap(), long_ago);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut map = sys::Pages::of(&file, 4096).unwrap();
        // The mapping outlives the open file, whose end is all that a server could be told of.
        drop(file);
        assert_eq!(path.metadata().unwrap().mtime(), before.mtime(), "nothing was written yet");
        map.bytes()[0] = b'y';
        fusewire_tests::wait::assert_within(Duration::from_secs(3), "a new time", || {
            path.metadata().unwrap().mtime() > before.mtime()
        });
        drop(map);
        assert_eq!(path.metadata().unwrap().mtime(), mount.below("file").metadata().unwrap().mtime());
        mount.stop();
    }
}

#[test]
fn opens_and_closes_of_one_file_do_not_get_in_each_others_way() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = forwarding(&sandbox, Cache::Auto);
    std::fs::write(mount.below("file"), "content").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let opens = (0..4).map(|i| {
            let (path, over) = (mount.join("file"), &over);
            scope.spawn(move || {
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    let file = File::options().read(true).write(i % 2 == 0).open(&path).unwrap();
                    let mut text = [0; 7];
                    file.read_exact_at(&mut text, 0).unwrap();
                    assert_eq!(&text, b"content");
                    count += 1;
                }
                count
            })
        });
        let opens: Vec<_> = opens.collect();
        std::thread::sleep(Duration::from_secs(2));
        over.store(true, Ordering::Relaxed);
        let counts: Vec<u64> = opens.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(counts.iter().all(|&count| count > 20), "{counts:?}");
    });
    mount.stop();
}

#[test]
fn large_files_are_forwarded_and_small_ones_are_not() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox)
        .cache(Cache::None)
        .option("passthrough=auto")
        .option("log=debug")
        .start();
    skip_unless!(is_agreed(&mount), "this kernel does not forward reads and writes");
    for (name, len) in [("small", 4096), ("large", 64 << 10)] {
        std::fs::write(mount.below(name), vec![b'x'; len]).unwrap();
    }
    let [small, large] = ["small", "large"].map(|name| File::open(mount.join(name)).unwrap());
    mount.pause();
    let mut back = [0; 4096];
    large.read_exact_at(&mut back, 0).unwrap();
    let reader = std::thread::spawn(move || small.read_exact_at(&mut [0; 4096], 0));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!reader.is_finished(), "a small file was read without the server");
    mount.signal(Signal::CONT);
    reader.join().unwrap().unwrap();
    drop(large);
    mount.stop();
}

#[test]
fn without_passthrough_each_read_is_a_request() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).option("passthrough=off").option("log=debug").start();
    assert!(!is_agreed(&mount), "{}", mount.log());
    std::fs::write(mount.join("file"), "content").unwrap();
    assert_eq!(std::fs::read_to_string(mount.join("file")).unwrap(), "content");
    mount.stop();
}
