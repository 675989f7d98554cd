//! A filesystem, mounted and served.

use crate::{
    backing::Backings,
    channel::{
        Abort,
        dev_fuse::{self, Pool},
        layer::Layer,
        uring::{self, Crew, Prepared, Queues, Reason, RingSize},
    },
    fs::FileSystem,
    limits,
    mount::{self, Mount, MountError, MountOptions, Unmount},
    notify::Notifier,
    proto::negotiate::{Agreed, Bounds},
    remedy,
    session::{Session, Stats},
};
use fusewire_abi::InitFlags;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use crate::channel::{
    dev_fuse::Ended,
    placement::{Placement, PlacementError},
    poll::{Poll, PollError},
    uring::Buffers,
};

/// By which way requests come from the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channel {
    /// The ring where it can be had, else `/dev/fuse`.
    #[default]
    Auto,
    /// Reading and writing `/dev/fuse`.
    DevFuse,
    /// A ring per CPU (Linux 6.14). Mounting fails where it cannot be had.
    Uring,
}

/// How to mount and serve.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Mount options.
    pub mount: MountOptions,
    /// Reader threads. Default: one per CPU that this process may use.
    pub threads: Option<usize>,
    /// Largest read and write, bytes. Default: 1 MiB, or what `fs.fuse.max_pages_limit` allows.
    pub max_write: Option<u32>,
    /// By which way requests come.
    pub channel: Channel,
    /// What the buffers of the ring may keep together of what long requests have used, bytes; it may lower `max_write`, so that each
    /// possible CPU has one. Default: 64 MiB, and then it lowers nothing. Memory that was never used is not there.
    pub memory: Option<u64>,
    /// How threads wait for requests.
    pub poll: Poll,
    /// Whether they may be moved to where it is cheapest.
    pub placement: Placement,
    /// Where the data of requests is that come over the ring.
    pub buffers: Buffers,
    /// Keep how long requests take ([`Session::timed`]).
    pub timed: bool,
}

/// Why a filesystem could not be mounted or served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Mounting failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The ring was asked for and cannot be had.
    #[error("cannot mount on {} with requests over io_uring: {reason}{}", mountpoint.display(), or_try(reason))]
    Uring {
        /// Where it was to be mounted.
        mountpoint: PathBuf,
        /// Why not.
        reason: Reason,
    },
    /// Mounted, but the readers could not be started; it is unmounted again.
    #[error("cannot start the threads that serve {}: {source}{}", mountpoint.display(), or_fewer(source))]
    Threads {
        /// Where it was to be mounted.
        mountpoint: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn or_try(reason: &Reason) -> String {
    match reason.remedy() {
        remedy if remedy.is_empty() => remedy,
        remedy => format!("; try: {remedy}"),
    }
}

fn or_fewer(source: &io::Error) -> String {
    let known = remedy::of(source).map(|remedy| format!("; {remedy}"));
    known.unwrap_or_default() + "; or ask for fewer threads"
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
    ring: Option<Arc<Crew>>,
    joined: bool,
}

/// Controls a server from other threads: a signal handler's, most often.
#[derive(Clone)]
pub struct ServerHandle {
    mount: Arc<Mount>,
    session: Arc<dyn Observed>,
    channel: Channel,
    threads: usize,
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
        let no_ring = |reason| Error::Uring { mountpoint: mountpoint.to_owned(), reason };
        let must_ring = options.channel == Channel::Uring;
        let mut bounds = bounds(options);
        let queues = match plan_ring(options, &mut bounds) {
            Err(reason) if must_ring => return Err(no_ring(reason)),
            planned => planned,
        };
        let (mut session, mut ring, mut refused) = (None, Err(Reason::NotAsked), None);
        let mounted = mount::mount_guarded(mountpoint, &options.mount, |device| {
            match queues.and_then(|queues| Prepared::new(device, queues).map_err(Reason::SetUp)) {
                Err(reason) if must_ring => {
                    refused = Some(reason);
                    return Err(io::ErrorKind::Unsupported.into());
                }
                made => ring = made,
            }
            bounds.ring = ring.is_ok();
            session = Some(dev_fuse::handshake(device, fs, bounds)?);
            Ok(())
        });
        if let Some(reason) = refused {
            return Err(no_ring(reason));
        }
        let mounted = mounted?;
        let threads = |source| Error::Threads { mountpoint: mountpoint.to_owned(), source };
        let session = session.ok_or_else(|| threads(io::ErrorKind::NotConnected.into()))?;
        let session = Arc::new(if options.timed { session.timed() } else { session });
        let agreed = session.features().contains(InitFlags::OVER_IO_URING);
        let ring = ring.and_then(|ring| if agreed { Ok(ring) } else { Err(Reason::NotAgreed) });
        let ring = match ring {
            Err(reason) if must_ring => return Err(no_ring(reason)),
            ring => ring.inspect_err(tell_of_fallback).ok(),
        };
        if let Some(RingSize { queues, threads, .. }) = ring.as_ref().map(Prepared::size) {
            tracing::info!(queues, threads, "requests come over io_uring");
        }
        let layer = Arc::new(layer);
        let device = mounted.device.try_clone().map_err(threads)?;
        let forwards = session.features().contains(InitFlags::PASSTHROUGH);
        let backings =
            if forwards { Backings::of(device.try_clone().map_err(threads)?) } else { Backings::default() };
        session.started(backings);
        let channel = if ring.is_some() { Channel::Uring } else { Channel::DevFuse };
        let serving = match &ring {
            Some(ring) => ring.size().threads,
            None => options.threads.unwrap_or_else(|| dev_fuse::allowed_cpus().len()),
        };
        // A ring that the kernel refuses must not be the end of the session while nobody reads /dev/fuse yet.
        let begins = session.hold();
        let (abort, place) = (abort_of(&mounted.mount), (mountpoint, mounted.mount.unanswered()));
        // The ring first: from the answer to INIT until it is ready, the kernel holds requests back.
        let ring = ring
            .map(|ring| ring.start(&session, layer.clone(), (device, abort.clone()), place))
            .transpose()
            .map_err(threads)?;
        let readers = (options.threads, ring.is_none().then_some(options.poll), options.placement);
        let pool = Pool::start(&session, layer, mounted.device, readers).map_err(threads)?;
        pool.at_end(at_end(ring.clone(), abort));
        drop(begins);
        mounted.mount.is_served(&options.mount);
        let handle = ServerHandle { mount: Arc::new(mounted.mount), session, channel, threads: serving };
        Ok(Self { handle, pool, ring, joined: false })
    }

    /// To unmount, abort or observe it from elsewhere.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Wait until it is unmounted, by whomever, or aborted, and every reader has ended.
    pub fn join(mut self) -> Result<Ended, Error> {
        self.joined = true;
        let ended = self.pool.join();
        if let Some(ring) = &self.ring {
            ring.join();
        }
        // A reader that is late at an unmount sees the connection as aborted; an abort leaves the mount in place.
        let gone = ended == Ended::Aborted && !self.handle.mount.is_mounted();
        Ok(if gone { Ended::Unmounted } else { ended })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever keeps a handle keeps the mount's memory, not the mount.
        if !self.joined
            && let Err(error) = self.handle.unmount(Unmount::Lazy)
        {
            tracing::warn!(%error, "the mount stays behind");
        }
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

    /// By which way requests come: never [`Channel::Auto`]. (Should the kernel refuse the ring later, which is logged, they
    /// come over `/dev/fuse` all the same.)
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// How many threads serve requests as long as none of them is stuck.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Sends notifications.
    pub fn notifier(&self) -> Notifier {
        self.session.notifier()
    }
}

/// What aborts the connection when threads that serve it are lost.
fn abort_of(mount: &Mount) -> Abort {
    let (abort, connection) = (mount.abort_later(), mount.connection());
    Abort::new(move || match abort() {
        Ok(()) => tracing::error!(connection, "the connection is aborted"),
        Err(error) => tracing::error!(%error, "callers may wait for as long as this process lives"),
    })
}

/// What is done when readers end; told is whether the connection lives all the same.
fn at_end(ring: Option<Arc<Crew>>, abort: Abort) -> impl Fn(bool) + Send + Sync + 'static {
    move |lives| {
        if lives {
            abort.now();
        }
        if let Some(ring) = &ring {
            ring.end();
        }
    }
}

/// The ring was not asked for expressly, and cannot be had.
fn tell_of_fallback(reason: &Reason) {
    let text = "requests come over /dev/fuse";
    match reason {
        // As it was set up by somebody.
        Reason::NotAsked | Reason::Missing | Reason::NoSysfs | Reason::Off | Reason::NotAgreed => {
            tracing::info!(%reason, "{text}");
        }
        Reason::Cpus | Reason::Pages(_) | Reason::SetUp(_) => {
            tracing::warn!(%reason, remedy = reason.remedy(), "{text}");
        }
    }
}

/// What is agreed on at INIT, as far as it is known before mounting.
fn bounds(options: &Options) -> Bounds {
    Bounds {
        max_write: options.max_write.unwrap_or(limits::MAX_WRITE),
        max_pages_limit: dev_fuse::max_pages_limit(),
        default_permissions: options.mount.default_permissions,
        ring: false,
    }
}

/// The ring that is asked for, if the kernel offers it. It may lower the largest write.
fn plan_ring(options: &Options, bounds: &mut Bounds) -> Result<Queues, Reason> {
    if options.channel == Channel::DevFuse {
        return Err(Reason::NotAsked);
    }
    uring::switch()?;
    let possible = uring::possible()?;
    // As `fuse_uring_create` computes it.
    if bounds.max_pages_limit < limits::RING_PAGES {
        return Err(Reason::Pages(bounds.max_pages_limit));
    }
    let (least, most) = (usize::from(limits::RING_PAGES) * 4096, usize::from(bounds.max_pages_limit) * 4096);
    let wanted = (bounds.max_write as usize).next_multiple_of(4096).clamp(least, most);
    let (threads, memory) = (options.threads, options.memory);
    let queues = Queues {
        poll: options.poll,
        placement: options.placement,
        buffers: options.buffers,
        ..Queues::new(possible, &dev_fuse::allowed_cpus(), threads, wanted, memory)
    };
    bounds.max_write = bounds.max_write.min(queues.payload as u32);
    Ok(queues)
}

/// Would a mount with these `options` get its requests over the ring, and how large would that be? Threads, rings and memory
/// are made as for a mount and taken away again; nothing is mounted.
///
/// # Errors
/// Why it would not; see [`Reason::remedy`]. Not tried is what only a mount can tell, [`Reason::NotAgreed`].
pub fn try_ring(options: &Options) -> Result<RingSize, Reason> {
    uring::try_out(plan_ring(options, &mut bounds(options))?)
}

/// Mount `fs` with default options and serve it until it is unmounted. For more, see [`Server`].
///
/// `fusermount3 -u` or `umount` ends it from outside. When this process dies, by a signal or otherwise, the mount goes
/// with it.
pub fn mount(fs: impl FileSystem, mountpoint: impl AsRef<Path>) -> Result<(), Error> {
    let mount = MountOptions { auto_unmount: true, ..MountOptions::default() };
    Server::mount(fs, mountpoint.as_ref(), &Options { mount, ..Options::default() })?.join().map(drop)
}
