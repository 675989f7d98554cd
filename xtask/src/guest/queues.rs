//! A guest with several processors and a request queue for each: `fusewire vhost --queues` here, QEMU there.

use super::{
    board::{Board, Plug},
    device::{self, Device},
    image, machine,
    packages::Store,
};
use crate::run;
use anyhow::{Result, bail, ensure};
use std::{fs, time::Instant};

/// Processors, and request queues.
const CPUS: usize = 2;

/// What each processor writes (the job once more, with a processor's number), and how the guest tells which queues it used: each has an interrupt.
const JOB: &str = "\
fail() { echo \"FAILED: $*\"; exit 1; }
[ \"$1\" = write ] || mount -t virtiofs share /mnt || fail mount
[ $(grep -c 'requests\\.[0-9]' /proc/interrupts) -ge CPUS ] || { cat /proc/interrupts; fail 'there are too few queues'; }
write() { # CPU
    n=0; while [ $n -lt 60 ]; do
        dd if=/dev/urandom of=/mnt/$1-$n bs=4096 count=9 2>/dev/null || exit 1
        cat /mnt/$1-$n > /mnt/copy-$1-$n && cmp /mnt/$1-$n /mnt/copy-$1-$n || exit 1
        mv /mnt/copy-$1-$n /mnt/moved-$1-$n || exit 1
        n=$((n+1))
    done; }
if [ \"$1\" = write ]; then write $2; exit 0; fi
cpu=0; jobs=
while [ $cpu -lt CPUS ]; do taskset -c $cpu sh /job write $cpu & jobs=\"$jobs $!\"; cpu=$((cpu+1)); done
for job in $jobs; do wait $job || fail \"a writer\"; done
sed -n 's/^ *[0-9]*:\\(.*\\)  .*\\(requests\\.[0-9]*\\)$/interrupts: \\2 \\1/p' /proc/interrupts
for file in /mnt/*; do echo \"sum: $(basename $file) $(md5sum < $file | cut -d' ' -f1)\"; done
umount /mnt || fail umount
exit 0";

/// `cargo xtask guest --queues`.
pub fn run(words: &[&str]) -> Result<()> {
    if !words.is_empty() {
        bail!("unknown words {words:?}: there are none");
    }
    let store = Store::open(&run::target_dir()?.join("guest"))?;
    let (kernel, qemu) = (store.kernel(super::KERNEL)?, store.qemu()?);
    let job = JOB.replace("CPUS", &CPUS.to_string());
    let initrd = image::build(&store, &[], &job)?;
    let share = store.dir().join("queues");
    _ = fs::remove_dir_all(&share);
    let start = Instant::now();
    let queues = CPUS.to_string();
    let device = Device::start(&share, &["sock"], &["auto", "--queues", &queues])?;
    let board = Board { kernel: &kernel, initrd: &initrd, cpus: CPUS, memory: "1G", word: "" };
    let plug = Plug::Fs { tag: device::TAG, queues: CPUS };
    let mut command = board.command(&qemu, &[(&device.sockets[0], plug)]);
    eprintln!("xtask: guest with {}, {CPUS} processors and as many request queues", kernel.display());
    let (mut queues, mut sums) = (Vec::new(), Vec::new());
    machine::watch(&mut command, 600, |line| {
        queues.extend(line.strip_prefix("interrupts: ").map(str::to_owned));
        sums.extend(line.strip_prefix("sum: ").map(str::to_owned));
    })?;
    device.end()?;
    for queue in &queues {
        let total: u64 = queue.split_whitespace().skip(1).filter_map(|count| count.parse::<u64>().ok()).sum();
        ensure!(total > 20, "a queue of the guest was hardly used: {queues:?}");
    }
    ensure!(queues.len() == CPUS, "the guest used the queues {queues:?}");
    ensure!(sums.len() == 2 * 60 * CPUS, "the guest told of {} files", sums.len());
    device::check_sums(&sums, &share)?;
    eprintln!("xtask: guest: queues: {queues:?}; done in {} s", start.elapsed().as_secs());
    Ok(())
}
