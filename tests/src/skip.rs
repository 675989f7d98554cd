//! Skipping a test visibly.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Says `skipped: reason`, and adds it to the file named by `FUSEWIRE_SKIP_LOG`, from which `cargo xtask` repeats it after
/// the run (a test runner hides what passing tests print).
///
/// # Panics
/// When `FUSEWIRE_TEST_STRICT` is set: on a machine that should be able to run everything, a skip is a failure.
pub fn report(reason: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let line = format!("skipped: {reason} ({test})");
    eprintln!("{line}");
    if let Some(log) = std::env::var_os("FUSEWIRE_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(log);
        // One write per line: tests of several processes append to it.
        let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    }
    assert!(std::env::var_os("FUSEWIRE_TEST_STRICT").is_none(), "{line}");
}

/// Full path of a program in `PATH` or in the system directories that an ordinary `PATH` lacks.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Whether the kernel has the filesystem.
pub fn kernel_has(filesystem: &str) -> bool {
    std::fs::read_to_string("/proc/filesystems")
        .is_ok_and(|list| list.lines().any(|line| line.split('\t').next_back() == Some(filesystem)))
}

/// Whether both paths are on the same filesystem.
pub fn same_device(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    matches!((a.metadata(), b.metadata()), (Ok(a), Ok(b)) if a.dev() == b.dev())
}

/// Ends the test with a visible reason unless the condition holds.
#[macro_export]
macro_rules! skip_unless {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            $crate::skip::report(&format!($($reason)+));
            return;
        }
    };
}

/// Ends the test with a visible reason unless all these programs are installed.
#[macro_export]
macro_rules! need {
    ($($program:expr),+ $(,)?) => {
        $($crate::skip_unless!(
            $crate::skip::find_program($program).is_some(),
            "the program {} is not installed; `cargo xtask setup` does it",
            $program
        );)+
    };
}
