//! Capabilities: what serving a directory takes, and nothing else.

use std::str::FromStr;

use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::failure::{Failure, Outcome};

/// What a daemon keeps that serves a directory for all users of a guest, as virtiofsd does.
const SERVING: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// `--modcaps`: `+NAME` keeps a capability, `-NAME` drops it, with colons between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changes {
    add: CapabilitySet,
    drop: CapabilitySet,
}

impl Changes {
    const NONE: Self = Self { add: CapabilitySet::empty(), drop: CapabilitySet::empty() };
}

impl FromStr for Changes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut changes = Self::NONE;
        for word in text.split(':') {
            let (sign, name) = match word.chars().next() {
                Some(sign @ ('+' | '-')) => (sign, word[1..].to_ascii_uppercase()),
                _ => return Err(format!("`{word}` is not +CAPABILITY or -CAPABILITY, such as +sys_admin")),
            };
            let name = name.strip_prefix("CAP_").unwrap_or(&name);
            let capability = CapabilitySet::from_name(name)
                .ok_or_else(|| format!("`{name}` is no capability; capabilities(7) lists them"))?;
            let (to, from) = match sign {
                '+' => (&mut changes.add, &mut changes.drop),
                _ => (&mut changes.drop, &mut changes.add),
            };
            to.insert(capability);
            from.remove(capability);
        }
        Ok(changes)
    }
}

/// What to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    set: CapabilitySet,
    asked: bool,
}

impl Kept {
    /// What serving takes, with `handles` to open files by, and changed as the user wants.
    ///
    /// # Errors
    /// If the changes take away what other options need.
    pub fn new(handles: bool, changes: Option<Changes>) -> Outcome<Self> {
        let mut needed = CapabilitySet::empty();
        needed.set(CapabilitySet::DAC_READ_SEARCH, handles);
        let asked = changes.is_some();
        let Changes { add, drop } = changes.unwrap_or(Changes::NONE);
        if needed.intersects(drop) {
            return Err(Failure::usage("--modcaps -dac_read_search takes away what other options need")
                .or_try("--inode-file-handles never"));
        }
        Ok(Self { set: ((SERVING | add) - drop) | needed, asked })
    }

    /// Has the user named capabilities?
    pub fn is_asked_for(&self) -> bool {
        self.asked
    }
}

/// Keeps these and drops the others, for this thread and those that it starts. In a namespace of one user nobody else can be
/// acted for.
///
/// # Errors
/// If that is refused.
pub fn keep(kept: &Kept, one_user: bool) -> Outcome<()> {
    let mut set = kept.set;
    if one_user {
        set -= CapabilitySet::SETUID | CapabilitySet::SETGID;
    }
    let failed = |error: rustix::io::Errno| Failure::because("cannot give up capabilities", &error);
    let has = rustix::thread::capabilities(None).map_err(failed)?;
    _ = rustix::thread::clear_ambient_capability_set();
    // While there is the right to.
    if has.effective.contains(CapabilitySet::SETPCAP) {
        for capability in (CapabilitySet::all() - set).iter() {
            // Those that this kernel does not have are not there to be dropped.
            _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
    }
    let permitted = has.permitted & set;
    let sets = CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(failed)?;
    rustix::thread::set_no_new_privs(true).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_virtiofsd_reads_them() {
        let changes: Changes = "+sys_admin:-chown:+CAP_KILL".parse().expect("changes");
        assert_eq!(changes.add, CapabilitySet::SYS_ADMIN | CapabilitySet::KILL);
        assert_eq!(changes.drop, CapabilitySet::CHOWN);
        let changes: Changes = "+chown:-chown".parse().expect("changes");
        assert_eq!((changes.add, changes.drop), (CapabilitySet::empty(), CapabilitySet::CHOWN));
        for text in ["", "chown", "+", "+nothing", "+chown:"] {
            assert!(text.parse::<Changes>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_needed_cannot_be_dropped() {
        let changes = |text: &str| Some(text.parse().expect("changes"));
        let kept = Kept::new(false, changes("-dac_read_search:-mknod")).expect("kept");
        assert_eq!(kept.set, SERVING - CapabilitySet::MKNOD);
        assert!(Kept::new(true, changes("-dac_read_search")).is_err());
        let kept = Kept::new(true, changes("+sys_admin")).expect("kept");
        assert_eq!(kept.set, SERVING | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_ADMIN);
    }
}
