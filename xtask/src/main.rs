//! `cargo xtask`: the chores of the repository. What CI runs is `cargo xtask ci`, nothing else.

mod bpf;
mod ci;
mod fuzz;
mod guest;
mod run;
mod setup;
mod suites;
mod tidy;

use anyhow::{Result, bail};
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask TASK

  ci [STEP...]      everything CI checks: set-up, format, clippy, tidy, doc tests, all tests; or only the steps named
  setup             install what the tests need (apt-get as root on Debian; test tools with cargo install)
  bpf [--check]     compile the BPF programs (clang); or see that the objects here are what they compile to
  tidy              the rules of style that a program can check
  pjdfstest [...]   the suite pjdfstest on a mount, every caching profile
  fsx [...]         the file exerciser, ten seeds with 100,000 operations
  posix [...]       the project's POSIX suite on mem and passthrough
  programs [...]    git, sqlite, PostgreSQL, overlayfs, cargo, ... on a mount
  coherent [...]    caches that others change under, of a whole filesystem and file by file: a million operations, a million changes
  faults [...]      killed, stopped and full: the tests of faults
  guest [...]       tests on the newest kernel in a virtual machine; `guest --help` tells of options
  fuzz [SECONDS] [TARGET...]   the fuzz targets, or those named, a minute each if not told otherwise; takes cargo-fuzz
  soak [MINUTES]    all kinds of work on one mount at once, 30 minutes if not told otherwise

Words after the name of a suite go to `cargo nextest run`.";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match perform(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(words: &[&str]) -> Result<()> {
    // In a guest there is no repository.
    match words {
        ["guest-look", dir] => return guest::look(dir.as_ref()),
        ["guest-write", dir, pause] => return guest::write(dir.as_ref(), pause),
        _ => {}
    }
    std::env::set_current_dir(run::root())?;
    match words {
        ["ci", steps @ ..] => ci::run(steps),
        ["setup"] => setup::run(),
        ["bpf", rest @ ..] => bpf::run(rest),
        ["tidy"] => tidy::run(),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        ["guest", rest @ ..] => guest::run(rest),
        ["soak", rest @ ..] => suites::soak(rest),
        [suite @ ("pjdfstest" | "fsx" | "posix" | "programs" | "coherent" | "faults"), rest @ ..] => {
            suites::run(suite, rest)
        }
        [] | ["help" | "-h" | "--help"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => bail!("unknown task {:?}\n{HELP}", words.join(" ")),
    }
}
