//! Filesystems for Fusewire: a directory re-exported in full, one in memory, and one that is empty.

pub mod mem;
pub mod null;
pub mod passthrough;

pub use mem::{MemFs, MemOptions};
pub use null::{NullFs, NullOptions};
pub use passthrough::{Options as PassthroughOptions, Passthrough};
