//! The command as a shell sees it: texts, exit statuses, JSON. Nothing is mounted here.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

fn fusewire(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fusewire")).args(args).env_remove("RUST_LOG").output().expect("started")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// Asserts the exit status, and that standard error says all of `needles`.
fn assert_refused(output: &Output, status: i32, needles: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{text}");
    for needle in needles {
        assert!(text.contains(needle), "`{needle}` is missing in: {text}");
    }
}

#[test]
fn help_teaches_with_examples() {
    for (args, needles) in [
        (&["--help"][..], &["Examples:", "fusewire mount", "Exit status"][..]),
        (&["help"], &["mount", "unmount", "probe", "completions"]),
        (
            &["mount", "--help"],
            &["Examples:", "/etc/fstab", "allow_other", "SIGTERM", "--cache", "[default: auto]"],
        ),
        (&["help", "unmount"], &["--lazy", "--abort", "Examples:"]),
        (&["probe", "--help"], &["--json", "Nothing is changed"]),
    ] {
        let output = fusewire(args);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        for needle in needles {
            assert!(text.contains(needle), "{args:?}: `{needle}` is missing in: {text}");
        }
        assert!(
            !text.contains("report-ready") && !text.contains("offer-only"),
            "hidden options are shown: {text}"
        );
    }
    assert!(stdout(&fusewire(&["--version"])).starts_with("fusewire "));
    let long: Vec<_> = stdout(&fusewire(&["mount", "--help"])).lines().map(str::len).collect();
    assert!(long.iter().all(|len| *len <= 110), "{long:?}");
    // Text that is wrapped twice shows lines of one or two words in the middle of a paragraph.
    let text = stdout(&fusewire(&["mount", "--help"]));
    let notes: Vec<_> = text.split("Who may use the mount:").nth(1).expect("notes").lines().collect();
    let ragged = notes.windows(2).find(|pair| {
        (1..40).contains(&pair[0].trim().len()) && pair[1].starts_with("  ") && pair[0].starts_with("  ")
    });
    assert_eq!(ragged, None);
}

#[test]
fn a_negative_number_is_a_wrong_number() {
    for option in ["--entry-timeout", "--attr-timeout", "--negative-timeout"] {
        let output = fusewire(&["mount", option, "-1", "/a", "/b"]);
        assert_refused(&output, 2, &[option, "a number of seconds is needed"]);
    }
}

#[test]
fn wrong_command_lines_end_with_2() {
    for args in [
        &[][..],
        &["mount"],
        &["mount", "/a"],
        &["mount", "--cache", "some", "/a", "/b"],
        &["mount", "--threads", "0", "/a", "/b"],
        &["mount", "--max-write", "1T", "/a", "/b"],
        &["mount", "--attr-timeout", "-1", "/a", "/b"],
        &["mount", "--private", "--allow-other", "/a", "/b"],
        &["unmount"],
        &["unmount", "--lazy", "--abort", "/a"],
        &["remount", "/a"],
        &["--log", "fusewire=loud", "probe"],
    ] {
        let output = fusewire(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    let output = fusewire(&["mount", "-o", "ro,cahce=none", "/", "/nowhere"]);
    assert_refused(&output, 2, &["cahce=none", "not known", "cache="]);
    let output = fusewire(&["mount", "--log", "x=y=z", "/", "/nowhere"]);
    assert_refused(&output, 2, &["x=y=z", "not a log filter"]);
}

#[test]
fn what_cannot_be_mounted_is_explained() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (source, inside, file, missing) =
        (path("source"), path("source/inside"), path("file"), path("missing"));
    fs::create_dir_all(&inside).expect("made");
    fs::write(&file, "").expect("written");
    let mount = |source: &str, place: &str| fusewire(&["mount", source, place]);
    assert_refused(&mount(&missing, &inside), 1, &[&missing, "No such file", &format!("mkdir -p {missing}")]);
    assert_refused(&mount(&file, &inside), 1, &[&file, "Not a directory"]);
    assert_refused(&mount(&source, &file), 1, &[&file, "not a directory"]);
    assert_refused(&mount(&source, &inside), 1, &[&source, &inside, "would contain itself", "outside"]);
    assert_refused(&mount("none", &inside), 2, &["--fs mem none"]);
    let background = fusewire(&["mount", "--daemon", &missing, &inside]);
    assert_refused(&background, 1, &[&missing, "No such file"]);
    assert_eq!(stderr(&background).matches("cannot mount").count(), 1, "told once: {}", stderr(&background));
}

#[test]
fn a_dry_run_mounts_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let place = dir.path().display().to_string();
    for args in
        [&["mount", "--dry-run", "/usr", &place][..], &["mount", "--dry-run", "--daemon", "/usr", &place]]
    {
        let output = fusewire(args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("table");
    assert!(!mounts.contains(&place), "{mounts}");
}

#[test]
fn only_fuse_mounts_are_unmounted() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let place = dir.path().display().to_string();
    assert_refused(&fusewire(&["unmount", &place]), 1, &[&place, "nothing is mounted there"]);
    assert_refused(&fusewire(&["unmount", "/proc"]), 1, &["/proc", "not a FUSE", "umount /proc"]);
    let both = fusewire(&["unmount", &place, "/proc"]);
    assert_refused(&both, 1, &[&place, "/proc"]);
    assert!(fs::metadata("/proc/self").is_ok());
}

#[test]
fn mount8_gets_the_statuses_it_knows() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let place = dir.path().display().to_string();
    let call = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_fusewire"))
            .arg0("/sbin/mount.fuse.fusewire")
            .args(args)
            .output()
            .expect("started")
    };
    assert_refused(&call(&["/no/such", &place, "-o", "rw"]), 32, &["/no/such"]);
    assert_refused(&call(&["/usr", &place, "-o", "rw,cahce=none"]), 1, &["cahce=none"]);
    assert_refused(&call(&["/usr"]), 1, &["usage: mount.fuse.fusewire"]);
    let fake =
        call(&["/usr", &place, "-f", "-s", "-n", "-v", "-o", "rw,frobnicate,nofail", "-t", "fuse.fusewire"]);
    assert_eq!(fake.status.code(), Some(0), "{}", stderr(&fake));
    assert!(stderr(&fake).contains("frobnicate"), "sloppy options are told: {}", stderr(&fake));
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("table");
    assert!(!mounts.contains(&place), "a fake mount was made: {mounts}");
}

#[test]
fn probe_speaks_json() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let place = dir.path().display().to_string();
    let before = fs::read_to_string("/proc/self/mountinfo").expect("table");
    let output = fusewire(&["probe", "--json", &place]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["protocol"]["major"], 7);
    assert!(report["protocol"]["minor"].as_u64().is_some_and(|minor| minor >= 23), "{report}");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("release");
    assert_eq!(report["kernel"], release.trim());
    let ring = &report["channel"]["ring"];
    match report["channel"]["auto"].as_str() {
        Some("uring") => {
            assert_eq!(report["checks"]["ring"]["verdict"], "yes", "{report}");
            for number in ["queues", "threads", "payload", "entries", "memory"] {
                assert!(ring[number].as_u64().is_some_and(|number| number > 0), "{number}: {report}");
            }
        }
        Some("dev-fuse") => {
            assert!(ring.is_null() && report["checks"]["ring"]["verdict"] == "no", "{report}")
        }
        other => panic!("{other:?}: {report}"),
    }
    let resolved = fs::canonicalize(dir.path()).expect("canonical");
    assert_eq!(report["directory"]["path"], resolved.display().to_string());
    let checks = report["checks"].as_object().expect("checks");
    for key in
        ["device", "mount.direct", "mount.fusermount", "ring", "passthrough", "idmap", "bpf_lsm", "dir.acl"]
    {
        assert!(checks.contains_key(key), "{key} is missing");
    }
    for (key, check) in checks {
        let verdict = check["verdict"].as_str().expect("verdict");
        assert!(["yes", "no", "unknown"].contains(&verdict), "{key}: {verdict}");
        if verdict != "yes" {
            assert!(
                check["detail"].as_str().is_some_and(|detail| !detail.is_empty()),
                "{key} has no reason: {check}"
            );
        }
    }
    let limits = report["limits"].as_object().expect("limits");
    assert!(limits["max_write"]["value"].as_u64().is_some_and(|bytes| bytes >= 4096), "{report}");
    assert_eq!(fs::read_dir(&place).expect("listed").count(), 0, "probing left something in the directory");
    let after = fs::read_to_string("/proc/self/mountinfo").expect("table");
    assert!(!after.contains("fusewire-probe"), "probing left a mount: before {before}, after {after}");
}

#[test]
fn probe_needs_a_directory_that_exists() {
    assert_refused(&fusewire(&["probe", "/no/such/place"]), 1, &["/no/such/place", "No such file"]);
    assert_refused(&fusewire(&["probe", "/etc/passwd"]), 1, &["/etc/passwd", "Not a directory"]);
    let short = stdout(&fusewire(&["probe"]));
    assert!(short.contains("FUSE protocol 7.") && !short.contains("Directory"), "{short}");
}

#[test]
fn the_link_for_mount8_comes_and_goes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let place = dir.path().display().to_string();
    let link = dir.path().join("mount.fuse.fusewire");
    for _ in 0..2 {
        assert_eq!(fusewire(&["install-helper", "--dir", &place]).status.code(), Some(0));
        assert_eq!(fs::read_link(&link).expect("link"), Path::new(env!("CARGO_BIN_EXE_fusewire")));
    }
    for _ in 0..2 {
        assert_eq!(fusewire(&["install-helper", "--dir", &place, "--remove"]).status.code(), Some(0));
        assert_eq!(fs::read_dir(&place).expect("listed").count(), 0);
    }
    fs::write(&link, "somebody else's").expect("written");
    assert_refused(&fusewire(&["install-helper", "--dir", &place]), 1, &["not a symbolic link", "mv "]);
    assert_eq!(fs::read_to_string(&link).expect("read"), "somebody else's");
    assert_refused(&fusewire(&["install-helper", "--dir", "/no/such"]), 1, &["/no/such", "--dir"]);
}

#[test]
fn pages_and_completions_are_generated() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let place = dir.path().join("new/man1");
    let output = fusewire(&["man", &place.display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let page = fs::read_to_string(place.join("fusewire-mount.1")).expect("page");
    assert!(
        page.contains(".TH") && page.contains("entry\\-timeout") && page.contains("/etc/fstab"),
        "{page}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let output = fusewire(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("install-helper"), "{shell}");
    }
    assert_refused(&fusewire(&["man", "/proc/none"]), 1, &["/proc/none", "try:"]);
}
