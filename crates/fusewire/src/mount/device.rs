//! `/dev/fuse`, if that is what it is: what lies there in a container may be anything.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::error::MountError;
use super::place;

const PATH: &str = "/dev/fuse";

/// `MISC_MAJOR` and `FUSE_MINOR` of the kernel.
pub(super) const NUMBER: (u32, u32) = (10, 229);

/// Opens it, to mount with.
///
/// # Errors
/// [`MountError::NotDevice`] if it is something else, [`MountError::Device`] if it cannot be opened.
pub fn open_device() -> Result<OwnedFd, MountError> {
    open(Path::new(PATH))
}

/// Refuses what is not the device. What is not there, or may not be seen, is left to whoever opens it.
pub(super) fn check() -> Result<(), MountError> {
    rustix::fs::stat(PATH).map_or(Ok(()), |stat| check_kind(&stat))
}

fn open(path: &Path) -> Result<OwnedFd, MountError> {
    // Not opened to see what it is: a tape would be rewound by that.
    check_kind(&rustix::fs::stat(path).map_err(MountError::device)?)?;
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(MountError::device)
}

fn check_kind(stat: &Stat) -> Result<(), MountError> {
    let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice if number == NUMBER => Ok(()),
        FileType::CharacterDevice | FileType::BlockDevice => {
            Err(MountError::NotDevice { kind: "another device" })
        }
        kind => Err(MountError::NotDevice { kind: place::name(kind) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_something_else_is_not_opened() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("file");
        let text = |path: &Path| open(path).expect_err("must be refused").to_string();
        assert!(text(&file).contains("a regular file"), "{}", text(&file));
        assert!(text(folder.path()).contains("a directory"), "{}", text(folder.path()));
        assert!(text(Path::new("/dev/null")).contains("another device"));
        assert!(text(&folder.path().join("none")).contains("modprobe fuse"));
    }
}
