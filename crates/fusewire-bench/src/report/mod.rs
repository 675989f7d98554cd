//! What is made of the numbers for people.

#[cfg(test)]
mod browser;
mod by_target;
mod html;
mod markdown;
mod plot;

use std::fmt::Write;

use serde::Serialize;

use crate::machine::Machine;
use crate::memory::{self, Growth};
use crate::results::Row;
use crate::stats::Summary;
use crate::target::{Profile, Target};

pub use html::page;
pub use markdown::markdown;

/// All of a memory measurement.
#[derive(Debug, Serialize)]
pub struct MemoryReport {
    /// Version of this form, [`crate::results::SCHEMA`].
    pub schema: u32,
    /// Where it was measured.
    pub machine: Machine,
    /// How it was measured.
    pub plan: memory::Plan,
    /// Caching profile of the mounts.
    pub profile: Profile,
    /// What was measured.
    pub targets: Vec<Target>,
    /// The numbers.
    pub growth: Vec<Growth>,
}

impl MemoryReport {
    /// The whole report.
    pub fn markdown(&self) -> String {
        let mut out = machine_line(&self.machine);
        let _ = writeln!(
            out,
            "Cache profile {}, {} files in directories of {}, looked up by {} threads, at most {} open files for \
             the daemon.\n\n\
             | lower | target | idle MiB | files | MiB | bytes/file | open | kernel inodes | forgotten MiB | s |\n\
             |---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
            self.profile.name(),
            self.plan.files,
            self.plan.per_dir,
            self.plan.threads,
            self.plan.nofile
        );
        for growth in &self.growth {
            let (files, last) = growth.points.last().copied().unwrap_or_default();
            let _ = writeln!(
                out,
                "| {} | {} | {} | {files} | {} | {} | {} | {} | {} | {:.1} |",
                growth.lower,
                growth.target,
                mib(growth.idle.resident),
                mib(last.resident),
                growth.bytes_per_file().map_or("-".into(), |bytes| format!("{bytes:.0}")),
                last.descriptors,
                growth.kernel_inodes.map_or("?".into(), |inodes| inodes.to_string()),
                growth.forgotten.map_or("-".into(), |memory| mib(memory.resident)),
                growth.seconds
            );
        }
        for growth in &self.growth {
            if let Some(error) = &growth.error {
                let _ = writeln!(out, "\n**{} on {} failed**: {error}", growth.target, growth.lower);
            }
        }
        out
    }

    /// Whether any target failed.
    pub fn has_errors(&self) -> bool {
        self.growth.iter().any(|growth| growth.error.is_some())
    }
}

fn machine_line(machine: &Machine) -> String {
    format!(
        "{} CPUs ({}), {} GiB, Linux {} {}, load {:.2} at the start.\n",
        machine.cpus,
        machine.cpu,
        machine.memory >> 30,
        machine.kernel,
        machine.arch,
        machine.load
    )
}

fn mib(bytes: u64) -> String {
    if bytes == 0 { "-".into() } else { format!("{:.1}", bytes as f64 / f64::from(1 << 20)) }
}

fn ratio_text(ratio: Summary) -> String {
    format!("{:.2} [{:.2}, {:.2}]", ratio.median, ratio.q1, ratio.q3)
}

/// The share of others, between marks if it is too much.
fn noise_text(row: &Row, quiet: f64, mark: &str) -> String {
    match row.others() {
        None => "?".into(),
        Some(others) if row.is_noisy(quiet) => format!("{mark}{:.0} % noisy{mark}", others * 100.0),
        Some(others) => format!("{:.0} %", others * 100.0),
    }
}
