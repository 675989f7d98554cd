//! A well-formed request for every row of the operations table.

use fusewire::{
    abi::{self, InHeader, Opcode},
    proto::operations::{Operation, Tail},
};
use zerocopy::IntoBytes;

/// Those whose cost in the core is bounded: requests without data.
pub const SMALL: &[Opcode] = &[
    Opcode::Lookup,
    Opcode::Getattr,
    Opcode::Open,
    Opcode::Release,
    Opcode::Flush,
    Opcode::Forget,
    Opcode::Create,
    Opcode::Unlink,
    Opcode::Setattr,
    Opcode::Rename2,
    Opcode::Getxattr,
];

/// A request in its pieces, to be spoilt.
#[derive(Clone, Debug)]
pub struct Request {
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
    /// In units of 8 bytes.
    pub extensions: u16,
    pub args: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Request {
    /// As it is read from `/dev/fuse`.
    pub fn bytes(&self) -> Vec<u8> {
        let len = (size_of::<InHeader>() + self.args.len() + self.payload.len()) as u32;
        let header = InHeader {
            len,
            opcode: self.opcode,
            unique: self.unique,
            nodeid: self.node,
            uid: 1000,
            gid: 100,
            pid: 4242,
            total_extlen: self.extensions,
            padding: 0,
        };
        [header.as_bytes(), &self.args, &self.payload].concat()
    }

    pub fn set_u32(&mut self, at: usize, value: u32) {
        self.args[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    pub fn set_u64(&mut self, at: usize, value: u64) {
        self.args[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }

    fn count(&mut self, at: usize, value: usize) {
        self.set_u32(at, value as u32);
    }
}

pub const NAME: &[u8] = b"name\0";
pub const DATA: &[u8] = b"0123456789";

/// One supplementary group.
pub fn groups() -> Vec<u8> {
    let head = abi::ExtHeader { size: 16, typ: abi::EXT_GROUPS };
    [head.as_bytes(), 1u32.as_bytes(), 77u32.as_bytes()].concat()
}

/// One security label: `security.x` = `label`.
pub fn label() -> Vec<u8> {
    let head = abi::SecctxHeader { size: 32, nr_secctx: 1 };
    let context = abi::Secctx { size: 5, padding: 0 };
    [head.as_bytes(), context.as_bytes(), b"security.x\0label"].concat()
}

/// Where, in the arguments, nodes stand: each must not be 0.
pub fn nodes(opcode: Opcode) -> Option<usize> {
    match opcode {
        Opcode::Link | Opcode::Rename | Opcode::Rename2 => Some(0),
        Opcode::CopyFileRange | Opcode::CopyFileRange64 => Some(16),
        _ => None,
    }
}

/// Where, in the arguments, the length of the data or the number of entries stands.
pub fn size_field(opcode: Opcode) -> Option<usize> {
    match opcode {
        Opcode::Write | Opcode::NotifyReply => Some(16),
        Opcode::Setxattr | Opcode::BatchForget | Opcode::Removemapping => Some(0),
        Opcode::Ioctl => Some(24),
        _ => None,
    }
}

/// Does this operation concern a node, which the header names?
pub fn has_node(opcode: Opcode) -> bool {
    !matches!(opcode, Opcode::BatchForget | Opcode::Interrupt | Opcode::Destroy | Opcode::Init)
}

/// A request that every check lets pass.
pub fn sample(row: &Operation) -> Request {
    let payload = match row.tail {
        Tail::None => Vec::new(),
        Tail::Name | Tail::NameAndExtensions => NAME.to_vec(),
        Tail::TwoNames => [NAME, b"other\0"].concat(),
        Tail::NameAndTarget => [NAME, b"../target/\0"].concat(),
        Tail::Attribute => b"user.x\0".to_vec(),
        Tail::AttributeAndValue => [b"user.x\0", DATA].concat(),
        Tail::Data => DATA.to_vec(),
        Tail::Array => [5u64, 1, 6, 2].as_bytes().to_vec(),
    };
    let node = if has_node(row.opcode) { 3 } else { 0 };
    let mut request = Request {
        opcode: row.opcode as u32,
        unique: 8,
        node,
        extensions: 0,
        args: vec![0; row.args],
        payload,
    };
    if let Some(at) = nodes(row.opcode) {
        request.set_u64(at, 4);
    }
    if let Some(at) = size_field(row.opcode) {
        request.count(at, if row.tail == Tail::Array { 2 } else { DATA.len() });
    }
    match row.opcode {
        Opcode::Read | Opcode::Readdir | Opcode::Readdirplus => request.count(16, 4096),
        Opcode::Getxattr | Opcode::Listxattr => request.count(0, 4096),
        Opcode::Interrupt => request.set_u64(0, 6),
        _ => {}
    }
    request
}
