//! Decides, by trying, which of several ways to serve a load is best.
//!
//! What costs most of a request is how threads are woken, and that depends on more than can be seen: how many callers there are,
//! what else runs, where the scheduler moves whom. So each way is tried on the load as it is, for a few windows, and kept if it is
//! faster or cheaper than the one before. A load begins with the way that is presumed to be best for its like: most are over before all
//! were tried.

use crate::channel::watch::Window;

/// A way to serve.
pub(crate) trait Way: Copy {
    /// Threads are at the mercy of others under it: not for a load too little to tell whether that goes well.
    fn is_for_load_only(self) -> bool;
}

/// Requests per second below which trying is not worth it: too few in a window to tell ways apart. A single caller on an idle machine, whom
/// each request costs two interrupts between CPUs, comes to seven thousand, and gains most.
const BUSY: f64 = 3_000.0;

/// For how many windows a load must last before the first trial, and between the first trials of one way and the next: a
/// burst is over before a trial could help it.
const FIRST: u32 = 4;

/// The same while a load is served in the way that is presumed to be best. Further apart, too: most of the others are worse.
const LATER: u32 = 128;
const APART: u32 = 64;

/// The same where the others have failed before, with another load.
const SELDOM: u32 = 512;

/// For how many windows a way is kept before one that failed is tried again; doubled each time it fails.
const PATIENCE: u32 = 128;
const MOST_PATIENCE: u32 = 2048;

/// For how many windows a way is barred under which a thread starved; doubled each time, halved when it goes well for a while.
const BAR: u32 = 16;

/// How long a trial takes, windows: the first settles, the others count.
const TRIAL: u32 = 7;

/// A way that takes more CPU time per request must be faster by more than that, and by so much.
const WORTH: f64 = 1.5;

/// How many windows are compared with a trial, at least half of them, and with the same number before them.
const CHUNK: f64 = 8.0;

/// Several windows under one way.
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

    fn and(mut self, other: &Self) -> Self {
        self.windows += other.windows;
        self.rates += other.rates;
        self.slowest = self.slowest.min(other.slowest);
        self.fastest = self.fastest.max(other.fastest);
        self.cpu += other.cpu;
        self
    }

    fn rate(&self) -> f64 {
        self.rates / self.windows
    }

    fn cpu(&self) -> f64 {
        self.cpu / self.windows
    }

    /// Is this so much better that it cannot be chance? Rates are at the mercy of whatever else runs: if every window is faster
    /// than any window of the other, a little is enough; else the mean must be by a good deal, and no window slower than the other's mean.
    /// CPU time per request is hardly disturbed, so its mean decides. More of it is accepted only for a rate that has grown by far more.
    fn beats(&self, other: &Self) -> bool {
        let gain = self.rate() / other.rate();
        let cheaper = self.cpu() < other.cpu() * 0.8 && gain > 0.8;
        let always = self.slowest > other.fastest * 1.05;
        let mostly = gain > 1.15 && self.slowest > other.rate();
        cheaper || (always || mostly) && self.cpu() <= other.cpu() * (gain / WORTH).max(1.0)
    }

    /// Is this another load than that one, both being under one way?
    fn differs(&self, other: &Self) -> bool {
        let apart = |a: f64, b: f64, factor: f64| a > b * factor || b > a * factor;
        apart(self.cpu(), other.cpu(), 1.5) || apart(self.rate(), other.rate(), 2.0)
    }
}

/// When a way is tried the next time.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// In so many windows.
    due: u32,
    patience: u32,
    /// Nor before so many windows, however small: it went badly.
    barred: u32,
    /// For how many that was the last time.
    bar: u32,
}

/// The trial that is under way.
#[derive(Clone, Copy, Debug)]
struct Trial {
    way: usize,
    windows: u32,
    seen: Seen,
}

/// The governor: fed with one window after the other, answers with a way. Deterministic.
#[derive(Debug)]
pub(crate) struct Governor<W> {
    /// The first is for little load.
    ways: Vec<W>,
    turns: Vec<Turn>,
    /// What a load begins with that nothing is known of.
    presumed: usize,
    kept: usize,
    /// The latest windows under the way that is kept, and those before.
    now: Seen,
    before: Option<Seen>,
    trial: Option<Trial>,
    /// Windows until a change of the load is believed.
    settled: u32,
    /// The next window begins under another way than the one that is kept.
    settles: bool,
}

impl<W: Way> Governor<W> {
    /// One that chooses from `ways`, of which the first is for little load.
    pub(crate) fn new(ways: Vec<W>) -> Self {
        Self::presuming(ways, 0)
    }

    /// The same; the way of that number is presumed to be best for a load.
    pub(crate) fn presuming(ways: Vec<W>, presumed: usize) -> Self {
        let turns = vec![Turn { due: 0, patience: PATIENCE, barred: 0, bar: 0 }; ways.len()];
        let mut new = Self {
            ways,
            turns,
            presumed,
            kept: presumed,
            now: Seen::NOTHING,
            before: None,
            trial: None,
            settled: 0,
            settles: false,
        };
        new.try_all_soon();
        new
    }

    /// A window has passed. The way for the next one.
    pub(crate) fn window(&mut self, window: Window) -> W {
        self.settles |= self.is_barred();
        self.turns.iter_mut().for_each(|turn| turn.barred = turn.barred.saturating_sub(1));
        if window.rate < BUSY {
            self.pause();
            let way = self.way();
            return if way.is_for_load_only() { self.ways[0] } else { way };
        }
        match &mut self.trial {
            None => self.keep(window),
            Some(trial) => {
                trial.windows += 1;
                if trial.windows > 1 {
                    trial.seen.add(window);
                }
                if trial.windows == TRIAL {
                    let Trial { way, seen, .. } = *trial;
                    self.decide(way, seen);
                }
            }
        }
        self.way()
    }

    /// A thread could not run, although it had something to do. The way from now on.
    ///
    /// The way is barred for a while, and taken up again then if it was the one that is kept; if that happens again and again, it is so no longer.
    pub(crate) fn starved(&mut self) -> W {
        let at = self.trial.map_or(self.kept, |trial| trial.way);
        if self.ways[at].is_for_load_only() {
            let turn = &mut self.turns[at];
            turn.bar = (turn.bar * 2).clamp(BAR, MOST_PATIENCE);
            turn.barred = turn.bar;
            if at == self.kept && turn.bar >= PATIENCE {
                self.kept = 0;
                self.forget();
            }
            self.trial = None;
        }
        self.way()
    }

    /// This one decides from now on, after a window that was another's. The way for the next one.
    pub(crate) fn take_over(&mut self, window: Window) -> W {
        self.settles = true;
        if window.rate < BUSY { self.window(window) } else { self.way() }
    }

    fn way(&self) -> W {
        let kept = if self.is_barred() { 0 } else { self.kept };
        self.ways[self.trial.map_or(kept, |trial| trial.way)]
    }

    /// Must the way that is kept not be used for now?
    fn is_barred(&self) -> bool {
        self.turns[self.kept].barred > 0
    }

    fn keep(&mut self, window: Window) {
        if self.is_barred() || std::mem::take(&mut self.settles) {
            return;
        }
        self.now.add(window);
        let is_another = |before: Seen| self.now.windows >= f64::from(FIRST) && self.now.differs(&before);
        self.settled = self.settled.saturating_sub(1);
        if self.settled == 0 && self.before.is_some_and(is_another) {
            (self.before, self.settled) = (None, PATIENCE);
            self.try_all_soon();
        }
        if self.now.windows == CHUNK {
            self.turns[self.kept].bar /= 2;
            self.before = Some(std::mem::replace(&mut self.now, Seen::NOTHING));
        }
        self.turns.iter_mut().for_each(|turn| turn.due = turn.due.saturating_sub(1));
        let known = self.before.map_or(0.0, |before| before.windows) + self.now.windows;
        let is_due = |turn: &Turn| turn.due == 0 && turn.barred == 0;
        let due = (0..self.ways.len()).find(|&way| way != self.kept && is_due(&self.turns[way]));
        if let Some(way) = due
            && known >= f64::from(FIRST)
        {
            self.trial = Some(Trial { way, windows: 0, seen: Seen::NOTHING });
        }
    }

    /// The load is over, or another governor decides from now on. The next one is taken for the same until it is seen to differ.
    pub(crate) fn pause(&mut self) {
        if self.now.windows >= f64::from(FIRST) {
            self.before = Some(self.now);
        }
        (self.now, self.trial, self.settled) = (Seen::NOTHING, None, 0);
    }

    /// There has been no load for a while: who took the CPUs from a way that is barred may be gone as well, unless that came again and again.
    pub(crate) fn rest(&mut self) {
        self.pause();
        for turn in self.turns.iter_mut().filter(|turn| turn.bar < PATIENCE) {
            turn.barred = 0;
        }
    }

    fn decide(&mut self, way: usize, seen: Seen) {
        self.trial = None;
        let recent = self.before.map_or(self.now, |before| self.now.and(&before));
        if seen.beats(&recent) {
            let turn = &mut self.turns[self.kept];
            (turn.due, turn.patience) = (PATIENCE, PATIENCE);
            self.kept = way;
            self.forget();
        } else {
            self.fails(way);
            self.settles = true;
        }
    }

    fn fails(&mut self, way: usize) {
        let turn = &mut self.turns[way];
        turn.patience = (turn.patience * 2).min(MOST_PATIENCE);
        turn.due = turn.patience;
    }

    fn forget(&mut self) {
        (self.now, self.before, self.trial) = (Seen::NOTHING, None, None);
    }

    /// Nothing is known of this load. What is presumed to be best for it comes first.
    fn try_all_soon(&mut self) {
        let (kept, presumed) = (self.kept, self.presumed);
        let is_presumed = kept == presumed && self.ways[kept].is_for_load_only();
        let (mut due, apart) = if is_presumed { (LATER - APART, APART) } else { (0, FIRST) };
        let others = (0..self.ways.len()).filter(|&way| way != presumed);
        for way in [presumed].into_iter().chain(others) {
            if way != kept {
                due += apart;
            }
            let turn = &mut self.turns[way];
            if is_presumed && turn.patience > PATIENCE {
                turn.due = turn.due.min(SELDOM + due);
            } else {
                (turn.due, turn.patience) = (due, PATIENCE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Window = Window { rate: 0.0, cpu: 0.0 };

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Nth(usize);

    impl Way for Nth {
        fn is_for_load_only(self) -> bool {
            self.0 >= 2
        }
    }

    fn of(ways: usize) -> Governor<Nth> {
        Governor::new((0..ways).map(Nth).collect())
    }

    fn at(rate: f64, cpu: f64) -> Window {
        Window { rate, cpu }
    }

    /// Windows spent in each way, out of `windows`, where the ways are like this; `noise` is added to rates in turn.
    fn run(governor: &mut Governor<Nth>, windows: usize, ways: &[Window], noise: &[f64]) -> Vec<usize> {
        let (mut way, mut spent) = (governor.window(IDLE), vec![0; ways.len()]);
        for i in 0..windows {
            spent[way.0] += 1;
            let mut window = ways[way.0];
            window.rate *= noise[i % noise.len()];
            way = governor.window(window);
        }
        spent
    }

    #[test]
    fn the_faster_way_is_kept_and_trials_cost_little() {
        let spent = run(&mut of(2), 10_000, &[at(100e3, 9.0), at(80e3, 9.0)], &[1.0]);
        assert!(spent[1] * 50 < spent[0], "{spent:?}");
        let spent = run(&mut of(2), 10_000, &[at(100e3, 9.0), at(180e3, 9.0)], &[1.0]);
        assert!(spent[0] * 50 < spent[1], "{spent:?}");
    }

    #[test]
    fn the_best_of_many_is_found_within_half_a_second() {
        for best in 0..4 {
            let ways: Vec<Window> =
                (0..4).map(|way| if way == best { at(60e3, 8.0) } else { at(40e3, 16.0) }).collect();
            let mut governor = of(4);
            run(&mut governor, 60, &ways, &[1.0, 0.95, 1.05]);
            let spent = run(&mut governor, 1_000, &ways, &[1.0, 0.95, 1.05]);
            assert!(spent[best] > 900, "{best}: {spent:?}");
        }
    }

    #[test]
    fn one_caller_on_an_idle_machine_is_better_off_with_a_reader_on_each_cpu() {
        // As measured with a caller that the scheduler moves, and a reader that has time to sleep.
        let spent = run(&mut of(2), 1_000, &[at(15e3, 23.0), at(30e3, 14.0)], &[1.0, 0.9, 1.05]);
        assert!(spent[0] * 10 < spent[1], "{spent:?}");
        // And with the other CPUs taken by other programs.
        let spent = run(&mut of(2), 1_000, &[at(90e3, 1.6), at(70e3, 5.0)], &[1.0, 0.9, 1.05]);
        assert!(spent[1] * 30 < spent[0], "{spent:?}");
    }

    #[test]
    fn among_equally_fast_ways_the_cheaper_is_kept() {
        let mut governor = of(2);
        run(&mut governor, 1_000, &[at(100e3, 9.0), at(180e3, 9.0)], &[1.0]);
        assert_eq!(governor.kept, 1);
        run(&mut governor, 1_000, &[at(99e3, 1.8), at(99e3, 4.0)], &[1.0]);
        assert_eq!(governor.kept, 0);
    }

    #[test]
    fn noise_of_a_factor_of_two_changes_nothing() {
        let noise = [1.0, 0.9, 0.6, 1.0, 0.8, 0.55, 0.5];
        let spent = run(&mut of(2), 10_000, &[at(100e3, 9.5), at(100e3, 10.0)], &noise);
        assert!(spent[1] < 200, "{spent:?}");
    }

    #[test]
    fn another_load_is_tried_anew() {
        let mut governor = of(2);
        // Tried often enough in vain to be left alone for long.
        run(&mut governor, 10_000, &[at(30e3, 10.0), at(20e3, 10.0)], &[1.0]);
        let more_callers = [at(70e3, 10.0), at(140e3, 10.0)];
        let mut way = governor.window(more_callers[0]);
        let first = (0..100).position(|_| {
            way = governor.window(more_callers[way.0]);
            governor.kept == 1
        });
        assert!(first.is_some_and(|windows| windows < 40), "{first:?}");
    }

    #[test]
    fn little_load_is_left_alone() {
        let spent = run(&mut of(2), 1_000, &[at(2e3, 9.0), at(2.9e3, 1.0)], &[1.0]);
        assert_eq!(spent, [1_000, 0]);
    }

    #[test]
    fn a_way_for_load_is_left_with_the_load_and_taken_up_with_the_next() {
        let mut governor = of(3);
        let ways = [at(30e3, 20.0), at(30e3, 20.0), at(90e3, 8.0)];
        run(&mut governor, 100, &ways, &[1.0]);
        assert_eq!(governor.kept, 2);
        assert_eq!(governor.window(at(2e3, 8.0)), Nth(0));
        assert_eq!(governor.window(IDLE), Nth(0));
        assert_eq!(governor.window(ways[0]), Nth(2));
    }

    #[test]
    fn a_load_begins_with_what_is_presumed_to_be_best_and_does_not_end_with_it() {
        let presuming = || Governor::presuming((0..4).map(Nth).collect(), 2);
        let ways =
            |best: usize| (0..4).map(move |way| if way == best { at(60e3, 8.0) } else { at(40e3, 16.0) });
        let mut governor = presuming();
        assert_eq!(governor.window(IDLE), Nth(0), "nobody is at the mercy of others for little load");
        let spent = run(&mut governor, 100, &ways(2).collect::<Vec<_>>(), &[1.0]);
        assert_eq!(spent, [1, 0, 99, 0]);
        for best in 0..4 {
            let (mut governor, ways) = (presuming(), ways(best).collect::<Vec<_>>());
            run(&mut governor, 350, &ways, &[1.0, 0.95, 1.05]);
            let spent = run(&mut governor, 1_000, &ways, &[1.0, 0.95, 1.05]);
            assert!(spent[best] > 900, "{best}: {spent:?}");
        }
    }

    #[test]
    fn who_starves_is_not_put_there_again_soon() {
        let mut governor = of(3);
        let ways = [at(30e3, 20.0), at(30e3, 20.0), at(90e3, 8.0)];
        run(&mut governor, 60, &ways, &[1.0]);
        assert!(governor.kept == 2 && governor.trial.is_none());
        let after = |governor: &mut Governor<Nth>| {
            let mut way = Nth(0);
            let again = (0..10_000).position(|_| {
                way = governor.window(ways[way.0]);
                way == Nth(2)
            });
            again.expect("again") as u32 + 1
        };
        // Each time it takes longer until that way comes again.
        for bar in [BAR, 2 * BAR, 4 * BAR] {
            assert_eq!(governor.starved(), Nth(0));
            assert_eq!(after(&mut governor), bar);
        }
        // With the load, what took the CPUs has gone, perhaps.
        assert_eq!(governor.starved(), Nth(0));
        assert!(governor.kept == 0, "it came too often to be taken up without a trial");
        governor.rest();
        assert!(after(&mut governor) >= PATIENCE);
        // Little load is no better than much.
        assert_eq!(governor.starved(), Nth(0));
        (0..50).for_each(|_| _ = governor.window(IDLE));
        assert!(after(&mut governor) + 50 >= 2 * PATIENCE);
        // Who does well for a while is trusted again.
        run(&mut governor, 200, &ways, &[1.0]);
        assert_eq!(governor.starved(), Nth(0));
        governor.rest();
        assert_eq!(after(&mut governor), 1);
        // Elsewhere nobody is at the mercy of others.
        governor = of(2);
        assert_eq!(governor.starved(), Nth(0));
    }
}
