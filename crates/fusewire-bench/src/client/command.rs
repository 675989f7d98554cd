//! Commands of the shell: one operation is one run of the command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};

use super::{Cost, Pass, Pin};
use crate::kernel::KERNEL;
use crate::program::{self, Finished};
use crate::tree::work_dir;
use crate::workload::CommandLine;

/// Makes the directory to work in and runs what has to be done before, not through the mount.
///
/// # Errors
/// If the directory cannot be made or the command fails.
pub fn prepare(pass: &Pass<'_>, command: &CommandLine, stop: &AtomicBool) -> Result<()> {
    let under = own_dir(pass, pass.src);
    fs::create_dir_all(&under).with_context(|| format!("cannot make {}", under.display()))?;
    if let Some(prepare) = &command.prepare {
        shell(pass, prepare, &under, stop)?.success("what the workload prepares")?;
    }
    Ok(())
}

/// Removes the directory, behind the mount's back.
///
/// # Errors
/// If it is not there or cannot be removed.
pub fn clean_up(pass: &Pass<'_>) -> Result<()> {
    let under = own_dir(pass, pass.src);
    fs::remove_dir_all(&under).with_context(|| format!("cannot remove {}", under.display()))
}

/// Does the pass.
///
/// # Errors
/// If the command fails; if `stop` was set.
pub fn run(pass: &Pass<'_>, command: &CommandLine, stop: &AtomicBool) -> Result<Cost> {
    let dir = own_dir(pass, pass.root);
    let done = shell(pass, &command.run, &dir, stop)?.success("the command")?;
    let mut cost = Cost::zero();
    cost.ops = 1;
    cost.wall = done.wall;
    cost.cpu = done.used.cpu;
    cost.programs = done.used.cpu;
    cost.switches = done.used.switches;
    cost.latency.saturating_record(done.wall.as_nanos() as u64);
    Ok(cost)
}

fn shell(pass: &Pass<'_>, script: &str, at: &Path, stop: &AtomicBool) -> Result<Finished> {
    let script = script
        .replace("{dir}", &quoted(&own_dir(pass, pass.root)))
        .replace("{under}", &quoted(&own_dir(pass, pass.src)))
        .replace("{kernel}", &quoted(&pass.root.join(KERNEL)))
        .replace("{sources}", &quoted(pass.sources))
        .replace("{threads}", &pass.threads.to_string());
    let mut command = Command::new("sh");
    command.args(["-e", "-c", &script]).current_dir(at);
    let cpus = if matches!(pass.pin, Pin::One(_)) { pass.pin.cpus()? } else { Vec::new() };
    program::run(command, b"", &cpus, stop)
}

/// A directory that no pass before has used.
fn own_dir(pass: &Pass<'_>, root: &Path) -> PathBuf {
    work_dir(root, 0).join(format!("p{}", pass.number))
}

/// One word for the shell, whatever is in it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::workload::{Op, Workload};

    #[test]
    fn a_command_runs_in_a_fresh_directory() {
        let place = tempfile::Builder::new().prefix("it's ").tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let command = CommandLine {
            needs: vec![],
            sources: None,
            kernel: false,
            prepare: Some("cp {sources}/seed {under}/seed".into()),
            run: "test \"$PWD\" = {dir}; test {threads} = 3; grep -q corn seed; touch made".into(),
        };
        let op = Op::Command(command.clone());
        let workload = Workload {
            name: "x".into(),
            about: String::new(),
            threads: vec![3],
            ops: 1,
            passes: 1,
            busy_others: false,
            sampled: false,
            counted: false,
            warm: false,
            op,
        };
        fs::write(place.path().join("seed"), "corn").unwrap();
        let pass = Pass {
            workload: &workload,
            threads: 3,
            ops: 1,
            root: place.path(),
            src: place.path(),
            sources: place.path(),
            pipe: None,
            guest: None,
            number: 7,
            seed: 0,
            pin: Pin::Free,
            start_cost: Duration::ZERO,
        };
        prepare(&pass, &command, &stop).unwrap();
        let cost = run(&pass, &command, &stop).unwrap();
        assert_eq!((cost.ops, cost.latency.len()), (1, 1));
        assert!(cost.cpu > Duration::ZERO && cost.cpu == cost.programs);
        assert!(own_dir(&pass, place.path()).join("made").exists());
        clean_up(&pass).unwrap();
        assert!(clean_up(&pass).is_err());

        let failing = CommandLine { run: "echo no >&2; false; true".into(), ..command };
        prepare(&pass, &failing, &stop).unwrap();
        let error = run(&pass, &failing, &stop).unwrap_err().to_string();
        assert!(error.contains("exit status: 1") && error.contains("no"), "{error}");
    }
}
