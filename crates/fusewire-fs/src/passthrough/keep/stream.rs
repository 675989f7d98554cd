//! What a client knows as bytes, to be sent to another machine with it.
//!
//! Nobody says who wrote the bytes. So all of them are checked, and files are looked for by their paths from the directory, of which
//! none leads out of it. A file handle alone is never believed: it would reach every file of the filesystem.

use super::{Kept, KeptNode, KeptOpen, Resumed, Way};
use crate::passthrough::{LockScope, Passthrough, locks::KeptLock};
use fusewire::{FileLock, Generation, Handle, LockKind, LockOwner, NodeId, table::Restored};
use std::io;

const MAGIC: &[u8; 8] = b"fwstate\0";
/// In front of what comes from a process of the same user that is there, and is believed.
pub(super) const HANDED: &[u8; 8] = b"fwhanded";
/// Grows when the bytes mean something else.
const VERSION: u32 = 1;

/// How files are found again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finding {
    /// By their paths: the other machine has the same directory, or a copy of it.
    #[default]
    Paths,
    /// By their paths, which must lead to the same file handles: the other machine has the same filesystem.
    Handles,
}

fn wrong(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Bytes that are taken one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> io::Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len).ok_or_else(|| wrong("the state ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.bytes(4)?.try_into().map_err(io::Error::other)?))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.bytes(8)?.try_into().map_err(io::Error::other)?))
    }

    /// A node's number, which is never 0.
    fn node(&mut self) -> io::Result<NodeId> {
        match self.u64()? {
            0 => Err(wrong("the state has a node without a number")),
            number => Ok(NodeId::new(number)),
        }
    }

    /// A piece with its length in front.
    fn piece(&mut self) -> io::Result<Vec<u8>> {
        let len = self.u32()? as usize;
        Ok(self.bytes(len)?.to_vec())
    }
}

impl Reader<'_> {
    fn locks(&mut self) -> io::Result<Vec<KeptLock>> {
        let mut locks = Vec::new();
        for _ in 0..self.u64()? {
            let (node, owner) = (self.node()?, LockOwner(self.u64()?));
            let (ranges, through) = (self.u64()?, self.u64()?);
            let mut lock = KeptLock { node, owner, ranges: Vec::new(), through: Vec::new() };
            for _ in 0..ranges {
                let (start, end) = (self.u64()?, self.u64()?);
                let kind = if self.u64()? == 0 { LockKind::Read } else { LockKind::Write };
                lock.ranges.push(FileLock { start, end, kind, pid: self.u64()? as u32 });
            }
            for _ in 0..through {
                lock.through.push(Handle(self.u64()?));
            }
            locks.push(lock);
        }
        Ok(locks)
    }
}

fn piece(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
}

impl Kept {
    /// As bytes, after `beginning`: whatever it takes to begin with the client.
    pub fn encode(&self, beginning: &[u8]) -> Vec<u8> {
        self.write(MAGIC, beginning)
    }

    /// For whoever `magic` says.
    pub(super) fn write(&self, magic: &[u8; 8], beginning: &[u8]) -> Vec<u8> {
        let is_believed = magic == HANDED;
        let mut out = magic.to_vec();
        out.extend(VERSION.to_le_bytes());
        piece(&mut out, beginning);
        out.extend((self.nodes.len() as u64).to_le_bytes());
        for KeptNode { restored, way } in &self.nodes {
            [restored.id.raw(), restored.lookups, restored.generation.0]
                .iter()
                .for_each(|word| out.extend(word.to_le_bytes()));
            let place;
            let (tag, kind, handle, path) = match way {
                Way::Lost => (0u32, 0, &[][..], &[][..]),
                Way::Path(path) => (1, 0, &[][..], &path[..]),
                Way::Both { kind, handle, path } => (2, *kind, &handle[..], &path[..]),
                Way::Handle(kind, handle) if is_believed => (3, *kind, &handle[..], &[][..]),
                Way::Seen { path, device, ino } if is_believed => {
                    place = [u64::from(device.0) << 32 | u64::from(device.1), *ino]
                        .map(u64::to_le_bytes)
                        .concat();
                    (4, 0, &place[..], &path[..])
                }
                Way::Given if is_believed => (5, 0, &[][..], &[][..]),
                // Not believed by whoever reads it.
                Way::Handle(..) | Way::Seen { .. } | Way::Given => (0, 0, &[][..], &[][..]),
            };
            out.extend(tag.to_le_bytes());
            out.extend(kind.to_le_bytes());
            piece(&mut out, handle);
            piece(&mut out, path);
        }
        out.extend((self.opens.len() as u64).to_le_bytes());
        for open in &self.opens {
            [open.handle.0, open.node.raw()].iter().for_each(|word| out.extend(word.to_le_bytes()));
            out.extend(open.flags.to_le_bytes());
            out.extend(u32::from(open.directory).to_le_bytes());
        }
        if is_believed {
            self.write_locks(&mut out);
        }
        out
    }

    fn write_locks(&self, out: &mut Vec<u8>) {
        let mut word = |word: u64| out.extend(word.to_le_bytes());
        word(self.locks.len() as u64);
        for lock in &self.locks {
            [lock.node.raw(), lock.owner.0, lock.ranges.len() as u64, lock.through.len() as u64]
                .into_iter()
                .for_each(&mut word);
            for range in &lock.ranges {
                let kind = u64::from(range.kind == LockKind::Write);
                [range.start, range.end, kind, u64::from(range.pid)].into_iter().for_each(&mut word);
            }
            lock.through.iter().for_each(|handle| word(handle.0));
        }
    }

    /// The other way: what the client began with, and what it knows.
    ///
    /// # Errors
    /// If the bytes are anything else, or of another version.
    pub fn decode(bytes: &[u8]) -> io::Result<(Vec<u8>, Self)> {
        Self::read(MAGIC, bytes)
    }

    /// From whoever `magic` says.
    pub(super) fn read(magic: &[u8; 8], bytes: &[u8]) -> io::Result<(Vec<u8>, Self)> {
        let is_believed = magic == HANDED;
        let mut reader = Reader(bytes);
        if reader.bytes(magic.len())? != magic {
            return Err(wrong("this is no state of a Fusewire device: is the other daemon a Fusewire?"));
        }
        let version = reader.u32()?;
        if version != VERSION {
            return Err(wrong(format!(
                "the state is of version {version}, and this program reads {VERSION}: use the same release on both sides"
            )));
        }
        let beginning = reader.piece()?;
        let mut kept = Self::default();
        for _ in 0..reader.u64()? {
            let restored = Restored {
                id: reader.node()?,
                lookups: reader.u64()?,
                generation: Generation(reader.u64()?),
            };
            let (tag, kind) = (reader.u32()?, reader.u32()? as i32);
            let (handle, path) = (reader.piece()?, reader.piece()?);
            let way = match tag {
                0 => Way::Lost,
                1 => Way::Path(path),
                2 => Way::Both { kind, handle, path },
                3 if is_believed => Way::Handle(kind, handle),
                4 if is_believed => {
                    let mut place = Reader(&handle);
                    let (device, ino) = (place.u64()?, place.u64()?);
                    Way::Seen { path, device: ((device >> 32) as u32, device as u32), ino }
                }
                5 if is_believed => Way::Given,
                _ => return Err(wrong(format!("the state names a file in a way ({tag}) that there is not"))),
            };
            kept.nodes.push(KeptNode { restored, way });
        }
        for _ in 0..reader.u64()? {
            let (handle, node) = (Handle(reader.u64()?), reader.node()?);
            let (flags, directory) = (reader.u32()?, reader.u32()? != 0);
            kept.opens.push(KeptOpen { handle, node, flags, directory });
        }
        if is_believed {
            kept.locks = reader.locks()?;
        }
        match reader.0.is_empty() {
            true => Ok((beginning, kept)),
            false => Err(wrong("something follows the state")),
        }
    }
}

impl Passthrough {
    /// What the client knows, for another machine. Nothing must be served meanwhile. Files that cannot be found there (they have no name
    /// any more, or are on something mounted inside the directory) are an error unless `lossy`.
    ///
    /// # Errors
    /// That; or the client may have locks, which do not move.
    pub fn save(&self, mode: Finding, lossy: bool) -> io::Result<Kept> {
        if self.options.locks == LockScope::Directory {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "locks that hold on this machine, too, cannot be taken to another one: share the directory without --shared-locks",
            ));
        }
        let all = self.nodes.all_kept();
        let mut nodes = Vec::with_capacity(all.len());
        for (restored, mount, _) in all {
            let path = if mount == 0 { self.nodes.path(restored.id) } else { Err(rustix::io::Errno::XDEV) };
            let way = path.and_then(|path| match mode {
                Finding::Paths => Ok(Way::Path(path)),
                Finding::Handles => {
                    let raw = self.nodes.handle(restored.id)?.raw();
                    Ok(Way::Both { kind: raw.kind, handle: raw.bytes().to_vec(), path })
                }
            });
            let way = match way {
                Ok(way) => way,
                Err(error) if lossy => {
                    tracing::warn!(node = restored.id.raw(), %error, "a file of the guest cannot be moved with it");
                    Way::Lost
                }
                Err(error) => {
                    return Err(wrong(format!(
                        "a file that the guest knows (node {}) has no path in the directory ({error}): it was removed, or is mounted there",
                        restored.id.raw()
                    )));
                }
            };
            nodes.push(KeptNode { restored, way });
        }
        Ok(Kept { nodes, opens: self.kept_opens(), locks: Vec::new() })
    }

    /// [`resume`](Passthrough::resume) with what another machine has sent. What is lost is an error unless `lossy`.
    ///
    /// # Errors
    /// That.
    pub fn load(&mut self, kept: Kept, lossy: bool) -> io::Result<Resumed> {
        let asked = |node: &KeptNode| !matches!(node.way, Way::Lost);
        let known = kept.nodes.iter().filter(|node| asked(node)).count();
        let resumed = self.resume(kept);
        if !lossy && (resumed.nodes < known || resumed.lost_opens > 0) {
            return Err(wrong(format!(
                "{} files that the guest knows, and {} that it has open, are not in the directory: is it the same, or a full copy?",
                known - resumed.nodes.min(known),
                resumed.lost_opens
            )));
        }
        Ok(resumed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let node = |id, way| KeptNode {
            restored: Restored { id: NodeId::new(id), lookups: id * 2, generation: Generation(3) },
            way,
        };
        Kept {
            nodes: vec![
                node(33, Way::Path(b"a/b".to_vec())),
                node(34, Way::Both { kind: -1, handle: vec![1, 2], path: b"c".to_vec() }),
                node(35, Way::Lost),
            ],
            opens: vec![KeptOpen {
                handle: Handle(1 << 32),
                node: NodeId::new(33),
                flags: 2,
                directory: false,
            }],
            locks: Vec::new(),
        }
    }

    #[test]
    fn what_is_handed_over_comes_back_and_is_not_taken_for_what_another_machine_sends() {
        let seen = Way::Seen { path: b"x/y".to_vec(), device: (8, u32::MAX), ino: 1 << 40 };
        let restored = |id| Restored { id: NodeId::new(id), lookups: 1, generation: Generation(0) };
        let mut kept = kept();
        for (id, way) in [(40, Way::Handle(7, vec![3; 12])), (41, seen), (42, Way::Given)] {
            kept.nodes.push(KeptNode { restored: restored(id), way });
        }
        let range = FileLock { start: 1, end: u64::MAX, kind: LockKind::Write, pid: 9 };
        let through = vec![Handle(1 << 32)];
        kept.locks =
            vec![KeptLock { node: NodeId::new(33), owner: LockOwner(5), ranges: vec![range], through }];
        let bytes = kept.write(HANDED, b"beginning");
        assert_eq!(Kept::read(HANDED, &bytes).expect("state"), (b"beginning".to_vec(), kept.clone()));
        assert!((0..bytes.len()).all(|len| Kept::read(HANDED, &bytes[..len]).is_err()));
        assert!(Kept::decode(&bytes).is_err());
        let mut lying = bytes;
        lying[..8].copy_from_slice(MAGIC);
        assert!(Kept::decode(&lying).is_err(), "a handle alone is not believed");
        let (_, sent) = Kept::decode(&kept.encode(b"")).expect("state");
        assert!(sent.nodes[3..].iter().all(|node| node.way == Way::Lost) && sent.locks.is_empty());
    }

    #[test]
    fn bytes_come_back_as_they_were_and_damaged_ones_are_refused() {
        let bytes = kept().encode(b"beginning");
        assert_eq!(Kept::decode(&bytes).expect("state"), (b"beginning".to_vec(), kept()));
        for len in 0..bytes.len() {
            assert!(Kept::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(Kept::decode(&[&bytes[..], b"x"].concat()).is_err());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut other = bytes.clone();
                other[at] ^= 1 << bit;
                // Whatever it says: no panic, no endless memory.
                _ = Kept::decode(&other);
            }
        }
        let mut newer = bytes;
        newer[8] = 9;
        assert!(Kept::decode(&newer).unwrap_err().to_string().contains("version 9"));
    }
}
