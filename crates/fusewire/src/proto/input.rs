//! The pieces of a message on their way into an operation: what is taken from them, and refused.

use super::{
    message::Message,
    op::SecurityContext,
    operations::{Operation, Tail},
};
use crate::{limits, reply::Source, types::*};
use fusewire_abi::{self as abi, Opcode};
use std::ffi::CStr;
use zerocopy::FromBytes;

/// What is left of a message. Whatever is `None` is not what the protocol says.
pub(crate) struct Input<'m, 'a> {
    /// What is answered in that case.
    pub errno: Errno,
    message: &'m Message<'a>,
    rest: &'a [u8],
    extensions: &'a [u8],
}

impl<'m, 'a> Input<'m, 'a> {
    /// All of it. `None` for extensions where there can be none.
    #[inline(always)]
    pub fn new(message: &'m Message<'a>) -> Option<Self> {
        let (rest, extensions) = match message.header.total_extlen {
            0 => (message.payload, &[][..]),
            _ => split_extensions(message)?,
        };
        Some(Self { errno: Errno::INVAL, message, rest, extensions })
    }

    /// Nothing is left.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Not what the protocol says, and answered with another errno than `INVAL`.
    #[cold]
    pub fn refuse<T>(&mut self, errno: Errno) -> Option<T> {
        self.errno = errno;
        None
    }

    /// Is it of this opcode?
    #[inline]
    pub fn is(&self, opcode: Opcode) -> bool {
        self.message.header.opcode == opcode as u32
    }

    /// The request's number.
    #[inline]
    pub fn unique(&self) -> u64 {
        self.message.header.unique
    }

    /// The node in the header.
    #[inline(always)]
    pub fn node(&self) -> Option<NodeId> {
        NodeId::from_raw(self.message.header.nodeid)
    }

    /// Whom the header names, without a supplementary group.
    #[inline]
    pub fn caller(&self) -> Owner {
        Owner { uid: self.message.header.uid, gid: self.message.header.gid, supplementary: None }
    }

    /// The fixed arguments: neither short nor long.
    #[inline(always)]
    pub fn args<T: FromBytes>(&self) -> Option<T> {
        T::read_from_bytes(self.message.args).ok()
    }

    /// The next string, of at most `max` bytes.
    #[inline]
    pub fn string(&mut self, max: usize) -> Option<&'a CStr> {
        self.string_or(max, Errno::NAMETOOLONG)
    }

    #[inline]
    fn string_or(&mut self, max: usize, too_long: Errno) -> Option<&'a CStr> {
        let string = CStr::from_bytes_until_nul(self.rest).ok()?;
        if string.count_bytes() > max {
            return self.refuse(too_long);
        }
        self.rest = &self.rest[string.count_bytes() + 1..];
        Some(string)
    }

    /// The next name of a node.
    #[inline]
    pub fn name(&mut self) -> Option<Name<'a>> {
        Name::new(self.string(limits::NAME_MAX)?)
    }

    /// The next name of an extended attribute.
    #[inline]
    pub fn attribute(&mut self) -> Option<&'a CStr> {
        self.string_or(limits::XATTR_NAME_MAX, Errno::RANGE).filter(|name| !name.is_empty())
    }

    /// Exactly `size` bytes, which are all that is left.
    #[inline]
    pub fn data(&mut self, size: usize) -> Option<&'a [u8]> {
        Some(std::mem::take(&mut self.rest)).filter(|data| data.len() == size)
    }

    /// The same, wherever they are.
    #[inline]
    pub fn source(&mut self, size: usize) -> Option<Source<'a>> {
        match self.message.pages {
            Some(pages) => (pages.len() == size).then(|| Source::in_pages(pages)),
            None => self.data(size).map(Source::new),
        }
    }

    /// Owner and label of a new node.
    #[inline]
    pub fn created(&mut self) -> Option<(Owner, Option<SecurityContext<'a>>)> {
        let owner = self.caller();
        if self.extensions.is_empty() { Some((owner, None)) } else { extended(owner, self.extensions) }
    }
}

/// The payload up to its extensions, and those.
#[cold]
fn split_extensions<'a>(message: &Message<'a>) -> Option<(&'a [u8], &'a [u8])> {
    let can_have = Operation::of(message.header.opcode)
        .is_some_and(|row| matches!(row.tail, Tail::NameAndExtensions | Tail::NameAndTarget));
    let size = usize::from(message.header.total_extlen) * 8;
    let border = message.payload.len().checked_sub(size).filter(|_| can_have)?;
    Some(message.payload.split_at(border))
}

/// Owner and label of a new node, as extensions have them.
fn extended(mut owner: Owner, mut rest: &[u8]) -> Option<(Owner, Option<SecurityContext<'_>>)> {
    let mut security = None;
    while !rest.is_empty() {
        let (head, _) = abi::ExtHeader::read_from_prefix(rest).ok()?;
        let size = head.size as usize;
        if size < size_of::<abi::ExtHeader>() || size > rest.len() {
            return None;
        }
        let (extension, next) = rest.split_at(size);
        rest = next;
        match head.typ {
            abi::EXT_GROUPS => owner.supplementary = supplementary(extension)?,
            n if n <= abi::MAX_NR_SECCTX => security = label(extension)?,
            _ => {}
        }
    }
    Some((owner, security))
}

fn supplementary(extension: &[u8]) -> Option<Option<u32>> {
    let groups = &extension[size_of::<abi::ExtHeader>()..];
    let (count, groups) = u32::read_from_prefix(groups).ok()?;
    if groups.len() / size_of::<u32>() < count as usize {
        return None;
    }
    // The kernel sends one at most: the group of the parent directory.
    Some((count > 0).then(|| u32::read_from_prefix(groups).ok().map(|(group, _)| group)).flatten())
}

fn label(extension: &[u8]) -> Option<Option<SecurityContext<'_>>> {
    let rest = &extension[size_of::<abi::SecctxHeader>()..];
    if rest.is_empty() {
        return Some(None);
    }
    let (head, rest) = abi::Secctx::read_from_prefix(rest).ok()?;
    let name = CStr::from_bytes_until_nul(rest).ok()?;
    let value = rest.get(name.count_bytes() + 1..).and_then(|rest| rest.get(..head.size as usize));
    Some(Some(SecurityContext { name, value: value? }))
}
