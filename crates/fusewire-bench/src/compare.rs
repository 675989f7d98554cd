//! Whether one result is worse than another beyond noise.
//!
//! A number is worse if its median is worse by more than a threshold, and its turns are worse than those before by
//! more than chance (a Mann-Whitney test). The threshold answers for what turns of one run do not show, such as
//! placement that stays as it is for the whole run. Rows that others disturbed are not judged.

use std::fmt::Write;

use anyhow::{Result, ensure};

use crate::goal::figure;
use crate::results::{Cell, Metric, Results, Row, SuiteResult};
use crate::stats;

/// Fewer turns than this on a side cannot show anything: all orders of four and four turns are too likely.
pub const LEAST_TURNS: usize = 5;

/// How to compare.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What is compared.
    pub metrics: Vec<Metric>,
    /// Share by which a median must be worse, such as 0.1.
    pub threshold: f64,
    /// How likely a difference may be by chance, at most.
    pub significance: f64,
    /// Compare each turn as a ratio to that of this target beside it, not by itself: for results from different machines
    /// or days.
    pub relative_to: Option<String>,
    /// Judge noisy rows too.
    pub with_noisy: bool,
}

/// What has become of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Better beyond noise.
    Better,
    /// No difference that can be told from noise.
    Same,
    /// Worse beyond noise: a regression.
    Worse,
    /// It worked before and does not any more.
    Fails,
    /// Others disturbed one of the two.
    Noisy,
    /// Not enough turns to tell.
    TooFew,
}

/// One number before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Which row: suite, lower, workload, threads.
    pub row: String,
    /// Name of the target.
    pub target: String,
    /// Which number.
    pub metric: Metric,
    /// Median before and after, `None` if there is none.
    pub medians: Option<(f64, f64)>,
    /// How likely the difference is by chance.
    pub chance: f64,
    /// What is made of it.
    pub verdict: Verdict,
}

/// All changes, and what could not be compared.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// One for each number that both have.
    pub changes: Vec<Change>,
    /// Rows and targets that only one of the two has.
    pub unmatched: Vec<String>,
    /// What makes the comparison doubtful.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// One word for the table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Same => "same",
            Self::Worse => "**WORSE**",
            Self::Fails => "**FAILS**",
            Self::Noisy => "noisy",
            Self::TooFew => "too few turns",
        }
    }
}

/// Compares two results.
///
/// # Errors
/// If they have nothing in common, so that nothing was compared.
pub fn compare(old: &Results, new: &Results, rules: &Rules) -> Result<Changes> {
    let mut changes = Changes { warnings: warnings(old, new), ..Changes::default() };
    for before in &old.suites {
        match new.suites.iter().find(|suite| suite.name == before.name) {
            Some(after) => compare_suites(before, after, rules, &mut changes),
            None => changes.unmatched.push(format!("only the old result has {}", before.name)),
        }
    }
    for after in new.suites.iter().filter(|after| old.suites.iter().all(|suite| suite.name != after.name)) {
        changes.unmatched.push(format!("only the new result has {}", after.name));
    }
    ensure!(!changes.changes.is_empty(), "the two results have no row and target in common");
    Ok(changes)
}

fn warnings(old: &Results, new: &Results) -> Vec<String> {
    let (a, b) = (&old.machine, &new.machine);
    let mut warnings = Vec::new();
    for (what, before, after) in
        [("kernel", &a.kernel, &b.kernel), ("CPU", &a.cpu, &b.cpu), ("architecture", &a.arch, &b.arch)]
    {
        if before != after {
            warnings.push(format!("the {what} was {before} and is {after}"));
        }
    }
    if a.cpus != b.cpus {
        warnings.push(format!("there were {} CPUs and are {}", a.cpus, b.cpus));
    }
    warnings
}

fn compare_suites(old: &SuiteResult, new: &SuiteResult, rules: &Rules, changes: &mut Changes) {
    if old.plan.scale != new.plan.scale || old.plan.pin != new.plan.pin || old.profile != new.profile {
        changes.warnings.push(format!("{} was run with another scale, profile or pinning", old.name));
    }
    let same_row =
        |a: &Row, b: &Row| (&a.lower, &a.workload, a.threads) == (&b.lower, &b.workload, b.threads);
    for before in &old.rows {
        let name = format!("{}/{} x{} on {}", old.name, before.workload, before.threads, before.lower);
        let Some(after) = new.rows.iter().find(|row| same_row(row, before)) else {
            changes.unmatched.push(format!("only the old result has {name}"));
            continue;
        };
        let is_noisy = before.is_noisy(old.plan.quiet) || after.is_noisy(new.plan.quiet);
        for cell in &before.cells {
            let Some(later) = after.cell(&cell.target) else {
                changes.unmatched.push(format!("only the old result has {} at {name}", cell.target));
                continue;
            };
            if rules.relative_to.as_deref() == Some(cell.target.as_str()) {
                continue;
            }
            for metric in &rules.metrics {
                let samples = (samples(before, cell, *metric, rules), samples(after, later, *metric, rules));
                let is_silent = samples.0.is_empty() && samples.1.is_empty();
                if is_silent && !cell.slices.is_empty() && !later.slices.is_empty() {
                    // Such as the user time of a target without a daemon.
                    continue;
                }
                let Some(mut change) = judge(*metric, (&samples.0, &samples.1), is_noisy, rules) else {
                    continue;
                };
                if later.error.is_some() && cell.error.is_none() {
                    change.verdict = Verdict::Fails;
                }
                changes.changes.push(Change { row: name.clone(), target: cell.target.clone(), ..change });
            }
        }
    }
    for after in &new.rows {
        if !old.rows.iter().any(|row| same_row(row, after)) {
            let name = format!("{}/{} x{}", new.name, after.workload, after.threads);
            changes.unmatched.push(format!("only the new result has {name} on {}", after.lower));
        }
    }
}

/// The numbers of a cell's turns, as ratios to those of another target if the rules say so.
fn samples(row: &Row, cell: &Cell, metric: Metric, rules: &Rules) -> Vec<f64> {
    let Some(base) = &rules.relative_to else {
        let numbers = cell.slices.iter().map(|slice| metric.of(slice));
        return numbers.filter(|number| number.is_finite()).collect();
    };
    row.ratios(cell, base, metric).into_iter().map(|(_, ratio)| ratio).collect()
}

/// `None` if there is nothing to judge, such as the memory of a target without a daemon.
fn judge(metric: Metric, (old, new): (&[f64], &[f64]), is_noisy: bool, rules: &Rules) -> Option<Change> {
    let median = |samples: &[f64]| stats::summary(samples.iter().copied()).map(|s| s.median);
    let medians = median(old).zip(median(new));
    let mut change = Change {
        row: String::new(),
        target: String::new(),
        metric,
        medians,
        chance: 1.0,
        verdict: Verdict::TooFew,
    };
    let Some((before, after)) = medians else { return Some(change) };
    if before <= 0.0 {
        return None;
    }
    let is_more = after > before;
    change.chance =
        if is_more { stats::chance_of_larger(new, old) } else { stats::chance_of_larger(old, new) };
    // A doubling and a halving are the same distance.
    let is_far = (after / before).max(before / after) > 1.0 + rules.threshold;
    change.verdict = if is_noisy && !rules.with_noisy {
        Verdict::Noisy
    } else if old.len() < LEAST_TURNS || new.len() < LEAST_TURNS {
        Verdict::TooFew
    } else if !is_far || change.chance > rules.significance {
        Verdict::Same
    } else if is_more == metric.is_better_high() {
        Verdict::Better
    } else {
        Verdict::Worse
    };
    Some(change)
}

impl Changes {
    /// How many have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.changes.iter().filter(|change| change.verdict == verdict).count()
    }

    /// The report, with all changes or only with those that are more than noise.
    pub fn markdown(&self, with_same: bool) -> String {
        let mut out = String::new();
        for warning in &self.warnings {
            let _ = writeln!(out, "Note: {warning}; consider --relative-to.");
        }
        let mut listed = self
            .changes
            .iter()
            .filter(|change| with_same || !matches!(change.verdict, Verdict::Same | Verdict::Noisy))
            .peekable();
        if listed.peek().is_some() {
            out.push_str("| row | target | what | old | new | new/old | by chance | verdict |\n|---|---|---|--:|--:|--:|--:|---|\n");
        }
        for change in listed {
            let (old, new, ratio) = match change.medians {
                Some((old, new)) => (figure(old), figure(new), format!("{:.2}", new / old)),
                None => ("-".into(), "-".into(), "-".into()),
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {old} | {new} | {ratio} | {:.4} | {} |",
                change.row,
                change.target,
                change.metric.title(),
                change.chance,
                change.verdict.word()
            );
        }
        for text in &self.unmatched {
            let _ = writeln!(out, "- {text}");
        }
        let counts: Vec<_> =
            [Verdict::Worse, Verdict::Fails, Verdict::Better, Verdict::Same, Verdict::Noisy, Verdict::TooFew]
                .into_iter()
                .filter(|verdict| self.count(*verdict) > 0)
                .map(|verdict| {
                    format!("{} {}", self.count(verdict), verdict.word().trim_matches('*').to_lowercase())
                })
                .collect();
        let _ = writeln!(out, "\n{} compared: {}.", self.changes.len(), counts.join(", "));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{cell, results, row};

    fn rules() -> Rules {
        Rules {
            metrics: vec![Metric::Cpu],
            threshold: 0.1,
            significance: 0.01,
            relative_to: None,
            with_noisy: false,
        }
    }

    /// Result with one row, in which target `a` has these CPU times and `b` always 10 µs, or a little more.
    fn with(cpu: &[f64]) -> Results {
        let b: Vec<f64> = (0..cpu.len()).map(|index| 10.0 + index as f64 / 100.0).collect();
        results(vec![row("stat", 1, vec![cell("a", cpu), cell("b", &b)])])
    }

    fn verdicts(old: &Results, new: &Results, rules: &Rules) -> Vec<(String, Verdict)> {
        let changes = compare(old, new, rules).unwrap();
        changes.changes.into_iter().map(|change| (change.target, change.verdict)).collect()
    }

    fn verdict(old: &[f64], new: &[f64], rules: &Rules) -> Verdict {
        verdicts(&with(old), &with(new), rules)[0].1
    }

    const BEFORE: [f64; 5] = [5.0, 5.1, 5.2, 5.05, 5.15];

    #[test]
    fn only_what_is_far_and_not_by_chance_is_a_change() {
        assert_eq!(verdict(&BEFORE, &[6.0, 6.1, 6.2, 6.05, 6.15], &rules()), Verdict::Worse);
        assert_eq!(verdict(&[6.0, 6.1, 6.2, 6.05, 6.15], &BEFORE, &rules()), Verdict::Better);
        // Surely more, but not much more.
        assert_eq!(verdict(&BEFORE, &[5.3, 5.31, 5.32, 5.33, 5.34], &rules()), Verdict::Same);
        // Much more in the median, but all over the place.
        assert_eq!(verdict(&BEFORE, &[4.0, 9.0, 6.0, 3.0, 6.5], &rules()), Verdict::Same);
        assert_eq!(verdict(&BEFORE, &[9.0, 9.1, 9.2], &rules()), Verdict::TooFew);
        assert_eq!(verdict(&BEFORE, &[], &rules()), Verdict::TooFew);
    }

    #[test]
    fn more_throughput_is_better() {
        let rules = Rules { metrics: vec![Metric::Throughput, Metric::P99], ..rules() };
        let slow = [6.0, 6.1, 6.2, 6.05, 6.15];
        let both = |old: &[f64], new: &[f64]| {
            verdicts(&with(old), &with(new), &rules)
                .iter()
                .take(2)
                .map(|(_, verdict)| *verdict)
                .collect::<Vec<_>>()
        };
        assert_eq!(both(&BEFORE, &slow), [Verdict::Worse, Verdict::Worse]);
        assert_eq!(both(&slow, &BEFORE), [Verdict::Better, Verdict::Better]);
    }

    #[test]
    fn noisy_rows_are_not_judged_unless_asked_for() {
        let mut new = with(&[9.0, 9.1, 9.2, 9.05, 9.15]);
        for slice in &mut new.suites[0].rows[0].cells[0].slices {
            slice.others = Some((0.9, 1.0));
        }
        let old = with(&BEFORE);
        assert_eq!(verdicts(&old, &new, &rules())[0].1, Verdict::Noisy);
        let rules = Rules { with_noisy: true, ..rules() };
        assert_eq!(verdicts(&old, &new, &rules)[0].1, Verdict::Worse);
    }

    #[test]
    fn a_slower_machine_is_no_regression_relative_to_a_target() {
        let mut new = with(&BEFORE.map(|cpu| cpu * 2.0));
        for slice in &mut new.suites[0].rows[0].cells[1].slices {
            slice.cpu_us *= 2.0;
        }
        let old = with(&BEFORE);
        assert_eq!(verdicts(&old, &new, &rules())[0], ("a".into(), Verdict::Worse));
        let rules = Rules { relative_to: Some("b".into()), ..rules() };
        assert_eq!(verdicts(&old, &new, &rules), [("a".into(), Verdict::Same)]);
    }

    #[test]
    fn what_does_not_work_any_more_fails() {
        let mut new = with(&BEFORE);
        new.suites[0].rows[0].cells[0].error = Some("broken".into());
        assert_eq!(verdicts(&with(&BEFORE), &new, &rules())[0].1, Verdict::Fails);
        assert_eq!(verdicts(&new, &new, &rules())[0].1, Verdict::Same, "it did not work before");
    }

    #[test]
    fn what_only_one_has_is_named() {
        let old = results(vec![
            row("stat", 1, vec![cell("a", &BEFORE), cell("c", &BEFORE)]),
            row("open", 1, vec![]),
        ]);
        let mut new = results(vec![row("stat", 1, vec![cell("a", &BEFORE)]), row("stat", 2, vec![])]);
        new.machine.kernel = "7.0".into();
        let changes = compare(&old, &new, &rules()).unwrap();
        let text = changes.markdown(true);
        for needle in [
            "only the old result has c at passthrough/stat x1 on tmpfs",
            "only the old result has passthrough/open x1 on tmpfs",
            "only the new result has passthrough/stat x2 on tmpfs",
            "the kernel was 6.18.0 and is 7.0",
            "| passthrough/stat x1 on tmpfs | a | CPU µs per operation | 5.10 | 5.10 | 1.00 |",
            "1 compared: 1 same.",
        ] {
            assert!(text.contains(needle), "`{needle}` is missing in:\n{text}");
        }
        assert!(!changes.markdown(false).contains("5.10"));
        assert!(compare(&old, &results(vec![]), &rules()).is_err(), "nothing in common");
    }
}
