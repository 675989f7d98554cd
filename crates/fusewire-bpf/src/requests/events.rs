//! Requests as they are answered, one by one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use rustix::event::{PollFd, PollFlags, Timespec};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Missed, Split, Start};
use crate::load::{self, Refused};

/// What is told of; everything if nothing is set.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this connection.
    pub connection: Option<u32>,
    /// Only these opcodes, each below 128; all if it is empty.
    pub opcodes: Vec<u32>,
    /// Only requests of this process.
    pub process: Option<u32>,
    /// Only requests that took so long.
    pub slower: Duration,
    /// With the time at which the server got the request, if the kernel lets it be seen.
    pub split: bool,
}

/// A request that was answered, as `struct event` in the programs.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// What was sent.
    pub start: Start,
    /// When the answer was there: `CLOCK_MONOTONIC`, in nanoseconds.
    pub answered_ns: u64,
    answered_by: u64,
    /// Length of the request.
    pub bytes_in: u32,
    /// Length of the answer.
    pub bytes_out: u32,
    /// 0, or the negative number of an error.
    pub error: i32,
    seen: u32,
    name: [u8; 64],
}

impl Event {
    /// Whether it is known when and by whom the request was sent.
    pub fn is_timed(&self) -> bool {
        self.seen != 0
    }

    /// The process that answered.
    pub fn answered_by(&self) -> u32 {
        self.answered_by as u32
    }

    /// The name in a directory that the operation is about, at most its first 63 bytes; empty for others.
    pub fn name(&self) -> String {
        super::text(&self.name)
    }
}

/// Programs that tell of requests; they are gone when this is dropped.
#[derive(Debug)]
pub struct Events {
    bpf: Ebpf,
    split: Option<Split>,
}

/// What is told; the programs themselves stay with [`Events`].
pub struct Lines {
    ring: RingBuf<MapData>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl Events {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the kernel does not load the programs.
    pub fn start(filter: &Filter) -> Result<(Self, Lines), Refused> {
        let types = load::kernel_types()?;
        let mut bits = [0u64; 2];
        for opcode in filter.opcodes.iter().filter(|opcode| **opcode < 128) {
            bits[*opcode as usize / 64] |= 1 << (opcode % 64);
        }
        let (split, chosen) = (u8::from(filter.split), u8::from(!filter.opcodes.is_empty()));
        let (connection, process) = (filter.connection.unwrap_or(0), filter.process.unwrap_or(0));
        let slower = u64::try_from(filter.slower.as_nanos()).unwrap_or(u64::MAX);
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&types)).override_global("split", &split, true);
        loader.override_global("only_dev", &connection, true).override_global("only_tgid", &process, true);
        loader.override_global("slower_ns", &slower, true);
        loader.override_global("only_operations", &chosen, true).override_global(
            "operations",
            &bits[..],
            true,
        );
        let object = include_bytes_aligned!("../bpf/trace.bpf.o");
        let mut bpf = loader.load(object).map_err(|error| Refused::by("loading the trace", &error))?;
        let split = filter.split.then(|| Split::attach(&mut bpf, &types));
        let ring = bpf.take_map("events").expect("the object file has the map");
        let ring = RingBuf::try_from(ring).map_err(|error| Refused::by("mapping the events", &error))?;
        load::attach(&mut bpf, "trace_end", "fuse_request_end", &types)?;
        load::attach(&mut bpf, "trace_send", "fuse_request_send", &types)?;
        Ok((Self { bpf, split }, Lines { ring }))
    }

    /// Which parts are seen; `None` if they were not asked for.
    pub fn split(&self) -> Option<&Split> {
        self.split.as_ref()
    }

    /// Requests that are on their way, the oldest first.
    pub fn in_flight(&self) -> Vec<Start> {
        super::in_flight(&self.bpf)
    }

    /// What there was no room for; events that were lost among it.
    pub fn missed(&self) -> Missed {
        super::missed(&self.bpf)
    }
}

impl Lines {
    /// The next one, if it is there already.
    pub fn next(&mut self) -> Option<Event> {
        let item = self.ring.next()?;
        Event::read_from_bytes(&item).ok()
    }

    /// Waits until there is something, at most for `limit`; an interrupting signal ends it early.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match rustix::event::poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
