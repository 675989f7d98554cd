//! The fuzz targets for a few seconds, over golden messages that are mutated by a generator with a seed: what they find
//! in this time no pull request should bring.
#![cfg(target_endian = "little")]

#[path = "../../../fuzz/src/lib.rs"]
mod fuzz;

use fusewire::abi::{InitIn, Opcode};
use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};
use zerocopy::IntoBytes;

/// xorshift64*: enough to scatter mutations, and always the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }
}

/// The requests of the golden files.
fn golden() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut requests = Vec::new();
    for file in ["names.toml", "nodes.toml", "data.toml", "special.toml", "captured.toml"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        for case in table["case"].as_array().unwrap() {
            let lines = case["request"].as_str().unwrap().lines();
            let bytes = lines.flat_map(|line| line.split('#').next().unwrap().split_whitespace());
            requests.push(bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect());
        }
    }
    requests
}

const INTERESTING: [u64; 10] =
    [0, 1, 2, 0x7f, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// Change a message, so that something of it remains.
fn mutate(random: &mut Random, message: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=random.below(4) {
        let at = random.below(message.len());
        match random.below(8) {
            0 => message.truncate(at),
            1 => message.extend_from_slice(&random.next().to_ne_bytes()[..1 + at % 8]),
            2 => message.insert(at, random.next() as u8),
            3 => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len());
                message.truncate(at);
                message.extend_from_slice(&other[from..]);
            }
            4 | 5 => {
                let value = INTERESTING[random.below(INTERESTING.len())].to_ne_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(message.len() - at.min(message.len()));
                message[at..at + width].copy_from_slice(&value[..width]);
            }
            6 if message.len() > 8 => message[4] = random.next() as u8 % 56,
            _ => {
                if let Some(byte) = message.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
        if message.is_empty() {
            message.push(0);
        }
    }
}

/// Run `target` on mutations of `seeds`; returns how often.
fn run(seeds: &[Vec<u8>], limit: Duration, target: fn(&[u8])) -> u64 {
    let (mut random, began, mut rounds) = (Random(0x5eed), Instant::now(), 0);
    while began.elapsed() < limit {
        let mut message = seeds[random.below(seeds.len())].clone();
        mutate(&mut random, &mut message, seeds);
        target(&message);
        rounds += 1;
    }
    rounds
}

#[test]
fn mutated_requests_neither_panic_nor_break_a_promise() {
    let golden = golden();
    let opcodes: BTreeSet<u8> = golden.iter().map(|request| request[4]).collect();
    assert_eq!(opcodes.len(), Opcode::ALL.len() - 2, "all but INIT and CUSE_INIT");
    let seeds: Vec<Vec<u8>> =
        (0..4).flat_map(|how| golden.iter().map(move |r| [&[how], &r[..]].concat())).collect();
    seeds.iter().for_each(|seed| fuzz::dispatch(seed));
    let rounds = run(&seeds, Duration::from_secs(4), fuzz::dispatch);
    assert!(rounds > 1000, "only {rounds} in the time given");
}

#[test]
fn mutated_inits_neither_panic_nor_break_a_promise() {
    let init = |minor, flags, flags2| {
        InitIn { major: 7, minor, max_readahead: 1 << 17, flags, flags2, ..Default::default() }
            .as_bytes()
            .to_vec()
    };
    let inits = [
        init(46, u32::MAX, u32::MAX),
        init(31, 0x3ff_ffff, 0),
        init(45, 0x73ff_fffb, 0x7fd),
        init(37, !0, 0xff),
    ];
    let wishes = [[0u8; 16], [0xff; 16], [0x55; 16]];
    let seeds: Vec<Vec<u8>> = inits.iter().flat_map(|init| wishes.map(|w| [&w[..], init].concat())).collect();
    seeds.iter().for_each(|seed| fuzz::init(seed));
    let rounds = run(&seeds, Duration::from_secs(1), fuzz::init);
    assert!(rounds > 1000, "only {rounds} in the time given");
}
