//! Descriptors that a forked child must not keep.
//!
//! A connection lasts as long as anybody has its `/dev/fuse` open, and with it its callers wait: a child that was forked and lives on
//! would keep them waiting for a server that is dead. `O_CLOEXEC` is for children that go on to another program; for the
//! others, `/dev/null` takes the place of such a descriptor as they begin.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{
    Once,
    atomic::{AtomicI32, Ordering},
};

/// How many descriptors are remembered: two for a mount, and one for each further reader. Those that find no place are inherited.
const MOST: usize = 1024;
const FREE: i32 = -1;

static OURS: [AtomicI32; MOST] = [const { AtomicI32::new(FREE) }; MOST];

/// A descriptor that children forked from now on do not have.
#[derive(Debug)]
pub(crate) struct NotInherited {
    fd: OwnedFd,
    place: Option<usize>,
}

impl NotInherited {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            // SAFETY: the handler makes system calls only, on memory that always exists.
            if unsafe { libc::pthread_atfork(None, None, Some(in_child)) } != 0 {
                tracing::debug!("children will inherit /dev/fuse: no memory for a handler");
            }
        });
        let number = fd.as_raw_fd();
        let take = |place: &AtomicI32| {
            place.compare_exchange(FREE, number, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let place = OURS.iter().position(take);
        Self { fd, place }
    }
}

impl AsFd for NotInherited {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for NotInherited {
    fn drop(&mut self) {
        // Before the descriptor is closed, and its number given to something else.
        if let Some(place) = self.place {
            OURS[place].store(FREE, Ordering::Release);
        }
    }
}

/// Runs in the child, before `fork` returns there.
extern "C" fn in_child() {
    // SAFETY: system calls only. What is replaced is this copy's alone; whoever still has its number finds `/dev/null`, and closing
    // that is as good as closing what was there.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        for place in &OURS {
            let fd = place.load(Ordering::Acquire);
            if fd == FREE {
                continue;
            }
            if null < 0 || libc::dup3(null, fd, libc::O_CLOEXEC) < 0 {
                libc::close(fd);
            }
        }
        if null >= 0 {
            libc::close(null);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_forked_child_finds_nothing_there() {
        let file = tempfile::tempfile().expect("a file");
        let (kept, inode) =
            (file.try_clone().expect("a descriptor"), file.metadata().expect("attributes").ino());
        let gone = NotInherited::new(file.into());
        let (kept, number) = (kept.as_raw_fd(), gone.as_fd().as_raw_fd());
        // SAFETY: the child makes system calls only and leaves by `_exit`.
        let status = unsafe {
            match libc::fork() {
                0 => {
                    let mut stat: libc::stat = std::mem::zeroed();
                    let is = |fd, stat: &mut libc::stat| libc::fstat(fd, stat) == 0 && stat.st_ino == inode;
                    let right = is(kept, &mut stat) && !is(number, &mut stat);
                    libc::_exit(if right { 0 } else { 1 })
                }
                child => {
                    let mut status = 0;
                    libc::waitpid(child, &mut status, 0);
                    status
                }
            }
        };
        assert_eq!(status, 0);
        drop(gone);
        assert!(OURS.iter().all(|place| place.load(Ordering::Relaxed) != number));
    }
}
