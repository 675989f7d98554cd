//! Where real mounts are tried: a mount namespace of its own, a scratch folder, a watchdog, and a server that knows
//! just enough to be looked at.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fusewire_abi::{AttrOut, InHeader, InitOut, Opcode, OpenOut, OutHeader, StatfsOut};
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::super::{Mount, Mounted, Unmount, fuse_mounts, fusectl, sys};

/// No test needs as long.
const PATIENCE: Duration = Duration::from_secs(40);

/// Inode number that the server gives its root.
pub const ROOT_INO: u64 = 4711;

/// Runs `test` where nothing it mounts can be seen or stay. Needs root and `/dev/fuse`, else it only says so.
pub fn on_stage(name: &str, test: impl FnOnce(&Path) + Send + 'static) {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: {name} needs root and /dev/fuse");
        return;
    }
    let folder = std::env::temp_dir().join(format!("fusewire-mount-{}-{name}", std::process::id()));
    // The namespace belongs to a thread, so it goes with it.
    let stage = thread::spawn(move || {
        sys::private_namespace().expect("root may have a mount namespace");
        std::fs::create_dir_all(folder.join("m")).expect("scratch folder");
        let folder = std::fs::canonicalize(folder).expect("just made");
        let watchdog = Watchdog::new(folder.clone());
        test(&folder);
        watchdog.call_off();
        assert_eq!(mounted_below(&folder), Vec::<PathBuf>::new(), "left mounted");
        std::fs::remove_dir_all(folder).expect("clean up");
    });
    if let Err(panic) = stage.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Mount points of FUSE filesystems below `folder`.
pub fn mounted_below(folder: &Path) -> Vec<PathBuf> {
    let mounts = fuse_mounts().expect("mountinfo").into_iter().map(|entry| entry.mountpoint);
    mounts.filter(|mountpoint| mountpoint.starts_with(folder)).collect()
}

/// Waits until `done`, for a few seconds.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "did not happen: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Unmounts what nobody is meant to use any more.
pub fn unmount_idle(mount: &Mount) {
    // RELEASE is sent behind close's back, and holds the mount until it is answered; and other tests fork, so that
    // for a moment descriptors are open twice.
    eventually("unmounting", || mount.unmount(Unmount::IfIdle).is_ok());
}

/// Aborts the connections of a test that takes too long, so that whoever waits on them gets an error.
struct Watchdog {
    call_off: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watchdog {
    fn new(folder: PathBuf) -> Self {
        let (call_off, called_off) = channel();
        // The thread is in the same namespace as the one that starts it.
        let thread = thread::spawn(move || {
            let late = called_off.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            let mounts = fuse_mounts().unwrap_or_default();
            for entry in mounts.iter().filter(|entry| late && entry.mountpoint.starts_with(&folder)) {
                eprintln!("watchdog: aborting {}", entry.mountpoint.display());
                let _ = entry.connection().map(fusectl::abort);
            }
            late
        });
        Self { call_off, thread }
    }

    fn call_off(self) {
        let _ = self.call_off.send(());
        assert!(!self.thread.join().expect("watchdog"), "the test took too long");
    }
}

/// Reads INIT and answers it.
pub fn answer_init(device: BorrowedFd<'_>) -> io::Result<()> {
    let header = read_init(device)?;
    let init = InitOut { major: 7, minor: 31, max_write: 65536, max_readahead: 65536, ..InitOut::default() };
    Ok(reply(device, header.unique, Ok(init.as_bytes()))?)
}

/// Reads INIT and leaves it unanswered.
pub fn read_init(device: BorrowedFd<'_>) -> io::Result<InHeader> {
    let mut buffer = vec![0; 1 << 17];
    let length = rustix::io::read(device, &mut buffer)?;
    let (header, _) = InHeader::read_from_prefix(&buffer[..length]).expect("a whole header");
    assert_eq!(Opcode::from_raw(header.opcode), Some(Opcode::Init), "INIT comes first");
    Ok(header)
}

/// Answers one request.
pub fn reply(device: BorrowedFd<'_>, unique: u64, result: Result<&[u8], Errno>) -> rustix::io::Result<()> {
    let (error, body) = match result {
        Ok(body) => (0, body),
        Err(error) => (-error.raw_os_error(), &[][..]),
    };
    let header = OutHeader { len: (16 + body.len()) as u32, error, unique };
    rustix::io::write(device, &[header.as_bytes(), body].concat()).map(drop)
}

/// An empty directory (or file), served until the connection ends.
pub struct Server {
    thread: JoinHandle<Errno>,
}

impl Server {
    /// Takes over the descriptor.
    pub fn start(mounted: Mounted) -> (Mount, Self) {
        let Mounted { device, mount } = mounted;
        let is_file = mount.mountpoint().ends_with("f");
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 17];
            loop {
                match rustix::io::read(&device, &mut buffer) {
                    Ok(length) => serve(device.as_fd(), &buffer[..length], is_file),
                    Err(Errno::INTR | Errno::NOENT) => {}
                    Err(end) => return end,
                }
            }
        });
        (mount, Self { thread })
    }

    /// Waits until reading has ended in the way that unmounting ends it.
    pub fn end(self) {
        eventually("the server ends", || self.thread.is_finished());
        let error = self.thread.join().expect("no panic");
        // ECONNABORTED if a request, a last RELEASE mostly, was being read just then (`fuse_dev_do_read`).
        assert!([Errno::NODEV, Errno::CONNABORTED].contains(&error), "{error:?}");
    }
}

fn serve(device: BorrowedFd<'_>, request: &[u8], is_file: bool) {
    let (header, _) = InHeader::read_from_prefix(request).expect("a whole header");
    let mut attr = AttrOut::default();
    attr.attr.ino = ROOT_INO;
    attr.attr.mode = if is_file { libc::S_IFREG | 0o644 } else { libc::S_IFDIR | 0o755 };
    attr.attr.nlink = 1;
    let (open, statfs) = (OpenOut::default(), StatfsOut::default());
    let answer = match Opcode::from_raw(header.opcode) {
        Some(Opcode::Getattr) => Ok(attr.as_bytes()),
        Some(Opcode::Open | Opcode::Opendir) => Ok(open.as_bytes()),
        Some(Opcode::Statfs) => Ok(statfs.as_bytes()),
        Some(Opcode::Readdir | Opcode::Release | Opcode::Releasedir) => Ok(&[][..]),
        Some(Opcode::Lookup) => Err(Errno::NOENT),
        Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt) => return,
        _ => Err(Errno::NOSYS),
    };
    // The asker may have gone; whether answers arrive is what the tests look at.
    let _ = reply(device, header.unique, answer);
}
