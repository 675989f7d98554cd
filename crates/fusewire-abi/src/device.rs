//! `ioctl(2)` requests of the FUSE device.

wire! {
    /// `struct fuse_backing_map`: argument of [`DEV_IOC_BACKING_OPEN`].
    struct BackingMap: "fuse_backing_map" = 16 {
        /// The regular file, open in the calling process; an `O_PATH` descriptor will do.
        0 => fd: i32,
        /// Zero.
        4 => flags: u32,
        /// Zero.
        8 => padding: u64,
    }
}

/// The `type` byte of the device's ioctl numbers.
pub const DEV_IOC_MAGIC: u32 = 229;
/// Makes the freshly opened device descriptor it is called on serve the connection of another one. Argument:
/// pointer to that descriptor (`u32`). Requests read through a clone are aborted when the clone is closed.
pub const DEV_IOC_CLONE: u32 = 0x8004_e500;
/// Registers the file of a [`BackingMap`] for passthrough. Returns the positive id for
/// [`crate::OpenOut::backing_id`]. Needs `CAP_SYS_ADMIN` in the initial user namespace and an agreed
/// [`crate::InitFlags::PASSTHROUGH`]; reads and writes use the credentials of the caller of this ioctl. Fails
/// with `ELOOP` if the file is on a stack that is too deep.
pub const DEV_IOC_BACKING_OPEN: u32 = 0x4010_e501;
/// Forgets a backing id. Argument: pointer to the id (`u32`). Files that were opened with it keep working.
pub const DEV_IOC_BACKING_CLOSE: u32 = 0x4004_e502;
/// Called before mounting, makes `mount(2)` wait until INIT was answered by another thread (Linux 6.18). No
/// argument.
pub const DEV_IOC_SYNC_INIT: u32 = 0xe503;
