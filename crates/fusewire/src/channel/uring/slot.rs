//! One ring entry: a request's memory and where it is in its life.

use super::{
    policy::{Command, Remedy, remedy},
    rest::{Own, names_a_file},
    thread::Local,
};
use crate::{
    limits,
    pages::{Ledger, Lent, Pages},
    proto::{message::Message, negotiate::Agreed, operations::Operation},
    session::{Answered, Slot},
    sys::{memory, uring::Entry},
    types::*,
};
use fusewire_abi::{self as abi, UringEntFlags, UringReqHeader};
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
    /// It holds one that nobody waits for, and is given no other for so long: see `rest.rs`.
    Resting(Entry, Request),
    /// It is of no use any more.
    Ended,
}

/// A request that is in work.
#[derive(Clone, Copy, Debug)]
struct Request {
    unique: u64,
    opcode: u32,
    node: u64,
    commit_id: u64,
    /// Bytes of the payload.
    len: usize,
    area: Area,
    /// Where the client's pages are, and how many bytes, if its data is there.
    pages: Option<(u16, usize)>,
}

/// Where the answer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Area {
    /// Where it has to be. What the request had there has been put aside if there was any.
    Payload,
    /// Beside it.
    Small,
    /// In the client's pages, or for the time being beside everything.
    Pages,
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
    /// For answers that have to go into a client's pages and are not a file's: as much as was ever used takes memory.
    keep: Vec<u8>,
    /// A long request has left memory that is to be given back.
    leaves: bool,
    /// From where on an answer is there, and what is in the client's pages already.
    ledger: Ledger,
}

impl UringSlot {
    /// `queue` is the index among those of the thread.
    pub(super) fn new(local: Rc<Local>, (id, queue): (usize, usize), agreed: Agreed, entry: Entry) -> Self {
        let small = Box::new([0; SMALL]);
        let (aside, keep, ledger) = (Vec::new(), Vec::new(), Ledger::default());
        let phase = Phase::New(entry);
        Self { local, id, queue, agreed, phase, small, aside, keep, leaves: false, ledger }
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
                Some((entry, Ok(()))) => match self.begin(entry) {
                    Phase::Work(entry, request) => self.work(entry, request),
                    other => {
                        self.phase = other;
                        Poll::Ready(true)
                    }
                },
                Some((entry, Err(errno))) => self.failed(command, entry, errno),
            },
            work @ Phase::Work(..) => {
                self.phase = work;
                Poll::Ready(true)
            }
            Phase::Resting(entry, request) if self.local.is_called() => {
                self.local.takes_part(self.queue);
                self.commit(entry, request, (0, 0));
                Poll::Pending
            }
            Phase::Resting(..) if self.local.is_closed() => Poll::Ready(false),
            resting @ Phase::Resting(..) => {
                self.phase = resting;
                Poll::Pending
            }
            Phase::Ended => Poll::Ready(false),
        }
    }

    /// A request has come. If it is one of our own, nobody waits for it: the entry rests over it if it may, and is ready for the
    /// next request otherwise.
    fn work(&mut self, mut entry: Entry, request: Request) -> Poll<bool> {
        match Own::of(request.opcode, request.unique) {
            None => {
                self.local.begins(self.queue, request.opcode, request.node);
                self.phase = Phase::Work(entry, request);
                return Poll::Ready(true);
            }
            Some(Own::Rest) if self.local.stands_in() => {
                if self.local.rests(self.id, self.queue) {
                    memory::discard(entry.parts().1);
                    self.keep = Vec::new();
                }
                self.phase = Phase::Resting(entry, request);
            }
            Some(Own::Rest) => self.commit(entry, request, (0, 0)),
            Some(Own::Stir(queue)) => {
                self.commit(entry, request, (0, 0));
                self.local.stirred(self.queue, queue);
            }
        }
        Poll::Pending
    }

    /// Answer: an error, or 0, and how many bytes of payload. The entry is the kernel's then.
    fn commit(&mut self, mut entry: Entry, request: Request, (error, len): (i32, usize)) {
        let head = entry.parts().0;
        let out =
            abi::OutHeader { len: (size_of::<abi::OutHeader>() + len) as u32, error, unique: request.unique };
        head.in_out[..size_of_val(&out)].copy_from_slice(out.as_bytes());
        head.ring_ent_in_out.payload_sz = len as u32;
        self.local.commit(self.id, entry, self.queue, request.commit_id);
        self.phase = Phase::Lent(Command::Commit);
    }

    fn failed(&mut self, command: Command, entry: Entry, errno: Errno) -> Poll<bool> {
        match remedy(command, errno) {
            Remedy::Register => {
                tracing::debug!(?command, %errno, "registered again");
                self.phase = Phase::New(entry);
                self.local.retry(self.queue, command);
                self.fetch()
            }
            Remedy::Close => {
                self.local.close();
                Poll::Ready(false)
            }
            Remedy::GiveUp => {
                self.local.refused(self.queue, errno);
                Poll::Ready(false)
            }
        }
    }

    fn begin(&mut self, mut entry: Entry) -> Phase {
        let head = entry.parts().0;
        let header =
            abi::InHeader::read_from_prefix(&head.in_out).map_or_else(|_| Default::default(), |read| read.0);
        let abi::UringEntInOut { commit_id, payload_sz, flags, .. } = head.ring_ent_in_out;
        let row = Operation::of(header.opcode);
        let answer = row.map_or(0, Operation::answer_size);
        let read_size = read_size(head);
        let is_lent = UringEntFlags::from_bits_retain(flags).contains(UringEntFlags::ZERO_COPY);
        let lent = entry.pooled().and_then(|pooled| pooled.pages).filter(|_| is_lent);
        let is_read = header.opcode == abi::Opcode::Read as u32;
        let size = if is_read { read_size } else { payload_sz as usize };
        let pages = lent.map(|index| (index, size));
        // As `fuse_uring_req_has_copyable_payload` has it.
        entry.locate(if is_lent { !is_read } else { payload_sz > 0 || answer > 0 });
        let is_pooled = entry.pooled().is_some();
        let payload = entry.parts().1;
        let len = if is_lent { 0 } else { (payload_sz as usize).min(payload.len()) };
        let area = match pages {
            Some(_) if is_read => Area::Pages,
            _ if (len > 0 || is_pooled) && answer <= SMALL => Area::Small,
            _ => Area::Payload,
        };
        if area == Area::Payload && len > 0 {
            self.aside.clear();
            self.aside.extend_from_slice(&payload[..len]);
        }
        if area == Area::Pages && self.keep.len() < self.agreed.reply_area() {
            self.keep = vec![0; self.agreed.reply_area()];
        }
        let (opcode, node) = (header.opcode, header.nodeid);
        Phase::Work(entry, Request { unique: header.unique, opcode, node, commit_id, len, area, pages })
    }
}

impl UringSlot {
    /// A request is about to be answered with so many bytes: see to the memory that it has used.
    fn tidy(&mut self, entry: &mut Entry, request: Request, answer: usize) {
        let used = request.len.max(answer);
        let Some(number) = entry.pool_slot() else {
            if used > limits::RING_LARGE || self.leaves {
                self.leaves = self.local.used(self.id, used);
                if self.leaves && request.area == Area::Pages {
                    self.keep = Vec::new();
                }
            }
            return;
        };
        // The slot is anybody's once the request is answered.
        if used > limits::RING_LARGE && number >= self.local.kept_slots() {
            let payload = entry.parts().1;
            let from = if answer > payload.len() { 0 } else { answer };
            memory::discard(&mut payload[from..]);
        }
    }

    /// What is to go into the client's pages and is not there yet.
    async fn put_back(&self, answer: Answered) -> Answered {
        let Phase::Work(_, Request { pages: Some((index, len)), area: Area::Pages, .. }) = self.phase else {
            return answer;
        };
        let Some(Ok(length)) = answer.get() else { return answer };
        let put = Lent::again(index, len, &self.ledger).put_back(&self.keep[..length]).await;
        put.map(|()| length).into()
    }
}

/// How much a READ asks for: where its data goes, there is room for as much.
fn read_size(head: &UringReqHeader) -> usize {
    abi::ReadIn::read_from_prefix(&head.op_in).map_or(0, |(args, _)| args.size as usize)
}

/// The request's pieces.
fn message<'a>(head: &'a UringReqHeader, payload: &'a [u8], agreed: Agreed) -> Message<'a> {
    let header =
        abi::InHeader::read_from_prefix(&head.in_out).map_or_else(|_| Default::default(), |read| read.0);
    let args = Operation::of(header.opcode).map_or(0, |row| Message::args_len(row, agreed.flags));
    // The answer to a retrieve notification (Linux 6.18) has its arguments with the data, and nothing where they belong.
    if header.len as usize == size_of::<abi::InHeader>() + payload.len() && args <= payload.len() {
        let (args, payload) = payload.split_at(args);
        return Message::new(header, args, payload);
    }
    Message::new(header, &head.op_in[..args.min(head.op_in.len())], payload)
}

impl Slot for UringSlot {
    fn agreed(&self) -> Agreed {
        self.agreed
    }

    fn area(&mut self) -> &mut [u8] {
        match &mut self.phase {
            Phase::Work(entry, Request { area: Area::Payload, .. }) => entry.parts().1,
            Phase::Work(_, Request { area: Area::Pages, .. }) => &mut self.keep,
            _ => &mut self.small[..],
        }
    }

    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])> {
        if !poll_fn(|_| self.fetch()).await {
            return None;
        }
        let Phase::Work(entry, request) = &mut self.phase else { return None };
        let (head, payload) = entry.parts();
        let pages = request.pages.map(|(index, len)| Pages::Lent(Lent::new(index, len, &self.ledger)));
        let (sent, area) = match request.area {
            Area::Small => (&payload[..request.len], &mut self.small[..]),
            Area::Pages => (&[][..], &mut self.keep[..]),
            Area::Payload if request.len > 0 => (&self.aside[..], payload),
            Area::Payload => (&[][..], payload),
        };
        Some((Message { pages, ..message(head, sent, self.agreed) }, area))
    }

    async fn finish(&mut self, unique: u64, answer: Answered) {
        let answer = self.put_back(answer).await.get();
        let Phase::Work(mut entry, request) = std::mem::replace(&mut self.phase, Phase::Ended) else {
            return;
        };
        if request.opcode == abi::Opcode::Open as u32 {
            self.local.opened(request.node, answer.and_then(Result::err));
        }
        let length = answer.and_then(Result::ok).unwrap_or(0);
        self.local.spares_rest(self.queue, request.node, || {
            let area = if request.area == Area::Small { &self.small[..] } else { entry.parts().1 };
            names_a_file(request.opcode, area.get(..length).unwrap_or(&[]))
        });
        self.local.settle(&mut entry, &self.keep);
        let (_, payload) = entry.parts();
        // Every request is committed, also one that has no answer: its entry is needed for the next.
        let (error, len) = match (answer, request.area) {
            // The kernel makes EINVAL of what is out of range.
            (Some(Err(errno)), _) if errno.raw_os_error() > LAST_ERRNO => {
                tracing::error!(unique, %errno, "an answer that is no error; EIO instead");
                (-Errno::IO.raw_os_error(), 0)
            }
            (Some(Err(errno)), _) => (-errno.raw_os_error(), 0),
            (None, _) | (Some(Ok(0)), _) => (0, 0),
            (Some(Ok(len)), Area::Small) => match payload.get_mut(..len) {
                Some(room) => {
                    room.copy_from_slice(&self.small[..len]);
                    (0, len)
                }
                // The kernel has given it no room, so it expects nothing.
                None => (-Errno::IO.raw_os_error(), 0),
            },
            (Some(Ok(len)), _) => (0, len),
        };
        debug_assert!(unique == request.unique);
        // An error may come after many bytes.
        let is_cut = matches!(answer, Some(Err(_))) && request.opcode == abi::Opcode::Read as u32;
        self.tidy(&mut entry, request, if is_cut { usize::MAX } else { len });
        self.commit(entry, request, (error, len));
    }
}
