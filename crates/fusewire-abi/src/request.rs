//! Arguments of requests: what follows [`InHeader`](crate::InHeader). Names and data come after them.
//!
//! `fh` is the handle that the server returned in [`OpenOut::fh`](crate::OpenOut::fh).

wire! {
    /// `struct fuse_forget_in`: arguments of FORGET.
    struct ForgetIn: "fuse_forget_in" = 8 {
        /// How many lookups are taken back; at zero the server may drop the node.
        0 => nlookup: u64,
    }

    /// `struct fuse_forget_one`: one node of BATCH_FORGET.
    struct ForgetOne: "fuse_forget_one" = 16 {
        /// The node.
        0 => nodeid: u64,
        /// How many lookups are taken back.
        8 => nlookup: u64,
    }

    /// `struct fuse_batch_forget_in`: arguments of BATCH_FORGET. Then `count` times [`ForgetOne`].
    struct BatchForgetIn: "fuse_batch_forget_in" = 8 {
        /// How many nodes follow.
        0 => count: u32,
        /// Zero.
        4 => dummy: u32,
    }

    /// `struct fuse_getattr_in`: arguments of GETATTR.
    struct GetattrIn: "fuse_getattr_in" = 16 {
        /// [`crate::GetattrFlags`].
        0 => getattr_flags: u32,
        /// Zero.
        4 => dummy: u32,
        /// An open handle, with [`crate::GetattrFlags::FH`].
        8 => fh: u64,
    }

    /// `struct fuse_statx_in`: arguments of STATX.
    struct StatxIn: "fuse_statx_in" = 24 {
        /// [`crate::GetattrFlags`].
        0 => getattr_flags: u32,
        /// Zero.
        4 => reserved: u32,
        /// An open handle, with [`crate::GetattrFlags::FH`].
        8 => fh: u64,
        /// `AT_STATX_*` flags of `statx(2)`.
        16 => sx_flags: u32,
        /// `STATX_*` mask of what is wanted.
        20 => sx_mask: u32,
    }

    /// `struct fuse_mknod_in`: arguments of MKNOD. Then the name. Before protocol 7.12 it ends after `rdev`.
    struct MknodIn: "fuse_mknod_in" = 16 {
        /// Type and permissions; the umask is applied already unless [`crate::InitFlags::DONT_MASK`] was
        /// agreed.
        0 => mode: u32,
        /// Device number of a device node, in the kernel's encoding (`new_encode_dev`).
        4 => rdev: u32,
        /// Umask of the caller.
        8 => umask: u32,
        /// Zero.
        12 => padding: u32,
    }

    /// `struct fuse_mkdir_in`: arguments of MKDIR. Then the name.
    struct MkdirIn: "fuse_mkdir_in" = 8 {
        /// Permissions; the umask is applied already unless [`crate::InitFlags::DONT_MASK`] was agreed.
        0 => mode: u32,
        /// Umask of the caller.
        4 => umask: u32,
    }

    /// `struct fuse_rename_in`: arguments of RENAME. Then the old and the new name.
    struct RenameIn: "fuse_rename_in" = 8 {
        /// Node id of the directory of the new name.
        0 => newdir: u64,
    }

    /// `struct fuse_rename2_in`: arguments of RENAME2. Then the old and the new name.
    struct Rename2In: "fuse_rename2_in" = 16 {
        /// Node id of the directory of the new name.
        0 => newdir: u64,
        /// `RENAME_*` flags of `renameat2(2)`.
        8 => flags: u32,
        /// Zero.
        12 => padding: u32,
    }

    /// `struct fuse_link_in`: arguments of LINK. Then the new name.
    struct LinkIn: "fuse_link_in" = 8 {
        /// The node that gets another name.
        0 => oldnodeid: u64,
    }

    /// `struct fuse_setattr_in`: arguments of SETATTR. Only what `valid` names is to be changed.
    struct SetattrIn: "fuse_setattr_in" = 88 {
        /// [`crate::SetattrValid`].
        0 => valid: u32,
        /// Zero.
        4 => padding: u32,
        /// An open handle, with [`crate::SetattrValid::FH`].
        8 => fh: u64,
        /// Length in bytes.
        16 => size: u64,
        /// Owner of locks, with [`crate::SetattrValid::LOCKOWNER`].
        24 => lock_owner: u64,
        /// Access time in seconds since 1970, a signed number.
        32 => atime: u64,
        /// Modification time in seconds since 1970, a signed number.
        40 => mtime: u64,
        /// Change time in seconds since 1970, a signed number.
        48 => ctime: u64,
        /// Nanoseconds of `atime`.
        56 => atimensec: u32,
        /// Nanoseconds of `mtime`.
        60 => mtimensec: u32,
        /// Nanoseconds of `ctime`.
        64 => ctimensec: u32,
        /// Permissions; the type bits are those of the file.
        68 => mode: u32,
        /// Zero.
        72 => unused4: u32,
        /// Owner.
        76 => uid: u32,
        /// Group.
        80 => gid: u32,
        /// Zero.
        84 => unused5: u32,
    }

    /// `struct fuse_open_in`: arguments of OPEN and OPENDIR.
    struct OpenIn: "fuse_open_in" = 8 {
        /// `O_*` flags of `open(2)`; `O_CREAT`, `O_EXCL` and `O_NOCTTY` are taken out, `O_TRUNC` too unless
        /// [`crate::InitFlags::ATOMIC_O_TRUNC`] was agreed.
        0 => flags: u32,
        /// [`crate::OpenInFlags`].
        4 => open_flags: u32,
    }

    /// `struct fuse_create_in`: arguments of CREATE and TMPFILE. Then the name. Before protocol 7.12 it ends
    /// after `mode`.
    struct CreateIn: "fuse_create_in" = 16 {
        /// `O_*` flags of `open(2)`; `O_NOCTTY` is taken out.
        0 => flags: u32,
        /// Type and permissions; the umask is applied already unless [`crate::InitFlags::DONT_MASK`] was
        /// agreed.
        4 => mode: u32,
        /// Umask of the caller.
        8 => umask: u32,
        /// [`crate::OpenInFlags`].
        12 => open_flags: u32,
    }

    /// `struct fuse_release_in`: arguments of RELEASE and RELEASEDIR.
    struct ReleaseIn: "fuse_release_in" = 24 {
        /// The handle, which ends here.
        0 => fh: u64,
        /// `O_*` flags of the open file.
        8 => flags: u32,
        /// [`crate::ReleaseFlags`].
        12 => release_flags: u32,
        /// Owner of the `flock(2)` lock, with [`crate::ReleaseFlags::FLOCK_UNLOCK`].
        16 => lock_owner: u64,
    }

    /// `struct fuse_flush_in`: arguments of FLUSH.
    struct FlushIn: "fuse_flush_in" = 24 {
        /// The handle.
        0 => fh: u64,
        /// Zero.
        8 => unused: u32,
        /// Zero.
        12 => padding: u32,
        /// All POSIX locks of this owner on the file are to be released.
        16 => lock_owner: u64,
    }

    /// `struct fuse_read_in`: arguments of READ, READDIR and READDIRPLUS.
    struct ReadIn: "fuse_read_in" = 40 {
        /// The handle.
        0 => fh: u64,
        /// Position in bytes; in a directory 0 or a [`crate::Dirent::off`] that the server returned.
        8 => offset: u64,
        /// The longest reply in bytes. Less data means the end of the file, unless the file was opened with
        /// [`crate::FopenFlags::DIRECT_IO`].
        16 => size: u32,
        /// [`crate::ReadFlags`].
        20 => read_flags: u32,
        /// Owner of locks, with [`crate::ReadFlags::LOCKOWNER`].
        24 => lock_owner: u64,
        /// `O_*` flags of the open file.
        32 => flags: u32,
        /// Zero.
        36 => padding: u32,
    }

    /// `struct fuse_write_in`: arguments of WRITE. Then the data. Before protocol 7.9 it ends after
    /// `write_flags` ([`COMPAT_WRITE_IN_SIZE`]).
    struct WriteIn: "fuse_write_in" = 40 {
        /// The handle; a guess with [`crate::WriteFlags::CACHE`].
        0 => fh: u64,
        /// Position in bytes.
        8 => offset: u64,
        /// Length of the data in bytes.
        16 => size: u32,
        /// [`crate::WriteFlags`].
        20 => write_flags: u32,
        /// Owner of locks, with [`crate::WriteFlags::LOCKOWNER`].
        24 => lock_owner: u64,
        /// `O_*` flags of the open file.
        32 => flags: u32,
        /// Zero.
        36 => padding: u32,
    }

    /// `struct fuse_fsync_in`: arguments of FSYNC and FSYNCDIR.
    struct FsyncIn: "fuse_fsync_in" = 16 {
        /// The handle.
        0 => fh: u64,
        /// [`crate::FsyncFlags`].
        8 => fsync_flags: u32,
        /// Zero.
        12 => padding: u32,
    }

    /// `struct fuse_setxattr_in`: arguments of SETXATTR if [`crate::InitFlags::SETXATTR_EXT`] was agreed.
    /// Then name and value.
    struct SetxattrIn: "fuse_setxattr_in" = 16 {
        /// Length of the value in bytes.
        0 => size: u32,
        /// `XATTR_CREATE`, `XATTR_REPLACE` or 0.
        4 => flags: u32,
        /// [`crate::SetxattrFlags`].
        8 => setxattr_flags: u32,
        /// Zero.
        12 => padding: u32,
    }

    /// The start of `struct fuse_setxattr_in`: arguments of SETXATTR without
    /// [`crate::InitFlags::SETXATTR_EXT`]. Then name and value.
    struct SetxattrInCompat: "fuse_setxattr_in" = 8 {
        /// Length of the value in bytes.
        0 => size: u32,
        /// `XATTR_CREATE`, `XATTR_REPLACE` or 0.
        4 => flags: u32,
    }

    /// `struct fuse_getxattr_in`: arguments of GETXATTR, then the name; and of LISTXATTR.
    struct GetxattrIn: "fuse_getxattr_in" = 8 {
        /// The longest reply in bytes (`ERANGE` if that is not enough); 0 asks for the size alone.
        0 => size: u32,
        /// Zero.
        4 => padding: u32,
    }

    /// `struct fuse_file_lock`: a byte range lock.
    struct FileLock: "fuse_file_lock" = 24 {
        /// First byte.
        0 => start: u64,
        /// Last byte; `i64::MAX` for the end of the file, wherever that is.
        8 => end: u64,
        /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
        16 => typ: u32,
        /// Process id of the holder.
        20 => pid: u32,
    }

    /// `struct fuse_lk_in`: arguments of GETLK, SETLK and SETLKW.
    struct LkIn: "fuse_lk_in" = 48 {
        /// The handle.
        0 => fh: u64,
        /// Who holds the lock, or wants it.
        8 => owner: u64,
        /// The lock.
        16 => lk: FileLock,
        /// [`crate::LkFlags`].
        40 => lk_flags: u32,
        /// Zero.
        44 => padding: u32,
    }

    /// `struct fuse_access_in`: arguments of ACCESS.
    struct AccessIn: "fuse_access_in" = 8 {
        /// `R_OK`, `W_OK`, `X_OK`, or `F_OK` (0).
        0 => mask: u32,
        /// Zero.
        4 => padding: u32,
    }

    /// `struct fuse_interrupt_in`: arguments of INTERRUPT.
    struct InterruptIn: "fuse_interrupt_in" = 8 {
        /// `unique` of the request that is interrupted. It may come later than this, or be answered already.
        0 => unique: u64,
    }

    /// `struct fuse_bmap_in`: arguments of BMAP.
    struct BmapIn: "fuse_bmap_in" = 16 {
        /// Number of the block within the file.
        0 => block: u64,
        /// Size of a block in bytes.
        8 => blocksize: u32,
        /// Zero.
        12 => padding: u32,
    }

    /// `struct fuse_ioctl_in`: arguments of IOCTL. Then `in_size` bytes.
    struct IoctlIn: "fuse_ioctl_in" = 32 {
        /// The handle.
        0 => fh: u64,
        /// [`crate::IoctlFlags`].
        8 => flags: u32,
        /// The request number.
        12 => cmd: u32,
        /// The argument as the caller gave it.
        16 => arg: u64,
        /// Length of the data in bytes.
        24 => in_size: u32,
        /// The longest data of the reply in bytes.
        28 => out_size: u32,
    }

    /// `struct fuse_ioctl_iovec`: a piece of the caller's memory, in the reply to an unrestricted ioctl that
    /// asks for it.
    struct IoctlIovec: "fuse_ioctl_iovec" = 16 {
        /// Address in the caller.
        0 => base: u64,
        /// Length in bytes.
        8 => len: u64,
    }

    /// `struct fuse_poll_in`: arguments of POLL.
    struct PollIn: "fuse_poll_in" = 24 {
        /// The handle.
        0 => fh: u64,
        /// Names this poll in [`crate::NotifyPollWakeupOut`].
        8 => kh: u64,
        /// [`crate::PollFlags`].
        16 => flags: u32,
        /// `POLL*` bits that are waited for.
        20 => events: u32,
    }

    /// `struct fuse_fallocate_in`: arguments of FALLOCATE.
    struct FallocateIn: "fuse_fallocate_in" = 32 {
        /// The handle.
        0 => fh: u64,
        /// Position in bytes.
        8 => offset: u64,
        /// Length in bytes.
        16 => length: u64,
        /// `FALLOC_FL_*` flags of `fallocate(2)`.
        24 => mode: u32,
        /// Zero.
        28 => padding: u32,
    }

    /// `struct fuse_lseek_in`: arguments of LSEEK.
    struct LseekIn: "fuse_lseek_in" = 24 {
        /// The handle.
        0 => fh: u64,
        /// Where to start, in bytes.
        8 => offset: u64,
        /// `SEEK_DATA` or `SEEK_HOLE`; the kernel does the others by itself.
        16 => whence: u32,
        /// Zero.
        20 => padding: u32,
    }

    /// `struct fuse_copy_file_range_in`: arguments of COPY_FILE_RANGE and COPY_FILE_RANGE_64. The node of the
    /// request is the source.
    struct CopyFileRangeIn: "fuse_copy_file_range_in" = 56 {
        /// Handle of the source.
        0 => fh_in: u64,
        /// Position in the source in bytes.
        8 => off_in: u64,
        /// Node of the destination.
        16 => nodeid_out: u64,
        /// Handle of the destination.
        24 => fh_out: u64,
        /// Position in the destination in bytes.
        32 => off_out: u64,
        /// Length in bytes.
        40 => len: u64,
        /// Flags of `copy_file_range(2)`: zero.
        48 => flags: u64,
    }

    /// `struct fuse_setupmapping_in`: arguments of SETUPMAPPING.
    struct SetupmappingIn: "fuse_setupmapping_in" = 40 {
        /// The handle; `u64::MAX` if there is none.
        0 => fh: u64,
        /// Position in the file in bytes.
        8 => foffset: u64,
        /// Length in bytes.
        16 => len: u64,
        /// [`crate::SetupmappingFlags`].
        24 => flags: u64,
        /// Position in the DAX window in bytes.
        32 => moffset: u64,
    }

    /// `struct fuse_removemapping_in`: arguments of REMOVEMAPPING. Then `count` times [`RemovemappingOne`].
    struct RemovemappingIn: "fuse_removemapping_in" = 4 {
        /// How many mappings follow.
        0 => count: u32,
    }

    /// `struct fuse_removemapping_one`: one mapping of REMOVEMAPPING.
    struct RemovemappingOne: "fuse_removemapping_one" = 16 {
        /// Position in the DAX window in bytes.
        0 => moffset: u64,
        /// Length in bytes.
        8 => len: u64,
    }

    /// `struct fuse_syncfs_in`: arguments of SYNCFS.
    struct SyncfsIn: "fuse_syncfs_in" = 8 {
        /// Zero.
        0 => padding: u64,
    }
}

/// Length of [`MknodIn`] in bytes before protocol 7.12.
pub const COMPAT_MKNOD_IN_SIZE: usize = 8;
/// Length of [`WriteIn`] in bytes before protocol 7.9.
pub const COMPAT_WRITE_IN_SIZE: usize = 24;
/// Length of [`SetxattrInCompat`] in bytes.
pub const COMPAT_SETXATTR_IN_SIZE: usize = 8;
/// The most [`IoctlIovec`] that a reply to IOCTL may name, in and out together.
pub const IOCTL_MAX_IOV: usize = 256;

/// How many [`RemovemappingOne`] one REMOVEMAPPING has at most, for clients with pages of this many bytes.
pub const fn removemapping_max_entry(page_size: usize) -> usize {
    page_size / size_of::<RemovemappingOne>()
}
