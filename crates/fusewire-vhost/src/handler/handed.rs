//! What a handler knows, for the one of another process.

use super::{Handler, Mapping};
use crate::{
    handover::{Given, Lent},
    inflight::{Left, Place, Region},
    limits::{GRACE, QUEUE_SIZE},
    sys,
};
use fusewire::fs::FileSystem;
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};
use vhost_user_backend::VringT;
use virtio_queue::QueueT;
use vm_memory::{
    FileOffset, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion,
};

/// In front of the bytes; the last one grows when they mean something else.
const MAGIC: u64 = u64::from_le_bytes(*b"fwguest\x01");

/// Most regions of memory, and most requests of a ring: whatever says more is no description.
const MOST: u64 = 1 << 16;

/// A description that is being written.
#[derive(Default)]
pub(crate) struct Describing {
    bytes: Vec<u8>,
    files: Vec<Lent>,
}

impl Describing {
    fn word(&mut self, word: impl Into<u64>) {
        self.bytes.extend(word.into().to_le_bytes());
    }

    fn file(&mut self, file: impl Into<OwnedFd>) {
        self.files.push(Arc::new(file.into()));
    }

    /// A descriptor that there may be.
    fn maybe(&mut self, number: Option<i32>) -> io::Result<()> {
        self.word(u64::from(number.is_some()));
        if let Some(number) = number {
            self.file(sys::copy(number)?);
        }
        Ok(())
    }

    /// What comes last.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    pub(crate) fn end(self) -> (Vec<u8>, Vec<Lent>) {
        (self.bytes, self.files)
    }
}

/// A description that is being read.
pub(crate) struct Described {
    bytes: Vec<u8>,
    at: usize,
    files: std::vec::IntoIter<OwnedFd>,
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the description of the guest's device {why}"))
}

impl Described {
    pub(crate) fn new(given: Given) -> Self {
        Self { bytes: given.bytes, at: 0, files: given.files.into_iter() }
    }

    fn word(&mut self) -> io::Result<u64> {
        let word = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk());
        let word = word.copied().ok_or_else(|| wrong("ends too early"))?;
        self.at += word.len();
        Ok(u64::from_le_bytes(word))
    }

    fn short(&mut self) -> io::Result<u16> {
        u16::try_from(self.word()?).map_err(|_| wrong("has a number that is too large"))
    }

    fn count(&mut self) -> io::Result<usize> {
        match self.word()? {
            count @ 0..=MOST => Ok(count as usize),
            _ => Err(wrong("has a number that is too large")),
        }
    }

    pub(crate) fn file(&mut self) -> io::Result<OwnedFd> {
        self.files.next().ok_or_else(|| wrong("lacks descriptors"))
    }

    fn maybe(&mut self) -> io::Result<Option<File>> {
        match self.word()? {
            0 => Ok(None),
            _ => self.file().map(File::from).map(Some),
        }
    }

    /// What comes last.
    pub(crate) fn rest(self) -> Given {
        Given { bytes: self.bytes[self.at..].to_vec(), files: self.files.collect() }
    }
}

impl<F: FileSystem> Handler<F> {
    /// Have the threads of the queues take nothing and hear nothing, and wait until they have noticed.
    ///
    /// # Errors
    /// If one does not.
    pub(crate) fn rest(&mut self) -> io::Result<()> {
        for index in 0..self.rings.len() {
            let ring = &self.rings[index];
            let is_enabled = ring.vring.get_ref().is_enabled();
            self.rested.push(is_enabled);
            ring.vring.set_enabled(false);
            // From here on the other process is told when the guest kicks.
            self.deaf(index as u32).map_err(io::Error::other)?;
        }
        let queues = &self.device.shared.queues;
        let before: Vec<_> = queues.iter().map(|queue| queue.turns()).collect();
        queues.iter().for_each(|queue| queue.wake());
        let deadline = Instant::now() + GRACE;
        for (queue, before) in queues.iter().zip(before) {
            while queue.turns() == before {
                if Instant::now() >= deadline {
                    let why = format!("the thread of queue {} is stuck in a system call", queue.index);
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        Ok(())
    }

    /// The other way.
    pub(crate) fn rise(&mut self) {
        for (index, is_enabled) in std::mem::take(&mut self.rested).into_iter().enumerate() {
            self.rings[index].vring.set_enabled(is_enabled);
            if let Err(error) = self.listen(index as u32) {
                tracing::error!(queue = index, %error, "a queue is not listened at any more");
            }
            self.device.shared.queues[index].wake();
        }
    }

    /// All that the monitor has said so far. To be called while the threads [`rest`](Self::rest).
    ///
    /// # Errors
    /// If memory has no file, or descriptors run out.
    pub(crate) fn describe(&self) -> io::Result<Describing> {
        if self.device.shared.dirty.is_on() {
            let why = "the virtual machine is being moved to another machine: try again when that is over";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        let mut out = Describing::default();
        [MAGIC, u64::from(self.owned), self.features, self.protocol]
            .into_iter()
            .for_each(|word| out.word(word));
        let memory = self.device.memory.memory();
        out.word(memory.iter().count() as u64);
        for region in memory.iter() {
            let guest = region.start_addr().0;
            let mapping = self.mappings.iter().find(|mapping| mapping.guest == guest);
            let place =
                region.file_offset().ok_or_else(|| io::Error::other("guest memory without a file"))?;
            let there = mapping.map_or(0, |mapping| mapping.there);
            [there, region.len(), guest, place.start()].into_iter().for_each(|word| out.word(word));
            out.file(place.file().try_clone()?);
        }
        out.word(self.rings.len() as u64);
        let region = self.device.shared.queues.first().and_then(|queue| queue.region());
        match region {
            Some((file, [len, offset, queues, size])) => {
                [1, len, offset, queues, size].into_iter().for_each(|word| out.word(word));
                out.file(file);
            }
            None => out.word(0u64),
        }
        for (ring, (queue, enabled)) in
            self.rings.iter().zip(self.device.shared.queues.iter().zip(&self.rested))
        {
            let state = ring.vring.get_ref();
            let inner = state.get_queue();
            out.word(u64::from(*enabled));
            out.word(u64::from(inner.ready()));
            out.word(u64::from(inner.size()));
            [inner.desc_table(), inner.avail_ring(), inner.used_ring()]
                .into_iter()
                .for_each(|word| out.word(word));
            out.word(u64::from(inner.next_avail()));
            out.maybe(state.get_kick().as_ref().map(AsRawFd::as_raw_fd))?;
            out.maybe(state.get_call().as_ref().map(AsRawFd::as_raw_fd))?;
            drop(state);
            let left = queue.left();
            out.word(left.len() as u64);
            left.iter().for_each(|left| out.word(u64::from(left.head)));
        }
        Ok(out)
    }

    /// What the monitor has said, up to the rings: which features were agreed on.
    ///
    /// # Errors
    /// If it says anything else, or does not go together with this device.
    pub(crate) fn restore(&mut self, from: &mut Described) -> io::Result<(u64, u64)> {
        if from.word()? != MAGIC {
            return Err(wrong(
                "is of another version: stop the guest, or end that daemon and start this one",
            ));
        }
        self.owned = from.word()? != 0;
        let agreed = (from.word()?, from.word()?);
        let (mut pieces, mut mappings) = (Vec::new(), Vec::new());
        for _ in 0..from.count()? {
            let [there, size, guest, offset] = [from.word()?, from.word()?, from.word()?, from.word()?];
            let file = FileOffset::new(File::from(from.file()?), offset);
            let len = usize::try_from(size).map_err(|_| wrong("has memory that is too long"))?;
            let region = MmapRegion::from_file(file, len).map_err(io::Error::other)?;
            pieces.push(self.piece(region, guest).map_err(io::Error::other)?);
            mappings.push(Mapping { there, size, guest });
        }
        let memory = GuestMemoryMmap::from_regions(pieces).map_err(io::Error::other)?;
        self.replace_memory(memory).map_err(io::Error::other)?;
        self.mappings = mappings;
        let rings = from.count()?;
        if rings != self.rings.len() {
            let why = format!(
                "the device has {} request queues here, and {} there",
                self.rings.len() - 1,
                rings.max(1) - 1
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        if from.word()? != 0 {
            let [len, offset, queues, size] = [from.word()?, from.word()?, from.word()?, from.word()?];
            let (queues, size) = (queues as usize, u16::try_from(size).map_err(io::Error::other)?);
            self.take_region(Region::open(File::from(from.file()?), Place { len, offset }, queues, size)?);
        }
        Ok(agreed)
    }

    /// The rings.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub(crate) fn restore_rings(&mut self, from: &mut Described) -> io::Result<()> {
        for index in 0..self.rings.len() {
            let (enabled, ready) = (from.word()? != 0, from.word()? != 0);
            let size = from.short()?;
            let [table, available, used] = [from.word()?, from.word()?, from.word()?];
            let next = from.short()?;
            let (kick, call) = (from.maybe()?, from.maybe()?);
            let left = (0..from.count()?).map(|_| from.short().map(|head| Left { head, answered: None }));
            let left = left.collect::<io::Result<Vec<_>>>()?;
            let vring = &self.rings[index].vring;
            vring.set_enabled(false);
            if size > 0 && usize::from(size) <= QUEUE_SIZE {
                vring.set_queue_size(size);
            }
            vring.set_queue_info(table, available, used).map_err(io::Error::other)?;
            vring.set_queue_next_avail(next);
            if ready {
                vring.set_queue_next_used(vring.queue_used_idx().map_err(io::Error::other)?);
            }
            vring.set_kick(kick);
            vring.set_call(call);
            self.device.shared.queues[index].set_left(left);
            self.arrived.push((enabled, ready));
        }
        Ok(())
    }

    /// Serve what was [restored](Self::restore_rings).
    ///
    /// # Errors
    /// If a ring cannot be listened at.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        for (index, (enabled, ready)) in std::mem::take(&mut self.arrived).into_iter().enumerate() {
            let ring = &self.rings[index];
            let queue = &self.device.shared.queues[index];
            ring.vring.set_enabled(enabled);
            if ready {
                queue.recover();
                ring.vring.set_queue_ready(true);
                // The other process may not have told of its last answers.
                if let Err(error) = ring.vring.signal_used_queue() {
                    tracing::error!(queue = index, %error, "the guest cannot be told of answers");
                }
            }
            self.listen(index as u32).map_err(io::Error::other)?;
        }
        Ok(())
    }
}
