//! `memory`.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;

use super::PlaceArgs;
use super::surroundings::Surroundings;
use crate::guests;
use crate::machine::Machine;
use crate::memory;
use crate::report::MemoryReport;
use crate::results::{self, SCHEMA};
use crate::sys;
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
    /// Idle guests of one daemon, for targets that are virtio-fs devices; 0 for one guest alone
    #[arg(long, default_value_t = guests::MANY)]
    guests: usize,
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
        let targets = self
            .place
            .targets
            .resolve(&["fusewire", "vhost=vhost:queues=1", "virtiofsd?"].map(String::from), profile)?;
        let shows_source = |target: &&Target| {
            matches!(target.kind, Kind::Daemon { shows: Shows::Source, .. } | Kind::Device { .. })
        };
        if let Some(target) = targets.iter().find(|target| !shows_source(target)) {
            bail!("{} has no daemon that shows the files to look up; leave it out", target.name);
        }
        let (devices, mounts): (Vec<&Target>, Vec<&Target>) =
            targets.iter().partition(|target| matches!(target.kind, Kind::Device { .. }));
        if !devices.is_empty() && self.guests > 0 {
            // Those of the guests are in this process.
            sys::allow_open_files();
        }
        let surroundings = Surroundings::new(&self.place)?;
        let machine = Machine::read();

        let (mut growth, mut guests) = (Vec::new(), Vec::new());
        let mut done = Ok(());
        for lower in &self.place.lower {
            let limits = (plan.nofile, self.guests);
            done = surroundings.with_guests(limits, &devices, lower, &mut guests).and_then(|()| match mounts
                .is_empty()
            {
                true => Ok(()),
                false => surroundings.grow(&plan, &mounts, lower, &mut growth),
            });
            if done.is_err() {
                break;
            }
        }
        drop((devices, mounts));
        let report = MemoryReport { schema: SCHEMA, machine, plan, profile, targets, growth, guests };
        if !report.growth.is_empty() || !report.guests.is_empty() {
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
