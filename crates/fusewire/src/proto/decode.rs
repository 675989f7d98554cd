//! Messages into operations. Copies nothing but fixed-size integers; refuses everything that is not exactly right.

use super::{input::Input, message::Message, op::*, operations::Operation};
use crate::{limits, reply::Source, types::*};
use fusewire_abi::{self as abi, Opcode, SetattrValid};
use zerocopy::FromBytes;

/// Any operation that a filesystem is asked.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant is the operation of its name.
pub enum Op<'a> {
    Lookup(Lookup<'a>),
    Forget(Forget),
    BatchForget(Forgets<'a>),
    Getattr(Getattr),
    Statx(Statx),
    Setattr(Setattr),
    Readlink(Readlink),
    Symlink(Symlink<'a>),
    Mknod(Mknod<'a>),
    Mkdir(Mkdir<'a>),
    Unlink(Unlink<'a>),
    Rmdir(Rmdir<'a>),
    Rename(Rename<'a>),
    Link(Link<'a>),
    Open(Open),
    Read(Read),
    Write(Write<'a>),
    Statfs(Statfs),
    Release(Release),
    Fsync(Fsync),
    Flush(Flush),
    Setxattr(Setxattr<'a>),
    Getxattr(Getxattr<'a>),
    Listxattr(Listxattr),
    Removexattr(Removexattr<'a>),
    Opendir(Opendir),
    Readdir(Readdir),
    Readdirplus(Readdirplus),
    Releasedir(Releasedir),
    Fsyncdir(Fsyncdir),
    Getlk(Getlk),
    Setlk(Setlk),
    Access(Access),
    Create(Create<'a>),
    Tmpfile(Tmpfile<'a>),
    Bmap(Bmap),
    Ioctl(Ioctl<'a>),
    Poll(Poll),
    Fallocate(Fallocate),
    Lseek(Lseek),
    CopyFileRange(CopyFileRange),
    CopyFileRange64(CopyFileRange),
    Syncfs(Syncfs),
    Setupmapping(Setupmapping),
    Removemapping(Removemapping<'a>),
    Retrieved(Retrieved<'a>),
    /// The caller of the request with this number was interrupted.
    Interrupt(u64),
    Destroy,
}

/// The entries of a `FUSE_BATCH_FORGET`.
#[derive(Clone, Copy)]
pub struct Forgets<'a>(&'a [u8]);

impl<'a> Forgets<'a> {
    /// One after the other; entries for node 0 are passed over.
    pub fn iter(self) -> impl Iterator<Item = Forget> + 'a {
        self.0.chunks_exact(size_of::<abi::ForgetOne>()).filter_map(|one| {
            let one = abi::ForgetOne::read_from_bytes(one).ok()?;
            Some(Forget { node: NodeId::from_raw(one.nodeid)?, count: one.nlookup })
        })
    }
}

impl std::fmt::Debug for Forgets<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Decode a message into any operation. A session does not: it reads the one that it is about to dispatch.
///
/// # Errors
/// `NOSYS` for an opcode that is not known; `INVAL` for node 0, short or surplus arguments, a missing NUL, and names that
/// are empty, `.`, `..` or hold a `/`; `NAMETOOLONG`; `E2BIG` for data that exceed their bound.
pub fn decode<'a>(m: &Message<'a>) -> Result<Op<'a>> {
    let row = Operation::of(m.header.opcode).ok_or(Errno::NOSYS)?;
    let mut input = Input::new(m).ok_or(Errno::INVAL)?;
    let op = any(row.opcode, &mut input);
    op.filter(|_| input.is_empty()).ok_or(input.errno)
}

fn any<'a>(opcode: Opcode, input: &mut Input<'_, 'a>) -> Option<Op<'a>> {
    Some(match opcode {
        Opcode::Lookup => Op::Lookup(Decode::decode(input)?),
        Opcode::Forget => Op::Forget(Decode::decode(input)?),
        Opcode::BatchForget => Op::BatchForget(Decode::decode(input)?),
        Opcode::Getattr => Op::Getattr(Decode::decode(input)?),
        Opcode::Statx => Op::Statx(Decode::decode(input)?),
        Opcode::Setattr => Op::Setattr(Decode::decode(input)?),
        Opcode::Readlink => Op::Readlink(Decode::decode(input)?),
        Opcode::Symlink => Op::Symlink(Decode::decode(input)?),
        Opcode::Mknod => Op::Mknod(Decode::decode(input)?),
        Opcode::Mkdir => Op::Mkdir(Decode::decode(input)?),
        Opcode::Unlink => Op::Unlink(Decode::decode(input)?),
        Opcode::Rmdir => Op::Rmdir(Decode::decode(input)?),
        Opcode::Rename | Opcode::Rename2 => Op::Rename(Decode::decode(input)?),
        Opcode::Link => Op::Link(Decode::decode(input)?),
        Opcode::Open => Op::Open(Decode::decode(input)?),
        Opcode::Read => Op::Read(Decode::decode(input)?),
        Opcode::Write => Op::Write(Decode::decode(input)?),
        Opcode::Statfs => Op::Statfs(Decode::decode(input)?),
        Opcode::Release => Op::Release(Decode::decode(input)?),
        Opcode::Fsync => Op::Fsync(Decode::decode(input)?),
        Opcode::Flush => Op::Flush(Decode::decode(input)?),
        Opcode::Setxattr => Op::Setxattr(Decode::decode(input)?),
        Opcode::Getxattr => Op::Getxattr(Decode::decode(input)?),
        Opcode::Listxattr => Op::Listxattr(Decode::decode(input)?),
        Opcode::Removexattr => Op::Removexattr(Decode::decode(input)?),
        Opcode::Opendir => Op::Opendir(Decode::decode(input)?),
        Opcode::Readdir => Op::Readdir(Decode::decode(input)?),
        Opcode::Readdirplus => Op::Readdirplus(Decode::decode(input)?),
        Opcode::Releasedir => Op::Releasedir(Decode::decode(input)?),
        Opcode::Fsyncdir => Op::Fsyncdir(Decode::decode(input)?),
        Opcode::Getlk => Op::Getlk(Decode::decode(input)?),
        Opcode::Setlk | Opcode::Setlkw => Op::Setlk(Decode::decode(input)?),
        Opcode::Access => Op::Access(Decode::decode(input)?),
        Opcode::Create => Op::Create(Decode::decode(input)?),
        Opcode::Tmpfile => Op::Tmpfile(Decode::decode(input)?),
        Opcode::Bmap => Op::Bmap(Decode::decode(input)?),
        Opcode::Ioctl => Op::Ioctl(Decode::decode(input)?),
        Opcode::Poll => Op::Poll(Decode::decode(input)?),
        Opcode::Fallocate => Op::Fallocate(Decode::decode(input)?),
        Opcode::Lseek => Op::Lseek(Decode::decode(input)?),
        Opcode::CopyFileRange => Op::CopyFileRange(Decode::decode(input)?),
        Opcode::CopyFileRange64 => Op::CopyFileRange64(Decode::decode(input)?),
        Opcode::Syncfs => Op::Syncfs(Decode::decode(input)?),
        Opcode::Setupmapping => Op::Setupmapping(Decode::decode(input)?),
        Opcode::Removemapping => Op::Removemapping(Decode::decode(input)?),
        Opcode::NotifyReply => Op::Retrieved(Decode::decode(input)?),
        Opcode::Interrupt => Op::Interrupt(abi::InterruptIn::decode(input)?.unique),
        Opcode::Destroy => Op::Destroy,
        Opcode::Init | Opcode::CuseInit => return None,
    })
}

/// What is made from a message of its opcode.
pub(crate) trait Decode<'a>: Sized {
    /// Take it from the pieces. `None`: they are not what the protocol says, and [`Input::errno`] is the answer.
    fn decode(input: &mut Input<'_, 'a>) -> Option<Self>;
}

/// A message is not what the protocol says. [`decode`] says with which errno it is answered.
#[derive(Debug)]
pub(crate) struct Refused;

/// The operation in a message of its opcode; nothing is left over.
#[inline(always)]
pub(crate) fn read<'a, T: Decode<'a>>(m: &Message<'a>) -> std::result::Result<T, Refused> {
    let mut input = Input::new(m).ok_or(Refused)?;
    let op = T::decode(&mut input).ok_or(Refused)?;
    if input.is_empty() { Ok(op) } else { Err(Refused) }
}

/// `$input` is what the operation is taken from. Inlined into a filesystem's own copy of the dispatch, so that the
/// operation is made where its handler looks for it: these structs are too long to be moved for nothing.
macro_rules! decoders { ($($op:ty: |$input:ident| $body:block)*) => {$(
    impl<'a> Decode<'a> for $op {
        #[inline(always)]
        fn decode($input: &mut Input<'_, 'a>) -> Option<Self> $body
    }
)*}; }

decoders! {
    (): |_input| { Some(()) }
    abi::InterruptIn: |input| { input.args() }
    Lookup<'a>: |input| { Some(Self { parent: input.node()?, name: input.name()? }) }
    Unlink<'a>: |input| { Some(Self { parent: input.node()?, name: input.name()? }) }
    Rmdir<'a>: |input| { Some(Self { parent: input.node()?, name: input.name()? }) }
    Link<'a>: |input| {
        let (new_parent, a): (_, abi::LinkIn) = (input.node()?, input.args()?);
        let node = NodeId::from_raw(a.oldnodeid)?;
        Some(Self { node, new_parent, new_name: input.name()? })
    }
    Rename<'a>: |input| {
        let parent = input.node()?;
        let (newdir, flags) = if input.is(Opcode::Rename2) {
            let a: abi::Rename2In = input.args()?;
            (a.newdir, a.flags)
        } else {
            (input.args::<abi::RenameIn>()?.newdir, 0)
        };
        let new_parent = NodeId::from_raw(newdir)?;
        let (name, new_name) = (input.name()?, input.name()?);
        Some(Self { parent, name, new_parent, new_name, flags, owner: input.caller() })
    }
    Symlink<'a>: |input| {
        let (parent, name) = (input.node()?, input.name()?);
        let target = input.string(limits::TARGET_MAX)?;
        let (owner, security) = input.created()?;
        Some(Self { parent, name, target, owner, security })
    }
    Mknod<'a>: |input| {
        let (parent, a, name): (_, abi::MknodIn, _) = (input.node()?, input.args()?, input.name()?);
        let (owner, security) = input.created()?;
        Some(Self { parent, name, mode: a.mode, rdev: a.rdev, umask: a.umask, owner, security })
    }
    Mkdir<'a>: |input| {
        let (parent, a, name): (_, abi::MkdirIn, _) = (input.node()?, input.args()?, input.name()?);
        let (owner, security) = input.created()?;
        Some(Self { parent, name, mode: a.mode, umask: a.umask, owner, security })
    }
    Create<'a>: |input| {
        let (parent, a, name): (_, abi::CreateIn, _) = (input.node()?, input.args()?, input.name()?);
        let (owner, security) = input.created()?;
        let kill_suid_gid = kills(a.open_flags);
        let abi::CreateIn { flags, mode, umask, .. } = a;
        Some(Self { parent, name, mode, umask, flags, kill_suid_gid, owner, security })
    }
    Tmpfile<'a>: |input| {
        let (parent, a): (_, abi::CreateIn) = (input.node()?, input.args()?);
        // The kernel sends a name here (the unnamed file's dentry name); it means nothing.
        input.string(limits::NAME_MAX)?;
        let (owner, security) = input.created()?;
        let abi::CreateIn { flags, mode, umask, .. } = a;
        Some(Self { parent, mode, umask, flags, owner, security })
    }
    Opendir: |input| {
        Some(Self { node: input.node()?, flags: input.args::<abi::OpenIn>()?.flags })
    }
    Readdir: |input| {
        let (node, a): (_, abi::ReadIn) = (input.node()?, input.args()?);
        Some(Self { node, handle: Handle(a.fh), cookie: a.offset, size: a.size })
    }
    Readdirplus: |input| {
        let (node, a): (_, abi::ReadIn) = (input.node()?, input.args()?);
        Some(Self { node, handle: Handle(a.fh), cookie: a.offset, size: a.size })
    }
    Releasedir: |input| {
        let (node, a): (_, abi::ReleaseIn) = (input.node()?, input.args()?);
        Some(Self { node, handle: Handle(a.fh), flags: a.flags })
    }
    Fsyncdir: |input| {
        let (node, a): (_, abi::FsyncIn) = (input.node()?, input.args()?);
        Some(Self { node, handle: Handle(a.fh), data_only: data_only(a.fsync_flags) })
    }
}

// Attributes and lifetime.
decoders! {
    Forget: |input| {
        Some(Self { node: input.node()?, count: input.args::<abi::ForgetIn>()?.nlookup })
    }
    Forgets<'a>: |input| {
        let count = input.args::<abi::BatchForgetIn>()?.count as usize;
        let size = count.checked_mul(size_of::<abi::ForgetOne>())?;
        input.data(size).map(Self)
    }
    Getattr: |input| {
        let (node, a): (_, abi::GetattrIn) = (input.node()?, input.args()?);
        Some(Self { node, handle: open_file(a.getattr_flags, a.fh) })
    }
    Statx: |input| {
        let (node, a): (_, abi::StatxIn) = (input.node()?, input.args()?);
        Some(Self { node, handle: open_file(a.getattr_flags, a.fh), flags: a.sx_flags, mask: a.sx_mask })
    }
    Setattr: |input| {
        let (node, a): (_, abi::SetattrIn) = (input.node()?, input.args()?);
        let valid = SetattrValid::from_bits_retain(a.valid);
        let handle = valid.contains(SetattrValid::FH).then_some(Handle(a.fh));
        let lock_owner = valid.contains(SetattrValid::LOCKOWNER).then_some(LockOwner(a.lock_owner));
        Some(Self { node, handle, changes: changes(valid, &a)?, lock_owner })
    }
    Readlink: |input| { Some(Self { node: input.node()? }) }
    Statfs: |input| { Some(Self { node: input.node()? }) }
    Access: |input| {
        Some(Self { node: input.node()?, mask: input.args::<abi::AccessIn>()?.mask })
    }
    Setxattr<'a>: |input| {
        let node = input.node()?;
        let (size, flags, extra) = match input.args::<abi::SetxattrIn>() {
            Some(a) => (a.size, a.flags, a.setxattr_flags),
            None => {
                let a: abi::SetxattrInCompat = input.args()?;
                (a.size, a.flags, 0)
            }
        };
        if size as usize > limits::XATTR_SIZE_MAX {
            return input.refuse(Errno::TOOBIG);
        }
        let (name, value) = (input.attribute()?, input.data(size as usize)?);
        let extra = abi::SetxattrFlags::from_bits_retain(extra);
        let kill_sgid = extra.contains(abi::SetxattrFlags::ACL_KILL_SGID);
        Some(Self { node, name, value, flags, kill_sgid })
    }
    Getxattr<'a>: |input| {
        let (node, a): (_, abi::GetxattrIn) = (input.node()?, input.args()?);
        Some(Self { node, name: input.attribute()?, size: a.size })
    }
    Listxattr: |input| {
        Some(Self { node: input.node()?, size: input.args::<abi::GetxattrIn>()?.size })
    }
    Removexattr<'a>: |input| { Some(Self { node: input.node()?, name: input.attribute()? }) }
}

// Content of open files.
decoders! {
    Open: |input| {
        let (node, a): (_, abi::OpenIn) = (input.node()?, input.args()?);
        Some(Self { node, flags: a.flags, kill_suid_gid: kills(a.open_flags) })
    }
    Read: |input| {
        let (node, a): (_, abi::ReadIn) = (input.node()?, input.args()?);
        let owned = abi::ReadFlags::from_bits_retain(a.read_flags).contains(abi::ReadFlags::LOCKOWNER);
        let lock_owner = owned.then_some(LockOwner(a.lock_owner));
        Some(Self { node, handle: Handle(a.fh), offset: a.offset, size: a.size, flags: a.flags, lock_owner })
    }
    Write<'a>: |input| {
        let (node, a): (_, abi::WriteIn) = (input.node()?, input.args()?);
        let flags = abi::WriteFlags::from_bits_retain(a.write_flags);
        Some(Self {
            node,
            handle: Handle(a.fh),
            offset: a.offset,
            data: input.source(a.size as usize)?,
            flags: a.flags,
            cached: flags.contains(abi::WriteFlags::CACHE),
            kill_suid_gid: flags.contains(abi::WriteFlags::KILL_SUIDGID),
            lock_owner: flags.contains(abi::WriteFlags::LOCKOWNER).then_some(LockOwner(a.lock_owner)),
        })
    }
    Flush: |input| {
        let (node, a): (_, abi::FlushIn) = (input.node()?, input.args()?);
        Some(Self { node, handle: Handle(a.fh), lock_owner: LockOwner(a.lock_owner) })
    }
    Release: |input| {
        let (node, a): (_, abi::ReleaseIn) = (input.node()?, input.args()?);
        let flags = abi::ReleaseFlags::from_bits_retain(a.release_flags);
        let unlock = flags.contains(abi::ReleaseFlags::FLOCK_UNLOCK);
        let flock_owner = unlock.then_some(LockOwner(a.lock_owner));
        Some(Self { node, handle: Handle(a.fh), flags: a.flags, flock_owner })
    }
    Fsync: |input| {
        let (node, a): (_, abi::FsyncIn) = (input.node()?, input.args()?);
        Some(Self { node, handle: Handle(a.fh), data_only: data_only(a.fsync_flags) })
    }
    Fallocate: |input| {
        let (node, a): (_, abi::FallocateIn) = (input.node()?, input.args()?);
        let abi::FallocateIn { fh, offset, length, mode, .. } = a;
        Some(Self { node, handle: Handle(fh), offset, length, mode })
    }
    Lseek: |input| {
        let (node, a): (_, abi::LseekIn) = (input.node()?, input.args()?);
        Some(Self { node, handle: Handle(a.fh), offset: a.offset, whence: a.whence })
    }
    CopyFileRange: |input| {
        let (node, a): (_, abi::CopyFileRangeIn) = (input.node()?, input.args()?);
        let to_node = NodeId::from_raw(a.nodeid_out)?;
        Some(Self {
            node,
            handle: Handle(a.fh_in),
            offset: a.off_in,
            to_node,
            to_handle: Handle(a.fh_out),
            to_offset: a.off_out,
            length: a.len,
            flags: a.flags,
        })
    }
    Getlk: |input| {
        let (node, (owner, lock, handle, _)) = (input.node()?, file_lock(input)?);
        Some(Self { node, handle, owner, lock })
    }
    Setlk: |input| {
        let (node, (owner, lock, handle, flock)) = (input.node()?, file_lock(input)?);
        Some(Self { node, handle, owner, lock, flock, wait: input.is(Opcode::Setlkw) })
    }
}

// What few filesystems have.
decoders! {
    Bmap: |input| {
        let (node, a): (_, abi::BmapIn) = (input.node()?, input.args()?);
        Some(Self { node, block: a.block, block_size: a.blocksize })
    }
    Ioctl<'a>: |input| {
        let (node, a): (_, abi::IoctlIn) = (input.node()?, input.args()?);
        let abi::IoctlIn { fh, flags, cmd, arg, in_size, out_size } = a;
        let input = input.data(in_size as usize)?;
        Some(Self { node, handle: Handle(fh), command: cmd, argument: arg, flags, input, out_size })
    }
    Poll: |input| {
        let (node, a): (_, abi::PollIn) = (input.node()?, input.args()?);
        let flags = abi::PollFlags::from_bits_retain(a.flags);
        let schedule = flags.contains(abi::PollFlags::SCHEDULE_NOTIFY);
        Some(Self { node, handle: Handle(a.fh), events: a.events, kernel_handle: a.kh, schedule })
    }
    Retrieved<'a>: |input| {
        let (node, a): (_, abi::NotifyRetrieveIn) = (input.node()?, input.args()?);
        let data = Source::new(input.data(a.size as usize)?);
        Some(Self { node, unique: input.unique(), offset: a.offset, data })
    }
    Syncfs: |input| {
        let (node, _): (_, abi::SyncfsIn) = (input.node()?, input.args()?);
        Some(Self { node })
    }
    Setupmapping: |input| {
        let (node, a): (_, abi::SetupmappingIn) = (input.node()?, input.args()?);
        let (handle, file_offset, length) = (Handle(a.fh), a.foffset, a.len);
        Some(Self { node, handle, file_offset, length, flags: a.flags, window_offset: a.moffset })
    }
    Removemapping<'a>: |input| {
        let node = input.node()?;
        let count = input.args::<abi::RemovemappingIn>()?.count as usize;
        let size = count.checked_mul(size_of::<abi::RemovemappingOne>())?;
        Some(Self { node, ranges: MappingRanges(input.data(size)?) })
    }
}

#[inline]
fn open_file(flags: u32, fh: u64) -> Option<Handle> {
    abi::GetattrFlags::from_bits_retain(flags).contains(abi::GetattrFlags::FH).then_some(Handle(fh))
}

#[inline]
fn kills(open_flags: u32) -> bool {
    abi::OpenInFlags::from_bits_retain(open_flags).contains(abi::OpenInFlags::KILL_SUIDGID)
}

#[inline]
fn data_only(flags: u32) -> bool {
    abi::FsyncFlags::from_bits_retain(flags).contains(abi::FsyncFlags::FDATASYNC)
}

#[inline(always)]
fn changes(valid: SetattrValid, a: &abi::SetattrIn) -> Option<Changes> {
    let set = |flag: SetattrValid| valid.contains(flag);
    let stamp = |seconds: u64, nanos: u32| {
        (nanos <= 999_999_999).then_some(Timestamp { seconds: seconds as i64, nanos })
    };
    let time = |to: SetattrValid, now: SetattrValid, seconds: u64, nanos: u32| match (set(now), set(to)) {
        (true, _) => Some(Some(SetTime::Now)),
        (_, true) => stamp(seconds, nanos).map(|t| Some(SetTime::To(t))),
        _ => Some(None),
    };
    Some(Changes {
        mode: set(SetattrValid::MODE).then_some(a.mode & 0o7777),
        uid: set(SetattrValid::UID).then_some(a.uid),
        gid: set(SetattrValid::GID).then_some(a.gid),
        size: set(SetattrValid::SIZE).then_some(a.size),
        atime: time(SetattrValid::ATIME, SetattrValid::ATIME_NOW, a.atime, a.atimensec)?,
        mtime: time(SetattrValid::MTIME, SetattrValid::MTIME_NOW, a.mtime, a.mtimensec)?,
        ctime: if set(SetattrValid::CTIME) { Some(stamp(a.ctime, a.ctimensec)?) } else { None },
        kill_suid_gid: set(SetattrValid::KILL_SUIDGID),
    })
}

fn file_lock(input: &Input<'_, '_>) -> Option<(LockOwner, FileLock, Handle, bool)> {
    let a: abi::LkIn = input.args()?;
    let kind = match a.lk.typ {
        0 => LockKind::Read,
        1 => LockKind::Write,
        2 => LockKind::Unlock,
        _ => return None,
    };
    if a.lk.start > a.lk.end {
        return None;
    }
    let lock = FileLock { start: a.lk.start, end: a.lk.end, kind, pid: a.lk.pid };
    let flock = abi::LkFlags::from_bits_retain(a.lk_flags).contains(abi::LkFlags::FLOCK);
    Some((LockOwner(a.owner), lock, Handle(a.fh), flock))
}
