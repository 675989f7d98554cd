//! One file in one directory. Run it with `cargo run -p fusewire --example hello -- MOUNTPOINT`.
use fusewire::{Attr, Context, Entry, Errno, FileSystem, FileType, NodeId, Result, op, reply::*};

const TEXT: &[u8] = b"Hello, world!\n";
const FILE: NodeId = NodeId::new(2);
const LISTING: [(NodeId, FileType, &str); 3] = [
    (NodeId::ROOT, FileType::Directory, "."),
    (NodeId::ROOT, FileType::Directory, ".."),
    (FILE, FileType::Regular, "hello"),
];

struct Hello;

impl FileSystem for Hello {
    async fn lookup(&self, _: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        let known = op.parent == NodeId::ROOT && op.name.as_bytes() == b"hello";
        if known { Ok(Entry::new(FILE, Attr::file(TEXT.len() as u64))) } else { Err(Errno::NOENT) }
    }

    async fn getattr(&self, _: &Context, op: op::Getattr) -> Result<Attr> {
        Ok(if op.node == FILE { Attr::file(TEXT.len() as u64) } else { Attr::directory() })
    }

    async fn read(&self, _: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        out.put_from(TEXT, op.offset);
        Ok(())
    }

    async fn readdir(&self, _: &Context, op: op::Readdir, out: &mut DirSink<'_>) -> Result<()> {
        out.put_all(op.cookie, LISTING);
        Ok(())
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mountpoint = std::env::args_os().nth(1).ok_or("usage: hello MOUNTPOINT")?;
    println!("Try: cat {}/hello (Ctrl-C ends)", mountpoint.display());
    Ok(fusewire::mount(Hello, mountpoint)?)
}
