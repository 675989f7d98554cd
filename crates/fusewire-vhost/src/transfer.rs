//! A device's state on its way to another machine, or from there: a pipe of the monitor's, and a thread at its end.

use crate::{bell, device::Shared, worker::waker};
use fusewire::fs::FileSystem;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::OwnedFd,
};
use std::{
    fs::File,
    io::{self, Read, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};
use vhost::vhost_user::message::VhostTransferStateDirection;

/// Longest state of a session, bytes: a few million files.
const LONGEST: u64 = 1 << 30;

/// That the monitor waits for the end.
#[derive(Debug)]
struct Hurry {
    /// Readable from then on.
    event: OwnedFd,
    /// The monitor is gone: there is nobody to move anything for.
    gone: AtomicBool,
}

impl Hurry {
    fn on(&self) {
        _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

/// A state that is being moved, or was.
#[derive(Debug)]
struct Running {
    thread: JoinHandle<io::Result<()>>,
    hurry: Arc<Hurry>,
}

/// One transfer after the other.
#[derive(Debug, Default)]
pub(crate) struct Transfer(Mutex<Option<Running>>);

impl Transfer {
    /// Begin. The connection goes on meanwhile.
    ///
    /// # Errors
    /// If one is under way, or this one cannot be.
    pub(crate) fn begin<F: FileSystem>(
        &self,
        device: Arc<Shared<F>>,
        direction: VhostTransferStateDirection,
        file: File,
    ) -> io::Result<()> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref().is_some_and(|running| !running.thread.is_finished()) {
            return Err(io::Error::other("a state is being moved already: CHECK_DEVICE_STATE ends that"));
        }
        if direction == VhostTransferStateDirection::LOAD {
            device.check_idle()?;
        }
        let hurry = Arc::new(Hurry { event: waker()?, gone: AtomicBool::new(false) });
        let pipe = Pipe { file: bell::unwaiting(file)?, hurry: hurry.clone() };
        let thread = std::thread::Builder::new().name("fusewire-state".into()).spawn(move || {
            let done = match direction {
                VhostTransferStateDirection::SAVE => save(&device, pipe),
                VhostTransferStateDirection::LOAD => load(&device, pipe),
            };
            if let Err(error) = &done {
                tracing::error!(%error, ?direction, "the state of the device was not moved");
            }
            done
        })?;
        *running = Some(Running { thread, hurry });
        Ok(())
    }

    /// Wait for the end. What the monitor has not sent or taken by now it never will.
    ///
    /// # Errors
    /// Whatever has happened to the transfer.
    pub(crate) fn end(&self) -> io::Result<()> {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { thread, hurry }) = running else {
            return Err(io::Error::other("no state was sent or received"));
        };
        hurry.on();
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread of the transfer has panicked")))
    }

    /// The monitor is gone, and whatever was being moved is not.
    pub(crate) fn abandon(&self) {
        if let Some(Running { hurry, .. }) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            hurry.gone.store(true, Ordering::Release);
            hurry.on();
        }
    }
}

/// The monitor's pipe. Whoever is hurried does not wait at it any more.
#[derive(Debug)]
struct Pipe {
    file: File,
    hurry: Arc<Hurry>,
}

impl Pipe {
    fn wait(&self, direction: PollFlags) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.file, direction), PollFd::new(&self.hurry.event, PollFlags::IN)];
        loop {
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) if fds[0].revents().is_empty() => {
                    let why = "the monitor has not come to the end of its pipe, or is gone";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                Ok(_) => return Ok(()),
            }
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN)?;
            match self.file.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::OUT)?;
            match self.file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn save<F: FileSystem>(device: &Shared<F>, mut pipe: Pipe) -> io::Result<()> {
    let state = device.save()?;
    tracing::info!(bytes = state.len(), "the state of the device is sent");
    pipe.write_all(&state)
}

fn load<F: FileSystem>(device: &Shared<F>, pipe: Pipe) -> io::Result<()> {
    let mut state = Vec::new();
    let hurry = pipe.hurry.clone();
    if pipe.take(LONGEST + 1).read_to_end(&mut state)? as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the state does not come to an end"));
    }
    if hurry.gone.load(Ordering::Acquire) {
        return Err(io::Error::other("the monitor is gone"));
    }
    device.load(&state)
}
