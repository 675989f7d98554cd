//! One queue's ring and its only entry: the only `unsafe` of the program.
#![allow(unsafe_code)]

use fusewire_abi::{URING_SQE_CMD_SIZE, UringCmd, UringCmdReq, UringReqHeader};
use io_uring::{IoUring, cqueue, opcode, squeue, types::Fixed};
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};
use zerocopy::IntoBytes;

/// Where `len` stands in a submission entry (`struct io_uring_sqe`).
const SQE_LEN: usize = 24;

/// An entry's memory, and the addresses of its two parts.
pub struct Ring {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    head: Box<UringReqHeader>,
    payload: Vec<u8>,
    vectors: Box<[libc::iovec; 2]>,
    queue: u16,
}

impl Ring {
    /// For the queue of this number, to be used by the calling thread alone.
    pub fn new(device: BorrowedFd<'_>, queue: u16, payload: usize) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .build(8)?;
        ring.submitter().register_files(&[device.as_raw_fd()])?;
        let (mut head, mut payload) = (Box::new(UringReqHeader::default()), vec![0; payload]);
        let vectors = Box::new([
            libc::iovec { iov_base: ptr::from_mut(&mut *head).cast(), iov_len: size_of::<UringReqHeader>() },
            libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() },
        ]);
        Ok(Self { ring, head, payload, vectors, queue })
    }

    /// The entry, which is not the kernel's between [`wait`](Self::wait) and [`commit`](Self::commit).
    pub fn entry(&mut self) -> (&mut UringReqHeader, &mut [u8]) {
        (&mut self.head, &mut self.payload)
    }

    /// Give the entry to the kernel.
    pub fn register(&mut self) {
        self.push(UringCmd::Register, 0, Some(self.vectors.as_ptr() as u64));
    }

    /// Answer, and give it back.
    pub fn commit(&mut self) {
        let commit_id = self.head.ring_ent_in_out.commit_id;
        self.push(UringCmd::CommitAndFetch, commit_id, None);
    }

    fn push(&mut self, command: UringCmd, commit_id: u64, vectors: Option<u64>) {
        let mut arguments = [0; URING_SQE_CMD_SIZE];
        let request = UringCmdReq { qid: self.queue, commit_id, ..Default::default() };
        arguments[..size_of_val(&request)].copy_from_slice(request.as_bytes());
        let command = opcode::UringCmd80::new(Fixed(0), command as u32).cmd(arguments).addr(vectors);
        let mut command = command.build();
        if vectors.is_some() {
            // SAFETY: `Entry128` is `struct io_uring_sqe` (`repr(C)`, 128 bytes), whose `len` stands there.
            unsafe { ptr::from_mut(&mut command).cast::<u8>().add(SQE_LEN).cast::<u32>().write(2) };
        }
        // SAFETY: the memory is this value's and is not moved; it is looked at between a completion and the next command alone. There is
        // one command at a time, and room for eight.
        unsafe { self.ring.submission().push(&command) }.expect("room for a command");
    }

    /// Wait for a request. `false`: the mount is gone.
    pub fn wait(&mut self) -> io::Result<bool> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if let Some(done) = self.ring.completion().next() {
                return match -done.result() {
                    0 => Ok(true),
                    libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED => Ok(false),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                };
            }
        }
    }
}
