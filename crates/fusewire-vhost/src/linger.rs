//! A thread that has served all there was may look for more, for a while, before it has the guest tell it of requests.

use crate::{
    limits,
    queue::{Look, Queue},
};
use fusewire::channel::poll::Board;
use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

/// How often to tell the CPU that this is a busy loop before the ring is looked at again.
const PAUSES: u32 = 8;

/// What a thread is to do that has served all there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// There are more.
    Serve,
    /// Have the guest tell of more, and sleep.
    Sleep,
    /// It was woken for something else. The guest need not be asked to tell: the thread comes back at once.
    Hear,
}

/// How a queue's thread waits before it sleeps.
#[derive(Debug)]
pub(crate) struct Linger {
    board: Arc<Board>,
    /// Requests of the queue that the board knows of.
    known: u64,
}

impl Linger {
    /// As `board` says.
    pub(crate) fn new(board: Arc<Board>) -> Self {
        Self { board, known: 0 }
    }

    /// Look for requests, if that is wanted. The guest need not tell of them meanwhile.
    pub(crate) fn wait(&mut self, queue: &Queue) -> Next {
        if self.board.is_governed() {
            let taken = queue.taken();
            self.board.have_come(taken - std::mem::replace(&mut self.known, taken));
        }
        let Some((limit, _seat)) = self.board.limit().and_then(|limit| Some((limit, Seat::take()?))) else {
            return Next::Sleep;
        };
        // Whoever polls is not stuck.
        queue.status.reads();
        let begin = Instant::now();
        loop {
            let look = queue.look();
            let spent = begin.elapsed();
            if look != Look::Nothing || spent >= limit {
                self.board.polled(spent, look == Look::Requests);
                return match look {
                    Look::Requests => Next::Serve,
                    Look::Nothing | Look::Stopped => Next::Sleep,
                    Look::Called => Next::Hear,
                };
            }
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
        }
    }
}

/// One of the places for threads of this process that poll: never more at once than it has CPUs, whatever was ordered.
struct Seat;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

impl Seat {
    fn take() -> Option<Self> {
        static SEATS: LazyLock<usize> = LazyLock::new(limits::cpus);
        if TAKEN.fetch_add(1, Ordering::Relaxed) < *SEATS {
            return Some(Self);
        }
        TAKEN.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
    }
}
