//! A guest that does the same wrong thing over and over does not fill the log.

mod support;

use fusewire_abi::{InHeader, Opcode};
use fusewire_vhost::{
    Options,
    kit::{
        Driver, Layout,
        ring::{Descriptor, NEXT, WRITE},
    },
};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use support::{Guest, passthrough};
use tracing::{Event, Level, Metadata, Subscriber, span};
use vm_memory::Bytes;
use zerocopy::IntoBytes;

static COMPLAINTS: AtomicUsize = AtomicUsize::new(0);

/// Counts what an operator is told by default.
struct Log;

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, _event: &Event<'_>) {
        COMPLAINTS.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

/// Send a request of so many bytes, with room for so many, and have it back.
fn send(driver: &mut Driver, header: InHeader, (len, room): (u32, u32)) {
    let at = driver.data(0);
    driver.ring.memory.write_slice(header.as_bytes(), at).expect("memory");
    driver.ring.describe(100, Descriptor::new(at.0, len, NEXT, 101));
    driver.ring.describe(101, Descriptor::new(at.0 + 4096, room, WRITE, 0));
    driver.ring.add(100);
    driver.ring.kick();
    driver.ring.wait(Duration::from_secs(10)).expect("it comes back");
}

#[test]
fn what_a_guest_does_wrong_is_told_once_a_second() {
    tracing::subscriber::set_global_default(Log).expect("the first");
    let dir = tempfile::tempdir().expect("directory");
    let mut guest = Guest::start(passthrough(dir.path()), Options::default(), Layout::default());
    let driver = guest.monitor.driver();
    driver.init().expect("init");
    const HEADER: u32 = size_of::<InHeader>() as u32;
    let header = |len, opcode: Opcode| InHeader {
        len,
        opcode: opcode as u32,
        unique: 7,
        nodeid: 1,
        ..Default::default()
    };
    let whole = HEADER + size_of::<fusewire_abi::GetattrIn>() as u32;
    for (what, header, sizes) in [
        ("no request", header(HEADER, Opcode::Getattr), (HEADER - 1, 4096)),
        ("one that lies about its length", header(u32::MAX, Opcode::Getattr), (HEADER, 4096)),
        ("one that is cut short", header(HEADER, Opcode::Getattr), (HEADER, 4096)),
        ("one with no room for its answer", header(whole, Opcode::Getattr), (whole, 16)),
    ] {
        let before = COMPLAINTS.load(Ordering::Relaxed);
        let begin = std::time::Instant::now();
        for _ in 0..2000 {
            send(driver, header, sizes);
        }
        let (told, most) =
            (COMPLAINTS.load(Ordering::Relaxed) - before, 2 + begin.elapsed().as_secs() as usize);
        assert!((1..=most).contains(&told), "{what}: {told} times");
    }
    guest.end();
}
