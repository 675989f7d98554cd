//! What the tests of the protocol share.
#![allow(dead_code)] // Each test uses a part.

pub mod local;
pub mod quiet;
pub mod requests;
pub mod scripted;
pub mod toy;
