//! More changes than the kernel's queue of events holds.

use super::*;
use fusewire::abi::notify_code;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// To tell the kernel of so many takes a while.
const NODES: usize = 4000;

/// As many changes come for each of them.
const CHANGES: usize = 6;

/// One event each, of which nobody on the mount knows anything.
fn change(dir: &Path, count: &mut usize) {
    mknodat(CWD, dir.join(count.to_string()), FileType::Fifo, Mode::RUSR, 0).unwrap();
    *count += 1;
}

/// The directory for a filesystem, in a process that has a mount namespace of its own.
const INSIDE: &str = "FUSEWIRE_TEST_INSIDE";

/// On a filesystem of its own, of which nobody else's changes are heard.
#[test]
fn what_comes_while_the_kernel_is_told_to_forget_everything_is_not_lost() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: not root");
    }
    let Some(dir) = std::env::var_os(INSIDE).map(PathBuf::from) else {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut again = Command::new("unshare");
        again.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe().unwrap());
        again
            .args([std::thread::current().name().unwrap(), "--exact", "--nocapture"])
            .env(INSIDE, dir.path());
        let output = again.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        eprint!("{said}");
        return assert!(output.status.success() && said.contains("1 passed"), "inside of its namespace");
    };
    let queue = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap_or_default();
    let queue: usize = queue.trim().parse().unwrap_or(usize::MAX);
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&dir).status();
    assert!(mounted.unwrap().success());
    let [known, other] = ["known", "other"].map(|name| dir.join(name));
    [&known, &other].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let source = Passthrough::new(&dir, Options { cache: CacheProfile::Coherent, ..Options::default() });
    let caching = source.as_ref().unwrap().caching();
    if caching.coherence() != Coherence::Told || queue > NODES * (CHANGES - 1) {
        return eprintln!("skipped: {:?}, and a queue of {queue}", caching.coherence());
    }
    let overflows = || caching.feed_stats().expect("a feed").overflows;
    (0..NODES).for_each(|i| fs::write(known.join(i.to_string()), "").unwrap());
    let kernel = FakeKernel::start(source.unwrap()).unwrap();
    let parent = node(&kernel.lookup(ROOT, c"known").unwrap());
    (0..NODES).for_each(|i| _ = kernel.lookup(parent, &name(&i.to_string())).unwrap());

    // The feed waits until what it tells of this is taken.
    fs::set_permissions(known.join("0"), fs::Permissions::from_mode(0o600)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut made = 0;
    (0..queue + 100).for_each(|_| change(&other, &mut made));
    let (mut epochs, mut told) = (0, 0);
    let end = Instant::now() + Duration::from_secs(20);
    while let Some(message) =
        kernel.notification(Duration::from_millis(1500)).filter(|_| Instant::now() < end)
    {
        let code = i32::from_ne_bytes(message[4..8].try_into().unwrap());
        epochs += usize::from(code == notify_code::INC_EPOCH);
        if code == notify_code::INVAL_INODE && epochs > 0 && told < NODES {
            told += 1;
            (0..CHANGES).for_each(|_| change(&other, &mut made));
        }
    }
    assert!(made > 2 * queue && told == NODES, "{made} changes, {told} nodes");
    assert_eq!((overflows(), epochs), (1, 5), "{:?}", caching.feed_stats());
}
