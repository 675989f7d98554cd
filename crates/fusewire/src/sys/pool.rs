//! Payloads of all entries of a queue in one piece of memory, and the ring's table of registered buffers (Linux 7.3).

use super::{
    transfer::MARK,
    uring::{DEVICE, Ring},
};
use crate::types::Errno;
use fusewire_abi::{URING_SQE_CMD_SIZE, UringBufpool, UringCmd, UringCmdReq, UringQueueFlags};
use io_uring::opcode;
use std::{io, ptr};
use zerocopy::IntoBytes;

/// Most buffers that a ring's table can hold (`IORING_MAX_REG_BUFFERS`).
pub(crate) const MOST_BUFFERS: usize = 1 << 14;

/// A pool: as many slots of the same size as the kernel may need at a time. Slots that were never used take no memory.
#[derive(Debug)]
pub(crate) struct PayloadPool {
    base: *mut u8,
    slot: usize,
    slots: usize,
}

// SAFETY: `base` is a plain address; a slot is looked at only through the entry that the kernel has given it to.
unsafe impl Send for PayloadPool {}
// SAFETY: as above.
unsafe impl Sync for PayloadPool {}

impl PayloadPool {
    /// Room for `slots` payloads of `slot` bytes, a multiple of a page.
    pub(crate) fn new(slot: usize, slots: usize) -> io::Result<Self> {
        // The kernel is told the length in 32 bits.
        let slots = slots.min(u32::MAX as usize / slot.max(1)).max(1);
        let length = slot * slots;
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let base = unsafe { libc::mmap(ptr::null_mut(), length, prot, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the mapping just made; the advice changes nothing of its content. Without it, a short answer
        // may bring 2 MiB with it.
        unsafe { libc::madvise(base, length, libc::MADV_NOHUGEPAGE) };
        Ok(Self { base: base.cast(), slot, slots })
    }

    /// How many slots there are.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// The number of the slot at `offset` bytes.
    pub(super) fn number(&self, offset: usize) -> usize {
        offset / self.slot
    }

    /// Where the slot at `offset` bytes begins, and its length; `None` if there is none.
    pub(super) fn slot(&self, offset: usize) -> Option<(*mut u8, usize)> {
        let is_slot = offset.is_multiple_of(self.slot) && offset / self.slot < self.slots;
        // SAFETY: it lies within the mapping, as was just checked.
        is_slot.then(|| (unsafe { self.base.add(offset) }, self.slot))
    }
}

impl Drop for PayloadPool {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length; entries share ownership, so none is left.
        unsafe { libc::munmap(self.base.cast(), self.slot * self.slots) };
    }
}

impl Ring {
    /// Create a queue; with `zero_copy`, requests of files that are open for it come without their data.
    pub(crate) fn add_queue(&mut self, queue: u16, zero_copy: bool) -> Result<(), Errno> {
        let flags = if zero_copy { UringQueueFlags::ZERO_COPY } else { UringQueueFlags::empty() };
        let request = UringCmdReq { qid: queue, flags: flags.bits(), ..Default::default() };
        self.command_now(UringCmd::AddQueue, request, None)
    }

    /// Give a queue its pool. `index`: where it is in the table, if it is.
    pub(crate) fn add_pool(
        &mut self,
        queue: u16,
        pool: &PayloadPool,
        index: Option<u16>,
    ) -> Result<(), Errno> {
        let bufpool =
            UringBufpool { uaddr: pool.base as u64, len: (pool.slot * pool.slots) as u32, reserved: 0 };
        let request = UringCmdReq { qid: queue, bufpool, ..Default::default() };
        self.command_now(UringCmd::AddBufpool, request, index)
    }

    /// A command that is over as soon as it is submitted.
    fn command_now(
        &mut self,
        command: UringCmd,
        request: UringCmdReq,
        index: Option<u16>,
    ) -> Result<(), Errno> {
        let mut arguments = [0; URING_SQE_CMD_SIZE];
        arguments[..size_of_val(&request)].copy_from_slice(request.as_bytes());
        let command = opcode::UringCmd80::new(DEVICE, command as u32).cmd(arguments).buf_index(index).build();
        let id = self.transfers.begin(ptr::null()..ptr::null());
        // SAFETY: it uses no memory but a pool's, and that later, when entries keep it alive.
        unsafe { self.push(command.user_data(MARK | id as u64)) };
        while self.transfers.is_running(id) {
            self.await_one();
        }
        self.transfers.take(id).map(drop)
    }

    /// Make a table of `length` buffers, all of them free. Once.
    pub(crate) fn make_table(&mut self, length: usize) -> io::Result<()> {
        #[repr(C)]
        struct Register {
            nr: u32,
            flags: u32,
            reserved: u64,
            data: u64,
            tags: u64,
        }
        const REGISTER_BUFFERS2: libc::c_uint = 15;
        const SPARSE: u32 = 1;
        let mut table = Register { nr: length as u32, flags: SPARSE, reserved: 0, data: 0, tags: 0 };
        // SAFETY: the command reads one `struct io_uring_rsrc_register`, which `Register` is.
        unsafe { self.control(REGISTER_BUFFERS2, ptr::from_mut(&mut table).cast(), size_of::<Register>()) }
    }

    /// Put a pool into the table, which pins its memory: all of it is there from now on.
    pub(crate) fn pin(&mut self, pool: &PayloadPool, index: u16) -> io::Result<()> {
        #[repr(C)]
        struct Update {
            offset: u32,
            reserved: u32,
            data: u64,
            tags: u64,
            nr: u32,
            reserved2: u32,
        }
        const REGISTER_BUFFERS_UPDATE: libc::c_uint = 16;
        let memory = libc::iovec { iov_base: pool.base.cast(), iov_len: pool.slot * pool.slots };
        let data = ptr::from_ref(&memory) as u64;
        let mut update = Update { offset: index.into(), reserved: 0, data, tags: 0, nr: 1, reserved2: 0 };
        // SAFETY: the command reads one `struct io_uring_rsrc_update2`, which `Update` is, and the one iovec it points to. The
        // pages are the kernel's to write as long as entries have them, which is what a pool is for.
        unsafe {
            self.control(REGISTER_BUFFERS_UPDATE, ptr::from_mut(&mut update).cast(), size_of::<Update>())
        }
    }

    /// `io_uring_register` on a ring that has no descriptor any more.
    ///
    /// # Safety
    /// As for the command: `argument` must be what it reads.
    unsafe fn control(
        &self,
        command: libc::c_uint,
        argument: *mut libc::c_void,
        size: usize,
    ) -> io::Result<()> {
        const USE_REGISTERED_RING: libc::c_uint = 1 << 31;
        // SAFETY: the number is that of this ring in this thread; the rest is as the caller promises.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.registered,
                command | USE_REGISTERED_RING,
                argument,
                size,
            )
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::uring::PAGE, *};

    #[test]
    fn only_places_where_a_slot_begins_are_slots() {
        let pool = PayloadPool::new(2 * PAGE, 3).expect("memory");
        assert_eq!(pool.slots(), 3);
        let lengths = [0, 2 * PAGE, 4 * PAGE].map(|offset| pool.slot(offset).map(|(_, length)| length));
        assert_eq!(lengths, [Some(2 * PAGE); 3]);
        for offset in [1, PAGE, 6 * PAGE, usize::MAX] {
            assert!(pool.slot(offset).is_none(), "{offset}");
        }
    }

    #[test]
    fn a_pool_is_no_longer_than_the_kernel_can_be_told() {
        let pool = PayloadPool::new(1 << 20, 1 << 20).expect("memory");
        assert_eq!(pool.slots(), 4095);
    }
}
