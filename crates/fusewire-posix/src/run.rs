//! Running cases on a directory.

use crate::case::{Case, Need};
use crate::catalog;
use crate::process::{Ended, limited};
use crate::report::{CaseResult, Outcome, Report};
use crate::world::{Failure, World};
use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How a run is done.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Only cases whose name or topic contains one of these; all when empty.
    pub filter: Vec<String>,
    /// Cases not to run: name and reason. A name that does not exist is an error, so that lists do not grow stale.
    pub skip: Vec<(String, String)>,
    /// Needs that must be there: what they lack is a failure, not a reason to skip. `all` for every need.
    pub require: Vec<String>,
    /// Time limit of a case that sets none itself.
    pub limit: Duration,
    /// How long to wait until timestamps must differ: more than the filesystem's granularity.
    pub tick: Duration,
    /// Leave the directories of failed cases behind.
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            filter: Vec::new(),
            skip: Vec::new(),
            require: Vec::new(),
            limit: Duration::from_secs(60),
            tick: Duration::from_millis(20),
            keep: false,
        }
    }
}

/// Why nothing could be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The directory cannot be used.
    #[error("{path}: {why}; give a directory in which this user may create files")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What went wrong there.
        why: String,
    },
    /// `skip` or `require` names something that does not exist.
    #[error("no {what} is called `{name}`; `--list` shows them")]
    Unknown {
        /// `case` or `need`.
        what: &'static str,
        /// The name given.
        name: String,
    },
    /// The filter leaves nothing.
    #[error("no case's name or topic contains {0}")]
    NothingMatches(String),
}

/// After so many hung cases in a run the rest is skipped: the filesystem is stuck, and each would wait its full limit.
const HANGS_ALLOWED: usize = 5;

/// Runs the suite in `dir`. See [`run_cases`].
pub fn run(dir: impl AsRef<Path>, options: &Options) -> Result<Report, RunError> {
    run_cases(dir.as_ref(), catalog::cases(), options, &mut |_| {})
}

/// Runs `cases` in a new directory below `dir`, which is removed at the end; `progress` is called after each case.
///
/// Every case runs in a child process with a time limit. The calling process is forked for that, so it must not
/// rely on `SIGCHLD` or on waiting for any child.
pub fn run_cases(
    dir: &Path,
    cases: &[Case],
    options: &Options,
    progress: &mut dyn FnMut(&CaseResult),
) -> Result<Report, RunError> {
    let chosen = choose(cases, options)?;
    let root = Root::new(dir, options)?;
    let mut runner = Runner { root: &root, options, probed: HashMap::new(), hangs: 0, results: Vec::new() };
    for case in chosen {
        runner.one(case, progress);
    }
    let results = runner.results;
    let kept = options.keep && results.iter().any(|r| matches!(r.outcome, Outcome::Failed(_)));
    let filesystem = filesystem(dir);
    if !kept {
        root.remove(options.limit);
    }
    Ok(Report { directory: dir.to_owned(), filesystem, uid: rustix::process::geteuid().as_raw(), results })
}

fn choose<'c>(cases: &'c [Case], options: &Options) -> Result<Vec<&'c Case>, RunError> {
    if let Some((name, _)) = options.skip.iter().find(|(name, _)| !cases.iter().any(|c| c.name == *name)) {
        return Err(RunError::Unknown { what: "case", name: name.clone() });
    }
    let known = |name: &str| name == "all" || catalog::needs().iter().any(|n| n.probe.name == name);
    if let Some(name) = options.require.iter().find(|name| !known(name)) {
        return Err(RunError::Unknown { what: "need", name: name.clone() });
    }
    let matches =
        |case: &&Case| options.filter.iter().any(|f| case.name.contains(f) || case.topic.contains(f));
    let chosen: Vec<&Case> = cases.iter().filter(|case| options.filter.is_empty() || matches(case)).collect();
    if chosen.is_empty() {
        return Err(RunError::NothingMatches(options.filter.join(" or ")));
    }
    Ok(chosen)
}

struct Runner<'a> {
    root: &'a Root,
    options: &'a Options,
    /// Needs tried so far: why missing, if missing.
    probed: HashMap<String, Result<(), String>>,
    hangs: usize,
    results: Vec<CaseResult>,
}

impl Runner<'_> {
    fn one(&mut self, case: &Case, progress: &mut dyn FnMut(&CaseResult)) {
        let start = Instant::now();
        let outcome = match self.reason_to_skip(case) {
            Some(reason) => Outcome::Skipped { reason },
            None => self.attempt(case),
        };
        // Probes that failed have put their own results in front.
        self.push(case, outcome, start);
        if let Some(result) = self.results.last() {
            progress(result);
        }
    }

    fn push(&mut self, case: &Case, outcome: Outcome, start: Instant) {
        let micros = start.elapsed().as_micros() as u64;
        let (name, topic, rule, source) =
            (case.name.clone(), case.topic.clone(), case.rule.clone(), case.source.clone());
        self.results.push(CaseResult { name, topic, rule, source, micros, outcome });
    }

    fn reason_to_skip(&mut self, case: &Case) -> Option<String> {
        if let Some((_, reason)) = self.options.skip.iter().find(|(name, _)| *name == case.name) {
            return Some(reason.clone());
        }
        if self.hangs >= HANGS_ALLOWED {
            return Some(format!("stopped after {HANGS_ALLOWED} cases that hung"));
        }
        case.needs.iter().find_map(|need| self.probe(need).err())
    }

    /// Tries a need, once per run.
    fn probe(&mut self, name: &str) -> Result<(), String> {
        if let Some(known) = self.probed.get(name) {
            return known.clone();
        }
        // A need that needs itself ends here.
        self.probed.insert(name.to_owned(), Err(format!("needs {name}, which needs itself")));
        let answer = match catalog::needs().iter().find(|n| n.probe.name == name) {
            None => Err(format!("needs {name}, which this suite does not know")),
            Some(need) => self.probe_now(need),
        };
        self.probed.insert(name.to_owned(), answer.clone());
        answer
    }

    fn probe_now(&mut self, need: &Need) -> Result<(), String> {
        let start = Instant::now();
        let name = &need.probe.name;
        need.probe.needs.iter().try_for_each(|other| self.probe(other))?;
        let Outcome::Failed(failure) = self.attempt(&need.probe) else { return Ok(()) };
        let reason = format!("needs {name}: {}: {}", failure.text, failure.got);
        let code = failure.errno.and_then(crate::words::errno_name);
        let expected = need.missing.iter().any(|m| code.map_or(m == "wrong" && failure.step > 0, |c| c == m));
        let required = self.options.require.iter().any(|r| r == name || r == "all");
        if !expected || required {
            let mut probe = need.probe.clone();
            probe.name = format!("need-{name}");
            self.push(&probe, Outcome::Failed(failure), start);
        }
        Err(reason)
    }

    fn attempt(&mut self, case: &Case) -> Outcome {
        let limit = case.limit.unwrap_or(self.options.limit);
        let (place, tick) = (self.root.path.join(&case.name), self.options.tick);
        let outcome = match limited(limit, || in_fresh_directory(case, &place, tick)) {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(failure)) => Outcome::Failed(Box::new(failure)),
            Err(ended) => {
                self.hangs += usize::from(matches!(ended, Ended::Hung { .. }));
                Outcome::Failed(Box::new(no_answer(case, ended)))
            }
        };
        if self.options.keep && outcome != Outcome::Passed {
            return outcome;
        }
        let removed = match limited(limit, || {
            remove_tree(&place).map_err(|(path, errno)| (path, crate::words::show_errno(errno)))
        }) {
            Ok(Ok(())) => Ok(()),
            Ok(Err((path, why))) => Err(format!("{path}: {why}")),
            Err(ended) => Err(no_answer(case, ended).got),
        };
        match (outcome, removed) {
            (Outcome::Passed, Err(got)) => {
                let expected = "the case's directory can be removed".to_owned();
                Outcome::Failed(Box::new(general(case, "clean-up", expected, got)))
            }
            (outcome, _) => outcome,
        }
    }
}

fn general(case: &Case, text: &str, expected: String, got: String) -> Failure {
    Failure { step: 0, of: case.steps.len(), text: text.to_owned(), expected, got, errno: None, note: None }
}

fn no_answer(case: &Case, ended: Ended) -> Failure {
    let (expected, got) = match ended {
        Ended::Hung { limit, gone: true } => {
            (format!("an end within {limit:?}"), "it hung and was killed".to_owned())
        }
        Ended::Hung { limit, gone: false } => {
            (format!("an end within {limit:?}"), "it hung, and not even SIGKILL ended it".to_owned())
        }
        Ended::Died(how) => ("the process lives".to_owned(), how),
        Ended::NotStarted(errno) => ("a child process".to_owned(), crate::words::show_errno(errno)),
    };
    general(case, "the whole case", expected, got)
}

/// In the child: a new directory, a known mask, the steps.
fn in_fresh_directory(case: &Case, place: &Path, tick: Duration) -> Result<(), Failure> {
    let prepare = || -> Result<(), Errno> {
        rustix::process::umask(Mode::empty());
        rustix::fs::mkdirat(CWD, place, Mode::from_raw_mode(0o777))?;
        // A setgid bit or a default ACL inherited from above would change what the cases measure.
        rustix::fs::chmodat(CWD, place, Mode::from_raw_mode(0o777), AtFlags::empty())?;
        let _ = rustix::fs::removexattr(place, "system.posix_acl_default");
        rustix::process::chdir(place)?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        Ok(())
    };
    prepare().map_err(|errno| {
        general(
            case,
            "a fresh directory",
            "mkdir, chmod and chdir work".to_owned(),
            crate::words::show_errno(errno),
        )
    })?;
    World::new(case, tick).run().map_err(|failure| *failure)
}

/// Removes a tree, also directories whose owner may not read them; tells what could not be removed.
fn remove_tree(place: &Path) -> Result<(), (String, Errno)> {
    let told = |errno| (place.display().to_string(), errno);
    match rustix::fs::unlinkat(CWD, place, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(told(errno)),
    }
    let _ = rustix::fs::chmodat(CWD, place, Mode::from_raw_mode(0o700), AtFlags::empty());
    // Working from inside keeps names short: trees may be deeper than PATH_MAX.
    let inside =
        rustix::fs::open(place, rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW, Mode::empty())
            .map_err(told)?;
    let above = rustix::fs::open(".", rustix::fs::OFlags::PATH, Mode::empty()).map_err(told)?;
    rustix::process::fchdir(&inside).map_err(told)?;
    drop(inside);
    for entry in crate::ops::entries(crate::ops::open_dir(b".").map_err(told)?).map_err(told)? {
        if entry.name == b"." || entry.name == b".." {
            continue;
        }
        let name = Path::new(std::ffi::OsStr::from_bytes(&entry.name));
        let simple = if entry.kind == FileType::Directory {
            Err(Errno::ISDIR)
        } else {
            rustix::fs::unlinkat(CWD, name, AtFlags::empty())
        };
        if simple.is_err() {
            remove_tree(name)?;
        }
    }
    rustix::process::fchdir(&above).map_err(told)?;
    rustix::fs::unlinkat(CWD, place, AtFlags::REMOVEDIR).map_err(told)
}

/// The run's own directory.
struct Root {
    path: PathBuf,
}

impl Root {
    fn new(dir: &Path, options: &Options) -> Result<Self, RunError> {
        let fail = |why: String| RunError::Directory { path: dir.to_owned(), why };
        let name = format!("fusewire-posix.{}.{:x}", std::process::id(), nonce());
        // Made in a child like everything else: a stuck filesystem must not take the caller with it.
        let made = limited(options.limit, || -> Result<PathBuf, i32> {
            let code = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
            let path = std::fs::canonicalize(dir).map_err(code)?.join(&name);
            rustix::process::umask(Mode::empty());
            std::fs::create_dir(&path).map_err(code)?;
            rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(0o755), AtFlags::empty())
                .map_err(|e| e.raw_os_error())?;
            Ok(path)
        });
        match made {
            Ok(Ok(path)) => Ok(Self { path }),
            Ok(Err(code)) => Err(fail(crate::words::show_errno(Errno::from_raw_os_error(code)))),
            Err(ended) => Err(fail(format!("{ended:?}"))),
        }
    }

    fn remove(&self, limit: Duration) {
        let _ = limited(limit, || remove_tree(&self.path).is_ok());
    }
}

/// Two runs in one process get two directories.
fn nonce() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// `ext4 (/dev/vda)`: the last mount in the table whose mount point lies above `dir`.
fn filesystem(dir: &Path) -> String {
    let unknown = || "an unknown filesystem".to_owned();
    let (Ok(dir), Ok(table)) = (std::path::absolute(dir), std::fs::read_to_string("/proc/self/mountinfo"))
    else {
        return unknown();
    };
    let mut best: Option<(usize, String)> = None;
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let point = left.split(' ').nth(4).unwrap_or_default().replace("\\040", " ");
        let mut words = right.split(' ');
        let (kind, device) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if dir.starts_with(&point) && best.as_ref().is_none_or(|(len, _)| point.len() >= *len) {
            best = Some((point.len(), format!("{kind} ({device})")));
        }
    }
    best.map_or_else(unknown, |(_, text)| text)
}
