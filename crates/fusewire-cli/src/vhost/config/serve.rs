//! Many guests, each of which comes and goes as it likes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use fusewire_fs::passthrough::Passthrough;
use fusewire_vhost::{Given, Options, Server};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::super::guests::{Guest, Share, device};
use super::super::resume::Carry;
use super::super::upgrade::Desk;
use crate::failure::{Failure, Outcome};

/// How long a socket is not listened at after a guest could not be served.
const PAUSE: Duration = Duration::from_secs(1);

/// A socket and what is served there.
pub struct Place {
    /// The guest's name.
    pub name: String,
    /// Its tree.
    pub share: Arc<Share>,
    /// Its device.
    pub options: Options,
    /// What its guest is handed over by.
    pub carry: Carry,
}

impl Place {
    /// Its device, with the guest that another daemon has handed over.
    fn device(&self, given: Option<Given>) -> Outcome<Guest> {
        device(&self.options, self.carry.keeping(&self.share, 0)?, given)
    }
}

/// The devices of the guests that another daemon has handed over; others get theirs when they connect.
///
/// # Errors
/// If one does not fit its guest.
pub fn prepare(places: &[Place], given: Vec<Option<Given>>) -> Outcome<Vec<Guest>> {
    let prepare = |(place, given): (&Place, Option<Given>)| match given {
        Some(given) => place.device(Some(given)),
        None => Ok(Guest::Gone),
    };
    places.iter().zip(given).map(prepare).collect()
}

/// Where threads of guests say that they end.
struct Ends {
    numbers: Sender<usize>,
    wake: Arc<OwnedFd>,
}

/// Serves whoever connects, one machine at each place at a time. A place that nobody is connected to costs a descriptor and no thread.
///
/// # Errors
/// If the sockets cannot be waited at. What happens to one guest is told in the log and does not end the others.
pub fn serve(places: Vec<Place>, guests: Vec<Guest>, desk: &Arc<Desk>) -> Outcome<()> {
    let failed = |error: rustix::io::Errno| Failure::because("cannot wait for virtual machines", &error);
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?);
    let (numbers, ends) = channel();
    let places: Vec<_> = places.into_iter().map(Arc::new).collect();
    let listeners = (0..places.len()).map(|at| desk.listener(at));
    let listeners = listeners.collect::<Option<Vec<_>>>().ok_or_else(|| {
        Failure::new("the socket of a guest has gone to another daemon already").or_try("to start again")
    })?;
    let mut free: Vec<bool> = places.iter().map(|_| true).collect();
    let spawn = |at: usize, server: Option<Server<Passthrough>>| {
        let ends = Ends { numbers: numbers.clone(), wake: wake.clone() };
        let (place, desk) = (places[at].clone(), desk.clone());
        let thread = std::thread::Builder::new().name(format!("guest-{at}"));
        let spawned = thread.spawn(move || attend(&place, (at, server), &desk, &ends));
        if let Err(error) = &spawned {
            tracing::error!(guest = places[at].name, %error, "no thread for a virtual machine; trying again");
            std::thread::sleep(PAUSE);
        }
        spawned.is_err()
    };
    for (at, guest) in guests.into_iter().enumerate() {
        if let Guest::Here(server) = guest {
            free[at] = spawn(at, Some(server));
        }
    }
    loop {
        let waiting: Vec<_> = (0..places.len()).filter(|&at| free[at]).collect();
        for at in ready(&listeners, &waiting, &wake).map_err(failed)? {
            free[at] = spawn(at, None);
        }
        gone(&ends, &wake, &mut free);
    }
}

/// The places among `waiting` where somebody connects; also when somebody ends.
fn ready(
    listeners: &[Arc<UnixListener>],
    waiting: &[usize],
    wake: &OwnedFd,
) -> rustix::io::Result<Vec<usize>> {
    let mut fds: Vec<_> = waiting.iter().map(|&at| PollFd::new(&*listeners[at], PollFlags::IN)).collect();
    fds.push(PollFd::new(wake, PollFlags::IN));
    match poll(&mut fds, None) {
        Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(_) => Ok(waiting
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(&at, _)| at)
            .collect()),
    }
}

/// Guests that are gone can come again.
fn gone(ends: &Receiver<usize>, wake: &OwnedFd, free: &mut [bool]) {
    _ = rustix::io::read(wake, &mut [0u8; 8]);
    ends.try_iter().for_each(|at| free[at] = true);
}

/// One visit of a guest.
fn attend(place: &Place, (at, server): (usize, Option<Server<Passthrough>>), desk: &Desk, ends: &Ends) {
    let guest = &*place.name;
    let visit = std::panic::AssertUnwindSafe(|| visit(place, (at, server), desk));
    match std::panic::catch_unwind(visit) {
        Ok(Ok(true)) => tracing::info!(guest, "the virtual machine is gone"),
        Ok(Ok(false)) => {}
        Ok(Err(failure)) => {
            tracing::error!(guest, "{failure}");
            std::thread::sleep(PAUSE);
        }
        Err(_) => tracing::error!(guest, "the thread of a virtual machine has panicked"),
    }
    _ = ends.numbers.send(at);
    _ = rustix::io::write(&*ends.wake, &1u64.to_ne_bytes());
}

/// `false` if nobody was there after all.
fn visit(place: &Place, (at, server): (usize, Option<Server<Passthrough>>), desk: &Desk) -> Outcome<bool> {
    let failed = |error| Failure::because("cannot serve the virtual machine", &error);
    let server = match server {
        Some(server) => Some(server),
        None => {
            let Guest::Next(device) = place.device(None)? else { return Ok(false) };
            let server = desk.admit(at, |stream| Server::start(device, stream).map_err(failed))?;
            tracing::info!(guest = place.name, "a virtual machine has connected");
            server
        }
    };
    let Some(server) = server else { return Ok(false) };
    let ended = server.wait().map_err(failed);
    desk.leave(at);
    ended.map(|()| true)
}
