//! A client that is gone while requests of it are stuck: what was kept for it must not stay until these end.

use super::Passthrough;

impl Passthrough {
    /// Give up all that is kept for the client. What requests use lives on until these are over. Numbers are given anew
    /// from here on, to whatever such requests find: nothing of that is noted in a ledger.
    pub(super) fn give_all_up(&self) {
        self.nodes.ledger.iter().for_each(|ledger| ledger.give_up());
        self.locks.give_up();
        self.stateless.give_up();
        self.dax.give_up();
        self.nodes.open_files.give_up();
        self.nodes.give_all_up();
        drop(self.handles.remove_all());
    }
}
