//! Pools of payloads, and clients' pages, where the kernel has them (protocol 7.46, Linux 7.3).
//!
//! A queue with a pool gives a request a slot only if it has something to carry, so that entries which wait for
//! something need none. A request that finds no slot is not looked at again when one becomes free, only when
//! another is answered. So a queue has as many slots as it may get entries, as far as a pool may be that long; pinned pools have
//! fewer. Where there are fewer, a request with data may have to wait for another one with data, but never for one without, such
//! as one for a lock.

use super::{crew::Crew, queues::Queues};
use crate::{
    limits,
    proto::negotiate::Agreed,
    sys::{
        pool::{MOST_BUFFERS, PayloadPool},
        uring::{Entry, Pooled, Ring},
    },
    types::Errno,
};
use fusewire_abi::InitFlags;
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Where the payloads of a ring's requests are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Buffers {
    /// In a pool for each queue where the kernel has them (Linux 7.3); without a copy where it offers that, too, to who has
    /// `CAP_SYS_ADMIN`, for files that are opened for it ([`FopenFlags::IO_URING_ZERO_COPY`](crate::FopenFlags)).
    #[default]
    Auto,
    /// Each entry has its own.
    Own,
    /// In pools, and always by a copy.
    Pool,
    /// As `Auto`, and all memory of the pools is pinned from the start: the kernel need not look for its pages at each request.
    /// Fewer requests with data can be under way at a time, since no pool can grow. Where memory does not allow four for each queue, it
    /// is as `Auto`.
    Pinned,
}

/// How often and how long to wait for the kernel to be ready for a queue.
const ATTEMPTS: usize = 1000;
const PAUSE: Duration = Duration::from_millis(1);

/// Longest pool: half of what the kernel can copy at a time.
const LONGEST: usize = 1 << 30;

/// With fewer slots than this, requests with data would wait for each other: then no pool is pinned.
const LEAST_PINNED: usize = 4;

/// What was decided for all queues.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Bytes of a payload, as the kernel cuts pools.
    slot: usize,
    /// Slots of each pool, unless it is pinned.
    slots: usize,
    /// How many of them may keep what they hold, which is how many there are if it is pinned.
    kept: usize,
    pinned: bool,
    zero_copy: bool,
    /// Length of each ring's table of buffers, and how many of its places are for pools.
    table: (usize, usize),
}

/// How many entries there may still be.
#[derive(Debug)]
pub(super) struct Budget(AtomicUsize);

impl Budget {
    pub(super) fn new(entries: usize) -> Self {
        Self(entries.into())
    }

    pub(super) fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Permission for so many more, or for none.
    pub(super) fn take(&self, entries: usize) -> bool {
        let less = |left: usize| left.checked_sub(entries);
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// They were not made.
    pub(super) fn give_back(&self, entries: usize) {
        self.0.fetch_add(entries, Ordering::Relaxed);
    }
}

/// The pool of a queue.
#[derive(Clone, Debug)]
struct Made {
    pool: Arc<PayloadPool>,
    is_pinned: bool,
    zero_copy: bool,
}

/// The pools of a mount.
#[derive(Debug)]
pub(super) struct Pools {
    plan: Option<Plan>,
    /// By queue; filled by the first thread that serves it.
    made: Vec<OnceLock<Option<Made>>>,
    /// By queue, how many entries it may still get.
    left: Vec<Budget>,
    told: OnceLock<()>,
}

impl Pools {
    /// For the queues of a mount on which that was agreed. `sees_data`: somebody between kernel and filesystem looks at data.
    pub(super) fn new(queues: &Queues, agreed: Agreed, sees_data: bool) -> Self {
        let count = queues.groups.iter().map(Vec::len).sum();
        let plan = plan(queues, agreed, sees_data);
        let most = limits::ENTRIES_PER_QUEUE + limits::SPARE_READERS;
        let slots = if plan.is_some() { most } else { usize::MAX / 2 };
        Self {
            plan,
            made: (0..count).map(|_| OnceLock::new()).collect(),
            left: (0..count).map(|_| Budget::new(slots)).collect(),
            told: OnceLock::new(),
        }
    }

    /// There is one entry less.
    pub(super) fn give_back(&self, queue: u16) {
        self.left[usize::from(queue)].give_back(1);
    }

    /// Would [`take`](Self::take) be granted?
    pub(super) fn has_room(&self, queue: u16) -> bool {
        self.left[usize::from(queue)].left() > 0
    }

    /// Permission for one entry more on a queue.
    pub(super) fn take(&self, queue: u16) -> bool {
        self.left[usize::from(queue)].take(1)
    }

    /// Tell once what has come of it.
    fn tell(&self, plan: Plan, made: &Result<Made, Errno>) {
        self.told.get_or_init(|| match made {
            Ok(made) => {
                let (pinned, zero_copy, slots) = (made.is_pinned, made.zero_copy, made.pool.slots());
                tracing::info!(
                    slots,
                    bytes = plan.slot,
                    pinned,
                    zero_copy,
                    "each queue has a pool of payloads"
                );
            }
            Err(errno) => tracing::warn!(%errno, "no pools: each entry has a payload of its own"),
        });
    }
}

fn plan(queues: &Queues, agreed: Agreed, sees_data: bool) -> Option<Plan> {
    let refused = |reason| tracing::debug!(reason, "each entry has a payload of its own");
    if queues.buffers == Buffers::Own {
        refused("that was asked for");
        return None;
    }
    if !agreed.flags.contains(InitFlags::HAS_IO_URING_BUFPOOL) {
        refused("the kernel has no pools; Linux 7.3 does");
        return None;
    }
    let count: usize = queues.groups.iter().map(Vec::len).sum();
    let widest = queues.groups.iter().map(Vec::len).max().unwrap_or(1);
    let kept = queues.entries / count.max(1);
    let mut pinned = queues.buffers == Buffers::Pinned;
    if pinned && kept < LEAST_PINNED {
        tracing::info!(kept, "pools are not pinned: memory (--memory) allows too few slots for each queue");
        pinned = false;
    }
    let slot = agreed.reply_area();
    let slots = (limits::ENTRIES_PER_QUEUE + limits::SPARE_READERS).min(LONGEST / slot.max(1));
    // An entry of a thread has a number of its own, and there are no more entries than that.
    let table = 2 * widest + limits::ENTRIES_PER_THREAD;
    let zero_copy = !sees_data && queues.buffers != Buffers::Pool && table <= MOST_BUFFERS;
    if sees_data {
        tracing::debug!("no zero copy: a layer looks at the data");
    }
    let (kept, table) = (kept.max(1), (table, widest));
    Some(Plan { slot, slots, kept, pinned, zero_copy, table })
}

/// What a ring thread knows of the pools of its queues.
#[derive(Debug)]
pub(super) struct Shelf {
    made: Vec<Option<Made>>,
    pools: usize,
    kept: usize,
}

impl Shelf {
    /// Have the kernel make `queues`, which this thread is going to serve, unless another has. Before their first entry.
    pub(super) fn open(ring: &mut Ring, crew: &Crew, queues: &[u16]) -> Self {
        let pools = crew.pools();
        let Some(plan) = pools.plan else {
            return Self { made: vec![None; queues.len()], pools: 0, kept: 0 };
        };
        let has_table = (plan.pinned || plan.zero_copy)
            && ring
                .make_table(plan.table.0)
                .inspect_err(|error| tracing::info!(%error, "no table of buffers: no zero copy"))
                .is_ok();
        let plan = Plan { pinned: plan.pinned && has_table, zero_copy: plan.zero_copy && has_table, ..plan };
        let queues = queues.iter().enumerate().map(|(index, &queue)| {
            let mut fresh = false;
            let made = pools.made[usize::from(queue)].get_or_init(|| {
                fresh = true;
                let made = create(ring, (queue, index as u16), plan);
                pools.tell(plan, &made);
                made.ok()
            });
            if let Some(Made { pool, is_pinned: true, .. }) = made.as_ref().filter(|_| !fresh)
                && let Err(error) = ring.pin(pool, index as u16)
            {
                tracing::warn!(%error, queue, "a further thread cannot use the pool");
            }
            made.clone()
        });
        Self { made: queues.collect(), pools: plan.table.1, kept: plan.kept }
    }

    /// How many slots of each pool may keep what they hold.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Entry number `id` of this thread is for queue number `queue` of this thread.
    pub(super) fn equip(&self, entry: &mut Entry, id: usize, queue: usize) {
        let Some(made) = &self.made[queue] else { return };
        let index = made.is_pinned.then_some(queue as u16);
        let pages = made.zero_copy.then_some((self.pools + id) as u16);
        entry.join(Pooled { pool: made.pool.clone(), index, pages, at: None });
    }
}

/// Make a queue with a pool, and with zero copy if that can be had.
fn create(ring: &mut Ring, (queue, index): (u16, u16), plan: Plan) -> Result<Made, Errno> {
    let mut zero_copy = plan.zero_copy;
    let mut added = once_ready(|| ring.add_queue(queue, zero_copy));
    if let Err(errno) = added
        && zero_copy
    {
        tracing::debug!(%errno, "no zero copy: it needs CAP_SYS_ADMIN");
        zero_copy = false;
        added = once_ready(|| ring.add_queue(queue, false));
    }
    added?;
    let place = (queue, index);
    if plan.pinned {
        match fill(ring, place, (plan.slot, plan.kept), true) {
            Ok(pool) => return Ok(Made { pool, is_pinned: true, zero_copy }),
            Err(errno) => {
                tracing::info!(%errno, "pools are not pinned; more locked memory: LimitMEMLOCK= of the service, or ulimit -l");
            }
        }
    }
    // Address space may be bounded, too.
    let pool = fill(ring, place, (plan.slot, plan.slots), false)
        .or_else(|_| fill(ring, place, (plan.slot, plan.kept.max(LEAST_PINNED)), false))?;
    Ok(Made { pool, is_pinned: false, zero_copy })
}

/// Give a queue a pool of so many slots of such a size.
fn fill(
    ring: &mut Ring,
    (queue, index): (u16, u16),
    (slot, slots): (usize, usize),
    pinned: bool,
) -> Result<Arc<PayloadPool>, Errno> {
    let pool = PayloadPool::new(slot, slots).map_err(|_| Errno::NOMEM)?;
    if pinned {
        ring.pin(&pool, index).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOMEM))?;
    }
    once_ready(|| ring.add_pool(queue, &pool, pinned.then_some(index)))?;
    Ok(Arc::new(pool))
}

/// The kernel may not have seen the answer to INIT yet.
fn once_ready(mut attempt: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    for _ in 0..ATTEMPTS {
        match attempt() {
            Err(Errno::AGAIN | Errno::INTR) => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(buffers: Buffers, possible: usize) -> Queues {
        let queues = Queues::new(possible, &[0, 1], None, 1 << 20, None);
        Queues { buffers, ..queues }
    }

    fn agreed(flags: InitFlags) -> Agreed {
        Agreed { flags, minor: 46, max_write: limits::MAX_WRITE, max_pages: 256 }
    }

    #[test]
    fn there_are_pools_where_the_kernel_has_them_unless_told_otherwise() {
        let has = agreed(InitFlags::HAS_IO_URING_BUFPOOL);
        assert!(plan(&queues(Buffers::Own, 2), has, false).is_none());
        assert!(plan(&queues(Buffers::Auto, 2), agreed(InitFlags::empty()), false).is_none());
        let auto = plan(&queues(Buffers::Auto, 2), has, false).expect("pools");
        assert!(auto.zero_copy && !auto.pinned && auto.slot == 1 << 20);
        assert!(!plan(&queues(Buffers::Pool, 2), has, false).expect("pools").zero_copy);
        assert!(!plan(&queues(Buffers::Auto, 2), has, true).expect("pools").zero_copy);
    }

    #[test]
    fn a_queue_has_as_many_slots_as_a_pool_can_have() {
        for possible in [1, 2, 64] {
            let queues = queues(Buffers::Auto, possible);
            let agreed = agreed(InitFlags::HAS_IO_URING_BUFPOOL);
            let plan = plan(&queues, agreed, false).expect("pools");
            assert!(plan.kept * possible <= queues.entries && plan.slots * plan.slot == LONGEST);
            assert!(plan.zero_copy && plan.table.0 <= MOST_BUFFERS);
        }
    }

    #[test]
    fn pinned_pools_take_no_more_than_the_budget() {
        for (possible, pinned) in [(1, true), (2, true), (16, true), (17, false), (64, false)] {
            let queues = queues(Buffers::Pinned, possible);
            let plan = plan(&queues, agreed(InitFlags::HAS_IO_URING_BUFPOOL), false).expect("pools");
            assert_eq!(plan.pinned, pinned);
            assert!(!pinned || plan.kept >= LEAST_PINNED && plan.kept * possible <= queues.entries);
        }
    }

    #[test]
    fn of_a_budget_all_that_is_asked_for_is_taken_or_nothing() {
        let budget = Budget::new(5);
        assert!(budget.take(3) && !budget.take(3) && budget.left() == 2);
        budget.give_back(3);
        assert!(budget.take(5) && !budget.take(1) && budget.take(0));
    }

    #[test]
    fn entries_beyond_what_a_queue_may_have_are_refused() {
        let queues = queues(Buffers::Pinned, 64);
        let pools = Pools::new(&queues, agreed(InitFlags::HAS_IO_URING_BUFPOOL), false);
        while pools.has_room(3) {
            assert!(pools.take(3));
        }
        assert!(!pools.take(3) && pools.take(4));
        pools.give_back(3);
        assert!(pools.has_room(3) && pools.take(3) && !pools.take(3));
    }
}
