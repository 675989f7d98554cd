//! Requests that no kernel should send: each is refused, no filesystem sees one, nothing panics.
//!
//! They are made from the operations table, so a new operation is covered by its row.

mod support;

use fusewire::{
    Errno,
    abi::{self, InHeader, Opcode},
    channel::FakeKernel,
    proto::operations::{OPERATIONS, Operation, Tail},
};
use support::{
    requests::{DATA, NAME, Request, groups, has_node, label, nodes, sample, size_field},
    scripted::Scripted,
};
use zerocopy::IntoBytes;

/// A kernel that sends spoilt requests and sees to it that they stay without effect.
struct Spoiler {
    kernel: FakeKernel<Scripted>,
}

impl Spoiler {
    fn new() -> Self {
        Self { kernel: FakeKernel::start(Scripted::default()).expect("a session") }
    }

    /// Whatever these bytes are, they are answered with an error, or with nothing where no answer is due.
    fn refused(&self, row: Option<&Operation>, bytes: &[u8], what: &str) -> Option<Errno> {
        let before = self.kernel.filesystem().asked();
        let answer = self.kernel.deliver(8, bytes.to_vec()).wait();
        let name = row.map_or("unknown", |row| row.opcode.name());
        assert_eq!(self.kernel.filesystem().asked(), before, "{name}, {what}: reached the filesystem");
        assert_eq!(self.kernel.stats().panics, 0, "{name}, {what}: panicked");
        match answer {
            Err(Errno::TIMEDOUT) => panic!("{name}, {what}: never answered"),
            Err(errno) => {
                // INTERRUPT is answered AGAIN, and a message that cannot be taken apart is of no known operation.
                let due = row.is_none_or(Operation::is_answered) || errno == Errno::NOSYS;
                assert!(due, "{name}, {what}: answered {errno}, although there is no answer");
                Some(errno)
            }
            Ok(bytes) => {
                let due = row.is_none_or(Operation::is_answered);
                assert!(!due && bytes.is_empty(), "{name}, {what}: answered {} bytes", bytes.len());
                None
            }
        }
    }

    /// The same, with the errno that it is to be (unless no answer is due).
    fn refused_with(&self, row: &Operation, request: &Request, errno: Errno, what: &str) {
        let got = self.refused(Some(row), &request.bytes(), what);
        let expected = row.is_answered().then_some(errno);
        assert_eq!(got, expected, "{}, {what}", row.opcode);
    }

    /// The request is fine: the filesystem is asked.
    fn taken(&self, request: &Request, what: &str) {
        let before = self.kernel.filesystem().asked().len();
        let answer = self.kernel.deliver(8, request.bytes()).wait();
        let asked = self.kernel.filesystem().asked().len() - before;
        let name = Operation::of(request.opcode).expect("a row").opcode;
        assert!(asked > 0, "{name}, {what}: did not reach the filesystem but was answered {answer:?}");
    }
}

/// Rows that reach a filesystem.
fn rows() -> impl Iterator<Item = &'static Operation> {
    OPERATIONS.iter().filter(|row| row.opcode != Opcode::Init)
}

fn extended(row: &Operation) -> bool {
    matches!(row.tail, Tail::NameAndExtensions | Tail::NameAndTarget)
}

#[test]
fn requests_that_are_not_spoilt_reach_the_filesystem() {
    let spoiler = Spoiler::new();
    for row in rows().filter(|row| !matches!(row.opcode, Opcode::Interrupt | Opcode::Destroy)) {
        let mut request = sample(row);
        spoiler.taken(&request, "as it is to be");
        if extended(row) {
            request.payload.extend([label(), groups()].concat());
            request.extensions = 6;
            spoiler.taken(&request, "with extensions");
        }
    }
}

#[test]
fn requests_cut_short_are_refused_at_every_length() {
    let spoiler = Spoiler::new();
    for row in rows() {
        let whole = sample(row).bytes();
        for len in size_of::<InHeader>()..whole.len() {
            let mut bytes = whole[..len].to_vec();
            bytes[..4].copy_from_slice(&(len as u32).to_ne_bytes());
            let errno = spoiler.refused(Some(row), &bytes, &format!("{len} bytes of {}", whole.len()));
            assert_eq!(errno, row.is_answered().then_some(Errno::INVAL), "{} with {len} bytes", row.opcode);
        }
    }
}

#[test]
fn surplus_bytes_are_refused() {
    let spoiler = Spoiler::new();
    for row in rows() {
        for surplus in [&b"\0"[..], b"x", b"x\0", &[0; 8], &[0; 16], &[0xff; 4096]] {
            let mut request = sample(row);
            request.payload.extend(surplus);
            spoiler.refused_with(row, &request, Errno::INVAL, &format!("{} bytes too many", surplus.len()));
        }
    }
}

#[test]
fn node_0_is_refused() {
    let spoiler = Spoiler::new();
    for row in rows() {
        let mut request = sample(row);
        if has_node(row.opcode) {
            request.node = 0;
            spoiler.refused_with(row, &request, Errno::INVAL, "node 0");
        }
        if let Some(at) = nodes(row.opcode) {
            let mut request = sample(row);
            request.set_u64(at, 0);
            spoiler.refused_with(row, &request, Errno::INVAL, "node 0 in the arguments");
        }
    }
}

/// Payloads of a row with `name` in each of the places where a component stands.
fn with_name(row: &Operation, name: &[u8]) -> Vec<Vec<u8>> {
    let name = [name, b"\0"].concat();
    match row.tail {
        // What comes with TMPFILE is no name.
        Tail::NameAndExtensions if row.opcode == Opcode::Tmpfile => Vec::new(),
        Tail::Name | Tail::NameAndExtensions => vec![name],
        Tail::TwoNames => vec![[&name, NAME].concat(), [NAME, &name].concat()],
        Tail::NameAndTarget => vec![[&name[..], b"target\0"].concat()],
        _ => Vec::new(),
    }
}

#[test]
fn names_that_are_no_component_are_refused() {
    let spoiler = Spoiler::new();
    let too_long = vec![b'x'; fusewire::limits::NAME_MAX + 1];
    let longest = &too_long[1..];
    let bad = [
        (&b""[..], Errno::INVAL),
        (b".", Errno::INVAL),
        (b"..", Errno::INVAL),
        (b"/", Errno::INVAL),
        (b"/etc", Errno::INVAL),
        (b"a/b", Errno::INVAL),
        (b"a/", Errno::INVAL),
        (b"../x", Errno::INVAL),
        (&too_long, Errno::NAMETOOLONG),
    ];
    let mut places = 0;
    for row in rows() {
        for (name, errno) in bad {
            for payload in with_name(row, name) {
                places += 1;
                let request = Request { payload, ..sample(row) };
                spoiler.refused_with(
                    row,
                    &request,
                    errno,
                    &format!("name {:.20}", name.escape_ascii().to_string()),
                );
            }
        }
        for name in [&b"..."[..], b".x", b"\xff\xfe", longest] {
            for payload in with_name(row, name) {
                spoiler.taken(&Request { payload, ..sample(row) }, "an unusual name");
            }
        }
    }
    assert!(places > 100, "{places}");
}

#[test]
fn names_without_end_are_refused() {
    let spoiler = Spoiler::new();
    for row in rows().filter(|row| !matches!(row.tail, Tail::None | Tail::Data | Tail::Array)) {
        let mut request = sample(row);
        request.payload.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'x');
        spoiler.refused_with(row, &request, Errno::INVAL, "no NUL anywhere");
        let request = Request { payload: Vec::new(), ..sample(row) };
        spoiler.refused_with(row, &request, Errno::INVAL, "no name at all");
    }
}

#[test]
fn attributes_and_targets_have_their_bounds() {
    let spoiler = Spoiler::new();
    let row = |opcode| Operation::of(opcode as u32).expect("a row");
    for row in rows().filter(|row| matches!(row.tail, Tail::Attribute | Tail::AttributeAndValue)) {
        let value = if row.tail == Tail::AttributeAndValue { DATA } else { b"" };
        let named = |len: usize| [&vec![b'x'; len], &b"\0"[..], value].concat();
        spoiler.refused_with(
            row,
            &Request { payload: named(0), ..sample(row) },
            Errno::INVAL,
            "no attribute",
        );
        spoiler.refused_with(
            row,
            &Request { payload: named(256), ..sample(row) },
            Errno::RANGE,
            "long attribute",
        );
        spoiler.taken(&Request { payload: named(255), ..sample(row) }, "the longest attribute");
    }
    let set = |size: usize| {
        let mut request = sample(row(Opcode::Setxattr));
        request.set_u32(0, size as u32);
        request.payload = [b"user.x\0", &vec![7; size][..]].concat();
        request
    };
    spoiler.taken(&set(65536), "the largest value");
    spoiler.refused_with(row(Opcode::Setxattr), &set(65537), Errno::TOOBIG, "a larger value");
    let link = |len: usize| {
        let payload = [NAME, &vec![b'/'; len][..], b"\0"].concat();
        Request { payload, ..sample(row(Opcode::Symlink)) }
    };
    spoiler.taken(&link(4095), "the longest target");
    spoiler.refused_with(row(Opcode::Symlink), &link(4096), Errno::NAMETOOLONG, "a longer target");
}

#[test]
fn sizes_and_counts_must_be_those_of_what_follows() {
    let spoiler = Spoiler::new();
    for row in rows() {
        let Some(at) = size_field(row.opcode) else { continue };
        let right = u32::from_ne_bytes(sample(row).args[at..at + 4].try_into().unwrap());
        for wrong in [0, right - 1, right + 1, 0x8000_0000, 0xffff_fff0, u32::MAX] {
            let mut request = sample(row);
            request.set_u32(at, wrong);
            let errno = match row.opcode {
                Opcode::Setxattr if wrong > 65536 => Errno::TOOBIG,
                _ => Errno::INVAL,
            };
            spoiler.refused_with(row, &request, errno, &format!("size {wrong} instead of {right}"));
        }
    }
}

#[test]
fn a_length_that_is_not_the_messages_is_refused() {
    let spoiler = Spoiler::new();
    for row in rows() {
        let whole = sample(row).bytes();
        let len = whole.len() as u32;
        for wrong in [0, 1, 39, len - 1, len + 1, len * 2, u32::MAX] {
            let mut bytes = whole.clone();
            bytes[..4].copy_from_slice(&wrong.to_ne_bytes());
            assert!(spoiler.refused(None, &bytes, "wrong length").is_some());
        }
        for len in 0..size_of::<InHeader>() {
            assert!(spoiler.refused(None, &whole[..len], "a piece of a header").is_some());
        }
    }
}

#[test]
fn operations_that_are_not_known_are_not_implemented() {
    let spoiler = Spoiler::new();
    for opcode in [0, 7, 19, 54, 55, 255, 4095, 4096, 4097, 0x1a00_0000, 0x0010_0000, u32::MAX] {
        let bytes =
            Request { opcode, unique: 8, node: 1, extensions: 0, args: vec![0; 16], payload: vec![] }.bytes();
        assert_eq!(spoiler.refused(None, &bytes, "not known"), Some(Errno::NOSYS), "{opcode}");
    }
}

#[test]
fn a_second_init_is_refused() {
    let spoiler = Spoiler::new();
    let row = Operation::of(Opcode::Init as u32).expect("a row");
    let init = abi::InitIn { major: 7, minor: 46, ..Default::default() };
    let (args, payload) = init.as_bytes().split_at(16);
    let request = Request { args: args.to_vec(), payload: payload.to_vec(), ..sample(row) };
    spoiler.refused_with(row, &request, Errno::INVAL, "after the first");
}

#[test]
fn extensions_that_were_not_sent_are_refused() {
    let spoiler = Spoiler::new();
    for row in rows() {
        for units in [1, 2, 100, u16::MAX] {
            let request = Request { extensions: units, ..sample(row) };
            spoiler.refused_with(row, &request, Errno::INVAL, &format!("{units} units of extensions"));
            if !extended(row) {
                let mut request = sample(row);
                request.payload.extend(vec![0; usize::from(units) * 8]);
                request.extensions = units;
                spoiler.refused_with(row, &request, Errno::INVAL, "extensions where there are none");
            }
        }
    }
}

#[test]
fn extensions_that_are_broken_are_refused() {
    let spoiler = Spoiler::new();
    // (what, extension with a field to spoil, offset, values)
    let spoilt: [(&str, Vec<u8>, usize, &[u32]); 4] = [
        ("size of groups", groups(), 0, &[0, 1, 7, 8, 11, 24, 0xffff_fff8, u32::MAX]),
        ("number of groups", groups(), 8, &[2, 3, 0x4000_0001, u32::MAX]),
        ("size of a label", label(), 0, &[0, 7, 16, 24, 40, u32::MAX]),
        ("length of a label's value", label(), 8, &[6, 100, u32::MAX]),
    ];
    for row in rows().filter(|row| extended(row)) {
        for (what, extension, at, values) in &spoilt {
            for value in *values {
                let mut extension = extension.clone();
                extension[*at..at + 4].copy_from_slice(&value.to_ne_bytes());
                let mut request = sample(row);
                request.extensions = (extension.len() / 8) as u16;
                request.payload.extend(extension);
                spoiler.refused_with(row, &request, Errno::INVAL, &format!("{what} is {value}"));
            }
        }
        for whole in [groups(), label()] {
            for units in 1..whole.len() / 8 {
                let mut request = sample(row);
                request.payload.extend(&whole[..units * 8]);
                request.extensions = units as u16;
                spoiler.refused_with(row, &request, Errno::INVAL, "an extension cut short");
            }
        }
        // A name in the label that does not end.
        let mut label = label();
        label[16..].fill(b'x');
        let mut request = sample(row);
        request.extensions = (label.len() / 8) as u16;
        request.payload.extend(label);
        spoiler.refused_with(row, &request, Errno::INVAL, "a label's name without NUL");
    }
}

#[test]
fn extensions_of_unknown_kinds_are_passed_over() {
    let spoiler = Spoiler::new();
    for row in rows().filter(|row| extended(row)) {
        let unknown = abi::ExtHeader { size: 16, typ: 77 };
        let mut request = sample(row);
        request.payload.extend([unknown.as_bytes(), &[0xff; 8], &groups()].concat());
        request.extensions = 4;
        spoiler.taken(&request, "an unknown extension");
        let asked = spoiler.kernel.filesystem().asked();
        assert!(asked.last().unwrap().contains("supplementary: Some(77)"), "{asked:?}");
    }
}

#[test]
fn impossible_times_and_locks_are_refused() {
    let spoiler = Spoiler::new();
    let row = |opcode| Operation::of(opcode as u32).expect("a row");
    let setattr = row(Opcode::Setattr);
    // Valid bit and offset of the nanoseconds of atime, mtime, ctime.
    for (bit, at) in [(1 << 4, 56), (1 << 5, 60), (1 << 10, 64)] {
        let mut request = sample(setattr);
        request.set_u32(0, bit);
        request.set_u32(at, 999_999_999);
        spoiler.taken(&request, "the last nanosecond");
        for nanos in [1_000_000_000, u32::MAX] {
            request.set_u32(at, nanos);
            spoiler.refused_with(setattr, &request, Errno::INVAL, "nanoseconds of more than a second");
        }
        request.set_u32(0, 0);
        spoiler.taken(&request, "a time that is not to be set");
    }
    for opcode in [Opcode::Getlk, Opcode::Setlk, Opcode::Setlkw] {
        let row = row(opcode);
        let mut request = sample(row);
        request.set_u64(16, 5);
        request.set_u64(24, 4);
        spoiler.refused_with(row, &request, Errno::INVAL, "a lock that ends before it begins");
        request.set_u64(24, 5);
        spoiler.taken(&request, "a lock of one byte");
        for kind in [3, u32::MAX] {
            request.set_u32(32, kind);
            spoiler.refused_with(row, &request, Errno::INVAL, "no such kind of lock");
        }
    }
}
