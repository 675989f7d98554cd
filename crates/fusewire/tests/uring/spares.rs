//! Threads that were needed for a while, and rest afterwards.

use crate::{callers::*, lab::*, options, real};
use fusewire::{
    mount::Unmount,
    server::{Ended, Options},
};
use rustix::{
    process::{Signal, kill_process},
    thread::Pid,
};
use std::{
    fs::{self, File},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Ring threads that stand in for others: those that were made later than one for each CPU.
fn stand_ins() -> Vec<Pid> {
    ring_threads().split_off(allowed_cpus().len())
}

/// All ring threads, the earliest first.
pub fn ring_threads() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().file_name());
    let mut tids: Vec<i32> = tasks.map(|tid| tid.to_str().unwrap().parse().unwrap()).collect();
    let name_of = |tid: &i32| fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap_or_default();
    tids.retain(|tid| name_of(tid) == "fusewire-ring\n");
    tids.sort_unstable();
    tids.into_iter().map(|tid| Pid::from_raw(tid).unwrap()).collect()
}

/// How often these threads were given a CPU so far.
fn turns(threads: &[Pid]) -> u64 {
    let of = |thread: &Pid| {
        let text =
            fs::read_to_string(format!("/proc/self/task/{}/schedstat", thread.as_raw_nonzero())).unwrap();
        text.split_ascii_whitespace().nth(2).unwrap().parse::<u64>().unwrap()
    };
    threads.iter().map(of).sum()
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Callers of one CPU that read `name`, all the time that `work` takes, which is given the number of requests so far.
fn while_reading<R>(mount: &Mounted, callers: usize, name: &str, work: impl FnOnce(&AtomicU64) -> R) -> R {
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let (stop, served) = (&stop, &served);
    std::thread::scope(|scope| {
        for i in 0..callers as u64 {
            scope.spawn(move || {
                pin(allowed_cpus()[0]);
                let file = File::open(mount.at(name)).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    read_at(&file, i * 4096);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Also if something is not as it should be.
        let _stop = Stop(stop);
        work(served)
    })
}

/// Requests a second in the best of some times of 250 ms.
fn best_rate(served: &AtomicU64, times: usize) -> f64 {
    let rate = |_| {
        let (begin, before) = (Instant::now(), served.load(Ordering::Relaxed));
        std::thread::sleep(250 * MS);
        (served.load(Ordering::Relaxed) - before) as f64 / begin.elapsed().as_secs_f64()
    };
    (0..times).map(rate).fold(0.0, f64::max)
}

/// Wait until these threads are not given a CPU any more although requests come.
fn all_rest(threads: &[Pid]) -> bool {
    let begin = Instant::now();
    // On a loaded machine a thread that waits for a CPU now and then looks like one that is stuck.
    while begin.elapsed() < Duration::from_secs(60) {
        let before = turns(threads);
        std::thread::sleep(300 * MS);
        if turns(threads) == before {
            return true;
        }
    }
    false
}

real! {
    /// Eight callers whose handlers block, then eight whose handlers do not, and again.
    fn threads_that_stood_in_rest_until_they_are_needed_again() {
        let mount = Mounted::with(options());
        let before = while_reading(&mount, 8, "plain", |served| best_rate(served, 6));
        assert!(stand_ins().is_empty(), "{:?} although nothing blocks", stand_ins());
        while_reading(&mount, 8, "sleep2", |served| best_rate(served, 6));
        let first = stand_ins();
        assert!(first.len() >= 2, "{first:?}");
        let after = while_reading(&mount, 8, "plain", |served| {
            assert!(all_rest(&first), "they go on: {} turns of {}", turns(&first), first.len());
            best_rate(served, 6)
        });
        eprintln!("{} threads stood in; {before:.0} per second before, {after:.0} after: {:.2}", first.len(), after / before);
        let blocked = while_reading(&mount, 8, "sleep2", |served| {
            wait_until(|| best_rate(served, 1) > 2000.0);
            best_rate(served, 1)
        });
        eprintln!("{blocked:.0} of 4000 per second; {} threads", stand_ins().len());
        // Those that rested were called, before further ones were made.
        assert!(first.iter().all(|thread| stand_ins().contains(thread)));
        assert!(stand_ins().len() <= first.len() + 4, "{} after {}", stand_ins().len(), first.len());
        mount.end();
    }

    /// Eight callers of one CPU whose handlers compute for half a millisecond: a thread alone answers 2000 a second.
    fn a_saturated_queue_is_helped_by_another_cpu() {
        if allowed_cpus().len() < 2 {
            eprintln!("skipped: there is no other CPU");
            return;
        }
        let mount = Mounted::with(options());
        let alone = 2000.0;
        let best = while_reading(&mount, 8, "busy", |served| {
            let begin = Instant::now();
            let mut best = 0.0_f64;
            // The other CPU may have other things to do for a while.
            while best < alone * 1.3 && begin.elapsed() < Duration::from_secs(30) {
                best = best.max(best_rate(served, 1));
            }
            best
        });
        eprintln!("{best:.0} per second, alone at most {alone}");
        assert!(best > alone * 1.1, "{best:.0} per second of two CPUs, {alone} of one");
        let helpers = stand_ins();
        let not_here = |thread: &Pid| !cpus_of(*thread).contains(&allowed_cpus()[0]);
        assert!(!helpers.is_empty() && helpers.len() < allowed_cpus().len() && helpers.iter().all(not_here), "{helpers:?}");
        let rested = while_reading(&mount, 2, "plain", |_| all_rest(&helpers));
        assert!(rested, "they go on: {} turns", turns(&helpers));
        mount.end();
    }

    /// Threads stood in and rest, and then a handler waits: a request of the same CPU goes on beside it.
    fn threads_that_rest_do_not_leave_their_queue_without_entries() {
        for (memory, callers) in [(None, 100), (Some(4 << 20), 8), (Some(1), 8)] {
            let mount = Mounted::with(Options { memory, ..options() });
            while_reading(&mount, callers, "sleep2", |served| best_rate(served, 6));
            let spares = stand_ins();
            let rested = spares.is_empty() || while_reading(&mount, 4, "plain", |_| all_rest(&spares));
            assert!(rested, "they go on: {} of {}", turns(&spares), spares.len());
            pin(allowed_cpus()[0]);
            let begun = mount.fs.begun.load(Ordering::Acquire);
            let mut child = cat(&mount, "cancel");
            wait_until(|| mount.fs.begun.load(Ordering::Acquire) > begun);
            let worst = std::thread::scope(|scope| {
                let stat = scope.spawn(|| worst_stat(&mount, 500 * MS));
                if !happens_within(5000 * MS, || stat.is_finished()) {
                    mount.handle().abort().unwrap();
                }
                stat.join().unwrap_or(Duration::MAX)
            });
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            ends_within(&mut child, 5000 * MS).expect("the interrupted request is answered");
            eprintln!("{} rest; a request beside one that waits took {worst:?} at most", spares.len());
            assert!(worst < HELD_UP, "a request beside one that waits took {worst:?}");
            let mut all = rustix::thread::CpuSet::new();
            (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
            rustix::thread::sched_setaffinity(None, &all).unwrap();
            end(mount);
        }
    }

    /// By unmounting, lazily and not, and by an abort, while all who stood in rest, and callers still wait.
    fn entries_that_rest_do_not_keep_a_mount() {
        for way in ["idle", "lazy", "abort"] {
            let mount = Mounted::with(options());
            while_reading(&mount, 8, "sleep2", |served| best_rate(served, 3));
            let spares = stand_ins();
            assert!(!spares.is_empty());
            assert!(while_reading(&mount, 4, "plain", |_| all_rest(&spares)), "they go on");
            let begin = Instant::now();
            let ended = match way {
                "idle" => {
                    unmount_idle(mount.handle());
                    Ok(Ended::Unmounted)
                }
                "lazy" => mount.handle().unmount(Unmount::Lazy).map(|()| Ended::Unmounted),
                _ => {
                    let file = File::open(mount.at("sleep2")).unwrap();
                    std::thread::scope(|scope| {
                        for _ in 0..8 {
                            scope.spawn(|| while std::os::unix::fs::FileExt::read_at(&file, &mut [0; 4096], 0).is_ok() {});
                        }
                        std::thread::sleep(20 * MS);
                        mount.handle().abort().unwrap();
                    });
                    Ok(Ended::Aborted)
                }
            };
            assert_eq!(mount.join(), ended.unwrap());
            assert!(begin.elapsed() < 4000 * MS, "{way}: {:?}", begin.elapsed());
            // One that was waited for is listed for a moment still.
            wait_until(|| ring_threads().is_empty());
        }
    }
}
