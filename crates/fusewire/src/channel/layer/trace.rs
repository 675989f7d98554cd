//! One tracing event per request.

use super::Layer;
use crate::{
    proto::{message::Message, negotiate::Agreed},
    session::{Answered, Slot},
};
use fusewire_abi::{InHeader, Opcode};
use std::time::{Duration, Instant};

/// Emits a [`tracing`] event at `INFO`, target `fusewire::request`, for each request once it was answered: which
/// operation, on which node, by whom, how long it took in microseconds, and what came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace {
    threshold: Duration,
}

impl Trace {
    /// Tell of every request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tell only of requests that took at least this long.
    pub fn slower_than(threshold: Duration) -> Self {
        Self { threshold }
    }
}

impl Layer for Trace {
    type Slot<S: Slot> = TraceSlot<S>;

    fn wrap<S: Slot>(&self, inner: S) -> TraceSlot<S> {
        TraceSlot { inner, threshold: self.threshold, header: InHeader::default(), began: Instant::now() }
    }
}

/// A slot under [`Trace`].
#[derive(Debug)]
pub struct TraceSlot<S> {
    inner: S,
    threshold: Duration,
    header: InHeader,
    began: Instant,
}

impl<S: Slot> Slot for TraceSlot<S> {
    fn agreed(&self) -> Agreed {
        self.inner.agreed()
    }

    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])> {
        let (message, area) = self.inner.next().await?;
        self.header = message.header;
        self.began = Instant::now();
        Some((message, area))
    }

    fn area(&mut self) -> &mut [u8] {
        self.inner.area()
    }

    async fn finish(&mut self, unique: u64, answer: Answered) {
        // The caller need not wait until the event is written.
        let took = self.began.elapsed();
        self.inner.finish(unique, answer).await;
        if took < self.threshold {
            return;
        }
        let InHeader { opcode, nodeid: node, uid, gid, pid, .. } = self.header;
        let op = Opcode::from_raw(opcode).map_or("unknown", Opcode::name);
        let micros = took.as_micros() as u64;
        tracing::info!(target: "fusewire::request", op, node, uid, gid, pid, unique, micros, result = %answer);
    }
}
