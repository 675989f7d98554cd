//! Guests whose daemon is replaced while they work: by `fusewire vhost --upgrade`, of which no monitor need know anything.

use super::{
    board::{Board, Plug},
    device::{self, Device},
    image, machine,
    packages::Store,
    virtio,
};
use crate::run;
use anyhow::{Result, bail, ensure};
use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// How often the daemon is replaced.
const TIMES: usize = 5;

/// What the guest does all the time, with files that it has open, a file without a name, and a directory that it lists.
const JOB: &str = "\
fail() { echo \"FAILED: $*\"; exit 1; }
mount -t virtiofs share /mnt || fail mount
mkdir /mnt/data /mnt/enough || fail mkdir
exec 7> /mnt/open 8<> /mnt/gone
echo 'without a name' >&8; rm /mnt/gone || fail rm
: > /mnt/begun
n=0; while [ ! -e /mnt/enough/$n ]; do
    echo $n >&7 || fail \"writing to what is open ($n)\"
    dd if=/dev/urandom of=/mnt/data/$n bs=4096 count=3 2>/dev/null || fail \"making $n\"
    cat /mnt/data/$n > /mnt/data/copy && cmp /mnt/data/$n /mnt/data/copy || fail \"copying $n\"
    mv /mnt/data/copy /mnt/data/moved-$n || fail \"moving $n\"
    [ $(ls /mnt/data | wc -l) = $((2 * n + 2)) ] || fail \"listing after $n\"
    n=$((n+1))
done
[ \"$(cat /proc/self/fd/8)\" = 'without a name' ] || fail 'the file without a name'
exec 7>&- 8>&-
seq 0 $((n - 1)) | cmp - /mnt/open || fail 'what was written to an open file'
echo \"files: $n\"
for file in /mnt/data/*; do echo \"sum: $(basename $file) $(md5sum < $file | cut -d' ' -f1)\"; done
umount /mnt || fail umount
exit 0";

/// `cargo xtask guest --replace`.
pub fn run(words: &[&str]) -> Result<()> {
    if !words.is_empty() {
        bail!("unknown words {words:?}: there are none");
    }
    let kit = virtio::kit()?;
    let store = Store::open(&run::target_dir()?.join("guest"))?;
    let share = store.dir().join("replace");
    let initrd = image::build(&store, &kit.modules()?, JOB)?;
    for (profile, cache) in
        [(&["auto"][..], "auto"), (&["never", "--sandbox", "none"], "never"), (&["always"], "always")]
    {
        eprintln!("xtask: User Mode Linux, --cache {cache}");
        let work = Work { share: &share, profile };
        work.watch(|socket| kit.uml(&initrd, Some(socket), ""))?;
    }
    let (kernel, qemu) = (store.kernel(super::KERNEL)?, store.qemu()?);
    let initrd = image::build(&store, &[], JOB)?;
    eprintln!("xtask: QEMU");
    let work = Work { share: &share, profile: &["auto", "--queues", "2"] };
    work.watch(|socket| {
        let board = Board { kernel: &kernel, initrd: &initrd, cpus: 2, memory: "1G", word: "" };
        Ok(board.command(&qemu, &[(socket, Plug::Fs { tag: device::TAG, queues: 2 })]))
    })
}

/// A guest at work.
struct Work<'a> {
    share: &'a Path,
    profile: &'a [&'a str],
}

impl Work<'_> {
    /// Boot a machine, replace its daemon again and again, and look at what the guest has made.
    fn watch(&self, machine: impl FnOnce(&Path) -> Result<Command>) -> Result<()> {
        let share = self.share;
        _ = fs::remove_dir_all(share);
        let start = Instant::now();
        let mut device = Device::start(share, &["sock"], self.profile)?;
        let mut command = machine(&device.sockets[0])?;
        let (mut files, mut sums) = (0, Vec::new());
        let device = thread::scope(|scope| {
            let host = scope.spawn(move || -> Result<Device> {
                let replaced = device::there(&share.join("begun")).and_then(|()| {
                    for _ in 0..TIMES {
                        thread::sleep(Duration::from_millis(700));
                        device.upgrade()?;
                    }
                    thread::sleep(Duration::from_millis(700));
                    Ok(())
                });
                // Whatever has happened: the guest is to end.
                enough(share)?;
                replaced.map(|()| device)
            });
            machine::watch(&mut command, 300, |line| {
                files = line.strip_prefix("files: ").and_then(|count| count.parse().ok()).unwrap_or(files);
                sums.extend(line.strip_prefix("sum: ").map(str::to_owned));
            })?;
            host.join().map_err(|_| anyhow::anyhow!("the host's side has panicked"))?
        })?;
        device.end()?;
        ensure!(files > TIMES, "the guest made {files} files, which is no work");
        ensure!(sums.len() == 2 * files, "the guest told of {} files", sums.len());
        device::check_sums(&sums, &share.join("data"))?;
        eprintln!("xtask: guest: {TIMES} daemons, {files} files; done in {} s", start.elapsed().as_secs());
        Ok(())
    }
}

/// Tell the guest to end. With `--cache always` it remembers which names there are not: so it asks for another one each turn.
fn enough(share: &Path) -> Result<()> {
    let turn = fs::read_dir(share.join("data")).map_or(0, |names| names.count() / 2);
    (turn..turn + 1000).try_for_each(|turn| Ok(fs::write(share.join("enough").join(turn.to_string()), "")?))
}
