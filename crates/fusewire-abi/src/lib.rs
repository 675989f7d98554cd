//! The Linux FUSE wire protocol, version 7.46: every structure, opcode, notification code and flag that a
//! kernel and a FUSE server exchange, and nothing else. No I/O, no allocation, no `unsafe`, no `std`.
//!
//! # What a message looks like
//!
//! ```text
//! request:  InHeader | operation's ...In structure | names, data, extensions
//! reply:    OutHeader | operation's ...Out structure | data
//! notify:   OutHeader (unique 0, error = notification code) | Notify...Out | names, data
//! ```
//!
//! Through `/dev/fuse` the parts of one message follow each other without gaps; through FUSE-over-io_uring
//! and virtio-fs they arrive in separate buffers (see [`UringReqHeader`]). Integers are in the byte order of
//! the machine that runs the client kernel. Structures have no implicit padding, so any byte string of the
//! right length is a valid value and every value may be written out without leaking memory.
//!
//! # Names
//!
//! A structure is called like its C counterpart without `fuse_`: `struct fuse_in_header` is [`InHeader`].
//! Fields keep their C names, except that `type` is `typ` and leading underscores are dropped. Flag words
//! stay plain integers in the structures (a newer kernel may set bits that this crate does not know) and are
//! turned into the types of [`flags`] with `from_bits_retain`.
//!
//! ```
//! use fusewire_abi::{InHeader, Opcode};
//! use zerocopy::{FromBytes, IntoBytes};
//!
//! let opcode = Opcode::Statfs as u32;
//! let sent = InHeader { len: 40, opcode, unique: 2, nodeid: 1, ..InHeader::default() };
//! let (header, rest) = InHeader::read_from_prefix(sent.as_bytes()).unwrap();
//! assert_eq!(Opcode::from_raw(header.opcode), Some(Opcode::Statfs));
//! assert!(rest.is_empty());
//! ```
//!
//! # Compatibility
//!
//! The structures have the form of protocol 7.46. Servers for older kernels meet shorter forms: the
//! `COMPAT_*` constants give their lengths, [`SetxattrInCompat`] and [`UringCmdReqV45`] are the two that are
//! still current on new kernels when the matching INIT flag was not agreed.
//!
//! Sizes and offsets are asserted at compile time, and [`layout`] describes them as data; the test
//! `tests/header.rs` compares that description with the C compiler's view of the installed `linux/fuse.h`.

#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod wire;

pub mod device;
pub mod ext;
pub mod flags;
pub mod header;
pub mod init;
pub mod layout;
pub mod notify;
pub mod opcode;
pub mod reply;
pub mod request;
pub mod uring;
pub mod virtio;

pub use device::*;
pub use ext::*;
pub use flags::*;
pub use header::*;
pub use init::*;
pub use notify::*;
pub use opcode::Opcode;
pub use reply::*;
pub use request::*;
pub use uring::*;
pub use virtio::*;
