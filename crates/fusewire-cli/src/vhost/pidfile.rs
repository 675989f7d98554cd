//! The file beside a socket that tells which process serves there, and keeps a second one away: virtiofsd makes it, too, and its users'
//! scripts look for it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::failure::{Failure, Outcome};

/// How long a process that serves may take to end after the one that was called.
const PATIENCE: Duration = Duration::from_secs(5);

/// A locked file `<socket>.pid`. The lock is there as long as this, or a copy of it in a process that was forked.
#[derive(Debug)]
pub struct PidFile {
    file: Arc<File>,
}

impl PidFile {
    /// The file, for another process that is to have the lock.
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }
}

/// Where it is.
pub fn path(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".pid");
    name.into()
}

/// Takes the socket's name for this process, which is said in the file.
///
/// # Errors
/// If another process has it, or the file cannot be made.
pub fn claim(socket: &Path) -> Outcome<PidFile> {
    let path = path(socket);
    let failed = |error: io::Error| {
        Failure::new(format!("cannot make {}: {error}", path.display()))
            .or_try("another --socket-path, in a directory that this user may write to")
    };
    let begin = Instant::now();
    let mut file = loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) if is_gone(&path) && begin.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(Errno::WOULDBLOCK) => return Err(taken(socket, &path)),
            Err(error) => return Err(failed(error.into())),
        }
        // Whoever had it may have taken it away before it was locked here: then it says nothing to anybody.
        let locked = file.metadata().map_err(failed)?.ino();
        if fs::symlink_metadata(&path).is_ok_and(|now| now.ino() == locked) {
            break file;
        }
    };
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(PidFile { file: Arc::new(file) })
}

/// Is the process that the file names not there any more? The one that serves for it, and has the lock, too, ends with it.
fn is_gone(path: &Path) -> bool {
    let pid = fs::read_to_string(path).ok().and_then(|who| who.trim().parse().ok()).and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

fn taken(socket: &Path, path: &Path) -> Failure {
    let who = fs::read_to_string(path).unwrap_or_default();
    let who = match who.trim() {
        "" => String::new(),
        number => format!(" {number}"),
    };
    Failure::new(format!(
        "cannot listen at {}: the process{who} serves there, as {} says",
        socket.display(),
        path.display()
    ))
    .or_try("another --socket-path, or once that process has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_once_and_free_again_afterwards() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let first = claim(&socket).expect("free");
        let text = fs::read_to_string(path(&socket)).expect("the file");
        assert_eq!(text, format!("{}\n", std::process::id()));
        let refused = claim(&socket).expect_err("taken").to_string();
        assert!(refused.contains("socket.pid") && refused.contains(text.trim()), "{refused}");
        drop(first);
        // Left behind, and with a longer number in it.
        fs::write(path(&socket), "12345678901234567890\n").expect("the file");
        _ = claim(&socket).expect("free again");
        assert_eq!(fs::read_to_string(path(&socket)).expect("the file"), text);
    }
}
