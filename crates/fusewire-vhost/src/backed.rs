//! Is the guest's memory all there?

use fusewire::session::Seldom;
use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals};
use std::{fs::File, io};
use vm_memory::MmapRegion;

/// A region lies within its file: to touch what is mapped behind the end of a file kills the process, and with it the devices of
/// other guests. So nobody may make the file shorter from now on, if that is a file for which it can be said. `alone`: there are no
/// other guests, and nobody but the monitor's own could be harmed.
///
/// # Errors
/// If it does not. It is not to be used then.
pub(crate) fn check(region: &MmapRegion, alone: bool) -> io::Result<()> {
    let Some(place) = region.file_offset() else { return Ok(()) };
    // Before its length is looked at.
    let lasts = keep_long(place.file());
    let meta = place.file().metadata()?;
    let end = place.start().checked_add(region.size() as u64);
    // Devices have no length, and whole files of huge pages have theirs.
    if !meta.is_file() || end.is_some_and(|end| end <= meta.len()) {
        if meta.is_file() && !lasts && !alone {
            warn_of_shortening();
        }
        return Ok(());
    }
    let why = format!(
        "{} bytes of guest memory at {} of a file that has {}",
        region.size(),
        place.start(),
        meta.len()
    );
    tracing::error!("the monitor gave memory that is not there: {why}: refused");
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// Have nobody make the file shorter. `false` if that cannot be: it is no file of memory, or the monitor wants no more seals on it.
pub(crate) fn keep_long(file: &File) -> bool {
    let is_sealed = |seals: SealFlags| seals.contains(SealFlags::SHRINK);
    fcntl_get_seals(file).is_ok_and(is_sealed) || fcntl_add_seals(file, SealFlags::SHRINK).is_ok()
}

fn warn_of_shortening() {
    static WARNED: Seldom = Seldom::new();
    if WARNED.happened().is_some() {
        tracing::warn!(
            "a monitor gave memory in a file that it can make shorter, which would end this process with all its guests; \
             try: memory that can be sealed (QEMU: memory-backend-memfd), or a daemon of its own for a guest whose monitor is not trusted"
        );
    }
}
