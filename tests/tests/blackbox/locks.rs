//! Locks between processes, on the mount and on the directory underneath.

use fusewire_tests::actor::Actor;
use fusewire_tests::command::{Cache, is_over_ring};
use fusewire_tests::mount::{self, Mount};
use fusewire_tests::{sandbox, skip_unless, wait};
use rustix::process::Signal;
use rustix::thread::CpuSet;
use std::time::{Duration, Instant};

/// How long an actor is watched before it counts as waiting.
const BLOCKED: Duration = Duration::from_millis(500);

/// Two processes with the same file open, the second perhaps on the directory underneath.
fn two(mount: &Mount, second_underneath: bool) -> (Actor, Actor) {
    std::fs::write(mount.join("file"), "0123456789").unwrap();
    let (mut first, mut second) = (Actor::start(), Actor::start());
    first.must(&format!("open f {} w", mount.join("file").display()));
    let path = if second_underneath { mount.below("file") } else { mount.join("file") };
    second.must(&format!("open f {} w", path.display()));
    (first, second)
}

fn whole_file_locks(second_underneath: bool) {
    let Some(sandbox) = sandbox::enter() else { return };
    for cache in Cache::ALL {
        let mount = mount::passthrough(&sandbox).name(cache.word()).cache(cache).start();
        let (mut first, mut second) = two(&mount, second_underneath);
        first.must("flock f sh now");
        second.must("flock f sh now");
        assert_eq!(second.ask("flock f ex now"), Err(libc::EWOULDBLOCK));
        second.must("flock f un now");
        first.must("flock f ex now");
        assert_eq!(second.ask("flock f sh now"), Err(libc::EWOULDBLOCK));
        // Waiting, until the holder lets go by closing.
        second.tell("flock f ex wait");
        assert_eq!(second.answer(BLOCKED), None, "a second exclusive lock was granted");
        first.must("close f");
        assert_eq!(second.answer(wait::SOON), Some(Ok(String::new())), "the waiting lock was never granted");
        drop((first, second));
        mount.stop();
    }
}

#[test]
fn flock_between_processes() {
    whole_file_locks(false);
}

#[test]
fn flock_against_a_process_on_the_directory_underneath() {
    whole_file_locks(true);
}

fn range_locks(second_underneath: bool) {
    let Some(sandbox) = sandbox::enter() else { return };
    for cache in Cache::ALL {
        let mount = mount::passthrough(&sandbox).name(cache.word()).cache(cache).start();
        let (mut first, mut second) = two(&mount, second_underneath);
        first.must("range f ex now 0 4");
        second.must("range f ex now 4 4");
        let refused = second.ask("range f sh now 3 2");
        assert!(matches!(refused, Err(libc::EAGAIN | libc::EACCES)), "{refused:?}");
        assert_ne!(second.must("holder f"), "nobody");
        first.must("range f sh now 0 4");
        second.must("range f sh now 0 4");
        second.must("range f un now 0 0");
        // A lock in the middle splits the range that was held.
        first.must("range f ex now 0 10");
        first.must("range f un now 4 2");
        second.must("range f ex now 4 2");
        assert!(second.ask("range f ex now 4 3").is_err());
        second.tell("range f ex wait 0 10");
        assert_eq!(second.answer(BLOCKED), None, "a conflicting lock was granted");
        first.must("range f un now 0 0");
        assert_eq!(second.answer(wait::SOON), Some(Ok(String::new())), "the waiting lock was never granted");
        drop((first, second));
        mount.stop();
    }
}

#[test]
fn record_locks_between_processes() {
    range_locks(false);
}

#[test]
fn record_locks_against_a_process_on_the_directory_underneath() {
    range_locks(true);
}

#[test]
fn the_holder_of_a_record_lock_is_named() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    let (mut first, mut second) = two(&mount, false);
    first.must("range f ex now 0 4");
    assert_eq!(second.must("holder f"), first.pid().as_raw_nonzero().to_string());
    drop((first, second));
    mount.stop();
}

#[test]
fn locks_of_a_killed_process_are_gone() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    for lock in ["flock f ex", "range f ex"] {
        let (mut first, mut second) = two(&mount, false);
        let rest = if lock.starts_with("range") { " 0 0" } else { "" };
        first.must(&format!("{lock} now{rest}"));
        second.tell(&format!("{lock} wait{rest}"));
        assert_eq!(second.answer(BLOCKED), None);
        first.signal(Signal::KILL);
        assert!(first.ends_within(wait::SOON));
        assert_eq!(second.answer(wait::SOON), Some(Ok(String::new())), "{lock}: a dead process holds it");
    }
    mount.stop();
}

#[test]
fn a_signal_interrupts_a_waiting_lock() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    for (hold, wait_for) in
        [("flock f ex now", "flock f ex wait"), ("range f ex now 0 0", "range f ex wait 0 0")]
    {
        let (mut first, mut second) = two(&mount, false);
        first.must(hold);
        second.tell(wait_for);
        assert_eq!(second.answer(BLOCKED), None);
        second.signal(Signal::USR1);
        assert_eq!(second.answer(wait::SOON), Some(Err(libc::EINTR)), "{wait_for}");
        // The abandoned request holds nothing: a third process gets the lock as soon as the first lets go.
        first.must("close f");
        let mut third = Actor::start();
        third.must(&format!("open f {} w", mount.join("file").display()));
        third.tell(wait_for);
        assert_eq!(third.answer(wait::SOON), Some(Ok(String::new())), "{wait_for}: somebody holds it");
    }
    mount.stop();
}

#[test]
fn a_waiting_lock_can_be_killed() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    for (hold, wait_for) in
        [("flock f ex now", "flock f ex wait"), ("range f ex now 0 0", "range f ex wait 0 0")]
    {
        let (mut first, mut second) = two(&mount, false);
        first.must(hold);
        second.tell(wait_for);
        assert_eq!(second.answer(BLOCKED), None);
        second.signal(Signal::KILL);
        assert!(
            second.ends_within(Duration::from_secs(5)),
            "{wait_for}: the waiting process cannot be killed"
        );
    }
    mount.stop();
}

#[test]
fn many_waiting_locks_do_not_stop_other_work() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    let (mut first, second) = two(&mount, false);
    first.must("flock f ex now");
    let mut waiting: Vec<_> = (0..40).map(|_| Actor::start()).collect();
    for actor in &mut waiting {
        actor.must(&format!("open f {} w", mount.join("file").display()));
        actor.tell("flock f ex wait");
    }
    std::thread::sleep(BLOCKED);
    for i in 0..200 {
        std::fs::write(mount.join(format!("other-{i}")), "not stopped").unwrap();
    }
    first.must("flock f un now");
    for _ in 0..waiting.len() {
        let granted = waiting.iter_mut().position(|actor| {
            let answer = actor.answer(Duration::from_millis(20));
            assert!(!answer.as_ref().is_some_and(Result::is_err), "{answer:?}");
            answer.is_some()
        });
        let granted = granted
            .or_else(|| waiting.iter_mut().position(|actor| actor.answer(Duration::from_secs(2)).is_some()));
        // Only one at a time: the next is granted when this one is gone.
        drop(waiting.swap_remove(granted.expect("nobody gets the free lock")));
    }
    drop((first, second));
    mount.stop();
}

#[test]
fn record_locks_end_with_any_close_and_flocks_do_not() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    let (mut first, mut second) = two(&mount, false);
    let again = format!("open g {} w", mount.join("file").display());
    first.must("range f ex now 0 0");
    first.must("flock f ex now");
    first.must(&again);
    first.must("close g");
    second.must("range f ex now 0 0");
    assert_eq!(second.ask("flock f ex now"), Err(libc::EWOULDBLOCK));
    drop((first, second));
    mount.stop();
}

/// Lock files are made so. Who has one open may lock it, also through a daemon that could not open it again.
#[test]
fn record_locks_on_files_whose_mode_denies_their_owner() {
    let Some(sandbox) = sandbox::enter() else { return };
    for cache in Cache::ALL {
        let plan = mount::passthrough(&sandbox).name(cache.word()).cache(cache);
        let mount = plan.allow_other().user("daemon").start();
        for mode in ["0", "200", "400", "444"] {
            locks_of_mode(&mount, mode);
        }
        let (mut made, mut first, mut second) = (Actor::start(), Actor::start(), Actor::start());
        made.must(&format!("open f {} 200", mount.join("written").display()));
        for actor in [&mut first, &mut second] {
            actor.must(&format!("open f {} o", mount.join("written").display()));
        }
        first.must("range f ex now 0 4");
        assert!(second.ask("range f ex now 3 1").is_err());
        second.must("range f ex now 4 4");
        drop((made, first, second));
        mount.stop();
    }
}

fn locks_of_mode(mount: &Mount, mode: &str) {
    let name = format!("mode-{mode}");
    let (mut first, mut second) = (Actor::start(), Actor::start());
    first.must(&format!("open f {} {mode}", mount.join(&name).display()));
    second.must(&format!("open f {} w", mount.below(&name).display()));
    first.must("range f sh now 0 4");
    second.must("range f sh now 0 4");
    second.must("range f un now 0 4");
    first.must("range f ex now 0 4");
    assert!(second.ask("range f sh now 3 1").is_err());
    second.must("range f ex now 4 2");
    assert!(first.ask("range f ex now 4 1").is_err());
    assert_ne!(first.must("holder f"), "nobody");
    first.must("range f un now 0 2");
    second.must("range f ex now 0 2");
    second.must("range f un now 0 0");
    second.tell("range f ex wait 0 10");
    assert_eq!(second.answer(BLOCKED), None, "{mode}: a conflicting lock was granted");
    first.must("close f");
    assert_eq!(second.answer(wait::SOON), Some(Ok(String::new())), "{mode}: never granted");
    second.must("range f un now 0 0");
    let mut third = Actor::start();
    third.must(&format!("open f {} {mode}", mount.join(format!("{name}-again")).display()));
    third.must("range f ex now 0 0");
    second.must(&format!("open g {} w", mount.below(format!("{name}-again")).display()));
    assert!(second.ask("range g ex now 0 0").is_err());
    third.signal(Signal::KILL);
    assert!(third.ends_within(wait::SOON));
    second.must("range g ex wait 0 0");
}

/// Many wait for a lock, all on one CPU, and the unlock comes from that CPU: over the ring they share a queue.
fn waiters_of_one_cpu(options: &[&str], waiters: usize) {
    let Some(sandbox) = sandbox::enter() else { return };
    let plan = options.iter().fold(mount::passthrough(&sandbox), |plan, option| plan.option(option));
    let mount = plan.start();
    std::fs::write(mount.join("file"), "0123456789").unwrap();
    // Actors inherit it; the server has started already.
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)).unwrap();
    let mut one = CpuSet::new();
    one.set(cpu);
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    let actor = || {
        let mut actor = Actor::start();
        actor.must(&format!("open f {} w", mount.join("file").display()));
        actor
    };
    let mut holder = actor();
    holder.must("flock f ex now");
    let tell = |_| {
        let mut waiter = actor();
        waiter.tell("flock f sh wait");
        waiter
    };
    let mut waiting: Vec<Actor> = (0..waiters).map(tell).collect();
    std::thread::sleep(BLOCKED);
    rustix::thread::sched_setaffinity(None, &all).unwrap();
    let begin = Instant::now();
    holder.must("flock f un now");
    let took = begin.elapsed();
    for (number, waiter) in waiting.iter_mut().enumerate() {
        let answer = waiter.answer(wait::SOON);
        assert_eq!(
            answer,
            Some(Ok(String::new())),
            "waiter {number} of {waiters} was never granted the lock"
        );
    }
    eprintln!(
        "{options:?}: unlocking took {took:?} with {waiters} waiting, {:?} until all had it",
        begin.elapsed()
    );
    drop((holder, waiting));
    mount.stop();
}

#[test]
fn a_hundred_who_wait_on_one_cpu_do_not_keep_out_the_unlock() {
    waiters_of_one_cpu(&[], 100);
}

#[test]
fn who_waits_with_little_memory_does_not_keep_out_the_unlock() {
    skip_unless!(is_over_ring(), "FUSEWIRE_TEST_CHANNEL is not uring");
    waiters_of_one_cpu(&["memory=2M"], 1);
    waiters_of_one_cpu(&["memory=2M"], 30);
}
