//! The virtual machine: QEMU without acceleration, its serial line our output.

use super::{
    image::{BEGUN, STATUS},
    packages::Qemu,
};
use anyhow::{Context, Result, bail};
use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// What the guest's kernel says when it finds itself at fault.
const FAULTS: [&str; 5] = ["BUG:", "WARNING:", "Oops", "Kernel panic", "rcu: INFO"];

/// How often a guest is started whose kernel dies before anything of ours runs: an emulated machine of more than one CPU now and then
/// meets an instruction that the kernel is just patching (int3).
const BOOTS: u32 = 3;

/// A machine.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// CPUs that are there.
    pub cpus: u64,
    /// CPUs that there may ever be.
    pub possible: u64,
    /// Memory, MiB.
    pub memory: u64,
    /// When to give up, seconds.
    pub seconds: u64,
}

/// What the guest has told so far.
#[derive(Debug, Default)]
struct Report {
    begun: bool,
    status: Option<i32>,
    fault: Option<String>,
}

impl Report {
    fn read(&mut self, line: &str) {
        if let Some(status) = line.trim().strip_prefix(STATUS) {
            self.status = status.trim().parse().ok();
        } else if line.trim() == BEGUN {
            self.begun = true;
        } else if self.fault.is_none() && FAULTS.iter().any(|fault| line.contains(fault)) {
            self.fault = Some(line.trim().into());
        }
    }

    /// The kernel died before the job began.
    fn never_began(&self) -> bool {
        self.fault.is_some() && !self.begun && self.status.is_none()
    }

    fn judge(self) -> Result<()> {
        match (self.fault, self.status) {
            (Some(fault), _) => bail!("the guest's kernel is at fault: {fault}"),
            (None, Some(0)) => Ok(()),
            (None, Some(status)) => bail!("the job in the guest ended with status {status}"),
            (None, None) => bail!("the guest ended before its job did"),
        }
    }
}

impl Guest {
    /// Boot, show what the guest says, and insist on a job that succeeds.
    pub fn boot(self, qemu: &Qemu, kernel: &Path, initrd: &Path) -> Result<()> {
        let start = Instant::now();
        let Self { cpus, possible, memory, seconds } = self;
        eprintln!("xtask: guest with {} on {cpus} CPUs of {possible}, {memory} MiB", kernel.display());
        let mut command = qemu.command();
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35", "-nodefaults"]);
        command.args(["-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        // CPUs that could be plugged in do not count for the kernel as possible; those that are never started do.
        command.args(["-smp", &possible.to_string(), "-m", &memory.to_string()]);
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        let line =
            "console=ttyS0 quiet loglevel=5 panic=-1 tsc=reliable no_timer_check mitigations=off nokaslr";
        command.args(["-append", &format!("{line} maxcpus={cpus}")]);
        let mut report = Running::start(&mut command)?.listen(seconds, |_| {})?;
        for _ in 1..BOOTS {
            if !report.never_began() {
                break;
            }
            eprintln!("xtask: guest: its kernel died before it began; once more");
            report = Running::start(&mut command)?.listen(seconds, |_| {})?;
        }
        report.judge()?;
        eprintln!("xtask: guest: done in {} s", start.elapsed().as_secs());
        Ok(())
    }
}

/// Start a machine, show what its guest says, line by line, to `hear` as well, and insist on a job that succeeds.
pub fn watch(command: &mut Command, seconds: u64, hear: impl FnMut(&str)) -> Result<()> {
    Running::start(command)?.follow(seconds, hear)
}

/// A machine that runs, until this is dropped.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// Start it.
    pub fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let output = child.stdout.take().context("a pipe")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || read(output, &sender));
        Ok(Self { child, lines })
    }

    /// Show what its guest says until it ends, and insist on a job that succeeds.
    pub fn follow(self, seconds: u64, hear: impl FnMut(&str)) -> Result<()> {
        self.listen(seconds, hear)?.judge()
    }

    /// The same where the guest has gone to another machine, and its job with it.
    pub fn left(self, seconds: u64) -> Result<()> {
        match self.listen(seconds, |_| {})? {
            Report { fault: Some(fault), .. } => bail!("the guest's kernel is at fault: {fault}"),
            Report { status: Some(status), .. } => bail!("the job ended too early, with status {status}"),
            Report { .. } => Ok(()),
        }
    }

    fn listen(&self, seconds: u64, mut hear: impl FnMut(&str)) -> Result<Report> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let mut report = Report::default();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    println!("guest| {line}");
                    report.read(&line);
                    hear(&line);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(report),
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("the guest did not end in time: see --timeout"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Does nothing to one that has ended.
        _ = self.child.kill();
        _ = self.child.wait();
        self.lines.iter().for_each(|line| println!("guest| {line}"));
    }
}

fn read(output: impl Read, lines: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().replace('\r', "");
        line.clear();
        if lines.send(text).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &[&str]) -> Result<()> {
        let mut report = Report::default();
        lines.iter().for_each(|line| report.read(line));
        report.judge()
    }

    #[test]
    fn a_guest_succeeds_only_if_it_says_so() {
        assert!(judged(&["hello", "guest-status: 0"]).is_ok());
        assert!(judged(&["guest-status: 3"]).is_err());
        assert!(judged(&["hello"]).is_err());
    }

    #[test]
    fn a_fault_of_the_kernel_is_a_failure_whatever_the_job_says() {
        let fault = judged(&["[ 1.0] WARNING: CPU: 0 PID: 1 at fs/fuse/dev_uring.c:1", "guest-status: 0"]);
        assert!(fault.expect_err("a fault").to_string().contains("dev_uring"));
    }

    #[test]
    fn only_a_kernel_that_died_before_the_job_is_started_again() {
        let never_began = |lines: &[&str]| {
            let mut report = Report::default();
            lines.iter().for_each(|line| report.read(line));
            report.never_began()
        };
        assert!(never_began(&[
            "[ 1.7] Oops: int3: 0000 [#1] SMP NOPTI",
            "[ 1.7] Kernel panic - not syncing"
        ]));
        assert!(!never_began(&["guest-begins", "[ 9.7] Oops: int3: 0000 [#1] SMP NOPTI"]));
        assert!(!never_began(&["[ 1.0] WARNING: CPU: 0 PID: 1", "guest-begins", "guest-status: 0"]));
        assert!(!never_began(&["hello"]));
    }
}
