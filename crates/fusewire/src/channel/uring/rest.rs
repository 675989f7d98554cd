//! Spare entries, and how they rest.
//!
//! A thread that stands in for others has entries of its own, and the kernel gives requests to any entry that waits for one. There is no
//! command that takes back such an entry. But it is not given requests while it holds one, and there is a kind of request that
//! nobody waits for: the answer to a notification that asks for content of the page cache (`FUSE_NOTIFY_RETRIEVE`), here for no
//! bytes of it. So an entry rests over such a request, and its answer is what makes it take part again; it also sets going
//! a request that waits in the kernel.
//!
//! The notification is written by a thread of the queue, on the queue's CPU, while it has a request in work, when its own entry
//! can not be the one that gets the answer. If another of its own entries does, it is answered at once.
//!
//! The node asked for has to be a file that the kernel knows and is not about to drop, because the kernel would wait for
//! that, and dropping may in turn wait for the request in work. A file that a request in work is about is kept, if by nothing else
//! then by its open file, up to the end of RELEASE. Only where files are opened without asking the filesystem is that not so,
//! and there nothing rests.

use crate::{sys::fork::NotInherited, types::Errno};
use fusewire_abi::{self as abi, Opcode, notify_code};
use rustix::{
    event::EventfdFlags,
    fd::OwnedFd,
    fs::FileType,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering},
    },
};
use zerocopy::{FromBytes, IntoBytes};

/// Numbers of these answers begin with that: the kernel counts its own from 0. Then comes the queue that it is meant for, and a number.
/// Even as those are, since the lowest bit marks interrupts, and the kernel's log has a line for an answer with it.
const MARK: u64 = 0xf05e << 48;
const MARKED: u64 = 0xffff << 48;
const QUEUE: u32 = 32;
/// The same for those that are answered at once, which sets a waiting request going: see `kick.rs`.
const STIR: u64 = 0xf05f << 48;

/// A request of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// One that an entry can rest over.
    Rest,
    /// One that is to be answered on this queue.
    Stir(u16),
}

impl Own {
    /// What a request is for, if it is one of ours.
    pub(super) fn of(opcode: u32, unique: u64) -> Option<Self> {
        match unique & MARKED {
            _ if opcode != Opcode::NotifyReply as u32 => None,
            MARK => Some(Self::Rest),
            STIR => Some(Self::Stir((unique >> QUEUE) as u16)),
            _ => None,
        }
    }
}

/// Is the node of such a request, with this answer, a file that the kernel keeps while the request is in work? A directory cannot be asked for.
pub(super) fn names_a_file(opcode: u32, answer: &[u8]) -> bool {
    if opcode == Opcode::Getattr as u32 {
        let mode = abi::AttrOut::read_from_prefix(answer).map_or(0, |(out, _)| out.attr.mode);
        return FileType::from_raw_mode(mode) == FileType::RegularFile;
    }
    [Opcode::Read, Opcode::Write, Opcode::Open, Opcode::Flush, Opcode::Fsync]
        .iter()
        .any(|&of| of as u32 == opcode)
}

/// Whether files are opened by asking the filesystem.
mod opens {
    pub const UNKNOWN: u8 = 0;
    pub const ASKED: u8 = 1;
    pub const NEVER: u8 = 2;
}

/// The spare entries of one queue.
#[derive(Debug, Default)]
struct Lot {
    /// Those that take part.
    awake: AtomicUsize,
    /// How many of them are to be sent to rest.
    surplus: AtomicUsize,
    /// The queue gets no further entry, so none may rest.
    is_full: AtomicBool,
}

/// The spare entries of a mount.
#[derive(Debug)]
pub(super) struct Rest {
    device: NotInherited,
    /// A request that takes long ends the connection, so none may be kept.
    is_timed: bool,
    opens: AtomicU8,
    next: AtomicU32,
    lots: Vec<Lot>,
}

impl Rest {
    /// For that many queues. `is_timed`: requests may not take as long as they like.
    pub(super) fn new(device: NotInherited, queues: usize, is_timed: bool) -> Self {
        let limit = |name| fs::read_to_string(format!("/proc/sys/fs/fuse/{name}")).unwrap_or_default();
        let is_set = |name| !matches!(limit(name).trim(), "" | "0");
        let is_timed = is_timed || is_set("max_request_timeout") || is_set("default_request_timeout");
        let lots = (0..queues).map(|_| Lot::default()).collect();
        Self { device, is_timed, opens: opens::UNKNOWN.into(), next: 2.into(), lots }
    }

    pub(super) fn device(&self) -> &NotInherited {
        &self.device
    }

    /// The spare entries of a queue that take part.
    pub(super) fn awake(&self, queue: u16) -> usize {
        self.lots[usize::from(queue)].awake.load(Ordering::Relaxed)
    }

    pub(super) fn wakes(&self, queue: u16) {
        self.lots[usize::from(queue)].awake.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rests(&self, queue: u16) {
        self.lots[usize::from(queue)].awake.fetch_sub(1, Ordering::Relaxed);
    }

    /// So many spare entries of a queue are not needed any more.
    pub(super) fn set_surplus(&self, queue: u16, count: usize) {
        let lot = &self.lots[usize::from(queue)];
        let count = if self.is_timed || lot.is_full.load(Ordering::Relaxed) { 0 } else { count };
        lot.surplus.store(count, Ordering::Relaxed);
    }

    /// All entries of a queue are with handlers that wait, and it gets no further one; or it has some again.
    pub(super) fn set_full(&self, queue: u16, is_full: bool) {
        let lot = &self.lots[usize::from(queue)];
        lot.is_full.store(is_full, Ordering::Relaxed);
        if is_full {
            lot.surplus.store(0, Ordering::Relaxed);
        }
    }

    /// Is one to be sent to rest? One load on the hot path.
    pub(super) fn is_wanted(&self, queue: u16) -> bool {
        self.lots[usize::from(queue)].surplus.load(Ordering::Relaxed) > 0
    }

    /// An OPEN was answered.
    pub(super) fn opened(&self, error: Option<Errno>) {
        if error == Some(Errno::NOSYS) {
            self.opens.store(opens::NEVER, Ordering::Relaxed);
        } else if error.is_none() && self.opens.load(Ordering::Relaxed) == opens::UNKNOWN {
            self.opens.store(opens::ASKED, Ordering::Relaxed);
        }
    }

    /// Send an entry of a queue to rest: on the queue's CPU, by a thread of it that has a request for this file in work.
    pub(super) fn send_one(&self, queue: u16, node: u64) {
        if self.opens.load(Ordering::Relaxed) != opens::ASKED {
            return;
        }
        let surplus = &self.lots[usize::from(queue)].surplus;
        if surplus.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            return;
        }
        let asked = on_cpu(usize::from(queue), || self.ask(MARK, queue, node));
        tracing::debug!(queue, ?asked, "a spare entry is to rest");
    }

    /// Have `count` requests of a queue made whose answers set others going. `node` is a file that is open.
    pub(super) fn stir(&self, queue: u16, node: u64, count: usize) -> Result<(), Errno> {
        if self.opens.load(Ordering::Relaxed) != opens::ASKED {
            return Err(Errno::NOENT);
        }
        on_cpu(usize::from(queue), || (0..count).try_for_each(|_| self.ask(STIR, queue, node)))
    }

    fn ask(&self, mark: u64, queue: u16, nodeid: u64) -> Result<(), Errno> {
        let number = u64::from(self.next.fetch_add(2, Ordering::Relaxed));
        let notify_unique = mark | u64::from(queue) << QUEUE | number;
        let body = abi::NotifyRetrieveOut { notify_unique, nodeid, offset: 0, size: 0, padding: 0 };
        const HEAD: usize = size_of::<abi::OutHeader>();
        const LEN: usize = HEAD + size_of::<abi::NotifyRetrieveOut>();
        let header = abi::OutHeader { len: LEN as u32, error: notify_code::RETRIEVE, unique: 0 };
        let mut message = [0; LEN];
        message[..HEAD].copy_from_slice(header.as_bytes());
        message[HEAD..].copy_from_slice(body.as_bytes());
        rustix::io::write(&self.device, &message).map(|_| ())
    }
}

/// Do something on a CPU: there the kernel takes the queue of that CPU for it. That the thread is there already is not enough: it may be
/// moved at any moment, so it is kept there. (Whoever decides where it runs may move it all the same: see `kick.rs`.)
fn on_cpu(cpu: usize, work: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(Errno::INVAL);
    }
    let before = sched_getaffinity(None)?;
    let mut there = CpuSet::new();
    there.set(cpu);
    if before == there {
        return work();
    }
    sched_setaffinity(None, &there)?;
    let done = work();
    // Unless it was moved meanwhile, by somebody who wants it elsewhere.
    if sched_getaffinity(None).is_ok_and(|now| now == there) {
        _ = sched_setaffinity(None, &before);
    }
    done
}

/// A thread as others see it: whether it rests, and how it is called back.
#[derive(Debug)]
pub(super) struct Spare {
    /// It was called, and has not heard it yet.
    called: AtomicBool,
    /// It is to try again to get entries.
    nudged: AtomicBool,
    /// Entries of it that rest.
    resting: AtomicUsize,
    /// Wakes it while it waits: an eventfd.
    wake: Arc<OwnedFd>,
}

impl Spare {
    pub(super) fn new() -> io::Result<Self> {
        let wake = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Self {
            called: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            resting: AtomicUsize::new(0),
            wake,
        })
    }

    pub(super) fn wake(&self) -> &Arc<OwnedFd> {
        &self.wake
    }

    /// Does it have an entry that rests, and nobody has called it?
    pub(super) fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Acquire) > 0 && !self.called.load(Ordering::Acquire)
    }

    /// An entry has gone to rest, or takes part again.
    pub(super) fn set_resting(&self, count: usize) {
        self.resting.store(count, Ordering::Release);
    }

    /// Its entries are needed.
    pub(super) fn call(&self) {
        self.called.store(true, Ordering::Release);
        // A counter that is full wakes, too.
        _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// It is to try again what it could not do: to get entries.
    pub(super) fn nudge(&self) {
        self.nudged.store(true, Ordering::Release);
        _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Was it nudged? It is told once.
    pub(super) fn is_nudged(&self) -> bool {
        self.nudged.load(Ordering::Relaxed) && self.nudged.swap(false, Ordering::AcqRel)
    }

    /// Was it called? It is told once.
    pub(super) fn hears(&self) -> bool {
        self.called.load(Ordering::Relaxed) && self.called.swap(false, Ordering::AcqRel)
    }
}

/// When the spare entries of a group of queues may rest. Deterministic; fed once for each window in which requests came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Calm {
    /// Windows since a thread of the group was stuck.
    windows: u32,
    /// Spare entries that took part the last time.
    awake: usize,
    /// Windows to pass before it is tried again, and how many passed already.
    pause: u32,
    paused: u32,
}

impl Calm {
    /// In how many windows nobody must have been stuck: 200 ms.
    pub(super) const WINDOWS: u32 = 25;
    const MOST_PAUSE: u32 = 128;

    /// Somebody is stuck.
    pub(super) fn stuck(&mut self) {
        *self = Self::default();
    }

    /// A window has passed with `awake` spare entries of which `needed` are needed. How many may rest now?
    ///
    /// One that was asked to rest may not have done so: there was no file to ask for, or another entry got the answer. Each
    /// such time it takes twice as long before it is tried again.
    pub(super) fn surplus(&mut self, awake: usize, needed: usize) -> usize {
        self.windows = (self.windows + 1).min(Self::WINDOWS);
        let surplus = awake.saturating_sub(needed);
        if self.windows < Self::WINDOWS || surplus == 0 {
            self.awake = awake;
            return 0;
        }
        if awake != self.awake {
            (self.awake, self.pause, self.paused) = (awake, 0, 0);
        }
        self.paused += 1;
        if self.paused <= self.pause {
            return 0;
        }
        (self.pause, self.paused) = ((self.pause * 2).clamp(1, Self::MOST_PAUSE), 0);
        surplus
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_rest_once_nobody_was_stuck_for_a_while() {
        let mut calm = Calm::default();
        let first = (1..100).find(|_| calm.surplus(3, 1) > 0);
        assert_eq!(first, Some(Calm::WINDOWS));
        calm.stuck();
        assert!((1..Calm::WINDOWS).all(|_| calm.surplus(3, 1) == 0));
        assert_eq!(calm.surplus(3, 1), 2);
    }

    #[test]
    fn what_is_needed_does_not_rest() {
        let mut calm = Calm::default();
        assert!((0..100).all(|_| calm.surplus(2, 2) == 0));
        assert!((0..100).all(|_| calm.surplus(0, 2) == 0));
        assert_eq!(calm.surplus(3, 2), 1);
    }

    #[test]
    fn what_does_not_rest_is_asked_less_and_less_often() {
        let mut calm = Calm::default();
        let tries: Vec<usize> = (0..1000).filter(|_| calm.surplus(1, 0) > 0).collect();
        let gaps: Vec<usize> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps, [2, 3, 5, 9, 17, 33, 65, 129, 129, 129, 129, 129, 129]);
        // One of two did.
        let mut calm = Calm::default();
        (0..40).for_each(|_| _ = calm.surplus(2, 0));
        assert_eq!(calm.surplus(1, 0), 1);
    }

    #[test]
    fn nothing_of_a_queue_rests_that_gets_no_further_entry() {
        let device = NotInherited::new(fs::File::open("/dev/null").expect("it is there").into());
        let rest = Rest { is_timed: false, ..Rest::new(device, 2, false) };
        rest.set_surplus(0, 3);
        rest.set_full(0, true);
        assert!(!rest.is_wanted(0));
        rest.set_surplus(0, 3);
        rest.set_surplus(1, 3);
        assert!(!rest.is_wanted(0) && rest.is_wanted(1));
        rest.set_full(0, false);
        rest.set_surplus(0, 3);
        assert!(rest.is_wanted(0));
    }

    #[test]
    fn a_directory_is_not_asked_for() {
        let answer =
            |mode| abi::AttrOut { attr: abi::Attr { mode, ..Default::default() }, ..Default::default() };
        let getattr = Opcode::Getattr as u32;
        assert!(names_a_file(getattr, answer(libc::S_IFREG | 0o644).as_bytes()));
        assert!(!names_a_file(getattr, answer(libc::S_IFDIR | 0o755).as_bytes()));
        assert!(!names_a_file(getattr, &[]), "it was refused");
        assert!(names_a_file(Opcode::Read as u32, &[]) && !names_a_file(Opcode::Lookup as u32, &[]));
    }

    #[test]
    fn only_our_own_answers_are_rested_over() {
        let answer = Opcode::NotifyReply as u32;
        assert_eq!(Own::of(answer, MARK | 7), Some(Own::Rest));
        assert_eq!(Own::of(answer, STIR | 3 << QUEUE | 7), Some(Own::Stir(3)));
        assert!(Own::of(answer, 7).is_none() && Own::of(Opcode::Read as u32, MARK | 7).is_none());
    }

    #[test]
    fn what_is_done_on_a_cpu_is_done_there_and_the_thread_is_free_again() {
        let before = sched_getaffinity(None).expect("affinity");
        for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| before.is_set(cpu)) {
            let mut inside = CpuSet::new();
            on_cpu(cpu, || {
                assert_eq!(rustix::thread::sched_getcpu(), cpu);
                inside = sched_getaffinity(None)?;
                Ok(())
            })
            .expect("it is there");
            assert!(inside.count() == 1 && inside.is_set(cpu), "it may be moved while it is at it");
            assert!(sched_getaffinity(None).expect("affinity") == before);
        }
        assert_eq!(on_cpu(CpuSet::MAX_CPU, || Ok(())), Err(Errno::INVAL));
    }

    #[test]
    fn a_thread_that_is_called_hears_it_once() {
        let spare = Spare::new().expect("an eventfd");
        spare.set_resting(1);
        assert!(spare.is_resting() && !spare.hears());
        spare.call();
        assert!(!spare.is_resting() && spare.hears() && !spare.hears());
        spare.nudge();
        assert!(spare.is_nudged() && !spare.is_nudged() && !spare.hears());
    }
}
