//! Goals: numbers that a workload file says should be reached, and whether they were.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::results::{Metric, Pair, Row, SuiteResult};
use crate::stats::{self, Summary};

/// One number to reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Goal {
    /// One line for people.
    pub about: String,
    /// The rows it is about; all workloads of the file if there are none.
    #[serde(default)]
    pub workloads: Vec<String>,
    /// Of them, those with these numbers of threads; all if there are none.
    #[serde(default)]
    pub threads: Vec<usize>,
    /// Name of the target of interest.
    pub subject: String,
    /// Name of the one it is compared with, turn by turn; without it, the number itself counts.
    pub baseline: Option<String>,
    /// Whether it is by how much more than the baseline's that counts, and not how many times as much.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub difference: bool,
    /// Which number.
    pub metric: Metric,
    /// The largest value that is good.
    pub at_most: Option<f64>,
    /// The smallest value that is good.
    pub at_least: Option<f64>,
    /// Whether each row has to reach it.
    #[serde(default)]
    pub rows: Rows,
}

/// How the rows of a goal are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rows {
    /// Each one has to reach it.
    #[default]
    Each,
    /// Their geometric mean has to.
    Mean,
}

/// What has become of a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Reached, by three quarters of the turns at least.
    Reached,
    /// Reached by the median, but the quartiles lie on both sides.
    JustReached,
    /// Missed by the median, but the quartiles lie on both sides.
    JustMissed,
    /// Missed, by three quarters of the turns at least.
    Missed,
    /// None of its rows was measured for its targets.
    NotMeasured,
}

/// One row of a goal, or their mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Which row: workload, threads, and what it lies on; or how many rows the mean is of.
    pub row: String,
    /// The number.
    pub summary: Summary,
    /// Whether others disturbed.
    pub is_noisy: bool,
    /// What has become of it.
    pub verdict: Verdict,
}

impl Goal {
    /// Checks that it makes sense in a file with these workloads.
    ///
    /// # Errors
    /// If not, with the key.
    pub fn check(&self, workloads: &[&str]) -> Result<()> {
        ensure!(
            self.at_most.is_some() != self.at_least.is_some(),
            "keys \"at-most\" and \"at-least\": one of them is needed and not both"
        );
        ensure!(self.bound() > 0.0 && self.bound().is_finite(), "the bound must be above 0");
        ensure!(
            !self.difference || self.baseline.is_some(),
            "key \"difference\": it needs a \"baseline\" to differ from"
        );
        for name in &self.workloads {
            ensure!(
                workloads.contains(&name.as_str()),
                "key \"workloads\": there is no workload {name} in the file"
            );
        }
        Ok(())
    }

    /// The bound as people write it.
    pub fn bound_text(&self) -> String {
        format!("{} {}", if self.at_most.is_some() { "≤" } else { "≥" }, self.bound())
    }

    /// What is measured, with its unit.
    pub fn what(&self) -> String {
        match &self.baseline {
            Some(baseline) => {
                let sign = if self.difference { " − " } else { "/" };
                format!("{}{sign}{baseline}, {}", self.subject, self.metric.title())
            }
            None => format!("{}, {}", self.subject, self.metric.title()),
        }
    }

    /// The two targets, if there are two.
    pub fn pair(&self) -> Option<Pair> {
        let baseline = self.baseline.clone()?;
        Some(Pair { subject: self.subject.clone(), baseline })
    }

    /// What was measured for it: each of its rows, worst first, or their mean.
    pub fn measured(&self, suite: &SuiteResult) -> Vec<Measured> {
        let rows: Vec<&Row> = suite.rows.iter().filter(|row| self.is_about(row)).collect();
        let quiet = suite.plan.quiet;
        let measured = |row: String, summary: Summary, is_noisy: bool| Measured {
            verdict: self.verdict(&summary),
            row,
            summary,
            is_noisy,
        };
        let each = |row: &&Row| {
            let summary = stats::summary(self.turns(row).into_iter().map(|(_, number)| number))?;
            let name = format!("{} ×{} on {}", row.workload, row.threads, row.lower);
            Some(measured(name, summary, row.is_noisy(quiet)))
        };
        let mut all: Vec<Measured> = match self.rows {
            Rows::Each => rows.iter().filter_map(each).collect(),
            Rows::Mean => {
                let mean = self.mean(&rows);
                let is_noisy = rows.iter().any(|row| row.is_noisy(quiet));
                mean.map(|(count, mean)| measured(format!("mean of {count} rows"), mean, is_noisy))
                    .into_iter()
                    .collect()
            }
        };
        let distance = |one: &Measured| match self.at_most {
            Some(_) => -one.summary.median,
            None => one.summary.median,
        };
        all.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        all
    }

    /// All of it in one word: that of its worst row.
    pub fn outcome(measured: &[Measured]) -> Verdict {
        measured.first().map_or(Verdict::NotMeasured, |worst| worst.verdict)
    }

    fn is_about(&self, row: &Row) -> bool {
        (self.workloads.is_empty() || self.workloads.contains(&row.workload))
            && (self.threads.is_empty() || self.threads.contains(&row.threads))
    }

    /// The number in each repetition that has one.
    fn turns(&self, row: &Row) -> Vec<(u32, f64)> {
        let Some(subject) = row.cell(&self.subject) else { return Vec::new() };
        match &self.baseline {
            None => subject.slices.iter().map(|slice| (slice.rep, self.metric.of(slice))).collect(),
            Some(baseline) if self.difference => row.differences(subject, baseline, self.metric),
            Some(baseline) => row.ratios(subject, baseline, self.metric),
        }
    }

    /// The geometric mean of the rows in each repetition that all of them have.
    fn mean(&self, rows: &[&Row]) -> Option<(usize, Summary)> {
        let turns: Vec<Vec<(u32, f64)>> =
            rows.iter().map(|row| self.turns(row)).filter(|turns| !turns.is_empty()).collect();
        let of_rep = |rep: u32| -> Option<f64> {
            let numbers: Option<Vec<f64>> = turns
                .iter()
                .map(|turns| turns.iter().find(|(other, _)| *other == rep).map(|(_, number)| *number))
                .collect();
            stats::geometric_mean(numbers?)
        };
        let reps = turns.first()?.iter().map(|(rep, _)| *rep);
        Some((turns.len(), stats::summary(reps.filter_map(of_rep))?))
    }

    fn bound(&self) -> f64 {
        self.at_most.or(self.at_least).unwrap_or(f64::NAN)
    }

    fn verdict(&self, summary: &Summary) -> Verdict {
        let bound = self.bound();
        let is_good = |number: f64| if self.at_most.is_some() { number <= bound } else { number >= bound };
        let quartiles = [is_good(summary.q1), is_good(summary.q3)];
        match (is_good(summary.median), quartiles) {
            (true, [true, true]) => Verdict::Reached,
            (true, _) => Verdict::JustReached,
            (false, [false, false]) => Verdict::Missed,
            (false, _) => Verdict::JustMissed,
        }
    }
}

impl Verdict {
    /// As it stands in a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::JustReached => "reached, within the spread",
            Self::JustMissed => "missed, within the spread",
            Self::Missed => "missed",
            Self::NotMeasured => "not measured",
        }
    }

    /// Whether the median is where it should be.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Reached | Self::JustReached)
    }
}

/// A number with about three digits, and with as many as it has before the point.
pub fn figure(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{number:.2}"),
        size if size >= 0.1 => format!("{number:.3}"),
        _ => format!("{number:.4}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::results::tests::{cell, results, row};

    /// That `a` takes at most so much of `b`.
    pub fn goal(at_most: f64) -> Goal {
        Goal {
            about: "a is cheap".into(),
            workloads: vec![],
            threads: vec![],
            subject: "a".into(),
            baseline: Some("b".into()),
            difference: false,
            metric: Metric::Cpu,
            at_most: Some(at_most),
            at_least: None,
            rows: Rows::Each,
        }
    }

    /// Two rows: in the first `a` takes half of `b`, in the second 0.7, 0.8 and 0.9 of it.
    fn suite() -> SuiteResult {
        let rows = vec![
            row("stat", 1, vec![cell("a", &[5.0, 5.0, 5.0]), cell("b", &[10.0, 10.0, 10.0])]),
            row("open", 2, vec![cell("a", &[7.0, 16.0, 9.0]), cell("b", &[10.0, 20.0, 10.0])]),
        ];
        results(rows).suites.remove(0)
    }

    #[test]
    fn the_worst_row_decides() {
        let suite = suite();
        for (bound, verdict) in [
            (0.9, Verdict::Reached),
            (0.82, Verdict::JustReached),
            (0.77, Verdict::JustMissed),
            (0.6, Verdict::Missed),
        ] {
            let measured = goal(bound).measured(&suite);
            assert_eq!((measured.len(), measured[0].row.as_str()), (2, "open ×2 on tmpfs"));
            assert_eq!(Goal::outcome(&measured), verdict, "{bound}");
            assert_eq!(measured[1].verdict, Verdict::Reached);
        }
    }

    #[test]
    fn a_mean_is_taken_turn_by_turn() {
        let measured = Goal { rows: Rows::Mean, ..goal(0.66) }.measured(&suite());
        assert_eq!(measured.len(), 1);
        assert_eq!(measured[0].row, "mean of 2 rows");
        let expected = (0.5_f64 * 0.8).sqrt();
        assert!((measured[0].summary.median - expected).abs() < 1e-9, "{measured:?}");
        assert_eq!(measured[0].verdict, Verdict::Reached);
    }

    #[test]
    fn rows_and_targets_that_are_not_there_are_not_measured() {
        let suite = suite();
        let gone = |goal: Goal| Goal::outcome(&goal.measured(&suite));
        assert_eq!(gone(Goal { threads: vec![3], ..goal(1.0) }), Verdict::NotMeasured);
        assert_eq!(gone(Goal { subject: "c".into(), ..goal(1.0) }), Verdict::NotMeasured);
        assert_eq!(gone(Goal { baseline: Some("c".into()), ..goal(1.0) }), Verdict::NotMeasured);
        let one = Goal { workloads: vec!["stat".into()], ..goal(0.5) };
        assert_eq!(one.measured(&suite).len(), 1);
        assert_eq!(gone(one), Verdict::Reached);
    }

    #[test]
    fn a_number_by_itself_can_be_a_goal() {
        let goal = Goal {
            baseline: None,
            metric: Metric::Throughput,
            at_most: None,
            at_least: Some(150_000.0),
            ..goal(1.0)
        };
        // 1e6 / 5 and 1e6 / 9 operations a second.
        let measured = goal.measured(&suite());
        assert_eq!(measured[0].row, "open ×2 on tmpfs");
        assert_eq!((measured[0].verdict, measured[1].verdict), (Verdict::Missed, Verdict::Reached));
        assert_eq!(
            (goal.bound_text().as_str(), goal.what().as_str()),
            ("≥ 150000", "a, operations per second")
        );
    }

    #[test]
    fn how_much_more_it_takes_can_be_a_goal() {
        let goal = Goal { subject: "b".into(), baseline: Some("a".into()), difference: true, ..goal(4.5) };
        let measured = goal.measured(&suite());
        // 10 − 5 each time; 10 − 7, 20 − 16 and 10 − 9.
        assert_eq!(measured[0].summary.median, 5.0);
        assert_eq!((measured[0].verdict, measured[1].verdict), (Verdict::Missed, Verdict::Reached));
        assert_eq!(measured[1].summary.median, 3.0);
        assert!(goal.what().starts_with("b − a, "), "{}", goal.what());
        let alone = Goal { baseline: None, ..goal };
        assert!(alone.check(&[]).unwrap_err().to_string().contains("\"baseline\""));
    }

    #[test]
    fn others_are_told() {
        let mut suite = suite();
        suite.rows[1].cells[0].slices[0].others = Some((0.9, 1.0));
        let noisy: Vec<_> = goal(1.0).measured(&suite).iter().map(|one| one.is_noisy).collect();
        assert_eq!(noisy, [true, false]);
    }
}
