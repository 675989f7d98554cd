//! `cargo xtask guest`: a job on another kernel, in a virtual machine without acceleration.
//!
//! Kernel, QEMU and busybox are Debian packages that are unpacked below the target directory and never installed; the
//! root filesystem of the guest is an archive in its memory. So a guest boots in seconds, and whatever happens to its
//! kernel happens to nobody else's.

mod bench;
mod board;
mod dax;
mod device;
mod image;
mod lower;
mod machine;
mod migrate;
mod packages;
mod pair;
mod qmp;
mod queues;
mod replace;
mod sight;
mod twice;
mod virtio;
mod warm;
mod writeback;

use crate::{ci, run};
use anyhow::{Context, Result, bail};
use image::Program;
use machine::Guest;
use packages::{Qemu, Store};
use std::path::PathBuf;

/// What runs in guests of `--virtio`.
pub use sight::{look, write};

/// What to say where a guest cannot be had.
pub use packages::Unavailable;

/// The kernel that has all that is tested here: protocol 7.46.
const KERNEL: &str = "7.3";

/// Names of the tests that CI runs in a guest: data over the ring, and the ring itself.
const SHORT: [&str; 2] = ["data::", "ring::"];

/// Those of the long form.
const ALL: [&str; 7] = ["data::", "ring::", "policy::", "posix::", "locks::", "mounting::", "semantics::"];

const HELP: &str = "\
cargo xtask guest [OPTION...] [--all] [NAME...]
cargo xtask guest [OPTION...] -- COMMAND...

Boots Linux in QEMU and runs the black-box tests there over the ring: those of data and of the ring, with --all many more,
or those with NAME in their names; or a command of the guest's shell, which finds `fusewire` in its PATH.

cargo xtask guest --virtio [--all [CACHE...] | --two | --writeback]
cargo xtask guest --virtio [CACHE [OPTION...]] -- COMMAND...

Boots User Mode Linux, which mounts a directory that `fusewire vhost` shares, and runs the POSIX suite, pjdfstest and fsx there, on
each caching profile with --all, or on those named and no more; then two guests that share a directory, which the host writes to as well. --two does that alone, --writeback only what a guest does that gathers writes; --all does it, too. Or has
one guest run a command of its shell: /mnt is the directory, shared with --cache CACHE and these options of `fusewire vhost`.

cargo xtask guest --queues

Boots QEMU with two processors and a request queue for each: both are used, and the files are what they should be.

cargo xtask guest --replace

Boots User Mode Linux and QEMU, whose daemon is upgraded several times while they work.

cargo xtask guest --migrate

Boots QEMU, moves the guest to other QEMUs with daemons of their own while it works, and looks at its files afterwards.

cargo xtask guest --dax [--short | --all [CACHE...] | --two]

Boots QEMU with a DAX window and a directory that `fusewire vhost` shares: what each side sees of what the other writes, a file larger
than the window, how much the guest caches, the POSIX suite and fsx; with --short only what that suite has of mappings;
with --all more of it, and pjdfstest, with every caching profile or those named. Two guests that read the same file, whose pages are in memory once; --two does that alone.

cargo xtask guest --bench [PRESET...] [--modes LIST] [--cpus N] [--json FILE] [-- WORD...]

Boots QEMU with a directory for each caching profile, with a DAX window and without, and one for each that virtiofsd has, and has
fusewire-bench take them in turn there: virtiofs-mmap and virtiofs-smallfile unless presets are named. --modes none,auto,always,shared
leaves out those that are not named; WORDs go to fusewire-bench, such as --reps 3.

cargo xtask guest --bench warm [--ring] [--cpus N] [--json FILE] [-- WORD...]

Boots QEMU, whose kernel takes BPF security modules, and measures a tree that is known already there, with mounts whose kernel says by itself
which attributes are absent: over /dev/fuse, with --ring over io_uring.

  --kernel VERSION   a kernel of Debian 13 or its backports, such as 7.3, 7.2 or 6.12   [7.3]
  --cpus N           CPUs that are there                                               [2]
  --possible N       CPUs that there may ever be: so many queues the ring has          [as --cpus]
  --memory MIB       memory of the guest                                               [1024]
  --timeout SECONDS  when to give up                                                   [600]";

/// What to boot, and what to do there.
struct Order {
    guest: Guest,
    kernel: String,
    /// The script of the guest's shell; `None`: its tests.
    script: Option<String>,
    all: bool,
    /// Parts of the names of tests.
    cases: Vec<String>,
}

/// `cargo xtask guest`.
pub fn run(words: &[&str]) -> Result<()> {
    if words == ["--help"] {
        println!("{HELP}");
        return Ok(());
    }
    if let ["--virtio", rest @ ..] = words {
        return virtio::run(rest);
    }
    if let ["--queues", rest @ ..] = words {
        return queues::run(rest);
    }
    if let ["--replace", rest @ ..] = words {
        return replace::run(rest);
    }
    if let ["--migrate", rest @ ..] = words {
        return migrate::run(rest);
    }
    if let ["--dax", rest @ ..] = words {
        return dax::run(rest);
    }
    if let ["--bench", rest @ ..] = words {
        return bench::run(rest);
    }
    let order = parse(words)?;
    // Before anything is built: it may not be possible.
    let store = Store::open(&run::target_dir()?.join("guest"))?;
    let machine = Machine { kernel: store.kernel(&order.kernel)?, qemu: store.qemu()?, store };
    let mut programs = programs()?;
    programs.extend(lower::programs(&machine.store, &machine.kernel));
    if let Some(script) = &order.script {
        return machine.boot(order.guest, &programs, script);
    }
    let form: Vec<&str> = match (order.cases.is_empty(), order.all) {
        (false, _) => order.cases.iter().map(String::as_str).collect(),
        (true, true) => ALL.to_vec(),
        (true, false) => SHORT.to_vec(),
    };
    if !order.cases.is_empty() {
        return machine.boot(order.guest, &programs, &tests("auto", &form));
    }
    let mut script = format!("/test/release/deps/pages --nocapture && {}", tests("zero-copy", &form));
    if order.all {
        let others = ["auto", "own", "pool", "pinned"].map(|buffers| tests(buffers, &["data::"]));
        script = [&[script][..], &others].concat().join(" && ");
    }
    machine.boot(order.guest, &programs, &script)?;
    let many = Guest { possible: 64, ..order.guest };
    machine.boot(many, &programs, &tests("auto", &["ring::"]))
}

/// The short form, as CI runs it: whoever cannot have a guest learns why and is not held up.
pub fn short() -> Result<()> {
    skip(run(&[]))?;
    skip(run(&["--virtio"]))?;
    skip(run(&["--queues"]))?;
    skip(run(&["--dax", "--short"]))
}

fn skip(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.is::<Unavailable>() => {
            eprintln!("xtask: skipped: no guest: {error:#}");
            Ok(())
        }
        outcome => outcome,
    }
}

/// What guests are booted from.
struct Machine {
    store: Store,
    kernel: PathBuf,
    qemu: Qemu,
}

impl Machine {
    fn boot(&self, guest: Guest, programs: &[Program], script: &str) -> Result<()> {
        let initrd = image::build(&self.store, programs, script)?;
        guest.boot(&self.qemu, &self.kernel, &initrd)
    }
}

/// The guest's command that runs the black-box tests with these parts in their names over the ring, with data in these
/// buffers.
fn tests(buffers: &str, names: &[&str]) -> String {
    format!(
        "FUSEWIRE_BIN=/usr/bin/fusewire FUSEWIRE_TEST_CHANNEL=uring FUSEWIRE_TEST_DIR=/tmp FUSEWIRE_TEST_NEEDS_GUARD=1 FUSEWIRE_TEST_PATIENCE=4 \
         FUSEWIRE_TEST_PASSTHROUGH=off FUSEWIRE_TEST_BUFFERS={buffers} /test/release/deps/blackbox --test-threads=1 --nocapture {}",
        names.join(" ")
    )
}

/// Our programs, and where they lie in the guest: tests find their second process by its place.
fn programs() -> Result<Vec<Program>> {
    ci::build()?;
    let target = run::target_dir()?;
    let program = |from: PathBuf, to: &str| Program { from, to: to.into() };
    let mut programs = vec![
        program(target.join("release/fusewire"), "usr/bin/fusewire"),
        program(build_tests("fusewire", "pages")?, "test/release/deps/pages"),
        program(build_tests("fusewire-tests", "blackbox")?, "test/release/deps/blackbox"),
        program(target.join("release/fusewire-test-actor"), "test/release/fusewire-test-actor"),
    ];
    // Busybox's own knows no ids. Without it, tests that need it say so.
    let setpriv = PathBuf::from("/usr/bin/setpriv");
    if setpriv.exists() {
        programs.push(program(setpriv, "usr/bin/setpriv"));
    }
    Ok(programs)
}

/// The program of these tests, optimised: the guest is slow.
fn build_tests(package: &str, name: &str) -> Result<PathBuf> {
    let words = ["test", "--release", "--no-run", "--quiet", "--package", package, "--test", name];
    let mut command = run::cargo(&words);
    command.args(["--message-format", "json"]).stderr(std::process::Stdio::inherit());
    let output = command.output().context("cargo test --no-run")?;
    let lines = String::from_utf8_lossy(&output.stdout);
    let messages = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let built = messages.filter(|message| message["target"]["name"] == name);
    let path = built.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    path.with_context(|| format!("the tests {name} of {package} cannot be built"))
}

fn parse(words: &[&str]) -> Result<Order> {
    let mut guest = Guest { cpus: 2, possible: 0, memory: 1024, seconds: 600 };
    let mut order = Order { guest, kernel: KERNEL.into(), script: None, all: false, cases: Vec::new() };
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        let mut number = || -> Result<u64> {
            let value = words.next().with_context(|| format!("{word} needs a number"))?;
            value.parse().with_context(|| format!("{word} {value}: no number"))
        };
        match word {
            "--cpus" => guest.cpus = number()?,
            "--possible" => guest.possible = number()?,
            "--memory" => guest.memory = number()?,
            "--timeout" => guest.seconds = number()?,
            "--kernel" => order.kernel = (*words.next().context("--kernel needs a version")?).into(),
            "--all" => order.all = true,
            "--" => {
                order.script = Some(words.by_ref().copied().collect::<Vec<_>>().join(" "));
            }
            word if word.starts_with('-') => bail!("unknown option {word}\n{HELP}"),
            case => order.cases.push(case.into()),
        }
    }
    guest.possible = guest.possible.max(guest.cpus);
    order.guest = guest;
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_fewer_possible_cpus_than_cpus() {
        let order = parse(&["--cpus", "4", "--all", "checksums"]).expect("parses");
        assert_eq!((order.guest.cpus, order.guest.possible), (4, 4));
        assert!(order.all && order.cases == ["checksums"] && order.script.is_none());
        let order = parse(&["--possible", "64", "--", "cat", "/proc/version"]).expect("parses");
        assert_eq!((order.guest.cpus, order.guest.possible), (2, 64));
        assert_eq!(order.script.as_deref(), Some("cat /proc/version"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for words in [&["--cpus"][..], &["--cpus", "two"], &["--kernel"], &["--cpu", "2"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
