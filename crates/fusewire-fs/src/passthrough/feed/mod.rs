//! The kernel remembers everything, and is told when somebody else changes it: `--cache coherent`.
//!
//! * `source.rs`: fanotify tells of each change to the lower filesystem, by file handle and name; `event.rs` takes that apart.
//! * `watches.rs`: where it does not, because that takes rights, of each file and directory that the kernel knows; `seats.rs`: of which of
//!   them, if they are too many.
//! * `index.rs`: which nodes have the inode numbers that are in a handle.
//! * `actors.rs`: what a thread that serves this mount changes is no news to its kernel.
//! * `counts.rs`: what it has done so far.
//! * `news.rs`: what the kernel is to be told, now and once more later.
//! * `pace.rs`: how often it is told of one and the same file.
//! * `stamps.rs`: answers that were read before a change and arrive after the news of it.
//! * `settled.rs`: those who wait until the news has been told.
//!
//! See `docs/adr/0013-coherent.md` for why this suffices.

mod actors;
mod counts;
mod event;
mod index;
mod news;
mod pace;
mod seats;
mod settled;
mod source;
mod stamps;
mod watches;

pub use counts::FeedStats;
pub use event::{Event, numbers};
pub use news::patiently;
pub use source::{Source, Waited};
pub use stamps::{Since, Subject};

use super::{fds::Fd, options::Descriptors};
use actors::Actors;
use counts::Counts;
use fusewire::{Errno, NodeId, Result, notify::Notifier};
use index::Index;
use news::{Later, Name, News, What};
use pace::Pace;
use rustix::fs::Statx;
use seats::Leaving;
use settled::Settled;
use stamps::Stamps;
use std::{
    ffi::CStr,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
pub use watches::Asker;
use watches::{Room, Watches};

/// A name is there or is not.
const NAMES: u64 = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
/// What was there under the name may be another thing, or none.
const GONE: u64 = libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
/// Data may have changed.
const CONTENT: u64 = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;

/// How long events are gathered when the last ones concerned nobody: whoever changes another part of the filesystem, or this one through
/// the mount, does not cost a wake-up for each change.
const GATHER: Duration = Duration::from_micros(500);

/// As many reads take more than the kernel's queue holds.
const READS: usize = 64;

/// How often it is looked who makes room for other watches, while all are in use.
const ROOM_TICK: Duration = Duration::from_millis(500);

/// So many nodes are told of before it is heard what has changed meanwhile.
const AT_ONCE: usize = 1024;

/// Why there is no feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    what: &'static str,
    errno: Option<Errno>,
    remedy: &'static str,
    /// Why files cannot be watched one by one either.
    by_file: Option<ByFileRefusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByFileRefusal {
    Failed(Errno),
    /// It is not known what handles of the filesystem consist of.
    Unknown,
}

impl Refusal {
    /// Because of `what`.
    pub(super) const fn new(what: &'static str, remedy: &'static str) -> Self {
        Self { what, errno: None, remedy, by_file: None }
    }

    /// What is missing, or was tried in vain.
    pub fn reason(&self) -> String {
        let reason = match self.errno {
            Some(errno) => format!("{}: {errno}", self.what),
            None => self.what.to_owned(),
        };
        match self.by_file {
            Some(ByFileRefusal::Failed(errno)) => format!("{reason}; of single files: {errno}"),
            Some(ByFileRefusal::Unknown) => {
                format!("{reason}; single files are watched on ext4, XFS, Btrfs, F2FS and tmpfs only")
            }
            None => reason,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        self.remedy
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.reason(), self.remedy)
    }
}

/// Are there handles, and do they contain inode numbers? By these events are understood.
fn contain_numbers(stat: &Statx, handle: Option<&[u8]>) -> std::result::Result<(), Refusal> {
    let Some(handle) = handle else {
        return Err(Refusal::new(
            "files have no handles",
            "serve a directory of a local filesystem, as root",
        ));
    };
    if !numbers(handle).any(|number| number == stat.stx_ino) {
        let remedy = "serve a directory of another filesystem";
        return Err(Refusal::new("file handles do not contain inode numbers there", remedy));
    }
    Ok(())
}

/// Hear of changes to the filesystem of `root`, whose attributes are `stat` and whose handle is `handle`.
pub fn watch(root: impl AsFd, stat: &Statx, handle: Option<&[u8]>) -> std::result::Result<Source, Refusal> {
    contain_numbers(stat, handle)?;
    Source::new(root).map_err(|errno| {
        let remedy = match errno {
            Errno::PERM => "it takes CAP_SYS_ADMIN: serve it as root",
            Errno::INVAL => "it takes Linux 5.17",
            Errno::MFILE => "end other mounts, or raise /proc/sys/fs/fanotify/max_user_groups",
            _ => "the filesystem cannot be watched: serve a directory of a local filesystem",
        };
        Refusal { errno: Some(errno), ..Refusal::new("fanotify of the filesystem", remedy) }
    })
}

/// Hear of changes to the directory `root` itself, and of those that are added. It takes no rights. `refusal` is that of the whole filesystem.
fn watch_files(root: impl AsFd, refusal: Refusal) -> std::result::Result<Source, Refusal> {
    let source = Source::of_files().and_then(|source| source.add((root, c"."), true).map(|()| source));
    source.map_err(|errno| Refusal { by_file: Some(ByFileRefusal::Failed(errno)), ..refusal })
}

/// What is to be known of the re-exported directory.
#[derive(Clone, Copy)]
pub struct Lower<'a> {
    /// Its attributes.
    pub stat: &'a Statx,
    /// Its file handle.
    pub handle: Option<&'a [u8]>,
    /// Files are opened by their handles.
    pub can_open: bool,
    /// The filesystem is one whose handles are known to contain inode numbers. (On FUSE it depends on the server.)
    pub is_known: bool,
}

/// Whose changes are no news to the mount, where files are watched one by one and all that is told of who made them is whether it was this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// The process's: nothing else in it changes the directory.
    Process,
    /// Nobody's.
    None,
}

/// Hears of changes to the lower filesystem and tells the kernel.
#[derive(Debug)]
pub struct Feed {
    source: Source,
    /// Where there is none of the whole filesystem.
    by_file: Option<ByFile>,
    index: Index,
    actors: Arc<Actors>,
    stamps: Stamps,
    counts: Counts,
    settled: Settled,
    stage: AtomicU8,
}

/// How far a feed has got. It only ever goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Stage {
    /// Changes are gathered; nobody can be told yet.
    Waiting,
    /// There is a thread that hears and tells.
    Telling,
    /// The session is over.
    Over,
    /// Nothing is heard any more, and the session goes on.
    Deaf,
}

/// Are changes to something heard of?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// They are not.
    None,
    /// They are, but were not yet when it was read.
    Later,
    /// They are, and were.
    Full,
}

/// What is watched, and why not the whole filesystem.
#[derive(Debug)]
struct ByFile {
    watches: Watches,
    refusal: Refusal,
    own: Own,
}

impl Feed {
    /// Hear of changes to the filesystem of `root`, the re-exported directory. Where that is refused, changes are heard of to single files; see
    /// [`watch`](Self::watch).
    pub fn new(
        root: impl AsFd,
        Lower { stat, handle, can_open, is_known }: Lower<'_>,
        (descriptors, own): (Descriptors, Own),
    ) -> std::result::Result<Arc<Self>, Refusal> {
        let whole = watch(&root, stat, handle).and_then(|source| match can_open {
            true => Ok(source),
            false => {
                Err(Refusal::new("files are not opened by handle", "serve the directory with file handles"))
            }
        });
        let (source, by_file) = match whole {
            Ok(source) => (source, None),
            Err(refusal) => {
                contain_numbers(stat, handle)?;
                if !is_known {
                    return Err(Refusal { by_file: Some(ByFileRefusal::Unknown), ..refusal });
                }
                let failed = |errno| Refusal { by_file: Some(ByFileRefusal::Failed(errno)), ..refusal };
                let watches = Watches::new(descriptors).map_err(failed)?;
                (watch_files(root, refusal)?, Some(ByFile { watches, refusal, own }))
            }
        };
        let feed = Self {
            source,
            by_file,
            index: Index::default(),
            actors: Arc::default(),
            stamps: Stamps::default(),
            counts: Counts::default(),
            settled: Settled::default(),
            stage: AtomicU8::new(Stage::Waiting as u8),
        };
        feed.index.insert(stat.stx_ino, NodeId::ROOT);
        Ok(Arc::new(feed))
    }

    /// Where it stands; to be asked before an answer is read.
    pub fn since(&self) -> Since {
        self.stamps.now()
    }

    /// May the kernel remember an answer about `subjects` that was read after `since`?
    pub fn is_fresh(&self, since: Since, subjects: &[Subject]) -> bool {
        self.stamps.is_fresh(since, subjects) && !self.is_deaf()
    }

    /// There is a node of the file with this number.
    pub fn node_made(&self, ino: u64, node: NodeId) {
        self.index.insert(ino, node);
    }

    /// The node is forgotten.
    pub fn node_forgotten(&self, ino: u64, node: NodeId) {
        self.index.remove(ino, node);
        if let Some(ByFile { watches, .. }) = &self.by_file {
            watches.forgotten(&self.source, ino, &self.index);
        }
    }

    fn is_room_wanted(&self) -> bool {
        self.by_file.as_ref().is_some_and(|by_file| by_file.watches.is_wanted())
    }

    /// Are files watched one by one, and not the whole filesystem?
    pub fn is_by_file(&self) -> bool {
        self.by_file.is_some()
    }

    /// The same; and if so, why is it.
    pub fn by_file(&self) -> Option<Refusal> {
        self.by_file.as_ref().map(|by_file| by_file.refusal)
    }

    /// How many files may be watched one by one.
    pub fn bound_watches(&self, limit: usize) {
        if let Some(ByFile { watches, .. }) = &self.by_file {
            watches.bound(limit);
        }
    }

    /// Could [`watch`](Self::watch) do something for the file with this number? If there is no room, some is made for those who are asked for
    /// again.
    pub fn can_watch(&self, ino: u64, asker: Asker) -> bool {
        let Some(ByFile { watches, .. }) = &self.by_file else { return false };
        match watches.can_watch(ino, asker) {
            Room::Free => true,
            Room::None => false,
            Room::Wanted => {
                self.source.wake();
                false
            }
        }
    }

    /// Watch the file with this number, which is known as a node and which `fd` is of, until that is forgotten, or what is asked for again takes its
    /// place. What is not watched, the kernel may remember for a moment only. `prepare` is called when changes are heard of; if it fails, the file
    /// is not watched.
    pub fn watch(&self, ino: u64, of: (Arc<Fd>, bool), prepare: impl FnOnce() -> bool) {
        self.set_watch((ino, false), of, prepare);
    }

    /// The same for the root, which keeps its watch.
    pub fn watch_root(&self, ino: u64, fd: Arc<Fd>) {
        self.set_watch((ino, true), (fd, true), || true);
    }

    fn set_watch(&self, ino: (u64, bool), of: (Arc<Fd>, bool), prepare: impl FnOnce() -> bool) {
        let Some(ByFile { watches, .. }) = &self.by_file else { return };
        if let Err(error) = watches.watch((&self.source, &self.stamps), ino, of, prepare) {
            watches.refused(error);
        }
    }

    /// May the kernel remember something of the file with this number that was read after `since`, and what if there is a `name`: what that
    /// leads to in it? Then it will be told of changes until it has forgotten it.
    pub fn covers(&self, ino: u64, since: Since, name: Option<&CStr>) -> Cover {
        let Some(ByFile { watches, .. }) = &self.by_file else { return Cover::Full };
        match watches.asked(ino, self.stamps.era(), name) {
            None => Cover::None,
            Some(begin) if begin <= since => Cover::Full,
            Some(_) => Cover::Later,
        }
    }

    /// Is the file with this number watched by itself?
    pub fn is_watched_by_itself(&self, ino: u64) -> bool {
        self.by_file.as_ref().is_some_and(|by_file| by_file.watches.has(ino))
    }

    /// Was it since before that?
    pub fn has_reached(&self, ino: u64, since: Since) -> bool {
        match &self.by_file {
            None => true,
            Some(ByFile { watches, .. }) => watches.since(ino).is_some_and(|begin| begin <= since),
        }
    }

    /// Did a client of this mount ask for what `who` did?
    fn is_own(&self, who: i32) -> bool {
        match &self.by_file {
            None => self.actors.has(who),
            Some(by_file) => by_file.own == Own::Process && who as u32 == std::process::id(),
        }
    }

    /// This thread is about to change something for a client of this mount.
    pub fn acting(&self) {
        self.actors.enter();
    }

    fn is_at(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::SeqCst) == stage as u8
    }

    fn reach(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::SeqCst);
    }

    /// Is the kernel told of changes?
    pub fn is_telling(&self) -> bool {
        self.is_at(Stage::Telling)
    }

    /// Wait until the kernel has been told of all that has changed so far, but not for longer than a moment. Not by a thread that requests
    /// wait for: what is told may wait for them.
    pub fn settle(&self) {
        self.settled.wait(|| self.source.wake());
    }

    /// Is nothing heard any more?
    pub fn is_deaf(&self) -> bool {
        self.is_at(Stage::Deaf)
    }

    /// Listing of the directory with this number begins or ends; what the kernel remembers of that has no time of its own.
    pub fn listing(&self, ino: u64) {
        self.stamps.is_fresh(self.since(), &[Subject::file(ino)]);
        self.covers(ino, Since::default(), None);
    }

    /// What it has done so far.
    pub fn stats(&self) -> FeedStats {
        FeedStats {
            watched: self.by_file.as_ref().map_or(0, |by_file| by_file.watches.len() as u64),
            given_up: self.by_file.as_ref().map_or(0, |by_file| by_file.watches.given_up()),
            ..self.counts.stats()
        }
    }

    /// Tell the kernel from now on, on a thread of its own.
    pub fn begin(self: &Arc<Self>, notifier: &Notifier) {
        let mut reader = Reader {
            feed: self.clone(),
            notifier: notifier.clone(),
            later: Later::default(),
            pace: Pace::default(),
            buffer: Vec::new(),
            era: Instant::now(),
            gathers: false,
            room: None,
        };
        self.reach(Stage::Telling);
        let spawned = thread::Builder::new().name("changes".into()).spawn(move || reader.run());
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to hear of changes: names and attributes are kept for a second");
            self.reach(Stage::Deaf);
        }
    }

    /// The session is over.
    pub fn end(&self) {
        self.source.stop();
        tracing::debug!(stats = ?self.stats(), "the feed of changes has ended");
        if let Some(ByFile { watches, .. }) = &self.by_file {
            watches.end();
        }
    }
}

/// Reads events and tells the kernel. It serves no requests, so it may wait for notifications.
struct Reader {
    feed: Arc<Feed>,
    notifier: Notifier,
    later: Later,
    pace: Pace,
    buffer: Vec<u8>,
    /// When this era began.
    era: Instant,
    /// The last events concerned nobody.
    gathers: bool,
    /// Since when room for other watches is to be made, and when to look again who makes it.
    room: Option<(Instant, Instant)>,
}

impl Reader {
    fn run(&mut self) {
        match self.listen() {
            Ok(()) | Err(Errno::NODEV) => self.feed.reach(Stage::Over),
            Err(error) => {
                tracing::error!(%error, "changes are not heard of any more: names and attributes are kept for a second from now on");
                self.feed.reach(Stage::Deaf);
                // Now, and once what is on its way has arrived.
                _ = self.drop_everything();
                thread::sleep(news::TIMES.iter().sum());
                _ = self.drop_everything();
            }
        }
    }

    fn listen(&mut self) -> Result<()> {
        loop {
            self.feed.counts.due.store((self.later.len() + self.pace.len()) as u64, Ordering::Relaxed);
            let wants_room = self.feed.is_room_wanted().then_some(ROOM_TICK);
            let next = [self.later.next(), self.pace.next(Instant::now()), wants_room];
            let waited = self.feed.source.wait(next.into_iter().flatten().min())?;
            match (waited, self.feed.settled.wanted()) {
                (Waited::Stopped, _) => return Ok(()),
                (_, Some(wanted)) => {
                    self.feed.stamps.turn(&mut self.era);
                    self.hear_meanwhile()?;
                    self.catch_up()?;
                    let held = self.pace.take_all(Instant::now());
                    self.told(held)?;
                    self.notifier.flush();
                    self.feed.settled.reached(wanted);
                }
                (Waited::Events, None) => {
                    if std::mem::take(&mut self.gathers) {
                        thread::sleep(GATHER);
                    }
                    self.take_events()?;
                }
                (Waited::Nothing, None) => {}
            }
            self.catch_up()?;
            self.make_room()?;
        }
    }

    /// Tell what is due.
    fn catch_up(&mut self) -> Result<()> {
        let held = self.pace.take(Instant::now());
        self.told(held)?;
        match self.later.take() {
            Ok(news) if news.len() == 0 => Ok(()),
            Ok(news) => self.tell(news),
            Err(()) => self.drop_everything(),
        }
    }

    fn take_events(&mut self) -> Result<()> {
        let read_at = Instant::now();
        self.feed.stamps.turn(&mut self.era);
        let mut news = News::default();
        let heard = self.hear(&mut news)?;
        if heard == Heard::Lost {
            self.lost()?;
            self.catch_up()?;
        } else if news.len() > 0 {
            self.tell(news)?;
            // So that no more is read than the kernel takes; events meanwhile are merged in the queue, which is bounded.
            self.notifier.flush();
        } else {
            self.gathers = heard == Heard::Events;
        }
        let took = read_at.elapsed().as_micros() as u64;
        self.feed.counts.longest_us.fetch_max(took, Ordering::Relaxed);
        Ok(())
    }

    /// The events that are there, as many as are read at once.
    fn hear(&mut self, news: &mut News) -> Result<Heard> {
        let Self { feed, later, buffer, .. } = self;
        let mut lost = false;
        let any = feed.source.read(buffer, |event| match event.mask & libc::FAN_Q_OVERFLOW {
            0 => feed.understand(&event, news, later),
            _ => lost = true,
        })?;
        Ok(match any {
            _ if lost => Heard::Lost,
            true => Heard::Events,
            false => Heard::Nothing,
        })
    }

    /// All events that are there; whoever makes them faster than they are read does not keep this from ending. Were any lost?
    fn hear_all(&mut self, news: &mut News) -> Result<bool> {
        let mut lost = false;
        for _ in 0..READS {
            match self.hear(news)? {
                Heard::Nothing => break,
                heard => lost |= heard == Heard::Lost,
            }
        }
        Ok(lost)
    }

    /// Events were lost.
    fn lost(&mut self) -> Result<()> {
        self.feed.counts.overflows.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("more changes than could be told of: the kernel forgets everything");
        // What is in the queue is older than what the kernel will be told: nothing is to be lost again for its sake.
        self.hear_all(&mut News::default())?;
        let feed = self.feed.clone();
        if let Some(ByFile { watches, .. }) = &feed.by_file {
            // That some have ended may have been among them.
            let meanwhile = || self.hear_all(&mut News::default()).map(drop);
            watches.renew_all((&feed.source, &feed.stamps), meanwhile)?;
        }
        self.later.everything_now();
        Ok(())
    }

    /// Have those files give up their watches that nobody asked for longest, if others are to have them. First the kernel forgets what they
    /// guard. What is answered about them meanwhile is not to be remembered, and all that was answered before has arrived: they are not in use.
    fn make_room(&mut self) -> Result<()> {
        let feed = self.feed.clone();
        let Some(ByFile { watches, .. }) = feed.by_file.as_ref().filter(|_| feed.is_room_wanted()) else {
            self.room = None;
            return Ok(());
        };
        let now = Instant::now();
        let (since, next) = *self.room.get_or_insert((now, now));
        if now < next {
            return Ok(());
        }
        self.room = Some((since, now + ROOM_TICK));
        feed.stamps.turn(&mut self.era);
        let leaving = watches.leave(feed.stamps.era(), AT_ONCE);
        if leaving.is_empty() {
            // All are in use, or there is room by now. Whoever asks once more in vain will say so.
            if watches.has_room() || now.duration_since(since) > stamps::ERA * 3 {
                watches.is_served();
            }
            return Ok(());
        }
        let mut news = News::default();
        for Leaving { ino, names } in &leaving {
            feed.index.each(*ino, |nodes| {
                for &node in nodes {
                    names.iter().for_each(|name| news.name(node, name, Name::Expired));
                    news.node(node, What::Content);
                }
            });
        }
        self.told(news)?;
        self.notifier.flush();
        leaving.iter().for_each(|Leaving { ino, .. }| watches.gone(&feed.source, *ino));
        watches.is_served();
        self.room = None;
        Ok(())
    }

    /// Tell the kernel, but of a file that it was told of a moment ago only after another moment.
    fn tell(&mut self, mut news: News) -> Result<()> {
        self.pace.hold(&mut news, Instant::now());
        self.told(news)
    }

    fn told(&self, news: News) -> Result<()> {
        if news.len() == 0 {
            return Ok(());
        }
        let told = news.tell(&self.notifier)?;
        self.feed.counts.notifications.fetch_add(told as u64, Ordering::Relaxed);
        Ok(())
    }

    /// The kernel forgets everything: names by the epoch, the rest node by node. With many nodes that takes long, and what is changed
    /// meanwhile is heard of meanwhile.
    fn drop_everything(&mut self) -> Result<()> {
        self.feed.stamps.everything_changed();
        patiently(&self.notifier, || self.notifier.inc_epoch())?;
        let feed = self.feed.clone();
        let (mut told, mut count) = (Ok(()), 0);
        feed.index.for_each(|nodes| {
            for node in nodes {
                told =
                    told.and_then(|()| patiently(&self.notifier, || self.notifier.inval_inode(node, 0, 0)));
                count += 1;
                if count % AT_ONCE == 0 {
                    told = told.and_then(|()| self.hear_meanwhile());
                }
            }
        });
        self.notifier.flush();
        told
    }

    fn hear_meanwhile(&mut self) -> Result<()> {
        self.notifier.flush();
        if self.feed.is_deaf() {
            return Ok(());
        }
        let mut news = News::default();
        if self.hear_all(&mut news)? {
            self.lost()?;
        }
        self.tell(news)
    }
}

/// What came of reading events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    Events,
    /// Perhaps some, but not all.
    Lost,
}

impl Feed {
    /// What an event says to the kernel.
    fn understand(&self, event: &Event<'_>, news: &mut News, later: &mut Later) {
        self.counts.events.fetch_add(1, Ordering::Relaxed);
        let is_own = self.is_own(event.tid);
        let is_named = event.mask & NAMES != 0;
        self.counts.own.fetch_add(u64::from(is_own), Ordering::Relaxed);
        if event.mask & libc::FAN_DELETE_SELF != 0 {
            let handles = event.objects().filter(|object| object.name.is_none()).map(|object| object.handle);
            handles.flat_map(numbers).for_each(|number| self.watch_ended(number, news, later));
        }
        for object in event.objects() {
            // An event of the content of something tells its directory's handle for the name's sake alone.
            match object.name {
                Some(name) if is_named && name != c"." => {
                    let how = if event.mask & GONE != 0 { Name::Gone } else { Name::Expired };
                    for number in numbers(object.handle) {
                        self.name_changed((number, name, how), is_own, news, later);
                    }
                }
                // What happened to a directory itself.
                Some(name) if name != c"." => {}
                _ => {
                    let what = if event.mask & CONTENT != 0 { What::Content } else { What::Attributes };
                    for number in numbers(object.handle) {
                        self.file_changed((number, what), is_own, news, later);
                    }
                }
            }
        }
    }

    fn name_changed(
        &self,
        (number, name, how): (u64, &CStr, Name),
        is_own: bool,
        news: &mut News,
        later: &mut Later,
    ) {
        let (entry, dir) = (Subject::name(number, name), Subject::file(number));
        if !is_own {
            self.stamps.changed([entry, dir]);
        }
        let (names, listed) = (self.stamps.is_in_use(entry), self.stamps.is_in_use(dir));
        self.each_to_tell(number, is_own, |node| {
            news.name(node, name, how);
            news.node(node, What::Content);
            if names {
                later.name(node, name);
            }
            if listed {
                later.node(node, What::Content);
            }
        });
        if is_own && listed {
            // The kernel knows that the directory's attributes are not as they were, and yet takes in an older answer that arrives
            // after that of the change (`fuse_dir_changed`).
            self.index.each(number, |nodes| {
                nodes.iter().for_each(|&node| later.node(node, What::Attributes));
            });
        }
    }

    fn file_changed(&self, (number, what): (u64, What), is_own: bool, news: &mut News, later: &mut Later) {
        let file = Subject::file(number);
        if !is_own {
            self.stamps.changed([file]);
        }
        let is_in_use = self.stamps.is_in_use(file);
        self.each_to_tell(number, is_own, |node| {
            news.node(node, what);
            if is_in_use {
                later.node(node, what);
            }
        });
    }

    /// The watch of this file has ended. What happened to it since then nobody has told.
    fn watch_ended(&self, number: u64, news: &mut News, later: &mut Later) {
        let is_renewed = |by_file: &ByFile| by_file.watches.renew((&self.source, &self.stamps), number);
        if self.by_file.as_ref().is_some_and(is_renewed) {
            self.file_changed((number, What::Content), false, news, later);
        }
    }

    /// The nodes with this inode number. What was done through this mount is no news to the only one there is.
    fn each_to_tell(&self, number: u64, is_own: bool, tell: impl FnMut(NodeId)) {
        self.index.each(number, |nodes| {
            if !is_own || nodes.len() > 1 {
                nodes.iter().copied().for_each(tell);
            }
        });
    }
}
