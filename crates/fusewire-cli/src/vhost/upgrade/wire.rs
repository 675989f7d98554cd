//! Letters between the process that has the guests and the one that is to have them: bytes and descriptors over a socket.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// In front of each letter; the last one grows when they mean something else.
const MAGIC: u64 = u64::from_le_bytes(*b"fwupgr\0\x01");

/// Longest letter, bytes, and most descriptors with it: a few million files.
const LONGEST: u64 = 1 << 30;
const MOST: u32 = 4 << 20;

/// How many descriptors go at once: the kernel takes 253.
const AT_ONCE: usize = 200;

/// How long the other side may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a letter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the new process: where it is to serve, and its number.
    Hello = 1,
    /// From the old one: its number, and for each of these places what it has there.
    Places = 2,
    /// Stop, and hand the guests over.
    Take = 3,
    /// The guest of the next place, or that there is none.
    Guest = 4,
    /// All of them can be served.
    Ready = 5,
    /// They are the new process's.
    Go = 6,
    /// From the old one: it goes on, for this reason.
    Refused = 7,
}

/// A letter.
#[derive(Debug)]
pub struct Letter {
    pub kind: Kind,
    pub bytes: Vec<u8>,
    pub files: Vec<OwnedFd>,
}

/// One end of the socket.
#[derive(Debug)]
pub struct Wire(UnixStream);

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Wire {
    /// Over this connection.
    ///
    /// # Errors
    /// If it cannot have limits of time.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// Sends a letter.
    ///
    /// # Errors
    /// If the other side is gone, or takes too long.
    pub fn send(&self, kind: Kind, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let numbers = u64::from(kind as u32) | (files.len() as u64) << 32;
        let head = [MAGIC, numbers, bytes.len() as u64].map(u64::to_le_bytes).concat();
        (&self.0).write_all(&head)?;
        (&self.0).write_all(bytes)?;
        files.chunks(AT_ONCE).try_for_each(|files| self.lend(files))
    }

    fn lend(&self, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(wrong("too many descriptors at once"));
        }
        loop {
            match sendmsg(&self.0, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                sent => return sent.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Waits for a letter.
    ///
    /// # Errors
    /// If none comes, or something else.
    pub fn receive(&self) -> io::Result<Letter> {
        let mut head = [0; 24];
        (&self.0).read_exact(&mut head)?;
        let word = |at: usize| head[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        if word(0) != MAGIC {
            return Err(wrong("the other process is of a release that upgrades in another way"));
        }
        let (kind, files, len) = (word(8) as u32, (word(8) >> 32) as u32, word(16));
        let kinds =
            [Kind::Hello, Kind::Places, Kind::Take, Kind::Guest, Kind::Ready, Kind::Go, Kind::Refused];
        let kind = kinds
            .into_iter()
            .find(|known| *known as u32 == kind)
            .ok_or_else(|| wrong("an unknown letter"))?;
        if len > LONGEST || files > MOST {
            return Err(wrong("a letter that does not come to an end"));
        }
        let mut bytes = Vec::new();
        (&self.0).take(len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut all = Vec::new();
        while all.len() < files as usize {
            self.borrow(&mut all)?;
        }
        Ok(Letter { kind, bytes, files: all })
    }

    fn borrow(&self, all: &mut Vec<OwnedFd>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut byte = [0];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        match recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(message) if message.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            received => _ = received?,
        }
        let before = all.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                all.extend(files);
            }
        }
        // The kernel drops those that the limit of this process does not allow.
        if all.len() == before {
            Err(wrong("descriptors are lost: is the limit on open files lower here?"))
        } else {
            Ok(())
        }
    }

    /// Waits for a letter of this kind. A refusal is an error with its reason.
    ///
    /// # Errors
    /// If another one comes, or none.
    pub fn expect(&self, kind: Kind) -> io::Result<Letter> {
        let letter = self.receive()?;
        match letter.kind {
            found if found == kind => Ok(letter),
            Kind::Refused => Err(io::Error::other(String::from_utf8_lossy(&letter.bytes).into_owned())),
            _ => Err(wrong("the letters are out of order")),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn letters_arrive_with_all_descriptors_in_order() {
        let (one, other) = UnixStream::pair().expect("sockets");
        let (one, other) = (Wire::new(one).expect("wire"), Wire::new(other).expect("wire"));
        let files: Vec<_> = (0..450).map(|_| tempfile::tempfile().expect("file")).collect();
        let inos: Vec<_> = files.iter().map(|file| file.metadata().expect("metadata").ino()).collect();
        let sender = std::thread::spawn(move || {
            let lent: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            one.send(Kind::Guest, &[7; 300_000], &lent).expect("sent");
            one.send(Kind::Refused, b"because", &[]).expect("sent");
            one.send(Kind::Go, b"", &[]).expect("sent");
        });
        let letter = other.expect(Kind::Guest).expect("a letter");
        assert_eq!(letter.bytes, [7; 300_000]);
        let arrived =
            letter.files.into_iter().map(|file| File::from(file).metadata().expect("metadata").ino());
        assert_eq!(arrived.collect::<Vec<_>>(), inos);
        assert_eq!(other.expect(Kind::Go).expect_err("a refusal").to_string(), "because");
        assert!(other.expect(Kind::Ready).is_err(), "out of order");
        sender.join().expect("no panic");
        assert!(other.receive().is_err(), "the end");
    }

    #[test]
    fn what_is_no_letter_is_refused() {
        let (mut one, other) = UnixStream::pair().expect("sockets");
        let other = Wire::new(other).expect("wire");
        one.write_all(&[1; 24]).expect("bytes");
        assert!(other.receive().expect_err("no letter").to_string().contains("release"));
        let head = [MAGIC, 1 | 1 << 63, 0].map(u64::to_le_bytes).concat();
        one.write_all(&head).expect("bytes");
        assert!(other.receive().expect_err("no letter").to_string().contains("end"));
    }
}
