//! Channels: where requests come from.
//!
//! A channel implements [`Slot`] and drives [`Session::serve`](crate::session::Session::serve), one task per slot.
//! [`dev_fuse`] is the kernel by `/dev/fuse`, [`uring`] by a ring per CPU; [`loopback`] a fake kernel for tests; [`poll`] says how threads of the ring wait,
//! [`placement`] where threads run; [`layer`]s wrap a slot and are slots: they trace, record and inject faults.

pub mod dev_fuse;
pub mod layer;
pub mod loopback;
pub mod placement;
pub mod poll;
pub mod tasks;
pub(crate) mod trial;
pub mod uring;
pub mod watch;

pub use crate::{
    session::{Answered, Slot},
    sys::segments::Segments,
};
pub use loopback::FakeKernel;

/// Ends a connection from this side: whoever waits for an answer gets an error, and so does everybody afterwards. Whoever can serve no
/// more while the connection lives has to do that, for callers would wait for ever.
#[derive(Clone)]
pub(crate) struct Abort(std::sync::Arc<dyn Fn() + Send + Sync>);

impl Abort {
    pub(crate) fn new(how: impl Fn() + Send + Sync + 'static) -> Self {
        Self(std::sync::Arc::new(how))
    }

    pub(crate) fn now(&self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Abort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Abort")
    }
}
