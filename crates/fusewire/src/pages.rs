//! Clients' pages: data that goes between them and a file without passing through memory of ours.
//!
//! Over a ring with zero copy (Linux 7.3) the kernel puts the pages of a READ or WRITE into the ring's table of buffers for as
//! long as the request is in work; only the ring can reach them. Filesystems need not know: [`Sink`](crate::reply::Sink) and
//! [`Source`](crate::reply::Source) do the best with what they are asked for. Bytes that are not a file's go through a file
//! in memory.
//!
//! A virtual machine's memory is another such place. It is mapped here, so everything can be done in place.

pub use crate::sys::segments::Segments;
use crate::{
    files,
    sys::transfer,
    types::{Errno, Result},
};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    cell::Cell,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Where the data of the request in work is, if not in memory of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pages<'a> {
    /// In pages that only a ring can reach.
    Lent(Lent<'a>),
    /// In memory that we share with a guest: `len` bytes from byte `from` on.
    Shared {
        /// The memory.
        segments: &'a Segments,
        /// Where the data begins.
        from: usize,
        /// How many bytes it is.
        len: usize,
    },
}

impl<'a> Pages<'a> {
    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::Lent(lent) => lent.len,
            Self::Shared { len, .. } => *len,
        }
    }

    /// The answer's bytes from `at` on are kept in memory of ours, if they have to be.
    pub(crate) fn keep(&self, at: usize) {
        if let Self::Lent(lent) = self {
            lent.keep(at);
        }
    }

    /// How many bytes went between them, which only a ring can reach, and files so far.
    pub(crate) fn moved(&self) -> usize {
        match self {
            Self::Lent(lent) => lent.ledger.moved.get(),
            Self::Shared { .. } => 0,
        }
    }

    /// Can a file be read into them directly?
    pub(crate) fn is_direct(&self) -> bool {
        match self {
            Self::Lent(lent) => lent.is_direct(),
            Self::Shared { .. } => true,
        }
    }

    /// `pread`, once, from byte `at` on.
    pub(crate) async fn read(
        &self,
        file: BorrowedFd<'_>,
        (at, len): (usize, usize),
        offset: u64,
    ) -> Result<usize> {
        match self {
            Self::Lent(lent) => lent.ledger.moves(lent.read(file, (at, len), offset).await),
            Self::Shared { segments, from, len: all } => {
                segments.read(file, (from + at, len.min(all.saturating_sub(at))), offset)
            }
        }
    }

    /// `pwrite`, once, of what stands there from byte `at` on.
    pub(crate) async fn write(&self, file: BorrowedFd<'_>, at: usize, offset: u64) -> Result<usize> {
        match self {
            Self::Lent(lent) => lent.ledger.moves(lent.write(file, at, offset).await),
            Self::Shared { segments, from, len } => {
                segments.write(file, (from + at, len.saturating_sub(at)), offset)
            }
        }
    }

    /// Copy out, as far as `to` has room; returns how many bytes that were.
    pub(crate) fn copy_to(&self, to: &mut [u8]) -> Result<usize> {
        match self {
            Self::Lent(lent) => lent.copy_to(to),
            Self::Shared { segments, from, len } => {
                let n = to.len().min(*len);
                Ok(segments.copy_out(*from, &mut to[..n]))
            }
        }
    }
}

/// What came of lent pages so far.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// From where on the answer's bytes are in memory of ours, to be put into the pages at the end.
    kept: Cell<usize>,
    /// Bytes that went between pages and files.
    moved: Cell<usize>,
}

impl Ledger {
    fn moves(&self, result: Result<usize>) -> Result<usize> {
        result.inspect(|bytes| self.moved.set(self.moved.get() + bytes))
    }
}

/// The pages of a request over a ring with zero copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lent<'a> {
    /// Their place in the ring's table.
    index: u16,
    /// How many bytes they are.
    len: usize,
    ledger: &'a Ledger,
}

impl<'a> Lent<'a> {
    /// Of a request that is begun.
    pub(crate) fn new(index: u16, len: usize, ledger: &'a Ledger) -> Self {
        ledger.kept.set(usize::MAX);
        ledger.moved.set(0);
        Self::again(index, len, ledger)
    }

    /// Of a request that is being finished.
    pub(crate) fn again(index: u16, len: usize, ledger: &'a Ledger) -> Self {
        Self { index, len, ledger }
    }

    /// The answer's bytes from `at` on are kept in memory of ours.
    fn keep(&self, at: usize) {
        self.ledger.kept.set(self.ledger.kept.get().min(at));
    }

    /// Can a file be read into them directly? Not any more once bytes are kept.
    fn is_direct(&self) -> bool {
        self.ledger.kept.get() == usize::MAX
    }

    fn lent(&self, at: usize, len: usize) -> transfer::Lent {
        transfer::Lent { index: self.index, at, len }
    }

    /// `pread`, once, into the pages from byte `at` on.
    async fn read(&self, file: BorrowedFd<'_>, (at, len): (usize, usize), offset: u64) -> Result<usize> {
        let ring = files::ring().ok_or(Errno::IO)?;
        transfer::read_lent(&ring, file, self.lent(at, len), offset).await
    }

    /// `pwrite`, once, of what stands in the pages from byte `at` on.
    async fn write(&self, file: BorrowedFd<'_>, at: usize, offset: u64) -> Result<usize> {
        let ring = files::ring().ok_or(Errno::IO)?;
        transfer::write_lent(&ring, file, self.lent(at, self.len - at), offset).await
    }

    /// Copy out what stands in the pages, as far as `to` has room; returns how many bytes that were.
    fn copy_to(&self, to: &mut [u8]) -> Result<usize> {
        let (ring, len) = (files::ring().ok_or(Errno::IO)?, to.len().min(self.len));
        let file = memory()?;
        let mut there = 0;
        while there < len {
            match transfer::write_lent_now(&ring, file.as_fd(), self.lent(there, len - there), there as u64)?
            {
                0 => return Err(Errno::IO),
                n => there += n,
            }
        }
        while there > 0 {
            match rustix::io::pread(&file, &mut to[len - there..len], (len - there) as u64)? {
                0 => return Err(Errno::IO),
                n => there -= n,
            }
        }
        Ok(len)
    }

    /// Put what was kept of an answer into the pages; `answer` is all of it, as far as it is in memory of ours.
    pub(crate) async fn put_back(&self, answer: &[u8]) -> Result<()> {
        let from = self.ledger.kept.get();
        if from >= answer.len() {
            return Ok(());
        }
        let file = memory()?;
        let mut at = from;
        while at < answer.len() {
            at += rustix::io::pwrite(&file, &answer[at..], at as u64)?;
        }
        at = from;
        while at < answer.len() {
            match self.read(file.as_fd(), (at, answer.len() - at), at as u64).await? {
                0 => return Err(Errno::IO),
                n => at += n,
            }
        }
        Ok(())
    }
}

/// A file in memory.
fn memory() -> Result<OwnedFd> {
    memfd_create(c"fusewire-pages", MemfdFlags::CLOEXEC)
}
