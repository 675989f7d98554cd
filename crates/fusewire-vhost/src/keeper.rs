//! Sessions that outlive the process: what begins them again, here or on another machine.

use crate::{
    device::Shared,
    handover::{Given, Handed},
};
use fusewire::fs::FileSystem;
use fusewire_abi::InitOut;
use std::{
    fs::File,
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};
use vhost::vhost_user::message::VhostTransferStateDirection;
use zerocopy::IntoBytes;

/// Keeps what the guest of a device knows.
pub trait Keeper<F>: Send + Sync {
    /// A session begins with a filesystem that was made new. `beginning` is to be given back by [`again`](Self::again).
    ///
    /// # Errors
    /// If nothing can be kept. The session begins all the same.
    fn began(&self, beginning: &[u8]) -> io::Result<()>;

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

/// Longest state of a session, bytes: a few million files.
const LONGEST: u64 = 1 << 30;

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

/// A state that is being sent or received.
#[derive(Debug, Default)]
pub(crate) struct Transfer(Mutex<Option<JoinHandle<io::Result<()>>>>);

impl Transfer {
    /// Begin. The connection goes on meanwhile.
    pub(crate) fn begin<F: FileSystem>(
        &self,
        device: Arc<Shared<F>>,
        direction: VhostTransferStateDirection,
        file: File,
    ) -> io::Result<()> {
        let work = move || match direction {
            VhostTransferStateDirection::SAVE => save(&device, file),
            VhostTransferStateDirection::LOAD => load(&device, file),
        };
        let thread = std::thread::Builder::new().name("fusewire-state".into()).spawn(move || {
            let done = work();
            if let Err(error) = &done {
                tracing::error!(%error, ?direction, "the state of the device was not moved");
            }
            done
        })?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Wait for the end.
    pub(crate) fn end(&self) -> io::Result<()> {
        let thread = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Err(io::Error::other("no state was sent or received")) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread of the transfer has panicked")))
    }
}

fn save<F: FileSystem>(device: &Shared<F>, mut file: File) -> io::Result<()> {
    let state = device.save()?;
    tracing::info!(bytes = state.len(), "the state of the device is sent");
    file.write_all(&state)
}

fn load<F: FileSystem>(device: &Shared<F>, file: File) -> io::Result<()> {
    let mut state = Vec::new();
    if file.take(LONGEST + 1).read_to_end(&mut state)? as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the state does not come to an end"));
    }
    device.load(&state)
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
