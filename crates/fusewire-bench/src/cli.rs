//! The command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::daemon::Mounted;
use crate::machine::Machine;
use crate::memory::{self, Growth};
use crate::mounts;
use crate::report::{self, MemoryReport};
use crate::run::{self, Row};
use crate::target::{Target, TargetArgs};
use crate::tree::{Lower, Tree};
use crate::watchdog::Watchdog;
use crate::workload::Workload;

/// Compares FUSE mounts with each other and with the directory beneath them.
///
/// Needs root: everything is mounted in a mount namespace of its own and gone afterwards. The tables go to
/// standard output, progress to standard error.
#[derive(Debug, Parser)]
#[command(name = "fusewire-bench", version)]
pub struct Cli {
    #[command(subcommand)]
    preset: Preset,
}

#[derive(Debug, Subcommand)]
enum Preset {
    /// CPU time per operation, latency and throughput of re-exported directories.
    ///
    /// Names are cold: before each turn the kernel forgets all names and files of the mount (by a remount, which
    /// drops them for this mount only), and created and removed names are new ones. Each turn does the same operations
    /// in the same order. The CPU time of what a daemon does after the last answer, such as RELEASE, counts.
    Passthrough(Passthrough),
    /// Resident memory of a daemon: idle, and per file the kernel knows.
    Memory(MemoryArgs),
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    targets: TargetArgs,
    /// What the source directory lies on: `tmpfs`, or an existing directory in which a new one is made; may be
    /// repeated.
    #[arg(long, value_name = "LOWER", default_value = "tmpfs")]
    lower: Vec<Lower>,
    /// Also write everything that was measured to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds after which a step without end is aborted.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    limit: u64,
}

#[derive(Debug, Args)]
struct Passthrough {
    #[command(flatten)]
    common: Common,
    /// Only this workload; may be repeated.
    #[arg(long, value_enum)]
    workload: Vec<Workload>,
    /// Numbers of client threads.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4])]
    threads: Vec<usize>,
    /// Turns of each target at each row.
    #[arg(long, default_value_t = 7)]
    reps: u32,
    /// Turns before them that do not count.
    #[arg(long, default_value_t = 1)]
    warmup: u32,
    /// Factor on the work of one turn.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// How often a turn is done again if others used the machine meanwhile; the quietest counts.
    #[arg(long, default_value_t = 0)]
    retries: u32,
    /// Percent of the machine that others may use before a row counts as noisy.
    #[arg(long, value_name = "PERCENT", default_value_t = 12.0)]
    quiet: f64,
    /// Keep each client thread on a CPU of its own, as far as there are enough; daemons stay free.
    #[arg(long)]
    pin: bool,
    /// The target of interest.
    #[arg(long, default_value = "fusewire")]
    subject: String,
    /// The target it is compared with.
    #[arg(long, default_value = "fuser")]
    baseline: String,
}

#[derive(Debug, Args)]
struct MemoryArgs {
    #[command(flatten)]
    common: Common,
    /// Files to look up.
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// Files in each directory.
    #[arg(long, default_value_t = 1000)]
    per_dir: u64,
    /// Client threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Most files the daemon may have open.
    #[arg(long, default_value_t = 20_000)]
    nofile: u64,
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// If the arguments make no sense, a target cannot be mounted, an operation failed, or the run was
    /// interrupted. What was measured until then has been printed.
    pub fn run(self) -> Result<()> {
        match self.preset {
            Preset::Passthrough(args) => args.run(),
            Preset::Memory(args) => args.run(),
        }
    }
}

impl Passthrough {
    fn run(self) -> Result<()> {
        let plan = run::Plan {
            workloads: if self.workload.is_empty() { Workload::ALL.to_vec() } else { self.workload.clone() },
            threads: self.threads.clone(),
            reps: self.reps,
            warmup: self.warmup,
            scale: self.scale,
            retries: self.retries,
            quiet: self.quiet / 100.0,
            pin: self.pin,
        };
        plan.check()?;
        let targets = self.common.targets.resolve(&["native", "fusewire", "fuser"])?;
        let surroundings = Surroundings::new(&self.common)?;
        let machine = Machine::read();

        let mut rows = Vec::new();
        let mut done = Ok(());
        for lower in &self.common.lower {
            let (some, result) = surroundings.compare(&plan, &targets, lower);
            rows.extend(some);
            done = result;
            if done.is_err() {
                break;
            }
        }
        let report = report::Comparison {
            schema: report::SCHEMA,
            machine,
            plan,
            profile: self.common.targets.profile,
            targets,
            pair: (self.subject, self.baseline),
            rows,
        };
        if !report.rows.is_empty() {
            print!("{}", report.markdown());
            write_json(self.common.json.as_deref(), &report)?;
        }
        done?;
        ensure!(!report.has_errors(), "operations failed; see the end of the report");
        Ok(())
    }
}

impl MemoryArgs {
    fn run(self) -> Result<()> {
        let plan = memory::Plan {
            files: self.files,
            per_dir: self.per_dir,
            threads: self.threads,
            nofile: self.nofile,
        };
        plan.check()?;
        let targets = self.common.targets.resolve(&["fusewire"])?;
        if let Some(target) = targets.iter().find(|target| target.command.is_none()) {
            bail!("{} has no daemon whose memory could be measured; leave it out", target.name);
        }
        let surroundings = Surroundings::new(&self.common)?;
        let machine = Machine::read();

        let mut growth = Vec::new();
        let mut done = Ok(());
        for lower in &self.common.lower {
            done = surroundings.grow(&plan, &targets, lower, &mut growth);
            if done.is_err() {
                break;
            }
        }
        let profile = self.common.targets.profile;
        let report = MemoryReport { schema: report::SCHEMA, machine, plan, profile, targets, growth };
        if !report.growth.is_empty() {
            print!("{}", report.markdown());
            write_json(self.common.json.as_deref(), &report)?;
        }
        done?;
        ensure!(!report.has_errors(), "a target failed; see the end of the report");
        Ok(())
    }
}

/// What every preset needs: a namespace, a place for mount points, and a watchdog.
struct Surroundings {
    work: tempfile::TempDir,
    watchdog: Watchdog,
}

impl Surroundings {
    fn new(common: &Common) -> Result<Self> {
        ensure!(common.limit > 0, "--limit must be at least 1");
        mounts::enter_private_namespace()?;
        let work = tempfile::Builder::new()
            .prefix("fusewire-bench-")
            .tempdir()
            .context("cannot make a directory for mount points")?;
        Ok(Self { work, watchdog: Watchdog::start(Duration::from_secs(common.limit))? })
    }

    fn compare(&self, plan: &run::Plan, targets: &[Target], lower: &Lower) -> (Vec<Row>, Result<()>) {
        let work = match self.subdirectory() {
            Ok(work) => work,
            Err(error) => return (Vec::new(), Err(error)),
        };
        let tree = match Tree::new(lower).and_then(|tree| tree.fill().map(|()| tree)) {
            Ok(tree) => tree,
            Err(error) => return (Vec::new(), Err(error)),
        };
        let mut mounted = Vec::new();
        let (rows, mut done) = match self.mount_all(targets, (&tree, work.path()), &mut mounted) {
            Ok(()) => run::Comparison::new(plan, (lower.to_string(), &tree), &mounted, &self.watchdog).run(),
            Err(error) => (Vec::new(), Err(error)),
        };
        for target in mounted {
            if let Some(connection) = target.connection() {
                self.watchdog.remove(connection);
            }
            let stopped = target.stop();
            done = done.and(stopped);
        }
        (rows, done)
    }

    fn mount_all(
        &self,
        targets: &[Target],
        (tree, work): (&Tree, &Path),
        mounted: &mut Vec<Mounted>,
    ) -> Result<()> {
        for target in targets {
            self.watchdog.step()?;
            let one = Mounted::start(target, tree.path(), work, None)?;
            if let Some(connection) = one.connection() {
                self.watchdog.add(connection);
            }
            let verified = tree.verify(&one.root);
            mounted.push(one);
            verified.with_context(|| format!("{} does not work", target.name))?;
        }
        Ok(())
    }

    fn grow(
        &self,
        plan: &memory::Plan,
        targets: &[Target],
        lower: &Lower,
        growth: &mut Vec<Growth>,
    ) -> Result<()> {
        let work = self.subdirectory()?;
        let tree = Tree::new(lower)?;
        plan.make_files(&tree)?;
        for target in targets {
            self.watchdog.step()?;
            let name = lower.to_string();
            growth.push(memory::measure(plan, target, (&name, &tree), (work.path(), &self.watchdog))?);
        }
        Ok(())
    }

    /// Mount points of one source directory.
    fn subdirectory(&self) -> Result<tempfile::TempDir> {
        tempfile::tempdir_in(self.work.path()).context("cannot make a directory for mount points")
    }
}

fn write_json(path: Option<&Path>, report: &impl Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn workloads_and_threads_are_lists() {
        let words = ["x", "passthrough", "--workload", "stat", "--workload", "read-1m", "--threads", "1,4"];
        let Preset::Passthrough(args) = Cli::try_parse_from(words).unwrap().preset else { panic!() };
        assert_eq!((args.workload, args.threads), (vec![Workload::Stat, Workload::Read1m], vec![1, 4]));
        assert!(Cli::try_parse_from(["x", "passthrough", "--workload", "sta"]).is_err());
        assert!(Cli::try_parse_from(["x", "memory", "--lower", "/no/such"]).is_err());
    }
}
