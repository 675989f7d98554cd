//! Mounting by system calls: the mount API of Linux 5.2 step by step, or `mount(2)` where that is missing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::error::MountError;
use super::options::{MAX_VALUE, MountOptions};
use super::place::Place;
use super::table::Identity;
use super::{init, table};

/// A filesystem that is being set up and is not visible yet.
pub(super) struct Context<'a> {
    fd: OwnedFd,
    place: &'a Place,
}

impl<'a> Context<'a> {
    /// Begins. Nothing if this kernel, or the filter of a container, does not know the new calls.
    pub fn open(place: &'a Place) -> Result<Option<Self>, MountError> {
        match fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(fd) => Ok(Some(Self { fd, place })),
            // Filters of containers older than the calls answer EPERM; if it is meant, mount(2) says so again.
            Err(Errno::NOSYS | Errno::PERM) => Ok(None),
            Err(error) => Err(MountError::mounting("fsopen", &place.path, error, Vec::new())),
        }
    }

    /// Creates the filesystem and has INIT answered, with `sync_init` during the system call that creates it.
    /// Nobody can see it yet, and dropping the result ends it.
    pub fn create(
        self,
        device: BorrowedFd<'_>,
        options: &MountOptions,
        sync_init: bool,
        answer: impl FnOnce(BorrowedFd<'_>) -> io::Result<()> + Send,
    ) -> Result<Hidden<'a>, MountError> {
        self.configure(device, options)?;
        let refused = |source| MountError::Init { path: self.place.path.clone(), source };
        if let Some(device) = sync_init.then(|| init::Synchronous::make(device)).flatten() {
            let create = || fsconfig_create(&self.fd);
            let outcome = init::while_mounting(device, answer, create).map_err(refused)?;
            if let Some(Err(error)) = outcome.answered {
                return Err(refused(error));
            }
            outcome.mounted.map_err(|error| self.failure("fsconfig", error))?;
        } else {
            fsconfig_create(&self.fd).map_err(|error| self.failure("fsconfig", error))?;
            answer(device).map_err(refused)?;
        }
        let mount = fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes(options))
            .map_err(|error| self.failure("fsmount", error))?;
        let identity = Identity::of(mount.as_fd()).map_err(|error| self.failure("statx", error))?;
        Ok(Hidden { context: self, mount, identity })
    }

    fn configure(&self, device: BorrowedFd<'_>, options: &MountOptions) -> Result<(), MountError> {
        self.string("source", shortened(options.source()))?;
        self.string("subtype", options.subtype())?;
        for (key, value) in parameters(device, self.place, options) {
            match value {
                Some(value) => self.string(key, &value)?,
                None => self.flag(key)?,
            }
        }
        let flags = [
            ("ro", options.read_only),
            ("sync", options.sync),
            ("dirsync", options.dirsync),
            ("lazytime", options.lazytime),
        ];
        flags.iter().filter(|(_, wanted)| *wanted).try_for_each(|(key, _)| self.flag(key))
    }

    pub(super) fn string(&self, key: &str, value: &str) -> Result<(), MountError> {
        fsconfig_set_string(&self.fd, key, value).map_err(|error| self.failure("fsconfig", error))
    }

    fn flag(&self, key: &str) -> Result<(), MountError> {
        fsconfig_set_flag(&self.fd, key).map_err(|error| self.failure("fsconfig", error))
    }

    fn failure(&self, call: &'static str, error: Errno) -> MountError {
        MountError::mounting(call, &self.place.path, error, self.log())
    }

    /// What the kernel has to say; each read takes one message out of its log, `ENODATA` ends it.
    fn log(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = rustix::io::read(&self.fd, &mut buffer) {
            lines.push(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned());
        }
        lines
    }
}

/// A mount that works and is attached nowhere yet.
pub(super) struct Hidden<'a> {
    context: Context<'a>,
    mount: OwnedFd,
    identity: Identity,
}

impl Hidden<'_> {
    /// What it will be known by.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Makes it visible at the very directory that was checked.
    pub fn attach(self) -> Result<(), MountError> {
        let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.mount, c"", &self.context.place.fd, c"", both)
            .map_err(|error| self.context.failure("move_mount", error))
    }
}

/// Options of FUSE itself, as `fuse_parse_param` knows them; those without a value are flags.
fn parameters(
    device: BorrowedFd<'_>,
    place: &Place,
    options: &MountOptions,
) -> Vec<(&'static str, Option<String>)> {
    let mut parameters = vec![
        ("fd", Some(device.as_raw_fd().to_string())),
        ("rootmode", Some(format!("{:o}", place.root_mode))),
        ("user_id", Some(rustix::process::geteuid().as_raw().to_string())),
        ("group_id", Some(rustix::process::getegid().as_raw().to_string())),
    ];
    if options.default_permissions {
        parameters.push(("default_permissions", None));
    }
    if options.allow_other {
        parameters.push(("allow_other", None));
    }
    if let Some(bytes) = options.max_read {
        parameters.push(("max_read", Some(bytes.to_string())));
    }
    parameters
}

/// A source is for display only: better shortened than refused.
fn shortened(source: &str) -> &str {
    let end = source.floor_char_boundary(MAX_VALUE);
    if end < source.len() {
        tracing::warn!(
            source,
            limit = MAX_VALUE,
            "the source shown in /proc/mounts is cut to what the kernel takes"
        );
    }
    &source[..end]
}

fn attributes(options: &MountOptions) -> MountAttrFlags {
    let choices = [
        (options.read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (options.nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (options.nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
        (options.noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (options.noatime, MountAttrFlags::MOUNT_ATTR_NOATIME),
        // One field of the kernel's: both bits at once are an error, and "never" wins.
        (options.strictatime && !options.noatime, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
        (options.nodiratime, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        (options.nosymfollow, MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
    ];
    choices.iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| *flag).collect()
}

/// Mounts with `mount(2)`. INIT is then still to be answered.
pub(super) fn mount_by_syscall(
    device: BorrowedFd<'_>,
    place: &Place,
    options: &MountOptions,
) -> Result<(), MountError> {
    let choices = [
        (options.read_only, MountFlags::RDONLY),
        (options.nosuid, MountFlags::NOSUID),
        (options.nodev, MountFlags::NODEV),
        (options.noexec, MountFlags::NOEXEC),
        (options.noatime, MountFlags::NOATIME),
        (options.strictatime && !options.noatime, MountFlags::STRICTATIME),
        (options.nodiratime, MountFlags::NODIRATIME),
        (options.nosymfollow, MountFlags::NOSYMFOLLOW),
        (options.lazytime, MountFlags::LAZYTIME),
        (options.dirsync, MountFlags::DIRSYNC),
        (options.sync, MountFlags::SYNCHRONOUS),
    ];
    let flags = choices.iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| *flag).collect::<MountFlags>();
    let written = parameters(device, place, options).into_iter().map(|(key, value)| match value {
        Some(value) => format!("{key}={value}"),
        None => key.to_owned(),
    });
    let data = written.collect::<Vec<_>>().join(",");
    let fstype = format!("fuse.{}", options.subtype());
    let failure = |call, error| MountError::mounting(call, &place.path, error, Vec::new());
    let data = table::c_path(data.as_ref()).map_err(|error| failure("mount", error))?;
    // Through the descriptor, so that what is covered is what was checked.
    let target = format!("/proc/self/fd/{}", place.fd.as_raw_fd());
    rustix::mount::mount(options.source(), target, fstype, flags, Some(data.as_c_str()))
        .map_err(|error| failure("mount", error))
}
