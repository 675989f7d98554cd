//! Where replies are built: in the channel's own memory, never in a temporary.

use crate::{
    pages::{Pages, Segments},
    types::*,
};
use fusewire_abi as abi;
use std::{os::fd::AsFd, time::Duration};
use zerocopy::{FromBytes, IntoBytes};

/// Takes the bytes of a `read`. Backed by a ring payload, a reply buffer or guest memory; which, a filesystem cannot tell.
#[derive(Debug)]
pub struct Sink<'a> {
    buf: &'a mut [u8],
    len: usize,
    /// Where the bytes have to go in the end, if not into `buf`.
    pages: Option<Pages<'a>>,
}

impl<'a> Sink<'a> {
    /// Over a channel's reply area, limited to what was asked for.
    #[inline]
    pub fn new(buf: &'a mut [u8], limit: usize) -> Self {
        let n = limit.min(buf.len());
        Self { buf: &mut buf[..n], len: 0, pages: None }
    }

    /// The bytes have to go into a client's pages, if there are any.
    #[inline]
    pub(crate) fn into_pages(self, pages: Option<Pages<'a>>) -> Self {
        let Self { buf, len, .. } = self;
        // Nothing goes to `buf`, but it says how much there is room for.
        let room = if let Some(Pages::Shared { len, .. }) = pages { len.min(buf.len()) } else { buf.len() };
        Self { buf: &mut buf[..room], len, pages }
    }

    /// The memory that is shared with a guest, if the bytes have to go there, and where in it the next ones go.
    fn shared(&self) -> Option<(&'a Segments, usize)> {
        match self.pages {
            Some(Pages::Shared { segments, from, .. }) => Some((segments, from + self.len)),
            _ => None,
        }
    }

    /// Something other than a file's bytes comes next.
    fn keep(&self) {
        if let Some(pages) = &self.pages {
            pages.keep(self.len);
        }
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.buf.len() - self.len
    }

    /// Bytes put so far.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing put yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Append as much of `bytes` as fits; returns how much that was.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        self.keep();
        let n = bytes.len().min(self.room());
        match self.shared() {
            Some((segments, at)) => _ = segments.copy_in(at, &bytes[..n]),
            None => self.buf[self.len..][..n].copy_from_slice(&bytes[..n]),
        }
        self.len += n;
        n
    }

    /// Append `n` zeros, as far as they fit: a hole. Returns how many that were.
    pub fn put_zeros(&mut self, n: usize) -> usize {
        self.keep();
        let n = n.min(self.room());
        match self.shared() {
            Some((segments, at)) => segments.zero(at, n),
            None => self.buf[self.len..][..n].fill(0),
        }
        self.len += n;
        n
    }

    /// Append `content[offset..]`; past the end is end of file, not a panic.
    pub fn put_from(&mut self, content: &[u8], offset: u64) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        self.put(&content[start..]);
    }

    /// Append from a file at `offset`, until the sink is full or the file ends; returns how many bytes came.
    ///
    /// Does not keep the thread where the channel knows a better way: over the ring, what would block is read through it
    /// (`IORING_OP_READ`) while other requests are served. Errors are those of `pread`; what came before one is kept and the
    /// error returned only if nothing came.
    pub async fn put_file(&mut self, file: impl AsFd, offset: u64) -> Result<usize> {
        let begin = self.len;
        while self.room() > 0 {
            let at = offset.saturating_add((self.len - begin) as u64);
            let read = match self.pages.filter(Pages::is_direct) {
                Some(pages) => pages.read(file.as_fd(), (self.len, self.room()), at).await,
                None => crate::files::read(file.as_fd(), &mut self.buf[self.len..], at).await,
            };
            match read {
                Ok(0) => break,
                Ok(n) => self.len += n,
                Err(Errno::INTR) => continue,
                Err(e) if self.len == begin => return Err(e),
                Err(_) => break,
            }
        }
        Ok(self.len - begin)
    }

    /// Let `fill` write into the rest of the sink and say how much it wrote (system calls that fill a buffer).
    pub fn fill(&mut self, fill: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<usize> {
        self.keep();
        let n = fill(&mut self.buf[self.len..])?;
        let end = (self.len + n).min(self.buf.len());
        if let Some((segments, at)) = self.shared() {
            segments.copy_in(at, &self.buf[self.len..end]);
        }
        self.len = end;
        Ok(n)
    }
}

/// Takes the value of an extended attribute, or the list of their names.
///
/// A caller that only wants to know the length gets the length; one whose room is too small gets `ERANGE`.
#[derive(Debug)]
pub struct XattrSink<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> XattrSink<'a> {
    /// Over a channel's reply area; `size` is the caller's room, 0 for a caller that wants the length alone.
    pub fn new(buf: &'a mut [u8], size: u32) -> Self {
        let n = buf.len().min(size as usize);
        Self { buf: &mut buf[..n], len: 0 }
    }

    /// Append `bytes`: a value, or one name with its NUL. What does not fit counts all the same.
    pub fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.buf.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
        }
        self.len += bytes.len();
    }

    /// Let `fill` put the whole value into the caller's room and return its length (`fgetxattr` and its like, which
    /// return the length needed when the room is empty and `ERANGE` when it is too small).
    pub fn fill(&mut self, fill: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<()> {
        self.len = fill(self.buf)?;
        Ok(())
    }

    /// Bytes needed in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing put yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Did all that was put fit? (`ERANGE` if not, unless the caller wanted the length alone.)
    pub(crate) fn fits(&self) -> bool {
        self.len <= self.buf.len()
    }
}

/// Takes directory entries until full.
#[derive(Debug)]
pub struct DirSink<'a>(Sink<'a>);

impl<'a> DirSink<'a> {
    /// Over a channel's reply area, limited to what was asked for.
    pub fn new(buf: &'a mut [u8], limit: usize) -> Self {
        Self(Sink::new(buf, limit))
    }

    /// Append one entry: `ino` as `stat` will show it, and `next`, the cookie of the entry after it (never 0).
    /// `false` when it does not fit: stop, the kernel comes back with the cookie of the last one taken.
    #[must_use]
    pub fn put(&mut self, ino: u64, kind: Option<FileType>, name: &[u8], next: u64) -> bool {
        put_dirent(&mut self.0, &[], ino, kind, name, next)
    }

    /// Append a fixed listing, resuming after `cookie`.
    pub fn put_all<'n>(
        &mut self,
        cookie: u64,
        entries: impl IntoIterator<Item = (NodeId, FileType, &'n str)>,
    ) {
        let skip = usize::try_from(cookie).unwrap_or(usize::MAX);
        for (i, (node, kind, name)) in entries.into_iter().enumerate().skip(skip) {
            if !self.put(node.raw(), Some(kind), name.as_bytes(), i as u64 + 1) {
                break;
            }
        }
    }

    /// Bytes put so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing put yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Takes directory entries together with what `lookup` would have answered for each.
#[derive(Debug)]
pub struct DirPlusSink<'a>(Sink<'a>);

impl<'a> DirPlusSink<'a> {
    /// Over a channel's reply area, limited to what was asked for.
    pub fn new(buf: &'a mut [u8], limit: usize) -> Self {
        Self(Sink::new(buf, limit))
    }

    /// Would an entry of that name fit? Ask before looking it up, so that no lookup count is raised in vain.
    pub fn fits(&self, name: &[u8]) -> bool {
        dirent_size(size_of::<abi::EntryOut>(), name) <= self.0.room()
    }

    /// Append one entry. `entry` raises the node's lookup count by one, as `lookup` does; use
    /// [`put_unresolved`](Self::put_unresolved) for `.`, `..` and whatever could not be looked up.
    #[must_use]
    pub fn put(&mut self, entry: &Entry, name: &[u8], next: u64) -> bool {
        let out = crate::proto::encode::entry(entry);
        put_dirent(&mut self.0, out.as_bytes(), out.attr.ino, Some(entry.attr.kind), name, next)
    }

    /// Append a name alone: the kernel will look it up when it needs it.
    #[must_use]
    pub fn put_unresolved(&mut self, ino: u64, kind: Option<FileType>, name: &[u8], next: u64) -> bool {
        let none = abi::EntryOut::default();
        put_dirent(&mut self.0, none.as_bytes(), ino, kind, name, next)
    }

    /// Go through the resolved entries that were put, for a filesystem around another: `keeps` is told node and generation, kind, for how long
    /// the attributes are valid, and name, and answers whether the kernel may keep the attributes for as long as was said, or not at all.
    pub fn review(
        &mut self,
        mut keeps: impl FnMut((NodeId, Generation), (FileType, Duration), &[u8]) -> bool,
    ) {
        let mut rest = &mut self.0.buf[..self.0.len];
        while let Ok((entry, after)) = abi::EntryOut::mut_from_prefix(rest) {
            let Ok((head, tail)) = abi::Dirent::ref_from_prefix(after) else { return };
            let (size, kind) = (head.namelen as usize, FileType::from_mode(head.typ << 12));
            let Some(name) = tail.get(..size) else { return };
            let resolved = NodeId::from_raw(entry.nodeid).zip(kind).filter(|_| !matches!(name, b"." | b".."));
            let valid = Duration::from_secs(entry.attr_valid)
                .saturating_add(Duration::from_nanos(entry.attr_valid_nsec.into()));
            if let Some((node, kind)) = resolved
                && !keeps((node, Generation(entry.generation)), (kind, valid), name)
            {
                (entry.attr_valid, entry.attr_valid_nsec) = (0, 0);
            }
            let padding = dirent_size(0, name) - size_of::<abi::Dirent>() - size;
            let Some(next) = after.get_mut(size_of::<abi::Dirent>() + size + padding..) else { return };
            rest = next;
        }
    }

    /// Bytes put so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing put yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn dirent_size(prefix: usize, name: &[u8]) -> usize {
    (prefix + size_of::<abi::Dirent>() + name.len()).next_multiple_of(8)
}

fn put_dirent(
    sink: &mut Sink<'_>,
    prefix: &[u8],
    ino: u64,
    kind: Option<FileType>,
    name: &[u8],
    next: u64,
) -> bool {
    let need = dirent_size(prefix.len(), name);
    if need > sink.room() {
        return false;
    }
    let typ = kind.map_or(0, FileType::dirent);
    let head = abi::Dirent { ino, off: next, namelen: name.len() as u32, typ };
    sink.put(prefix);
    sink.put(head.as_bytes());
    sink.put(name);
    sink.put_zeros(need - prefix.len() - size_of::<abi::Dirent>() - name.len());
    true
}

/// Gives the bytes of a `write`. Backed like a [`Sink`], and as opaque: guest memory may change underneath.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    buf: &'a [u8],
    /// Where the bytes are, if not in `buf`.
    pages: Option<Pages<'a>>,
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl<'a> Source<'a> {
    /// Over a channel's request payload.
    pub const fn new(buf: &'a [u8]) -> Self {
        Self { buf, pages: None }
    }

    /// The bytes are in a client's pages.
    pub(crate) const fn in_pages(pages: Pages<'a>) -> Self {
        Self { buf: &[], pages: Some(pages) }
    }

    /// Bytes on offer.
    pub const fn len(&self) -> usize {
        match &self.pages {
            Some(pages) => pages.len(),
            None => self.buf.len(),
        }
    }

    /// Nothing on offer.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copy out; returns how many bytes that were. Fewer than there are and than `to` holds only if the client's pages cannot
    /// be read for want of memory or descriptors: 0 then.
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        if let Some(pages) = &self.pages {
            return pages.copy_to(to).unwrap_or(0);
        }
        let n = to.len().min(self.len());
        to[..n].copy_from_slice(&self.buf[..n]);
        n
    }

    /// Copy out into a new vector, for a filesystem that hands the bytes to somebody else.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        let n = self.copy_to(&mut bytes);
        bytes.truncate(n);
        bytes
    }

    /// Write everything to a file at `offset`, as [`Sink::put_file`] reads; returns how many bytes were taken, which is less than all only when
    /// the file takes no more (`ENOSPC`, `EFBIG`). Errors are those of `pwrite`, returned if nothing was taken.
    pub async fn to_file(&self, file: impl AsFd, offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < self.len() {
            let at = offset.saturating_add(done as u64);
            let written = match &self.pages {
                Some(pages) => pages.write(file.as_fd(), done, at).await,
                None => crate::files::write(file.as_fd(), &self.buf[done..], at).await,
            };
            match written {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => continue,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}
