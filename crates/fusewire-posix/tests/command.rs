//! The binary: exit statuses and output.

use std::process::{Command, Output};

fn command(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fusewire-posix")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn clean_is_0_with_json_on_the_standard_output() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let out = command(&["--json", "--filter", "rename-kinds", dir.path().to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["passed"], 1);
    assert_eq!(json["results"][0]["name"], "rename-kinds");
}

#[test]
fn failures_are_1_and_explained() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = dir.path().join("own.toml");
    let case = "[[case]]\nname = \"own\"\nrule = \"a rule of my own\"\nsource = \"me\"\nsteps = [{ do = \"rmdir\", path = \"x\" }]\n";
    std::fs::write(&file, case).unwrap();
    let out = command(&["--cases", file.to_str().unwrap(), dir.path().to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let report = text(&out.stdout);
    for part in [
        "FAILED own (own)",
        "a rule of my own [me]",
        "1 of 1: rmdir path=\"x\"",
        "success",
        "ENOENT (No such file",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert_eq!(text(&out.stderr), "FAILED own\n");
}

#[test]
fn wrong_use_is_2() {
    let missing = command(&["/no/such/directory"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("/no/such/directory: ENOENT"), "{missing:?}");
    assert_eq!(command(&[]).status.code(), Some(2));
    assert_eq!(command(&["--skip", "name-without-reason", "/"]).status.code(), Some(2));
    assert_eq!(command(&["--skip", "no-such-case=because", "/"]).status.code(), Some(2));
    assert_eq!(command(&["--cases", "/no/such.toml", "/"]).status.code(), Some(2));
}

#[test]
fn lists() {
    let cases = text(&command(&["--list"]).stdout);
    assert!(cases.contains("rename-exchange (rename) needs exchange"), "{cases}");
    assert!(cases.contains("need xattr"));
    assert!(text(&command(&["--operations"]).stdout).contains("rename2 [from to flags]"));
}

/// The README's example is a case that runs, and its table names every option.
#[test]
fn the_readme_is_true() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = dir.path().join("example.toml");
    let example = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    std::fs::write(&file, example).unwrap();
    let out = command(&["--cases", file.to_str().unwrap(), dir.path().to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let help = text(&command(&["--help"]).stdout);
    let words = help.split_whitespace().filter(|w| w.starts_with("--"));
    let options = words.map(|w| w.trim_end_matches(|c: char| !c.is_ascii_lowercase()));
    for option in options.filter(|o| !matches!(*o, "--help" | "--version")) {
        assert!(readme.contains(&format!("`{option}")), "{option} is not in the README");
    }
}
