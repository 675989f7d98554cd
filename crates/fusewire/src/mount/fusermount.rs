//! Mounting and unmounting as an ordinary user, through the set-user-id program `fusermount3`.
//!
//! It opens `/dev/fuse`, mounts, and passes the descriptor over the socket whose number is in `_FUSE_COMMFD`.

use std::ffi::OsString;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::device;
use super::error::{MOUNT, MountError, SEE_LOG, UNMOUNT};
use super::guard::socket_pair;
use super::options::{MountOptions, escape};
use crate::remedy;

const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// Searched after `PATH`, which services often have cut down; the last one is where NixOS keeps such programs.
const FOLDERS: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"];

/// Mounts, and returns the `/dev/fuse` descriptor. INIT is then still to be answered.
pub(super) fn mount(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let program = find(MOUNT, path)?;
    let list = option_list(options)?;
    device::check()?;
    let failure = |message: String| refused(MOUNT, path, &program, message);
    let (ours, theirs) = socket_pair().map_err(|error| failure(error.to_string()))?;
    // The socket goes as standard input: so no descriptor has to be made inheritable, which another thread
    // that starts a program at this moment would leak.
    let mut child = command(&program)
        .arg("-o")
        .arg(list)
        .arg("--")
        .arg(path)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs))
        .spawn()
        .map_err(|error| failure(format!("cannot run it: {error}")))?;
    let stderr = child.stderr.take();
    match receive(&ours) {
        Ok(Some(device)) => {
            drop(ours);
            let _ = child.wait();
            pass_on(stderr);
            Ok(device)
        }
        Ok(None) => Err(failure(last_words(child, stderr))),
        Err(error) => {
            drop(ours);
            let words = last_words(child, stderr);
            Err(failure(format!("no descriptor was received: {error} ({words})")))
        }
    }
}

/// Whether there is the program, and an option that it does not know, and whether the device is something else.
pub(super) fn check(path: &Path, options: &MountOptions) -> Result<(), MountError> {
    find(MOUNT, path)?;
    option_list(options)?;
    device::check()
}

/// Unmounts what is at `path`; lazily if asked for.
pub(super) fn unmount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let program = find(UNMOUNT, path)?;
    let mut command = command(&program);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let run = command.arg("--").arg(path).stdin(Stdio::null()).output();
    let output = run.map_err(|error| refused(UNMOUNT, path, &program, format!("cannot run it: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let message = describe(&output);
    if message.contains("Device or resource busy") {
        return Err(MountError::Busy { path: path.to_owned() });
    }
    Err(refused(UNMOUNT, path, &program, message))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    // Its messages are searched for known texts.
    command.env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The program that is installed.
pub(super) fn find(action: &'static str, path: &Path) -> Result<PathBuf, MountError> {
    search(std::env::var_os("PATH").as_ref(), &FOLDERS)
        .ok_or_else(|| MountError::NoFusermount { action, path: path.to_owned() })
}

fn search(variable: Option<&OsString>, folders: &[&str]) -> Option<PathBuf> {
    let listed = variable.map(|list| std::env::split_paths(list).collect::<Vec<_>>()).unwrap_or_default();
    let all = || listed.iter().map(PathBuf::as_path).chain(folders.iter().map(Path::new));
    let mut candidates = PROGRAMS.iter().flat_map(|name| all().map(move |folder| folder.join(name)));
    candidates.find(|program| program.is_absolute() && program.is_file())
}

/// The `-o` list. `auto_unmount` is not in it: with it the program stays and unmounts in the end, but it looks at the
/// mount as root, and so sees only those mounted with `allow_other`.
fn option_list(options: &MountOptions) -> Result<String, MountError> {
    if options.nosymfollow {
        return Err(MountError::option(
            "nosymfollow",
            "fusermount3 does not know it; only root can mount so",
        ));
    }
    let without = [
        ("nodiratime", options.nodiratime),
        ("strictatime", options.strictatime),
        ("lazytime", options.lazytime),
    ];
    for (option, _) in without.iter().filter(|(_, wanted)| *wanted) {
        tracing::warn!(option, "fusermount3 does not know this mount option; mounting without it");
    }
    let flags = [
        ("ro", options.read_only),
        ("allow_other", options.allow_other),
        ("default_permissions", options.default_permissions),
        ("noexec", options.noexec),
        ("noatime", options.noatime),
        ("dirsync", options.dirsync),
        ("sync", options.sync),
    ];
    let mut list = vec!["nosuid".to_owned(), "nodev".to_owned()];
    list.extend(flags.iter().filter(|(_, wanted)| *wanted).map(|(flag, _)| (*flag).to_owned()));
    list.extend(options.max_read.map(|bytes| format!("max_read={bytes}")));
    list.push(format!("fsname={}", escape(options.source())));
    list.push(format!("subtype={}", escape(options.subtype())));
    Ok(list.join(","))
}

/// The descriptor, or nothing if the other end was closed without sending one.
fn receive(socket: &OwnedFd) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut byte = [0];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut data = [IoSliceMut::new(&mut byte)];
        match recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
            Ok(message) if message.bytes == 0 => return Ok(None),
            Ok(_) => {}
        }
        let device = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let device = device.ok_or(Errno::BADMSG)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(device.as_fd())?.st_mode);
        return if kind == FileType::CharacterDevice { Ok(Some(device)) } else { Err(Errno::BADMSG) };
    }
}

/// What a program that failed has written, or how it ended.
fn last_words(child: Child, stderr: Option<ChildStderr>) -> String {
    let mut child = child;
    child.stderr = stderr;
    match child.wait_with_output() {
        Ok(output) => describe(&output),
        Err(error) => format!("it failed without a message ({error})"),
    }
}

fn describe(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    // Each line begins with the program's path, which the error names anyway.
    let lines = text.lines().map(|line| match line.split_once(": ") {
        Some((program, message)) if PROGRAMS.iter().any(|name| program.ends_with(name)) => message,
        _ => line,
    });
    match lines.collect::<Vec<_>>().join("; ").trim() {
        "" => format!("it failed without a message ({})", output.status),
        text => text.to_owned(),
    }
}

/// Warnings of a mount that succeeded.
fn pass_on(stderr: Option<ChildStderr>) {
    let mut text = String::new();
    if let Some(mut stderr) = stderr
        && stderr.read_to_string(&mut text).is_ok()
        && !text.is_empty()
    {
        tracing::warn!(message = text.trim_end(), "fusermount3");
    }
}

fn refused(action: &'static str, path: &Path, program: &Path, message: String) -> MountError {
    let hint = hint(&message);
    MountError::Fusermount { action, path: path.to_owned(), program: program.to_owned(), message, hint }
}

fn hint(message: &str) -> &'static str {
    let known = [
        (
            "user_allow_other",
            "write a line user_allow_other into /etc/fuse.conf, or mount without allow_other",
        ),
        (
            "no write access",
            "an ordinary user mounts only on directories where they may write; choose one of your own",
        ),
        (
            "not owned by user",
            "in a sticky directory such as /tmp an ordinary user mounts only on what they own; choose a directory of your own",
        ),
        ("too many FUSE", "unmount some, or raise mount_max in /etc/fuse.conf"),
        (
            "determine username",
            "the number of this user has no line in /etc/passwd: add one (useradd), or run this as root",
        ),
        (
            "/dev/fuse: Permission denied",
            "its permissions forbid it; usual is mode 0666: chmod 0666 /dev/fuse, as root",
        ),
        (
            "fuse device not found",
            "load the kernel module: modprobe fuse; or start the container with --device /dev/fuse",
        ),
        ("mounting over filesystem type", "choose a directory on an ordinary filesystem"),
        (
            "not found in",
            "it is no FUSE mount of this user; the user who mounted it, or root, can unmount it",
        ),
        (
            "Operation not permitted",
            "fusermount3 must be set-user-id root, which containers and no_new_privs take away: ls -l \
             $(which fusermount3)",
        ),
        (
            "Permission denied",
            "see the permissions of /dev/fuse and of the directories above the mount point",
        ),
        ("Too many open files", remedy::MORE_FILES),
        ("Resource temporarily unavailable", remedy::MORE_THREADS),
    ];
    known.iter().find(|(text, _)| message.contains(text)).map_or(SEE_LOG, |(_, hint)| hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_written_as_fusermount_reads_them() {
        let options = MountOptions {
            fsname: Some("a,b\\c".into()),
            read_only: true,
            max_read: Some(65536),
            ..Default::default()
        };
        let list = option_list(&options).expect("a list");
        assert_eq!(list, r"nosuid,nodev,ro,max_read=65536,fsname=a\,b\\c,subtype=fusewire");
        let refused = option_list(&MountOptions { nosymfollow: true, ..Default::default() });
        assert!(refused.expect_err("refused").to_string().contains("nosymfollow"));
    }

    #[test]
    fn a_program_that_is_not_there_is_not_found() {
        assert_eq!(search(Some(&"/nonexistent:relative".into()), &["/nonexistent/too"]), None);
        assert_eq!(search(None, &[]), None);
    }

    #[test]
    fn refusals_carry_a_remedy() {
        let message = "option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        let text = refused(MOUNT, Path::new("/m"), Path::new("/bin/fusermount3"), message.into()).to_string();
        for needle in ["/m", "/bin/fusermount3", "only allowed if", "write a line user_allow_other"] {
            assert!(text.contains(needle), "{text}");
        }
        assert!(hint("/usr/bin/fusermount3: could not determine username").contains("/etc/passwd"));
    }

    #[test]
    fn a_socket_closed_without_descriptor_is_noticed() {
        let (ours, theirs) = socket_pair().expect("sockets");
        drop(theirs);
        assert!(receive(&ours).expect("end of file").is_none());
    }
}
