//! Whether one result is worse than another beyond noise.
//!
//! A number is worse if its turns are worse than those before by more than a threshold, and that by more than chance: what
//! a Mann-Whitney test says of turns that are better by the threshold than they were. So numbers that lie far apart within
//! a run must lie further apart between two. The threshold answers for what turns of one run do not show, such as
//! placement that stays as it is for the whole run; tails of latencies, which show that most, must be worse by twice as
//! much. Rows that others disturbed are not judged.

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
    /// Share by which a number must be worse, such as 0.1; those of tails by twice that.
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
    /// Suites, rows, targets and numbers that only the old result has.
    pub missing: Vec<String>,
    /// Those that only the new one has.
    pub added: Vec<String>,
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
            Some(after) => compare_suites((before, after), rules, &mut changes),
            None => changes.missing.push(before.name.clone()),
        }
    }
    for after in new.suites.iter().filter(|after| old.suites.iter().all(|suite| suite.name != after.name)) {
        changes.added.push(after.name.clone());
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

fn compare_suites((old, new): (&SuiteResult, &SuiteResult), rules: &Rules, changes: &mut Changes) {
    if old.plan.scale != new.plan.scale || old.plan.pin != new.plan.pin || old.profile != new.profile {
        changes.warnings.push(format!("{} was run with another scale, profile or pinning", old.name));
    }
    changes.missing.extend(targets_only_in(old, new));
    changes.added.extend(targets_only_in(new, old));
    for before in &old.rows {
        let name = row_name(old, before);
        let Some(after) = new.rows.iter().find(|row| is_same_row(row, before)) else {
            changes.missing.push(name);
            continue;
        };
        let is_noisy = before.is_noisy(old.plan.quiet) || after.is_noisy(new.plan.quiet);
        for cell in &before.cells {
            match after.cell(&cell.target) {
                Some(later) if has_lost_its_turns(cell, later) => {
                    changes.missing.push(format!("turns of {} at {name}", cell.target));
                }
                Some(later) => {
                    let both = Both { row: &name, old: (before, cell), new: (after, later), is_noisy };
                    both.compare(rules, changes);
                }
                None if has_target(new, &cell.target) => {
                    changes.missing.push(format!("{} at {name}", cell.target));
                }
                // Told once, not at each row.
                None => {}
            }
        }
    }
    for after in new.rows.iter().filter(|after| !old.rows.iter().any(|row| is_same_row(row, after))) {
        changes.added.push(row_name(new, after));
    }
}

fn row_name(suite: &SuiteResult, row: &Row) -> String {
    format!("{}/{} x{} on {}", suite.name, row.workload, row.threads, row.lower)
}

fn is_same_row(a: &Row, b: &Row) -> bool {
    (&a.lower, &a.workload, a.threads) == (&b.lower, &b.workload, b.threads)
}

fn has_target(suite: &SuiteResult, target: &str) -> bool {
    suite.rows.iter().any(|row| row.cell(target).is_some())
}

/// Targets with a cell anywhere in `suite` that have none in `other`.
fn targets_only_in(suite: &SuiteResult, other: &SuiteResult) -> Vec<String> {
    let mut names: Vec<&str> = Vec::new();
    for cell in suite.rows.iter().flat_map(|row| &row.cells) {
        if !names.contains(&cell.target.as_str()) && !has_target(other, &cell.target) {
            names.push(&cell.target);
        }
    }
    names.into_iter().map(|target| format!("the target {target} in {}", suite.name)).collect()
}

/// Whether the run was ended before its first turn there, as by an interrupt.
fn has_lost_its_turns(old: &Cell, new: &Cell) -> bool {
    !old.slices.is_empty() && new.slices.is_empty() && new.error.is_none()
}

/// One target at one row, in both results.
struct Both<'a> {
    row: &'a str,
    old: (&'a Row, &'a Cell),
    new: (&'a Row, &'a Cell),
    is_noisy: bool,
}

impl Both<'_> {
    fn compare(&self, rules: &Rules, changes: &mut Changes) {
        let ((_, cell), (_, later)) = (self.old, self.new);
        let (row, target) = (self.row.to_owned(), cell.target.clone());
        if later.error.is_some() && cell.error.is_none() {
            // Whatever its numbers were until then; once for all of them.
            let metric = rules.metrics.first().copied().unwrap_or(Metric::Cpu);
            let medians = median(&numbers(cell, metric)).zip(median(&numbers(later, metric)));
            changes.changes.push(Change {
                row,
                target,
                metric,
                medians,
                chance: 1.0,
                verdict: Verdict::Fails,
            });
            return;
        }
        if rules.relative_to.as_deref() == Some(target.as_str()) {
            return;
        }
        for metric in rules.metrics.iter().copied() {
            match (numbers(cell, metric).is_empty(), numbers(later, metric).is_empty()) {
                // Such as the user time of a target without a daemon.
                (true, true) if !cell.slices.is_empty() => {}
                (false, true) => {
                    changes.missing.push(format!("{} of {target} at {row}", metric.title()));
                }
                _ => changes.changes.extend(self.judge(metric, rules)),
            }
        }
    }

    /// `None` if there is nothing to judge, such as the memory of a target without a daemon.
    fn judge(&self, metric: Metric, rules: &Rules) -> Option<Change> {
        let (old, new) = (samples(self.old, metric, rules), samples(self.new, metric, rules));
        let medians = median(&old).zip(median(&new));
        let mut change = Change {
            row: self.row.to_owned(),
            target: self.old.1.target.clone(),
            metric,
            medians,
            chance: 1.0,
            verdict: Verdict::TooFew,
        };
        let Some((before, after)) = medians else { return Some(change) };
        if before <= 0.0 && after <= 0.0 {
            return None;
        }
        let is_more = after > before;
        let (more, less) = if is_more { (&new, &old) } else { (&old, &new) };
        let least = if rules.relative_to.is_some() { 0.0 } else { metric.least() };
        // A doubling and a halving are the same distance.
        let far = 1.0 + if metric.is_tail() { 2.0 * rules.threshold } else { rules.threshold };
        let [more, less] = [more, less].map(|side| side.iter().map(|one| one.max(least)).collect::<Vec<_>>());
        let nearer: Vec<f64> = more.iter().map(|number| number / far).collect();
        change.chance = stats::chance_of_larger(&nearer, &less);
        change.verdict = if self.is_noisy && !rules.with_noisy {
            Verdict::Noisy
        } else if old.len() < LEAST_TURNS || new.len() < LEAST_TURNS {
            Verdict::TooFew
        } else if change.chance > rules.significance || median(&nearer) <= median(&less) {
            Verdict::Same
        } else if is_more == metric.is_better_high() {
            Verdict::Better
        } else {
            Verdict::Worse
        };
        Some(change)
    }
}

fn median(samples: &[f64]) -> Option<f64> {
    stats::summary(samples.iter().copied()).map(|summary| summary.median)
}

/// The numbers of a cell's turns.
fn numbers(cell: &Cell, metric: Metric) -> Vec<f64> {
    cell.slices.iter().map(|slice| metric.of(slice)).filter(|number| number.is_finite()).collect()
}

/// The same, as ratios to those of another target if the rules say so.
fn samples((row, cell): (&Row, &Cell), metric: Metric, rules: &Rules) -> Vec<f64> {
    let Some(base) = &rules.relative_to else { return numbers(cell, metric) };
    let least = metric.least();
    let ratio = |number: f64, base: f64| match (number.is_finite(), base.is_finite()) {
        (true, true) => number.max(least) / base.max(least),
        _ => f64::NAN,
    };
    row.beside(cell, base, metric, ratio).into_iter().map(|(_, ratio)| ratio).collect()
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
                Some((old, new)) if old > 0.0 => (figure(old), figure(new), format!("{:.2}", new / old)),
                Some((old, new)) => (figure(old), figure(new), "-".into()),
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
        for (which, texts) in [("old", &self.missing), ("new", &self.added)] {
            for text in texts {
                let _ = writeln!(out, "- only the {which} result has {text}");
            }
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
    }

    /// Turns that lie far apart, as tails of latencies do, must be further from those before to count.
    #[test]
    fn the_threshold_must_be_passed_beyond_the_spread() {
        let wide = [10.0, 14.0, 11.0, 13.0, 12.0];
        // All above those before, and the median a quarter.
        assert_eq!(verdict(&wide, &[14.5, 14.8, 15.0, 15.2, 15.3], &rules()), Verdict::Same);
        assert_eq!(verdict(&wide, &[15.5, 15.8, 16.0, 16.2, 16.3], &rules()), Verdict::Worse);
        let eager = Rules { threshold: 0.0, ..rules() };
        assert_eq!(verdict(&wide, &[14.5, 14.8, 15.0, 15.2, 15.3], &eager), Verdict::Worse);
        // A sixth more, and no spread to speak of: enough for a median of the latency, not for its tail.
        let latency = |metric| Rules { metrics: vec![metric], ..rules() };
        let more = [6.0, 6.1, 6.2, 6.05, 6.15];
        assert_eq!(verdict(&BEFORE, &more, &latency(Metric::P50)), Verdict::Worse);
        assert_eq!(verdict(&BEFORE, &more, &latency(Metric::P99)), Verdict::Same);
    }

    #[test]
    fn a_number_that_was_0_can_become_worse() {
        let with_switches = |switches: [f64; 5]| {
            let mut results = with(&BEFORE);
            for (slice, switches) in results.suites[0].rows[0].cells[0].slices.iter_mut().zip(switches) {
                slice.switches = switches;
            }
            results
        };
        let rules = Rules { metrics: vec![Metric::Switches], ..rules() };
        let none = with_switches([0.0; 5]);
        let all = |old: &Results, new: &Results, rules: &Rules| {
            let verdicts = verdicts(old, new, rules);
            verdicts.into_iter().find(|(target, _)| target == "a").map(|(_, verdict)| verdict)
        };
        let many = with_switches([50.0, 51.0, 50.0, 52.0, 50.0]);
        assert_eq!(all(&none, &many, &rules), Some(Verdict::Worse));
        assert_eq!(all(&many, &none, &rules), Some(Verdict::Better));
        // More than none, and nothing to speak of.
        assert_eq!(all(&none, &with_switches([0.01, 0.02, 0.01, 0.03, 0.01]), &rules), Some(Verdict::Same));
        assert_eq!(all(&none, &none, &rules), None, "there is nothing");
        let text = compare(&none, &many, &rules).unwrap().markdown(false);
        assert!(text.contains("| a | context switches per operation | 0.00 | 50.0 | - |"), "{text}");
        let relative = Rules { relative_to: Some("b".into()), ..rules };
        assert_eq!(all(&none, &many, &relative), Some(Verdict::Worse));
    }

    #[test]
    fn more_throughput_is_better() {
        let rules = Rules { metrics: vec![Metric::Throughput, Metric::P99], ..rules() };
        let slow = [7.0, 7.1, 7.2, 7.05, 7.15];
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
        let many = Rules { metrics: Metric::RATIOS.to_vec(), ..rules() };
        let changes = compare(&with(&BEFORE), &new, &many).unwrap();
        assert_eq!(changes.count(Verdict::Fails), 1, "one thing does not work, whatever is measured of it");
        assert_eq!(verdicts(&new, &new, &rules())[0].1, Verdict::Same, "it did not work before");
    }

    #[test]
    fn what_only_one_has_is_named() {
        let old = results(vec![
            row("stat", 1, vec![cell("a", &BEFORE), cell("b", &BEFORE), cell("c", &BEFORE)]),
            row("stat", 3, vec![cell("b", &BEFORE), cell("c", &BEFORE), cell("d", &BEFORE)]),
            row("open", 1, vec![]),
        ]);
        let mut new = results(vec![
            row("stat", 1, vec![cell("a", &BEFORE), cell("b", &[])]),
            row("stat", 2, vec![]),
            row("stat", 3, vec![cell("d", &BEFORE), cell("e", &BEFORE)]),
        ]);
        for slice in &mut new.suites[0].rows[2].cells[0].slices {
            slice.user_us = None;
        }
        new.machine.kernel = "7.0".into();
        let rules = Rules { metrics: vec![Metric::Cpu, Metric::User], ..rules() };
        let changes = compare(&old, &new, &rules).unwrap();
        let missing = [
            "the target c in passthrough",
            "turns of b at passthrough/stat x1 on tmpfs",
            "b at passthrough/stat x3 on tmpfs",
            "daemon's user µs per operation of d at passthrough/stat x3 on tmpfs",
            "passthrough/open x1 on tmpfs",
        ];
        assert_eq!(changes.missing, missing);
        assert_eq!(changes.added, ["the target e in passthrough", "passthrough/stat x2 on tmpfs"]);
        let text = changes.markdown(true);
        for needle in [
            "- only the old result has the target c in passthrough\n",
            "- only the new result has passthrough/stat x2 on tmpfs\n",
            "the kernel was 6.18.0 and is 7.0",
            "| passthrough/stat x1 on tmpfs | a | CPU µs per operation | 5.10 | 5.10 | 1.00 |",
            "3 compared: 3 same.",
        ] {
            assert!(text.contains(needle), "`{needle}` is missing in:\n{text}");
        }
        assert!(!changes.markdown(false).contains("5.10"));
        assert!(compare(&old, &results(vec![]), &rules).is_err(), "nothing in common");
    }
}
