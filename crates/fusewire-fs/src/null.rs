//! Answers everything at once and keeps nothing: what is left of a request's cost is the channel's and the kernel's.
//! The upper bound in benchmarks.

use fusewire::{
    Attr, Context, Entry, Errno, FileSystem, FileType, Handle, NodeId, Opened, Result, StatFs, op,
    reply::{DirPlusSink, DirSink, Sink, XattrSink},
};
use std::{num::NonZero, time::Duration};

/// What a [`NullFs`] shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NullOptions {
    /// Files that the root lists, called `0`, `1` ... Any other number is found as well. Default 1000.
    pub files: u64,
    /// Length of every file, bytes, all of them zero. Default 1 MiB.
    pub size: u64,
    /// For how long the kernel may answer from names and attributes that it has seen. Default a second.
    pub ttl: Duration,
    /// How long a read or a write takes. The thread that serves it sleeps meanwhile, as in a system call on a slow disk;
    /// everything else is answered at once. Default zero.
    pub delay: Duration,
}

impl Default for NullOptions {
    fn default() -> Self {
        Self { files: 1000, size: 1 << 20, ttl: Duration::from_secs(1), delay: Duration::ZERO }
    }
}

/// The filesystem: numbered files full of zeros. Writing, making and removing succeed and change nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullFs {
    options: NullOptions,
}

/// Node of file `0`; the numbers go up from here.
const FIRST: u64 = NodeId::ROOT.raw() + 1;
/// Files of other names than numbers are told apart by a hash of the name, with this bit set.
const NAMED: u64 = 1 << 62;
/// The same for directories.
const DIRECTORY: u64 = 1 << 63;

/// Cookies of `.` and `..`; file `n` has the `n`th after them.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// Longest number of a file, decimal digits: below `NAMED` in any case.
const MAX_DIGITS: usize = 18;

/// The number that a name is, written without leading zeros.
fn number(name: &[u8]) -> Option<u64> {
    if name.is_empty() || name.len() > MAX_DIGITS || (name[0] == b'0' && name.len() > 1) {
        return None;
    }
    name.iter().try_fold(0, |n, digit| digit.is_ascii_digit().then(|| n * 10 + u64::from(digit - b'0')))
}

/// A number in decimal, without allocation.
struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    fn new(mut n: u64) -> Self {
        let mut this = Self { digits: [b'0'; 20], start: 20 };
        loop {
            this.start -= 1;
            this.digits[this.start] = b'0' + (n % 10) as u8;
            n /= 10;
            if n == 0 {
                return this;
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

/// Node of a name: numbered, or told apart by FNV-1a and marked with `mark`.
fn node_of(name: &[u8], mark: u64) -> NodeId {
    if mark == NAMED
        && let Some(n) = number(name)
    {
        return NodeId::new(FIRST + n);
    }
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325, hash);
    NodeId::new(hash & (NAMED - 1) | mark)
}

impl NullFs {
    /// A filesystem that shows what `options` say.
    pub fn new(options: NullOptions) -> Self {
        Self { options }
    }

    fn attr(&self, node: NodeId) -> Attr {
        let attr = match node == NodeId::ROOT || node.raw() & DIRECTORY != 0 {
            true => Attr::directory().with_perm(0o777),
            false => Attr::file(self.options.size).with_perm(0o666),
        };
        attr.with_ttl(self.options.ttl)
    }

    fn entry(&self, node: NodeId) -> Entry {
        Entry::new(node, self.attr(node))
    }

    /// What the backend takes.
    fn wait(&self) {
        if !self.options.delay.is_zero() {
            // As long, and no longer: otherwise the kernel may wake a thread 50 µs late, which is no backend's doing.
            _ = rustix::thread::set_current_timer_slack(NonZero::new(1));
            std::thread::sleep(self.options.delay);
        }
    }

    /// Numbers of the files that are listed after `cookie`.
    fn listed(&self, node: NodeId, cookie: u64) -> std::ops::Range<u64> {
        let end = if node == NodeId::ROOT { self.options.files } else { 0 };
        cookie.saturating_sub(DOT_DOT).min(end)..end
    }
}

impl FileSystem for NullFs {
    async fn lookup(&self, _cx: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        match number(op.name.as_bytes()) {
            Some(n) => Ok(self.entry(NodeId::new(FIRST + n))),
            None => Err(Errno::NOENT),
        }
    }

    async fn getattr(&self, _cx: &Context, op: op::Getattr) -> Result<Attr> {
        Ok(self.attr(op.node))
    }

    async fn setattr(&self, _cx: &Context, op: op::Setattr) -> Result<Attr> {
        let attr = self.attr(op.node);
        Ok(Attr { size: op.changes.size.unwrap_or(attr.size), ..attr })
    }

    async fn mknod(&self, _cx: &Context, op: op::Mknod<'_>) -> Result<Entry> {
        Ok(self.entry(node_of(op.name.as_bytes(), NAMED)))
    }

    async fn mkdir(&self, _cx: &Context, op: op::Mkdir<'_>) -> Result<Entry> {
        Ok(self.entry(node_of(op.name.as_bytes(), DIRECTORY)))
    }

    async fn unlink(&self, _cx: &Context, _op: op::Unlink<'_>) -> Result<()> {
        Ok(())
    }

    async fn rmdir(&self, _cx: &Context, _op: op::Rmdir<'_>) -> Result<()> {
        Ok(())
    }

    async fn rename(&self, _cx: &Context, _op: op::Rename<'_>) -> Result<()> {
        Ok(())
    }

    async fn link(&self, _cx: &Context, op: op::Link<'_>) -> Result<Entry> {
        Ok(self.entry(op.node))
    }

    async fn open(&self, _cx: &Context, _op: op::Open) -> Result<Opened> {
        Ok(Opened::new(Handle(0)))
    }

    async fn read(&self, _cx: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        self.wait();
        let left = self.options.size.saturating_sub(op.offset).min(u64::from(op.size));
        out.put_zeros(left as usize);
        Ok(())
    }

    async fn write(&self, _cx: &Context, op: op::Write<'_>) -> Result<u32> {
        self.wait();
        Ok(op.data.len() as u32)
    }

    async fn statfs(&self, _cx: &Context, _op: op::Statfs) -> Result<StatFs> {
        let blocks = 1 << 30;
        Ok(StatFs {
            blocks,
            bfree: blocks,
            bavail: blocks,
            files: NAMED,
            ffree: NAMED,
            bsize: 4096,
            namelen: 255,
            frsize: 4096,
        })
    }

    async fn fsync(&self, _cx: &Context, _op: op::Fsync) -> Result<()> {
        Ok(())
    }

    async fn flush(&self, _cx: &Context, _op: op::Flush) -> Result<()> {
        Ok(())
    }

    async fn getxattr(&self, _cx: &Context, _op: op::Getxattr<'_>, _out: &mut XattrSink<'_>) -> Result<()> {
        // The kernel remembers that: otherwise it would ask for `security.capability` at each write.
        Err(Errno::NOSYS)
    }

    async fn listxattr(&self, _cx: &Context, _op: op::Listxattr, _out: &mut XattrSink<'_>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    async fn create(&self, _cx: &Context, op: op::Create<'_>) -> Result<(Entry, Opened)> {
        Ok((self.entry(node_of(op.name.as_bytes(), NAMED)), Opened::new(Handle(0))))
    }

    async fn opendir(&self, _cx: &Context, _op: op::Opendir) -> Result<Opened> {
        Ok(Opened::new(Handle(0)))
    }

    async fn readdir(&self, _cx: &Context, op: op::Readdir, out: &mut DirSink<'_>) -> Result<()> {
        let (own, kind) = (op.node.raw(), Some(FileType::Directory));
        if (op.cookie < DOT && !out.put(own, kind, b".", DOT))
            || (op.cookie < DOT_DOT && !out.put(NodeId::ROOT.raw(), kind, b"..", DOT_DOT))
        {
            return Ok(());
        }
        for n in self.listed(op.node, op.cookie) {
            let name = Decimal::new(n);
            if !out.put(FIRST + n, Some(FileType::Regular), name.as_bytes(), DOT_DOT + 1 + n) {
                break;
            }
        }
        Ok(())
    }

    async fn readdirplus(&self, _cx: &Context, op: op::Readdirplus, out: &mut DirPlusSink<'_>) -> Result<()> {
        let (own, kind) = (op.node.raw(), Some(FileType::Directory));
        if (op.cookie < DOT && !out.put_unresolved(own, kind, b".", DOT))
            || (op.cookie < DOT_DOT && !out.put_unresolved(NodeId::ROOT.raw(), kind, b"..", DOT_DOT))
        {
            return Ok(());
        }
        for n in self.listed(op.node, op.cookie) {
            let (entry, name) = (self.entry(NodeId::new(FIRST + n)), Decimal::new(n));
            if !out.put(&entry, name.as_bytes(), DOT_DOT + 1 + n) {
                break;
            }
        }
        Ok(())
    }

    async fn fsyncdir(&self, _cx: &Context, _op: op::Fsyncdir) -> Result<()> {
        Ok(())
    }

    async fn fallocate(&self, _cx: &Context, _op: op::Fallocate) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_names_and_names_numbers() {
        for n in [0, 1, 9, 10, 999, 999_999_999_999_999_999] {
            assert_eq!(number(Decimal::new(n).as_bytes()), Some(n));
        }
        assert_eq!(Decimal::new(u64::MAX).as_bytes(), b"18446744073709551615");
        for name in [&b""[..], b"00", b"01", b"a", b"1a", b"-1", b"9999999999999999999"] {
            assert_eq!(number(name), None, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn kinds_of_nodes_do_not_mix() {
        let numbered = node_of(b"999999999999999999", NAMED);
        assert_eq!(numbered.raw() & (NAMED | DIRECTORY), 0);
        assert_eq!(node_of(b"x", NAMED).raw() >> 62, 1);
        assert_eq!(node_of(b"x", DIRECTORY).raw() >> 62, 2);
        assert_eq!(node_of(b"7", DIRECTORY).raw() >> 62, 2);
    }

    #[test]
    fn a_listing_resumes_where_it_ended() {
        let fs = NullFs::new(NullOptions { files: 10, ..Default::default() });
        assert_eq!(fs.listed(NodeId::ROOT, 0), 0..10);
        assert_eq!(fs.listed(NodeId::ROOT, DOT_DOT + 1 + 3), 4..10);
        assert!(fs.listed(NodeId::ROOT, u64::MAX).is_empty());
        assert!(fs.listed(node_of(b"d", DIRECTORY), 0).is_empty());
    }

    #[test]
    fn everything_is_answered() {
        use fusewire::channel::FakeKernel;
        let kernel =
            FakeKernel::start(NullFs::new(NullOptions { files: 300, size: 10, ..Default::default() }))
                .unwrap();
        let node = NodeId::new(kernel.lookup(NodeId::ROOT, c"12345").unwrap().nodeid);
        assert_eq!(kernel.lookup(NodeId::ROOT, c"name").unwrap_err(), Errno::NOENT);
        let handle = kernel.open(node, 2).unwrap().fh;
        assert_eq!(kernel.write(node, handle, 0, b"gone"), Ok(4));
        assert_eq!(kernel.read(node, handle, 4, 100).unwrap(), [0; 6]);
        assert_eq!(kernel.read(node, handle, u64::MAX, 100).unwrap(), []);
        assert_eq!(kernel.getattr(node).unwrap().size, 10);
        kernel.create(NodeId::ROOT, c"name", 0o644, 2).unwrap();
        kernel.unlink(NodeId::ROOT, c"name").unwrap();
        let names = kernel.readdir(NodeId::ROOT, 0).unwrap();
        let numbers: Vec<_> = names.iter().filter_map(|name| number(name)).collect();
        assert_eq!((names.len(), numbers), (302, (0..300).collect()));
    }

    #[test]
    fn only_data_takes_the_time_of_the_backend() {
        use fusewire::channel::FakeKernel;
        let delay = Duration::from_millis(50);
        let kernel = FakeKernel::start(NullFs::new(NullOptions { delay, ..Default::default() })).unwrap();
        let node = NodeId::new(kernel.lookup(NodeId::ROOT, c"1").unwrap().nodeid);
        let handle = kernel.open(node, 2).unwrap().fh;
        let begin = std::time::Instant::now();
        (0..20).for_each(|_| assert!(kernel.getattr(node).is_ok()));
        assert!(begin.elapsed() < delay * 20, "GETATTR waits too");
        let begin = std::time::Instant::now();
        assert_eq!(kernel.read(node, handle, 0, 100).unwrap().len(), 100);
        assert!(begin.elapsed() >= delay);
        let begin = std::time::Instant::now();
        assert_eq!(kernel.write(node, handle, 0, b"gone"), Ok(4));
        assert!(begin.elapsed() >= delay);
    }
}
