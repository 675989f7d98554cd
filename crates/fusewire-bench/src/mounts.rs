//! The bench's own mount namespace, and what can be done to mounts from outside.

use std::env;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags};

const INSIDE: &str = "FUSEWIRE_BENCH_NAMESPACE";
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Runs this program again in a mount namespace of its own, unless that has happened already.
///
/// Nothing that is mounted there can be seen by others or kept busy by them, and all of it goes when the last
/// process in it ends, however it ends.
///
/// # Errors
/// If the program `unshare` is missing or the user may not make namespaces.
pub fn enter_private_namespace() -> Result<()> {
    if env::var_os(INSIDE).is_none() {
        if !rustix::process::geteuid().is_root() {
            bail!("mounting in a namespace of its own needs root; run it with sudo");
        }
        let program = env::current_exe().context("cannot find this program's own file")?;
        let error = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .arg(program)
            .args(env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        return Err(error).context("cannot run `unshare` (package util-linux)");
    }
    let empty = fs::read_dir(CONNECTIONS).map(|mut entries| entries.next().is_none());
    let mounted = all().iter().any(|mount| mount.point == Path::new(CONNECTIONS));
    if !mounted && empty.unwrap_or(true) {
        rustix::mount::mount("none", CONNECTIONS, "fusectl", MountFlags::empty(), None).with_context(
            || format!("cannot mount fusectl on {CONNECTIONS}; is FUSE in this kernel (`modprobe fuse`)?"),
        )?;
    }
    Ok(())
}

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Filesystem type, such as `fuse` or `fuse.name`.
    pub fstype: String,
    /// Minor device number. For a FUSE mount it is also the number of its connection.
    pub minor: u32,
    options: String,
}

impl Mount {
    /// Whether FUSE serves it.
    pub fn is_fuse(&self) -> bool {
        self.fstype == "fuse" || self.fstype.starts_with("fuse.")
    }

    /// Whether [`Mount::drop_names`] is harmless here: other filesystems may take a remount as new options.
    pub fn can_drop_names(&self) -> bool {
        self.is_fuse() || self.fstype == "virtiofs"
    }

    /// Lets the kernel forget every unused name and file of this mount, and of no other.
    ///
    /// A remount that changes nothing does it (`reconfigure_super` calls `shrink_dcache_sb`), while
    /// `/proc/sys/vm/drop_caches` would do it to the whole machine. The FORGETs are still under way on return.
    ///
    /// # Errors
    /// If the mount cannot be remounted.
    pub fn drop_names(&self) -> Result<()> {
        rustix::mount::mount_remount(&self.point, self.flags(), c"")
            .with_context(|| format!("cannot remount {} to drop its cached names", self.point.display()))
    }

    fn flags(&self) -> MountFlags {
        let flag = |option: &str| match option {
            "ro" => MountFlags::RDONLY,
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noexec" => MountFlags::NOEXEC,
            "noatime" => MountFlags::NOATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "relatime" => MountFlags::RELATIME,
            _ => MountFlags::empty(),
        };
        self.options.split(',').map(flag).fold(MountFlags::empty(), |sum, flag| sum | flag)
    }
}

/// The mount on exactly this directory, the topmost if there are several. Does not touch the directory.
pub fn find(point: &Path) -> Option<Mount> {
    all().into_iter().rfind(|mount| mount.point == point)
}

/// The first mount of this filesystem type.
pub fn find_type(fstype: &str) -> Option<Mount> {
    all().into_iter().find(|mount| mount.fstype == fstype)
}

/// The mount on which this path lies, which must be absolute and without symbolic links. Does not touch it.
pub fn holding(path: &Path) -> Option<Mount> {
    // Of several on the same directory the last one is on top.
    all()
        .into_iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.as_os_str().len())
}

/// Ends the connection: every request waiting on it fails with ECONNABORTED, also those of clients that cannot be
/// killed. True if the connection was there.
pub fn abort(connection: u32) -> bool {
    fs::write(format!("{CONNECTIONS}/{connection}/abort"), "1").is_ok()
}

/// Requests that the connection has not answered yet.
pub fn waiting(connection: u32) -> Option<u64> {
    fs::read_to_string(format!("{CONNECTIONS}/{connection}/waiting")).ok()?.trim().parse().ok()
}

/// Takes a mount away although it may be in use.
pub fn detach(point: &Path) {
    // Fails if there is nothing mounted any more, which is what is wanted.
    let _ = rustix::mount::unmount(point, UnmountFlags::DETACH);
}

fn all() -> Vec<Mount> {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().filter_map(parse).collect()
}

/// `65 43 0:41 / /mnt rw,nosuid shared:1 - fuse.sub source rw`
fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let minor = left.get(2)?.split_once(':')?.1.parse().ok()?;
    Some(Mount {
        point: PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(left.get(4)?))),
        fstype: right.split(' ').next()?.to_owned(),
        minor,
        options: (*left.get(5)?).to_owned(),
    })
}

/// Spaces, tabs, newlines and backslashes are written as `\040` and so on.
fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\').then(|| text.get(at + 1..at + 4)).flatten();
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table_line_is_taken_apart() {
        let line =
            r"65 43 0:41 / /tmp/a\040b/mnt rw,nosuid,noatime shared:3 - fuse.fusewire /src rw,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!((mount.point.to_str(), mount.minor), (Some("/tmp/a b/mnt"), 41));
        assert!(mount.is_fuse());
        assert_eq!(mount.flags(), MountFlags::NOSUID | MountFlags::NOATIME);
    }

    #[test]
    fn the_mount_that_holds_a_path_is_the_innermost() {
        assert_eq!(holding(Path::new("/proc/self/status")).unwrap().fstype, "proc");
        assert_eq!(holding(Path::new("/procession")).unwrap().point, Path::new("/"));
        assert!(find_type("proc").is_some_and(|mount| mount.point.ends_with("proc")));
        assert!(find_type("no-such-type").is_none());
    }

    #[test]
    fn other_filesystems_are_not_fuse() {
        for fstype in ["tmpfs", "fusectl", "fuseblk"] {
            let mount = parse(&format!("1 2 0:3 / /mnt rw - {fstype} none rw")).unwrap();
            assert!(!mount.is_fuse(), "{fstype}");
        }
    }

    #[test]
    fn damaged_escape_is_taken_literally() {
        assert_eq!(unescape(r"a\04"), br"a\04");
        assert_eq!(unescape(r"a\134b"), br"a\b");
    }
}
