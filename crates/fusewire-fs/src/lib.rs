//! Filesystems for Fusewire: a directory re-exported in full, one in memory, and one that is empty; and rules around any of them.

mod closing;
pub mod mem;
pub mod null;
pub mod passthrough;
pub mod policy;

pub use mem::{MemFs, MemOptions};
pub use null::{NullFs, NullOptions};
pub use passthrough::{Options as PassthroughOptions, Passthrough};
pub use policy::{Policed, Policy, PolicySwitch};
