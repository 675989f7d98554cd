//! POSIX access control lists, as `system.posix_acl_access` and `system.posix_acl_default` hold them.
//!
//! The kernel checks permissions; the filesystem stores the lists, keeps list and mode in agreement
//! (`posix_acl_chmod`), and hands a directory's default list on to what is made in it (`posix_acl_create`).

use super::xattr::Xattrs;
use fusewire::{Errno, Result};

/// The attribute with the list that guards the node.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute with the list that new nodes in a directory get.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
/// `ACL_USER_OBJ` and its like, in the order in which they stand in a list.
const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

pub(super) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A list that was found valid: owner, owning group and others once each, a mask where anybody else is named.
#[derive(Clone, Debug)]
pub(super) struct Acl(Vec<Rule>);

impl Acl {
    /// From an attribute's value: a version, then 8 bytes per rule.
    pub(super) fn parse(value: &[u8]) -> Result<Self> {
        let (version, rules) = value.split_first_chunk::<4>().ok_or(Errno::INVAL)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Errno::OPNOTSUPP);
        }
        let (rules, rest) = rules.as_chunks::<8>();
        let rules = rules.iter().map(|&[t0, t1, p0, p1, i0, i1, i2, i3]| Rule {
            tag: u16::from_le_bytes([t0, t1]),
            perm: u16::from_le_bytes([p0, p1]),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
        });
        let acl = Self(rules.collect());
        if rest.is_empty() && acl.is_valid() { Ok(acl) } else { Err(Errno::INVAL) }
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|rule| rule.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let masks = count(MASK);
        [OWNER, OWNING_GROUP, OTHER].iter().all(|tag| count(*tag) == 1)
            && (masks == 1 || (masks == 0 && named == 0))
            && self.0.len() == 3 + masks + named
            && self.0.is_sorted_by_key(|rule| rule.tag)
            && self.0.iter().all(|rule| rule.perm & !7 == 0)
    }

    fn to_value(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for rule in &self.0 {
            value.extend(rule.tag.to_le_bytes());
            value.extend(rule.perm.to_le_bytes());
            value.extend(rule.id.to_le_bytes());
        }
        value
    }

    /// Does it say no more than a mode can?
    pub(super) fn is_mode_only(&self) -> bool {
        self.0.len() == 3
    }

    /// Which of the mode's three classes a rule stands for; the mask takes the group's place where there is one.
    fn class_shift(&self, tag: u16) -> Option<u16> {
        match tag {
            OWNER => Some(6),
            MASK => Some(3),
            OWNING_GROUP if self.is_mode_only() || !self.has_mask() => Some(3),
            OTHER => Some(0),
            _ => None,
        }
    }

    fn has_mask(&self) -> bool {
        self.0.iter().any(|rule| rule.tag == MASK)
    }

    /// `perm` with its nine permission bits as the list has them.
    pub(super) fn apply_to_mode(&self, perm: u16) -> u16 {
        let classes = self.0.iter().filter_map(|rule| Some(rule.perm << self.class_shift(rule.tag)?));
        classes.fold(perm & !0o777, |mode, bits| mode | bits)
    }

    /// Change those rules that stand for classes of the mode.
    fn for_each_class(&mut self, change: impl Fn(u16, u16) -> u16) {
        let shifts: Vec<_> = self.0.iter().map(|rule| self.class_shift(rule.tag)).collect();
        for (rule, shift) in self.0.iter_mut().zip(shifts) {
            if let Some(shift) = shift {
                rule.perm = change(rule.perm, shift);
            }
        }
    }
}

/// The mode was set to `perm`: the access list says the same afterwards.
pub(super) fn follow_mode(xattrs: &mut Xattrs, perm: u16) {
    let Some(mut list) = xattrs.get(ACCESS).and_then(|value| Acl::parse(value).ok()) else { return };
    list.for_each_class(|_, shift| perm >> shift & 7);
    xattrs.set(ACCESS, &list.to_value());
}

/// The mode of a new node that was asked for with `perm` in a directory with these attributes, and what attributes the
/// node gets from it. The umask counts only where there is no default list.
pub(super) fn inherit(directory: &Xattrs, perm: u16, umask: u32, is_directory: bool) -> (u16, Xattrs) {
    let mut xattrs = Xattrs::default();
    let Some(value) = directory.get(DEFAULT) else { return (perm & !(umask as u16 & 0o777), xattrs) };
    let Ok(mut list) = Acl::parse(value) else { return (perm & !(umask as u16 & 0o777), xattrs) };
    list.for_each_class(|allowed, shift| allowed & perm >> shift);
    if !list.is_mode_only() {
        xattrs.set(ACCESS, &list.to_value());
    }
    if is_directory {
        xattrs.set(DEFAULT, value);
    }
    (list.apply_to_mode(perm), xattrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rules: &[(u16, u16, u32)]) -> Vec<u8> {
        Acl(rules.iter().map(|&(tag, perm, id)| Rule { tag, perm, id }).collect()).to_value()
    }

    const NOBODY: u32 = u32::MAX;

    fn named_user() -> Vec<u8> {
        list(&[
            (OWNER, 7, NOBODY),
            (USER, 6, 1000),
            (OWNING_GROUP, 5, NOBODY),
            (MASK, 6, NOBODY),
            (OTHER, 1, NOBODY),
        ])
    }

    #[test]
    fn malformed_lists_are_refused() {
        assert!(Acl::parse(&named_user()).is_ok());
        assert_eq!(Acl::parse(&[]).unwrap_err(), Errno::INVAL);
        assert_eq!(Acl::parse(&named_user()[..43]).unwrap_err(), Errno::INVAL);
        assert_eq!(Acl::parse(&[1; 28]).unwrap_err(), Errno::OPNOTSUPP);
        let bad: [&[(u16, u16, u32)]; 4] = [
            &[(OWNER, 7, NOBODY), (OTHER, 7, NOBODY)],
            &[(OWNER, 7, NOBODY), (USER, 7, 1), (OWNING_GROUP, 7, NOBODY), (OTHER, 7, NOBODY)],
            &[(OWNER, 8, NOBODY), (OWNING_GROUP, 7, NOBODY), (OTHER, 7, NOBODY)],
            &[(OTHER, 7, NOBODY), (OWNER, 7, NOBODY), (OWNING_GROUP, 7, NOBODY)],
        ];
        for rules in bad {
            assert_eq!(Acl::parse(&list(rules)).unwrap_err(), Errno::INVAL, "{rules:?}");
        }
    }

    #[test]
    fn the_mask_is_the_groups_class() {
        let acl = Acl::parse(&named_user()).unwrap();
        assert_eq!(acl.apply_to_mode(0o4000), 0o4761);
        let mut xattrs = Xattrs::default();
        xattrs.set(ACCESS, &named_user());
        follow_mode(&mut xattrs, 0o640);
        let now = Acl::parse(xattrs.get(ACCESS).unwrap()).unwrap();
        assert_eq!(now.apply_to_mode(0), 0o640);
        assert!(
            now.0.iter().any(|rule| rule.tag == OWNING_GROUP && rule.perm == 5),
            "the group's own rule stays"
        );
    }

    #[test]
    fn a_default_list_takes_the_umasks_place() {
        let mut directory = Xattrs::default();
        assert_eq!(inherit(&directory, 0o666, 0o027, false).0, 0o640);
        directory.set(DEFAULT, &named_user());
        let (perm, file) = inherit(&directory, 0o666, 0o077, false);
        assert_eq!(perm, 0o660);
        assert!(file.get(ACCESS).is_some() && file.get(DEFAULT).is_none());
        let (perm, sub) = inherit(&directory, 0o2777, 0o077, true);
        assert_eq!(perm, 0o2761);
        assert_eq!(sub.get(DEFAULT), Some(&named_user()[..]));

        directory.set(DEFAULT, &list(&[(OWNER, 7, NOBODY), (OWNING_GROUP, 5, NOBODY), (OTHER, 0, NOBODY)]));
        let (perm, file) = inherit(&directory, 0o666, 0, false);
        assert_eq!((perm, file.get(ACCESS)), (0o640, None), "a list that is only a mode is not kept");
    }
}
