//! The two headers that start every message, and the numbers that concern all of them.

wire! {
    /// `struct fuse_in_header`: starts every request.
    struct InHeader: "fuse_in_header" = 40 {
        /// Length of the whole request in bytes: this header, arguments, data and extensions.
        0 => len: u32,
        /// What is asked; see [`crate::Opcode`].
        4 => opcode: u32,
        /// Identifies the request until it is answered; the reply repeats it. Carries [`UNIQUE_RESEND`] on a
        /// request that is delivered again. Requests without a reply (FORGET) have one too.
        8 => unique: u64,
        /// The node the request is about: for operations on names the parent directory. 0 where no node is
        /// meant.
        16 => nodeid: u64,
        /// File system user id of the caller, in the user namespace of the mount; [`INVALID_UIDGID`] if
        /// withheld.
        24 => uid: u32,
        /// File system group id of the caller, in the user namespace of the mount; [`INVALID_UIDGID`] if
        /// withheld.
        28 => gid: u32,
        /// Thread id of the caller in the PID namespace of the mount; 0 if it is not visible there, or for
        /// work that the kernel does for itself (write-back).
        32 => pid: u32,
        /// Length of the extensions at the end of the request, in units of 8 bytes; see [`crate::ExtHeader`].
        36 => total_extlen: u16,
        /// Zero.
        38 => padding: u16,
    }

    /// `struct fuse_out_header`: starts every reply and every notification.
    struct OutHeader: "fuse_out_header" = 16 {
        /// Length of the whole message in bytes, this header included. Over io_uring the kernel ignores it.
        0 => len: u32,
        /// Reply: 0, or a negated errno greater than -512, and then nothing may follow. Notification: the
        /// [`crate::NotifyCode`], as a positive number.
        4 => error: i32,
        /// Reply: `unique` of the request. Notification: 0.
        8 => unique: u64,
    }
}

/// Major version of the protocol.
pub const KERNEL_VERSION: u32 = 7;
/// Highest minor version that this crate describes (Linux 7.3).
pub const KERNEL_MINOR_VERSION: u32 = 46;
/// Node id of the root directory. The client knows it without a LOOKUP and never sends a FORGET for it.
pub const ROOT_ID: u64 = 1;
/// The smallest buffer, in bytes, that `read(2)` on the FUSE device accepts. Once INIT was answered it must
/// also hold an [`InHeader`], a [`crate::WriteIn`] and `max_write` bytes.
pub const MIN_READ_BUFFER: usize = 8192;
/// Bit of [`InHeader::unique`] on a request that was read before and is sent again after `NOTIFY_RESEND`: it
/// may have been carried out already. The reply repeats the bit.
pub const UNIQUE_RESEND: u64 = 1 << 63;
/// In [`InHeader::uid`] and [`InHeader::gid`]: the caller's id is withheld. Happens with
/// [`crate::InitFlags::ALLOW_IDMAP`] on operations that do not create an inode.
pub const INVALID_UIDGID: u32 = u32::MAX;
/// The longest file name in bytes, without NUL, when `max_pages` is greater than 1 on kernels that have the
/// longer limit.
pub const NAME_MAX: usize = 4095;
/// The longest file name in bytes, without NUL, in all other cases.
pub const NAME_LOW_MAX: usize = 1024;
