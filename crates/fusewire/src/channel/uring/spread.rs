//! Decides how many threads of other CPUs help with the queues of one that is saturated.
//!
//! A home thread that has as much to do as it can, or that does not get its CPU because others want it, lets requests wait while other CPUs
//! idle. Threads elsewhere then get entries of its queues. That pays only if a request takes much longer than the wake-up on another
//! CPU that each of them then costs, so it is tried, and goes on only if more requests are answered than before.
//!
//! * A home thread that is saturated in a sample after the other, with long requests, while other queues idle: one thread more is tried.
//! * No more requests than before: it ends, and is not tried again for a while, each time four times as long.
//! * More: it stays, and if there is still too much to do, another one is tried.
//! * There is no longer more to do than one thread can, or the helpers have to wait for their CPUs: it ends.

use crate::sys::sched::Load;
use std::time::Duration;

/// How long a sample is, at least.
pub(super) const SAMPLE: Duration = Duration::from_millis(48);

/// CPU time that a request must take: a wake-up on another CPU costs as much.
const WORTH: Duration = Duration::from_micros(40);
/// Part of the time that a thread must be at work, or wait for its CPU, in order to be saturated.
const SATURATED: f64 = 0.75;
/// Work that one thread can do, as a part of the time: with less, nobody helps.
const ENOUGH: f64 = 0.6;
/// Part of the time that a home thread may be at work and yet be one that idles.
const IDLE: f64 = 0.25;
/// How much more must be answered than before.
const GAIN: f64 = 1.15;
/// Saturated samples before a trial, samples that a trial lasts, and how many of those at the beginning do not count.
const BEFORE: u32 = 3;
const TRIAL: u32 = 4;
const SETTLING: u32 = 1;
/// Samples without so much to do before help ends.
const LAZY: u32 = 4;
/// Samples before the next trial after one that failed; four times that the next time.
const PATIENCE: u32 = 40;
const MOST_PATIENCE: u32 = 2560;

/// What was seen of a group of queues since the last time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// How long that is.
    pub elapsed: Duration,
    /// Requests that all its threads have begun with.
    pub requests: u64,
    /// CPU time of the home thread, and time that it waited for its CPU.
    pub home: Load,
    /// The same of all who help.
    pub others: Load,
    /// How many other CPUs there are whose own queues leave them idle, and where nobody helps others.
    pub idle: usize,
    /// Threads of the group are stuck: that is another matter.
    pub is_stuck: bool,
}

impl Load {
    fn wanted(self) -> Duration {
        self.cpu + self.delay
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(before.cpu), delay: self.delay.saturating_sub(before.delay) }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, delay: self.delay + other.delay }
    }
}

/// One more is being tried.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Trial {
    /// Requests a second without it.
    before: f64,
    samples: u32,
    requests: u64,
    elapsed: Duration,
}

/// Decides for one group of queues. Deterministic.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    help: usize,
    most: usize,
    trial: Option<Trial>,
    /// Saturated samples in a row, and what they were like.
    saturated: u32,
    requests: u64,
    elapsed: Duration,
    lazy: u32,
    patience: u32,
    until_trial: u32,
}

impl Spread {
    /// For a group that at most so many may help.
    pub(super) fn new(most: usize) -> Self {
        Self {
            help: 0,
            most,
            trial: None,
            saturated: 0,
            requests: 0,
            elapsed: Duration::ZERO,
            lazy: 0,
            patience: PATIENCE,
            until_trial: 0,
        }
    }

    /// How many are to help at present.
    pub(super) fn help(&self) -> usize {
        self.help
    }

    /// A sample has passed. How many are to help from now on?
    pub(super) fn step(&mut self, sample: &Sample) -> usize {
        self.until_trial = self.until_trial.saturating_sub(1);
        if sample.is_stuck {
            // Those who stand in help as well.
            (self.trial, self.saturated) = (None, 0);
            return self.help;
        }
        match self.trial {
            Some(trial) => self.go_on(trial, sample),
            None => self.look(sample),
        }
        self.help
    }

    fn go_on(&mut self, mut trial: Trial, sample: &Sample) {
        trial.samples += 1;
        if trial.samples > SETTLING {
            trial.requests += sample.requests;
            trial.elapsed += sample.elapsed;
        }
        self.trial = (trial.samples < TRIAL).then_some(trial);
        if self.trial.is_some() {
            return;
        }
        if rate(trial.requests, trial.elapsed) < trial.before * GAIN {
            self.help -= 1;
            self.wait();
        } else {
            self.patience = PATIENCE;
        }
        (self.saturated, self.lazy) = (0, 0);
    }

    /// It has failed.
    fn wait(&mut self) {
        self.until_trial = self.patience;
        self.patience = (self.patience * 4).min(MOST_PATIENCE);
    }

    fn look(&mut self, sample: &Sample) {
        if self.help > 0 {
            let crowded =
                sample.others.delay > sample.others.cpu * 2 && sample.others.delay > sample.elapsed / 4;
            let work = sample.home.wanted() + sample.others.cpu;
            let is_lazy =
                crowded || !is_worth_it(sample) || work.as_secs_f64() < sample.elapsed.as_secs_f64() * ENOUGH;
            self.lazy = if is_lazy { self.lazy + 1 } else { 0 };
            if self.lazy >= LAZY {
                (self.help, self.lazy, self.saturated) = (0, 0, 0);
                if crowded {
                    self.wait();
                }
                return;
            }
        }
        if !is_saturated(sample) {
            self.saturated = 0;
            return;
        }
        if self.saturated == 0 {
            (self.requests, self.elapsed) = (0, Duration::ZERO);
        }
        self.saturated = (self.saturated + 1).min(BEFORE);
        self.requests += sample.requests;
        self.elapsed += sample.elapsed;
        let may = self.until_trial == 0 && self.help < self.most && self.saturated >= BEFORE;
        if may && sample.idle > self.help {
            let before = rate(self.requests, self.elapsed);
            self.trial = Some(Trial { before, samples: 0, requests: 0, elapsed: Duration::ZERO });
            (self.help, self.saturated) = (self.help + 1, 0);
        }
    }
}

fn rate(requests: u64, elapsed: Duration) -> f64 {
    requests as f64 / elapsed.as_secs_f64().max(1e-9)
}

fn is_saturated(sample: &Sample) -> bool {
    let wanted = sample.home.wanted();
    is_worth_it(sample) && wanted.as_secs_f64() >= sample.elapsed.as_secs_f64() * SATURATED
}

/// Are requests long enough for being served elsewhere?
fn is_worth_it(sample: &Sample) -> bool {
    let each = (sample.home.cpu + sample.others.cpu) / sample.requests.clamp(1, u32::MAX.into()) as u32;
    sample.requests > 0 && each >= WORTH
}

/// Does a home thread that was at work so much, in a time, idle?
pub(super) fn idles(load: Load, elapsed: Duration) -> bool {
    load.wanted() < elapsed.mul_f64(IDLE)
}

/// Read the [`Load`] of a thread of this process so far.
pub(super) fn read_load(tid: rustix::thread::Pid) -> Load {
    // A kernel without it tells of no delay, and nobody helps.
    Load::of(format_args!("self/task/{}", tid.as_raw_nonzero())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Duration = SAMPLE;

    fn load(cpu: f64, delay: f64) -> Load {
        Load { cpu: ALL.mul_f64(cpu), delay: ALL.mul_f64(delay) }
    }

    /// A home thread that computes all the time, with so many requests, while others idle.
    fn busy(requests: u64) -> Sample {
        Sample { elapsed: ALL, requests, home: load(1.0, 0.0), idle: 3, ..Sample::default() }
    }

    /// A machine where each of those who serve manages 100 requests a sample, if help is of use.
    fn run(spread: &mut Spread, samples: usize, useful: bool) -> Vec<usize> {
        (0..samples)
            .map(|_| {
                let help = spread.help() as u64;
                let others = load(help as f64, 0.0);
                spread.step(&Sample { others, ..busy(if useful { 100 * (1 + help) } else { 100 }) })
            })
            .collect()
    }

    #[test]
    fn help_comes_one_after_the_other_and_stays_if_it_pays() {
        let mut spread = Spread::new(3);
        let help = run(&mut spread, 60, true);
        assert_eq!(help[..3], [0, 0, 1]);
        assert!(help.windows(2).all(|pair| pair[0] <= pair[1]), "{help:?}");
        // A third one would add a quarter of what there is by then, which is above what it must.
        assert_eq!(spread.help(), 3);
    }

    #[test]
    fn help_that_does_not_pay_ends_and_is_tried_less_and_less_often() {
        let mut spread = Spread::new(3);
        let help = run(&mut spread, 4000, false);
        let begins: Vec<usize> = (1..help.len()).filter(|&at| help[at - 1] == 0 && help[at] == 1).collect();
        let gaps: Vec<usize> = begins.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.len() >= 3 && gaps.windows(2).all(|pair| pair[1] > 3 * pair[0]), "{gaps:?}");
        assert!(help.iter().sum::<usize>() <= 5 * TRIAL as usize, "{help:?}");
    }

    #[test]
    fn nobody_helps_where_there_is_no_need_no_room_or_no_sense() {
        let never = |sample: Sample| {
            let mut spread = Spread::new(3);
            (0..100).for_each(|_| assert_eq!(spread.step(&sample), 0, "{sample:?}"));
        };
        never(Sample { home: load(0.5, 0.1), ..busy(100) });
        never(Sample { idle: 0, ..busy(100) });
        // Short ones: the wake-up on another CPU would take longer.
        never(busy(ALL.as_micros() as u64 / 10));
        never(busy(0));
        never(Sample { is_stuck: true, ..busy(100) });
        let mut nobody = Spread::new(0);
        assert!(run(&mut nobody, 100, true).iter().all(|&help| help == 0));
    }

    #[test]
    fn a_thread_that_does_not_get_its_cpu_is_helped() {
        let mut spread = Spread::new(1);
        let starved = Sample { home: load(0.2, 0.7), ..busy(20) };
        assert_eq!([(); 3].map(|()| spread.step(&starved)), [0, 0, 1]);
    }

    #[test]
    fn help_ends_when_there_is_less_to_do() {
        let mut spread = Spread::new(1);
        run(&mut spread, 20, true);
        assert_eq!(spread.help(), 1);
        let little = Sample { home: load(0.3, 0.0), others: load(0.2, 0.0), ..busy(80) };
        let help: Vec<usize> = (0..LAZY).map(|_| spread.step(&little)).collect();
        assert_eq!(help, [1, 1, 1, 0]);
        // Much to do, but little each time.
        run(&mut spread, 20, true);
        let short = Sample { others: load(1.0, 0.0), ..busy(ALL.as_micros() as u64 / 10) };
        let help: Vec<usize> = (0..LAZY).map(|_| spread.step(&short)).collect();
        assert_eq!(help, [1, 1, 1, 0]);
        // Together they do more than one could.
        run(&mut spread, 20, true);
        let much = Sample { home: load(0.5, 0.0), others: load(0.4, 0.0), ..busy(150) };
        assert!((0..100).all(|_| spread.step(&much) == 1));
    }

    #[test]
    fn help_ends_when_others_want_its_cpu() {
        let mut spread = Spread::new(1);
        run(&mut spread, 20, true);
        let crowded = Sample { others: load(0.2, 0.7), ..busy(110) };
        (0..LAZY).for_each(|_| _ = spread.step(&crowded));
        assert_eq!(spread.help(), 0);
        // And is not back at once.
        assert_eq!(run(&mut spread, 10, true).last(), Some(&0));
    }

    #[test]
    fn no_more_help_than_queues_idle() {
        let mut spread = Spread::new(3);
        (0..100).for_each(|_| {
            let help = spread.help() as u64;
            spread.step(&Sample { idle: 2, ..busy(100 * (1 + help)) });
        });
        assert_eq!(spread.help(), 2);
        assert!(idles(load(0.1, 0.1), ALL) && !idles(load(0.1, 0.2), ALL));
    }

    #[test]
    fn the_kernels_files_are_understood() {
        let expected = Load { cpu: Duration::from_nanos(5), delay: Duration::from_nanos(7) };
        assert_eq!(Load::parse("5 7 9\n"), Some(expected));
        assert_eq!(Load::parse("x"), None);
        // The kernel counts at a tick, or when another thread has the CPU.
        let begin = std::time::Instant::now();
        while read_load(rustix::thread::gettid()).cpu == Duration::ZERO {
            assert!(begin.elapsed() < Duration::from_secs(10));
        }
    }
}
