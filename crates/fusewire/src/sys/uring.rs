//! io_uring as FUSE uses it: memory that is lent to the kernel, and commands on `/dev/fuse`.
//!
//! An [`Entry`] is owned by whoever works on a request, and handed to the [`Ring`] with each command; the ring gives it back
//! with the completion. So nobody looks at memory that the kernel may write.

use super::{
    memory,
    pool::PayloadPool,
    transfer::{MARK as TRANSFER, Transfers},
};
use crate::types::Errno;
use fusewire_abi::{URING_SQE_CMD_SIZE, UringCmd, UringCmdReq, UringReqHeader};
use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd, types::Fixed};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::{
    collections::VecDeque,
    io, mem,
    ops::Range,
    ptr, slice,
    sync::Arc,
    time::{Duration, Instant},
};
use zerocopy::IntoBytes;

pub(super) const PAGE: usize = 4096;
/// Where in an entry's first page the two addresses stand that REGISTER reads.
const VECTORS: usize = 1024;
/// The only registered file: `/dev/fuse`.
pub(super) const DEVICE: Fixed = Fixed(0);
/// Mark of the completion that tells of [`Ring::watch`].
const WAKE: u64 = u64::MAX;
/// Where `len` stands in a submission entry (`struct io_uring_sqe`).
const SQE_LEN: usize = 24;
/// `IORING_ENTER_GETEVENTS`: run what waits to be done in this thread, and wait for completions, if any are asked for.
const GETEVENTS: u32 = 1;
/// How often to tell the CPU that this is a busy loop before the clock is read again.
const LOOKS: u32 = 4;
/// Commands that can be queued before they must be submitted.
const QUEUED: u32 = 64;

/// The memory of one ring entry: header, then payload, each on pages of their own. Pages that were never used take no memory.
#[derive(Debug)]
pub(crate) struct Entry {
    base: *mut u8,
    /// Bytes of its own payload; none if its queue has a pool.
    payload: usize,
    pooled: Option<Pooled>,
}

/// What an entry has instead of a payload of its own.
#[derive(Debug)]
pub(crate) struct Pooled {
    /// Where payloads of its queue are.
    pub pool: Arc<PayloadPool>,
    /// The pool's place in the ring's table, if it is there.
    pub index: Option<u16>,
    /// Where in that table the kernel puts clients' pages for this entry, on a queue with zero copy.
    pub pages: Option<u16>,
    /// Where in the pool the payload of the request in work is, if it has one.
    pub at: Option<usize>,
}

// SAFETY: the memory is this value's alone; `base` is a plain address.
unsafe impl Send for Entry {}

impl Entry {
    /// Memory for payloads of up to `payload` bytes.
    pub(crate) fn new(payload: usize) -> io::Result<Self> {
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let base = unsafe { libc::mmap(ptr::null_mut(), PAGE + payload, prot, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entry = Self { base: base.cast(), payload, pooled: None };
        // Neighbours become one mapping, and the first byte of a header would bring 2 MiB with it.
        // SAFETY: the range is the mapping just made; the advice changes nothing of its content.
        if unsafe { libc::madvise(base, PAGE + payload, libc::MADV_NOHUGEPAGE) } < 0 {
            // A kernel without huge pages does not know it.
            tracing::debug!(error = %io::Error::last_os_error(), "MADV_NOHUGEPAGE");
        }
        Ok(entry)
    }

    /// Its payloads are in a pool from now on. Only before it is registered.
    pub(crate) fn join(&mut self, pooled: Pooled) {
        // SAFETY: the range is the end of this entry's mapping, which nobody borrows from, and is not used any more: the length
        // of its own payload is 0 from here on.
        unsafe { libc::munmap(self.base.add(PAGE).cast(), self.payload) };
        self.payload = 0;
        self.pooled = Some(pooled);
    }

    /// Where its payloads are, if not in the entry.
    pub(crate) fn pooled(&self) -> Option<&Pooled> {
        self.pooled.as_ref()
    }

    /// A request has come: find its payload in the pool, if it has one. The kernel does not say whether it has: that
    /// follows from the operation.
    pub(crate) fn locate(&mut self, has_payload: bool) {
        let offset = self.parts().0.ring_ent_in_out.offset as usize;
        if let Some(pooled) = &mut self.pooled {
            pooled.at = has_payload.then_some(offset);
        }
    }

    /// Header and payload; the latter is empty if the request has none in the pool.
    pub(crate) fn parts(&mut self) -> (&mut UringReqHeader, &mut [u8]) {
        let slot = self.pooled.as_ref().and_then(|pooled| pooled.pool.slot(pooled.at?));
        // SAFETY: `base` is a mapping of PAGE + payload bytes.
        let (at, len) = slot.unwrap_or_else(|| (unsafe { self.base.add(PAGE) }, self.payload));
        // SAFETY: the mapping of the header is page-aligned, initialised (zeros at first), and borrowed exclusively by `self`;
        // any bytes are a valid header. The payload does not overlap with it, and is the entry's own or a slot that the kernel
        // has given to this entry alone until it commits; `pooled` keeps the pool. Of no bytes, any address will do.
        unsafe { (&mut *self.base.cast::<UringReqHeader>(), slice::from_raw_parts_mut(at, len)) }
    }

    /// Give back the memory of its own payload.
    ///
    /// # Safety
    /// The kernel must not have put a request there.
    unsafe fn discard(&self) {
        // SAFETY: the range is the payload's mapping; that nobody relies on what it holds, the caller promises, since `parts` lends
        // it only together with the entry.
        unsafe { memory::discard_at(self.base.add(PAGE), self.payload) };
    }

    /// The number of its slot in the pool, while it has one.
    pub(crate) fn pool_slot(&self) -> Option<usize> {
        let pooled = self.pooled.as_ref()?;
        Some(pooled.pool.number(pooled.at?))
    }

    /// The addresses of both parts, stored where they stay until the command is submitted.
    fn vectors(&mut self) -> u64 {
        let header = libc::iovec { iov_base: self.base.cast(), iov_len: size_of::<UringReqHeader>() };
        // SAFETY: VECTORS lies in the first page, behind the header, aligned for an iovec, and room for two of them is left.
        unsafe {
            let payload = match self.pooled {
                Some(_) => libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
                None => libc::iovec { iov_base: self.base.add(PAGE).cast(), iov_len: self.payload },
            };
            let at = self.base.add(VECTORS);
            at.cast::<[libc::iovec; 2]>().write([header, payload]);
            at as u64
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and nobody borrows from it any more.
        unsafe { libc::munmap(self.base.cast(), PAGE + self.payload) };
    }
}

/// What has come out of a ring.
#[derive(Debug)]
pub(crate) enum Event {
    /// The command that this entry was given with is over.
    Done(usize, Entry, Result<(), Errno>),
    /// Some task was woken, or the watched descriptor is readable.
    Awake,
}

/// A ring that nothing can come out of before it is used again: no request is in any entry that the kernel has.
pub(crate) struct Settled<'a>(&'a mut Ring);

impl Settled<'_> {
    /// Does entry number `id` wait for a request?
    pub(crate) fn waits(&self, id: usize) -> bool {
        self.0.lent.get(id).is_some_and(Option::is_some)
    }

    /// Give back the memory of the payload of entry number `id`, if it waits for a request.
    pub(crate) fn discard(&self, id: usize) {
        if let Some(Some(entry)) = self.0.lent.get(id) {
            // SAFETY: the kernel has taken the answer: its command was submitted, and FUSE copies an answer as that is. A request
            // that was put there at that would have come out of the ring by now. The next one is put there by this thread, with its
            // next system call that runs what waits (GETEVENTS), since the ring has DEFER_TASKRUN; this value keeps others from
            // using the ring for so long.
            unsafe { entry.discard() };
        }
    }
}

/// A ring, used by the thread that enables it.
pub(crate) struct Ring {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    /// By number, what the kernel has.
    lent: Vec<Option<Entry>>,
    /// The kernel's number for the ring, within this thread.
    pub(super) registered: u32,
    wake: Option<OwnedFd>,
    /// Between files and memory.
    pub(super) transfers: Transfers,
    /// What came out of the ring while somebody waited for something else.
    early: VecDeque<Event>,
}

impl Ring {
    /// A ring that is not in use yet. May be made by another thread than will use it.
    pub(crate) fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .dontfork()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(QUEUED * 8)
            .build(QUEUED)?;
        let (transfers, early) = (Transfers::default(), VecDeque::new());
        Ok(Self { ring, lent: Vec::new(), registered: 0, wake: None, transfers, early })
    }

    /// Begin: from now on this thread alone uses the ring, for commands on `device`; an [`Event::Awake`] tells that `wake`
    /// is readable.
    ///
    /// The descriptor of the ring is closed: it is known by its number within this thread alone, so that no child process
    /// inherits it. A ring that outlives its thread leaves requests that nobody can ever answer.
    pub(crate) fn begin(&mut self, device: BorrowedFd<'_>, wake: OwnedFd) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()?;
        self.ring.submitter().register_files(&[device.as_raw_fd()])?;
        #[repr(C)]
        struct Update {
            offset: u32,
            reserved: u32,
            data: u64,
        }
        let fd = self.ring.as_raw_fd();
        let mut update = Update { offset: u32::MAX, reserved: 0, data: fd as u64 };
        const REGISTER_RING_FDS: libc::c_uint = 20;
        // SAFETY: IORING_REGISTER_RING_FDS reads and writes one `struct io_uring_rsrc_update`, which `Update` is.
        let done = unsafe {
            libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RING_FDS, ptr::from_mut(&mut update), 1)
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        self.registered = update.offset;
        let nothing = rustix::fs::open(
            c"/dev/null",
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        // SAFETY: `fd` is the ring's own open descriptor; that it stands for something else from now on is known to this
        // module alone, which uses `registered` instead. The ring's destructor closes it as it would have anyway.
        if unsafe { libc::dup3(nothing.as_raw_fd(), fd, libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        self.wake = Some(wake);
        self.watch();
        // A filter may forbid this alone, and once the kernel counts on the ring it is too late to find out.
        self.try_enter(0, 0)
    }

    fn watch(&mut self) {
        let Some(wake) = &self.wake else { return };
        let poll = opcode::PollAdd::new(Fd(wake.as_fd().as_raw_fd()), libc::POLLIN as u32).multi(true);
        // SAFETY: it uses no memory; the descriptor stays open as long as the ring.
        unsafe { self.push(squeue::Entry128::from(poll.build().user_data(WAKE))) };
    }

    /// # Safety
    /// What `command` refers to must stay where it is until the command is over.
    pub(super) unsafe fn push(&mut self, command: squeue::Entry128) {
        // SAFETY: as the caller promises.
        while unsafe { self.ring.submission().push(&command) }.is_err() {
            // Full.
            self.submit();
        }
    }

    /// Give entry number `id` to the kernel for the requests of a queue.
    pub(crate) fn register(&mut self, id: usize, mut entry: Entry, queue: u16) {
        let vectors = entry.vectors();
        self.command(id, entry, UringCmd::Register, (queue, 0), Some(vectors));
    }

    /// Answer the request in entry number `id`, with what stands in it, and wait for the next.
    pub(crate) fn commit(&mut self, id: usize, entry: Entry, queue: u16, commit_id: u64) {
        self.command(id, entry, UringCmd::CommitAndFetch, (queue, commit_id), None);
    }

    fn command(
        &mut self,
        id: usize,
        entry: Entry,
        command: UringCmd,
        (qid, commit_id): (u16, u64),
        vectors: Option<u64>,
    ) {
        let mut arguments = [0; URING_SQE_CMD_SIZE];
        let mut request = UringCmdReq { qid, commit_id, ..Default::default() };
        let pooled = entry.pooled.as_ref();
        if let Some(pages) = pooled.and_then(|pooled| pooled.pages).filter(|_| vectors.is_some()) {
            request.set_ent_zero_copy_buf_index(pages);
        }
        arguments[..size_of_val(&request)].copy_from_slice(request.as_bytes());
        let index = pooled.and_then(|pooled| pooled.index);
        let command =
            opcode::UringCmd80::new(DEVICE, command as u32).cmd(arguments).addr(vectors).buf_index(index);
        let mut command = command.build().user_data(id as u64);
        if vectors.is_some() {
            // SAFETY: `Entry128` is `struct io_uring_sqe` (`repr(C)`, 128 bytes), whose `len` stands there.
            unsafe { ptr::from_mut(&mut command).cast::<u8>().add(SQE_LEN).cast::<u32>().write(2) };
        }
        if self.lent.len() <= id {
            self.lent.resize_with(id + 1, || None);
        }
        self.lent[id] = Some(entry);
        // SAFETY: the entry's memory, which the vectors are part of, is kept in `lent` until the command is over.
        unsafe { self.push(command) };
    }

    /// Are there commands that the kernel has not been told of?
    pub(crate) fn has_queued(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Tell the kernel of the commands queued.
    pub(crate) fn submit(&mut self) {
        self.enter(0);
    }

    /// The same, and wait until something comes, or has come.
    pub(crate) fn wait(&mut self) {
        self.enter(u32::from(self.early.is_empty()));
    }

    /// Tell the kernel of the commands queued, and look for at most `limit` whether something comes, without sleeping. For how long
    /// did that take, and did something come?
    ///
    /// A request comes as work that this thread has to do in the kernel: only its mark in the submission queue can be seen
    /// from here (`IORING_SQ_TASKRUN`); the completion is there once the thread has been in the kernel.
    pub(crate) fn spin(&mut self, limit: Duration) -> (Duration, bool) {
        // What has come already costs no further call.
        self.call(0, GETEVENTS);
        let begin = Instant::now();
        loop {
            if self.ring.submission().taskrun() {
                self.call(0, GETEVENTS);
            }
            let has_come = !self.early.is_empty() || !self.ring.completion().is_empty();
            let spent = begin.elapsed();
            if has_come || spent >= limit {
                return (spent, has_come);
            }
            (0..LOOKS).for_each(|_| std::hint::spin_loop());
        }
    }

    fn enter(&mut self, least: u32) {
        self.call(least, if least > 0 { GETEVENTS } else { 0 });
    }

    fn call(&mut self, least: u32, flags: u32) {
        if let Err(error) = self.try_enter(least, flags) {
            tracing::error!(%error, "io_uring_enter");
        }
    }

    fn try_enter(&mut self, least: u32, flags: u32) -> io::Result<()> {
        const REGISTERED_RING: u32 = 16;
        let count = self.ring.submission().len() as u32;
        let flags = REGISTERED_RING | flags;
        // SAFETY: the number is that of this ring in this thread; the commands in the submission queue were checked as they were
        // pushed; no further argument is given.
        let entered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.registered,
                count,
                least,
                flags,
                ptr::null::<libc::c_void>(),
                0usize,
            )
        };
        if entered >= 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            // A signal; or completions must be taken first.
            error if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => Ok(()),
            error => Err(error),
        }
    }

    /// Tell the kernel of the commands queued, and take what comes of it, for [`next`](Self::next): then it is known which entries
    /// wait for a request, if it can be known.
    pub(crate) fn settled(&mut self) -> Option<Settled<'_>> {
        self.submit();
        while let Some(event) = self.completed() {
            self.early.push_back(event);
        }
        // There may be answers still, or requests whose completions cannot be seen yet.
        let is_known = !self.has_queued() && !self.ring.submission().cq_overflow();
        is_known.then_some(Settled(self))
    }

    /// What has come.
    pub(crate) fn next(&mut self) -> Option<Event> {
        self.early.pop_front().or_else(|| self.completed())
    }

    /// Wait until no transfer touches `memory`. There is one only if a filesystem has leaked the future of a transfer.
    pub(crate) fn settle(&mut self, memory: Range<*const u8>) {
        while self.transfers.touches(&memory) {
            self.await_one();
        }
    }

    /// Wait for completions; they are kept for [`next`](Self::next), but for those of transfers.
    pub(super) fn await_one(&mut self) {
        self.enter(1);
        while let Some(event) = self.completed() {
            self.early.push_back(event);
        }
    }

    fn completed(&mut self) -> Option<Event> {
        loop {
            let done = self.ring.completion().next()?;
            if done.user_data() == WAKE {
                if !cqueue::more(done.flags()) {
                    self.watch();
                }
                return Some(Event::Awake);
            }
            if done.user_data() & TRANSFER != 0 {
                self.transfers.over((done.user_data() & !TRANSFER) as usize, done.result());
                return Some(Event::Awake);
            }
            let id = done.user_data() as usize;
            let Some(entry) = self.lent.get_mut(id).and_then(Option::take) else { continue };
            let result =
                if done.result() < 0 { Err(Errno::from_raw_os_error(-done.result())) } else { Ok(()) };
            return Some(Event::Done(id, entry, result));
        }
    }

    /// Has the kernel any entry?
    pub(crate) fn is_lending(&self) -> bool {
        self.lent.iter().any(Option::is_some)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // What the kernel still has must stay: the ring ends in its own time.
        self.lent.drain(..).flatten().for_each(mem::forget);
    }
}
