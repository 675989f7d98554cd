//! Contents of replies: what follows [`OutHeader`](crate::OutHeader) when `error` is 0.

use crate::ext::rec_align;
use crate::request::FileLock;

wire! {
    /// `struct fuse_attr`: attributes of a node. Before protocol 7.9 it ends after `rdev`.
    struct Attr: "fuse_attr" = 88 {
        /// `st_ino`; not used to find the node.
        0 => ino: u64,
        /// Length in bytes.
        8 => size: u64,
        /// Allocated space in units of 512 bytes.
        16 => blocks: u64,
        /// Access time in seconds since 1970, a signed number.
        24 => atime: u64,
        /// Modification time in seconds since 1970, a signed number.
        32 => mtime: u64,
        /// Change time in seconds since 1970, a signed number.
        40 => ctime: u64,
        /// Nanoseconds of `atime`.
        48 => atimensec: u32,
        /// Nanoseconds of `mtime`.
        52 => mtimensec: u32,
        /// Nanoseconds of `ctime`.
        56 => ctimensec: u32,
        /// Type and permissions. The type of a node must not change as long as the client knows it.
        60 => mode: u32,
        /// Number of hard links.
        64 => nlink: u32,
        /// Owner.
        68 => uid: u32,
        /// Group.
        72 => gid: u32,
        /// Device number of a device node, in the kernel's encoding (`new_encode_dev`).
        76 => rdev: u32,
        /// `st_blksize` in bytes; 0 lets the client choose.
        80 => blksize: u32,
        /// [`crate::AttrFlags`].
        84 => flags: u32,
    }

    /// `struct fuse_sx_time`: a time of [`Statx`].
    struct SxTime: "fuse_sx_time" = 16 {
        /// Seconds since 1970.
        0 => tv_sec: i64,
        /// Nanoseconds, less than 10^9.
        8 => tv_nsec: u32,
        /// Zero.
        12 => reserved: i32,
    }

    /// `struct fuse_statx`: attributes of a node as in `statx(2)`.
    struct Statx: "fuse_statx" = 256 {
        /// `STATX_*` bits of what is filled in. Must contain `STATX_BASIC_STATS` for the client to cache it.
        0 => mask: u32,
        /// `stx_blksize` in bytes.
        4 => blksize: u32,
        /// `STATX_ATTR_*` bits that are set.
        8 => attributes: u64,
        /// Number of hard links.
        16 => nlink: u32,
        /// Owner.
        20 => uid: u32,
        /// Group.
        24 => gid: u32,
        /// Type and permissions.
        28 => mode: u16,
        /// Zero.
        30 => spare0: [u16; 1],
        /// `stx_ino`.
        32 => ino: u64,
        /// Length in bytes.
        40 => size: u64,
        /// Allocated space in units of 512 bytes.
        48 => blocks: u64,
        /// `STATX_ATTR_*` bits that the file system knows.
        56 => attributes_mask: u64,
        /// Access time.
        64 => atime: SxTime,
        /// Time of creation.
        80 => btime: SxTime,
        /// Change time.
        96 => ctime: SxTime,
        /// Modification time.
        112 => mtime: SxTime,
        /// Major number of a device node.
        128 => rdev_major: u32,
        /// Minor number of a device node.
        132 => rdev_minor: u32,
        /// Not used by the client.
        136 => dev_major: u32,
        /// Not used by the client.
        140 => dev_minor: u32,
        /// Zero.
        144 => spare2: [u64; 14],
    }

    /// `struct fuse_entry_out`: a name that was found or made. Every reply with one (that has a `nodeid`)
    /// counts as one lookup, to be taken back by FORGET.
    struct EntryOut: "fuse_entry_out" = 128 {
        /// The node; 0: there is no such name, and the client may remember that for `entry_valid`.
        0 => nodeid: u64,
        /// Tells nodes apart that have the same `nodeid` at different times (NFS export).
        8 => generation: u64,
        /// How long the name may be cached, seconds.
        16 => entry_valid: u64,
        /// How long the attributes may be cached, seconds.
        24 => attr_valid: u64,
        /// Nanoseconds of `entry_valid`.
        32 => entry_valid_nsec: u32,
        /// Nanoseconds of `attr_valid`.
        36 => attr_valid_nsec: u32,
        /// Attributes of the node.
        40 => attr: Attr,
    }

    /// `struct fuse_attr_out`: reply to GETATTR and SETATTR.
    struct AttrOut: "fuse_attr_out" = 104 {
        /// How long the attributes may be cached, seconds.
        0 => attr_valid: u64,
        /// Nanoseconds of `attr_valid`.
        8 => attr_valid_nsec: u32,
        /// Zero.
        12 => dummy: u32,
        /// The attributes.
        16 => attr: Attr,
    }

    /// `struct fuse_statx_out`: reply to STATX.
    struct StatxOut: "fuse_statx_out" = 288 {
        /// How long the attributes may be cached, seconds.
        0 => attr_valid: u64,
        /// Nanoseconds of `attr_valid`.
        8 => attr_valid_nsec: u32,
        /// Zero.
        12 => flags: u32,
        /// Zero.
        16 => spare: [u64; 2],
        /// The attributes.
        32 => stat: Statx,
    }

    /// `struct fuse_open_out`: reply to OPEN and OPENDIR; second part of the reply to CREATE and TMPFILE.
    struct OpenOut: "fuse_open_out" = 16 {
        /// The server's name for the open file, repeated in requests that concern it.
        0 => fh: u64,
        /// [`crate::FopenFlags`].
        8 => open_flags: u32,
        /// What [`crate::DEV_IOC_BACKING_OPEN`] returned, with [`crate::FopenFlags::PASSTHROUGH`]; otherwise
        /// 0.
        12 => backing_id: i32,
    }

    /// `struct fuse_write_out`: reply to WRITE and COPY_FILE_RANGE.
    struct WriteOut: "fuse_write_out" = 8 {
        /// How many bytes were written.
        0 => size: u32,
        /// Zero.
        4 => padding: u32,
    }

    /// `struct fuse_copy_file_range_out`: reply to COPY_FILE_RANGE_64.
    struct CopyFileRangeOut: "fuse_copy_file_range_out" = 8 {
        /// How many bytes were copied.
        0 => bytes_copied: u64,
    }

    /// `struct fuse_kstatfs`: as `struct statvfs`.
    struct Kstatfs: "fuse_kstatfs" = 80 {
        /// Size of the file system in units of `frsize`.
        0 => blocks: u64,
        /// Free blocks.
        8 => bfree: u64,
        /// Free blocks for unprivileged users.
        16 => bavail: u64,
        /// Number of inodes.
        24 => files: u64,
        /// Free inodes.
        32 => ffree: u64,
        /// Preferred length of I/O in bytes.
        40 => bsize: u32,
        /// The longest name in bytes.
        44 => namelen: u32,
        /// Size of a block in bytes.
        48 => frsize: u32,
        /// Zero.
        52 => padding: u32,
        /// Zero.
        56 => spare: [u32; 6],
    }

    /// `struct fuse_statfs_out`: reply to STATFS.
    struct StatfsOut: "fuse_statfs_out" = 80 {
        /// The numbers.
        0 => st: Kstatfs,
    }

    /// `struct fuse_getxattr_out`: reply to GETXATTR and LISTXATTR when only the size was asked for.
    struct GetxattrOut: "fuse_getxattr_out" = 8 {
        /// Length of the value, or of all names with their NULs, in bytes.
        0 => size: u32,
        /// Zero.
        4 => padding: u32,
    }

    /// `struct fuse_lk_out`: reply to GETLK.
    struct LkOut: "fuse_lk_out" = 24 {
        /// A lock that is in the way, or one of type `F_UNLCK`.
        0 => lk: FileLock,
    }

    /// `struct fuse_bmap_out`: reply to BMAP.
    struct BmapOut: "fuse_bmap_out" = 8 {
        /// Number of the block on the device.
        0 => block: u64,
    }

    /// `struct fuse_ioctl_out`: reply to IOCTL. Then the data, or with [`crate::IoctlFlags::RETRY`]
    /// `in_iovs + out_iovs` times [`crate::IoctlIovec`].
    struct IoctlOut: "fuse_ioctl_out" = 16 {
        /// What `ioctl(2)` returns; negative: a negated errno.
        0 => result: i32,
        /// [`crate::IoctlFlags::RETRY`] or nothing.
        4 => flags: u32,
        /// How many pieces of the caller's memory to send.
        8 => in_iovs: u32,
        /// How many pieces of the caller's memory the next reply is for.
        12 => out_iovs: u32,
    }

    /// `struct fuse_poll_out`: reply to POLL.
    struct PollOut: "fuse_poll_out" = 8 {
        /// `POLL*` bits that are ready.
        0 => revents: u32,
        /// Zero.
        4 => padding: u32,
    }

    /// `struct fuse_lseek_out`: reply to LSEEK.
    struct LseekOut: "fuse_lseek_out" = 8 {
        /// The position that was found, in bytes.
        0 => offset: u64,
    }

    /// `struct fuse_dirent`: head of a directory entry in the reply to READDIR. Then `namelen` bytes of name,
    /// without NUL, and zeros up to [`dirent_size`].
    struct Dirent: "fuse_dirent" = 24 {
        /// `d_ino`.
        0 => ino: u64,
        /// What [`crate::ReadIn::offset`] is to be in order to go on after this entry; never 0.
        8 => off: u64,
        /// Length of the name in bytes.
        16 => namelen: u32,
        /// `DT_*`: the file type bits of `mode`, shifted right by 12.
        20 => typ: u32,
    }

    /// `struct fuse_direntplus`: head of a directory entry in the reply to READDIRPLUS. Then the name and
    /// zeros up to [`direntplus_size`].
    struct Direntplus: "fuse_direntplus" = 152 {
        /// As in the reply to LOOKUP, a counted lookup included; `nodeid` 0: not looked up, nothing is known.
        /// That is how `.` and `..` must be, since the client does not take back their lookups.
        0 => entry_out: EntryOut,
        /// As in the reply to READDIR.
        128 => dirent: Dirent,
    }
}

/// Length of [`EntryOut`] in bytes before protocol 7.9.
pub const COMPAT_ENTRY_OUT_SIZE: usize = 120;
/// Length of [`AttrOut`] in bytes before protocol 7.9.
pub const COMPAT_ATTR_OUT_SIZE: usize = 96;
/// Length of [`StatfsOut`] in bytes before protocol 7.4.
pub const COMPAT_STATFS_SIZE: usize = 48;
/// Where the name starts in the reply to READDIR, in bytes from its [`Dirent`].
pub const NAME_OFFSET: usize = size_of::<Dirent>();
/// Where the name starts in the reply to READDIRPLUS, in bytes from its [`Direntplus`].
pub const NAME_OFFSET_DIRENTPLUS: usize = size_of::<Direntplus>();

impl Dirent {
    /// The first entry of a reply to READDIR, its name, and what follows it. `None` if it is not all there.
    pub fn split(reply: &[u8]) -> Option<(Self, &[u8], &[u8])> {
        let (head, after) = <Self as zerocopy::FromBytes>::read_from_prefix(reply).ok()?;
        let name = after.get(..head.namelen as usize)?;
        Some((head, name, reply.get(dirent_size(name.len())..)?))
    }
}

/// How many bytes an entry with a name of this length takes in the reply to READDIR.
pub const fn dirent_size(namelen: usize) -> usize {
    rec_align(NAME_OFFSET + namelen)
}

/// How many bytes an entry with a name of this length takes in the reply to READDIRPLUS.
pub const fn direntplus_size(namelen: usize) -> usize {
    rec_align(NAME_OFFSET_DIRENTPLUS + namelen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_entries_are_padded_to_eight() {
        assert_eq!(dirent_size(1), 32);
        assert_eq!(dirent_size(8), 32);
        assert_eq!(dirent_size(9), 40);
        assert_eq!(direntplus_size(1), 160);
        assert_eq!(direntplus_size(255), 408);
    }
}
