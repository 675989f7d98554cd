//! The fuzz targets of the device for a few seconds, over bytes of a generator with a seed: what they find in this time no pull request
//! should bring. FUSEWIRE_FUZZ_SECONDS makes it longer, FUSEWIRE_FUZZ_SEED another.

#[path = "../../../fuzz/vhost/mod.rs"]
mod fuzz;

use fuzz::races::Random;
use std::time::{Duration, Instant};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn limit() -> Duration {
    Duration::from_secs(number("FUSEWIRE_FUZZ_SECONDS").unwrap_or(3))
}

/// Run `target` on bytes of all lengths up to `longest`; it is to be done so many times, at least.
fn run(longest: u64, least: u64, target: fn(&[u8])) {
    let seed = number("FUSEWIRE_FUZZ_SEED").unwrap_or(0x5eed).max(1);
    let limit = limit();
    let (mut random, began, mut rounds) = (Random(seed), Instant::now(), 0);
    while rounds < least || began.elapsed() < limit {
        let len = random.next() % longest;
        let bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_ne_bytes()).collect();
        target(&bytes);
        rounds += 1;
    }
    println!("{rounds} runs in {:?}, seed {seed}", began.elapsed());
}

#[test]
fn any_descriptors_leave_the_device_alive_and_others_alone() {
    run(1500, 200, fuzz::chains::run);
}

#[test]
fn any_requests_leave_the_device_alive_and_others_alone() {
    run(3000, 200, fuzz::requests::run);
}

#[test]
fn any_messages_of_the_monitor_end_well() {
    run(600, 50, fuzz::control::run);
}

#[test]
fn memory_that_another_processor_rewrites_leaves_the_device_alive_and_others_alone() {
    let tally = fuzz::races::run(limit());
    println!("{tally:?}");
    assert!(tally.sent > 100 && tally.succeeded > 10 && tally.rewritten > tally.sent, "{tally:?}");
}
