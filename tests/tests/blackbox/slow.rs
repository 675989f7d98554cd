//! A directory on a disk that takes its time.

use fusewire_tests::mount;
use fusewire_tests::program::{Running, program};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::{need, skip_unless, wait};
use rustix::fs::Advice;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const READERS: u64 = 8;
const DELAY: Duration = Duration::from_millis(4);
/// Between what is read: too far for reading ahead to help.
const APART: u64 = 256 << 10;
/// How much each reader reads.
const BLOCKS: u64 = 150;

/// An ext4 with one file, `file`, with a number every [`APART`] bytes and holes between them, on a disk whose reads take [`DELAY`]; and
/// the disk.
fn slow_directory(sandbox: &Sandbox) -> (PathBuf, Running) {
    let image = sandbox.dir().join("image");
    File::create(&image).unwrap().set_len(512 << 20).unwrap();
    program("mkfs.ext4").args(["-q", "-O", "^has_journal"]).arg(&image).ok();
    let fast = sandbox.loop_mount(&image, "fast", "");
    let file = File::create(fast.join("file")).unwrap();
    (0..READERS * BLOCKS).for_each(|i| file.write_all_at(&i.to_ne_bytes(), i * APART).unwrap());
    file.set_len(READERS * BLOCKS * APART).unwrap();
    file.sync_all().unwrap();
    drop(file);
    program("umount").arg(&fast).ok();
    let exe = env!("CARGO_BIN_EXE_fusewire-test-slow-disk");
    let point = sandbox.make_dir("disk");
    let delay = DELAY.as_micros().to_string();
    let disk = program(exe).args([&image, &point]).arg(delay).start();
    wait::assert_within(wait::SOON, "the slow disk", || point.join("disk").exists());
    // With direct I/O the loop device has as many reads under way as it is asked for.
    let device = program("losetup").args(["--find", "--show", "--direct-io=on"]).arg(point.join("disk")).ok();
    let lower = sandbox.make_dir("lower");
    program("mount").args(["-o", "ro"]).arg(device.trim()).arg(&lower).ok();
    program("losetup").args(["--detach", device.trim()]).ok();
    (lower, disk)
}

/// How long it takes [`READERS`] to read every number in `file` once, none of which is in memory.
fn read_cold(file: &Path) -> Duration {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            scope.spawn(move || {
                let file = File::open(file).unwrap();
                rustix::fs::fadvise(&file, 0, None, Advice::Random).unwrap();
                for i in 0..BLOCKS {
                    // A stride that reaches every block of this reader's, none beside the last.
                    let block = reader * BLOCKS + i * 7 % BLOCKS;
                    let mut number = [0; 8];
                    file.read_exact_at(&mut number, block * APART).unwrap();
                    assert_eq!(u64::from_ne_bytes(number), block);
                }
            });
        }
    });
    begin.elapsed()
}

#[test]
fn reads_of_a_slow_disk_do_not_wait_for_each_other() {
    need!("mkfs.ext4", "losetup");
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(Path::new("/dev/loop-control").exists(), "there are no loop devices");
    let (lower, mut disk) = slow_directory(&sandbox);
    let file = File::open(lower.join("file")).unwrap();
    rustix::fs::fadvise(&file, 0, None, Advice::Random).unwrap();
    let mount = mount::passthrough(&sandbox).option("passthrough=off").source(&lower).start();
    let took = read_cold(&mount.join("file"));
    mount.stop();
    drop(file);
    program("umount").arg(&lower).ok();
    program("umount").arg(sandbox.dir().join("disk")).ok();
    disk.end_within(wait::SOON).expect("the slow disk ends");
    let one_by_one = DELAY * (READERS * BLOCKS) as u32;
    eprintln!("{} reads by {READERS}: {took:?}; one after the other {one_by_one:?}", READERS * BLOCKS);
    assert!(took < one_by_one / 2, "{took:?} of {one_by_one:?}");
}
