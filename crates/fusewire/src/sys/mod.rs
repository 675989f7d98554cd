//! System calls that rustix does not wrap: the only `unsafe` of the crate beside mounting.
#![allow(unsafe_code)]

pub(crate) mod asker;
pub(crate) mod device;
pub(crate) mod fork;
pub(crate) mod memory;
pub(crate) mod pool;
pub(crate) mod sched;
pub(crate) mod segments;
pub(crate) mod signal;
pub(crate) mod transfer;
pub(crate) mod uring;
