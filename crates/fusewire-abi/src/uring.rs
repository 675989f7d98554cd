//! FUSE over io_uring (protocol 7.42, Linux 6.14): buffers and commands.
//!
//! A server submits `IORING_OP_URING_CMD` with a [`UringCmd`] as `cmd_op` and a [`UringCmdReq`] in the
//! command area of a 128-byte submission entry. Each ring entry owns a [`UringReqHeader`] and a payload
//! buffer. A completion means that a request is in them:
//!
//! | where | request | reply |
//! |---|---|---|
//! | [`UringReqHeader::in_out`] | [`crate::InHeader`] | [`crate::OutHeader`], `len` is ignored |
//! | [`UringReqHeader::op_in`] | the first argument; left as it was if the operation has none | not used |
//! | payload | everything else, without gaps | all of it, without gaps |
//! | [`UringReqHeader::ring_ent_in_out`] | `payload_sz`, `commit_id`, `flags`, `offset` | `payload_sz` |

wire! {
    /// `struct fuse_uring_ent_in_out`: the ring's own part of an entry.
    struct UringEntInOut: "fuse_uring_ent_in_out" = 32 {
        /// Request: [`crate::UringEntFlags`]. Reply: zero.
        0 => flags: u64,
        /// Request: what [`UringCmdReq::commit_id`] must be to answer it.
        8 => commit_id: u64,
        /// Request and reply: how many bytes of the payload are used. A reply must have exactly the length
        /// that the operation returns, or less for data of variable length.
        16 => payload_sz: u32,
        /// Request: where in the queue's buffer pool the payload is, in bytes from its start. 0 without a
        /// pool.
        20 => offset: u32,
        /// Zero.
        24 => reserved: u64,
    }

    /// `struct fuse_uring_req_header`: the header buffer of a ring entry.
    struct UringReqHeader: "fuse_uring_req_header" = 288 {
        /// Request: [`crate::InHeader`]. Reply: [`crate::OutHeader`], in the same place.
        0 => in_out: [u8; URING_IN_OUT_HEADER_SZ],
        /// Request: the first argument of the operation.
        128 => op_in: [u8; URING_OP_IN_OUT_SZ],
        /// The ring's own part.
        256 => ring_ent_in_out: UringEntInOut,
    }

    /// `struct fuse_uring_cmd_req` up to protocol 7.45. A newer kernel accepts it too: what follows in the
    /// command area must be zero.
    struct UringCmdReqV45: "fuse_uring_cmd_req" = 24 {
        /// Zero.
        0 => flags: u64,
        /// [`UringEntInOut::commit_id`] of the request that is answered; not used by other commands.
        8 => commit_id: u64,
        /// Number of the queue: that of the CPU it serves.
        16 => qid: u16,
        /// Zero.
        18 => padding: [u8; 6],
    }

    /// The `bufpool` member of `struct fuse_uring_cmd_req`: a queue's buffer pool.
    struct UringBufpool: "" = 16 {
        /// Address of the pool in the server.
        0 => uaddr: u64,
        /// Length of the pool in bytes. It is cut into as many slots of the largest payload as fit.
        8 => len: u32,
        /// Zero.
        12 => reserved: u32,
    }

    /// `struct fuse_uring_cmd_req` from protocol 7.46.
    struct UringCmdReq: "fuse_uring_cmd_req" = 40 {
        /// [`UringCmd::AddQueue`]: [`crate::UringQueueFlags`]. Otherwise zero.
        0 => flags: u64,
        /// [`UringCmd::CommitAndFetch`]: [`UringEntInOut::commit_id`] of the request that is answered.
        8 => commit_id: u64,
        /// Number of the queue: that of the CPU it serves.
        16 => qid: u16,
        /// Zero.
        18 => padding: [u8; 6],
        /// [`UringCmd::AddBufpool`]: the pool. This is a union in C; for [`UringCmd::Register`] its first two
        /// bytes are `ent_zero_copy_buf_index`, see [`UringCmdReq::set_ent_zero_copy_buf_index`].
        24 => bufpool: UringBufpool,
    }
}

/// Length of [`UringReqHeader::in_out`] in bytes.
pub const URING_IN_OUT_HEADER_SZ: usize = 128;
/// Length of [`UringReqHeader::op_in`] in bytes.
pub const URING_OP_IN_OUT_SZ: usize = 128;
/// Where the command area starts in a 128-byte submission entry, in bytes.
pub const URING_SQE_CMD_OFFSET: usize = 48;
/// Length of the command area of a 128-byte submission entry in bytes.
pub const URING_SQE_CMD_SIZE: usize = 80;

impl UringCmdReq {
    /// For [`UringCmd::Register`] on a queue with [`crate::UringQueueFlags::ZERO_COPY`]: the slot in the
    /// ring's table of registered buffers where the kernel puts the pages of a request. Replaces `bufpool`:
    /// they share memory.
    pub fn set_ent_zero_copy_buf_index(&mut self, index: u16) {
        let [low, high] = index.to_ne_bytes();
        self.bufpool =
            UringBufpool { uaddr: u64::from_ne_bytes([low, high, 0, 0, 0, 0, 0, 0]), len: 0, reserved: 0 };
    }

    /// The slot that [`set_ent_zero_copy_buf_index`](Self::set_ent_zero_copy_buf_index) stored.
    pub fn ent_zero_copy_buf_index(&self) -> u16 {
        let [low, high, ..] = self.bufpool.uaddr.to_ne_bytes();
        u16::from_ne_bytes([low, high])
    }
}

/// `enum fuse_uring_cmd`: `cmd_op` of the submission entry.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UringCmd {
    /// `FUSE_IO_URING_CMD_REGISTER`: hands an entry's buffers to the kernel and waits for the first request.
    /// `addr` is an array of two `iovec`: the header, and the payload (null and empty on a queue with a
    /// pool). Completes with `EAGAIN` before INIT was answered and with `EINVAL` if a buffer is too small.
    Register = 1,
    /// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`: the reply is in the buffers; waits for the next request.
    CommitAndFetch = 2,
    /// `FUSE_IO_URING_CMD_ADD_QUEUE` (7.46): creates a queue with options. Must come before the queue's first
    /// REGISTER, which would create it without.
    AddQueue = 3,
    /// `FUSE_IO_URING_CMD_ADD_BUFPOOL` (7.46): gives a queue one pool for the payloads of all its entries.
    /// Comes after ADD_QUEUE and before REGISTER.
    AddBufpool = 4,
}

impl UringCmd {
    /// Every command, in ascending order.
    pub const ALL: &[Self] = &[Self::Register, Self::CommitAndFetch, Self::AddQueue, Self::AddBufpool];

    /// The command with this number.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Register),
            2 => Some(Self::CommitAndFetch),
            3 => Some(Self::AddQueue),
            4 => Some(Self::AddBufpool),
            _ => None,
        }
    }

    /// The C name without `FUSE_IO_URING_CMD_`, such as `"REGISTER"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "REGISTER",
            Self::CommitAndFetch => "COMMIT_AND_FETCH",
            Self::AddQueue => "ADD_QUEUE",
            Self::AddBufpool => "ADD_BUFPOOL",
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    #[test]
    fn the_zero_copy_slot_is_the_start_of_the_union() {
        let mut command =
            UringCmdReq { bufpool: UringBufpool { uaddr: !0, len: !0, reserved: !0 }, ..Default::default() };
        command.set_ent_zero_copy_buf_index(0x1234);
        assert_eq!(command.as_bytes()[24..26], 0x1234u16.to_ne_bytes());
        assert!(command.as_bytes()[26..].iter().all(|&byte| byte == 0));
        assert_eq!(command.ent_zero_copy_buf_index(), 0x1234);
    }

    #[test]
    fn the_old_form_is_a_prefix_of_the_new_one() {
        let old = UringCmdReqV45 { flags: 1, commit_id: 2, qid: 3, padding: [4; 6] };
        let new = UringCmdReq { flags: 1, commit_id: 2, qid: 3, padding: [4; 6], ..Default::default() };
        assert_eq!(new.as_bytes()[..24], *old.as_bytes());
        assert!(size_of::<UringCmdReq>() <= URING_SQE_CMD_SIZE);
    }

    #[test]
    fn commands_have_names_and_numbers() {
        for command in UringCmd::ALL {
            assert_eq!(UringCmd::from_raw(*command as u32), Some(*command));
        }
        assert_eq!(UringCmd::from_raw(0), None);
        assert_eq!(UringCmd::from_raw(5), None);
    }
}
