//! Requests by operation, as fusewire's daemon counts them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::results::Row;
use crate::stats;

/// Number of requests by the name of their operation.
pub type Requests = BTreeMap<String, u64>;

/// What is read of `fusewire stats --json`.
#[derive(Deserialize)]
struct Report {
    operations: Vec<Operation>,
}

#[derive(Deserialize)]
struct Operation {
    name: String,
    requests: u64,
}

/// What the daemon of a mount was asked for so far; `program` is the one that serves it.
///
/// # Errors
/// If it does not tell.
pub fn of_mount(program: &str, mount: &Path) -> Result<Requests> {
    let told = Command::new(program)
        .args(["stats", "--json"])
        .arg(mount)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let said = String::from_utf8_lossy(&told.stderr);
    ensure!(told.status.success(), "requests cannot be counted: {program} stats said: {}", said.trim());
    let report: Report = serde_json::from_slice(&told.stdout).with_context(|| {
        format!("requests cannot be counted: {program} stats does not print what it should")
    })?;
    Ok(report.operations.into_iter().map(|operation| (operation.name, operation.requests)).collect())
}

/// What came between two counts.
pub fn between(before: &Requests, after: &Requests) -> Requests {
    let more = |(name, count): (&String, &u64)| {
        let more = count.saturating_sub(before.get(name).copied().unwrap_or(0));
        (more > 0).then(|| (name.clone(), more))
    };
    after.iter().filter_map(more).collect()
}

/// Adds up.
pub fn add(sum: &mut Requests, more: &Requests) {
    for (name, count) in more {
        *sum.entry(name.clone()).or_default() += count;
    }
}

/// Requests by operation in one row, of each target that counts them.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Names of the targets.
    pub targets: Vec<String>,
    /// Operations, and the requests of one operation of the workload for each target: the median of the turns. What the first
    /// target is asked for most stands first.
    pub lines: Vec<(String, Vec<f64>)>,
    /// All operations together.
    pub totals: Vec<f64>,
}

impl Chart {
    /// `None` if nobody counts in this row.
    pub fn of(row: &Row) -> Option<Self> {
        let counts = |cell: &crate::results::Cell| cell.slices.iter().any(|slice| slice.requests.is_some());
        let cells: Vec<_> = row.cells.iter().filter(|cell| counts(cell)).collect();
        if cells.is_empty() {
            return None;
        }
        let number = |cell: &crate::results::Cell, name: Option<&str>| {
            let of_slice = |slice: &crate::results::Slice| {
                let requests = slice.requests.as_ref()?;
                let count = match name {
                    Some(name) => requests.get(name).copied().unwrap_or(0),
                    None => requests.values().sum(),
                };
                Some(count as f64 / slice.ops.max(1) as f64)
            };
            stats::summary(cell.slices.iter().filter_map(of_slice)).map_or(0.0, |summary| summary.median)
        };
        let mut names: Vec<&String> = cells
            .iter()
            .flat_map(|cell| &cell.slices)
            .flat_map(|slice| slice.requests.iter().flat_map(BTreeMap::keys))
            .collect();
        names.sort();
        names.dedup();
        let line = |name: &&String| {
            ((*name).clone(), cells.iter().map(|cell| number(cell, Some(name))).collect::<Vec<_>>())
        };
        let mut lines: Vec<(String, Vec<f64>)> = names.iter().map(line).collect();
        let weight = |line: &(String, Vec<f64>)| (line.1[0], line.1.iter().sum::<f64>());
        lines.sort_by(|a, b| weight(b).0.total_cmp(&weight(a).0).then(weight(b).1.total_cmp(&weight(a).1)));
        let totals = cells.iter().map(|cell| number(cell, None)).collect();
        let targets = cells.iter().map(|cell| cell.target.clone()).collect();
        Some(Self { targets, lines, totals })
    }

    /// Each line with the totals below, as text; behind the number of a later target, how often it goes into the first.
    pub fn text(&self) -> Vec<Vec<String>> {
        let total = ("**all**".to_owned(), self.totals.clone());
        let line = |(name, numbers): &(String, Vec<f64>)| {
            let first = numbers.first().copied().unwrap_or(0.0);
            let cell = |(index, number): (usize, &f64)| {
                let text =
                    if number.fract() == 0.0 { format!("{number:.0}") } else { format!("{number:.1}") };
                match () {
                    () if index == 0 || first == 0.0 => text,
                    () if *number == 0.0 => "-".into(),
                    () => format!("{text} (1/{:.1})", first / number),
                }
            };
            std::iter::once(name.clone()).chain(numbers.iter().enumerate().map(cell)).collect()
        };
        self.lines.iter().chain(std::iter::once(&total)).map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{cell, row};

    fn requests(list: &[(&str, u64)]) -> Requests {
        list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn only_what_came_between_counts() {
        let before = requests(&[("LOOKUP", 5), ("OPEN", 2)]);
        let after = requests(&[("LOOKUP", 9), ("OPEN", 2), ("READ", 3)]);
        let mut sum = between(&before, &after);
        assert_eq!(sum, requests(&[("LOOKUP", 4), ("READ", 3)]));
        add(&mut sum, &requests(&[("READ", 1), ("WRITE", 1)]));
        assert_eq!(sum, requests(&[("LOOKUP", 4), ("READ", 4), ("WRITE", 1)]));
    }

    #[test]
    fn the_chart_has_all_operations_and_targets_that_count() {
        let mut all = cell("uncached", &[1.0, 1.0, 1.0]);
        let mut few = cell("cached", &[1.0]);
        for (slice, lookups) in all.slices.iter_mut().zip([1000, 1200, 1100]) {
            slice.requests = Some(requests(&[("LOOKUP", lookups), ("READ", 2000)]));
            slice.ops = 1;
        }
        few.slices[0].requests = Some(requests(&[("LOOKUP", 110), ("FLUSH", 3)]));
        few.slices[0].ops = 1;
        let chart = Chart::of(&row("build", 2, vec![cell("native", &[1.0]), all, few])).unwrap();
        assert_eq!(chart.targets, ["uncached", "cached"]);
        assert_eq!(chart.totals, [3100.0, 113.0]);
        assert_eq!(
            chart.text(),
            [
                vec!["READ", "2000", "-"],
                vec!["LOOKUP", "1100", "110 (1/10.0)"],
                vec!["FLUSH", "0", "3"],
                vec!["**all**", "3100", "113 (1/27.4)"],
            ]
        );
        assert_eq!(Chart::of(&row("build", 2, vec![cell("native", &[1.0])])), None);
    }

    #[test]
    fn a_program_that_cannot_tell_is_an_error_with_what_it_said() {
        let error = of_mount("/bin/false", Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("requests cannot be counted"), "{error}");
        let error = format!("{:#}", of_mount("/bin/echo", Path::new("/")).unwrap_err());
        assert!(error.contains("does not print what it should"), "{error}");
    }
}
