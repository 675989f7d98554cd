//! What is made of the numbers for people.

#[cfg(test)]
mod browser;
mod by_target;
mod html;
mod markdown;
mod plot;

use std::fmt::Write;

use serde::Serialize;

use crate::guests::Guests;
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
    /// Those of devices.
    pub guests: Vec<Guests>,
}

impl MemoryReport {
    /// The whole report.
    pub fn markdown(&self) -> String {
        let mut out = machine_line(&self.machine);
        if !self.growth.is_empty() {
            self.growth_table(&mut out);
        }
        if !self.guests.is_empty() {
            self.guests_table(&mut out);
        }
        let errors = self.growth.iter().map(|growth| (&growth.target, &growth.lower, &growth.error));
        let errors =
            errors.chain(self.guests.iter().map(|guests| (&guests.target, &guests.lower, &guests.error)));
        for (target, lower, error) in errors {
            if let Some(error) = error {
                let _ = writeln!(out, "\n**{target} on {lower} failed**: {error}");
            }
        }
        out
    }

    fn growth_table(&self, out: &mut String) {
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
    }

    fn guests_table(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "\nVirtio-fs devices, guests in the bench, at most {} open files for the daemon; each guest has mounted it and looked at a file.\n\n\
             | lower | target | idle MiB | one guest MiB | guests | MiB | KiB/guest | anonymous MiB | threads | open |\n\
             |---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
            self.plan.nofile
        );
        for guests in &self.guests {
            let many = guests.many.map_or_else(
                || ["-"; 6].map(String::from),
                |many| {
                    [
                        many.guests.to_string(),
                        mib(many.all.resident),
                        (many.bytes_each() >> 10).to_string(),
                        mib(many.all.anonymous),
                        many.threads.to_string(),
                        many.all.descriptors.to_string(),
                    ]
                },
            );
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                guests.lower,
                guests.target,
                mib(guests.nobody.resident),
                guests.one.map_or("-".into(), |memory| mib(memory.resident)),
                many.join(" | ")
            );
        }
        out.push_str("\n| target | bound | MiB | wanted | |\n|---|---|--:|--:|---|\n");
        for guests in &self.guests {
            for bound in guests.bounds() {
                let word = if bound.is <= bound.most { "reached" } else { "missed" };
                let _ = writeln!(
                    out,
                    "| {} | {} | {} | ≤ {} | {word} |",
                    guests.target,
                    bound.what,
                    mib(bound.is),
                    mib(bound.most)
                );
            }
        }
    }

    /// Whether any target failed.
    pub fn has_errors(&self) -> bool {
        self.growth.iter().any(|growth| growth.error.is_some())
            || self.guests.iter().any(|guests| guests.error.is_some())
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
