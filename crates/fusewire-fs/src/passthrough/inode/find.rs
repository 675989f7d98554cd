//! From a node to its file.

use super::{At, FileKey, Handle, Nodes, PATH, Place, USED, WayBack, stat_of};
use crate::passthrough::{fds::Fd, identity::mentions, sys};
use fusewire::{FileType, NodeId};
use rustix::{
    fs::{OFlags, Statx},
    io::{Errno, Result},
};
use std::sync::Arc;

/// How deep a path from the root may be when a node without a descriptor is searched for.
const DEPTH: usize = 256;

/// May something of this kind be opened as one of the other?
fn may_open(known: FileType, kind: FileType) -> Result<()> {
    match known {
        known if known == kind => Ok(()),
        FileType::Directory => Err(Errno::ISDIR),
        _ if kind == FileType::Directory => Err(Errno::NOTDIR),
        FileType::Symlink => Err(Errno::LOOP),
        _ => Err(Errno::NXIO),
    }
}

/// What there is to find a file by.
enum AtHand {
    Descriptor(Arc<Fd>),
    WayBack(WayBack),
}

impl Nodes {
    fn at_hand(&self, node: NodeId) -> Result<(FileKey, AtHand)> {
        let at_hand = self.table.with(node, |key, node| match &node.fd {
            Some(fd) => {
                node.bits |= USED;
                (*key, AtHand::Descriptor(fd.clone()))
            }
            None => (*key, AtHand::WayBack(node.way_back.clone())),
        });
        at_hand.ok_or(Errno::STALE)
    }

    /// An `O_PATH` descriptor of a node.
    pub fn fd(&self, node: NodeId) -> Result<Arc<Fd>> {
        self.fd_within(node, DEPTH)
    }

    fn fd_within(&self, node: NodeId, depth: usize) -> Result<Arc<Fd>> {
        if node == NodeId::ROOT {
            return Ok(self.root.clone());
        }
        let mut tried_again = false;
        loop {
            let (key, way_back) = match self.at_hand(node)? {
                (_, AtHand::Descriptor(fd)) => return Ok(fd),
                (key, AtHand::WayBack(way_back)) => (key, way_back),
            };
            let fd = match self.find_again(&key, &way_back, depth) {
                // It may just have been moved through this mount: then it has a descriptor now.
                Err(Errno::STALE) if !tried_again => {
                    tried_again = true;
                    continue;
                }
                Err(Errno::STALE) => self.noticed(self.through_open(node))?,
                fd => fd?,
            };
            return Ok(self.keep(node, &key, Arc::new(fd)));
        }
    }

    /// If the file is gone, that is remembered when names are looked up.
    fn noticed<T>(&self, found: Result<T>) -> Result<T> {
        if matches!(found, Err(Errno::STALE)) {
            self.losses.observe();
        }
        found
    }

    fn find_again(&self, key: &FileKey, way_back: &WayBack, depth: usize) -> Result<Fd> {
        match way_back {
            WayBack::None => Err(Errno::STALE),
            WayBack::Handle(handle) => {
                let (mount, raw) = (self.mounts.at(key.mount), handle.raw());
                self.glancing(|| sys::open_by_handle_at(&mount.fd, &raw, PATH.bits()))
            }
            WayBack::Place(Place { parent, name }) => {
                let dir = self.fd_within(*parent, depth.checked_sub(1).ok_or(Errno::STALE)?)?;
                let at = At { parent: *parent, dir: &dir, name };
                let fd = match self.glancing(|| at.open()) {
                    Err(Errno::NOENT | Errno::NOTDIR) => return Err(Errno::STALE),
                    fd => fd?,
                };
                if self.is(key, &stat_of(&fd)?) { Ok(fd) } else { Err(Errno::STALE) }
            }
        }
    }

    /// Are these the attributes of the file with this key?
    fn is(&self, key: &FileKey, stat: &Statx) -> bool {
        let mount = self.mounts.at(key.mount);
        stat.stx_mnt_id == mount.id && FileKey::new(&self.mounts, mount, stat) == *key
    }

    /// An `O_PATH` descriptor of what a client has open of a node.
    fn through_open(&self, node: NodeId) -> Result<Fd> {
        let open = self.open_files.get(node).ok_or(Errno::STALE)?;
        self.glancing(|| self.reopen(&open.path(), PATH - OFlags::NOFOLLOW))
    }

    /// Attributes of a node.
    pub fn stat(&self, node: NodeId) -> Result<Statx> {
        match self.at_hand(node)? {
            (_, AtHand::Descriptor(fd)) => return stat_of(&*fd),
            (key, AtHand::WayBack(WayBack::Place(Place { parent, name }))) => {
                let dir = self.fd(parent);
                let stat = dir.and_then(|dir| At { parent, dir: &dir, name: &name }.stat());
                if let Ok(stat) = stat
                    && self.is(&key, &stat)
                {
                    return Ok(stat);
                }
            }
            (_, AtHand::WayBack(_)) => {}
        }
        stat_of(&*self.fd(node)?)
    }

    /// An `O_PATH` descriptor of a regular file; others are refused as by [`open`](Self::open).
    pub fn file(&self, node: NodeId) -> Result<Arc<Fd>> {
        may_open(self.kind(node).ok_or(Errno::STALE)?, FileType::Regular)?;
        self.fd(node)
    }

    /// What a node is.
    pub fn kind(&self, node: NodeId) -> Option<FileType> {
        self.table.with(node, |key, _| key.kind)
    }

    /// Open a node of that kind for reading, writing or listing. Others are refused: opening the lower one could block,
    /// or act on a device. For the same reason nothing is opened by its name, under which there may be something else
    /// by now.
    pub fn open(&self, node: NodeId, kind: FileType, flags: OFlags) -> Result<Fd> {
        let flags = flags | OFlags::CLOEXEC;
        let (key, at_hand) = self.at_hand(node)?;
        may_open(key.kind, kind)?;
        let handle = match at_hand {
            AtHand::Descriptor(fd) => return self.opening(|| self.reopen(&*fd, flags)),
            AtHand::WayBack(WayBack::Handle(handle)) => Some(handle),
            AtHand::WayBack(WayBack::Place(place)) => self.take_handle(node, &key, &place),
            AtHand::WayBack(WayBack::None) => None,
        };
        if let Some(handle) = handle {
            let (mount, raw) = (self.mounts.at(key.mount), handle.raw());
            return self.noticed(self.opening(|| sys::open_by_handle_at(&mount.fd, &raw, flags.bits())));
        }
        let fd = self.fd(node)?;
        self.opening(|| self.reopen(&*fd, flags))
    }

    /// The handle of a node that was seen there; `None` where it is not there, or where there are no handles.
    ///
    /// The handle is asked for before the attributes and mentions their inode number, so that whatever can be opened by it
    /// is what they are of: it was there all the time, and no other file had its number.
    fn take_handle(&self, node: NodeId, key: &FileKey, place: &Place) -> Option<Handle> {
        let mount = self.mounts.at(key.mount);
        if !mount.handles {
            return None;
        }
        let dir = self.fd(place.parent).ok()?;
        let (raw, id) = sys::name_to_handle_at(&*dir, &place.name, 0).ok()?;
        let stat = At { parent: place.parent, dir: &dir, name: &place.name }.stat().ok()?;
        if id != mount.id || !mentions(&raw, stat.stx_ino) || !self.is(key, &stat) {
            return None;
        }
        let handle = Handle::new(&raw);
        self.table.with(node, |known, node| {
            if known == key && !matches!(node.way_back, WayBack::Handle(_)) {
                node.way_back = WayBack::Handle(handle.clone());
            }
        });
        self.openings.observe();
        Some(handle)
    }
}
