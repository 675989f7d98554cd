//! Fusewire filesystems as a virtio-fs device for virtual machines, over vhost-user.
//!
//! A virtual machine monitor (QEMU, cloud-hypervisor, User Mode Linux ...) connects to a socket and hands over the guest's memory and
//! its queues; requests are served straight from and to that memory by the same [`Session`](fusewire::session::Session)s that serve
//! mounts. [`Device`] is the device, [`kit`] the other side of it: a monitor and a driver in user space, for tests and for load.
//!
//! * Each queue has a thread (`queue.rs`); if it is stuck in a system call, others stand in for it (`spare.rs`).
//! * The header, the arguments and names of a request are copied once and then looked at, since the guest may change its memory at
//!   any time. File data is not copied: it is read into the guest's memory and written from there (`chain.rs`).
//! * A guest that uses DAX has files of the host in a window of its memory (`window.rs`).
//! * A guest that breaks the rules of the queue has its queue stopped until it resets the device; one that breaks those of the
//!   protocol gets an errno.
#![deny(unsafe_code)]

mod again;
mod backed;
mod bell;
mod chain;
mod device;
mod dirty;
mod handler;
mod handover;
mod inflight;
mod keeper;
pub mod kit;
mod limits;
mod linger;
mod queue;
mod server;
mod slot;
mod spare;
mod sys;
mod transfer;
mod window;
mod worker;

pub use device::{Device, Options};
pub use handover::{Given, Handed, Handover, Lent, Waiting};
pub use keeper::Keeper;
pub use limits::{MAPPING, MAX_QUEUES, QUEUE_SIZE, WINDOW, mappings};
pub use server::{Error, Server, ShutdownHandle};
