//! Guests that are handed from one device to another while their monitor stays connected.

use fusewire::types::Errno;
use fusewire_abi::{self as abi, Opcode};
use fusewire_fs::passthrough::{self, FileHandles, LockScope, Passthrough};
use fusewire_vhost::{
    Device, Given, Handed, Handover, Keeper, Options, Server,
    kit::{Driver, Layout, Maps, Monitor},
};
use std::{
    collections::HashMap,
    fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use zerocopy::{FromBytes, IntoBytes};

const ROOT: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps guests of a directory.
struct Keeping {
    dir: PathBuf,
    options: passthrough::Options,
}

impl Keeping {
    fn open(&self) -> io::Result<Passthrough> {
        Passthrough::new(&self.dir, self.options.clone())
    }
}

impl Keeper<Passthrough> for Keeping {
    fn began(&self, _fs: &Passthrough, _beginning: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn ended(&self) {}

    fn again(&self) -> io::Result<Option<(Vec<u8>, Passthrough)>> {
        Ok(None)
    }

    fn save(&self, _fs: &Passthrough, _beginning: &[u8]) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn load(&self, _state: &[u8]) -> io::Result<(Vec<u8>, Passthrough)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn hand_over(&self, fs: &Passthrough, beginning: &[u8]) -> io::Result<Handed> {
        let (bytes, files) = fs.hand_over(beginning)?;
        Ok(Handed { bytes, files })
    }

    fn take_over(&self, given: Given) -> io::Result<(Vec<u8>, Passthrough)> {
        let mut fs = self.open()?;
        let (beginning, _) = fs.take_over(&given.bytes, given.files, false)?;
        Ok((beginning, fs))
    }
}

/// How the directory is shared.
#[derive(Clone)]
struct Share {
    dir: PathBuf,
    options: passthrough::Options,
    queues: u16,
}

impl Share {
    fn of(dir: &Path) -> Self {
        let options = passthrough::Options {
            forward: passthrough::Forward::Off,
            locks: LockScope::Mount,
            ..Default::default()
        };
        Self { dir: dir.to_owned(), options, queues: 2 }
    }

    fn device(&self) -> Device<Passthrough> {
        let keeping = Keeping { dir: self.dir.clone(), options: self.options.clone() };
        let make = Keeping { dir: self.dir.clone(), options: self.options.clone() };
        let options = Options { queues: self.queues, tag: Some("test".into()), ..Options::default() };
        Device::kept(move || make.open(), options, keeping).expect("device")
    }
}

/// A guest's device, which may be handed on.
struct Place {
    handover: Handover<Passthrough>,
    end: JoinHandle<Result<(), fusewire_vhost::Error>>,
}

impl Place {
    fn of(server: Server<Passthrough>) -> Self {
        let handover = server.handover();
        Self { handover, end: std::thread::spawn(move || server.wait()) }
    }

    /// Hand the guest to a new device. The one that there was sees its connection close, as its process would end.
    fn replace(self, share: &Share) -> Self {
        let handed = self.handover.begin().expect("handed over");
        let waiting = Server::take_over(share.device(), given(&handed)).expect("taken over");
        let next = Self::of(waiting.start().expect("started"));
        // It rests as long as the process is there.
        std::mem::forget(self);
        next
    }
}

/// What arrives in another process.
fn given(handed: &Handed) -> Given {
    let copy = |file: &fusewire_vhost::Lent| (**file).as_fd().try_clone_to_owned().expect("descriptor");
    Given { bytes: handed.bytes.clone(), files: handed.files.iter().map(copy).collect() }
}

fn begin(share: &Share, layout: Layout) -> (Place, Monitor) {
    let (here, there) = UnixStream::pair().expect("sockets");
    let server = Server::start(share.device(), there).expect("server");
    let layout = Layout { queues: share.queues, window: Maps::Nothing, ..layout };
    let mut monitor = Monitor::start(here, layout).expect("monitor");
    monitor.driver().init().expect("init");
    (Place::of(server), monitor)
}

fn opendir(driver: &mut Driver, node: u64) -> u64 {
    let bytes = driver.call(Opcode::Opendir, node, &[abi::OpenIn::default().as_bytes()]).expect("opendir");
    abi::OpenOut::read_from_bytes(&bytes).expect("handle").fh
}

#[test]
fn what_a_guest_knows_and_has_open_is_there_after_its_device_was_replaced() {
    for (handles, forgetful) in
        [(FileHandles::Auto, false), (FileHandles::Never, false), (FileHandles::Auto, true)]
    {
        let dir = tempfile::tempdir().expect("directory");
        let mut share = Share::of(dir.path());
        share.options.file_handles = handles;
        let (mut place, mut guest) = begin(&share, Layout::default());
        if forgetful {
            // As with a monitor that keeps nothing for its device.
            guest.inflight = None;
        }
        let driver = guest.driver();
        let sub = driver.mkdir(ROOT, c"sub").expect("mkdir").nodeid;
        let (node, fh) = driver.create(sub, c"a").expect("create");
        assert_eq!(driver.write(node, fh, 0, b"before"), Ok(6));
        let (gone, gone_fh) = driver.create(ROOT, c"gone").expect("create");
        assert_eq!(driver.write(gone, gone_fh, 0, b"still"), Ok(5));
        driver.unlink(ROOT, c"gone").expect("unlink");
        let (closed, closed_fh) = driver.create(ROOT, c"closed").expect("create");
        driver.release(closed, closed_fh).expect("release");
        let (other, other_fh) = driver.create(ROOT, c"other").expect("create");
        fs::rename(dir.path().join("other"), dir.path().join("sub/moved")).expect("rename");
        let list = opendir(driver, sub);
        let before = driver.readdir(sub, list).expect("readdir").len();
        let ino = driver.getattr(other).expect("attributes").ino;
        for round in 0..3 {
            place = place.replace(&share);
            let driver = guest.driver();
            assert_eq!(driver.read(node, fh, 0, 100).as_deref(), Ok(&b"before"[..]), "{handles:?} {round}");
            assert_eq!(driver.write(node, fh, 6, b" and after"), Ok(10));
            assert_eq!(driver.truncate(node, 6), Ok(()));
            // What has no name any more goes with its descriptor.
            assert_eq!(driver.read(gone, gone_fh, 0, 9).as_deref(), Ok(&b"still"[..]));
            assert_eq!(driver.getattr(gone).map(|attr| attr.nlink), Ok(0));
            assert_eq!(driver.getattr(other).map(|attr| attr.ino), Ok(ino));
            assert_eq!(driver.lookup(sub, c"moved").map(|entry| entry.nodeid), Ok(other));
            assert_eq!(driver.lookup(sub, c"a").map(|entry| entry.nodeid), Ok(node));
            assert_eq!(driver.read(closed, closed_fh, 0, 1).err(), Some(Errno::BADF), "closed is closed");
            assert_eq!(driver.readdir(sub, list).expect("readdir").len(), before);
            let (fresh, fresh_fh) = driver.create(ROOT, c"fresh").expect("create");
            assert!(![sub, node, gone, closed, other].contains(&fresh), "a number is given twice");
            assert!(![fh, gone_fh, list, other_fh].contains(&fresh_fh));
            driver.release(fresh, fresh_fh).expect("release");
            driver.unlink(ROOT, c"fresh").expect("unlink");
            guest.hiprio().forget(fresh, 1).expect("forget");
            // The monitor can still talk to it.
            assert_eq!(&guest.config(40).expect("configuration")[..4], b"test");
        }
        guest.driver().destroy().expect("destroy");
        drop(guest);
        place.end.join().expect("no panic").expect("a good end");
    }
}

#[test]
fn requests_that_come_all_the_time_are_answered_once_each() {
    for kept in [true, false] {
        let dir = tempfile::tempdir().expect("directory");
        let share = Share::of(dir.path());
        let layout = Layout { size: 256, depth: 48, data: 4096, ..Layout::default() };
        let (mut place, mut guest) = begin(&share, layout);
        assert!(guest.inflight.is_some());
        if !kept {
            // A ring of its own life, of which nothing is noted anywhere.
            guest.restart(1).expect("restart");
        }
        let enough = Arc::new(AtomicBool::new(false));
        let done = std::thread::spawn({
            let enough = enough.clone();
            move || {
                let (mut made, mut frames) = (0usize, HashMap::new());
                let driver = guest.driver();
                while !enough.load(Ordering::Relaxed) || !frames.is_empty() {
                    while driver.has_room() && !enough.load(Ordering::Relaxed) {
                        let name = std::ffi::CString::new(format!("{made}")).expect("name");
                        let args = abi::MkdirIn { mode: 0o755, umask: 0 };
                        let head: [&[u8]; 2] = [args.as_bytes(), name.as_bytes_with_nul()];
                        let frame = driver.send(Opcode::Mkdir as u32, ROOT, &head, (0, 0));
                        assert!(frames.insert(frame, made).is_none());
                        made += 1;
                    }
                    let reply = driver.receive(PATIENCE).expect("an answer: none is lost");
                    let number = frames.remove(&reply.frame).expect("an answer to what was asked, once");
                    assert_eq!(reply.result.map(|_| ()), Ok(()), "{number}");
                }
                (guest, made)
            }
        });
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(15));
            place = place.replace(&share);
        }
        enough.store(true, Ordering::Relaxed);
        let (guest, made) = done.join().expect("no panic");
        assert!(made > 100);
        assert_eq!(fs::read_dir(dir.path()).expect("directory").count(), made, "each was carried out once");
        drop(guest);
        place.end.join().expect("no panic").expect("a good end");
    }
}

fn lock(driver: &mut Driver, (node, fh): (u64, u64), owner: u64, kind: i32, wait: bool) -> u16 {
    let opcode = if wait { Opcode::Setlkw } else { Opcode::Setlk };
    let range = abi::FileLock { start: 0, end: i64::MAX as u64, typ: kind as u32, pid: 1 };
    let args = abi::LkIn { fh, owner, lk: range, lk_flags: 0, ..Default::default() };
    driver.send(opcode as u32, node, &[args.as_bytes()], (0, 0))
}

fn answer(driver: &mut Driver) -> Result<usize, Errno> {
    driver.receive(PATIENCE).expect("an answer").result
}

#[test]
fn locks_stay_and_whoever_waits_for_one_gets_it_from_the_next_device() {
    let dir = tempfile::tempdir().expect("directory");
    let mut share = Share::of(dir.path());
    share.options.locks = LockScope::Directory;
    let (mut place, mut guest) = begin(&share, Layout::default());
    let file = guest.driver().create(ROOT, c"a").expect("create");
    lock(guest.driver(), file, 7, libc::F_WRLCK, false);
    assert_eq!(answer(guest.driver()), Ok(0));
    // Somebody waits, and goes on waiting.
    let waiting = lock(guest.driver(), file, 8, libc::F_WRLCK, true);
    assert!(guest.driver().receive(Duration::from_millis(100)).is_none());
    for _ in 0..3 {
        place = place.replace(&share);
        assert!(guest.driver().receive(Duration::from_millis(100)).is_none(), "neither had nor interrupted");
        lock(guest.driver(), file, 9, libc::F_WRLCK, false);
        assert_eq!(answer(guest.driver()), Err(Errno::AGAIN), "it is still locked");
        let host = fs::File::open(dir.path().join("a")).expect("file");
        assert!(!is_free(&host), "for the host, too");
    }
    lock(guest.driver(), file, 7, libc::F_UNLCK, false);
    let (one, other) = (guest.driver().receive(PATIENCE), guest.driver().receive(PATIENCE));
    let (one, other) = (one.expect("an answer"), other.expect("an answer"));
    assert_eq!((one.result, other.result), (Ok(0), Ok(0)));
    assert!(one.frame == waiting || other.frame == waiting);
    drop(guest);
    place.end.join().expect("no panic").expect("a good end");
}

/// A lock of a process.
fn is_free(file: &fs::File) -> bool {
    rustix::fs::fcntl_lock(file, rustix::fs::FlockOperation::NonBlockingLockShared).is_ok()
}

#[test]
fn a_device_that_is_not_alike_does_not_get_the_guest_which_goes_on() {
    let (dir, elsewhere) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let share = Share::of(dir.path());
    let (place, mut guest) = begin(&share, Layout::default());
    let (node, fh) = guest.driver().create(ROOT, c"a").expect("create");
    let fewer = Share { queues: 1, ..share.clone() };
    let other = Share::of(elsewhere.path());
    let mut unlike = share.clone();
    unlike.options.acl = passthrough::Offer::Never;
    for (wrong, why) in [(&fewer, "queues"), (&other, "another directory"), (&unlike, "options")] {
        let handed = place.handover.begin().expect("handed over");
        // Nothing is served meanwhile.
        let args = abi::GetattrIn::default();
        guest.driver().send(Opcode::Getattr as u32, node, &[args.as_bytes()], (0, 0));
        let error = Server::take_over(wrong.device(), given(&handed)).expect_err(why);
        assert!(error.to_string().contains(why), "{error}");
        assert!(guest.driver().receive(Duration::from_millis(30)).is_none());
        place.handover.cancel();
        assert!(guest.driver().receive(PATIENCE).is_some_and(|reply| reply.result.is_ok()));
        assert_eq!(guest.driver().write(node, fh, 0, b"x"), Ok(1));
    }
    // What is damaged on its way is refused, too.
    let handed = place.handover.begin().expect("handed over");
    for at in (0..handed.bytes.len()).step_by(7) {
        let mut damaged = given(&handed);
        damaged.bytes.truncate(at);
        assert!(Server::take_over(share.device(), damaged).is_err(), "{at} bytes");
    }
    place.handover.cancel();
    let place = place.replace(&share);
    assert_eq!(guest.driver().read(node, fh, 0, 9).as_deref(), Ok(&b"x"[..]));
    drop(guest);
    place.end.join().expect("no panic").expect("a good end");
}
