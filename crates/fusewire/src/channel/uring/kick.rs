//! Having the kernel look at a queue again.
//!
//! Requests that came while a queue had no entry are given out only when some request of that queue is answered: an entry
//! that is registered later does not take them (Linux 6.14 to 7.3, `fuse_uring_do_register`). If all who could answer wait for
//! something, that is never. So whoever gives a queue further entries has a request made on it, whose answer sets the others
//! going: the attributes of the mount's root, asked for on that queue's CPU.

use crate::channel::dev_fuse::allow;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, mpsc},
    thread::Builder,
};

/// Makes requests, on a thread that exists once it is needed.
#[derive(Debug)]
pub(super) struct Kicker {
    mountpoint: PathBuf,
    queues: Mutex<Option<mpsc::Sender<u16>>>,
}

impl Kicker {
    pub(super) fn new(mountpoint: PathBuf) -> Self {
        Self { mountpoint, queues: Mutex::default() }
    }

    /// Have a request made on `queue`. Does not wait for it.
    pub(super) fn kick(&self, queue: u16) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if queues.as_ref().is_some_and(|queues| queues.send(queue).is_ok()) {
            return;
        }
        let (sender, receiver) = mpsc::channel();
        let mountpoint = self.mountpoint.clone();
        let body = move || run(&mountpoint, &receiver);
        match Builder::new().name("fusewire-kick".into()).stack_size(256 << 10).spawn(body) {
            Ok(_) => {
                _ = sender.send(queue);
                *queues = Some(sender);
            }
            Err(error) => tracing::warn!(%error, "requests may wait until others are answered"),
        }
    }

    /// There will be no more.
    pub(super) fn close(&self) {
        *self.queues.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn run(mountpoint: &Path, queues: &mpsc::Receiver<u16>) {
    while let Ok(queue) = queues.recv() {
        allow(None, &[queue.into()]);
        let asked = rustix::fs::statx(CWD, mountpoint, AtFlags::STATX_FORCE_SYNC, StatxFlags::SIZE);
        tracing::debug!(queue, ok = asked.is_ok(), "kicked");
    }
}
