//! How threads are scheduled, and what that was like.

use rustix::thread::{CpuSet, Pid};
use std::{
    fmt, fs,
    io::{self, Read},
    mem::MaybeUninit,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    sync::LazyLock,
    thread,
    time::Duration,
};

/// A scheduling class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// `SCHED_OTHER`.
    Normal,
    /// `SCHED_IDLE`: it gets a CPU that nobody else wants, and such a CPU counts as free when the scheduler looks for one
    /// (`sched_idle_cpu`).
    Idle,
}

/// Put a thread of this process (`None`: this one) into a class. Back from `Idle` is allowed with CAP_SYS_NICE or an RLIMIT_NICE
/// of 20.
pub(crate) fn set_class(thread: Option<Pid>, class: Class) -> io::Result<()> {
    let policy = match class {
        Class::Normal => libc::SCHED_OTHER,
        Class::Idle => libc::SCHED_IDLE,
    };
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: reads one `sched_param`, which is one, and changes nothing of this process's memory.
    let done = unsafe { libc::sched_setscheduler(Pid::as_raw(thread), policy, &param) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The I/O of a thread keeps its priority, also in the idle class: where none was set it follows the class
/// (`task_nice_ioclass`), and what others read would come first.
pub(crate) fn keep_io_priority(thread: Option<Pid>) -> io::Result<()> {
    const WHO_PROCESS: libc::c_long = 1;
    const CLASS: u32 = 13;
    const BEST_EFFORT: libc::c_long = 2;
    let who = libc::c_long::from(Pid::as_raw(thread));
    // SAFETY: takes and returns numbers alone.
    let set = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, who) };
    if set >> CLASS != 0 {
        return Ok(());
    }
    // As `task_nice_ioprio` computes it.
    let level = libc::c_long::from((rustix::process::getpriority_process(thread)? + 20) / 5);
    // SAFETY: as above.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, who, BEST_EFFORT << CLASS | level) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What `/proc/THREAD/stat` says.
struct Stat(String);

impl Stat {
    fn of(thread: impl fmt::Display) -> Option<Self> {
        // In a sandbox that is no more than another root, what is called so may be somebody else's: a pipe, or without end.
        let mut file = fs::OpenOptions::new();
        file.read(true).custom_flags(libc::O_NONBLOCK);
        let file = file.open(format!("/proc/{thread}/stat")).ok()?;
        // Longer than it ever is, so that one call reads it: the watch does that every few milliseconds.
        let mut text = String::with_capacity(1024);
        file.take(4096).read_to_string(&mut text).ok()?;
        Some(Self(text))
    }

    /// The name, which may hold any character, and stands in parentheses; and what follows it.
    fn parts(&self) -> Option<(&str, &str)> {
        self.0.split_once('(')?.1.rsplit_once(") ")
    }

    /// A field by its number in proc(5), from the third on.
    fn field(&self, number: usize) -> Option<&str> {
        self.parts()?.1.split(' ').nth(number.checked_sub(3)?)
    }
}

/// A field of what `/proc/THREAD/stat` says, by its number in proc(5), from the third on.
pub(crate) fn stat_field(thread: impl fmt::Display, field: usize) -> Option<String> {
    Stat::of(thread)?.field(field).map(str::to_owned)
}

/// A thread of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub thread: Pid,
    pub name: String,
    /// The kernel has made it, for operations of an `io_uring` that wait for something.
    pub is_io_worker: bool,
    /// It is in the class [`Class::Idle`].
    pub is_idle: bool,
}

impl Task {
    fn of(thread: Pid) -> Option<Self> {
        /// `PF_IO_WORKER` of the kernel.
        const IO_WORKER: u32 = 0x10;
        let stat = Stat::of(format_args!("self/task/{}", thread.as_raw_nonzero()))?;
        let field = |number| stat.field(number)?.parse::<u32>().ok();
        Some(Self {
            thread,
            name: stat.parts()?.0.to_owned(),
            is_io_worker: field(9)? & IO_WORKER != 0,
            is_idle: field(41)? == libc::SCHED_IDLE as u32,
        })
    }
}

/// The threads of this process.
pub(crate) fn tasks() -> Vec<Task> {
    let list = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    list.filter_map(|entry| Task::of(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?)).collect()
}

/// A number that is another one when there are more threads, or fewer.
pub(crate) fn count_tasks() -> u64 {
    fs::metadata("/proc/self/task").map_or(0, |list| list.nlink())
}

/// May threads of this process go to the idle class and back? Asked once, by trying it on a thread made for it.
pub fn can_step_aside() -> bool {
    static CAN: LazyLock<bool> = LazyLock::new(|| {
        let there_and_back = || set_class(None, Class::Idle).and_then(|()| set_class(None, Class::Normal));
        let thread = thread::Builder::new().stack_size(64 << 10).spawn(there_and_back);
        thread.is_ok_and(|thread| thread.join().is_ok_and(|tried| tried.is_ok()))
    });
    *CAN
}

/// The calling thread may have inherited a single CPU and the idle class from a reader; its work is not a reader's.
pub(crate) fn leave_readers_place() {
    // Fails only where no reader can be in another class.
    _ = set_class(None, Class::Normal);
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

/// What a thread has had of the CPU, and for how long it had to wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub cpu: Duration,
    pub delay: Duration,
}

impl Load {
    /// Of a thread of any process so far; `None` if there is none of that number, or the kernel keeps no such account
    /// (`CONFIG_SCHED_INFO`).
    pub(crate) fn of(thread: impl fmt::Display) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?)
    }

    /// From what `/proc/TID/schedstat` says.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers =
            text.split_ascii_whitespace().map(|number| number.parse().map(Duration::from_nanos).ok());
        Some(Self { cpu: numbers.next()??, delay: numbers.next()?? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_steps_aside_and_comes_back() {
        let class = |thread: Pid| -> i32 {
            stat_field(thread.as_raw_nonzero(), 41).and_then(|policy| policy.parse().ok()).expect("a policy")
        };
        // `IOPRIO_CLASS_BE`, and the middle of it.
        const USUAL: libc::c_long = 2 << 13 | 4;
        // SAFETY: takes and returns numbers alone.
        let io_priority = || unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) };
        let this = rustix::thread::gettid();
        if !can_step_aside() {
            // Nor did the trial leave this thread in another class.
            assert_eq!(class(this), libc::SCHED_OTHER);
            return;
        }
        keep_io_priority(Some(this)).expect("a priority");
        set_class(Some(this), Class::Idle).expect("aside");
        assert_eq!(class(this), libc::SCHED_IDLE);
        assert_eq!(io_priority(), USUAL);
        thread::spawn(move || {
            let heir = rustix::thread::gettid();
            assert_eq!(class(heir), libc::SCHED_IDLE);
            leave_readers_place();
            assert_eq!(class(heir), libc::SCHED_OTHER);
        })
        .join()
        .expect("the heir");
        set_class(Some(this), Class::Normal).expect("back");
        assert_eq!(class(this), libc::SCHED_OTHER);
    }

    #[test]
    fn threads_are_counted_and_known_by_name() {
        let is_there = || tasks().iter().any(|task| task.name == "a name) (" && !task.is_io_worker);
        let before = count_tasks();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let body = move || _ = ended.recv();
        let thread = thread::Builder::new().name("a name) (".into()).spawn(body).expect("a thread");
        let begin = std::time::Instant::now();
        while !is_there() {
            assert!(begin.elapsed() < Duration::from_secs(10));
        }
        assert_ne!(count_tasks(), before);
        drop(end);
        thread.join().expect("it ended");
    }

    #[test]
    fn a_thread_that_works_takes_time_and_one_that_does_not_exist_takes_none() {
        let this = rustix::thread::gettid();
        let before = cpu_time(this);
        let begin = std::time::Instant::now();
        while cpu_time(this) < before + Duration::from_millis(2) {
            assert!(begin.elapsed() < Duration::from_secs(10));
        }
        assert_eq!(cpu_time(Pid::from_raw(4_194_303).unwrap()), Duration::ZERO);
        if let Some(Load { cpu, .. }) = Load::of(this.as_raw_nonzero()) {
            assert!(cpu >= before, "{cpu:?}");
        }
        assert_eq!(Load::of(u32::MAX), None);
    }
}
