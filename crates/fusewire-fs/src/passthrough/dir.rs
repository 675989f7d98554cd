//! Listing directories.

use super::{
    Passthrough,
    fds::Fd,
    handle::{Content, Open},
    inode::At,
    mounts::on_device,
    stateless::Use,
    sys,
};
use fusewire::{
    Errno, FileType, NodeId, Result,
    op::{Readdir, Readdirplus},
    reply::{DirPlusSink, DirSink},
};
use rustix::fs::SeekFrom;
use std::{
    ffi::CStr,
    sync::{MutexGuard, PoisonError},
};

/// Lower entries read at once.
const BUFFER: usize = 16 << 10;

/// Where a listing stands.
#[derive(Debug, Default)]
pub struct Stream {
    /// Lower entries not passed on yet: `buffer[begin..end]`.
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    /// Cookie of the next entry to be passed on.
    next: u64,
    /// Something was read: the lower position is not at the start any more.
    has_begun: bool,
    /// Small number of the device the directory is on, once it is known.
    device: Option<u16>,
}

/// A lower entry.
struct Lower<'a> {
    ino: u64,
    next: u64,
    kind: Option<FileType>,
    name: &'a CStr,
}

impl Stream {
    /// Go to where the kernel wants to go on.
    fn seek(&mut self, fd: &Fd, cookie: u64) -> Result<()> {
        // From the start always means afresh: what is buffered may be out of date (rewinddir).
        if cookie == self.next && (cookie != 0 || !self.has_begun) {
            return Ok(());
        }
        if !self.has_begun && cookie != 0 {
            // A directory of ext4 that is moved to its end before anything was read has no entries any more, not even from the
            // start (`ext4_dx_readdir`).
            self.fill(fd)?;
        }
        rustix::fs::seek(fd, SeekFrom::Start(cookie))?;
        (self.begin, self.end, self.next) = (0, 0, cookie);
        Ok(())
    }

    /// Is there an entry more? Reads some if need be.
    fn fill(&mut self, fd: &Fd) -> Result<bool> {
        if self.begin < self.end {
            return Ok(true);
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER];
        }
        self.has_begun = true;
        (self.begin, self.end) = (0, sys::getdents(fd, &mut self.buffer)?);
        Ok(self.end > 0)
    }

    /// The entry at the front and how long it is; see `struct linux_dirent64`.
    fn front(&self) -> Result<(Lower<'_>, usize)> {
        const NAME: usize = 19;
        let bytes = &self.buffer[self.begin..self.end];
        let word = |at: usize| {
            bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_ne_bytes)
        };
        let (ino, next) = (word(0), word(8));
        let length =
            bytes.get(16..18).and_then(|half| half.try_into().ok()).map_or(0, u16::from_ne_bytes) as usize;
        let entry = bytes.get(..length).filter(|entry| entry.len() > NAME).ok_or(Errno::IO)?;
        let name = CStr::from_bytes_until_nul(&entry[NAME..]).map_err(|_| Errno::IO)?;
        let kind = FileType::from_mode(u32::from(entry[18]) << 12);
        Ok((Lower { ino, next, kind, name }, length))
    }

    fn advance(&mut self, length: usize, next: u64) {
        self.begin += length;
        self.next = next;
    }
}

impl Passthrough {
    fn stream<'a>(&self, open: &'a Open) -> Result<MutexGuard<'a, Stream>> {
        match &open.content {
            Content::Directory(stream) => Ok(stream.lock().unwrap_or_else(PoisonError::into_inner)),
            Content::File(_) => Err(Errno::NOTDIR),
        }
    }

    /// Pass entries to `put` until it has enough.
    fn each(
        &self,
        open: &Open,
        cookie: u64,
        mut put: impl FnMut(u64, &Lower<'_>) -> Result<bool>,
    ) -> Result<()> {
        let fd = open.fd(&self.nodes)?;
        let stream = &mut *self.stream(open)?;
        stream.seek(fd, cookie)?;
        let device = match stream.device {
            Some(device) => device,
            None => {
                let device = self.nodes.mounts.device(&super::attr::stat(fd)?);
                *stream.device.insert(device)
            }
        };
        let mut any = false;
        loop {
            // An error after the first entry is found again by the next request.
            match stream.fill(fd) {
                Ok(true) => {}
                Err(error) if !any => return Err(error),
                Ok(false) | Err(_) => return Ok(()),
            }
            let (entry, length) = stream.front()?;
            let ino = match entry.name.to_bytes() {
                // What is above the directory is nobody's business, and has an inode number of another filesystem.
                b".." if open.node == NodeId::ROOT => self.root_ino,
                _ => on_device(entry.ino, device),
            };
            match put(ino, &entry) {
                Ok(true) => {}
                Err(error) if !any => return Err(error),
                Ok(false) | Err(_) => return Ok(()),
            }
            let next = entry.next;
            stream.advance(length, next);
            any = true;
        }
    }

    pub(super) fn list(&self, op: &Readdir, out: &mut DirSink<'_>) -> Result<()> {
        let _listing = self.listing(op.node);
        let open = self.open_node(op.node, op.handle, Use::List)?;
        self.each(&open, op.cookie, |ino, entry| {
            Ok(out.put(ino, entry.kind, entry.name.to_bytes(), entry.next))
        })
    }

    pub(super) fn list_plus(&self, op: &Readdirplus, out: &mut DirPlusSink<'_>) -> Result<()> {
        let (_listing, reading) = (self.listing(op.node), self.reading());
        let open = self.open_node(op.node, op.handle, Use::List)?;
        self.each(&open, op.cookie, |ino, entry| {
            let name = entry.name.to_bytes();
            if !out.fits(name) {
                return Ok(false);
            }
            if matches!(name, b"." | b"..") {
                return Ok(out.put_unresolved(ino, entry.kind, name, entry.next));
            }
            let at = At { parent: op.node, dir: open.fd(&self.nodes)?, name: entry.name };
            match self.nodes.lookup_in(at).and_then(|found| self.within(found)) {
                Ok(found) => {
                    let entry_out = self.entry(&found, reading.under(op.node, entry.name));
                    Ok(out.put(&entry_out, name, entry.next))
                }
                // Gone since the listing was read.
                Err(Errno::NOENT) => Ok(true),
                // Whoever needs it will be told what is the matter with it.
                Err(_) => Ok(out.put_unresolved(ino, entry.kind, name, entry.next)),
            }
        })
    }
}
