//! What a file is recognised by, and found again.

use super::{
    mounts::{Mount, Mounts},
    sys::RawHandle,
};
use fusewire::{FileType, NodeId};
use rustix::fs::{Statx, StatxFlags};
use std::hash::{Hash, Hasher};

/// Identity of a lower file.
///
/// While a descriptor of the file is open, device and inode number are its alone. Afterwards the birth time tells it
/// from a later file of the same number, and where there are handles these are compared besides.
///
/// The mount is part of it: the same file seen through two mounts may be writable through one of them only, and a
/// directory may have other filesystems mounted inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileKey {
    /// Which mount.
    pub mount: u16,
    /// Which device, in the order in which they were met: a mount of btrfs has many.
    device: u16,
    /// Never changes; it tells files apart where birth times are missing.
    pub kind: FileType,
    ino: u64,
    /// Birth time in one number, 0 where it is not known.
    birth: u64,
}

impl Hash for FileKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.ino ^ u64::from(self.device) << 48);
        state.write_u64(self.birth ^ u64::from(self.mount));
    }
}

impl FileKey {
    /// Identity of a file with these attributes.
    pub fn new(mounts: &Mounts, mount: &Mount, stat: &Statx) -> Self {
        let birth = &stat.stx_btime;
        let known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let birth = if known { (birth.tv_sec as u64) << 30 ^ u64::from(birth.tv_nsec) } else { 0 };
        let kind = FileType::from_mode(stat.stx_mode.into()).unwrap_or(FileType::Regular);
        Self { mount: mount.index, device: mounts.device(stat), kind, ino: stat.stx_ino, birth }
    }

    /// Identity of a node whose file is gone for good: that of no file.
    pub fn lost(node: NodeId) -> Self {
        Self { mount: 0, device: u16::MAX, kind: FileType::Regular, ino: node.raw(), birth: u64::MAX }
    }

    /// Inode number.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// Is it on the filesystem of the re-exported directory itself?
    pub fn is_on_root_device(&self) -> bool {
        self.device == 0
    }

    /// Identity of a file that is not the one known by this key, as its handle says.
    pub fn told_apart(&self, handle: &Handle) -> Self {
        let mut mixed = self.birth ^ 1 << 63;
        for byte in handle.raw().bytes() {
            mixed = (mixed ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self { birth: mixed | 1 << 63, ..*self }
    }
}

/// Handles up to this long are kept in place. ext4 has 8 bytes, tmpfs and XFS 12, btrfs 20.
const INLINE: usize = 20;

/// The lower filesystem's own name for a file, by which it can be opened again, whatever its names and wherever they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handle {
    /// A handle, followed by zeros.
    Short {
        /// Length.
        len: u8,
        /// Kind of handle.
        kind: i32,
        /// Content.
        bytes: [u8; INLINE],
    },
    /// The same where it is long.
    Long(i32, Box<[u8]>),
}

impl Handle {
    /// What `name_to_handle_at` said.
    pub fn new(raw: &RawHandle) -> Self {
        match raw.bytes() {
            short if short.len() <= INLINE => {
                let mut bytes = [0; INLINE];
                bytes[..short.len()].copy_from_slice(short);
                Self::Short { len: short.len() as u8, kind: raw.kind, bytes }
            }
            long => Self::Long(raw.kind, long.into()),
        }
    }

    /// What `open_by_handle_at` wants.
    pub fn raw(&self) -> RawHandle {
        match self {
            Self::Short { len, kind, bytes } => RawHandle::new(*kind, &bytes[..*len as usize]),
            Self::Long(kind, bytes) => RawHandle::new(*kind, bytes),
        }
    }
}

/// Does a handle contain this inode number?
///
/// Almost every filesystem puts it there, in 32 or 64 bits. If it does, handle and inode number, which come from two
/// system calls, belong to the same file; if not, nothing is known.
pub fn mentions(handle: &RawHandle, ino: u64) -> bool {
    let bytes = handle.bytes();
    match u32::try_from(ino) {
        Ok(ino) => bytes.chunks_exact(4).any(|word| word == ino.to_ne_bytes()),
        Err(_) => {
            let wide = ino.to_ne_bytes();
            bytes.windows(8).step_by(4).any(|word| word == wide)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_given_back_as_it_was() {
        for len in [0, 8, INLINE, INLINE + 1, 128] {
            let bytes: Vec<u8> = (0..len as u8).collect();
            let raw = Handle::new(&RawHandle::new(-7, &bytes)).raw();
            assert_eq!((raw.kind, raw.bytes()), (-7, &bytes[..]));
        }
    }

    #[test]
    fn handles_differ_in_every_part() {
        let handle = |kind, bytes: &[u8]| Handle::new(&RawHandle::new(kind, bytes));
        let base = handle(1, &[1, 2, 3, 4]);
        assert_eq!(base, handle(1, &[1, 2, 3, 4]));
        for other in [handle(2, &[1, 2, 3, 4]), handle(1, &[1, 2, 3, 4, 0]), handle(1, &[1, 2, 3, 5])] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_file_told_apart_has_another_key() {
        let key = FileKey { mount: 0, device: 0, kind: FileType::Regular, ino: 5, birth: 77 };
        let one = key.told_apart(&Handle::new(&RawHandle::new(1, &[5, 1])));
        let two = key.told_apart(&Handle::new(&RawHandle::new(1, &[5, 2])));
        assert!(one != key && two != key && one != two);
    }

    #[test]
    fn inode_numbers_are_found_in_handles() {
        let words = |words: &[u32]| {
            RawHandle::new(1, &words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>())
        };
        assert!(mentions(&words(&[12, 99]), 12));
        assert!(mentions(&words(&[99, 12, 0]), 12));
        assert!(!mentions(&words(&[99, 13, 0]), 12));
        assert!(!mentions(&words(&[]), 12));
        let wide = 5 << 32 | 12;
        assert!(mentions(&words(&[99, 12, 5]), wide) == cfg!(target_endian = "little"));
        assert!(!mentions(&words(&[99, 12, 6]), wide));
    }

    #[test]
    fn keys_and_handles_are_small() {
        assert_eq!((size_of::<FileKey>(), size_of::<Handle>()), (24, 32));
    }
}
