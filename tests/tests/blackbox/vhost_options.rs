//! Options of virtiofsd that its users know: writes that the guest gathers, listings, access times, and the file that says who serves.

use super::vhost::Device;
use fusewire::{Errno, InitFlags};
use fusewire_tests::{command, program::program};
use fusewire_vhost::kit::{Driver, Layout, Monitor};
use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes;

const ROOT: u64 = 1;
const O_WRONLY: u32 = 1;
const O_APPEND: u32 = 0o2000;
const O_NOATIME: u32 = 0o1000000;

/// A directory to share, a device that shares it, and a guest that has mounted it.
struct Share {
    _dir: tempfile::TempDir,
    path: PathBuf,
    device: Device,
    monitor: Monitor,
    agreed: InitFlags,
}

impl Share {
    fn start(words: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let (path, socket) = (dir.path().join("share"), dir.path().join("socket"));
        fs::create_dir(&path).expect("directory");
        fs::write(path.join("there"), "was there").expect("file");
        let words = [&["--tag", "share"], words].concat();
        let device = Device::start(&socket, &path, &words);
        let mut monitor = Monitor::connect(&socket, Layout::default()).expect("monitor");
        let agreed = monitor.driver().init().expect("init").init_flags();
        Self { _dir: dir, path, device, monitor, agreed }
    }

    fn end(self) {
        let Self { device, monitor, .. } = self;
        drop(monitor);
        device.end();
    }
}

fn create(driver: &mut Driver, name: &CStr, flags: u32) -> (u64, u64) {
    let args = fusewire::abi::CreateIn { flags: flags | 0o100, mode: 0o100200, umask: 0, open_flags: 0 };
    let bytes = driver
        .call(fusewire::abi::Opcode::Create, ROOT, &[args.as_bytes(), name.to_bytes_with_nul()])
        .expect("create");
    let word = |at: usize| u64::from_ne_bytes(*bytes[at..].first_chunk().expect("an answer"));
    (word(0), word(size_of::<fusewire::abi::EntryOut>()))
}

/// As a guest's kernel writes back what it has gathered.
fn write_back(driver: &mut Driver, (node, fh): (u64, u64), offset: u64, bytes: &[u8], flags: u32) {
    const WRITE_CACHE: u32 = 1;
    let (size, write_flags) = (bytes.len() as u32, WRITE_CACHE);
    let args = fusewire::abi::WriteIn { fh, offset, size, write_flags, flags, ..Default::default() };
    // As arguments: what the kit writes with `write` is not from a cache.
    let done = driver.call(fusewire::abi::Opcode::Write, node, &[args.as_bytes(), bytes]);
    assert_eq!(done.map(|bytes| bytes[..4].to_vec()), Ok(size.to_ne_bytes().to_vec()));
}

#[test]
fn a_guest_that_gathers_writes_reads_and_places_them_as_it_must() {
    let mut share = Share::start(&["--writeback", "--cache", "always"]);
    assert!(share.agreed.contains(InitFlags::WRITEBACK_CACHE));
    let driver = share.monitor.driver();
    // A page that is written in part is read first, through a file that is open for writing alone.
    let there = driver.lookup(ROOT, c"there").expect("lookup").nodeid;
    let opened = (there, driver.open(there, O_WRONLY).expect("open"));
    assert_eq!(driver.read(opened.0, opened.1, 0, 100).as_deref(), Ok(&b"was there"[..]));
    write_back(driver, opened, 0, b"is  there", O_WRONLY);
    let made = create(driver, c"made", O_WRONLY | O_APPEND);
    write_back(driver, made, 0, b"made by", O_WRONLY | O_APPEND);
    assert_eq!(driver.read(made.0, made.1, 0, 100).as_deref(), Ok(&b"made by"[..]));
    // What appends has its place by the time it comes, in whatever order.
    let appending = (there, driver.open(there, O_WRONLY | O_APPEND).expect("open"));
    write_back(driver, appending, 13, b" late", O_WRONLY | O_APPEND);
    write_back(driver, appending, 9, b" and", O_WRONLY | O_APPEND);
    // Not from the cache, as with O_DIRECT: the guest knows where the end is.
    assert_eq!(driver.write(there, appending.1, 0, b"IS"), Ok(2));
    assert_eq!(fs::read_to_string(share.path.join("there")).expect("file"), "IS  there and late");
    // Where its holes are is not told, since the guest may have data for them.
    let seek = fusewire::abi::LseekIn { fh: appending.1, offset: 0, whence: 3, padding: 0 };
    let holes = driver.call(fusewire::abi::Opcode::Lseek, there, &[seek.as_bytes()]);
    assert_eq!(holes.err(), Some(Errno::NOSYS));
    // Its times are the guest's, and come last.
    let times = fusewire::abi::SetattrIn {
        valid: (fusewire::abi::SetattrValid::MTIME | fusewire::abi::SetattrValid::CTIME).bits(),
        mtime: 1_000_000_000,
        mtimensec: 5,
        ctime: 7,
        ..Default::default()
    };
    driver.call(fusewire::abi::Opcode::Setattr, there, &[times.as_bytes()]).expect("setattr");
    let meta = fs::metadata(share.path.join("there")).expect("file");
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 5));
    share.end();
}

#[test]
fn without_it_files_are_opened_as_they_are_asked_for() {
    let mut share = Share::start(&[]);
    assert!(!share.agreed.contains(InitFlags::WRITEBACK_CACHE));
    assert!(share.agreed.contains(InitFlags::DO_READDIRPLUS));
    let driver = share.monitor.driver();
    let there = driver.lookup(ROOT, c"there").expect("lookup").nodeid;
    let fh = driver.open(there, O_WRONLY).expect("open");
    assert_eq!(driver.read(there, fh, 0, 100).err(), Some(Errno::BADF));
    share.end();
}

#[test]
fn gathered_writes_take_a_cache_and_a_directory_of_ones_own() {
    let line =
        ["vhost", "--socket-path", "/nonexistent/socket", "--shared-dir", "/", "--tag", "a", "--writeback"];
    for (words, reason) in [
        (&["--cache", "never"][..], "keeps no data"),
        (&["--cache", "shared"], "nothing of what others do"),
        (&["--dax-window", "64M"], "written at once"),
    ] {
        let done = program(command::binary()).args(line).args(words).run();
        assert_eq!(done.status.code(), Some(2), "{done}");
        assert!(done.stderr.contains("--writeback") && done.stderr.contains(reason), "{done}");
    }
}

#[test]
fn listings_without_attributes_and_access_times() {
    let mut share = Share::start(&["--no-readdirplus"]);
    assert!(!share.agreed.intersects(InitFlags::DO_READDIRPLUS | InitFlags::READDIRPLUS_AUTO));
    let long_ago = fs::FileTimes::new().set_accessed(std::time::SystemTime::UNIX_EPOCH);
    let file = fs::File::options().write(true).open(share.path.join("there")).expect("file");
    file.set_times(long_ago).expect("times");
    let driver = share.monitor.driver();
    let there = driver.lookup(ROOT, c"there").expect("lookup").nodeid;
    let fh = driver.open(there, O_NOATIME).expect("open");
    assert_eq!(driver.read(there, fh, 0, 100).as_deref(), Ok(&b"was there"[..]));
    let flags = |share: &Share| flags_of_open(share, &share.path.join("there"));
    assert!(flags(&share).iter().all(|flags| flags & O_NOATIME == 0), "{:?}", flags(&share));
    share.end();
    let mut share = Share::start(&["--preserve-noatime"]);
    let driver = share.monitor.driver();
    let there = driver.lookup(ROOT, c"there").expect("lookup").nodeid;
    driver.open(there, O_NOATIME).expect("open");
    assert!(flags(&share).iter().any(|flags| flags & O_NOATIME != 0), "{:?}", flags(&share));
    share.end();
}

/// How the device's processes have a file open.
fn flags_of_open(share: &Share, path: &Path) -> Vec<u32> {
    let ino = fs::metadata(path).expect("file").ino();
    let parent = share.device.0.id();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let processes = children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([parent]);
    let mut found = Vec::new();
    for pid in processes {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("proc").flatten() {
            let number = entry.file_name().into_string().expect("a number");
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
            let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            if field("ino:") == Some(&ino.to_string()) {
                found.extend(field("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok()));
            }
        }
    }
    assert!(!found.is_empty(), "nobody has {} open", path.display());
    found
}

#[test]
fn a_socket_has_one_daemon_and_a_file_says_which() {
    for sandbox in ["none", "namespace"] {
        let dir = tempfile::tempdir().expect("directory");
        let (socket, pid) = (dir.path().join("socket"), dir.path().join("socket.pid"));
        let words = ["--sandbox", sandbox, "--tag", "share"];
        let device = Device::start(&socket, dir.path(), &words);
        let text = fs::read_to_string(&pid).expect("the file");
        assert_eq!(text, format!("{}\n", device.0.id()), "{sandbox}");
        let done = program(command::binary())
            .args(["vhost", "--shared-dir", "/", "--socket-path"])
            .arg(&socket)
            .run();
        assert_eq!(done.status.code(), Some(1), "{done}");
        assert!(done.stderr.contains(text.trim()) && done.stderr.contains("socket.pid"), "{done}");
        // The first serves on.
        let mut monitor = Monitor::connect(&socket, Layout::default()).expect("monitor");
        monitor.driver().init().expect("init");
        drop(monitor);
        device.end();
        assert!(!pid.exists() && !socket.exists(), "{sandbox}");
        // One that was killed leaves both behind, which keep nobody away.
        drop(Device::start(&socket, dir.path(), &words));
        assert!(pid.exists());
        let device = Device::start_anew(&socket, dir.path(), &words);
        let monitor = Monitor::connect(&socket, Layout::default()).expect("monitor");
        drop(monitor);
        device.end();
    }
}
