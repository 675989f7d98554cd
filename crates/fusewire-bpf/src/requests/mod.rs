//! Watching the requests of every FUSE mount of the machine, whichever program serves it.
//!
//! The kernel passes two tracepoints with each request: one when it is handed to the server (or put where the server will
//! fetch it), one when the answer is there, or the request was given up. FORGET and INTERRUPT have neither. [`Counters`]
//! adds up in the kernel; [`Events`] tells of each request.
//!
//! A request of the background (reading ahead, writing back) is sent only when its turn comes; the time before that is not seen.

mod counters;
mod events;
mod histogram;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, PerCpuArray};
use zerocopy::{FromBytes, Immutable, KnownLayout};

pub use counters::{Counters, Operation, Part, Parts};
pub use events::{Event, Events, Filter, Lines};
pub use histogram::{BUCKETS, Histogram, begin_of};

use crate::load::{self, Refused};

/// How many requests are known at once; what is sent beyond that is counted and not timed.
pub const IN_FLIGHT: usize = 16384;

/// A request that was sent, as `struct start` in the programs.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Start {
    /// When it was sent: `CLOCK_MONOTONIC`, in nanoseconds.
    pub sent_ns: u64,
    /// When the server got it; 0 if that was not seen.
    pub taken_ns: u64,
    /// The node it is about.
    pub node: u64,
    /// Its number on the connection.
    pub unique: u64,
    task: u64,
    /// The connection, as `/sys/fs/fuse/connections` names it.
    pub connection: u32,
    /// The operation.
    pub opcode: u32,
    /// The process that sent it.
    pub process: u32,
    /// The thread that sent it.
    pub thread: u32,
    comm: [u8; 16],
}

const START_BYTES: usize = size_of::<Start>();

impl Start {
    /// The name of the thread that sent it.
    pub fn comm(&self) -> String {
        text(&self.comm)
    }
}

/// What the programs had no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// Requests that were not timed, because too many were on their way.
    pub requests: u64,
    /// Operations that were not counted, or events that were lost.
    pub events: u64,
}

/// Which parts of a request's time can be told apart, and if not, why.
#[derive(Debug, Default)]
pub struct Split {
    /// When the server reads it from `/dev/fuse`.
    pub read: Option<Refused>,
    /// When a ring of io_uring delivers it.
    pub ring: Option<Refused>,
    /// When the caller runs again.
    pub wake: Option<Refused>,
}

impl Split {
    /// Attaches what tells when the server gets a request; what is refused is noted.
    fn attach(bpf: &mut Ebpf, types: &aya::Btf) -> Self {
        let read = load::attach(bpf, "taken_by_read", "sys_exit", types).err();
        let ring = load::attach(bpf, "taken_by_ring", "io_uring_complete", types).err();
        Self { read, ring, wake: None }
    }

    /// What is missing, in words.
    pub fn refused(&self) -> Vec<String> {
        let named =
            [("reads of /dev/fuse", &self.read), ("rings", &self.ring), ("callers that wake", &self.wake)];
        named
            .into_iter()
            .filter_map(|(what, why)| Some(format!("{what} are not seen: {}", why.as_ref()?)))
            .collect()
    }
}

fn in_flight(bpf: &Ebpf) -> Vec<Start> {
    let Some(map) = bpf.map("in_flight") else { return Vec::new() };
    let Ok(map) = HashMap::<&MapData, u64, [u8; START_BYTES]>::try_from(map) else { return Vec::new() };
    // An entry that goes away while it is looked at is answered: it is left out.
    let mut starts: Vec<_> =
        map.iter().flatten().filter_map(|(_, bytes)| Start::read_from_bytes(&bytes).ok()).collect();
    starts.sort_by_key(|start| start.sent_ns);
    starts
}

fn missed(bpf: &Ebpf) -> Missed {
    let count = |which: u32| {
        let map = PerCpuArray::<&MapData, u64>::try_from(bpf.map("missed")?).ok()?;
        Some(map.get(&which, 0).ok()?.iter().sum())
    };
    Missed { requests: count(0).unwrap_or(0), events: count(1).unwrap_or(0) }
}

fn text(bytes: &[u8]) -> String {
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}
