//! `fusewire vhost --cache shared`: two guests, made of the kit, and the host share one directory.

use fusewire_abi::EntryOut;
use fusewire_tests::command;
use fusewire_vhost::kit::{Driver, Layout, Monitor};
use std::{
    ffi::CString,
    fs,
    os::unix::fs::FileExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const ROOT: u64 = 1;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// One daemon with two guests; it is killed at the end if it has not ended.
struct Shared {
    daemon: Child,
    guests: [Option<Monitor>; 2],
    share: PathBuf,
    _dir: tempfile::TempDir,
}

impl Shared {
    /// With these files, where little else happens.
    fn start(longest: &str, files: &[&str]) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("directory");
        let share = dir.path().join("share");
        fs::create_dir(&share).expect("directory");
        files.iter().for_each(|name| fs::write(share.join(name), "").expect("file"));
        let sockets = ["a", "b"].map(|name| dir.path().join(name));
        let mut line = Command::new(command::binary());
        line.args(["vhost", "--sandbox", "none", "--tag", "share", "--cache", "shared", "--lease", longest]);
        sockets.iter().for_each(|socket| _ = line.arg("--socket-path").arg(socket));
        line.arg("--shared-dir").arg(&share).stdin(Stdio::null());
        let daemon = line.spawn().expect("fusewire");
        let mut shared = Self { daemon, guests: [None, None], share, _dir: dir };
        wait("the sockets", || sockets.iter().all(|socket| socket.exists()));
        shared.guests = sockets.map(|socket| {
            let mut monitor = Monitor::connect(&socket, Layout::default()).expect("monitor");
            monitor.driver().init().expect("init");
            Some(monitor)
        });
        shared
    }

    fn drivers(&mut self) -> [&mut Driver; 2] {
        self.guests.each_mut().map(|guest| guest.as_mut().expect("it is there").driver())
    }

    /// It ends by itself, and well, when the last guest is gone, and not before.
    fn end(mut self) {
        self.guests[0] = None;
        thread::sleep(100 * MILLISECOND);
        assert!(self.daemon.try_wait().expect("child").is_none(), "there is another guest");
        assert!(self.drivers_left().getattr(ROOT).is_ok(), "the other guest is served as before");
        self.guests[1] = None;
        wait("the end of the daemon", || self.daemon.try_wait().expect("child").is_some());
        assert!(self.daemon.wait().expect("child").success());
    }

    fn drivers_left(&mut self) -> &mut Driver {
        self.guests[1].as_mut().expect("it is there").driver()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        _ = self.daemon.kill();
        _ = self.daemon.wait();
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    loop {
        let is_last = begin.elapsed() >= 20 * SECOND;
        if done() {
            return;
        }
        assert!(!is_last, "{what} does not come");
        thread::sleep(MILLISECOND);
    }
}

/// A guest's memory of one file: as Linux has it, an answer is used until its time is up.
struct Remembered {
    name: CString,
    entry: EntryOut,
    /// When the request was sent that brought the attributes.
    asked_at: Instant,
    longest: Duration,
    name_until: Instant,
    attributes_until: Instant,
}

impl Remembered {
    fn new(driver: &mut Driver, name: &str) -> Self {
        let (name, now) = (CString::new(name).expect("name"), Instant::now());
        let mut remembered = Self {
            name,
            entry: EntryOut::default(),
            asked_at: now,
            longest: Duration::ZERO,
            name_until: now,
            attributes_until: now,
        };
        remembered.resolve(driver);
        remembered
    }

    fn until(&mut self, seconds: u64, nanos: u32) -> Instant {
        let lease = Duration::new(seconds, nanos);
        self.longest = self.longest.max(lease);
        Instant::now() + lease
    }

    fn resolve(&mut self, driver: &mut Driver) {
        self.asked_at = Instant::now();
        let entry = driver.lookup(ROOT, &self.name).expect("lookup");
        self.name_until = self.until(entry.entry_valid, entry.entry_valid_nsec);
        self.attributes_until = self.until(entry.attr_valid, entry.attr_valid_nsec);
        self.entry = entry;
    }

    /// The size.
    fn size(&mut self, driver: &mut Driver) -> u64 {
        let now = Instant::now();
        if now >= self.name_until {
            self.resolve(driver);
        } else if now >= self.attributes_until {
            self.asked_at = now;
            let out = driver.attributes(self.entry.nodeid).expect("attributes");
            self.attributes_until = self.until(out.attr_valid, out.attr_valid_nsec);
            self.entry.attr = out.attr;
        }
        self.entry.attr.size
    }
}

/// Each write makes the file a byte longer, by the second guest or by the host, so that a size tells when it was true: when each was
/// complete.
fn write(driver: &mut Driver, shared: &std::path::Path, pauses: &[u64]) -> Vec<Instant> {
    let node = driver.lookup(ROOT, c"file").expect("lookup").nodeid;
    let handle = driver.open(node, 2).expect("open");
    let host = fs::File::options().write(true).open(shared.join("file")).expect("file");
    let write = |(size, pause): (usize, &u64)| {
        thread::sleep(*pause as u32 * MILLISECOND);
        match size % 3 {
            0 => host.write_all_at(b"h", size as u64).expect("write"),
            _ => assert_eq!(driver.write(node, handle, size as u64, b"g"), Ok(1)),
        }
        Instant::now()
    };
    pauses.iter().enumerate().map(write).collect()
}

#[test]
fn nothing_that_a_guest_sees_is_older_than_the_longest_lease() {
    const LONGEST: Duration = Duration::from_millis(600);
    let mut shared = Shared::start("0.6", &["file"]);
    let share = shared.share.clone();
    let [reader, writer] = shared.drivers();
    // First what nobody knows to be shared; then at short intervals; then after so long that there are leases again.
    let pauses = [[100].as_slice(), &[1, 7, 90, 30].repeat(20), &[11_500, 100, 100, 100]].concat();
    let mut remembered = Remembered::new(reader, "file");
    let (written, looks) = thread::scope(|scope| {
        let writing = scope.spawn(|| write(writer, &share, &pauses));
        let mut looks = Vec::new();
        while !writing.is_finished() {
            let at = Instant::now();
            looks.push((at, remembered.size(reader) as usize, remembered.asked_at));
            thread::sleep(MILLISECOND);
        }
        (writing.join().expect("writer"), looks)
    });
    assert!(remembered.longest <= LONGEST, "there was a lease of {:?}", remembered.longest);
    // Of what was complete when the guest asked, nothing is missing: so it is no older than its lease.
    for (_, size, asked_at) in &looks {
        let complete = written.iter().filter(|at| *at < asked_at).count();
        assert!(*size >= complete, "the answer {size} to a request after {complete} writes");
    }
    assert!(looks.windows(2).all(|pair| pair[0].1 <= pair[1].1), "a guest has seen time go back");
    // And the writes did meet leases.
    let age = |&(at, size, _): &(Instant, usize, Instant)| {
        written.get(size).map_or(Duration::ZERO, |newer| at.saturating_duration_since(*newer))
    };
    let oldest = looks.iter().map(age).max().unwrap_or_default();
    let kept = looks.iter().filter(|(at, _, asked_at)| asked_at < at).count();
    eprintln!(
        "{} looks, {kept} of them without a request; the oldest answer was {oldest:?} old",
        looks.len()
    );
    assert!(kept > 10 && oldest > 20 * MILLISECOND, "nothing was remembered: {kept}, {oldest:?}");
    shared.end();
}

#[test]
fn what_others_are_changing_is_asked_for_anew() {
    let mut shared = Shared::start("600", &["file", "other"]);
    let share = shared.share.clone();
    let [one, two] = shared.drivers();
    let is_kept = |driver: &mut Driver, name| {
        let entry = driver.lookup(ROOT, name).expect("lookup");
        (entry.entry_valid > 0, entry.attr_valid > 0)
    };
    assert_eq!([is_kept(one, c"file"), is_kept(two, c"file")], [(true, true); 2], "nobody has changed it");
    fs::write(share.join("file"), "content").expect("file");
    for driver in [&mut *one, &mut *two] {
        wait("the news of a change", || is_kept(driver, c"file") == (true, false));
        assert_eq!(is_kept(driver, c"other"), (true, true), "another file");
    }
    // The second guest changes a name: news to the first.
    two.create(ROOT, c"made").expect("create");
    wait("the news of a name", || !is_kept(one, c"other").0);
    assert!(is_kept(two, c"other").0, "its own change");
    shared.end();
}

#[test]
fn a_lease_without_a_shared_cache_is_refused() {
    let mut line = Command::new(command::binary());
    line.args(["vhost", "--socket-path", "/nowhere/socket", "--shared-dir", "/", "--lease", "1"]);
    let output = line.stdin(Stdio::null()).output().expect("fusewire");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--cache shared"));
}
