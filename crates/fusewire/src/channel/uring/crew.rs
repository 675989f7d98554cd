//! The ring threads of a mount.
//!
//! They are made, and their rings with them, before the kernel is told that there is a ring: once it has been told, it holds
//! every request back until each queue has an entry, so nothing that can fail may be left to do.

use super::{
    govern::Government,
    kick::Kicker,
    offer::RingSize,
    pool::Pools,
    queues::Queues,
    thread::{self, Post},
};
use crate::{
    channel::{
        layer::Layer,
        poll::{Board, Poll},
        watch::{Status, Watch, Watched, Window},
    },
    fs::FileSystem,
    limits,
    session::Session,
    sys::{
        fork::NotInherited,
        uring::{Entry, Ring},
    },
    types::Errno,
};
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, OwnedFd},
};
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{Builder, JoinHandle},
};

/// State of the ring threads.
#[derive(Debug)]
pub(crate) struct Crew {
    watch: Watch,
    /// Threads that have not ended.
    alive: AtomicUsize,
    refused: AtomicBool,
    /// Entries that may still be made.
    entries: AtomicUsize,
    kicker: Kicker,
    /// The connection is gone.
    ended: AtomicBool,
    /// What wakes each thread.
    wakes: Mutex<Vec<Arc<OwnedFd>>>,
    pools: Pools,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// What each thread does, and which group of queues it serves.
    members: Mutex<Vec<(Arc<Status>, usize)>>,
}

impl Crew {
    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The kernel does not take an entry.
    pub(super) fn refused(&self, errno: Errno) {
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(%errno, "the kernel refused an entry of the ring; requests that find none go over /dev/fuse");
        }
    }

    /// Where payloads are.
    pub(super) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Permission for one entry more.
    pub(super) fn take_entry(&self) -> bool {
        self.entries.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// How many there may still be.
    pub(super) fn entries_left(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    fn left(&self) {
        if self.alive.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.watch.close();
        }
    }

    /// A queue has got so many entries more, while requests may have been waiting for one.
    pub(super) fn kick(&self, queue: u16, entries: usize) {
        self.kicker.kick(queue, entries);
    }

    /// This is what wakes a thread that begins.
    pub(super) fn joins(&self, wake: &Arc<OwnedFd>) {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner).push(wake.clone());
    }

    /// The connection is gone. A thread all of whose entries hold requests would not learn it from the kernel.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        let wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        wakes.iter().for_each(|wake| _ = rustix::io::write(wake, &1u64.to_ne_bytes()));
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Wait for all threads to end.
    pub(crate) fn join(&self) {
        loop {
            let next = self.threads.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(thread) = next else { return };
            if thread.join().is_err() {
                tracing::error!("a ring thread panicked");
            }
        }
    }
}

/// What a thread that is ready needs in order to begin.
struct Start<F, L> {
    session: Arc<Session<F>>,
    layer: Arc<L>,
    crew: Arc<Crew>,
}

/// Ring threads that wait to begin. Dropped, they end.
pub(crate) struct Prepared<F, L> {
    queues: Queues,
    starts: Vec<mpsc::SyncSender<Start<F, L>>>,
    threads: Vec<JoinHandle<()>>,
    statuses: Vec<Arc<Status>>,
    boards: Vec<Arc<Board>>,
}

impl<F: FileSystem, L: Layer> Prepared<F, L> {
    /// Make a thread with a ring for each group of `queues`, for requests of `device`.
    pub(crate) fn new(device: impl AsFd, queues: Queues) -> io::Result<Self> {
        let mut prepared = Self {
            queues,
            starts: Vec::new(),
            threads: Vec::new(),
            statuses: Vec::new(),
            boards: Vec::new(),
        };
        for group in 0..prepared.queues.groups.len() {
            let device = device.as_fd().try_clone_to_owned()?;
            let board = Arc::new(Board::new(prepared.queues.poll, prepared.queues.groups[group].len()));
            let (thread, start, status) =
                make(device, prepared.queues.clone(), group, Place::Home(board.clone()))?;
            prepared.threads.push(thread);
            prepared.starts.push(start);
            prepared.statuses.push(status);
            prepared.boards.push(board);
        }
        Ok(prepared)
    }

    /// How large it is.
    pub(crate) fn size(&self) -> RingSize {
        RingSize::from(&self.queues)
    }

    /// Give it up, and wait until nothing is left of it.
    pub(crate) fn disband(self) {
        drop(self.starts);
        self.threads.into_iter().for_each(|thread| _ = thread.join());
    }

    /// Begin to serve.
    pub(crate) fn start(
        self,
        session: &Arc<Session<F>>,
        layer: Arc<L>,
        device: OwnedFd,
        mountpoint: &Path,
    ) -> io::Result<Arc<Crew>> {
        let Self { queues, starts, threads, statuses, boards } = self;
        let government = Government::new(&queues, &statuses, boards);
        let first = queues.groups.iter().map(Vec::len).sum();
        let crew = Arc::new(Crew {
            watch: Watch::default(),
            alive: AtomicUsize::new(starts.len()),
            refused: AtomicBool::new(false),
            entries: AtomicUsize::new(queues.entries.saturating_sub(first)),
            kicker: Kicker::new(mountpoint),
            ended: AtomicBool::new(false),
            wakes: Mutex::default(),
            pools: Pools::new(&queues, session.agreed(), L::SEES_DATA),
            threads: Mutex::new(threads),
            members: Mutex::new(
                statuses.into_iter().enumerate().map(|(group, status)| (status, group)).collect(),
            ),
        });
        for start in &starts {
            session.join();
            let begin = Start { session: session.clone(), layer: layer.clone(), crew: crew.clone() };
            // It waits for nothing else.
            if start.send(begin).is_err() {
                session.leave();
                crew.left();
            }
        }
        let device = NotInherited::new(device);
        let mut guard =
            Guard { crew: crew.clone(), queues, government, session: session.clone(), layer, device };
        let watch = Builder::new().name("fusewire-watch".into()).stack_size(256 << 10).spawn(move || {
            let crew = guard.crew.clone();
            crew.watch.run(&mut guard);
        })?;
        crew.threads.lock().unwrap_or_else(PoisonError::into_inner).push(watch);
        Ok(crew)
    }
}

/// Which CPU a thread runs on, and so how it waits.
enum Place {
    /// It is pinned to that of its group, or where its governor puts it.
    Home(Arc<Board>),
    /// It stands in for others, anywhere.
    Anywhere,
}

type Made<F, L> = (JoinHandle<()>, mpsc::SyncSender<Start<F, L>>, Arc<Status>);

/// A thread whose ring is in use, and which waits to begin.
fn make<F: FileSystem, L: Layer>(
    device: OwnedFd,
    queues: Queues,
    group: usize,
    place: Place,
) -> io::Result<Made<F, L>> {
    let status = Arc::<Status>::default();
    let (start, begin) = mpsc::sync_channel::<Start<F, L>>(1);
    let (tell, told) = mpsc::sync_channel(1);
    let theirs = status.clone();
    let body = move || {
        if let Place::Home(_) = place {
            crate::channel::dev_fuse::allow(None, &[queues.cpus[group]]);
        }
        let post = match post(&device, &queues, group, (theirs, place)) {
            Ok(post) => post,
            Err(error) => return drop(tell.send(Err(error))),
        };
        drop((device, queues));
        _ = tell.send(Ok(()));
        let Ok(Start { session, layer, crew }) = begin.recv() else { return };
        let run = || thread::run(&session, &*layer, &crew, post);
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            tracing::error!("a ring thread panicked outside of a handler");
        }
        crew.left();
        session.leave();
    };
    let thread = Builder::new().name("fusewire-ring".into()).spawn(body)?;
    told.recv().unwrap_or_else(|_| Err(io::Error::other("a ring thread panicked")))?;
    Ok((thread, start, status))
}

fn post(
    device: &OwnedFd,
    queues: &Queues,
    group: usize,
    (status, place): (Arc<Status>, Place),
) -> io::Result<Post> {
    let mut ring = Ring::new()?;
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    ring.begin(device.as_fd(), wake.try_clone()?)?;
    let group = &queues.groups[group];
    let entries = group.iter().map(|_| Entry::new(queues.payload)).collect::<io::Result<_>>()?;
    let stands_in = matches!(place, Place::Anywhere);
    let board = match place {
        Place::Home(board) => board,
        Place::Anywhere => Arc::new(Board::new(Poll::Off, group.len())),
    };
    Ok(Post { ring, entries, queues: group.clone(), payload: queues.payload, wake, status, board, stands_in })
}

/// Acts on what the watch sees.
struct Guard<F, L> {
    crew: Arc<Crew>,
    queues: Queues,
    government: Government,
    session: Arc<Session<F>>,
    layer: Arc<L>,
    device: NotInherited,
}

impl<F: FileSystem, L: Layer> Guard<F, L> {
    /// One thread more for the queues of a group whose threads are all stuck.
    fn hire(&self, group: usize) -> io::Result<()> {
        let (thread, start, status) =
            make(self.device.as_fd().try_clone_to_owned()?, self.queues.clone(), group, Place::Anywhere)?;
        self.session.join();
        self.crew.alive.fetch_add(1, Ordering::AcqRel);
        let (session, layer, crew) = (self.session.clone(), self.layer.clone(), self.crew.clone());
        if start.send(Start { session, layer, crew }).is_err() {
            self.session.leave();
            self.crew.left();
        }
        self.crew.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        self.crew.members.lock().unwrap_or_else(PoisonError::into_inner).push((status, group));
        Ok(())
    }
}

impl<F: FileSystem, L: Layer> Watched for Guard<F, L> {
    fn readers(&self) -> Vec<Arc<Status>> {
        let members = self.crew.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.iter().map(|(status, _)| status.clone()).collect()
    }

    fn stuck(&self, readers: &[usize]) {
        if readers.is_empty() {
            return;
        }
        let groups: Vec<usize> = {
            let members = self.crew.members.lock().unwrap_or_else(PoisonError::into_inner);
            members.iter().map(|&(_, group)| group).collect()
        };
        for group in 0..self.queues.groups.len() {
            let stuck = readers.iter().filter(|&&reader| groups.get(reader) == Some(&group)).count();
            let there = groups.iter().filter(|&&of| of == group).count();
            let wanted = if stuck < there { 0 } else { stuck };
            for _ in 0..wanted.min(limits::SPARE_READERS.saturating_sub(there)) {
                let enough = self.queues.groups[group].iter().all(|_| self.crew.take_entry());
                let hired = if enough { self.hire(group) } else { Ok(()) };
                if let Err(error) = hired {
                    tracing::warn!(%error, "no further ring thread, although others are stuck");
                    return;
                }
            }
        }
    }

    fn window(&mut self, _window: Window) {
        self.government.window();
    }
}
