//! Requests that are under way, noted in memory that the monitor keeps: whoever serves the rings after this process goes on with them.
//!
//! For each queue there is what vhost-user's specification has (`QueueRegionSplit`): a mark for each descriptor that heads a request,
//! set when it is taken and cleared once its answer is in the used ring, and the order in which they were taken. Behind that comes what
//! is ours: how far each request has got, so that one which was answered is not carried out again.
//!
//! The memory is the monitor's, too, and may say anything: all that is read is checked, and it cannot be made shorter.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering, fence},
    },
};
use vm_memory::{AtomicInteger, FileOffset, MmapRegion, VolatileMemory};

/// `QueueRegionSplit` up to its descriptors: features, version, how many, the last batch, the used index.
const HEAD: usize = 16;
const VERSION: usize = 8;
const DESCRIPTORS: usize = 10;
const LAST: usize = 12;
const USED: usize = 14;
/// `DescStateSplit`: the mark, padding, next, the counter.
const STATE: usize = 16;
const COUNTER: usize = 8;
/// Ours: how far a request has got, and how long its answer is.
const STAGE: usize = 8;

/// A request that was under way when the process before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Where its chain begins.
    pub head: u16,
    /// How long its answer is, which is where the guest wants it already. Without one, it may have been carried out or not, or in part.
    pub answered: Option<u32>,
}

/// Set in [`STAGE`] of a request that is answered; the length is above it.
const ANSWERED: u64 = 1;

/// Where a region lies in its file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub len: u64,
    pub offset: u64,
}

/// The memory for all queues.
#[derive(Debug)]
pub(crate) struct Region {
    memory: MmapRegion,
    queues: usize,
    size: u16,
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the region of requests under way {why}"))
}

/// Bytes for one queue.
fn bytes(size: u16) -> usize {
    (HEAD + usize::from(size) * (STATE + STAGE)).next_multiple_of(64)
}

impl Region {
    /// An empty one, and the file to be kept.
    pub(crate) fn new(queues: usize, size: u16) -> io::Result<(Self, File)> {
        let len = bytes(size) * queues;
        let file = memfd_create(c"fusewire-inflight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, len as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK)?;
        let file = File::from(file);
        let region = Self::open(file.try_clone()?, Place { len: len as u64, offset: 0 }, queues, size)?;
        for index in 0..queues {
            let base = index * bytes(size);
            region.atomic::<AtomicU16>(base + VERSION).store(1, Ordering::Relaxed);
            region.atomic::<AtomicU16>(base + DESCRIPTORS).store(size, Ordering::Relaxed);
        }
        Ok((region, file))
    }

    /// One that was kept.
    ///
    /// # Errors
    /// If it is not long enough, or could be made shorter.
    pub(crate) fn open(file: File, place: Place, queues: usize, size: u16) -> io::Result<Self> {
        let needed = bytes(size) * queues;
        if queues == 0 || size == 0 || place.len < needed as u64 {
            return Err(wrong("is too short"));
        }
        if !place.offset.is_multiple_of(4096) {
            return Err(wrong("does not begin with a page"));
        }
        // Touching what is gone would be the end of this process.
        if !fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK)) {
            return Err(wrong("is not one of ours: it could be made shorter"));
        }
        let end = place.offset.checked_add(needed as u64);
        if end.is_none_or(|end| fstat(&file).map_or(0, |stat| stat.st_size as u64) < end) {
            return Err(wrong("is longer than its file"));
        }
        let memory =
            MmapRegion::from_file(FileOffset::new(file, place.offset), needed).map_err(io::Error::other)?;
        Ok(Self { memory, queues, size })
    }

    /// How long it is.
    pub(crate) fn len(&self) -> u64 {
        (bytes(self.size) * self.queues) as u64
    }

    fn atomic<T: AtomicInteger>(&self, at: usize) -> &T {
        // All places that are asked for are multiples of their length and within what was mapped.
        self.memory.get_atomic_ref(at).expect("within the region")
    }
}

/// The part of a region that one queue has.
#[derive(Debug)]
pub(crate) struct Track {
    region: Arc<Region>,
    base: usize,
    /// Grows with each request.
    counter: AtomicU64,
}

impl Track {
    /// That of queue `index`, if it has one.
    pub(crate) fn new(region: &Arc<Region>, index: usize) -> Option<Self> {
        let base = (index < region.queues).then(|| index * bytes(region.size))?;
        Some(Self { region: region.clone(), base, counter: AtomicU64::new(0) })
    }

    /// The memory for all queues, and what to open it by: length, offset, queues, size.
    pub(crate) fn region(&self) -> Option<(File, [u64; 4])> {
        let place = self.region.memory.file_offset()?;
        let file = place.file().try_clone().ok()?;
        Some((file, [self.region.len(), place.start(), self.region.queues as u64, self.region.size.into()]))
    }

    fn state(&self, head: u16) -> usize {
        self.base + HEAD + usize::from(head) * STATE
    }

    fn mark(&self, head: u16) -> &AtomicU8 {
        self.region.atomic(self.state(head))
    }

    fn stage(&self, head: u16) -> &AtomicU64 {
        let stages = self.base + HEAD + usize::from(self.region.size) * STATE;
        self.region.atomic(stages + usize::from(head) * STAGE)
    }

    fn last(&self) -> &AtomicU16 {
        self.region.atomic(self.base + LAST)
    }

    fn used(&self) -> &AtomicU16 {
        self.region.atomic(self.base + USED)
    }

    /// A request was taken. Under the lock of the ring.
    pub(crate) fn taken(&self, head: u16) {
        if head >= self.region.size {
            return;
        }
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        self.stage(head).store(0, Ordering::Relaxed);
        self.region.atomic::<AtomicU64>(self.state(head) + COUNTER).store(counter, Ordering::Relaxed);
        self.mark(head).store(1, Ordering::Release);
    }

    /// Its answer is where the guest wants it, and goes into the used ring next. Under the lock of the ring.
    pub(crate) fn answered(&self, head: u16, len: u32) {
        if head < self.region.size {
            self.stage(head).store(ANSWERED | u64::from(len) << 32, Ordering::Release);
            self.last().store(head, Ordering::Release);
            fence(Ordering::SeqCst);
        }
    }

    /// It is in the used ring, whose index is `used` now. Under the lock of the ring.
    pub(crate) fn put(&self, head: u16, used: u16) {
        if head < self.region.size {
            fence(Ordering::SeqCst);
            self.mark(head).store(0, Ordering::Release);
            self.used().store(used, Ordering::Release);
        }
    }

    /// Nothing is under way in the ring, which is made anew.
    pub(crate) fn clear(&self) {
        (0..self.region.size).for_each(|head| self.mark(head).store(0, Ordering::Release));
        self.used().store(0, Ordering::Release);
    }

    /// What was left under way in a ring of `size` entries, in the order in which it was taken. `used`: the index of the used ring;
    /// `waiting`: heads of the chains that the driver has added since as many were answered, as the avail ring has them.
    pub(crate) fn recover(&self, size: u16, used: u16, waiting: &[u16]) -> Vec<Left> {
        let size = size.min(self.region.size);
        let known = self.used().load(Ordering::Acquire);
        // The driver has made the ring anew: nothing in it was ever under way. (One that comes round to 0 was at its end before.)
        if used == 0 && known != 0 && known != u16::MAX {
            self.clear();
        } else if known != used {
            // The last one is in the ring; there was no time to clear its mark.
            let last = self.last().load(Ordering::Acquire);
            if last < size {
                self.mark(last).store(0, Ordering::Release);
            }
            self.used().store(used, Ordering::Release);
        }
        let mut left: Vec<_> = (0..size)
            .filter(|&head| self.mark(head).load(Ordering::Acquire) == 1)
            .map(|head| {
                let counter = self.region.atomic::<AtomicU64>(self.state(head) + COUNTER);
                let stage = self.stage(head).load(Ordering::Acquire);
                let answered = (stage & ANSWERED != 0).then_some((stage >> 32) as u32);
                (counter.load(Ordering::Relaxed), Left { head, answered })
            })
            .collect();
        left.sort_by_key(|&(counter, _)| counter);
        // More than there can be: these are of a ring that was made anew before anything in it was answered. Where nothing ever was, they
        // are the first ones of the avail ring, or they are of another.
        let is_first = used == 0 && known == 0 && left.iter().zip(0..).all(|(&(counter, _), i)| counter == i);
        let is_other = |(&(_, left), &waiting): (&(u64, Left), &u16)| left.head != waiting;
        if left.len() > waiting.len() || is_first && left.iter().zip(waiting).any(is_other) {
            left.clear();
            self.clear();
            self.used().store(used, Ordering::Release);
        }
        let next = left.last().map_or(0, |&(counter, _)| counter.wrapping_add(1));
        self.counter.store(next, Ordering::Relaxed);
        left.into_iter().map(|(_, left)| left).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(size: u16) -> (File, Place, Track) {
        let (region, file) = Region::new(2, size).expect("region");
        let place = Place { len: region.len(), offset: 0 };
        (file, place, Track::new(&Arc::new(region), 1).expect("a queue"))
    }

    #[test]
    fn what_was_under_way_is_found_in_order_and_what_was_answered_is_known() {
        let (file, place, track) = track(8);
        for head in [5, 2, 7, 0] {
            track.taken(head);
        }
        track.answered(2, 100);
        track.put(2, 1);
        // Killed before the used ring was written to.
        track.answered(7, 16);
        let again =
            Track::new(&Arc::new(Region::open(file, place, 2, 8).expect("region")), 1).expect("queue");
        let left = |head, answered| Left { head, answered };
        assert_eq!(again.recover(8, 1, &[0; 8]), [left(5, None), left(7, Some(16)), left(0, None)]);
        // Killed after that.
        assert_eq!(again.recover(8, 2, &[0; 8]), [left(5, None), left(0, None)]);
        again.taken(3);
        assert_eq!(again.recover(8, 2, &[0; 8]).last(), Some(&left(3, None)));
        assert!(again.recover(8, 0, &[0; 8]).is_empty(), "the driver has begun anew");
    }

    #[test]
    fn marks_of_another_guest_are_cleared_although_nothing_was_ever_answered() {
        let left = |head| Left { head, answered: None };
        for (waiting, found) in [
            // It goes on where it was, and has added something.
            (&[5, 2][..], vec![left(5), left(2)]),
            (&[5, 2, 7], vec![left(5), left(2)]),
            // It has begun anew, and added less, or others.
            (&[], vec![]),
            (&[5], vec![]),
            (&[2, 5], vec![]),
            (&[0, 1, 2], vec![]),
        ] {
            let (_file, _place, track) = track(8);
            track.taken(5);
            track.taken(2);
            assert_eq!(track.recover(8, 0, waiting), found, "{waiting:?}");
            assert_eq!(track.recover(8, 0, &[5, 2]), found, "{waiting:?}: what is cleared stays so");
        }
        // Later on, the order in which they were taken says nothing about places; how many there are does.
        let (_file, _place, track) = track(8);
        for head in [5, 2, 7] {
            track.taken(head);
        }
        track.answered(2, 16);
        track.put(2, 1);
        assert_eq!(track.recover(8, 1, &[9, 9]), [left(5), left(7)]);
        assert_eq!(track.recover(8, 1, &[9]), []);
    }

    #[test]
    fn a_region_that_is_wrong_is_refused_and_one_that_says_anything_is_survived() {
        let (file, place, track) = track(8);
        let open = |len, offset, queues, size| {
            Region::open(file.try_clone().expect("file"), Place { len, offset }, queues, size).is_ok()
        };
        assert!(open(place.len, 0, 2, 8));
        for (len, offset, queues, size) in [
            (place.len - 1, 0, 2, 8),
            (place.len, 4096, 2, 8),
            (place.len, 8, 2, 8),
            (u64::MAX, !4095, 2, 8),
            (u64::MAX, 0, 60, 1024),
            (place.len, 0, 0, 8),
            (place.len, 0, 2, 0),
        ] {
            assert!(!open(len, offset, queues, size), "{len} {offset} {queues} {size}");
        }
        let loose = File::from(memfd_create(c"loose", MemfdFlags::CLOEXEC).expect("file"));
        loose.set_len(1 << 20).expect("length");
        assert!(Region::open(loose, place, 2, 8).is_err(), "it could be made shorter");
        for word in 0..place.len / 8 {
            track.region.atomic::<AtomicU64>(word as usize * 8).store(u64::MAX, Ordering::Relaxed);
        }
        assert!(track.recover(1024, 3, &[0; 1024]).is_empty(), "a mark is 1, or it is none");
        for head in 0..8 {
            track.mark(head).store(1, Ordering::Relaxed);
        }
        assert_eq!(track.recover(4, 3, &[0; 4]).len(), 4);
        track.taken(9);
        track.taken(0);
    }
}
