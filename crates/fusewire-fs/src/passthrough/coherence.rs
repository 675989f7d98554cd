//! What the kernel may remember, and for how long, where it is told of changes.

use super::{
    Passthrough,
    feed::{Feed, FeedStats, Refusal, Since, Subject},
    mounts::Mount,
    options::{CacheProfile, Options, Timeouts},
    sys,
};
use fusewire::{Config, NodeId, notify::Notifier};
use rustix::{fs::Statx, io::Errno};
use std::{
    ffi::{CStr, c_int},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// The protocol's minor version that brought `FUSE_NOTIFY_INC_EPOCH` (Linux 6.16), without which names cannot be dropped
/// when events were lost.
const EPOCH_MINOR: u32 = 44;

/// Is the kernel told of changes that others make to the directory?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coherence {
    /// It was not asked for.
    NotAsked,
    /// It is.
    Told,
    /// It was asked for and cannot be had, for this reason: names and attributes are remembered for a second.
    Refused(String),
}

/// The feed, if there is one, and what holds where it does not reach.
#[derive(Debug)]
pub struct Coherent {
    feed: Option<Arc<Feed>>,
    refusal: Option<Refusal>,
    /// The kernel cannot be told everything.
    is_old_kernel: AtomicBool,
    /// For what the feed does not reach.
    short: Timeouts,
}

/// Reading of something that the kernel is to remember begins.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    since: Since,
    /// Where it was looked up.
    under: Option<(NodeId, &'a CStr)>,
}

impl Reading<'_> {
    /// It is read under this name.
    pub fn under(self, dir: NodeId, name: &CStr) -> Reading<'_> {
        Reading { since: self.since, under: Some((dir, name)) }
    }

    /// The name it is read under.
    pub fn name(&self) -> Option<&CStr> {
        self.under.map(|(_, name)| name)
    }
}

/// A directory is being listed: the feed knows of that from the beginning to the end.
pub struct Listing<'a>(Option<(&'a Feed, u64)>);

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        if let Some((feed, ino)) = self.0 {
            feed.listing(ino);
        }
    }
}

impl Coherent {
    /// As `options` ask for. Turns extended attributes off where the directory has none: the kernel then asks once and no more.
    pub fn new(options: &mut Options, root: &Mount, stat: &Statx) -> Self {
        let short = options.timeouts(CacheProfile::Auto);
        let none = |refusal| Self { feed: None, refusal, is_old_kernel: AtomicBool::new(false), short };
        if options.cache != CacheProfile::Coherent {
            return none(None);
        }
        let handle = || sys::name_to_handle_at(&root.fd, c"", libc::AT_EMPTY_PATH as c_int).ok();
        let handle = root.handles.then(handle).flatten().map(|(handle, _)| handle);
        let feed = match Feed::new(&root.fd, stat, handle.as_ref().map(sys::RawHandle::bytes)) {
            Ok(feed) => feed,
            Err(refusal) => {
                tracing::warn!(
                    "no feed of changes: {refusal}; names and attributes are kept for a second only"
                );
                return none(Some(refusal));
            }
        };
        if rustix::fs::fgetxattr(&root.fd, c"user.fusewire", &mut [0u8; 0][..]) == Err(Errno::OPNOTSUPP) {
            options.xattr = false;
        }
        tracing::info!("the kernel is told of changes to the directory (fanotify)");
        Self { feed: Some(feed), ..none(None) }
    }

    /// The feed, if there is one.
    pub fn feed(&self) -> Option<&Arc<Feed>> {
        self.feed.as_ref()
    }

    /// What can be had of what is `wanted`.
    pub fn profile(&self, wanted: CacheProfile) -> CacheProfile {
        let can = self.feed.as_ref().is_some_and(|feed| !feed.is_deaf());
        match wanted {
            CacheProfile::Coherent if !can || self.is_old_kernel.load(Ordering::Relaxed) => {
                CacheProfile::Auto
            }
            wanted => wanted,
        }
    }

    /// What does the kernel offer?
    pub fn negotiate(&self, config: &Config) {
        if self.feed.is_some() && config.minor() < EPOCH_MINOR {
            tracing::warn!(
                minor = config.minor(),
                "the kernel cannot drop all names at once, which takes Linux 6.16; \
                 names and attributes are kept for a second only"
            );
            self.is_old_kernel.store(true, Ordering::Relaxed);
        }
    }

    /// The kernel can be told from now on.
    pub fn begin(&self, notifier: &Notifier) {
        if let Some(feed) = self.feed.as_ref().filter(|_| !self.is_old_kernel.load(Ordering::Relaxed)) {
            feed.begin(notifier);
        }
    }

    /// The session is over.
    pub fn end(&self) {
        if let Some(feed) = &self.feed {
            feed.end();
        }
    }

    /// This thread is about to change the directory for a client: that is no news to this mount's kernel.
    pub fn acting(&self) {
        if let Some(feed) = &self.feed {
            feed.acting();
        }
    }
}

impl Passthrough {
    /// Is the kernel told of changes that others make to the directory? Final once it is mounted.
    pub fn coherence(&self) -> Coherence {
        match &self.coherent {
            Coherent { refusal: Some(refusal), .. } => Coherence::Refused(refusal.to_string()),
            Coherent { feed: None, .. } => Coherence::NotAsked,
            coherent if coherent.is_old_kernel.load(Ordering::Relaxed) => {
                Coherence::Refused("the kernel cannot drop all names at once: it takes Linux 6.16".into())
            }
            _ => Coherence::Told,
        }
    }

    /// What the feed of changes has done so far, if there is one.
    pub fn feed_stats(&self) -> Option<FeedStats> {
        self.coherent.feed().map(|feed| feed.stats())
    }

    /// What the kernel may remember in general.
    pub(super) fn cache(&self) -> CacheProfile {
        self.coherent.profile(self.options.cache)
    }

    /// What it may remember of a node.
    pub(super) fn cache_of(&self, node: NodeId) -> CacheProfile {
        match self.cache() {
            CacheProfile::Coherent if self.nodes.ino_on_root_device(node).is_none() => CacheProfile::Auto,
            cache => cache,
        }
    }

    /// Something is about to be read that the kernel is to remember.
    pub(super) fn reading(&self) -> Reading<'static> {
        let since = self.coherent.feed().map_or_else(Since::default, |feed| feed.since());
        Reading { since, under: None }
    }

    /// A directory is about to be listed, until what this returns is dropped.
    pub(super) fn listing(&self, dir: NodeId) -> Listing<'_> {
        let listing =
            self.coherent.feed().and_then(|feed| Some((&**feed, self.nodes.ino_on_root_device(dir)?)));
        if let Some((feed, ino)) = listing {
            feed.listing(ino);
        }
        Listing(listing)
    }

    /// The feed, where it reaches and can be trusted.
    fn trusted(&self) -> Option<&Feed> {
        self.coherent.feed().filter(|_| self.cache() == CacheProfile::Coherent).map(|feed| &**feed)
    }

    /// For how long attributes are to be remembered that were read since `reading` began.
    pub(super) fn attr_ttl(&self, stat: &Statx, reading: &Reading<'_>) -> Duration {
        if self.coherent.feed().is_none() {
            return self.timeouts.attr;
        }
        match self.trusted() {
            Some(feed) if self.nodes.mounts.device(stat) == 0 => {
                match feed.is_fresh(reading.since, &[Subject::file(stat.stx_ino)]) {
                    true => self.timeouts.attr,
                    false => Duration::ZERO,
                }
            }
            _ => self.coherent.short.attr,
        }
    }

    /// For how long a name is to be remembered that leads to a file with the attributes `stat`.
    pub(super) fn entry_ttl(&self, stat: &Statx, reading: Reading<'_>) -> Duration {
        if self.coherent.feed().is_none() {
            return self.timeouts.entry;
        }
        // Nobody tells of filesystems that are mounted or unmounted.
        if self.nodes.mounts.device(stat) != 0 {
            return self.coherent.short.entry;
        }
        self.name_ttl(reading, self.timeouts.entry, self.coherent.short.entry)
    }

    /// For how long it is to be remembered that there is no such name.
    pub(super) fn absence_ttl(&self, reading: Reading<'_>) -> Duration {
        match self.coherent.feed() {
            None => self.timeouts.negative,
            Some(_) => self.name_ttl(reading, self.timeouts.negative, self.coherent.short.negative),
        }
    }

    fn name_ttl(&self, reading: Reading<'_>, long: Duration, short: Duration) -> Duration {
        let Some(feed) = self.trusted() else { return short };
        // A file without a name is under none in the kernel either.
        let Some((dir, name)) = reading.under else { return long };
        match self.nodes.ino_on_root_device(dir) {
            None => short,
            Some(ino) if feed.is_fresh(reading.since, &[Subject::name(ino, name)]) => long,
            Some(_) => Duration::ZERO,
        }
    }
}
