//! Landlock: a second wall, where the kernel has it.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// The newest rules that are known here; older kernels take what they know of them.
const NEWEST: ABI = ABI::V6;

/// Forbids this thread, and those that it starts, to use the network, and to signal or connect to processes outside. If all
/// files are opened by their names below `dirs`, others are forbidden, too: Landlock does not see where a file is that was opened by its
/// handle.
pub fn restrict(dirs: Option<&[PathBuf]>) {
    match try_restrict(dirs) {
        Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
            tracing::debug!("this kernel has no Landlock: there is no second wall");
        }
        Ok(status) => tracing::debug!(files = dirs.is_some(), status = ?status.ruleset, "Landlock is on"),
        Err(error) => tracing::debug!(%error, "no Landlock: there is no second wall"),
    }
}

fn try_restrict(dirs: Option<&[PathBuf]>) -> Result<RestrictionStatus, RulesetError> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    let Some(dirs) = dirs else { return rules.create()?.restrict_self() };
    let all = AccessFs::from_all(NEWEST);
    rules
        .handle_access(all)?
        .create()?
        .add_rules(path_beneath_rules(dirs, all & !AccessFs::Execute))?
        .add_rules(path_beneath_rules(["/proc"], AccessFs::ReadFile | AccessFs::ReadDir))?
        .restrict_self()
}
