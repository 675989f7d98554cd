//! A ring thread: serves the queues of one CPU or more through a ring of its own.

use super::{
    crew::Crew,
    pool::Shelf,
    rest::{Rest, Spare},
    slot::UringSlot,
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

/// What a ring thread works with, made before the kernel is told that there is a ring.
pub(super) struct Post {
    /// The ring, in use by this thread already.
    pub ring: Ring,
    /// One entry for each queue.
    pub entries: Vec<Entry>,
    /// The queues, by number.
    pub queues: Vec<u16>,
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
}

/// An entry that the kernel has given back, with a request or an error.
pub(super) type Done = (Entry, Result<(), Errno>);

/// What the slots of one ring thread share.
pub(super) struct Local {
    ring: Rc<RefCell<Ring>>,
    queues: Vec<u16>,
    /// What came out of the ring, by number of the slot.
    done: RefCell<Vec<Option<Done>>>,
    /// Slots that something came for.
    due: RefCell<Vec<usize>>,
    /// How many entries of each queue the kernel has.
    lent: Vec<Cell<usize>>,
    /// How many slots each queue has.
    slots: Vec<Cell<usize>>,
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
    /// How many requests of each queue have come here.
    reached: Vec<Cell<usize>>,
    /// The kernel has just not taken an entry: it is not offered another one at once.
    refused: Cell<bool>,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").field("queues", &self.queues).finish_non_exhaustive()
    }
}

impl Local {
    fn lend(&self, queue: usize) {
        self.lent[queue].set(self.lent[queue].get() + 1);
    }

    pub(super) fn register(&self, id: usize, entry: Entry, queue: usize) {
        self.lend(queue);
        self.ring.borrow_mut().register(id, entry, self.queues[queue]);
    }

    pub(super) fn commit(&self, id: usize, entry: Entry, queue: usize, commit_id: u64) {
        self.lend(queue);
        self.ring.borrow_mut().commit(id, entry, self.queues[queue], commit_id);
    }

    /// What came out of the ring for slot `id`.
    pub(super) fn take(&self, id: usize, queue: usize) -> Option<Done> {
        let done = self.done.borrow_mut().get_mut(id)?.take()?;
        self.lent[queue].set(self.lent[queue].get() - 1);
        self.last.set(self.queues[queue]);
        self.board.came(queue);
        Some(done)
    }

    /// `entry`, and what its slot has `kept` of data, are going to be used for something else: wait for what filesystems have left running over it.
    pub(super) fn settle(&self, entry: &mut Entry, kept: &[u8]) {
        let mut ring = self.ring.borrow_mut();
        ring.settle(entry.parts().1.as_ptr_range());
        ring.settle(kept.as_ptr_range());
    }

    /// Something is about to be registered again.
    pub(super) fn retry(&self) {
        std::thread::sleep(PAUSE);
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

    /// The entry of a slot rests from now on.
    pub(super) fn rests(&self, id: usize, queue: usize) {
        self.rest().rests(self.queues[queue]);
        self.resting.borrow_mut().push(id);
        self.spare.set_resting(self.resting.borrow().len());
    }

    /// Are entries that rest to take part again?
    pub(super) fn is_called(&self) -> bool {
        self.called.get()
    }

    /// One does.
    pub(super) fn takes_part(&self, queue: usize) {
        self.rest().wakes(self.queues[queue]);
    }

    /// Have the slots whose entries rest look whether these still should.
    fn rouse(&self) {
        self.due.borrow_mut().append(&mut self.resting.borrow_mut());
        self.spare.set_resting(0);
    }

    /// A request begins. Not one of our own.
    pub(super) fn begins(&self, queue: usize, opcode: u32, node: u64) {
        self.reached[queue].set(self.reached[queue].get() + 1);
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
        self.refused.set(true);
        self.crew.refused(errno);
        self.crew.entries().give_back(1);
        self.slots[queue].set(self.slots[queue].get() - 1);
        if self.slots[queue].get() == 0 && self.reached[queue].get() > 0 && !self.stands_in {
            self.crew.fails("a queue of the ring has lost its last entry");
        }
    }

    /// Queues all of whose entries are in the hands of handlers. One that has no slot was refused by the kernel.
    fn bare(&self) -> Vec<usize> {
        if self.refused.take() || self.closed.get() || !self.resting.borrow().is_empty() {
            return Vec::new();
        }
        // Most often there is none, and nothing is allocated.
        let is_bare = |&queue: &usize| self.lent[queue].get() == 0 && self.slots[queue].get() > 0;
        (0..self.queues.len()).filter(is_bare).collect()
    }

    /// Submit, wait, sort what has come. Was a task woken?
    fn wait(&self) -> bool {
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
    let Post { mut ring, entries, queues, payload, status, board, stands_in, spare } = post;
    let wake = spare.wake().clone();
    status.begins();
    crew.joins(&wake);
    let shelf = Shelf::open(&mut ring, crew, &queues);
    let ready = Ready::new({
        let wake = wake.clone();
        move || _ = rustix::io::write(&wake, &1u64.to_ne_bytes())
    });
    let none = || queues.iter().map(|_| Cell::new(0)).collect();
    let (lent, slots, reached) = (none(), none(), none());
    let ring = Rc::new(RefCell::new(ring));
    let _offered = Offered::new(ring.clone());
    let local = Rc::new(Local {
        ring,
        queues,
        done: RefCell::default(),
        due: RefCell::default(),
        lent,
        slots,
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
        refused: Cell::new(false),
    });
    let mut tasks = Tasks::new(ready);
    for (queue, entry) in entries.into_iter().enumerate() {
        serve(session, layer, &local, &mut tasks, (queue, entry));
    }
    if stands_in {
        local.submit_if_queued();
        local.queues.iter().for_each(|&queue| crew.kick(queue, 1));
    }
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
        for queue in local.bare() {
            grow(session, layer, &local, &mut tasks, (queue, payload));
        }
    }
    finish(session, &local, &mut tasks, &wake);
    status.ends();
}

/// All entries of a queue are in the hands of handlers that wait for something: it gets as many again, but leaves most of
/// what memory allows to other queues.
fn grow<'t, F: FileSystem, L: Layer>(
    session: &'t Session<F>,
    layer: &L,
    local: &Rc<Local>,
    tasks: &mut Tasks<'t>,
    (queue, payload): (usize, usize),
) {
    let there = local.slots[queue].get();
    let most = there.max(1).min(limits::SLOTS_PER_READER.saturating_sub(there));
    let entries = local.crew.entries();
    for _ in 0..most.min(entries.left().div_ceil(4)) {
        if !local.crew.pools().has_room(local.queues[queue]) || !entries.take(1) {
            break;
        }
        match Entry::new(payload) {
            Ok(entry) => serve(session, layer, local, tasks, (queue, entry)),
            Err(error) => {
                entries.give_back(1);
                tracing::warn!(%error, "no memory for a further request");
                break;
            }
        }
    }
    let more = local.slots[queue].get() - there;
    if more > 0 {
        local.submit_if_queued();
        local.crew.kick(local.queues[queue], more);
    } else {
        tracing::debug!(queue = local.queues[queue], there, "no memory left for entries");
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
        local.crew.entries().give_back(1);
        return;
    }
    local.shelf.equip(&mut entry, tasks.next_id(), queue);
    local.slots[queue].set(local.slots[queue].get() + 1);
    if local.stands_in {
        local.takes_part(queue);
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
