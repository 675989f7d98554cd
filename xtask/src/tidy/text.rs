//! Rules about lines of any text file.

use super::Finding;

/// Marks of unfinished work, in pieces so that this file does not find itself.
const UNFINISHED: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("unimplemented", "!("), concat!("todo", "!(")];

/// Paths that mean something on one machine only.
const MACHINE: &[&str] = &[concat!("/wo", "rk/"), concat!("/tmp/", "target")];

/// Names that say nothing about what is in the file.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc", "manager"];

/// Files that are made by programs, or hold data in which blanks count.
fn is_data(name: &str) -> bool {
    name.ends_with(".lock")
        || name.starts_with("LICENSE")
        || name.contains("/corpus/")
        || name.contains("/seeds/")
        || name.contains("/golden/")
        || name.ends_with(".1")
}

pub fn check(name: &str, content: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let stem = name.rsplit('/').next().and_then(|file| file.split('.').next()).unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) {
        findings.push(Finding::new(1, format!("a file named {stem} says nothing about what is in it")));
    }
    if is_data(name) {
        return findings;
    }
    for (number, line) in (1..).zip(content.lines()) {
        if line.ends_with([' ', '\t']) {
            findings.push(Finding::new(number, "blank at the end of the line"));
        }
        if line.contains('\r') {
            findings.push(Finding::new(number, "carriage return"));
        }
        let unfinished = UNFINISHED.iter().find(|mark| line.contains(**mark));
        if let Some(mark) = unfinished {
            findings.push(Finding::new(number, format!("{mark}: finish it, or open an issue")));
        }
        if let Some(path) = MACHINE.iter().find(|path| line.contains(**path)) {
            findings.push(Finding::new(number, format!("{path} is a path of one machine")));
        }
    }
    if !content.is_empty() && !content.ends_with('\n') {
        findings.push(Finding::new(content.lines().count(), "no newline at the end of the file"));
    }
    if content.ends_with("\n\n") {
        findings.push(Finding::new(content.lines().count(), "empty line at the end of the file"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(name: &str, content: &str) -> Vec<usize> {
        check(name, content).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn each_rule_finds_its_line() {
        assert_eq!(lines("a.md", "fine\nblank \ntab\t\n"), [2, 3]);
        assert_eq!(lines("a.rs", &format!("fine\n// {} later\n", UNFINISHED[0])), [2]);
        assert_eq!(lines("a.sh", &format!("cd {}main\n", MACHINE[0])), [1]);
        assert_eq!(lines("a.rs", "no newline"), [1]);
        assert_eq!(lines("a.rs", "x\n\n"), [2]);
        assert_eq!(lines("src/util.rs", "x\n"), [1]);
    }

    #[test]
    fn good_files_and_data_pass() {
        assert_eq!(lines("a.rs", "fn main() {}\n"), Vec::<usize>::new());
        assert_eq!(lines("empty", ""), Vec::<usize>::new());
        assert_eq!(lines("tests/golden/bytes.txt", "blank \n"), Vec::<usize>::new());
    }
}
