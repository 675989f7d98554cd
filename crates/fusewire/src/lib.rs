//! Fusewire: one filesystem, every kernel channel.
//!
//! Implement [`FileSystem`], hand it to [`mount()`], and it is served until the mount goes away:
//!
//! ```no_run
#![doc = include_str!("../examples/hello.rs")]
//! ```
#![deny(unsafe_code)]

pub mod backing;
pub mod channel;
pub mod context;
mod files;
pub mod fs;
pub mod limits;
pub mod mount;
pub mod notify;
mod pages;
pub mod proto;
pub mod remedy;
pub mod reply;
pub mod server;
pub mod session;
mod sys;
pub mod table;
pub mod types;
pub mod window;

pub use context::Context;
pub use fs::FileSystem;
pub use fusewire_abi as abi;
pub use fusewire_abi::InitFlags;
pub use proto::op;
pub use server::mount;
pub use session::{Config, Started};
pub use types::*;
