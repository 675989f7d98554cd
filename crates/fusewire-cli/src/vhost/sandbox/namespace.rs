//! Namespaces: a root directory that holds `/share`, which is the directory (or `/share0` and so on, if there are several), and `/proc`, which shows this process alone; no network,
//! no other processes, and without root a user namespace.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use fusewire_fs::passthrough::Descriptors;
use rustix::fs::{CWD, Mode, OFlags, mkdirat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::thread::UnshareFlags;

use super::super::args::Sandbox;
use super::super::sys::{self, MountFlags};
use super::warden::{self, Forked, follow_warden};
use super::{Inside, Plan, Side, Tree};
use crate::failure::{Failure, Outcome};

/// Where the directory with this number is inside, without the slash.
fn name(plan: &Plan<'_>, number: usize) -> String {
    if plan.trees.len() == 1 { "share".into() } else { format!("share{number}") }
}

/// What failed, and why.
type Step<T> = Result<T, (&'static str, std::io::Error)>;

fn step<T>(what: &'static str, result: rustix::io::Result<T>) -> Step<T> {
    result.map_err(|error| (what, error.into()))
}

/// See [`enter`](super::enter).
pub fn enter(plan: &Plan<'_>) -> Outcome<Side> {
    let root = rustix::process::geteuid().is_root();
    let users = !root || plan.ids.is_asked_for();
    if users {
        plan.ids.enter_namespace()?;
    }
    sys::unshare(UnshareFlags::NEWPID)
        .map_err(|error| refused(plan, ("a namespace for processes", error)))?;
    match warden::fork()? {
        Forked::Warden(warden) => Ok(Side::Outside(warden)),
        Forked::Child(ready) => {
            if users {
                plan.ids.become_root()?;
                follow_warden(&OwnedFd::from(
                    ready
                        .try_clone()
                        .map_err(|error| Failure::because("cannot shut the daemon in", &error))?,
                ))
                .map_err(|error| {
                    let what = format!("the process that was called is gone: {error}");
                    Failure::new(what).or_try("the same command once more")
                })?;
            }
            build(plan).map_err(|failed| refused(plan, failed))?;
            Ok(Side::Inside(Inside {
                dirs: (0..plan.trees.len()).map(|number| Path::new("/").join(name(plan, number))).collect(),
                descriptors: Descriptors::InProc,
                how: Sandbox::Namespace,
                one_user: users && !plan.ids.is_asked_for(),
                ready: Some(ready),
                _trees: Vec::new(),
            }))
        }
    }
}

fn refused(plan: &Plan<'_>, (what, error): (&'static str, std::io::Error)) -> Failure {
    Failure::new(format!("cannot shut {} in: {what}: {error}", plan.names()))
        .or_try("--sandbox chroot, as root in a container that may not make namespaces")
        .or_try("--sandbox none, where something else keeps the daemon in")
}

/// The mounts of the sandbox, and no others.
fn build(plan: &Plan<'_>) -> Step<()> {
    let spaces = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    sys::unshare(spaces).map_err(|error| ("namespaces for mounts and the network", error))?;
    // Nothing that is done here is seen outside. What is mounted in the directory later is seen here.
    let downwards = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    step("mounts of its own", mount_change("/", downwards))?;
    let shares = plan.trees.iter().map(share).collect::<Step<Vec<_>>>()?;
    // While the proc that there was is still seen: without that, a user namespace gets none.
    let proc = filesystem("proc", &[("subset", "pid")])?;
    let root = filesystem("tmpfs", &[("mode", "0755"), ("size", "64k")])?;
    // Any directory would do; that one is never the one to share, nor the root.
    step("a root directory", attach(&root, CWD, "/proc"))?;
    let shares = shares.iter().enumerate().map(|(number, share)| (share, name(plan, number)));
    for (mount, place) in shares.chain([(&proc, "proc".into())]) {
        step("a root directory", mkdirat(&root, &*place, Mode::from_raw_mode(0o755)))?;
        step("the directory in its new place", attach(mount, &root, &place))?;
    }
    sys::set_mounts(root.as_fd(), MountFlags::READ_ONLY | MountFlags::SHALLOW)
        .map_err(|error| ("a root directory that nothing is written to", error))?;
    step("the root directory", rustix::process::fchdir(&root))?;
    step("the root directory", rustix::process::pivot_root(".", "."))?;
    // The old one lies on top of the new one now.
    step("letting go of the old root directory", unmount(".", UnmountFlags::DETACH))?;
    step("the root directory", rustix::process::chdir("/"))
}

/// A copy of the directory's mounts, with no place yet.
fn share(tree: &Tree<'_>) -> Step<OwnedFd> {
    let what = "the directory";
    // It must be one, and be found, whatever it is mounted on.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = step(what, rustix::fs::open(tree.dir, flags, Mode::empty()))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let copy = step(what, open_tree(&dir, "", flags))?;
    let mut flags = MountFlags::NO_DEVICES | MountFlags::NO_SET_IDS;
    if tree.read_only {
        // Nor through what is mounted there later.
        flags |= MountFlags::READ_ONLY | MountFlags::PRIVATE;
    }
    sys::set_mounts(copy.as_fd(), flags).map_err(|error| ("flags of its mounts", error))?;
    Ok(copy)
}

/// A new filesystem, with no place yet.
fn filesystem(kind: &'static str, options: &[(&str, &str)]) -> Step<OwnedFd> {
    let failed = |error: rustix::io::Errno| (kind, error.into());
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value).map_err(failed)?;
    }
    fsconfig_create(context.as_fd()).map_err(failed)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)
}

fn attach(mount: &OwnedFd, dir: impl AsFd, name: &str) -> rustix::io::Result<()> {
    move_mount(mount.as_fd(), "", dir.as_fd(), name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}
