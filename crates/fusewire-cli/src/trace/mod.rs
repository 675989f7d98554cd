//! `fusewire trace`: each request of the FUSE mounts of the machine, once it is answered.

mod args;
mod errno;

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fusewire_bpf::requests::{Event, Events, Filter, Lines, Missed};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Outcome};
use crate::tell::tell;
use crate::top::connections::Connections;
use crate::top::{connection_at, failure, micros, monotonic_ns, name_of, print_or_end, signals, text};
pub use args::{EXAMPLES, TraceArgs};

/// How often is looked whether something was lost, and whether the end is asked for.
const PATIENCE: Duration = Duration::from_millis(100);
/// Lines that are written at once when there are many.
const BATCH: usize = 256;

/// Prints requests until a signal, or `--count`.
///
/// # Errors
/// If `MNT` is no FUSE mount, the kernel does not load the programs, or standard output cannot be written to.
pub fn run(args: &TraceArgs) -> Outcome<()> {
    let connections = Connections::scan();
    let connection =
        args.mountpoint.as_deref().map(|point| connection_at(&connections, point)).transpose()?;
    let filter = Filter {
        connection,
        opcodes: args.operations.clone(),
        process: args.pid,
        slower: Duration::from_micros(args.slow),
        split: args.split,
    };
    let ended = signals()?;
    let (events, lines) = Events::start(&filter).map_err(|refused| failure(&refused))?;
    for note in events.split().into_iter().flat_map(|split| split.refused()) {
        tell(format_args!("fusewire: {note}"));
    }
    tell("fusewire: requests are told of as they are answered; Ctrl-C ends");
    let mut printer = Printer { args, connections, clock: Clock::now(), told: 0, lost: Missed::default() };
    let outcome = printer.follow(&events, lines, || ended.load(Ordering::Relaxed));
    printer.tell_lost(&events);
    let lost = printer.lost;
    tell(format_args!("fusewire: {} requests, {} lost", printer.told, lost.events + lost.requests));
    outcome
}

struct Printer<'a> {
    args: &'a TraceArgs,
    connections: Connections,
    clock: Clock,
    told: u64,
    lost: Missed,
}

impl Printer<'_> {
    fn follow(&mut self, events: &Events, mut lines: Lines, is_over: impl Fn() -> bool) -> Outcome<()> {
        loop {
            let mut text = String::new();
            let mut count = 0;
            while count < BATCH && self.left() > 0 {
                let Some(event) = lines.take() else { break };
                self.told += 1;
                count += 1;
                text.push_str(&self.line(&event));
                text.push('\n');
            }
            if count > 0 && !print_or_end(text.as_bytes())? {
                return Ok(());
            }
            self.tell_lost(events);
            // What is there already is still told when the end is asked for, unless more keeps coming.
            if self.left() == 0 || is_over() && count < BATCH {
                return Ok(());
            }
            if count == 0 {
                lines.wait(PATIENCE).map_err(|error| Failure::because("cannot wait for requests", &error))?;
            }
        }
    }

    fn left(&self) -> u64 {
        self.args.count.map_or(u64::MAX, |count| count - self.told)
    }

    fn tell_lost(&mut self, events: &Events) {
        let lost = events.missed();
        if lost != self.lost {
            let now = lost.events + lost.requests - self.lost.events - self.lost.requests;
            tell(format_args!("fusewire: {now} requests came too fast and were lost"));
            self.lost = lost;
        }
    }

    fn line(&mut self, event: &Event) -> String {
        self.connections.refresh([event.start.connection]);
        let mount = self.connections.name(event.start.connection);
        if self.args.json {
            return self.json(event, &mount).to_string();
        }
        let start = &event.start;
        let name = if event.name().is_empty() { String::new() } else { format!(" {:?}", event.name()) };
        let taken =
            if event.is_timed() { text::duration(event.answered_ns - start.sent_ns) } else { "?".into() };
        let queue = match self.args.split {
            true if start.taken_ns > 0 => {
                format!(" (queue {})", text::duration(start.taken_ns - start.sent_ns))
            }
            true => " (queue ?)".to_owned(),
            false => String::new(),
        };
        format!(
            "{} {mount} {:<11} node {}{name}  {} ({})  {taken}{queue}  {}",
            self.clock.time_of_day(start.sent_ns),
            name_of(start.opcode),
            start.node,
            if event.is_timed() { start.comm() } else { "?".to_owned() },
            start.process,
            outcome(event),
        )
    }

    fn json(&self, event: &Event, mount: &str) -> Value {
        let start = &event.start;
        let mut object = Map::new();
        object.insert("time".into(), self.clock.seconds(start.sent_ns).into());
        object.insert("connection".into(), start.connection.into());
        object.insert("mount".into(), mount.into());
        object.insert("operation".into(), name_of(start.opcode).into());
        object.insert("opcode".into(), start.opcode.into());
        object.insert("unique".into(), start.unique.into());
        object.insert("node".into(), start.node.into());
        object.insert("name".into(), Some(event.name()).filter(|name| !name.is_empty()).into());
        object.insert("pid".into(), start.process.into());
        object.insert("tid".into(), start.thread.into());
        object.insert("comm".into(), start.comm().into());
        let latency = event.is_timed().then(|| micros(event.answered_ns - start.sent_ns));
        object.insert("latency_us".into(), latency.into());
        if self.args.split {
            let queue = (start.taken_ns > 0).then(|| micros(start.taken_ns - start.sent_ns));
            object.insert("queue_us".into(), queue.into());
            object.insert(
                "service_us".into(),
                queue.and(latency).map(|_| micros(event.answered_ns - start.taken_ns)).into(),
            );
        }
        object.insert("error".into(), error(event).map_or(Value::Null, Value::from));
        object.insert("errno".into(), json!(-event.error));
        object.insert("bytes_in".into(), event.bytes_in.into());
        object.insert("bytes_out".into(), event.bytes_out.into());
        object.insert("server".into(), event.answered_by().into());
        object.into()
    }
}

fn error(event: &Event) -> Option<String> {
    let number = -event.error;
    (number != 0).then(|| errno::name(number).map_or_else(|| format!("error {number}"), str::to_owned))
}

fn outcome(event: &Event) -> String {
    error(event).unwrap_or_else(|| format!("ok {} -> {}", event.bytes_in, event.bytes_out))
}

/// Times of the kernel's programs as times of day.
struct Clock {
    /// Nanoseconds from 1970 to the beginning of the monotonic clock.
    offset: u128,
}

impl Clock {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { offset: since.as_nanos().saturating_sub(u128::from(monotonic_ns())) }
    }

    fn seconds(&self, ns: u64) -> f64 {
        ((self.offset + u128::from(ns)) / 1000) as f64 / 1e6
    }

    fn time_of_day(&self, ns: u64) -> String {
        let micros = (self.offset + u128::from(ns)) / 1000;
        let seconds = micros / 1_000_000 % 86_400;
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        format!("{hours:02}:{minutes:02}:{:02}.{:06}", seconds % 60, micros % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day() {
        let clock = Clock { offset: 86_400_000_000_000 };
        assert_eq!(clock.time_of_day(3_723_000_001_500), "01:02:03.000001");
    }

    #[test]
    fn errors_have_names() {
        assert_eq!(errno::name(libc::ENOENT), Some("ENOENT"));
        assert_eq!(errno::name(4000), None);
    }
}
