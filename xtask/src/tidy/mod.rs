//! The rules of style that a program can check. What is not here is a matter of taste and of review.

mod source;
mod text;

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Something that a rule forbids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub text: String,
}

impl Finding {
    fn new(line: usize, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }
}

/// `cargo xtask tidy`: checks every file that git knows or would take.
pub fn run() -> Result<()> {
    let mut count = 0;
    for name in files()? {
        // A file may be staged for removal.
        let Ok(bytes) = std::fs::read(&name) else { continue };
        let Ok(content) = String::from_utf8(bytes) else { continue };
        for finding in check(&name, &content) {
            eprintln!("{name}:{}: {}", finding.line, finding.text);
            count += 1;
        }
    }
    if count > 0 {
        bail!("tidy: {count} findings");
    }
    Ok(())
}

fn check(name: &str, content: &str) -> Vec<Finding> {
    let mut findings = text::check(name, content);
    if name.ends_with(".rs") {
        findings.extend(source::check(name, content));
    }
    findings.sort_by_key(|finding| finding.line);
    findings
}

/// Files under version control, and new ones that are not ignored.
fn files() -> Result<Vec<String>> {
    let list =
        Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).output();
    let list = list.context("cannot start git")?;
    if !list.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&list.stderr).trim());
    }
    let names = String::from_utf8(list.stdout).context("a file name is not UTF-8")?;
    let mut names: Vec<_> = names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Whether a file holds tests only, to which the limits of size do not apply.
fn is_test(name: &str) -> bool {
    let parts: Vec<_> = Path::new(name).iter().filter_map(|part| part.to_str()).collect();
    let above = &parts[..parts.len().saturating_sub(1)];
    // The harness in tests/src is a library like any other.
    let in_tests =
        above.iter().any(|part| matches!(*part, "tests" | "benches")) && !name.starts_with("tests/src/");
    in_tests || parts.last().is_some_and(|file| *file == "tests.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_known_by_their_place() {
        for name in ["crates/a/tests/b.rs", "tests/tests/blackbox/main.rs", "crates/a/src/b/tests.rs"] {
            assert!(is_test(name), "{name}");
        }
        for name in ["crates/a/src/b.rs", "tests/src/mount.rs", "crates/a/src/latests.rs"] {
            assert!(!is_test(name), "{name}");
        }
    }
}
