//! A laboratory: a filesystem whose files each behave in a way of their own, and what it takes to mount it for a test.

#![allow(dead_code)] // Each test uses a part.

use fusewire::{
    channel::layer::Layer,
    mount::{MountError, Unmount},
    reply::*,
    server::{Ended, Options, Server, ServerHandle},
    *,
};
use rustix::thread::Pid;
use std::{
    fs::File,
    future::poll_fn,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

/// What is found in the root, and how reading it goes. The node of a file is its place here, after the root's.
const FILES: [&str; 22] = [
    "plain",          // at once
    "timer",          // awaits a timer of 20 ms
    "thread",         // awaits another thread
    "stale",          // is woken once more after it has ended
    "sleep2",         // blocks for 2 ms
    "stuck",          // blocks for two seconds
    "spin",           // computes for a second
    "late",           // awaits 500 ms, then blocks for two seconds
    "yield",          // gives way again and again until it is released
    "cancel",         // awaits the interrupt
    "block",          // blocks, on a thread of its own, until the interrupt
    "panic",          // panics
    "panic-later",    // awaits, then panics
    "panic-blocking", // panics on a thread of its own
    "wrong-error",    // answers an error that is none
    "never",          // never ends
    "notify",         // tells the kernel to forget the node being read
    "events",         // becomes readable when released
    "direct",         // is kept in a lower file that bypasses the page cache
    "spawn",          // starts a thread
    "busy",           // computes for half a millisecond
    "gate",           // awaits that somebody writes to it
];

/// A file whose content the kernel keeps.
pub const CACHED: NodeId = NodeId::new(100);

static CLOCK: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap()
});

/// Wakes whoever it is sent, now and once more a moment later.
static WAKERS: LazyLock<mpsc::Sender<(Waker, Arc<AtomicBool>)>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel::<(Waker, Arc<AtomicBool>)>();
    std::thread::spawn(move || {
        while let Ok((waker, done)) = receiver.recv() {
            done.store(true, Ordering::Release);
            waker.wake_by_ref();
            std::thread::yield_now();
            waker.wake();
        }
    });
    sender
});

#[derive(Default)]
pub struct Lab {
    /// Take `/dev/fuse` away once it is mounted, so that no reader can have a descriptor of its own.
    pub hide_device: bool,
    pub begun: AtomicU64,
    pub served: AtomicU64,
    /// References that lookups have handed out, and that the kernel has given back.
    pub looked_up: AtomicU64,
    pub forgotten: AtomicU64,
    pub cancelled: AtomicU64,
    pub poller: AtomicU64,
    pub release: AtomicBool,
    /// Who waits at the gate; nobody once it is open.
    pub gate: Mutex<Option<Vec<Waker>>>,
    pub ended: Arc<AtomicUsize>,
    pub alive: Arc<()>,
    pub retrievals: AtomicU64,
    pub retrieved: Mutex<Option<(u64, u64, Vec<u8>)>>,
    pub sizes: Mutex<Vec<usize>>,
    pub threads: Mutex<Vec<Pid>>,
    pub lower: Option<File>,
    /// Features it does without.
    pub without: InitFlags,
    pub notifier: Mutex<Option<notify::Notifier>>,
}

fn node_of(name: &[u8]) -> Option<NodeId> {
    if name == b"cached" {
        return Some(CACHED);
    }
    let place = FILES.iter().position(|file| file.as_bytes() == name)?;
    Some(NodeId::new(place as u64 + 2))
}

fn name_of(node: NodeId) -> &'static str {
    FILES.get(node.raw() as usize - 2).copied().unwrap_or("cached")
}

fn attr(node: NodeId) -> Attr {
    let attr = match node {
        NodeId::ROOT => Attr::directory().with_perm(0o755),
        CACHED => Attr::file(16384),
        _ => Attr::file(1 << 40).with_perm(0o644),
    };
    attr.with_ttl(Duration::ZERO)
}

/// What a file holds: in every eight bytes, where they are.
pub fn pattern(offset: u64, len: usize) -> Vec<u8> {
    (offset / 8..(offset + len as u64) / 8).flat_map(|i| (i * 8).to_le_bytes()).collect()
}

async fn wait(time: Duration) {
    let timer = {
        let _clock = CLOCK.enter();
        tokio::time::sleep(time)
    };
    timer.await;
}

/// Wait to be woken by another thread; `again`: it wakes once more when this is over.
async fn woken(again: bool) {
    let done = Arc::new(AtomicBool::new(false));
    poll_fn(|cx| {
        if done.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let (waker, done) = (cx.waker().clone(), done.clone());
        if again {
            WAKERS.send((waker, done)).unwrap();
        } else {
            std::thread::spawn(move || {
                done.store(true, Ordering::Release);
                waker.wake();
            });
        }
        Poll::Pending
    })
    .await;
}

fn spin(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

impl Lab {
    /// Remember how large a request was, if it was.
    fn sized(&self, size: usize) {
        if size > 4096 {
            self.sizes.lock().unwrap().push(size);
        }
    }

    /// Behave as the file does; answers nothing.
    async fn behave(&self, cx: &Context, node: NodeId) -> Result<()> {
        const MS: Duration = Duration::from_millis(1);
        match name_of(node) {
            "timer" => wait(20 * MS).await,
            "thread" => woken(false).await,
            "stale" => woken(true).await,
            "sleep2" => std::thread::sleep(2 * MS),
            "stuck" => std::thread::sleep(2000 * MS),
            "spin" => spin(1000 * MS),
            "busy" => spin(MS / 2),
            "late" => {
                wait(500 * MS).await;
                std::thread::sleep(2000 * MS);
            }
            "yield" => {
                poll_fn(|cx| {
                    if self.release.load(Ordering::Acquire) {
                        return Poll::Ready(());
                    }
                    cx.waker().wake_by_ref();
                    Poll::Pending
                })
                .await;
            }
            "gate" => {
                poll_fn(|cx| match &mut *self.gate.lock().unwrap() {
                    Some(waiting) => {
                        waiting.push(cx.waker().clone());
                        Poll::Pending
                    }
                    None => Poll::Ready(()),
                })
                .await;
            }
            "cancel" => {
                cx.cancelled().await;
                self.cancelled.fetch_add(1, Ordering::AcqRel);
                return Err(Errno::INTR);
            }
            "block" => {
                let blocked = cx.blocking(|| rustix::event::poll(&mut [], None)).await;
                assert_eq!(blocked, Err(Errno::INTR));
                self.cancelled.fetch_add(1, Ordering::AcqRel);
                return Err(Errno::INTR);
            }
            "panic" => panic!("as the test wants it"),
            "panic-later" => {
                wait(MS).await;
                panic!("as the test wants it");
            }
            "panic-blocking" => cx.blocking(|| panic!("as the test wants it")).await,
            "wrong-error" => return Err(Errno::from_raw_os_error(512)),
            "never" => std::future::pending().await,
            "notify" => {
                let notifier = self.notifier.lock().unwrap().clone().unwrap();
                notifier.inval_inode(node, 0, 0)?;
                notifier.inval_entry(NodeId::ROOT, c"notify")?;
            }
            "spawn" => {
                let (sender, tid) = mpsc::channel();
                std::thread::spawn(move || {
                    sender.send(rustix::thread::gettid()).unwrap();
                    std::thread::sleep(Duration::from_secs(20));
                });
                self.threads.lock().unwrap().push(tid.recv().unwrap());
            }
            _ => {}
        }
        Ok(())
    }
}

impl FileSystem for Lab {
    fn init(&self, config: &mut Config) -> Result<()> {
        config.without(self.without);
        Ok(())
    }

    fn started(&self, session: &Started) {
        *self.notifier.lock().unwrap() = Some(session.notifier.clone());
        if self.hide_device {
            let hidden = Command::new("mount").args(["--bind", "/dev/null", "/dev/fuse"]).status();
            assert!(hidden.unwrap().success());
        }
    }

    fn destroyed(&self) {
        self.ended.fetch_add(1, Ordering::AcqRel);
    }

    async fn lookup(&self, _: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        let node = node_of(op.name.as_bytes()).ok_or(Errno::NOENT)?;
        self.looked_up.fetch_add(1, Ordering::AcqRel);
        Ok(Entry::new(node, attr(node)))
    }

    async fn getattr(&self, _: &Context, op: op::Getattr) -> Result<Attr> {
        Ok(attr(op.node))
    }

    async fn open(&self, _: &Context, op: op::Open) -> Result<Opened> {
        let opened = Opened::new(Handle(0));
        Ok(if op.node == CACHED { opened } else { opened.with_flags(FopenFlags::DIRECT_IO) })
    }

    async fn read(&self, cx: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        self.begun.fetch_add(1, Ordering::AcqRel);
        if name_of(op.node) == "direct" {
            let lower = self.lower.as_ref().ok_or(Errno::IO)?;
            out.fill(|room| rustix::io::pread(lower, room, op.offset))?;
            return Ok(());
        }
        self.sized(op.size as usize);
        self.behave(cx, op.node).await?;
        out.put(&pattern(op.offset, op.size as usize));
        self.served.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn write(&self, _: &Context, op: op::Write<'_>) -> Result<u32> {
        self.sized(op.data.len());
        if name_of(op.node) == "gate" {
            self.gate.lock().unwrap().take().into_iter().flatten().for_each(Waker::wake);
        }
        if name_of(op.node) == "direct" {
            let lower = self.lower.as_ref().ok_or(Errno::IO)?;
            return Ok(op.data.to_file(lower, op.offset).await? as u32);
        }
        if op.data.to_vec() != pattern(op.offset, op.data.len()) {
            return Err(Errno::ILSEQ);
        }
        Ok(op.data.len() as u32)
    }

    async fn poll(&self, _: &Context, op: op::Poll) -> Result<u32> {
        if op.schedule {
            self.poller.store(op.kernel_handle, Ordering::Release);
        }
        Ok(if self.release.load(Ordering::Acquire) { 1 } else { 0 })
    }

    fn forget(&self, op: op::Forget) {
        self.forgotten.fetch_add(op.count, Ordering::AcqRel);
    }

    async fn retrieved(&self, _: &Context, op: op::Retrieved<'_>) {
        self.retrievals.fetch_add(1, Ordering::AcqRel);
        *self.retrieved.lock().unwrap() = Some((op.unique, op.offset, op.data.to_vec()));
    }
}

/// A mounted laboratory. Dropping it aborts whatever still goes on: callers are threads of this very process, which could
/// not end while the kernel waits for an answer to them.
pub struct Mounted {
    pub fs: Arc<Lab>,
    pub path: PathBuf,
    server: Option<Server>,
    handle: ServerHandle,
    _dir: tempfile::TempDir,
}

/// Shared with the test.
struct Shared(Arc<Lab>);

macro_rules! shared { ($($method:ident($op:ty) -> $reply:ty;)*) => {
    impl FileSystem for Shared {
        fn init(&self, config: &mut Config) -> Result<()> {
            self.0.init(config)
        }
        fn forget(&self, op: op::Forget) {
            self.0.forget(op);
        }
        fn started(&self, session: &Started) {
            self.0.started(session);
        }
        fn destroyed(&self) {
            self.0.destroyed();
        }
        async fn read(&self, cx: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
            self.0.read(cx, op, out).await
        }
        async fn retrieved(&self, cx: &Context, op: op::Retrieved<'_>) {
            self.0.retrieved(cx, op).await;
        }
        $(async fn $method(&self, cx: &Context, op: $op) -> Result<$reply> {
            self.0.$method(cx, op).await
        })*
    }
}; }

shared! {
    lookup(op::Lookup<'_>) -> Entry;
    getattr(op::Getattr) -> Attr;
    open(op::Open) -> Opened;
    write(op::Write<'_>) -> u32;
    poll(op::Poll) -> u32;
}

impl Mounted {
    pub fn with(options: Options) -> Self {
        Self::start(Lab::default(), options)
    }

    pub fn start(lab: Lab, options: Options) -> Self {
        Self::start_with(lab, options, ())
    }

    /// The same with a layer around every slot.
    pub fn start_with(lab: Lab, options: Options, layer: impl Layer) -> Self {
        LazyLock::force(&CLOCK);
        LazyLock::force(&WAKERS);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mnt");
        std::fs::create_dir(&path).unwrap();
        let fs = Arc::new(lab);
        let server = Server::mount_with(Shared(fs.clone()), &path, &options, layer).unwrap();
        let handle = server.handle();
        WATCHED.lock().unwrap().push(handle.clone());
        const FUSE: i64 = 0x6573_5546;
        assert_eq!(rustix::fs::statfs(&path).unwrap().f_type as i64, FUSE, "it is not mounted");
        Self { fs, path, server: Some(server), handle, _dir: dir }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// Requests of one kind so far.
    pub fn count(&self, opcode: abi::Opcode) -> u64 {
        let stats = self.handle.stats();
        stats.operations.iter().find(|op| op.opcode == opcode).map_or(0, |op| op.requests)
    }

    pub fn join(mut self) -> Ended {
        let ended = self.server.take().unwrap().join().unwrap();
        assert_eq!(self.fs.ended.load(Ordering::Acquire), 1, "the filesystem is told once that it is over");
        ended
    }

    /// Unmount, which must find nobody at work, and wait for the end.
    pub fn end(self) {
        unmount_idle(&self.handle);
        assert_eq!(self.join(), Ended::Unmounted);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        _ = self.handle.abort();
        _ = self.handle.unmount(Unmount::Lazy);
        WATCHED.lock().unwrap().retain(|watched| watched.connection() != self.handle.connection());
    }
}

/// Unmount what nobody uses. Who asks for the root's attributes, so that waiting requests are set going over a ring, may be at it
/// for a moment still.
#[track_caller]
pub fn unmount_idle(handle: &ServerHandle) {
    crate::callers::wait_until(|| match handle.unmount(Unmount::IfIdle) {
        Err(MountError::Busy { .. }) => false,
        done => {
            done.unwrap();
            true
        }
    });
}

static WATCHED: Mutex<Vec<ServerHandle>> = Mutex::new(Vec::new());

/// Where the kernel lists connections.
pub const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// How long one test may take.
const LIMIT: Duration = Duration::from_secs(90);

fn watchdog() {
    std::thread::sleep(LIMIT);
    eprintln!("watchdog: aborting what is mounted");
    WATCHED.lock().unwrap().iter().for_each(|handle| _ = handle.abort());
    std::thread::sleep(Duration::from_secs(15));
    std::process::abort();
}

/// Tests that run in a process and a mount namespace of their own.
#[macro_export]
macro_rules! real { ($($(#[$doc:meta])* fn $name:ident() $body:block)*) => {
    $($(#[$doc])* #[test] fn $name() {
        if $crate::lab::in_namespace(module_path!(), stringify!($name)) {
            $body
        }
    })*
}; }

/// Run this very test in a mount namespace of its own, as its environment says then.
pub fn in_namespace(module: &str, name: &str) -> bool {
    const INSIDE: &str = "FUSEWIRE_TEST_INSIDE";
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if std::env::var_os(INSIDE).is_some() {
        std::thread::spawn(watchdog);
        // For those who abort as an administrator would. It may be there already.
        let fusectl = Path::new(CONNECTIONS);
        _ = rustix::mount::mount("none", fusectl, "fusectl", rustix::mount::MountFlags::empty(), c"");
        return true;
    }
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: mounting needs root and /dev/fuse");
        return false;
    }
    if let Some(missing) = crate::missing() {
        eprintln!("skipped: {missing}");
        return false;
    }
    let path = match module.split_once("::") {
        Some((_, module)) => format!("{module}::{name}"),
        None => name.to_owned(),
    };
    // They measure times, so they must not disturb each other. To nextest, whose tests are processes, its configuration says so.
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args([&path, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare(1)");
    assert!(status.success(), "inside of its namespace the test failed: {status}");
    false
}
