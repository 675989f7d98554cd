//! Programs for the kernel's BPF machine, and what loads them.
//!
//! The programs are written in C with relocations (CO-RE): an object file serves every kernel that describes its own structures
//! (BTF). The objects lie beside their sources in `src/bpf` and are made by `cargo xtask bpf`, for which clang is needed;
//! building this crate needs none.
//!
//! One module for each set of programs: [`requests`] watches requests, [`guard`] answers in a server's place. Whatever is loaded is gone when its owner is dropped,
//! or its process has ended.

pub mod guard;
pub mod load;
pub mod requests;

pub use guard::{Guard, Scope};
pub use load::{Reason, Refused, with_causes};
