//! The threads that use a mount, and what it costs them.

use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use rustix::fs::{Advice, AtFlags, CWD, Mode, OFlags, RawDir};
use rustix::thread::CpuSet;
use rustix::time::ClockId;

use crate::daemon::switches_in;
use crate::tree::{self, c_path, data_file, file_name, list_dir, meta_file, work_dir};
use crate::workload::{DATA_SIZE, LIST_FILES, Transfer, Workload, share, shuffled_blocks};

/// Longest latency that is told apart, in nanoseconds.
const LONGEST: u64 = 600_000_000_000;

/// One pass of a workload on one target.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// What to do.
    pub workload: Workload,
    /// How many threads do it.
    pub threads: usize,
    /// Operations of all threads together.
    pub ops: u64,
    /// Where: the mount.
    pub root: &'a Path,
    /// The same directory not through the mount, to prepare and to clean up.
    pub src: &'a Path,
    /// Differs from pass to pass, so that names of new files do.
    pub number: u64,
    /// Order of random blocks.
    pub seed: u64,
    /// Keep each thread on a CPU of its own, as far as there are enough.
    pub pin: bool,
}

/// What a pass cost its client.
#[derive(Debug)]
pub struct Cost {
    /// Operations done.
    pub ops: u64,
    /// From the first thread's start to the last one's end.
    pub wall: Duration,
    /// CPU time of the threads, user and system.
    pub cpu: Duration,
    /// Their context switches.
    pub switches: u64,
    /// Nanoseconds per operation.
    pub latency: Histogram<u64>,
}

impl Cost {
    /// Nothing yet.
    pub fn zero() -> Self {
        let latency = Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds are in order");
        Self { ops: 0, wall: Duration::ZERO, cpu: Duration::ZERO, switches: 0, latency }
    }

    /// Adds the cost of a pass that came after this one.
    pub fn add(&mut self, later: &Self) {
        self.ops += later.ops;
        self.wall += later.wall;
        self.cpu += later.cpu;
        self.switches += later.switches;
        self.latency += &later.latency;
    }
}

/// One thread's operations, with everything made ready that is not to be measured.
#[derive(Debug)]
enum Job {
    Names { op: NameOp, paths: Vec<CString>, device: u64 },
    Data { fd: OwnedFd, transfer: Transfer, offsets: Vec<u64>, buffer: AlignedBuffer },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NameOp {
    Stat,
    Open,
    Create,
    Unlink,
    List,
}

/// What must be there before the kernel's caches are emptied: files to remove.
///
/// # Errors
/// If a file cannot be made.
pub fn prepare(pass: &Pass<'_>) -> Result<()> {
    if pass.workload == Workload::Unlink {
        for thread in 0..pass.threads {
            for path in fresh_names(pass, thread, pass.src) {
                fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// Removes what a pass has made, behind the mount's back; to be called when the kernel has forgotten it.
///
/// # Errors
/// If a created file is not there, which means that the operations did not reach the source directory, or if a
/// removed file still is.
pub fn clean_up(pass: &Pass<'_>) -> Result<()> {
    for thread in 0..pass.threads {
        match pass.workload {
            Workload::Create => {
                for path in fresh_names(pass, thread, pass.src) {
                    fs::remove_file(&path).with_context(|| {
                        format!("{} was created through the mount but is not in the source", path.display())
                    })?;
                }
            }
            Workload::Unlink => {
                let left = fs::read_dir(work_dir(pass.src, thread))?.count();
                ensure!(left == 0, "{left} files removed through the mount are still in the source");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Does the pass.
///
/// # Errors
/// If an operation fails, gives less than it should, or did not happen on the mount; if `stop` was set.
pub fn run(pass: &Pass<'_>, stop: &AtomicBool) -> Result<Cost> {
    let jobs: Vec<Job> = (0..pass.threads).map(|thread| Job::new(pass, thread)).collect::<Result<_>>()?;
    let cpus = if pass.pin { allowed_cpus() } else { Vec::new() };
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
    let begin = costs.iter().map(|cost| cost.begin).min();
    let end = costs.iter().map(|cost| cost.end).max();
    if let (Some(begin), Some(end)) = (begin, end) {
        sum.wall = end - begin;
    }
    Ok(sum)
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
        let count = job.len();
        barrier.wait();
        let switches = own_switches();
        let cpu = thread_cpu_time();
        let begin = Instant::now();
        let mut last = begin;
        let mut failed = Ok(());
        for index in 0..count {
            if stop.load(Ordering::Relaxed) {
                failed = Err(anyhow!("interrupted"));
                break;
            }
            failed = job.step(index);
            if failed.is_err() {
                break;
            }
            // The end of one operation is the beginning of the next: one look at the clock for each.
            let now = Instant::now();
            latency.saturating_record((now - last).as_nanos() as u64);
            last = now;
        }
        let cpu = thread_cpu_time() - cpu;
        let switches = own_switches() - switches;
        failed?;
        Ok(Self { begin, end: last, cpu, switches, latency })
    }
}

impl Job {
    fn new(pass: &Pass<'_>, thread: usize) -> Result<Self> {
        match pass.workload.transfer() {
            Some(transfer) => Self::data(pass, thread, transfer),
            None => Self::names(pass, thread),
        }
    }

    fn names(pass: &Pass<'_>, thread: usize) -> Result<Self> {
        let mine = share(pass.ops, thread, pass.threads);
        let root = pass.root;
        let (op, paths): (_, Vec<CString>) = match pass.workload {
            Workload::Open => (NameOp::Open, mine.map(|index| c_path(meta_file(root, index))).collect()),
            Workload::Readdir => (NameOp::List, mine.map(|index| c_path(list_dir(root, index))).collect()),
            Workload::Create => (NameOp::Create, fresh_names(pass, thread, root).map(c_path).collect()),
            Workload::Unlink => (NameOp::Unlink, fresh_names(pass, thread, root).map(c_path).collect()),
            _ => (NameOp::Stat, mine.map(|index| c_path(meta_file(root, index))).collect()),
        };
        Ok(Self::Names { op, paths, device: tree::device(root)? })
    }

    fn data(pass: &Pass<'_>, thread: usize, transfer: Transfer) -> Result<Self> {
        let path = data_file(pass.root, thread);
        let mut flags = OFlags::CLOEXEC | if transfer.write { OFlags::WRONLY } else { OFlags::RDONLY };
        flags.set(OFlags::DIRECT, transfer.direct);
        let open = || -> rustix::io::Result<OwnedFd> {
            let fd = rustix::fs::open(&path, flags, Mode::empty())?;
            if !transfer.direct {
                rustix::fs::fadvise(&fd, 0, None, Advice::DontNeed)?;
                rustix::fs::fadvise(&fd, 0, None, Advice::Random)?;
            }
            Ok(fd)
        };
        let fd = open().with_context(|| {
            format!("cannot open {}{}", path.display(), if transfer.direct { " with O_DIRECT" } else { "" })
        })?;
        let device = rustix::fs::fstat(&fd)?.st_dev;
        ensure!(device == tree::device(pass.root)?, "{} is not on the mount", path.display());

        let mine = share(pass.ops, thread, pass.threads);
        let (blocks, count) = (DATA_SIZE / transfer.block as u64, mine.end - mine.start);
        let order = if transfer.random {
            shuffled_blocks(blocks, count, pass.seed ^ ((thread as u64) << 32))
        } else {
            (0..count).map(|index| index % blocks).collect()
        };
        let offsets = order.into_iter().map(|block| block * transfer.block as u64).collect();
        Ok(Self::Data { fd, transfer, offsets, buffer: AlignedBuffer::new(transfer.block) })
    }

    fn len(&self) -> usize {
        match self {
            Self::Names { paths, .. } => paths.len(),
            Self::Data { offsets, .. } => offsets.len(),
        }
    }

    fn step(&mut self, index: usize) -> Result<()> {
        match self {
            Self::Names { op, paths, device } => {
                let path = &paths[index];
                op.apply(path, *device).with_context(|| format!("{op:?} of {path:?} failed"))
            }
            Self::Data { fd, transfer, offsets, buffer } => {
                let offset = offsets[index];
                let bytes = buffer.bytes();
                let done = if transfer.write {
                    rustix::io::pwrite(&*fd, bytes, offset)
                } else {
                    rustix::io::pread(&*fd, bytes, offset)
                };
                let what = if transfer.write { "write" } else { "read" };
                let done = done.with_context(|| format!("{what} at offset {offset} failed"))?;
                ensure!(done == transfer.block, "{what} at {offset} gave {done} of {} bytes", transfer.block);
                Ok(())
            }
        }
    }
}

impl NameOp {
    fn apply(self, path: &CString, device: u64) -> Result<()> {
        match self {
            Self::Stat => {
                let stat = rustix::fs::stat(path)?;
                ensure!(stat.st_dev == device, "the file is not on the mount");
            }
            Self::Open => drop(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?),
            Self::Create => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                drop(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
            }
            Self::Unlink => rustix::fs::unlinkat(CWD, path, AtFlags::empty())?,
            Self::List => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let dir = rustix::fs::open(path, flags, Mode::empty())?;
                let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
                let mut entries = RawDir::new(&dir, &mut buffer);
                let mut count = 0;
                while let Some(entry) = entries.next() {
                    entry?;
                    count += 1;
                }
                // With `.` and `..`.
                if count != LIST_FILES + 2 {
                    bail!("{count} entries instead of {}", LIST_FILES + 2);
                }
            }
        }
        Ok(())
    }
}

/// Names no pass before has used, so that the kernel cannot know them.
fn fresh_names<'a>(
    pass: &Pass<'_>,
    thread: usize,
    root: &'a Path,
) -> impl Iterator<Item = std::path::PathBuf> + 'a {
    let number = pass.number;
    share(pass.ops, thread, pass.threads)
        .map(move |index| work_dir(root, thread).join(format!("p{number}-{}", file_name(index))))
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

/// CPUs this process may use, by number.
fn allowed_cpus() -> Vec<usize> {
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
mod tests {
    use super::*;
    use crate::tree::{Lower, Tree, make_files};

    fn pass(root: &Path, workload: Workload, ops: u64) -> Pass<'_> {
        Pass { workload, threads: 2, ops, root, src: root, number: 1, seed: 1, pin: true }
    }

    #[test]
    fn names_are_made_and_removed() {
        let place = tempfile::tempdir().unwrap();
        let tree = Tree::new(&Lower::Inside(place.path().into())).unwrap();
        let root = tree.path();
        for thread in 0..2 {
            fs::create_dir_all(work_dir(root, thread)).unwrap();
        }
        let stop = AtomicBool::new(false);

        let create = pass(root, Workload::Create, 21);
        let cost = run(&create, &stop).unwrap();
        assert_eq!((cost.ops, cost.latency.len()), (21, 21));
        assert!(cost.cpu > Duration::ZERO && cost.wall > Duration::ZERO);
        assert_eq!(fs::read_dir(work_dir(root, 0)).unwrap().count(), 10);
        assert!(run(&create, &stop).is_err(), "the same names again must not pass");
        clean_up(&create).unwrap();
        assert!(clean_up(&create).is_err(), "files that are not there must be noticed");

        let unlink = pass(root, Workload::Unlink, 21);
        assert!(run(&unlink, &stop).is_err(), "there is nothing to remove yet");
        prepare(&unlink).unwrap();
        assert!(clean_up(&unlink).is_err(), "files that are left must be noticed");
        assert_eq!(run(&unlink, &stop).unwrap().ops, 21);
        clean_up(&unlink).unwrap();
    }

    #[test]
    fn a_short_file_and_a_short_directory_are_errors() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        fs::create_dir(root.join("data")).unwrap();
        for thread in 0..2 {
            fs::write(data_file(root, thread), [1; 8192]).unwrap();
        }
        let stop = AtomicBool::new(false);
        let error = run(&pass(root, Workload::RandRead4kBuffered, 64), &stop).unwrap_err();
        assert!(error.to_string().contains("gave 0 of 4096"), "{error}");

        make_files(&root.join("list"), 2, LIST_FILES - 1).unwrap();
        assert!(run(&pass(root, Workload::Readdir, 2), &stop).is_err());
        make_files(&root.join("list"), 2, LIST_FILES).unwrap();
        assert_eq!(run(&pass(root, Workload::Readdir, 2), &stop).unwrap().ops, 2);
    }

    #[test]
    fn a_set_stop_flag_ends_the_pass() {
        let place = tempfile::tempdir().unwrap();
        make_files(&place.path().join("meta"), 1, 10).unwrap();
        let pass = pass(place.path(), Workload::Stat, 10);
        assert_eq!(run(&pass, &AtomicBool::new(false)).unwrap().ops, 10);
        let error = run(&pass, &AtomicBool::new(true)).unwrap_err();
        assert!(error.to_string().contains("interrupted"));
    }

    #[test]
    fn buffer_is_aligned() {
        let mut buffer = AlignedBuffer::new(4096);
        assert_eq!(buffer.bytes().as_ptr() as usize % AlignedBuffer::ALIGNMENT, 0);
        assert_eq!(buffer.bytes().len(), 4096);
    }
}
