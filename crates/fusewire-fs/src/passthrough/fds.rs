//! How many descriptors are in use.

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::{
    fmt, fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Descriptors left to everything else in the process: channels, mounts, threads that look into `/proc`.
const RESERVE: u64 = 128;
/// Part of the reserve that is for moments: what is opened to answer one request and closed again with the answer. So
/// that files can be looked at, changed and removed while clients hold all descriptors there are. A small budget has less: an eighth
/// of it, and no less than the smaller number.
const MOMENTARY: (usize, usize) = (8, 64);
/// Fewer than this and nothing works; then the attempt is made all the same, and fails with `EMFILE` where it must.
const LEAST: u64 = 32;

/// How many descriptors may be in use, and are.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicUsize,
    /// More than this is not wanted.
    most: usize,
    used: AtomicUsize,
}

impl Budget {
    /// Raise the process's limit as far as it may be, and leave a reserve of it to others. `place` has the descriptors in use.
    pub fn new(limit: Option<u64>, place: &Path) -> Arc<Self> {
        let allowed = raise_limit();
        let in_use = in_use(place);
        let ours = allowed.saturating_sub(in_use + RESERVE).max(LEAST);
        let size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let most = size(limit.unwrap_or(u64::MAX).max(LEAST));
        let limit = AtomicUsize::new(size(limit.unwrap_or(ours).clamp(LEAST, ours)));
        Arc::new(Self { limit, most, used: AtomicUsize::new(0) })
    }

    /// So many of those that were in use at the beginning belong here.
    pub fn came_with(&self, count: usize) {
        self.limit.store(self.limit().saturating_add(count).min(self.most), Ordering::Relaxed);
    }

    /// How many there may be.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Are there more than there may be, for the moment?
    pub fn is_over(&self) -> bool {
        self.used() > self.limit()
    }

    /// Permission to open one descriptor; `None` at the limit.
    pub fn take(self: &Arc<Self>) -> Option<Permit> {
        self.take_below(self.limit())
    }

    /// Permission to open one descriptor for the length of a request, also at the limit.
    pub fn take_for_a_moment(self: &Arc<Self>) -> Option<Permit> {
        self.take_below(self.limit() + momentary(self.limit()))
    }

    fn take_below(self: &Arc<Self>, limit: usize) -> Option<Permit> {
        if self.used.fetch_add(1, Ordering::Relaxed) < limit {
            return Some(Permit(self.clone()));
        }
        self.used.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

/// How many more than `limit` may be open for moments.
pub const fn momentary(limit: usize) -> usize {
    let part = limit / 8;
    match (part < MOMENTARY.0, part > MOMENTARY.1) {
        (true, _) => MOMENTARY.0,
        (_, true) => MOMENTARY.1,
        _ => part,
    }
}

/// How many descriptors there are in `place`.
fn in_use(place: &Path) -> u64 {
    // Linux 6.2 has the number as the directory's size; with thousands of them, counting takes long.
    match fs::metadata(place).map_or(0, |meta| meta.len()) {
        0 => fs::read_dir(place).map_or(0, |dir| dir.count() as u64),
        count => count,
    }
}

/// The limit on open files after raising it to the hard limit.
fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match (current, maximum) {
        (Some(now), Some(most)) if now < most => {
            match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
                Ok(()) => most,
                Err(error) => {
                    tracing::warn!(%error, now, most, "cannot raise the limit on open files");
                    now
                }
            }
        }
        (Some(now), _) => now,
        (None, _) => u64::from(u32::MAX),
    }
}

/// Permission to have one descriptor open.
#[derive(Debug)]
pub struct Permit(Arc<Budget>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A descriptor that counts.
#[derive(Debug)]
pub struct Fd {
    // Closed before the permission is given back: fields are dropped in this order.
    fd: OwnedFd,
    _permit: Permit,
}

impl Fd {
    /// A descriptor with the permission it was opened under.
    pub fn new(fd: OwnedFd, permit: Permit) -> Self {
        Self { fd, _permit: permit }
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Did an attempt fail for want of descriptors?
pub fn is_exhausted<T>(result: &rustix::io::Result<T>) -> bool {
    matches!(result, Err(Errno::MFILE | Errno::NFILE))
}

/// Says in which call on which path something failed.
pub fn explain(what: &str, path: &Path, error: impl Into<io::Error>) -> io::Error {
    let source = error.into();
    io::Error::new(source.kind(), Explained { what: format!("{what} {}", path.display()), source })
}

/// An error of the system, and what it was met at.
#[derive(Debug)]
struct Explained {
    what: String,
    source: io::Error,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for Explained {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_what_is_given_back_can_be_taken_again() {
        let budget = Budget::new(Some(40), Path::new("/proc/self/fd"));
        assert_eq!(budget.limit(), 40);
        let permits: Vec<_> = std::iter::from_fn(|| budget.take()).collect();
        assert_eq!((permits.len(), budget.used()), (40, 40));
        let moment = budget.take_for_a_moment();
        assert!(moment.is_some() && budget.is_over() && budget.take().is_none());
        drop(moment);
        drop(permits);
        budget.came_with(3);
        assert_eq!(budget.limit(), 40, "no more than were asked for");
        assert_eq!(budget.used(), 0);
        assert!(budget.take().is_some());
    }

    #[test]
    fn the_process_limit_is_not_exceeded() {
        let budget = Budget::new(Some(u64::MAX), Path::new("/proc/self/fd"));
        let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert!((budget.limit() as u64) < most);
    }
}
