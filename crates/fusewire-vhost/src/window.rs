//! The DAX window: which ranges of files the guest has there, and what of them the monitor has mapped.
//!
//! The guest chooses where a range goes; whatever lies there goes first, since monitors refuse to map over what is mapped. A range may
//! reach beyond the end of its file, where nothing is to be had until the file grows. Some monitors map that all the same; QEMU insists
//! on whole pages that lie within the file. Then a range is several pieces, and the last page of a file that does not end with its
//! page is a page of ours (`tail.rs`). All that is the same for every filesystem: it says which file, and when one changes.

mod channel;
mod layout;
mod monitor;
mod tail;

pub(crate) use monitor::Monitor;

use crate::limits::mappings;
use fusewire::{
    types::{Errno, Result},
    window::{FileId, MapRange, MappedFile, Mapper, PAGE},
};
use layout::{Range, without};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};
use tail::{Tail, Tails};

/// A file of which something is mapped.
#[derive(Debug)]
struct File {
    open: MappedFile,
    /// Some of it was ever mapped for writing.
    written: bool,
    /// Where its ranges are in the window.
    ranges: BTreeSet<u64>,
    tail: Option<Tail>,
}

/// What one session has mapped.
#[derive(Debug, Default)]
struct State {
    files: HashMap<FileId, File>,
    /// By where they begin. None overlaps another.
    ranges: BTreeMap<u64, Range>,
    tails: Tails,
    /// The session is over.
    closed: bool,
    mapped: Arc<RwLock<HashSet<FileId>>>,
}

/// The window of one session.
#[derive(Debug)]
pub(crate) struct SessionWindow {
    monitor: Arc<Monitor>,
    state: Mutex<State>,
    used: AtomicBool,
    /// The files in `state`: for those who ask for others, and need not wait for the monitor.
    mapped: Arc<RwLock<HashSet<FileId>>>,
}

impl SessionWindow {
    pub(crate) fn new(monitor: Arc<Monitor>) -> Self {
        let state = State::default();
        let mapped = state.mapped.clone();
        Self { monitor, state: Mutex::new(state), used: AtomicBool::new(false), mapped }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session is over: nothing is mapped any more, nor will be. Waits for the monitor, so that whoever the monitor waits for must
    /// not call it.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let all: Vec<u64> = state.ranges.keys().copied().collect();
        for at in all {
            state.remove(&self.monitor, at);
        }
        self.used.store(false, Ordering::Release);
    }

    /// Is this a range of the window, of whole pages?
    fn check(&self, at: u64, length: u64) -> Result<()> {
        let end = at.checked_add(length).ok_or(Errno::INVAL)?;
        let whole = at.is_multiple_of(PAGE) && length.is_multiple_of(PAGE);
        if length == 0 || !whole || end > self.monitor.size() { Err(Errno::INVAL) } else { Ok(()) }
    }
}

impl Mapper for SessionWindow {
    fn size(&self) -> u64 {
        self.monitor.size()
    }

    fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    fn is_mapped(&self, id: FileId) -> bool {
        self.mapped.read().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    fn map(&self, id: FileId, range: MapRange, open: &mut dyn FnMut() -> Result<MappedFile>) -> Result<()> {
        self.check(range.at, range.length)?;
        let end = range.offset.checked_add(range.length).ok_or(Errno::INVAL)?;
        if !range.offset.is_multiple_of(PAGE) || i64::try_from(end).is_err() {
            return Err(Errno::INVAL);
        }
        let mut state = self.state();
        if state.closed {
            return Err(Errno::IO);
        }
        let known = state.files.get(&id).map(|file| file.open.clone());
        let open = match known {
            Some(known) if known.writable || !range.writable => known,
            _ => open()?,
        };
        if range.writable && !open.writable {
            return Err(Errno::ACCESS);
        }
        if FileId::of(&open.file)? != id {
            return Err(Errno::STALE);
        }
        let most = mappings(self.monitor.size()) as usize;
        if state.splits(range.at, range.length) && state.ranges.len() + 1 >= most {
            return Err(Errno::NOSPC);
        }
        state.clear(&self.monitor, range.at, range.length);
        if state.ranges.len() >= most {
            return Err(Errno::NOSPC);
        }
        state.insert(id, range, open);
        self.used.store(true, Ordering::Release);
        let mapped = state.settle(&self.monitor, id);
        if mapped.is_err() {
            state.remove(&self.monitor, range.at);
        }
        self.used.store(!state.ranges.is_empty(), Ordering::Release);
        mapped
    }

    fn unmap(&self, at: u64, length: u64) -> Result<()> {
        self.check(at, length)?;
        let mut state = self.state();
        if state.splits(at, length) && state.ranges.len() >= mappings(self.monitor.size()) as usize {
            return Err(Errno::NOSPC);
        }
        state.clear(&self.monitor, at, length);
        self.used.store(!state.ranges.is_empty(), Ordering::Release);
        Ok(())
    }

    fn write_back(&self, id: FileId) {
        if self.is_mapped(id) {
            let State { files, tails, .. } = &mut *self.state();
            if let Some(file) = files.get_mut(&id) {
                file.write_back(tails);
            }
        }
    }

    fn write_back_all(&self) {
        let State { files, tails, .. } = &mut *self.state();
        files.values_mut().for_each(|file| file.write_back(tails));
    }

    fn follow(&self, id: FileId) {
        if !self.is_mapped(id) {
            return;
        }
        let mut state = self.state();
        if let Err(errno) = state.settle(&self.monitor, id) {
            tracing::error!(%errno, "a file has changed, and the guest cannot be shown all of it");
        }
    }
}

impl State {
    /// A range that nothing is mapped of yet.
    fn insert(&mut self, id: FileId, range: MapRange, open: MappedFile) {
        self.mapped.write().unwrap_or_else(PoisonError::into_inner).insert(id);
        let file = self.files.entry(id).or_insert_with(|| File {
            open: open.clone(),
            written: false,
            ranges: BTreeSet::new(),
            tail: None,
        });
        file.written |= range.writable;
        if open.writable {
            file.open = open;
        }
        file.ranges.insert(range.at);
        self.ranges.insert(range.at, Range::new(id, range));
    }

    /// Is one range more left if all that lies there is unmapped?
    fn splits(&self, at: u64, length: u64) -> bool {
        let before = self.ranges.range(..at).next_back();
        before.is_some_and(|(&begin, range)| begin + range.map.length > at + length)
    }

    /// Unmap whatever lies there. Of ranges that reach further, the rest stays.
    fn clear(&mut self, monitor: &Monitor, at: u64, length: u64) {
        let end = at + length;
        let first = self.ranges.range(..at).next_back().map_or(at, |(&first, _)| first);
        let hit = self.ranges.range(first..end).filter(|(_, range)| range.map.at + range.map.length > at);
        let hit: Vec<u64> = hit.map(|(&at, _)| at).collect();
        for begin in hit {
            let Some((id, whole, open)) = self
                .ranges
                .get(&begin)
                .and_then(|range| Some((range.id, range.map, self.files.get(&range.id)?.open.clone())))
            else {
                continue;
            };
            let rest = without(whole, at, end);
            // What stays keeps the file open, and its last page.
            for &rest in rest.iter().flatten().filter(|rest| rest.at != begin) {
                self.insert(id, rest, open.clone());
            }
            self.take_apart(monitor, begin);
            match rest[0] {
                Some(head) => self.insert(id, head, open),
                None => self.release(id, begin),
            }
            if rest.iter().any(Option::is_some)
                && let Err(errno) = self.settle(monitor, id)
            {
                tracing::error!(%errno, "what the guest did not unmap cannot be mapped again");
            }
        }
    }

    /// Unmap a range, and forget it.
    fn remove(&mut self, monitor: &Monitor, at: u64) {
        if let Some(range) = self.take_apart(monitor, at) {
            self.release(range.id, at);
        }
    }

    /// Unmap the pieces of a range, which is in the way of others then.
    fn take_apart(&mut self, monitor: &Monitor, at: u64) -> Option<Range> {
        let mut range = self.ranges.remove(&at)?;
        range.unmap_all(monitor);
        Some(range)
    }

    /// A file has a range less. With the last it is closed.
    fn release(&mut self, id: FileId, at: u64) {
        let Some(file) = self.files.get_mut(&id) else { return };
        file.ranges.remove(&at);
        if file.ranges.is_empty()
            && let Some(mut file) = self.files.remove(&id)
        {
            file.retire_tail(&mut self.tails);
            self.mapped.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
    }

    /// Have all ranges of a file show it as it is now.
    fn settle(&mut self, monitor: &Monitor, id: FileId) -> Result<()> {
        let Some(file) = self.files.get_mut(&id) else { return Ok(()) };
        let size = rustix::fs::fstat(&file.open.file)?.st_size as u64;
        let last = size - size % PAGE;
        let ranges = &mut self.ranges;
        if file.tail.as_ref().is_some_and(|tail| tail.page() != last || size == last) {
            for at in &file.ranges {
                if let Some(range) = ranges.get_mut(at) {
                    range.unmap_tail(monitor);
                }
            }
            file.retire_tail(&mut self.tails);
        }
        if let Some(tail) = &mut file.tail {
            if file.written {
                tail.write_back(&self.tails, &file.open.file)?;
            }
            tail.refresh(&self.tails, &file.open.file, size)?;
        }
        for at in &file.ranges {
            let Some(range) = ranges.get_mut(at) else { continue };
            if range.extend(monitor, &file.open.file, size)? && file.tail.is_none() {
                file.tail = Some(self.tails.add(&file.open.file, last, size)?);
            }
            if let Some(tail) = &file.tail {
                range.map_tail(monitor, &self.tails, tail)?;
            }
        }
        Ok(())
    }
}

impl File {
    /// What the guest has written to its last page goes to the file.
    fn write_back(&mut self, tails: &Tails) {
        if let Some(tail) = &mut self.tail
            && self.written
            && let Err(errno) = tail.write_back(tails, &self.open.file)
        {
            tracing::error!(%errno, "the last page of a file, which the guest wrote to, cannot be written");
        }
    }

    /// Its last page is none of ours any more.
    fn retire_tail(&mut self, tails: &mut Tails) {
        self.write_back(tails);
        if let Some(tail) = self.tail.take() {
            tails.remove(tail);
        }
    }
}
