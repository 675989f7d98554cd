//! Installing what the tests need.

use crate::run::{cargo, has_program, is_root, must, target_dir};
use anyhow::Result;
use std::process::Command;

/// Debian packages, each with a program that shows that it is there.
const PACKAGES: &[(&str, &str)] = &[
    ("acl", "setfacl"),
    ("attr", "setfattr"),
    ("btrfs-progs", "mkfs.btrfs"),
    ("e2fsprogs", "mkfs.ext4"),
    ("fuse3", "fusermount3"),
    ("gcc", "cc"),
    ("git", "git"),
    ("inotify-tools", "inotifywait"),
    ("libcap2-bin", "setcap"),
    ("mount", "mount"),
    ("python3", "python3"),
    ("rsync", "rsync"),
    ("sqlite3", "sqlite3"),
    ("tar", "tar"),
    ("util-linux", "setpriv"),
];

/// Test suites from crates.io, by exact version: a new version may bring new cases.
const TOOLS: &[(&str, &str)] = &[("pjdfstest", "0.2.2"), ("fsx", "0.3.2")];

/// The test runner; any recent version will do.
const RUNNER: (&str, &str) = ("cargo-nextest", "0.9.143");

/// `cargo xtask setup`.
pub fn run() -> Result<()> {
    packages()?;
    tools()
}

fn missing_packages() -> Vec<&'static str> {
    let mut missing: Vec<_> =
        PACKAGES.iter().filter(|(_, program)| !has_program(program)).map(|(package, _)| *package).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    if !versions.map(|entry| entry.path()).any(|dir| dir.join("bin/initdb").exists()) {
        missing.push("postgresql");
    }
    missing
}

fn packages() -> Result<()> {
    let missing = missing_packages();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() || !has_program("apt-get") {
        let list = missing.join(" ");
        eprintln!(
            "xtask: tests that need one of these packages will be skipped; as root: apt-get install {list}"
        );
        return Ok(());
    }
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=120"]).args(words);
        must(command.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update"])?;
    apt(&[&["install", "--yes", "--no-install-recommends"], &missing[..]].concat())
}

fn tools() -> Result<()> {
    // In a directory of their own: whoever has other versions installed keeps them.
    let tools = target_dir()?.join("tools");
    for (name, version) in TOOLS {
        install(name, version, tools.join("bin").join(name).is_file(), Some(&tools))?;
    }
    let (name, version) = RUNNER;
    install(name, version, has_program(name), None)
}

fn install(name: &str, version: &str, there: bool, root: Option<&std::path::Path>) -> Result<()> {
    if there {
        return Ok(());
    }
    let mut command = cargo(&["install", "--locked", "--quiet", "--version", version, name]);
    if let Some(root) = root {
        command.arg("--root").arg(root);
    }
    must(&mut command)
}
