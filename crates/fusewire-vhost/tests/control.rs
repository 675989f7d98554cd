//! A monitor that says odd things: it gets an error or loses its connection, and other devices of the process go on.

#[path = "../../../fuzz/vhost/mod.rs"]
mod fuzz;

use fusewire_vhost::{
    Options,
    kit::{Layout, Monitor},
};
use fuzz::{
    Guest, ROOT, device,
    tree::{Neighbour, Tree},
};
use std::{
    io::{IoSlice, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{
        Frontend, VhostUserFrontend,
        message::{VhostUserHeaderFlag, VhostUserProtocolFeatures},
    },
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const MEMORY: u64 = 1 << 20;
const HERE: u64 = 1 << 40;

type Ended = Result<(), fusewire_vhost::Error>;

/// A device with a monitor that has agreed on features, and has every answer told.
fn agreed(tree: &Tree) -> (JoinHandle<Ended>, Frontend) {
    let (server, stream) = device(&tree.share(), Options { queues: 1, ..Options::default() });
    let mut frontend = Frontend::from_stream(stream, 2);
    frontend.set_owner().expect("owner");
    let features = frontend.get_features().expect("features");
    frontend.set_features(features).expect("features");
    let protocol = frontend.get_protocol_features().expect("features");
    frontend.set_protocol_features(protocol & VhostUserProtocolFeatures::all()).expect("features");
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    (server, frontend)
}

fn memory(len: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create(c"fusewire-test", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
    rustix::fs::ftruncate(&fd, len).expect("memory");
    fd
}

#[test]
fn memory_that_can_be_sealed_cannot_be_made_shorter_under_the_device() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    let sealable = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create(c"fusewire-test", flags).expect("memory");
        ftruncate(&fd, MEMORY).expect("memory");
        fd
    };
    let tree = Tree::new();
    let (server, mut frontend) = agreed(&tree);
    let (one, other, sealed) = (sealable(), sealable(), sealable());
    fcntl_add_seals(&sealed, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).expect("seals");
    let all = [(&one, 0), (&other, 1), (&sealed, 2), (&memory(MEMORY), 3)]
        .map(|(fd, at)| region(fd, (at * MEMORY, MEMORY, HERE + at * MEMORY, 0)));
    frontend.set_mem_table(&all[..1]).expect("memory");
    for region in &all[1..] {
        frontend.add_mem_region(region).expect("memory");
    }
    for fd in [&one, &other] {
        assert_eq!(ftruncate(fd, 0), Err(rustix::io::Errno::PERM));
        ftruncate(fd, 2 * MEMORY).expect("longer it may be");
    }
    // One that is too short already.
    let short = sealable();
    let behind = region(&short, (8 * MEMORY, 2 * MEMORY, HERE + 8 * MEMORY, 0));
    assert!(frontend.add_mem_region(&behind).is_err());
    drop(frontend);
    ends(server);
}

fn region(fd: &OwnedFd, (guest, len, here, offset): (u64, u64, u64, u64)) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: guest,
        memory_size: len,
        userspace_addr: here,
        mmap_offset: offset,
        mmap_handle: fd.as_raw_fd(),
    }
}

/// The connection ends, whatever was said, and the device with it.
fn ends(server: JoinHandle<Ended>) {
    let start = Instant::now();
    while !server.is_finished() {
        assert!(start.elapsed() < Duration::from_secs(20), "the device does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    _ = server.join().expect("no panic");
}

/// Whatever `say` says is refused; a second guest of the process does not notice.
fn refused(what: &str, say: impl FnOnce(&mut Frontend, &OwnedFd) -> bool) {
    let tree = Tree::new();
    let mut neighbour = Neighbour::new(&tree);
    let (server, mut frontend) = agreed(&tree);
    let fd = memory(MEMORY);
    assert!(say(&mut frontend, &fd), "{what}: was accepted");
    drop(frontend);
    ends(server);
    neighbour.check();
}

#[test]
fn memory_that_is_not_there_is_refused() {
    for (what, at) in [
        ("longer than its file", (0, 2 * MEMORY, HERE, 0)),
        ("behind the end of its file", (0, MEMORY, HERE, MEMORY)),
        ("of no length", (0, 0, HERE, 0)),
        ("at the end of all addresses", (u64::MAX - 4095, 2 * 4096, HERE, 0)),
        ("with a place that overflows", (0, MEMORY, HERE, u64::MAX - 4095)),
        ("of half a page in the file", (0, 4096, HERE, 17)),
    ] {
        refused(what, |frontend, fd| frontend.set_mem_table(&[region(fd, at)]).is_err());
    }
    refused("two at the same address", |frontend, fd| {
        let one = (0, MEMORY, HERE, 0);
        let other = (4096, MEMORY, HERE + MEMORY, 0);
        frontend.set_mem_table(&[region(fd, one), region(fd, other)]).is_err()
    });
}

fn ring(queue: u64) -> VringConfigData {
    VringConfigData {
        queue_max_size: 128,
        queue_size: 128,
        flags: 0,
        desc_table_addr: queue,
        avail_ring_addr: queue + 16 * 128,
        used_ring_addr: queue + 4096,
        log_addr: None,
    }
}

#[test]
fn rings_that_are_nowhere_and_of_no_size_are_refused() {
    refused("a ring before there is memory", |frontend, _| frontend.set_vring_addr(0, &ring(HERE)).is_err());
    for (what, address) in [("nowhere", 0), ("behind the memory", HERE + MEMORY), ("crooked", HERE + 1)] {
        refused(what, |frontend, fd| {
            frontend.set_mem_table(&[region(fd, (0, MEMORY, HERE, 0))]).expect("memory");
            frontend.set_vring_addr(0, &ring(address)).is_err()
        });
    }
    for size in [0, 3, 100, 1023, 1025, u16::MAX] {
        refused("a size", |frontend, _| frontend.set_vring_num(0, size).is_err());
    }
    refused("a queue that is not there", |frontend, _| frontend.get_vring_base(2).is_err());
}

#[test]
fn queues_that_are_kicked_before_they_are_ready_wait_or_do_nothing() {
    let tree = Tree::new();
    let mut neighbour = Neighbour::new(&tree);
    let (server, mut frontend) = agreed(&tree);
    let kick = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    kick.write(1).expect("kick");
    // A queue with no memory, no rings and no enabling; then with each of them.
    frontend.set_vring_kick(0, &kick).expect("a kick");
    kick.write(1).expect("kick");
    frontend.set_vring_enable(0, true).expect("enabled");
    kick.write(1).expect("kick");
    let fd = memory(MEMORY);
    frontend.set_mem_table(&[region(&fd, (0, MEMORY, HERE, 0))]).expect("memory");
    kick.write(1).expect("kick");
    frontend.set_vring_num(0, 128).expect("a size");
    frontend.set_vring_addr(0, &ring(HERE)).expect("a ring");
    kick.write(1).expect("kick");
    // Its memory goes while it is served.
    frontend.set_mem_table(&[region(&fd, (1 << 30, MEMORY, HERE, 0))]).expect("memory");
    kick.write(1).expect("kick");
    std::thread::sleep(Duration::from_millis(50));
    assert!(frontend.get_vring_base(0).is_ok(), "the device answers still");
    drop(frontend);
    ends(server);
    neighbour.check();
}

#[test]
fn a_queue_that_is_taken_away_in_the_middle_can_be_had_again() {
    let tree = Tree::new();
    let layout = Layout { queues: 2, ..Layout::default() };
    let mut guest = Guest::start(&tree.share(), layout);
    guest.monitor.driver().init().expect("a session");
    for round in 0..50 {
        // Requests are under way when it goes.
        let driver = guest.monitor.driver();
        let args = [0u8; 16];
        for _ in 0..4 {
            driver.send(fusewire::abi::Opcode::Getattr as u32, ROOT, &[&args], (0, 0));
        }
        if round % 2 == 0 {
            guest.monitor.frontend.set_vring_enable(1, false).expect("disabled");
        }
        guest.monitor.restart(1).expect("the queue starts anew");
        guest.monitor.driver().getattr(ROOT).expect("attributes");
    }
}

#[test]
fn a_monitor_that_hangs_up_in_the_middle_of_a_message_ends_its_device_alone() {
    let tree = Tree::new();
    let mut neighbour = Neighbour::new(&tree);
    for len in [0, 1, 11, 12, 13, 19] {
        let (server, mut stream): (_, UnixStream) =
            device(&tree.share(), Options { queues: 1, ..Options::default() });
        // SET_FEATURES, or as much of it.
        let message = [2u32, 1, 8, 0, 0].map(u32::to_ne_bytes).concat();
        stream.write_all(&message[..len]).expect("a part");
        drop(stream);
        ends(server);
        neighbour.check();
    }
}

/// SET_VRING_KICK or SET_VRING_CALL with any descriptor, where the crate takes eventfds alone. Is it taken?
fn set_vring(stream: &UnixStream, request: u32, (queue, fd): (u64, &impl AsFd)) -> bool {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    const VERSION_AND_NEED_REPLY: u32 = 1 | 8;
    let header = [request, VERSION_AND_NEED_REPLY, 8].map(u32::to_ne_bytes).concat();
    let message = [&header[..], &queue.to_ne_bytes()].concat();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(stream, &[IoSlice::new(&message)], &mut control, SendFlags::empty()).expect("the message");
    let mut answer = [0; 20];
    // Of one that is refused, the connection may be closed.
    (&*stream).read_exact(&mut answer).is_ok() && answer[12..] == [0; 8]
}

const KICK: u32 = 12;
const CALL: u32 = 13;

#[test]
fn descriptors_that_keep_whoever_uses_them_keep_nobody() {
    let tree = Tree::new();
    let (server, stream) = device(&tree.share(), Options { queues: 1, ..Options::default() });
    let mut monitor =
        Monitor::start(stream.try_clone().expect("a stream"), Layout::default()).expect("a monitor");
    monitor.driver().init().expect("a session");
    // An eventfd that cannot be written to any more.
    let call = EventFd::new(0).expect("an eventfd");
    call.write(u64::MAX - 1).expect("full");
    monitor.frontend.set_vring_call(1, &call).expect("a call");
    monitor.driver().getattr(ROOT).expect("the answer is found in the ring");
    // A pipe with half of what is to be read.
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(&[0; 4]).expect("half");
    assert!(set_vring(&stream, KICK, (0, &reader)));
    std::thread::sleep(Duration::from_millis(100));
    let (stopped, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        monitor.restart(0).expect("the queue starts anew");
        monitor.restart(1).expect("the queue starts anew");
        _ = stopped.send(monitor);
    });
    let mut monitor = ended.recv_timeout(Duration::from_secs(20)).expect("the queues can be stopped");
    monitor.driver().getattr(ROOT).expect("attributes");
    drop((monitor, stream));
    ends(server);
}

#[test]
fn kicks_and_calls_are_eventfds_pipes_or_sockets() {
    let tree = Tree::new();
    let file = |name| OwnedFd::from(std::fs::File::open(name).expect("a file"));
    let socket = UnixStream::pair().expect("sockets").0.into();
    for (is_taken, fd) in [(false, file("/dev/zero")), (false, file("/proc/self/stat")), (true, socket)] {
        for request in [KICK, CALL] {
            let (server, stream) = device(&tree.share(), Options { queues: 1, ..Options::default() });
            let mut monitor =
                Monitor::start(stream.try_clone().expect("a stream"), Layout::default()).expect("a monitor");
            monitor.driver().init().expect("a session");
            assert_eq!(set_vring(&stream, request, (0, &fd)), is_taken, "{request} {fd:?}");
            drop((monitor, stream));
            ends(server);
        }
    }
}

/// Seconds of a processor that this process has used.
fn processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn a_ring_that_is_there_in_part_keeps_no_processor() {
    // Flags and index of the avail ring are the last of the memory: from the beginning, or once the memory was made shorter.
    for (before, after) in [(MEMORY / 2, None), (MEMORY, Some(MEMORY / 2))] {
        let tree = Tree::new();
        let (server, mut frontend) = agreed(&tree);
        let fd = memory(MEMORY);
        frontend.set_mem_table(&[region(&fd, (0, before, HERE, 0))]).expect("memory");
        frontend.set_vring_num(1, 128).expect("a size");
        let avail = MEMORY / 2 - 4;
        frontend
            .set_vring_addr(1, &VringConfigData { avail_ring_addr: HERE + avail, ..ring(HERE) })
            .expect("a ring");
        let (kick, call) =
            (EventFd::new(EFD_NONBLOCK).expect("eventfd"), EventFd::new(EFD_NONBLOCK).expect("eventfd"));
        frontend.set_vring_base(1, 0).expect("a base");
        frontend.set_vring_call(1, &call).expect("a call");
        frontend.set_vring_kick(1, &kick).expect("a kick");
        frontend.set_vring_enable(1, true).expect("enabled");
        if let Some(after) = after {
            frontend.set_mem_table(&[region(&fd, (0, after, HERE, 0))]).expect("memory");
        }
        rustix::io::pwrite(&fd, &7u16.to_ne_bytes(), avail + 2).expect("an index");
        let begin = processor();
        kick.write(1).expect("kick");
        std::thread::sleep(Duration::from_secs(2));
        let used = processor() - begin;
        assert!(used < Duration::from_millis(150), "{used:?}");
        assert!(frontend.get_vring_base(1).is_ok(), "the device answers still");
        drop(frontend);
        ends(server);
    }
}
