//! Notifications: bounded, flushed, and over when the session is.

use fusewire::{channel::FakeKernel, notify::Notifier, *};
use std::{
    sync::Mutex,
    thread::{sleep, spawn},
    time::Duration,
};

/// Keeps its notifier, and sends one from inside a handler.
#[derive(Default)]
struct Telling(Mutex<Option<Notifier>>);

impl Telling {
    fn notifier(&self) -> Notifier {
        self.0.lock().unwrap().clone().expect("the session has begun")
    }
}

impl FileSystem for Telling {
    fn started(&self, session: &Started) {
        *self.0.lock().unwrap() = Some(session.notifier.clone());
    }

    async fn getattr(&self, _: &Context, op: op::Getattr) -> Result<Attr> {
        self.notifier().inval_inode(op.node, 0, 0)?;
        Ok(Attr::file(0))
    }
}

#[test]
fn a_handler_may_notify_about_its_own_node() {
    let kernel = FakeKernel::start(Telling::default()).unwrap();
    assert_eq!(kernel.notification(Duration::ZERO), None);
    kernel.getattr(NodeId::ROOT).unwrap();
    let message = kernel.notification(Duration::from_secs(1)).unwrap();
    assert_eq!((message.len(), message[4]), (40, 2));
}

#[test]
fn flush_returns_once_everything_was_taken() {
    let kernel = FakeKernel::start(Telling::default()).unwrap();
    let notifier = kernel.filesystem().notifier();
    notifier.flush();
    (0..10).for_each(|_| notifier.inc_epoch().unwrap());
    let flushing = spawn({
        let notifier = notifier.clone();
        move || notifier.flush()
    });
    for _ in 0..10 {
        sleep(Duration::from_millis(5));
        assert!(!flushing.is_finished());
        kernel.notification(Duration::ZERO).expect("ten were sent");
    }
    let ended = (0..500).any(|_| {
        sleep(Duration::from_millis(10));
        flushing.is_finished()
    });
    assert!(ended, "flush still waits");
}

#[test]
fn what_nobody_takes_is_bounded() {
    let kernel = FakeKernel::start(Telling::default()).unwrap();
    let notifier = kernel.filesystem().notifier();
    let sent = (0..limits::NOTIFY_QUEUE + 10).take_while(|_| notifier.inc_epoch().is_ok()).count();
    assert_eq!(sent, limits::NOTIFY_QUEUE);
    assert_eq!(notifier.inc_epoch().unwrap_err(), Errno::AGAIN);
    kernel.notification(Duration::ZERO).unwrap();
    notifier.inc_epoch().unwrap();
}

#[test]
fn after_the_session_nothing_can_be_sent_and_nobody_waits() {
    let kernel = FakeKernel::start(Telling::default()).unwrap();
    let notifier = kernel.filesystem().notifier();
    notifier.inc_epoch().unwrap();
    drop(kernel);
    assert_eq!(notifier.inc_epoch().unwrap_err(), Errno::NODEV);
    notifier.flush();
}
