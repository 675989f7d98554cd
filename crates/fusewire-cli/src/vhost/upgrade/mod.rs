//! `fusewire vhost --upgrade`: a daemon takes the place of another one, whose guests notice nothing but a short pause
//! (`docs/adr/0027-upgrade.md`).
//!
//! Each daemon listens at a socket beside its first one, which only its user can connect to. The new one connects there and gets the
//! sockets, so that it can shut itself in with them; then the old one stops and tells of its guests, and once the new one has said that it
//! can serve all of them, and has been told that they are its own, it serves and the old one ends. If anything goes wrong before,
//! the old one goes on.

mod desk;
mod give;
mod take;
mod wire;

use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::args::Sandbox;
use super::sandbox::Warden;
use super::socket::{self, Name, Socket};
use crate::failure::{Failure, Outcome};
pub use desk::{Desk, Post};
use give::Giver;
pub use take::Taking;

/// Set in a place's byte: what there is of it.
const HAS_LISTENER: u8 = 1;
const HAS_CLAIM: u8 = 2;
const HAS_STATE: u8 = 4;

/// Options of an upgrade.
#[derive(Args, Debug)]
#[command(next_help_heading = "Replacing the daemon, and moving guests")]
pub struct UpgradeArgs {
    /// Take the place of the daemon that serves at these sockets: its guests stay connected, and it ends
    ///
    /// Run the new program with the options of the old one, and --upgrade. If something goes wrong, the old daemon serves on. Not with
    /// --fd or --dax-window.
    #[arg(long, conflicts_with_all = ["fd", "dax_window"])]
    pub upgrade: bool,
}

/// The sockets of a daemon that is about to serve.
pub struct Front {
    posts: Vec<Post>,
    names: Vec<Name>,
    control: Option<(UnixListener, PathBuf)>,
    taking: Option<Taking>,
    called: u32,
}

/// Where a daemon with this socket is asked for its guests.
fn control_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".upgrade");
    path.into()
}

/// A socket's path as everybody has it.
fn absolute(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (parent.canonicalize(), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

/// What the new process says first.
fn hello(pid: u32, paths: &[PathBuf]) -> Vec<u8> {
    let mut bytes = pid.to_le_bytes().to_vec();
    for path in paths {
        bytes.extend(path.as_os_str().as_bytes());
        bytes.push(0);
    }
    bytes
}

fn paths_of(bytes: &[u8]) -> io::Result<(u32, Vec<PathBuf>)> {
    let (pid, rest) = bytes.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    let paths = rest.split_inclusive(|&byte| byte == 0);
    let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(bytes[..bytes.len() - 1].to_vec()));
    Ok((u32::from_le_bytes(*pid), paths.map(path).collect()))
}

impl Front {
    /// Of sockets that were made here.
    ///
    /// # Errors
    /// If the one for upgrades cannot be made.
    pub fn of(sockets: Vec<Socket>) -> Outcome<Self> {
        let (mut posts, mut names) = (Vec::new(), Vec::new());
        for Socket { listener, name } in sockets {
            let path = name.path().map(absolute);
            let claim = name.claim();
            posts.push(Post { path, listener: Some(Arc::new(listener)), claim, ..Post::default() });
            names.push(name);
        }
        let control = match posts.first().and_then(|post| post.path.as_deref()).map(control_path) {
            Some(path) => {
                let (listener, name) = socket::bind(&path, None)?;
                names.push(name);
                Some((listener, path))
            }
            None => None,
        };
        Ok(Self { posts, names, control, taking: None, called: std::process::id() })
    }

    /// Of the sockets of the daemon that serves there.
    ///
    /// # Errors
    /// If there is none, or it does not hand them over.
    pub fn ask(paths: &[PathBuf]) -> Outcome<Self> {
        let paths: Vec<_> = paths.iter().map(|path| absolute(path)).collect();
        let take::Shown { taking, posts, control } = Taking::ask(&paths)?;
        // They are the other's until it says that they are not.
        Ok(Self {
            posts,
            names: Vec::new(),
            control: Some(control),
            taking: Some(taking),
            called: std::process::id(),
        })
    }

    /// The places, to be looked at or added to.
    pub fn posts(&mut self) -> &mut [Post] {
        &mut self.posts
    }

    /// The process that was called: the one that serves has the sockets, whose names go with it.
    ///
    /// # Errors
    /// If the one that serves fails.
    pub fn outside(self, warden: Warden) -> Outcome<()> {
        let Self { posts, names, control, taking, .. } = self;
        let takes = taking.is_some();
        let names = if takes { named(&posts, control.as_ref()) } else { names };
        drop((posts, control, taking));
        let (ended, names_are_ours) = warden.wait(takes);
        match names_are_ours {
            true => drop(names),
            false => names.into_iter().for_each(Name::leave),
        }
        ended
    }

    /// The process that serves. `returning`: guests that are gone can come again.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn inside(self, how: Sandbox, returning: bool) -> Outcome<Inner> {
        let Self { posts, names, control, taking, called } = self;
        let paths = named(&posts, control.as_ref());
        // Where there is a warden, they are its own.
        let names = match (how, &taking) {
            (Sandbox::None, None) => {
                paths.into_iter().for_each(Name::leave);
                Names { ours: names, theirs: Vec::new() }
            }
            (Sandbox::None, Some(_)) => Names { ours: Vec::new(), theirs: paths },
            _ => {
                names.into_iter().chain(paths).for_each(Name::leave);
                Names::default()
            }
        };
        Ok(Inner { desk: Desk::new(posts, returning)?, names, control, taking, called, how })
    }
}

/// Names of sockets that go when the process does.
#[derive(Default)]
struct Names {
    ours: Vec<Name>,
    /// Those of the other daemon, which are ours once it says so.
    theirs: Vec<Name>,
}

impl Drop for Names {
    fn drop(&mut self) {
        self.theirs.drain(..).for_each(Name::leave);
    }
}

fn named(posts: &[Post], control: Option<&(UnixListener, PathBuf)>) -> Vec<Name> {
    let paths = posts.iter().filter_map(|post| post.path.clone());
    paths.chain(control.map(|(_, path)| path.clone())).map(Name::of).collect()
}

/// The sockets in the process that serves.
pub struct Inner {
    /// Who is served where.
    pub desk: Arc<Desk>,
    names: Names,
    control: Option<(UnixListener, PathBuf)>,
    taking: Option<Taking>,
    called: u32,
    how: Sandbox,
}

impl Inner {
    /// The guests of the daemon that is to be replaced, place by place, if there is one. They wait from now on.
    ///
    /// # Errors
    /// If it does not hand them over.
    pub fn take(&mut self) -> Outcome<Vec<Option<fusewire_vhost::Given>>> {
        match &mut self.taking {
            Some(taking) => taking.take(),
            None => Ok(self.desk.posts().iter().map(|_| None).collect()),
        }
    }

    /// All that was [taken](Self::take) is ready to be served, and is this process's own from here on.
    ///
    /// # Errors
    /// If the other daemon goes on instead.
    pub fn commit(&mut self, keeps: bool) -> Outcome<()> {
        if let Some(taking) = &self.taking {
            taking.commit(&self.desk, keeps)?;
            let theirs = std::mem::take(&mut self.names.theirs);
            self.names.ours.extend(theirs);
        }
        Ok(())
    }

    /// All sockets are listened at: guests that are gone can come again.
    ///
    /// # Errors
    /// If the daemon that there is has closed one.
    pub fn check_listeners(&self) -> Outcome<()> {
        match self.desk.posts().iter().find(|post| post.listener.is_none()) {
            Some(Post { path, .. }) => Err(Failure::new(format!(
                "--upgrade: the daemon that is there does not listen at {} any more: it was started for one guest at each socket",
                path.as_deref().unwrap_or(Path::new("")).display()
            ))
            .or_try("to upgrade it without --config")),
            None => Ok(()),
        }
    }

    /// Was this daemon called to take the place of another?
    pub fn takes(&self) -> bool {
        self.taking.is_some()
    }

    /// Where the names are that are to go at a signal.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.names.ours.iter().filter_map(Name::path).map(Path::to_owned).collect()
    }

    /// Serving has begun, with so many guests that were taken: the next daemon can ask. What comes back is to be kept as long as there is
    /// something to serve.
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub fn serving(self, guests: usize) -> Outcome<Serving> {
        let Self { desk, names, control, taking, called, how } = self;
        taking.iter().for_each(|taking| taking.tell(guests));
        match control {
            Some((control, _)) => Giver { control, desk, called, how }.start()?,
            None => tracing::debug!(
                "the socket was made by somebody else: this daemon cannot be upgraded while it runs"
            ),
        }
        Ok(Serving { _names: names })
    }
}

/// Keeps the names of sockets.
pub struct Serving {
    _names: Names,
}

/// The failure of an upgrade that would not work.
///
/// # Errors
/// Always, with `--upgrade`, where a file says that a share has a DAX window.
pub fn check(args: &UpgradeArgs, has_windows: bool) -> Outcome<()> {
    match args.upgrade && has_windows {
        true => Err(Failure::usage(
            "--upgrade: what is mapped in a DAX window (dax-window) cannot be handed over",
        )
        .or_try("to stop those guests, end the daemon and start this one")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_first_comes_back() {
        let paths = [PathBuf::from("/run/a b"), PathBuf::from("/run/c")];
        assert_eq!(paths_of(&hello(77, &paths)).expect("paths"), (77, paths.to_vec()));
        assert!(paths_of(&[1, 2]).is_err());
    }
}
