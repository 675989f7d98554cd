//! The command line of `fusewire top`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

/// What stands below the help of `fusewire top`.
pub const EXAMPLES: &str = "\
Examples:
  fusewire top                      every FUSE mount of the machine, whichever program serves it
  fusewire top --once /mnt/data     one mount, one second, as text
  fusewire top --json | jq -c '.mounts[] | [.mountpoints[0], .rate]'
      A line for each second. The first comes at once and says that counting has begun.

Keys:
  up, down (or k, j)  choose a mount, or an operation      tab  between mounts and operations
  s  sort by the next column      f  requests in flight, or the histogram      p  pause      q  quit

What is counted:
  Requests from the moment at which the kernel hands them to the server until they are answered or given up. FORGET and \
  INTERRUPT have no answer and are not among them; nor is what the kernel answers by itself. The time that requests of \
  the background (reading ahead, writing back) wait for their turn is not in it.

  With --split: QUEUE is the time until the server had read the request, SERVICE from there to its answer, WAKE from \
  the answer until the caller ran. Servers that read with splice(2) do not show when. This costs a little at every \
  system call of the machine, so it is not the default.

Who may:
  Root, or CAP_BPF and CAP_PERFMON; a kernel that describes its types (CONFIG_DEBUG_INFO_BTF). Anyone else sees the mounts, \
  their servers and how many requests wait, where fusectl is mounted.";

/// What `fusewire top` takes.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// Only this mount
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    pub mountpoint: Option<PathBuf>,
    /// How long an interval is
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: Duration,
    /// From which age on a request that is not answered counts as stuck
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = crate::args::seconds)]
    pub stuck: Duration,
    /// Split times into waiting for the server, its service, and the caller's waking up
    #[arg(long)]
    pub split: bool,
    /// One interval, as text; the default if standard output is no terminal
    #[arg(short = '1', long)]
    pub once: bool,
    /// Print JSON, an object in a line for each interval
    #[arg(long)]
    pub json: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let value = crate::args::seconds(text)?;
    if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&value) {
        return Err("it must be from 0.1 to 3600 seconds".into());
    }
    Ok(value)
}
