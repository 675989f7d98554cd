//! Slots: one request's memory and one task each, allocated once. `loop { next; dispatch; finish }`.

use super::{Answered, Config, Seldom, Started, Stats};
use crate::{
    backing::Backings,
    context::{Context, InFlight},
    fs::FileSystem,
    notify::{Notifier, Queue},
    proto::{
        decode::{decode, read},
        dispatch::dispatch,
        message::Message,
        negotiate::{Agreed, Bounds, Negotiation, negotiate},
        operations::{OPERATIONS, Operation},
    },
    types::*,
    window::Window,
};
use fusewire_abi::{InitFlags, InitOut, InterruptIn, Opcode};
use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

/// Where a slot's requests come from and its answers go: what a channel implements.
#[allow(async_fn_in_trait)] // Slots are served on one thread.
pub trait Slot {
    /// What was agreed on at INIT, which decides how long arguments are and how much an answer may hold.
    fn agreed(&self) -> Agreed;

    /// The next request, with the memory for its answer (without header), which holds at least
    /// [`Agreed::reply_area`] bytes. `None` once there will be no more.
    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])>;

    /// The memory for the answer that [`next`](Self::next) lent last: for layers that look at answers or change them on
    /// their way to [`finish`](Self::finish).
    fn area(&mut self) -> &mut [u8];

    /// Send the answer to request `unique`: as many bytes of the area, or an errno. [`Answered::NOTHING`]: there is no answer
    /// to this kind of request, the slot is merely free again.
    async fn finish(&mut self, unique: u64, answer: Answered);
}

/// Interrupts of requests that no slot had begun with when they came.
#[derive(Debug, Default)]
struct EarlyInterrupts {
    /// How many are kept: usually none, which is all that a request pays for.
    count: AtomicUsize,
    /// With the time when each came: the oldest first.
    targets: Mutex<VecDeque<(Instant, u64)>>,
}

impl EarlyInterrupts {
    /// Most of these are of requests that are answered already: the oldest go first.
    const MOST: usize = 64;

    fn keep(&self, target: u64) {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if targets.len() == Self::MOST {
            targets.pop_front();
        }
        targets.push_back((Instant::now(), target));
        self.count.store(targets.len(), Ordering::Release);
    }

    /// Was this request, which begins, interrupted before?
    #[inline]
    fn has(&self, unique: u64) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let found = targets.iter().position(|&(_, target)| target == unique);
        found.map(|index| targets.remove(index));
        self.count.store(targets.len(), Ordering::Release);
        found.is_some()
    }

    /// Those that are as old as that came too late: their requests were answered before.
    fn forget(&self, age: Duration) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.retain(|(came, _)| came.elapsed() < age);
        self.count.store(targets.len(), Ordering::Release);
    }
}

/// A filesystem and what was agreed on with the kernel: what all slots of a mount share.
#[derive(Debug)]
pub struct Session<F> {
    fs: F,
    agreed: Agreed,
    notifier: Notifier,
    queue: Arc<Queue>,
    slots: Mutex<Vec<Arc<InFlight>>>,
    /// What begins is interrupted. Changed and looked at with `slots` locked.
    over: AtomicBool,
    /// Threads that serve slots.
    threads: AtomicUsize,
    /// The last of them has left.
    left: AtomicBool,
    early: EarlyInterrupts,
    /// Whether slots keep how long requests take.
    timed: bool,
}

impl<F: FileSystem> Session<F> {
    /// Begin with the kernel's INIT. The answer goes back to the kernel; a later major version makes the kernel ask
    /// again, in which case there is no session.
    pub fn begin(
        fs: F,
        init: &Message<'_>,
        bounds: Bounds,
    ) -> Result<(InitOut, std::result::Result<Self, F>)> {
        if init.header.opcode != Opcode::Init as u32 {
            return Err(Errno::PROTO);
        }
        let outcome = negotiate(init.args, init.payload, bounds, |config: &mut Config| fs.init(config))?;
        let (out, agreed) = match outcome {
            Negotiation::Again(out) => return Ok((out, Err(fs))),
            Negotiation::Agreed(out, agreed, refused) => {
                for r in refused {
                    tracing::info!(feature = ?r.flag, reason = r.reason, "refused");
                }
                tracing::debug!(minor = agreed.minor, max_write = agreed.max_write, features = ?agreed.flags, "agreed");
                (out, agreed)
            }
        };
        let (notifier, queue) = Notifier::new();
        Ok((
            out,
            Ok(Self {
                fs,
                agreed,
                notifier,
                queue,
                slots: Mutex::default(),
                over: AtomicBool::new(false),
                threads: AtomicUsize::new(0),
                left: AtomicBool::new(false),
                early: EarlyInterrupts::default(),
                timed: false,
            }),
        ))
    }

    /// Keep how long requests take, which costs two looks at the clock for each: in [`Stats`], [`Latency`](super::Latency).
    pub fn timed(self) -> Self {
        Self { timed: true, ..self }
    }

    /// The answer to INIT has reached the kernel: tell the filesystem. `backings`: where it may register files.
    pub fn started(&self, backings: Backings) {
        self.started_with(backings, Window::default());
    }

    /// The same where there is a DAX window.
    pub fn started_with(&self, backings: Backings, window: Window) {
        let Agreed { flags, minor, max_write, .. } = self.agreed;
        let notifier = self.notifier.clone();
        self.fs.started(&Started { agreed: flags, minor, max_write, notifier, backings, window });
    }

    /// A further thread is going to serve slots.
    pub fn join(&self) {
        self.threads.fetch_add(1, Ordering::Relaxed);
    }

    /// Threads are going to serve slots, though those there are may leave before: the session does not end while this is held.
    pub fn hold(&self) -> impl Drop + '_ {
        struct Held<'a, F: FileSystem>(&'a Session<F>);
        impl<F: FileSystem> Drop for Held<'_, F> {
            fn drop(&mut self) {
                self.0.leave();
            }
        }
        self.join();
        Held(self)
    }

    /// A thread will serve no slots any more. The last one to leave ends the session.
    pub fn leave(&self) {
        if self.threads.fetch_sub(1, Ordering::AcqRel) == 1 && !self.left.swap(true, Ordering::AcqRel) {
            self.ended();
        }
    }

    /// No slot will be served any more: tell the filesystem, end the notifications.
    pub fn ended(&self) {
        self.queue.close();
        self.fs.destroyed();
    }

    /// The other side takes no notifications: whoever sends one is told.
    pub fn without_notifications(&self) {
        self.queue.close();
    }

    /// What was agreed on.
    pub fn agreed(&self) -> Agreed {
        self.agreed
    }

    /// Features agreed on.
    pub fn features(&self) -> InitFlags {
        self.agreed.flags
    }

    /// The filesystem.
    pub fn filesystem(&self) -> &F {
        &self.fs
    }

    /// Sends notifications.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    pub(crate) fn notifications(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// What was served so far.
    pub fn stats(&self) -> Stats {
        Stats::collect(&self.slots.lock().unwrap_or_else(PoisonError::into_inner), self.timed)
    }

    /// The caller of request `target` was interrupted. `false` if no slot is at work on it.
    pub fn interrupt(&self, target: u64) -> bool {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|slot| slot.cancel(target))
    }

    /// Interrupt all that is being served, and whatever will be: its connection is gone, or its client has begun anew. A request that a
    /// slot has taken already and begins with later would wait for ever otherwise.
    pub fn interrupt_for_good(&self) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        self.over.store(true, Ordering::Relaxed);
        slots.iter().for_each(|slot| slot.cancel_all());
    }

    /// Forget interrupts that came at least so long ago and whose requests have not begun since.
    pub(crate) fn forget_interrupts(&self, age: Duration) {
        self.early.forget(age);
    }

    /// Interrupt all that is being served now.
    pub fn interrupt_all(&self) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().for_each(|slot| _ = slot.current().map(|unique| slot.cancel(unique)));
    }

    /// Serve a slot until its channel closes. This is the task; it allocates nothing per request.
    pub async fn serve(&self, slot: &mut impl Slot) {
        let in_flight = self.new_slot();
        let mut cx = Context::new(in_flight.clone());
        loop {
            let Some((message, area)) = slot.next().await else {
                cx.end();
                return;
            };
            let unique = message.header.unique;
            cx.begin(unique, message.caller());
            if self.early.has(unique) {
                in_flight.cancel(unique);
            }
            let answer = self.answer(&cx, &in_flight, &message, area).await;
            slot.finish(unique, answer).await;
            cx.end();
        }
    }

    fn new_slot(&self) -> Arc<InFlight> {
        let in_flight = Arc::new(InFlight::new(self.timed));
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if self.over.load(Ordering::Relaxed) {
            in_flight.cancel_all();
        }
        slots.push(in_flight.clone());
        in_flight
    }

    /// One request: decode and dispatch behind the panic barrier, count. What is not what the protocol says is refused, and not
    /// counted under its operation.
    async fn answer(
        &self,
        cx: &Context,
        in_flight: &InFlight,
        message: &Message<'_>,
        area: &mut [u8],
    ) -> Answered {
        let began = in_flight.counters.begin();
        let Some(index) = Operation::index_of(message.header.opcode) else {
            return Err(refused(in_flight, message)).into();
        };
        let row = &OPERATIONS[index];
        // Decoded for whoever looks at them only: an operation of any kind is too long to be made for nothing.
        let op = || decode(message).ok().map(tracing::field::debug);
        tracing::trace!(unique = cx.unique(), op = op(), "request");
        if row.opcode == Opcode::Interrupt {
            let Ok(interrupt) = read::<InterruptIn>(message) else {
                refused(in_flight, message);
                return Answered::NOTHING;
            };
            in_flight.counters.count(index, None, began);
            return self.interrupted(interrupt.unique);
        }
        let future = pin!(dispatch((&self.fs, cx), row.opcode, message, area));
        let result = match guarded(future).await {
            Some(Ok(len)) => Ok(len),
            Some(Err(failure)) => match failure.errno() {
                Some(errno) => Err(errno),
                None => {
                    let errno = refused(in_flight, message);
                    return if row.is_answered() { Err(errno).into() } else { Answered::NOTHING };
                }
            },
            None => {
                in_flight.counters.count_panic();
                tracing::error!(op = op(), "handler panicked; answered EIO");
                Err(Errno::IO)
            }
        };
        in_flight.counters.count(index, result.err(), began);
        tracing::trace!(unique = cx.unique(), ?result, "answer");
        if row.is_answered() { result.into() } else { Answered::NOTHING }
    }

    /// The kernel says that the caller of request `target` was interrupted.
    #[cold]
    fn interrupted(&self, target: u64) -> Answered {
        // Not found: whoever read the request has not begun yet, or is done. The kernel knows which: told to
        // try again, it repeats the interrupt only while the request is not answered.
        if self.interrupt(target) {
            return Answered::NOTHING;
        }
        if self.agreed.flags.contains(InitFlags::OVER_IO_URING) {
            // The kernel does not repeat it for a request that went over the ring.
            self.early.keep(target);
            // It may have begun before that was kept.
            self.interrupt(target);
            return Answered::NOTHING;
        }
        Err(Errno::AGAIN).into()
    }
}

/// A request that is not what the protocol says is counted and told of; what it is answered with.
#[cold]
fn refused(in_flight: &InFlight, message: &Message<'_>) -> Errno {
    let errno = decode(message).err().unwrap_or(Errno::INVAL);
    in_flight.counters.count_refused();
    // One for all: a guest begins sessions as often as it likes.
    static REFUSED: Seldom = Seldom::new();
    if let Some(times) = REFUSED.happened() {
        tracing::warn!(header = ?message.header, %errno, times, "request refused");
    }
    errno
}

/// Poll `future` behind a barrier: `None` if it panicked. It is pinned by the caller: moving it costs more than most
/// requests.
fn guarded<T>(mut future: Pin<&mut impl Future<Output = T>>) -> impl Future<Output = Option<T>> {
    // After a panic the future is not polled again, and what it shared with others is the filesystem's to keep sound,
    // as under a mutex that another thread poisons.
    poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(value)) => Poll::Ready(Some(value)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_) => Poll::Ready(None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_that_came_too_late_are_forgotten() {
        let early = EarlyInterrupts::default();
        early.keep(7);
        early.keep(9);
        let kept = || early.count.load(Ordering::Relaxed);
        early.forget(Duration::from_secs(60));
        assert_eq!(kept(), 2);
        assert!(early.has(9) && !early.has(8));
        early.forget(Duration::ZERO);
        assert_eq!(kept(), 0);
        assert!(!early.has(7));
    }
}
