//! What a session counts: every request once, what opens allowed the kernel, and how long requests took if asked for.

#[path = "support/mod.rs"]
mod support;

use fusewire::{
    abi::{FopenFlags, Opcode},
    proto::operations::Operation,
    reply::Sink,
    session::{OperationStats, Session, Stats},
    *,
};
use std::{thread::sleep, time::Duration};
use support::{
    local::{LocalSlot, at_once, session},
    requests::sample,
};

const NAP: Duration = Duration::from_millis(20);

/// Says how files are to be treated.
struct Generous;

impl FileSystem for Generous {
    async fn lookup(&self, _: &Context, _: op::Lookup<'_>) -> Result<Entry> {
        Ok(Entry::absent(Duration::from_secs(1)))
    }

    async fn getattr(&self, _: &Context, _: op::Getattr) -> Result<Attr> {
        sleep(NAP);
        Ok(Attr::file(0))
    }

    async fn open(&self, _: &Context, _: op::Open) -> Result<Opened> {
        let flags = FopenFlags::PASSTHROUGH | FopenFlags::NOFLUSH | FopenFlags::PARALLEL_DIRECT_WRITES;
        Ok(Opened { flags, backing_id: 1, ..Opened::new(Handle(1)) })
    }

    async fn create(&self, _: &Context, _: op::Create<'_>) -> Result<(Entry, Opened)> {
        let opened = Opened { flags: FopenFlags::KEEP_CACHE, ..Opened::new(Handle(1)) };
        Ok((Entry::new(NodeId::new(2), Attr::file(0)), opened))
    }

    async fn opendir(&self, _: &Context, _: op::Opendir) -> Result<Opened> {
        Err(Errno::NOSYS)
    }

    async fn read(&self, _: &Context, _: op::Read, out: &mut Sink<'_>) -> Result<()> {
        out.put(b"seven b");
        Ok(())
    }

    async fn write(&self, _: &Context, _: op::Write<'_>) -> Result<u32> {
        Ok(5)
    }

    async fn access(&self, _: &Context, _: op::Access) -> Result<()> {
        Err(Errno::ACCESS)
    }
}

fn serve(session: &Session<Generous>, opcode: Opcode, rounds: u64) {
    let requests = [sample(Operation::of(opcode as u32).expect("a row")).bytes()];
    at_once(session.serve(&mut LocalSlot::new(session.agreed(), &requests, rounds)));
}

fn of(stats: &Stats, opcode: Opcode) -> OperationStats {
    stats.operations.iter().find(|op| op.opcode == opcode).expect("it was served").clone()
}

#[test]
fn requests_bytes_and_opens_are_counted_over_all_slots() {
    let session = session(Generous);
    for (opcode, rounds) in [
        (Opcode::Lookup, 3),
        (Opcode::Open, 4),
        (Opcode::Create, 2),
        (Opcode::Read, 3),
        (Opcode::Read, 2),
        (Opcode::Write, 2),
        (Opcode::Access, 6),
        (Opcode::Interrupt, 1),
    ] {
        serve(&session, opcode, rounds);
    }
    let stats = session.stats();
    assert_eq!((stats.requests(), stats.errors(), stats.slots, stats.in_flight), (23, 6, 8, 0));
    assert_eq!((of(&stats, Opcode::Read).requests, of(&stats, Opcode::Interrupt).requests), (5, 1));
    assert_eq!((stats.read_bytes, stats.written_bytes, stats.negative_entries), (35, 10, 3));
    let opens = stats.opens;
    assert_eq!((opens.all, opens.forwarded, opens.no_flush), (6, 4, 4));
    assert_eq!((opens.keep_cache, opens.cache_dir, opens.direct), (2, 0, 0));
    assert!(!stats.timed && stats.operations.iter().all(|op| op.latency.is_none()));
}

#[test]
fn what_the_kernel_never_asks_for_again_is_told() {
    let session = session(Generous);
    for opcode in [Opcode::Opendir, Opcode::Access, Opcode::Symlink] {
        serve(&session, opcode, 1);
    }
    let stats = session.stats();
    let never = |opcode| of(&stats, opcode).never_again;
    assert!(never(Opcode::Opendir).is_some_and(|instead| instead.contains("itself")));
    assert_eq!(never(Opcode::Access), None, "another error");
    assert_eq!(never(Opcode::Symlink), None, "ENOSYS is passed on");
}

#[test]
fn what_is_not_the_protocol_is_counted_apart() {
    let session = session(Generous);
    let mut wrong = sample(Operation::of(Opcode::Lookup as u32).expect("a row"));
    wrong.payload = b"a/b\0".to_vec();
    at_once(session.serve(&mut LocalSlot::new(session.agreed(), &[wrong.bytes()], 3)));
    let stats = session.stats();
    assert_eq!((stats.refused, stats.requests()), (3, 0));
}

#[test]
fn times_are_kept_if_asked_for() {
    let session = session(Generous).timed();
    serve(&session, Opcode::Getattr, 3);
    serve(&session, Opcode::Open, 100);
    let stats = session.stats();
    let slow = of(&stats, Opcode::Getattr).latency.expect("timed");
    assert_eq!(slow.count(), 3);
    assert!(slow.sum() >= 3 * NAP && slow.max() >= NAP && slow.quantile(0.5) >= NAP, "{slow:?}");
    let fast = of(&stats, Opcode::Open).latency.expect("timed");
    assert!(stats.timed && fast.count() == 100 && fast.quantile(0.5) < NAP / 10, "{fast:?}");
}
