//! Two guests that share a directory, and a host that writes to it: what each caching profile promises about the changes of others.

use super::{
    device::Device,
    image::{self, Program},
    machine, sight,
    virtio::Kit,
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// What one guest does, as its kernel's command line says.
const JOB: &str = "\
mount -t virtiofs share /mnt || exit 1
if grep -q look=1 /proc/cmdline; then xtask guest-look /mnt; else xtask guest-write /mnt PAUSE; fi || exit 1
umount /mnt";

/// The longest lease, seconds.
const LEASE: &str = "2";

/// A caching profile, the longest time without writes, and how old what is seen may be.
const PROFILES: [(&[&str], u64, Duration); 3] = [
    (&["never"], 500, Duration::ZERO),
    (&["auto"], 2_500, Duration::from_secs(1)),
    // Long enough that leases come back.
    (&["shared", "--lease", LEASE], 13_000, Duration::from_secs(2)),
];

/// How much later than that something may be seen: clocks differ a little; and where things are remembered, a guest that gets no
/// processor begins to count late.
fn slack(bound: Duration) -> Duration {
    Duration::from_millis(if bound.is_zero() { 50 } else { 500 })
}

/// Both guests, for each profile.
pub fn run(kit: &Kit) -> Result<()> {
    for (profile, pause, bound) in PROFILES {
        let start = Instant::now();
        let oldest = observe(kit, profile, pause)?;
        let name = profile[0];
        let told: Vec<_> =
            oldest.iter().map(|(what, age)| format!("{what} {} ms", age.as_millis())).collect();
        eprintln!(
            "xtask: two guests and a host, --cache {name}: the oldest seen: {}; {} s",
            told.join(", "),
            start.elapsed().as_secs()
        );
        if let Some((what, age)) = oldest.iter().find(|(_, age)| **age > bound + slack(bound)) {
            bail!(
                "--cache {name}: the {what} was still seen {age:?} after it had changed; {bound:?} are promised"
            );
        }
    }
    Ok(())
}

/// A directory in memory, where nothing else happens.
fn place() -> Result<PathBuf> {
    let shm = Path::new("/dev/shm");
    let base = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let dir = base.join(format!("fusewire-guests-{}", std::process::id()));
    _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

/// How old what the first guest saw was, at most.
fn observe(kit: &Kit, profile: &[&str], pause: u64) -> Result<std::collections::BTreeMap<String, Duration>> {
    let xtask = std::env::current_exe().context("where xtask lies")?;
    let mut programs = kit.modules()?;
    programs.push(Program { from: xtask, to: "usr/bin/xtask".into() });
    let initrd = image::build(&kit.store, &programs, &JOB.replace("PAUSE", &pause.to_string()))?;
    let place = place()?;
    let share = place.join("share");
    fs::create_dir(&share)?;
    let grown = share.join(sight::GROWN);
    fs::create_dir_all(grown.parent().context("it is in a directory")?)?;
    fs::write(grown, "")?;
    fs::write(share.join(sight::MOVED), "")?;
    let observed = (|| {
        let device = Device::start(&share, &["a", "b"], profile)?;
        let report = Arc::<Mutex<sight::Report>>::default();
        let guest = |socket: usize, word: &str| {
            let mut command = kit.uml(&initrd, Some(&device.sockets[socket]), word)?;
            let report = report.clone();
            Ok::<_, anyhow::Error>(thread::spawn(move || {
                machine::watch(&mut command, 120, |line| {
                    report.lock().unwrap_or_else(PoisonError::into_inner).read(line);
                })
            }))
        };
        let looking = guest(0, "look=1")?;
        await_file(&share.join(sight::LOOKING), &looking)?;
        let writing = guest(1, "write=1")?;
        let written = write(&share, pause);
        let writer = writing.join();
        fs::write(share.join(sight::DONE), "")?;
        joined(looking.join())?;
        joined(writer)?;
        device.end()?;
        let (moved, made) = written?;
        let report = report.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = report.oldest(&moved, &made)?;
        Ok(oldest.into_iter().map(|(what, age)| (what.to_owned(), age)).collect())
    })();
    _ = fs::remove_dir_all(&place);
    observed
}

fn joined(ended: thread::Result<Result<()>>) -> Result<()> {
    ended.map_err(|_| anyhow::anyhow!("the thread of a guest has panicked"))?
}

fn await_file(path: &Path, guest: &thread::JoinHandle<Result<()>>) -> Result<()> {
    let start = Instant::now();
    while !path.exists() {
        if guest.is_finished() || start.elapsed() > Duration::from_secs(60) {
            bail!("the guest does not begin to look");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What the host does, and when each version of a name, and each new file, was there.
fn write(share: &Path, pause: u64) -> Result<(sight::Versions, sight::Versions)> {
    let (mut moved, mut made) = (sight::Versions::new(), sight::Versions::new());
    for (number, pause) in sight::pauses(pause).enumerate() {
        thread::sleep(pause);
        let version = number as u64 + 1;
        let new = share.join("new");
        fs::write(&new, vec![b'x'; version as usize])?;
        fs::rename(&new, share.join(sight::MOVED))?;
        moved.insert(version, sight::now());
        fs::write(share.join(format!("{}{number}", sight::MADE)), "")?;
        made.insert(version, sight::now());
    }
    Ok((moved, made))
}
