//! Whether there can be a ring; if not, why, and what would help. What is known of that is here and nowhere else.

use crate::{fs::FileSystem, limits, types::Errno};
use rustix::{fs::OFlags, thread::CapabilitySet};
use std::{fs, io, path::Path};

use super::{crew::Prepared, queues, queues::Queues};

/// Where the kernel tells whether it offers the ring; `Y` or `N`.
pub const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";

/// Why requests do not come over a ring.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// `/dev/fuse` was asked for.
    #[error("/dev/fuse was asked for")]
    NotAsked,
    /// The kernel is older than 6.14, or was built without it.
    #[error("this kernel does not have it: there is no {SWITCH}")]
    Missing,
    /// Nothing can be learnt from `/sys`.
    #[error("cannot tell whether the kernel offers it: /sys is not mounted")]
    NoSysfs,
    /// The kernel has it and does not offer it.
    #[error("it is switched off in the kernel's module fuse")]
    Off,
    /// The number of queues is not known.
    #[error("cannot tell how many CPUs there may be: {POSSIBLE} is missing or says something odd")]
    Cpus,
    /// Requests would be too short for some that are not writes.
    #[error("the kernel allows too few pages in a request: {0}, and the ring needs {pages}", pages = limits::RING_PAGES)]
    Pages(u16),
    /// Threads, rings or memory cannot be had; said is which limit or rule is the likely cause.
    #[error("cannot set up io_uring: {0}")]
    SetUp(io::Error),
    /// The switch is on; all the same it was not agreed on.
    #[error("the kernel did not offer it at INIT, or the filesystem declined it")]
    NotAgreed,
}

impl Reason {
    /// What to change so that there can be a ring; empty if that is not known.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotAsked => "--channel uring, or auto".into(),
            Self::Missing => "Linux 6.14 or newer, built with CONFIG_FUSE_IO_URING=y".into(),
            Self::NoSysfs | Self::Cpus => "mount -t sysfs none /sys, as root".into(),
            Self::Off => switch_on(Path::new("/sys/module/fuse/initstate").exists()),
            Self::SetUp(error) => {
                Errno::from_io_error(error).map(|errno| Rules::read().remedy(errno)).unwrap_or_default()
            }
            Self::Pages(_) => "sysctl fs.fuse.max_pages_limit=256, as root".into(),
            Self::NotAgreed => String::new(),
        }
    }
}

/// A module that is part of the kernel never reads `modprobe.d`.
fn switch_on(is_loaded: bool) -> String {
    let options =
        if is_loaded { ", or `options fuse enable_uring=1` in /etc/modprobe.d/fuse.conf" } else { "" };
    format!(
        "echo Y > {SWITCH}, as root; to keep it: fuse.enable_uring=1 on the kernel's command line{options}"
    )
}

/// Rules that may keep a process from having an `io_uring`.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// The sysctl `kernel.io_uring_disabled`: 1 for all but root and a group, 2 for everybody.
    disabled: u32,
    /// `CAP_SYS_ADMIN`.
    is_admin: bool,
    /// A seccomp filter is in force.
    is_filtered: bool,
}

impl Rules {
    fn read() -> Self {
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let sets = rustix::thread::capabilities(None);
        Self {
            disabled: disabled.trim().parse().unwrap_or(0),
            is_admin: sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN)),
            is_filtered: status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])),
        }
    }

    fn remedy(self, errno: Errno) -> String {
        match errno {
            Errno::PERM if self.disabled >= 2 => "sysctl kernel.io_uring_disabled=0, as root".into(),
            Errno::PERM if self.disabled == 1 && !self.is_admin => {
                "sysctl kernel.io_uring_disabled=0, as root; or join the group in kernel.io_uring_group, or be root"
                    .into()
            }
            Errno::PERM | Errno::ACCESS | Errno::NOSYS if self.is_filtered => {
                "a seccomp filter that allows io_uring: SystemCallFilter=@aio for a service, \
                 --security-opt seccomp=PROFILE for a container"
                    .into()
            }
            Errno::NOSYS => "a kernel built with CONFIG_IO_URING=y".into(),
            Errno::PERM | Errno::ACCESS => "a security policy (SELinux, AppArmor) that allows io_uring".into(),
            Errno::MFILE => "more open files, 3 for each thread: LimitNOFILE= of the service, or ulimit -n".into(),
            Errno::NFILE => "more open files on the machine: sysctl fs.file-max".into(),
            Errno::NOMEM => "more locked memory, 20 KiB for each thread: LimitMEMLOCK= of the service, or ulimit -l; \
                             or more memory"
                .into(),
            Errno::AGAIN => "more threads: TasksMax= of the service, or ulimit -u; or fewer with --threads".into(),
            _ => String::new(),
        }
    }
}

/// How large a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSize {
    /// Queues: the kernel has one for each CPU there may ever be.
    pub queues: usize,
    /// Threads that serve them.
    pub threads: usize,
    /// Longest data of one request, bytes. An entry takes a page more.
    pub payload: usize,
    /// How many entries may keep the memory of long requests. There is an entry for each queue at first; more come when handlers
    /// wait for something. The memory of an entry is there only as far as it was ever used.
    pub entries: usize,
}

impl From<&Queues> for RingSize {
    fn from(queues: &Queues) -> Self {
        Self {
            queues: queues.groups.iter().map(Vec::len).sum(),
            threads: queues.groups.len(),
            payload: queues.payload,
            entries: queues.entries,
        }
    }
}

/// Does the kernel offer the ring?
pub(crate) fn switch() -> Result<(), Reason> {
    let read = || fs::read_to_string(SWITCH);
    // Opening the device loads a module that is not there yet.
    let text = read().or_else(|_| {
        let _device =
            rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty());
        read()
    });
    match text {
        // That says nothing of the kernel.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
            Err(Reason::SetUp(error))
        }
        text => judge(text.ok().as_deref(), Path::new("/sys/module").exists()),
    }
}

fn judge(switch: Option<&str>, has_sysfs: bool) -> Result<(), Reason> {
    match switch {
        Some(text) if text.starts_with(['Y', '1']) => Ok(()),
        Some(_) => Err(Reason::Off),
        None if has_sysfs => Err(Reason::Missing),
        None => Err(Reason::NoSysfs),
    }
}

/// How many queues the kernel has.
pub(crate) fn possible() -> Result<usize, Reason> {
    let list = fs::read_to_string(POSSIBLE).ok();
    list.as_deref().and_then(queues::possible_cpus).ok_or(Reason::Cpus)
}

/// Make all that a mount with these `queues` would make, and take it away again.
pub(crate) fn try_out(queues: Queues) -> Result<RingSize, Reason> {
    let size = RingSize::from(&queues);
    let any = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty());
    let made = any.map_err(io::Error::from).and_then(|file| Prepared::<Nothing, ()>::new(file, queues));
    made.map_err(Reason::SetUp)?.disband();
    Ok(size)
}

/// Stands for the filesystem where none is served.
struct Nothing;

impl FileSystem for Nothing {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_decides() {
        assert!(judge(Some("Y\n"), true).is_ok() && judge(Some("1\n"), true).is_ok());
        let off = judge(Some("N\n"), true).expect_err("off");
        assert!(matches!(off, Reason::Off));
        assert!(off.remedy().contains(&format!("echo Y > {SWITCH}")));
        let missing = judge(None, true).expect_err("missing");
        assert!(missing.to_string().contains(SWITCH) && missing.remedy().contains("6.14"));
        assert!(matches!(judge(None, false), Err(Reason::NoSysfs)));
    }

    #[test]
    fn modprobe_options_are_for_modules_that_are_loaded() {
        assert!(switch_on(true).contains("modprobe.d") && switch_on(true).contains("fuse.enable_uring=1"));
        assert!(!switch_on(false).contains("modprobe.d") && switch_on(false).contains("fuse.enable_uring=1"));
    }

    #[test]
    fn each_rule_has_its_remedy() {
        let free = Rules { disabled: 0, is_admin: false, is_filtered: false };
        let filtered = Rules { is_filtered: true, ..free };
        for (rules, errno, needle) in [
            (Rules { disabled: 2, is_admin: true, ..free }, Errno::PERM, "io_uring_disabled=0"),
            (Rules { disabled: 1, ..free }, Errno::PERM, "io_uring_group"),
            (Rules { disabled: 1, is_admin: true, ..free }, Errno::PERM, "security policy"),
            (filtered, Errno::PERM, "seccomp"),
            (filtered, Errno::NOSYS, "seccomp"),
            (filtered, Errno::NOMEM, "LimitMEMLOCK="),
            (free, Errno::NOSYS, "CONFIG_IO_URING"),
            (free, Errno::ACCESS, "security policy"),
            (free, Errno::MFILE, "LimitNOFILE="),
            (free, Errno::NFILE, "fs.file-max"),
            (free, Errno::AGAIN, "--threads"),
        ] {
            let remedy = rules.remedy(errno);
            assert!(remedy.contains(needle), "{rules:?}, {errno}: {remedy}");
        }
        assert_eq!(free.remedy(Errno::IO), "");
        let reason = Reason::SetUp(io::Error::from_raw_os_error(libc::EMFILE));
        assert!(reason.remedy().contains("LimitNOFILE="), "{}", reason.remedy());
    }
}
