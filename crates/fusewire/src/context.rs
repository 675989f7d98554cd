//! What comes with every request besides its operation.

use crate::{session::Counters, sys, types::*};
use atomic_waker::AtomicWaker;
use std::{
    future::{Future, poll_fn},
    os::fd::AsFd,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

/// How often a thread in a blocking call is signalled until it comes back: a signal that arrives before the call
/// begins is lost.
const WAKE_INTERVAL: Duration = Duration::from_millis(5);

/// What other threads see of a slot: the request it is at work on (which is how an interrupt finds it), and what it has
/// done so far.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// The request's number, 0 while the slot is idle.
    unique: AtomicU64,
    /// The number of the last request that was interrupted while it was in this slot.
    cancelled: AtomicU64,
    /// All are interrupted, also those that are yet to come.
    over: AtomicBool,
    /// Who awaits cancellation.
    waker: AtomicWaker,
    /// What it has done so far.
    pub(crate) counters: Counters,
}

impl InFlight {
    /// Of a slot that begins, with or without times of its requests.
    pub(crate) fn new(timed: bool) -> Self {
        Self {
            unique: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            over: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            counters: Counters::new(timed),
        }
    }

    /// Mark `target` as interrupted if it is the request this slot is at work on.
    pub(crate) fn cancel(&self, target: u64) -> bool {
        if self.unique.load(Ordering::Acquire) != target {
            return false;
        }
        self.cancelled.store(target, Ordering::Release);
        self.waker.wake();
        true
    }

    /// Every request is interrupted from now on. Nothing has to be known of which one it is, so that none slips through.
    pub(crate) fn cancel_all(&self) {
        self.over.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// The request in work, if any.
    pub(crate) fn current(&self) -> Option<u64> {
        Some(self.unique.load(Ordering::Relaxed)).filter(|&unique| unique != 0)
    }
}

/// Who is asking, and the means to notice that they no longer wait.
#[derive(Debug)]
pub struct Context {
    unique: u64,
    caller: Option<Caller>,
    in_flight: Arc<InFlight>,
}

impl Context {
    /// One per slot, used for one request after the other.
    pub(crate) fn new(in_flight: Arc<InFlight>) -> Self {
        Self { unique: 0, caller: None, in_flight }
    }

    #[inline]
    pub(crate) fn begin(&mut self, unique: u64, caller: Option<Caller>) {
        self.unique = unique;
        self.caller = caller;
        self.in_flight.unique.store(unique, Ordering::Release);
    }

    #[inline]
    pub(crate) fn end(&self) {
        self.in_flight.unique.store(0, Ordering::Release);
    }

    /// What this slot has done.
    #[inline]
    pub(crate) fn counters(&self) -> &Counters {
        &self.in_flight.counters
    }

    /// The request's number, unique among those in flight.
    #[inline]
    pub fn unique(&self) -> u64 {
        self.unique
    }

    /// Who is asking; `None` where the kernel withholds it (idmapped mounts) or nobody in particular is (writeback).
    #[inline]
    pub fn caller(&self) -> Option<Caller> {
        self.caller
    }

    /// Has the caller been interrupted (a signal, most often)?
    pub fn is_cancelled(&self) -> bool {
        self.in_flight.cancelled.load(Ordering::Acquire) == self.unique
            || self.in_flight.over.load(Ordering::Acquire)
    }

    /// Completes when the caller has been interrupted. The operation may then stop and answer `INTR`, or go on: the
    /// kernel waits for the answer either way, unless the caller is being killed.
    pub async fn cancelled(&self) {
        poll_fn(|cx| {
            if self.is_cancelled() {
                return Poll::Ready(());
            }
            self.in_flight.waker.register(cx.waker());
            if self.is_cancelled() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await
    }

    /// Have what was written to `file` reach its disk (`fsync`, or `fdatasync` if only its data matters). Over the ring, other
    /// requests are served meanwhile.
    ///
    /// # Errors
    /// Those of `fsync`: `EIO`, `ENOSPC` and `EDQUOT` tell of writes that failed after they had been answered.
    pub async fn sync(&self, file: impl AsFd, data_only: bool) -> Result<()> {
        crate::files::sync(file.as_fd(), data_only).await
    }

    /// Run `work` on a thread of its own, for system calls that may block for long. If the caller is interrupted
    /// meanwhile, or nobody waits for the result any more, the thread gets a signal that makes blocking system calls
    /// return `EINTR`.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        if let Err(error) = sys::signal::install_wake_handler() {
            tracing::warn!(%error, "blocking calls cannot be interrupted");
        }
        let job = Arc::new(Job::default());
        let finish = Finish(job.clone());
        let mut result = pin!(blocking::unblock(move || {
            let finish = finish;
            finish.0.run(work)
        }));
        let mut cancelled = pin!(self.cancelled());
        let mut wanted = Wanted(Some(job));
        poll_fn(move |cx| {
            if let Poll::Ready(value) = result.as_mut().poll(cx) {
                wanted.0 = None;
                return Poll::Ready(value);
            }
            if wanted.0.is_some() && cancelled.as_mut().poll(cx).is_ready() {
                wanted.end();
            }
            Poll::Pending
        })
        .await
    }
}

/// Start a thread that may be started inside of a handler. It would inherit CPU and scheduling class of the thread that serves
/// ([`Placement::Auto`](crate::server::Placement::Auto)), which are for serving alone; `work` begins with those of the process.
///
/// # Errors
/// Those of [`Builder::spawn`](std::thread::Builder::spawn).
pub fn spawn<T: Send + 'static>(
    thread: std::thread::Builder,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<T>> {
    thread.spawn(move || {
        sys::sched::leave_readers_place();
        work()
    })
}

/// Work on a thread of its own.
#[derive(Debug, Default)]
struct Job {
    stage: Mutex<Stage>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Stage {
    #[default]
    Queued,
    /// By this thread.
    Running(i32),
    Done,
}

/// Says «done» also when the work panics, and when it is not begun with at all.
struct Finish(Arc<Job>);

impl Drop for Finish {
    fn drop(&mut self) {
        *self.0.stage() = Stage::Done;
    }
}

/// Work that somebody waits for; when they do not any more, it is to end.
struct Wanted(Option<Arc<Job>>);

impl Wanted {
    fn end(&mut self) {
        self.0.take().into_iter().for_each(Job::wake_until_done);
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.end();
    }
}

impl Job {
    fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        sys::sched::leave_readers_place();
        *self.stage() = Stage::Running(rustix::thread::gettid().as_raw_nonzero().get());
        work()
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signal the thread, if it is at work on this. `false`: it has done it.
    fn wake(&self) -> bool {
        // Under the lock: once the thread goes on to work for somebody else, no signal may be on its way to it.
        let stage = self.stage();
        if let Stage::Running(tid) = *stage {
            sys::signal::wake_thread(tid);
        }
        *stage != Stage::Done
    }

    fn wake_until_done(job: Arc<Self>) {
        let wake = move || {
            while job.wake() {
                std::thread::sleep(WAKE_INTERVAL);
            }
        };
        if let Err(error) = spawn(std::thread::Builder::new().name("fusewire-wake".into()), wake) {
            tracing::warn!(%error, "cannot interrupt a blocking call");
        }
    }
}
