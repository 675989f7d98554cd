//! The files that are worked on: the source directory that all targets re-export, or those of a mount with files of its
//! own.

use std::cell::Cell;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use crate::sources;
use crate::workload::{
    DataFiles, DeviceLoad, DeviceRequest, LIST_FILES, META_FILES, Op, PING_SIZE, Sources, Workload,
};

/// A file that proves which directory this is.
pub const SENTINEL: &str = "sentinel";
/// The file that round trips read and write.
pub const PING_FILE: &str = "0";
/// Where the small files are that are only looked at.
pub const META_DIR: &str = "meta";
/// Where the generated source tree is.
pub const SOURCES: &str = "sources";

/// What the source directory lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lower {
    /// A tmpfs made for the bench.
    Tmpfs,
    /// A new directory inside this one.
    Inside(PathBuf),
}

impl std::str::FromStr for Lower {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tmpfs" => Ok(Self::Tmpfs),
            path if Path::new(path).is_dir() => Ok(Self::Inside(path.into())),
            other => Err(format!("`{other}` is neither `tmpfs` nor a directory")),
        }
    }
}

impl std::fmt::Display for Lower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tmpfs => f.write_str("tmpfs"),
            Self::Inside(path) => path.display().fmt(f),
        }
    }
}

/// A directory with the files that workloads use. One that was made for it goes away with this value.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    holder: Option<TempDir>,
    is_mounted: bool,
    data: Cell<Option<DataFiles>>,
    sources: Cell<Option<Sources>>,
}

impl Tree {
    /// Makes an empty source directory.
    ///
    /// # Errors
    /// If it cannot be made or mounted.
    pub fn new(lower: &Lower) -> Result<Self> {
        let parent = match lower {
            Lower::Tmpfs => std::env::temp_dir(),
            Lower::Inside(path) => path.canonicalize()?,
        };
        let mut tree = Self::inside(&parent)?;
        if *lower == Lower::Tmpfs {
            let options = c"size=75%,nr_inodes=0,mode=755";
            rustix::mount::mount("tmpfs", &tree.root, "tmpfs", MountFlags::empty(), options)
                .with_context(|| format!("cannot mount a tmpfs on {}", tree.root.display()))?;
            tree.is_mounted = true;
        }
        Ok(tree)
    }

    /// Makes an empty directory inside of this one, on whatever that is.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn inside(parent: &Path) -> Result<Self> {
        let holder = tempfile::Builder::new()
            .prefix("fusewire-bench-src-")
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let root = holder.path().join("src");
        fs::create_dir(&root)?;
        Ok(Self {
            root,
            holder: Some(holder),
            is_mounted: false,
            data: Cell::new(None),
            sources: Cell::new(None),
        })
    }

    /// Takes a directory that somebody else removes.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            holder: None,
            is_mounted: false,
            data: Cell::new(None),
            sources: Cell::new(None),
        }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Puts the files there that every target needs.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn fill(&self) -> Result<()> {
        let inner = || -> std::io::Result<()> {
            fs::write(self.root.join(SENTINEL), self.token())?;
            fs::write(ping_file(&self.root), pattern(PING_SIZE as usize))?;
            make_files(&self.root.join("list"), 1, LIST_FILES)
        };
        inner().with_context(|| format!("cannot make the files to work on in {}", self.root.display()))
    }

    /// Makes sure that what this row uses is there; what is there already stays. The targets must be told to forget
    /// what they know of this directory afterwards.
    ///
    /// # Errors
    /// If a file cannot be made.
    pub fn require(&self, workload: &Workload, threads: usize) -> Result<()> {
        let inner = || -> std::io::Result<()> {
            match &workload.op {
                Op::Stat
                | Op::StatAt
                | Op::Open
                | Op::Device(DeviceLoad { request: DeviceRequest::Lookup, .. }) => {
                    make_files(&self.root.join(META_DIR), workload.ops.div_ceil(META_FILES), META_FILES)?;
                }
                Op::List => make_files(&self.root.join("list"), workload.ops, LIST_FILES)?,
                Op::LsL => {
                    make_files(&self.root.join("list"), workload.ops.div_ceil(LIST_FILES), LIST_FILES)?;
                }
                _ => {}
            }
            for thread in 0..threads {
                fs::create_dir_all(work_dir(&self.root, thread))?;
            }
            workload.data_files(threads).map_or(Ok(()), |files| self.make_data(files))
        };
        inner().with_context(|| format!("cannot make the files to work on in {}", self.root.display()))
    }

    /// Makes sure that the generated source tree is there.
    ///
    /// # Errors
    /// If a file cannot be made.
    pub fn require_sources(&self, wanted: Sources) -> Result<()> {
        let dir = self.root.join(SOURCES);
        if self.sources.get() == Some(wanted) {
            return Ok(());
        }
        let inner = || {
            if self.sources.take().is_some() {
                fs::remove_dir_all(&dir)?;
            }
            sources::make(&dir, wanted)
        };
        inner().with_context(|| format!("cannot make the source tree {}", dir.display()))?;
        self.sources.set(Some(wanted));
        Ok(())
    }

    fn make_data(&self, wanted: DataFiles) -> std::io::Result<()> {
        let dir = self.root.join("data");
        let there = match self.data.get() {
            Some(there) if there.size == wanted.size => there.count,
            Some(_) => {
                self.data.set(None);
                fs::remove_dir_all(&dir)?;
                0
            }
            None => 0,
        };
        if there >= wanted.count {
            return Ok(());
        }
        fs::create_dir_all(&dir)?;
        let block = pattern(1 << 20);
        for number in there..wanted.count {
            let mut file = File::create(data_file(&self.root, number))?;
            let mut left = wanted.size;
            while left > 0 {
                let length = left.min(block.len() as u64);
                file.write_all(&block[..length as usize])?;
                left -= length;
            }
            file.sync_all()?;
        }
        self.data.set(Some(wanted));
        Ok(())
    }

    /// Proves that `root` shows this directory: what is written on one side is read on the other.
    ///
    /// # Errors
    /// If it does not.
    pub fn verify(&self, root: &Path) -> Result<()> {
        let seen = fs::read(root.join(SENTINEL))
            .with_context(|| format!("cannot read {SENTINEL} through {}", root.display()))?;
        ensure!(seen == self.token(), "{} shows something else than the source directory", root.display());
        let (there, here) = (root.join("written-there"), self.root.join("written-there"));
        fs::write(&there, b"there").with_context(|| format!("cannot write {}", there.display()))?;
        let arrived = fs::read(&here);
        fs::remove_file(&here).with_context(|| {
            format!("a file written to {} did not arrive in the source directory", root.display())
        })?;
        if arrived? != b"there" {
            bail!("a file written to {} arrived with other contents", root.display());
        }
        let listed = fs::read_dir(list_dir(root, 0))?.count() as u64;
        ensure!(listed == LIST_FILES, "{} lists {listed} instead of {LIST_FILES} files", root.display());
        Ok(())
    }

    /// Unique to this tree.
    pub fn token(&self) -> Vec<u8> {
        self.root.clone().into_os_string().into_vec()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.is_mounted {
            // In the bench's own namespace; at the latest it goes with that.
            let _ = rustix::mount::unmount(&self.root, UnmountFlags::DETACH);
        }
        if let Some(holder) = &self.holder {
            // A new attempt on what the holder's own clean-up would leave behind is not needed: it reports nothing.
            let _ = fs::remove_dir_all(holder.path());
        }
    }
}

/// So many bytes, none of them zero.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index >> 3) as u8 | 1).collect()
}

/// Makes sure that there are `dirs` directories of `files` empty files each.
///
/// # Errors
/// If one cannot be made.
pub fn make_files(parent: &Path, dirs: u64, files: u64) -> std::io::Result<()> {
    for dir in 0..dirs {
        let dir = parent.join(dir_name(dir));
        // One that is there is complete: an error in the middle ends the run.
        if dir.exists() {
            continue;
        }
        fs::create_dir_all(&dir)?;
        for file in 0..files {
            File::create(dir.join(file_name(file)))?;
        }
    }
    Ok(())
}

/// The `index`-th of the files that are looked at.
pub fn meta_file(root: &Path, index: u64) -> PathBuf {
    meta_dir(root, index / META_FILES).join(file_name(index % META_FILES))
}

/// The directory of the files `number` × [`META_FILES`] and following.
pub fn meta_dir(root: &Path, number: u64) -> PathBuf {
    root.join(META_DIR).join(dir_name(number))
}

/// The `index`-th of the directories that are listed.
pub fn list_dir(root: &Path, index: u64) -> PathBuf {
    root.join("list").join(dir_name(index))
}

/// The file of this number that is read and written.
pub fn data_file(root: &Path, number: usize) -> PathBuf {
    root.join("data").join(format!("t{number}"))
}

/// The file that round trips read and write. A null filesystem has one of the same name.
pub fn ping_file(root: &Path) -> PathBuf {
    root.join(PING_FILE)
}

/// The directory in which this thread makes and removes files.
pub fn work_dir(root: &Path, thread: usize) -> PathBuf {
    root.join("work").join(format!("t{thread}"))
}

/// Name of a directory by number.
pub fn dir_name(index: u64) -> String {
    format!("d{index:04}")
}

/// Name of a file by number.
pub fn file_name(index: u64) -> String {
    format!("f{index:06}")
}

/// A path for system calls.
///
/// # Panics
/// If the path contains a NUL; the bench makes no such path.
pub fn c_path(path: PathBuf) -> CString {
    CString::new(path.into_os_string().into_vec()).expect("a path without NUL")
}

/// Device number of a file, to tell on which mount it is.
///
/// # Errors
/// If there is no such file.
pub fn device(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Extent, Transfer};

    #[test]
    fn a_directory_shows_itself_and_another_does_not() {
        let place = tempfile::tempdir().unwrap();
        let tree = Tree::new(&Lower::Inside(place.path().into())).unwrap();
        tree.fill().unwrap();
        tree.verify(tree.path()).unwrap();

        let other = tempfile::tempdir().unwrap();
        assert!(tree.verify(other.path()).is_err(), "an empty directory passed for the mount");
        fs::write(other.path().join(SENTINEL), tree.token()).unwrap();
        make_files(&other.path().join("list"), 1, LIST_FILES).unwrap();
        let error = tree.verify(other.path()).unwrap_err().to_string();
        assert!(error.contains("did not arrive"), "{error}");
        let inside = tree.path().to_owned();
        drop(tree);
        assert!(!inside.exists());
    }

    #[test]
    fn lower_is_tmpfs_or_a_directory() {
        assert_eq!("tmpfs".parse(), Ok(Lower::Tmpfs));
        assert_eq!("/".parse(), Ok(Lower::Inside("/".into())));
        assert!("/no/such".parse::<Lower>().is_err());
    }

    #[test]
    fn rows_get_the_files_they_use_and_no_more() {
        let place = tempfile::tempdir().unwrap();
        let tree = Tree::at(place.path());
        let row = |ops, op| Workload {
            name: "x".into(),
            about: String::new(),
            threads: vec![1],
            ops,
            passes: 1,
            busy_others: false,
            sampled: false,
            counted: false,
            warm: false,
            op,
        };
        let count = |dir: &str| fs::read_dir(place.path().join(dir)).map_or(0, |entries| entries.count());
        tree.require(&row(1001, Op::Stat), 3).unwrap();
        assert_eq!((count("meta"), count("list"), count("work"), count("data")), (2, 0, 3, 0));
        tree.require(&row(250, Op::LsL), 1).unwrap();
        assert_eq!(count("list"), 3);

        let data = |size| {
            let transfer = Transfer { block: 4096, write: false, direct: true, random: false };
            row(1, Op::Data { transfer, files: Extent::Each(size) })
        };
        let size = |number| fs::metadata(data_file(place.path(), number)).map_or(0, |meta| meta.len());
        tree.require(&data(8192), 1).unwrap();
        assert_eq!((count("data"), size(0)), (1, 8192));
        let first = fs::metadata(data_file(place.path(), 0)).unwrap().ino();
        tree.require(&data(8192), 2).unwrap();
        assert_eq!((count("data"), size(1)), (2, 8192));
        assert_eq!(fs::metadata(data_file(place.path(), 0)).unwrap().ino(), first, "made again without need");
        tree.require(&data(4096), 1).unwrap();
        assert_eq!((count("data"), size(0)), (1, 4096));
    }
}
