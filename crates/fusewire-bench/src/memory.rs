//! Memory of a daemon: idle, and per file the kernel knows.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::daemon::{Memory, Mounted, Site};
use crate::target::Target;
use crate::tree::{self, Tree, c_path, dir_name, file_name};
use crate::watchdog::Watchdog;

/// Points at which memory is looked at on the way.
const STEPS: u64 = 10;

/// What to look up.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Files in all.
    pub files: u64,
    /// Files in one directory.
    pub per_dir: u64,
    /// Client threads.
    pub threads: usize,
    /// Most files the daemon may have open.
    pub nofile: u64,
}

/// Memory of one daemon.
#[derive(Debug, Clone, Serialize)]
pub struct Growth {
    /// Short name of the target.
    pub target: String,
    /// What the source directory lay on.
    pub lower: String,
    /// After the first use of the mount.
    pub idle: Memory,
    /// Files the kernel knew, and memory then.
    pub points: Vec<(u64, Memory)>,
    /// FUSE inodes that the kernel held at the end, `None` if it does not tell. Fewer than files looked up mean that
    /// the kernel has forgotten some under memory pressure.
    pub kernel_inodes: Option<u64>,
    /// After the kernel has forgotten all files.
    pub forgotten: Option<Memory>,
    /// Seconds the look-ups took.
    pub seconds: f64,
    /// Why it ended early.
    pub error: Option<String>,
}

impl Growth {
    /// Resident bytes that each known file adds, `None` if no file was looked up.
    pub fn bytes_per_file(&self) -> Option<f64> {
        let (files, last) = self.points.last()?;
        (*files > 0).then(|| last.resident.saturating_sub(self.idle.resident) as f64 / *files as f64)
    }
}

impl Plan {
    /// Checks that the numbers make sense.
    ///
    /// # Errors
    /// If one does not.
    pub fn check(&self) -> Result<()> {
        ensure!(self.files > 0 && self.per_dir > 0, "--files and --per-dir must be at least 1");
        ensure!(self.threads > 0, "--threads must be at least 1");
        ensure!(self.nofile >= 64, "--nofile must be at least 64 for a daemon to start");
        Ok(())
    }

    /// Makes the files.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn make_files(&self, tree: &Tree) -> Result<()> {
        let dirs = self.files.div_ceil(self.per_dir);
        let bar = bar(dirs, "directories of files made");
        for dir in 0..dirs {
            let files = self.per_dir.min(self.files - dir * self.per_dir);
            let path = tree.path().join(dir_name(dir));
            let make = || -> std::io::Result<()> {
                fs::create_dir(&path)?;
                for file in 0..files {
                    fs::File::create(path.join(file_name(file)))?;
                }
                Ok(())
            };
            make().with_context(|| format!("cannot make {files} files in {}", path.display()))?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn path(&self, root: &Path, index: u64) -> CString {
        c_path(root.join(dir_name(index / self.per_dir)).join(file_name(index % self.per_dir)))
    }
}

/// Mounts the target, looks every file up, and lets the kernel forget them again.
///
/// # Errors
/// If the target cannot be mounted or the run was interrupted. A failing look-up is told in the result.
pub fn measure(
    plan: &Plan,
    target: &Target,
    lower: &str,
    (site, watchdog): (&Site<'_>, &Watchdog),
) -> Result<Growth> {
    let mounted = Mounted::start(target, site)?;
    let Some(connection) = mounted.connection() else {
        bail!("{} has no daemon whose memory could be measured", target.name);
    };
    watchdog.add(connection);
    let result = grow(plan, &mounted, lower, watchdog);
    watchdog.remove(connection);
    let stopped = mounted.stop();
    let mut growth = result?;
    if let Err(error) = stopped {
        growth.error.get_or_insert(format!("{error:#}"));
    }
    Ok(growth)
}

fn grow(plan: &Plan, mounted: &Mounted, lower: &str, watchdog: &Watchdog) -> Result<Growth> {
    // The first use makes what a daemon makes on first use.
    let root_device = tree::device(&mounted.root)?;
    fs::read_dir(&mounted.root)?.next();
    mounted.settle()?;
    thread::sleep(Duration::from_millis(300));
    let memory = || -> Result<Memory> { mounted.memory()?.context("there is no daemon") };
    let idle = memory()?;
    let inodes_before = fuse_inodes();
    let mut growth = Growth {
        target: mounted.target.name.clone(),
        lower: lower.to_owned(),
        idle,
        points: Vec::new(),
        kernel_inodes: None,
        forgotten: None,
        seconds: 0.0,
        error: None,
    };

    let bar = bar(plan.files, "files looked up");
    let stop = watchdog.stop_flag();
    for step in 0..STEPS {
        watchdog.step()?;
        let range = (plan.files * step / STEPS, plan.files * (step + 1) / STEPS);
        let begin = Instant::now();
        let looked = look_up(plan, (&mounted.root, root_device), range, &stop);
        growth.seconds += begin.elapsed().as_secs_f64();
        if let Err(error) = looked {
            watchdog.step()?;
            growth.error = Some(format!("{error:#}"));
            break;
        }
        growth.points.push((range.1, memory()?));
        bar.set_position(range.1);
    }
    bar.finish_and_clear();

    growth.kernel_inodes =
        fuse_inodes().zip(inodes_before).map(|(after, before)| after.saturating_sub(before));
    watchdog.step()?;
    mounted.forget_all()?;
    growth.forgotten = Some(memory()?);
    Ok(growth)
}

fn look_up(
    plan: &Plan,
    (root, device): (&Path, u64),
    (from, to): (u64, u64),
    stop: &AtomicBool,
) -> Result<()> {
    let one = |thread: u64| -> Result<()> {
        for index in (from + thread..to).step_by(plan.threads) {
            if stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            let path = plan.path(root, index);
            let stat = rustix::fs::stat(&path)
                .with_context(|| format!("stat of {path:?}, file {index} of {}, failed", plan.files))?;
            ensure!(stat.st_dev == device, "{path:?} is not on the mount");
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..plan.threads as u64).map(|thread| scope.spawn(move || one(thread))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a client thread panicked"))))
    })
}

/// FUSE inodes in the kernel, of all mounts.
fn fuse_inodes() -> Option<u64> {
    fuse_inodes_in(&fs::read_to_string("/proc/slabinfo").ok()?)
}

fn fuse_inodes_in(slabinfo: &str) -> Option<u64> {
    crate::machine::field(slabinfo, "fuse_inode ")
}

fn bar(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed} [{bar:30}] {human_pos}/{human_len} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style).with_message(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_counts_from_idle() {
        let memory = |resident| Memory { resident, ..Memory::default() };
        let mut growth = Growth {
            target: "x".into(),
            lower: "y".into(),
            idle: memory(1000),
            points: vec![(10, memory(1500)), (20, memory(5000))],
            kernel_inodes: None,
            forgotten: None,
            seconds: 1.0,
            error: None,
        };
        assert_eq!(growth.bytes_per_file(), Some(200.0));
        growth.points.clear();
        assert_eq!(growth.bytes_per_file(), None);
    }

    #[test]
    fn slab_of_inodes_is_found() {
        let text = "slabinfo - version: 2.1\nfuse_request 1 2 3\nfuse_inode        1234   5678 832 39 8\n";
        assert_eq!(fuse_inodes_in(text), Some(1234));
    }

    #[test]
    fn look_up_notices_missing_files_and_other_mounts() {
        let place = tempfile::tempdir().unwrap();
        let plan = Plan { files: 25, per_dir: 10, threads: 2, nofile: 100 };
        let tree = Tree::new(&tree::Lower::Inside(place.path().into())).unwrap();
        plan.make_files(&tree).unwrap();
        assert_eq!(fs::read_dir(tree.path().join(dir_name(2))).unwrap().count(), 5);
        let device = tree::device(tree.path()).unwrap();
        let stop = AtomicBool::new(false);
        look_up(&plan, (tree.path(), device), (0, 25), &stop).unwrap();
        assert!(look_up(&plan, (tree.path(), device + 1), (0, 25), &stop).is_err());
        fs::remove_file(tree.path().join(dir_name(2)).join(file_name(4))).unwrap();
        let error = look_up(&plan, (tree.path(), device), (0, 25), &stop).unwrap_err();
        assert!(error.to_string().contains("file 24 of 25"), "{error}");
    }
}
