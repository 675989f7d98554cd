//! The socket through which a mount's process is asked: one for each mount, named by the number of its connection, which
//! whoever asks finds in the table of mounts. Whoever connects is sent one JSON document.

use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use fusewire::mount::MountEntry;
use rustix::fs::{Mode, OFlags};

/// How long one side waits for the other.
const PATIENCE: Duration = Duration::from_secs(3);
/// No report is longer.
const LONGEST: u64 = 4 << 20;

/// Listens for as long as the mount lasts; dropped, its name is gone.
#[derive(Debug)]
pub struct Socket {
    place: Place,
    name: String,
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

/// A directory for sockets, held open from before there is a mount: the mount may cover it, and a process that serves one
/// must never wait for its own answers.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    fd: OwnedFd,
}

impl Place {
    /// The first directory that can be used.
    ///
    /// # Errors
    /// If there is none, why not the first.
    pub fn find() -> io::Result<Self> {
        let mut first = None;
        for dir in directories(rustix::process::geteuid().as_raw()) {
            match Self::open(&dir) {
                Ok(place) => return Ok(place),
                Err(error) => _ = first.get_or_insert((dir, error)),
            }
        }
        let (dir, error) = first.ok_or(io::ErrorKind::NotFound)?;
        Err(io::Error::new(error.kind(), format!("{}: {error}", dir.display())))
    }

    /// Only this user gets into the directory, before there is a socket in it.
    fn open(dir: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it is not this user's own directory that nobody else can write to",
            ));
        }
        Ok(Self { dir: dir.to_owned(), fd })
    }

    /// A name in it, whatever is mounted meanwhile.
    fn inside(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd()).into()
    }

    fn listen(&self, connection: u64) -> io::Result<UnixListener> {
        let path = self.inside(&name(connection));
        // The number is this mount's now: a socket of this name is left over.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }
}

impl Socket {
    /// Answers whoever connects with what `report` returns, on a thread of its own.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn serve(
        place: Place,
        connection: u64,
        report: impl Fn() -> String + Send + 'static,
    ) -> io::Result<Self> {
        let listener = place.listen(connection)?;
        let path = place.inside(&name(connection));
        let identity = fs::symlink_metadata(&path).ok().map(|meta| (meta.dev(), meta.ino()));
        let socket = Self { place, name: name(connection), identity };
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

    /// Where others find it.
    pub fn path(&self) -> PathBuf {
        self.place.dir.join(&self.name)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let path = self.place.inside(&self.name);
        let now = fs::symlink_metadata(&path).ok().map(|meta| (meta.dev(), meta.ino()));
        if now.is_some() && now == self.identity {
            let _ = fs::remove_file(&path);
        }
    }
}

fn answer(mut stream: UnixStream, report: &impl Fn() -> String) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(report().as_bytes())
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

    fn serve(dir: &Path, connection: u64, text: &'static str) -> Socket {
        let place = Place::open(dir).expect("a directory");
        Socket::serve(place, connection, || text.into()).expect("a socket")
    }

    #[test]
    fn each_connection_has_its_socket_and_a_stale_one_is_replaced() {
        let base = tempfile::tempdir().expect("temporary directory");
        let dir = base.path().join("fusewire");
        let path = dir.join("77.sock");
        // Dropped, the listener leaves its name behind.
        Place::open(&dir).and_then(|place| place.listen(77)).map(drop).expect("listens");
        assert!(matches!(read(&path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused));
        let socket = serve(&dir, 77, "hello");
        assert_eq!(socket.path(), path);
        assert_eq!(read(&path).expect("answered"), "hello");
        assert_eq!(read(&path).expect("answered again"), "hello");
        let mode = |path: &Path| path.metadata().expect("metadata").mode() & 0o777;
        assert_eq!((mode(&dir), mode(&path)), (0o700, 0o600));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn the_socket_of_the_next_mount_of_the_same_number_stays() {
        let base = tempfile::tempdir().expect("temporary directory");
        let dir = base.path().join("fusewire");
        let (first, second) = (serve(&dir, 78, "first"), serve(&dir, 78, "second"));
        drop(first);
        assert_eq!(read(&second.path()).expect("answered"), "second");
    }

    #[test]
    fn a_directory_that_others_can_write_to_or_a_link_is_not_used() {
        let base = tempfile::tempdir().expect("temporary directory");
        let link = base.path().join("link");
        std::os::unix::fs::symlink(base.path(), &link).expect("link");
        assert!(Place::open(&link).is_err());
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
        let error = Place::open(base.path()).expect_err("must be refused");
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
