//! A line for each target: what it can do in each row at a glance, for suites that compare many.

use crate::results::{Cell, Row, SuiteResult};
use crate::workload::Op;

/// The table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByTarget {
    /// What stands above: the rows of the suite, each with its unit.
    pub head: Vec<String>,
    /// A target, and what it can do: medians of its turns.
    pub lines: Vec<(String, Vec<String>)>,
}

impl ByTarget {
    /// `None` if the suite does not ask for it.
    pub fn of(suite: &SuiteResult) -> Option<Self> {
        if !suite.by_target || suite.rows.is_empty() {
            return None;
        }
        let several_lower = suite.rows.iter().any(|row| row.lower != suite.rows[0].lower);
        let title = |row: &Row| {
            let lower = if several_lower { format!(" on {}", row.lower) } else { String::new() };
            format!("{} ×{}{lower}, {}", row.workload, row.threads, unit(suite, row).name())
        };
        let line = |target: &str| {
            let numbers = suite.rows.iter().map(|row| match row.cell(target) {
                Some(cell) => unit(suite, row).text(cell),
                None => "-".into(),
            });
            (target.to_owned(), numbers.collect())
        };
        Some(Self {
            head: suite.rows.iter().map(title).collect(),
            lines: suite.targets.iter().map(|target| line(&target.name)).collect(),
        })
    }
}

/// What a row is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Megabytes,
    Files,
    Operations,
}

fn unit(suite: &SuiteResult, row: &Row) -> Unit {
    let workload = suite.plan.workloads.iter().find(|workload| workload.name == row.workload);
    match workload.map(|workload| &workload.op) {
        Some(Op::Data { .. } | Op::Fio(_)) => Unit::Megabytes,
        None | Some(Op::Ping(_) | Op::Command(_) | Op::List) => Unit::Operations,
        Some(_) => Unit::Files,
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Megabytes => "MB/s",
            Self::Files => "files/s",
            Self::Operations => "per s",
        }
    }

    fn text(self, cell: &Cell) -> String {
        let number = cell.summary(|slice| match self {
            Self::Megabytes => slice.bytes as f64 / slice.seconds / 1e6,
            Self::Files | Self::Operations => slice.ops_per_s,
        });
        match (number, &cell.error) {
            (_, Some(_)) => "failed".into(),
            (None, None) => "-".into(),
            (Some(number), None) if number.median < 20.0 => format!("{:.1}", number.median),
            (Some(number), None) => format!("{:.0}", number.median),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{cell, results, row};

    #[test]
    fn each_target_has_a_line_and_each_row_a_unit() {
        let mut failed = cell("b", &[1.0]);
        failed.error = Some("no space".into());
        let rows = vec![
            row("stat", 1, vec![cell("a", &[5.0, 10.0, 20.0]), cell("b", &[10.0])]),
            row("read-1m", 4, vec![cell("a", &[1.0]), failed]),
            row("open", 1, vec![cell("a", &[1e5])]),
        ];
        let mut suite = results(rows).suites.remove(0);
        assert_eq!(ByTarget::of(&suite), None, "it was not asked for");
        suite.by_target = true;
        let table = ByTarget::of(&suite).unwrap();
        assert_eq!(table.head, ["stat ×1, files/s", "read-1m ×4, MB/s", "open ×1, files/s"]);
        let line = |index: usize| {
            let (target, numbers): &(String, Vec<String>) = &table.lines[index];
            (target.as_str(), numbers.iter().map(String::as_str).collect::<Vec<_>>())
        };
        // A slice moves 409,600 bytes in 10 ms.
        assert_eq!(line(0), ("a", vec!["100000", "41", "10.0"]));
        assert_eq!(line(1), ("b", vec!["100000", "failed", "-"]));
    }
}
