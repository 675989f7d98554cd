//! A machine in which ring threads, clients and others compete for CPUs: discrete events, nanoseconds, no clock and no chance. It runs
//! the governor as a mount does, at any number of CPUs.
//!
//! What it knows of scheduling: each CPU runs the runnable thread that has had least time; one that wakes gets the CPU if it has had
//! less than who runs there; who runs beside others is looked at again after a slice. Threads stay on their CPU, but for what a
//! governor moves. Hand-over inside a CPU and between CPUs costs what [`cost`] says.

mod cells;
mod engine;
mod page;

use super::{Governor, Order, Poll, Room, Sample, Why};
use engine::Machine;
use std::time::Duration;

/// What things take, nanoseconds. Measured with a null filesystem and 1 client on 2 CPUs of a virtual machine, Linux 6.18: 3.2 us there and
/// back on one CPU, 10.8 us between two, 6.6 us if the server polls; 3.8, 8.3 and 9.7 us of CPU time.
pub(super) mod cost {
    /// The client's system call, until its request is in the queue, and what it does with the answer.
    pub const CLIENT: u64 = 900;
    /// Taking a request, copying, handling, answering.
    pub const SERVER: u64 = 1100;
    /// From one thread to another on a CPU.
    pub const SWITCH: u64 = 500;
    /// Making a thread of the same CPU runnable.
    pub const WAKE: u64 = 100;
    /// Until a thread on another CPU is runnable there: an interrupt between CPUs, and the end of the idle state.
    pub const WAKE_OTHER: u64 = 3900;
    /// What of that keeps the waking CPU from doing anything else.
    pub const INTERRUPT: u64 = 1300;
    /// What of that the CPU that wakes up is busy with.
    pub const WAKE_UP: u64 = 1350;
    /// From a request to a polling thread that takes it.
    pub const CATCH: u64 = 200;
    /// A thread goes to another CPU.
    pub const MOVE: u64 = 50_000;
    /// After how long a thread is looked at again that runs while others want to.
    pub const SLICE: u64 = 3_000_000;
    /// A window of the watch.
    pub const WINDOW: u64 = 8_000_000;
}

/// Where the ring's threads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One on each CPU, for its queue: the default.
    Home,
    /// One for all queues, first on CPU 0 (`--threads 1`).
    Folded,
    /// The same, but the daemon may run on CPU 0 only (`taskset`).
    Confined,
}

/// When clients ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// The next request so long after an answer, nanoseconds.
    Closed(u64),
    /// At random, so long after the request before on average.
    Poisson(u64),
    /// So many requests one after the other, then a pause until such a time has passed.
    Burst(u32, u64),
}

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    pub cpus: usize,
    /// On CPUs 1, 2, ..., 0, 1, ...
    pub clients: usize,
    /// Every CPU but that of the first client has a thread that computes without end.
    pub busy: bool,
    pub shape: Shape,
    pub pattern: Pattern,
    pub poll: Poll,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Requests per second.
    pub rate: f64,
    /// Mean and 99th percentile from request to answer, microseconds.
    pub mean: f64,
    pub p99: f64,
    /// CPU time of clients and ring threads per request, microseconds.
    pub cpu: f64,
    /// Polling, in CPUs.
    pub polling: f64,
    /// The part of that which found nothing, in CPUs.
    pub in_vain: f64,
    /// Orders that differed from the one before.
    pub changes: usize,
}

impl Scene {
    /// Let it settle for `settle`, then watch it for `time`.
    pub fn run(&self, settle: Duration, time: Duration) -> Outcome {
        let mut machine = Machine::new(self);
        machine.run(settle.as_nanos() as u64);
        machine.forget();
        machine.run((settle + time).as_nanos() as u64);
        machine.outcome(time)
    }
}
