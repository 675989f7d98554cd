//! The device as a guest has it: driven through its queues by the kit.

mod support;

use fusewire::types::Errno;
use fusewire_abi::{self as abi, Opcode};
use fusewire_fs::passthrough::{self, Passthrough};
use fusewire_vhost::{
    Options,
    kit::{Layout, Monitor},
};
use std::{fs, time::Duration};
use support::{Guest, passthrough};
use zerocopy::{FromBytes, IntoBytes};

const ROOT: u64 = 1;

/// Every shape of a queue.
fn layouts() -> impl Iterator<Item = Layout> {
    let shapes = [(true, true), (true, false), (false, true), (false, false)];
    let sizes = [16, 128, 1024];
    shapes.into_iter().zip(sizes.into_iter().cycle()).map(|((event_idx, indirect), size)| Layout {
        event_idx,
        indirect,
        // Half of them keep what is under way.
        inflight: event_idx == indirect,
        size,
        ..Layout::default()
    })
}

#[test]
fn files_are_made_written_read_and_removed_with_every_shape_of_queue() {
    for layout in layouts() {
        let dir = tempfile::tempdir().expect("directory");
        let mut guest = Guest::start(passthrough(dir.path()), Options::default(), layout);
        let driver = guest.monitor.driver();
        let init = driver.init().expect("init");
        assert_eq!(init.max_write, 1 << 20);
        let (node, fh) = driver.create(ROOT, c"a").expect("create");
        let content: Vec<u8> = (0..1 << 20).map(|i: u32| ((i * 7) >> 3) as u8).collect();
        assert_eq!(driver.write(node, fh, 0, &content), Ok(1 << 20));
        assert_eq!(driver.write(node, fh, 1 << 20, b"tail"), Ok(4));
        assert!(fs::read(dir.path().join("a")).expect("file")[..1 << 20] == content[..]);
        assert!(driver.read(node, fh, 0, 1 << 20).expect("read") == content);
        assert_eq!(
            driver.read(node, fh, (1 << 20) - 2, 100).expect("read"),
            [&content[(1 << 20) - 2..], b"tail"].concat()
        );
        assert_eq!(driver.read(node, fh, 1 << 40, 100), Ok(Vec::new()));
        assert_eq!(driver.getattr(node).map(|attr| attr.size), Ok((1 << 20) + 4));
        driver.release(node, fh).expect("release");
        assert_eq!(driver.lookup(ROOT, c"a").map(|entry| entry.nodeid), Ok(node));
        driver.unlink(ROOT, c"a").expect("unlink");
        assert_eq!(driver.lookup(ROOT, c"a").err(), Some(Errno::NOENT));
        guest.monitor.hiprio().forget(node, 2).expect("forget");
        guest.monitor.driver().destroy().expect("destroy");
    }
}

#[test]
fn directories_are_listed() {
    let dir = tempfile::tempdir().expect("directory");
    for i in 0..300 {
        fs::write(dir.path().join(format!("file-{i}")), "").expect("file");
    }
    let mut guest = Guest::start(passthrough(dir.path()), Options::default(), Layout::default());
    let driver = guest.monitor.driver();
    driver.init().expect("init");
    let bytes = driver.call(Opcode::Opendir, ROOT, &[abi::OpenIn::default().as_bytes()]).expect("opendir");
    let fh = abi::OpenOut::read_from_bytes(&bytes).expect("handle").fh;
    assert_eq!(driver.readdir(ROOT, fh).expect("readdir").len(), 302);
}

#[test]
fn the_guest_remounts_and_each_mount_has_a_session_of_its_own() {
    let dir = tempfile::tempdir().expect("directory");
    let mut guest = Guest::start(passthrough(dir.path()), Options::default(), Layout::default());
    let driver = guest.monitor.driver();
    assert_eq!(driver.getattr(ROOT).err(), Some(Errno::IO), "before INIT there is nothing");
    for _ in 0..3 {
        driver.init().expect("init");
        let (node, fh) = driver.create(ROOT, c"a").expect("create");
        assert_eq!(driver.write(node, fh, 0, b"x"), Ok(1));
        driver.unlink(ROOT, c"a").expect("unlink");
        driver.destroy().expect("destroy");
        assert_eq!(driver.getattr(ROOT).err(), Some(Errno::IO));
    }
    // A guest that was reset does not say goodbye.
    driver.init().expect("init");
    let (node, _) = driver.create(ROOT, c"b").expect("create");
    driver.init().expect("init");
    assert!(driver.getattr(node).is_err() || node == ROOT);
    assert!(driver.getattr(ROOT).is_ok());
}

#[test]
fn every_queue_serves() {
    let dir = tempfile::tempdir().expect("directory");
    let options = Options { queues: 3, ..Options::default() };
    let mut guest = Guest::start(passthrough(dir.path()), options, Layout { queues: 3, ..Layout::default() });
    guest.monitor.driver().init().expect("init");
    let drivers = &mut guest.monitor.drivers[1..];
    std::thread::scope(|scope| {
        for (i, driver) in drivers.iter_mut().enumerate() {
            scope.spawn(move || {
                for j in 0..50 {
                    let name = std::ffi::CString::new(format!("{i}-{j}")).expect("name");
                    let (node, fh) = driver.create(ROOT, &name).expect("create");
                    assert_eq!(driver.write(node, fh, 0, name.as_bytes()), Ok(name.as_bytes().len() as u32));
                    assert_eq!(driver.read(node, fh, 0, 100).as_deref(), Ok(name.as_bytes()));
                    driver.release(node, fh).expect("release");
                }
            });
        }
    });
    assert_eq!(fs::read_dir(dir.path()).expect("directory").count(), 150);
}

#[test]
fn many_requests_are_under_way_at_once() {
    let dir = tempfile::tempdir().expect("directory");
    fs::write(dir.path().join("a"), vec![b'a'; 1 << 16]).expect("file");
    let layout = Layout { size: 256, depth: 64, data: 4096, ..Layout::default() };
    let mut guest = Guest::start(passthrough(dir.path()), Options::default(), layout);
    let driver = guest.monitor.driver();
    driver.init().expect("init");
    let node = driver.lookup(ROOT, c"a").expect("lookup").nodeid;
    let fh = driver.open(node, 0).expect("open");
    let mut received = 0;
    for _ in 0..20 {
        while driver.has_room() {
            driver.send_read(node, fh, 4096, 4096);
        }
        while received < 64 {
            let reply = driver.receive(Duration::from_secs(10)).expect("answer");
            assert_eq!(driver.data_of(reply).expect("data"), [b'a'; 4096]);
            received += 1;
        }
        received = 0;
    }
}

#[test]
fn a_monitor_may_be_content_with_fewer_queues() {
    let dir = tempfile::tempdir().expect("directory");
    for (has, wants) in [(2, 8), (8, 2)] {
        let layout = Layout { queues: wants, fewer: true, ..Layout::default() };
        let options = Options { queues: has, ..Options::default() };
        let mut guest = Guest::start(passthrough(dir.path()), options, layout);
        assert_eq!(guest.monitor.drivers.len(), 3);
        guest.monitor.driver().init().expect("init");
        assert!(guest.monitor.drivers.iter_mut().skip(1).all(|driver| driver.getattr(ROOT).is_ok()));
    }
}

#[test]
fn requests_of_a_load_are_answered_in_pieces() {
    let dir = tempfile::tempdir().expect("directory");
    fs::write(dir.path().join("a"), b"0123456789").expect("file");
    let mut guest = Guest::start(passthrough(dir.path()), Options::default(), Layout::default());
    let patience = Duration::from_secs(10);
    let driver = guest.monitor.driver();
    driver.init().expect("init");
    driver.send_lookup(ROOT, c"a");
    let reply = driver.receive(patience).expect("answer");
    let node = driver.found(reply).expect("node");
    assert_eq!(
        driver.made(reply).err(),
        Some(Errno::PROTO),
        "an answer to a LOOKUP is too short for a CREATE"
    );
    driver.send_lookup(ROOT, c"b");
    let reply = driver.receive(patience).expect("answer");
    assert_eq!(driver.found(reply).err(), Some(Errno::NOENT));
    driver.send_getattr(node);
    let reply = driver.receive(patience).expect("answer");
    assert_eq!(driver.size(reply), Ok(10));
    driver.send_create(ROOT, c"b");
    let reply = driver.receive(patience).expect("answer");
    let (made, fh) = driver.made(reply).expect("file");
    driver.send_release(made, fh);
    assert_eq!(driver.receive(patience).expect("answer").result, Ok(0));
    let fh = driver.open(node, 0).expect("open");
    driver.send_read(node, fh, 0, 4096);
    let reply = driver.receive(patience).expect("answer");
    assert_eq!(driver.sample(reply), Ok((u64::from_ne_bytes(*b"01234567"), 10)));
    // All are given back at once, and none is there any more.
    guest.monitor.hiprio().send_forgets(&[(node, 1), (made, 1)]);
    assert_eq!(guest.monitor.hiprio().receive(patience).expect("it comes back").result, Ok(0));
    assert!(guest.monitor.driver().getattr(made).is_err());
}

#[test]
fn a_bell_rings_for_what_comes_next() {
    let dir = tempfile::tempdir().expect("directory");
    let mut guest = Guest::start(passthrough(dir.path()), Options::default(), Layout::default());
    let driver = guest.monitor.driver();
    driver.init().expect("init");
    let bell = driver.ring.bell().expect("bell");
    for _ in 0..100 {
        driver.send_getattr(ROOT);
        let begin = std::time::Instant::now();
        while driver.ring.arm() {
            bell.wait(Duration::from_secs(10));
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "it was not rung");
        assert!(driver.poll().expect("an answer").result.is_ok());
    }
}

#[test]
fn the_configuration_names_tag_and_queues() {
    let options = Options { queues: 5, tag: Some("share".into()), ..Options::default() };
    let dir = tempfile::tempdir().expect("directory");
    let mut guest = Guest::start(passthrough(dir.path()), options, Layout { queues: 5, ..Layout::default() });
    let config = guest.monitor.config(40).expect("configuration");
    assert_eq!(&config[..6], b"share\0");
    assert_eq!(config[36..40], 5u32.to_le_bytes());
    for (tag, queues) in [("", 1), ("a tag that is longer than thirty-six bytes", 1), ("a", 0), ("a", 63)] {
        let options = Options { queues, tag: Some(tag.into()), ..Options::default() };
        assert!(fusewire_vhost::Device::new(passthrough(dir.path()), options).is_err(), "{tag} {queues}");
    }
}

#[test]
fn a_queue_goes_on_while_a_request_waits_for_a_lock() {
    let dir = tempfile::tempdir().expect("directory");
    fs::write(dir.path().join("a"), "").expect("file");
    let mut guest = Guest::start(passthrough(dir.path()), Options::default(), Layout::default());
    let driver = guest.monitor.driver();
    driver.init().expect("init");
    let node = driver.lookup(ROOT, c"a").expect("lookup").nodeid;
    let (one, other) = (driver.open(node, 2).expect("open"), driver.open(node, 2).expect("open"));
    let lock = |fh, owner, typ| abi::LkIn {
        fh,
        owner,
        lk: abi::FileLock { start: 0, end: i64::MAX as u64, typ, pid: 1 },
        ..Default::default()
    };
    driver.request(Opcode::Setlk, node, &lock(one, 1, 1)).expect("lock");
    let waits = driver.send(Opcode::Setlkw as u32, node, &[lock(other, 2, 1).as_bytes()], (0, 0));
    for _ in 0..100 {
        assert!(driver.getattr(node).is_ok());
    }
    driver.request(Opcode::Setlk, node, &lock(one, 1, 2)).expect("unlock");
    let reply = driver.receive(Duration::from_secs(10)).expect("the lock");
    assert_eq!((reply.frame, reply.result), (waits, Ok(0)));
    // One that still waits when the guest stops the queue holds nothing up.
    driver.send(Opcode::Setlkw as u32, node, &[lock(one, 1, 1).as_bytes()], (0, 0));
    std::thread::sleep(Duration::from_millis(50));
    let begin = std::time::Instant::now();
    guest.monitor.restart(1).expect("restart");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert!(guest.monitor.driver().getattr(node).is_ok());
}

#[test]
fn a_queue_goes_on_while_a_thread_is_stuck_in_a_system_call() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("pipe");
    // A filesystem whose reads hang, as on a dead disk: its own file is a pipe that nobody writes to.
    let (fs, hung) = support::Hanging::over(&path);
    let make = move || Ok(fs.clone());
    let mut guest = Guest::start(make, Options { queues: 1, ..Options::default() }, Layout::default());
    let driver = guest.monitor.driver();
    driver.init().expect("init");
    for _ in 0..3 {
        driver.send_read(ROOT, 0, 0, 4);
    }
    for _ in 0..50 {
        assert!(driver.getattr(ROOT).is_ok());
    }
    hung.release(3);
    for _ in 0..3 {
        let reply = driver.receive(Duration::from_secs(10)).expect("answer");
        assert_eq!(driver.data_of(reply).as_deref(), Ok(&b"late"[..]));
    }
    assert!(driver.getattr(ROOT).is_ok());
}

#[test]
fn a_monitor_that_goes_takes_its_session_with_it() {
    let dir = tempfile::tempdir().expect("directory");
    let mut guest = Guest::start(passthrough(dir.path()), Options::default(), Layout::default());
    guest.monitor.driver().init().expect("init");
    guest.monitor.driver().create(ROOT, c"a").expect("create");
    drop(guest);
    let options = passthrough::Options::default();
    assert!(Passthrough::new(dir.path(), options).is_ok());
}

/// A monitor without a tag sees no configuration.
#[test]
fn without_a_tag_there_is_no_configuration() {
    let dir = tempfile::tempdir().expect("directory");
    let options = Options { tag: None, ..Options::default() };
    let mut guest = Guest::start_as(passthrough(dir.path()), options, Layout::default());
    let monitor: &mut Monitor = &mut guest.monitor;
    assert!(monitor.config(40).is_err());
    monitor.driver().init().expect("init");
}
