//! `fusewire vhost`: a directory as a virtio-fs device for a virtual machine, or one for each of several.

mod args;
mod dax;
mod guests;
mod socket;
mod sys;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use fusewire_fs::passthrough;
use fusewire_vhost::Options;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;

pub use args::{NOTES, VhostArgs};

use crate::failure::{Failure, Outcome};
use crate::mount::raise_file_limit;
use args::{Cache, InodeFileHandles, Sandbox, not_yet};
use guests::Share;
use socket::Socket;

/// What `--print-capabilities` prints: the format is libvirt's and QEMU's.
const CAPABILITIES: &str = "{\n  \"type\": \"fs\",\n  \"features\": [\n    \"separate-options\"\n  ]\n}";

/// Serves virtual machines, one for each socket, until they are gone.
///
/// # Errors
/// Whatever keeps the directory from being shared.
pub fn run(args: &VhostArgs) -> Outcome<()> {
    if args.print_capabilities {
        println!("{CAPABILITIES}");
        return Ok(());
    }
    args.later.refuse()?;
    match args.sandbox {
        Sandbox::None => {}
        Sandbox::Namespace => return Err(not_yet("--sandbox namespace").or_try("--sandbox none")),
        Sandbox::Chroot => return Err(not_yet("--sandbox chroot").or_try("--sandbox none")),
    }
    limit_files(args.rlimit_nofile)?;
    let Some(dir) = &args.shared_dir else {
        return Err(Failure::usage("a directory is needed: --shared-dir DIR"));
    };
    let source = Source::open(dir, args.readonly)?;
    let longest = match (args.cache, args.lease) {
        (Cache::Shared, lease) => Some(lease.unwrap_or(guests::LEASE)),
        (_, None) => None,
        (_, Some(_)) => return Err(Failure::usage("--lease says something with --cache shared alone")),
    };
    let dax = args.dax.options(args.readonly, args.tag.as_deref())?;
    let share =
        Share::new(source.path(), passthrough::Options { dax, ..passthrough_options(args) }, longest)?;
    let defaults = Options::default();
    let options = Options {
        queues: args.queues.unwrap_or(defaults.queues),
        tag: args.tag.clone(),
        window: args.dax.window(),
        ..defaults
    };
    let sockets = socket::listen(args)?;
    let names: Vec<_> = args.socket_path.iter().map(|path| path.display().to_string()).collect();
    let name = if names.is_empty() { "the socket that was passed".to_owned() } else { names.join(", ") };
    tracing::info!("{} is waiting for a virtual machine at {name}", dir.display());
    let ready = format!("Waiting at {name}");
    _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&ready)]);
    socket::end_on_signals(args.socket_path.clone())?;
    let listeners = sockets.iter().map(Socket::socket).collect::<Outcome<_>>()?;
    guests::serve(share, &options, listeners)
}

/// The directory to share, or a copy of its mount that nothing can be written through.
struct Source {
    path: PathBuf,
    tree: Option<OwnedFd>,
}

impl Source {
    fn open(dir: &Path, read_only: bool) -> Outcome<Self> {
        let path = dir.to_owned();
        if !read_only {
            return Ok(Self { path, tree: None });
        }
        let failed = |error: io::Error| {
            Failure::new(format!("cannot share {} read-only: {error}", dir.display()))
                .or_try("as root, on Linux 5.12 or newer; or a directory that is mounted read-only")
        };
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(rustix::fs::CWD, dir, flags).map_err(|error| failed(error.into()))?;
        sys::make_read_only(tree.as_fd()).map_err(failed)?;
        Ok(Self { path, tree: Some(tree) })
    }

    /// Where it is found.
    fn path(&self) -> PathBuf {
        match &self.tree {
            Some(tree) => format!("/proc/self/fd/{}", tree.as_raw_fd()).into(),
            None => self.path.clone(),
        }
    }
}

fn passthrough_options(args: &VhostArgs) -> passthrough::Options {
    let acl = args.posix_acl.as_deref().is_some_and(|when| when != "never");
    passthrough::Options {
        cache: match args.cache {
            Cache::Never => passthrough::CacheProfile::None,
            Cache::Auto | Cache::Shared => passthrough::CacheProfile::Auto,
            Cache::Always => passthrough::CacheProfile::Always,
        },
        file_handles: match args.inode_file_handles {
            InodeFileHandles::Never => passthrough::FileHandles::Never,
            InodeFileHandles::Prefer => passthrough::FileHandles::Auto,
            InodeFileHandles::Mandatory => passthrough::FileHandles::Always,
        },
        locks: match args.shared_locks {
            true => passthrough::LockScope::Directory,
            // A guest cannot interrupt those who wait.
            false => passthrough::LockScope::Mount,
        },
        xattr: args.xattr || acl,
        // The guest's kernel cannot be given files of this one.
        forward: passthrough::Forward::Off,
        ..passthrough::Options::default()
    }
}

/// Sets how many files may be open.
fn limit_files(wanted: Option<u64>) -> Outcome<()> {
    match wanted {
        None => raise_file_limit(),
        Some(0) => {}
        Some(wanted) => {
            let maximum = getrlimit(Resource::Nofile).maximum.map_or(wanted, |most| most.max(wanted));
            let limit = Rlimit { current: Some(wanted), maximum: Some(maximum) };
            setrlimit(Resource::Nofile, limit).map_err(|error| {
                Failure::new(format!("cannot allow {wanted} open files: {error}")).or_try(
                    "a smaller --rlimit-nofile, or a larger limit of whoever starts fusewire (ulimit -Hn)",
                )
            })?;
        }
    }
    Ok(())
}
