//! Notices threads that are stuck in a system call, so that others are put to work in their stead.

use crate::sys;
use std::{
    iter,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How often the watch looks while requests come. A reader that sleeps over the same request in two looks is stuck.
const TICK: Duration = Duration::from_millis(4);

/// How often it looks while readers are stuck: the number of those who stand in grows by as many as are stuck at a look.
const STUCK_TICK: Duration = Duration::from_millis(1);

/// In how many looks in a row a reader that sleeps over one request after the other counts as stuck: each of them is
/// short, but all that time others wait behind them.
const DROWSY: u32 = 4;

/// CPU time that a reader may take for one request before another one stands in for it. A reader that merely waits for
/// a CPU takes none.
const LONG: Duration = Duration::from_millis(16);

/// After how many looks without any request the watch goes to sleep.
const SLEEPY: u32 = 10;

/// What one reader is doing: an even number while it waits for a request, odd while it serves one, larger by one with
/// each change. Written by its reader alone. On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Status {
    step: AtomicU64,
    tid: AtomicI32,
    /// Whose requests came last: which of these is the latest goes by the number of requests served.
    callers: [AtomicU32; CALLERS],
    /// Its thread steps aside for others.
    aside: AtomicBool,
}

/// Of how many requests a reader remembers whose they were.
const CALLERS: usize = 8;

const ENDED: u64 = u64::MAX - 1;

impl Status {
    fn step(&self) {
        self.step.store(self.step.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// It is going to wait for a request.
    pub fn reads(&self) {
        if self.step.load(Ordering::Relaxed) & 1 == 1 {
            self.step();
        }
    }

    /// It serves a request now.
    pub fn serves(&self) {
        if self.step.load(Ordering::Relaxed) & 1 == 0 {
            self.step();
        }
    }

    /// It will serve no more. Its thread's number may be another's soon.
    pub fn ends(&self) {
        self.step.store(ENDED, Ordering::Release);
        self.tid.store(0, Ordering::Release);
    }

    /// Will it serve no more?
    pub(super) fn has_ended(&self) -> bool {
        self.now() == ENDED
    }

    /// Is it at work, on a request or on what it has to do besides?
    pub(super) fn is_at_work(&self) -> bool {
        self.now() & 1 == 1
    }

    /// The thread that this is about, from its beginning to its end.
    pub fn tid(&self) -> Option<rustix::thread::Pid> {
        rustix::thread::Pid::from_raw(self.tid.load(Ordering::Acquire))
    }

    /// Its thread is the calling one.
    pub fn begins(&self) {
        self.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
    }

    /// It has taken a request of this thread; 0 for none that it could name, such as a FORGET.
    pub fn serves_for(&self, caller: u32) {
        if caller != 0 {
            self.callers[self.served() as usize % CALLERS].store(caller, Ordering::Relaxed);
        }
    }

    /// Whose requests it took last; some may be from a while ago.
    pub(super) fn callers(&self) -> impl Iterator<Item = u32> + '_ {
        let latest = (self.now().saturating_sub(1) / 2) as usize;
        let at = (0..CALLERS).map(move |back| latest.wrapping_sub(back) % CALLERS);
        at.map(|at| self.callers[at].load(Ordering::Relaxed)).filter(|&caller| caller != 0)
    }

    /// Its thread is in the idle class from now on, or no longer.
    pub(super) fn step_aside(&self, aside: bool) {
        self.aside.store(aside, Ordering::Relaxed);
    }

    /// Is its thread in the idle class?
    pub(super) fn is_aside(&self) -> bool {
        self.aside.load(Ordering::Relaxed)
    }

    /// Has it done nothing since it was `seen` having had that much CPU time, although it could, for want of a CPU?
    fn starves(&self, seen: &Seen, had: Duration) -> bool {
        let same = self.is_aside() && self.tid().is_some() && self.now() == seen.state;
        same && self.runs() && self.cpu_time().saturating_sub(had) < TICK / 4
    }

    /// The CPU time it has taken, if its thread is on a CPU or waits for one; `None` while it is in a system call that waits for
    /// something else.
    fn running(&self) -> Option<Duration> {
        self.runs().then(|| self.cpu_time())
    }

    fn runs(&self) -> bool {
        let Some(tid) = self.tid() else { return true };
        sys::sched::stat_field(format_args!("self/task/{}", tid.as_raw_nonzero()), 3).as_deref() == Some("R")
    }

    /// CPU time its thread has taken so far.
    pub fn cpu_time(&self) -> Duration {
        self.tid().map_or(Duration::ZERO, sys::sched::cpu_time)
    }

    /// How many requests it has served so far.
    fn requests(state: u64) -> u64 {
        if state == ENDED { 0 } else { state / 2 }
    }

    /// How many requests it has begun with so far.
    pub(super) fn served(&self) -> u64 {
        Self::requests(self.now())
    }

    fn now(&self) -> u64 {
        self.step.load(Ordering::Acquire)
    }
}

/// Wakes the watch.
#[derive(Debug, Default)]
pub struct Watch {
    asleep: AtomicBool,
    closed: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// What the watch makes of one look at the readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Readers that are at the same request as at the last look.
    pub stuck: Vec<usize>,
    /// Nothing has happened since the last look, and nobody serves.
    pub quiet: bool,
}

/// What the watch reports to.
pub trait Watched {
    /// The readers there are.
    fn readers(&self) -> Vec<Arc<Status>>;
    /// These readers are stuck, at this look.
    fn stuck(&self, readers: &[usize]);
    /// Before it looks at them. `starving`: one that steps aside gets no CPU.
    fn looks(&mut self, starving: bool) {
        _ = starving;
    }
    /// Nothing happens, and the watch goes to sleep; or it ends.
    fn sleeps(&mut self) {}
    /// How long may it sleep, if not until something happens?
    fn due(&self) -> Option<Duration> {
        None
    }
    /// A window has passed.
    fn window(&mut self, window: Window);
}

/// What one window was like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Requests per second.
    pub rate: f64,
    /// CPU time of the readers and of those who call per request, in microseconds: how callers are woken is paid by them as well.
    pub cpu: f64,
}

/// How long a window is, at least.
const WINDOW: Duration = Duration::from_millis(8);

/// The same when requests come again after a pause: most loads are short.
const FIRST_WINDOW: Duration = Duration::from_millis(2);

/// How many callers are looked at in a window besides those whose requests came last.
const MOST_CALLERS: usize = 16;

/// What one reader was doing at the last look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    state: u64,
    /// CPU time of its thread when it was first seen at this request, running.
    cpu: Option<Duration>,
    /// Looks in a row in which it slept over a request.
    slept: u32,
}

impl Seen {
    /// A further look; `running` as [`Status::running`]. Is it stuck?
    fn again(&mut self, state: u64, running: impl FnOnce() -> Option<Duration>) -> bool {
        let same = self.state == state;
        self.state = state;
        if state & 1 == 0 {
            (self.cpu, self.slept) = (None, 0);
            return false;
        }
        match running() {
            None => {
                self.slept += 1;
                same || self.slept >= DROWSY
            }
            Some(cpu) => {
                let first = if same { *self.cpu.get_or_insert(cpu) } else { *self.cpu.insert(cpu) };
                self.slept = 0;
                cpu.saturating_sub(first) >= LONG
            }
        }
    }
}

/// Compare what readers do now with what they did at the last look; `last` becomes now. A reader that has made no progress
/// but could run, if it only got a CPU (`running` tells), is not stuck: another reader would have to share that CPU.
pub fn look(
    now: impl Iterator<Item = u64>,
    last: &mut Vec<Seen>,
    running: impl Fn(usize) -> Option<Duration>,
) -> Look {
    let mut look = Look { stuck: Vec::new(), quiet: true };
    for (i, state) in now.enumerate() {
        look.quiet &= state & 1 == 0 && last.get(i).is_some_and(|seen| seen.state == state);
        if i == last.len() {
            last.push(Seen::default());
        }
        if last[i].again(state, || running(i)) {
            look.stuck.push(i);
        }
    }
    look
}

impl Watch {
    /// A request has come: look again, if you sleep. One load on the hot path.
    pub fn awaken(&self) {
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_all();
        }
    }

    /// Have [`run`](Self::run) return.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.store(false, Ordering::Release);
        self.wake.notify_all();
    }

    /// Look until closed.
    pub fn run(&self, watched: &mut impl Watched) {
        let (mut last, mut had, mut quiet, mut fresh) = (Vec::new(), Vec::new(), 0, false);
        let (mut tally, mut busy) = (Tally::of(&watched.readers(), 0, iter::empty()), Vec::new());
        while !self.closed.load(Ordering::Acquire) {
            let readers = watched.readers();
            let now: Vec<u64> = readers.iter().map(|status| status.now()).collect();
            let requests: u64 = now.iter().map(|&state| Status::requests(state)).sum();
            let aside = |status: &Arc<Status>| status.is_aside().then(|| status.cpu_time());
            let begun: Vec<_> = readers.iter().map(aside).collect();
            let starves = |((status, seen), had): ((&Arc<Status>, &Seen), &Option<Duration>)| {
                had.is_some_and(|had| status.starves(seen, had))
            };
            watched.looks(readers.iter().zip(&last).zip(&had).any(starves));
            had = begun;
            let seen = look(now.into_iter(), &mut last, |i| readers[i].running());
            watched.stuck(&seen.stuck);
            if tally.at.elapsed() >= if fresh { FIRST_WINDOW } else { WINDOW } {
                fresh = false;
                let now = Tally::of(&readers, requests, busy.drain(..));
                watched.window(now.since(&tally));
                busy.extend(now.busy(&tally));
                tally = now;
            }
            quiet = if seen.quiet { quiet + 1 } else { 0 };
            if quiet >= SLEEPY {
                watched.sleeps();
                self.sleep(watched.due(), || {
                    readers.iter().zip(&last).all(|(status, seen)| status.now() == seen.state)
                });
                (quiet, fresh) = (0, true);
                tally = Tally::of(&readers, requests, iter::empty());
            } else {
                let tick = if fresh { FIRST_WINDOW } else { TICK };
                std::thread::sleep(if seen.stuck.is_empty() { tick } else { STUCK_TICK });
            }
        }
        // What readers still have to do they do as any other thread: nobody would see them starve.
        watched.sleeps();
    }

    /// Sleep until awakened, unless it is no longer `quiet`, or for so long.
    fn sleep(&self, limit: Option<Duration>, quiet: impl Fn() -> bool) {
        let asleep =
            |(): &mut ()| self.asleep.load(Ordering::Acquire) && !self.closed.load(Ordering::Acquire);
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.store(true, Ordering::Release);
        // A reader that has taken a request at this very moment may not have seen that, and nobody else would wake the watch
        // if that request blocks. By the end of a tick it shows.
        let waited = self.wake.wait_timeout_while(guard, TICK, asleep);
        let guard = waited.unwrap_or_else(PoisonError::into_inner).0;
        if !quiet() {
            self.asleep.store(false, Ordering::Release);
            return;
        }
        let Some(limit) = limit else {
            drop(self.wake.wait_while(guard, asleep).unwrap_or_else(PoisonError::into_inner));
            return;
        };
        drop(self.wake.wait_timeout_while(guard, limit, asleep).unwrap_or_else(PoisonError::into_inner));
        self.asleep.store(false, Ordering::Release);
    }
}

/// What the readers have done up to a moment, and what that took.
struct Tally {
    at: Instant,
    requests: u64,
    cpu: Duration,
    /// Threads that have called of late, and their CPU time.
    callers: Vec<(u32, Duration)>,
}

impl Tally {
    /// As of now. `known`: callers to look at besides those whose requests came last.
    fn of(readers: &[Arc<Status>], requests: u64, known: impl Iterator<Item = u32>) -> Self {
        let mut callers: Vec<u32> = readers.iter().flat_map(|status| status.callers()).chain(known).collect();
        callers.sort_unstable();
        callers.dedup();
        let time = |caller| Some((caller, sys::sched::Load::of(caller)?.cpu));
        Self {
            at: Instant::now(),
            requests,
            cpu: readers.iter().map(|status| status.cpu_time()).sum(),
            callers: callers.into_iter().filter_map(time).collect(),
        }
    }

    /// What the time since `begin` was like. Of callers, those count who were there then and are there now.
    fn since(&self, begin: &Self) -> Window {
        let count = self.requests.saturating_sub(begin.requests).max(1) as f64;
        let callers: Duration = self.callers.iter().filter_map(|caller| begin.taken_by(caller)).sum();
        let cpu = (self.cpu.saturating_sub(begin.cpu) + callers).as_secs_f64() * 1e6 / count;
        Window { rate: count / (self.at - begin.at).as_secs_f64(), cpu }
    }

    /// Callers of the window since `begin` who have run in it.
    fn busy<'a>(&'a self, begin: &'a Self) -> impl Iterator<Item = u32> + 'a {
        let ran = |caller: &&(u32, Duration)| begin.taken_by(caller).is_none_or(|time| !time.is_zero());
        self.callers.iter().filter(ran).map(|(caller, _)| *caller).take(MOST_CALLERS)
    }

    fn taken_by(&self, (caller, now): &(u32, Duration)) -> Option<Duration> {
        let (_, then) = self.callers.iter().find(|(known, _)| known == caller)?;
        Some(now.saturating_sub(*then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(stuck: usize) -> Look {
        Look { stuck: (0..stuck).collect(), quiet: true }
    }

    /// The second of them is stuck.
    fn second() -> Look {
        Look { stuck: vec![1], quiet: false }
    }

    fn busy(stuck: usize) -> Look {
        Look { stuck: (0..stuck).collect(), quiet: false }
    }

    #[test]
    fn a_reader_asleep_over_the_same_request_twice_is_stuck() {
        let mut last = Vec::new();
        let mut looks = |state| look([0, state].into_iter(), &mut last, |_| None);
        assert_eq!([1, 1, 3, 4, 4].map(&mut looks), [busy(0), second(), busy(0), busy(0), quiet(0)]);
    }

    #[test]
    fn a_reader_asleep_over_one_request_after_the_other_is_stuck() {
        let mut last = Vec::new();
        let mut looks = |state| look([state].into_iter(), &mut last, |_| None);
        assert_eq!([1, 5, 9, 13, 21, 22].map(&mut looks), [0, 0, 0, 1, 1, 0].map(busy));
    }

    #[test]
    fn a_reader_that_only_waits_for_a_cpu_is_not_stuck() {
        let mut last = Vec::new();
        let running = |i| (i == 0).then_some(Duration::from_secs(5));
        assert_eq!(look([1, 3].into_iter(), &mut last, running), busy(0));
        assert_eq!(look([1, 3].into_iter(), &mut last, running), second());
    }

    #[test]
    fn a_reader_that_computes_for_long_is_stuck() {
        let mut last = Vec::new();
        let mut looks =
            |(state, ms)| look([state].into_iter(), &mut last, |_| Some(Duration::from_millis(ms)));
        let seen = [(1, 100), (1, 110), (1, 120), (3, 125), (3, 130)].map(&mut looks);
        assert_eq!(seen, [0, 0, 1, 0, 0].map(busy));
    }

    #[test]
    fn the_watch_does_not_fall_asleep_over_a_request_that_comes_at_that_moment() {
        let watch = Watch::default();
        watch.sleep(None, || false);
        assert!(!watch.asleep.load(Ordering::Relaxed));
    }

    #[test]
    fn the_watch_sleeps_no_longer_than_it_may() {
        let watch = Watch::default();
        watch.sleep(Some(Duration::from_millis(1)), || true);
        assert!(!watch.asleep.load(Ordering::Relaxed));
    }

    /// Readers that are never quiet, and what they were told.
    struct Busy {
        reader: Arc<Status>,
        sleeps: u32,
    }

    impl Watched for Busy {
        fn readers(&self) -> Vec<Arc<Status>> {
            vec![self.reader.clone()]
        }
        fn stuck(&self, _: &[usize]) {}
        fn looks(&mut self, _: bool) {
            self.reader.serves();
            self.reader.reads();
        }
        fn sleeps(&mut self) {
            self.sleeps += 1;
        }
        fn window(&mut self, _: Window) {}
    }

    #[test]
    fn at_its_end_the_watch_leaves_readers_as_it_does_when_it_sleeps() {
        let (watch, mut busy) = (Watch::default(), Busy { reader: Arc::default(), sleeps: 0 });
        std::thread::scope(|scope| {
            let watching = scope.spawn(|| watch.run(&mut busy));
            std::thread::sleep(TICK * 5);
            watch.close();
            watching.join().expect("no panic");
        });
        assert_eq!(busy.sleeps, 1);
    }

    #[test]
    fn who_has_ended_is_no_thread_any_more() {
        let status = Status::default();
        status.begins();
        status.step_aside(true);
        status.ends();
        let seen = Seen { state: status.now(), ..Seen::default() };
        assert!(status.tid().is_none() && !status.starves(&seen, Duration::ZERO));
    }

    #[test]
    fn a_thread_runs_or_waits() {
        let (status, told) = (Arc::<Status>::default(), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                status.begins();
                told.wait();
                std::thread::sleep(Duration::from_millis(500));
            });
            told.wait();
            std::thread::sleep(Duration::from_millis(100));
            assert!(!status.runs());
        });
        status.begins();
        assert!(status.runs());
    }

    #[test]
    fn a_reader_remembers_whose_requests_came_last() {
        let status = Status::default();
        let serve = |caller| {
            status.serves();
            status.serves_for(caller);
            status.reads();
        };
        assert_eq!(status.callers().count(), 0);
        (1..=20).for_each(serve);
        assert_eq!(status.callers().collect::<Vec<_>>(), (13..=20).rev().collect::<Vec<_>>());
        // A FORGET leaves whoever was there.
        serve(0);
        assert_eq!(status.callers().filter(|&caller| caller == 20).count(), 1);
    }

    #[test]
    fn a_thread_that_steps_aside_for_one_that_never_sleeps_starves() {
        if !sys::sched::can_step_aside() {
            return;
        }
        let cpus = rustix::thread::sched_getaffinity(None).expect("affinity");
        let cpu = (0..1024).find(|&cpu| cpus.is_set(cpu)).expect("a CPU");
        let (status, done) = (Arc::<Status>::default(), AtomicBool::new(false));
        let spin = || {
            while !done.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let starved = std::thread::scope(|scope| {
            scope.spawn(|| {
                sys::sched::allow(None, &[cpu]);
                spin();
            });
            scope.spawn(|| {
                status.begins();
                sys::sched::allow(None, &[cpu]);
                sys::sched::set_class(None, sys::sched::Class::Idle).expect("aside");
                status.step_aside(true);
                // Served all the time, were there a CPU.
                while !done.load(Ordering::Relaxed) {
                    status.serves();
                    status.reads();
                }
            });
            let begin = Instant::now();
            let mut starved = false;
            while !starved && begin.elapsed() < Duration::from_secs(20) {
                let (seen, had) = (Seen { state: status.now(), ..Seen::default() }, status.cpu_time());
                std::thread::sleep(TICK);
                starved = status.starves(&seen, had);
            }
            done.store(true, Ordering::Relaxed);
            starved
        });
        assert!(starved);
    }

    #[test]
    fn an_ended_reader_is_neither_stuck_nor_busy() {
        let mut last = Vec::new();
        look([ENDED].into_iter(), &mut last, |_| None);
        assert_eq!(look([ENDED].into_iter(), &mut last, |_| None), quiet(0));
    }
}
