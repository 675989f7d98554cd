//! What the kernel may remember, and for how long, where it is told of changes; and whether it is.

use super::{
    Passthrough, attr,
    fds::explain,
    feed::{Asker, Cover, Feed, FeedStats, Lower, Own, Refusal, Since, Subject},
    folded::Folded,
    inode::Found,
    lease::Tenant,
    mounts::{Mount, Mounts},
    options::{CacheProfile, Options, Timeouts},
    sys,
};
use fusewire::{Config, Context, FileType, NodeId, notify::Notifier};
use rustix::{
    fs::{Mode, OFlags, Statx},
    io::Errno,
};
use std::{
    ffi::{CStr, c_int},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// The protocol's minor version that brought `FUSE_NOTIFY_INC_EPOCH` (Linux 6.16), without which names cannot be dropped
/// when events were lost: [`CacheProfile::Coherent`] takes it.
pub const COHERENT_MINOR: u32 = 44;

const OLD_KERNEL: Refusal = Refusal::new("the kernel cannot drop all names at once", "it takes Linux 6.16");

const NOT_LOCAL: Refusal = Refusal::new(
    "it is not known that only this machine changes the filesystem",
    "ask for coherent caches by name if so: ext4, XFS, Btrfs, F2FS and tmpfs are known to be local",
);

/// Is the kernel told of changes that others make to the directory?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coherence {
    /// It was not asked for.
    NotAsked,
    /// It is.
    Told,
    /// It is, of the files and directories that it knows, up to a bound; others are remembered for a second. For that reason it is not
    /// told of the whole filesystem.
    ToldOfKnown(Refusal),
    /// It was wanted and cannot be had, for this reason: names and attributes are remembered for a second.
    Refused(Refusal),
}

/// What the kernel is allowed to remember in the end, of what was wanted; clones tell of the same mount.
#[derive(Clone, Debug)]
pub struct Caching {
    wanted: CacheProfile,
    coherent: Coherent,
}

impl Caching {
    /// The profile in force: final once it is mounted, unless the changes cease to be heard of.
    pub fn profile(&self) -> CacheProfile {
        self.coherent.profile(self.wanted)
    }

    /// What the feed of changes has done so far, if there is one.
    pub fn feed_stats(&self) -> Option<FeedStats> {
        self.coherent.feed().map(|feed| feed.stats())
    }

    /// Is the kernel told of changes that others make to the directory? Final once it is mounted.
    pub fn coherence(&self) -> Coherence {
        match &self.coherent {
            Coherent { refusal: Some(refusal), .. } => Coherence::Refused(*refusal),
            Coherent { feed: None, .. } => Coherence::NotAsked,
            coherent if coherent.is_old_kernel.load(Ordering::Relaxed) => Coherence::Refused(OLD_KERNEL),
            Coherent { feed: Some(feed), .. } => told(feed),
        }
    }
}

fn told(feed: &Feed) -> Coherence {
    feed.by_file().map_or(Coherence::Told, Coherence::ToldOfKnown)
}

/// What a mount of `dir` with `options` would come to, as far as this directory and the rights of this process say; the kernel has
/// to speak [`COHERENT_MINOR`] besides.
///
/// # Errors
/// If `dir` is no directory, cannot be opened, or has no file handles although `options` insist on them.
pub fn try_coherence(dir: &Path, mut options: Options) -> io::Result<Coherence> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let failed = |error| explain("cannot open the directory", dir, error);
    let root = rustix::fs::open(dir, flags, Mode::empty()).map_err(failed)?;
    let mounts = Mounts::new(root, options.file_handles).map_err(failed)?;
    let stat = attr::stat(&mounts.root().fd).map_err(failed)?;
    Ok(match Coherent::feed_for(&mut options, mounts.root(), &stat) {
        None => Coherence::NotAsked,
        Some(Ok(feed)) => told(&feed),
        Some(Err(refusal)) => Coherence::Refused(refusal),
    })
}

/// The feed, if there is one, and what holds where it does not reach.
#[derive(Clone, Debug)]
pub struct Coherent {
    feed: Option<Arc<Feed>>,
    /// A guest, which cannot be told anything.
    pub tenant: Option<Tenant>,
    refusal: Option<Refusal>,
    /// It was asked for by name.
    is_asked: bool,
    /// The kernel cannot be told everything.
    is_old_kernel: Arc<AtomicBool>,
    /// Where what is told of names is not enough.
    folded: Arc<Folded>,
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
    /// As `options` ask for or prefer; `cache` becomes what can be had of the latter. Turns extended attributes off where the
    /// directory has none: the kernel then asks once and no more.
    pub fn new(options: &mut Options, root: &Mount, stat: &Statx) -> Self {
        let short = options.timeouts(CacheProfile::Auto);
        let is_asked = options.cache == CacheProfile::Coherent;
        let none = |refusal| Self {
            feed: None,
            tenant: None,
            refusal,
            is_asked,
            is_old_kernel: Arc::default(),
            folded: Arc::default(),
            short,
        };
        let feed = match Self::feed_for(options, root, stat) {
            None => return none(None),
            Some(Ok(feed)) => feed,
            Some(Err(refusal)) => {
                none(None).tell_refusal(&refusal);
                return none(Some(refusal));
            }
        };
        if is_asked && !root.is_local() {
            tracing::warn!("what other machines change on the filesystem, nobody hears of here");
        }
        options.cache = CacheProfile::Coherent;
        let lacks = |name| rustix::fs::fgetxattr(&root.fd, name, &mut [0u8; 0][..]) == Err(Errno::OPNOTSUPP);
        // Users' own may be switched off while ACLs and what programs may do are there.
        if [c"user.fusewire", c"system.posix_acl_access", c"security.capability"].into_iter().all(lacks) {
            options.xattr = false;
        }
        match feed.by_file() {
            None => tracing::info!("the kernel is told of changes to the directory (fanotify)"),
            Some(refusal) => tracing::info!(
                "the kernel is told of changes to the directory (fanotify, file by file): not of the whole filesystem, {refusal}"
            ),
        }
        Self { feed: Some(feed), folded: Arc::new(Folded::new(root, stat)), ..none(None) }
    }

    /// The feed, or why there is none; `None` if it is not wanted.
    fn feed_for(options: &mut Options, root: &Mount, stat: &Statx) -> Option<Result<Arc<Feed>, Refusal>> {
        match options.cache {
            CacheProfile::Coherent => {}
            CacheProfile::Auto if !options.prefer_coherent => return None,
            CacheProfile::Auto if !root.is_local() => return Some(Err(NOT_LOCAL)),
            CacheProfile::Auto => {}
            CacheProfile::None | CacheProfile::Always => return None,
        }
        let handle = || sys::name_to_handle_at(&root.fd, c"", libc::AT_EMPTY_PATH as c_int).ok();
        let handle = handle().map(|(handle, _)| handle);
        let handle = handle.as_ref().map(sys::RawHandle::bytes);
        let own = if options.sole { Own::Process } else { Own::None };
        let lower = Lower { stat, handle, can_open: root.handles, is_known: root.is_local() };
        Some(Feed::new(&root.fd, lower, (options.descriptors, own)))
    }

    /// Whoever asked for it by name must see it.
    fn tell_refusal(&self, refusal: &Refusal) {
        match self.is_asked {
            true => tracing::warn!(
                "no feed of changes: {refusal}; caches are those of auto, names and attributes are kept for a second only"
            ),
            false => tracing::info!("no feed of changes: {refusal}; caches are those of auto"),
        }
    }

    /// The feed, if there is one.
    pub fn feed(&self) -> Option<&Arc<Feed>> {
        self.feed.as_ref()
    }

    /// Are files watched one by one?
    pub fn is_by_file(&self) -> bool {
        self.feed.as_ref().is_some_and(|feed| feed.is_by_file())
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
        if self.feed.is_some() && config.minor() < COHERENT_MINOR {
            self.tell_refusal(&OLD_KERNEL);
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
        if let Some(tenant) = &self.tenant {
            tenant.acting();
        }
    }

    /// An ACL was changed, and with it what the kernel believes of who may do what, which it asks for when it is used next. If it is told
    /// meanwhile that the file has changed it uses neither the answer (`fuse_change_attributes`) nor asks again, and refuses what the ACL
    /// grants: hence it is told before, of all that has changed, which need not be the same file, but one that had its number.
    pub async fn acl_changed(&self, cx: &Context) {
        if let Some(feed) = self.feed.clone().filter(|feed| feed.is_telling()) {
            cx.blocking(move || feed.settle()).await;
        }
    }
}

impl Passthrough {
    /// What the kernel may remember in the end; it can be asked also after the filesystem was given away.
    pub fn caching(&self) -> Caching {
        Caching { wanted: self.options.cache, coherent: self.coherent.clone() }
    }

    /// What the feed of changes has done so far, if there is one.
    pub fn feed_stats(&self) -> Option<FeedStats> {
        self.coherent.feed().map(|feed| feed.stats())
    }

    /// What the kernel may remember in general.
    pub(super) fn cache(&self) -> CacheProfile {
        self.coherent.profile(self.options.cache)
    }

    /// What it may remember of a node's content, while it is open and later.
    pub(super) fn cache_of(&self, node: NodeId) -> CacheProfile {
        match self.cache() {
            CacheProfile::Coherent if self.is_reached(node) => CacheProfile::Coherent,
            CacheProfile::Coherent if self.coherent.is_by_file() => CacheProfile::Auto,
            // The feed does not reach there, and with EXPLICIT_INVAL_DATA the kernel does not see for itself, by the times of a file
            // that is read, that its pages are old.
            CacheProfile::Coherent => CacheProfile::None,
            CacheProfile::Auto if self.coherent.feed().is_some_and(|feed| feed.is_deaf()) => {
                CacheProfile::None
            }
            cache => cache,
        }
    }

    fn is_reached(&self, node: NodeId) -> bool {
        let ino = self.nodes.ino_on_root_device(node);
        let is_covered = |feed: &Arc<Feed>, ino| feed.covers(ino, feed.since(), None) == Cover::Full;
        ino.is_some_and(|ino| self.coherent.feed().is_none_or(|feed| is_covered(feed, ino)))
    }

    /// Have a file watched that the kernel is about to learn of, where files are watched one by one. What was read of it before is not to be
    /// remembered.
    pub(super) fn watch(&self, found: &Found) {
        let Some(feed) = self.coherent.feed().filter(|feed| feed.is_by_file()) else { return };
        let asker = if found.is_new { Asker::New } else { Asker::Again };
        if self.nodes.mounts.device(&found.stat) != 0 || !feed.can_watch(found.stat.stx_ino, asker) {
            return;
        }
        let is_dir = FileType::from_mode(found.stat.stx_mode.into()) == Some(FileType::Directory);
        self.set_watch(feed, (found.node, found.stat.stx_ino), (is_dir, asker));
    }

    fn set_watch(&self, feed: &Feed, (node, ino): (NodeId, u64), (is_dir, asker): (bool, Asker)) {
        if self.nodes.budget.is_over() {
            return;
        }
        let Ok(fd) = self.nodes.fd(node) else { return };
        // The kernel may have pages of it from the time before, of a mapping. If it cannot be told now, then when it is looked up next.
        let drop_pages = || match self.notifier.get().filter(|_| asker == Asker::Again) {
            Some(notifier) => notifier.inval_inode(node, 0, 0).is_ok(),
            None => true,
        };
        feed.watch(ino, (fd, is_dir), drop_pages);
    }

    /// Attributes are about to be read of a node that may have no watch, or has given it up: it may have one now. (What the kernel knows by
    /// its name is not looked up again.)
    pub(super) fn watch_again(&self, node: NodeId) {
        let Some(feed) = self.coherent.feed().filter(|feed| feed.is_by_file()) else { return };
        let Some(ino) = self.nodes.ino_on_root_device(node).filter(|&ino| feed.can_watch(ino, Asker::Again))
        else {
            return;
        };
        let is_dir = self.nodes.kind(node) == Some(FileType::Directory);
        self.set_watch(feed, (node, ino), (is_dir, Asker::Again));
    }

    /// `name` in `dir` is what had another name until now. The kernel will remember it for as long as it was to remember that: if nobody would
    /// tell it of changes here, it is told to ask again.
    pub(super) fn brought(&self, dir: NodeId, name: &CStr) {
        let Some(feed) = self.coherent.feed() else { return };
        // On other filesystems names are remembered for a moment in any case.
        let Some(ino) = self.nodes.ino_on_root_device(dir) else { return };
        let is_covered = feed.covers(ino, feed.since(), Some(name)) == Cover::Full;
        if let Some(notifier) = self.notifier.get()
            && (!is_covered || self.coherent.folded.has(ino))
        {
            // It waits until the kernel has moved the name, which holds the directory's lock. At the end of the connection nothing is
            // remembered any more.
            _ = notifier.expire_entry(dir, name);
        }
    }

    /// See what kind of directory the kernel is about to learn of.
    pub(super) fn meet(&self, found: &Found) {
        let is_dir = || FileType::from_mode(found.stat.stx_mode.into()) == Some(FileType::Directory);
        let folded = &self.coherent.folded;
        if folded.is_able() && found.is_new && is_dir() && self.nodes.mounts.device(&found.stat) == 0 {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            folded
                .meets(found.stat.stx_ino, || Ok(self.nodes.open(found.node, FileType::Directory, flags)?));
        }
    }

    /// [`watch`](Self::watch); answers attributes that were read under the watch, if it is younger than `reading`.
    pub(super) fn watched<'a>(&self, found: &Found, reading: Reading<'a>) -> (Statx, Reading<'a>) {
        self.watch(found);
        let is_younger = |feed: &Arc<Feed>| {
            let ino = found.stat.stx_ino;
            self.nodes.mounts.device(&found.stat) == 0
                && feed.is_watched_by_itself(ino)
                && !feed.has_reached(ino, reading.since)
        };
        if !self.coherent.feed().is_some_and(is_younger) {
            return (found.stat, reading);
        }
        let again = self.reading();
        match self.nodes.stat(found.node) {
            Ok(stat) => (stat, Reading { since: again.since, ..reading }),
            Err(_) => (found.stat, reading),
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
        if let Some(tenant) = &self.coherent.tenant {
            return match self.nodes.mounts.device(stat) {
                0 => tenant.lease(stat.stx_ino),
                _ => tenant.unheard(),
            };
        }
        if self.coherent.feed().is_none() {
            return self.timeouts.attr;
        }
        match self.trusted() {
            Some(feed) if self.nodes.mounts.device(stat) == 0 => {
                let is_fresh = || feed.is_fresh(reading.since, &[Subject::file(stat.stx_ino)]);
                match feed.covers(stat.stx_ino, reading.since, None) {
                    Cover::None => self.coherent.short.attr,
                    Cover::Full if is_fresh() => self.timeouts.attr,
                    Cover::Full | Cover::Later => Duration::ZERO,
                }
            }
            _ => self.coherent.short.attr,
        }
    }

    /// For how long a name is to be remembered that leads to a file with the attributes `stat`.
    pub(super) fn entry_ttl(&self, stat: &Statx, reading: Reading<'_>) -> Duration {
        if let Some(tenant) = &self.coherent.tenant {
            let dir = reading.under.and_then(|(dir, _)| self.nodes.ino_on_root_device(dir));
            return dir.map_or_else(|| tenant.unheard(), |dir| tenant.lease(dir));
        }
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
        if let Some(tenant) = &self.coherent.tenant {
            return tenant.absence(reading.under.and_then(|(dir, _)| self.nodes.ino_on_root_device(dir)));
        }
        match self.coherent.feed() {
            None => self.timeouts.negative,
            Some(_) => self.name_ttl(reading, self.timeouts.negative, self.coherent.short.negative),
        }
    }

    fn name_ttl(&self, reading: Reading<'_>, long: Duration, short: Duration) -> Duration {
        let Some(feed) = self.trusted() else { return short };
        // A file without a name is under none in the kernel either.
        let Some((dir, name)) = reading.under else { return long };
        let Some(ino) = self.nodes.ino_on_root_device(dir).filter(|&ino| !self.coherent.folded.has(ino))
        else {
            return short;
        };
        match feed.covers(ino, reading.since, Some(name)) {
            Cover::None => short,
            Cover::Full if feed.is_fresh(reading.since, &[Subject::name(ino, name)]) => long,
            Cover::Full | Cover::Later => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passthrough::FileHandles;

    fn caching(options: Options) -> Caching {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        assert_eq!(
            try_coherence(dir.path(), options.clone()).expect("a directory"),
            Passthrough::new(dir.path(), options.clone()).expect("a filesystem").caching().coherence()
        );
        Passthrough::new(dir.path(), options).expect("a filesystem").caching()
    }

    #[test]
    fn what_is_preferred_is_had_or_refused_with_a_reason() {
        let preferred = Options { prefer_coherent: true, ..Options::default() };
        let caching_of = |cache| caching(Options { cache, ..preferred.clone() });
        let best = caching_of(CacheProfile::Auto);
        match best.coherence() {
            Coherence::Told | Coherence::ToldOfKnown(_) => assert_eq!(best.profile(), CacheProfile::Coherent),
            Coherence::Refused(refusal) => {
                assert_eq!(best.profile(), CacheProfile::Auto);
                assert!(!refusal.reason().is_empty() && refusal.to_string().contains(refusal.remedy()));
            }
            Coherence::NotAsked => panic!("it is preferred"),
        }
        for cache in [CacheProfile::None, CacheProfile::Always] {
            let other = caching_of(cache);
            assert_eq!((other.coherence(), other.profile()), (Coherence::NotAsked, cache));
        }
        assert_eq!(caching(Options::default()).coherence(), Coherence::NotAsked);
    }

    #[test]
    fn where_files_cannot_be_opened_by_handle_they_are_watched_one_by_one() {
        let preferred =
            Options { prefer_coherent: true, file_handles: FileHandles::Never, ..Options::default() };
        let asked = Options { cache: CacheProfile::Coherent, ..preferred.clone() };
        for options in [preferred, asked] {
            let caching = caching(options);
            assert!(matches!(caching.coherence(), Coherence::ToldOfKnown(_)), "{caching:?}");
            assert_eq!(caching.profile(), CacheProfile::Coherent);
        }
    }
}
