//! The content of regular files: pages where something was written, nothing where nothing was.

use super::{node::Body, tree::State};
use fusewire::{Errno, NodeId, Result, reply::Sink};
use std::collections::BTreeMap;

/// Unit of space, bytes.
pub(super) const PAGE: u64 = 4096;

/// The largest file the kernel can address.
const MAX_SIZE: u64 = i64::MAX as u64;

/// The pages of the whole filesystem.
#[derive(Debug)]
pub(super) struct Space {
    total: u64,
    free: u64,
}

impl Space {
    pub(super) fn new(bytes: u64) -> Self {
        Self { total: bytes / PAGE, free: bytes / PAGE }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn free(&self) -> u64 {
        self.free
    }

    fn take(&mut self, pages: u64) -> Result<()> {
        self.free = self.free.checked_sub(pages).ok_or(Errno::NOSPC)?;
        Ok(())
    }

    fn give(&mut self, pages: u64) {
        self.free += pages;
    }
}

/// A page that takes up space: filled, or (`None`) reserved and full of zeros.
type Page = Option<Box<[u8; PAGE as usize]>>;

/// A sparse sequence of bytes. What lies at or beyond `size` in a page is zero.
#[derive(Debug, Default)]
pub(super) struct Data {
    pages: BTreeMap<u64, Page>,
    size: u64,
}

impl Data {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Pages that take up space.
    pub(super) fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Up to `length` bytes from `offset`.
    pub(super) fn read(&self, offset: u64, length: u64, out: &mut Sink<'_>) {
        let end = offset.saturating_add(length).min(self.size);
        for part in parts(offset, end) {
            match self.pages.get(&part.page) {
                Some(Some(bytes)) => out.put(&bytes[part.range()]),
                _ => out.put_zeros(part.length()),
            };
        }
    }

    /// Write as much as there is space for; an error only if that is nothing.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], space: &mut Space) -> Result<usize> {
        if offset >= MAX_SIZE && !bytes.is_empty() {
            return Err(Errno::FBIG);
        }
        let end = offset.saturating_add(bytes.len() as u64).min(MAX_SIZE);
        let mut done = 0;
        for part in parts(offset, end) {
            let Ok(page) = self.filled(part.page, space) else { break };
            page[part.range()].copy_from_slice(&bytes[done..][..part.length()]);
            done += part.length();
            self.size = self.size.max(offset + done as u64);
        }
        if done == 0 && !bytes.is_empty() { Err(Errno::NOSPC) } else { Ok(done) }
    }

    /// Cut off, or extend by a hole.
    pub(super) fn resize(&mut self, size: u64, space: &mut Space) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::FBIG);
        }
        if size <= self.size {
            self.punch(size, u64::MAX, space);
        }
        self.size = size;
        Ok(())
    }

    /// Make `start..end` a hole. The size stays.
    pub(super) fn punch(&mut self, start: u64, end: u64, space: &mut Space) {
        let (first, last) = (start.div_ceil(PAGE), end / PAGE);
        if first < last {
            let gone: Vec<u64> = self.pages.range(first..last).map(|(page, _)| *page).collect();
            gone.iter().for_each(|page| drop(self.pages.remove(page)));
            space.give(gone.len() as u64);
        }
        self.erase_edges(start, end);
    }

    /// Make sure that `start..end` can be written without running out of space. The size stays.
    pub(super) fn reserve(&mut self, start: u64, end: u64, space: &mut Space) -> Result<()> {
        let pages = start / PAGE..end.div_ceil(PAGE);
        let there = self.pages.range(pages.clone()).count() as u64;
        space.take((pages.end - pages.start) - there)?;
        for page in pages {
            self.pages.entry(page).or_default();
        }
        Ok(())
    }

    /// Make `start..end` zeros that take up space. The size stays.
    pub(super) fn zero(&mut self, start: u64, end: u64, space: &mut Space) -> Result<()> {
        self.reserve(start, end, space)?;
        for (_, page) in self.pages.range_mut(start.div_ceil(PAGE)..(end / PAGE).max(start.div_ceil(PAGE))) {
            *page = None;
        }
        self.erase_edges(start, end);
        Ok(())
    }

    /// Extend up to `end` if the file is shorter.
    pub(super) fn extend(&mut self, end: u64) {
        self.size = self.size.max(end);
    }

    /// Cut `start..start + length` out; what follows moves down.
    pub(super) fn collapse(&mut self, start: u64, length: u64, space: &mut Space) -> Result<()> {
        let end = aligned_end(start, length)?;
        if end >= self.size {
            return Err(Errno::INVAL);
        }
        self.punch(start, end, space);
        let tail = self.pages.split_off(&(end / PAGE));
        self.pages.extend(tail.into_iter().map(|(page, bytes)| (page - length / PAGE, bytes)));
        self.size -= length;
        Ok(())
    }

    /// Push a hole of `length` bytes in at `start`; what follows moves up.
    pub(super) fn insert(&mut self, start: u64, length: u64) -> Result<()> {
        aligned_end(start, length)?;
        if start >= self.size {
            return Err(Errno::INVAL);
        }
        let size = self.size.checked_add(length).filter(|size| *size <= MAX_SIZE).ok_or(Errno::FBIG)?;
        let tail = self.pages.split_off(&(start / PAGE));
        self.pages.extend(tail.into_iter().map(|(page, bytes)| (page + length / PAGE, bytes)));
        self.size = size;
        Ok(())
    }

    /// Where the next data begin.
    pub(super) fn next_data(&self, offset: u64) -> Result<u64> {
        let filled = |(page, bytes): (&u64, &Page)| bytes.is_some().then_some(*page);
        let page = self.pages.range(offset / PAGE..).find_map(filled).ok_or(Errno::NXIO)?;
        Some((page * PAGE).max(offset)).filter(|at| *at < self.size).ok_or(Errno::NXIO)
    }

    /// Where the next hole begins; there is one at the end of every file.
    pub(super) fn next_hole(&self, offset: u64) -> Result<u64> {
        if offset >= self.size {
            return Err(Errno::NXIO);
        }
        let mut page = offset / PAGE;
        while matches!(self.pages.get(&page), Some(Some(_))) {
            page += 1;
        }
        Ok((page * PAGE).clamp(offset, self.size))
    }

    /// Bytes `offset..` up to `end` or the end of the page, `None` where they are zeros; and where the next part begins.
    pub(super) fn part(&self, offset: u64, end: u64) -> (Option<&[u8]>, u64) {
        let part = Part::of(offset, end);
        let bytes = self.pages.get(&part.page).and_then(Option::as_ref).map(|bytes| &bytes[part.range()]);
        (bytes, offset + part.length() as u64)
    }

    /// Give all pages back.
    pub(super) fn clear(&mut self, space: &mut Space) {
        space.give(self.pages());
        self.pages.clear();
        self.size = 0;
    }

    fn filled(&mut self, page: u64, space: &mut Space) -> Result<&mut [u8; PAGE as usize]> {
        use std::collections::btree_map::Entry;
        let page = match self.pages.entry(page) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(gap) => {
                space.take(1)?;
                gap.insert(None)
            }
        };
        Ok(page.get_or_insert_with(|| Box::new([0; PAGE as usize])))
    }

    /// Zero those bytes of `start..end` that lie in pages which it covers in part only.
    fn erase_edges(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        for at in [start, (end - 1) / PAGE * PAGE] {
            let part = Part::of(at.max(start), end);
            if part.length() < PAGE as usize
                && let Some(Some(bytes)) = self.pages.get_mut(&part.page)
            {
                bytes[part.range()].fill(0);
            }
        }
    }
}

impl State {
    /// Copy up to `length` bytes between files, or within one; holes stay holes. Returns how many bytes that were:
    /// less than asked for where the source ends or space does.
    pub(super) fn copy(&mut self, from: (NodeId, u64), to: (NodeId, u64), length: u64) -> Result<u64> {
        let end = from.1.saturating_add(length).min(self.data(from.0)?.size());
        let overlaps =
            from.0 == to.0 && to.1 < end && from.1 < to.1.saturating_add(end.saturating_sub(from.1));
        if overlaps {
            return Err(Errno::INVAL);
        }
        let mut buffer = [0; PAGE as usize];
        let mut at = from.1;
        while at < end {
            let target =
                to.1.checked_add(at - from.1).filter(|target| *target < MAX_SIZE).ok_or(Errno::FBIG)?;
            let (bytes, next) = self.data(from.0)?.part(at, end);
            let filled = bytes.map(|bytes| {
                buffer[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            });
            let (node, space) = self.file(to.0)?;
            let Body::File(data) = &mut node.body else { return Err(Errno::INVAL) };
            let done = match filled {
                Some(n) => match data.write(target, &buffer[..n], space) {
                    Ok(n) => n as u64,
                    Err(error) if at == from.1 => return Err(error),
                    Err(_) => break,
                },
                None => {
                    data.punch(target, target + (next - at), space);
                    data.extend(target + (next - at));
                    next - at
                }
            };
            at += done;
            if at < next {
                break;
            }
        }
        Ok(at.saturating_sub(from.1))
    }

    /// The content of a regular file.
    pub(super) fn data(&self, id: NodeId) -> Result<&Data> {
        match &self.node(id)?.body {
            Body::File(data) => Ok(data),
            Body::Directory(_) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }
}

/// `FALLOC_FL_COLLAPSE_RANGE` and `_INSERT_RANGE` work on whole pages.
fn aligned_end(start: u64, length: u64) -> Result<u64> {
    if length == 0 || !start.is_multiple_of(PAGE) || !length.is_multiple_of(PAGE) {
        return Err(Errno::INVAL);
    }
    start.checked_add(length).ok_or(Errno::INVAL)
}

/// A range within one page.
struct Part {
    page: u64,
    start: usize,
    end: usize,
}

impl Part {
    /// From `start` to `end`, or to the end of the page.
    fn of(start: u64, end: u64) -> Self {
        let page = start / PAGE;
        let base = page * PAGE;
        Self { page, start: (start - base) as usize, end: (end - base).min(PAGE) as usize }
    }

    fn range(&self) -> std::ops::Range<usize> {
        self.start..self.end
    }

    fn length(&self) -> usize {
        self.end - self.start
    }
}

/// `start..end`, page by page.
fn parts(start: u64, end: u64) -> impl Iterator<Item = Part> {
    let mut at = start;
    std::iter::from_fn(move || {
        let part = (at < end).then(|| Part::of(at, end))?;
        at += part.length() as u64;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u64 = PAGE;

    /// What a file is, without any thrift: the bytes, and how much space there may be.
    #[derive(Default)]
    struct Model(Vec<u8>);

    impl Model {
        fn write(&mut self, at: usize, bytes: &[u8]) {
            self.0.resize(self.0.len().max(at + bytes.len()), 0);
            self.0[at..][..bytes.len()].copy_from_slice(bytes);
        }

        fn erase(&mut self, start: usize, end: usize) {
            let (start, end) = (start.min(self.0.len()), end.min(self.0.len()));
            self.0[start..end].fill(0);
        }
    }

    fn content(data: &Data) -> Vec<u8> {
        let mut buffer = vec![0xEE; data.size() as usize + 10];
        let room = buffer.len();
        let mut sink = Sink::new(&mut buffer, room);
        data.read(0, u64::MAX, &mut sink);
        let n = sink.len();
        buffer.truncate(n);
        buffer
    }

    /// Numbers that look random and are the same each time (xorshift).
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }
    }

    fn one_step(dice: &mut Dice, data: &mut Data, model: &mut Model, space: &mut Space) {
        let (start, length) = (dice.below(6 * P), 1 + dice.below(3 * P));
        let end = start + length;
        let (a, b) = (start as usize, end as usize);
        let (page, pages) = (start / P * P, length.div_ceil(P) * P);
        match dice.below(8) {
            0 | 1 => {
                let byte = 1 + dice.below(255) as u8;
                assert_eq!(data.write(start, &vec![byte; b - a], space), Ok(b - a));
                model.write(a, &vec![byte; b - a]);
            }
            2 => {
                assert_eq!(data.resize(start, space), Ok(()));
                model.0.resize(a, 0);
            }
            3 => {
                data.punch(start, end, space);
                model.erase(a, b);
            }
            4 => {
                assert_eq!(data.zero(start, end, space), Ok(()));
                model.erase(a, b);
            }
            5 => assert_eq!(data.reserve(start, end, space), Ok(())),
            6 => match data.collapse(page, pages, space) {
                Ok(()) => drop(model.0.drain(page as usize..(page + pages) as usize)),
                Err(error) => {
                    assert_eq!(error, Errno::INVAL);
                    assert!(page + pages >= model.0.len() as u64);
                }
            },
            _ if data.size() < 40 * P => match data.insert(page, pages) {
                Ok(()) => {
                    let (page, pages) = (page as usize, pages as usize);
                    model.0.splice(page..page, std::iter::repeat_n(0, pages)).for_each(drop);
                }
                Err(error) => {
                    assert_eq!(error, Errno::INVAL);
                    assert!(page >= model.0.len() as u64);
                }
            },
            _ => {}
        }
    }

    #[test]
    fn content_is_that_of_a_plain_array() {
        for seed in 1..=20 {
            let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ seed);
            let (mut data, mut model, mut space) = (Data::default(), Model::default(), Space::new(1000 * P));
            for step in 0..300 {
                one_step(&mut dice, &mut data, &mut model, &mut space);
                assert_eq!(content(&data), model.0, "seed {seed}, step {step}");
                assert_eq!(space.free() + data.pages(), space.total(), "seed {seed}, step {step}");
            }
            data.clear(&mut space);
            assert_eq!(space.free(), space.total());
        }
    }

    #[test]
    fn seeking_tells_data_from_holes() {
        let (mut data, mut space) = (Data::default(), Space::new(100 * P));
        data.write(2 * P + 5, b"x", &mut space).unwrap();
        data.resize(5 * P + 1, &mut space).unwrap();
        assert_eq!(data.next_data(0), Ok(2 * P));
        assert_eq!(data.next_data(2 * P + 100), Ok(2 * P + 100));
        assert_eq!(data.next_data(3 * P), Err(Errno::NXIO));
        assert_eq!(data.next_hole(0), Ok(0));
        assert_eq!(data.next_hole(2 * P + 7), Ok(3 * P));
        assert_eq!(data.next_hole(5 * P + 1), Err(Errno::NXIO));
        data.write(5 * P, b"y", &mut space).unwrap();
        assert_eq!(data.next_hole(5 * P), Ok(5 * P + 1), "the end of a file is a hole");
        data.reserve(0, P, &mut space).unwrap();
        assert_eq!(data.next_data(0), Ok(2 * P), "reserved space holds no data");
    }

    #[test]
    fn a_full_filesystem_takes_what_fits() {
        let (mut data, mut space) = (Data::default(), Space::new(2 * P));
        assert_eq!(data.write(P - 1, &[1; 2 * P as usize], &mut space), Ok(P as usize + 1));
        assert_eq!(data.size(), 2 * P);
        assert_eq!(data.write(2 * P, b"x", &mut space), Err(Errno::NOSPC));
        assert_eq!(data.write(0, b"x", &mut space), Ok(1), "space that the file has already can be written");
        assert_eq!(data.reserve(0, 3 * P, &mut space), Err(Errno::NOSPC));
        assert_eq!(data.reserve(0, 1 << 60, &mut space), Err(Errno::NOSPC));
        data.punch(0, P, &mut space);
        assert_eq!(data.write(2 * P, b"x", &mut space), Ok(1));
    }

    #[test]
    fn sizes_end_where_the_kernel_ends_them() {
        let (mut data, mut space) = (Data::default(), Space::new(10 * P));
        assert_eq!(data.resize(MAX_SIZE + 1, &mut space), Err(Errno::FBIG));
        assert_eq!(data.resize(MAX_SIZE, &mut space), Ok(()));
        assert_eq!(data.write(MAX_SIZE, b"x", &mut space), Err(Errno::FBIG));
        assert_eq!(data.write(MAX_SIZE - 1, b"xy", &mut space), Ok(1));
        assert_eq!(data.insert(0, P), Err(Errno::FBIG));
        assert_eq!(data.insert(1, P), Err(Errno::INVAL));
        assert_eq!(data.collapse(P, 0, &mut space), Err(Errno::INVAL));
    }
}
