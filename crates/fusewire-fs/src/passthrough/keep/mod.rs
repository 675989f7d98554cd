//! What a client knows of the directory, for whoever serves it next: another process here, after this one (`ledger.rs`) or beside it
//! (`hand_over.rs`), or another machine (`stream.rs`).
//!
//! The numbers that a client has for files and for what it has open must mean the same afterwards. A file is named by its handle, or by
//! its path from the directory. What cannot be found again is stale to the client, as if somebody had removed it.

mod hand_over;
mod ledger;
mod stream;

pub use hand_over::Lent;
pub use ledger::{Ledger, Writer};
pub use stream::Finding;
use stream::HANDED;

use super::{
    Passthrough,
    fds::Fd,
    handle::{Content, Open},
    locks::KeptLock,
    sys::RawHandle,
};
use fusewire::{FileType, Handle, NodeId, table::Restored};
use rustix::{
    fs::{Mode, OFlags},
    io::{Errno, Result},
};
use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

/// All that a client knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub(super) nodes: Vec<KeptNode>,
    pub(super) opens: Vec<KeptOpen>,
    pub(super) locks: Vec<KeptLock>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptNode {
    pub(super) restored: Restored,
    pub(super) way: Way,
}

/// How a file is found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the lower filesystem's handle: its kind and its bytes. Whoever can make one up reaches every file of that filesystem.
    Handle(i32, Vec<u8>),
    /// By its path from the directory, without a slash in front.
    Path(Vec<u8>),
    /// By its path, which must lead to this handle.
    Both {
        /// Kind of handle.
        kind: i32,
        /// Its bytes.
        handle: Vec<u8>,
        /// The path.
        path: Vec<u8>,
    },
    /// By its path, mounts inside the directory included, which must lead to this file: for a process that is beside this one.
    Seen {
        /// The path.
        path: Vec<u8>,
        /// Its device.
        device: (u32, u32),
        /// Its inode number.
        ino: u64,
    },
    /// By a descriptor that comes with it.
    Given,
    /// Not at all: the number stands for nothing.
    Lost,
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptOpen {
    pub(super) handle: Handle,
    pub(super) node: NodeId,
    pub(super) flags: u32,
    pub(super) directory: bool,
}

/// What became of something that was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Nodes that lead to their files again.
    pub nodes: usize,
    /// Those that do not.
    pub lost_nodes: usize,
    /// Files that are open again.
    pub opens: usize,
    /// Those that are not.
    pub lost_opens: usize,
}

/// Opening what is open already must not do again what the first time did.
const NOT_AGAIN: OFlags = OFlags::TRUNC.union(OFlags::CREATE).union(OFlags::EXCL);

impl Passthrough {
    /// Have all that the client knows noted in `ledger`: from [`ledger_begins`](Self::ledger_begins) on, or from now on if this process has
    /// noted nothing there since it [was read](Ledger::read).
    ///
    /// # Errors
    /// If the directory has no file handles, by which files could be found again.
    pub fn with_ledger(mut self, ledger: Arc<Ledger>) -> io::Result<Self> {
        if !self.nodes.mounts.root().handles {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "what the client knows cannot be kept: it takes file handles, which the directory does not have or this process may not use",
            ));
        }
        self.nodes.ledger = Some(Writer::new(ledger));
        Ok(self)
    }

    /// A client begins with this filesystem: what is noted in its ledger, if it has one, is forgotten, and filesystems that were made
    /// before note nothing there any more. `beginning` is whatever it takes to begin the same again.
    ///
    /// # Errors
    /// If there is no room.
    pub fn ledger_begins(&self, beginning: &[u8]) -> io::Result<()> {
        self.nodes.ledger.as_ref().map_or(Ok(()), |writer| writer.begin(beginning))
    }

    /// [`with_ledger`](Self::with_ledger) for a client that knows something already, which `ledger` is to begin with. Only now is what it
    /// has of another client lost.
    ///
    /// # Errors
    /// As there; or there is no room.
    pub fn begin_ledger(self, ledger: Arc<Ledger>, beginning: &[u8]) -> io::Result<Self> {
        let fs = self.with_ledger(ledger)?;
        fs.ledger_begins(beginning)?;
        fs.note_all();
        Ok(fs)
    }

    /// Have all that the client knows noted in the ledger, where nothing stands yet. Nothing must be served meanwhile.
    fn note_all(&self) {
        let Some(ledger) = &self.nodes.ledger else { return };
        for (restored, _, handle) in self.nodes.all_kept().into_iter().filter(|(_, mount, _)| *mount == 0) {
            match handle.map_or_else(|| self.nodes.handle(restored.id), Ok) {
                Ok(handle) => ledger.arrived(restored, &handle),
                Err(error) => tracing::debug!(node = restored.id.raw(), %error, "a node cannot be kept"),
            }
        }
        self.kept_opens().into_iter().for_each(|open| ledger.opened(open));
    }

    /// Go on where another process was: all that its client knows means the same here. To be called before anything is served.
    pub fn resume(&mut self, kept: Kept) -> Resumed {
        self.resume_with(kept, Vec::new(), Vec::new())
    }

    /// The same with descriptors of what is open, if there are any, and of nodes that are given by them.
    fn resume_with(&mut self, kept: Kept, opens: Vec<OwnedFd>, nodes: Vec<OwnedFd>) -> Resumed {
        let (mut open_files, given) = (opens.into_iter(), nodes);
        let mut resumed = Resumed::default();
        if self.needs_opens().is_none() {
            self.stateless.may_be_on();
        }
        let nodes: Vec<_> = kept.nodes.into_iter().filter(|node| node.restored.id != NodeId::ROOT).collect();
        for (restored, found) in self.nodes.resume(nodes, given) {
            match found {
                true => resumed.nodes += 1,
                false => {
                    tracing::debug!(node = restored.id.raw(), "a node is lost");
                    resumed.lost_nodes += 1;
                }
            }
        }
        let mut opens = Vec::new();
        for open in kept.opens {
            let file = open_files.next();
            match self.open_again(&open, file) {
                Ok(again) => opens.push((open.handle, Arc::new(again))),
                Err(error) => {
                    tracing::debug!(node = open.node.raw(), handle = open.handle.0, %error, "what was open is lost");
                    resumed.lost_opens += 1;
                }
            }
        }
        let kept = opens.clone();
        let taken = self.handles.restore(opens.into_iter());
        for ((handle, open), taken) in kept.into_iter().zip(taken) {
            match taken {
                true => {
                    resumed.opens += 1;
                    self.nodes.open_files.restore(handle, open, &self.nodes);
                }
                false => resumed.lost_opens += 1,
            }
        }
        resumed
    }

    fn open_again(&self, open: &KeptOpen, given: Option<OwnedFd>) -> Result<Open> {
        let flags = OFlags::from_bits_retain(open.flags) - NOT_AGAIN;
        if open.directory {
            let noatime = flags & OFlags::NOATIME;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | noatime;
            let fd = match given {
                // A listing has a place in its open file: each process needs its own.
                Some(fd) => self.nodes.opening(|| rustix::fs::openat(&fd, c".", flags, Mode::empty()))?,
                None => self.nodes.open(open.node, FileType::Directory, flags)?,
            };
            return Ok(Open::directory(open.node, fd, Mutex::default()));
        }
        let flags = super::handle::lower_flags(flags.bits());
        let fd = match given {
            Some(fd) => Fd::new(fd, self.nodes.permit()?),
            None => self.nodes.open(open.node, FileType::Regular, flags)?,
        };
        let mount = self.nodes.mount(open.node)?;
        Ok(Open::file(open.node, fd.into(), flags, (mount.flush_errors, None)))
    }

    /// What is open now, as it can be opened again.
    pub(super) fn kept_opens(&self) -> Vec<KeptOpen> {
        let mut opens = Vec::new();
        self.handles.for_each(|handle, open| opens.push(kept_open(handle, open)));
        opens
    }
}

/// An open file as it is kept.
pub(super) fn kept_open(handle: Handle, open: &Open) -> KeptOpen {
    let directory = matches!(open.content, Content::Directory(_));
    KeptOpen { handle, node: open.node, flags: (open.flags - NOT_AGAIN).bits(), directory }
}

/// A handle that was kept.
pub(super) fn raw_handle(kind: i32, bytes: &[u8]) -> Result<RawHandle> {
    if bytes.len() > super::sys::MAX_HANDLE {
        return Err(Errno::OVERFLOW);
    }
    Ok(RawHandle::new(kind, bytes))
}
