//! One directory for one virtual machine or several, each with a device of its own.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fusewire_fs::passthrough::{self, Leases, Passthrough};
use fusewire_vhost::{Device, Options, Server};

use super::resume::Carry;
use crate::failure::{Failure, Outcome, with_causes};

/// The longest lease, if nothing else is said.
pub const LEASE: Duration = Duration::from_secs(5);

/// What each guest gets its filesystem from.
pub struct Share {
    path: PathBuf,
    options: passthrough::Options,
    leases: Option<Arc<Leases>>,
}

impl Share {
    /// The directory `path`; with `leases`, guests may remember things for as long as these say, and what they may is shared between
    /// them.
    ///
    /// # Errors
    /// Whatever keeps it from being shared: this is to be found out before somebody connects.
    pub fn new(path: PathBuf, options: passthrough::Options, leases: Option<Arc<Leases>>) -> Outcome<Self> {
        let share = Self { path, options, leases };
        share.open().map_err(|error| Failure::new(error.to_string()))?;
        Ok(share)
    }

    /// The tree, for a guest that mounts it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn open(&self) -> std::io::Result<Passthrough> {
        match &self.leases {
            Some(leases) => Passthrough::leased(&self.path, self.options.clone(), leases),
            None => Passthrough::new(&self.path, self.options.clone()),
        }
    }
}

/// Leases of what is in `dir`, none longer than `longest`.
///
/// # Errors
/// If `dir` cannot be opened. Where changes cannot be heard of, that is said in the log.
pub fn watch(dir: &Path, longest: Duration) -> Outcome<Arc<Leases>> {
    let leases = Leases::new(dir, longest)
        .map_err(|error| Failure::new(format!("cannot watch {} for changes: {error}", dir.display())))?;
    if let Some(refusal) = leases.refusal() {
        tracing::warn!(
            "no feed of changes: {refusal}; guests remember names and attributes for a second at most"
        );
    }
    Ok(Arc::new(leases))
}

/// Serves one virtual machine on each of these sockets, until the last is gone.
///
/// # Errors
/// The first failure; the other guests are served all the same.
pub fn serve(share: Share, options: &Options, listeners: Vec<UnixListener>, carry: &Carry) -> Outcome<()> {
    let share = Arc::new(share);
    let mut guests = Vec::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        let keeping = carry.keeping(&share, index)?;
        let device = Device::kept(keeping.make(), options.clone(), keeping)
            .map_err(|error| Failure::usage(error.to_string()))?;
        let guest = std::thread::Builder::new().name(format!("guest-{index}"));
        let guest = guest
            .spawn(move || attend(device, listener, index))
            .map_err(|error| Failure::new(format!("cannot start a thread for guest {index}: {error}")))?;
        guests.push(guest);
    }
    let ends = guests.into_iter().map(|guest| {
        guest.join().unwrap_or_else(|_| Err(Failure::new("the thread of a guest has panicked")))
    });
    // All of them, before the first failure is told.
    ends.collect::<Vec<_>>().into_iter().collect()
}

fn attend(device: Device<Passthrough>, listener: UnixListener, index: usize) -> Outcome<()> {
    let server = Server::accept(device, listener).map_err(|error| Failure::new(with_causes(&error)))?;
    tracing::info!(guest = index, "a virtual machine has connected");
    let ended = server.wait().map_err(|error| Failure::new(with_causes(&error)));
    tracing::info!(guest = index, "the virtual machine is gone");
    ended
}
