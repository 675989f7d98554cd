//! A fake kernel: a session without root, mount or kernel, scripted by a test.
//!
//! ```
//! # use fusewire::{channel::FakeKernel, *};
//! # struct Hello;
//! # impl FileSystem for Hello {}
//! let kernel = FakeKernel::start(Hello).unwrap();
//! assert_eq!(kernel.lookup(NodeId::ROOT, c"nothing").unwrap_err(), Errno::NOSYS);
//! ```

use super::{
    layer::Layer,
    tasks::{Ready, Tasks},
};
use crate::{
    backing::Backings,
    fs::FileSystem,
    proto::{
        message::Message,
        negotiate::{Agreed, Bounds},
    },
    session::{Answered, Session, Slot, Stats},
    types::*,
};
use fusewire_abi::{self as abi, InHeader, InitFlags, Opcode};
use std::{
    collections::VecDeque,
    ffi::CStr,
    future::poll_fn,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Slots of a fake kernel: as many requests can be under way at once.
const SLOTS: usize = 64;

/// How long [`Ticket::wait`] waits, and the end of a session for its handlers: a test that hangs is worse than one that
/// fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// One request under way.
struct Request {
    bytes: Vec<u8>,
    ticket: Arc<Outcome>,
}

#[derive(Default)]
struct Outcome {
    answer: Mutex<Option<Result<Vec<u8>>>>,
    changed: Condvar,
}

impl Outcome {
    fn set(&self, answer: Result<Vec<u8>>) {
        lock(&self.answer).get_or_insert(answer);
        self.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What kernel and slots share.
#[derive(Default)]
struct Wire {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Request>,
    waiting: Vec<Waker>,
    closed: bool,
}

/// A request that was sent; its answer is waited for.
pub struct Ticket {
    /// The request's number: what an interrupt names.
    pub unique: u64,
    outcome: Arc<Outcome>,
}

impl Ticket {
    /// The answer's bytes without header, or its errno. `TIMEDOUT` after 30 seconds.
    pub fn wait(self) -> Result<Vec<u8>> {
        self.wait_for(PATIENCE)
    }

    /// The same with another limit.
    pub fn wait_for(&self, limit: Duration) -> Result<Vec<u8>> {
        let answer = lock(&self.outcome.answer);
        let (mut answer, _) = self
            .outcome
            .changed
            .wait_timeout_while(answer, limit, |answer| answer.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        answer.take().unwrap_or(Err(Errno::TIMEDOUT))
    }

    /// Is the answer there?
    pub fn is_answered(&self) -> bool {
        lock(&self.outcome.answer).is_some()
    }
}

/// How a fake kernel is to be.
#[derive(Clone, Copy, Debug)]
pub struct FakeKernelOptions {
    /// What it offers at INIT. Default: everything.
    pub offers: InitFlags,
    /// Its minor protocol version. Default: the newest.
    pub minor: u32,
    /// Bounds of the negotiation.
    pub bounds: Bounds,
}

impl Default for FakeKernelOptions {
    fn default() -> Self {
        Self {
            offers: InitFlags::all(),
            minor: abi::KERNEL_MINOR_VERSION,
            bounds: Bounds { default_permissions: true, ..Bounds::default() },
        }
    }
}

/// Plays the kernel's part for a filesystem. Requests are made by the caller's thread and served by one of its own.
pub struct FakeKernel<F: FileSystem> {
    session: Arc<Session<F>>,
    wire: Arc<Wire>,
    next: Mutex<u64>,
    caller: Mutex<Caller>,
    server: Option<JoinHandle<()>>,
}

impl<F: FileSystem> FakeKernel<F> {
    /// Mount, as it were: INIT has been answered when this returns. Its errors are those of the negotiation.
    pub fn start(fs: F) -> Result<Self> {
        Self::with(fs, FakeKernelOptions::default(), ())
    }

    /// The same, with these options and a layer around every slot.
    pub fn with<L: Layer>(fs: F, options: FakeKernelOptions, layer: L) -> Result<Self> {
        let init = init_request(&options);
        let message = Message::split(&init, InitFlags::empty())?;
        let (_, session) = Session::begin(fs, &message, options.bounds)?;
        let session = Arc::new(session.map_err(|_| Errno::PROTO)?);
        session.started(Backings::default());
        let wire = Arc::<Wire>::default();
        let server = std::thread::spawn({
            let (session, wire) = (session.clone(), wire.clone());
            move || serve(&session, &layer, &wire)
        });
        let caller = Mutex::new(Caller { uid: 0, gid: 0, pid: std::process::id() });
        Ok(Self { session, wire, next: Mutex::new(2), caller, server: Some(server) })
    }

    /// What was agreed on at INIT.
    pub fn agreed(&self) -> Agreed {
        self.session.agreed()
    }

    /// What was served so far.
    pub fn stats(&self) -> Stats {
        self.session.stats()
    }

    /// The filesystem.
    pub fn filesystem(&self) -> &F {
        self.session.filesystem()
    }

    /// Notifications the filesystem has sent, header included, in their order; waits up to `limit` for the next one.
    pub fn notification(&self, limit: Duration) -> Option<Vec<u8>> {
        self.session.notifications().next_within(limit)
    }

    /// From now on requests come from this caller.
    pub fn set_caller(&self, caller: Caller) {
        *lock(&self.caller) = caller;
    }

    /// Send a request: header made here, arguments and payload as given.
    pub fn send(&self, opcode: Opcode, node: u64, args: &[u8], payload: &[u8]) -> Ticket {
        self.send_raw(opcode as u32, node, 0, args, payload)
    }

    /// The same with any opcode, and with the last `extensions` times 8 bytes of the payload being extensions.
    pub fn send_raw(&self, opcode: u32, node: u64, extensions: u16, args: &[u8], payload: &[u8]) -> Ticket {
        let unique = {
            let mut next = lock(&self.next);
            *next += 2;
            *next
        };
        let Caller { uid, gid, pid } = *lock(&self.caller);
        let len = (size_of::<InHeader>() + args.len() + payload.len()) as u32;
        let header = InHeader {
            len,
            opcode,
            unique,
            nodeid: node,
            uid,
            gid,
            pid,
            total_extlen: extensions,
            padding: 0,
        };
        self.deliver(unique, [header.as_bytes(), args, payload].concat())
    }

    /// Deliver these very bytes, whatever they are. `unique` is the number they are expected to carry.
    pub fn deliver(&self, unique: u64, bytes: Vec<u8>) -> Ticket {
        let outcome = Arc::<Outcome>::default();
        let mut queue = lock(&self.wire.queue);
        if queue.closed {
            outcome.set(Err(Errno::NODEV));
        } else {
            queue.requests.push_back(Request { bytes, ticket: outcome.clone() });
            let waiting = queue.waiting.pop();
            drop(queue);
            if let Some(waker) = waiting {
                waker.wake();
            }
        }
        Ticket { unique, outcome }
    }

    /// Send a request whose arguments are a structure, and wait for the answer's bytes.
    pub fn call<A: IntoBytes + Immutable>(
        &self,
        opcode: Opcode,
        node: u64,
        args: &A,
        tail: &[u8],
    ) -> Result<Vec<u8>> {
        self.send(opcode, node, args.as_bytes(), tail).wait()
    }

    /// The caller of a request is interrupted.
    pub fn interrupt(&self, ticket: &Ticket) {
        let args = abi::InterruptIn { unique: ticket.unique };
        // No answer comes, unless to say «try again»: then nobody is there to be interrupted any more.
        drop(self.send(Opcode::Interrupt, 0, args.as_bytes(), &[]));
    }

    /// Resolve a name.
    pub fn lookup(&self, parent: NodeId, name: &CStr) -> Result<abi::EntryOut> {
        parse(&self.send(Opcode::Lookup, parent.raw(), &[], name.to_bytes_with_nul()).wait()?)
    }

    /// Read attributes.
    pub fn getattr(&self, node: NodeId) -> Result<abi::Attr> {
        let out: abi::AttrOut =
            parse(&self.call(Opcode::Getattr, node.raw(), &abi::GetattrIn::default(), &[])?)?;
        Ok(out.attr)
    }

    /// Drop lookup counts.
    pub fn forget(&self, node: NodeId, nlookup: u64) {
        drop(self.send(Opcode::Forget, node.raw(), abi::ForgetIn { nlookup }.as_bytes(), &[]));
    }

    /// Open a file.
    pub fn open(&self, node: NodeId, flags: u32) -> Result<abi::OpenOut> {
        parse(&self.call(Opcode::Open, node.raw(), &abi::OpenIn { flags, open_flags: 0 }, &[])?)
    }

    /// Make a file and open it.
    pub fn create(
        &self,
        parent: NodeId,
        name: &CStr,
        mode: u32,
        flags: u32,
    ) -> Result<(abi::EntryOut, abi::OpenOut)> {
        let args = abi::CreateIn { flags, mode: mode | 0o100000, umask: 0o022, open_flags: 0 };
        let bytes = self.call(Opcode::Create, parent.raw(), &args, name.to_bytes_with_nul())?;
        let (entry, rest) = abi::EntryOut::read_from_prefix(&bytes).map_err(|_| Errno::PROTO)?;
        Ok((entry, parse(rest)?))
    }

    /// Make a directory.
    pub fn mkdir(&self, parent: NodeId, name: &CStr, mode: u32) -> Result<abi::EntryOut> {
        let args = abi::MkdirIn { mode, umask: 0o022 };
        parse(&self.call(Opcode::Mkdir, parent.raw(), &args, name.to_bytes_with_nul())?)
    }

    /// Read bytes.
    pub fn read(&self, node: NodeId, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        self.call(Opcode::Read, node.raw(), &abi::ReadIn { fh, offset, size, ..Default::default() }, &[])
    }

    /// Write bytes.
    pub fn write(&self, node: NodeId, fh: u64, offset: u64, data: &[u8]) -> Result<u32> {
        let args = abi::WriteIn { fh, offset, size: data.len() as u32, ..Default::default() };
        let out: abi::WriteOut = parse(&self.call(Opcode::Write, node.raw(), &args, data)?)?;
        Ok(out.size)
    }

    /// Names in a directory, all of them, with its handle.
    pub fn readdir(&self, node: NodeId, fh: u64) -> Result<Vec<Vec<u8>>> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let args = abi::ReadIn { fh, offset, size: 4096, ..Default::default() };
            let bytes = self.call(Opcode::Readdir, node.raw(), &args, &[])?;
            if bytes.is_empty() {
                return Ok(names);
            }
            let mut rest = &bytes[..];
            while rest.len() >= abi::NAME_OFFSET {
                let (head, name, after) = abi::Dirent::split(rest).ok_or(Errno::PROTO)?;
                names.push(name.to_vec());
                (offset, rest) = (head.off, after);
            }
        }
    }

    /// Remove a name.
    pub fn unlink(&self, parent: NodeId, name: &CStr) -> Result<()> {
        self.send(Opcode::Unlink, parent.raw(), &[], name.to_bytes_with_nul()).wait().map(drop)
    }

    /// End of an open file.
    pub fn release(&self, node: NodeId, fh: u64) -> Result<()> {
        self.call(Opcode::Release, node.raw(), &abi::ReleaseIn { fh, ..Default::default() }, &[]).map(drop)
    }
}

impl<F: FileSystem> Drop for FakeKernel<F> {
    /// Unmount, as it were.
    fn drop(&mut self) {
        let waiting = {
            let mut queue = lock(&self.wire.queue);
            queue.closed = true;
            std::mem::take(&mut queue.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
        self.session.interrupt_all();
        if let Some(server) = self.server.take() {
            _ = server.join();
        }
        self.session.ended();
    }
}

/// The whole of an answer as one structure.
fn parse<T: FromBytes>(bytes: &[u8]) -> Result<T> {
    T::read_from_bytes(bytes).map_err(|_| Errno::PROTO)
}

fn init_request(options: &FakeKernelOptions) -> Vec<u8> {
    let bits = (options.offers | InitFlags::INIT_EXT).bits();
    let init = abi::InitIn {
        major: abi::KERNEL_VERSION,
        minor: options.minor,
        max_readahead: 128 << 10,
        flags: bits as u32,
        flags2: (bits >> 32) as u32,
        ..Default::default()
    };
    let len = (size_of::<InHeader>() + size_of_val(&init)) as u32;
    let header = InHeader { len, opcode: Opcode::Init as u32, unique: 2, ..Default::default() };
    [header.as_bytes(), init.as_bytes()].concat()
}

/// The server's thread.
fn serve<F: FileSystem, L: Layer>(session: &Session<F>, layer: &L, wire: &Arc<Wire>) {
    let thread = std::thread::current();
    let mut tasks = Tasks::new(Ready::new(move || thread.unpark()));
    for _ in 0..SLOTS {
        let mut slot = layer.wrap(LoopbackSlot::new(wire.clone(), session.agreed()));
        let id = tasks.spawn(async move { session.serve(&mut slot).await });
        tasks.poll(id);
    }
    let mut closed: Option<Instant> = None;
    while tasks.live() > 0 {
        tasks.poll_woken();
        if tasks.live() == 0 {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(100));
        if lock(&wire.queue).closed && closed.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            tracing::error!(handlers = tasks.live(), "handlers that do not end are dropped");
            return;
        }
    }
}

/// A slot of a fake kernel.
struct LoopbackSlot {
    wire: Arc<Wire>,
    agreed: Agreed,
    request: Option<Request>,
    area: Vec<u8>,
}

impl LoopbackSlot {
    fn new(wire: Arc<Wire>, agreed: Agreed) -> Self {
        Self { wire, agreed, request: None, area: vec![0; agreed.reply_area()] }
    }
}

impl Slot for LoopbackSlot {
    fn agreed(&self) -> Agreed {
        self.agreed
    }

    fn area(&mut self) -> &mut [u8] {
        &mut self.area
    }

    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])> {
        let wire = &self.wire;
        let request = poll_fn(|cx| {
            let mut queue = lock(&wire.queue);
            // A task may be polled without having been chosen by `deliver`. Were its waker to stay in the list, or to
            // stand there twice, a later request would wake a task that is at work already, and reach nobody.
            queue.waiting.retain(|waker| !waker.will_wake(cx.waker()));
            match queue.requests.pop_front() {
                Some(request) => Poll::Ready(Some(request)),
                None if queue.closed => Poll::Ready(None),
                None => {
                    queue.waiting.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await?;
        let request = self.request.insert(request);
        let message = Message::split(&request.bytes, self.agreed.flags).unwrap_or(Message::new(
            InHeader::default(),
            &[],
            &[],
        ));
        Some((message, &mut self.area))
    }

    async fn finish(&mut self, _unique: u64, answer: Answered) {
        let Some(request) = self.request.take() else { return };
        request.ticket.set(match answer.get() {
            Some(Ok(len)) => self.area.get(..len).map(<[u8]>::to_vec).ok_or(Errno::PROTO),
            Some(Err(errno)) => Err(errno),
            None => Ok(Vec::new()),
        });
    }
}
