//! The mount table as the calling thread sees it.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of `mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number of the mount, from 1 upwards in the order of mounting.
    pub id: u64,
    /// Device number: `major`.
    pub major: u32,
    /// Device number: `minor`; for a FUSE mount also the number of its connection under fusectl.
    pub minor: u32,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Options of the mount, as `rw,relatime`.
    pub options: String,
    /// `ext4`, `fuse.fusewire`, ...
    pub kind: String,
    /// What is mounted: a device, or what the filesystem calls its source.
    pub source: String,
    /// Options of the filesystem.
    pub fs_options: String,
}

/// Reads the table of the calling thread, which may live in another namespace than the process's first thread.
pub fn read() -> Vec<Entry> {
    let table = std::fs::read("/proc/thread-self/mountinfo").expect("/proc/thread-self/mountinfo");
    table.split(|byte| *byte == b'\n').filter_map(|line| parse(&String::from_utf8_lossy(line))).collect()
}

/// The topmost mount at exactly this path. Asks the kernel's table only, never the (perhaps dead) filesystem.
pub fn at(point: &Path) -> Option<Entry> {
    read().into_iter().rfind(|entry| entry.point == point)
}

/// All mounts at or below this path, the newest first, which is the order to unmount them in.
pub fn below(dir: &Path) -> Vec<Entry> {
    let mut entries: Vec<_> = read().into_iter().filter(|entry| entry.point.starts_with(dir)).collect();
    entries.reverse();
    entries
}

impl Entry {
    /// Whether the filesystem is served over FUSE.
    pub fn is_fuse(&self) -> bool {
        self.kind == "fuse" || self.kind == "fuseblk" || self.kind.starts_with("fuse.")
    }
}

fn parse(line: &str) -> Option<Entry> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let id = left.next()?.parse().ok()?;
    let (major, minor) = left.nth(1)?.split_once(':')?;
    let point = unescape(left.nth(1)?);
    let options = left.next()?.to_owned();
    let mut right = right.split(' ');
    Some(Entry {
        id,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        point,
        options,
        kind: right.next()?.to_owned(),
        source: right.next()?.to_owned(),
        fs_options: right.next()?.to_owned(),
    })
}

/// The kernel writes blank, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| field.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(octal.unwrap_or(bytes[at]));
        at += if octal.is_some() { 4 } else { 1 };
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes_is_read() {
        let line =
            "36 35 0:98 / /mnt\\040a rw,noatime shared:1 master:2 - fuse.fusewire /dev/root rw,user_id=0";
        let entry = parse(line).unwrap();
        assert_eq!((entry.id, entry.major, entry.minor), (36, 0, 98));
        assert_eq!(entry.point, Path::new("/mnt a"));
        assert_eq!((entry.options.as_str(), entry.kind.as_str()), ("rw,noatime", "fuse.fusewire"));
        assert_eq!((entry.source.as_str(), entry.fs_options.as_str()), ("/dev/root", "rw,user_id=0"));
        assert!(entry.is_fuse());
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(at(Path::new("/")).is_some());
    }
}
