//! Aborting a connection through the control filesystem `fusectl`.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::error::{MountError, SEE_LOG};
use crate::remedy;

const FOLDER: &str = "/sys/fs/fuse/connections";

/// `FUSE_CTL_SUPER_MAGIC`.
const MAGIC: rustix::fs::FsWord = 0x6573_5543;

/// What aborts one connection. The kernel ties the open file to the connection, not to its number: when the connection
/// is gone and its number given to another one, pressing this has no effect.
#[derive(Debug)]
pub(super) struct AbortSwitch(OwnedFd);

impl AbortSwitch {
    /// Opens the switch of the connection that has this number now.
    pub fn open(connection: u64) -> rustix::io::Result<Self> {
        let folder = open_folder()?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&folder, format!("{connection}/abort"), flags, Mode::empty()).map(Self)
    }

    /// Makes all requests of the connection fail, waiting ones and future ones.
    pub fn press(&self) -> rustix::io::Result<()> {
        rustix::io::write(&self.0, b"1").map(drop)
    }
}

/// How many requests of one connection are not answered. It is tied to the connection, as the switch is.
#[derive(Debug)]
pub(crate) struct Unanswered(OwnedFd);

impl Unanswered {
    /// Of the connection that has this number now.
    pub fn open(connection: u64) -> rustix::io::Result<Self> {
        let folder = open_folder()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&folder, connection.to_string(), flags, Mode::empty()).map(Self)
    }

    /// As many as the kernel counts now.
    pub fn count(&self) -> Option<usize> {
        // An open file tells the same number for ever.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, c"waiting", flags, Mode::empty()).ok()?;
        let mut text = [0; 32];
        let length = rustix::io::read(&file, &mut text).ok()?;
        std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
    }
}

/// Aborts the connection that has this number now. One that is gone is no error.
pub(super) fn abort(connection: u64) -> Result<(), MountError> {
    match AbortSwitch::open(connection).and_then(|switch| switch.press()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failure(connection, error)),
    }
}

pub(super) fn failure(connection: u64, error: Errno) -> MountError {
    let hint = match error {
        Errno::PERM | Errno::NOSYS => {
            "the control filesystem is not mounted; as root: mount -t fusectl none /sys/fs/fuse/connections"
        }
        Errno::ACCESS => "only root and the user who mounted it may do this",
        Errno::NOTCONN => "it has ended already: unmount what is left of it",
        errno => remedy::of_errno(errno).unwrap_or(SEE_LOG),
    };
    MountError::Abort { connection, source: error.into(), hint }
}

/// The control filesystem: where it is usually mounted, or else, for root, mounted nowhere at all. There is one
/// instance of it per machine, so both show the same connections.
fn open_folder() -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let usual = rustix::fs::openat(CWD, FOLDER, flags, Mode::empty());
    if let Ok(folder) = usual
        && rustix::fs::fstatfs(&folder).is_ok_and(|stat| stat.f_type == MAGIC)
    {
        return Ok(folder);
    }
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}
