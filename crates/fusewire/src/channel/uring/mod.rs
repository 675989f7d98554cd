//! FUSE over io_uring (Linux 6.14): a queue per CPU, served on that CPU.
//!
//! The kernel puts a request into the queue of the CPU it is made on, and copies it to where the entry's memory is; the
//! answer is made there, and one system call (`io_uring_enter`) commits it and waits for the next. A thread that was
//! woken runs on the CPU of whom it serves, which is what makes the ring quick: the hand-over to another CPU costs several
//! times a request.
//!
//! * Each queue has one entry with one thread; so while a request is served the next one waits in the kernel, not behind it.
//!   A handler that awaits something leaves its thread free: the queue gets a further entry.
//! * A handler stuck in a system call is noticed by the watch (`../watch.rs`), which puts a further thread with a ring of
//!   its own to the same queues. Its entries rest once nobody is stuck any more: see `rest.rs`.
//! * A thread that has more to do than it can is helped by such threads on other CPUs, if that pays: see `spread.rs`.
//! * Requests that waited while a queue had no entry are set going by a request of our own: see `kick.rs`. Should that come to nothing,
//!   the watch sees that requests wait beside free entries: see `stall.rs`.
//! * FORGET and INTERRUPT, and what came before the ring was ready, are read from `/dev/fuse` as ever
//!   ([`dev_fuse`](super::dev_fuse)), where notifications are written, too. Should the kernel refuse the ring, everything
//!   goes there.
//! * Everything that can fail is done before the kernel is told of the ring: see `crew.rs`.

mod aside;
mod choice;
mod crew;
mod govern;
mod keep;
mod kick;
mod offer;
mod policy;
mod pool;
mod queues;
mod relief;
mod rest;
mod slot;
mod spread;
mod stall;
mod stock;
mod thread;

pub(crate) use crew::{Crew, Prepared};
pub use offer::{Reason, RingSize, SWITCH};
pub(crate) use offer::{possible, switch, try_out};
pub use pool::Buffers;
pub(crate) use queues::Queues;
