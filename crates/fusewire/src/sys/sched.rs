//! How threads are scheduled, and what that was like.

use rustix::thread::{CpuSet, Pid};
use std::{mem::MaybeUninit, sync::LazyLock, time::Duration};

/// The calling thread may have inherited a single CPU from a reader; its work is not a reader's.
pub(crate) fn leave_readers_cpu() {
    /// What the process has as a whole, as far as its first thread tells.
    static CPUS: LazyLock<Option<CpuSet>> = LazyLock::new(|| {
        let process = Pid::from_raw(std::process::id() as i32);
        rustix::thread::sched_getaffinity(process).ok()
    });
    if let Some(cpus) = &*CPUS {
        _ = rustix::thread::sched_setaffinity(None, cpus);
    }
}

/// Let a thread (`None`: this one) run on these CPUs alone. A request is best served where its caller runs: elsewhere
/// its thread must be woken by an interrupt.
pub(crate) fn allow(thread: Option<Pid>, cpus: &[usize]) {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    if let Err(errno) = rustix::thread::sched_setaffinity(thread, &set) {
        tracing::debug!(?cpus, %errno, "a thread stays where it was");
    }
}

/// CPU time that a thread of this process has taken; zero for a thread that is gone.
pub(crate) fn cpu_time(thread: Pid) -> Duration {
    // As `pthread_getcpuclockid` makes it: the complement of the number, per thread (4), scheduler's clock (2).
    let clock = (!thread.as_raw_nonzero().get() << 3) | 6;
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `clock_gettime` writes one `timespec` to the address given, which is one; for a clock that does not exist it
    // fails and writes nothing, which leaves the zeros, a valid `timespec`.
    let time = unsafe {
        libc::clock_gettime(clock, time.as_mut_ptr());
        time.assume_init()
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_takes_time_and_one_that_does_not_exist_takes_none() {
        let this = rustix::thread::gettid();
        let before = cpu_time(this);
        let begin = std::time::Instant::now();
        while cpu_time(this) < before + Duration::from_millis(2) {
            assert!(begin.elapsed() < Duration::from_secs(10));
        }
        assert_eq!(cpu_time(Pid::from_raw(4_194_303).unwrap()), Duration::ZERO);
    }
}
