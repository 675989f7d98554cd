//! Extended attributes.

use super::{
    acl,
    node::{Node, SET_GROUP_ID},
};
use fusewire::{Errno, FileType, Result, Timestamp};
use rustix::fs::XattrFlags;
use std::collections::BTreeMap;

/// Names and values together may take so many bytes per node: a single node cannot eat all memory.
const MAX_BYTES: usize = 1 << 20;

/// The attributes of one node, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Xattrs(BTreeMap<Box<[u8]>, Box<[u8]>>);

impl Xattrs {
    pub(super) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.get(name).map(|value| &**value)
    }

    pub(super) fn set(&mut self, name: &[u8], value: &[u8]) {
        self.0.insert(name.into(), value.into());
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> bool {
        self.0.remove(name).is_some()
    }

    /// Names that one without privilege (`privileged` false) may know of.
    pub(super) fn names(&self, privileged: bool) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(|name| &**name).filter(move |name| privileged || !name.starts_with(b"trusted."))
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// Who sees `name`: does this filesystem keep attributes of that namespace?
fn check_namespace(name: &[u8]) -> Result<()> {
    let spaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    let known = acl::is_acl(name) || spaces.iter().any(|s| name.len() > s.len() && name.starts_with(s));
    if known { Ok(()) } else { Err(Errno::OPNOTSUPP) }
}

impl Node {
    pub(super) fn xattr(&self, name: &[u8]) -> Result<&[u8]> {
        check_namespace(name)?;
        self.xattrs.get(name).ok_or(Errno::NODATA)
    }

    /// Set an attribute; an access ACL changes the mode with it.
    pub(super) fn set_xattr(&mut self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        check_namespace(name)?;
        let flags = XattrFlags::from_bits_retain(flags);
        if !(flags - XattrFlags::CREATE - XattrFlags::REPLACE).is_empty() {
            return Err(Errno::INVAL);
        }
        match self.xattrs.get(name) {
            Some(_) if flags.contains(XattrFlags::CREATE) => return Err(Errno::EXIST),
            None if flags.contains(XattrFlags::REPLACE) => return Err(Errno::NODATA),
            old => {
                let rest = self.xattrs.bytes() - old.map_or(0, |old| name.len() + old.len());
                if rest + name.len() + value.len() > MAX_BYTES {
                    return Err(Errno::NOSPC);
                }
            }
        }
        if acl::is_acl(name) {
            self.set_acl(name, value)?;
        } else {
            self.xattrs.set(name, value);
        }
        self.ctime = Timestamp::now();
        Ok(())
    }

    pub(super) fn remove_xattr(&mut self, name: &[u8]) -> Result<()> {
        check_namespace(name)?;
        if !self.xattrs.remove(name) {
            return Err(Errno::NODATA);
        }
        self.ctime = Timestamp::now();
        Ok(())
    }

    /// An ACL was set by one who is not of the file's group.
    pub(super) fn kill_set_group_id(&mut self) {
        self.perm &= !SET_GROUP_ID;
    }

    fn set_acl(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        match self.kind() {
            FileType::Symlink => return Err(Errno::OPNOTSUPP),
            FileType::Directory => {}
            _ if name == acl::DEFAULT => return Err(Errno::ACCESS),
            _ => {}
        }
        let list = acl::Acl::parse(value)?;
        if name == acl::ACCESS {
            self.perm = list.apply_to_mode(self.perm);
            // One that says no more than the mode is not kept: the mode says it.
            if list.is_mode_only() {
                self.xattrs.remove(name);
                return Ok(());
            }
        }
        self.xattrs.set(name, value);
        Ok(())
    }
}
