//! Requests through one queue, in the shape that Linux gives them.

use super::{
    Layout, body_len,
    ring::{Descriptor, INDIRECT, NEXT, Ring, WRITE},
};
use fusewire::types::{Errno, Result};
use fusewire_abi::{self as abi, InHeader, InitFlags, Opcode, OutHeader};
use std::{ffi::CStr, time::Duration};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Room for header, arguments and names of a request, and for the header and the structure of an answer.
pub(super) const HEAD: u64 = 4096;
/// Descriptors of one request: head, data, answer's head, answer's data. And a page for a table of them.
const CHAIN: u16 = 4;
const TABLE: u64 = 4096;

/// An answer that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Which of the requests under way it answers: what [`Driver::send`] returned.
    pub frame: u16,
    /// Bytes without header, or the errno.
    pub result: Result<usize>,
    /// The request's number, as the answer has it.
    pub unique: u64,
}

/// Of a file to be read and written.
pub(super) fn create_args() -> abi::CreateIn {
    abi::CreateIn { flags: 0o102, mode: 0o100644, umask: 0o022, open_flags: 0 }
}

/// The driver of one queue.
#[derive(Debug)]
pub struct Driver {
    /// The ring, for tests that go around the driver.
    pub ring: Ring,
    buffers: GuestAddress,
    frame: u64,
    data: u32,
    indirect: bool,
    free: Vec<u16>,
    unique: u64,
    /// Who asks, from now on.
    pub caller: (u32, u32),
}

impl Driver {
    fn frame_bytes(layout: &Layout) -> u64 {
        2 * HEAD + TABLE + u64::from(layout.data).next_multiple_of(4096)
    }

    pub(super) fn bytes(layout: &Layout) -> u64 {
        Self::frame_bytes(layout) * u64::from(layout.depth)
    }

    pub(super) fn new(ring: Ring, buffers: GuestAddress, layout: &Layout) -> Self {
        let depth = layout.depth.min(ring.size / CHAIN);
        let (frame, free) = (Self::frame_bytes(layout), (0..depth).rev().collect());
        let (data, indirect) = (layout.data, layout.indirect);
        Self { ring, buffers, frame, data, indirect, free, unique: 0, caller: (0, 0) }
    }

    pub(super) fn place(&self, frame: u16) -> u64 {
        self.buffers.0 + u64::from(frame) * self.frame
    }

    /// Where the data of frame `frame` lies in the guest's memory.
    pub fn data(&self, frame: u16) -> GuestAddress {
        GuestAddress(self.place(frame) + 2 * HEAD + TABLE)
    }

    /// Can another request be sent?
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Send a request: `head` are its arguments and names, `data` how many bytes of the frame's data it brings (as [`Opcode::Write`]
    /// does) and how many may come back besides a structure. The device is told.
    ///
    /// # Panics
    /// If there is no room: see [`has_room`](Self::has_room).
    pub fn send(&mut self, opcode: u32, node: u64, head: &[&[u8]], (brings, takes): (u32, u32)) -> u16 {
        let frame = self.free.pop().expect("room");
        self.unique += 2;
        let (request, reply) = (self.place(frame), self.place(frame) + HEAD);
        let head_len: usize = head.iter().map(|part| part.len()).sum();
        let header = InHeader {
            len: (size_of::<InHeader>() + head_len) as u32 + brings,
            opcode,
            unique: self.unique,
            nodeid: node,
            uid: self.caller.0,
            gid: self.caller.1,
            pid: 1,
            ..InHeader::default()
        };
        let mut at = request;
        for part in std::iter::once(header.as_bytes()).chain(head.iter().copied()) {
            _ = self.ring.memory.write_slice(part, GuestAddress(at));
            at += part.len() as u64;
        }
        let answered = opcode != Opcode::Forget as u32 && opcode != Opcode::BatchForget as u32;
        // Of data that comes back, the header alone stands before it; else a structure follows it.
        let reply_len = if takes > 0 { size_of::<OutHeader>() as u32 } else { HEAD as u32 };
        let data = self.data(frame).0;
        let parts = [
            Some((request, (at - request) as u32, 0)),
            (brings > 0).then_some((data, brings, 0)),
            answered.then_some((reply, reply_len, WRITE)),
            (takes > 0).then_some((data, takes, WRITE)),
        ];
        self.chain(frame, parts.into_iter().flatten());
        frame
    }

    fn chain(&mut self, frame: u16, parts: impl Iterator<Item = (u64, u32, u16)>) {
        let parts: [Option<_>; CHAIN as usize] = {
            let mut parts = parts.fuse();
            std::array::from_fn(|_| parts.next())
        };
        let count = parts.iter().flatten().count() as u16;
        let (head, table) = (frame * CHAIN, self.place(frame) + 2 * HEAD);
        for (index, (address, len, flags)) in parts.into_iter().flatten().enumerate() {
            let index = index as u16;
            let next = if index + 1 < count { NEXT } else { 0 };
            let first = if self.indirect { 0 } else { head };
            let descriptor = Descriptor::new(address, len, flags | next, first + index + 1);
            match self.indirect {
                true => self.ring.write(table + 16 * u64::from(index), descriptor),
                false => self.ring.describe(head + index, descriptor),
            }
        }
        if self.indirect {
            self.ring.describe(head, Descriptor::new(table, u32::from(count) * 16, INDIRECT, 0));
        }
        self.ring.add(head);
        self.ring.kick();
    }

    /// The next answer, if it comes within `limit`.
    pub fn receive(&mut self, limit: Duration) -> Option<Reply> {
        let used = self.ring.wait(limit)?;
        Some(self.reply(used))
    }

    /// The next answer, if it is there.
    pub fn poll(&mut self) -> Option<Reply> {
        let used = self.ring.take()?;
        Some(self.reply(used))
    }

    fn reply(&mut self, used: super::Used) -> Reply {
        let frame = used.head / CHAIN;
        self.free.push(frame);
        if (used.len as usize) < size_of::<OutHeader>() {
            return Reply { frame, result: Ok(0), unique: 0 };
        }
        let mut header = OutHeader::default();
        _ = self.ring.memory.read_slice(header.as_mut_bytes(), GuestAddress(self.place(frame) + HEAD));
        let result = match header.error {
            0 if header.len == used.len => Ok(body_len(used)),
            0 => Err(Errno::PROTO),
            error => Err(Errno::from_raw_os_error(-error)),
        };
        Reply { frame, result, unique: header.unique }
    }

    /// The structure that came with an answer.
    pub fn body(&self, reply: Reply) -> Result<Vec<u8>> {
        let mut bytes = vec![0; reply.result?.min(HEAD as usize - size_of::<OutHeader>())];
        let at = self.place(reply.frame) + HEAD + size_of::<OutHeader>() as u64;
        self.ring.memory.read_slice(&mut bytes, GuestAddress(at)).map_err(|_| Errno::FAULT)?;
        Ok(bytes)
    }

    /// Wait for the answer to the only request under way.
    fn answer(&mut self, frame: u16) -> Result<Reply> {
        let reply = self.receive(PATIENCE).ok_or(Errno::TIMEDOUT)?;
        if reply.frame == frame { Ok(reply) } else { Err(Errno::PROTO) }
    }

    /// A request with arguments and names, and the structure it is answered with.
    pub fn call(&mut self, opcode: Opcode, node: u64, head: &[&[u8]]) -> Result<Vec<u8>> {
        let frame = self.send(opcode as u32, node, head, (0, 0));
        let reply = self.answer(frame)?;
        self.body(reply)
    }

    fn ask<T: FromBytes>(&mut self, opcode: Opcode, node: u64, head: &[&[u8]]) -> Result<T> {
        T::read_from_bytes(&self.call(opcode, node, head)?).map_err(|_| Errno::PROTO)
    }

    /// Begin a session, offering everything.
    pub fn init(&mut self) -> Result<abi::InitOut> {
        let flags = InitFlags::all().bits();
        let args = abi::InitIn {
            major: abi::KERNEL_VERSION,
            minor: abi::KERNEL_MINOR_VERSION,
            max_readahead: 128 << 10,
            flags: flags as u32,
            flags2: (flags >> 32) as u32,
            ..Default::default()
        };
        self.ask(Opcode::Init, 0, &[args.as_bytes()])
    }

    /// End it.
    pub fn destroy(&mut self) -> Result<()> {
        self.call(Opcode::Destroy, 0, &[]).map(drop)
    }

    /// Resolve a name.
    pub fn lookup(&mut self, parent: u64, name: &CStr) -> Result<abi::EntryOut> {
        self.ask(Opcode::Lookup, parent, &[name.to_bytes_with_nul()])
    }

    /// Read attributes.
    pub fn getattr(&mut self, node: u64) -> Result<abi::Attr> {
        self.attributes(node).map(|out| out.attr)
    }

    /// Read attributes, and for how long they may be remembered.
    pub fn attributes(&mut self, node: u64) -> Result<abi::AttrOut> {
        self.ask(Opcode::Getattr, node, &[abi::GetattrIn::default().as_bytes()])
    }

    /// Make a directory.
    pub fn mkdir(&mut self, parent: u64, name: &CStr) -> Result<abi::EntryOut> {
        let args = abi::MkdirIn { mode: 0o755, umask: 0o022 };
        self.ask(Opcode::Mkdir, parent, &[args.as_bytes(), name.to_bytes_with_nul()])
    }

    /// Open a file.
    pub fn open(&mut self, node: u64, flags: u32) -> Result<u64> {
        let out: abi::OpenOut =
            self.ask(Opcode::Open, node, &[abi::OpenIn { flags, open_flags: 0 }.as_bytes()])?;
        Ok(out.fh)
    }

    /// Make a file and open it: its node and handle.
    pub fn create(&mut self, parent: u64, name: &CStr) -> Result<(u64, u64)> {
        let args = create_args();
        let bytes = self.call(Opcode::Create, parent, &[args.as_bytes(), name.to_bytes_with_nul()])?;
        let (entry, rest) = abi::EntryOut::read_from_prefix(&bytes).map_err(|_| Errno::PROTO)?;
        let open = abi::OpenOut::read_from_bytes(rest).map_err(|_| Errno::PROTO)?;
        Ok((entry.nodeid, open.fh))
    }

    /// End of an open file.
    pub fn release(&mut self, node: u64, fh: u64) -> Result<()> {
        self.call(Opcode::Release, node, &[abi::ReleaseIn { fh, ..Default::default() }.as_bytes()]).map(drop)
    }

    /// Remove a name.
    pub fn unlink(&mut self, parent: u64, name: &CStr) -> Result<()> {
        self.call(Opcode::Unlink, parent, &[name.to_bytes_with_nul()]).map(drop)
    }

    /// Lower a lookup count. There is no answer, but its memory comes back.
    pub fn forget(&mut self, node: u64, nlookup: u64) -> Result<()> {
        self.call(Opcode::Forget, node, &[abi::ForgetIn { nlookup }.as_bytes()]).map(drop)
    }

    /// Read bytes: at most as many as a frame has room for.
    pub fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        let size = size.min(self.data);
        let frame = self.send_read(node, fh, offset, size);
        let reply = self.answer(frame)?;
        self.data_of(reply)
    }

    /// Send a READ of so many bytes.
    pub fn send_read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> u16 {
        let args = abi::ReadIn { fh, offset, size, ..Default::default() };
        self.send(Opcode::Read as u32, node, &[args.as_bytes()], (0, size))
    }

    /// The data that came with an answer.
    pub fn data_of(&self, reply: Reply) -> Result<Vec<u8>> {
        let mut bytes = vec![0; reply.result?.min(self.data as usize)];
        self.ring.memory.read_slice(&mut bytes, self.data(reply.frame)).map_err(|_| Errno::FAULT)?;
        Ok(bytes)
    }

    /// Write bytes: at most as many as a frame has room for.
    pub fn write(&mut self, node: u64, fh: u64, offset: u64, bytes: &[u8]) -> Result<u32> {
        let bytes = &bytes[..bytes.len().min(self.data as usize)];
        let frame = *self.free.last().ok_or(Errno::BUSY)?;
        self.ring.memory.write_slice(bytes, self.data(frame)).map_err(|_| Errno::FAULT)?;
        let args = abi::WriteIn { fh, offset, size: bytes.len() as u32, ..Default::default() };
        let sent = self.send(Opcode::Write as u32, node, &[args.as_bytes()], (bytes.len() as u32, 0));
        let reply = self.answer(sent)?;
        let out = abi::WriteOut::read_from_bytes(&self.body(reply)?).map_err(|_| Errno::PROTO)?;
        Ok(out.size)
    }

    /// Have part of a file mapped into the DAX window, in the name of an open file or (`u64::MAX`, as Linux does) of the node.
    pub fn map(&mut self, node: u64, args: abi::SetupmappingIn) -> Result<()> {
        self.request(Opcode::Setupmapping, node, &args).map(drop)
    }

    /// Unmap ranges of the DAX window.
    pub fn unmap(&mut self, node: u64, ranges: &[abi::RemovemappingOne]) -> Result<()> {
        let count = abi::RemovemappingIn { count: ranges.len() as u32 };
        self.call(Opcode::Removemapping, node, &[count.as_bytes(), ranges.as_bytes()]).map(drop)
    }

    /// Change the size of a file.
    pub fn truncate(&mut self, node: u64, size: u64) -> Result<()> {
        let args = abi::SetattrIn { valid: abi::SetattrValid::SIZE.bits(), size, ..Default::default() };
        self.request(Opcode::Setattr, node, &args).map(drop)
    }

    /// Names in a directory that is open.
    pub fn readdir(&mut self, node: u64, fh: u64) -> Result<Vec<Vec<u8>>> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let args = abi::ReadIn { fh, offset, size: 4096, ..Default::default() };
            let frame = self.send(Opcode::Readdir as u32, node, &[args.as_bytes()], (0, 4096));
            let reply = self.answer(frame)?;
            let bytes = self.data_of(reply)?;
            if bytes.is_empty() {
                return Ok(names);
            }
            let mut rest = &bytes[..];
            while rest.len() >= abi::NAME_OFFSET {
                let (head, name, after) = abi::Dirent::split(rest).ok_or(Errno::PROTO)?;
                names.push(name.to_vec());
                (offset, rest) = (head.off, after);
            }
        }
    }

    /// A request whose arguments are a structure.
    pub fn request<A: IntoBytes + Immutable>(
        &mut self,
        opcode: Opcode,
        node: u64,
        args: &A,
    ) -> Result<Vec<u8>> {
        self.call(opcode, node, &[args.as_bytes()])
    }
}
