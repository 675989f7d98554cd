//! What a client knows, for another process that takes this one's place while both are there: whatever is open goes to it as it is.

use super::{HANDED, Kept, KeptNode, Resumed, Way};
use crate::passthrough::{LockScope, Passthrough, locks::KeptLock};
use fusewire::{Generation, NodeId, table::Restored};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

/// Something whose descriptor another process is to have.
pub type Lent = Arc<dyn AsFd + Send + Sync>;

impl Passthrough {
    /// What the client knows, as bytes behind `beginning`, and the descriptors that go with them, in this order. Nothing must be served
    /// meanwhile, nor afterwards if another process has [taken it over](Self::take_over).
    ///
    /// # Errors
    /// If a file that is open cannot be opened for that.
    pub fn hand_over(&self, beginning: &[u8]) -> io::Result<(Vec<u8>, Vec<Lent>)> {
        let (mut kept, mut lent) = (Kept::default(), Vec::<Lent>::new());
        let mut opens = Vec::new();
        self.handles.for_each(|handle, open| opens.push((handle, open.clone())));
        for (handle, open) in opens {
            open.fd(&self.nodes)?;
            kept.opens.push(super::kept_open(handle, &open));
            lent.push(open);
        }
        if self.options.locks == LockScope::Directory {
            for (lock, held) in self.locks.kept() {
                kept.locks.push(lock);
                lent.push(held);
            }
        }
        let root = Restored { id: NodeId::ROOT, lookups: 1, generation: Generation(0) };
        kept.nodes.push(KeptNode { restored: root, way: self.nodes.root_way()? });
        for (restored, mount, handle) in self.nodes.all_kept() {
            let way = match self.nodes.way(restored.id, mount, handle) {
                Ok((way, fd)) => {
                    lent.extend(fd.map(|fd| fd as Lent));
                    way
                }
                // The client meets that here, too.
                Err(error) => {
                    tracing::debug!(node = restored.id.raw(), %error, "a node is stale");
                    Way::Lost
                }
            };
            kept.nodes.push(KeptNode { restored, way });
        }
        Ok((kept.write(HANDED, beginning), lent))
    }

    /// Go on where another process is, which has [handed over](Self::hand_over) what its client knows, with these descriptors. To be
    /// called before anything is served. That process loses nothing by it. What comes back is what its client began with.
    ///
    /// # Errors
    /// If the bytes are anything else, or not all of it is found here: unless `lossy`.
    pub fn take_over(
        &mut self,
        bytes: &[u8],
        files: Vec<OwnedFd>,
        lossy: bool,
    ) -> io::Result<(Vec<u8>, Resumed)> {
        let wrong = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        let (beginning, mut kept) = Kept::read(HANDED, bytes)?;
        let root = kept.nodes.iter().find(|node| node.restored.id == NodeId::ROOT);
        if root.is_none_or(|root| Ok(&root.way) != self.nodes.root_way().as_ref()) {
            return wrong("it is of another directory".into());
        }
        let given = kept.nodes.iter().filter(|node| node.way == Way::Given).count();
        if files.len() != kept.opens.len() + kept.locks.len() + given {
            return wrong(format!("{} descriptors came, which are not all", files.len()));
        }
        self.nodes.budget.came_with(files.len());
        let known = kept
            .nodes
            .iter()
            .filter(|node| node.way != Way::Lost && node.restored.id != NodeId::ROOT)
            .count();
        let mut files = files.into_iter();
        let opens: Vec<_> = files.by_ref().take(kept.opens.len()).collect();
        let locks: Vec<(KeptLock, OwnedFd)> =
            std::mem::take(&mut kept.locks).into_iter().zip(files.by_ref()).collect();
        let resumed = self.resume_with(kept, opens, files.collect());
        for (lock, file) in locks {
            let permit = self.nodes.permit()?;
            self.locks.restore(lock, crate::passthrough::fds::Fd::new(file, permit));
        }
        if !lossy && (resumed.nodes < known || resumed.lost_opens > 0) {
            return wrong(format!(
                "{} files that the guest knows, and {} that it has open, are not found here: is it the same directory?",
                known - resumed.nodes.min(known),
                resumed.lost_opens
            ));
        }
        Ok((beginning, resumed))
    }
}
