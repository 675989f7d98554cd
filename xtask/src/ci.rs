//! `cargo xtask ci`: what has to hold before anything is merged.

use crate::run::{cargo, is_root, must, target_dir};
use crate::{bpf, guest, setup, tidy};
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::time::Instant;

type Step = (&'static str, fn() -> Result<()>);

/// Steps in order: what is quick to fail comes first, the tests last, so that their summary ends the output.
const STEPS: &[Step] = &[
    ("setup", setup::run),
    ("fmt", || must(&mut cargo(&["fmt", "--all", "--check"]))),
    ("tidy", tidy::run),
    ("bpf", bpf::check),
    ("clippy", || {
        must(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))
    }),
    ("doc", || must(&mut cargo(&["test", "--workspace", "--doc", "--quiet"]))),
    ("rustdoc", || {
        let mut command = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
        must(command.env("RUSTDOCFLAGS", "--deny warnings"))
    }),
    ("fuzz", || {
        // What the targets run is compiled with the tests; here only whether the crate still fits.
        must(&mut cargo(&["tree", "--locked", "--depth", "0", "--manifest-path", "fuzz/Cargo.toml"]))
    }),
    ("build", build),
    ("ring", ring),
    ("guest", guest::short),
    ("test", test),
];

/// Whether the kernel offers FUSE over io_uring; `Y` or `N`.
const RING_SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Runs all steps, or those named; a failing step does not hide the failures of the next.
pub fn run(names: &[&str]) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| !STEPS.iter().any(|(step, _)| step == *name)) {
        let known: Vec<_> = STEPS.iter().map(|(name, _)| *name).collect();
        bail!("unknown step {unknown:?}; there are {}", known.join(", "));
    }
    if !is_root() {
        eprintln!("xtask: not root: tests that mount will be skipped");
    }
    let mut failed = Vec::new();
    for (name, step) in STEPS.iter().filter(|(name, _)| names.is_empty() || names.contains(name)) {
        let start = Instant::now();
        let outcome = step();
        let seconds = start.elapsed().as_secs();
        match outcome {
            Ok(()) => eprintln!("xtask: {name}: ok, {seconds} s"),
            Err(error) => {
                eprintln!("xtask: {name}: FAILED after {seconds} s: {error:#}");
                failed.push(*name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The command as it is shipped: the black-box tests drive the release build.
pub fn build() -> Result<()> {
    must(&mut cargo(&["build", "--release", "--quiet", "--package", "fusewire-cli"]))
}

/// All tests, requests by `/dev/fuse`; the kernel reads and writes files by itself where it can.
fn test() -> Result<()> {
    nextest(&["--workspace", "--profile", "ci"], &[("FUSEWIRE_TEST_PASSTHROUGH", "always")])
}

/// The tests of the ring, and the black-box tests once more, with requests over io_uring, which is switched on for that long. Data
/// comes in requests, too, this time.
fn ring() -> Result<()> {
    let Some(before) = std::fs::read_to_string(RING_SWITCH).ok().filter(|_| is_root()) else {
        eprintln!("xtask: no FUSE over io_uring here, or not root: nothing is tested over it");
        return Ok(());
    };
    eprintln!("xtask: {RING_SWITCH}: {} -> Y", before.trim());
    if let Err(error) = std::fs::write(RING_SWITCH, "Y") {
        eprintln!("xtask: {error}: nothing is tested over FUSE over io_uring");
        return Ok(());
    }
    let variables = [("FUSEWIRE_TEST_CHANNEL", "uring"), ("FUSEWIRE_TEST_PASSTHROUGH", "off")];
    let which = "package(fusewire-tests) | binary_id(fusewire::uring)";
    let words = ["--package", "fusewire-tests", "--package", "fusewire", "--profile", "ci", "-E", which];
    let outcome = nextest(&words, &variables);
    eprintln!("xtask: {RING_SWITCH}: Y -> {}", before.trim());
    std::fs::write(RING_SWITCH, before)?;
    outcome
}

/// Runs tests, and says afterwards which were skipped and why.
pub fn nextest(words: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let skipped = skip_log()?;
    let _ = std::fs::remove_file(&skipped);
    let mut command = cargo(&["nextest", "run"]);
    command.args(words).envs(variables.iter().copied()).env("FUSEWIRE_SKIP_LOG", &skipped);
    let outcome = must(&mut command);
    let mut lines: Vec<_> =
        std::fs::read_to_string(&skipped).unwrap_or_default().lines().map(str::to_owned).collect();
    lines.sort();
    lines.iter().for_each(|line| eprintln!("{line}"));
    outcome
}

fn skip_log() -> Result<PathBuf> {
    Ok(target_dir()?.join("skipped.log"))
}
