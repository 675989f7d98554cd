//! The DAX window: memory of a virtual machine in which files of the host lie.
//!
//! A guest that uses DAX has no pages of its own for a file. It asks for ranges of the file to be mapped into the window
//! (`SETUPMAPPING`) and reads and writes them there; the host's page cache is what it sees. Where in the window a range goes is the
//! guest's choice, what may be mapped is the filesystem's, and the channel that has a window does it ([`Mapper`]).
//!
//! A filesystem whose files are files of the host maps them with [`Window::map`], says [`write_back`](Window::write_back) before it reads
//! or changes a file otherwise, and [`follow`](Window::follow) when it has, or tells the guest a size.

use crate::types::{Errno, Result};
use rustix::fd::AsFd;
use std::{fmt::Debug, sync::Arc};

/// Mappings begin and end at multiples of this.
pub const PAGE: u64 = 4096;

/// Which file of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Number of the device that its filesystem is on.
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
}

impl FileId {
    /// Of an open file; an `O_PATH` descriptor does.
    ///
    /// # Errors
    /// Those of `fstat`.
    pub fn of(file: impl AsFd) -> Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// What is to be mapped, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRange {
    /// Where in the window.
    pub at: u64,
    /// Where in the file.
    pub offset: u64,
    /// How many bytes. The file may be shorter.
    pub length: u64,
    /// The guest may write there.
    pub writable: bool,
}

/// A file, opened to be mapped, which stays open as long as it is.
#[derive(Clone)]
pub struct MappedFile {
    /// The descriptor. Monitors take those best that may be written to, whatever the mapping is for.
    pub file: Arc<dyn AsFd + Send + Sync>,
    /// It is open for writing.
    pub writable: bool,
}

impl Debug for MappedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MappedFile")
            .field("file", &self.file.as_fd())
            .field("writable", &self.writable)
            .finish()
    }
}

/// What has a window: see [`Window`], which has the same methods.
pub trait Mapper: Debug + Send + Sync {
    /// How long it is, bytes.
    fn size(&self) -> u64;
    /// Is anything mapped?
    fn is_used(&self) -> bool;
    /// See [`Window::is_mapped`].
    fn is_mapped(&self, id: FileId) -> bool;
    /// See [`Window::map`].
    fn map(&self, id: FileId, range: MapRange, open: &mut dyn FnMut() -> Result<MappedFile>) -> Result<()>;
    /// See [`Window::unmap`].
    fn unmap(&self, at: u64, length: u64) -> Result<()>;
    /// See [`Window::write_back`].
    fn write_back(&self, id: FileId);
    /// See [`Window::write_back_all`].
    fn write_back_all(&self);
    /// See [`Window::follow`].
    fn follow(&self, id: FileId);
}

/// A session's window. Cheap to clone. Without one, which is the rule, it refuses every file.
#[derive(Clone, Debug, Default)]
pub struct Window(Option<Arc<dyn Mapper>>);

impl Window {
    /// What `mapper` has.
    pub fn new(mapper: Arc<dyn Mapper>) -> Self {
        Self(Some(mapper))
    }

    /// How long it is, bytes; 0 without one.
    pub fn size(&self) -> u64 {
        self.0.as_ref().map_or(0, |mapper| mapper.size())
    }

    /// Is anything mapped? As long as nothing is there is nothing to write back or to follow.
    pub fn is_used(&self) -> bool {
        self.0.as_ref().is_some_and(|mapper| mapper.is_used())
    }

    /// Is any of this file mapped?
    pub fn is_mapped(&self, id: FileId) -> bool {
        self.0.as_ref().is_some_and(|mapper| mapper.is_mapped(id))
    }

    /// Map a range of the file `id`, in place of whatever is there. `open` opens the file; it is not called where that is
    /// open for another range, and well enough.
    ///
    /// # Errors
    /// `NOSYS` without a window; `INVAL` for a range that is empty, not of whole pages, or beyond the end of the window;
    /// `ACCES` if it shall be writable and what `open` returns is not; `IO` if the monitor refuses.
    pub fn map(
        &self,
        id: FileId,
        range: MapRange,
        mut open: impl FnMut() -> Result<MappedFile>,
    ) -> Result<()> {
        self.0.as_ref().ok_or(Errno::NOSYS)?.map(id, range, &mut open)
    }

    /// Unmap whatever lies in a range of the window.
    ///
    /// # Errors
    /// As of [`map`](Self::map).
    pub fn unmap(&self, at: u64, length: u64) -> Result<()> {
        self.0.as_ref().ok_or(Errno::NOSYS)?.unmap(at, length)
    }

    /// A file is about to be read or changed, other than by what is mapped of it.
    pub fn write_back(&self, id: FileId) {
        self.0.iter().for_each(|mapper| mapper.write_back(id));
    }

    /// All files are about to be synced.
    pub fn write_back_all(&self) {
        self.0.iter().for_each(|mapper| mapper.write_back_all());
    }

    /// A file may be of another size, or have other content: have the window show it, before the guest learns of it.
    pub fn follow(&self, id: FileId) {
        self.0.iter().for_each(|mapper| mapper.follow(id));
    }
}
