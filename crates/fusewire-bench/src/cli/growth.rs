//! `memory`.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;

use super::PlaceArgs;
use super::surroundings::Surroundings;
use crate::machine::Machine;
use crate::memory;
use crate::report::MemoryReport;
use crate::results::{self, SCHEMA};
use crate::target::{Kind, Profile, Shows, Target};

/// What `memory` takes.
#[derive(Debug, Args)]
pub struct MemoryArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Also write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Files to look up
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// Files in each directory
    #[arg(long, default_value_t = 1000)]
    per_dir: u64,
    /// Client threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Most files the daemon may have open
    #[arg(long, default_value_t = 20_000)]
    nofile: u64,
}

impl MemoryArgs {
    pub(super) fn run(self) -> Result<()> {
        let plan = memory::Plan {
            files: self.files,
            per_dir: self.per_dir,
            threads: self.threads,
            nofile: self.nofile,
        };
        plan.check()?;
        let profile = self.place.targets.profile.unwrap_or(Profile::Auto);
        let targets = self.place.targets.resolve(&["fusewire".into()], profile)?;
        let shows_source =
            |target: &&Target| matches!(target.kind, Kind::Daemon { shows: Shows::Source, .. });
        if let Some(target) = targets.iter().find(|target| !shows_source(target)) {
            bail!("{} has no daemon that shows the files to look up; leave it out", target.name);
        }
        let surroundings = Surroundings::new(&self.place)?;
        let machine = Machine::read();

        let mut growth = Vec::new();
        let mut done = Ok(());
        for lower in &self.place.lower {
            done = surroundings.grow(&plan, &targets, lower, &mut growth);
            if done.is_err() {
                break;
            }
        }
        let report = MemoryReport { schema: SCHEMA, machine, plan, profile, targets, growth };
        if !report.growth.is_empty() {
            print!("{}", report.markdown());
            if let Some(path) = &self.json {
                results::write_json(path, &report)?;
            }
        }
        done?;
        ensure!(!report.has_errors(), "a target failed; see the end of the report");
        Ok(())
    }
}
