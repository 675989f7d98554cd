//! Data that is not copied where the directory underneath lies on a disk: ext4 and XFS do with clients' pages what they do
//! with anybody's.

use super::has_pools;
use fusewire_tests::command::{self, Cache, is_over_ring};
use fusewire_tests::mount::{self, Mount, Plan};
use fusewire_tests::program::program;
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::skip::{find_program, kernel_has, report};
use fusewire_tests::wait::{self, SOON};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// How long files get at most: requests of more than one size, and more than one request.
const LONGEST: usize = 2_500_000;

/// A filesystem of this kind on a loop device, and a mount with these buffers on a directory of it.
fn on_disk(kind: &str) -> Option<(Sandbox, PathBuf)> {
    if !is_over_ring() || !has_pools() {
        report("no zero copy: it takes Linux 7.3 and --channel uring");
        return None;
    }
    let formatter = format!("mkfs.{kind}");
    if !kernel_has(kind) || !Path::new("/dev/loop-control").exists() || find_program(&formatter).is_none() {
        report(&format!("{kind}, loop devices, or the program {formatter} are not there"));
        return None;
    }
    let sandbox = sandbox::enter()?;
    let image = sandbox.dir().join("image");
    File::create(&image).expect("image").set_len(320 << 20).expect("its length");
    program(formatter).arg("-q").arg(&image).ok();
    let lower = sandbox.loop_mount(&image, "lower", "");
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    let is_it =
        |line: &str| line.contains(lower.to_str().expect("a name")) && line.contains(&format!(" - {kind} "));
    assert!(table.lines().any(is_it), "the loop device is not mounted as {kind}: {table}");
    Some((sandbox, lower))
}

fn plan<'a>(sandbox: &'a Sandbox, lower: &Path, cache: Cache, buffers: &str) -> Plan<'a> {
    let name = format!("{}-{buffers}", cache.word());
    let plan = mount::passthrough(sandbox).name(&name).source(lower).cache(cache);
    plan.option("passthrough=off").option("log=debug").option(&format!("buffers={buffers}"))
}

/// What the mount says of itself: bytes read, written, and those of both that were not copied.
fn bytes(mount: &Mount) -> [u64; 3] {
    let asked = || program(command::binary()).arg("stats").arg(mount.path()).arg("--json").run();
    let told = wait::until(SOON, || Some(asked()).filter(|done| done.code() == Some(0))).expect("statistics");
    let report: serde_json::Value = serde_json::from_str(&told.stdout).expect("a report");
    ["read_bytes", "written_bytes", "zero_copy_bytes"].map(|key| report[key].as_u64().expect(key))
}

/// The same numbers in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    /// Mostly short, sometimes several requests long, seldom a multiple of anything.
    fn length(&mut self) -> usize {
        let most = [100, 5000, 70_000, 1_300_000][self.below(4)];
        1 + self.below(most)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let seed = self.below(251);
        (0..length).map(|at| (at * 7 + at / 4096 + seed) as u8).collect()
    }
}

/// A file and what should be in it.
struct Known {
    file: File,
    content: Vec<u8>,
}

impl Known {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset as u64).expect("write");
        let end = offset + bytes.len();
        self.content.resize(self.content.len().max(end), 0);
        self.content[offset..end].copy_from_slice(bytes);
    }

    fn cut(&mut self, length: usize) {
        self.file.set_len(length as u64).expect("truncate");
        self.content.resize(length, 0);
    }

    fn punch(&mut self, offset: usize, length: usize) {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, mode, offset as u64, length as u64).expect("punch a hole");
        let end = self.content.len().min(offset + length);
        self.content[offset.min(end)..end].fill(0);
    }

    /// One read must give all there is, and touch nothing behind it; `skew`: where the memory begins in its page.
    fn check(&self, offset: usize, length: usize, skew: usize) {
        let mut memory = vec![0xee; skew + length + 64];
        let found = &mut memory[skew..];
        let count = self.file.read_at(&mut found[..length], offset as u64).expect("read");
        let there = &self.content[offset.min(self.content.len())..];
        let there = &there[..there.len().min(length)];
        assert_eq!(count, there.len(), "{length} bytes at {offset} of {}", self.content.len());
        let wrong = (0..count).find(|&at| found[at] != there[at]);
        assert_eq!(wrong, None, "{length} bytes at {offset} of {}", self.content.len());
        assert!(found[length..].iter().all(|byte| *byte == 0xee), "bytes behind what was asked for");
    }
}

/// Write, cut, punch and read anywhere; the numbers of bytes as [`bytes`] has them.
fn exercise(plan: Plan<'_>, rounds: usize) -> [u64; 3] {
    let mount = plan.start();
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(mount.join("file"));
    let mut known = Known { file: file.expect("create"), content: Vec::new() };
    for _ in 0..rounds {
        let (offset, length) = (numbers.below(LONGEST / 2), numbers.length());
        match numbers.below(6) {
            0..=2 => {
                let bytes = numbers.bytes(length);
                known.write(offset, &bytes);
            }
            3 => known.cut(offset),
            4 => known.punch(offset, length),
            _ => {}
        }
        known.check(numbers.below(LONGEST), numbers.length(), numbers.below(4096));
        // What ends in the middle of a page, and what begins at the end.
        let end = known.content.len();
        known.check(end.saturating_sub(numbers.below(5000)), 9000, 0);
        known.check(end, 100, 1);
    }
    known.file.sync_all().expect("fsync");
    assert!(
        std::fs::read(mount.below("file")).expect("read below") == known.content,
        "below is something else"
    );
    // Opened for reading alone, after the page cache has forgotten it.
    let fresh = File::open(mount.join("file")).expect("open");
    rustix::fs::fadvise(&fresh, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
    let Known { file, content } = known;
    // Whoever has a file open keeps the mount.
    drop(file);
    let known = Known { file: fresh, content };
    (0..10).for_each(|at| known.check(at * LONGEST / 10, LONGEST / 10, 0));
    drop(known);
    let moved = bytes(&mount);
    mount.stop();
    moved
}

fn anywhere(kind: &str) {
    let Some((sandbox, lower)) = on_disk(kind) else { return };
    for cache in Cache::ALL {
        let [read, written, moved] = exercise(plan(&sandbox, &lower, cache, "zero-copy"), 60);
        eprintln!("{kind}, cache {}: {read} read, {written} written, {moved} not copied", cache.word());
        assert!(read > 1 << 20 && written > 1 << 20, "there was nothing to see");
        assert_eq!(moved, read + written, "{kind}, cache {}: some data was copied", cache.word());
    }
    let [read, written, moved] = exercise(plan(&sandbox, &lower, Cache::Auto, "pool"), 20);
    assert!(read > 0 && written > 0 && moved == 0, "{moved} bytes were not copied though that was asked for");
    let [read, written, moved] = exercise(plan(&sandbox, &lower, Cache::Always, "auto"), 60);
    eprintln!("{kind}, what is chosen by itself: {read} read, {written} written, {moved} not copied");
    // On ext4 a file that is open for writing, too, has its data copied.
    assert!(if kind == "ext4" { moved > 0 && moved < read } else { moved == read + written }, "{moved}");
}

#[test]
fn data_of_files_on_ext4_is_right_and_not_copied() {
    anywhere("ext4");
}

#[test]
fn data_of_files_on_xfs_is_right_and_not_copied() {
    anywhere("xfs");
}

/// Past the page cache above and below.
fn direct(kind: &str) {
    const PAGE: usize = 4096;
    let Some((sandbox, lower)) = on_disk(kind) else { return };
    let mount = plan(&sandbox, &lower, Cache::None, "zero-copy").start();
    let open = |flags: i32| {
        let mut options = File::options();
        options.read(true).write(true).create(true).custom_flags(flags);
        options.open(mount.join("file")).expect("open")
    };
    let content: Vec<u8> = Numbers(77).bytes(40 * PAGE + 1000);
    open(0).write_all_at(&content, 0).expect("write");
    let file = open(rustix::fs::OFlags::DIRECT.bits().cast_signed());
    let mut memory = vec![0u8; 42 * PAGE];
    let begin = memory.as_ptr().align_offset(PAGE);
    let mut read = |offset: usize, length: usize, skew: usize| -> Result<Vec<u8>, Errno> {
        let found = &mut memory[begin + skew..][..length];
        found.fill(0xee);
        let count =
            file.read_at(found, offset as u64).map_err(|error| Errno::from_io_error(&error).unwrap())?;
        Ok(found[..count].to_vec())
    };
    // Aligned; short at the end of the file; behind it; and memory of which the disk takes none as it is.
    for (offset, length, skew) in [
        (0, 40 * PAGE, 0),
        (3 * PAGE, PAGE, 0),
        (40 * PAGE, PAGE, 0),
        (41 * PAGE, PAGE, 0),
        (PAGE, 2 * PAGE, 512),
        (PAGE, 2 * PAGE, 100),
        (30 * PAGE, 11 * PAGE, 7),
    ] {
        let there = &content[offset.min(content.len())..content.len().min(offset + length)];
        assert!(
            read(offset, length, skew).expect("read") == there,
            "{length} bytes at {offset}, memory at {skew}"
        );
    }
    for (offset, length) in [(100, 200), (PAGE, 100), (1, PAGE)] {
        match read(offset, length, 0) {
            Ok(found) => assert!(found == content[offset..][..length], "{length} bytes at {offset}"),
            Err(errno) => assert_eq!(errno, Errno::INVAL, "{length} bytes at {offset}"),
        }
    }
    let mut memory = vec![0u8; 12 * PAGE];
    let begin = memory.as_ptr().align_offset(PAGE);
    let mut wanted = content;
    for (offset, length, skew) in [(0, 2 * PAGE, 0), (5 * PAGE, 8 * PAGE, 100), (50 * PAGE, PAGE, 0)] {
        let bytes = Numbers(offset as u64 + 3).bytes(length);
        memory[begin + skew..][..length].copy_from_slice(&bytes);
        file.write_all_at(&memory[begin + skew..][..length], offset as u64).expect("write");
        wanted.resize(wanted.len().max(offset + length), 0);
        wanted[offset..][..length].copy_from_slice(&bytes);
    }
    drop(file);
    assert!(std::fs::read(mount.below("file")).expect("read below") == wanted, "below is something else");
    let [read, written, moved] = bytes(&mount);
    eprintln!("{kind}, O_DIRECT: {read} read, {written} written, {moved} not copied");
    assert_eq!(moved, read + written);
    mount.stop();
}

#[test]
fn files_on_ext4_are_read_and_written_past_both_page_caches() {
    direct("ext4");
}

#[test]
fn files_on_xfs_are_read_and_written_past_both_page_caches() {
    direct("xfs");
}

fn cut_meanwhile(kind: &str) {
    let Some((sandbox, lower)) = on_disk(kind) else { return };
    for cache in [Cache::None, Cache::Auto] {
        let mount = plan(&sandbox, &lower, cache, "zero-copy").start();
        cut_while_read(&mount);
        let [read, _, moved] = bytes(&mount);
        assert!(read > 0, "nobody read anything");
        assert_eq!(moved, read, "{kind}, cache {}: data was copied", cache.word());
        mount.stop();
    }
}

/// Somebody cuts the file below, lengthens it again, and puts back what was there, while others read: each byte that is told of is
/// that or zero.
fn cut_while_read(mount: &Mount) {
    const LENGTH: usize = 1 << 20;
    let content: Vec<u8> = (0..LENGTH).map(|at| (at / 3 % 199) as u8 + 1).collect();
    std::fs::write(mount.below("cut"), &content).expect("write below");
    let done = AtomicBool::new(false);
    let look = |seed: u64| {
        let file = File::open(mount.join("cut")).expect("open");
        let mut numbers = Numbers(seed);
        let mut memory = vec![0; 400_000];
        while !done.load(Ordering::Relaxed) {
            let (offset, length) = (numbers.below(LENGTH), 1 + numbers.below(400_000));
            memory.fill(0xee);
            let count = file.read_at(&mut memory[..length], offset as u64).expect("read");
            let wrong = memory[..count].iter().zip(&content[offset..]).position(|(a, b)| a != b && *a != 0);
            assert_eq!(wrong, None, "{count} of {length} bytes at {offset}");
            assert!(memory[length..].iter().all(|byte| *byte == 0xee), "bytes behind what was asked for");
        }
    };
    std::thread::scope(|scope| {
        let look = &look;
        [11, 12].into_iter().for_each(|seed| drop(scope.spawn(move || look(seed))));
        let below = File::options().write(true).open(mount.below("cut")).expect("open below");
        let mut numbers = Numbers(13);
        for _ in 0..80 {
            below.set_len(numbers.below(LENGTH) as u64).expect("cut");
            below.set_len(LENGTH as u64).expect("lengthen");
            below.write_all_at(&content, 0).expect("write");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn files_on_ext4_may_be_cut_while_they_are_read() {
    cut_meanwhile("ext4");
}

#[test]
fn files_on_xfs_may_be_cut_while_they_are_read() {
    cut_meanwhile("xfs");
}
