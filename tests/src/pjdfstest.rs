//! The suite `pjdfstest` on a directory, and what it said.

use crate::command;
use crate::program::program;
use std::path::{Path, PathBuf};

/// Configuration: every feature that Linux has. Birth time is asked for through statx, which FUSE forwards.
const CONFIGURATION: &str = include_str!("pjdfstest.toml");

/// What the suite said.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Names of the cases that failed, each with the reason.
    pub failed: Vec<(String, String)>,
    /// Names of the cases that were not run.
    pub skipped: Vec<String>,
    /// Count of those that passed.
    pub passed: usize,
}

impl Report {
    /// The failing cases, one per line.
    pub fn failures(&self) -> String {
        self.failed.iter().map(|(name, why)| format!("{name}: {why}\n")).collect()
    }
}

/// Which cases are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cases {
    /// All that leave the mount as it is.
    All,
    /// Those that set the filesystem read-only for a moment. They need a process of their own: other cases leave files
    /// open, on any filesystem, and with these it cannot become read-only.
    ReadOnly,
}

/// Runs the suite in `dir`. `scratch` takes the configuration, `other` is a directory on another filesystem (for EXDEV).
///
/// # Panics
/// When the suite gives no summary, or the summary does not agree with the cases.
#[track_caller]
pub fn run(dir: &Path, scratch: &Path, other: &Path, cases: Cases) -> Report {
    let (remount, pattern) = match cases {
        Cases::All => ("false", None),
        Cases::ReadOnly => ("true", Some("erofs")),
    };
    let configuration = scratch.join("pjdfstest.toml");
    std::fs::write(&configuration, CONFIGURATION.replace("ALLOW_REMOUNT", remount)).expect("configuration");
    let tool = command::tool("pjdfstest").expect("checked by the caller");
    let words = [Path::new("-c"), &configuration, Path::new("-p"), dir, Path::new("-s"), other];
    let path = format!("{}:{}", plain_mount(scratch).display(), std::env::var("PATH").unwrap_or_default());
    let suite = program(tool).args(words).args(pattern);
    let suite = suite.env("NO_COLOR", "1").env("RUST_BACKTRACE", "0").env("PATH", path);
    let done = suite.limit(300).run();
    let report = parse(&done.stdout).unwrap_or_else(|why| panic!("{why}\n{done}"));
    assert_eq!(done.status.success(), report.failed.is_empty(), "{done}");
    report
}

/// A directory with the `mount` that the suite finds first. It calls no helper programs: for a FUSE mount the helper that
/// happens to be installed would mount a second time instead of remounting. And it tries again while the mount is busy:
/// the kernel sends RELEASE without waiting for the answer, and until that comes an unlinked file forbids read-only.
fn plain_mount(scratch: &Path) -> PathBuf {
    let dir = scratch.join("plain-mount");
    if !dir.exists() {
        let real = crate::skip::find_program("mount").expect("mount(8)");
        std::fs::create_dir(&dir).expect("create directory");
        let script = format!(
            "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8 9; do {0} -i \"$@\" 2>&- && exit; sleep 0.1; done; exec {0} -i \"$@\"\n",
            real.display()
        );
        std::fs::write(dir.join("mount"), script).expect("write script");
        crate::sandbox::chmod(&dir.join("mount"), 0o755);
    }
    dir
}

/// Reads the suite's output: one line per case, the reason of a failure in the next, a summary.
pub fn parse(output: &str) -> Result<Report, String> {
    let mut report = Report::default();
    let mut summary = None;
    let mut lines = output.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(counts) = line.strip_prefix("Summary: ") {
            summary = Some(counts.to_owned());
        }
        let Some((name, verdict)) = line.split_once(char::is_whitespace) else { continue };
        match verdict.trim() {
            "ok" if name.contains("::") => report.passed += 1,
            "skipped" => report.skipped.push(name.to_owned()),
            "FAILED" => {
                let indented = |line: &&str| line.starts_with('\t');
                let why = lines.next_if(indented).unwrap_or("no reason given");
                report.failed.push((name.to_owned(), why.trim().to_owned()));
            }
            _ => {}
        }
    }
    let counted =
        format!("{} failed, {} skipped, {} passed", report.failed.len(), report.skipped.len(), report.passed);
    match summary {
        Some(summary) if summary.starts_with(&counted) => Ok(report),
        Some(summary) => Err(format!("the summary says {summary:?}, its lines say {counted:?}")),
        None => Err("pjdfstest printed no summary".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
chmod::erofs_named                                    skipped
\tRemounts are not allowed
chown::ctime::fifo                                    ok
open::etxtbsy                                         FAILED
\tassertion failed: left == right

Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total
";

    #[test]
    fn failing_cases_are_named_with_their_reason() {
        let report = parse(OUTPUT).unwrap();
        assert_eq!(report.failures(), "open::etxtbsy: assertion failed: left == right\n");
        assert_eq!((report.passed, report.skipped), (1, vec!["chmod::erofs_named".to_owned()]));
    }

    #[test]
    fn an_output_cut_short_is_no_success() {
        let cut = OUTPUT.split_once("Summary").unwrap().0;
        assert!(parse(cut).unwrap_err().contains("no summary"));
        let lost: String =
            OUTPUT.lines().filter(|line| !line.starts_with("open")).map(|l| format!("{l}\n")).collect();
        assert!(parse(&lost).unwrap_err().contains("its lines say"));
    }
}
