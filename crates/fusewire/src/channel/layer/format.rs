//! The format of a recording.
//!
//! ```text
//! file   = FileHead record*
//! record = RecordHead body          RecordHead::len counts itself and the body
//! body   = a request as it is read from /dev/fuse: fuse_in_header, arguments, payload    kind Request
//!        | an answer as it is written to /dev/fuse: fuse_out_header, data                kind Answer
//!        | the same, header alone: a request was served that has no answer               kind Served
//!        | nothing: the limit was reached, nothing further was recorded                  kind Full
//! ```
//!
//! Records stand in the order in which things happened: a request when it was received, an answer before it was sent.
//! Integers have the byte order of the machine, as in the protocol itself; a file from a machine of the other order is
//! told by its magic number. A file may end in the middle of a record if the recorder was killed.

use fusewire_abi::OutHeader;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`FileHead::magic`]: `FUSEWREC`, the first letter in the highest byte.
pub const FILE_MAGIC: u64 = u64::from_be_bytes(*b"FUSEWREC");

/// [`FileHead::version`] of the format described here.
pub const FILE_VERSION: u32 = 1;

/// How a recording begins: the format's version and what was agreed on at INIT.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FileHead {
    /// [`FILE_MAGIC`].
    pub magic: u64,
    /// [`FILE_VERSION`].
    pub version: u32,
    /// Minor version of the protocol.
    pub minor: u32,
    /// Features agreed on, as in [`InitFlags`](fusewire_abi::InitFlags).
    pub features: u64,
    /// Largest write, bytes.
    pub max_write: u32,
    /// Largest request in pages.
    pub max_pages: u32,
}

/// Starts a record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RecordHead {
    /// Length of the record, bytes, this head included.
    pub len: u32,
    /// One of [`RecordKind`].
    pub kind: u32,
    /// Nanoseconds since the recording began.
    pub nanos: u64,
}

/// [`RecordHead::kind`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A request came.
    Request = 1,
    /// A request was answered.
    Answer = 2,
    /// A request was served that has no answer.
    Served = 3,
    /// The limit was reached.
    Full = 4,
}

impl RecordKind {
    /// From the file.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Request,
            2 => Self::Answer,
            3 => Self::Served,
            4 => Self::Full,
            _ => return None,
        })
    }
}

/// Starts the body of [`RecordKind::Answer`] and [`RecordKind::Served`].
pub type AnswerHead = OutHeader;
