//! What the client's kernel gathers before it writes it (`FUSE_WRITEBACK_CACHE`).
//!
//! The kernel takes size and times of a regular file for its own then, and what is told of them is passed over while it knows the file.
//! Three things follow for whoever serves it. A page of which only a part was written is read first, also through a file that is open
//! for writing alone: so it is opened for both. And where `O_APPEND` writes to is the kernel's to say, by the end that it knows:
//! the lower file must not know better. And where its holes are must not be told, since not all data is there (`data.rs`). Others that write to the directory are not seen; that is the price.

use super::Passthrough;
use fusewire::InitFlags;
use rustix::{
    fs::OFlags,
    io::{Errno, Result},
};
use std::sync::atomic::Ordering;

/// How a file is opened for a kernel that gathers writes.
fn widened(flags: OFlags) -> OFlags {
    let flags = flags - OFlags::APPEND;
    match flags & OFlags::RWMODE {
        OFlags::WRONLY => (flags - OFlags::RWMODE) | OFlags::RDWR,
        _ => flags,
    }
}

impl Passthrough {
    /// Does the kernel gather writes?
    pub(super) fn gathers(&self) -> bool {
        self.agreed.load(Ordering::Relaxed) & InitFlags::WRITEBACK_CACHE.bits() != 0
    }

    /// Have a file opened with these flags, as far as they are the lower file's business. Returns those that it was opened with.
    pub(super) fn with_flags<T>(
        &self,
        flags: OFlags,
        mut open: impl FnMut(OFlags) -> Result<T>,
    ) -> Result<(T, OFlags)> {
        let flags = if self.options.noatime { flags } else { flags - OFlags::NOATIME };
        if !self.gathers() {
            return Ok((open(flags)?, flags));
        }
        let wide = widened(flags);
        match open(wide) {
            // It may write and not read, and neither may we: as long as it writes whole pages, that will do.
            Err(Errno::ACCESS) if wide & OFlags::RWMODE != flags & OFlags::RWMODE => {
                let flags = flags - OFlags::APPEND;
                Ok((open(flags)?, flags))
            }
            opened => Ok((opened?, wide)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_and_nothing_appends_by_itself() {
        let rest = OFlags::SYNC | OFlags::CLOEXEC;
        for (asked, opened) in [
            (OFlags::RDONLY, OFlags::RDONLY),
            (OFlags::WRONLY, OFlags::RDWR),
            (OFlags::RDWR, OFlags::RDWR),
            (OFlags::WRONLY | OFlags::APPEND, OFlags::RDWR),
            (OFlags::RDWR | OFlags::APPEND, OFlags::RDWR),
        ] {
            assert_eq!(widened(asked | rest), opened | rest);
        }
    }
}
