//! Data that is no file's, on its way to and from a client's pages: over a ring with zero copy, filesystems need not know.
//!
//! Needs root and a kernel with zero copy (Linux 7.3), and passes with a word of explanation elsewhere: `cargo xtask guest`
//! has one. The mount lives in a mount namespace of its own.

use fusewire::{
    mount::{MountError, MountOptions, Unmount},
    reply::*,
    server::{Channel, Options, Server},
    *,
};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const FILE: NodeId = NodeId::new(2);
/// Set in a process that has a mount namespace of its own.
const INSIDE: &str = "FUSEWIRE_TEST_INSIDE";
const LENGTH: usize = 700_001;

/// One file, kept in a vector, opened for zero copy.
#[derive(Clone)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl FileSystem for Kept {
    async fn lookup(&self, _: &Context, _: op::Lookup<'_>) -> Result<Entry> {
        Ok(Entry::new(FILE, Attr::file(LENGTH as u64)))
    }

    async fn getattr(&self, _: &Context, op: op::Getattr) -> Result<Attr> {
        Ok(if op.node == FILE { Attr::file(LENGTH as u64) } else { Attr::directory() })
    }

    async fn setattr(&self, _: &Context, _: op::Setattr) -> Result<Attr> {
        Ok(Attr::file(LENGTH as u64))
    }

    async fn open(&self, _: &Context, _: op::Open) -> Result<Opened> {
        let flags = FopenFlags::IO_URING_ZERO_COPY | FopenFlags::DIRECT_IO;
        Ok(Opened::new(Handle(0)).with_flags(flags))
    }

    async fn read(&self, _: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        out.put_from(&self.0.lock().unwrap(), op.offset);
        Ok(())
    }

    async fn write(&self, _: &Context, op: op::Write<'_>) -> Result<u32> {
        let mut content = self.0.lock().unwrap();
        let room = &mut content[op.offset as usize..][..op.data.len()];
        assert_eq!(op.data.to_vec().len(), op.data.len());
        Ok(op.data.copy_to(room) as u32)
    }
}

fn is_new_enough() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-', '+']).filter_map(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(7), Some(3)) && rustix::process::geteuid().is_root()
}

#[test]
fn bytes_that_are_no_files_reach_the_pages_and_come_from_them() {
    if !is_new_enough() {
        eprintln!("skipped: zero copy takes Linux 7.3 and root");
        return;
    }
    if std::env::var_os(INSIDE).is_none() {
        let again = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(std::env::current_exe().expect("this program"))
            .env(INSIDE, "1")
            .status();
        assert!(again.expect("unshare(1)").success(), "it failed inside of its namespace");
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let kept = Kept(Arc::new(Mutex::new((0..LENGTH).map(|at| (at % 251) as u8).collect())));
    let options = Options { channel: Channel::Uring, mount: MountOptions::default(), ..Options::default() };
    let server = Server::mount(kept.clone(), dir.path(), &options).expect("mount");
    check(&dir.path().join("file"), &kept);
    unmount_idle(&server);
    server.join().expect("join");
}

/// Who asks for the root's attributes, so that waiting requests are set going, may use the mount for a moment still.
fn unmount_idle(server: &Server) {
    let begin = Instant::now();
    loop {
        let is_last = begin.elapsed() >= Duration::from_secs(20);
        match server.handle().unmount(Unmount::IfIdle) {
            Err(MountError::Busy { .. }) if !is_last => std::thread::sleep(Duration::from_millis(1)),
            done => return done.expect("unmount"),
        }
    }
}

fn check(path: &Path, kept: &Kept) {
    let file = File::options().read(true).write(true).open(path).expect("open");
    let wanted = kept.0.lock().unwrap().clone();
    for (offset, length) in [(0, LENGTH), (1, 4096), (4095, 200_000), (LENGTH - 10, 10)] {
        let mut found = vec![0; length];
        file.read_exact_at(&mut found, offset as u64).expect("read");
        assert!(found == wanted[offset..][..length], "{length} bytes at {offset}");
    }
    assert_eq!(file.read_at(&mut [0; 100], LENGTH as u64).expect("read"), 0);
    for (offset, length) in [(0, 300_000), (12_345, 1), (400_001, 300_000)] {
        let bytes: Vec<u8> = (0..length).map(|at| (at % 13) as u8 + 100).collect();
        file.write_all_at(&bytes, offset as u64).expect("write");
        assert!(kept.0.lock().unwrap()[offset..][..length] == bytes, "{length} bytes at {offset}");
    }
}
