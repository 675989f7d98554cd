//! A reader thread: reads requests and runs the tasks of its slots.

use super::{pool::Pool, slot::DevFuseSlot};
use crate::{
    channel::{
        layer::Layer,
        poll::{ANYWHERE, Board},
        tasks::{Ready, Tasks},
        watch::Status,
    },
    fs::FileSystem,
    limits,
    session::Session,
    sys::fork::NotInherited,
    types::Errno,
};
use fusewire_abi as abi;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, OwnedFd},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

/// How long handlers that still wait for something may take once the connection is gone.
const GRACE: Duration = Duration::from_secs(5);

/// How long a reader beside a ring waits after a FORGET: nobody waits for one, and those that come meanwhile are read in
/// one system call (BATCH_FORGET). An interrupt may be late by as much.
const FORGET_PAUSE: Duration = Duration::from_millis(2);

/// What a reader thread works with.
pub(super) struct Post {
    /// Its `/dev/fuse` descriptor.
    pub device: Arc<NotInherited>,
    /// Other threads read from the same descriptor: its mode must not be changed for one of them.
    pub shared: bool,
    /// Wakes it while it waits: an eventfd.
    pub wake: Arc<OwnedFd>,
    /// Where it tells what it is doing.
    pub status: Arc<Status>,
    /// Where it is told whether to poll.
    pub board: Option<Arc<Board>>,
    /// It may be sent to rest.
    pub spare: bool,
    /// Requests come over a ring: what is read here is FORGET and INTERRUPT.
    pub beside_ring: bool,
}

/// What the slots of one reader thread share.
#[derive(Debug)]
pub(super) struct Reader {
    device: Arc<NotInherited>,
    shared: bool,
    spare: bool,
    beside_ring: bool,
    /// What was read last was a FORGET.
    forgot: Cell<bool>,
    status: Arc<Status>,
    board: Option<Arc<Board>>,
    pool: Arc<Pool>,
    wake: Arc<OwnedFd>,
    /// The slot that reads, or was reading when it had to give way.
    turn: Cell<Option<usize>>,
    /// Slots that want to read.
    idle: RefCell<Vec<usize>>,
    /// Slots in all.
    slots: Cell<usize>,
    nonblocking: Cell<bool>,
    /// A slot that asks for a request may wait for one: nobody who was woken is waiting to be polled.
    may_read: Cell<bool>,
    /// Woken tasks went first the last time: a request that is there goes first this time.
    gave_way: Cell<bool>,
    closed: Cell<bool>,
}

impl Reader {
    pub(super) fn device(&self) -> &Arc<NotInherited> {
        &self.device
    }

    /// This has been read, of that thread.
    pub(super) fn received(&self, opcode: u32, caller: u32) {
        self.status.serves_for(caller);
        let is_forget = [abi::Opcode::Forget as u32, abi::Opcode::BatchForget as u32].contains(&opcode);
        self.forgot.set(self.beside_ring && is_forget);
    }

    /// Does slot `id` wait behind so many others that its turn will not come soon?
    pub(super) fn is_spare(&self, id: usize) -> bool {
        self.turn.get() != Some(id) && self.idle.borrow().len() > limits::SLOTS_KEPT
    }

    /// The next request into `room`, for slot `id`. `Pending`: another slot reads, or woken tasks want to run first.
    pub(super) fn receive(&self, id: usize, room: &mut [u8]) -> Poll<Option<usize>> {
        let reading = self.turn.get();
        if !self.closed.get() && (!self.may_read.get() || reading.is_some_and(|reading| reading != id)) {
            let mut idle = self.idle.borrow_mut();
            // It may be here already: a waker that was kept is free to wake a slot that waits for nothing.
            if reading != Some(id) && !idle.contains(&id) {
                idle.push(id);
            }
            return Poll::Pending;
        }
        self.turn.set(Some(id));
        let received = self.read(room);
        if received.is_ready() {
            self.turn.set(None);
        }
        received
    }

    fn read(&self, room: &mut [u8]) -> Poll<Option<usize>> {
        let mut may_poll = !self.shared;
        loop {
            if self.closed.get() {
                return Poll::Ready(None);
            }
            let waiting = self.slots.get() > self.idle.borrow().len() + 1;
            if (waiting || self.shared) && !self.wait_readable() {
                return Poll::Pending;
            }
            // Before it polls or rests: who serves nothing is not stuck.
            self.status.reads();
            if std::mem::take(&mut may_poll)
                && !waiting
                && let Some(n) = self.poll(room)
            {
                self.status.serves();
                self.pool.watch().awaken();
                return Poll::Ready(Some(n));
            }
            if self.nonblocking.get() != (waiting || self.shared) {
                self.set_nonblocking(waiting || self.shared);
            }
            if self.spare && !waiting && !self.pool.rest_if_idle() {
                self.closed.set(true);
                return Poll::Ready(None);
            }
            if self.forgot.take() {
                std::thread::sleep(FORGET_PAUSE);
            }
            let read = rustix::io::read(&self.device, &mut *room);
            self.status.serves();
            match read {
                Ok(n) => {
                    self.pool.watch().awaken();
                    return Poll::Ready(Some(n));
                }
                Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => {}
                Err(errno) => {
                    self.pool.close(errno);
                    self.closed.set(true);
                }
            }
        }
    }

    /// Look for a request again and again, for as long as that is wanted. `None`: there was none, or something else is the matter.
    fn poll(&self, room: &mut [u8]) -> Option<usize> {
        let board = self.board.as_ref()?;
        let limit = board.spin(ANYWHERE)?;
        if !self.nonblocking.get() {
            self.set_nonblocking(true);
        }
        let begin = Instant::now();
        loop {
            let read = rustix::io::read(&self.device, &mut *room);
            let spent = begin.elapsed();
            if read != Err(Errno::AGAIN) || spent >= limit {
                board.polled(spent, read.is_ok());
                return read.ok();
            }
            // Whoever waits for this CPU is let go first.
            std::thread::yield_now();
        }
    }

    /// Wait for a request, or for a task to be woken. `false`: a task was, it goes first.
    fn wait_readable(&self) -> bool {
        let mut fds = [PollFd::new(&*self.device, PollFlags::IN), PollFd::new(&*self.wake, PollFlags::IN)];
        self.status.reads();
        let waited = poll(&mut fds, None);
        self.status.serves();
        if waited.is_err() {
            return true;
        }
        let (request, woken) = (!fds[0].revents().is_empty(), fds[1].revents().contains(PollFlags::IN));
        // In turns: a task that wakes itself each time it is polled would keep every request out.
        let give_way = woken && !(request && self.gave_way.get());
        self.gave_way.set(give_way);
        if give_way {
            // What goes on now may block as well as a request may.
            self.pool.watch().awaken();
            drain(&self.wake);
        }
        !give_way
    }

    /// Every slot has a request that waits for something: wait until one of them is woken, or for the end of the connection.
    fn wait_for_slots(&self) {
        let mut fds =
            [PollFd::new(&*self.device, PollFlags::empty()), PollFd::new(&*self.wake, PollFlags::IN)];
        _ = poll(&mut fds, None);
        if fds[0].revents().contains(PollFlags::ERR) {
            let ended = rustix::io::read(&self.device, &mut vec![0; abi::MIN_READ_BUFFER]);
            self.pool.close(ended.err().unwrap_or(Errno::NODEV));
            self.closed.set(true);
        }
        drain(&self.wake);
    }

    fn set_nonblocking(&self, on: bool) {
        let changed = fcntl_getfl(&self.device).and_then(|flags| {
            let flags = if on { flags | OFlags::NONBLOCK } else { flags - OFlags::NONBLOCK };
            fcntl_setfl(&self.device, flags)
        });
        match changed {
            Ok(()) => self.nonblocking.set(on),
            Err(errno) => tracing::error!(%errno, "cannot change how /dev/fuse is read"),
        }
    }
}

fn drain(wake: &OwnedFd) {
    let mut count = [0; 8];
    // Nonblocking: nothing there is nothing lost.
    _ = rustix::io::read(wake, &mut count);
}

/// The body of a reader thread: ends when the connection does.
pub(super) fn run<F: FileSystem, L: Layer>(session: &Session<F>, layer: &L, pool: &Arc<Pool>, post: Post) {
    post.status.begins();
    let ready = Ready::new({
        let wake = post.wake.clone();
        move || _ = rustix::io::write(&wake, &1u64.to_ne_bytes())
    });
    let reader = Rc::new(Reader {
        device: post.device,
        shared: post.shared,
        spare: post.spare,
        beside_ring: post.beside_ring,
        forgot: Cell::new(false),
        status: post.status,
        board: post.board,
        pool: pool.clone(),
        wake: post.wake,
        turn: Cell::new(None),
        idle: RefCell::default(),
        slots: Cell::new(0),
        nonblocking: Cell::new(false),
        may_read: Cell::new(false),
        gave_way: Cell::new(false),
        closed: Cell::new(false),
    });
    let mut tasks = Tasks::new(ready);
    while !reader.closed.get() {
        // All of them, before one that is done with its request waits for the next and keeps the others from being polled.
        reader.may_read.set(false);
        tasks.poll_woken();
        reader.may_read.set(true);
        let turn = reader.turn.get().or_else(|| reader.idle.borrow_mut().pop());
        match turn {
            Some(id) => tasks.poll(id),
            None if tasks.live() < limits::SLOTS_PER_READER => {
                let mut slot =
                    layer.wrap(DevFuseSlot::new(reader.clone(), tasks.next_id(), session.agreed()));
                reader.slots.set(reader.slots.get() + 1);
                let id = tasks.spawn(async move { session.serve(&mut slot).await });
                tasks.poll(id);
            }
            None => reader.wait_for_slots(),
        }
    }
    finish(session, &reader, &mut tasks);
    reader.status.ends();
}

/// The connection is gone: tell handlers that still wait, and let them end.
fn finish<F: FileSystem>(session: &Session<F>, reader: &Reader, tasks: &mut Tasks<'_>) {
    let deadline = Instant::now() + GRACE;
    session.interrupt_for_good();
    loop {
        tasks.poll_woken();
        let idle: Vec<usize> = reader.idle.take();
        idle.iter().chain(reader.turn.take().iter()).for_each(|&id| tasks.poll(id));
        if tasks.live() == 0 {
            return;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tracing::warn!(handlers = tasks.live(), "handlers that did not end are given up");
            return;
        }
        wait_for_wake(&reader.wake, left);
    }
}

fn wait_for_wake(wake: &OwnedFd, limit: Duration) {
    let limit = rustix::event::Timespec::try_from(limit).ok();
    _ = poll(&mut [PollFd::new(&wake.as_fd(), PollFlags::IN)], limit.as_ref());
    drain(wake);
}
