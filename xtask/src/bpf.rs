//! `cargo xtask bpf`: the BPF programs, from C to the object files that are checked in.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::must;

/// Where sources and objects lie, side by side.
const DIR: &str = "crates/fusewire-bpf/src/bpf";
/// Which compiler made the objects: another one makes other bytes.
const COMPILER: &str = "crates/fusewire-bpf/src/bpf/COMPILER";
/// Debian's name for the compiler that is used, and the plain one.
const NAMES: &[&str] = &["clang-19", "clang"];

/// `cargo xtask bpf [--check]`
pub fn run(words: &[&str]) -> Result<()> {
    match words {
        [] => build(),
        ["--check"] => check(),
        _ => bail!(
            "cargo xtask bpf [--check]: compile the BPF programs, or only see that the objects are theirs"
        ),
    }
}

/// Compiles every program into the object beside it, and records the compiler.
fn build() -> Result<()> {
    let (clang, version) = compiler().context("no clang in the PATH; on Debian: apt-get install clang-19")?;
    for source in sources()? {
        compile(&clang, &source, &object(&source))?;
    }
    std::fs::write(COMPILER, version + "\n").with_context(|| format!("cannot write {COMPILER}"))
}

/// Compiles every program elsewhere and compares; skips where the compiler is another one.
pub fn check() -> Result<()> {
    let recorded = std::fs::read_to_string(COMPILER).with_context(|| format!("cannot read {COMPILER}"))?;
    let recorded = recorded.trim();
    match compiler() {
        Some((clang, version)) if version == recorded => compare(&clang),
        Some((_, version)) => {
            eprintln!(
                "xtask: bpf objects are not compared: they were made by {recorded:?}, and here is {version:?}"
            );
            Ok(())
        }
        None => {
            eprintln!(
                "xtask: bpf objects are not compared: they were made by {recorded:?}, and here is no clang"
            );
            Ok(())
        }
    }
}

fn compare(clang: &str) -> Result<()> {
    let dir = crate::run::target_dir()?.join("bpf");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for source in sources()? {
        let kept = object(&source);
        let made = dir.join(kept.file_name().unwrap_or_default());
        compile(clang, &source, &made)?;
        let read =
            |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        if read(&kept)? != read(&made)? {
            bail!("{} is not what {} compiles to; run cargo xtask bpf", kept.display(), source.display());
        }
    }
    Ok(())
}

/// The compiler and the first line it says about itself, if there is one.
fn compiler() -> Option<(String, String)> {
    NAMES.iter().find_map(|name| {
        let output =
            Command::new(name).arg("--version").output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(((*name).to_owned(), text.lines().next()?.trim().to_owned()))
    })
}

fn sources() -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(DIR).with_context(|| format!("cannot list {DIR}"))?;
    let mut sources = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {DIR}"))?.path();
        if path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.ends_with(".bpf.c")) {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

fn object(source: &Path) -> PathBuf {
    source.with_extension("o")
}

/// Nothing of the machine gets into the object: the paths in it begin in the directory of the sources.
fn compile(clang: &str, source: &Path, object: &Path) -> Result<()> {
    let object = crate::run::root().join(object);
    let mut command = Command::new(clang);
    command.current_dir(DIR).args(["-target", "bpfel", "-mcpu=v3", "-O2", "-g", "-std=gnu17"]);
    command.args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-variable", "-fdebug-compilation-dir=.", "-c"]);
    must(command.arg(source.file_name().unwrap_or_default()).arg("-o").arg(object))
}
