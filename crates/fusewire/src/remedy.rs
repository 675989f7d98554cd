//! What helps against an error of the system, for whoever has to tell a user of it.

use std::error::Error;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// What to do about too many open files of one process.
pub(crate) const MORE_FILES: &str =
    "raise the limit of open files: ulimit -n, or LimitNOFILE= of the service";
/// What to do about too many processes and threads of one user.
pub(crate) const MORE_THREADS: &str = "raise the limit of processes: ulimit -u, or TasksMax= of the service";

/// What helps against `error`, or against the first error of the system among its causes, whatever was tried; none if that depends
/// on what was tried.
pub fn of(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        let number = io.or_else(|| error.downcast_ref::<Errno>().map(|errno| errno.raw_os_error()));
        if let Some(number) = number {
            return of_errno(Errno::from_raw_os_error(number));
        }
        next = error.source();
    }
    None
}

/// The same for an error number.
pub fn of_errno(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::MFILE => MORE_FILES,
        Errno::NFILE => {
            "end programs that hold many files open, or raise the limit of the machine: sysctl fs.file-max"
        }
        Errno::AGAIN => MORE_THREADS,
        Errno::NOMEM => "free some memory, or raise the limit of it: ulimit -v, or MemoryMax= of the service",
        Errno::LOOP => {
            "write a path whose symbolic links do not lead in a circle; namei -l shows where they lead"
        }
        Errno::NAMETOOLONG => "write a shorter path: each name may have 255 bytes, the whole of it 4095",
        Errno::NOENT => "write a path that exists; ls shows what is there",
        Errno::NOTDIR => "write a path that has directories only, where one is needed",
        Errno::ISDIR => "name a file: there is a directory",
        Errno::EXIST => "choose another name, or move away what is there",
        Errno::ACCESS => {
            "do it as root, or as a user whom the permissions of the path and of all directories above let in"
        }
        Errno::PERM => {
            "do it as root; in a container or a service, see which capabilities and system calls it is left with"
        }
        Errno::ROFS => "choose a place that is not mounted read-only",
        Errno::NOSPC => "make room: df and df -i show where there is none",
        Errno::DQUOT => "make room, or have the quota raised",
        Errno::IO => "look into the kernel's log for what the device beneath has: dmesg",
        Errno::NOTCONN => {
            "end the FUSE mount whose server is gone: fusewire unmount --lazy and its mount point"
        }
        Errno::NOSYS | Errno::OPNOTSUPP => "see what this kernel has and what not: fusewire probe",
        Errno::ADDRINUSE => "choose another address, or end whoever listens there: ss -lntx shows who does",
        Errno::ADDRNOTAVAIL => "choose an address of this machine: ip address shows them",
        _ => return None,
    })
}

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+:@%,".contains(letter);
    let text = path.to_string_lossy();
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_decides() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot begin")]
        struct Outer(#[source] io::Error);
        let system = || io::Error::from_raw_os_error(libc::EMFILE);
        assert_eq!(of(&Outer(system())), Some(MORE_FILES));
        assert_eq!(of(&Outer(io::Error::other(Outer(system())))), Some(MORE_FILES));
        assert_eq!(of(&Errno::LOOP), of_errno(Errno::LOOP));
        assert_eq!(of(&io::Error::other("words")), None);
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted(Path::new("/a/b-c.d")), "/a/b-c.d");
        assert_eq!(quoted(Path::new("/it's")), r"'/it'\''s'");
    }
}
