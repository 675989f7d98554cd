//! A sample as JSON. Names and units are a promise to other programs; times are in microseconds.

use fusewire_bpf::requests::{Part, begin_of};
use serde_json::{Map, Value, json};

use super::sample::{Connection, Figures, Flight, Latency, Row, Sample, name_of};

/// One object, for one line.
pub fn sample(sample: &Sample) -> Value {
    json!({
        "seconds": sample.seconds,
        "since_start": sample.since_start,
        "counted": sample.refused.is_none(),
        "refused": sample.refused,
        "notes": sample.notes,
        "missed": { "requests": sample.missed.requests, "operations": sample.missed.events },
        "mounts": sample.connections.iter().map(|of| connection(of, sample)).collect::<Vec<_>>(),
    })
}

fn connection(connection: &Connection, sample: &Sample) -> Value {
    let (now, total) = connection.sums();
    let servers = connection.place.servers.iter();
    json!({
        "connection": connection.number,
        "mountpoints": connection.place.points,
        "type": connection.place.kind,
        "source": connection.place.source,
        "servers": servers.map(|server| json!({ "pid": server.pid, "name": server.name })).collect::<Vec<_>>(),
        "waiting": connection.waiting,
        "in_flight": connection.in_flight.len(),
        "stuck": connection.stuck(),
        "rate": rate(now.count, sample.seconds),
        "interval": figures(&now, sample.split, None),
        "total": figures(&total, sample.split, Some(total.longest_ns)),
        "operations": connection.operations.iter().map(|of| row(of, sample)).collect::<Vec<_>>(),
        "requests": connection.in_flight.iter().map(flight).collect::<Vec<_>>(),
    })
}

fn row(row: &Row, sample: &Sample) -> Value {
    let buckets = row.total.latency.latency.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
    json!({
        "operation": name_of(row.opcode),
        "opcode": row.opcode,
        "rate": rate(row.now.count, sample.seconds),
        "interval": figures(&row.now, sample.split, None),
        "total": figures(&row.total, sample.split, Some(row.total.longest_ns)),
        "histogram": buckets
            .map(|(bucket, count)| json!({ "from_us": micros(begin_of(bucket)), "count": count }))
            .collect::<Vec<_>>(),
    })
}

fn figures(figures: &Figures, split: bool, longest_ns: Option<u64>) -> Value {
    let mut object = Map::new();
    object.insert("count".into(), figures.count.into());
    object.insert("errors".into(), figures.errors.into());
    object.insert("bytes_in".into(), figures.bytes_in.into());
    object.insert("bytes_out".into(), figures.bytes_out.into());
    object.insert("latency".into(), latency(&figures.latency, longest_ns));
    if split {
        object.insert("queue".into(), latency(&figures.parts.queue, None));
        object.insert("service".into(), latency(&figures.parts.service, None));
        object.insert("wake".into(), latency(&figures.parts.wake, None));
    }
    object.into()
}

/// `null` if nothing was timed.
fn latency(part: &Part, longest_ns: Option<u64>) -> Value {
    let Some(latency) = Latency::of(part) else { return Value::Null };
    json!({
        "count": latency.count,
        "mean_us": micros(latency.mean),
        "p50_us": micros(latency.p50),
        "p90_us": micros(latency.p90),
        "p99_us": micros(latency.p99),
        "max_us": micros(longest_ns.unwrap_or(latency.max)),
    })
}

fn flight(flight: &Flight) -> Value {
    json!({
        "operation": name_of(flight.start.opcode),
        "opcode": flight.start.opcode,
        "unique": flight.start.unique,
        "node": flight.start.node,
        "pid": flight.start.process,
        "tid": flight.start.thread,
        "comm": flight.start.comm(),
        "age_us": micros(flight.age.as_nanos() as u64),
        "stuck": flight.is_stuck,
    })
}

/// Microseconds, with three places.
pub fn micros(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { (count as f64 / seconds * 10.0).round() / 10.0 } else { 0.0 }
}
