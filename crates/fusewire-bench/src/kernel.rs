//! The sources of a real kernel, to be built on the mounts: Debian's package linux-source, or what
//! `FUSEWIRE_BENCH_KERNEL` names.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail, ensure};

use crate::program;

/// Where the sources are in the source directory.
pub const KERNEL: &str = "kernel";
/// Names a tar archive, or a directory of sources in which nothing was built.
const VARIABLE: &str = "FUSEWIRE_BENCH_KERNEL";
const REMEDY: &str = "on Debian: apt-get install linux-source; or name an archive or a directory of kernel \
                      sources with the environment variable FUSEWIRE_BENCH_KERNEL";

/// The archive or directory.
///
/// # Errors
/// If there is none, with what to do.
pub fn sources() -> Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE).map(PathBuf::from) {
        ensure!(path.exists(), "{VARIABLE} names {}, which is not there", path.display());
        return Ok(path);
    }
    newest("/usr/src".as_ref())
        .with_context(|| format!("there are no kernel sources /usr/src/linux-source-*.tar.xz; {REMEDY}"))
}

/// The archive of the latest version: `6.12` comes behind `6.1`.
fn newest(dir: &Path) -> Option<PathBuf> {
    let version = |path: &PathBuf| -> Vec<u32> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.split(|letter: char| !letter.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    let is_archive = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        path.is_file() && name.starts_with("linux-source-") && name.contains(".tar")
    };
    fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).filter(is_archive).max_by_key(version)
}

/// Checks what building it needs beside programs.
///
/// # Errors
/// If something is missing, with what to do.
pub fn check() -> Result<()> {
    let sources = sources()?;
    // Of a tree it can be seen; what is in an archive is taken for a whole one.
    let has_objtool = sources.is_file() || sources.join("tools/objtool").exists();
    if has_objtool && !Path::new("/usr/include/gelf.h").exists() {
        bail!(
            "building a kernel may need the header gelf.h, which is not in /usr/include; on Debian: apt-get install libelf-dev"
        );
    }
    Ok(())
}

/// Puts the sources into `root`, unless they are there.
///
/// # Errors
/// If they cannot be unpacked or copied, or are no kernel's.
pub fn unpack(root: &Path, stop: &AtomicBool) -> Result<()> {
    let dir = root.join(KERNEL);
    if dir.join("Kbuild").exists() {
        return Ok(());
    }
    let from = sources()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let command = if from.is_dir() {
        let mut command = Command::new("cp");
        command.arg("-a").arg(from.join(".")).arg(&dir);
        command
    } else {
        let mut command = Command::new("tar");
        command.arg("-xf").arg(&from).args(["--strip-components=1", "--no-same-owner", "-C"]).arg(&dir);
        command
    };
    program::run(command, b"", &[], stop)?.success(&format!("unpacking {}", from.display()))?;
    ensure!(
        dir.join("Kbuild").exists(),
        "{} holds no kernel sources: there is no Kbuild in it",
        from.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_version_is_taken() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(newest(place.path()), None);
        for name in
            ["linux-source-6.1.tar.xz", "linux-source-6.12.tar.xz", "linux-source-6.2.tar.xz", "other.tar.xz"]
        {
            fs::write(place.path().join(name), "").unwrap();
        }
        assert_eq!(newest(place.path()), Some(place.path().join("linux-source-6.12.tar.xz")));
    }
}
