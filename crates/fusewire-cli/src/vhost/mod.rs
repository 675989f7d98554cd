//! `fusewire vhost`: a directory as a virtio-fs device for one virtual machine.

mod args;
mod backend;
pub mod former;
mod sandbox;
mod socket;
mod sys;

use std::os::unix::net::UnixListener;
use std::path::Path;

use fusewire_fs::passthrough::{self, IdMap, IdRule, Passthrough};
use fusewire_vhost::{Device, Options, Server};
use rustix::process::{Resource, Rlimit, setrlimit};

pub use args::{NOTES, VhostArgs};

use crate::failure::{Failure, Outcome, with_causes};
use crate::mount::raise_file_limit;
use args::{Cache, InodeFileHandles, Sandbox, When};
use sandbox::{Inside, Locks, Side};
use socket::{Name, Socket};

/// Serves one virtual machine, until it is gone.
///
/// # Errors
/// Whatever keeps the directory from being shared.
pub fn run(mut args: VhostArgs) -> Outcome<()> {
    if args.print_capabilities {
        print!("{}", backend::CAPABILITIES);
        return Ok(());
    }
    former::translate(&mut args)?;
    let args = &args;
    args.later.refuse()?;
    let Some(dir) = &args.shared_dir else {
        return Err(Failure::usage("a directory is needed: --shared-dir DIR"));
    };
    limit_files(args.rlimit_nofile)?;
    let options = passthrough_options(args)?;
    let handles = options.file_handles != passthrough::FileHandles::Never;
    let watches = options.cache == passthrough::CacheProfile::Coherent;
    let capabilities = sandbox::caps::Kept::new(handles, watches, args.modcaps)?;
    let locks = Locks { capabilities, seccomp: args.seccomp, handles };
    let ids = sandbox::ids::Ids { users: args.uid_map.clone(), groups: args.gid_map.clone() };
    let plan = sandbox::Plan { how: args.sandbox, dir, read_only: args.readonly, ids: &ids };
    // What can be found out before somebody connects is to be said before.
    if !dir.is_dir() {
        let why =
            std::fs::metadata(dir).err().map_or("it is not a directory".into(), |error| error.to_string());
        return Err(Failure::new(format!("cannot share {}: {why}", dir.display())));
    }
    let Socket { listener, name } = socket::listen(args)?;
    match sandbox::enter(&plan)? {
        Side::Outside(warden) => {
            drop(listener);
            warden.wait()
        }
        Side::Inside(inside) => {
            let name = if args.sandbox == Sandbox::None {
                Some(name)
            } else {
                name.leave();
                None
            };
            serve(args, options, (inside, &locks), (listener, name))
        }
    }
}

/// Serves whoever connects, until that is gone.
fn serve(
    args: &VhostArgs,
    options: passthrough::Options,
    (mut inside, locks): (Inside, &Locks),
    (listener, name): (UnixListener, Option<Name>),
) -> Outcome<()> {
    inside.lock(locks)?;
    let options = passthrough::Options { descriptors: inside.descriptors, ..options };
    let path = inside.dir.clone();
    Passthrough::new(&path, options.clone()).map_err(|error| Failure::new(error.to_string()))?;
    let defaults = Options::default();
    let device = Device::new(
        move || Passthrough::new(&path, options.clone()),
        Options { queues: args.queues.unwrap_or(defaults.queues), tag: args.tag.clone(), ..defaults },
    )
    .map_err(|error| Failure::usage(error.to_string()))?;
    let place =
        args.socket_path.as_deref().unwrap_or(Path::new("the socket that was passed")).display().to_string();
    let dir = args.shared_dir.as_deref().unwrap_or(Path::new("/"));
    tracing::info!("{} is waiting for a virtual machine at {place}", dir.display());
    inside.tell_ready(&format!("Waiting at {place}"));
    if let Some(name) = &name {
        socket::end_on_signals(name.path().map(Path::to_owned))?;
    }
    let server = Server::accept(device, listener).map_err(|error| Failure::new(with_causes(&error)))?;
    tracing::info!("a virtual machine has connected");
    let ended = server.wait().map_err(|error| Failure::new(with_causes(&error)));
    tracing::info!("the virtual machine is gone");
    ended
}

fn passthrough_options(args: &VhostArgs) -> Outcome<passthrough::Options> {
    let offer = |when| match when {
        When::Never => passthrough::Offer::Never,
        When::Auto => passthrough::Offer::Auto,
        When::Always => passthrough::Offer::Always,
    };
    let ids = |rules: &[IdRule], option| {
        IdMap::new(rules).map_err(|why| Failure::usage(format!("{option}: {why}")))
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
            Cache::Auto => passthrough::CacheProfile::Auto,
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
