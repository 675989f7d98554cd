//! Last pages of files that do not end with a page, for monitors that map whole pages only.
//!
//! The guest is given a page of ours instead, with a copy of what is there. What the guest writes is written to the file when it is next
//! read or changed by a request, synced, closed or unmapped; what others wrote is copied in at the same times, and whenever the guest
//! asks for attributes. Byte by byte: neither loses what the other has written elsewhere on the page.

use fusewire::{
    types::{Errno, Result},
    window::PAGE,
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{MemfdFlags, ftruncate, memfd_create},
    io::{pread, pwrite},
};
use std::sync::OnceLock;

/// Memory for all of them.
#[derive(Debug, Default)]
pub(super) struct Tails {
    memory: OnceLock<OwnedFd>,
    /// Pages that there are, and those among them that nobody uses.
    pages: u64,
    free: Vec<u64>,
}

/// The last page of a file.
#[derive(Debug)]
pub(super) struct Tail {
    /// Where it is in the file.
    page: u64,
    /// Where it is in our memory.
    place: u64,
    /// What was last known to be the same here and there, up to the end of the file.
    known: Vec<u8>,
}

impl Tails {
    /// Our memory.
    pub(super) fn file(&self) -> Result<&OwnedFd> {
        if let Some(memory) = self.memory.get() {
            return Ok(memory);
        }
        let memory = memfd_create(c"fusewire-tails", MemfdFlags::CLOEXEC)?;
        Ok(self.memory.get_or_init(|| memory))
    }

    /// A page like the one at `page` of a file of `size` bytes.
    pub(super) fn add(&mut self, file: &impl AsFd, page: u64, size: u64) -> Result<Tail> {
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                ftruncate(self.file()?, (self.pages + 1) * PAGE)?;
                self.pages += 1;
                (self.pages - 1) * PAGE
            }
        };
        let mut tail = Tail { page, place, known: Vec::new() };
        match tail.fill(self, file, size) {
            Ok(()) => Ok(tail),
            Err(errno) => {
                self.remove(tail);
                Err(errno)
            }
        }
    }

    /// The page is not used any more.
    pub(super) fn remove(&mut self, tail: Tail) {
        self.free.push(tail.place);
    }
}

impl Tail {
    /// Where it is in the file.
    pub(super) fn page(&self) -> u64 {
        self.page
    }

    /// Where it is in our memory.
    pub(super) fn place(&self) -> u64 {
        self.place
    }

    fn fill(&mut self, tails: &Tails, file: &impl AsFd, size: u64) -> Result<()> {
        let mut bytes = read(file, self.page, (size - self.page) as usize)?;
        self.known = bytes.clone();
        bytes.resize(PAGE as usize, 0);
        write(tails.file()?, self.place, &bytes)
    }

    /// Write to the file what the guest has written here.
    pub(super) fn write_back(&mut self, tails: &Tails, file: &impl AsFd) -> Result<()> {
        let here = read(tails.file()?, self.place, self.known.len())?;
        if here == self.known {
            return Ok(());
        }
        // The file must not grow by it.
        let size = rustix::fs::fstat(file)?.st_size as u64;
        let len = (size.saturating_sub(self.page) as usize).min(here.len());
        for (at, bytes) in changes(&self.known[..len], &here[..len]) {
            write(file, self.page + at as u64, bytes)?;
        }
        self.known = here;
        Ok(())
    }

    /// Copy in what others have written to the file, which has `size` bytes now and ends on this page.
    pub(super) fn refresh(&mut self, tails: &Tails, file: &impl AsFd, size: u64) -> Result<()> {
        let mut there = read(file, self.page, (size - self.page) as usize)?;
        if there == self.known {
            return Ok(());
        }
        let memory = tails.file()?;
        let known = self.known.len();
        let both = known.min(there.len());
        for (at, bytes) in changes(&self.known[..both], &there[..both]) {
            write(memory, self.place + at as u64, bytes)?;
        }
        self.known = there.clone();
        // What is new is the file's, and behind its end are zeros.
        there.resize(PAGE as usize, 0);
        write(memory, self.place + both as u64, &there[both..])
    }
}

/// Where two of the same length differ, and what the second has there.
fn changes<'a>(old: &'a [u8], new: &'a [u8]) -> impl Iterator<Item = (usize, &'a [u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += old[at..].iter().zip(&new[at..]).position(|(old, new)| old != new)?;
        let begin = at;
        at += old[at..].iter().zip(&new[at..]).take_while(|(old, new)| old != new).count();
        Some((begin, &new[begin..at]))
    })
}

/// `len` bytes, fewer only if the file ends before.
fn read(file: &impl AsFd, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match pread(file, &mut bytes[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

fn write(file: &impl AsFd, at: u64, bytes: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match pwrite(file, &bytes[done..], at + done as u64) {
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(tails: &Tails, tail: &Tail) -> Vec<u8> {
        read(tails.file().expect("memory"), tail.place(), 16).expect("page")
    }

    #[test]
    fn neither_side_loses_what_the_other_wrote_elsewhere() {
        let file = tempfile::tempfile().expect("file");
        write(&file, PAGE, b"abcdefgh").expect("write");
        let mut tails = Tails::default();
        let mut tail = tails.add(&file, PAGE, PAGE + 8).expect("tail");
        assert_eq!(page(&tails, &tail), b"abcdefgh\0\0\0\0\0\0\0\0");
        // The guest writes here, also behind the end, others there.
        write(tails.file().expect("memory"), tail.place() + 1, b"B").expect("write");
        write(tails.file().expect("memory"), tail.place() + 9, b"garbage").expect("write");
        write(&file, PAGE + 6, b"G").expect("write");
        tail.write_back(&tails, &file).expect("write back");
        tail.refresh(&tails, &file, PAGE + 8).expect("refresh");
        assert_eq!(read(&file, PAGE, 100).expect("file"), b"aBcdefGh");
        assert_eq!(&page(&tails, &tail)[..8], b"aBcdefGh");
        // It grows: what is behind the old end is the file's.
        write(&file, PAGE + 8, b"ij").expect("write");
        tail.refresh(&tails, &file, PAGE + 10).expect("refresh");
        assert_eq!(page(&tails, &tail), b"aBcdefGhij\0\0\0\0\0\0");
        // It shrinks: what is written behind the new end is lost, and does not make it grow.
        write(tails.file().expect("memory"), tail.place() + 5, b"F").expect("write");
        file.set_len(PAGE + 3).expect("truncate");
        tail.write_back(&tails, &file).expect("write back");
        tail.refresh(&tails, &file, PAGE + 3).expect("refresh");
        assert_eq!(page(&tails, &tail), b"aBc\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(file.metadata().expect("metadata").len(), PAGE + 3);
        let place = tail.place();
        tails.remove(tail);
        assert_eq!(tails.add(&file, PAGE, PAGE + 3).expect("tail").place(), place, "pages are used again");
    }

    #[test]
    fn changes_are_found_at_both_ends_and_in_the_middle() {
        let found: Vec<_> = changes(b"abcdefg", b"XbcYZfW").collect();
        assert_eq!(found, [(0, &b"X"[..]), (3, b"YZ"), (6, b"W")]);
        assert_eq!(changes(b"", b"").count() + changes(b"aa", b"aa").count(), 0);
    }
}
