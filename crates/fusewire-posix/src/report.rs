//! What came out of a run, as text and as JSON.

use crate::world::Failure;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Outcome {
    /// Every step did what it should.
    Passed,
    /// A step did not.
    Failed(Box<Failure>),
    /// It was not run.
    Skipped {
        /// Why not.
        reason: String,
    },
}

/// One case's result.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct CaseResult {
    /// The case's name; `need-NAME` for a probe that failed in a way that says more than "not there".
    pub name: String,
    /// The file it comes from.
    pub topic: String,
    /// The rule it checks.
    pub rule: String,
    /// Where the rule is written.
    pub source: String,
    /// Time taken, in microseconds.
    pub micros: u64,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The directory tested.
    pub directory: PathBuf,
    /// Filesystem type and device as the mount table names them.
    pub filesystem: String,
    /// Effective user id of the run.
    pub uid: u32,
    /// Results in the order of the suite.
    pub results: Vec<CaseResult>,
}

impl Report {
    /// How many cases passed.
    pub fn passed(&self) -> usize {
        self.results.iter().filter(|r| r.outcome == Outcome::Passed).count()
    }

    /// Results that failed.
    pub fn failures(&self) -> impl Iterator<Item = &CaseResult> {
        self.results.iter().filter(|r| matches!(r.outcome, Outcome::Failed(_)))
    }

    /// Names and reasons of what was skipped.
    pub fn skipped(&self) -> impl Iterator<Item = (&str, &str)> {
        self.results.iter().filter_map(|r| match &r.outcome {
            Outcome::Skipped { reason } => Some((r.name.as_str(), reason.as_str())),
            _ => None,
        })
    }

    /// True when nothing failed and something passed.
    pub fn is_clean(&self) -> bool {
        self.failures().next().is_none() && self.passed() > 0
    }

    /// The report as JSON: what [`Report`] holds, and the three counts.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).unwrap_or_default();
        json["passed"] = self.passed().into();
        json["failed"] = self.failures().count().into();
        json["skipped"] = self.skipped().count().into();
        json
    }

    /// Panics with the failures' text unless the run is clean: for use in a test.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "{self}");
    }
}

impl fmt::Display for Report {
    /// Failures in full, skipped cases grouped by reason, counts last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for result in self.failures() {
            writeln!(f, "{result}")?;
        }
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for (name, reason) in self.skipped() {
            match reasons.iter_mut().find(|(r, _)| *r == reason) {
                Some((_, names)) => names.push(name),
                None => reasons.push((reason, vec![name])),
            }
        }
        for (reason, names) in reasons {
            let more = if names.len() > 3 { ", .." } else { "" };
            writeln!(
                f,
                "skipped {}: {reason} ({}{more})",
                names.len(),
                names[..names.len().min(3)].join(", ")
            )?;
        }
        let (failed, skipped) = (self.failures().count(), self.skipped().count());
        write!(
            f,
            "{} on {}: {} passed, {failed} failed, {skipped} skipped",
            self.directory.display(),
            self.filesystem,
            self.passed()
        )
    }
}

impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Passed => write!(f, "ok {} ({:?})", self.name, Duration::from_micros(self.micros)),
            Outcome::Skipped { reason } => write!(f, "skipped {}: {reason}", self.name),
            Outcome::Failed(failure) => {
                writeln!(f, "FAILED {} ({})", self.name, self.topic)?;
                writeln!(f, "  rule:     {} [{}]", self.rule, self.source)?;
                match failure.step {
                    0 => writeln!(f, "  step:     {}", failure.text)?,
                    step => writeln!(f, "  step:     {step} of {}: {}", failure.of, failure.text)?,
                }
                if let Some(note) = &failure.note {
                    writeln!(f, "  note:     {note}")?;
                }
                writeln!(f, "  expected: {}", failure.expected)?;
                write!(f, "  got:      {}", failure.got)
            }
        }
    }
}
