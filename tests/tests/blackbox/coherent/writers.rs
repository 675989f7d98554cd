//! Writers that change the same things by different ways, readers, and whether what these saw can be explained.

use super::WINDOW;
use fusewire_tests::history::{Act, History};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A way to the directory: who writes there, and who reads.
pub struct Side<'a> {
    pub writer: &'a Path,
    pub readers: &'a [&'a Path],
}

/// Registers of each kind. Few, so that they are in the caches and change all the time.
const EACH: usize = 4;
const KINDS: usize = 5;
/// Nothing is there.
const ABSENT: u64 = 0;

/// What is set and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The content of a file.
    Content,
    /// The size of a file.
    Size,
    /// Where a symbolic link leads, or that it is not there.
    Link,
    /// The time of change of a file.
    Time,
    /// Whether a name is listed.
    Listed,
}

#[derive(Clone, Copy, Debug)]
struct Register {
    kind: Kind,
    number: usize,
}

impl Register {
    fn at(index: usize) -> Self {
        let kind = [Kind::Content, Kind::Size, Kind::Link, Kind::Time, Kind::Listed][index / EACH];
        Self { kind, number: index % EACH }
    }

    fn name(self) -> String {
        format!("{:?}{}", self.kind, self.number)
    }

    fn prepare(self, dir: &Path) {
        let path = dir.join(self.name());
        match self.kind {
            Kind::Content => std::fs::write(path, format!("{ABSENT:016}")).unwrap(),
            Kind::Size | Kind::Time => drop(File::create(path).unwrap()),
            Kind::Link => {}
            Kind::Listed => std::fs::create_dir(path).unwrap(),
        }
        if self.kind == Kind::Time {
            self.set(dir, ABSENT, "");
        }
    }

    /// `None`: it was not set, somebody else was faster.
    fn set(self, dir: &Path, value: u64, who: &str) -> Option<u64> {
        let path = dir.join(self.name());
        let open = || File::options().write(true).open(&path).unwrap();
        match self.kind {
            Kind::Content => open().write_all_at(format!("{value:016}").as_bytes(), 0).unwrap(),
            Kind::Size => open().set_len(value).unwrap(),
            Kind::Time => open().set_modified(std::time::UNIX_EPOCH + Duration::from_secs(value)).unwrap(),
            Kind::Link if value.is_multiple_of(4) => {
                std::fs::remove_file(path).ok()?;
                return Some(ABSENT);
            }
            Kind::Link => {
                let new = dir.join(format!("{}.{who}", self.name()));
                std::os::unix::fs::symlink(value.to_string(), &new).unwrap();
                std::fs::rename(new, path).unwrap();
            }
            Kind::Listed => {
                let name = path.join("name");
                return match value % 2 {
                    0 => std::fs::remove_file(name).ok().map(|()| ABSENT),
                    _ => File::options().write(true).create_new(true).open(name).ok().map(|_| 1),
                };
            }
        }
        Some(value)
    }

    fn get(self, dir: &Path) -> u64 {
        let path = dir.join(self.name());
        match self.kind {
            Kind::Content => std::fs::read_to_string(path).unwrap().parse().expect("a number"),
            Kind::Size => path.metadata().unwrap().len(),
            Kind::Time => {
                let time = path.metadata().unwrap().modified().unwrap();
                time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
            }
            Kind::Link => match std::fs::read_link(path) {
                Ok(target) => target.to_str().unwrap().parse().expect("a number"),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => ABSENT,
                Err(error) => panic!("{}: {error}", self.name()),
            },
            Kind::Listed => std::fs::read_dir(path).unwrap().count() as u64,
        }
    }
}

/// Numbers that look like chance (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }
}

type Log = Vec<(usize, Act)>;

fn write(side: &Side<'_>, who: usize, (values, budget): (&AtomicU64, usize)) -> Log {
    let (mut log, mut dice) = (Log::new(), Dice(0x9e37_79b9 + who as u64));
    let name = who.to_string();
    for _ in 0..budget {
        let index = dice.roll(EACH * KINDS);
        let value = values.fetch_add(1, Ordering::Relaxed);
        let act = Act::of(|| Register::at(index).set(side.writer, value, &name));
        log.extend(act.map(|act| (index, act)));
        // Bursts and pauses: caches must get warm in between.
        if dice.roll(16) == 0 {
            std::thread::sleep(Duration::from_micros(dice.roll(3000) as u64));
        }
    }
    log
}

fn read(dir: &Path, seed: u64, is_over: &AtomicBool) -> Log {
    let (mut log, mut dice) = (Log::new(), Dice(seed));
    while !is_over.load(Ordering::Relaxed) {
        let index = dice.roll(EACH * KINDS);
        log.extend(Act::of(|| Some(Register::at(index).get(dir))).map(|act| (index, act)));
    }
    log
}

/// Half of `operations` are writes, one share for each side; as many reads at the least are checked.
pub fn run(sides: &[Side<'_>], operations: usize) {
    let registers = EACH * KINDS;
    let before = Instant::now();
    (0..registers).for_each(|index| Register::at(index).prepare(sides[0].writer));
    std::thread::sleep(WINDOW);
    let first = (0..registers).map(|index| (index, Act { value: ABSENT, begin: before, end: before }));
    let (values, is_over) = (AtomicU64::new(1), AtomicBool::new(false));
    let budget = operations / 2 / sides.len();
    let (settings, mut reads) = std::thread::scope(|scope| {
        let (is_over, values) = (&is_over, &values);
        let paths = sides.iter().flat_map(|side| side.readers).enumerate();
        let readers: Vec<_> =
            paths.map(|(seed, dir)| scope.spawn(move || read(dir, 77 + seed as u64, is_over))).collect();
        let writers = sides.iter().enumerate();
        let writers: Vec<_> =
            writers.map(|(who, side)| scope.spawn(move || write(side, who, (values, budget)))).collect();
        let settings: Vec<Log> = writers.into_iter().map(|thread| thread.join().expect("a writer")).collect();
        is_over.store(true, Ordering::Relaxed);
        let reads: Vec<Log> = readers.into_iter().map(|thread| thread.join().expect("a reader")).collect();
        (settings, reads)
    });
    // When all is quiet, nothing old may be left.
    std::thread::sleep(WINDOW);
    for dir in sides.iter().flat_map(|side| side.readers.iter().chain([&side.writer])) {
        let last = (0..registers)
            .filter_map(|index| Act::of(|| Some(Register::at(index).get(dir))).map(|act| (index, act)));
        reads.push(last.collect());
    }
    let settings: Vec<_> = first.chain(settings.into_iter().flatten()).collect();
    check(&settings, &reads.concat());
}

fn check(settings: &[(usize, Act)], reads: &[(usize, Act)]) {
    let mut ages: Vec<Duration> = Vec::with_capacity(reads.len());
    let mut wrong = Vec::new();
    for index in 0..EACH * KINDS {
        let of = |log: &[(usize, Act)]| -> Vec<Act> {
            log.iter().filter(|(of, _)| *of == index).map(|(_, act)| *act).collect()
        };
        let history = History::new(of(settings));
        for read in of(reads) {
            match history.check(read, WINDOW) {
                Ok(age) => ages.push(age),
                Err(error) => wrong.push((Register::at(index), error)),
            }
        }
    }
    ages.sort();
    let at = |part: f64| ages.get((ages.len() as f64 * part) as usize).or(ages.last());
    let old = ages.iter().filter(|age| !age.is_zero()).count();
    eprintln!(
        "{} writes, {} reads, {old} of them old: by {:?} (99 %), {:?} (99.9 %), {:?} at most",
        settings.len(),
        reads.len(),
        at(0.99),
        at(0.999),
        ages.last()
    );
    assert!(
        wrong.is_empty(),
        "{} reads are not explained, ages up to {:?}, the first: {:?}",
        wrong.len(),
        wrong.iter().filter_map(|(_, wrong)| wrong.age()).max(),
        &wrong[..wrong.len().min(5)]
    );
}
