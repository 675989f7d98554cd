//! Memory of the guest that comes, goes and is named anew while its queues are at work and polled.

mod support;

use fusewire::server::Poll;
use fusewire_vhost::{
    Options,
    kit::{Driver, Layout, Maps},
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::{
    fs,
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};
use support::{Guest, passthrough};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vm_memory::GuestMemoryBackend;

const ROOT: u64 = 1;
/// How long each way of changing memory goes on.
const WHILE: Duration = Duration::from_millis(700);
/// How long at most.
const LATE: Duration = Duration::from_secs(20);

/// Reads and looks up until it is told to end, and tells how many times it has.
fn work(driver: &mut Driver, enough: &AtomicBool, content: &[u8], done: &AtomicU32) {
    let file = driver.lookup(ROOT, c"file").expect("lookup").nodeid;
    let fh = driver.open(file, 0).expect("open");
    let mut count = 0;
    while !enough.load(Ordering::Relaxed) {
        let (offset, size) = (u64::from(count) * 4099 % 50_000, 1 + count * 577 % 16384);
        let wanted = &content[offset as usize..][..size as usize];
        assert_eq!(driver.read(file, fh, offset, size).as_deref(), Ok(wanted), "{count}");
        assert_eq!(driver.lookup(ROOT, c"file").expect("lookup").nodeid, file);
        count += 1;
        done.store(count, Ordering::Relaxed);
        if count % 64 == 0 {
            // Long enough for a thread that polls to give up, now and then.
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    driver.release(file, fh).expect("release");
}

#[test]
fn memory_changes_while_queues_poll() {
    let dir = tempfile::tempdir().expect("directory");
    let content: Vec<u8> = (0..100_000u32).map(|at| (at % 249) as u8).collect();
    fs::write(dir.path().join("file"), &content).expect("file");
    for event_idx in [true, false] {
        let poll = Poll::Fixed(Duration::from_micros(50));
        let options = Options { queues: 2, poll, ..Options::default() };
        let layout = Layout { queues: 2, data: 65536, event_idx, window: Maps::Nothing, ..Layout::default() };
        let mut guest = Guest::start(passthrough(dir.path()), options, layout);
        guest.monitor.driver().init().expect("init");
        let table = guest.monitor.memory.iter().next().expect("memory");
        let table = VhostUserMemoryRegionInfo::from_guest_region(table).expect("memory");
        // What is plugged in: behind the other, and nothing of it is mapped here.
        let more = memfd_create(c"more", MemfdFlags::CLOEXEC).expect("memory");
        ftruncate(&more, 1 << 20).expect("memory");
        let more = VhostUserMemoryRegionInfo {
            guest_phys_addr: 1 << 32,
            memory_size: 1 << 20,
            userspace_addr: 1 << 45,
            mmap_offset: 0,
            mmap_handle: more.as_raw_fd(),
        };
        let enough = AtomicBool::new(false);
        let monitor = &mut guest.monitor;
        let drivers = monitor.drivers.split_off(1);
        let counts: Vec<AtomicU32> = drivers.iter().map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            let (enough, content) = (&enough, &content[..]);
            for (mut driver, done) in drivers.into_iter().zip(&counts) {
                scope.spawn(move || work(&mut driver, enough, content, done));
            }
            let begin = Instant::now();
            let mut changes = 0;
            // Also on a machine that has much else to do, something has to happen.
            let is_little =
                |changes| changes <= 10 || counts.iter().any(|done| done.load(Ordering::Relaxed) <= 50);
            while begin.elapsed() < WHILE || is_little(changes) && begin.elapsed() < LATE {
                monitor.frontend.set_mem_table(&[table]).expect("the same again");
                monitor.frontend.set_mem_table(&[table, more]).expect("more");
                changes += 1;
            }
            assert!(changes > 10, "{changes} changes");
            monitor.frontend.set_mem_table(&[table]).expect("less");
            enough.store(true, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|done| done.load(Ordering::Relaxed) > 50), "{counts:?}");
        guest.end();
    }
}
