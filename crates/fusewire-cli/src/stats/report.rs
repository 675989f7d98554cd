//! What is told of a mount: the document behind `fusewire stats --json`, the table and the metrics.
//!
//! Fields are added and never change their meaning; a change that breaks readers would raise [`SCHEMA`].

use std::time::Duration;

use fusewire::session::{Latency, OperationStats, Stats};
use fusewire_fs::PolicySwitch;
use fusewire_fs::passthrough::FeedStats;
use serde::{Deserialize, Serialize};

use super::process::Process;

/// Version of the form.
pub const SCHEMA: u32 = 1;

/// Everything, since the mount was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the program that serves.
    pub version: String,
    /// Number of the connection, as below `/sys/fs/fuse/connections`.
    pub connection: u64,
    /// Where it is mounted.
    pub mountpoint: String,
    /// What is shown.
    pub source: String,
    /// `passthrough`, `mem` or `null`.
    pub fs: String,
    /// The caching profile.
    pub cache: String,
    /// How requests come: `dev-fuse` or `uring`.
    pub channel: String,
    /// Threads that serve them.
    pub threads: usize,
    /// Entries of the ring, or buffers of readers, that were made so far: as many requests can have been in flight.
    pub slots: u64,
    /// Features that both sides agreed on, by the names of the protocol.
    pub features: Vec<String>,
    /// Seconds since it was mounted.
    pub seconds: f64,
    /// Requests of all operations. INIT is not counted.
    pub requests: u64,
    /// Those that were answered with an error.
    pub errors: u64,
    /// Those being served now.
    pub in_flight: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Requests that were not what the protocol says; not among `requests`.
    pub refused: u64,
    /// Bytes that READ was answered with.
    pub read_bytes: u64,
    /// Bytes that WRITE took.
    pub written_bytes: u64,
    /// Those of both that were not copied: over a ring with zero copy.
    #[serde(default)]
    pub zero_copy_bytes: u64,
    /// Where metrics are served, if they are.
    #[serde(default)]
    pub metrics: Option<String>,
    /// Whether times are kept.
    pub timed: bool,
    /// Those that were asked for, in the order of their numbers.
    pub operations: Vec<Operation>,
    /// What the kernel was told that spares requests.
    pub spared: Spared,
    /// What is heard of changes that others make to the source, with coherent caches.
    #[serde(default)]
    pub changes: Option<Changes>,
    /// What was refused by rules, and answered by the kernel in the server's stead, where there are rules or such answers.
    #[serde(default)]
    pub policy: Option<Refusals>,
    /// What the process uses.
    pub process: Process,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Its number in the protocol.
    pub opcode: u32,
    /// Its name there, such as `LOOKUP`.
    pub name: String,
    /// Requests.
    pub requests: u64,
    /// Those that were answered with an error.
    pub errors: u64,
    /// How long they took, if times are kept.
    pub latency: Option<Times>,
}

/// How long the requests of one operation took, from when they reached a slot until their answer was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// How many were timed.
    pub count: u64,
    /// All together.
    pub sum_ns: u64,
    /// Median, right within a quarter as all quantiles here.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// Classes, four to each doubling, those with requests in them: upper end in nanoseconds, and number.
    pub classes: Vec<(u64, u64)>,
}

/// What spares requests, as far as the daemon can know it. How many it spared is known to the kernel alone: what it answers from its
/// caches, or by itself, nobody hears of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spared {
    /// Replies to OPEN, OPENDIR, CREATE and TMPFILE.
    pub opens: u64,
    /// Those with which the kernel reads, writes and maps the file by itself: no READ, no WRITE.
    pub forwarded: u64,
    /// Those without FLUSH: one fewer at least when each is closed.
    pub no_flush: u64,
    /// Those that left the page cache valid.
    pub keep_cache: u64,
    /// Those that let the kernel keep the listing.
    pub cache_dir: u64,
    /// Lookups answered with «there is none, remember that».
    pub negative_entries: u64,
    /// Operations that were answered ENOSYS, for which the kernel never asks again.
    pub never_again: Vec<Never>,
}

/// What is heard of changes to the source, and told to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Changes that were heard of, several at once counting once.
    pub events: u64,
    /// Those that the mount's own clients asked for.
    pub own: u64,
    /// Notifications to the kernel.
    pub notifications: u64,
    /// Those that are due: some things are told once more later, and what keeps changing not each time.
    pub due: u64,
    /// How often events were lost, and everything was dropped.
    pub overflows: u64,
    /// Files and directories that are watched one by one, where the filesystem is not as a whole.
    pub watched: u64,
    /// The longest time from reading of a change to the kernel's having been told, in microseconds.
    pub longest_us: u64,
}

impl From<FeedStats> for Changes {
    fn from(stats: FeedStats) -> Self {
        let FeedStats { events, own, notifications, due, overflows, watched, longest_us, .. } = stats;
        Self { events, own, notifications, due, overflows, watched, longest_us }
    }
}

/// What rules refused, and what the kernel answered by itself (BPF LSM).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Refusals {
    /// Requests that were refused by rules.
    pub by_requests: u64,
    /// What the kernel refused without a request.
    pub by_kernel: u64,
    /// Questions for attributes that are absent, answered by the kernel without a request.
    pub absent_by_kernel: u64,
}

impl From<&PolicySwitch> for Refusals {
    fn from(switch: &PolicySwitch) -> Self {
        let (by_kernel, absent_by_kernel) = switch.answered_by_kernel();
        Self { by_requests: switch.denials(), by_kernel, absent_by_kernel }
    }
}

/// An operation that is not asked for any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Never {
    /// Its name.
    pub name: String,
    /// What the kernel does instead.
    pub instead: String,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl From<&Latency> for Times {
    fn from(latency: &Latency) -> Self {
        Self {
            count: latency.count(),
            sum_ns: nanos(latency.sum()),
            p50_ns: nanos(latency.quantile(0.5)),
            p90_ns: nanos(latency.quantile(0.9)),
            p99_ns: nanos(latency.quantile(0.99)),
            max_ns: nanos(latency.max()),
            classes: latency.classes().map(|(end, count)| (nanos(end), count)).collect(),
        }
    }
}

impl From<&OperationStats> for Operation {
    fn from(stats: &OperationStats) -> Self {
        Self {
            opcode: stats.opcode as u32,
            name: stats.opcode.name().to_owned(),
            requests: stats.requests,
            errors: stats.errors,
            latency: stats.latency.as_ref().map(Times::from),
        }
    }
}

impl From<&Stats> for Spared {
    fn from(stats: &Stats) -> Self {
        let never = |op: &OperationStats| {
            let instead = op.never_again?.to_owned();
            Some(Never { name: op.opcode.name().to_owned(), instead })
        };
        Self {
            opens: stats.opens.all,
            forwarded: stats.opens.forwarded,
            no_flush: stats.opens.no_flush,
            keep_cache: stats.opens.keep_cache,
            cache_dir: stats.opens.cache_dir,
            negative_entries: stats.negative_entries,
            never_again: stats.operations.iter().filter_map(never).collect(),
        }
    }
}

impl Report {
    /// As it is sent.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Form {
            schema: u32,
        }
        let form: Form = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if form.schema != SCHEMA {
            return Err(format!("its form is {}, and this program reads {SCHEMA}", form.schema));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// In one line.
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// In many.
    pub fn pretty(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The operation of this name.
    pub fn operation(&self, name: &str) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.name == name)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Some report.
    pub fn report() -> Report {
        let times = Times {
            count: 4,
            sum_ns: 40_000,
            p50_ns: 5120,
            p90_ns: 20_480,
            p99_ns: 20_480,
            max_ns: 20_000,
            classes: vec![(5120, 3), (20_480, 1)],
        };
        Report {
            schema: SCHEMA,
            version: "0.1.0".into(),
            connection: 77,
            mountpoint: "/mnt/\u{1b}[31ma".into(),
            source: "/srv/\"a\"".into(),
            fs: "passthrough".into(),
            cache: "auto".into(),
            channel: "dev-fuse".into(),
            threads: 2,
            slots: 3,
            features: vec!["ASYNC_READ".into()],
            seconds: 90.0,
            requests: 10,
            errors: 1,
            in_flight: 1,
            panics: 0,
            refused: 0,
            read_bytes: 3 << 20,
            written_bytes: 100,
            zero_copy_bytes: 0,
            metrics: None,
            timed: true,
            operations: vec![
                Operation { opcode: 1, name: "LOOKUP".into(), requests: 4, errors: 1, latency: Some(times) },
                Operation { opcode: 14, name: "OPEN".into(), requests: 6, errors: 0, latency: None },
            ],
            spared: Spared {
                opens: 6,
                forwarded: 5,
                never_again: vec![Never { name: "FLUSH".into(), instead: "close succeeds".into() }],
                ..Spared::default()
            },
            changes: Some(Changes { events: 7, own: 4, notifications: 9, ..Changes::default() }),
            policy: Some(Refusals { by_requests: 2, by_kernel: 30, absent_by_kernel: 400 }),
            process: Process { pid: 1, threads: 4, ..Process::default() },
        }
    }

    #[test]
    fn a_report_comes_back_as_it_was_sent() {
        let report = report();
        assert_eq!(Report::parse(&report.line()), Ok(report.clone()));
        assert_eq!(Report::parse(&report.pretty()), Ok(report.clone()));
        let newer = report.line().replacen('{', "{\"more\":[1],", 1);
        assert_eq!(Report::parse(&newer), Ok(report), "fields may be added");
    }

    #[test]
    fn what_is_no_report_is_refused() {
        assert!(Report::parse("").is_err() && Report::parse("{}").is_err());
        let other = report().line().replace("\"schema\":1", "\"schema\":2");
        assert!(Report::parse(&other).expect_err("another form").contains("its form is 2"));
    }
}
