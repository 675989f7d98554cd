//! A guest that begins anew while requests of before are under way.

mod support;

use fusewire::{
    Attr, Config, Context, Entry, FileSystem, NodeId, Opened, Result, Started,
    op::{Create, Getattr, Read, Readlink},
    reply::Sink,
};
use fusewire_fs::passthrough::{self, Passthrough};
use fusewire_vhost::{Device, Keeper, Options, kit::Layout};
use std::{
    fs, io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};
use support::{Guest, Hanging, Hung};

const ROOT: u64 = 1;
const SOON: Duration = Duration::from_secs(10);

/// Of each session another one, whose number its root has. READ hangs, READLINK waits in its slot.
struct Numbered {
    number: u64,
    /// What waits goes on.
    ready: Arc<AtomicBool>,
    hanging: Hanging,
    below: Option<Passthrough>,
}

/// Makes them, over a directory if one is given.
fn numbered(dir: Option<&Path>) -> (impl Fn() -> io::Result<Numbered> + Send + Sync + 'static, Hung) {
    let place = tempfile::tempdir().expect("directory");
    let pipe = place.path().join("pipe");
    let (hanging, hung) = Hanging::over(&pipe);
    let (dir, numbers) = (dir.map(Path::to_owned), Arc::new(AtomicU64::new(1)));
    let ready = Arc::new(AtomicBool::new(false));
    let make = move || {
        let options = passthrough::Options { forward: passthrough::Forward::Off, ..Default::default() };
        let below = dir.as_ref().map(|dir| Passthrough::new(dir, options)).transpose()?;
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        Ok(Numbered { number, ready: ready.clone(), hanging: hanging.clone(), below })
    };
    (make, hung)
}

impl FileSystem for Numbered {
    fn init(&self, config: &mut Config) -> Result<()> {
        self.below.as_ref().map_or(Ok(()), |below| below.init(config))
    }

    fn started(&self, session: &Started) {
        self.below.iter().for_each(|below| below.started(session));
    }

    fn abandoned(&self) {
        self.below.iter().for_each(Passthrough::abandoned);
    }

    fn destroyed(&self) {
        self.below.iter().for_each(Passthrough::destroyed);
    }

    async fn getattr(&self, _cx: &Context, _op: Getattr) -> Result<Attr> {
        Ok(Attr { ino: Some(self.number), ..Attr::directory() })
    }

    async fn create(&self, cx: &Context, op: Create<'_>) -> Result<(Entry, Opened)> {
        match &self.below {
            Some(below) => below.create(cx, op).await,
            None => Ok((Entry::new(NodeId::new(2), Attr::file(0)), Opened::default())),
        }
    }

    async fn readlink(&self, _cx: &Context, _op: Readlink, _out: &mut Sink<'_>) -> Result<()> {
        // Not even an interrupt ends it.
        std::future::poll_fn(|task| match self.ready.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => {
                let waker = task.waker().clone();
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(20));
                    waker.wake();
                });
                Poll::Pending
            }
        })
        .await;
        Ok(())
    }

    async fn read(&self, cx: &Context, op: Read, out: &mut Sink<'_>) -> Result<()> {
        self.hanging.read(cx, op, out).await
    }
}

fn options(spares: usize) -> Options {
    Options { queues: 2, spares, ..Options::default() }
}

fn layout() -> Layout {
    Layout { queues: 2, ..Layout::default() }
}

#[test]
fn what_is_sent_to_a_session_is_served_by_no_other() {
    let (make, hung) = numbered(None);
    let mut guest = Guest::start(make, options(0), layout());
    let drivers = &mut guest.monitor.drivers;
    drivers[1].init().expect("init");
    assert_eq!(drivers[2].getattr(ROOT).map(|attr| attr.ino), Ok(1));
    // The thread of the queue is stuck, and finds more when it comes back: all of it was sent after the second beginning.
    let late = drivers[2].send_read(ROOT, 0, 0, 4);
    std::thread::sleep(Duration::from_millis(50));
    drivers[1].init().expect("init");
    let args = fusewire_abi::GetattrIn::default();
    let opcode = fusewire_abi::Opcode::Getattr as u32;
    let asked: Vec<u16> = (0..5)
        .map(|_| drivers[2].send(opcode, ROOT, &[zerocopy::IntoBytes::as_bytes(&args)], (0, 0)))
        .collect();
    hung.release(1);
    assert_eq!(drivers[2].receive(SOON).expect("answer").frame, late);
    for _ in asked {
        let reply = drivers[2].receive(SOON).expect("answer");
        let out: fusewire_abi::AttrOut =
            zerocopy::FromBytes::read_from_bytes(&drivers[2].body(reply).expect("attributes"))
                .expect("attributes");
        assert_eq!(out.attr.ino, 2);
    }
    guest.end();
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

#[test]
fn what_a_guest_had_open_goes_when_it_begins_anew_although_a_request_is_stuck() {
    let dir = tempfile::tempdir().expect("directory");
    let (make, hung) = numbered(Some(dir.path()));
    let mut guest = Guest::start(make, options(0), layout());
    let drivers = &mut guest.monitor.drivers;
    drivers[1].init().expect("init");
    drivers[2].send_read(ROOT, 0, 0, 4);
    std::thread::sleep(Duration::from_millis(50));
    let before = descriptors();
    for round in 0..3 {
        for file in 0..50 {
            let name = std::ffi::CString::new(format!("{round} {file}")).expect("name");
            drivers[1].create(ROOT, &name).expect("create");
        }
        assert!(descriptors() >= before + 50);
        drivers[1].init().expect("init");
        let began = Instant::now();
        // The directory of a filesystem whose request is stuck stays open.
        while descriptors() > before + 10 {
            assert!(began.elapsed() < SOON, "{} descriptors more", descriptors() - before);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    hung.release(1);
    assert!(drivers[2].receive(SOON).is_some());
    guest.end();
}

#[test]
fn a_thread_that_waits_for_requests_of_before_stands_in_for_nobody() {
    let (make, hung) = numbered(None);
    let ready = make().expect("a filesystem").ready;
    let mut guest = Guest::start(make, options(4), layout());
    let drivers = &mut guest.monitor.drivers;
    drivers[1].init().expect("init");
    // The queue's own thread is stuck, and the one that stands in has a request that waits.
    drivers[2].send_read(ROOT, 0, 0, 4);
    std::thread::sleep(Duration::from_millis(50));
    drivers[2].getattr(ROOT).expect("somebody stands in");
    drivers[2].send(fusewire_abi::Opcode::Readlink as u32, ROOT, &[], (0, 100));
    std::thread::sleep(Duration::from_millis(50));
    drivers[1].init().expect("init");
    // Twice: who is free again may be sent once more.
    for _ in 0..2 {
        let args = fusewire_abi::GetattrIn::default();
        let opcode = fusewire_abi::Opcode::Getattr as u32;
        let asked = drivers[2].send(opcode, ROOT, &[zerocopy::IntoBytes::as_bytes(&args)], (0, 0));
        assert_eq!(drivers[2].receive(SOON).map(|reply| reply.frame), Some(asked), "nobody serves the queue");
    }
    ready.store(true, Ordering::Release);
    hung.release(1);
    for _ in 0..2 {
        assert!(drivers[2].receive(SOON).is_some());
    }
    assert!(drivers[2].getattr(ROOT).is_ok());
    guest.end();
}

/// Is told of sessions, the first of which takes long to be noted.
struct Slow(Arc<Mutex<Vec<u64>>>);

impl Keeper<Numbered> for Slow {
    fn began(&self, fs: &Numbered, _beginning: &[u8]) -> io::Result<()> {
        self.0.lock().expect("sessions").push(fs.number);
        if fs.number == 1 {
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    }

    fn ended(&self) {}

    fn again(&self) -> io::Result<Option<(Vec<u8>, Numbered)>> {
        Ok(None)
    }

    fn save(&self, _fs: &Numbered, _beginning: &[u8]) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn load(&self, _state: &[u8]) -> io::Result<(Vec<u8>, Numbered)> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[test]
fn of_two_beginnings_at_once_the_one_that_is_noted_last_is_served() {
    let (make, _hung) = numbered(None);
    let noted = Arc::<Mutex<Vec<u64>>>::default();
    let tag = Some("test".into());
    let device = Device::kept(make, Options { tag, ..options(0) }, Slow(noted.clone())).expect("device");
    let mut guest = Guest::of(device, layout());
    let [_, one, other] = &mut guest.monitor.drivers[..] else { panic!("three queues") };
    std::thread::scope(|scope| {
        scope.spawn(|| one.init().expect("init"));
        std::thread::sleep(Duration::from_millis(100));
        scope.spawn(|| other.init().expect("init"));
    });
    assert_eq!(*noted.lock().expect("sessions"), [1, 2]);
    for driver in [one, other] {
        assert_eq!(driver.getattr(ROOT).map(|attr| attr.ino), Ok(2));
    }
    guest.end();
}
