//! All nodes, the names that lead to them, and how long they live.

use super::{
    MemOptions, acl,
    data::Space,
    lock::{Locks, Waiters},
    node::{Body, DOT, DOT_DOT, Directory, Node, SET_GROUP_ID},
};
use fusewire::{
    Entry, Errno, FileType, Handle, NodeId, Owner, Result, Timestamp,
    op::SecurityContext,
    reply::{DirPlusSink, DirSink},
};
use rustix::fs::{OFlags, RenameFlags};
use std::{collections::HashMap, time::Duration};

/// The longest name, bytes (`NAME_MAX`).
pub(super) const NAME_MAX: usize = 255;

/// Everything there is, behind one lock.
#[derive(Debug)]
pub(super) struct State {
    nodes: HashMap<NodeId, Node>,
    next_node: u64,
    max_nodes: u64,
    handles: HashMap<Handle, OpenFile>,
    next_handle: u64,
    pub(super) space: Space,
    pub(super) waiters: Waiters,
    ttl: Duration,
}

/// An open file or directory.
#[derive(Clone, Copy, Debug)]
struct OpenFile {
    node: NodeId,
    flags: OFlags,
}

/// What a new node is to be.
pub(super) struct Plan<'a> {
    pub(super) body: Body,
    /// Permission bits; what is above them does not matter.
    pub(super) mode: u32,
    pub(super) umask: u32,
    pub(super) owner: Owner,
    pub(super) security: Option<SecurityContext<'a>>,
}

/// A name in a directory.
pub(super) type Place<'a> = (NodeId, &'a [u8]);

impl State {
    pub(super) fn new(options: &MemOptions) -> Self {
        let now = Timestamp::now();
        let root = Node {
            body: Body::Directory(Directory::new(NodeId::ROOT)),
            perm: options.root_mode & 0o7777,
            uid: options.root_owner.0,
            gid: options.root_owner.1,
            nlink: 2,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            lookups: 1,
            handles: 0,
            linkable: false,
            xattrs: Default::default(),
            locks: Locks::default(),
        };
        Self {
            nodes: HashMap::from([(NodeId::ROOT, root)]),
            next_node: NodeId::ROOT.raw() + 1,
            max_nodes: options.nodes,
            handles: HashMap::new(),
            next_handle: 1,
            space: Space::new(options.capacity),
            waiters: Waiters::default(),
            ttl: options.ttl,
        }
    }

    /// How many nodes there are, those included that no name leads to any more.
    pub(super) fn count(&self) -> u64 {
        self.nodes.len() as u64
    }

    pub(super) fn node(&self, id: NodeId) -> Result<&Node> {
        self.nodes.get(&id).ok_or(Errno::STALE)
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> Result<&mut Node> {
        self.nodes.get_mut(&id).ok_or(Errno::STALE)
    }

    /// A regular file's node and content, and where space comes from.
    pub(super) fn file(&mut self, id: NodeId) -> Result<(&mut Node, &mut Space)> {
        self.data(id)?;
        Ok((self.nodes.get_mut(&id).ok_or(Errno::STALE)?, &mut self.space))
    }

    fn directory(&self, id: NodeId) -> Result<&Directory> {
        match &self.node(id)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// The node a name leads to.
    pub(super) fn find(&self, (parent, name): Place<'_>) -> Result<NodeId> {
        check_length(name)?;
        self.directory(parent)?.get(name).ok_or(Errno::NOENT)
    }

    /// What `lookup` answers; the kernel holds the node from now on.
    pub(super) fn entry(&mut self, id: NodeId) -> Result<Entry> {
        let ttl = self.ttl;
        let node = self.node_mut(id)?;
        node.lookups += 1;
        Ok(Entry::new(id, node.attr(ttl)))
    }

    /// A name for something new: free, and in a directory that was not removed.
    fn check_free(&self, place: Place<'_>) -> Result<()> {
        match self.find(place) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => self.check_alive(place.0),
            Err(error) => Err(error),
        }
    }

    /// Nothing can be made in a directory that was removed.
    fn check_alive(&self, directory: NodeId) -> Result<()> {
        if self.node(directory)?.nlink == 0 { Err(Errno::NOENT) } else { Ok(()) }
    }

    fn check_room(&self) -> Result<()> {
        if self.count() < self.max_nodes { Ok(()) } else { Err(Errno::NOSPC) }
    }

    /// Make a node with a name.
    pub(super) fn make(&mut self, place: Place<'_>, plan: Plan<'_>) -> Result<NodeId> {
        self.check_free(place)?;
        let id = self.add(place.0, plan)?;
        self.enter(place, id);
        Ok(id)
    }

    /// Make a node without a name, which takes after `directory`.
    pub(super) fn add(&mut self, directory: NodeId, plan: Plan<'_>) -> Result<NodeId> {
        self.check_alive(directory)?;
        self.check_room()?;
        let parent = self.node(directory)?;
        let is_directory = matches!(plan.body, Body::Directory(_));
        let of_group = parent.perm & SET_GROUP_ID != 0;
        let mut perm = (plan.mode & 0o7777) as u16;
        if is_directory && of_group {
            perm |= SET_GROUP_ID;
        }
        let (perm, mut xattrs) = match plan.body {
            Body::Symlink(_) => (0o777, Default::default()),
            _ => acl::inherit(&parent.xattrs, perm, plan.umask, is_directory),
        };
        if let Some(label) = plan.security {
            xattrs.set(label.name.to_bytes(), label.value);
        }
        let now = Timestamp::now();
        let node = Node {
            body: plan.body,
            perm,
            uid: plan.owner.uid,
            gid: if of_group { parent.gid } else { plan.owner.gid },
            nlink: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            lookups: 0,
            handles: 0,
            linkable: false,
            xattrs,
            locks: Locks::default(),
        };
        let id = NodeId::from_raw(self.next_node).ok_or(Errno::NOSPC)?;
        self.next_node += 1;
        self.nodes.insert(id, node);
        Ok(id)
    }

    /// Give a node one name more. Whether it may have it was checked.
    fn enter(&mut self, (parent, name): Place<'_>, id: NodeId) {
        let mut subdirectory = false;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.nlink += 1;
            if let Body::Directory(directory) = &mut node.body {
                directory.parent = parent;
                node.nlink += 1;
                subdirectory = true;
            }
        }
        self.with_directory(parent, |directory| directory.set(name, id));
        self.count_subdirectories(parent, subdirectory as i32);
    }

    /// Take a name from a node. The node goes with it once nobody uses it.
    fn leave(&mut self, (parent, name): Place<'_>, id: NodeId) {
        self.with_directory(parent, |directory| directory.remove(name));
        self.unname(parent, id);
    }

    /// A name in `parent` does not lead to this node any more.
    fn unname(&mut self, parent: NodeId, id: NodeId) {
        let mut subdirectory = false;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.changed();
            subdirectory = node.is_directory();
            node.nlink = if subdirectory { 0 } else { node.nlink - 1 };
        }
        self.count_subdirectories(parent, -(subdirectory as i32));
        self.reap(id);
    }

    fn with_directory(&mut self, id: NodeId, change: impl FnOnce(&mut Directory)) {
        if let Some(node) = self.nodes.get_mut(&id)
            && let Body::Directory(directory) = &mut node.body
        {
            change(directory);
            node.modified();
        }
    }

    fn count_subdirectories(&mut self, parent: NodeId, by: i32) {
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.nlink = node.nlink.saturating_add_signed(by);
        }
    }

    /// Remove a name that leads to no directory.
    pub(super) fn unlink(&mut self, place: Place<'_>) -> Result<()> {
        let id = self.find(place)?;
        if self.node(id)?.is_directory() {
            return Err(Errno::ISDIR);
        }
        self.leave(place, id);
        Ok(())
    }

    /// Remove an empty directory.
    pub(super) fn rmdir(&mut self, place: Place<'_>) -> Result<()> {
        let id = self.find(place)?;
        if !self.directory(id)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.leave(place, id);
        Ok(())
    }

    /// Give a node one name more.
    pub(super) fn link(&mut self, id: NodeId, place: Place<'_>) -> Result<()> {
        let node = self.node(id)?;
        if node.is_directory() {
            return Err(Errno::PERM);
        }
        if node.nlink == 0 && !node.linkable {
            return Err(Errno::NOENT);
        }
        if node.nlink == u32::MAX {
            return Err(Errno::MLINK);
        }
        self.check_free(place)?;
        self.node_mut(id)?.changed();
        self.enter(place, id);
        Ok(())
    }

    /// Move a name; `owner` gets the whiteout, where one is left behind.
    pub(super) fn rename(&mut self, from: Place<'_>, to: Place<'_>, flags: u32, owner: Owner) -> Result<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let others = RenameFlags::NOREPLACE | RenameFlags::WHITEOUT;
        if !(flags - RenameFlags::EXCHANGE - others).is_empty() || (exchange && flags.intersects(others)) {
            return Err(Errno::INVAL);
        }
        let moved = self.find(from)?;
        let there = match self.find(to) {
            Ok(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EXIST),
            Ok(there) => Some(there),
            Err(Errno::NOENT) if !exchange => None,
            Err(error) => return Err(error),
        };
        self.check_alive(to.0)?;
        if there == Some(moved) {
            return Ok(());
        }
        // A directory cannot come to lie in itself.
        if self.is_within(to.0, moved) {
            return Err(Errno::INVAL);
        }
        if let Some(there) = there {
            match exchange {
                true if self.is_within(from.0, there) => return Err(Errno::INVAL),
                true => {
                    self.exchange((from, moved), (to, there));
                    return Ok(());
                }
                false => self.check_replaceable(moved, there)?,
            }
        }
        if flags.contains(RenameFlags::WHITEOUT) {
            let body = Body::Special(FileType::CharDevice, 0);
            let id = self.add(from.0, Plan { body, mode: 0, umask: 0, owner, security: None })?;
            self.move_name((from, moved), (to, there));
            self.enter(from, id);
        } else {
            self.move_name((from, moved), (to, there));
        }
        Ok(())
    }

    /// Is `id` the directory `of`, or somewhere below it?
    fn is_within(&self, mut id: NodeId, of: NodeId) -> bool {
        while id != of {
            match self.directory(id) {
                Ok(directory) if id != NodeId::ROOT => id = directory.parent,
                _ => return false,
            }
        }
        true
    }

    /// May `moved` take the place of `there`?
    fn check_replaceable(&self, moved: NodeId, there: NodeId) -> Result<()> {
        match (self.node(moved)?.is_directory(), &self.node(there)?.body) {
            (true, Body::Directory(directory)) if !directory.is_empty() => Err(Errno::NOTEMPTY),
            (true, Body::Directory(_)) => Ok(()),
            (true, _) => Err(Errno::NOTDIR),
            (false, Body::Directory(_)) => Err(Errno::ISDIR),
            (false, _) => Ok(()),
        }
    }

    fn move_name(&mut self, (from, moved): (Place<'_>, NodeId), (to, there): (Place<'_>, Option<NodeId>)) {
        // The new name first: a node that has a name all the time is never taken for gone.
        self.enter(to, moved);
        if let Some(there) = there {
            self.unname(to.0, there);
        }
        self.with_directory(from.0, |directory| directory.remove(from.1));
        self.drop_extra_name(from.0, moved);
    }

    fn exchange(&mut self, (a, at_a): (Place<'_>, NodeId), (b, at_b): (Place<'_>, NodeId)) {
        self.enter(a, at_b);
        self.enter(b, at_a);
        self.drop_extra_name(b.0, at_b);
        self.drop_extra_name(a.0, at_a);
    }

    /// A node that was entered elsewhere has lost its name in `parent`.
    fn drop_extra_name(&mut self, parent: NodeId, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.changed();
        let subdirectory = node.is_directory();
        node.nlink -= if subdirectory { 2 } else { 1 };
        self.count_subdirectories(parent, -(subdirectory as i32));
    }

    /// Open a node; the handle is good until [`close`](Self::close).
    pub(super) fn open(&mut self, id: NodeId, flags: u32) -> Result<Handle> {
        self.node_mut(id)?.handles += 1;
        let handle = Handle(self.next_handle);
        self.next_handle += 1;
        self.handles.insert(handle, OpenFile { node: id, flags: OFlags::from_bits_retain(flags) });
        Ok(handle)
    }

    /// Check that a handle is open on this node, and, of `needs`, that it may be read or written.
    pub(super) fn check_handle(&self, id: NodeId, handle: Handle, needs: Needs) -> Result<()> {
        let open = self.handles.get(&handle).filter(|open| open.node == id).ok_or(Errno::BADF)?;
        let mode = open.flags & OFlags::RWMODE;
        let fits = match needs {
            Needs::Nothing => true,
            Needs::Reading => mode != OFlags::WRONLY,
            Needs::Writing => mode != OFlags::RDONLY,
        };
        if fits { Ok(()) } else { Err(Errno::BADF) }
    }

    pub(super) fn close(&mut self, id: NodeId, handle: Handle) -> Result<()> {
        self.check_handle(id, handle, Needs::Nothing)?;
        self.handles.remove(&handle);
        self.node_mut(id)?.handles -= 1;
        self.reap(id);
        Ok(())
    }

    pub(super) fn forget(&mut self, id: NodeId, count: u64) {
        if id == NodeId::ROOT {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.lookups = node.lookups.saturating_sub(count);
            self.reap(id);
        }
    }

    /// The kernel is gone: nothing is open or looked up any more.
    pub(super) fn forget_all(&mut self) {
        self.handles.clear();
        for (id, node) in &mut self.nodes {
            node.lookups = u64::from(*id == NodeId::ROOT);
            node.handles = 0;
            node.locks = Locks::default();
        }
        let all: Vec<NodeId> = self.nodes.keys().copied().collect();
        all.into_iter().for_each(|id| self.reap(id));
    }

    /// Let a node go that no name, no handle and no lookup leads to.
    fn reap(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.nlink > 0 || node.lookups > 0 || node.handles > 0 {
            return;
        }
        if let Body::File(data) = &mut node.body {
            data.clear(&mut self.space);
        }
        self.nodes.remove(&id);
    }

    pub(super) fn read_dir(&mut self, id: NodeId, cookie: u64, out: &mut DirSink<'_>) -> Result<()> {
        let directory = self.directory(id)?;
        let kind = Some(FileType::Directory);
        let full = (cookie < DOT && !out.put(id.raw(), kind, b".", DOT))
            || (cookie < DOT_DOT && !out.put(directory.parent.raw(), kind, b"..", DOT_DOT));
        if !full {
            for (next, name, node) in directory.after(cookie.max(DOT_DOT)) {
                let kind = self.nodes.get(&node).map(Node::kind);
                if !out.put(node.raw(), kind, name, next) {
                    break;
                }
            }
        }
        self.listed(id, cookie)
    }

    pub(super) fn read_dir_plus(&mut self, id: NodeId, cookie: u64, out: &mut DirPlusSink<'_>) -> Result<()> {
        let ttl = self.ttl;
        let directory = self.directory(id)?;
        let kind = Some(FileType::Directory);
        let full = (cookie < DOT && !out.put_unresolved(id.raw(), kind, b".", DOT))
            || (cookie < DOT_DOT && !out.put_unresolved(directory.parent.raw(), kind, b"..", DOT_DOT));
        let mut put = Vec::new();
        if !full {
            for (next, name, child) in directory.after(cookie.max(DOT_DOT)) {
                let Some(node) = self.nodes.get(&child) else { continue };
                if !out.put(&Entry::new(child, node.attr(ttl)), name, next) {
                    break;
                }
                put.push(child);
            }
        }
        for child in put {
            self.node_mut(child)?.lookups += 1;
        }
        self.listed(id, cookie)
    }

    fn listed(&mut self, id: NodeId, cookie: u64) -> Result<()> {
        if cookie == 0 {
            self.node_mut(id)?.accessed();
        }
        Ok(())
    }
}

/// What an operation needs of an open file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Needs {
    Nothing,
    Reading,
    Writing,
}

fn check_length(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX { Err(Errno::NAMETOOLONG) } else { Ok(()) }
}
