//! Golden bytes: every operation as the kernel sends it, what it means, and what is answered, byte for byte.
//!
//! The cases are in `tests/golden/*.toml`. `captured.toml` was recorded on a mount; the others are written down from the
//! protocol's structures, field by field.
#![cfg(target_endian = "little")]

mod support;

use fusewire::{
    Errno, FileSystem, InitFlags, NodeId,
    abi::Opcode,
    channel::{FakeKernel, loopback::FakeKernelOptions},
    proto::{
        Message,
        decode::decode,
        negotiate::{Bounds, Negotiation, negotiate},
        operations::OPERATIONS,
    },
};
use serde::Deserialize;
use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};
use support::scripted::Scripted;
use zerocopy::IntoBytes;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Case>,
}

/// A request and what becomes of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// As it is read from `/dev/fuse`.
    request: String,
    /// `Debug` of the operation.
    op: String,
    /// What follows `fuse_out_header`; absent where an error is answered.
    answer: Option<String>,
    /// Number of the error.
    error: Option<i32>,
    /// A feature that the kernel does not offer, because it changes the request's form.
    without: Option<String>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn cases(file: &str) -> Vec<Case> {
    let path = folder().join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let cases: Cases = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    cases.case
}

const FILES: [&str; 5] = ["names.toml", "nodes.toml", "data.toml", "special.toml", "captured.toml"];

/// Bytes in hexadecimal, one or more to a line; `#` begins a comment.
fn bytes(text: &str) -> Vec<u8> {
    text.lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap_or_else(|e| panic!("{byte}: {e}")))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    let rows = bytes.chunks(16).map(|row| row.iter().map(|byte| format!("{byte:02x} ")).collect::<String>());
    rows.collect::<Vec<_>>().join("\n")
}

/// What the filesystem is to be asked: the operation itself, without the variant's name around it.
fn asked(op: &str) -> Vec<String> {
    if let Some(list) = op.strip_prefix("BatchForget([").and_then(|rest| rest.strip_suffix("])")) {
        return list.replace("}, ", "}\n").lines().map(str::to_owned).collect();
    }
    match op.split_once('(') {
        Some((variant, inner)) if variant != "Interrupt" => {
            vec![inner.strip_suffix(')').expect(op).to_owned()]
        }
        _ => Vec::new(),
    }
}

fn kernel(without: Option<&str>) -> FakeKernel<Scripted> {
    let without = without.map_or(InitFlags::empty(), |name| InitFlags::from_name(name).expect(name));
    let options = FakeKernelOptions { offers: InitFlags::all() - without, ..Default::default() };
    FakeKernel::with(Scripted::default(), options, ()).expect("a session")
}

fn check(case: &Case) -> Result<(), String> {
    let request = bytes(&case.request);
    let kernel = kernel(case.without.as_deref());
    let message = Message::split(&request, kernel.agreed().flags).map_err(|e| format!("split: {e}"))?;
    let op = decode(&message).map_err(|e| format!("decode: {e}"))?;
    let shown = format!("{op:?}");
    if shown != case.op {
        return Err(format!("decoded to {shown}\ninstead of {}", case.op));
    }
    let answer = kernel.deliver(message.header.unique, request.clone()).wait();
    let expected = match case.error {
        Some(errno) => Err(Errno::from_raw_os_error(errno)),
        None => Ok(bytes(case.answer.as_deref().ok_or("neither answer nor error")?)),
    };
    if answer != expected {
        let show =
            |answer: Result<Vec<u8>, Errno>| answer.map_or_else(|e| e.to_string(), |bytes| hex(&bytes));
        return Err(format!("answered\n{}\ninstead of\n{}", show(answer), show(expected)));
    }
    let asked = asked(&case.op);
    if kernel.filesystem().asked() != asked {
        return Err(format!(
            "the filesystem was asked {:?}\ninstead of {asked:?}",
            kernel.filesystem().asked()
        ));
    }
    Ok(())
}

#[test]
fn every_case_decodes_and_is_answered_as_written_down() {
    let mut failures = Vec::new();
    for file in FILES {
        for case in cases(file) {
            if let Err(why) = check(&case) {
                failures.push(format!("{file}, {}: {why}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} cases fail\n\n{}", failures.len(), failures.join("\n\n"));
}

#[test]
fn no_operation_is_missing() {
    let opcode = |case: Case| u32::from_le_bytes(bytes(&case.request)[4..8].try_into().unwrap());
    let covered: BTreeSet<u32> = FILES.into_iter().flat_map(cases).map(opcode).collect();
    let missing: Vec<_> = OPERATIONS
        .iter()
        // INIT has its own file.
        .filter(|row| row.opcode != Opcode::Init && !covered.contains(&(row.opcode as u32)))
        .map(|row| row.opcode)
        .collect();
    assert!(missing.is_empty(), "no golden bytes for {missing:?}");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Inits {
    case: Vec<Init>,
}

/// An INIT and its answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Init {
    name: String,
    request: String,
    /// What the filesystem asks for besides the defaults.
    want: Vec<String>,
    answer: String,
}

#[test]
fn init_is_answered_as_written_down() {
    let text = fs::read_to_string(folder().join("init.toml")).unwrap();
    let inits: Inits = toml::from_str(&text).unwrap();
    assert!(inits.case.len() >= 2);
    for init in inits.case {
        let request = bytes(&init.request);
        let message = Message::split(&request, InitFlags::empty()).unwrap();
        assert_eq!(message.header.opcode, Opcode::Init as u32);
        let outcome = negotiate(message.args, message.payload, Bounds::default(), |config| {
            for name in &init.want {
                config.want(InitFlags::from_name(name).expect(name));
            }
            Ok(())
        });
        let (Ok(Negotiation::Agreed(out, ..)) | Ok(Negotiation::Again(out))) = &outcome else {
            panic!("{}: {outcome:?}", init.name)
        };
        assert_eq!(hex(out.as_bytes()), hex(&bytes(&init.answer)), "{}", init.name);
    }
}

/// Sends one notification of each kind when it starts.
struct Notifies;

impl FileSystem for Notifies {
    fn started(&self, session: &fusewire::Started) {
        let n = &session.notifier;
        let (node, other) = (NodeId::new(7), NodeId::new(8));
        n.inval_inode(node, -1, 0).unwrap();
        n.inval_inode(node, 4096, 8192).unwrap();
        n.inval_entry(node, c"name").unwrap();
        n.expire_entry(node, c"name").unwrap();
        n.delete(node, other, c"name").unwrap();
        n.store(node, 4096, b"page").unwrap();
        n.retrieve(33, node, 4096, 4).unwrap();
        n.poll_wakeup(0x99).unwrap();
        n.inc_epoch().unwrap();
        n.prune(&[node, other]).unwrap();
        n.resend().unwrap();
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Notifications {
    notification: Vec<Notification>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Notification {
    name: String,
    message: String,
}

#[test]
fn notifications_are_sent_as_written_down() {
    let text = fs::read_to_string(folder().join("notifications.toml")).unwrap();
    let expected: Notifications = toml::from_str(&text).unwrap();
    let kernel = FakeKernel::start(Notifies).unwrap();
    let mut codes = BTreeSet::new();
    for Notification { name, message } in expected.notification {
        let sent = kernel.notification(Duration::from_secs(1)).unwrap_or_else(|| panic!("{name}: none came"));
        assert_eq!(hex(&sent), hex(&bytes(&message)), "{name}");
        codes.insert(i32::from_le_bytes(sent[4..8].try_into().unwrap()));
    }
    assert_eq!(kernel.notification(Duration::ZERO), None);
    let all: BTreeSet<i32> = fusewire::abi::NotifyCode::ALL.iter().map(|&code| code as i32).collect();
    assert_eq!(codes, all, "a kind of notification has no golden bytes");
}
