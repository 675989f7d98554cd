//! The black-box tests, one module per subject.

mod cli;
mod data;
mod examples;
mod faults;
mod forward;
mod harness;
mod limits;
mod locks;
mod lower;
mod mounting;
mod posix;
mod programs;
mod ring;
mod semantics;
mod slow;
mod soak;
mod suites;
mod users;
mod vhost;
