//! Finding the mount point without touching what may be mounted there: that may be dead, or hang.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::error::{MOUNT, MountError};
use super::table::{self, Identity};

/// As many symbolic links in a row as the kernel follows.
const MAX_LINKS: usize = 40;

/// A mount point before something is mounted on it.
pub(super) struct Place {
    /// Absolute, without symbolic links.
    pub path: PathBuf,
    /// Opened with `O_PATH`: what gets covered is what was checked.
    pub fd: OwnedFd,
    /// Type of the root to be, as in `st_mode`.
    pub root_mode: u32,
}

impl Place {
    /// Checks that `path` can be mounted on.
    pub fn open(path: &Path) -> Result<Self, MountError> {
        let resolved = resolve(path).map_err(|error| explain(MOUNT, path, error))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&resolved, flags, Mode::empty())
            .map_err(|error| explain(MOUNT, path, error.into()))?;
        let identity = Identity::of(fd.as_fd()).map_err(|error| explain(MOUNT, path, error.into()))?;
        let below = identity.entry().map_err(|source| MountError::Table { source })?;
        let on_fuse = below.is_some_and(|entry| entry.is_fuse());
        let kind = file_type(&fd, on_fuse).map_err(|error| explain(MOUNT, path, error.into()))?;
        let root_mode = match kind {
            FileType::Directory => libc::S_IFDIR,
            FileType::RegularFile => libc::S_IFREG,
            other => return Err(MountError::Kind { path: resolved, kind: name(other) }),
        };
        Ok(Self { path: resolved, fd, root_mode })
    }
}

/// Type of the file. A FUSE server is asked even if the kernel remembers the answer: only so a dead one shows.
fn file_type(fd: &OwnedFd, on_fuse: bool) -> rustix::io::Result<FileType> {
    let sync = if on_fuse { AtFlags::STATX_FORCE_SYNC } else { AtFlags::empty() };
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH | sync, StatxFlags::TYPE)?;
    Ok(FileType::from_raw_mode(stat.stx_mode.into()))
}

/// What kind of file it is, in words.
pub(super) fn name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::RegularFile => "a regular file",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "of an unknown kind",
    }
}

/// Says which mount is dead if that is the reason.
pub(super) fn explain(action: &'static str, path: &Path, error: io::Error) -> MountError {
    // The latter two for a moment, while the ring of a server that was killed is being taken down.
    if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED)) {
        let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let resolved = resolve(path).unwrap_or(full);
        let dead = table::deepest_fuse_above(&resolved).unwrap_or(resolved);
        return MountError::Dead { path: path.to_owned(), dead };
    }
    MountError::mount_point(action, path, error)
}

/// The absolute path without symbolic links. Only the directories above the last component are visited, never the
/// root of a filesystem mounted at the path itself; reading a link there does not contact a FUSE server.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Errno::NOENT.into());
    }
    let mut path = std::env::current_dir()
        .map(|current| current.join(path))
        .or_else(|error| if path.is_absolute() { Ok(path.to_owned()) } else { Err(error) })?;
    for _ in 0..MAX_LINKS {
        let (parent, name) = match split(&path)? {
            (parent, Some(name)) => (parent, name.to_owned()),
            (whole, None) => return Ok(whole),
        };
        let full = parent.join(&name);
        match rustix::fs::readlink(&full, Vec::new()) {
            Ok(target) => path = parent.join(OsStr::from_bytes(target.as_bytes())),
            Err(Errno::INVAL) => return Ok(full),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::LOOP.into())
}

/// The resolved parent and the last component; no component if the path ends in `..` or is the root.
fn split(path: &Path) -> io::Result<(PathBuf, Option<&OsStr>)> {
    let mut components = path.components();
    match components.next_back() {
        Some(Component::Normal(name)) => Ok((std::fs::canonicalize(components.as_path())?, Some(name))),
        Some(Component::ParentDir) => {
            let mut parent = resolve(components.as_path())?;
            parent.pop();
            Ok((parent, None))
        }
        _ => Ok((PathBuf::from("/"), None)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("fusewire-place-{}-{name}", std::process::id()));
        std::fs::create_dir_all(folder.join("real/sub")).expect("folder");
        std::fs::canonicalize(folder).expect("exists")
    }

    #[test]
    fn links_dots_and_slashes_are_resolved() {
        let folder = scratch("resolve");
        symlink("real", folder.join("link")).expect("link");
        symlink(folder.join("link/sub"), folder.join("far")).expect("link");
        symlink("round", folder.join("round")).expect("link");
        let cases = [
            ("real", "real"),
            ("link/", "real"),
            ("link/sub/.", "real/sub"),
            ("far", "real/sub"),
            ("far/..", "real"),
            ("link/sub/../sub", "real/sub"),
        ];
        for (given, wanted) in cases {
            assert_eq!(resolve(&folder.join(given)).expect(given), folder.join(wanted), "{given}");
        }
        let failure = |path: &Path| resolve(path).expect_err("must fail").raw_os_error();
        assert_eq!(failure(&folder.join("round")), Some(libc::ELOOP));
        assert_eq!(failure(&folder.join("missing")), Some(libc::ENOENT));
        assert_eq!(failure(Path::new("")), Some(libc::ENOENT));
        assert_eq!(resolve(Path::new("/")).expect("root"), Path::new("/"));
        assert_eq!(resolve(Path::new(".")).expect("cwd"), std::env::current_dir().expect("cwd"));
        std::fs::remove_dir_all(folder).expect("clean up");
    }

    #[test]
    fn only_directories_and_files_are_taken() {
        let folder = scratch("kinds");
        std::fs::write(folder.join("file"), "").expect("file");
        let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket")).expect("socket");
        let mode = |name: &str| Place::open(&folder.join(name)).map(|place| place.root_mode);
        assert_eq!(mode("real").ok(), Some(libc::S_IFDIR));
        assert_eq!(mode("file").ok(), Some(libc::S_IFREG));
        let text = |name: &str| mode(name).expect_err("must be refused").to_string();
        assert!(text("socket").contains("a socket"), "{}", text("socket"));
        assert!(text("missing").contains("mkdir -p"), "{}", text("missing"));
        assert!(text("file/x").contains("should be a directory"), "{}", text("file/x"));
        std::fs::remove_dir_all(folder).expect("clean up");
    }

    #[test]
    fn a_mount_without_server_is_named_whichever_way_it_shows() {
        for number in [libc::ENOTCONN, libc::ECONNABORTED, libc::ECANCELED] {
            let error = explain(MOUNT, Path::new("/"), io::Error::from_raw_os_error(number));
            assert!(matches!(error, MountError::Dead { .. }), "{error}");
        }
    }
}
