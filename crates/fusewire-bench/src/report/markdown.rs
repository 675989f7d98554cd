//! The report as Markdown.

use std::fmt::Write;

use crate::client::Pin;
use crate::goal::{Verdict, figure};
use crate::report::by_target::ByTarget;
use crate::report::{machine_line, mib, noise_text, ratio_text};
use crate::requests::Chart;
use crate::results::{Cell, Metric, Pair, Results, Row, Slice, SuiteResult};
use crate::stats::{Summary, geometric_mean};
use crate::workload::{Op, Sources, Workload};

/// The whole report.
pub fn markdown(results: &Results) -> String {
    let mut out = machine_line(&results.machine);
    for suite in &results.suites {
        if results.suites.len() > 1 {
            let _ = writeln!(out, "# {}\n\n{}.\n", suite.name, suite.title);
        }
        suite_report(suite, &mut out);
    }
    out
}

fn suite_report(suite: &SuiteResult, out: &mut String) {
    let _ = writeln!(
        out,
        "Cache profile {}, {} repetitions after {} that do not count, targets in turn, client threads {}.\n",
        suite.profile.name(),
        suite.plan.reps,
        suite.plan.warmup,
        match suite.plan.pin {
            Pin::Free => "not pinned".to_owned(),
            Pin::Each => "pinned".to_owned(),
            Pin::One(cpu) => format!("pinned to CPU {cpu}"),
        }
    );
    trees(suite, out);
    goals(suite, out);
    by_target(suite, out);
    cpu_table(suite, out);
    means(suite, out);
    ratio_table(suite, out);
    requests(suite, out);
    detail_table(suite, out);
    places(suite, out);
    errors(suite, out);
}

/// How large the source trees are: numbers of requests and times are of a whole one.
fn trees(suite: &SuiteResult, out: &mut String) {
    let about = |sources: Sources| format!("{} files in {} directories", sources.count(), sources.dirs + 1);
    let mut texts: Vec<String> = suite.plan.workloads.iter().filter_map(Workload::tree).map(about).collect();
    texts.dedup();
    if !texts.is_empty() {
        let _ = writeln!(out, "Source tree: {}.\n", texts.join("; "));
    }
}

fn goals(suite: &SuiteResult, out: &mut String) {
    if suite.goals.is_empty() {
        return;
    }
    out.push_str(
        "## Goals\n\nMeasured is the median [first, third quartile] of the turns in the worst row, then in the others that miss.\n\n\
         | goal | number | row | measured | wanted | |\n|---|---|---|--:|--:|---|\n",
    );
    for line in goal_lines(suite) {
        let _ = writeln!(out, "| {} |", line.join(" | "));
    }
    out.push('\n');
}

/// A line for each goal with its worst row, and one for each other row that misses it.
pub fn goal_lines(suite: &SuiteResult) -> Vec<[String; 6]> {
    let mut lines = Vec::new();
    for goal in &suite.goals {
        let measured = goal.measured(suite);
        let reached = measured.iter().filter(|one| one.verdict.is_good()).count();
        let first = [goal.about.clone(), goal.what()];
        if measured.is_empty() {
            let [about, what] = first;
            let word = Verdict::NotMeasured.word().to_owned();
            lines.push([about, what, "-".into(), "-".into(), goal.bound_text(), word]);
            continue;
        }
        let shown = measured.iter().enumerate().filter(|(index, one)| *index == 0 || !one.verdict.is_good());
        for (index, one) in shown {
            let [about, what] = if index == 0 { first.clone() } else { Default::default() };
            let mut word = one.verdict.word().to_owned();
            if index == 0 && measured.len() > 1 {
                let _ = write!(word, "; {reached} of {} rows reach it", measured.len());
            }
            if one.is_noisy {
                word.push_str("; noisy");
            }
            let spread = &one.summary;
            let number = format!("{} [{}, {}]", figure(spread.median), figure(spread.q1), figure(spread.q3));
            lines.push([about, what, one.row.clone(), number, goal.bound_text(), word]);
        }
    }
    lines
}

/// What the rows of a device are, and where they run: it differs from row to row.
fn places(suite: &SuiteResult, out: &mut String) {
    let is_device = |workload: &&Workload| matches!(workload.op, Op::Device(_));
    let mut devices = suite.plan.workloads.iter().filter(is_device).peekable();
    if devices.peek().is_none() {
        return;
    }
    out.push_str("\n## What the rows are\n\n");
    for workload in devices {
        let _ = writeln!(out, "- {}: {}", workload.name, workload.about);
    }
}

fn by_target(suite: &SuiteResult, out: &mut String) {
    let Some(table) = ByTarget::of(suite) else { return };
    let _ = writeln!(
        out,
        "## By target\n\nMedians over the repetitions: more is better.\n\n| target | {} |\n|---|{}",
        table.head.join(" | "),
        "--:|".repeat(table.head.len())
    );
    for (target, numbers) in &table.lines {
        let _ = writeln!(out, "| {target} | {} |", numbers.join(" | "));
    }
    out.push('\n');
}

fn ratio_table(suite: &SuiteResult, out: &mut String) {
    if suite.pairs.is_empty() {
        return;
    }
    let titles = Metric::RATIOS.map(Metric::title).join(" | ");
    let _ = writeln!(
        out,
        "\n## Ratios\n\nMedian [first, third quartile] of the ratios of neighbouring turns.\n\n\
         | lower | workload | threads | ratio | {titles} | others |\n|---|---|--:|---|{}--:|",
        "--:|".repeat(Metric::RATIOS.len())
    );
    for row in &suite.rows {
        for (pair, ratios) in ratio_lines(suite, row) {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} |",
                row.lower,
                row.workload,
                row.threads,
                pair_name(pair),
                ratios.join(" | "),
                noise_text(row, suite.plan.quiet, "**")
            );
        }
    }
}

fn requests(suite: &SuiteResult, out: &mut String) {
    for row in &suite.rows {
        let Some(chart) = Chart::of(row) else { continue };
        let _ = writeln!(
            out,
            "\n## Requests by operation: {} on {}, {} threads\n\nOf one operation of the workload, median of the turns; \
             in brackets, what part of the first column that is.\n\n| operation | {} |\n|---|{}",
            row.workload,
            row.lower,
            row.threads,
            chart.targets.join(" | "),
            "--:|".repeat(chart.targets.len())
        );
        for line in chart.text() {
            let _ = writeln!(out, "| {} |", line.join(" | "));
        }
    }
}

/// Each pair that this row has, with its ratios.
pub fn ratio_lines<'a>(suite: &'a SuiteResult, row: &Row) -> Vec<(&'a Pair, Vec<String>)> {
    let line = |pair: &'a Pair| {
        let ratios: Vec<_> = Metric::RATIOS.iter().map(|metric| row.ratio(pair, *metric)).collect();
        let text = |ratio: Option<Summary>| ratio.map_or_else(|| "-".into(), ratio_text);
        ratios.iter().any(Option::is_some).then(|| (pair, ratios.into_iter().map(text).collect()))
    };
    suite.pairs.iter().filter_map(line).collect()
}

fn cpu_table(suite: &SuiteResult, out: &mut String) {
    out.push_str(
        "## CPU time per operation\n\nMicroseconds of client and daemon, user and system: median (smallest).",
    );
    if !suite.pairs.is_empty() {
        let names: Vec<_> = suite.pairs.iter().map(pair_name).collect();
        let _ = write!(
            out,
            "\nRatio {}: median [first, third quartile] of the ratios of neighbouring turns.",
            names.join(", ")
        );
    }
    out.push_str("\n\n| lower | workload | threads |");
    let mut rule = String::from("|---|---|--:|");
    let columns =
        suite.targets.iter().map(|target| target.name.clone()).chain(suite.pairs.iter().map(pair_name));
    for column in columns {
        let _ = write!(out, " {column} |");
        rule.push_str("--:|");
    }
    let _ = writeln!(out, " others |\n{rule}--:|");
    for row in &suite.rows {
        let _ = write!(out, "| {} | {} | {} |", row.lower, row.workload, row.threads);
        for target in &suite.targets {
            let text = row.cell(&target.name).and_then(|cell| cell.summary(|slice| slice.cpu_us));
            let text = text.map_or("-".into(), |s| format!("{:.1} ({:.1})", s.median, s.min));
            let _ = write!(out, " {text} |");
        }
        for pair in &suite.pairs {
            let _ = write!(out, " {} |", row.ratio(pair, Metric::Cpu).map_or("-".into(), ratio_text));
        }
        let _ = writeln!(out, " {} |", noise_text(row, suite.plan.quiet, "**"));
    }
}

/// As it heads a column.
pub fn pair_name(pair: &Pair) -> String {
    format!("{}/{}", pair.subject, pair.baseline)
}

fn means(suite: &SuiteResult, out: &mut String) {
    let before = out.len();
    for pair in &suite.pairs {
        mean(suite, pair, (out, "names and 4 KiB"), true);
        mean(suite, pair, (out, "more than 4 KiB"), false);
    }
    if out.len() > before {
        out.insert(before, '\n');
    }
}

/// Geometric mean over the rows of a kind, and the worst of them.
fn mean(suite: &SuiteResult, pair: &Pair, (out, kind): (&mut String, &str), small: bool) {
    let belongs = |row: &&Row| {
        let workload = suite.plan.workloads.iter().find(|workload| workload.name == row.workload);
        workload.is_some_and(|workload| workload.is_small() == Some(small))
    };
    let ratios: Vec<(&Row, f64)> = suite
        .rows
        .iter()
        .filter(belongs)
        .filter_map(|row| Some((row, row.ratio(pair, Metric::Cpu)?.median)))
        .collect();
    let mean = geometric_mean(ratios.iter().map(|(_, ratio)| *ratio));
    let worst = ratios.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    if let (Some(mean), Some((row, worst))) = (mean, worst) {
        let _ = writeln!(
            out,
            "- {}, {kind}: geometric mean {mean:.2} of {} rows, worst {worst:.2} ({} x{})",
            pair_name(pair),
            ratios.len(),
            row.workload,
            row.threads
        );
    }
}

fn detail_table(suite: &SuiteResult, out: &mut String) {
    out.push_str("\n## Latency, throughput, context switches\n\nMedians over the repetitions.\n\n");
    let rule = "--:|".repeat(DETAILS.len());
    let _ = writeln!(
        out,
        "| lower | workload | threads | target | {} |\n|---|---|--:|---|{rule}",
        DETAILS.join(" | ")
    );
    for row in &suite.rows {
        for cell in row.cells.iter().filter(|cell| !cell.slices.is_empty()) {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                row.lower,
                row.workload,
                row.threads,
                cell.target,
                detail(cell).join(" | ")
            );
        }
    }
}

/// Columns of the table of details behind the target.
pub const DETAILS: [&str; 12] = [
    "ops/s",
    "MB/s",
    "p50 us",
    "p99 us",
    "p99.9 us",
    "client us/op",
    "daemon us/op",
    "its user us/op",
    "own code us/op",
    "switches/op",
    "daemon MiB",
    "outliers",
];

/// What stands in these columns.
pub fn detail(cell: &Cell) -> Vec<String> {
    let median = |number: fn(&Slice) -> f64| cell.summary(number).map_or(0.0, |s| s.median);
    let megabytes = median(|slice| slice.bytes as f64 / slice.seconds / 1e6);
    let outliers = cell.summary(|slice| slice.cpu_us).map_or(0, |s| s.outliers);
    let some = |metric: Metric| {
        cell.summary(|slice| metric.of(slice)).map_or_else(|| "-".into(), |s| format!("{:.2}", s.median))
    };
    vec![
        per_second(median(|slice| slice.ops_per_s)),
        if megabytes > 0.0 { format!("{megabytes:.0}") } else { "-".into() },
        format!("{:.1}", median(|slice| slice.p50_us)),
        format!("{:.1}", median(|slice| slice.p99_us)),
        format!("{:.1}", median(|slice| slice.p999_us)),
        format!("{:.1}", median(|slice| slice.client_us)),
        format!("{:.1}", median(|slice| slice.cpu_us - slice.client_us)),
        some(Metric::User),
        some(Metric::Own),
        format!("{:.2}", median(|slice| slice.switches)),
        mib(median(|slice| slice.resident as f64) as u64),
        outliers.to_string(),
    ]
}

/// Whole operations, if there are more than a few in a second.
fn per_second(ops: f64) -> String {
    if ops < 20.0 { format!("{ops:.2}") } else { format!("{ops:.0}") }
}

fn errors(suite: &SuiteResult, out: &mut String) {
    let failed = suite.rows.iter().flat_map(|row| row.cells.iter().map(move |cell| (row, cell)));
    for (row, cell) in failed {
        if let Some(error) = &cell.error {
            let _ = writeln!(
                out,
                "\n**{} failed at {} with {} threads on {}**: {error}",
                cell.target, row.workload, row.threads, row.lower
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goal::tests::goal;
    use crate::results::tests::{cell, results, row};

    #[test]
    fn the_table_has_targets_ratios_and_noise() {
        let mut noisy = row("read-1m", 2, vec![cell("a", &[90.0, 110.0]), cell("b", &[100.0, 100.0])]);
        noisy.cells[0].slices[0].others = Some((0.9, 1.0));
        let mut failed = cell("b", &[]);
        failed.error = Some("no space".into());
        let quiet = row("stat", 1, vec![cell("a", &[4.0, 5.0, 6.0]), cell("b", &[8.0, 10.0, 12.0])]);
        let mut results = results(vec![quiet, noisy, row("open", 1, vec![cell("a", &[1.0]), failed])]);
        results.suites[0].goals.push(goal(0.75));
        results.suites[0].by_target = true;
        let text = markdown(&results);
        for needle in [
            "| lower | workload | threads | a | b | a/b | others |",
            "| tmpfs | stat | 1 | 5.0 (4.0) | 10.0 (8.0) | 0.50 [0.50, 0.50] | 1 % |",
            "| tmpfs | read-1m | 2 | 100.0 (90.0) | 100.0 (100.0) | 1.00 [0.95, 1.05] | **23 % noisy** |",
            "| tmpfs | open | 1 | 1.0 (1.0) | - | - | 1 % |",
            "| target | stat ×1, files/s | read-1m ×2, MB/s | open ×1, files/s |\n|---|--:|--:|--:|\n| a | 200000 | 41 | 1000000 |\n| b | 100000 | 41 | failed |\n",
            "- a/b, names and 4 KiB: geometric mean 0.50 of 1 rows, worst 0.50 (stat x1)",
            "- a/b, more than 4 KiB: geometric mean 1.00",
            "pinned to CPU 1",
            "| tmpfs | stat | 1 | b | 100000 | 41 | 10.0 | 20.0 | 30.0 | 2.5 | 7.5 | 1.00 | - | 2.00 | 5.0 | 0 |",
            "| tmpfs | stat | 1 | a/b | 0.50 [0.50, 0.50] | 2.00 [2.00, 2.00] | 0.50 [0.50, 0.50] | 0.50 [0.50, 0.50] | 1 % |",
            "| a is cheap | a/b, CPU µs per operation | read-1m ×2 on tmpfs | 1.00 [0.950, 1.05] | ≤ 0.75 | missed; 1 of 2 rows reach it; noisy |\n\n",
            "**b failed at open with 1 threads on tmpfs**: no space",
        ] {
            assert!(text.contains(needle), "`{needle}` is missing in:\n{text}");
        }
    }
}
