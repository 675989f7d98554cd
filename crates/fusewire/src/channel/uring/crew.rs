//! The ring threads of a mount.
//!
//! They are made, and their rings with them, before the kernel is told that there is a ring: once it has been told, it holds
//! every request back until each queue has an entry, so nothing that can fail may be left to do.

use super::{
    aside::Asides,
    choice::{self, Choice, Hand},
    govern::Government,
    keep::Allowance,
    kick::Kicker,
    offer::RingSize,
    pool::Pools,
    queues::Queues,
    relief::{Relief, Worker},
    rest::{Calm, Rest, Spare},
    stall::{Remedy, Stall},
    stock::{Found, Stock},
    thread::{self, Post},
};
use crate::{
    channel::{
        Abort,
        layer::Layer,
        placement,
        poll::{Board, Poll},
        watch::{Status, Watch, Watched, Window},
    },
    fs::FileSystem,
    session::{Seldom, Session},
    sys::{
        fork::NotInherited,
        sched::allow,
        uring::{Entry, Ring},
    },
    types::Errno,
};
use fusewire_abi::InitFlags;
use rustix::fd::{AsFd, OwnedFd};
use std::{
    cell::{Cell, RefCell},
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

/// How long nobody is hired after one who was had to leave.
const REGRET: Duration = Duration::from_secs(1);

const ONLINE: &str = "/sys/devices/system/cpu/online";

/// State of the ring threads.
#[derive(Debug)]
pub(crate) struct Crew {
    watch: Watch,
    /// Threads that have not ended.
    alive: AtomicUsize,
    refused: AtomicBool,
    /// How many entries may keep their memory.
    allowance: Allowance,
    kicker: Kicker,
    /// The connection is gone.
    ended: AtomicBool,
    /// What wakes each thread.
    wakes: Mutex<Vec<Arc<OwnedFd>>>,
    pools: Pools,
    threads: Mutex<Vec<JoinHandle<()>>>,
    members: Mutex<Vec<Member>>,
    rest: Rest,
    abort: Abort,
}

/// A thread of the crew.
#[derive(Clone, Debug)]
struct Member {
    /// What it does.
    status: Arc<Status>,
    /// The group of queues that it serves.
    group: usize,
    spare: Arc<Spare>,
    /// What it has of each of the group's queues.
    stock: Arc<Stock>,
    stands_in: bool,
}

/// Tells how many requests of the connection are not answered, as the kernel counts them, if that can be known.
type Unanswered = Box<dyn Fn() -> Option<usize> + Send>;

impl Member {
    fn hand(&self, is_stuck: bool) -> Hand {
        match is_stuck {
            _ if self.status.has_ended() => Hand::Gone,
            true => Hand::Stuck,
            false if self.spare.is_resting() => Hand::Rests,
            false => Hand::TakesPart,
        }
    }
}

impl Crew {
    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The kernel does not take an entry.
    pub(super) fn refused(&self, errno: Errno) {
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %errno,
                "the kernel refused an entry of the ring; until each queue has one, requests come over /dev/fuse"
            );
        }
    }

    /// Where payloads are.
    pub(super) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// How spare entries rest.
    pub(super) fn rest(&self) -> &Rest {
        &self.rest
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many entries may still keep their memory.
    pub(super) fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    /// A queue of this group needs entries and gets none: those that rest take part again.
    pub(super) fn call(&self, group: usize) {
        let members = self.members();
        let resting = members.iter().filter(|of| of.group == group && of.hand(false) == Hand::Rests);
        resting.for_each(|member| member.spare.call());
    }

    /// Something that requests need is gone while the connection lives, so that callers would wait for ever: it is aborted.
    pub(super) fn fails(&self, why: &str) {
        if !self.has_ended() {
            tracing::error!("{why}");
            self.abort.now();
        }
    }

    fn left(&self) {
        if self.alive.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.watch.close();
        }
    }

    /// A queue has got so many entries more, while requests may have been waiting for one.
    pub(super) fn kick(&self, queue: u16, entries: usize) {
        self.kicker.kick(&self.rest, queue, entries);
    }

    pub(super) fn kicker(&self) -> &Kicker {
        &self.kicker
    }

    /// This is what wakes a thread that begins.
    pub(super) fn joins(&self, wake: &Arc<OwnedFd>) {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner).push(wake.clone());
    }

    /// That wakes nobody any more.
    pub(super) fn leaves(&self, wake: &Arc<OwnedFd>) {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        wakes.retain(|of| !Arc::ptr_eq(of, wake));
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
    members: Vec<Member>,
    boards: Vec<Arc<Board>>,
}

impl<F: FileSystem, L: Layer> Prepared<F, L> {
    /// Make a thread with a ring for each group of `queues`, for requests of `device`.
    pub(crate) fn new(device: impl AsFd, queues: Queues) -> io::Result<Self> {
        let mut prepared =
            Self { queues, starts: Vec::new(), threads: Vec::new(), members: Vec::new(), boards: Vec::new() };
        for group in 0..prepared.queues.groups.len() {
            let device = device.as_fd().try_clone_to_owned()?;
            let board = Arc::new(Board::new(prepared.queues.poll, prepared.queues.groups[group].len()));
            let (thread, start, member) =
                make(device, prepared.queues.clone(), group, Place::Home(board.clone()))?;
            prepared.threads.push(thread);
            prepared.starts.push(start);
            prepared.members.push(member);
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
        (device, abort): (OwnedFd, Abort),
        (mountpoint, unanswered): (&Path, Unanswered),
    ) -> io::Result<Arc<Crew>> {
        let Self { queues, starts, threads, members, boards } = self;
        let statuses: Vec<_> = members.iter().map(|member| member.status.clone()).collect();
        let government = Government::new(&queues, &statuses, boards);
        let asides = Asides::new(statuses, queues.placement, queues.poll);
        let first = queues.groups.iter().map(Vec::len).sum();
        let agreed = session.agreed();
        let is_timed = agreed.flags.contains(InitFlags::REQUEST_TIMEOUT);
        let crew = Arc::new(Crew {
            watch: Watch::default(),
            alive: AtomicUsize::new(starts.len()),
            refused: AtomicBool::new(false),
            allowance: Allowance::new(queues.entries, queues.groups.len()),
            kicker: Kicker::new(mountpoint),
            ended: AtomicBool::new(false),
            wakes: Mutex::default(),
            pools: Pools::new(&queues, agreed, L::SEES_DATA),
            threads: Mutex::new(threads),
            members: Mutex::new(members),
            rest: Rest::new(NotInherited::new(device), first, is_timed),
            abort,
        });
        for start in &starts {
            session.join();
            let begin = Start { session: session.clone(), layer: layer.clone(), crew: crew.clone() };
            // It waits for nothing else.
            if start.send(begin).is_err() {
                crew.fails("a ring thread has ended before it began");
                session.leave();
                crew.left();
            }
        }
        let relief = RefCell::new(Relief::new(&queues.cpus, &queues.allowed));
        let calm = RefCell::new(vec![Calm::default(); first]);
        let (theirs, session) = (crew.clone(), session.clone());
        let (last_stuck, lost) = (Cell::new(Instant::now()), Cell::new(None));
        let mut guard = Guard {
            crew: theirs,
            queues,
            government,
            asides,
            session,
            layer,
            calm,
            relief,
            last_stuck,
            lost,
            stall: Stall::new(first),
            begin: Instant::now(),
            unanswered,
        };
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
    /// It stands in for others, on these CPUs, for these of its group's queues.
    Spare(Vec<usize>, Vec<usize>),
}

type Made<F, L> = (JoinHandle<()>, mpsc::SyncSender<Start<F, L>>, Member);

/// A thread whose ring is in use, and which waits to begin.
fn make<F: FileSystem, L: Layer>(
    device: OwnedFd,
    queues: Queues,
    group: usize,
    place: Place,
) -> io::Result<Made<F, L>> {
    let stands_in = matches!(place, Place::Spare(..));
    let stock = Arc::new(Stock::new(queues.groups[group].len()));
    let member = Member { status: Arc::default(), group, spare: Arc::new(Spare::new()?), stock, stands_in };
    let (start, begin) = mpsc::sync_channel::<Start<F, L>>(1);
    let (tell, told) = mpsc::sync_channel(1);
    let theirs = member.clone();
    let body = move || {
        match &place {
            Place::Home(_) => allow(None, &[queues.cpus[group]]),
            Place::Spare(cpus, _) => allow(None, cpus),
        }
        let post = match post(&device, &queues, theirs, place) {
            Ok(post) => post,
            Err(error) => return drop(tell.send(Err(error))),
        };
        drop((device, queues));
        _ = tell.send(Ok(()));
        let Ok(Start { session, layer, crew }) = begin.recv() else { return };
        let run = || thread::run(&session, &*layer, &crew, post);
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            // What it had in work nobody will answer, and its queues have nobody.
            crew.fails("a ring thread panicked outside of a handler");
        }
        crew.left();
        session.leave();
    };
    let thread = Builder::new().name("fusewire-ring".into()).spawn(body)?;
    told.recv().unwrap_or_else(|_| Err(io::Error::other("a ring thread panicked")))?;
    Ok((thread, start, member))
}

fn post(device: &OwnedFd, queues: &Queues, member: Member, place: Place) -> io::Result<Post> {
    let Member { status, group, spare, stock, stands_in } = member;
    let mut ring = Ring::new()?;
    ring.begin(device.as_fd(), spare.wake().try_clone()?)?;
    let (payload, queues) = (queues.payload, queues.groups[group].clone());
    let (board, served) = match place {
        Place::Home(board) => (board, (0..queues.len()).collect()),
        Place::Spare(_, served) => (Arc::new(Board::new(Poll::Off, queues.len())), served),
    };
    let entry = |queue| Entry::new(payload).map(|entry| (queue, entry));
    let entries = served.into_iter().map(entry).collect::<io::Result<_>>()?;
    Ok(Post { ring, entries, queues, group, payload, status, board, stands_in, spare, stock })
}

/// How many threads take part that stand in for others of a group.
fn helping(members: &[Member], group: usize) -> usize {
    members.iter().filter(|of| of.group == group && of.stands_in && of.hand(false) == Hand::TakesPart).count()
}

/// It is tried again at every look.
fn warn_of(error: &io::Error, what: &str) {
    static REFUSED: Seldom = Seldom::new();
    if let Some(times) = REFUSED.happened() {
        tracing::warn!(%error, times, "{what}");
    }
}

/// Acts on what the watch sees.
struct Guard<F, L> {
    crew: Arc<Crew>,
    queues: Queues,
    government: Government,
    asides: Asides,
    session: Arc<Session<F>>,
    layer: Arc<L>,
    /// By queue.
    calm: RefCell<Vec<Calm>>,
    relief: RefCell<Relief>,
    /// When a thread was seen stuck.
    last_stuck: Cell<Instant>,
    /// When it was seen last that one who stood in had ended.
    lost: Cell<Option<Instant>>,
    stall: Stall,
    /// From when on time is counted for that.
    begin: Instant,
    unanswered: Unanswered,
}

/// An interrupt whose request has not begun after this time, with nobody stuck, came too late for it.
const STALE: Duration = Duration::from_secs(1);

impl<F: FileSystem, L: Layer> Guard<F, L> {
    /// One thread more for these queues of a group, on these CPUs.
    fn hire(&self, group: usize, served: &[usize], cpus: &[usize]) -> io::Result<()> {
        let device = self.crew.rest.device().as_fd().try_clone_to_owned()?;
        let place = Place::Spare(cpus.to_vec(), served.to_vec());
        let (thread, start, member) = make(device, self.queues.clone(), group, place)?;
        self.session.join();
        self.crew.alive.fetch_add(1, Ordering::AcqRel);
        let (session, layer, crew) = (self.session.clone(), self.layer.clone(), self.crew.clone());
        if start.send(Start { session, layer, crew }).is_err() {
            self.session.leave();
            self.crew.left();
            return Err(io::Error::other("a ring thread panicked"));
        }
        self.crew.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        self.crew.members().push(member);
        Ok(())
    }

    /// So many threads more for a group, on these CPUs: those that rest first.
    fn reinforce(&self, group: usize, wanted: usize, cpus: &[usize]) -> io::Result<()> {
        if wanted == 0 {
            return Ok(());
        }
        let members = self.crew.members().clone();
        let of_group: Vec<_> = members.iter().filter(|member| member.group == group).collect();
        let hands: Vec<Hand> = of_group.iter().map(|member| member.hand(false)).collect();
        let elsewhere = members.iter().filter(|of| of.stands_in && of.group != group).count();
        let Choice { call, hire } = choice::choose(&hands, wanted, elsewhere);
        for at in call {
            placement::seat(&of_group[at].status, cpus);
            of_group[at].spare.call();
        }
        if hire == 0 || self.lost.get().is_some_and(|lost| lost.elapsed() < REGRET) {
            return Ok(());
        }
        let online = choice::parse_cpus(&fs::read_to_string(ONLINE).unwrap_or_default());
        let queues = &self.queues.groups[group];
        let served = choice::reachable(queues, &online);
        for _ in 0..hire {
            if !served.iter().all(|&at| self.crew.pools.has_room(queues[at])) {
                break;
            }
            self.hire(group, &served, cpus)?;
        }
        Ok(())
    }

    /// Who stood in and has ended is not counted any more.
    fn dismiss(&self) {
        let mut members = self.crew.members();
        let before = members.len();
        members.retain(|of| !of.stands_in || !of.status.has_ended());
        if members.len() < before {
            self.lost.set(Some(Instant::now()));
        }
    }

    /// Set going what waits in the kernel beside free entries, and have entries made where there are none.
    fn unstall(&mut self) {
        if self.crew.has_ended() {
            return;
        }
        let mut found = vec![Found::default(); self.calm.borrow().len()];
        let members = self.crew.members().clone();
        let members: Vec<_> = members.iter().filter(|member| !member.status.has_ended()).collect();
        for Member { status, group, stock, .. } in &members {
            // What a thread at work has not taken yet it takes when it is through: its entries may hold requests.
            let is_at_work = status.is_at_work();
            for (at, &queue) in self.queues.groups[*group].iter().enumerate() {
                let (sum, of) = (&mut found[usize::from(queue)], stock.of(at));
                *sum = sum.plus(if is_at_work { Found { free: 0, ..of } } else { of });
            }
        }
        for (queue, remedy) in self.stall.look(self.begin.elapsed(), &found, &self.unanswered) {
            tracing::debug!(queue, ?remedy, found = ?found[queue], "a queue stands still");
            match remedy {
                Remedy::Kick { count, by_path: false } => self.crew.kick(queue as u16, count),
                Remedy::Kick { count, by_path: true } => self.crew.kicker.ask(queue as u16, count),
                Remedy::Nudge => {
                    let serves = |of: &&&Member| self.queues.groups[of.group].contains(&(queue as u16));
                    members.iter().filter(serves).for_each(|member| member.spare.nudge());
                }
            }
        }
    }

    /// Have threads of other CPUs help those that are saturated.
    fn spread(&self) {
        if self.queues.allowed.len() < 2 || !self.relief.borrow().is_due() {
            return;
        }
        let members = self.crew.members().clone();
        let mut workers = vec![Vec::new(); self.queues.groups.len()];
        for Member { status, group, stands_in, .. } in &members {
            workers[*group].push(Worker { status: status.clone(), stands_in: *stands_in });
        }
        self.relief.borrow_mut().sample(&workers);
        for group in 0..self.queues.groups.len() {
            let help = self.relief.borrow().help(group);
            let there = helping(&members, group);
            let cpus = self.relief.borrow().elsewhere(group);
            if let Err(error) = self.reinforce(group, help.saturating_sub(there), &cpus) {
                warn_of(&error, "no further ring thread, although a queue is saturated");
            }
        }
    }

    /// Let spare entries of a group rest that are not needed: all, or those of as many threads as there are more than should help.
    fn rest(&self, group: usize, threads: usize) {
        let help = self.relief.borrow().help(group);
        for &queue in &self.queues.groups[group] {
            let awake = self.crew.rest.awake(queue);
            let needed = if help == 0 { 0 } else { awake.saturating_sub(threads.saturating_sub(help)) };
            let surplus = self.calm.borrow_mut()[usize::from(queue)].surplus(awake, needed);
            self.crew.rest.set_surplus(queue, surplus);
        }
    }
}

impl<F: FileSystem, L: Layer> Watched for Guard<F, L> {
    fn readers(&self) -> Vec<Arc<Status>> {
        self.crew.members().iter().map(|member| member.status.clone()).collect()
    }

    fn stuck(&self, readers: &[usize]) {
        if readers.is_empty() {
            // A thread that was stuck until now may have to begin with a request that was interrupted meanwhile.
            if self.last_stuck.get().elapsed() >= STALE {
                self.session.forget_interrupts(STALE);
            }
            return;
        }
        self.last_stuck.set(Instant::now());
        let members = self.crew.members().clone();
        for group in 0..self.queues.groups.len() {
            let of_group = members.iter().enumerate().filter(|(_, of)| of.group == group);
            let hands: Vec<Hand> = of_group.map(|(at, of)| of.hand(readers.contains(&at))).collect();
            if !hands.contains(&Hand::Stuck) {
                continue;
            }
            for &queue in &self.queues.groups[group] {
                self.calm.borrow_mut()[usize::from(queue)].stuck();
                self.crew.rest.set_surplus(queue, 0);
            }
            self.relief.borrow_mut().stuck(group);
            let wanted = choice::wanted(&hands);
            if let Err(error) = self.reinforce(group, wanted, &self.queues.allowed) {
                warn_of(&error, "no further ring thread, although others are stuck");
                return;
            }
        }
    }

    fn looks(&mut self, starving: bool) {
        self.asides.looks(starving);
    }

    fn sleeps(&mut self) {
        self.asides.sleeps();
    }

    fn due(&self) -> Option<Duration> {
        self.stall.due().map(|due| due.saturating_sub(self.begin.elapsed()))
    }

    fn window(&mut self, window: Window) {
        self.government.window();
        self.asides.window(window);
        self.spread();
        self.dismiss();
        self.unstall();
        let members = self.crew.members().clone();
        if members.len() == self.queues.groups.len() {
            return;
        }
        for group in 0..self.queues.groups.len() {
            self.rest(group, helping(&members, group));
        }
    }
}
