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
    Ok(match row.opcode {
        Opcode::Lookup => Op::Lookup(read(m)?),
        Opcode::Forget => Op::Forget(read(m)?),
        Opcode::BatchForget => Op::BatchForget(read(m)?),
        Opcode::Getattr => Op::Getattr(read(m)?),
        Opcode::Statx => Op::Statx(read(m)?),
        Opcode::Setattr => Op::Setattr(read(m)?),
        Opcode::Readlink => Op::Readlink(read(m)?),
        Opcode::Symlink => Op::Symlink(read(m)?),
        Opcode::Mknod => Op::Mknod(read(m)?),
        Opcode::Mkdir => Op::Mkdir(read(m)?),
        Opcode::Unlink => Op::Unlink(read(m)?),
        Opcode::Rmdir => Op::Rmdir(read(m)?),
        Opcode::Rename | Opcode::Rename2 => Op::Rename(read(m)?),
        Opcode::Link => Op::Link(read(m)?),
        Opcode::Open => Op::Open(read(m)?),
        Opcode::Read => Op::Read(read(m)?),
        Opcode::Write => Op::Write(read(m)?),
        Opcode::Statfs => Op::Statfs(read(m)?),
        Opcode::Release => Op::Release(read(m)?),
        Opcode::Fsync => Op::Fsync(read(m)?),
        Opcode::Flush => Op::Flush(read(m)?),
        Opcode::Setxattr => Op::Setxattr(read(m)?),
        Opcode::Getxattr => Op::Getxattr(read(m)?),
        Opcode::Listxattr => Op::Listxattr(read(m)?),
        Opcode::Removexattr => Op::Removexattr(read(m)?),
        Opcode::Opendir => Op::Opendir(read(m)?),
        Opcode::Readdir => Op::Readdir(read(m)?),
        Opcode::Readdirplus => Op::Readdirplus(read(m)?),
        Opcode::Releasedir => Op::Releasedir(read(m)?),
        Opcode::Fsyncdir => Op::Fsyncdir(read(m)?),
        Opcode::Getlk => Op::Getlk(read(m)?),
        Opcode::Setlk | Opcode::Setlkw => Op::Setlk(read(m)?),
        Opcode::Access => Op::Access(read(m)?),
        Opcode::Create => Op::Create(read(m)?),
        Opcode::Tmpfile => Op::Tmpfile(read(m)?),
        Opcode::Bmap => Op::Bmap(read(m)?),
        Opcode::Ioctl => Op::Ioctl(read(m)?),
        Opcode::Poll => Op::Poll(read(m)?),
        Opcode::Fallocate => Op::Fallocate(read(m)?),
        Opcode::Lseek => Op::Lseek(read(m)?),
        Opcode::CopyFileRange => Op::CopyFileRange(read(m)?),
        Opcode::CopyFileRange64 => Op::CopyFileRange64(read(m)?),
        Opcode::Syncfs => Op::Syncfs(read(m)?),
        Opcode::Setupmapping => Op::Setupmapping(read(m)?),
        Opcode::Removemapping => Op::Removemapping(read(m)?),
        Opcode::NotifyReply => Op::Retrieved(read(m)?),
        Opcode::Interrupt => Op::Interrupt(read::<abi::InterruptIn>(m)?.unique),
        Opcode::Destroy => {
            read::<()>(m)?;
            Op::Destroy
        }
        Opcode::Init | Opcode::CuseInit => return Err(Errno::INVAL),
    })
}

/// What is made from a message of its opcode.
pub(crate) trait Decode<'a>: Sized {
    /// Take it from the pieces.
    fn decode(input: &mut Input<'_, 'a>) -> Result<Self>;
}

/// The operation in a message of its opcode; nothing is left over.
#[inline(always)]
pub(crate) fn read<'a, T: Decode<'a>>(m: &Message<'a>) -> Result<T> {
    let mut input = Input::new(m)?;
    let op = T::decode(&mut input)?;
    input.end()?;
    Ok(op)
}

/// `$input` is what the operation is taken from. Inlined into a filesystem's own copy of the dispatch, so that the
/// operation is made where its handler looks for it: these structs are too long to be moved for nothing.
macro_rules! decoders { ($($op:ty: |$input:ident| $body:block)*) => {$(
    impl<'a> Decode<'a> for $op {
        #[inline(always)]
        fn decode($input: &mut Input<'_, 'a>) -> Result<Self> $body
    }
)*}; }

decoders! {
    (): |_input| { Ok(()) }
    abi::InterruptIn: |input| { input.args() }
    Lookup<'a>: |input| { Ok(Self { parent: input.node()?, name: input.name()? }) }
    Unlink<'a>: |input| { Ok(Self { parent: input.node()?, name: input.name()? }) }
    Rmdir<'a>: |input| { Ok(Self { parent: input.node()?, name: input.name()? }) }
    Link<'a>: |input| {
        let (new_parent, a): (_, abi::LinkIn) = (input.node()?, input.args()?);
        let node = NodeId::from_raw(a.oldnodeid).ok_or(Errno::INVAL)?;
        Ok(Self { node, new_parent, new_name: input.name()? })
    }
    Rename<'a>: |input| {
        let parent = input.node()?;
        let (newdir, flags) = if input.is(Opcode::Rename2) {
            let a: abi::Rename2In = input.args()?;
            (a.newdir, a.flags)
        } else {
            (input.args::<abi::RenameIn>()?.newdir, 0)
        };
        let new_parent = NodeId::from_raw(newdir).ok_or(Errno::INVAL)?;
        let (name, new_name) = (input.name()?, input.name()?);
        Ok(Self { parent, name, new_parent, new_name, flags, owner: input.caller() })
    }
    Symlink<'a>: |input| {
        let (parent, name) = (input.node()?, input.name()?);
        let target = input.string(limits::TARGET_MAX)?;
        let (owner, security) = input.created()?;
        Ok(Self { parent, name, target, owner, security })
    }
    Mknod<'a>: |input| {
        let (parent, a, name): (_, abi::MknodIn, _) = (input.node()?, input.args()?, input.name()?);
        let (owner, security) = input.created()?;
        Ok(Self { parent, name, mode: a.mode, rdev: a.rdev, umask: a.umask, owner, security })
    }
    Mkdir<'a>: |input| {
        let (parent, a, name): (_, abi::MkdirIn, _) = (input.node()?, input.args()?, input.name()?);
        let (owner, security) = input.created()?;
        Ok(Self { parent, name, mode: a.mode, umask: a.umask, owner, security })
    }
    Create<'a>: |input| {
        let (parent, a, name): (_, abi::CreateIn, _) = (input.node()?, input.args()?, input.name()?);
        let (owner, security) = input.created()?;
        let kill_suid_gid = kills(a.open_flags);
        let abi::CreateIn { flags, mode, umask, .. } = a;
        Ok(Self { parent, name, mode, umask, flags, kill_suid_gid, owner, security })
    }
    Tmpfile<'a>: |input| {
        let (parent, a): (_, abi::CreateIn) = (input.node()?, input.args()?);
        // The kernel sends a name here (the unnamed file's dentry name); it means nothing.
        input.string(limits::NAME_MAX)?;
        let (owner, security) = input.created()?;
        let abi::CreateIn { flags, mode, umask, .. } = a;
        Ok(Self { parent, mode, umask, flags, owner, security })
    }
    Opendir: |input| {
        Ok(Self { node: input.node()?, flags: input.args::<abi::OpenIn>()?.flags })
    }
    Readdir: |input| {
        let (node, a): (_, abi::ReadIn) = (input.node()?, input.args()?);
        Ok(Self { node, handle: Handle(a.fh), cookie: a.offset, size: a.size })
    }
    Readdirplus: |input| {
        let (node, a): (_, abi::ReadIn) = (input.node()?, input.args()?);
        Ok(Self { node, handle: Handle(a.fh), cookie: a.offset, size: a.size })
    }
    Releasedir: |input| {
        let (node, a): (_, abi::ReleaseIn) = (input.node()?, input.args()?);
        Ok(Self { node, handle: Handle(a.fh), flags: a.flags })
    }
    Fsyncdir: |input| {
        let (node, a): (_, abi::FsyncIn) = (input.node()?, input.args()?);
        Ok(Self { node, handle: Handle(a.fh), data_only: data_only(a.fsync_flags) })
    }
}

// Attributes and lifetime.
decoders! {
    Forget: |input| {
        Ok(Self { node: input.node()?, count: input.args::<abi::ForgetIn>()?.nlookup })
    }
    Forgets<'a>: |input| {
        let count = input.args::<abi::BatchForgetIn>()?.count as usize;
        let size = count.checked_mul(size_of::<abi::ForgetOne>()).ok_or(Errno::INVAL)?;
        input.data(size).map(Self)
    }
    Getattr: |input| {
        let (node, a): (_, abi::GetattrIn) = (input.node()?, input.args()?);
        Ok(Self { node, handle: open_file(a.getattr_flags, a.fh) })
    }
    Statx: |input| {
        let (node, a): (_, abi::StatxIn) = (input.node()?, input.args()?);
        Ok(Self { node, handle: open_file(a.getattr_flags, a.fh), flags: a.sx_flags, mask: a.sx_mask })
    }
    Setattr: |input| {
        let (node, a): (_, abi::SetattrIn) = (input.node()?, input.args()?);
        let valid = SetattrValid::from_bits_retain(a.valid);
        let handle = valid.contains(SetattrValid::FH).then_some(Handle(a.fh));
        let lock_owner = valid.contains(SetattrValid::LOCKOWNER).then_some(LockOwner(a.lock_owner));
        Ok(Self { node, handle, changes: changes(valid, &a)?, lock_owner })
    }
    Readlink: |input| { Ok(Self { node: input.node()? }) }
    Statfs: |input| { Ok(Self { node: input.node()? }) }
    Access: |input| {
        Ok(Self { node: input.node()?, mask: input.args::<abi::AccessIn>()?.mask })
    }
    Setxattr<'a>: |input| {
        let node = input.node()?;
        let (size, flags, extra) = match input.args::<abi::SetxattrIn>() {
            Ok(a) => (a.size, a.flags, a.setxattr_flags),
            Err(_) => {
                let a: abi::SetxattrInCompat = input.args()?;
                (a.size, a.flags, 0)
            }
        };
        if size as usize > limits::XATTR_SIZE_MAX {
            return Err(Errno::TOOBIG);
        }
        let (name, value) = (input.attribute()?, input.data(size as usize)?);
        let extra = abi::SetxattrFlags::from_bits_retain(extra);
        let kill_sgid = extra.contains(abi::SetxattrFlags::ACL_KILL_SGID);
        Ok(Self { node, name, value, flags, kill_sgid })
    }
    Getxattr<'a>: |input| {
        let (node, a): (_, abi::GetxattrIn) = (input.node()?, input.args()?);
        Ok(Self { node, name: input.attribute()?, size: a.size })
    }
    Listxattr: |input| {
        Ok(Self { node: input.node()?, size: input.args::<abi::GetxattrIn>()?.size })
    }
    Removexattr<'a>: |input| { Ok(Self { node: input.node()?, name: input.attribute()? }) }
}

// Content of open files.
decoders! {
    Open: |input| {
        let (node, a): (_, abi::OpenIn) = (input.node()?, input.args()?);
        Ok(Self { node, flags: a.flags, kill_suid_gid: kills(a.open_flags) })
    }
    Read: |input| {
        let (node, a): (_, abi::ReadIn) = (input.node()?, input.args()?);
        let owned = abi::ReadFlags::from_bits_retain(a.read_flags).contains(abi::ReadFlags::LOCKOWNER);
        let lock_owner = owned.then_some(LockOwner(a.lock_owner));
        Ok(Self { node, handle: Handle(a.fh), offset: a.offset, size: a.size, flags: a.flags, lock_owner })
    }
    Write<'a>: |input| {
        let (node, a): (_, abi::WriteIn) = (input.node()?, input.args()?);
        let flags = abi::WriteFlags::from_bits_retain(a.write_flags);
        Ok(Self {
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
        Ok(Self { node, handle: Handle(a.fh), lock_owner: LockOwner(a.lock_owner) })
    }
    Release: |input| {
        let (node, a): (_, abi::ReleaseIn) = (input.node()?, input.args()?);
        let flags = abi::ReleaseFlags::from_bits_retain(a.release_flags);
        let unlock = flags.contains(abi::ReleaseFlags::FLOCK_UNLOCK);
        let flock_owner = unlock.then_some(LockOwner(a.lock_owner));
        Ok(Self { node, handle: Handle(a.fh), flags: a.flags, flock_owner })
    }
    Fsync: |input| {
        let (node, a): (_, abi::FsyncIn) = (input.node()?, input.args()?);
        Ok(Self { node, handle: Handle(a.fh), data_only: data_only(a.fsync_flags) })
    }
    Fallocate: |input| {
        let (node, a): (_, abi::FallocateIn) = (input.node()?, input.args()?);
        let abi::FallocateIn { fh, offset, length, mode, .. } = a;
        Ok(Self { node, handle: Handle(fh), offset, length, mode })
    }
    Lseek: |input| {
        let (node, a): (_, abi::LseekIn) = (input.node()?, input.args()?);
        Ok(Self { node, handle: Handle(a.fh), offset: a.offset, whence: a.whence })
    }
    CopyFileRange: |input| {
        let (node, a): (_, abi::CopyFileRangeIn) = (input.node()?, input.args()?);
        let to_node = NodeId::from_raw(a.nodeid_out).ok_or(Errno::INVAL)?;
        Ok(Self {
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
        Ok(Self { node, handle, owner, lock })
    }
    Setlk: |input| {
        let (node, (owner, lock, handle, flock)) = (input.node()?, file_lock(input)?);
        Ok(Self { node, handle, owner, lock, flock, wait: input.is(Opcode::Setlkw) })
    }
}

// What few filesystems have.
decoders! {
    Bmap: |input| {
        let (node, a): (_, abi::BmapIn) = (input.node()?, input.args()?);
        Ok(Self { node, block: a.block, block_size: a.blocksize })
    }
    Ioctl<'a>: |input| {
        let (node, a): (_, abi::IoctlIn) = (input.node()?, input.args()?);
        let abi::IoctlIn { fh, flags, cmd, arg, in_size, out_size } = a;
        let input = input.data(in_size as usize)?;
        Ok(Self { node, handle: Handle(fh), command: cmd, argument: arg, flags, input, out_size })
    }
    Poll: |input| {
        let (node, a): (_, abi::PollIn) = (input.node()?, input.args()?);
        let flags = abi::PollFlags::from_bits_retain(a.flags);
        let schedule = flags.contains(abi::PollFlags::SCHEDULE_NOTIFY);
        Ok(Self { node, handle: Handle(a.fh), events: a.events, kernel_handle: a.kh, schedule })
    }
    Retrieved<'a>: |input| {
        let (node, a): (_, abi::NotifyRetrieveIn) = (input.node()?, input.args()?);
        let data = Source::new(input.data(a.size as usize)?);
        Ok(Self { node, unique: input.unique(), offset: a.offset, data })
    }
    Syncfs: |input| {
        let (node, _): (_, abi::SyncfsIn) = (input.node()?, input.args()?);
        Ok(Self { node })
    }
    Setupmapping: |input| {
        let (node, a): (_, abi::SetupmappingIn) = (input.node()?, input.args()?);
        let (handle, file_offset, length) = (Handle(a.fh), a.foffset, a.len);
        Ok(Self { node, handle, file_offset, length, flags: a.flags, window_offset: a.moffset })
    }
    Removemapping<'a>: |input| {
        let node = input.node()?;
        let count = input.args::<abi::RemovemappingIn>()?.count as usize;
        let size = count.checked_mul(size_of::<abi::RemovemappingOne>()).ok_or(Errno::INVAL)?;
        Ok(Self { node, ranges: MappingRanges(input.data(size)?) })
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
fn changes(valid: SetattrValid, a: &abi::SetattrIn) -> Result<Changes> {
    let set = |flag: SetattrValid| valid.contains(flag);
    let stamp = |seconds: u64, nanos: u32| {
        if nanos > 999_999_999 { Err(Errno::INVAL) } else { Ok(Timestamp { seconds: seconds as i64, nanos }) }
    };
    let time = |to: SetattrValid, now: SetattrValid, seconds: u64, nanos: u32| match (set(now), set(to)) {
        (true, _) => Ok(Some(SetTime::Now)),
        (_, true) => stamp(seconds, nanos).map(|t| Some(SetTime::To(t))),
        _ => Ok(None),
    };
    Ok(Changes {
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

fn file_lock(input: &Input<'_, '_>) -> Result<(LockOwner, FileLock, Handle, bool)> {
    let a: abi::LkIn = input.args()?;
    let kind = match a.lk.typ {
        0 => LockKind::Read,
        1 => LockKind::Write,
        2 => LockKind::Unlock,
        _ => return Err(Errno::INVAL),
    };
    if a.lk.start > a.lk.end {
        return Err(Errno::INVAL);
    }
    let lock = FileLock { start: a.lk.start, end: a.lk.end, kind, pid: a.lk.pid };
    let flock = abi::LkFlags::from_bits_retain(a.lk_flags).contains(abi::LkFlags::FLOCK);
    Ok((LockOwner(a.owner), lock, Handle(a.fh), flock))
}
