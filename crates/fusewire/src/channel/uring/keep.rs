//! Which entries keep the memory of long requests.
//!
//! A queue gets as many entries as handlers wait: a bound on their number would keep out the request that sets the others free. What is
//! bounded is memory that stays. An entry's payload is address space; what a request or an answer of more than
//! [`limits::RING_LARGE`] has used of it stays only if the entry may keep it, and is given back otherwise, once the answer is the
//! kernel's. As many entries may as go into what `--memory` allows; each group of queues has its share, if there is one for
//! each. Within a thread it goes on to who needs it: the kernel prefers the entry that was free last, so one that has not been used
//! for long is not going to be.

use super::pool::Budget;
use crate::limits;
use std::{collections::VecDeque, sync::Arc};

/// How many entries may still keep their memory: by group, or for all together where there is less than one for each.
#[derive(Clone, Debug)]
pub(super) struct Allowance(Arc<[Budget]>);

impl Allowance {
    pub(super) fn new(entries: usize, groups: usize) -> Self {
        let shares = if entries < groups { 1 } else { groups.max(1) };
        Self((0..shares).map(|_| Budget::new(entries / shares)).collect())
    }

    fn of(&self, group: usize) -> &Budget {
        &self.0[group % self.0.len()]
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Memory {
    /// Only what short requests use.
    #[default]
    Little,
    /// A long request has used it, and it is to be given back.
    Used,
    /// It may stay.
    Kept,
}

/// The entries of one thread.
#[derive(Debug)]
pub(super) struct Keep {
    allowance: Allowance,
    group: usize,
    /// By number of the slot.
    memory: Vec<Memory>,
    /// Those that keep it, the one first that has done so for longest.
    kept: VecDeque<usize>,
    /// Those to be looked at before the thread waits.
    due: Vec<usize>,
}

impl Keep {
    pub(super) fn new(allowance: Allowance, group: usize) -> Self {
        Self { allowance, group, memory: Vec::new(), kept: VecDeque::new(), due: Vec::new() }
    }

    /// A request is answered that has used so many bytes. Is memory of this slot to be given back?
    pub(super) fn used(&mut self, id: usize, bytes: usize) -> bool {
        if self.memory.len() <= id {
            self.memory.resize(id + 1, Memory::Little);
        }
        let memory = &mut self.memory[id];
        if *memory == Memory::Little && bytes > limits::RING_LARGE {
            let may = self.allowance.of(self.group).take(1);
            *memory = if may { Memory::Kept } else { Memory::Used };
            if may {
                self.kept.push_back(id);
            }
        }
        let is_due = *memory == Memory::Used;
        if is_due {
            self.due.push(id);
        }
        is_due
    }

    /// Is there anything to give back?
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whose memory is given back now. `waits`: nothing is in the entry of this slot, and it waits for a request.
    pub(super) fn give_back(&mut self, waits: impl Fn(usize) -> bool, mut discard: impl FnMut(usize)) {
        while let Some(id) = self.due.pop() {
            if !waits(id) {
                // It has a request already, after which it is due again.
                continue;
            }
            let whose = match self.kept.front() {
                Some(&first) if waits(first) => {
                    self.kept.rotate_left(1);
                    if let Some(last) = self.kept.back_mut() {
                        *last = id;
                    }
                    self.memory[id] = Memory::Kept;
                    first
                }
                _ => id,
            };
            self.memory[whose] = Memory::Little;
            discard(whose);
        }
    }

    /// The entry is not going to be used for a while. Has it memory to give back?
    pub(super) fn rests(&mut self, id: usize) -> bool {
        let Some(memory) = self.memory.get_mut(id) else { return false };
        let had = std::mem::take(memory);
        if had == Memory::Kept {
            self.kept.retain(|&kept| kept != id);
            self.allowance.of(self.group).give_back(1);
        }
        had != Memory::Little
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        self.allowance.of(self.group).give_back(self.kept.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = limits::RING_LARGE + 1;

    fn keep(entries: usize) -> Keep {
        Keep::new(Allowance::new(entries, 1), 0)
    }

    /// What is given back where all but some wait.
    fn given_back(keep: &mut Keep, busy: &[usize]) -> Vec<usize> {
        let mut discarded = Vec::new();
        keep.give_back(|id| !busy.contains(&id), |id| discarded.push(id));
        discarded
    }

    #[test]
    fn short_requests_leave_nothing_to_give_back() {
        let mut keep = keep(0);
        assert!(!keep.used(3, limits::RING_LARGE) && !keep.is_due() && !keep.rests(3));
    }

    #[test]
    fn as_many_keep_their_memory_as_may() {
        let mut keep = keep(2);
        assert!(!keep.used(0, LONG) && !keep.used(1, LONG) && !keep.used(0, LONG));
        assert!(keep.used(2, LONG) && keep.is_due());
        // While those who keep it have requests.
        assert_eq!(given_back(&mut keep, &[0, 1]), [2]);
        assert!(!keep.is_due() && !keep.used(2, 10));
    }

    #[test]
    fn who_is_at_work_has_it_from_who_waits() {
        let mut keep = keep(2);
        (0..2).for_each(|id| assert!(!keep.used(id, LONG)));
        assert!(keep.used(2, LONG));
        assert_eq!(given_back(&mut keep, &[]), [0]);
        assert!(!keep.used(2, LONG) && !keep.used(1, LONG) && keep.used(0, LONG));
        assert_eq!(given_back(&mut keep, &[]), [1]);
    }

    #[test]
    fn an_entry_that_has_a_request_already_gives_back_after_it() {
        let mut keep = keep(0);
        assert!(keep.used(0, LONG));
        assert_eq!(given_back(&mut keep, &[0]), [0; 0]);
        assert!(keep.used(0, 10) && keep.is_due());
        assert_eq!(given_back(&mut keep, &[]), [0]);
        assert!(!keep.used(0, 10));
    }

    #[test]
    fn who_rests_or_ends_leaves_it_to_others() {
        let allowance = Allowance::new(3, 1);
        let mut some = Keep::new(allowance.clone(), 0);
        (0..3).for_each(|id| assert!(!some.used(id, LONG)));
        let mut others = Keep::new(allowance, 0);
        assert!(others.used(0, LONG));
        assert!(some.rests(1) && !some.rests(1));
        assert!(!others.used(1, LONG) && others.used(2, LONG));
        drop(some);
        assert!(!others.used(3, LONG) && !others.used(4, LONG) && others.used(5, LONG));
    }

    #[test]
    fn each_group_has_its_share_if_there_is_one_for_each() {
        let allowance = Allowance::new(5, 2);
        for group in 0..2 {
            let mut keep = Keep::new(allowance.clone(), group);
            assert!(!keep.used(0, LONG) && !keep.used(1, LONG) && keep.used(2, LONG));
        }
        let allowance = Allowance::new(2, 128);
        let mut keeps: Vec<_> = (0..3).map(|group| Keep::new(allowance.clone(), group)).collect();
        assert!(!keeps[0].used(0, LONG) && !keeps[1].used(0, LONG) && keeps[2].used(0, LONG));
    }
}
