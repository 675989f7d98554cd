//! The directory underneath: full, broken, over quota, changed behind the mount's back, with mounts inside.

use fusewire_tests::command::Cache;
use fusewire_tests::mount;
use fusewire_tests::program::program;
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::wait::{self, SOON};
use fusewire_tests::{need, skip_unless};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::process::Signal;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Writes until that is refused; gives the error, which may come at `write`, `fsync` or `close`.
fn fill(path: &Path) -> Errno {
    let fill = || -> io::Result<()> {
        let mut file = File::create(path)?;
        let block = vec![b'x'; 1 << 16];
        for _ in 0..4096 {
            file.write_all(&block)?;
        }
        file.sync_all()?;
        fusewire_tests::sys::close(file.into())
    };
    Errno::from_io_error(&fill().expect_err("a small filesystem took 256 MiB")).expect("an errno")
}

/// A formatted image; `None` and `skipped: ...` where it cannot be mounted.
fn image(sandbox: &Sandbox, megabytes: u64, format: &[&str]) -> PathBuf {
    let image = sandbox.dir().join("image");
    File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
    program(format[0]).args(&format[1..]).arg(&image).ok();
    image
}

fn loop_devices() -> bool {
    Path::new("/dev/loop-control").exists()
}

#[test]
fn a_full_filesystem_answers_enospc() {
    let Some(sandbox) = sandbox::enter() else { return };
    let small = sandbox.tmpfs("small", "size=2m,nr_inodes=50");
    for cache in Cache::ALL {
        let mount = mount::passthrough(&sandbox).name(cache.word()).cache(cache).source(&small).start();
        assert_eq!(fill(&mount.join("large")), Errno::NOSPC);
        std::fs::remove_file(mount.join("large")).unwrap();
        let create = |i: u32| File::create(mount.join(format!("n{i}"))).map(drop);
        let refused = (0..100).find_map(|i| create(i).err()).expect("100 files in 50 inodes");
        assert_eq!(Errno::from_io_error(&refused), Some(Errno::NOSPC));
        (0..100).for_each(|i| drop(std::fs::remove_file(mount.join(format!("n{i}")))));
        // Room comes with the RELEASE of the large file, for which nobody waits.
        let fits = || std::fs::write(mount.join("after"), "room again").is_ok();
        wait::assert_within(SOON, "there is room again", fits);
        std::fs::remove_file(mount.join("after")).unwrap();
        let (ours, theirs) =
            (rustix::fs::statvfs(mount.path()).unwrap(), rustix::fs::statvfs(&small).unwrap());
        assert_eq!((ours.f_blocks, ours.f_files), (theirs.f_blocks, theirs.f_files));
        mount.stop();
    }
}

#[test]
fn a_full_ext4_answers_enospc() {
    need!("mkfs.ext4");
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(loop_devices(), "there are no loop devices");
    let image = image(&sandbox, 16, &["mkfs.ext4", "-q"]);
    let lower = sandbox.loop_mount(&image, "lower", "");
    let mount = mount::passthrough(&sandbox).source(&lower).start();
    assert_eq!(fill(&mount.join("large")), Errno::NOSPC);
    let file = File::create(mount.join("allocated"));
    if let Ok(file) = file {
        let refused = fallocate(&file, FallocateFlags::empty(), 0, 1 << 30);
        assert_eq!(refused, Err(Errno::NOSPC));
    }
    mount.stop();
}

#[test]
fn one_link_too_many_answers_emlink() {
    need!("mkfs.ext4");
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(loop_devices(), "there are no loop devices");
    let image = image(&sandbox, 64, &["mkfs.ext4", "-q"]);
    let lower = sandbox.loop_mount(&image, "lower", "");
    std::fs::write(lower.join("file"), "x").unwrap();
    let link = |dir: &Path, i: u32| std::fs::hard_link(dir.join("file"), dir.join(format!("l{i}")));
    let count = (0..70_000).find(|i| link(&lower, *i).is_err()).expect("ext4 takes 65,000 links");
    let mount = mount::passthrough(&sandbox).source(&lower).start();
    let refused = link(mount.path(), count).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::MLINK));
    std::fs::remove_file(mount.join("l0")).unwrap();
    link(mount.path(), count).unwrap();
    mount.stop();
}

#[test]
fn a_user_over_quota_gets_edquot() {
    need!("mkfs.btrfs", "btrfs");
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(loop_devices(), "there are no loop devices");
    skip_unless!(
        fusewire_tests::skip::kernel_has("btrfs"),
        "the kernel has no btrfs, whose quotas the test uses"
    );
    let image = image(&sandbox, 128, &["mkfs.btrfs", "-q"]);
    let lower = sandbox.loop_mount(&image, "lower", "");
    let subvolume = lower.join("limited");
    program("btrfs").args(["quota", "enable"]).arg(&lower).ok();
    program("btrfs").args(["subvolume", "create"]).arg(&subvolume).ok();
    program("btrfs").args(["qgroup", "limit", "8M"]).arg(&subvolume).ok();
    let mount = mount::passthrough(&sandbox).source(&subvolume).start();
    assert_eq!(fill(&mount.join("large")), Errno::DQUOT);
    mount.stop();
}

#[test]
fn a_copy_shares_its_blocks_where_the_source_can() {
    need!("mkfs.btrfs");
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(loop_devices(), "there are no loop devices");
    skip_unless!(fusewire_tests::skip::kernel_has("btrfs"), "the kernel has no btrfs");
    let image = image(&sandbox, 256, &["mkfs.btrfs", "-q"]);
    let lower = sandbox.loop_mount(&image, "lower", "");
    let free = || {
        rustix::fs::syncfs(File::open(&lower).unwrap()).unwrap();
        let state = rustix::fs::statvfs(&lower).unwrap();
        (state.f_bfree * state.f_frsize) >> 20
    };
    for cache in Cache::ALL {
        let mount = mount::passthrough(&sandbox).name(cache.word()).cache(cache).source(&lower).start();
        let text: Vec<u8> =
            (0..32u32 << 18).flat_map(|at| at.wrapping_mul(0x9e37_79b9).to_ne_bytes()).collect();
        std::fs::write(mount.join("file"), &text).unwrap();
        let before = free();
        // By copy_file_range; cloning it the kernel refuses without asking.
        program("cp").arg(mount.join("file")).arg(mount.join("copy")).ok();
        let taken = before.saturating_sub(free());
        assert!(taken < 8, "a copy of 32 MiB took {taken} MiB with cache {}", cache.word());
        assert!(std::fs::read(mount.join("copy")).unwrap() == text);
        let (file, clone) =
            (File::open(mount.join("file")).unwrap(), File::create(mount.join("clone")).unwrap());
        assert_eq!(rustix::fs::ioctl_ficlone(&clone, &file), Err(Errno::OPNOTSUPP));
        drop((file, clone));
        for name in ["file", "copy", "clone"] {
            std::fs::remove_file(mount.join(name)).unwrap();
        }
        mount.stop();
    }
}

#[test]
fn collapsing_and_inserting_ranges_is_refused_and_changes_nothing() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    let text: Vec<u8> = (0..5 << 12).map(|at: u32| (at >> 10) as u8).collect();
    std::fs::write(mount.join("file"), &text).unwrap();
    let file = File::options().read(true).write(true).open(mount.join("file")).unwrap();
    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        assert_eq!(fallocate(&file, mode, 4096, 4096), Err(Errno::OPNOTSUPP), "{mode:?}");
    }
    assert_eq!(std::fs::read(mount.below("file")).unwrap(), text);
    // What is handed on arrives.
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 4096, 4096).unwrap();
    let stored = std::fs::read(mount.below("file")).unwrap();
    assert!(stored.len() == text.len() && stored[4096..8192].iter().all(|byte| *byte == 0));
    assert_eq!(stored[8192..], text[8192..]);
    drop(file);
    mount.stop();
}

#[test]
fn an_unreadable_disk_answers_eio_and_the_rest_works_on() {
    need!("mkfs.ext4");
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(loop_devices(), "there are no loop devices");
    let image = image(&sandbox, 64, &["mkfs.ext4", "-q", "-O", "^has_journal"]);
    let lower = sandbox.loop_mount(&image, "fill", "");
    std::fs::write(lower.join("broken"), vec![b'x'; 40 << 20]).unwrap();
    program("umount").arg(&lower).ok();
    // The end of the disk is gone, and reads there fail; metadata lies at its beginning.
    let lower = sandbox.loop_mount(&image, "lower", "");
    File::options().write(true).open(&image).unwrap().set_len(24 << 20).unwrap();
    let mount = mount::passthrough(&sandbox).source(&lower).start();
    let mut broken = File::open(mount.join("broken")).unwrap();
    let mut text = Vec::new();
    let error = broken.read_to_end(&mut text).expect_err("half of the disk is missing");
    assert_eq!(Errno::from_io_error(&error), Some(Errno::IO));
    assert_eq!(mount.join("broken").metadata().unwrap().len(), 40 << 20);
    let mut start = [0; 4096];
    broken.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, [b'x'; 4096]);
    drop(broken);
    mount.stop();
}

#[test]
fn changes_underneath_are_seen_at_once_without_cache() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).cache(Cache::None).start();
    changes_underneath(mount.source(), mount.path(), Duration::ZERO);
    mount.stop();
}

#[test]
fn changes_underneath_are_seen_after_a_moment_with_short_caches() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).cache(Cache::Auto).start();
    changes_underneath(mount.source(), mount.path(), Duration::from_secs(8));
    mount.stop();
}

pub fn changes_underneath(source: &Path, mount: &Path, moment: Duration) {
    let seen = |what: &str, probe: &dyn Fn() -> bool| wait::assert_within(moment, what, probe);
    let read = |name: &str| std::fs::read_to_string(mount.join(name));
    let is_missing = |name: &str| read(name).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);

    assert!(is_missing("file"));
    std::fs::write(source.join("file"), "one").unwrap();
    seen("a new file", &|| read("file").is_ok_and(|text| text == "one"));
    std::fs::write(source.join("file"), "two and longer").unwrap();
    seen("new contents of another length", &|| read("file").is_ok_and(|text| text == "two and longer"));
    std::fs::write(source.join("file"), "TWO AND LONGER").unwrap();
    seen("new contents of the same length", &|| read("file").is_ok_and(|text| text == "TWO AND LONGER"));
    sandbox::chmod(&source.join("file"), 0o600);
    seen("new permission bits", &|| mount.join("file").metadata().unwrap().mode() & 0o7777 == 0o600);

    std::fs::rename(source.join("file"), source.join("moved")).unwrap();
    seen("the new name", &|| read("moved").is_ok_and(|text| text == "TWO AND LONGER"));
    seen("the old name is gone", &|| is_missing("file"));

    let held = File::options().read(true).write(true).open(mount.join("moved")).unwrap();
    std::fs::write(source.join("other"), "another file").unwrap();
    std::fs::rename(source.join("other"), source.join("moved")).unwrap();
    seen("the replaced file", &|| read("moved").is_ok_and(|text| text == "another file"));
    let mut old = [0; 14];
    held.read_exact_at(&mut old, 0).expect("the replaced file is still open");
    assert_eq!(&old, b"TWO AND LONGER");

    std::fs::create_dir(source.join("dir")).unwrap();
    std::fs::write(source.join("dir/inner"), "x").unwrap();
    seen("a directory", &|| read("dir/inner").is_ok());
    std::fs::rename(source.join("dir"), source.join("dir2")).unwrap();
    seen("a renamed directory", &|| read("dir2/inner").is_ok() && is_missing("dir/inner"));
    std::fs::remove_dir_all(source.join("dir2")).unwrap();
    seen("a removed directory", &|| is_missing("dir2/inner"));
    std::fs::write(source.join("dir2"), "now a file").unwrap();
    seen("a file in place of a directory", &|| read("dir2").is_ok_and(|text| text == "now a file"));
    std::fs::remove_file(source.join("moved")).unwrap();
    seen("a removed file", &|| is_missing("moved"));
    let listed =
        || std::fs::read_dir(mount).unwrap().flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
    seen("the listing", &|| listed() == ["dir2"]);
}

#[test]
fn files_that_the_kernel_makes_up_are_read_and_written() {
    let Some(sandbox) = sandbox::enter() else { return };
    let inside = sandbox.make_dir("src");
    std::fs::create_dir(inside.join("proc")).unwrap();
    program("mount").args(["--bind", "/proc"]).arg(inside.join("proc")).ok();
    for cache in Cache::ALL {
        for (name, source, below) in [("root", Path::new("/proc"), ""), ("inside", &*inside, "proc")] {
            let name = format!("{name}-{}", cache.word());
            let mount = mount::passthrough(&sandbox).name(&name).cache(cache).source(source).start();
            let proc = mount.join(below);
            let (ours, theirs) = ("cpuinfo", "/proc/cpuinfo");
            let model = |path: &Path| {
                let text = std::fs::read_to_string(path).unwrap();
                text.lines().filter(|line| line.starts_with("model name")).collect::<Vec<_>>().join(" ")
            };
            assert!(!model(Path::new(theirs)).is_empty());
            assert_eq!(model(&proc.join(ours)), model(Path::new(theirs)), "{name}");
            let named = proc.join(std::process::id().to_string()).join("comm");
            for text in ["one", "another"] {
                std::fs::write(format!("/proc/{}/comm", std::process::id()), text).unwrap();
                assert_eq!(std::fs::read_to_string(&named).unwrap(), format!("{text}\n"), "{name}");
            }
            mount.stop();
        }
    }
}

#[test]
fn a_symlink_swapped_underneath_does_not_lead_out_of_the_source() {
    let Some(sandbox) = sandbox::enter() else { return };
    let secret = sandbox.make_dir("secret");
    std::fs::write(secret.join("file"), "secret").unwrap();
    let mount = mount::passthrough(&sandbox).cache(Cache::Always).start();
    std::fs::create_dir(mount.join("dir")).unwrap();
    std::fs::write(mount.join("dir/file"), "public").unwrap();
    assert_eq!(std::fs::read_to_string(mount.join("dir/file")).unwrap(), "public");
    // The mount is told that nobody else changes the tree, and so still takes "dir" for a directory.
    std::fs::rename(mount.below("dir"), mount.below("was-dir")).unwrap();
    std::os::unix::fs::symlink(&secret, mount.below("dir")).unwrap();
    for name in ["dir/file", "dir/unknown"] {
        let text = std::fs::read_to_string(mount.join(name)).unwrap_or_default();
        assert_ne!(text, "secret", "{name} leads out of the source");
    }
    let _ = std::fs::write(mount.join("dir/new"), "x");
    let _ = std::fs::remove_file(mount.join("dir/file"));
    assert_eq!(std::fs::read_to_string(secret.join("file")).unwrap(), "secret");
    assert!(!secret.join("new").exists(), "a file was created outside of the source");
    mount.stop();
}

#[test]
fn filesystems_mounted_inside_the_source_are_shown() {
    let Some(sandbox) = sandbox::enter() else { return };
    let source = sandbox.make_dir("outer");
    std::fs::write(source.join("file"), "outer").unwrap();
    for (name, size) in [("one", "size=1m"), ("two", "size=2m")] {
        let point = sandbox.tmpfs(&format!("outer/{name}"), size);
        // Two new tmpfs number their files alike.
        std::fs::write(point.join("file"), name).unwrap();
        std::fs::hard_link(point.join("file"), point.join("link")).unwrap();
    }
    let numbers = ["one/file", "two/file"].map(|name| source.join(name).metadata().unwrap().ino());
    assert_eq!(numbers[0], numbers[1], "the test wants equal inode numbers");
    let mount = mount::passthrough(&sandbox).source(&source).start();
    for (name, text) in [("file", "outer"), ("one/file", "one"), ("two/file", "two"), ("two/link", "two")] {
        assert_eq!(std::fs::read_to_string(mount.join(name)).unwrap(), text, "{name}");
    }
    std::fs::write(mount.join("one/file"), "changed").unwrap();
    assert_eq!(std::fs::read_to_string(mount.join("one/link")).unwrap(), "changed");
    assert_eq!(std::fs::read_to_string(mount.join("two/file")).unwrap(), "two");
    let identity = |name: &str| mount.join(name).metadata().map(|meta| (meta.dev(), meta.ino())).unwrap();
    assert_ne!(
        identity("one/file"),
        identity("two/file"),
        "two files look like one (hard links) to tar and rsync"
    );
    assert_eq!(identity("one/file"), identity("one/link"));
    let crossing = std::fs::rename(mount.join("one/file"), mount.join("two/moved"));
    assert_eq!(Errno::from_io_error(&crossing.unwrap_err()), Some(Errno::XDEV));
    let blocks = |name: &str| rustix::fs::statvfs(mount.join(name)).unwrap().f_blocks;
    assert_ne!(blocks("one"), blocks("two"), "statfs answers for the filesystem below");
    mount.stop();
}

#[test]
fn requests_that_wait_for_a_hung_filesystem_do_not_stop_the_others() {
    let Some(sandbox) = sandbox::enter() else { return };
    let inner = mount::passthrough(&sandbox).name("inner").start();
    (0..40).for_each(|i| std::fs::write(inner.join(format!("f{i}")), "inner").unwrap());
    let outer = sandbox.make_dir("outer");
    let slow = sandbox.make_dir("outer/slow");
    program("mount").arg("--bind").args([inner.path(), &slow]).ok();
    let mount = mount::passthrough(&sandbox).source(&outer).cache(Cache::None).start();
    assert_eq!(std::fs::read_to_string(mount.join("slow/f0")).unwrap(), "inner");

    inner.pause();
    let read = |i: usize| program("cat").arg(mount.join(format!("slow/f{i}"))).start();
    let mut waiting: Vec<_> = (0..40).map(read).collect();
    std::thread::sleep(Duration::from_millis(700));
    assert!(waiting.iter_mut().all(|client| client.is_running()), "the inner server is stopped");
    let (start, limit) = (Instant::now(), Duration::from_secs(20));
    for i in 0..200 {
        std::fs::write(mount.join(format!("other-{i}")), "not stopped").unwrap();
    }
    assert!(start.elapsed() < limit, "200 files took {:?} beside 40 requests that wait", start.elapsed());

    inner.signal(Signal::CONT);
    for client in waiting {
        assert_eq!(client.finish(SOON).ok(), "inner");
    }
    mount.stop();
    program("umount").arg(&slow).ok();
    inner.stop();
}

#[test]
fn a_mount_can_be_re_exported() {
    need!("rsync");
    let Some(sandbox) = sandbox::enter() else { return };
    let inner = mount::passthrough(&sandbox).name("inner").start();
    fusewire_tests::tree::everything(inner.source());
    let outer = mount::passthrough(&sandbox).name("outer").source(inner.path()).start();
    assert_eq!(fusewire_tests::tree::difference(inner.source(), outer.path()), "");
    std::fs::write(outer.join("plain"), "through both").unwrap();
    assert_eq!(std::fs::read_to_string(inner.below("plain")).unwrap(), "through both");
    outer.stop();
    inner.stop();
}

#[test]
fn an_unlinked_open_file_lives_until_it_is_closed() {
    let Some(sandbox) = sandbox::enter() else { return };
    for cache in Cache::ALL {
        let mount = mount::passthrough(&sandbox).name(cache.word()).cache(cache).start();
        let mut file =
            File::options().read(true).write(true).create_new(true).open(mount.join("file")).unwrap();
        file.write_all(b"before").unwrap();
        std::fs::remove_file(mount.join("file")).unwrap();
        assert_eq!(std::fs::read_dir(mount.path()).unwrap().count(), 0, "no hidden name stays behind");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        file.write_all(b" after").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before after");
        file.set_len(2).unwrap();
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (2, 0o640));
        // The name is free, and what is created there is another file.
        std::fs::write(mount.join("file"), "second").unwrap();
        assert_ne!(mount.join("file").metadata().unwrap().ino(), meta.ino());
        drop(file);
        assert_eq!(std::fs::read_to_string(mount.join("file")).unwrap(), "second");
        mount.stop();
    }
}
