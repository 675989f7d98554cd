//! The suite's own cases, embedded.

use crate::case::{Case, Need, parse};
use std::sync::LazyLock;

macro_rules! embed {
    ($($topic:literal)*) => { &[$(($topic, include_str!(concat!("../cases/", $topic, ".toml")))),*] };
}

/// Topic and text of every file in `cases/`.
pub(crate) static FILES: &[(&str, &str)] = embed! {
    "needs" "open" "tmpfile" "owner" "permission" "chmod" "times" "name" "rename" "directory" "data" "allocate" "map" "special" "xattr" "lock" "unlinked" "inotify"
};

static ALL: LazyLock<(Vec<Case>, Vec<Need>)> = LazyLock::new(|| {
    let mut all = (Vec::new(), Vec::new());
    for (topic, text) in FILES {
        // The files are part of this crate and a test reads each of them: a mistake here never reaches a user.
        let (cases, needs) = parse(topic, text).unwrap_or_else(|error| panic!("{error}"));
        all.0.extend(cases);
        all.1.extend(needs);
    }
    all
});

/// Every case of the suite.
pub fn cases() -> &'static [Case] {
    &ALL.0
}

/// Everything a directory may lack, with its probe.
pub fn needs() -> &'static [Need] {
    &ALL.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_is_embedded() {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
        let names = |p: std::fs::DirEntry| p.path().file_stem().unwrap().to_string_lossy().into_owned();
        let on_disk: BTreeSet<String> = std::fs::read_dir(here).unwrap().map(|e| names(e.unwrap())).collect();
        let embedded: BTreeSet<String> = FILES.iter().map(|(t, _)| (*t).to_owned()).collect();
        assert_eq!(on_disk, embedded);
    }

    #[test]
    fn names_are_unique_and_needs_exist() {
        let mut seen = BTreeSet::new();
        let known: BTreeSet<&str> = needs().iter().map(|n| n.probe.name.as_str()).collect();
        for case in cases().iter().chain(needs().iter().map(|n| &n.probe)) {
            assert!(seen.insert(&case.name), "{} twice", case.name);
            for need in &case.needs {
                assert!(known.contains(need.as_str()), "{}: no need is called {need}", case.name);
            }
        }
        assert!(cases().len() >= 200, "{} cases", cases().len());
    }

    #[test]
    fn programs_exist_and_are_used() {
        let mut used = 0;
        for step in cases().iter().flat_map(|c| &c.steps).filter(|s| s.operation == "program") {
            let name = step.args["name"].as_str().unwrap();
            assert!(crate::programs::find(name).is_some(), "{name}");
            used += 1;
        }
        assert_eq!(used, crate::programs::COUNT);
    }

    #[test]
    fn errnos_and_flags_in_steps_are_known() {
        for step in cases().iter().flat_map(|c| &c.steps) {
            if let Some(flags) = step.args.get("flags").and_then(|f| f.as_str()) {
                assert!(crate::words::flags(flags).is_ok(), "{}", step.text);
            }
        }
    }
}
