//! Operations on the content of open files.

use super::ops;
use crate::{reply::Source, types::*};

ops! {
    /// Open a file (`FUSE_OPEN`). It exists: making one is [`Create`](super::Create).
    Open {
        /// The node.
        node: NodeId,
        /// `O_*` flags of `open`. `O_TRUNC` is there only where `ATOMIC_O_TRUNC` was agreed on.
        flags: u32,
        /// Clear set-user-id, set-group-id and file capabilities, because the file is truncated.
        kill_suid_gid: bool,
    }
    /// Read bytes (`FUSE_READ`).
    Read {
        /// The node.
        node: NodeId,
        /// As `open` was answered.
        handle: Handle,
        /// Where from.
        offset: u64,
        /// How many at most; fewer in the answer mean end of file.
        size: u32,
        /// `O_*` flags the file has now.
        flags: u32,
        /// Who reads, where mandatory locks matter.
        lock_owner: Option<LockOwner>,
    }
    /// Write bytes (`FUSE_WRITE`).
    Write<'a> {
        /// The node.
        node: NodeId,
        /// As `open` was answered; a guess where `cached`.
        handle: Handle,
        /// Where to.
        offset: u64,
        /// The bytes.
        data: Source<'a>,
        /// `O_*` flags the file has now.
        flags: u32,
        /// Written back from the page cache: the caller's ids and the handle may be another writer's.
        cached: bool,
        /// Clear set-user-id, set-group-id and file capabilities.
        kill_suid_gid: bool,
        /// Who writes, where mandatory locks matter.
        lock_owner: Option<LockOwner>,
    }
    /// A descriptor of the open file was closed (`FUSE_FLUSH`); there may be more of them. Sent once per `close`.
    Flush {
        /// The node.
        node: NodeId,
        /// As `open` was answered.
        handle: Handle,
        /// Whose POSIX locks on the file end now.
        lock_owner: LockOwner,
    }
    /// The last use of the open file is over (`FUSE_RELEASE`). The answer's error reaches nobody.
    Release {
        /// The node.
        node: NodeId,
        /// As `open` was answered; not used again.
        handle: Handle,
        /// `O_*` flags it was opened with.
        flags: u32,
        /// Drop the `flock` lock of this owner.
        flock_owner: Option<LockOwner>,
    }
    /// Write a file's changes to stable storage (`FUSE_FSYNC`).
    Fsync {
        /// The node.
        node: NodeId,
        /// As `open` was answered.
        handle: Handle,
        /// Content and size only (`fdatasync`).
        data_only: bool,
    }
    /// Reserve, free or move space in a file (`FUSE_FALLOCATE`).
    Fallocate {
        /// The node.
        node: NodeId,
        /// As `open` was answered.
        handle: Handle,
        /// Start, bytes.
        offset: u64,
        /// Length, bytes.
        length: u64,
        /// `FALLOC_FL_*`.
        mode: u32,
    }
    /// Find data or a hole (`FUSE_LSEEK`); other kinds of seeking the kernel does by itself.
    Lseek {
        /// The node.
        node: NodeId,
        /// As `open` was answered.
        handle: Handle,
        /// Where to begin.
        offset: u64,
        /// `SEEK_DATA` (3) or `SEEK_HOLE` (4).
        whence: u32,
    }
    /// Copy between two files of this filesystem (`FUSE_COPY_FILE_RANGE`, `FUSE_COPY_FILE_RANGE_64`).
    CopyFileRange {
        /// Source.
        node: NodeId,
        /// Its open file.
        handle: Handle,
        /// Where to read.
        offset: u64,
        /// Destination.
        to_node: NodeId,
        /// Its open file.
        to_handle: Handle,
        /// Where to write.
        to_offset: u64,
        /// How many bytes; the answer may be less.
        length: u64,
        /// None are defined.
        flags: u64,
    }
    /// Does a lock stand in the way? (`FUSE_GETLK`)
    Getlk {
        /// The node.
        node: NodeId,
        /// As `open` was answered.
        handle: Handle,
        /// Who asks.
        owner: LockOwner,
        /// For what.
        lock: FileLock,
    }
    /// Set or drop a lock (`FUSE_SETLK`, `FUSE_SETLKW`).
    Setlk {
        /// The node.
        node: NodeId,
        /// As `open` was answered.
        handle: Handle,
        /// Who asks.
        owner: LockOwner,
        /// For what.
        lock: FileLock,
        /// A `flock` lock, on the open file as a whole, rather than a POSIX one.
        flock: bool,
        /// Wait until it can be had (`FUSE_SETLKW`); `EINTR` once [`Context::cancelled`](crate::Context::cancelled).
        wait: bool,
    }
}
