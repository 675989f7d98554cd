//! What the monitor is asked to do with the window.

use fusewire::{
    types::{Errno, Result},
    window::MapRange,
};
use fusewire_abi::virtio::VIRTIO_FS_SHMCAP_ID_CACHE;
use std::{
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use vhost::vhost_user::{
    Backend, VhostUserFrontendReqHandler,
    message::{VhostUserMMap, VhostUserMMapFlags},
};

/// Where to ask.
#[derive(Default)]
struct Channel {
    /// `None` until the monitor says, and once it is gone.
    backend: Option<Backend>,
    /// The socket of that, to have those stop who wait for an answer.
    socket: Option<UnixStream>,
    /// That of the message that is read next.
    next: Option<UnixStream>,
}

impl Channel {
    /// Nobody is asked there any more, and who waits for an answer gets an error.
    fn close(&mut self) {
        self.backend = None;
        if let Some(socket) = self.socket.take() {
            _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// The monitor, as far as the window goes. One for all sessions of a device.
pub(crate) struct Monitor {
    size: u64,
    channel: Mutex<Channel>,
    /// It maps what lies within the file only.
    exact: AtomicBool,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor")
            .field("size", &self.size)
            .field("exact", &self.exact)
            .finish_non_exhaustive()
    }
}

impl Monitor {
    /// With a window of so many bytes.
    pub(crate) fn new(size: u64) -> Self {
        Self { size, channel: Mutex::default(), exact: AtomicBool::new(false) }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    fn lock(&self) -> MutexGuard<'_, Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait for the next message on the monitor's connection: it may say where to ask.
    pub(crate) fn listen(&self, stream: &UnixStream) {
        if self.size > 0 {
            let socket = super::channel::peek(stream);
            self.lock().next = socket;
        }
    }

    /// It has said where to ask. Whoever still waits for an answer from where that was before need not.
    pub(crate) fn connected(&self, backend: Backend) {
        let mut channel = self.lock();
        channel.close();
        (channel.backend, channel.socket) = (Some(backend), channel.next.take());
    }

    /// It is gone: what it had mapped is, too. Whoever waits for an answer of it gets an error.
    pub(crate) fn gone(&self) {
        self.lock().close();
    }

    /// Can anything be mapped?
    pub(crate) fn is_there(&self) -> bool {
        self.channel().is_some()
    }

    fn channel(&self) -> Option<Backend> {
        self.lock().backend.clone()
    }

    pub(super) fn is_exact(&self) -> bool {
        self.exact.load(Ordering::Relaxed)
    }

    pub(super) fn be_exact(&self) {
        if !self.exact.swap(true, Ordering::Relaxed) {
            tracing::info!(
                "the monitor maps only what lies within a file: the last page of others is a copy"
            );
        }
    }

    /// Map part of a range, from one place of the window to another, where nothing may be.
    pub(super) fn map(&self, range: MapRange, (at, end): (u64, u64), file: &impl AsFd) -> Result<()> {
        let request = VhostUserMMap {
            shmid: VIRTIO_FS_SHMCAP_ID_CACHE,
            fd_offset: range.offset + (at - range.at),
            shm_offset: at,
            len: end - at,
            flags: match range.writable {
                true => VhostUserMMapFlags::WRITABLE.bits(),
                false => 0,
            },
            ..Default::default()
        };
        let channel = self.channel().ok_or(Errno::IO)?;
        channel.shmem_map(&request, &file.as_fd().as_raw_fd()).map(drop).map_err(|error| {
            tracing::debug!(at, end, offset = range.offset, %error, "the monitor refuses to map");
            Errno::IO
        })
    }

    /// Unmap exactly what was mapped. If it cannot be done, that is because it was done: a monitor does so when its guest is reset.
    pub(super) fn unmap(&self, at: u64, length: u64) {
        let request = VhostUserMMap {
            shmid: VIRTIO_FS_SHMCAP_ID_CACHE,
            shm_offset: at,
            len: length,
            ..Default::default()
        };
        let Some(channel) = self.channel() else { return };
        if let Err(error) = channel.shmem_unmap(&request) {
            tracing::debug!(at, length, %error, "the monitor refuses to unmap");
        }
    }
}
