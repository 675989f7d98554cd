//! What the governors of ring threads need to see, and what becomes of their orders. Runs on the watch's thread, every
//! eight milliseconds while requests come; a crew whose threads have nothing to decide has none of it.

use super::queues::Queues;
use crate::channel::{
    placement,
    poll::{Board, Count, Governor, Order, Room, Sample},
    watch::Status,
};
use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

/// A thread, its governor, and what was known of it the last time.
#[derive(Debug)]
struct Governed {
    board: Arc<Board>,
    status: Arc<Status>,
    governor: Governor,
    order: Option<Order>,
    count: Count,
    cpu: Duration,
    preempted: u64,
}

/// The governors of all threads of a ring.
#[derive(Debug)]
pub(super) struct Government {
    threads: Vec<Governed>,
    room: Room,
    cpus: usize,
    last: Instant,
}

impl Government {
    pub(super) fn new(queues: &Queues, statuses: &[Arc<Status>], boards: Vec<Arc<Board>>) -> Self {
        let govern = |(group, board): (usize, Arc<Board>)| {
            let (own, cpu) = (&queues.groups[group], queues.cpus[group]);
            let may_sit =
                |&&seat: &&usize| seat == cpu || own.iter().any(|&queue| usize::from(queue) == seat);
            let seats: Vec<usize> = queues.allowed.iter().filter(may_sit).copied().collect();
            Governed {
                status: statuses[group].clone(),
                governor: Governor::new(own, &seats, cpu),
                order: None,
                count: board.count(),
                board,
                cpu: Duration::ZERO,
                preempted: 0,
            }
        };
        let threads =
            boards.into_iter().enumerate().filter(|(_, board)| board.is_governed()).map(govern).collect();
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
        Self { threads, room: Room::default(), cpus: listed(&online), last: Instant::now() }
    }

    /// A window has passed.
    pub(super) fn window(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        let elapsed = std::mem::replace(&mut self.last, Instant::now()).elapsed();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        // This thread is one of those.
        let runnable = runnable(&load).map_or(usize::MAX / 2, |runnable| runnable.saturating_sub(1));
        self.room.look(runnable, self.cpus);
        for thread in &mut self.threads {
            thread.window(elapsed, &mut self.room);
        }
    }
}

impl Governed {
    fn window(&mut self, elapsed: Duration, room: &mut Room) {
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

    fn obey(&mut self, order: Order) {
        if !self.polls() {
            self.preempted = self.preemptions();
        }
        let before = self.order.replace(order.clone());
        if before.as_ref().is_none_or(|before| before.cpu != order.cpu) {
            placement::seat(&self.status, &[order.cpu]);
        }
        self.board.order(&order);
        let is_news = before.is_none_or(|before| (before.cpu, before.why) != (order.cpu, order.why));
        if is_news {
            let Order { cpu, spin, why } = order;
            tracing::debug!(tid = ?self.status.tid(), cpu, spin_us = spin.as_micros(), ?why, "how a ring thread waits");
        }
    }

    fn polls(&self) -> bool {
        self.order.as_ref().is_some_and(|order| !order.spin.is_zero())
    }

    /// Involuntary context switches so far. Of interest only while it polls.
    fn preemptions(&self) -> u64 {
        let Some(tid) = self.status.tid() else { return 0 };
        let path = format!("/proc/self/task/{}/status", tid.as_raw_nonzero());
        let status = fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    }
}

/// How many threads of the machine run or want to; `load` is what `/proc/loadavg` says.
fn runnable(load: &str) -> Option<usize> {
    load.split_ascii_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
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
}
