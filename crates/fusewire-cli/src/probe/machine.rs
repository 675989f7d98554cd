//! What the kernel and the configuration of the machine allow.

use std::env;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use fusewire::mount::MountError;
use fusewire_abi::InitFlags;
use fusewire_bpf::{Guard, Scope};
use rustix::io::Errno;
use rustix::mount::FsOpenFlags;

use super::offer::{self, Offer};
use super::report::{Check, Evidence};
use super::sys;
use super::user::{self, SYS_ADMIN, User};

/// Where fusermount3 reads what ordinary users may do.
const CONFIGURATION: &str = "/etc/fuse.conf";

/// How to mount, and who may.
pub fn mounting(user: &User) -> Vec<Check> {
    let mut checks = vec![device(), direct(user), fusermount(user), allow_other()];
    checks.extend([new_api(), sync_init(), from_mount8()]);
    checks
}

fn device() -> Check {
    let (key, title) = ("device", "open /dev/fuse");
    if let Err(MountError::NotDevice { kind }) = fusewire::mount::open_device() {
        let remedy = "rm -r /dev/fuse && mknod -m 666 /dev/fuse c 10 229, as root; for a container: --device /dev/fuse";
        return Check::no(key, title, Evidence::Tried, format!("it is {kind}")).remedy(remedy);
    }
    let Err(error) = offer::open_device() else { return Check::yes(key, title, Evidence::Tried) };
    let check = Check::no(key, title, Evidence::Tried, error.to_string());
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            check.remedy("modprobe fuse; for a container: --device /dev/fuse")
        }
        Some(libc::EPERM) => check.remedy("start the container with --device /dev/fuse"),
        _ => check.remedy("chmod 0666 /dev/fuse, its usual mode"),
    }
}

fn direct(user: &User) -> Check {
    let (key, title) = ("mount.direct", "mount without fusermount3");
    if !user.has(SYS_ADMIN) {
        return Check::no(key, title, Evidence::Read, "CAP_SYS_ADMIN is missing")
            .remedy("run as root, or use fusermount3");
    }
    match rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::PERM) => {
            Check::no(key, title, Evidence::Tried, "CAP_SYS_ADMIN does not count in this mount namespace")
                .remedy("a mount namespace of its own: unshare --user --map-root-user --mount")
        }
        _ => Check::yes(key, title, Evidence::Read),
    }
}

fn fusermount(user: &User) -> Check {
    let (key, title) = ("mount.fusermount", "mount as an ordinary user, through fusermount3");
    let Some(program) = in_path("fusermount3") else {
        return Check::no(key, title, Evidence::Read, "there is no fusermount3 in PATH")
            .remedy("apt install fuse3");
    };
    let shown = program.display().to_string();
    let metadata = fs::metadata(&program).ok();
    let is_privileged = metadata.is_some_and(|metadata| {
        std::os::unix::fs::MetadataExt::uid(&metadata) == 0 && metadata.permissions().mode() & 0o4000 != 0
    });
    if !is_privileged {
        return Check::no(key, title, Evidence::Read, format!("{shown} is not set-user-id root"))
            .remedy(format!("chown root {shown} && chmod u+s {shown}"));
    }
    if user.no_new_privileges {
        let reason = "this process has no_new_privs set, so set-user-id programs have no effect";
        return Check::no(key, title, Evidence::Read, reason).remedy(
            "NoNewPrivileges=no in the service; without --security-opt no-new-privileges in a container",
        );
    }
    Check::yes(key, title, Evidence::Read).because(shown)
}

/// The first executable of that name in `PATH`.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| {
        fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

fn allow_other() -> Check {
    let (key, title) = ("mount.allow_other", "let others use the mounts of ordinary users (allow_other)");
    let text = fs::read_to_string(CONFIGURATION).unwrap_or_default();
    if text.lines().any(|line| line.trim() == "user_allow_other") {
        return Check::yes(key, title, Evidence::Read);
    }
    Check::no(key, title, Evidence::Read, format!("{CONFIGURATION} has no line user_allow_other"))
        .remedy(format!("echo user_allow_other >> {CONFIGURATION}, as root"))
}

fn new_api() -> Check {
    let (key, title) = ("mount.new_api", "the new mount interface (fsopen)");
    match rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Check::yes(key, title, Evidence::Tried),
        Err(Errno::NOSYS) => Check::no(key, title, Evidence::Tried, "this kernel does not have it")
            .remedy("Linux 5.2 or newer; without it mount(2) is used"),
        Err(Errno::PERM) => Check::unknown(key, title, Evidence::Tried, "only root may use it"),
        Err(error) => Check::no(key, title, Evidence::Tried, io::Error::from(error).to_string()),
    }
}

fn sync_init() -> Check {
    let (key, title) =
        ("mount.sync_init", "mounting that waits until the filesystem answers (synchronous INIT)");
    match offer::open_device().and_then(|device| sys::sync_init(device.as_fd())) {
        Ok(()) => Check::yes(key, title, Evidence::Tried),
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
            Check::no(key, title, Evidence::Tried, "this kernel does not have it")
                .remedy("Linux 6.18 or newer")
        }
        Err(error) => Check::unknown(key, title, Evidence::Tried, format!("/dev/fuse: {error}")),
    }
}

fn from_mount8() -> Check {
    let (key, title) = ("mount.helper", "mount -t fuse.fusewire and fstab");
    let link = PathBuf::from("/sbin").join(crate::mount8::PROGRAM);
    if fs::metadata(&link).is_ok() {
        return Check::yes(key, title, Evidence::Read).because(format!("through {}", link.display()));
    }
    let reason = format!("{} does not exist", link.display());
    if fs::metadata("/sbin/mount.fuse").is_ok() && in_path("fusewire").is_some() {
        return Check::yes(key, title, Evidence::Read)
            .because(format!("through /sbin/mount.fuse, since {reason}"));
    }
    Check::no(key, title, Evidence::Read, reason).remedy("fusewire install-helper, as root")
}

/// What the kernel offers to a filesystem.
pub fn features(offer: Option<&Offer>, minor: u32, user: &User) -> Vec<Check> {
    let mut checks: Vec<_> = FEATURES.iter().map(|feature| feature.check(offer, minor)).collect();
    checks.extend([passthrough(offer, minor, user), idmap(offer, minor), bpf(user)]);
    checks
}

/// A feature that INIT announces and that needs nothing else.
struct Feature {
    key: &'static str,
    title: &'static str,
    flag: InitFlags,
    /// Protocol and kernel version it came with.
    minor: u32,
    since: &'static str,
}

macro_rules! feature {
    ($key:literal, $flag:ident, $minor:literal, $since:literal, $title:literal) => {
        Feature { key: $key, title: $title, flag: InitFlags::$flag, minor: $minor, since: $since }
    };
}

const FEATURES: [Feature; 17] = [
    feature!("parallel_dirops", PARALLEL_DIROPS, 25, "4.7", "lookups in one directory at the same time"),
    feature!(
        "readdirplus",
        DO_READDIRPLUS,
        21,
        "3.9",
        "attributes together with directory entries (readdirplus)"
    ),
    feature!("posix_acl", POSIX_ACL, 26, "4.9", "access control lists checked by the kernel"),
    feature!("cache_symlinks", CACHE_SYMLINKS, 28, "4.20", "symbolic links remembered by the kernel"),
    feature!("max_pages", MAX_PAGES, 28, "4.20", "requests of more than 128 KiB"),
    feature!(
        "explicit_inval",
        EXPLICIT_INVAL_DATA,
        30,
        "5.2",
        "cached data kept until the filesystem says otherwise"
    ),
    feature!(
        "killpriv_v2",
        HANDLE_KILLPRIV_V2,
        33,
        "5.11",
        "writes that do not ask for file capabilities each time"
    ),
    feature!("setxattr_ext", SETXATTR_EXT, 33, "5.13", "set-group-id cleared together with an ACL change"),
    feature!("security_ctx", SECURITY_CTX, 36, "5.17", "security labels given at creation"),
    feature!("expire_only", HAS_EXPIRE_ONLY, 38, "6.2", "names expired without disturbing mounts below them"),
    feature!("supp_group", CREATE_SUPP_GROUP, 38, "6.3", "the parent's group sent with creations"),
    feature!("direct_io_mmap", DIRECT_IO_ALLOW_MMAP, 39, "6.6", "shared mappings of files without cache"),
    feature!("no_export", NO_EXPORT_SUPPORT, 40, "6.9", "refusing NFS export where handles would not last"),
    feature!("resend", HAS_RESEND, 40, "6.9", "requests sent again to a daemon that was restarted"),
    feature!("request_timeout", REQUEST_TIMEOUT, 43, "6.15", "requests that time out"),
    feature!("ring_buffer_pool", HAS_IO_URING_BUFPOOL, 46, "7.3", "buffer pools for FUSE over io_uring"),
    feature!("writeback", WRITEBACK_CACHE, 23, "3.15", "writes gathered by the kernel (writeback cache)"),
];

impl Feature {
    fn check(&self, offer: Option<&Offer>, minor: u32) -> Check {
        let (present, evidence) = match offer {
            Some(offer) => (offer.has(self.flag), Evidence::Tried),
            None => (minor >= self.minor, Evidence::Inferred),
        };
        if present {
            return Check::yes(self.key, self.title, evidence);
        }
        let check = Check::no(self.key, self.title, evidence, "the kernel does not offer it");
        // A kernel that is new enough and still does not offer it was built or configured without.
        if minor < self.minor { check.remedy(format!("Linux {} or newer", self.since)) } else { check }
    }
}

fn passthrough(offer: Option<&Offer>, minor: u32, user: &User) -> Check {
    let (key, title) = ("passthrough", "file data read and written by the kernel itself (passthrough)");
    let (offered, evidence) = match offer {
        Some(offer) => (offer.has(InitFlags::PASSTHROUGH), Evidence::Tried),
        None => (minor >= 40, Evidence::Inferred),
    };
    if !offered {
        return Check::no(key, title, evidence, "the kernel does not offer it")
            .remedy("Linux 6.9 or newer with CONFIG_FUSE_PASSTHROUGH=y");
    }
    if !user.has(SYS_ADMIN) || !user.initial_namespace {
        let reason = "the kernel has it, and only CAP_SYS_ADMIN of the whole machine may use it";
        return Check::no(key, title, Evidence::Read, reason).remedy("run fusewire mount as root");
    }
    match offer.and_then(|offer| offer.backing) {
        Some(0) => Check::yes(key, title, Evidence::Tried),
        Some(error) => Check::no(
            key,
            title,
            Evidence::Tried,
            format!("registering a file failed: {}", io::Error::from_raw_os_error(error)),
        )
        .remedy("a kernel and a security policy that allow FUSE_DEV_IOC_BACKING_OPEN"),
        None => Check::yes(key, title, Evidence::Inferred),
    }
}

fn idmap(offer: Option<&Offer>, minor: u32) -> Check {
    let (key, title) = ("idmap", "the mount can be mapped to other user numbers (idmapped mounts)");
    let (offered, evidence) = match offer {
        Some(offer) => (offer.has(InitFlags::ALLOW_IDMAP), Evidence::Tried),
        None => (minor >= 41, Evidence::Inferred),
    };
    if offered {
        return Check::yes(key, title, evidence).because("needs default_permissions");
    }
    Check::no(key, title, evidence, "the kernel does not offer it").remedy("Linux 6.12 or newer")
}

/// By a trial: that the module is in the list does not mean that the kernel takes its programs.
fn bpf(user: &User) -> Check {
    let (key, title) =
        ("bpf_lsm", "the kernel says again who may not and what is absent (BPF LSM, --kernel-answers)");
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let modules = modules.trim();
    if modules.is_empty() {
        return Check::unknown(key, title, Evidence::Read, "/sys/kernel/security/lsm cannot be read")
            .remedy("mount -t securityfs none /sys/kernel/security, as root");
    }
    if !modules.split(',').any(|module| module == "bpf") {
        return Check::no(key, title, Evidence::Read, format!("the kernel was started with lsm={modules}"))
            .remedy(format!("lsm={modules},bpf on the kernel's command line"));
    }
    if !user.may_use_bpf() {
        let reason = match user::number("/proc/sys/kernel/unprivileged_bpf_disabled") {
            Some(0) => "programs of this type need CAP_BPF or CAP_SYS_ADMIN",
            _ => "CAP_BPF is missing, and kernel.unprivileged_bpf_disabled is set",
        };
        return Check::no(key, title, Evidence::Read, reason).remedy("run as root");
    }
    match Guard::start(Scope::All) {
        Ok(_) => Check::yes(key, title, Evidence::Tried)
            .because("programs were attached, tried on a file, and taken away"),
        Err(refused) => {
            let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
            let lockdown = lockdown.split(['[', ']']).nth(1).unwrap_or("none");
            let reason = format!(
                "bpf is among {modules}, but {refused} (lockdown is {lockdown}); requests answer instead"
            );
            Check::no(key, title, Evidence::Tried, reason).remedy(refused.remedy())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(flags: InitFlags) -> Offer {
        Offer { major: 7, minor: 45, flags: flags.bits(), max_readahead: 0, backing: None }
    }

    #[test]
    fn an_offer_outweighs_the_version() {
        let checks = features(Some(&offer(InitFlags::PARALLEL_DIROPS)), 45, &User::current());
        let find = |key| checks.iter().find(|check| check.key == key).expect("listed");
        assert_eq!(find("parallel_dirops").verdict, super::super::report::Verdict::Yes);
        assert_eq!(find("posix_acl").verdict, super::super::report::Verdict::No);
        assert_eq!(find("posix_acl").remedy, None, "a newer kernel would not help");
        assert!(find("ring_buffer_pool").remedy.as_ref().is_some_and(|remedy| remedy.contains("7.3")));
    }

    #[test]
    fn without_an_offer_the_version_decides() {
        let checks = features(None, 36, &User::current());
        let find = |key| checks.iter().find(|check| check.key == key).expect("listed");
        assert_eq!(find("security_ctx").verdict, super::super::report::Verdict::Yes);
        assert_eq!(find("security_ctx").evidence, Evidence::Inferred);
        assert!(find("idmap").remedy.as_ref().is_some_and(|remedy| remedy.contains("6.12")));
    }
}
