//! What runs inside the two guests of `cargo xtask guest --virtio --two`, and how old what they see is.
//!
//! One guest looks, the other writes, and so does the host; each notes when. A file's size is the number of its version.

use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Grows by a byte each time the other guest writes to it. In a directory of its own, whose names nobody changes.
pub const GROWN: &str = "quiet/grown";
/// Is replaced each time by a file that is a byte longer, by the host.
pub const MOVED: &str = "moved";
/// Files with a number behind the name are made one after the other, by the host.
pub const MADE: &str = "made-";
/// The one that looks is there.
pub const LOOKING: &str = "looking";
/// There is nothing more to see.
pub const DONE: &str = "done";

/// How a guest's line begins.
const SAW: &str = "saw ";
const WROTE: &str = "wrote ";

/// Versions, and when each was written, or was seen last: microseconds of real time. User Mode Linux has the machine's.
pub type Versions = BTreeMap<u64, u64>;

/// The time, as the guests and the host have it.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

/// Waits between writes: some so short that all is shared, some so long that things may be remembered.
pub fn pauses(long: u64) -> impl Iterator<Item = Duration> {
    let few = |count| (0..count).map(|i| [3, 40, 150, 400][i % 4]);
    few(16).chain([long]).chain(few(8)).map(Duration::from_millis)
}

/// `xtask guest-look DIR`.
pub fn look(dir: &Path) -> Result<()> {
    let mut seen: BTreeMap<&str, Versions> = BTreeMap::new();
    let (mut next, mut looks) = (0, 0u64);
    File::create(dir.join(LOOKING))?;
    while !dir.join(DONE).exists() {
        // Each time is from before the look: then it can only be too old.
        let at = now();
        let size = fs::metadata(dir.join(GROWN)).context(GROWN)?.len();
        seen.entry("size").or_default().insert(size, at);
        let at = now();
        let length = fs::read(dir.join(GROWN)).context(GROWN)?.len() as u64;
        seen.entry("content").or_default().insert(length, at);
        let at = now();
        let size = fs::metadata(dir.join(MOVED)).context(MOVED)?.len();
        seen.entry("name").or_default().insert(size, at);
        let at = now();
        match dir.join(format!("{MADE}{next}")).exists() {
            true => next += 1,
            // Version n: n files there.
            false => _ = seen.entry("absence").or_default().insert(next, at),
        }
        looks += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    for (what, versions) in &seen {
        versions.iter().for_each(|(version, at)| println!("{SAW}{what} {version} {at}"));
    }
    println!("{looks} looks");
    Ok(())
}

/// `xtask guest-write DIR MILLISECONDS`, with a pause of so long in the middle.
pub fn write(dir: &Path, long: &str) -> Result<()> {
    let mut file = File::options().append(true).open(dir.join(GROWN))?;
    for pause in pauses(long.parse()?) {
        std::thread::sleep(pause);
        file.write_all(b"x")?;
        let at = now();
        println!("{WROTE}{GROWN} {} {at}", file.metadata()?.len());
    }
    Ok(())
}

/// What the guests have told.
#[derive(Debug, Default)]
pub struct Report {
    seen: BTreeMap<String, Versions>,
    /// Since when there is each version.
    pub grown: Versions,
}

impl Report {
    /// A line of a guest's.
    pub fn read(&mut self, line: &str) {
        let numbers = |text: &str| -> Option<(String, u64, u64)> {
            let mut words = text.split(' ');
            let what = words.next()?.to_owned();
            Some((what, words.next()?.trim().parse().ok()?, words.next()?.trim().parse().ok()?))
        };
        if let Some((what, version, at)) = line.strip_prefix(SAW).and_then(numbers) {
            self.seen.entry(what).or_default().insert(version, at);
        } else if let Some((_, version, at)) = line.strip_prefix(WROTE).and_then(numbers) {
            self.grown.insert(version, at);
        }
    }

    /// For how long at most something was still seen after a newer version was there, by what was looked at.
    ///
    /// # Errors
    /// If too little was seen, or a version that there never was.
    pub fn oldest(&self, moved: &Versions, made: &Versions) -> Result<BTreeMap<&str, Duration>> {
        let mut oldest = BTreeMap::new();
        for (what, written) in
            [("size", &self.grown), ("content", &self.grown), ("name", moved), ("absence", made)]
        {
            let seen = self.seen.get(what).with_context(|| format!("nothing was seen of the {what}"))?;
            if written.len() < 20 || seen.len() < 5 {
                bail!(
                    "{} versions were written and {} seen of the {what}: too few",
                    written.len(),
                    seen.len()
                );
            }
            if let Some(strange) = seen.keys().find(|version| **version > written.len() as u64) {
                bail!("the {what} was seen as {strange}, which it never was");
            }
            let age = |(version, last): (&u64, &u64)| {
                let newer = written.range(version + 1..).map(|(_, at)| *at).min();
                newer.map_or(0, |newer| last.saturating_sub(newer))
            };
            oldest.insert(what, Duration::from_micros(seen.iter().map(age).max().unwrap_or(0)));
        }
        Ok(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_counted_from_the_newer_version_to_the_last_look_at_the_older() {
        let mut report = Report::default();
        let written: Versions = (1..=20).map(|version| (version, version * 1000)).collect();
        for version in 0..20 {
            let late = if version == 7 { 500 } else { 0 };
            for what in ["size", "content", "name", "absence"] {
                let late = if what == "name" { late } else { 0 };
                report.read(&format!("{SAW}{what} {version} {}", (version + 1) * 1000 - 1 + late));
            }
        }
        written.iter().for_each(|(version, at)| report.read(&format!("{WROTE}{GROWN} {version} {at}")));
        let oldest = report.oldest(&written, &written).expect("enough");
        assert_eq!(oldest["size"], Duration::ZERO);
        assert_eq!(oldest["name"], Duration::from_micros(499));
        report.read(&format!("{SAW}name 21 5"));
        assert!(report.oldest(&written, &written).is_err(), "there is no such version");
    }
}
