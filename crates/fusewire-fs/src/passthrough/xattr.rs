//! Extended attributes.
//!
//! They are reached through `/proc/self/fd`, which leads to symbolic links and special files themselves without opening
//! them.

use super::{Passthrough, attr};
use fusewire::{
    Context, NodeId,
    op::{Getxattr, Listxattr, Removexattr, Setxattr},
    reply::XattrSink,
};
use rustix::{
    fs::XattrFlags,
    io::{Errno, Result},
};
use std::{borrow::Cow, ffi::CStr};

const SGID: u16 = 0o2000;

impl Passthrough {
    fn by_path<R>(&self, node: NodeId, act: impl FnOnce(&CStr) -> Result<R>) -> Result<R> {
        let fd = self.nodes.fd(node)?;
        self.nodes.by_path(&*fd, act)
    }

    /// What an attribute is called in the directory.
    pub(super) fn xattr_name<'a>(&self, name: &'a CStr) -> Result<Cow<'a, CStr>> {
        if is_acl(name.to_bytes()) && !self.has_acls() {
            return Err(Errno::NOTSUP);
        }
        match &self.options.xattr_map {
            None => Ok(Cow::Borrowed(name)),
            Some(map) => map.stored(name),
        }
    }

    pub(super) async fn set_xattr(&self, cx: &Context, op: &Setxattr<'_>) -> Result<()> {
        self.creds.keep_set_ids(true)?;
        let flags = XattrFlags::from_bits_retain(op.flags);
        let name = self.xattr_name(op.name)?;
        self.by_path(op.node, |path| rustix::fs::setxattr(path, &*name, op.value, flags))?;
        if op.kill_sgid {
            // An ACL says who may do what, and so does the mode: the lower filesystem has adjusted it, but has seen the
            // daemon's rights and not the caller's.
            let fd = self.nodes.fd(op.node)?;
            let mode = attr::stat(&*fd)?.stx_mode;
            if mode & SGID != 0 {
                attr::change_mode(self, &*fd, (mode & !SGID).into())?;
            }
        }
        if is_acl(op.name.to_bytes()) {
            self.coherent.acl_changed(cx).await;
        }
        Ok(())
    }

    pub(super) fn get_xattr(&self, op: &Getxattr<'_>, out: &mut XattrSink<'_>) -> Result<()> {
        let name = self.xattr_name(op.name)?;
        self.by_path(op.node, |path| {
            out.fill(|room| match room {
                [] => rustix::fs::getxattr_query(path, &*name),
                room => rustix::fs::getxattr(path, &*name, room),
            })
        })
    }

    pub(super) fn list_xattrs(&self, cx: &Context, op: &Listxattr, out: &mut XattrSink<'_>) -> Result<()> {
        let is_root = cx.caller().is_none_or(|caller| caller.uid == 0);
        if is_root && self.options.xattr_map.is_none() && self.has_acls() {
            return self.by_path(op.node, |path| {
                out.fill(|room| match room {
                    [] => rustix::fs::listxattr_query(path),
                    room => rustix::fs::listxattr(path, room),
                })
            });
        }
        // Only the privileged see names in the namespace `trusted`; the lower filesystem has seen the daemon ask.
        let names = self.by_path(op.node, all_names)?;
        names
            .split_inclusive(|&byte| byte == 0)
            .filter_map(|name| match &self.options.xattr_map {
                None => Some(name),
                Some(map) => map.shown(name),
            })
            .filter(|name| is_root || !name.starts_with(b"trusted."))
            .filter(|name| self.has_acls() || !is_acl(name.strip_suffix(b"\0").unwrap_or(name)))
            .for_each(|name| out.put(name));
        Ok(())
    }

    pub(super) async fn remove_xattr(&self, cx: &Context, op: &Removexattr<'_>) -> Result<()> {
        let name = self.xattr_name(op.name)?;
        self.by_path(op.node, |path| rustix::fs::removexattr(path, &*name))?;
        if is_acl(op.name.to_bytes()) {
            self.coherent.acl_changed(cx).await;
        }
        Ok(())
    }
}

fn is_acl(name: &[u8]) -> bool {
    matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// The whole list of names of attributes.
fn all_names(path: &CStr) -> Result<Vec<u8>> {
    /// Room for names that are added between the two calls.
    const SPARE: usize = 256;
    loop {
        let mut room = vec![0; rustix::fs::listxattr_query(path)? + SPARE];
        match rustix::fs::listxattr(path, &mut room[..]) {
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error),
            Ok(len) => {
                room.truncate(len);
                return Ok(room);
            }
        }
    }
}
