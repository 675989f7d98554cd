//! Takes whatever is written and gives zeros, like /dev/null and /dev/zero in one file. Run it with
//! `cargo run -p fusewire --example null -- MOUNTPOINT`. What is left of a request's cost here is the channel's.
use fusewire::{
    Attr, Context, Entry, Errno, FileSystem, FileType, FopenFlags, Handle, NodeId, Opened, Result, op,
    reply::*,
};

/// How long the file is said to be, bytes.
const SIZE: u64 = 1 << 40;
const FILE: NodeId = NodeId::new(2);
const LISTING: [(NodeId, FileType, &str); 3] = [
    (NodeId::ROOT, FileType::Directory, "."),
    (NodeId::ROOT, FileType::Directory, ".."),
    (FILE, FileType::Regular, "null"),
];

struct Null;

fn attr(node: NodeId) -> Attr {
    if node == FILE { Attr::file(SIZE).with_perm(0o666) } else { Attr::directory() }
}

impl FileSystem for Null {
    async fn lookup(&self, _: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        let known = op.parent == NodeId::ROOT && op.name.as_bytes() == b"null";
        if known { Ok(Entry::new(FILE, attr(FILE))) } else { Err(Errno::NOENT) }
    }

    async fn getattr(&self, _: &Context, op: op::Getattr) -> Result<Attr> {
        Ok(attr(op.node))
    }

    async fn setattr(&self, _: &Context, op: op::Setattr) -> Result<Attr> {
        Ok(attr(op.node)) // `> null` asks for length 0, and gets what there always is
    }

    async fn open(&self, _: &Context, _: op::Open) -> Result<Opened> {
        // Past the page cache, which would give back what was written.
        Ok(Opened::new(Handle(0)).with_flags(FopenFlags::DIRECT_IO))
    }

    async fn read(&self, _: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        out.put_zeros(op.size as usize);
        Ok(())
    }

    async fn write(&self, _: &Context, op: op::Write<'_>) -> Result<u32> {
        Ok(op.data.len() as u32)
    }

    async fn readdir(&self, _: &Context, op: op::Readdir, out: &mut DirSink<'_>) -> Result<()> {
        out.put_all(op.cookie, LISTING);
        Ok(())
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mountpoint = std::env::args_os().nth(1).ok_or("usage: null MOUNTPOINT")?;
    println!("Try: dd if=/dev/zero of={}/null bs=1M count=1000 (Ctrl-C ends)", mountpoint.display());
    Ok(fusewire::mount(Null, mountpoint)?)
}
