//! A flat directory of files in memory, whose numbers can be chosen: small enough to be seen through.

use fusewire::{reply::*, *};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

pub struct Toy {
    /// Node of the first file; the next ones follow.
    first: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<Vec<u8>, u64>,
    files: BTreeMap<u64, (u16, Vec<u8>)>,
    made: u64,
}

impl Toy {
    /// An empty one that counts its nodes, handles and cookies from `first` on.
    pub fn new(first: u64) -> Self {
        Self { first, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn attr(state: &State, node: u64) -> Result<Attr> {
        if node == 1 {
            return Ok(Attr::directory().with_perm(0o755));
        }
        let (perm, content) = state.files.get(&node).ok_or(Errno::STALE)?;
        Ok(Attr::file(content.len() as u64).with_perm(*perm))
    }
}

impl FileSystem for Toy {
    async fn lookup(&self, _: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        let state = self.lock();
        let &node = state.names.get(op.name.as_bytes()).ok_or(Errno::NOENT)?;
        Ok(Entry::new(NodeId::new(node), Self::attr(&state, node)?))
    }

    async fn getattr(&self, _: &Context, op: op::Getattr) -> Result<Attr> {
        Self::attr(&self.lock(), op.node.raw())
    }

    async fn setattr(&self, _: &Context, op: op::Setattr) -> Result<Attr> {
        let mut state = self.lock();
        let (perm, content) = state.files.get_mut(&op.node.raw()).ok_or(Errno::STALE)?;
        op.changes.mode.iter().for_each(|&mode| *perm = mode as u16);
        op.changes.size.iter().for_each(|&size| content.resize(size as usize, 0));
        Self::attr(&state, op.node.raw())
    }

    async fn create(&self, _: &Context, op: op::Create<'_>) -> Result<(Entry, Opened)> {
        let mut state = self.lock();
        state.made += 1;
        let node = self.first + state.made;
        state.names.insert(op.name.as_bytes().to_vec(), node);
        state.files.insert(node, (op.mode as u16 & 0o7777, Vec::new()));
        let entry = Entry::new(NodeId::new(node), Self::attr(&state, node)?);
        Ok((entry, Opened::new(Handle(node * 2))))
    }

    async fn open(&self, _: &Context, op: op::Open) -> Result<Opened> {
        Ok(Opened::new(Handle(op.node.raw() * 2)))
    }

    async fn read(&self, _: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        if op.handle.0 != op.node.raw() * 2 {
            return Err(Errno::BADF);
        }
        out.put_from(&self.lock().files.get(&op.node.raw()).ok_or(Errno::STALE)?.1, op.offset);
        Ok(())
    }

    async fn write(&self, _: &Context, op: op::Write<'_>) -> Result<u32> {
        if op.handle.0 != op.node.raw() * 2 {
            return Err(Errno::BADF);
        }
        let mut state = self.lock();
        let (_, content) = state.files.get_mut(&op.node.raw()).ok_or(Errno::STALE)?;
        let end = op.offset as usize + op.data.len();
        content.resize(content.len().max(end), 0);
        op.data.copy_to(&mut content[op.offset as usize..]);
        Ok(op.data.len() as u32)
    }

    async fn unlink(&self, _: &Context, op: op::Unlink<'_>) -> Result<()> {
        self.lock().names.remove(op.name.as_bytes()).map(drop).ok_or(Errno::NOENT)
    }

    async fn fsync(&self, _: &Context, _: op::Fsync) -> Result<()> {
        Ok(())
    }

    async fn opendir(&self, _: &Context, _: op::Opendir) -> Result<Opened> {
        Ok(Opened::new(Handle(self.first)))
    }

    async fn readdir(&self, _: &Context, op: op::Readdir, out: &mut DirSink<'_>) -> Result<()> {
        if op.handle.0 != self.first {
            return Err(Errno::BADF);
        }
        let done = op.cookie.saturating_sub(self.first) as usize;
        for (i, (name, node)) in self.lock().names.iter().enumerate().skip(done) {
            if !out.put(*node, Some(FileType::Regular), name, self.first + i as u64 + 1) {
                break;
            }
        }
        Ok(())
    }
}
