//! Lower files that the kernel reads, writes and maps by itself (`FUSE_PASSTHROUGH`, Linux 6.9).
//!
//! A filesystem whose file is another file as it stands registers that one and names it in its reply to `open`. The kernel
//! then opens the lower file itself, with the caller's flags and the daemon's rights, and forwards to it what is read and
//! written: no request, no copy, one page cache. All other requests come as ever.
//!
//! What the kernel asks for (`fs/fuse/iomode.c`): while a node is open, all its opens are forwarded to one and the same backing, or
//! none is. A reply that breaks that makes `open` fail with `EIO`.

use crate::{
    sys,
    types::{Errno, Result},
};
use rustix::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Registers lower files. Cheap to clone. Without a kernel that agreed to `PASSTHROUGH` it refuses every file.
#[derive(Clone, Debug, Default)]
pub struct Backings(Option<Arc<OwnedFd>>);

impl Backings {
    /// Of the connection that `device` is a descriptor of.
    pub(crate) fn of(device: OwnedFd) -> Self {
        Self(Some(Arc::new(device)))
    }

    /// Can files be registered at all?
    pub fn are_offered(&self) -> bool {
        self.0.is_some()
    }

    /// Register a regular file; an `O_PATH` descriptor does. (`fuse_backing_open`)
    ///
    /// # Errors
    /// `OPNOTSUPP` where it was not agreed on, or the file cannot be read and written by the kernel; `PERM` without
    /// `CAP_SYS_ADMIN`; `LOOP` if its filesystem is stacked too deep for the `max_stack_depth` that was agreed on; `INVAL` or
    /// `ISDIR` if it is no regular file.
    pub fn register(&self, file: impl AsFd) -> Result<Backing> {
        let device = self.0.as_ref().ok_or(Errno::OPNOTSUPP)?;
        let id = sys::device::open_backing(device.as_fd(), file.as_fd())?;
        Ok(Backing { id, device: device.clone() })
    }
}

/// A registered lower file. Dropped, it is given back; what was opened with it stays open.
#[derive(Debug)]
pub struct Backing {
    id: i32,
    device: Arc<OwnedFd>,
}

impl Backing {
    /// The kernel's number for it.
    pub fn id(&self) -> i32 {
        self.id
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // The connection may be gone, and the number with it.
        _ = sys::device::close_backing(self.device.as_fd(), self.id);
    }
}
