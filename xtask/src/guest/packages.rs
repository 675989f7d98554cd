//! What a guest is made of: Debian packages, unpacked, not installed.
//!
//! They come from newer releases than the machine may have. `apt` is therefore given a configuration of its own, with an
//! empty list of what is installed, so that it fetches each package with all it depends on and changes nothing.

use crate::run::has_program;
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Releases that packages are looked for in; the later one has the newer kernels, and is asked by name alone.
const RELEASES: &[&str] = &["trixie", "trixie-backports"];
/// Where User Mode Linux comes from: those of the releases do not run on processors with large registers.
const UNSTABLE: &[&str] = &["sid"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A guest cannot be had here, which is no fault of the project.
#[derive(Debug)]
pub struct Unavailable(String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Unavailable {
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl std::error::Error for Unavailable {}

fn unavailable(what: impl Into<String>) -> anyhow::Error {
    Unavailable(what.into()).into()
}

/// A directory of packages. What is there once is not fetched again.
pub struct Store {
    dir: PathBuf,
    releases: &'static [&'static str],
}

/// User Mode Linux: a kernel that is a program, with the libraries that it wants.
pub struct Uml {
    root: PathBuf,
}

impl Uml {
    /// The kernel.
    pub fn program(&self) -> PathBuf {
        self.root.join("usr/bin/linux.uml")
    }

    /// The directory with its loader and its C library, which are newer than the machine's.
    pub fn libraries(&self) -> PathBuf {
        self.root.join("usr/lib/x86_64-linux-gnu")
    }

    /// A module of its kernel.
    pub fn module(&self, name: &str) -> Result<PathBuf> {
        let file = format!("{name}.ko");
        find(&self.root.join("usr/lib/uml"), &|found| found == file)
            .with_context(|| format!("User Mode Linux has no module {name}"))
    }
}

/// Programs that make filesystems. They are newer than the machine's libraries, so each is started by a loader of its own.
pub struct Formatters {
    root: PathBuf,
}

impl Formatters {
    /// The loader.
    pub fn loader(&self) -> PathBuf {
        self.root.join("usr/lib64/ld-linux-x86-64.so.2")
    }

    /// One of them.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        find(&self.root, &|file| file == name).with_context(|| format!("the packages have no {name}"))
    }

    /// The libraries that it wants.
    pub fn libraries(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        let mut loader = Command::new(self.loader());
        loader.arg("--library-path").arg(&libraries).arg("--list").arg(program);
        let list = output(&mut loader)?;
        let paths = list.split_whitespace().map(PathBuf::from);
        Ok(paths.filter(|path| path.starts_with(&libraries)).collect())
    }
}

/// How to start QEMU: by the loader that came with it, since its libraries may be newer than the machine's.
pub struct Qemu {
    root: PathBuf,
}

impl Qemu {
    /// The command, without arguments of its own.
    pub fn command(&self) -> Command {
        let at = |path: &str| self.root.join(path);
        let mut command = Command::new(at("usr/lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(at("usr/lib/x86_64-linux-gnu"));
        command.arg(at("usr/bin/qemu-system-x86_64"));
        command.arg("-L").arg(at("usr/share/seabios")).arg("-L").arg(at("usr/share/qemu"));
        command
    }
}

impl Store {
    /// The store in `dir`, which is made if it is not there.
    pub fn open(dir: &Path) -> Result<Self> {
        if std::env::consts::ARCH != "x86_64" {
            return Err(unavailable("only x86-64 guests are known"));
        }
        if !has_program("apt-get") || !has_program("dpkg-deb") || !Path::new(KEYRING).exists() {
            return Err(unavailable("apt-get, dpkg-deb and Debian's keys are needed: use a Debian machine"));
        }
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned(), releases: RELEASES })
    }

    /// Where to keep what is made from the packages.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kernel image of the latest package of this version.
    pub fn kernel(&self, version: &str) -> Result<PathBuf> {
        let root = self.unpacked(&format!("kernel-{version}"), |store| {
            let name = store.kernel_package(version)?;
            Ok((vec![name], false))
        })?;
        find(&root, &|name| name.starts_with("vmlinuz")).context("the kernel's package has no vmlinuz")
    }

    /// Modules of a kernel that [`kernel`](Self::kernel) has given, by their names, as the package has them: packed.
    pub fn modules(&self, kernel: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
        let dir = kernel.parent().context("a kernel lies in a directory")?;
        let release = dir.file_name().context("of its version")?.to_string_lossy();
        let root = self.unpacked(&format!("modules-{release}"), |_| {
            Ok((vec![format!("linux-modules-{release}")], false))
        })?;
        let one = |name: &&str| {
            find(&root, &|file| file.split_once(".ko").is_some_and(|(stem, _)| stem == *name))
                .with_context(|| format!("Linux {release} has no module {name}"))
        };
        names.iter().map(one).collect()
    }

    /// Programs that make filesystems, with the libraries and the loader that they want.
    pub fn formatters(&self) -> Result<Formatters> {
        let packages = || vec!["e2fsprogs".into(), "xfsprogs".into()];
        Ok(Formatters { root: self.unpacked("formatters", |_| Ok((packages(), true)))? })
    }

    /// QEMU with all its libraries.
    pub fn qemu(&self) -> Result<Qemu> {
        let root = self.unpacked("qemu", |_| Ok((vec!["qemu-system-x86".into()], true)))?;
        Ok(Qemu { root })
    }

    /// User Mode Linux.
    pub fn uml(&self) -> Result<Uml> {
        let store = Self { dir: self.dir.join("unstable"), releases: UNSTABLE };
        fs::create_dir_all(&store.dir)?;
        let root = store.unpacked("uml", |_| Ok((vec!["user-mode-linux".into(), "libc6".into()], false)))?;
        Ok(Uml { root })
    }

    /// The static busybox.
    pub fn busybox(&self) -> Result<PathBuf> {
        let root = self.unpacked("busybox", |_| Ok((vec!["busybox-static".into()], false)))?;
        find(&root, &|name| name == "busybox").context("busybox-static has no busybox")
    }

    /// The name of a kernel's package: they carry full versions, of which the last counts.
    fn kernel_package(&self, version: &str) -> Result<String> {
        let pattern = format!(
            r"^linux-(binary|image)-(unsigned-)?{}\.[0-9][^-]*-cloud-amd64(-unsigned)?$",
            version.replace('.', r"\.")
        );
        let found = output(self.apt("apt-cache").args(["search", "--names-only", &pattern]))?;
        let names = found.lines().filter_map(|line| line.split(' ').next());
        // The unsigned one has the image in it; the others depend on it or are the same.
        let best = names.max_by_key(|name| (patch_level(name, version), name.contains("binary-unsigned")));
        best.map(str::to_owned).ok_or_else(|| {
            unavailable(format!("Debian has no kernel {version} in {:?}: try --kernel", self.releases))
        })
    }

    /// The directory `name` with packages in it, which `choose` names, with all that they depend on or alone.
    fn unpacked(&self, name: &str, choose: impl Fn(&Self) -> Result<(Vec<String>, bool)>) -> Result<PathBuf> {
        let root = self.dir.join(name);
        if root.exists() {
            return Ok(root);
        }
        self.update()?;
        let (packages, whole) = choose(self)?;
        eprintln!("xtask: fetching {}", packages.join(" "));
        let debs = self.dir.join(format!("{name}.debs"));
        let partial = self.dir.join(format!("{name}.partial"));
        _ = fs::remove_dir_all(&debs);
        _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(debs.join("partial"))?;
        let mut fetch = self.apt("apt-get");
        if whole {
            let archives = format!("Dir::Cache::archives={}", debs.display());
            fetch
                .args(["-o", &archives, "install", "--yes", "--download-only"])
                .args(["-t", self.releases[self.releases.len() - 1]]);
        } else {
            fetch.current_dir(&debs).arg("download");
        }
        output(fetch.args(&packages)).map_err(|error| fetching(&packages.join(" "), &error))?;
        for deb in files(&debs)?.iter().filter(|path| path.extension().is_some_and(|end| end == "deb")) {
            output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&partial))?;
        }
        // Only what is complete has the name.
        fs::rename(&partial, &root)?;
        fs::remove_dir_all(&debs)?;
        Ok(root)
    }

    /// Lists of packages; a day old is good enough.
    fn update(&self) -> Result<()> {
        let apt = self.dir.join("apt");
        let stamp = apt.join("updated");
        let age =
            fs::metadata(&stamp).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age.as_secs() < 24 * 3600) {
            return Ok(());
        }
        for dir in ["lists/partial", "archives/partial", "preferences"] {
            fs::create_dir_all(apt.join(dir))?;
        }
        fs::write(apt.join("status"), "")?;
        let mirror = mirror()?;
        let source = |release| format!("deb [signed-by={KEYRING}] {mirror} {release} main\n");
        let sources: String = self.releases.iter().map(source).collect();
        fs::write(apt.join("sources.list"), sources)?;
        fs::write(apt.join("apt.conf"), configuration(&apt))?;
        eprintln!("xtask: reading the lists of {:?}", self.releases);
        output(self.apt("apt-get").arg("update")).map_err(|error| fetching("lists of packages", &error))?;
        fs::write(stamp, "")?;
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt/apt.conf")).args(["-q", "-o", "Acquire::Retries=3"]);
        command
    }
}

fn fetching(what: &str, error: &anyhow::Error) -> anyhow::Error {
    unavailable(format!(
        "cannot fetch {what} from where this machine has its packages: {error:#}; is there a network?"
    ))
}

fn configuration(apt: &Path) -> String {
    let apt = apt.display();
    format!(
        r#"Dir::Etc::sourcelist "{apt}/sources.list"; Dir::Etc::sourceparts "/dev/null"; Dir::Etc::preferencesparts "{apt}/preferences";
Dir::State::lists "{apt}/lists"; Dir::State::status "{apt}/status"; Dir::Cache::archives "{apt}/archives";
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache ""; APT::Sandbox::User "root"; APT::Install-Recommends "false";
Acquire::Languages "none"; Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
"#
    )
}

/// The mirror that the machine uses.
fn mirror() -> Result<String> {
    let targets = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"];
    let known = output(Command::new("apt-get").args(targets)).unwrap_or_default();
    let mut debian = known.lines().filter(|line| line.trim_end_matches('/').ends_with("/debian"));
    let no_source =
        || unavailable("apt-get knows no source of Debian's packages; add one to /etc/apt/sources.list");
    debian.next().map(str::to_owned).ok_or_else(no_source)
}

/// The last part of a package's version, as far as it is a number: 4 in `linux-image-7.3.4+deb13-cloud-amd64`.
fn patch_level(name: &str, version: &str) -> u64 {
    let rest = name.split_once(version).map_or("", |(_, rest)| rest.trim_start_matches('.'));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// What a program says, if it succeeds.
fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("{}: {}", output.status, said.trim().lines().last().unwrap_or("no message"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// The first file below `dir` with a name that fits.
fn find(dir: &Path, fits: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    for path in files(dir).ok()? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find(&path, fits) {
                return Some(found);
            }
        } else if path.is_file() && fits(&name) {
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_kernel_is_the_one_with_the_highest_number() {
        assert_eq!(patch_level("linux-binary-unsigned-7.3.4+deb13-cloud-amd64", "7.3"), 4);
        assert_eq!(patch_level("linux-image-6.12.95+deb13-cloud-amd64", "6.12"), 95);
        assert_eq!(patch_level("linux-image-6.12-cloud-amd64", "6.12"), 0);
    }
}
