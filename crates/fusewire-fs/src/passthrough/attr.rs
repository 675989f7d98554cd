//! Attributes.

use super::{
    Passthrough, coherence::Reading, handle::Open, inode::Found, mounts::FIELDS, stateless::Use, sys,
};
use crate::passthrough::fds::Fd;
use fusewire::{
    Attr, AttrFlags, Context, Entry, Extended, FileType, Handle, InitFlags, NodeId, SetTime, StatFs,
    Timestamp,
    op::{Changes, Setattr},
};
use rustix::{
    fs::{AtFlags, Gid, Mode, Statx, StatxAttributes, StatxFlags, StatxTimestamp, Timespec, Timestamps, Uid},
    io::{Errno, Result},
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    sync::atomic::Ordering,
    time::Duration,
};

/// What a change of attributes is made through.
enum Target {
    /// The caller's open file.
    Open(Arc<Open>),
    /// An `O_PATH` descriptor.
    Path(Arc<Fd>),
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(open) => open.path(),
            Self::Path(fd) => fd.as_fd(),
        }
    }
}

/// Attributes of an open file, or of what an `O_PATH` descriptor is of.
pub fn stat(fd: &impl AsFd) -> Result<Statx> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, FIELDS)
}

fn time(of: &StatxTimestamp) -> Timestamp {
    Timestamp { seconds: of.tv_sec, nanos: of.tv_nsec }
}

/// Device number as the kernel packs it (`new_encode_dev`).
fn pack_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}

/// Major and minor number.
pub fn unpack_device(packed: u32) -> (u32, u32) {
    ((packed & 0xfff00) >> 8, (packed & 0xff) | (packed >> 12 & 0xfff00))
}

impl Passthrough {
    /// Attributes for the kernel. Those of a file that may be mapped and written without our knowing are not to be remembered.
    pub(super) fn attr(&self, node: NodeId, stat: &Statx, reading: &Reading<'_>) -> Attr {
        let dax = self.follow(node, stat);
        let mode = u32::from(stat.stx_mode);
        let kind = FileType::from_mode(mode).unwrap_or(FileType::Regular);
        let ttl =
            if self.nodes.is_perhaps_mapped(node) { Duration::ZERO } else { self.attr_ttl(stat, reading) };
        let mut attr = Attr::file(stat.stx_size).with_perm((mode & 0o7777) as u16).with_ttl(ttl);
        attr.kind = kind;
        attr.ino = Some(self.nodes.mounts.ino(stat));
        attr.nlink = stat.stx_nlink;
        attr.uid = self.options.users.guest(stat.stx_uid);
        attr.gid = self.options.groups.guest(stat.stx_gid);
        attr.rdev = pack_device(stat.stx_rdev_major, stat.stx_rdev_minor);
        attr.blocks = stat.stx_blocks;
        attr.blksize = stat.stx_blksize;
        attr.atime = time(&stat.stx_atime);
        attr.mtime = time(&stat.stx_mtime);
        attr.ctime = time(&stat.stx_ctime);
        attr.flags = if dax { AttrFlags::DAX } else { AttrFlags::empty() };
        let is_mount = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        attr.flags.set(AttrFlags::SUBMOUNT, is_mount && node != NodeId::ROOT && self.announces_mounts());
        attr
    }

    /// Does the kernel want to know which directories are mounts?
    fn announces_mounts(&self) -> bool {
        self.options.submounts && self.agreed.load(Ordering::Relaxed) & InitFlags::SUBMOUNTS.bits() != 0
    }

    /// Of a name that was looked up or made since `reading` began.
    pub(super) fn entry(&self, found: &Found, reading: Reading<'_>) -> Entry {
        self.dax.named(found.node, reading.name());
        self.meet(found);
        let (stat, of_attributes) = self.watched(found, reading);
        Entry::new(found.node, self.attr(found.node, &stat, &of_attributes))
            .with_ttl(self.entry_ttl(&found.stat, reading))
            .with_generation(found.generation)
    }

    /// Attributes of a node, through the caller's open file where there is one: at the descriptor limit that works on.
    pub(super) fn stat_node(&self, node: NodeId, handle: Option<Handle>) -> Result<Statx> {
        match handle {
            Some(handle) if !self.is_stateless(handle) => {
                stat(&self.open_node(node, handle, Use::Read)?.path())
            }
            _ => self.nodes.stat(node),
        }
    }

    pub(super) fn extended(&self, node: NodeId, handle: Option<Handle>) -> Result<(Attr, Extended)> {
        self.watch_again(node);
        let reading = self.reading();
        let stat = self.stat_node(node, handle)?;
        let has_btime = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let extended = Extended {
            btime: has_btime.then(|| time(&stat.stx_btime)),
            attributes: stat.stx_attributes.bits(),
            attributes_mask: stat.stx_attributes_mask.bits(),
        };
        Ok((self.attr(node, &stat, &reading), extended))
    }

    pub(super) fn change(&self, cx: &Context, op: &Setattr) -> Result<Attr> {
        let target = match op.handle {
            Some(handle) if !self.is_stateless(handle) => {
                Target::Open(self.open_node(op.node, handle, Use::Write)?)
            }
            _ => Target::Path(self.nodes.fd(op.node)?),
        };
        let changes = &op.changes;
        self.creds.keep_set_ids(true)?;
        // First what is refused most often, so that a refusal leaves all as it was; the mode after the owner, because a
        // change of owner clears bits of it; the times last, because everything else changes them.
        self.change_owner(cx, &target, changes)?;
        if let Some(mode) = changes.mode {
            change_mode(self, &target, mode)?;
        }
        if let Some(size) = changes.size {
            let mark = if changes.kill_suid_gid { self.mark_to_keep(cx, &target)? } else { None };
            self.creds.keep_set_ids(!changes.kill_suid_gid)?;
            self.dax.using(&target);
            self.change_size(&target, size)?;
            self.set_mark(&target, mark)?;
        }
        change_times(&target, changes)?;
        let reading = self.reading();
        Ok(self.attr(op.node, &stat(&target)?, &reading))
    }

    fn change_owner(&self, cx: &Context, target: &Target, changes: &Changes) -> Result<()> {
        let uid = changes.uid.map(|uid| self.options.users.host(uid)).transpose()?;
        let gid = changes.gid.map(|gid| self.options.groups.host(gid)).transpose()?;
        if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
            // No id: a kernel does not send it. A system call would take it as "leave it".
            return Err(Errno::INVAL);
        }
        // Nothing but clearing of set-id bits: a change of owner to the same does that.
        let only_kill = changes.kill_suid_gid && changes.size.is_none() && changes.mode.is_none();
        if uid.is_none() && gid.is_none() && !only_kill && !self.is_voiding(cx, target, changes)? {
            return Ok(());
        }
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(target, c"", uid, gid, AtFlags::EMPTY_PATH)
    }

    /// To change nothing at all is what the kernel asks for on `chown(-1, -1)`, which takes set-id bits away, and before a write
    /// that does. It has checked nothing then: whoever is neither owner nor root gets nothing, and the write says it again.
    fn is_voiding(&self, cx: &Context, target: &Target, changes: &Changes) -> Result<bool> {
        if *changes != Changes::default() {
            return Ok(false);
        }
        let Some(caller) = cx.caller() else { return Ok(false) };
        Ok(caller.uid == 0 || self.options.users.host(caller.uid)? == stat(target)?.stx_uid)
    }

    fn change_size(&self, target: &Target, size: u64) -> Result<()> {
        if let Target::Open(open) = target {
            match rustix::fs::ftruncate(open.path(), size) {
                // Opened for reading only, or not yet.
                Err(Errno::INVAL | Errno::BADF) => {}
                done => return done,
            }
        }
        self.nodes.by_path(target, |path| sys::truncate(path, size))
    }

    pub(super) fn filesystem(&self, node: NodeId) -> Result<StatFs> {
        let stat = rustix::fs::fstatvfs(&self.nodes.mount(node)?.fd)?;
        let narrow = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
        Ok(StatFs {
            blocks: stat.f_blocks,
            bfree: stat.f_bfree,
            bavail: stat.f_bavail,
            files: stat.f_files,
            ffree: stat.f_ffree,
            bsize: narrow(stat.f_bsize),
            namelen: narrow(stat.f_namemax),
            frsize: narrow(stat.f_frsize),
        })
    }
}

/// Set the permission bits of what `fd` is of, which may be `O_PATH`.
pub(super) fn change_mode(fs: &Passthrough, fd: &impl AsFd, mode: u32) -> Result<()> {
    let mode = mode & 0o7777;
    fs.mode_changes.fetch_add(1, Ordering::Relaxed);
    match sys::fchmod_path(fd, mode) {
        Err(Errno::NOSYS) => fs.nodes.by_path(fd, |path| rustix::fs::chmod(path, Mode::from_raw_mode(mode))),
        done => done,
    }
}

fn change_times(target: &Target, changes: &Changes) -> Result<()> {
    const NOW: i64 = libc::UTIME_NOW;
    const OMIT: i64 = libc::UTIME_OMIT;
    if changes.atime.is_none() && changes.mtime.is_none() {
        return Ok(());
    }
    let spec = |time: Option<SetTime>| match time {
        None => Timespec { tv_sec: 0, tv_nsec: OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: NOW },
        Some(SetTime::To(time)) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() },
    };
    let times = Timestamps { last_access: spec(changes.atime), last_modification: spec(changes.mtime) };
    rustix::fs::utimensat(target, c"", &times, AtFlags::EMPTY_PATH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_packing() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (8, 256), (259, 70_000), (4095, 0xfffff)] {
            assert_eq!(unpack_device(pack_device(major, minor)), (major, minor));
        }
        assert_eq!(pack_device(1, 3), 0x103, "/dev/null as stat shows it");
    }
}
