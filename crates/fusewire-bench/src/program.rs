//! Programs that do the work: found, started, and waited for.

use std::env;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::Access;
use rustix::process::{Pid, Signal};
use rustix::thread::CpuSet;

use crate::kernel;
use crate::sys::{self, ChildUsage};
use crate::workload::{CommandLine, Op, Workload};

/// How often a running program's end is asked for, if the run should stop.
const LOOK: Duration = Duration::from_millis(50);

/// What a program has done.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub output: Vec<u8>,
    /// What it wrote to standard error.
    pub errors: Vec<u8>,
    /// From its start to its end.
    pub wall: Duration,
    /// What it and its descendants used.
    pub used: ChildUsage,
}

/// Runs a program with `input` on standard input, on the CPUs given, on all if there are none. If `stop` is set, it and
/// its descendants are killed.
///
/// # Errors
/// If it cannot be started, or the run was interrupted.
pub fn run(mut command: Command, input: &[u8], cpus: &[usize], stop: &AtomicBool) -> Result<Finished> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    sys::tie_to_parent(&mut command, None);
    let begin = Instant::now();
    let mut child = spawn_on(&mut command, cpus).with_context(|| format!("cannot start {name}"))?;
    let pid = child.id();
    let (Some(mut to), Some(output), Some(errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        bail!("{name} has no pipes");
    };
    let (sender, ended) = mpsc::channel();
    thread::scope(|scope| {
        let output = scope.spawn(|| read_all(output));
        let errors = scope.spawn(|| read_all(errors));
        scope.spawn(move || sender.send((sys::wait_with_usage(pid), Instant::now())));
        // A program that does not read its input has its reasons, and a status that tells them.
        let _ = to.write_all(input);
        drop(to);
        let mut is_killed = false;
        let (waited, end) = loop {
            match ended.recv_timeout(LOOK) {
                Ok(waited) => break waited,
                Err(RecvTimeoutError::Disconnected) => bail!("nobody waits for {name}"),
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) && !is_killed => {
                    is_killed = true;
                    kill_group(pid);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        let join = |reader: thread::ScopedJoinHandle<'_, Vec<u8>>| {
            reader.join().map_err(|_| anyhow!("the reader of {name} panicked"))
        };
        let (output, errors) = (join(output)?, join(errors)?);
        if is_killed {
            bail!("interrupted");
        }
        let (status, used) = waited.with_context(|| format!("cannot wait for {name}"))?;
        Ok(Finished { status, output, errors, wall: end - begin, used })
    })
}

impl Finished {
    /// Insists that it ended well.
    ///
    /// # Errors
    /// If not, with the last lines it said.
    pub fn success(self, what: &str) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let said = if self.errors.is_empty() { &self.output } else { &self.errors };
        let said = String::from_utf8_lossy(said);
        let lines: Vec<&str> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n  ");
        bail!("{what} ended with {}; it said:\n  {last}", self.status)
    }
}

/// The child inherits the CPUs of the thread that starts it.
fn spawn_on(command: &mut Command, cpus: &[usize]) -> Result<std::process::Child> {
    if cpus.is_empty() {
        return Ok(command.spawn()?);
    }
    let before = rustix::thread::sched_getaffinity(None)?;
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    rustix::thread::sched_setaffinity(None, &set)?;
    let child = command.spawn();
    rustix::thread::sched_setaffinity(None, &before)?;
    Ok(child?)
}

fn read_all(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read before an error is all there is to tell.
    let _ = from.read_to_end(&mut bytes);
    bytes
}

fn kill_group(pid: u32) {
    if let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Fails if it has ended already, which is what is wanted.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// The program of this name in the first of the directories that has one.
pub fn find_in(name: &str, dirs: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
    dirs.into_iter().map(|dir| dir.join(name)).find(is_program)
}

/// Directories of the PATH.
pub fn path_dirs() -> Vec<PathBuf> {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).filter(|dir| dir != Path::new("")).collect()
}

/// Checks that the programs that workloads use are there.
///
/// # Errors
/// If one is not, with the Debian package that has it.
pub fn check_needs<'a>(workloads: impl IntoIterator<Item = &'a Workload>) -> Result<()> {
    for workload in workloads {
        let needs: &[String] = match &workload.op {
            Op::Fio(_) => &["fio".to_owned()],
            Op::Command(command) => &command.needs,
            _ => &[],
        };
        let perf = workload.sampled.then(|| "perf".to_owned());
        let needs: Vec<&String> = needs.iter().chain(&perf).collect();
        if let Some(missing) = needs.into_iter().find(|name| find_in(name, path_dirs()).is_none()) {
            let package = match missing.as_str() {
                "cc" => "gcc",
                "ar" | "ld" => "binutils",
                "xz" => "xz-utils",
                "perf" => "linux-perf",
                name => name,
            };
            bail!(
                "workload {} needs {missing}, which is not in the PATH (on Debian: apt-get install {package}); \
                 or choose others with --workload",
                workload.name
            );
        }
        if let Op::Command(CommandLine { kernel: true, .. }) = &workload.op {
            kernel::check().with_context(|| format!("workload {}", workload.name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn input_output_and_usage_of_descendants_are_told() {
        let stop = AtomicBool::new(false);
        let script = "cat; sh -c 'for i in $(seq 50000); do :; done'; echo bad >&2; exit 3";
        let done = run(shell(script), b"hello", &[], &stop).unwrap();
        assert_eq!((done.output.as_slice(), done.errors.as_slice()), (&b"hello"[..], &b"bad\n"[..]));
        assert!(done.used.cpu > Duration::from_millis(1) && done.wall > Duration::ZERO, "{done:?}");
        let error = done.success("the script").unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("bad"), "{error}");
    }

    #[test]
    fn a_program_is_kept_on_its_cpu() {
        let stop = AtomicBool::new(false);
        let cpu = *crate::client::allowed_cpus().last().unwrap();
        let before = crate::client::allowed_cpus();
        let done = run(shell("grep Cpus_allowed_list /proc/self/status"), b"", &[cpu], &stop).unwrap();
        assert!(String::from_utf8_lossy(&done.output).trim().ends_with(&format!("\t{cpu}")), "{done:?}");
        assert_eq!(crate::client::allowed_cpus(), before);
    }

    #[test]
    fn a_set_stop_flag_kills_it_and_its_children() {
        let begin = Instant::now();
        let error = run(shell("sleep 60 & sleep 60"), b"", &[], &AtomicBool::new(true)).unwrap_err();
        assert!(error.to_string().contains("interrupted"));
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn missing_programs_are_told_before_anything_is_measured() {
        let needs = |program: &str| Workload {
            name: "w".into(),
            about: String::new(),
            threads: vec![1],
            ops: 1,
            passes: 1,
            busy_others: false,
            sampled: false,
            counted: false,
            warm: false,
            op: Op::Command(CommandLine {
                needs: vec![program.into()],
                sources: None,
                kernel: false,
                prepare: None,
                run: "true".into(),
            }),
        };
        check_needs([&needs("sh")]).unwrap();
        let error = check_needs([&needs("no-such-program")]).unwrap_err().to_string();
        assert!(error.contains("workload w needs no-such-program"), "{error}");
        assert!(run(Command::new("no-such-program"), b"", &[], &AtomicBool::new(false)).is_err());
    }
}
