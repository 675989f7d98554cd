//! The tasks of one thread: its slots' services, polled where they live, woken from anywhere.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

/// Which tasks of a thread were woken, and how the thread is told while it sleeps.
pub struct Ready {
    woken: Mutex<Vec<usize>>,
    notify: Box<dyn Fn() + Send + Sync>,
}

impl Ready {
    /// `notify` is called when the first task is woken; it may be called from any thread.
    pub fn new(notify: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { woken: Mutex::default(), notify: Box::new(notify) })
    }

    fn push(&self, task: usize) {
        let first = {
            let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
            if woken.contains(&task) {
                return;
            }
            woken.push(task);
            woken.len() == 1
        };
        if first {
            (self.notify)();
        }
    }

    fn take(&self) -> Vec<usize> {
        std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct TaskWaker {
    ready: Arc<Ready>,
    task: usize,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.push(self.task);
    }
}

struct Task<'t> {
    future: Pin<Box<dyn Future<Output = ()> + 't>>,
    waker: Waker,
}

/// A thread's tasks. Each is allocated once; their number only grows.
pub struct Tasks<'t> {
    ready: Arc<Ready>,
    tasks: Vec<Option<Task<'t>>>,
    live: usize,
}

impl<'t> Tasks<'t> {
    /// No tasks yet.
    pub fn new(ready: Arc<Ready>) -> Self {
        Self { ready, tasks: Vec::new(), live: 0 }
    }

    /// The number that the next [`spawn`](Self::spawn) will give.
    pub fn next_id(&self) -> usize {
        self.tasks.len()
    }

    /// A further task; it is polled when somebody does so. Returns its number.
    pub fn spawn(&mut self, future: impl Future<Output = ()> + 't) -> usize {
        let id = self.tasks.len();
        let waker = Waker::from(Arc::new(TaskWaker { ready: self.ready.clone(), task: id }));
        self.tasks.push(Some(Task { future: Box::pin(future), waker }));
        self.live += 1;
        id
    }

    /// Poll one task; finished ones are passed over.
    pub fn poll(&mut self, id: usize) {
        let Some(slot) = self.tasks.get_mut(id) else { return };
        let Some(task) = slot else { return };
        if let Poll::Ready(()) = task.future.as_mut().poll(&mut Context::from_waker(&task.waker)) {
            *slot = None;
            self.live -= 1;
        }
    }

    /// Poll what was woken since the last time.
    pub fn poll_woken(&mut self) {
        for id in self.ready.take() {
            self.poll(id);
        }
    }

    /// Tasks that have not finished.
    pub fn live(&self) -> usize {
        self.live
    }
}
