//! Whether the threads of a ring step aside for others on their CPUs.

use crate::{
    channel::{
        placement::{self, Placement},
        poll::Poll,
        trial::{Governor, Way},
        watch::{Status, Window},
    },
    sys::sched::{can_step_aside, count_tasks},
};
use std::sync::Arc;

/// How the threads share their CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stance {
    /// As any other thread.
    Normal,
    /// They leave it to whoever wants it.
    Aside,
}

impl Way for Stance {
    fn is_for_load_only(self) -> bool {
        self == Self::Aside
    }
}

/// The threads that are at home on their CPUs, and what is best for them.
pub(super) struct Asides {
    threads: Vec<Arc<Status>>,
    governor: Governor<Stance>,
    stance: Stance,
    /// They may step aside.
    may: bool,
    /// As [`count_tasks`] had it when their rings' workers were looked at.
    tasks: u64,
}

impl Asides {
    pub(super) fn new(threads: Vec<Arc<Status>>, placement: Placement, poll: Poll) -> Self {
        // Who polls for as long as was asked for has its CPU to itself.
        let may = placement == Placement::Auto && !matches!(poll, Poll::Fixed(_)) && can_step_aside();
        let ways = if may { vec![Stance::Normal, Stance::Aside] } else { vec![Stance::Normal] };
        Self { threads, governor: Governor::new(ways), stance: Stance::Normal, may, tasks: 0 }
    }

    /// A window has passed.
    pub(super) fn window(&mut self, window: Window) {
        let stance = self.governor.window(window);
        self.take(stance);
        // There may be a new worker.
        if self.may && self.tasks != count_tasks() {
            self.put_workers_back();
        }
    }

    /// A look at the threads; `starving`: one of them gets no CPU.
    pub(super) fn looks(&mut self, starving: bool) {
        if starving {
            tracing::debug!("a ring thread that stepped aside got no CPU");
            let stance = self.governor.starved();
            self.take(stance);
        }
    }

    /// Nobody watches from now on.
    pub(super) fn sleeps(&mut self) {
        self.take(Stance::Normal);
    }

    fn take(&mut self, stance: Stance) {
        if stance != self.stance {
            self.stance = stance;
            tracing::debug!(?stance, "ring threads");
            placement::step_aside(&self.threads, stance == Stance::Aside);
            self.put_workers_back();
        }
    }

    fn put_workers_back(&mut self) {
        self.tasks = count_tasks();
        placement::put_workers_back(&self.threads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{
        sched::tasks,
        transfer,
        uring::{Event, Ring},
    };
    use rustix::{
        event::{EventfdFlags, eventfd},
        fd::AsFd,
        fs::{Mode, OFlags},
    };
    use std::{
        cell::RefCell,
        fs::File,
        pin::pin,
        rc::Rc,
        sync::mpsc,
        task::{Context, Waker},
        thread,
    };

    fn ring() -> std::io::Result<Rc<RefCell<Ring>>> {
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mut ring = Ring::new()?;
        ring.begin(null.as_fd(), wake)?;
        Ok(Rc::new(RefCell::new(ring)))
    }

    /// The kernel has one of its workers do it.
    fn sync(ring: &Rc<RefCell<Ring>>, file: &File) {
        let mut synced = pin!(transfer::sync(ring, file.as_fd(), false));
        while synced.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            let mut ring = ring.borrow_mut();
            ring.wait();
            while let Some(event) = ring.next() {
                assert!(matches!(event, Event::Awake), "{event:?}");
            }
        }
    }

    /// A thread with a ring that syncs a file whenever it is asked to.
    struct Syncs {
        status: Arc<Status>,
        ask: mpsc::Sender<()>,
        told: mpsc::Receiver<std::io::Result<()>>,
        thread: thread::JoinHandle<()>,
    }

    impl Syncs {
        fn start() -> std::io::Result<Self> {
            let status = Arc::<Status>::default();
            let ((ask, asked), (tell, told)) = (mpsc::channel::<()>(), mpsc::channel());
            let theirs = status.clone();
            let body = move || {
                theirs.begins();
                let (ring, file) = match ring() {
                    Ok(ring) => (ring, tempfile::tempfile().expect("a file")),
                    Err(error) => return tell.send(Err(error)).expect("heard"),
                };
                tell.send(Ok(())).expect("heard");
                for () in asked {
                    sync(&ring, &file);
                    tell.send(Ok(())).expect("heard");
                }
            };
            let thread = thread::spawn(body);
            told.recv().expect("told")?;
            Ok(Self { status, ask, told, thread })
        }

        /// Is a worker of its ring in the idle class?
        fn has_idle_worker(&self) -> bool {
            let tid = self.status.tid().expect("begun").as_raw_nonzero();
            let mut tasks = tasks().into_iter().filter(|task| task.is_io_worker);
            tasks.find(|task| task.name == format!("iou-wrk-{tid}")).expect("a worker").is_idle
        }
    }

    #[test]
    fn what_waits_for_a_disk_does_not_step_aside() {
        if !can_step_aside() {
            return;
        }
        for by_a_window in [true, false] {
            let syncs = match Syncs::start() {
                Ok(syncs) => syncs,
                Err(error) => return eprintln!("skipped: no io_uring: {error}"),
            };
            let mut asides = Asides::new(vec![syncs.status.clone()], Placement::Auto, Poll::Off);
            asides.governor = Governor::new(vec![Stance::Aside]);
            asides.take(Stance::Aside);
            syncs.ask.send(()).expect("asked");
            syncs.told.recv().expect("told").expect("synced");
            assert!(syncs.has_idle_worker(), "the kernel has made it as the thread was");
            if by_a_window {
                asides.window(Window { rate: 30_000.0, cpu: 5.0 });
                assert_eq!(asides.stance, Stance::Aside);
            } else {
                asides.sleeps();
            }
            assert!(!syncs.has_idle_worker());
            drop(syncs.ask);
            syncs.thread.join().expect("it ended");
        }
    }
}
