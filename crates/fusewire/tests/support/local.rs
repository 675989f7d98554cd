//! A slot that plays prepared messages, on the thread that serves it.

use fusewire::{
    Errno, InitFlags, Result,
    abi::{InHeader, InitIn, Opcode},
    channel::{Answered, Slot},
    fs::FileSystem,
    proto::{
        Message,
        negotiate::{Agreed, Bounds},
    },
    session::Session,
};
use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};
use zerocopy::IntoBytes;

/// A session whose INIT is done, with a kernel that offers everything.
pub fn session<F: FileSystem>(fs: F) -> Session<F> {
    session_with(fs, InitFlags::all())
}

/// The same with a kernel that offers this.
pub fn session_with<F: FileSystem>(fs: F, offers: InitFlags) -> Session<F> {
    let (flags, flags2) = offers.to_words();
    let init = InitIn { major: 7, minor: 46, max_readahead: 128 << 10, flags, flags2, ..Default::default() };
    let len = (size_of::<InHeader>() + size_of::<InitIn>()) as u32;
    let header = InHeader { len, opcode: Opcode::Init as u32, unique: 2, ..Default::default() };
    let message = Message::new(header, &init.as_bytes()[..16], &init.as_bytes()[16..]);
    let bounds = Bounds { default_permissions: true, ..Bounds::default() };
    match Session::begin(fs, &message, bounds) {
        Ok((_, Ok(session))) => session,
        Ok((_, Err(_))) => panic!("the versions do not match"),
        Err(errno) => panic!("INIT was refused: {errno}"),
    }
}

/// Plays its messages in turn, `rounds` times each.
pub struct LocalSlot<'a> {
    agreed: Agreed,
    messages: Vec<Message<'a>>,
    left: u64,
    next: usize,
    area: Vec<u8>,
    answer: Answered,
    /// How many answers were errors.
    pub errors: u64,
}

impl<'a> LocalSlot<'a> {
    /// Over requests as they are read from `/dev/fuse`.
    pub fn new(agreed: Agreed, requests: &'a [Vec<u8>], rounds: u64) -> Self {
        let split = |bytes: &'a Vec<u8>| Message::split(bytes, agreed.flags).expect("a whole request");
        Self {
            agreed,
            messages: requests.iter().map(split).collect(),
            left: rounds * requests.len() as u64,
            next: 0,
            area: vec![0; agreed.reply_area()],
            answer: Answered::NOTHING,
            errors: 0,
        }
    }

    /// Play them so many times more.
    pub fn rewind(&mut self, rounds: u64) {
        self.left = rounds * self.messages.len() as u64;
    }

    /// The last answer.
    pub fn answer(&self) -> Option<Result<usize>> {
        self.answer.get()
    }

    /// The bytes of the last answer.
    pub fn bytes(&self) -> Result<&[u8]> {
        match self.answer.get() {
            Some(Ok(len)) => Ok(&self.area[..len]),
            Some(Err(errno)) => Err(errno),
            None => Err(Errno::NOMSG),
        }
    }
}

impl Slot for LocalSlot<'_> {
    fn agreed(&self) -> Agreed {
        self.agreed
    }

    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])> {
        self.left = self.left.checked_sub(1)?;
        let message = self.messages[self.next];
        self.next += 1;
        if self.next == self.messages.len() {
            self.next = 0;
        }
        Some((message, &mut self.area))
    }

    fn area(&mut self) -> &mut [u8] {
        &mut self.area
    }

    async fn finish(&mut self, _unique: u64, answer: Answered) {
        self.errors += u64::from(matches!(answer.get(), Some(Err(_))));
        self.answer = answer;
    }
}

/// Poll once a future that never waits.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits for something"),
    }
}
