//! The FUSE connections of the machine: where they are mounted, and who serves them.
//!
//! Nothing here touches a mount: it may hang.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fusewire::mount::{MountEntry, fuse_mounts_of};

/// Where the kernel lists connections, if fusectl is mounted.
pub const CONTROL: &str = "/sys/fs/fuse/connections";

/// How long a scan of all processes is good for.
const FRESH: Duration = Duration::from_secs(5);

/// A process, as a user knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The name of its program.
    pub name: String,
}

impl Process {
    /// The process with this number; its name is empty if it is gone.
    pub fn of(pid: u32) -> Self {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self { pid, name: name.trim_end().to_owned() }
    }
}

/// What is known of a connection beside its requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Where it is mounted, in whichever mount namespace; bind mounts come later.
    pub points: Vec<PathBuf>,
    /// Type of the filesystem, such as `fuse.sshfs`.
    pub kind: String,
    /// What it says it shows.
    pub source: String,
    /// Processes that have the connection open.
    pub servers: Vec<Process>,
}

/// All connections, as far as this user may see them.
#[derive(Debug)]
pub struct Connections {
    places: BTreeMap<u32, Place>,
    scanned: Instant,
}

impl Connections {
    /// Looks at the whole machine.
    pub fn scan() -> Self {
        Self { places: places(), scanned: Instant::now() }
    }

    /// Looks again if it was long ago, or if one of these is not known.
    pub fn refresh(&mut self, seen: impl IntoIterator<Item = u32>) {
        let age = self.scanned.elapsed();
        // One that is mounted nowhere stays unknown, however often one looks.
        let is_new = age > FRESH / 10 && seen.into_iter().any(|number| !self.places.contains_key(&number));
        if is_new || age > FRESH {
            *self = Self::scan();
        }
    }

    /// What is known, by number.
    pub fn places(&self) -> &BTreeMap<u32, Place> {
        &self.places
    }

    /// Where the connection is mounted, or words that say that it is not known.
    pub fn name(&self, number: u32) -> String {
        let point = self.places.get(&number).and_then(|place| place.points.first());
        point.map_or_else(|| format!("connection {number}"), |point| point.display().to_string())
    }

    /// The connection mounted on `point`, the topmost if there are several.
    pub fn at(&self, point: &Path) -> Option<u32> {
        let here = fusewire::mount::fuse_mounts().unwrap_or_default();
        let own = here.into_iter().rfind(|entry| entry.mountpoint == point).and_then(|entry| number(&entry));
        let elsewhere = || self.places.iter().find(|(_, place)| place.points.iter().any(|at| at == point));
        own.or_else(|| elsewhere().map(|(number, _)| *number))
    }
}

/// How many requests of each connection are on their way or wait for their turn, as the kernel counts them; `None` if fusectl is not
/// mounted, or this user may not look.
pub fn waiting() -> Option<BTreeMap<u32, u64>> {
    let mut waiting = BTreeMap::new();
    let is_mounted =
        fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| table.contains(" - fusectl "));
    if !is_mounted {
        return None;
    }
    for entry in fs::read_dir(CONTROL).ok()?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let count =
            fs::read_to_string(entry.path().join("waiting")).ok().and_then(|text| text.trim().parse().ok());
        if let Some(count) = count {
            waiting.insert(number, count);
        }
    }
    Some(waiting)
}

fn number(entry: &MountEntry) -> Option<u32> {
    entry.connection().and_then(|number| number.try_into().ok())
}

fn places() -> BTreeMap<u32, Place> {
    let processes = processes();
    let mut places: BTreeMap<u32, Place> = BTreeMap::new();
    for pid in one_of_each_namespace(&processes) {
        let mut entries = fuse_mounts_of(pid).unwrap_or_default();
        entries.sort_by_key(|entry| entry.root != Path::new("/"));
        for entry in entries {
            let Some(number) = number(&entry) else { continue };
            let place = places.entry(number).or_default();
            if !place.points.contains(&entry.mountpoint) {
                place.points.push(entry.mountpoint);
            }
            place.kind = entry.fstype;
            place.source = entry.source.to_string_lossy().into_owned();
        }
    }
    for pid in processes {
        for number in connections_of(pid) {
            places.entry(number).or_default().servers.push(Process::of(pid));
        }
    }
    places
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut processes: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // Our own namespace comes first: its names are the ones that the user knows.
    let own = std::process::id();
    processes.sort_by_key(|pid| (*pid != own, *pid));
    processes
}

fn one_of_each_namespace(processes: &[u32]) -> Vec<u32> {
    let mut namespaces: HashMap<PathBuf, u32> = HashMap::new();
    let mut chosen = Vec::new();
    for pid in processes {
        let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else { continue };
        namespaces.entry(namespace).or_insert_with(|| {
            chosen.push(*pid);
            *pid
        });
    }
    chosen
}

/// The connections that a process has open: since Linux 6.18 the kernel tells, for a descriptor of `/dev/fuse`.
fn connections_of(pid: u32) -> BTreeSet<u32> {
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let is_device =
            fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().contains("fuse"));
        if !is_device {
            continue;
        }
        let info = PathBuf::from(format!("/proc/{pid}/fdinfo")).join(entry.file_name());
        let info = fs::read_to_string(info).unwrap_or_default();
        let line = info.lines().find_map(|line| line.strip_prefix("fuse_connection:"));
        numbers.extend(line.and_then(|number| number.trim().parse::<u32>().ok()));
    }
    numbers
}
