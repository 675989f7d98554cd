//! Opcodes: what a request asks for.

macro_rules! opcodes {
    ($( $(#[$meta:meta])* $name:ident / $constant:ident = $value:literal, )*) => {
        /// `enum fuse_opcode`, as found in [`crate::InHeader::opcode`].
        ///
        /// Each is followed by what the request carries after its header. A `name` is a NUL-terminated
        /// string.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Opcode {
            $( $(#[$meta])* $name = $value, )*
        }

        impl Opcode {
            /// Every opcode, in ascending order.
            pub const ALL: &[Self] = &[$( Self::$name ),*];

            /// The opcode with this number; `None` if this crate does not know it.
            pub const fn from_raw(raw: u32) -> Option<Self> {
                match raw {
                    $( $value => Some(Self::$name), )*
                    _ => None,
                }
            }

            /// The C name without `FUSE_`, such as `"LOOKUP"` or `"CUSE_INIT"`.
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$name => stringify!($constant), )*
                }
            }
        }

        $(
            #[doc = concat!("[`Opcode::", stringify!($name), "`] as a plain number.")]
            pub const $constant: u32 = $value;
        )*
    };
}

opcodes! {
    /// Finds a name in a directory and counts one lookup of the node: name → [`crate::EntryOut`].
    Lookup / LOOKUP = 1,
    /// Takes back lookups of a node: [`crate::ForgetIn`]; no reply.
    Forget / FORGET = 2,
    /// [`crate::GetattrIn`] → [`crate::AttrOut`].
    Getattr / GETATTR = 3,
    /// [`crate::SetattrIn`] → [`crate::AttrOut`].
    Setattr / SETATTR = 4,
    /// Nothing → target, without NUL.
    Readlink / READLINK = 5,
    /// Name, target → [`crate::EntryOut`].
    Symlink / SYMLINK = 6,
    /// [`crate::MknodIn`], name → [`crate::EntryOut`].
    Mknod / MKNOD = 8,
    /// [`crate::MkdirIn`], name → [`crate::EntryOut`].
    Mkdir / MKDIR = 9,
    /// Name → nothing.
    Unlink / UNLINK = 10,
    /// Name → nothing.
    Rmdir / RMDIR = 11,
    /// [`crate::RenameIn`], old name, new name → nothing.
    Rename / RENAME = 12,
    /// [`crate::LinkIn`], new name → [`crate::EntryOut`].
    Link / LINK = 13,
    /// [`crate::OpenIn`] → [`crate::OpenOut`].
    Open / OPEN = 14,
    /// [`crate::ReadIn`] → data.
    Read / READ = 15,
    /// [`crate::WriteIn`], data → [`crate::WriteOut`].
    Write / WRITE = 16,
    /// Nothing → [`crate::StatfsOut`].
    Statfs / STATFS = 17,
    /// The last reference to an open file is gone: [`crate::ReleaseIn`] → nothing.
    Release / RELEASE = 18,
    /// [`crate::FsyncIn`] → nothing.
    Fsync / FSYNC = 20,
    /// [`crate::SetxattrIn`] (or [`crate::SetxattrInCompat`]), name, value → nothing.
    Setxattr / SETXATTR = 21,
    /// [`crate::GetxattrIn`], name → value, or [`crate::GetxattrOut`] if only its size was asked for.
    Getxattr / GETXATTR = 22,
    /// [`crate::GetxattrIn`] → NUL-terminated names, or [`crate::GetxattrOut`] if only their size was asked
    /// for.
    Listxattr / LISTXATTR = 23,
    /// Name → nothing.
    Removexattr / REMOVEXATTR = 24,
    /// A descriptor is closed, others may remain: [`crate::FlushIn`] → nothing.
    Flush / FLUSH = 25,
    /// The first request of a connection: [`crate::InitIn`] → [`crate::InitOut`].
    Init / INIT = 26,
    /// [`crate::OpenIn`] → [`crate::OpenOut`].
    Opendir / OPENDIR = 27,
    /// [`crate::ReadIn`] → [`crate::Dirent`] with names.
    Readdir / READDIR = 28,
    /// [`crate::ReleaseIn`] → nothing.
    Releasedir / RELEASEDIR = 29,
    /// [`crate::FsyncIn`] → nothing.
    Fsyncdir / FSYNCDIR = 30,
    /// [`crate::LkIn`] → [`crate::LkOut`].
    Getlk / GETLK = 31,
    /// Without waiting: [`crate::LkIn`] → nothing.
    Setlk / SETLK = 32,
    /// Waits for the lock: [`crate::LkIn`] → nothing.
    Setlkw / SETLKW = 33,
    /// [`crate::AccessIn`] → nothing.
    Access / ACCESS = 34,
    /// Makes a regular file and opens it: [`crate::CreateIn`], name → [`crate::EntryOut`],
    /// [`crate::OpenOut`].
    Create / CREATE = 35,
    /// The caller of another request got a signal: [`crate::InterruptIn`]; no reply except `EAGAIN` or
    /// `ENOSYS`.
    Interrupt / INTERRUPT = 36,
    /// [`crate::BmapIn`] → [`crate::BmapOut`].
    Bmap / BMAP = 37,
    /// The last request of a `fuseblk` or virtio-fs mount: nothing → nothing. Plain FUSE never sends it.
    Destroy / DESTROY = 38,
    /// [`crate::IoctlIn`], data → [`crate::IoctlOut`], data.
    Ioctl / IOCTL = 39,
    /// [`crate::PollIn`] → [`crate::PollOut`].
    Poll / POLL = 40,
    /// Data that a [`crate::NotifyRetrieveOut`] asked for: [`crate::NotifyRetrieveIn`], data; no reply.
    NotifyReply / NOTIFY_REPLY = 41,
    /// [`crate::BatchForgetIn`], [`crate::ForgetOne`] each; no reply.
    BatchForget / BATCH_FORGET = 42,
    /// [`crate::FallocateIn`] → nothing.
    Fallocate / FALLOCATE = 43,
    /// READDIR and LOOKUP of each entry in one: [`crate::ReadIn`] → [`crate::Direntplus`] with names.
    Readdirplus / READDIRPLUS = 44,
    /// [`crate::Rename2In`], old name, new name → nothing.
    Rename2 / RENAME2 = 45,
    /// [`crate::LseekIn`] → [`crate::LseekOut`].
    Lseek / LSEEK = 46,
    /// [`crate::CopyFileRangeIn`] → [`crate::WriteOut`].
    CopyFileRange / COPY_FILE_RANGE = 47,
    /// Maps a part of a file into the DAX window: [`crate::SetupmappingIn`] → nothing.
    Setupmapping / SETUPMAPPING = 48,
    /// [`crate::RemovemappingIn`], [`crate::RemovemappingOne`] each → nothing.
    Removemapping / REMOVEMAPPING = 49,
    /// [`crate::SyncfsIn`] → nothing. Only virtio-fs and `fuseblk` send it.
    Syncfs / SYNCFS = 50,
    /// Makes a regular file without a name and opens it: as CREATE.
    Tmpfile / TMPFILE = 51,
    /// [`crate::StatxIn`] → [`crate::StatxOut`].
    Statx / STATX = 52,
    /// As COPY_FILE_RANGE, with a result that can be 4 GiB and more: [`crate::CopyFileRangeIn`] →
    /// [`crate::CopyFileRangeOut`]. Tried first; the client falls back to COPY_FILE_RANGE on `ENOSYS`.
    CopyFileRange64 / COPY_FILE_RANGE_64 = 53,
    /// INIT of a character device: [`crate::CuseInitIn`] → [`crate::CuseInitOut`], information.
    CuseInit / CUSE_INIT = 4096,
}

/// What [`Opcode::CuseInit`] looks like to a server of the other byte order. Never an opcode.
pub const CUSE_INIT_BSWAP_RESERVED: u32 = 0x0010_0000;
/// What [`Opcode::Init`] looks like to a server of the other byte order. Never an opcode.
pub const INIT_BSWAP_RESERVED: u32 = 0x1a00_0000;

impl core::fmt::Display for Opcode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_opcodes_agree() {
        for opcode in Opcode::ALL {
            assert_eq!(Opcode::from_raw(*opcode as u32), Some(*opcode));
        }
        assert!(Opcode::ALL.is_sorted());
        // 1 to 53 without 7 and 19, which were never given out again, and CUSE_INIT.
        assert_eq!(Opcode::ALL.len(), 52);
        for unknown in [0, 7, 19, 54, 4095, 4097, CUSE_INIT_BSWAP_RESERVED, INIT_BSWAP_RESERVED] {
            assert_eq!(Opcode::from_raw(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn names_are_those_of_c() {
        assert_eq!(Opcode::Lookup.name(), "LOOKUP");
        assert_eq!(Opcode::CopyFileRange64.name(), "COPY_FILE_RANGE_64");
        assert_eq!(Opcode::CuseInit.name(), "CUSE_INIT");
    }

    #[test]
    fn reserved_numbers_are_swapped_opcodes() {
        assert_eq!((Opcode::Init as u32).swap_bytes(), INIT_BSWAP_RESERVED);
        assert_eq!((Opcode::CuseInit as u32).swap_bytes(), CUSE_INIT_BSWAP_RESERVED);
    }
}
