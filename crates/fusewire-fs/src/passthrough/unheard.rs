//! What the kernel remembers of files that are opened without requests, where nobody hears of changes: in filesystems that are
//! mounted inside the directory.
//!
//! With a request for each open it would be told then that its pages are not to be used. Without, it is told to forget them, soon after
//! they were answered.

use super::feed::patiently;
use fusewire::{NodeId, context, notify::Notifier};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// How often the kernel forgets: what was answered is used for this long at least, and for twice as long at most.
const AGE: Duration = Duration::from_secs(1);

/// Content that the kernel has, or is about to have, with the time when it was answered last.
#[derive(Debug, Default)]
pub struct Unheard {
    answered: Mutex<Answered>,
}

#[derive(Debug, Default)]
struct Answered {
    nodes: HashMap<NodeId, Instant>,
    /// There is a thread that has them forgotten.
    has_thread: bool,
}

impl Unheard {
    fn answered(&self) -> MutexGuard<'_, Answered> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Content of a node is about to be answered.
    pub fn answers(self: &Arc<Self>, node: NodeId, notifier: &Notifier) {
        let mut answered = self.answered();
        answered.nodes.insert(node, Instant::now());
        if std::mem::replace(&mut answered.has_thread, true) {
            return;
        }
        drop(answered);
        let (unheard, notifier) = (self.clone(), notifier.clone());
        // It serves no requests, so it may wait for notifications.
        let body = move || while unheard.forget(&notifier) {};
        let thread = thread::Builder::new().name("fusewire-forget".into()).stack_size(128 << 10);
        if let Err(error) = context::spawn(thread, body) {
            tracing::warn!(%error, "what is mounted inside the directory may be seen as it was");
            self.answered().has_thread = false;
        }
    }

    /// Have all forgotten in a while. `false` if there is nothing more to do.
    fn forget(&self, notifier: &Notifier) -> bool {
        thread::sleep(AGE);
        let nodes: Vec<_> = {
            let mut answered = self.answered();
            let now = Instant::now();
            let nodes = answered.nodes.keys().copied().collect();
            // An answer that is younger may be on its way still: once more, next time.
            answered.nodes.retain(|_, last| now.duration_since(*last) < AGE);
            nodes
        };
        let told =
            nodes.into_iter().try_for_each(|node| patiently(notifier, || notifier.inval_inode(node, 0, 0)));
        let mut answered = self.answered();
        answered.has_thread = told.is_ok() && !answered.nodes.is_empty();
        answered.has_thread
    }
}
