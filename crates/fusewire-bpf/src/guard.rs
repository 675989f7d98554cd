//! Having the kernel give answers again that a mount's server has given before: not allowed, not there.
//!
//! The programs are security modules (BPF LSM), which see every access on the machine and pass on all but those to the guarded mount.
//! They can refuse and nothing else, so what they do not know is asked of the server as ever.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{Array, HashMap, MapData};
use aya::programs::{Lsm, ProgramError};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use rustix::fs::MemfdFlags;
use rustix::time::ClockId;

use crate::load::{self, Reason, Refused};

/// Longest name of an attribute that is remembered to be absent.
const NAME: usize = 64;
const DENIED_KEY: usize = 24;
const NODE_KEY: usize = 16;
/// How many kinds of subjects a list may tell apart.
pub const SUBJECTS: usize = 12;
const CLOSED: usize = 8 + SUBJECTS * 20;
const ABSENT_KEY: usize = 16 + NAME;
/// What is not a mount: the kernel's own filesystems have no device 0.
const NO_DEVICE: u64 = 0;

/// Words of the map `state`, as in the programs.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Word {
    Device,
    Superblock,
    DeniedVersion,
    DeniedCount,
    AbsentCount,
    TestProcess,
    TestDevice,
    TestInode,
}

/// The hooks of refusals and their programs.
const DENYING: [(&str, &str); 3] = [
    ("guard_permission", "inode_permission"),
    ("guard_getattr", "inode_getattr"),
    ("guard_open", "file_open"),
];
/// The hooks of absent attributes and their programs.
const ABSENT: [(&str, &str); 2] = [("guard_getxattr", "inode_getxattr"), ("guard_get_acl", GET_ACL)];
/// Not there before Linux 6.2, where the one before it was called for access control lists, too.
const GET_ACL: &str = "inode_get_acl";

/// Which answers the kernel is to give. What it need not give costs the machine nothing: its hooks have no program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// «Not allowed», and «there is no such attribute».
    All,
    /// The second alone: attributes, and access control lists, which are attributes to those who ask. [`Guard::deny`] and
    /// [`Guard::close`] have no effect.
    Absent,
}

impl Scope {
    fn programs(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let denying = DENYING.into_iter().filter(move |_| self == Self::All);
        denying.chain(ABSENT)
    }
}

/// A node of the guarded mount: its number and, as the number is used again, which use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The protocol's number.
    pub node: u64,
    /// Which use, as the kernel was told.
    pub generation: u64,
}

/// Subjects that are treated alike: those with user and group in these ranges, ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subjects {
    /// Whether they are denied.
    pub denied: bool,
    /// Users.
    pub uids: (u32, u32),
    /// Groups.
    pub gids: (u32, u32),
}

/// How often the kernel gave an answer by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// «Not allowed.»
    pub denied: u64,
    /// «There is no such attribute.»
    pub absent: u64,
}

/// Programs that answer; they are gone when this is dropped.
#[derive(Debug)]
pub struct Guard {
    /// Keeps programs and maps in the kernel.
    _bpf: Ebpf,
    maps: Mutex<Maps>,
}

struct Maps {
    denied: HashMap<MapData, [u8; DENIED_KEY], u32>,
    closed: HashMap<MapData, [u8; NODE_KEY], [u8; CLOSED]>,
    absent: HashMap<MapData, [u8; ABSENT_KEY], u64>,
    state: Array<MapData, u64>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

impl Maps {
    fn take(bpf: &mut Ebpf) -> Option<Self> {
        Some(Self {
            denied: HashMap::try_from(bpf.take_map("denied")?).ok()?,
            closed: HashMap::try_from(bpf.take_map("closed")?).ok()?,
            absent: HashMap::try_from(bpf.take_map("absent")?).ok()?,
            state: Array::try_from(bpf.take_map("state")?).ok()?,
        })
    }

    fn set(&mut self, word: Word, value: u64) -> bool {
        self.state.set(word as u32, value, 0).is_ok()
    }

    fn get(&self, word: Word) -> u64 {
        self.state.get(&(word as u32), 0).unwrap_or(0)
    }
}

impl Guard {
    /// Loads and attaches the programs, and tries them on a file of this process. They guard nothing yet.
    ///
    /// # Errors
    /// When the kernel does not load them, or what they return has no effect. That `bpf` stands in the list of security modules
    /// says neither.
    pub fn start(scope: Scope) -> Result<Self, Refused> {
        let types = load::kernel_types()?;
        let object = include_bytes_aligned!("bpf/guard.bpf.o");
        let mut bpf = EbpfLoader::new()
            .btf(Some(&types))
            .load(object)
            .map_err(|error| Refused::by("loading the guard", &error))?;
        for (name, hook) in scope.programs() {
            let program = bpf.program_mut(name).expect("the object file has the program");
            let program: &mut Lsm = program.try_into().expect("a security module");
            match program.load(hook, &types) {
                Ok(()) => {}
                Err(ProgramError::Btf(_)) if hook == GET_ACL => continue,
                Err(ProgramError::Btf(_)) => {
                    return Err(Refused::new(Reason::Unsupported, hook, "the kernel has no such hook"));
                }
                Err(error) => return Err(Refused::by(hook, &error)),
            }
            program.attach().map_err(|error| Refused::by(hook, &error))?;
        }
        let maps = Maps::take(&mut bpf).expect("the object file has the maps");
        let guard = Self { _bpf: bpf, maps: Mutex::new(maps) };
        guard.test(scope)?;
        Ok(guard)
    }

    fn maps(&self) -> std::sync::MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On a file without a name, which nobody else can reach.
    fn test(&self, scope: Scope) -> Result<(), Refused> {
        const WHAT: &str = "trying the guard";
        let failed = |error: rustix::io::Errno| Refused::by(WHAT, &io::Error::from(error));
        let file = rustix::fs::memfd_create("fusewire-guard", MemfdFlags::CLOEXEC).map_err(failed)?;
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        let device =
            (u64::from(rustix::fs::major(stat.st_dev)) << 20) | u64::from(rustix::fs::minor(stat.st_dev));
        let words = [
            (Word::TestInode, stat.st_ino),
            (Word::TestDevice, device),
            (Word::TestProcess, u64::from(std::process::id())),
        ];
        if !words.into_iter().all(|(word, value)| self.maps().set(word, value)) {
            return Err(Refused::new(Reason::Unsupported, WHAT, "its maps cannot be written"));
        }
        let opened = File::open(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()));
        // Of this kind the kernel asks no other hook before; and without the guard it says that it knows none such.
        let asked = rustix::fs::fgetxattr(&file, "system.fusewire", &mut [0_u8; 1][..]);
        self.maps().set(Word::TestProcess, 0);
        let denies = match scope {
            Scope::All => opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied),
            Scope::Absent => opened.is_ok(),
        };
        match (denies, asked) {
            (true, Err(rustix::io::Errno::NODATA)) => Ok(()),
            (true, _) => Err(Refused::new(Reason::Unsupported, WHAT, "attributes are not found absent")),
            (false, _) => Err(Refused::new(
                Reason::Unsupported,
                WHAT,
                "what it denies is allowed, or the other way round",
            )),
        }
    }

    /// Guards the mount with this number, which is that of its connection.
    pub fn guard(&self, connection: u64) {
        let mut maps = self.maps();
        maps.set(Word::Superblock, 0);
        maps.set(Word::Device, connection);
    }

    /// Guards nothing any more.
    pub fn rest(&self) {
        self.maps().set(Word::Device, NO_DEVICE);
    }

    /// Whoever has these ids may not do these actions (bits as in the programs) to a node, as of this version of what is
    /// known. Adds to what was said before. Of no effect in the scope of absent attributes.
    pub fn deny(&self, node: Node, (uid, gid): (u32, u32), actions: u16, version: u64) {
        let key = denied_key(node, (uid, gid), version);
        let mut maps = self.maps();
        let before = maps.denied.get(&key, 0).unwrap_or(0);
        // If there is no room, the server is asked.
        _ = maps.denied.insert(key, before | u32::from(actions), 0);
    }

    /// From now on this version of denials holds, and no other.
    pub fn denials_of(&self, version: u64) {
        self.maps().set(Word::DeniedVersion, u64::from(version as u32));
    }

    /// Who has access to a node: the first that fits decides, and `others_denied` for the rest. Whether the kernel will see to it;
    /// if not there is no room, or the list is longer than [`SUBJECTS`], and what was said before still holds.
    pub fn close(&self, node: Node, list: &[Subjects], others_denied: bool) -> bool {
        let Some(value) = closed_value(list, others_denied) else { return false };
        self.maps().closed.insert(node_key(node), value, 0).is_ok()
    }

    /// Everybody has access to a node again, or nobody will ask.
    pub fn open(&self, node: Node) {
        _ = self.maps().closed.remove(&node_key(node));
    }

    /// The node has no attribute of that name, for so long. Names that are too long are not remembered.
    pub fn absent(&self, node: Node, name: &[u8], valid: Duration) {
        let Some(key) = absent_key(node, name) else { return };
        let now = rustix::time::clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec.cast_unsigned() as u32);
        let until = u64::try_from(now.saturating_add(valid).as_nanos()).unwrap_or(u64::MAX);
        _ = self.maps().absent.insert(key, until, 0);
    }

    /// It may have one now. No answer from before is given once this returns.
    pub fn perhaps_present(&self, node: Node, name: &[u8]) {
        if let Some(key) = absent_key(node, name) {
            _ = self.maps().absent.remove(&key);
        }
    }

    /// How often the kernel answered.
    pub fn answers(&self) -> Answers {
        let maps = self.maps();
        Answers { denied: maps.get(Word::DeniedCount), absent: maps.get(Word::AbsentCount) }
    }
}

/// The kernel keeps 32 bits of a generation.
fn head(node: Node) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&node.node.to_ne_bytes());
    bytes[8..].copy_from_slice(&(node.generation as u32).to_ne_bytes());
    bytes
}

fn node_key(node: Node) -> [u8; NODE_KEY] {
    let mut key = [0; NODE_KEY];
    key[..12].copy_from_slice(&head(node));
    key
}

fn closed_value(list: &[Subjects], others_denied: bool) -> Option<[u8; CLOSED]> {
    let mut value = [0; CLOSED];
    let words =
        list.iter().flat_map(|one| [u32::from(one.denied), one.uids.0, one.uids.1, one.gids.0, one.gids.1]);
    let words = [list.len() as u32, u32::from(others_denied)].into_iter().chain(words);
    (list.len() <= SUBJECTS).then(|| {
        value
            .chunks_exact_mut(4)
            .zip(words)
            .for_each(|(place, word)| place.copy_from_slice(&word.to_ne_bytes()));
        value
    })
}

fn denied_key(node: Node, (uid, gid): (u32, u32), version: u64) -> [u8; DENIED_KEY] {
    let mut key = [0; DENIED_KEY];
    key[..12].copy_from_slice(&head(node));
    for (place, word) in key[12..].chunks_exact_mut(4).zip([uid, gid, version as u32]) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    key
}

fn absent_key(node: Node, name: &[u8]) -> Option<[u8; ABSENT_KEY]> {
    let mut key = [0; ABSENT_KEY];
    key[..12].copy_from_slice(&head(node));
    // With its NUL, it must not fill the place: the program could not tell whether there is more.
    (name.len() + 1 < NAME).then(|| {
        key[16..16 + name.len()].copy_from_slice(name);
        key
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_laid_out_as_in_the_programs() {
        let node = Node { node: 0x0102, generation: 7 };
        let key = denied_key(node, (1, 2), 3);
        let word = |at: usize| u32::from_ne_bytes(key[at..at + 4].try_into().expect("four"));
        assert_eq!([word(8), word(12), word(16), word(20)], [7, 1, 2, 3]);
        assert_eq!(absent_key(node, b"user.x").map(|key| (key[16], key[21], key[22])), Some((b'u', b'x', 0)));
        assert!(absent_key(node, &[b'x'; 62]).is_some() && absent_key(node, &[b'x'; 63]).is_none());
    }
}
