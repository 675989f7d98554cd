//! The nouns of the protocol, as types that cannot hold the wrong number.

use crate::backing::Backing;
use std::{ffi::CStr, fmt, num::NonZeroU64, time::Duration};

pub use fusewire_abi::{AttrFlags, FopenFlags};
pub use rustix::io::Errno;

/// What a filesystem answers with.
pub type Result<T> = core::result::Result<T, Errno>;

/// A node: the number by which the kernel and the filesystem name a file, directory or other object between them.
///
/// A node is made known by [`lookup`](crate::FileSystem::lookup) and its relatives, each of which raises its lookup
/// count by one, and may be named by the kernel until [`forget`](crate::FileSystem::forget) has lowered the count to
/// zero. Zero is not a node. What `stat` shows as `st_ino` is another number: [`Attr::ino`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NonZeroU64);

impl NodeId {
    /// The root of every mount; known without a lookup and never forgotten.
    pub const ROOT: Self = Self::new(fusewire_abi::ROOT_ID);

    /// A node with a fixed number. Panics on zero; in a `const` that is a compile error.
    pub const fn new(raw: u64) -> Self {
        Self(NonZeroU64::new(raw).expect("node ids are not zero"))
    }

    /// From the wire; `None` for zero.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        match NonZeroU64::new(raw) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// To the wire.
    pub const fn raw(self) -> u64 {
        self.0.get()
    }
}

/// An open file or directory: whatever number the filesystem gave in its reply to `open`, echoed in later requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u64);

/// Tells one use of a [`NodeId`] from a later one with the same number. Matters only to NFS export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// Who owns a POSIX lock: one number per process (really per `files_struct`), made opaque by the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockOwner(pub u64);

/// A single path component: not empty, no `/`, no NUL, neither `.` nor `..`.
///
/// Because every name the kernel sends is checked before a filesystem sees it, `../../etc` cannot be written down.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name<'a>(&'a CStr);

impl<'a> Name<'a> {
    /// A name, if it is a valid component. `None` for empty, `.`, `..`, and anything with a `/`.
    #[inline]
    pub fn new(name: &'a CStr) -> Option<Self> {
        match name.to_bytes() {
            b"" | b"." | b".." => None,
            bytes if bytes.contains(&b'/') => None,
            _ => Some(Self(name)),
        }
    }

    /// The bytes of the name, without the NUL. File names are bytes: they need not be UTF-8.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0.to_bytes()
    }

    /// The name as system calls take it.
    pub fn as_c_str(self) -> &'a CStr {
        self.0
    }

    /// The name as an [`OsStr`](std::ffi::OsStr).
    pub fn as_os_str(self) -> &'a std::ffi::OsStr {
        std::os::unix::ffi::OsStrExt::from_bytes(self.as_bytes())
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// Who is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// File-system user id, as seen in the mount's user namespace.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
    /// Thread id; 0 where the caller is in a process namespace that ours cannot see.
    pub pid: u32,
}

/// Who a new node is to belong to, and the supplementary group that matters for it.
///
/// On an idmapped mount this is not who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The parent directory's group, where the caller is a member of it (`FUSE_CREATE_SUPP_GROUP`).
    pub supplementary: Option<u32>,
}

/// A point in time; before 1970 `seconds` is negative and `nanos` still counts forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// The present, as the system clock has it.
    pub fn now() -> Self {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Self { seconds: t.tv_sec, nanos: t.tv_nsec as u32 }
    }
}

/// A time to set: what `utimensat` distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The present (`UTIME_NOW`).
    Now,
    /// This time.
    To(Timestamp),
}

/// Kind of node: the upper four bits of `st_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum FileType {
    /// Named pipe.
    Fifo = 0o010000,
    /// Character device.
    CharDevice = 0o020000,
    /// Directory.
    Directory = 0o040000,
    /// Block device.
    BlockDevice = 0o060000,
    /// Regular file.
    Regular = 0o100000,
    /// Symbolic link.
    Symlink = 0o120000,
    /// Unix-domain socket.
    Socket = 0o140000,
}

impl FileType {
    /// From `st_mode`; `None` where the upper bits name no kind.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170000 {
            0o010000 => Self::Fifo,
            0o020000 => Self::CharDevice,
            0o040000 => Self::Directory,
            0o060000 => Self::BlockDevice,
            0o100000 => Self::Regular,
            0o120000 => Self::Symlink,
            0o140000 => Self::Socket,
            _ => return None,
        })
    }

    /// As in `struct dirent`'s `d_type`.
    pub const fn dirent(self) -> u32 {
        self as u32 >> 12
    }
}

/// Attributes of a node: what `stat` shows, and how long the kernel may show it without asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// What `stat` shows as `st_ino`; where it is `None`, the node's own number.
    pub ino: Option<u64>,
    /// Kind.
    pub kind: FileType,
    /// Permission bits including set-user-id, set-group-id and sticky: 0 to 0o7777.
    pub perm: u16,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as the kernel packs it (`new_encode_dev`).
    pub rdev: u32,
    /// Length in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Preferred I/O size in bytes; 0 leaves it to the kernel (4096).
    pub blksize: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// Submount and DAX marks.
    pub flags: AttrFlags,
    /// For how long the kernel may answer from these attributes; zero: it asks each time.
    pub ttl: Duration,
}

impl Attr {
    const fn of(kind: FileType, perm: u16, nlink: u32, size: u64) -> Self {
        const EPOCH: Timestamp = Timestamp { seconds: 0, nanos: 0 };
        Self {
            ino: None,
            kind,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            size,
            blocks: size.div_ceil(512),
            blksize: 0,
            atime: EPOCH,
            mtime: EPOCH,
            ctime: EPOCH,
            flags: AttrFlags::empty(),
            ttl: Duration::from_secs(1),
        }
    }

    /// A file of `size` bytes that everybody may read, owned by root, valid for a second.
    pub const fn file(size: u64) -> Self {
        Self::of(FileType::Regular, 0o444, 1, size)
    }

    /// A directory that everybody may read, owned by root, valid for a second.
    pub const fn directory() -> Self {
        Self::of(FileType::Directory, 0o555, 2, 0)
    }

    /// A symbolic link whose target has `len` bytes.
    pub const fn symlink(len: u64) -> Self {
        Self::of(FileType::Symlink, 0o777, 1, len)
    }

    /// Kind and permissions as `st_mode` has them.
    pub const fn mode(&self) -> u32 {
        self.kind as u32 | self.perm as u32
    }

    /// The same, valid for `ttl`.
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The same with other permission bits.
    pub const fn with_perm(mut self, perm: u16) -> Self {
        self.perm = perm;
        self
    }
}

/// What `statx` adds to [`Attr`], each where the filesystem knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extended {
    /// When the node was made.
    pub btime: Option<Timestamp>,
    /// `STATX_ATTR_*` bits (immutable, append-only, compressed ...).
    pub attributes: u64,
    /// Which of `attributes` this filesystem supports.
    pub attributes_mask: u64,
}

/// Reply to `lookup` and to everything that makes a node.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub(crate) node: Option<NodeId>,
    /// See [`Generation`].
    pub generation: Generation,
    /// For how long the kernel may resolve this name without asking again.
    pub ttl: Duration,
    /// The node's attributes.
    pub attr: Attr,
}

impl Entry {
    /// A name that leads to `node`. The kernel will hold one lookup more of it.
    pub const fn new(node: NodeId, attr: Attr) -> Self {
        Self { node: Some(node), generation: Generation(0), ttl: attr.ttl, attr }
    }

    /// A name that leads nowhere, which the kernel may remember for `ttl`; `Err(Errno::NOENT)` it does not remember.
    pub const fn absent(ttl: Duration) -> Self {
        Self { node: None, generation: Generation(0), ttl, attr: Attr::file(0) }
    }

    /// The node the name leads to.
    pub const fn node(&self) -> Option<NodeId> {
        self.node
    }

    /// The same with another time for which the name is valid.
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The same with this generation.
    pub const fn with_generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }
}

/// Reply to `open` and `opendir`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opened {
    /// Echoed in later requests.
    pub handle: Handle,
    /// How the kernel is to treat the open file.
    pub flags: FopenFlags,
    /// Lower file registered with the kernel, with [`FopenFlags::PASSTHROUGH`]; else 0.
    pub backing_id: i32,
}

impl Opened {
    /// An open file with no special treatment.
    pub const fn new(handle: Handle) -> Self {
        Self { handle, flags: FopenFlags::empty(), backing_id: 0 }
    }

    /// The same with these flags.
    pub const fn with_flags(mut self, flags: FopenFlags) -> Self {
        self.flags = flags;
        self
    }

    /// The same, but the kernel reads, writes and maps `backing`. Takes `KEEP_CACHE` and `DIRECT_IO` away, which do not go with
    /// that.
    pub fn forwarded_to(mut self, backing: &Backing) -> Self {
        self.flags -= FopenFlags::KEEP_CACHE | FopenFlags::DIRECT_IO;
        self.flags |= FopenFlags::PASSTHROUGH;
        self.backing_id = backing.id();
        self
    }
}

/// Reply to `statfs`: `struct statvfs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Blocks in all, of `frsize` bytes.
    pub blocks: u64,
    /// Blocks free.
    pub bfree: u64,
    /// Blocks free for ordinary users.
    pub bavail: u64,
    /// Nodes in all.
    pub files: u64,
    /// Nodes free.
    pub ffree: u64,
    /// Preferred I/O size in bytes.
    pub bsize: u32,
    /// Longest name, bytes.
    pub namelen: u32,
    /// Unit of the block counts, bytes.
    pub frsize: u32,
}

/// Kind of an advisory lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// None.
    Unlock,
}

/// A byte range with a lock, `end` included; `u64::MAX >> 1` means to the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLock {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// Kind.
    pub kind: LockKind,
    /// Process that holds it (in answers) or asks for it.
    pub pid: u32,
}

/// Reply to `ioctl`: the command's return value and how many bytes of output were put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoctlResult(pub i32);
