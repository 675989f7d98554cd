//! A filesystem, mounted and served.

use crate::{
    channel::{
        dev_fuse::{self, Pool},
        layer::Layer,
    },
    fs::FileSystem,
    limits,
    mount::{self, Mount, MountError, MountOptions, Unmount},
    notify::Notifier,
    proto::negotiate::{Agreed, Bounds},
    session::{Session, Stats},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use crate::channel::dev_fuse::Ended;

/// How to mount and serve.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Mount options.
    pub mount: MountOptions,
    /// Reader threads. Default: one per CPU that this process may use, pinned to it.
    pub threads: Option<usize>,
    /// Largest read and write, bytes. Default: 1 MiB, or what `fs.fuse.max_pages_limit` allows.
    pub max_write: Option<u32>,
}

/// Why a filesystem could not be mounted or served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Mounting failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Mounted, but the readers could not be started; it is unmounted again.
    #[error("cannot start the threads that serve {}: {source}", mountpoint.display())]
    Threads {
        /// Where it was to be mounted.
        mountpoint: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What a server needs to know of a session, whatever its filesystem.
trait Observed: Send + Sync {
    fn stats(&self) -> Stats;
    fn agreed(&self) -> Agreed;
    fn notifier(&self) -> Notifier;
}

impl<F: FileSystem> Observed for Session<F> {
    fn stats(&self) -> Stats {
        self.stats()
    }

    fn agreed(&self) -> Agreed {
        self.agreed()
    }

    fn notifier(&self) -> Notifier {
        self.notifier().clone()
    }
}

/// A mounted filesystem whose requests are being served. Dropping it unmounts lazily; [`join`](Self::join) waits.
pub struct Server {
    handle: ServerHandle,
    pool: Arc<Pool>,
}

/// Controls a server from other threads: a signal handler's, most often.
#[derive(Clone)]
pub struct ServerHandle {
    mount: Arc<Mount>,
    session: Arc<dyn Observed>,
}

impl Server {
    /// Mount `fs` on `mountpoint`. When this returns, the kernel's INIT has been answered and requests are served.
    ///
    /// # Errors
    /// See [`MountError`]; if there is one, nothing stays mounted.
    pub fn mount<F: FileSystem>(fs: F, mountpoint: &Path, options: &Options) -> Result<Self, Error> {
        Self::mount_with(fs, mountpoint, options, ())
    }

    /// The same with a [`Layer`] around every slot: to trace, record, or inject faults.
    pub fn mount_with<F: FileSystem>(
        fs: F,
        mountpoint: &Path,
        options: &Options,
        layer: impl Layer,
    ) -> Result<Self, Error> {
        let bounds = Bounds {
            max_write: options.max_write.unwrap_or(limits::MAX_WRITE),
            max_pages_limit: dev_fuse::max_pages_limit(),
            default_permissions: options.mount.default_permissions,
        };
        let mut session = None;
        let mounted = mount::mount(mountpoint, &options.mount, |device| {
            session = Some(dev_fuse::handshake(device, fs, bounds)?);
            Ok(())
        })?;
        let threads = |source| Error::Threads { mountpoint: mountpoint.to_owned(), source };
        let session = Arc::new(session.ok_or_else(|| threads(io::ErrorKind::NotConnected.into()))?);
        session.started();
        let pool = Pool::start(&session, layer, mounted.device, options.threads).map_err(threads)?;
        Ok(Self { handle: ServerHandle { mount: Arc::new(mounted.mount), session }, pool })
    }

    /// To unmount, abort or observe it from elsewhere.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Wait until it is unmounted, by whomever, or aborted, and every reader has ended.
    pub fn join(self) -> Result<Ended, Error> {
        let ended = self.pool.join();
        // A reader that is late at an unmount sees the connection as aborted; an abort leaves the mount in place.
        let gone = ended == Ended::Aborted && !self.handle.mount.is_mounted();
        Ok(if gone { Ended::Unmounted } else { ended })
    }
}

impl ServerHandle {
    /// Unmount. Requests under way are answered first; [`Server::join`] returns afterwards.
    pub fn unmount(&self, how: Unmount) -> Result<(), MountError> {
        self.mount.unmount(how)
    }

    /// Give the connection up: whoever waits for an answer gets `ECONNABORTED`, and so does everybody afterwards.
    pub fn abort(&self) -> Result<(), MountError> {
        self.mount.abort()
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        self.mount.mountpoint()
    }

    /// The connection's number: the name of its directory under `/sys/fs/fuse/connections`.
    pub fn connection(&self) -> u64 {
        self.mount.connection()
    }

    /// What was served so far.
    pub fn stats(&self) -> Stats {
        self.session.stats()
    }

    /// What was agreed on at INIT.
    pub fn agreed(&self) -> Agreed {
        self.session.agreed()
    }

    /// Sends notifications.
    pub fn notifier(&self) -> Notifier {
        self.session.notifier()
    }
}

/// Mount `fs` with default options and serve it until it is unmounted. For more, see [`Server`].
///
/// `fusermount3 -u` or `umount` ends it from outside. When this process dies, by a signal or otherwise, the mount goes
/// with it.
pub fn mount(fs: impl FileSystem, mountpoint: impl AsRef<Path>) -> Result<(), Error> {
    let mount = MountOptions { auto_unmount: true, ..MountOptions::default() };
    Server::mount(fs, mountpoint.as_ref(), &Options { mount, ..Options::default() })?.join().map(drop)
}
