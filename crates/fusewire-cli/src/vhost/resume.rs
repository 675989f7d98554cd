//! Guests that stay while the daemon is replaced, and guests that move to another machine.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use fusewire_fs::passthrough::{Finding, Kept, Ledger, Passthrough};
use fusewire_vhost::{Given, Handed, Keeper};
use rustix::fs::{FlockOperation, OFlags, flock};

use super::guests::Share;
use super::upgrade::Post;
use crate::failure::{Failure, Outcome};

/// How long the daemon before may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the other machine finds the files that a guest knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// By their paths: it has the same directory, or a copy
    #[default]
    FindPaths,
    /// By their paths, and they must be the same files: it has the same filesystem
    FileHandles,
}

/// What is done about files that it does not find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// The guest stays where it is
    #[default]
    Abort,
    /// The guest moves, and has an error when it uses them
    GuestError,
}

/// Options of guests that outlive the daemon.
#[derive(Args, Debug)]
#[command(next_help_heading = "Replacing the daemon, and moving guests")]
pub struct ResumeArgs {
    /// Keep what the guest knows in PATH.state, so that a daemon that is started in place of this one goes on with it
    ///
    /// The monitor must connect again by itself and go on with its rings. No device for virtio-fs of QEMU (11.1) and User Mode Linux (7.2) does:
    /// guests hang, or QEMU ends. To replace a daemon that runs, --upgrade takes nothing of the monitor.
    #[arg(long, requires = "socket_path", conflicts_with_all = ["dax_window", "shared_locks"])]
    pub resume: bool,
    /// How a machine that the guest moves to finds the files that the guest knows
    #[arg(long, value_name = "MODE", default_value = "find-paths")]
    pub migration_mode: Mode,
    /// What is done about files that it does not find
    #[arg(long, value_name = "WHAT", default_value = "abort")]
    pub migration_on_error: OnError,
}

/// What is needed to keep guests.
#[derive(Debug)]
pub struct Carry {
    /// The state files, and whether another daemon has them.
    files: Vec<(File, bool)>,
    finding: Finding,
    lossy: bool,
}

impl ResumeArgs {
    /// Opens the state files: what comes later may not be able to.
    ///
    /// # Errors
    /// If one cannot be had, or is in use.
    /// Those of the daemon that is replaced stand in `posts`, where the new ones are put.
    pub fn carry(&self, sockets: &[PathBuf], posts: &mut [Post]) -> Outcome<Carry> {
        let wanted: &[PathBuf] = if self.resume { sockets } else { &[] };
        let files = wanted.iter().zip(posts).map(|(socket, post)| {
            let copy = |file: &File| {
                file.try_clone()
                    .map_err(|error| Failure::because("--resume: cannot keep the guest's state", &error))
            };
            if let Some(file) = &post.state {
                return Ok((copy(file)?, true));
            }
            let mut path = socket.clone().into_os_string();
            path.push(".state");
            let path = PathBuf::from(path);
            let file = open(&path).map_err(|error| {
                Failure::new(format!(
                    "--resume: cannot keep the guest's state in {}: {error}",
                    path.display()
                ))
                .or_try("a directory for the socket that only this user can write to, such as one in /run")
            })?;
            post.state = Some(copy(&file)?);
            Ok((file, false))
        });
        let finding = match self.migration_mode {
            Mode::FindPaths => Finding::Paths,
            Mode::FileHandles => Finding::Handles,
        };
        let lossy = self.migration_on_error == OnError::GuestError;
        Ok(Carry { files: files.collect::<Outcome<_>>()?, finding, lossy })
    }
}

/// A state file, which nobody else can write to and no other daemon has.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        return Err(io::Error::other("others could write to it: what stands there is believed"));
    }
    let begin = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if begin.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(io::Error::other("another daemon is using it")),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Carry {
    /// Nothing is kept, as with a file of guests.
    pub fn nothing() -> Self {
        Self { files: Vec::new(), finding: Finding::default(), lossy: false }
    }

    /// What keeps guest `index`.
    ///
    /// # Errors
    /// If its state file cannot be used.
    pub fn keeping(&self, share: &Arc<Share>, index: usize) -> Outcome<Keeping> {
        let ledger = self.files.get(index);
        let is_known = ledger.is_some_and(|(_, known)| *known);
        let ledger = ledger.map(|(file, _)| file.try_clone().and_then(Ledger::new)).transpose();
        let ledger = ledger.map_err(|error| {
            Failure::new(format!("--resume: the filesystem of the state file cannot hold it: {error}"))
                .or_try("a socket in a directory on tmpfs, ext4, XFS or Btrfs")
        })?;
        Ok(Keeping {
            share: share.clone(),
            ledger: ledger.map(Arc::new),
            is_known,
            finding: self.finding,
            lossy: self.lossy,
        })
    }
}

/// Keeps the guest of one device.
pub struct Keeping {
    share: Arc<Share>,
    ledger: Option<Arc<Ledger>>,
    /// What is taken over stands there already.
    is_known: bool,
    finding: Finding,
    lossy: bool,
}

impl Keeping {
    /// Makes the guest's filesystem.
    pub fn make(&self) -> impl Fn() -> io::Result<Passthrough> + Send + Sync + 'static {
        let (share, ledger) = (self.share.clone(), self.ledger.clone());
        move || with(share.open()?, ledger.as_ref())
    }
}

fn with(fs: Passthrough, ledger: Option<&Arc<Ledger>>) -> io::Result<Passthrough> {
    match ledger {
        Some(ledger) => fs.with_ledger(ledger.clone()),
        None => Ok(fs),
    }
}

impl Keeper<Passthrough> for Keeping {
    fn began(&self, fs: &Passthrough, beginning: &[u8]) -> io::Result<()> {
        fs.ledger_begins(beginning)
    }

    fn ended(&self) {
        if let Some(Err(error)) = self.ledger.as_ref().map(|ledger| ledger.end()) {
            tracing::warn!(%error, "the state file cannot be emptied");
        }
    }

    fn again(&self) -> io::Result<Option<(Vec<u8>, Passthrough)>> {
        let Some(ledger) = &self.ledger else { return Ok(None) };
        let Some((beginning, kept)) = ledger.read()? else { return Ok(None) };
        let mut fs = self.share.open()?;
        let resumed = fs.resume(kept);
        tracing::info!(?resumed, "what the guest knows was found again");
        Ok(Some((beginning, fs.with_ledger(ledger.clone())?)))
    }

    fn save(&self, fs: &Passthrough, beginning: &[u8]) -> io::Result<Vec<u8>> {
        Ok(fs.save(self.finding, self.lossy)?.encode(beginning))
    }

    fn hand_over(&self, fs: &Passthrough, beginning: &[u8]) -> io::Result<Handed> {
        let (bytes, files) = fs.hand_over(beginning)?;
        Ok(Handed { bytes, files })
    }

    fn take_over(&self, given: Given) -> io::Result<(Vec<u8>, Passthrough)> {
        let mut fs = self.share.open()?;
        let (beginning, resumed) = fs.take_over(&given.bytes, given.files, self.lossy)?;
        tracing::info!(?resumed, "what the guest knows was taken over");
        let fs = match &self.ledger {
            None => fs,
            Some(ledger) if self.is_known => fs.with_ledger(ledger.clone())?,
            Some(ledger) => fs.begin_ledger(ledger.clone(), &beginning)?,
        };
        Ok((beginning, fs))
    }

    fn load(&self, state: &[u8]) -> io::Result<(Vec<u8>, Passthrough)> {
        let (beginning, kept) = Kept::decode(state)?;
        let mut fs = self.share.open()?;
        let resumed = fs.load(kept, self.lossy)?;
        tracing::info!(?resumed, "a guest has moved here");
        // A state that cannot be followed leaves the guest that there was before as it is.
        let fs = match &self.ledger {
            Some(ledger) => fs.begin_ledger(ledger.clone(), &beginning)?,
            None => fs,
        };
        Ok((beginning, fs))
    }
}
