//! What a monitor says: vhost-user messages with odd numbers, lengths, regions and descriptors, in any order.

use arbitrary::{Result, Unstructured};
use fusewire_vhost::Options;
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, ftruncate, memfd_create},
    io::IoSlice,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use std::{
    io::Read,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use super::{device, no_panic_is_small, tree::Tree};

/// Most messages of one input.
const MESSAGES: usize = 24;
/// Of the memory that regions are of.
const MEMORY: u64 = 1 << 20;
/// How long a connection may take to end once the other side is gone.
const LIMIT: Duration = Duration::from_secs(30);

mod request {
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const GET_CONFIG: u32 = 24;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
    /// What comes after the last.
    pub const END: u32 = 50;
}

/// The features that a device of ours has, and its protocol's.
const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28;

/// A connection from beginning to end, with messages as `data` says.
pub fn run(data: &[u8]) {
    no_panic_is_small();
    thread_local! {
        static TREE: Tree = Tree::new();
    }
    TREE.with(|tree| {
        let window = if data.first().is_some_and(|byte| byte & 1 == 0) { 2 << 20 } else { 0 };
        let options = Options { queues: 2, window, ..Options::default() };
        let (server, stream) = device(&tree.share(), options);
        let mut peer = Peer::new(stream);
        _ = peer.talk(&mut Unstructured::new(data.get(1..).unwrap_or_default()));
        drop(peer);
        let start = Instant::now();
        while !server.is_finished() {
            assert!(start.elapsed() < LIMIT, "the device does not end with its monitor");
            std::thread::sleep(Duration::from_micros(200));
        }
        // It may say that the monitor broke the protocol.
        _ = server.join().expect("no panic");
    });
}

struct Peer {
    stream: UnixStream,
    memory: OwnedFd,
    events: Vec<OwnedFd>,
}

impl Peer {
    fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        let memory = memfd_create(c"fusewire-fuzz", MemfdFlags::CLOEXEC).expect("memory");
        ftruncate(&memory, MEMORY).expect("memory");
        let event = || eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
        Self { stream, memory, events: vec![event(), event()] }
    }

    fn talk(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        // Most inputs begin as they should, or nothing would come of them.
        if u.ratio(7, 8)? {
            self.send((request::SET_OWNER, 1), &[], &[]);
            self.send((request::SET_FEATURES, 1), &FEATURES.to_ne_bytes(), &[]);
            self.send((request::SET_PROTOCOL_FEATURES, 1), &u64::MAX.to_ne_bytes(), &[]);
            if u.ratio(3, 4)? {
                let region = [0u64, MEMORY, 1 << 40, 0];
                let body = [[1u64].as_slice(), &region].concat();
                self.send((request::SET_MEM_TABLE, 1), &bytes(&body), &[self.memory.as_fd()]);
            }
        }
        for _ in 0..MESSAGES {
            if u.is_empty() {
                break;
            }
            self.message(u)?;
            // Answers are thrown away, so that there is room for more.
            while self.stream.read(&mut [0; 4096]).is_ok_and(|len| len > 0) {}
        }
        Ok(())
    }

    /// One message.
    fn message(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let code = u.int_in_range(0..=request::END)?;
        let index = *u.choose(&[0u32, 1, 2, 3, 255, 256, u32::MAX])?;
        let number = *u.choose(&[0u32, 1, 2, 7, 16, 128, 1024, 1025, 32768, 65535, 65536, u32::MAX])?;
        let mut body = match code {
            request::SET_FEATURES | request::SET_PROTOCOL_FEATURES => {
                let other = u.arbitrary()?;
                bytes(&[*u.choose(&[FEATURES, 0, u64::MAX, FEATURES & !(1 << 30), other])?])
            }
            request::SET_MEM_TABLE => regions(u)?,
            request::ADD_MEM_REG | request::REM_MEM_REG => bytes(&[&[0u64][..], &region(u)?].concat()),
            request::SET_VRING_NUM
            | request::SET_VRING_BASE
            | request::GET_VRING_BASE
            | request::SET_VRING_ENABLE => bytes(&[u64::from(index) | u64::from(number) << 32]),
            request::SET_VRING_ADDR => {
                let flags = *u.choose(&[0u32, 1, 2, u32::MAX])?;
                let mut body = vec![u64::from(index) | u64::from(flags) << 32];
                for _ in 0..4 {
                    body.push(place(u)?);
                }
                bytes(&body)
            }
            request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR => {
                // Bit 8: there is no descriptor.
                bytes(&[u64::from(index & 0xff) | u64::from(u.ratio(1, 8)?) << 8])
            }
            request::GET_CONFIG => {
                let (offset, len) = (number, *u.choose(&[0u32, 4, 44, 256, 257, u32::MAX])?);
                let mut body = [offset, len, 0].map(u32::to_ne_bytes).concat();
                body.resize(body.len() + len.min(300) as usize, 0);
                body
            }
            _ => u.bytes(u.len().min(24))?.to_vec(),
        };
        if u.ratio(1, 12)? {
            body.truncate(u.int_in_range(0..=body.len())?);
        }
        let flags = match u.int_in_range(0..=15)? {
            0 => u.arbitrary()?,
            1 => 5,
            2 => 1 | 8,
            _ => 1,
        };
        let wanted = match code {
            request::SET_MEM_TABLE => body.first().map_or(0, |count| usize::from(*count)),
            request::ADD_MEM_REG
            | request::SET_VRING_KICK
            | request::SET_VRING_CALL
            | request::SET_VRING_ERR => 1,
            _ => 0,
        };
        // One too few, or too many, now and then.
        let count = match u.int_in_range(0..=11)? {
            0 => wanted.saturating_sub(1),
            1 => wanted + 1,
            _ => wanted,
        };
        let mut fds = Vec::new();
        for _ in 0..count.min(10) {
            let is_memory =
                matches!(code, request::SET_MEM_TABLE | request::ADD_MEM_REG) != u.ratio(1, 12)?;
            fds.push(if is_memory { self.memory.as_fd() } else { u.choose(&self.events)?.as_fd() });
        }
        self.send((code, flags), &body, &fds);
        Ok(())
    }

    /// Send a message; who has hung up does not hear it.
    fn send(&self, (code, flags): (u32, u32), body: &[u8], fds: &[BorrowedFd<'_>]) {
        let header = [code, flags, body.len() as u32].map(u32::to_ne_bytes).concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        _ = sendmsg(&self.stream, &parts, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// An address of the monitor's: most often in its memory.
fn place(u: &mut Unstructured<'_>) -> Result<u64> {
    let within = (1 << 40) + u64::from(u.arbitrary::<u16>()?) * 16;
    Ok(*u.choose(&[within, within, within, within + 1, (1 << 40) + MEMORY - 16, 0, u64::MAX, 1 << 40])?)
}

/// Guest address, length, monitor's address, place in the file.
fn region(u: &mut Unstructured<'_>) -> Result<[u64; 4]> {
    let number = |u: &mut Unstructured<'_>, right: u64| -> Result<u64> {
        let odd = [0, 1, 4095, 4096, MEMORY, MEMORY + 1, 1 << 47, u64::MAX - 4095, u64::MAX];
        if u.ratio(2, 3)? { Ok(right) } else { Ok(*u.choose(&odd)?) }
    };
    let at = MEMORY * u64::from(u.int_in_range(0..=3u8)?);
    Ok([number(u, at)?, number(u, MEMORY)?, number(u, (1 << 40) + at)?, number(u, 0)?])
}

fn regions(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let count = u.int_in_range(0..=9u32)?;
    let said = if u.ratio(1, 12)? { u.arbitrary()? } else { count };
    let mut body = vec![u64::from(said)];
    for _ in 0..count {
        body.extend(region(u)?);
    }
    Ok(bytes(&body))
}
