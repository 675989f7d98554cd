//! Files in the DAX window of a virtual machine.
//!
//! A guest's kernel names no open file when it asks for a mapping: what it may map is what it has open, as everywhere else. So a range
//! is mapped only while the node is open, and for writing while it is open for that. The descriptor that the monitor gets is open for writing
//! wherever it can be, since QEMU takes no other; that is nothing that the guest could not have by opening the file.

use super::{
    Passthrough,
    handle::{Content, Open},
    options::Dax,
};
use crate::policy::matches as name_matches;
use fusewire::{
    FileType, Handle, InitFlags, NodeId,
    abi::SetupmappingFlags,
    op::{Removemapping, Setupmapping},
    window::{FileId, MapRange, MappedFile, Window},
};
use rustix::{
    fs::{OFlags, Statx},
    io::{Errno, Result},
};
use std::{
    collections::{HashMap, HashSet},
    ffi::CStr,
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// What is known of files that may be mapped.
#[derive(Debug, Default)]
pub struct Daxing {
    wanted: Option<Dax>,
    /// The window, and whether the guest has copies of no file.
    window: OnceLock<(Window, bool)>,
    nodes: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// How often each is open, and how often of these for writing.
    opens: HashMap<NodeId, (usize, usize)>,
    /// Those with a name that is wanted.
    named: HashSet<NodeId>,
}

/// A file is being changed by a request.
pub struct Changing<'a>(Option<(&'a Window, FileId)>);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if let Some((window, id)) = self.0 {
            window.follow(id);
        }
    }
}

impl Daxing {
    pub fn new(wanted: Option<Dax>) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// What to ask the guest's kernel for.
    pub fn wanted(&self) -> InitFlags {
        match self.wanted {
            Some(_) => InitFlags::MAP_ALIGNMENT | InitFlags::HAS_INODE_DAX,
            None => InitFlags::empty(),
        }
    }

    /// Does a client that offers this map all files? It asks file by file unless it does (`dax=always`), and may be told so of each.
    pub fn is_for_all(&self, offered: InitFlags) -> bool {
        let all = self.wanted.as_ref().is_some_and(|dax| dax.min_size == 0 && dax.names.is_empty());
        let always = self.is_wanted_at_all() && !offered.contains(InitFlags::HAS_INODE_DAX);
        offered.contains(InitFlags::MAP_ALIGNMENT) && (all || always)
    }

    /// Is there to be a window?
    pub fn is_wanted_at_all(&self) -> bool {
        self.wanted.is_some()
    }

    /// There is a window from now on, perhaps, and this was agreed on.
    pub fn begin(&self, window: Window, agreed: InitFlags) {
        if self.wanted.is_some() && window.size() > 0 {
            _ = self.window.set((window, self.is_for_all(agreed)));
        }
    }

    fn nodes(&self) -> MutexGuard<'_, Known> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The window, if there is one.
    fn window(&self) -> Option<&Window> {
        self.window.get().map(|(window, _)| window)
    }

    /// The window, if anything is mapped.
    fn used(&self) -> Option<&Window> {
        self.window().filter(|window| window.is_used())
    }

    /// A file is about to be read, or synced.
    pub fn using(&self, fd: &impl AsFd) {
        if let Some(window) = self.used()
            && let Ok(id) = FileId::of(fd)
        {
            window.write_back(id);
        }
    }

    /// Is any of a file mapped?
    pub fn has(&self, fd: &impl AsFd) -> bool {
        self.used().is_some_and(|window| FileId::of(fd).is_ok_and(|id| window.is_mapped(id)))
    }

    /// Is it known that the guest has no copy of anything in this file?
    pub fn is_seen_through(&self, fd: &impl AsFd) -> bool {
        self.window.get().is_some_and(|(_, all)| *all) || self.has(fd)
    }

    /// All is about to be synced.
    pub fn using_all(&self) {
        self.used().inspect(|window| window.write_back_all());
    }

    /// A file is about to be changed, until what this returns is dropped.
    pub fn changing(&self, open: &Open) -> Changing<'_> {
        let begin = |window| {
            let id = FileId::of(open.path()).ok()?;
            Window::write_back(window, id);
            Some((window, id))
        };
        Changing(self.used().and_then(begin))
    }

    /// A file was opened.
    pub fn opened(&self, node: NodeId, flags: OFlags) {
        if self.window().is_some() {
            let mut nodes = self.nodes();
            let (opens, writers) = nodes.opens.entry(node).or_default();
            *opens += 1;
            *writers += usize::from(flags.intersects(OFlags::RWMODE));
        }
    }

    /// A file was closed.
    pub fn released(&self, node: NodeId, writes: bool) {
        if self.window().is_none() {
            return;
        }
        let mut nodes = self.nodes();
        if let Some((opens, writers)) = nodes.opens.get_mut(&node) {
            *opens -= 1;
            *writers -= usize::from(writes);
            if *opens == 0 {
                nodes.opens.remove(&node);
            }
        }
    }

    /// Is a node open, for writing? `None` if it is not open at all.
    fn is_open(&self, node: NodeId) -> Option<bool> {
        self.nodes().opens.get(&node).map(|(_, writers)| *writers > 0)
    }

    /// The guest learns of a node by this name.
    pub fn named(&self, node: NodeId, name: Option<&CStr>) {
        let (Some(name), Some(wanted), true) = (name, &self.wanted, self.window().is_some()) else {
            return;
        };
        if wanted.names.iter().any(|glob| name_matches(glob.as_bytes(), name.to_bytes())) {
            self.nodes().named.insert(node);
        }
    }

    /// The guest forgets a node.
    pub fn forgotten(&self, node: NodeId) {
        if self.wanted.as_ref().is_some_and(|wanted| !wanted.names.is_empty()) {
            self.nodes().named.remove(&node);
        }
    }

    /// The guest is gone.
    pub fn give_up(&self) {
        *self.nodes() = Known::default();
    }

    /// Shall a file of this size be mapped?
    fn is_wanted(&self, node: NodeId, size: u64) -> bool {
        match (&self.wanted, self.window()) {
            (Some(wanted), Some(_)) => {
                size >= wanted.min_size && (wanted.names.is_empty() || self.nodes().named.contains(&node))
            }
            _ => false,
        }
    }
}

impl Passthrough {
    /// The guest is about to learn these attributes: what is mapped is to be like them. Returns whether the file is to be mapped.
    pub(super) fn follow(&self, node: NodeId, stat: &Statx) -> bool {
        if self.dax.window().is_none() || FileType::from_mode(stat.stx_mode.into()) != Some(FileType::Regular)
        {
            return false;
        }
        if let Some(window) = self.dax.used() {
            let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
            window.follow(FileId { device, inode: stat.stx_ino });
        }
        self.dax.is_wanted(node, stat.stx_size)
    }

    pub(super) fn map(&self, op: &Setupmapping) -> Result<()> {
        let window = self.dax.window().ok_or(Errno::NOSYS)?;
        let flags = SetupmappingFlags::from_bits(op.flags).filter(|flags| !flags.is_empty());
        let writable = flags.ok_or(Errno::INVAL)?.contains(SetupmappingFlags::WRITE);
        let path = self.nodes.file(op.node)?;
        let for_writing = match op.handle {
            // Without handles nobody tells what is open.
            Handle(u64::MAX) if self.stateless.is_on() => true,
            Handle(u64::MAX) => self.dax.is_open(op.node).ok_or(Errno::ACCESS)?,
            handle => {
                let open = self.handles.get(handle).filter(|open| open.node == op.node).ok_or(Errno::BADF)?;
                matches!(&open.content, Content::File(file) if file.writes)
            }
        };
        if writable && !for_writing {
            return Err(Errno::ACCESS);
        }
        // A later write needs no other mapping then, and nothing is unmapped under those who read.
        let writable = writable || for_writing;
        let range = MapRange { at: op.window_offset, offset: op.file_offset, length: op.length, writable };
        window.map(FileId::of(&path)?, range, || {
            let open = |flags| self.nodes.opening(|| self.nodes.reopen(&*path, flags));
            match open(OFlags::RDWR) {
                Ok(file) => Ok(MappedFile { file: Arc::new(file), writable: true }),
                Err(Errno::ROFS | Errno::ACCESS | Errno::PERM | Errno::TXTBSY) if !writable => {
                    Ok(MappedFile { file: Arc::new(open(OFlags::RDONLY)?), writable: false })
                }
                Err(error) => Err(error),
            }
        })
    }

    pub(super) fn unmap(&self, op: &Removemapping<'_>) -> Result<()> {
        let window = self.dax.window().ok_or(Errno::NOSYS)?;
        op.ranges.iter().try_for_each(|one| window.unmap(one.moffset, one.len))
    }
}
