//! Sizes and offsets of every wire structure as data, for comparing them with a C header or printing them.

/// The layout of one structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Name in this crate.
    pub name: &'static str,
    /// C tag without `struct`; empty for a structure that has no tag in C.
    pub c_name: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Fields in memory order, without gaps.
    pub fields: &'static [Field],
}

/// One field of a [`Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in this crate: the C name, with `typ` for `type` and without leading underscores.
    pub name: &'static str,
    /// Distance from the start of the structure, in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// Every structure of this crate.
///
/// A C tag may occur twice, where a structure has two forms: `fuse_setxattr_in` and `fuse_uring_cmd_req`.
pub fn all() -> impl Iterator<Item = &'static Layout> {
    [
        crate::header::LAYOUTS,
        crate::init::LAYOUTS,
        crate::request::LAYOUTS,
        crate::reply::LAYOUTS,
        crate::notify::LAYOUTS,
        crate::ext::LAYOUTS,
        crate::uring::LAYOUTS,
        crate::device::LAYOUTS,
        crate::virtio::LAYOUTS,
    ]
    .into_iter()
    .flatten()
}
