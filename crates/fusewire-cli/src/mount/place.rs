//! Whether source and mount point go together.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fusewire::mount::fuse_mounts;
use fusewire::remedy::quoted;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::plan::Plan;
use crate::args::FsKind;
use crate::failure::{Failure, Outcome};

/// Checks what can be checked before mounting, and makes the paths absolute. What concerns the mount point alone is
/// left to mounting, which explains it itself.
///
/// # Errors
/// If the source cannot be shown, or the mount would contain itself.
pub fn check(mut plan: Plan) -> Outcome<Plan> {
    let mountpoint = plan.mountpoint.clone();
    if plan.fs == FsKind::Passthrough {
        plan.source = source(&plan.source, &mountpoint)?;
        not_inside(&plan.source, &mountpoint)?;
    }
    directory(&mountpoint)?;
    if let Some(path) = &plan.policy {
        // It is read again later, from another working directory.
        plan.policy = Some(std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    }
    let mount = &mut plan.server.mount;
    if mount.fsname.is_none() {
        // mount(8) finds out by source and place whether a line of fstab is mounted already.
        mount.fsname = Some(plan.source.to_string_lossy().into_owned());
    }
    if let Ok(path) = fs::canonicalize(&mountpoint) {
        plan.hides = fuse_mounts().is_ok_and(|mounts| mounts.iter().any(|entry| entry.mountpoint == path));
        // A path that cannot be resolved is explained better by mounting.
        plan.mountpoint = path;
    }
    Ok(plan)
}

/// Resolves the source and checks that it is a directory that can be opened.
fn source(path: &Path, mountpoint: &Path) -> Outcome<PathBuf> {
    let failed = |error: io::Error| {
        let what = format!(
            "cannot mount {} on {}: {}: {error}",
            path.display(),
            mountpoint.display(),
            path.display()
        );
        explain(Failure::new(what), path, &error)
    };
    let resolved = fs::canonicalize(path).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&resolved, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    Ok(resolved)
}

fn explain(failure: Failure, path: &Path, error: &io::Error) -> Failure {
    let quoted = quoted(path);
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) if path.is_symlink() => {
            failure.or_try("a directory that is there: this symbolic link leads to nothing")
        }
        Some(Errno::NOENT) => failure.or_try(format!("mkdir -p {quoted}")),
        Some(Errno::NOTDIR) => failure.or_try("a directory; single files cannot be shown"),
        Some(Errno::ACCESS) => failure.or_try("as root, or as a user who may read that directory"),
        Some(Errno::NOTCONN | Errno::CONNABORTED | Errno::CANCELED) => failure.or_try(format!(
            "end the FUSE mount there whose daemon is gone: fusewire unmount --lazy {quoted}"
        )),
        _ => failure.for_error(error),
    }
}

/// Refuses a mount point that is not a directory: everything that can be mounted here is one.
fn directory(mountpoint: &Path) -> Outcome<()> {
    match fs::metadata(mountpoint) {
        Ok(metadata) if !metadata.is_dir() => {
            Err(Failure::new(format!("cannot mount on {}: it is not a directory", mountpoint.display()))
                .or_try("an existing directory, best an empty one"))
        }
        // Missing, dead or forbidden: mounting tells.
        _ => Ok(()),
    }
}

/// What tells a directory from all others, as seen through one mount.
type Identity = (u64, u32, u32, u64);

fn identity(path: &Path) -> Option<Identity> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::INO | StatxFlags::MNT_ID).ok()?;
    Some((stat.stx_mnt_id, stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
}

/// Refuses a mount point below the source. A walk through the mount would come to the mount itself, and the daemon
/// would wait for its own answer; with as many levels as it has readers, for ever.
///
/// The source itself and what is above it are fine: the source was opened before it was covered, and an open directory
/// does not follow what is mounted over it.
fn not_inside(source: &Path, mountpoint: &Path) -> Outcome<()> {
    let (Ok(resolved), Some(shown)) = (fs::canonicalize(mountpoint), identity(source)) else { return Ok(()) };
    let Some(above) = resolved.ancestors().skip(1).find(|path| identity(path) == Some(shown)) else {
        return Ok(());
    };
    let place = if above == source { String::new() } else { format!(" (also known as {})", above.display()) };
    Err(Failure::new(format!(
        "cannot mount {} on {}: the mount point is inside of what is mounted{place}, so the mount would contain itself, \
         and whoever walks through it would make fusewire wait for itself",
        source.display(),
        mountpoint.display()
    ))
    .or_try(format!("a mount point outside of {}", source.display()))
    .or_try(format!(
        "a view of the directory without the mount in it, as root: mkdir /run/view && mount --bind {0} /run/view && \
         mount --make-private /run/view && fusewire mount /run/view {1}",
        source.display(),
        mountpoint.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_may_not_contain_itself() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let base = fs::canonicalize(dir.path()).expect("canonical");
        fs::create_dir_all(base.join("src/a/b")).expect("made");
        fs::create_dir(base.join("mnt")).expect("made");
        let source = base.join("src");
        assert!(not_inside(&source, &source).is_ok(), "on itself");
        assert!(not_inside(&source, &base).is_ok(), "above");
        assert!(not_inside(&source, &base.join("mnt")).is_ok(), "beside");
        let failure = not_inside(&source, &base.join("src/a/b")).expect_err("inside").to_string();
        assert!(failure.contains("would contain itself") && failure.contains("outside of"), "{failure}");
        std::os::unix::fs::symlink("../src/a", base.join("mnt/link")).expect("linked");
        assert!(not_inside(&source, &base.join("mnt/link/b")).is_err(), "through a link");
    }

    #[test]
    fn sources_that_cannot_be_shown_are_explained() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        let failure = |path: &Path| source(path, Path::new("/mnt")).expect_err("must fail").to_string();
        assert!(failure(&file).contains("single files"), "{}", failure(&file));
        let missing = dir.path().join("missing");
        let text = failure(&missing);
        assert!(
            text.contains(&format!("mkdir -p {}", missing.display())) && text.contains("on /mnt"),
            "{text}"
        );
        assert!(directory(&file).is_err() && directory(dir.path()).is_ok() && directory(&missing).is_ok());
    }
}
