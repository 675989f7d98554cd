//! `fusewire vhost`: a directory as a virtio-fs device for a virtual machine, or one for each of several.

mod args;
mod backend;
mod caching;
mod config;
mod dax;
pub mod former;
mod guests;
mod pidfile;
mod resume;
mod sandbox;
mod socket;
mod sys;
mod upgrade;

use std::path::Path;
use std::time::Duration;

use fusewire::channel::poll;
use fusewire_fs::passthrough::{self, IdMap, IdRule};
use fusewire_vhost::Options;
use rustix::process::{Resource, Rlimit, setrlimit};

pub use args::{NOTES, VhostArgs};

use crate::failure::{Failure, Outcome};
use crate::mount::raise_file_limit;
use crate::pages::print;
use args::{Cache, InodeFileHandles, Sandbox, When};
use guests::Share;
use resume::Carry;
use sandbox::{Inside, Locks, Side};
use upgrade::{Front, Inner};

/// Serves virtual machines, one for each socket, until they are gone.
///
/// # Errors
/// Whatever keeps the directory from being shared.
pub fn run(mut args: VhostArgs) -> Outcome<()> {
    if args.print_capabilities {
        return print(backend::CAPABILITIES.as_bytes());
    }
    former::translate(&mut args)?;
    let args = &args;
    if let Some(file) = &args.config {
        return config::run(args, file);
    }
    let Some(dir) = &args.shared_dir else {
        return Err(Failure::usage("there is no directory to share").or_try("--shared-dir DIR"));
    };
    limit_files(args.rlimit_nofile)?;
    let longest = match (args.cache, args.lease) {
        (Cache::Shared, lease) => Some(lease.unwrap_or(guests::LEASE)),
        (_, None) => None,
        (_, Some(_)) => {
            return Err(Failure::usage("--lease says something with --cache shared alone")
                .or_try("--cache shared, or the same without --lease"));
        }
    };
    let dax = args.dax.options(args.readonly, args.tag.as_deref())?;
    let options = passthrough::Options { dax, ..passthrough_options(args)? };
    let handles = options.file_handles != passthrough::FileHandles::Never;
    let capabilities = sandbox::caps::Kept::new(handles, args.modcaps)?;
    let locks = Locks { capabilities, seccomp: args.seccomp, handles };
    let ids = args.ids();
    let trees = [sandbox::Tree { dir, read_only: args.readonly }];
    let plan = sandbox::Plan { how: args.sandbox, trees: &trees, ids: &ids };
    // What can be found out before somebody connects is to be said before.
    shareable(dir)?;
    let mut front = match args.upgrade.upgrade {
        true => Front::ask(&args.socket_path)?,
        false => Front::of(socket::listen(args)?)?,
    };
    let carry = args.resume.carry(&args.socket_path, front.posts())?;
    // What it needs to see is not there inside.
    poll::look_around();
    match sandbox::enter(&plan)? {
        Side::Outside(warden) => front.outside(warden),
        Side::Inside(inside) => {
            let inner = front.inside(args.sandbox, false)?;
            serve(args, (options, longest), (inside, &locks), (inner, carry))
        }
    }
}

/// Refuses what is no directory.
fn shareable(dir: &Path) -> Outcome<()> {
    let what = || format!("cannot share {}", dir.display());
    match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Failure::new(what() + ": it is not a directory").or_try("the directory it is in")),
        Err(error) => Err(Failure::because(what(), &error)),
    }
}

/// Serves whoever connects, until all are gone.
fn serve(
    args: &VhostArgs,
    (options, longest): (passthrough::Options, Option<Duration>),
    (mut inside, locks): (Inside, &Locks),
    (mut inner, carry): (Inner, Carry),
) -> Outcome<()> {
    // To hear of changes takes a capability that serving does not.
    let dir = inside.dirs.first().cloned().unwrap_or_default();
    let leases = longest.map(|longest| guests::watch(&dir, longest)).transpose()?;
    inside.lock(locks)?;
    let options = passthrough::Options { descriptors: inside.descriptors, ..options };
    let share = Share::new(dir, options, leases)?;
    let defaults = Options::default();
    let options = Options {
        queues: args.queues.unwrap_or(defaults.queues),
        tag: args.tag.clone(),
        window: args.dax.window(),
        poll: args.poll.unwrap_or_default(),
        ..defaults
    };
    let places: Vec<_> = args.socket_path.iter().map(|path| path.display().to_string()).collect();
    let place = if places.is_empty() { "the socket that was passed".to_owned() } else { places.join(", ") };
    let dir = args.shared_dir.as_deref().unwrap_or(Path::new("/"));
    let given = inner.take()?;
    let guests = guests::prepare(share, &options, &carry, given)?;
    inner.commit(args.resume.resume)?;
    let taken = guests::start(&inner.desk, guests)?;
    tracing::info!("{} is waiting for a virtual machine at {place}", dir.display());
    inside.tell_ready(&format!("Waiting at {place}"), inner.takes());
    if args.sandbox == Sandbox::None {
        socket::end_on_signals(inner.paths())?;
    }
    let (desk, _serving) = (inner.desk.clone(), inner.serving(taken.1)?);
    guests::serve(&desk, taken.0)
}

/// How a directory is served; options that do not go together are refused.
fn passthrough_options(args: &VhostArgs) -> Outcome<passthrough::Options> {
    args.caching.check(args.cache, args.dax.window())?;
    let offer = |when| match when {
        When::Never => passthrough::Offer::Never,
        When::Auto => passthrough::Offer::Auto,
        When::Always => passthrough::Offer::Always,
    };
    let ids = |rules: &[IdRule], option| {
        IdMap::new(rules).map_err(|why| {
            Failure::usage(format!("{option}: {why}"))
                .or_try("fusewire vhost --help, which tells how rules are written")
        })
    };
    let (users, groups) =
        (ids(&args.translate_uid, "--translate-uid")?, ids(&args.translate_gid, "--translate-gid")?);
    if args.posix_acl != When::Never && !(users.is_empty() && groups.is_empty()) {
        return Err(Failure::usage(
            "--translate-uid and --translate-gid do not translate the ids in access control lists",
        )
        .or_try("without --posix-acl; or an idmapped mount of the directory instead"));
    }
    let named = args.xattr || args.xattrmap.is_some();
    Ok(passthrough::Options {
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
        xattr: named || args.posix_acl != When::Never || args.security_label != When::Never,
        acl: offer(args.posix_acl),
        labels: offer(args.security_label),
        submounts: !args.no_announce_submounts,
        xattr_map: args.xattrmap.clone(),
        users,
        groups,
        writeback: args.caching.writeback,
        readdirplus: !args.caching.no_readdirplus,
        noatime: args.caching.preserve_noatime,
        // The guest's kernel cannot be given files of this one.
        forward: passthrough::Forward::Off,
        ..passthrough::Options::default()
    })
}

/// Sets how many files may be open.
fn limit_files(wanted: Option<u64>) -> Outcome<()> {
    match wanted {
        None => raise_file_limit(),
        Some(0) => {}
        Some(wanted) => {
            // The hard limit, too: up to that the passthrough would raise the other one.
            let limit = Rlimit { current: Some(wanted), maximum: Some(wanted) };
            setrlimit(Resource::Nofile, limit).map_err(|error| {
                Failure::new(format!("cannot allow {wanted} open files: {error}")).or_try(
                    "a smaller --rlimit-nofile, or a larger limit of whoever starts fusewire (ulimit -Hn)",
                )
            })?;
        }
    }
    Ok(())
}
