//! What the kernel remembers of a directory when nobody says how much it is to, and what it is in the end.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fusewire::mount::{MountEntry, mounts};
use fusewire_fs::passthrough::{CacheProfile, Caching, FeedStats};

use super::plan::Plan;
use crate::args::CacheKind;

/// The caching profile in force.
#[derive(Clone, Debug)]
pub enum InForce {
    /// Whatever was asked for: nobody but the mount changes the filesystem.
    Asked(CacheKind),
    /// What can be had of the directory.
    Directory(Caching),
}

impl InForce {
    /// What is heard of changes to the directory, where the kernel is told of them.
    pub fn feed_stats(&self) -> Option<FeedStats> {
        match self {
            Self::Directory(caching) if caching.profile() == CacheProfile::Coherent => caching.feed_stats(),
            _ => None,
        }
    }
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Asked(kind) => *kind,
            Self::Directory(caching) => match caching.profile() {
                CacheProfile::None => CacheKind::None,
                CacheProfile::Auto => CacheKind::Auto,
                CacheProfile::Coherent => CacheKind::Coherent,
                CacheProfile::Always => CacheKind::Always,
            },
        };
        kind.fmt(f)
    }
}

/// Are caches to be coherent if they can be, since nobody says what they are to be?
pub fn prefers_coherent(plan: &Plan) -> bool {
    if plan.cache.is_some() {
        return false;
    }
    let inside = other_filesystem_inside(&plan.source);
    if let Some(inside) = &inside {
        tracing::info!("caches are those of auto rather than coherent: {}", reason(inside));
    }
    inside.is_none()
}

/// A filesystem that is mounted inside the directory. What others change on it the feed of changes does not tell, so that it is
/// better served as with `--cache auto`.
pub fn other_filesystem_inside(directory: &Path) -> Option<MountEntry> {
    let directory = fs::canonicalize(directory).ok()?;
    let device = fs::metadata(&directory).ok()?.dev();
    let device = (rustix::fs::major(device), rustix::fs::minor(device));
    let is_inside = |entry: &MountEntry| {
        entry.device != device && entry.mountpoint != directory && entry.mountpoint.starts_with(&directory)
    };
    mounts().ok()?.into_iter().find(is_inside)
}

/// Why caches are not coherent by default there.
pub fn reason(inside: &MountEntry) -> String {
    format!(
        "another filesystem ({}) is mounted inside, at {}, and what is changed there is not told",
        inside.fstype,
        inside.mountpoint.display()
    )
}
