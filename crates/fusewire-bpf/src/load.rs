//! Loading, and why it may be refused.

use std::error::Error;
use std::io;
use std::path::Path;

use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf};

/// Where the kernel describes its structures.
pub const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Why programs cannot be loaded here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The process lacks the capabilities `CAP_BPF` and `CAP_PERFMON`.
    Rights,
    /// The kernel does not describe its structures: no `CONFIG_DEBUG_INFO_BTF`.
    NoTypes,
    /// The kernel's description has no FUSE in it: FUSE is a module, or missing.
    NoFuse,
    /// The kernel does not load programs of this kind.
    Unsupported,
}

/// Programs could not be loaded or attached.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct Refused {
    /// Which of the reasons it is.
    pub reason: Reason,
    what: &'static str,
    cause: String,
}

impl Refused {
    /// Refused for `reason`, while doing `what`.
    pub fn new(reason: Reason, what: &'static str, cause: impl Into<String>) -> Self {
        Self { reason, what, cause: cause.into() }
    }

    /// An error of the loader; whether rights are missing is told by the error beneath.
    pub fn by(what: &'static str, error: &(dyn Error + 'static)) -> Self {
        let reason = match beneath(error).and_then(io::Error::raw_os_error) {
            Some(number) if number == rustix::io::Errno::PERM.raw_os_error() && !may_load() => Reason::Rights,
            Some(number) if number == rustix::io::Errno::ACCESS.raw_os_error() && !may_load() => {
                Reason::Rights
            }
            _ => Reason::Unsupported,
        };
        Self { reason, what, cause: with_causes(error) }
    }

    /// What the user can do about it.
    pub fn remedy(&self) -> &'static str {
        match self.reason {
            Reason::Rights => "run it as root, or with the capabilities CAP_BPF and CAP_PERFMON",
            Reason::NoTypes => "a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions have it",
            Reason::NoFuse => "a kernel with CONFIG_FUSE_FS=y; FUSE as a module is not watched yet",
            Reason::Unsupported => "Linux 5.8 or newer, and a kernel that is not locked down against BPF",
        }
    }
}

/// The running kernel's structures.
///
/// # Errors
/// [`Reason::NoTypes`], or [`Reason::Rights`] if they may not be read.
pub fn kernel_types() -> Result<Btf, Refused> {
    if !Path::new(KERNEL_TYPES).exists() {
        return Err(Refused::new(
            Reason::NoTypes,
            "reading the kernel's types",
            format!("{KERNEL_TYPES} is missing"),
        ));
    }
    Btf::from_sys_fs().map_err(|error| Refused::by("reading the kernel's types", &error))
}

/// Whether the process has `CAP_BPF` and `CAP_PERFMON`, or `CAP_SYS_ADMIN`, in effect.
pub fn may_load() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON_AND_BPF: u64 = 1 << 38 | 1 << 39;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    effective & SYS_ADMIN != 0 || effective & PERFMON_AND_BPF == PERFMON_AND_BPF
}

/// Loads the program `name` for the tracepoint, and attaches it.
///
/// # Errors
/// When the kernel refuses either.
pub fn attach(
    bpf: &mut Ebpf,
    name: &'static str,
    tracepoint: &'static str,
    types: &Btf,
) -> Result<(), Refused> {
    let program = bpf.program_mut(name).expect("the object file has the program");
    let program: &mut BtfTracePoint = program.try_into().expect("a program for tracepoints");
    program.load(tracepoint, types).map_err(|error| match error {
        ProgramError::Btf(_) => {
            Refused::new(Reason::NoFuse, tracepoint, "the kernel's types have no such tracepoint")
        }
        error => Refused::by(tracepoint, &error),
    })?;
    program.attach().map_err(|error| Refused::by(tracepoint, &error))?;
    Ok(())
}

fn beneath<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// An error with everything that caused it, in one line. Causes that the text above them repeats are left out.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}
