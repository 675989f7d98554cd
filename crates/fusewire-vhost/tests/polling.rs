//! Threads of queues that look for requests before they sleep.

mod support;

use fusewire::{
    Attr, Context, FileSystem, Result,
    op::{Getattr, Read},
    reply::Sink,
    server::Poll,
};
use fusewire_vhost::{
    Options,
    kit::{Driver, Layout, Maps},
};
use std::{
    collections::HashMap,
    fs, io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use support::{Guest, passthrough};
use vhost::{VhostBackend, vhost_user::VhostUserFrontend};

const ROOT: u64 = 1;
/// Far longer than anything here may take.
const EVER: Poll = Poll::Fixed(Duration::from_secs(600));
const SOON: Duration = Duration::from_secs(20);

/// The threads that tests look at are of the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn options(poll: Poll) -> Options {
    Options { queues: 1, poll, ..Options::default() }
}

fn layout(event_idx: bool) -> Layout {
    Layout { data: 4096, event_idx, window: Maps::Nothing, ..Layout::default() }
}

/// A guest of a directory that it has mounted, whose first queue is polled for so long.
fn guest(dir: &tempfile::TempDir, poll: Poll, event_idx: bool) -> Guest {
    let mut guest = Guest::start(passthrough(dir.path()), options(poll), layout(event_idx));
    guest.monitor.driver().init().expect("init");
    guest.monitor.driver().getattr(ROOT).expect("getattr");
    guest
}

/// CPU time of the threads of devices so far, by name and number.
fn threads() -> HashMap<String, Duration> {
    let tasks = fs::read_dir("/proc/self/task").expect("proc").flatten();
    let threads = tasks.filter_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned();
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanos = schedstat.split(' ').next()?.parse().ok()?;
        let number = task.file_name().into_string().ok()?;
        let is_ours = name.starts_with("queue-") || name.starts_with("fusewire-");
        is_ours.then(|| (format!("{name} {number}"), Duration::from_nanos(nanos)))
    });
    threads.collect()
}

/// CPU time that threads of devices take meanwhile, without those that begin or end.
fn taken(time: Duration) -> HashMap<String, Duration> {
    let before = threads();
    std::thread::sleep(time);
    let spent = |(name, now): (String, Duration)| Some((now - *before.get(&name)?, name));
    threads().into_iter().filter_map(spent).map(|(spent, name)| (name, spent)).collect()
}

/// How many threads of queues poll: they take CPU time although nobody asks for anything.
fn polling() -> usize {
    let busy = |(name, spent): &(String, Duration)| name.starts_with("queue-") && !spent.is_zero();
    taken(Duration::from_millis(150)).into_iter().filter(busy).count()
}

/// By and by, so many poll.
fn wait_for(count: usize) {
    let begin = Instant::now();
    while polling() != count {
        assert!(begin.elapsed() < SOON, "{} and not {count} threads poll", polling());
    }
}

fn within<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = act();
    assert!(begin.elapsed() < SOON, "{what} took {:?}", begin.elapsed());
    done
}

/// Let time pass without sleeping.
fn spin(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

#[test]
fn a_guest_is_not_to_tell_of_requests_while_its_queue_is_polled() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("directory");
    for event_idx in [true, false] {
        let kicks = |poll| {
            let mut guest = guest(&dir, poll, event_idx);
            let driver = guest.monitor.driver();
            let before = driver.ring.kicks;
            for _ in 0..200 {
                std::thread::sleep(Duration::from_micros(500));
                driver.getattr(ROOT).expect("getattr");
            }
            let kicks = driver.ring.kicks - before;
            guest.end();
            kicks
        };
        let (asleep, polled) = (kicks(Poll::Off), kicks(EVER));
        assert!(asleep > 100 && polled <= 1, "{asleep} kicks asleep, {polled} polled");
    }
}

/// Requests at all moments around the end of the time for which the queue is polled. Each is answered.
fn race(driver: &mut Driver, rounds: u64) -> u64 {
    let before = driver.ring.kicks;
    for round in 0..rounds {
        spin(Duration::from_nanos(round * 7 % 400 * 100));
        driver.getattr(ROOT).unwrap_or_else(|errno| panic!("request {round}: {errno}"));
    }
    driver.ring.kicks - before
}

#[test]
fn no_request_is_lost_that_comes_as_polling_ends() {
    const ROUNDS: u64 = 20_000;
    let _alone = alone();
    let dir = tempfile::tempdir().expect("directory");
    for event_idx in [true, false] {
        let mut guest = guest(&dir, Poll::Fixed(Duration::from_micros(20)), event_idx);
        let kicks = race(guest.monitor.driver(), ROUNDS);
        // Some come before the end, some after it.
        assert!(kicks > 0 && kicks < ROUNDS, "{kicks} kicks");
        guest.end();
    }
}

#[test]
fn a_governed_guest_loses_nothing_either() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("directory");
    let mut guest = guest(&dir, Poll::Auto, true);
    race(guest.monitor.driver(), 10_000);
    guest.end();
}

#[test]
fn a_guest_that_asks_for_nothing_costs_no_cpu() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("directory");
    for poll in [Poll::Off, Poll::Auto, Poll::Fixed(Duration::from_millis(1))] {
        let mut guest = guest(&dir, poll, true);
        race(guest.monitor.driver(), 1000);
        // Once the watch sleeps, too.
        let begin = Instant::now();
        loop {
            let taken = taken(Duration::from_secs(1));
            assert!(taken.keys().any(|name| name.starts_with("queue-1")), "{taken:?}");
            if taken.values().sum::<Duration>() < Duration::from_millis(2) {
                break;
            }
            assert!(begin.elapsed() < SOON, "{poll}: {taken:?}");
        }
        guest.end();
    }
}

#[test]
fn who_polls_is_not_stuck() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("directory");
    let guest = guest(&dir, EVER, true);
    wait_for(1);
    assert!(!threads().keys().any(|name| name.starts_with("fusewire-spare")), "{:?}", threads());
    guest.end();
}

#[test]
fn a_queue_that_is_stopped_is_not_polled_any_more() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("directory");
    let mut guest = guest(&dir, EVER, true);
    let monitor = &mut guest.monitor;
    wait_for(1);
    within("stopping", || monitor.restart(1).expect("restart"));
    assert!(monitor.driver().getattr(ROOT).is_ok());
    wait_for(1);
    within("disabling", || monitor.frontend.set_vring_enable(1, false).expect("disable"));
    wait_for(0);
    let frame = monitor.driver().send(fusewire_abi::Opcode::Statfs as u32, ROOT, &[], (0, 0));
    assert!(monitor.driver().receive(Duration::from_millis(100)).is_none());
    monitor.frontend.set_vring_enable(1, true).expect("enable");
    assert_eq!(monitor.driver().receive(SOON).map(|reply| reply.frame), Some(frame));
    wait_for(1);
    within("resetting", || monitor.frontend.reset_device().expect("reset"));
    wait_for(0);
    within("ending", || guest.end());
}

#[test]
fn descriptors_and_memory_are_replaced_while_a_queue_is_polled() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("directory");
    let mut guest = guest(&dir, EVER, false);
    let monitor = &mut guest.monitor;
    for _ in 0..50 {
        within("replacing", || {
            monitor.frontend.set_vring_call(1, &monitor.drivers[1].ring.call).expect("call");
            monitor.frontend.set_vring_kick(1, &monitor.drivers[1].ring.kick).expect("kick");
        });
        monitor.driver().getattr(ROOT).expect("getattr");
    }
    guest.end();
}

#[test]
fn a_session_that_ends_ends_the_polling_of_all_queues() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("directory");
    let options = Options { queues: 2, ..options(EVER) };
    let mut guest = Guest::start(passthrough(dir.path()), options, Layout { queues: 2, ..layout(true) });
    let drivers = &mut guest.monitor.drivers;
    drivers[1].init().expect("init");
    drivers[2].getattr(ROOT).expect("getattr");
    for _ in 0..3 {
        within("destroying", || drivers[1].destroy().expect("destroy"));
        wait_for(0);
        assert_eq!(drivers[2].getattr(ROOT).err(), Some(fusewire::Errno::IO));
        within("beginning", || drivers[2].init().expect("init"));
        // Both know of it at once, whether they polled for another session before or slept.
        drivers[1].getattr(ROOT).expect("getattr");
        drivers[2].getattr(ROOT).expect("getattr");
    }
    within("ending", || guest.end());
}

/// Reads are answered by another thread.
struct Later;

impl FileSystem for Later {
    async fn getattr(&self, _cx: &Context, _op: Getattr) -> Result<Attr> {
        Ok(Attr::directory())
    }

    async fn read(&self, cx: &Context, _op: Read, out: &mut Sink<'_>) -> Result<()> {
        cx.blocking(|| std::thread::sleep(Duration::from_millis(20))).await;
        out.put(b"late");
        Ok(())
    }
}

#[test]
fn an_answer_that_is_ready_does_not_wait_for_the_end_of_polling() {
    let _alone = alone();
    let mut guest = Guest::start(|| io::Result::Ok(Later), options(EVER), layout(true));
    let driver = guest.monitor.driver();
    driver.init().expect("init");
    for _ in 0..20 {
        within("reading", || assert_eq!(driver.read(ROOT, 0, 0, 100).as_deref(), Ok(&b"late"[..])));
    }
    guest.end();
}

#[test]
fn no_more_threads_poll_than_there_are_cpus() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("directory");
    let cpus = rustix::thread::sched_getaffinity(None).expect("affinity").count() as usize;
    let mut guests: Vec<_> = (0..cpus + 2).map(|_| guest(&dir, EVER, true)).collect();
    wait_for(cpus);
    // The others are served as well.
    guests.iter_mut().for_each(|guest| _ = guest.monitor.driver().getattr(ROOT).expect("getattr"));
    wait_for(cpus);
    guests.into_iter().for_each(Guest::end);
}
