//! Telling the kernel that something changed behind its back.
//!
//! Notifications take locks in the kernel that a request in work may hold: one written from inside a handler can wait for
//! that handler for ever. Therefore they go a way of their own: they are queued, and a thread that never serves requests
//! writes them. See `docs/deadlocks.md`.

use crate::types::*;
use fusewire_abi::{self as abi, notify_code};
use std::{
    collections::VecDeque,
    ffi::CStr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use zerocopy::{Immutable, IntoBytes};

/// Sends notifications to the kernel. Cheap to clone; usable from any thread, also from inside a handler.
#[derive(Clone)]
pub struct Notifier {
    queue: Arc<Queue>,
    /// Who is told of nodes before the kernel is.
    listener: Option<Arc<Listener>>,
}

/// See [`Notifier::heard_by`].
type Listener = dyn Fn(NodeId) + Send + Sync;

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { queue, listener } = self;
        f.debug_struct("Notifier").field("queue", queue).field("is_heard", &listener.is_some()).finish()
    }
}

/// What a channel's notification thread takes from.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    writing: bool,
    closed: bool,
    failed: u64,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next message to write, header included; waits for one. `None` once closed.
    pub(crate) fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        state.writing = false;
        self.changed.notify_all();
        loop {
            if state.closed {
                return None;
            }
            if let Some(message) = state.waiting.pop_front() {
                state.writing = true;
                return Some(message);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next message, if one comes within `limit`.
    pub(crate) fn next_within(&self, limit: Duration) -> Option<Vec<u8>> {
        let state = self.lock();
        let empty = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let waited = self.changed.wait_timeout_while(state, limit, empty);
        let message = waited.unwrap_or_else(PoisonError::into_inner).0.waiting.pop_front();
        // Somebody may be in `flush`.
        self.changed.notify_all();
        message
    }

    /// A message could not be written. The kernel not knowing the node or name (`NOENT`) is no failure.
    pub(crate) fn failed(&self) {
        self.lock().failed += 1;
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

impl Notifier {
    pub(crate) fn new() -> (Self, Arc<Queue>) {
        let queue = Arc::<Queue>::default();
        (Self { queue: queue.clone(), listener: None }, queue)
    }

    /// The same; `listener` is told of each node whose attributes the kernel is to forget, before the kernel is. For a
    /// filesystem around another one that remembers things itself: it hands this one to the inner.
    #[must_use]
    pub fn heard_by(&self, listener: impl Fn(NodeId) + Send + Sync + 'static) -> Self {
        let outer = self.listener.clone();
        let both = move |node| {
            outer.iter().for_each(|outer| outer(node));
            listener(node);
        };
        Self { queue: self.queue.clone(), listener: Some(Arc::new(both)) }
    }

    /// Forget cached attributes of `node`, and cached data of `len` bytes from `offset`: 0 means to the end, and a
    /// negative offset means attributes alone. (`fuse_reverse_inval_inode`)
    pub fn inval_inode(&self, node: NodeId, offset: i64, len: i64) -> Result<()> {
        self.listener.iter().for_each(|listener| listener(node));
        let out = abi::NotifyInvalInodeOut { ino: node.raw(), off: offset, len };
        self.send(notify_code::INVAL_INODE, &out, &[])
    }

    /// Forget what `name` in `parent` leads to. (`fuse_reverse_inval_entry`)
    pub fn inval_entry(&self, parent: NodeId, name: &CStr) -> Result<()> {
        self.entry(parent, name, abi::NotifyEntryFlags::empty())
    }

    /// Ask again before `name` in `parent` is used the next time, but leave what hangs below it (mounts) in place.
    pub fn expire_entry(&self, parent: NodeId, name: &CStr) -> Result<()> {
        self.entry(parent, name, abi::NotifyEntryFlags::EXPIRE_ONLY)
    }

    fn entry(&self, parent: NodeId, name: &CStr, flags: abi::NotifyEntryFlags) -> Result<()> {
        let namelen = name.count_bytes() as u32;
        let out = abi::NotifyInvalEntryOut { parent: parent.raw(), namelen, flags: flags.bits() };
        self.send(notify_code::INVAL_ENTRY, &out, name.to_bytes_with_nul())
    }

    /// `name` in `parent`, which led to `child`, was removed: watchers are told, too.
    pub fn delete(&self, parent: NodeId, child: NodeId, name: &CStr) -> Result<()> {
        let namelen = name.count_bytes() as u32;
        let out = abi::NotifyDeleteOut { parent: parent.raw(), child: child.raw(), namelen, padding: 0 };
        self.send(notify_code::DELETE, &out, name.to_bytes_with_nul())
    }

    /// Put `data` into the page cache of `node` at `offset`.
    pub fn store(&self, node: NodeId, offset: u64, data: &[u8]) -> Result<()> {
        let size = u32::try_from(data.len()).map_err(|_| Errno::TOOBIG)?;
        let out = abi::NotifyStoreOut { nodeid: node.raw(), offset, size, padding: 0 };
        self.send(notify_code::STORE, &out, data)
    }

    /// Ask for page-cache content; it arrives at [`FileSystem::retrieved`](crate::FileSystem::retrieved) with `unique`.
    ///
    /// Choose even numbers from 2^63 up: over a ring, the kernel finds what is answered by its number (`fuse_request_find`), and
    /// those of requests are even and small; odd ones stand for interrupts, and the kernel logs a mismatch. Those that begin with
    /// `0xf05e` or `0xf05f` (the highest 16 bits) are the ring's own: what they ask for does not arrive.
    pub fn retrieve(&self, unique: u64, node: NodeId, offset: u64, size: u32) -> Result<()> {
        let out =
            abi::NotifyRetrieveOut { notify_unique: unique, nodeid: node.raw(), offset, size, padding: 0 };
        self.send(notify_code::RETRIEVE, &out, &[])
    }

    /// Wake whoever polls with this name ([`op::Poll::kernel_handle`](crate::op::Poll)).
    pub fn poll_wakeup(&self, kernel_handle: u64) -> Result<()> {
        self.send(notify_code::POLL, &abi::NotifyPollWakeupOut { kh: kernel_handle }, &[])
    }

    /// Every cached name is asked for again before it is used the next time (7.44).
    pub fn inc_epoch(&self) -> Result<()> {
        self.send(notify_code::INC_EPOCH, &[0u8; 0], &[])
    }

    /// Drop unused cached names of these nodes, so that they are forgotten (7.45).
    pub fn prune(&self, nodes: &[NodeId]) -> Result<()> {
        let count = u32::try_from(nodes.len()).map_err(|_| Errno::TOOBIG)?;
        let ids: Vec<u64> = nodes.iter().map(|node| node.raw()).collect();
        self.send(notify_code::PRUNE, &abi::NotifyPruneOut { count, ..Default::default() }, ids.as_bytes())
    }

    /// Send every request that is not answered yet once more (6.9). For a daemon that took over from another.
    pub fn resend(&self) -> Result<()> {
        self.send(notify_code::RESEND, &[0u8; 0], &[])
    }

    /// Wait until everything sent so far was written. Not from inside a handler.
    pub fn flush(&self) {
        let mut state = self.queue.lock();
        while !state.closed && (state.writing || !state.waiting.is_empty()) {
            state = self.queue.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many notifications the kernel refused (other than for not knowing the node or name).
    pub fn failures(&self) -> u64 {
        self.queue.lock().failed
    }

    /// `NODEV` once the session is over, `AGAIN` when too many wait to be written.
    fn send<T: IntoBytes + Immutable + ?Sized>(&self, code: i32, out: &T, tail: &[u8]) -> Result<()> {
        let body = out.as_bytes();
        let len = size_of::<abi::OutHeader>() + body.len() + tail.len();
        let header = abi::OutHeader { len: len as u32, error: code, unique: 0 };
        let mut message = Vec::with_capacity(len);
        message.extend_from_slice(header.as_bytes());
        message.extend_from_slice(body);
        message.extend_from_slice(tail);
        let mut state = self.queue.lock();
        if state.closed {
            return Err(Errno::NODEV);
        }
        if state.waiting.len() >= crate::limits::NOTIFY_QUEUE {
            return Err(Errno::AGAIN);
        }
        state.waiting.push_back(message);
        self.queue.changed.notify_all();
        Ok(())
    }
}
