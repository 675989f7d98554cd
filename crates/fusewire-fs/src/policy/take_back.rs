//! What the kernel is to forget of nodes, however many notifications wait already.

use fusewire::{Errno, NodeId, Result, context, notify::Notifier};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

/// Attributes of nodes that are not for everybody any more.
#[derive(Debug, Default)]
pub(super) struct TakeBack {
    owed: Mutex<Owed>,
}

/// For which the queue of notifications had no room.
#[derive(Debug, Default)]
struct Owed {
    nodes: HashSet<NodeId>,
    has_thread: bool,
}

/// Have the kernel forget attributes of a node; waits for room in the queue. Not from inside a handler.
pub(super) fn patiently(notifier: &Notifier, node: NodeId) -> Result<()> {
    loop {
        match now(notifier, node) {
            Err(Errno::AGAIN) => notifier.flush(),
            told => return told,
        }
    }
}

/// Attributes alone: the data stays.
fn now(notifier: &Notifier, node: NodeId) -> Result<()> {
    notifier.inval_inode(node, -1, 0)
}

impl TakeBack {
    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Have the kernel forget attributes of a node, once there is room. Also from inside a handler, which must not wait for that.
    pub fn take_back(self: &Arc<Self>, notifier: &Notifier, node: NodeId) {
        if now(notifier, node) != Err(Errno::AGAIN) {
            // The other error is that the session is over.
            return;
        }
        let mut owed = self.owed();
        owed.nodes.insert(node);
        if std::mem::replace(&mut owed.has_thread, true) {
            return;
        }
        drop(owed);
        let (this, notifier) = (self.clone(), notifier.clone());
        let thread = thread::Builder::new().name("fusewire-forget".into()).stack_size(128 << 10);
        if let Err(error) = context::spawn(thread, move || while this.work_off(&notifier) {}) {
            tracing::warn!(%error, "what is cached of places that are closed now stays for a while");
            // Whoever comes next tries again.
            self.owed().has_thread = false;
        }
    }

    /// All that is owed. `false` if there is nothing more to do.
    fn work_off(&self, notifier: &Notifier) -> bool {
        let nodes = std::mem::take(&mut self.owed().nodes);
        let told = nodes.into_iter().try_for_each(|node| patiently(notifier, node));
        let mut owed = self.owed();
        owed.has_thread = told.is_ok() && !owed.nodes.is_empty();
        owed.has_thread
    }
}
