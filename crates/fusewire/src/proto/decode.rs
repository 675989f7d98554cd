//! Messages into operations. Copies nothing but fixed-size integers; refuses everything that is not exactly right.

use super::{
    message::Message,
    op::*,
    operations::{Operation, Tail},
};
use crate::{limits, pages::Pages, reply::Source, types::*};
use fusewire_abi::{self as abi, Opcode, SetattrValid};
use std::ffi::CStr;
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

/// Decode a message.
///
/// # Errors
/// `NOSYS` for an opcode that is not known; `INVAL` for node 0, short or surplus arguments, a missing NUL, and names that
/// are empty, `.`, `..` or hold a `/`; `NAMETOOLONG`; `E2BIG` for data that exceed their bound.
pub fn decode<'a>(m: &Message<'a>) -> Result<Op<'a>> {
    let row = Operation::of(m.header.opcode).ok_or(Errno::NOSYS)?;
    let mut input = Input::new(m, row)?;
    let op = match row.opcode {
        Opcode::BatchForget => batch_forget(&mut input),
        Opcode::Interrupt => input.args::<abi::InterruptIn>().map(|a| Op::Interrupt(a.unique)),
        Opcode::Destroy => Ok(Op::Destroy),
        Opcode::Init | Opcode::CuseInit => Err(Errno::INVAL),
        opcode => {
            let node = NodeId::from_raw(m.header.nodeid).ok_or(Errno::INVAL)?;
            match opcode {
                Opcode::Lookup
                | Opcode::Symlink
                | Opcode::Mknod
                | Opcode::Mkdir
                | Opcode::Unlink
                | Opcode::Rmdir
                | Opcode::Rename
                | Opcode::Rename2
                | Opcode::Link
                | Opcode::Create
                | Opcode::Tmpfile => names(opcode, node, &mut input),
                Opcode::Read | Opcode::Write | Opcode::Readdir | Opcode::Readdirplus => {
                    transfer(opcode, node, &mut input)
                }
                Opcode::Getattr
                | Opcode::Statx
                | Opcode::Setattr
                | Opcode::Readlink
                | Opcode::Statfs
                | Opcode::Forget
                | Opcode::Access
                | Opcode::Setxattr
                | Opcode::Getxattr
                | Opcode::Listxattr
                | Opcode::Removexattr => nodes(opcode, node, &mut input),
                Opcode::Open
                | Opcode::Opendir
                | Opcode::Release
                | Opcode::Releasedir
                | Opcode::Flush
                | Opcode::Fsync
                | Opcode::Fsyncdir => open_files(opcode, node, &mut input),
                _ => rest(opcode, node, &mut input),
            }
        }
    };
    if op.is_ok() && !input.rest.is_empty() {
        return Err(Errno::INVAL);
    }
    op
}

/// The pieces of a message on their way into an operation.
struct Input<'a> {
    header: abi::InHeader,
    args: &'a [u8],
    rest: &'a [u8],
    extensions: &'a [u8],
    pages: Option<Pages<'a>>,
}

impl<'a> Input<'a> {
    fn new(m: &Message<'a>, row: &Operation) -> Result<Self> {
        let extensions = usize::from(m.header.total_extlen) * 8;
        let names = matches!(row.tail, Tail::NameAndExtensions | Tail::NameAndTarget);
        let (rest, extensions) = match m.payload.len().checked_sub(extensions) {
            Some(border) if names => m.payload.split_at(border),
            Some(_) if extensions == 0 => (m.payload, &[][..]),
            _ => return Err(Errno::INVAL),
        };
        Ok(Self { header: m.header, args: m.args, rest, extensions, pages: m.pages })
    }

    /// The fixed arguments: neither short nor long.
    fn args<T: FromBytes>(&self) -> Result<T> {
        T::read_from_bytes(self.args).map_err(|_| Errno::INVAL)
    }

    fn string(&mut self, max: usize) -> Result<&'a CStr> {
        let string = CStr::from_bytes_until_nul(self.rest).map_err(|_| Errno::INVAL)?;
        if string.count_bytes() > max {
            return Err(Errno::NAMETOOLONG);
        }
        self.rest = &self.rest[string.count_bytes() + 1..];
        Ok(string)
    }

    fn name(&mut self) -> Result<Name<'a>> {
        Name::new(self.string(limits::NAME_MAX)?).ok_or(Errno::INVAL)
    }

    fn attribute(&mut self) -> Result<&'a CStr> {
        let name = self
            .string(limits::XATTR_NAME_MAX)
            .map_err(|e| if e == Errno::NAMETOOLONG { Errno::RANGE } else { e })?;
        if name.is_empty() { Err(Errno::INVAL) } else { Ok(name) }
    }

    /// Exactly `size` bytes, which are all that is left.
    fn data(&mut self, size: usize) -> Result<&'a [u8]> {
        let data = std::mem::take(&mut self.rest);
        if data.len() == size { Ok(data) } else { Err(Errno::INVAL) }
    }

    /// The same, wherever they are.
    fn source(&mut self, size: usize) -> Result<Source<'a>> {
        match self.pages {
            Some(pages) if pages.len() == size => Ok(Source::in_pages(pages)),
            Some(_) => Err(Errno::INVAL),
            None => self.data(size).map(Source::new),
        }
    }

    /// Owner and label of a new node.
    fn created(&mut self) -> Result<(Owner, Option<SecurityContext<'a>>)> {
        let mut owner = Owner { uid: self.header.uid, gid: self.header.gid, supplementary: None };
        let mut security = None;
        let mut rest = std::mem::take(&mut self.extensions);
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

fn batch_forget<'a>(input: &mut Input<'a>) -> Result<Op<'a>> {
    let count = input.args::<abi::BatchForgetIn>()?.count as usize;
    let size = count.checked_mul(size_of::<abi::ForgetOne>()).ok_or(Errno::INVAL)?;
    input.data(size).map(|entries| Op::BatchForget(Forgets(entries)))
}

fn names<'a>(opcode: Opcode, node: NodeId, input: &mut Input<'a>) -> Result<Op<'a>> {
    Ok(match opcode {
        Opcode::Lookup => Op::Lookup(Lookup { parent: node, name: input.name()? }),
        Opcode::Unlink => Op::Unlink(Unlink { parent: node, name: input.name()? }),
        Opcode::Rmdir => Op::Rmdir(Rmdir { parent: node, name: input.name()? }),
        Opcode::Link => {
            let a: abi::LinkIn = input.args()?;
            let linked = NodeId::from_raw(a.oldnodeid).ok_or(Errno::INVAL)?;
            Op::Link(Link { node: linked, new_parent: node, new_name: input.name()? })
        }
        Opcode::Rename => {
            let a: abi::RenameIn = input.args()?;
            rename(node, a.newdir, 0, input)?
        }
        Opcode::Rename2 => {
            let a: abi::Rename2In = input.args()?;
            rename(node, a.newdir, a.flags, input)?
        }
        Opcode::Symlink => {
            let (name, target) = (input.name()?, input.string(limits::TARGET_MAX)?);
            let (owner, security) = input.created()?;
            Op::Symlink(Symlink { parent: node, name, target, owner, security })
        }
        Opcode::Mknod => {
            let (a, name): (abi::MknodIn, _) = (input.args()?, input.name()?);
            let (owner, security) = input.created()?;
            Op::Mknod(Mknod {
                parent: node,
                name,
                mode: a.mode,
                rdev: a.rdev,
                umask: a.umask,
                owner,
                security,
            })
        }
        Opcode::Mkdir => {
            let (a, name): (abi::MkdirIn, _) = (input.args()?, input.name()?);
            let (owner, security) = input.created()?;
            Op::Mkdir(Mkdir { parent: node, name, mode: a.mode, umask: a.umask, owner, security })
        }
        Opcode::Create => {
            let (a, name): (abi::CreateIn, _) = (input.args()?, input.name()?);
            let (owner, security) = input.created()?;
            let kill_suid_gid = kills(a.open_flags);
            let abi::CreateIn { flags, mode, umask, .. } = a;
            Op::Create(Create { parent: node, name, mode, umask, flags, kill_suid_gid, owner, security })
        }
        Opcode::Tmpfile => {
            let a: abi::CreateIn = input.args()?;
            // The kernel sends a name here (the unnamed file's dentry name); it means nothing.
            input.string(limits::NAME_MAX)?;
            let (owner, security) = input.created()?;
            let abi::CreateIn { flags, mode, umask, .. } = a;
            Op::Tmpfile(Tmpfile { parent: node, mode, umask, flags, owner, security })
        }
        _ => return Err(Errno::NOSYS),
    })
}

fn kills(open_flags: u32) -> bool {
    abi::OpenInFlags::from_bits_retain(open_flags).contains(abi::OpenInFlags::KILL_SUIDGID)
}

fn rename<'a>(parent: NodeId, new_parent: u64, flags: u32, input: &mut Input<'a>) -> Result<Op<'a>> {
    let new_parent = NodeId::from_raw(new_parent).ok_or(Errno::INVAL)?;
    let (name, new_name) = (input.name()?, input.name()?);
    let owner = Owner { uid: input.header.uid, gid: input.header.gid, supplementary: None };
    Ok(Op::Rename(Rename { parent, name, new_parent, new_name, flags, owner }))
}

fn transfer<'a>(opcode: Opcode, node: NodeId, input: &mut Input<'a>) -> Result<Op<'a>> {
    if opcode == Opcode::Write {
        let a: abi::WriteIn = input.args()?;
        let flags = abi::WriteFlags::from_bits_retain(a.write_flags);
        return Ok(Op::Write(Write {
            node,
            handle: Handle(a.fh),
            offset: a.offset,
            data: input.source(a.size as usize)?,
            flags: a.flags,
            cached: flags.contains(abi::WriteFlags::CACHE),
            kill_suid_gid: flags.contains(abi::WriteFlags::KILL_SUIDGID),
            lock_owner: flags.contains(abi::WriteFlags::LOCKOWNER).then_some(LockOwner(a.lock_owner)),
        }));
    }
    let a: abi::ReadIn = input.args()?;
    let (handle, cookie, size) = (Handle(a.fh), a.offset, a.size);
    let owned = abi::ReadFlags::from_bits_retain(a.read_flags).contains(abi::ReadFlags::LOCKOWNER);
    Ok(match opcode {
        Opcode::Readdir => Op::Readdir(Readdir { node, handle, cookie, size }),
        Opcode::Readdirplus => Op::Readdirplus(Readdirplus { node, handle, cookie, size }),
        _ => Op::Read(Read {
            node,
            handle,
            offset: a.offset,
            size,
            flags: a.flags,
            lock_owner: owned.then_some(LockOwner(a.lock_owner)),
        }),
    })
}

fn nodes<'a>(opcode: Opcode, node: NodeId, input: &mut Input<'a>) -> Result<Op<'a>> {
    let has_handle = |flags: u32| abi::GetattrFlags::from_bits_retain(flags).contains(abi::GetattrFlags::FH);
    Ok(match opcode {
        Opcode::Getattr => {
            let a: abi::GetattrIn = input.args()?;
            Op::Getattr(Getattr { node, handle: has_handle(a.getattr_flags).then_some(Handle(a.fh)) })
        }
        Opcode::Statx => {
            let a: abi::StatxIn = input.args()?;
            let handle = has_handle(a.getattr_flags).then_some(Handle(a.fh));
            Op::Statx(Statx { node, handle, flags: a.sx_flags, mask: a.sx_mask })
        }
        Opcode::Setattr => Op::Setattr(setattr(node, &input.args()?)?),
        Opcode::Readlink => Op::Readlink(Readlink { node }),
        Opcode::Statfs => Op::Statfs(Statfs { node }),
        Opcode::Forget => Op::Forget(Forget { node, count: input.args::<abi::ForgetIn>()?.nlookup }),
        Opcode::Access => Op::Access(Access { node, mask: input.args::<abi::AccessIn>()?.mask }),
        Opcode::Setxattr => setxattr(node, input)?,
        Opcode::Getxattr => {
            let a: abi::GetxattrIn = input.args()?;
            Op::Getxattr(Getxattr { node, name: input.attribute()?, size: a.size })
        }
        Opcode::Listxattr => Op::Listxattr(Listxattr { node, size: input.args::<abi::GetxattrIn>()?.size }),
        Opcode::Removexattr => Op::Removexattr(Removexattr { node, name: input.attribute()? }),
        _ => return Err(Errno::NOSYS),
    })
}

fn setxattr<'a>(node: NodeId, input: &mut Input<'a>) -> Result<Op<'a>> {
    let (size, flags, extra) = if input.args.len() == size_of::<abi::SetxattrInCompat>() {
        let a: abi::SetxattrInCompat = input.args()?;
        (a.size, a.flags, 0)
    } else {
        let a: abi::SetxattrIn = input.args()?;
        (a.size, a.flags, a.setxattr_flags)
    };
    if size as usize > limits::XATTR_SIZE_MAX {
        return Err(Errno::TOOBIG);
    }
    let name = input.attribute()?;
    let value = input.data(size as usize)?;
    let kill_sgid = abi::SetxattrFlags::from_bits_retain(extra).contains(abi::SetxattrFlags::ACL_KILL_SGID);
    Ok(Op::Setxattr(Setxattr { node, name, value, flags, kill_sgid }))
}

fn setattr(node: NodeId, a: &abi::SetattrIn) -> Result<Setattr> {
    let valid = SetattrValid::from_bits_retain(a.valid);
    let set = |flag: SetattrValid| valid.contains(flag);
    let stamp = |seconds: u64, nanos: u32| {
        if nanos > 999_999_999 { Err(Errno::INVAL) } else { Ok(Timestamp { seconds: seconds as i64, nanos }) }
    };
    let time = |to: SetattrValid, now: SetattrValid, seconds: u64, nanos: u32| match (set(now), set(to)) {
        (true, _) => Ok(Some(SetTime::Now)),
        (_, true) => stamp(seconds, nanos).map(|t| Some(SetTime::To(t))),
        _ => Ok(None),
    };
    let changes = Changes {
        mode: set(SetattrValid::MODE).then_some(a.mode & 0o7777),
        uid: set(SetattrValid::UID).then_some(a.uid),
        gid: set(SetattrValid::GID).then_some(a.gid),
        size: set(SetattrValid::SIZE).then_some(a.size),
        atime: time(SetattrValid::ATIME, SetattrValid::ATIME_NOW, a.atime, a.atimensec)?,
        mtime: time(SetattrValid::MTIME, SetattrValid::MTIME_NOW, a.mtime, a.mtimensec)?,
        ctime: if set(SetattrValid::CTIME) { Some(stamp(a.ctime, a.ctimensec)?) } else { None },
        kill_suid_gid: set(SetattrValid::KILL_SUIDGID),
    };
    let handle = set(SetattrValid::FH).then_some(Handle(a.fh));
    let lock_owner = set(SetattrValid::LOCKOWNER).then_some(LockOwner(a.lock_owner));
    Ok(Setattr { node, handle, changes, lock_owner })
}

fn open_files<'a>(opcode: Opcode, node: NodeId, input: &mut Input<'a>) -> Result<Op<'a>> {
    let data_only =
        |flags: u32| abi::FsyncFlags::from_bits_retain(flags).contains(abi::FsyncFlags::FDATASYNC);
    Ok(match opcode {
        Opcode::Open => {
            let a: abi::OpenIn = input.args()?;
            Op::Open(Open { node, flags: a.flags, kill_suid_gid: kills(a.open_flags) })
        }
        Opcode::Opendir => Op::Opendir(Opendir { node, flags: input.args::<abi::OpenIn>()?.flags }),
        Opcode::Release => {
            let a: abi::ReleaseIn = input.args()?;
            let flags = abi::ReleaseFlags::from_bits_retain(a.release_flags);
            let flock_owner =
                flags.contains(abi::ReleaseFlags::FLOCK_UNLOCK).then_some(LockOwner(a.lock_owner));
            Op::Release(Release { node, handle: Handle(a.fh), flags: a.flags, flock_owner })
        }
        Opcode::Releasedir => {
            let a: abi::ReleaseIn = input.args()?;
            Op::Releasedir(Releasedir { node, handle: Handle(a.fh), flags: a.flags })
        }
        Opcode::Flush => {
            let a: abi::FlushIn = input.args()?;
            Op::Flush(Flush { node, handle: Handle(a.fh), lock_owner: LockOwner(a.lock_owner) })
        }
        Opcode::Fsync => {
            let a: abi::FsyncIn = input.args()?;
            Op::Fsync(Fsync { node, handle: Handle(a.fh), data_only: data_only(a.fsync_flags) })
        }
        Opcode::Fsyncdir => {
            let a: abi::FsyncIn = input.args()?;
            Op::Fsyncdir(Fsyncdir { node, handle: Handle(a.fh), data_only: data_only(a.fsync_flags) })
        }
        _ => return Err(Errno::NOSYS),
    })
}

fn rest<'a>(opcode: Opcode, node: NodeId, input: &mut Input<'a>) -> Result<Op<'a>> {
    Ok(match opcode {
        Opcode::Getlk => {
            let (owner, lock, handle, _) = lock(input)?;
            Op::Getlk(Getlk { node, handle, owner, lock })
        }
        Opcode::Setlk | Opcode::Setlkw => {
            let (owner, lock, handle, flock) = lock(input)?;
            Op::Setlk(Setlk { node, handle, owner, lock, flock, wait: opcode == Opcode::Setlkw })
        }
        Opcode::Fallocate => {
            let a: abi::FallocateIn = input.args()?;
            let abi::FallocateIn { fh, offset, length, mode, .. } = a;
            Op::Fallocate(Fallocate { node, handle: Handle(fh), offset, length, mode })
        }
        Opcode::Lseek => {
            let a: abi::LseekIn = input.args()?;
            Op::Lseek(Lseek { node, handle: Handle(a.fh), offset: a.offset, whence: a.whence })
        }
        Opcode::CopyFileRange => Op::CopyFileRange(copy(node, &input.args()?)?),
        Opcode::CopyFileRange64 => Op::CopyFileRange64(copy(node, &input.args()?)?),
        Opcode::Bmap => {
            let a: abi::BmapIn = input.args()?;
            Op::Bmap(Bmap { node, block: a.block, block_size: a.blocksize })
        }
        Opcode::Ioctl => {
            let a: abi::IoctlIn = input.args()?;
            let abi::IoctlIn { fh, flags, cmd, arg, in_size, out_size } = a;
            let input = input.data(in_size as usize)?;
            Op::Ioctl(Ioctl { node, handle: Handle(fh), command: cmd, argument: arg, flags, input, out_size })
        }
        Opcode::Poll => {
            let a: abi::PollIn = input.args()?;
            let schedule =
                abi::PollFlags::from_bits_retain(a.flags).contains(abi::PollFlags::SCHEDULE_NOTIFY);
            Op::Poll(Poll { node, handle: Handle(a.fh), events: a.events, kernel_handle: a.kh, schedule })
        }
        Opcode::NotifyReply => {
            let a: abi::NotifyRetrieveIn = input.args()?;
            let data = Source::new(input.data(a.size as usize)?);
            Op::Retrieved(Retrieved { node, unique: input.header.unique, offset: a.offset, data })
        }
        Opcode::Syncfs => input.args::<abi::SyncfsIn>().map(|_| Op::Syncfs(Syncfs { node }))?,
        Opcode::Setupmapping => {
            let a: abi::SetupmappingIn = input.args()?;
            let (handle, file_offset, length) = (Handle(a.fh), a.foffset, a.len);
            Op::Setupmapping(Setupmapping {
                node,
                handle,
                file_offset,
                length,
                flags: a.flags,
                window_offset: a.moffset,
            })
        }
        Opcode::Removemapping => {
            let count = input.args::<abi::RemovemappingIn>()?.count as usize;
            let size = count.checked_mul(size_of::<abi::RemovemappingOne>()).ok_or(Errno::INVAL)?;
            Op::Removemapping(Removemapping { node, ranges: MappingRanges(input.data(size)?) })
        }
        _ => return Err(Errno::NOSYS),
    })
}

fn lock(input: &Input<'_>) -> Result<(LockOwner, FileLock, Handle, bool)> {
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

fn copy(node: NodeId, a: &abi::CopyFileRangeIn) -> Result<CopyFileRange> {
    Ok(CopyFileRange {
        node,
        handle: Handle(a.fh_in),
        offset: a.off_in,
        to_node: NodeId::from_raw(a.nodeid_out).ok_or(Errno::INVAL)?,
        to_handle: Handle(a.fh_out),
        to_offset: a.off_out,
        length: a.len,
        flags: a.flags,
    })
}
