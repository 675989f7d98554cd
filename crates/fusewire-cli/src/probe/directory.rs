//! What a directory, as the source of a mount, has to give.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use fusewire::remedy::quoted;
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::report::{Check, Directory, Evidence};
use super::sys;
use super::user::{DAC_READ_SEARCH, SYS_ADMIN, User};
use crate::failure::{Failure, Outcome};

/// Opens and describes the directory, and checks what it can do.
///
/// # Errors
/// If it cannot be opened as a directory.
pub fn probe(path: &Path, user: &User) -> Outcome<(Directory, Vec<Check>)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| unusable(path, error))?;
    let (fstype, options) = filesystem(dir.as_fd()).unwrap_or_else(|| ("unknown".into(), String::new()));
    let resolved = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let about = Directory { path: resolved.display().to_string(), fstype, options };
    let mut checks = vec![file_handles(dir.as_fd(), user)];
    checks.extend(attributes(dir.as_fd(), user));
    checks.push(entry_types(&dir));
    checks.extend(nameless(dir.as_fd()));
    checks.push(whiteout(&about.fstype));
    checks.push(watching(dir.as_fd()));
    Ok((about, checks))
}

fn unusable(path: &Path, error: Errno) -> Failure {
    let failure = Failure::new(format!("cannot probe {}: {}", path.display(), io::Error::from(error)));
    match error {
        Errno::NOENT => failure.or_try("a directory that exists"),
        Errno::NOTDIR => failure.or_try("the directory it is in"),
        Errno::ACCESS => failure.or_try("the same as root, or as the owner"),
        Errno::NOTCONN | Errno::CONNABORTED => {
            failure.or_try(format!("end the dead FUSE mount: fusewire unmount --lazy {}", quoted(path)))
        }
        _ => failure.for_error(&error),
    }
}

/// Type and options of the filesystem that the directory is on.
fn filesystem(dir: BorrowedFd<'_>) -> Option<(String, String)> {
    let stat = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    table.lines().find_map(|line| mount_line(line, stat.stx_mnt_id))
}

/// Type and options in a line of `mountinfo`, if the line is about mount `id`.
fn mount_line(line: &str, id: u64) -> Option<(String, String)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = mount.split(' ');
    if fields.next()?.parse() != Ok(id) {
        return None;
    }
    Some((filesystem.split(' ').next()?.to_owned(), fields.nth(4)?.to_owned()))
}

fn file_handles(dir: BorrowedFd<'_>, user: &User) -> Check {
    let (key, title) = ("dir.file_handles", "files remembered by handle (any number, and stable identities)");
    let mut handle = match sys::file_handle(dir) {
        Ok(handle) => handle,
        Err(error) => {
            return Check::no(key, title, Evidence::Tried, format!("name_to_handle_at: {error}"))
                .remedy("a filesystem with file handles, such as ext4, xfs, btrfs, tmpfs; else a high limit of open files");
        }
    };
    match sys::open_handle(dir, &mut handle) {
        Ok(()) => {
            Check::yes(key, title, Evidence::Tried).because(format!("handles of {} bytes", handle.len()))
        }
        Err(error) => {
            let check = Check::no(key, title, Evidence::Tried, format!("open_by_handle_at: {error}"));
            if user.has(DAC_READ_SEARCH) {
                check.remedy("run it outside of the container or namespace")
            } else {
                check.remedy("CAP_DAC_READ_SEARCH, which root has; else a high limit of open files")
            }
        }
    }
}

/// Reading an attribute that does not exist tells whether the kind is supported: `ENODATA` if so.
fn attributes(dir: BorrowedFd<'_>, user: &User) -> [Check; 3] {
    let kinds = [
        ("dir.xattr_user", "extended attributes user.*", "user.fusewire.probe", "mount it with user_xattr"),
        (
            "dir.xattr_trusted",
            "extended attributes trusted.* (overlayfs)",
            "trusted.fusewire.probe",
            "another filesystem",
        ),
        ("dir.acl", "access control lists", "system.posix_acl_access", "mount it with acl"),
    ];
    kinds.map(|(key, title, name, remedy)| {
        let mut value = [0_u8; 256];
        let supported = match rustix::fs::fgetxattr(dir, name, &mut value[..]) {
            Ok(_) | Err(Errno::NODATA | Errno::RANGE) => Ok(()),
            Err(error) => Err(io::Error::from(error)),
        };
        match supported {
            Ok(()) if name.starts_with("trusted.") && !user.has(SYS_ADMIN) => {
                Check::no(key, title, Evidence::Read, "only CAP_SYS_ADMIN may see and set them")
                    .remedy("run as root")
            }
            Ok(()) => Check::yes(key, title, Evidence::Tried),
            Err(error) => Check::no(key, title, Evidence::Tried, error.to_string()).remedy(remedy),
        }
    })
}

fn entry_types(dir: &OwnedFd) -> Check {
    let (key, title) = ("dir.d_type", "file types in directory listings (d_type)");
    let entries = match Dir::read_from(dir) {
        Ok(entries) => entries,
        Err(error) => return Check::unknown(key, title, Evidence::Tried, io::Error::from(error).to_string()),
    };
    let unknown = entries.filter_map(Result::ok).take(64).any(|entry| entry.file_type() == FileType::Unknown);
    if unknown {
        return Check::no(
            key,
            title,
            Evidence::Tried,
            "the filesystem does not tell them; each costs a stat",
        )
        .remedy("xfs needs mkfs.xfs -n ftype=1");
    }
    Check::yes(key, title, Evidence::Tried)
}

/// What can be tried on files without a name, which vanish by themselves.
fn nameless(dir: BorrowedFd<'_>) -> Vec<Check> {
    let (key, title) = ("dir.tmpfile", "files without a name (O_TMPFILE)");
    let make = || {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::openat(dir, c".", flags, Mode::RUSR | Mode::WUSR)
    };
    let (reflink, locks) =
        (("dir.reflink", "copies that share blocks (reflink)"), ("dir.locks", "file locks"));
    let file = match make() {
        Ok(file) => file,
        Err(error) => {
            let reason = io::Error::from(error).to_string();
            let first = match error {
                Errno::OPNOTSUPP | Errno::ISDIR => {
                    Check::no(key, title, Evidence::Tried, "the filesystem has none")
                        .remedy("a filesystem with O_TMPFILE, such as ext4, xfs, btrfs, tmpfs")
                }
                _ => Check::unknown(key, title, Evidence::Tried, reason.as_str()),
            };
            let skipped = format!("no file could be made to try it on: {reason}");
            let rest = [reflink, locks]
                .map(|(key, title)| Check::unknown(key, title, Evidence::Tried, skipped.as_str()));
            return [vec![first], rest.into()].concat();
        }
    };
    vec![Check::yes(key, title, Evidence::Tried), shared_copy(reflink, &file, make()), lock(locks, &file)]
}

fn shared_copy((key, title): (&'static str, &str), from: &OwnedFd, to: rustix::io::Result<OwnedFd>) -> Check {
    let tried = to.and_then(|to| {
        rustix::io::write(from, &[1; 4096])?;
        rustix::fs::ioctl_ficlone(to, from)
    });
    match tried {
        Ok(()) => Check::yes(key, title, Evidence::Tried),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV) => {
            Check::no(key, title, Evidence::Tried, "the filesystem has none; copies are real copies")
                .remedy("btrfs, or xfs made with reflink=1")
        }
        Err(error) => Check::unknown(key, title, Evidence::Tried, io::Error::from(error).to_string()),
    }
}

fn lock((key, title): (&'static str, &str), file: &OwnedFd) -> Check {
    let tried = rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive)
        .and_then(|()| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive));
    match tried {
        Ok(()) => Check::yes(key, title, Evidence::Tried),
        Err(error) => Check::no(key, title, Evidence::Tried, io::Error::from(error).to_string())
            .remedy("for NFS: a lock service, or mount it with local_lock=all"),
    }
}

/// Trying this would need a file with a name.
fn whiteout(fstype: &str) -> Check {
    let (key, title) = ("dir.whiteout", "renames that leave a whiteout (upper layer of overlayfs)");
    match fstype {
        "ext4" | "xfs" | "btrfs" | "tmpfs" | "f2fs" | "ubifs" | "bcachefs" => {
            Check::yes(key, title, Evidence::Inferred)
        }
        "overlay" | "nfs" | "nfs4" | "cifs" | "smb3" | "vfat" | "exfat" | "ntfs3" | "9p" | "squashfs"
        | "iso9660" => {
            Check::no(key, title, Evidence::Inferred, format!("{fstype} does not know RENAME_WHITEOUT"))
                .remedy("ext4, xfs, btrfs or tmpfs")
        }
        _ => Check::unknown(key, title, Evidence::Inferred, format!("it is not known of {fstype}")),
    }
}

fn watching(dir: BorrowedFd<'_>) -> Check {
    let (key, title) = ("dir.fanotify", "changes made behind the mount can be noticed (fanotify)");
    match sys::fanotify(dir) {
        Ok(()) => Check::yes(key, title, Evidence::Tried),
        Err(error) => {
            let check = Check::no(key, title, Evidence::Tried, error.to_string());
            match error.raw_os_error() {
                Some(libc::EPERM) => check.remedy("CAP_SYS_ADMIN, which root has"),
                Some(libc::ENOSYS | libc::EINVAL) => {
                    check.remedy("Linux 5.9 or newer with CONFIG_FANOTIFY=y")
                }
                _ => check.remedy("a filesystem with file handles and an identity, such as ext4, xfs, btrfs"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_found_by_its_number() {
        let line = "36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/root rw,errors=continue";
        assert_eq!(mount_line(line, 36), Some(("ext4".into(), "rw,noatime".into())));
        assert_eq!(mount_line(line, 35), None);
        assert_eq!(mount_line("nonsense", 36), None);
    }

    #[test]
    fn a_directory_is_left_as_it_was() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join("file"), "text").expect("written");
        let before = fs::metadata(dir.path()).expect("metadata").modified().expect("time");
        let (about, checks) = probe(dir.path(), &User::current()).expect("probed");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        assert_eq!(fs::metadata(dir.path()).expect("metadata").modified().expect("time"), before);
        assert_ne!(about.fstype, "unknown");
        assert!(checks.iter().all(|check| check.verdict != Verdict::No || check.remedy.is_some()));
    }

    #[test]
    fn a_missing_directory_is_an_error_with_its_name() {
        let failure = probe(Path::new("/no/such/place"), &User::current()).expect_err("must fail");
        assert!(failure.to_string().contains("/no/such/place"), "{failure}");
    }
}
