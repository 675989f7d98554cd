//! What fio measures. The bench gives it its files and its share of the work and reads its JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::{Cost, Pass, Pin};
use crate::program::{self, Finished};
use crate::tree::data_file;
use crate::workload::{FioJob, share};

/// Does the pass.
///
/// # Errors
/// If fio cannot be run or says that an operation failed; if `stop` was set.
pub fn run(pass: &Pass<'_>, job: &FioJob, stop: &AtomicBool) -> Result<Cost> {
    let done = start(pass, &job_file(pass, job, false)?, stop)?;
    let mut cost = cost_in(&done.output)?;
    cost.programs = done.used.cpu;
    // fio's own numbers are whole milliseconds for each thread, cut off: too coarse for a short pass, but what it surely took.
    cost.cpu = cost.cpu.max(done.used.cpu.saturating_sub(pass.start_cost));
    Ok(cost)
}

/// CPU time that fio takes to start with this job, which is much: it measures its clock each time. The least of a few
/// runs with one operation each.
///
/// # Errors
/// As [`run`].
pub fn start_cost(pass: &Pass<'_>, job: &FioJob, stop: &AtomicBool) -> Result<Duration> {
    let text = job_file(pass, job, true)?;
    let runs = (0..3).map(|_| Ok(start(pass, &text, stop)?.used.cpu));
    Ok(runs.collect::<Result<Vec<_>>>()?.into_iter().min().unwrap_or_default())
}

fn start(pass: &Pass<'_>, text: &str, stop: &AtomicBool) -> Result<Finished> {
    let mut command = Command::new("fio");
    command.args(["--output-format=json+", "-"]).current_dir("/");
    let cpus = if matches!(pass.pin, Pin::One(_)) { pass.pin.cpus()? } else { Vec::new() };
    program::run(command, text.as_bytes(), &cpus, stop)?.success("fio")
}

/// The job file: a section for each thread, with its files.
fn job_file(pass: &Pass<'_>, job: &FioJob, only_start: bool) -> Result<String> {
    let files = pass.workload.data_files(pass.threads).context("a job without files")?;
    let block = job.block();
    let mut text = format!(
        "[global]\nthread=1\ngroup_reporting=1\nallow_file_create=0\nrandseed={}\n",
        pass.seed.wrapping_add(1)
    );
    if pass.pin == Pin::Each {
        let cpus: Vec<_> = pass.pin.cpus()?.iter().map(usize::to_string).collect();
        let _ = writeln!(text, "cpus_allowed={}\ncpus_allowed_policy=split", cpus.join(","));
    }
    for (key, value) in &job.options {
        let _ = writeln!(text, "{key}={value}");
    }
    for thread in 0..pass.threads {
        let mine = share(files.count as u64, thread, pass.threads);
        let size = (mine.end - mine.start) * files.size;
        let ops = share(pass.ops, thread, pass.threads);
        let names: Vec<_> = mine.map(|number| escaped(&data_file(pass.root, number as usize))).collect();
        let _ = writeln!(text, "[t{thread}]\nfilename={}\nsize={size}", names.join(":"));
        let bytes = (ops.end - ops.start).max(1) * block;
        if only_start {
            text.push_str("number_ios=1\n");
        } else if bytes < size {
            let _ = writeln!(text, "io_size={bytes}");
        }
    }
    Ok(text)
}

/// A path as fio wants it: a colon would begin the next file.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(':', "\\:")
}

/// The parts of fio's JSON that are used.
#[derive(Debug, Deserialize)]
struct Output {
    jobs: Vec<JobOutput>,
}

#[derive(Debug, Deserialize)]
struct JobOutput {
    error: i32,
    read: Direction,
    write: Direction,
    ctx: u64,
    /// Percent of `job_runtime`.
    #[serde(default)]
    usr_cpu: f64,
    /// Percent of `job_runtime`.
    #[serde(default)]
    sys_cpu: f64,
    /// Milliseconds of all threads together.
    #[serde(default)]
    job_runtime: u64,
}

#[derive(Debug, Deserialize)]
struct Direction {
    io_bytes: u64,
    total_ios: u64,
    short_ios: u64,
    /// Milliseconds.
    runtime: u64,
    clat_ns: Latency,
}

#[derive(Debug, Deserialize)]
struct Latency {
    /// Nanoseconds, and how many operations took so long.
    #[serde(default)]
    bins: BTreeMap<String, u64>,
}

/// Reads fio's output. Its CPU time is at most what was used.
fn cost_in(output: &[u8]) -> Result<Cost> {
    // Warnings may stand before it.
    let begin = output.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let output: Output =
        serde_json::from_slice(&output[begin..]).context("cannot understand fio's output")?;
    let [job] = &output.jobs[..] else { bail!("fio tells of {} groups instead of one", output.jobs.len()) };
    ensure!(job.error == 0, "fio failed with errno {}", job.error);
    let mut cost = Cost::zero();
    for direction in [&job.read, &job.write] {
        ensure!(direction.short_ios == 0, "fio got less than it asked for {} times", direction.short_ios);
        cost.ops += direction.total_ios;
        cost.bytes += direction.io_bytes;
        cost.wall = cost.wall.max(Duration::from_millis(direction.runtime));
        for (nanos, count) in &direction.clat_ns.bins {
            let nanos: u64 = nanos.parse().with_context(|| format!("a latency of `{nanos}` ns"))?;
            cost.latency.saturating_record_n(nanos.max(1), *count);
        }
    }
    ensure!(cost.ops > 0, "fio did nothing");
    // It counts whole milliseconds.
    cost.wall = cost.wall.max(Duration::from_millis(1));
    cost.switches = job.ctx;
    let share = ((job.usr_cpu + job.sys_cpu) / 100.0).clamp(0.0, 1.0);
    cost.cpu = Duration::from_millis(job.job_runtime).mul_f64(share);
    Ok(cost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;
    use crate::workload::{Extent, Op, Workload};

    fn workload(files: Option<usize>) -> Workload {
        let options =
            [("rw", "randread"), ("bs", "4k")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let job = FioJob { files, extent: Extent::Total(1 << 20), options: options.into() };
        Workload {
            name: "x".into(),
            about: String::new(),
            threads: vec![2],
            ops: 0,
            passes: 1,
            busy_others: false,
            sampled: false,
            counted: false,
            warm: false,
            op: Op::Fio(job),
        }
    }

    fn pass<'a>(root: &'a Path, workload: &'a Workload, ops: u64) -> Pass<'a> {
        let (pipe, sources) = (None, Path::new("/"));
        let start_cost = Duration::ZERO;
        Pass {
            workload,
            threads: 2,
            ops,
            root,
            src: root,
            sources,
            pipe,
            guest: None,
            number: 1,
            seed: 6,
            pin: Pin::Free,
            start_cost,
        }
    }

    fn job(workload: &Workload) -> &FioJob {
        match &workload.op {
            Op::Fio(job) => job,
            _ => panic!(),
        }
    }

    #[test]
    fn threads_share_files_and_work() {
        let workload = workload(Some(3));
        let text = job_file(&pass(Path::new("/a:b"), &workload, 100), job(&workload), false).unwrap();
        // A third of a mebibyte in whole blocks.
        let size = 85 * 4096;
        for needle in [
            "randseed=7\n".to_owned(),
            "bs=4k\nrw=randread\n".to_owned(),
            format!("[t0]\nfilename=/a\\:b/data/t0\nsize={size}\nio_size={}\n", 50 * 4096),
            format!(
                "[t1]\nfilename=/a\\:b/data/t1:/a\\:b/data/t2\nsize={}\nio_size={}\n",
                2 * size,
                50 * 4096
            ),
        ] {
            assert!(text.contains(&needle), "`{needle}` is missing in:\n{text}");
        }
        let all = job_file(&pass(Path::new("/a"), &workload, 10_000), job(&workload), false).unwrap();
        assert!(!all.contains("io_size") && !all.contains("number_ios"));
        assert!(
            job_file(&pass(Path::new("/a"), &workload, 1), job(&workload), true)
                .unwrap()
                .contains("number_ios=1")
        );
    }

    #[test]
    fn output_becomes_cost() {
        let text = br#"fio: a warning
            {"jobs": [{"error": 0, "ctx": 7, "usr_cpu": 10.0, "sys_cpu": 40.0, "job_runtime": 14,
            "read": {"io_bytes": 8192, "total_ios": 2, "short_ios": 0, "runtime": 5,
                     "clat_ns": {"bins": {"1000": 1, "3000": 1}}},
            "write": {"io_bytes": 4096, "total_ios": 1, "short_ios": 0, "runtime": 9, "clat_ns": {"bins": {"9000": 1}}}}]}"#;
        let cost = cost_in(text).unwrap();
        assert_eq!((cost.ops, cost.bytes, cost.switches), (3, 12288, 7));
        assert_eq!((cost.wall, cost.cpu), (Duration::from_millis(9), Duration::from_millis(7)));
        assert_eq!(cost.latency.len(), 3);
        assert!(cost.latency.value_at_quantile(0.5).abs_diff(3000) < 10);
        let short = String::from_utf8_lossy(text).replacen("\"short_ios\": 0", "\"short_ios\": 4", 1);
        assert!(cost_in(short.as_bytes()).unwrap_err().to_string().contains("4 times"));
        let failed = String::from_utf8_lossy(text).replacen("\"error\": 0", "\"error\": 5", 1);
        assert!(cost_in(failed.as_bytes()).unwrap_err().to_string().contains("errno 5"));
    }

    #[test]
    fn fio_itself_runs() {
        if program::find_in("fio", program::path_dirs()).is_none() {
            crate::skip::skipped("fio is not installed");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let workload = workload(None);
        Tree::at(place.path()).require(&workload, 2).unwrap();
        let stop = AtomicBool::new(false);
        let once = pass(place.path(), &workload, 256);
        let start_cost = start_cost(&once, job(&workload), &stop).unwrap();
        assert!(start_cost > Duration::ZERO);
        let cost = run(&Pass { start_cost, ..once }, job(&workload), &stop).unwrap();
        assert_eq!((cost.ops, cost.bytes, cost.latency.len()), (256, 1 << 20, 256));
        assert!(cost.cpu < cost.programs);
        std::fs::remove_file(data_file(place.path(), 0)).unwrap();
        let error = run(&once, job(&workload), &stop).unwrap_err().to_string();
        assert!(error.contains("fio ended with"), "a missing file was made: {error}");
    }
}
