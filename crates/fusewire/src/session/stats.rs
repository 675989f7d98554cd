//! What a session has done so far.

use crate::{context::InFlight, proto::operations::OPERATIONS};
use fusewire_abi::Opcode;
use std::sync::Arc;

/// Counts since the session began.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Per operation, only those that were asked for at least once, in the order of their numbers.
    pub operations: Vec<OperationStats>,
    /// Requests being served at this moment.
    pub in_flight: u64,
    /// Handlers that panicked; each such request was answered `EIO`.
    pub panics: u64,
}

/// Counts of one operation.
#[derive(Clone, Copy, Debug)]
pub struct OperationStats {
    /// Which.
    pub opcode: Opcode,
    /// Requests served.
    pub requests: u64,
    /// Those of them that were answered with an error.
    pub errors: u64,
}

impl Stats {
    /// Requests of all operations.
    pub fn requests(&self) -> u64 {
        self.operations.iter().map(|op| op.requests).sum()
    }

    pub(crate) fn collect(slots: &[Arc<InFlight>]) -> Self {
        let counted = |(index, row): (usize, &crate::proto::operations::Operation)| {
            let (requests, errors) =
                slots.iter().map(|slot| slot.counted(index)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            (requests > 0).then_some(OperationStats { opcode: row.opcode, requests, errors })
        };
        Self {
            operations: OPERATIONS.iter().enumerate().filter_map(counted).collect(),
            in_flight: slots.iter().filter(|slot| slot.current().is_some()).count() as u64,
            panics: slots.iter().map(|slot| slot.panics()).sum(),
        }
    }
}
