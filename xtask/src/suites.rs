//! The long forms of single suites.

use crate::{ci, setup};
use anyhow::{Context, Result};

/// Runs the tests of one suite in full; `words` go to nextest.
pub fn run(suite: &str, words: &[&str]) -> Result<()> {
    let filter = match suite {
        "pjdfstest" | "fsx" => format!("test(/^suites::.*::{suite}_/)"),
        "coherent" => "test(/^(coherent|by_file)::/)".to_owned(),
        "faults" => "test(/^(faults|limits|lower)::/)".to_owned(),
        suite => format!("test(/^{suite}::/)"),
    };
    let own = ["--package", "fusewire-tests", "--test", "blackbox", "--filterset", &filter];
    black_box(&[&own, words].concat(), &[("FUSEWIRE_TEST_FULL", "1")])
}

/// Work of every kind on one mount for some minutes.
pub fn soak(words: &[&str]) -> Result<()> {
    let minutes = match words {
        [] => 30,
        [minutes, ..] => {
            minutes.parse::<u32>().with_context(|| format!("{minutes:?} is no number of minutes"))?
        }
    };
    let minutes = minutes.to_string();
    let own = ["--package", "fusewire-tests", "--test", "blackbox", "--run-ignored", "only", "--no-capture"];
    let filter = ["--filterset", "test(/^soak::/)"];
    black_box(&[&own[..], &filter].concat(), &[("FUSEWIRE_SOAK_MINUTES", &minutes)])
}

fn black_box(words: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    setup::run()?;
    ci::build()?;
    ci::nextest(words, variables)
}
