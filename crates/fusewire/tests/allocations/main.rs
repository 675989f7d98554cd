//! A request costs no allocation: neither decoding, dispatching and encoding it, nor a slot's bookkeeping.
//!
//! A test binary of its own, because the allocator counts for the whole process.

#[path = "../support/mod.rs"]
mod support;
mod sys;

use fusewire::{
    abi::Opcode,
    channel::{
        Answered, Slot,
        layer::{Layer, Trace},
    },
    proto::{
        Message,
        negotiate::Agreed,
        operations::{OPERATIONS, Operation},
    },
    reply::Sink,
    session::Session,
    *,
};
use std::hint::black_box;
use support::{
    local::{LocalSlot, at_once, session},
    quiet::Quiet,
    requests::sample,
};

#[global_allocator]
static ALLOCATOR: sys::Counting = sys::Counting;

/// Requests of each kind that are served.
const ROUNDS: u64 = 1000;

/// Reads the counter when the first request comes, and when there are no more.
struct Meter<S> {
    inner: S,
    first: Option<u64>,
    last: u64,
}

impl<S: Slot> Slot for Meter<S> {
    fn agreed(&self) -> Agreed {
        self.inner.agreed()
    }

    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])> {
        self.first.get_or_insert_with(sys::allocations);
        self.last = sys::allocations();
        self.inner.next().await
    }

    fn area(&mut self) -> &mut [u8] {
        self.inner.area()
    }

    async fn finish(&mut self, unique: u64, answer: Answered) {
        self.inner.finish(unique, answer).await;
    }
}

/// How often serving `ROUNDS` of these requests allocates, once the slot is there.
fn allocations<F: FileSystem>(session: &Session<F>, opcode: Opcode, layer: impl Layer) -> u64 {
    let row = Operation::of(opcode as u32).expect("a row");
    let requests = [sample(row).bytes()];
    let inner = layer.wrap(LocalSlot::new(session.agreed(), &requests, ROUNDS));
    let mut slot = Meter { inner, first: None, last: 0 };
    at_once(session.serve(&mut slot));
    slot.last - slot.first.expect("a request")
}

/// What every program does all day.
const HOT: &[Opcode] = &[
    Opcode::Lookup,
    Opcode::Forget,
    Opcode::BatchForget,
    Opcode::Getattr,
    Opcode::Setattr,
    Opcode::Readlink,
    Opcode::Symlink,
    Opcode::Mknod,
    Opcode::Mkdir,
    Opcode::Unlink,
    Opcode::Rmdir,
    Opcode::Rename,
    Opcode::Rename2,
    Opcode::Link,
    Opcode::Open,
    Opcode::Read,
    Opcode::Write,
    Opcode::Statfs,
    Opcode::Release,
    Opcode::Fsync,
    Opcode::Getxattr,
    Opcode::Listxattr,
    Opcode::Flush,
    Opcode::Opendir,
    Opcode::Readdir,
    Opcode::Readdirplus,
    Opcode::Releasedir,
    Opcode::Access,
    Opcode::Create,
    Opcode::Lseek,
    Opcode::Statx,
];

#[test]
fn requests_allocate_nothing() {
    let session = session(Quiet);
    for &opcode in HOT {
        assert_eq!(allocations(&session, opcode, ()), 0, "{opcode} allocates");
    }
    // Errors neither, as far as the filesystem has the operation at all.
    for row in OPERATIONS.iter().filter(|row| row.opcode != Opcode::Init) {
        assert_eq!(allocations(&session, row.opcode, ()), 0, "{} allocates", row.opcode);
    }
    let stats = session.stats();
    for &opcode in HOT {
        let counted = stats.operations.iter().find(|op| op.opcode == opcode).expect("it was served");
        assert!(counted.requests == 2 * ROUNDS && counted.errors == 0, "{counted:?}");
    }
}

#[test]
fn timing_requests_allocates_nothing() {
    let session = session(Quiet).timed();
    for &opcode in HOT {
        assert_eq!(allocations(&session, opcode, ()), 0, "{opcode} allocates");
    }
    assert!(session.stats().operations.iter().all(|op| op.latency.is_some()));
}

#[test]
fn tracing_that_nobody_listens_to_allocates_nothing() {
    let session = session(Quiet);
    assert_eq!(allocations(&session, Opcode::Lookup, Trace::new()), 0);
}

/// Allocates, on purpose, once per READ and while it looks a name up.
struct Wasteful;

impl FileSystem for Wasteful {
    async fn read(&self, _: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        out.put(&vec![7; black_box(op.size as usize)]);
        Ok(())
    }

    async fn lookup(&self, _: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        let mut name = black_box(op.name.as_bytes().to_vec());
        name.reserve_exact(black_box(1000));
        Err(Errno::NOENT)
    }
}

#[test]
fn the_counter_sees_what_allocates() {
    let session = session(Wasteful);
    assert_eq!(allocations(&session, Opcode::Read, ()), ROUNDS);
    assert_eq!(allocations(&session, Opcode::Lookup, ()), 2 * ROUNDS);
    assert_eq!(allocations(&session, Opcode::Getattr, ()), 0);
}
