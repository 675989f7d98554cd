//! Reads, writes and syncs of files through a ring: a future each, which owns its share of the memory until the kernel is done.

use super::uring::Ring;
use crate::types::Errno;
use io_uring::{opcode, squeue, types::Fd, types::FsyncFlags};
use rustix::fd::{AsRawFd, BorrowedFd};
use std::{
    cell::RefCell,
    future::Future,
    marker::PhantomData,
    ops::Range,
    pin::Pin,
    ptr,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// Mark of a transfer's completion; the other bits are its number. Numbers of slots are far smaller, and the mark of the watched
/// descriptor is looked for first.
pub(super) const MARK: u64 = 1 << 62;

/// One transfer, as the ring knows it.
#[derive(Debug)]
enum State {
    Free,
    /// The kernel is at it.
    Running {
        memory: Range<*const u8>,
        waker: Option<Waker>,
    },
    /// Bytes, or a negative errno.
    Over(i32),
}

/// The transfers of one ring, by number.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    states: Vec<State>,
    running: usize,
}

impl Transfers {
    pub(super) fn begin(&mut self, memory: Range<*const u8>) -> usize {
        self.running += 1;
        let running = State::Running { memory, waker: None };
        match self.states.iter().position(|state| matches!(state, State::Free)) {
            Some(id) => {
                self.states[id] = running;
                id
            }
            None => {
                self.states.push(running);
                self.states.len() - 1
            }
        }
    }

    /// Transfer `id` is over: wake who waits for it.
    pub(super) fn over(&mut self, id: usize, result: i32) {
        let Some(state @ State::Running { .. }) = self.states.get_mut(id) else { return };
        self.running -= 1;
        if let State::Running { waker: Some(waker), .. } = std::mem::replace(state, State::Over(result)) {
            waker.wake();
        }
    }

    /// Is the kernel at work on any of `memory`?
    pub(super) fn touches(&self, memory: &Range<*const u8>) -> bool {
        self.running > 0
            && self.states.iter().any(|state| match state {
                State::Running { memory: theirs, .. } => {
                    theirs.start < memory.end && memory.start < theirs.end
                }
                _ => false,
            })
    }

    pub(super) fn is_running(&self, id: usize) -> bool {
        matches!(self.states[id], State::Running { .. })
    }

    /// What came of transfer `id`, which is over; its number is free again.
    pub(super) fn take(&mut self, id: usize) -> Result<usize, Errno> {
        match std::mem::replace(&mut self.states[id], State::Free) {
            State::Over(result) if result < 0 => Err(Errno::from_raw_os_error(-result)),
            State::Over(result) => Ok(result as usize),
            State::Free | State::Running { .. } => Err(Errno::CANCELED),
        }
    }
}

/// A transfer under way. Dropped, it waits until the kernel is done: until then the memory is the kernel's.
struct Transfer<'a> {
    ring: Rc<RefCell<Ring>>,
    id: usize,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Transfer<'a> {
    /// # Safety
    /// `command` touches no memory but `memory`, which is borrowed for `'a`, for writing if the command writes to it.
    unsafe fn begin(ring: &Rc<RefCell<Ring>>, command: squeue::Entry, memory: Range<*const u8>) -> Self {
        let id = {
            let mut ring = ring.borrow_mut();
            let id = ring.transfers.begin(memory);
            // SAFETY: the memory stays borrowed until the returned value is dropped, which waits for the command's end. Should
            // it be leaked, the channel settles with the ring before it uses that memory again (`Ring::settle`).
            unsafe { ring.push(squeue::Entry128::from(command.user_data(MARK | id as u64))) };
            // At once: it has the rights that this thread has now, and another request may change them.
            ring.submit();
            id
        };
        Self { ring: ring.clone(), id, memory: PhantomData }
    }
}

impl Future for Transfer<'_> {
    type Output = Result<usize, Errno>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut ring = self.ring.borrow_mut();
        match &mut ring.transfers.states[self.id] {
            State::Running { waker, .. } => {
                if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            State::Over(result) if *result < 0 => Poll::Ready(Err(Errno::from_raw_os_error(-*result))),
            State::Over(result) => Poll::Ready(Ok(*result as usize)),
            State::Free => Poll::Ready(Err(Errno::CANCELED)),
        }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        let mut ring = self.ring.borrow_mut();
        if ring.transfers.is_running(self.id) {
            let cancel = opcode::AsyncCancel::new(MARK | self.id as u64).build();
            // SAFETY: it uses no memory. Its own completion bears the number of no transfer.
            unsafe { ring.push(squeue::Entry128::from(cancel.user_data(MARK | u64::from(u32::MAX)))) };
            while ring.transfers.is_running(self.id) {
                ring.await_one();
            }
        }
        ring.transfers.states[self.id] = State::Free;
    }
}

/// `pread` through the ring.
pub(crate) async fn read(
    ring: &Rc<RefCell<Ring>>,
    file: BorrowedFd<'_>,
    buf: &mut [u8],
    offset: u64,
) -> Result<usize, Errno> {
    let (at, len) = (buf.as_mut_ptr(), buf.len().min(i32::MAX as usize));
    let command = opcode::Read::new(Fd(file.as_raw_fd()), at, len as u32).offset(offset).build();
    let memory = buf.as_ptr_range();
    // SAFETY: it writes to `buf` alone, at most its length, and `buf` is borrowed until this function's future is dropped.
    unsafe { Transfer::begin(ring, command, memory) }.await
}

/// `pwrite` through the ring.
pub(crate) async fn write(
    ring: &Rc<RefCell<Ring>>,
    file: BorrowedFd<'_>,
    buf: &[u8],
    offset: u64,
) -> Result<usize, Errno> {
    let len = buf.len().min(i32::MAX as usize);
    let command = opcode::Write::new(Fd(file.as_raw_fd()), buf.as_ptr(), len as u32).offset(offset).build();
    // SAFETY: it reads `buf` alone, which is borrowed until this function's future is dropped.
    unsafe { Transfer::begin(ring, command, buf.as_ptr_range()) }.await
}

/// A client's pages, which the kernel has put into the ring's table for the time of a request: which, and from where in them
/// how many bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lent {
    /// Place in the table.
    pub index: u16,
    /// Bytes from their beginning.
    pub at: usize,
    /// How many bytes.
    pub len: usize,
}

impl Lent {
    fn len(self) -> u32 {
        self.len.min(i32::MAX as usize) as u32
    }

    fn read(self, file: BorrowedFd<'_>, offset: u64) -> squeue::Entry {
        let at = ptr::without_provenance_mut(self.at);
        opcode::ReadFixed::new(Fd(file.as_raw_fd()), at, self.len(), self.index).offset(offset).build()
    }

    fn write(self, file: BorrowedFd<'_>, offset: u64) -> squeue::Entry {
        let at = ptr::without_provenance(self.at);
        opcode::WriteFixed::new(Fd(file.as_raw_fd()), at, self.len(), self.index).offset(offset).build()
    }
}

/// `pread` into a client's pages.
pub(crate) async fn read_lent(
    ring: &Rc<RefCell<Ring>>,
    file: BorrowedFd<'_>,
    pages: Lent,
    offset: u64,
) -> Result<usize, Errno> {
    // SAFETY: none of our memory is touched: the address is one within the pages, which are the kernel's own.
    unsafe { Transfer::begin(ring, pages.read(file, offset), ptr::null()..ptr::null()) }.await
}

/// `pwrite` from a client's pages.
pub(crate) async fn write_lent(
    ring: &Rc<RefCell<Ring>>,
    file: BorrowedFd<'_>,
    pages: Lent,
    offset: u64,
) -> Result<usize, Errno> {
    // SAFETY: as for `read_lent`.
    unsafe { Transfer::begin(ring, pages.write(file, offset), ptr::null()..ptr::null()) }.await
}

/// The same, and wait for it in place.
pub(crate) fn write_lent_now(
    ring: &Rc<RefCell<Ring>>,
    file: BorrowedFd<'_>,
    pages: Lent,
    offset: u64,
) -> Result<usize, Errno> {
    // SAFETY: as for `read_lent`.
    let transfer = unsafe { Transfer::begin(ring, pages.write(file, offset), ptr::null()..ptr::null()) };
    let mut ring = ring.borrow_mut();
    while ring.transfers.is_running(transfer.id) {
        ring.await_one();
    }
    let result = ring.transfers.take(transfer.id);
    drop(ring);
    result
}

/// `fsync`, or `fdatasync`, through the ring.
pub(crate) async fn sync(
    ring: &Rc<RefCell<Ring>>,
    file: BorrowedFd<'_>,
    data_only: bool,
) -> Result<(), Errno> {
    let flags = if data_only { FsyncFlags::DATASYNC } else { FsyncFlags::empty() };
    let command = opcode::Fsync::new(Fd(file.as_raw_fd())).flags(flags).build();
    // SAFETY: it uses no memory.
    unsafe { Transfer::begin(ring, command, ptr::null()..ptr::null()) }.await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::uring::Event;
    use rustix::{
        event::{EventfdFlags, eventfd},
        fd::{AsFd, OwnedFd},
        fs::{Mode, OFlags},
    };
    use std::{
        io::Write as _,
        pin::pin,
        task::Waker,
        thread,
        time::{Duration, Instant},
    };

    /// `None` where this machine has no `io_uring`.
    fn ring() -> Option<Rc<RefCell<Ring>>> {
        let null =
            rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("null");
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd");
        let begun = Ring::new().and_then(|mut ring| ring.begin(null.as_fd(), wake).map(|()| ring));
        begun
            .inspect_err(|error| eprintln!("skipped: no io_uring: {error}"))
            .ok()
            .map(|ring| Rc::new(RefCell::new(ring)))
    }

    /// Poll until it is ready, entering the ring in between.
    fn finish<T>(ring: &Rc<RefCell<Ring>>, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return value;
            }
            let mut ring = ring.borrow_mut();
            ring.wait();
            while let Some(event) = ring.next() {
                assert!(matches!(event, Event::Awake), "{event:?}");
            }
        }
    }

    fn pipe() -> (OwnedFd, std::fs::File) {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
        (reader, writer.into())
    }

    #[test]
    fn files_are_read_written_and_synced() {
        let Some(ring) = ring() else { return };
        let file = tempfile::tempfile().expect("file");
        let mut buf = [0; 16];
        assert_eq!(finish(&ring, write(&ring, file.as_fd(), b"0123456789", 2)), Ok(10));
        assert_eq!(finish(&ring, sync(&ring, file.as_fd(), true)), Ok(()));
        assert_eq!(finish(&ring, read(&ring, file.as_fd(), &mut buf, 4)), Ok(8));
        assert_eq!(&buf[..8], b"23456789");
        assert_eq!(finish(&ring, read(&ring, file.as_fd(), &mut buf, 12)), Ok(0));
        let null = rustix::fs::open(c"/dev/null", OFlags::WRONLY, Mode::empty()).expect("null");
        assert_eq!(finish(&ring, read(&ring, null.as_fd(), &mut buf, 0)), Err(Errno::BADF));
    }

    #[test]
    fn others_go_on_while_one_waits() {
        let Some(ring) = ring() else { return };
        let (reader, mut writer) = pipe();
        let file = tempfile::tempfile().expect("file");
        let (mut slow, mut quick) = ([0; 4], [0; 4]);
        let mut waiting = Box::pin(read(&ring, reader.as_fd(), &mut slow, u64::MAX));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(finish(&ring, read(&ring, file.as_fd(), &mut quick, 0)), Ok(0));
        writer.write_all(b"late").expect("write");
        assert_eq!(finish(&ring, waiting), Ok(4));
        assert_eq!(&slow, b"late");
    }

    #[test]
    fn memory_is_free_once_a_transfer_is_dropped() {
        let Some(ring) = ring() else { return };
        let (reader, mut writer) = pipe();
        let mut buf = [0; 4];
        {
            let mut waiting = Box::pin(read(&ring, reader.as_fd(), &mut buf, u64::MAX));
            assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        writer.write_all(b"late").expect("write");
        assert_eq!(buf, [0; 4]);
        assert_eq!(finish(&ring, read(&ring, reader.as_fd(), &mut buf, u64::MAX)), Ok(4));
    }

    #[test]
    fn memory_of_a_leaked_transfer_is_waited_for() {
        let Some(ring) = ring() else { return };
        let (reader, mut writer) = pipe();
        let buf = Box::leak(Box::new([0u8; 4]));
        let memory = buf.as_ptr_range();
        let mut waiting = Box::pin(read(&ring, reader.as_fd(), buf, u64::MAX));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        std::mem::forget(waiting);
        let (word, told) = std::sync::mpsc::channel();
        let late = thread::spawn(move || {
            told.recv().expect("a word");
            thread::sleep(Duration::from_millis(50));
            writer.write_all(b"late").expect("write");
        });
        // Nothing is written before this is over.
        let other = [0u8; 4];
        ring.borrow_mut().settle(other.as_ptr_range());
        let begin = Instant::now();
        word.send(()).expect("the writer");
        ring.borrow_mut().settle(memory);
        assert!(begin.elapsed() >= Duration::from_millis(50));
        late.join().expect("writer");
    }
}
