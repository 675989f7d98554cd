//! Advisory locks: POSIX byte ranges, and `flock` on whole files.

use super::{locked, tree::State};
use crate::closing::once_closed;
use fusewire::{Context, Errno, FileLock, Handle, LockKind, LockOwner, NodeId, Result, op};
use std::{
    collections::HashSet,
    future::{Future, poll_fn},
    pin::pin,
    sync::Mutex,
    task::{Poll, Waker},
};

/// The locks on one node.
#[derive(Debug, Default)]
pub(super) struct Locks {
    ranges: Vec<Range>,
    whole: Vec<(LockOwner, LockKind)>,
}

/// A locked range.
#[derive(Clone, Copy, Debug)]
struct Range {
    owner: LockOwner,
    lock: FileLock,
    /// The open file by which it was locked. A process's own locks end when it closes the file; those of the open file
    /// itself (`F_OFD_SETLK`), which look the same from here, with the open file.
    handle: Handle,
}

fn kinds_conflict(a: LockKind, b: LockKind) -> bool {
    a == LockKind::Write || b == LockKind::Write
}

impl Locks {
    /// Locks of others that stand in the way.
    fn in_the_way(&self, owner: LockOwner, want: FileLock) -> impl Iterator<Item = &Range> {
        self.ranges.iter().filter(move |held| {
            want.kind != LockKind::Unlock
                && held.owner != owner
                && held.lock.start <= want.end
                && want.start <= held.lock.end
                && kinds_conflict(held.lock.kind, want.kind)
        })
    }

    /// The first lock that stands in the way, or that there is none.
    pub(super) fn get(&self, owner: LockOwner, want: FileLock) -> FileLock {
        let first = self.in_the_way(owner, want).min_by_key(|held| held.lock.start);
        first.map_or(FileLock { kind: LockKind::Unlock, ..want }, |held| held.lock)
    }

    /// Set, change or drop a range; whatever the owner had there before is replaced.
    fn set_range(&mut self, owner: LockOwner, handle: Handle, want: FileLock) -> Result<()> {
        if want.start > want.end {
            return Err(Errno::INVAL);
        }
        if self.in_the_way(owner, want).next().is_some() {
            return Err(Errno::AGAIN);
        }
        let mut kept = Vec::with_capacity(self.ranges.len() + 2);
        let mut merged = want;
        for held in self.ranges.drain(..) {
            let lock = held.lock;
            let apart = lock.end.saturating_add(1) < want.start || want.end.saturating_add(1) < lock.start;
            if held.owner != owner || apart {
                kept.push(held);
            } else if lock.kind == want.kind {
                merged.start = merged.start.min(lock.start);
                merged.end = merged.end.max(lock.end);
            } else {
                if lock.start < want.start {
                    kept.push(Range { lock: FileLock { end: lock.end.min(want.start - 1), ..lock }, ..held });
                }
                if lock.end > want.end {
                    kept.push(Range {
                        lock: FileLock { start: lock.start.max(want.end + 1), ..lock },
                        ..held
                    });
                }
            }
        }
        if want.kind != LockKind::Unlock {
            kept.push(Range { owner, lock: merged, handle });
        }
        self.ranges = kept;
        Ok(())
    }

    /// Set, change or drop a `flock` lock. To change one is to drop it first, and to fail then is to have lost it.
    fn set_whole(&mut self, owner: LockOwner, kind: LockKind) -> Result<()> {
        if self.whole.contains(&(owner, kind)) {
            return Ok(());
        }
        self.whole.retain(|(holder, _)| *holder != owner);
        if kind == LockKind::Unlock {
            return Ok(());
        }
        if self.whole.iter().any(|(_, held)| kinds_conflict(*held, kind)) {
            return Err(Errno::AGAIN);
        }
        self.whole.push((owner, kind));
        Ok(())
    }

    /// A process closed the file: its POSIX locks end.
    pub(super) fn drop_ranges(&mut self, owner: LockOwner) {
        self.ranges.retain(|held| held.owner != owner);
    }

    /// An open file ended: so do its own locks, the `flock` lock among them where there is one.
    pub(super) fn closed(&mut self, handle: Handle, flock: Option<LockOwner>) {
        self.ranges.retain(|held| held.handle != handle);
        self.whole.retain(|(holder, _)| Some(*holder) != flock);
    }
}

/// A request for a lock.
#[derive(Clone, Copy, Debug)]
struct Request {
    node: NodeId,
    handle: Handle,
    owner: LockOwner,
    lock: FileLock,
    flock: bool,
}

/// Those who wait for locks.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: Vec<Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    request: Request,
    /// `None` from when it was woken until it has looked.
    waker: Option<Waker>,
}

impl Waiters {
    /// How to wake those who wait for a lock on `node`: to be done once the state is no longer locked.
    pub(super) fn of(&mut self, node: NodeId) -> Vec<Waker> {
        let there = self.waiting.iter_mut().filter(|waiter| waiter.request.node == node);
        there.filter_map(|waiter| waiter.waker.take()).collect()
    }

    fn put(&mut self, ticket: u64, request: Request, waker: Waker) {
        self.remove(ticket);
        self.waiting.push(Waiter { ticket, request, waker: Some(waker) });
    }

    fn remove(&mut self, ticket: u64) {
        self.waiting.retain(|waiter| waiter.ticket != ticket);
    }

    fn requests_of(&self, owner: LockOwner) -> impl Iterator<Item = Request> {
        let of_owner = move |request: &Request| !request.flock && request.owner == owner;
        self.waiting.iter().map(|waiter| waiter.request).filter(of_owner)
    }
}

impl State {
    fn set_lock(&mut self, request: Request) -> Result<()> {
        let locks = &mut self.node_mut(request.node)?.locks;
        match request.flock {
            true => locks.set_whole(request.owner, request.lock.kind),
            false => locks.set_range(request.owner, request.handle, request.lock),
        }
    }

    /// Would the owner of `request`, waiting for those in its way, in the end wait for itself?
    fn would_deadlock(&self, request: Request) -> bool {
        let mut seen = HashSet::new();
        let mut open = vec![request];
        while let Some(next) = open.pop() {
            let Ok(node) = self.node(next.node) else { continue };
            for held in node.locks.in_the_way(next.owner, next.lock) {
                if held.owner == request.owner {
                    return true;
                }
                if seen.insert(held.owner) {
                    open.extend(self.waiters.requests_of(held.owner));
                }
            }
        }
        false
    }
}

/// Takes a waiter off the list when it waits no longer, whatever the reason.
struct Ticket<'a> {
    state: &'a Mutex<State>,
    number: u64,
}

impl<'a> Ticket<'a> {
    fn draw(state: &'a Mutex<State>) -> Self {
        let waiters = &mut locked(state).waiters;
        waiters.next += 1;
        Self { state, number: waiters.next }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        locked(self.state).waiters.remove(self.number);
    }
}

/// Set or drop a lock, if need be after waiting for it.
pub(super) async fn set(state: &Mutex<State>, cx: &Context, op: &op::Setlk) -> Result<()> {
    let request =
        Request { node: op.node, handle: op.handle, owner: op.owner, lock: op.lock, flock: op.flock };
    let attempt = || locked(state).set_lock(request);
    let mut result = attempt();
    if result == Err(Errno::AGAIN) {
        // A `flock` lock that was to be changed is gone by now, and others may want it.
        wake(state, op.node);
        result = match op.wait {
            true => wait(state, cx, request).await,
            false => once_closed(cx, result, |done| *done == Err(Errno::AGAIN), attempt).await,
        };
    }
    wake(state, op.node);
    result
}

async fn wait(state: &Mutex<State>, cx: &Context, request: Request) -> Result<()> {
    let ticket = Ticket::draw(state);
    let mut cancelled = pin!(cx.cancelled());
    poll_fn(|task| {
        let mut state = locked(state);
        match state.set_lock(request) {
            Err(Errno::AGAIN) => {}
            result => return Poll::Ready(result),
        }
        if !request.flock && state.would_deadlock(request) {
            return Poll::Ready(Err(Errno::DEADLK));
        }
        if cancelled.as_mut().poll(task).is_ready() {
            return Poll::Ready(Err(Errno::INTR));
        }
        state.waiters.put(ticket.number, request, task.waker().clone());
        Poll::Pending
    })
    .await
}

/// Let those who wait for a lock on `node` try again.
pub(super) fn wake(state: &Mutex<State>, node: NodeId) {
    let wakers = locked(state).waiters.of(node);
    wakers.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LockOwner = LockOwner(1);
    const B: LockOwner = LockOwner(2);
    const H: Handle = Handle(1);

    fn range(start: u64, end: u64, kind: LockKind) -> FileLock {
        FileLock { start, end, kind, pid: 0 }
    }

    /// Which kind of lock `owner` has on each of the first bytes.
    fn held(locks: &Locks, owner: LockOwner) -> String {
        let kind = |byte| {
            let there =
                |held: &&Range| held.owner == owner && held.lock.start <= byte && byte <= held.lock.end;
            let mut own = locks.ranges.iter().filter(there);
            let first = own.next();
            assert!(own.next().is_none(), "byte {byte} is locked twice: {locks:?}");
            first.map_or('-', |held| if held.lock.kind == LockKind::Read { 'r' } else { 'w' })
        };
        (0..10).map(kind).collect()
    }

    #[test]
    fn ranges_split_and_merge() {
        let mut locks = Locks::default();
        locks.set_range(A, H, range(0, 9, LockKind::Write)).unwrap();
        locks.set_range(A, H, range(3, 5, LockKind::Read)).unwrap();
        assert_eq!(held(&locks, A), "wwwrrrwwww");
        locks.set_range(A, H, range(4, 7, LockKind::Unlock)).unwrap();
        assert_eq!(held(&locks, A), "wwwr----ww");
        locks.set_range(A, H, range(3, 7, LockKind::Write)).unwrap();
        assert_eq!(held(&locks, A), "wwwwwwwwww");
        assert_eq!(locks.ranges.len(), 1, "neighbours of one kind are one lock");
        locks.set_range(A, H, range(2, u64::MAX >> 1, LockKind::Unlock)).unwrap();
        assert_eq!(held(&locks, A), "ww--------");
    }

    #[test]
    fn only_others_stand_in_the_way() {
        let mut locks = Locks::default();
        locks.set_range(A, H, range(2, 4, LockKind::Read)).unwrap();
        locks.set_range(B, H, range(3, 6, LockKind::Read)).unwrap();
        assert_eq!(locks.set_range(A, H, range(0, 3, LockKind::Write)), Err(Errno::AGAIN));
        assert_eq!(held(&locks, A), "--rrr-----", "a refused request changes nothing");
        assert_eq!(locks.get(A, range(0, 9, LockKind::Write)), range(3, 6, LockKind::Read));
        assert_eq!(locks.get(A, range(0, 2, LockKind::Write)).kind, LockKind::Unlock);
        locks.drop_ranges(B);
        locks.set_range(A, H, range(0, 3, LockKind::Write)).unwrap();
        assert_eq!(locks.set_range(A, H, range(3, 2, LockKind::Write)), Err(Errno::INVAL));
    }

    #[test]
    fn whole_file_locks() {
        let mut locks = Locks::default();
        locks.set_whole(A, LockKind::Read).unwrap();
        locks.set_whole(B, LockKind::Read).unwrap();
        assert_eq!(locks.set_whole(A, LockKind::Write), Err(Errno::AGAIN));
        locks.set_whole(B, LockKind::Write).expect("who fails to change its lock has lost it");
        assert_eq!(locks.set_whole(A, LockKind::Read), Err(Errno::AGAIN));
        locks.closed(H, Some(B));
        locks.set_whole(A, LockKind::Write).unwrap();
    }

    #[test]
    fn locks_of_an_open_file_end_with_it() {
        let mut locks = Locks::default();
        locks.set_range(A, H, range(0, 4, LockKind::Write)).unwrap();
        locks.set_range(B, Handle(2), range(5, 9, LockKind::Write)).unwrap();
        locks.closed(H, None);
        assert_eq!((held(&locks, A), held(&locks, B)), ("-".repeat(10), "-----wwwww".to_owned()));
    }
}
