//! `fusewire mount`: from the command line to the end of the mount.

mod background;
mod caching;
mod in_kernel;
mod place;
mod plan;
mod policy;
mod serve;
mod signals;
mod sys;

use std::ffi::OsString;

use crate::args::{LogArgs, MountArgs};
use crate::failure::Outcome;
use crate::logging::{self, Destination};

pub use caching::{InForce, other_filesystem_inside, reason as not_coherent};
use plan::Plan;
pub use serve::raise_file_limit;

/// Which of the two processes of a mount in the background this is.
#[derive(Clone, Copy, Debug)]
pub enum Role<'a> {
    /// The one that was called, with its command line, which the other one is given as well.
    Caller(&'a [OsString]),
    /// The one that serves in the background.
    Background,
}

/// Mounts. Returns when the mount has ended or, if it goes to the background, when it works.
///
/// # Errors
/// Whatever keeps the filesystem from being mounted or served.
pub fn run(args: &MountArgs, log: &LogArgs, role: Role<'_>) -> Outcome<()> {
    let plan = Plan::new(args, log)?;
    let is_child = matches!(role, Role::Background);
    if let Role::Caller(words) = role
        && args.run.daemon
        && !args.run.dry_run
    {
        return background::start(words, &plan);
    }
    let destination = if is_child { Destination::System } else { Destination::Terminal };
    logging::start(&plan.log, destination)?;
    for option in &plan.ignored {
        tracing::warn!(option, "mount option is not known and has no effect");
    }
    let plan = place::check(plan)?;
    if args.run.dry_run {
        return serve::try_out(&plan);
    }
    serve::run(&plan, is_child)
}
