//! The comparison: every workload on every target, in turn, several times.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::time::ClockId;
use serde::{Deserialize, Serialize};

use crate::client::{self, Cost, Pass, Pin};
use crate::daemon::{Mounted, Usage};
use crate::kernel;
use crate::machine::Busy;
use crate::requests::{self, Requests};
use crate::results::{Cell, Row, Slice};
use crate::sampling::{Sampler, Samples};
use crate::sys::Sampled;
use crate::tree::{SOURCES, Tree};
use crate::watchdog::Watchdog;
use crate::watching::{Watch, Watcher};
use crate::workload::{CommandLine, MAX_THREADS, Op, Workload};

/// What to do, and how often.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Kinds of operation.
    pub workloads: Vec<Workload>,
    /// Numbers of client threads; if there are none, those of each workload.
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
    /// Where client threads are kept.
    pub pin: Pin,
}

impl Plan {
    /// Checks that the numbers make sense.
    ///
    /// # Errors
    /// If one does not, saying which and what it may be.
    pub fn check(&self) -> Result<()> {
        ensure!(self.reps > 0, "--reps must be at least 1");
        ensure!(self.scale > 0.0 && self.scale <= 1000.0, "--scale must be above 0 and at most 1000");
        ensure!((0.0..=1.0).contains(&self.quiet), "--noisy must be from 0 to 100");
        ensure!(!self.workloads.is_empty(), "there is nothing to do");
        ensure!(
            self.threads.iter().all(|threads| (1..=MAX_THREADS).contains(threads)),
            "--threads must be 1 to {MAX_THREADS}"
        );
        self.pin.check()
    }

    /// Each workload with each number of threads.
    pub fn rows(&self) -> impl Iterator<Item = (&Workload, usize)> {
        self.workloads.iter().flat_map(|workload| {
            let threads = if self.threads.is_empty() { &workload.threads } else { &self.threads };
            threads.iter().map(move |threads| (workload, *threads))
        })
    }

    fn ops(&self, workload: &Workload, threads: usize) -> u64 {
        match workload.op {
            Op::Command(_) => 1,
            _ => ((workload.total_ops(threads) as f64 * self.scale.min(1.0)) as u64).max(threads as u64),
        }
    }

    fn passes(&self, workload: &Workload) -> u32 {
        (f64::from(workload.passes) * self.scale.max(1.0)).round() as u32
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
    sources: PathBuf,
    progress: ProgressBar,
    pass_number: u64,
    /// CPU time that starting the programs of the present row takes.
    start_cost: Duration,
}

impl<'a> Comparison<'a> {
    /// Prepares to compare targets that show `tree`.
    pub fn new(
        plan: &'a Plan,
        (lower, tree): (String, &'a Tree),
        mounted: &'a [Mounted],
        watchdog: &'a Watchdog,
    ) -> Self {
        let progress = ProgressBar::new(plan.rows().count() as u64 * u64::from(plan.reps + plan.warmup));
        progress.set_style(
            ProgressStyle::with_template("{elapsed} [{bar:30}] {pos}/{len} {msg} (eta {eta})")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let sources = tree.path().join(SOURCES);
        Self {
            plan,
            lower,
            tree,
            mounted,
            watchdog,
            sources,
            progress,
            pass_number: 0,
            start_cost: Duration::ZERO,
        }
    }

    /// Does all rows. What was done before an error is returned with it.
    pub fn run(mut self) -> (Vec<Row>, Result<()>) {
        let mut rows = Vec::new();
        let plan = self.plan;
        for (workload, threads) in plan.rows() {
            self.progress.set_message(format!("{} x{threads}", workload.name));
            let (cells, done) = self.row(workload, threads);
            if cells.iter().any(|cell| !cell.slices.is_empty() || cell.error.is_some()) {
                rows.push(Row { lower: self.lower.clone(), workload: workload.name.clone(), threads, cells });
            }
            if done.is_err() {
                self.progress.abandon();
                return (rows, done);
            }
        }
        self.progress.finish_and_clear();
        (rows, Ok(()))
    }

    /// The directory whose files this target uses, not through the mount if that is possible.
    fn tree_of<'m>(&'m self, mounted: &'m Mounted) -> &'m Tree {
        mounted.own.as_ref().unwrap_or(self.tree)
    }

    /// All turns of a row. What was done before an error is returned with it.
    fn row(&mut self, workload: &Workload, threads: usize) -> (Vec<Cell>, Result<()>) {
        let able: Vec<usize> = (0..self.mounted.len())
            .filter(|index| self.mounted[*index].target.can_do(workload, threads))
            .collect();
        let mut cells: Vec<Cell> = able
            .iter()
            .map(|index| {
                let target = self.mounted[*index].target.name.clone();
                Cell { target, slices: Vec::new(), error: None }
            })
            .collect();
        let done = self
            .make_ready((workload, threads), &able)
            .and_then(|()| self.turns((workload, threads), &able, &mut cells));
        (cells, done)
    }

    fn turns(
        &mut self,
        (workload, threads): (&Workload, usize),
        able: &[usize],
        cells: &mut [Cell],
    ) -> Result<()> {
        for rep in 0..self.plan.warmup + self.plan.reps {
            for turn in 0..cells.len() {
                // Everybody is first, second and so on equally often.
                let index = (turn + rep as usize) % cells.len();
                if cells[index].error.is_some() {
                    continue;
                }
                self.watchdog.step()?;
                match self.quiet_slice(workload, threads, (able[index], rep)) {
                    Ok(slice) if rep >= self.plan.warmup => cells[index].slices.push(slice),
                    Ok(_) => {}
                    Err(error) => {
                        // An interrupt or an abort ends the run, a failing operation the cell.
                        self.watchdog.step()?;
                        cells[index].error = Some(format!("{error:#}"));
                        self.empty_work_dirs(threads)?;
                    }
                }
            }
            self.progress.inc(1);
        }
        Ok(())
    }

    /// Makes the files of a row, and finds out what starting its programs takes.
    fn make_ready(&mut self, (workload, threads): (&Workload, usize), able: &[usize]) -> Result<()> {
        self.watchdog.step()?;
        if let Op::Command(CommandLine { sources: Some(sources), .. }) = &workload.op {
            self.tree.require_sources(*sources)?;
        }
        let with_files: Vec<&Mounted> =
            able.iter().map(|index| &self.mounted[*index]).filter(|mounted| mounted.uses_files()).collect();
        for mounted in &with_files {
            self.tree_of(mounted).require(workload, threads)?;
        }
        if let Op::Command(CommandLine { kernel: true, .. }) = &workload.op {
            for mounted in &with_files {
                kernel::unpack(self.tree_of(mounted).path(), &self.watchdog.stop_flag())?;
            }
        }
        if let Some(mounted) = with_files.first() {
            self.start_cost = Duration::ZERO;
            let here = self.tree_of(mounted).path();
            let pass = Pass { root: here, ..self.pass(mounted, (workload, threads), 0) };
            self.start_cost = client::start_cost(&pass, &self.watchdog.stop_flag())?;
        }
        Ok(())
    }

    /// The quietest of several attempts, the first one if that is quiet enough.
    fn quiet_slice(&mut self, workload: &Workload, threads: usize, turn: (usize, u32)) -> Result<Slice> {
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

    fn slice(&mut self, workload: &Workload, threads: usize, (index, rep): (usize, u32)) -> Result<Slice> {
        let mounted = self.mounted;
        let mounted = &mounted[index];
        let stop = self.watchdog.stop_flag();
        let mut sum = Measured {
            cost: Cost::zero(),
            daemon: Usage::default(),
            samples: None,
            requests: None,
            others: None,
        };
        for _ in 0..self.plan.passes(workload) {
            self.pass_number += 1;
            let pass = self.pass(mounted, (workload, threads), u64::from(rep));
            sum.add(&Measured::pass(&pass, mounted, &stop)?);
        }
        Ok(sum.slice(rep, mounted.memory()?.map_or(0, |memory| memory.resident)))
    }

    fn pass<'p>(&'p self, mounted: &'p Mounted, row: (&'p Workload, usize), seed: u64) -> Pass<'p> {
        let (workload, threads) = row;
        Pass {
            workload,
            threads,
            ops: self.plan.ops(workload, threads),
            root: &mounted.root,
            src: self.tree_of(mounted).path(),
            sources: &self.sources,
            pipe: mounted.pipe.as_ref(),
            guest: mounted.guest.as_ref(),
            number: self.pass_number,
            seed,
            pin: self.plan.pin,
            start_cost: self.start_cost,
        }
    }

    fn empty_work_dirs(&self, threads: usize) -> Result<()> {
        for mounted in self.mounted.iter().filter(|mounted| mounted.uses_files()) {
            mounted.forget_all()?;
            for thread in 0..threads {
                let dir = crate::tree::work_dir(self.tree_of(mounted).path(), thread);
                empty(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
            }
        }
        Ok(())
    }
}

/// What one or more passes cost client and daemon.
#[derive(Debug)]
struct Measured {
    cost: Cost,
    daemon: Usage,
    samples: Option<Samples>,
    requests: Option<Requests>,
    others: Option<(Duration, Duration)>,
}

impl Measured {
    /// Prepares, empties the kernel's caches of this mount, measures, and cleans up.
    fn pass(pass: &Pass<'_>, mounted: &Mounted, stop: &AtomicBool) -> Result<Self> {
        let kept;
        let pass = match &pass.workload.op {
            Op::Device(load) => {
                let (pin, cpus) = load.place.cpus(pass.pin)?;
                mounted.keep_on(&cpus)?;
                kept = Pass { pin, ..*pass };
                &kept
            }
            _ => pass,
        };
        client::prepare(pass, stop)?;
        mounted.forget_all()?;
        // Once so that things are known, and once more because reading has changed the times of last access.
        for _ in 0..if pass.workload.warm { 2 } else { 0 } {
            client::run(pass, stop)?;
            mounted.settle()?;
        }
        let sampler = mounted.pid().filter(|_| pass.workload.sampled).map(Sampler::start).transpose()?;
        let counted = |mounted: &Mounted| match pass.workload.counted {
            true => mounted.requests(),
            false => Ok(None),
        };
        let asked = counted(mounted)?;
        let watcher = mounted.target.watch.as_ref().map(Watch::start).transpose()?;
        let watching = || watcher.as_ref().map_or(Ok(Duration::ZERO), Watcher::cpu_time);
        let before = (Busy::now(), own_cpu_time(), mounted.usage()?, watching()?);
        let cost = client::run(pass, stop)?;
        // RELEASE and FORGET are sent without waiting for the answer and belong to the operations all the same.
        mounted.settle()?;
        let (busy, own, usage) = (Busy::now(), own_cpu_time(), mounted.usage()?);
        let watched = watching()?.saturating_sub(before.3);
        let asked = asked.zip(counted(mounted)?);
        let requests = asked.map(|(before, after)| requests::between(&before, &after));
        watcher.map_or(Ok(()), Watcher::finish)?;
        let samples = sampler.map(|sampler| sampler.finish(stop)).transpose()?;
        let daemon = Usage {
            cpu: usage.cpu - before.2.cpu + watched,
            switches: usage.switches.saturating_sub(before.2.switches),
            sampled: Sampled {
                user: usage.sampled.user - before.2.sampled.user,
                all: usage.sampled.all - before.2.sampled.all,
            },
        };
        let others = busy.others_since(&before.0, own - before.1 + daemon.cpu + cost.programs);
        mounted.forget_all()?;
        client::clean_up(pass)?;
        Ok(Self { cost, daemon, samples, requests, others })
    }

    fn add(&mut self, later: &Self) {
        self.cost.add(&later.cost);
        self.daemon.cpu += later.daemon.cpu;
        self.daemon.switches += later.daemon.switches;
        self.daemon.sampled.user += later.daemon.sampled.user;
        self.daemon.sampled.all += later.daemon.sampled.all;
        self.samples = match (self.samples, later.samples) {
            (Some(a), Some(b)) => Some(Samples { all: a.all + b.all, own: a.own + b.own }),
            (one, other) => one.or(other),
        };
        if let Some(more) = &later.requests {
            requests::add(self.requests.get_or_insert_default(), more);
        }
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
            bytes: cost.bytes,
            seconds: cost.wall.as_secs_f64(),
            cpu_us: (cost.cpu + daemon.cpu).as_secs_f64() * 1e6 / ops,
            client_us: cost.cpu.as_secs_f64() * 1e6 / ops,
            user_us: daemon.user_time().map(|time| time.as_secs_f64() * 1e6 / ops),
            own_us: self.samples.map(|samples| {
                daemon.cpu.as_secs_f64() * 1e6 / ops * samples.own as f64 / samples.all as f64
            }),
            ops_per_s: ops / cost.wall.as_secs_f64(),
            p50_us: micros(cost.latency.value_at_quantile(0.5)),
            p99_us: micros(cost.latency.value_at_quantile(0.99)),
            p999_us: micros(cost.latency.value_at_quantile(0.999)),
            switches: (cost.switches + daemon.switches) as f64 / ops,
            resident,
            requests: self.requests.clone(),
            others: self.others.map(|(used, available)| (used.as_secs_f64(), available.as_secs_f64())),
        }
    }
}

fn empty(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
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
    use crate::daemon::Site;
    use crate::suite::Suite;
    use crate::target::Target;
    use crate::tree::Lower;

    fn plan() -> Plan {
        Plan {
            workloads: Suite::preset("passthrough").unwrap().workloads,
            threads: vec![1, 2],
            reps: 2,
            warmup: 1,
            scale: 0.002,
            retries: 0,
            quiet: 0.12,
            pin: Pin::Free,
        }
    }

    #[test]
    fn all_workloads_run_on_a_plain_directory() {
        let place = tempfile::tempdir().unwrap();
        let tree = Tree::new(&Lower::Inside(place.path().into())).unwrap();
        tree.fill().unwrap();
        let site = Site { src: tree.path(), work: place.path(), pin: Pin::Free, nofile: None };
        let mounted = [Mounted::start(&Target::native(), &site).unwrap()];
        let watchdog = Watchdog::start(Duration::from_secs(100)).unwrap();
        let plan = plan();
        let (rows, done) = Comparison::new(&plan, ("here".into(), &tree), &mounted, &watchdog).run();
        done.unwrap();
        assert_eq!(rows.len(), plan.workloads.len() * 2);
        for row in &rows {
            let cell = &row.cells[0];
            // A lower filesystem without O_DIRECT is no fault of the bench.
            if cell.error.as_ref().is_some_and(|error| error.contains("O_DIRECT")) {
                continue;
            }
            assert_eq!((cell.error.as_deref(), cell.slices.len()), (None, 2), "{}", row.workload);
            let in_order = |slice: &Slice| slice.p50_us <= slice.p99_us && slice.p99_us <= slice.p999_us;
            assert!(cell.slices.iter().all(|slice| slice.cpu_us > 0.0 && in_order(slice)));
        }
        for thread in 0..2 {
            let left = fs::read_dir(crate::tree::work_dir(tree.path(), thread)).unwrap().count();
            assert_eq!(left, 0);
        }
    }

    #[test]
    fn plans_without_sense_are_refused() {
        assert!(Plan { reps: 0, ..plan() }.check().is_err());
        assert!(Plan { scale: 0.0, ..plan() }.check().is_err());
        assert!(Plan { quiet: -0.1, ..plan() }.check().is_err());
        assert!(Plan { quiet: f64::NAN, ..plan() }.check().is_err());
        assert!(Plan { threads: vec![0], ..plan() }.check().is_err());
        assert!(Plan { threads: vec![MAX_THREADS + 1], ..plan() }.check().is_err());
        assert!(Plan { pin: Pin::One(100_000), ..plan() }.check().is_err());
        assert!(plan().check().is_ok());
    }
}
