//! The protocol, fully deterministic: messages in, replies out, no I/O.
//!
//! A channel delivers a [`Message`] in three pieces and lends the memory for the answer; [`decode`] turns it into an
//! operation by the one [operations table](operations), [`dispatch`] calls the filesystem, [`encode`] writes what it
//! answered where the channel wants it. [`negotiate`] is INIT. Nothing here knows which channel it serves.

pub mod decode;
pub mod dispatch;
pub mod encode;
pub mod message;
pub mod negotiate;
pub mod op;
pub mod operations;

pub use message::Message;
