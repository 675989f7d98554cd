//! Is the guest's memory all there?

use std::io;
use vm_memory::MmapRegion;

/// A region lies within its file: to touch what is mapped behind the end of a file kills the process, and with it the devices of
/// other guests.
///
/// # Errors
/// If it does not. It is not to be used then.
pub(crate) fn check(region: &MmapRegion) -> io::Result<()> {
    let Some(place) = region.file_offset() else { return Ok(()) };
    let meta = place.file().metadata()?;
    let end = place.start().checked_add(region.size() as u64);
    // Devices have no length, and whole files of huge pages have theirs.
    if !meta.is_file() || end.is_some_and(|end| end <= meta.len()) {
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
