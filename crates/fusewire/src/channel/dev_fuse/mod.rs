//! Classic `/dev/fuse`.
//!
//! There is one reader thread per CPU, each on a descriptor of its own (`FUSE_DEV_IOC_CLONE`): it reads a request, serves
//! it and writes the answer. At first a single one of them waits for requests; the governor (`govern.rs`) puts the
//! others to work when that is faster. A handler that awaits something gives way: its reader goes on reading with another
//! slot. A handler stuck in a system call is noticed by the watch (`../watch.rs`), which puts spare readers to work.
//!
//! A request is read in one system call to where its pieces belong: the data of a WRITE begins at a page border, header and
//! arguments end there. So nothing is copied, and the lower file may be written with `O_DIRECT`. The answer's header
//! stands right before its data, which makes it one `write`.

mod buffer;
mod govern;
mod pool;
mod reader;
mod slot;

pub use pool::Ended;
pub(crate) use pool::{Pool, allowed_cpus};

use crate::{
    fs::FileSystem,
    proto::{message::Message, negotiate::Bounds},
    session::Session,
    types::Errno,
};
use fusewire_abi::{self as abi, InitFlags};
use rustix::fd::{AsFd, BorrowedFd};
use std::io;
use zerocopy::IntoBytes;

/// Pages per request that the kernel allows: `fs.fuse.max_pages_limit` (6.13), 256 before that.
pub(crate) fn max_pages_limit() -> u16 {
    std::fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(256)
}

/// Read INIT from a `/dev/fuse` descriptor, have the filesystem negotiate, write the answer.
pub(crate) fn handshake<F: FileSystem>(
    device: BorrowedFd<'_>,
    fs: F,
    bounds: Bounds,
) -> io::Result<Session<F>> {
    let mut fs = fs;
    loop {
        let mut buffer = vec![0; abi::MIN_READ_BUFFER];
        let n = read(device, &mut buffer)?;
        let message = Message::split(&buffer[..n], InitFlags::empty())?;
        let unique = message.header.unique;
        match Session::begin(fs, &message, bounds) {
            Ok((out, session)) => {
                let len = (size_of::<abi::OutHeader>() + size_of_val(&out)) as u32;
                let header = abi::OutHeader { len, error: 0, unique };
                write(device, &[header.as_bytes(), out.as_bytes()].concat())?;
                match session {
                    Ok(session) => return Ok(session),
                    Err(same) => fs = same,
                }
            }
            Err(errno) => {
                let len = size_of::<abi::OutHeader>() as u32;
                let header = abi::OutHeader { len, error: -errno.raw_os_error(), unique };
                write(device, header.as_bytes())?;
                return Err(errno.into());
            }
        }
    }
}

fn read(device: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(device, &mut *buffer) {
            Ok(n) => return Ok(n),
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn write(device: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    rustix::io::write(device, message).map(|_| ()).map_err(io::Error::from)
}

/// Write queued notifications until the session ends. For a thread that serves no requests.
pub(crate) fn write_notifications(device: impl AsFd, queue: &crate::notify::Queue) {
    while let Some(message) = queue.next() {
        match rustix::io::write(&device, &message) {
            Ok(_) | Err(Errno::NOENT) => {}
            Err(Errno::NODEV) => queue.close(),
            Err(errno) => {
                tracing::debug!(%errno, "notification refused");
                queue.failed();
            }
        }
    }
}
