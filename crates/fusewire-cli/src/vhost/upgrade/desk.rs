//! Who is served where: so that all guests of a daemon can be handed over at once, and nobody comes in between.

use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fusewire_fs::passthrough::Passthrough;
use fusewire_vhost::{Handover, Server};
use rustix::event::{PollFd, PollFlags, poll};

use crate::failure::{Failure, Outcome};

/// A place where a guest is served.
#[derive(Default)]
pub struct Post {
    /// Its socket; none if the caller has made that.
    pub path: Option<PathBuf>,
    /// Where its monitor connects; none if it was there, and cannot come again.
    pub listener: Option<Arc<UnixListener>>,
    /// The file that says whose it is, locked.
    pub claim: Option<Arc<File>>,
    /// What is kept of the guest (`--resume`), locked.
    pub state: Option<File>,
    /// The guest, if it is there.
    pub guest: Option<Handover<Passthrough>>,
}

/// All of them.
pub struct Desk {
    posts: Mutex<Vec<Post>>,
    /// Guests that are gone can come again.
    returning: bool,
}

impl Desk {
    /// With these places. `returning`: guests that are gone can come again.
    ///
    /// # Errors
    /// If a listener cannot be asked without waiting.
    pub fn new(posts: Vec<Post>, returning: bool) -> Outcome<Arc<Self>> {
        let listeners = posts.iter().filter_map(|post| post.listener.as_ref());
        for listener in listeners {
            listener
                .set_nonblocking(true)
                .map_err(|error| Failure::because("cannot wait for virtual machines", &error))?;
        }
        Ok(Arc::new(Self { posts: Mutex::new(posts), returning }))
    }

    /// While this is held, nobody comes.
    pub fn posts(&self) -> MutexGuard<'_, Vec<Post>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the monitor of this place connects, if it still can.
    pub fn listener(&self, place: usize) -> Option<Arc<UnixListener>> {
        self.posts().get(place)?.listener.clone()
    }

    /// Waits until somebody connects, and has them served. Where guests can come again, nothing comes back if there is nobody after all.
    ///
    /// # Errors
    /// If that fails.
    pub fn admit(
        &self,
        place: usize,
        serve: impl FnOnce(UnixStream) -> Outcome<Server<Passthrough>>,
    ) -> Outcome<Option<Server<Passthrough>>> {
        let failed = |error: io::Error| Failure::because("cannot accept a virtual machine", &error);
        let Some(listener) = self.listener(place) else { return Ok(None) };
        loop {
            if !self.returning {
                _ = poll(&mut [PollFd::new(&*listener, PollFlags::IN)], None);
            }
            let mut posts = self.posts();
            match listener.accept() {
                Ok((stream, _)) => {
                    let server = serve(stream)?;
                    posts[place].guest = Some(server.handover());
                    if !self.returning {
                        posts[place].listener = None;
                    }
                    return Ok(Some(server));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.returning => return Ok(None),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// A guest that was served by another process before.
    pub fn settle(&self, place: usize, server: &Server<Passthrough>) {
        self.posts()[place].guest = Some(server.handover());
    }

    /// A guest is gone.
    pub fn leave(&self, place: usize) {
        let gone = self.posts()[place].guest.take();
        drop(gone);
    }
}
