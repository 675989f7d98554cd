//! Files in memory, in one directory: what a filesystem that can be written to has to do. Run it with
//! `cargo run -p fusewire --example memory -- MOUNTPOINT`. A complete one is `fusewire_fs::MemFs`.
//!
//! What to look at: a node lives until the kernel forgets it, also when its last name is gone. That is how an open file
//! can be removed and used on.

use fusewire::{
    Attr, Context, Entry, Errno, FileSystem, FileType, Handle, NodeId, Opened, Result, op, reply::*,
};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// No file is longer than this, bytes: an offset is what somebody else says.
const MAX_SIZE: u64 = 1 << 30;

#[derive(Default)]
struct File {
    perm: u16,
    content: Vec<u8>,
    /// How often the kernel was told of it, and has not forgotten it.
    lookups: u64,
    has_name: bool,
}

#[derive(Default)]
struct State {
    names: BTreeMap<Vec<u8>, u64>,
    files: BTreeMap<u64, File>,
    last: u64,
}

#[derive(Default)]
struct Memory(Mutex<State>);

impl State {
    fn file(&mut self, node: NodeId) -> Result<&mut File> {
        self.files.get_mut(&node.raw()).ok_or(Errno::STALE)
    }

    fn attr(&mut self, node: NodeId) -> Result<Attr> {
        if node == NodeId::ROOT {
            return Ok(Attr::directory().with_perm(0o755));
        }
        self.file(node).map(|file| Attr::file(file.content.len() as u64).with_perm(file.perm))
    }

    /// What answers a lookup, and counts as one.
    fn entry(&mut self, node: NodeId) -> Result<Entry> {
        self.file(node)?.lookups += 1;
        Ok(Entry::new(node, self.attr(node)?))
    }

    fn drop_unused(&mut self, node: NodeId) {
        if self.file(node).is_ok_and(|file| file.lookups == 0 && !file.has_name) {
            self.files.remove(&node.raw());
        }
    }
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn length(bytes: u64) -> Result<usize> {
    if bytes > MAX_SIZE { Err(Errno::FBIG) } else { Ok(bytes as usize) }
}

impl FileSystem for Memory {
    async fn lookup(&self, _: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        let mut state = self.state();
        let &node = state.names.get(op.name.as_bytes()).ok_or(Errno::NOENT)?;
        state.entry(NodeId::new(node))
    }

    fn forget(&self, op: op::Forget) {
        let mut state = self.state();
        if let Ok(file) = state.file(op.node) {
            file.lookups = file.lookups.saturating_sub(op.count);
        }
        state.drop_unused(op.node);
    }

    async fn getattr(&self, _: &Context, op: op::Getattr) -> Result<Attr> {
        self.state().attr(op.node)
    }

    async fn setattr(&self, _: &Context, op: op::Setattr) -> Result<Attr> {
        let mut state = self.state();
        let file = state.file(op.node)?;
        if let Some(size) = op.changes.size {
            file.content.resize(length(size)?, 0);
        }
        if let Some(mode) = op.changes.mode {
            file.perm = (mode & 0o7777) as u16;
        }
        state.attr(op.node)
    }

    async fn create(&self, _: &Context, op: op::Create<'_>) -> Result<(Entry, Opened)> {
        let mut state = self.state();
        if state.names.contains_key(op.name.as_bytes()) {
            return Err(Errno::EXIST);
        }
        state.last = state.last.max(NodeId::ROOT.raw()) + 1;
        let node = state.last;
        let perm = (op.mode & 0o7777) as u16;
        state.files.insert(node, File { perm, has_name: true, ..File::default() });
        state.names.insert(op.name.as_bytes().to_vec(), node);
        // Handles are not needed here: the node says it all.
        Ok((state.entry(NodeId::new(node))?, Opened::new(Handle(0))))
    }

    async fn read(&self, _: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        out.put_from(&self.state().file(op.node)?.content, op.offset);
        Ok(())
    }

    async fn write(&self, _: &Context, op: op::Write<'_>) -> Result<u32> {
        let mut state = self.state();
        let content = &mut state.file(op.node)?.content;
        let end = length(op.offset.saturating_add(op.data.len() as u64))?;
        content.resize(content.len().max(end), 0);
        op.data.copy_to(&mut content[op.offset as usize..]);
        Ok(op.data.len() as u32)
    }

    async fn unlink(&self, _: &Context, op: op::Unlink<'_>) -> Result<()> {
        let mut state = self.state();
        let node = NodeId::new(state.names.remove(op.name.as_bytes()).ok_or(Errno::NOENT)?);
        state.file(node)?.has_name = false;
        state.drop_unused(node);
        Ok(())
    }

    async fn readdir(&self, _: &Context, op: op::Readdir, out: &mut DirSink<'_>) -> Result<()> {
        // A cookie is the number of the node after which to go on: names that come and go in between shift nothing.
        let state = self.state();
        let mut files: Vec<_> = state.names.iter().filter(|(_, node)| **node > op.cookie).collect();
        files.sort_by_key(|(_, node)| **node);
        for (name, node) in files {
            if !out.put(*node, Some(FileType::Regular), name, *node) {
                break;
            }
        }
        Ok(())
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mountpoint = std::env::args_os().nth(1).ok_or("usage: memory MOUNTPOINT")?;
    println!("Try: echo text > {}/file (Ctrl-C ends)", mountpoint.display());
    Ok(fusewire::mount(Memory::default(), mountpoint)?)
}
