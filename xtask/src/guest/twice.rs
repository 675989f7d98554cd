//! Two guests that read the same file: with DAX its pages are in the host's memory once, without it once more in each guest.

use super::{
    board::{Board, Plug},
    device::{self, Device},
    image, machine,
    packages::Store,
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// The file, MiB, and the window, which holds all of it.
const BIG: u64 = 128;
const WINDOW: &str = "256M";
const GUESTS: [&str; 2] = ["a", "b"];
/// How much of something small is still nothing, MiB: a guest that boots and reads needs memory for other things, too.
const LITTLE: u64 = 32;

/// What each guest does; its kernel's command line says which one it is. It waits for the host to look before and after.
const JOB: &str = "\
fail() { echo \"FAILED: $*\"; exit 1; }
cached() { awk '/^Cached:/ { print $2 }' /proc/meminfo; }
await() { n=0; while [ ! -e /mnt/$1 ]; do n=$((n+1)); [ $n -lt 600 ] || fail \"the host never made $1\"; usleep 200000; done; }
who=$(sed 's/.*guest=\\([ab]\\).*/\\1/' /proc/cmdline)
mount -t virtiofs -o OPTION share /mnt || fail mount
md5sum < /dev/null > /dev/null
: > /mnt/ready-$who; await read
before=$(cached); sum=$(md5sum < /mnt/big | cut -d' ' -f1)
echo \"kept: $sum $(( $(cached) - before ))\"
: > /mnt/done-$who; await leave
umount /mnt || fail umount
exit 0";

/// What one guest has.
#[derive(Clone, Copy, Debug, Default)]
struct Guest {
    /// Of the file, in its own page cache, KiB.
    cached: u64,
    /// Its memory, as far as there is any behind it on the host, before and after, KiB.
    memory: [u64; 2],
    /// Of the file, in its machine's address space, KiB: the whole, and divided among those who have the same pages.
    mapped: Mapped,
}

/// Pages of one process, KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mapped {
    resident: u64,
    share: u64,
}

/// `cargo xtask guest --dax --two`.
pub fn run(store: &Store) -> Result<()> {
    let (kernel, qemu) = (store.kernel(super::KERNEL)?, store.qemu()?);
    eprintln!("xtask: two guests read a file of {BIG} MiB; MiB of it, and of memory for it:");
    for (option, once) in [("dax=always", true), ("dax=never", false)] {
        let start = Instant::now();
        let initrd = image::build(store, &[], &JOB.replace("OPTION", option))?;
        let share = Share::new(&store.dir().join("twice"))?;
        let device = Device::start(&share.dir, &GUESTS, &["auto", "--queues", "1", "--dax-window", WINDOW])?;
        let boot = |number: usize| {
            let word = format!("guest={}", GUESTS[number]);
            let board = Board { kernel: &kernel, initrd: &initrd, cpus: 1, memory: "512M", word: &word };
            let mut command = board.command(&qemu, &[(&device.sockets[number], Plug::Generic { queues: 1 })]);
            command.arg("-pidfile").arg(share.pidfile(number));
            thread::spawn(move || {
                let mut told = None;
                let ended = machine::watch(&mut command, 240, |line| {
                    told = line.strip_prefix("kept: ").map(str::to_owned).or(told.take());
                });
                ended.map(|()| told)
            })
        };
        let booted = [boot(0), boot(1)];
        let looked = share.look(&booted);
        // Whatever was found, they may go.
        fs::write(share.dir.join("read"), "")?;
        fs::write(share.dir.join("leave"), "")?;
        let told = booted
            .map(|guest| guest.join().map_err(|_| anyhow::anyhow!("the thread of a guest has panicked"))?);
        let (mut guests, resident) = looked?;
        for (guest, told) in guests.iter_mut().zip(told) {
            guest.cached = share.compare(&told?.context("a guest did not tell what it read")?)?;
        }
        device.end()?;
        report(option, &guests, resident);
        judge(&guests, resident, once)?;
        eprintln!("xtask: guest: {option}: done in {} s", start.elapsed().as_secs());
    }
    Ok(())
}

fn mib(kib: u64) -> u64 {
    kib / 1024
}

fn report(option: &str, guests: &[Guest; 2], resident: u64) {
    let each = |number: fn(&Guest) -> u64| {
        let [a, b] = [&guests[0], &guests[1]].map(|guest| mib(number(guest)));
        format!("{a} and {b}")
    };
    eprintln!(
        "xtask: {option}: in the host's page cache {}; in the guests' page caches {}; more memory behind the guests {}; \
         mapped by their machines {}, and that divided by who else has the same pages {}",
        mib(resident),
        each(|guest| guest.cached),
        each(Guest::more),
        each(|guest| guest.mapped.resident),
        each(|guest| guest.mapped.share),
    );
}

impl Guest {
    fn more(&self) -> u64 {
        self.memory[1].saturating_sub(self.memory[0])
    }
}

/// With DAX nobody has pages of its own, and both have the same; without it each guest has all of it.
fn judge(guests: &[Guest; 2], resident: u64, once: bool) -> Result<()> {
    ensure!(
        mib(resident) >= BIG - 1,
        "only {} MiB of the file are in the host's page cache: is memory short?",
        mib(resident)
    );
    for guest in guests {
        let own = [mib(guest.cached), mib(guest.more())];
        if once {
            ensure!(
                own.iter().all(|own| *own < LITTLE),
                "a guest has pages of its own for the file: {own:?} MiB"
            );
            ensure!(
                mib(guest.mapped.resident) >= BIG - 4,
                "a guest's machine has {} of {BIG} MiB mapped",
                mib(guest.mapped.resident)
            );
        } else {
            ensure!(
                own.iter().all(|own| *own + LITTLE > BIG),
                "without DAX a guest keeps the file itself, but here are {own:?} MiB: nothing is shown by this"
            );
        }
    }
    let sum: u64 = guests.iter().map(|guest| guest.mapped.share).sum();
    // The daemon may have some of it mapped as well.
    ensure!(
        !once || mib(sum) <= BIG + 4,
        "the two machines together have {} MiB of a file of {BIG} MiB: it is not the same pages",
        mib(sum)
    );
    Ok(())
}

/// The directory, with the host's side.
struct Share {
    dir: PathBuf,
    sum: String,
}

impl Share {
    fn new(dir: &Path) -> Result<Self> {
        _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir)?;
        let big = dir.join("big");
        let block: Vec<u8> =
            (0..1u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_ne_bytes()).collect();
        let mut bytes = Vec::new();
        for number in 0..BIG as usize {
            bytes.extend_from_slice(&block[number..]);
            bytes.extend_from_slice(&block[..number]);
        }
        fs::write(&big, &bytes)?;
        Ok(Self { dir: dir.to_owned(), sum: device::md5(&big)? })
    }

    fn pidfile(&self, number: usize) -> PathBuf {
        self.dir.with_extension(format!("{}.pid", GUESTS[number]))
    }

    /// Looks at both guests before and after they read, and at what the host has of the file then, KiB.
    fn look<T>(&self, booted: &[thread::JoinHandle<T>; 2]) -> Result<([Guest; 2], u64)> {
        let mut guests = [Guest::default(); 2];
        for (moment, (name, go)) in [("ready", Some("read")), ("done", None)].into_iter().enumerate() {
            let deadline = Instant::now() + Duration::from_secs(120);
            while !GUESTS.iter().all(|guest| self.dir.join(format!("{name}-{guest}")).exists()) {
                if booted.iter().any(thread::JoinHandle::is_finished) || Instant::now() > deadline {
                    bail!("a guest did not make {name}");
                }
                thread::sleep(Duration::from_millis(50));
            }
            for (number, guest) in guests.iter_mut().enumerate() {
                let pid = fs::read_to_string(self.pidfile(number)).context("the number of QEMU's process")?;
                let maps = fs::read_to_string(format!("/proc/{}/smaps", pid.trim()))?;
                guest.memory[moment] = mapped(&maps, |line| line.contains("memory-backend-memfd")).resident;
                let inode = fs::metadata(self.dir.join("big"))?.ino().to_string();
                guest.mapped = mapped(&maps, |line| line.split_whitespace().nth(4) == Some(&inode));
            }
            go.map_or(Ok(()), |go| fs::write(self.dir.join(go), ""))?;
        }
        let big = self.dir.join("big");
        let told =
            output(Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES"]).arg(big))?;
        let resident: u64 = told.trim().parse().with_context(|| format!("fincore says {told:?}"))?;
        Ok((guests, resident / 1024))
    }

    /// Insists that a guest read what is there; tells how much it kept, KiB.
    fn compare(&self, told: &str) -> Result<u64> {
        let (sum, kept) = told.split_once(' ').context("a sum and a number")?;
        ensure!(sum == self.sum, "a guest read a file with the sum {sum}, it has {}", self.sum);
        Ok(kept.trim().parse::<i64>().with_context(|| format!("{kept:?} KiB"))?.max(0) as u64)
    }
}

/// Pages of the mappings whose first lines are these, in a file `smaps`.
fn mapped(maps: &str, is_it: impl Fn(&str) -> bool) -> Mapped {
    let (mut sum, mut counts) = (Mapped::default(), false);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let number = || line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        match first {
            "Rss:" if counts => sum.resident += number(),
            "Pss:" if counts => sum.share += number(),
            // The other fields of a mapping.
            field if field.ends_with(':') => {}
            _ => counts = is_it(line),
        }
    }
    sum
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f0000000000-7f0020000000 rw-s 00000000 00:01 77 /memfd:memory-backend-memfd (deleted)
Size:             524288 kB
Rss:              100000 kB
Pss:               90000 kB
7f1000000000-7f1000200000 rw-s 00000000 fe:00 42 /big
Rss:                2048 kB
Pss:                1024 kB
Pss_Dirty:             7 kB
7f1000200000-7f1000400000 rw-s 00200000 fe:00 42 /big
Rss:                 512 kB
Pss:                 512 kB
7f2000000000-7f2000001000 r--p 00000000 fe:00 4242 /usr/lib/libc.so.6
Rss:                   4 kB
Pss:                   1 kB
";

    #[test]
    fn only_the_mappings_that_are_meant_count() {
        let inode = |wanted: &'static str| move |line: &str| line.split_whitespace().nth(4) == Some(wanted);
        assert_eq!(mapped(MAPS, inode("42")), Mapped { resident: 2560, share: 1536 });
        assert_eq!(mapped(MAPS, |line| line.contains("memfd")).resident, 100_000);
        assert_eq!(mapped(MAPS, inode("7")), Mapped::default());
    }

    #[test]
    fn pages_of_ones_own_are_told_from_the_same_pages() {
        let guest = |cached: u64, more: u64, resident: u64, share: u64| Guest {
            cached: cached << 10,
            memory: [1000, 1000 + (more << 10)],
            mapped: Mapped { resident: resident << 10, share: share << 10 },
        };
        let host = BIG << 10;
        let shared = [guest(0, 2, BIG, BIG / 2); 2];
        assert!(judge(&shared, host, true).is_ok());
        assert!(judge(&[guest(0, 2, BIG, BIG); 2], host, true).is_err(), "each has pages of its own");
        assert!(judge(&[guest(BIG, BIG, BIG, BIG / 2), shared[1]], host, true).is_err(), "one caches it");
        assert!(judge(&[guest(0, 0, 0, 0); 2], host, true).is_err(), "nothing is mapped");
        let copies = [guest(BIG, BIG, 0, 0); 2];
        assert!(judge(&copies, host, false).is_ok());
        assert!(judge(&shared, host, false).is_err(), "there is nothing to compare with");
        assert!(judge(&shared, host / 2, true).is_err(), "it is not in memory");
    }
}
