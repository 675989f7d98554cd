//! Requests to a virtio-fs device, so many at once from each thread.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;

use super::{Pass, Pin, allowed_cpus, names};
use crate::device::{Arrived, Asked, DEPTH, Flight, Got, Guest, Ledger, Port, Queue};
use crate::tree::{self, META_DIR, PING_FILE, dir_name, file_name};
use crate::workload::{DeviceLoad, DeviceRequest, META_FILES, PING_SIZE, Place, share};

/// How often a thread that waits for an answer looks whether it should stop.
const LOOK: Duration = Duration::from_millis(200);

/// One thread's requests.
#[derive(Debug)]
pub struct Device {
    port: Arc<Port>,
    /// Which of the queue's threads this one is, and how many there are.
    user: usize,
    users: usize,
    depth: usize,
    work: Work,
    count: usize,
    /// Nodes that were looked up.
    owed: Vec<u64>,
    ledger: Arc<Mutex<Ledger>>,
}

#[derive(Debug)]
enum Work {
    Getattr { node: u64, size: u64 },
    Lookup { names: Vec<(u64, CString)> },
    Create { parent: u64, names: Vec<CString> },
    Read { file: (u64, u64), block: u32, firsts: Vec<u64> },
}

impl Device {
    pub fn new(pass: &Pass<'_>, thread: usize, load: DeviceLoad) -> Result<Self> {
        let guest = pass.guest.context("there is no device")?;
        let (port, user) = guest.port(thread);
        let users = (pass.threads - thread % guest.queues()).div_ceil(guest.queues());
        ensure!(
            usize::from(load.depth) * users <= usize::from(DEPTH),
            "{} requests of {users} threads at once are more than a queue of {DEPTH} holds",
            load.depth
        );
        let mine = share(pass.ops, thread, pass.threads);
        let count = (mine.end - mine.start) as usize;
        let work = match load.request {
            DeviceRequest::Getattr => {
                Work::Getattr { node: guest.resolve(Path::new(PING_FILE))?, size: PING_SIZE }
            }
            DeviceRequest::Lookup => Work::Lookup { names: names_to_look_up(guest, mine)? },
            DeviceRequest::Create => {
                let dir = tree::work_dir(Path::new(""), thread);
                let fresh = names::fresh_names(pass, thread, Path::new(""));
                Work::Create {
                    parent: guest.resolve(&dir)?,
                    names: fresh.map(|path| name_of(&path)).collect::<Result<_>>()?,
                }
            }
            DeviceRequest::Read { block } => {
                let content = tree::pattern(PING_SIZE as usize);
                let firsts = content.chunks_exact(block).map(first_of).collect();
                let file = guest.open(Path::new(PING_FILE))?;
                Work::Read { file, block: u32::try_from(block)?, firsts }
            }
        };
        port.queue().admit(users);
        let owed = Vec::with_capacity(count);
        Ok(Self { port, user, users, depth: load.depth.into(), work, count, owed, ledger: guest.ledger() })
    }

    /// Sends all of them and waits for the answers; returns when the last one was there.
    pub fn drive(&mut self, latency: &mut Histogram<u64>, stop: &AtomicBool) -> Result<Instant> {
        let port = Arc::clone(&self.port);
        let (mut next, mut done, mut flying) = (0, 0, 0);
        let mut now = Instant::now();
        let mut queue = port.queue();
        while done < self.count {
            while flying < self.depth && next < self.count {
                self.begin(&mut queue, next, now);
                (next, flying) = (next + 1, flying + 1);
            }
            let arrived = if self.users == 1 {
                queue.receive(LOOK)
            } else {
                let (again, arrived) = port.receive(queue, (self.user, LOOK));
                queue = again;
                arrived
            };
            if stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            let Some(arrived) = arrived else { continue };
            if !self.goes_on(&mut queue, arrived)? {
                now = Instant::now();
                latency.saturating_record((now - arrived.flight.begun).as_nanos() as u64);
                (done, flying) = (done + 1, flying - 1);
            }
        }
        Ok(now)
    }

    fn begin(&self, queue: &mut Queue, index: usize, begun: Instant) {
        let driver = &mut queue.driver;
        let (frame, asked) = match &self.work {
            Work::Getattr { node, size } => (driver.send_getattr(*node), Asked::Attributes { size: *size }),
            Work::Lookup { names } => {
                let (parent, name) = &names[index];
                (driver.send_lookup(*parent, name), Asked::Node)
            }
            Work::Create { parent, names } => (driver.send_create(*parent, &names[index]), Asked::File),
            Work::Read { file: (node, fh), block, firsts } => {
                let number = index % firsts.len();
                let offset = number as u64 * u64::from(*block);
                let asked = Asked::Data { len: *block as usize, first: firsts[number] };
                (driver.send_read(*node, *fh, offset, *block), asked)
            }
        };
        queue.sent(frame, Flight { user: self.user, index, begun, asked });
    }

    /// Whether the operation goes on with another request.
    fn goes_on(&mut self, queue: &mut Queue, arrived: Arrived) -> Result<bool> {
        let flight = arrived.flight;
        let got = arrived.got.good().with_context(|| format!("{} failed", self.name(flight)))?;
        match got {
            Got::Node(node) => self.owed.push(node),
            Got::File(node, fh) => {
                self.owed.push(node);
                let frame = queue.driver.send_release(node, fh);
                queue.sent(frame, Flight { asked: Asked::Close, ..flight });
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }

    fn name(&self, flight: Flight) -> String {
        match (&self.work, flight.asked) {
            (_, Asked::Close) => "RELEASE".into(),
            (Work::Getattr { .. }, _) => format!("GETATTR of {PING_FILE}"),
            (Work::Lookup { names }, _) => format!("LOOKUP of {:?}", names[flight.index].1),
            (Work::Create { names, .. }, _) => format!("CREATE of {:?}", names[flight.index]),
            (Work::Read { .. }, _) => format!("READ of {PING_FILE}"),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.nodes.append(&mut self.owed);
    }
}

fn names_to_look_up(guest: &Guest, mine: std::ops::Range<u64>) -> Result<Vec<(u64, CString)>> {
    let mut names = Vec::new();
    let mut dir = None;
    for index in mine {
        let number = index / META_FILES;
        let node = match dir {
            Some((known, node)) if known == number => node,
            _ => guest.resolve(&PathBuf::from(META_DIR).join(dir_name(number)))?,
        };
        dir = Some((number, node));
        names.push((node, CString::new(file_name(index % META_FILES))?));
    }
    Ok(names)
}

fn name_of(path: &Path) -> Result<CString> {
    let name = path.file_name().context("a path without a name")?;
    Ok(CString::new(name.as_encoded_bytes())?)
}

fn first_of(block: &[u8]) -> u64 {
    block.first_chunk().map_or(0, |first| u64::from_ne_bytes(*first))
}

impl Place {
    /// Where the driver's threads are kept if this is where a workload runs, and where those of the daemon.
    ///
    /// # Errors
    /// If there are not enough CPUs.
    pub fn cpus(self, pin: Pin) -> Result<(Pin, Vec<usize>)> {
        let allowed = allowed_cpus();
        let first = match pin {
            Pin::One(cpu) => cpu,
            _ => *allowed.first().context("there is no CPU")?,
        };
        match self {
            Self::Free => Ok((pin, allowed)),
            Self::Same => Ok((Pin::One(first), vec![first])),
            Self::Apart => match allowed.into_iter().find(|cpu| *cpu != first) {
                Some(other) => Ok((Pin::One(first), vec![other])),
                None => bail!("place = \"apart\" takes two CPUs, and there is one"),
            },
        }
    }
}
