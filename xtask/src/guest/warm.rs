//! A tree that is known already, in a guest whose kernel takes BPF security modules: what `ls -lR`, `find`, `grep -r` and `git status` take
//! where the kernel says by itself which attributes are absent.
//!
//! Everything that is measured is in the guest, on a tmpfs of its own: its directories, the mounts and their daemons, and the programs, which
//! are this machine's. Only the result comes out, through a directory that is shared with the guest.

use super::{
    bench::{Order, Place, RESULT},
    board::{Board, Plug},
    device::{self, Device, TAG},
    image::{self, Program},
    machine,
    packages::Store,
};
use crate::run;
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// The preset.
pub const PRESET: &str = "warm";

/// What is measured, unless targets are named. The names are those that the goals of the preset go by.
const TARGETS: [(&str, &str); 4] = [
    ("native", "native"),
    ("fusewire:cache=coherent", "fusewire:cache=coherent"),
    ("answers", "answers=fusewire:cache=coherent,kernel-answers=always"),
    (
        "answers-without-opens",
        "answers-without-opens=fusewire:cache=coherent,kernel-answers=always,locks=mount,opens=stateless",
    ),
];

/// Programs of this machine that the preset starts, and the shell that starts them: busybox would take its own.
const PROGRAMS: [(&str, &str); 6] =
    [("dash", "sh"), ("cp", "cp"), ("ls", "ls"), ("find", "find"), ("grep", "grep"), ("git", "git")];

/// What the guest does. The bench takes the guest for the namespace of its own that it asks for.
const JOB: &str = "\
mkdir -p /run /mnt/share
mount -t virtiofs TAG /mnt/share || { echo 'FAILED: mount'; exit 1; }
grep -q bpf /sys/kernel/security/lsm || { echo 'FAILED: there is no bpf among the security modules of this kernel'; exit 1; }
export FUSEWIRE_BENCH_NAMESPACE=1
fusewire-bench run WORDS --json /tmp/RESULT > /tmp/tables 2> /tmp/errors
status=$?
[ $status = 0 ] || { tr '\\r' '\\n' < /tmp/errors | grep -v ' (eta ' | tail -n 20; grep failed /tmp/tables; }
[ ! -e /tmp/RESULT ] || cp /tmp/RESULT /mnt/share/RESULT || status=1
umount /mnt/share || status=1
exit $status";

/// `cargo xtask guest --bench warm`.
pub(super) fn run(order: Order) -> Result<()> {
    let store = Store::open(&run::target_dir()?.join("guest"))?;
    let (kernel, qemu) = (store.kernel(super::KERNEL)?, store.qemu()?);
    let bench = device::binary("fusewire-bench")?;
    let mut programs = vec![
        Program { from: bench.clone(), to: "usr/bin/fusewire-bench".into() },
        Program { from: device::binary("fusewire")?, to: "usr/bin/fusewire".into() },
    ];
    for (name, as_name) in PROGRAMS {
        let from =
            found(name).with_context(|| format!("{name} is not here, which {PRESET} starts in the guest"))?;
        programs.push(Program { from, to: Path::new("usr/bin").join(as_name) });
    }
    let initrd = image::build(&store, &programs, &job(&order))?;
    let place = Place::new()?;
    let share = place.0.join("share");
    let start = Instant::now();
    let device = Device::start(&share, &["sock"], &["none"])?;
    let board = Board { kernel: &kernel, initrd: &initrd, cpus: order.cpus, memory: "2G", word: "" };
    let plugs = [(device.sockets[0].as_path(), Plug::Fs { tag: TAG, queues: order.cpus })];
    eprintln!("xtask: guest with {}, which measures a tree that is known already", kernel.display());
    let ran = machine::watch(&mut board.command(&qemu, &plugs), 3 * 3600, |_| ());
    let kept = order.json.unwrap_or_else(|| store.dir().join(RESULT));
    let result = share.join(RESULT);
    if result.exists() {
        fs::copy(&result, &kept).with_context(|| kept.display().to_string())?;
        run::must(Command::new(bench).arg("report").arg(&kept))?;
    }
    ran?;
    device.end()?;
    ensure!(result.exists(), "the guest has left no result");
    eprintln!("xtask: guest: done in {} s; {}", start.elapsed().as_secs(), kept.display());
    Ok(())
}

fn job(order: &Order) -> String {
    let is_named = |word: &String| word == "-t" || word.starts_with("--target");
    let targets = TARGETS.iter().filter(|_| !order.words.iter().any(is_named)).map(|(_, target)| *target);
    let channel = if order.ring { "uring" } else { "dev-fuse" };
    let mut words =
        vec![PRESET.to_owned(), "--fusewire-arg=--channel".into(), format!("--fusewire-arg={channel}")];
    words.extend(targets.map(|target| format!("--target={target}")));
    words.extend(order.words.iter().cloned());
    JOB.replace("TAG", TAG).replace("RESULT", RESULT).replace("WORDS", &words.join(" "))
}

/// A program of this machine.
fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(words: &[&str]) -> Order {
        super::super::bench::parse(&[&[PRESET], words].concat()).expect("parses")
    }

    #[test]
    fn targets_that_are_named_are_all_that_is_measured() {
        let usual = job(&order(&["--", "--reps", "3"]));
        assert!(TARGETS.iter().all(|(_, target)| usual.contains(&format!("--target={target} "))), "{usual}");
        assert!(usual.contains("--fusewire-arg=dev-fuse ") && usual.contains("--reps 3 --json"), "{usual}");
        let named = job(&order(&["--ring", "--", "-t", "native"]));
        assert!(!named.contains("answers") && named.contains("--fusewire-arg=uring "), "{named}");
    }

    #[test]
    fn the_goals_of_the_preset_are_about_these_targets() {
        let file = run::root().join("crates/fusewire-bench/workloads/warm.toml");
        let text = fs::read_to_string(file).expect("it is there");
        for (name, _) in TARGETS.iter().skip(1) {
            assert!(text.contains(&format!("subject = \"{name}\"")), "{name}");
        }
        assert!(text.contains("baseline = \"native\""));
    }
}
