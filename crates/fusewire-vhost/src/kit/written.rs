//! What a monitor does to copy the memory of a guest that is running: it has the device log which pages it writes to.

use super::{Monitor, other};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    sync::atomic::{AtomicU8, Ordering, fence},
};
use vhost::{
    VhostBackend, VhostUserDirtyLogRegion,
    vhost_user::message::{VhostUserVirtioFeatures, VhostUserVringAddrFlags},
};
use vm_memory::{FileOffset, GuestMemoryBackend, MmapRegion, VolatileMemory};

/// Bytes of the guest's memory that a bit of the log stands for.
pub const PAGE: u64 = 4096;

/// A log of written pages, shared with the device.
#[derive(Debug)]
pub struct Written {
    /// Its memory.
    pub file: File,
    bits: MmapRegion,
}

impl Written {
    /// One of so many bytes, which nobody can make shorter, as QEMU has it.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(len: u64) -> io::Result<Self> {
        let file = memfd_create(c"log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, len)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let file = File::from(file);
        let place = FileOffset::new(file.try_clone()?, 0);
        Ok(Self { bits: MmapRegion::from_file(place, len as usize).map_err(other)?, file })
    }

    /// Numbers of the pages that were written to since the last time, in order.
    pub fn take(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        for index in 0..self.bits.size() {
            let Ok(byte) = self.bits.get_atomic_ref::<AtomicU8>(index) else { break };
            let bits = byte.swap(0, Ordering::AcqRel);
            pages.extend((0..8).filter(|bit| bits >> bit & 1 == 1).map(|bit| index as u64 * 8 + bit));
        }
        // What was written before is read now.
        fence(Ordering::SeqCst);
        pages
    }
}

impl Monitor {
    /// Have the device log what it writes from now on. The log is given anew with each call.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn log(&mut self, written: &Written) -> io::Result<()> {
        self.give_log(written)?;
        self.set_logging(true)
    }

    /// Give the device a log. That alone has nothing logged.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn give_log(&mut self, written: &Written) -> io::Result<()> {
        let region = VhostUserDirtyLogRegion {
            mmap_size: written.bits.size() as u64,
            mmap_offset: 0,
            mmap_handle: written.file.as_raw_fd(),
        };
        self.frontend.set_log_base(0, Some(region)).map_err(other)
    }

    /// Switch it on or off while queues are at work, as QEMU does: by the features, then for each ring.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn set_logging(&mut self, on: bool) -> io::Result<()> {
        let log = VhostUserVirtioFeatures::LOG_ALL.bits();
        let features = if on { self.features | log } else { self.features };
        self.frontend.set_features(features).map_err(other)?;
        for queue in 0..self.places.len() {
            let mut place = self.places[queue];
            if on {
                place.flags = VhostUserVringAddrFlags::VHOST_VRING_F_LOG.bits();
                place.log_addr = Some(place.used_ring_addr - self.base()?);
            }
            self.frontend.set_vring_addr(queue, &place).map_err(other)?;
        }
        Ok(())
    }

    /// Where the guest's memory lies here.
    pub(super) fn base(&self) -> io::Result<u64> {
        let region = self.memory.iter().next().ok_or_else(|| other("no memory"))?;
        Ok(region.as_ptr() as u64)
    }

    /// Bytes of a log for all of the guest's memory.
    pub fn log_len(&self) -> u64 {
        (self.memory.last_addr().0 / PAGE + 1).div_ceil(8)
    }
}
