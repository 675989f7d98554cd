//! Ending a mount by signals, in stages: unmount, detach, cut off, leave.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fusewire::mount::{MountError, Unmount};
use fusewire::server::ServerHandle;
use sd_notify::NotifyState;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use crate::failure::{Failure, Outcome};
use crate::tell::tell;
use crate::unmount::while_busy;
use crate::{inherited, users};

/// Signals this close together are one wish: timeout(1), sudo(8) and terminals send the same one to the process and to
/// its group.
const ECHO: Duration = Duration::from_millis(300);

/// What SIGHUP does, if not what it does otherwise. There may be no mount yet.
pub type Hangup = Arc<dyn Fn() + Send + Sync>;

/// Receives signals from now on; they take effect once there is a mount.
#[derive(Clone)]
pub struct Ending {
    mounted: Arc<(Mutex<Option<ServerHandle>>, Condvar)>,
    /// The mount could be neither unmounted nor detached.
    refused: Arc<AtomicBool>,
    /// The connection was aborted because of a signal.
    cut: Arc<AtomicBool>,
    /// In place of what SIGHUP does otherwise.
    hangup: Option<Hangup>,
}

impl Ending {
    /// Catches the signals that end a mount. Without this, one that arrives just after mounting would leave a dead mount
    /// behind. SIGHUP ends a mount in the foreground, whose terminal has gone, unless it was started to outlive that, and means nothing
    /// to a daemon; unless there is something else for it to do.
    ///
    /// # Errors
    /// If signals cannot be caught.
    pub fn watch(is_daemon: bool, hangup: Option<Hangup>) -> Outcome<Self> {
        let failed = |error| Failure::because("cannot catch signals", &error);
        let mut wanted = inherited::endings();
        if hangup.is_some() && !wanted.contains(&SIGHUP) {
            wanted.push(SIGHUP);
        }
        let signals = Signals::new(wanted).map_err(failed)?;
        let ending = Self { mounted: Arc::default(), refused: Arc::default(), cut: Arc::default(), hangup };
        let watcher = ending.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || watcher.obey(signals, is_daemon))
            .map_err(failed)?;
        Ok(ending)
    }

    /// There is a mount now.
    pub fn mounted(&self, handle: ServerHandle) {
        *self.lock() = Some(handle);
        self.mounted.1.notify_all();
    }

    /// Whether a signal has cut the users of the mount off. A mount that was detached before looks unmounted afterwards.
    pub fn has_cut_off(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Option<ServerHandle>> {
        self.mounted.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self) -> ServerHandle {
        let mut mounted = self.lock();
        loop {
            match &*mounted {
                Some(handle) => return handle.clone(),
                None => mounted = self.mounted.1.wait(mounted).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn obey(&self, mut signals: Signals, is_daemon: bool) {
        let mut stage = 0;
        let mut last: Option<Instant> = None;
        let mut was_refused = false;
        for signal in signals.forever() {
            if signal == SIGHUP
                && let Some(hangup) = &self.hangup
            {
                self.start_hangup(hangup.clone());
                continue;
            }
            if last.is_some_and(|before| before.elapsed() < ECHO) || signal == SIGHUP && is_daemon {
                continue;
            }
            last = Some(Instant::now());
            stage += 1;
            if self.refused.swap(false, Ordering::AcqRel) && !was_refused {
                // Nothing has happened so far, and what was in the way may be gone.
                was_refused = true;
                stage = 1;
            }
            if stage == 1 {
                self.start_unmounting(is_daemon);
                continue;
            }
            let mounted = self.lock().clone();
            // Before the fact: once it is cut off, the main thread looks.
            self.cut.store(true, Ordering::Release);
            match mounted {
                Some(handle) if stage == 2 && cut_off(&handle) => {}
                // Nothing is mounted yet, or nothing helps: without its descriptors the connection ends.
                _ => std::process::exit(1),
            }
        }
    }

    /// It tells the kernel, which may take as long as the mount hangs: signals must be heard meanwhile.
    fn start_hangup(&self, hangup: Hangup) {
        if let Err(error) = thread::Builder::new().name("hangup".into()).spawn(move || hangup()) {
            tracing::error!(%error, "no thread for SIGHUP");
        }
    }

    /// Unmounting may take long, and a second signal must be heard meanwhile: hence the thread.
    fn start_unmounting(&self, is_daemon: bool) {
        let ending = self.clone();
        let unmounting =
            thread::Builder::new().name("unmount".into()).spawn(move || ending.unmount(is_daemon));
        if let Err(error) = unmounting {
            tracing::warn!(%error, "no thread to unmount with; signals wait for it");
            self.unmount(is_daemon);
        }
    }

    fn unmount(&self, is_daemon: bool) {
        if !unmount(&self.handle(), is_daemon) {
            self.refused.store(true, Ordering::Release);
        }
    }
}

/// The first signal: unmount if nobody uses it, else take it out of sight and wait for them. Tells whether the mount is
/// out of sight now.
fn unmount(handle: &ServerHandle, is_daemon: bool) -> bool {
    let place = handle.mountpoint().display();
    notify(&[NotifyState::Stopping]);
    tracing::info!("unmounting {place}");
    let Err(error) = while_busy(|| handle.unmount(Unmount::IfIdle)) else { return true };
    // Once it is detached, nobody can see any more what is mounted inside.
    let users = users::of_mount(handle.mountpoint(), device(handle.connection()));
    if let Err(error) = handle.unmount(Unmount::Lazy) {
        say(is_daemon, &format!("{error}; it is served as before"));
        return false;
    }
    let why = if matches!(error, MountError::Busy { .. }) {
        format!("{place} is in use by {users}")
    } else {
        error.to_string()
    };
    let cut = if is_daemon { "a second signal" } else { "Ctrl-C" };
    say(
        is_daemon,
        &format!("{why}; it is out of sight now and ends with its last user; {cut} cuts them off"),
    );
    true
}

/// The second signal: whoever waits for the filesystem gets an error. Tells whether that worked.
fn cut_off(handle: &ServerHandle) -> bool {
    tracing::warn!("aborting the connection of {}", handle.mountpoint().display());
    handle.abort().inspect_err(|error| tracing::error!(%error, "cannot abort")).is_ok()
}

/// Something the user must see: on the terminal even if the log goes elsewhere.
fn say(is_daemon: bool, text: &str) {
    if is_daemon {
        tracing::warn!("{text}");
    } else {
        tell(format_args!("fusewire: {text}"));
    }
}

/// A connection's number is the device number of its filesystem, as the kernel writes it inside itself.
fn device(connection: u64) -> users::Device {
    const MINOR_BITS: u32 = 20;
    ((connection >> MINOR_BITS) as u32, (connection & ((1 << MINOR_BITS) - 1)) as u32)
}

/// Tells the service manager, if there is one.
pub fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
