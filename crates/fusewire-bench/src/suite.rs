//! Workload files: what is in them, and what is wrong with them.
//!
//! A file is TOML. At its top stand what all of it shares and what the command line does not say otherwise, then one
//! `[[workload]]` after the other, then, if there are any, `[[goal]]`s. [`KEYS`] says which keys an operation takes; everything else is refused with the
//! file, the workload and the key.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::client::allowed_cpus;
use crate::device::DEPTH;
use crate::goal::Goal;
use crate::target::Profile;
use crate::workload::{
    self, CommandLine, DeviceLoad, DeviceRequest, Extent, FioJob, MAX_THREADS, Op, PING_SIZE, Place, Request,
    Sources, Transfer, Workload,
};

/// Most operations of one pass: enough for minutes, and little enough that their names fit into memory.
const MAX_OPS: u64 = 10_000_000;
const MAX_PASSES: u32 = 1000;
/// Largest block of one operation.
const MAX_BLOCK: u64 = 64 << 20;
/// Largest set of files of one workload.
const MAX_FILES_SIZE: u64 = 1 << 40;
/// Options of fio that the bench sets.
const FIO_RESERVED: [&str; 11] = [
    "directory",
    "filename",
    "filename_format",
    "group_reporting",
    "io_size",
    "number_ios",
    "numjobs",
    "size",
    "stonewall",
    "thread",
    "time_based",
];

/// The workloads that come with the bench: name and text.
const PRESETS: [(&str, &str); 21] = [
    ("passthrough", include_str!("../workloads/passthrough.toml")),
    ("field", include_str!("../workloads/field.toml")),
    ("round-trip", include_str!("../workloads/round-trip.toml")),
    ("polling", include_str!("../workloads/polling.toml")),
    ("user-time", include_str!("../workloads/user-time.toml")),
    ("channels", include_str!("../workloads/channels.toml")),
    ("top", include_str!("../workloads/top.toml")),
    ("backend", include_str!("../workloads/backend.toml")),
    ("paged-read", include_str!("../workloads/paged-read.toml")),
    ("dio-read", include_str!("../workloads/dio-read.toml")),
    ("mmap-read", include_str!("../workloads/mmap-read.toml")),
    ("create", include_str!("../workloads/create.toml")),
    ("fio-rw", include_str!("../workloads/fio-rw.toml")),
    ("smallfile", include_str!("../workloads/smallfile.toml")),
    ("kernel-build", include_str!("../workloads/kernel-build.toml")),
    ("warm", include_str!("../workloads/warm.toml")),
    ("requests", include_str!("../workloads/requests.toml")),
    ("vhost", include_str!("../workloads/vhost.toml")),
    ("virtiofs-mmap", include_str!("../workloads/virtiofs-mmap.toml")),
    ("virtiofs-smallfile", include_str!("../workloads/virtiofs-smallfile.toml")),
    ("virtiofs-fio", include_str!("../workloads/virtiofs-fio.toml")),
];

/// Keys of an operation: its name, what must be given, what may be given.
type Keys = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Keys that operations take beside `name`, `about`, `op`, `threads`, `passes`, `sampled`, `counted`, `warm` and `busy-others`.
pub const KEYS: [Keys; 18] = [
    ("stat", &["ops"], &[]),
    ("open", &["ops"], &[]),
    ("stat-at", &["ops"], &[]),
    ("missing", &["ops"], &[]),
    ("readlink", &["ops"], &[]),
    ("create", &["ops"], &["size"]),
    ("unlink", &["ops"], &[]),
    ("rename", &["ops"], &[]),
    ("read-file", &["ops", "size"], &[]),
    ("append", &["ops", "size"], &[]),
    ("list", &["ops"], &[]),
    ("ls-l", &["ops"], &[]),
    ("read", &["ops", "block"], &["file-size", "total-size", "direct", "order"]),
    ("write", &["ops", "block"], &["file-size", "total-size", "direct", "order"]),
    ("ping", &["ops", "request"], &["block"]),
    ("fio", &["fio"], &["file-size", "total-size", "ops", "files"]),
    ("device", &["ops", "request"], &["block", "depth", "place"]),
    ("command", &["run"], &["prepare", "needs", "sources", "kernel"]),
];

/// Workloads that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Suite {
    /// Name: that of the preset, or of the file without its ending.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// Targets if the command line names none. One with a `?` behind it is left out if it is not on this machine.
    pub targets: Vec<String>,
    /// Caching profile if the command line names none.
    pub profile: Option<Profile>,
    /// CPU on which all clients are kept if the command line does not say otherwise.
    pub cpu: Option<usize>,
    /// Seconds that one turn may take, if that is more than usual.
    pub limit: Option<u64>,
    /// Whether there is a table with a line for each target: what it can do in each row.
    pub by_target: bool,
    /// The workloads, in the order of the tables.
    pub workloads: Vec<Workload>,
    /// Numbers to reach.
    pub goals: Vec<Goal>,
}

/// A file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    title: String,
    #[serde(default)]
    targets: Vec<String>,
    profile: Option<Profile>,
    cpu: Option<usize>,
    limit: Option<u64>,
    #[serde(default)]
    by_target: bool,
    #[serde(default)]
    threads: Vec<usize>,
    #[serde(default, rename = "workload")]
    workloads: Vec<Entry>,
    #[serde(default, rename = "goal")]
    goals: Vec<Goal>,
}

/// A workload as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    name: String,
    #[serde(default)]
    about: String,
    op: String,
    threads: Option<Threads>,
    passes: Option<u32>,
    #[serde(default)]
    busy_others: bool,
    #[serde(default)]
    sampled: bool,
    #[serde(default)]
    counted: bool,
    #[serde(default)]
    warm: bool,
    ops: Option<u64>,
    size: Option<Size>,
    block: Option<Size>,
    file_size: Option<Size>,
    total_size: Option<Size>,
    direct: Option<bool>,
    order: Option<Order>,
    request: Option<RequestName>,
    depth: Option<u16>,
    place: Option<Place>,
    files: Option<usize>,
    fio: Option<BTreeMap<String, toml::Value>>,
    run: Option<String>,
    prepare: Option<String>,
    needs: Option<Vec<String>>,
    sources: Option<Sources>,
    kernel: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Order {
    Sequential,
    Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RequestName {
    Getattr,
    GetattrFile,
    Lookup,
    Create,
    Read,
    Write,
}

/// Numbers of threads, or the word `cpus`: as many as there are CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "threads are a list of numbers, such as [1, 2, 4], or the word \"cpus\"")]
enum Threads {
    These(Vec<usize>),
    Word(CpusWord),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CpusWord {
    Cpus,
}

impl Threads {
    fn numbers(self) -> Vec<usize> {
        match self {
            Self::These(numbers) => numbers,
            Self::Word(CpusWord::Cpus) => vec![allowed_cpus().len().clamp(1, MAX_THREADS)],
        }
    }
}

/// Bytes, as a number or as text with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size is a number of bytes or text such as \"128K\"")]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Self(number)),
            Form::Text(text) => workload::bytes(&text).map(Self).map_err(D::Error::custom),
        }
    }
}

impl Suite {
    /// Names of the presets.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }

    /// The preset of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn preset(name: &str) -> Result<Self> {
        let Some((_, text)) = PRESETS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = Self::presets().collect();
            bail!(
                "there is no preset {name}; there are {}; files of your own go with --workloads",
                known.join(", ")
            );
        };
        Self::parse(name, text).with_context(|| format!("preset {name}"))
    }

    /// Reads a workload file.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or says something that makes no sense; the message names the file, the
    /// workload and the key, and what is allowed.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the workload file {}", path.display()))?;
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Self::parse(&name, &text).with_context(|| path.display().to_string())
    }

    /// Reads the text of a workload file.
    ///
    /// # Errors
    /// As [`Suite::read`], without the file.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|error| anyhow!("{}", error.to_string().trim_end()))?;
        check_threads(&file.threads).context("key \"threads\"")?;
        ensure!(!file.workloads.is_empty(), "there is no workload in it; write [[workload]]");
        let mut workloads: Vec<Workload> = Vec::new();
        for entry in file.workloads {
            let name = entry.name.clone();
            let workload = entry.check(&file.threads).with_context(|| format!("workload \"{name}\""))?;
            ensure!(
                workloads.iter().all(|other| other.name != name),
                "workload \"{name}\": key \"name\": there are two of this name"
            );
            workloads.push(workload);
        }
        let names: Vec<&str> = workloads.iter().map(|workload| workload.name.as_str()).collect();
        for goal in &file.goals {
            goal.check(&names).with_context(|| format!("goal \"{}\"", goal.about))?;
        }
        Ok(Self {
            name: name.to_owned(),
            title: file.title,
            targets: file.targets,
            profile: file.profile,
            cpu: file.cpu,
            limit: file.limit,
            by_target: file.by_target,
            workloads,
            goals: file.goals,
        })
    }
}

impl Entry {
    fn check(self, default_threads: &[usize]) -> Result<Workload> {
        check_name(&self.name)?;
        self.check_keys()?;
        let threads = self.threads.clone().map_or_else(|| default_threads.to_vec(), Threads::numbers);
        ensure!(
            !threads.is_empty(),
            "key \"threads\" is missing, here and at the top of the file; write for instance threads = [1, 2, 4]"
        );
        check_threads(&threads).context("key \"threads\"")?;
        let passes = self.passes.unwrap_or(1);
        ensure!((1..=MAX_PASSES).contains(&passes), "key \"passes\": it must be from 1 to {MAX_PASSES}");
        if let Some(ops) = self.ops {
            ensure!((1..=MAX_OPS).contains(&ops), "key \"ops\": it must be from 1 to {MAX_OPS}");
        }
        let (name, about, ops, sampled) = (self.name.clone(), self.about.clone(), self.ops, self.sampled);
        let (busy_others, counted, warm) = (self.busy_others, self.counted, self.warm);
        let kind = self.op.clone();
        let op = self.op()?;
        // A command is one operation, and fio without a number reads or writes each block once.
        let ops = match &op {
            Op::Command(_) => 1,
            _ => ops.unwrap_or(0),
        };
        ensure!(
            !warm || op.can_be_repeated(),
            "key \"warm\": op = \"{kind}\" leaves something behind, so it cannot be done twice"
        );
        let workload =
            Workload { name, about, threads, ops, passes, busy_others, sampled, counted, warm, op };
        check_files(&workload)?;
        Ok(workload)
    }

    /// Every key that was given, beside those that all operations take.
    fn given(&self) -> Vec<&'static str> {
        let keys = [
            ("ops", self.ops.is_some()),
            ("size", self.size.is_some()),
            ("block", self.block.is_some()),
            ("file-size", self.file_size.is_some()),
            ("total-size", self.total_size.is_some()),
            ("direct", self.direct.is_some()),
            ("order", self.order.is_some()),
            ("request", self.request.is_some()),
            ("depth", self.depth.is_some()),
            ("place", self.place.is_some()),
            ("files", self.files.is_some()),
            ("fio", self.fio.is_some()),
            ("run", self.run.is_some()),
            ("prepare", self.prepare.is_some()),
            ("needs", self.needs.is_some()),
            ("sources", self.sources.is_some()),
            ("kernel", self.kernel.is_some()),
        ];
        keys.into_iter().filter(|(_, is_given)| *is_given).map(|(key, _)| key).collect()
    }

    fn check_keys(&self) -> Result<()> {
        let Some((op, required, optional)) = KEYS.iter().find(|(op, ..)| *op == self.op) else {
            let known: Vec<_> = KEYS.iter().map(|(op, ..)| *op).collect();
            bail!("key \"op\": there is no operation \"{}\"; there are {}", self.op, known.join(", "));
        };
        let given = self.given();
        let all: Vec<_> = required.iter().chain(*optional).copied().collect();
        if let Some(key) = given.iter().find(|key| !all.contains(key)) {
            bail!(
                "key \"{key}\": op = \"{op}\" does not take it; it takes {}, and name, about, threads, passes, sampled, counted, warm, busy-others",
                all.join(", ")
            );
        }
        if let Some(key) = required.iter().find(|key| !given.contains(key)) {
            bail!("key \"{key}\" is missing; op = \"{op}\" needs {}", required.join(", "));
        }
        if all.contains(&"file-size") {
            ensure!(
                self.file_size.is_some() != self.total_size.is_some(),
                "keys \"file-size\" and \"total-size\": op = \"{op}\" needs one of them and not both"
            );
        }
        Ok(())
    }

    fn op(self) -> Result<Op> {
        let size = self.size.map_or(0, |size| size.0);
        ensure!(size <= MAX_BLOCK, "key \"size\": it must be at most {MAX_BLOCK} bytes");
        Ok(match self.op.as_str() {
            "stat" => Op::Stat,
            "stat-at" => Op::StatAt,
            "missing" => Op::Missing,
            "readlink" => Op::Readlink,
            "open" => Op::Open,
            "create" => Op::Create { size },
            "unlink" => Op::Unlink,
            "rename" => Op::Rename,
            "read-file" => Op::ReadFile { size },
            "append" => Op::Append { size },
            "list" => Op::List,
            "ls-l" => Op::LsL,
            "read" | "write" => self.data()?,
            "ping" => self.ping()?,
            "device" => self.device()?,
            "fio" => self.fio()?,
            _ => self.command()?,
        })
    }

    fn extent(&self) -> Extent {
        match (self.file_size, self.total_size) {
            (Some(size), _) => Extent::Each(size.0),
            (None, size) => Extent::Total(size.map_or(0, |size| size.0)),
        }
    }

    fn data(self) -> Result<Op> {
        let direct = self.direct.unwrap_or(false);
        let transfer = Transfer {
            block: check_block(self.block, direct)?,
            write: self.op == "write",
            direct,
            random: self.order == Some(Order::Random),
        };
        Ok(Op::Data { transfer, files: self.extent() })
    }

    fn ping(self) -> Result<Op> {
        let block = || -> Result<usize> {
            ensure!(self.block.is_some(), "key \"block\" is missing; a request with data needs it");
            let block = check_block(self.block, true)?;
            ensure!(block as u64 <= PING_SIZE, "key \"block\": it must be at most {PING_SIZE} bytes");
            Ok(block)
        };
        Ok(Op::Ping(match self.request {
            Some(RequestName::Read) => Request::Read { block: block()? },
            Some(RequestName::Write) => Request::Write { block: block()? },
            Some(RequestName::Lookup | RequestName::Create) => {
                bail!("key \"request\": op = \"ping\" sends getattr, getattr-file, read or write")
            }
            _ if self.block.is_some() => bail!("key \"block\": this request carries no data"),
            Some(RequestName::GetattrFile) => Request::GetattrFile,
            Some(RequestName::Getattr) | None => Request::Getattr,
        }))
    }

    fn device(self) -> Result<Op> {
        let depth = self.depth.unwrap_or(1);
        ensure!((1..=DEPTH).contains(&depth), "key \"depth\": it must be from 1 to {DEPTH}");
        let request = match self.request {
            Some(RequestName::Read) => {
                let block = check_block(self.block, false)?;
                ensure!(
                    block >= 8 && (block as u64) <= PING_SIZE,
                    "key \"block\": it must be from 8 to {PING_SIZE} bytes"
                );
                DeviceRequest::Read { block }
            }
            Some(RequestName::Write | RequestName::GetattrFile) => {
                bail!("key \"request\": op = \"device\" sends getattr, lookup, create or read")
            }
            _ if self.block.is_some() => bail!("key \"block\": this request carries no data"),
            Some(RequestName::Lookup) => DeviceRequest::Lookup,
            Some(RequestName::Create) => DeviceRequest::Create,
            Some(RequestName::Getattr) | None => DeviceRequest::Getattr,
        };
        Ok(Op::Device(DeviceLoad { request, depth, place: self.place.unwrap_or_default() }))
    }

    fn fio(self) -> Result<Op> {
        let extent = self.extent();
        let mut options = BTreeMap::new();
        for (key, value) in self.fio.unwrap_or_default() {
            ensure!(
                !FIO_RESERVED.contains(&key.as_str()),
                "key \"fio.{key}\": the bench sets it; use file-size, total-size, files, ops and threads"
            );
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(yes) => u8::from(yes).to_string(),
                _ => bail!("key \"fio.{key}\": it must be text, a number, true or false"),
            };
            ensure!(
                !text.contains('\n') && !key.contains(['\n', '=', '[']),
                "key \"fio.{key}\": it must be one line"
            );
            options.insert(key, text);
        }
        for key in ["rw", "bs"] {
            ensure!(options.contains_key(key), "key \"fio.{key}\" is missing; fio needs rw and bs");
        }
        workload::bytes(&options["bs"]).map_err(|error| anyhow!("key \"fio.bs\": {error}"))?;
        ensure!(
            self.files.is_none_or(|files| (1..=1000).contains(&files)),
            "key \"files\": it must be from 1 to 1000"
        );
        Ok(Op::Fio(FioJob { files: self.files, extent, options }))
    }

    fn command(self) -> Result<Op> {
        let command = CommandLine {
            needs: self.needs.unwrap_or_default(),
            sources: self.sources,
            kernel: self.kernel.unwrap_or(false),
            prepare: self.prepare,
            run: self.run.unwrap_or_default(),
        };
        if let Some(sources) = command.sources {
            let all = [sources.dirs, sources.files, sources.headers];
            ensure!(
                all.iter().all(|number| (1..=10_000).contains(number)),
                "key \"sources\": dirs, files and headers must be from 1 to 10000"
            );
        }
        for (key, text) in [("run", Some(&command.run)), ("prepare", command.prepare.as_ref())] {
            let Some(text) = text else { continue };
            ensure!(
                command.sources.is_some() || !text.contains("{sources}"),
                "key \"{key}\": it uses {{sources}}, but the key \"sources\" does not say how large it is"
            );
            ensure!(
                !text.contains("{kernel}") || command.kernel && key == "run",
                "key \"{key}\": {{kernel}} is for \"run\", with kernel = true"
            );
        }
        Ok(Op::Command(command))
    }
}

fn check_name(name: &str) -> Result<()> {
    ensure!(
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
        "key \"name\": it may have letters, digits, '-', '_' and '.'"
    );
    Ok(())
}

fn check_threads(threads: &[usize]) -> Result<()> {
    ensure!(
        threads.iter().all(|threads| (1..=MAX_THREADS).contains(threads)),
        "each number of threads must be from 1 to {MAX_THREADS}"
    );
    Ok(())
}

fn check_block(block: Option<Size>, direct: bool) -> Result<usize> {
    let block = block.map_or(0, |block| block.0);
    ensure!((1..=MAX_BLOCK).contains(&block), "key \"block\": it must be from 1 to {MAX_BLOCK} bytes");
    ensure!(
        !direct || block.is_multiple_of(4096),
        "key \"block\": past the page cache it must be a multiple of 4096 bytes"
    );
    Ok(usize::try_from(block)?)
}

/// Files must hold what is done to them, and what is read through the page cache must not be read twice.
fn check_files(workload: &Workload) -> Result<()> {
    for threads in &workload.threads {
        let Some(files) = workload.data_files(*threads) else { return Ok(()) };
        ensure!(
            files.size > 0,
            "keys \"file-size\" and \"total-size\": with {threads} threads a file would be smaller than one block"
        );
        let total = files.size.saturating_mul(files.count as u64);
        ensure!(
            total <= MAX_FILES_SIZE,
            "keys \"file-size\" and \"total-size\": with {threads} threads that is more than {MAX_FILES_SIZE} bytes"
        );
        if let Op::Fio(job) = &workload.op {
            ensure!(
                job.files.is_none_or(|files| files >= *threads),
                "key \"files\": with {threads} threads some would have no file"
            );
        }
        if let Op::Data { transfer, .. } = &workload.op
            && !transfer.direct
            && !transfer.write
        {
            let once = files.size / transfer.block as u64 * *threads as u64;
            ensure!(
                workload.ops <= once,
                "key \"ops\": with {threads} threads more than {once} would read blocks a second time, from the page cache"
            );
        }
    }
    Ok(())
}

/// What operations there are and which keys they take, for people.
pub fn describe_keys() -> String {
    let mut text = String::new();
    for (op, required, optional) in KEYS {
        let keys =
            required.iter().map(|key| (*key).to_owned()).chain(optional.iter().map(|key| format!("[{key}]")));
        let _ = writeln!(text, "  {op:<10} {}", keys.collect::<Vec<_>>().join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Metric;

    const GOOD: &str = r#"
        title = "t"
        threads = [1, 2]
        [[workload]]
        name = "a"
        op = "stat"
        ops = 10
        [[workload]]
        name = "b"
        op = "read"
        ops = 16
        block = "4K"
        order = "random"
        total-size = "64K"
        threads = [1]
    "#;

    #[test]
    fn a_file_becomes_workloads() {
        let suite = Suite::parse("x", GOOD).unwrap();
        assert_eq!((suite.name.as_str(), suite.workloads.len()), ("x", 2));
        let [a, b] = &suite.workloads[..] else { panic!() };
        assert_eq!((a.op.clone(), a.ops, a.passes, a.threads.as_slice()), (Op::Stat, 10, 1, &[1, 2][..]));
        let transfer = Transfer { block: 4096, write: false, direct: false, random: true };
        assert_eq!(b.op, Op::Data { transfer, files: Extent::Total(65536) });
        assert_eq!(b.threads, [1]);
    }

    #[test]
    fn all_presets_are_valid_and_embedded() {
        for name in Suite::presets() {
            let suite = Suite::preset(name).unwrap_or_else(|error| panic!("{error:#}"));
            assert!(!suite.title.is_empty() && !suite.targets.is_empty(), "{name}");
            assert!(suite.workloads.iter().all(|workload| !workload.about.is_empty()), "{name}");
        }
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
        let mut files: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        let mut known: Vec<_> = Suite::presets().map(str::to_owned).collect();
        files.sort();
        known.sort();
        assert_eq!(files, known, "a workload file is not embedded, or an embedded one is gone");
    }

    #[test]
    fn goals_are_checked() {
        let with = |goal: &str| Suite::parse("x", &format!("{GOOD}\n[[goal]]\nabout = \"g\"\n{goal}"));
        let good = "subject = \"s\"\nbaseline = \"t\"\nmetric = \"p50\"\nat-most = 1.4\nworkloads = [\"a\"]";
        let goals = with(good).unwrap().goals;
        assert_eq!((goals[0].metric, goals[0].at_most, goals[0].at_least), (Metric::P50, Some(1.4), None));
        for (from, to, needles) in [
            ("at-most = 1.4", "", &["goal \"g\"", "one of them is needed"][..]),
            ("at-most = 1.4", "at-most = 1.4\nat-least = 1", &["one of them is needed and not both"]),
            ("at-most = 1.4", "at-most = 0", &["above 0"]),
            ("[\"a\"]", "[\"c\"]", &["goal \"g\"", "no workload c"]),
            ("p50", "p5", &["p5", "`p50`"]),
            ("baseline", "base", &["base", "expected one of"]),
        ] {
            assert!(good.contains(from), "{from}");
            let error = format!("{:#}", with(&good.replacen(from, to, 1)).unwrap_err());
            for needle in needles {
                assert!(error.contains(needle), "{to}: `{needle}` is missing in: {error}");
            }
        }
    }

    #[test]
    fn presets_of_the_ring_have_it_beside_dev_fuse_by_the_same_requests() {
        const BOTH: [&str; 2] = [
            "ring=fusewire:channel=uring,passthrough=off?",
            "dev-fuse=fusewire:channel=dev-fuse,passthrough=off",
        ];
        for name in ["paged-read", "dio-read", "mmap-read", "create", "fio-rw", "field"] {
            let suite = Suite::preset(name).unwrap();
            for target in BOTH.into_iter().chain(["native", "fusewire"]) {
                assert!(suite.targets.iter().any(|known| known == target), "{name}: there is no {target}");
            }
            // What the kernel does by itself shows nothing of a channel.
            assert!(suite.goals.iter().all(|goal| goal.subject == "ring"), "{name}");
            let is_of_both = |goal: &Goal| goal.baseline.as_deref() == Some("dev-fuse");
            assert!(suite.goals.iter().any(is_of_both), "{name}");
        }
    }

    #[test]
    fn polling_has_a_goal_for_auto_against_each_other_way() {
        let goals = Suite::preset("polling").unwrap().goals;
        let pairs: Vec<_> = goals
            .iter()
            .map(|goal| {
                assert!(goal.workloads.is_empty() && goal.threads.is_empty(), "each cell counts: {goal:?}");
                assert_eq!((goal.at_least, goal.rows), (Some(0.95), crate::goal::Rows::Each));
                (goal.subject.as_str(), goal.baseline.as_deref().unwrap())
            })
            .collect();
        assert_eq!(
            pairs,
            [
                ("auto", "off"),
                ("auto", "fixed-10"),
                ("auto", "fixed-50"),
                ("one-auto", "one-off"),
                ("one-auto", "one-fixed-10"),
                ("one-auto", "one-fixed-50")
            ]
        );
    }

    #[test]
    fn goals_of_presets_are_about_their_targets() {
        for name in Suite::presets() {
            let suite = Suite::preset(name).unwrap();
            let names: Vec<&str> = suite
                .targets
                .iter()
                .map(|target| target.trim_end_matches('?'))
                .map(|target| {
                    target
                        .split_once('=')
                        .filter(|(name, _)| !name.contains(':'))
                        .map_or(target, |(name, _)| name)
                })
                .collect();
            for goal in &suite.goals {
                for target in [Some(&goal.subject), goal.baseline.as_ref()].into_iter().flatten() {
                    assert!(names.contains(&target.as_str()), "{name}: {target} is not in {names:?}");
                }
                let has_rows = suite.workloads.iter().any(|workload| {
                    (goal.workloads.is_empty() || goal.workloads.contains(&workload.name))
                        && (goal.threads.is_empty()
                            || workload.threads.iter().any(|one| goal.threads.contains(one)))
                });
                assert!(has_rows, "{name}: no row for {}", goal.about);
            }
        }
    }

    #[test]
    fn passthrough_measures_what_it_always_did() {
        let suite = Suite::preset("passthrough").unwrap();
        let row = |name: &str| {
            let found = suite.workloads.iter().find(|workload| workload.name == name);
            found.unwrap_or_else(|| panic!("{name}")).clone()
        };
        assert_eq!(suite.workloads.len(), 11);
        assert!(suite.workloads.iter().all(|workload| workload.threads == [1, 2, 4]));
        assert_eq!((row("stat").ops, row("create").ops, row("readdir").ops), (8000, 4000, 100));
        assert_eq!((row("readdir").passes, row("read-1m").passes, row("read-128k").passes), (6, 2, 1));
        let transfer = Transfer { block: 1 << 20, write: true, direct: true, random: false };
        assert_eq!(row("write-1m").op, Op::Data { transfer, files: Extent::Each(64 << 20) });
        let small: Vec<_> =
            suite.workloads.iter().filter(|w| w.is_small() == Some(true)).map(|w| &w.name[..]).collect();
        assert_eq!(small, ["stat", "open", "create", "unlink", "randread-4k", "randread-4k-buffered"]);
    }

    /// Replaces some text of the good file and returns the message.
    fn error(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        format!("{:#}", Suite::parse("x", &GOOD.replacen(from, to, 1)).unwrap_err())
    }

    #[test]
    fn errors_name_the_workload_the_key_and_what_is_allowed() {
        for (from, to, needles) in [
            ("ops = 10", "", &["workload \"a\"", "key \"ops\" is missing", "needs ops"][..]),
            ("ops = 10", "ops = 0", &["workload \"a\"", "key \"ops\"", "from 1 to"]),
            ("ops = 10", "ops = 10\nblock = 1", &["workload \"a\"", "key \"block\"", "it takes ops"]),
            ("ops = 10", "ops = 10\nblok = 1", &["blok", "expected one of", "`block`", "line 8"]),
            ("\"stat\"", "\"stats\"", &["workload \"a\"", "\"stats\"", "there are stat, open"]),
            ("\"4K\"", "\"4X\"", &["`4X` is no size", "K, M or G", "line 12"]),
            ("\"4K\"", "128000", &["workload \"b\"", "smaller than one block"]),
            ("total-size = \"64K\"", "", &["workload \"b\"", "\"total-size\"", "needs one of them"]),
            ("ops = 16", "ops = 17", &["workload \"b\"", "more than 16", "page cache"]),
            ("\"random\"", "\"shuffled\"", &["shuffled", "`sequential` or `random`"]),
            ("\"b\"", "\"a\"", &["workload \"a\"", "two of this name"]),
            ("\"b\"", "\"a b\"", &["\"a b\"", "letters, digits"]),
            ("[1, 2]", "[0]", &["key \"threads\"", "from 1 to 64"]),
            ("threads = [1, 2]", "", &["workload \"a\"", "\"threads\" is missing"]),
        ] {
            let text = error(from, to);
            for needle in needles {
                assert!(text.contains(needle), "{to}: `{needle}` is missing in: {text}");
            }
        }
        let none = format!("{:#}", Suite::parse("x", "title = \"t\"").unwrap_err());
        assert!(none.contains("[[workload]]"), "{none}");
    }

    fn one(body: &str) -> Result<Op> {
        let text = format!("title = \"t\"\nthreads = [2]\n[[workload]]\nname = \"w\"\n{body}");
        Ok(Suite::parse("x", &text)?.workloads[0].op.clone())
    }

    #[test]
    fn what_leaves_something_behind_is_never_warm() {
        for op in ["stat", "missing", "readlink", "open", "list", "ls-l"] {
            one(&format!("op=\"{op}\"\nops=1\nwarm=true")).unwrap();
        }
        for op in ["create", "unlink", "rename"] {
            let refused = format!("{:#}", one(&format!("op=\"{op}\"\nops=1\nwarm=true")).unwrap_err());
            assert!(refused.contains("key \"warm\"") && refused.contains("twice"), "{refused}");
        }
    }

    #[test]
    fn pings_fio_and_commands_are_checked() {
        assert_eq!(one("op=\"ping\"\nops=1\nrequest=\"getattr\"").unwrap(), Op::Ping(Request::Getattr));
        let read = one("op=\"ping\"\nops=1\nrequest=\"read\"\nblock=\"4K\"").unwrap();
        assert_eq!(read, Op::Ping(Request::Read { block: 4096 }));
        let fio =
            one("op=\"fio\"\ntotal-size=\"1M\"\nfio={rw=\"read\",bs=\"4k\",direct=true,iodepth=4}").unwrap();
        let Op::Fio(job) = fio else { panic!() };
        assert_eq!(
            (job.options["direct"].as_str(), job.options["iodepth"].as_str(), job.block()),
            ("1", "4", 4096)
        );
        for (body, needle) in [
            ("op=\"ping\"\nops=1\nrequest=\"read\"", "key \"block\" is missing"),
            ("op=\"ping\"\nops=1\nrequest=\"getattr\"\nblock=4096", "carries no data"),
            ("op=\"ping\"\nops=1\nrequest=\"read\"\nblock=\"2M\"", "at most 1048576"),
            ("op=\"fio\"\ntotal-size=\"1M\"\nfio={rw=\"read\"}", "\"fio.bs\" is missing"),
            (
                "op=\"fio\"\ntotal-size=\"1M\"\nfio={rw=\"read\",bs=\"4k\",numjobs=2}",
                "\"fio.numjobs\": the bench sets it",
            ),
            ("op=\"fio\"\ntotal-size=\"1M\"\nfiles=1\nfio={rw=\"read\",bs=\"4k\"}", "would have no file"),
            ("op=\"ping\"\nops=1\nrequest=\"lookup\"", "getattr, getattr-file, read or write"),
            ("op=\"device\"\nops=1\nrequest=\"write\"", "getattr, lookup, create or read"),
            ("op=\"device\"\nops=1\nrequest=\"getattr\"\ndepth=257", "from 1 to 256"),
            ("op=\"device\"\nops=1\nrequest=\"lookup\"\nblock=4096", "carries no data"),
            ("op=\"device\"\nops=1\nrequest=\"read\"\nblock=\"2M\"", "from 8 to 1048576"),
            ("op=\"device\"\nops=1\nrequest=\"create\"\nwarm=true", "cannot be done twice"),
            ("op=\"command\"\nrun=\"ls {sources}\"", "how large it is"),
            ("op=\"command\"\nrun=\"ls\"\nsources={dirs=0,files=1,headers=1}", "from 1 to 10000"),
        ] {
            let text = format!("{:#}", one(body).unwrap_err());
            assert!(text.contains(needle) && text.contains("workload \"w\""), "{body}: {text}");
        }
    }

    #[test]
    fn loads_of_devices_have_a_depth_and_a_place() {
        let read = one("op=\"device\"\nops=1\nrequest=\"read\"\nblock=\"128K\"\ndepth=8\nplace=\"apart\"");
        let request = DeviceRequest::Read { block: 128 << 10 };
        assert_eq!(read.unwrap(), Op::Device(DeviceLoad { request, depth: 8, place: Place::Apart }));
        let lookup = one("op=\"device\"\nops=1\nrequest=\"lookup\"\nwarm=true").unwrap();
        let load = DeviceLoad { request: DeviceRequest::Lookup, depth: 1, place: Place::Free };
        assert_eq!(lookup, Op::Device(load));
    }

    #[test]
    fn threads_can_be_as_many_as_cpus() {
        let suite = Suite::parse("x", &GOOD.replacen("threads = [1]", "threads = \"cpus\"", 1)).unwrap();
        assert_eq!(suite.workloads[1].threads, [allowed_cpus().len()]);
        let refused = error("threads = [1]", "threads = \"many\"");
        assert!(refused.contains("the word \"cpus\""), "{refused}");
    }

    #[test]
    fn every_operation_is_described() {
        let text = describe_keys();
        assert!(text.contains("ls-l") && text.contains("[total-size]"), "{text}");
    }
}
