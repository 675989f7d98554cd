//! Whether the threads of a ring step aside for others on their CPUs.

use crate::{
    channel::{
        placement::{self, Placement},
        poll::Poll,
        trial::{Governor, Way},
        watch::{Status, Window},
    },
    sys::sched::can_step_aside,
};
use std::sync::Arc;

/// How the threads share their CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stance {
    /// As any other thread.
    Normal,
    /// They leave it to whoever wants it.
    Aside,
}

impl Way for Stance {
    fn is_for_load_only(self) -> bool {
        self == Self::Aside
    }
}

/// The threads that are at home on their CPUs, and what is best for them.
pub(super) struct Asides {
    threads: Vec<Arc<Status>>,
    governor: Governor<Stance>,
    stance: Stance,
}

impl Asides {
    pub(super) fn new(threads: Vec<Arc<Status>>, placement: Placement, poll: Poll) -> Self {
        // Who polls for as long as was asked for has its CPU to itself.
        let may = placement == Placement::Auto && !matches!(poll, Poll::Fixed(_)) && can_step_aside();
        let ways = if may { vec![Stance::Normal, Stance::Aside] } else { vec![Stance::Normal] };
        Self { threads, governor: Governor::new(ways), stance: Stance::Normal }
    }

    /// A window has passed.
    pub(super) fn window(&mut self, window: Window) {
        let stance = self.governor.window(window);
        self.take(stance);
    }

    /// A look at the threads; `starving`: one of them gets no CPU.
    pub(super) fn looks(&mut self, starving: bool) {
        if starving {
            tracing::debug!("a ring thread that stepped aside got no CPU");
            let stance = self.governor.starved();
            self.take(stance);
        }
    }

    /// Nobody watches from now on.
    pub(super) fn sleeps(&mut self) {
        self.take(Stance::Normal);
    }

    fn take(&mut self, stance: Stance) {
        if stance != self.stance {
            self.stance = stance;
            tracing::debug!(?stance, "ring threads");
            placement::step_aside(&self.threads, stance == Stance::Aside);
        }
    }
}
