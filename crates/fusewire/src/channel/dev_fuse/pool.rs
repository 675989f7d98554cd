//! The reader threads of a mount: how many there are, and how many of them work.

use super::{
    govern::Stances,
    reader::{self, Post},
};
use crate::{
    channel::{
        layer::Layer,
        placement::Placement,
        poll::{Board, Poll},
        watch::{Status, Watch, Watched, Window},
    },
    fs::FileSystem,
    limits,
    session::Session,
    sys::{self, fork::NotInherited},
    types::Errno,
};
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::OwnedFd,
};
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::{Builder, JoinHandle},
};

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Unmounted, by us or by somebody else.
    Unmounted,
    /// Aborted: by `fusectl`, by a request timeout, or by us.
    Aborted,
}

/// For how many looks of the watch (4 ms each) spare readers stay at work after the last reader was stuck.
const LINGER: u32 = 50;

/// State of the readers.
pub(crate) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    watch: Watch,
    /// Called when the connection ends. Told is whether it lives: readers cannot go on although nobody has ended it.
    at_end: OnceLock<Box<dyn Fn(bool) + Send + Sync>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    ended: Option<Ended>,
    /// It ended here alone: the kernel knows nothing of it.
    lives: bool,
    statuses: Vec<Arc<Status>>,
    threads: Vec<JoinHandle<()>>,
    /// Readers that have not ended.
    alive: usize,
    /// Spare readers that exist.
    spares: usize,
    /// Of those, how many rest.
    resting: usize,
    /// How many of them are to be at work.
    wanted: usize,
    /// How many of them stand in for readers that are stuck.
    standing_in: usize,
    /// How many of them the governor wants.
    governed: usize,
    /// Looks since a reader was last stuck.
    calm: u32,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The connection ended with this error of `read`.
    pub(super) fn close(&self, errno: Errno) {
        match errno {
            Errno::NODEV => self.end(Ended::Unmounted, false),
            Errno::CONNABORTED => self.end(Ended::Aborted, false),
            errno => {
                tracing::error!(%errno, "/dev/fuse cannot be read any more");
                self.end(Ended::Aborted, true);
            }
        }
    }

    fn end(&self, ended: Ended, lives: bool) {
        let mut state = self.lock();
        if state.ended.is_none() {
            (state.ended, state.lives) = (Some(ended), lives);
        }
        let lives = state.lives;
        drop(state);
        self.changed.notify_all();
        self.watch.close();
        if let Some(tell) = self.at_end.get() {
            tell(lives);
        }
    }

    /// Call `tell` when the connection ends, at once if it has, with whether it lives all the same. May be used once.
    pub(crate) fn at_end(&self, tell: impl Fn(bool) + Send + Sync + 'static) {
        let tell = self.at_end.get_or_init(|| Box::new(tell));
        let state = self.lock();
        let (has_ended, lives) = (state.ended.is_some(), state.lives);
        drop(state);
        if has_ended {
            tell(lives);
        }
    }

    /// A reader has panicked. What it had in work nobody will answer.
    fn panicked(&self) {
        tracing::error!("a reader panicked outside of a handler");
        self.end(Ended::Aborted, true);
    }

    /// A reader has ended.
    fn left(&self) {
        let mut state = self.lock();
        state.alive -= 1;
        if state.alive == 0 && state.ended.is_none() {
            // Without a reader the mount must not go on.
            drop(state);
            self.end(Ended::Aborted, true);
        }
    }

    /// A spare reader is about to read: rest as long as more of them are at work than wanted. `false`: it is over.
    pub(super) fn rest_if_idle(&self) -> bool {
        let mut state = self.lock();
        if state.spares - state.resting > state.wanted && state.ended.is_none() {
            state.resting += 1;
            while state.spares - state.resting >= state.wanted && state.ended.is_none() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.resting -= 1;
        }
        state.ended.is_none()
    }

    /// The watch has seen `stuck` readers that make no progress: as many spare ones are to work. Returns how many
    /// must be made for that.
    fn stuck(&self, stuck: usize) -> usize {
        let mut state = self.lock();
        state.calm = if stuck == 0 { state.calm.saturating_add(1) } else { 0 };
        // A spare that is stuck counts, too: so the number grows until it is enough.
        if stuck > state.standing_in || state.calm >= LINGER {
            state.standing_in = stuck;
        }
        self.want(state)
    }

    /// The governor wants this many spare readers at work even if none is stuck.
    fn govern(&self, spares: usize) {
        let mut state = self.lock();
        state.governed = spares;
        self.want(state);
    }

    fn want(&self, mut state: MutexGuard<'_, State>) -> usize {
        let wanted = (state.standing_in + state.governed).min(limits::SPARE_READERS);
        if wanted > state.wanted {
            self.changed.notify_all();
        }
        state.wanted = wanted;
        wanted.saturating_sub(state.spares)
    }

    /// Start the readers of a session: one per CPU of those this thread may use, at most `threads`, and where they may be put. `how`: how
    /// the one that always works waits for requests; `None` if they come over a ring, as long as the kernel takes its entries.
    pub(crate) fn start<F: FileSystem, L: Layer>(
        session: &Arc<Session<F>>,
        layer: Arc<L>,
        device: OwnedFd,
        (threads, how, placement): (Option<usize>, Option<Poll>, Placement),
    ) -> io::Result<Arc<Self>> {
        let pool = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            watch: Watch::default(),
            at_end: OnceLock::new(),
        });
        let cloneable = sys::device::clone_device(&device)
            .inspect_err(|error| tracing::info!(%error, "readers share one /dev/fuse descriptor"))
            .is_ok();
        let session = session.clone();
        let crew = Crew {
            session: session.clone(),
            layer,
            device: Arc::new(NotInherited::new(device)),
            cloneable,
            beside_ring: how.is_none(),
            board: Arc::new(Board::new(how.unwrap_or(Poll::Off), 0)),
            pool: pool.clone(),
        };
        let cpus = allowed_cpus();
        let threads = threads.unwrap_or(cpus.len()).max(1);
        for i in 0..threads {
            // The first is always at work.
            crew.hire(i > 0, i == 0)?;
        }
        // Beside a ring readers have next to nothing to do.
        let placement = if crew.beside_ring { Placement::Off } else { placement };
        let stances = Stances::new(pool.lock().statuses.clone(), cpus, placement);
        let mut watch = Guard { crew, stances };
        let crew = &watch.crew;
        let notifications = {
            let device = crew.device.clone();
            move || super::write_notifications(&device, session.notifications())
        };
        // Not joined: it ends when the session does, which is after all readers have.
        Builder::new().name("fusewire-notify".into()).stack_size(SMALL_STACK).spawn(notifications)?;
        let watch =
            Builder::new().name("fusewire-watch".into()).stack_size(SMALL_STACK).spawn(move || {
                let pool = watch.crew.pool.clone();
                pool.watch.run(&mut watch);
            })?;
        pool.lock().threads.push(watch);
        Ok(pool)
    }

    /// Wait for the end of the connection and of all readers, the last of which has told the session.
    pub(crate) fn join(&self) -> Ended {
        loop {
            let next = self.lock().threads.pop();
            match next {
                Some(thread) => {
                    if thread.join().is_err() {
                        tracing::error!("the filesystem panicked when it was told of its end");
                    }
                }
                None => return self.lock().ended.unwrap_or(Ended::Aborted),
            }
        }
    }
}

const SMALL_STACK: usize = 256 << 10;

/// Makes readers.
struct Crew<F, L> {
    session: Arc<Session<F>>,
    layer: Arc<L>,
    device: Arc<NotInherited>,
    /// Each reader can have a descriptor of its own.
    cloneable: bool,
    beside_ring: bool,
    /// Of the first reader.
    board: Arc<Board>,
    pool: Arc<Pool>,
}

impl<F: FileSystem, L: Layer> Crew<F, L> {
    fn hire(&self, spare: bool, first: bool) -> io::Result<()> {
        let device = match first || !self.cloneable {
            true => self.device.clone(),
            false => Arc::new(NotInherited::new(sys::device::clone_device(&*self.device)?)),
        };
        let status = Arc::<Status>::default();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (shared, beside_ring) = (!self.cloneable, self.beside_ring);
        let board = first.then(|| self.board.clone());
        let post = Post { device, shared, wake, status: status.clone(), board, spare, beside_ring };
        let (session, layer, pool) = (self.session.clone(), self.layer.clone(), self.pool.clone());
        let body = move || {
            let run = || reader::run(&session, &*layer, &pool, post);
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                pool.panicked();
            }
            pool.left();
            session.leave();
        };
        let name = if spare { "fusewire-spare" } else { "fusewire-read" };
        let mut state = self.pool.lock();
        if state.ended.is_some() {
            return Ok(());
        }
        self.session.join();
        let thread = Builder::new().name(name.into()).spawn(body).inspect_err(|_| self.session.leave())?;
        state.alive += 1;
        state.threads.push(thread);
        state.statuses.push(status);
        state.spares += usize::from(spare);
        Ok(())
    }
}

/// Acts on what the watch sees.
struct Guard<F, L> {
    crew: Crew<F, L>,
    stances: Stances,
}

impl<F: FileSystem, L: Layer> Guard<F, L> {
    fn govern(&self, spares: Option<usize>) {
        if let Some(spares) = spares {
            self.crew.pool.govern(spares);
        }
    }
}

impl<F: FileSystem, L: Layer> Watched for Guard<F, L> {
    fn readers(&self) -> Vec<Arc<Status>> {
        self.crew.pool.lock().statuses.clone()
    }

    fn stuck(&self, readers: &[usize]) {
        for _ in 0..self.crew.pool.stuck(readers.len()) {
            if let Err(error) = self.crew.hire(true, false) {
                tracing::warn!(%error, "no further reader, although others are stuck");
                break;
            }
        }
    }

    fn window(&mut self, window: Window) {
        let spares = self.stances.window(window);
        self.govern(spares);
    }

    fn looks(&mut self, starving: bool) {
        let spares = self.stances.looks(starving);
        self.govern(spares);
    }

    fn sleeps(&mut self) {
        let spares = self.stances.sleeps();
        self.govern(spares);
    }
}

/// The CPUs that this thread may use.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}
