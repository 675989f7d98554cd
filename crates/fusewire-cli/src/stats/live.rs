//! In the process that serves: who asks gets a report.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use fusewire::server::{Channel, ServerHandle};
use fusewire_fs::PolicySwitch;
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use super::process::Process;
use super::report::{Changes, Operation, Refusals, Report, SCHEMA, Spared};
use super::socket::{Place, Socket};
use super::{Endpoint, ShowArgs, table};
use crate::failure::Outcome;
use crate::logging;
use crate::mount::InForce;
use crate::tell::tell;

/// What has to be had before there is a mount.
#[derive(Debug)]
pub struct Before {
    place: Option<Place>,
    endpoint: Option<Endpoint>,
}

impl Before {
    /// Finds a place for the socket, without which one can do, and listens where metrics are asked for.
    ///
    /// # Errors
    /// If metrics cannot be served there.
    pub fn prepare(show: &ShowArgs) -> Outcome<Self> {
        let endpoint = show.metrics.map(Endpoint::listen).transpose()?;
        let place = Place::find()
            .inspect_err(|error| tracing::info!(%error, "fusewire stats will not work with this mount"))
            .ok();
        Ok(Self { place, endpoint })
    }
}

/// What is known of a mount beside what was served.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What is shown.
    pub source: PathBuf,
    /// The filesystem.
    pub fs: String,
    /// The caching profile in force.
    pub cache: InForce,
    /// The rules in force and the answers of the kernel, if there are any.
    pub policy: Option<PolicySwitch>,
}

/// Makes reports of one mount.
struct Source {
    handle: ServerHandle,
    facts: Facts,
    metrics: Option<String>,
    began: Instant,
}

/// Tells of a mount for as long as it lasts.
pub struct Live {
    source: Arc<Source>,
    /// Dropped, its name goes.
    _socket: Option<Socket>,
    prints: bool,
    is_daemon: bool,
}

impl Live {
    /// Begins. What cannot be had is said in the log; a mount is worth more than its statistics.
    pub fn start(
        handle: ServerHandle,
        facts: Facts,
        (show, before): (&ShowArgs, Before),
        (is_daemon, quiet): (bool, bool),
    ) -> Self {
        let Before { place, endpoint } = before;
        let metrics = endpoint.as_ref().map(Endpoint::url);
        let source = Arc::new(Source { handle, facts, metrics, began: Instant::now() });
        let of = |source: &Arc<Source>| {
            let source = source.clone();
            move || source.report()
        };
        let report = of(&source);
        let socket = place.and_then(|place| {
            Socket::serve(place, source.handle.connection(), move || report().line())
                .inspect(
                    |socket| tracing::debug!(path = %socket.path().display(), "statistics can be asked for"),
                )
                .inspect_err(|error| tracing::info!(%error, "fusewire stats will not work with this mount"))
                .ok()
        });
        if let Some(endpoint) = endpoint {
            // Whoever let the system choose the port wants to know it.
            if !is_daemon && !quiet {
                tell(format_args!("metrics at {}", endpoint.url()));
            }
            endpoint.serve(of(&source));
        }
        // Also without --stats: a signal that nobody catches would end the server, and leave a dead mount.
        print_on_signal(of(&source), is_daemon);
        Self { source, _socket: socket, prints: show.stats, is_daemon }
    }

    /// The mount has ended.
    pub fn finish(self) {
        if self.prints {
            print(&self.source.report(), self.is_daemon);
        }
    }
}

impl Source {
    fn report(&self) -> Report {
        let (stats, handle) = (self.handle.stats(), &self.handle);
        let channel = if handle.channel() == Channel::Uring { "uring" } else { "dev-fuse" };
        Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").into(),
            connection: handle.connection(),
            mountpoint: handle.mountpoint().to_string_lossy().into_owned(),
            source: self.facts.source.to_string_lossy().into_owned(),
            fs: self.facts.fs.clone(),
            cache: self.facts.cache.to_string(),
            channel: channel.into(),
            threads: handle.threads(),
            slots: stats.slots,
            features: handle.agreed().flags.iter_names().map(|(name, _)| name.to_owned()).collect(),
            seconds: self.began.elapsed().as_secs_f64(),
            requests: stats.requests(),
            errors: stats.errors(),
            in_flight: stats.in_flight,
            panics: stats.panics,
            refused: stats.refused,
            read_bytes: stats.read_bytes,
            written_bytes: stats.written_bytes,
            zero_copy_bytes: stats.zero_copy_bytes,
            metrics: self.metrics.clone(),
            timed: stats.timed,
            operations: stats.operations.iter().map(Operation::from).collect(),
            spared: Spared::from(&stats),
            changes: self.facts.cache.feed_stats().map(Changes::from),
            policy: self.facts.policy.as_ref().map(Refusals::from),
            process: Process::current(),
        }
    }
}

/// On the terminal of whoever mounted, or in the log if there is none.
fn print(report: &Report, is_daemon: bool) {
    let text = table::text(report, None);
    if is_daemon {
        // They were asked for: whatever else is logged.
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.for_each(|line| tracing::info!(target: logging::ASKED_FOR, "{line}"));
    } else {
        tell(text.trim_end());
    }
}

fn print_on_signal(report: impl Fn() -> Report + Send + 'static, is_daemon: bool) {
    let started = Signals::new([SIGUSR1]).and_then(|mut signals| {
        thread::Builder::new()
            .name("stats-signal".into())
            .spawn(move || signals.forever().for_each(|_| print(&report(), is_daemon)))
    });
    if let Err(error) = started {
        tracing::warn!(%error, "statistics will not be printed on SIGUSR1");
    }
}
