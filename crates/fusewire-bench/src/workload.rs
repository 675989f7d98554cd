//! What a client does: each workload is one kind of operation, repeated.

use serde::Serialize;

/// Directories of small files that are only looked at.
pub const META_DIRS: u64 = 8;
/// Files in each of them. All of them together stay well below a limit of 20,000 open files.
pub const META_FILES: u64 = 1000;
/// Directories that are listed.
pub const LIST_DIRS: u64 = 100;
/// Entries in each of them.
pub const LIST_FILES: u64 = 100;
/// Bytes of each file that is read or written; every thread has its own.
pub const DATA_SIZE: u64 = 64 << 20;
/// Most client threads there are files for.
pub const MAX_THREADS: usize = 8;

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// `stat` of a name the kernel does not know.
    Stat,
    /// `open` and `close` of a name the kernel does not know.
    Open,
    /// `open` with O_CREAT and O_EXCL of a new name, and `close`.
    Create,
    /// `unlink` of a name the kernel does not know.
    Unlink,
    /// Random reads of 4 KiB with O_DIRECT.
    #[value(name = "randread-4k")]
    #[serde(rename = "randread-4k")]
    RandRead4k,
    /// Random reads of 4 KiB through an empty page cache, without readahead.
    #[value(name = "randread-4k-buffered")]
    #[serde(rename = "randread-4k-buffered")]
    RandRead4kBuffered,
    /// Sequential reads of 128 KiB with O_DIRECT.
    #[value(name = "read-128k")]
    #[serde(rename = "read-128k")]
    Read128k,
    /// Sequential reads of 1 MiB with O_DIRECT.
    #[value(name = "read-1m")]
    #[serde(rename = "read-1m")]
    Read1m,
    /// Sequential overwrites of 128 KiB with O_DIRECT.
    #[value(name = "write-128k")]
    #[serde(rename = "write-128k")]
    Write128k,
    /// Sequential overwrites of 1 MiB with O_DIRECT.
    #[value(name = "write-1m")]
    #[serde(rename = "write-1m")]
    Write1m,
    /// `open`, `getdents` to the end and `close` of a directory of 100 entries the kernel does not know.
    Readdir,
}

/// How data is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes per operation.
    pub block: usize,
    /// Write instead of read.
    pub write: bool,
    /// Go past the page cache.
    pub direct: bool,
    /// In random order instead of from front to back.
    pub random: bool,
}

impl Workload {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 11] = [
        Self::Stat,
        Self::Open,
        Self::Create,
        Self::Unlink,
        Self::RandRead4k,
        Self::RandRead4kBuffered,
        Self::Read128k,
        Self::Read1m,
        Self::Write128k,
        Self::Write1m,
        Self::Readdir,
    ];

    /// Name in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Open => "open",
            Self::Create => "create",
            Self::Unlink => "unlink",
            Self::RandRead4k => "randread-4k",
            Self::RandRead4kBuffered => "randread-4k-buffered",
            Self::Read128k => "read-128k",
            Self::Read1m => "read-1m",
            Self::Write128k => "write-128k",
            Self::Write1m => "write-1m",
            Self::Readdir => "readdir",
        }
    }

    /// Operations of one pass over all threads, chosen so that a pass takes 50 to 300 ms on a usual mount.
    pub fn ops(self) -> u64 {
        match self {
            Self::Stat | Self::Open => META_DIRS * META_FILES,
            Self::Create | Self::Unlink => 4000,
            Self::RandRead4k | Self::RandRead4kBuffered => 16_384,
            Self::Read128k | Self::Write128k => 4096,
            Self::Read1m | Self::Write1m => 512,
            Self::Readdir => LIST_DIRS,
        }
    }

    /// Passes of one slice at scale 1; each begins with nothing cached.
    pub fn passes(self) -> u32 {
        match self {
            Self::Readdir => 6,
            Self::Read1m | Self::Write1m => 2,
            _ => 1,
        }
    }

    /// Whether the rows of this workload tell the price of a small request. The others tell that of moving data.
    pub fn is_small(self) -> bool {
        match self.transfer() {
            None => self != Self::Readdir,
            Some(transfer) => transfer.block <= 4096,
        }
    }

    /// How it moves data, `None` if it works on names.
    pub fn transfer(self) -> Option<Transfer> {
        let sequential = |block, write| Some(Transfer { block, write, direct: true, random: false });
        match self {
            Self::RandRead4k => Some(Transfer { block: 4096, write: false, direct: true, random: true }),
            Self::RandRead4kBuffered => {
                Some(Transfer { block: 4096, write: false, direct: false, random: true })
            }
            Self::Read128k => sequential(128 << 10, false),
            Self::Read1m => sequential(1 << 20, false),
            Self::Write128k => sequential(128 << 10, true),
            Self::Write1m => sequential(1 << 20, true),
            _ => None,
        }
    }
}

/// The part of `0..ops` that this thread does. The parts differ by one operation at most and cover all.
pub fn share(ops: u64, thread: usize, threads: usize) -> std::ops::Range<u64> {
    let (thread, threads) = (thread as u64, threads as u64);
    ops * thread / threads..ops * (thread + 1) / threads
}

/// The first `count` blocks of a shuffled file, over again if there are fewer. The same for the same seed.
pub fn shuffled_blocks(blocks: u64, count: u64, seed: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..blocks).collect();
    let mut state = seed;
    let mut next = || {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    };
    for last in (1..order.len()).rev() {
        order.swap(last, (next() % (last as u64 + 1)) as usize);
    }
    (0..count).map(|index| order[(index % blocks) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn names_are_the_same_everywhere() {
        for workload in Workload::ALL {
            assert_eq!(workload.to_possible_value().unwrap().get_name(), workload.name());
            assert_eq!(serde_json::to_value(workload).unwrap(), workload.name());
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        for threads in 1..=MAX_THREADS {
            let mut next = 0;
            for thread in 0..threads {
                let share = share(4001, thread, threads);
                assert_eq!(share.start, next);
                next = share.end;
            }
            assert_eq!(next, 4001);
        }
    }

    #[test]
    fn shuffle_visits_each_block_once_and_is_repeatable() {
        let order = shuffled_blocks(1000, 1000, 7);
        assert_eq!(order, shuffled_blocks(1000, 1000, 7));
        assert_ne!(order, shuffled_blocks(1000, 1000, 8));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_ne!(order, sorted);
        assert_eq!(shuffled_blocks(4, 10, 1)[4..8], shuffled_blocks(4, 4, 1)[..]);
    }

    #[test]
    fn data_workloads_stay_inside_the_file() {
        for workload in Workload::ALL {
            if let Some(transfer) = workload.transfer() {
                assert_eq!(DATA_SIZE % transfer.block as u64, 0);
            }
        }
    }
}
