//! Has a monitor connect to a device, and waits until it goes.

use crate::Device;
use fusewire::fs::FileSystem;
use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixListener},
    sync::Arc,
};
use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{ShutdownHandle, VhostUserDaemon};
use vmm_sys_util::epoll::EventSet;

/// Why a device could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The threads of the queues could not be started.
    #[error("cannot start the threads of the device's queues: {0}")]
    Threads(vhost_user_backend::Error),
    /// Nobody could connect.
    #[error("cannot accept the monitor's connection: {0}")]
    Accept(vhost_user_backend::Error),
    /// A thread could not be woken.
    #[error("cannot watch a queue's wake-up descriptor: {0}")]
    Wake(io::Error),
    /// The monitor said something wrong.
    #[error("the monitor broke the vhost-user protocol: {0}")]
    Protocol(vhost_user_backend::Error),
}

impl<F: FileSystem> Drop for Server<F> {
    fn drop(&mut self) {
        self.device.shared.leave_queues();
    }
}

/// A device that a monitor is connected to.
pub struct Server<F: FileSystem> {
    device: Arc<Device<F>>,
    daemon: VhostUserDaemon<Arc<Device<F>>>,
}

impl<F: FileSystem> Server<F> {
    /// Wait for a monitor to connect, and serve it from then on.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn accept(device: Device<F>, listener: UnixListener) -> Result<Self, Error> {
        let (memory, device) = (device.memory.clone(), Arc::new(device));
        let daemon =
            VhostUserDaemon::new("fusewire-vhost".into(), device.clone(), memory).map_err(Error::Threads)?;
        let mut server = Self { device, daemon };
        let (device, daemon) = (&server.device, &mut server.daemon);
        // Of its own numbers, the crate has one per queue and one more.
        let event = device.shared.queues.len() as u64 + 1;
        for (handler, queue) in daemon.get_epoll_handlers().iter().zip(&device.shared.queues) {
            handler.register_listener(queue.wake.as_raw_fd(), EventSet::IN, event).map_err(Error::Wake)?;
        }
        daemon.start(&mut Listener::from(listener)).map_err(Error::Accept)?;
        Ok(server)
    }

    /// The device.
    pub fn device(&self) -> &Device<F> {
        &self.device
    }

    /// To have the connection closed by another thread: a signal handler's, most often.
    pub fn shutdown_handle(&self) -> Option<ShutdownHandle> {
        self.daemon.shutdown_handle()
    }

    /// Wait until the monitor is gone.
    ///
    /// # Errors
    /// If it went because it said something that is not vhost-user.
    pub fn wait(mut self) -> Result<(), Error> {
        let ended = self.daemon.wait();
        self.device.shared.gone();
        use vhost_user_backend::Error::HandleRequest;
        match ended {
            Ok(())
            | Err(HandleRequest(
                VhostError::Disconnected | VhostError::PartialMessage | VhostError::SocketBroken(_),
            )) => Ok(()),
            Err(error) => Err(Error::Protocol(error)),
        }
    }
}
