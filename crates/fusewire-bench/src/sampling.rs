//! What part of a daemon's CPU time is its own code: samples that the program perf takes while the daemon works.
//!
//! A sample that comes while a system call returns, with interrupts off, is taken at the first instruction behind it. That
//! instruction is known by what stands before it, and such samples count for the kernel. Without this, returns are
//! told as user time: about half of it, for a daemon that makes one system call for each request.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::sys;
use crate::{child, program};

/// Samples per second of CPU time. No multiple or divisor of what timers do.
const RATE: &str = "9973";
/// What the bytes before a system call's return address are.
#[cfg(target_arch = "x86_64")]
const SYSTEM_CALL: &[u8] = &[0x0f, 0x05];
#[cfg(target_arch = "aarch64")]
const SYSTEM_CALL: &[u8] = &[0x01, 0x00, 0x00, 0xd4];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const SYSTEM_CALL: &[u8] = &[];
/// Addresses from here on are the kernel's.
const KERNEL: u64 = 1 << 63;
const START_TIME: Duration = Duration::from_secs(10);

/// Samples of one daemon, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Samples {
    /// All of them.
    pub all: u64,
    /// Those in the daemon's own code and its libraries.
    pub own: u64,
}

/// A running perf.
#[derive(Debug)]
pub struct Sampler {
    perf: Child,
    pid: u32,
    dir: TempDir,
}

impl Sampler {
    /// Begins to take samples, of which those of this process and all its threads count.
    ///
    /// # Errors
    /// If perf cannot be started, or ends at once.
    pub fn start(pid: u32) -> Result<Self> {
        let dir = tempfile::tempdir().context("cannot make a directory for samples")?;
        let mut command = Command::new("perf");
        // Of all CPUs: a timer of the daemon alone would be set anew at each switch to it, which a virtual machine pays for
        // with more than a round trip takes.
        command.args(["record", "-q", "-a", "-e", "cpu-clock", "-F", RATE, "-o"]);
        command.arg(dir.path().join("data")).current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(dir.path().join("log"))?);
        sys::tie_to_parent(&mut command, None);
        let perf = command.spawn().context("cannot start perf")?;
        let mut this = Self { perf, pid, dir };
        let begin = Instant::now();
        // It writes the head of its file when it is ready.
        while fs::metadata(this.dir.path().join("data")).map_or(0, |data| data.len()) == 0 {
            if let Some(status) = this.perf.try_wait()? {
                bail!("perf ended with {status}{}", this.said());
            }
            ensure!(begin.elapsed() < START_TIME, "perf takes no samples{}", this.said());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(this)
    }

    /// Ends perf and counts its samples; the process must still be there.
    ///
    /// # Errors
    /// If perf fails, or has no samples.
    pub fn finish(mut self, stop: &AtomicBool) -> Result<Samples> {
        child::signal(&self.perf, Signal::INT);
        // Ended by a signal, it ends by that signal itself.
        self.perf.wait().context("cannot wait for perf")?;
        let mut command = Command::new("perf");
        command
            .args(["script", "--pid", &self.pid.to_string(), "-F", "ip", "-i"])
            .arg(self.dir.path().join("data"))
            .current_dir("/");
        let done = program::run(command, b"", &[], stop)?.success("perf script")?;
        let memory = File::open(format!("/proc/{}/mem", self.pid)).context("the sampled daemon is gone")?;
        let samples =
            count(&String::from_utf8_lossy(&done.output), |address| follows_call(&memory, address))?;
        ensure!(samples.all > 0, "perf took no sample: the daemon did nothing{}", self.said());
        Ok(samples)
    }

    fn said(&self) -> String {
        child::said(&self.dir.path().join("log"))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        if !matches!(self.perf.try_wait(), Ok(Some(_))) {
            let _ = self.perf.kill();
            let _ = self.perf.wait();
        }
    }
}

/// Counts addresses, one a line in hexadecimal.
fn count(addresses: &str, is_return: impl Fn(u64) -> bool) -> Result<Samples> {
    let mut samples = Samples::default();
    for line in addresses.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let address =
            u64::from_str_radix(line, 16).with_context(|| format!("perf tells of the address `{line}`"))?;
        samples.all += 1;
        samples.own += u64::from(address < KERNEL && !is_return(address));
    }
    Ok(samples)
}

/// Whether a system call stands before this address.
fn follows_call(memory: &File, address: u64) -> bool {
    let mut bytes = [0; SYSTEM_CALL.len()];
    let before = address.saturating_sub(SYSTEM_CALL.len() as u64);
    !bytes.is_empty() && memory.read_exact_at(&mut bytes, before).is_ok() && bytes == SYSTEM_CALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_of_system_calls_and_the_kernel_are_not_own_code() {
        let text = "    7f0000000010\n ffffffff81000000\n\n    7f0000000020\n    7f0000000020\n";
        let samples = count(text, |address| address == 0x7f00_0000_0010).unwrap();
        assert_eq!(samples, Samples { all: 4, own: 2 });
        assert!(count("what", |_| false).unwrap_err().to_string().contains("`what`"));
    }

    /// Samples of a process that runs this script for a while.
    fn sampled(script: &str) -> Samples {
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::null()).spawn().unwrap();
        let sampler = Sampler::start(child.id());
        thread::sleep(Duration::from_millis(500));
        let samples = sampler.and_then(|sampler| sampler.finish(&AtomicBool::new(false)));
        child.kill().unwrap();
        child.wait().unwrap();
        samples.unwrap()
    }

    #[test]
    fn a_program_that_computes_and_one_that_calls_the_kernel_are_told_apart() {
        if program::find_in("perf", program::path_dirs()).is_none() {
            crate::skip::skipped("perf is not installed");
            return;
        }
        if !rustix::process::geteuid().is_root() {
            crate::skip::skipped("samples of the kernel need root");
            return;
        }
        let computes = sampled("while :; do :; done");
        let calls = sampled("exec dd if=/dev/zero of=/dev/null bs=1");
        let share = |samples: Samples| samples.own as f64 / samples.all as f64;
        assert!(computes.all > 100 && share(computes) > 0.8, "{computes:?}");
        assert!(calls.all > 100 && share(calls) < 0.5, "{calls:?}");
    }
}
