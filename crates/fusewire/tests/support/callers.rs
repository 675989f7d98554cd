//! Callers of a mounted laboratory, and what can be measured of it.
#![allow(dead_code)] // Each test uses a part.

use crate::lab::{Mounted, pattern};
use fusewire::{mount::Unmount, server::Ended};
use rustix::thread::{CpuSet, Pid};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    process::{Child, Command},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

pub const MS: Duration = Duration::from_millis(1);
/// Longer than a request that nothing holds up ever takes, also on a busy machine; shorter than what could hold it up here.
pub const HELD_UP: Duration = Duration::from_millis(400);

/// Run `work` on so many threads at once.
pub fn crowd(threads: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for i in 0..threads {
            let work = &work;
            scope.spawn(move || work(i));
        }
    });
}

/// Read 4 KiB at `offset` and compare.
pub fn read_at(file: &File, offset: u64) {
    let mut data = [0; 4096];
    assert_eq!(file.read_at(&mut data, offset).unwrap(), 4096);
    assert_eq!(data[..], pattern(offset, 4096)[..], "the data of another request");
}

/// Longest time that a `stat` takes during `time`.
pub fn worst_stat(mount: &Mounted, time: Duration) -> Duration {
    let (begin, mut worst) = (Instant::now(), Duration::ZERO);
    while begin.elapsed() < time {
        let one = Instant::now();
        std::fs::metadata(mount.at("plain")).unwrap();
        worst = worst.max(one.elapsed());
        std::thread::sleep(5 * MS);
    }
    worst
}

/// 1 MiB from a page border on.
pub fn aligned(bytes: &mut [u8]) -> &mut [u8] {
    let skip = bytes.as_ptr().align_offset(4096);
    &mut bytes[skip..][..1 << 20]
}

pub fn cat(mount: &Mounted, name: &str) -> Child {
    let child = Command::new("cat").arg(mount.at(name)).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_until(|| mount.fs.begun.load(Ordering::Acquire) > 0);
    child
}

/// Wait for a child as long as it may take.
pub fn ends_within(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(MS);
    }
    None
}

/// Wait for it as long as it may take. Is it so?
pub fn happens_within(limit: Duration, so: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while !so() && begin.elapsed() < limit {
        std::thread::sleep(MS);
    }
    so()
}

/// Unmount. Who asks for the root's attributes, so that waiting requests are set going, may be at it for a moment still.
pub fn end(mount: Mounted) {
    wait_until(|| mount.handle().unmount(Unmount::IfIdle).is_ok());
    assert_eq!(mount.join(), Ended::Unmounted);
}

/// Wait until it is so, for a while. What counts is a look that began after that.
#[track_caller]
pub fn wait_until(so: impl Fn() -> bool) {
    let begin = Instant::now();
    loop {
        let is_last = begin.elapsed() >= Duration::from_secs(20);
        if so() {
            return;
        }
        assert!(!is_last, "it does not happen");
        std::thread::sleep(MS);
    }
}

/// Wait until a second passes in which this process takes next to no CPU time: whatever goes on ends some time.
#[track_caller]
pub fn wait_until_idle() {
    wait_until(|| {
        let before = process_cpu();
        std::thread::sleep(1000 * MS);
        let took = process_cpu() - before;
        eprintln!("{took:?} of CPU time in a second");
        took < 20 * MS
    });
}

/// CPU time of this process so far.
pub fn process_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Memory of this process that is there, MiB.
pub fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() / 256
}

/// Threads and descriptors of this process.
pub fn leftovers() -> usize {
    let count = |dir| std::fs::read_dir(dir).unwrap().count();
    count("/proc/self/task") + count("/proc/self/fd")
}

pub fn cpus_of(thread: Pid) -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(Some(thread)).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

pub fn allowed_cpus() -> Vec<usize> {
    cpus_of(rustix::thread::gettid())
}

pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}

/// `SCHED_*` of a thread of this process.
pub fn policy_of(thread: Pid) -> u32 {
    /// `policy` in proc(5), counted from the state, which is the field after the name.
    const POLICY: usize = 41 - 3;
    let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", thread.as_raw_nonzero())).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(POLICY).unwrap().parse().unwrap()
}

pub fn policy_of_thread() -> u32 {
    policy_of(rustix::thread::gettid())
}
