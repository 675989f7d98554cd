//! Who runs this: capabilities, namespaces, limits.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::report::{Check, Evidence, Limit};

/// What the process may do, as `/proc/self/status` and the namespace say.
#[derive(Clone, Debug)]
pub struct User {
    /// Effective user.
    pub uid: u32,
    effective: u64,
    /// Whether this is the machine's own user namespace; capabilities in another one count for little.
    pub initial_namespace: bool,
    /// Set-user-id programs such as `fusermount3` have no effect.
    pub no_new_privileges: bool,
}

/// A capability by its number in `capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    number: u32,
    name: &'static str,
    key: &'static str,
    purpose: &'static str,
}

/// Mounting without help, and much else.
pub const SYS_ADMIN: Capability = Capability {
    number: 21,
    name: "CAP_SYS_ADMIN",
    key: "cap.sys_admin",
    purpose: "mount without fusermount3, passthrough of file data, trusted.* attributes, watching a filesystem",
};
/// Opening files by handle.
pub const DAC_READ_SEARCH: Capability = Capability {
    number: 2,
    name: "CAP_DAC_READ_SEARCH",
    key: "cap.dac_read_search",
    purpose: "remember files by handle instead of keeping each of them open",
};
const DAC_OVERRIDE: Capability = Capability {
    number: 1,
    name: "CAP_DAC_OVERRIDE",
    key: "cap.dac_override",
    purpose: "reach files of every user on their behalf",
};
const CHOWN: Capability =
    Capability { number: 0, name: "CAP_CHOWN", key: "cap.chown", purpose: "pass chown on to the directory" };
const FOWNER: Capability = Capability {
    number: 3,
    name: "CAP_FOWNER",
    key: "cap.fowner",
    purpose: "change modes, times and ACLs of files of other users on their behalf",
};
const FSETID: Capability = Capability {
    number: 4,
    name: "CAP_FSETID",
    key: "cap.fsetid",
    purpose: "keep set-user-id and set-group-id bits exactly as the caller's rights say",
};
const SETUID: Capability = Capability {
    number: 7,
    name: "CAP_SETUID",
    key: "cap.setuid",
    purpose: "create files as the user who asks for it",
};
const SETGID: Capability = Capability {
    number: 6,
    name: "CAP_SETGID",
    key: "cap.setgid",
    purpose: "create files with the group and the supplementary groups of who asks for it",
};
const MKNOD: Capability =
    Capability { number: 27, name: "CAP_MKNOD", key: "cap.mknod", purpose: "create device nodes" };
const SETFCAP: Capability = Capability {
    number: 31,
    name: "CAP_SETFCAP",
    key: "cap.setfcap",
    purpose: "set file capabilities (security.capability)",
};
const SYS_RESOURCE: Capability = Capability {
    number: 24,
    name: "CAP_SYS_RESOURCE",
    key: "cap.sys_resource",
    purpose: "raise hard limits, such as that of open files",
};
const SYS_NICE: Capability = Capability {
    number: 23,
    name: "CAP_SYS_NICE",
    key: "cap.sys_nice",
    purpose: "serve on the callers' CPUs, stepping aside for others there (--placement)",
};
const BPF: Capability = Capability {
    number: 39,
    name: "CAP_BPF",
    key: "cap.bpf",
    purpose: "load BPF programs without being root",
};

const ALL: [Capability; 13] = [
    SYS_ADMIN,
    DAC_READ_SEARCH,
    DAC_OVERRIDE,
    CHOWN,
    FOWNER,
    FSETID,
    SETUID,
    SETGID,
    MKNOD,
    SETFCAP,
    SYS_RESOURCE,
    SYS_NICE,
    BPF,
];

impl User {
    /// This process.
    pub fn current() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let fields: BTreeMap<&str, &str> = status
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, text)| (key, text.trim()))
            .collect();
        let effective = fields.get("CapEff").and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
        Self {
            uid: rustix::process::geteuid().as_raw(),
            effective,
            initial_namespace: fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| is_identity(&map)),
            no_new_privileges: fields.get("NoNewPrivs") == Some(&"1"),
        }
    }

    /// Whether it has `capability`, in whatever namespace.
    pub fn has(&self, capability: Capability) -> bool {
        self.effective & 1 << capability.number != 0
    }

    /// Whether it has BPF rights.
    pub fn may_use_bpf(&self) -> bool {
        self.initial_namespace && (self.has(BPF) || self.has(SYS_ADMIN))
    }

    /// One check for each capability that matters here.
    pub fn checks(&self) -> Vec<Check> {
        let mut checks: Vec<_> = ALL.into_iter().map(|capability| self.check(capability)).collect();
        let title = "capabilities count for the whole machine (initial user namespace)";
        checks.push(if self.initial_namespace {
            Check::yes("user.initial_namespace", title, Evidence::Read)
        } else {
            let reason = "this is another user namespace, as in a container without root of the host";
            Check::no("user.initial_namespace", title, Evidence::Read, reason)
                .remedy("run it outside of the container or namespace")
        });
        checks
    }

    fn check(&self, capability: Capability) -> Check {
        let title = format!("{}: {}", capability.name, capability.purpose);
        if self.has(capability) {
            return Check::yes(capability.key, &title, Evidence::Read);
        }
        let reason = if self.uid == 0 { "it was taken from this root" } else { "this user is not root" };
        let remedy = if self.uid == 0 {
            "give it to the service (CapabilityBoundingSet=) or container (--cap-add)"
        } else {
            "run it as root, or in a service with AmbientCapabilities="
        };
        Check::no(capability.key, &title, Evidence::Read, reason).remedy(remedy)
    }
}

/// Whether a namespace's map of user numbers covers all of them, each as itself.
fn is_identity(map: &str) -> bool {
    let words: Vec<_> = map.split_ascii_whitespace().collect();
    words == ["0", "0", "4294967295"]
}

/// The numbers that bound a mount of this user.
pub fn limits(max_pages: u64) -> Vec<Limit> {
    let files = getrlimit(Resource::Nofile);
    let memory = getrlimit(Resource::Memlock);
    let mut limits = vec![
        Limit {
            key: "max_pages",
            title: "pages in one request (fs.fuse.max_pages_limit)".into(),
            value: Some(max_pages),
            detail: "more, up to 65535: sysctl fs.fuse.max_pages_limit=N (Linux 6.13)".into(),
        },
        Limit {
            key: "max_write",
            title: "bytes in one write request, which follows from it".into(),
            value: Some(max_pages * rustix::param::page_size() as u64),
            detail: String::new(),
        },
        Limit {
            key: "nofile_soft",
            title: "open files, soft limit; mounting raises it to the hard one".into(),
            value: files.current,
            detail: String::new(),
        },
        Limit {
            key: "nofile_hard",
            title: "open files, hard limit".into(),
            value: files.maximum,
            detail: "more: LimitNOFILE= of the service, or ulimit -Hn as root; see also fs.nr_open".into(),
        },
        Limit {
            key: "memlock_soft",
            title: "bytes of locked memory, soft limit".into(),
            value: memory.current,
            detail: "without CAP_IPC_LOCK, a thread of the ring takes 20480 of it, those that stand in for stuck ones, too; \
                     more: LimitMEMLOCK= of the service, or ulimit -l"
                .into(),
        },
    ];
    let parameters = [
        (
            "max_user_background",
            "/sys/module/fuse/parameters/max_user_bgreq",
            "background requests that a mount of an ordinary user may have (max_user_bgreq)",
        ),
        ("mount_max", "/proc/sys/fs/mount-max", "mounts in one mount namespace (fs.mount-max)"),
        (
            "default_request_timeout",
            "/proc/sys/fs/fuse/default_request_timeout",
            "seconds until a request that is not answered aborts a mount; 0: never (fs.fuse.default_request_timeout)",
        ),
        (
            "max_request_timeout",
            "/proc/sys/fs/fuse/max_request_timeout",
            "the longest such time a mount may ask for; 0: any (fs.fuse.max_request_timeout)",
        ),
    ];
    for (key, path, title) in parameters {
        if let Some(value) = number(path) {
            limits.push(Limit { key, title: title.into(), value: Some(value), detail: String::new() });
        }
    }
    limits
}

/// A number in a file of `/proc/sys` or `/sys`.
pub fn number(path: impl AsRef<Path>) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_told_by_their_map() {
        assert!(is_identity("         0          0 4294967295\n"));
        assert!(!is_identity("         0       1000          1\n"));
        assert!(!is_identity("0 0 65536"));
        assert!(!is_identity(""));
    }

    #[test]
    fn missing_capabilities_come_with_a_remedy() {
        let user = User { uid: 1000, effective: 1 << 27, initial_namespace: true, no_new_privileges: false };
        assert!(user.has(MKNOD) && !user.has(SYS_ADMIN) && !user.may_use_bpf());
        let checks = user.checks();
        let check = checks.iter().find(|check| check.key == "cap.sys_admin").expect("listed");
        assert!(check.remedy.as_ref().is_some_and(|remedy| remedy.contains("AmbientCapabilities=")));
    }
}
