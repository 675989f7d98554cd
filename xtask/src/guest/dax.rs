//! A directory in a guest that has no pages of its own for it: `fusewire vhost --dax-window` here, QEMU's generic vhost-user device
//! there, since its virtio-fs device has no window.

use super::{
    board::{Board, Plug},
    device::{self, Device},
    image, machine,
    packages::Store,
    twice,
};
use crate::run;
use anyhow::{Result, anyhow, bail, ensure};
use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The window, and a file that is twice as long and ends within a page.
const WINDOW: &str = "64M";
const BIG: u64 = (128 << 20) + 1234;
/// What one side writes and the other finds, and where.
const FROM_HOST: (&str, u64) = ("the host was here", 5 << 20);
const FROM_GUEST: (&str, u64) = ("the guest was here", (9 << 20) + 77);
/// Where the file ends: on the page that the monitor does not map.
const LATE: (&str, u64) = ("near the end", (128 << 20) + 500);

/// What every guest has.
const START: &str = "\
fail() { echo \"FAILED: $*\"; exit 1; }
mount -t tmpfs tmp /root; mkdir -p /other && mount -t tmpfs other /other";

/// What the guest does first with `--cache always`, where nobody but DAX shows it what the host writes.
const LOOK: &str = "
cached() { awk '/^Cached:/ { print $2 }' /proc/meminfo; }
at() { dd if=/mnt/big bs=1 skip=$1 count=$2 2>/dev/null; }
put() { printf \"$2\" | dd of=/mnt/big bs=1 seek=$1 conv=notrunc 2>/dev/null || fail \"writing $2\"; }
read_all() { # OPTIONS LEAST MOST: how much more is cached afterwards, KiB
    mount -t virtiofs -o $1 share /mnt || fail \"mount -o $1\"
    before=$(cached); sum=$(md5sum < /mnt/big); after=$(cached); grown=$((after - before))
    echo \"$1: reading 128 MiB through a window of 64 MiB left $grown KiB in the guest's page cache\"
    [ \"$sum\" = \"SUM  -\" ] || fail \"$1: $sum\"
    [ $grown -ge $2 ] && [ $grown -le $3 ] || fail \"$1: $grown KiB cached, not $2 to $3\"
    umount /mnt || fail umount; }
read_all dax=always 0 8192
read_all rw 0 8192
read_all dax=never 100000 200000
mount -t virtiofs -o dax=always share /mnt || fail mount
at HOST_AT HOST_LEN > /dev/null; at LATE_AT LATE_LEN > /dev/null
: > /mnt/ask
n=0; while [ \"$(at HOST_AT HOST_LEN)\" != 'HOST_TEXT' ]; do n=$((n+1)); [ $n -lt 400 ] || fail 'the guest does not see what the host writes'; usleep 50000; done
put GUEST_AT 'GUEST_TEXT'; put LATE_AT 'LATE_TEXT'; sync /mnt/big; : > /mnt/done
n=0; while [ \"$(at HOST_AT HOST_LEN)\" = 'HOST_TEXT' ]; do n=$((n+1)); [ $n -lt 400 ] || fail 'the host does not see what the guest writes'; usleep 50000; done
rm /mnt/big";

/// With the other caching profiles there are the suites alone.
const MOUNT: &str = "
mount -t virtiofs -o dax=always share /mnt || fail mount";

/// The short form: mappings, which are then of the host's pages.
const MAPPINGS: &str = "
fusewire-posix --quiet --filter map --filter truncate SKIPPED /mnt || fail fusewire-posix";

/// The POSIX suite maps files, truncates them under their mappings, and more; fsx does so at random. Emulated and without a cache, a case takes
/// minutes.
const SUITES: &str = "
fusewire-posix --quiet --limit 300 SKIPPED /mnt || fail fusewire-posix
if [ -e /usr/bin/fsx ]; then
    fsx -f /fsx.toml -P /tmp -N OPERATIONS -S 1 /mnt/fsx > /tmp/fsx.log 2>&1 || { tail -n 50 /tmp/fsx.log; fail fsx; }
    tail -n 1 /tmp/fsx.log
fi";

const PJDFSTEST: &str = "
if [ -e /usr/bin/pjdfstest ]; then
    mkdir /mnt/pjdfstest && pjdfstest -c /pjdfstest.toml -p /mnt/pjdfstest -s /other > /tmp/pjdfstest.log 2>&1 || {
        grep -v -e success -e skipped /tmp/pjdfstest.log | tail -n 100; fail pjdfstest; }
    tail -n 1 /tmp/pjdfstest.log
fi";

const END: &str = "
umount /mnt || fail umount
exit 0";

/// Cases of the POSIX suite that ask for what this guest is not, whatever it mounts.
const SKIPPED: [(&str, &str); 5] = [
    ("times-of-a-new-file", "guest and host have a clock each"),
    ("times-btime", "guest and host have a clock each"),
    ("times-write", "Linux changes no times when it writes by DAX"),
    ("map-executed", "a copy of busybox under another name is no program"),
    ("exec-text-busy", "a copy of busybox under another name is no program"),
];

/// As the black-box tests have them.
const FSX: &str = include_str!("../../../tests/src/fsx.toml");
const PJD: &str = include_str!("../../../tests/src/pjdfstest.toml");

/// Caching profiles that the suites run with, all in `--dax --all`.
const CACHES: [&str; 4] = ["always", "never", "auto", "shared"];

/// `cargo xtask guest --dax`.
pub fn run(words: &[&str]) -> Result<()> {
    let store = Store::open(&run::target_dir()?.join("guest"))?;
    let all = [SUITES, PJDFSTEST].concat();
    match words {
        [] => test(&store, "always", SUITES, 500)?,
        ["--two"] => {}
        ["--short"] => return test(&store, "always", MAPPINGS, 0),
        ["--all"] => CACHES.iter().try_for_each(|cache| test(&store, cache, &all, 20_000))?,
        ["--all", caches @ ..] if caches.iter().all(|cache| CACHES.contains(cache)) => {
            return caches.iter().try_for_each(|cache| test(&store, cache, &all, 20_000));
        }
        _ => bail!(
            "unknown words {words:?}: there are --short, --two and --all, with --cache's {CACHES:?} behind it"
        ),
    }
    twice::run(&store)
}

/// One guest with this caching profile, which runs these suites, fsx with so many operations.
fn test(store: &Store, cache: &str, suites: &str, operations: u32) -> Result<()> {
    let (kernel, qemu) = (store.kernel(super::KERNEL)?, store.qemu()?);
    let looks = cache == CACHES[0];
    let share = Share::new(&store.dir().join("dax"), looks)?;
    let skipped: Vec<_> = SKIPPED.iter().map(|(case, why)| format!("--skip '{case}={why}'")).collect();
    let job = [START, if looks { LOOK } else { MOUNT }, suites, END].concat();
    let job = fill(&job, &share.sum)
        .replace("OPERATIONS", &operations.to_string())
        .replace("SKIPPED", &skipped.join(" "));
    let pjdfstest = PJD.replace("ALLOW_REMOUNT", "false");
    let script =
        format!("cat > /fsx.toml <<'END'\n{FSX}END\ncat > /pjdfstest.toml <<'END'\n{pjdfstest}END\n{job}");
    let initrd = image::build(store, &device::programs()?, &script)?;
    let start = Instant::now();
    let profile = [cache, "--queues", "2", "--dax-window", WINDOW];
    let device = Device::start(&share.dir, &["sock"], &profile)?;
    let board = Board { kernel: &kernel, initrd: &initrd, cpus: 2, memory: "1G", word: "" };
    let mut command = board.command(&qemu, &[(&device.sockets[0], Plug::Generic { queues: 2 })]);
    eprintln!("xtask: guest with {}, --cache {cache}, a DAX window of {WINDOW}", kernel.display());
    let host = looks.then(|| share.answer());
    machine::watch(&mut command, limit(cache, operations), |_| ())?;
    host.map_or(Ok(Ok(())), thread::JoinHandle::join)
        .map_err(|_| anyhow!("the host's side has panicked"))??;
    device.end()?;
    eprintln!("xtask: guest: DAX, --cache {cache}: done in {} s", start.elapsed().as_secs());
    Ok(())
}

/// When to give up, seconds. What nobody remembers is asked for each time, and each time takes a tenth of a millisecond of an emulated
/// processor, if the machine has nothing else to do.
fn limit(cache: &str, operations: u32) -> u64 {
    match (operations > 1000, cache) {
        (false, _) => 600,
        (true, "never") => 3600,
        (true, _) => 1800,
    }
}

/// The job with what it is to read and write.
fn fill(job: &str, sum: &str) -> String {
    let mut job = job.replace("SUM", sum);
    for (name, (text, at)) in [("HOST", FROM_HOST), ("GUEST", FROM_GUEST), ("LATE", LATE)] {
        job = job
            .replace(&format!("{name}_AT"), &at.to_string())
            .replace(&format!("{name}_LEN"), &text.len().to_string())
            .replace(&format!("{name}_TEXT"), text);
    }
    job
}

/// The directory, with the host's side of what is done to its large file.
struct Share {
    dir: PathBuf,
    sum: String,
}

impl Share {
    /// With a large file, or with nothing in it.
    fn new(dir: &Path, large: bool) -> Result<Self> {
        _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir)?;
        if !large {
            return Ok(Self { dir: dir.to_owned(), sum: String::new() });
        }
        let mut file = fs::File::create(dir.join("big"))?;
        let mut block = vec![0u8; 1 << 20];
        let mut seed = 1u64;
        for at in (0..BIG).step_by(block.len()) {
            for word in block.chunks_exact_mut(8) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                word.copy_from_slice(&seed.to_ne_bytes());
            }
            let len = block.len().min((BIG - at) as usize);
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&block[..len])?;
        }
        let sum = device::md5(&dir.join("big"))?;
        Ok(Self { dir: dir.to_owned(), sum })
    }

    /// Write when the guest asks, look for what it has written, and take back what was written.
    fn answer(&self) -> thread::JoinHandle<Result<()>> {
        let dir = self.dir.clone();
        thread::spawn(move || {
            let file = fs::File::options().read(true).write(true).open(dir.join("big"))?;
            let there = |name: &str| {
                let deadline = Instant::now() + Duration::from_secs(300);
                while !dir.join(name).exists() {
                    ensure!(Instant::now() < deadline, "the guest never made {name}");
                    thread::sleep(Duration::from_millis(10));
                }
                Ok(())
            };
            there("ask")?;
            file.write_all_at(FROM_HOST.0.as_bytes(), FROM_HOST.1)?;
            there("done")?;
            for (text, at) in [FROM_GUEST, LATE] {
                let mut bytes = vec![0; text.len()];
                file.read_exact_at(&mut bytes, at)?;
                let found = String::from_utf8_lossy(&bytes);
                ensure!(found == text, "the host finds {found:?} at {at}, where the guest wrote {text:?}");
            }
            file.write_all_at(b"the end of it all", FROM_HOST.1)?;
            Ok(())
        })
    }
}
