//! Has a monitor connect to a device, and waits until it goes.

use crate::{Device, handler::Handler};
use fusewire::fs::FileSystem;
use std::{
    io,
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

/// Why a device could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The threads of the queues could not be started.
    #[error("cannot start the threads of the device's queues: {0}")]
    Threads(io::Error),
    /// Nobody could connect.
    #[error("cannot accept the monitor's connection: {0}")]
    Accept(io::Error),
    /// The monitor said something wrong.
    #[error("the monitor broke the vhost-user protocol: {0}")]
    Protocol(VhostError),
}

/// A device that a monitor is connected to.
pub struct Server<F: FileSystem> {
    device: Arc<Device<F>>,
    handler: Arc<Mutex<Handler<F>>>,
    connection: ShutdownHandle,
    thread: JoinHandle<Result<(), VhostError>>,
}

/// Closes the connection of a [`Server`].
#[derive(Clone, Debug)]
pub struct ShutdownHandle(Arc<(UnixStream, AtomicBool)>);

impl ShutdownHandle {
    /// Close it: the server ends well.
    pub fn shutdown(&self) {
        self.0.1.store(true, Ordering::Release);
        _ = self.0.0.shutdown(std::net::Shutdown::Both);
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
        let connection = ShutdownHandle(Arc::new((again, AtomicBool::new(false))));
        let handler = Arc::new(Mutex::new(Handler::new(device.clone()).map_err(Error::Threads)?));
        let mut requests = BackendReqHandler::from_stream(stream, handler.clone());
        let thread = std::thread::Builder::new().name("fusewire-vhost".into());
        let (shared, ahead) = (device.shared.clone(), connection.clone());
        let thread = thread.spawn(move || {
            let ended = loop {
                shared.monitor.listen(&ahead.0.0);
                if let Err(error) = requests.handle_request() {
                    break error;
                }
            };
            Err(ended)
        });
        let thread = thread.map_err(Error::Threads)?;
        Ok(Self { device, handler, connection, thread })
    }

    /// The device.
    pub fn device(&self) -> &Device<F> {
        &self.device
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
