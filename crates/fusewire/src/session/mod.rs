//! What was negotiated, and the life of one mount's conversation with the kernel.

mod answered;
mod count;
mod latency;
mod seldom;
mod serve;
mod stats;

pub use answered::Answered;
pub(crate) use count::Counters;
pub use latency::Latency;
pub use seldom::Seldom;
pub use serve::{Session, Slot};
pub use stats::{OpenStats, OperationStats, Stats};

use crate::{backing::Backings, notify::Notifier, window::Window};
use fusewire_abi::InitFlags;

/// What a filesystem wants of what the kernel offers; filled in by [`FileSystem::init`](crate::FileSystem::init).
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) offered: InitFlags,
    pub(crate) minor: u32,
    pub(crate) want: InitFlags,
    /// Largest write, bytes. Default: the largest that the kernel allows up to 1 MiB.
    pub max_write: u32,
    /// How far the kernel may read ahead, bytes; it only ever lowers what the kernel has (128 KiB).
    pub max_readahead: u32,
    /// How many requests that nobody waits for (readahead, asynchronous I/O) may be under way. Default 64.
    pub max_background: u16,
    /// From how many on the kernel holds its own writers back. Default three quarters of `max_background`.
    pub congestion_threshold: u16,
    /// Granularity of times in nanoseconds, a power of ten. Default 1.
    pub time_gran: u32,
    /// How deep filesystems are stacked under a backing file, 1 or 2; with `PASSTHROUGH` only.
    pub max_stack_depth: u32,
    /// Binary logarithm of what DAX mappings are aligned to; counts if `MAP_ALIGNMENT` is asked for. Default 12.
    pub map_alignment: u16,
    /// After how many seconds without an answer the kernel gives the connection up; 0: never. Rounded up to 15.
    pub request_timeout: u16,
}

impl Config {
    /// What this kernel offers.
    pub fn offered(&self) -> InitFlags {
        self.offered
    }

    /// The protocol's minor version both sides speak.
    pub fn minor(&self) -> u32 {
        self.minor
    }

    /// Ask for features. Returns those among them that the kernel does not offer, which are left out.
    pub fn want(&mut self, flags: InitFlags) -> InitFlags {
        self.want |= flags;
        flags - self.offered
    }

    /// Do not use these features, also those that are on by default.
    pub fn without(&mut self, flags: InitFlags) {
        self.want -= flags;
    }

    /// What is asked for so far.
    pub fn wanted(&self) -> InitFlags {
        self.want
    }
}

/// A session that has begun.
#[derive(Clone, Debug)]
pub struct Started {
    /// What both sides agreed on.
    pub agreed: InitFlags,
    /// The protocol's minor version.
    pub minor: u32,
    /// Largest write, bytes.
    pub max_write: u32,
    /// How the filesystem tells the kernel that something changed.
    pub notifier: Notifier,
    /// Where files are registered that the kernel is to read and write by itself. Refuses all unless `PASSTHROUGH` was agreed on.
    pub backings: Backings,
    /// Where files are mapped for a guest that uses DAX. Refuses all unless the channel is a device with a window.
    pub window: Window,
}
