//! Pages of the guest's memory that the device has written to, for a monitor that copies that memory to another machine meanwhile.
//!
//! The log is memory of the monitor's with a bit for each page of the guest's addresses (vhost-user: `SET_LOG_BASE`). The monitor reads and
//! clears it as often as it likes and copies what is marked once more. So a page is marked after it was written to: marked before, it
//! could be copied in between, and what is written then would be lost. `vhost-user-backend` has such a log, too, but only its own handler
//! can make one, it takes a lock and a reference count for each access to memory, and knows nothing of what `preadv` writes.

use crate::backed;
use rustix::fs::fstat;
use std::{
    fs::File,
    io,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// What a bit stands for, bytes, whatever the machine's pages are (`VHOST_LOG_PAGE`).
const PAGE: u64 = 4096;

/// A monitor's log.
#[derive(Debug)]
pub(crate) struct Log(MmapRegion);

impl Log {
    /// The log of `len` bytes at `offset` of a file.
    ///
    /// # Errors
    /// If it is not all there, or could be made shorter: touching what is gone would be the end of this process.
    pub(crate) fn open(file: File, (len, offset): (u64, u64)) -> io::Result<Self> {
        let wrong = |why: String| {
            tracing::error!("the monitor gave a log of written pages that {why}: refused");
            io::Error::new(io::ErrorKind::InvalidInput, format!("the log of written pages {why}"))
        };
        // Before its length is looked at.
        if !backed::keep_long(&file) {
            return Err(wrong("could be made shorter, for it is no memory that can be sealed".into()));
        }
        let there = fstat(&file)?.st_size as u64;
        if offset.checked_add(len).is_none_or(|end| end > there) {
            return Err(wrong(format!("has {len} bytes at {offset} of a file that has {there}")));
        }
        let len = usize::try_from(len).map_err(|_| wrong("is too long".into()))?;
        let memory = MmapRegion::from_file(FileOffset::new(file, offset), len);
        memory.map(Self).map_err(|error| wrong(format!("cannot be mapped ({error})")))
    }

    /// Has it a bit for each page of the guest's memory below `end`?
    pub(crate) fn covers(&self, end: u64) -> bool {
        end.div_ceil(PAGE) <= self.0.size() as u64 * 8
    }

    /// These bytes were written to.
    pub(crate) fn mark(&self, address: u64, len: u64) {
        let Some(last) = len.checked_sub(1).map(|more| address.saturating_add(more) / PAGE) else { return };
        let mut page = address / PAGE;
        while page <= last {
            let end = last.min(page | 7);
            let bits = u8::MAX << (page % 8) & u8::MAX >> (7 - end % 8);
            // What the log has no place for was refused, or is no memory.
            let Ok(byte) = self.0.get_atomic_ref::<AtomicU8>((page / 8) as usize) else { return };
            // After the writes: whoever finds the bit finds them.
            byte.fetch_or(bits, Ordering::Release);
            page = end + 1;
        }
    }
}

/// Whether what a device writes is logged, and where.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    on: AtomicBool,
    log: RwLock<Option<Log>>,
}

impl Dirty {
    /// Is it? Whoever writes to the guest's memory asks this with the ring locked, after it has written.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// It is, or not, from now on. Each ring has to be locked once until everybody knows.
    pub(crate) fn switch(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Another log, or none: nothing goes to the one before any more.
    pub(crate) fn replace(&self, log: Option<Log>) {
        *self.log.write().unwrap_or_else(PoisonError::into_inner) = log;
    }

    /// Do something to the log, if there is one.
    pub(crate) fn with(&self, act: impl FnOnce(&Log)) {
        if let Some(log) = &*self.log.read().unwrap_or_else(PoisonError::into_inner) {
            act(log);
        }
    }

    /// Is there a log that is too short for memory up to `end`?
    pub(crate) fn is_too_short(&self, end: u64) -> bool {
        let mut short = false;
        self.with(|log| short = !log.covers(end));
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    fn file(len: u64, flags: MemfdFlags) -> File {
        let file = File::from(memfd_create(c"log", MemfdFlags::CLOEXEC | flags).expect("file"));
        file.set_len(len).expect("length");
        file
    }

    fn marked(log: &Log) -> Vec<u64> {
        let byte = |page: u64| log.0.get_atomic_ref::<AtomicU8>((page / 8) as usize).expect("byte");
        let pages = 0..log.0.size() as u64 * 8;
        pages.filter(|page| byte(*page).load(Ordering::Relaxed) >> (page % 8) & 1 == 1).collect()
    }

    #[test]
    fn exactly_the_pages_that_bytes_lie_in_are_marked() {
        for (address, len, pages) in [
            (0, 0, 0..0),
            (4095, 0, 0..0),
            (0, 1, 0..1),
            (4095, 1, 0..1),
            (4095, 2, 0..2),
            (4096, 4096, 1..2),
            (7 * 4096, 4097, 7..9),
            (8 * 4096, 8 * 4096, 8..16),
            (3 * 4096 + 1, 20 * 4096, 3..24),
            (31 * 4096, 4096, 31..32),
            // Behind its end, and more than there ever is.
            (31 * 4096, 1 << 40, 31..32),
            (u64::MAX, u64::MAX, 0..0),
        ] {
            let log = Log::open(file(4, MemfdFlags::ALLOW_SEALING), (4, 0)).expect("log");
            log.mark(address, len);
            assert_eq!(marked(&log), pages.collect::<Vec<_>>(), "{address} {len}");
        }
    }

    #[test]
    fn a_log_that_is_not_there_or_could_go_is_refused() {
        let open = |len, place| Log::open(file(len, MemfdFlags::ALLOW_SEALING), place).is_ok();
        assert!(open(8192, (4096, 4096)));
        for place in [(8193, 0), (4097, 4096), (1, 8192), (u64::MAX, 1), (u64::MAX, 0), (1, 1)] {
            assert!(!open(8192, place), "{place:?}");
        }
        assert!(Log::open(file(8192, MemfdFlags::empty()), (4096, 0)).is_err(), "it cannot be sealed");
        let shrinking = file(8192, MemfdFlags::ALLOW_SEALING);
        let log = Log::open(shrinking.try_clone().expect("file"), (8192, 0)).expect("log");
        assert!(shrinking.set_len(0).is_err(), "it was made shorter");
        assert!(log.covers(8192 * 8 * 4096) && !log.covers(8192 * 8 * 4096 + 1));
    }
}
