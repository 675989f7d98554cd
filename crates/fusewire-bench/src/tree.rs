//! The directory that all targets re-export, and the files in it.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use crate::workload::{DATA_SIZE, LIST_DIRS, LIST_FILES, MAX_THREADS, META_DIRS, META_FILES};

const SENTINEL: &str = "sentinel";

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

/// A source directory that goes away with this value.
#[derive(Debug)]
pub struct Tree {
    src: PathBuf,
    holder: TempDir,
    is_mounted: bool,
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
        let holder = tempfile::Builder::new()
            .prefix("fusewire-bench-src-")
            .tempdir_in(&parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let src = holder.path().join("src");
        fs::create_dir(&src)?;
        let mut tree = Self { src, holder, is_mounted: false };
        if *lower == Lower::Tmpfs {
            let options = c"size=75%,nr_inodes=0,mode=755";
            rustix::mount::mount("tmpfs", &tree.src, "tmpfs", MountFlags::empty(), options)
                .with_context(|| format!("cannot mount a tmpfs on {}", tree.src.display()))?;
            tree.is_mounted = true;
        }
        Ok(tree)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.src
    }

    /// Puts the files there that the workloads use.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn fill(&self) -> Result<()> {
        let inner = || -> std::io::Result<()> {
            fs::write(self.src.join(SENTINEL), self.token())?;
            make_files(&self.src.join("meta"), META_DIRS, META_FILES)?;
            make_files(&self.src.join("list"), LIST_DIRS, LIST_FILES)?;
            fs::create_dir(self.src.join("data"))?;
            let block: Vec<u8> = (0..1 << 20).map(|index: u32| (index >> 3) as u8 | 1).collect();
            for thread in 0..MAX_THREADS {
                fs::create_dir_all(work_dir(&self.src, thread))?;
                let mut file = File::create(data_file(&self.src, thread))?;
                for _ in 0..DATA_SIZE >> 20 {
                    file.write_all(&block)?;
                }
                file.sync_all()?;
            }
            Ok(())
        };
        inner().with_context(|| format!("cannot make the files to work on in {}", self.src.display()))
    }

    /// Proves that `root` shows this directory: what is written on one side is read on the other.
    ///
    /// # Errors
    /// If it does not.
    pub fn verify(&self, root: &Path) -> Result<()> {
        let seen = fs::read(root.join(SENTINEL))
            .with_context(|| format!("cannot read {SENTINEL} through {}", root.display()))?;
        ensure!(seen == self.token(), "{} shows something else than the source directory", root.display());
        let (there, here) = (root.join("written-there"), self.src.join("written-there"));
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
    fn token(&self) -> Vec<u8> {
        self.src.clone().into_os_string().into_vec()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.is_mounted {
            // In the bench's own namespace; at the latest it goes with that.
            let _ = rustix::mount::unmount(&self.src, UnmountFlags::DETACH);
        }
        // A new attempt on what the holder's own clean-up would leave behind is not needed: it reports nothing.
        let _ = fs::remove_dir_all(self.holder.path());
    }
}

/// Makes `dirs` directories of `files` empty files each.
///
/// # Errors
/// If one cannot be made.
pub fn make_files(parent: &Path, dirs: u64, files: u64) -> std::io::Result<()> {
    for dir in 0..dirs {
        let dir = parent.join(dir_name(dir));
        fs::create_dir_all(&dir)?;
        for file in 0..files {
            File::create(dir.join(file_name(file)))?;
        }
    }
    Ok(())
}

/// The `index`-th of the files that are looked at.
pub fn meta_file(root: &Path, index: u64) -> PathBuf {
    let index = index % (META_DIRS * META_FILES);
    root.join("meta").join(dir_name(index / META_FILES)).join(file_name(index % META_FILES))
}

/// The `index`-th of the directories that are listed.
pub fn list_dir(root: &Path, index: u64) -> PathBuf {
    root.join("list").join(dir_name(index % LIST_DIRS))
}

/// The file this thread reads and writes.
pub fn data_file(root: &Path, thread: usize) -> PathBuf {
    root.join("data").join(format!("t{thread}"))
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

/// A path for system calls. Paths made here hold no NUL.
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

    #[test]
    fn a_directory_shows_itself_and_another_does_not() {
        let place = tempfile::tempdir().unwrap();
        let tree = Tree::new(&Lower::Inside(place.path().into())).unwrap();
        fs::write(tree.path().join(SENTINEL), tree.token()).unwrap();
        make_files(&tree.path().join("list"), 1, LIST_FILES).unwrap();
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
}
