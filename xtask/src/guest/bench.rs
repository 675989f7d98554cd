//! The tables of the proposal of virtio-fs, from a guest: what it may remember, with and without DAX, served by us and by virtiofsd.
//!
//! One guest has all the mounts at once, and `fusewire-bench` in it takes them in turn; its result is stored in one of them, and
//! printed here.

use super::{
    board::{Board, Plug},
    device::{self, Device},
    image::{self, Program},
    machine,
    packages::Store,
    warm,
};
use crate::run;
use anyhow::{Context, Result, bail, ensure};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// What runs if nothing is said.
const PRESETS: [&str; 2] = ["virtiofs-mmap", "virtiofs-smallfile"];
/// What a guest may remember, in the order of the tables.
const MODES: [&str; 4] = ["none", "auto", "always", "shared"];
/// Twice what the presets map.
const WINDOW: &str = "64M";
/// The version that comparisons are about.
const VIRTIOFSD: &str = "1.14.0";
/// The result, in the first of the mounts.
pub(super) const RESULT: &str = "bench.json";

/// What the guest does. The bench takes the guest for the namespace of its own that it asks for.
const JOB: &str = "\
for share in SHARES; do
    case $share in *-dax) option=dax=always;; *) option=rw;; esac
    mkdir -p /mnt/$share && mount -t virtiofs -o $option $share /mnt/$share || { echo \"FAILED: mount $share\"; exit 1; }
done
export FUSEWIRE_BENCH_NAMESPACE=1
fusewire-bench run WORDS --json /tmp/RESULT > /tmp/tables 2> /tmp/errors
status=$?
[ $status = 0 ] || { tr '\\r' '\\n' < /tmp/errors | grep -v ' (eta ' | tail -n 20; grep failed /tmp/tables; }
[ ! -e /tmp/RESULT ] || cp /tmp/RESULT /mnt/FIRST/RESULT || status=1
for share in SHARES; do umount /mnt/$share || status=1; done
exit $status";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    presets: Vec<String>,
    modes: Vec<&'static str>,
    pub cpus: usize,
    /// Mounts in the guest are served over the ring.
    pub ring: bool,
    /// Where to keep the result.
    pub json: Option<PathBuf>,
    /// For the bench.
    pub words: Vec<String>,
}

/// A directory as the guest has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    Ours { mode: &'static str, dax: bool },
    Virtiofsd { mode: &'static str },
}

/// `cargo xtask guest --bench`.
pub fn run(words: &[&str]) -> Result<()> {
    let order = parse(words)?;
    if order.presets == [warm::PRESET] {
        return warm::run(order);
    }
    let store = Store::open(&run::target_dir()?.join("guest"))?;
    let (kernel, qemu) = (store.kernel(super::KERNEL)?, store.qemu()?);
    let virtiofsd = virtiofsd()?;
    if virtiofsd.is_none() {
        eprintln!(
            "xtask: without virtiofsd, which is not here: cargo install --locked virtiofsd --version {VIRTIOFSD} --root {}",
            run::target_dir()?.join("tools").display()
        );
    }
    let shares = shares(&order.modes, virtiofsd.is_some());
    let bench = device::binary("fusewire-bench")?;
    let mut programs = vec![Program { from: bench.clone(), to: "usr/bin/fusewire-bench".into() }];
    let fio = PathBuf::from("/usr/bin/fio");
    if fio.exists() {
        programs.push(Program { from: fio, to: "usr/bin/fio".into() });
    } else {
        eprintln!("xtask: fio is not here, which reads mapped files in the guest: apt-get install fio");
    }
    let initrd = image::build(&store, &programs, &job(&order, &shares))?;
    let place = Place::new()?;
    let start = Instant::now();
    let devices = shares
        .iter()
        .map(|share| share.serve(&place.0, order.cpus, virtiofsd.as_deref()))
        .collect::<Result<Vec<_>>>()?;
    let tags: Vec<String> = shares.iter().map(Share::tag).collect();
    let plugs: Vec<(&Path, Plug<'_>)> = shares
        .iter()
        .zip(&devices)
        .zip(&tags)
        .map(|((share, device), tag)| (device.sockets[0].as_path(), share.plug(tag, order.cpus)))
        .collect();
    let board = Board { kernel: &kernel, initrd: &initrd, cpus: order.cpus, memory: "2G", word: "" };
    eprintln!("xtask: guest with {}, which measures {}", kernel.display(), tags.join(", "));
    let ran = machine::watch(&mut board.command(&qemu, &plugs), 3600, |_| ());
    let kept = order.json.unwrap_or_else(|| store.dir().join(RESULT));
    let result = place.0.join(&tags[0]).join(RESULT);
    if result.exists() {
        fs::copy(&result, &kept).with_context(|| kept.display().to_string())?;
        run::must(Command::new(bench).arg("report").arg(&kept))?;
    }
    ran?;
    devices.into_iter().try_for_each(Device::end)?;
    eprintln!("xtask: guest: done in {} s; {}", start.elapsed().as_secs(), kept.display());
    Ok(())
}

fn job(order: &Order, shares: &[Share]) -> String {
    let tags: Vec<String> = shares.iter().map(Share::tag).collect();
    let words: Vec<&str> = order.presets.iter().chain(&order.words).map(String::as_str).collect();
    JOB.replace("SHARES", &tags.join(" "))
        .replace("FIRST", &tags[0])
        .replace("RESULT", RESULT)
        .replace("WORDS", &words.join(" "))
}

/// Neighbours are compared with each other.
fn shares(modes: &[&'static str], virtiofsd: bool) -> Vec<Share> {
    let of_mode = |mode: &&'static str| {
        let mode = *mode;
        let peer = (virtiofsd && mode != "shared").then_some(Share::Virtiofsd { mode });
        let ours = [false, true].map(|dax| Share::Ours { mode, dax });
        [Some(ours[0]), peer, Some(ours[1])].into_iter().flatten()
    };
    modes.iter().flat_map(of_mode).collect()
}

impl Share {
    /// Its name for the guest, and for the bench.
    fn tag(&self) -> String {
        match self {
            Self::Ours { mode, dax: false } => format!("fusewire-{mode}"),
            Self::Ours { mode, dax: true } => format!("fusewire-{mode}-dax"),
            Self::Virtiofsd { mode } => format!("virtiofsd-{mode}"),
        }
    }

    fn plug<'a>(&self, tag: &'a str, cpus: usize) -> Plug<'a> {
        match self {
            Self::Ours { dax: true, .. } => Plug::Generic { queues: cpus },
            Self::Ours { dax: false, .. } => Plug::Fs { tag, queues: cpus },
            // It has one.
            Self::Virtiofsd { .. } => Plug::Fs { tag, queues: 1 },
        }
    }

    /// A directory of its own, and a daemon that is started as its users do.
    fn serve(&self, place: &Path, cpus: usize, virtiofsd: Option<&Path>) -> Result<Device> {
        let tag = self.tag();
        let (dir, socket) = (place.join(&tag), place.join(format!("{tag}.sock")));
        fs::create_dir(&dir)?;
        let (program, words) = match self {
            Self::Ours { mode, dax } => {
                let cpus = cpus.to_string();
                let mut words = vec!["vhost", "--tag", &tag, "--cache", mode, "--queues", &cpus];
                words.extend(dax.then_some(["--dax-window", WINDOW]).into_iter().flatten());
                (device::binary("fusewire")?, owned(&words))
            }
            // Without the second there are no mapped files.
            Self::Virtiofsd { mode: "none" } => {
                (virtiofsd.context("virtiofsd")?.to_owned(), owned(&["--cache", "never", "--allow-mmap"]))
            }
            Self::Virtiofsd { mode } => {
                (virtiofsd.context("virtiofsd")?.to_owned(), owned(&["--cache", mode]))
            }
        };
        let place = ["--socket-path".into(), (&socket).into(), "--shared-dir".into(), (&dir).into()];
        Device::serve(program, [words, place.into()].concat(), vec![socket]).with_context(|| tag)
    }
}

fn owned(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

/// A directory in memory, where nothing else happens. It goes away with this value.
pub(super) struct Place(pub PathBuf);

impl Place {
    pub fn new() -> Result<Self> {
        let shm = Path::new("/dev/shm");
        let base = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        let dir = base.join(format!("fusewire-bench-{}", std::process::id()));
        _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        Ok(Self(dir))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// Where the other daemon is: among our tools, where the bench looks for peers, or where distributions put it.
fn virtiofsd() -> Result<Option<PathBuf>> {
    let tools = run::target_dir()?.join("tools/bin");
    let [peers, path] =
        ["FUSEWIRE_BENCH_PEERS_DIR", "PATH"].map(|name| std::env::var_os(name).unwrap_or_default());
    let dirs = std::iter::once(tools)
        .chain(std::env::split_paths(&peers))
        .chain(std::env::split_paths(&path))
        .chain(["/usr/libexec", "/usr/lib/qemu"].map(PathBuf::from));
    Ok(dirs.map(|dir| dir.join("virtiofsd")).find(|program| program.is_file()))
}

pub(super) fn parse(words: &[&str]) -> Result<Order> {
    let mut order = Order {
        presets: Vec::new(),
        modes: MODES.to_vec(),
        cpus: 1,
        ring: false,
        json: None,
        words: Vec::new(),
    };
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        let mut value = || words.next().copied().with_context(|| format!("{word} needs a value"));
        match word {
            "--modes" => {
                let asked: Vec<&str> = value()?.split(',').collect();
                if let Some(unknown) = asked.iter().find(|mode| !MODES.contains(mode)) {
                    bail!("--modes {unknown}: there are {}", MODES.join(", "));
                }
                order.modes.retain(|mode| asked.contains(mode));
            }
            "--cpus" => {
                let number = value()?;
                order.cpus = number.parse().with_context(|| format!("--cpus {number}: no number"))?;
                ensure!((1..=64).contains(&order.cpus), "--cpus: from 1 to 64 are possible");
            }
            "--json" => order.json = Some(value()?.into()),
            "--ring" => order.ring = true,
            "--" => order.words = words.by_ref().map(|word| (*word).to_owned()).collect(),
            word if word.starts_with('-') => {
                bail!(
                    "unknown option {word}: there are --modes, --ring, --cpus and --json; those of the bench stand behind --"
                )
            }
            preset => order.presets.push(preset.into()),
        }
    }
    if order.presets.is_empty() {
        order.presets = PRESETS.map(String::from).to_vec();
    }
    let is_warm = order.presets == [warm::PRESET];
    ensure!(
        is_warm || !order.presets.iter().any(|preset| preset == warm::PRESET),
        "{} has mounts of its own: it runs alone",
        warm::PRESET
    );
    ensure!(!is_warm || order.modes == MODES, "--modes is about directories that are shared with the guest");
    ensure!(is_warm || !order.ring, "--ring is about mounts in the guest, which only {} has", warm::PRESET);
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_those_that_are_compared() {
        let tags = |modes: &[&'static str], there| {
            shares(modes, there).iter().map(Share::tag).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            tags(&["auto", "shared"], true),
            "fusewire-auto virtiofsd-auto fusewire-auto-dax fusewire-shared fusewire-shared-dax"
        );
        assert_eq!(tags(&["none"], false), "fusewire-none fusewire-none-dax");
    }

    #[test]
    fn the_order_is_understood_or_refused() {
        let order = parse(&["virtiofs-mmap", "--modes", "always,none", "--", "--reps", "3"]).expect("parses");
        assert_eq!((order.modes, order.words.join(" ").as_str()), (vec!["none", "always"], "--reps 3"));
        assert_eq!(order.presets, ["virtiofs-mmap"]);
        assert_eq!(parse(&[]).expect("parses").presets, PRESETS);
        let warm = parse(&["warm", "--ring"]).expect("parses");
        assert!(warm.ring && warm.presets == [warm::PRESET]);
        for words in [
            &["--modes"][..],
            &["--modes", "never"],
            &["--cpus", "0"],
            &["--reps", "3"],
            &["warm", "virtiofs-mmap"],
            &["warm", "--modes", "none"],
            &["--ring"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn the_presets_are_about_these_mounts() {
        let dir = run::root().join("crates/fusewire-bench/workloads");
        for preset in PRESETS.iter().chain(&["virtiofs-fio"]) {
            let text = fs::read_to_string(dir.join(format!("{preset}.toml"))).expect("it is there");
            for tag in shares(&MODES, true).iter().map(Share::tag) {
                assert!(text.contains(&format!("\"{tag}=at:/mnt/{tag}?\"")), "{preset}: {tag}");
            }
        }
    }
}
