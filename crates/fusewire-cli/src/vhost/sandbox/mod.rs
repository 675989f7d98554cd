//! How the daemon shuts itself in before a guest can talk to it (`docs/adr/0021-sandbox.md`).
//!
//! It forks. The parent, the warden, stays outside: it removes the socket, answers signals and systemd, and ends as its child does.
//! The child goes inside, gives up what it does not need, and serves.

pub mod caps;
pub mod ids;
mod landlock;
mod namespace;
pub mod seccomp;
mod warden;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fusewire_fs::passthrough::Descriptors;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};
use sd_notify::NotifyState;

use super::args::Sandbox;
use super::sys::{self, MountFlags};
use crate::failure::{Failure, Outcome};
use ids::Ids;
pub use warden::{HANDED_OVER, Warden};

/// What is to be shut in, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// How.
    pub how: Sandbox,
    /// The directories that stay within reach.
    pub trees: &'a [Tree<'a>],
    /// Users and groups of the sandbox.
    pub ids: &'a Ids,
}

/// A directory that stays within reach.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    /// The directory.
    pub dir: &'a Path,
    /// Whether nothing may be written to it.
    pub read_only: bool,
}

impl Plan<'_> {
    /// The directories, to be told of.
    fn names(&self) -> String {
        self.trees.iter().map(|tree| tree.dir.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// Who is who after [`enter`].
#[derive(Debug)]
pub enum Side {
    /// The process that was called, with nothing left to do but to wait.
    Outside(Warden),
    /// The process that serves.
    Inside(Inside),
}

/// What the process that serves finds.
#[derive(Debug)]
pub struct Inside {
    /// Where the directories are now.
    pub dirs: Vec<PathBuf>,
    /// Where the descriptors of the process are found by name.
    pub descriptors: Descriptors,
    /// How it was shut in.
    how: Sandbox,
    /// Whether it may act for one user only.
    one_user: bool,
    ready: Option<File>,
    /// Keep directories and copies of mounts that have no place.
    _trees: Vec<OwnedFd>,
}

/// Goes inside. To be called while there is one thread only.
///
/// # Errors
/// If the sandbox cannot be had; the reason says what to do.
pub fn enter(plan: &Plan<'_>) -> Outcome<Side> {
    if plan.how == Sandbox::Namespace {
        return namespace::enter(plan);
    }
    if plan.ids.is_asked_for() {
        return Err(Failure::usage("--uid-map and --gid-map are for the user namespace of a sandbox")
            .or_try("--sandbox namespace"));
    }
    let places = plan.trees.iter().map(place).collect::<Outcome<Vec<_>>>()?;
    let how = plan.how;
    if how == Sandbox::None {
        let (dirs, trees): (Vec<_>, Vec<_>) = places.into_iter().unzip();
        let descriptors = Descriptors::InProc;
        let trees = trees.into_iter().flatten().collect();
        let inside = Inside { dirs, descriptors, how, one_user: false, ready: None, _trees: trees };
        return Ok(Side::Inside(inside));
    }
    match warden::fork()? {
        warden::Forked::Warden(warden) => Ok(Side::Outside(warden)),
        warden::Forked::Child(ready) => {
            let (dirs, trees) = leave_for(plan, places)?;
            let descriptors = Descriptors::InWorkingDirectory;
            let ready = Some(ready);
            Ok(Side::Inside(Inside { dirs, descriptors, how, one_user: false, ready, _trees: trees }))
        }
    }
}

/// Where a directory is found, with what keeps it there.
fn place(tree: &Tree<'_>) -> Outcome<(PathBuf, Option<OwnedFd>)> {
    if tree.read_only { read_only(tree.dir) } else { Ok((tree.dir.to_owned(), None)) }
}

/// Changes the root directory: to the one directory that there is, or to an empty one if there are several, which are then found by
/// their descriptors.
fn leave_for(
    plan: &Plan<'_>,
    places: Vec<(PathBuf, Option<OwnedFd>)>,
) -> Outcome<(Vec<PathBuf>, Vec<OwnedFd>)> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot make {} the root directory: {error}", plan.names()))
            .or_try("as root, or with CAP_SYS_CHROOT; or --sandbox namespace, which needs neither")
    };
    if let [(dir, _)] = &*places {
        change_root(dir).map_err(failed)?;
        return Ok((vec!["/".into()], places.into_iter().filter_map(|(_, tree)| tree).collect()));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |(dir, tree): (PathBuf, Option<OwnedFd>)| match tree {
        Some(tree) => Ok(tree),
        None => rustix::fs::open(&dir, flags, Mode::empty())
            .map_err(|error| Failure::because(format_args!("cannot open {}", dir.display()), &error)),
    };
    let trees = places.into_iter().map(open).collect::<Outcome<Vec<_>>>()?;
    let empty = std::env::temp_dir().join(format!(".fusewire-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&empty).map_err(failed)?;
    change_root_to_nothing(&empty).map_err(failed)?;
    Ok((trees.iter().map(|tree| tree.as_raw_fd().to_string().into()).collect(), trees))
}

/// The same with a directory that is removed.
fn change_root_to_nothing(empty: &Path) -> std::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(empty, flags | OFlags::NOFOLLOW, Mode::empty());
    let removed = std::fs::remove_dir(empty);
    let proc = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
    rustix::process::fchdir(opened?)?;
    removed?;
    rustix::process::chroot(".")?;
    rustix::process::fchdir(proc)?;
    Ok(())
}

/// The root directory is `dir` from now on, and the working directory where the process's descriptors are.
fn change_root(dir: &Path) -> std::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
    rustix::process::chroot(dir)?;
    rustix::process::fchdir(proc)?;
    Ok(())
}

/// A copy of the mounts of `dir` that nothing can be written through.
fn read_only(dir: &Path) -> Outcome<(PathBuf, Option<OwnedFd>)> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot share {} read-only: {error}", dir.display()))
            .or_try("as root, on Linux 5.12 or newer; or a directory that is mounted read-only")
    };
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(rustix::fs::CWD, dir, flags).map_err(|error| failed(error.into()))?;
    sys::set_mounts(tree.as_fd(), MountFlags::READ_ONLY | MountFlags::PRIVATE).map_err(failed)?;
    Ok((format!("/proc/self/fd/{}", tree.as_raw_fd()).into(), Some(tree)))
}

/// Tells systemd that this daemon is ready; `takes`: and that it is this process from now on.
fn notify(status: &str, takes: bool) {
    let states = [NotifyState::Ready, NotifyState::Status(status), NotifyState::MainPid(std::process::id())];
    _ = sd_notify::notify(if takes { &states } else { &states[..2] });
}

/// What is given up once inside.
#[derive(Clone, Debug)]
pub struct Locks {
    /// Capabilities to keep.
    pub capabilities: caps::Kept,
    /// What happens at system calls that are not on the list.
    pub seccomp: seccomp::Action,
    /// Whether files are opened by their handles, whose paths the kernel does not know.
    pub handles: bool,
}

impl Inside {
    /// Gives up all that serving does not need, for this thread and all that it starts.
    ///
    /// # Errors
    /// If that is refused.
    pub fn lock(&self, locks: &Locks) -> Outcome<()> {
        // Where nothing is asked for, nothing is taken: the daemon is as its caller wants it.
        if self.how != Sandbox::None || locks.capabilities.is_asked_for() {
            caps::keep(&locks.capabilities, self.one_user)?;
        }
        if self.how != Sandbox::None {
            landlock::restrict((!locks.handles).then_some(&*self.dirs));
        }
        seccomp::apply(locks.seccomp)
    }

    /// Tells whoever waits for it that the device can be connected to.
    /// `takes`: it is another process than the one that has told this before.
    pub fn tell_ready(&mut self, status: &str, takes: bool) {
        match self.ready.take() {
            // A warden that is gone has taken this process with it.
            Some(mut pipe) => _ = pipe.write_all(status.as_bytes()),
            None => notify(status, takes),
        }
    }
}
