//! How long guests may remember what they cannot be told of: `fusewire vhost --cache shared`.
//!
//! A virtual machine's kernel has no queue for notifications: what it was told to remember it remembers until the time is up.
//! So each answer is a *lease*, and leases are as long as the past makes likely that nobody else will change it: none for what
//! others have just changed, a second for what is not known yet, longer the longer nobody else has changed it, up to a bound. The
//! bound is the promise: nothing a guest sees is older than the longest lease.
//!
//! * `heat.rs`: who changed what last, as the same feed of changes tells that mounts have (fanotify on the lower filesystem).
//! * `threads.rs`: whose threads did it.
//!
//! See `docs/adr/0020-shared.md`.

mod heat;
mod threads;

use super::{
    feed::{Event, Refusal, Source, Waited, numbers, watch},
    sys,
};
use heat::{Heat, Who};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::{
    ffi::c_int,
    io,
    path::Path,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use threads::Threads;

/// How long a lease is where nobody else was ever seen to change anything: what `--cache auto` gives.
const FIRST: Duration = Duration::from_secs(1);

/// So long there are no leases for what somebody else has changed.
const SHARED: Duration = Duration::from_secs(10);

/// A lease is this part of the time that nobody else has changed it.
const PART: u32 = 10;

/// A name is there or is not.
const NAMES: u64 = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;

/// The leases of all guests that one directory is shared with.
#[derive(Debug)]
pub struct Leases {
    changes: Option<Arc<Changes>>,
    refusal: Option<Refusal>,
    longest: Duration,
    guests: AtomicU32,
}

/// What the feed of changes has told.
#[derive(Debug)]
struct Changes {
    source: Source,
    /// It is listened.
    begin: Once,
    heat: Heat,
    threads: Arc<Threads>,
    /// How many there were, by whomever.
    count: AtomicU64,
    /// Nothing is heard any more.
    is_deaf: AtomicBool,
}

impl Leases {
    /// For guests that the directory `dir` is shared with: no lease is longer than `longest`.
    ///
    /// Where changes cannot be heard of, which [`refusal`](Self::refusal) says, leases are a second at most.
    ///
    /// # Errors
    /// If `dir` cannot be opened.
    pub fn new(dir: impl AsRef<Path>, longest: Duration) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir.as_ref(), flags, Mode::empty())?;
        let stat = super::attr::stat(&root)?;
        let handle = sys::name_to_handle_at(&root, c"", AtFlags::EMPTY_PATH.bits() as c_int).ok();
        let watched = watch(&root, &stat, handle.as_ref().map(|(handle, _)| handle.bytes()));
        let (changes, refusal) = match watched {
            Ok(source) => (Some(Arc::new(Changes::new(source))), None),
            Err(refusal) => (None, Some(refusal)),
        };
        Ok(Self { changes, refusal, longest, guests: AtomicU32::new(0) })
    }

    /// Why it is not known who changes what, if it is not.
    pub fn refusal(&self) -> Option<String> {
        self.refusal.as_ref().map(Refusal::to_string)
    }

    /// How many changes were heard of, by whomever.
    pub fn changes(&self) -> u64 {
        self.changes.as_ref().map_or(0, |changes| changes.count.load(Ordering::Relaxed))
    }

    /// A guest that has mounted the directory. The first one starts the thread that hears of changes, so that a daemon that shuts
    /// itself in before it serves anybody has no thread outside.
    pub(super) fn guest(self: &Arc<Self>) -> Tenant {
        if let Some(changes) = &self.changes {
            changes.begin.call_once(|| Changes::begin(changes));
        }
        let who = Who::guest(self.guests.fetch_add(1, Ordering::Relaxed));
        Tenant { leases: self.clone(), who, since: Instant::now() }
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        if let Some(changes) = &self.changes {
            changes.source.stop();
        }
    }
}

impl Changes {
    fn new(source: Source) -> Self {
        Self {
            source,
            begin: Once::new(),
            heat: Heat::default(),
            threads: Arc::default(),
            count: AtomicU64::new(0),
            is_deaf: AtomicBool::new(false),
        }
    }

    /// Hear of changes, on a thread of its own.
    fn begin(self: &Arc<Self>) {
        let reader = self.clone();
        let started = thread::Builder::new().name("changes".into()).spawn(move || {
            if let Err(error) = reader.listen() {
                reader.end(&error.into());
            }
        });
        if let Err(error) = started {
            self.end(&error);
        }
    }

    fn end(&self, error: &io::Error) {
        tracing::error!(%error, "changes are not heard of any more: guests remember for a second from now on");
        self.is_deaf.store(true, Ordering::SeqCst);
    }

    fn listen(&self) -> rustix::io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            if let Waited::Stopped = self.source.wait(None)? {
                return Ok(());
            }
            let now = Instant::now();
            self.source.read(&mut buffer, |event| match event.mask & libc::FAN_Q_OVERFLOW {
                0 => self.understand(&event, now),
                _ => self.heat.everything_changed(now),
            })?;
        }
    }

    fn understand(&self, event: &Event<'_>, now: Instant) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let who = self.threads.whose(event.tid);
        for object in event.objects() {
            // What happens to content tells the directory for the name's sake alone.
            let concerns = match object.name {
                Some(name) => name == c"." || event.mask & NAMES != 0,
                None => true,
            };
            if concerns {
                numbers(object.handle).for_each(|number| self.heat.changed(number, who, now));
            }
        }
    }
}

/// One guest, from its mounting of the directory until it unmounts it.
#[derive(Clone, Debug)]
pub struct Tenant {
    leases: Arc<Leases>,
    who: Who,
    since: Instant,
}

impl Tenant {
    /// This thread is about to change something for the guest.
    pub fn acting(&self) {
        if let Some(changes) = &self.leases.changes {
            changes.threads.enter(self.who);
        }
    }

    /// How long it may remember what is read now of the file or directory with this number on the root's filesystem.
    pub fn lease(&self, ino: u64) -> Duration {
        let Some(changes) = self.heard() else { return self.unheard() };
        let now = Instant::now();
        let others = changes.heat.by_others(ino, self.who).map(|at| now.saturating_duration_since(at));
        lease(others, now - self.since).min(self.leases.longest)
    }

    /// The same of what is on filesystems that changes are not heard of.
    pub fn unheard(&self) -> Duration {
        FIRST.min(self.leases.longest)
    }

    /// How long it may remember that there is no such name in this directory.
    pub fn absence(&self, dir: Option<u64>) -> Duration {
        match dir {
            Some(dir) if self.heard().is_some() => self.lease(dir),
            // Programs wait for files to appear.
            _ => Duration::ZERO,
        }
    }

    fn heard(&self) -> Option<&Changes> {
        self.leases.changes.as_deref().filter(|changes| !changes.is_deaf.load(Ordering::SeqCst))
    }
}

/// How long a lease is for what others changed `others` ago (`None`: never), for a guest that came `here` ago.
fn lease(others: Option<Duration>, here: Duration) -> Duration {
    match others {
        None => (here / PART).max(FIRST),
        Some(quiet) if quiet < SHARED => Duration::ZERO,
        Some(quiet) => quiet / PART,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_short_at_first_none_when_shared_and_grows_with_silence() {
        let seconds = Duration::from_secs;
        assert_eq!(lease(None, seconds(0)), seconds(1));
        assert_eq!(lease(None, seconds(300)), seconds(30));
        assert_eq!(lease(Some(seconds(0)), seconds(300)), seconds(0));
        assert_eq!(lease(Some(Duration::from_millis(9_999)), seconds(300)), seconds(0));
        assert_eq!(lease(Some(seconds(10)), seconds(300)), seconds(1));
        assert_eq!(lease(Some(seconds(200)), seconds(300)), seconds(20));
    }
}
