//! The driver's half of a split virtqueue.

use std::{
    io,
    os::fd::AsRawFd,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::{EFD_NONBLOCK, EventFd},
};

pub use virtio_queue::desc::split::Descriptor;

/// Another descriptor follows.
pub const NEXT: u16 = 1;
/// The device writes to it.
pub const WRITE: u16 = 2;
/// It is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// What the device has written to the used ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// First descriptor of the chain.
    pub head: u16,
    /// Bytes that it says it has written.
    pub len: u32,
}

/// A queue from the driver's side. Nothing is checked: tests want to do it wrong.
#[derive(Debug)]
pub struct Ring {
    /// The guest's memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// Entries.
    pub size: u16,
    /// The table of descriptors; the avail ring and the used ring follow it.
    pub table: GuestAddress,
    /// Written to when requests were added.
    pub kick: EventFd,
    /// Readable when there are answers.
    pub call: EventFd,
    /// How often the device wanted to be told of requests.
    pub kicks: u64,
    sleep: Epoll,
    event_idx: bool,
    added: u16,
    told: u16,
    seen: u16,
}

/// Tells when a ring has answers that it was [armed](Ring::arm) for.
#[derive(Debug)]
pub struct Bell {
    call: EventFd,
    sleep: Epoll,
}

impl Bell {
    /// Sleep until the device has told of answers, at most for so long.
    pub fn wait(&self, limit: Duration) {
        listen(&self.sleep, &self.call, limit);
    }
}

fn listen(sleep: &Epoll, call: &EventFd, limit: Duration) {
    let millis = limit.as_millis().clamp(1, 1000) as i32;
    _ = sleep.wait(millis, &mut [EpollEvent::default()]);
    _ = call.read();
}

impl Ring {
    /// Bytes that a ring of that size takes.
    pub fn bytes(size: u16) -> u64 {
        let size = u64::from(size);
        (16 * size + (6 + 2 * size)).next_multiple_of(4096) + (6 + 8 * size).next_multiple_of(4096)
    }

    /// An empty ring at `table`.
    pub fn new(
        memory: Arc<GuestMemoryMmap>,
        table: GuestAddress,
        size: u16,
        event_idx: bool,
    ) -> io::Result<Self> {
        let (kick, call) = (EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?);
        let sleep = Epoll::new()?;
        sleep.ctl(ControlOperation::Add, call.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))?;
        Ok(Self { memory, size, table, kick, call, kicks: 0, sleep, event_idx, added: 0, told: 0, seen: 0 })
    }

    /// The avail ring.
    pub fn avail(&self) -> GuestAddress {
        GuestAddress(self.table.0 + 16 * u64::from(self.size))
    }

    /// The used ring.
    pub fn used(&self) -> GuestAddress {
        let end = self.avail().0 + 6 + 2 * u64::from(self.size);
        GuestAddress(end.next_multiple_of(4096))
    }

    /// Write a value into the guest's memory; places outside of it are left alone.
    pub fn write<T: ByteValued>(&self, address: u64, value: T) {
        _ = self.memory.write_obj(value, GuestAddress(address));
    }

    /// Write descriptor `index` of the table.
    pub fn describe(&self, index: u16, descriptor: Descriptor) {
        self.write(self.table.0 + 16 * u64::from(index), descriptor);
    }

    /// Make a chain available; the device is not told yet.
    pub fn add(&mut self, head: u16) {
        self.write(self.avail().0 + 4 + 2 * u64::from(self.added % self.size), head);
        self.added = self.added.wrapping_add(1);
        self.publish(self.added);
    }

    /// Say how many chains were ever made available.
    pub fn publish(&mut self, index: u16) {
        self.added = index;
        _ = self.memory.store(index, GuestAddress(self.avail().0 + 2), Ordering::Release);
    }

    /// Tell the device, if it wants to be told.
    pub fn kick(&mut self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        let (old, new) = (std::mem::replace(&mut self.told, self.added), self.added);
        let wanted = if self.event_idx {
            let event = self.load(self.used().0 + 4 + 8 * u64::from(self.size));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.load(self.used().0) & 1 == 0
        };
        if wanted {
            self.kicks += 1;
            _ = self.kick.write(1);
        }
    }

    /// How many answers the device has ever given, as the ring says.
    pub fn answered(&self) -> u16 {
        self.load(self.used().0 + 2)
    }

    fn load(&self, address: u64) -> u16 {
        self.memory.load(GuestAddress(address), Ordering::Acquire).unwrap_or(0)
    }

    /// The next answer, if there is one.
    pub fn take(&mut self) -> Option<Used> {
        if self.load(self.used().0 + 2) == self.seen {
            return None;
        }
        let at = self.used().0 + 4 + 8 * u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        let [head, len]: [u32; 2] = self.memory.read_obj(GuestAddress(at)).ok()?;
        Some(Used { head: head as u16, len })
    }

    /// Have the device tell of the next answer. `false` if it is there already.
    pub fn arm(&mut self) -> bool {
        // From the next one on, please.
        self.write(self.avail().0 + 4 + 2 * u64::from(self.size), self.seen);
        std::sync::atomic::fence(Ordering::SeqCst);
        self.load(self.used().0 + 2) == self.seen
    }

    /// What the device tells of answers with, to wait for it without holding the ring.
    ///
    /// # Errors
    /// If there are too many descriptors.
    pub fn bell(&self) -> io::Result<Bell> {
        let (call, sleep) = (self.call.try_clone()?, Epoll::new()?);
        sleep.ctl(ControlOperation::Add, call.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))?;
        Ok(Bell { call, sleep })
    }

    /// The next answer; sleeps until it is there, at most for so long.
    pub fn wait(&mut self, limit: Duration) -> Option<Used> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(used) = self.take() {
                return Some(used);
            }
            if !self.arm() {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            listen(&self.sleep, &self.call, left);
        }
    }

    /// Has the device answered all there was? Sleeping is for [`wait`](Self::wait).
    pub fn is_settled(&self) -> bool {
        self.seen == self.added
    }
}
