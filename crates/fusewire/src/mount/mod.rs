//! Mounting, unmounting and aborting FUSE filesystems.
//!
//! With `CAP_SYS_ADMIN` this uses the mount API of Linux 5.2 (or `mount(2)` where it is missing), for ordinary users
//! the program `fusermount3`. A mount is identified by what it is, not by its path: nothing is unmounted because
//! something else has taken its place meanwhile.
//!
//! No function here asks the filesystem behind a mount point anything, except for [`mount()`] on top of another FUSE
//! mount, so dead and hanging mounts can be unmounted and aborted.

mod device;
mod error;
mod fusectl;
mod fusermount;
mod guard;
mod init;
mod new_api;
mod options;
mod place;
mod sys;
mod table;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::mount::UnmountFlags;
use rustix::thread::CapabilitySet;

pub use device::open_device;
pub use error::MountError;
pub use options::MountOptions;
pub use table::{MountEntry, fuse_mounts, fuse_mounts_of, mounts};

use fusectl::{AbortSwitch, Unanswered};
use guard::Guard;
use place::Place;
use table::{FdInfo, Identity};

/// A mounted filesystem whose INIT has been answered.
///
/// The fields are dropped in this order on purpose: without its last descriptor the connection ends, and so a
/// mount with unwritten data cannot make unmounting wait for a server that serves no more.
#[derive(Debug)]
pub struct Mounted {
    /// The open `/dev/fuse`, close-on-exec.
    pub device: OwnedFd,
    /// The mount that belongs to it.
    pub mount: Mount,
}

/// When to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Only if no file, working directory or other mount on it is in use.
    IfIdle,
    /// At once out of sight; the connection ends when its last user is done.
    Lazy,
}

/// One mount: knows how it was made and how it is undone. Dropping it unmounts lazily, unless it is gone already.
#[derive(Debug)]
pub struct Mount {
    mountpoint: PathBuf,
    identity: Identity,
    way: Way,
    abort: Option<Arc<AbortSwitch>>,
    gone: AtomicBool,
    guard: Mutex<Option<Guard>>,
}

/// How to mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// fsopen, fsconfig, fsmount, move_mount.
    NewApi {
        /// Whether mounting waits for INIT, where the kernel can.
        sync_init: bool,
    },
    /// mount(2).
    Syscall,
    /// The program for ordinary users.
    Fusermount,
}

impl Way {
    fn choose() -> Self {
        if is_privileged() { Self::NewApi { sync_init: true } } else { Self::Fusermount }
    }
}

/// Mounts on `mountpoint`, an existing directory or regular file, and has INIT answered.
///
/// `answer_init` reads the INIT request from the descriptor it is given and writes the answer. Where the kernel can
/// (`FUSE_DEV_IOC_SYNC_INIT`, Linux 6.18) it runs on a second thread while the mount system call waits for it, before
/// anybody can see the mount; elsewhere on this thread, after mounting. A panic in it goes on in the caller.
///
/// # Errors
/// If it fails, for whatever reason, nothing stays mounted.
pub fn mount(
    mountpoint: &Path,
    options: &MountOptions,
    answer_init: impl FnOnce(BorrowedFd<'_>) -> io::Result<()> + Send,
) -> Result<Mounted, MountError> {
    mount_by(Way::choose(), mountpoint, options, answer_init)
}

/// Mounts as [`mount()`] does, and until [`Mount::is_served`] unmounting takes nothing that may be at its limit: a user who can start no
/// more threads cannot start `fusermount3` either.
pub(crate) fn mount_guarded(
    mountpoint: &Path,
    options: &MountOptions,
    answer_init: impl FnOnce(BorrowedFd<'_>) -> io::Result<()> + Send,
) -> Result<Mounted, MountError> {
    let way = Way::choose();
    let auto_unmount = options.auto_unmount || way == Way::Fusermount;
    mount_by(way, mountpoint, &MountOptions { auto_unmount, ..options.clone() }, answer_init)
}

/// Finds out whether [`mount()`] could mount there, as far as that can be known without doing it: the mount point, the options, and what it
/// takes of the system. What only the kernel or `fusermount3` can tell is not tried.
///
/// # Errors
/// Those of [`mount()`].
pub fn try_mount(mountpoint: &Path, options: &MountOptions) -> Result<(), MountError> {
    options.check()?;
    let place = Place::open(mountpoint)?;
    match Way::choose() {
        Way::Fusermount => fusermount::check(&place.path, options),
        Way::NewApi { .. } | Way::Syscall => open_device().map(drop),
    }
}

fn mount_by(
    way: Way,
    mountpoint: &Path,
    options: &MountOptions,
    answer_init: impl FnOnce(BorrowedFd<'_>) -> io::Result<()> + Send,
) -> Result<Mounted, MountError> {
    options.check()?;
    let place = Place::open(mountpoint)?;
    let mounted = match way {
        Way::NewApi { sync_init } => {
            let device = open_device()?;
            match new_api::Context::open(&place)? {
                Some(context) => {
                    let hidden = context.create(device.as_fd(), options, sync_init, answer_init)?;
                    let mount = Mount::new(&place, hidden.identity(), way);
                    if options.auto_unmount {
                        mount.start_guard()?;
                    }
                    hidden.attach()?;
                    Mounted { device, mount }
                }
                None => mount_by_syscall(device, &place, options, answer_init)?,
            }
        }
        Way::Syscall => mount_by_syscall(open_device()?, &place, options, answer_init)?,
        Way::Fusermount => {
            let device = fusermount::mount(&place.path, options)?;
            finish(device, &place, way, options, answer_init)?
        }
    };
    let path = mounted.mount.mountpoint().display();
    tracing::debug!(%path, ?way, connection = mounted.mount.connection(), "mounted");
    Ok(mounted)
}

fn mount_by_syscall(
    device: OwnedFd,
    place: &Place,
    options: &MountOptions,
    answer_init: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<Mounted, MountError> {
    new_api::mount_by_syscall(device.as_fd(), place, options)?;
    finish(device, place, Way::Syscall, options, answer_init)
}

/// Takes charge of what has just been mounted, visible already, and has INIT answered.
fn finish(
    device: OwnedFd,
    place: &Place,
    way: Way,
    options: &MountOptions,
    answer_init: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<Mounted, MountError> {
    let mount = match Identity::at(&place.path) {
        Ok(identity) if is_served_by(device.as_fd(), identity) => Mount::new(place, identity, way),
        Ok(_) => return Err(MountError::Covered { path: place.path.clone() }),
        Err(error) => return Err(place::explain(error::MOUNT, &place.path, error.into())),
    };
    // From here on dropping it undoes the mount.
    let mounted = Mounted { device, mount };
    if options.auto_unmount {
        mounted.mount.start_guard()?;
    }
    match answer_init(mounted.device.as_fd()) {
        Ok(()) => Ok(mounted),
        Err(source) => Err(MountError::Init { path: place.path.clone(), source }),
    }
}

/// Whether the mount is the one the descriptor was mounted with, as far as the kernel tells.
fn is_served_by(device: BorrowedFd<'_>, identity: Identity) -> bool {
    match FdInfo::open(device).and_then(|info| info.connection()) {
        Ok(Some(connection)) => connection == table::connection(identity.device),
        _ => identity.entry().is_ok_and(|entry| entry.is_some_and(|entry| entry.is_fuse())),
    }
}

fn is_privileged() -> bool {
    let sets = rustix::thread::capabilities(None);
    sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

impl Mount {
    fn new(place: &Place, identity: Identity, way: Way) -> Self {
        let mountpoint = place.path.clone();
        // Opened now, when the number is certain to mean this connection.
        let abort = AbortSwitch::open(table::connection(identity.device)).ok().map(Arc::new);
        Self { mountpoint, identity, way, abort, gone: AtomicBool::new(false), guard: Mutex::new(None) }
    }

    /// Where it was mounted: absolute, without symbolic links.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Number of the connection: the directory below `/sys/fs/fuse/connections`, and the minor number of `st_dev`.
    pub fn connection(&self) -> u64 {
        table::connection(self.identity.device)
    }

    /// Tells how many requests are not answered, where the control filesystem is to be had. Takes a descriptor, once it is asked. Only
    /// while the connection lives: afterwards, its number may be another's.
    pub(crate) fn unanswered(&self) -> Box<dyn Fn() -> Option<usize> + Send> {
        let (connection, opened) = (self.connection(), OnceCell::new());
        Box::new(move || {
            if opened.get().is_none() {
                _ = Unanswered::open(connection).map(|unanswered| opened.set(unanswered));
            }
            opened.get()?.count()
        })
    }

    /// Whether it is still mounted, wherever that is by now, in the mount namespace of the calling thread.
    pub fn is_mounted(&self) -> bool {
        !self.gone.load(Ordering::Acquire) && self.identity.entry().is_ok_and(|entry| entry.is_some())
    }

    /// Unmounts. If it is not mounted any more, nothing is touched, whatever may be mounted there now.
    ///
    /// Ask for [`Unmount::IfIdle`] while requests are still served: unmounting writes back unwritten data.
    ///
    /// # Errors
    /// [`MountError::Busy`] if it is in use and `how` respects that, [`MountError::Covered`] if another mount is on
    /// top of it; else what the kernel or `fusermount3` said.
    pub fn unmount(&self, how: Unmount) -> Result<(), MountError> {
        if self.gone.load(Ordering::Acquire) {
            return Ok(());
        }
        let entry = self.identity.entry().map_err(|source| MountError::Table { source })?;
        if let Some(entry) = entry {
            // Found by its number, so it is found even if a directory above was renamed.
            let path = entry.mountpoint;
            match Identity::at(&path) {
                Ok(top) if top == self.identity => {}
                Ok(_) => return Err(MountError::Covered { path }),
                Err(error) => return Err(place::explain(error::UNMOUNT, &path, error.into())),
            }
            match self.way {
                Way::Fusermount => self.unmount_by_program(&path, how == Unmount::Lazy)?,
                _ => unmount_by_syscall(&path, flags(how == Unmount::Lazy, false))?,
            }
        }
        self.gone.store(true, Ordering::Release);
        if let Some(guard) = self.guard().take() {
            guard.dismiss();
        }
        Ok(())
    }

    /// If the program cannot be started, the guard still can become it.
    fn unmount_by_program(&self, path: &Path, lazy: bool) -> Result<(), MountError> {
        let outcome = fusermount::unmount(path, lazy);
        if !lazy || outcome.is_ok() {
            return outcome;
        }
        let Some(guard) = self.guard().take() else { return outcome };
        guard.relieve();
        if self.is_mounted() { outcome } else { Ok(()) }
    }

    /// Whoever mounted by [`mount_guarded`] with these options has all that it takes to serve.
    pub(crate) fn is_served(&self, options: &MountOptions) {
        if !options.auto_unmount
            && let Some(guard) = self.guard().take()
        {
            guard.dismiss();
        }
    }

    /// Makes every request fail at once with `ECONNABORTED` or `ENOTCONN`, and with them whoever waits for them. The
    /// mount stays, dead, until it is unmounted. Works after [`Unmount::Lazy`] too; has no effect on a connection that
    /// is gone.
    ///
    /// # Errors
    /// [`MountError::Abort`] if the control filesystem cannot be reached: ordinary users need it mounted.
    pub fn abort(&self) -> Result<(), MountError> {
        let connection = self.connection();
        match &self.abort {
            Some(switch) => switch.press().map_err(|error| fusectl::failure(connection, error)),
            // Without the switch there is only the number, and it is ours as long as the mount is there.
            None if self.is_mounted() => fusectl::abort(connection),
            None => Err(fusectl::failure(connection, rustix::io::Errno::NOTCONN)),
        }
    }

    /// What aborts the connection, also when this value is gone.
    pub(crate) fn abort_later(&self) -> impl Fn() -> Result<(), MountError> + Send + Sync + use<> {
        let (switch, connection) = (self.abort.clone(), self.connection());
        move || {
            let pressed = switch.as_ref().map_or(Err(rustix::io::Errno::PERM), |switch| switch.press());
            pressed.map_err(|error| fusectl::failure(connection, error))
        }
    }

    /// Leaves it mounted when this value goes. What `auto_unmount` promises stays in force until the process ends.
    pub fn forget(self) {
        self.gone.store(true, Ordering::Release);
        if let Some(guard) = self.guard().take() {
            guard.leave();
        }
    }

    fn start_guard(&self) -> Result<(), MountError> {
        let program = match self.way {
            Way::Fusermount => Some(fusermount::find(error::MOUNT, &self.mountpoint)?),
            _ => None,
        };
        *self.guard() = Some(Guard::start(&self.mountpoint, self.identity, program.as_deref())?);
        Ok(())
    }

    fn guard(&self) -> std::sync::MutexGuard<'_, Option<Guard>> {
        self.guard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.unmount(Unmount::Lazy) {
            tracing::warn!(%error, "the mount stays behind");
        }
    }
}

/// Unmounts the FUSE filesystem that is on top at `path`, whoever mounted it: as root, or as the user who did.
///
/// `lazy` takes it out of sight at once even if it is in use. `force` first aborts its connection, so that a server
/// that hangs cannot make this wait.
///
/// # Errors
/// [`MountError::NotMounted`] if `path` is no mount point, [`MountError::NotFuse`] if something else is mounted there,
/// [`MountError::Busy`] if it is in use; else what the kernel or `fusermount3` said.
pub fn unmount_path(path: &Path, lazy: bool, force: bool) -> Result<(), MountError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NotMounted { path: path.to_owned(), hint: error.to_string() },
        _ => place::explain(error::UNMOUNT, path, error),
    };
    let resolved = place::resolve(path).map_err(failed)?;
    let identity = Identity::at(&resolved).map_err(|error| failed(error.into()))?;
    let entry = identity.entry().map_err(|source| MountError::Table { source })?;
    let entry = match entry {
        Some(entry) if entry.mountpoint == resolved => entry,
        Some(entry) => {
            let hint = format!("it belongs to the mount at {}", entry.mountpoint.display());
            return Err(MountError::NotMounted { path: resolved, hint });
        }
        None => return Err(MountError::NotMounted { path: resolved, hint: String::new() }),
    };
    let Some(connection) = entry.connection() else {
        return Err(MountError::NotFuse { path: resolved, fstype: entry.fstype });
    };
    if is_privileged() {
        return unmount_by_syscall(&resolved, flags(lazy, force));
    }
    if force {
        fusectl::abort(connection)?;
    }
    fusermount::unmount(&resolved, lazy)
}

fn flags(lazy: bool, force: bool) -> UnmountFlags {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazy);
    flags.set(UnmountFlags::FORCE, force);
    flags
}

fn unmount_by_syscall(path: &Path, flags: UnmountFlags) -> Result<(), MountError> {
    rustix::mount::unmount(path, flags).map_err(|error| MountError::unmounting(path, error))
}
