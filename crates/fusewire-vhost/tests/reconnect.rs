//! A daemon that is killed, and another that takes its place; a guest that moves to another daemon.

use fusewire::types::Errno;
use fusewire_abi::{self as abi, Opcode};
use fusewire_fs::passthrough::{self, Finding, Kept, Ledger, Passthrough};
use fusewire_vhost::{
    Device, Keeper, Options, Server,
    kit::{
        Layout, Maps, Monitor,
        ring::{Descriptor, NEXT, WRITE},
    },
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use vhost::vhost_user::{
    VhostUserFrontend,
    message::{
        VhostTransferStateDirection as Direction, VhostTransferStatePhase as Phase, VhostUserProtocolFeatures,
    },
};
use vm_memory::Bytes;
use zerocopy::{FromBytes, IntoBytes};

const ROOT: u64 = 1;
/// In the environment of a daemon: where it works.
const PLACE: &str = "FUSEWIRE_TEST_DAEMON";

/// Keeps the guest of a directory.
struct Keeping {
    dir: PathBuf,
    ledger: Arc<Ledger>,
    finding: Finding,
}

impl Keeping {
    fn new(dir: &Path, file: &Path, finding: Finding) -> Self {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(file);
        let ledger = Arc::new(Ledger::new(file.expect("state file")).expect("ledger"));
        Self { dir: dir.to_owned(), ledger, finding }
    }

    fn make(&self) -> impl Fn() -> io::Result<Passthrough> + Send + Sync + 'static {
        let (dir, ledger) = (self.dir.clone(), self.ledger.clone());
        move || open(&dir)?.with_ledger(ledger.clone())
    }
}

fn open(dir: &Path) -> io::Result<Passthrough> {
    let options = passthrough::Options {
        forward: passthrough::Forward::Off,
        // Locks of the host do not move.
        locks: passthrough::LockScope::Mount,
        ..Default::default()
    };
    Passthrough::new(dir, options)
}

impl Keeper<Passthrough> for Keeping {
    fn began(&self, fs: &Passthrough, beginning: &[u8]) -> io::Result<()> {
        fs.ledger_begins(beginning)
    }

    fn ended(&self) {
        self.ledger.end().expect("end");
    }

    fn again(&self) -> io::Result<Option<(Vec<u8>, Passthrough)>> {
        let Some((beginning, kept)) = self.ledger.read()? else { return Ok(None) };
        let mut fs = open(&self.dir)?;
        let resumed = fs.resume(kept);
        println!("{resumed:?}");
        Ok(Some((beginning, fs.with_ledger(self.ledger.clone())?)))
    }

    fn save(&self, fs: &Passthrough, beginning: &[u8]) -> io::Result<Vec<u8>> {
        Ok(fs.save(self.finding, false)?.encode(beginning))
    }

    fn load(&self, state: &[u8]) -> io::Result<(Vec<u8>, Passthrough)> {
        let (beginning, kept) = Kept::decode(state)?;
        let mut fs = open(&self.dir)?;
        fs.load(kept, false)?;
        let fs = fs.begin_ledger(self.ledger.clone(), &beginning)?;
        Ok((beginning, fs))
    }
}

/// Not a test but the daemon that tests kill: this program, called with another environment.
#[test]
fn daemon() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let keeping = Keeping::new(&place.join("dir"), &place.join("state"), Finding::Paths);
    let early = place.join("early");
    _ = fs::remove_file(&early);
    let listener = UnixListener::bind(&early).expect("socket");
    fs::rename(&early, place.join("socket")).expect("name");
    let options = Options { queues: 2, tag: Some("test".into()), ..Options::default() };
    let device = Device::kept(keeping.make(), options, keeping).expect("device");
    Server::accept(device, listener).expect("monitor").wait().expect("a good end");
}

/// A daemon of its own process.
struct Daemon {
    place: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    fn start() -> Self {
        let place = tempfile::tempdir().expect("directory");
        fs::create_dir(place.path().join("dir")).expect("directory");
        let child = Self::spawn(place.path());
        Self { place, child }
    }

    fn spawn(place: &Path) -> Child {
        let program = std::env::current_exe().expect("program");
        Command::new(program)
            .args(["--exact", "daemon", "--nocapture", "--test-threads=1"])
            .env(PLACE, place)
            .stdout(Stdio::null())
            .spawn()
            .expect("daemon")
    }

    fn dir(&self) -> PathBuf {
        self.place.path().join("dir")
    }

    fn connect(&self) -> UnixStream {
        let (path, begin) = (self.place.path().join("socket"), Instant::now());
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => return stream,
                Err(error) if begin.elapsed() > Duration::from_secs(20) => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn guest(&self, layout: Layout) -> Monitor {
        Monitor::start(self.connect(), Layout { queues: 2, window: Maps::Nothing, ..layout })
            .expect("monitor")
    }

    /// Kill it (SIGKILL) and start another.
    fn replace(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        _ = fs::remove_file(self.place.path().join("socket"));
        self.child = Self::spawn(self.place.path());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[test]
fn files_that_a_guest_knows_and_has_open_survive_the_daemon() {
    for keeps in [true, false] {
        let mut daemon = Daemon::start();
        let dir = daemon.dir();
        let mut guest = daemon.guest(Layout::default());
        let driver = guest.driver();
        driver.init().expect("init");
        let sub = driver.mkdir(ROOT, c"sub").expect("mkdir").nodeid;
        let (node, fh) = driver.create(sub, c"a").expect("create");
        assert_eq!(driver.write(node, fh, 0, b"before"), Ok(6));
        let (gone, gone_fh) = driver.create(ROOT, c"gone").expect("create");
        assert_eq!(driver.write(gone, gone_fh, 0, b"still"), Ok(5));
        let (closed, closed_fh) = driver.create(ROOT, c"closed").expect("create");
        driver.release(closed, closed_fh).expect("release");
        let bytes = driver.call(Opcode::Opendir, sub, &[abi::OpenIn::default().as_bytes()]).expect("opendir");
        let list = abi::OpenOut::read_from_bytes(&bytes).expect("handle").fh;
        let (other, other_fh) = driver.create(ROOT, c"other").expect("create");
        let before = driver.getattr(other).expect("attributes");
        // The directory changes behind everybody's back.
        fs::rename(dir.join("other"), dir.join("sub/moved")).expect("rename");

        for _ in 0..2 {
            daemon.replace();
            guest.reconnect(daemon.connect(), keeps).expect("reconnect");
            let driver = guest.driver();
            assert_eq!(driver.read(node, fh, 0, 100).as_deref(), Ok(&b"before"[..]));
            assert_eq!(driver.write(node, fh, 6, b" and after"), Ok(10));
            assert_eq!(driver.truncate(node, 6), Ok(()));
            assert_eq!(driver.getattr(other).map(|attr| attr.ino), Ok(before.ino));
            assert_eq!(driver.lookup(sub, c"moved").map(|entry| entry.nodeid), Ok(other));
            assert_eq!(driver.lookup(sub, c"a").map(|entry| entry.nodeid), Ok(node));
            assert_eq!(driver.read(closed, closed_fh, 0, 1).err(), Some(Errno::BADF), "closed is closed");
            assert_eq!(driver.readdir(sub, list).expect("readdir").len(), 4);
            let (fresh, fresh_fh) = driver.create(ROOT, c"fresh").expect("create");
            assert!(![sub, node, gone, closed, other].contains(&fresh), "a number is given twice");
            assert!(![fh, gone_fh, list, other_fh].contains(&fresh_fh));
            driver.release(fresh, fresh_fh).expect("release");
            driver.unlink(ROOT, c"fresh").expect("unlink");
            guest.hiprio().forget(fresh, 1).expect("forget");
        }
        // What has no name is kept by nobody but the process that has it open.
        guest.driver().unlink(ROOT, c"gone").expect("unlink");
        assert_eq!(guest.driver().read(gone, gone_fh, 0, 9).as_deref(), Ok(&b"still"[..]));
        daemon.replace();
        guest.reconnect(daemon.connect(), keeps).expect("reconnect");
        assert_eq!(guest.driver().getattr(gone).err(), Some(Errno::STALE));
        assert!(guest.driver().read(gone, gone_fh, 0, 9).is_err());
        assert!(guest.driver().getattr(node).is_ok());
        guest.driver().destroy().expect("destroy");
    }
}

#[test]
fn requests_under_way_are_neither_lost_nor_done_twice() {
    let mut daemon = Daemon::start();
    let dir = daemon.dir();
    let layout = Layout { size: 256, depth: 48, data: 4096, ..Layout::default() };
    let mut guest = daemon.guest(layout);
    guest.driver().init().expect("init");
    let mut names = Vec::new();
    // What is answered, by the number of the file: how often, and how.
    let mut answers: Vec<Option<Result<usize, Errno>>> = Vec::new();
    let mut frames = std::collections::HashMap::new();
    let (mut next, mut kills) = (0usize, 0);
    let mut resubmitted = 0;
    while kills < 25 {
        // As many MKDIR as fit, each of which must succeed once.
        while guest.driver().has_room() {
            let name = std::ffi::CString::new(format!("{next}")).expect("name");
            let args = abi::MkdirIn { mode: 0o755, umask: 0 };
            let frame = guest.driver().send(
                Opcode::Mkdir as u32,
                ROOT,
                &[args.as_bytes(), name.as_bytes_with_nul()],
                (0, 0),
            );
            assert!(frames.insert(frame, next).is_none());
            names.push(name);
            answers.push(None);
            next += 1;
        }
        let take = |guest: &mut Monitor,
                    frames: &mut std::collections::HashMap<u16, usize>,
                    answers: &mut Vec<Option<_>>,
                    limit| {
            let Some(reply) = guest.driver().receive(limit) else { return false };
            let number = frames.remove(&reply.frame).expect("an answer to what was asked");
            assert!(answers[number].replace(reply.result).is_none(), "{number} was answered twice");
            true
        };
        for _ in 0..(kills * 7) % 40 {
            assert!(take(&mut guest, &mut frames, &mut answers, Duration::from_secs(10)));
        }
        daemon.replace();
        kills += 1;
        resubmitted += frames.len();
        guest.reconnect(daemon.connect(), true).expect("reconnect");
        if kills % 5 == 0 {
            while !frames.is_empty() {
                assert!(
                    take(&mut guest, &mut frames, &mut answers, Duration::from_secs(10)),
                    "{} lost",
                    frames.len()
                );
            }
        }
    }
    while !frames.is_empty() {
        let reply = guest.driver().receive(Duration::from_secs(10)).expect("an answer");
        let number = frames.remove(&reply.frame).expect("asked");
        assert!(answers[number].replace(reply.result).is_none());
    }
    assert!(resubmitted > 0);
    let wrong: Vec<_> =
        answers.iter().enumerate().filter(|(_, answer)| !matches!(answer, Some(Ok(_)))).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(fs::read_dir(&dir).expect("directory").count(), next);
}

/// A device in this process, for a guest that stays or moves.
struct Here {
    socket: PathBuf,
    place: tempfile::TempDir,
}

impl Here {
    fn start(dir: &Path, finding: Finding) -> Self {
        Self::start_at(tempfile::tempdir().expect("directory"), dir, finding)
    }

    /// Another one in its place, with the same state file.
    fn again(self, dir: &Path) -> Self {
        fs::remove_file(&self.socket).expect("socket");
        Self::start_at(self.place, dir, Finding::Paths)
    }

    fn start_at(place: tempfile::TempDir, dir: &Path, finding: Finding) -> Self {
        let socket = place.path().join("socket");
        let keeping = Keeping::new(dir, &place.path().join("state"), finding);
        let listener = UnixListener::bind(&socket).expect("socket");
        let options = Options { queues: 2, tag: Some("test".into()), ..Options::default() };
        let device = Device::kept(keeping.make(), options, keeping).expect("device");
        std::thread::spawn(move || Server::accept(device, listener).expect("monitor").wait());
        Self { socket, place }
    }

    fn connect(&self) -> UnixStream {
        assert!(self.place.path().exists());
        UnixStream::connect(&self.socket).expect("connect")
    }
}

fn layout() -> Layout {
    Layout { queues: 2, window: Maps::Nothing, ..Layout::default() }
}

#[test]
fn a_guest_moves_to_the_same_directory_or_to_a_copy() {
    for (finding, copy) in [(Finding::Paths, false), (Finding::Paths, true), (Finding::Handles, false)] {
        let (one, other) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
        let from = Here::start(one.path(), finding);
        let mut guest = Monitor::start(from.connect(), layout()).expect("monitor");
        let driver = guest.driver();
        driver.init().expect("init");
        let sub = driver.mkdir(ROOT, c"sub").expect("mkdir").nodeid;
        let (node, fh) = driver.create(sub, c"a").expect("create");
        assert_eq!(driver.write(node, fh, 0, b"content"), Ok(7));
        guest.stop().expect("stop");
        let state = guest.save().expect("save");
        let target = if copy { &other } else { &one };
        if copy {
            fs::create_dir(other.path().join("sub")).expect("directory");
            fs::copy(one.path().join("sub/a"), other.path().join("sub/a")).expect("copy");
        }
        let to = Here::start(target.path(), finding);
        guest.arrive(to.connect(), &state).expect("load");
        let driver = guest.driver();
        assert_eq!(driver.read(node, fh, 0, 100).as_deref(), Ok(&b"content"[..]), "{finding:?} {copy}");
        assert_eq!(driver.write(node, fh, 0, b"C"), Ok(1));
        assert!(fs::read(target.path().join("sub/a")).expect("file").starts_with(b"C"));
        assert_eq!(driver.lookup(sub, c"a").map(|entry| entry.nodeid), Ok(node));
        assert_eq!(driver.lookup(ROOT, c"sub").map(|entry| entry.nodeid), Ok(sub));
        let (fresh, _) = driver.create(sub, c"b").expect("create");
        assert!(fresh != node && fresh != sub);
        driver.destroy().expect("destroy");
    }
}

#[test]
fn what_cannot_be_moved_is_refused_and_the_guest_stays() {
    let (one, other) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let from = Here::start(one.path(), Finding::Paths);
    let mut guest = Monitor::start(from.connect(), layout()).expect("monitor");
    guest.driver().init().expect("init");
    let (node, fh) = guest.driver().create(ROOT, c"a").expect("create");
    assert_eq!(guest.driver().write(node, fh, 0, b"content"), Ok(7));
    let state = guest.save().expect("save");
    // Another directory has no such file.
    let to = Here::start(other.path(), Finding::Paths);
    assert!(
        Monitor::start(to.connect(), layout())
            .and_then(|mut new| fusewire_vhost::kit::send(&mut new.frontend, &state))
            .is_err()
    );
    guest.driver().unlink(ROOT, c"a").expect("unlink");
    assert!(guest.save().is_err(), "a file without a name");
    assert_eq!(guest.driver().read(node, fh, 0, 9).as_deref(), Ok(&b"content"[..]));
    guest.driver().release(node, fh).expect("release");
    guest.hiprio().forget(node, 1).expect("forget");
    assert!(guest.save().is_ok());
}

#[test]
fn a_state_that_lies_gets_an_error_and_reaches_nothing_outside() {
    let outer = tempfile::tempdir().expect("directory");
    let dir = outer.path().join("dir");
    fs::create_dir(&dir).expect("directory");
    fs::write(outer.path().join("secret"), "secret").expect("file");
    std::os::unix::fs::symlink("..", dir.join("up")).expect("link");
    fs::write(dir.join("aaaaaaaaa"), "inside").expect("file");
    let from = Here::start(&dir, Finding::Paths);
    let mut guest = Monitor::start(from.connect(), layout()).expect("monitor");
    guest.driver().init().expect("init");
    let node = guest.driver().lookup(ROOT, c"aaaaaaaaa").expect("lookup").nodeid;
    guest.driver().open(node, 0).expect("open");
    let state = guest.save().expect("save");
    let at = state.windows(9).position(|bytes| bytes == b"aaaaaaaaa").expect("the path");
    for path in ["../secret", "up/secret", "/../ecret", ".........", "aaaaaaaa/", "\0\0\0\0\0\0\0\0\0"] {
        let mut lying = state.clone();
        lying[at..at + 9].copy_from_slice(path.as_bytes());
        let to = Here::start(&dir, Finding::Paths);
        let mut new = Monitor::start(to.connect(), layout()).expect("monitor");
        assert!(fusewire_vhost::kit::send(&mut new.frontend, &lying).is_err(), "{path}");
        new.driver().init().expect("the device lives");
        assert!(new.driver().lookup(ROOT, c"aaaaaaaaa").is_ok());
    }
    // One device for all: what is refused changes nothing.
    let to = Here::start(&dir, Finding::Paths);
    let mut new = Monitor::start(to.connect(), layout()).expect("monitor");
    for byte in (0..state.len()).step_by(3) {
        let mut other = state.clone();
        other[byte] ^= 0xff;
        _ = fusewire_vhost::kit::send(&mut new.frontend, &other);
        _ = fusewire_vhost::kit::send(&mut new.frontend, &state[..byte]);
    }
    new.driver().init().expect("the device lives");
    assert!(new.driver().lookup(ROOT, c"aaaaaaaaa").is_ok());
}

#[test]
fn a_region_that_lies_about_what_is_under_way_is_survived() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().expect("directory");
    let from = Here::start(dir.path(), Finding::Paths);
    let mut guest = Monitor::start(from.connect(), layout()).expect("monitor");
    guest.driver().init().expect("init");
    for round in 0..12u64 {
        let inflight = guest.inflight.as_ref().expect("memory that is kept");
        let len = inflight.place.mmap_size;
        for word in 0..len / 8 {
            // Marks, counters and stages of all kinds.
            let value = match round % 4 {
                0 => u64::MAX,
                1 => 1,
                2 => (word * round).wrapping_mul(0x9e37_79b9_7f4a_7c15),
                _ => word & 1 | 0xffff_ffff_0000_0000,
            };
            inflight.file.write_all_at(&value.to_ne_bytes(), word * 8).expect("write");
        }
        let to = Here::start(dir.path(), Finding::Paths);
        guest.reconnect(to.connect(), true).expect("reconnect");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(&guest.config(40).expect("the device lives")[..5], b"test\0");
    }
}

/// The other end of a pipe that a device reads a state from, or writes one to.
fn pipe_to(guest: &mut Monitor, direction: Direction) -> io::Result<OwnedFd> {
    let (reader, writer) = io::pipe()?;
    let (theirs, ours): (OwnedFd, OwnedFd) = match direction {
        Direction::LOAD => (reader.into(), writer.into()),
        Direction::SAVE => (writer.into(), reader.into()),
    };
    let taken = guest.frontend.set_device_state_fd(direction, Phase::STOPPED, theirs);
    taken.map(|_| ours).map_err(|error| io::Error::other(error.to_string()))
}

/// Nobody has the other end of a pipe any more.
fn is_let_go_of(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    _ = poll(&mut fds, Some(&Timespec { tv_sec: 10, tv_nsec: 0 }));
    fds[0].revents().contains(PollFlags::ERR)
}

#[test]
fn a_pipe_that_does_not_come_to_an_end_keeps_nobody() {
    let dir = tempfile::tempdir().expect("directory");
    let here = Here::start(dir.path(), Finding::Paths);
    let mut guest = Monitor::start(here.connect(), layout()).expect("monitor");
    let pipe = pipe_to(&mut guest, Direction::LOAD).expect("pipe");
    assert!(pipe_to(&mut guest, Direction::LOAD).is_err(), "one is under way");
    let (checked, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let is_error = guest.frontend.check_device_state().is_err();
        _ = checked.send((guest, is_error));
    });
    let (mut guest, is_error) = ended.recv_timeout(Duration::from_secs(20)).expect("an end");
    assert!(is_error);
    let other = pipe_to(&mut guest, Direction::LOAD).expect("pipe");
    drop(guest);
    assert!(is_let_go_of(&other), "the monitor is gone, and somebody waits for its state");
    assert!(is_let_go_of(&pipe));
}

#[test]
fn a_state_is_moved_only_where_that_was_agreed_on_and_never_over_a_session() {
    let dir = tempfile::tempdir().expect("directory");
    let here = Here::start(dir.path(), Finding::Paths);
    let mut guest = Monitor::start(here.connect(), layout()).expect("monitor");
    guest.driver().init().expect("init");
    guest.driver().create(ROOT, c"a").expect("create");
    let state = guest.save().expect("save");
    assert!(fusewire_vhost::kit::send(&mut guest.frontend, &state).is_err(), "there is a session");
    assert!(guest.driver().lookup(ROOT, c"a").is_ok());
    // What is no pipe may keep whoever reads it.
    let file = File::open(dir.path().join("a")).expect("file");
    assert!(guest.frontend.set_device_state_fd(Direction::LOAD, Phase::STOPPED, file.into()).is_err());
    // A device that keeps nothing.
    let place = tempfile::tempdir().expect("directory");
    let listener = UnixListener::bind(place.path().join("socket")).expect("socket");
    let path = dir.path().to_owned();
    let device =
        Device::new(move || open(&path), Options { queues: 1, ..Options::default() }).expect("device");
    std::thread::spawn(move || Server::accept(device, listener).expect("monitor").wait());
    let stream = UnixStream::connect(place.path().join("socket")).expect("connect");
    let mut guest = Monitor::start(stream, Layout { queues: 1, ..layout() }).expect("monitor");
    let offered = guest.frontend.get_protocol_features().expect("features");
    assert!(!offered.contains(VhostUserProtocolFeatures::DEVICE_STATE));
    let all = offered | VhostUserProtocolFeatures::DEVICE_STATE;
    guest.frontend.set_protocol_features(all).expect("features");
    for direction in [Direction::LOAD, Direction::SAVE] {
        assert!(pipe_to(&mut guest, direction).is_err());
    }
    guest.driver().init().expect("the device lives");
}

#[test]
fn a_state_that_is_refused_leaves_the_guest_that_there_was_and_one_that_is_taken_is_kept() {
    let (one, other) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    fs::write(one.path().join("a"), "content").expect("file");
    let from = Here::start(one.path(), Finding::Paths);
    let mut moving = Monitor::start(from.connect(), layout()).expect("monitor");
    moving.driver().init().expect("init");
    let node = moving.driver().lookup(ROOT, c"a").expect("lookup").nodeid;
    let fh = moving.driver().open(node, 0).expect("open");
    let state = moving.save().expect("save");
    // A guest of another directory, whose daemon is replaced.
    let here = Here::start(other.path(), Finding::Paths);
    let mut guest = Monitor::start(here.connect(), layout()).expect("monitor");
    guest.driver().init().expect("init");
    let (kept, kept_fh) = guest.driver().create(ROOT, c"b").expect("create");
    let here = here.again(other.path());
    {
        let mut wrong = Monitor::start(here.connect(), layout()).expect("monitor");
        assert!(fusewire_vhost::kit::send(&mut wrong.frontend, &state).is_err(), "there is no such file");
    }
    let here = here.again(other.path());
    guest.reconnect(here.connect(), true).expect("reconnect");
    assert_eq!(guest.driver().write(kept, kept_fh, 0, b"still"), Ok(5));
    drop(guest);
    // The guest of the first directory arrives there, and stays when the daemon is replaced.
    moving.stop().expect("stop");
    let to = Here::start(one.path(), Finding::Paths);
    moving.arrive(to.connect(), &state).expect("load");
    assert_eq!(moving.driver().read(node, fh, 0, 9).as_deref(), Ok(&b"content"[..]));
    let to = to.again(one.path());
    moving.reconnect(to.connect(), false).expect("reconnect");
    assert_eq!(moving.driver().read(node, fh, 0, 9).as_deref(), Ok(&b"content"[..]));
}

#[test]
fn marks_of_the_guest_before_do_not_take_requests_of_the_next_one() {
    let dir = tempfile::tempdir().expect("directory");
    let place = tempfile::tempdir().expect("directory");
    let listener = UnixListener::bind(place.path().join("socket")).expect("socket");
    // A device whose guest never gets an answer: its directory hangs.
    let (began, begins) = std::sync::mpsc::channel();
    let make = move || {
        _ = began.send(());
        std::thread::sleep(Duration::from_secs(3600));
        Err::<Passthrough, _>(io::ErrorKind::TimedOut.into())
    };
    let device = Device::new(make, Options { queues: 2, ..Options::default() }).expect("device");
    let server = std::thread::spawn(move || Server::accept(device, listener).expect("monitor").wait());
    let mut guest =
        Monitor::start(UnixStream::connect(place.path().join("socket")).expect("connect"), layout())
            .expect("monitor");
    // Its INIT, by descriptors that the next one begins with something else.
    let driver = guest.driver();
    let header = abi::InHeader { len: 104, opcode: Opcode::Init as u32, unique: 2, ..Default::default() };
    let args = abi::InitIn { major: 7, minor: 38, ..Default::default() };
    let at = driver.data(0);
    driver.ring.memory.write_slice(&[header.as_bytes(), args.as_bytes()].concat(), at).expect("memory");
    driver.ring.describe(100, Descriptor::new(at.0, 104, NEXT, 101));
    driver.ring.describe(101, Descriptor::new(at.0 + 4096, 4096, WRITE, 0));
    driver.ring.add(100);
    driver.ring.kick();
    begins.recv_timeout(Duration::from_secs(20)).expect("it is being served");
    guest.reboot().expect("memory");
    let to = Here::start(dir.path(), Finding::Paths);
    guest.reconnect(to.connect(), true).expect("reconnect");
    assert!(server.join().is_ok());
    guest.driver().init().expect("init");
    assert!(guest.driver().getattr(ROOT).is_ok());
}
