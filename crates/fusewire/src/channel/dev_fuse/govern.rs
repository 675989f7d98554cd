//! Decides, by trying, how many readers wait for requests at once.
//!
//! A single reader that the scheduler may move wakes nobody in vain. Of several, the kernel wakes the one that has waited
//! longest, although the one that has just answered would take the next request without any waking. But the more callers
//! there are and the longer a request takes, the more a single reader is the bottleneck. And where CPUs idle, the
//! scheduler wakes a caller on another CPU than its reader's, each time: a lone reader then wakes by interrupt for every
//! request, whereas of two the next in turn is often the one beside the caller. So as many readers as there are CPUs are tried on
//! the load as it is, and kept if that is faster or cheaper.

use crate::channel::watch::Window;

/// How readers wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    /// One reader, wherever the scheduler puts it; the others rest.
    Single,
    /// As many readers as there are CPUs. Not pinned: a thread that a handler starts would inherit its reader's CPU.
    PerCpu,
}

impl Stance {
    fn other(self) -> Self {
        match self {
            Self::Single => Self::PerCpu,
            Self::PerCpu => Self::Single,
        }
    }
}

/// Requests per second below which trying is not worth it: a second of such load cannot lose anything one would notice.
const BUSY: f64 = 10_000.0;

/// For how many windows a load must last before the first trial: a burst is over before a trial could help it.
const FIRST: u32 = 4;

/// For how many windows a stance is kept before the other one is tried; doubled each time the trial fails.
const PATIENCE: u32 = 64;
const MOST_PATIENCE: u32 = 2048;

/// How long a trial takes, windows: the first settles, the others count.
const TRIAL: u32 = 4;

/// Several windows under one stance.
#[derive(Clone, Copy, Debug)]
struct Seen {
    windows: f64,
    rates: f64,
    slowest: f64,
    fastest: f64,
    cpu: f64,
}

impl Seen {
    const NOTHING: Self = Self { windows: 0.0, rates: 0.0, slowest: f64::MAX, fastest: 0.0, cpu: 0.0 };

    fn add(&mut self, window: Window) {
        self.windows += 1.0;
        self.rates += window.rate;
        self.slowest = self.slowest.min(window.rate);
        self.fastest = self.fastest.max(window.rate);
        self.cpu += window.cpu;
    }

    fn rate(&self) -> f64 {
        self.rates / self.windows
    }

    fn cpu(&self) -> f64 {
        self.cpu / self.windows
    }

    /// Is this so much better that it cannot be chance? Rates are at the mercy of whatever else runs, so every window must be faster
    /// than any window of the other; CPU time per request hardly is, so its mean decides.
    fn beats(&self, other: &Self) -> bool {
        let cheaper = self.cpu() < other.cpu() * 0.8 && self.rate() > other.rate() * 0.8;
        let faster = self.slowest > other.fastest * 1.05 && self.cpu() < other.cpu() * 1.5 + 1.0;
        cheaper || faster
    }
}

/// The governor: fed with one window after the other, answers with a stance. Deterministic.
#[derive(Debug)]
pub(super) struct Governor {
    stance: Stance,
    /// Windows under the stance that is kept, since the last trial.
    kept: Seen,
    /// A trial is under way: its windows so far and what they were like.
    trial: Option<(u32, Seen)>,
    until_trial: u32,
    patience: u32,
}

impl Default for Governor {
    fn default() -> Self {
        let (kept, trial) = (Seen::NOTHING, None);
        Self { stance: Stance::Single, kept, trial, until_trial: FIRST, patience: PATIENCE }
    }
}

impl Governor {
    /// A window has passed. The stance for the next one.
    pub(super) fn window(&mut self, window: Window) -> Stance {
        if window.rate < BUSY {
            // What was measured belongs to a load that is over; the next one may be of another kind, so it is tried
            // early, but the stance that was best for the last is the best guess.
            *self = Self { stance: self.stance, ..Self::default() };
            return self.stance;
        }
        match &mut self.trial {
            None => {
                self.kept.add(window);
                self.until_trial = self.until_trial.saturating_sub(1);
                if self.until_trial == 0 {
                    self.trial = Some((0, Seen::NOTHING));
                }
            }
            Some((windows, seen)) => {
                *windows += 1;
                if *windows > 1 {
                    seen.add(window);
                }
                if *windows == TRIAL {
                    let better = seen.beats(&self.kept);
                    self.decide(better);
                }
            }
        }
        if self.trial.is_some() { self.stance.other() } else { self.stance }
    }

    fn decide(&mut self, better: bool) {
        if better {
            self.stance = self.stance.other();
            self.patience = PATIENCE;
        } else {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        self.until_trial = self.patience;
        self.trial = None;
        self.kept = Seen::NOTHING;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Window = Window { rate: 0.0, cpu: 0.0 };

    fn at(rate: f64, cpu: f64) -> Window {
        Window { rate, cpu }
    }

    /// Windows spent in each stance, out of `windows`, where the stances are like this; `noise` is added to rates in turn.
    fn run(governor: &mut Governor, windows: u32, stances: (Window, Window), noise: &[f64]) -> (u32, u32) {
        let (mut stance, mut spent) = (governor.window(IDLE), (0, 0));
        for i in 0..windows as usize {
            let mut window = match stance {
                Stance::Single => {
                    spent.0 += 1;
                    stances.0
                }
                Stance::PerCpu => {
                    spent.1 += 1;
                    stances.1
                }
            };
            window.rate *= noise[i % noise.len()];
            stance = governor.window(window);
        }
        spent
    }

    #[test]
    fn the_faster_stance_is_kept_and_trials_cost_little() {
        let (single, per_cpu) =
            run(&mut Governor::default(), 10_000, (at(100e3, 9.0), at(80e3, 9.0)), &[1.0]);
        assert!(per_cpu * 50 < single, "{single} to {per_cpu}");
        let (single, per_cpu) =
            run(&mut Governor::default(), 10_000, (at(100e3, 9.0), at(180e3, 9.0)), &[1.0]);
        assert!(single * 50 < per_cpu, "{single} to {per_cpu}");
    }

    #[test]
    fn one_caller_on_an_idle_machine_is_better_off_with_a_reader_on_each_cpu() {
        // As measured with a caller that the scheduler moves, and a reader that has time to sleep.
        let (single, per_cpu) =
            run(&mut Governor::default(), 1_000, (at(15e3, 23.0), at(30e3, 14.0)), &[1.0, 0.9, 1.05]);
        assert!(single * 10 < per_cpu, "{single} to {per_cpu}");
        // And with the other CPUs taken by other programs.
        let (single, per_cpu) =
            run(&mut Governor::default(), 1_000, (at(90e3, 1.6), at(70e3, 5.0)), &[1.0, 0.9, 1.05]);
        assert!(per_cpu * 30 < single, "{single} to {per_cpu}");
    }

    #[test]
    fn among_equally_fast_stances_the_cheaper_is_kept() {
        let mut governor = Governor::default();
        run(&mut governor, 1_000, (at(100e3, 9.0), at(180e3, 9.0)), &[1.0]);
        assert_eq!(governor.stance, Stance::PerCpu);
        run(&mut governor, 1_000, (at(99e3, 1.8), at(99e3, 4.0)), &[1.0]);
        assert_eq!(governor.stance, Stance::Single);
    }

    #[test]
    fn noise_of_a_factor_of_two_changes_nothing() {
        let noise = [1.0, 0.9, 0.6, 1.0, 0.8, 0.55, 0.5];
        let (_, per_cpu) = run(&mut Governor::default(), 10_000, (at(100e3, 9.5), at(100e3, 10.0)), &noise);
        assert!(per_cpu < 200, "{per_cpu}");
    }

    #[test]
    fn little_load_is_left_alone() {
        let spent = run(&mut Governor::default(), 1_000, (at(9e3, 9.0), at(9.9e3, 1.0)), &[1.0]);
        assert_eq!(spent, (1_000, 0));
    }
}
