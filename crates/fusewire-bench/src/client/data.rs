//! Reads and writes of open files.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, Mode, OFlags};

use super::{AlignedBuffer, Pass, all_of};
use crate::tree::{self, data_file};
use crate::workload::{Transfer, share, shuffled_blocks};

/// One thread's reads or writes of its own file.
#[derive(Debug)]
pub struct Data {
    fd: OwnedFd,
    transfer: Transfer,
    offsets: Vec<u64>,
    buffer: AlignedBuffer,
}

impl Data {
    pub fn new(pass: &Pass<'_>, thread: usize, transfer: Transfer) -> Result<Self> {
        let path = data_file(pass.root, thread);
        let mut flags = OFlags::CLOEXEC | if transfer.write { OFlags::WRONLY } else { OFlags::RDONLY };
        flags.set(OFlags::DIRECT, transfer.direct);
        let open = || -> rustix::io::Result<OwnedFd> {
            let fd = rustix::fs::open(&path, flags, Mode::empty())?;
            if !transfer.direct {
                rustix::fs::fadvise(&fd, 0, None, Advice::DontNeed)?;
                let order = if transfer.random { Advice::Random } else { Advice::Sequential };
                rustix::fs::fadvise(&fd, 0, None, order)?;
            }
            Ok(fd)
        };
        let fd = open().with_context(|| {
            format!("cannot open {}{}", path.display(), if transfer.direct { " with O_DIRECT" } else { "" })
        })?;
        let device = rustix::fs::fstat(&fd)?.st_dev;
        ensure!(device == tree::device(pass.root)?, "{} is not on the mount", path.display());

        let size = pass.workload.data_files(pass.threads).map_or(0, |files| files.size);
        let mine = share(pass.ops, thread, pass.threads);
        let (blocks, count) = (size / transfer.block as u64, mine.end - mine.start);
        ensure!(blocks > 0, "{} is smaller than one block", path.display());
        let order = if transfer.random {
            shuffled_blocks(blocks, count, pass.seed ^ ((thread as u64) << 32))
        } else {
            (0..count).map(|index| index % blocks).collect()
        };
        let offsets = order.into_iter().map(|block| block * transfer.block as u64).collect();
        Ok(Self { fd, transfer, offsets, buffer: AlignedBuffer::new(transfer.block) })
    }

    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    pub fn step(&mut self, index: usize) -> Result<()> {
        let offset = self.offsets[index];
        let bytes = self.buffer.bytes();
        let (what, done) = if self.transfer.write {
            ("write", rustix::io::pwrite(&self.fd, bytes, offset))
        } else {
            ("read", rustix::io::pread(&self.fd, bytes, offset))
        };
        let done = done.with_context(|| format!("{what} at offset {offset} failed"))?;
        all_of(done, self.transfer.block, what, offset)
    }
}
