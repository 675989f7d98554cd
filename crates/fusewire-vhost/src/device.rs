//! The device: what the monitor asks of it, and the session of its guest.

use crate::{
    dirty::Dirty,
    handover::{Given, Handed},
    keeper::{Beginning, Keeper},
    limits::{GRACE, MAX_QUEUES, SLOTS, SPARES, WINDOW, cpus},
    queue::Queue,
    spare::{Lookout, Spares},
    transfer::Transfer,
    window::{Monitor, SessionWindow},
    worker::waker,
};
use fusewire::{
    backing::Backings,
    channel::{
        poll::{Board, Poll},
        watch::Watch,
    },
    fs::FileSystem,
    limits as protocol_limits,
    proto::{message::Message, negotiate::Bounds},
    session::{Session, Stats},
    types::{Errno, Result},
    window::Window,
};
use fusewire_abi::{
    InitFlags, InitOut,
    virtio::{VIRTIO_FS_CONFIG_BASE_SIZE, VirtioFsConfig},
};
use std::{
    fs::File,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};
use vhost::vhost_user::{
    Backend,
    message::{
        VhostTransferStateDirection, VhostTransferStatePhase, VhostUserProtocolFeatures,
        VhostUserShMemConfig, VhostUserVirtioFeatures,
    },
};
use virtio_bindings::bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use zerocopy::IntoBytes;

/// What a device is to be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Request queues, at most [`MAX_QUEUES`]. Linux uses more than one since 6.12, one for each CPU.
    pub queues: u16,
    /// The name that guests mount it by, at most 36 bytes. `None` leaves it to the monitor, as QEMU has it; User Mode Linux and
    /// QEMU's generic device ask for it here.
    pub tag: Option<String>,
    /// Largest read and write, bytes. Guests may have less, depending on the size of their queues.
    pub max_write: u32,
    /// Length of the DAX window, bytes: 0, which is none, or a multiple of [`WINDOW`]. The monitor must know of shared memory regions.
    pub window: u64,
    /// How many threads may stand in for others that are stuck in a system call, for all queues together. Where all are, requests wait.
    pub spares: usize,
    /// How many requests of one thread may be waiting for something at once, at least 1.
    pub slots: usize,
    /// The process serves this guest alone. Where it does not, an operator is told of monitors that could end it.
    pub alone: bool,
    /// How the threads of request queues wait. A thread that polls looks at its queue, and the guest need not tell it of requests.
    pub poll: Poll,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: cpus().min(8) as u16,
            tag: None,
            max_write: protocol_limits::MAX_WRITE,
            window: 0,
            spares: SPARES,
            slots: SLOTS,
            alone: true,
            poll: Poll::default(),
        }
    }
}

/// The session that a guest has, if it has one.
struct Current<F: FileSystem> {
    generation: u64,
    session: Option<Arc<Session<F>>>,
    beginning: Beginning,
    window: Option<Arc<SessionWindow>>,
    /// Closes windows of sessions before.
    closing: Option<JoinHandle<()>>,
}

/// A session that is to take the place of another.
type Next<F> = (Arc<Session<F>>, Option<Arc<SessionWindow>>, Beginning);

/// What all threads of a device share.
pub(crate) struct Shared<F: FileSystem> {
    make: Box<dyn Fn() -> io::Result<F> + Send + Sync>,
    keeper: Option<Box<dyn Keeper<F>>>,
    options: Options,
    pub queues: Vec<Arc<Queue>>,
    /// How the thread of each queue waits.
    pub boards: Vec<Arc<Board>>,
    pub spares: Spares,
    watch: Arc<Watch>,
    /// What is written into the guest's memory is logged there.
    pub dirty: Arc<Dirty>,
    pub monitor: Arc<Monitor>,
    current: Mutex<Current<F>>,
    /// Whoever begins a session; the next one waits.
    beginning: Mutex<()>,
    /// Locked while a session takes the place of another, and the keeper is told. Not for long: the monitor waits for it.
    changing: Mutex<()>,
    /// The monitor is: what its guest has is left to whoever serves it next.
    gone: AtomicBool,
    /// The number of the session, to be looked at cheaply.
    generation: Arc<AtomicU64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F: FileSystem> Shared<F> {
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Is there no other guest?
    pub(crate) fn is_alone(&self) -> bool {
        self.options.alone
    }

    /// How many slots a thread may have.
    pub(crate) fn slots(&self) -> usize {
        self.options.slots.max(1)
    }

    /// The session that there is, joined by the calling thread.
    pub(crate) fn join(&self) -> (u64, Option<Arc<Session<F>>>) {
        let current = lock(&self.current);
        current.session.iter().for_each(|session| session.join());
        (current.generation, current.session.clone())
    }

    /// Is the monitor gone? Its guest may come back, for what it has here.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// A guest's INIT: the session that there was is over.
    pub(crate) fn begin(&self, init: &Message<'_>) -> Result<InitOut> {
        let _turn = lock(&self.beginning);
        let before = self.generation();
        let fs = (self.make)().map_err(|error| {
            tracing::error!(%error, "the filesystem cannot be made");
            Errno::from_io_error(&error).unwrap_or(Errno::IO)
        })?;
        let bytes = [init.header.as_bytes(), init.args, init.payload].concat();
        self.begin_with(fs, &bytes, (before, None))
    }

    /// A session with this filesystem, in place of the one `before`. `agreed`: it was begun elsewhere, and the guest goes on with what it was
    /// answered then. With `beginning` locked.
    fn begin_with(&self, fs: F, init: &[u8], (before, agreed): (u64, Option<&Beginning>)) -> Result<InitOut> {
        let bounds = Bounds {
            max_write: self.options.max_write,
            max_pages_limit: u16::try_from(self.options.max_write / 4096).unwrap_or(u16::MAX),
            // The guest's driver insists on it.
            default_permissions: true,
            ring: false,
        };
        let message = Message::split(init, InitFlags::empty())?;
        let (out, session) = Session::begin(fs, &message, bounds)?;
        let beginning = Beginning { init: init.to_vec(), out: out.as_bytes().to_vec() };
        if agreed.is_some_and(|agreed| !agreed.agrees(&out)) {
            tracing::error!(
                "the guest began with other options than this daemon has: its session cannot go on"
            );
            return Err(Errno::PROTO);
        }
        if let Ok(session) = session {
            // Linux has no queue for them.
            session.without_notifications();
            let window = self.monitor.is_there().then(|| Arc::new(SessionWindow::new(self.monitor.clone())));
            // Before anything of this session is mapped.
            self.close_window();
            let offered = window.clone().map_or_else(Window::default, |window| Window::new(window));
            session.started_with(Backings::default(), offered);
            session.join();
            self.follow_on(before, (Arc::new(session), window, beginning), agreed.is_none())?;
        }
        Ok(out)
    }

    /// Have a session take the place of the one `before`. `is_new`: the keeper is to be told. Fails if that one has ended meanwhile.
    fn follow_on(&self, before: u64, next: Next<F>, is_new: bool) -> Result<()> {
        let _changing = lock(&self.changing);
        let (session, _, beginning) = &next;
        let gone = self.is_gone();
        if self.generation() != before && !gone {
            tracing::warn!("the guest was reset while it began a session");
            session.leave();
            return Err(Errno::IO);
        }
        let began = self.keeper.as_ref().filter(|_| is_new);
        if let Some(Err(error)) = began.map(|keeper| keeper.began(session.filesystem(), &beginning.pack())) {
            tracing::warn!(%error, "the session will not outlive this process");
        }
        if gone {
            // What the guest is answered holds, for whoever serves it next.
            session.leave();
        } else {
            self.replace(Some(next));
        }
        Ok(())
    }

    /// A ring is about to be served. If it was before, by another process, go on with the session that there was.
    pub(crate) fn resume_if_known(&self, queue: &Queue, used: u16) {
        // A driver begins with empty rings.
        let is_new = used == 0 && !queue.has_left();
        let Some(keeper) = self.keeper.as_ref().filter(|_| !is_new && self.is_idle()) else { return };
        let resumed = keeper.again().and_then(|again| match again {
            Some((beginning, fs)) => self.go_on(&beginning, fs).map(|()| true),
            None => Ok(false),
        });
        match resumed {
            Ok(true) => tracing::info!("goes on with the guest's session"),
            Ok(false) => {
                tracing::warn!("the guest has a session that nothing is known of: it has to mount anew")
            }
            Err(error) => tracing::error!(%error, "the guest's session cannot go on: it has to mount anew"),
        }
    }

    fn is_idle(&self) -> bool {
        lock(&self.current).session.is_none()
    }

    /// Nothing must take the place of a session that is being served.
    pub(crate) fn check_idle(&self) -> io::Result<()> {
        match self.is_idle() {
            true => Ok(()),
            false => Err(io::Error::other("the guest has a session here: no other can be loaded")),
        }
    }

    fn go_on(&self, beginning: &[u8], fs: F) -> io::Result<()> {
        let beginning = Beginning::unpack(beginning).ok_or(io::ErrorKind::InvalidData)?;
        // The monitor waits, and must not wait for the guest.
        let _turn = match self.beginning.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::ResourceBusy.into()),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Ok(turn) => turn,
        };
        let agreed = (self.generation(), Some(&beginning));
        self.begin_with(fs, &beginning.init, agreed).map(drop).map_err(io::Error::from)
    }

    /// The session as bytes; none at all where there is no session.
    pub(crate) fn save(&self) -> io::Result<Vec<u8>> {
        let (session, beginning) = {
            let current = lock(&self.current);
            (current.session.clone(), current.beginning.pack())
        };
        match (&self.keeper, session) {
            (Some(keeper), Some(session)) => keeper.save(session.filesystem(), &beginning),
            (Some(_), None) => Ok(Vec::new()),
            (None, _) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The other way.
    pub(crate) fn load(&self, state: &[u8]) -> io::Result<()> {
        let keeper = self.keeper.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        if state.is_empty() {
            return Ok(());
        }
        self.check_idle()?;
        let (beginning, fs) = keeper.load(state)?;
        self.go_on(&beginning, fs)
    }

    /// Those who wait for something do not any more.
    pub(crate) fn interrupt(&self) {
        if let Some(session) = &lock(&self.current).session {
            session.interrupt_all();
        }
    }

    /// The session for another process; nothing where there is none.
    pub(crate) fn hand_over(&self) -> io::Result<Handed> {
        let refused = |why| Err(io::Error::new(io::ErrorKind::Unsupported, why));
        if self.options.window > 0 {
            return refused("what is mapped in a DAX window (--dax-window) cannot be handed over");
        }
        let (session, beginning) = {
            let current = lock(&self.current);
            (current.session.clone(), current.beginning.pack())
        };
        match (&self.keeper, session) {
            (_, None) => Ok(Handed::default()),
            (Some(keeper), Some(session)) => keeper.hand_over(session.filesystem(), &beginning),
            (None, Some(_)) => refused("this device's filesystem cannot be handed over"),
        }
    }

    /// The other way.
    pub(crate) fn take_over(&self, session: Given) -> io::Result<()> {
        if session.bytes.is_empty() {
            return Ok(());
        }
        let keeper = self.keeper.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let (beginning, fs) = keeper.take_over(session)?;
        self.go_on(&beginning, fs).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("the guest has begun with options that this daemon does not have: {error}"),
            )
        })
    }

    /// A guest's DESTROY, or the end of the guest. Waits for the monitor.
    pub(crate) fn end(&self) {
        self.close_window();
        self.finish().inspect(|window| window.close());
    }

    /// There is no session any more. Its window, if it was not closed.
    fn finish(&self) -> Option<Arc<SessionWindow>> {
        let _changing = lock(&self.changing);
        let window = self.replace(None);
        self.keeper.iter().for_each(|keeper| keeper.ended());
        window
    }

    /// The end of the guest as the monitor has it, which waits for us.
    fn end_by_monitor(&self) {
        let window = self.finish();
        // Asking the monitor to unmap what it may have unmapped already does no harm, but has to wait: until the next session begins, whose
        // ranges may be the same.
        let Some(window) = window else { return };
        let mut current = lock(&self.current);
        let before = current.closing.take();
        let close = std::thread::Builder::new().name("fusewire-window".into()).spawn(move || {
            _ = before.map(JoinHandle::join);
            window.close();
        });
        match close {
            Ok(thread) => current.closing = Some(thread),
            Err(error) => {
                tracing::warn!(%error, "what is mapped in the DAX window stays until the monitor unmaps it");
            }
        }
    }

    /// The monitor is gone. It may come back with the same guest: what is kept of that stays.
    pub(crate) fn gone(&self) {
        self.monitor.gone();
        self.gone.store(true, Ordering::Release);
        self.close_window();
        let _changing = lock(&self.changing);
        self.replace(None);
    }

    /// Nothing of any session is mapped afterwards.
    fn close_window(&self) {
        let (window, closing) = {
            let mut current = lock(&self.current);
            (current.window.take(), current.closing.take())
        };
        _ = closing.map(JoinHandle::join);
        if let Some(window) = window {
            window.close();
        }
    }

    /// With `changing` locked. The window of the session before, which is to be closed.
    fn replace(&self, next: Option<Next<F>>) -> Option<Arc<SessionWindow>> {
        let (session, window, beginning) = match next {
            Some((session, window, beginning)) => (Some(session), window, beginning),
            None => (None, None, Beginning::default()),
        };
        let (last, window) = {
            let mut current = lock(&self.current);
            current.generation += 1;
            self.generation.store(current.generation, Ordering::Release);
            current.beginning = beginning;
            let window = std::mem::replace(&mut current.window, window);
            (std::mem::replace(&mut current.session, session), window)
        };
        // What the guest sends once it is answered is not for the one before.
        self.queues.iter().for_each(|queue| queue.settle());
        if let Some(last) = last {
            last.interrupt_for_good();
            last.leave();
        }
        self.queues.iter().for_each(|queue| queue.wake());
        window
    }
}

/// How the thread of each queue is to wait. Nobody waits for what is in the first: those of FORGET.
fn boards(options: &Options) -> Vec<Arc<Board>> {
    let requests = (0..options.queues).map(|_| options.poll);
    std::iter::once(Poll::Off).chain(requests).map(|poll| Arc::new(Board::anywhere(poll))).collect()
}

/// A virtio-fs device. [`Server`](crate::Server) has a monitor connect to it.
pub struct Device<F: FileSystem> {
    pub(crate) shared: Arc<Shared<F>>,
    watch: Option<JoinHandle<()>>,
    transfer: Transfer,
    pub(crate) memory: GuestMemoryAtomic<GuestMemoryMmap>,
}

impl<F: FileSystem> std::fmt::Debug for Device<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl<F: FileSystem> Device<F> {
    /// A device for one guest. `make` makes its filesystem, whenever the guest mounts it: what a guest that is gone has open or
    /// knows goes with its filesystem.
    pub fn new(
        make: impl Fn() -> io::Result<F> + Send + Sync + 'static,
        options: Options,
    ) -> io::Result<Self> {
        Self::open(make, options, None)
    }

    /// The same, and its sessions outlive the process, or move to another machine.
    pub fn kept(
        make: impl Fn() -> io::Result<F> + Send + Sync + 'static,
        options: Options,
        keeper: impl Keeper<F> + 'static,
    ) -> io::Result<Self> {
        Self::open(make, options, Some(Box::new(keeper)))
    }

    fn open(
        make: impl Fn() -> io::Result<F> + Send + Sync + 'static,
        options: Options,
        keeper: Option<Box<dyn Keeper<F>>>,
    ) -> io::Result<Self> {
        let wrong = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if options.queues == 0 || options.queues > MAX_QUEUES {
            return wrong(format!("{} request queues: from 1 to {MAX_QUEUES} are possible", options.queues));
        }
        if let Some(tag) = &options.tag
            && (tag.is_empty() || tag.len() > 36 || tag.contains('\0'))
        {
            return wrong(format!("the tag {tag:?} must have 1 to 36 bytes, without NUL"));
        }
        if !options.window.is_multiple_of(WINDOW) {
            return wrong(format!(
                "a DAX window of {} bytes: it must be a multiple of {WINDOW}",
                options.window
            ));
        }
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let (watch, generation) = (Arc::<Watch>::default(), Arc::new(AtomicU64::new(1)));
        let dirty = Arc::<Dirty>::default();
        let shared = || (watch.clone(), generation.clone(), dirty.clone());
        let queues = (0..=options.queues)
            .map(|index| Ok(Arc::new(Queue::new(index, waker()?, shared(), memory.clone()))))
            .collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            make: Box::new(make),
            keeper,
            spares: Spares::new(queues.len(), options.spares),
            boards: boards(&options),
            queues,
            watch,
            dirty,
            monitor: Arc::new(Monitor::new(options.window)),
            current: Mutex::new(Current {
                generation: 1,
                session: None,
                beginning: Beginning::default(),
                window: None,
                closing: None,
            }),
            beginning: Mutex::default(),
            changing: Mutex::default(),
            gone: AtomicBool::new(false),
            generation,
            options,
        });
        let watch = std::thread::Builder::new().name("fusewire-watch".into()).spawn({
            let shared = shared.clone();
            move || shared.watch.clone().run(&mut Lookout::new(shared))
        })?;
        Ok(Self { shared, watch: Some(watch), memory, transfer: Transfer::default() })
    }

    /// What the guest's session has served so far; nothing while there is none.
    pub fn stats(&self) -> Option<Stats> {
        lock(&self.shared.current).session.as_ref().map(|session| session.stats())
    }

    /// How many requests were taken from each queue, the one for FORGET first.
    pub fn taken(&self) -> Vec<u64> {
        self.shared.queues.iter().map(|queue| queue.taken()).collect()
    }

    /// Configuration space, as the guest reads it.
    fn config(&self) -> VirtioFsConfig {
        let mut config = VirtioFsConfig {
            num_request_queues: u32::from(self.shared.options.queues).into(),
            ..Default::default()
        };
        let tag = self.shared.options.tag.as_deref().unwrap_or_default().as_bytes();
        config.tag[..tag.len()].copy_from_slice(tag);
        config
    }
}

impl<F: FileSystem> Drop for Device<F> {
    fn drop(&mut self) {
        self.shared.gone();
        self.shared.watch.close();
        _ = self.watch.take().map(JoinHandle::join);
        self.shared.spares.close();
    }
}

/// What the monitor asks of it; see `handler.rs`.
impl<F: FileSystem> Device<F> {
    pub(crate) fn features(&self) -> u64 {
        let features = 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        match self.shared.options.window {
            0 => features | VhostUserVirtioFeatures::LOG_ALL.bits(),
            // What is mapped in a window is not moved, and a monitor that is not offered this does not begin.
            _ => features,
        }
    }

    /// What is written into the guest's memory from now on is logged, or not.
    pub(crate) fn log(&self, on: bool) {
        self.shared.dirty.switch(on);
        // Who has seen that it is not has come to an end then.
        self.shared.queues.iter().for_each(|queue| queue.settle());
    }

    pub(crate) fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let features = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::RESET_DEVICE;
        let window = VhostUserProtocolFeatures::SHMEM
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::BACKEND_SEND_FD;
        let features = match self.shared.options.window {
            0 => features | VhostUserProtocolFeatures::LOG_SHMFD,
            _ => features | window,
        };
        let features = match self.shared.keeper {
            // What is mapped in a window is not moved.
            Some(_) if self.shared.options.window == 0 => features | VhostUserProtocolFeatures::DEVICE_STATE,
            _ => features,
        };
        match self.shared.options.tag {
            // The monitor asks for all of the configuration then.
            Some(_) => features | VhostUserProtocolFeatures::CONFIG,
            None => features,
        }
    }

    pub(crate) fn reset_device(&self) {
        self.shared.end_by_monitor();
    }

    pub(crate) fn set_backend_req_fd(&self, backend: Backend) {
        if self.shared.options.window > 0 {
            self.shared.monitor.connected(backend);
        }
    }

    pub(crate) fn get_shmem_config(&self) -> VhostUserShMemConfig {
        match self.shared.options.window {
            0 => VhostUserShMemConfig::default(),
            size => VhostUserShMemConfig::new(1, &[size]),
        }
    }

    pub(crate) fn set_device_state_fd(
        &self,
        direction: VhostTransferStateDirection,
        phase: VhostTransferStatePhase,
        file: File,
    ) -> io::Result<()> {
        let VhostTransferStatePhase::STOPPED = phase;
        self.transfer.begin(self.shared.clone(), direction, file)
    }

    /// The monitor is gone, or goes.
    pub(crate) fn abandon_transfer(&self) {
        self.transfer.abandon();
    }

    pub(crate) fn check_device_state(&self) -> io::Result<()> {
        self.transfer.end()
    }

    pub(crate) fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = self.config();
        let bytes = config.as_bytes();
        debug_assert!(bytes.len() >= VIRTIO_FS_CONFIG_BASE_SIZE);
        let end = u64::from(offset) + u64::from(size);
        match usize::try_from(end).ok().and_then(|end| bytes.get(offset as usize..end)) {
            Some(part) => part.to_vec(),
            None => Vec::new(),
        }
    }

    /// These queues take nothing more: wait for what they have taken, but not for long, however many they are.
    pub(crate) fn stop(&self, queues: &[Arc<Queue>]) {
        // Whoever waits for a lock would wait for ever. Again and again: what was taken may only be about to begin.
        let session = lock(&self.shared.current).session.clone();
        let deadline = Instant::now() + GRACE;
        let interrupt = || session.iter().for_each(|session| session.interrupt_all());
        queues.iter().for_each(|queue| queue.stop(deadline, interrupt));
    }
}
