//! A session that is over while requests are on their way to it, and work that nobody waits for any more.

use fusewire::{
    abi::{self, InHeader, InitFlags, Opcode},
    channel::{Answered, Slot},
    proto::{
        message::Message,
        negotiate::{Agreed, Bounds},
    },
    session::Session,
    *,
};
use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context as Task, Poll, Waker},
    time::Duration,
};
use zerocopy::IntoBytes;

/// Its requests wait: LOOKUP until it is interrupted, GETATTR in a system call.
struct Waiting {
    /// What the system call has ended with.
    ended: Mutex<mpsc::Sender<Errno>>,
    /// How often it was told that the session is over.
    destroyed: AtomicUsize,
}

impl FileSystem for Waiting {
    fn destroyed(&self) {
        self.destroyed.fetch_add(1, Ordering::Relaxed);
    }

    async fn lookup(&self, cx: &Context, _op: op::Lookup<'_>) -> Result<Entry> {
        cx.cancelled().await;
        Err(Errno::INTR)
    }

    async fn getattr(&self, cx: &Context, _op: op::Getattr) -> Result<Attr> {
        let ended = self.ended.lock().unwrap().clone();
        cx.blocking(move || {
            let waited = rustix::event::poll(&mut [], None);
            _ = ended.send(waited.err().unwrap_or(Errno::TIME));
        })
        .await;
        Err(Errno::INTR)
    }
}

fn session() -> (Session<Waiting>, mpsc::Receiver<Errno>) {
    let (sender, ended) = mpsc::channel();
    let flags = InitFlags::all().bits();
    let args = abi::InitIn {
        major: abi::KERNEL_VERSION,
        minor: abi::KERNEL_MINOR_VERSION,
        flags: flags as u32,
        flags2: (flags >> 32) as u32,
        ..Default::default()
    };
    let len = (size_of::<InHeader>() + size_of::<abi::InitIn>()) as u32;
    let header = InHeader { len, opcode: Opcode::Init as u32, unique: 1, ..InHeader::default() };
    let bytes = [header.as_bytes(), args.as_bytes()].concat();
    let message = Message::split(&bytes, InitFlags::empty()).expect("a message");
    let fs = Waiting { ended: Mutex::new(sender), destroyed: AtomicUsize::new(0) };
    let (_, session) = Session::begin(fs, &message, Bounds::default()).expect("a beginning");
    (session.unwrap_or_else(|_| panic!("a session")), ended)
}

/// Requests that are to come, and answers that have been given.
#[derive(Clone, Default)]
struct Wire {
    requests: Rc<RefCell<Vec<Opcode>>>,
    answers: Rc<RefCell<Vec<Option<Result<usize>>>>>,
}

struct OneByOne {
    wire: Wire,
    agreed: Agreed,
    area: Vec<u8>,
}

impl OneByOne {
    fn new(wire: &Wire, agreed: Agreed) -> Self {
        Self { wire: wire.clone(), agreed, area: vec![0; agreed.reply_area()] }
    }
}

impl Slot for OneByOne {
    fn agreed(&self) -> Agreed {
        self.agreed
    }

    fn area(&mut self) -> &mut [u8] {
        &mut self.area
    }

    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])> {
        let opcode = poll_fn(|_| match self.wire.requests.borrow_mut().pop() {
            Some(opcode) => Poll::Ready(opcode),
            None => Poll::Pending,
        })
        .await;
        let header = InHeader { opcode: opcode as u32, unique: 7, nodeid: 1, ..InHeader::default() };
        let (args, name): (&[u8], &[u8]) = match opcode {
            Opcode::Lookup => (&[], b"a\0"),
            _ => (&[0; size_of::<abi::GetattrIn>()], &[]),
        };
        Some((Message::new(header, args, name), &mut self.area))
    }

    async fn finish(&mut self, _unique: u64, answer: Answered) {
        self.wire.answers.borrow_mut().push(answer.get());
    }
}

#[test]
fn what_begins_after_the_end_is_interrupted_too() {
    for slot_is_there in [true, false] {
        let (session, _ended) = session();
        let wire = Wire::default();
        let mut slot = OneByOne::new(&wire, session.agreed());
        let mut served = pin!(session.serve(&mut slot));
        let task = &mut Task::from_waker(Waker::noop());
        if slot_is_there {
            assert!(served.as_mut().poll(task).is_pending());
        }
        session.interrupt_for_good();
        wire.requests.borrow_mut().extend([Opcode::Lookup; 2]);
        assert!(served.as_mut().poll(task).is_pending());
        assert_eq!(*wire.answers.borrow(), [Some(Err(Errno::INTR)); 2], "{slot_is_there}");
    }
}

#[test]
fn a_system_call_that_nobody_waits_for_any_more_ends() {
    let (session, ended) = session();
    let wire = Wire::default();
    let mut slot = OneByOne::new(&wire, session.agreed());
    {
        let mut served = pin!(session.serve(&mut slot));
        wire.requests.borrow_mut().push(Opcode::Getattr);
        assert!(served.as_mut().poll(&mut Task::from_waker(Waker::noop())).is_pending());
        std::thread::sleep(Duration::from_millis(50));
        assert!(ended.try_recv().is_err(), "it waits");
    }
    assert_eq!(ended.recv_timeout(Duration::from_secs(10)), Ok(Errno::INTR));
}

/// As of a ring that the kernel refuses while nobody reads `/dev/fuse` yet; and of a thread that is made while the last one leaves.
#[test]
fn a_session_ends_once_and_not_before_threads_that_are_awaited_have_come_and_gone() {
    let (session, _ended) = session();
    let destroyed = || session.filesystem().destroyed.load(Ordering::Relaxed);
    let held = session.hold();
    session.join();
    session.leave();
    assert_eq!(destroyed(), 0);
    session.join();
    drop(held);
    assert_eq!(destroyed(), 0);
    session.leave();
    assert_eq!(destroyed(), 1);
    session.join();
    session.leave();
    assert_eq!(destroyed(), 1);
}
