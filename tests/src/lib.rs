//! Black-box tests of Fusewire: they start the command `fusewire`, look at the mount as any program would, and know nothing
//! of the crates behind it.
//!
//! A test is a [`sandbox::Sandbox`] (a private mount namespace, a scratch directory, a watchdog), one or more
//! [`mount::Mount`]s in it, and [`program`]s that work there. How `fusewire` is called is written down once, in
//! [`command`].
//!
//! The tests need root and `/dev/fuse`; without them, or without a program that a test drives, the test says
//! `skipped: reason` and passes. With `FUSEWIRE_TEST_STRICT=1` it fails instead.

pub mod actor;
pub mod command;
pub mod fsx;
pub mod history;
pub mod mount;
pub mod mountinfo;
pub mod pjdfstest;
pub mod program;
pub mod sandbox;
pub mod skip;
pub mod sys;
pub mod tree;
pub mod wait;
