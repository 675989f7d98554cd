//! The few system calls that no safe wrapper offers.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// CPU time (user and system) that all threads of a process have used, ended threads included.
///
/// The clock is the scheduler's own sum in nanoseconds; the numbers in `/proc/PID/stat` are the same sum in
/// hundredths of a second, and `/proc/PID/schedstat` knows the first thread only.
///
/// # Errors
/// `ESRCH` if there is no such process.
pub fn process_cpu_time(pid: u32) -> io::Result<Duration> {
    read_clock(process_clock(pid)?)
}

fn process_clock(pid: u32) -> io::Result<libc::clockid_t> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is valid for writes for the length of the call, which keeps no pointer to it.
    let failed = unsafe { libc::clock_getcpuclockid(pid, &mut clock) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    Ok(clock)
}

fn read_clock(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes for the length of the call, which keeps no pointer to it.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        // The clock of a process that has just ended is an invalid clock.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// How a process spent its CPU time, by the kernel's samples: what ran when the timer ticked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sampled {
    /// Ticks in user mode, as time.
    pub user: Duration,
    /// All ticks, as time.
    pub all: Duration,
}

/// Samples of all threads of a process, ended threads included, in nanoseconds that are a multiple of a tick (1 to 10 ms).
/// Where the kernel counts at each change of mode (`CONFIG_VIRT_CPU_ACCOUNTING`), they are exact.
///
/// # Errors
/// `ESRCH` if there is no such process.
pub fn sampled_cpu_time(pid: u32) -> io::Result<Sampled> {
    // The clock of a process is its number, complemented, above three bits that say which of its clocks: the lowest two are
    // 0 for user and system, 1 for user, 2 for the scheduler's own (include/linux/posix-timers.h).
    let base = process_clock(pid)? & !0b11;
    Ok(Sampled { user: read_clock(base | 1)?, all: read_clock(base)? })
}

/// Lets the kernel end the child when the thread that starts it ends, so that no daemon outlives a killed
/// bench; with `nofile`, also limits how many files the child may have open.
pub fn tie_to_parent(command: &mut Command, nofile: Option<u64>) {
    let prepare = move || {
        // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if let Some(limit) = nofile {
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            // SAFETY: `limit` lives on this stack and is only read during the call.
            if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only: it takes no lock, allocates nothing
    // and owns nothing that is dropped.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// Lets this process have as many files open as it may: what it may not have stays as it is.
pub fn allow_open_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, all);
}

/// What a child and the descendants it has waited for have used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildUsage {
    /// CPU time, user and system.
    pub cpu: Duration,
    /// Context switches, voluntary and not.
    pub switches: u64,
}

/// Waits for the end of a child that nobody else waits for.
///
/// # Errors
/// `ECHILD` if there is no such child.
pub fn wait_with_usage(pid: u32) -> io::Result<(ExitStatus, ChildUsage)> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ECHILD))?;
    let mut status = 0;
    // SAFETY: rusage is plain integers, for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both places are valid for writes for the length of the call, which keeps no pointer to them.
        if unsafe { libc::wait4(pid, &mut status, 0, &mut usage) } == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    let used = ChildUsage {
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        switches: (usage.ru_nvcsw + usage.ru_nivcsw) as u64,
    };
    Ok((ExitStatus::from_raw(status), used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_grows_with_work() {
        let before = process_cpu_time(std::process::id()).unwrap();
        let mut sum = 0_u64;
        for i in 0..20_000_000_u64 {
            sum = std::hint::black_box(sum ^ i);
        }
        std::hint::black_box(sum);
        assert!(process_cpu_time(std::process::id()).unwrap() > before);
    }

    /// Samples of this process for the length of some work, until there are some.
    fn sampled_during(work: impl Fn()) -> Sampled {
        let id = std::process::id();
        let before = sampled_cpu_time(id).unwrap();
        loop {
            work();
            let now = sampled_cpu_time(id).unwrap();
            let all = now.all - before.all;
            if all >= Duration::from_millis(400) {
                return Sampled { user: now.user - before.user, all };
            }
        }
    }

    #[test]
    fn samples_tell_user_mode_from_system_calls() {
        // Other tests of this program run beside it and count too: only that the two are apart can be told.
        let in_user = sampled_during(|| {
            std::hint::black_box((0..1_000_000_u64).fold(0, |sum, i| std::hint::black_box(sum ^ i)));
        });
        assert!(in_user.user <= in_user.all && in_user.user > Duration::ZERO, "{in_user:?}");
        let in_kernel = sampled_during(|| {
            std::fs::read("/proc/self/smaps").unwrap();
        });
        let share = |sampled: Sampled| sampled.user.as_secs_f64() / sampled.all.as_secs_f64();
        assert!(share(in_kernel) < share(in_user), "{in_kernel:?} {in_user:?}");
        assert_eq!(sampled_cpu_time(u32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert_eq!(process_cpu_time(u32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "it is waited for by the function under test")]
    fn a_child_is_waited_for_with_what_it_used() {
        let child =
            Command::new("sh").args(["-c", "for i in $(seq 20000); do :; done; exit 3"]).spawn().unwrap();
        let (status, used) = wait_with_usage(child.id()).unwrap();
        assert_eq!(status.code(), Some(3));
        assert!(used.cpu > Duration::ZERO, "{used:?}");
        assert_eq!(wait_with_usage(child.id()).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn a_child_gets_its_file_limit() {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n"]);
        tie_to_parent(&mut command, Some(77));
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "77");
    }
}
