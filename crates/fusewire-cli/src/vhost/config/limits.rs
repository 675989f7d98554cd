//! What there is to be divided among guests.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, geteuid, getrlimit};

/// The limits of this process and this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Descriptors that the process may have.
    pub descriptors: u64,
    /// Threads that it may have, as far as is known.
    pub threads: u64,
    /// Bytes of memory.
    pub memory: u64,
}

impl Machine {
    /// As they are.
    pub fn here() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let users = if geteuid().is_root() { None } else { getrlimit(Resource::Nproc).current };
        let threads = [number("/proc/sys/kernel/threads-max"), users, of_groups("pids.max")];
        let memory = [total_memory(), of_groups("memory.max")];
        let least = |all: &[Option<u64>]| all.iter().flatten().copied().min().unwrap_or(u64::MAX);
        Self { descriptors, threads: least(&threads), memory: least(&memory) }
    }
}

fn number(path: impl AsRef<Path>) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn total_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit of the control group that this process is in, and of those above it (cgroup v2).
fn of_groups(file: &str) -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let dir = PathBuf::from("/sys/fs/cgroup").join(own);
    dir.ancestors()
        .take_while(|dir| dir.starts_with("/sys/fs/cgroup"))
        .filter_map(|dir| number(dir.join(file)))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_something_to_divide() {
        let here = Machine::here();
        assert!(here.descriptors > 8 && here.threads > 8, "{here:?}");
        assert!(here.memory > 1 << 20 && here.memory < 1 << 50, "{here:?}");
    }
}
