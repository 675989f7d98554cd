//! Counts and times by operation, added up in the kernel.

use std::collections::BTreeMap;

use aya::maps::{MapData, PerCpuHashMap};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

use super::{Histogram, Missed, Split, Start};
use crate::load::{self, Refused};

/// Words of `struct operation` before its buckets.
const FIELDS: usize = 8;
const OPERATION: usize = FIELDS + super::BUCKETS;
/// Words of `struct part`.
const PART: usize = 2 + super::BUCKETS;

/// What is known of one operation of one connection since counting began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// How many requests were answered.
    pub count: u64,
    /// How many of them with an error.
    pub errors: u64,
    /// Length of requests: with the data of writes.
    pub bytes_in: u64,
    /// Length of answers: with the data of reads.
    pub bytes_out: u64,
    /// The process that answered last; 0 for none. A request that is given up is answered by whoever ends the connection.
    pub answered_by: u32,
    /// Longest time from sending to the answer, in nanoseconds.
    pub longest_ns: u64,
    /// Sum of these times.
    pub total_ns: u64,
    /// How many took how long. Requests that were sent before counting began are not in it.
    pub latency: Histogram,
}

/// Times of one part of the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Sum, in nanoseconds.
    pub total_ns: u64,
    /// How many took how long.
    pub latency: Histogram,
}

/// The parts of the way of one operation of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// From sending until the server had it.
    pub queue: Part,
    /// From there to the answer.
    pub service: Part,
    /// From the answer until the caller ran, for callers that slept.
    pub wake: Part,
}

/// A connection and an opcode.
pub type Key = (u32, u32);

/// Programs that count; they are gone when this is dropped.
#[derive(Debug)]
pub struct Counters {
    bpf: Ebpf,
    split: Option<Split>,
}

impl Counters {
    /// Begins to count. With `split`, the parts of the way are timed, too, as far as the kernel lets them be seen; that
    /// costs something at every system call of the machine.
    ///
    /// # Errors
    /// When the kernel does not load the programs.
    pub fn start(split: bool) -> Result<Self, Refused> {
        let types = load::kernel_types()?;
        let flag = u8::from(split);
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&types)).override_global("split", &flag, true);
        if !split {
            loader.map_max_entries("wakings", 1);
        }
        let object = include_bytes_aligned!("../bpf/top.bpf.o");
        let mut bpf = loader.load(object).map_err(|error| Refused::by("loading the counters", &error))?;
        let split = split.then(|| {
            let wake = load::attach(&mut bpf, "top_runs", "sched_switch", &types).err();
            Split { wake, ..Split::attach(&mut bpf, &types) }
        });
        // Ends first: a request is then never taken for one that is on its way for ever.
        load::attach(&mut bpf, "top_end", "fuse_request_end", &types)?;
        load::attach(&mut bpf, "top_send", "fuse_request_send", &types)?;
        Ok(Self { bpf, split })
    }

    /// Which parts are seen; `None` if they were not asked for.
    pub fn split(&self) -> Option<&Split> {
        self.split.as_ref()
    }

    /// All operations that were seen, by connection and opcode, since counting began.
    ///
    /// # Errors
    /// When the kernel does not show its map.
    pub fn operations(&self) -> Result<BTreeMap<Key, Operation>, Refused> {
        let mut operations = BTreeMap::new();
        for (key, words) in entries::<OPERATION>(&self.bpf, "operations")? {
            let operation: &mut Operation = operations.entry(key).or_default();
            operation.count += words[0];
            operation.errors += words[1];
            operation.bytes_in += words[2];
            operation.bytes_out += words[3];
            if words[4] != 0 {
                operation.answered_by = words[4] as u32;
            }
            operation.longest_ns = operation.longest_ns.max(words[5]);
            operation.total_ns += words[7];
            operation.latency.add_raw(&words[FIELDS..]);
        }
        Ok(operations)
    }

    /// The parts of the way, by connection and opcode.
    ///
    /// # Errors
    /// When the kernel does not show its map.
    pub fn parts(&self) -> Result<BTreeMap<Key, Parts>, Refused> {
        let mut parts = BTreeMap::new();
        for (key, words) in entries::<{ 3 * PART }>(&self.bpf, "parts")? {
            let of: &mut Parts = parts.entry(key).or_default();
            for (part, words) in
                [&mut of.queue, &mut of.service, &mut of.wake].into_iter().zip(words.chunks(PART))
            {
                part.total_ns += words[1];
                part.latency.add_raw(&words[2..]);
            }
        }
        Ok(parts)
    }

    /// Requests that are on their way, the oldest first: those that were sent since counting began.
    pub fn in_flight(&self) -> Vec<Start> {
        super::in_flight(&self.bpf)
    }

    /// What there was no room for.
    pub fn missed(&self) -> Missed {
        super::missed(&self.bpf)
    }
}

/// Every CPU's value of every key.
fn entries<const WORDS: usize>(bpf: &Ebpf, name: &'static str) -> Result<Vec<(Key, [u64; WORDS])>, Refused> {
    let map = bpf.map(name).expect("the object file has the map");
    let map = PerCpuHashMap::<&MapData, [u32; 2], [u64; WORDS]>::try_from(map)
        .map_err(|error| Refused::by("reading the counters", &error))?;
    let mut entries = Vec::new();
    for entry in map.iter() {
        let (key, values) = entry.map_err(|error| Refused::by("reading the counters", &error))?;
        entries.extend(values.iter().map(|words| ((key[0], key[1]), *words)));
    }
    Ok(entries)
}
