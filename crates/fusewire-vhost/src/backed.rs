//! Is the guest's memory all there?

use std::io;
use vm_memory::{
    GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};

/// Every region lies within its file: to touch what is mapped behind the end of a file kills the process, and with it the devices of
/// other guests. What a monitor says that is not so is no memory at all.
///
/// # Errors
/// If there is such a region; there is no memory then.
pub(crate) fn check(memory: &GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
    let all = memory.memory().iter().try_for_each(|region| {
        let Some(place) = region.file_offset() else { return Ok(()) };
        let meta = place.file().metadata()?;
        let end = place.start().checked_add(region.len());
        // Devices have no length, and whole files of huge pages have theirs.
        if !meta.is_file() || end.is_some_and(|end| end <= meta.len()) {
            return Ok(());
        }
        let why = format!(
            "{} bytes of guest memory at {} of a file that has {}",
            region.len(),
            place.start(),
            meta.len()
        );
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    });
    all.inspect_err(|error| {
        tracing::error!(%error, "the monitor gave memory that is not there: refused");
        if let Ok(guard) = memory.lock() {
            guard.replace(GuestMemoryMmap::new());
        }
    })
}
