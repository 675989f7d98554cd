//! A request as a channel delivers it: three pieces, never one flat buffer.

use super::operations::Operation;
use crate::{
    pages::{Pages, Segments},
    types::{Caller, Errno, Result},
};
use fusewire_abi::{InHeader, InitFlags, Opcode, SetxattrInCompat};
use zerocopy::FromBytes;

/// A request: header, fixed arguments, and what follows them.
///
/// io_uring and virtio deliver it so; for `/dev/fuse` [`Message::split`] finds the borders.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Header: which operation, on which node, by whom.
    pub header: InHeader,
    /// The operation's fixed arguments.
    pub args: &'a [u8],
    /// Names, data, extensions.
    pub payload: &'a [u8],
    /// The client's pages, if its data is there and not in `payload`, or has to go there and not into the answer.
    pub(crate) pages: Option<Pages<'a>>,
}

impl<'a> Message<'a> {
    /// A request of these pieces.
    pub const fn new(header: InHeader, args: &'a [u8], payload: &'a [u8]) -> Self {
        Self { header, args, payload, pages: None }
    }

    /// The same request, whose data is in memory shared with a guest, `len` bytes from byte `from` on, and not in the payload: what
    /// a WRITE brings, or where what a READ asks for goes.
    pub fn shared(self, segments: &'a Segments, from: usize, len: usize) -> Self {
        let len = len.min(segments.len().saturating_sub(from));
        Self { pages: Some(Pages::Shared { segments, from, len }), ..self }
    }

    /// The pieces of a request that came as one run of bytes. Nothing is copied but the header.
    ///
    /// `INVAL` where the bytes are not a whole request, or its arguments are short.
    #[inline]
    pub fn split(bytes: &'a [u8], agreed: InitFlags) -> Result<Self> {
        let (header, rest) = InHeader::read_from_prefix(bytes).map_err(|_| Errno::INVAL)?;
        if header.len as usize != bytes.len() {
            return Err(Errno::INVAL);
        }
        let args = match Operation::of(header.opcode) {
            Some(row) => Self::args_len(row, agreed).min(rest.len()),
            None => 0,
        };
        let (args, payload) = rest.split_at(args);
        Ok(Self::new(header, args, payload))
    }

    /// How long the fixed arguments are: before `SETXATTR_EXT` those of SETXATTR were shorter.
    #[inline]
    pub fn args_len(row: &Operation, agreed: InitFlags) -> usize {
        if row.opcode == Opcode::Setxattr && !agreed.contains(InitFlags::SETXATTR_EXT) {
            return size_of::<SetxattrInCompat>();
        }
        row.args
    }

    /// Who asks; `None` where the kernel withholds it.
    #[inline]
    pub fn caller(&self) -> Option<Caller> {
        let InHeader { uid, gid, pid, .. } = self.header;
        (uid != u32::MAX && gid != u32::MAX).then_some(Caller { uid, gid, pid })
    }
}
