//! The guest's root filesystem: busybox, our programs with their libraries, and the job.

use super::packages::Store;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Line by which the guest tells that the job begins.
pub const BEGUN: &str = "guest-begins";

/// Line by which the guest tells the job's exit status.
pub const STATUS: &str = "guest-status:";

const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/root RUST_BACKTRACE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t securityfs none /sys/kernel/security 2>/dev/null
mount -t tmpfs -o mode=1777 tmp /tmp
mkdir -p /run
exec </dev/console >/dev/console 2>&1
for module in fuse virtiofs loop xfs; do if [ -e /modules/$module.ko ]; then insmod /modules/$module.ko; fi; done
if [ -e /sys/module/fuse/parameters/enable_uring ]; then echo Y > /sys/module/fuse/parameters/enable_uring; fi
echo guest-begins
sh /job
echo \"guest-status: $?\"
poweroff -f
";

const USERS: &str = "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
const GROUPS: &str = "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n";

/// A program to put into the guest.
pub struct Program {
    /// Where it lies here.
    pub from: PathBuf,
    /// Where it shall lie there, below the root.
    pub to: PathBuf,
}

/// An archive with `programs` and `script` as its job.
pub fn build(store: &Store, programs: &[Program], script: &str) -> Result<PathBuf> {
    let busybox = store.busybox()?;
    let root = store.dir().join("root");
    _ = fs::remove_dir_all(&root);
    for dir in ["bin", "usr/bin", "proc", "sys", "dev", "tmp", "root", "mnt", "etc"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy(&busybox, root.join("bin/busybox"))?;
    fs::write(root.join("etc/passwd"), USERS)?;
    fs::write(root.join("etc/group"), GROUPS)?;
    for program in programs {
        place(&program.from, &root.join(&program.to))?;
        if program.from.extension().is_some_and(|end| end == "ko") {
            continue;
        }
        // Without what only a debugger needs, if that can be had.
        _ = Command::new("strip").arg(root.join(&program.to)).stderr(Stdio::null()).status();
        for library in libraries(&program.from)? {
            place(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
        }
    }
    fs::write(root.join("job"), format!("{script}\n"))?;
    fs::write(root.join("init"), INIT)?;
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    pack(&busybox, &root, &store.dir().join("initrd"))
}

fn place(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file lies in a directory")?)?;
    fs::copy(from, to).with_context(|| format!("{}", from.display()))?;
    Ok(())
}

/// The shared libraries of a program and its loader, by full paths.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Other lines are complaints: programs from elsewhere bring their own.
    let found = text.lines().filter(|line| line.contains(" (0x"));
    let paths = found.flat_map(str::split_whitespace).filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

fn pack(busybox: &Path, root: &Path, archive: &Path) -> Result<PathBuf> {
    let file = fs::File::create(archive)?;
    let list = Command::new(busybox).args(["find", "."]).current_dir(root).output()?;
    let mut child = Command::new(busybox)
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(file)
        .stderr(Stdio::null())
        .spawn()?;
    let mut names = child.stdin.take().context("a pipe")?;
    std::io::Write::write_all(&mut names, &list.stdout)?;
    drop(names);
    if !child.wait()?.success() {
        bail!("cannot pack {}", root.display());
    }
    Ok(archive.to_owned())
}
