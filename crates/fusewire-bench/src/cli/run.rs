//! `run` and its short form `passthrough`.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;

use super::surroundings::Surroundings;
use super::{OutputArgs, PlaceArgs};
use crate::client::Pin;
use crate::goal::Goal;
use crate::machine::Machine;
use crate::program;
use crate::results::{Pair, Results, SuiteResult};
use crate::run::Plan;
use crate::suite::Suite;
use crate::target::{Profile, Target};
use crate::workload::{CommandLine, Op, Workload};

/// What stands below the options.
pub const NOTES: &str = crate::target::GRAMMAR;

/// What `run` takes.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Presets to run
    #[arg(value_name = "PRESET", required_unless_present = "workloads")]
    presets: Vec<String>,
    /// Run the workloads of this file; may be repeated
    #[arg(long, value_name = "FILE")]
    workloads: Vec<PathBuf>,
    #[command(flatten)]
    measure: MeasureArgs,
}

/// How to measure.
#[derive(Debug, Args)]
pub struct MeasureArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Only this workload; may be repeated
    #[arg(long, value_name = "NAME")]
    pub workload: Vec<String>,
    /// Numbers of client threads [default: what the workload says]
    #[arg(long, visible_alias = "jobs", value_name = "N", value_delimiter = ',')]
    pub threads: Vec<usize>,
    /// Turns of each target at each row
    #[arg(long, value_name = "N", default_value_t = 7)]
    reps: u32,
    /// Turns before them that do not count
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: u32,
    /// Factor on the work of one turn
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    scale: f64,
    /// Factor on the number of directories of generated source trees: a smaller tree where the whole takes too long
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    tree: f64,
    /// How often a turn is done again if others used the machine meanwhile; the quietest counts
    #[arg(long, value_name = "N", default_value_t = 0)]
    retries: u32,
    /// Percent of the machine that others may use before a row counts as noisy
    #[arg(long, value_name = "PERCENT", default_value_t = 12.0)]
    noisy: f64,
    /// Keep each client thread on a CPU of its own, as far as there are enough; daemons stay free
    #[arg(long, conflicts_with = "cpu")]
    pin: bool,
    /// Keep all clients on this CPU, or on `any` [default: what the preset says, or any]
    #[arg(long, value_name = "CPU", value_parser = cpu)]
    cpu: Option<Pin>,
    /// A target of interest; may be repeated [default: all with a daemon]
    #[arg(long, value_name = "TARGET")]
    subject: Vec<String>,
    /// The target they are compared with [default: fuser, pipe, the first with a daemon, or native]
    #[arg(long, value_name = "TARGET")]
    baseline: Option<String>,
}

fn cpu(text: &str) -> Result<Pin, String> {
    match text {
        "any" => Ok(Pin::Free),
        number => number.parse().map(Pin::One).map_err(|_| "a number of a CPU, or `any`, is needed".into()),
    }
}

impl RunArgs {
    pub(super) fn run(self) -> Result<()> {
        let mut suites = Vec::new();
        for name in &self.presets {
            suites.push(Suite::preset(name)?);
        }
        for path in &self.workloads {
            suites.push(Suite::read(path)?);
        }
        self.measure.run(suites)
    }
}

/// A suite with everything decided.
struct Prepared {
    suite: Suite,
    plan: Plan,
    profile: Profile,
    targets: Vec<Target>,
    pairs: Vec<Pair>,
}

impl MeasureArgs {
    /// Runs the presets of these names.
    pub(super) fn run_presets(self, names: &[String]) -> Result<()> {
        let suites = names.iter().map(|name| Suite::preset(name)).collect::<Result<_>>()?;
        self.run(suites)
    }

    fn run(mut self, suites: Vec<Suite>) -> Result<()> {
        self.output.check()?;
        let limits = suites.iter().filter_map(|suite| suite.limit);
        self.place.limit = limits.fold(self.place.limit, u64::max);
        let mut prepared = Vec::new();
        for suite in self.selected(suites)? {
            prepared.push(self.prepare(suite)?);
        }
        let surroundings = Surroundings::new(&self.place)?;
        let machine = Machine::read();

        let mut measured = Vec::new();
        let mut done = Ok(());
        for Prepared { suite, plan, profile, targets, pairs } in prepared {
            let mut rows = Vec::new();
            for lower in &self.place.lower {
                let (some, result) = surroundings.compare(&plan, &targets, lower);
                rows.extend(some);
                done = result;
                if done.is_err() {
                    break;
                }
            }
            if !rows.is_empty() {
                let Suite { name, title, goals, by_target, .. } = suite;
                measured.push(SuiteResult {
                    name,
                    title,
                    plan,
                    profile,
                    targets,
                    pairs,
                    goals,
                    by_target,
                    rows,
                });
            }
            if done.is_err() {
                break;
            }
        }
        let results = Results::new(std::env::args().collect(), machine, measured);
        if !results.suites.is_empty() {
            self.output.write(&results)?;
        }
        done?;
        ensure!(!results.has_errors(), "operations failed; see the end of the report");
        Ok(())
    }

    /// The suites with the workloads that were asked for.
    fn selected(&self, mut suites: Vec<Suite>) -> Result<Vec<Suite>> {
        let names: Vec<&str> =
            suites.iter().flat_map(|suite| &suite.workloads).map(|workload| workload.name.as_str()).collect();
        if let Some(unknown) = self.workload.iter().find(|name| !names.contains(&name.as_str())) {
            bail!("there is no workload {unknown} in it; there are {}", names.join(", "));
        }
        if !self.workload.is_empty() {
            for suite in &mut suites {
                suite.workloads.retain(|workload| self.workload.contains(&workload.name));
            }
            suites.retain(|suite| !suite.workloads.is_empty());
        }
        Ok(suites)
    }

    fn prepare(&self, suite: Suite) -> Result<Prepared> {
        let preset = suite.cpu.map_or(Pin::Free, Pin::One);
        let plan = Plan {
            workloads: self.with_trees(&suite.workloads)?,
            threads: self.threads.clone(),
            reps: self.reps,
            warmup: self.warmup,
            scale: self.scale,
            retries: self.retries,
            quiet: self.noisy / 100.0,
            pin: if self.pin { Pin::Each } else { self.cpu.unwrap_or(preset) },
        };
        plan.check()?;
        program::check_needs(&plan.workloads)?;
        let profile = self.place.targets.profile.or(suite.profile).unwrap_or(Profile::Auto);
        let targets = self.place.targets.resolve(&suite.targets, profile)?;
        let pairs = self.pairs(&targets, &suite.goals)?;
        Ok(Prepared { suite, plan, profile, targets, pairs })
    }

    /// The workloads, with source trees as large as was asked for.
    fn with_trees(&self, workloads: &[Workload]) -> Result<Vec<Workload>> {
        ensure!(self.tree > 0.0 && self.tree <= 100.0, "--tree must be above 0 and at most 100");
        let mut workloads = workloads.to_vec();
        for workload in &mut workloads {
            if let Op::Command(CommandLine { sources: Some(sources), .. }) = &mut workload.op {
                *sources = sources.scaled(self.tree);
            }
        }
        Ok(workloads)
    }

    /// What was asked for; else the usual, and what the goals are about.
    fn pairs(&self, targets: &[Target], goals: &[Goal]) -> Result<Vec<Pair>> {
        let is_there = |name: &str| targets.iter().any(|target| target.name == name);
        if let Some(name) = self.subject.iter().chain(&self.baseline).find(|name| !is_there(name)) {
            let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
            bail!("{name} is compared but not measured; measured are {}", names.join(", "));
        }
        let daemons: Vec<&str> =
            targets.iter().filter(|target| target.has_daemon()).map(|target| target.name.as_str()).collect();
        let usual = ["fuser", "pipe"].into_iter().find(|name| is_there(name) && daemons.len() > 1);
        let first = daemons.first().copied().filter(|_| daemons.len() > 1);
        let last_resort = || targets.iter().map(|target| target.name.as_str()).find(|name| *name == "native");
        let baseline = self.baseline.as_deref().or(usual).or(first).or_else(last_resort);
        let subjects: Vec<&str> = match self.subject.as_slice() {
            [] => daemons,
            given => given.iter().map(String::as_str).collect(),
        };
        // Of mounts of others none is the usual one; what the goals are about stays.
        let pair = |subject: &str| {
            let baseline = baseline.filter(|baseline| *baseline != subject)?;
            Some(Pair { subject: subject.into(), baseline: baseline.into() })
        };
        let mut pairs: Vec<Pair> = subjects.into_iter().filter_map(pair).collect();
        if self.subject.is_empty() && self.baseline.is_none() {
            for pair in goals.iter().filter_map(Goal::pair) {
                if is_there(&pair.subject) && is_there(&pair.baseline) && !pairs.contains(&pair) {
                    pairs.push(pair);
                }
            }
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::target::{Kind, Shows};

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(words: &[&str]) -> MeasureArgs {
        let words = [&["x", "passthrough"], words].concat();
        Words::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).run.measure
    }

    fn pairs(words: &[&str], targets: &[&str]) -> Result<Vec<String>> {
        let daemon = Kind::Daemon {
            command: vec!["x".into()],
            shows: Shows::Source,
            ring: false,
            ends_by_unmount: false,
        };
        let kind = |name: &str| match name {
            "native" => Kind::Directory,
            _ if targets.contains(&"elsewhere") => Kind::Mounted { dir: "/".into() },
            _ => daemon.clone(),
        };
        let target = |name: &&str| Target { name: (*name).into(), kind: kind(name), watch: None };
        let targets: Vec<_> = targets.iter().map(target).collect();
        let of_goal = |subject: &str, baseline: &str| Goal {
            subject: subject.into(),
            baseline: Some(baseline.into()),
            ..crate::goal::tests::goal(1.0)
        };
        let goals = [of_goal("c", "b"), of_goal("c", "a"), of_goal("c", "elsewhere")];
        let pairs = parse(words).pairs(&targets, &goals)?;
        Ok(pairs.iter().map(|pair| format!("{}/{}", pair.subject, pair.baseline)).collect())
    }

    #[test]
    fn the_usual_comparisons_need_no_words() {
        assert_eq!(pairs(&[], &["native", "fusewire", "fuser"]).unwrap(), ["fusewire/fuser"]);
        assert_eq!(pairs(&[], &["native", "a", "b", "c"]).unwrap(), ["b/a", "c/a", "c/b"]);
        assert_eq!(pairs(&[], &["native", "fuser"]).unwrap(), ["fuser/native"]);
        assert_eq!(pairs(&[], &["native"]).unwrap(), [""; 0]);
        let asked = pairs(&["--subject", "a", "--baseline", "native"], &["native", "a", "b"]).unwrap();
        assert_eq!(asked, ["a/native"]);
        let of_others = pairs(&[], &["a", "c", "elsewhere"]).unwrap();
        assert_eq!(of_others, ["c/a", "c/elsewhere"], "of mounts of others, what the goals are about");
        let error = pairs(&["--baseline", "c"], &["native", "a"]).unwrap_err().to_string();
        assert!(error.contains("measured are native, a"), "{error}");
    }

    #[test]
    fn workloads_are_chosen_by_name() {
        let suite = || vec![Suite::preset("passthrough").unwrap()];
        let chosen = parse(&["--workload", "stat"]).selected(suite()).unwrap();
        assert_eq!(chosen[0].workloads.len(), 1);
        assert_eq!(parse(&[]).selected(suite()).unwrap()[0].workloads.len(), 11);
        let error = parse(&["--workload", "sta"]).selected(suite()).unwrap_err().to_string();
        assert!(error.contains("no workload sta") && error.contains("stat, open"), "{error}");
    }

    #[test]
    fn trees_can_be_smaller() {
        let warm = Suite::preset("warm").unwrap().workloads;
        let files = |words: &[&str]| -> Result<u64> {
            let all = parse(words).with_trees(&warm)?;
            Ok(all.iter().filter_map(Workload::tree).map(|sources| sources.count()).max().unwrap_or(0))
        };
        assert_eq!((files(&[]).unwrap(), files(&["--tree", "0.2"]).unwrap()), (15_501, 3_101));
        assert!(files(&["--tree", "0"]).is_err());
    }

    #[test]
    fn a_cpu_is_a_number_or_any() {
        assert_eq!(parse(&["--cpu", "3"]).cpu, Some(Pin::One(3)));
        assert_eq!(parse(&["--cpu", "any"]).cpu, Some(Pin::Free));
        assert!(cpu("x").is_err());
    }
}
