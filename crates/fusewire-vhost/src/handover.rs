//! A guest that is handed from one process to another, while its monitor stays connected and notices nothing
//! (`docs/adr/0027-upgrade.md`).
//!
//! The process that has the guest stops taking requests and tells what there is ([`Handover::begin`]); the other one makes the same
//! device of it ([`Server::take_over`]). Only when the first is told that all is well does it end, and the second serve
//! ([`Waiting::start`]); else the first goes on ([`Handover::cancel`]).

use crate::{
    Device, Server,
    handler::{Handler, handed::Described},
    limits::{AT_ONCE, GRACE},
    queue::Queue,
    server::{Connection, Error, Gate},
    sys,
};
use fusewire::fs::FileSystem;
use std::{
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use vhost::vhost_user::BackendReqHandler;

/// A descriptor for another process.
pub type Lent = Arc<dyn AsFd + Send + Sync>;

/// What another process needs to go on.
#[derive(Clone, Default)]
pub struct Handed {
    /// What it is.
    pub bytes: Vec<u8>,
    /// The descriptors that go with it, in this order.
    pub files: Vec<Lent>,
}

impl std::fmt::Debug for Handed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handed")
            .field("bytes", &self.bytes.len())
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

/// The same where it has arrived.
#[derive(Debug, Default)]
pub struct Given {
    /// What it is.
    pub bytes: Vec<u8>,
    /// The descriptors that go with it.
    pub files: Vec<OwnedFd>,
}

/// What it takes to hand over the guest of a [`Server`].
pub struct Handover<F: FileSystem> {
    pub(crate) device: Arc<Device<F>>,
    pub(crate) handler: Arc<Mutex<Handler<F>>>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) connection: Arc<Connection>,
}

impl<F: FileSystem> std::fmt::Debug for Handover<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handover").finish_non_exhaustive()
    }
}

impl<F: FileSystem> Handover<F> {
    /// Stop: no message of the monitor and no request of the guest is taken any more, what was under way is answered, and those who wait
    /// for something ask again. What comes back is for the other process.
    ///
    /// # Errors
    /// If requests do not end, or something cannot be handed over; the reason is for the operator. Then everything goes on.
    pub fn begin(&self) -> io::Result<Handed> {
        self.gate.close(GRACE)?;
        let told = self.stop_and_tell();
        if told.is_err() {
            self.cancel();
        }
        told
    }

    /// Is the monitor gone?
    pub fn is_over(&self) -> bool {
        self.gate.is_over()
    }

    fn handler(&self) -> MutexGuard<'_, Handler<F>> {
        self.handler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop_and_tell(&self) -> io::Result<Handed> {
        let shared = &self.device.shared;
        let mut handler = self.handler();
        handler.rest()?;
        shared.queues.iter().for_each(|queue| queue.set_leaving(true));
        if !settle(&shared.queues, AT_ONCE) {
            shared.interrupt();
            if !settle(&shared.queues, GRACE) {
                let left: usize = shared.queues.iter().map(|queue| queue.in_flight()).sum();
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{left} requests of the guest do not end: is the filesystem below stuck?"),
                ));
            }
        }
        let session = shared.hand_over()?;
        let mut described = handler.describe()?;
        described.bytes(&session.bytes);
        let (bytes, mut files) = described.end();
        files.insert(0, self.connection.clone());
        files.extend(session.files);
        Ok(Handed { bytes, files })
    }

    /// The other process does not take the guest: go on.
    pub fn cancel(&self) {
        self.device.shared.queues.iter().for_each(|queue| queue.set_leaving(false));
        self.handler().rise();
        self.gate.open();
    }
}

/// Wait until nothing is under way in these queues, at most for so long.
fn settle(queues: &[Arc<Queue>], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if queues.iter().all(|queue| queue.in_flight() == 0) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A device that is as another process has it, and serves nothing yet.
pub struct Waiting<F: FileSystem> {
    device: Arc<Device<F>>,
    handler: Arc<Mutex<Handler<F>>>,
    requests: BackendReqHandler<Mutex<Handler<F>>>,
    connection: UnixStream,
}

impl<F: FileSystem> std::fmt::Debug for Waiting<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

impl<F: FileSystem> Server<F> {
    /// Make of `device` what another process has handed over. Nothing is served yet.
    ///
    /// # Errors
    /// If the device is not like the one that there was, or something is not found here. The other process can go on then.
    pub fn take_over(device: Device<F>, given: Given) -> Result<Waiting<F>, Error> {
        let device = Arc::new(device);
        let mut described = Described::new(given);
        let connection = UnixStream::from(described.file().map_err(Error::Handover)?);
        let handler = Arc::new(Mutex::new(Handler::new(device.clone()).map_err(Error::Threads)?));
        let (monitor, here) = UnixStream::pair().map_err(Error::Handover)?;
        let mut requests = BackendReqHandler::from_stream(here, handler.clone());
        let agreed = {
            let mut handler = handler.lock().unwrap_or_else(PoisonError::into_inner);
            handler.restore(&mut described).map_err(Error::Handover)?
        };
        greet(&mut requests, &monitor, agreed).map_err(Error::Handover)?;
        handler
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .restore_rings(&mut described)
            .map_err(Error::Handover)?;
        let session = described.rest();
        device.shared.take_over(session).map_err(Error::Handover)?;
        Ok(Waiting { device, handler, requests, connection })
    }
}

impl<F: FileSystem> Waiting<F> {
    /// Serve: the other process does not any more.
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub fn start(self) -> Result<Server<F>, Error> {
        let Self { device, handler, requests, connection } = self;
        sys::replace(requests.as_raw_fd(), connection.as_fd()).map_err(Error::Handover)?;
        handler.lock().unwrap_or_else(PoisonError::into_inner).begin().map_err(Error::Handover)?;
        Server::run(device, handler, (requests, connection))
    }
}

/// What a monitor begins with, once more: the `vhost` crate keeps what was agreed on to itself.
fn greet<F: FileSystem>(
    requests: &mut BackendReqHandler<Mutex<Handler<F>>>,
    mut monitor: &UnixStream,
    (features, protocol): (u64, u64),
) -> io::Result<()> {
    /// Numbers of messages, and their version.
    const GET_FEATURES: u32 = 1;
    const SET_FEATURES: u32 = 2;
    const GET_PROTOCOL_FEATURES: u32 = 15;
    const SET_PROTOCOL_FEATURES: u32 = 16;
    const VERSION: u32 = 1;
    let mut say = |code: u32, word: Option<u64>| {
        let bytes = word.map(u64::to_ne_bytes);
        let bytes = bytes.as_ref().map_or(&[][..], |bytes| bytes);
        let head = [code, VERSION, bytes.len() as u32].map(u32::to_ne_bytes).concat();
        monitor.write_all(&[&head, bytes].concat())?;
        requests.handle_request().map_err(|error| {
            io::Error::other(format!("the device has other features than the one that there was: {error}"))
        })
    };
    say(GET_FEATURES, None)?;
    if features != 0 {
        say(SET_FEATURES, Some(features))?;
    }
    say(GET_PROTOCOL_FEATURES, None)?;
    if protocol != 0 {
        say(SET_PROTOCOL_FEATURES, Some(protocol))?;
    }
    Ok(())
}
