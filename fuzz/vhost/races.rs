//! Two processors of a guest: one sends requests that are right, the other rewrites them while they are served.

use super::{Guest, ROOT, World};
use fusewire::abi::{self, Opcode};
use fusewire_vhost::kit::{Driver, Layout};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

const DATA: u32 = 8192;
/// What the driver puts before a frame's data: the request, the answer, the table of descriptors.
const REQUEST: u64 = 3 * 4096;
const TABLE: u64 = 4096;
/// How often a place is rewritten before another is.
const TIMES: u64 = 3000;
/// How long an answer may take before the queue starts anew. The other one may have made a request of it that waits, or none at all.
const SOON: Duration = Duration::from_millis(200);

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.next() >> 33) as usize % all.len()]
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    pub sent: u64,
    pub succeeded: u64,
    pub restarted: u64,
    pub rewritten: u64,
}

/// Places of a frame, and what stands there in turn.
fn rewrite(memory: &GuestMemoryMmap, data: u64, done: &AtomicBool, rewritten: &AtomicU64) {
    let mut random = Random(0x0dd5_eed5);
    let request = data - REQUEST;
    let names: [&[u8]; 8] = [
        b"../secret\0",
        b"..\0",
        b"a/b\0",
        b"up\0",
        b"out\0",
        b"a\0",
        b"\0",
        b"no end and longer than it was",
    ];
    while !done.load(Ordering::Relaxed) {
        let kind = random.next() % 8;
        let word = request + 40 + 8 * (random.next() % 8);
        let descriptor = data - TABLE + 16 * (random.next() % 4);
        let words = [0, 1, 40, 48, 64, 4096, u64::from(DATA), 1 << 20, u64::MAX];
        let near = [data, data + 100, request, request + 4096, data - TABLE];
        for _ in 0..TIMES {
            let wrote = match kind {
                // Length, opcode, node.
                0 => memory.write_obj(random.of(&[40u32, 41, 56, 80, 4096, u32::MAX]), GuestAddress(request)),
                1 => memory.write_obj(random.next() as u32 % 53, GuestAddress(request + 4)),
                2 => memory.write_obj(random.of(&[0u64, 1, 2, 3, u64::MAX]), GuestAddress(request + 16)),
                // Arguments, names.
                3 => memory.write_obj(random.of(&words), GuestAddress(word)),
                4 | 5 => memory.write_slice(random.of(&names), GuestAddress(word)),
                // A descriptor's address; its length, flags and successor.
                6 => memory.write_obj(random.of(&near), GuestAddress(descriptor)),
                _ => {
                    let len = random.of(&[0u64, 16, 40, 100, 4096, u64::from(u32::MAX)]);
                    let rest = random.of(&[0u64, 1, 2, 3, 4, 5]) << 32 | (random.next() % 5) << 48;
                    memory.write_obj(len | rest, GuestAddress(descriptor + 8))
                }
            };
            wrote.expect("memory");
            rewritten.fetch_add(1, Ordering::Relaxed);
        }
        // The one processor that there may be is for others as well.
        thread::yield_now();
    }
}

/// One request, whatever is right.
fn send(driver: &mut Driver, random: &mut Random, known: &[(u64, u64)]) {
    let (node, fh) = random.of(known);
    let name = random.of(&[&b"a\0"[..], b"dir\0", b"new\0", b"link\0", b"other\0"]);
    let size = random.of(&[1, 100, DATA]);
    let open = abi::OpenIn::default();
    match random.next() % 10 {
        0 => driver.send(Opcode::Lookup as u32, ROOT, &[name], (0, 0)),
        1 => {
            let args = abi::CreateIn { flags: 0o102, mode: 0o100644, ..Default::default() };
            driver.send(Opcode::Create as u32, ROOT, &[args.as_bytes(), name], (0, 0))
        }
        2 => {
            let args = abi::MkdirIn { mode: 0o755, umask: 0 };
            driver.send(Opcode::Mkdir as u32, ROOT, &[args.as_bytes(), name], (0, 0))
        }
        3 => driver.send(Opcode::Symlink as u32, ROOT, &[name, b"../secret\0"], (0, 0)),
        4 => driver.send(Opcode::Unlink as u32, ROOT, &[name], (0, 0)),
        5 => {
            let args = abi::RenameIn { newdir: ROOT };
            driver.send(Opcode::Rename as u32, ROOT, &[args.as_bytes(), name, b"dir\0"], (0, 0))
        }
        6 => driver.send_read(node, fh, 0, size),
        7 => {
            let args = abi::WriteIn { fh, size, ..Default::default() };
            driver.send(Opcode::Write as u32, node, &[args.as_bytes()], (size, 0))
        }
        8 => driver.send(Opcode::Open as u32, node, &[open.as_bytes()], (0, 0)),
        _ => driver.send(Opcode::Getattr as u32, node, &[abi::GetattrIn::default().as_bytes()], (0, 0)),
    };
}

/// A session with a file open.
fn begin(guest: &mut Guest, random: &mut Random) -> Vec<(u64, u64)> {
    let driver = &mut guest.monitor.drivers[2];
    driver.init().expect("a session");
    let name = std::ffi::CString::new(format!("file-{}", random.next() % 8)).expect("a name");
    vec![(ROOT, 0), driver.create(ROOT, &name).or_else(|_| driver.create(ROOT, c"file")).expect("a file")]
}

/// Do that for so long.
pub fn run(limit: Duration) -> Tally {
    let mut world = World::new(Layout { queues: 2, depth: 1, data: DATA, ..Layout::default() });
    let (mut random, mut tally) = (Random(0x5eed), Tally::default());
    let mut known = begin(&mut world.guest, &mut random);
    let (done, rewritten) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let driver = world.guest.monitor.driver();
    let (memory, data) = (driver.ring.memory.clone(), driver.data(0).0);
    let other = thread::spawn({
        let (memory, done, rewritten) = (memory.clone(), done.clone(), rewritten.clone());
        move || rewrite(&memory, data, &done, &rewritten)
    });
    let start = Instant::now();
    let mut frame = vec![0; REQUEST as usize + DATA as usize];
    while start.elapsed() < limit {
        let driver = world.guest.monitor.driver();
        send(driver, &mut random, &known);
        tally.sent += 1;
        let reply = driver.receive(SOON);
        memory.read_slice(&mut frame, GuestAddress(data - REQUEST)).expect("memory");
        assert!(!world.tree.is_told(&frame), "an answer tells the secret");
        match reply {
            Some(reply) => tally.succeeded += u64::from(reply.result.is_ok()),
            None => {
                world.guest.monitor.restart(1).expect("the queue starts anew");
                tally.restarted += 1;
            }
        }
        if tally.sent.is_multiple_of(50) {
            world.check();
            known = begin(&mut world.guest, &mut random);
        }
    }
    done.store(true, Ordering::Relaxed);
    other.join().expect("the other processor");
    world.guest.monitor.restart(1).expect("the queue starts anew");
    world.check();
    tally.rewritten = rewritten.load(Ordering::Relaxed);
    tally
}
