//! The few system calls that no safe wrapper offers.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// CPU time (user and system) that all threads of a process have used, ended threads included.
///
/// The clock is the scheduler's own sum in nanoseconds; the numbers in `/proc/PID/stat` are the same sum in
/// hundredths of a second, and `/proc/PID/schedstat` knows the first thread only.
///
/// # Errors
/// `ESRCH` if there is no such process.
pub fn process_cpu_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is valid for writes for the length of the call, which keeps no pointer to it.
    let failed = unsafe { libc::clock_getcpuclockid(pid, &mut clock) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes for the length of the call, which keeps no pointer to it.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        // The clock of a process that has just ended is an invalid clock.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
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

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert_eq!(process_cpu_time(u32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
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
