//! A filesystem that keeps to the rules.

use super::{
    in_kernel::{Attributes, InKernel, Moment},
    places::{Closed, Places},
    rules::{Action, Because, Policy, Standing, Subject},
    take_back::{TakeBack, patiently},
};
use fusewire::{
    Attr, Config, Context, Entry, Errno, Extended, FileLock, FileSystem, FileType, FopenFlags, Generation,
    Handle, IoctlResult, NodeId, Opened, Result, Started, StatFs,
    notify::Notifier,
    op::*,
    reply::{DirPlusSink, DirSink, Sink, XattrSink},
};
use rustix::fs::{OFlags, RenameFlags};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// What the kernel adds to the flags of a file that is opened in order to run it (`__FMODE_EXEC`).
const OPENED_TO_RUN: u32 = 0x20;
/// Commands that change a file's flags although it may be open for reading only: `FS_IOC_SETFLAGS`, `FS_IOC_FSSETXATTR`.
const CHANGING_COMMANDS: [u32; 2] = [0x4008_6602, 0x401c_5820];
/// The handle of what the filesystem opens without a handle of its own. No table gives that out.
const WITHOUT_HANDLE: Handle = Handle(u64::MAX);

/// A filesystem, and rules for it. See the [module](super).
#[derive(Debug)]
pub struct Policed<F> {
    fs: F,
    shared: Arc<Shared>,
}

/// Puts other rules in force while the filesystem is mounted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PolicySwitch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Mutex<Places>,
    notifier: OnceLock<Notifier>,
    denials: AtomicU64,
    in_kernel: OnceLock<Box<dyn InKernel>>,
    attributes: Attributes,
    take_back: Arc<TakeBack>,
    /// There are rules, or may be some day: the kernel must not stop asking.
    has_rules: bool,
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a change of places: what the kernel denies by itself may be allowed now.
    fn change<T>(&self, change: impl FnOnce(&mut Places) -> T) -> T {
        let mut places = self.places();
        let before = places.relaxed();
        let changed = change(&mut places);
        if places.relaxed() != before
            && let Some(kernel) = self.in_kernel.get()
        {
            kernel.denials_of(places.relaxed());
            for node in places.all_closed() {
                if self.must_ask(&mut places, node) {
                    self.take_back(node);
                }
            }
        }
        changed
    }

    /// Must the kernel ask each time that somebody wants access to a node? Not if anybody has it, or if the kernel sees to it, which it
    /// is told here.
    fn must_ask(&self, places: &mut Places, node: NodeId) -> bool {
        let policy = places.policy().clone();
        let standings = places.standings(node);
        let is_guarded = standings.iter().any(|standing| policy.guards(standing));
        let Some(kernel) = self.in_kernel.get() else { return is_guarded };
        let id = (node, places.generation(node));
        let mut lists = standings.iter().map(|standing| Closed::new(&policy, standing));
        if let Some(closed) = places.closed(node).filter(|_| is_guarded)
            && let Some(same) = lists.clone().find(|list| list.is_same(closed))
        {
            // By the rules of now, so that others are not kept.
            places.set_closed(node, Some(same));
            return standings.len() > 1;
        }
        if let (1, true, Some(closed)) = (standings.len(), is_guarded, lists.next()) {
            let (list, others) = closed.list();
            if kernel.close(id, &list, others) {
                places.set_closed(node, Some(closed));
                return false;
            }
        }
        if places.closed(node).is_some() {
            kernel.open(id);
            places.set_closed(node, None);
        }
        is_guarded
    }

    /// What the kernel has cached of a node may not be for everybody any more.
    fn take_back(&self, node: NodeId) {
        if let Some(notifier) = self.notifier.get() {
            self.take_back.take_back(notifier, node);
        }
    }

    /// For how long attributes of the node may be believed. Of interest only to a kernel that answers by itself.
    fn trusted_for(&self, node: NodeId, valid: Duration) {
        if self.in_kernel.get().is_some() {
            self.attributes.trusted_for(node, valid);
        }
    }

    /// Somebody else may have given the node attributes.
    fn perhaps_set(&self, node: NodeId) {
        let Some(kernel) = self.in_kernel.get() else { return };
        let id = (node, self.places().generation(node));
        self.attributes.perhaps_set(node, |name| kernel.perhaps_present(id, name));
    }

    fn forget(&self, node: NodeId, count: u64) {
        let mut places = self.places();
        let id = (node, places.generation(node));
        let was_closed = places.closed(node).is_some();
        places.forget(node, count);
        if was_closed
            && places.closed(node).is_none()
            && let Some(kernel) = self.in_kernel.get()
        {
            kernel.open(id);
        }
        let is_gone = !places.knows(node);
        drop(places);
        if is_gone && let Some(kernel) = self.in_kernel.get() {
            self.attributes.forgotten(node, |name| kernel.perhaps_present(id, name));
        }
    }
}

impl PolicySwitch {
    /// These rules from now on, for whatever is opened, made or removed from now on. What the kernel has cached of places that
    /// were free is taken back before this returns. Not from inside a handler. Of no effect on what was made
    /// [without rules](Policed::without_rules).
    pub fn put_in_force(&self, policy: Policy) {
        if !self.0.has_rules {
            return tracing::error!("there are no rules here, and none can be put in force");
        }
        let guarded = self.0.change(|places| places.replace(Arc::new(policy)));
        let Some(notifier) = self.0.notifier.get() else { return };
        // If there is an error, the session is over.
        _ = guarded.into_iter().try_for_each(|node| patiently(notifier, node));
        notifier.flush();
    }

    /// Have the kernel give answers again that it was given before. Once; later calls have no effect.
    pub fn answer_in_kernel(&self, kernel: Box<dyn InKernel>) {
        kernel.denials_of(self.0.places().relaxed());
        _ = self.0.in_kernel.set(kernel);
    }

    /// How often something was denied by a request.
    pub fn denials(&self) -> u64 {
        self.0.denials.load(Ordering::Relaxed)
    }

    /// How often the kernel answered by itself: that somebody may not, and that an attribute is absent.
    pub fn answered_by_kernel(&self) -> (u64, u64) {
        self.0.in_kernel.get().map_or((0, 0), |kernel| kernel.answered())
    }

    /// How many names are remembered.
    pub fn remembered(&self) -> usize {
        self.0.places().len()
    }
}

fn subject(cx: &Context) -> Option<Subject> {
    cx.caller().map(|caller| Subject { uid: caller.uid, gid: caller.gid })
}

/// What opening with these flags asks for. `O_WRONLY | O_RDWR`, which some programs use to get at a device's commands alone, counts as
/// both.
fn wanted(flags: u32) -> impl Iterator<Item = Action> {
    let mode = flags & libc::O_ACCMODE.cast_unsigned();
    let writes = mode != 0 || OFlags::from_bits_retain(flags).contains(OFlags::TRUNC);
    let runs = flags & OPENED_TO_RUN != 0;
    let reads = mode != libc::O_WRONLY.cast_unsigned() && !runs;
    [(reads, Action::Read), (writes, Action::Write), (runs, Action::Execute)]
        .into_iter()
        .filter_map(|(is_wanted, action)| is_wanted.then_some(action))
}

impl<F> Policed<F> {
    /// `fs`, kept to `policy`.
    pub fn new(fs: F, policy: Policy) -> Self {
        Self::with(fs, policy, true)
    }

    /// `fs`, in which everything is allowed, now and later: what is around it is of use only to a kernel that answers by itself. So the
    /// filesystem may have the kernel open without asking, which rules could not bear.
    pub fn without_rules(fs: F) -> Self {
        Self::with(fs, Policy::default(), false)
    }

    fn with(fs: F, policy: Policy, has_rules: bool) -> Self {
        let places = Mutex::new(Places::new(Arc::new(policy)));
        let shared = Shared {
            places,
            notifier: OnceLock::new(),
            denials: AtomicU64::new(0),
            in_kernel: OnceLock::new(),
            attributes: Attributes::default(),
            take_back: Arc::default(),
            has_rules,
        };
        Self { fs, shared: Arc::new(shared) }
    }

    /// The means to put other rules in force later.
    pub fn switch(&self) -> PolicySwitch {
        PolicySwitch(self.shared.clone())
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.shared.places()
    }

    fn decide(&self, policy: &Policy, standing: &Standing, cx: &Context, action: Action) -> Result<()> {
        let decision = policy.decide(standing, subject(cx), action);
        if decision.is_allowed() { Ok(()) } else { Err(self.denied(policy, cx, (action, decision.because))) }
    }

    fn denied(&self, policy: &Policy, cx: &Context, (action, because): (Action, Because)) -> Errno {
        self.shared.denials.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(caller = ?cx.caller(), %action, why = policy.explain(because), "denied");
        Errno::ACCESS
    }

    /// May the caller do this to a node? By each of its names.
    fn check(&self, cx: &Context, node: NodeId, action: Action) -> Result<()> {
        let (policy, standings, moment) = {
            let mut places = self.places();
            let moment = Moment { node, generation: places.generation(node), version: places.relaxed() };
            (places.policy().clone(), places.standings(node), moment)
        };
        if standings.is_empty() {
            return Err(Errno::STALE);
        }
        let decided = standings.iter().try_for_each(|standing| self.decide(&policy, standing, cx, action));
        if decided.is_err()
            && let (Some(kernel), Some(subject)) = (self.shared.in_kernel.get(), subject(cx))
        {
            kernel.denied(moment, subject, action);
        }
        decided
    }

    /// May the caller do this to a name in a directory, and pass through that?
    fn check_name(&self, cx: &Context, parent: NodeId, name: &[u8], actions: &[Action]) -> Result<()> {
        self.check(cx, parent, Action::Access)?;
        let (policy, standing) = {
            let mut places = self.places();
            let standing = places.standing_of_name(parent, name).ok_or(Errno::STALE)?;
            (places.policy().clone(), standing)
        };
        actions.iter().try_for_each(|action| self.decide(&policy, &standing, cx, *action))
    }

    /// Attributes as they may be told: not to be kept where somebody may be refused them.
    fn attr(&self, node: NodeId, attr: Attr) -> Attr {
        self.shared.trusted_for(node, attr.ttl);
        if self.shared.must_ask(&mut self.places(), node) { attr.with_ttl(Duration::ZERO) } else { attr }
    }

    /// The kernel is about to be told of a node.
    fn entry(&self, parent: NodeId, name: &[u8], mut entry: Entry) -> Entry {
        let Some(node) = entry.node() else { return entry };
        self.shared.trusted_for(node, entry.attr.ttl);
        let is_directory = entry.attr.kind == FileType::Directory;
        let must_ask = self.shared.change(|places| {
            places.learn((parent, name), (node, entry.generation), is_directory);
            self.shared.must_ask(places, node)
        });
        if must_ask {
            entry.attr = entry.attr.with_ttl(Duration::ZERO);
        }
        entry
    }

    /// A node has no attribute of that name, unless one was set since `before`.
    fn absent(&self, node: NodeId, name: &[u8], before: u64) {
        let Some(kernel) = self.shared.in_kernel.get() else { return };
        if !self.places().knows(node) {
            // Nobody would take it back.
            return;
        }
        let generation_of = |node| self.places().generation(node);
        let generation = generation_of(node);
        self.shared.attributes.unless_set(
            (node, name),
            before,
            |valid| kernel.absent((node, generation), name, valid),
            // Of whichever use of the number; that of another is gone by itself.
            |other, name| kernel.perhaps_present((other, generation_of(other)), name),
        );
    }

    fn perhaps_present(&self, node: NodeId, name: &[u8]) {
        let Some(kernel) = self.shared.in_kernel.get() else { return };
        let generation: Generation = self.places().generation(node);
        self.shared.attributes.set(node, || kernel.perhaps_present((node, generation), name));
    }

    /// A directory keeps its standing when it is moved, because what is below it does.
    fn check_move(&self, cx: &Context, op: &Rename<'_>) -> Result<()> {
        let exchange = RenameFlags::from_bits_retain(op.flags).contains(RenameFlags::EXCHANGE);
        let (old, new) = (op.name.as_bytes(), op.new_name.as_bytes());
        let both = [Action::Remove, Action::Create];
        let replaces = self.places().node_at(op.new_parent, new).is_some();
        self.check_name(cx, op.parent, old, if exchange { &both } else { &both[..1] })?;
        self.check_name(cx, op.new_parent, new, if replaces { &both } else { &both[1..] })?;
        let mut places = self.places();
        let is_directory =
            |found: Option<(NodeId, bool)>| found.is_some_and(|(_, is_directory)| is_directory);
        let moves_directory = is_directory(places.node_at(op.parent, old))
            || exchange && is_directory(places.node_at(op.new_parent, new));
        if moves_directory
            && places.standing_of_name(op.parent, old) != places.standing_of_name(op.new_parent, new)
        {
            tracing::debug!(name = ?op.name, new_name = ?op.new_name, "a directory is not moved to where other rules hold");
            return Err(Errno::XDEV);
        }
        Ok(())
    }

    /// What is opened without a handle: if there are rules, the kernel must go on asking.
    fn opened(&self, opened: Result<Opened>, cached: FopenFlags) -> Result<Opened> {
        match opened {
            Err(Errno::NOSYS) if self.shared.has_rules => Ok(Opened::new(WITHOUT_HANDLE).with_flags(cached)),
            opened => opened,
        }
    }
}

impl<F: FileSystem> FileSystem for Policed<F> {
    fn init(&self, config: &mut Config) -> Result<()> {
        self.fs.init(config)
    }

    fn started(&self, session: &Started) {
        _ = self.shared.notifier.set(session.notifier.clone());
        // What the filesystem hears of a file that others have changed holds for what is absent there, too.
        let shared = self.shared.clone();
        let notifier = session.notifier.heard_by(move |node| shared.perhaps_set(node));
        self.fs.started(&Started { notifier, ..session.clone() });
    }

    fn abandoned(&self) {
        self.fs.abandoned();
    }

    fn destroyed(&self) {
        if let Some(kernel) = self.shared.in_kernel.get() {
            kernel.ended();
        }
        self.fs.destroyed();
    }

    async fn lookup(&self, cx: &Context, op: Lookup<'_>) -> Result<Entry> {
        // Not whether the name itself is denied: see the module.
        self.check(cx, op.parent, Action::Access)?;
        let asked = self.places().now();
        let found = self.fs.lookup(cx, op).await;
        let leads_nowhere = match &found {
            Ok(entry) => entry.node().is_none(),
            Err(error) => *error == Errno::NOENT,
        };
        if leads_nowhere {
            self.shared.change(|places| places.absent((op.parent, op.name.as_bytes()), asked));
        }
        Ok(self.entry(op.parent, op.name.as_bytes(), found?))
    }

    fn forget(&self, op: Forget) {
        // First here: once the filesystem has forgotten, the number may be another node's.
        self.shared.forget(op.node, op.count);
        self.fs.forget(op);
    }

    fn batch_forget(&self, ops: impl Iterator<Item = Forget>) {
        self.fs.batch_forget(ops.inspect(|op| self.shared.forget(op.node, op.count)));
    }

    async fn getattr(&self, cx: &Context, op: Getattr) -> Result<Attr> {
        // Reading an open file asks with its handle.
        if op.handle.is_none() {
            self.check(cx, op.node, Action::Access)?;
        }
        Ok(self.attr(op.node, self.fs.getattr(cx, op).await?))
    }

    async fn statx(&self, cx: &Context, op: Statx) -> Result<(Attr, Extended)> {
        if op.handle.is_none() {
            self.check(cx, op.node, Action::Access)?;
        }
        let (attr, extended) = self.fs.statx(cx, op).await?;
        Ok((self.attr(op.node, attr), extended))
    }

    async fn setattr(&self, cx: &Context, op: Setattr) -> Result<Attr> {
        let changes = &op.changes;
        let is_length_alone = changes.size.is_some()
            && changes.mode.is_none()
            && changes.uid.is_none()
            && changes.gid.is_none();
        match op.handle {
            // As it was opened for.
            Some(_) if is_length_alone => {}
            _ if is_length_alone => self.check(cx, op.node, Action::Write)?,
            _ => self.check(cx, op.node, Action::Change)?,
        }
        Ok(self.attr(op.node, self.fs.setattr(cx, op).await?))
    }

    async fn readlink(&self, cx: &Context, op: Readlink, out: &mut Sink<'_>) -> Result<()> {
        self.check(cx, op.node, Action::Access)?;
        self.fs.readlink(cx, op, out).await
    }

    async fn symlink(&self, cx: &Context, op: Symlink<'_>) -> Result<Entry> {
        self.check_name(cx, op.parent, op.name.as_bytes(), &[Action::Create])?;
        Ok(self.entry(op.parent, op.name.as_bytes(), self.fs.symlink(cx, op).await?))
    }

    async fn mknod(&self, cx: &Context, op: Mknod<'_>) -> Result<Entry> {
        self.check_name(cx, op.parent, op.name.as_bytes(), &[Action::Create])?;
        Ok(self.entry(op.parent, op.name.as_bytes(), self.fs.mknod(cx, op).await?))
    }

    async fn mkdir(&self, cx: &Context, op: Mkdir<'_>) -> Result<Entry> {
        self.check_name(cx, op.parent, op.name.as_bytes(), &[Action::Create])?;
        Ok(self.entry(op.parent, op.name.as_bytes(), self.fs.mkdir(cx, op).await?))
    }

    async fn unlink(&self, cx: &Context, op: Unlink<'_>) -> Result<()> {
        self.check_name(cx, op.parent, op.name.as_bytes(), &[Action::Remove])?;
        self.fs.unlink(cx, op).await?;
        self.shared.change(|places| places.removed(op.parent, op.name.as_bytes()));
        Ok(())
    }

    async fn rmdir(&self, cx: &Context, op: Rmdir<'_>) -> Result<()> {
        self.check_name(cx, op.parent, op.name.as_bytes(), &[Action::Remove])?;
        self.fs.rmdir(cx, op).await?;
        self.shared.change(|places| places.removed(op.parent, op.name.as_bytes()));
        Ok(())
    }

    async fn rename(&self, cx: &Context, op: Rename<'_>) -> Result<()> {
        self.check_move(cx, &op)?;
        self.fs.rename(cx, op).await?;
        let exchange = RenameFlags::from_bits_retain(op.flags).contains(RenameFlags::EXCHANGE);
        let (old, new) = ((op.parent, op.name.as_bytes()), (op.new_parent, op.new_name.as_bytes()));
        let moved = [Some(old), exchange.then_some(new)].into_iter().flatten();
        let moved: Vec<_> = moved.filter_map(|(parent, name)| self.places().node_at(parent, name)).collect();
        self.shared.change(|places| places.moved(old, new, exchange));
        for (node, _) in moved {
            if self.shared.must_ask(&mut self.places(), node) {
                self.shared.take_back(node);
            }
        }
        Ok(())
    }

    async fn link(&self, cx: &Context, op: Link<'_>) -> Result<Entry> {
        self.check(cx, op.node, Action::Access)?;
        let name = op.new_name.as_bytes();
        self.check_name(cx, op.new_parent, name, &[Action::Create])?;
        {
            let mut places = self.places();
            let new = places.standing_of_name(op.new_parent, name);
            if places.standings(op.node).into_iter().any(|old| Some(old) != new) {
                tracing::debug!(name = ?op.new_name, "no file has names to which different rules apply");
                return Err(Errno::XDEV);
            }
        }
        Ok(self.entry(op.new_parent, name, self.fs.link(cx, op).await?))
    }

    async fn open(&self, cx: &Context, op: Open) -> Result<Opened> {
        wanted(op.flags).try_for_each(|action| self.check(cx, op.node, action))?;
        self.opened(self.fs.open(cx, op).await, FopenFlags::KEEP_CACHE)
    }

    async fn read(&self, cx: &Context, op: Read, out: &mut Sink<'_>) -> Result<()> {
        self.fs.read(cx, op, out).await
    }

    async fn write(&self, cx: &Context, op: Write<'_>) -> Result<u32> {
        self.fs.write(cx, op).await
    }

    async fn statfs(&self, cx: &Context, op: Statfs) -> Result<StatFs> {
        self.fs.statfs(cx, op).await
    }

    async fn release(&self, cx: &Context, op: Release) -> Result<()> {
        if op.handle == WITHOUT_HANDLE { Ok(()) } else { self.fs.release(cx, op).await }
    }

    async fn fsync(&self, cx: &Context, op: Fsync) -> Result<()> {
        self.fs.fsync(cx, op).await
    }

    async fn flush(&self, cx: &Context, op: Flush) -> Result<()> {
        self.fs.flush(cx, op).await
    }

    async fn setxattr(&self, cx: &Context, op: Setxattr<'_>) -> Result<()> {
        self.check(cx, op.node, Action::Change)?;
        // Before, because the kernel must not find it absent once it is there; and after, because somebody may have been
        // told so in between.
        self.perhaps_present(op.node, op.name.to_bytes());
        let set = self.fs.setxattr(cx, op).await;
        self.perhaps_present(op.node, op.name.to_bytes());
        set
    }

    async fn getxattr(&self, cx: &Context, op: Getxattr<'_>, out: &mut XattrSink<'_>) -> Result<()> {
        self.check(cx, op.node, Action::Access)?;
        let before = self.shared.attributes.version(op.node);
        let got = self.fs.getxattr(cx, op, out).await;
        if got == Err(Errno::NODATA) {
            self.absent(op.node, op.name.to_bytes(), before);
        }
        got
    }

    async fn listxattr(&self, cx: &Context, op: Listxattr, out: &mut XattrSink<'_>) -> Result<()> {
        self.check(cx, op.node, Action::Access)?;
        self.fs.listxattr(cx, op, out).await
    }

    async fn removexattr(&self, cx: &Context, op: Removexattr<'_>) -> Result<()> {
        self.check(cx, op.node, Action::Change)?;
        self.fs.removexattr(cx, op).await
    }

    async fn access(&self, cx: &Context, op: Access) -> Result<()> {
        // `ENOSYS` would be the last time that the kernel asks.
        self.check(cx, op.node, Action::Access)?;
        match self.fs.access(cx, op).await {
            Err(Errno::NOSYS) => Ok(()),
            answer => answer,
        }
    }

    async fn create(&self, cx: &Context, op: Create<'_>) -> Result<(Entry, Opened)> {
        let mut actions = vec![Action::Create];
        actions.extend(wanted(op.flags));
        self.check_name(cx, op.parent, op.name.as_bytes(), &actions)?;
        let (entry, opened) = self.fs.create(cx, op).await?;
        Ok((self.entry(op.parent, op.name.as_bytes(), entry), opened))
    }

    async fn tmpfile(&self, cx: &Context, op: Tmpfile<'_>) -> Result<(Entry, Opened)> {
        // What has no name is under the rules for whatever is in the directory: those for the directory itself, most often.
        self.check(cx, op.parent, Action::Access)?;
        self.check_name(cx, op.parent, b"", &[Action::Create])?;
        let (mut entry, opened) = self.fs.tmpfile(cx, op).await?;
        if let Some(node) = entry.node() {
            self.shared.trusted_for(node, entry.attr.ttl);
            let mut places = self.places();
            places.learn_nameless(op.parent, (node, entry.generation));
            if self.shared.must_ask(&mut places, node) {
                entry.attr = entry.attr.with_ttl(Duration::ZERO);
            }
        }
        Ok((entry, opened))
    }

    async fn opendir(&self, cx: &Context, op: Opendir) -> Result<Opened> {
        self.check(cx, op.node, Action::List)?;
        self.opened(self.fs.opendir(cx, op).await, FopenFlags::KEEP_CACHE | FopenFlags::CACHE_DIR)
    }

    async fn readdir(&self, cx: &Context, op: Readdir, out: &mut DirSink<'_>) -> Result<()> {
        self.fs.readdir(cx, op, out).await
    }

    async fn readdirplus(&self, cx: &Context, op: Readdirplus, out: &mut DirPlusSink<'_>) -> Result<()> {
        let listed = self.fs.readdirplus(cx, op, out).await;
        let mut valid = Vec::new();
        self.shared.change(|places| {
            // Also after an error: what was put has been counted.
            out.review(|node, (kind, ttl), name| {
                valid.push((node.0, ttl));
                places.learn((op.node, name), node, kind == FileType::Directory);
                !self.shared.must_ask(places, node.0)
            });
        });
        // Not while places are locked: whoever says that something is absent locks them after attributes.
        valid.into_iter().for_each(|(node, ttl)| self.shared.trusted_for(node, ttl));
        listed
    }

    async fn releasedir(&self, cx: &Context, op: Releasedir) -> Result<()> {
        if op.handle == WITHOUT_HANDLE { Ok(()) } else { self.fs.releasedir(cx, op).await }
    }

    async fn fsyncdir(&self, cx: &Context, op: Fsyncdir) -> Result<()> {
        self.fs.fsyncdir(cx, op).await
    }

    async fn getlk(&self, cx: &Context, op: Getlk) -> Result<FileLock> {
        self.fs.getlk(cx, op).await
    }

    async fn setlk(&self, cx: &Context, op: Setlk) -> Result<()> {
        self.fs.setlk(cx, op).await
    }

    async fn bmap(&self, cx: &Context, op: Bmap) -> Result<u64> {
        self.fs.bmap(cx, op).await
    }

    async fn ioctl(&self, cx: &Context, op: Ioctl<'_>, out: &mut Sink<'_>) -> Result<IoctlResult> {
        if CHANGING_COMMANDS.contains(&op.command) {
            self.check(cx, op.node, Action::Change)?;
        }
        self.fs.ioctl(cx, op, out).await
    }

    async fn poll(&self, cx: &Context, op: Poll) -> Result<u32> {
        self.fs.poll(cx, op).await
    }

    async fn fallocate(&self, cx: &Context, op: Fallocate) -> Result<()> {
        self.fs.fallocate(cx, op).await
    }

    async fn lseek(&self, cx: &Context, op: Lseek) -> Result<u64> {
        self.fs.lseek(cx, op).await
    }

    async fn copy_file_range(&self, cx: &Context, op: CopyFileRange) -> Result<u64> {
        self.fs.copy_file_range(cx, op).await
    }

    async fn syncfs(&self, cx: &Context, op: Syncfs) -> Result<()> {
        self.fs.syncfs(cx, op).await
    }

    async fn setupmapping(&self, cx: &Context, op: Setupmapping) -> Result<()> {
        self.fs.setupmapping(cx, op).await
    }

    async fn removemapping(&self, cx: &Context, op: Removemapping<'_>) -> Result<()> {
        self.fs.removemapping(cx, op).await
    }

    async fn retrieved(&self, cx: &Context, op: Retrieved<'_>) {
        self.fs.retrieved(cx, op).await;
    }
}
