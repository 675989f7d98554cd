//! Layers: slots around slots.
//!
//! [`Trace`] says what is asked, [`Record`] writes it to a file, [`Replay`] asks another filesystem the same, and
//! [`Fault`] makes things go wrong. Layers are put together as pairs, the first innermost, that is nearest to the kernel:
//! `(record, fault)` records what the kernel saw, `(fault, record)` what the filesystem did.

mod fault;
mod format;
mod record;
mod renumber;
mod replay;
mod trace;

pub use fault::{Fault, FaultSlot, Rule};
pub use format::{AnswerHead, FILE_MAGIC, FILE_VERSION, FileHead, RecordHead, RecordKind};
pub use record::{Record, RecordError, RecordOptions, RecordSlot, Recorded};
pub use replay::{Difference, Replay, ReplayError, Report};
pub use trace::{Trace, TraceSlot};

use crate::session::Slot;

/// Wraps every slot of a mount. `()` is the layer that does nothing; a pair of layers is a layer, the first innermost.
///
/// A panic in a layer, other than one in a handler, aborts the connection: what the thread had in work nobody could answer.
pub trait Layer: Send + Sync + 'static {
    /// The slot around a slot.
    type Slot<S: Slot>: Slot;

    /// Does it look at the data of requests and answers, or change it? Then all data passes through memory of ours.
    const SEES_DATA: bool = true;

    /// Put one around `slot`.
    fn wrap<S: Slot>(&self, slot: S) -> Self::Slot<S>;
}

impl Layer for () {
    type Slot<S: Slot> = S;

    const SEES_DATA: bool = false;

    fn wrap<S: Slot>(&self, slot: S) -> S {
        slot
    }
}

impl<A: Layer, B: Layer> Layer for (A, B) {
    type Slot<S: Slot> = B::Slot<A::Slot<S>>;

    const SEES_DATA: bool = A::SEES_DATA || B::SEES_DATA;

    fn wrap<S: Slot>(&self, slot: S) -> Self::Slot<S> {
        self.1.wrap(self.0.wrap(slot))
    }
}
