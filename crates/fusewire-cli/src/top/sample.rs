//! What happened in an interval, on every FUSE mount of the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fusewire_abi::Opcode;
use fusewire_bpf::Refused;
use fusewire_bpf::requests::{Counters, Histogram, Key, Missed, Operation, Part, Parts, Start};

use super::connections::{Connections, Place, Process, waiting};

/// How a program wants to be told.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Only this connection.
    pub only: Option<u32>,
    /// The parts of the way, too.
    pub split: bool,
    /// From which age on a request is stuck.
    pub stuck: Duration,
}

/// What happened since the sample before, and since the beginning.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Length of the interval in seconds; 0 at the beginning.
    pub seconds: f64,
    /// Seconds since the beginning.
    pub since_start: f64,
    /// Why requests cannot be counted here, and what to do about it; then there is only what the kernel tells of each mount.
    pub refused: Option<String>,
    /// What cannot be seen.
    pub notes: Vec<String>,
    /// Whether the parts of the way were asked for.
    pub split: bool,
    /// What there was no room for.
    pub missed: Missed,
    /// Every connection, the busiest first.
    pub connections: Vec<Connection>,
}

/// One connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Its number, as in `/sys/fs/fuse/connections`.
    pub number: u32,
    /// Where it is and who serves it.
    pub place: Place,
    /// Requests that wait or are on their way, as the kernel counts them.
    pub waiting: Option<u64>,
    /// By opcode.
    pub operations: Vec<Row>,
    /// Requests on their way, the oldest first.
    pub in_flight: Vec<Flight>,
}

/// An operation of a connection.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its number.
    pub opcode: u32,
    /// In the interval.
    pub now: Figures,
    /// Since the beginning.
    pub total: Figures,
}

/// What can be said of some requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many were answered.
    pub count: u64,
    /// How many with an error.
    pub errors: u64,
    /// Bytes of requests.
    pub bytes_in: u64,
    /// Bytes of answers.
    pub bytes_out: u64,
    /// Longest time from sending to the answer since the beginning, in nanoseconds.
    pub longest_ns: u64,
    /// Times from sending to the answer.
    pub latency: Part,
    /// The parts of them.
    pub parts: Parts,
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Flight {
    /// What was sent.
    pub start: Start,
    /// How long ago.
    pub age: Duration,
    /// Whether that is too long.
    pub is_stuck: bool,
}

/// Name of an operation.
pub fn name_of(opcode: u32) -> String {
    Opcode::from_raw(opcode).map_or_else(|| format!("opcode {opcode}"), |opcode| opcode.name().to_owned())
}

impl Figures {
    fn of(operation: &Operation, parts: Option<&Parts>) -> Self {
        Self {
            count: operation.count,
            errors: operation.errors,
            bytes_in: operation.bytes_in,
            bytes_out: operation.bytes_out,
            longest_ns: operation.longest_ns,
            latency: Part { total_ns: operation.total_ns, latency: operation.latency.clone() },
            parts: parts.cloned().unwrap_or_default(),
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            count: self.count.saturating_sub(earlier.count),
            errors: self.errors.saturating_sub(earlier.errors),
            bytes_in: self.bytes_in.saturating_sub(earlier.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(earlier.bytes_out),
            longest_ns: self.longest_ns,
            latency: self.latency.since(&earlier.latency),
            parts: self.parts.since(&earlier.parts),
        }
    }

    /// Adds those of other requests.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.errors += other.errors;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        self.latency.add(&other.latency);
        self.parts.queue.add(&other.parts.queue);
        self.parts.service.add(&other.parts.service);
        self.parts.wake.add(&other.parts.wake);
    }
}

impl Connection {
    /// All operations together: in the interval, and since the beginning.
    pub fn sums(&self) -> (Figures, Figures) {
        let mut sums = (Figures::default(), Figures::default());
        for row in &self.operations {
            sums.0.add(&row.now);
            sums.1.add(&row.total);
        }
        sums
    }

    /// How many requests are stuck.
    pub fn stuck(&self) -> usize {
        self.in_flight.iter().filter(|flight| flight.is_stuck).count()
    }

    /// Where it is mounted first.
    pub fn point(&self) -> String {
        let point = self.place.points.first();
        point.map_or_else(|| format!("connection {}", self.number), |point| point.display().to_string())
    }
}

/// Takes one sample after another.
#[derive(Debug)]
pub struct Sampler {
    wishes: Wishes,
    counters: Result<Counters, Refused>,
    connections: Connections,
    began: Instant,
    last: Option<Instant>,
    before: BTreeMap<Key, Figures>,
}

impl Sampler {
    /// Begins to count, if the kernel and the rights of this user allow it.
    pub fn start(wishes: Wishes, connections: Connections) -> Self {
        let counters = Counters::start(wishes.split);
        Self { wishes, counters, connections, began: Instant::now(), last: None, before: BTreeMap::new() }
    }

    /// What happened since the last time.
    ///
    /// # Errors
    /// When the kernel does not show its counters any more.
    pub fn sample(&mut self) -> Result<Sample, Refused> {
        let now = Instant::now();
        let totals = self.totals()?;
        let mut flights = self.flights();
        let waiting = waiting();
        let counted = totals.keys().map(|(number, _)| *number);
        let known: BTreeSet<u32> =
            counted.chain(waiting.iter().flatten().map(|(number, _)| *number)).collect();
        self.connections.refresh(known.iter().copied());
        let mut sample = Sample {
            seconds: self.last.map_or(0.0, |last| (now - last).as_secs_f64()),
            since_start: (now - self.began).as_secs_f64(),
            split: self.wishes.split,
            ..Sample::default()
        };
        self.tell(&mut sample, waiting.is_none());
        let places = self.connections.places();
        let numbers: BTreeSet<u32> = known.into_iter().chain(places.keys().copied()).collect();
        for number in numbers.into_iter().filter(|number| self.wishes.only.is_none_or(|only| only == *number))
        {
            let mut connection = Connection {
                number,
                place: places.get(&number).cloned().unwrap_or_default(),
                waiting: waiting.as_ref().and_then(|waiting| waiting.get(&number).copied()),
                operations: Vec::new(),
                in_flight: flights.remove(&number).unwrap_or_default(),
            };
            self.add_operations(&mut connection, &totals);
            // One that was counted and is mounted nowhere is gone, or a mount that failed.
            let is_alive = !connection.place.points.is_empty() || connection.waiting.is_some();
            let (now, _) = connection.sums();
            if is_alive || now.count > 0 || !connection.in_flight.is_empty() {
                sample.connections.push(connection);
            }
        }
        sample.connections.sort_by_key(|connection| std::cmp::Reverse(connection.sums().0.count));
        self.last = Some(now);
        self.before = totals.into_iter().map(|(key, (figures, _))| (key, figures)).collect();
        Ok(sample)
    }

    fn tell(&self, sample: &mut Sample, is_control_missing: bool) {
        match &self.counters {
            Ok(counters) => {
                sample.missed = counters.missed();
                sample.notes.extend(counters.split().into_iter().flat_map(|split| split.refused()));
            }
            Err(refused) => sample.refused = Some(format!("{refused}; try: {}", refused.remedy())),
        }
        if is_control_missing {
            sample.notes.push(format!(
                "what waits is not known: fusectl is not mounted (mount -t fusectl none {})",
                super::connections::CONTROL
            ));
        }
    }

    /// Figures since the beginning, and who answered last.
    fn totals(&self) -> Result<BTreeMap<Key, (Figures, u32)>, Refused> {
        let Ok(counters) = &self.counters else { return Ok(BTreeMap::new()) };
        let parts = if self.wishes.split { counters.parts()? } else { BTreeMap::new() };
        let operations = counters.operations()?;
        let figures = |(key, operation): (&Key, &Operation)| {
            (*key, (Figures::of(operation, parts.get(key)), operation.answered_by))
        };
        Ok(operations.iter().map(figures).collect())
    }

    fn add_operations(&self, connection: &mut Connection, totals: &BTreeMap<Key, (Figures, u32)>) {
        let nothing = Figures::default();
        let mut answered_by = 0;
        for ((_, opcode), (total, by)) in totals.range((connection.number, 0)..=(connection.number, u32::MAX))
        {
            let before = self.before.get(&(connection.number, *opcode)).unwrap_or(&nothing);
            let now = total.since(before);
            if *by != 0 && (answered_by == 0 || now.count > 0) {
                answered_by = *by;
            }
            connection.operations.push(Row { opcode: *opcode, now, total: total.clone() });
        }
        // Kernels that do not tell who has a connection open: whoever answers serves.
        if connection.place.servers.is_empty() && answered_by != 0 {
            connection.place.servers.push(Process::of(answered_by));
        }
    }

    fn flights(&self) -> BTreeMap<u32, Vec<Flight>> {
        let mut flights: BTreeMap<u32, Vec<Flight>> = BTreeMap::new();
        let Ok(counters) = &self.counters else { return flights };
        let starts = counters.in_flight();
        let now = monotonic_ns();
        for start in starts {
            let age = Duration::from_nanos(now.saturating_sub(start.sent_ns));
            let flight = Flight { start, age, is_stuck: age >= self.wishes.stuck };
            flights.entry(start.connection).or_default().push(flight);
        }
        flights
    }
}

/// The clock of the kernel's programs.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Mean and quantiles of a part, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many were timed.
    pub count: u64,
    /// Mean.
    pub mean: u64,
    /// Half were faster.
    pub p50: u64,
    /// Nine of ten were faster.
    pub p90: u64,
    /// All but one of a hundred were faster.
    pub p99: u64,
    /// The slowest, as exactly as the buckets are.
    pub max: u64,
}

impl Latency {
    /// Of these times; `None` if there are none.
    pub fn of(part: &Part) -> Option<Self> {
        let count = part.latency.count();
        let quantile = |share| Histogram::quantile(&part.latency, share);
        Some(Self {
            count,
            mean: part.total_ns.checked_div(count)?,
            p50: quantile(0.5)?,
            p90: quantile(0.9)?,
            p99: quantile(0.99)?,
            max: quantile(1.0)?,
        })
    }
}
