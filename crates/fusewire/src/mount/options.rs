//! What to mount with, and how users write it down.

use super::error::MountError;

/// Shortest `max_read` the kernel honours, in bytes; `fuse_fill_super_common` raises anything smaller to this.
const MIN_MAX_READ: u32 = 4096;

/// Longest string that `fsconfig(2)` takes as a value, in bytes.
pub(super) const MAX_VALUE: usize = 255;

/// What to mount with.
///
/// The default is what `mount(8)` calls `defaults`: read-write, set-user-id programs and device nodes honoured,
/// accessible to the mounting user only. When an ordinary user mounts, `fusermount3` always adds `nosuid` and
/// `nodev`; nothing here can take them off again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// What the mount shows as its source in `/proc/mounts` and `df`; `fusewire` if not given.
    pub fsname: Option<String>,
    /// The part after `fuse.` in the type that `/proc/mounts` shows; `fusewire` if not given.
    pub subtype: Option<String>,
    /// No changes through this mount (`ro`).
    pub read_only: bool,
    /// Other users may use the mount too. Combine it with `default_permissions` unless the filesystem checks
    /// permissions itself. Ordinary users need `user_allow_other` in `/etc/fuse.conf` for it.
    pub allow_other: bool,
    /// The kernel checks permission bits before it sends a request.
    pub default_permissions: bool,
    /// Ignore set-user-id bits and file capabilities.
    pub nosuid: bool,
    /// Ignore device nodes.
    pub nodev: bool,
    /// Refuse to execute programs.
    pub noexec: bool,
    /// Never update access times.
    pub noatime: bool,
    /// Never update access times of directories.
    pub nodiratime: bool,
    /// Update access times on every access, instead of the default `relatime`.
    pub strictatime: bool,
    /// Keep time stamps in memory for a while before they are written.
    pub lazytime: bool,
    /// Do not follow symbolic links inside the mount (Linux 5.14).
    pub nosymfollow: bool,
    /// Changes of directories are synchronous.
    pub dirsync: bool,
    /// All writes are synchronous (`sync`).
    pub sync: bool,
    /// Longest READ request in bytes; none leaves it to the kernel.
    pub max_read: Option<u32>,
    /// When this process dies, by whatever means, the mount goes away.
    pub auto_unmount: bool,
}

impl MountOptions {
    /// Reads one comma separated `-o` list as `mount(8)` hands it to a helper, on top of what is set already.
    ///
    /// A backslash takes the meaning from the comma or backslash after it. What concerns only `mount(8)` and
    /// fstab (`defaults`, `_netdev`, `nofail`, `user`, `auto`, `x-...`) is accepted and has no effect. Options not
    /// known here are returned in their order, unescaped: they are the filesystem's own, or mistakes.
    ///
    /// # Errors
    /// [`MountError::Option`] if a known option lacks its value, has a wrong one, or cannot be supported.
    pub fn parse(&mut self, list: &str) -> Result<Vec<String>, MountError> {
        let mut unknown = Vec::new();
        for option in split(list) {
            let known = match option.split_once('=') {
                Some((key, value)) => self.set_value(key, value, &option)?,
                None => self.set_flag(&option)? || is_for_mount(&option),
            };
            if !known {
                unknown.push(option);
            }
        }
        Ok(unknown)
    }

    /// What the mount shows as its source.
    pub fn source(&self) -> &str {
        self.fsname.as_deref().filter(|name| !name.is_empty()).unwrap_or("fusewire")
    }

    /// The part after `fuse.` in the type that the mount shows.
    pub fn subtype(&self) -> &str {
        self.subtype.as_deref().filter(|name| !name.is_empty()).unwrap_or("fusewire")
    }

    fn set_flag(&mut self, option: &str) -> Result<bool, MountError> {
        let (field, value) = match option {
            "ro" => (&mut self.read_only, true),
            "rw" => (&mut self.read_only, false),
            "allow_other" => (&mut self.allow_other, true),
            "default_permissions" => (&mut self.default_permissions, true),
            "auto_unmount" => (&mut self.auto_unmount, true),
            "nosuid" => (&mut self.nosuid, true),
            "suid" => (&mut self.nosuid, false),
            "nodev" => (&mut self.nodev, true),
            "dev" => (&mut self.nodev, false),
            "noexec" => (&mut self.noexec, true),
            "exec" => (&mut self.noexec, false),
            "noatime" => (&mut self.noatime, true),
            "atime" => (&mut self.noatime, false),
            "nodiratime" => (&mut self.nodiratime, true),
            "diratime" => (&mut self.nodiratime, false),
            "strictatime" => (&mut self.strictatime, true),
            "nostrictatime" | "relatime" => (&mut self.strictatime, false),
            "lazytime" => (&mut self.lazytime, true),
            "nolazytime" => (&mut self.lazytime, false),
            "nosymfollow" => (&mut self.nosymfollow, true),
            "symfollow" => (&mut self.nosymfollow, false),
            "dirsync" => (&mut self.dirsync, true),
            "sync" => (&mut self.sync, true),
            "async" => (&mut self.sync, false),
            "allow_root" => {
                let reason = "the kernel knows only allow_other; use allow_other,default_permissions";
                return Err(MountError::option(option, reason));
            }
            "remount" | "bind" | "rbind" | "move" => {
                let reason = "what was said when it was mounted stays; what the kernel itself keeps to (ro, nosuid, ...) is changed \
                              by mount -i -o remount,... MNT, without the helper";
                return Err(MountError::option(option, reason));
            }
            "fsname" | "subtype" | "max_read" => {
                return Err(MountError::option(option, &format!("it needs a value: {option}=...")));
            }
            _ => return Ok(false),
        };
        *field = value;
        Ok(true)
    }

    fn set_value(&mut self, key: &str, value: &str, option: &str) -> Result<bool, MountError> {
        match key {
            "fsname" | "subtype" if value.is_empty() => {
                return Err(MountError::option(
                    option,
                    &format!("the value is empty; give one, {key}=NAME, or leave the option out"),
                ));
            }
            "fsname" => self.fsname = Some(value.to_owned()),
            "subtype" => self.subtype = Some(value.to_owned()),
            "max_read" => self.max_read = parse_max_read(value, option)?,
            "fd" | "rootmode" | "user_id" | "group_id" => {
                return Err(MountError::option(
                    option,
                    "it is chosen while mounting and cannot be given; leave it out",
                ));
            }
            _ => return Ok(is_for_mount(option)),
        }
        Ok(true)
    }

    /// Refuses what no way of mounting could carry out.
    pub(super) fn check(&self) -> Result<(), MountError> {
        for (key, value) in [("fsname", self.source()), ("subtype", self.subtype())] {
            // A line break is no harm: the kernel writes it as four characters into its tables, as it does for paths.
            if value.contains('\0') {
                let reason = "the value contains a NUL, which no mount option can hold; give it without";
                return Err(MountError::option(&format!("{key}={}", value.escape_debug()), reason));
            }
        }
        if self.subtype().len() > MAX_VALUE {
            return Err(MountError::option(
                "subtype",
                &format!("it is longer than {MAX_VALUE} bytes; give a shorter one"),
            ));
        }
        match self.max_read {
            Some(bytes) if bytes < MIN_MAX_READ => {
                Err(MountError::option(&format!("max_read={bytes}"), &too_small()))
            }
            _ => Ok(()),
        }
    }
}

fn too_small() -> String {
    format!("the kernel reads at least {MIN_MAX_READ} bytes at once; give a larger number, or none")
}

/// `max_read=0` has always meant "no limit" to FUSE users.
fn parse_max_read(value: &str, option: &str) -> Result<Option<u32>, MountError> {
    match value.parse::<u32>() {
        Ok(0) => Ok(None),
        Ok(bytes) if bytes >= MIN_MAX_READ => Ok(Some(bytes)),
        Ok(_) => Err(MountError::option(option, &too_small())),
        Err(_) => Err(MountError::option(option, "the value must be a number of bytes, such as 131072")),
    }
}

/// Options that mean something to `mount(8)`, fstab or systemd and nothing to the kernel.
fn is_for_mount(option: &str) -> bool {
    let key = option.split_once('=').map_or(option, |(key, _)| key);
    matches!(
        key,
        "defaults"
            | "_netdev"
            | "nofail"
            | "fail"
            | "user"
            | "nouser"
            | "users"
            | "nousers"
            | "owner"
            | "noowner"
            | "group"
            | "nogroup"
            | "auto"
            | "noauto"
            | "comment"
            | "helper"
            | "uhelper"
            | "loud"
            | "silent"
            | "mand"
            | "nomand"
            | "iversion"
            | "noiversion"
            | "norelatime"
    ) || key.starts_with("x-")
        || key.starts_with("X-")
}

/// Splits at commas that no backslash protects, and takes the backslashes out. Empty pieces are dropped.
fn split(list: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut letters = list.chars();
    while let Some(letter) = letters.next() {
        let letter = match letter {
            ',' => {
                pieces.push(String::new());
                continue;
            }
            '\\' => letters.next().unwrap_or('\\'),
            other => other,
        };
        if let Some(piece) = pieces.last_mut() {
            piece.push(letter);
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// Puts a backslash before what would end a value in an option list.
pub(super) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> (MountOptions, Vec<String>) {
        let mut options = MountOptions::default();
        let unknown = options.parse(list).expect("parses");
        (options, unknown)
    }

    fn refusal(list: &str) -> String {
        MountOptions::default().parse(list).expect_err("must be refused").to_string()
    }

    #[test]
    fn known_options_set_fields_and_the_last_one_wins() {
        let (options, unknown) =
            parsed("ro,allow_other,noexec,nosuid,max_read=65536,suid,auto_unmount,sync,async");
        assert!(options.read_only && options.allow_other && options.noexec && options.auto_unmount);
        assert!(!options.nosuid && !options.sync && !options.nodev);
        assert_eq!(options.max_read, Some(65536));
        assert!(unknown.is_empty());
        assert!(!parsed("ro,rw").0.read_only);
    }

    #[test]
    fn what_fstab_adds_has_no_effect() {
        let list = "rw,defaults,_netdev,nofail,user,user=joe,auto,noauto,x-systemd.automount,x-gvfs-name=A,comment=b,";
        assert_eq!(parsed(list), (MountOptions::default(), Vec::new()));
    }

    #[test]
    fn unknown_options_come_back_in_order() {
        let (options, unknown) = parsed("cache=auto,ro,frobnicate,a=b\\,c");
        assert!(options.read_only);
        assert_eq!(unknown, ["cache=auto", "frobnicate", "a=b,c"]);
    }

    #[test]
    fn values_may_hold_commas_and_backslashes() {
        let name = r"a,b\c=d";
        let (options, unknown) = parsed(&format!("fsname={},subtype=x.y", escape(name)));
        assert_eq!((options.source(), options.subtype()), (name, "x.y"));
        assert!(unknown.is_empty());
        assert_eq!(MountOptions::default().source(), "fusewire");
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for list in
            ["max_read=4k", "max_read=-1", "max_read=100", "max_read", "fsname=", "subtype", "rootmode=40000"]
        {
            assert!(refusal(list).contains(list), "{list}: {}", refusal(list));
        }
        assert!(refusal("allow_root").contains("allow_other,default_permissions"));
        assert!(refusal("ro,remount").contains("`remount`"));
        assert_eq!(parsed("max_read=0").0.max_read, None);
    }

    #[test]
    fn fields_set_by_hand_are_checked_too() {
        let refused = |options: MountOptions| options.check().expect_err("must be refused").to_string();
        assert!(refused(MountOptions { fsname: Some("a\0b".into()), ..Default::default() }).contains("NUL"));
        assert!(
            refused(MountOptions { subtype: Some("s".repeat(256)), ..Default::default() }).contains("255")
        );
        assert!(refused(MountOptions { max_read: Some(1), ..Default::default() }).contains("4096"));
        assert!(MountOptions::default().check().is_ok());
    }
}
