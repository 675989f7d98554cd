//! What this process uses of the machine.

use std::fs;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What a process uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began, in seconds since 1970.
    pub started: f64,
    /// CPU time, user and system.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Descriptors that are open; a passthrough may hold one for each file that the kernel knows.
    pub open_fds: u64,
    /// Most that may be open.
    pub max_fds: Option<u64>,
    /// Threads.
    pub threads: u64,
}

impl Process {
    /// This process now.
    pub fn current() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Self {
            pid: std::process::id(),
            started: started().unwrap_or_default(),
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident_bytes: field(&status, "VmRSS:") * 1024,
            virtual_bytes: field(&status, "VmSize:") * 1024,
            // One of them is that of the directory.
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |list| list.count().saturating_sub(1) as u64),
            max_fds: getrlimit(Resource::Nofile).current,
            threads: field(&status, "Threads:"),
        }
    }
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The kernel tells it in ticks since it was booted.
fn started() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name may have blanks and parentheses in it. The time is the 22nd field, and the third comes behind the name.
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?.parse().ok()?;
    let uptime = clock_gettime(ClockId::Boottime);
    let up = uptime.tv_sec as f64 + uptime.tv_nsec as f64 / 1e9;
    let age = up - ticks / rustix::param::clock_ticks_per_second() as f64;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some((now - Duration::try_from_secs_f64(age).ok()?).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_what_it_is() {
        let process = Process::current();
        assert_eq!(process.pid, std::process::id());
        assert!(process.resident_bytes > 1 << 20 && process.virtual_bytes >= process.resident_bytes);
        assert!(process.threads >= 1 && process.open_fds >= 3 && process.cpu_seconds > 0.0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!((now - 3600.0..now + 1.0).contains(&process.started), "{} {now}", process.started);
    }
}
