//! Guest memory, and descriptors that other crates keep to themselves: the only `unsafe` of the crate.
#![allow(unsafe_code)]

use fusewire::channel::Segments;
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryLoadGuard, GuestMemoryMmap, GuestMemoryRegion};

/// A copy of the descriptor of this number, which somebody else here has open.
///
/// # Errors
/// If there can be none.
pub(crate) fn copy(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: whoever gave the number has it open for as long as this call takes; if not, the call fails.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}

/// Have the descriptor of this number, which somebody else here has open, lead where `to` leads.
///
/// # Errors
/// If it cannot.
pub(crate) fn replace(number: RawFd, to: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are open; the number stays its owner's, only what it leads to is another socket.
    let status = unsafe { libc::dup3(to.as_raw_fd(), number, libc::O_CLOEXEC) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The guest's memory as it was when a request was taken.
pub(crate) type Memory = GuestMemoryLoadGuard<GuestMemoryMmap>;

/// Pieces of a guest's memory that a request names, which stays mapped as long as they are there.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    // Before what keeps them mapped.
    incoming: Segments,
    outgoing: Segments,
    /// One hold for both: a hold is counted by all threads of the device at one place.
    memory: Option<Memory>,
}

/// Who writes to a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The guest, before it sends the request.
    Incoming,
    /// The device, for the answer.
    Outgoing,
}

impl Mapped {
    /// Forget the pieces; from now on they are of this memory.
    pub(crate) fn begin(&mut self, memory: Memory) {
        self.incoming.clear();
        self.outgoing.clear();
        self.memory = Some(memory);
    }

    /// Forget the pieces, and let go of the memory.
    pub(crate) fn end(&mut self) {
        self.incoming.clear();
        self.outgoing.clear();
        self.memory = None;
    }

    /// The same, and keep room for `pieces` at most.
    pub(crate) fn keep(&mut self, pieces: usize) {
        self.incoming.keep(pieces);
        self.outgoing.keep(pieces);
        self.memory = None;
    }

    /// How many there are, of the side that has more.
    pub(crate) fn pieces(&self) -> usize {
        self.incoming.pieces().max(self.outgoing.pieces())
    }

    /// Append `len` bytes at `address` of the guest. `false` if not all of it is memory.
    #[must_use]
    pub(crate) fn push(&mut self, side: Side, address: GuestAddress, len: usize) -> bool {
        let Some(memory) = &self.memory else { return false };
        let segments = match side {
            Side::Incoming => &mut self.incoming,
            Side::Outgoing => &mut self.outgoing,
        };
        for slice in memory.get_slices(address, len) {
            let Ok(slice) = slice else { return false };
            let guard = slice.ptr_guard_mut();
            // SAFETY: the slice lies within a mapping, readable and writable, of `self.memory`, which is kept until the
            // segments are cleared. Nothing in this process makes references to guest memory.
            unsafe { segments.push(guard.as_ptr(), slice.len()) };
        }
        true
    }

    /// What the guest sends.
    pub(crate) fn incoming(&self) -> &Segments {
        &self.incoming
    }

    /// Where it wants the answer.
    pub(crate) fn outgoing(&self) -> &Segments {
        &self.outgoing
    }

    /// Tell `each` where the first `len` bytes of the answer lie in the guest's memory: addresses of the guest, and lengths.
    pub(crate) fn places(&self, len: usize, mut each: impl FnMut(u64, u64)) {
        let Some(memory) = &self.memory else { return };
        for (start, len) in self.outgoing.places(0, len) {
            // Regions that lie side by side here may not do so there.
            for region in memory.iter() {
                let base = region.as_ptr().addr();
                let (from, to) = (start.max(base), (start + len).min(base + region.size()));
                if from < to {
                    each(region.start_addr().0 + (from - base) as u64, (to - from) as u64);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic};

    #[test]
    fn only_memory_is_mapped() {
        let ranges = [(GuestAddress(0x1000), 0x1000), (GuestAddress(0x2000), 0x1000)];
        let memory = GuestMemoryMmap::from_ranges(&ranges).expect("memory");
        memory.write_slice(b"abcd", GuestAddress(0x1ffe)).expect("write");
        let atomic = GuestMemoryAtomic::new(memory);
        let mut mapped = Mapped::default();
        assert!(!mapped.push(Side::Incoming, GuestAddress(0x1000), 1));
        mapped.begin(atomic.memory());
        assert!(mapped.push(Side::Incoming, GuestAddress(0x1ffe), 4));
        assert!(mapped.push(Side::Outgoing, GuestAddress(0x1ffd), 2));
        let mut out = [0; 8];
        assert_eq!(mapped.outgoing().copy_out(0, &mut out), 2);
        assert_eq!(mapped.incoming().copy_out(0, &mut out), 4);
        assert_eq!(&out[..4], b"abcd");
        let mut places = Vec::new();
        for len in [0, 1, 2, 3] {
            mapped.places(len, |address, len| places.push((address, len)));
        }
        places.sort_unstable();
        assert_eq!(places, [(0x1ffd, 1), (0x1ffd, 2), (0x1ffd, 2)]);
        assert!(mapped.push(Side::Outgoing, GuestAddress(0x1fff), 3));
        places.clear();
        mapped.places(usize::MAX, |address, len| places.push((address, len)));
        places.sort_unstable();
        assert_eq!(places, [(0x1ffd, 3), (0x2000, 2)]);
        for (address, len) in
            [(0, 1), (0xfff, 2), (0x2fff, 2), (0x3000, 1), (u64::MAX, 1), (0x1000, usize::MAX)]
        {
            assert!(!mapped.push(Side::Outgoing, GuestAddress(address), len), "{address:#x} {len}");
        }
    }
}
