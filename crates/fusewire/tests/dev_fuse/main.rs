//! The `/dev/fuse` channel under real loads.
//!
//! Needs root and `/dev/fuse`, and passes with a word of explanation where there are none. Each test is a process in a mount
//! namespace of its own; a watchdog aborts the connections of one that takes too long, and then the process.

#[path = "../support/callers.rs"]
mod callers;
#[path = "../support/every_channel.rs"]
mod every_channel;
#[path = "../support/lab.rs"]
mod lab;

use callers::*;
use fusewire::server::{Channel, Ended, Options, Poll};
use lab::*;
use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Whatever the kernel's switch for the ring says.
fn options() -> Options {
    Options { channel: Channel::DevFuse, ..Default::default() }
}

/// Every kernel has it.
fn missing() -> Option<String> {
    None
}

real! {
    /// Where `/dev/fuse` cannot be opened again, readers share the one descriptor there is.
    fn readers_can_share_a_descriptor() {
        let mount = Mounted::start(Lab { hide_device: true, ..Lab::default() }, Options { threads: Some(4), ..options() });
        let files = ["timer", "plain", "sleep2"].map(|name| File::open(mount.at(name)).unwrap());
        crowd(16, |i| {
            for round in 0..50 {
                let offset = (round * 100 + i as u64) * 4096;
                read_at(&files[i % 3], offset);
            }
        });
        drop(files);
        // At rest nobody is taken for stuck: the watch sleeps, readers do, and so no CPU time passes.
        wait_until_idle();
        mount.end();
    }

    /// Whether it finds a request or none, has handlers that wait, or another reader stands in for it.
    fn a_reader_that_polls_serves_everybody_and_comes_to_rest() {
        let poll = Poll::Fixed(Duration::from_micros(200));
        for threads in [Some(1), None] {
            let mount = Mounted::with(Options { poll, threads, ..options() });
            let file = File::open(mount.at("plain")).unwrap();
            (0..2000).for_each(|round| read_at(&file, round % 100 * 4096));
            let files = ["timer", "plain", "sleep2"].map(|name| File::open(mount.at(name)).unwrap());
            crowd(16, |i| (0..30).for_each(|round| read_at(&files[i % 3], (round * 100 + i as u64) * 4096)));
            // The first to come after a pause finds a reader that sleeps.
            for _ in 0..20 {
                std::thread::sleep(2 * MS);
                read_at(&file, 0);
            }
            drop((file, files));
            wait_until_idle();
            mount.end();
        }
    }

    /// Hundreds of large requests at once take much memory, but only as long as they last.
    fn memory_of_large_requests_is_given_back() {
        let mount = Mounted::with(Options { threads: Some(1), ..options() });
        let file = File::open(mount.at("timer")).unwrap();
        let before = resident();
        let most = AtomicU64::new(0);
        crowd(150, |i| {
            // So large that the allocator gives it back at once.
            let mut data = vec![0; 33 << 20];
            assert_eq!(file.read_at(aligned(&mut data), (i as u64) << 20).unwrap(), 1 << 20);
            most.fetch_max(resident(), Ordering::Relaxed);
        });
        let (peak, after) = (most.into_inner(), resident());
        eprintln!("resident before {before}, at most {peak}, afterwards {after} MiB");
        assert!(peak > before + 100 && after < before + 64, "{before} MiB, then {after} MiB");
        drop(file);
        mount.end();
    }

    /// Handlers that never end are given up after a while, also those of a reader all of whose slots are taken.
    fn abort_gives_up_handlers_that_never_end() {
        let mount = Mounted::with(Options { threads: Some(1), ..options() });
        let file = File::open(mount.at("never")).unwrap();
        let begun = &mount.fs.begun;
        std::thread::scope(|scope| {
            for i in 0..300 {
                let file = &file;
                scope.spawn(move || _ = file.read_at(&mut [0; 4096], i * 4096));
            }
            wait_until(|| begun.load(Ordering::Acquire) == 300);
            mount.handle().abort().unwrap();
        });
        drop(file);
        let begin = Instant::now();
        assert_eq!(mount.join(), Ended::Aborted);
        assert!(begin.elapsed() < 10_000 * MS, "{:?}", begin.elapsed());
    }

    /// Threads that a handler starts have the policy and the CPUs of the process, not those of a reader.
    fn threads_of_handlers_are_ordinary_threads() {
        let mount = Mounted::with(options());
        let usual = (policy_of_thread(), allowed_cpus());
        let begin = Instant::now();
        let file = File::open(mount.at("spawn")).unwrap();
        let plain = File::open(mount.at("plain")).unwrap();
        while begin.elapsed() < 3000 * MS {
            // A load under which the reader is moved to its caller, and then a handler that starts a thread.
            (0..3000).for_each(|i| read_at(&plain, i * 4096));
            read_at(&file, 0);
        }
        drop((file, plain));
        std::thread::sleep(1000 * MS);
        let threads = mount.fs.threads.lock().unwrap().clone();
        assert!(threads.len() > 2);
        let odd: Vec<_> = threads.iter().map(|&tid| (policy_of(tid), cpus_of(tid))).filter(|one| *one != usual).collect();
        assert!(odd.is_empty(), "{} of {} threads: {odd:?} instead of {usual:?}", odd.len(), threads.len());
        mount.end();
    }
}
