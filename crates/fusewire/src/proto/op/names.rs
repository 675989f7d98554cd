//! Operations on names in directories.

use super::ops;
use crate::types::*;

/// What security modules want stored with a new node: an extended attribute and its value.
#[derive(Clone, Copy, Debug)]
pub struct SecurityContext<'a> {
    /// Attribute name, such as `security.selinux`.
    pub name: &'a std::ffi::CStr,
    /// Value.
    pub value: &'a [u8],
}

ops! {
    /// Resolve a name (`FUSE_LOOKUP`).
    Lookup<'a> {
        /// Directory.
        parent: NodeId,
        /// Name in it.
        name: Name<'a>,
    }
    /// Make a symbolic link (`FUSE_SYMLINK`).
    Symlink<'a> {
        /// Directory.
        parent: NodeId,
        /// Name of the link.
        name: Name<'a>,
        /// What it points to: any bytes without NUL, up to 4095.
        target: &'a std::ffi::CStr,
        /// Whom it is to belong to.
        owner: Owner,
        /// Label to store with it.
        security: Option<SecurityContext<'a>>,
    }
    /// Make a node that is neither directory nor symbolic link (`FUSE_MKNOD`).
    Mknod<'a> {
        /// Directory.
        parent: NodeId,
        /// Name of the node.
        name: Name<'a>,
        /// Kind and permissions as in `st_mode`; the umask is not applied to it if [`crate::Config`] asked for `DONT_MASK`.
        mode: u32,
        /// Device number, as the kernel packs it, for device nodes.
        rdev: u32,
        /// The caller's umask.
        umask: u32,
        /// Whom it is to belong to.
        owner: Owner,
        /// Label to store with it.
        security: Option<SecurityContext<'a>>,
    }
    /// Make a directory (`FUSE_MKDIR`).
    Mkdir<'a> {
        /// Directory.
        parent: NodeId,
        /// Name of the new one.
        name: Name<'a>,
        /// Permissions; see [`Mknod::mode`].
        mode: u32,
        /// The caller's umask.
        umask: u32,
        /// Whom it is to belong to.
        owner: Owner,
        /// Label to store with it.
        security: Option<SecurityContext<'a>>,
    }
    /// Remove a name that is not a directory's (`FUSE_UNLINK`). The node lives on until it is forgotten.
    Unlink<'a> {
        /// Directory.
        parent: NodeId,
        /// Name in it.
        name: Name<'a>,
    }
    /// Remove an empty directory (`FUSE_RMDIR`).
    Rmdir<'a> {
        /// Directory that holds it.
        parent: NodeId,
        /// Its name.
        name: Name<'a>,
    }
    /// Move a name (`FUSE_RENAME`, `FUSE_RENAME2`).
    Rename<'a> {
        /// Old directory.
        parent: NodeId,
        /// Old name.
        name: Name<'a>,
        /// New directory.
        new_parent: NodeId,
        /// New name.
        new_name: Name<'a>,
        /// `RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT`.
        flags: u32,
        /// Whom the whiteout is to belong to, where one is left behind.
        owner: Owner,
    }
    /// Give a node one name more (`FUSE_LINK`).
    Link<'a> {
        /// The node.
        node: NodeId,
        /// Directory for the name.
        new_parent: NodeId,
        /// The name.
        new_name: Name<'a>,
    }
    /// Make a regular file and open it (`FUSE_CREATE`).
    Create<'a> {
        /// Directory.
        parent: NodeId,
        /// Name of the file. It may exist already unless `flags` have `O_EXCL`.
        name: Name<'a>,
        /// Kind and permissions; see [`Mknod::mode`].
        mode: u32,
        /// The caller's umask.
        umask: u32,
        /// `O_*` flags of `open`.
        flags: u32,
        /// Clear set-user-id, set-group-id and file capabilities, if it exists and is truncated.
        kill_suid_gid: bool,
        /// Whom it is to belong to.
        owner: Owner,
        /// Label to store with it.
        security: Option<SecurityContext<'a>>,
    }
    /// Make a file without a name and open it (`FUSE_TMPFILE`, `O_TMPFILE`).
    Tmpfile<'a> {
        /// Directory on whose filesystem it is to live.
        parent: NodeId,
        /// Kind and permissions; see [`Mknod::mode`].
        mode: u32,
        /// The caller's umask.
        umask: u32,
        /// `O_*` flags of `open`.
        flags: u32,
        /// Whom it is to belong to.
        owner: Owner,
        /// Label to store with it.
        security: Option<SecurityContext<'a>>,
    }
    /// Open a directory (`FUSE_OPENDIR`).
    Opendir {
        /// The directory.
        node: NodeId,
        /// `O_*` flags of `open`.
        flags: u32,
    }
    /// Read directory entries (`FUSE_READDIR`).
    Readdir {
        /// The directory.
        node: NodeId,
        /// As [`Opendir`] was answered.
        handle: Handle,
        /// Where to resume: 0, or the `next` of the last entry taken.
        cookie: u64,
        /// Room for the answer, bytes.
        size: u32,
    }
    /// Read directory entries and look each of them up (`FUSE_READDIRPLUS`).
    Readdirplus {
        /// The directory.
        node: NodeId,
        /// As [`Opendir`] was answered.
        handle: Handle,
        /// Where to resume: 0, or the `next` of the last entry taken.
        cookie: u64,
        /// Room for the answer, bytes.
        size: u32,
    }
    /// The last use of an open directory is over (`FUSE_RELEASEDIR`).
    Releasedir {
        /// The directory.
        node: NodeId,
        /// As [`Opendir`] was answered.
        handle: Handle,
        /// `O_*` flags it was opened with.
        flags: u32,
    }
    /// Write a directory's changes to stable storage (`FUSE_FSYNCDIR`).
    Fsyncdir {
        /// The directory.
        node: NodeId,
        /// As [`Opendir`] was answered.
        handle: Handle,
        /// Content only, not times (`fdatasync`).
        data_only: bool,
    }
}
