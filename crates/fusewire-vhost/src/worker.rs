//! What a thread does for its queue: it has its slots take requests until there are none, and begins and ends sessions.

use crate::{
    chain::Request,
    device::Shared,
    linger::{Linger, Next},
    queue::{NO_SESSION, Queue, Taken},
    slot::{Local, VirtioSlot},
};
use fusewire::{
    channel::{
        tasks::{Ready, Tasks},
        watch::Status,
    },
    fs::FileSystem,
    proto::negotiate::Agreed,
    session::Session,
    types::Errno,
};
use fusewire_abi::Opcode;
use rustix::fd::OwnedFd;
use std::{rc::Rc, sync::Arc};
use zerocopy::IntoBytes;

/// The slots of one thread for one queue and session.
pub(crate) struct Crew<F: FileSystem> {
    // Before the session that they serve.
    tasks: Tasks<'static>,
    local: Rc<Local>,
    session: Arc<Session<F>>,
    /// How many there may be.
    slots: usize,
}

impl<F: FileSystem> Drop for Crew<F> {
    fn drop(&mut self) {
        self.session.leave();
    }
}

impl<F: FileSystem> Crew<F> {
    /// At most `slots` for a session that the calling thread has joined; it leaves at the end. `wake` wakes it.
    pub(crate) fn new(
        (generation, session): (u64, Arc<Session<F>>),
        (queue, slots): (&Arc<Queue>, usize),
        status: &Arc<Status>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let local = Rc::new(Local::new((queue.clone(), generation), status.clone()));
        Self { tasks: Tasks::new(Ready::new(wake)), local, session, slots }
    }

    /// Have requests served until there are none, or one that begins or ends a session, or the session is over. `wait` is asked whenever there are none.
    pub(crate) fn drain(&mut self, mut wait: impl FnMut(&Queue) -> Next) {
        loop {
            self.local.queue.quieten();
            let emptied = self.drain_once();
            if !emptied || self.local.control.borrow().is_some() || self.is_over() {
                return;
            }
            match wait(&self.local.queue) {
                Next::Serve => {}
                Next::Sleep if self.local.queue.listen() => {}
                Next::Sleep | Next::Hear => return,
            }
        }
    }

    /// Has another session taken the place of this one? What is in the queue is not for it then.
    fn is_over(&self) -> bool {
        !self.local.queue.is_of(self.local.generation)
    }

    /// `false` if every slot is at work: they go on by themselves.
    fn drain_once(&mut self) -> bool {
        loop {
            let idle = self.local.idle.borrow().last().copied();
            let id = match idle {
                Some(id) => id,
                None if self.tasks.live() < self.slots => self.spawn(),
                None => return false,
            };
            self.tasks.poll(id);
            // Whatever it has answered must not wait for what comes next.
            self.local.tell();
            if self.local.idle.borrow().contains(&id) {
                return true;
            }
        }
    }

    fn spawn(&mut self) -> usize {
        let (session, id) = (self.session.clone(), self.tasks.next_id());
        let mut slot = VirtioSlot::new(self.local.clone(), id, session.agreed());
        self.tasks.spawn(async move { session.serve(&mut slot).await })
    }

    /// Poll what was woken.
    pub(crate) fn poll_woken(&mut self) {
        self.tasks.poll_woken();
        self.local.tell();
    }

    /// A request that is not for slots.
    pub(crate) fn control(&self) -> Option<Request> {
        self.local.control.borrow_mut().take()
    }

    /// Take no more requests; what is at work is answered all the same.
    pub(crate) fn retire(&mut self) {
        self.local.closed.set(true);
        let idle = std::mem::take(&mut *self.local.idle.borrow_mut());
        idle.into_iter().for_each(|id| self.tasks.poll(id));
    }

    /// Another session has taken the place of this one. What its guest had goes now, not when the last of its requests ends; unless the
    /// guest may come back for it.
    pub(crate) fn replaced(&mut self, device: &Shared<F>) {
        self.retire();
        if !device.is_gone() {
            self.session.filesystem().abandoned();
        }
    }

    /// Is no slot at work?
    pub(crate) fn is_idle(&self) -> bool {
        self.tasks.live() == self.local.idle.borrow().len()
    }
}

/// The thread of a queue.
pub(crate) struct Worker<F: FileSystem> {
    device: Arc<Shared<F>>,
    queue: Arc<Queue>,
    /// Of which session `crew` is.
    generation: u64,
    crew: Option<Crew<F>>,
    /// Slots of earlier sessions that are still at work.
    retired: Vec<Crew<F>>,
    linger: Linger,
}

impl<F: FileSystem> Worker<F> {
    /// For the calling thread.
    pub(crate) fn new(device: Arc<Shared<F>>, queue: Arc<Queue>) -> Self {
        queue.status.begins();
        let linger = Linger::new(device.boards[usize::from(queue.index)].clone());
        Self { device, queue, generation: 0, crew: None, retired: Vec::new(), linger }
    }

    /// Something has come: requests, tasks that were woken, another session.
    pub(crate) fn work(&mut self) {
        self.queue.status.serves();
        self.follow();
        self.retired.iter_mut().chain(&mut self.crew).for_each(Crew::poll_woken);
        self.retired.retain(|crew| !crew.is_idle());
        loop {
            let request = match &mut self.crew {
                Some(crew) => {
                    crew.drain(|queue| self.linger.wait(queue));
                    crew.control()
                }
                None => self.take_alone(),
            };
            let Some(request) = request else {
                if self.queue.is_of(self.generation) {
                    break;
                }
                self.follow();
                continue;
            };
            control(&self.device, &self.queue, request);
            self.follow();
        }
        self.queue.status.reads();
    }

    /// Serve the session that there is.
    fn follow(&mut self) {
        if self.device.generation() == self.generation {
            return;
        }
        if let Some(mut crew) = self.crew.take() {
            crew.replaced(&self.device);
            if !crew.is_idle() {
                self.retired.push(crew);
            }
        }
        let (generation, session) = self.device.join();
        self.generation = generation;
        let queue = self.queue.clone();
        let slots = self.device.slots();
        self.crew = session.map(|session| {
            Crew::new((generation, session), (&self.queue, slots), &self.queue.status, move || queue.wake())
        });
    }

    /// A request, where there is no session that could serve it.
    fn take_alone(&self) -> Option<Request> {
        let mut request = Request::default();
        loop {
            self.queue.quieten();
            if self.queue.take(&mut request, (Agreed::NOTHING, self.generation)) == Taken::Request {
                return Some(request);
            }
            if !self.queue.is_of(self.generation) || !self.queue.listen() {
                return None;
            }
        }
    }
}

/// Begin or end a session, or refuse what there is no session for.
pub(crate) fn control<F: FileSystem>(device: &Shared<F>, queue: &Queue, mut request: Request) {
    let opcode = request.header.opcode;
    let answer = if opcode == Opcode::Init as u32 {
        device.begin(&request.message()).map(Some)
    } else if opcode == Opcode::Destroy as u32 {
        device.end();
        Ok(None)
    } else {
        tracing::debug!(opcode, "a request without a session");
        Err(NO_SESSION)
    };
    let body = answer.as_ref().map(|out| out.as_ref().map_or(&[][..], IntoBytes::as_bytes));
    queue.finish(&mut request, |request| {
        request.answer(body.map(|body| (body, body.len())).map_err(|&errno| errno))
    });
    queue.signal();
}

/// Something that wakes a thread: an eventfd.
pub(crate) fn waker() -> Result<OwnedFd, Errno> {
    use rustix::event::{EventfdFlags, eventfd};
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}
