//! One ring entry: a request's memory and where it is in its life.

use super::{
    policy::{Command, Remedy, remedy},
    thread::Local,
};
use crate::{
    proto::{message::Message, negotiate::Agreed, operations::Operation},
    session::Slot,
    sys::uring::Entry,
    types::*,
};
use fusewire_abi::{self as abi, UringReqHeader};
use std::{future::poll_fn, rc::Rc, task::Poll};
use zerocopy::{FromBytes, IntoBytes};

/// Room for answers that are a structure: made beside the payload, which may hold the request's name or data.
const SMALL: usize = 1024;

/// The largest error that may be answered: from 512 on they are the kernel's own (`ERESTARTSYS`).
const LAST_ERRNO: i32 = 511;

/// Where an entry is.
#[derive(Debug)]
enum Phase {
    /// It was never given to the kernel.
    New(Entry),
    /// The kernel has it, by this command: it waits for a request, after answering one.
    Lent(Command),
    /// It holds a request.
    Work(Entry, Request),
    /// It is of no use any more.
    Ended,
}

/// A request that is in work.
#[derive(Clone, Copy, Debug)]
struct Request {
    unique: u64,
    commit_id: u64,
    /// Bytes of the payload.
    len: usize,
    area: Area,
}

/// Where the answer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Area {
    /// Where it has to be. What the request had there has been put aside if there was any.
    Payload,
    /// Beside it.
    Small,
}

/// A slot of one ring thread.
#[derive(Debug)]
pub(super) struct UringSlot {
    local: Rc<Local>,
    id: usize,
    queue: usize,
    agreed: Agreed,
    phase: Phase,
    small: Box<[u8; SMALL]>,
    /// Payloads of requests whose answers may be long, too.
    aside: Vec<u8>,
}

impl UringSlot {
    /// `queue` is the index among those of the thread.
    pub(super) fn new(local: Rc<Local>, (id, queue): (usize, usize), agreed: Agreed, entry: Entry) -> Self {
        let small = Box::new([0; SMALL]);
        Self { local, id, queue, agreed, phase: Phase::New(entry), small, aside: Vec::new() }
    }

    /// Have a request in the entry, or have the kernel put one there.
    fn fetch(&mut self) -> Poll<bool> {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::New(entry) => {
                self.local.register(self.id, entry, self.queue);
                self.phase = Phase::Lent(Command::Register);
                Poll::Pending
            }
            Phase::Lent(command) => match self.local.take(self.id, self.queue) {
                None => {
                    self.phase = Phase::Lent(command);
                    Poll::Pending
                }
                Some((entry, Ok(()))) => {
                    self.phase = self.begin(entry);
                    Poll::Ready(true)
                }
                Some((entry, Err(errno))) => self.failed(command, entry, errno),
            },
            work @ Phase::Work(..) => {
                self.phase = work;
                Poll::Ready(true)
            }
            Phase::Ended => Poll::Ready(false),
        }
    }

    fn failed(&mut self, command: Command, entry: Entry, errno: Errno) -> Poll<bool> {
        match remedy(command, errno) {
            Remedy::Register => {
                tracing::debug!(?command, %errno, "registered again");
                self.phase = Phase::New(entry);
                self.local.retry();
                self.fetch()
            }
            Remedy::Close => {
                self.local.close();
                Poll::Ready(false)
            }
            Remedy::GiveUp => {
                self.local.refused(errno);
                Poll::Ready(false)
            }
        }
    }

    fn begin(&mut self, mut entry: Entry) -> Phase {
        let (head, payload) = entry.parts();
        let header =
            abi::InHeader::read_from_prefix(&head.in_out).map_or_else(|_| Default::default(), |read| read.0);
        let len = (head.ring_ent_in_out.payload_sz as usize).min(payload.len());
        let answer = Operation::of(header.opcode).map_or(0, Operation::answer_size);
        let area = if len > 0 && answer <= SMALL { Area::Small } else { Area::Payload };
        if area == Area::Payload && len > 0 {
            self.aside.clear();
            self.aside.extend_from_slice(&payload[..len]);
        }
        let commit_id = head.ring_ent_in_out.commit_id;
        Phase::Work(entry, Request { unique: header.unique, commit_id, len, area })
    }
}

/// The request's pieces.
fn message<'a>(head: &'a UringReqHeader, payload: &'a [u8], agreed: Agreed) -> Message<'a> {
    let header =
        abi::InHeader::read_from_prefix(&head.in_out).map_or_else(|_| Default::default(), |read| read.0);
    let args = Operation::of(header.opcode).map_or(0, |row| Message::args_len(row, agreed.flags));
    // The answer to a retrieve notification (Linux 6.18) has its arguments with the data, and nothing where they belong.
    if header.len as usize == size_of::<abi::InHeader>() + payload.len() && args <= payload.len() {
        let (args, payload) = payload.split_at(args);
        return Message { header, args, payload };
    }
    Message { header, args: &head.op_in[..args.min(head.op_in.len())], payload }
}

impl Slot for UringSlot {
    fn agreed(&self) -> Agreed {
        self.agreed
    }

    fn area(&mut self) -> &mut [u8] {
        match &mut self.phase {
            Phase::Work(entry, Request { area: Area::Payload, .. }) => entry.parts().1,
            _ => &mut self.small[..],
        }
    }

    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])> {
        if !poll_fn(|_| self.fetch()).await {
            return None;
        }
        let Phase::Work(entry, request) = &mut self.phase else { return None };
        let (head, payload) = entry.parts();
        Some(match request.area {
            Area::Small => (message(head, &payload[..request.len], self.agreed), &mut self.small[..]),
            Area::Payload => {
                let aside = if request.len > 0 { &self.aside[..] } else { &[] };
                (message(head, aside, self.agreed), payload)
            }
        })
    }

    async fn finish(&mut self, unique: u64, answer: Option<Result<usize>>) {
        let Phase::Work(mut entry, request) =
            std::mem::replace(&mut self.phase, Phase::Lent(Command::Commit))
        else {
            return;
        };
        // Every request is committed, also one that has no answer: its entry is needed for the next.
        let (error, len) = match answer {
            Some(Ok(len)) => (0, len),
            // The kernel makes EINVAL of what is out of range.
            Some(Err(errno)) if errno.raw_os_error() > LAST_ERRNO => {
                tracing::error!(unique, %errno, "an answer that is no error; EIO instead");
                (-Errno::IO.raw_os_error(), 0)
            }
            Some(Err(errno)) => (-errno.raw_os_error(), 0),
            None => (0, 0),
        };
        self.local.settle(&mut entry);
        let (head, payload) = entry.parts();
        if request.area == Area::Small {
            payload[..len].copy_from_slice(&self.small[..len]);
        }
        debug_assert!(unique == request.unique);
        let out =
            abi::OutHeader { len: (size_of::<abi::OutHeader>() + len) as u32, error, unique: request.unique };
        head.in_out[..size_of_val(&out)].copy_from_slice(out.as_bytes());
        head.ring_ent_in_out.payload_sz = len as u32;
        self.local.commit(self.id, entry, self.queue, request.commit_id);
    }
}
