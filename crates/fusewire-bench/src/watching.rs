//! Programs that watch the requests of the whole machine while a target has its turn.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::{child, sys};

const START_TIME: Duration = Duration::from_secs(10);
const STOP_TIME: Duration = Duration::from_secs(5);

/// What watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// `fusewire top --json`.
    Top,
    /// `fusewire top --json --split`, which looks at every system call and switch of the machine, too.
    Split,
    /// `fusewire trace --json`, whose lines nobody reads.
    Trace,
}

/// A target is watched while its turn lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// What watches.
    pub how: How,
    /// The fusewire that does it.
    pub program: String,
}

/// A program that watches.
#[derive(Debug)]
pub struct Watcher {
    child: Child,
    how: How,
    messages: TempDir,
}

impl How {
    /// As it is written in a target.
    ///
    /// # Errors
    /// If there is nothing of this name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "top" => Ok(Self::Top),
            "split" => Ok(Self::Split),
            "trace" => Ok(Self::Trace),
            _ => bail!("watch={name} is unknown; it is top, split or trace"),
        }
    }

    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Top => &["top", "--json"],
            Self::Split => &["top", "--json", "--split"],
            Self::Trace => &["trace", "--json"],
        }
    }
}

impl Watch {
    /// Starts it and waits until it watches.
    ///
    /// # Errors
    /// If it cannot be started, ends, or may not watch here.
    pub fn start(&self) -> Result<Watcher> {
        let messages = tempfile::tempdir().context("cannot make a directory for what a watcher says")?;
        let mut command = Command::new(&self.program);
        command.args(self.how.words()).current_dir("/").process_group(0).stdin(Stdio::null());
        let file = |name: &str| File::create(messages.path().join(name)).context("cannot keep what it says");
        command.stderr(file("errors")?);
        match self.how {
            How::Trace => command.stdout(Stdio::null()),
            How::Top | How::Split => command.stdout(file("lines")?),
        };
        sys::tie_to_parent(&mut command, None);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program))?;
        let mut watcher = Watcher { child, how: self.how, messages };
        let begin = Instant::now();
        while !watcher.watches()? {
            if let Some(status) = watcher.child.try_wait()? {
                bail!("{} ended with {status}{}", watcher.name(), watcher.said());
            }
            ensure!(begin.elapsed() < START_TIME, "{} does not begin{}", watcher.name(), watcher.said());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(watcher)
    }
}

impl Watcher {
    /// CPU time that it has used.
    ///
    /// # Errors
    /// If it has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        sys::process_cpu_time(self.child.id())
            .with_context(|| format!("{} has ended{}", self.name(), self.said()))
    }

    /// Ends it.
    ///
    /// # Errors
    /// If it has ended by itself, or does not when asked to.
    pub fn finish(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}{}", self.name(), self.said());
        }
        match self.end() {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{} ended with {status}{}", self.name(), self.said()),
            None => bail!("{} does not end{}", self.name(), self.said()),
        }
    }

    /// Whether counting has begun: `top` says so in its first line, `trace` in its first message.
    fn watches(&self) -> Result<bool> {
        let name = if self.how == How::Trace { "errors" } else { "lines" };
        let text = fs::read_to_string(self.messages.path().join(name)).unwrap_or_default();
        let Some((line, _)) = text.split_once('\n') else { return Ok(false) };
        if self.how == How::Trace {
            return Ok(line.contains("as they are answered"));
        }
        let first: serde_json::Value = serde_json::from_str(line)
            .with_context(|| format!("{} says something else than JSON: {line}", self.name()))?;
        ensure!(first["counted"] == true, "{} cannot count here: {}", self.name(), first["refused"]);
        Ok(true)
    }

    fn end(&mut self) -> Option<ExitStatus> {
        child::signal(&self.child, Signal::INT);
        child::wait(&mut self.child, STOP_TIME)
    }

    fn name(&self) -> String {
        format!("fusewire {}", self.how.words().join(" "))
    }

    fn said(&self) -> String {
        child::said(&self.messages.path().join("errors"))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) && self.end().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> (TempDir, Watch) {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let program = program.to_str().unwrap().to_owned();
        (dir, Watch { how: How::Top, program })
    }

    #[test]
    fn a_watcher_begins_and_ends() {
        let (_dir, watch) =
            script("trap 'exit 0' INT\necho '{\"counted\": true}'\nwhile :; do sleep 0.05; done");
        let watcher = watch.start().unwrap();
        assert!(watcher.cpu_time().is_ok());
        watcher.finish().unwrap();
    }

    #[test]
    fn one_that_cannot_watch_says_why() {
        for (text, needle) in [
            ("echo '{\"counted\": false, \"refused\": \"no rights\"}'; sleep 9", "no rights"),
            ("echo 'nothing here' >&2; exit 3", "nothing here"),
            ("echo line; sleep 9", "JSON"),
        ] {
            let (_dir, watch) = script(text);
            let error = format!("{:#}", watch.start().unwrap_err());
            assert!(error.contains(needle), "{error}");
        }
    }

    #[test]
    fn one_that_ends_meanwhile_is_an_error() {
        let (_dir, watch) = script("echo '{\"counted\": true}'");
        let watcher = watch.start().unwrap();
        thread::sleep(Duration::from_millis(200));
        assert!(watcher.finish().unwrap_err().to_string().contains("fusewire top --json ended"));
        assert!(How::from_name("tops").unwrap_err().to_string().contains("top, split or trace"));
    }
}
