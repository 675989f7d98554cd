//! Rules on who may do what where: reading them, and reading them again.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fusewire::FileSystem;
use fusewire_fs::{Policed, Policy, PolicySwitch};

use super::plan::Plan;
use super::signals::Hangup;
use crate::failure::{Failure, Outcome};

/// The rules of a plan, if it has any.
///
/// # Errors
/// If they cannot be read, or are wrong.
pub fn load(plan: &Plan) -> Outcome<Option<Policy>> {
    plan.policy.as_deref().map(read).transpose()
}

fn read(path: &Path) -> Outcome<Policy> {
    Policy::load(path).map_err(|error| {
        let known = error.remedy();
        Failure::new(error.to_string()).or_try(if known.is_empty() {
            "what docs/policy.md describes"
        } else {
            known
        })
    })
}

/// The filesystem kept to the rules, if there are any.
pub fn around<F: FileSystem>(fs: F, policy: Option<Policy>, plan: &Plan) -> Policed<F> {
    let Some(policy) = policy else { return Policed::without_rules(fs) };
    if let Some(file) = &plan.policy {
        tracing::info!(rules = policy.len(), ?file, "policy in force");
        if policy.is_empty() {
            tracing::warn!(?file, "the policy has no rules: its default holds for everything");
        }
    }
    Policed::new(fs, policy)
}

/// What SIGHUP is to do, if there are rules.
pub fn hangup(switch: &PolicySwitch, plan: &Plan) -> Option<Hangup> {
    let (switch, path) = (switch.clone(), plan.policy.clone()?);
    // One after the other, so that what is in force at the end is what was read last.
    let turn = Mutex::new(());
    let hangup = move || {
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        read_again(&switch, &path);
    };
    Some(Arc::new(hangup))
}

fn read_again(switch: &PolicySwitch, path: &Path) {
    match read(path) {
        Ok(policy) => {
            let rules = policy.len();
            switch.put_in_force(policy);
            let (denied_by_kernel, absent_by_kernel) = switch.answered_by_kernel();
            tracing::info!(
                rules,
                denied_by_requests = switch.denials(),
                denied_by_kernel,
                absent_by_kernel,
                "{}: read again and in force",
                path.display()
            );
        }
        Err(failure) => tracing::error!("the policy from before stays in force: {failure}"),
    }
}
