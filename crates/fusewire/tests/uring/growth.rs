//! Queues that get entries while the machine has no time for it: every caller is served, whoever is held up and wherever threads run.

use crate::{callers::*, lab::*, options, real, spares::ring_threads};
use fusewire::server::Options;
use rustix::thread::CpuSet;
use std::{
    fs::File,
    os::unix::fs::FileExt,
    process::{Child, Command},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Callers of each mount.
const CALLERS: u64 = 60;

/// How often; the long form has more.
fn rounds() -> u64 {
    std::env::var("FUSEWIRE_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4)
}

/// Processes that compute until this is dropped.
struct Load(Vec<Child>);

impl Load {
    fn start(processes: usize) -> Self {
        let compute = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Self((0..processes).map(|_| compute()).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// Callers on all CPUs that wait at the gate, which is opened once all of them are there. How long did that take?
fn burst(mount: &Mounted, cpus: &[usize]) -> Duration {
    *mount.fs.gate.lock().unwrap() = Some(Vec::new());
    let file = File::options().read(true).write(true).open(mount.at("gate")).unwrap();
    let (begin, served) = (Instant::now(), AtomicU64::new(0));
    let begun = || mount.fs.begun.load(Ordering::Acquire);
    let (there, took) = std::thread::scope(|scope| {
        for i in 0..CALLERS {
            let (file, served) = (&file, &served);
            scope.spawn(move || {
                pin(cpus[i as usize % cpus.len()]);
                let read = file.read_at(&mut [0; 4096], i * 4096);
                served.fetch_add(u64::from(read.is_ok()), Ordering::AcqRel);
            });
        }
        happens_within(20_000 * MS, || begun() == CALLERS);
        let (there, took) = (begun(), begin.elapsed());
        let opener = scope.spawn(|| {
            pin(cpus[0]);
            _ = file.write_at(&pattern(0, 8), 0);
        });
        let is_open = happens_within(10_000 * MS, || opener.is_finished());
        if !is_open || !happens_within(10_000 * MS, || served.load(Ordering::Acquire) == CALLERS) {
            mount.handle().abort().unwrap();
        }
        (there, took)
    });
    assert_eq!((there, served.into_inner()), (CALLERS, CALLERS), "after {took:?}");
    took
}

/// Each time on a mount of its own, since entries stay. `beside`: what goes on meanwhile, until it is told to stop.
fn bursts(threads: Option<usize>, beside: impl Fn(&AtomicBool) + Sync) {
    let cpus = allowed_cpus();
    for round in 0..rounds() {
        let mount = Mounted::with(Options { threads, ..options() });
        let stop = AtomicBool::new(false);
        let took = std::thread::scope(|scope| {
            scope.spawn(|| beside(&stop));
            let _stop = Stop(&stop);
            burst(&mount, &cpus)
        });
        eprintln!("round {round}: all {CALLERS} wait after {took:?}");
        end(mount);
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Move all ring threads from one CPU to the next, as governor and scheduler do, but without end.
fn move_threads(stop: &AtomicBool) {
    let cpus = allowed_cpus();
    for round in 0.. {
        for (i, thread) in ring_threads().into_iter().enumerate() {
            let mut there = CpuSet::new();
            there.set(cpus[(round + i) % cpus.len()]);
            _ = rustix::thread::sched_setaffinity(Some(thread), &there);
        }
        if stop.load(Ordering::Acquire) {
            return;
        }
        std::thread::yield_now();
    }
}

fn sleep(stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        std::thread::sleep(MS);
    }
}

real! {
    fn a_queue_grows_while_others_compute() {
        let _load = Load::start(8);
        bursts(None, sleep);
    }

    fn the_queues_of_one_thread_grow_while_others_compute() {
        let _load = Load::start(8);
        bursts(Some(1), sleep);
    }

    fn a_queue_grows_while_its_threads_are_moved() {
        bursts(None, move_threads);
    }

    fn the_queues_of_one_thread_grow_while_it_is_moved() {
        let _load = Load::start(2);
        bursts(Some(1), move_threads);
    }
}
