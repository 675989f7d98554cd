//! Going to the background: by running this program again, so that no state of a half-started process is inherited.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::plan::Plan;
use super::sys;
use crate::failure::{Failure, Outcome};

/// What the process in the background says on its standard output once the mount works.
const READY: &str = "ready";

/// Takes the place of the standard streams. It is the standard input of the process in the background from the beginning, so that there it
/// takes no descriptor, of which there may be none left, to let go of the others.
const NULL: &str = "/dev/null";

/// Starts the process in the background and waits until its mount works. If it does not get there it has told why on
/// standard error, which it shares until then.
///
/// # Errors
/// If it cannot be started, or ended without a mount.
pub fn start(words: &[OsString], plan: &Plan) -> Outcome<()> {
    let failed = |why: String| {
        Failure::new(format!(
            "cannot mount {} on {}: {why}",
            plan.source.display(),
            plan.mountpoint.display()
        ))
    };
    let null = OpenOptions::new().read(true).write(true).open(NULL);
    let null = null.map_err(|error| failed(format!("{NULL} cannot be opened: {error}")).for_error(&error))?;
    // Old kernels cannot, and then a lock of the caller may last longer than they want: no reason not to mount.
    let _ = sys::keep_descriptors();
    let mut child = Command::new(program())
        .arg0("fusewire")
        .arg("--report-ready")
        .args(words.iter().skip(1))
        .stdin(Stdio::from(null))
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| {
            failed(format!("the process for the background could not be started: {error}")).for_error(&error)
        })?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        // An error here is the same as silence: the child has gone.
        let _ = BufReader::new(output).read_line(&mut said);
    }
    if said.trim_end() == READY {
        return Ok(());
    }
    let status = child.wait().map_err(|error| {
        failed(format!("the process in the background is lost: {error}")).or_try("without --daemon")
    })?;
    if status.code().is_some_and(|code| code != 0) {
        return Err(Failure::told_already());
    }
    Err(failed(format!("the process in the background ended before the mount worked ({status})"))
        .or_try("without --daemon, to see more"))
}

/// This program. By its path, so that it is called by its name in lists of processes; if it was replaced meanwhile, what
/// runs now.
fn program() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.is_file()).unwrap_or_else(|| "/proc/self/exe".into())
}

/// In the background: leaves the session and process group of whoever started it, so that their end and their Ctrl-C
/// are not its own.
///
/// # Errors
/// If the system refuses.
pub fn detach() -> Outcome<()> {
    rustix::process::setsid()
        .map(drop)
        .map_err(|error| Failure::because("cannot start a session of its own", &error))
}

/// In the background: tells that the mount works and lets go of terminal and working directory.
///
/// # Errors
/// If nobody listens any more.
pub fn report_ready() -> io::Result<()> {
    // First: whoever hears that it is ready may unmount at once what it was started in.
    let left = rustix::process::chdir("/");
    let mut output = io::stdout().lock();
    writeln!(output, "{READY}").and_then(|()| output.flush())?;
    let null = rustix::stdio::stdin();
    let released = rustix::stdio::dup2_stdout(null).and_then(|()| rustix::stdio::dup2_stderr(null)).and(left);
    if let Err(error) = released {
        tracing::warn!(%error, "the terminal or working directory of the caller is kept");
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(())
}
