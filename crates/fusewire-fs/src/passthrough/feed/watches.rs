//! Files and directories that are watched one by one, where a whole filesystem cannot be.
//!
//! What is watched the kernel may remember for ever; what is not, for a moment. A watch is set when the kernel first learns of a file, before
//! anything that it is to remember is read, and ends when the kernel has forgotten it: by itself, or because it was told to, since another file is
//! to have the watch ([`seats`](super::seats) says whose). Never before, so that nothing is remembered unwatched. It is on the file itself, not on its
//! directory. So it does not matter under which of its names a file is changed, or whether it has one.

use super::{
    index::Index,
    seats::{Leaving, Seats},
    source::Source,
    stamps::{Since, Stamps},
};
use crate::passthrough::{fds::Fd, inode::by_number, options::Descriptors};
use rustix::{
    fs::{Mode, OFlags},
    io::{Errno, Result},
};
use std::{
    ffi::CStr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

const SHARDS: usize = 16;

/// How many there are at most. Each keeps an inode in the kernel's memory, about 1 KiB, and a descriptor.
const MOST: usize = 1 << 16;

/// When the kernel has so many names to forget, what is left waits for the next time.
const NAMES_AT_ONCE: usize = 4096;

/// What is watched, by inode number.
#[derive(Debug)]
pub struct Watches {
    shards: [Mutex<Seats<Watch>>; SHARDS],
    count: AtomicUsize,
    limit: AtomicUsize,
    full: Full,
    /// Somebody was refused who is to have a watch.
    is_wanted: AtomicBool,
    /// How many were given up for others.
    given_up: AtomicU64,
    /// That there are no more has been said.
    is_told: AtomicBool,
    /// Where the process's descriptors are.
    place: OwnedFd,
}

#[derive(Debug)]
struct Watch {
    /// Takes it away again, and keeps the number from being another file's meanwhile.
    fd: Arc<Fd>,
    is_dir: bool,
}

/// Who is to be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The kernel learns of it just now, and may never ask for it again.
    New,
    /// It is asked for once more.
    Again,
}

/// What came of asking for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is some.
    Free,
    /// None, or none is needed.
    None,
    /// None; it is to be [made](Watches::leave), and that is news.
    Wanted,
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

    /// There are `count`: more than once could be had?
    fn had(&self, count: usize) {
        if count > self.at.load(Ordering::Relaxed) {
            self.at.store(usize::MAX, Ordering::Relaxed);
        }
    }

    fn at(&self) -> usize {
        self.at.load(Ordering::Relaxed)
    }

    /// Is one more than `count` in vain?
    fn is_at(&self, count: usize) -> bool {
        if count < self.at() {
            return false;
        }
        let (now, next) = (self.now(), self.next_trial.load(Ordering::Relaxed));
        let later = now + Self::REST.as_millis() as u64;
        let order = Ordering::Relaxed;
        // One of those who come at once tries.
        now < next || self.next_trial.compare_exchange(next, later, order, order).is_err()
    }
}

/// Of `most` watches those that only who is asked for again gets: whoever walks through a large tree once takes them from nobody.
fn reserve(most: usize) -> usize {
    (most / 32).min(1024)
}

impl Watches {
    /// None yet. `descriptors`: where the process finds those that files are watched by.
    ///
    /// # Errors
    /// Those of opening that.
    pub fn new(descriptors: Descriptors) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            shards: Default::default(),
            count: AtomicUsize::new(0),
            limit: AtomicUsize::new(MOST),
            full: Full::default(),
            is_wanted: AtomicBool::new(false),
            given_up: AtomicU64::new(0),
            is_told: AtomicBool::new(false),
            place: rustix::fs::open(descriptors.place(), flags, Mode::empty())?,
        })
    }

    /// To find a file in the kernel's list of descriptors takes a third of the time. A directory is found by itself, unless it may be read and
    /// not searched.
    fn add(&self, source: &Source, fd: &Fd, is_dir: bool) -> Result<()> {
        match is_dir.then(|| source.add((fd, c"."), true)) {
            Some(done) if done != Err(Errno::ACCESS) => done,
            _ => by_number(fd, |number| source.add((&self.place, number), is_dir)),
        }
    }

    fn remove(&self, source: &Source, fd: &Fd, is_dir: bool) -> Result<()> {
        match is_dir.then(|| source.remove((fd, c"."), true)) {
            Some(done) if done != Err(Errno::ACCESS) => done,
            _ => by_number(fd, |number| source.remove((&self.place, number), is_dir)),
        }
    }

    fn shard(&self, ino: u64) -> MutexGuard<'_, Seats<Watch>> {
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

    /// How many were given up for others.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Since when the file with this number has been watched, if it is.
    pub fn since(&self, ino: u64) -> Option<Since> {
        self.shard(ino).since(ino)
    }

    /// The same; something about it is being answered in `era`, of a `name` in it if there is one, that the kernel may remember then.
    pub fn asked(&self, ino: u64, era: u32, name: Option<&CStr>) -> Option<Since> {
        self.shard(ino).asked(ino, era, name)
    }

    /// Does it have a watch, be it one that it gives up just now?
    pub fn has(&self, ino: u64) -> bool {
        self.shard(ino).has(ino)
    }

    /// How many there may be, as far as is known.
    fn most(&self) -> usize {
        self.limit().min(self.full.at())
    }

    /// Is the file with this number not watched yet, and is there room?
    pub fn can_watch(&self, ino: u64, asker: Asker) -> Room {
        if self.has(ino) {
            return Room::None;
        }
        let (count, most) = (self.len(), self.most());
        if count < most.saturating_sub(reserve(most)) || asker == Asker::Again && self.has_room() {
            return Room::Free;
        }
        if most == self.limit() {
            self.refused(Errno::NOSPC);
        } else if !self.full.is_at(count) {
            // The user's bound may have become another.
            return Room::Free;
        }
        match asker == Asker::Again && most > 0 && !self.is_wanted.swap(true, Ordering::Relaxed) {
            true => Room::Wanted,
            false => Room::None,
        }
    }

    /// Is there any for who is asked for again?
    pub fn has_room(&self) -> bool {
        self.len() < self.most()
    }

    /// Is room to be made?
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Room was made, or cannot be.
    pub fn is_served(&self) {
        self.is_wanted.store(false, Ordering::Relaxed);
    }

    /// Those that give up their watches for others, up to `count`, if nobody has asked for them in `era` or the one before. The kernel is to
    /// be told to forget them, and the names in them; when it was, they are [`gone`](Self::gone).
    pub fn leave(&self, era: u32, count: usize) -> Vec<Leaving> {
        let most = self.most();
        let wanted = self.len().saturating_sub(most - reserve(most).max(1).min(most)).min(count);
        let turn =
            |shard: &Mutex<Seats<Watch>>| shard.lock().unwrap_or_else(PoisonError::into_inner).turn(era);
        let mut turns: Vec<Option<u32>> = self.shards.iter().map(turn).collect();
        let (mut leaving, mut names) = (Vec::new(), 0);
        while leaving.len() < wanted && names < NAMES_AT_ONCE {
            let longest = |(_, used): &(usize, &Option<u32>)| used.map(|used| era.wrapping_sub(used));
            let first = turns.iter().enumerate().filter(|(_, used)| used.is_some()).max_by_key(longest);
            let Some((at, _)) = first else { break };
            let mut shard = self.shards[at].lock().unwrap_or_else(PoisonError::into_inner);
            leaving.extend(shard.leave(era).inspect(|of| names += of.names.len()));
            turns[at] = shard.turn(era);
        }
        leaving
    }

    /// The kernel has forgotten what this watch guarded.
    pub fn gone(&self, source: &Source, ino: u64) {
        let mut shard = self.shard(ino);
        let Some(watch) = shard.left(ino) else { return };
        self.given_up.fetch_add(1, Ordering::Relaxed);
        self.take_away(source, ino, &watch);
        drop(shard);
        // Closed, if at all, with nothing locked.
        drop(watch);
    }

    /// Watch the file with this number, which `fd` is of, if it is not watched yet. From when on changes to it are heard of `prepare` is
    /// called; only if that succeeds it counts as watched. `for_good`: it does not give that up for others.
    ///
    /// # Errors
    /// `NOSPC` when there are as many as there may be, here or for the user; `ACCESS` if it may not be read; `AGAIN` if `prepare` fails;
    /// `BUSY` if it gives up its watch just now.
    pub fn watch(
        &self,
        (source, stamps): (&Source, &Stamps),
        (ino, for_good): (u64, bool),
        (fd, is_dir): (Arc<Fd>, bool),
        prepare: impl FnOnce() -> bool,
    ) -> Result<Since> {
        let mut shard = self.shard(ino);
        if shard.has(ino) {
            return shard.since(ino).ok_or(Errno::BUSY);
        }
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.limit() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::NOSPC);
        }
        let added = self.add(source, &fd, is_dir).and_then(|()| match prepare() {
            true => Ok(()),
            false => {
                self.remove(source, &fd, is_dir)?;
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
        self.full.had(self.len());
        let since = stamps.pass();
        shard.take(ino, (Watch { fd, is_dir }, since), (stamps.era(), for_good));
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
        let Some(watch) = shard.remove(ino) else { return };
        self.take_away(source, ino, &watch);
        drop(shard);
        // Closed, if at all, with nothing locked.
        drop(watch);
    }

    /// To be called with its shard locked: nobody sets it anew meanwhile.
    fn take_away(&self, source: &Source, ino: u64, watch: &Watch) {
        match self.remove(source, &watch.fd, watch.is_dir) {
            // `NOENT`: it ended with one of its names, see `renew`.
            Ok(()) | Err(Errno::NOENT) => _ = self.count.fetch_sub(1, Ordering::Relaxed),
            // It may not be read any more. The watch is there as long as the file is, so it counts.
            Err(error) => tracing::debug!(%error, ino, "a watch stays"),
        }
    }

    /// The watch of the file with this number, if there is one, may have ended; set it again. What was heard of the file until now does
    /// not count. Answers whether there was one.
    ///
    /// All marks of a file end when a name of it that nobody uses goes and none is left (`fsnotify_inoderemove`), also if it is open by
    /// another name that went before. Here it always is, by the watch's own descriptor.
    pub fn renew(&self, (source, stamps): (&Source, &Stamps), ino: u64) -> bool {
        let mut shard = self.shard(ino);
        let Some(watch) = shard.watch(ino) else { return false };
        // Also of what is given up just now: what it guards is not forgotten yet.
        let ended = match self.add(source, &watch.fd, watch.is_dir) {
            Ok(()) => {
                shard.renewed(ino, stamps.pass());
                None
            }
            Err(error) => {
                tracing::debug!(%error, ino, "a watch has ended");
                self.count.fetch_sub(1, Ordering::Relaxed);
                shard.remove(ino)
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
            let watched = shard.lock().unwrap_or_else(PoisonError::into_inner).numbers();
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
                "no more files can be watched: what is asked for again takes the place of what nobody asks for, caches of others are \
                 those of auto (raise the limit on open files or /proc/sys/fs/fanotify/max_user_marks, or serve the directory as root)"
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

    /// What has left after that era, the kernel having been told.
    fn leave_all(watches: &Watches, source: &Source, era: u32) -> Vec<Leaving> {
        let left = watches.leave(era, 100);
        left.iter().for_each(|leaving| watches.gone(source, leaving.ino));
        left
    }

    /// A file whose names are gone, the one it is watched by first.
    #[test]
    fn a_watch_that_ends_with_another_name_is_set_again_and_does_not_count_for_ever() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        let (source, stamps, index) =
            (Source::of_files().expect("fanotify"), Stamps::default(), Index::default());
        let (watches, node) =
            (Watches::new(Descriptors::InProc).expect("a list of descriptors"), NodeId::new(2));
        for is_renewed in [true, false] {
            std::fs::write(&a, "x").expect("a file");
            let ino = a.metadata().expect("a file").ino();
            index.insert(ino, node);
            let since =
                watches.watch((&source, &stamps), (ino, false), (fd(&a), false), || true).expect("a watch");
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
        let watches = Watches::new(Descriptors::InProc).expect("a list of descriptors");
        watches.bound(1);
        let watch =
            |ino, path: &Path| watches.watch((&source, &stamps), (ino, false), (fd(path), false), || true);
        let nodes = [NodeId::new(2), NodeId::new(3)];
        nodes.iter().for_each(|node| index.insert(a, *node));

        let before = stamps.now();
        let since = watch(a, &paths[0]).expect("a watch");
        assert!(before < since && since <= stamps.now(), "what was read before is not guarded");
        assert_eq!(watch(a, &paths[0]), Ok(since), "it is watched already");
        assert_eq!(watch(b, &paths[1]), Err(Errno::NOSPC));
        assert_eq!((watches.len(), watches.since(b)), (1, None));
        let asked = [Asker::New, Asker::Again, Asker::Again].map(|asker| watches.can_watch(b, asker));
        assert_eq!(asked, [Room::None, Room::Wanted, Room::None], "one asks for room");

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
        let watches = Watches::new(Descriptors::InProc).expect("a list of descriptors");
        let watch =
            |is_ready| watches.watch((&source, &stamps), (ino, false), (fd(&path), false), || is_ready);
        assert_eq!(watch(false), Err(Errno::AGAIN));
        std::fs::write(&path, "y").expect("written");
        assert_eq!((watches.len(), heard(&source).len()), (0, 0));
        assert_eq!(watches.can_watch(ino, Asker::New), Room::Free);
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
        let watches = Watches::new(Descriptors::InProc).expect("a list of descriptors");
        let prepared = std::cell::Cell::new(0);
        let watch = |ino, path: &Path| {
            watches.watch((&source, &stamps), (ino, false), (fd(path), false), || {
                prepared.set(prepared.get() + 1);
                true
            })
        };
        let can_watch = |ino| watches.can_watch(ino, Asker::New) == Room::Free;
        assert!(can_watch(a) && watch(a, &paths[0]).is_ok());
        assert!(can_watch(b) && watch(b, &paths[1]).is_ok());
        assert!(can_watch(c), "it is not known yet");
        assert_eq!((watch(c, &paths[2]), watches.len()), (Err(Errno::NOSPC), 2));
        assert!((0..100).all(|_| !can_watch(c)), "it is known now");
        assert_eq!(prepared.get(), 2, "nothing was done for what is not watched");
        std::thread::sleep(Full::REST);
        assert_eq!([can_watch(c), can_watch(c)], [true, false], "now and then");
        assert_eq!(watches.can_watch(c, Asker::Again), Room::Wanted);
        let left = leave_all(&watches, &source, 10);
        assert!(left.len() == 1 && watches.len() == 1, "one makes room: {left:?}");
        assert!(can_watch(c) && watch(c, &paths[2]).is_ok(), "there is room again");
        [a, b].into_iter().for_each(|ino| watches.forgotten(&source, ino, &index));
        assert_eq!(watches.len(), 1);
    }

    #[test]
    fn who_was_not_asked_for_makes_room_and_is_not_heard_of_any_more() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let paths: Vec<_> = (0..64).map(|number| dir.path().join(number.to_string())).collect();
        paths.iter().for_each(|path| std::fs::write(path, "x").expect("a file"));
        let inos: Vec<_> = paths.iter().map(|path| path.metadata().expect("a file").ino()).collect();
        let (source, stamps) = (Source::of_files().expect("fanotify"), Stamps::default());
        let watches = Watches::new(Descriptors::InProc).expect("a list of descriptors");
        watches.bound(paths.len());
        let watch = |(ino, path): (&u64, &std::path::PathBuf)| {
            watches.watch((&source, &stamps), (*ino, *ino == inos[0]), (fd(path), false), || true)
        };
        assert!(inos.iter().zip(&paths).all(|of| watch(of).is_ok()));
        assert_eq!(watches.can_watch(1, Asker::New), Room::None);
        assert_eq!(watches.can_watch(1, Asker::Again), Room::Wanted);
        assert!(watches.is_wanted());
        // All were asked for just now.
        assert_eq!((watches.leave(1, 9), watches.leave(2, 9)), (vec![], vec![]));
        inos[8..].iter().for_each(|&ino| assert!(watches.asked(ino, 2, None).is_some()));
        let left: Vec<_> = watches.leave(3, 9).iter().map(|leaving| leaving.ino).collect();
        assert!(left.len() == 2 && left.iter().all(|ino| inos[1..8].contains(ino)), "{left:?} of {inos:?}");
        let ino = left[0];
        let of = inos.iter().zip(&paths).find(|(of, _)| **of == ino).expect("it is one of them");
        let change = || std::fs::write(of.1, "changed").expect("written");
        let is_heard = |heard: Vec<(u64, u64)>| heard.iter().any(|(number, _)| *number == ino);
        // Until the kernel was told it is heard of, and nothing is remembered by it.
        change();
        assert!(is_heard(heard(&source)));
        assert_eq!(
            (watches.since(ino), watches.asked(ino, 3, None), watch(of)),
            (None, None, Err(Errno::BUSY))
        );
        assert_eq!((watches.can_watch(ino, Asker::Again), watches.len()), (Room::None, paths.len()));
        left.iter().for_each(|&ino| watches.gone(&source, ino));
        watches.is_served();
        change();
        assert!(!is_heard(heard(&source)));
        assert_eq!((watches.len(), watches.given_up()), (paths.len() - 2, 2));
        // What is new does not take what was given up for what is asked for again.
        assert_eq!(watches.can_watch(ino, Asker::New), Room::None);
        assert_eq!(watches.can_watch(ino, Asker::Again), Room::Free);
        assert!(watch(of).is_ok());
    }
}
