//! `fusewire stats`: what a mount has been asked for, from the process that serves it.

mod live;
mod metrics;
mod process;
mod report;
mod socket;
mod table;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use fusewire::mount::{MountEntry, fuse_mounts};
use fusewire::remedy::quoted;

use crate::failure::{Failure, Outcome};
use crate::unmount;

use metrics::Endpoint;

pub use live::{Before, Facts, Live};
use report::Report;

/// What stands below the options.
pub const EXAMPLES: &str = "\
Examples:
  fusewire stats /mnt/data                requests by operation since it was mounted
  fusewire stats --watch 2 /mnt/data      again every 2 seconds, with requests per second
  fusewire stats --json /mnt/data | jq    for a program; the fields only ever become more

How long requests take is told if the mount was made with --stats or --metrics: it costs two looks at the clock for each.

The process that serves the mount is asked through a socket, /run/fusewire/NUMBER.sock or below /run/user/UID, which only \
its user and root can open. Neither the mount nor the directory behind it is touched, so that this works on a mount that hangs.

What the kernel answers by itself is no request and cannot be counted here; compare with a mount of --cache none, or see \
the preset `requests` of fusewire bench.";

/// What `fusewire stats` takes.
#[derive(Args, Debug)]
pub struct StatsArgs {
    /// The mount point
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    pub mountpoint: PathBuf,
    /// Print JSON; with --watch a line each time
    #[arg(long)]
    pub json: bool,
    /// Again every so many seconds, until the mount ends or Ctrl-C
    #[arg(long, value_name = "SECONDS", value_parser = interval)]
    pub watch: Option<Duration>,
}

/// What `fusewire mount` takes for it.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Watching")]
pub struct ShowArgs {
    /// Time requests, and print requests by operation when the mount ends, and on SIGUSR1
    #[arg(long)]
    pub stats: bool,
    /// Time requests, and serve metrics in the form of OpenMetrics, which Prometheus reads, at http://ADDR:PORT/metrics; a
    /// port alone is of 127.0.0.1. Whoever can connect can read them
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = metrics::address)]
    pub metrics: Option<std::net::SocketAddr>,
}

impl ShowArgs {
    /// Whether requests have to be timed.
    pub fn is_timed(&self) -> bool {
        self.stats || self.metrics.is_some()
    }

    /// One of its words in `-o`.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn word(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "metrics" => self.metrics = Some(metrics::address(value)?),
            _ => self.stats = true,
        }
        Ok(())
    }
}

/// Whether metrics can be served where they are asked for.
///
/// # Errors
/// If the port is taken, or this user may not have it.
pub fn try_metrics(show: &ShowArgs) -> Outcome<()> {
    show.metrics.map(Endpoint::listen).transpose().map(drop)
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds from 0.1 to 86400 is needed".into()),
    }
}

/// Prints what a mount was asked for.
///
/// # Errors
/// If nothing of fusewire is mounted there, or its process does not answer.
pub fn run(args: &StatsArgs) -> Outcome<()> {
    let entry = find(&args.mountpoint)?;
    let mut before = ask(&entry)?;
    show(args, &before, None)?;
    let Some(interval) = args.watch else { return Ok(()) };
    let mut next = Instant::now();
    loop {
        next = (next + interval).max(Instant::now());
        thread::sleep(next - Instant::now());
        if !is_there(&entry) {
            return Ok(());
        }
        let now = match ask(&entry) {
            Ok(now) => now,
            Err(_) if !is_there(&entry) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        show(args, &now, Some(&before))?;
        before = now;
    }
}

fn show(args: &StatsArgs, report: &Report, before: Option<&Report>) -> Outcome<()> {
    const CLEAR: &str = "\x1b[H\x1b[J";
    let text = match (args.json, args.watch) {
        (false, _) => table::text(report, before),
        (true, None) => report.pretty() + "\n",
        (true, Some(_)) => report.line() + "\n",
    };
    let mut output = io::stdout().lock();
    let clear = if args.watch.is_some() && !args.json && output.is_terminal() { CLEAR } else { "" };
    match output.write_all([clear, &text].concat().as_bytes()).and_then(|()| output.flush()) {
        // Whoever read has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::told_already()),
        other => other.map_err(|error| Failure::because("cannot write to standard output", &error)),
    }
}

/// The mount of this path, from the kernel's table alone.
fn find(path: &Path) -> Outcome<MountEntry> {
    let mounts =
        fuse_mounts().map_err(|error| Failure::because("cannot read the table of mounts", &error))?;
    // As it was written first: to resolve it means to look at directories, some of which may hang.
    let plain = std::path::absolute(path).ok().and_then(|path| {
        mounts.iter().rfind(|entry| entry.mountpoint == path.components().collect::<PathBuf>())
    });
    if let Some(entry) = plain.cloned().or_else(|| unmount::find(path)) {
        return Ok(entry);
    }
    let ours: Vec<_> = mounts.iter().filter(|entry| entry.subtype() == Some("fusewire")).collect();
    let failure = Failure::new(format!("{} is no mount point of a FUSE filesystem", path.display()));
    Err(match ours.len() {
        0 => failure.or_try("fusewire mount SRC MNT, to make one"),
        1..=8 => ours.iter().fold(failure, |failure, entry| {
            failure.or_try(format!("fusewire stats {}", entry.mountpoint.display()))
        }),
        _ => failure.or_try("findmnt -t fuse.fusewire, to see them all"),
    })
}

fn is_there(entry: &MountEntry) -> bool {
    let same = |other: &MountEntry| other.id == entry.id && other.device == entry.device;
    fuse_mounts().is_ok_and(|mounts| mounts.iter().any(same))
}

fn ask(entry: &MountEntry) -> Outcome<Report> {
    let place = entry.mountpoint.display();
    let text = socket::ask(entry).map_err(|refusal| explain(entry, &refusal))?;
    Report::parse(&text).map_err(|why| {
        Failure::new(format!("the process that serves {place} sent no statistics: {why}"))
            .or_try("to mount it again with this version of fusewire")
    })
}

fn explain(entry: &MountEntry, refusal: &socket::Refusal) -> Failure {
    let place = entry.mountpoint.display();
    match refusal {
        socket::Refusal::NoSocket(_) if entry.subtype() != Some("fusewire") => Failure::new(format!(
            "{place} is served by another program than fusewire (its type is {}), which cannot be asked",
            entry.fstype
        ))
        .or_try(format!("fusewire top {}, which watches the mounts of any program", quoted(&entry.mountpoint))),
        socket::Refusal::NoSocket(paths) => {
            let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            Failure::new(format!(
                "the process that serves {place} offers no statistics: there is no socket {}; it may be of an older \
                 version, or not have been allowed to make one (it says so in its log)",
                paths.join(" or ")
            ))
            .or_try("to mount it again with this version of fusewire")
        }
        socket::Refusal::Dead(path) => Failure::new(format!(
            "nobody serves {place} any more: {} is left over from a process that was killed",
            path.display()
        ))
        .or_try(format!("fusewire unmount --abort {place}")),
        socket::Refusal::Failed(path, error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Failure::new(format!(
                "you may not ask the process that serves {place}: {} is another user's",
                path.display()
            ))
            .or_try("the same as root, or as the user who mounted it")
        }
        socket::Refusal::Failed(path, error) if socket::is_timeout(error) => Failure::new(format!(
            "the process that serves {place} does not answer at {}: it may be stopped, or be starved of CPU time",
            path.display()
        ))
        .or_try(format!("fusewire unmount --abort {place}, if others wait for it, too")),
        socket::Refusal::Failed(path, error) => Failure::because(
            format_args!("cannot ask the process that serves {place} at {}", path.display()),
            error,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_checked() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "NaN", "inf", "x", "86401"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_mount_is_said_so() {
        let place = tempfile::tempdir().expect("temporary directory");
        let failure = find(place.path()).expect_err("it is no mount").to_string();
        assert!(failure.contains("is no mount point") && failure.contains("try:"), "{failure}");
    }
}
