//! Memory that a guest gets and loses while its requests are under way.

mod support;

use fusewire_abi::{self as abi, InHeader, Opcode, OutHeader};
use fusewire_vhost::{
    Options,
    kit::{
        Driver, Layout, Maps, PAGE, Plugged,
        ring::{Descriptor, NEXT, Used, WRITE},
    },
};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};
use support::{Guest, Hanging, passthrough};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

const ROOT: u64 = 1;
/// Far behind all that a guest begins with.
const PLACE: u64 = 1 << 40;
const MEMORY: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(20);
const HEADER: u64 = size_of::<OutHeader>() as u64;
/// First descriptors of requests that are made by hand: the driver of so small a queue uses none of them.
const HEAD: u16 = 100;
const PATTERN: u8 = 0xa5;

fn layout(queues: u16) -> Layout {
    Layout { queues, data: 64 << 10, indirect: false, window: Maps::Nothing, ..Layout::default() }
}

fn guest(dir: &Path, queues: u16) -> Guest {
    let options = Options { queues, ..Options::default() };
    let mut guest = Guest::start(passthrough(dir), options, layout(queues));
    guest.monitor.driver().init().expect("init");
    guest
}

/// A file whose every byte tells where it is.
fn content(len: u64) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ (at >> 12) as u8).collect()
}

/// Of a request that is made by hand: the data of the driver's last frame.
fn desk(driver: &Driver) -> GuestAddress {
    driver.data(7)
}

/// Make a request whose header and arguments lie in the memory that the guest began with, with these pieces behind them.
fn put(driver: &mut Driver, opcode: Opcode, node: u64, args: &[u8], data: u32, pieces: &[(u64, u32, bool)]) {
    let len = (size_of::<InHeader>() + args.len()) as u32;
    let header =
        InHeader { len: len + data, opcode: opcode as u32, unique: 77, nodeid: node, ..Default::default() };
    let at = desk(driver);
    driver.ring.memory.write_slice(&[header.as_bytes(), args].concat(), at).expect("memory");
    driver.ring.describe(HEAD, Descriptor::new(at.0, len, NEXT, HEAD + 1));
    for (number, &(at, len, writes)) in pieces.iter().enumerate() {
        let index = HEAD + 1 + number as u16;
        let more = if number + 1 < pieces.len() { NEXT } else { 0 };
        let flags = more | if writes { WRITE } else { 0 };
        driver.ring.describe(index, Descriptor::new(at, len, flags, index + 1));
    }
    driver.ring.add(HEAD);
    driver.ring.kick();
}

fn back(driver: &mut Driver) -> Used {
    let used = driver.ring.wait(SOON).expect("it comes back");
    assert_eq!(used.head, HEAD);
    used
}

/// Have a page of the file read to `at`, where the answer's header goes, too.
fn read_to(driver: &mut Driver, (node, fh): (u64, u64), offset: u64, at: u64) -> Used {
    let args = abi::ReadIn { fh, offset, size: PAGE as u32, ..Default::default() };
    put(driver, Opcode::Read, node, args.as_bytes(), 0, &[(at, (HEADER + PAGE) as u32, true)]);
    back(driver)
}

/// Have a page that lies at `at` written to the file.
fn write_from(driver: &mut Driver, (node, fh): (u64, u64), offset: u64, at: u64) -> Used {
    let args = abi::WriteIn { fh, offset, size: PAGE as u32, ..Default::default() };
    let answer = desk(driver).0 + PAGE;
    let pieces = [(at, PAGE as u32, false), (answer, PAGE as u32, true)];
    put(driver, Opcode::Write, node, args.as_bytes(), PAGE as u32, &pieces);
    back(driver)
}

/// Reads a file over and over, until it is told to stop, and finds it as it is. Tells how often it did.
fn keep_reading(
    driver: &mut Driver,
    (node, fh): (u64, u64),
    whole: &[u8],
    stop: &AtomicBool,
    done: &AtomicU64,
) {
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        let frames: Vec<_> = (0..4)
            .map(|number| {
                let offset = (at + number * 8192) % whole.len() as u64;
                (driver.send_read(node, fh, offset, 8192), offset as usize)
            })
            .collect();
        for _ in &frames {
            let reply = driver.receive(SOON).expect("an answer");
            let (_, offset) = frames.iter().find(|(frame, _)| *frame == reply.frame).expect("one of them");
            assert!(driver.data_of(reply).expect("data") == whole[*offset..offset + 8192], "at {offset}");
        }
        at = (at + 4 * 8192) % whole.len() as u64;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn memory_comes_and_goes_while_requests_are_under_way() {
    let dir = tempfile::tempdir().expect("directory");
    let whole = content(1 << 20);
    fs::write(dir.path().join("a"), &whole).expect("file");
    let host = File::create_new(dir.path().join("b")).expect("file");
    let mut guest = guest(dir.path(), 2);
    let driver = guest.monitor.driver();
    let node = driver.lookup(ROOT, c"a").expect("lookup").nodeid;
    let a = (node, driver.open(node, 0).expect("open"));
    let node = driver.lookup(ROOT, c"b").expect("lookup").nodeid;
    let b = (node, driver.open(node, 2).expect("open"));
    let mut busy = guest.monitor.drivers.pop().expect("the second request queue");
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| keep_reading(&mut busy, a, &whole, &stop, &done));
        let mut gone: Vec<(Plugged, Vec<u8>)> = Vec::new();
        for round in 0..50u64 {
            let memory = Plugged::new(PLACE, MEMORY).expect("memory");
            guest.monitor.plug(&memory).expect("plugged in");
            let driver = guest.monitor.driver();
            let offset = (round * PAGE) % (whole.len() as u64 - PAGE);
            let used = read_to(driver, a, offset, PLACE + 2 * PAGE);
            assert_eq!(u64::from(used.len), HEADER + PAGE);
            let there = memory.read(2 * PAGE + HEADER, PAGE as usize);
            assert!(there == whole[offset as usize..][..PAGE as usize], "round {round}");
            memory.write(5 * PAGE, &[round as u8 + 1; PAGE as usize]);
            assert!(write_from(driver, b, 0, PLACE + 5 * PAGE).len > 0);
            let mut bytes = [0; PAGE as usize];
            host.read_exact_at(&mut bytes, 0).expect("written");
            assert!(bytes == [round as u8 + 1; PAGE as usize], "round {round}");
            guest.monitor.unplug(&memory).expect("unplugged");
            // Nobody is there any more: neither is anything put there, nor taken from there.
            let before = memory.read(0, MEMORY as usize);
            let driver = guest.monitor.driver();
            assert_eq!(read_to(driver, a, offset, PLACE + 8 * PAGE).len, 0, "no request");
            assert_eq!(write_from(driver, b, PAGE, PLACE + 5 * PAGE).len, 0, "no request");
            assert_eq!(host.metadata().expect("metadata").len(), PAGE, "nothing was written");
            assert!(driver.getattr(ROOT).is_ok(), "the queue goes on");
            gone.push((memory, before));
        }
        for (memory, before) in gone {
            assert!(memory.read(0, MEMORY as usize) == before, "memory of before is left alone");
        }
        stop.store(true, Ordering::Relaxed);
        traffic.join().expect("the other queue goes on");
    });
    assert!(done.load(Ordering::Relaxed) > 10, "there was traffic");
    guest.end();
}

#[test]
fn an_answer_to_where_memory_was_is_not_put_into_what_is_there_now() {
    let dir = tempfile::tempdir().expect("directory");
    let (fs, hung) = Hanging::over(&dir.path().join("pipe"));
    let make = move || Ok(fs.clone());
    let mut guest = Guest::start(make, Options { queues: 1, ..Options::default() }, layout(1));
    guest.monitor.driver().init().expect("init");
    let (before, now) =
        (Plugged::new(PLACE, MEMORY).expect("memory"), Plugged::new(PLACE, MEMORY).expect("memory"));
    now.write(0, &[PATTERN; MEMORY as usize]);
    guest.monitor.plug(&before).expect("plugged in");
    let driver = guest.monitor.driver();
    let args = abi::ReadIn { size: 4, ..Default::default() };
    put(driver, Opcode::Read, ROOT, args.as_bytes(), 0, &[(PLACE, PAGE as u32, true)]);
    // It is in the middle of it once the queue goes on without it.
    hung.wait_for(1);
    assert!(driver.ring.wait(Duration::from_millis(300)).is_none(), "it waits");
    guest.monitor.unplug(&before).expect("unplugged");
    guest.monitor.plug(&now).expect("plugged in");
    hung.release(1);
    let driver = guest.monitor.driver();
    assert!(back(driver).len > 0, "it was a request when it came");
    assert_eq!(now.read(0, MEMORY as usize), vec![PATTERN; MEMORY as usize]);
    assert_eq!(before.read(HEADER, 4), b"late");
    // What comes now, does.
    hung.release(1);
    put(driver, Opcode::Read, ROOT, args.as_bytes(), 0, &[(PLACE, PAGE as u32, true)]);
    back(driver);
    assert_eq!(now.read(HEADER, 4), b"late");
    guest.end();
}

#[test]
fn a_queue_whose_ring_is_unplugged_stops_and_the_device_goes_on() {
    let dir = tempfile::tempdir().expect("directory");
    let mut guest = guest(dir.path(), 1);
    let main = guest.monitor.main();
    guest.monitor.unplug(&main).expect("unplugged");
    let driver = guest.monitor.driver();
    driver.send(Opcode::Getattr as u32, ROOT, &[abi::GetattrIn::default().as_bytes()], (0, 0));
    assert_eq!(driver.receive(Duration::from_millis(500)), None, "there is no ring");
    guest.monitor.plug(&main).expect("plugged in");
    for queue in 0..2 {
        guest.monitor.restart(queue).expect("restart");
    }
    let driver = guest.monitor.driver();
    driver.init().expect("init");
    assert!(driver.getattr(ROOT).is_ok());
    guest.end();
}

#[test]
fn memory_that_is_there_or_is_not_is_refused() {
    type Say = fn(&mut Guest, &Plugged) -> bool;
    let cases: [(&str, Say); 4] = [
        ("twice", |guest, memory| guest.monitor.plug(memory).is_ok()),
        ("over its end", |guest, _| {
            let other = Plugged::new(PLACE + MEMORY - PAGE, MEMORY).expect("memory");
            guest.monitor.plug(&other).is_ok()
        }),
        ("what was never there", |guest, _| {
            let other = Plugged::new(4 * PLACE, MEMORY).expect("memory");
            guest.monitor.unplug(&other).is_ok()
        }),
        ("a part of it", |guest, _| {
            let other = Plugged::new(PLACE, MEMORY / 2).expect("memory");
            guest.monitor.unplug(&other).is_ok()
        }),
    ];
    for (what, accepted) in cases {
        let dir = tempfile::tempdir().expect("directory");
        let mut guest = guest(dir.path(), 1);
        let memory = Plugged::new(PLACE, MEMORY).expect("memory");
        guest.monitor.plug(&memory).expect("plugged in");
        assert!(!accepted(&mut guest, &memory), "{what}");
        let server = guest.server.take().expect("server");
        drop(guest);
        _ = server.join().expect("no panic");
    }
}
