//! What one request costs in the core, in numbers that a busy machine does not spoil: how many instructions it takes, counted by
//! valgrind, and the shortest time among many short runs.
//!
//! `cargo bench -p fusewire --bench instructions [OPERATION ...]`

#[path = "../tests/support/mod.rs"]
mod support;

use fusewire::{
    abi::Opcode,
    proto::operations::{OPERATIONS, Operation},
    session::Session,
};
use std::{
    process::Command,
    time::{Duration, Instant},
};
use support::{
    local::{LocalSlot, at_once, session},
    quiet::Quiet,
    requests::{SMALL, sample},
};

/// Requests whose instructions are counted.
const COUNTED: u64 = 2000;
/// Short enough that most runs are not interrupted, long enough for the clock.
const TIMED: u64 = 5000;
const RUNS: usize = 400;
/// The word with which this program calls itself: serve so many requests of an operation.
const SERVE: &str = "serve";

/// A request of that kind; data is 128 KiB.
fn request(opcode: Opcode) -> Vec<u8> {
    let mut request = sample(Operation::of(opcode as u32).expect("a row"));
    if opcode == Opcode::Write {
        request.payload = vec![7; 128 << 10];
        request.set_u32(16, 128 << 10);
    }
    request.bytes()
}

fn serve(session: &Session<Quiet>, slot: &mut LocalSlot<'_>, rounds: u64) -> Duration {
    slot.rewind(rounds);
    let began = Instant::now();
    at_once(session.serve(slot));
    began.elapsed()
}

/// The shortest time of one request.
fn shortest(opcode: Opcode) -> f64 {
    let (session, requests) = (session(Quiet), [request(opcode)]);
    let mut slot = LocalSlot::new(session.agreed(), &requests, 0);
    let runs = (0..RUNS).map(|_| serve(&session, &mut slot, TIMED));
    runs.min().unwrap_or_default().as_nanos() as f64 / TIMED as f64
}

/// Instructions of a process that serves so many requests.
fn instructions(opcode: Opcode, rounds: u64) -> Result<u64, String> {
    let this = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args([SERVE, opcode.name(), &rounds.to_string()])
        .output()
        .map_err(|error| format!("valgrind does not start: {error}; is it installed?"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    let counted = told.lines().find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok());
    counted.ok_or_else(|| format!("valgrind did not count: {told}"))
}

fn main() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let named = |name: &str| OPERATIONS.iter().map(|row| row.opcode).find(|opcode| opcode.name() == name);
    if let [word, name, rounds] = &words[..]
        && word == SERVE
    {
        let opcode = named(name).ok_or_else(|| format!("no operation is called {name}"))?;
        let (session, requests) = (session(Quiet), [request(opcode)]);
        let rounds = rounds.parse().map_err(|error| format!("{rounds}: {error}"))?;
        serve(&session, &mut LocalSlot::new(session.agreed(), &requests, 0), rounds);
        return Ok(());
    }
    println!("{:<12} {:>12} {:>12}", "operation", "instructions", "shortest, ns");
    let opcodes = SMALL.iter().chain(&[Opcode::Read, Opcode::Write]);
    for &opcode in opcodes.filter(|op| words.is_empty() || words.iter().any(|word| word == op.name())) {
        let more = instructions(opcode, 2 * COUNTED)?.saturating_sub(instructions(opcode, COUNTED)?);
        println!("{:<12} {:>12} {:>12.1}", opcode.name(), more / COUNTED, shortest(opcode));
    }
    Ok(())
}
