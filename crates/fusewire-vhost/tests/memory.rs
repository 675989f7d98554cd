//! What requests leave in memory that wait beside each other.

mod support;

use fusewire::{Context, FileSystem, FileType, Result, op::Readdir, reply::DirSink};
use fusewire_abi::{self as abi, Opcode};
use fusewire_vhost::{Options, kit::Layout};
use std::{
    fs,
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};
use support::Guest;
use zerocopy::IntoBytes;

const ROOT: u64 = 1;
const SOON: Duration = Duration::from_secs(20);

/// Its listings wait for each other, and are as long as they may be.
#[derive(Clone, Default)]
struct Lister(Arc<(AtomicBool, Mutex<Vec<Waker>>)>);

impl Lister {
    fn go(&self) {
        let mut wakers = self.0.1.lock().expect("wakers");
        self.0.0.store(true, Ordering::Release);
        wakers.drain(..).for_each(Waker::wake);
    }
}

impl FileSystem for Lister {
    async fn readdir(&self, _cx: &Context, _op: Readdir, out: &mut DirSink<'_>) -> Result<()> {
        poll_fn(|task| {
            let mut wakers = self.0.1.lock().expect("wakers");
            if self.0.0.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            wakers.push(task.waker().clone());
            Poll::Pending
        })
        .await;
        let mut next = 1;
        while out.put(2, Some(FileType::Regular), &[b'a'; 255], next) {
            next += 1;
        }
        Ok(())
    }
}

/// Resident memory of the process, KiB.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("proc");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the line");
    line.split_whitespace().next().expect("a number").parse().expect("a number")
}

#[test]
fn an_answer_that_the_guest_has_no_room_for_does_not_stay() {
    const COUNT: u16 = 100;
    let lister = Lister::default();
    let fs = lister.clone();
    let layout = Layout { size: 1024, depth: COUNT, data: 4096, ..Layout::default() };
    let mut guest = Guest::start(move || Ok(fs.clone()), Options { queues: 1, ..Options::default() }, layout);
    let driver = guest.monitor.driver();
    driver.init().expect("init");
    for _ in 0..COUNT {
        let args = abi::ReadIn { size: 1 << 20, ..Default::default() };
        driver.send(Opcode::Readdir as u32, ROOT, &[args.as_bytes()], (0, 4096));
    }
    std::thread::sleep(Duration::from_millis(300));
    let before = resident();
    lister.go();
    for _ in 0..COUNT {
        let reply = driver.receive(SOON).expect("answer");
        assert_eq!(reply.result, Err(fusewire::types::Errno::IO));
    }
    let more = resident().saturating_sub(before);
    assert!(more < u64::from(COUNT) * 1024 / 4, "{more} KiB stay");
    guest.end();
}
