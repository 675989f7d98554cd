//! A thread that has something to decide, its governor, and what becomes of the governor's orders. Runs on the thread of a watch.

use super::{Board, Count, Governor, Order, Room, Sample};
use crate::channel::{placement::seat, watch::Status};
use std::{fs, sync::Arc, time::Duration};

/// A thread, its governor, and what was known of it the last time.
#[derive(Debug)]
pub(crate) struct Governed {
    board: Arc<Board>,
    status: Arc<Status>,
    governor: Governor,
    /// It sits where its governor says, not where the scheduler puts it.
    sits: bool,
    order: Option<Order>,
    count: Count,
    cpu: Duration,
    preempted: u64,
}

impl Governed {
    /// A thread that sits where `governor` says.
    pub(crate) fn seated(governor: Governor, status: Arc<Status>, board: Arc<Board>) -> Self {
        Self::new(governor, (status, board), true)
    }

    /// One that the scheduler puts where it likes.
    pub(crate) fn anywhere(governor: Governor, status: Arc<Status>, board: Arc<Board>) -> Self {
        Self::new(governor, (status, board), false)
    }

    fn new(governor: Governor, (status, board): (Arc<Status>, Arc<Board>), sits: bool) -> Self {
        let (count, cpu) = (board.count(), Duration::ZERO);
        Self { board, status, governor, sits, order: None, count, cpu, preempted: 0 }
    }

    /// A window has passed: have the governor decide.
    pub(crate) fn window(&mut self, elapsed: Duration, room: &mut Room) {
        let count = self.board.count();
        let before = std::mem::replace(&mut self.count, count);
        let requests: Vec<u64> =
            self.count.requests.iter().zip(&before.requests).map(|(now, then)| now - then).collect();
        let cpu = self.status.cpu_time();
        let preempted = if self.polls() { self.preemptions() } else { self.preempted };
        let sample = Sample {
            elapsed,
            requests: &requests,
            cpu: cpu.saturating_sub(self.cpu),
            spun: self.count.spun.saturating_sub(before.spun),
            hits: self.count.hits - before.hits,
            preempted: preempted.saturating_sub(self.preempted),
        };
        (self.cpu, self.preempted) = (cpu, preempted);
        let order = self.governor.step(&sample, room).clone();
        if self.order.as_ref() != Some(&order) {
            self.obey(order);
        }
    }

    /// What happened up to now is nothing to decide by.
    pub(crate) fn skip(&mut self) {
        (self.count, self.cpu) = (self.board.count(), self.status.cpu_time());
    }

    /// Have the thread do as it was ordered, or (`false`) sleep for the time being.
    pub(crate) fn resume(&mut self, polls: bool) {
        match &self.order {
            Some(order) if polls => {
                self.board.order(order);
                self.preempted = self.preemptions();
            }
            _ => self.board.rest(),
        }
    }

    fn obey(&mut self, order: Order) {
        // Of those who sleep nothing is read: in a sandbox without proc that would be a guest's file.
        if !self.polls() && !order.spin.is_zero() {
            self.preempted = self.preemptions();
        }
        let before = self.order.replace(order.clone());
        if self.sits && before.as_ref().is_none_or(|before| before.cpu != order.cpu) {
            seat(&self.status, &[order.cpu]);
        }
        self.board.order(&order);
        let is_news = before.is_none_or(|before| (before.cpu, before.why) != (order.cpu, order.why));
        if is_news {
            let Order { cpu, spin, why } = order;
            let cpu = self.sits.then_some(cpu);
            tracing::debug!(tid = ?self.status.tid(), cpu, spin_us = spin.as_micros(), ?why, "how a thread waits");
        }
    }

    /// Is it to poll?
    pub(crate) fn polls(&self) -> bool {
        self.order.as_ref().is_some_and(|order| !order.spin.is_zero())
    }

    /// Involuntary context switches so far. Of interest only while it polls.
    fn preemptions(&self) -> u64 {
        preemptions(&self.status).unwrap_or(0)
    }
}

fn preemptions(of: &Status) -> Option<u64> {
    let path = format!("/proc/self/task/{}/status", of.tid()?.as_raw_nonzero());
    let status = fs::read_to_string(path).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

/// How many threads of the machine run or want to, besides the calling one; `load` is what `/proc/loadavg` says. Too many if it says nothing.
pub(crate) fn others(load: &str) -> usize {
    runnable(load).map_or(usize::MAX / 2, |runnable| runnable.saturating_sub(1))
}

pub(super) fn runnable(load: &str) -> Option<usize> {
    load.split_ascii_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

/// How many CPUs the machine has; 1 if that cannot be seen.
pub(crate) fn online() -> usize {
    listed(&fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default())
}

/// How many CPUs are in a list such as `0-3,8`; 1 if it makes no sense.
fn listed(list: &str) -> usize {
    let count = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some((last + 1).saturating_sub(first))
    };
    list.trim().split(',').filter_map(count).sum::<usize>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        assert_eq!(runnable("5.95 4.00 1.88 3/181 12345\n"), Some(3));
        assert_eq!(runnable(""), None);
        assert!(
            runnable(&fs::read_to_string("/proc/loadavg").expect("proc"))
                .is_some_and(|runnable| runnable > 0)
        );
        for (list, count) in [("0-1\n", 2), ("0\n", 1), ("0-3,8-63\n", 60), ("", 1), ("x\n", 1)] {
            assert_eq!(listed(list), count, "{list}");
        }
    }

    #[test]
    fn it_is_seen_how_often_a_thread_had_to_leave_its_cpu() {
        let status = Status::default();
        assert_eq!(preemptions(&status), None);
        status.begins();
        assert!(preemptions(&status).is_some());
    }
}
