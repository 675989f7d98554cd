//! Which readers wait for requests, and where.
//!
//! A single reader that the scheduler may move wakes nobody in vain. Of several, the kernel wakes the one that has waited
//! longest, although the one that has just answered would take the next request without any waking. But the more callers
//! there are and the longer a request takes, the more a single reader is the bottleneck. And where CPUs idle, the scheduler keeps
//! reader and caller apart, so that each wakes the other by interrupt. Which of this weighs most is tried ([`Governor`]): for one caller, for two,
//! and for more, since what is best for one is seldom best for many, and loads of one kind come again and again. A load begins with what was
//! best for most of its like where it was measured (`docs/adr/0022-placement.md`).

use crate::{
    channel::{
        placement::{self, Placement},
        trial::{Governor, Way},
        watch::{Status, Window},
    },
    sys::sched::can_step_aside,
};
use std::sync::Arc;

/// How readers wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    /// One reader, wherever the scheduler puts it; the others rest.
    Single,
    /// As many readers as there are CPUs, wherever the scheduler puts them.
    PerCpu,
    /// A reader on each CPU.
    Pinned,
    /// One reader, on the CPU of whoever has called last; it steps aside for others.
    Beside,
    /// A reader on each CPU that steps aside for others.
    PinnedAside,
}

impl Stance {
    fn is_single(self) -> bool {
        matches!(self, Self::Single | Self::Beside)
    }

    fn steps_aside(self) -> bool {
        matches!(self, Self::Beside | Self::PinnedAside)
    }

    fn sits(self) -> bool {
        !matches!(self, Self::Single | Self::PerCpu)
    }
}

impl Way for Stance {
    fn is_for_load_only(self) -> bool {
        self.steps_aside()
    }
}

/// Numbers of callers that are told apart: 1, 2, and 3 or more.
const MOST: usize = 3;

/// As many callers are taken to be there as two of so many windows had: a reader remembers eight requests, and those of one caller
/// often come several in a row.
const REMEMBERED: usize = 4;

/// Puts readers where the governor wants them.
pub(super) struct Stances {
    /// Of these, one or all work when nobody is stuck.
    readers: Vec<Arc<Status>>,
    cpus: Vec<usize>,
    /// One for each number of callers, up to as many as there are.
    governors: [Governor<Stance>; MOST],
    /// Which of them decides.
    callers: usize,
    /// How many callers the latest windows had.
    seen: [usize; REMEMBERED],
    stance: Stance,
    /// Where the single one sits.
    seat: Option<usize>,
}

impl Stances {
    /// For `readers`, which may use `cpus`.
    pub(super) fn new(readers: Vec<Arc<Status>>, cpus: Vec<usize>, placement: Placement) -> Self {
        let ways = match placement {
            _ if readers.len() < 2 => vec![Stance::Single],
            Placement::Off => vec![Stance::Single, Stance::PerCpu],
            Placement::Auto if can_step_aside() => {
                vec![Stance::Single, Stance::Beside, Stance::PinnedAside, Stance::Pinned]
            }
            Placement::Auto => vec![Stance::Single, Stance::Pinned],
        };
        let presumed = ways.iter().position(|&way| way == Stance::Beside).unwrap_or(0);
        let governors = std::array::from_fn(|_| Governor::presuming(ways.clone(), presumed));
        Self {
            readers,
            cpus,
            governors,
            callers: 1,
            seen: [1; REMEMBERED],
            stance: Stance::Single,
            seat: None,
        }
    }

    /// A window has passed. How many spare readers are to be at work, if that is news.
    pub(super) fn window(&mut self, window: Window) -> Option<usize> {
        self.seen.rotate_left(1);
        self.seen[REMEMBERED - 1] = self.count_callers();
        let mut seen = self.seen;
        seen.sort_unstable();
        let callers = seen[REMEMBERED - 2];
        if callers != self.callers {
            self.governor().pause();
            self.callers = callers;
            let stance = self.governor().take_over(window);
            return self.take(stance);
        }
        let stance = self.governor().window(window);
        self.take(stance)
    }

    fn governor(&mut self) -> &mut Governor<Stance> {
        &mut self.governors[self.callers - 1]
    }

    /// How many threads have called of late, at most [`MOST`]; one that has called once among many is not counted.
    fn count_callers(&self) -> usize {
        let mut latest: Vec<u32> = self.readers.iter().flat_map(|reader| reader.callers()).collect();
        latest.sort_unstable();
        let callers = latest.chunk_by(|a, b| a == b).filter(|calls| calls.len() > 1).count();
        callers.clamp(1, MOST)
    }

    /// A look at the readers; `starving`: one that steps aside gets no CPU.
    pub(super) fn looks(&mut self, starving: bool) -> Option<usize> {
        if starving {
            let stance = self.governor().starved();
            tracing::debug!(?stance, "a reader that stepped aside got no CPU");
            return self.take(stance);
        }
        if self.stance == Stance::Beside {
            self.follow();
        }
        None
    }

    /// Nobody watches from now on.
    pub(super) fn sleeps(&mut self) -> Option<usize> {
        self.governors.iter_mut().for_each(Governor::rest);
        if self.stance.steps_aside() { self.take(Stance::Single) } else { None }
    }

    fn take(&mut self, stance: Stance) -> Option<usize> {
        if stance == self.stance {
            return None;
        }
        let before = std::mem::replace(&mut self.stance, stance);
        tracing::debug!(?stance, "readers");
        if before.steps_aside() {
            placement::step_aside(&self.readers, false);
        }
        self.seat = None;
        match stance {
            Stance::Single | Stance::PerCpu if before.sits() => {
                self.readers.iter().for_each(|reader| placement::seat(reader, &self.cpus));
            }
            Stance::Pinned | Stance::PinnedAside => {
                let places = self.readers.iter().zip(self.cpus.iter().cycle());
                places.for_each(|(reader, &cpu)| placement::seat(reader, &[cpu]));
            }
            Stance::Beside => self.follow(),
            Stance::Single | Stance::PerCpu => {}
        }
        if stance.steps_aside() {
            let asides = if stance.is_single() { &self.readers[..1] } else { &self.readers[..] };
            placement::step_aside(asides, true);
        }
        Some(if stance.is_single() { 0 } else { self.readers.len() - 1 })
    }

    /// The single reader sits where its caller is.
    fn follow(&mut self) {
        let reader = &self.readers[0];
        let cpu = reader
            .callers()
            .next()
            .and_then(placement::cpu_of)
            .filter(|cpu| self.cpus.contains(cpu))
            .or(self.seat);
        let cpu = cpu.unwrap_or(self.cpus[0]);
        if self.seat != Some(cpu) {
            self.seat = Some(cpu);
            placement::seat(reader, &[cpu]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sched::stat_field;
    use std::{
        fs,
        sync::mpsc,
        thread::{self, JoinHandle},
    };

    /// Threads that wait to end, as readers would for requests.
    struct Threads {
        statuses: Vec<Arc<Status>>,
        ends: Vec<(mpsc::Sender<()>, JoinHandle<()>)>,
    }

    impl Threads {
        fn new(count: usize) -> Self {
            let statuses: Vec<Arc<Status>> = (0..count).map(|_| Arc::default()).collect();
            let start = |status: &Arc<Status>| {
                let ((end, ended), (began, begins), status) =
                    (mpsc::channel(), mpsc::channel(), status.clone());
                let body = move || {
                    status.begins();
                    began.send(()).expect("waits");
                    _ = ended.recv();
                };
                let thread = thread::spawn(body);
                begins.recv().expect("begins");
                (end, thread)
            };
            let ends = statuses.iter().map(start).collect();
            Self { statuses, ends }
        }

        fn end(self) {
            for (end, thread) in self.ends {
                drop(end);
                thread.join().expect("ends");
            }
        }
    }

    /// The CPUs a thread may use, as `Cpus_allowed_list` names them, and whether it is in the idle class.
    fn place(status: &Status) -> (String, bool) {
        let tid = status.tid().expect("begun").as_raw_nonzero();
        let text = fs::read_to_string(format!("/proc/self/task/{tid}/status")).expect("proc");
        let cpus = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a list");
        let policy = stat_field(tid, 41).expect("a policy");
        (cpus.trim().to_owned(), policy == libc::SCHED_IDLE.to_string())
    }

    #[test]
    fn readers_sit_where_their_stance_says_and_come_back() {
        let cpus = super::super::allowed_cpus();
        if cpus.len() < 2 || !can_step_aside() {
            return;
        }
        let threads = Threads::new(2);
        let (one, other) = (threads.statuses[0].clone(), threads.statuses[1].clone());
        let home = place(&one);
        let mut stances = Stances::new(threads.statuses.clone(), cpus.clone(), Placement::Auto);
        let seat = |cpu: usize, aside| (cpu.to_string(), aside);

        assert_eq!(stances.take(Stance::PinnedAside), Some(1));
        assert_eq!((place(&one), place(&other)), (seat(cpus[0], true), seat(cpus[1], true)));
        assert_eq!(stances.take(Stance::Pinned), Some(1));
        assert_eq!((place(&one), place(&other)), (seat(cpus[0], false), seat(cpus[1], false)));

        // Its caller is this thread, which sits elsewhere.
        crate::sys::sched::allow(None, &[cpus[1]]);
        one.serves_for(rustix::thread::gettid().as_raw_nonzero().get() as u32);
        assert_eq!(stances.take(Stance::Beside), Some(0));
        assert_eq!(place(&one), seat(cpus[1], true));
        crate::sys::sched::allow(None, &[cpus[0]]);
        assert_eq!(stances.looks(false), None);
        assert_eq!(place(&one), seat(cpus[0], true));
        crate::sys::sched::allow(None, &cpus);

        assert_eq!(stances.sleeps(), Some(0));
        assert_eq!((place(&one), place(&other)), (home.clone(), home));
        threads.end();
    }

    #[test]
    fn what_is_best_for_one_caller_is_not_taken_to_be_best_for_many() {
        if super::super::allowed_cpus().len() < 2 || !can_step_aside() {
            return;
        }
        let threads = Threads::new(2);
        let reader = threads.statuses[0].clone();
        let mut stances =
            Stances::new(threads.statuses.clone(), super::super::allowed_cpus(), Placement::Auto);
        let mut window = |callers: u32| {
            for call in 0..16 {
                reader.serves();
                reader.serves_for(100 + call % callers);
                reader.reads();
            }
            let best = if callers == 1 { Stance::Beside } else { Stance::PinnedAside };
            let cpu = if stances.stance == best { 5.0 } else { 20.0 };
            stances.window(Window { rate: 30_000.0, cpu });
            stances.stance
        };
        // Until each is known.
        (0..1_000).for_each(|i| _ = window(if i / 50 % 2 == 0 { 1 } else { 4 }));
        for (callers, best) in [(1, Stance::Beside), (4, Stance::PinnedAside), (1, Stance::Beside)] {
            let stances: Vec<Stance> = (0..40).map(|_| window(callers)).collect();
            // The first windows may be of either load.
            let at_best = stances[2..].iter().filter(|&&stance| stance == best).count();
            assert!(at_best >= 20, "{callers}: {stances:?}");
        }
        threads.end();
    }

    #[test]
    fn who_starves_is_put_back() {
        if super::super::allowed_cpus().len() < 2 || !can_step_aside() {
            return;
        }
        let threads = Threads::new(2);
        let mut stances =
            Stances::new(threads.statuses.clone(), super::super::allowed_cpus(), Placement::Auto);
        // A load under which stepping aside pays.
        let (mut beside, mut windows) = (false, 0);
        // Not amid a later trial of another stance.
        while !(beside && stances.stance == Stance::Beside) || windows < 60 {
            windows += 1;
            assert!(windows < 200);
            let cpu = if stances.stance == Stance::Beside { 5.0 } else { 20.0 };
            stances.window(Window { rate: 30_000.0, cpu });
            beside |= stances.stance == Stance::Beside;
        }
        assert!(beside && stances.stance == Stance::Beside, "{:?}", stances.stance);
        assert!(place(&threads.statuses[0]).1);
        stances.looks(true);
        assert_eq!(stances.stance, Stance::Single);
        assert!(!place(&threads.statuses[0]).1);
        threads.end();
    }
}
