//! The report as text for people.

use std::fmt::Write;
use std::time::Duration;

use super::report::{Changes, Operation, Refusals, Report, Spared, Times};

/// The report, with requests per second since `before` if that is given.
pub fn text(report: &Report, before: Option<&Report>) -> String {
    let mut out = head(report, before);
    out += &operations(report, before);
    out += &spared(&report.spared);
    out += &report.changes.as_ref().map(changes).unwrap_or_default();
    out += &report.policy.as_ref().map(refusals).unwrap_or_default();
    out
}

fn head(report: &Report, before: Option<&Report>) -> String {
    let way = if report.channel == "uring" { "io_uring" } else { "/dev/fuse" };
    let plural = |number: u64, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    let mut out = format!(
        "{} on {} ({}, cache {}), over {way}, {}, {}, mounted {} ago\n",
        plain(&report.source),
        plain(&report.mountpoint),
        plain(&report.fs),
        plain(&report.cache),
        plural(report.threads as u64, "thread"),
        plural(report.slots, "slot"),
        humane(report.seconds),
    );
    let _ = writeln!(
        out,
        "{}, {}, {} in flight, {}, {} read, {} written",
        plural(report.requests, "request"),
        plural(report.errors, "error"),
        report.in_flight,
        plural(report.panics, "panic"),
        bytes(report.read_bytes),
        bytes(report.written_bytes),
    );
    if report.zero_copy_bytes > 0 {
        let _ = writeln!(out, "{} of that not copied", bytes(report.zero_copy_bytes));
    }
    if report.refused > 0 {
        let _ = writeln!(out, "{} not as the protocol says, and refused", plural(report.refused, "request"));
    }
    if let Some((before, seconds)) = since(report, before) {
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let _ = writeln!(
            out,
            "in the last {seconds:.1} s: {:.0} requests/s, {}/s read, {}/s written",
            rate(report.requests, before.requests),
            bytes(rate(report.read_bytes, before.read_bytes) as u64),
            bytes(rate(report.written_bytes, before.written_bytes) as u64),
        );
    }
    out
}

fn changes(changes: &Changes) -> String {
    let Changes { events, own, notifications, overflows, .. } = changes;
    let mut out = format!(
        "\nChanges of the source: {events} heard of, {own} of them asked for through the mount; the kernel was told {notifications} times.\n"
    );
    if *overflows > 0 {
        let _ = writeln!(
            out,
            "{overflows} times there were more than could be told of, and everything was dropped."
        );
    }
    out
}

fn refusals(refusals: &Refusals) -> String {
    let Refusals { by_requests, by_kernel, absent_by_kernel } = refusals;
    format!(
        "\nRefused by rules: {by_requests} requests; {by_kernel} times by the kernel, without a request.\n\
         Attributes that are absent: {absent_by_kernel} times the kernel said so, without a request.\n"
    )
}

/// The report before and how much earlier it was, unless it is of another mount.
fn since<'a>(report: &Report, before: Option<&'a Report>) -> Option<(&'a Report, f64)> {
    let before = before?;
    let seconds = report.seconds - before.seconds;
    (before.connection == report.connection && seconds > 0.0).then_some((before, seconds))
}

fn operations(report: &Report, before: Option<&Report>) -> String {
    if report.operations.is_empty() {
        return "\nNothing was asked for so far.\n".into();
    }
    let mut heads = vec!["operation", "requests", "share", "errors"];
    let since = since(report, before);
    if since.is_some() {
        heads.push("per s");
    }
    if report.timed {
        heads.extend(["mean", "p50", "p99", "longest"]);
    }
    let mut sorted: Vec<&Operation> = report.operations.iter().collect();
    sorted.sort_by_key(|operation| std::cmp::Reverse(operation.requests));
    let rows = sorted.into_iter().map(|operation| {
        let share = operation.requests as f64 / report.requests.max(1) as f64 * 100.0;
        let mut row = vec![
            plain(&operation.name),
            operation.requests.to_string(),
            format!("{share:.1} %"),
            if operation.errors == 0 { "-".into() } else { operation.errors.to_string() },
        ];
        if let Some((before, seconds)) = since {
            let then = before.operation(&operation.name).map_or(0, |operation| operation.requests);
            row.push(format!("{:.1}", operation.requests.saturating_sub(then) as f64 / seconds));
        }
        if report.timed {
            row.extend(times(operation.latency.as_ref()));
        }
        row
    });
    let heads = heads.into_iter().map(String::from).collect();
    let mut out = String::from("\n");
    out += &columns(&std::iter::once(heads).chain(rows).collect::<Vec<_>>());
    out += if report.timed {
        "\nTimes are the daemon's own: from when a request reached it until its answer was made.\n"
    } else {
        "\nHow long they took is not known: mount with --stats for that.\n"
    };
    out
}

fn times(times: Option<&Times>) -> [String; 4] {
    let Some(times) = times.filter(|times| times.count > 0) else { return ["-"; 4].map(String::from) };
    [times.sum_ns / times.count, times.p50_ns, times.p99_ns, times.max_ns].map(short)
}

/// Lines with columns side by side, the first to the left and the others to the right.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        for (column, text) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if column == 0 { write!(out, "{text:width$}") } else { write!(out, "  {text:>width$}") };
        }
        out.push('\n');
    }
    out
}

fn spared(spared: &Spared) -> String {
    let mut out = String::from("\nNot asked for:\n");
    let of = |number: u64, what: &str| format!("{number} of {} opens {what}", spared.opens);
    let lines = [
        (spared.forwarded, of(spared.forwarded, "are forwarded: no READ and no WRITE, the kernel does them")),
        (spared.no_flush, of(spared.no_flush, "go without FLUSH: at least one fewer for each")),
        (spared.keep_cache, of(spared.keep_cache, "left the page cache valid: no READ of what is in it")),
        (spared.cache_dir, of(spared.cache_dir, "let the kernel keep the listing: no READDIR of it again")),
        (
            spared.negative_entries,
            format!(
                "{} names that do not exist are remembered: no LOOKUP of them again",
                spared.negative_entries
            ),
        ),
    ];
    let told: Vec<_> = lines.iter().filter(|(number, _)| *number > 0).map(|(_, line)| line.clone()).collect();
    let never = spared.never_again.iter().map(|never| {
        format!(
            "{} at all, since it was answered ENOSYS (instead: {})",
            plain(&never.name),
            plain(&never.instead)
        )
    });
    for line in told.into_iter().chain(never) {
        let _ = writeln!(out, "  {line}");
    }
    out += "  and what the kernel answers from its caches, of which the daemon hears nothing: how many requests all \
            this spared is not known here\n";
    out
}

/// What another process says, without what would change the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// A time with three digits at most.
fn short(ns: u64) -> String {
    let (number, unit) = match ns as f64 {
        ns if ns < 1e3 => return format!("{ns:.0} ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if number < 9.95 { 1 } else { 0 };
    format!("{number:.digits$} {unit}")
}

fn bytes(number: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = number as f64;
    let mut unit = "B";
    for next in units {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, next);
    }
    if unit == "B" { format!("{number} B") } else { format!("{size:.1} {unit}") }
}

fn humane(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs() {
        0..=119 => format!("{seconds:.0} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_most_frequent_comes_first_with_share_and_times() {
        let text = text(&report(), None);
        for needle in [
            "10 requests, 1 error, 1 in flight, 0 panics, 3.0 MiB read, 100 B written",
            "over /dev/fuse, 2 threads, 3 slots, mounted 90 s ago",
            "LOOKUP            4  40.0 %       1  10 µs  5.1 µs  20 µs    20 µs",
            "5 of 6 opens are forwarded",
            "FLUSH at all, since it was answered ENOSYS (instead: close succeeds)",
            "is not known here",
            "Refused by rules: 2 requests; 30 times by the kernel",
            "400 times the kernel said so",
        ] {
            assert!(text.contains(needle), "`{needle}` is missing in:\n{text}");
        }
        assert!(text.find("OPEN ") < text.find("LOOKUP "), "{text}");
        assert!(!text.contains("go without FLUSH"), "there is none: {text}");
        assert!(!text.contains('\u{1b}') && text.contains("/mnt/?[31ma"), "{text}");
    }

    #[test]
    fn without_times_it_says_how_to_get_them() {
        let mut report = report();
        report.timed = false;
        let text = text(&report, None);
        assert!(text.contains("mount with --stats") && !text.contains("p99"), "{text}");
        report.operations.clear();
        assert!(super::text(&report, None).contains("Nothing was asked for"));
    }

    #[test]
    fn rates_are_those_since_the_report_before() {
        let (before, mut now) = (report(), report());
        now.seconds += 2.0;
        now.requests += 20;
        now.operations[0].requests += 20;
        let text = text(&now, Some(&before));
        assert!(text.contains("in the last 2.0 s: 10 requests/s"), "{text}");
        assert!(text.contains("per s") && text.contains(" 10.0 "), "{text}");
        now.connection += 1;
        assert!(!super::text(&now, Some(&before)).contains("per s"), "another mount");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [999, 1000, 9949, 15_200, 2_500_000, 3_000_000_000].map(short),
            ["999 ns", "1.0 µs", "9.9 µs", "15 µs", "2.5 ms", "3.0 s"]
        );
        assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!([3.0, 300.0, 9000.0, 1e6].map(humane), ["3 s", "5 min", "2 h", "11 days"]);
    }
}
