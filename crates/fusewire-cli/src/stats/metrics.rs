//! Metrics over HTTP, in the form of OpenMetrics 1.0.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use tiny_http::{Header, Method, Request, Response, Server};

use super::report::{Changes, Operation, Refusals, Report, Times};
use crate::failure::{Failure, Outcome};

/// What OpenMetrics is called.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PATH: &str = "/metrics";
/// Ends of the classes of times: doublings from half a microsecond to half a minute.
const CLASSES: std::ops::RangeInclusive<u32> = 9..=35;

/// Reads where metrics are to be served.
///
/// # Errors
/// What is wrong with it.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let local = |port: u16| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let port = text.strip_prefix("localhost:").unwrap_or(text);
    port.parse::<u16>().map(local).or_else(|_| text.parse()).map_err(|_| {
        "a port, or a numeric address with a port, is needed, such as 9100, 127.0.0.1:9100 or [::]:9100"
            .into()
    })
}

/// A port that listens, and does not answer yet.
pub struct Endpoint {
    server: Server,
    address: SocketAddr,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.address)
    }
}

impl Endpoint {
    /// Listens.
    ///
    /// # Errors
    /// If the port is taken, or this user may not have it.
    pub fn listen(address: SocketAddr) -> Outcome<Self> {
        let server = Server::http(address).map_err(|error| {
            Failure::new(format!("cannot serve metrics at {address}: {error}"))
                .or_try("another port with --metrics, or 0 for any that is free")
                .or_try("a port alone, for whoever is on this machine, or an address that this machine has")
        })?;
        let address = server.server_addr().to_ip().unwrap_or(address);
        Ok(Self { server, address })
    }

    /// Where metrics are to be read.
    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// Answers from now on, on a thread of its own.
    pub fn serve(self, report: impl Fn() -> Report + Send + 'static) {
        tracing::info!("metrics at {}", self.url());
        let Self { server, address } = self;
        if !address.ip().is_loopback() {
            tracing::warn!("whoever can reach {address} can read the metrics of this mount");
        }
        let answering = thread::Builder::new().name("metrics".into()).spawn(move || {
            for request in server.incoming_requests() {
                // Who asked may have gone.
                let _ = answer(request, &report);
            }
        });
        if let Err(error) = answering {
            tracing::warn!(%error, "no thread to serve metrics with");
        }
    }
}

fn answer(request: Request, report: &impl Fn() -> Report) -> std::io::Result<()> {
    let path = request.url().split('?').next().unwrap_or_default();
    let (status, kind, body) = match (request.method(), path) {
        (Method::Get | Method::Head, PATH) => (200, CONTENT_TYPE, exposition(report())),
        (Method::Get | Method::Head, _) => (404, "text/plain", format!("metrics are at {PATH}\n")),
        _ => (405, "text/plain", "metrics can only be read\n".to_owned()),
    };
    let header = Header::from_bytes("Content-Type", kind).into_iter();
    let response = header.fold(Response::from_string(body).with_status_code(status), Response::with_header);
    request.respond(response)
}

/// The text that is served.
pub fn exposition(report: Report) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Metrics(report)));
    let mut out = String::new();
    // Writing into a string does not fail.
    let _ = text::encode(&mut out, &registry);
    out
}

#[derive(Debug)]
struct Metrics(Report);

type Sent = Result<(), fmt::Error>;

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Sent {
        let report = &self.0;
        info(&mut encoder, report)?;
        by_operation(&mut encoder, report)?;
        totals(&mut encoder, report)?;
        opens(&mut encoder, report)?;
        report.changes.as_ref().map_or(Ok(()), |heard| changes(&mut encoder, heard))?;
        report.policy.as_ref().map_or(Ok(()), |told| refusals(&mut encoder, told))?;
        process(&mut encoder, report)
    }
}

fn info(encoder: &mut DescriptorEncoder<'_>, report: &Report) -> Sent {
    let labels = [
        ("version", report.version.as_str()),
        ("mountpoint", &report.mountpoint),
        ("source", &report.source),
        ("fs", &report.fs),
        ("cache", &report.cache),
        ("channel", &report.channel),
    ];
    let about = "What is mounted, and how";
    encoder.encode_descriptor("fusewire_mount", about, None, MetricType::Info)?.encode_info(&labels)
}

/// A name, what it is about, and where the number is.
type Count = (&'static str, &'static str, fn(&Operation) -> u64);

fn by_operation(encoder: &mut DescriptorEncoder<'_>, report: &Report) -> Sent {
    let counts: [Count; 2] = [
        ("fusewire_requests", "Requests of the kernel", |operation| operation.requests),
        ("fusewire_request_errors", "Requests answered with an error", |operation| operation.errors),
    ];
    for (name, about, number) in counts {
        let mut family = encoder.encode_descriptor(name, about, None, MetricType::Counter)?;
        for operation in &report.operations {
            let labels = [("opcode", operation.name.as_str())];
            counter(&mut family.encode_family(&labels)?, number(operation))?;
        }
    }
    if !report.timed {
        return Ok(());
    }
    let about = "Time from when a request reached the daemon until its answer was made";
    let name = "fusewire_request_duration_seconds";
    let mut family = encoder.encode_descriptor(name, about, None, MetricType::Histogram)?;
    for operation in &report.operations {
        if let Some(times) = &operation.latency {
            let labels = [("opcode", operation.name.as_str())];
            histogram(&mut family.encode_family(&labels)?, times)?;
        }
    }
    Ok(())
}

fn counter(encoder: &mut MetricEncoder<'_>, number: u64) -> Sent {
    encoder.encode_counter::<NoLabelSet, _, u64>(&number, None)
}

fn histogram(encoder: &mut MetricEncoder<'_>, times: &Times) -> Sent {
    let mut classes: Vec<(f64, u64)> = Vec::new();
    let mut below = 0;
    for end in CLASSES.map(|power| 1u64 << power) {
        let inside = times.classes.iter().filter(|(upper, _)| (below + 1..=end).contains(upper));
        classes.push((end as f64 / 1e9, inside.map(|(_, count)| count).sum()));
        below = end;
    }
    let beyond = times.classes.iter().filter(|(upper, _)| *upper > below).map(|(_, count)| count).sum();
    classes.push((f64::INFINITY, beyond));
    let none: Option<&HashMap<usize, Exemplar<NoLabelSet, f64>>> = None;
    encoder.encode_histogram(times.sum_ns as f64 / 1e9, times.count, &classes, none)
}

fn totals(encoder: &mut DescriptorEncoder<'_>, report: &Report) -> Sent {
    let counters = [
        ("fusewire_read_bytes", "Bytes that READ was answered with", report.read_bytes),
        ("fusewire_written_bytes", "Bytes that WRITE took", report.written_bytes),
        ("fusewire_zero_copy_bytes", "Those of both that were not copied", report.zero_copy_bytes),
        ("fusewire_panics", "Handlers that panicked", report.panics),
        ("fusewire_refused_requests", "Requests that were not what the protocol says", report.refused),
        (
            "fusewire_negative_entries",
            "Names said not to exist, for the kernel to remember",
            report.spared.negative_entries,
        ),
    ];
    for (name, about, number) in counters {
        counter(&mut encoder.encode_descriptor(name, about, None, MetricType::Counter)?, number)?;
    }
    let gauges = [
        ("fusewire_in_flight_requests", "Requests being served", report.in_flight),
        ("fusewire_slots", "Slots for requests that were made so far", report.slots),
        ("fusewire_threads", "Threads that serve requests", report.threads as u64),
    ];
    for (name, about, number) in gauges {
        encoder.encode_descriptor(name, about, None, MetricType::Gauge)?.encode_gauge(&number)?;
    }
    Ok(())
}

fn opens(encoder: &mut DescriptorEncoder<'_>, report: &Report) -> Sent {
    let spared = &report.spared;
    let about = "Files and directories opened";
    counter(
        &mut encoder.encode_descriptor("fusewire_opens", about, None, MetricType::Counter)?,
        spared.opens,
    )?;
    let ways = [
        ("forwarded", spared.forwarded),
        ("no_flush", spared.no_flush),
        ("keep_cache", spared.keep_cache),
        ("cache_dir", spared.cache_dir),
    ];
    let about = "Opens that allowed the kernel to do without requests";
    let mut family = encoder.encode_descriptor("fusewire_sparing_opens", about, None, MetricType::Counter)?;
    for (way, number) in ways {
        counter(&mut family.encode_family(&[("how", way)])?, number)?;
    }
    let about = "Operations answered ENOSYS, for which the kernel never asks again";
    let mut family =
        encoder.encode_descriptor("fusewire_never_asked_again", about, None, MetricType::Gauge)?;
    for never in &spared.never_again {
        family.encode_family(&[("opcode", never.name.as_str())])?.encode_gauge(&1u64)?;
    }
    Ok(())
}

fn changes(encoder: &mut DescriptorEncoder<'_>, changes: &Changes) -> Sent {
    let counters = [
        ("fusewire_changes", "Changes of the source that were heard of", changes.events),
        ("fusewire_own_changes", "Those that were asked for through the mount", changes.own),
        ("fusewire_change_notifications", "What the kernel was told of changes", changes.notifications),
        (
            "fusewire_change_overflows",
            "How often changes were lost, and everything dropped",
            changes.overflows,
        ),
    ];
    for (name, about, number) in counters {
        counter(&mut encoder.encode_descriptor(name, about, None, MetricType::Counter)?, number)?;
    }
    let about = "What the kernel is to be told of changes yet";
    encoder
        .encode_descriptor("fusewire_due_change_notifications", about, None, MetricType::Gauge)?
        .encode_gauge(&changes.due)
}

fn refusals(encoder: &mut DescriptorEncoder<'_>, refusals: &Refusals) -> Sent {
    let about = "What rules refused, by requests and by the kernel without one";
    let mut family = encoder.encode_descriptor("fusewire_refusals", about, None, MetricType::Counter)?;
    for (way, number) in [("request", refusals.by_requests), ("kernel", refusals.by_kernel)] {
        counter(&mut family.encode_family(&[("by", way)])?, number)?;
    }
    let about = "Questions for absent attributes that the kernel answered without a request";
    let name = "fusewire_absent_attributes_by_kernel";
    counter(
        &mut encoder.encode_descriptor(name, about, None, MetricType::Counter)?,
        refusals.absent_by_kernel,
    )
}

/// By the names that all exporters use.
fn process(encoder: &mut DescriptorEncoder<'_>, report: &Report) -> Sent {
    let process = &report.process;
    let cpu = "Total user and system CPU time spent in seconds";
    encoder
        .encode_descriptor("process_cpu_seconds", cpu, None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, f64>(&process.cpu_seconds, None)?;
    let started = "Start time of the process since unix epoch in seconds";
    encoder
        .encode_descriptor("process_start_time_seconds", started, None, MetricType::Gauge)?
        .encode_gauge(&process.started)?;
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory size in bytes", Some(process.resident_bytes)),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes", Some(process.virtual_bytes)),
        ("process_open_fds", "Number of open file descriptors", Some(process.open_fds)),
        ("process_max_fds", "Maximum number of open file descriptors", process.max_fds),
        ("process_threads", "Number of OS threads in the process", Some(process.threads)),
    ];
    for (name, about, number) in gauges {
        if let Some(number) = number {
            encoder.encode_descriptor(name, about, None, MetricType::Gauge)?.encode_gauge(&number)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_port_alone_is_of_this_machine_only() {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        assert_eq!(address("9100"), Ok(local(9100)));
        assert_eq!(address("localhost:9100"), Ok(local(9100)));
        assert_eq!(address("127.0.0.1:0"), Ok(local(0)));
        assert!(address("[::1]:9100").is_ok_and(|address| address.ip().is_loopback()));
        assert!(address("0.0.0.0:9100").is_ok_and(|address| !address.ip().is_loopback()));
        for wrong in ["", "host:9100", "127.0.0.1", "99999", ":9100"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_and_labels_are_what_the_report_says() {
        let text = exposition(report());
        for line in [
            "fusewire_requests_total{opcode=\"LOOKUP\"} 4",
            "fusewire_request_errors_total{opcode=\"LOOKUP\"} 1",
            "fusewire_request_duration_seconds_count{opcode=\"LOOKUP\"} 4",
            "fusewire_request_duration_seconds_bucket{le=\"+Inf\",opcode=\"LOOKUP\"} 4",
            "fusewire_sparing_opens_total{how=\"forwarded\"} 5",
            "fusewire_never_asked_again{opcode=\"FLUSH\"} 1",
            "fusewire_read_bytes_total 3145728",
            "fusewire_in_flight_requests 1",
            "fusewire_refusals_total{by=\"kernel\"} 30",
            "fusewire_absent_attributes_by_kernel_total 400",
            "process_threads 4",
            "# TYPE fusewire_requests counter",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "`{line}` is missing in:\n{text}");
        }
        assert!(text.contains("source=\"/srv/\\\"a\\\"\""), "{text}");
        let mut untimed = report();
        untimed.timed = false;
        assert!(!exposition(untimed).contains("duration"));
    }

    #[test]
    fn classes_add_up() {
        let text = exposition(report());
        let buckets: Vec<u64> = text
            .lines()
            .filter(|line| line.starts_with("fusewire_request_duration_seconds_bucket"))
            .map(|line| line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number"))
            .collect();
        assert_eq!(buckets.len(), CLASSES.count() + 1);
        assert!(buckets.is_sorted() && buckets.contains(&3) && buckets.last() == Some(&4), "{buckets:?}");
    }
}
