//! What is done with stored results: `compare` and `report`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::compare::{self, LEAST_TURNS, Rules, Verdict};
use crate::report;
use crate::results::{self, Metric, Results};

/// Files to write a report to.
#[derive(Debug, Default, Args)]
pub struct OutputArgs {
    /// Also write everything that was measured to this file, for `report` and `compare`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the tables to this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Also write a page with plots to this file; it needs no other file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What `report` takes.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// JSON file written by `run`
    #[arg(value_name = "RESULT")]
    result: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// What `compare` takes.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// JSON file written by `run`, before
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// JSON file written by `run`, after
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// What to compare; may be repeated
    #[arg(long, value_enum, value_name = "WHAT", default_values_t = Metric::RATIOS)]
    metric: Vec<Metric>,
    /// Percent by which a number must be worse to count; a 99th percentile by twice that
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    threshold: f64,
    /// How likely by chance a difference may be, at most
    #[arg(long, value_name = "P", default_value_t = 0.01)]
    significance: f64,
    /// Compare the ratios to this target in the same turns: for results from different machines or days
    #[arg(long, value_name = "TARGET")]
    relative_to: Option<String>,
    /// Compare what both have, and do not fail because of rows, targets and numbers that are in OLD and not in NEW
    #[arg(long)]
    only_common: bool,
    /// Judge rows in which others disturbed, too
    #[arg(long)]
    with_noisy: bool,
    /// List also what is the same or noisy
    #[arg(long)]
    all: bool,
}

impl OutputArgs {
    /// Checks, before hours of measuring, that the files can be written.
    pub(super) fn check(&self) -> Result<()> {
        for path in [&self.json, &self.markdown, &self.html].into_iter().flatten() {
            let dir = path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
            ensure!(dir.is_dir(), "cannot write {}: there is no directory {}", path.display(), dir.display());
        }
        Ok(())
    }

    /// Prints the tables and writes the files.
    pub(super) fn write(&self, results: &Results) -> Result<()> {
        let markdown = report::markdown(results);
        print!("{markdown}");
        if let Some(path) = &self.json {
            results::write_json(path, results)?;
        }
        if let Some(path) = &self.markdown {
            write(path, &markdown)?;
        }
        if let Some(path) = &self.html {
            write(path, &report::page(results)?)?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

impl ReportArgs {
    pub(super) fn run(self) -> Result<()> {
        self.output.check()?;
        self.output.write(&Results::read(&self.result)?)
    }
}

impl CompareArgs {
    pub(super) fn run(self) -> Result<()> {
        ensure!(self.threshold >= 0.0, "--threshold must not be negative");
        ensure!((0.0..=1.0).contains(&self.significance), "--significance must be from 0 to 1");
        let (old, new) = (Results::read(&self.old)?, Results::read(&self.new)?);
        if let Some(target) = &self.relative_to {
            let has = |results: &Results| {
                results.suites.iter().any(|suite| suite.targets.iter().any(|known| known.name == *target))
            };
            ensure!(has(&old) && has(&new), "--relative-to {target}: it is not in both results");
        }
        let rules = Rules {
            metrics: self.metric,
            threshold: self.threshold / 100.0,
            significance: self.significance,
            relative_to: self.relative_to,
            with_noisy: self.with_noisy,
        };
        let changes = compare::compare(&old, &new, &rules)?;
        print!("{}", changes.markdown(self.all));
        let mut failures = Vec::new();
        match changes.count(Verdict::Worse) + changes.count(Verdict::Fails) {
            0 => {}
            1 => failures.push("one regression beyond noise".to_owned()),
            more => failures.push(format!("{more} regressions beyond noise")),
        }
        if !self.only_common && !changes.missing.is_empty() {
            failures.push(format!(
                "{} missing in the new result, see above (--only-common if that is meant)",
                changes.missing.len()
            ));
        }
        ensure!(failures.is_empty(), "{}", failures.join("; "));
        ensure!(
            changes.count(Verdict::Noisy) + changes.count(Verdict::TooFew) < changes.changes.len(),
            "nothing could be judged: measure with --reps {LEAST_TURNS} or more on a quieter machine, or judge noisy rows \
             too, with --with-noisy"
        );
        Ok(())
    }
}
