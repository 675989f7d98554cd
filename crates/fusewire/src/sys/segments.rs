//! Memory in pieces that somebody else may change at any time: a guest's. Bytes are copied in and out or moved by the kernel;
//! no reference to them is ever made.

use crate::types::{Errno, Result};
use rustix::fd::{AsRawFd, BorrowedFd};
use std::mem::MaybeUninit;

/// The most pieces that one system call takes (`UIO_MAXIOV`).
const PIECES: usize = 1024;

/// Pieces of shared memory, one after the other.
#[derive(Debug, Default)]
pub struct Segments {
    pieces: Vec<libc::iovec>,
    len: usize,
}

impl Segments {
    /// Forget all pieces; room for as many is kept.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Forget all pieces, and keep room for `pieces` at most.
    pub fn keep(&mut self, pieces: usize) {
        self.clear();
        self.pieces.shrink_to(pieces);
    }

    /// Append a piece.
    ///
    /// # Safety
    /// Until [`clear`](Self::clear) or the end of this value the `len` bytes at `start` must be mapped, readable and, if
    /// anything is written into these segments, writable, and nobody may hold a reference to them. Their content may change
    /// at any time.
    pub unsafe fn push(&mut self, start: *mut u8, len: usize) {
        if len == 0 {
            return;
        }
        self.len += len;
        match self.pieces.last_mut() {
            Some(last) if last.iov_base.wrapping_byte_add(last.iov_len) == start.cast() => {
                last.iov_len += len
            }
            _ => self.pieces.push(libc::iovec { iov_base: start.cast(), iov_len: len }),
        }
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces of at most `len` bytes from byte `at` on.
    fn range(&self, mut at: usize, mut len: usize) -> impl Iterator<Item = libc::iovec> + '_ {
        self.pieces.iter().map_while(move |piece| {
            if len == 0 {
                return None;
            }
            let skip = at.min(piece.iov_len);
            let take = (piece.iov_len - skip).min(len);
            at -= skip;
            len -= take;
            Some(libc::iovec { iov_base: piece.iov_base.wrapping_byte_add(skip), iov_len: take })
        })
    }

    /// Where at most `len` bytes from byte `at` on lie: addresses and lengths.
    pub fn places(&self, at: usize, len: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.range(at, len).map(|piece| (piece.iov_base.addr(), piece.iov_len)).filter(|&(_, len)| len > 0)
    }

    /// Copy out from byte `at` on, as far as there is anything and `to` has room; returns how many bytes that were.
    pub fn copy_out(&self, at: usize, to: &mut [u8]) -> usize {
        let mut done = 0;
        for piece in self.range(at, to.len()) {
            let room = &mut to[done..][..piece.iov_len];
            // SAFETY: the piece is mapped and readable (contract of `push`) and nobody's reference, so it does not overlap
            // `room`, which is as long. What a guest writes meanwhile arrives or not; any bytes are valid.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.iov_base.cast::<u8>(), room.as_mut_ptr(), piece.iov_len);
            }
            done += piece.iov_len;
        }
        done
    }

    /// Copy `bytes` in from byte `at` on, as far as there is room; returns how many bytes that were.
    pub fn copy_in(&self, at: usize, bytes: &[u8]) -> usize {
        let mut done = 0;
        for piece in self.range(at, bytes.len()) {
            let part = &bytes[done..][..piece.iov_len];
            // SAFETY: the piece is mapped and writable (contract of `push`) and nobody's reference, so it does not overlap
            // `part`, which is as long.
            unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), piece.iov_base.cast::<u8>(), piece.iov_len)
            };
            done += piece.iov_len;
        }
        done
    }

    /// Put `len` zeros from byte `at` on, as far as there is room.
    pub fn zero(&self, at: usize, len: usize) {
        for piece in self.range(at, len) {
            // SAFETY: the piece is mapped and writable (contract of `push`), and nobody's reference.
            unsafe { std::ptr::write_bytes(piece.iov_base.cast::<u8>(), 0, piece.iov_len) };
        }
    }

    /// `preadv`, once, of at most `len` bytes to byte `at` and on.
    pub(crate) fn read(&self, file: BorrowedFd<'_>, (at, len): (usize, usize), offset: u64) -> Result<usize> {
        self.transfer((at, len), |pieces, count| {
            // SAFETY: `count` initialised `iovec`s of mapped, writable memory (contract of `push`): the kernel writes there.
            unsafe { libc::preadv(file.as_raw_fd(), pieces, count, offset as libc::off_t) }
        })
    }

    /// `pwritev`, once, of at most `len` bytes from byte `at` on.
    pub(crate) fn write(
        &self,
        file: BorrowedFd<'_>,
        (at, len): (usize, usize),
        offset: u64,
    ) -> Result<usize> {
        self.transfer((at, len), |pieces, count| {
            // SAFETY: `count` initialised `iovec`s of mapped, readable memory (contract of `push`): the kernel reads there.
            unsafe { libc::pwritev(file.as_raw_fd(), pieces, count, offset as libc::off_t) }
        })
    }

    fn transfer(
        &self,
        (at, len): (usize, usize),
        call: impl FnOnce(*const libc::iovec, libc::c_int) -> isize,
    ) -> Result<usize> {
        // Only as much of it is touched as is used.
        let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; PIECES];
        let mut count = 0;
        for (place, piece) in pieces.iter_mut().zip(self.range(at, len).filter(|piece| piece.iov_len > 0)) {
            place.write(piece);
            count += 1;
        }
        match call(pieces.as_ptr().cast(), count) {
            n if n >= 0 => Ok(n as usize),
            _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::io::{Read, Seek, Write};

    /// Segments over every second of these pieces of 4 bytes.
    fn scattered(memory: &mut [u8]) -> Segments {
        let mut segments = Segments::default();
        for piece in memory.chunks_exact_mut(8) {
            // SAFETY: the memory outlives the segments in every test, and is looked at only after they are used.
            unsafe { segments.push(piece.as_mut_ptr(), 4) };
        }
        segments
    }

    #[test]
    fn room_for_many_pieces_is_given_back() {
        let mut memory = vec![0; 8000];
        let mut segments = scattered(&mut memory);
        assert_eq!(segments.pieces(), 1000);
        segments.keep(64);
        assert!(segments.pieces() == 0 && segments.is_empty() && segments.pieces.capacity() <= 64);
    }

    #[test]
    fn bytes_go_in_and_out_at_any_place() {
        let mut memory = vec![b'.'; 24];
        let segments = scattered(&mut memory);
        assert_eq!(segments.len(), 12);
        assert_eq!(segments.copy_in(2, b"abcdef"), 6);
        assert_eq!(segments.copy_in(10, b"xyz"), 2);
        let mut out = [0; 16];
        assert_eq!(segments.copy_out(1, &mut out), 11);
        assert_eq!(&out[..11], b".abcdef..xy");
        segments.zero(3, 2);
        assert_eq!(memory, b"..a\0....\0def......xy....");
    }

    #[test]
    fn files_are_read_and_written_in_place() {
        let mut memory = vec![b'.'; 24];
        let segments = scattered(&mut memory);
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"0123456789").expect("write");
        assert_eq!(segments.read(file.as_fd(), (1, 7), 2), Ok(7));
        assert_eq!(segments.write(file.as_fd(), (0, 100), 20), Ok(12));
        let mut content = Vec::new();
        file.rewind().expect("rewind");
        file.read_to_end(&mut content).expect("read");
        assert_eq!(&content[20..], b".2345678....");
        assert_eq!(segments.read(file.as_fd(), (0, 4), 1 << 40), Ok(0));
        let null = std::fs::File::open("/dev/null").expect("null");
        assert_eq!(segments.write(null.as_fd(), (0, 4), 0), Err(Errno::BADF));
    }

    #[test]
    fn neighbours_are_one_piece() {
        let mut memory = [0u8; 8];
        let mut segments = Segments::default();
        // SAFETY: as in `scattered`.
        unsafe {
            segments.push(memory.as_mut_ptr(), 3);
            segments.push(memory.as_mut_ptr().add(3), 5);
        }
        assert_eq!((segments.pieces.len(), segments.len()), (1, 8));
    }
}
