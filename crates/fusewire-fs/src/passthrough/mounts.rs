//! The lower mounts: that of the directory, and those inside it.

use super::{
    fds::{Budget, Fd},
    options::FileHandles,
    sys,
};
use rustix::{
    fs::{AtFlags, Mode, OFlags, Statx, StatxFlags},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CStr, c_int},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

/// What is asked of `statx` everywhere.
pub const FIELDS: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME).union(StatxFlags::MNT_ID);

/// How many mounts there may be inside the directory: so many parts of so many places, each of which is made when it is needed.
const PARTS: usize = 64;
const PLACES: usize = 64;

/// Places for mounts; what was put there stays where it is.
#[derive(Debug, Default)]
struct Part(OnceLock<Box<[OnceLock<Mount>]>>);

impl Part {
    fn at(&self, place: usize) -> Option<&Mount> {
        self.0.get()?.get(place)?.get()
    }

    fn slot(&self, place: usize) -> &OnceLock<Mount> {
        &self.0.get_or_init(|| (0..PLACES).map(|_| OnceLock::new()).collect())[place]
    }
}

/// Lower filesystems that hand out handles which lead nowhere once the file has dropped out of memory.
const UNSTABLE: &[(i64, &str)] = &[(0x4d44, "FAT"), (0x2011_bab0, "exFAT"), (0x6573_5546, "FUSE")];

/// Lower filesystems that report errors of earlier writes when a file is closed: NFS, SMB, SMB2, CIFS, FUSE, 9P, Ceph,
/// AFS, Coda, overlayfs.
const REMOTE: &[i64] = &[
    0x6969,
    0x517b,
    0xfe53_4d42,
    0xff53_4d42,
    0x6573_5546,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x7375_7245,
    0x794c_7630,
];

/// Lower filesystems that may be stacked on others: overlayfs, eCryptfs, FUSE.
const STACKED: &[i64] = &[0x794c_7630, 0xf15f, 0x6573_5546];

/// Lower filesystems on which number and birth time tell files apart, once they are older than a tick of the clock: ext2 to
/// ext4, XFS, Btrfs, tmpfs, F2FS. Their birth times are by the clock of this machine, as exact as that is, and nobody can
/// change them.
const BIRTHS: &[i64] = &[0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010];

/// Lower filesystems that no other machine can change: ext2 to ext4, XFS, Btrfs, tmpfs, F2FS.
const LOCAL: &[i64] = BIRTHS;

/// Lower filesystems whose files have content that is made when it is read, and say that they are empty or change without saying
/// so: proc, sysfs, both kinds of cgroup, debugfs, tracefs, securityfs, configfs, selinuxfs, fusectl.
const GENERATED: &[i64] = &[
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x6265_6570,
    0xf97c_ff8c,
    0x6573_5543,
];

/// Lower filesystems of which the ring reads files at once if they are in memory, and whether it writes them so, too
/// (`FMODE_NOWAIT`, `FOP_BUFFER_WASYNC`); for others it takes another thread: ext4, XFS, Btrfs.
const NOWAIT: &[(i64, bool)] = &[(0xef53, false), (0x5846_5342, true), (0x9123_683e, true)];

/// One lower mount.
#[derive(Debug)]
pub struct Mount {
    /// Its place in the table.
    pub index: u16,
    /// The kernel's number for it. Not given to another mount as long as `fd` is open.
    pub id: u64,
    /// The root of it, or the directory that is re-exported: what handles are opened at. Not `O_PATH` where `handles`.
    pub fd: Anchor,
    /// Whether handles can be opened again.
    pub handles: bool,
    /// Whether closing a file tells of errors.
    pub flush_errors: bool,
    /// Whether its files have no content of which copies could be kept.
    pub is_generated: bool,
    /// Whether the ring reads at once, and whether it writes at once.
    nowait: (bool, bool),
    /// The device on which number and birth time tell files apart. Of others, such as the subvolumes of Btrfs, that may be
    /// inside the mount, a number may be given to a new one, with the same files in it.
    births: Option<(u32, u32)>,
}

impl Mount {
    /// Does the ring at once all that a file opened with these flags is for?
    pub fn is_at_once(&self, flags: OFlags) -> bool {
        let (reads, writes) = self.nowait;
        reads && (writes || flags.contains(OFlags::DIRECT) || flags & OFlags::RWMODE == OFlags::RDONLY)
    }

    /// Can only this machine change it, as far as is known?
    pub fn is_local(&self) -> bool {
        filesystem(&self.fd).is_some_and(|kind| LOCAL.contains(&kind))
    }

    /// Does no other file have, or get later, the number and birth time of this one, unless it is born in the same tick of
    /// the clock?
    pub fn has_births(&self, stat: &Statx) -> bool {
        let known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        known && self.births == Some((stat.stx_dev_major, stat.stx_dev_minor))
    }
}

/// A descriptor of a mount. That of the root is not counted, so that there always is one.
#[derive(Debug)]
pub enum Anchor {
    /// The re-exported directory.
    Root(OwnedFd),
    /// A mount inside.
    Inside(Fd),
}

impl AsFd for Anchor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Root(fd) => fd.as_fd(),
            Self::Inside(fd) => fd.as_fd(),
        }
    }
}

/// The mounts met so far. They stay: a number once given to a mount is not given to another.
#[derive(Debug)]
pub struct Mounts {
    all: [Part; PARTS],
    /// From the kernel's number to the place; locked while a mount is added.
    known: Mutex<HashMap<u64, u16>>,
    wanted: FileHandles,
    /// Device of the root: (major, minor).
    root_device: (u32, u32),
    devices: RwLock<HashMap<(u32, u32), u16>>,
}

impl Mounts {
    /// How deep filesystems may be stacked below the mount (`max_stack_depth`): 1 for most. With 2, nothing can be stacked on the
    /// mount any more, such as overlayfs.
    pub fn stack_depth(&self) -> u32 {
        let magic = rustix::fs::fstatfs(&self.root().fd).map_or(0, |stat| stat.f_type);
        if STACKED.contains(&magic) { 2 } else { 1 }
    }

    /// Begin with the mount that holds `root`, a descriptor that is not `O_PATH`.
    pub fn new(root: OwnedFd, wanted: FileHandles) -> rustix::io::Result<Self> {
        let stat = rustix::fs::statx(&root, c"", AtFlags::EMPTY_PATH, FIELDS)?;
        let handles = choose(&root, &stat, wanted)?;
        let kind = filesystem(&root);
        let (flush_errors, is_generated) = (tells_at_close(kind), is_generated(kind));
        let (births, nowait) = (births(kind, &stat), nowait(kind));
        let all: [Part; PARTS] = std::array::from_fn(|_| Part::default());
        let id = stat.stx_mnt_id;
        let fd = Anchor::Root(root);
        let mount = Mount { index: 0, id, fd, handles, flush_errors, is_generated, nowait, births };
        let known = HashMap::from([(mount.id, 0)]);
        if all[0].slot(0).set(mount).is_err() {
            return Err(Errno::EXIST);
        }
        let root_device = (stat.stx_dev_major, stat.stx_dev_minor);
        let devices = RwLock::new(HashMap::from([(root_device, 0)]));
        Ok(Self { all, known: Mutex::new(known), wanted, root_device, devices })
    }

    /// The mount of the re-exported directory.
    pub fn root(&self) -> &Mount {
        self.at(0)
    }

    /// Is there no other mount, as far as is known?
    pub fn is_one(&self) -> bool {
        self.all[0].at(1).is_none()
    }

    /// A mount by its place, which must have come from here.
    pub fn at(&self, index: u16) -> &Mount {
        let (part, place) = (index as usize / PLACES, index as usize % PLACES);
        self.all[part].at(place).expect("places are handed out once they are filled")
    }

    /// The mount that `stat`, a file's in `dir`, is on. `near` is a guess.
    pub fn of(
        &self,
        near: u16,
        stat: &Statx,
        (dir, name): (&Fd, &CStr),
        budget: &Arc<Budget>,
    ) -> rustix::io::Result<&Mount> {
        let near = self.at(near);
        if near.id == stat.stx_mnt_id {
            return Ok(near);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&index) = known.get(&stat.stx_mnt_id) {
            return Ok(self.at(index));
        }
        let mount = self.enter(known.len(), stat, (dir, name), budget)?;
        known.insert(mount.id, mount.index);
        Ok(mount)
    }

    /// Take in a mount that a lookup has come across.
    fn enter(
        &self,
        place: usize,
        stat: &Statx,
        (dir, name): (&Fd, &CStr),
        budget: &Arc<Budget>,
    ) -> rustix::io::Result<&Mount> {
        let slot = self.all.get(place / PLACES).ok_or(Errno::NFILE)?.slot(place % PLACES);
        let permit = budget.take().ok_or(Errno::MFILE)?;
        // Only directories and regular files are opened for real; opening anything else could block or act.
        let kind = stat.stx_mode as u32 & libc::S_IFMT;
        let real = kind == libc::S_IFDIR || kind == libc::S_IFREG;
        let access = if real { OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY } else { OFlags::PATH };
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (fd, real) = match rustix::fs::openat(dir, name, access | flags, Mode::empty()) {
            Ok(fd) => (fd, real),
            Err(_) => (rustix::fs::openat(dir, name, OFlags::PATH | flags, Mode::empty())?, false),
        };
        let now = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, FIELDS)?;
        if now.stx_mnt_id != stat.stx_mnt_id || now.stx_ino != stat.stx_ino {
            // Somebody has just mounted or unmounted something: the caller asks anew.
            return Err(Errno::AGAIN);
        }
        // Where handles are demanded they are demanded of the directory itself: an odd mount inside is no reason to stop.
        let wanted = if self.wanted == FileHandles::Never { FileHandles::Never } else { FileHandles::Auto };
        let handles = real && choose(&fd, &now, wanted)?;
        let kind = filesystem(&fd);
        let (flush_errors, is_generated) = (tells_at_close(kind), is_generated(kind));
        let (births, nowait) = (births(kind, &now), nowait(kind));
        let mount = Mount {
            index: place as u16,
            id: now.stx_mnt_id,
            fd: Anchor::Inside(Fd::new(fd, permit)),
            handles,
            flush_errors,
            is_generated,
            nowait,
            births,
        };
        tracing::debug!(mount = mount.id, index = place, handles, "mount inside the directory");
        Ok(slot.get_or_init(|| mount))
    }

    /// A small number for the device a file is on; 0 is the root's.
    pub fn device(&self, stat: &Statx) -> u16 {
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        if device == self.root_device {
            return 0;
        }
        if let Some(&number) = self.devices.read().unwrap_or_else(PoisonError::into_inner).get(&device) {
            return number;
        }
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        let next = u16::try_from(devices.len()).unwrap_or(u16::MAX);
        *devices.entry(device).or_insert(next)
    }

    /// Inode number as clients see it: the lower one on the root's device, and one that no file there has elsewhere.
    pub fn ino(&self, stat: &Statx) -> u64 {
        on_device(stat.stx_ino, self.device(stat))
    }
}

/// Inode number of a file on the device of that number. Lower inode numbers do not reach into the upper bits on any
/// filesystem that is not gigantic; `st_dev` is the same for all files of a mount, so these must differ.
pub fn on_device(ino: u64, device: u16) -> u64 {
    ino ^ u64::from(device) << 48
}

/// The type of filesystem that a descriptor is of (`f_type`).
pub fn filesystem(fd: impl AsFd) -> Option<i64> {
    #[allow(clippy::unnecessary_cast)] // The type of `f_type` differs between architectures.
    rustix::fs::fstatfs(fd).ok().map(|stat| stat.f_type)
}

fn tells_at_close(kind: Option<i64>) -> bool {
    kind.is_none_or(|kind| REMOTE.contains(&kind))
}

fn is_generated(kind: Option<i64>) -> bool {
    kind.is_some_and(|kind| GENERATED.contains(&kind))
}

fn nowait(kind: Option<i64>) -> (bool, bool) {
    NOWAIT
        .iter()
        .find(|(known, _)| kind == Some(*known))
        .map_or((false, false), |&(_, writes)| (true, writes))
}

fn births(kind: Option<i64>, stat: &Statx) -> Option<(u32, u32)> {
    let known = kind.is_some_and(|kind| BIRTHS.contains(&kind));
    known.then_some((stat.stx_dev_major, stat.stx_dev_minor))
}

/// Decide whether files of a mount are to be recognised by their handles.
fn choose(fd: &OwnedFd, stat: &Statx, wanted: FileHandles) -> rustix::io::Result<bool> {
    if wanted == FileHandles::Never {
        return Ok(false);
    }
    let refused = match trial(fd, stat) {
        Ok(()) => None,
        Err((what, error)) => Some((what, error)),
    };
    let unstable = filesystem(fd).and_then(|kind| UNSTABLE.iter().find(|(magic, _)| *magic == kind));
    match (refused, unstable, wanted) {
        (None, None, _) => {
            tracing::info!("files are recognised by their handles");
            Ok(true)
        }
        (None, Some((_, name)), FileHandles::Always) => {
            tracing::warn!("handles of {name} do not last; files may become stale");
            Ok(true)
        }
        (None, Some((_, name)), _) => {
            tracing::info!("handles of {name} do not last: keeping descriptors instead");
            Ok(false)
        }
        (Some((what, error)), _, FileHandles::Always) => {
            tracing::error!(%error, "no file handles: {what} failed");
            Err(error)
        }
        (Some((what, error)), ..) => {
            tracing::info!(%error, "no file handles: {what} failed; keeping descriptors instead");
            Ok(false)
        }
    }
}

/// Make a handle of the root and open it.
fn trial(fd: &OwnedFd, stat: &Statx) -> Result<(), (&'static str, Errno)> {
    let (handle, _) = sys::name_to_handle_at(fd, c"", libc::AT_EMPTY_PATH as c_int)
        .map_err(|error| ("name_to_handle_at", error))?;
    let opened = sys::open_by_handle_at(fd, &handle, OFlags::PATH.union(OFlags::CLOEXEC).bits())
        .map_err(|error| ("open_by_handle_at", error))?;
    let again =
        rustix::fs::statx(&opened, c"", AtFlags::EMPTY_PATH, FIELDS).map_err(|error| ("statx", error))?;
    let same = (again.stx_ino, again.stx_dev_major, again.stx_dev_minor)
        == (stat.stx_ino, stat.stx_dev_major, stat.stx_dev_minor);
    if same { Ok(()) } else { Err(("finding the root by its handle", Errno::STALE)) }
}
