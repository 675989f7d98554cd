//! The daemon that has the guests: it waits to be asked for them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusewire_vhost::Handed;

use super::super::args::Sandbox;
use super::super::sandbox::HANDED_OVER;
use super::desk::{Desk, Post};
use super::wire::{Kind, Wire};
use super::{HAS_CLAIM, HAS_LISTENER, HAS_STATE, paths_of};
use crate::failure::{Failure, Outcome};

/// How long nobody is listened to after that went wrong.
const PAUSE: Duration = Duration::from_millis(100);

/// What hands the guests over.
pub struct Giver {
    /// Where to be asked.
    pub control: UnixListener,
    /// The guests.
    pub desk: Arc<Desk>,
    /// The process that was called: the warden, or this one.
    pub called: u32,
    /// How this process is shut in, which says how it ends.
    pub how: Sandbox,
}

impl Giver {
    /// Waits for that from now on, in a thread of its own.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(self) -> Outcome<()> {
        let thread = std::thread::Builder::new().name("upgrade".into());
        let spawned = thread.spawn(move || self.run());
        spawned.map(drop).map_err(|error| Failure::because("cannot wait for an upgrade", &error))
    }

    fn run(&self) {
        loop {
            let asked = self.control.accept().and_then(|(stream, _)| Wire::new(stream));
            match asked.and_then(|wire| self.answer(&wire)) {
                Ok((pid, guests)) => {
                    tracing::info!(
                        "process {pid} has taken over {guests} virtual machines: this daemon ends"
                    );
                    // The sockets' names stay: they are the other's now.
                    std::process::exit(if self.how == Sandbox::None { 0 } else { HANDED_OVER });
                }
                Err(error) => {
                    tracing::warn!("no upgrade: {error}; this daemon serves on");
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Who asks gets everything, or a reason: then all is as before. Answers who it is, and how many guests there are.
    fn answer(&self, wire: &Wire) -> io::Result<(u32, usize)> {
        let hello = wire.expect(Kind::Hello)?;
        let (pid, wanted) = paths_of(&hello.bytes)?;
        tracing::info!("process {pid} asks for the virtual machines");
        let given = self.give(wire, &wanted);
        if let Err(error) = &given {
            // It may be gone.
            _ = wire.send(Kind::Refused, error.to_string().as_bytes(), &[]);
        }
        given.map(|guests| (pid, guests))
    }

    fn give(&self, wire: &Wire, wanted: &[PathBuf]) -> io::Result<usize> {
        let order = {
            let posts = self.desk.posts();
            let order = order(&posts, wanted)?;
            self.show(wire, &posts, &order)?;
            order
        };
        wire.expect(Kind::Take)?;
        // Nobody comes or goes from here on.
        let posts = self.desk.posts();
        let begin = Instant::now();
        let mut stopped = Vec::new();
        let given = self.hand(wire, &posts, &order, &mut stopped);
        if given.is_err() {
            for &place in &stopped {
                posts[place].guest.iter().for_each(|guest| guest.cancel());
            }
        }
        given?;
        let guests = stopped.len();
        tracing::debug!(guests, after = ?begin.elapsed(), "handed over");
        // Whoever connects now is for the other daemon.
        std::mem::forget(posts);
        Ok(guests)
    }

    /// Tells what there is, and gives what is not in use: the sockets and the files beside them.
    fn show(&self, wire: &Wire, posts: &[Post], order: &[usize]) -> io::Result<()> {
        let mut bytes = self.called.to_le_bytes().to_vec();
        let mut files = vec![self.control.as_fd()];
        for &place in order {
            let post = &posts[place];
            let there: [(u8, Option<BorrowedFd<'_>>); 3] = [
                (HAS_LISTENER, post.listener.as_ref().map(AsFd::as_fd)),
                (HAS_CLAIM, post.claim.as_ref().map(AsFd::as_fd)),
                (HAS_STATE, post.state.as_ref().map(AsFd::as_fd)),
            ];
            bytes.push(there.iter().filter(|(_, file)| file.is_some()).map(|(bit, _)| bit).sum());
            files.extend(there.iter().filter_map(|(_, file)| *file));
        }
        wire.send(Kind::Places, &bytes, &files)
    }

    /// Stops the guests, one after the other, and tells of them.
    fn hand(&self, wire: &Wire, posts: &[Post], order: &[usize], stopped: &mut Vec<usize>) -> io::Result<()> {
        for &place in order {
            let handed = match &posts[place].guest {
                None => None,
                Some(guest) => match guest.begin() {
                    Ok(handed) => Some(handed),
                    Err(_) if guest.is_over() => None,
                    Err(error) => return Err(error),
                },
            };
            match handed {
                None => wire.send(Kind::Guest, &[], &[])?,
                Some(Handed { bytes, files }) => {
                    stopped.push(place);
                    let files: Vec<_> = files.iter().map(|file| (**file).as_fd()).collect();
                    wire.send(Kind::Guest, &bytes, &files)?;
                }
            }
        }
        wire.expect(Kind::Ready)?;
        wire.send(Kind::Go, &[], &[])
    }
}

/// The places in the order in which they are wanted.
fn order(posts: &[Post], wanted: &[PathBuf]) -> io::Result<Vec<usize>> {
    let find = |path: &PathBuf| posts.iter().position(|post| post.path.as_ref() == Some(path));
    let order: Option<Vec<_>> = wanted.iter().map(find).collect();
    match order {
        Some(order) if order.len() == posts.len() => Ok(order),
        _ => {
            let have: Vec<_> = posts
                .iter()
                .filter_map(|post| post.path.as_ref())
                .map(|path| path.display().to_string())
                .collect();
            let want: Vec<_> = wanted.iter().map(|path| path.display().to_string()).collect();
            Err(io::Error::other(format!("it serves at {}, and not at {}", have.join(", "), want.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_the_same_in_whatever_order() {
        let post = |path: &str| Post { path: Some(path.into()), ..Post::default() };
        let posts = [post("/a"), post("/b")];
        assert_eq!(order(&posts, &["/b".into(), "/a".into()]).expect("the same"), [1, 0]);
        for wanted in [&["/a"][..], &["/a", "/c"], &["/a", "/b", "/c"], &["/a", "/a", "/b"]] {
            let wanted: Vec<_> = wanted.iter().map(PathBuf::from).collect();
            let told = order(&posts, &wanted).expect_err("others").to_string();
            assert!(told.contains("/a, /b"), "{told}");
        }
    }
}
