//! The monitor's side of a DAX window: it maps what the device asks for, where nothing is mapped, from files that may be written to.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};
use vhost::vhost_user::{
    Frontend, FrontendReqHandler, HandlerResult, VhostUserFrontend, VhostUserFrontendReqHandler,
    message::{VhostUserMMap, VhostUserMMapFlags},
};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// How often the window's thread looks whether it is to end, milliseconds.
const TICK: i32 = 20;

/// A piece of a file.
#[derive(Debug)]
struct Piece {
    memory: MmapRegion,
    writable: bool,
}

/// What lies in the window.
#[derive(Debug, Default)]
pub struct Mapped {
    size: u64,
    exact: bool,
    pieces: Mutex<BTreeMap<u64, Piece>>,
}

/// A monitor that does not answer.
#[derive(Debug)]
pub struct Hold<'a> {
    _pieces: MutexGuard<'a, BTreeMap<u64, Piece>>,
}

/// A window: its thread does what the device asks.
#[derive(Debug)]
pub struct Window {
    mapped: Arc<Mapped>,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

impl Mapped {
    fn pieces(&self) -> MutexGuard<'_, BTreeMap<u64, Piece>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As long as this lives, the monitor does nothing and answers nothing that the device asks.
    pub fn hold(&self) -> Hold<'_> {
        Hold { _pieces: self.pieces() }
    }

    /// Where pieces begin, how long they are, and whether they may be written to.
    pub fn list(&self) -> Vec<(u64, u64, bool)> {
        self.pieces().iter().map(|(&at, piece)| (at, piece.memory.size() as u64, piece.writable)).collect()
    }

    /// The bytes there; `None` if that is not all mapped.
    pub fn read(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            done += self.piece(at + done as u64, |piece, offset| {
                piece.memory.as_volatile_slice().read(&mut bytes[done..], offset).ok()
            })?;
        }
        Some(bytes)
    }

    /// Store bytes as the guest does; `None` if that is not all mapped, or must not be written to.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Option<()> {
        let mut done = 0;
        while done < bytes.len() {
            done += self.piece(at + done as u64, |piece, offset| {
                let memory = piece.writable.then(|| piece.memory.as_volatile_slice())?;
                memory.write(&bytes[done..], offset).ok()
            })?;
        }
        Some(())
    }

    fn piece<R>(&self, at: u64, act: impl FnOnce(&Piece, usize) -> Option<R>) -> Option<R> {
        let pieces = self.pieces();
        let (&begin, piece) = pieces.range(..=at).next_back()?;
        let offset = (at - begin) as usize;
        if offset < piece.memory.size() { act(piece, offset) } else { None }
    }

    fn is_free(&self, at: u64, end: u64) -> bool {
        let pieces = self.pieces();
        let before = pieces.range(..end).next_back();
        before.is_none_or(|(&begin, piece)| begin + piece.memory.size() as u64 <= at)
    }
}

impl VhostUserFrontendReqHandler for Mapped {
    fn shmem_map(&self, request: &VhostUserMMap, file: &dyn AsRawFd) -> HandlerResult<u64> {
        let VhostUserMMap { shmid, fd_offset, shm_offset, len, flags, .. } = *request;
        if shmid != 0 || shm_offset.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(refused("not in the window"));
        }
        if !self.is_free(shm_offset, shm_offset + len) {
            return Err(refused("something is mapped there"));
        }
        let file = again(file)?;
        if self.exact && file.metadata()?.len() < fd_offset + len {
            return Err(refused("the file ends before that"));
        }
        let memory = MmapRegion::from_file(FileOffset::new(file, fd_offset), len as usize)
            .map_err(io::Error::other)?;
        let writable = flags & VhostUserMMapFlags::WRITABLE.bits() != 0;
        self.pieces().insert(shm_offset, Piece { memory, writable });
        Ok(0)
    }

    fn shmem_unmap(&self, request: &VhostUserMMap) -> HandlerResult<u64> {
        let VhostUserMMap { shmid, shm_offset, len, .. } = *request;
        let mut pieces = self.pieces();
        if shmid != 0 || pieces.get(&shm_offset).is_none_or(|piece| piece.memory.size() as u64 != len) {
            return Err(refused("that is not what is mapped there"));
        }
        pieces.remove(&shm_offset);
        Ok(0)
    }
}

/// The file once more, as it was opened: the crate lends its number only.
fn again(file: &dyn AsRawFd) -> io::Result<File> {
    let here = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let info = std::fs::read_to_string(here)?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim(), 8).map_err(io::Error::other)?;
    if flags & libc::O_ACCMODE as u32 != libc::O_RDWR as u32 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    File::options().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

impl Window {
    /// A window of so many bytes, which the device is told of.
    pub(super) fn open(frontend: &mut Frontend, size: u64, exact: bool) -> io::Result<Self> {
        let mapped = Arc::new(Mapped { size, exact, pieces: Mutex::default() });
        let mut requests = FrontendReqHandler::new(mapped.clone()).map_err(io::Error::other)?;
        requests.set_reply_ack_flag(true);
        frontend.set_backend_request_fd(&requests.get_tx_raw_fd()).map_err(io::Error::other)?;
        let closed = Arc::new(AtomicBool::new(false));
        let sleep = Epoll::new()?;
        sleep.ctl(ControlOperation::Add, requests.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))?;
        let flag = closed.clone();
        let thread = std::thread::spawn(move || {
            let mut events = [EpollEvent::default()];
            while !flag.load(Ordering::Relaxed) {
                if sleep.wait(TICK, &mut events).is_ok_and(|count| count > 0)
                    && let Err(error) = requests.handle_request()
                    && !matches!(error, vhost::vhost_user::Error::ReqHandlerError(_))
                {
                    return;
                }
            }
        });
        Ok(Self { mapped, closed, thread: Some(thread) })
    }

    /// What lies in it.
    pub fn mapped(&self) -> &Mapped {
        &self.mapped
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        _ = self.thread.take().map(JoinHandle::join);
    }
}
