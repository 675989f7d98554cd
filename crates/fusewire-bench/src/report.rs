//! What is printed: Markdown for people, JSON for programs.

use std::fmt::Write;

use serde::Serialize;

use crate::machine::Machine;
use crate::memory::{self, Growth};
use crate::run::{Cell, Plan, Row};
use crate::stats::{Summary, geometric_mean};
use crate::target::{Profile, Target};

/// Version of the JSON form.
pub const SCHEMA: u32 = 1;

/// All of a comparison.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Version of this form, [`SCHEMA`].
    pub schema: u32,
    /// Where it was measured.
    pub machine: Machine,
    /// How it was measured.
    pub plan: Plan,
    /// Caching profile of the mounts.
    pub profile: Profile,
    /// What was measured.
    pub targets: Vec<Target>,
    /// The target of interest and the one it is compared with.
    pub pair: (String, String),
    /// The numbers.
    pub rows: Vec<Row>,
}

/// All of a memory measurement.
#[derive(Debug, Serialize)]
pub struct MemoryReport {
    /// Version of this form, [`SCHEMA`].
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

impl Comparison {
    /// The whole report.
    pub fn markdown(&self) -> String {
        let mut out = machine_line(&self.machine);
        let _ = writeln!(
            out,
            "Cache profile {}, {} repetitions after {} that do not count, targets in turn, client threads {}.\n",
            self.profile.name(),
            self.plan.reps,
            self.plan.warmup,
            if self.plan.pin { "pinned" } else { "not pinned" }
        );
        self.cpu_table(&mut out);
        self.means(&mut out);
        self.detail_table(&mut out);
        self.errors(&mut out);
        out
    }

    fn cpu_table(&self, out: &mut String) {
        let (subject, baseline) = (&self.pair.0, &self.pair.1);
        out.push_str("## CPU time per operation\n\nMicroseconds of client and daemon, user and system: median (smallest).");
        if self.has_pair() {
            let _ = write!(
                out,
                "\nRatio {subject}/{baseline}: median [first, third quartile] of the ratios of neighbouring turns."
            );
        }
        out.push_str("\n\n| lower | workload | threads |");
        let mut rule = String::from("|---|---|--:|");
        for target in &self.targets {
            let _ = write!(out, " {} |", target.name);
            rule.push_str("--:|");
        }
        if self.has_pair() {
            let _ = write!(out, " {subject}/{baseline} |");
            rule.push_str("--:|");
        }
        let _ = writeln!(out, " others |\n{rule}--:|");
        for row in &self.rows {
            let _ = write!(out, "| {} | {} | {} |", row.lower, row.workload.name(), row.threads);
            for target in &self.targets {
                let text = row.cell(&target.name).and_then(|cell| cell.summary(|slice| slice.cpu_us));
                let text = text.map_or("-".into(), |s| format!("{:.1} ({:.1})", s.median, s.min));
                let _ = write!(out, " {text} |");
            }
            if self.has_pair() {
                let _ = write!(out, " {} |", row.ratio(subject, baseline).map_or("-".into(), ratio_text));
            }
            let _ = writeln!(out, " {} |", self.noise_text(row));
        }
    }

    fn means(&self, out: &mut String) {
        if !self.has_pair() {
            return;
        }
        out.push('\n');
        self.mean(out, "names and 4 KiB", |row| row.workload.is_small());
        self.mean(out, "128 KiB and 1 MiB", |row| {
            row.workload.transfer().is_some_and(|transfer| transfer.block > 4096)
        });
    }

    /// Geometric mean over the rows of a kind, and the worst of them.
    fn mean(&self, out: &mut String, kind: &str, belongs: impl Fn(&Row) -> bool) {
        let (subject, baseline) = (&self.pair.0, &self.pair.1);
        let ratio = |row| Some((row, Row::ratio(row, subject, baseline)?.median));
        let ratios: Vec<(&Row, f64)> =
            self.rows.iter().filter(|row| belongs(row)).filter_map(ratio).collect();
        let mean = geometric_mean(ratios.iter().map(|(_, ratio)| *ratio));
        let worst = ratios.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        if let (Some(mean), Some((row, worst))) = (mean, worst) {
            let _ = writeln!(
                out,
                "- {subject}/{baseline}, {kind}: geometric mean {mean:.2} of {} rows, worst {worst:.2} ({} x{})",
                ratios.len(),
                row.workload.name(),
                row.threads
            );
        }
    }

    fn detail_table(&self, out: &mut String) {
        out.push_str(
            "\n## Latency, throughput, context switches\n\nMedians over the repetitions.\n\n\
             | lower | workload | threads | target | ops/s | p50 us | p99 us | client us/op | daemon us/op | \
             switches/op | daemon MiB | outliers |\n|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for row in &self.rows {
            for cell in row.cells.iter().filter(|cell| !cell.slices.is_empty()) {
                let _ = writeln!(
                    out,
                    "| {} | {} | {} | {} {}",
                    row.lower,
                    row.workload.name(),
                    row.threads,
                    cell.target,
                    detail(cell)
                );
            }
        }
    }

    fn errors(&self, out: &mut String) {
        let failed = self.rows.iter().flat_map(|row| row.cells.iter().map(move |cell| (row, cell)));
        for (row, cell) in failed {
            if let Some(error) = &cell.error {
                let _ = writeln!(
                    out,
                    "\n**{} failed at {} with {} threads on {}**: {error}",
                    cell.target,
                    row.workload.name(),
                    row.threads,
                    row.lower
                );
            }
        }
    }

    /// Whether any cell has ended early.
    pub fn has_errors(&self) -> bool {
        self.rows.iter().flat_map(|row| &row.cells).any(|cell| cell.error.is_some())
    }

    fn has_pair(&self) -> bool {
        let has = |name: &String| self.targets.iter().any(|target| target.name == *name);
        has(&self.pair.0) && has(&self.pair.1)
    }

    fn noise_text(&self, row: &Row) -> String {
        match row.others() {
            None => "?".into(),
            Some(others) if others > self.plan.quiet => format!("**{:.0} % noisy**", others * 100.0),
            Some(others) => format!("{:.0} %", others * 100.0),
        }
    }
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

fn detail(cell: &Cell) -> String {
    let median = |number: fn(&crate::run::Slice) -> f64| cell.summary(number).map_or(0.0, |s| s.median);
    let outliers = cell.summary(|slice| slice.cpu_us).map_or(0, |s| s.outliers);
    format!(
        "| {:.0} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {} | {outliers} |",
        median(|slice| slice.ops_per_s),
        median(|slice| slice.p50_us),
        median(|slice| slice.p99_us),
        median(|slice| slice.client_us),
        median(|slice| slice.cpu_us - slice.client_us),
        median(|slice| slice.switches),
        mib(median(|slice| slice.resident as f64) as u64)
    )
}

fn ratio_text(ratio: Summary) -> String {
    format!("{:.2} [{:.2}, {:.2}]", ratio.median, ratio.q1, ratio.q3)
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
