//! Operations few filesystems have: `ioctl`, `poll`, block mapping, DAX, whole-filesystem sync.

use super::ops;
use crate::{reply::Source, types::*};
use fusewire_abi::RemovemappingOne;
use zerocopy::FromBytes;

/// Ranges of the DAX window to unmap.
#[derive(Clone, Copy)]
pub struct MappingRanges<'a>(pub(crate) &'a [u8]);

impl std::fmt::Debug for MappingRanges<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl MappingRanges<'_> {
    /// One after the other: offset in the window and length, bytes.
    pub fn iter(&self) -> impl Iterator<Item = RemovemappingOne> + '_ {
        self.0
            .chunks_exact(size_of::<RemovemappingOne>())
            .filter_map(|one| RemovemappingOne::read_from_bytes(one).ok())
    }
}

ops! {
    /// A command of the file's own (`FUSE_IOCTL`, restricted form: the kernel knows from `command` how many bytes go in and out).
    Ioctl<'a> {
        /// The node.
        node: NodeId,
        /// As `open` was answered.
        handle: Handle,
        /// Command number.
        command: u32,
        /// Argument as the caller gave it: a number, or an address that means nothing here.
        argument: u64,
        /// `FUSE_IOCTL_*`.
        flags: u32,
        /// Bytes in.
        input: &'a [u8],
        /// Room for bytes out.
        out_size: u32,
    }
    /// Which events are ready (`FUSE_POLL`)?
    Poll {
        /// The node.
        node: NodeId,
        /// As `open` was answered.
        handle: Handle,
        /// Events of interest, as in `struct pollfd`.
        events: u32,
        /// Name of the waiter: pass it to the notifier's poll wake-up once an event is ready.
        kernel_handle: u64,
        /// Somebody waits: a wake-up is wanted.
        schedule: bool,
    }
    /// Which block of the device holds this block of the file (`FUSE_BMAP`)? Block-device filesystems only.
    Bmap {
        /// The node.
        node: NodeId,
        /// Index in the file.
        block: u64,
        /// Size of a block, bytes.
        block_size: u32,
    }
    /// Write everything to stable storage (`FUSE_SYNCFS`). Plain FUSE mounts do not get it.
    Syncfs {
        /// A node on the filesystem.
        node: NodeId,
    }
    /// Map a range of a file into the DAX window (`FUSE_SETUPMAPPING`; virtio-fs only).
    Setupmapping {
        /// The node.
        node: NodeId,
        /// As `open` was answered; `u64::MAX` where there is none.
        handle: Handle,
        /// Where in the file.
        file_offset: u64,
        /// How many bytes.
        length: u64,
        /// `FUSE_SETUPMAPPING_FLAG_READ` 2, `_WRITE` 1.
        flags: u64,
        /// Where in the window.
        window_offset: u64,
    }
    /// Unmap ranges of the DAX window (`FUSE_REMOVEMAPPING`; virtio-fs only).
    Removemapping<'a> {
        /// The node.
        node: NodeId,
        /// The ranges.
        ranges: MappingRanges<'a>,
    }
    /// Page-cache content that a retrieve notification asked for (`FUSE_NOTIFY_REPLY`).
    Retrieved<'a> {
        /// The node.
        node: NodeId,
        /// As the notification had it.
        unique: u64,
        /// Where the data begins.
        offset: u64,
        /// The data; it may be short.
        data: Source<'a>,
    }
}
