//! What a session has done so far.

use super::latency::Latency;
use crate::{
    context::InFlight,
    proto::operations::{OPERATIONS, Operation, Unsupported},
};
use fusewire_abi::{FopenFlags, Opcode};
use std::sync::Arc;

/// Counts since the session began. INIT is not among them: it is answered before there is a session.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Per operation, only those that were asked for at least once, in the order of their numbers.
    pub operations: Vec<OperationStats>,
    /// Requests being served at this moment.
    pub in_flight: u64,
    /// Slots that were made so far: as many requests were in flight at most.
    pub slots: u64,
    /// Handlers that panicked; each such request was answered `EIO`.
    pub panics: u64,
    /// Requests that were not what the protocol says, or of an operation that is not known; answered with an error, and
    /// not counted under an operation.
    pub refused: u64,
    /// Bytes that READ was answered with.
    pub read_bytes: u64,
    /// Bytes that WRITE took.
    pub written_bytes: u64,
    /// Those of both that went between clients' pages and files without passing through memory of ours: over a ring with zero copy.
    pub zero_copy_bytes: u64,
    /// Lookups that were answered with «there is none, remember that».
    pub negative_entries: u64,
    /// What was opened, and how.
    pub opens: OpenStats,
    /// Whether times are kept.
    pub timed: bool,
}

/// Counts of one operation.
#[derive(Clone, Debug)]
pub struct OperationStats {
    /// Which.
    pub opcode: Opcode,
    /// Requests served.
    pub requests: u64,
    /// Those of them that were answered with an error.
    pub errors: u64,
    /// It was answered `ENOSYS`, for which the kernel never asks again: what it does instead.
    pub never_again: Option<&'static str>,
    /// How long they took, if times are kept.
    pub latency: Option<Latency>,
}

/// Replies to OPEN, OPENDIR, CREATE and TMPFILE: what the kernel was allowed to do without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenStats {
    /// All of them.
    pub all: u64,
    /// The kernel reads, writes and maps the lower file by itself: no READ and no WRITE.
    pub forwarded: u64,
    /// No FLUSH at each close.
    pub no_flush: u64,
    /// Data in the page cache from before stays valid: no READ for it.
    pub keep_cache: u64,
    /// The listing may be kept: no READDIR for it later.
    pub cache_dir: u64,
    /// Past the page cache: each read and write is a request.
    pub direct: u64,
}

impl Stats {
    /// Requests of all operations.
    pub fn requests(&self) -> u64 {
        self.operations.iter().map(|op| op.requests).sum()
    }

    /// Requests of all operations that were answered with an error.
    pub fn errors(&self) -> u64 {
        self.operations.iter().map(|op| op.errors).sum()
    }

    pub(crate) fn collect(slots: &[Arc<InFlight>], timed: bool) -> Self {
        let mut others = [0; 7];
        for slot in slots {
            others.iter_mut().zip(slot.counters.others()).for_each(|(sum, one)| *sum += one);
        }
        let [panics, refused, read_bytes, written_bytes, zero_copy_bytes, negative_entries, all] = others;
        let opened = |flag| slots.iter().map(|slot| slot.counters.opened_with(flag)).sum();
        Self {
            operations: OPERATIONS
                .iter()
                .enumerate()
                .filter_map(|(index, row)| OperationStats::collect(slots, index, row))
                .collect(),
            in_flight: slots.iter().filter(|slot| slot.current().is_some()).count() as u64,
            slots: slots.len() as u64,
            panics,
            refused,
            read_bytes,
            written_bytes,
            zero_copy_bytes,
            negative_entries,
            opens: OpenStats {
                all,
                forwarded: opened(FopenFlags::PASSTHROUGH),
                no_flush: opened(FopenFlags::NOFLUSH),
                keep_cache: opened(FopenFlags::KEEP_CACHE),
                cache_dir: opened(FopenFlags::CACHE_DIR),
                direct: opened(FopenFlags::DIRECT_IO),
            },
            timed,
        }
    }
}

impl OperationStats {
    fn collect(slots: &[Arc<InFlight>], index: usize, row: &Operation) -> Option<Self> {
        let counted = slots.iter().map(|slot| slot.counters.row(index));
        let (requests, errors) = counted.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        if requests == 0 {
            return None;
        }
        let instead = match row.unsupported {
            Unsupported::Never(instead) => Some(instead),
            _ => None,
        };
        let is_unsupported = slots.iter().any(|slot| slot.counters.is_unsupported(index));
        let mut latency: Option<Latency> = None;
        for times in slots.iter().filter_map(|slot| slot.counters.times(index)) {
            latency.get_or_insert_with(Latency::none).add(times);
        }
        let never_again = instead.filter(|_| is_unsupported);
        Some(Self { opcode: row.opcode, requests, errors, never_again, latency })
    }
}
