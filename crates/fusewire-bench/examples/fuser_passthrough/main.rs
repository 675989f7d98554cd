//! A passthrough filesystem on the crate `fuser`, for comparison.
//!
//! Written the way a careful author would write it on that crate: two reader threads with cloned descriptors,
//! requests of up to 1 MiB, one `O_PATH` descriptor per known file, reused read buffers and no path names. What the
//! kernel is allowed to cache is a parameter, so that it can be set to the same values as the mount it is
//! compared with.
//!
//! ```text
//! fuser_passthrough SRC MNT --timeout 1.0
//! ```

mod attr;
mod files;
mod fs;
mod nodes;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What the kernel may cache and which requests are answered in the short way.
#[derive(Debug, Clone, Parser)]
#[command(about = "Re-exports SRC at MNT with the crate fuser until SIGINT, SIGTERM or unmount")]
#[command(args_override_self = true)]
struct Args {
    /// Directory to re-export.
    src: PathBuf,
    /// Where to mount it.
    mnt: PathBuf,
    /// Seconds for which the kernel may use names and attributes without asking.
    #[arg(long, default_value_t = 1.0)]
    timeout: f64,
    /// Seconds for which the kernel may remember that a name does not exist.
    #[arg(long, default_value_t = 0.0)]
    negative_timeout: f64,
    /// Reader threads, each with its own clone of the device descriptor.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Bytes of the largest write request.
    #[arg(long, default_value_t = 1 << 20)]
    max_write: u32,
    /// Keep pages of a file and lists of names in the kernel's cache from one open to the next.
    #[arg(long)]
    keep_cache: bool,
    /// Send every read and write to the daemon, past the page cache, and writes of one file side by side.
    #[arg(long)]
    direct_io: bool,
    /// Let the kernel check permissions.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    default_permissions: bool,
    /// Let the kernel ask for POSIX access control lists and heed them.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    posix_acl: bool,
    /// Let the kernel drop cached data when size or time of the file have changed.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    auto_invalidate: bool,
    /// Let readdir carry attributes when the kernel thinks that they will be used.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    readdirplus: bool,
    /// What to do when a client closes a file.
    #[arg(long, value_enum, default_value_t = Flush::Dup)]
    flush: Flush,
}

/// Answer to FLUSH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Flush {
    /// `close(dup(fd))`, so that the lower filesystem sees the close.
    Dup,
    /// Answered at once.
    Ok,
    /// Answered ENOSYS, after which the kernel never asks again.
    Skip,
}

fn main() -> Result<()> {
    let args = Args::parse();
    raise_descriptor_limit();
    // The kernel has applied the caller's umask already.
    rustix::process::umask(Mode::empty());

    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(args.src.display().to_string()),
        MountOption::Subtype("fuser_passthrough".into()),
        MountOption::NoDev,
        MountOption::NoSuid,
    ];
    if args.default_permissions {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.acl = SessionACL::All;
    config.n_threads = Some(args.threads);
    config.clone_fd = args.threads > 1;

    let filesystem =
        fs::Passthrough::new(&args).with_context(|| format!("cannot open source {}", args.src.display()))?;
    let mut session = Session::new(filesystem, &args.mnt, &config)
        .with_context(|| format!("cannot mount on {} (needs root or fusermount3)", args.mnt.display()))?;

    let mut unmounter = session.unmount_callable();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        for _ in signals.forever() {
            if let Err(error) = unmounter.unmount() {
                eprintln!("fuser_passthrough: cannot unmount: {error}; close what is open on the mount");
            }
        }
    });
    session.run().context("the session ended with an error")
}

/// One descriptor per known file needs as many as the system gives.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        eprintln!("fuser_passthrough: cannot raise the limit of open files: {error}");
    }
}

/// A time from the command line; the kernel takes none below zero.
fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or(Duration::ZERO)
}
