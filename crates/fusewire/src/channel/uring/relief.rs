//! What the policy of spreading needs to see of each group of queues, and what it has decided. Runs on the watch's thread.

use super::spread::{SAMPLE, Sample, Spread, idles, read_load};
use crate::channel::watch::Status;
use crate::sys::sched::Load;
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
    /// How many other CPUs there are.
    elsewhere: usize,
    requests: u64,
    home: Load,
    others: Load,
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
        let elsewhere = |home: usize| allowed.iter().filter(|&&cpu| cpu != home).count();
        let group = |&home_cpu: &usize| Relieved {
            spread: Spread::new(elsewhere(home_cpu)),
            elsewhere: elsewhere(home_cpu),
            home_cpu,
            requests: 0,
            home: Load::default(),
            others: Load::default(),
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
        let mut samples: Vec<Sample> = self
            .groups
            .iter_mut()
            .zip(workers)
            .map(|(group, workers)| group.look(elapsed, workers))
            .collect();
        let help: usize = self.groups.iter().map(|group| group.spread.help()).sum();
        let at_work = samples.iter().filter(|sample| !idles(sample.home, elapsed)).count();
        for (group, sample) in self.groups.iter_mut().zip(&mut samples) {
            let others = at_work - usize::from(!idles(sample.home, elapsed)) + help - group.spread.help();
            sample.idle = group.elsewhere.saturating_sub(others);
            group.decide(sample);
        }
    }
}

impl Relieved {
    /// What has happened since the last time; not what happens elsewhere.
    fn look(&mut self, elapsed: Duration, workers: &[Worker]) -> Sample {
        let requests = workers.iter().map(|worker| worker.status.served()).sum();
        let begun = requests - mem::replace(&mut self.requests, requests).min(requests);
        let is_stuck = mem::take(&mut self.was_stuck);
        if begun == 0 && self.spread.help() == 0 {
            return Sample { elapsed, is_stuck, ..Sample::default() };
        }
        let load = |stands_in: bool| {
            let of = workers.iter().filter(|worker| worker.stands_in == stands_in);
            of.filter_map(|worker| worker.status.tid()).map(read_load).fold(Load::default(), Load::plus)
        };
        let (home, others) = (load(false), load(true));
        let mut had = home.since(mem::replace(&mut self.home, home));
        if workers.iter().any(|worker| !worker.stands_in && worker.status.is_aside()) {
            // It waits because it wants to: for its callers.
            had.delay = Duration::ZERO;
        }
        Sample {
            elapsed,
            requests: begun,
            home: had,
            others: others.since(mem::replace(&mut self.others, others)),
            idle: 0,
            is_stuck,
        }
    }

    fn decide(&mut self, sample: &Sample) {
        let before = self.spread.help();
        let help = self.spread.step(sample);
        if help != before {
            tracing::debug!(cpu = self.home_cpu, help, ?sample, "threads of other CPUs help");
        }
    }
}
