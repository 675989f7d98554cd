//! Data arrives as it was sent, whatever way the channel takes: sizes, places, direct, mapped, and from many threads.

use fusewire_tests::command::Cache;
use fusewire_tests::mount::{self, Mount};
use fusewire_tests::program::program;
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::{need, skip, sys, wait};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

const PAGE: usize = 4096;
/// Not a multiple of anything.
const LENGTH: usize = (3 << 20) + 1234;

/// Numbers that differ from place to place.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_ne_bytes()).take(length).collect()
    }
}

fn content(seed: u64) -> Vec<u8> {
    Numbers(seed | 1).bytes(LENGTH)
}

#[track_caller]
fn assert_same(what: &str, found: &[u8], wanted: &[u8]) {
    assert_eq!(found.len(), wanted.len(), "{what}: length");
    let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
    assert!(differs.is_none(), "{what}: differs at byte {differs:?} of {}", wanted.len());
}

/// The same on a mount of each caching profile.
fn everywhere(test: impl Fn(&Mount)) {
    for cache in Cache::ALL {
        let Some(sandbox) = sandbox::enter() else { return };
        let mount = start(&sandbox, cache);
        eprintln!("--cache {}", cache.word());
        test(&mount);
        mount.stop();
    }
}

fn start(sandbox: &Sandbox, cache: Cache) -> Mount {
    mount::passthrough(sandbox).option("passthrough=off").cache(cache).start()
}

fn open(path: &Path, flags: i32) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(flags);
    options.open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_file_is_read_in_pieces_of_any_size() {
    everywhere(|mount| {
        let wanted = content(1);
        for size in [511, PAGE, PAGE + 1, 64 << 10, 128 << 10, 1 << 20, (1 << 20) + 13, LENGTH + 1] {
            let name = format!("read{size}");
            std::fs::write(mount.below(&name), &wanted).expect("write below");
            let mut file = File::open(mount.join(&name)).expect("open");
            let (mut found, mut piece) = (Vec::new(), vec![0; size]);
            loop {
                match file.read(&mut piece).expect("read") {
                    0 => break,
                    n => found.extend_from_slice(&piece[..n]),
                }
            }
            assert_same(&format!("pieces of {size}"), &found, &wanted);
        }
    });
}

#[test]
fn a_file_is_written_in_pieces_of_any_size() {
    everywhere(|mount| {
        let wanted = content(2);
        for size in [4095, PAGE, 100_000, 128 << 10, 1 << 20, LENGTH] {
            let name = format!("written{size}");
            let mut file = File::create(mount.join(&name)).expect("create");
            wanted.chunks(size).for_each(|piece| file.write_all(piece).expect("write"));
            file.sync_all().expect("fsync");
            assert_same(&format!("pieces of {size}"), &std::fs::read(mount.below(&name)).unwrap(), &wanted);
            std::fs::remove_file(mount.join(&name)).expect("unlink");
            assert!(!mount.below(&name).exists());
        }
    });
}

#[test]
fn reads_and_writes_anywhere_leave_what_a_plain_file_would() {
    everywhere(|mount| {
        let mut model = content(3);
        std::fs::write(mount.below("random"), &model).expect("write below");
        let file = open(&mount.join("random"), 0);
        let mut numbers = Numbers(33);
        for step in 0..200 {
            let offset = numbers.below(LENGTH);
            let length = numbers.below(200_000).min(LENGTH - offset);
            if step % 2 == 0 {
                let bytes = numbers.bytes(length);
                file.write_all_at(&bytes, offset as u64).expect("pwrite");
                model[offset..][..length].copy_from_slice(&bytes);
            } else {
                let mut found = vec![0; length];
                file.read_exact_at(&mut found, offset as u64).expect("pread");
                assert_same(&format!("step {step}"), &found, &model[offset..][..length]);
            }
        }
        file.sync_all().expect("fsync");
        assert_same("below", &std::fs::read(mount.below("random")).unwrap(), &model);
    });
}

#[test]
fn direct_reads_and_writes_move_the_same_bytes() {
    everywhere(|mount| {
        let mut model = content(4);
        std::fs::write(mount.below("direct"), &model).expect("write below");
        let file = open(&mount.join("direct"), libc::O_DIRECT);
        let (mut numbers, mut memory) = (Numbers(44), sys::Pages::new(1 << 20).expect("pages"));
        for step in 0..60 {
            let length = (numbers.below(256) + 1) * PAGE;
            let offset = numbers.below(LENGTH / PAGE) * PAGE;
            let room = &mut memory.bytes()[..length];
            if step % 2 == 0 && offset + length <= LENGTH {
                let bytes = numbers.bytes(length);
                room.copy_from_slice(&bytes);
                assert_eq!(file.write_at(room, offset as u64).expect("pwrite"), length);
                model[offset..][..length].copy_from_slice(&bytes);
            } else {
                let found = file.read_at(room, offset as u64).expect("pread");
                let there = length.min(LENGTH - offset);
                assert_same(&format!("step {step}"), &room[..found], &model[offset..][..there]);
            }
        }
        assert_same("below", &std::fs::read(mount.below("direct")).unwrap(), &model);
    });
}

#[test]
fn mapped_files_show_and_keep_the_same_bytes() {
    for cache in [Cache::Auto, Cache::Always] {
        let Some(sandbox) = sandbox::enter() else { return };
        let mount = start(&sandbox, cache);
        let mut wanted = content(5);
        std::fs::write(mount.below("mapped"), &wanted).expect("write below");
        let file = open(&mount.join("mapped"), 0);
        let mut map = sys::Pages::of(&file, LENGTH).expect("mmap");
        assert_same("mapped", &map.bytes()[..LENGTH], &wanted);
        for at in (0..LENGTH).step_by(10_007) {
            map.bytes()[at] = 0x5a;
            wanted[at] = 0x5a;
        }
        drop(map);
        file.sync_all().expect("fsync");
        drop(file);
        assert_same("below", &std::fs::read(mount.below("mapped")).unwrap(), &wanted);
        mount.stop();
    }
}

#[test]
fn the_end_of_a_file_is_where_it_is() {
    everywhere(|mount| {
        let wanted = content(6);
        std::fs::write(mount.below("end"), &wanted).expect("write below");
        let mut file = open(&mount.join("end"), 0);
        let mut room = vec![0xff; 300_000];
        let n = file.read_at(&mut room, LENGTH as u64 - 1000).expect("pread over the end");
        assert_same("the tail", &room[..n], &wanted[LENGTH - 1000..]);
        for past in [0, 1, 100_000] {
            assert_eq!(file.read_at(&mut room, (LENGTH + past) as u64).expect("pread past the end"), 0);
        }
        // A hole, then data.
        file.write_all_at(b"far away", (LENGTH + 500_000) as u64).expect("pwrite past the end");
        file.seek(SeekFrom::Start(LENGTH as u64)).expect("seek");
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).expect("read");
        let hole = [&vec![0; 500_000][..], b"far away"].concat();
        assert_same("a hole", &rest, &hole);
        file.set_len(12345).expect("truncate");
        assert_same("cut", &std::fs::read(mount.join("end")).expect("read"), &wanted[..12345]);
    });
}

#[test]
fn threads_that_share_files_do_not_mix_them_up() {
    everywhere(|mount| {
        let shared = open(&mount.join("shared"), 0);
        let part = 512 << 10;
        std::thread::scope(|scope| {
            for number in 0..6_usize {
                let shared = &shared;
                scope.spawn(move || {
                    let mut numbers = Numbers(700 + number as u64);
                    for round in 0..4 {
                        let bytes = numbers.bytes(part);
                        let offset = (number * part) as u64;
                        shared.write_all_at(&bytes, offset).expect("pwrite");
                        let mut found = vec![0; part];
                        shared.read_exact_at(&mut found, offset).expect("pread");
                        assert_same(&format!("thread {number}, round {round}"), &found, &bytes);
                        let own = mount.join(format!("own{number}"));
                        std::fs::write(&own, &bytes).expect("write");
                        assert_same("own file", &std::fs::read(&own).expect("read"), &bytes);
                    }
                    shared.sync_all().expect("fsync");
                });
            }
        });
        let below = std::fs::read(mount.below("shared")).unwrap();
        for number in 0..6 {
            let mut numbers = Numbers(700 + number as u64);
            let last = (0..4).map(|_| numbers.bytes(part)).last().unwrap();
            assert_same("below", &below[number * part..][..part], &last);
        }
    });
}

#[test]
fn errors_of_the_lower_file_reach_the_caller() {
    for cache in Cache::ALL {
        let Some(sandbox) = sandbox::enter() else { return };
        let lower = sandbox.tmpfs("small", "size=1m");
        let mount =
            mount::passthrough(&sandbox).option("passthrough=off").source(&lower).cache(cache).start();
        let mut file = File::create(mount.join("full")).expect("create");
        let written = file.write_all(&content(8)).and_then(|()| file.sync_all());
        assert_eq!(written.expect_err("more than there is room for").kind(), ErrorKind::StorageFull);
        drop(file);
        // It works again once there is room, which is when the kernel's RELEASE and FORGET have come: nobody waits for these.
        std::fs::remove_file(mount.join("full")).expect("unlink");
        let fits = || std::fs::write(mount.join("fits"), &content(9)[..500_000]).is_ok();
        wait::assert_within(wait::SOON, "there is room again", fits);
        let below = std::fs::read(mount.below("fits")).unwrap();
        assert_same("below", &below, &content(9)[..500_000]);
        mount.stop();
        rustix::mount::unmount(&lower, rustix::mount::UnmountFlags::DETACH).expect("umount");
    }
}

#[test]
fn flags_of_a_file_change_its_time_of_change() {
    need!("chattr");
    let Some(sandbox) = sandbox::enter() else { return };
    for cache in Cache::ALL {
        let mount = mount::passthrough(&sandbox).name(cache.word()).cache(cache).start();
        std::fs::write(mount.join("file"), "x").unwrap();
        let changed = |path: &Path| path.metadata().map(|meta| (meta.ctime(), meta.ctime_nsec())).unwrap();
        let before = changed(&mount.join("file"));
        std::thread::sleep(std::time::Duration::from_millis(20));
        if program("chattr").arg("+A").arg(mount.join("file")).run().code() != Some(0) {
            return skip::report("the filesystem has no such flags");
        }
        assert_ne!(changed(&mount.below("file")), before);
        wait::assert_within(wait::SOON, "the time of the change", || {
            changed(&mount.join("file")) == changed(&mount.below("file"))
        });
        mount.stop();
    }
}
