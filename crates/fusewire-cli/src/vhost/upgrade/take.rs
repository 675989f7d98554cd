//! The daemon that is to have the guests of another one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use fusewire_fs::passthrough::Ledger;
use fusewire_vhost::Given;

use super::desk::{Desk, Post};
use super::wire::{Kind, Wire};
use super::{HAS_CLAIM, HAS_LISTENER, HAS_STATE, control_path, hello};
use crate::failure::{Failure, Outcome};

/// The conversation with the daemon that there is.
#[derive(Debug)]
pub struct Taking {
    wire: Wire,
    /// This process, as others know it, and that one.
    called: u32,
    before: u32,
    places: usize,
    /// When the guests were stopped.
    begun: Option<Instant>,
}

/// What the other daemon has shown.
pub struct Shown {
    pub taking: Taking,
    pub posts: Vec<Post>,
    pub control: (UnixListener, PathBuf),
}

fn failed(error: io::Error) -> Failure {
    Failure::new(format!(
        "--upgrade: the daemon that is there does not hand its virtual machines over: {error}"
    ))
    .or_try("the same command once more: the virtual machines are served as before")
}

impl Taking {
    /// Asks the daemon that serves at these sockets.
    ///
    /// # Errors
    /// If there is none, or it serves at others, too.
    pub fn ask(paths: &[PathBuf]) -> Outcome<Shown> {
        let connected = paths.iter().find_map(|path| {
            let path = control_path(path);
            UnixStream::connect(&path).ok().map(|stream| (stream, path))
        });
        let Some((stream, control)) = connected else { return Err(nobody(paths)) };
        let called = std::process::id();
        let wire = Wire::new(stream).map_err(failed)?;
        wire.send(Kind::Hello, &hello(called, paths), &[]).map_err(failed)?;
        let shown = wire.expect(Kind::Places).map_err(failed)?;
        let wrong = || failed(io::ErrorKind::InvalidData.into());
        let (before, flags) = shown.bytes.split_first_chunk().ok_or_else(wrong)?;
        if flags.len() != paths.len() {
            return Err(wrong());
        }
        let mut files = shown.files.into_iter();
        let listener = UnixListener::from(files.next().ok_or_else(wrong)?);
        let mut posts = Vec::new();
        for (path, flags) in paths.iter().zip(flags) {
            let mut file = |bit: u8| match flags & bit {
                0 => Ok(None),
                _ => files.next().ok_or_else(wrong).map(Some),
            };
            posts.push(Post {
                path: Some(path.clone()),
                listener: file(HAS_LISTENER)?.map(UnixListener::from).map(Arc::new),
                claim: file(HAS_CLAIM)?.map(File::from).map(Arc::new),
                state: file(HAS_STATE)?.map(File::from),
                guest: None,
            });
        }
        let taking =
            Self { wire, called, before: u32::from_le_bytes(*before), places: paths.len(), begun: None };
        Ok(Shown { taking, posts, control: (listener, control) })
    }

    /// Has that daemon stop, and tell of its guests, one place after the other.
    ///
    /// # Errors
    /// If it does not; then it goes on.
    pub fn take(&mut self) -> Outcome<Vec<Option<Given>>> {
        self.wire.send(Kind::Take, &[], &[]).map_err(failed)?;
        self.begun = Some(Instant::now());
        let guests = (0..self.places).map(|_| {
            let letter = self.wire.expect(Kind::Guest)?;
            let given = Given { bytes: letter.bytes, files: letter.files };
            Ok(Some(given).filter(|given| !given.bytes.is_empty()))
        });
        guests.collect::<io::Result<_>>().map_err(failed)
    }

    /// Everything is ready: the guests are this process's from here on. Those of `kept` say that what is kept of guests is kept here, too.
    ///
    /// # Errors
    /// If that daemon goes on, or is gone.
    pub fn commit(&self, desk: &Desk, keeps: bool) -> Outcome<()> {
        self.wire.send(Kind::Ready, &[], &[]).map_err(failed)?;
        self.wire.expect(Kind::Go).map_err(failed)?;
        for post in &mut *desk.posts() {
            if let Some(claim) = &post.claim {
                let said = claim
                    .set_len(0)
                    .and_then(|()| claim.write_all_at(format!("{}\n", self.called).as_bytes(), 0));
                if let Err(error) = said {
                    let path = post.path.as_deref().unwrap_or(Path::new("")).display();
                    tracing::error!(%error, "{path}.pid does not say that process {} serves there", self.called);
                }
            }
            // Nobody keeps it up to date.
            if let Some(state) = post.state.take_if(|_| !keeps) {
                _ = Ledger::new(state).and_then(|ledger| ledger.end());
            }
        }
        Ok(())
    }

    /// Says in the log what was done.
    pub fn tell(&self, guests: usize) {
        let paused = self.begun.map_or(0, |begun| begun.elapsed().as_millis());
        let (before, called) = (self.before, self.called);
        tracing::info!(
            "process {called} has taken over {guests} virtual machines from process {before}; they were not served for {paused} ms"
        );
    }
}

fn nobody(paths: &[PathBuf]) -> Failure {
    let path = paths.first().map_or_else(PathBuf::new, |path| control_path(path));
    let why = UnixStream::connect(&path).err().map_or_else(String::new, |error| format!(": {error}"));
    Failure::new(format!("--upgrade: no daemon can be asked at {}{why}", path.display()))
        .or_try("without --upgrade, if none is running")
        .or_try("to end the one that is running, if it is of a release without --upgrade, and start this one")
}
