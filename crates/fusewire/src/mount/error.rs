//! Why a mount, an unmount or an abort failed: what, where, the likely cause, and what to try.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::remedy::{self, quoted};

/// Failure to mount, unmount or abort. The text says what failed, on which path, why, and what to try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// An option that is wrong or cannot be supported.
    #[error("mount option `{option}` is refused: {reason}")]
    Option {
        /// The option as it was written.
        option: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The mount point could not be reached or inspected.
    #[error("cannot {action} {}: {source}{}", path.display(), then(hint))]
    MountPoint {
        /// `mount on` or `unmount`.
        action: &'static str,
        /// The path as it was given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
        /// Likely cause and what to try; may be empty.
        hint: String,
    },
    /// The mount point is neither a directory nor a regular file.
    #[error(
        "cannot mount on {}: it is {kind}; choose another one: a mount point must be a directory or a regular file",
        path.display()
    )]
    Kind {
        /// The resolved path.
        path: PathBuf,
        /// What is there.
        kind: &'static str,
    },
    /// A FUSE mount on the way lost its server (`ENOTCONN`).
    #[error(
        "cannot use {}: the FUSE mount at {} has lost its server (transport endpoint is not connected); \
         unmount it first: fusewire unmount --lazy {}", path.display(), dead.display(), quoted(dead)
    )]
    Dead {
        /// The path as it was given.
        path: PathBuf,
        /// Where the dead mount is.
        dead: PathBuf,
    },
    /// `/dev/fuse` could not be opened.
    #[error("cannot open /dev/fuse: {source}{}", then(hint))]
    Device {
        /// What the kernel said.
        source: io::Error,
        /// Likely cause and what to try; may be empty.
        hint: &'static str,
    },
    /// What `/dev/fuse` is, it is not the kernel's FUSE device.
    #[error(
        "cannot use /dev/fuse: it is {kind} and not the FUSE device; replace it, as root: rm -r /dev/fuse && \
         mknod -m 666 /dev/fuse c {major} {minor}; or start the container with --device /dev/fuse",
        major = super::device::NUMBER.0, minor = super::device::NUMBER.1
    )]
    NotDevice {
        /// What is there.
        kind: &'static str,
    },
    /// The kernel refused to mount or to unmount.
    #[error("cannot {action} {}: {call}: {source}{}{}", path.display(), logged(log), then(hint))]
    Kernel {
        /// `mount on` or `unmount`.
        action: &'static str,
        /// The system call that failed.
        call: &'static str,
        /// The mount point.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
        /// Lines from the kernel's log of this mount attempt.
        log: Vec<String>,
        /// Likely cause and what to try; may be empty.
        hint: &'static str,
    },
    /// An ordinary user mounts through `fusermount3`, and there is none.
    #[error(
        "cannot {action} {}: only root may do this directly, and fusermount3 is not installed; \
         install it (Debian, Ubuntu: apt install fuse3) or run this as root", path.display()
    )]
    NoFusermount {
        /// `mount on` or `unmount`.
        action: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// `fusermount3` refused or could not be run.
    #[error("cannot {action} {}: {}: {message}{}", path.display(), program.display(), then(hint))]
    Fusermount {
        /// `mount on` or `unmount`.
        action: &'static str,
        /// The mount point.
        path: PathBuf,
        /// Which program was run.
        program: PathBuf,
        /// What it wrote to its standard error, or how it ended.
        message: String,
        /// Likely cause and what to try; may be empty.
        hint: &'static str,
    },
    /// INIT was not answered; nothing stays mounted.
    #[error(
        "mounting on {} was given up: the filesystem could not be started: {source}{}",
        path.display(), then(otherwise(source, SEE_LOG))
    )]
    Init {
        /// The mount point.
        path: PathBuf,
        /// What the callback said that reads and answers INIT.
        source: io::Error,
    },
    /// The path is not where something is mounted.
    #[error("cannot unmount {}: nothing is mounted there{}", path.display(), then(hint))]
    NotMounted {
        /// The resolved path.
        path: PathBuf,
        /// Which mount the path belongs to; may be empty.
        hint: String,
    },
    /// What is mounted there is not a FUSE filesystem.
    #[error(
        "refusing to unmount {}: it is not a FUSE filesystem but {fstype}; use umount {}",
        path.display(), quoted(path)
    )]
    NotFuse {
        /// The resolved path.
        path: PathBuf,
        /// The type as `/proc/mounts` shows it.
        fstype: String,
    },
    /// Something else was mounted on top of it.
    #[error("cannot unmount {}: another mount covers it; unmount that one first: umount {}", path.display(), quoted(path))]
    Covered {
        /// The mount point.
        path: PathBuf,
    },
    /// Files on the mount are in use.
    #[error(
        "cannot unmount {}: it is in use; see who uses it with: fuser -vm {}; or unmount lazily, which takes it \
         out of sight at once and ends it when its last user is done", path.display(), quoted(path)
    )]
    Busy {
        /// The mount point.
        path: PathBuf,
    },
    /// The connection could not be aborted.
    #[error("cannot abort FUSE connection {connection}: {source}{}", then(hint))]
    Abort {
        /// The number below `/sys/fs/fuse/connections`.
        connection: u64,
        /// What the kernel said.
        source: io::Error,
        /// Likely cause and what to try; may be empty.
        hint: &'static str,
    },
    /// The process that unmounts when this one dies could not be started.
    #[error(
        "cannot start the process that carries out auto_unmount for {}: {source}{}",
        path.display(), then(otherwise(source, SEE_LOG))
    )]
    Guard {
        /// The mount point.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The table of mounts could not be read.
    #[error(
        "cannot read the table of mounts, {}: {source}{}",
        super::table::MOUNTINFO,
        then(otherwise(source, "see whether /proc is mounted"))
    )]
    Table {
        /// What the kernel said.
        source: io::Error,
    },
}

/// What was being done when the kernel or `fusermount3` refused.
pub(super) const MOUNT: &str = "mount on";
/// See [`MOUNT`].
pub(super) const UNMOUNT: &str = "unmount";

impl MountError {
    /// The system's error number behind this, if there is one.
    pub fn errno(&self) -> Option<i32> {
        let fixed = match self {
            Self::MountPoint { source, .. }
            | Self::Device { source, .. }
            | Self::Kernel { source, .. }
            | Self::Init { source, .. }
            | Self::Abort { source, .. }
            | Self::Guard { source, .. }
            | Self::Table { source } => return source.raw_os_error(),
            Self::Fusermount { .. } | Self::NoFusermount { .. } => return None,
            Self::Option { .. } | Self::NotMounted { .. } | Self::NotFuse { .. } => Errno::INVAL,
            Self::Kind { .. } => Errno::NOTDIR,
            Self::NotDevice { .. } => Errno::NODEV,
            Self::Dead { .. } => Errno::NOTCONN,
            Self::Covered { .. } | Self::Busy { .. } => Errno::BUSY,
        };
        Some(fixed.raw_os_error())
    }

    pub(super) fn option(option: &str, reason: &str) -> Self {
        Self::Option { option: option.to_owned(), reason: reason.to_owned() }
    }

    /// An error of a system call that mounts, with the kernel's own log of it.
    pub(super) fn mounting(call: &'static str, path: &Path, source: Errno, log: Vec<String>) -> Self {
        let hint = match source {
            Errno::PERM | Errno::ACCESS => {
                "mounting needs CAP_SYS_ADMIN; in a container give it --cap-add SYS_ADMIN --device /dev/fuse, and see \
                 whether AppArmor or SELinux forbids it"
            }
            Errno::NODEV => "this kernel has no FUSE, or its module is not loaded; try: modprobe fuse",
            Errno::NOSPC => "unmount something, or raise the limit of mounts: sysctl fs.mount-max",
            Errno::BUSY => "something is mounted there already; unmount it or choose another directory",
            errno => remedy::of_errno(errno).unwrap_or(SEE_LOG),
        };
        Self::Kernel { action: MOUNT, call, path: path.to_owned(), source: source.into(), log, hint }
    }

    /// An error of `umount2(2)`.
    pub(super) fn unmounting(path: &Path, source: Errno) -> Self {
        let path = path.to_owned();
        let hint = match source {
            Errno::BUSY => return Self::Busy { path },
            Errno::PERM => "unmounting needs CAP_SYS_ADMIN; run this as root, or as the user who mounted it",
            Errno::INVAL => {
                "it is not a mount point any more, or belongs to another mount namespace; findmnt shows what is mounted here"
            }
            errno => remedy::of_errno(errno).unwrap_or(SEE_LOG),
        };
        Self::Kernel { action: UNMOUNT, call: "umount2", path, source: source.into(), log: Vec::new(), hint }
    }

    pub(super) fn device(source: Errno) -> Self {
        let hint = match source {
            Errno::NOENT => {
                "the kernel module is not loaded, or this container has no such device; try: modprobe fuse, or start \
                 the container with --device /dev/fuse"
            }
            Errno::NODEV | Errno::NXIO => "the kernel module is not loaded; try: modprobe fuse",
            Errno::PERM => "the device is not allowed in this container; start it with --device /dev/fuse",
            Errno::ACCESS => {
                "its permissions forbid it, whose usual mode is 0666: chmod 0666 /dev/fuse; or what is mounted at /dev is \
                 mounted nodev: mount -o remount,dev /dev"
            }
            errno => {
                remedy::of_errno(errno).unwrap_or("make it again, as root: mknod -m 666 /dev/fuse c 10 229")
            }
        };
        Self::Device { source: source.into(), hint }
    }

    /// `path` cannot be reached, to mount on it or to unmount what is there.
    pub(super) fn mount_point(action: &'static str, path: &Path, source: io::Error) -> Self {
        let errno = source.raw_os_error().map(Errno::from_raw_os_error);
        let hint = match errno {
            Some(Errno::NOENT) if path.is_symlink() => {
                "the symbolic link leads to nothing; make what it leads to, or name another directory".to_owned()
            }
            Some(Errno::NOENT) if action == MOUNT => format!("create it first: mkdir -p {}", quoted(path)),
            Some(Errno::NOTDIR) => {
                "a part of the path that should be a directory is none; name another directory".to_owned()
            }
            Some(Errno::ACCESS) => {
                "a directory on the way forbids it; do it as root, or as the user whom it lets in; on a FUSE mount of another \
                 user this is so even for root, unless it was mounted with allow_other"
                    .to_owned()
            }
            errno => errno.and_then(remedy::of_errno).unwrap_or(SEE_LOG).to_owned(),
        };
        Self::MountPoint { action, path: path.to_owned(), source, hint }
    }
}

/// Where nothing else is known to help.
pub(super) const SEE_LOG: &str =
    "the kernel's log may say more: dmesg; and see what it allows: fusewire probe";

/// What helps against `source`, or if nothing is known to, `other`.
fn otherwise(source: &io::Error, other: &'static str) -> &'static str {
    remedy::of(source).unwrap_or(other)
}

/// A remedy behind what is wrong.
fn then(hint: impl AsRef<str>) -> String {
    match hint.as_ref() {
        "" => String::new(),
        hint => format!("; {hint}"),
    }
}

fn logged(log: &[String]) -> String {
    if log.is_empty() { String::new() } else { format!(" ({})", log.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_the_path_the_cause_and_the_remedy() {
        let cases = [
            (
                MountError::mount_point(MOUNT, Path::new("/no such"), Errno::NOENT.into()),
                &["/no such", "No such file", "mkdir -p '/no such'"][..],
            ),
            (
                MountError::Dead { path: "/m/x".into(), dead: "/m".into() },
                &["cannot use /m/x", "not connected", "fusewire unmount --lazy /m"],
            ),
            (
                MountError::unmounting(Path::new("/m"), Errno::BUSY),
                &["/m", "in use", "fuser -vm /m", "lazily"],
            ),
            (
                MountError::mounting(
                    "fsconfig",
                    Path::new("/m"),
                    Errno::INVAL,
                    vec!["e fuse: Bad value for 'fd'".into()],
                ),
                &["mount on /m", "fsconfig", "Invalid argument", "(e fuse: Bad value for 'fd')"],
            ),
            (MountError::mounting("fsopen", Path::new("/m"), Errno::NODEV, vec![]), &["modprobe fuse"]),
            (MountError::NoFusermount { action: MOUNT, path: "/m".into() }, &["/m", "apt install fuse3"]),
            (MountError::device(Errno::NOENT), &["/dev/fuse", "modprobe fuse"]),
            (
                MountError::mount_point(UNMOUNT, Path::new("/m"), Errno::LOOP.into()),
                &["cannot unmount /m", "namei -l"],
            ),
            (
                MountError::mount_point(MOUNT, Path::new("/m"), Errno::NAMETOOLONG.into()),
                &["cannot mount on /m", "shorter"],
            ),
            (
                MountError::NotDevice { kind: "a directory" },
                &["a directory", "mknod -m 666 /dev/fuse c 10 229"],
            ),
            (
                MountError::NotFuse { path: "/home".into(), fstype: "ext4".into() },
                &["/home", "ext4", "umount /home"],
            ),
        ];
        for (error, needles) in cases {
            let text = error.to_string();
            for needle in needles {
                assert!(text.contains(needle), "`{needle}` is missing in: {text}");
            }
            assert!(!text.contains("; ;") && !text.ends_with("; "), "{text}");
        }
    }

    #[test]
    fn the_error_number_survives() {
        assert_eq!(MountError::device(Errno::ACCESS).errno(), Some(libc::EACCES));
        assert_eq!(MountError::Dead { path: "/m".into(), dead: "/m".into() }.errno(), Some(libc::ENOTCONN));
        assert_eq!(MountError::unmounting(Path::new("/m"), Errno::BUSY).errno(), Some(libc::EBUSY));
    }
}
