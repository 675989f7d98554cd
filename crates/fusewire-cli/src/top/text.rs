//! A sample as lines of text, for `--once`, and how numbers are written.

use std::fmt::Write;

use fusewire_bpf::requests::Part;

use super::sample::{Connection, Figures, Flight, Latency, Sample, name_of};

/// The whole sample.
pub fn sample(sample: &Sample) -> String {
    let mut text = String::new();
    if let Some(refused) = &sample.refused {
        let _ = writeln!(text, "requests cannot be counted: {refused}");
    }
    for note in &sample.notes {
        let _ = writeln!(text, "note: {note}");
    }
    if let Some(missed) = missed(sample) {
        let _ = writeln!(text, "{missed}");
    }
    if sample.connections.is_empty() {
        text.push_str("there is no FUSE mount\n");
    }
    for of in &sample.connections {
        connection(&mut text, of, sample);
    }
    text
}

/// What there was no room for, if anything.
pub fn missed(sample: &Sample) -> Option<String> {
    let missed = sample.missed;
    (missed.requests + missed.events > 0).then(|| {
        format!("missed: {} requests were not timed, {} not counted", missed.requests, missed.events)
    })
}

fn connection(text: &mut String, connection: &Connection, sample: &Sample) {
    let (now, _) = connection.sums();
    let _ = writeln!(
        text,
        "{}  {}  {}  served by {}",
        connection.point(),
        connection.place.kind,
        connection.place.source,
        servers(connection)
    );
    let _ = writeln!(
        text,
        "  {} requests/s, {} in flight, {} stuck, {} waiting",
        per_second(now.count, sample.seconds),
        connection.in_flight.len(),
        connection.stuck(),
        connection.waiting.map_or("?".to_owned(), |waiting| waiting.to_string()),
    );
    if !connection.operations.is_empty() {
        let parts = if sample.split { "     QUEUE   SERVICE      WAKE" } else { "" };
        let _ = writeln!(
            text,
            "  {:<16}{:>9}{:>9}{:>10}{:>10}{:>10}{:>10}{parts}",
            "OPERATION", "REQ/S", "COUNT", "ERRORS", "P50", "P99", "MAX"
        );
    }
    for row in &connection.operations {
        let _ = writeln!(text, "  {}", operation(&name_of(row.opcode), &row.now, sample));
    }
    for line in connection.in_flight.iter().map(in_flight).chain(unseen(connection)) {
        let _ = writeln!(text, "  {line}");
    }
}

/// Requests that the kernel counts and that were not seen being sent, if there are any.
pub fn unseen(connection: &Connection) -> Option<String> {
    let unseen = connection.waiting?.checked_sub(connection.in_flight.len() as u64)?;
    (unseen > 0).then(|| format!("and {unseen} that were sent before counting began, or wait for their turn"))
}

fn operation(name: &str, figures: &Figures, sample: &Sample) -> String {
    let latency = Latency::of(&figures.latency);
    let time =
        |of: fn(&Latency) -> u64| latency.as_ref().map_or("-".to_owned(), |latency| duration(of(latency)));
    let mut line = format!(
        "{name:<16}{:>9}{:>9}{:>10}{:>10}{:>10}{:>10}",
        per_second(figures.count, sample.seconds),
        figures.count,
        figures.errors,
        time(|latency| latency.p50),
        time(|latency| latency.p99),
        time(|latency| latency.max)
    );
    if sample.split {
        for part in [&figures.parts.queue, &figures.parts.service, &figures.parts.wake] {
            let _ = write!(line, "{:>10}", mean(part));
        }
    }
    line
}

/// A request on its way.
pub fn in_flight(flight: &Flight) -> String {
    let start = &flight.start;
    format!(
        "{} {:>9}  {} node {} for {} (pid {})",
        if flight.is_stuck { "stuck    " } else { "in flight" },
        duration(u64::try_from(flight.age.as_nanos()).unwrap_or(u64::MAX)),
        name_of(start.opcode),
        start.node,
        start.comm(),
        start.process
    )
}

/// Who serves a connection.
pub fn servers(connection: &Connection) -> String {
    let mut servers = connection.place.servers.iter();
    let Some(first) = servers.next() else { return "nobody that can be seen".to_owned() };
    let more = servers.len();
    let first = format!("{} ({})", first.name, first.pid);
    if more == 0 { first } else { format!("{first} and {more} more") }
}

/// The mean of a part of the way.
pub fn mean(part: &Part) -> String {
    Latency::of(part).map_or("-".to_owned(), |latency| duration(latency.mean))
}

/// How many in a second, with four digits at most.
pub fn per_second(count: u64, seconds: f64) -> String {
    if seconds <= 0.0 {
        return "-".to_owned();
    }
    let rate = count as f64 / seconds;
    match rate {
        _ if count == 0 => "0".to_owned(),
        _ if rate < 9.95 => format!("{rate:.1}"),
        _ if rate < 99_999.5 => format!("{rate:.0}"),
        _ if rate < 9_999_500.0 => format!("{:.0}k", rate / 1000.0),
        _ => format!("{:.0}M", rate / 1_000_000.0),
    }
}

/// A time in the unit that leaves three digits.
pub fn duration(ns: u64) -> String {
    let scaled = |value: f64, unit: &str| match value {
        _ if value < 9.995 => format!("{value:.2}{unit}"),
        _ if value < 99.95 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    };
    let value = ns as f64;
    match value {
        _ if value < 999.5 => format!("{ns}ns"),
        _ if value < 999.5e3 => scaled(value / 1e3, "us"),
        _ if value < 999.5e6 => scaled(value / 1e6, "ms"),
        _ => scaled(value / 1e9, "s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        let pairs = [(0, "0ns"), (999, "999ns"), (1_000, "1.00us"), (12_345, "12.3us"), (999_499, "999us")];
        for (ns, text) in pairs {
            assert_eq!(duration(ns), text);
        }
        assert_eq!(duration(1_500_000), "1.50ms");
        assert_eq!(duration(61_000_000_000), "61.0s");
        assert!((0..64).all(|shift| duration(1 << shift).len() <= 12));
    }

    #[test]
    fn rates_are_short() {
        assert_eq!(per_second(0, 1.0), "0");
        assert_eq!(per_second(1, 2.0), "0.5");
        assert_eq!(per_second(123_456, 1.0), "123k");
        assert_eq!(per_second(5, 0.0), "-");
    }
}
