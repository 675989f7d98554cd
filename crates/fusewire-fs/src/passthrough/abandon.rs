//! A client that is gone while requests of it are stuck: what was kept for it must not stay until these end.

use super::Passthrough;

impl Passthrough {
    /// Give up all that is kept for the client. What requests use lives on until these are over. Nothing of it is noted in a ledger: the
    /// client may go on with another process.
    pub(super) fn give_all_up(&self) {
        self.locks.give_up();
        self.stateless.give_up();
        self.dax.give_up();
        self.nodes.open_files.give_up();
        self.nodes.give_all_up();
        drop(self.handles.remove_all());
    }
}
