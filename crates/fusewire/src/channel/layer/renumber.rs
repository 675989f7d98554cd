//! Nodes, handles and directory cookies of one session in the numbers of another.

use fusewire_abi::{self as abi, InHeader, Opcode};
use std::collections::HashMap;
use zerocopy::FromBytes;

const ARGS: usize = size_of::<InHeader>();

/// What the numbers of the recorded session are in the present one. A number that was never told stays as it is.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    nodes: HashMap<u64, u64>,
    files: HashMap<u64, u64>,
    directories: HashMap<u64, u64>,
    /// By the recorded handle of the directory.
    cookies: HashMap<(u64, u64), u64>,
}

/// In which numbering a field of a request is.
#[derive(Clone, Copy)]
enum Kind {
    Node,
    File,
    Directory,
}

/// Where arguments hold numbers: opcode, offset, numbering. Every request has a node in its header besides.
const FIELDS: &[(Opcode, usize, Kind)] = &[
    (Opcode::Link, 0, Kind::Node),
    (Opcode::Rename, 0, Kind::Node),
    (Opcode::Rename2, 0, Kind::Node),
    (Opcode::CopyFileRange, 16, Kind::Node),
    (Opcode::CopyFileRange64, 16, Kind::Node),
    (Opcode::CopyFileRange, 0, Kind::File),
    (Opcode::CopyFileRange, 24, Kind::File),
    (Opcode::CopyFileRange64, 0, Kind::File),
    (Opcode::CopyFileRange64, 24, Kind::File),
    (Opcode::Getattr, 8, Kind::File),
    (Opcode::Statx, 8, Kind::File),
    (Opcode::Setattr, 8, Kind::File),
    (Opcode::Read, 0, Kind::File),
    (Opcode::Write, 0, Kind::File),
    (Opcode::Release, 0, Kind::File),
    (Opcode::Flush, 0, Kind::File),
    (Opcode::Fsync, 0, Kind::File),
    (Opcode::Fallocate, 0, Kind::File),
    (Opcode::Lseek, 0, Kind::File),
    (Opcode::Getlk, 0, Kind::File),
    (Opcode::Setlk, 0, Kind::File),
    (Opcode::Setlkw, 0, Kind::File),
    (Opcode::Ioctl, 0, Kind::File),
    (Opcode::Poll, 0, Kind::File),
    (Opcode::Setupmapping, 0, Kind::File),
    (Opcode::Readdir, 0, Kind::Directory),
    (Opcode::Readdirplus, 0, Kind::Directory),
    (Opcode::Releasedir, 0, Kind::Directory),
    (Opcode::Fsyncdir, 0, Kind::Directory),
];

fn get(bytes: &[u8], at: usize) -> Option<u64> {
    u64::read_from_prefix(bytes.get(at..)?).ok().map(|(n, _)| n)
}

fn swap(map: &HashMap<u64, u64>, bytes: &mut [u8], at: usize) {
    if let Some(new) = get(bytes, at).and_then(|old| map.get(&old))
        && let Some(field) = bytes.get_mut(at..at + 8)
    {
        field.copy_from_slice(&new.to_ne_bytes());
    }
}

impl Numbers {
    pub(super) fn learn_node(&mut self, old: u64, new: u64) {
        if old != 0 && new != 0 {
            self.nodes.insert(old, new);
        }
    }

    pub(super) fn learn_handle(&mut self, opcode: Opcode, old: u64, new: u64) {
        let map = if opcode == Opcode::Opendir { &mut self.directories } else { &mut self.files };
        map.insert(old, new);
    }

    pub(super) fn learn_cookie(&mut self, handle: u64, old: u64, new: u64) {
        self.cookies.insert((handle, old), new);
    }

    /// Put the numbers of the present session into a recorded request.
    pub(super) fn renumber(&self, opcode: Opcode, request: &mut [u8]) {
        swap(&self.nodes, request, 16);
        if matches!(opcode, Opcode::Readdir | Opcode::Readdirplus)
            && let (Some(handle), Some(cookie)) = (get(request, ARGS), get(request, ARGS + 8))
            && let Some(new) = self.cookies.get(&(handle, cookie))
        {
            request[ARGS + 8..ARGS + 16].copy_from_slice(&new.to_ne_bytes());
        }
        for &(_, offset, kind) in FIELDS.iter().filter(|&&(op, ..)| op == opcode) {
            let map = match kind {
                Kind::Node => &self.nodes,
                Kind::File => &self.files,
                Kind::Directory => &self.directories,
            };
            swap(map, request, ARGS + offset);
        }
        if opcode == Opcode::BatchForget {
            let entries = ARGS + size_of::<abi::BatchForgetIn>();
            for at in (entries..request.len()).step_by(size_of::<abi::ForgetOne>()) {
                swap(&self.nodes, request, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn request(nodeid: u64, args: &[u8]) -> Vec<u8> {
        [InHeader { nodeid, ..Default::default() }.as_bytes(), args].concat()
    }

    #[test]
    fn numbers_are_replaced_where_they_stand_and_nowhere_else() {
        let mut numbers = Numbers::default();
        numbers.learn_node(5, 50);
        numbers.learn_node(6, 60);
        numbers.learn_handle(Opcode::Open, 5, 500);
        numbers.learn_handle(Opcode::Opendir, 5, 5000);
        numbers.learn_cookie(5, 6, 66);

        let copy = |a, b, c, d| abi::CopyFileRangeIn {
            fh_in: a,
            off_in: 5,
            nodeid_out: b,
            fh_out: c,
            off_out: d,
            len: 6,
            flags: 5,
        };
        let mut bytes = request(6, copy(5, 5, 6, 5).as_bytes());
        numbers.renumber(Opcode::CopyFileRange, &mut bytes);
        assert_eq!(bytes, request(60, copy(500, 50, 6, 5).as_bytes()));

        let read = |fh, offset| abi::ReadIn { fh, offset, size: 5, ..Default::default() };
        for (opcode, fh, offset) in [(Opcode::Read, 500, 6), (Opcode::Readdir, 5000, 66)] {
            let mut bytes = request(5, read(5, 6).as_bytes());
            numbers.renumber(opcode, &mut bytes);
            assert_eq!(bytes, request(50, read(fh, offset).as_bytes()), "{opcode}");
        }

        let forget = |nodes: [u64; 3]| nodes.map(|nodeid| abi::ForgetOne { nodeid, nlookup: 5 });
        let head = abi::BatchForgetIn { count: 3, dummy: 0 };
        let mut bytes = request(0, &[head.as_bytes(), forget([5, 7, 6]).as_bytes()].concat());
        numbers.renumber(Opcode::BatchForget, &mut bytes);
        assert_eq!(bytes, request(0, &[head.as_bytes(), forget([50, 7, 60]).as_bytes()].concat()));
    }

    #[test]
    fn short_requests_are_left_alone() {
        let mut numbers = Numbers::default();
        numbers.learn_node(0, 9);
        numbers.learn_node(1, 9);
        numbers.learn_handle(Opcode::Open, 0, 9);
        for opcode in Opcode::ALL {
            for len in 0..ARGS + 20 {
                numbers.renumber(*opcode, &mut vec![0; len]);
            }
        }
    }
}
