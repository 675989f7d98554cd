//! File I/O of handlers: at once where it can be done at once, else through the ring of the thread that serves them.
//!
//! A handler that reads a file whose pages are not in memory would keep its thread, and with it a queue, for as long as the disk
//! takes. So what would block is asked of the ring (`IORING_OP_READ` and its like), and the handler waits there while others
//! are served. Threads without a ring make the plain system call; the watch finds another one if they are stuck in it.

use crate::{
    sys::{transfer, uring::Ring},
    types::{Errno, Result},
};
use rustix::{
    fd::BorrowedFd,
    fs::{OFlags, fcntl_getfl},
    io::{ReadWriteFlags, preadv2, pwritev2},
};
use std::{
    cell::{Cell, RefCell},
    io::{IoSlice, IoSliceMut},
    rc::Rc,
    time::{Duration, Instant},
};

/// For how many transfers a thread believes that files cannot tell whether they would block, once one could not.
const BELIEF: u32 = 256;

/// A sync that takes less has waited for no disk.
const AT_ONCE: Duration = Duration::from_micros(100);

thread_local! {
    /// Of a thread that serves requests of a ring.
    static FILES: RefCell<Option<Rc<Files>>> = const { RefCell::new(None) };
}

/// A ring for files, and what its thread has learnt of them.
struct Files {
    ring: Rc<RefCell<Ring>>,
    reads: Learnt,
    writes: Learnt,
    /// The last sync took no time to speak of: tmpfs, for one, has nothing to do.
    syncs_at_once: Cell<bool>,
}

/// Whether transfers of one direction can tell that they would block (`RWF_NOWAIT`). Of ext4, reads can and writes cannot.
#[derive(Default)]
struct Learnt {
    /// How many more are made without asking.
    plain: Cell<u32>,
    /// Some could tell, and none since could not.
    can_tell: Cell<bool>,
}

/// The ring of this thread is for files, too, until the value is dropped.
pub(crate) struct Offered(());

impl Offered {
    pub(crate) fn new(ring: Rc<RefCell<Ring>>) -> Self {
        let (reads, writes) = Default::default();
        FILES.set(Some(Rc::new(Files { ring, reads, writes, syncs_at_once: Cell::new(false) })));
        Self(())
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        FILES.set(None);
    }
}

/// What came of a transfer that was to be made at once.
enum AtOnce {
    Done(Result<usize>),
    /// It would block: on the ring, then.
    Blocks,
    /// Whether it would block is not known: on this thread, however long it takes.
    Unknown,
}

impl Learnt {
    /// Make a transfer if that does not block; `attempt` is the system call with `RWF_NOWAIT`.
    fn at_once(&self, file: BorrowedFd<'_>, attempt: impl FnOnce() -> Result<usize>) -> AtOnce {
        if let Some(left) = self.plain.get().checked_sub(1) {
            self.plain.set(left);
            return AtOnce::Unknown;
        }
        // Direct I/O waits for the device all the same.
        let waits = |flags: OFlags| flags.contains(OFlags::DIRECT);
        if self.can_tell.get() && fcntl_getfl(file).is_ok_and(waits) {
            return AtOnce::Blocks;
        }
        match attempt() {
            Err(Errno::AGAIN) => AtOnce::Blocks,
            Err(Errno::OPNOTSUPP) => {
                self.plain.set(BELIEF);
                self.can_tell.set(false);
                AtOnce::Unknown
            }
            done => {
                self.can_tell.set(true);
                AtOnce::Done(done)
            }
        }
    }
}

fn of_this_thread() -> Option<Rc<Files>> {
    FILES.with_borrow(Clone::clone)
}

/// The ring of this thread, if it has one.
pub(crate) fn ring() -> Option<Rc<RefCell<Ring>>> {
    FILES.with_borrow(|files| files.as_ref().map(|files| files.ring.clone()))
}

/// `pread`, once.
pub(crate) async fn read(file: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> Result<usize> {
    let Some(files) = of_this_thread() else { return rustix::io::pread(file, buf, offset) };
    let attempt = || preadv2(file, &mut [IoSliceMut::new(&mut *buf)], offset, ReadWriteFlags::NOWAIT);
    match files.reads.at_once(file, attempt) {
        AtOnce::Done(read) => read,
        AtOnce::Unknown => rustix::io::pread(file, buf, offset),
        AtOnce::Blocks => transfer::read(&files.ring, file, buf, offset).await,
    }
}

/// `pwrite`, once.
pub(crate) async fn write(file: BorrowedFd<'_>, buf: &[u8], offset: u64) -> Result<usize> {
    let Some(files) = of_this_thread() else { return rustix::io::pwrite(file, buf, offset) };
    let attempt = || pwritev2(file, &[IoSlice::new(buf)], offset, ReadWriteFlags::NOWAIT);
    match files.writes.at_once(file, attempt) {
        AtOnce::Done(written) => written,
        AtOnce::Unknown => rustix::io::pwrite(file, buf, offset),
        AtOnce::Blocks => transfer::write(&files.ring, file, buf, offset).await,
    }
}

/// `fsync`, or `fdatasync`.
pub(crate) async fn sync(file: BorrowedFd<'_>, data_only: bool) -> Result<()> {
    let plain = || if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) };
    let Some(files) = of_this_thread() else { return plain() };
    let begin = Instant::now();
    // The kernel has another thread do it, which is not worth it where nothing has to be waited for.
    let synced = match files.syncs_at_once.get() {
        true => plain(),
        false => transfer::sync(&files.ring, file, data_only).await,
    };
    files.syncs_at_once.set(begin.elapsed() < AT_ONCE);
    synced
}
