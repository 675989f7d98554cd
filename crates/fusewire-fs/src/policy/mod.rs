//! Who may do what where, decided by rules in a file, around any filesystem.
//!
//! `docs/policy.md` is the manual. [`Policy`] is the rules, [`Policed`] the filesystem that keeps to them.
//!
//! # How the kernel is kept to them
//!
//! Names and attributes that the kernel has cached for one user would serve another. Denying a lookup would not do: the kernel
//! drops a cached name for everybody when one is refused it, with the mounts and working directories below. Instead, what
//! any rule may keep anybody away from has attributes that are valid for no time at all ([`Policy::guards`]). With `default_permissions` the
//! kernel then asks for them, in the name of whoever wants to pass, each time that it checks permissions, and an error of `getattr` is
//! the caller's alone. Opening, making and removing names are asked for each time in any case.
//!
//! Hence: mount with `default_permissions`. Without it nobody is asked on the way through a cached directory.

mod file;
mod fold;
mod in_kernel;
#[cfg(test)]
mod kernel_tests;
mod places;
mod policed;
mod rules;
mod take_back;
#[cfg(test)]
mod tests;

pub use file::PolicyError;
pub use in_kernel::{InKernel, Moment};
pub use policed::{Policed, PolicySwitch};
pub(crate) use rules::matches;
pub use rules::{Action, Because, Decision, Effect, Policy, Standing, Subject, Subjects};
