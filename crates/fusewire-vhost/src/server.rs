//! Has a monitor connect to a device, and waits until it goes.

use crate::{Device, handler::Handler, handover::Handover, worker::waker};
use fusewire::fs::FileSystem;
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

/// Why a device could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The threads of the queues could not be started.
    #[error("cannot start the threads of the device's queues: {0}")]
    Threads(#[source] io::Error),
    /// Nobody could connect.
    #[error("cannot accept the monitor's connection: {0}")]
    Accept(#[source] io::Error),
    /// The monitor said something wrong.
    #[error("the monitor broke the vhost-user protocol: {0}")]
    Protocol(VhostError),
    /// A guest could not be taken over from another process.
    #[error("cannot take the virtual machine over: {0}")]
    Handover(#[source] io::Error),
}

/// A device that a monitor is connected to.
pub struct Server<F: FileSystem> {
    device: Arc<Device<F>>,
    handler: Arc<Mutex<Handler<F>>>,
    connection: ShutdownHandle,
    gate: Arc<Gate>,
    thread: JoinHandle<Result<(), VhostError>>,
}

/// Closes the connection of a [`Server`].
#[derive(Clone, Debug)]
pub struct ShutdownHandle(Arc<(UnixStream, AtomicBool)>);

/// The connection itself.
pub(crate) struct Connection(ShutdownHandle);

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.0.as_fd()
    }
}

impl ShutdownHandle {
    /// Close it: the server ends well.
    pub fn shutdown(&self) {
        self.0.1.store(true, Ordering::Release);
        _ = self.0.0.shutdown(std::net::Shutdown::Both);
    }
}

/// Where the thread of a connection waits for messages, and can be held up between two of them.
#[derive(Debug)]
pub(crate) struct Gate {
    wake: OwnedFd,
    state: Mutex<Passage>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Passage {
    closed: bool,
    /// The thread stands before it.
    stands: bool,
    ended: bool,
}

impl Gate {
    fn new() -> io::Result<Self> {
        let wake = waker().map_err(io::Error::from)?;
        Ok(Self { wake, state: Mutex::default(), changed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, Passage> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait until there is a message, or the end of them, and the gate is open.
    fn wait(&self, messages: &UnixStream) {
        loop {
            let mut fds = [PollFd::new(messages, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
            _ = poll(&mut fds, None);
            let comes = !fds[0].revents().is_empty();
            if !fds[1].revents().is_empty() {
                _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
            }
            let mut state = self.state();
            if !state.closed {
                if comes {
                    return;
                }
                continue;
            }
            state.stands = true;
            self.changed.notify_all();
            while state.closed {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.stands = false;
        }
    }

    fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }

    /// Has the thread ended?
    pub(crate) fn is_over(&self) -> bool {
        self.state().ended
    }

    /// Close it, and wait until the thread stands before it, at most for so long.
    ///
    /// # Errors
    /// If it does not, or the monitor is gone. The gate is open then.
    pub(crate) fn close(&self, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        state.closed = true;
        _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        let failed = loop {
            if state.stands {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended {
                break "the virtual machine is gone";
            }
            if left.is_zero() {
                break "a message of the monitor is not complete";
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        state.closed = false;
        self.changed.notify_all();
        Err(io::Error::other(failed))
    }

    /// Open it again.
    pub(crate) fn open(&self) {
        self.state().closed = false;
        self.changed.notify_all();
    }
}

impl<F: FileSystem> Server<F> {
    /// Wait for a monitor to connect, and serve it from then on.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn accept(device: Device<F>, listener: UnixListener) -> Result<Self, Error> {
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Accept(error)),
            }
        };
        Self::start(device, stream)
    }

    /// Serve a monitor that is connected.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(device: Device<F>, stream: UnixStream) -> Result<Self, Error> {
        let device = Arc::new(device);
        let again = stream.try_clone().map_err(Error::Accept)?;
        let handler = Arc::new(Mutex::new(Handler::new(device.clone()).map_err(Error::Threads)?));
        let requests = BackendReqHandler::from_stream(stream, handler.clone());
        Self::run(device, handler, (requests, again))
    }

    /// Serve what the monitor says; `again` is its connection, too.
    pub(crate) fn run(
        device: Arc<Device<F>>,
        handler: Arc<Mutex<Handler<F>>>,
        (mut requests, again): (BackendReqHandler<Mutex<Handler<F>>>, UnixStream),
    ) -> Result<Self, Error> {
        let gate = Arc::new(Gate::new().map_err(Error::Threads)?);
        let connection = ShutdownHandle(Arc::new((again, AtomicBool::new(false))));
        let (pass, messages) = (gate.clone(), connection.clone());
        let thread = std::thread::Builder::new().name("fusewire-vhost".into());
        let shared = device.shared.clone();
        let thread = thread.spawn(move || {
            let ended = loop {
                pass.wait(&messages.0.0);
                shared.monitor.listen(&messages.0.0);
                if let Err(error) = requests.handle_request() {
                    break error;
                }
            };
            pass.end();
            Err(ended)
        });
        let thread = thread.map_err(Error::Threads)?;
        Ok(Self { device, handler, connection, gate, thread })
    }

    /// The device.
    pub fn device(&self) -> &Device<F> {
        &self.device
    }

    /// To hand the guest to another process.
    pub fn handover(&self) -> Handover<F> {
        let connection = Arc::new(Connection(self.connection.clone()));
        let (device, handler, gate) = (self.device.clone(), self.handler.clone(), self.gate.clone());
        Handover { device, handler, gate, connection }
    }

    /// To have the connection closed by another thread: a signal handler's, most often.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.connection.clone()
    }

    /// Wait until the monitor is gone.
    ///
    /// # Errors
    /// If it went because it said something that is not vhost-user.
    pub fn wait(self) -> Result<(), Error> {
        let ended = self.thread.join();
        _ = self.connection.0.0.shutdown(std::net::Shutdown::Both);
        let mut handler = self.handler.lock().unwrap_or_else(PoisonError::into_inner);
        handler.close();
        // Requests that wait for something are interrupted.
        self.device.shared.gone();
        handler.join();
        drop(handler);
        match ended {
            Ok(Ok(()))
            | Ok(Err(VhostError::Disconnected | VhostError::PartialMessage | VhostError::SocketBroken(_))) => {
                Ok(())
            }
            Ok(Err(_)) if self.connection.0.1.load(Ordering::Acquire) => Ok(()),
            Ok(Err(error)) => Err(Error::Protocol(error)),
            Err(_) => Err(Error::Threads(io::Error::other("the thread of the connection has panicked"))),
        }
    }
}
