//! Extensions: records after the arguments of requests that create inodes.
//!
//! They are the last [`InHeader::total_extlen`](crate::InHeader::total_extlen) × 8 bytes of the request.
//! Names before them are not padded, so they may start at any offset; each of them is padded to 8 bytes. Each
//! begins with an [`ExtHeader`]. A `typ` up to [`MAX_NR_SECCTX`] is not a type: it is the count of a
//! [`SecctxHeader`], which has the same shape. Before protocol 7.38 `total_extlen` is 0 even if a security
//! context follows the name.

wire! {
    /// `struct fuse_ext_header`: starts an extension.
    struct ExtHeader: "fuse_ext_header" = 8 {
        /// Length of the extension in bytes: this header, contents and padding to 8.
        0 => size: u32,
        /// [`EXT_GROUPS`]; up to [`MAX_NR_SECCTX`] this is a [`SecctxHeader`].
        4 => typ: u32,
    }

    /// `struct fuse_supp_groups`: starts the contents of [`EXT_GROUPS`]. Then `nr_groups` group ids, `u32`
    /// each. Linux sends at most one: the group of the parent directory, if the caller is a member.
    struct SuppGroups: "fuse_supp_groups" = 4 {
        /// Number of group ids that follow.
        0 => nr_groups: u32,
    }

    /// `struct fuse_secctx_header`: starts the security contexts, if [`crate::InitFlags::SECURITY_CTX`] was
    /// agreed.
    struct SecctxHeader: "fuse_secctx_header" = 8 {
        /// Length in bytes: this header, all contexts and padding to 8.
        0 => size: u32,
        /// How many [`Secctx`] follow; may be 0.
        4 => nr_secctx: u32,
    }

    /// `struct fuse_secctx`: one security context. Then the NUL-terminated name of the extended attribute and
    /// `size` bytes of its value.
    struct Secctx: "fuse_secctx" = 8 {
        /// Length of the value in bytes.
        0 => size: u32,
        /// Zero.
        4 => padding: u32,
    }
}

/// The largest count of security contexts, and so the largest [`ExtHeader::typ`] that is a count.
pub const MAX_NR_SECCTX: u32 = 31;
/// [`ExtHeader::typ`] of supplementary groups, if [`crate::InitFlags::CREATE_SUPP_GROUP`] was agreed.
pub const EXT_GROUPS: u32 = 32;

/// Rounds a length up to the 8 bytes to which extensions and directory entries are padded.
pub const fn rec_align(len: usize) -> usize {
    len.next_multiple_of(8)
}
