//! Layers: what they show, record, replay and break.

mod support;

use fusewire::{
    abi::Opcode,
    channel::{
        FakeKernel,
        layer::{Fault, Layer, Record, RecordOptions, Recorded, Replay, ReplayError, Rule, Trace},
        loopback::FakeKernelOptions,
    },
    *,
};
use std::{
    fs,
    io::Write,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use support::toy::Toy;
use tracing_subscriber::fmt::MakeWriter;

fn kernel(layer: impl Layer) -> FakeKernel<Toy> {
    FakeKernel::with(Toy::new(10), FakeKernelOptions::default(), layer).unwrap()
}

/// Lines of a log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The slot's thread logs, not the test's: one subscriber for all tests of this binary, told apart by the caller's pid.
fn log() -> &'static Log {
    static LOG: std::sync::OnceLock<Log> = std::sync::OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).init();
        log
    })
}

fn lines_of(pid: u32) -> Vec<String> {
    let log = String::from_utf8(log().0.lock().unwrap().clone()).unwrap();
    log.lines().filter(|line| line.contains(&format!("pid={pid} "))).map(str::to_owned).collect()
}

#[test]
fn trace_tells_of_every_request() {
    log();
    let kernel = kernel(Trace::new());
    kernel.set_caller(Caller { uid: 5, gid: 6, pid: 70001 });
    let (entry, _) = kernel.create(NodeId::ROOT, c"a", 0o600, 0).unwrap();
    assert_eq!(kernel.lookup(NodeId::ROOT, c"b").unwrap_err(), Errno::NOENT);
    kernel.forget(NodeId::new(entry.nodeid), 1);
    drop(kernel);
    let lines = lines_of(70001);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, words) in lines.iter().zip([
        &["INFO", "fusewire::request", "op=\"CREATE\"", "node=1 ", "uid=5 gid=6", "micros=", "144 bytes"][..],
        &["op=\"LOOKUP\"", "node=1 ", "(os error 2)"],
        &["op=\"FORGET\"", "node=11 ", "no answer"],
    ]) {
        words.iter().for_each(|word| assert!(line.contains(word), "{word} in {line}"));
    }
}

#[test]
fn trace_with_a_threshold_tells_of_slow_requests_alone() {
    log();
    // The fault is outermost, so that the time it takes is not the filesystem's; the trace sees it all the same.
    let slow = Fault::new(1, [Rule::delay(Duration::from_millis(60)).on([Opcode::Getattr])]);
    let kernel = kernel((Trace::slower_than(Duration::from_millis(50)), slow));
    kernel.set_caller(Caller { uid: 0, gid: 0, pid: 70002 });
    assert!(kernel.lookup(NodeId::ROOT, c"b").is_err());
    kernel.getattr(NodeId::ROOT).unwrap();
    drop(kernel);
    let lines = lines_of(70002);
    assert!(lines.iter().any(|line| line.contains("GETATTR")), "{lines:#?}");
    // On a loaded machine the other may be slow, too.
    let micros =
        |line: &String| line.split_once("micros=").unwrap().1.split(' ').next().unwrap().parse::<u64>();
    assert!(lines.iter().all(|line| micros(line).unwrap() >= 50_000), "{lines:#?}");
}

/// A small session: files are made, written, read, listed, removed.
fn work(kernel: &FakeKernel<Toy>) {
    let (entry, opened) = kernel.create(NodeId::ROOT, c"first", 0o644, 0).unwrap();
    let node = NodeId::new(entry.nodeid);
    assert_eq!(kernel.write(node, opened.fh, 0, b"hello, recorder"), Ok(15));
    assert_eq!(kernel.read(node, opened.fh, 7, 100).unwrap(), b"recorder");
    kernel.create(NodeId::ROOT, c"second", 0o600, 0).unwrap();
    assert_eq!(kernel.lookup(NodeId::ROOT, c"third").unwrap_err(), Errno::NOENT);
    let fh = fh_of_root(kernel);
    assert_eq!(kernel.readdir(NodeId::ROOT, fh).unwrap(), [&b"first"[..], b"second"]);
    assert_eq!(kernel.getattr(node).unwrap().size, 15);
    kernel.unlink(NodeId::ROOT, c"second").unwrap();
    kernel.release(node, opened.fh).unwrap();
    kernel.forget(node, 1);
}

fn fh_of_root(kernel: &FakeKernel<Toy>) -> u64 {
    let bytes = kernel.call(Opcode::Opendir, 1, &abi::OpenIn::default(), &[]).unwrap();
    u64::from_ne_bytes(bytes[..8].try_into().unwrap())
}

fn recording(path: &Path, options: RecordOptions) -> Recorded {
    let record = Record::with(path, options).unwrap();
    let kernel = kernel(record.clone());
    work(&kernel);
    drop(kernel);
    record.finish().unwrap()
}

#[test]
fn a_recording_replays_without_differences_also_with_other_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session");
    let recorded = recording(&path, RecordOptions::default());
    assert!(recorded.complete);
    assert_eq!(recorded.bytes, fs::metadata(&path).unwrap().len());
    for first in [10, 0x1000_0000, 2] {
        let report = Replay::open(&path).unwrap().run(Toy::new(first)).unwrap();
        assert!(report.is_clean() && report.complete, "numbers from {first}: {report}");
        assert_eq!(report.requests, recorded.requests);
        // All but FORGET.
        assert_eq!(report.compared, recorded.requests - 1);
    }
}

/// As [`Toy`], but writes capital letters.
struct Loud(Toy);

impl FileSystem for Loud {
    async fn lookup(&self, cx: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        self.0.lookup(cx, op).await.map_err(|_| Errno::ACCESS)
    }

    async fn create(&self, cx: &Context, op: op::Create<'_>) -> Result<(Entry, Opened)> {
        let (mut entry, opened) = self.0.create(cx, op).await?;
        entry.attr.perm = 0o777;
        Ok((entry, opened))
    }

    async fn write(&self, cx: &Context, op: op::Write<'_>) -> Result<u32> {
        self.0.write(cx, op).await
    }

    async fn read(&self, cx: &Context, op: op::Read, out: &mut reply::Sink<'_>) -> Result<()> {
        let mut bytes = [0; 64];
        let mut all = reply::Sink::new(&mut bytes, op.size as usize);
        self.0.read(cx, op, &mut all).await?;
        let len = all.len();
        out.put(&bytes[..len].to_ascii_uppercase());
        Ok(())
    }
}

#[test]
fn replay_reports_what_is_different() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session");
    recording(&path, RecordOptions::default());
    let report = Replay::open(&path).unwrap().run(Loud(Toy::new(99))).unwrap();
    let text = report.to_string();
    assert!(!report.is_clean());
    for difference in [
        "#0 CREATE (unique 4): mode 100777 instead of 100644",
        "READ (unique 8): byte 0 is 0x52 instead of 0x72",
        "LOOKUP (unique 12): Permission denied (os error 13) instead of No such file or directory (os error 2)",
        "OPENDIR (unique 14): Function not implemented (os error 38) instead of success (16 bytes)",
        "UNLINK (unique 22): Function not implemented (os error 38)",
    ] {
        assert!(text.contains(difference), "«{difference}» in:\n{text}");
    }
}

#[test]
fn a_recording_is_bounded_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session");
    let recorded = recording(&path, RecordOptions { max_bytes: 1000 });
    assert!(!recorded.complete && recorded.bytes <= 1000, "{recorded:?}");
    assert_eq!(recorded.bytes, fs::metadata(&path).unwrap().len());
    let report = Replay::open(&path).unwrap().run(Toy::new(10)).unwrap();
    assert!(report.is_clean() && !report.complete, "{report}");
}

#[test]
fn a_recording_that_was_cut_off_replays_up_to_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session");
    recording(&path, RecordOptions::default());
    let whole = fs::read(&path).unwrap();
    for len in (32..whole.len()).step_by(5) {
        fs::write(&path, &whole[..len]).unwrap();
        let report = Replay::open(&path).unwrap().run(Toy::new(len as u64)).unwrap();
        assert!(report.is_clean(), "cut to {len}: {report}");
    }
}

#[test]
fn what_is_no_recording_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session");
    let refused = |path: &Path| match Replay::open(path) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was opened"),
    };
    assert!(refused(&path).contains("cannot read"));
    fs::write(&path, "short").unwrap();
    assert!(refused(&path).contains("too short"));
    fs::write(&path, [b'x'; 100]).unwrap();
    assert!(refused(&path).contains("FUSEWREC"));
    recording(&path, RecordOptions::default());
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    fs::write(&path, &bytes).unwrap();
    assert!(refused(&path).contains("version is 2"));
    bytes[8] = 1;
    bytes[32 + 4] = 9; // The kind of the first record.
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(Replay::open(&path).unwrap().run(Toy::new(1)), Err(ReplayError::Format { .. })));
    assert!(Record::create(&dir.path().join("no/such")).unwrap_err().to_string().contains("no/such"));
}

#[test]
fn an_operation_can_be_refused_before_the_filesystem_sees_it() {
    let fault = Fault::new(1, [Rule::refuse(Errno::NOSPC).on([Opcode::Create]).every(2)]);
    let kernel = kernel(fault.clone());
    kernel.create(NodeId::ROOT, c"a", 0o600, 0).unwrap();
    assert_eq!(kernel.create(NodeId::ROOT, c"b", 0o600, 0).unwrap_err(), Errno::NOSPC);
    assert_eq!(kernel.lookup(NodeId::ROOT, c"b").unwrap_err(), Errno::NOENT);
    kernel.create(NodeId::ROOT, c"c", 0o600, 0).unwrap();
    assert_eq!(fault.strikes(), [1]);
}

#[test]
fn an_answer_can_be_replaced_after_the_operation_was_done() {
    let kernel = kernel(Fault::new(1, [Rule::fail(Errno::IO).on([Opcode::Create]).at_most(1)]));
    assert_eq!(kernel.create(NodeId::ROOT, c"a", 0o600, 0).unwrap_err(), Errno::IO);
    assert!(kernel.lookup(NodeId::ROOT, c"a").is_ok());
    assert!(kernel.create(NodeId::ROOT, c"b", 0o600, 0).is_ok());
}

#[test]
fn an_effect_can_get_lost() {
    let kernel = kernel(Fault::new(1, [Rule::lose()]));
    // Its answer has a node in it, which nobody could make up.
    let (entry, opened) = kernel.create(NodeId::ROOT, c"a", 0o600, 0).unwrap();
    let node = NodeId::new(entry.nodeid);
    assert_eq!(kernel.write(node, opened.fh, 0, b"gone"), Ok(4));
    assert_eq!(kernel.read(node, opened.fh, 0, 10).unwrap(), b"");
    kernel.unlink(NodeId::ROOT, c"a").unwrap();
    assert!(kernel.lookup(NodeId::ROOT, c"a").is_ok());
    // Errors do not get lost with it: a malformed WRITE is refused as ever.
    let short = kernel.send(Opcode::Write, node.raw(), &[0; 8], &[]).wait();
    assert_eq!(short.unwrap_err(), Errno::INVAL);
}

#[test]
fn an_answer_can_be_held_back_without_holding_up_others() {
    let kernel = kernel(Fault::new(1, [Rule::delay(Duration::from_secs(2)).on([Opcode::Lookup])]));
    let began = Instant::now();
    let slow = kernel.send(Opcode::Lookup, 1, &[], b"a\0");
    kernel.getattr(NodeId::ROOT).unwrap();
    assert!(!slow.is_answered());
    assert_eq!(slow.wait().unwrap_err(), Errno::NOENT);
    assert!(began.elapsed() >= Duration::from_secs(2));
}

#[test]
fn what_has_no_answer_gets_none_when_it_is_refused() {
    let fault = Fault::new(1, [Rule::refuse(Errno::IO).on([Opcode::Forget, Opcode::Interrupt])]);
    let kernel = kernel(fault.clone());
    let forget = kernel.send(Opcode::Forget, 1, &1u64.to_ne_bytes(), &[]).wait();
    assert_eq!(forget, Ok(Vec::new()));
    // Not lost, it would be answered EAGAIN: nothing has this number.
    let interrupt = kernel.send(Opcode::Interrupt, 0, &99u64.to_ne_bytes(), &[]).wait();
    assert_eq!(interrupt, Ok(Vec::new()));
    assert_eq!(fault.strikes(), [2]);
}

#[test]
fn the_odds_are_those_of_the_seed() {
    let outcomes = |seed, odds| -> Vec<bool> {
        let kernel = kernel(Fault::new(seed, [Rule::refuse(Errno::IO).probability(odds)]));
        (0..400).map(|_| kernel.getattr(NodeId::ROOT).is_err()).collect()
    };
    let (first, again, other) = (outcomes(1, 0.25), outcomes(1, 0.25), outcomes(2, 0.25));
    assert_eq!(first, again);
    assert_ne!(first, other);
    for outcomes in [first, other] {
        let failed = outcomes.iter().filter(|&&failed| failed).count();
        assert!((60..140).contains(&failed), "{failed} of 400 at odds of a quarter");
    }
    assert!(outcomes(3, 0.0).iter().all(|failed| !failed));
    assert!(outcomes(3, 1.0).iter().all(|failed| *failed));
}

#[test]
fn the_first_rule_that_strikes_decides() {
    let rules = [
        Rule::refuse(Errno::NOSPC).on([Opcode::Write]).at_most(1),
        Rule::refuse(Errno::DQUOT).on([Opcode::Write]),
        Rule::refuse(Errno::IO).on([Opcode::Fsync]),
    ];
    let fault = Fault::new(0, rules);
    let kernel = kernel(fault.clone());
    let (entry, opened) = kernel.create(NodeId::ROOT, c"a", 0o600, 0).unwrap();
    let write = || kernel.write(NodeId::new(entry.nodeid), opened.fh, 0, b"x").unwrap_err();
    assert_eq!((write(), write(), write()), (Errno::NOSPC, Errno::DQUOT, Errno::DQUOT));
    assert_eq!(fault.strikes(), [1, 2, 0]);
}
