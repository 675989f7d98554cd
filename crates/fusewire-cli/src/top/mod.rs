//! `fusewire top`: the requests of every FUSE mount of the machine, as they happen.

mod args;
pub mod connections;
mod json;
mod sample;
mod screen;
mod terminal;
pub mod text;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fusewire_bpf::Refused;

use crate::failure::{Failure, Outcome};
use crate::pages::print;
pub use args::{EXAMPLES, TopArgs};
use connections::Connections;
pub use json::micros;
use sample::{Sample, Sampler, Wishes};
pub use sample::{monotonic_ns, name_of};

/// Shows requests until the user has seen enough.
///
/// # Errors
/// If `MNT` is no FUSE mount, or the terminal or standard output cannot be used.
pub fn run(args: &TopArgs) -> Outcome<()> {
    let connections = Connections::scan();
    let only = args.mountpoint.as_deref().map(|point| connection_at(&connections, point)).transpose()?;
    let wishes = Wishes { only, split: args.split, stuck: args.stuck };
    let mut sampler = Sampler::start(wishes, connections);
    if args.json {
        return print_json(args, &mut sampler);
    }
    if std::io::stdout().is_terminal() && !args.once {
        return terminal::run(&mut sampler, args.interval);
    }
    sampler.sample().map_err(|refused| failure(&refused))?;
    let ended = signals()?;
    end_after(args.interval, &ended);
    let sample = sampler.sample().map_err(|refused| failure(&refused))?;
    print(text::sample(&sample).as_bytes())
}

/// The connection that is mounted there.
///
/// # Errors
/// If there is none.
pub fn connection_at(connections: &Connections, point: &Path) -> Outcome<u32> {
    // Links in the directories above are followed; the mount itself is not touched, as it may hang.
    let absolute = match (
        point.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }),
        point.file_name(),
    ) {
        (Some(parent), Some(name)) => parent.canonicalize().map(|parent| parent.join(name)),
        _ => point.canonicalize(),
    };
    let found = absolute.ok().and_then(|point| connections.at(&point)).or_else(|| connections.at(point));
    found.ok_or_else(|| {
        Failure::new(format!("no FUSE filesystem is mounted on {}", point.display()))
            .or_try("fusewire top --once, which lists all FUSE mounts")
    })
}

/// What was refused, and what to do about it.
pub fn failure(refused: &Refused) -> Failure {
    Failure::new(format!("cannot watch requests: {refused}")).or_try(refused.remedy())
}

/// Set once a signal asks for the end.
///
/// # Errors
/// If the signals cannot be caught.
pub fn signals() -> Outcome<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))
            .map_err(|error| Failure::because(format_args!("cannot catch signal {signal}"), &error))?;
    }
    Ok(ended)
}

/// One line at once, which tells that counting has begun, and one for each interval.
fn print_json(args: &TopArgs, sampler: &mut Sampler) -> Outcome<()> {
    let ended = signals()?;
    let mut sample = sampler.sample().map_err(|refused| failure(&refused))?;
    if args.once {
        end_after(args.interval, &ended);
        sample = sampler.sample().map_err(|refused| failure(&refused))?;
        return print_line(&sample).map(drop);
    }
    while print_line(&sample)? && !end_after(args.interval, &ended) {
        sample = sampler.sample().map_err(|refused| failure(&refused))?;
    }
    Ok(())
}

/// Whether there is still somebody who reads.
fn print_line(sample: &Sample) -> Outcome<bool> {
    print_or_end(format!("{}\n", json::sample(sample)).as_bytes())
}

/// Writes to standard output; `false` if nobody reads it any more.
///
/// # Errors
/// Any other failure to write.
pub fn print_or_end(bytes: &[u8]) -> Outcome<bool> {
    use std::io::Write;
    let mut output = std::io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::because("cannot write to standard output", &error)),
    }
}

/// Waits; whether a signal came meanwhile.
fn end_after(time: Duration, ended: &AtomicBool) -> bool {
    let until = Instant::now() + time;
    while !ended.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
    true
}
