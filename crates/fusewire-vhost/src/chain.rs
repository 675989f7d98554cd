//! A request as it lies in the guest's memory: a chain of descriptors, which may say anything.

use crate::{
    dirty::Log,
    limits::{LONGEST_REQUEST, PIECES, QUEUE_SIZE},
    sys::{Mapped, Memory, Side},
};
use fusewire::{
    proto::{message::Message, negotiate::Agreed, operations::Operation},
    session::Seldom,
    types::Errno,
};
use fusewire_abi::{InHeader, Opcode, OutHeader};
use virtio_queue::{DescriptorChain, desc::split::Descriptor};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

const IN: usize = size_of::<InHeader>();
const OUT: usize = size_of::<OutHeader>();

/// One request, taken from a queue. Its memory is used for one after the other.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// Where its chain begins: what the queue wants back.
    pub head: u16,
    /// Which life of the queue it belongs to.
    pub epoch: u64,
    /// Whether somebody may have carried it out already, all of it or a part.
    pub again: bool,
    /// It has failed, and may have written data for the guest all the same.
    pub failed: bool,
    /// A copy: the guest cannot change it any more.
    pub header: InHeader,
    /// Copies of arguments, and of what follows them if that is not data.
    bytes: Vec<u8>,
    /// Of these, how many are arguments.
    args: usize,
    /// Bytes of data behind the arguments, left where they are.
    data: usize,
    /// What the guest sends, and where it wants the answer.
    mapped: Mapped,
}

/// What was found wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is no request: there is nothing to answer, or nowhere.
    Chain,
    /// It can be answered with an error.
    Request(Errno),
}

impl Request {
    /// Take what `chain` says. Nothing is copied yet.
    pub(crate) fn take(
        &mut self,
        chain: DescriptorChain<&GuestMemoryMmap>,
        memory: &Memory,
    ) -> Result<(), Fault> {
        let head = chain.head_index();
        self.take_all((head, false), chain, memory)
    }

    /// The same for a request that was under way when the process before this one ended.
    pub(crate) fn take_again(
        &mut self,
        head: u16,
        (table, size): (GuestAddress, u16),
        memory: &Memory,
    ) -> Result<(), Fault> {
        let (chain, is_whole) = walk(head, (table, size), memory);
        self.take_all((head, true), chain.into_iter(), memory)?;
        if is_whole { Ok(()) } else { Err(Fault::Chain) }
    }

    fn take_all(
        &mut self,
        (head, again): (u16, bool),
        chain: impl Iterator<Item = Descriptor>,
        memory: &Memory,
    ) -> Result<(), Fault> {
        (self.head, self.again, self.failed) = (head, again, false);
        self.header = InHeader::default();
        self.bytes.clear();
        (self.args, self.data) = (0, 0);
        self.mapped.begin(memory.clone());
        let mut whole = true;
        let mut is_answer = false;
        for (count, descriptor) in chain.enumerate() {
            let side = if descriptor.is_write_only() { Side::Outgoing } else { Side::Incoming };
            // What the device reads comes first.
            whole &= descriptor.is_write_only() || !is_answer;
            is_answer |= descriptor.is_write_only();
            whole &= self.mapped.push(side, descriptor.addr(), descriptor.len() as usize);
            // A table of its own may be longer than the queue, which a driver must not make use of.
            whole &= count < QUEUE_SIZE && self.mapped.pieces() <= PIECES;
            if !whole {
                return Err(Fault::Chain);
            }
        }
        Ok(())
    }

    /// Copy header, arguments and whatever is no data; from here on nothing that the guest does changes them.
    pub(crate) fn read(&mut self, agreed: Agreed) -> Result<(), Fault> {
        let incoming = self.mapped.incoming();
        if incoming.copy_out(0, self.header.as_mut_bytes()) < IN {
            return Err(Fault::Chain);
        }
        // The guest's numbers of processes mean nothing here.
        self.header.pid = 0;
        let len = self.header.len as usize;
        if len < IN || len > incoming.len() {
            return Err(Fault::Request(Errno::INVAL));
        }
        let rest = len - IN;
        let row = Operation::of(self.header.opcode);
        self.args = row.map_or(0, |row| Message::args_len(row, agreed.flags)).min(rest);
        if self.header.opcode == Opcode::Write as u32 {
            self.data = rest - self.args;
        }
        let copied = rest - self.data;
        if copied > LONGEST_REQUEST {
            return Err(Fault::Request(Errno::TOOBIG));
        }
        self.bytes.resize(copied, 0);
        incoming.copy_out(IN, &mut self.bytes);
        Ok(())
    }

    /// The request in its pieces.
    pub(crate) fn message(&self) -> Message<'_> {
        let (args, payload) = self.bytes.split_at(self.args);
        let message = Message::new(self.header, args, payload);
        match self.header.opcode {
            opcode if opcode == Opcode::Write as u32 => {
                message.shared(self.mapped.incoming(), IN + self.args, self.data)
            }
            opcode if opcode == Opcode::Read as u32 => {
                message.shared(self.mapped.outgoing(), OUT, self.room())
            }
            _ => message,
        }
    }

    /// Names and the like.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[self.args..]
    }

    /// Arguments and what follows them, without data.
    pub(crate) fn copy(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// It is another request from now on, with so many bytes of arguments.
    pub(crate) fn replace(&mut self, args: usize, bytes: Vec<u8>) {
        self.header.len = (IN + bytes.len()) as u32;
        (self.args, self.data, self.bytes) = (args.min(bytes.len()), 0, bytes);
    }

    /// Is the data of its answer where it has to be already?
    pub(crate) fn is_read(&self) -> bool {
        self.header.opcode == Opcode::Read as u32
    }

    /// How long an answer may be, without its header.
    pub(crate) fn room(&self) -> usize {
        self.mapped.outgoing().len().saturating_sub(OUT)
    }

    /// Put the answer where the guest wants it: `body`, or for a READ what is there already, `len` bytes. Returns how much was
    /// written.
    pub(crate) fn answer(&self, answer: Result<(&[u8], usize), Errno>) -> u32 {
        let outgoing = self.mapped.outgoing();
        if outgoing.len() < OUT {
            return 0;
        }
        let answer = match answer {
            Ok((_, len)) if len > self.room() => {
                static NO_ROOM: Seldom = Seldom::new();
                if let Some(times) = NO_ROOM.happened() {
                    let room = self.room();
                    tracing::warn!(header = ?self.header, len, room, times, "the guest has no room for an answer");
                }
                Err(Errno::IO)
            }
            other => other,
        };
        let (error, body, len) = match answer {
            Ok((body, len)) => (0, body, OUT + len),
            Err(errno) => (-errno.raw_os_error(), &[][..], OUT),
        };
        let header = OutHeader { len: len as u32, error, unique: self.header.unique };
        outgoing.copy_in(OUT, body);
        outgoing.copy_in(0, header.as_bytes());
        len as u32
    }

    /// Have the pages marked that an answer of `len` bytes was written to.
    pub(crate) fn mark(&self, len: u32, log: &Log) {
        // Of data that came before a READ failed nobody knows how much it was.
        let len = if self.failed && self.is_read() { usize::MAX } else { len as usize };
        self.mapped.places(len, |address, len| log.mark(address, len));
    }

    /// It is answered: give back what is more than `len` bytes of copies and room for `pieces` of the guest's memory.
    pub(crate) fn keep(&mut self, len: usize, pieces: usize) {
        if self.bytes.capacity() > len {
            self.bytes = Vec::new();
        }
        self.mapped.keep(pieces);
    }

    /// Let go of the guest's memory.
    pub(crate) fn end(&mut self) {
        self.mapped.end();
    }
}

/// The chain that begins with descriptor `head`, and whether it comes to an end: the queue's own walk begins in its ring alone.
fn walk(head: u16, (table, size): (GuestAddress, u16), memory: &Memory) -> (Vec<Descriptor>, bool) {
    /// Flags of a descriptor: another follows; it is a table of them.
    const NEXT: u16 = 1;
    const INDIRECT: u16 = 4;
    const LEN: u64 = size_of::<Descriptor>() as u64;
    let (mut chain, mut table, mut count, mut index) = (Vec::new(), table, u32::from(size), u32::from(head));
    let mut inside = false;
    while chain.len() < usize::from(size) && index < count {
        let at = table.0.checked_add(u64::from(index) * LEN).map(GuestAddress);
        let Some(descriptor) = at.and_then(|at| memory.read_obj::<Descriptor>(at).ok()) else { break };
        if descriptor.flags() & INDIRECT != 0 {
            if inside || descriptor.len() == 0 || !descriptor.len().is_multiple_of(LEN as u32) {
                break;
            }
            (inside, table, count, index) = (true, descriptor.addr(), descriptor.len() / LEN as u32, 0);
            continue;
        }
        chain.push(descriptor);
        if descriptor.flags() & NEXT == 0 {
            return (chain, true);
        }
        index = u32::from(descriptor.next());
    }
    (chain, false)
}
