//! `cargo xtask fuzz`: the fuzz targets, one after the other.

use crate::run::{has_program, must, target_dir};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// How long for each, if nothing else is said, seconds.
const SECONDS: u64 = 60;

/// Longest inputs, where the target cannot make use of more.
const LENGTHS: [(&str, &str); 3] =
    [("vhost_chains", "2048"), ("vhost_requests", "4096"), ("vhost_control", "1024")];

/// `cargo xtask fuzz [SECONDS] [TARGET...]`.
pub fn run(words: &[&str]) -> Result<()> {
    let (seconds, named) = parse(words)?;
    let all = targets()?;
    if let Some(unknown) = named.iter().find(|name| !all.iter().any(|target| target == *name)) {
        bail!("no fuzz target {unknown:?}; there are {}", all.join(", "));
    }
    let cargo_fuzz = cargo_fuzz()?;
    for target in all.iter().filter(|target| named.is_empty() || named.contains(&target.as_str())) {
        let corpus = format!("fuzz/corpus/{target}");
        fs::create_dir_all(&corpus)?;
        let mut command = Command::new(&cargo_fuzz);
        command.args(["fuzz", "run", target, &corpus]);
        let seeds = format!("fuzz/seeds/{target}");
        if Path::new(&seeds).is_dir() {
            command.arg(seeds);
        }
        command.args(["--", &format!("-max_total_time={seconds}"), "-len_control=0", "-timeout=120"]);
        if let Some((_, length)) = LENGTHS.iter().find(|(name, _)| name == target) {
            command.arg(format!("-max_len={length}"));
        }
        // The compiler that there is will do; what is given to a sanitizer at the end is still used by threads.
        command.env("RUSTC_BOOTSTRAP", "1").env("ASAN_OPTIONS", "detect_leaks=0");
        command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_PKG_NAME");
        must(&mut command)?;
    }
    Ok(())
}

fn parse<'a>(words: &[&'a str]) -> Result<(u64, Vec<&'a str>)> {
    match words {
        [first, rest @ ..] if first.starts_with(|c: char| c.is_ascii_digit()) => {
            let seconds = first.parse().with_context(|| format!("{first:?} is no number of seconds"))?;
            Ok((seconds, rest.to_vec()))
        }
        names => Ok((SECONDS, names.to_vec())),
    }
}

/// Names of all targets.
fn targets() -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir("fuzz/fuzz_targets")? {
        let path = entry?.path();
        targets.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    targets.sort();
    Ok(targets)
}

/// Where cargo-fuzz is.
fn cargo_fuzz() -> Result<PathBuf> {
    let own = target_dir()?.join("tools/bin/cargo-fuzz");
    if own.is_file() {
        return Ok(own);
    }
    if has_program("cargo-fuzz") {
        return Ok("cargo-fuzz".into());
    }
    bail!("cargo-fuzz is not there: cargo install --locked cargo-fuzz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_come_before_names() {
        assert_eq!(parse(&[]).expect("nothing"), (SECONDS, vec![]));
        assert_eq!(parse(&["90", "init"]).expect("both"), (90, vec!["init"]));
        assert_eq!(parse(&["init", "dispatch"]).expect("names"), (SECONDS, vec!["init", "dispatch"]));
        assert!(parse(&["9x"]).is_err());
    }
}
