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

/// What is left of a message.
pub(crate) struct Input<'m, 'a> {
    message: &'m Message<'a>,
    rest: &'a [u8],
    extensions: &'a [u8],
}

impl<'m, 'a> Input<'m, 'a> {
    /// All of it. `INVAL` for extensions where there can be none.
    #[inline(always)]
    pub fn new(message: &'m Message<'a>) -> Result<Self> {
        let (rest, extensions) = match message.header.total_extlen {
            0 => (message.payload, &[][..]),
            _ => split_extensions(message)?,
        };
        Ok(Self { message, rest, extensions })
    }

    /// Nothing is left.
    #[inline(always)]
    pub fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(Errno::INVAL) }
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
    pub fn node(&self) -> Result<NodeId> {
        NodeId::from_raw(self.message.header.nodeid).ok_or(Errno::INVAL)
    }

    /// Whom the header names, without a supplementary group.
    #[inline]
    pub fn caller(&self) -> Owner {
        Owner { uid: self.message.header.uid, gid: self.message.header.gid, supplementary: None }
    }

    /// The fixed arguments: neither short nor long.
    #[inline(always)]
    pub fn args<T: FromBytes>(&self) -> Result<T> {
        T::read_from_bytes(self.message.args).map_err(|_| Errno::INVAL)
    }

    /// The next string, of at most `max` bytes.
    #[inline]
    pub fn string(&mut self, max: usize) -> Result<&'a CStr> {
        let string = CStr::from_bytes_until_nul(self.rest).map_err(|_| Errno::INVAL)?;
        if string.count_bytes() > max {
            return Err(Errno::NAMETOOLONG);
        }
        self.rest = &self.rest[string.count_bytes() + 1..];
        Ok(string)
    }

    /// The next name of a node.
    #[inline]
    pub fn name(&mut self) -> Result<Name<'a>> {
        Name::new(self.string(limits::NAME_MAX)?).ok_or(Errno::INVAL)
    }

    /// The next name of an extended attribute.
    #[inline]
    pub fn attribute(&mut self) -> Result<&'a CStr> {
        let name = self
            .string(limits::XATTR_NAME_MAX)
            .map_err(|e| if e == Errno::NAMETOOLONG { Errno::RANGE } else { e })?;
        if name.is_empty() { Err(Errno::INVAL) } else { Ok(name) }
    }

    /// Exactly `size` bytes, which are all that is left.
    #[inline]
    pub fn data(&mut self, size: usize) -> Result<&'a [u8]> {
        let data = std::mem::take(&mut self.rest);
        if data.len() == size { Ok(data) } else { Err(Errno::INVAL) }
    }

    /// The same, wherever they are.
    #[inline]
    pub fn source(&mut self, size: usize) -> Result<Source<'a>> {
        match self.message.pages {
            Some(pages) if pages.len() == size => Ok(Source::in_pages(pages)),
            Some(_) => Err(Errno::INVAL),
            None => self.data(size).map(Source::new),
        }
    }

    /// Owner and label of a new node.
    #[inline]
    pub fn created(&mut self) -> Result<(Owner, Option<SecurityContext<'a>>)> {
        let owner = self.caller();
        if self.extensions.is_empty() { Ok((owner, None)) } else { extended(owner, self.extensions) }
    }
}

/// The payload up to its extensions, and those.
#[cold]
fn split_extensions<'a>(message: &Message<'a>) -> Result<(&'a [u8], &'a [u8])> {
    let can_have = Operation::of(message.header.opcode)
        .is_some_and(|row| matches!(row.tail, Tail::NameAndExtensions | Tail::NameAndTarget));
    let size = usize::from(message.header.total_extlen) * 8;
    let border = message.payload.len().checked_sub(size).filter(|_| can_have).ok_or(Errno::INVAL)?;
    Ok(message.payload.split_at(border))
}

/// Owner and label of a new node, as extensions have them.
fn extended(mut owner: Owner, mut rest: &[u8]) -> Result<(Owner, Option<SecurityContext<'_>>)> {
    let mut security = None;
    while !rest.is_empty() {
        let (head, _) = abi::ExtHeader::read_from_prefix(rest).map_err(|_| Errno::INVAL)?;
        let size = head.size as usize;
        if size < size_of::<abi::ExtHeader>() || size > rest.len() {
            return Err(Errno::INVAL);
        }
        let (extension, next) = rest.split_at(size);
        rest = next;
        match head.typ {
            abi::EXT_GROUPS => owner.supplementary = supplementary(extension)?,
            n if n <= abi::MAX_NR_SECCTX => security = label(extension)?,
            _ => {}
        }
    }
    Ok((owner, security))
}

fn supplementary(extension: &[u8]) -> Result<Option<u32>> {
    let groups = &extension[size_of::<abi::ExtHeader>()..];
    let (count, groups) = u32::read_from_prefix(groups).map_err(|_| Errno::INVAL)?;
    if groups.len() / size_of::<u32>() < count as usize {
        return Err(Errno::INVAL);
    }
    // The kernel sends one at most: the group of the parent directory.
    Ok((count > 0).then(|| u32::read_from_prefix(groups).ok().map(|(group, _)| group)).flatten())
}

fn label(extension: &[u8]) -> Result<Option<SecurityContext<'_>>> {
    let rest = &extension[size_of::<abi::SecctxHeader>()..];
    if rest.is_empty() {
        return Ok(None);
    }
    let (head, rest) = abi::Secctx::read_from_prefix(rest).map_err(|_| Errno::INVAL)?;
    let name = CStr::from_bytes_until_nul(rest).map_err(|_| Errno::INVAL)?;
    let value = rest.get(name.count_bytes() + 1..).and_then(|rest| rest.get(..head.size as usize));
    Ok(Some(SecurityContext { name, value: value.ok_or(Errno::INVAL)? }))
}
