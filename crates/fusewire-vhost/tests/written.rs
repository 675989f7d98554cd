//! What a device writes into its guest's memory is logged while the monitor copies that memory to another machine.

mod support;

use fusewire::types::Errno;
use fusewire_abi::{self as abi, Opcode};
use fusewire_vhost::{
    Device, Options, Server,
    kit::{Driver, Layout, Maps, Monitor, PAGE, Written},
};
use std::{
    collections::BTreeSet,
    ffi::CString,
    fs::{self, File},
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::mpsc,
    time::{Duration, Instant},
};
use support::{Guest, passthrough};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, vhost_user::VhostUserFrontend};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use zerocopy::IntoBytes;

const ROOT: u64 = 1;
/// `VHOST_F_LOG_ALL`.
const LOG_ALL: u64 = 1 << 26;
const SOON: Duration = Duration::from_secs(20);
/// Frames that a driver has, and pages of one: request, answer, table, data.
const DEPTH: u16 = 2;
const FRONT: u64 = 3 * PAGE;
/// What is in memory that nobody has written to.
const FILL: u8 = 0xa5;
const FILE: usize = (1 << 20) + 100;

fn content() -> Vec<u8> {
    (0..FILE).map(|at| (at % 251) as u8).collect()
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("directory");
    fs::write(dir.path().join("file"), content()).expect("file");
    fs::create_dir(dir.path().join("dir")).expect("directory");
    (0..100).for_each(|i| _ = File::create(dir.path().join(format!("dir/name-{i}"))).expect("file"));
    dir
}

fn layout() -> Layout {
    Layout { queues: 2, depth: DEPTH, window: Maps::Nothing, ..Layout::default() }
}

fn options() -> Options {
    Options { queues: 2, ..Options::default() }
}

/// All of the guest's memory.
fn memory(monitor: &Monitor) -> Vec<u8> {
    let mut bytes = vec![0; monitor.memory.last_addr().0 as usize + 1];
    monitor.memory.read_slice(&mut bytes, GuestAddress(0)).expect("memory");
    bytes
}

/// Pages that a driver writes to: requests and their tables, descriptors and the avail ring.
fn of_driver(driver: &Driver) -> BTreeSet<u64> {
    let ring = driver.ring.table.0 / PAGE..driver.ring.used().0 / PAGE;
    let frames = (0..DEPTH).map(|frame| driver.data(frame).0);
    let frames = frames.flat_map(|data| [(data - FRONT) / PAGE, data / PAGE - 1]);
    ring.chain(frames).collect()
}

/// Pages whose content is another one.
fn changed(before: &[u8], after: &[u8]) -> BTreeSet<u64> {
    let pages = before.chunks(PAGE as usize).zip(after.chunks(PAGE as usize));
    (0..).zip(pages).filter(|(_, (before, after))| before != after).map(|(page, _)| page).collect()
}

/// Wait until the device sleeps, having said from where on it wants to be told of requests.
fn asleep(driver: &Driver, event_idx: bool) {
    let begin = Instant::now();
    let event = driver.ring.used().0 + 4 + 8 * u64::from(driver.ring.size);
    let at = if event_idx { event } else { driver.ring.used().0 };
    let wanted = if event_idx { driver.ring.answered() } else { 0 };
    while driver.ring.memory.read_obj::<u16>(GuestAddress(at)).expect("memory") != wanted {
        assert!(begin.elapsed() < SOON, "the queue does not come to rest");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A guest whose device logs what it writes.
struct Logged {
    monitor: Monitor,
    written: Written,
    event_idx: bool,
}

impl Logged {
    /// What `act` has the device write by queue `index`, and what is marked: pages.
    fn pages(&mut self, index: usize, act: impl FnOnce(&mut Driver)) -> [BTreeSet<u64>; 2] {
        let driver = &self.monitor.drivers[index];
        for data in (0..DEPTH).map(|frame| driver.data(frame).0) {
            let len = (1 << 20) + 2 * PAGE;
            let fill = vec![FILL; len as usize];
            self.monitor.memory.write_slice(&fill, GuestAddress(data - 2 * PAGE)).expect("memory");
        }
        asleep(driver, self.event_idx);
        self.monitor.set_logging(true).expect("the log");
        self.written.take();
        let before = memory(&self.monitor);
        act(&mut self.monitor.drivers[index]);
        asleep(&self.monitor.drivers[index], self.event_idx);
        // Who marks has the ring locked.
        self.monitor.set_logging(true).expect("the log");
        let after = memory(&self.monitor);
        let marked = self.written.take().into_iter().collect();
        let of_driver = of_driver(&self.monitor.drivers[index]);
        [&changed(&before, &after) - &of_driver, marked]
    }

    /// Exactly the pages that were written to are marked.
    fn exactly(&mut self, what: &str, index: usize, act: impl FnOnce(&mut Driver)) {
        let [changed, marked] = self.pages(index, act);
        assert_eq!(marked, changed, "{what}");
        assert!(!marked.is_empty(), "{what}: nothing was written");
    }
}

#[test]
fn exactly_the_pages_that_change_are_marked() {
    for (event_idx, indirect, size) in [(true, true, 128), (false, true, 128), (true, false, 1024)] {
        let dir = tree();
        let layout = Layout { event_idx, indirect, size, ..layout() };
        let mut guest = Guest::start(passthrough(dir.path()), options(), layout);
        let written = Written::new(guest.monitor.log_len()).expect("a log");
        guest.monitor.log(&written).expect("it is logged");
        let Guest { monitor, .. } = &mut guest;
        monitor.driver().init().expect("init");
        assert!(!written.take().is_empty(), "the answer to INIT");
        let file = monitor.driver().lookup(ROOT, c"file").expect("lookup").nodeid;
        let fh = monitor.driver().open(file, 0).expect("open");
        let Guest { monitor, server, _dir: place } = guest;
        let mut logged = Logged { monitor, written, event_idx };
        let whole = content();
        for (offset, size) in [
            (0, 1),
            (5, 100),
            (0, 4095),
            (0, 4096),
            (1, 4097),
            (0, 65536),
            (0, 1 << 20),
            // It ends before.
            (FILE as u64 - 10, 8192),
            (FILE as u64, 4096),
        ] {
            logged.exactly(&format!("READ {offset} {size}"), 1, |driver| {
                let wanted = &whole[offset as usize..whole.len().min(offset as usize + size as usize)];
                assert_eq!(driver.read(file, fh, offset, size).as_deref(), Ok(wanted));
            });
        }
        logged.exactly("LOOKUP", 2, |driver| _ = driver.lookup(ROOT, c"file").expect("lookup"));
        logged.exactly("LOOKUP of nothing", 1, |driver| {
            assert_eq!(driver.lookup(ROOT, c"nothing").err(), Some(Errno::NOENT));
        });
        logged.exactly("GETATTR", 2, |driver| _ = driver.getattr(file).expect("getattr"));
        logged.exactly("CREATE", 1, |driver| _ = driver.create(ROOT, c"new").expect("create"));
        logged.exactly("READDIR", 1, |driver| {
            let node = driver.lookup(ROOT, c"dir").expect("lookup").nodeid;
            let args = abi::OpenIn::default();
            let out = driver.call(Opcode::Opendir, node, &[args.as_bytes()]).expect("opendir");
            let fh = u64::from_ne_bytes(out[..8].try_into().expect("a handle"));
            assert!(driver.readdir(node, fh).expect("readdir").len() >= 100);
        });
        logged.exactly("FORGET", 0, |driver| driver.forget(file, 1).expect("forget"));
        let [changed, marked] = logged.pages(1, |driver| {
            assert!(driver.read(file, fh + 1000, 0, 1 << 20).is_err());
        });
        assert!(changed.is_subset(&marked), "a READ that fails");
        let [_, marked] = logged.pages(1, |driver| {
            let (node, fh) = driver.create(ROOT, c"written").expect("create");
            assert_eq!(driver.write(node, fh, 0, &whole[..1 << 20]), Ok(1 << 20));
        });
        assert!(marked.len() <= 5, "what is only read is not marked: {marked:?}");
        assert_eq!(fs::read(dir.path().join("written")).expect("file"), &whole[..1 << 20]);
        drop(logged);
        server.expect("server").join().expect("no panic").expect("a good end");
        drop(place);
    }
}

/// A driver at work until it is told to pause, or for good.
fn work(driver: &mut Driver, pause: &mpsc::Receiver<()>, whole: &[u8]) {
    let file = driver.lookup(ROOT, c"file").expect("lookup").nodeid;
    let fh = driver.open(file, 0).expect("open");
    let mut count = 0u64;
    while pause.try_recv() == Err(mpsc::TryRecvError::Empty) {
        let offset = count * 7919 % (FILE as u64 - 70_000);
        let size = [1, 512, 4096, 65536][(count % 4) as usize];
        let wanted = &whole[offset as usize..][..size];
        assert_eq!(driver.read(file, fh, offset, size as u32).as_deref(), Ok(wanted), "{count}");
        let name = CString::new(format!("new-{count}")).expect("a name");
        let (node, fh) = driver.create(ROOT, &name).expect("create");
        driver.release(node, fh).expect("release");
        assert_eq!(driver.lookup(ROOT, &name).expect("lookup").nodeid, node);
        driver.unlink(ROOT, &name).expect("unlink");
        count += 1;
    }
    driver.release(file, fh).expect("release");
    assert!(count > 0, "it did nothing");
}

/// Copies what is marked, as a monitor does.
fn copy(monitor: &Monitor, written: &Written, to: &mut [u8]) -> usize {
    let pages = written.take();
    for page in &pages {
        let at = page * PAGE;
        let to = &mut to[at as usize..][..PAGE as usize];
        monitor.memory.read_slice(to, GuestAddress(at)).expect("memory");
    }
    pages.len()
}

/// The queues of the guest are at work while memory is copied over and over and the log is switched on and off.
#[test]
fn a_copy_that_is_made_while_the_guest_works_is_right() {
    let dir = tree();
    let mut guest = Guest::start(passthrough(dir.path()), options(), layout());
    guest.monitor.driver().init().expect("init");
    let whole = content();
    for round in 0..8 {
        let mut busy = guest.monitor.drivers.remove(2);
        let driver_pages = of_driver(&busy);
        let written = Written::new(guest.monitor.log_len()).expect("a log");
        let (pause, paused) = mpsc::channel();
        let monitor = &mut guest.monitor;
        std::thread::scope(|scope| {
            let whole = &whole;
            let worker = scope.spawn(move || {
                work(&mut busy, &paused, whole);
                busy
            });
            std::thread::sleep(Duration::from_millis(10));
            // In the midst of it.
            for on in [true, false].into_iter().cycle().take(50) {
                monitor.give_log(&written).expect("a log");
                monitor.set_logging(on).expect("switched");
            }
            monitor.log(&written).expect("it is logged");
            written.take();
            let mut there = memory(monitor);
            let mut copied = 0;
            let begin = Instant::now();
            for turn in 0.. {
                if turn >= 10 && (copied > 10 || begin.elapsed() > SOON) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
                copied += copy(monitor, &written, &mut there);
            }
            pause.send(()).expect("a worker");
            let busy = worker.join().expect("a worker");
            asleep(&busy, true);
            monitor.set_logging(true).expect("the log");
            copy(monitor, &written, &mut there);
            let lost = &changed(&there, &memory(monitor)) - &driver_pages;
            assert!(lost.is_empty(), "round {round}: {lost:?} were written to and not marked");
            assert!(copied > 10, "hardly anything was written");
            monitor.set_logging(false).expect("off");
            monitor.drivers.push(busy);
        });
        written.take();
        guest.monitor.driver().getattr(ROOT).expect("getattr");
        assert!(written.take().is_empty(), "it is not logged any more");
    }
    guest.end();
}

/// What the device answers to a log, and whether the guest goes on.
fn refused(give: impl FnOnce(&mut Monitor) -> std::io::Result<()>) -> bool {
    let dir = tree();
    let mut guest = Guest::start(passthrough(dir.path()), options(), layout());
    guest.monitor.driver().init().expect("init");
    let given = give(&mut guest.monitor);
    if given.is_ok() {
        guest.monitor.driver().getattr(ROOT).expect("getattr");
        guest.end();
        return false;
    }
    let Guest { monitor, server, .. } = guest;
    drop(monitor);
    // The device ends, and says why; the process goes on.
    server.expect("server").join().expect("no panic").is_err()
}

#[test]
fn a_log_that_is_too_short_or_could_go_is_refused() {
    let other = |error: vhost::Error| std::io::Error::other(error.to_string());
    let give = |monitor: &mut Monitor, file: &File, mmap_size, mmap_offset| {
        let region = VhostUserDirtyLogRegion { mmap_size, mmap_offset, mmap_handle: file.as_raw_fd() };
        monitor.frontend.set_log_base(0, Some(region)).map_err(other)
    };
    assert!(!refused(|monitor| monitor.log(&Written::new(monitor.log_len())?)));
    assert!(!refused(|monitor| monitor.set_logging(true)), "the log may come later");
    assert!(refused(|monitor| monitor.log(&Written::new(monitor.log_len() - 1)?)), "too short");
    assert!(refused(|monitor| {
        let log = Written::new(4096)?;
        give(monitor, &log.file, 4097, 0)
    }));
    assert!(refused(|monitor| {
        let log = Written::new(4096)?;
        give(monitor, &log.file, monitor.log_len(), 4096)
    }));
    assert!(refused(|monitor| {
        let file = tempfile::tempfile()?;
        file.set_len(1 << 20)?;
        give(monitor, &file, 1 << 20, 0)
    }));
}

#[test]
fn who_is_at_work_elsewhere_is_not_hurt_by_a_wrong_place_of_a_ring_in_the_log() {
    let dir = tree();
    let mut guest = Guest::start(passthrough(dir.path()), options(), layout());
    guest.monitor.driver().init().expect("init");
    let written = Written::new(guest.monitor.log_len()).expect("a log");
    guest.monitor.log(&written).expect("it is logged");
    let base = guest.monitor.memory.iter().next().map(|region| region.as_ptr() as u64).expect("memory");
    for log_addr in [0, 1, guest.monitor.memory.last_addr().0, 1 << 62, u64::MAX - 1, u64::MAX] {
        let ring = &guest.monitor.drivers[1].ring;
        let config = vhost::VringConfigData {
            queue_max_size: ring.size,
            queue_size: ring.size,
            flags: 1,
            desc_table_addr: base + ring.table.0,
            avail_ring_addr: base + ring.avail().0,
            used_ring_addr: base + ring.used().0,
            log_addr: Some(log_addr),
        };
        guest.monitor.frontend.set_vring_addr(1, &config).expect("addresses");
        guest.monitor.driver().getattr(ROOT).expect("getattr");
    }
    guest.end();
}

#[test]
fn a_device_with_a_window_offers_no_log() {
    let dir = tree();
    for (window, offered) in [(0, true), (64 << 20, false)] {
        let layout = Layout { window: Maps::Exact, ..layout() };
        let mut guest = Guest::start(passthrough(dir.path()), Options { window, ..options() }, layout);
        let features = guest.monitor.frontend.get_features().expect("features");
        assert_eq!(features & LOG_ALL != 0, offered);
        let protocol = guest.monitor.frontend.get_protocol_features().expect("features");
        let log = vhost::vhost_user::message::VhostUserProtocolFeatures::LOG_SHMFD;
        assert_eq!(protocol.contains(log), offered);
        guest.end();
    }
}

#[test]
fn a_guest_that_is_being_moved_is_not_handed_over() {
    let dir = tree();
    let place = tempfile::tempdir().expect("directory");
    let listener = UnixListener::bind(place.path().join("socket")).expect("socket");
    let options = Options { tag: Some("test".into()), ..options() };
    let device = Device::new(passthrough(dir.path()), options).expect("device");
    let (sender, servers) = mpsc::channel();
    std::thread::spawn(move || sender.send(Server::accept(device, listener)));
    let stream = UnixStream::connect(place.path().join("socket")).expect("connect");
    let mut monitor = Monitor::start(stream, layout()).expect("monitor");
    let server = servers.recv().expect("a server").expect("a monitor");
    let written = Written::new(monitor.log_len()).expect("a log");
    monitor.log(&written).expect("it is logged");
    let handover = server.handover();
    let error = handover.begin().expect_err("it is being moved").to_string();
    assert!(error.contains("moved"), "{error}");
    monitor.driver().init().expect("it goes on");
    monitor.set_logging(false).expect("off");
    drop(monitor);
    server.wait().expect("a good end");
}
