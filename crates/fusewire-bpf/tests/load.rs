//! Whether this kernel takes the programs.

use fusewire_bpf::load;
use fusewire_bpf::requests::{Counters, Events, Filter};

fn may_load() -> bool {
    let may = load::may_load();
    if !may {
        eprintln!("skipped: loading BPF programs needs root, or CAP_BPF and CAP_PERFMON");
    }
    may
}

#[test]
fn the_kernel_takes_the_counters() {
    if !may_load() {
        return;
    }
    let counters = Counters::start(false).unwrap();
    assert!(counters.split().is_none());
    counters.operations().unwrap();
    assert_eq!(counters.missed(), Default::default());
    let counters = Counters::start(true).unwrap();
    let split = counters.split().unwrap();
    eprintln!("parts that are not seen: {:?}", split.refused());
    assert!(split.wake.is_none(), "{split:?}");
    counters.parts().unwrap();
}

#[test]
fn the_kernel_takes_the_trace() {
    if !may_load() {
        return;
    }
    let filter = Filter { opcodes: vec![1, 44], process: Some(1), split: true, ..Filter::default() };
    let (events, mut lines) = Events::start(&filter).unwrap();
    eprintln!("parts that are not seen: {:?}", events.split().unwrap().refused());
    assert!(lines.next().is_none(), "process 1 makes no FUSE requests");
}
