//! Operations on names and small files.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::Pass;
use crate::tree::{self, c_path, file_name, list_dir, meta_dir, meta_file, work_dir};
use crate::workload::{DeviceLoad, DeviceRequest, LIST_FILES, META_FILES, Op, share};

/// Where symbolic links lead: nowhere.
const TARGET: &str = "../a/place/that/is/not/there";

/// One thread's operations on names.
#[derive(Debug)]
pub struct Names {
    op: NameOp,
    paths: Vec<CString>,
    device: u64,
}

#[derive(Debug)]
enum NameOp {
    Stat,
    StatAt { dirs: Vec<OwnedFd>, first: u64 },
    Missing,
    Readlink { buffer: Vec<u8> },
    Open,
    Create { content: Vec<u8> },
    Unlink,
    Rename { to: Vec<CString> },
    ReadFile { size: u64, buffer: Vec<u8> },
    Append { content: Vec<u8> },
    List,
    LsL { names: Vec<CString> },
}

/// What must be there before the kernel's caches are emptied: files to remove, rename, read or lengthen.
///
/// # Errors
/// If a file cannot be made.
pub fn prepare(pass: &Pass<'_>) -> Result<()> {
    let size = match pass.workload.op {
        Op::Unlink | Op::Rename => 0,
        Op::ReadFile { size } | Op::Append { size } => size,
        Op::Readlink => {
            for path in all_fresh_names(pass, pass.src) {
                symlink(TARGET, &path).with_context(|| format!("cannot make {}", path.display()))?;
            }
            return Ok(());
        }
        _ => return Ok(()),
    };
    let content = content(size);
    for path in all_fresh_names(pass, pass.src) {
        fs::write(&path, &content).with_context(|| format!("cannot make {}", path.display()))?;
    }
    Ok(())
}

/// Removes what a pass has made, behind the mount's back; to be called when the kernel has forgotten it.
///
/// # Errors
/// If a created, renamed or lengthened file is not there as it should, which means that the operations did not reach the
/// source directory, or if a removed file still is.
pub fn clean_up(pass: &Pass<'_>) -> Result<()> {
    let size = match pass.workload.op {
        Op::Create { size } | Op::ReadFile { size } => size,
        Op::Device(DeviceLoad { request: DeviceRequest::Create, .. }) => 0,
        Op::Append { size } => size * 2,
        Op::Rename => 0,
        Op::Readlink => TARGET.len() as u64,
        Op::Unlink => return ensure_empty(pass),
        _ => return Ok(()),
    };
    for path in all_fresh_names(pass, pass.src) {
        let path = if pass.workload.op == Op::Rename { renamed(&path) } else { path };
        let found = fs::symlink_metadata(&path).with_context(|| {
            format!("{} was made through the mount but is not in the source", path.display())
        })?;
        ensure!(found.len() == size, "{} has {} bytes instead of {size}", path.display(), found.len());
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    if pass.workload.op == Op::Rename { ensure_empty(pass) } else { Ok(()) }
}

fn ensure_empty(pass: &Pass<'_>) -> Result<()> {
    for thread in 0..pass.threads {
        let left = fs::read_dir(work_dir(pass.src, thread))?.count();
        ensure!(left == 0, "{left} files removed through the mount are still in the source");
    }
    Ok(())
}

impl Names {
    pub fn new(pass: &Pass<'_>, thread: usize) -> Result<Self> {
        let mine = share(pass.ops, thread, pass.threads);
        let root = pass.root;
        let fresh = || fresh_names(pass, thread, root).map(c_path).collect();
        let (op, paths): (_, Vec<CString>) = match pass.workload.op {
            Op::Open => (NameOp::Open, mine.map(|index| c_path(meta_file(root, index))).collect()),
            Op::List => (NameOp::List, mine.map(|index| c_path(list_dir(root, index))).collect()),
            Op::LsL => {
                let mine = share(pass.ops.div_ceil(LIST_FILES), thread, pass.threads);
                (NameOp::LsL { names: Vec::new() }, mine.map(|index| c_path(list_dir(root, index))).collect())
            }
            Op::Create { size } => (NameOp::Create { content: content(size) }, fresh()),
            Op::Unlink => (NameOp::Unlink, fresh()),
            Op::StatAt => {
                let first = mine.start;
                let names = mine.clone().map(|index| c_path(file_name(index % META_FILES).into())).collect();
                (NameOp::StatAt { dirs: open_meta_dirs(root, mine)?, first }, names)
            }
            Op::Missing => (NameOp::Missing, fresh()),
            Op::Readlink => (NameOp::Readlink { buffer: Vec::new() }, fresh()),
            Op::Rename => {
                let to = fresh_names(pass, thread, root).map(|path| c_path(renamed(&path))).collect();
                (NameOp::Rename { to }, fresh())
            }
            Op::ReadFile { size } => {
                let room = usize::try_from(size)?.max(1);
                (NameOp::ReadFile { size, buffer: vec![0; room] }, fresh())
            }
            Op::Append { size } => (NameOp::Append { content: content(size) }, fresh()),
            _ => (NameOp::Stat, mine.map(|index| c_path(meta_file(root, index))).collect()),
        };
        Ok(Self { op, paths, device: tree::device(root)? })
    }

    pub fn len(&self) -> usize {
        match self.op {
            NameOp::LsL { .. } => self.paths.len() * LIST_FILES as usize,
            _ => self.paths.len(),
        }
    }

    pub fn step(&mut self, index: usize) -> Result<()> {
        let index_of_path = match self.op {
            NameOp::LsL { .. } => index / LIST_FILES as usize,
            _ => index,
        };
        let path = &self.paths[index_of_path];
        let done = self.op.apply(path, index, self.device);
        done.with_context(|| format!("{} of {path:?} failed", self.op.name()))
    }
}

impl NameOp {
    fn name(&self) -> &'static str {
        match self {
            Self::Stat | Self::StatAt { .. } | Self::Missing => "stat",
            Self::Readlink { .. } => "readlink",
            Self::Open => "open",
            Self::Create { .. } => "creation",
            Self::Unlink => "unlink",
            Self::Rename { .. } => "rename",
            Self::ReadFile { .. } => "reading",
            Self::Append { .. } => "appending",
            Self::List | Self::LsL { .. } => "listing",
        }
    }

    fn apply(&mut self, path: &CString, index: usize, device: u64) -> Result<()> {
        match self {
            Self::Stat => {
                let stat = rustix::fs::stat(path)?;
                ensure!(stat.st_dev == device, "the file is not on the mount");
            }
            Self::StatAt { dirs, first } => {
                let dir = (*first + index as u64) / META_FILES - *first / META_FILES;
                let stat = rustix::fs::statat(&dirs[dir as usize], path, AtFlags::empty())?;
                ensure!(stat.st_dev == device, "the file is not on the mount");
            }
            Self::Missing => match rustix::fs::stat(path) {
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => bail!("it is there"),
            },
            Self::Readlink { buffer } => {
                let target = rustix::fs::readlink(path, std::mem::take(buffer))?;
                ensure!(target.to_bytes() == TARGET.as_bytes(), "it leads to {target:?}");
                *buffer = target.into_bytes();
            }
            Self::Open => drop(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?),
            Self::Create { content } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
                write_all(&file, content)?;
            }
            Self::Unlink => rustix::fs::unlinkat(CWD, path, AtFlags::empty())?,
            Self::Rename { to } => rustix::fs::rename(path, &to[index])?,
            Self::ReadFile { size, buffer } => {
                let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
                let mut read = 0;
                loop {
                    match rustix::io::read(&file, &mut buffer[..])? {
                        0 => break,
                        more => read += more as u64,
                    }
                }
                ensure!(read == *size, "it gave {read} of {size} bytes");
            }
            Self::Append { content } => {
                let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
                write_all(&rustix::fs::open(path, flags, Mode::empty())?, content)?;
            }
            Self::List => {
                let mut count = 0;
                list(path, |_| count += 1)?;
                complete(count)?;
            }
            Self::LsL { names } => {
                let entry = index % LIST_FILES as usize;
                if entry == 0 {
                    let dir = Path::new(OsStr::from_bytes(path.to_bytes()));
                    let mut count = 0;
                    names.clear();
                    list(path, |name| {
                        count += 1;
                        // Neither of these takes a look-up.
                        if !matches!(name.to_bytes(), b"." | b"..") {
                            names.push(c_path(dir.join(OsStr::from_bytes(name.to_bytes()))));
                        }
                    })?;
                    complete(count)?;
                }
                let stat = rustix::fs::lstat(&names[entry])?;
                ensure!(stat.st_dev == device, "the file is not on the mount");
            }
        }
        Ok(())
    }
}

/// The directories of these files, each open without leave to list it, which costs no request.
fn open_meta_dirs(root: &Path, files: std::ops::Range<u64>) -> Result<Vec<OwnedFd>> {
    let dirs = files.start / META_FILES..files.end.div_ceil(META_FILES);
    let open = |number| {
        let path = meta_dir(root, number);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty())
            .with_context(|| format!("cannot open {}", path.display()))
    };
    dirs.map(open).collect()
}

fn write_all(file: impl AsFd, content: &[u8]) -> Result<()> {
    if !content.is_empty() {
        let done = rustix::io::write(file, content)?;
        ensure!(done == content.len(), "{done} of {} bytes were written", content.len());
    }
    Ok(())
}

fn list(path: &CString, mut each: impl FnMut(&CStr)) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut entries = RawDir::new(&dir, &mut buffer);
    while let Some(entry) = entries.next() {
        each(entry?.file_name());
    }
    Ok(())
}

fn complete(count: u64) -> Result<()> {
    // With `.` and `..`.
    if count != LIST_FILES + 2 {
        bail!("{count} entries instead of {}", LIST_FILES + 2);
    }
    Ok(())
}

fn content(size: u64) -> Vec<u8> {
    vec![0x5a; size as usize]
}

fn renamed(path: &Path) -> PathBuf {
    path.with_extension("renamed")
}

/// Names no pass before has used, so that the kernel cannot know them.
pub fn fresh_names<'a>(pass: &Pass<'_>, thread: usize, root: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    let number = pass.number;
    share(pass.ops, thread, pass.threads)
        .map(move |index| work_dir(root, thread).join(format!("p{number}-{}", file_name(index))))
}

fn all_fresh_names<'a>(pass: &'a Pass<'_>, root: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    (0..pass.threads).flat_map(move |thread| fresh_names(pass, thread, root))
}
