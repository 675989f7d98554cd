//! Many guests, each of which comes and goes as it likes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use fusewire_vhost::{Device, Options, Server};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::super::guests::Share;
use crate::failure::{Failure, Outcome, with_causes};

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
    /// Where its monitor connects.
    pub listener: UnixListener,
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
pub fn serve(places: Vec<Place>) -> Outcome<()> {
    let failed =
        |error: rustix::io::Errno| Failure::new(format!("cannot wait for virtual machines: {error}"));
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?);
    let (numbers, ends) = channel();
    let places: Vec<_> = places.into_iter().map(Arc::new).collect();
    let mut free: Vec<bool> = places.iter().map(|_| true).collect();
    loop {
        let waiting: Vec<_> = (0..places.len()).filter(|&at| free[at]).collect();
        for at in ready(&places, &waiting, &wake).map_err(failed)? {
            free[at] = false;
            let ends = Ends { numbers: numbers.clone(), wake: wake.clone() };
            let place = places[at].clone();
            let thread = std::thread::Builder::new().name(format!("guest-{at}"));
            if let Err(error) = thread.spawn(move || attend(&place, at, &ends)) {
                tracing::error!(guest = places[at].name, %error, "no thread for a virtual machine; trying again");
                std::thread::sleep(PAUSE);
                free[at] = true;
            }
        }
        gone(&ends, &wake, &mut free);
    }
}

/// The places among `waiting` where somebody connects; also when somebody ends.
fn ready(places: &[Arc<Place>], waiting: &[usize], wake: &OwnedFd) -> rustix::io::Result<Vec<usize>> {
    let mut fds: Vec<_> =
        waiting.iter().map(|&at| PollFd::new(&places[at].listener, PollFlags::IN)).collect();
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
fn attend(place: &Place, at: usize, ends: &Ends) {
    let guest = &*place.name;
    let visit = std::panic::AssertUnwindSafe(|| visit(place));
    match std::panic::catch_unwind(visit) {
        Ok(Ok(())) => tracing::info!(guest, "the virtual machine is gone"),
        Ok(Err(failure)) => {
            tracing::error!(guest, "{failure}");
            std::thread::sleep(PAUSE);
        }
        Err(_) => tracing::error!(guest, "the thread of a virtual machine has panicked"),
    }
    _ = ends.numbers.send(at);
    _ = rustix::io::write(&*ends.wake, &1u64.to_ne_bytes());
}

fn visit(place: &Place) -> Outcome<()> {
    let listener = place
        .listener
        .try_clone()
        .map_err(|error| Failure::new(format!("cannot accept a virtual machine: {error}")))?;
    let share = place.share.clone();
    let device = Device::new(move || share.open(), place.options.clone())
        .map_err(|error| Failure::new(error.to_string()))?;
    let server = Server::accept(device, listener).map_err(|error| Failure::new(with_causes(&error)))?;
    tracing::info!(guest = place.name, "a virtual machine has connected");
    server.wait().map_err(|error| Failure::new(with_causes(&error)))
}
