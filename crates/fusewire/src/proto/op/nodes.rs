//! Operations on nodes: attributes, extended attributes, lifetime.

use super::ops;
use crate::types::*;
use std::ffi::CStr;

/// What `setattr` is to change: the fields that are `Some`, all or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// Permission bits, 0 to 0o7777 (the kind never changes).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes; what is beyond is lost, what is added reads as zeros.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last change of attributes; sent only under `WRITEBACK_CACHE`.
    pub ctime: Option<Timestamp>,
    /// Clear set-user-id, and set-group-id where the group may execute, and file capabilities.
    pub kill_suid_gid: bool,
}

ops! {
    /// Lower a node's lookup count (`FUSE_FORGET`, one entry of `FUSE_BATCH_FORGET`).
    Forget {
        /// The node.
        node: NodeId,
        /// By how much. The count never goes below zero in a well-behaved kernel.
        count: u64,
    }
    /// Read attributes (`FUSE_GETATTR`).
    Getattr {
        /// The node.
        node: NodeId,
        /// An open file of it, where the caller has one.
        handle: Option<Handle>,
    }
    /// Read attributes and what `statx` adds (`FUSE_STATX`).
    Statx {
        /// The node.
        node: NodeId,
        /// An open file of it, where the caller has one.
        handle: Option<Handle>,
        /// `AT_STATX_*` synchronisation flags.
        flags: u32,
        /// `STATX_*` fields that are wanted.
        mask: u32,
    }
    /// Change attributes (`FUSE_SETATTR`).
    Setattr {
        /// The node.
        node: NodeId,
        /// An open file of it, where the caller has one.
        handle: Option<Handle>,
        /// What to change.
        changes: Changes,
        /// Whose locks to respect when the size changes.
        lock_owner: Option<LockOwner>,
    }
    /// Read a symbolic link's target (`FUSE_READLINK`).
    Readlink {
        /// The link.
        node: NodeId,
    }
    /// State of the whole filesystem (`FUSE_STATFS`).
    Statfs {
        /// A node on it.
        node: NodeId,
    }
    /// Set an extended attribute (`FUSE_SETXATTR`).
    Setxattr<'a> {
        /// The node.
        node: NodeId,
        /// Attribute name with its namespace, such as `user.comment`.
        name: &'a CStr,
        /// Value, at most 64 KiB.
        value: &'a [u8],
        /// `XATTR_CREATE`, `XATTR_REPLACE`.
        flags: u32,
        /// Clear the set-group-id bit: the caller sets an ACL without being of the group (`FUSE_SETXATTR_ACL_KILL_SGID`).
        kill_sgid: bool,
    }
    /// Read an extended attribute (`FUSE_GETXATTR`).
    Getxattr<'a> {
        /// The node.
        node: NodeId,
        /// Attribute name.
        name: &'a CStr,
        /// Room at the caller's; 0 asks for the length alone.
        size: u32,
    }
    /// List extended attributes (`FUSE_LISTXATTR`).
    Listxattr {
        /// The node.
        node: NodeId,
        /// Room at the caller's; 0 asks for the length alone.
        size: u32,
    }
    /// Remove an extended attribute (`FUSE_REMOVEXATTR`).
    Removexattr<'a> {
        /// The node.
        node: NodeId,
        /// Attribute name.
        name: &'a CStr,
    }
    /// Check permission (`FUSE_ACCESS`); not sent under `default_permissions`.
    Access {
        /// The node.
        node: NodeId,
        /// `R_OK`, `W_OK`, `X_OK`.
        mask: u32,
    }
}
