//! Compares FUSE mounts with each other and with the directory beneath them.
//!
//! All targets are mounted at once on the same source directory and take turns at the same work, so that a change in
//! the machine's load hits all of them. What is compared is the CPU time per operation of client and daemon
//! together, which such load disturbs least, and it is compared turn by turn.
//!
//! - [`target`], [`peers`]: what is measured, as a command line;
//! - [`workload`], [`suite`]: the kinds of operation, as data, and the files they are written in;
//! - [`mod@tree`], [`sources`], [`kernel`], [`client`], [`program`]: the files that are worked on, and the threads and programs that
//!   do it;
//! - [`device`]: the guest of a virtio-fs device, in this process;
//! - [`run`]: the turns; [`memory`]: growth of a daemon with the number of known files; [`guests`]: with that of idle guests;
//! - [`daemon`], [`sampling`], [`mounts`], [`watchdog`], [`machine`], [`watching`]: the surroundings, and that nothing is left behind;
//! - [`stats`], [`requests`], [`results`], [`goal`], [`report`], [`compare`]: what is made of the numbers.

mod child;
pub mod cli;
pub mod client;
pub mod compare;
pub mod daemon;
pub mod device;
pub mod goal;
pub mod guests;
pub mod kernel;
pub mod machine;
pub mod memory;
pub mod mounts;
pub mod peers;
pub mod program;
pub mod report;
pub mod requests;
pub mod results;
pub mod run;
pub mod sampling;
#[cfg(test)]
mod skip;
pub mod sources;
pub mod stats;
pub mod suite;
pub mod sys;
pub mod target;
pub mod tree;
pub mod watchdog;
pub mod watching;
pub mod workload;
