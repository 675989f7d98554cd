//! Flag words. The structures carry them as plain integers; `from_bits_retain` keeps bits of newer kernels.

use bitflags::bitflags;

bitflags! {
    /// `FUSE_*` of INIT: what the client offers, and what the server accepts by repeating it.
    ///
    /// A flag takes effect only if the server repeats it. Those said to inform the server need not be
    /// repeated. Bits from 32 on travel in a second word, see [`InitFlags::to_words`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct InitFlags: u64 {
        /// The client reads ahead with several READs at a time. Without it READs of a file come one after the
        /// other.
        const ASYNC_READ = 1 << 0;
        /// `fcntl(2)` locks go to the server (GETLK, SETLK, SETLKW). Without it the client keeps them to
        /// itself.
        const POSIX_LOCKS = 1 << 1;
        /// Never used.
        const FILE_OPS = 1 << 2;
        /// OPEN carries `O_TRUNC` and the server truncates. Without it a SETATTR follows.
        const ATOMIC_O_TRUNC = 1 << 3;
        /// The server answers LOOKUP of `.` and `..`, which NFS export needs.
        const EXPORT_SUPPORT = 1 << 4;
        /// WRITE may carry more than one page. Without it buffered writes come page by page.
        const BIG_WRITES = 1 << 5;
        /// The client leaves `mode` of new files alone and the server applies `umask`.
        const DONT_MASK = 1 << 6;
        /// Informs the server: it may `splice(2)` into the device.
        const SPLICE_WRITE = 1 << 7;
        /// Informs the server: pages that it splices may be moved.
        const SPLICE_MOVE = 1 << 8;
        /// Informs the server: it may `splice(2)` from the device.
        const SPLICE_READ = 1 << 9;
        /// `flock(2)` locks go to the server. Without it the client keeps them to itself.
        const FLOCK_LOCKS = 1 << 10;
        /// Informs the server: IOCTL comes for directories too.
        const HAS_IOCTL_DIR = 1 << 11;
        /// The client drops cached data when it sees another mtime or size, and asks for the attributes
        /// before it reads from the cache if they are out of date. Wins over
        /// [`EXPLICIT_INVAL_DATA`](Self::EXPLICIT_INVAL_DATA).
        const AUTO_INVAL_DATA = 1 << 12;
        /// The client uses READDIRPLUS.
        const DO_READDIRPLUS = 1 << 13;
        /// The client uses READDIRPLUS at the start of a directory and when its entries are looked up,
        /// READDIR otherwise. Needs [`DO_READDIRPLUS`](Self::DO_READDIRPLUS).
        const READDIRPLUS_AUTO = 1 << 14;
        /// Direct I/O is sent as several requests at a time, and asynchronously.
        const ASYNC_DIO = 1 << 15;
        /// The client collects writes in its cache and owns mtime, ctime and size of regular files. The
        /// server must be able to read files that were opened for writing only, and must ignore `O_APPEND`.
        /// Excludes passthrough.
        const WRITEBACK_CACHE = 1 << 16;
        /// Informs the server: answering OPEN with `ENOSYS` makes this and all later opens succeed without
        /// asking.
        const NO_OPEN_SUPPORT = 1 << 17;
        /// LOOKUP and READDIR of one directory come in parallel. Without it one that hangs blocks the
        /// directory.
        const PARALLEL_DIROPS = 1 << 18;
        /// The server clears setuid, setgid and capabilities on write, truncate and chown.
        const HANDLE_KILLPRIV = 1 << 19;
        /// The client caches and checks POSIX ACLs; permissions are checked by the client as with
        /// `default_permissions`. The server keeps `mode` in step with the ACL.
        const POSIX_ACL = 1 << 20;
        /// After an abort, reading the device fails with `ECONNABORTED` and not `ENODEV`, which then means
        /// unmounted.
        const ABORT_ERROR = 1 << 21;
        /// `max_pages` of the reply is valid: requests may be longer than 32 pages. Set `max_write` to match.
        const MAX_PAGES = 1 << 22;
        /// The client caches the targets of symbolic links, until the inode is invalidated.
        const CACHE_SYMLINKS = 1 << 23;
        /// Informs the server: answering OPENDIR with `ENOSYS` makes this and all later ones succeed without
        /// asking.
        const NO_OPENDIR_SUPPORT = 1 << 24;
        /// The client keeps cached data until it is told otherwise; only another size makes it truncate the
        /// cache.
        const EXPLICIT_INVAL_DATA = 1 << 25;
        /// `map_alignment` of the reply is valid (DAX).
        const MAP_ALIGNMENT = 1 << 26;
        /// The server may mark directories as roots of other file systems with [`AttrFlags::SUBMOUNT`].
        /// virtio-fs only.
        const SUBMOUNTS = 1 << 27;
        /// The server clears setuid, setgid and capabilities: always on chown, and where a request asks for
        /// it by [`WriteFlags::KILL_SUIDGID`], [`OpenInFlags::KILL_SUIDGID`] or
        /// [`SetattrValid::KILL_SUIDGID`]. The client no longer asks for `security.capability` before each
        /// write.
        const HANDLE_KILLPRIV_V2 = 1 << 28;
        /// SETXATTR has the long form, [`crate::SetxattrIn`].
        const SETXATTR_EXT = 1 << 29;
        /// Both sides use the second word of flags. Needed for every bit from 32 on.
        const INIT_EXT = 1 << 30;
        /// Never to be used.
        const INIT_RESERVED = 1 << 31;
        /// MKNOD, MKDIR, SYMLINK, CREATE and TMPFILE carry a security context, see [`crate::SecctxHeader`].
        const SECURITY_CTX = 1 << 32;
        /// With mount option `dax=inode`, [`AttrFlags::DAX`] selects files.
        const HAS_INODE_DAX = 1 << 33;
        /// Requests that create inodes carry the parent's group if the caller is a member, see
        /// [`crate::SuppGroups`].
        const CREATE_SUPP_GROUP = 1 << 34;
        /// Informs the server: [`NotifyEntryFlags::EXPIRE_ONLY`] is understood.
        const HAS_EXPIRE_ONLY = 1 << 35;
        /// Files opened with [`FopenFlags::DIRECT_IO`] may be mapped shared. Without it `mmap(2)` fails with
        /// `ENODEV`.
        const DIRECT_IO_ALLOW_MMAP = 1 << 36;
        /// Open files may be handed to another file system with [`FopenFlags::PASSTHROUGH`]. Also needs
        /// `max_stack_depth` of 1 or 2 and no [`WRITEBACK_CACHE`](Self::WRITEBACK_CACHE); ignored silently
        /// otherwise.
        const PASSTHROUGH = 1 << 37;
        /// The server cannot find a node by its id alone: file handles can be made (`name_to_handle_at`) but
        /// not opened, and the file system cannot be exported by NFS.
        const NO_EXPORT_SUPPORT = 1 << 38;
        /// Informs the server: [`crate::NotifyCode::Resend`] is understood.
        const HAS_RESEND = 1 << 39;
        /// The mount may be mapped to other user ids. Most requests then come without ids
        /// ([`crate::INVALID_UIDGID`]). Without mount option `default_permissions` the connection fails at
        /// once.
        const ALLOW_IDMAP = 1 << 40;
        /// Requests go over io_uring. After accepting this, the server must register an entry on every queue:
        /// until then requests wait.
        const OVER_IO_URING = 1 << 41;
        /// `request_timeout` of the reply is valid: a request that takes longer aborts the connection.
        const REQUEST_TIMEOUT = 1 << 42;
        /// Informs the server: [`crate::UringCmd::AddQueue`] and [`crate::UringCmd::AddBufpool`] are
        /// understood.
        const HAS_IO_URING_BUFPOOL = 1 << 43;
    }

    /// `CUSE_*` of CUSE_INIT.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct CuseInitFlags: u32 {
        /// The server may answer IOCTL with [`IoctlFlags::RETRY`].
        const UNRESTRICTED_IOCTL = 1 << 0;
    }

    /// `FOPEN_*`: how the client is to treat an open file, in [`crate::OpenOut::open_flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct FopenFlags: u32 {
        /// Reads and writes go to the server as they are, past the page cache.
        const DIRECT_IO = 1 << 0;
        /// Data in the page cache stays. Without it the cache of the file is dropped by every open.
        const KEEP_CACHE = 1 << 1;
        /// `lseek(2)` fails.
        const NONSEEKABLE = 1 << 2;
        /// The listing of the directory may be cached.
        const CACHE_DIR = 1 << 3;
        /// The file has no position at all.
        const STREAM = 1 << 4;
        /// `close(2)` neither writes back nor sends FLUSH, unless the write-back cache is on.
        const NOFLUSH = 1 << 5;
        /// Direct writes to one file come in parallel, as long as they do not extend it. With
        /// [`DIRECT_IO`](Self::DIRECT_IO) only.
        const PARALLEL_DIRECT_WRITES = 1 << 6;
        /// Reads, writes and mappings go to the file registered as [`crate::OpenOut::backing_id`]. All opens
        /// of a node at one time must agree on that; with [`KEEP_CACHE`](Self::KEEP_CACHE) the open fails
        /// with `EIO`.
        const PASSTHROUGH = 1 << 7;
        /// Data of READ and WRITE reaches the server as registered buffers. Has an effect only on queues with
        /// [`UringQueueFlags::ZERO_COPY`].
        const IO_URING_ZERO_COPY = 1 << 8;
    }

    /// `FATTR_*`: which fields of [`crate::SetattrIn`] count.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct SetattrValid: u32 {
        /// `mode`.
        const MODE = 1 << 0;
        /// `uid`.
        const UID = 1 << 1;
        /// `gid`.
        const GID = 1 << 2;
        /// `size`.
        const SIZE = 1 << 3;
        /// `atime` and `atimensec`, unless [`ATIME_NOW`](Self::ATIME_NOW) is set too.
        const ATIME = 1 << 4;
        /// `mtime` and `mtimensec`, unless [`MTIME_NOW`](Self::MTIME_NOW) is set too.
        const MTIME = 1 << 5;
        /// `fh`.
        const FH = 1 << 6;
        /// The access time becomes the server's present time.
        const ATIME_NOW = 1 << 7;
        /// The modification time becomes the server's present time.
        const MTIME_NOW = 1 << 8;
        /// `lock_owner`.
        const LOCKOWNER = 1 << 9;
        /// `ctime` and `ctimensec`; with the write-back cache only.
        const CTIME = 1 << 10;
        /// Setuid is to be cleared, and setgid of a file that its group may execute
        /// ([`InitFlags::HANDLE_KILLPRIV_V2`]).
        const KILL_SUIDGID = 1 << 11;
    }

    /// `FUSE_GETATTR_*`: [`crate::GetattrIn::getattr_flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct GetattrFlags: u32 {
        /// `fh` is an open handle.
        const FH = 1 << 0;
    }

    /// `FUSE_READ_*`: [`crate::ReadIn::read_flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ReadFlags: u32 {
        /// `lock_owner` is valid.
        const LOCKOWNER = 1 << 1;
    }

    /// `FUSE_WRITE_*`: [`crate::WriteIn::write_flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct WriteFlags: u32 {
        /// The data comes from the page cache: `fh` may be that of another open file, ids and pid are not the
        /// writer's.
        const CACHE = 1 << 0;
        /// `lock_owner` is valid.
        const LOCKOWNER = 1 << 1;
        /// Setuid is to be cleared, and setgid of a file that its group may execute
        /// ([`InitFlags::HANDLE_KILLPRIV_V2`]).
        const KILL_SUIDGID = 1 << 2;
    }

    /// `FUSE_RELEASE_*`: [`crate::ReleaseIn::release_flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ReleaseFlags: u32 {
        /// Flush as well. Linux does not set it.
        const FLUSH = 1 << 0;
        /// Release the `flock(2)` lock of `lock_owner`.
        const FLOCK_UNLOCK = 1 << 1;
    }

    /// `FUSE_OPEN_*`: [`crate::OpenIn::open_flags`] and [`crate::CreateIn::open_flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct OpenInFlags: u32 {
        /// With `O_TRUNC`: setuid is to be cleared, and setgid of a file that its group may execute
        /// ([`InitFlags::HANDLE_KILLPRIV_V2`]).
        const KILL_SUIDGID = 1 << 0;
    }

    /// `FUSE_LK_*`: [`crate::LkIn::lk_flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct LkFlags: u32 {
        /// A lock of `flock(2)`, not of `fcntl(2)`.
        const FLOCK = 1 << 0;
    }

    /// `FUSE_IOCTL_*`: [`crate::IoctlIn::flags`] and [`crate::IoctlOut::flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct IoctlFlags: u32 {
        /// Request: a 32-bit program on a 64-bit kernel.
        const COMPAT = 1 << 0;
        /// Request: any request number is let through, and [`RETRY`](Self::RETRY) may be answered.
        const UNRESTRICTED = 1 << 1;
        /// Reply: names the memory that is needed; the request comes again with it.
        const RETRY = 1 << 2;
        /// Request: the caller's `long` has 32 bits (`FUSE_IOCTL_32BIT`).
        const IS_32BIT = 1 << 3;
        /// Request: on a directory.
        const DIR = 1 << 4;
        /// Request: an x32 program on a 64-bit kernel, whose `time_t` has 64 bits.
        const COMPAT_X32 = 1 << 5;
    }

    /// `FUSE_POLL_*`: [`crate::PollIn::flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct PollFlags: u32 {
        /// Somebody waits: the server is to send [`crate::NotifyPollWakeupOut`] when the file becomes ready.
        const SCHEDULE_NOTIFY = 1 << 0;
    }

    /// `FUSE_FSYNC_*`: [`crate::FsyncIn::fsync_flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct FsyncFlags: u32 {
        /// The data only, as `fdatasync(2)`.
        const FDATASYNC = 1 << 0;
    }

    /// `FUSE_ATTR_*`: [`crate::Attr::flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct AttrFlags: u32 {
        /// The directory is the root of another file system; the client mounts it with a device number of its
        /// own ([`InitFlags::SUBMOUNTS`]).
        const SUBMOUNT = 1 << 0;
        /// Use DAX for this file ([`InitFlags::HAS_INODE_DAX`]).
        const DAX = 1 << 1;
    }

    /// `FUSE_SETXATTR_*`: [`crate::SetxattrIn::setxattr_flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct SetxattrFlags: u32 {
        /// With `system.posix_acl_access`: clear setgid.
        const ACL_KILL_SGID = 1 << 0;
    }

    /// Flags of [`crate::NotifyInvalEntryOut::flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct NotifyEntryFlags: u32 {
        /// `FUSE_EXPIRE_ONLY`: the name is looked up again at its next use, and stays until then. Mounts on
        /// it survive.
        const EXPIRE_ONLY = 1 << 0;
    }

    /// `FUSE_SETUPMAPPING_FLAG_*`: [`crate::SetupmappingIn::flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct SetupmappingFlags: u64 {
        /// The mapping is for writing.
        const WRITE = 1 << 0;
        /// The mapping is for reading.
        const READ = 1 << 1;
    }

    /// `FUSE_URING_ENT_*`: [`crate::UringEntInOut::flags`] of a request.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct UringEntFlags: u64 {
        /// The data is in the ring's registered buffer of this entry, not in the payload.
        const ZERO_COPY = 1 << 0;
    }

    /// `FUSE_URING_*`: [`crate::UringCmdReq::flags`] of [`crate::UringCmd::AddQueue`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct UringQueueFlags: u64 {
        /// Allows zero copy on the queue. Needs `CAP_SYS_ADMIN` and a buffer pool.
        const ZERO_COPY = 1 << 0;
    }
}

impl InitFlags {
    /// Joins the words `flags` and `flags2`; `flags2` counts only if `flags` has [`InitFlags::INIT_EXT`].
    /// Keeps bits that this crate does not know.
    pub const fn from_words(flags: u32, flags2: u32) -> Self {
        let low = Self::from_bits_retain(flags as u64);
        if low.contains(Self::INIT_EXT) {
            Self::from_bits_retain((flags2 as u64) << 32 | flags as u64)
        } else {
            low
        }
    }

    /// Splits into the words `flags` and `flags2`; sets [`InitFlags::INIT_EXT`] if `flags2` is not zero.
    pub const fn to_words(self) -> (u32, u32) {
        let high = (self.bits() >> 32) as u32;
        let low = self.bits() as u32;
        (if high == 0 { low } else { low | Self::INIT_EXT.bits() as u32 }, high)
    }
}
