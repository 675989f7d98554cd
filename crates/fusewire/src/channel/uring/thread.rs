//! A ring thread: serves the queues of one CPU or more through a ring of its own.

use super::{
    crew::Crew,
    keep::Keep,
    policy::Command,
    pool::Shelf,
    rest::{Rest, Spare},
    slot::UringSlot,
    stock::{Found, Stock},
};
use crate::{
    channel::{
        layer::Layer,
        poll::Board,
        tasks::{Ready, Tasks},
        watch::Status,
    },
    files::Offered,
    fs::FileSystem,
    limits,
    session::Session,
    sys::uring::{Entry, Event, Ring},
    types::Errno,
};
use rustix::fd::OwnedFd;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long handlers that still wait for something may take once the connection is gone.
const GRACE: Duration = Duration::from_secs(5);

/// How long to wait before registering again what came too early.
const PAUSE: Duration = Duration::from_millis(1);

/// How often to tell the kernel of commands that it does not take.
const SUBMITS: u32 = 100;

/// What a ring thread works with, made before the kernel is told that there is a ring.
pub(super) struct Post {
    /// The ring, in use by this thread already.
    pub ring: Ring,
    /// One entry for each queue that it begins to serve: which of its queues, and the entry.
    pub entries: Vec<(usize, Entry)>,
    /// The queues, by number.
    pub queues: Vec<u16>,
    /// Which group of queues that is.
    pub group: usize,
    /// Bytes of an entry's payload.
    pub payload: usize,
    /// Where it tells what it is doing.
    pub status: Arc<Status>,
    /// Where it is told how to wait.
    pub board: Arc<Board>,
    /// It stands in for others.
    pub stands_in: bool,
    /// How it is called while it rests, and woken while it waits.
    pub spare: Arc<Spare>,
    /// Where it tells what it has.
    pub stock: Arc<Stock>,
}

/// An entry that the kernel has given back, with a request or an error.
pub(super) type Done = (Entry, Result<(), Errno>);

/// The entries of one queue, beside what others see of them: see `stock.rs`.
#[derive(Debug, Default)]
struct Lot {
    /// How many slots there are.
    slots: Cell<usize>,
    /// The kernel did not take one.
    denied: Cell<bool>,
    /// Requests to be made once the kernel knows of all entries.
    owed: Cell<usize>,
}

/// What the slots of one ring thread share.
pub(super) struct Local {
    ring: Rc<RefCell<Ring>>,
    queues: Vec<u16>,
    /// What came out of the ring, by number of the slot.
    done: RefCell<Vec<Option<Done>>>,
    /// Slots that something came for.
    due: RefCell<Vec<usize>>,
    /// By queue.
    lots: Vec<Lot>,
    /// Which entries keep their memory.
    keep: RefCell<Keep>,
    group: usize,
    /// The queue that the last request came from.
    last: Cell<u16>,
    board: Arc<Board>,
    closed: Cell<bool>,
    shelf: Shelf,
    crew: Arc<Crew>,
    stands_in: bool,
    spare: Arc<Spare>,
    /// Slots whose entries rest.
    resting: RefCell<Vec<usize>>,
    /// They are to take part again.
    called: Cell<bool>,
    /// Requests have come here, by queue.
    reached: Vec<Cell<bool>>,
    stock: Arc<Stock>,
    /// Some queue is owed requests.
    owes: Cell<bool>,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").field("queues", &self.queues).finish_non_exhaustive()
    }
}

impl Local {
    pub(super) fn register(&self, id: usize, entry: Entry, queue: usize) {
        self.stock.offers(queue);
        self.ring.borrow_mut().register(id, entry, self.queues[queue]);
    }

    pub(super) fn commit(&self, id: usize, entry: Entry, queue: usize, commit_id: u64) {
        self.stock.answers(queue);
        self.ring.borrow_mut().commit(id, entry, self.queues[queue], commit_id);
    }

    /// What came out of the ring for slot `id`.
    pub(super) fn take(&self, id: usize, queue: usize) -> Option<Done> {
        let done = self.done.borrow_mut().get_mut(id)?.take()?;
        self.stock.takes(queue, done.1.is_ok());
        self.last.set(self.queues[queue]);
        self.board.came(queue);
        Some(done)
    }

    /// A request of slot `id` is answered that has used so many bytes of its entry. Are they to be given back?
    pub(super) fn used(&self, id: usize, bytes: usize) -> bool {
        self.keep.borrow_mut().used(id, bytes)
    }

    /// How many slots of each pool keep what they hold.
    pub(super) fn kept_slots(&self) -> usize {
        self.shelf.kept()
    }

    /// Give back what entries that wait have used and may not keep. The answers are the kernel's by now, or will be by this.
    fn give_back(&self) {
        let mut keep = self.keep.borrow_mut();
        if !keep.is_due() {
            return;
        }
        let mut ring = self.ring.borrow_mut();
        if let Some(settled) = ring.settled() {
            keep.give_back(|id| settled.waits(id), |id| settled.discard(id));
        }
    }

    /// `entry`, and what its slot has `kept` of data, are going to be used for something else: wait for what filesystems have left running over it.
    pub(super) fn settle(&self, entry: &mut Entry, kept: &[u8]) {
        let mut ring = self.ring.borrow_mut();
        ring.settle(entry.parts().1.as_ptr_range());
        ring.settle(kept.as_ptr_range());
    }

    /// The entry of a queue is about to be registered again, after that has come of this command.
    pub(super) fn retry(&self, queue: usize, command: Command) {
        std::thread::sleep(PAUSE);
        // The first one of a queue has nothing to wait for it: there is no ring before that.
        if command == Command::Commit || self.stands_in || self.reached[queue].get() {
            self.owe(queue, 1);
        }
    }

    /// So many entries of a queue are new to the kernel, and do not get requests that wait already.
    fn owe(&self, queue: usize, entries: usize) {
        self.lots[queue].owed.set(self.lots[queue].owed.get() + entries);
        self.owes.set(self.owes.get() || entries > 0);
    }

    /// A request of our own has come on a queue that was `meant` for that of this number. If it has gone astray, another one is made.
    pub(super) fn stirred(&self, queue: usize, meant: u16) {
        if self.queues[queue] != meant {
            tracing::debug!(queue = self.queues[queue], meant, "a request of our own went astray");
            self.crew.kick(meant, 1);
        }
    }

    /// Make the requests that are owed. Earlier than the kernel knows of the entries, they would be in vain.
    fn kick(&self) {
        if !self.owes.take() || self.closed.get() {
            return;
        }
        self.submit_all();
        for (lot, &queue) in self.lots.iter().zip(&self.queues) {
            let entries = lot.owed.take();
            if entries > 0 {
                self.crew.kick(queue, entries);
            }
        }
    }

    /// Tell the kernel of all that is queued; it may be short of memory for a moment.
    fn submit_all(&self) {
        let mut ring = self.ring.borrow_mut();
        for _ in 0..SUBMITS {
            if !ring.has_queued() {
                return;
            }
            ring.submit();
            if ring.has_queued() {
                std::thread::sleep(PAUSE);
            }
        }
        tracing::debug!("the kernel does not take all commands");
    }

    /// The connection is gone.
    pub(super) fn close(&self) {
        self.closed.set(true);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(super) fn rest(&self) -> &Rest {
        self.crew.rest()
    }

    /// May entries of this thread rest? Those of a home thread may not.
    pub(super) fn stands_in(&self) -> bool {
        self.stands_in
    }

    /// A request for `node` is about to be answered: send a spare entry to rest, if one should and the node `is_file`. Whoever serves does
    /// that. Should the home thread's entry get what was meant for a spare one, it is free last after that, and so serves next.
    pub(super) fn spares_rest(&self, queue: usize, node: u64, is_file: impl FnOnce() -> bool) {
        if self.rest().is_wanted(self.queues[queue]) && is_file() {
            self.rest().send_one(self.queues[queue], node);
        }
    }

    /// The entry of a slot rests from now on. Is its memory to be given back?
    pub(super) fn rests(&self, id: usize, queue: usize) -> bool {
        self.rest().rests(self.queues[queue]);
        self.stock.rests(queue);
        self.resting.borrow_mut().push(id);
        self.spare.set_resting(self.resting.borrow().len());
        self.keep.borrow_mut().rests(id)
    }

    /// Are entries that rest to take part again?
    pub(super) fn is_called(&self) -> bool {
        self.called.get()
    }

    /// One that rested does.
    pub(super) fn takes_part(&self, queue: usize) {
        self.stock.takes_part(queue);
        self.rest().wakes(self.queues[queue]);
    }

    /// All entries that a queue has here are with handlers that wait, if it has any.
    fn lacks_entries(&self, queue: usize, Found { free, at_rest, .. }: Found) -> bool {
        free == 0 && at_rest == 0 && self.lots[queue].slots.get() > 0 && !self.closed.get()
    }

    /// A queue got no further entry although it needed one; or it has some again.
    fn set_full(&self, queue: usize, is_full: bool) {
        self.stock.set_bare(queue, is_full);
        self.rest().set_full(self.queues[queue], is_full);
    }

    /// Have the slots whose entries rest look whether these still should.
    fn rouse(&self) {
        self.due.borrow_mut().append(&mut self.resting.borrow_mut());
        self.spare.set_resting(0);
    }

    /// A request begins. Not one of our own.
    pub(super) fn begins(&self, queue: usize, opcode: u32, node: u64) {
        self.reached[queue].set(true);
        self.stock.begins(queue);
        self.crew.kicker().open().begins(opcode, node);
    }

    /// An OPEN of this node is about to be answered, perhaps with an error.
    pub(super) fn opened(&self, node: u64, error: Option<Errno>) {
        self.rest().opened(error);
        if error.is_none() {
            self.crew.kicker().open().opened(node);
        }
    }

    /// The kernel does not take an entry of a queue. Until each queue has one, requests come over `/dev/fuse`; afterwards, never again.
    pub(super) fn refused(&self, queue: usize, errno: Errno) {
        if self.stands_in {
            self.rest().rests(self.queues[queue]);
        }
        self.lots[queue].slots.set(self.lots[queue].slots.get() - 1);
        self.lots[queue].denied.set(true);
        self.crew.pools().give_back(self.queues[queue]);
        self.crew.refused(errno);
        if self.lots[queue].slots.get() == 0 && self.reached[queue].get() && !self.stands_in {
            self.crew.fails("a queue of the ring has lost its last entry");
        }
    }

    /// Submit, wait, sort what has come. Was a task woken?
    fn wait(&self) -> bool {
        self.give_back();
        let mut ring = self.ring.borrow_mut();
        if !self.polls(&mut ring) {
            ring.wait();
        }
        self.sort(&mut ring)
    }

    /// Poll, if that is wanted. Has something come?
    fn polls(&self, ring: &mut Ring) -> bool {
        let Some(limit) = self.board.spin(self.last.get()) else { return false };
        let (spent, has_come) = ring.spin(limit);
        self.board.polled(spent, has_come);
        has_come
    }

    fn sort(&self, ring: &mut Ring) -> bool {
        let (mut done, mut due) = (self.done.borrow_mut(), self.due.borrow_mut());
        let mut awake = false;
        while let Some(event) = ring.next() {
            let Event::Done(id, entry, result) = event else {
                awake = true;
                continue;
            };
            if done.len() <= id {
                done.resize_with(id + 1, || None);
            }
            done[id] = Some((entry, result));
            due.push(id);
        }
        awake
    }

    /// It was woken, perhaps to hear that all is over, or that what rests is called for.
    fn heed(&self) {
        if self.crew.has_ended() {
            self.close();
        }
        if self.spare.hears() {
            self.called.set(true);
            self.rouse();
        }
        if self.spare.is_nudged() {
            self.lots.iter().for_each(|lot| lot.denied.set(false));
        }
    }

    /// Answers must not wait until the next request has been served.
    fn submit_if_queued(&self) {
        let mut ring = self.ring.borrow_mut();
        if ring.has_queued() {
            ring.submit();
        }
    }
}

/// The body of a ring thread: ends when the connection does, or when the kernel takes none of its entries.
pub(super) fn run<F: FileSystem, L: Layer>(session: &Session<F>, layer: &L, crew: &Arc<Crew>, post: Post) {
    let Post { mut ring, entries, queues, group, payload, status, board, stands_in, spare, stock } = post;
    let wake = spare.wake().clone();
    status.begins();
    let _ends = Ends(&status, crew, &wake);
    crew.joins(&wake);
    let shelf = Shelf::open(&mut ring, crew, &queues);
    let ready = Ready::new({
        let wake = wake.clone();
        move || _ = rustix::io::write(&wake, &1u64.to_ne_bytes())
    });
    let reached = queues.iter().map(|_| Cell::new(false)).collect();
    let lots = queues.iter().map(|_| Lot::default()).collect();
    let keep = RefCell::new(Keep::new(crew.allowance().clone(), group));
    let ring = Rc::new(RefCell::new(ring));
    let _offered = Offered::new(ring.clone());
    let local = Rc::new(Local {
        ring,
        queues,
        done: RefCell::default(),
        due: RefCell::default(),
        lots,
        keep,
        group,
        last: Cell::new(u16::MAX),
        board,
        closed: Cell::new(false),
        shelf,
        crew: crew.clone(),
        stands_in,
        spare,
        resting: RefCell::default(),
        called: Cell::new(false),
        reached,
        stock,
        owes: Cell::new(false),
    });
    let mut tasks = Tasks::new(ready);
    for (queue, entry) in entries {
        serve(session, layer, &local, &mut tasks, (queue, entry));
        local.owe(queue, usize::from(stands_in));
    }
    local.kick();
    if crew.has_ended() {
        local.close();
    }
    while !local.closed.get() && tasks.live() > 0 {
        status.reads();
        let woken = local.wait();
        status.serves();
        crew.watch().awaken();
        if woken {
            drain(&wake);
            tasks.poll_woken();
            local.heed();
        }
        while let Some(id) = { local.due.borrow_mut().pop() } {
            tasks.poll(id);
            if !local.due.borrow().is_empty() {
                local.submit_if_queued();
            }
        }
        local.called.set(false);
        tend(session, layer, &local, &mut tasks, payload);
    }
    finish(session, &local, &mut tasks, &wake);
}

/// Tells others that a thread has ended, however it does.
struct Ends<'a>(&'a Status, &'a Crew, &'a Arc<OwnedFd>);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let Self(status, crew, wake) = self;
        crew.leaves(wake);
        status.ends();
    }
}

/// See to it that each queue has an entry that waits for a request.
fn tend<'t, F: FileSystem, L: Layer>(
    session: &'t Session<F>,
    layer: &L,
    local: &Rc<Local>,
    tasks: &mut Tasks<'t>,
    payload: usize,
) {
    for (queue, lot) in local.lots.iter().enumerate() {
        let found = local.stock.of(queue);
        if local.lacks_entries(queue, found) {
            grow(session, layer, local, tasks, (queue, payload));
        } else if found.free > 0 && (found.is_bare || lot.denied.get()) {
            local.set_full(queue, false);
            lot.denied.set(false);
        }
    }
    local.kick();
}

/// How many entries a queue gets at a time, at most: for each of them a request is made, too.
const GROWTH: usize = 32;

/// All entries of a queue are in the hands of handlers that wait for something, perhaps for a request that is yet to come: it gets as
/// many again. Where it cannot, an entry that rests takes part again.
fn grow<'t, F: FileSystem, L: Layer>(
    session: &'t Session<F>,
    layer: &L,
    local: &Rc<Local>,
    tasks: &mut Tasks<'t>,
    (queue, payload): (usize, usize),
) {
    let there = local.lots[queue].slots.get();
    let room = limits::ENTRIES_PER_QUEUE
        .saturating_sub(there)
        .min((limits::ENTRIES_PER_THREAD + local.queues.len()).saturating_sub(tasks.next_id()));
    let room = if local.lots[queue].denied.get() { 0 } else { room };
    for _ in 0..there.clamp(1, GROWTH).min(room) {
        if !local.crew.pools().has_room(local.queues[queue]) {
            break;
        }
        match Entry::new(payload) {
            Ok(entry) => serve(session, layer, local, tasks, (queue, entry)),
            Err(error) => {
                tracing::warn!(%error, "no memory for a further request");
                break;
            }
        }
    }
    let more = local.lots[queue].slots.get() - there;
    if more > 0 {
        local.owe(queue, more);
    } else {
        tracing::debug!(queue = local.queues[queue], there, "no further entry");
        local.set_full(queue, true);
        local.crew.call(local.group);
    }
}

/// A further slot.
fn serve<'t, F: FileSystem, L: Layer>(
    session: &'t Session<F>,
    layer: &L,
    local: &Rc<Local>,
    tasks: &mut Tasks<'t>,
    (queue, mut entry): (usize, Entry),
) {
    if !local.crew.pools().take(local.queues[queue]) {
        tracing::debug!(queue = local.queues[queue], "no slot left for an entry");
        return;
    }
    local.shelf.equip(&mut entry, tasks.next_id(), queue);
    local.lots[queue].slots.set(local.lots[queue].slots.get() + 1);
    if local.stands_in {
        local.rest().wakes(local.queues[queue]);
    }
    let slot = UringSlot::new(local.clone(), (tasks.next_id(), queue), session.agreed(), entry);
    let mut slot = layer.wrap(slot);
    let id = tasks.spawn(async move { session.serve(&mut slot).await });
    tasks.poll(id);
}

/// The connection is gone: tell handlers that still wait, and let them end. The thread must not end before the kernel has
/// given back every entry.
fn finish<F: FileSystem>(session: &Session<F>, local: &Local, tasks: &mut Tasks<'_>, wake: &OwnedFd) {
    let deadline = Instant::now() + GRACE;
    // A thread all of whose entries were refused ends, too: then others go on.
    if local.is_closed() {
        // Also what is begun with from now on: the kernel may have put a request into an entry that has not been looked at.
        session.interrupt_for_good();
    }
    local.close();
    loop {
        local.rouse();
        tasks.poll_woken();
        while let Some(id) = { local.due.borrow_mut().pop() } {
            tasks.poll(id);
        }
        let lending = local.ring.borrow().is_lending();
        if tasks.live() == 0 && !lending {
            return;
        }
        if Instant::now() >= deadline && !lending {
            tracing::warn!(handlers = tasks.live(), "handlers that did not end are given up");
            return;
        }
        if lending {
            local.wait();
        } else {
            let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            _ = rustix::event::poll(
                &mut [rustix::event::PollFd::new(wake, rustix::event::PollFlags::IN)],
                Some(&limit),
            );
        }
        drain(wake);
    }
}

fn drain(wake: &OwnedFd) {
    let mut count = [0; 8];
    // Nonblocking: nothing there is nothing lost.
    _ = rustix::io::read(wake, &mut count);
}
