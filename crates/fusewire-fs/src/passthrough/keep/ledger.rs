//! The nodes and open files of a client in a file, as they are at any moment: what a process that was killed leaves to the next one.
//!
//! The file is mapped. A record is found by its number alone, so that noting something takes no system call and no lock; only what is
//! there for the first time costs the question for its file handle. What the page cache has survives the process (not the machine, with
//! which the client ends, too).

use super::{Kept, KeptNode, KeptOpen, Way};
use crate::passthrough::{
    identity::Handle as FileHandle,
    sys::{RawHandle, Words},
};
use fusewire::{Generation, Handle, NodeId, table::Restored};
use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, seek},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

const MAGIC: u64 = u64::from_le_bytes(*b"fwledg01");
/// The head: magic, whether there is a session, and how the client began it.
const HEAD: usize = 4096;
const LIVE: usize = 1;
const BEGUN: usize = 2;
/// How long what a client begins a session with may be.
const BEGINNING: usize = 1024;

/// Words of a node: what there is, lookups, generation and kind of handle, the handle.
const NODE: usize = 8;
const NODES: usize = 1 << 22;
/// Longest file handle. Those of local filesystems have 8 to 20 bytes.
const LONGEST: usize = (NODE - 3) * 8;
/// Words of an open file: its number, its node, its flags.
const OPEN: usize = 4;
const OPENS: usize = 1 << 20;
const BYTES: usize = HEAD + (NODES * NODE + OPENS * OPEN) * 8;
/// Memory is asked for in pieces of that many bytes, before it is touched.
const PIECE: usize = 1 << 20;

/// How much of it is read at once: a whole number of records of either kind.
const READ: usize = 64 << 10;

const KNOWN: u64 = 1;

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    words: Words,
    pieces: Box<[AtomicBool]>,
    growing: Mutex<()>,
    /// There was no room, or something that cannot be kept: whoever comes next begins with nothing.
    broken: AtomicBool,
    /// Who writes: requests of a session that is over may still be under way, and must not be noted as the next one's.
    writer: RwLock<u64>,
    /// How many there were.
    writers: AtomicU64,
}

/// Nobody has written yet, or whoever has is not known: the next one to come may.
const ANYBODY: u64 = 0;
/// Nobody may.
const NOBODY: u64 = u64::MAX;

/// What a filesystem notes things with. It does nothing unless it is the one that a client has begun with last.
#[derive(Debug)]
pub struct Writer {
    ledger: Arc<Ledger>,
    number: u64,
}

impl Ledger {
    /// Keep what there is in `file`, which nobody else may write to or shorten: what stands there is trusted.
    ///
    /// # Errors
    /// If the file cannot be mapped, or its filesystem gives no room in advance.
    pub fn new(file: File) -> io::Result<Self> {
        file.set_len(BYTES as u64)?;
        let words = Words::map(&file, BYTES)?;
        let pieces = (0..BYTES.div_ceil(PIECE)).map(|_| AtomicBool::new(false)).collect();
        let ledger = Self {
            file,
            words,
            pieces,
            growing: Mutex::default(),
            broken: AtomicBool::new(false),
            writer: RwLock::new(ANYBODY),
            writers: AtomicU64::new(0),
        };
        ledger.grow(0)?;
        Ok(ledger)
    }

    fn writer(&self) -> RwLockWriteGuard<'_, u64> {
        self.writer.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, number: u64, beginning: &[u8]) -> io::Result<()> {
        let mut writer = self.writer();
        *writer = NOBODY;
        self.empty()?;
        if beginning.len() > BEGINNING {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.file.write_all_at(&(beginning.len() as u64).to_ne_bytes(), BEGUN as u64 * 8)?;
        self.file.write_all_at(beginning, (BEGUN as u64 + 1) * 8)?;
        self.word(0).store(MAGIC, Ordering::Relaxed);
        self.word(LIVE).store(1, Ordering::Release);
        *writer = number;
        Ok(())
    }

    /// The client is gone: nothing is known any more.
    ///
    /// # Errors
    /// If the file cannot be emptied.
    pub fn end(&self) -> io::Result<()> {
        let mut writer = self.writer();
        *writer = NOBODY;
        self.empty()
    }

    fn empty(&self) -> io::Result<()> {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        self.word(LIVE).store(0, Ordering::Release);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, hole, HEAD as u64, (BYTES - HEAD) as u64)?;
        // The head alone was never given up.
        self.pieces.iter().for_each(|piece| piece.store(false, Ordering::Release));
        self.broken.store(false, Ordering::Release);
        Ok(())
    }

    /// What the client before began with, and all that it knows; `None` if there is none. Whoever served it so far writes no more: the
    /// next filesystem that notes things here does.
    ///
    /// # Errors
    /// If the file cannot be read, or is none of ours.
    pub fn read(&self) -> io::Result<Option<(Vec<u8>, Kept)>> {
        if self.word(LIVE).load(Ordering::Acquire) != 1 {
            return Ok(None);
        }
        let wrong =
            |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, format!("the state file {why}")));
        if self.word(0).load(Ordering::Relaxed) != MAGIC {
            return wrong("is of another version, or none");
        }
        *self.writer() = ANYBODY;
        let len = self.word(BEGUN).load(Ordering::Relaxed) as usize;
        if len > BEGINNING {
            return wrong("is damaged");
        }
        let mut beginning = vec![0; len];
        self.file.read_exact_at(&mut beginning, (BEGUN as u64 + 1) * 8)?;
        let (mut kept, mut buffer) = (Kept::default(), vec![0; READ]);
        let opens = HEAD + NODES * NODE * 8;
        self.each::<NODE>((HEAD, opens), &mut buffer, |index, words| kept.nodes.extend(node(index, words)))?;
        self.each::<OPEN>((opens, BYTES), &mut buffer, |_, words| kept.opens.extend(open(words)))?;
        Ok(Some((beginning, kept)))
    }

    /// Read the records between two places: not by the memory that is mapped, which would give room to what is empty.
    fn each<const N: usize>(
        &self,
        (begin, end): (usize, usize),
        buffer: &mut [u8],
        mut visit: impl FnMut(u64, [u64; N]),
    ) -> io::Result<()> {
        let mut at = begin;
        while at < end {
            // Most of the file was never written to.
            match seek(&self.file, SeekFrom::Data(at as u64)) {
                Err(Errno::NXIO) => return Ok(()),
                found => at += (found? as usize).saturating_sub(at) / (N * 8) * (N * 8),
            }
            let len = buffer.len().min(end.saturating_sub(at));
            self.file.read_exact_at(&mut buffer[..len], at as u64)?;
            for (index, record) in buffer[..len].chunks_exact(N * 8).enumerate() {
                let words = std::array::from_fn(|i| word_at(record, i));
                if words != [0; N] {
                    visit(((at - begin) / (N * 8) + index) as u64, words);
                }
            }
            at += len;
        }
        Ok(())
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.words.all()[index]
    }

    /// Have room for what is `at` so many bytes.
    fn grow(&self, at: usize) -> io::Result<()> {
        let piece = &self.pieces[at / PIECE];
        if piece.load(Ordering::Acquire) {
            return Ok(());
        }
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = at / PIECE * PIECE;
        let len = PIECE.min(BYTES - begin);
        fallocate(&self.file, FallocateFlags::KEEP_SIZE, begin as u64, len as u64)?;
        piece.store(true, Ordering::Release);
        Ok(())
    }

    /// The words of a record, `None` if it cannot be kept: then nothing is, from now on.
    fn record(&self, begin: usize, (index, most): (u64, usize), words: usize) -> Option<&[AtomicU64]> {
        if self.broken.load(Ordering::Relaxed) {
            return None;
        }
        if index >= most as u64 {
            self.give_up("a client knows too many files at once");
            return None;
        }
        let at = begin + index as usize * words * 8;
        if let Err(error) = self.grow(at).and_then(|()| self.grow(at + words * 8 - 1)) {
            self.give_up(&format!("there is no room for the state file: {error}"));
            return None;
        }
        Some(&self.words.all()[at / 8..at / 8 + words])
    }

    fn give_up(&self, why: &str) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            self.word(LIVE).store(0, Ordering::Release);
            tracing::warn!(
                "{why}; a daemon that takes this one's place will not know what its client has open"
            );
        }
    }

    fn node(&self, node: NodeId) -> Option<&[AtomicU64]> {
        self.record(HEAD, (node.raw(), NODES), NODE)
    }

    fn open(&self, handle: Handle) -> Option<&[AtomicU64]> {
        self.record(HEAD + NODES * NODE * 8, (u64::from(handle.0 as u32), OPENS), OPEN)
    }

    fn name(&self, node: NodeId, generation: Generation, handle: &FileHandle) {
        let raw = handle.raw();
        let Some(words) = self.node(node) else { return };
        if raw.bytes().len() > LONGEST {
            return self.give_up("the filesystem's file handles are too long to be kept");
        }
        let mut bytes = [0; LONGEST];
        bytes[..raw.bytes().len()].copy_from_slice(raw.bytes());
        for (index, word) in words[3..].iter().enumerate() {
            word.store(word_at(&bytes, index), Ordering::Relaxed);
        }
        words[2].store(generation.0 << 32 | u64::from(raw.kind as u32), Ordering::Relaxed);
        words[0].store(KNOWN | (raw.bytes().len() as u64) << 8, Ordering::Release);
    }
}

impl Writer {
    /// One that may write once a client [begins](Self::begin) with it, or at once if nobody has written yet.
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        let number = ledger.writers.fetch_add(1, Ordering::Relaxed) + 1;
        {
            let mut writer = ledger.writer();
            if *writer == ANYBODY {
                *writer = number;
            }
        }
        Self { ledger, number }
    }

    /// A client begins: nothing is known. `beginning` is whatever it takes to begin the same again.
    pub(super) fn begin(&self, beginning: &[u8]) -> io::Result<()> {
        self.ledger.begin(self.number, beginning)
    }

    /// Write no more.
    pub fn give_up(&self) {
        let mut writer = self.ledger.writer();
        if *writer == self.number {
            *writer = NOBODY;
        }
    }

    /// The right to write something; `None`: somebody else has it.
    fn turn(&self) -> Option<RwLockReadGuard<'_, u64>> {
        let writer = self.ledger.writer.read().unwrap_or_else(PoisonError::into_inner);
        (*writer == self.number).then_some(writer)
    }

    /// A node was looked up; `new`: the number is this one's from now on.
    pub fn looked_up(&self, node: NodeId, new: bool) {
        if node != NodeId::ROOT
            && let Some(_turn) = self.turn()
            && let Some(words) = self.ledger.node(node)
        {
            if new {
                words[0].store(0, Ordering::Release);
            }
            words[1].fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Is it known what file it is?
    pub fn is_named(&self, node: NodeId) -> bool {
        let Some(_turn) = self.turn().filter(|_| node != NodeId::ROOT) else { return true };
        self.ledger.node(node).is_none_or(|words| words[0].load(Ordering::Acquire) & KNOWN != 0)
    }

    /// What file it is.
    pub fn name(&self, node: NodeId, generation: Generation, handle: &FileHandle) {
        if let Some(_turn) = self.turn() {
            self.ledger.name(node, generation, handle);
        }
    }

    /// A node that comes from elsewhere.
    pub fn arrived(&self, node: Restored, handle: &FileHandle) {
        if let Some(_turn) = self.turn()
            && let Some(words) = self.ledger.node(node.id)
        {
            words[1].store(node.lookups, Ordering::Relaxed);
            self.ledger.name(node.id, node.generation, handle);
        }
    }

    /// Some of its lookups are forgotten.
    pub fn forgotten(&self, node: NodeId, count: u64) {
        if node != NodeId::ROOT
            && let Some(_turn) = self.turn()
            && let Some(words) = self.ledger.node(node)
        {
            _ = words[1]
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |known| Some(known.saturating_sub(count)));
        }
    }

    /// A file was opened.
    pub fn opened(&self, open: KeptOpen) {
        if let Some(_turn) = self.turn()
            && let Some(words) = self.ledger.open(open.handle)
        {
            words[1].store(open.node.raw(), Ordering::Relaxed);
            words[2].store(u64::from(open.flags) | u64::from(open.directory) << 32, Ordering::Relaxed);
            words[0].store(open.handle.0, Ordering::Release);
        }
    }

    /// It was closed.
    pub fn closed(&self, handle: Handle) {
        if let Some(_turn) = self.turn()
            && let Some(words) = self.ledger.open(handle)
        {
            _ = words[0].compare_exchange(handle.0, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

fn word_at(bytes: &[u8], index: usize) -> u64 {
    let word = bytes.get(index * 8..index * 8 + 8).and_then(|word| word.try_into().ok());
    word.map_or(0, u64::from_ne_bytes)
}

fn node(index: u64, words: [u64; NODE]) -> Option<KeptNode> {
    let [known, lookups, generation, ..] = words;
    if known & KNOWN == 0 || lookups == 0 || index == 0 {
        return None;
    }
    let bytes: Vec<u8> = words[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let len = (known >> 8) as usize;
    let raw = RawHandle::new(generation as u32 as i32, bytes.get(..len)?);
    let restored = Restored { id: NodeId::new(index), lookups, generation: Generation(generation >> 32) };
    Some(KeptNode { restored, way: Way::Handle(raw.kind, raw.bytes().to_vec()) })
}

fn open([handle, node, flags, _]: [u64; OPEN]) -> Option<KeptOpen> {
    if handle == 0 || node == 0 {
        return None;
    }
    let (node, directory) = (NodeId::new(node), flags >> 32 != 0);
    Some(KeptOpen { handle: Handle(handle), node, flags: flags as u32, directory })
}
