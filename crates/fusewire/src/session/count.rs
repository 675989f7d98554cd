//! What a slot has done so far. Only the slot's own thread writes, so that counting costs no locked instruction; any thread
//! may read.

use super::latency::{BUCKETS, bucket};
use crate::{proto::operations::OPERATIONS, types::*};
use fusewire_abi::FopenFlags;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Bits of [`FopenFlags`] that are counted, from the lowest on.
const OPEN_FLAGS: usize = 8;

/// Counters of one slot.
#[derive(Debug)]
pub(crate) struct Counters {
    rows: [Row; OPERATIONS.len()],
    panics: AtomicU64,
    refused: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    zero_copy_bytes: AtomicU64,
    negative_entries: AtomicU64,
    opens: AtomicU64,
    open_flags: [AtomicU64; OPEN_FLAGS],
    /// A bit for each row that was answered `ENOSYS`.
    unsupported: AtomicU64,
    /// One for each row, if requests are timed; made with the slot.
    times: Option<Box<[Times]>>,
}

#[derive(Debug, Default)]
struct Row {
    requests: AtomicU64,
    errors: AtomicU64,
}

#[derive(Debug)]
struct Times {
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

const _: () = assert!(OPERATIONS.len() <= u64::BITS as usize, "a bit for each row");

/// Add to a counter with one writer.
fn add(counter: &AtomicU64, number: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(number), Relaxed);
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

impl Counters {
    /// Of a slot that begins. `timed`: it also keeps how long requests take, for which it allocates now, and never again.
    pub fn new(timed: bool) -> Self {
        let times = || Times { sum_ns: AtomicU64::new(0), max_ns: AtomicU64::new(0), buckets: zeros() };
        Self {
            rows: std::array::from_fn(|_| Row::default()),
            panics: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            zero_copy_bytes: AtomicU64::new(0),
            negative_entries: AtomicU64::new(0),
            opens: AtomicU64::new(0),
            open_flags: zeros(),
            unsupported: AtomicU64::new(0),
            times: timed.then(|| OPERATIONS.iter().map(|_| times()).collect()),
        }
    }

    /// Now, if requests are timed.
    #[inline]
    pub fn begin(&self) -> Option<Instant> {
        self.times.as_ref().map(|_| Instant::now())
    }

    /// A request of the operation in row `index` of the table was served.
    #[inline]
    pub fn count(&self, index: usize, error: Option<Errno>, began: Option<Instant>) {
        let row = &self.rows[index];
        add(&row.requests, 1);
        if let Some(errno) = error {
            add(&row.errors, 1);
            if errno == Errno::NOSYS {
                self.unsupported.store(self.unsupported.load(Relaxed) | 1 << index, Relaxed);
            }
        }
        if let (Some(began), Some(times)) = (began, &self.times) {
            times[index].record(began.elapsed());
        }
    }

    /// A handler panicked.
    pub fn count_panic(&self) {
        add(&self.panics, 1);
    }

    /// A request could not be decoded.
    pub fn count_refused(&self) {
        add(&self.refused, 1);
    }

    /// READ was answered with so many bytes.
    #[inline]
    pub fn count_read(&self, bytes: usize) {
        add(&self.read_bytes, bytes as u64);
    }

    /// WRITE took so many bytes.
    #[inline]
    pub fn count_written(&self, bytes: u32) {
        add(&self.written_bytes, u64::from(bytes));
    }

    /// So many of these bytes went between a client's pages and a file.
    pub fn count_moved(&self, bytes: usize) {
        add(&self.zero_copy_bytes, bytes as u64);
    }

    /// A lookup was answered.
    #[inline]
    pub fn count_entry(&self, entry: &Entry) {
        if entry.node.is_none() {
            add(&self.negative_entries, 1);
        }
    }

    /// A file or directory was opened.
    #[inline]
    pub fn count_opened(&self, opened: &Opened) {
        add(&self.opens, 1);
        let mut left = opened.flags.bits() & ((1 << OPEN_FLAGS) - 1);
        while left != 0 {
            add(&self.open_flags[left.trailing_zeros() as usize], 1);
            left &= left - 1;
        }
    }

    /// Requests and errors of row `index`.
    pub fn row(&self, index: usize) -> (u64, u64) {
        (self.rows[index].requests.load(Relaxed), self.rows[index].errors.load(Relaxed))
    }

    /// Was the operation in row `index` answered `ENOSYS`?
    pub fn is_unsupported(&self, index: usize) -> bool {
        self.unsupported.load(Relaxed) & 1 << index != 0
    }

    /// Opens whose reply had this flag.
    pub fn opened_with(&self, flag: FopenFlags) -> u64 {
        let bit = flag.bits().trailing_zeros() as usize;
        self.open_flags.get(bit).map_or(0, |counter| counter.load(Relaxed))
    }

    /// The others: panics, refused, bytes read, bytes written, those of both without a copy, negative entries, opens.
    pub fn others(&self) -> [u64; 7] {
        [
            &self.panics,
            &self.refused,
            &self.read_bytes,
            &self.written_bytes,
            &self.zero_copy_bytes,
            &self.negative_entries,
            &self.opens,
        ]
        .map(|counter| counter.load(Relaxed))
    }

    /// Times of row `index`, if they are kept: sum and maximum in nanoseconds, and the number in each bucket.
    pub fn times(&self, index: usize) -> Option<(u64, u64, [u64; BUCKETS])> {
        let times = &self.times.as_ref()?[index];
        let buckets = std::array::from_fn(|bucket| times.buckets[bucket].load(Relaxed));
        Some((times.sum_ns.load(Relaxed), times.max_ns.load(Relaxed), buckets))
    }
}

impl Times {
    fn record(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        add(&self.sum_ns, ns);
        if ns > self.max_ns.load(Relaxed) {
            self.max_ns.store(ns, Relaxed);
        }
        add(&self.buckets[bucket(ns)], 1);
    }
}
