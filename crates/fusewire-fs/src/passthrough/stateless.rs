//! Files and directories that clients have open without our being told.
//!
//! Once OPEN, or OPENDIR, is answered `ENOSYS`, the kernel opens by itself and for good: no request at `open` and `close`, and no
//! handle in those between. What is read or written then is opened here by its node, as it is first used, and kept for
//! the next use.
//!
//! The price: nobody tells when a file is closed, so what would have to end with that cannot be had, locks below above
//! all, and the kernel reads and writes no such file by itself.

use super::{
    Passthrough, attr,
    dir::Stream,
    handle::{Open, lower_flags},
    options::{CacheProfile, LockScope, Opens},
    unheard::Unheard,
};
use fusewire::{FileType, NodeId, context};
use rustix::{
    fs::OFlags,
    io::{Errno, Result},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How many are kept open for the next use.
const KEPT: usize = 128;

/// How long one that is open for writing is kept after its last use: as long as it is, nobody can execute the lower file.
const WRITING: Duration = Duration::from_secs(1);

/// How many files must have been opened until it is decided whether opens are done without, and half as many between that and the next time.
const OPENS: u32 = 10_000;

/// What the kernel reads or writes by itself instead of asking for it saves about as much as an open without requests does.
const AN_OPEN: u64 = 128 << 10;

/// How many times as much the opens must have cost as forwarding can have saved: what is read again from the cache costs nothing either way.
const MORE: u64 = 4;

/// One file counts for no more than this: who opens a file of a terabyte need not read it.
const MOST: u64 = (1 << 30) / AN_OPEN;

/// What one that is opened here is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Reading, and all that takes no more.
    Read,
    /// Writing to a place.
    Write,
    /// Writing to the end.
    Append,
    /// Listing a directory.
    List,
}

impl Use {
    const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Append, Self::List];

    fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Append)
    }

    fn flags(self) -> OFlags {
        match self {
            Self::Read => OFlags::RDONLY,
            Self::Write => OFlags::WRONLY,
            Self::Append => OFlags::WRONLY | OFlags::APPEND,
            Self::List => OFlags::RDONLY | OFlags::DIRECTORY,
        }
    }
}

/// What is open without handles.
#[derive(Debug, Default)]
pub struct Stateless {
    /// OPEN is not asked any more.
    files: AtomicBool,
    /// OPENDIR is not asked any more.
    directories: AtomicBool,
    tally: Tally,
    kept: Arc<Kept>,
    /// What the kernel has of files of whose changes nobody hears.
    unheard: Arc<Unheard>,
}

/// What is open, and when it was used last.
type ByUse = HashMap<(NodeId, Use), (Arc<Open>, Instant)>;

#[derive(Debug, Default)]
struct Kept {
    opens: Mutex<ByUse>,
    /// How many: what is forgotten must not cost a lock where nothing is kept.
    count: AtomicUsize,
    /// There is a thread that closes what is open for writing.
    closing: AtomicBool,
}

impl Kept {
    fn opens(&self) -> MutexGuard<'_, ByUse> {
        self.opens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: (NodeId, Use)) -> Option<Arc<Open>> {
        let mut opens = self.opens();
        let (open, used) = opens.get_mut(&key)?;
        *used = Instant::now();
        Some(open.clone())
    }

    fn insert(self: &Arc<Self>, key: (NodeId, Use), open: Arc<Open>) {
        let mut opens = self.opens();
        let oldest = || opens.iter().min_by_key(|(_, (_, used))| *used).map(|(&key, _)| key);
        let oldest = if opens.len() >= KEPT { oldest() } else { None };
        let old = oldest.and_then(|key| opens.remove(&key));
        let replaced = opens.insert(key, (open, Instant::now()));
        self.count.store(opens.len(), Ordering::Release);
        drop(opens);
        // Closed, if at all, with nothing locked.
        drop((old, replaced));
        if key.1.writes() && !self.closing.swap(true, Ordering::AcqRel) {
            self.close_later();
        }
    }

    /// Remove those that `which` says.
    fn close(&self, which: impl Fn(&(NodeId, Use), Instant) -> bool) {
        let mut opens = self.opens();
        let gone: Vec<_> = opens.extract_if(|key, (_, used)| which(key, *used)).collect();
        self.count.store(opens.len(), Ordering::Release);
        drop(opens);
        drop(gone);
    }

    /// Close what is open for writing once it is not used any more, by a thread that ends with the last of them.
    fn close_later(self: &Arc<Self>) {
        let kept = Arc::downgrade(self);
        let body = move || {
            loop {
                thread::sleep(WRITING);
                let Some(kept) = Weak::upgrade(&kept) else { return };
                kept.close(|(_, how), used| how.writes() && used.elapsed() >= WRITING);
                let opens = kept.opens();
                if !opens.keys().any(|(_, how)| how.writes()) {
                    // Under the lock: whoever puts one in after this sees that there is no thread.
                    kept.closing.store(false, Ordering::Release);
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("fusewire-close".into()).stack_size(128 << 10);
        if let Err(error) = context::spawn(thread, body) {
            tracing::debug!(%error, "files written to stay open until others take their place");
            self.closing.store(false, Ordering::Release);
        }
    }
}

/// Files that were opened with a request, those long ago counting less, and what it may have saved that some are forwarded.
#[derive(Debug, Default)]
struct Tally {
    opens: AtomicU32,
    /// In units of an open.
    saved: AtomicU64,
}

impl Tally {
    /// A file was opened, `forwarded` if it has so many bytes that the kernel reads and writes by itself. Would all have been better off without opens?
    fn opened(&self, forwarded: Option<u64>) -> bool {
        if let Some(size) = forwarded {
            self.saved.fetch_add((size / AN_OPEN).clamp(1, MOST), Ordering::Relaxed);
        }
        let opens = self.opens.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if opens < OPENS {
            return false;
        }
        let saved = self.saved.load(Ordering::Relaxed);
        if saved.saturating_mul(MORE) <= u64::from(opens) {
            return true;
        }
        // Others may count meanwhile: a few opens more or less are no matter.
        self.opens.store(OPENS / 2, Ordering::Relaxed);
        self.saved.store(saved / 2, Ordering::Relaxed);
        false
    }
}

impl Stateless {
    /// The client is gone.
    pub fn give_up(&self) {
        self.kept.close(|_, _| true);
    }

    /// The kernel forgets a node: what was open of it is closed.
    pub fn forgotten(&self, node: NodeId) {
        if self.kept.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut opens = self.kept.opens();
        let gone = Use::ALL.map(|how| opens.remove(&(node, how)));
        self.kept.count.store(opens.len(), Ordering::Release);
        drop(opens);
        drop(gone);
    }

    /// The client may have been told so by another process.
    pub fn may_be_on(&self) {
        self.files.store(true, Ordering::Relaxed);
    }

    /// Does the kernel open files, or directories, by itself?
    pub fn is_on(&self) -> bool {
        self.files.load(Ordering::Relaxed) || self.directories.load(Ordering::Relaxed)
    }
}

impl Passthrough {
    /// Why files cannot be opened without our being told; `None` if they can.
    pub(super) fn needs_opens(&self) -> Option<&'static str> {
        let mount = self.nodes.mounts.root();
        match (self.cache(), self.options.opens) {
            (CacheProfile::Coherent, _) if self.coherent.is_by_file() => {
                return Some(
                    "not all files can be watched for changes, so that each open says what may be cached",
                );
            }
            (CacheProfile::Coherent, Opens::Auto) if !self.nodes.mounts.is_one() => {
                return Some("changes are not heard of where filesystems are mounted inside");
            }
            (CacheProfile::Always | CacheProfile::Coherent, _) => {}
            _ => return Some("what the kernel remembers is to be checked when a file is opened"),
        }
        if self.options.locks == LockScope::Directory {
            return Some("locks below end when a file is closed");
        }
        if mount.flush_errors {
            return Some("errors of writing are told when a file is closed");
        }
        // What others do to its name must not lose an open file.
        (!mount.handles).then_some("the directory's filesystem has no file handles")
    }

    /// Say how files are opened, and why.
    pub(super) fn tell_opens(&self) {
        match (self.options.opens, self.needs_opens()) {
            (Opens::Stateless, Some(why)) => {
                tracing::warn!(why, "opens: handles, although stateless was asked for")
            }
            (Opens::Stateless, None) => tracing::info!("opens: stateless"),
            (Opens::Handles, _) => tracing::info!(why = "as asked for", "opens: handles"),
            (Opens::Auto, Some(why)) => tracing::info!(why, "opens: handles"),
            (Opens::Auto, None) => {
                tracing::info!("opens: handles, stateless once many files are opened of which few are large")
            }
        }
    }

    /// A file is opened. `ENOSYS`: that is done without us from now on.
    pub(super) fn open_is_told(&self, node: NodeId, is_forwarded: bool) -> Result<()> {
        if self.options.opens == Opens::Handles || self.needs_opens().is_some() {
            return Ok(());
        }
        let stateless = &self.stateless;
        if self.options.opens == Opens::Auto {
            let size =
                || self.nodes.file(node).and_then(|file| attr::stat(&file)).map_or(0, |stat| stat.stx_size);
            if !stateless.tally.opened(is_forwarded.then(size)) {
                return Ok(());
            }
        }
        if !stateless.files.swap(true, Ordering::Relaxed) {
            tracing::info!("opens: stateless, files are opened and closed without a request");
        }
        Err(Errno::NOSYS)
    }

    /// The same of a directory. Nothing is forwarded there, and locks are refused: so only the cache matters.
    pub(super) fn opendir_is_told(&self) -> Result<()> {
        let caches = match self.cache() {
            CacheProfile::Always => true,
            CacheProfile::Coherent => !self.coherent.is_by_file(),
            CacheProfile::None | CacheProfile::Auto => false,
        };
        if !caches || self.options.opens == Opens::Handles || !self.nodes.mounts.root().handles {
            return Ok(());
        }
        if !self.stateless.directories.swap(true, Ordering::Relaxed) {
            tracing::debug!("directories are opened and closed without a request");
        }
        Err(Errno::NOSYS)
    }

    /// What a client has open of a node without a handle, for this use.
    pub(super) fn open_by_node(&self, node: NodeId, how: Use) -> Result<Arc<Open>> {
        self.forget_in_time(node);
        let key = (node, how);
        if let Some(open) = self.stateless.kept.get(key) {
            return Ok(open);
        }
        let open = match how {
            Use::List => {
                let fd = self.nodes.open(node, FileType::Directory, how.flags() | OFlags::CLOEXEC)?;
                Open::directory(node, fd, Mutex::new(Stream::default()))
            }
            Use::Read | Use::Write | Use::Append => {
                let flags = lower_flags(how.flags().bits());
                let fd = self.nodes.open(node, FileType::Regular, flags)?;
                Open::file(node, fd.into(), flags, (false, None))
            }
        };
        let open = Arc::new(open);
        self.stateless.kept.insert(key, open.clone());
        Ok(open)
    }

    /// Something is about to be answered that the kernel will remember and not ask for again when it is opened. If nobody would
    /// tell it of changes, it is told to forget it in a second or two.
    fn forget_in_time(&self, node: NodeId) {
        let is_unheard = self.coherent.feed().is_some() && self.cache_of(node) != CacheProfile::Coherent;
        if let Some(notifier) = self.notifier.get().filter(|_| is_unheard) {
            self.stateless.unheard.answers(node, notifier);
        }
    }

    /// Is a file without a handle a directory? For requests that come for both.
    pub(super) fn use_of(&self, node: NodeId) -> Use {
        let is_directory = self.nodes.kind(node) == Some(FileType::Directory);
        if is_directory { Use::List } else { Use::Read }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::forward::LARGE, *};

    #[test]
    fn what_was_used_last_is_kept_and_what_is_forgotten_is_closed() {
        let source = tempfile::tempdir().expect("a directory");
        let fs = Passthrough::new(source.path(), super::super::Options::default()).expect("a filesystem");
        let open = || fs.open_by_node(NodeId::ROOT, Use::List).expect("open");
        let first = open();
        assert!(Arc::ptr_eq(&first, &open()));
        assert_eq!(fs.open_by_node(NodeId::ROOT, Use::Read).err(), Some(Errno::ISDIR));
        for other in 2..=(KEPT as u64 + 1) {
            fs.stateless.kept.insert((NodeId::new(other), Use::Read), first.clone());
            open();
        }
        assert_eq!(fs.stateless.kept.count.load(Ordering::Relaxed), KEPT);
        assert!(Arc::ptr_eq(&first, &open()), "it was used all the time");
        assert!(fs.stateless.kept.get((NodeId::new(2), Use::Read)).is_none(), "the oldest made room");
        fs.stateless.forgotten(NodeId::ROOT);
        assert!(!Arc::ptr_eq(&first, &open()));
    }

    /// After how many opens they are done without, of so many; the `nth` of them is of a file with this size.
    fn opens_until_without(opens: u32, nth: u32, size: u64) -> Option<u32> {
        let tally = Tally::default();
        (1..=opens).find(|open| tally.opened((open % nth == 0).then_some(size)))
    }

    #[test]
    fn opens_are_done_without_where_few_files_are_large() {
        assert_eq!(opens_until_without(20_000, u32::MAX, 0), Some(OPENS), "all are small");
        assert_eq!(opens_until_without(20_000, 100, 1 << 20), Some(OPENS), "an object file now and then");
        assert_eq!(opens_until_without(1_000_000, 100, 100 << 20), None, "there is more in the large ones");
        assert_eq!(opens_until_without(1_000_000, 3, LARGE), None, "many are forwarded");
        let most = OPENS - 1;
        let late = opens_until_without(1_000_000, most, 1 << 40);
        assert_eq!(late, None, "each time before it is decided there is a very large one");
        assert_eq!(
            opens_until_without(1_000_000, most * 2, 64 << 20),
            Some(OPENS),
            "one that was not there yet"
        );
    }

    #[test]
    fn what_is_long_ago_counts_less() {
        let tally = Tally::default();
        (0..100).for_each(|_| assert!(!tally.opened(Some(1 << 30))));
        let more = (1..1_000_000u32).find(|_| tally.opened(None));
        assert!(more.is_some_and(|more| (50_000..200_000).contains(&more)), "{more:?}");
    }

    #[test]
    fn what_is_open_for_writing_is_closed_soon() {
        let source = tempfile::tempdir().expect("a directory");
        let fs = Passthrough::new(source.path(), super::super::Options::default()).expect("a filesystem");
        let open = fs.open_by_node(NodeId::ROOT, Use::List).expect("open");
        for _ in 0..2 {
            fs.stateless.kept.insert((NodeId::new(2), Use::Append), open.clone());
            assert!(fs.stateless.kept.get((NodeId::new(2), Use::Append)).is_some());
            let begin = Instant::now();
            while fs.stateless.kept.count.load(Ordering::Relaxed) > 1 {
                assert!(begin.elapsed() < WRITING * 10);
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
    /// A handler starts it, and the thread that serves may be bound to one CPU.
    #[test]
    fn what_closes_files_runs_where_the_process_may() {
        let source = tempfile::tempdir().expect("a directory");
        let fs = Passthrough::new(source.path(), super::super::Options::default()).expect("a filesystem");
        let of_thread = |thread: &str| {
            let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
            let line = |key| status.lines().find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned()));
            Some((line("Name:")?, line("Cpus_allowed_list:")?))
        };
        let closer = || {
            let threads = std::fs::read_dir("/proc/self/task").expect("threads").flatten();
            let mut all = threads.filter_map(|entry| of_thread(entry.file_name().to_str()?));
            all.find(|(name, _)| name == "fusewire-close").map(|(_, cpus)| cpus)
        };
        let process = of_thread(&std::process::id().to_string()).expect("the first thread").1;
        let mut one = rustix::thread::CpuSet::new();
        let all = rustix::thread::sched_getaffinity(None).expect("affinity");
        one.set((0..1024).find(|&cpu| all.is_set(cpu)).expect("a CPU"));
        thread::scope(|scope| {
            scope.spawn(|| {
                rustix::thread::sched_setaffinity(None, &one).expect("affinity");
                let open = fs.open_by_node(NodeId::ROOT, Use::List).expect("open");
                fs.stateless.kept.insert((NodeId::new(2), Use::Append), open);
            });
        });
        let begin = Instant::now();
        while closer().is_none_or(|cpus| cpus != process) {
            assert!(begin.elapsed() < WRITING / 2, "{:?} of {process}", closer());
            thread::sleep(Duration::from_millis(5));
        }
    }
}
