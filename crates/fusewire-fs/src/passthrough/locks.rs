//! Advisory locks, seen by everybody who uses the directory.
//!
//! A POSIX lock belongs to a process; ours would all be the daemon's and never conflict. So each owner has, per file, an
//! open file of its own below, and locks of that open file (`F_OFD_SETLK`), which conflict with those of other open
//! files and with those of processes. Closing it drops them all, which is what closing a file does to POSIX locks.
//!
//! An ordinary user's daemon may find itself refused a second open file, although the client has one: its mode denies the owner
//! (`O_CREAT` with mode 0, as lock files are made). Then the lower file that the client has open is lent to the first owner who
//! locks through it. Its locks end when the owner's do, not with the file; another owner can have none in the same open file.
//!
//! The lower kernel does not look for circles among owners of such locks, so that is done here, among those who wait through
//! this mount.

use super::{Passthrough, fds::Fd, handle::Open, stateless::Use, sys, sys::LockCommand};
use crate::closing::once_closed;
use fusewire::{
    Context, FileLock, FileType, Handle, LockKind, LockOwner, NodeId,
    op::{Getlk, Setlk},
};
use rustix::{
    fs::{FlockOperation, OFlags},
    io::{Errno, Result},
};
use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Last byte of a lock that reaches to the end of the file.
const TO_THE_END: u64 = i64::MAX as u64;

type Owners = HashMap<(NodeId, LockOwner), Arc<Held>>;

/// Who holds POSIX locks through this mount.
#[derive(Debug, Default)]
pub struct Locks {
    owners: Mutex<Owners>,
    /// Who waits for what.
    waiting: Mutex<HashMap<LockOwner, (NodeId, FileLock)>>,
    /// How many `owners` there are: closing a file must not cost a lock when there are none.
    count: AtomicUsize,
    /// How many ranges they have.
    ranges: Arc<AtomicUsize>,
}

/// An owner's locks on one file, without the open file that has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLock {
    /// The file.
    pub node: NodeId,
    /// The owner.
    pub owner: LockOwner,
    /// What is locked.
    pub ranges: Vec<FileLock>,
    /// The client's open files that they were taken through.
    pub through: Vec<Handle>,
}

/// An owner's locks on one file.
#[derive(Debug)]
pub struct Held {
    fd: Fd,
    /// It is the client's own open file, this one, by another descriptor.
    lent: Option<Handle>,
    ranges: Mutex<Vec<FileLock>>,
    /// How many of them there are, with those of others.
    all: Arc<AtomicUsize>,
    /// The client's open files that they were taken through.
    through: Mutex<Vec<Handle>>,
}

impl Locks {
    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, node: NodeId, owner: LockOwner) -> Option<Arc<Held>> {
        self.owners().get(&(node, owner)).cloned()
    }

    fn insert(&self, node: NodeId, owner: LockOwner, fd: Fd) -> Arc<Held> {
        self.insert_in(&mut self.owners(), (node, owner), (fd, None))
    }

    fn insert_in(
        &self,
        owners: &mut Owners,
        key: (NodeId, LockOwner),
        (fd, lent): (Fd, Option<Handle>),
    ) -> Arc<Held> {
        let held = owners
            .entry(key)
            .or_insert_with(|| {
                let (ranges, through, all) = (Mutex::default(), Mutex::default(), self.ranges.clone());
                Arc::new(Held { fd, lent, ranges, all, through })
            })
            .clone();
        self.count.store(owners.len(), Ordering::Release);
        held
    }

    /// The client's own open file is to have the owner's locks. If it has those of another owner already, that says whether these are in the
    /// way of `wanted` (`AGAIN`), or that nothing more can be locked through it (`NOLCK`).
    fn lend(
        &self,
        (node, owner): (NodeId, LockOwner),
        handle: Handle,
        fd: Fd,
        wanted: &FileLock,
    ) -> Result<Arc<Held>> {
        let mut owners = self.owners();
        match lent(&owners, (node, owner), handle) {
            Some(other) if other.conflicts(wanted) => Err(Errno::AGAIN),
            Some(_) => Err(Errno::NOLCK),
            None => Ok(self.insert_in(&mut owners, (node, owner), (fd, Some(handle)))),
        }
    }

    /// What another owner has locked through the client's own open file: the lower kernel sees no conflict there.
    fn unseen(&self, node: NodeId, asking: LockOwner, handle: Handle, wanted: &FileLock) -> Option<FileLock> {
        let owners = self.owners();
        let ranges =
            lent(&owners, (node, asking), handle)?.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        ranges.iter().find(|lock| is_in_the_way(lock, wanted)).copied()
    }

    /// A lock was granted. If its owner has closed the file meanwhile, it is gone: the open file that has it may not be.
    fn granted(&self, node: NodeId, owner: LockOwner, held: &Arc<Held>) {
        if held.lent.is_some() && !self.get(node, owner).is_some_and(|now| Arc::ptr_eq(&now, held)) {
            held.end();
        }
    }

    /// All locks, each with the open file that has them.
    pub fn kept(&self) -> Vec<(KeptLock, Arc<Held>)> {
        let kept = |(&(node, owner), held): (&(NodeId, LockOwner), &Arc<Held>)| {
            let ranges = held.ranges.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let through = held.through.lock().unwrap_or_else(PoisonError::into_inner).clone();
            (KeptLock { node, owner, ranges, through }, held.clone())
        };
        self.owners().iter().map(kept).collect()
    }

    /// Locks that another process had, in an open file that came from there. Perhaps it was lent, in which case it is that by which
    /// the first lock was taken.
    pub fn restore(&self, lock: KeptLock, fd: Fd) {
        let lent = lock.through.first().copied();
        let held = self.insert_in(&mut self.owners(), (lock.node, lock.owner), (fd, lent));
        lock.ranges.into_iter().for_each(|range| held.note(range));
        lock.through.into_iter().for_each(|handle| held.used_by(handle));
    }

    fn retain(&self, keep: impl Fn(&(NodeId, LockOwner), &Held) -> bool) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut owners = self.owners();
        owners.retain(|key, held| keep(key, held));
        self.count.store(owners.len(), Ordering::Release);
    }

    /// An owner has closed the file.
    pub fn release(&self, node: NodeId, owner: LockOwner) {
        self.retain(|&key, held| key != (node, owner) || held.end());
    }

    /// An open file has come to its end, and with it the locks that it owns itself (`F_OFD_SETLK`): of those the kernel
    /// says nothing. Those of a process ended before that, when it closed the file; what the same owner has locked
    /// since then, through another open file, is not touched. (This is told late, after `close` has returned.)
    pub fn ended(&self, node: NodeId, handle: Handle) {
        self.retain(|&(other, _), held| other != node || held.is_needed_without(handle) || held.end());
    }

    /// The client is gone, and with it its locks, once what it had open is closed. Those who wait were interrupted.
    pub fn give_up(&self) {
        self.retain(|_, _| false);
    }

    /// How many descriptors are in use for locks.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// `asking` is going to wait. `DEADLK` if whoever is in its way waits, in the end, for `asking`.
    fn wait(&self, node: NodeId, asking: LockOwner, wanted: FileLock) -> Result<Waiting<'_>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let owners = self.owners();
        let mut seen = vec![asking];
        let mut next = vec![(node, asking, wanted)];
        while let Some((node, asking_there, wanted)) = next.pop() {
            let in_the_way = owners
                .iter()
                .filter(|((other, owner), held)| {
                    *other == node && *owner != asking_there && held.conflicts(&wanted)
                })
                .map(|((_, owner), _)| *owner);
            for owner in in_the_way {
                if owner == asking {
                    return Err(Errno::DEADLK);
                }
                if let Some(&(node, lock)) = waiting.get(&owner).filter(|_| !seen.contains(&owner)) {
                    seen.push(owner);
                    next.push((node, owner, lock));
                }
            }
        }
        waiting.insert(asking, (node, wanted));
        Ok(Waiting { locks: self, owner: asking })
    }

    /// Has anybody else locks on the file, through this mount?
    fn has_others(&self, node: NodeId, asking: LockOwner) -> bool {
        self.owners().keys().any(|&(other, owner)| other == node && owner != asking)
    }

    /// The process that holds, through this mount, a lock which conflicts with `wanted` and contains `at`.
    fn holder(&self, node: NodeId, asking: LockOwner, wanted: LockKind, at: u64) -> Option<u32> {
        self.owners().iter().filter(|((other, owner), _)| *other == node && *owner != asking).find_map(
            |(_, held)| {
                let ranges = held.ranges.lock().unwrap_or_else(PoisonError::into_inner);
                let wanted = FileLock { start: at, end: at, kind: wanted, pid: 0 };
                ranges.iter().find(|lock| is_in_the_way(lock, &wanted)).map(|lock| lock.pid)
            },
        )
    }
}

/// Somebody who waits; dropping it says that they no longer do.
struct Waiting<'a> {
    locks: &'a Locks,
    owner: LockOwner,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.locks.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.owner);
    }
}

impl Held {
    /// These locks are at their end; closing the file does the rest, unless it is lent. `false`: they are not to be kept.
    fn end(&self) -> bool {
        let all = sys::Range { kind: libc::F_UNLCK as i16, start: 0, length: 0, pid: 0 };
        if self.lent.is_some()
            && let Err(error) = sys::ofd_lock(&self.fd, LockCommand::Set, all)
        {
            tracing::warn!(%error, "locks of a client stay until it closes the file");
        }
        false
    }

    /// Is one of these in the way of `wanted`?
    fn conflicts(&self, wanted: &FileLock) -> bool {
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        ranges.iter().any(|lock| is_in_the_way(lock, wanted))
    }

    /// Something is locked through this open file.
    fn used_by(&self, handle: Handle) {
        let mut through = self.through.lock().unwrap_or_else(PoisonError::into_inner);
        if !through.contains(&handle) {
            through.push(handle);
        }
    }

    /// Were locks taken through other open files, too?
    fn is_needed_without(&self, handle: Handle) -> bool {
        let mut through = self.through.lock().unwrap_or_else(PoisonError::into_inner);
        let before = through.len();
        through.retain(|&other| other != handle);
        through.len() == before || !through.is_empty()
    }

    /// Remember what was locked: the kernel below knows, but does not tell whose it is.
    fn note(&self, new: FileLock) {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let before = ranges.len();
        replace(&mut ranges, new);
        self.all.fetch_add(ranges.len().wrapping_sub(before), Ordering::Relaxed);
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let ranges = self.ranges.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.all.fetch_sub(ranges.len(), Ordering::Relaxed);
    }
}

/// Who has locks in the client's own open file, other than `asking`.
fn lent(owners: &Owners, asking: (NodeId, LockOwner), handle: Handle) -> Option<&Arc<Held>> {
    let is_it = |&(&key, held): &(&(NodeId, LockOwner), &Arc<Held>)| {
        key.0 == asking.0 && key != asking && held.lent == Some(handle)
    };
    owners.iter().find(is_it).map(|(_, held)| held)
}

/// The lower file cannot be opened, as it is, in that way.
fn is_denied(error: Errno) -> bool {
    matches!(error, Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY)
}

fn is_refused<R>(done: &Result<R>) -> bool {
    matches!(done, Err(Errno::AGAIN | Errno::ACCESS))
}

/// Can one owner not have `wanted` while another has `lock`?
fn is_in_the_way(lock: &FileLock, wanted: &FileLock) -> bool {
    (lock.kind == LockKind::Write || wanted.kind == LockKind::Write)
        && lock.start <= wanted.end
        && wanted.start <= lock.end
}

/// `new` takes the place of whatever it covers.
fn replace(ranges: &mut Vec<FileLock>, new: FileLock) {
    let mut left = Vec::with_capacity(ranges.len() + 2);
    for old in ranges.drain(..) {
        if old.end < new.start || new.end < old.start {
            left.push(old);
            continue;
        }
        if old.start < new.start {
            left.push(FileLock { end: new.start - 1, ..old });
        }
        if new.end < old.end {
            left.push(FileLock { start: new.end + 1, ..old });
        }
    }
    if new.kind != LockKind::Unlock {
        left.push(new);
    }
    *ranges = left;
}

fn range(lock: &FileLock) -> Result<sys::Range> {
    let kind = match lock.kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    let start = i64::try_from(lock.start).map_err(|_| Errno::INVAL)?;
    let length = match lock.end {
        TO_THE_END.. => 0,
        end => end.checked_sub(lock.start).ok_or(Errno::INVAL)? as i64 + 1,
    };
    Ok(sys::Range { kind: kind as i16, start, length, pid: 0 })
}

fn lock_of(range: &sys::Range) -> FileLock {
    let kind = match i32::from(range.kind) {
        libc::F_RDLCK => LockKind::Read,
        libc::F_WRLCK => LockKind::Write,
        _ => LockKind::Unlock,
    };
    let start = range.start.max(0) as u64;
    let end = if range.length == 0 { TO_THE_END } else { start + range.length as u64 - 1 };
    FileLock { start, end, kind, pid: u32::try_from(range.pid).unwrap_or(0) }
}

impl Passthrough {
    pub(super) fn test_lock(&self, op: &Getlk) -> Result<FileLock> {
        let open = self.open_node(op.node, op.handle, Use::Read)?;
        let wanted = range(&op.lock)?;
        // The owner's own locks are not in its way, so they are to be asked through the file that has them. Whoever
        // has none may ask through any.
        let found = match self.locks.get(op.node, op.owner) {
            Some(held) => sys::ofd_lock(&held.fd, LockCommand::Test, wanted)?,
            None => sys::ofd_lock(open.fd(&self.nodes)?, LockCommand::Test, wanted)?,
        };
        let mut lock = lock_of(&found);
        if lock.kind == LockKind::Unlock
            && let Some(unseen) = self.locks.unseen(op.node, op.owner, op.handle, &op.lock)
        {
            return Ok(unseen);
        }
        if lock.kind != LockKind::Unlock && found.pid < 0 {
            let at = lock.start.max(op.lock.start);
            lock.pid = self.locks.holder(op.node, op.owner, op.lock.kind, at).unwrap_or(0);
        }
        Ok(lock)
    }

    pub(super) async fn set_lock(&self, cx: &Context, op: &Setlk) -> Result<()> {
        if op.flock {
            return self.set_flock(cx, op).await;
        }
        let wanted = range(&op.lock)?;
        let open = self.open_node(op.node, op.handle, Use::Read)?;
        let held = match self.locks.get(op.node, op.owner) {
            Some(held) => held,
            None if op.lock.kind == LockKind::Unlock => return Ok(()),
            None => self.hold(op, &open)?,
        };
        held.used_by(op.handle);
        let is_full = |most| self.locks.ranges.load(Ordering::Relaxed) >= most;
        if self.options.bounds.ranges.is_some_and(is_full) && op.lock.kind != LockKind::Unlock {
            return Err(Errno::NOLCK);
        }
        // Asked before the attempt: afterwards, whoever was in the way may just have gone.
        let others = self.locks.has_others(op.node, op.owner);
        let mut done = sys::ofd_lock(&held.fd, LockCommand::Set, wanted);
        if !op.wait && is_refused(&done) && others {
            let _turn = self.waits.take()?;
            let again = || sys::ofd_lock(&held.fd, LockCommand::Set, wanted);
            done = once_closed(cx, done, is_refused, again).await;
        }
        while op.wait && is_refused(&done) {
            let _waiting = self.locks.wait(op.node, op.owner, op.lock)?;
            let _turn = self.waits.take()?;
            let waiting = held.clone();
            let waited = cx.blocking(move || sys::ofd_lock(&waiting.fd, LockCommand::Wait, wanted)).await;
            done = match waited {
                Err(Errno::INTR) if !cx.is_cancelled() => Err(Errno::AGAIN),
                waited => waited,
            };
        }
        done?;
        held.note(op.lock);
        self.locks.granted(op.node, op.owner, &held);
        Ok(())
    }

    /// An open file for the locks of an owner that has none yet. Locks for writing need one that is open for writing, those for reading
    /// one that is open for reading: it is open for both if it can be, else as the client's is; if it must be, it is the client's.
    fn hold(&self, op: &Setlk, open: &Open) -> Result<Arc<Held>> {
        let opened = |flags| self.nodes.open(op.node, FileType::Regular, flags);
        let insert = |fd| self.locks.insert(op.node, op.owner, fd);
        let denied = match opened(OFlags::RDWR) {
            Err(error) if is_denied(error) => error,
            fd => return fd.map(insert),
        };
        let mode = open.flags & OFlags::RWMODE;
        if mode != OFlags::RDWR
            && let Ok(fd) = opened(mode)
        {
            return Ok(insert(fd));
        }
        let lent = match self.is_stateless(op.handle) {
            true => Err(denied),
            false => self.lend_own(op, open),
        };
        let wanted = if op.lock.kind == LockKind::Write { OFlags::WRONLY } else { OFlags::RDONLY };
        match lent {
            Err(_) if mode == OFlags::RDWR => opened(wanted).map(insert).or(lent),
            lent => lent,
        }
    }

    fn lend_own(&self, op: &Setlk, open: &Open) -> Result<Arc<Held>> {
        let permit = self.nodes.permit()?;
        let fd = rustix::io::fcntl_dupfd_cloexec(open.fd(&self.nodes)?, 0)?;
        let lent = self.locks.lend((op.node, op.owner), op.handle, Fd::new(fd, permit), &op.lock);
        // Whoever is willing to wait is not told to try again.
        lent.map_err(|error| if op.wait { Errno::NOLCK } else { error })
    }

    async fn set_flock(&self, cx: &Context, op: &Setlk) -> Result<()> {
        let open = self.open_node(op.node, op.handle, Use::Read)?;
        // Opened now, if not yet: what waits below has it at hand.
        open.fd(&self.nodes)?;
        let (now, wait) = match op.lock.kind {
            LockKind::Read => (FlockOperation::NonBlockingLockShared, FlockOperation::LockShared),
            LockKind::Write => (FlockOperation::NonBlockingLockExclusive, FlockOperation::LockExclusive),
            LockKind::Unlock => (FlockOperation::NonBlockingUnlock, FlockOperation::Unlock),
        };
        let mut done = rustix::fs::flock(open.path(), now);
        if !op.wait && is_refused(&done) {
            let _turn = self.waits.take()?;
            done = once_closed(cx, done, is_refused, || rustix::fs::flock(open.path(), now)).await;
        }
        while op.wait && done == Err(Errno::AGAIN) {
            let _turn = self.waits.take()?;
            let waiting = open.clone();
            done = match cx.blocking(move || rustix::fs::flock(waiting.path(), wait)).await {
                Err(Errno::INTR) if !cx.is_cancelled() => Err(Errno::AGAIN),
                waited => waited,
            };
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(start: u64, end: u64, kind: LockKind) -> FileLock {
        FileLock { start, end, kind, pid: 1 }
    }

    #[test]
    fn a_new_lock_replaces_what_it_covers() {
        use LockKind::{Read, Unlock, Write};
        let mut ranges = Vec::new();
        replace(&mut ranges, lock(0, 99, Read));
        replace(&mut ranges, lock(10, 19, Write));
        replace(&mut ranges, lock(15, 29, Unlock));
        replace(&mut ranges, lock(90, TO_THE_END, Write));
        ranges.sort_by_key(|lock| lock.start);
        let left = [lock(0, 9, Read), lock(10, 14, Write), lock(30, 89, Read), lock(90, TO_THE_END, Write)];
        assert_eq!(ranges, left);
        replace(&mut ranges, lock(0, TO_THE_END, Unlock));
        assert!(ranges.is_empty());
    }

    #[test]
    fn a_circle_of_owners_is_a_deadlock_and_a_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let budget = crate::passthrough::fds::Budget::new(None, std::path::Path::new("/proc/self/fd"));
        let locks = Locks::default();
        let (a, b, c) = (LockOwner(1), LockOwner(2), LockOwner(3));
        let node = NodeId::new(7);
        for (owner, at) in [(a, 0), (b, 10), (c, 20)] {
            let fd = Fd::new(
                rustix::fs::open(dir.path(), OFlags::PATH, rustix::fs::Mode::empty()).unwrap(),
                budget.take().unwrap(),
            );
            locks.insert(node, owner, fd).note(lock(at, at + 9, LockKind::Write));
        }
        let first = locks.wait(node, a, lock(10, 10, LockKind::Read)).unwrap();
        let second = locks.wait(node, b, lock(25, 25, LockKind::Write)).unwrap();
        assert_eq!(locks.wait(node, c, lock(0, 0, LockKind::Write)).err(), Some(Errno::DEADLK));
        drop(second);
        locks.wait(node, c, lock(0, 0, LockKind::Write)).unwrap();
        drop(first);
        assert!(locks.waiting.lock().unwrap().is_empty());
    }

    #[test]
    fn a_lent_open_file_has_the_locks_of_one_owner_until_they_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let budget = crate::passthrough::fds::Budget::new(None, std::path::Path::new("/proc/self/fd"));
        let (own, other) = (file.as_file(), file.reopen().unwrap());
        let copy = || Fd::new(own.try_clone().unwrap().into(), budget.take().unwrap());
        let locks = Locks::default();
        let (a, b, handle, node) = (LockOwner(1), LockOwner(2), Handle(3), NodeId::new(7));
        let (first, beyond) = (lock(0, 9, LockKind::Write), lock(10, 19, LockKind::Write));
        let set = |fd: &dyn AsFd, wanted: &FileLock| {
            sys::ofd_lock(fd.as_fd(), LockCommand::Set, range(wanted).unwrap()).map(drop)
        };

        let held = locks.lend((node, a), handle, copy(), &first).unwrap();
        set(&held.fd, &first).unwrap();
        held.note(first);
        held.used_by(handle);
        locks.granted(node, a, &held);
        assert_eq!(set(&other, &first), Err(Errno::AGAIN));
        assert_eq!(locks.lend((node, b), handle, copy(), &first).err(), Some(Errno::AGAIN));
        assert_eq!(locks.lend((node, b), handle, copy(), &beyond).err(), Some(Errno::NOLCK));
        assert_eq!(locks.unseen(node, b, handle, &first), Some(first));
        assert_eq!(locks.unseen(node, b, handle, &beyond), None);
        assert_eq!(locks.unseen(node, a, handle, &first), None);
        assert_eq!(locks.unseen(node, b, Handle(4), &first), None);

        locks.release(node, a);
        set(&other, &first).expect("the file is open, and the locks have ended");
        set(&other, &lock(0, 9, LockKind::Unlock)).unwrap();
        // It was granted after that.
        set(&held.fd, &first).unwrap();
        locks.granted(node, a, &held);
        set(&other, &first).expect("its owner has closed the file");
        locks.lend((node, b), handle, copy(), &first).expect("nobody else has locks in it");
        locks.ended(node, handle);
        assert_eq!(locks.len(), 1, "nothing was locked through it");
    }

    #[test]
    fn ranges_translate_both_ways() {
        for (start, end) in
            [(0, 0), (0, TO_THE_END), (5, 9), (TO_THE_END - 1, TO_THE_END), (7, TO_THE_END - 1)]
        {
            let there = range(&lock(start, end, LockKind::Write)).unwrap();
            let back = lock_of(&there);
            assert_eq!((back.start, back.end, back.kind), (start, end, LockKind::Write));
        }
        assert_eq!(range(&lock(5, 4, LockKind::Read)), Err(Errno::INVAL));
        assert_eq!(range(&lock(u64::MAX, u64::MAX, LockKind::Read)), Err(Errno::INVAL));
    }
}
