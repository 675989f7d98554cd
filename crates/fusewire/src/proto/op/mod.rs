//! One struct per operation: what a filesystem is asked.
//!
//! The structs are views: names and data borrow from the channel's memory and live as long as the request does.
//! All are `#[non_exhaustive]`, so that a field which a later kernel adds breaks nobody, and all are `Debug`, which
//! makes `{op:?}` a trace line.

mod data;
mod names;
mod nodes;
mod special;

pub use data::*;
pub use names::*;
pub use nodes::*;
pub use special::*;

/// Defines operation structs: derives, `#[non_exhaustive]`, public fields with their docs.
macro_rules! ops { ($(
    $(#[$m:meta])* $name:ident $(<$l:lifetime>)? { $( $(#[$fm:meta])* $f:ident: $t:ty),* $(,)? }
)*) => {$(
    $(#[$m])*
    #[derive(Clone, Copy, Debug)]
    #[non_exhaustive]
    pub struct $name $(<$l>)? { $($(#[$fm])* pub $f: $t),* }
)*}; }
pub(crate) use ops;
