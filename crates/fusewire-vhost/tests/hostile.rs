//! A guest that breaks every rule. It gets an errno or a stopped queue; the device goes on, and nothing outside of the directory is
//! reached.

mod support;

use fusewire::types::Errno;
use fusewire_abi::{self as abi, InHeader, Opcode};
use fusewire_vhost::{
    Options, QUEUE_SIZE,
    kit::{
        Driver, Layout,
        ring::{Descriptor, INDIRECT, NEXT, WRITE},
    },
};
use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use support::{Guest, passthrough};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

const ROOT: u64 = 1;
/// How long nothing comes where nothing must come.
const A_WHILE: Duration = Duration::from_millis(500);
/// What must come may take as long as the disk takes: SYNCFS does, and so does whatever waits for the journal.
const LATE: Duration = Duration::from_secs(60);

/// A directory in a directory with a secret beside it, and a guest that has mounted it.
fn guest(layout: Layout) -> (tempfile::TempDir, Guest) {
    let dir = tempfile::tempdir().expect("directory");
    fs::create_dir(dir.path().join("share")).expect("directory");
    fs::write(dir.path().join("secret"), "secret").expect("file");
    let mut guest = Guest::start(passthrough(&dir.path().join("share")), Options::default(), layout);
    guest.monitor.driver().init().expect("init");
    (dir, guest)
}

/// A header in the guest's memory, at the beginning of the driver's first frame's data.
fn put_header(driver: &Driver, header: InHeader) -> u64 {
    let at = driver.data(0);
    driver.ring.memory.write_slice(header.as_bytes(), at).expect("memory");
    at.0
}

fn getattr() -> InHeader {
    let len = (size_of::<InHeader>() + size_of::<abi::GetattrIn>()) as u32;
    InHeader { len, opcode: Opcode::Getattr as u32, unique: 7, nodeid: ROOT, ..Default::default() }
}

#[test]
fn chains_that_are_no_requests_go_back_and_the_queue_goes_on() {
    let (_dir, mut guest) = guest(Layout { indirect: false, ..Layout::default() });
    let driver = guest.monitor.driver();
    let at = put_header(driver, getattr());
    let end = u64::from(u32::MAX) << 8;
    let d = Descriptor::new;
    // Whatever it is, the chain comes back.
    let chains: &[&[Descriptor]] = &[
        // Nowhere.
        &[d(end, 56, NEXT, 101), d(at + 4096, 4096, WRITE, 0)],
        &[d(u64::MAX - 3, 56, NEXT, 101), d(at + 4096, 4096, WRITE, 0)],
        &[d(at, 56, NEXT, 101), d(end, 4096, WRITE, 0)],
        &[d(at, u32::MAX, NEXT, 101), d(at + 4096, u32::MAX, WRITE, 0)],
        // Short, empty, without room for an answer, the wrong way round.
        &[d(at, 39, NEXT, 101), d(at + 4096, 4096, WRITE, 0)],
        &[d(at, 0, NEXT, 101), d(at + 4096, 4096, WRITE, 0)],
        &[d(at, 56, 0, 0)],
        &[d(at, 56, NEXT, 101), d(at + 4096, 15, WRITE, 0)],
        &[d(at + 4096, 4096, WRITE | NEXT, 101), d(at, 56, 0, 0)],
        &[d(at, 56, WRITE, 0)],
        // In circles, and out of the table.
        &[d(at, 56, NEXT, 100)],
        &[d(at, 56, NEXT, 101), d(at + 4096, 1, WRITE | NEXT, 100)],
        &[d(at, 56, NEXT, u16::MAX)],
        // Tables that are odd, empty, endless, nowhere, or within tables.
        &[d(at, 7, INDIRECT, 0)],
        &[d(at, 0, INDIRECT, 0)],
        &[d(at, u32::MAX, INDIRECT, 0)],
        &[d(end, 32, INDIRECT, 0)],
        &[d(driver.ring.table.0 + 16 * 100, 16, INDIRECT, 0)],
        &[d(at, 32, INDIRECT | NEXT, 101), d(at, 32, INDIRECT | WRITE, 0)],
    ];
    for chain in chains {
        for (i, descriptor) in chain.iter().enumerate() {
            driver.ring.describe(100 + i as u16, *descriptor);
        }
        driver.ring.add(100);
        driver.ring.kick();
        let used = driver.ring.wait(LATE).unwrap_or_else(|| panic!("{chain:x?} never came back"));
        assert_eq!(used.head, 100, "{chain:x?}");
        assert!(driver.getattr(ROOT).is_ok(), "{chain:x?}");
    }
    guest.end();
}

#[test]
fn a_chain_is_no_longer_than_the_queue_may_be_whatever_its_table_says() {
    let (_dir, mut guest) = guest(Layout::default());
    let driver = guest.monitor.driver();
    let (at, table) = (put_header(driver, getattr()), driver.data(1).0);
    for (bytes, served) in [(QUEUE_SIZE as u16 - 1, true), (QUEUE_SIZE as u16, false), (u16::MAX - 1, false)]
    {
        // The request as it is, nothing after that, and room for the answer.
        for index in 0..=bytes {
            let descriptor = match index {
                0 => Descriptor::new(at, 56, NEXT, 1),
                _ if index < bytes => Descriptor::new(at + 2 * u64::from(index), 1, NEXT, index + 1),
                _ => Descriptor::new(at + (512 << 10), 4096, WRITE, 0),
            };
            driver.ring.write(table + 16 * u64::from(index), descriptor);
        }
        driver.ring.describe(100, Descriptor::new(table, 16 * (u32::from(bytes) + 1), INDIRECT, 0));
        driver.ring.add(100);
        driver.ring.kick();
        let used = driver.ring.wait(LATE).expect("an answer");
        assert_eq!((used.head, used.len > 0), (100, served), "{bytes}");
    }
    guest.end();
}

#[test]
fn a_queue_whose_rules_are_broken_is_stopped_until_it_is_reset() {
    let (_dir, mut guest) = guest(Layout { queues: 2, ..Layout::default() });
    let driver = guest.monitor.driver();
    // More chains than there are entries.
    driver.ring.publish(5000);
    driver.ring.kick.write(1).expect("kick");
    assert_eq!(driver.ring.wait(A_WHILE), None);
    assert!(guest.monitor.drivers[2].getattr(ROOT).is_ok(), "other queues go on");
    guest.monitor.restart(1).expect("restart");
    assert!(guest.monitor.driver().getattr(ROOT).is_ok());
    // Heads that are no descriptors.
    let driver = guest.monitor.driver();
    for head in [128, 5000, u16::MAX] {
        driver.ring.add(head);
    }
    driver.ring.kick();
    assert_eq!(driver.ring.wait(A_WHILE), None);
    assert!(driver.getattr(ROOT).is_ok());
    guest.end();
}

#[test]
fn lengths_and_opcodes_that_lie_get_an_errno() {
    let (_dir, mut guest) = guest(Layout::default());
    let driver = guest.monitor.driver();
    for opcode in (0..80).chain([4096, u32::MAX - 1, u32::MAX]) {
        // INIT and DESTROY are what they are; FORGET, BATCH_FORGET and INTERRUPT are not answered, nor is an answer.
        if [2, 26, 36, 38, 41, 42].contains(&opcode) {
            continue;
        }
        for args in [&[][..], &[0xff; 8], &[0; 64], &[0xff; 4000]] {
            driver.send(opcode, ROOT, &[args], (0, 4096));
            let reply = driver.receive(LATE).unwrap_or_else(|| panic!("{opcode}, {} bytes", args.len()));
            if opcode == 0 || opcode > 60 {
                assert_eq!(reply.result, Err(Errno::NOSYS), "{opcode}");
            }
        }
    }
    // More bytes than there are, and fewer than a header has.
    for len in [0, 39, 57, 1 << 20, u32::MAX] {
        let at = put_header(driver, InHeader { len, ..getattr() });
        driver.ring.describe(100, Descriptor::new(at, 56, NEXT, 101));
        driver.ring.describe(101, Descriptor::new(at + 4096, 4096, WRITE, 0));
        driver.ring.add(100);
        driver.ring.kick();
        let used = driver.ring.wait(LATE).expect("an answer");
        let [_, error]: [i32; 2] = driver.ring.memory.read_obj(GuestAddress(at + 4096)).expect("memory");
        assert_eq!((used.len, error), (16, -Errno::INVAL.raw_os_error()), "{len}");
    }
    // A WRITE that says it brings more, or less, than it does; a READ of everything there is.
    let (node, fh) = driver.create(ROOT, c"a").expect("create");
    for size in [0, 1, 99, 101, u32::MAX] {
        let args = abi::WriteIn { fh, size, ..Default::default() };
        driver.send(Opcode::Write as u32, node, &[args.as_bytes()], (100, 0));
        assert_eq!(driver.receive(LATE).expect("answer").result, Err(Errno::INVAL), "{size}");
    }
    let args = abi::ReadIn { fh, size: u32::MAX, ..Default::default() };
    driver.send(Opcode::Read as u32, node, &[args.as_bytes()], (0, 4096));
    assert_eq!(driver.receive(LATE).expect("answer").result, Ok(0));
    guest.end();
}

#[test]
fn nothing_outside_of_the_directory_is_reached() {
    let (dir, mut guest) = guest(Layout::default());
    let driver = guest.monitor.driver();
    for name in [&b"..\0"[..], b".\0", b"../secret\0", b"/etc\0", b"a/b\0", b"\0", b"no end", b"", b"a\0b\0"]
    {
        let reply = driver.call(Opcode::Lookup, ROOT, &[name]);
        assert_eq!(reply.err(), Some(Errno::INVAL), "{name:?}");
        let args = abi::MkdirIn { mode: 0o755, umask: 0 };
        assert_eq!(
            driver.call(Opcode::Mkdir, ROOT, &[args.as_bytes(), name]).err(),
            Some(Errno::INVAL),
            "{name:?}"
        );
    }
    let long = [&[b'a'; 5000][..], b"\0"].concat();
    assert!(driver.call(Opcode::Lookup, ROOT, &[&long[..3000]]).is_err());
    // Links that lead out are links.
    std::os::unix::fs::symlink("../secret", dir.path().join("share/out")).expect("link");
    let node = driver.lookup(ROOT, c"out").expect("lookup").nodeid;
    assert!(driver.open(node, 0).is_err());
    assert_eq!(driver.lookup(node, c"secret").err(), Some(Errno::NOTDIR));
    // Nodes and handles that were never given out.
    for node in [0, 2, 77, 1 << 40, u64::MAX] {
        if node != driver.lookup(ROOT, c"out").expect("lookup").nodeid {
            assert!(driver.getattr(node).is_err(), "{node}");
            assert!(driver.lookup(node, c"a").is_err(), "{node}");
            assert!(driver.read(node, node, 0, 100).is_err(), "{node}");
            assert!(driver.release(node, node).is_err() || node == 0, "{node}");
        }
        _ = driver.forget(node, u64::MAX);
    }
    _ = driver.forget(ROOT, u64::MAX);
    assert!(driver.getattr(ROOT).is_ok());
    guest.end();
    assert_eq!(fs::read_to_string(dir.path().join("secret")).expect("secret"), "secret");
}

#[test]
fn memory_that_changes_while_it_is_read_is_one_request_or_another() {
    let (dir, mut guest) = guest(Layout::default());
    let driver = guest.monitor.driver();
    let (memory, name) = (driver.ring.memory.clone(), driver.data(1));
    let done = std::sync::Arc::new(AtomicBool::new(false));
    let flag = done.clone();
    // One processor of the guest rewrites the name between "aaaa" and "../.", the other sends it.
    let other = std::thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            for text in [b"aaaa\0", b"../.\0", b"b/b\0\0", b"bbbbb"] {
                _ = memory.write_slice(text, name);
            }
        }
    });
    let header = InHeader {
        len: (size_of::<InHeader>() + size_of::<abi::MkdirIn>() + 5) as u32,
        opcode: Opcode::Mkdir as u32,
        unique: 9,
        nodeid: ROOT,
        ..Default::default()
    };
    let at = put_header(driver, header);
    let args = abi::MkdirIn { mode: 0o755, umask: 0 };
    _ = driver.ring.memory.write_slice(args.as_bytes(), GuestAddress(at + size_of::<InHeader>() as u64));
    let d = Descriptor::new;
    for _ in 0..5000 {
        driver
            .ring
            .describe(100, d(at, (size_of::<InHeader>() + size_of::<abi::MkdirIn>()) as u32, NEXT, 101));
        driver.ring.describe(101, d(name.0, 5, NEXT, 102));
        driver.ring.describe(102, d(at + 4096, 4096, WRITE, 0));
        driver.ring.add(100);
        driver.ring.kick();
        driver.ring.wait(LATE).expect("an answer");
    }
    done.store(true, Ordering::Relaxed);
    other.join().expect("thread");
    let made: Vec<_> = fs::read_dir(dir.path().join("share"))
        .expect("directory")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert!(made.iter().all(|name| !name.as_encoded_bytes().contains(&b'/')), "{made:?}");
    let beside: Vec<_> = fs::read_dir(dir.path()).expect("directory").collect();
    assert_eq!(beside.len(), 2, "{beside:?}");
    assert!(driver.getattr(ROOT).is_ok());
    guest.end();
}

#[test]
fn whatever_lies_in_the_rings_the_device_lives() {
    let (dir, mut guest) = guest(Layout { queues: 2, size: 16, ..Layout::default() });
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    for round in 0..200 {
        {
            let driver = guest.monitor.driver();
            let at = put_header(driver, InHeader { opcode: (random() % 55) as u32, ..getattr() });
            for index in 0..16 {
                let near = at + random() % 8192;
                let address = if random() % 8 == 0 { random() << 20 } else { near };
                let flags = (random() % 8) as u16 & !u16::from(random() % 2 == 0) & 7;
                let descriptor =
                    Descriptor::new(address, (random() % 6000) as u32, flags, (random() % 20) as u16);
                driver.ring.describe(index, descriptor);
            }
            for _ in 0..random() % 16 {
                driver.ring.add((random() % 20) as u16);
            }
            driver.ring.kick();
            _ = driver.ring.kick.write(1);
            while driver.ring.wait(Duration::from_millis(2)).is_some() {}
        }
        guest.monitor.restart(1).expect("restart");
        let driver = &mut guest.monitor.drivers[2];
        if let Err(errno) = driver.getattr(ROOT) {
            // It has sent DESTROY or INIT by chance.
            assert_eq!(errno, Errno::IO, "round {round}");
            driver.init().expect("init");
        }
    }
    guest.end();
    assert_eq!(fs::read_to_string(dir.path().join("secret")).expect("secret"), "secret");
}

#[test]
fn locks_of_the_host_that_were_not_agreed_on_are_not_served() {
    use fusewire_fs::passthrough::{self, LockScope, Passthrough};
    for (scope, answer) in [(LockScope::Mount, Err(Errno::NOSYS)), (LockScope::Directory, Ok(()))] {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().to_owned();
        let make = move || {
            let forward = passthrough::Forward::Off;
            Passthrough::new(&path, passthrough::Options { forward, locks: scope, ..Default::default() })
        };
        let mut guest = Guest::start(make, Options::default(), Layout::default());
        let driver = guest.monitor.driver();
        driver.init().expect("init");
        let (node, fh) = driver.create(ROOT, c"a").expect("create");
        let lk = abi::FileLock { start: 0, end: i64::MAX as u64, typ: 1, pid: 1 };
        let posix = abi::LkIn { fh, owner: 1, lk, ..Default::default() };
        let flock = abi::LkIn { lk_flags: abi::LkFlags::FLOCK.bits(), ..posix };
        assert_eq!(driver.request(Opcode::Getlk, node, &posix).map(drop), answer, "{scope:?}");
        for args in [posix, flock] {
            assert_eq!(driver.request(Opcode::Setlk, node, &args).map(drop), answer, "{scope:?}");
            assert_eq!(driver.request(Opcode::Setlkw, node, &args).map(drop), answer, "{scope:?}");
        }
        let file = fs::File::options().write(true).open(dir.path().join("a")).expect("file");
        assert_eq!(file.try_lock().is_ok(), answer.is_err(), "{scope:?}");
        guest.end();
    }
}
