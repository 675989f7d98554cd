//! The socket where the virtual machine connects.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Gid, chown};
use signal_hook::iterator::Signals;

use super::args::VhostArgs;
use super::pidfile::{self, PidFile};
use super::sys;
use crate::failure::{Failure, Outcome};
use crate::inherited;

/// A listening socket. Its name stays until somebody takes it away: see [`Name`].
pub struct Socket {
    /// Where monitors connect.
    pub listener: UnixListener,
    /// Its name, if it was made here.
    pub name: Name,
}

/// The name of a socket, which goes with this, and the file beside it that says whose it is.
pub struct Name {
    path: Option<PathBuf>,
    claim: Option<PidFile>,
}

impl Name {
    /// Leaves it to another process.
    pub fn leave(mut self) {
        self.path = None;
    }

    /// That of a socket that was made before.
    pub fn of(path: PathBuf) -> Self {
        Self { path: Some(path), claim: None }
    }

    /// The file that says whose it is, for another process.
    pub fn claim(&self) -> Option<Arc<fs::File>> {
        self.claim.as_ref().map(PidFile::file)
    }

    /// Where it is.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            _ = fs::remove_file(path);
            _ = fs::remove_file(pidfile::path(path));
        }
    }
}

/// Listens where the command line says, at one place for each guest.
///
/// # Errors
/// If that is not possible; the reason names the place.
pub fn listen(args: &VhostArgs) -> Outcome<Vec<Socket>> {
    if let Some(number) = args.fd {
        let fd = sys::inherited(number).map_err(|error| {
            Failure::usage(format!("--fd {number}: {error}"))
                .or_try("the number of a listening socket that fusewire inherits")
        })?;
        return Ok(vec![Socket { listener: fd.into(), name: Name { path: None, claim: None } }]);
    }
    if args.socket_path.is_empty() {
        return Err(
            Failure::usage("there is no place to listen at").or_try("--socket-path PATH, or --fd NUMBER")
        );
    }
    args.socket_path.iter().map(|path| listen_at(path, args.socket_group.as_deref())).collect()
}

/// Listens at one place, for members of `group`.
///
/// # Errors
/// If that is not possible; the reason names the place.
pub fn listen_at(path: &Path, group: Option<&str>) -> Outcome<Socket> {
    refuse_others(path)?;
    let claimed = pidfile::claim(path)?;
    let (listener, mut name) = bind(path, group)?;
    name.claim = Some(claimed);
    Ok(Socket { listener, name })
}

fn is(path: &Path, socket: bool) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket() == socket)
}

fn failed_at(path: &Path, error: &io::Error) -> Failure {
    Failure::because(format_args!("cannot listen at {}", path.display()), error)
}

/// A socket that was left behind is replaced. Anything else stays.
fn refuse_others(path: &Path) -> Outcome<()> {
    match is(path, false) {
        true => Err(failed_at(path, &rustix::io::Errno::EXIST.into()).or_try("another --socket-path")),
        false => Ok(()),
    }
}

/// Listens at one place, which is this process's alone.
///
/// # Errors
/// If that is not possible; the reason names the place.
pub fn bind(path: &Path, group: Option<&str>) -> Outcome<(UnixListener, Name)> {
    refuse_others(path)?;
    let failed = |error: io::Error| failed_at(path, &error);
    // Whoever waits for the name connects at once: it must have its group by then, and be listened at.
    let early = path.with_file_name(format!(".fw{}", std::process::id()));
    if is(&early, true) {
        fs::remove_file(&early).map_err(failed)?;
    }
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(&early);
    rustix::process::umask(mask);
    let mut name = Name { path: Some(early.clone()), claim: None };
    let listener = listener.map_err(failed)?;
    if let Some(group) = group {
        give(&early, group)?;
    }
    fs::rename(&early, path).map_err(failed)?;
    name.path = Some(path.to_owned());
    Ok((listener, name))
}

/// Gives the socket to a group.
fn give(path: &Path, group: &str) -> Outcome<()> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let number = group.parse().ok().or_else(|| {
        let line = groups.lines().find(|line| line.split(':').next() == Some(group))?;
        line.split(':').nth(2)?.parse().ok()
    });
    let Some(number) = number else {
        return Err(Failure::usage(format!("--socket-group {group}: there is no such group in /etc/group"))
            .or_try("a group that getent group shows, or its number"));
    };
    let failed = |error: io::Error| {
        Failure::because(format_args!("cannot give the socket to the group {group}"), &error)
    };
    chown(path, None, Some(Gid::from_raw(number))).map_err(|error| failed(error.into()))?;
    fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed)
}

/// Ends the process at signals that ask for it; the sockets' names go first. The guests see their device break.
///
/// # Errors
/// If signals cannot be caught.
pub fn end_on_signals(paths: Vec<PathBuf>) -> Outcome<()> {
    let failed = |error| Failure::because("cannot catch signals", &error);
    let mut signals = Signals::new(inherited::endings()).map_err(failed)?;
    let obey = move || {
        if signals.forever().next().is_some() {
            for path in paths {
                _ = fs::remove_file(&path);
                _ = fs::remove_file(pidfile::path(&path));
            }
            std::process::exit(0);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(obey).map(drop).map_err(failed)
}
