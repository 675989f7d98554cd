//! Decoding, dispatching and encoding one request, with a filesystem that does nothing: what every request costs in any
//! channel. `cargo bench -p fusewire --bench core`; the small ones are to stay below 60 ns.

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fusewire::{
    abi::Opcode,
    channel::layer::{Layer, Trace},
    proto::operations::Operation,
    session::Session,
};
use std::time::{Duration, Instant};
use support::{
    local::{LocalSlot, at_once, session},
    quiet::Quiet,
    requests::{Request, SMALL, sample},
};

/// Time for `rounds` of a request. The slot is made beforehand.
fn serve(session: &Session<Quiet>, requests: &[Vec<u8>], rounds: u64, layer: &impl Layer) -> Duration {
    let mut slot = layer.wrap(LocalSlot::new(session.agreed(), requests, rounds));
    let began = Instant::now();
    at_once(session.serve(&mut slot));
    began.elapsed()
}

fn request(opcode: Opcode) -> Request {
    sample(Operation::of(opcode as u32).expect("a row"))
}

/// A READ or WRITE of `size` bytes.
fn transfer(opcode: Opcode, size: usize) -> Request {
    let mut request = request(opcode);
    request.set_u32(16, size as u32);
    request.payload = if opcode == Opcode::Write { vec![7; size] } else { Vec::new() };
    request
}

fn small(criterion: &mut Criterion) {
    let session = session(Quiet);
    let mut group = criterion.benchmark_group("small");
    for &opcode in SMALL {
        let requests = [request(opcode).bytes()];
        group.bench_function(opcode.name(), |bencher| {
            bencher.iter_custom(|rounds| serve(&session, &requests, rounds, &()));
        });
    }
    // In turn, so that branches are not predicted as well.
    let mixed: Vec<_> = SMALL.iter().map(|&opcode| request(opcode).bytes()).collect();
    group.throughput(Throughput::Elements(mixed.len() as u64));
    group.bench_function("mixed, eleven of them", |bencher| {
        bencher.iter_custom(|rounds| serve(&session, &mixed, rounds, &()));
    });
    group.finish();
}

fn data(criterion: &mut Criterion) {
    let session = session(Quiet);
    let mut group = criterion.benchmark_group("data");
    for (opcode, size) in [
        (Opcode::Read, 4 << 10),
        (Opcode::Write, 4 << 10),
        (Opcode::Write, 128 << 10),
        (Opcode::Write, 1 << 20),
    ] {
        let requests = [transfer(opcode, size).bytes()];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new(opcode.name(), size), &requests, |bencher, requests| {
            bencher.iter_custom(|rounds| serve(&session, requests, rounds, &()));
        });
    }
    group.finish();
}

fn layers(criterion: &mut Criterion) {
    let session = session(Quiet);
    let requests = [request(Opcode::Getattr).bytes()];
    criterion.bench_function("layer/trace, nobody listening", |bencher| {
        bencher.iter_custom(|rounds| serve(&session, &requests, rounds, &Trace::new()));
    });
}

/// What `fusewire mount --stats` adds.
fn timed(criterion: &mut Criterion) {
    let session = session(Quiet).timed();
    let requests = [request(Opcode::Getattr).bytes()];
    criterion.bench_function("timed/GETATTR", |bencher| {
        bencher.iter_custom(|rounds| serve(&session, &requests, rounds, &()));
    });
}

criterion_group!(core, small, data, layers, timed);
criterion_main!(core);
