//! The threads and programs that use a mount, and what it costs them.

mod command;
mod data;
mod device;
mod fio;
mod hogs;
mod names;
mod ping;

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use rustix::thread::CpuSet;
use rustix::time::ClockId;
use serde::{Deserialize, Serialize};

use self::hogs::Hogs;
use crate::daemon::switches_in;
use crate::device::Guest;
use crate::workload::{DeviceLoad, DeviceRequest, Op, Workload};

/// Longest latency that is told apart, in nanoseconds.
const LONGEST: u64 = 600_000_000_000;

/// Where client threads may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pin {
    /// Anywhere, as in normal use.
    Free,
    /// Each on a CPU of its own, as far as there are enough.
    Each,
    /// All on this CPU.
    One(usize),
}

/// One pass of a workload on one target.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// What to do.
    pub workload: &'a Workload,
    /// How many threads do it.
    pub threads: usize,
    /// Operations of all threads together.
    pub ops: u64,
    /// Where: the mount.
    pub root: &'a Path,
    /// The same directory not through the mount, to prepare and to clean up; `root` if the mount has files of its own.
    pub src: &'a Path,
    /// The generated source tree, if the workload uses one.
    pub sources: &'a Path,
    /// The pipes, if the target is one.
    pub pipe: Option<&'a crate::daemon::Pipe>,
    /// The guest, if the target is a device.
    pub guest: Option<&'a Guest>,
    /// Differs from pass to pass, so that names of new files do.
    pub number: u64,
    /// Order of random blocks.
    pub seed: u64,
    /// Where the threads may run.
    pub pin: Pin,
    /// CPU time that starting the programs of this workload takes, from [`start_cost`].
    pub start_cost: Duration,
}

/// What a pass cost its client.
#[derive(Debug)]
pub struct Cost {
    /// Operations done.
    pub ops: u64,
    /// Bytes read or written.
    pub bytes: u64,
    /// From the first thread's start to the last one's end.
    pub wall: Duration,
    /// CPU time of the threads or programs, user and system.
    pub cpu: Duration,
    /// CPU time of all programs that were started, with what does not belong to the operations.
    pub programs: Duration,
    /// Context switches.
    pub switches: u64,
    /// Nanoseconds per operation.
    pub latency: Histogram<u64>,
}

impl Cost {
    /// Nothing yet.
    pub fn zero() -> Self {
        let latency = Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds are in order");
        Self {
            ops: 0,
            bytes: 0,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
            programs: Duration::ZERO,
            switches: 0,
            latency,
        }
    }

    /// Adds the cost of a pass that came after this one.
    pub fn add(&mut self, later: &Self) {
        self.ops += later.ops;
        self.bytes += later.bytes;
        self.wall += later.wall;
        self.cpu += later.cpu;
        self.programs += later.programs;
        self.switches += later.switches;
        self.latency += &later.latency;
    }
}

/// One thread's operations, with everything made ready that is not to be measured.
#[derive(Debug)]
enum Job {
    Steps(Steps),
    Device(device::Device),
}

/// Operations that are done one after the other.
#[derive(Debug)]
enum Steps {
    Names(names::Names),
    Data(data::Data),
    Ping(ping::Ping),
}

/// What must be there before the kernel's caches are emptied: files to remove, rename, read or lengthen.
///
/// # Errors
/// If it cannot be made.
pub fn prepare(pass: &Pass<'_>, stop: &AtomicBool) -> Result<()> {
    match &pass.workload.op {
        Op::Command(command) => command::prepare(pass, command, stop),
        _ => names::prepare(pass),
    }
}

/// Removes what a pass has made, behind the mount's back; to be called when the kernel has forgotten it.
///
/// # Errors
/// If what was made through the mount is not in the source directory, or what was removed still is.
pub fn clean_up(pass: &Pass<'_>) -> Result<()> {
    match &pass.workload.op {
        Op::Command(_) => command::clean_up(pass),
        _ => names::clean_up(pass),
    }
}

/// CPU time of the programs of this workload that does not belong to its operations.
///
/// # Errors
/// If a program fails; if `stop` was set.
pub fn start_cost(pass: &Pass<'_>, stop: &AtomicBool) -> Result<Duration> {
    match &pass.workload.op {
        Op::Fio(job) => fio::start_cost(pass, job, stop),
        _ => Ok(Duration::ZERO),
    }
}

/// Does the pass.
///
/// # Errors
/// If an operation fails, gives less than it should, or did not happen on the mount; if `stop` was set.
pub fn run(pass: &Pass<'_>, stop: &AtomicBool) -> Result<Cost> {
    let _hogs = if pass.workload.busy_others { Hogs::on(&pass.pin.others())? } else { Hogs::none() };
    match &pass.workload.op {
        Op::Fio(job) => fio::run(pass, job, stop),
        Op::Command(command) => command::run(pass, command, stop),
        _ => run_threads(pass, stop),
    }
}

fn run_threads(pass: &Pass<'_>, stop: &AtomicBool) -> Result<Cost> {
    let jobs: Vec<Job> = (0..pass.threads).map(|thread| Job::new(pass, thread)).collect::<Result<_>>()?;
    let cpus = pass.pin.cpus()?;
    let barrier = Barrier::new(jobs.len());
    let results: Vec<Result<ThreadCost>> = thread::scope(|scope| {
        let threads: Vec<_> = jobs
            .into_iter()
            .enumerate()
            .map(|(index, job)| {
                let cpu = cpus.get(index % cpus.len().max(1)).copied();
                let barrier = &barrier;
                scope.spawn(move || {
                    let pinned = cpu.map_or(Ok(()), pin_to);
                    // Also a thread that cannot be pinned is waited for by the others.
                    let cost = ThreadCost::measure(job, barrier, stop);
                    pinned.and(cost)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a client thread panicked"))))
            .collect()
    });
    let costs: Vec<ThreadCost> = results.into_iter().collect::<Result<_>>()?;

    let mut sum = Cost::zero();
    for cost in &costs {
        sum.ops += cost.latency.len();
        sum.cpu += cost.cpu;
        sum.switches += cost.switches;
        sum.latency += &cost.latency;
    }
    sum.bytes = sum.ops * bytes_per_op(&pass.workload.op);
    let begin = costs.iter().map(|cost| cost.begin).min();
    let end = costs.iter().map(|cost| cost.end).max();
    if let (Some(begin), Some(end)) = (begin, end) {
        sum.wall = end - begin;
    }
    Ok(sum)
}

fn bytes_per_op(op: &Op) -> u64 {
    match op {
        Op::Data { transfer, .. } => transfer.block as u64,
        Op::Ping(request) => request.block() as u64,
        Op::Device(DeviceLoad { request: DeviceRequest::Read { block }, .. }) => *block as u64,
        Op::ReadFile { size } | Op::Append { size } | Op::Create { size } => *size,
        _ => 0,
    }
}

#[derive(Debug)]
struct ThreadCost {
    begin: Instant,
    end: Instant,
    cpu: Duration,
    switches: u64,
    latency: Histogram<u64>,
}

impl ThreadCost {
    fn measure(mut job: Job, barrier: &Barrier, stop: &AtomicBool) -> Result<Self> {
        let mut latency = Cost::zero().latency;
        barrier.wait();
        let switches = own_switches();
        let cpu = thread_cpu_time();
        let begin = Instant::now();
        let end = match &mut job {
            Job::Device(device) => device.drive(&mut latency, stop),
            Job::Steps(steps) => steps.run((&mut latency, begin), stop),
        };
        let cpu = thread_cpu_time() - cpu;
        let switches = own_switches() - switches;
        Ok(Self { begin, end: end?, cpu, switches, latency })
    }
}

impl Job {
    fn new(pass: &Pass<'_>, thread: usize) -> Result<Self> {
        let steps = match &pass.workload.op {
            Op::Device(load) => return Ok(Self::Device(device::Device::new(pass, thread, *load)?)),
            Op::Data { transfer, .. } => Steps::Data(data::Data::new(pass, thread, *transfer)?),
            Op::Ping(request) => Steps::Ping(ping::Ping::new(pass, thread, *request)?),
            _ => Steps::Names(names::Names::new(pass, thread)?),
        };
        Ok(Self::Steps(steps))
    }
}

impl Steps {
    /// One operation after the other; returns when the last one had ended.
    fn run(
        &mut self,
        (latency, begin): (&mut Histogram<u64>, Instant),
        stop: &AtomicBool,
    ) -> Result<Instant> {
        let mut last = begin;
        for index in 0..self.len() {
            ensure!(!stop.load(Ordering::Relaxed), "interrupted");
            self.step(index)?;
            // The end of one operation is the beginning of the next: one look at the clock for each.
            let now = Instant::now();
            latency.saturating_record((now - last).as_nanos() as u64);
            last = now;
        }
        Ok(last)
    }

    fn len(&self) -> usize {
        match self {
            Self::Names(names) => names.len(),
            Self::Data(data) => data.len(),
            Self::Ping(ping) => ping.len(),
        }
    }

    fn step(&mut self, index: usize) -> Result<()> {
        match self {
            Self::Names(names) => names.step(index),
            Self::Data(data) => data.step(index),
            Self::Ping(ping) => ping.step(index),
        }
    }
}

impl Pin {
    /// CPUs for the threads in turn; none if they may run anywhere.
    fn cpus(self) -> Result<Vec<usize>> {
        let allowed = allowed_cpus();
        match self {
            Self::Free => Ok(Vec::new()),
            Self::Each => Ok(allowed),
            Self::One(cpu) if allowed.contains(&cpu) => Ok(vec![cpu]),
            Self::One(cpu) => bail!("CPU {cpu} may not be used here; allowed are {allowed:?}"),
        }
    }

    /// The CPUs where the first client does not run, if it is kept on one; else all but the last.
    fn others(self) -> Vec<usize> {
        let mut others = allowed_cpus();
        let first = match self {
            Self::Free => others.last().copied(),
            Self::Each => others.first().copied(),
            Self::One(cpu) => Some(cpu),
        };
        others.retain(|cpu| Some(*cpu) != first);
        others
    }

    /// Checks that the CPU is there and may be used.
    ///
    /// # Errors
    /// If not.
    pub fn check(self) -> Result<()> {
        self.cpus().map(|_| ())
    }
}

/// Memory that O_DIRECT accepts.
#[derive(Debug)]
struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    const ALIGNMENT: usize = 4096;

    fn new(length: usize) -> Self {
        let memory = vec![0xa5; length + Self::ALIGNMENT];
        let start = memory.as_ptr().align_offset(Self::ALIGNMENT);
        Self { memory, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// Insists that all of a block was moved.
fn all_of(done: usize, block: usize, what: &str, offset: u64) -> Result<()> {
    ensure!(done == block, "{what} at {offset} gave {done} of {block} bytes");
    Ok(())
}

/// CPUs this process may use, by number.
pub fn allowed_cpus() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Keeps this thread on one CPU.
fn pin_to(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("cannot pin a client to CPU {cpu}"))
}

fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn own_switches() -> u64 {
    fs::read_to_string("/proc/thread-self/status").map_or(0, |status| switches_in(&status))
}

#[cfg(test)]
mod tests;
