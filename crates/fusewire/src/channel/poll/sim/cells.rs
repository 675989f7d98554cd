//! What must hold, cell by cell.

use super::{Outcome, Pattern, Poll, Scene, Shape};
use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

pub(super) const CPUS: [usize; 7] = [2, 4, 8, 16, 32, 64, 128];
pub(super) const CLIENTS: [usize; 4] = [1, 2, 4, 8];
pub(super) const SHAPES: [Shape; 3] = [Shape::Home, Shape::Folded, Shape::Confined];
pub(super) const FIXED: [u64; 2] = [10, 50];

/// Long enough for a governor to find out.
const SETTLE: Duration = Duration::from_millis(72);

/// One scene under off, fixed and auto.
#[derive(Debug)]
pub(super) struct Cell {
    pub scene: Scene,
    pub off: Outcome,
    pub fixed: [Outcome; 2],
    pub auto: Outcome,
}

pub(super) fn fixed(micros: u64) -> Poll {
    Poll::Fixed(Duration::from_micros(micros))
}

impl Cell {
    pub fn new(scene: Scene) -> Self {
        let run = |poll| {
            let settle = if poll == Poll::Auto && scene.shape != Shape::Home { SETTLE } else { SETTLE / 9 };
            // Those who share a CPU with others have several slices.
            let quick = scene.pattern == Pattern::Closed(0) && !scene.busy;
            let time = if quick { 8 } else { 40 };
            // At home nothing is decided, and the most requests are served.
            let time = if scene.shape == Shape::Home { time / 2 } else { time };
            Scene { poll, ..scene }.run(settle, Duration::from_millis(time))
        };
        Self {
            scene,
            off: run(Poll::Off),
            fixed: FIXED.map(|micros| run(fixed(micros))),
            auto: run(Poll::Auto),
        }
    }

    fn name(&self) -> String {
        let Scene { cpus, clients, busy, shape, pattern, .. } = self.scene;
        let others = if busy { "busy" } else { "idle" };
        format!("{shape:?}, {cpus} CPUs, {clients} clients {pattern:?}, others {others}")
    }

    /// The better of off and fixed.
    pub fn better(&self) -> &Outcome {
        self.fixed.iter().fold(&self.off, |best, fixed| if fixed.rate > best.rate { fixed } else { best })
    }

    fn told(&self) -> String {
        let tell = |of: &Outcome| {
            format!("{:.0}/s {:.1} us CPU {:.1} us {:.2} polling", of.rate, of.cpu, of.mean, of.polling)
        };
        let [ten, fifty] = self.fixed.each_ref().map(tell);
        format!(
            "{}:\n  off {}\n  10 {ten}\n  50 {fifty}\n  auto {}",
            self.name(),
            tell(&self.off),
            tell(&self.auto)
        )
    }
}

/// Clients that do nothing but ask.
pub(super) fn closed() -> &'static [Cell] {
    static CELLS: OnceLock<Vec<Cell>> = OnceLock::new();
    CELLS.get_or_init(|| play(&scenes(&CPUS, &CLIENTS, &[Pattern::Closed(0)])))
}

/// Clients that ask now and then.
pub(super) fn open() -> &'static [Cell] {
    static CELLS: OnceLock<Vec<Cell>> = OnceLock::new();
    let patterns = [
        Pattern::Poisson(1_000_000),
        Pattern::Poisson(100_000),
        Pattern::Poisson(30_000),
        Pattern::Closed(20_000),
        Pattern::Burst(32, 4_000_000),
    ];
    CELLS.get_or_init(|| play(&scenes(&[2, 8, 128], &[1, 4], &patterns)))
}

fn scenes(cpus: &[usize], clients: &[usize], patterns: &[Pattern]) -> Vec<Scene> {
    let mut scenes = Vec::new();
    for shape in SHAPES {
        for &pattern in patterns {
            for &cpus in cpus {
                for &clients in clients {
                    for busy in [false, true] {
                        scenes.push(Scene { cpus, clients, busy, shape, pattern, poll: Poll::Off });
                    }
                }
            }
        }
    }
    scenes
}

/// On all CPUs of the machine that runs the test.
fn play(scenes: &[Scene]) -> Vec<Cell> {
    let next = AtomicUsize::new(0);
    let played: Mutex<Vec<(usize, Cell)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scene) = scenes.get(at) else { return };
                    let cell = Cell::new(*scene);
                    played.lock().unwrap_or_else(PoisonError::into_inner).push((at, cell));
                }
            });
        }
    });
    let mut played = played.into_inner().unwrap_or_else(PoisonError::into_inner);
    played.sort_by_key(|(at, _)| *at);
    played.into_iter().map(|(_, cell)| cell).collect()
}

/// A promise, and the cells that break it.
fn holds(promise: &str, cells: &[Cell], is_broken: impl Fn(&Cell) -> bool) {
    let wrong: Vec<String> = cells.iter().filter(|cell| is_broken(cell)).map(Cell::told).collect();
    assert!(
        wrong.is_empty(),
        "{promise}: not so in {} of {}:\n{}",
        wrong.len(),
        cells.len(),
        wrong.join("\n")
    );
}

/// RFUSE's pollers and more clients than CPUs take the CPUs from each other: cells where that happens.
fn is_crowded(cell: &Cell) -> bool {
    cell.scene.shape != Shape::Home && cell.fixed.iter().any(|fixed| fixed.rate < 0.9 * cell.off.rate)
}

#[test]
fn costs_are_those_that_were_measured() {
    for (shape, micros, time, cpu) in [
        (Shape::Home, 0, 3.2, 3.84),
        (Shape::Home, 50, 3.19, 3.93),
        (Shape::Folded, 0, 10.8, 8.3),
        (Shape::Folded, 50, 6.6, 9.6),
    ] {
        let poll = if micros == 0 { Poll::Off } else { fixed(micros) };
        let scene = Scene { cpus: 2, clients: 1, busy: false, shape, pattern: Pattern::Closed(0), poll };
        let outcome = scene.run(Duration::ZERO, Duration::from_millis(20));
        assert!((outcome.mean / time - 1.0).abs() < 0.05, "{shape:?} {micros}: {outcome:?}");
        assert!((outcome.cpu / cpu - 1.0).abs() < 0.2, "{shape:?} {micros}: {outcome:?}");
    }
}

/// One test for all, because each cell takes its time.
#[test]
fn every_cell_keeps_every_promise_and_the_page_shows_them() {
    let (closed, open) = (closed(), open());
    let within = |cell: &Cell| cell.off.rate > 1000.0 && cell.auto.rate >= 0.95 * cell.better().rate;
    holds("auto is within a twentieth of the better of off and fixed", closed, |cell| !within(cell));
    holds("it takes no more CPU time than that one", closed, |cell| cell.auto.cpu > 1.05 * cell.better().cpu);
    holds("it comes to rest", closed, |cell| cell.auto.changes > 2);
    holds("at most half of the CPUs poll", closed, |cell| cell.auto.polling > cell.scene.cpus as f64 / 2.0);
    holds("little is polled in vain", closed, |cell| cell.auto.in_vain > 1.0 / 64.0);

    let shared = |cell: &Cell| cell.scene.busy || cell.scene.shape == Shape::Home;
    for cells in [closed, open] {
        let polls = |cell: &Cell| shared(cell) && cell.auto.polling > 0.01;
        holds("who shares a CPU with clients or others does not poll", cells, polls);
    }
    assert!(closed.iter().filter(|cell| is_crowded(cell)).count() >= 8, "there is no collapse to avoid");
    let collapses =
        |cell: &Cell| is_crowded(cell) && (cell.auto.rate < 0.95 * cell.off.rate || cell.auto.polling > 0.01);
    holds("more clients and pollers than CPUs do not collapse", closed, collapses);

    let waits = |cell: &Cell| cell.auto.mean > 1.05 * cell.off.mean || cell.auto.rate < 0.95 * cell.off.rate;
    holds("at little load nobody waits longer than without polling", open, waits);
    // A trial is one window of those that are counted.
    let most = |cell: &Cell| cell.auto.rate * 20e-6 + 1.0 / 64.0 + 8.0 / 40.0;
    holds("polling stays within its budget", open, |cell| cell.auto.polling > most(cell));
    super::page::check();
}

/// RFUSE polls, sleeps once little comes, and then waits for wake-ups. Here a client has its thread beside it.
#[test]
fn a_lone_client_waits_no_longer_at_little_load_than_at_full_load() {
    for cpus in CPUS {
        let one = |pattern| {
            let (clients, shape) = (1, Shape::Folded);
            let scene = Scene { cpus, clients, busy: false, shape, pattern, poll: Poll::Auto };
            scene.run(4 * SETTLE, SETTLE)
        };
        let (full, little) = (one(Pattern::Closed(0)), one(Pattern::Poisson(2_000_000)));
        assert!(little.mean <= full.mean * 1.05 && little.p99 < 5.0, "{cpus} CPUs: {little:?}, {full:?}");
        assert!(little.polling < 0.001, "{cpus} CPUs: {little:?}");
    }
}
