//! A session of a real mount, recorded and replayed: what the kernel sends is what the golden bytes say it sends.
//!
//! Needs root and `/dev/fuse`, and passes with a word of explanation where there are none. The mount lives in a mount
//! namespace of its own and is aborted if the test takes too long.

use fusewire::{
    channel::layer::{Record, Replay},
    mount::{MountOptions, Unmount},
    reply::*,
    server::{Options, Server},
    *,
};
use rustix::fs::{self as sys, AtFlags, FlockOperation, Mode, OFlags, RenameFlags, StatxFlags, XattrFlags};
use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

/// Finds and makes whatever is asked for, by what its name begins with, and keeps nothing.
#[derive(Default)]
struct Lenient {
    notifier: Arc<Mutex<Option<notify::Notifier>>>,
    retrieved: Arc<Mutex<Option<usize>>>,
}

const FILE: u64 = 2;
const DIRECTORY: u64 = 3;
const LINK: u64 = 4;
const PIPE: u64 = 5;

fn attr(node: u64) -> Attr {
    match node {
        1 | DIRECTORY => Attr::directory().with_perm(0o755),
        LINK => Attr::symlink(4),
        PIPE => Attr { kind: FileType::Fifo, ..Attr::file(0) },
        _ => Attr::file(8192).with_perm(0o644),
    }
    .with_ttl(Duration::ZERO)
}

fn entry(node: u64) -> Entry {
    Entry::new(NodeId::new(node), attr(node))
}

/// Operations that succeed with this.
macro_rules! succeed { ($($method:ident($op:ty) -> $reply:ty = $answer:expr;)*) => {
    $(async fn $method(&self, _: &Context, _: $op) -> Result<$reply> {
        Ok($answer)
    })*
}; }

impl FileSystem for Lenient {
    fn init(&self, config: &mut Config) -> Result<()> {
        config.want(InitFlags::POSIX_LOCKS | InitFlags::FLOCK_LOCKS | InitFlags::CREATE_SUPP_GROUP);
        config.want(InitFlags::DO_READDIRPLUS);
        Ok(())
    }

    fn started(&self, session: &Started) {
        *self.notifier.lock().unwrap() = Some(session.notifier.clone());
    }

    async fn lookup(&self, _: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        match op.name.as_bytes() {
            [b'f', ..] => Ok(entry(FILE)),
            [b'd', ..] => Ok(entry(DIRECTORY)),
            [b'l', ..] => Ok(entry(LINK)),
            _ => Err(Errno::NOENT),
        }
    }

    async fn getattr(&self, _: &Context, op: op::Getattr) -> Result<Attr> {
        Ok(attr(op.node.raw()))
    }

    async fn statx(&self, _: &Context, op: op::Statx) -> Result<(Attr, Extended)> {
        Ok((attr(op.node.raw()), Extended { btime: Some(Timestamp::default()), ..Default::default() }))
    }

    async fn setattr(&self, _: &Context, op: op::Setattr) -> Result<Attr> {
        let size = op.changes.size.unwrap_or(attr(op.node.raw()).size);
        Ok(Attr { size, ..attr(op.node.raw()) })
    }

    async fn readlink(&self, _: &Context, _: op::Readlink, out: &mut Sink<'_>) -> Result<()> {
        out.put(b"file");
        Ok(())
    }

    async fn mknod(&self, _: &Context, op: op::Mknod<'_>) -> Result<Entry> {
        Ok(entry(if op.mode & 0o170_000 == 0o010_000 { PIPE } else { 20 }))
    }

    succeed! {
        symlink(op::Symlink<'_>) -> Entry = entry(LINK);
        mkdir(op::Mkdir<'_>) -> Entry = entry(DIRECTORY);
        unlink(op::Unlink<'_>) -> () = ();
        rmdir(op::Rmdir<'_>) -> () = ();
        rename(op::Rename<'_>) -> () = ();
        link(op::Link<'_>) -> Entry = entry(FILE);
        open(op::Open) -> Opened = Opened::new(Handle(7));
        create(op::Create<'_>) -> (Entry, Opened) = (entry(21), Opened::new(Handle(8)));
        tmpfile(op::Tmpfile<'_>) -> (Entry, Opened) = (Entry::new(NodeId::new(22), Attr { nlink: 0, ..attr(22) }), Opened::new(Handle(9)));
        opendir(op::Opendir) -> Opened = Opened::new(Handle(10));
        statfs(op::Statfs) -> StatFs = StatFs { bsize: 4096, frsize: 4096, namelen: 255, ..Default::default() };
        fsync(op::Fsync) -> () = ();
        fsyncdir(op::Fsyncdir) -> () = ();
        flush(op::Flush) -> () = ();
        access(op::Access) -> () = ();
        setxattr(op::Setxattr<'_>) -> () = ();
        removexattr(op::Removexattr<'_>) -> () = ();
        getlk(op::Getlk) -> FileLock = FileLock { start: 0, end: 0, kind: LockKind::Unlock, pid: 0 };
        setlk(op::Setlk) -> () = ();
        poll(op::Poll) -> u32 = 1;
        fallocate(op::Fallocate) -> () = ();
        lseek(op::Lseek) -> u64 = 8192;
    }

    async fn copy_file_range(&self, _: &Context, op: op::CopyFileRange) -> Result<u64> {
        Ok(op.length)
    }

    async fn read(&self, _: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        out.put_from(&[b'x'; 8192], op.offset);
        Ok(())
    }

    async fn write(&self, _: &Context, op: op::Write<'_>) -> Result<u32> {
        Ok(op.data.len() as u32)
    }

    async fn getxattr(&self, _: &Context, op: op::Getxattr<'_>, out: &mut XattrSink<'_>) -> Result<()> {
        if !op.name.to_bytes().starts_with(b"user.") {
            return Err(Errno::NODATA);
        }
        out.put(b"value");
        Ok(())
    }

    async fn listxattr(&self, _: &Context, _: op::Listxattr, out: &mut XattrSink<'_>) -> Result<()> {
        out.put(b"user.x\0");
        Ok(())
    }

    async fn readdir(&self, _: &Context, op: op::Readdir, out: &mut DirSink<'_>) -> Result<()> {
        out.put_all(op.cookie, [(NodeId::new(FILE), FileType::Regular, "file")]);
        Ok(())
    }

    async fn readdirplus(&self, _: &Context, op: op::Readdirplus, out: &mut DirPlusSink<'_>) -> Result<()> {
        if op.cookie == 0 {
            _ = out.put(&entry(FILE), b"file", 1);
        }
        Ok(())
    }

    async fn retrieved(&self, _: &Context, op: op::Retrieved<'_>) {
        *self.retrieved.lock().unwrap() = Some(op.data.len());
    }
}

/// Call about everything there is to call.
fn exercise(mnt: &Path) -> std::io::Result<()> {
    let at = |name: &str| mnt.join(name);
    let root = File::open(mnt)?;
    let file = OpenOptions::new().read(true).write(true).open(at("file"))?;
    assert_eq!(file.read_at(&mut [0; 100], 4090)?, 100);
    file.write_all_at(b"written", 10)?;
    file.sync_all()?;
    file.sync_data()?;
    file.set_len(5000)?;
    sys::fallocate(&file, sys::FallocateFlags::KEEP_SIZE, 0, 4096)?;
    sys::seek(&file, sys::SeekFrom::Hole(0))?;
    let other = OpenOptions::new().read(true).write(true).open(at("file2"))?;
    sys::copy_file_range(&file, Some(&mut 0), &other, Some(&mut 4096), 100)?;
    sys::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
    sys::fcntl_lock(&file, FlockOperation::LockShared)?;
    sys::fcntl_lock(&file, FlockOperation::Unlock)?;
    sys::flock(&file, FlockOperation::LockExclusive)?;
    let mut polled = [rustix::event::PollFd::new(&file, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 }))?;
    drop((file, other));

    sys::setxattr(at("file"), "user.x", b"value", XattrFlags::CREATE)?;
    sys::getxattr(at("file"), "user.x", &mut [0; 16])?;
    sys::getxattr(at("file"), "user.x", &mut [0; 0])?;
    sys::listxattr(at("file"), &mut [0; 64])?;
    sys::removexattr(at("file"), "user.x")?;
    std::fs::set_permissions(at("file"), PermissionsExt::from_mode(0o640))?;
    std::os::unix::fs::chown(at("file"), Some(5), Some(6))?;
    let now = sys::Timespec { tv_sec: 0, tv_nsec: sys::UTIME_NOW };
    let past = sys::Timespec { tv_sec: -1, tv_nsec: 500 };
    let times = sys::Timestamps { last_access: now, last_modification: past };
    sys::utimensat(sys::CWD, at("file"), &times, AtFlags::empty())?;
    sys::statx(sys::CWD, at("file"), AtFlags::empty(), StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    sys::access(at("file"), sys::Access::WRITE_OK)?;
    assert_eq!(std::fs::read_link(at("link"))?, Path::new("file"));

    std::os::unix::fs::symlink("target", at("newlink"))?;
    sys::mknodat(sys::CWD, at("newpipe"), sys::FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    std::fs::create_dir(at("newdir"))?;
    std::fs::remove_dir(at("dir"))?;
    std::fs::remove_file(at("file"))?;
    std::fs::rename(at("file"), at("newfile"))?;
    sys::renameat_with(sys::CWD, at("file"), sys::CWD, at("newer"), RenameFlags::NOREPLACE)?;
    std::fs::hard_link(at("file"), at("newname"))?;
    drop(OpenOptions::new().write(true).create_new(true).mode(0o600).open(at("new"))?);
    drop(sys::open(mnt, OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(0o600))?);
    assert_eq!(std::fs::read_dir(at("dir"))?.count(), 1);
    root.sync_all()?;
    Ok(())
}

/// Run this very test in a mount namespace of its own, as its environment says then.
fn in_namespace(name: &str) -> bool {
    const INSIDE: &str = "FUSEWIRE_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: mounting needs root and /dev/fuse");
        return false;
    }
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare(1)");
    assert!(status.success(), "inside of its namespace the test failed: {status}");
    false
}

#[test]
fn a_mount_is_recorded_and_replayed_without_differences() {
    if !in_namespace("a_mount_is_recorded_and_replayed_without_differences") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mnt, recording) = (dir.path().join("mnt"), dir.path().join("recording"));
    std::fs::create_dir(&mnt).unwrap();
    let record = Record::create(&recording).unwrap();
    let fs = Lenient::default();
    let (notifier, retrieved) = (fs.notifier.clone(), fs.retrieved.clone());
    let options = Options { mount: MountOptions::default(), ..Default::default() };
    let server = Server::mount_with(fs, &mnt, &options, record.clone()).unwrap();
    let handle = server.handle();
    std::thread::spawn({
        let handle = handle.clone();
        move || {
            std::thread::sleep(Duration::from_secs(60));
            _ = handle.abort();
            eprintln!("watchdog: the mount was aborted");
        }
    });
    const FUSE: i64 = 0x6573_5546;
    assert_eq!(sys::statfs(&mnt).unwrap().f_type as i64, FUSE, "it is not mounted");

    exercise(&mnt).unwrap();
    // A retrieved page comes back as NOTIFY_REPLY.
    let mut file = File::open(mnt.join("file")).unwrap();
    file.read_exact(&mut [0; 4096]).unwrap();
    let notifier = notifier.lock().unwrap().take().unwrap();
    notifier.retrieve(1 << 40, NodeId::new(FILE), 0, 4096).unwrap();
    for _ in 0..500 {
        std::thread::sleep(Duration::from_millis(10));
        if retrieved.lock().unwrap().is_some() {
            break;
        }
    }
    assert_eq!(retrieved.lock().unwrap().take(), Some(4096));
    drop(file);

    let served = handle.stats();
    handle.unmount(Unmount::IfIdle).unwrap();
    server.join().unwrap();
    let kinds: Vec<_> = served.operations.iter().map(|op| op.opcode).collect();
    assert!(kinds.len() >= 38, "only {} kinds of operations: {kinds:?}", kinds.len());
    assert_eq!(served.panics, 0);
    let recorded = record.finish().unwrap();
    assert!(recorded.complete && recorded.requests >= served.requests(), "{recorded:?}");

    let report = Replay::open(&recording).unwrap().run(Lenient::default()).unwrap();
    assert!(report.is_clean() && report.complete, "{report}");
    assert_eq!(report.requests, recorded.requests);
    if let Some(keep) = std::env::var_os("FUSEWIRE_KEEP_RECORDING") {
        std::fs::copy(&recording, PathBuf::from(keep)).unwrap();
    }
}

#[test]
fn a_dropped_server_unmounts_whoever_has_a_handle() {
    if !in_namespace("a_dropped_server_unmounts_whoever_has_a_handle") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::mount(Lenient::default(), dir.path(), &Options::default()).unwrap();
    let handle = server.handle();
    let is_mounted = || {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.contains(&*dir.path().to_string_lossy())
    };
    assert!(is_mounted());
    drop(server);
    assert!(!is_mounted());
    handle.unmount(Unmount::IfIdle).expect("there is nothing left to do");
}
