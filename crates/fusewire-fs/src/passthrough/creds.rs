//! Acting as somebody else.
//!
//! A new file belongs to the caller because a thread takes on the caller's ids for the system call that makes it, and
//! not because it is given away afterwards: quotas, inherited groups, ACLs and security modules all look at who makes
//! it. What a thread takes on lasts for one closure: a handler never keeps it across an `await`.
//!
//! All of it concerns the thread alone (the bare system calls, not those of the C library, which change all threads).

use super::sys;
use fusewire::{Context, Owner};
use rustix::{
    fs::{Gid, Mode},
    io::{Errno, Result},
    thread::{CapabilitySet, CapabilitySets},
};
use std::{cell::Cell, fs};

/// No id at all: what idmapped mounts send where nothing maps.
const NOBODY_AT_ALL: u32 = u32::MAX;

/// The usual number for a group that does not exist in a user namespace.
const OVERFLOW: u32 = 65534;

/// What a thread has no more once it has taken on another user's id (`CAP_FS_SET` of the kernel).
const FOR_FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::LINUX_IMMUTABLE)
    .union(CapabilitySet::MAC_OVERRIDE)
    .union(OF_CALLERS);

/// Of these, what a caller's own capabilities permit it to make.
const OF_CALLERS: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD);

/// What a thread is, as far as it was changed.
#[derive(Clone, Copy, Default)]
struct State {
    /// Has its own umask.
    own_umask: bool,
    /// Has left its supplementary groups.
    groupless: bool,
    umask: Option<u32>,
    /// Whether it may keep set-id bits (`CAP_FSETID`).
    fsetid: Option<bool>,
}

thread_local! {
    static STATE: Cell<State> = const {
        Cell::new(State { own_umask: false, groupless: false, umask: None, fsetid: None })
    };
}

fn update(change: impl FnOnce(&mut State)) {
    let mut state = STATE.get();
    change(&mut state);
    STATE.set(state);
}

/// Give up `CAP_SYS_RESOURCE`, for this thread and those it starts: with it, quotas and reserved blocks would not bind who
/// writes through the mount, because the daemon writes for them.
fn give_up_resources(caps: CapabilitySets) -> CapabilitySets {
    let bound = CapabilitySets { effective: caps.effective - CapabilitySet::SYS_RESOURCE, ..caps };
    match rustix::thread::set_capabilities(None, bound) {
        Ok(()) => bound,
        Err(error) => {
            tracing::warn!(%error, "quotas do not bind who writes through this mount");
            caps
        }
    }
}

/// What the process may do about identities.
#[derive(Debug)]
pub struct Creds {
    uid: u32,
    gid: u32,
    caps: Option<CapabilitySets>,
    /// May take on other ids.
    switches: bool,
    /// Every id exists here (no user namespace in the way), so that taking one on cannot fail silently.
    all_ids: bool,
    /// What the kernel shows in the place of a group that does not exist here.
    overflow: u32,
}

impl Creds {
    /// Find out, and give up what would let callers off their quotas. On the thread that starts those of the handlers.
    pub fn new() -> Self {
        let caps = rustix::thread::capabilities(None).ok().map(give_up_resources);
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
        let switches = caps.is_some_and(|caps| caps.effective.contains(needed));
        let all_ids = ["/proc/self/uid_map", "/proc/self/gid_map"].iter().all(|map| {
            let words = fs::read_to_string(map).unwrap_or_default();
            words.split_ascii_whitespace().eq(["0", "0", "4294967295"])
        });
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if !switches && uid == 0 {
            tracing::warn!(
                "CAP_SETUID or CAP_SETGID is missing: everything made through the mount belongs to root, whoever makes it"
            );
        } else if !switches {
            tracing::info!(
                uid,
                gid,
                "not privileged: everything made through the mount belongs to this user"
            );
        }
        let overflow = fs::read_to_string("/proc/sys/kernel/overflowgid").ok();
        let overflow = overflow.and_then(|gid| gid.trim().parse().ok()).unwrap_or(OVERFLOW);
        Self { uid, gid, caps, switches, all_ids, overflow }
    }

    /// May this process take on other ids?
    #[cfg(test)]
    pub fn privileged(&self) -> bool {
        self.switches
    }

    /// Whether writes and changes by this thread, from now on, keep set-user-id and set-group-id bits. If not, the
    /// lower filesystem clears them by its own rules.
    ///
    /// The thread stays so until it is told otherwise: callers of one kind in a row cost nothing.
    pub fn keep_set_ids(&self, keep: bool) -> Result<()> {
        let Some(caps) = self.caps.filter(|caps| caps.effective.contains(CapabilitySet::FSETID)) else {
            return Ok(());
        };
        if STATE.get().fsetid == Some(keep) {
            return Ok(());
        }
        let mut now = caps;
        now.effective.set(CapabilitySet::FSETID, keep);
        rustix::thread::set_capabilities(None, now)?;
        update(|state| state.fsetid = Some(keep));
        Ok(())
    }

    /// Make something as `owner` with that umask.
    pub fn acting_as<R>(&self, owner: Owner, umask: u32, make: impl FnOnce() -> Result<R>) -> Result<R> {
        let group = owner.supplementary.filter(|&group| group != owner.gid);
        self.acting_in(owner, group.as_slice(), umask, make)
    }

    /// The same as a member of these groups, and of no others.
    pub fn acting_in<R>(
        &self,
        owner: Owner,
        groups: &[u32],
        umask: u32,
        make: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        self.acting_with(owner, (groups, CapabilitySet::empty()), umask, make)
    }

    /// The same with capabilities, which are those of [`capabilities_of_caller`](Self::capabilities_of_caller).
    pub fn acting_with<R>(
        &self,
        owner: Owner,
        (groups, capabilities): (&[u32], CapabilitySet),
        umask: u32,
        make: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        self.umask(umask)?;
        if !self.takes_on(owner) {
            self.keep_set_ids(true)?;
            return make();
        }
        let mut taken_on = self.take_on(owner, groups)?;
        if !capabilities.is_empty() {
            taken_on.raise(capabilities)?;
        }
        make()
    }

    /// Are other ids taken on to act as `owner`?
    fn takes_on(&self, owner: Owner) -> bool {
        self.switches && (owner.uid != self.uid || owner.gid != self.gid)
    }

    fn umask(&self, umask: u32) -> Result<()> {
        let state = STATE.get();
        if state.umask == Some(umask) {
            return Ok(());
        }
        if !state.own_umask {
            sys::unshare_fs()?;
        }
        rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
        update(|state| (state.own_umask, state.umask) = (true, Some(umask)));
        Ok(())
    }

    fn take_on(&self, owner: Owner, groups: &[u32]) -> Result<TakenOn<'_>> {
        if owner.uid == NOBODY_AT_ALL || owner.gid == NOBODY_AT_ALL {
            return Err(Errno::OVERFLOW);
        }
        if !STATE.get().groupless {
            rustix::thread::set_thread_groups(&[])?;
            update(|state| state.groupless = true);
        }
        // Undoes whatever of the following has happened, also when it does not get to the end.
        let mut taken = TakenOn { creds: self, group: false, uid: false, gid: false, raised: false };
        if !groups.is_empty() {
            let groups: Vec<_> = groups.iter().map(|&group| Gid::from_raw(group)).collect();
            rustix::thread::set_thread_groups(&groups)?;
            taken.group = true;
        }
        if owner.gid != self.gid {
            taken.gid = true;
            sys::setfsgid(owner.gid);
            if !self.all_ids && sys::setfsgid(NOBODY_AT_ALL) != owner.gid {
                return Err(Errno::OVERFLOW);
            }
        }
        if owner.uid != self.uid {
            taken.uid = true;
            sys::setfsuid(owner.uid);
            if !self.all_ids && sys::setfsuid(NOBODY_AT_ALL) != owner.uid {
                return Err(Errno::OVERFLOW);
            }
        }
        Ok(taken)
    }

    /// Is the caller a member of this group?
    pub fn caller_is_in(&self, cx: &Context, gid: u32) -> bool {
        let listed = || status_of(cx).is_some_and(|status| numbers(&status, "Groups:").any(|it| it == gid));
        cx.caller().is_some_and(|caller| caller.gid == gid) || listed()
    }

    /// All groups of the caller, of which the kernel sends one at most (since Linux 6.3). `None` if they make no difference to what
    /// is done as `owner`, and where they cannot be known: the number is nobody's or not that of whoever asks. The kernel
    /// may ask in other names than the thread's own, for NFS or overlays, and sends other ids on idmapped mounts.
    pub fn groups_of_caller(&self, cx: &Context, owner: Owner) -> Option<Vec<u32>> {
        let caller = cx.caller().filter(|_| self.takes_on(owner))?;
        let status = status_of(cx)?;
        // Real, effective, saved, for files.
        let for_files = |key| numbers(&status, key).nth(3);
        if for_files("Uid:") != Some(caller.uid) || for_files("Gid:") != Some(caller.gid) {
            return None;
        }
        // Nobody can tell which group is meant by that number: none is taken on for it.
        let exists = |&group: &u32| self.all_ids || group != self.overflow;
        Some(numbers(&status, "Groups:").filter(exists).collect())
    }

    /// What capabilities for files both the caller and this process have. The lower filesystem may refuse the owner what the kernel
    /// had permitted the caller. That is as it should be if the directory has changed since; but a caller may also have been
    /// permitted by a capability, which taking on ids does not confer.
    pub fn capabilities_of_caller(&self, cx: &Context, owner: Owner) -> CapabilitySet {
        let Some(own) = self.caps.filter(|_| self.takes_on(owner)) else { return CapabilitySet::empty() };
        let status = status_of(cx).unwrap_or_default();
        let effective = line(&status, "CapEff:").and_then(|word| u64::from_str_radix(word, 16).ok());
        CapabilitySet::from_bits_retain(effective.unwrap_or(0)) & own.effective & OF_CALLERS
    }
}

/// The caller's `/proc/PID/status`. The caller waits for the answer, so that it is there and stays as it is.
fn status_of(cx: &Context) -> Option<String> {
    let pid = cx.caller().map(|caller| caller.pid).filter(|&pid| pid != 0)?;
    fs::read_to_string(format!("/proc/{pid}/status")).ok()
}

/// A line of it.
fn line<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

/// The numbers in a line of it.
fn numbers(status: &str, key: &str) -> impl Iterator<Item = u32> {
    line(status, key).unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok())
}

/// Taken-on ids; dropping it puts the thread's own back.
struct TakenOn<'a> {
    creds: &'a Creds,
    group: bool,
    uid: bool,
    gid: bool,
    /// Has capabilities that it would not have as that user.
    raised: bool,
}

impl TakenOn<'_> {
    fn raise(&mut self, capabilities: CapabilitySet) -> Result<()> {
        let own = self.creds.caps.ok_or(Errno::PERM)?;
        self.raised = true;
        let effective = (own.effective - FOR_FILES) | capabilities;
        rustix::thread::set_capabilities(None, CapabilitySets { effective, ..own })
    }
}

impl Drop for TakenOn<'_> {
    fn drop(&mut self) {
        if self.uid {
            sys::setfsuid(self.creds.uid);
            // Coming back to root raises the capabilities that concern files, all of them; see capabilities(7).
            update(|state| state.fsetid = None);
        }
        if let Some(own) = self.creds.caps.filter(|_| self.raised) {
            // All of them are permitted, so that this cannot be refused.
            _ = rustix::thread::set_capabilities(None, own);
            update(|state| state.fsetid = None);
        }
        if self.gid {
            sys::setfsgid(self.creds.gid);
        }
        if self.group && rustix::thread::set_thread_groups(&[]).is_err() {
            update(|state| state.groupless = false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn owner(uid: u32, gid: u32, supplementary: Option<u32>) -> Owner {
        Owner { uid, gid, supplementary }
    }

    #[test]
    fn what_is_made_belongs_to_whom_it_is_made_for() {
        let creds = Creds::new();
        if !creds.privileged() {
            eprintln!("skipped: taking on ids needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for (uid, gid, umask) in [(1234, 2345, 0o027), (0, 77, 0o022), (4321, 0, 0), (0, 0, 0o077)] {
            let path = dir.path().join(format!("{uid}-{gid}"));
            let make = || {
                let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
                rustix::fs::open(&path, flags, Mode::from_raw_mode(0o666))
            };
            creds.acting_as(owner(uid, gid, None), umask, make).unwrap();
            let made = fs::metadata(&path).unwrap();
            assert_eq!((made.uid(), made.gid()), (uid, gid));
            assert_eq!(made.permissions().mode() & 0o777, 0o666 & !umask);
        }
        let own = dir.path().join("own");
        fs::write(&own, "").unwrap();
        assert_eq!(fs::metadata(&own).unwrap().uid(), creds.uid, "the thread is itself again");
    }

    #[test]
    fn supplementary_groups_count_and_go_away_again() {
        let creds = Creds::new();
        if !creds.privileged() {
            eprintln!("skipped: taking on ids needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(0), Some(555)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let make = |name: &str| rustix::fs::mkdir(dir.path().join(name), Mode::from_raw_mode(0o755));
        assert_eq!(creds.acting_as(owner(1234, 2345, None), 0, || make("no")), Err(Errno::ACCESS));
        creds.acting_as(owner(1234, 2345, Some(555)), 0, || make("yes")).unwrap();
        assert_eq!(creds.acting_as(owner(1234, 2345, None), 0, || make("no")), Err(Errno::ACCESS));
    }

    #[test]
    fn capabilities_of_a_caller_are_taken_on_and_go_away_again() {
        let creds = Creds::new();
        if !creds.privileged() {
            eprintln!("skipped: taking on ids needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let make = |name: &str| rustix::fs::mkdir(dir.path().join(name), Mode::from_raw_mode(0o755));
        for owner in [owner(1234, 2345, None), owner(1234, 0, None)] {
            let name = format!("made-{}", owner.gid);
            let with = |capability| creds.acting_with(owner, (&[], capability), 0, || make(&name));
            assert_eq!(with(CapabilitySet::FOWNER), Err(Errno::ACCESS));
            with(CapabilitySet::DAC_OVERRIDE).unwrap();
            let made = fs::metadata(dir.path().join(&name)).unwrap();
            assert_eq!((made.uid(), made.gid()), (owner.uid, owner.gid));
            assert_eq!(creds.acting_as(owner, 0, || make("no")), Err(Errno::ACCESS));
            let now = rustix::thread::capabilities(None).unwrap();
            assert_eq!(Some(now), creds.caps, "the thread is itself again");
        }
    }

    #[test]
    fn set_id_bits_go_when_they_are_not_to_be_kept() {
        let creds = Creds::new();
        if !creds.privileged() {
            eprintln!("skipped: keeping set-id bits needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (keep, left) in [(false, 0o755), (true, 0o6755), (false, 0o755)] {
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
            creds.keep_set_ids(keep).unwrap();
            fs::write(&path, "y").unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, left);
            // Taking on somebody else's ids in between must not confuse it.
            creds.acting_as(owner(1, 1, None), 0, || Ok(())).unwrap();
        }
    }

    #[test]
    fn an_id_that_does_not_exist_is_refused() {
        let creds = Creds::new();
        if creds.privileged() {
            let made = creds.acting_as(owner(NOBODY_AT_ALL, 0, None), 0, || Ok(()));
            assert_eq!(made, Err(Errno::OVERFLOW));
        }
    }
}
