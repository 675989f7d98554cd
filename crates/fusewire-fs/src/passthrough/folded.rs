//! Directories in which names are found without regard to case (`chattr +F`). A file has many names there, and what happens to it under
//! one of them concerns the others, of which nobody is told. So names, and that there are none, are remembered there as if there were no
//! feed of changes.

use super::mounts::{Mount, filesystem};
use rustix::fs::{IFlags, Statx, ioctl_getflags};
use std::{
    collections::HashSet,
    io,
    os::fd::AsFd,
    path::Path,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// `FS_CASEFOLD_FL`.
const CASEFOLD: IFlags = IFlags::from_bits_retain(0x4000_0000);

/// Filesystems with such directories of whose mounts nobody tells whether there are any, and where the kernel says that it can do it.
const ABLE: [(i64, &str); 2] =
    [(0xef53, "/sys/fs/ext4/features/casefold"), (0xf2f5_2010, "/sys/fs/f2fs/features/casefold")];

const TMPFS: i64 = 0x0102_1994;

/// Those that were met.
#[derive(Debug, Default)]
pub struct Folded {
    /// There may be some.
    is_able: bool,
    any: AtomicBool,
    /// By inode number.
    dirs: RwLock<HashSet<u64>>,
}

impl Folded {
    /// On the filesystem of the re-exported directory, whose attributes are `stat`.
    pub fn new(root: &Mount, stat: &Statx) -> Self {
        let kind = filesystem(&root.fd);
        let says = |table: &str| {
            let mut lines = table.lines().filter(|line| line.starts_with(&format!("{} ", root.id)));
            lines.any(|line| line.rsplit(' ').next().is_some_and(|options| options.contains("casefold")))
        };
        let is_able = match kind {
            Some(TMPFS) => std::fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| says(&table)),
            kind => ABLE.iter().any(|(able, path)| kind == Some(*able) && Path::new(path).exists()),
        };
        let folded = Self { is_able, ..Self::default() };
        folded.meets(stat.stx_ino, || Ok(&root.fd));
        folded
    }

    /// May there be any at all?
    pub fn is_able(&self) -> bool {
        self.is_able
    }

    /// A directory that the kernel is about to learn of, which `open` opens for reading.
    pub fn meets<F: AsFd>(&self, ino: u64, open: impl FnOnce() -> io::Result<F>) {
        if !self.is_able {
            return;
        }
        let flags = open().and_then(|fd| Ok(ioctl_getflags(fd)?));
        self.met(ino, flags.map_or(true, |flags| flags.contains(CASEFOLD)));
    }

    fn met(&self, ino: u64, is_folded: bool) {
        if is_folded {
            self.dirs.write().unwrap_or_else(PoisonError::into_inner).insert(ino);
            self.any.store(true, Ordering::Release);
        } else if self.has(ino) {
            // Another directory had its number.
            self.dirs.write().unwrap_or_else(PoisonError::into_inner).remove(&ino);
        }
    }

    /// Is this one of them, or was it not possible to see?
    pub fn has(&self, ino: u64) -> bool {
        self.any.load(Ordering::Acquire)
            && self.dirs.read().unwrap_or_else(PoisonError::into_inner).contains(&ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_folded_or_cannot_be_seen_is_remembered_for_a_moment() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || std::fs::File::open(dir.path());
        let unable = Folded::default();
        unable.meets(1, || Err::<std::fs::File, _>(io::ErrorKind::PermissionDenied.into()));
        assert!(!unable.has(1));
        let able = Folded { is_able: true, ..Folded::default() };
        able.meets(1, open);
        able.meets(2, || Err::<std::fs::File, _>(io::ErrorKind::PermissionDenied.into()));
        able.met(3, true);
        assert_eq!([1, 2, 3].map(|ino| able.has(ino)), [false, true, true]);
        able.met(3, false);
        assert!(!able.has(3));
    }
}
