//! A directory as a device for guests, and what these test it with.

use super::image::Program;
use crate::{ci, run};
use anyhow::{Context, Result, bail, ensure};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Its name for guests.
pub const TAG: &str = "share";

/// What runs in a guest that tests a device: the suites.
pub fn programs() -> Result<Vec<Program>> {
    let mut programs = vec![Program { from: binary("fusewire-posix")?, to: "usr/bin/fusewire-posix".into() }];
    // Suites run copies of these under other names, which busybox does not take for programs: it ends at once.
    for name in ["bin/true", "bin/sleep"] {
        programs.push(Program { from: Path::new("/").join(name), to: name.into() });
    }
    for tool in ["pjdfstest", "fsx"] {
        let from = run::target_dir()?.join("tools/bin").join(tool);
        if from.is_file() {
            programs.push(Program { from, to: Path::new("usr/bin").join(tool) });
        } else {
            eprintln!("xtask: {tool} is not there and does not run: `cargo xtask setup` installs it");
        }
    }
    Ok(programs)
}

/// One of our programs: beside the one that FUSEWIRE_BIN names, else the release build.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(fusewire) = std::env::var_os("FUSEWIRE_BIN") {
        return Ok(PathBuf::from(fusewire).with_file_name(name));
    }
    match name {
        "fusewire" => ci::build()?,
        name => run::must(&mut run::cargo(&["build", "--release", "--quiet", "--package", name]))?,
    }
    Ok(run::target_dir()?.join("release").join(name))
}

/// The MD5 sum of a file here.
pub fn md5(path: &Path) -> Result<String> {
    let output = Command::new("md5sum").arg(path).output().context("md5sum")?;
    let sum = String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned();
    ensure!(sum.len() == 32, "md5sum of {} says {sum:?}", path.display());
    Ok(sum)
}

/// Are the files in `dir` what the guest told of, in words of a name and a sum?
pub fn check_sums(told: &[String], dir: &Path) -> Result<()> {
    for told in told {
        let (name, there) = told.split_once(' ').context("a name and a sum")?;
        let here = md5(&dir.join(name))?;
        ensure!(here == there, "{name} is {there} in the guest and {here} here");
    }
    Ok(())
}

/// A running `fusewire vhost`, or another daemon of its kind.
pub struct Device {
    child: Child,
    /// How it was called.
    program: PathBuf,
    words: Vec<OsString>,
    /// Where guests connect, one at each.
    pub sockets: Vec<PathBuf>,
}

impl Device {
    /// Shares `dir`, which is made unless it is there, at sockets beside it, with this profile.
    pub fn start(dir: &Path, sockets: &[&str], profile: &[&str]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let sockets: Vec<_> = sockets.iter().map(|end| dir.with_extension(end)).collect();
        sockets.iter().for_each(|socket| _ = fs::remove_file(socket));
        let mut words: Vec<OsString> = ["vhost", "--xattr", "--tag", TAG, "--cache"].map(Into::into).into();
        words.extend(profile.iter().map(Into::into));
        sockets.iter().for_each(|socket| words.extend(["--socket-path".into(), socket.into()]));
        words.extend(["--shared-dir".into(), dir.into()]);
        Self::serve(binary("fusewire")?, words, sockets)
    }

    /// A daemon that listens at these sockets: this program, called with these words.
    pub fn serve(program: PathBuf, words: Vec<OsString>, sockets: Vec<PathBuf>) -> Result<Self> {
        let mut device = Self { child: spawn(&program, &words)?, program, words, sockets };
        device.wait()?;
        Ok(device)
    }

    fn wait(&mut self) -> Result<()> {
        let device = self;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !device.sockets.iter().all(|socket| socket.exists()) {
            if let Some(status) = device.child.try_wait()? {
                bail!("the daemon ended at once: {status}");
            }
            if Instant::now() > deadline {
                bail!("the daemon does not listen at {:?}", device.sockets);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Have another process take its place, as `--upgrade` does: the one that there was ends well.
    pub fn upgrade(&mut self) -> Result<()> {
        let child = spawn(&self.program, &[&self.words[..], &["--upgrade".into()]].concat())?;
        let (program, words, sockets) = (self.program.clone(), self.words.clone(), self.sockets.clone());
        std::mem::replace(self, Self { child, program, words, sockets }).end()
    }

    /// It ends by itself, and well, once the guest is gone.
    pub fn end(mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the daemon ended with {status}"),
                None if Instant::now() > deadline => bail!("the daemon does not end with its guest"),
                None => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

fn spawn(program: &Path, words: &[OsString]) -> Result<Child> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {command:?}"))
}

impl Drop for Device {
    fn drop(&mut self) {
        // Does nothing to one that has ended.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Wait until the guest has made something in the shared directory.
pub fn there(path: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !path.exists() {
        ensure!(Instant::now() < deadline, "the guest never made {}", path.display());
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
