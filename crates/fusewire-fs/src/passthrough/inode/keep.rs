//! Nodes that outlive the process.

use super::{FileKey, Handle, Node, Nodes, PATH, WayBack, handle_of, stat_of};
use crate::passthrough::{
    keep::{KeptNode, Way, raw_handle},
    sys,
};
use fusewire::{FileType, Generation, NodeId, table::Restored};
use rustix::{
    fs::{Mode, ResolveFlags, Statx},
    io::{Errno, Result},
};
use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::Ordering,
};

impl Nodes {
    /// A node was looked up, and what was found is on its way to the client: whoever takes this process's place must know of it.
    pub(super) fn note(&self, node: NodeId, generation: Generation) {
        let Some(ledger) = &self.ledger else { return };
        if ledger.is_named(node) {
            return;
        }
        let known = self.table.with(node, |key, node| match &node.way_back {
            WayBack::Handle(handle) => (key.mount, Some(handle.clone())),
            _ => (key.mount, None),
        });
        let handle = match known {
            // Of what is mounted inside the directory, the next process does not know the mount: the node will be stale.
            Some((1.., _)) | None => return,
            Some((_, Some(handle))) => Ok(handle),
            Some((_, None)) => self.fd(node).and_then(|fd| handle_of(&*fd)),
        };
        match handle {
            Ok(handle) => ledger.name(node, generation, &handle),
            Err(error) => tracing::debug!(node = node.raw(), %error, "a node cannot be kept"),
        }
    }

    /// Take nodes in that were kept; for each, whether it leads to its file again. Those that do not keep their numbers, which lead to
    /// nothing.
    pub fn resume(&mut self, nodes: Vec<KeptNode>) -> Vec<(Restored, bool)> {
        let mut found = Vec::with_capacity(nodes.len());
        for KeptNode { restored, way } in nodes {
            let file = self.find_kept(&way);
            if let Err(error) = &file {
                tracing::debug!(node = restored.id.raw(), ?way, %error, "not found again");
            }
            found.push((restored, file.ok()));
        }
        let all: Vec<_> = found.iter().map(|(restored, file)| (*restored, file.is_some())).collect();
        let mut again = Vec::new();
        let placed: Vec<_> = found
            .into_iter()
            .map(|(restored, file)| match file {
                Some((key, handle)) => {
                    again.push(handle.clone().map(|handle| key.told_apart(&handle)));
                    let way_back = handle.map_or(WayBack::None, WayBack::Handle);
                    (restored, key, Node { way_back, ..Node::default() })
                }
                None => {
                    again.push(None);
                    (restored, FileKey::lost(restored.id), Node::default())
                }
            })
            .collect();
        let copies: Vec<_> = placed.iter().map(|(_, _, node)| node.way_back.clone()).collect();
        let taken = self.table.restore(placed.into_iter());
        // Two files that look alike but for their handles, as in `acquire_by_handle`.
        let doubles: Vec<_> =
            (0..taken.len()).filter(|&index| !taken[index] && again[index].is_some()).collect();
        let second = doubles.iter().filter_map(|&index| {
            let node = Node { way_back: copies[index].clone(), ..Node::default() };
            Some((all[index].0, again[index]?, node))
        });
        let second = self.table.restore(second.collect::<Vec<_>>().into_iter());
        let mut result = all;
        result.iter_mut().zip(&taken).for_each(|((_, found), &taken)| *found &= taken);
        doubles.iter().zip(&second).for_each(|(&index, &taken)| result[index].1 = taken);
        let count = taken.iter().chain(&second).filter(|&&taken| taken).count();
        self.count.fetch_add(count, Ordering::Relaxed);
        result
    }

    /// The file that was kept in this way.
    fn find_kept(&self, way: &Way) -> Result<(FileKey, Option<Handle>)> {
        let mount = self.mounts.root();
        let (stat, handle) = match way {
            Way::Handle(kind, bytes) => {
                let raw = raw_handle(*kind, bytes)?;
                let fd = sys::open_by_handle_at(&mount.fd, &raw, PATH.bits())?;
                (stat_of(&fd)?, Handle::new(&raw))
            }
            Way::Path(path) => {
                let fd = self.walk(path)?;
                (stat_of(&fd)?, handle_of(&fd)?)
            }
            Way::Both { kind, handle, path } => {
                let (fd, wanted) = (self.walk(path)?, Handle::new(&raw_handle(*kind, handle)?));
                let handle = handle_of(&fd)?;
                if handle != wanted {
                    return Err(Errno::STALE);
                }
                (stat_of(&fd)?, handle)
            }
            Way::Lost => return Err(Errno::STALE),
        };
        if stat.stx_mnt_id != mount.id {
            return Err(Errno::XDEV);
        }
        Ok((FileKey::new(&self.mounts, mount, &stat), Some(handle)))
    }

    /// What a path from the directory leads to, through directories alone.
    fn walk(&self, path: &[u8]) -> Result<OwnedFd> {
        if path.is_empty() || path.starts_with(b"/") {
            return Err(Errno::INVAL);
        }
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        // A link at the end is opened itself.
        rustix::fs::openat2(&self.root, path, PATH, Mode::empty(), resolve)
    }

    /// What the kernel calls the path of a descriptor.
    fn path_of(&self, fd: &impl AsFd) -> Result<Vec<u8>> {
        self.by_path(fd, |link| rustix::fs::readlinkat(rustix::fs::CWD, link, Vec::new()))
            .map(CString::into_bytes)
    }

    /// The path of a node from the directory, if it has one that leads to it now.
    pub fn path(&self, node: NodeId) -> Result<Vec<u8>> {
        let fd = self.fd(node)?;
        let (root, path) = (self.path_of(&*self.root)?, self.path_of(&*fd)?);
        let root = if root == b"/" { &[][..] } else { &root[..] };
        let below = path.strip_prefix(root).and_then(|path| path.strip_prefix(b"/")).ok_or(Errno::NOENT)?;
        let (there, here) = (stat_of(&self.walk(below)?)?, stat_of(&*fd)?);
        let same = |stat: &Statx| (stat.stx_ino, stat.stx_dev_major, stat.stx_dev_minor);
        if same(&there) == same(&here) { Ok(below.to_vec()) } else { Err(Errno::NOENT) }
    }

    /// Call `visit` on every node but the root, with its kind and, if its handle is at hand, that.
    pub fn for_each_kept(&self, mut visit: impl FnMut(Restored, FileType, u16, Option<Handle>)) {
        self.table.for_each_restorable(|restored, key, node| {
            if restored.id != NodeId::ROOT {
                let handle = match &node.way_back {
                    WayBack::Handle(handle) => Some(handle.clone()),
                    _ => None,
                };
                visit(restored, key.kind, key.mount, handle);
            }
        });
    }

    /// The handle of a node.
    pub fn handle(&self, node: NodeId) -> Result<Handle> {
        handle_of(&*self.fd(node)?)
    }
}
