//! Files and directories that are watched one by one, where a whole filesystem cannot be.
//!
//! What is watched the kernel may remember for ever; what is not, for a moment. A watch is set when the kernel first learns of a file, before
//! anything that it is to remember is read, and ends when the kernel has forgotten it: never before, so that nothing is remembered unwatched.
//! It is on the file itself, not on its directory. So it does not matter under which of its names a file is changed, or whether it has one.

use super::{
    index::Index,
    source::Source,
    stamps::{Since, Stamps},
};
use crate::passthrough::{fds::Fd, inode::by_path, options::Descriptors};
use rustix::io::{Errno, Result};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

const SHARDS: usize = 16;

/// How many there are at most. Each keeps an inode in the kernel's memory, about 1 KiB, and a descriptor.
const MOST: usize = 1 << 16;

/// What is watched, by inode number.
#[derive(Debug)]
pub struct Watches {
    shards: [Mutex<HashMap<u64, Watch>>; SHARDS],
    count: AtomicUsize,
    limit: AtomicUsize,
    full: Full,
    /// That there are no more has been said.
    is_told: AtomicBool,
    descriptors: Descriptors,
}

#[derive(Debug)]
struct Watch {
    /// What is read later is read under the watch.
    since: Since,
    /// Takes it away again, and keeps the number from being another file's meanwhile.
    fd: Arc<Fd>,
    is_dir: bool,
}

/// How many there were when the user had no more. What others of the user's processes have is not known, so it is tried again now and then.
#[derive(Debug)]
struct Full {
    at: AtomicUsize,
    /// In milliseconds from `began`.
    next_trial: AtomicU64,
    began: Instant,
}

impl Default for Full {
    fn default() -> Self {
        let at = AtomicUsize::new(usize::MAX);
        Self { at, next_trial: AtomicU64::new(0), began: Instant::now() }
    }
}

impl Full {
    /// How long it is not tried again, unless one ends.
    const REST: Duration = Duration::from_secs(1);

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn found(&self, count: usize) {
        self.at.store(count, Ordering::Relaxed);
        self.next_trial.store(self.now() + Self::REST.as_millis() as u64, Ordering::Relaxed);
    }

    /// Is one more than `count` in vain?
    fn is_at(&self, count: usize) -> bool {
        if count < self.at.load(Ordering::Relaxed) {
            return false;
        }
        let (now, next) = (self.now(), self.next_trial.load(Ordering::Relaxed));
        let later = now + Self::REST.as_millis() as u64;
        let order = Ordering::Relaxed;
        // One of those who come at once tries.
        now < next || self.next_trial.compare_exchange(next, later, order, order).is_err()
    }
}

impl Watches {
    /// None yet. `descriptors`: where the process finds those that files are watched by.
    pub fn new(descriptors: Descriptors) -> Self {
        Self {
            shards: Default::default(),
            count: AtomicUsize::new(0),
            limit: AtomicUsize::new(MOST),
            full: Full::default(),
            is_told: AtomicBool::new(false),
            descriptors,
        }
    }

    fn shard(&self, ino: u64) -> MutexGuard<'_, HashMap<u64, Watch>> {
        self.shards[ino as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There are to be no more than that many: each takes a descriptor.
    pub fn bound(&self, limit: usize) {
        self.limit.store(limit.min(MOST), Ordering::Relaxed);
    }

    /// How many there may be.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Since when the file with this number has been watched, if it is.
    pub fn since(&self, ino: u64) -> Option<Since> {
        self.shard(ino).get(&ino).map(|watch| watch.since)
    }

    /// Is the file with this number not watched yet, and is there room?
    pub fn can_watch(&self, ino: u64) -> bool {
        if self.len() >= self.limit() {
            self.refused(Errno::NOSPC);
            return false;
        }
        self.since(ino).is_none() && !self.full.is_at(self.len())
    }

    /// Watch the file with this number, which `fd` is of, if it is not watched yet. From when on changes to it are heard of `prepare` is
    /// called; only if that succeeds it counts as watched.
    ///
    /// # Errors
    /// `NOSPC` when there are as many as there may be, here or for the user; `ACCESS` if it may not be read; `AGAIN` if `prepare` fails.
    pub fn watch(
        &self,
        (source, stamps): (&Source, &Stamps),
        ino: u64,
        (fd, is_dir): (Arc<Fd>, bool),
        prepare: impl FnOnce() -> bool,
    ) -> Result<Since> {
        let mut shard = self.shard(ino);
        if let Some(watch) = shard.get(&ino) {
            return Ok(watch.since);
        }
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.limit() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::NOSPC);
        }
        let added = by_path(self.descriptors, &*fd, |path| source.add(path, is_dir));
        let added = added.and_then(|()| match prepare() {
            true => Ok(()),
            false => {
                by_path(self.descriptors, &*fd, |path| source.remove(path, is_dir))?;
                Err(Errno::AGAIN)
            }
        });
        if let Err(error) = added {
            let others = self.count.fetch_sub(1, Ordering::Relaxed) - 1;
            if error == Errno::NOSPC {
                self.full.found(others);
            }
            return Err(error);
        }
        let since = stamps.pass();
        shard.insert(ino, Watch { since, fd, is_dir });
        Ok(since)
    }

    /// A node of the file with this number is forgotten: was it the last?
    pub fn forgotten(&self, source: &Source, ino: u64, index: &Index) {
        let mut shard = self.shard(ino);
        // Under the lock: whoever makes a node of it anew enters that before he asks for a watch.
        let mut is_known = false;
        index.each(ino, |_| is_known = true);
        if is_known {
            return;
        }
        let Some(watch) = shard.remove(&ino) else { return };
        match by_path(self.descriptors, &*watch.fd, |path| source.remove(path, watch.is_dir)) {
            // `NOENT`: it ended with one of its names, see `renew`.
            Ok(()) | Err(Errno::NOENT) => _ = self.count.fetch_sub(1, Ordering::Relaxed),
            // It may not be read any more. The watch is there as long as the file is, so it counts.
            Err(error) => tracing::debug!(%error, ino, "a watch stays"),
        }
        drop(shard);
        // Closed, if at all, with nothing locked.
        drop(watch);
    }

    /// The watch of the file with this number, if there is one, may have ended; set it again. What was heard of the file until now does
    /// not count. Answers whether there was one.
    ///
    /// All marks of a file end when a name of it that nobody uses goes and none is left (`fsnotify_inoderemove`), also if it is open by
    /// another name that went before. Here it always is, by the watch's own descriptor.
    pub fn renew(&self, (source, stamps): (&Source, &Stamps), ino: u64) -> bool {
        let mut shard = self.shard(ino);
        let Some(watch) = shard.get_mut(&ino) else { return false };
        let added = by_path(self.descriptors, &*watch.fd, |path| source.add(path, watch.is_dir));
        let ended = match added {
            Ok(()) => {
                watch.since = stamps.pass();
                None
            }
            Err(error) => {
                tracing::debug!(%error, ino, "a watch has ended");
                self.count.fetch_sub(1, Ordering::Relaxed);
                shard.remove(&ino)
            }
        };
        drop(shard);
        // Closed, if at all, with nothing locked.
        drop(ended);
        true
    }

    /// The same of all files, some at a time; `meanwhile` is called in between.
    ///
    /// # Errors
    /// The first of `meanwhile`, which ends it.
    pub fn renew_all(&self, to: (&Source, &Stamps), mut meanwhile: impl FnMut() -> Result<()>) -> Result<()> {
        for shard in &self.shards {
            let watched: Vec<u64> =
                shard.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
            watched.into_iter().for_each(|ino| _ = self.renew(to, ino));
            meanwhile()?;
        }
        Ok(())
    }

    /// The kernel has forgotten everything: no descriptors are kept. (Whoever asks what was heard may keep all this for long.)
    pub fn end(&self) {
        self.bound(0);
        for shard in &self.shards {
            let watches = std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            self.count.fetch_sub(watches.len(), Ordering::Relaxed);
        }
    }

    /// There is no watch for a file: say so once, if it is for want of room.
    pub fn refused(&self, error: Errno) {
        if error == Errno::NOSPC && self.limit() > 0 && !self.is_told.swap(true, Ordering::Relaxed) {
            let (watched, limit) = (self.len(), self.limit());
            tracing::warn!(
                watched,
                limit,
                "no more files can be watched: caches of others are those of auto (raise the limit on open \
                 files or /proc/sys/fs/fanotify/max_user_marks, or serve the directory as root)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passthrough::fds::Budget;
    use fusewire::NodeId;
    use std::{
        os::unix::fs::{FileExt, MetadataExt},
        path::Path,
    };

    fn fd(path: &Path) -> Arc<Fd> {
        let permit = Budget::new(None, Path::new("/proc/self/fd")).take().expect("a descriptor");
        Arc::new(Fd::new(std::fs::File::open(path).expect("a file").into(), permit))
    }

    /// What is heard: masks of the events, by inode number.
    fn heard(source: &Source) -> Vec<(u64, u64)> {
        let (mut heard, mut buffer) = (Vec::new(), Vec::new());
        let take = |event: super::super::Event<'_>| {
            for object in event.objects() {
                heard.extend(super::super::numbers(object.handle).map(|number| (number, event.mask)));
            }
        };
        source.read(&mut buffer, take).expect("events");
        heard
    }

    /// A file whose names are gone, the one it is watched by first.
    #[test]
    fn a_watch_that_ends_with_another_name_is_set_again_and_does_not_count_for_ever() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        let (source, stamps, index) =
            (Source::of_files().expect("fanotify"), Stamps::default(), Index::default());
        let (watches, node) = (Watches::new(Descriptors::InProc), NodeId::new(2));
        for is_renewed in [true, false] {
            std::fs::write(&a, "x").expect("a file");
            let ino = a.metadata().expect("a file").ino();
            index.insert(ino, node);
            let since = watches.watch((&source, &stamps), ino, (fd(&a), false), || true).expect("a watch");
            let writer = std::fs::File::options().write(true).open(&a).expect("a file");
            std::fs::hard_link(&a, &b).expect("a link");
            [&a, &b].into_iter().for_each(|name| std::fs::remove_file(name).expect("removed"));
            let is_told = |heard: &[(u64, u64)], what| heard.contains(&(ino, what));
            let told = heard(&source);
            assert!(
                told.iter().any(|(of, mask)| *of == ino && mask & libc::FAN_DELETE_SELF != 0),
                "{told:?}"
            );
            if is_renewed {
                assert!(watches.renew((&source, &stamps), ino) && watches.since(ino) > Some(since));
                writer.write_all_at(b"y", 0).expect("written");
                let told = heard(&source);
                assert!(is_told(&told, libc::FAN_MODIFY), "{told:?}");
            }
            index.remove(ino, node);
            watches.forgotten(&source, ino, &index);
            assert_eq!(watches.len(), 0);
        }
        assert!(!watches.renew((&source, &stamps), 7), "it was not watched");
    }

    #[test]
    fn a_file_is_watched_until_its_last_node_is_forgotten_and_no_more_than_there_may_be() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        paths.iter().for_each(|path| std::fs::write(path, "x").expect("a file"));
        let [a, b] = paths.each_ref().map(|path| path.metadata().expect("a file").ino());
        let (source, stamps, index) =
            (Source::of_files().expect("fanotify"), Stamps::default(), Index::default());
        let watches = Watches::new(Descriptors::InProc);
        watches.bound(1);
        let watch = |ino, path: &Path| watches.watch((&source, &stamps), ino, (fd(path), false), || true);
        let nodes = [NodeId::new(2), NodeId::new(3)];
        nodes.iter().for_each(|node| index.insert(a, *node));

        let before = stamps.now();
        let since = watch(a, &paths[0]).expect("a watch");
        assert!(before < since && since <= stamps.now(), "what was read before is not guarded");
        assert_eq!(watch(a, &paths[0]), Ok(since), "it is watched already");
        assert_eq!(watch(b, &paths[1]), Err(Errno::NOSPC));
        assert_eq!((watches.len(), watches.since(b), watches.can_watch(b)), (1, None, false));

        let change = || paths.iter().for_each(|path| std::fs::write(path, "changed").expect("written"));
        let is_of = |of: u64, heard: &[(u64, u64)]| heard.iter().any(|(number, _)| *number == of);
        change();
        let first = heard(&source);
        assert!(is_of(a, &first) && !is_of(b, &first), "{first:?}");
        for (node, is_watched) in [(nodes[0], true), (nodes[1], false)] {
            index.remove(a, node);
            watches.forgotten(&source, a, &index);
            change();
            assert_eq!(is_of(a, &heard(&source)), is_watched);
        }
        assert_eq!((watches.len(), watches.since(a)), (0, None));
        assert!(watch(b, &paths[1]).is_ok(), "there is room again");
    }

    #[test]
    fn what_cannot_be_prepared_is_not_watched() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let path = dir.path().join("a");
        std::fs::write(&path, "x").expect("a file");
        let ino = path.metadata().expect("a file").ino();
        let (source, stamps) = (Source::of_files().expect("fanotify"), Stamps::default());
        let watches = Watches::new(Descriptors::InProc);
        let watch = |is_ready| watches.watch((&source, &stamps), ino, (fd(&path), false), || is_ready);
        assert_eq!(watch(false), Err(Errno::AGAIN));
        std::fs::write(&path, "y").expect("written");
        assert_eq!((watches.len(), watches.can_watch(ino), heard(&source).len()), (0, true, 0));
        assert!(watch(true).is_ok());
    }

    /// Runs itself as a user who may have two marks.
    #[test]
    fn where_the_user_has_no_more_marks_nothing_is_tried_for_each_file() {
        const MARKS: &str = "/proc/sys/user/max_fanotify_marks";
        const INSIDE: &str = "FUSEWIRE_TEST_TWO_MARKS";
        if std::env::var_os(INSIDE).is_some() {
            return few_marks();
        }
        let name = "passthrough::feed::watches::tests::where_the_user_has_no_more_marks_nothing_is_tried_for_each_file";
        let line = format!(r#"echo 2 > {MARKS} && exec "$0" --exact {name} --nocapture"#);
        let program = std::env::current_exe().expect("this program");
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", &line]).arg(program).env(INSIDE, "1");
        let output = command.output().expect("unshare");
        let text =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        if text.contains("unshare failed") || text.contains(MARKS) {
            return eprintln!("skipped: no user namespace with bounds of its own: {text}");
        }
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    fn few_marks() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let paths = ["a", "b", "c"].map(|name| dir.path().join(name));
        paths.iter().for_each(|path| std::fs::write(path, "x").expect("a file"));
        let [a, b, c] = paths.each_ref().map(|path| path.metadata().expect("a file").ino());
        let (source, stamps, index) =
            (Source::of_files().expect("fanotify"), Stamps::default(), Index::default());
        let watches = Watches::new(Descriptors::InProc);
        let prepared = std::cell::Cell::new(0);
        let watch = |ino, path: &Path| {
            watches.watch((&source, &stamps), ino, (fd(path), false), || {
                prepared.set(prepared.get() + 1);
                true
            })
        };
        assert!(watches.can_watch(a) && watch(a, &paths[0]).is_ok());
        assert!(watches.can_watch(b) && watch(b, &paths[1]).is_ok());
        assert!(watches.can_watch(c), "it is not known yet");
        assert_eq!((watch(c, &paths[2]), watches.len()), (Err(Errno::NOSPC), 2));
        assert!((0..100).all(|_| !watches.can_watch(c)), "it is known now");
        assert_eq!(prepared.get(), 2, "nothing was done for what is not watched");
        std::thread::sleep(Full::REST);
        assert_eq!([watches.can_watch(c), watches.can_watch(c)], [true, false], "now and then");
        watches.forgotten(&source, a, &index);
        assert!(watches.can_watch(c) && watch(c, &paths[2]).is_ok(), "there is room again");
    }
}
