//! The DAX window: what a guest finds in it, and what a guest gets that asks for what it must not have. The kit's monitor is as strict
//! as QEMU.

mod support;

use fusewire::types::Errno;
use fusewire_abi::{
    self as abi, AttrFlags, FopenFlags, Opcode, RemovemappingOne, SetupmappingFlags, SetupmappingIn,
};
use fusewire_fs::passthrough::{self, CacheProfile, Dax, Passthrough};
use fusewire_vhost::{
    Options, WINDOW,
    kit::{Driver, Layout, Mapped, Maps},
};
use std::{
    ffi::CStr,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use support::Guest;
use vhost::vhost_user::VhostUserFrontend;
use zerocopy::{FromBytes, IntoBytes};

const ROOT: u64 = 1;
const PAGE: u64 = 4096;
/// What Linux says instead of a handle.
const NONE: u64 = u64::MAX;
const READ: u64 = SetupmappingFlags::READ.bits();
const WRITE: u64 = SetupmappingFlags::WRITE.bits() | READ;

fn make_with(
    dir: PathBuf,
    cache: CacheProfile,
    dax: Dax,
) -> impl Fn() -> io::Result<Passthrough> + Send + Sync + 'static {
    move || {
        let (forward, dax) = (passthrough::Forward::Off, Some(dax.clone()));
        Passthrough::new(&dir, passthrough::Options { forward, cache, dax, ..Default::default() })
    }
}

fn make(dir: PathBuf, dax: Dax) -> impl Fn() -> io::Result<Passthrough> + Send + Sync + 'static {
    make_with(dir, passthrough::Options::default().cache, dax)
}

fn guest_with(dir: &Path, dax: Dax) -> Guest {
    guest_of(dir, passthrough::Options::default().cache, dax)
}

fn guest_of(dir: &Path, cache: CacheProfile, dax: Dax) -> Guest {
    let options = Options { window: 2 * WINDOW, ..Options::default() };
    let mut guest = Guest::start(make_with(dir.to_owned(), cache, dax), options, Layout::default());
    let init = guest.monitor.driver().init().expect("init");
    assert_eq!(init.map_alignment, 12);
    guest
}

fn guest(dir: &Path) -> Guest {
    guest_with(dir, Dax::default())
}

fn window(guest: &Guest) -> &Mapped {
    guest.monitor.window.as_ref().expect("a window").mapped()
}

fn range(moffset: u64, foffset: u64, len: u64, flags: u64) -> SetupmappingIn {
    SetupmappingIn { fh: NONE, foffset, len, flags, moffset }
}

/// A file whose every byte tells where it is.
fn file(dir: &Path, name: &str, size: u64) -> File {
    let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8 ^ (at >> 12) as u8).collect();
    fs::write(dir.join(name), content).expect("file");
    File::options().read(true).write(true).open(dir.join(name)).expect("file")
}

/// The node of a file, which is open for reading from now on.
fn opened(driver: &mut Driver, name: &CStr) -> u64 {
    let node = driver.lookup(ROOT, name).expect("lookup").nodeid;
    driver.open(node, 0).expect("open");
    node
}

fn bytes(file: &File, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).expect("read");
    bytes
}

#[test]
fn a_mapped_file_is_the_same_on_both_sides() {
    let dir = tempfile::tempdir().expect("directory");
    let host = file(dir.path(), "a", WINDOW + 3 * PAGE);
    let mut guest = guest(dir.path());
    let node = guest.monitor.driver().lookup(ROOT, c"a").expect("lookup").nodeid;
    let fh = guest.monitor.driver().open(node, 2).expect("open");
    guest.monitor.driver().map(node, range(WINDOW, 0, WINDOW, WRITE)).expect("map");
    guest
        .monitor
        .driver()
        .map(node, range(0, WINDOW, WINDOW, WRITE))
        .expect("map what reaches beyond the end");
    assert_eq!(window(&guest).list(), [(0, 3 * PAGE, true), (WINDOW, WINDOW, true)]);
    assert!(
        window(&guest).read(WINDOW, WINDOW as usize).expect("mapped") == bytes(&host, 0, WINDOW as usize)
    );
    assert_eq!(window(&guest).read(0, 100).expect("mapped"), bytes(&host, WINDOW, 100));
    host.write_all_at(b"host", 5000).expect("write");
    assert_eq!(window(&guest).read(WINDOW + 5000, 4).expect("mapped"), b"host");
    window(&guest).write(WINDOW + 7000, b"guest").expect("mapped");
    assert_eq!(bytes(&host, 7000, 5), b"guest");
    // A request sees it as well.
    assert_eq!(guest.monitor.driver().read(node, fh, 7000, 5).expect("read"), b"guest");
    let one = |moffset, len| RemovemappingOne { moffset, len };
    guest.monitor.driver().unmap(node, &[one(0, WINDOW), one(WINDOW, WINDOW)]).expect("unmap");
    assert_eq!(window(&guest).list(), []);
    guest.end();
}

/// What the guest is told when it opens a file that changed since.
fn told(driver: &mut Driver, node: u64, (host, size): (&File, u64)) -> FopenFlags {
    host.set_len(size).expect("another size");
    let args = abi::OpenIn { flags: 0, open_flags: 0 };
    let answer = driver.call(Opcode::Open, node, &[args.as_bytes()]).expect("open");
    let out = abi::OpenOut::read_from_bytes(&answer).expect("an answer");
    FopenFlags::from_bits_truncate(out.open_flags) & (FopenFlags::KEEP_CACHE | FopenFlags::DIRECT_IO)
}

/// A guest that drops the pages of a mapped file takes them from those who use them; and it drops them where it is told to go around
/// its cache, and makes the file longer.
#[test]
fn what_is_mapped_is_kept_when_it_is_opened_again() {
    for (cache, otherwise) in
        [(CacheProfile::Auto, FopenFlags::empty()), (CacheProfile::None, FopenFlags::DIRECT_IO)]
    {
        let dir = tempfile::tempdir().expect("directory");
        let host = file(dir.path(), "a", WINDOW);
        // There may be files that are not mapped, so this could be one of them.
        let mut guest = guest_of(dir.path(), cache, Dax { min_size: PAGE, ..Dax::default() });
        let driver = guest.monitor.driver();
        let node = opened(driver, c"a");
        assert_eq!(told(driver, node, (&host, WINDOW + PAGE)), otherwise, "{cache:?}");
        driver.map(node, range(0, 0, WINDOW, READ)).expect("map");
        assert_eq!(told(driver, node, (&host, WINDOW + 2 * PAGE)), FopenFlags::KEEP_CACHE, "{cache:?}");
        driver.unmap(node, &[RemovemappingOne { moffset: 0, len: WINDOW }]).expect("unmap");
        assert_eq!(told(driver, node, (&host, WINDOW + 3 * PAGE)), otherwise, "{cache:?}");
        guest.end();
    }
}

#[test]
fn where_every_file_is_mapped_there_are_no_copies_to_be_dropped() {
    for cache in [CacheProfile::None, CacheProfile::Auto, CacheProfile::Always] {
        let dir = tempfile::tempdir().expect("directory");
        let host = file(dir.path(), "a", WINDOW);
        let mut guest = guest_of(dir.path(), cache, Dax::default());
        let driver = guest.monitor.driver();
        let node = driver.lookup(ROOT, c"a").expect("lookup").nodeid;
        for pages in 1..4 {
            let told = told(driver, node, (&host, WINDOW + pages * PAGE));
            assert_eq!(told, FopenFlags::KEEP_CACHE, "{cache:?}");
        }
        guest.end();
    }
}

#[test]
fn what_may_be_written_to_follows_what_is_open() {
    let dir = tempfile::tempdir().expect("directory");
    file(dir.path(), "a", WINDOW);
    file(dir.path(), "b", WINDOW);
    let mut guest = guest(dir.path());
    let driver = guest.monitor.driver();
    let node = driver.lookup(ROOT, c"a").expect("lookup").nodeid;
    let other = driver.lookup(ROOT, c"b").expect("lookup").nodeid;
    let write = range(0, 0, WINDOW, WRITE);
    for flags in [READ, WRITE] {
        assert_eq!(driver.map(node, range(0, 0, WINDOW, flags)), Err(Errno::ACCESS), "it is not open at all");
    }
    let reader = driver.open(node, 0).expect("open");
    assert_eq!(driver.map(node, write), Err(Errno::ACCESS));
    assert_eq!(driver.map(node, SetupmappingIn { fh: reader, ..write }), Err(Errno::ACCESS));
    driver.map(node, range(0, 0, WINDOW, READ)).expect("map");
    assert_eq!(window(&guest).list(), [(0, WINDOW, false)]);
    let driver = guest.monitor.driver();
    let writer = driver.open(node, 2).expect("open");
    assert_eq!(driver.map(other, write), Err(Errno::ACCESS));
    assert_eq!(driver.map(other, SetupmappingIn { fh: writer, ..write }), Err(Errno::BADF));
    driver.map(node, SetupmappingIn { fh: writer, ..write }).expect("map");
    driver.map(node, write).expect("map");
    assert_eq!(window(&guest).list(), [(0, WINDOW, true)]);
    let driver = guest.monitor.driver();
    driver.release(node, writer).expect("release");
    assert_eq!(driver.map(node, write), Err(Errno::ACCESS));
    guest.end();
}

#[test]
fn the_last_page_is_the_files_whatever_happens_to_it() {
    let dir = tempfile::tempdir().expect("directory");
    let host = file(dir.path(), "a", PAGE + 100);
    let mut guest = guest(dir.path());
    let driver = guest.monitor.driver();
    let node = driver.lookup(ROOT, c"a").expect("lookup").nodeid;
    let fh = driver.open(node, 2).expect("open");
    driver.map(node, range(0, 0, WINDOW, WRITE)).expect("map");
    assert_eq!(window(&guest).list(), [(0, PAGE, true), (PAGE, PAGE, true)]);
    assert_eq!(window(&guest).read(PAGE, 100).expect("mapped"), bytes(&host, PAGE, 100));
    // The guest stores, and the host has it once that is synced, closed, or read by a request.
    window(&guest).write(PAGE + 10, b"guest").expect("mapped");
    guest
        .monitor
        .driver()
        .request(Opcode::Fsync, node, &abi::FsyncIn { fh, ..Default::default() })
        .expect("fsync");
    assert_eq!(bytes(&host, PAGE + 10, 5), b"guest");
    window(&guest).write(PAGE + 20, b"again").expect("mapped");
    assert_eq!(guest.monitor.driver().read(node, fh, PAGE + 20, 5).expect("read"), b"again");
    assert_eq!(bytes(&host, PAGE + 20, 5), b"again");
    // The host writes, and the guest has it with the next attributes.
    host.write_all_at(b"host", PAGE + 30).expect("write");
    window(&guest).write(PAGE + 40, b"both").expect("mapped");
    guest.monitor.driver().getattr(node).expect("getattr");
    assert_eq!(window(&guest).read(PAGE + 10, 34).expect("mapped"), bytes(&host, PAGE + 10, 34));
    assert_eq!(bytes(&host, PAGE + 40, 4), b"both");
    // It grows, on the page and beyond it, shrinks, and what was written is still there.
    window(&guest).write(PAGE + 50, b"kept").expect("mapped");
    guest.monitor.driver().write(node, fh, PAGE + 100, b"more").expect("write");
    assert_eq!(window(&guest).read(PAGE, 104).expect("mapped"), bytes(&host, PAGE, 104));
    guest.monitor.driver().write(node, fh, 3 * PAGE + 5, b"far").expect("write");
    assert_eq!(bytes(&host, PAGE + 50, 4), b"kept");
    assert_eq!(
        window(&guest).read(0, 3 * PAGE as usize + 8).expect("mapped"),
        bytes(&host, 0, 3 * PAGE as usize + 8)
    );
    guest.monitor.driver().truncate(node, 50).expect("truncate");
    assert_eq!(window(&guest).read(0, 50).expect("mapped"), bytes(&host, 0, 50));
    // Others make it grow: the guest is told of the size only once it can have the bytes.
    host.set_len(2 * PAGE + 9).expect("truncate");
    host.write_all_at(b"by others", 2 * PAGE).expect("write");
    assert_eq!(guest.monitor.driver().getattr(node).expect("getattr").size, 2 * PAGE + 9);
    assert_eq!(window(&guest).read(2 * PAGE, 9).expect("mapped"), b"by others");
    window(&guest).write(2 * PAGE, b"to the end").expect("mapped");
    guest.end();
    assert_eq!(bytes(&host, 2 * PAGE, 9), b"to the en", "of a guest that is gone nothing is lost");
    assert_eq!(host.metadata().expect("metadata").len(), 2 * PAGE + 9);
}

#[test]
fn what_is_mapped_over_something_takes_its_place_and_no_more() {
    let dir = tempfile::tempdir().expect("directory");
    let (a, b) = (file(dir.path(), "a", WINDOW), file(dir.path(), "b", WINDOW + 5 * PAGE));
    let mut guest = guest(dir.path());
    let driver = guest.monitor.driver();
    let nodes = [c"a", c"b"].map(|name| opened(driver, name));
    driver.map(nodes[0], range(0, 0, WINDOW, READ)).expect("map");
    driver.map(nodes[1], range(16 * PAGE, 5 * PAGE, 16 * PAGE, READ)).expect("map");
    let rest = WINDOW - 32 * PAGE;
    assert_eq!(
        window(&guest).list(),
        [(0, 16 * PAGE, false), (16 * PAGE, 16 * PAGE, false), (32 * PAGE, rest, false)]
    );
    assert_eq!(window(&guest).read(32 * PAGE, 100).expect("mapped"), bytes(&a, 32 * PAGE, 100));
    assert_eq!(window(&guest).read(16 * PAGE, 100).expect("mapped"), bytes(&b, 5 * PAGE, 100));
    let all = RemovemappingOne { moffset: 8 * PAGE, len: 16 * PAGE };
    guest.monitor.driver().unmap(nodes[0], &[all]).expect("unmap");
    assert_eq!(
        window(&guest).list(),
        [(0, 8 * PAGE, false), (24 * PAGE, 8 * PAGE, false), (32 * PAGE, rest, false)]
    );
    assert_eq!(window(&guest).read(24 * PAGE, 100).expect("mapped"), bytes(&b, 13 * PAGE, 100));
    guest.end();
}

#[test]
fn nothing_stays_mapped_after_a_session() {
    let dir = tempfile::tempdir().expect("directory");
    file(dir.path(), "a", WINDOW + 9);
    let mut guest = guest(dir.path());
    for end in 0..3 {
        let driver = guest.monitor.driver();
        let node = opened(driver, c"a");
        driver.map(node, range(0, 0, WINDOW, READ)).expect("map");
        driver.map(node, range(WINDOW, WINDOW, WINDOW, READ)).expect("map");
        assert_eq!(window(&guest).list().len(), 2, "{end}");
        match end {
            0 => guest.monitor.driver().destroy().expect("destroy"),
            1 => _ = guest.monitor.driver().init().expect("init"),
            _ => guest.monitor.frontend.reset_device().expect("reset"),
        }
        // The monitor waits for a reset; so what it has mapped goes after that.
        let begin = Instant::now();
        while end == 2 && !window(&guest).list().is_empty() && begin.elapsed().as_secs() < 10 {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(window(&guest).list(), [], "{end}");
        if end < 2 {
            guest.monitor.driver().init().expect("init");
        }
    }
    guest.end();
}

#[test]
fn a_monitor_that_maps_what_is_not_there_is_not_asked_again() {
    let dir = tempfile::tempdir().expect("directory");
    let host = file(dir.path(), "a", 100);
    let options = Options { window: WINDOW, ..Options::default() };
    let layout = Layout { window: Maps::Beyond, ..Layout::default() };
    let mut guest = Guest::start(make(dir.path().to_owned(), Dax::default()), options, layout);
    let driver = guest.monitor.driver();
    driver.init().expect("init");
    let node = driver.lookup(ROOT, c"a").expect("lookup").nodeid;
    let fh = driver.open(node, 2).expect("open");
    driver.map(node, range(0, 0, WINDOW, WRITE)).expect("map");
    driver.write(node, fh, 3 * PAGE, b"far").expect("write");
    assert_eq!(window(&guest).list(), [(0, WINDOW, true)]);
    window(&guest).write(50, b"guest").expect("mapped");
    assert_eq!(bytes(&host, 50, 5), b"guest");
    assert_eq!(window(&guest).read(3 * PAGE, 3).expect("mapped"), b"far");
    guest.end();
}

#[test]
fn files_are_marked_by_size_and_name() {
    let dir = tempfile::tempdir().expect("directory");
    for (name, size) in [("large.img", 2 * PAGE), ("small.img", PAGE), ("large.txt", 2 * PAGE)] {
        file(dir.path(), name, size);
    }
    let mut guest = guest_with(dir.path(), Dax { min_size: 2 * PAGE, names: vec!["*.img".into()] });
    let driver = guest.monitor.driver();
    let is_marked = |attr: abi::Attr| AttrFlags::from_bits_retain(attr.flags).contains(AttrFlags::DAX);
    let found =
        [c"large.img", c"small.img", c"large.txt"].map(|name| driver.lookup(ROOT, name).expect("lookup"));
    assert_eq!(found.map(|entry| is_marked(entry.attr)), [true, false, false]);
    assert!(is_marked(driver.getattr(found[0].nodeid).expect("getattr")), "the name is remembered");
    driver.truncate(found[1].nodeid, 2 * PAGE).expect("truncate");
    assert!(is_marked(driver.getattr(found[1].nodeid).expect("getattr")));
    assert!(!is_marked(driver.getattr(ROOT).expect("getattr")));
    guest.end();
}

#[test]
fn without_a_window_nothing_is_mapped() {
    let dir = tempfile::tempdir().expect("directory");
    file(dir.path(), "a", WINDOW);
    for (window, layout) in [(0, Maps::Exact), (WINDOW, Maps::Nothing)] {
        let options = Options { window, ..Options::default() };
        let layout = Layout { window: layout, ..Layout::default() };
        let mut guest = Guest::start(make(dir.path().to_owned(), Dax::default()), options, layout);
        assert!(guest.monitor.window.is_none());
        let driver = guest.monitor.driver();
        driver.init().expect("init");
        let entry = driver.lookup(ROOT, c"a").expect("lookup");
        assert_eq!(entry.attr.flags & AttrFlags::DAX.bits(), 0);
        assert_eq!(driver.map(entry.nodeid, range(0, 0, WINDOW, READ)), Err(Errno::NOSYS));
        assert_eq!(driver.unmap(entry.nodeid, &[]), Err(Errno::NOSYS));
        guest.end();
    }
    let odd = Options { window: WINDOW + PAGE, ..Options::default() };
    assert!(fusewire_vhost::Device::new(make(dir.path().to_owned(), Dax::default()), odd).is_err());
}

#[test]
fn ranges_that_lie_get_an_errno_and_map_nothing() {
    let dir = tempfile::tempdir().expect("directory");
    file(dir.path(), "a", WINDOW);
    fs::create_dir(dir.path().join("d")).expect("directory");
    std::os::unix::fs::symlink("a", dir.path().join("l")).expect("link");
    let mut guest = guest(dir.path());
    let driver = guest.monitor.driver();
    let node = opened(driver, c"a");
    let end = 2 * WINDOW;
    for (at, offset, len) in [
        // Not of whole pages, empty, or beyond the window.
        (1, 0, PAGE),
        (0, 1, PAGE),
        (0, 0, PAGE + 1),
        (0, 0, 0),
        (0, 0, end + PAGE),
        (end, 0, PAGE),
        (end - PAGE, 0, 2 * PAGE),
        // Numbers that overflow.
        (u64::MAX - PAGE + 1, 0, PAGE),
        (PAGE, 0, u64::MAX - PAGE + 1),
        (0, u64::MAX - PAGE + 1, PAGE),
        (0, 1 << 63, PAGE),
        (u64::MAX, u64::MAX, u64::MAX),
    ] {
        assert_eq!(
            driver.map(node, range(at, offset, len, READ)),
            Err(Errno::INVAL),
            "{at:#x} {offset:#x} {len:#x}"
        );
        if offset == 0 {
            let one = RemovemappingOne { moffset: at, len };
            assert_eq!(driver.unmap(node, &[one]), Err(Errno::INVAL), "{at:#x} {len:#x}");
        }
    }
    for flags in [0, 4, READ | 8, u64::MAX] {
        assert_eq!(driver.map(node, range(0, 0, PAGE, flags)), Err(Errno::INVAL), "{flags:#x}");
    }
    // Nodes and handles that are none, or of the wrong kind.
    for wrong in [0, 77, u64::MAX] {
        assert!(driver.map(wrong, range(0, 0, PAGE, READ)).is_err(), "{wrong}");
    }
    for name in [c"d", c"l"] {
        let node = driver.lookup(ROOT, name).expect("lookup").nodeid;
        assert!(driver.map(node, range(0, 0, PAGE, READ)).is_err(), "{name:?}");
    }
    for fh in [0, 12_345, u64::MAX - 1] {
        assert_eq!(driver.map(node, SetupmappingIn { fh, ..range(0, 0, PAGE, READ) }), Err(Errno::BADF));
    }
    // More ranges than there are, and fewer.
    let one = RemovemappingOne { moffset: 0, len: PAGE };
    for (count, ranges) in [(u32::MAX, 1), (1 << 28, 1), (2, 1), (1, 0)] {
        let count = abi::RemovemappingIn { count };
        let ranges = &[one; 2][..ranges];
        let reply = driver.call(Opcode::Removemapping, node, &[count.as_bytes(), ranges.as_bytes()]);
        assert_eq!(reply.err(), Some(Errno::INVAL), "{count:?}");
    }
    // Nothing is there to be unmapped: that is no fault.
    driver.unmap(node, &[one; 100]).expect("unmap");
    assert_eq!(window(&guest).list(), []);
    // The whole window in single pages, each from another place, and the device goes on.
    let driver = guest.monitor.driver();
    for page in 0..end / PAGE {
        driver.map(node, range(page * PAGE, (page * 7 % 512) * PAGE, PAGE, READ)).expect("map");
    }
    let whole = RemovemappingOne { moffset: 0, len: end };
    driver.unmap(node, &[whole]).expect("unmap");
    assert_eq!(window(&guest).list(), []);
    guest.end();
}

/// Whatever is mapped, unmapped, written and cut, by whichever side: each byte of a range that the file has is in the window.
#[test]
fn a_window_has_no_more_ranges_than_it_may_have() {
    let dir = tempfile::tempdir().expect("directory");
    file(dir.path(), "a", 8 << 20);
    let options = Options { window: 4 * WINDOW, ..Options::default() };
    let mut guest = Guest::start(make(dir.path().to_owned(), Dax::default()), options, Layout::default());
    let driver = guest.monitor.driver();
    driver.init().expect("init");
    let node = opened(driver, c"a");
    // Three pages in one, and as many others as there may be.
    driver.map(node, range(0, 0, 3 * PAGE, READ)).expect("map");
    for page in 3..1026 {
        driver.map(node, range(page * PAGE, page * PAGE, PAGE, READ)).expect("map");
    }
    assert_eq!(driver.map(node, range(1026 * PAGE, 0, PAGE, READ)), Err(Errno::NOSPC));
    // Two of one.
    let middle = RemovemappingOne { moffset: PAGE, len: PAGE };
    assert_eq!(driver.unmap(node, &[middle]), Err(Errno::NOSPC));
    assert_eq!(driver.map(node, range(PAGE, 0, PAGE, READ)), Err(Errno::NOSPC));
    driver.unmap(node, &[RemovemappingOne { moffset: 3 * PAGE, len: 2 * PAGE }]).expect("unmap");
    driver.unmap(node, &[middle]).expect("unmap");
    driver.map(node, range(PAGE, 0, PAGE, READ)).expect("map");
    guest.end();
}

#[test]
fn at_random_the_window_shows_the_file() {
    let dir = tempfile::tempdir().expect("directory");
    let host = file(dir.path(), "a", 10 * PAGE);
    let mut guest = guest(dir.path());
    let node = guest.monitor.driver().lookup(ROOT, c"a").expect("lookup").nodeid;
    let fh = guest.monitor.driver().open(node, 2).expect("open");
    let mut seed = 3u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    // Where in the window which page of the file is to be.
    let mut model = vec![None; 64];
    for round in 0..1500u64 {
        let driver = guest.monitor.driver();
        let (page, count) = (random(60), random(4) + 1);
        match random(8) {
            0 | 1 => {
                let from = random(24);
                driver.map(node, range(page * PAGE, from * PAGE, count * PAGE, WRITE)).expect("map");
                (0..count).for_each(|i| model[(page + i) as usize] = Some(from + i));
            }
            2 => {
                let one = RemovemappingOne { moffset: page * PAGE, len: count * PAGE };
                driver.unmap(node, &[one]).expect("unmap");
                (0..count).for_each(|i| model[(page + i) as usize] = None);
            }
            3 => driver.truncate(node, random(20 * PAGE)).expect("truncate"),
            4 => {
                let data = vec![round as u8; random(3 * PAGE) as usize + 1];
                driver.write(node, fh, random(20 * PAGE), &data).map(drop).expect("write");
            }
            5 => host.set_len(random(20 * PAGE)).expect("truncate"),
            6 => host.write_all_at(&round.to_ne_bytes(), random(20 * PAGE)).expect("write"),
            _ => {
                let size = host.metadata().expect("metadata").len();
                let place = page * PAGE + random(PAGE - 8);
                if let Some(from) = model[page as usize]
                    && (from * PAGE + place % PAGE + 8) <= size
                {
                    driver.getattr(node).expect("getattr");
                    window(&guest).write(place, &round.to_ne_bytes()).expect("mapped");
                    let fsync = abi::FsyncIn { fh, ..Default::default() };
                    guest.monitor.driver().request(Opcode::Fsync, node, &fsync).expect("fsync");
                    assert_eq!(bytes(&host, from * PAGE + place % PAGE, 8), round.to_ne_bytes(), "{round}");
                }
            }
        }
        let size = guest.monitor.driver().getattr(node).expect("getattr").size;
        for (at, from) in model.iter().enumerate().filter_map(|(at, from)| Some((at as u64, (*from)?))) {
            let len = size.saturating_sub(from * PAGE).min(PAGE) as usize;
            if len > 0 {
                let found = window(&guest).read(at * PAGE, len);
                assert!(found.is_some(), "{round}: page {from} of {size} bytes is not mapped at {at}");
                assert!(
                    found == Some(bytes(&host, from * PAGE, len)),
                    "{round}: page {from} differs at {at}"
                );
            }
        }
    }
    guest.end();
}

#[test]
fn a_monitor_that_does_not_answer_can_go() {
    let dir = tempfile::tempdir().expect("directory");
    file(dir.path(), "a", WINDOW);
    let mut guest = guest(dir.path());
    let node = opened(guest.monitor.driver(), c"a");
    let window = guest.monitor.window.take().expect("a window");
    let hold = window.mapped().hold();
    let map = range(0, 0, WINDOW, READ);
    guest.monitor.driver().send(Opcode::Setupmapping as u32, node, &[map.as_bytes()], (0, 0));
    std::thread::sleep(Duration::from_millis(200));
    let server = guest.server.take().expect("server");
    drop(guest);
    let begin = Instant::now();
    while !server.is_finished() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the device does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.join().expect("no panic").expect("a good end");
    drop(hold);
}

#[test]
fn a_session_begins_once_the_window_of_the_one_before_is_empty() {
    let dir = tempfile::tempdir().expect("directory");
    file(dir.path(), "a", 2 * WINDOW);
    let mut guest = guest(dir.path());
    let window = guest.monitor.window.take().expect("a window");
    let node = opened(guest.monitor.driver(), c"a");
    for at in [0, WINDOW] {
        guest.monitor.driver().map(node, range(at, at, WINDOW, READ)).expect("map");
    }
    let answers = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (held, is_held) = std::sync::mpsc::channel();
        let (mapped, answers) = (window.mapped(), &answers);
        scope.spawn(move || {
            let hold = mapped.hold();
            _ = held.send(());
            std::thread::sleep(Duration::from_millis(700));
            answers.store(true, Ordering::SeqCst);
            drop(hold);
        });
        is_held.recv().expect("the monitor is busy");
        // It waits for the answer to that, and for nothing else.
        guest.monitor.reset().expect("reset");
        assert!(!answers.load(Ordering::SeqCst));
        guest.monitor.driver().init().expect("init");
        assert!(
            answers.load(Ordering::SeqCst),
            "the session has begun while ranges of the one before are mapped"
        );
    });
    assert_eq!(window.mapped().list(), []);
    let node = opened(guest.monitor.driver(), c"a");
    guest.monitor.driver().map(node, range(0, 0, WINDOW, READ)).expect("map");
    assert_eq!(window.mapped().list(), [(0, WINDOW, false)]);
    guest.end();
}
