//! Round trips: one request and its answer, again and again.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use super::{AlignedBuffer, Pass, all_of};
use crate::daemon::Pipe;
use crate::tree::ping_file;
use crate::workload::{Request, share};

/// One thread's round trips.
#[derive(Debug)]
pub struct Ping {
    way: Way,
    count: usize,
}

#[derive(Debug)]
enum Way {
    Getattr(OwnedFd),
    Read(OwnedFd, AlignedBuffer),
    Write(OwnedFd, AlignedBuffer),
    Pipe { to: OwnedFd, from: OwnedFd },
}

impl Ping {
    pub fn new(pass: &Pass<'_>, thread: usize, request: Request) -> Result<Self> {
        let mine = share(pass.ops, thread, pass.threads);
        let way = match (pass.pipe, request) {
            (Some(pipe), _) => pipe_way(pipe)?,
            // The descriptor saves the walk to the root, and O_PATH the opening of it.
            (None, Request::Getattr) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = rustix::fs::open(pass.root, flags, Mode::empty());
                Way::Getattr(root.with_context(|| format!("cannot open {}", pass.root.display()))?)
            }
            (None, Request::GetattrFile) => Way::Getattr(open(pass, OFlags::RDONLY)?),
            (None, Request::Read { block }) => {
                Way::Read(open(pass, OFlags::RDONLY)?, AlignedBuffer::new(block))
            }
            (None, Request::Write { block }) => {
                Way::Write(open(pass, OFlags::WRONLY)?, AlignedBuffer::new(block))
            }
        };
        Ok(Self { way, count: (mine.end - mine.start) as usize })
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn step(&mut self, _index: usize) -> Result<()> {
        match &mut self.way {
            Way::Getattr(of) => {
                let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
                rustix::fs::statx(of, c"", flags, StatxFlags::BASIC_STATS).context("statx failed")?;
            }
            Way::Read(file, buffer) => {
                let bytes = buffer.bytes();
                let done = rustix::io::pread(file, &mut *bytes, 0).context("read of the file 0 failed")?;
                all_of(done, bytes.len(), "read", 0)?;
            }
            Way::Write(file, buffer) => {
                let bytes = buffer.bytes();
                let done = rustix::io::pwrite(file, bytes, 0).context("write to the file 0 failed")?;
                all_of(done, bytes.len(), "write", 0)?;
            }
            Way::Pipe { to, from } => {
                let mut byte = [1];
                ensure!(rustix::io::write(to, &byte)? == 1, "the pipe took nothing");
                if rustix::io::read(from, &mut byte)? != 1 {
                    bail!("the echoing process has closed its pipe");
                }
            }
        }
        Ok(())
    }
}

fn pipe_way(pipe: &Pipe) -> Result<Way> {
    let (to, from) = (pipe.to.try_clone(), pipe.from.try_clone());
    Ok(Way::Pipe { to: to.context("cannot use the pipe")?, from: from.context("cannot use the pipe")? })
}

fn open(pass: &Pass<'_>, how: OFlags) -> Result<OwnedFd> {
    let path = ping_file(pass.root);
    rustix::fs::open(&path, how | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {} with O_DIRECT", path.display()))
}

impl Request {
    /// Bytes that it carries.
    pub fn block(self) -> usize {
        match self {
            Self::Getattr | Self::GetattrFile => 0,
            Self::Read { block } | Self::Write { block } => block,
        }
    }
}
