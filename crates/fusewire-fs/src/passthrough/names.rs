//! Names: making, moving and removing them.

use super::{
    Passthrough, attr,
    coherence::Reading,
    fds::Fd,
    handle::lower_flags,
    inode::{At, Found},
};
use fusewire::{
    Context, Entry, FileType, Name, NodeId, Opened, Owner,
    op::{Create, Link, Mkdir, Mknod, Readlink, Rename, SecurityContext, Symlink, Tmpfile},
    reply::Sink,
};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, XattrFlags},
    io::{Errno, Result},
    thread::CapabilitySet,
};
use std::{ffi::CStr, os::fd::AsFd};

/// Whom something new is to belong to, with what mask, and how to label it.
struct Maker<'a> {
    cx: &'a Context,
    owner: Owner,
    umask: u32,
    security: Option<SecurityContext<'a>>,
    /// Is the caller root, for itself?
    is_root: bool,
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

impl Passthrough {
    fn maker<'a>(
        &self,
        cx: &'a Context,
        owner: Owner,
        umask: u32,
        security: Option<SecurityContext<'a>>,
    ) -> Result<Maker<'a>> {
        let (users, groups) = (&self.options.users, &self.options.groups);
        let is_root = owner.uid == 0;
        let owner = Owner {
            uid: users.host(owner.uid)?,
            gid: groups.host(owner.gid)?,
            supplementary: owner.supplementary.map(|group| groups.host(group)).transpose()?,
        };
        Ok(Maker { cx, owner, umask, security, is_root })
    }

    /// Run `make` as whom the result is to belong to. The kernel has permitted it by all that the caller is, and sends a part of
    /// that. If the lower filesystem refuses it, run it with all the groups of the caller; if it refuses that, too, although
    /// the caller has a capability that permits it, run it with that.
    fn make_as<R>(&self, maker: &Maker<'_>, make: impl Fn() -> Result<R>) -> Result<R> {
        let umask = self.umask_of(maker);
        let mut made = self.creds.acting_as(maker.owner, umask, &make);
        if matches!(made, Err(Errno::ACCESS))
            && let Some(groups) = self.groups_of(maker)
        {
            made = self.creds.acting_in(maker.owner, &groups, umask, &make);
        }
        self.or_by_capability(maker, made, make)
    }

    /// Where the kernel was not asked to leave the mask to us it has applied it.
    fn umask_of(&self, maker: &Maker<'_>) -> u32 {
        if self.masks() { maker.umask } else { 0 }
    }

    /// All supplementary groups of whoever asks, as the directory has them.
    fn groups_of(&self, maker: &Maker<'_>) -> Option<Vec<u32>> {
        let groups = self.creds.groups_of_caller(maker.cx, maker.owner)?;
        Some(groups.into_iter().filter_map(|group| self.options.groups.host(group).ok()).collect())
    }

    /// What was `made`; or if that was refused, and the caller has a capability that permits it, what is made with the caller's
    /// capabilities.
    fn or_by_capability<R>(
        &self,
        maker: &Maker<'_>,
        made: Result<R>,
        make: impl Fn() -> Result<R>,
    ) -> Result<R> {
        let needed = match made {
            Err(Errno::ACCESS) => CapabilitySet::DAC_OVERRIDE,
            Err(Errno::PERM) => CapabilitySet::MKNOD,
            made => return made,
        };
        let held = self.creds.capabilities_of_caller(maker.cx, maker.owner);
        if maker.is_root || !held.contains(needed) {
            return made;
        }
        let groups = self.groups_of(maker).unwrap_or_else(|| maker.owner.supplementary.into_iter().collect());
        self.creds.acting_with(maker.owner, (&groups, held), self.umask_of(maker), make)
    }

    /// Make a name that is not opened by that, and look it up.
    fn make_node(
        &self,
        maker: &Maker<'_>,
        (parent, name): (NodeId, Name<'_>),
        make: impl Fn(&Fd, &CStr) -> Result<()>,
    ) -> Result<Entry> {
        let reading = self.reading();
        let dir = self.nodes.fd(parent)?;
        let name = name.as_c_str();
        self.make_as(maker, || make(&dir, name))?;
        let mut found = self.nodes.lookup_in(At { parent, dir: &dir, name })?;
        if let Some(label) = maker.security {
            let fd = self.nodes.fd(found.node)?;
            self.label(&*fd, label)?;
            found.stat = attr::stat(&*fd)?;
        }
        Ok(self.entry(&found, reading.under(parent, name)))
    }

    /// Label something new.
    fn label(&self, fd: &impl AsFd, label: SecurityContext<'_>) -> Result<()> {
        let name = self.xattr_name(label.name)?;
        self.nodes.by_path(fd, |path| rustix::fs::setxattr(path, &*name, label.value, XattrFlags::empty()))
    }

    pub(super) fn make_symlink(&self, cx: &Context, op: &Symlink<'_>) -> Result<Entry> {
        let maker = self.maker(cx, op.owner, 0, op.security)?;
        self.make_node(&maker, (op.parent, op.name), |dir, name| rustix::fs::symlinkat(op.target, dir, name))
    }

    pub(super) fn make_special(&self, cx: &Context, op: &Mknod<'_>) -> Result<Entry> {
        let maker = self.maker(cx, op.owner, op.umask, op.security)?;
        let kind = rustix::fs::FileType::from_raw_mode(op.mode);
        let (major, minor) = attr::unpack_device(op.rdev);
        let device = rustix::fs::makedev(major, minor);
        self.make_node(&maker, (op.parent, op.name), |dir, name| {
            rustix::fs::mknodat(dir, name, kind, permissions(op.mode), device)
        })
    }

    pub(super) fn make_directory(&self, cx: &Context, op: &Mkdir<'_>) -> Result<Entry> {
        let maker = self.maker(cx, op.owner, op.umask, op.security)?;
        self.make_node(&maker, (op.parent, op.name), |dir, name| {
            rustix::fs::mkdirat(dir, name, permissions(op.mode))
        })
    }

    pub(super) fn make_file(&self, cx: &Context, op: &Create<'_>) -> Result<(Entry, Opened)> {
        let maker = self.maker(cx, op.owner, op.umask, op.security)?;
        let reading = self.reading();
        let dir = self.nodes.fd(op.parent)?;
        let name = op.name.as_c_str();
        let flags = lower_flags(op.flags) | OFlags::NOFOLLOW;
        let must_be_new = OFlags::from_bits_retain(op.flags).contains(OFlags::EXCL);
        // First as something new in any case: an existing name may be a FIFO or a device by now, whose opening would
        // block or act.
        let made = self.with_flags(flags, |flags| {
            let new = (flags - OFlags::TRUNC) | OFlags::CREATE | OFlags::EXCL;
            self.make_as(&maker, || {
                self.nodes.opening(|| rustix::fs::openat(&dir, name, new, permissions(op.mode)))
            })
        });
        let (fd, flags) = match made {
            Ok((fd, flags)) => {
                if let Some(label) = maker.security {
                    self.label(&fd, label)?;
                }
                (fd, flags)
            }
            Err(Errno::EXIST) if !must_be_new => {
                self.with_flags(flags, |flags| self.open_existing(&maker, op, (&dir, name), flags))?
            }
            Err(error) => return Err(error),
        };
        let found = self.nodes.adopt(op.parent, Some(name), &fd)?;
        self.reply(&found, (fd, flags), reading.under(op.parent, name))
    }

    /// `O_CREAT` on a name that somebody else made in the meantime: with the caller's rights, because the kernel has
    /// only checked that the caller may make it. So all groups count from the beginning: an ACL may also refuse by them what others may.
    fn open_existing(
        &self,
        maker: &Maker<'_>,
        op: &Create<'_>,
        (dir, name): (&Fd, &CStr),
        flags: OFlags,
    ) -> Result<Fd> {
        let path = self.nodes.opening(|| {
            rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        })?;
        // Not by its name, which may lead to something else a moment later.
        match FileType::from_mode(attr::stat(&path)?.stx_mode.into()) {
            Some(FileType::Regular) => {}
            Some(FileType::Directory) => return Err(Errno::ISDIR),
            // The kernel looks the name up again and follows the link, or opens the special file, by itself.
            _ => return Err(Errno::STALE),
        }
        let open = || self.nodes.opening(|| self.nodes.reopen(&path, flags - OFlags::NOFOLLOW));
        if maker.is_root && op.kill_suid_gid {
            self.creds.keep_set_ids(false)?;
            return open();
        }
        let opened = match self.groups_of(maker) {
            Some(groups) => self.creds.acting_in(maker.owner, &groups, self.umask_of(maker), open),
            None => self.creds.acting_as(maker.owner, self.umask_of(maker), open),
        };
        self.or_by_capability(maker, opened, open)
    }

    pub(super) fn make_nameless(&self, cx: &Context, op: &Tmpfile<'_>) -> Result<(Entry, Opened)> {
        let maker = self.maker(cx, op.owner, op.umask, op.security)?;
        let reading = self.reading();
        let dir = self.nodes.fd(op.parent)?;
        let flags = lower_flags(op.flags) - OFlags::TRUNC;
        let (fd, flags) = self.with_flags(flags, |flags| {
            self.make_as(&maker, || {
                self.nodes
                    .opening(|| rustix::fs::openat(&dir, c".", flags | OFlags::TMPFILE, permissions(op.mode)))
            })
        })?;
        if let Some(label) = maker.security {
            self.label(&fd, label)?;
        }
        let found = self.nodes.adopt(op.parent, None, &fd)?;
        self.reply(&found, (fd, flags), reading)
    }

    fn reply(&self, found: &Found, file: (Fd, OFlags), reading: Reading<'_>) -> Result<(Entry, Opened)> {
        // What the kernel may keep of the content depends on it.
        self.watch(found);
        match self.opened(found.node, file, Some(&found.stat)) {
            Ok(opened) => Ok((self.entry(found, reading), opened)),
            Err(error) => {
                // The kernel does not learn of the node, so it cannot forget it.
                self.nodes.forget(found.node, 1);
                Err(error)
            }
        }
    }

    pub(super) fn remove(&self, parent: NodeId, name: Name<'_>, flags: AtFlags) -> Result<()> {
        let dir = self.nodes.fd(parent)?;
        let at = At { parent, dir: &dir, name: name.as_c_str() };
        let held = self.nodes.hold(at);
        rustix::fs::unlinkat(&dir, at.name, flags)?;
        self.nodes.removed(held);
        Ok(())
    }

    pub(super) fn rename_name(&self, cx: &Context, op: &Rename<'_>) -> Result<()> {
        let flags = RenameFlags::from_bits_retain(op.flags);
        let (from, to) = (self.nodes.fd(op.parent)?, self.nodes.fd(op.new_parent)?);
        let (name, new_name) = (op.name.as_c_str(), op.new_name.as_c_str());
        let old = At { parent: op.parent, dir: &from, name };
        let new = At { parent: op.new_parent, dir: &to, name: new_name };
        self.nodes.prepare_move(old);
        let replaced = match flags {
            _ if flags.contains(RenameFlags::NOREPLACE) => None,
            _ if flags.contains(RenameFlags::EXCHANGE) => {
                self.nodes.prepare_move(new);
                None
            }
            _ => self.nodes.hold(new),
        };
        let rename = || rustix::fs::renameat_with(&from, name, &to, new_name, flags);
        if flags.contains(RenameFlags::WHITEOUT) {
            // It leaves something new behind, which belongs to the caller.
            let maker = self.maker(cx, op.owner, 0, None)?;
            self.make_as(&maker, rename)?;
        } else {
            rename()?;
        }
        self.nodes.removed(replaced);
        self.nodes.moved(new);
        self.brought(op.new_parent, new_name);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.nodes.moved(old);
            self.brought(op.parent, name);
        }
        Ok(())
    }

    pub(super) fn add_name(&self, op: &Link<'_>) -> Result<Entry> {
        let reading = self.reading();
        let (fd, dir) = (self.nodes.fd(op.node)?, self.nodes.fd(op.new_parent)?);
        let name = op.new_name.as_c_str();
        match rustix::fs::linkat(&*fd, c"", &*dir, name, AtFlags::EMPTY_PATH) {
            // Without CAP_DAC_READ_SEARCH there is a way round by a path.
            Err(Errno::NOENT | Errno::PERM) => self
                .nodes
                .by_path(&*fd, |path| rustix::fs::linkat(CWD, path, &*dir, name, AtFlags::SYMLINK_FOLLOW))?,
            linked => linked?,
        }
        let stat = attr::stat(&*fd)?;
        let generation = self.nodes.again(op.node)?;
        let found = Found { node: op.node, generation, stat, is_new: false };
        Ok(self.entry(&found, reading.under(op.new_parent, name)))
    }

    pub(super) fn link_target(&self, op: &Readlink, out: &mut Sink<'_>) -> Result<()> {
        let fd = self.nodes.fd(op.node)?;
        out.fill(|room| rustix::fs::readlinkat_raw(&*fd, c"", room)).map(drop)
    }
}
