//! Requests and answers into a file.

use super::{
    Layer,
    format::{AnswerHead, FILE_MAGIC, FILE_VERSION, FileHead, RecordHead, RecordKind},
};
use crate::{
    proto::{message::Message, negotiate::Agreed},
    session::{Answered, Slot},
};
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use zerocopy::IntoBytes;

/// How much to record.
#[derive(Clone, Copy, Debug)]
pub struct RecordOptions {
    /// Length of the file at most, bytes; what comes later is served and not recorded. Default 1 GiB.
    pub max_bytes: u64,
}

impl Default for RecordOptions {
    fn default() -> Self {
        Self { max_bytes: 1 << 30 }
    }
}

/// A recording could not be made or not be completed.
#[derive(Debug, thiserror::Error)]
#[error("cannot record requests to {}: {source}; is there room, and may this user write there?", path.display())]
pub struct RecordError {
    /// The recording.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// What was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Requests.
    pub requests: u64,
    /// Length of the file, bytes.
    pub bytes: u64,
    /// Nothing was left out for want of room.
    pub complete: bool,
}

/// Writes every request and every answer to a file, which [`Replay`](super::Replay) reads. Clones write to the same file.
///
/// The data are in it, too: file contents and names as they travelled.
#[derive(Clone, Debug)]
pub struct Record {
    file: Arc<Recording>,
}

impl Record {
    /// Record to a new file; one that exists is overwritten.
    pub fn create(path: &Path) -> Result<Self, RecordError> {
        Self::with(path, RecordOptions::default())
    }

    /// The same with these limits.
    pub fn with(path: &Path, options: RecordOptions) -> Result<Self, RecordError> {
        let file = File::create(path).map_err(|source| RecordError { path: path.to_owned(), source })?;
        let state = State {
            out: BufWriter::with_capacity(256 << 10, file),
            requests: 0,
            bytes: 0,
            full: false,
            begun: false,
            error: None,
        };
        let file = Recording {
            path: path.to_owned(),
            began: Instant::now(),
            max_bytes: options.max_bytes,
            state: Mutex::new(state),
        };
        Ok(Self { file: Arc::new(file) })
    }

    /// Write out what is still buffered, and say what the file holds. It is written out as well when the mount ends and
    /// when the last clone is dropped; an error is then in the log only.
    pub fn finish(&self) -> Result<Recorded, RecordError> {
        let mut state = self.file.lock();
        let flushed = state.out.flush();
        match state.error.take().map_or(flushed, Err) {
            Ok(()) => Ok(Recorded { requests: state.requests, bytes: state.bytes, complete: !state.full }),
            Err(source) => Err(RecordError { path: self.file.path.clone(), source }),
        }
    }
}

#[derive(Debug)]
struct Recording {
    path: PathBuf,
    began: Instant,
    max_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    out: BufWriter<File>,
    requests: u64,
    bytes: u64,
    /// Nothing is recorded any more: the limit was reached, or writing failed.
    full: bool,
    /// The file's head is written.
    begun: bool,
    error: Option<io::Error>,
}

const RECORD_HEAD: usize = size_of::<RecordHead>();

impl Recording {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, agreed: &Agreed) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.begun, true) {
            return;
        }
        let head = FileHead {
            magic: FILE_MAGIC,
            version: FILE_VERSION,
            minor: agreed.minor,
            features: agreed.flags.bits(),
            max_write: agreed.max_write,
            max_pages: agreed.max_pages.into(),
        };
        self.write(&mut state, &[head.as_bytes()]);
    }

    fn put(&self, kind: RecordKind, body: &[&[u8]]) {
        let mut state = self.lock();
        if state.full {
            return;
        }
        let nanos = self.began.elapsed().as_nanos() as u64;
        let len = RECORD_HEAD + body.iter().map(|piece| piece.len()).sum::<usize>();
        let room = self.max_bytes.saturating_sub(state.bytes);
        // The record that says so must still fit.
        if (len + RECORD_HEAD) as u64 > room {
            tracing::warn!(path = %self.path.display(), limit = self.max_bytes, "the recording is full");
            let full = RecordHead { len: RECORD_HEAD as u32, kind: RecordKind::Full as u32, nanos };
            self.write(&mut state, &[full.as_bytes()]);
            state.full = true;
            return;
        }
        let head = RecordHead { len: len as u32, kind: kind as u32, nanos };
        state.requests += u64::from(kind == RecordKind::Request);
        self.write(&mut state, &[head.as_bytes()]);
        self.write(&mut state, body);
    }

    fn write(&self, state: &mut State, pieces: &[&[u8]]) {
        for piece in pieces {
            match state.out.write_all(piece) {
                Ok(()) => state.bytes += piece.len() as u64,
                Err(error) => {
                    tracing::error!(path = %self.path.display(), %error, "recording ends: it cannot be written");
                    state.full = true;
                    state.error.get_or_insert(error);
                    return;
                }
            }
        }
    }

    fn flush(&self) {
        if let Err(error) = self.lock().out.flush() {
            tracing::error!(path = %self.path.display(), %error, "the recording cannot be written");
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Layer for Record {
    type Slot<S: Slot> = RecordSlot<S>;

    fn wrap<S: Slot>(&self, inner: S) -> RecordSlot<S> {
        self.file.begin(&inner.agreed());
        RecordSlot { inner, file: self.file.clone() }
    }
}

/// A slot under [`Record`].
#[derive(Debug)]
pub struct RecordSlot<S> {
    inner: S,
    file: Arc<Recording>,
}

impl<S: Slot> Slot for RecordSlot<S> {
    fn agreed(&self) -> Agreed {
        self.inner.agreed()
    }

    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])> {
        let Some((message, area)) = self.inner.next().await else {
            self.file.flush();
            return None;
        };
        self.file.put(RecordKind::Request, &[message.header.as_bytes(), message.args, message.payload]);
        Some((message, area))
    }

    fn area(&mut self) -> &mut [u8] {
        self.inner.area()
    }

    async fn finish(&mut self, unique: u64, answer: Answered) {
        let (kind, error, len) = match answer.get() {
            None => (RecordKind::Served, 0, 0),
            Some(Ok(len)) => (RecordKind::Answer, 0, len),
            Some(Err(errno)) => (RecordKind::Answer, -errno.raw_os_error(), 0),
        };
        let data = self.inner.area().get(..len).unwrap_or_default();
        let head = AnswerHead { len: (size_of::<AnswerHead>() + data.len()) as u32, error, unique };
        self.file.put(kind, &[head.as_bytes(), data]);
        self.inner.finish(unique, answer).await;
    }
}
