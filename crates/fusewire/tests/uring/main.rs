//! Requests over io_uring, under real loads.
//!
//! Needs root, `/dev/fuse` and a kernel that offers the ring, and passes with a word of explanation where there are none. Each
//! test is a process in a mount namespace of its own; a watchdog aborts the connections of one that takes too long.

#[path = "../support/callers.rs"]
mod callers;
#[path = "../support/every_channel.rs"]
mod every_channel;
mod fallback;
#[path = "../ring_offer/sys.rs"]
mod filter;
mod growth;
mod hidden;
#[path = "../support/lab.rs"]
mod lab;
mod lost;
mod spares;
mod sys;
mod teardown;

use callers::*;
use fusewire::server::{Channel, Options, try_ring};
use lab::*;
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Instant,
};

/// The ring or nothing.
fn options() -> Options {
    Options { channel: Channel::Uring, ..Default::default() }
}

/// Why there can be no ring here.
fn missing() -> Option<String> {
    let reason = try_ring(&options()).err()?;
    Some(format!("there can be no ring: {reason}; {}", reason.remedy()))
}

/// The most memory that this process ever had, KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// How much more memory there is after a hundred callers of one CPU have read 1 MiB each, of a mount with so much, MiB; it is waited
/// for a while that it becomes `most`.
fn left_by_a_crowd(memory: u64, most: u64) -> u64 {
    let mount = Mounted::with(Options { memory: Some(memory), ..options() });
    let file = File::open(mount.at("timer")).unwrap();
    let mut data: Vec<Vec<u8>> = (0..100).map(|_| vec![0; 2 << 20]).collect();
    data.iter_mut().for_each(|data| data.fill(1));
    let before = resident();
    std::thread::scope(|scope| {
        for data in &mut data {
            let file = &file;
            scope.spawn(move || {
                pin(allowed_cpus()[0]);
                for i in 0..5 {
                    assert_eq!(file.read_at(aligned(data), i << 20).unwrap(), 1 << 20);
                    let words = aligned(data)
                        .chunks_exact(8)
                        .map(|word| u64::from_le_bytes(word.try_into().unwrap()));
                    assert!(words.eq((i << 20..(i + 1) << 20).step_by(8)), "the data of another request");
                }
            });
        }
    });
    // It is given back after the answers are there, and what is to stay goes by no look.
    let left = || resident().saturating_sub(before);
    let begin = Instant::now();
    while left() > most && begin.elapsed() < 5000 * MS {
        std::thread::sleep(MS);
    }
    let left = left();
    drop(file);
    end(mount);
    left
}

real! {
    /// They come over `/dev/fuse`, whatever else does not.
    fn every_forget_arrives() {
        let mount = Mounted::with(options());
        let names = ["plain", "timer", "thread", "stale", "sleep2", "events", "spawn"];
        crowd(4, |i| {
            pin(i % allowed_cpus().len());
            (0..2000).for_each(|round| _ = std::fs::metadata(mount.at(names[(i + round) % names.len()])).unwrap());
        });
        assert!(mount.fs.looked_up.load(Ordering::Acquire) >= 8000);
        // Makes the kernel drop every name of this mount.
        assert!(Command::new("mount").args(["-i", "-o", "remount"]).arg(&mount.path).status().unwrap().success());
        wait_until(|| mount.fs.forgotten.load(Ordering::Acquire) == mount.fs.looked_up.load(Ordering::Acquire));
        mount.end();
    }

    /// The request waits for the thread, which is stuck in another one's handler, and is interrupted then.
    fn an_interrupt_that_comes_before_its_request_begins_is_kept() {
        let mount = Mounted::with(Options { threads: Some(1), ..options() });
        let timer = File::open(mount.at("timer")).unwrap();
        let stuck = File::open(mount.at("stuck")).unwrap();
        for round in 0..3 {
            // After this the queue has several entries, so the kernel hands over what is not begun with yet.
            crowd(8, |i| read_at(&timer, (round * 8 + i as u64) * 4096));
            let before = mount.fs.cancelled.load(Ordering::Acquire);
            std::thread::scope(|scope| {
                scope.spawn(|| read_at(&stuck, round * 4096));
                std::thread::sleep(3 * MS);
                let mut child =
                    Command::new("cat").arg(mount.at("cancel")).stdout(std::process::Stdio::null()).spawn().unwrap();
                std::thread::sleep(30 * MS);
                kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
                ends_within(&mut child, 5000 * MS).expect("the interrupted request is answered");
            });
            eprintln!("{} of 1 reached its handler", mount.fs.cancelled.load(Ordering::Acquire) - before);
        }
        drop((timer, stuck));
        mount.end();
    }

    /// An answer to it takes an entry, which is free again only if it is committed although nobody waits for that.
    fn a_thousand_retrieved_pages_leave_the_queue_its_entries() {
        let mount = Mounted::with(options());
        let file = File::open(mount.at("cached")).unwrap();
        let notifier = mount.handle().notifier();
        notifier.store(CACHED, 0, &[b'!'; 16384]).unwrap();
        for i in 0..1000 {
            notifier.retrieve((1 << 63) + 2 * i, CACHED, i % 4 * 4096, 4096).unwrap();
        }
        wait_until(|| mount.fs.retrievals.load(Ordering::Acquire) == 1000);
        crowd(4, |_| (0..500).for_each(|_| _ = std::fs::metadata(mount.at("plain")).unwrap()));
        assert_eq!((notifier.failures(), mount.handle().stats().panics), (0, 0));
        drop(file);
        mount.end();
    }

    fn one_thread_serves_the_queues_of_all_cpus() {
        let mount = Mounted::with(Options { threads: Some(1), ..options() });
        assert_eq!(mount.handle().threads(), 1);
        let cpus = allowed_cpus();
        let file = File::open(mount.at("plain")).unwrap();
        crowd(2 * cpus.len(), |i| {
            pin(cpus[i % cpus.len()]);
            (0..500).for_each(|round| read_at(&file, (i as u64 * 500 + round) * 4096));
        });
        assert_eq!(mount.fs.served.load(Ordering::Relaxed), 1000 * cpus.len() as u64);
        drop(file);
        mount.end();
    }

    /// As little as there can be: one entry for each queue, of the smallest size.
    fn little_memory_means_smaller_requests_and_no_fewer_callers() {
        let mount = Mounted::with(Options { memory: Some(1), ..options() });
        assert_eq!(mount.handle().agreed().max_write, 128 << 10);
        let names = ["plain", "timer", "sleep2", "thread"];
        crowd(16, |i| {
            let file = File::options().read(true).write(true).open(mount.at(names[i % 4])).unwrap();
            let mut data = vec![0; 1 << 20];
            let from = (i as u64) << 20;
            assert_eq!(file.read_at(&mut data, from).unwrap(), 1 << 20);
            assert!(data == pattern(from, 1 << 20));
            file.write_all_at(&pattern(from, 1 << 20), from).unwrap();
        });
        assert_eq!(mount.fs.sizes.lock().unwrap().iter().max(), Some(&(128 << 10)));
        mount.end();
    }

    /// Of the 64 MiB that payloads may take, a mount that has served little has touched little.
    fn memory_is_there_only_once_it_is_used() {
        let before = resident();
        let mount = Mounted::with(options());
        let file = File::open(mount.at("plain")).unwrap();
        (0..1000).for_each(|i| read_at(&file, i * 4096));
        let small = resident() - before;
        assert!(small < 8, "{small} MiB after small requests");
        // Each CPU's entry, used to its end.
        crowd(allowed_cpus().len(), |i| {
            pin(allowed_cpus()[i]);
            let mut data = vec![0; 33 << 20];
            (0..50).for_each(|_| assert_eq!(file.read_at(aligned(&mut data), 0).unwrap(), 1 << 20));
        });
        let large = resident() - before;
        assert!(large < 16, "{large} MiB after large requests");
        drop(file);
        mount.end();
    }

    /// Of a hundred long requests at once, no more stays than may: 8 MiB, and of each entry less than 128 KiB. Where more may, it does.
    fn memory_of_a_crowd_is_given_back() {
        let (little, much) = (left_by_a_crowd(8 << 20, 8 + 24), left_by_a_crowd(256 << 20, 8 + 24));
        eprintln!("{little} MiB stay of 8, {much} MiB of 256");
        assert!(little <= 8 + 24 && much > 40, "{little} MiB stay of 8, {much} MiB of 256");
    }

    /// Told by a list of CPUs of this mount namespace alone. (The kernel has as many queues as before, so nothing is mounted.)
    fn rings_for_64_possible_cpus_take_little_memory() {
        const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
        let list = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&list, "0-63\n").unwrap();
        assert!(Command::new("mount").arg("--bind").args([list.path(), POSSIBLE.as_ref()]).status().unwrap().success());
        let before = peak_kib();
        let ring = try_ring(&options()).unwrap();
        let took = peak_kib() - before;
        assert_eq!((ring.queues, ring.threads), (64, allowed_cpus().len()), "{ring:?}");
        assert!(took < 8 << 10, "{took} KiB for {ring:?}");
        // A limit that is below two buffers for each makes them smaller.
        let ring = try_ring(&Options { memory: Some(32 << 20), ..options() }).unwrap();
        assert_eq!((ring.entries, ring.payload), (64, 512 << 10));
    }

    /// For two seconds no descriptor is to be had for a thread that stands in, which is tried at every look. What such a thread would have
    /// taken is there afterwards, for handlers that wait.
    fn what_could_not_be_had_for_a_further_thread_is_not_lost() {
        let mount = Mounted::with(options());
        pin(allowed_cpus()[0]);
        let stuck = File::open(mount.at("stuck")).unwrap();
        let usual = getrlimit(Resource::Nofile).current.unwrap();
        fallback::limit_files(0);
        read_at(&stuck, 0);
        fallback::limit_files(usual);
        let begun = mount.fs.begun.load(Ordering::Acquire);
        let mut child = cat(&mount, "cancel");
        wait_until(|| mount.fs.begun.load(Ordering::Acquire) > begun);
        let worst = worst_stat(&mount, 500 * MS);
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        ends_within(&mut child, 5000 * MS).expect("the interrupted request is answered");
        assert!(worst < HELD_UP, "a request beside one that waits took {worst:?}");
        drop(stuck);
        mount.end();
    }

    /// Handlers that sleep for 2 ms, called by eight threads of one CPU: 4000 a second are possible, and one thread would do
    /// 450. The best half second counts: the machine may have other things to do.
    fn eight_callers_of_a_slow_backend_do_not_wait_for_each_other() {
        let mount = Mounted::with(options());
        let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
        let best = std::thread::scope(|scope| {
            for i in 0..8 {
                let (mount, stop, served) = (&mount, &stop, &served);
                scope.spawn(move || {
                    pin(allowed_cpus()[0]);
                    let file = File::open(mount.at("sleep2")).unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        read_at(&file, i * 4096);
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let mut best = 0.0_f64;
            for _ in 0..16 {
                let (begin, before) = (Instant::now(), served.load(Ordering::Relaxed));
                std::thread::sleep(500 * MS);
                best = best.max((served.load(Ordering::Relaxed) - before) as f64 / begin.elapsed().as_secs_f64());
                if best > 3000.0 {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
            best
        });
        eprintln!("{best:.0} of 4000 per second");
        assert!(best > 3000.0, "{best:.0} per second of 4000");
        mount.end();
    }
}
