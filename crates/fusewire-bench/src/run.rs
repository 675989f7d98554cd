//! The comparison: every workload on every target, in turn, several times.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::time::ClockId;
use serde::Serialize;

use crate::client::{self, Cost, Pass};
use crate::daemon::{Mounted, Usage};
use crate::machine::Busy;
use crate::stats::{self, Summary};
use crate::tree::Tree;
use crate::watchdog::Watchdog;
use crate::workload::{MAX_THREADS, Workload};

/// What to do, and how often.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Kinds of operation.
    pub workloads: Vec<Workload>,
    /// Numbers of client threads.
    pub threads: Vec<usize>,
    /// Measured repetitions; in each, every target has its turn.
    pub reps: u32,
    /// Repetitions before them that do not count.
    pub warmup: u32,
    /// Factor on the work of one slice.
    pub scale: f64,
    /// How often a slice is done again because others used the machine meanwhile; the quietest counts.
    pub retries: u32,
    /// Share of the machine's CPU time that others may use before a slice or row counts as noisy.
    pub quiet: f64,
    /// Keep each client thread on a CPU of its own.
    pub pin: bool,
}

/// One turn of one target.
#[derive(Debug, Clone, Serialize)]
pub struct Slice {
    /// Which repetition.
    pub rep: u32,
    /// Operations.
    pub ops: u64,
    /// Seconds from begin to end.
    pub seconds: f64,
    /// CPU microseconds of client and daemon, user and system, per operation.
    pub cpu_us: f64,
    /// The client's part of it.
    pub client_us: f64,
    /// Operations per second.
    pub ops_per_s: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency in microseconds.
    pub p99_us: f64,
    /// Context switches of client and daemon per operation.
    pub switches: f64,
    /// Resident bytes of the daemon afterwards, 0 without a daemon.
    pub resident: u64,
    /// CPU seconds that others used meanwhile, and those there were on all CPUs; `None` if the slice was too
    /// short to tell.
    pub others: Option<(f64, f64)>,
}

/// All turns of one target at one workload.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Short name of the target.
    pub target: String,
    /// Its turns in order of repetition.
    pub slices: Vec<Slice>,
    /// Why there are no more of them.
    pub error: Option<String>,
}

/// One workload with one number of threads.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What the source directory lay on.
    pub lower: String,
    /// Kind of operation.
    pub workload: Workload,
    /// Client threads.
    pub threads: usize,
    /// One cell per target.
    pub cells: Vec<Cell>,
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

    /// CPU per operation of one target over that of another, turn by turn.
    pub fn ratio(&self, subject: &str, baseline: &str) -> Option<Summary> {
        let cpu = |target| -> Option<Vec<f64>> {
            Some(self.cell(target)?.slices.iter().map(|slice| slice.cpu_us).collect())
        };
        stats::paired_ratio(&cpu(subject)?, &cpu(baseline)?)
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
}

impl Plan {
    /// Checks that the numbers make sense.
    ///
    /// # Errors
    /// If one does not, saying which and what it may be.
    pub fn check(&self) -> Result<()> {
        ensure!(self.reps > 0, "--reps must be at least 1");
        ensure!(self.scale > 0.0 && self.scale <= 1000.0, "--scale must be above 0 and at most 1000");
        ensure!(!self.threads.is_empty() && !self.workloads.is_empty(), "there is nothing to do");
        ensure!(
            self.threads.iter().all(|threads| (1..=MAX_THREADS).contains(threads)),
            "--threads must be 1 to {MAX_THREADS}"
        );
        Ok(())
    }

    fn ops(&self, workload: Workload) -> u64 {
        ((workload.ops() as f64 * self.scale.min(1.0)) as u64).max(MAX_THREADS as u64)
    }

    fn passes(&self, workload: Workload) -> u32 {
        (f64::from(workload.passes()) * self.scale.max(1.0)).round() as u32
    }
}

/// One comparison on one source directory.
#[derive(Debug)]
pub struct Comparison<'a> {
    plan: &'a Plan,
    lower: String,
    tree: &'a Tree,
    mounted: &'a [Mounted],
    watchdog: &'a Watchdog,
    progress: ProgressBar,
    pass_number: u64,
}

impl<'a> Comparison<'a> {
    /// Prepares to compare targets that show `tree`.
    pub fn new(
        plan: &'a Plan,
        (lower, tree): (String, &'a Tree),
        mounted: &'a [Mounted],
        watchdog: &'a Watchdog,
    ) -> Self {
        let rows = plan.workloads.len() * plan.threads.len();
        let progress = ProgressBar::new(rows as u64 * u64::from(plan.reps + plan.warmup));
        progress.set_style(
            ProgressStyle::with_template("{elapsed} [{bar:30}] {pos}/{len} {msg} (eta {eta})")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Self { plan, lower, tree, mounted, watchdog, progress, pass_number: 0 }
    }

    /// Does all rows. What was done before an error is returned with it.
    pub fn run(mut self) -> (Vec<Row>, Result<()>) {
        let mut rows = Vec::new();
        for workload in self.plan.workloads.clone() {
            for threads in self.plan.threads.clone() {
                self.progress.set_message(format!("{} x{threads}", workload.name()));
                match self.row(workload, threads) {
                    Ok(row) => rows.push(row),
                    Err(error) => {
                        self.progress.abandon();
                        return (rows, Err(error));
                    }
                }
            }
        }
        self.progress.finish_and_clear();
        (rows, Ok(()))
    }

    fn row(&mut self, workload: Workload, threads: usize) -> Result<Row> {
        let mut cells: Vec<Cell> = self
            .mounted
            .iter()
            .map(|mounted| Cell { target: mounted.name.clone(), slices: Vec::new(), error: None })
            .collect();
        for rep in 0..self.plan.warmup + self.plan.reps {
            for turn in 0..cells.len() {
                // Everybody is first, second and so on equally often.
                let index = (turn + rep as usize) % cells.len();
                if cells[index].error.is_some() {
                    continue;
                }
                self.watchdog.step()?;
                match self.quiet_slice(workload, threads, (index, rep)) {
                    Ok(slice) if rep >= self.plan.warmup => cells[index].slices.push(slice),
                    Ok(_) => {}
                    Err(error) => {
                        // An interrupt or an abort ends the run, a failing operation the cell.
                        self.watchdog.step()?;
                        cells[index].error = Some(format!("{error:#}"));
                        self.empty_work_dirs()?;
                    }
                }
            }
            self.progress.inc(1);
        }
        Ok(Row { lower: self.lower.clone(), workload, threads, cells })
    }

    /// The quietest of several attempts, the first one if that is quiet enough.
    fn quiet_slice(&mut self, workload: Workload, threads: usize, turn: (usize, u32)) -> Result<Slice> {
        let noise = |slice: &Slice| slice.others_share().unwrap_or(0.0);
        let mut best = self.slice(workload, threads, turn)?;
        for _ in 0..self.plan.retries {
            if turn.1 < self.plan.warmup || noise(&best) <= self.plan.quiet {
                break;
            }
            self.watchdog.step()?;
            let again = self.slice(workload, threads, turn)?;
            if noise(&again) < noise(&best) {
                best = again;
            }
        }
        Ok(best)
    }

    fn slice(&mut self, workload: Workload, threads: usize, (index, rep): (usize, u32)) -> Result<Slice> {
        let mounted = &self.mounted[index];
        let stop = self.watchdog.stop_flag();
        let mut sum = Measured { cost: Cost::zero(), daemon: Usage::default(), others: None };
        for _ in 0..self.plan.passes(workload) {
            self.pass_number += 1;
            let pass = Pass {
                workload,
                threads,
                ops: self.plan.ops(workload),
                root: &mounted.root,
                src: self.tree.path(),
                number: self.pass_number,
                seed: u64::from(rep),
                pin: self.plan.pin,
            };
            sum.add(&Measured::pass(&pass, mounted, &stop)?);
        }
        Ok(sum.slice(rep, mounted.memory()?.map_or(0, |memory| memory.resident)))
    }

    fn empty_work_dirs(&self) -> Result<()> {
        for mounted in self.mounted {
            mounted.forget_all()?;
        }
        for thread in 0..MAX_THREADS {
            let dir = crate::tree::work_dir(self.tree.path(), thread);
            empty(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        Ok(())
    }
}

/// What one or more passes cost client and daemon.
#[derive(Debug)]
struct Measured {
    cost: Cost,
    daemon: Usage,
    others: Option<(Duration, Duration)>,
}

impl Measured {
    /// Prepares, empties the kernel's caches of this mount, measures, and cleans up.
    fn pass(pass: &Pass<'_>, mounted: &Mounted, stop: &AtomicBool) -> Result<Self> {
        client::prepare(pass)?;
        mounted.forget_all()?;
        let before = (Busy::now(), own_cpu_time(), mounted.usage()?);
        let cost = client::run(pass, stop)?;
        // RELEASE and FORGET are sent without waiting for the answer and belong to the operations all the same.
        mounted.settle()?;
        let (busy, own, usage) = (Busy::now(), own_cpu_time(), mounted.usage()?);
        let daemon = Usage {
            cpu: usage.cpu - before.2.cpu,
            switches: usage.switches.saturating_sub(before.2.switches),
        };
        let others = busy.others_since(&before.0, own - before.1 + daemon.cpu);
        mounted.forget_all()?;
        client::clean_up(pass)?;
        Ok(Self { cost, daemon, others })
    }

    fn add(&mut self, later: &Self) {
        self.cost.add(&later.cost);
        self.daemon.cpu += later.daemon.cpu;
        self.daemon.switches += later.daemon.switches;
        self.others = match (self.others, later.others) {
            (Some(a), Some(b)) => Some((a.0 + b.0, a.1 + b.1)),
            (one, other) => one.or(other),
        };
    }

    fn slice(&self, rep: u32, resident: u64) -> Slice {
        let (cost, daemon) = (&self.cost, &self.daemon);
        let ops = cost.ops.max(1) as f64;
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        Slice {
            rep,
            ops: cost.ops,
            seconds: cost.wall.as_secs_f64(),
            cpu_us: (cost.cpu + daemon.cpu).as_secs_f64() * 1e6 / ops,
            client_us: cost.cpu.as_secs_f64() * 1e6 / ops,
            ops_per_s: ops / cost.wall.as_secs_f64(),
            p50_us: micros(cost.latency.value_at_quantile(0.5)),
            p99_us: micros(cost.latency.value_at_quantile(0.99)),
            switches: (cost.switches + daemon.switches) as f64 / ops,
            resident,
            others: self.others.map(|(used, available)| (used.as_secs_f64(), available.as_secs_f64())),
        }
    }
}

fn empty(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

fn own_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Lower;

    fn plan() -> Plan {
        Plan {
            workloads: Workload::ALL.to_vec(),
            threads: vec![1, 2],
            reps: 2,
            warmup: 1,
            scale: 0.002,
            retries: 0,
            quiet: 0.12,
            pin: false,
        }
    }

    fn slice(cpu_us: f64, others: Option<(f64, f64)>) -> Slice {
        let zero = Measured { cost: Cost::zero(), daemon: Usage::default(), others: None }.slice(0, 0);
        Slice { cpu_us, others, ..zero }
    }

    #[test]
    fn all_workloads_run_on_a_plain_directory() {
        let place = tempfile::tempdir().unwrap();
        let tree = Tree::new(&Lower::Inside(place.path().into())).unwrap();
        tree.fill().unwrap();
        let native = crate::target::Target::native();
        let mounted = [Mounted::start(&native, tree.path(), place.path(), None).unwrap()];
        let watchdog = Watchdog::start(Duration::from_secs(100)).unwrap();
        let plan = plan();
        let (rows, done) = Comparison::new(&plan, ("here".into(), &tree), &mounted, &watchdog).run();
        done.unwrap();
        assert_eq!(rows.len(), Workload::ALL.len() * 2);
        for row in &rows {
            let cell = &row.cells[0];
            // A lower filesystem without O_DIRECT is no fault of the bench.
            if cell.error.as_ref().is_some_and(|error| error.contains("O_DIRECT")) {
                continue;
            }
            assert_eq!((cell.error.as_deref(), cell.slices.len()), (None, 2), "{:?}", row.workload);
            assert!(cell.slices.iter().all(|slice| slice.cpu_us > 0.0 && slice.p99_us >= slice.p50_us));
        }
        for thread in 0..MAX_THREADS {
            let left = fs::read_dir(crate::tree::work_dir(tree.path(), thread)).unwrap().count();
            assert_eq!(left, 0);
        }
    }

    #[test]
    fn row_compares_turn_by_turn_and_sums_noise() {
        let cell = |target: &str, slices: Vec<Slice>| Cell { target: target.into(), slices, error: None };
        let row = Row {
            lower: "x".into(),
            workload: Workload::Stat,
            threads: 1,
            cells: vec![
                cell("a", vec![slice(6.0, Some((0.1, 1.0))), slice(20.0, Some((0.5, 1.0)))]),
                cell("b", vec![slice(10.0, None), slice(40.0, Some((0.6, 2.0)))]),
            ],
        };
        let ratio = row.ratio("a", "b").unwrap();
        assert_eq!((ratio.min, ratio.max), (0.5, 0.6));
        assert!((row.others().unwrap() - 0.3).abs() < 1e-9);
        assert!(row.ratio("a", "c").is_none());
    }

    #[test]
    fn plans_without_sense_are_refused() {
        assert!(Plan { reps: 0, ..plan() }.check().is_err());
        assert!(Plan { scale: 0.0, ..plan() }.check().is_err());
        assert!(Plan { threads: vec![0], ..plan() }.check().is_err());
        assert!(Plan { threads: vec![MAX_THREADS + 1], ..plan() }.check().is_err());
        assert!(plan().check().is_ok());
    }
}
