//! The operations.

use std::cell::RefCell;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{
    AtFlags, FallocateFlags, FileType as Kind, Gid, Mode, OFlags, RawDir, SeekFrom, Timestamps, Uid,
    XattrFlags,
};

use crate::attr::{attributes, bare_attributes, file_type, timespec};
use crate::files::Files;
use crate::nodes::{Node, Nodes};
use crate::{Args, Flush, seconds};

const GENERATION: Generation = Generation(0);
/// Lower directory bytes read at once.
const DIR_BUFFER: usize = 16 * 1024;

thread_local! {
    /// One read buffer per reader thread: allocating 1 MiB per request costs more than reading it.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

type Answer<T> = Result<T, Errno>;

/// Re-export of one directory.
#[derive(Debug)]
pub struct Passthrough {
    nodes: Nodes,
    files: Files,
    /// `/proc/self/fd`, to turn an `O_PATH` descriptor into an open file.
    proc: OwnedFd,
    ttl: Duration,
    negative_ttl: Duration,
    fopen: FopenFlags,
    fopen_dir: FopenFlags,
    flush: Flush,
    readdirplus: bool,
    posix_acl: bool,
    auto_invalidate: bool,
    max_write: u32,
    uid: u32,
    gid: u32,
}

impl Passthrough {
    /// Opens the source directory.
    pub fn new(args: &Args) -> io::Result<Self> {
        let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&args.src, dir, Mode::empty())?;
        let stat = rustix::fs::fstat(&root)?;
        let mut fopen = FopenFlags::empty();
        fopen.set(FopenFlags::FOPEN_KEEP_CACHE, args.keep_cache);
        fopen.set(FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES, args.direct_io);
        let mut fopen_dir = FopenFlags::empty();
        fopen_dir.set(FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE, args.keep_cache);
        Ok(Self {
            nodes: Nodes::new(root, &stat),
            files: Files::default(),
            proc: rustix::fs::open("/proc/self/fd", dir, Mode::empty())?,
            ttl: seconds(args.timeout),
            negative_ttl: seconds(args.negative_timeout),
            fopen,
            fopen_dir,
            flush: args.flush,
            readdirplus: args.readdirplus,
            posix_acl: args.posix_acl,
            auto_invalidate: args.auto_invalidate,
            max_write: args.max_write,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        })
    }

    fn node(&self, ino: INodeNo) -> Answer<Arc<Node>> {
        self.nodes.get(ino.0).ok_or(Errno::ESTALE)
    }

    fn file(&self, fh: FileHandle) -> Answer<Arc<OwnedFd>> {
        self.files.get(fh.0).ok_or(Errno::EBADF)
    }

    /// Opens the name with `O_PATH`, tells its attributes and counts the lookup.
    fn look_up(&self, parent: &Node, name: &OsStr) -> Answer<FileAttr> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&parent.fd, name, flags, Mode::empty()).map_err(errno)?;
        let stat = rustix::fs::fstat(&fd).map_err(errno)?;
        let id = self.nodes.id(&stat);
        self.nodes.remember(id, fd);
        Ok(attributes(id, &stat))
    }

    /// A new name belongs to the caller, not to the daemon.
    fn give_to_caller(&self, req: &Request, parent: &Node, name: &OsStr) -> Answer<()> {
        if req.uid() == self.uid && req.gid() == self.gid {
            return Ok(());
        }
        let dir = rustix::fs::fstat(&parent.fd).map_err(errno)?;
        let inherits_group = Mode::from_raw_mode(dir.st_mode).contains(Mode::SGID);
        let gid = (!inherits_group).then(|| Gid::from_raw(req.gid()));
        rustix::fs::chownat(&parent.fd, name, Some(Uid::from_raw(req.uid())), gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(errno)
    }

    /// Opens a known file for real.
    fn reopen(&self, node: &Node, flags: OFlags) -> Answer<OwnedFd> {
        let name = node.fd.as_raw_fd().to_string();
        rustix::fs::openat(&self.proc, name, flags | OFlags::CLOEXEC, Mode::empty()).map_err(errno)
    }

    fn open_file(&self, ino: INodeNo, flags: OpenFlags, req: &Request) -> Answer<FileHandle> {
        let node = self.node(ino)?;
        let flags = lower_flags(flags.0);
        let fd = self.reopen(&node, flags - OFlags::CREATE - OFlags::EXCL)?;
        if flags.contains(OFlags::TRUNC) && req.uid() != 0 {
            clear_suid(&fd)?;
        }
        Ok(FileHandle(self.files.insert(fd)))
    }

    fn set_attributes(&self, change: &Change) -> Answer<FileAttr> {
        let node = self.node(change.ino)?;
        let proc_name = node.fd.as_raw_fd().to_string();
        if let Some(mode) = change.mode {
            rustix::fs::chmodat(&self.proc, &proc_name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
                .map_err(errno)?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            rustix::fs::chownat(&node.fd, c"", uid, gid, AtFlags::EMPTY_PATH).map_err(errno)?;
        }
        if let Some(size) = change.size {
            match change.fh {
                Some(fh) => rustix::fs::ftruncate(self.file(fh)?, size).map_err(errno)?,
                None => {
                    let fd = self.reopen(&node, OFlags::WRONLY)?;
                    rustix::fs::ftruncate(&fd, size).map_err(errno)?;
                    if change.caller != 0 {
                        clear_suid(&fd)?;
                    }
                }
            }
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times =
                Timestamps { last_access: timespec(change.atime), last_modification: timespec(change.mtime) };
            rustix::fs::utimensat(&self.proc, &proc_name, &times, AtFlags::empty()).map_err(errno)?;
        }
        let stat = rustix::fs::fstat(&node.fd).map_err(errno)?;
        Ok(attributes(change.ino.0, &stat))
    }

    /// Calls `emit` for each entry behind `offset` until it says that the reply is full.
    fn list(&self, fh: FileHandle, offset: u64, mut emit: impl FnMut(&Entry<'_>) -> bool) -> Answer<()> {
        let dir = self.file(fh)?;
        rustix::fs::seek(&dir, SeekFrom::Start(offset)).map_err(errno)?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); DIR_BUFFER];
        let mut entries = RawDir::new(&*dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(errno)?;
            let full = emit(&Entry {
                ino: entry.ino(),
                offset: entry.next_entry_cookie(),
                kind: entry.file_type(),
                name: entry.file_name(),
            });
            if full {
                break;
            }
        }
        Ok(())
    }

    /// Permissions of a new file. With lists the kernel leaves the caller's mask to the daemon; that a default list
    /// would take its place is left out here, as it changes no cost.
    fn permissions(&self, mode: u32, umask: u32) -> Mode {
        let masked = if self.posix_acl { mode & !umask } else { mode };
        Mode::from_raw_mode(masked & 0o7777)
    }

    fn xattr_path(&self, ino: INodeNo) -> Answer<(Arc<Node>, CString)> {
        let node = self.node(ino)?;
        let path =
            CString::new(format!("/proc/self/fd/{}", node.fd.as_raw_fd())).map_err(|_| Errno::EINVAL)?;
        Ok((node, path))
    }
}

/// What SETATTR asks for.
struct Change {
    ino: INodeNo,
    caller: u32,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
    fh: Option<FileHandle>,
}

/// One name of a lower directory.
struct Entry<'a> {
    ino: u64,
    offset: u64,
    kind: Kind,
    name: &'a CStr,
}

impl Filesystem for Passthrough {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        if self.readdirplus {
            wanted |= InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO;
        }
        if self.posix_acl {
            // The mask of new files does not count where a directory has a default list.
            wanted |= InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK;
        }
        if self.auto_invalidate {
            wanted |= InitFlags::FUSE_AUTO_INVAL_DATA;
        }
        // An older kernel lacks some of them and works without.
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_write(self.max_write);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.node(parent).and_then(|parent| self.look_up(&parent, name)) {
            Ok(attr) => reply.entry(&self.ttl, &attr, GENERATION),
            Err(error) if error.code() == libc::ENOENT && !self.negative_ttl.is_zero() => {
                // Node 0 says that there is none, for a time; the error says it for this once.
                let none = bare_attributes(0, fuser::FileType::RegularFile);
                reply.entry(&self.negative_ttl, &none, GENERATION);
            }
            Err(error) => reply.error(error),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.nodes.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let attr = self.node(ino).and_then(|node| rustix::fs::fstat(&node.fd).map_err(errno));
        match attr {
            Ok(stat) => reply.attr(&self.ttl, &attributes(ino.0, &stat)),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change { ino, caller: req.uid(), mode, uid, gid, size, atime, mtime, fh };
        match self.set_attributes(&change) {
            Ok(attr) => reply.attr(&self.ttl, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self
            .node(ino)
            .and_then(|node| rustix::fs::readlinkat(&node.fd, c"", Vec::with_capacity(256)).map_err(errno));
        match target {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = self.node(parent).and_then(|parent| {
            let (kind, perm) = (Kind::from_raw_mode(mode), self.permissions(mode, umask));
            rustix::fs::mknodat(&parent.fd, name, kind, perm, u64::from(rdev)).map_err(errno)?;
            self.give_to_caller(req, &parent, name)?;
            self.look_up(&parent, name)
        });
        match made {
            Ok(attr) => reply.entry(&self.ttl, &attr, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let made = self.node(parent).and_then(|parent| {
            rustix::fs::mkdirat(&parent.fd, name, self.permissions(mode, umask)).map_err(errno)?;
            self.give_to_caller(req, &parent, name)?;
            self.look_up(&parent, name)
        });
        match made {
            Ok(attr) => reply.entry(&self.ttl, &attr, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self
            .node(parent)
            .and_then(|parent| rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()).map_err(errno));
        empty(reply, done);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self
            .node(parent)
            .and_then(|parent| rustix::fs::unlinkat(&parent.fd, name, AtFlags::REMOVEDIR).map_err(errno));
        empty(reply, done);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let made = self.node(parent).and_then(|parent| {
            rustix::fs::symlinkat(target, &parent.fd, name).map_err(errno)?;
            self.give_to_caller(req, &parent, name)?;
            self.look_up(&parent, name)
        });
        match made {
            Ok(attr) => reply.entry(&self.ttl, &attr, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = self.node(parent).and_then(|from| {
            let to = self.node(newparent)?;
            let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
            rustix::fs::renameat_with(&from.fd, name, &to.fd, newname, flags).map_err(errno)
        });
        empty(reply, done);
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let made = self.node(ino).and_then(|node| {
            let parent = self.node(newparent)?;
            let proc_name = node.fd.as_raw_fd().to_string();
            rustix::fs::linkat(&self.proc, proc_name, &parent.fd, newname, AtFlags::SYMLINK_FOLLOW)
                .map_err(errno)?;
            self.look_up(&parent, newname)
        });
        match made {
            Ok(attr) => reply.entry(&self.ttl, &attr, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(ino, flags, req) {
            Ok(fh) => reply.opened(fh, self.fopen),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.node(parent).and_then(|parent| {
            let flags = lower_flags(flags) | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let mode = self.permissions(mode, umask);
            let fd = rustix::fs::openat(&parent.fd, name, flags, mode).map_err(errno)?;
            self.give_to_caller(req, &parent, name)?;
            let attr = self.look_up(&parent, name)?;
            Ok((attr, FileHandle(self.files.insert(fd))))
        });
        match made {
            Ok((attr, fh)) => reply.created(&self.ttl, &attr, GENERATION, fh, self.fopen),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = match self.file(fh) {
            Ok(file) => file,
            Err(error) => return reply.error(error),
        };
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match read_full(&file, &mut buffer[..size], offset) {
                Ok(length) => reply.data(&buffer[..length]),
                Err(error) => reply.error(error),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.file(fh).and_then(|file| {
            if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                clear_suid(&file)?;
            }
            rustix::io::pwrite(&*file, data, offset).map_err(errno)
        });
        match written {
            Ok(length) => reply.written(length as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let done = match self.flush {
            Flush::Dup => self.file(fh).and_then(|file| rustix::io::dup(&*file).map_err(errno).map(drop)),
            Flush::Ok => Ok(()),
            Flush::Skip => Err(Errno::ENOSYS),
        };
        empty(reply, done);
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.files.remove(fh.0);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let done = self.file(fh).and_then(|file| {
            if datasync { rustix::fs::fdatasync(&*file) } else { rustix::fs::fsync(&*file) }.map_err(errno)
        });
        empty(reply, done);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.node(ino).and_then(|node| self.reopen(&node, OFlags::RDONLY | OFlags::DIRECTORY));
        match opened {
            Ok(fd) => reply.opened(FileHandle(self.files.insert(fd)), self.fopen_dir),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.list(fh, offset, |entry| {
            let name = OsStr::from_bytes(entry.name.to_bytes());
            reply.add(INodeNo(entry.ino), entry.offset, file_type(entry.kind), name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.node(ino).and_then(|dir| {
            self.list(fh, offset, |entry| {
                let name = OsStr::from_bytes(entry.name.to_bytes());
                if name == "." || name == ".." {
                    let attr = bare_attributes(entry.ino, file_type(entry.kind));
                    return reply.add(attr.ino, entry.offset, name, &Duration::ZERO, &attr, GENERATION);
                }
                // A name that vanished meanwhile is not listed.
                let Ok(attr) = self.look_up(&dir, name) else { return false };
                let full = reply.add(attr.ino, entry.offset, name, &self.ttl, &attr, GENERATION);
                if full {
                    self.nodes.forget(attr.ino.0, 1);
                }
                full
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.files.remove(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.fsync(req, ino, fh, datasync, reply);
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.node(ino).and_then(|node| rustix::fs::fstatvfs(&node.fd).map_err(errno)) {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(error) => reply.error(error),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let done = self.xattr_path(ino).and_then(|(_node, path)| {
            let flags = XattrFlags::from_bits_retain(flags as u32);
            rustix::fs::setxattr(&path, name, value, flags).map_err(errno)
        });
        empty(reply, done);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let mut value = vec![0_u8; size as usize];
        let length = self.xattr_path(ino).and_then(|(_node, path)| {
            if size == 0 {
                rustix::fs::getxattr_query(&path, name)
            } else {
                rustix::fs::getxattr(&path, name, value.as_mut_slice())
            }
            .map_err(errno)
        });
        sized(reply, length, &value);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let mut names = vec![0_u8; size as usize];
        let length = self.xattr_path(ino).and_then(|(_node, path)| {
            if size == 0 {
                rustix::fs::listxattr_query(&path)
            } else {
                rustix::fs::listxattr(&path, names.as_mut_slice())
            }
            .map_err(errno)
        });
        sized(reply, length, &names);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self
            .xattr_path(ino)
            .and_then(|(_node, path)| rustix::fs::removexattr(&path, name).map_err(errno));
        empty(reply, done);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = self.file(fh).and_then(|file| {
            let mode = FallocateFlags::from_bits_retain(mode as u32);
            rustix::fs::fallocate(&*file, mode, offset, length).map_err(errno)
        });
        empty(reply, done);
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let found = self.file(fh).and_then(|file| {
            let from = match whence {
                libc::SEEK_DATA => SeekFrom::Data(offset as u64),
                libc::SEEK_HOLE => SeekFrom::Hole(offset as u64),
                _ => return Err(Errno::EINVAL),
            };
            rustix::fs::seek(&*file, from).map_err(errno)
        });
        match found {
            Ok(offset) => reply.offset(offset as i64),
            Err(error) => reply.error(error),
        }
    }
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

fn empty(reply: ReplyEmpty, done: Answer<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn sized(reply: ReplyXattr, length: Answer<usize>, bytes: &[u8]) {
    match length {
        Ok(length) if bytes.is_empty() => reply.size(length as u32),
        Ok(length) => reply.data(&bytes[..length]),
        Err(error) => reply.error(error),
    }
}

/// Flags for the lower file. `O_DIRECT` is the client's wish about its own cache; the buffer here is not aligned.
fn lower_flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags as u32) - OFlags::DIRECT - OFlags::NOFOLLOW - OFlags::NOCTTY
}

/// The daemon may write without losing suid and sgid, so it clears them when the kernel asks for it.
fn clear_suid(fd: &OwnedFd) -> Answer<()> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(fd).map_err(errno)?.st_mode);
    let mut kept = mode - Mode::SUID;
    if mode.contains(Mode::XGRP) {
        kept -= Mode::SGID;
    }
    if kept != mode { rustix::fs::fchmod(fd, kept).map_err(errno) } else { Ok(()) }
}

/// A short read in the middle of a file would be filled with zeroes by the kernel.
fn read_full(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> Answer<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(length) => done += length,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(errno(error)),
        }
    }
    Ok(done)
}
