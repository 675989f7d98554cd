//! A recording asked of another filesystem.

use super::{
    format::{AnswerHead, FILE_MAGIC, FILE_VERSION, FileHead, RecordHead, RecordKind},
    renumber::Numbers,
};
use crate::{
    channel::loopback::{FakeKernel, FakeKernelOptions, Ticket},
    fs::FileSystem,
    proto::negotiate::Bounds,
    types::*,
};
use fusewire_abi::{self as abi, InHeader, InitFlags, Opcode};
use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    time::Duration,
};
use zerocopy::FromBytes;

/// How many differences a report lists; more are counted.
const LISTED: usize = 100;

/// Longest record that is believed, bytes: the largest request there is, and a page.
const LONGEST: usize = crate::limits::MAX_WRITE_EVER as usize + 4096;

/// Features that say by which way requests travel, which is the fake kernel's own when they are asked again.
const WAYS: InitFlags = InitFlags::OVER_IO_URING.union(InitFlags::HAS_IO_URING_BUFPOOL);

/// A recording that was opened.
#[derive(Debug)]
pub struct Replay {
    path: PathBuf,
    head: FileHead,
    input: BufReader<File>,
    patience: Duration,
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// It cannot be read.
    #[error("cannot read the recording {}: {source}", path.display())]
    Read {
        /// The recording.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is not a recording that this machine and version can read: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The filesystem refused to start.
    #[error("the filesystem refused the session recorded in {}: {errno}", path.display())]
    Start {
        /// The recording.
        path: PathBuf,
        /// How negotiation ended.
        errno: Errno,
    },
}

/// One request that was answered otherwise than in the recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which request of the recording, counted from 0.
    pub index: u64,
    /// Its number in the protocol.
    pub unique: u64,
    /// The operation.
    pub opcode: Opcode,
    /// The difference, in words.
    pub what: String,
}

/// What a replay has shown.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests that were sent.
    pub requests: u64,
    /// Answers that were compared.
    pub compared: u64,
    /// The first hundred differences.
    pub differences: Vec<Difference>,
    /// How many differences there are in all.
    pub different: u64,
    /// Features that were agreed on in the recording and not now: requests may be of another form than expected.
    pub missing_features: InitFlags,
    /// The recording goes to the end of its session.
    pub complete: bool,
}

impl Report {
    /// Every answer was as recorded.
    pub fn is_clean(&self) -> bool {
        self.different == 0 && self.missing_features.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, compared, different, .. } = self;
        writeln!(f, "{requests} requests, {compared} answers compared, {different} differ")?;
        for d in &self.differences {
            writeln!(f, "#{} {} (unique {}): {}", d.index, d.opcode, d.unique, d.what)?;
        }
        if !self.missing_features.is_empty() {
            writeln!(f, "not agreed on this time: {:?}", self.missing_features)?;
        }
        if !self.complete {
            writeln!(f, "the recording ends before its session does")?;
        }
        Ok(())
    }
}

/// A request that was sent and not answered yet.
struct Sent {
    index: u64,
    opcode: Opcode,
    /// The recorded handle, where arguments begin with one.
    handle: u64,
    /// GETXATTR and LISTXATTR: room at the caller's.
    room: u32,
    ticket: Ticket,
}

/// The next record: its kind and body.
type Record = (RecordKind, Vec<u8>);

impl Replay {
    /// Open a recording.
    pub fn open(path: &Path) -> std::result::Result<Self, ReplayError> {
        let read = |source| ReplayError::Read { path: path.to_owned(), source };
        let format = |why: String| ReplayError::Format { path: path.to_owned(), why };
        let mut input = BufReader::with_capacity(256 << 10, File::open(path).map_err(read)?);
        let mut head = [0; size_of::<FileHead>()];
        match input.read_exact(&mut head) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(format("it is too short".into()));
            }
            other => other.map_err(read)?,
        }
        let head: FileHead = zerocopy::transmute!(head);
        if head.magic != FILE_MAGIC {
            return Err(format("it does not begin with FUSEWREC".into()));
        }
        if head.version != FILE_VERSION {
            return Err(format(format!("its version is {}, known is {FILE_VERSION}", head.version)));
        }
        Ok(Self { path: path.to_owned(), head, input, patience: Duration::from_secs(10) })
    }

    /// Features that were agreed on in the recorded session.
    pub fn features(&self) -> InitFlags {
        InitFlags::from_bits_retain(self.head.features)
    }

    /// How long to wait for an answer. Default 10 seconds.
    pub fn patience(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Ask `fs` what was asked in the recording, in the same order, as fast as it answers; and compare what a program
    /// can rely on: errors, data, names, kinds, sizes, owners, permissions. Not times, inode numbers, time for which
    /// something is valid, space taken, and what STATFS says. Where `fs` gives other numbers to nodes and handles, or
    /// other cookies to directory entries, later requests are made with those.
    pub fn run<F: FileSystem>(mut self, fs: F) -> std::result::Result<Report, ReplayError> {
        let bounds = Bounds {
            max_write: self.head.max_write,
            max_pages_limit: self.head.max_pages.try_into().unwrap_or(u16::MAX),
            default_permissions: true,
            ring: false,
        };
        let options = FakeKernelOptions { offers: self.features(), minor: self.head.minor, bounds };
        let start = |errno| ReplayError::Start { path: self.path.clone(), errno };
        let kernel = FakeKernel::with(fs, options, ()).map_err(start)?;
        let mut run =
            Run { kernel, numbers: Numbers::default(), sent: HashMap::new(), report: Report::default() };
        run.report.missing_features = self.features() - run.kernel.agreed().flags - WAYS;
        run.report.complete = true;
        while let Some((kind, body)) = self.record(&mut run.report)? {
            match kind {
                RecordKind::Request => run.send(body),
                RecordKind::Answer | RecordKind::Served => run.answered(kind, &body, self.patience),
                RecordKind::Full => run.report.complete = false,
            }
        }
        Ok(run.report)
    }

    /// The next record; `None` at the end.
    fn record(&mut self, report: &mut Report) -> std::result::Result<Option<Record>, ReplayError> {
        let mut head = [0; size_of::<RecordHead>()];
        let mut begun = 0;
        while begun < head.len() {
            match self.input.read(&mut head[begun..]) {
                Ok(0) => {
                    report.complete &= begun == 0;
                    return Ok(None);
                }
                Ok(n) => begun += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ReplayError::Read { path: self.path.clone(), source }),
            }
        }
        let head: RecordHead = zerocopy::transmute!(head);
        let body = (head.len as usize).checked_sub(size_of::<RecordHead>()).filter(|&len| len <= LONGEST);
        let (Some(kind), Some(len)) = (RecordKind::from_raw(head.kind), body) else {
            let why = format!("a record of kind {} and length {}", head.kind, head.len);
            return Err(ReplayError::Format { path: self.path.clone(), why });
        };
        let mut body = vec![0; len];
        match self.input.read_exact(&mut body) {
            Ok(()) => Ok(Some((kind, body))),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                report.complete = false;
                Ok(None)
            }
            Err(source) => Err(ReplayError::Read { path: self.path.clone(), source }),
        }
    }
}

/// A replay under way.
struct Run<F: FileSystem> {
    kernel: FakeKernel<F>,
    numbers: Numbers,
    sent: HashMap<u64, Sent>,
    report: Report,
}

impl<F: FileSystem> Run<F> {
    fn send(&mut self, mut request: Vec<u8>) {
        let index = self.report.requests;
        self.report.requests += 1;
        let Ok((header, args)) = InHeader::read_from_prefix(&request) else { return };
        let Some(opcode) = Opcode::from_raw(header.opcode) else { return };
        let handle = u64::read_from_prefix(args).map_or(0, |(fh, _)| fh);
        let room = u32::read_from_prefix(args).map_or(0, |(size, _)| size);
        self.numbers.renumber(opcode, &mut request);
        let ticket = self.kernel.deliver(header.unique, request);
        self.sent.insert(header.unique, Sent { index, opcode, handle, room, ticket });
    }

    fn answered(&mut self, kind: RecordKind, body: &[u8], patience: Duration) {
        let Ok((head, data)) = AnswerHead::read_from_prefix(body) else { return };
        let Some(sent) = self.sent.remove(&head.unique) else { return };
        let old = match head.error {
            0 => Ok(data),
            error => Err(Errno::from_raw_os_error(-error)),
        };
        let new = sent.ticket.wait_for(patience);
        if kind == RecordKind::Served || sent.opcode == Opcode::Interrupt {
            return;
        }
        self.report.compared += 1;
        let what = match (old, &new) {
            (Ok(old), Ok(new)) => self.compare(&sent, old, new),
            (Err(old), Err(new)) if old == *new => None,
            (old, new) => Some(format!(
                "{} instead of {}",
                outcome(new.as_deref()),
                outcome(old.as_ref().map(|o| &**o))
            )),
        };
        if let Some(what) = what {
            self.differs(&sent, what);
        }
    }

    fn differs(&mut self, sent: &Sent, what: String) {
        self.report.different += 1;
        if self.report.differences.len() < LISTED {
            let &Sent { index, opcode, ref ticket, .. } = sent;
            self.report.differences.push(Difference { index, opcode, unique: ticket.unique, what });
        }
    }

    /// The difference between two successful answers; learns the numbers in them.
    fn compare(&mut self, sent: &Sent, old: &[u8], new: &[u8]) -> Option<String> {
        match sent.opcode {
            Opcode::Lookup | Opcode::Symlink | Opcode::Mknod | Opcode::Mkdir | Opcode::Link => {
                self.entries(old, new)
            }
            Opcode::Create | Opcode::Tmpfile => {
                // Both, so that the handle is learned even where the entries differ.
                let entries = self.entries(old, new);
                let opened = old
                    .get(ENTRY..)
                    .zip(new.get(ENTRY..))
                    .and_then(|(old, new)| self.opened(sent.opcode, old, new));
                entries.or(opened)
            }
            Opcode::Open | Opcode::Opendir => self.opened(sent.opcode, old, new),
            Opcode::Getattr | Opcode::Setattr => {
                match (parse::<abi::AttrOut>(old), parse::<abi::AttrOut>(new)) {
                    (Some(old), Some(new)) => attributes(&old.attr, &new.attr),
                    _ => lengths(old, new),
                }
            }
            Opcode::Statx => match (parse::<abi::StatxOut>(old), parse::<abi::StatxOut>(new)) {
                (Some(old), Some(new)) => attributes(&basic(&old.stat), &basic(&new.stat)),
                _ => lengths(old, new),
            },
            Opcode::Readdir | Opcode::Readdirplus => self.listings(sent, old, new),
            Opcode::Listxattr if sent.room > 0 => {
                let names = |list: &[u8]| {
                    let mut names: Vec<_> = list.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
                    names.sort();
                    names
                };
                (names(old) != names(new)).then(|| format!("{} instead of {}", text(new), text(old)))
            }
            Opcode::Statfs => None,
            _ => (old != new).then(|| contents(old, new)),
        }
    }

    fn entries(&mut self, old: &[u8], new: &[u8]) -> Option<String> {
        let (Some(old), Some(new)) = (parse::<abi::EntryOut>(old), parse::<abi::EntryOut>(new)) else {
            return lengths(old, new);
        };
        match (old.nodeid, new.nodeid) {
            (0, 0) => None,
            (0, _) => Some("there is such a name now".into()),
            (_, 0) => Some("there is no such name now".into()),
            (old_node, new_node) => {
                self.numbers.learn_node(old_node, new_node);
                attributes(&old.attr, &new.attr)
            }
        }
    }

    fn opened(&mut self, opcode: Opcode, old: &[u8], new: &[u8]) -> Option<String> {
        let (Some(old), Some(new)) = (parse::<abi::OpenOut>(old), parse::<abi::OpenOut>(new)) else {
            return lengths(old, new);
        };
        self.numbers.learn_handle(opcode, old.fh, new.fh);
        let flags = |out: abi::OpenOut| FopenFlags::from_bits_retain(out.open_flags);
        (old.open_flags != new.open_flags)
            .then(|| format!("flags {:?} instead of {:?}", flags(new), flags(old)))
    }

    fn listings(&mut self, sent: &Sent, old: &[u8], new: &[u8]) -> Option<String> {
        let plus = sent.opcode == Opcode::Readdirplus;
        let (old, new) = (Listing { rest: old, plus }, Listing { rest: new, plus });
        let (mut old, mut new): (Vec<_>, Vec<_>) = (old.collect(), new.collect());
        for (old, new) in old.iter().zip(&new) {
            self.numbers.learn_cookie(sent.handle, old.next, new.next);
        }
        old.sort_by_key(|entry| entry.name);
        new.sort_by_key(|entry| entry.name);
        for old in &old {
            if let Ok(i) = new.binary_search_by_key(&old.name, |entry| entry.name) {
                self.numbers.learn_node(old.node, new[i].node);
            }
        }
        let shown = |list: &[Listed<'_>]| -> Vec<_> { list.iter().map(|e| (text(e.name), e.kind)).collect() };
        let (old, new) = (shown(&old), shown(&new));
        let extra: Vec<_> = new.iter().filter(|e| !old.contains(e)).collect();
        let missing: Vec<_> = old.iter().filter(|e| !new.contains(e)).collect();
        let same = extra.is_empty() && missing.is_empty() && old.len() == new.len();
        (!same).then(|| format!("entries missing: {missing:?}, entries too many: {extra:?}"))
    }
}

const ENTRY: usize = size_of::<abi::EntryOut>();

fn parse<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

/// One entry of a listing.
struct Listed<'a> {
    node: u64,
    next: u64,
    kind: u32,
    name: &'a [u8],
}

/// The entries of a READDIR or READDIRPLUS answer.
struct Listing<'a> {
    rest: &'a [u8],
    plus: bool,
}

impl<'a> Iterator for Listing<'a> {
    type Item = Listed<'a>;

    fn next(&mut self) -> Option<Listed<'a>> {
        let (node, prefix) = match self.plus {
            true => (parse::<abi::EntryOut>(self.rest)?.nodeid, ENTRY),
            false => (0, 0),
        };
        let (head, after) = abi::Dirent::read_from_prefix(self.rest.get(prefix..)?).ok()?;
        let name = after.get(..head.namelen as usize)?;
        let size = abi::rec_align(prefix + size_of::<abi::Dirent>() + name.len());
        self.rest = self.rest.get(size..).unwrap_or_default();
        Some(Listed { node, next: head.off, kind: head.typ, name })
    }
}

fn basic(s: &abi::Statx) -> abi::Attr {
    let rdev = (s.rdev_minor & 0xff) | (s.rdev_major << 8) | ((s.rdev_minor & !0xff) << 12);
    abi::Attr {
        size: s.size,
        mode: s.mode.into(),
        nlink: s.nlink,
        uid: s.uid,
        gid: s.gid,
        rdev,
        ..Default::default()
    }
}

fn attributes(old: &abi::Attr, new: &abi::Attr) -> Option<String> {
    // The length of a directory means nothing.
    let size = |a: &abi::Attr| if a.mode & 0o170_000 == FileType::Directory as u32 { 0 } else { a.size };
    let links =
        |a: &abi::Attr| if a.mode & 0o170_000 == FileType::Directory as u32 { 0 } else { a.nlink.into() };
    let fields = [
        ("size", size(old), size(new)),
        ("links", links(old), links(new)),
        ("uid", old.uid.into(), new.uid.into()),
        ("gid", old.gid.into(), new.gid.into()),
        ("device", old.rdev.into(), new.rdev.into()),
    ];
    let mut words: Vec<String> = Vec::new();
    if old.mode != new.mode {
        words.push(format!("mode {:o} instead of {:o}", new.mode, old.mode));
    }
    for (name, old, new) in fields {
        if old != new {
            words.push(format!("{name} {new} instead of {old}"));
        }
    }
    (!words.is_empty()).then(|| words.join(", "))
}

fn lengths(old: &[u8], new: &[u8]) -> Option<String> {
    (old.len() != new.len()).then(|| format!("{} bytes instead of {}", new.len(), old.len()))
}

fn contents(old: &[u8], new: &[u8]) -> String {
    match old.iter().zip(new).position(|(old, new)| old != new) {
        Some(at) => format!("byte {at} is {:#04x} instead of {:#04x}", new[at], old[at]),
        None => format!("{} bytes instead of {}", new.len(), old.len()),
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn outcome(answer: std::result::Result<&[u8], &Errno>) -> String {
    match answer {
        Ok(bytes) => format!("success ({} bytes)", bytes.len()),
        Err(errno) => errno.to_string(),
    }
}
