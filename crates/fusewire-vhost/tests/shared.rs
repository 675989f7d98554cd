//! Several guests, made of the kit, and the host share one directory: what guests may remember, and for how long.

mod support;

use fusewire::types::Errno;
use fusewire_fs::passthrough::{self, Leases, Passthrough};
use fusewire_vhost::{
    Options,
    kit::{Driver, Layout},
};
use std::{
    ffi::CString,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use support::Guest;

const ROOT: u64 = 1;
const MILLISECOND: Duration = Duration::from_millis(1);

/// A directory that guests share.
struct Share {
    dir: tempfile::TempDir,
    leases: Arc<Leases>,
}

impl Share {
    /// With files that were there before; where little else happens, and changes can be heard of; `None` where they cannot.
    fn new(longest: Duration, files: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("directory");
        for name in files {
            fs::write(dir.path().join(name), "").expect("file");
        }
        let leases = Arc::new(Leases::new(dir.path(), longest).expect("leases"));
        if let Some(refusal) = leases.refusal() {
            eprintln!("skipped: changes cannot be heard of: {refusal}");
            return None;
        }
        Some(Self { dir, leases })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn guest(&self) -> Guest {
        let mut guest =
            Guest::start(leased(self.dir.path(), &self.leases), Options::default(), Layout::default());
        guest.monitor.driver().init().expect("init");
        guest
    }
}

fn leased(dir: &Path, leases: &Arc<Leases>) -> impl Fn() -> io::Result<Passthrough> + Send + Sync + 'static {
    let (dir, leases) = (dir.to_owned(), leases.clone());
    move || {
        let options = passthrough::Options { forward: passthrough::Forward::Off, ..Default::default() };
        Passthrough::leased(&dir, options, &leases)
    }
}

fn time(seconds: u64, nanos: u32) -> Duration {
    Duration::new(seconds, nanos)
}

/// How long the guest may remember a name, and the attributes of what it leads to.
fn leases(driver: &mut Driver, name: &str) -> (Duration, Duration) {
    let entry = driver.lookup(ROOT, &CString::new(name).expect("name")).expect("lookup");
    (time(entry.entry_valid, entry.entry_valid_nsec), time(entry.attr_valid, entry.attr_valid_nsec))
}

fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    loop {
        let is_last = start.elapsed() >= Duration::from_secs(5);
        if holds() {
            return;
        }
        assert!(!is_last, "{what}");
        std::thread::sleep(MILLISECOND);
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_the_host_changed_before_a_guest_came_is_not_leased() {
    let Some(share) = Share::new(5 * SECOND, &[]) else { return };
    fs::write(share.path("file"), "content").expect("file");
    let (mut one, mut two) = (share.guest(), share.guest());
    for driver in [one.monitor.driver(), two.monitor.driver()] {
        await_that("a lease of what is new", || leases(driver, "file") == (Duration::ZERO, Duration::ZERO));
    }
}

#[test]
fn leases_are_short_at_first_and_end_with_the_first_sign_of_sharing() {
    let Some(share) = Share::new(5 * SECOND, &["one", "two", "host"]) else { return };
    let (mut one, mut two) = (share.guest(), share.guest());
    let (one, two) = (one.monitor.driver(), two.monitor.driver());
    for driver in [&mut *one, &mut *two] {
        assert_eq!(leases(driver, "one"), (SECOND, SECOND), "nobody else has changed anything");
    }
    // A file's content is its own affair.
    let node = one.lookup(ROOT, c"one").expect("lookup").nodeid;
    let fh = one.open(node, 2).expect("open");
    assert_eq!(one.write(node, fh, 0, b"changed"), Ok(7));
    await_that("the other guest has a lease of what changes", || leases(two, "one").1.is_zero());
    assert_eq!(leases(one, "one"), (SECOND, SECOND), "its own changes do not end a lease");
    assert_eq!(leases(two, "two"), (SECOND, SECOND), "another file");
    // Names are their directory's.
    assert_eq!(two.create(ROOT, c"new").map(drop), Ok(()));
    await_that("the other guest has a lease of names that change", || leases(one, "two").0.is_zero());
    assert_eq!(leases(two, "two"), (SECOND, SECOND), "its own changes do not end a lease");
    // The host is somebody else to both.
    fs::write(share.path("host"), "other content").expect("file");
    for driver in [one, two] {
        await_that("a lease of what the host changes", || leases(driver, "host").1.is_zero());
    }
}

#[test]
fn absent_names_are_leased_as_present_ones_are() {
    let Some(share) = Share::new(5 * SECOND, &[]) else { return };
    let mut guest = share.guest();
    let driver = guest.monitor.driver();
    let absent = driver.lookup(ROOT, c"file").expect("an answer that may be remembered");
    assert_eq!((absent.nodeid, time(absent.entry_valid, absent.entry_valid_nsec)), (0, SECOND));
    fs::write(share.path("file"), "").expect("file");
    assert_ne!(driver.lookup(ROOT, c"file").map(|entry| entry.nodeid), Ok(0));
    fs::remove_file(share.path("file")).expect("file");
    await_that("absence is leased although names change", || {
        driver.lookup(ROOT, c"file").err() == Some(Errno::NOENT)
    });
}

#[test]
fn a_lease_is_never_longer_than_was_asked_for() {
    for longest in [Duration::ZERO, 300 * MILLISECOND] {
        let Some(share) = Share::new(longest, &["file"]) else { return };
        let mut guest = share.guest();
        assert_eq!(leases(guest.monitor.driver(), "file"), (longest, longest));
    }
}

#[test]
fn after_a_time_of_silence_leases_come_back_and_grow() {
    let Some(share) = Share::new(5 * SECOND, &["file"]) else { return };
    let mut guest = share.guest();
    let driver = guest.monitor.driver();
    let changed = Instant::now();
    fs::write(share.path("file"), "content again").expect("file");
    await_that("a lease of what the host changes", || leases(driver, "file").1.is_zero());
    let mut seen = Duration::ZERO;
    while seen.is_zero() {
        std::thread::sleep(100 * MILLISECOND);
        seen = leases(driver, "file").1;
        assert!(changed.elapsed() < 30 * SECOND, "leases do not come back");
    }
    assert!(changed.elapsed() >= 10 * SECOND && seen >= SECOND && seen < 3 * SECOND, "{seen:?}");
    std::thread::sleep(2 * SECOND);
    assert!(leases(driver, "file").1 > seen + 100 * MILLISECOND);
}
