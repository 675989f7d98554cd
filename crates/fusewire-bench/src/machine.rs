//! The machine: what it is, and how much of it others use.

use std::fs;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What a reader needs to know to judge the numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Hardware architecture.
    pub arch: String,
    /// CPU model, empty if the kernel does not tell.
    pub cpu: String,
    /// CPUs this process may use.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Load average over one minute when the bench began.
    pub load: f64,
}

impl Machine {
    /// Describes this machine.
    pub fn read() -> Self {
        let uname = rustix::system::uname();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            arch: uname.machine().to_string_lossy().into_owned(),
            cpu: cpuinfo
                .lines()
                .find_map(|line| line.strip_prefix("model name"))
                .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
                .unwrap_or_default(),
            cpus: cpus(),
            memory: field(&meminfo, "MemTotal:").unwrap_or(0) * 1024,
            load: loadavg.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// CPUs this process may use.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The number behind `name` in a file of the form `Name: 12 kB`.
pub fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// CPU time used by everybody since boot, at some moment.
#[derive(Debug, Clone, Copy)]
pub struct Busy {
    at: Instant,
    used: Duration,
    /// How far `used` may be off.
    resolution: Duration,
}

impl Busy {
    /// Reads the machine's CPU time now.
    pub fn now() -> Self {
        let (used, resolution) = exact_busy().or_else(tick_busy).unwrap_or((Duration::ZERO, Duration::MAX));
        Self { at: Instant::now(), used, resolution }
    }

    /// CPU time that others than the bench used since `before`, and CPU time there was to be had.
    ///
    /// `own` is what client and daemon used meanwhile. `None` if the kernel's counting is too coarse for such a
    /// short time.
    pub fn others_since(&self, before: &Self, own: Duration) -> Option<(Duration, Duration)> {
        let available = (self.at - before.at) * cpus() as u32;
        if self.resolution.checked_mul(12)? > available {
            return None;
        }
        Some((self.used.saturating_sub(before.used).saturating_sub(own).min(available), available))
    }
}

/// The root control group counts in nanoseconds where version 1 of the cpuacct controller is there.
fn exact_busy() -> Option<(Duration, Duration)> {
    let usage = fs::read_to_string("/sys/fs/cgroup/cpuacct/cpuacct.usage").ok()?;
    Some((Duration::from_nanos(usage.trim().parse().ok()?), Duration::from_micros(50)))
}

fn tick_busy() -> Option<(Duration, Duration)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let tick = Duration::from_secs(1) / u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some((tick * u32::try_from(busy_ticks(&stat)?).ok()?, tick * 2))
}

/// All but idle and waiting for I/O, of the line that sums over CPUs: user, nice, system, irq, softirq, steal.
/// Guests' time is part of user.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let wanted = [0, 1, 2, 5, 6, 7];
    wanted.iter().map(|index| ticks.get(*index).copied()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_ticks_leave_idle_and_guest_out() {
        let stat = "cpu  1 20 300 9999999 888888 4000 50000 600000 70 80\ncpu0 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(654_321));
    }

    #[test]
    fn field_takes_the_number_only() {
        assert_eq!(field("VmSize:\t   9 kB\nVmRSS:\t    1234 kB\n", "VmRSS:"), Some(1234));
        assert_eq!(field("VmSize:\t   9 kB\n", "VmRSS:"), None);
    }

    #[test]
    fn others_are_what_is_neither_idle_nor_own() {
        let start = Instant::now();
        let at = |ms, used| Busy {
            at: start + Duration::from_millis(ms),
            used: Duration::from_millis(used),
            resolution: Duration::from_millis(1),
        };
        let (others, available) = at(500, 700).others_since(&at(0, 100), Duration::from_millis(350)).unwrap();
        assert_eq!(others, Duration::from_millis(250));
        assert_eq!(available, Duration::from_millis(500) * cpus() as u32);
        assert!(at(2, 0).others_since(&at(0, 0), Duration::ZERO).is_none() || cpus() > 5);
    }

    #[test]
    fn this_machine_describes_itself() {
        let machine = Machine::read();
        assert!(machine.cpus > 0 && machine.memory > 1 << 20 && machine.kernel.contains('.'));
    }
}
