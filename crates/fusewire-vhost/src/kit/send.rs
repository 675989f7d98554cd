//! Requests without waiting for their answers, for load: what each is answered with is read where it lies.

use super::{
    Reply,
    driver::{Driver, HEAD},
};
use fusewire::types::{Errno, Result};
use fusewire_abi::{self as abi, Opcode, OutHeader};
use std::ffi::CStr;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromBytes, IntoBytes};

/// How many nodes one [`Driver::send_forgets`] can name.
pub const FORGETS: usize = (HEAD as usize - size_of::<abi::InHeader>() - size_of::<abi::BatchForgetIn>())
    / size_of::<abi::ForgetOne>();

impl Driver {
    /// Send a GETATTR.
    pub fn send_getattr(&mut self, node: u64) -> u16 {
        self.send(Opcode::Getattr as u32, node, &[abi::GetattrIn::default().as_bytes()], (0, 0))
    }

    /// Send a LOOKUP.
    pub fn send_lookup(&mut self, parent: u64, name: &CStr) -> u16 {
        self.send(Opcode::Lookup as u32, parent, &[name.to_bytes_with_nul()], (0, 0))
    }

    /// Send a CREATE of a file to be read and written.
    pub fn send_create(&mut self, parent: u64, name: &CStr) -> u16 {
        let args = super::driver::create_args();
        self.send(Opcode::Create as u32, parent, &[args.as_bytes(), name.to_bytes_with_nul()], (0, 0))
    }

    /// Send a RELEASE.
    pub fn send_release(&mut self, node: u64, fh: u64) -> u16 {
        let args = abi::ReleaseIn { fh, ..Default::default() };
        self.send(Opcode::Release as u32, node, &[args.as_bytes()], (0, 0))
    }

    /// Send a BATCH_FORGET: each of these nodes was looked up so many times. At most [`FORGETS`] of them.
    pub fn send_forgets(&mut self, nodes: &[(u64, u64)]) -> u16 {
        let nodes = &nodes[..nodes.len().min(FORGETS)];
        let args = abi::BatchForgetIn { count: nodes.len() as u32, dummy: 0 };
        let nodes: Vec<_> =
            nodes.iter().map(|&(nodeid, nlookup)| abi::ForgetOne { nodeid, nlookup }).collect();
        self.send(Opcode::BatchForget as u32, 0, &[args.as_bytes(), nodes.as_bytes()], (0, 0))
    }

    /// The node that a LOOKUP has found.
    ///
    /// # Errors
    /// What it was answered with, or EPROTO if that is no answer to one.
    pub fn found(&self, reply: Reply) -> Result<u64> {
        Ok(self.part::<abi::EntryOut>(reply, 0)?.nodeid)
    }

    /// Node and handle of what a CREATE has made.
    ///
    /// # Errors
    /// As [`found`](Self::found).
    pub fn made(&self, reply: Reply) -> Result<(u64, u64)> {
        let entry: abi::EntryOut = self.part(reply, 0)?;
        let open: abi::OpenOut = self.part(reply, size_of::<abi::EntryOut>())?;
        Ok((entry.nodeid, open.fh))
    }

    /// How large the file is that a GETATTR was for.
    ///
    /// # Errors
    /// As [`found`](Self::found).
    pub fn size(&self, reply: Reply) -> Result<u64> {
        Ok(self.part::<abi::AttrOut>(reply, 0)?.attr.size)
    }

    /// The first bytes of what a READ has brought, as a number, and how many bytes that is in all.
    ///
    /// # Errors
    /// What it was answered with.
    pub fn sample(&self, reply: Reply) -> Result<(u64, usize)> {
        let len = reply.result?;
        let mut bytes = [0; 8];
        let taken = len.min(bytes.len());
        let read = self.ring.memory.read_slice(&mut bytes[..taken], self.data(reply.frame));
        read.map_err(|_| Errno::FAULT)?;
        Ok((u64::from_ne_bytes(bytes), len))
    }

    /// A structure that came with an answer, so many bytes behind its header.
    fn part<T: FromBytes + IntoBytes>(&self, reply: Reply, offset: usize) -> Result<T> {
        let mut part = T::new_zeroed();
        if reply.result? < offset + size_of::<T>() {
            return Err(Errno::PROTO);
        }
        let at = self.place(reply.frame) + HEAD + (size_of::<OutHeader>() + offset) as u64;
        let read = self.ring.memory.read_slice(part.as_mut_bytes(), GuestAddress(at));
        read.map_err(|_| Errno::FAULT)?;
        Ok(part)
    }
}
