//! A virtio-fs device as the bench has it: the driver's side of it is in this process, as that of a guest, and nothing is mounted.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use fusewire_vhost::MAX_QUEUES;
use fusewire_vhost::kit::ring::Bell;
use fusewire_vhost::kit::{Driver, FORGETS, Layout, Maps, Monitor, Reply};

use crate::tree::{SENTINEL, Tree};

/// Requests that a queue has room for: as many threads may share one as there are in all.
pub const DEPTH: u16 = 256;
/// Most bytes of one READ.
pub const DATA: u32 = 1 << 20;
/// The node of the shared directory itself.
const ROOT: u64 = 1;
/// How long a device may take for one answer outside of what is measured.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after its socket is there a daemon may take to listen.
const LISTENS: Duration = Duration::from_secs(2);

/// The guest that a device has.
pub struct Guest {
    monitor: Monitor,
    hiprio: Mutex<Driver>,
    ports: Vec<Arc<Port>>,
    ledger: Arc<Mutex<Ledger>>,
}

/// What the guest has looked up and opened, and has to give back.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Nodes, once for each time they were looked up.
    pub nodes: Vec<u64>,
    /// Nodes and handles that are open.
    pub handles: Vec<(u64, u64)>,
}

/// A request queue, for one thread or several.
pub struct Port {
    queue: Mutex<Queue>,
    /// Rings when there are answers.
    bell: Bell,
    /// Somebody else has taken answers, or waits no longer for them.
    answered: Condvar,
}

/// What the threads of a queue share.
pub struct Queue {
    /// The queue itself.
    pub driver: Driver,
    flights: Vec<Option<Flight>>,
    /// Answers that one thread has taken for another.
    inboxes: Vec<VecDeque<Arrived>>,
    /// A thread waits for the device; others wait for that thread.
    is_watched: bool,
    waiting: usize,
}

/// A request under way.
#[derive(Debug, Clone, Copy)]
pub struct Flight {
    /// Which of the queue's threads has sent it.
    pub user: usize,
    /// Which of its operations that is.
    pub index: usize,
    /// When the operation began.
    pub begun: Instant,
    /// What was asked for.
    pub asked: Asked,
}

/// What was asked for, to know what an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// GETATTR of a file of that size.
    Attributes {
        /// Bytes.
        size: u64,
    },
    /// LOOKUP.
    Node,
    /// CREATE.
    File,
    /// RELEASE.
    Close,
    /// READ of so many bytes.
    Data {
        /// How many.
        len: usize,
        /// The first eight of them.
        first: u64,
    },
}

/// An answer.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// What it answers.
    pub flight: Flight,
    /// Node and handle, where there are any.
    pub got: Got,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// That it is done.
    Done,
    /// A node.
    Node(u64),
    /// A node, and a handle.
    File(u64, u64),
    /// Not what it should have been.
    Wrong(&'static str),
    /// An error.
    Errno(i32),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("queues", &self.ports.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").finish_non_exhaustive()
    }
}

/// Connects to a daemon's socket: one that is there already may not be listened at yet.
///
/// # Errors
/// If nobody listens within two seconds.
pub fn reach(socket: &Path) -> std::io::Result<UnixStream> {
    let begin = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && begin.elapsed() < LISTENS => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

/// A guest that does next to nothing: one queue, and as little memory as there can be.
pub fn small() -> Layout {
    Layout { data: 4096, depth: 2, size: 16, inflight: false, window: Maps::Nothing, ..Layout::default() }
}

impl Guest {
    /// Connects to a device, and begins a session. It has as many queues as the device has, and no more than there are CPUs.
    ///
    /// # Errors
    /// If nobody listens, or the device refuses.
    pub fn connect(socket: &Path) -> Result<Self> {
        let cpus = u16::try_from(crate::machine::cpus()).unwrap_or(u16::MAX);
        let layout = Layout {
            queues: cpus.min(MAX_QUEUES),
            fewer: true,
            size: 1024,
            depth: DEPTH,
            data: DATA,
            inflight: false,
            window: Maps::Nothing,
            ..Layout::default()
        };
        let mut monitor = reach(socket)
            .and_then(|stream| Monitor::start(stream, layout))
            .with_context(|| format!("cannot use the device at {}", socket.display()))?;
        let mut drivers = std::mem::take(&mut monitor.drivers).into_iter();
        let hiprio = drivers.next().context("the device has no queues")?;
        let mut ports = Vec::new();
        for driver in drivers {
            ports.push(Arc::new(Port::new(driver)?));
        }
        let first = ports.first().context("the device has no request queue")?;
        first.queue().driver.init().map_err(|errno| anyhow!("INIT was answered with {errno}"))?;
        Ok(Self { monitor, hiprio: Mutex::new(hiprio), ports, ledger: Arc::default() })
    }

    /// How many request queues it has.
    pub fn queues(&self) -> usize {
        self.ports.len()
    }

    /// The request queue of this thread, and which of its threads that one is: threads are dealt out to queues in turn.
    pub fn port(&self, thread: usize) -> (Arc<Port>, usize) {
        (Arc::clone(&self.ports[thread % self.ports.len()]), thread / self.ports.len())
    }

    /// What has to be given back.
    pub fn ledger(&self) -> Arc<Mutex<Ledger>> {
        Arc::clone(&self.ledger)
    }

    /// Looks a path up, which is relative to the shared directory. The node is given back at [`forget_all`](Self::forget_all).
    ///
    /// # Errors
    /// If a part of it is not there.
    pub fn resolve(&self, path: &Path) -> Result<u64> {
        let mut node = ROOT;
        for part in path {
            let name = CString::new(part.as_bytes())?;
            let found = self.ports[0].queue().driver.lookup(node, &name);
            node = found
                .map_err(|errno| anyhow!("LOOKUP of {} was answered with {errno}", path.display()))?
                .nodeid;
            lock(&self.ledger).nodes.push(node);
        }
        Ok(node)
    }

    /// Opens a file to read it: node and handle.
    ///
    /// # Errors
    /// If it is not there.
    pub fn open(&self, path: &Path) -> Result<(u64, u64)> {
        let node = self.resolve(path)?;
        let opened = self.ports[0].queue().driver.open(node, 0);
        let fh = opened.map_err(|errno| anyhow!("OPEN of {} was answered with {errno}", path.display()))?;
        lock(&self.ledger).handles.push((node, fh));
        Ok((node, fh))
    }

    /// Proves that the device shows this directory.
    ///
    /// # Errors
    /// If it does not.
    pub fn verify(&self, tree: &Tree) -> Result<()> {
        let (node, fh) = self.open(Path::new(SENTINEL))?;
        let seen = self.ports[0].queue().driver.read(node, fh, 0, 4096);
        let seen = seen.map_err(|errno| anyhow!("READ of {SENTINEL} was answered with {errno}"))?;
        ensure!(seen == tree.token(), "the device shows something else than the source directory");
        let there = tree.path().join("made-there");
        let made = self.ports[0].queue().driver.create(ROOT, c"made-there");
        let (node, fh) = made.map_err(|errno| anyhow!("CREATE was answered with {errno}"))?;
        {
            let mut ledger = lock(&self.ledger);
            ledger.nodes.push(node);
            ledger.handles.push((node, fh));
        }
        let removed = std::fs::remove_file(&there);
        removed.with_context(|| format!("a file made through the device is not at {}", there.display()))?;
        self.forget_all()
    }

    /// Gives back everything that was looked up or opened. Answers that nobody has waited for are dropped.
    ///
    /// # Errors
    /// If the device does not answer.
    pub fn forget_all(&self) -> Result<()> {
        for port in &self.ports {
            port.queue().settle()?;
        }
        let Ledger { mut nodes, handles } = std::mem::take(&mut *lock(&self.ledger));
        for (node, fh) in handles {
            let released = self.ports[0].queue().driver.release(node, fh);
            released.map_err(|errno| anyhow!("RELEASE was answered with {errno}"))?;
        }
        nodes.sort_unstable();
        let counts: Vec<(u64, u64)> = nodes
            .chunk_by(|one, next| one == next)
            .map(|same| (same[0], same.len() as u64))
            .filter(|(node, _)| *node != ROOT)
            .collect();
        let mut hiprio = lock(&self.hiprio);
        for some in counts.chunks(FORGETS) {
            if !hiprio.has_room() {
                hiprio.receive(PATIENCE).context("the device does not take FORGETs")?;
            }
            hiprio.send_forgets(some);
        }
        settle(&mut hiprio)
    }

    /// Ends the session, and goes.
    ///
    /// # Errors
    /// If the device does not answer.
    pub fn end(self) -> Result<()> {
        self.forget_all()?;
        let ended = self.ports[0].queue().driver.destroy();
        drop(self.monitor);
        ended.map_err(|errno| anyhow!("DESTROY was answered with {errno}"))
    }
}

/// Waits for all answers.
fn settle(driver: &mut Driver) -> Result<()> {
    while !driver.ring.is_settled() {
        driver.receive(PATIENCE).context("the device does not answer")?;
    }
    Ok(())
}

impl Port {
    fn new(driver: Driver) -> Result<Self> {
        let bell = driver.ring.bell().context("cannot listen to the device")?;
        let queue = Queue {
            driver,
            flights: vec![None; DEPTH.into()],
            inboxes: Vec::new(),
            is_watched: false,
            waiting: 0,
        };
        Ok(Self { queue: Mutex::new(queue), bell, answered: Condvar::new() })
    }

    /// The queue, for the calling thread alone as long as it holds it.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Waits for the next answer to `user`, while others use the queue as well: one thread waits for the device, and takes what comes for
    /// the others, who wait for it. `None` after a while without one.
    pub fn receive<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue>,
        (user, limit): (usize, Duration),
    ) -> (MutexGuard<'a, Queue>, Option<Arrived>) {
        let deadline = Instant::now() + limit;
        loop {
            queue.take_all();
            if queue.waiting > 0 && queue.has_for_others(user) {
                self.answered.notify_all();
            }
            let arrived = queue.inboxes[user].pop_front();
            let left = deadline.saturating_duration_since(Instant::now());
            if arrived.is_some() || left.is_zero() {
                return (queue, arrived);
            }
            if queue.is_watched {
                queue.waiting += 1;
                queue = self.answered.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
                queue.waiting -= 1;
            } else if queue.driver.ring.arm() {
                queue.is_watched = true;
                drop(queue);
                self.bell.wait(left);
                queue = self.queue();
                queue.is_watched = false;
                // Whoever waits for this thread has to wait for the device by itself.
                if queue.waiting > 0 {
                    self.answered.notify_all();
                }
            }
        }
    }
}

impl Queue {
    /// Makes room for answers to so many threads.
    pub fn admit(&mut self, users: usize) {
        self.inboxes.resize_with(users.max(self.inboxes.len()), VecDeque::new);
    }

    /// Notes what was sent.
    pub fn sent(&mut self, frame: u16, flight: Flight) {
        self.flights[usize::from(frame)] = Some(flight);
    }

    /// Waits for the next answer, of a queue that the calling thread has for itself. `None` after a while without one.
    pub fn receive(&mut self, limit: Duration) -> Option<Arrived> {
        let reply = self.driver.receive(limit)?;
        self.arrived(reply)
    }

    fn take_all(&mut self) {
        while let Some(reply) = self.driver.poll() {
            if let Some(arrived) = self.arrived(reply) {
                self.inboxes[arrived.flight.user].push_back(arrived);
            }
        }
    }

    fn has_for_others(&self, user: usize) -> bool {
        self.inboxes.iter().enumerate().any(|(other, inbox)| other != user && !inbox.is_empty())
    }

    /// What has come, before its memory is used for another request.
    fn arrived(&mut self, reply: Reply) -> Option<Arrived> {
        let flight = self.flights[usize::from(reply.frame)].take()?;
        let driver = &self.driver;
        let got = match flight.asked {
            Asked::Attributes { size } => driver.size(reply).map(|seen| match seen == size {
                true => Got::Done,
                false => Got::Wrong("the file has another size"),
            }),
            Asked::Node => driver.found(reply).map(Got::Node),
            Asked::File => driver.made(reply).map(|(node, fh)| Got::File(node, fh)),
            Asked::Close => reply.result.map(|_| Got::Done),
            Asked::Data { len, first } => driver.sample(reply).map(|sample| match sample {
                (seen, bytes) if bytes == len && seen == first => Got::Done,
                (_, bytes) if bytes == len => Got::Wrong("the file has other contents"),
                _ => Got::Wrong("the file is too short"),
            }),
        };
        let got = got.unwrap_or_else(|errno| Got::Errno(errno.raw_os_error()));
        Some(Arrived { flight, got })
    }

    /// Waits for all answers, and drops them.
    fn settle(&mut self) -> Result<()> {
        settle(&mut self.driver)?;
        self.flights.fill(None);
        self.inboxes.clear();
        Ok(())
    }
}

impl Got {
    /// The same, unless it is not what was asked for.
    ///
    /// # Errors
    /// If it is not.
    pub fn good(self) -> Result<Self> {
        match self {
            Self::Wrong(what) => bail!("{what}"),
            Self::Errno(errno) => Err(std::io::Error::from_raw_os_error(errno).into()),
            good => Ok(good),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_daemon_may_listen_a_little_after_its_socket_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        // Bound, and nobody listens any more.
        drop(UnixListener::bind(&socket).unwrap());
        let late = socket.clone();
        let daemon = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            std::fs::remove_file(&late).unwrap();
            UnixListener::bind(&late).unwrap().accept().is_ok()
        });
        let mut reached = reach(&socket);
        // Between removing and binding there is none.
        while reached.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            reached = reach(&socket);
        }
        assert!(reached.is_ok(), "{reached:?}");
        assert!(daemon.join().unwrap());
        let nowhere = reach(&dir.path().join("nowhere"));
        assert_eq!(nowhere.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
