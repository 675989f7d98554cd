//! What was measured, as it is stored: JSON that `report` and `compare` read again.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::goal::Goal;
use crate::machine::Machine;
use crate::requests::Requests;
use crate::run::Plan;
use crate::stats::{self, Summary};
use crate::target::{Profile, Target};

/// Version of the JSON form.
pub const SCHEMA: u32 = 2;

/// Everything of one call of the bench.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// Version of this form, [`SCHEMA`].
    pub schema: u32,
    /// Version of the bench.
    pub version: String,
    /// When it ended, UTC.
    pub made: String,
    /// The command line.
    pub command: Vec<String>,
    /// Where it was measured.
    pub machine: Machine,
    /// What was measured, one after the other.
    pub suites: Vec<SuiteResult>,
}

/// All of one workload file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SuiteResult {
    /// Name of the preset or file.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// How it was measured.
    pub plan: Plan,
    /// Caching profile of the targets that name none themselves.
    pub profile: Profile,
    /// What was measured.
    pub targets: Vec<Target>,
    /// Targets of interest, each with the one it is compared with.
    pub pairs: Vec<Pair>,
    /// Numbers to reach.
    #[serde(default)]
    pub goals: Vec<Goal>,
    /// Whether a line for each target is wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_target: bool,
    /// The numbers.
    pub rows: Vec<Row>,
}

/// Two targets to compare, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The target of interest.
    pub subject: String,
    /// What it is compared with.
    pub baseline: String,
}

/// One workload with one number of threads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What the source directory lay on.
    pub lower: String,
    /// Name of the workload.
    pub workload: String,
    /// Client threads.
    pub threads: usize,
    /// One cell per target that can do it.
    pub cells: Vec<Cell>,
}

/// All turns of one target at one workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// Short name of the target.
    pub target: String,
    /// Its turns in order of repetition.
    pub slices: Vec<Slice>,
    /// Why there are no more of them.
    pub error: Option<String>,
}

/// One turn of one target.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Slice {
    /// Which repetition.
    pub rep: u32,
    /// Operations.
    pub ops: u64,
    /// Bytes read or written by them.
    pub bytes: u64,
    /// Seconds from begin to end.
    pub seconds: f64,
    /// CPU microseconds of client and daemon, user and system, per operation.
    pub cpu_us: f64,
    /// The client's part of it.
    pub client_us: f64,
    /// What the daemon spent in user mode per operation, microseconds, by the kernel's samples; `None` if there were none.
    /// Returns of system calls count too.
    #[serde(default)]
    pub user_us: Option<f64>,
    /// What the daemon's own code took per operation, microseconds, by samples of perf; `None` if none were taken.
    #[serde(default)]
    pub own_us: Option<f64>,
    /// Operations per second.
    pub ops_per_s: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency in microseconds.
    pub p99_us: f64,
    /// 99.9th percentile of the latency in microseconds.
    pub p999_us: f64,
    /// Context switches of client and daemon per operation.
    pub switches: f64,
    /// Resident bytes of the daemon afterwards, 0 without a daemon.
    pub resident: u64,
    /// Requests by operation, if the daemon tells them and was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,
    /// CPU seconds that others used meanwhile, and those there were on all CPUs; `None` if the slice was too
    /// short to tell.
    pub others: Option<(f64, f64)>,
}

/// A number of a turn that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// CPU time of client and daemon per operation
    Cpu,
    /// The daemon's part of it
    Daemon,
    /// The daemon's CPU time in user mode per operation, by the kernel's samples: for turns of seconds
    User,
    /// CPU time of the daemon's own code per operation, in workloads that are sampled with perf
    Own,
    /// Operations per second
    Throughput,
    /// Median latency
    P50,
    /// 99th percentile of the latency
    P99,
    /// 99.9th percentile of the latency
    P999,
    /// Context switches per operation
    Switches,
    /// Resident memory of the daemon
    Memory,
    /// Requests per operation, in workloads whose requests are counted
    Requests,
}

impl Results {
    /// What was measured just now.
    pub fn new(command: Vec<String>, machine: Machine, suites: Vec<SuiteResult>) -> Self {
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            made: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command,
            machine,
            suites,
        }
    }

    /// Reads a stored result.
    ///
    /// # Errors
    /// If the file cannot be read, or was not written by `run` of this version of the form.
    pub fn read(path: &Path) -> Result<Self> {
        read_json(path)
    }

    /// Whether any cell has ended early.
    pub fn has_errors(&self) -> bool {
        let mut cells = self.suites.iter().flat_map(|suite| &suite.rows).flat_map(|row| &row.cells);
        cells.any(|cell| cell.error.is_some())
    }
}

impl Slice {
    /// Share of the machine that others used.
    pub fn others_share(&self) -> Option<f64> {
        self.others.map(|(used, available)| used / available)
    }
}

impl Cell {
    /// Summary of one number over the turns.
    pub fn summary(&self, number: impl Fn(&Slice) -> f64) -> Option<Summary> {
        stats::summary(self.slices.iter().map(number))
    }
}

impl Row {
    /// The cell of this target.
    pub fn cell(&self, target: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.target == target)
    }

    /// A number of one target over that of another, turn by turn.
    pub fn ratio(&self, pair: &Pair, metric: Metric) -> Option<Summary> {
        let ratios = self.ratios(self.cell(&pair.subject)?, &pair.baseline, metric);
        stats::summary(ratios.into_iter().map(|(_, ratio)| ratio))
    }

    /// A number of a cell over that of the target `baseline` in the same repetition, for each that both have.
    ///
    /// Turns of the same repetition were neighbours: load of the machine that lasts longer than one pair falls out of the
    /// ratio. It would not fall out of a ratio of two medians.
    pub fn ratios(&self, cell: &Cell, baseline: &str, metric: Metric) -> Vec<(u32, f64)> {
        self.beside(cell, baseline, metric, |number, base| if base > 0.0 { number / base } else { f64::NAN })
    }

    /// By how much more a number of a cell is than that of the target `baseline` in the same repetition.
    pub fn differences(&self, cell: &Cell, baseline: &str, metric: Metric) -> Vec<(u32, f64)> {
        self.beside(cell, baseline, metric, |number, base| number - base)
    }

    /// What is made of a number of a cell and of that of the target `baseline` in the same repetition, as far as it is finite.
    pub fn beside(
        &self,
        cell: &Cell,
        baseline: &str,
        metric: Metric,
        compared: impl Fn(f64, f64) -> f64,
    ) -> Vec<(u32, f64)> {
        let Some(baseline) = self.cell(baseline) else { return Vec::new() };
        let of_rep = |rep| baseline.slices.iter().find(|slice| slice.rep == rep).map(|s| metric.of(s));
        let pairs = cell.slices.iter().filter_map(|slice| {
            let compared = compared(metric.of(slice), of_rep(slice.rep)?);
            Some((slice.rep, compared)).filter(|(_, number)| number.is_finite())
        });
        pairs.collect()
    }

    /// Share of the machine's CPU time that others used during this row.
    pub fn others(&self) -> Option<f64> {
        let (mut used, mut available) = (0.0, 0.0);
        for (slice_used, slice_available) in
            self.cells.iter().flat_map(|cell| &cell.slices).filter_map(|slice| slice.others)
        {
            used += slice_used;
            available += slice_available;
        }
        (available > 0.0).then(|| used / available)
    }

    /// Whether others used more than `quiet` of the machine.
    pub fn is_noisy(&self, quiet: f64) -> bool {
        self.others().is_some_and(|others| others > quiet)
    }
}

impl Metric {
    /// Those whose ratios stand in the reports.
    pub const RATIOS: [Self; 4] = [Self::Cpu, Self::Throughput, Self::P50, Self::P99];

    /// The number of this turn; not a number if it has none.
    pub fn of(self, slice: &Slice) -> f64 {
        match self {
            Self::Cpu => slice.cpu_us,
            Self::Daemon => slice.cpu_us - slice.client_us,
            Self::User => slice.user_us.unwrap_or(f64::NAN),
            Self::Own => slice.own_us.unwrap_or(f64::NAN),
            Self::Throughput => slice.ops_per_s,
            Self::P50 => slice.p50_us,
            Self::P99 => slice.p99_us,
            Self::P999 => slice.p999_us,
            Self::Switches => slice.switches,
            Self::Memory => slice.resident as f64 / f64::from(1 << 20),
            Self::Requests => slice
                .requests
                .as_ref()
                .map_or(f64::NAN, |requests| requests.values().sum::<u64>() as f64 / slice.ops.max(1) as f64),
        }
    }

    /// What it is, with its unit.
    pub fn title(self) -> &'static str {
        match self {
            Self::Cpu => "CPU µs per operation",
            Self::Daemon => "daemon's CPU µs per operation",
            Self::User => "daemon's user µs per operation",
            Self::Own => "daemon's own code, µs per operation",
            Self::Throughput => "operations per second",
            Self::P50 => "median latency, µs",
            Self::P99 => "99th percentile of the latency, µs",
            Self::P999 => "99.9th percentile of the latency, µs",
            Self::Switches => "context switches per operation",
            Self::Memory => "resident memory of the daemon, MiB",
            Self::Requests => "requests per operation",
        }
    }

    /// So little of it that it does not matter whether it is less, in what [`of`](Self::of) gives: without it, the smallest
    /// amount would be without end more than none.
    pub fn least(self) -> f64 {
        match self {
            Self::Cpu | Self::Daemon | Self::User | Self::Own | Self::P50 | Self::P99 | Self::P999 => 0.05,
            // One operation may be a program that runs for hours.
            Self::Throughput => 1e-6,
            Self::Switches => 0.05,
            Self::Memory => 1.0,
            Self::Requests => 0.001,
        }
    }

    /// Whether few operations of a turn decide about it.
    pub fn is_tail(self) -> bool {
        matches!(self, Self::P99 | Self::P999)
    }

    /// Whether more of it is better.
    pub fn is_better_high(self) -> bool {
        self == Self::Throughput
    }
}

/// Reads one of the bench's own JSON files.
///
/// # Errors
/// If it cannot be read, is of another version, or something else.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    #[derive(Deserialize)]
    struct Form {
        schema: Option<u32>,
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let form: Form = serde_json::from_str(&text).with_context(|| {
        format!("{} is no result of this bench; write one with run --json FILE", path.display())
    })?;
    match form.schema {
        Some(SCHEMA) => {}
        Some(other) => bail!(
            "{} has form {other}, and this bench reads form {SCHEMA}: measure again, or use the bench that wrote it",
            path.display()
        ),
        None => bail!(
            "{} is no result of this bench: it has no `schema`; write one with run --json FILE",
            path.display()
        ),
    }
    serde_json::from_str(&text)
        .with_context(|| format!("{} is no result of `run`; write one with run --json FILE", path.display()))
}

/// Writes a result.
///
/// # Errors
/// If the file cannot be written.
pub fn write_json(path: &Path, result: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(result)?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::client::Pin;

    /// A turn with these numbers and nothing else.
    pub fn slice(rep: u32, cpu_us: f64, others: Option<(f64, f64)>) -> Slice {
        Slice {
            rep,
            ops: 100,
            bytes: 409_600,
            seconds: 0.01,
            cpu_us,
            client_us: cpu_us / 4.0,
            user_us: Some(cpu_us / 10.0),
            own_us: None,
            ops_per_s: 1e6 / cpu_us,
            p50_us: cpu_us,
            p99_us: cpu_us * 2.0,
            p999_us: cpu_us * 3.0,
            switches: 2.0,
            resident: 5 << 20,
            requests: None,
            others,
        }
    }

    /// A target's turns with these CPU times.
    pub fn cell(target: &str, cpu: &[f64]) -> Cell {
        let slices = cpu.iter().zip(0..).map(|(cpu, rep)| slice(rep, *cpu, Some((0.01, 1.0)))).collect();
        Cell { target: target.into(), slices, error: None }
    }

    /// One row.
    pub fn row(workload: &str, threads: usize, cells: Vec<Cell>) -> Row {
        Row { lower: "tmpfs".into(), workload: workload.into(), threads, cells }
    }

    /// A result with these rows, of the targets `a` and `b`.
    pub fn results(rows: Vec<Row>) -> Results {
        let suite = crate::suite::Suite::preset("passthrough").unwrap();
        let machine = Machine {
            kernel: "6.18.0".into(),
            arch: "x86_64".into(),
            cpu: "Some CPU".into(),
            cpus: 2,
            memory: 8 << 30,
            load: 0.5,
        };
        let plan = Plan {
            workloads: suite.workloads,
            threads: vec![],
            reps: 5,
            warmup: 1,
            scale: 1.0,
            retries: 0,
            quiet: 0.12,
            pin: Pin::One(1),
        };
        let target = |name: &str| Target { name: name.into(), ..Target::native() };
        let suite = SuiteResult {
            name: suite.name,
            title: suite.title,
            plan,
            profile: Profile::Auto,
            targets: vec![target("a"), target("b")],
            pairs: vec![Pair { subject: "a".into(), baseline: "b".into() }],
            goals: vec![],
            by_target: false,
            rows,
        };
        Results::new(vec!["fusewire".into(), "bench".into()], machine, vec![suite])
    }

    #[test]
    fn row_compares_turn_by_turn_and_sums_noise() {
        let mut a = cell("a", &[6.0, 20.0]);
        let mut b = cell("b", &[10.0, 40.0]);
        a.slices[0].others = Some((0.1, 1.0));
        a.slices[1].others = Some((0.5, 1.0));
        b.slices[0].others = None;
        b.slices[1].others = Some((0.6, 2.0));
        let row = row("stat", 1, vec![a, b]);
        let pair =
            |subject: &str, baseline: &str| Pair { subject: subject.into(), baseline: baseline.into() };
        let ratio = row.ratio(&pair("a", "b"), Metric::Cpu).unwrap();
        assert_eq!((ratio.min, ratio.max), (0.5, 0.6));
        let inverse = row.ratio(&pair("a", "b"), Metric::Throughput).unwrap();
        assert!((inverse.max - 2.0).abs() < 1e-9);
        assert!((row.others().unwrap() - 0.3).abs() < 1e-9);
        assert!(row.is_noisy(0.2) && !row.is_noisy(0.4));
        assert!(row.ratio(&pair("a", "c"), Metric::Cpu).is_none());
    }

    #[test]
    fn both_sides_slower_at_once_is_no_difference() {
        let row = row("stat", 1, vec![cell("a", &[8.0, 40.0, 8.0]), cell("b", &[10.0, 50.0, 10.0])]);
        let ratio = row.ratio(&Pair { subject: "a".into(), baseline: "b".into() }, Metric::Cpu).unwrap();
        assert_eq!((ratio.min, ratio.max), (0.8, 0.8));
    }

    #[test]
    fn what_has_no_number_has_no_ratio() {
        let mut row = row("stat", 1, vec![cell("a", &[8.0, 9.0]), cell("b", &[10.0, 10.0])]);
        row.cells[0].slices[0].user_us = None;
        row.cells[1].slices[1].user_us = Some(0.0);
        assert_eq!(row.ratios(&row.cells[0], "b", Metric::User), []);
        assert_eq!(row.ratios(&row.cells[1], "a", Metric::User), [(1, 0.0)]);
    }

    #[test]
    fn turns_are_paired_by_repetition() {
        let mut a = cell("a", &[1.0, 2.0, 3.0]);
        a.slices.remove(0);
        let row = row("stat", 1, vec![a, cell("b", &[100.0, 2.0, 3.0])]);
        let ratio = row.ratio(&Pair { subject: "a".into(), baseline: "b".into() }, Metric::Cpu).unwrap();
        assert_eq!((ratio.count, ratio.min, ratio.max), (2, 1.0, 1.0));
    }

    #[test]
    fn stored_results_come_back_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        let mut failed = cell("b", &[2.0]);
        failed.error = Some("it broke".into());
        let before = results(vec![row("stat", 1, vec![cell("a", &[1.0, 1.25]), failed])]);
        write_json(&path, &before).unwrap();
        let after = Results::read(&path).unwrap();
        assert_eq!(serde_json::to_value(&before).unwrap(), serde_json::to_value(&after).unwrap());
        assert!(after.has_errors());
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        let mut other = serde_json::to_value(results(vec![])).unwrap();
        other["schema"] = 1.into();
        for (text, needle) in [
            ("not json".to_owned(), "is no result"),
            ("{}".to_owned(), "no `schema`"),
            (other.to_string(), "form 1, and this bench reads form 2"),
            ("{\"schema\": 2}".to_owned(), "no result of `run`"),
        ] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", Results::read(&path).unwrap_err());
            assert!(error.contains(needle) && error.contains("out.json"), "{error}");
        }
        assert!(Results::read(Path::new("/no/such")).unwrap_err().to_string().contains("/no/such"));
    }
}
