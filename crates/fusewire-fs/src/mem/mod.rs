//! A complete filesystem in memory: what is right on it is right, which makes it the model that others are tested against.
//!
//! One lock guards everything and is never held while waiting, so that each operation happens at once or not at all.
//! Permissions are the kernel's affair: access control lists are asked for, and with them the kernel checks by itself
//! (`default_permissions`).

mod acl;
mod data;
mod lock;
mod node;
#[cfg(test)]
mod tests;
mod tree;
mod xattr;

use data::PAGE;
use fusewire::{
    Attr, Caller, Config, Context, Entry, Errno, Extended, FileLock, FileSystem, FileType, FopenFlags,
    InitFlags, Opened, Result, SetTime, StatFs, Timestamp, op,
    reply::{DirPlusSink, DirSink, Sink, XattrSink},
};
use node::{Body, Directory, Node};
use rustix::fs::{FallocateFlags, OFlags};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tree::{NAME_MAX, Needs, Plan, State};

/// How large a [`MemFs`] may become, and how long the kernel may rely on what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemOptions {
    /// Room for the content of files, bytes; more is `ENOSPC`. Default 1 GiB.
    pub capacity: u64,
    /// How many files, directories and other objects there may be; more is `ENOSPC`. Default one million.
    pub nodes: u64,
    /// For how long the kernel may answer from names and attributes that it has seen. Default a second.
    pub ttl: Duration,
    /// Permission bits of the root directory. Default 0o755.
    pub root_mode: u16,
    /// User and group that the root directory belongs to. Default: those of this process.
    pub root_owner: (u32, u32),
}

impl Default for MemOptions {
    fn default() -> Self {
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Self {
            capacity: 1 << 30,
            nodes: 1_000_000,
            ttl: Duration::from_secs(1),
            root_mode: 0o755,
            root_owner: owner,
        }
    }
}

/// The filesystem. Its content goes with it.
#[derive(Debug)]
pub struct MemFs {
    state: Mutex<State>,
    options: MemOptions,
}

impl Default for MemFs {
    fn default() -> Self {
        Self::new(MemOptions::default())
    }
}

/// A handler that panicked leaves the state as it was between two steps; that is answered `EIO` by the caller, and the
/// others go on.
fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemFs {
    /// An empty filesystem.
    pub fn new(options: MemOptions) -> Self {
        Self { state: Mutex::new(State::new(&options)), options }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn opened(handle: fusewire::Handle) -> Opened {
        // Nobody but the kernel changes a file: what it has cached stays right.
        Opened::new(handle).with_flags(FopenFlags::KEEP_CACHE)
    }
}

impl State {
    /// Open a file that exists.
    fn open_file(
        &mut self,
        id: fusewire::NodeId,
        flags: u32,
        kill_suid_gid: bool,
    ) -> Result<fusewire::Handle> {
        self.data(id)?;
        if OFlags::from_bits_retain(flags).contains(OFlags::TRUNC) {
            self.truncate(id, 0, kill_suid_gid)?;
        }
        self.open(id, flags)
    }

    fn truncate(&mut self, id: fusewire::NodeId, size: u64, kill_suid_gid: bool) -> Result<()> {
        let (node, space) = self.file(id)?;
        if let Body::File(data) = &mut node.body {
            data.resize(size, space)?;
        }
        node.modified();
        node.kill_capabilities();
        if kill_suid_gid {
            node.kill_suid_gid();
        }
        Ok(())
    }

    fn write(&mut self, op: &op::Write<'_>) -> Result<u32> {
        if !op.cached {
            self.check_handle(op.node, op.handle, Needs::Writing)?;
        }
        let (node, space) = self.file(op.node)?;
        let Body::File(data) = &mut node.body else { return Err(Errno::INVAL) };
        // The kernel's idea of where the file ends may be old; whoever appends means the end there is.
        let append = OFlags::from_bits_retain(op.flags).contains(OFlags::APPEND) && !op.cached;
        let offset = if append { data.size() } else { op.offset };
        let done = data.write(offset, &op.data.to_vec(), space)?;
        if done > 0 {
            node.modified();
            node.kill_capabilities();
            if op.kill_suid_gid {
                node.kill_suid_gid();
            }
        }
        Ok(done as u32)
    }

    fn fallocate(&mut self, caller: Option<Caller>, op: &op::Fallocate) -> Result<()> {
        use FallocateFlags as F;
        self.check_handle(op.node, op.handle, Needs::Writing)?;
        let mode = F::from_bits_retain(op.mode);
        let end =
            op.offset.checked_add(op.length).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::FBIG)?;
        let (node, space) = self.file(op.node)?;
        let Body::File(data) = &mut node.body else { return Err(Errno::INVAL) };
        let keep_size = mode.contains(F::KEEP_SIZE);
        match mode - F::KEEP_SIZE {
            F::PUNCH_HOLE if keep_size => data.punch(op.offset, end, space),
            F::COLLAPSE_RANGE if !keep_size => data.collapse(op.offset, op.length, space)?,
            F::INSERT_RANGE if !keep_size => data.insert(op.offset, op.length)?,
            F::ZERO_RANGE => data.zero(op.offset, end, space)?,
            rest if rest.is_empty() || rest == F::UNSHARE_RANGE => data.reserve(op.offset, end, space)?,
            _ => return Err(Errno::OPNOTSUPP),
        }
        let extends = !mode.intersects(F::KEEP_SIZE | F::COLLAPSE_RANGE | F::INSERT_RANGE);
        if extends {
            data.extend(end);
        }
        node.modified_by(caller);
        Ok(())
    }

    fn setattr(&mut self, caller: Option<Caller>, op: &op::Setattr) -> Result<()> {
        let changes = &op.changes;
        if let Some(size) = changes.size {
            // The only change that can fail comes first.
            self.truncate(op.node, size, changes.kill_suid_gid)?;
        }
        let node = self.node_mut(op.node)?;
        // A change of owner voids set-user-id whoever makes it. A request to change nothing at all is what the kernel
        // sends of `chown(-1, -1)`, and before a write that says the same; it has not checked whose file it is.
        let owner = changes.uid.is_some() || changes.gid.is_some();
        let may_void = caller.is_some_and(|caller| caller.uid == 0 || caller.uid == node.uid);
        if owner || changes.kill_suid_gid || (may_void && *changes == Default::default()) {
            node.kill_suid_gid();
        }
        if owner {
            node.kill_capabilities();
        }
        node.uid = changes.uid.unwrap_or(node.uid);
        node.gid = changes.gid.unwrap_or(node.gid);
        if let Some(mode) = changes.mode {
            node.set_perm((mode & 0o7777) as u16);
        }
        let now = Timestamp::now();
        let time = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::To(time) => time,
        };
        node.atime = changes.atime.map_or(node.atime, time);
        node.mtime = changes.mtime.map_or(node.mtime, time);
        node.ctime = changes.ctime.unwrap_or(now);
        Ok(())
    }
}

impl FileSystem for MemFs {
    fn init(&self, config: &mut Config) -> Result<()> {
        // Not ATOMIC_O_TRUNC: with it the kernel has `open(O_RDONLY | O_TRUNC)` empty a program that is running, and
        // looks whether it may (`ETXTBSY`) only afterwards.
        config.want(
            InitFlags::HANDLE_KILLPRIV_V2
                | InitFlags::DONT_MASK
                | InitFlags::POSIX_ACL
                | InitFlags::POSIX_LOCKS
                | InitFlags::FLOCK_LOCKS
                | InitFlags::DO_READDIRPLUS
                | InitFlags::READDIRPLUS_AUTO
                | InitFlags::CACHE_SYMLINKS
                | InitFlags::SECURITY_CTX,
        );
        Ok(())
    }

    fn destroyed(&self) {
        self.state().forget_all();
    }

    async fn lookup(&self, _cx: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        let mut state = self.state();
        match state.find((op.parent, op.name.as_bytes())) {
            Ok(id) => state.entry(id),
            Err(Errno::NOENT) => Ok(Entry::absent(self.options.ttl)),
            Err(error) => Err(error),
        }
    }

    fn forget(&self, op: op::Forget) {
        self.state().forget(op.node, op.count);
    }

    fn batch_forget(&self, ops: impl Iterator<Item = op::Forget>) {
        let mut state = self.state();
        ops.for_each(|op| state.forget(op.node, op.count));
    }

    async fn getattr(&self, _cx: &Context, op: op::Getattr) -> Result<Attr> {
        Ok(self.state().node(op.node)?.attr(self.options.ttl))
    }

    async fn statx(&self, _cx: &Context, op: op::Statx) -> Result<(Attr, Extended)> {
        let state = self.state();
        let node = state.node(op.node)?;
        Ok((node.attr(self.options.ttl), Extended { btime: Some(node.btime), ..Default::default() }))
    }

    async fn setattr(&self, cx: &Context, op: op::Setattr) -> Result<Attr> {
        let mut state = self.state();
        state.setattr(cx.caller(), &op)?;
        Ok(state.node(op.node)?.attr(self.options.ttl))
    }

    async fn readlink(&self, _cx: &Context, op: op::Readlink, out: &mut Sink<'_>) -> Result<()> {
        let mut state = self.state();
        let node = state.node_mut(op.node)?;
        let Body::Symlink(target) = &node.body else { return Err(Errno::INVAL) };
        out.put(target);
        node.accessed();
        Ok(())
    }

    async fn symlink(&self, _cx: &Context, op: op::Symlink<'_>) -> Result<Entry> {
        let body = Body::Symlink(op.target.to_bytes().into());
        let plan = Plan { body, mode: 0o777, umask: 0, owner: op.owner, security: op.security };
        let mut state = self.state();
        let id = state.make((op.parent, op.name.as_bytes()), plan)?;
        state.entry(id)
    }

    async fn mknod(&self, _cx: &Context, op: op::Mknod<'_>) -> Result<Entry> {
        let body = match FileType::from_mode(op.mode) {
            Some(FileType::Regular) => Body::File(Default::default()),
            Some(kind @ (FileType::Fifo | FileType::Socket)) => Body::Special(kind, 0),
            Some(kind @ (FileType::CharDevice | FileType::BlockDevice)) => Body::Special(kind, op.rdev),
            _ => return Err(Errno::INVAL),
        };
        let plan = Plan { body, mode: op.mode, umask: op.umask, owner: op.owner, security: op.security };
        let mut state = self.state();
        let id = state.make((op.parent, op.name.as_bytes()), plan)?;
        state.entry(id)
    }

    async fn mkdir(&self, _cx: &Context, op: op::Mkdir<'_>) -> Result<Entry> {
        let body = Body::Directory(Directory::new(op.parent));
        let plan = Plan { body, mode: op.mode, umask: op.umask, owner: op.owner, security: op.security };
        let mut state = self.state();
        let id = state.make((op.parent, op.name.as_bytes()), plan)?;
        state.entry(id)
    }

    async fn unlink(&self, _cx: &Context, op: op::Unlink<'_>) -> Result<()> {
        self.state().unlink((op.parent, op.name.as_bytes()))
    }

    async fn rmdir(&self, _cx: &Context, op: op::Rmdir<'_>) -> Result<()> {
        self.state().rmdir((op.parent, op.name.as_bytes()))
    }

    async fn rename(&self, _cx: &Context, op: op::Rename<'_>) -> Result<()> {
        let (from, to) = ((op.parent, op.name.as_bytes()), (op.new_parent, op.new_name.as_bytes()));
        self.state().rename(from, to, op.flags, op.owner)
    }

    async fn link(&self, _cx: &Context, op: op::Link<'_>) -> Result<Entry> {
        let mut state = self.state();
        state.link(op.node, (op.new_parent, op.new_name.as_bytes()))?;
        state.entry(op.node)
    }

    async fn open(&self, _cx: &Context, op: op::Open) -> Result<Opened> {
        self.state().open_file(op.node, op.flags, op.kill_suid_gid).map(Self::opened)
    }

    async fn create(&self, _cx: &Context, op: op::Create<'_>) -> Result<(Entry, Opened)> {
        let place = (op.parent, op.name.as_bytes());
        let mut state = self.state();
        let exclusive = OFlags::from_bits_retain(op.flags).contains(OFlags::EXCL);
        let (id, handle) = match state.find(place) {
            Ok(id) if !exclusive => (id, state.open_file(id, op.flags, op.kill_suid_gid)?),
            _ => {
                let body = Body::File(Default::default());
                let plan =
                    Plan { body, mode: op.mode, umask: op.umask, owner: op.owner, security: op.security };
                let id = state.make(place, plan)?;
                (id, state.open(id, op.flags)?)
            }
        };
        Ok((state.entry(id)?, Self::opened(handle)))
    }

    async fn tmpfile(&self, _cx: &Context, op: op::Tmpfile<'_>) -> Result<(Entry, Opened)> {
        let body = Body::File(Default::default());
        let plan = Plan { body, mode: op.mode, umask: op.umask, owner: op.owner, security: op.security };
        let mut state = self.state();
        let id = state.add(op.parent, plan)?;
        let handle = state.open(id, op.flags)?;
        state.node_mut(id)?.linkable = !OFlags::from_bits_retain(op.flags).contains(OFlags::EXCL);
        Ok((state.entry(id)?, Self::opened(handle)))
    }

    async fn read(&self, _cx: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        let mut state = self.state();
        state.check_handle(op.node, op.handle, Needs::Reading)?;
        state.data(op.node)?.read(op.offset, u64::from(op.size), out);
        if !out.is_empty() && !OFlags::from_bits_retain(op.flags).contains(OFlags::NOATIME) {
            state.node_mut(op.node)?.accessed();
        }
        Ok(())
    }

    async fn write(&self, _cx: &Context, op: op::Write<'_>) -> Result<u32> {
        self.state().write(&op)
    }

    async fn statfs(&self, _cx: &Context, _op: op::Statfs) -> Result<StatFs> {
        let state = self.state();
        Ok(StatFs {
            blocks: state.space.total(),
            bfree: state.space.free(),
            bavail: state.space.free(),
            files: self.options.nodes,
            ffree: self.options.nodes.saturating_sub(state.count()),
            bsize: PAGE as u32,
            namelen: NAME_MAX as u32,
            frsize: PAGE as u32,
        })
    }

    async fn release(&self, _cx: &Context, op: op::Release) -> Result<()> {
        {
            let mut state = self.state();
            state.node_mut(op.node)?.locks.closed(op.handle, op.flock_owner);
            state.close(op.node, op.handle)?;
        }
        lock::wake(&self.state, op.node);
        Ok(())
    }

    async fn fsync(&self, _cx: &Context, op: op::Fsync) -> Result<()> {
        self.state().check_handle(op.node, op.handle, Needs::Nothing)
    }

    async fn flush(&self, _cx: &Context, op: op::Flush) -> Result<()> {
        {
            let mut state = self.state();
            state.check_handle(op.node, op.handle, Needs::Nothing)?;
            state.node_mut(op.node)?.locks.drop_ranges(op.lock_owner);
        }
        lock::wake(&self.state, op.node);
        Ok(())
    }

    async fn setxattr(&self, _cx: &Context, op: op::Setxattr<'_>) -> Result<()> {
        let mut state = self.state();
        let node = state.node_mut(op.node)?;
        node.set_xattr(op.name.to_bytes(), op.value, op.flags)?;
        if op.kill_sgid {
            node.kill_set_group_id();
        }
        Ok(())
    }

    async fn getxattr(&self, _cx: &Context, op: op::Getxattr<'_>, out: &mut XattrSink<'_>) -> Result<()> {
        out.put(self.state().node(op.node)?.xattr(op.name.to_bytes())?);
        Ok(())
    }

    async fn listxattr(&self, cx: &Context, op: op::Listxattr, out: &mut XattrSink<'_>) -> Result<()> {
        let privileged = cx.caller().is_none_or(|caller| caller.uid == 0);
        let state = self.state();
        for name in state.node(op.node)?.xattrs.names(privileged) {
            out.put(name);
            out.put(b"\0");
        }
        Ok(())
    }

    async fn removexattr(&self, _cx: &Context, op: op::Removexattr<'_>) -> Result<()> {
        self.state().node_mut(op.node)?.remove_xattr(op.name.to_bytes())
    }

    async fn opendir(&self, _cx: &Context, op: op::Opendir) -> Result<Opened> {
        let mut state = self.state();
        if !state.node(op.node)?.is_directory() {
            return Err(Errno::NOTDIR);
        }
        state.open(op.node, op.flags).map(Opened::new)
    }

    async fn readdir(&self, _cx: &Context, op: op::Readdir, out: &mut DirSink<'_>) -> Result<()> {
        let mut state = self.state();
        state.check_handle(op.node, op.handle, Needs::Nothing)?;
        state.read_dir(op.node, op.cookie, out)
    }

    async fn readdirplus(&self, _cx: &Context, op: op::Readdirplus, out: &mut DirPlusSink<'_>) -> Result<()> {
        let mut state = self.state();
        state.check_handle(op.node, op.handle, Needs::Nothing)?;
        state.read_dir_plus(op.node, op.cookie, out)
    }

    async fn releasedir(&self, _cx: &Context, op: op::Releasedir) -> Result<()> {
        self.state().close(op.node, op.handle)
    }

    async fn fsyncdir(&self, _cx: &Context, op: op::Fsyncdir) -> Result<()> {
        self.state().check_handle(op.node, op.handle, Needs::Nothing)
    }

    async fn getlk(&self, _cx: &Context, op: op::Getlk) -> Result<FileLock> {
        Ok(self.state().node(op.node)?.locks.get(op.owner, op.lock))
    }

    async fn setlk(&self, cx: &Context, op: op::Setlk) -> Result<()> {
        lock::set(&self.state, cx, &op).await
    }

    async fn fallocate(&self, cx: &Context, op: op::Fallocate) -> Result<()> {
        self.state().fallocate(cx.caller(), &op)
    }

    async fn lseek(&self, _cx: &Context, op: op::Lseek) -> Result<u64> {
        let state = self.state();
        let data = state.data(op.node)?;
        match op.whence as i32 {
            libc::SEEK_DATA => data.next_data(op.offset),
            libc::SEEK_HOLE => data.next_hole(op.offset),
            _ => Err(Errno::INVAL),
        }
    }

    async fn copy_file_range(&self, cx: &Context, op: op::CopyFileRange) -> Result<u64> {
        if op.flags != 0 {
            return Err(Errno::INVAL);
        }
        let mut state = self.state();
        state.check_handle(op.node, op.handle, Needs::Reading)?;
        state.check_handle(op.to_node, op.to_handle, Needs::Writing)?;
        let copied = state.copy((op.node, op.offset), (op.to_node, op.to_offset), op.length)?;
        if copied > 0 {
            state.node_mut(op.node)?.accessed();
            let to: &mut Node = state.node_mut(op.to_node)?;
            to.modified_by(cx.caller());
        }
        Ok(copied)
    }

    async fn syncfs(&self, _cx: &Context, _op: op::Syncfs) -> Result<()> {
        Ok(())
    }
}
