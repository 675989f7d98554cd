//! One request's memory on `/dev/fuse`.

use super::{buffer::Buffer, reader::Reader};
use crate::{
    proto::{message::Message, negotiate::Agreed, operations::Operation},
    session::{Answered, Slot},
    sys,
    types::*,
};
use fusewire_abi as abi;
use rustix::fd::AsFd;
use std::{future::poll_fn, rc::Rc};
use zerocopy::IntoBytes;

/// Header and arguments of a WRITE: they end where its data begin, at a page border.
const HEAD: usize = size_of::<abi::InHeader>() + size_of::<abi::WriteIn>();
const OUT: usize = size_of::<abi::OutHeader>();
/// Room for answers that are a structure: with their header they stay within one page, which the kernel then looks up
/// once instead of twice.
const SMALL: usize = 1024;
/// Requests and answers above this leave memory worth giving back.
const LARGE: usize = 64 << 10;

/// A slot of one reader thread.
#[derive(Debug)]
pub(super) struct DevFuseSlot {
    reader: Rc<Reader>,
    id: usize,
    agreed: Agreed,
    request: Buffer,
    answer: Buffer,
    small: Buffer,
    /// The answer is made in `small`.
    is_small: bool,
    /// Bytes of the request in work.
    len: usize,
    /// Bytes of the largest request or answer since memory was given back.
    touched: usize,
}

impl DevFuseSlot {
    pub(super) fn new(reader: Rc<Reader>, id: usize, agreed: Agreed) -> Self {
        let request = Buffer::new(HEAD, (agreed.max_write as usize).max(abi::MIN_READ_BUFFER));
        let answer = Buffer::new(OUT, agreed.reply_area());
        let small = Buffer::new(0, OUT + SMALL);
        Self { reader, id, agreed, request, answer, small, is_small: false, len: 0, touched: 0 }
    }
}

/// Where the answer to the request in work is made.
fn answer_area<'a>(
    is_small: bool,
    small: &'a mut Buffer,
    answer: &'a mut Buffer,
    reply: usize,
) -> &'a mut [u8] {
    match is_small {
        true => &mut small.around(0, OUT + SMALL)[OUT..],
        false => answer.around(0, reply),
    }
}

impl Slot for DevFuseSlot {
    fn agreed(&self) -> Agreed {
        self.agreed
    }

    fn area(&mut self) -> &mut [u8] {
        let reply = self.agreed.reply_area();
        answer_area(self.is_small, &mut self.small, &mut self.answer, reply)
    }

    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])> {
        let room = (self.agreed.max_write as usize).max(abi::MIN_READ_BUFFER);
        let (reader, id, request, answer) = (&self.reader, self.id, &mut self.request, &mut self.answer);
        let (reply, touched) = (self.agreed.reply_area(), &mut self.touched);
        self.len = poll_fn(|_| {
            let received = reader.receive(id, request.around(HEAD, room));
            if received.is_pending() && *touched > LARGE && reader.is_spare(id) {
                sys::memory::discard(request.around(0, room));
                sys::memory::discard(answer.around(0, reply));
                *touched = 0;
            }
            received
        })
        .await?;
        self.touched = self.touched.max(self.len);
        let message =
            Message::split(self.request.view(HEAD, self.len), self.agreed.flags).unwrap_or_else(|_| {
                // Not a request; decoding refuses it by its opcode, and `finish` answers only if it had a number.
                Message::new(abi::InHeader::default(), &[], &[])
            });
        self.reader.received(message.header.opcode, message.header.pid);
        self.is_small = Operation::of(message.header.opcode).is_some_and(|row| row.answer_size() <= SMALL);
        Some((message, answer_area(self.is_small, &mut self.small, &mut self.answer, reply)))
    }

    async fn finish(&mut self, unique: u64, answer: Answered) {
        let Some(answer) = answer.get() else { return };
        if unique == 0 {
            tracing::error!("the kernel sent what is not a request; ignored");
            return;
        }
        let (error, len) = match answer {
            Ok(len) => (0, OUT + len),
            Err(errno) => (-errno.raw_os_error(), OUT),
        };
        self.touched = self.touched.max(len);
        let header = abi::OutHeader { len: len as u32, error, unique };
        let (buffer, before) = if self.is_small { (&mut self.small, 0) } else { (&mut self.answer, OUT) };
        let whole = buffer.around(before, len - before);
        whole[..OUT].copy_from_slice(header.as_bytes());
        match rustix::io::write(self.reader.device().as_fd(), whole) {
            Ok(_) => {}
            // The caller was killed meanwhile, or the connection is gone.
            Err(Errno::NOENT | Errno::NODEV | Errno::CONNABORTED) => {}
            Err(errno) => {
                tracing::error!(unique, len, error, %errno, "the kernel refused an answer");
                // An errno out of range leaves the request open, and its caller waiting; anything else has ended it.
                let error = -Errno::IO.raw_os_error();
                let header = abi::OutHeader { len: OUT as u32, error, unique };
                _ = rustix::io::write(self.reader.device().as_fd(), header.as_bytes());
            }
        }
    }
}
