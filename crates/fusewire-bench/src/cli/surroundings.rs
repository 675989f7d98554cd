//! What every measurement needs: a namespace, a place for mount points, and a watchdog.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::PlaceArgs;
use crate::client::Pin;
use crate::daemon::{Mounted, Site};
use crate::guests::{self, Guests};
use crate::memory::{self, Growth};
use crate::mounts;
use crate::results::Row;
use crate::run;
use crate::target::Target;
use crate::tree::{Lower, Tree};
use crate::watchdog::Watchdog;

pub struct Surroundings {
    work: TempDir,
    watchdog: Watchdog,
}

impl Surroundings {
    pub fn new(place: &PlaceArgs) -> Result<Self> {
        ensure!(place.limit > 0, "--limit must be at least 1");
        mounts::enter_private_namespace()?;
        let work = tempfile::Builder::new()
            .prefix("fusewire-bench-")
            .tempdir()
            .context("cannot make a directory for mount points")?;
        Ok(Self { work, watchdog: Watchdog::start(Duration::from_secs(place.limit))? })
    }

    /// Does all rows of a plan on one lower filesystem. What was done before an error is returned with it.
    pub fn compare(&self, plan: &run::Plan, targets: &[Target], lower: &Lower) -> (Vec<Row>, Result<()>) {
        let work = match self.subdirectory() {
            Ok(work) => work,
            Err(error) => return (Vec::new(), Err(error)),
        };
        let tree = match Tree::new(lower).and_then(|tree| tree.fill().map(|()| tree)) {
            Ok(tree) => tree,
            Err(error) => return (Vec::new(), Err(error)),
        };
        let mut mounted = Vec::new();
        let site = Site { src: tree.path(), work: work.path(), pin: plan.pin, nofile: None };
        let (rows, mut done) = match self.start_all(targets, (&tree, &site), &mut mounted) {
            Ok(()) => run::Comparison::new(plan, (lower.to_string(), &tree), &mounted, &self.watchdog).run(),
            Err(error) => (Vec::new(), Err(error)),
        };
        for target in mounted {
            if let Some(connection) = target.connection() {
                self.watchdog.remove(connection);
            }
            let stopped = target.stop();
            done = done.and(stopped);
        }
        (rows, done)
    }

    fn start_all(
        &self,
        targets: &[Target],
        (tree, site): (&Tree, &Site<'_>),
        mounted: &mut Vec<Mounted>,
    ) -> Result<()> {
        for target in targets {
            self.watchdog.step()?;
            let one = Mounted::start(target, site)?;
            if let Some(connection) = one.connection() {
                self.watchdog.add(connection);
            }
            let ready = match &one.own {
                Some(own) => own.fill(),
                None if one.guest.is_some() => one.guest.as_ref().map_or(Ok(()), |guest| guest.verify(tree)),
                None if one.uses_files() => tree.verify(&one.root),
                None => Ok(()),
            };
            let ready = ready.and_then(|()| one.check_ring());
            mounted.push(one);
            ready.with_context(|| format!("{} does not work", target.name))?;
        }
        Ok(())
    }

    /// Measures the memory of each target on one lower filesystem.
    pub fn grow(
        &self,
        plan: &memory::Plan,
        targets: &[&Target],
        lower: &Lower,
        growth: &mut Vec<Growth>,
    ) -> Result<()> {
        let work = self.subdirectory()?;
        let tree = Tree::new(lower)?;
        plan.make_files(&tree)?;
        for target in targets {
            self.watchdog.step()?;
            let site =
                Site { src: tree.path(), work: work.path(), pin: Pin::Free, nofile: Some(plan.nofile) };
            growth.push(memory::measure(plan, target, &lower.to_string(), (&site, &self.watchdog))?);
        }
        Ok(())
    }

    /// Measures the memory of devices on one lower filesystem, with so many idle guests at most.
    pub fn with_guests(
        &self,
        (nofile, many): (u64, usize),
        targets: &[&Target],
        lower: &Lower,
        measured: &mut Vec<Guests>,
    ) -> Result<()> {
        let work = self.subdirectory()?;
        let tree = Tree::new(lower)?;
        tree.fill()?;
        for target in targets {
            self.watchdog.step()?;
            let site = Site { src: tree.path(), work: work.path(), pin: Pin::Free, nofile: Some(nofile) };
            measured.push(guests::measure(target, &lower.to_string(), (&site, &self.watchdog), many)?);
        }
        Ok(())
    }

    /// Mount points of one source directory.
    fn subdirectory(&self) -> Result<TempDir> {
        tempfile::tempdir_in(self.work.path()).context("cannot make a directory for mount points")
    }
}
