//! The suite on a native directory, and the suite on a directory where it must complain.

use fusewire_posix::{Case, Options, Outcome, Report, RunError, cases, parse, run, run_cases};
use std::path::Path;
use std::time::{Duration, Instant};

fn directory() -> tempfile::TempDir {
    // Not /tmp, which may be a tmpfs without user attributes: the build directory lies on a real filesystem.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn of(steps: &str) -> Vec<Case> {
    let text = format!(
        "[[case]]\nname = \"one\"\nrule = \"a rule for a test\"\nsource = \"none\"\nsteps = [\n{steps}\n]\n"
    );
    parse("test.toml", &text).unwrap().0
}

fn run_in(dir: &Path, cases: &[Case], limit: u64) -> Report {
    let mut options = Options::default();
    options.limit = Duration::from_secs(limit);
    run_cases(dir, cases, &options, &mut |_| {}).unwrap()
}

/// The failure of a case of these steps.
fn fails(steps: &str) -> fusewire_posix::Failure {
    let dir = directory();
    let report = run_in(dir.path(), &of(steps), 20);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left behind");
    match &report.results[0].outcome {
        Outcome::Failed(failure) => (**failure).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_native_directory_is_clean() {
    let dir = directory();
    let report = run(dir.path(), &Options::default()).unwrap();
    report.assert_clean();
    assert!(report.passed() >= 200, "{report}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left behind");
}

/// Every case is run with its last expectation made wrong: it must fail, at that step. A case that still passes
/// would check nothing there.
#[test]
fn every_case_can_fail() {
    let dir = directory();
    let whole = run(dir.path(), &Options::default()).unwrap();
    let passed =
        |case: &&Case| whole.results.iter().any(|r| r.name == case.name && r.outcome == Outcome::Passed);
    let mut wrong = Vec::new();
    let mut places = Vec::new();
    for case in cases().iter().filter(passed) {
        let checked = case.steps.iter().rposition(|s| s.expect.is_some() || !s.errno.is_empty());
        let Some(at) = checked else { continue };
        let mut case = case.clone();
        let step = &mut case.steps[at];
        // No answer is ever a truth value, and no filesystem call here fails with EDOM.
        if step.expect.is_some() {
            step.expect = Some(true.into());
        } else {
            step.errno = vec![rustix::io::Errno::DOM];
        }
        places.push(at + 1);
        wrong.push(case);
    }
    assert!(wrong.len() > 150, "{}", wrong.len());
    let report = run_in(dir.path(), &wrong, 60);
    for (result, at) in report.results.iter().zip(places) {
        match &result.outcome {
            Outcome::Failed(failure) => {
                // A step in the background fails where it is waited for.
                assert!(
                    failure.step >= at,
                    "{}: failed at step {}, {at} is wrong",
                    result.name,
                    failure.step
                );
            }
            other => panic!("{}: {other:?} though step {at} expects nonsense", result.name),
        }
    }
}

#[test]
fn a_wrong_attribute_is_told() {
    let failure = fails(
        "{ do = 'create', path = 'a', data = 'abc' }, { do = 'stat', path = 'a', expect = { size = 4 } }",
    );
    assert_eq!((failure.step, failure.of), (2, 2));
    assert_eq!(failure.expected, "size = 4");
    assert_eq!(failure.got, "size = 3");
    assert_eq!(failure.text, "stat path=\"a\"");
}

#[test]
fn an_errno_that_does_not_come_is_told() {
    let failure = fails("{ do = 'mkdir', path = 'd', errno = 'EEXIST', note = 'why it matters' }");
    assert!(failure.expected.starts_with("EEXIST"), "{failure:?}");
    assert_eq!(failure.got, "success");
    assert_eq!(failure.note.as_deref(), Some("why it matters"));
}

#[test]
fn another_errno_is_told() {
    let failure = fails("{ do = 'rmdir', path = 'no', errno = 'ENOTDIR' }");
    assert!(failure.expected.starts_with("ENOTDIR") && failure.got.starts_with("ENOENT"), "{failure:?}");
    assert_eq!(failure.errno, Some(libc::ENOENT));
}

#[test]
fn wrong_content_is_told_with_its_offset() {
    let failure = fails(
        "{ do = 'create', path = 'a', data = '<seq*5000>' }, { do = 'content', path = 'a', expect = '<seq*4000>X<seq*999>' }",
    );
    assert!(failure.got.contains("offset 4000"), "{}", failure.got);
}

#[test]
fn a_failure_in_a_forked_process_is_told_with_its_step() {
    let failure = fails(
        "{ do = 'fork', as = 'p' }, { do = 'mkdir', path = 'd', in = 'p' }, { do = 'mkdir', path = 'd', in = 'p' }",
    );
    assert_eq!(failure.step, 3);
    assert!(failure.got.starts_with("EEXIST"));
}

#[test]
fn a_hang_ends_at_the_limit() {
    let dir = directory();
    let steps = "{ do = 'open', path = 'a', flags = 'O_CREAT|O_RDWR', as = 'fd' }, { do = 'fork', as = 'p' },
        { do = 'lock', fd = 'fd', type = 'write' }, { do = 'lock', fd = 'fd', type = 'write', wait = true, in = 'p' }";
    let start = Instant::now();
    let report = run_in(dir.path(), &of(steps), 1);
    assert!(start.elapsed() < Duration::from_secs(20));
    let text = report.to_string();
    assert!(text.contains("an end within 1s") && text.contains("it hung and was killed"), "{text}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left behind");
}

#[test]
fn a_death_by_sigbus_is_told() {
    let failure = fails(
        "{ do = 'open', path = 'a', flags = 'O_CREAT|O_RDWR', as = 'fd' }, { do = 'mmap', fd = 'fd', len = 4096, as = 'm' },
         { do = 'peek', map = 'm', at = 0, len = 1 }",
    );
    assert_eq!(failure.got, "killed by SIGBUS");
}

#[test]
fn the_next_case_runs_after_a_failure() {
    let dir = directory();
    let mut two = of("{ do = 'rmdir', path = 'no' }");
    two.extend(of("{ do = 'mkdir', path = 'd' }"));
    two[1].name = "two".to_owned();
    let report = run_in(dir.path(), &two, 20);
    assert_eq!((report.failures().count(), report.passed()), (1, 1));
    assert!(!report.is_clean());
}

#[test]
fn trees_that_nobody_may_read_are_removed() {
    let dir = directory();
    let steps = "{ do = 'mkdir', path = 'd' }, { do = 'create', path = 'd/a' }, { do = 'chmod', path = 'd', mode = '0000' },
        { do = 'mkdir-deep', name = '<n*200>', levels = 30 }";
    run_in(dir.path(), &of(steps), 20).assert_clean();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn mistakes_in_the_options_are_errors() {
    let dir = directory();
    let mut options = Options::default();
    options.skip = vec![("no-such-case".to_owned(), "reason".to_owned())];
    assert!(matches!(run(dir.path(), &options), Err(RunError::Unknown { what: "case", .. })));
    options.skip = Vec::new();
    options.require = vec!["no-such-need".to_owned()];
    assert!(matches!(run(dir.path(), &options), Err(RunError::Unknown { what: "need", .. })));
    options.require = Vec::new();
    options.filter = vec!["no such topic".to_owned()];
    assert!(matches!(run(dir.path(), &options), Err(RunError::NothingMatches(_))));
    let error = run("/proc/version", &Options::default()).unwrap_err().to_string();
    assert!(error.starts_with("/proc/version: ENOTDIR"), "{error}");
}

#[test]
fn skipped_cases_keep_their_reason() {
    let dir = directory();
    let mut options = Options::default();
    options.filter = vec!["rename-file".to_owned(), "rename-errors".to_owned()];
    options.skip = vec![("rename-file".to_owned(), "a known flaw".to_owned())];
    let report = run(dir.path(), &options).unwrap();
    assert_eq!(report.skipped().collect::<Vec<_>>(), [("rename-file", "a known flaw")]);
    assert!(report.is_clean());
    let json = report.to_json();
    assert_eq!((&json["passed"], &json["skipped"], &json["failed"]), (&1.into(), &1.into(), &0.into()));
    assert_eq!(json["results"][0]["outcome"], "skipped");
}

/// A need that is missing skips; when it is required, it fails. Either `root` or `ordinary-user` is missing.
#[test]
fn a_required_need_that_is_missing_fails() {
    let dir = directory();
    let mut case = of("{ do = 'mkdir', path = 'd' }");
    case[0].needs = vec!["root".to_owned(), "ordinary-user".to_owned()];
    let report = run_in(dir.path(), &case, 20);
    assert_eq!(report.skipped().count(), 1, "{report}");
    assert!(!report.is_clean(), "nothing passed, so nothing is proven");
    let mut options = Options::default();
    options.require = vec!["all".to_owned()];
    let report = run_cases(dir.path(), &case, &options, &mut |_| {}).unwrap();
    assert_eq!(report.failures().count(), 1, "{report}");
    assert!(report.failures().next().unwrap().name.starts_with("need-"));
}
