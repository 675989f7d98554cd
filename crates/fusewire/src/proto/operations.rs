//! The operations table: everything that is to be known about an opcode, in one row.
//!
//! Decoding, length checks, counters, trace lines and `docs/opcodes.md` all read it. A new opcode is a row here, a
//! struct in [`op`](super::op), an arm in decode and dispatch, and a method of the trait.

use fusewire_abi::{self as abi, Opcode};

/// What follows the fixed-size arguments of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    None,
    /// One component of a path.
    Name,
    /// A component, and possibly extensions (security label, supplementary group).
    NameAndExtensions,
    /// Two components.
    TwoNames,
    /// A component, then a string that may hold anything (the target of a symbolic link), possibly extensions.
    NameAndTarget,
    /// Name of an extended attribute.
    Attribute,
    /// Name of an extended attribute and its value.
    AttributeAndValue,
    /// Bytes.
    Data,
    /// Array of structures.
    Array,
}

impl Tail {
    /// As `docs/opcodes.md` puts it.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Name => "name",
            Self::NameAndExtensions => "name, extensions",
            Self::TwoNames => "name, name",
            Self::NameAndTarget => "name, target, extensions",
            Self::Attribute => "attribute",
            Self::AttributeAndValue => "attribute, value",
            Self::Data => "data",
            Self::Array => "array",
        }
    }
}

/// What the answer consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is none.
    None,
    /// The header alone.
    Empty,
    /// A structure of this many bytes.
    Fixed(usize),
    /// As many bytes as the request asked for, or fewer.
    Data,
}

/// What the kernel does once an operation was answered `ENOSYS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// Passes the error on, and asks again the next time.
    Error,
    /// Never asks again on this mount, and does this instead.
    Never(&'static str),
    /// Does not apply.
    Unused,
}

/// One row: an operation as the wire has it.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Number and name.
    pub opcode: Opcode,
    /// Size of the fixed arguments, bytes.
    pub args: usize,
    /// What follows them.
    pub tail: Tail,
    /// What is answered.
    pub answer: Answer,
    /// What `ENOSYS` does.
    pub unsupported: Unsupported,
    /// What it is for.
    pub about: &'static str,
}

const fn row(
    opcode: Opcode,
    args: usize,
    tail: Tail,
    answer: Answer,
    unsupported: Unsupported,
    about: &'static str,
) -> Operation {
    Operation { opcode, args, tail, answer, unsupported, about }
}

use Unsupported::{Error, Never, Unused};
const ENTRY: Answer = Answer::Fixed(size_of::<abi::EntryOut>());
const ATTR: Answer = Answer::Fixed(size_of::<abi::AttrOut>());
const OPENED: Answer = Answer::Fixed(size_of::<abi::OpenOut>());
const CREATED: Answer = Answer::Fixed(size_of::<abi::EntryOut>() + size_of::<abi::OpenOut>());
const WRITTEN: Answer = Answer::Fixed(size_of::<abi::WriteOut>());

/// All operations, in the order of their numbers.
#[rustfmt::skip]
pub static OPERATIONS: [Operation; 51] = [
    row(Opcode::Lookup, 0, Tail::Name, ENTRY, Error, "resolve a name"),
    row(Opcode::Forget, size_of::<abi::ForgetIn>(), Tail::None, Answer::None, Unused, "lower a node's lookup count"),
    row(Opcode::Getattr, size_of::<abi::GetattrIn>(), Tail::None, ATTR, Error, "read attributes"),
    row(Opcode::Setattr, size_of::<abi::SetattrIn>(), Tail::None, ATTR, Error, "change attributes"),
    row(Opcode::Readlink, 0, Tail::None, Answer::Data, Error, "read a symbolic link"),
    row(Opcode::Symlink, 0, Tail::NameAndTarget, ENTRY, Error, "make a symbolic link"),
    row(Opcode::Mknod, size_of::<abi::MknodIn>(), Tail::NameAndExtensions, ENTRY, Error, "make a file, FIFO, socket or device"),
    row(Opcode::Mkdir, size_of::<abi::MkdirIn>(), Tail::NameAndExtensions, ENTRY, Error, "make a directory"),
    row(Opcode::Unlink, 0, Tail::Name, Answer::Empty, Error, "remove a name"),
    row(Opcode::Rmdir, 0, Tail::Name, Answer::Empty, Error, "remove a directory"),
    row(Opcode::Rename, size_of::<abi::RenameIn>(), Tail::TwoNames, Answer::Empty, Error, "move a name"),
    row(Opcode::Link, size_of::<abi::LinkIn>(), Tail::Name, ENTRY, Never("links fail with EPERM (6.17+)"), "add a name"),
    row(Opcode::Open, size_of::<abi::OpenIn>(), Tail::None, OPENED, Never("opens everything itself, handle 0, keeps the cache, never releases"), "open a file"),
    row(Opcode::Read, size_of::<abi::ReadIn>(), Tail::None, Answer::Data, Error, "read bytes"),
    row(Opcode::Write, size_of::<abi::WriteIn>(), Tail::Data, WRITTEN, Error, "write bytes"),
    row(Opcode::Statfs, 0, Tail::None, Answer::Fixed(size_of::<abi::StatfsOut>()), Error, "state of the filesystem"),
    row(Opcode::Release, size_of::<abi::ReleaseIn>(), Tail::None, Answer::Empty, Error, "end of an open file"),
    row(Opcode::Fsync, size_of::<abi::FsyncIn>(), Tail::None, Answer::Empty, Never("fsync succeeds"), "write a file to stable storage"),
    row(Opcode::Setxattr, size_of::<abi::SetxattrIn>(), Tail::AttributeAndValue, Answer::Empty, Never("EOPNOTSUPP"), "set an extended attribute"),
    row(Opcode::Getxattr, size_of::<abi::GetxattrIn>(), Tail::Attribute, Answer::Data, Never("EOPNOTSUPP"), "read an extended attribute"),
    row(Opcode::Listxattr, size_of::<abi::GetxattrIn>(), Tail::None, Answer::Data, Never("EOPNOTSUPP"), "list extended attributes"),
    row(Opcode::Removexattr, 0, Tail::Attribute, Answer::Empty, Never("EOPNOTSUPP"), "remove an extended attribute"),
    row(Opcode::Flush, size_of::<abi::FlushIn>(), Tail::None, Answer::Empty, Never("close succeeds"), "a descriptor was closed"),
    row(Opcode::Init, 16, Tail::Data, Answer::Fixed(size_of::<abi::InitOut>()), Unused, "negotiate"),
    row(Opcode::Opendir, size_of::<abi::OpenIn>(), Tail::None, OPENED, Never("opens directories itself and caches listings"), "open a directory"),
    row(Opcode::Readdir, size_of::<abi::ReadIn>(), Tail::None, Answer::Data, Error, "read directory entries"),
    row(Opcode::Releasedir, size_of::<abi::ReleaseIn>(), Tail::None, Answer::Empty, Error, "end of an open directory"),
    row(Opcode::Fsyncdir, size_of::<abi::FsyncIn>(), Tail::None, Answer::Empty, Never("fsync succeeds"), "write a directory to stable storage"),
    row(Opcode::Getlk, size_of::<abi::LkIn>(), Tail::None, Answer::Fixed(size_of::<abi::LkOut>()), Error, "find a conflicting lock"),
    row(Opcode::Setlk, size_of::<abi::LkIn>(), Tail::None, Answer::Empty, Error, "set or drop a lock"),
    row(Opcode::Setlkw, size_of::<abi::LkIn>(), Tail::None, Answer::Empty, Error, "wait for a lock"),
    row(Opcode::Access, size_of::<abi::AccessIn>(), Tail::None, Answer::Empty, Never("everything is permitted"), "check permission"),
    row(Opcode::Create, size_of::<abi::CreateIn>(), Tail::NameAndExtensions, CREATED, Never("uses MKNOD and OPEN"), "make and open a file"),
    row(Opcode::Interrupt, size_of::<abi::InterruptIn>(), Tail::None, Answer::None, Never("signals no longer reach the filesystem"), "the caller was interrupted"),
    row(Opcode::Bmap, size_of::<abi::BmapIn>(), Tail::None, Answer::Fixed(size_of::<abi::BmapOut>()), Never("FIBMAP fails"), "map a block to the device"),
    row(Opcode::Destroy, 0, Tail::None, Answer::Empty, Unused, "the end (fuseblk and virtio-fs only)"),
    row(Opcode::Ioctl, size_of::<abi::IoctlIn>(), Tail::Data, Answer::Data, Error, "carry out a command"),
    row(Opcode::Poll, size_of::<abi::PollIn>(), Tail::None, Answer::Fixed(size_of::<abi::PollOut>()), Never("files are always ready"), "which events are ready"),
    row(Opcode::NotifyReply, size_of::<abi::NotifyRetrieveIn>(), Tail::Data, Answer::None, Unused, "page-cache content asked for"),
    row(Opcode::BatchForget, size_of::<abi::BatchForgetIn>(), Tail::Array, Answer::None, Unused, "lower many lookup counts"),
    row(Opcode::Fallocate, size_of::<abi::FallocateIn>(), Tail::None, Answer::Empty, Never("EOPNOTSUPP"), "reserve, free or move space"),
    row(Opcode::Readdirplus, size_of::<abi::ReadIn>(), Tail::None, Answer::Data, Error, "read directory entries with attributes"),
    row(Opcode::Rename2, size_of::<abi::Rename2In>(), Tail::TwoNames, Answer::Empty, Never("renames with flags fail with EINVAL"), "move a name, with flags"),
    row(Opcode::Lseek, size_of::<abi::LseekIn>(), Tail::None, Answer::Fixed(size_of::<abi::LseekOut>()), Never("files have no holes"), "find data or a hole"),
    row(Opcode::CopyFileRange, size_of::<abi::CopyFileRangeIn>(), Tail::None, WRITTEN, Never("copies through the page cache"), "copy between files"),
    row(Opcode::Setupmapping, size_of::<abi::SetupmappingIn>(), Tail::None, Answer::Empty, Error, "map into the DAX window"),
    row(Opcode::Removemapping, size_of::<abi::RemovemappingIn>(), Tail::Array, Answer::Empty, Error, "unmap from the DAX window"),
    row(Opcode::Syncfs, size_of::<abi::SyncfsIn>(), Tail::None, Answer::Empty, Never("sync succeeds"), "write everything to stable storage"),
    row(Opcode::Tmpfile, size_of::<abi::CreateIn>(), Tail::NameAndExtensions, CREATED, Never("EOPNOTSUPP"), "make a file without a name"),
    row(Opcode::Statx, size_of::<abi::StatxIn>(), Tail::None, Answer::Fixed(size_of::<abi::StatxOut>()), Never("uses GETATTR; no birth time"), "read extended attributes of stat"),
    row(Opcode::CopyFileRange64, size_of::<abi::CopyFileRangeIn>(), Tail::None, Answer::Fixed(size_of::<abi::CopyFileRangeOut>()), Never("uses COPY_FILE_RANGE"), "copy between files, 64-bit count"),
];

/// One more than the largest opcode in the table.
const OPCODES: usize = 54;

/// Where the row of an opcode is; `NO_ROW` where there is none.
static INDEX: [u8; OPCODES] = {
    let mut index = [NO_ROW; OPCODES];
    let mut i = 0;
    while i < OPERATIONS.len() {
        index[OPERATIONS[i].opcode as usize] = i as u8;
        i += 1;
    }
    index
};
const NO_ROW: u8 = u8::MAX;

impl Operation {
    /// The row of an opcode as it stands in a request's header; `None` for what is not known.
    #[inline]
    pub fn of(opcode: u32) -> Option<&'static Self> {
        Self::index_of(opcode).map(|index| &OPERATIONS[index])
    }

    /// The row's place in [`OPERATIONS`].
    #[inline]
    pub(crate) fn index_of(opcode: u32) -> Option<usize> {
        let &index = INDEX.get(opcode as usize)?;
        (index != NO_ROW).then_some(index as usize)
    }

    /// Most bytes an answer can have, without its header; `usize::MAX` where that depends on the request.
    #[inline]
    pub fn answer_size(&self) -> usize {
        match self.answer {
            Answer::None | Answer::Empty => 0,
            Answer::Fixed(size) => size,
            Answer::Data => usize::MAX,
        }
    }

    /// Is there an answer?
    #[inline]
    pub fn is_answered(&self) -> bool {
        self.answer != Answer::None
    }
}

/// The table as a Markdown page: `docs/opcodes.md`.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Operations\n\nGenerated from the operations table (`crates/fusewire/src/proto/operations.rs`); a test compares, \
         and `UPDATE=1 cargo test -p fusewire --test opcodes` rewrites it.\n\nSizes are bytes. «After ENOSYS» says what the kernel does once a \
         filesystem has answered `ENOSYS`: a dash means the error is passed on and the next request is sent as before.\n\n\
         | opcode | number | arguments | then | answer | after ENOSYS | for |\n|---|---:|---:|---|---|---|---|\n",
    );
    for row in &OPERATIONS {
        let answer = match row.answer {
            Answer::None => "none".to_owned(),
            Answer::Empty => "header".to_owned(),
            Answer::Fixed(size) => size.to_string(),
            Answer::Data => "data".to_owned(),
        };
        let unsupported = match row.unsupported {
            Error => "–",
            Never(instead) => instead,
            Unused => "",
        };
        let (name, number, tail) = (row.opcode.name(), row.opcode as u32, row.tail.describe());
        page += &format!(
            "| {name} | {number} | {} | {tail} | {answer} | {unsupported} | {} |\n",
            row.args, row.about
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opcode_but_cuse_has_a_row_in_order() {
        for &opcode in Opcode::ALL.iter().filter(|&&opcode| opcode != Opcode::CuseInit) {
            assert_eq!(Operation::of(opcode as u32).map(|row| row.opcode), Some(opcode));
        }
        assert!(OPERATIONS.is_sorted_by_key(|row| row.opcode as u32));
        assert!(
            Operation::of(0).is_none() && Operation::of(7).is_none() && Operation::of(u32::MAX).is_none()
        );
    }
}
