//! A queue: where requests are taken from and answers put, by whichever thread serves it.

use crate::{
    chain::{Fault, Request},
    dirty::Dirty,
    inflight::{Left, Track},
    sys::Memory,
};
use fusewire::{
    channel::watch::{Status, Watch},
    proto::negotiate::Agreed,
    session::Seldom,
    types::Errno,
};
use std::{
    collections::VecDeque,
    fs::File,
    os::fd::OwnedFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use vhost_user_backend::{VringMutex, VringState, VringT};
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

/// How often requests are interrupted while they are waited for.
const INTERVAL: Duration = Duration::from_millis(20);

/// No address.
const NOWHERE: u64 = u64::MAX;

/// Parts of a used ring: its flags, its index, its entries; behind these stands from which request on the device wants to be told.
const FLAGS: (u64, u64) = (0, 2);
const INDEX: (u64, u64) = (2, 2);
const ENTRIES: u64 = 4;
const ENTRY: u64 = 8;

/// The locked ring of a queue.
type State = VringState<GuestMemoryAtomic<GuestMemoryMmap>>;

/// What the queues of a device share: the watch, the number of the session, and where it is logged what they write.
pub(crate) type Common = (Arc<Watch>, Arc<AtomicU64>, Arc<Dirty>);

/// One queue of a device.
pub(crate) struct Queue {
    /// Its number.
    pub index: u16,
    /// Wakes its thread: an eventfd.
    pub wake: OwnedFd,
    /// Its thread was woken, and has not heard that yet.
    called: AtomicBool,
    /// What its thread is doing.
    pub status: Arc<Status>,
    watch: Arc<Watch>,
    /// The number of the session that there is.
    generation: Arc<AtomicU64>,
    vring: OnceLock<VringMutex>,
    memory: GuestMemoryAtomic<GuestMemoryMmap>,
    dirty: Arc<Dirty>,
    /// Where the used ring lies in the log of what is written, as the monitor says; `NOWHERE`: where it lies in the guest's memory.
    /// Written to with the ring locked.
    logged: AtomicU64,
    /// The driver broke its rules: nothing is taken until the device is reset.
    broken: AtomicBool,
    /// The guest was found to have an event index, since the queue was stopped last. One that gives it up without that kicks more often
    /// than it has to, and that is all.
    has_index: AtomicBool,
    /// Grows whenever the queue is stopped: what was taken before is not put into it any more.
    epoch: AtomicU64,
    in_flight: AtomicUsize,
    /// Somebody waits for `in_flight` to be 0.
    stopping: AtomicBool,
    emptied: (Mutex<()>, Condvar),
    taken: AtomicU64,
    /// How often its thread has looked.
    turns: AtomicU64,
    /// Another process is about to take it over: those who wait for something ask again there.
    leaving: AtomicBool,
    /// Locked within the ring.
    kept: Mutex<Kept>,
    /// What the guest does wrong, and what it does not get.
    no_requests: Seldom,
    refused: Seldom,
    lost: Seldom,
    untold: Seldom,
    /// There is something to keep: most monitors do not ask for it, and their guests need not pay for the lock.
    keeps: AtomicBool,
}

/// What outlives this process, and what is left from the one before it.
#[derive(Debug, Default)]
struct Kept {
    track: Option<Track>,
    left: VecDeque<Left>,
}

/// What became of an attempt to take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Here it is.
    Request,
    /// There is none.
    Nothing,
}

/// What a look at a queue has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// There are requests.
    Requests,
    /// There are none.
    Nothing,
    /// It is not to be served at present.
    Stopped,
    /// Its thread was woken for something else.
    Called,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("index", &self.index).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Put an answer into the used ring, and have it noted that it is there.
fn give_back(state: &mut State, kept: Option<&Kept>, head: u16, len: u32) -> Result<(), virtio_queue::Error> {
    let track = kept.and_then(|kept| kept.track.as_ref());
    track.iter().for_each(|track| track.answered(head, len));
    state.add_used(head, len)?;
    track.iter().for_each(|track| track.put(head, state.get_queue().next_used()));
    Ok(())
}

/// Heads of the chains that the driver has added to a ring since `used` of them were answered; as many as it may have at once.
fn waiting(queue: &virtio_queue::Queue, used: u16, memory: &Memory) -> Vec<u16> {
    let added = queue.avail_idx(&**memory, Ordering::Acquire).map_or(0, |added| added.0.wrapping_sub(used));
    let place = |i: u16| queue.avail_ring() + 4 + 2 * u64::from(used.wrapping_add(i) % queue.size());
    let head = |i| memory.read_obj::<u16>(GuestAddress(place(i))).unwrap_or(u16::MAX);
    (0..added.min(queue.size())).map(head).collect()
}

/// The next chain of a ring, if there is one.
///
/// # Errors
/// If the driver broke its rules. That it says there is one, and the place where it says which is not in its memory, is one of them.
fn next_chain<'a>(
    queue: &mut virtio_queue::Queue,
    memory: &'a Memory,
) -> Result<Option<DescriptorChain<&'a GuestMemoryMmap>>, virtio_queue::Error> {
    if let Some(chain) = queue.iter(&**memory)?.next() {
        return Ok(Some(chain));
    }
    if queue.avail_idx(&**memory, Ordering::Acquire)?.0 == queue.next_avail() {
        return Ok(None);
    }
    // It has come just now, or cannot be read at all.
    let chain = queue.iter(&**memory)?.next();
    chain.map(Some).ok_or(virtio_queue::Error::InvalidAvailRingIndex)
}

impl Queue {
    pub(crate) fn new(
        index: u16,
        wake: OwnedFd,
        (watch, generation, dirty): Common,
        memory: GuestMemoryAtomic<GuestMemoryMmap>,
    ) -> Self {
        Self {
            index,
            wake,
            called: AtomicBool::new(false),
            status: Arc::default(),
            watch,
            generation,
            vring: OnceLock::new(),
            memory,
            dirty,
            logged: AtomicU64::new(NOWHERE),
            broken: AtomicBool::new(false),
            has_index: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            emptied: Default::default(),
            taken: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            kept: Mutex::default(),
            no_requests: Seldom::new(),
            refused: Seldom::new(),
            lost: Seldom::new(),
            untold: Seldom::new(),
            keeps: AtomicBool::new(false),
        }
    }

    /// What is under way is noted there from now on.
    pub(crate) fn track(&self, track: Option<Track>) {
        let mut kept = lock(&self.kept);
        self.keeps.store(track.is_some(), Ordering::Release);
        *kept = Kept { track, left: VecDeque::new() };
    }

    /// What is kept, if anything is.
    fn kept(&self) -> Option<MutexGuard<'_, Kept>> {
        self.keeps.load(Ordering::Acquire).then(|| lock(&self.kept))
    }

    /// The ring is about to be served: see what another process has left under way. Those come before what is new.
    pub(crate) fn recover(&self) {
        let Some(vring) = self.vring.get() else { return };
        let Ok(used) = vring.queue_used_idx() else { return };
        let mut state = vring.get_mut();
        let mut kept = lock(&self.kept);
        let Some(track) = &kept.track else { return };
        let left = track.recover(
            state.get_queue().size(),
            used,
            &waiting(state.get_queue(), used, &self.memory.memory()),
        );
        // What was taken is in the used ring or is left.
        state.get_queue_mut().set_next_avail(used.wrapping_add(left.len() as u16));
        if !left.is_empty() {
            let answered = left.iter().filter(|left| left.answered.is_some()).count();
            tracing::info!(queue = self.index, requests = left.len(), answered, "requests were under way");
        }
        kept.left = left.into();
    }

    /// Is something left from the process before this one?
    pub(crate) fn has_left(&self) -> bool {
        !lock(&self.kept).left.is_empty()
    }

    /// The ring itself, which is known once it is used first.
    pub(crate) fn attach(&self, vring: &VringMutex) {
        self.vring.get_or_init(|| vring.clone());
    }

    /// Its thread has looked for requests, and heeded whatever it was told before.
    pub(crate) fn turned(&self) {
        self.turns.fetch_add(1, Ordering::Release);
    }

    /// How often it has.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Acquire)
    }

    /// Another process is about to take it over, or is not any more.
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Release);
    }

    /// Is it?
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// How many requests are under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// What is under way and nobody is at work on.
    pub(crate) fn left(&self) -> Vec<Left> {
        lock(&self.kept).left.iter().copied().collect()
    }

    /// The other way, as another process has it.
    pub(crate) fn set_left(&self, left: Vec<Left>) {
        let mut kept = lock(&self.kept);
        self.keeps.store(kept.track.is_some() || !left.is_empty(), Ordering::Release);
        kept.left = left.into();
    }

    /// The memory where it is noted what is under way, and where that lies.
    pub(crate) fn region(&self) -> Option<(File, [u64; 4])> {
        lock(&self.kept).track.as_ref().and_then(Track::region)
    }

    /// How many requests were taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Wake its thread, if it sleeps or polls.
    pub(crate) fn wake(&self) {
        self.called.store(true, Ordering::Release);
        _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Is this the session that there is?
    pub(crate) fn is_of(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    /// Wait for those who are taking a request for the session before: from here on, no request is taken for that one.
    pub(crate) fn settle(&self) {
        drop(self.vring.get().map(|vring| vring.get_mut()));
    }

    /// Its thread was woken, and looks now what for.
    pub(crate) fn hear(&self) {
        _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        // After that: who wakes it between the two has done before that what it is woken for, and left the descriptor readable.
        self.called.swap(false, Ordering::AcqRel);
    }

    /// Has anything come that the guest need not tell of?
    pub(crate) fn look(&self) -> Look {
        if self.called.load(Ordering::Relaxed) {
            return Look::Called;
        }
        let Some(vring) = self.vring.get() else { return Look::Stopped };
        let state = vring.get_ref();
        let queue = state.get_queue();
        if !state.is_enabled() || !queue.ready() || self.broken.load(Ordering::Relaxed) {
            return Look::Stopped;
        }
        match queue.avail_idx(&*self.memory.memory(), Ordering::Acquire) {
            Ok(index) if index.0 == queue.next_avail() => Look::Nothing,
            Ok(_) => Look::Requests,
            Err(_) => Look::Stopped,
        }
    }

    /// Take the next request and read it. What is no request at all goes back at once, and what cannot be served is answered. There is
    /// none for a session that is over.
    pub(crate) fn take(&self, request: &mut Request, (agreed, generation): (Agreed, u64)) -> Taken {
        loop {
            let memory = self.memory.memory();
            let Some(found) = self.pop(request, &memory, generation) else { return Taken::Nothing };
            match found.and_then(|()| request.read(agreed)) {
                Ok(()) => {
                    self.watch.awaken();
                    self.taken.fetch_add(1, Ordering::Relaxed);
                    return Taken::Request;
                }
                Err(Fault::Chain) => {
                    if let Some(times) = self.no_requests.happened() {
                        tracing::warn!(
                            queue = self.index,
                            times,
                            "the guest sent descriptors that are no request"
                        );
                    }
                    self.finish(request, |_| 0);
                }
                Err(Fault::Request(errno)) => {
                    if let Some(times) = self.refused.happened() {
                        tracing::warn!(queue = self.index, header = ?request.header, %errno, times, "request refused");
                    }
                    self.finish(request, |request| request.answer(Err(errno)));
                }
            }
            self.signal();
        }
    }

    fn pop(&self, request: &mut Request, memory: &Memory, generation: u64) -> Option<Result<(), Fault>> {
        let vring = self.vring.get()?;
        let chain = {
            let mut state = vring.get_mut();
            // With the ring locked: see `settle`.
            if !self.is_of(generation) {
                return None;
            }
            if !state.is_enabled() || !state.get_queue().ready() || self.broken.load(Ordering::Relaxed) {
                return None;
            }
            let mut kept = self.kept();
            while let Some(left) = kept.as_mut().and_then(|kept| kept.left.pop_front()) {
                match left.answered {
                    // It is only to be given back.
                    Some(len) => {
                        self.give_back(&mut state, kept.as_deref(), left.head, len);
                        _ = state.signal_used_queue();
                    }
                    None => {
                        request.epoch = self.epoch.load(Ordering::Relaxed);
                        self.in_flight.fetch_add(1, Ordering::Relaxed);
                        let queue = state.get_queue();
                        let table = (GuestAddress(queue.desc_table()), queue.size());
                        return Some(request.take_again(left.head, table, memory));
                    }
                }
            }
            match next_chain(state.get_queue_mut(), memory) {
                Ok(Some(chain)) => {
                    request.epoch = self.epoch.load(Ordering::Relaxed);
                    self.in_flight.fetch_add(1, Ordering::Relaxed);
                    let track = kept.as_ref().and_then(|kept| kept.track.as_ref());
                    track.iter().for_each(|track| track.taken(chain.head_index()));
                    chain
                }
                Ok(None) => return None,
                Err(error) => {
                    self.broken.store(true, Ordering::Relaxed);
                    tracing::error!(
                        queue = self.index,
                        %error,
                        "the guest broke the rules of the queue; it is stopped until the guest resets the device"
                    );
                    return None;
                }
            }
        };
        Some(request.take(chain, memory))
    }

    /// Give a request back to the guest: `answer` puts its answer into the guest's memory and says how long it is. If the queue was
    /// stopped since the request was taken, neither happens: that memory may be anybody's by now.
    /// The guest is not told yet: [`signal`](Self::signal).
    pub(crate) fn finish(&self, request: &mut Request, answer: impl FnOnce(&Request) -> u32) {
        if let Some(vring) = self.vring.get() {
            // Held until the answer is in the ring: whoever stops the queue waits for it.
            let mut state = vring.get_mut();
            if request.epoch == self.epoch.load(Ordering::Relaxed) {
                let len = answer(request);
                self.mark(request, len);
                self.give_back(&mut state, self.kept().as_deref(), request.head, len);
            } else {
                request.failed = true;
                self.mark(request, 0);
            }
        }
        request.end();
        self.is_over();
    }

    /// A request that has waited and was not carried out stays under way, for whoever serves the queue next.
    pub(crate) fn leave(&self, request: &mut Request) {
        request.end();
        if let Some(vring) = self.vring.get() {
            let _state = vring.get_mut();
            if request.epoch == self.epoch.load(Ordering::Relaxed) {
                let mut kept = lock(&self.kept);
                self.keeps.store(true, Ordering::Release);
                kept.left.push_back(Left { head: request.head, answered: None });
            }
        }
        self.is_over();
    }

    /// One request less is under way here.
    fn is_over(&self) {
        let last = self.in_flight.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.stopping.load(Ordering::Acquire) {
            drop(lock(&self.emptied.0));
            self.emptied.1.notify_all();
        }
    }

    /// With the ring locked, see [`give_back`]; what is written is logged.
    fn give_back(&self, state: &mut State, kept: Option<&Kept>, head: u16, len: u32) {
        if let Err(error) = give_back(state, kept, head, len) {
            self.lost(&error);
        }
        if self.dirty.is_on() {
            let queue = state.get_queue();
            let last = u64::from(queue.next_used().wrapping_sub(1) % queue.size());
            self.mark_used(queue, &[INDEX, (ENTRIES + ENTRY * last, ENTRY)]);
        }
    }

    /// With the ring locked: so much of the request's answer was written.
    fn mark(&self, request: &Request, len: u32) {
        if self.dirty.is_on() {
            self.dirty.with(|log| request.mark(len, log));
        }
    }

    /// With the ring locked: parts of its used ring were written to.
    fn mark_used(&self, queue: &virtio_queue::Queue, parts: &[(u64, u64)]) {
        let base = match self.logged.load(Ordering::Relaxed) {
            NOWHERE => queue.used_ring(),
            there => there,
        };
        self.dirty.with(|log| parts.iter().for_each(|(at, len)| log.mark(base.saturating_add(*at), *len)));
    }

    /// With the ring locked: where its used ring lies in the log, if the monitor says so.
    pub(crate) fn log_at(&self, address: Option<u64>) {
        self.logged.store(address.unwrap_or(NOWHERE), Ordering::Relaxed);
    }

    /// The used ring cannot be written to.
    fn lost(&self, error: &virtio_queue::Error) {
        if let Some(times) = self.lost.happened() {
            tracing::error!(queue = self.index, %error, times, "an answer cannot be given to the guest");
        }
    }

    /// Tell the guest that there are answers, if it wants to be told.
    pub(crate) fn signal(&self) {
        let Some(vring) = self.vring.get() else { return };
        let mut state = vring.get_mut();
        if state.needs_notification().unwrap_or(true)
            && let Err(error) = state.signal_used_queue()
            // It was told so often that it has not looked yet.
            && error.kind() != std::io::ErrorKind::WouldBlock
            && let Some(times) = self.untold.happened()
        {
            tracing::error!(queue = self.index, %error, times, "the guest cannot be told of answers");
        }
    }

    /// The guest need not say that it adds requests: they are looked for anyway.
    pub(crate) fn quieten(&self) {
        // With an event index it says so only once it was asked to, in `listen`.
        if self.has_index.load(Ordering::Relaxed) {
            return;
        }
        if let Some(vring) = self.vring.get() {
            let mut state = vring.get_mut();
            self.has_index.store(state.get_queue().event_idx_enabled(), Ordering::Relaxed);
            _ = state.disable_notification();
            self.mark_wishes(&state);
        }
    }

    /// The guest shall say so again. `true` if there are some already.
    pub(crate) fn listen(&self) -> bool {
        let Some(vring) = self.vring.get() else { return false };
        let mut state = vring.get_mut();
        if !state.is_enabled() || !state.get_queue().ready() || self.broken.load(Ordering::Relaxed) {
            return false;
        }
        let there = state.enable_notification().unwrap_or(false);
        self.mark_wishes(&state);
        there
    }

    /// With the ring locked: it was written there whether the guest is to tell of requests.
    fn mark_wishes(&self, state: &State) {
        if self.dirty.is_on() {
            let queue = state.get_queue();
            let event = (ENTRIES + ENTRY * u64::from(queue.size()), 2);
            self.mark_used(queue, &[if queue.event_idx_enabled() { event } else { FLAGS }]);
        }
    }

    /// It takes no more requests: have those that it took `interrupt`ed until they are answered, but not for longer than until `deadline`.
    /// Answers that come later than that are dropped.
    pub(crate) fn stop(&self, deadline: Instant, interrupt: impl Fn()) {
        self.stopping.store(true, Ordering::Release);
        let mut guard = lock(&self.emptied.0);
        while self.in_flight.load(Ordering::Acquire) > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let requests = self.in_flight.load(Ordering::Relaxed);
                tracing::warn!(
                    queue = self.index,
                    requests,
                    "requests do not end; their answers are dropped"
                );
                break;
            }
            interrupt();
            let left = left.min(INTERVAL);
            guard = self.emptied.1.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(guard);
        self.stopping.store(false, Ordering::Release);
        self.disown();
    }

    /// After [`stop`](Self::stop): the ring is as in the beginning, and nothing in it was ever under way.
    pub(crate) fn reset(&self) {
        let Some(vring) = self.vring.get() else { return };
        let mut state = vring.get_mut();
        state.get_queue_mut().reset();
        lock(&self.kept).track.iter().for_each(Track::clear);
    }

    /// Whatever was taken is not answered any more: its memory and its ring are somebody else's from now on.
    pub(crate) fn disown(&self) {
        // Under the lock of the ring: nobody is putting an answer there.
        let ring = self.vring.get().map(|vring| vring.get_mut());
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
        self.has_index.store(false, Ordering::Relaxed);
        lock(&self.kept).left.clear();
        drop(ring);
    }
}

/// What is answered to whoever sends requests where there is no session.
pub(crate) const NO_SESSION: Errno = Errno::IO;
