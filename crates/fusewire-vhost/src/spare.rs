//! Threads that stand in for those that are stuck in a system call, so that their queues go on.

use crate::{device::Shared, limits::GRACE, linger::Next, queue::Queue, worker};
use fusewire::{
    channel::{
        poll::Pollers,
        watch::{Status, Watched, Window},
    },
    fs::FileSystem,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
};
use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How often a stand-in looks for requests that nobody tells it of: the thread that is told is stuck.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// After how many looks without being needed it goes.
const PATIENCE: u32 = 100;

/// How many threads a queue lacks and has.
#[derive(Debug, Default)]
struct Post {
    wanted: AtomicUsize,
    serving: AtomicUsize,
}

/// One that can stand in.
#[derive(Debug)]
struct Spare {
    status: Arc<Status>,
    wake: OwnedFd,
    /// The queue that it serves.
    task: Mutex<Option<usize>>,
    /// It takes no more requests, and waits for those that it has: to its queue it does not count any more.
    retired: AtomicBool,
    told: Condvar,
}

/// One of them, and its thread.
type Hired = (Arc<Spare>, JoinHandle<()>);

/// All of them.
#[derive(Debug)]
pub(crate) struct Spares {
    posts: Vec<Post>,
    /// How many there may be.
    most: usize,
    spares: Mutex<Vec<Hired>>,
    closed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wait until the threads of a device have ended, but not for long for those that are stuck in a system call.
pub(crate) fn join_all(mut threads: Vec<JoinHandle<()>>) {
    let deadline = Instant::now() + GRACE;
    loop {
        let (ended, others) = threads.into_iter().partition(JoinHandle::is_finished);
        Vec::<JoinHandle<()>>::into_iter(ended).for_each(|thread| _ = thread.join());
        threads = others;
        if threads.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            let threads = threads.len();
            tracing::warn!(threads, "threads are stuck in system calls: they end when those do");
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Spares {
    /// At most `most`, for so many queues.
    pub(crate) fn new(queues: usize, most: usize) -> Self {
        let posts = (0..queues).map(|_| Post::default()).collect();
        Self { posts, most, spares: Mutex::default(), closed: AtomicBool::new(false) }
    }

    /// The device is gone: wait until all of them are, too, but not for long for those that are stuck themselves.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let spares = std::mem::take(&mut *lock(&self.spares));
        for (spare, _) in &spares {
            {
                let _guard = lock(&spare.task);
                spare.told.notify_all();
            }
            spare.wake();
        }
        join_all(spares.into_iter().map(|(_, thread)| thread).collect());
    }
}

impl Spare {
    /// The queue that it takes requests from.
    fn serves(&self) -> Option<usize> {
        lock(&self.task).filter(|_| !self.retired.load(Ordering::Relaxed))
    }

    fn wake(&self) {
        _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// What the watch reports to.
pub(crate) struct Lookout<F: FileSystem> {
    device: Arc<Shared<F>>,
    /// The threads of its queues.
    pollers: Pollers,
}

impl<F: FileSystem> Lookout<F> {
    /// Of this device.
    pub(crate) fn new(device: Arc<Shared<F>>) -> Self {
        let statuses = device.queues.iter().map(|queue| queue.status.clone());
        let pollers = Pollers::new(statuses.zip(device.boards.iter().cloned()));
        Self { device, pollers }
    }
}

impl<F: FileSystem> Watched for Lookout<F> {
    fn readers(&self) -> Vec<Arc<Status>> {
        let spares = lock(&self.device.spares.spares);
        let queues = self.device.queues.iter().map(|queue| queue.status.clone());
        queues.chain(spares.iter().map(|(spare, _)| spare.status.clone())).collect()
    }

    fn stuck(&self, readers: &[usize]) {
        let device = &self.device;
        let mut wanted = vec![0; device.queues.len()];
        {
            let spares = lock(&device.spares.spares);
            for &reader in readers {
                let queue = match reader.checked_sub(device.queues.len()) {
                    None => Some(reader),
                    Some(spare) => spares.get(spare).and_then(|(spare, _)| spare.serves()),
                };
                queue.into_iter().for_each(|queue| wanted[queue] += 1);
            }
        }
        for (queue, &wanted) in wanted.iter().enumerate() {
            let post = &device.spares.posts[queue];
            post.wanted.store(wanted, Ordering::Relaxed);
            if wanted > post.serving.load(Ordering::Relaxed) {
                send(device, queue);
            }
        }
    }

    fn sleeps(&mut self) {
        self.pollers.sleeps();
    }

    fn window(&mut self, _window: Window) {
        self.pollers.window();
    }
}

/// Have one more stand in for a queue's threads, if there may be one more.
fn send<F: FileSystem>(device: &Arc<Shared<F>>, queue: usize) {
    let mut spares = lock(&device.spares.spares);
    if device.spares.closed.load(Ordering::Acquire) {
        return;
    }
    let free = spares.iter().find(|(spare, _)| lock(&spare.task).is_none()).map(|(spare, _)| spare.clone());
    if let Some(spare) = free {
        device.spares.posts[queue].serving.fetch_add(1, Ordering::Relaxed);
        *lock(&spare.task) = Some(queue);
        spare.told.notify_all();
        return;
    }
    if spares.len() >= device.spares.most {
        return;
    }
    let Ok(wake) = worker::waker() else { return };
    let (status, task, retired) = (Arc::default(), Mutex::new(Some(queue)), AtomicBool::new(false));
    let spare = Arc::new(Spare { status, wake, task, retired, told: Condvar::new() });
    device.spares.posts[queue].serving.fetch_add(1, Ordering::Relaxed);
    let thread = std::thread::Builder::new().name("fusewire-spare".into()).spawn({
        let (device, spare) = (device.clone(), spare.clone());
        move || run(&device, &spare)
    });
    match thread {
        Ok(thread) => spares.push((spare, thread)),
        Err(error) => {
            device.spares.posts[queue].serving.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(%error, "no thread can stand in for one that is stuck");
        }
    }
}

/// A stand-in's life.
fn run<F: FileSystem>(device: &Arc<Shared<F>>, spare: &Arc<Spare>) {
    spare.status.begins();
    loop {
        let queue = {
            let mut task = lock(&spare.task);
            loop {
                if device.spares.closed.load(Ordering::Acquire) {
                    return;
                }
                match *task {
                    Some(queue) => break queue,
                    None => task = spare.told.wait(task).unwrap_or_else(PoisonError::into_inner),
                }
            }
        };
        tracing::debug!(queue, "stands in");
        stand_in(device, spare, queue);
        spare.status.reads();
        retire(device, spare, queue);
        let mut task = lock(&spare.task);
        *task = None;
        spare.retired.store(false, Ordering::Relaxed);
    }
}

/// It takes no more requests from its queue, which may need another one in its stead.
fn retire<F: FileSystem>(device: &Shared<F>, spare: &Spare, queue: usize) {
    if !spare.retired.swap(true, Ordering::Relaxed) {
        device.spares.posts[queue].serving.fetch_sub(1, Ordering::Relaxed);
    }
}

fn stand_in<F: FileSystem>(device: &Arc<Shared<F>>, spare: &Arc<Spare>, index: usize) {
    let queue: &Arc<Queue> = &device.queues[index];
    let (generation, Some(session)) = device.join() else { return };
    let waker = spare.clone();
    let (joined, waked) = ((generation, session), move || waker.wake());
    let mut crew = worker::Crew::new(joined, (queue, device.slots()), &spare.status, waked);
    let post = &device.spares.posts[index];
    // Answers that the one who is stuck had not told of.
    queue.signal();
    let mut unwanted = 0;
    let is_over = || device.spares.closed.load(Ordering::Acquire) || device.generation() != generation;
    while !is_over() && unwanted < PATIENCE {
        crew.drain(|_| Next::Sleep);
        if let Some(request) = crew.control() {
            worker::control(device, queue, request);
            continue;
        }
        spare.status.reads();
        wait(spare, Some(&LOOK));
        crew.poll_woken();
        let needed = post.wanted.load(Ordering::Relaxed) >= post.serving.load(Ordering::Relaxed);
        unwanted = if needed { 0 } else { unwanted + 1 };
    }
    if device.generation() == generation {
        crew.retire();
    } else {
        crew.replaced(device);
    }
    // Its requests may wait for long, and whatever comes must not wait for them.
    retire(device, spare, index);
    while !crew.is_idle() && !device.spares.closed.load(Ordering::Acquire) {
        spare.status.reads();
        wait(spare, None);
        crew.poll_woken();
    }
}

/// Wait to be woken, at most for so long.
fn wait(spare: &Spare, limit: Option<&Timespec>) {
    _ = poll(&mut [PollFd::new(&spare.wake, PollFlags::IN)], limit);
    _ = rustix::io::read(&spare.wake, &mut [0u8; 8]);
}
