//! Mounting and serving, until the mount ends.

use std::time::Duration;

use fusewire::FileSystem;
use fusewire::mount::{Unmount, fuse_mounts, try_mount};
use fusewire::server::{Channel, Ended, Error, Server, ServerHandle, try_ring};
use fusewire_fs::passthrough::{self, Passthrough};
use fusewire_fs::{MemFs, MemOptions, NullFs, NullOptions, PolicySwitch};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;

use super::background;
use super::caching::{InForce, prefers_coherent};
use super::plan::Plan;
use super::signals::{self, Ending};
use super::{in_kernel, policy};
use crate::args::{BuffersKind, CacheKind, FileHandles, Forwarding, FsKind, LocksKind, OpensKind};
use crate::failure::{Failure, Outcome, with_causes};
use crate::stats::{Before, Facts, Live, try_metrics};
use crate::tell::tell;

/// Mounts and serves until the mount ends.
///
/// # Errors
/// If it cannot be mounted, or ends other than by being unmounted.
pub fn run(plan: &Plan, is_daemon: bool) -> Outcome<()> {
    if is_daemon {
        background::detach()?;
    }
    raise_file_limit();
    let asked = InForce::Asked(plan.cache.unwrap_or_default());
    match plan.fs {
        FsKind::Passthrough => {
            let fs = passthrough(plan)?;
            let cache = InForce::Directory(fs.caching());
            serve(fs, plan, (is_daemon, cache))
        }
        FsKind::Mem => {
            let defaults = MemOptions::default();
            let capacity = plan.size.unwrap_or(defaults.capacity);
            let fs = MemFs::new(MemOptions { capacity, ttl: ttl(plan), ..defaults });
            serve(fs, plan, (is_daemon, asked))
        }
        FsKind::Null => {
            let defaults = NullOptions::default();
            let delay = plan.delay.unwrap_or(defaults.delay);
            let fs = NullFs::new(NullOptions { ttl: ttl(plan), delay, ..defaults });
            serve(fs, plan, (is_daemon, asked))
        }
    }
}

/// Does all that [`run`] does before there is a mount, and undoes it.
///
/// # Errors
/// Those of [`run`].
pub fn try_out(plan: &Plan) -> Outcome<()> {
    raise_file_limit();
    if plan.fs == FsKind::Passthrough {
        passthrough(plan)?;
    }
    try_metrics(&plan.show)?;
    policy::load(plan)?;
    in_kernel::start(plan)?;
    try_mount(&plan.mountpoint, &plan.server.mount).map_err(|error| not_mounted(plan, &error))?;
    try_channel(plan)
}

/// Whether the channel that is asked for can be had.
fn try_channel(plan: &Plan) -> Outcome<()> {
    if plan.server.channel != Channel::Uring {
        return Ok(());
    }
    let mountpoint = plan.mountpoint.clone();
    try_ring(&plan.server).map(drop).map_err(|reason| not_mounted(plan, &Error::Uring { mountpoint, reason }))
}

fn passthrough(plan: &Plan) -> Outcome<Passthrough> {
    let options = passthrough::Options {
        cache: match plan.cache.unwrap_or_default() {
            CacheKind::None => passthrough::CacheProfile::None,
            CacheKind::Auto => passthrough::CacheProfile::Auto,
            CacheKind::Coherent => passthrough::CacheProfile::Coherent,
            CacheKind::Always => passthrough::CacheProfile::Always,
        },
        prefer_coherent: prefers_coherent(plan),
        // One mount is all that this process is for.
        sole: true,
        entry_timeout: plan.timeouts.entry,
        attr_timeout: plan.timeouts.attr,
        negative_timeout: plan.timeouts.negative,
        zero_copy: match plan.buffers {
            BuffersKind::ZeroCopy => passthrough::ZeroCopy::Always,
            _ => passthrough::ZeroCopy::Auto,
        },
        forward: match plan.passthrough {
            Forwarding::Auto => passthrough::Forward::Auto,
            Forwarding::Always => passthrough::Forward::Always,
            Forwarding::Off => passthrough::Forward::Off,
        },
        opens: match plan.opens {
            // Rules ask at every open, and count what is open.
            _ if plan.policy.is_some() => passthrough::Opens::Handles,
            OpensKind::Auto => passthrough::Opens::Auto,
            OpensKind::Stateless => passthrough::Opens::Stateless,
            OpensKind::Handles => passthrough::Opens::Handles,
        },
        locks: match plan.locks {
            LocksKind::Directory => passthrough::LockScope::Directory,
            LocksKind::Mount => passthrough::LockScope::Mount,
        },
        file_handles: match plan.file_handles {
            FileHandles::Auto => passthrough::FileHandles::Auto,
            FileHandles::Never => passthrough::FileHandles::Never,
            FileHandles::Always => passthrough::FileHandles::Always,
        },
        ..passthrough::Options::default()
    };
    Passthrough::new(&plan.source, options).map_err(|error| {
        let (source, place) = (plan.source.display(), plan.mountpoint.display());
        Failure::because(format_args!("cannot mount {source} on {place}"), &error)
    })
}

/// How long the kernel may trust the filesystems that only this mount can change.
fn ttl(plan: &Plan) -> Duration {
    const FOREVER: Duration = Duration::from_secs(365 * 86400);
    let given = plan.timeouts.attr.into_iter().chain(plan.timeouts.entry).min();
    given.unwrap_or(match plan.cache.unwrap_or_default() {
        CacheKind::None => Duration::ZERO,
        CacheKind::Auto => Duration::from_secs(1),
        CacheKind::Coherent | CacheKind::Always => FOREVER,
    })
}

fn serve(fs: impl FileSystem, plan: &Plan, (is_daemon, cache): (bool, InForce)) -> Outcome<()> {
    let before = Before::prepare(&plan.show)?;
    let (policy, guard) = (policy::load(plan)?, in_kernel::start(plan)?);
    if policy.is_none() && guard.is_none() {
        let ending = Ending::watch(is_daemon, None)?;
        return serve_until(fs, plan, (is_daemon, cache, ending, before), None, |_| {});
    }
    let fs = policy::around(fs, policy, plan);
    let switch = fs.switch();
    let ending = Ending::watch(is_daemon, policy::hangup(&switch, plan))?;
    serve_until(fs, plan, (is_daemon, cache, ending, before), Some(switch.clone()), move |handle| {
        if let Some(guard) = guard {
            guard.guard(handle.connection());
            switch.answer_in_kernel(Box::new(in_kernel::Answers(guard)));
        }
    })
}

fn serve_until(
    fs: impl FileSystem,
    plan: &Plan,
    (is_daemon, cache, ending, before): (bool, InForce, Ending, Before),
    policy: Option<PolicySwitch>,
    mounted: impl FnOnce(&ServerHandle),
) -> Outcome<()> {
    let server =
        Server::mount(fs, &plan.mountpoint, &plan.server).map_err(|error| not_mounted(plan, &error))?;
    let handle = server.handle();
    mounted(&handle);
    let description = describe(plan, &handle, &cache);
    // Before anybody is told that it is there.
    let facts = Facts { source: plan.source.clone(), fs: plan.fs.to_string(), cache, policy };
    let live = Live::start(handle.clone(), facts, (&plan.show, before), (is_daemon, plan.log.quiet));
    if is_daemon && let Err(error) = background::report_ready() {
        return Err(undo(&handle, &error));
    }
    if plan.hides {
        tracing::warn!("{} hides another FUSE mount at the same place", plan.mountpoint.display());
    }
    if is_daemon {
        tracing::info!("{description}");
    } else if !plan.log.quiet {
        tell(format_args!("{description}; Ctrl-C unmounts"));
    }
    signals::notify(&[NotifyState::Ready, NotifyState::Status(&description)]);
    ending.mounted(handle.clone());
    super::sys::forget_code();
    // It says what helps.
    let ended = server.join().map_err(|error| Failure::new(with_causes(&error)))?;
    signals::notify(&[NotifyState::Stopping]);
    tracing::info!(requests = handle.stats().requests(), "{} has ended", plan.mountpoint.display());
    live.finish();
    match ended {
        Ended::Unmounted if !ending.has_cut_off() => Ok(()),
        _ => {
            // What is left is a dead mount, which helps nobody.
            let left = handle.unmount(Unmount::Lazy).err().filter(|_| is_mounted(&handle));
            let place = plan.mountpoint.display();
            let failure = Failure::new(format!("the connection of {place} was aborted"));
            Err(match left {
                None => failure.or_try(
                    "fusewire mount again; who aborted it, or what, the kernel's log may tell: dmesg",
                ),
                Some(error) => failure.or_try(format!("to end what is left of it: {error}")),
            })
        }
    }
}

/// Nobody listens any more: then nobody knows of this mount, and it had better not stay.
fn undo(handle: &ServerHandle, error: &std::io::Error) -> Failure {
    let gone = format!("whoever asked for this mount has gone before it was ready ({error})");
    match handle.unmount(Unmount::Lazy) {
        Ok(()) => Failure::new(format!("{gone}; it is undone")).or_try("fusewire mount again"),
        Err(error) => Failure::new(gone).or_try(format!("to end what is left of it: {error}")),
    }
}

fn not_mounted(plan: &Plan, error: &(dyn std::error::Error + 'static)) -> Failure {
    let place = plan.mountpoint.display().to_string();
    let text = with_causes(error);
    // Most of these texts name the place already, and all of them what helps.
    let what = if text.contains(&place) { text } else { format!("cannot mount on {place}: {text}") };
    match error.downcast_ref() {
        Some(Error::Uring { .. }) => {
            Failure::new(what).or_try("--channel auto, which takes /dev/fuse where there is no ring")
        }
        _ => Failure::new(what),
    }
}

fn is_mounted(handle: &ServerHandle) -> bool {
    fuse_mounts()
        .is_ok_and(|mounts| mounts.iter().any(|entry| entry.connection() == Some(handle.connection())))
}

fn describe(plan: &Plan, handle: &ServerHandle, cache: &InForce) -> String {
    let (way, role) = match handle.channel() {
        Channel::Uring => ("io_uring", "thread"),
        _ => ("/dev/fuse", "reader"),
    };
    let number = handle.threads();
    let plural = if number == 1 { "" } else { "s" };
    let read_only = if plan.server.mount.read_only { ", read-only" } else { "" };
    format!(
        "{} on {} ({}, {way}, {number} {role}{plural}, cache {cache}{read_only})",
        plan.source.display(),
        plan.mountpoint.display(),
        plan.fs
    )
}

/// Every open file on the mount is an open file of this process.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}
