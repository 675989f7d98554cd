//! What a client does: each workload is one kind of operation, repeated. Workloads are data; files of them are read
//! by [`crate::suite`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Files in each directory of small files that are only looked at. All of the usual eight directories together stay well
/// below a limit of 20,000 open files.
pub const META_FILES: u64 = 1000;
/// Entries in each directory that is listed.
pub const LIST_FILES: u64 = 100;
/// Bytes of the file `0` in the root, which round trips read and write. A null filesystem has the same.
pub const PING_SIZE: u64 = 1 << 20;
/// Most client threads.
pub const MAX_THREADS: usize = 64;

/// One kind of operation, how often, and by how many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Name in tables and on the command line, unique in its file.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// Numbers of client threads, one row each.
    pub threads: Vec<usize>,
    /// Operations of one pass over all threads; 0 for as many as there are blocks in the files.
    pub ops: u64,
    /// Passes of one turn at scale 1; each begins with nothing cached, unless `warm`.
    pub passes: u32,
    /// Meanwhile each CPU but that of the first client has a thread that computes.
    #[serde(default)]
    pub busy_others: bool,
    /// Whether perf takes samples of the daemon meanwhile, to tell its own code from the kernel's.
    #[serde(default)]
    pub sampled: bool,
    /// Whether the requests of each operation are counted, of targets whose daemon tells them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counted: bool,
    /// The same is done before, unmeasured, so that the kernel knows what it may remember.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warm: bool,
    /// The operation.
    pub op: Op,
}

/// A kind of operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// `stat` of a name the kernel does not know.
    Stat,
    /// `fstatat` of one name in a directory that is open.
    StatAt,
    /// `stat` of a name that is not there.
    Missing,
    /// `readlink` of a symbolic link the kernel does not know.
    Readlink,
    /// `open` and `close` of a name the kernel does not know.
    Open,
    /// `open` with O_CREAT and O_EXCL of a new name, `write` of so many bytes if there are any, and `close`.
    Create {
        /// Bytes to write.
        size: u64,
    },
    /// `unlink` of a name the kernel does not know.
    Unlink,
    /// `rename` of a name the kernel does not know to a new one in the same directory.
    Rename,
    /// `open`, `read` to the end and `close` of a small file the kernel does not know.
    ReadFile {
        /// Bytes in the file.
        size: u64,
    },
    /// `open` with O_APPEND, `write` and `close` of a small file the kernel does not know.
    Append {
        /// Bytes in the file, and bytes to add.
        size: u64,
    },
    /// `open`, `getdents` to the end and `close` of a directory of [`LIST_FILES`] entries the kernel does not know.
    List,
    /// `lstat` of each entry of such a directory; the first of them pays for listing the directory.
    LsL,
    /// Reads or writes of an open file.
    Data {
        /// How.
        transfer: Transfer,
        /// Size of the files; each thread has its own.
        files: Extent,
    },
    /// One request to the daemon and its answer.
    Ping(Request),
    /// What the program fio measures.
    Fio(FioJob),
    /// A command of the shell.
    Command(CommandLine),
    /// Requests to a virtio-fs device.
    Device(DeviceLoad),
}

/// How data is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// How large files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// Bytes of each file.
    Each(u64),
    /// Bytes of all files together.
    Total(u64),
}

/// The request of a round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// GETATTR: `statx` with AT_STATX_FORCE_SYNC of the root.
    Getattr,
    /// The same of the file `0`.
    GetattrFile,
    /// READ with O_DIRECT at the beginning of the file `0`.
    Read {
        /// Bytes.
        block: usize,
    },
    /// WRITE with O_DIRECT at the beginning of the file `0`.
    Write {
        /// Bytes.
        block: usize,
    },
}

/// Requests to a virtio-fs device, from a driver in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLoad {
    /// Which.
    pub request: DeviceRequest,
    /// How many each thread has under way at once.
    pub depth: u16,
    /// Where driver and daemon run.
    pub place: Place,
}

/// A request to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceRequest {
    /// GETATTR of the file `0`.
    Getattr,
    /// LOOKUP of one file after the other. What was looked up is forgotten afterwards.
    Lookup,
    /// CREATE of a new name, then RELEASE: one operation. The files are removed and forgotten afterwards.
    Create,
    /// READ of one block after the other of the file `0`.
    Read {
        /// Bytes.
        block: usize,
    },
}

/// Where driver and daemon run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Anywhere.
    #[default]
    Free,
    /// All threads of both on one CPU: that of --cpu, or the first.
    Same,
    /// The driver's threads there, and the daemon's on the next one.
    Apart,
}

/// A job for fio. Which files, by how many and where is up to the bench.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FioJob {
    /// Number of files, shared out among the threads; `None` for one for each thread.
    pub files: Option<usize>,
    /// Size of the files.
    pub extent: Extent,
    /// Options of a job file, such as `rw = randread`.
    pub options: BTreeMap<String, String>,
}

/// Commands for `sh -c`. `{dir}` in them is an empty directory on the mount, in which `run` starts; `{under}` is the same
/// directory not through the mount; `{kernel}` are the sources of a kernel on the mount; `{sources}` is the generated source tree, not through the mount; `{threads}` is
/// the number of threads of the row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandLine {
    /// Programs that must be there.
    pub needs: Vec<String>,
    /// The source tree to generate, if `{sources}` is used.
    pub sources: Option<Sources>,
    /// Whether the sources of a kernel are needed: `{kernel}`, through the mount.
    #[serde(default)]
    pub kernel: bool,
    /// What is done before and not measured.
    pub prepare: Option<String>,
    /// What is measured, once a pass.
    pub run: String,
}

/// A tree of C sources like that of a kernel, but smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// Directories.
    pub dirs: u32,
    /// C files in each of them.
    pub files: u32,
    /// Headers, in one directory.
    pub headers: u32,
}

impl Sources {
    /// A tree so many times as large.
    pub fn scaled(self, factor: f64) -> Self {
        let some = |number: u32| (f64::from(number) * factor).round().max(1.0) as u32;
        Self { dirs: some(self.dirs), headers: some(self.headers), ..self }
    }

    /// All files: those in the directories, of which one says how to configure it, the headers, and one that says how to build them.
    pub fn count(&self) -> u64 {
        u64::from(self.dirs) * (u64::from(self.files) + 1) + u64::from(self.headers) + 1
    }
}

/// Files of the same size for data to be read from and written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFiles {
    /// How many.
    pub count: usize,
    /// Bytes of each.
    pub size: u64,
}

impl Op {
    /// Whether it leaves things as they were; a command has to see to that itself.
    pub fn can_be_repeated(&self) -> bool {
        !matches!(
            self,
            Self::Create { .. }
                | Self::Unlink
                | Self::Rename
                | Self::Append { .. }
                | Self::Device(DeviceLoad { request: DeviceRequest::Create, .. })
        )
    }
}

impl Workload {
    /// Whether the rows of this workload tell the price of a small request, `None` if they tell neither that nor
    /// the price of moving data.
    pub fn is_small(&self) -> Option<bool> {
        match &self.op {
            Op::List | Op::LsL | Op::Command(_) => None,
            Op::Data { transfer, .. } => Some(transfer.block <= 4096),
            Op::Ping(Request::Read { block } | Request::Write { block })
            | Op::Device(DeviceLoad { request: DeviceRequest::Read { block }, .. }) => Some(*block <= 4096),
            Op::Fio(job) => Some(job.block() <= 4096),
            _ => Some(true),
        }
    }

    /// The source tree it works on, if it does on one.
    pub fn tree(&self) -> Option<Sources> {
        match &self.op {
            Op::Command(command) => command.sources,
            _ => None,
        }
    }

    /// Operations of one pass over all threads.
    pub fn total_ops(&self, threads: usize) -> u64 {
        match (&self.op, self.data_files(threads)) {
            (Op::Fio(job), Some(files)) if self.ops == 0 => files.size / job.block() * files.count as u64,
            _ => self.ops,
        }
    }

    /// The data files this workload uses with so many threads, `None` if it uses none.
    pub fn data_files(&self, threads: usize) -> Option<DataFiles> {
        let (extent, count, block) = match &self.op {
            Op::Data { transfer, files } => (*files, threads, transfer.block as u64),
            Op::Fio(job) => (job.extent, job.files.unwrap_or(threads), job.block()),
            _ => return None,
        };
        let size = match extent {
            Extent::Each(size) => size,
            Extent::Total(size) => size / count.max(1) as u64,
        };
        Some(DataFiles { count, size: size / block * block })
    }
}

impl FioJob {
    /// Bytes of one operation; fio's own default if the job does not say.
    pub fn block(&self) -> u64 {
        self.options.get("bs").and_then(|text| bytes(text).ok()).filter(|block| *block > 0).unwrap_or(4096)
    }
}

/// Reads a number of bytes, such as `4096`, `128K`, `1M` or `2G`; units are powers of 1024.
///
/// # Errors
/// What is wrong with it.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size; write a number of bytes, or one with K, M or G behind it");
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
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
    use super::*;

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
    fn a_smaller_tree_has_fewer_directories_of_the_same_size() {
        let whole = Sources { dirs: 500, files: 29, headers: 500 };
        assert_eq!(whole.count(), 15_501);
        assert_eq!(whole.scaled(0.2), Sources { dirs: 100, files: 29, headers: 100 });
        assert_eq!(whole.scaled(0.0001).count(), 32, "never nothing");
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(
            (bytes("4096"), bytes("4k"), bytes("1M"), bytes("2G")),
            (Ok(4096), Ok(4096), Ok(1 << 20), Ok(2 << 30))
        );
        for text in ["", "K", "4KB", "-1", "1.5M", "99999999999G"] {
            assert!(bytes(text).unwrap_err().contains("number of bytes"), "{text}");
        }
    }

    #[test]
    fn a_total_is_shared_out_in_whole_blocks() {
        let workload = Workload {
            name: "x".into(),
            about: String::new(),
            threads: vec![1],
            ops: 1,
            passes: 1,
            busy_others: false,
            sampled: false,
            counted: false,
            warm: false,
            op: Op::Data {
                transfer: Transfer { block: 4096, write: false, direct: true, random: false },
                files: Extent::Total(1 << 20),
            },
        };
        assert_eq!(workload.data_files(1), Some(DataFiles { count: 1, size: 1 << 20 }));
        assert_eq!(workload.data_files(3), Some(DataFiles { count: 3, size: 85 * 4096 }));
    }
}
