//! How a directory is to be re-exported.

use super::{
    bounds::{Bounds, Waits},
    ids::IdMap,
    xattr_map::XattrMap,
};
use std::time::Duration;

/// Long enough for «for ever»; the kernel counts in clock ticks, so the largest `Duration` would overflow.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

/// What the kernel may remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheProfile {
    /// Nothing: every request reaches the directory. For directories that others change all the time.
    None,
    /// Names and attributes for a second, data until the file is seen to have changed. Changes made underneath are
    /// seen within a second, and at the latest when a file is opened.
    #[default]
    Auto,
    /// Everything, names that do not exist included, until somebody changes it: the kernel is told of what others do to the
    /// directory, some time below a millisecond later as a rule. It takes a local filesystem with file handles
    /// and Linux 6.16; without `CAP_SYS_ADMIN` it is so for some ten thousand files and directories, and for what this process may
    /// read. Where it cannot be had it is as [`Auto`](Self::Auto), see [`Caching::coherence`](super::Caching::coherence).
    Coherent,
    /// Everything, names that do not exist included, until it is changed through the mount. For directories that
    /// nobody else changes.
    Always,
}

/// Whether to recognise files by the file handles of the directory's filesystem (`name_to_handle_at`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileHandles {
    /// Where they work; a trial at the start says whether they do.
    #[default]
    Auto,
    /// Not at all: keep descriptors, as many as are allowed, and remember paths for the rest.
    Never,
    /// Refuse to start where they do not work.
    Always,
}

/// Who knows of locks taken through the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockScope {
    /// Everybody who uses the directory, through the mount or not.
    #[default]
    Directory,
    /// Users of this mount only: the kernel keeps them to itself.
    Mount,
}

/// For which files to ask the kernel for reads and writes without a copy, where it offers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where the lower filesystem can begin all that the open file allows without another thread of the kernel's: reads on
    /// ext4, XFS and Btrfs, writes on the latter two; with `O_DIRECT` both on all of them. Not without cache: the kernel does
    /// not gather small requests then, and they are quicker copied.
    #[default]
    Auto,
    /// For all files: that is slower where such a thread is needed.
    Always,
}

/// Whether the kernel is to read and write files by itself (`FUSE_PASSTHROUGH`, Linux 6.9). It takes `CAP_SYS_ADMIN`, and a directory
/// whose filesystem is not stacked on too many others; what cannot be had is served by requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forward {
    /// Where it pays: files of at least 64 KiB when they are opened first. Opening a file so costs about as much as one read.
    #[default]
    Auto,
    /// All files.
    Always,
    /// None.
    Off,
}

/// Whether clients' opening and closing of files is told by requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opens {
    /// Directories are opened without, files are once ten thousand have been opened and forwarding the large ones of them has saved little
    /// in comparison: where that is possible, see [`Stateless`](Self::Stateless).
    #[default]
    Auto,
    /// It is not, so opening costs nothing. What an open file would be needed for cannot be had: the kernel reads and writes no
    /// file by itself, and locks are known to the mount alone ([`LockScope::Mount`] must be asked for). It takes
    /// [`CacheProfile::Always`] or [`CacheProfile::Coherent`], since nobody checks then what is cached, and a directory with file handles. With the latter,
    /// content of what is mounted inside the directory is two seconds old at most.
    Stateless,
    /// It is, always.
    Handles,
}

/// Which files a guest with a DAX window is to map, if it leaves that to us (`dax=inode`, or nothing, at its mount). A guest that mounts with
/// `dax=always` maps all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dax {
    /// Those of at least so many bytes.
    pub min_size: u64,
    /// Those among them with a name that one of these matches, by `*` and `?`; all, if there are none. It is the name by which the
    /// guest came to know the file.
    pub names: Vec<String>,
}

/// Where the process finds its own descriptors by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Descriptors {
    /// In `/proc/self/fd`.
    #[default]
    InProc,
    /// In its working directory, for a process that has gone to `/proc/self/fd` before it changed its root directory. It stays there.
    InWorkingDirectory,
}

/// Whether something is offered to the client's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offer {
    /// As this machine has it.
    #[default]
    Machine,
    /// It is not.
    Never,
    /// It is, to kernels that want it.
    Auto,
    /// It is, and a kernel that does not want it cannot mount.
    Always,
}

/// How a directory is to be re-exported; [`Default`] suits a directory that others may change as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What the kernel may remember.
    pub cache: CacheProfile,
    /// Where `cache` is [`CacheProfile::Auto`]: [`CacheProfile::Coherent`] rather than that if the directory is on a filesystem that is
    /// known to be local, and it can be had. The log says why not, and [`Passthrough::caching`](super::Passthrough::caching) which it is.
    pub prefer_coherent: bool,
    /// Nothing else in this process changes the directory, neither itself nor as another mount of it. Matters where changes are told of file by
    /// file ([`Coherence::ToldOfKnown`](super::Coherence::ToldOfKnown)): what clients of the mount do is then known not to be news to it. If it is not so,
    /// the kernel is not told of such changes.
    pub sole: bool,
    /// For how long it may remember names; `None` leaves it to `cache`.
    pub entry_timeout: Option<Duration>,
    /// For how long it may remember attributes; `None` leaves it to `cache`.
    pub attr_timeout: Option<Duration>,
    /// For how long it may remember that a name does not exist; `None` leaves it to `cache`.
    pub negative_timeout: Option<Duration>,
    /// Whether to use file handles.
    pub file_handles: FileHandles,
    /// Who knows of locks.
    pub locks: LockScope,
    /// Whether the kernel is to read and write files by itself.
    pub forward: Forward,
    /// Whether opening and closing takes requests.
    pub opens: Opens,
    /// Whether to offer extended attributes and, with them, ACLs.
    pub xattr: bool,
    /// For which files to do without copies.
    pub zero_copy: ZeroCopy,
    /// Which files are to be mapped into a DAX window; `None`: none, and there is no window.
    pub dax: Option<Dax>,
    /// How many descriptors to use at most; `None`: as many as the process may have. The process's own limit is raised
    /// as far as it may be either way.
    pub fd_limit: Option<u64>,
    /// What else is kept for the client at most.
    pub bounds: Bounds,
    /// Where the client's filesystems have in common how many of its requests wait for locks; `None`: [`Bounds::waits`] for each alone.
    pub waits: Option<Waits>,
    /// Where the process finds its own descriptors.
    pub descriptors: Descriptors,
    /// Access control lists; without `xattr` there are none.
    pub acl: Offer,
    /// Labels of security modules for what is made.
    pub labels: Offer,
    /// Whether clients are told which directories are mounts, so that each has a device number of its own there. Only virtio-fs can.
    pub submounts: bool,
    /// Names of extended attributes.
    pub xattr_map: Option<XattrMap>,
    /// Users as clients see them, and as the directory has them. It cannot be used together with access control lists, whose
    /// ids are not translated.
    pub users: IdMap,
    /// The same for groups.
    pub groups: IdMap,
    /// Whether the kernel may gather writes, to send them later and in larger pieces. Size and times of a file are the kernel's own
    /// then, and what others do to the directory is not seen: it must not be changed in other ways. It takes a `cache` that keeps data.
    pub writeback: bool,
    /// Whether names may be listed together with their attributes.
    pub readdirplus: bool,
    /// Whether `O_NOATIME` is passed down; it is refused for files of others where the process has no right to it.
    pub noatime: bool,
}

impl Descriptors {
    /// The directory that they are in.
    pub(super) fn place(self) -> &'static std::path::Path {
        std::path::Path::new(match self {
            Self::InProc => "/proc/self/fd",
            Self::InWorkingDirectory => ".",
        })
    }

    /// What comes before the number of one.
    pub(super) fn prefix(self) -> &'static [u8] {
        match self {
            Self::InProc => b"/proc/self/fd/",
            Self::InWorkingDirectory => b"",
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache: CacheProfile::default(),
            prefer_coherent: false,
            sole: false,
            entry_timeout: None,
            attr_timeout: None,
            negative_timeout: None,
            file_handles: FileHandles::default(),
            locks: LockScope::default(),
            forward: Forward::default(),
            opens: Opens::default(),
            xattr: true,
            zero_copy: ZeroCopy::default(),
            dax: None,
            fd_limit: None,
            bounds: Bounds::default(),
            waits: None,
            descriptors: Descriptors::default(),
            acl: Offer::default(),
            labels: Offer::default(),
            submounts: false,
            xattr_map: None,
            users: IdMap::default(),
            groups: IdMap::default(),
            writeback: false,
            readdirplus: true,
            noatime: true,
        }
    }
}

/// The times that follow from the options.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub entry: Duration,
    pub attr: Duration,
    pub negative: Duration,
}

impl Options {
    pub(super) fn timeouts(&self, cache: CacheProfile) -> Timeouts {
        let (positive, negative) = match cache {
            CacheProfile::None => (Duration::ZERO, Duration::ZERO),
            // A name that somebody makes underneath is to be found at once: programs wait for files to appear.
            CacheProfile::Auto => (Duration::from_secs(1), Duration::ZERO),
            CacheProfile::Coherent | CacheProfile::Always => (FOR_EVER, FOR_EVER),
        };
        let limit = |time: Option<Duration>, default: Duration| time.unwrap_or(default).min(FOR_EVER);
        Timeouts {
            entry: limit(self.entry_timeout, positive),
            attr: limit(self.attr_timeout, positive),
            negative: limit(self.negative_timeout, negative),
        }
    }
}
