//! What holds for a session whatever its filesystem does: panics, interrupts, waiting handlers.

use fusewire::{
    abi::{InterruptIn, Opcode},
    channel::FakeKernel,
    *,
};
use std::{
    future::{pending, poll_fn},
    sync::Mutex,
    task::{Poll, Waker},
    thread::sleep,
    time::{Duration, Instant},
};
use zerocopy::IntoBytes;

/// Handles a name by what it says.
#[derive(Default)]
struct Moody {
    /// Of the last handler that was asked for `waker`.
    waker: Mutex<Option<Waker>>,
}

impl FileSystem for Moody {
    async fn lookup(&self, cx: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        match op.name.as_bytes() {
            b"panic" => panic!("on purpose"),
            b"panic later" => {
                let mut polled = false;
                poll_fn(|task| {
                    task.waker().wake_by_ref();
                    assert!(!std::mem::replace(&mut polled, true), "on purpose, when polled again");
                    Poll::Pending
                })
                .await
            }
            b"cancel" => {
                cx.cancelled().await;
                Err(Errno::INTR)
            }
            b"deaf" => pending().await,
            b"blocking" => {
                let slept = cx.blocking(|| {
                    rustix::thread::nanosleep(&rustix::thread::Timespec { tv_sec: 20, tv_nsec: 0 })
                });
                match slept.await {
                    rustix::thread::NanosleepRelativeResult::Interrupted(_) => Err(Errno::INTR),
                    _ => Err(Errno::TIME),
                }
            }
            b"waker" => {
                poll_fn(|task| {
                    *self.waker.lock().unwrap() = Some(task.waker().clone());
                    Poll::Ready(())
                })
                .await;
                Err(Errno::NOENT)
            }
            _ => Ok(Entry::new(NodeId::new(2), Attr::file(0))),
        }
    }

    fn forget(&self, op: op::Forget) {
        assert!(op.count != 13, "on purpose");
    }

    async fn getattr(&self, cx: &Context, _: op::Getattr) -> Result<Attr> {
        assert!(!cx.is_cancelled(), "an interrupt of another request");
        Ok(Attr::file(0))
    }
}

fn kernel() -> FakeKernel<Moody> {
    FakeKernel::start(Moody::default()).unwrap()
}

fn lookup(kernel: &FakeKernel<Moody>, name: &str) -> channel::loopback::Ticket {
    kernel.send(Opcode::Lookup, 1, &[], &[name.as_bytes(), b"\0"].concat())
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_panic_is_answered_eio_and_others_go_on() {
    let kernel = kernel();
    let waiting = lookup(&kernel, "cancel");
    for round in 1..=3 {
        assert_eq!(lookup(&kernel, "panic").wait_for(SOON).unwrap_err(), Errno::IO);
        assert_eq!(lookup(&kernel, "panic later").wait_for(SOON).unwrap_err(), Errno::IO);
        assert_eq!(kernel.stats().panics, 2 * round);
        assert!(kernel.lookup(NodeId::ROOT, c"fine").is_ok());
    }
    // A slot more than there are would be one that a panic took away.
    let many: Vec<_> = (0..200).map(|_| lookup(&kernel, "panic")).collect();
    assert!(many.into_iter().all(|ticket| ticket.wait_for(SOON) == Err(Errno::IO)));
    assert!(!waiting.is_answered());
    kernel.interrupt(&waiting);
    assert_eq!(waiting.wait_for(SOON).unwrap_err(), Errno::INTR);
}

#[test]
fn a_panic_without_answer_is_counted_too() {
    let kernel = kernel();
    let forget = |count: u64| kernel.send(Opcode::Forget, 2, count.as_bytes(), &[]).wait_for(SOON);
    assert_eq!((forget(13), forget(1)), (Ok(Vec::new()), Ok(Vec::new())));
    assert_eq!(kernel.stats().panics, 1);
    assert!(kernel.getattr(NodeId::ROOT).is_ok());
}

#[test]
fn an_interrupt_cancels_the_request_it_names_and_no_other() {
    let kernel = kernel();
    let (first, second) = (lookup(&kernel, "cancel"), lookup(&kernel, "cancel"));
    kernel.interrupt(&second);
    assert_eq!(second.wait_for(SOON).unwrap_err(), Errno::INTR);
    assert!(!first.is_answered());
    // Later requests in the same slot know nothing of it.
    (0..200).for_each(|_| _ = kernel.getattr(NodeId::ROOT).unwrap());
    assert_eq!(kernel.stats().panics, 0);
    kernel.interrupt(&first);
    assert_eq!(first.wait_for(SOON).unwrap_err(), Errno::INTR);
}

#[test]
fn an_interrupt_of_nothing_is_to_be_tried_again() {
    let kernel = kernel();
    let interrupt = |unique| kernel.call(Opcode::Interrupt, 0, &InterruptIn { unique }, &[]);
    assert_eq!(interrupt(99).unwrap_err(), Errno::AGAIN);
    let done = lookup(&kernel, "fine");
    let unique = done.unique;
    done.wait_for(SOON).unwrap();
    assert_eq!(interrupt(unique).unwrap_err(), Errno::AGAIN);
    let waiting = lookup(&kernel, "cancel");
    // Delivered, there is no answer.
    assert_eq!(interrupt(waiting.unique), Ok(Vec::new()));
    assert_eq!(waiting.wait_for(SOON).unwrap_err(), Errno::INTR);
}

#[test]
fn a_blocking_call_is_interrupted() {
    let kernel = kernel();
    let began = Instant::now();
    let blocked = lookup(&kernel, "blocking");
    // Others are served meanwhile.
    assert!(kernel.lookup(NodeId::ROOT, c"fine").is_ok());
    kernel.interrupt(&blocked);
    assert_eq!(blocked.wait_for(SOON).unwrap_err(), Errno::INTR);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_task_that_is_woken_without_need_takes_no_request_away_from_others() {
    let kernel = kernel();
    assert_eq!(lookup(&kernel, "waker").wait().unwrap_err(), Errno::NOENT);
    let waker = kernel.filesystem().waker.lock().unwrap().take().expect("it was left there");
    for _ in 0..5 {
        waker.wake_by_ref();
        sleep(Duration::from_millis(5));
    }
    // The first of these goes to the slot that was woken so often; the others must find slots of their own.
    let waiting: Vec<_> = (0..10).map(|_| lookup(&kernel, "cancel")).collect();
    for ticket in &waiting {
        assert_eq!(lookup(&kernel, "fine").wait_for(SOON).map(drop), Ok(()));
        kernel.interrupt(ticket);
    }
    assert!(waiting.into_iter().all(|ticket| ticket.wait_for(SOON) == Err(Errno::INTR)));
}

#[test]
fn the_end_of_the_session_cancels_who_listens() {
    let kernel = kernel();
    let waiting = lookup(&kernel, "cancel");
    kernel.getattr(NodeId::ROOT).unwrap();
    drop(kernel);
    assert_eq!(waiting.wait_for(SOON).unwrap_err(), Errno::INTR);
}
