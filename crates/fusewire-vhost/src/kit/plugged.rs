//! Memory that a guest is given and deprived of while it runs.

use super::{Monitor, memory_at, other};
use std::io;
use vhost::{VhostUserMemoryRegionInfo, vhost_user::VhostUserFrontend};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Memory that was plugged in. What the guest finds there can be looked at after it was unplugged, too.
#[derive(Clone, Debug)]
pub struct Plugged {
    memory: GuestMemoryMmap,
    at: u64,
}

impl Plugged {
    /// So much memory, of which nobody knows yet.
    ///
    /// # Errors
    /// If there is none, or no such address.
    pub fn new(at: u64, len: u64) -> io::Result<Self> {
        Ok(Self { memory: memory_at(at, len)?, at })
    }

    /// Where it begins in the guest.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes of it, counted from its beginning.
    ///
    /// # Panics
    /// If it is not as long as that.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(self.at + offset)).expect("within it");
        bytes
    }

    /// The guest stores there.
    ///
    /// # Panics
    /// If it is not as long as that.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(self.at + offset)).expect("within it");
    }

    fn region(&self) -> io::Result<VhostUserMemoryRegionInfo> {
        let region = self.memory.iter().next().ok_or_else(|| other("no memory"))?;
        VhostUserMemoryRegionInfo::from_guest_region(region).map_err(other)
    }
}

impl Monitor {
    /// The memory that the guest began with, its rings included.
    pub fn main(&self) -> Plugged {
        Plugged { memory: (*self.memory).clone(), at: 0 }
    }

    /// Tell the device of memory.
    ///
    /// # Errors
    /// Whatever the device refuses; the connection has ended then.
    pub fn plug(&mut self, memory: &Plugged) -> io::Result<()> {
        self.frontend.add_mem_region(&memory.region()?).map(drop).map_err(other)
    }

    /// Tell it that there is no such memory any more.
    ///
    /// # Errors
    /// Whatever the device refuses; the connection has ended then.
    pub fn unplug(&mut self, memory: &Plugged) -> io::Result<()> {
        self.frontend.remove_mem_region(&memory.region()?).map_err(other)
    }
}
