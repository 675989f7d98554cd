//! What the governors of ring threads need to see, and what becomes of their orders. Runs on the watch's thread, every
//! eight milliseconds while requests come; a crew whose threads have nothing to decide has none of it.

use super::queues::Queues;
use crate::channel::{
    poll::{Board, Governed, Governor, Room, online, others},
    watch::Status,
};
use std::{fs, sync::Arc, time::Instant};

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
            Governed::seated(Governor::new(own, &seats, cpu), statuses[group].clone(), board)
        };
        let threads =
            boards.into_iter().enumerate().filter(|(_, board)| board.is_governed()).map(govern).collect();
        Self { threads, room: Room::default(), cpus: online(), last: Instant::now() }
    }

    /// A window has passed.
    pub(super) fn window(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        let elapsed = std::mem::replace(&mut self.last, Instant::now()).elapsed();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        self.room.look(others(&load), self.cpus);
        for thread in &mut self.threads {
            thread.window(elapsed, &mut self.room);
        }
    }
}
