//! The link through which `mount(8)` finds fusewire.

use std::io;
use std::path::Path;

use crate::args::InstallArgs;
use crate::failure::{Failure, Outcome};
use crate::mount8::PROGRAM;

/// Makes the link, or takes it away.
///
/// # Errors
/// If something else has its name, or the directory cannot be written to.
pub fn run(args: &InstallArgs) -> Outcome<()> {
    let link = args.dir.join(PROGRAM);
    let existing = std::fs::read_link(&link);
    if existing.is_err() && std::fs::symlink_metadata(&link).is_ok() {
        return Err(Failure::new(format!(
            "cannot use {}: a file that is not a symbolic link has this name, so it was not made by fusewire",
            link.display()
        ))
        .or_try(format!("look at it and move it away: mv {0} {0}.old", link.display())));
    }
    if args.remove {
        if existing.is_ok() {
            std::fs::remove_file(&link).map_err(|error| refused("remove", &link, &error))?;
        }
        return Ok(());
    }
    let program = std::env::current_exe()
        .map_err(|error| Failure::because("cannot find out where fusewire is installed", &error))?;
    if existing.is_ok_and(|target| target == program) {
        return Ok(());
    }
    place(&program, &link).map_err(|error| refused("make", &link, &error))
}

/// Puts the link into place in one step, so that a mount that runs meanwhile finds the old one or the new one.
fn place(program: &Path, link: &Path) -> io::Result<()> {
    let aside = link.with_extension(format!("{}.new", std::process::id()));
    std::os::unix::fs::symlink(program, &aside)?;
    std::fs::rename(&aside, link).inspect_err(|_| {
        let _ = std::fs::remove_file(&aside);
    })
}

fn refused(action: &str, link: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(format!("cannot {action} the link {}: {error}", link.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.or_try("the same as root: sudo fusewire install-helper"),
        io::ErrorKind::NotFound => failure.or_try("a directory that exists, with --dir DIR"),
        _ => failure.for_error(error).or_try("another directory, with --dir DIR"),
    }
}
