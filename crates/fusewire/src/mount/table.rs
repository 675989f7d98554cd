//! The table of mounts, read from `mountinfo`, and what identifies one mount.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::sys;

/// The mounts that the calling thread sees: threads of one process may be in different mount namespaces.
pub(super) const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8): the number of a mount that is never used again.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// One line of the table of mounts; `proc_pid_mountinfo(5)` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Number of the mount; used again after it is gone.
    pub id: u64,
    /// Number of the mount it is mounted on.
    pub parent: u64,
    /// Major and minor device number of the filesystem, as `st_dev` of its files.
    pub device: (u32, u32),
    /// Which directory of the filesystem is visible at the mount point; `/` unless it is a bind mount.
    pub root: PathBuf,
    /// Where it is mounted, as seen from the root directory of this process.
    pub mountpoint: PathBuf,
    /// Options of the mount, such as `rw,nosuid`.
    pub options: String,
    /// Type with subtype, such as `fuse.fusewire`.
    pub fstype: String,
    /// What it says it shows.
    pub source: OsString,
    /// Options of the filesystem, such as `rw,user_id=0,group_id=0`.
    pub super_options: String,
}

impl MountEntry {
    /// Whether a FUSE server is behind it, over a character or a block device.
    pub fn is_fuse(&self) -> bool {
        let name = self.fstype.split_once('.').map_or(self.fstype.as_str(), |(name, _)| name);
        matches!(name, "fuse" | "fuseblk")
    }

    /// Number of the FUSE connection, a directory below `/sys/fs/fuse/connections`; none for other filesystems.
    pub fn connection(&self) -> Option<u64> {
        self.is_fuse().then(|| connection(self.device))
    }

    /// What follows `fuse.` in the type.
    pub fn subtype(&self) -> Option<&str> {
        self.fstype.split_once('.').map(|(_, subtype)| subtype)
    }

    fn parse(line: &[u8]) -> Option<Self> {
        // Single spaces separate, and a field may be empty: a source can be the empty string.
        let mut fields = line.split(|byte| *byte == b' ');
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let device = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
        let device = (device.0.parse().ok()?, device.1.parse().ok()?);
        let root = PathBuf::from(unescape(fields.next()?));
        let mountpoint = PathBuf::from(unescape(fields.next()?));
        let options = text(fields.next()?);
        // A varying number of propagation tags ends with a lone dash.
        fields.by_ref().find(|field| *field == b"-")?;
        let fstype = text(fields.next()?);
        let source = unescape(fields.next()?);
        let super_options = text(fields.next().unwrap_or_default());
        Some(Self { id, parent, device, root, mountpoint, options, fstype, source, super_options })
    }
}

/// All FUSE mounts that this thread sees, in the order of the kernel's table: of mounts stacked on one directory
/// the upper one comes later.
///
/// # Errors
/// Those of reading `/proc/thread-self/mountinfo`.
pub fn fuse_mounts() -> io::Result<Vec<MountEntry>> {
    Ok(mounts()?.into_iter().filter(MountEntry::is_fuse).collect())
}

/// All FUSE mounts that the process `pid` sees: it may live in another mount namespace. Mount points are as it names them, if its
/// root directory is the namespace's.
///
/// # Errors
/// Those of reading `/proc/PID/mountinfo`: the process may be gone, or another user's.
pub fn fuse_mounts_of(pid: u32) -> io::Result<Vec<MountEntry>> {
    let table = read_table(Path::new(&format!("/proc/{pid}/mountinfo")))?;
    Ok(table.into_iter().filter(MountEntry::is_fuse).collect())
}

/// All mounts that this thread sees, in the order of the kernel's table.
///
/// # Errors
/// Those of reading `/proc/thread-self/mountinfo`.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    read_table(Path::new(MOUNTINFO))
}

fn read_table(path: &Path) -> io::Result<Vec<MountEntry>> {
    // The kernel holds its lock for one read call, so a large buffer gets a consistent table.
    let mut text = vec![0; 1 << 16];
    let mut file = File::open(path)?;
    let mut filled = 0;
    loop {
        match file.read(&mut text[filled..])? {
            0 => break,
            count => filled += count,
        }
        if text.len() - filled < 1 << 15 {
            text.resize(text.len() * 2, 0);
        }
    }
    Ok(parse(&text[..filled]))
}

fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(MountEntry::parse).collect()
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(unescape(field).as_bytes()).into_owned()
}

fn unescape(field: &[u8]) -> OsString {
    OsString::from_vec(unescaped(field).collect())
}

/// Undoes the kernel's `mangle_path`: a backslash and three octal digits stand for one byte.
fn unescaped(field: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = field;
    std::iter::from_fn(move || {
        let (byte, tail) = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), tail)
            }
            [byte, tail @ ..] => (*byte, tail),
            [] => return None,
        };
        rest = tail;
        Some(byte)
    })
}

/// Where the table of this process, which has one thread, lists the mount. `table` is room for more than a line, `path` for the answer.
/// Makes system calls only, and allocates nothing, so a forked child may call it.
pub(super) fn find_in_table<'a>(
    identity: &Identity,
    table: &mut [u8],
    path: &'a mut [u8],
) -> Option<&'a CStr> {
    let file = rustix::fs::open(c"/proc/self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let file = file.ok()?;
    let mut filled = 0;
    loop {
        let count = rustix::io::read(&file, table.get_mut(filled..)?).ok().filter(|count| *count > 0)?;
        filled += count;
        let lines = table.get(..filled)?.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        for line in table.get(..lines)?.split(|byte| *byte == b'\n') {
            if identity.place_in(line, path).is_some() {
                return CStr::from_bytes_until_nul(path).ok();
            }
        }
        // The rest is the beginning of a line.
        table.copy_within(lines..filled, 0);
        filled -= lines;
    }
}

/// `st_dev` of a FUSE filesystem is anonymous (major 0), and its number names the connection in `fusectl`.
pub(super) fn connection(device: (u32, u32)) -> u64 {
    u64::from(device.0) << 20 | u64::from(device.1)
}

/// What tells one mount from all others.
///
/// From Linux 6.8 on `unique` alone would do. The other two are given again as soon as they are free: before 6.8 a
/// mount that somebody made just after this one was gone may look like it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// As in the first field of `mountinfo`; none before Linux 5.8.
    pub id: Option<u64>,
    /// Device number of the filesystem.
    pub device: (u32, u32),
    /// Number of the mount that is never used again.
    pub unique: Option<u64>,
}

impl Identity {
    /// Which mount the file behind `fd` belongs to. Sends nothing to a FUSE server, so it works on dead and on
    /// hanging mounts. Makes system calls only, so a forked child may call it.
    pub fn of(fd: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        // With an empty mask even a FUSE mount of another user tells its device (`fuse_getattr`).
        let stat = rustix::fs::statx(fd, c"", flags, StatxFlags::empty())?;
        let id = (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id);
        let unique = rustix::fs::statx(fd, c"", flags, MNT_ID_UNIQUE)
            .ok()
            .and_then(|stat| (stat.stx_mask & MNT_ID_UNIQUE.bits() != 0).then_some(stat.stx_mnt_id));
        Ok(Self { id, device: (stat.stx_dev_major, stat.stx_dev_minor), unique })
    }

    /// Which mount is on top at an absolute path without symbolic links. Contacts no FUSE server except for the
    /// directories above.
    pub fn at(path: &Path) -> rustix::io::Result<Self> {
        Self::at_c(&c_path(path)?)
    }

    /// [`Identity::at`] without allocating.
    pub fn at_c(path: &CStr) -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::of(rustix::fs::open(path, flags, Mode::empty())?.as_fd())
    }

    /// The line in the table about this mount, if it is still there.
    pub fn entry(&self) -> io::Result<Option<MountEntry>> {
        // The table knows only numbers that are used again.
        if self.unique.is_some_and(|unique| sys::mount_exists(unique) == Ok(false)) {
            return Ok(None);
        }
        Ok(mounts()?.into_iter().find(|entry| self.is(entry)))
    }

    fn is(&self, entry: &MountEntry) -> bool {
        self.id.is_none_or(|id| id == entry.id) && self.device == entry.device
    }

    /// If the line is about this mount, writes where it is mounted to `path`, with a NUL. Allocates nothing.
    fn place_in(&self, line: &[u8], path: &mut [u8]) -> Option<()> {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = number(fields.next()?)?;
        let device = std::str::from_utf8(fields.nth(1)?).ok()?.split_once(':')?;
        let device = (device.0.parse().ok()?, device.1.parse().ok()?);
        if self.id.is_some_and(|own| own != id) || self.device != device {
            return None;
        }
        let mut room = path.iter_mut();
        for byte in unescaped(fields.nth(1)?).chain([0]) {
            *room.next()? = byte;
        }
        Some(())
    }
}

/// The mount that `path` (absolute, resolved) is on, going by names alone.
pub(super) fn deepest_fuse_above(path: &Path) -> Option<PathBuf> {
    let above = |entry: &MountEntry| path.starts_with(&entry.mountpoint);
    let mounts = fuse_mounts().ok()?.into_iter().filter(above).map(|entry| entry.mountpoint);
    mounts.max_by_key(|mountpoint| mountpoint.components().count())
}

/// What the kernel tells about a `/dev/fuse` descriptor, kept open: to ask again takes no descriptor, of which there may
/// be none left.
#[derive(Debug)]
pub(super) struct FdInfo(File);

impl FdInfo {
    /// Must not outlive the descriptor: its number may be given to another one.
    pub fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        File::open(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).map(Self)
    }

    /// The connection that the descriptor serves, where the kernel tells it (about Linux 6.18); none as long as nothing
    /// was mounted with it.
    pub fn connection(&self) -> io::Result<Option<u64>> {
        // Longer than the lines of any descriptor; the kernel writes them anew for each read at the beginning.
        let mut text = [0; 1024];
        let length = self.0.read_at(&mut text, 0)?;
        Ok(connection_in(&String::from_utf8_lossy(&text[..length])))
    }
}

/// Reads lines such as `pos:\t0`.
fn connection_in(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("fuse_connection:")?.trim().parse().ok())
}

/// A path as system calls take it.
pub(super) fn c_path(path: &Path) -> rustix::io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_field_by_field() {
        let line = b"36 35 0:98 / /mnt\\0402/b\\134c rw,noatime shared:1 master:2 - fuse.my\\040fs a\\011b rw,user_id=7\n";
        let [entry] = &parse(line)[..] else { panic!("one line") };
        assert_eq!((entry.id, entry.parent, entry.device), (36, 35, (0, 98)));
        assert_eq!((entry.root.to_str(), entry.mountpoint.to_str()), (Some("/"), Some("/mnt 2/b\\c")));
        assert_eq!((entry.fstype.as_str(), entry.source.to_str()), ("fuse.my fs", Some("a\tb")));
        assert_eq!((entry.options.as_str(), entry.super_options.as_str()), ("rw,noatime", "rw,user_id=7"));
        assert_eq!((entry.is_fuse(), entry.connection(), entry.subtype()), (true, Some(98), Some("my fs")));
    }

    #[test]
    fn unusual_lines_are_understood_and_broken_ones_skipped() {
        let text = b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
            nonsense\n\
            2 1 0:5 / /a\\012b rw - fuse  rw\n\
            3 1 0:6 / /c rw shared:4\n\
            4 1 0:7 / /\xff rw - fuseblk /dev/sdb rw\n";
        let entries = parse(text);
        assert_eq!(entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(entries[1].mountpoint.to_str(), Some("/a\nb"));
        assert_eq!(entries[1].source, "");
        assert_eq!(entries[2].mountpoint.as_os_str().as_bytes(), b"/\xff");
        assert_eq!(entries.iter().map(MountEntry::is_fuse).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(entries[0].connection(), None);
    }

    #[test]
    fn types_that_only_begin_like_fuse_are_not_fuse() {
        for (fstype, fuse) in [("fuse", true), ("fuse.a.b", true), ("fusectl", false), ("fuseblk.x", true)] {
            let line = format!("1 0 0:1 / / rw - {fstype} x rw");
            assert_eq!(parse(line.as_bytes())[0].is_fuse(), fuse, "{fstype}");
        }
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\0b\\9\\"), "a\\0b\\9\\");
        assert_eq!(unescape(b"\\134040"), "\\040");
    }

    #[test]
    fn the_root_directory_is_found_in_the_real_table() {
        let identity = Identity::at(Path::new("/")).expect("statx");
        let entry = identity.entry().expect("table").expect("the root mount is listed");
        assert_eq!(entry.mountpoint, Path::new("/"));
        let other = Identity { device: (0, u32::MAX), ..identity };
        assert_eq!(other.entry().expect("table"), None);
    }

    #[test]
    fn a_place_is_found_without_allocating() {
        let identity = Identity::at(Path::new("/")).expect("statx");
        // Reads of any length, down to a little more than the longest line.
        let longest =
            std::fs::read(MOUNTINFO).expect("table").split(|byte| *byte == b'\n').map(<[u8]>::len).max();
        for room in [longest.expect("a line") + 1, 1 << 16] {
            let (mut table, mut path) = (vec![0; room], [7; 4096]);
            assert_eq!(find_in_table(&identity, &mut table, &mut path), Some(c"/"), "{room}");
        }
        let (mut table, mut path) = (vec![0; 1 << 16], [7; 4096]);
        let other = Identity { device: (0, u32::MAX), ..identity };
        assert_eq!(find_in_table(&other, &mut table, &mut path), None);
        let identity = Identity { id: Some(36), device: (0, 98), unique: None };
        let line = b"36 35 0:98 / /mnt\\0402/b\\134c rw - fuse x rw";
        assert_eq!(identity.place_in(line, &mut path), Some(()));
        assert_eq!(CStr::from_bytes_until_nul(&path), Ok(c"/mnt 2/b\\c"));
        assert_eq!(identity.place_in(line, &mut path[..9]), None, "no room for the NUL");
        assert_eq!(identity.place_in(b"36 35 0:98 /", &mut path), None);
    }

    #[test]
    fn the_connection_is_found_in_fdinfo() {
        assert_eq!(connection_in("pos:\t0\nmnt_id:\t28\nfuse_connection:\t77\n"), Some(77));
        assert_eq!(connection_in("pos:\t0\nflags:\t02\n"), None);
    }
}
