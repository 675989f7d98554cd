//! Sessions that outlive the process: what begins them again, here or on another machine.

use crate::handover::{Given, Handed};
use fusewire_abi::InitOut;
use std::io;
use zerocopy::IntoBytes;

/// Keeps what the guest of a device knows.
pub trait Keeper<F>: Send + Sync {
    /// A session begins with `fs`, a filesystem that was made new, and takes the place of the one that there may be. `beginning` is to be
    /// given back by [`again`](Self::again). One call after the other, and each before [`ended`](Self::ended) of its session.
    ///
    /// # Errors
    /// If nothing can be kept. The session begins all the same.
    fn began(&self, fs: &F, beginning: &[u8]) -> io::Result<()>;

    /// The guest has ended the session, or was reset.
    fn ended(&self);

    /// The session that there was when the process before this one ended: its beginning, and its filesystem as it was.
    ///
    /// # Errors
    /// If it cannot be had again.
    fn again(&self) -> io::Result<Option<(Vec<u8>, F)>>;

    /// The session of now as bytes, for another machine. Nothing is served meanwhile.
    ///
    /// # Errors
    /// If something of it cannot be moved; the reason is for the operator.
    fn save(&self, fs: &F, beginning: &[u8]) -> io::Result<Vec<u8>>;

    /// The other way.
    ///
    /// # Errors
    /// If the bytes are something else, or cannot be followed here.
    fn load(&self, state: &[u8]) -> io::Result<(Vec<u8>, F)>;

    /// The session of now for a process that takes this one's place, with all that is open. Nothing is served meanwhile.
    ///
    /// # Errors
    /// If something of it cannot be handed over; the reason is for the operator.
    fn hand_over(&self, _fs: &F, _beginning: &[u8]) -> io::Result<Handed> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this filesystem cannot be handed over"))
    }

    /// The other way. The process that has handed it over may go on with it.
    ///
    /// # Errors
    /// If it is something else, or cannot be followed here.
    fn take_over(&self, _given: Given) -> io::Result<(Vec<u8>, F)> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this filesystem cannot be taken over"))
    }
}

/// How a guest began: its request, and what it was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// INIT, header and all.
    pub init: Vec<u8>,
    /// The answer.
    pub out: Vec<u8>,
}

impl Beginning {
    pub(crate) fn pack(&self) -> Vec<u8> {
        [&(self.init.len() as u32).to_le_bytes()[..], &self.init, &self.out].concat()
    }

    pub(crate) fn unpack(bytes: &[u8]) -> Option<Self> {
        let (len, rest) = bytes.split_first_chunk()?;
        let (init, out) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        Some(Self { init: init.to_vec(), out: out.to_vec() })
    }

    /// Is this what the guest was answered, too?
    pub(crate) fn agrees(&self, out: &InitOut) -> bool {
        out.as_bytes() == self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_comes_back_as_it_was() {
        let beginning = Beginning { init: vec![1, 2, 3], out: vec![4; 64] };
        let bytes = beginning.pack();
        assert_eq!(Beginning::unpack(&bytes), Some(beginning));
        assert!((0..7).all(|len| Beginning::unpack(&bytes[..len]).is_none()));
        assert_eq!(Beginning::unpack(&[255; 64]), None);
    }
}
