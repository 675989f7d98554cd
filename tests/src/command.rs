//! How `fusewire` is called: every command line of the tests is made here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which filesystem is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// A directory, re-exported.
    Passthrough,
    /// The in-memory filesystem; starts empty.
    Mem,
}

/// The caching profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Every question goes to the daemon.
    None,
    /// Answers are kept for a moment.
    Auto,
    /// Everything is kept, and the kernel is told of changes; the default where it can be had.
    Coherent,
    /// The tree belongs to the mount alone.
    Always,
}

impl Cache {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Auto, Self::Coherent, Self::Always];

    /// As on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Auto => "auto",
            Self::Coherent => "coherent",
            Self::Always => "always",
        }
    }
}

/// What one `fusewire mount` is to do.
#[derive(Debug, Clone)]
pub struct MountLine {
    /// The filesystem.
    pub filesystem: Filesystem,
    /// The caching profile; `None` leaves it to `FUSEWIRE_TEST_CACHE`, and then to the command.
    pub cache: Option<Cache>,
    /// Not even that variable says what the profile is.
    pub default_cache: bool,
    /// Words after `-o`.
    pub options: Vec<String>,
    /// `--auto-unmount`.
    pub auto_unmount: bool,
    /// `--daemon`.
    pub daemon: bool,
}

impl MountLine {
    /// `fusewire mount SRC MNT` with nothing else.
    pub fn new(filesystem: Filesystem) -> Self {
        Self {
            filesystem,
            cache: None,
            default_cache: false,
            options: Vec::new(),
            auto_unmount: false,
            daemon: false,
        }
    }

    /// The words after the program's name.
    pub fn words(&self, source: &Path, point: &Path) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["mount".into()];
        if self.filesystem == Filesystem::Mem {
            words.extend(["--fs".into(), "mem".into(), "none".into()]);
        } else {
            words.push(source.into());
        }
        words.push(point.into());
        words.extend(["--channel".into(), channel().into()]);
        let everywhere = || std::env::var("FUSEWIRE_TEST_CACHE").ok().filter(|_| !self.default_cache);
        if let Some(cache) = self.cache.map(|cache| cache.word().to_owned()).or_else(everywhere) {
            words.extend(["--cache".into(), cache.into()]);
        }
        let told =
            channel() == "dev-fuse" || self.options.iter().any(|option| option.starts_with("buffers="));
        if let Some(buffers) = std::env::var("FUSEWIRE_TEST_BUFFERS").ok().filter(|_| !told) {
            words.extend(["--buffers".into(), buffers.into()]);
        }
        let told = self.options.iter().any(|option| option.starts_with("passthrough="));
        let is_source = self.filesystem != Filesystem::Mem;
        if let Some(when) = std::env::var("FUSEWIRE_TEST_PASSTHROUGH").ok().filter(|_| is_source && !told) {
            words.extend(["--passthrough".into(), when.into()]);
        }
        if !self.options.is_empty() {
            words.extend(["-o".into(), self.options.join(",").into()]);
        }
        if self.auto_unmount {
            words.push("--auto-unmount".into());
        }
        if self.daemon {
            words.push("--daemon".into());
        }
        words
    }

    /// Program and words. `FUSEWIRE_TEST_COMMAND` puts another server in its place, to try the tests themselves: its
    /// words are split at blanks, `{src}` and `{mnt}` replaced.
    pub fn program_and_words(&self, source: &Path, point: &Path) -> (PathBuf, Vec<OsString>) {
        let Some(other) = other_server() else {
            return (binary(), self.words(source, point));
        };
        let mut words = other.split(' ').map(|word| match word {
            "{src}" => source.into(),
            "{mnt}" => point.into(),
            word => OsString::from(word),
        });
        let program = words.next().expect("FUSEWIRE_TEST_COMMAND is empty");
        (program.into(), words.collect())
    }
}

/// The channel that tests mount with: `FUSEWIRE_TEST_CHANNEL`, `dev-fuse` or `uring`. By default `dev-fuse`, which every
/// kernel has.
pub fn channel() -> String {
    std::env::var("FUSEWIRE_TEST_CHANNEL").unwrap_or_else(|_| "dev-fuse".to_owned())
}

/// Do tests mount over io_uring?
pub fn is_over_ring() -> bool {
    channel() == "uring"
}

/// `fusewire unmount MNT`.
pub fn unmount(point: &Path) -> Command {
    let mut command = Command::new(binary());
    command.arg("unmount").arg(point);
    command
}

/// The server that stands in for `fusewire`, when there is one.
pub fn other_server() -> Option<String> {
    std::env::var("FUSEWIRE_TEST_COMMAND").ok().filter(|command| !command.is_empty())
}

/// The command under test: `FUSEWIRE_BIN`, or `fusewire` in the target directory's `release`.
///
/// # Panics
/// When it is not there: a test must not pass by testing nothing.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("FUSEWIRE_BIN") {
        let path = PathBuf::from(path);
        assert!(
            path.is_absolute() && path.is_file(),
            "FUSEWIRE_BIN is no file with an absolute path: {path:?}"
        );
        return path;
    }
    let path = target_dir().join("release/fusewire");
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --release -p fusewire-cli` first",
        path.display()
    );
    path
}

/// The helper that `mount -t fuse.fusewire` runs: a binary of its own, or the command under that name.
pub fn mount_helper() -> PathBuf {
    let own = binary().with_file_name("mount.fuse.fusewire");
    if own.is_file() { own } else { binary() }
}

/// Cargo's target directory: tests lie in `<target>/<profile>/deps`.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("path of the test");
    let profile = exe.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "deps"));
    profile
        .and_then(|deps| deps.ancestors().nth(2))
        .expect("the test lies in <target>/<profile>/deps")
        .to_owned()
}

/// A program that `cargo xtask setup` built: in `FUSEWIRE_TOOLS`, `<target>/tools/bin`, or `PATH`.
pub fn tool(name: &str) -> Option<PathBuf> {
    let dirs = [std::env::var_os("FUSEWIRE_TOOLS").map(PathBuf::from), Some(target_dir().join("tools/bin"))];
    let known = dirs.into_iter().flatten().map(|dir| dir.join(name)).find(|file| file.is_file());
    known.or_else(|| crate::skip::find_program(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_follow_the_line() {
        let mut line = MountLine::new(Filesystem::Passthrough);
        line.cache = Some(Cache::Always);
        // With this one told, nothing is added for `FUSEWIRE_TEST_PASSTHROUGH`.
        line.options = vec!["ro".into(), "passthrough=auto".into()];
        let words = line.words(Path::new("/a"), Path::new("/b"));
        assert_eq!(
            words,
            ["mount", "/a", "/b", "--channel", &channel(), "--cache", "always", "-o", "ro,passthrough=auto"]
        );
        let words = MountLine::new(Filesystem::Mem).words(Path::new("/a"), Path::new("/b"));
        assert_eq!(words, ["mount", "--fs", "mem", "none", "/b", "--channel", &channel()]);
    }
}
