//! What the guest's kernel does by itself, beside what `--cache` says.

use clap::Args;

use super::args::Cache;
use crate::failure::{Failure, Outcome};

/// Options that are virtiofsd's.
#[derive(Args, Debug, Default)]
pub struct Caching {
    /// Have the guest gather writes and send them later: with --cache auto or always, for a DIR that nobody else changes
    #[arg(long)]
    pub writeback: bool,
    /// Have the guest list directories without the attributes of what is in them
    #[arg(long)]
    pub no_readdirplus: bool,
    /// Leave access times alone where the guest asks for that (O_NOATIME), or refuse it without the right to
    #[arg(long)]
    pub preserve_noatime: bool,
}

impl Caching {
    /// # Errors
    /// If they do not go together with the others.
    pub fn check(&self, cache: Cache, window: u64) -> Outcome<()> {
        let refused = |why: &str, remedy: &'static str| {
            Err(Failure::usage(format!("--writeback does not go with {why}")).or_try(remedy))
        };
        match cache {
            _ if !self.writeback => Ok(()),
            Cache::Never => refused(
                "--cache never: the guest keeps no data, so there is nothing that it could gather",
                "--cache auto or always, if nobody else changes DIR",
            ),
            Cache::Shared => refused(
                "--cache shared: a guest that gathers writes takes sizes and times for its own, and sees nothing of what others do",
                "--cache auto or always, if nobody else changes DIR; or without --writeback",
            ),
            Cache::Auto | Cache::Always if window > 0 => refused(
                "--dax-window: what is mapped is written at once, and gathered writes to the same file would come late",
                "one of the two alone",
            ),
            Cache::Auto | Cache::Always => Ok(()),
        }
    }
}
