//! The pieces that one range of the window is made of.

use super::{
    monitor::Monitor,
    tail::{Tail, Tails},
};
use fusewire::{
    types::{Errno, Result},
    window::{FileId, MapRange, PAGE},
};
use std::os::fd::AsFd;

/// Of how many pieces a file that grows may be; then they are mapped anew, as one.
const PIECES: usize = 32;

/// What the guest asked for, and what is mapped of it.
#[derive(Debug)]
pub(super) struct Range {
    pub id: FileId,
    pub map: MapRange,
    /// Where pieces of the file end, in the window: each begins where the last one ends, the first with the range.
    ends: Vec<u64>,
    /// Where our page in place of the file's last one is, in the window.
    tail: Option<u64>,
}

/// What is left of a range, before and behind, if all that lies in the window from `at` to `end` is cut out.
pub(super) fn without(range: MapRange, at: u64, end: u64) -> [Option<MapRange>; 2] {
    let own_end = range.at + range.length;
    let head = (range.at < at).then(|| MapRange { length: at - range.at, ..range });
    let rest = (end < own_end).then(|| MapRange {
        at: end,
        offset: range.offset + (end - range.at),
        length: own_end - end,
        ..range
    });
    [head, rest]
}

impl Range {
    /// Nothing is mapped yet.
    pub(super) fn new(id: FileId, map: MapRange) -> Self {
        Self { id, map, ends: Vec::new(), tail: None }
    }

    /// Where in the window this place of the file is, which must not lie before the range.
    fn place(&self, offset: u64) -> u64 {
        self.map.at + (offset - self.map.offset)
    }

    /// To where the file itself is mapped, in the window.
    fn covered(&self) -> u64 {
        self.ends.last().copied().unwrap_or(self.map.at)
    }

    fn unmap_last(&mut self, monitor: &Monitor) {
        if let Some(end) = self.ends.pop() {
            let begin = self.covered();
            monitor.unmap(begin, end - begin);
        }
    }

    /// Unmap everything.
    pub(super) fn unmap_all(&mut self, monitor: &Monitor) {
        self.unmap_tail(monitor);
        while !self.ends.is_empty() {
            self.unmap_last(monitor);
        }
    }

    /// Unmap our page, if it is there.
    pub(super) fn unmap_tail(&mut self, monitor: &Monitor) {
        if let Some(at) = self.tail.take() {
            monitor.unmap(at, PAGE);
        }
    }

    /// Map what there is of a file of this size and is not mapped yet. `true` if its last page is of the range, and must be ours.
    pub(super) fn extend(&mut self, monitor: &Monitor, file: &impl AsFd, size: u64) -> Result<bool> {
        let (at, end) = (self.map.at, self.map.at + self.map.length);
        let wanted =
            |offset: u64| self.place(offset.clamp(self.map.offset, self.map.offset + self.map.length));
        let last = size - size % PAGE;
        let (whole, last_end) = (wanted(last), wanted(size.next_multiple_of(PAGE)));
        if !monitor.is_exact() {
            if self.covered() == end || monitor.map(self.map, (at, end), file).is_ok() {
                self.ends = vec![end];
                return Ok(false);
            }
            if whole == end {
                return Err(Errno::IO);
            }
            // Perhaps it minds what is not there.
            monitor.be_exact();
        }
        // What the file has lost.
        while self.ends.len() > 1 && self.ends[self.ends.len() - 2] >= last_end
            || self.ends.len() == 1 && last_end == at
        {
            self.unmap_last(monitor);
        }
        if self.covered() < whole {
            // Where our page was is the file's now.
            self.unmap_tail(monitor);
            if self.ends.len() >= PIECES {
                self.unmap_all(monitor);
            }
            monitor.map(self.map, (self.covered(), whole), file)?;
            self.ends.push(whole);
        }
        Ok(self.covered() <= whole && whole < last_end)
    }

    /// Map our page where the file's last one would be, if that is of the range and the file itself is not there.
    pub(super) fn map_tail(&mut self, monitor: &Monitor, tails: &Tails, tail: &Tail) -> Result<()> {
        let inside = (self.map.offset..self.map.offset + self.map.length).contains(&tail.page());
        if !inside || self.tail.is_some() || !monitor.is_exact() {
            return Ok(());
        }
        let at = self.place(tail.page());
        if self.covered() > at {
            return Ok(());
        }
        let memory = tails.file()?;
        let range = MapRange { at, offset: tail.place(), length: PAGE, writable: self.map.writable };
        monitor.map(range, (at, at + PAGE), memory)?;
        self.tail = Some(at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_out_of_a_range_leaves_what_is_beside_it() {
        let range = |at, offset, length| MapRange { at, offset, length, writable: true };
        let whole = range(0x10_000, 0x4000, 0x8000);
        assert_eq!(without(whole, 0x10_000, 0x18_000), [None, None]);
        assert_eq!(without(whole, 0, u64::MAX), [None, None]);
        assert_eq!(
            without(whole, 0x12_000, 0x13_000),
            [Some(range(0x10_000, 0x4000, 0x2000)), Some(range(0x13_000, 0x7000, 0x5000))]
        );
        assert_eq!(without(whole, 0x9000, 0x11_000), [None, Some(range(0x11_000, 0x5000, 0x7000))]);
        assert_eq!(without(whole, 0x17_000, 0x20_000), [Some(range(0x10_000, 0x4000, 0x7000)), None]);
    }
}
