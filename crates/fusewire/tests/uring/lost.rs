//! Threads that are lost while the connection lives: it is aborted, because whoever waits for them would wait for ever.

use crate::{
    callers::*,
    lab::*,
    options, real,
    teardown::{assert_all_fail, waiting_callers},
};
use fusewire::{
    channel::{Answered, Slot, layer::Layer},
    mount::Unmount,
    proto::{message::Message, negotiate::Agreed},
    server::{Channel, Ended, Options, Server, ServerHandle},
};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// Where the layer panics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// When the first slot of a ring thread is made, which has no entry then.
    RingSlot,
    /// When a ring thread has a request.
    RingRequest,
    /// When a reader of `/dev/fuse` has one.
    Read,
}

/// Panics, of all threads that come there, once it is armed; of ring threads, the first one.
#[derive(Clone)]
struct Panics(At, Arc<AtomicBool>);

impl Panics {
    fn at(place: At) -> Self {
        Self(place, Arc::new(AtomicBool::new(place == At::RingSlot)))
    }

    fn arm(&self) {
        self.1.store(true, Ordering::Release);
    }

    fn comes_to(&self, is_slot: bool) {
        let in_ring = std::thread::current().name() == Some("fusewire-ring");
        let is_there = match self.0 {
            At::RingSlot => in_ring && is_slot && self.1.swap(false, Ordering::AcqRel),
            At::RingRequest => in_ring && !is_slot && self.1.swap(false, Ordering::AcqRel),
            At::Read => !in_ring && !is_slot && self.1.load(Ordering::Acquire),
        };
        assert!(!is_there, "as the test wants it");
    }
}

impl Layer for Panics {
    type Slot<S: Slot> = PanicsSlot<S>;

    fn wrap<S: Slot>(&self, slot: S) -> PanicsSlot<S> {
        self.comes_to(true);
        PanicsSlot(slot, self.clone())
    }
}

struct PanicsSlot<S>(S, Panics);

impl<S: Slot> Slot for PanicsSlot<S> {
    fn agreed(&self) -> Agreed {
        self.0.agreed()
    }

    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])> {
        let next = self.0.next().await?;
        self.1.comes_to(false);
        Some(next)
    }

    fn area(&mut self) -> &mut [u8] {
        self.0.area()
    }

    async fn finish(&mut self, unique: u64, answer: Answered) {
        self.0.finish(unique, answer).await;
    }
}

/// A caller in a process of its own, which can be killed.
fn stat(path: &Path) -> Child {
    Command::new("stat").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Aborts in the end, whatever happens before.
struct Aborted(ServerHandle);

impl Drop for Aborted {
    fn drop(&mut self) {
        _ = self.0.abort();
        _ = self.0.unmount(Unmount::Lazy);
    }
}

real! {
    /// In handlers that await, that sleep, in the kernel's queues, and in the slot of the thread.
    fn a_ring_thread_that_panics_takes_the_connection_with_it() {
        let panics = Panics::at(At::RingRequest);
        let mount = Mounted::start_with(Lab::default(), options(), panics.clone());
        let callers = waiting_callers(|name| mount.at(name)).into_iter().enumerate();
        // A handler that sleeps may be through before the thread comes to the request over which it panics.
        let (mut sleeping, callers): (Vec<_>, Vec<_>) = callers.partition(|(i, _)| i % 3 == 2);
        panics.arm();
        let begin = Instant::now();
        // It may be another one's request over which the thread panics.
        sleeping.push((0, stat(&mount.at("plain"))));
        assert_all_fail(callers.into_iter().map(|(_, caller)| caller).collect());
        for (_, mut caller) in sleeping {
            ends_within(&mut caller, 5000 * MS).expect("a caller waits for ever");
        }
        assert_eq!(mount.join(), Ended::Aborted);
        assert!(begin.elapsed() < 12_000 * MS, "{:?}", begin.elapsed());
    }

    /// The kernel would hold every request back until its queue has an entry.
    fn a_ring_thread_that_panics_before_it_has_an_entry_takes_the_connection_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::mount_with(Lab::default(), dir.path(), &options(), Panics::at(At::RingSlot)).unwrap();
        let aborted = Aborted(server.handle());
        let mut caller = stat(dir.path());
        let ended = ends_within(&mut caller, 5000 * MS);
        _ = caller.kill();
        assert!(!ended.expect("a caller waits for ever").success(), "it got an answer");
        assert_eq!(server.join().unwrap(), Ended::Aborted);
        drop(aborted);
    }

    /// Nothing would read FORGET, INTERRUPT and the end of the connection; or, without a ring, anything at all.
    fn readers_that_panic_take_the_connection_with_them() {
        for channel in [Channel::Uring, Channel::DevFuse] {
            let panics = Panics::at(At::Read);
            let mount = Mounted::start_with(Lab::default(), Options { channel, ..options() }, panics.clone());
            for name in ["plain", "timer", "thread", "stale"] {
                std::fs::metadata(mount.at(name)).unwrap();
            }
            panics.arm();
            // Makes the kernel drop every name of this mount.
            let mut forgets = Command::new("mount").args(["-i", "-o", "remount"]).arg(&mount.path).spawn().unwrap();
            let begin = Instant::now();
            loop {
                let mut caller = stat(&mount.at("plain"));
                let ended = ends_within(&mut caller, 5000 * MS);
                _ = caller.kill();
                if !ended.expect("a caller waits for ever").success() {
                    break;
                }
                assert!(begin.elapsed() < 5000 * MS, "the mount goes on without a reader");
                std::thread::sleep(10 * MS);
            }
            assert!(ends_within(&mut forgets, 5000 * MS).is_some());
            assert_eq!(mount.join(), Ended::Aborted);
            assert!(begin.elapsed() < 12_000 * MS, "{:?}", begin.elapsed());
        }
    }
}
