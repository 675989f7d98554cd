//! A guest that moves from one QEMU to the next while it works on files. Each has a daemon of its own, for the same directory.

use super::{
    board::{Board, Plug},
    device::{self, Device},
    image,
    machine::Running,
    packages::{Qemu, Store},
    qmp::Qmp,
};
use crate::run;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How often it moves.
const MOVES: usize = 2;

/// Length of the file that the guest reads over and over.
const BIG: usize = 24 << 20;

/// How long each machine has it.
const WHILE: Duration = Duration::from_secs(3);

/// What the guest does all the time. What it has read it looks at only later, when it may be elsewhere: of pages that the device alone has
/// written to, only the device can have told.
const JOB: &str = "\
fail() { echo \"FAILED: $*\"; exit 1; }
mount -t virtiofs share /mnt || fail mount
mkdir /mnt/data || fail mkdir
exec 7> /mnt/open
reader() { # What is read lies in the guest's cache until it is looked at. That `enough` is not there is forgotten as well.
    n=0; while [ ! -e /mnt/enough ]; do
        echo 3 > /proc/sys/vm/drop_caches
        cat /mnt/big > /dev/null || fail 'reading'
        sleep 0.3
        [ \"$(md5sum < /mnt/big)\" = 'BIGSUM  -' ] || fail \"what was read ($n)\"
        n=$((n+1))
    done
    echo $n > /tmp/reads; }
reader & reader=$!
: > /mnt/begun
n=0; while [ ! -e /mnt/enough ]; do
    echo $n >&7 || fail \"writing to what is open ($n)\"
    dd if=/dev/urandom of=/mnt/data/$n bs=4096 count=9 2>/dev/null || fail \"making $n\"
    cp /mnt/data/$n /mnt/data/copy && cmp /mnt/data/$n /mnt/data/copy || fail \"copying $n\"
    mv /mnt/data/copy /mnt/data/moved-$n || fail \"moving $n\"
    [ $(ls /mnt/data | wc -l) = $((2 * n + 2)) ] || fail \"listing after $n\"
    n=$((n+1))
done
wait $reader || fail 'the reader'
exec 7>&-
seq 0 $((n - 1)) | cmp - /mnt/open || fail 'what was written to an open file'
echo \"files: $n\"
echo \"reads: $(cat /tmp/reads)\"
for file in /mnt/data/*; do echo \"sum: $(basename $file) $(md5sum < $file | cut -d' ' -f1)\"; done
umount /mnt || fail umount
exit 0";

/// What machines are started with.
struct Place<'a> {
    board: Board<'a>,
    qemu: &'a Qemu,
    share: &'a Path,
    profile: &'a [&'a str],
}

/// A machine, and the daemon of its directory.
struct Machine {
    running: Running,
    qmp: Qmp,
    device: Device,
    /// Where a guest can come from.
    door: PathBuf,
}

impl Place<'_> {
    /// Machine `number`, which boots, or waits for a guest to come.
    fn machine(&self, number: usize, plug: Plug<'_>, waits: bool) -> Result<Machine> {
        let name = |what| self.share.with_extension(format!("{number}.{what}"));
        let (control, door) = (name("qmp"), name("door"));
        [&control, &door].into_iter().for_each(|socket| _ = fs::remove_file(socket));
        let device = Device::start(self.share, &[&format!("{number}.sock")], self.profile)?;
        let mut command = self.board.command(self.qemu, &[(&device.sockets[0], plug)]);
        command.args(Qmp::words(&control));
        if waits {
            command.arg("-incoming").arg(format!("unix:{}", door.display()));
        }
        let running = Running::start(&mut command)?;
        let qmp = Qmp::connect(&control)?;
        Ok(Machine { running, qmp, device, door })
    }

    /// Have the guest move again and again, and look at what it has made.
    fn watch(&self) -> Result<()> {
        let share = self.share;
        _ = fs::remove_dir_all(share);
        fs::create_dir_all(share)?;
        let noise: Vec<u8> = noise().take(BIG).collect();
        fs::write(share.join("big"), noise)?;
        let start = Instant::now();
        let plug = Plug::Fs { tag: device::TAG, queues: self.board.cpus };
        let mut here = self.machine(0, plug, false)?;
        device::there(&share.join("begun"))?;
        thread::sleep(WHILE);
        cancelled(&mut here)?;
        for number in 1..=MOVES {
            thread::sleep(WHILE);
            let next = self.machine(number, plug, true)?;
            let told = moved(&mut here, &next.door)?;
            eprintln!(
                "xtask: guest: moved in {} ms, {} ms of them without it; {} KiB were sent",
                told["total-time"],
                told["downtime"],
                told["ram"]["transferred"].as_u64().unwrap_or_default() / 1024,
            );
            let Machine { running, mut qmp, device, .. } = std::mem::replace(&mut here, next);
            qmp.command("quit", &json!({}))?;
            running.left(30)?;
            device.end()?;
        }
        thread::sleep(WHILE);
        fs::write(share.join("enough"), "")?;
        let (mut files, mut reads, mut sums) = (0, 0, Vec::new());
        here.running.follow(300, |line| {
            let number = |what| line.strip_prefix(what).and_then(|count| count.parse::<usize>().ok());
            files = number("files: ").unwrap_or(files);
            reads = number("reads: ").unwrap_or(reads);
            sums.extend(line.strip_prefix("sum: ").map(str::to_owned));
        })?;
        here.device.end()?;
        ensure!(files > MOVES && reads > MOVES, "the guest made {files} files in {reads} rounds");
        ensure!(sums.len() == 2 * files, "the guest told of {} files", sums.len());
        device::check_sums(&sums, &share.join("data"))?;
        let seconds = start.elapsed().as_secs();
        eprintln!(
            "xtask: guest: {MOVES} moves, {files} files, {reads} rounds of reading; done in {seconds} s"
        );
        Ok(())
    }
}

/// `cargo xtask guest --migrate`.
pub fn run(words: &[&str]) -> Result<()> {
    if !words.is_empty() {
        bail!("unknown words {words:?}: there are none");
    }
    let store = Store::open(&run::target_dir()?.join("guest"))?;
    let (kernel, qemu) = (store.kernel(super::KERNEL)?, store.qemu()?);
    let share = store.dir().join("migrate");
    fs::create_dir_all(&share)?;
    let sum = store.dir().join("migrate.big");
    fs::write(&sum, noise().take(BIG).collect::<Vec<u8>>())?;
    let job = JOB.replace("BIGSUM", &device::md5(&sum)?);
    _ = fs::remove_file(&sum);
    let initrd = image::build(&store, &[], &job)?;
    let board = Board { kernel: &kernel, initrd: &initrd, cpus: 2, memory: "512M", word: "" };
    for (cache, profile) in [
        ("always", &["always", "--queues", "2"][..]),
        ("never", &["never", "--queues", "2", "--migration-mode", "file-handles"]),
    ] {
        eprintln!("xtask: QEMU, --cache {cache}");
        Place { board, qemu: &qemu, share: &share, profile }.watch()?;
    }
    refused(&Place {
        board,
        qemu: &qemu,
        share: &share,
        profile: &["auto", "--queues", "2", "--dax-window", "64M"],
    })
}

/// A machine with a DAX window does not move, and says so.
fn refused(place: &Place<'_>) -> Result<()> {
    let mut machine = place.machine(0, Plug::Generic { queues: 2 }, false)?;
    let door = machine.door.clone();
    match moved(&mut machine, &door) {
        Ok(_) => bail!("a guest with a DAX window was moved, and its window was not"),
        Err(error) => eprintln!("xtask: guest with a DAX window: {error:#}"),
    }
    machine.qmp.command("quit", &json!({}))?;
    drop(machine.running);
    machine.device.end()
}

/// Begin to move the guest.
fn begin(machine: &mut Machine, door: &Path, bandwidth: u64) -> Result<()> {
    let limits = json!({ "max-bandwidth": bandwidth, "downtime-limit": 500 });
    machine.qmp.command("migrate-set-parameters", &limits)?;
    machine.qmp.command("migrate", &json!({ "uri": format!("unix:{}", door.display()) }))?;
    Ok(())
}

/// Wait until a move has come so far.
fn wait(machine: &mut Machine, wanted: &str) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let told = machine.qmp.command("query-migrate", &json!({}))?;
        match told["status"].as_str() {
            Some(status) if status == wanted => return Ok(told),
            Some("failed") => bail!("the guest was not moved: {}", told["error-desc"]),
            status => ensure!(Instant::now() < deadline, "the guest is not moved but {status:?}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Have the guest move to the machine that waits at `door`.
fn moved(machine: &mut Machine, door: &Path) -> Result<Value> {
    begin(machine, door, 128 << 20)?;
    wait(machine, "completed")
}

/// Have it begin to move, and stay.
fn cancelled(machine: &mut Machine) -> Result<()> {
    let door = machine.door.with_extension("nowhere");
    _ = fs::remove_file(&door);
    let _nobody = std::os::unix::net::UnixListener::bind(&door).context("a socket")?;
    begin(machine, &door, 1 << 20)?;
    wait(machine, "active")?;
    thread::sleep(Duration::from_millis(500));
    machine.qmp.command("migrate_cancel", &json!({}))?;
    wait(machine, "cancelled").map(drop)
}

/// Bytes that do not shrink, the same each time.
fn noise() -> impl Iterator<Item = u8> {
    let next = |seed: &u64| {
        Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    };
    std::iter::successors(Some(1), next).flat_map(|seed| (seed >> 32).to_le_bytes().into_iter().take(4))
}
