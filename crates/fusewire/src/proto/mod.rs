//! The protocol, fully deterministic: messages in, replies out, no I/O.
//!
//! A channel delivers a [`Message`] in three pieces and lends the memory for the answer; by the one [operations
//! table](operations), [`dispatch`] has the operation read from it by [`decode`], calls the filesystem, and puts what that
//! answered, as [`encode`] has it, where the channel wants it. [`negotiate`] is INIT. Nothing here knows which channel it serves.

pub mod decode;
pub mod dispatch;
pub mod encode;
mod input;
pub mod message;
pub mod negotiate;
pub mod op;
pub mod operations;

pub use message::Message;
