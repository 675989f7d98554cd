//! One request's place on a thread: taken from the queue, answered into the guest's memory.

use crate::{
    again::{self, Means},
    chain::Request,
    limits::{ANSWERS_PER_SIGNAL, KEPT, KEPT_PIECES},
    queue::{Queue, Taken},
};
use fusewire::{
    channel::{Answered, Slot, watch::Status},
    proto::{message::Message, negotiate::Agreed},
    types::Errno,
};
use fusewire_abi::Opcode;
use memmap2::MmapMut;
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    ops::{Deref, DerefMut},
    rc::Rc,
    sync::Arc,
    task::Poll,
};

/// From here on errnos are the kernel's own (`ERESTARTSYS`).
const LAST_ERRNO: i32 = 511;

/// What the slots of one thread and session share.
#[derive(Debug)]
pub(crate) struct Local {
    pub queue: Arc<Queue>,
    /// The number of the session.
    pub generation: u64,
    /// What the thread is doing.
    pub status: Arc<Status>,
    /// Slots that wait for a request.
    pub idle: RefCell<Vec<usize>>,
    /// A request that begins or ends a session, which is not a slot's business.
    pub control: RefCell<Option<Request>>,
    /// There will be no more requests for this session.
    pub closed: Cell<bool>,
    /// Answers that the guest has not been told of.
    untold: Cell<usize>,
}

impl Local {
    pub(crate) fn new((queue, generation): (Arc<Queue>, u64), status: Arc<Status>) -> Self {
        Self {
            queue,
            generation,
            status,
            idle: RefCell::default(),
            control: RefCell::default(),
            closed: Cell::new(false),
            untold: Cell::new(0),
        }
    }

    /// Answer a request, give it back, and tell the guest if it has waited long enough. Returns how long the answer is.
    fn finish(&self, request: &mut Request, answer: impl FnOnce(&Request) -> u32) {
        self.queue.finish(request, answer);
        self.untold.set(self.untold.get() + 1);
        if self.untold.get() >= ANSWERS_PER_SIGNAL {
            self.tell();
        }
    }

    /// Tell the guest of answers that it was not told of.
    pub(crate) fn tell(&self) {
        if self.untold.replace(0) > 0 {
            self.queue.signal();
        }
    }
}

/// Memory for answers. What of it was never used is not there.
#[derive(Debug)]
enum Area {
    /// Straight from the kernel: what the allocator gives may have been used before.
    Mapped(MmapMut),
    /// Where the process may have no more mappings.
    Allocated(Vec<u8>),
}

impl Area {
    fn new(len: usize) -> Self {
        MmapMut::map_anon(len).map_or_else(|_| Self::Allocated(vec![0; len]), Self::Mapped)
    }
}

impl Deref for Area {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Allocated(bytes) => bytes,
        }
    }
}

impl DerefMut for Area {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Allocated(bytes) => bytes,
        }
    }
}

/// A slot of one thread.
#[derive(Debug)]
pub(crate) struct VirtioSlot {
    local: Rc<Local>,
    id: usize,
    agreed: Agreed,
    request: Request,
    /// It is to be served once more, as it is now.
    repeats: bool,
    /// Where answers are made that are no file's data.
    area: Area,
}

impl VirtioSlot {
    pub(crate) fn new(local: Rc<Local>, id: usize, agreed: Agreed) -> Self {
        let (request, area) = (Request::default(), Area::new(agreed.reply_area()));
        Self { local, id, agreed, request, repeats: false, area }
    }

    /// Take a request, or wait for one.
    fn fetch(&mut self) -> Poll<bool> {
        if std::mem::take(&mut self.repeats) {
            return Poll::Ready(true);
        }
        let local = &*self.local;
        local.idle.borrow_mut().retain(|&id| id != self.id);
        if local.closed.get() {
            return Poll::Ready(false);
        }
        local.status.reads();
        while local.control.borrow().is_none()
            && local.queue.take(&mut self.request, (self.agreed, local.generation)) == Taken::Request
        {
            local.status.serves();
            if again::is_better_left(&self.request) {
                local.finish(&mut self.request, |_| 0);
                continue;
            }
            let opcode = self.request.header.opcode;
            if opcode != Opcode::Init as u32 && opcode != Opcode::Destroy as u32 {
                return Poll::Ready(true);
            }
            *local.control.borrow_mut() = Some(std::mem::take(&mut self.request));
            break;
        }
        local.idle.borrow_mut().push(self.id);
        Poll::Pending
    }
}

impl Slot for VirtioSlot {
    fn agreed(&self) -> Agreed {
        self.agreed
    }

    fn area(&mut self) -> &mut [u8] {
        &mut self.area
    }

    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])> {
        if !poll_fn(|_| self.fetch()).await {
            return None;
        }
        Some((self.request.message(), &mut self.area))
    }

    async fn finish(&mut self, unique: u64, answer: Answered) {
        let mut answer = answer.get();
        if self.request.again
            && let Some(Err(errno)) = answer
        {
            match again::means(&mut self.request, errno) {
                Means::Itself => {}
                Means::Done => answer = Some(Ok(0)),
                Means::Look => {
                    self.repeats = true;
                    return;
                }
            }
        }
        if answer == Some(Err(Errno::INTR)) && self.local.queue.is_leaving() {
            self.local.queue.leave(&mut self.request);
            return;
        }
        self.request.failed = !matches!(answer, Some(Ok(_)));
        // Made in the area, whether or not the guest has room for it.
        let used = answer.filter(|_| !self.request.is_read()).and_then(Result::ok).unwrap_or(0);
        let area = &self.area;
        self.local.finish(&mut self.request, |request| match answer {
            None => 0,
            Some(Ok(len)) if request.is_read() => request.answer(Ok((&[], len))),
            Some(Ok(len)) => request.answer(Ok((&area[..len], len))),
            Some(Err(errno)) if errno.raw_os_error() > LAST_ERRNO => {
                tracing::error!(unique, %errno, "an answer that is no error; EIO instead");
                request.answer(Err(Errno::IO))
            }
            Some(Err(errno)) => request.answer(Err(errno)),
        });
        // Those of a thread that were at work at once keep little: only requests that wait have more than one.
        if self.id > 0 {
            self.request.keep(KEPT, KEPT_PIECES);
            if used > KEPT {
                self.area = Area::new(self.agreed.reply_area());
            }
        }
    }
}
