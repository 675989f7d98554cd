//! Answers that come when their queue is stopped already, or their guest is gone: its memory is somebody else's by then.

mod support;

use fusewire::{Attr, Context, FileSystem, NodeId, Result, op::Getattr};
use fusewire_abi::{self as abi, Opcode};
use fusewire_vhost::{
    Options,
    kit::{Driver, Layout, Maps},
};
use std::{
    io::{PipeReader, PipeWriter, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use support::Guest;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

const ROOT: u64 = 1;
const STUCK: u64 = 2;
const PATTERN: u8 = 0xa5;

/// Attributes of the root directory come at once, those of everything else keep their thread until somebody writes into a pipe.
#[derive(Clone)]
struct Slow {
    pipe: Arc<PipeReader>,
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl FileSystem for Slow {
    async fn getattr(&self, _cx: &Context, op: Getattr) -> Result<Attr> {
        if op.node != NodeId::ROOT {
            self.begun.fetch_add(1, Ordering::SeqCst);
            (&*self.pipe).read_exact(&mut [0]).map_err(|_| fusewire::Errno::IO)?;
            self.ended.fetch_add(1, Ordering::SeqCst);
        }
        Ok(Attr::directory())
    }
}

fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !happened() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A guest with so many queues, each of which has a request that is stuck, and one more.
struct World {
    guest: Guest,
    fs: Slow,
    hung: PipeWriter,
    /// What is stuck in the first request queue.
    frame: u16,
}

fn stuck(count: u16) -> World {
    let queues = count + 1;
    let (pipe, hung) = std::io::pipe().expect("pipe");
    let fs = Slow { pipe: Arc::new(pipe), begun: Arc::default(), ended: Arc::default() };
    let layout = Layout { queues, data: 4096, window: Maps::Nothing, ..Layout::default() };
    let make = {
        let fs = fs.clone();
        move || Ok(fs.clone())
    };
    let mut guest = Guest::start(make, Options { queues, ..Options::default() }, layout);
    guest.monitor.driver().init().expect("init");
    let frames: Vec<_> = guest.monitor.drivers[1..queues.into()].iter_mut().map(ask).collect();
    until("the requests are served", || fs.begun.load(Ordering::SeqCst) == usize::from(count));
    World { guest, fs, hung, frame: frames[0] }
}

fn ask(driver: &mut Driver) -> u16 {
    driver.send(Opcode::Getattr as u32, STUCK, &[abi::GetattrIn::default().as_bytes()], (0, 0))
}

/// Let what is stuck go on, and wait until it is over.
fn release(hung: &mut PipeWriter, fs: &Slow, count: usize) {
    hung.write_all(&vec![0; count]).expect("pipe");
    until("the requests end", || fs.ended.load(Ordering::SeqCst) == count);
    // Their threads have to come back from there.
    std::thread::sleep(Duration::from_millis(300));
}

/// Where the answer to what is in a frame goes: two pages before its data.
fn place(driver: &Driver, frame: u16) -> GuestAddress {
    GuestAddress(driver.data(frame).0 - 2 * 4096)
}

fn fill(memory: &GuestMemoryMmap, at: GuestAddress) {
    memory.write_slice(&[PATTERN; 4096], at).expect("memory");
}

fn is_as_filled(memory: &GuestMemoryMmap, at: GuestAddress) -> bool {
    let mut bytes = [0; 4096];
    memory.read_slice(&mut bytes, at).expect("memory");
    bytes == [PATTERN; 4096]
}

#[test]
fn an_answer_that_comes_after_its_queue_was_stopped_is_written_nowhere() {
    let mut world = stuck(1);
    let answer = place(world.guest.monitor.driver(), world.frame);
    world.guest.monitor.restart(1).expect("restart");
    // The guest's next kernel has something else there.
    fill(&world.guest.monitor.memory, answer);
    release(&mut world.hung, &world.fs, 1);
    assert!(is_as_filled(&world.guest.monitor.memory, answer), "the answer was written");
    assert!(world.guest.monitor.driver().getattr(ROOT).is_ok());
    world.guest.end();
}

#[test]
fn an_answer_that_comes_after_the_monitor_has_gone_is_written_nowhere() {
    let mut world = stuck(1);
    let (memory, answer) =
        (world.guest.monitor.memory.clone(), place(world.guest.monitor.driver(), world.frame));
    let used = world.guest.monitor.driver().ring.used();
    world.guest.end();
    // The guest is served by another daemon meanwhile, which has answered a thousand requests.
    fill(&memory, answer);
    fill(&memory, used);
    release(&mut world.hung, &world.fs, 1);
    assert!(is_as_filled(&memory, answer), "the answer was written");
    assert!(is_as_filled(&memory, used), "the used ring was written to");
}

#[test]
fn a_device_that_is_reset_is_as_it_was_in_the_beginning() {
    let mut world = stuck(4);
    let monitor = &mut world.guest.monitor;
    // The guest breaks the ring of the queue that is not stuck.
    monitor.drivers[5].ring.publish(5000);
    monitor.drivers[5].ring.kick.write(1).expect("kick");
    std::thread::sleep(Duration::from_millis(200));
    let answers: Vec<_> = monitor.drivers[1..5].iter().map(|driver| place(driver, world.frame)).collect();
    let begin = Instant::now();
    monitor.reset().expect("reset");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(10), "the queues were waited for one after the other: {took:?}");
    // What the guest's next kernel sends is answered, and what its last one has sent is not.
    monitor.drivers[5].init().expect("init");
    for driver in &mut monitor.drivers[1..5] {
        assert!(driver.getattr(ROOT).is_ok());
        assert_eq!(driver.ring.answered(), 1);
    }
    answers.iter().for_each(|&answer| fill(&monitor.memory, answer));
    release(&mut world.hung, &world.fs, 4);
    let monitor = &mut world.guest.monitor;
    assert!(answers.iter().all(|&answer| is_as_filled(&monitor.memory, answer)), "an answer was written");
    for driver in &mut monitor.drivers[1..] {
        assert!(driver.getattr(ROOT).is_ok());
    }
    world.guest.end();
}
