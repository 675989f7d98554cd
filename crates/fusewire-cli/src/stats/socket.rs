//! The socket through which a mount's process is asked: one for each mount, named by the number of its connection, which
//! whoever asks finds in the table of mounts. Whoever connects is sent one JSON document.

use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use fusewire::mount::MountEntry;

/// How long one side waits for the other.
const PATIENCE: Duration = Duration::from_secs(3);
/// No report is longer.
const LONGEST: u64 = 4 << 20;

/// Listens for as long as the mount lasts; dropped, its name is gone.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    /// Device and inode of the name: another mount may get the number while this one ends.
    identity: Option<(u64, u64)>,
}

/// Why nothing was heard.
#[derive(Debug)]
pub enum Refusal {
    /// At none of these places is a socket.
    NoSocket(Vec<PathBuf>),
    /// There is a name, and nobody listens.
    Dead(PathBuf),
    /// Something else.
    Failed(PathBuf, io::Error),
}

/// Directories for the sockets of this user's mounts, the best first.
fn directories(uid: u32) -> Vec<PathBuf> {
    if uid == 0 {
        return vec!["/run/fusewire".into()];
    }
    let is_own = rustix::process::geteuid().as_raw() == uid;
    let told = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let told = told.filter(|path| is_own && path.is_absolute()).map(|path| path.join("fusewire"));
    let usual = [format!("/run/user/{uid}/fusewire"), format!("/tmp/fusewire-{uid}")].map(PathBuf::from);
    let mut all: Vec<PathBuf> = told.into_iter().chain(usual).collect();
    all.dedup();
    all
}

fn name(connection: u64) -> String {
    format!("{connection}.sock")
}

impl Socket {
    /// Answers whoever connects with what `report` returns, on a thread of its own.
    ///
    /// # Errors
    /// If none of the directories can be used, of the first of them.
    pub fn serve(connection: u64, report: impl Fn() -> String + Send + 'static) -> io::Result<Self> {
        let mut first = None;
        for dir in directories(rustix::process::geteuid().as_raw()) {
            match listen(&dir, connection) {
                Ok((path, listener)) => return Self::start(path, listener, report),
                Err(error) => _ = first.get_or_insert((dir, error)),
            }
        }
        let (dir, error) = first.ok_or(io::ErrorKind::NotFound)?;
        Err(io::Error::new(error.kind(), format!("{}: {error}", dir.display())))
    }

    fn start(
        path: PathBuf,
        listener: UnixListener,
        report: impl Fn() -> String + Send + 'static,
    ) -> io::Result<Self> {
        let identity = fs::symlink_metadata(&path).ok().map(|meta| (meta.dev(), meta.ino()));
        let socket = Self { path, identity };
        thread::Builder::new().name("stats".into()).spawn(move || {
            for stream in listener.incoming() {
                match stream {
                    // Whoever does not listen does not get it.
                    Ok(stream) => _ = answer(stream, &report),
                    // No descriptor is left, most likely.
                    Err(_) => thread::sleep(Duration::from_millis(200)),
                }
            }
        })?;
        Ok(socket)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path).ok().map(|meta| (meta.dev(), meta.ino()));
        if now.is_some() && now == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn answer(mut stream: UnixStream, report: &impl Fn() -> String) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(report().as_bytes())
}

/// Only this user gets into the directory, before there is a socket in it.
fn listen(dir: &Path, connection: u64) -> io::Result<(PathBuf, UnixListener)> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(dir)?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it is not this user's own directory that nobody else can write to",
        ));
    }
    let path = dir.join(name(connection));
    // The number is this mount's now: a socket of this name is left over.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok((path, listener))
}

/// Asks the process that serves a mount.
///
/// # Errors
/// Why there was no answer.
pub fn ask(entry: &MountEntry) -> Result<String, Refusal> {
    let connection = entry.connection().unwrap_or_default();
    // The kernel shows who mounted it, which is who serves it.
    let owner =
        entry.super_options.split(',').find_map(|option| option.strip_prefix("user_id=")?.parse().ok());
    let paths: Vec<PathBuf> =
        directories(owner.unwrap_or(0)).into_iter().map(|dir| dir.join(name(connection))).collect();
    for path in &paths {
        match read(path) {
            Ok(text) => return Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(Refusal::Dead(path.clone()));
            }
            Err(error) => return Err(Refusal::Failed(path.clone(), error)),
        }
    }
    Err(Refusal::NoSocket(paths))
}

fn read(path: &Path) -> io::Result<String> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// Was there no answer in time?
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_has_its_socket_and_a_stale_one_is_replaced() {
        let place = tempfile::tempdir().expect("temporary directory");
        let dir = place.path().join("fusewire");
        // Dropped, the listener leaves its name behind.
        let (path, _) = listen(&dir, 77).expect("listens");
        assert!(matches!(read(&path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused));
        let (path, listener) = listen(&dir, 77).expect("listens again");
        let socket = Socket::start(path.clone(), listener, || "hello".into()).expect("starts");
        assert_eq!(read(&path).expect("answered"), "hello");
        assert_eq!(read(&path).expect("answered again"), "hello");
        let mode = |path: &Path| path.metadata().expect("metadata").mode() & 0o777;
        assert_eq!((mode(&dir), mode(&path)), (0o700, 0o600));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn the_socket_of_the_next_mount_of_the_same_number_stays() {
        let place = tempfile::tempdir().expect("temporary directory");
        let (path, listener) = listen(place.path(), 78).expect("listens");
        let first = Socket::start(path.clone(), listener, || "first".into()).expect("starts");
        let (_, listener) = listen(place.path(), 78).expect("listens");
        let second = Socket::start(path.clone(), listener, || "second".into()).expect("starts");
        drop(first);
        assert_eq!(read(&path).expect("answered"), "second");
        drop(second);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_not_used() {
        let place = tempfile::tempdir().expect("temporary directory");
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
        let error = listen(place.path(), 1).expect_err("must be refused");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn who_mounted_decides_where_to_look() {
        assert_eq!(directories(0), [Path::new("/run/fusewire")]);
        let other = directories(54_321);
        assert_eq!(
            other,
            [Path::new("/run/user/54321/fusewire"), Path::new("/tmp/fusewire-54321")],
            "the environment is of somebody else"
        );
    }
}
