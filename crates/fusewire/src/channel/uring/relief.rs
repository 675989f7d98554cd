//! What the policy of spreading needs to see of each group of queues, and what it has decided. Runs on the watch's thread.

use super::spread::{Load, SAMPLE, Sample, Spread, read_idle_time, read_load};
use crate::channel::watch::Status;
use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

/// A thread as its group sees it.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub status: Arc<Status>,
    pub stands_in: bool,
}

/// A group, and what was known of it the last time.
#[derive(Debug)]
struct Relieved {
    spread: Spread,
    home_cpu: usize,
    requests: u64,
    home: Load,
    others: Load,
    /// Time that other CPUs had idled, and when that was.
    idle: Option<(Duration, Instant)>,
    was_stuck: bool,
}

/// All groups of a ring.
#[derive(Debug)]
pub(super) struct Relief {
    groups: Vec<Relieved>,
    allowed: Vec<usize>,
    last: Instant,
}

impl Relief {
    /// For groups whose home threads sit on `homes`, and threads that may run on the CPUs `allowed`.
    pub(super) fn new(homes: &[usize], allowed: &[usize]) -> Self {
        let group = |&home_cpu: &usize| Relieved {
            spread: Spread::new(allowed.iter().filter(|&&cpu| cpu != home_cpu).count()),
            home_cpu,
            requests: 0,
            home: Load::default(),
            others: Load::default(),
            idle: None,
            was_stuck: false,
        };
        Self { groups: homes.iter().map(group).collect(), allowed: allowed.to_vec(), last: Instant::now() }
    }

    /// Is a sample over?
    pub(super) fn is_due(&self) -> bool {
        self.last.elapsed() >= SAMPLE
    }

    /// How many are to help a group.
    pub(super) fn help(&self, group: usize) -> usize {
        self.groups[group].spread.help()
    }

    /// A thread of the group is stuck.
    pub(super) fn stuck(&mut self, group: usize) {
        self.groups[group].was_stuck = true;
    }

    /// Where those sit who help a group.
    pub(super) fn elsewhere(&self, group: usize) -> Vec<usize> {
        let home = self.groups[group].home_cpu;
        self.allowed.iter().copied().filter(|&cpu| cpu != home).collect()
    }

    /// A sample is over. `workers` are the threads of each group.
    pub(super) fn sample(&mut self, workers: &[Vec<Worker>]) {
        let elapsed = mem::replace(&mut self.last, Instant::now()).elapsed();
        for (group, workers) in self.groups.iter_mut().zip(workers) {
            group.sample(elapsed, workers, &self.allowed);
        }
    }
}

impl Relieved {
    fn sample(&mut self, elapsed: Duration, workers: &[Worker], allowed: &[usize]) {
        let requests = workers.iter().map(|worker| worker.status.served()).sum();
        let begun = requests - mem::replace(&mut self.requests, requests).min(requests);
        let was_stuck = mem::take(&mut self.was_stuck);
        if begun == 0 && self.spread.help() == 0 {
            // What the thread did meanwhile counts as of the next sample, which then is longer than it seems: wait for one more.
            self.idle = None;
            self.spread.step(&Sample { elapsed, ..Sample::default() });
            return;
        }
        let load = |stands_in: bool| {
            let of = workers.iter().filter(|worker| worker.stands_in == stands_in);
            of.filter_map(|worker| worker.status.tid()).map(read_load).fold(Load::default(), Load::plus)
        };
        let (home, others) = (load(false), load(true));
        let sample = Sample {
            elapsed,
            requests: begun,
            home: home.since(mem::replace(&mut self.home, home)),
            others: others.since(mem::replace(&mut self.others, others)),
            idle: self.idle(allowed),
            is_stuck: was_stuck,
        };
        let before = self.spread.help();
        let help = self.spread.step(&sample);
        if help != before {
            tracing::debug!(cpu = self.home_cpu, help, ?sample, "threads of other CPUs help");
        }
    }

    /// How many other CPUs have idled since the last time, if somebody wants to know.
    fn idle(&mut self, allowed: &[usize]) -> Option<f64> {
        if !self.spread.is_curious() {
            self.idle = None;
            return None;
        }
        let now = read_idle_time(|cpu| cpu != self.home_cpu && allowed.contains(&cpu));
        let (before, at) = self.idle.replace((now, Instant::now()))?;
        Some(now.saturating_sub(before).as_secs_f64() / at.elapsed().as_secs_f64().max(1e-9))
    }
}
