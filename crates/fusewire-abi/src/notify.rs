//! Notifications: messages that the server sends without having been asked, by `write(2)` on the FUSE device.

wire! {
    /// `struct fuse_notify_poll_wakeup_out`: a file became ready.
    struct NotifyPollWakeupOut: "fuse_notify_poll_wakeup_out" = 8 {
        /// [`crate::PollIn::kh`] of the poll to wake.
        0 => kh: u64,
    }

    /// `struct fuse_notify_inval_inode_out`: attributes and cached data of a node are stale.
    struct NotifyInvalInodeOut: "fuse_notify_inval_inode_out" = 24 {
        /// The node id (not the inode number).
        0 => ino: u64,
        /// First stale byte; negative: only the attributes are stale.
        8 => off: i64,
        /// Number of stale bytes; 0 or less: to the end of the file.
        16 => len: i64,
    }

    /// `struct fuse_notify_inval_entry_out`: a name is stale. Then the name and a NUL that `namelen` does not
    /// count.
    struct NotifyInvalEntryOut: "fuse_notify_inval_entry_out" = 16 {
        /// Node id of the directory.
        0 => parent: u64,
        /// Length of the name in bytes.
        8 => namelen: u32,
        /// [`crate::NotifyEntryFlags`].
        12 => flags: u32,
    }

    /// `struct fuse_notify_delete_out`: a name was removed. Then the name and a NUL that `namelen` does not
    /// count.
    struct NotifyDeleteOut: "fuse_notify_delete_out" = 24 {
        /// Node id of the directory.
        0 => parent: u64,
        /// Node id of what was removed; nothing happens if the name means another node.
        8 => child: u64,
        /// Length of the name in bytes.
        16 => namelen: u32,
        /// Zero.
        20 => padding: u32,
    }

    /// `struct fuse_notify_store_out`: puts data into the page cache. Then `size` bytes.
    struct NotifyStoreOut: "fuse_notify_store_out" = 24 {
        /// The node.
        0 => nodeid: u64,
        /// Position in the file, in bytes; the file is extended if the data ends behind its end.
        8 => offset: u64,
        /// Length of the data in bytes.
        16 => size: u32,
        /// Zero.
        20 => padding: u32,
    }

    /// `struct fuse_notify_retrieve_out`: asks for data from the page cache. The answer comes as a request
    /// with [`crate::Opcode::NotifyReply`].
    struct NotifyRetrieveOut: "fuse_notify_retrieve_out" = 32 {
        /// Becomes `unique` of the answer.
        0 => notify_unique: u64,
        /// The node.
        8 => nodeid: u64,
        /// Position in the file, in bytes.
        16 => offset: u64,
        /// How many bytes at most.
        24 => size: u32,
        /// Zero.
        28 => padding: u32,
    }

    /// `struct fuse_notify_retrieve_in`: arguments of NOTIFY_REPLY. Then the data. Has the size of a
    /// [`crate::WriteIn`].
    struct NotifyRetrieveIn: "fuse_notify_retrieve_in" = 40 {
        /// Not used.
        0 => dummy1: u64,
        /// Position of the data in the file, in bytes.
        8 => offset: u64,
        /// Length of the data in bytes; less than asked where the cache has a hole.
        16 => size: u32,
        /// Not used.
        20 => dummy2: u32,
        /// Not used.
        24 => dummy3: u64,
        /// Not used.
        32 => dummy4: u64,
    }

    /// `struct fuse_notify_prune_out`: asks the client to drop nodes from its caches where nothing uses them.
    /// Then `count` node ids, `u64` each.
    struct NotifyPruneOut: "fuse_notify_prune_out" = 16 {
        /// Number of node ids that follow.
        0 => count: u32,
        /// Zero.
        4 => padding: u32,
        /// Zero.
        8 => spare: u64,
    }
}

macro_rules! notify_codes {
    ($( $(#[$meta:meta])* $name:ident / $constant:ident = $value:literal, )*) => {
        /// `enum fuse_notify_code`: what a notification says; travels in [`crate::OutHeader::error`].
        #[repr(i32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum NotifyCode {
            $( $(#[$meta])* $name = $value, )*
        }

        impl NotifyCode {
            /// Every code, in ascending order.
            pub const ALL: &[Self] = &[$( Self::$name ),*];

            /// The code with this number.
            pub const fn from_raw(raw: i32) -> Option<Self> {
                match raw {
                    $( $value => Some(Self::$name), )*
                    _ => None,
                }
            }

            /// The C name without `FUSE_NOTIFY_`, such as `"INVAL_INODE"`.
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$name => stringify!($constant), )*
                }
            }
        }

        /// The values of [`NotifyCode`] as plain numbers.
        pub mod notify_code {
            $(
                #[doc = concat!("`FUSE_NOTIFY_", stringify!($constant), "`")]
                pub const $constant: i32 = $value;
            )*
        }
    };
}

notify_codes! {
    /// Wakes a poll: [`NotifyPollWakeupOut`].
    Poll / POLL = 1,
    /// Attributes or data are stale: [`NotifyInvalInodeOut`].
    InvalInode / INVAL_INODE = 2,
    /// A name is stale: [`NotifyInvalEntryOut`].
    InvalEntry / INVAL_ENTRY = 3,
    /// Puts data into the page cache: [`NotifyStoreOut`].
    Store / STORE = 4,
    /// Asks for data from the page cache: [`NotifyRetrieveOut`].
    Retrieve / RETRIEVE = 5,
    /// A name was removed: [`NotifyDeleteOut`].
    Delete / DELETE = 6,
    /// Asks for every request that was read and not answered to be sent again, with [`crate::UNIQUE_RESEND`].
    /// No arguments. Requests that were delivered over io_uring are not sent again.
    Resend / RESEND = 7,
    /// Makes every cached name and directory listing stale. No arguments.
    IncEpoch / INC_EPOCH = 8,
    /// Drops unused nodes: [`NotifyPruneOut`].
    Prune / PRUNE = 9,
}

impl core::fmt::Display for NotifyCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_consecutive_and_named() {
        for (code, number) in NotifyCode::ALL.iter().zip(1..) {
            assert_eq!(*code as i32, number);
            assert_eq!(NotifyCode::from_raw(number), Some(*code));
        }
        assert_eq!(NotifyCode::ALL.len(), 9);
        assert_eq!(NotifyCode::from_raw(0), None);
        assert_eq!(NotifyCode::from_raw(10), None);
        assert_eq!(NotifyCode::InvalEntry.name(), "INVAL_ENTRY");
        assert_eq!(notify_code::PRUNE, NotifyCode::Prune as i32);
    }
}
