//! Nodes that outlive the process.

use super::{FileKey, Handle, Node, Nodes, PATH, Place, WayBack, handle_of, stat_of};
use crate::passthrough::{
    fds::Fd,
    keep::{KeptNode, Way, raw_handle},
    mounts::Mount,
    sys,
};
use fusewire::{Generation, NodeId, table::Restored};
use rustix::{
    fs::{Mode, ResolveFlags, Statx},
    io::{Errno, Result},
};
use std::{
    collections::HashMap,
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
};

/// A file that was found again.
struct Again {
    key: FileKey,
    way_back: WayBack,
    /// What there is of it instead of a handle.
    fd: Option<Fd>,
}

/// Directories by their paths: nodes without handles are found by their places.
type Places = HashMap<Vec<u8>, NodeId>;

/// Through directories alone, and not out of where it begins.
const WITHIN: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Again {
    /// A file with a handle needs no descriptor.
    fn without_need(self) -> Self {
        match self.way_back {
            WayBack::Handle(_) => Self { fd: None, ..self },
            WayBack::None | WayBack::Place(_) => self,
        }
    }
}

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
    /// nothing. `given`: descriptors of those that are found by them.
    pub fn resume(&mut self, nodes: Vec<KeptNode>, given: Vec<OwnedFd>) -> Vec<(Restored, bool)> {
        let mut given = given.into_iter();
        let mut places = Places::from([(Vec::new(), NodeId::ROOT)]);
        places.extend(nodes.iter().filter_map(|node| match &node.way {
            Way::Seen { path, .. } => Some((path.clone(), node.restored.id)),
            _ => None,
        }));
        let mut found = Vec::with_capacity(nodes.len());
        for KeptNode { restored, way } in nodes {
            let given = if way == Way::Given { given.next() } else { None };
            let file = self.find_kept(&way, given, &places);
            if let Err(error) = &file {
                tracing::debug!(node = restored.id.raw(), ?way, %error, "not found again");
            }
            found.push((restored, file.ok()));
        }
        let all: Vec<_> = found.iter().map(|(restored, file)| (*restored, file.is_some())).collect();
        let (mut again, mut held) = (Vec::new(), Vec::new());
        let placed: Vec<_> = found
            .into_iter()
            .map(|(restored, file)| match file {
                Some(Again { key, way_back, fd }) => {
                    again.push(match &way_back {
                        WayBack::Handle(handle) => Some(key.told_apart(handle)),
                        _ => None,
                    });
                    held.extend(fd.map(|fd| (restored.id, key, fd)));
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
        for (id, key, fd) in held {
            self.keep(id, &key, Arc::new(fd));
        }
        result
    }

    /// What directory the root is.
    pub fn root_way(&self) -> Result<Way> {
        let stat = stat_of(&*self.root)?;
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        Ok(Way::Seen { path: Vec::new(), device, ino: stat.stx_ino })
    }

    /// How a node is found by a process beside this one, and a descriptor if it is found by that.
    pub fn way(&self, node: NodeId, mount: u16, handle: Option<Handle>) -> Result<(Way, Option<Arc<Fd>>)> {
        if mount == 0 && self.mounts.root().handles {
            let handle = handle.map_or_else(|| self.handle(node), Ok)?.raw();
            return Ok((Way::Handle(handle.kind, handle.bytes().to_vec()), None));
        }
        let fd = self.fd(node)?;
        let stat = stat_of(&*fd)?;
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        match self.path_with(node, ResolveFlags::empty()) {
            Ok(path) => Ok((Way::Seen { path, device, ino: stat.stx_ino }, None)),
            // It has no name any more.
            Err(_) => Ok((Way::Given, Some(fd))),
        }
    }

    /// The file that was kept in this way.
    fn find_kept(&self, way: &Way, given: Option<OwnedFd>, places: &Places) -> Result<Again> {
        match way {
            Way::Seen { path, device, ino } => {
                let again = self.find_seen(path, places)?;
                let stat = again.fd.as_ref().map(stat_of).ok_or(Errno::STALE)??;
                let same = (stat.stx_dev_major, stat.stx_dev_minor) == *device && stat.stx_ino == *ino;
                return if same { Ok(again.without_need()) } else { Err(Errno::STALE) };
            }
            Way::Given => {
                let fd = Fd::new(given.ok_or(Errno::STALE)?, self.permit()?);
                let stat = stat_of(&fd)?;
                // It may come from a copy of the mount. (Of others inside nothing is known here: those are looked up when they are met.)
                let key = FileKey::new(&self.mounts, self.mounts.root(), &stat);
                return Ok(Again { key, way_back: WayBack::None, fd: Some(fd) });
            }
            _ => {}
        }
        let (key, handle) = self.find_kept_alone(way)?;
        Ok(Again { key, way_back: handle.map_or(WayBack::None, WayBack::Handle), fd: None })
    }

    /// What a path leads to now, also on what is mounted inside the directory.
    fn find_seen(&self, path: &[u8], places: &Places) -> Result<Again> {
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&[][..], path),
        };
        let dir = self.opening(|| match parent {
            [] => rustix::fs::openat(&*self.root, c".", PATH, Mode::empty()),
            parent => rustix::fs::openat2(&*self.root, parent, PATH, Mode::empty(), WITHIN),
        })?;
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let fd = self.opening(|| rustix::fs::openat2(&dir, &*name, PATH, Mode::empty(), WITHIN))?;
        let stat = stat_of(&fd)?;
        let mount: &Mount = self.mounts.of(0, &stat, (&dir, &name), &self.budget)?;
        let key = FileKey::new(&self.mounts, mount, &stat);
        let way_back = match (mount.handles, places.get(parent)) {
            (true, _) => WayBack::Handle(handle_of(&fd)?),
            (false, Some(&parent)) => WayBack::Place(Place { parent, name: name.into() }),
            (false, None) => WayBack::None,
        };
        Ok(Again { key, way_back, fd: Some(fd) })
    }

    /// The same for ways that need nothing else.
    fn find_kept_alone(&self, way: &Way) -> Result<(FileKey, Option<Handle>)> {
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
            Way::Lost | Way::Seen { .. } | Way::Given => return Err(Errno::STALE),
        };
        if stat.stx_mnt_id != mount.id {
            return Err(Errno::XDEV);
        }
        Ok((FileKey::new(&self.mounts, mount, &stat), Some(handle)))
    }

    /// What a path from the directory leads to, through directories alone.
    fn walk(&self, path: &[u8]) -> Result<OwnedFd> {
        self.walk_with(path, ResolveFlags::NO_XDEV)
    }

    fn walk_with(&self, path: &[u8], more: ResolveFlags) -> Result<OwnedFd> {
        if path.is_empty() || path.starts_with(b"/") {
            return Err(Errno::INVAL);
        }
        // A link at the end is opened itself.
        rustix::fs::openat2(&self.root, path, PATH, Mode::empty(), WITHIN | more)
    }

    /// What the kernel calls the path of a descriptor.
    fn path_of(&self, fd: &impl AsFd) -> Result<Vec<u8>> {
        self.by_path(fd, |link| rustix::fs::readlinkat(rustix::fs::CWD, link, Vec::new()))
            .map(CString::into_bytes)
    }

    /// The path of a node from the directory, if it has one that leads to it now.
    pub fn path(&self, node: NodeId) -> Result<Vec<u8>> {
        self.path_with(node, ResolveFlags::NO_XDEV)
    }

    fn path_with(&self, node: NodeId, more: ResolveFlags) -> Result<Vec<u8>> {
        let fd = self.fd(node)?;
        let (root, path) = (self.path_of(&*self.root)?, self.path_of(&*fd)?);
        let root = if root == b"/" { &[][..] } else { &root[..] };
        let below = path.strip_prefix(root).and_then(|path| path.strip_prefix(b"/")).ok_or(Errno::NOENT)?;
        let (there, here) = (stat_of(&self.walk_with(below, more)?)?, stat_of(&*fd)?);
        let same = |stat: &Statx| (stat.stx_ino, stat.stx_dev_major, stat.stx_dev_minor);
        if same(&there) == same(&here) { Ok(below.to_vec()) } else { Err(Errno::NOENT) }
    }

    /// All nodes but the root, with the mount of each and, if its handle is at hand, that.
    pub fn all_kept(&self) -> Vec<(Restored, u16, Option<Handle>)> {
        let mut all = Vec::new();
        self.table.for_each_restorable(|restored, key, node| {
            if restored.id != NodeId::ROOT {
                let handle = match &node.way_back {
                    WayBack::Handle(handle) => Some(handle.clone()),
                    _ => None,
                };
                all.push((restored, key.mount, handle));
            }
        });
        all
    }

    /// The handle of a node.
    pub fn handle(&self, node: NodeId) -> Result<Handle> {
        handle_of(&*self.fd(node)?)
    }
}
