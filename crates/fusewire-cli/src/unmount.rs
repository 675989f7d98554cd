//! `fusewire unmount`: end a FUSE mount, or tell who prevents it.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fusewire::mount::{MountEntry, MountError, fuse_mounts, unmount_path};

use fusewire::remedy::quoted;

use crate::args::UnmountArgs;
use crate::failure::{Failure, Outcome};
use crate::users;

/// How often, and how far apart, it is tried before a mount counts as in use: many programs look at a filesystem for a moment
/// only, and the server of a mount on top of it takes a moment to end.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// How long a mount may stay in the table after it was unmounted.
const PATIENCE: Duration = Duration::from_secs(10);

/// Unmounts everything that was asked for. What fails does not keep the rest from being unmounted.
///
/// # Errors
/// One failure; the others have been printed.
pub fn run(args: &UnmountArgs) -> Outcome<()> {
    let mut last = None;
    for path in &args.mountpoints {
        if let Err(failure) = unmount(path, args)
            && let Some(earlier) = last.replace(failure)
        {
            crate::complain(&earlier);
        }
    }
    last.map_or(Ok(()), Err)
}

fn unmount(path: &Path, args: &UnmountArgs) -> Outcome<()> {
    let mounted = find(path);
    // Who has files open on a filesystem that is aborted cannot close them by being told so: hence lazily.
    match while_busy(|| unmount_path(path, args.lazy || args.abort, args.abort)) {
        Ok(()) => mounted.map_or(Ok(()), |entry| wait(&entry)),
        Err(MountError::Busy { path }) => Err(busy(&path, mounted.as_ref())),
        Err(error) => Err(explain(path, &error)),
    }
}

/// Unmounts in this way, again and again for a moment while the mount is in use.
///
/// # Errors
/// That of the last attempt.
pub fn while_busy(mut attempt: impl FnMut() -> Result<(), MountError>) -> Result<(), MountError> {
    let mut outcome = attempt();
    for _ in 1..TRIES {
        if !matches!(outcome, Err(MountError::Busy { .. })) {
            break;
        }
        thread::sleep(PAUSE);
        outcome = attempt();
    }
    outcome
}

fn busy(path: &Path, mounted: Option<&MountEntry>) -> Failure {
    let users = mounted.map_or("others".to_owned(), |entry| users::of_mount(path, entry.device));
    let (shown, path) = (path.display(), quoted(path));
    Failure::new(format!("cannot unmount {shown}: it is in use by {users}"))
        .or_try("the same when they are done")
        .or_try(format!(
            "fusewire unmount --lazy {path}, which takes it out of sight now and ends it with its last user"
        ))
        .or_try(format!("fusewire unmount --abort {path}, which cuts them off"))
}

fn explain(path: &Path, error: &MountError) -> Failure {
    let failure = Failure::new(error.to_string());
    if !matches!(error, MountError::NotMounted { .. }) {
        // All others say what helps.
        return failure;
    }
    let mounts = fuse_mounts().unwrap_or_default();
    let places: Vec<_> = mounts.iter().map(|entry| quoted(&entry.mountpoint)).collect();
    match places.as_slice() {
        [] => failure.or_try(
            "fusewire top --once, which shows FUSE mounts of other mount namespaces, too: in this one there is none",
        ),
        _ if places.len() <= 8 => failure.or_try(format!("one of the FUSE mounts: {}", places.join(", "))),
        _ => failure.or_try(format!("findmnt -t fuse, to see what is mounted instead of {}", path.display())),
    }
}

/// The FUSE mount on top at `path`. Neither it nor its server is asked: both may hang.
pub fn find(path: &Path) -> Option<MountEntry> {
    let resolved = resolve(path)?;
    fuse_mounts().ok()?.into_iter().rfind(|entry| entry.mountpoint == resolved)
}

/// The absolute path without symbolic links, except that the last component is not looked at.
fn resolve(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    match (path.parent(), path.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => {
            let place = fs::canonicalize(parent).ok()?.join(name);
            // A link to a mount point stands for it.
            match fs::read_link(&place) {
                Ok(target) => fs::canonicalize(place.parent()?.join(target)).ok(),
                Err(_) => Some(place),
            }
        }
        _ => fs::canonicalize(path).ok(),
    }
}

fn wait(entry: &MountEntry) -> Outcome<()> {
    let start = Instant::now();
    loop {
        let mounts = fuse_mounts().unwrap_or_default();
        if !mounts.iter().any(|other| other.id == entry.id && other.device == entry.device) {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(Failure::new(format!(
                "{} was unmounted without error, and is still in the table of mounts after {} s",
                entry.mountpoint.display(),
                PATIENCE.as_secs()
            ))
            .or_try("findmnt -t fuse, to see whether it was mounted again"));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resolved_up_to_the_mount_point() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let base = fs::canonicalize(dir.path()).expect("canonical");
        fs::create_dir(base.join("real")).expect("made");
        std::os::unix::fs::symlink("real", base.join("link")).expect("linked");
        assert_eq!(resolve(&base.join("link/mnt")), Some(base.join("real/mnt")));
        assert_eq!(resolve(&base.join("link")), Some(base.join("real")));
        assert_eq!(resolve(&base.join("link/..")), Some(base.clone()));
        assert_eq!(resolve(Path::new("/")), Some("/".into()));
        assert!(find(&base).is_none());
    }
}
