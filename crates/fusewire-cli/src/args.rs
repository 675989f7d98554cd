//! The command line: what there is to say, and the help that teaches it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use fusewire::limits;

const EXAMPLES: &str = "\
Examples:
  fusewire mount /srv/data /mnt/data         show a directory in a second place, until Ctrl-C
  fusewire mount --daemon /srv/data /mnt/d   the same in the background
  fusewire unmount /mnt/data                 end it, from anywhere
  fusewire probe /srv/data                   what this kernel, this user and that directory allow
  fusewire top                               what every FUSE mount of this machine is asked for, and how fast it answers

Exit status: 0 if all went well, 1 if the command failed, 2 if the command line is wrong.";

const MOUNT_EXAMPLES: &str = "\
Examples:
  fusewire mount /srv/data /mnt/data
      Foreground; Ctrl-C unmounts.
  fusewire mount --daemon --log-file /var/log/data.log /srv/data /mnt/data
      Returns once the mount works; later messages go to the file.
  fusewire mount -o ro,nosuid,nodev --cache always /srv/dump /mnt/dump
      A directory that nobody changes meanwhile: the kernel remembers everything.
  fusewire mount --fs mem none /mnt/scratch
      A filesystem in memory, gone at the end.

Who may use the mount:
  Mounted by root, every user may, and the kernel checks owners and permission bits, as on the directory itself \
  (allow_other and default_permissions); --private keeps it to root. Mounted by anyone else, only that user may; \
  --allow-other opens it if /etc/fuse.conf says user_allow_other. What others do is then done with the rights of \
  the user who mounted, after the kernel has checked permission bits.

Where the mount point may be:
  On SRC itself, and above it: the directory was opened before it was covered. Not inside SRC: the mount would \
  contain itself, and a walk through it would make fusewire wait for its own answers.

In /etc/fstab, once `fusewire install-helper` has been run:
  /srv/data  /mnt/data  fuse.fusewire  nofail  0  0
  The word for --private is noallow_other there; private is mount(8)'s own.

Requests over io_uring:
  From Linux 6.14 on, if that is switched on before mounting: echo Y > /sys/module/fuse/parameters/enable_uring, \
  as root. Which way was taken is said at the beginning, with -v also why.

Polling:
  A thread that sleeps must be woken, which takes longer than most requests; one that polls keeps a CPU from everybody \
  else. With a thread for each CPU (the default), client and thread share a CPU and nothing is gained by polling: auto \
  sleeps. With fewer threads (--threads), or kept away from its clients (taskset), a thread follows its clients, or \
  polls while a CPU is free. The first reader of /dev/fuse polls with fixed only. With -vv each change is said, and why.

Placement:
  Serving a caller on its own CPU costs least, but the scheduler moves a caller away from a CPU that is taken. Threads \
  in the class SCHED_IDLE do not count as load: auto tries what they gain, keeps it while it pays, and puts them back within \
  some milliseconds if other programs leave them no CPU. It takes CAP_SYS_NICE.

Signals:
  SIGINT and SIGTERM unmount and finish what is being worked on. If the mount is in use it is detached, the users \
  are named, and it ends with the last of them; a second signal cuts them off. SIGHUP ends a mount in the foreground \
  like SIGTERM and does nothing to one in the background; with --policy it has the rules read again instead. If they are \
  wrong, those from before stay in force, and the log says why.

As a systemd service: Type=notify, ExecStart=/usr/bin/fusewire mount SRC MNT.";

const UNMOUNT_EXAMPLES: &str = "\
Examples:
  fusewire unmount /mnt/data           fails if the mount is in use, and tells by whom
  fusewire unmount --lazy /mnt/data    takes it out of sight now; it ends with its last user
  fusewire unmount --abort /mnt/data   for a filesystem that hangs: whoever waits for it gets an error";

const PROBE_EXAMPLES: &str = "\
Examples:
  fusewire probe                              this kernel and this user
  fusewire probe /srv/data                    and what a mount of /srv/data could rely on
  fusewire probe --json | jq .channel         for a program: what --channel auto comes to, and why

Nothing is changed and nothing is left behind. The kernel is asked by starting a FUSE session that is attached \
nowhere; programs for its security hooks are attached for a moment. In DIR, files without a name (O_TMPFILE) are tried, which are gone at once.";

/// Mount directories through FUSE.
#[derive(Debug, Parser)]
#[command(name = "fusewire", version, after_help = EXAMPLES, max_term_width = 110)]
#[command(propagate_version = false, infer_subcommands = false, arg_required_else_help = true)]
pub struct Cli {
    /// What to log and how much.
    #[command(flatten)]
    pub log: LogArgs,
    /// Set for the process in the background: tell on standard output that the mount works.
    #[arg(long, hide = true)]
    pub report_ready: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything `fusewire` can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a directory, or a filesystem in memory
    #[command(visible_alias = "m", after_long_help = MOUNT_EXAMPLES)]
    Mount(Box<MountArgs>),
    /// Unmount a FUSE mount, and tell who uses it if that fails
    #[command(visible_alias = "umount", after_long_help = UNMOUNT_EXAMPLES)]
    Unmount(UnmountArgs),
    /// Share a directory with a virtual machine, as a virtio-fs device
    #[command(after_long_help = crate::vhost::NOTES)]
    Vhost(Box<crate::vhost::VhostArgs>),
    /// Tell what this kernel, this user and a directory allow
    #[command(after_long_help = PROBE_EXAMPLES)]
    Probe(ProbeArgs),
    /// Show what a mount has been asked for
    #[command(after_long_help = crate::stats::EXAMPLES)]
    Stats(crate::stats::StatsArgs),
    /// Measure channels, peers and the directory beneath at the same work
    #[command(after_long_help = crate::bench::NOTES, disable_help_flag = true)]
    Bench(crate::bench::BenchArgs),
    /// Show the requests of every FUSE mount of this machine: how many, how fast, and which are stuck
    #[command(after_long_help = crate::top::EXAMPLES)]
    Top(crate::top::TopArgs),
    /// Print each request of the FUSE mounts of this machine
    #[command(after_long_help = crate::trace::EXAMPLES)]
    Trace(crate::trace::TraceArgs),
    /// Make `mount -t fuse.fusewire` and fstab work
    ///
    /// mount(8) looks for a program /sbin/mount.TYPE. This puts a symbolic link to fusewire there under the name
    /// mount.fuse.fusewire. Without it, mount(8) calls /sbin/mount.fuse of the package fuse3, which finds fusewire
    /// too if it is in the PATH of whoever mounts.
    InstallHelper(InstallArgs),
    /// Print a script that completes command lines of fusewire
    ///
    /// For bash: fusewire completions bash > /etc/bash_completion.d/fusewire
    Completions {
        /// The shell it is for
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    ///
    /// For example: fusewire man /usr/local/share/man/man1
    Man {
        /// Directory to write to; it is made if it is missing
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

/// Options about messages; the same for every command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Messages")]
pub struct LogArgs {
    /// Say more: -v what is decided, -vv how, -vvv each request
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// Append messages to FILE; else to the terminal, or to the system log with --daemon
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub log_file: Option<PathBuf>,
}

/// What `fusewire mount` takes.
#[derive(Args, Debug)]
pub struct MountArgs {
    /// Directory to show; `none` for a filesystem that has no directory
    #[arg(value_name = "SRC", value_hint = ValueHint::DirPath)]
    pub source: PathBuf,
    /// Where to mount it: an existing directory
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    pub mountpoint: PathBuf,
    /// What to mount [default: passthrough]
    #[arg(long, value_name = "NAME")]
    pub fs: Option<FsKind>,
    /// With --fs mem: room for the content of files, such as 512M [default: 1G]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub size: Option<u64>,
    /// With --fs null: how long each read and write takes, as on a slow disk, such as 2ms [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = delay)]
    pub delay: Option<Duration>,
    /// Mount options, separated by commas; may be repeated
    ///
    /// As for mount(8): ro, rw, nosuid, nodev, noexec, noatime, nodiratime, strictatime, lazytime, nosymfollow, sync,
    /// dirsync, allow_other, default_permissions, max_read=BYTES, fsname=NAME, subtype=NAME, auto_unmount. Then each
    /// long option of this command as a word: fs=, cache=, entry_timeout=, attr_timeout=, negative_timeout=,
    /// file_handles=, passthrough=, opens=, locks=, channel=, memory=, buffers=, threads=, poll=, placement=, max_write=, size=, delay=, log=, log_file=, policy=, kernel_answers=, metrics=, stats, private (noallow_other in /etc/fstab). What fstab needs
    /// (defaults, nofail, _netdev, user, x-...) is accepted. A backslash protects a comma in a value. Long options win over words in -o.
    #[arg(short = 'o', long = "options", value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Nothing can be changed through the mount (-o ro)
    #[arg(short = 'r', long)]
    pub read_only: bool,
    /// Whom the mount is for.
    #[command(flatten)]
    pub access: AccessArgs,
    /// What the kernel may remember.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// How the daemon runs.
    #[command(flatten)]
    pub run: RunArgs,
    /// What is told of it.
    #[command(flatten)]
    pub show: crate::stats::ShowArgs,
}

/// Whom the mount is for.
#[derive(Args, Debug)]
#[command(next_help_heading = "Who may use it")]
pub struct AccessArgs {
    /// Every user may use the mount; the default for root
    #[arg(long, conflicts_with = "private")]
    pub allow_other: bool,
    /// Only the user who mounts may use it; the default for anyone but root
    #[arg(long)]
    pub private: bool,
    /// Keep everybody to the rules in FILE (TOML; docs/policy.md), besides permission bits; SIGHUP reads it again
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// Have the kernel say again by itself what somebody may not do and which attributes are absent (BPF LSM) [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub kernel_answers: Option<KernelAnswers>,
}

/// What the kernel may remember.
#[derive(Args, Debug)]
#[command(next_help_heading = "Caching")]
pub struct CacheArgs {
    /// How much the kernel remembers between requests [default: coherent where that can be had and SRC is on a local filesystem
    /// with no other mounted inside, else auto; `fusewire probe SRC` tells which, and why]
    #[arg(long, value_name = "HOW")]
    pub cache: Option<CacheKind>,
    /// How long the kernel trusts a name it has seen
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub entry_timeout: Option<Duration>,
    /// How long the kernel trusts sizes, times and modes
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub attr_timeout: Option<Duration>,
    /// How long the kernel trusts that a name does not exist
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub negative_timeout: Option<Duration>,
}

/// How the daemon runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Running")]
pub struct RunArgs {
    /// Go to the background once the mount works; a failure to mount is still reported here
    #[arg(short = 'd', long)]
    pub daemon: bool,
    /// The mount goes away with the daemon, even if it is killed
    #[arg(long)]
    pub auto_unmount: bool,
    /// How requests come from the kernel; `fusewire probe` tells what auto comes to, and why [default: auto]
    #[arg(long, value_name = "WHICH")]
    pub channel: Option<ChannelKind>,
    /// What the buffers of the rings may keep together, such as 64M, at least 1M: more than that is given back after each
    /// request. Less than 1M for each CPU lowers the longest read and write, never below 128K [default: 64M, which lowers nothing]
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    pub memory: Option<u64>,
    /// Where data is on its way over io_uring: Linux 7.3 offers more than one place [default: auto]
    #[arg(long, value_name = "WHERE")]
    pub buffers: Option<BuffersKind>,
    /// Threads that serve requests [default: one per CPU]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// How threads wait for requests: off, they sleep; auto, they sleep where their clients are, and poll only
    /// where that pays and takes no CPU from anybody; fixed:US, they poll for so many microseconds before they sleep, which
    /// is for CPUs that are reserved [default: auto]
    #[arg(long, value_name = "HOW")]
    pub poll: Option<fusewire::server::Poll>,
    /// Where those threads run: off, as the scheduler likes; auto, while it pays, on their callers' CPUs, stepping aside for whoever
    /// wants them, as root [default: auto]
    #[arg(long, value_name = "HOW")]
    pub placement: Option<fusewire::server::Placement>,
    /// Longest write request, such as 128K or 1M [default: what the kernel allows]
    #[arg(long, value_name = "BYTES", value_parser = max_write)]
    pub max_write: Option<u32>,
    /// Remember files by file handle instead of keeping each of them open [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub file_handles: Option<FileHandles>,
    /// Have the kernel read, write and map the files of SRC by itself, without a request [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub passthrough: Option<Forwarding>,
    /// Whether opening and closing a file is a request [default: auto]
    #[arg(long, value_name = "HOW")]
    pub opens: Option<OpensKind>,
    /// Who sees locks taken on the mount: everybody who uses SRC, or users of this mount alone [default: directory]
    #[arg(long, value_name = "WHERE")]
    pub locks: Option<LocksKind>,
    /// Check everything that can be checked beforehand, and mount nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Options in -o that are not known are ignored, as mount(8) asks for with -s
    #[arg(long, hide = true)]
    pub sloppy: bool,
}

/// What `fusewire unmount` takes.
#[derive(Args, Debug)]
pub struct UnmountArgs {
    /// Mount points
    #[arg(value_name = "MNT", required = true, value_hint = ValueHint::DirPath)]
    pub mountpoints: Vec<PathBuf>,
    /// Out of sight now, ended with its last user
    #[arg(short, long, conflicts_with = "abort")]
    pub lazy: bool,
    /// End the connection first: everybody who waits for the filesystem gets an error
    #[arg(short, long, visible_alias = "force")]
    pub abort: bool,
}

/// What `fusewire probe` takes.
#[derive(Args, Debug)]
pub struct ProbeArgs {
    /// Directory that is to be mounted elsewhere
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Only ask the kernel for its FUSE protocol, and print that as JSON.
    #[arg(long, hide = true)]
    pub offer_only: bool,
}

/// What `fusewire install-helper` takes.
#[derive(Args, Debug)]
pub struct InstallArgs {
    /// Where to put the link; mount(8) looks into /sbin
    #[arg(long, value_name = "DIR", default_value = "/sbin", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Take the link away again
    #[arg(long)]
    pub remove: bool,
}

/// What can be mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FsKind {
    /// The directory SRC
    #[default]
    Passthrough,
    /// A filesystem in memory; SRC is `none`
    Mem,
    /// Accepts all data and keeps none of it, for measurements; SRC is `none`
    Null,
}

/// How much the kernel remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CacheKind {
    /// Nothing: each access asks, as if several machines wrote to SRC
    None,
    /// Names and attributes for a second, data as long as the file has not changed
    #[default]
    Auto,
    /// Everything, until somebody changes it: the kernel is told of what others do to SRC. It takes a local SRC and Linux 6.16;
    /// without root it is so for the files that can be watched. Where it cannot be had it is as auto, with a warning
    Coherent,
    /// Everything, until it is changed through the mount: SRC must not be changed in other ways
    Always,
}

/// Whether the kernel gives answers again by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum KernelAnswers {
    /// With --policy, where the kernel takes the programs for it
    #[default]
    Auto,
    /// In any case; it is an error if the kernel does not take them
    Always,
    /// Never
    Off,
}

/// Whether files are remembered by file handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FileHandles {
    /// Where the directory and the rights of the user allow it
    #[default]
    Auto,
    /// Never: each file that the kernel knows costs a file descriptor
    Never,
    /// Always: fail where it is not possible
    Always,
}

/// Whether the kernel reads and writes files by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Forwarding {
    /// Files of 64 KiB or more, where the kernel can: Linux 6.9 or newer, as root
    #[default]
    Auto,
    /// Small and new ones, too, whose opening takes longer then
    Always,
    /// None: each read and write is a request
    Off,
}

/// Whether clients' opening and closing of files is told by requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OpensKind {
    /// Stateless for directories with --cache coherent or always; for files, too, once ten thousand were opened of
    /// which few are large, if --locks is mount
    #[default]
    Auto,
    /// No: for trees of small files that are read again and again. It takes --cache always or coherent, and --locks mount, and excludes
    /// --passthrough
    Stateless,
    /// Yes, so that large files can be read and written by the kernel itself
    Handles,
}

/// Who sees locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LocksKind {
    /// Everybody who uses SRC, on the mount or not
    #[default]
    Directory,
    /// Users of this mount: the kernel keeps them to itself, without requests
    Mount,
}

/// How requests come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ChannelKind {
    /// Over io_uring where that can be had, else /dev/fuse
    #[default]
    Auto,
    /// By reading and writing /dev/fuse
    DevFuse,
    /// Over io_uring, a ring for each CPU; mounting fails where that cannot be had
    Uring,
}

/// Where data is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BuffersKind {
    /// In a pool for each CPU where the kernel has them; as root, not copied at all where that pays
    #[default]
    Auto,
    /// In a buffer for each request, as before Linux 7.3
    Own,
    /// In pools, and always copied
    Pool,
    /// As auto, and all memory is taken at once, which spares the kernel some work; fewer requests can wait for something
    Pinned,
    /// As auto, and never copied, even where that does not pay
    ZeroCopy,
}

impl From<BuffersKind> for fusewire::server::Buffers {
    fn from(kind: BuffersKind) -> Self {
        match kind {
            BuffersKind::Auto | BuffersKind::ZeroCopy => Self::Auto,
            BuffersKind::Own => Self::Own,
            BuffersKind::Pool => Self::Pool,
            BuffersKind::Pinned => Self::Pinned,
        }
    }
}

impl From<ChannelKind> for fusewire::server::Channel {
    fn from(kind: ChannelKind) -> Self {
        match kind {
            ChannelKind::Auto => Self::Auto,
            ChannelKind::DevFuse => Self::DevFuse,
            ChannelKind::Uring => Self::Uring,
        }
    }
}

macro_rules! named {
    ($($kind:ty),*) => {$(
        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.to_possible_value() {
                    Some(value) => f.write_str(value.get_name()),
                    None => write!(f, "{self:?}"),
                }
            }
        }
    )*};
}
named!(FsKind, CacheKind, FileHandles, Forwarding, OpensKind, LocksKind, ChannelKind, BuffersKind);

/// Reads a time in seconds, such as `1`, `0.25` or `forever`.
///
/// # Errors
/// What is wrong with it.
pub fn seconds(text: &str) -> Result<Duration, String> {
    // The kernel adds the value to a jiffies counter; what does not fit is capped there, and a year is for ever.
    const FOREVER: f64 = 365.0 * 86400.0;
    if text == "forever" {
        return Ok(Duration::from_secs_f64(FOREVER));
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(Duration::from_secs_f64(value.min(FOREVER))),
        _ => Err("a number of seconds is needed, such as 1 or 0.25, or the word forever".into()),
    }
}

/// Reads how long a backend takes.
///
/// # Errors
/// What is wrong with it.
pub fn delay(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(10);
    let (number, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
    let value = match (number.parse::<u64>(), unit) {
        (Ok(value), "us") => Duration::from_micros(value),
        (Ok(value), "ms") => Duration::from_millis(value),
        (Ok(value), "s") => Duration::from_secs(value),
        _ => return Err("a whole number with a unit is needed, such as 500us, 2ms or 1s".into()),
    };
    if value > LONGEST {
        return Err(format!("it must be at most {} s", LONGEST.as_secs()));
    }
    Ok(value)
}

/// Reads the length of the longest write.
///
/// # Errors
/// What is wrong with it.
pub fn max_write(text: &str) -> Result<u32, String> {
    let value = bytes(text)?;
    if !(limits::MIN_WRITE.into()..=limits::MAX_WRITE_EVER.into()).contains(&value) {
        return Err(format!("it must be from {} to {} bytes", limits::MIN_WRITE, limits::MAX_WRITE_EVER));
    }
    u32::try_from(value).map_err(|error| error.to_string())
}

/// Reads a number of bytes, such as `4096`, `128K` or `1M`.
///
/// # Errors
/// What is wrong with it.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => return Err("the unit is not known; write 131072, 128K or 1M".into()),
    };
    let number: u64 =
        digits.parse().map_err(|_| "a number of bytes is needed, such as 131072, 128K or 1M")?;
    number.checked_mul(factor).ok_or_else(|| "it is too much".into())
}

/// Reads how much memory buffers may take.
///
/// # Errors
/// What is wrong with it.
pub fn memory(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        less if less < 1 << 20 => Err("it must be at least 1M".into()),
        memory => Ok(memory),
    }
}

/// Reads a number of threads.
///
/// # Errors
/// What is wrong with it.
pub fn threads(text: &str) -> Result<usize, String> {
    number(1..=1024)(text)
}

/// What reads a whole number in `range`, or tells what is wrong with it.
pub fn number<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("a whole number from {} to {} is needed", range.start(), range.end()))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_least_memory_is_what_the_help_says() {
        let mut command = Cli::command();
        let mount = command.find_subcommand_mut("mount").expect("mount");
        let help = mount.render_long_help().to_string();
        let smallest = u64::from(limits::RING_PAGES) * 4096;
        let text = help.split("--memory <BYTES>").nth(1).expect("--memory");
        let text = &text.split_whitespace().take(60).collect::<Vec<_>>().join(" ");
        let number =
            |before: &str| text.split(before).nth(1).and_then(|text| text.split([' ', '.', ':']).next());
        assert_eq!(number("never below ").map(bytes), Some(Ok(smallest)), "{text}");
        let least = number("at least ").expect(text);
        assert!(
            memory(least).is_ok() && memory(&(bytes(least).expect(text) - 1).to_string()).is_err(),
            "{text}"
        );
    }

    #[test]
    fn times_and_sizes() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert!(seconds("forever").is_ok_and(|time| time > Duration::from_secs(1_000_000)));
        assert_eq!(seconds("1e300"), seconds("forever"));
        for wrong in ["-1", "NaN", "inf", "", "1s", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("128K"), Ok(131_072));
        assert_eq!(bytes("1MiB"), Ok(1 << 20));
        assert_eq!(bytes("8G"), Ok(8 << 30));
        for wrong in ["", "K", "1T", "-1", "1.5M", "99999999999999999999", "18446744073709551615G", "1Ü"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(delay("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(delay("2ms"), Ok(Duration::from_millis(2)));
        for wrong in ["", "2", "ms", "-1ms", "1.5ms", "2min", "11s", "18446744073709551615s"] {
            assert!(delay(wrong).is_err(), "{wrong}");
        }
        assert_eq!(max_write("1M"), Ok(1 << 20));
        assert!(max_write("4095").is_err() && max_write("4G").is_err());
        assert_eq!(threads("8"), Ok(8));
        assert!(threads("0").is_err() && threads("1025").is_err() && threads("x").is_err());
        assert_eq!(number(0..=u64::MAX)("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(number(3..=5)("x"), Err("a whole number from 3 to 5 is needed".into()));
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        let cli = Cli::try_parse_from(["fusewire", "mount", "-vv", "/a", "/b", "--log-file", "/tmp/x"])
            .expect("parses");
        assert_eq!(cli.log.verbose, 2);
        assert!(cli.log.log_file.is_some());
        assert!(Cli::try_parse_from(["fusewire", "mount", "-v", "-q", "/a", "/b"]).is_err());
        assert!(Cli::try_parse_from(["fusewire", "mount", "/a"]).is_err());
    }
}
