//! What is kept of each file, directory or other object.

use super::{
    acl,
    data::{Data, PAGE},
    lock::Locks,
    xattr::Xattrs,
};
use fusewire::{Attr, AttrFlags, Caller, FileType, NodeId, Timestamp};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// Run with the rights of the file's owner.
pub(super) const SET_USER_ID: u16 = 0o4000;
/// Run with the rights of the file's group; on a directory: what is made in it belongs to its group.
pub(super) const SET_GROUP_ID: u16 = 0o2000;
/// The group may execute.
const GROUP_EXECUTE: u16 = 0o0010;

/// A day: an access time older than this is always brought up to date.
const DAY: i64 = 24 * 60 * 60;

/// A file, directory or other object.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) body: Body,
    pub(super) perm: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Names that lead here; a directory counts its own `.` and the `..` of each directory in it.
    pub(super) nlink: u32,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) btime: Timestamp,
    /// How many lookups the kernel has to forget yet.
    pub(super) lookups: u64,
    /// Open handles.
    pub(super) handles: u64,
    /// Made without a name and free to be given one.
    pub(super) linkable: bool,
    pub(super) xattrs: Xattrs,
    pub(super) locks: Locks,
}

/// What kind of object a node is, and what only that kind has.
#[derive(Debug)]
pub(super) enum Body {
    File(Data),
    Directory(Directory),
    Symlink(Box<[u8]>),
    /// FIFO, socket or device: the kernel does the rest.
    Special(FileType, u32),
}

impl Node {
    pub(super) fn kind(&self) -> FileType {
        match self.body {
            Body::File(_) => FileType::Regular,
            Body::Directory(_) => FileType::Directory,
            Body::Symlink(_) => FileType::Symlink,
            Body::Special(kind, _) => kind,
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    pub(super) fn attr(&self, ttl: Duration) -> Attr {
        let (size, pages, rdev) = match &self.body {
            Body::File(data) => (data.size(), data.pages(), 0),
            Body::Directory(_) => (PAGE, 0, 0),
            Body::Symlink(target) => (target.len() as u64, 0, 0),
            Body::Special(_, rdev) => (0, 0, *rdev),
        };
        Attr {
            ino: None,
            kind: self.kind(),
            perm: self.perm,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev,
            size,
            blocks: pages * (PAGE / 512),
            blksize: PAGE as u32,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            flags: AttrFlags::empty(),
            ttl,
        }
    }

    /// The content was read: bring the access time up to date as Linux does by default (`relatime`), that is when it
    /// is not later than the last change, or a day old.
    pub(super) fn accessed(&mut self) {
        let now = Timestamp::now();
        if self.atime <= self.mtime || self.atime <= self.ctime || now.seconds - self.atime.seconds >= DAY {
            self.atime = now;
        }
    }

    /// The content changed.
    pub(super) fn modified(&mut self) {
        self.mtime = Timestamp::now();
        self.ctime = self.mtime;
    }

    /// Attributes changed.
    pub(super) fn changed(&mut self) {
        self.ctime = Timestamp::now();
    }

    /// Set the permission bits, and the access ACL with them.
    pub(super) fn set_perm(&mut self, perm: u16) {
        self.perm = perm & 0o7777;
        acl::follow_mode(&mut self.xattrs, self.perm);
    }

    /// Content changed by a request that does not say whether the caller may keep set-id bits: root may.
    pub(super) fn modified_by(&mut self, caller: Option<Caller>) {
        self.modified();
        self.kill_capabilities();
        if caller.is_some_and(|caller| caller.uid != 0) {
            self.kill_suid_gid();
        }
    }

    /// Take away set-user-id, and set-group-id where it means «run as the group».
    ///
    /// Without execution by the group set-group-id used to mean mandatory locking, and the kernel leaves it alone too.
    pub(super) fn kill_suid_gid(&mut self) {
        if self.is_directory() {
            return;
        }
        self.perm &= !SET_USER_ID;
        if self.perm & GROUP_EXECUTE != 0 {
            self.perm &= !SET_GROUP_ID;
        }
    }

    /// Take away file capabilities: a write, truncation or change of owner voids them whoever does it.
    pub(super) fn kill_capabilities(&mut self) {
        if !self.is_directory() {
            self.xattrs.remove(b"security.capability");
        }
    }
}

/// The names in a directory, in the order in which they came.
///
/// A listing resumes after a *cookie*. Each name gets one that was never used before in this directory and keeps it
/// as long as it lives: what comes and goes while somebody reads shifts nothing, so that no name is seen twice or missed.
#[derive(Debug)]
pub(super) struct Directory {
    /// Where `..` leads.
    pub(super) parent: NodeId,
    entries: BTreeMap<u64, (Box<[u8]>, NodeId)>,
    cookies: HashMap<Box<[u8]>, u64>,
    next: u64,
}

/// The cookie of `.`.
pub(super) const DOT: u64 = 1;
/// The cookie of `..`.
pub(super) const DOT_DOT: u64 = 2;

impl Directory {
    pub(super) fn new(parent: NodeId) -> Self {
        Self { parent, entries: BTreeMap::new(), cookies: HashMap::new(), next: DOT_DOT + 1 }
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<NodeId> {
        let cookie = self.cookies.get(name)?;
        Some(self.entries[cookie].1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Let `name` lead to `node`. If it led elsewhere before, it keeps its place in the listing.
    pub(super) fn set(&mut self, name: &[u8], node: NodeId) {
        if let Some(cookie) = self.cookies.get(name) {
            self.entries.insert(*cookie, (name.into(), node));
            return;
        }
        self.cookies.insert(name.into(), self.next);
        self.entries.insert(self.next, (name.into(), node));
        self.next += 1;
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some(cookie) = self.cookies.remove(name) {
            self.entries.remove(&cookie);
        }
    }

    /// Cookie, name and node of what comes after `cookie`.
    pub(super) fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &[u8], NodeId)> {
        let from = cookie.saturating_add(1);
        self.entries.range(from..).map(|(cookie, (name, node))| (*cookie, &**name, *node))
    }
}
