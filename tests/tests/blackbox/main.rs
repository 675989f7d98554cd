//! The black-box tests, one module per subject.

mod cli;
mod coherent;
mod data;
mod examples;
mod faults;
mod forward;
mod harness;
mod limits;
mod locks;
mod lower;
mod mounting;
mod opens;
mod policy;
mod posix;
mod programs;
mod ring;
mod semantics;
mod slow;
mod soak;
mod stats;
mod suites;
mod top;
mod users;
mod vhost;
mod vhost_operators;
