//! A directory in a guest: `fusewire vhost` here, User Mode Linux there. It boots in a second and needs no processor that lets
//! itself be virtualised.

use super::{
    device::{self, Device},
    image::{self, Program},
    machine,
    packages::{Store, Uml, Unavailable},
    pair, writeback,
};
use crate::run;
use anyhow::{Result, bail};
use std::{fs, path::Path, process::Command, time::Instant};

/// What one guest does. `/other` is a filesystem of its own.
const JOB: &str = "\
mount -t virtiofs share /mnt || exit 1
mkdir -p /other && mount -t tmpfs other /other
mount -t tmpfs tmp /root
status=0
fusewire-posix --quiet SKIPPED /mnt || status=1
if [ -e /usr/bin/pjdfstest ]; then
    mkdir /mnt/pjdfstest && pjdfstest -c /pjdfstest.toml -p /mnt/pjdfstest -s /other > /tmp/pjdfstest.log 2>&1 || {
        grep -v -e ' ok$' -e skipped -e 'not allowed in the conf' /tmp/pjdfstest.log | tail -n 100; status=1; }
    tail -n 1 /tmp/pjdfstest.log
fi
if [ -e /usr/bin/fsx ]; then
    fsx -f /fsx.toml -P /tmp -N OPERATIONS -S 1 /mnt/fsx > /tmp/fsx.log 2>&1 || { tail -n 50 /tmp/fsx.log; status=1; }
    tail -n 1 /tmp/fsx.log
fi
rm -rf /mnt/* && umount /mnt || status=1
exit $status";

/// Cases of the POSIX suite that ask for what this guest is not, whatever it mounts.
pub const SKIPPED: [(&str, &str); 2] = [
    (
        "times-of-a-new-file",
        "User Mode Linux has no clock that needs no system call, and the suite dies of that",
    ),
    ("times-btime", "User Mode Linux has no clock that needs no system call, and the suite dies of that"),
];

/// As the black-box tests have them.
pub const FSX: &str = include_str!("../../../tests/src/fsx.toml");
const PJDFSTEST: &str = include_str!("../../../tests/src/pjdfstest.toml");

/// Caching profiles that the suites run with, all in `--virtio --all`.
const CACHES: [&str; 4] = ["never", "auto", "always", "shared"];

/// Operations of fsx in the long form.
const OPERATIONS: u32 = 50_000;

/// When to give up with a guest, seconds: on a machine with other work it takes three times as long as alone.
pub const LIMIT: u64 = 1_200;

/// `cargo xtask guest --virtio`.
pub fn run(words: &[&str]) -> Result<()> {
    if let Some(at) = words.iter().position(|word| *word == "--") {
        return perform(&kit()?, &words[..at], &words[at + 1..].join(" "));
    }
    match words {
        [] => {
            let kit = kit()?;
            suites(&kit, &["auto"], 5_000)?;
            pair::run(&kit)
        }
        ["--two"] => pair::run(&kit()?),
        ["--writeback"] => writeback::run(&kit()?, 20_000),
        ["--all"] => {
            let kit = kit()?;
            suites(&kit, &CACHES, OPERATIONS)?;
            writeback::run(&kit, OPERATIONS)?;
            pair::run(&kit)
        }
        ["--all", caches @ ..] if caches.iter().all(|cache| CACHES.contains(cache)) => {
            suites(&kit()?, caches, OPERATIONS)
        }
        _ => bail!(
            "unknown words {words:?}: there are --two, --writeback and --all, with --cache's {CACHES:?} behind it"
        ),
    }
}

/// One guest after the other, with each of these caching profiles; fsx with so many operations.
fn suites(kit: &Kit, caches: &[&str], operations: u32) -> Result<()> {
    let mut programs = device::programs()?;
    programs.extend(kit.modules()?);
    let skipped: Vec<_> = SKIPPED.iter().map(|(case, why)| format!("--skip '{case}={why}'")).collect();
    let job = JOB.replace("OPERATIONS", &operations.to_string()).replace("SKIPPED", &skipped.join(" "));
    let pjdfstest = PJDFSTEST.replace("ALLOW_REMOUNT", "false");
    let script =
        format!("cat > /fsx.toml <<'END'\n{FSX}END\ncat > /pjdfstest.toml <<'END'\n{pjdfstest}END\n{job}");
    let initrd = image::build(&kit.store, &programs, &script)?;
    for &cache in caches {
        let start = Instant::now();
        let share = kit.store.dir().join("share");
        _ = fs::remove_dir_all(&share);
        let device = Device::start(&share, &["sock"], &[cache])?;
        eprintln!("xtask: User Mode Linux, --cache {cache}");
        machine::watch(&mut kit.uml(&initrd, Some(&device.sockets[0]), "")?, LIMIT, |_| {})?;
        device.end()?;
        eprintln!("xtask: guest: --cache {cache}: done in {} s", start.elapsed().as_secs());
    }
    Ok(())
}

/// A command of the shell in one guest, with the directory on `/mnt`.
fn perform(kit: &Kit, profile: &[&str], command: &str) -> Result<()> {
    let mut programs = device::programs()?;
    programs.extend(kit.modules()?);
    let script = format!("mount -t virtiofs share /mnt || exit 1\nmount -t tmpfs tmp /root\n{command}");
    let initrd = image::build(&kit.store, &programs, &script)?;
    let share = kit.store.dir().join("share");
    _ = fs::remove_dir_all(&share);
    let device = Device::start(&share, &["sock"], if profile.is_empty() { &["auto"] } else { profile })?;
    machine::watch(&mut kit.uml(&initrd, Some(&device.sockets[0]), "")?, 600, |_| {})?;
    device.end()
}

/// User Mode Linux, and what it is booted with.
pub struct Kit {
    /// Where the packages are.
    pub store: Store,
    uml: Uml,
}

/// What guests take.
///
/// # Errors
/// [`Unavailable`], if there can be none.
pub fn kit() -> Result<Kit> {
    if !run::is_root() {
        return Err(Unavailable::new("User Mode Linux gets its own libraries by a mount, as root").into());
    }
    let store = Store::open(&run::target_dir()?.join("guest"))?;
    let kit = Kit { uml: store.uml()?, store };
    // There are processors that it does not know how to save the registers of.
    let initrd = image::build(&kit.store, &[], "true")?;
    machine::watch(&mut kit.uml(&initrd, None, "")?, 60, |_| {}).map_err(|error| {
        Unavailable::new(format!("User Mode Linux does not run on this machine: {error:#}"))
    })?;
    Ok(kit)
}

impl Kit {
    /// What its kernel needs for virtio-fs.
    pub fn modules(&self) -> Result<Vec<Program>> {
        let module = |name| {
            let to = format!("modules/{name}.ko").into();
            Ok(Program { from: self.uml.module(name)?, to })
        };
        ["fuse", "virtiofs"].into_iter().map(module).collect()
    }

    /// The command that boots it, with the device at `socket` and one more word for its kernel.
    pub fn uml(&self, initrd: &Path, socket: Option<&Path>, word: &str) -> Result<Command> {
        let mut command = Command::new("unshare");
        // It finds its loader by a path that is the machine's own.
        let script = "lib=$1; bb=$2; shift 2; for f in ld-linux-x86-64.so.2 libc.so.6; do \
             $bb mount -o bind $lib/$f /lib/x86_64-linux-gnu/$f || exit 98; done; exec \"$@\"";
        command
            .args(["--mount", "--propagation", "private"])
            .arg(self.store.busybox()?)
            .args(["sh", "-c", script, "sh"]);
        command.arg(self.uml.libraries()).arg(self.store.busybox()?).arg(self.uml.program());
        command.arg("mem=1G").arg(format!("initrd={}", initrd.display()));
        if let Some(socket) = socket {
            command.arg(format!("virtio_uml.device={}:26", socket.display()));
        }
        command.args(["con=null", "con0=fd:0,fd:1", "seccomp=on", "quiet", word]);
        Ok(command)
    }
}
