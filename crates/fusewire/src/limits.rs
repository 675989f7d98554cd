//! Every bound, with its reason.

/// Largest write and read by default, bytes. Copies dominate from 128 KiB on; 1 MiB is what the kernel allows unless
/// `fs.fuse.max_pages_limit` is raised.
pub const MAX_WRITE: u32 = 1 << 20;

/// Smallest write size that makes sense, bytes: a page.
pub const MIN_WRITE: u32 = 4096;

/// Largest write that may be asked for, bytes: 65,535 pages is the most that `fs.fuse.max_pages_limit` can hold.
pub const MAX_WRITE_EVER: u32 = 65_535 * 4096;

/// Longest single path component, bytes: what the kernel accepts once `MAX_PAGES` is agreed on (`FUSE_NAME_MAX`).
pub const NAME_MAX: usize = 4095;

/// Longest symbolic-link target, bytes without NUL (`PATH_MAX` - 1).
pub const TARGET_MAX: usize = 4095;

/// Longest name of an extended attribute, bytes (`XATTR_NAME_MAX`).
pub const XATTR_NAME_MAX: usize = 255;

/// Largest value of an extended attribute, and longest list of their names, bytes (`XATTR_SIZE_MAX`).
pub const XATTR_SIZE_MAX: usize = 64 << 10;

/// Smallest reply area, bytes: the largest answer that is not read data (an attribute's value or list).
pub const MIN_REPLY: usize = XATTR_SIZE_MAX;

/// Oldest protocol minor version spoken, Linux 5.4: older kernels lack `MAX_PAGES` and have other structure sizes.
pub const MIN_MINOR: u32 = 31;

/// How many requests that nobody waits for may be under way: the kernel's default of 12 starves readahead.
pub const MAX_BACKGROUND: u16 = 64;

/// How many requests of one reader thread may be waiting for something at once; each has its own buffers, which take
/// memory only as far as they are used.
pub const SLOTS_PER_READER: usize = 256;

/// How many idle slots of one reader thread keep the memory of large requests and answers; the others give it back.
pub const SLOTS_KEPT: usize = 8;

/// How many extra readers may be at work because others are stuck in system calls.
pub const SPARE_READERS: usize = 64;

/// How many of those each group of a ring's queues may have whatever others have.
pub const SPARE_READERS_OWN: usize = 4;

/// Smallest payload of a ring's entry, in pages: room for the longest value of an extended attribute with its name, the
/// longest request there is beside writes. The kernel (Linux 6.18) does not check that before it copies a request, and
/// its copying thread dies of one that is too long.
pub const RING_PAGES: u16 = 32;

/// What the payloads of all entries of a ring may keep together by default, bytes, however many CPUs there are. Memory that was
/// never used is not there.
pub const RING_MEMORY: u64 = 64 << 20;

/// How many entries one thread may have of a queue of the ring. Each is with a request whose handler waits for something, and whose
/// caller has a thread of its own, which takes more memory than the entry does.
pub const ENTRIES_PER_QUEUE: usize = 2048;

/// How many entries one ring thread may have beyond the first of each of its queues, so that a table has room for them all
/// (`IORING_MAX_REG_BUFFERS`).
pub const ENTRIES_PER_THREAD: usize = 8192;

/// Requests and answers above this leave memory in a ring's entry that is worth giving back, bytes.
pub const RING_LARGE: usize = 64 << 10;

/// How many notifications may wait to be written before the sender is told to slow down.
pub const NOTIFY_QUEUE: usize = 64 << 10;
