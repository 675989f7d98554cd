//! Who uses a mount.
//!
//! Nothing here sends a request to the filesystem: it may hang, or be the one this very process serves.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};

/// Device number of a filesystem, major and minor, as `st_dev` of its files.
pub type Device = (u32, u32);

/// A process that holds something on a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub pid: u32,
    /// The name of its program.
    pub name: String,
    /// How it uses the mount: `working directory`, `open file`, ...
    pub uses: BTreeSet<&'static str>,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}: ", self.name, self.pid)?;
        for (index, how) in self.uses.iter().enumerate() {
            write!(f, "{}{how}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}

/// The processes that use the filesystem on `device`, as far as this user may see them; this process is left out.
pub fn of(device: Device) -> Vec<User> {
    let own = std::process::id();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid: &u32| pid != own)
        .filter_map(|pid| user(pid, device))
        .collect()
}

fn user(pid: u32, device: Device) -> Option<User> {
    let base = PathBuf::from(format!("/proc/{pid}"));
    let mut uses = BTreeSet::new();
    for (link, how) in [("cwd", "working directory"), ("root", "root directory"), ("exe", "program")] {
        if is_on(&base.join(link), device) {
            uses.insert(how);
        }
    }
    let files = fs::read_dir(base.join("fd")).into_iter().flatten().flatten();
    if files.into_iter().any(|file| is_on(&file.path(), device)) {
        uses.insert("open file");
    }
    if fs::read_to_string(base.join("maps")).is_ok_and(|maps| maps_from(&maps, device)) {
        uses.insert("mapped file");
    }
    if uses.is_empty() {
        return None;
    }
    let name = fs::read_to_string(base.join("comm")).unwrap_or_default().trim_end().to_owned();
    Some(User { pid, name, uses })
}

/// Whether the file behind a link of `/proc` is on the device. `DONT_SYNC` with an empty mask is answered by the
/// kernel alone, even for a FUSE filesystem that does not answer any more.
fn is_on(link: &Path, device: Device) -> bool {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(CWD, link, flags, StatxFlags::empty())
        .is_ok_and(|stat| (stat.stx_dev_major, stat.stx_dev_minor) == device)
}

/// Whether a line of `/proc/PID/maps` names the device.
fn maps_from(maps: &str, device: Device) -> bool {
    let wanted = format!("{:02x}:{:02x}", device.0, device.1);
    maps.lines().any(|line| line.split_ascii_whitespace().nth(3) == Some(wanted.as_str()))
}

/// What keeps a mount busy, in words: the processes that use its filesystem, shortened if there are many, and what is
/// mounted below its mount point.
pub fn of_mount(mountpoint: &Path, device: Device) -> String {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    describe(&of(device), &mounts_below(&table, mountpoint))
}

fn describe(users: &[User], mounts: &[PathBuf]) -> String {
    const SHOWN: usize = 8;
    let mut parts: Vec<String> = users.iter().take(SHOWN).map(User::to_string).collect();
    if users.len() > SHOWN {
        parts.push(format!("{} more", users.len() - SHOWN));
    }
    parts.extend(mounts.iter().map(|place| format!("what is mounted on {}", place.display())));
    if parts.is_empty() {
        return "no process that this user may see; perhaps one of another user, or the kernel itself (loop device, swap, \
                NFS) holds it"
            .to_owned();
    }
    parts.join(", ")
}

/// Mount points strictly below `mountpoint` in a table of the form of `/proc/self/mountinfo`.
fn mounts_below(table: &[u8], mountpoint: &Path) -> Vec<PathBuf> {
    let places =
        table.split(|&byte| byte == b'\n').filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    let mut below: Vec<PathBuf> =
        places.map(unescape).filter(|place| place != mountpoint && place.starts_with(mountpoint)).collect();
    below.dedup();
    below
}

/// A field of `mountinfo`, where blanks, line breaks and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let (byte, next) = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), tail)
            }
            _ => (*first, tail),
        };
        bytes.push(byte);
        rest = next;
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn device_of(path: &Path) -> Device {
        let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::empty()).expect("statx");
        (stat.stx_dev_major, stat.stx_dev_minor)
    }

    #[test]
    fn a_child_with_its_working_directory_there_is_found() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut child = Command::new("sleep")
            .arg("60")
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .spawn()
            .expect("sleep is installed");
        let device = device_of(dir.path());
        // The child shows its parent's program until it has replaced it.
        let found = (0..100).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            of(device).into_iter().find(|user| user.pid == child.id() && user.name == "sleep")
        });
        child.kill().expect("killed");
        child.wait().expect("waited for");
        let found = found.expect("the child uses the directory");
        assert!(found.uses.contains("working directory"), "{found}");
        assert!(!of(device).iter().any(|user| user.pid == std::process::id()));
    }

    #[test]
    fn mapped_files_are_seen_by_their_device() {
        let maps = "7f00-7f01 r--p 00000000 00:3a 12    /mnt/a b\n7f02-7f03 rw-p 0 00:00 0\n";
        assert!(maps_from(maps, (0, 0x3a)));
        assert!(!maps_from(maps, (0, 0x3b)));
    }

    #[test]
    fn many_users_are_summed_up() {
        let user = |pid| User { pid, name: "vi".into(), uses: BTreeSet::from(["open file"]) };
        let text = describe(&(1..=10).map(user).collect::<Vec<_>>(), &["/m/sub".into()]);
        assert!(text.starts_with("vi (pid 1: open file), "), "{text}");
        assert!(text.ends_with(", 2 more, what is mounted on /m/sub"), "{text}");
        assert!(describe(&[], &[]).contains("no process"));
    }

    #[test]
    fn mounts_below_are_found_by_name() {
        let table = b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /m rw - fuse b rw\n3 2 0:3 / /m/a\\040b rw - tmpfs c rw\n\
            4 1 0:4 / /mm rw - tmpfs d rw\n";
        assert_eq!(mounts_below(table, Path::new("/m")), [PathBuf::from("/m/a b")]);
    }
}
