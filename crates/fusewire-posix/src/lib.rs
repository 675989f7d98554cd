//! POSIX conformance suite for filesystems.
//!
//! Cases are data: TOML files with one rule each, steps, and what must come of them. [`run`] runs them on any
//! directory of any filesystem; the binary `fusewire-posix` does the same from a shell.
//!
//! ```no_run
//! let report = fusewire_posix::run("/mnt/mine", &fusewire_posix::Options::default())?;
//! report.assert_clean();
//! # Ok::<(), fusewire_posix::RunError>(())
//! ```
//!
//! Run as root, it also checks what other users may and may not do (uids 65501 to 65504, which need not exist).

mod case;
mod catalog;
mod ops;
mod process;
mod programs;
mod report;
mod run;
mod sys;
mod value;
mod words;
mod world;

pub use case::{Case, CaseError, Need, Step, User, parse};
pub use catalog::{cases, needs};
pub use ops::{Operation, operations};
pub use report::{CaseResult, Outcome, Report};
pub use run::{Options, RunError, run, run_cases};
pub use world::Failure;
