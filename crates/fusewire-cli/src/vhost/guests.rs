//! One directory for one virtual machine or several, each with a device of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fusewire_fs::passthrough::{self, Leases, Passthrough};
use fusewire_vhost::{Device, Given, Options, Server, Waiting};

use super::resume::{Carry, Keeping};
use super::upgrade::Desk;
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
        share.open().map_err(|error| Failure::because("cannot share the directory", &error))?;
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
    let leases = Leases::new(dir, longest).map_err(|error| {
        Failure::because(format_args!("cannot watch {} for changes", dir.display()), &error)
    })?;
    if let Some(refusal) = leases.refusal() {
        tracing::warn!(
            "no feed of changes: {refusal}; guests remember names and attributes for a second at most"
        );
    }
    Ok(Arc::new(leases))
}

/// A guest of a place, or the device for one.
pub enum Guest {
    /// Whoever connects.
    Next(Device<Passthrough>),
    /// One that another daemon has had.
    Taken(Waiting<Passthrough>),
    /// One that is served.
    Here(Server<Passthrough>),
    /// Nobody can come any more.
    Gone,
}

/// The devices of all places, with the guests that another daemon has handed over.
///
/// # Errors
/// If one cannot be made, or does not fit its guest.
pub fn prepare(
    share: Share,
    options: &Options,
    carry: &Carry,
    given: Vec<Option<Given>>,
) -> Outcome<Vec<Guest>> {
    let share = Arc::new(share);
    let prepare =
        |(index, given)| -> Outcome<Guest> { device(options, carry.keeping(&share, index)?, given) };
    given.into_iter().enumerate().map(prepare).collect()
}

/// The device of one place.
///
/// # Errors
/// As [`prepare`].
pub fn device(options: &Options, keeping: Keeping, given: Option<Given>) -> Outcome<Guest> {
    let device = Device::kept(keeping.make(), options.clone(), keeping).map_err(|error| {
        Failure::usage(error.to_string()).or_try("fusewire vhost --help, which tells what each option takes")
    })?;
    match given {
        None => Ok(Guest::Next(device)),
        Some(given) => Server::take_over(device, given).map(Guest::Taken).map_err(|error| {
            Failure::new(format!("--upgrade: {}", with_causes(&error)))
                .or_try("the options of the daemon that is there: it serves on")
        }),
    }
}

/// Serves the guests that were taken over, which are this process's from now on. All of them, and how many were taken.
///
/// # Errors
/// If one cannot be served.
pub fn start(desk: &Desk, guests: Vec<Guest>) -> Outcome<(Vec<Guest>, usize)> {
    let mut taken = 0;
    let start = |(index, guest)| match guest {
        Guest::Taken(waiting) => {
            let server =
                waiting.start().map_err(|error| Failure::because("cannot serve the guest", &error))?;
            desk.settle(index, &server);
            taken += 1;
            Ok(Guest::Here(server))
        }
        Guest::Next(_) if desk.listener(index).is_none() => Ok(Guest::Gone),
        other => Ok(other),
    };
    let guests = guests.into_iter().enumerate().map(start).collect::<Outcome<_>>()?;
    Ok((guests, taken))
}

/// Serves one virtual machine at each place, until the last is gone.
///
/// # Errors
/// The first failure; the other guests are served all the same.
pub fn serve(desk: &Arc<Desk>, guests: Vec<Guest>) -> Outcome<()> {
    let mut threads = Vec::new();
    for (index, guest) in guests.into_iter().enumerate() {
        let desk = desk.clone();
        let thread = std::thread::Builder::new().name(format!("guest-{index}"));
        let thread = thread.spawn(move || attend(&desk, guest, index)).map_err(|error| {
            Failure::because(format_args!("cannot start a thread for guest {index}"), &error)
        })?;
        threads.push(thread);
    }
    let ends = threads.into_iter().map(|guest| {
        guest.join().unwrap_or_else(|_| {
            let what = "the thread of a guest has panicked";
            Err(Failure::new(what).or_try("to report that, with what it said before"))
        })
    });
    // All of them, before the first failure is told.
    ends.collect::<Vec<_>>().into_iter().collect()
}

fn attend(desk: &Desk, guest: Guest, index: usize) -> Outcome<()> {
    let failed = |error| Failure::because("cannot serve the guest", &error);
    let server = match guest {
        Guest::Next(device) => {
            let server = desk.admit(index, |stream| Server::start(device, stream).map_err(failed))?;
            tracing::info!(guest = index, "a virtual machine has connected");
            server
        }
        Guest::Here(server) => Some(server),
        Guest::Taken(_) | Guest::Gone => None,
    };
    let Some(server) = server else { return Ok(()) };
    let ended = server.wait().map_err(failed);
    desk.leave(index);
    tracing::info!(guest = index, "the virtual machine is gone");
    ended
}
