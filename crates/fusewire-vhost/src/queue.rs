//! A queue: where requests are taken from and answers put, by whichever thread serves it.

use crate::{
    chain::{Fault, Request},
    inflight::{Left, Track},
    sys::Memory,
};
use fusewire::{
    channel::watch::{Status, Watch},
    proto::negotiate::Agreed,
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
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

/// One queue of a device.
pub(crate) struct Queue {
    /// Its number.
    pub index: u16,
    /// Wakes its thread: an eventfd.
    pub wake: OwnedFd,
    /// What its thread is doing.
    pub status: Arc<Status>,
    watch: Arc<Watch>,
    vring: OnceLock<VringMutex>,
    memory: GuestMemoryAtomic<GuestMemoryMmap>,
    /// The driver broke its rules: nothing is taken until the device is reset.
    broken: AtomicBool,
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

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("index", &self.index).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Put an answer into the used ring, and have it noted that it is there.
fn give_back(
    state: &mut VringState<GuestMemoryAtomic<GuestMemoryMmap>>,
    kept: &Kept,
    head: u16,
    len: u32,
) -> Result<(), virtio_queue::Error> {
    kept.track.iter().for_each(|track| track.answered(head, len));
    state.add_used(head, len)?;
    kept.track.iter().for_each(|track| track.put(head, state.get_queue().next_used()));
    Ok(())
}

impl Queue {
    pub(crate) fn new(
        index: u16,
        wake: OwnedFd,
        watch: Arc<Watch>,
        memory: GuestMemoryAtomic<GuestMemoryMmap>,
    ) -> Self {
        Self {
            index,
            wake,
            status: Arc::default(),
            watch,
            vring: OnceLock::new(),
            memory,
            broken: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            emptied: Default::default(),
            taken: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            kept: Mutex::default(),
        }
    }

    /// What is under way is noted there from now on.
    pub(crate) fn track(&self, track: Option<Track>) {
        *lock(&self.kept) = Kept { track, left: VecDeque::new() };
    }

    /// The ring is about to be served: see what another process has left under way. Those come before what is new.
    pub(crate) fn recover(&self) {
        let Some(vring) = self.vring.get() else { return };
        let Ok(used) = vring.queue_used_idx() else { return };
        let mut state = vring.get_mut();
        let mut kept = lock(&self.kept);
        let Some(track) = &kept.track else { return };
        let left = track.recover(state.get_queue().size(), used);
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
        lock(&self.kept).left = left.into();
    }

    /// The memory where it is noted what is under way, and where that lies.
    pub(crate) fn region(&self) -> Option<(File, [u64; 4])> {
        lock(&self.kept).track.as_ref().and_then(Track::region)
    }

    /// How many requests were taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Wake its thread.
    pub(crate) fn wake(&self) {
        _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Take the next request and read it. What is no request at all goes back at once, and what cannot be served is answered.
    pub(crate) fn take(&self, request: &mut Request, agreed: Agreed) -> Taken {
        loop {
            let memory = self.memory.memory();
            let Some(found) = self.pop(request, &memory) else { return Taken::Nothing };
            match found.and_then(|()| request.read(agreed)) {
                Ok(()) => {
                    self.watch.awaken();
                    self.taken.fetch_add(1, Ordering::Relaxed);
                    return Taken::Request;
                }
                Err(Fault::Chain) => {
                    tracing::warn!(queue = self.index, "the guest sent descriptors that are no request");
                    self.put(request, 0);
                }
                Err(Fault::Request(errno)) => {
                    tracing::warn!(queue = self.index, header = ?request.header, %errno, "request refused");
                    let len = request.answer(Err(errno));
                    self.put(request, len);
                }
            }
            self.signal();
        }
    }

    fn pop(&self, request: &mut Request, memory: &Memory) -> Option<Result<(), Fault>> {
        let vring = self.vring.get()?;
        let chain = {
            let mut state = vring.get_mut();
            if !state.is_enabled() || !state.get_queue().ready() || self.broken.load(Ordering::Relaxed) {
                return None;
            }
            let mut kept = lock(&self.kept);
            while let Some(left) = kept.left.pop_front() {
                match left.answered {
                    // It is only to be given back.
                    Some(len) => {
                        if let Err(error) = give_back(&mut state, &kept, left.head, len) {
                            tracing::error!(queue = self.index, %error, "an answer cannot be given to the guest");
                        }
                        drop(kept);
                        _ = state.signal_used_queue();
                        kept = lock(&self.kept);
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
            match state.get_queue_mut().iter(memory.clone()).map(|mut chains| chains.next()) {
                Ok(Some(chain)) => {
                    request.epoch = self.epoch.load(Ordering::Relaxed);
                    self.in_flight.fetch_add(1, Ordering::Relaxed);
                    kept.track.iter().for_each(|track| track.taken(chain.head_index()));
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

    /// Give a request back to the guest with `len` bytes of answer. The guest is not told yet: [`signal`](Self::signal).
    pub(crate) fn put(&self, request: &mut Request, len: u32) {
        // Before the guest may use its memory for something else.
        request.end();
        if let Some(vring) = self.vring.get() {
            let mut state = vring.get_mut();
            if request.epoch == self.epoch.load(Ordering::Relaxed)
                && let Err(error) = give_back(&mut state, &lock(&self.kept), request.head, len)
            {
                tracing::error!(queue = self.index, %error, "an answer cannot be given to the guest");
            }
        }
        self.is_over();
    }

    /// A request that has waited and was not carried out stays under way, for whoever serves the queue next.
    pub(crate) fn leave(&self, request: &mut Request) {
        request.end();
        if let Some(vring) = self.vring.get() {
            let _state = vring.get_mut();
            if request.epoch == self.epoch.load(Ordering::Relaxed) {
                lock(&self.kept).left.push_back(Left { head: request.head, answered: None });
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

    /// Tell the guest that there are answers, if it wants to be told.
    pub(crate) fn signal(&self) {
        let Some(vring) = self.vring.get() else { return };
        let mut state = vring.get_mut();
        if state.needs_notification().unwrap_or(true)
            && let Err(error) = state.signal_used_queue()
        {
            tracing::error!(queue = self.index, %error, "the guest cannot be told of answers");
        }
    }

    /// The guest need not say that it adds requests: they are looked for anyway.
    pub(crate) fn quieten(&self) {
        if let Some(vring) = self.vring.get() {
            _ = vring.get_mut().disable_notification();
        }
    }

    /// The guest shall say so again. `true` if there are some already.
    pub(crate) fn listen(&self) -> bool {
        let Some(vring) = self.vring.get() else { return false };
        let mut state = vring.get_mut();
        state.is_enabled()
            && state.get_queue().ready()
            && !self.broken.load(Ordering::Relaxed)
            && state.enable_notification().unwrap_or(false)
    }

    /// It takes no more requests: wait until those that it took are answered, at most for so long. Answers that come later than
    /// that are dropped.
    pub(crate) fn stop(&self, limit: Duration) {
        self.stopping.store(true, Ordering::Release);
        let deadline = Instant::now() + limit;
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
            guard = self.emptied.1.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(guard);
        self.stopping.store(false, Ordering::Release);
        // Under the lock of the ring: nobody is putting an answer there.
        let ring = self.vring.get().map(|vring| vring.get_mut());
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
        lock(&self.kept).left.clear();
        drop(ring);
    }
}

/// What is answered to whoever sends requests where there is no session.
pub(crate) const NO_SESSION: Errno = Errno::IO;
