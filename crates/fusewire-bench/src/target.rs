//! What is measured: a command that mounts something, a directory, or a pipe.
//!
//! On the command line a target is written `BASE[:OPTION[,OPTION...]]`. An option is `KEY=VALUE` or a word; a value with
//! a `+` in it stands for several values, which makes several targets. `NAME=` before it gives it a name of its own.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::machine;
use crate::mounts;
use crate::peers::Peers;
use crate::watching::{How, Watch};
use crate::workload::{Op, Request, Workload};

/// How targets are written, for the help.
pub const GRAMMAR: &str = "\
Targets:
  native                 the source directory itself
  fusewire[:OPTIONS]     `fusewire mount`; each option is one of its long options, without the dashes:
                         fusewire:cache=none  fusewire:channel=uring,threads=2  fusewire:read-only
  mem[:OPTIONS]          `fusewire mount --fs mem none`
  null[:OPTIONS]         `fusewire mount --fs null none`; only for round trips; with delay=2ms data takes that long
  fuser[:OPTIONS]        a passthrough on the crate fuser; options of the example fuser_passthrough, or cache=...
  PEER[:cache=HOW]       another program found on this machine; `list` tells which, and --peers-dir or the
                         environment variable FUSEWIRE_BENCH_PEERS_DIR says where to look
  vhost[:OPTIONS]        `fusewire vhost`, a virtio-fs device whose guest is in this process; nothing is mounted. Options are its long
                         options; {cpus} in one is the number of CPUs: vhost:queues={cpus}
  virtiofsd[:OPTIONS]    the same with that program, if it is found: a peer
  at:DIR                 a directory on something that is mounted already: FUSE or virtiofs
  pipe[:cpu=WHERE]       two pipes and a process that echoes: the reference for round trips; it runs on the same CPU
                         as a client that is kept on one (same), never there (other), or anywhere (free)
  NAME=COMMAND           anything else; {mnt} and, unless it has files of its own, {src} in COMMAND stand for the
                         directories; it stays in the foreground until it is unmounted. With {socket} instead of {mnt} it is a
                         virtio-fs device, and ends when its guest goes
  NAME=TARGET            any of the above under a short name: ring=fusewire:channel=uring
  TARGET:watch=HOW       while it has its turn, the requests of the whole machine are watched by `fusewire top --json` (top), with
                         --split (split), or by `fusewire trace --json` (trace); CPU time of it counts for the daemon

A value with + in it makes several targets: fusewire:channel=dev-fuse+uring,cache=none+auto is four.";

/// What the kernel may cache, as a user thinks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Nothing: every use of a name or attribute asks the daemon.
    None,
    /// For a short time.
    Auto,
    /// For as long as there is memory.
    Always,
}

impl Profile {
    /// Name for `fusewire mount --cache`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Auto => "auto",
            Self::Always => "always",
        }
    }

    fn from_name(name: &str) -> Result<Self> {
        match [Self::None, Self::Auto, Self::Always].into_iter().find(|profile| profile.name() == name) {
            Some(profile) => Ok(profile),
            None => bail!("cache={name} is unknown; it is none, auto or always"),
        }
    }

    /// The same for the passthrough on the crate `fuser`, so that the kernel sends both the same requests. Like fusewire
    /// it answers FLUSH without asking a lower filesystem that has nothing to say there.
    fn fuser_args(self) -> impl Iterator<Item = &'static str> {
        let common = "--posix-acl true --flush ok";
        let own = match self {
            Self::None => "--timeout 0 --direct-io --readdirplus false",
            Self::Auto => "--timeout 1 --auto-invalidate true",
            Self::Always => "--timeout 86400 --negative-timeout 86400 --keep-cache",
        };
        common.split(' ').chain(own.split(' '))
    }
}

/// Where the daemons are and how they are started.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TargetArgs {
    /// What to measure; may be repeated [default: what the preset says]
    #[arg(short = 't', long = "target", value_name = "TARGET", help_heading = "Targets")]
    pub targets: Vec<String>,
    /// Caching profile of targets that do not say cache=... [default: what the preset says, or auto]
    #[arg(long, value_enum, help_heading = "Targets")]
    pub profile: Option<Profile>,
    /// Release binary of fusewire [default: beside this program]
    #[arg(long, value_name = "FILE", help_heading = "Targets")]
    pub fusewire: Option<PathBuf>,
    /// The example `fuser_passthrough` [default: in `examples` beside this program]
    #[arg(long, value_name = "FILE", help_heading = "Targets")]
    pub fuser: Option<PathBuf>,
    /// One more argument for `fusewire mount`, such as --fusewire-arg=--no-acl; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true, help_heading = "Targets")]
    pub fusewire_arg: Vec<String>,
    /// One more argument for `fuser_passthrough`; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true, help_heading = "Targets")]
    pub fuser_arg: Vec<String>,
    /// More peers: TOML, one line each, NAME = { programs = [...], run = "... {src} {mnt}" }
    #[arg(long, value_name = "FILE", help_heading = "Targets")]
    pub peers: Option<PathBuf>,
    /// Directory with programs of peers, looked into before those of FUSEWIRE_BENCH_PEERS_DIR and the PATH; may be repeated
    #[arg(long, value_name = "DIR", help_heading = "Targets")]
    pub peers_dir: Vec<PathBuf>,
}

/// One thing to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Short name, for the tables.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What watches it while it has its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
}

/// What a target is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The source directory itself.
    Directory,
    /// A daemon that mounts something.
    Daemon {
        /// Program and arguments with `{src}` and `{mnt}` still in them.
        command: Vec<String>,
        /// What is seen on the mount.
        shows: Shows,
        /// Whether it must hold a ring of io_uring once it is used.
        #[serde(default)]
        ring: bool,
        /// Whether it is ended by unmounting rather than by SIGINT, to which some answer with a status of failure.
        #[serde(default)]
        ends_by_unmount: bool,
    },
    /// A daemon that serves a virtio-fs device.
    Device {
        /// Program and arguments with `{src}` and `{socket}` still in them.
        command: Vec<String>,
    },
    /// A directory on something that others have mounted.
    Mounted {
        /// The directory.
        dir: PathBuf,
    },
    /// Two pipes and a process that echoes.
    Pipe {
        /// On which CPU it runs.
        cpu: EchoCpu,
    },
}

/// What is seen on a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shows {
    /// The source directory.
    Source,
    /// Files of its own, at first none.
    Own,
    /// Numbered files full of zeros.
    Numbers,
    /// Its root alone.
    Root,
}

/// Where the echoing process of a pipe runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EchoCpu {
    /// Where a client is kept that is kept on one CPU; else anywhere.
    Same,
    /// On every CPU but that one.
    Other,
    /// Anywhere.
    Free,
}

impl Target {
    /// The directory itself.
    pub fn native() -> Self {
        Self { name: "native".into(), kind: Kind::Directory, watch: None }
    }

    /// Program and arguments for these directories, `None` if there is nothing to start.
    pub fn command_for(&self, src: &Path, mnt: &Path) -> Option<Vec<OsString>> {
        match &self.kind {
            Kind::Daemon { command, .. } => {
                Some(command.iter().map(|word| fill(word, &[("{src}", src), ("{mnt}", mnt)])).collect())
            }
            _ => None,
        }
    }

    /// Program and arguments for a device that shares `src` with a guest at each of these sockets, `None` if it is no device. For several,
    /// the option is repeated.
    pub fn command_at(&self, src: &Path, sockets: &[PathBuf]) -> Option<Vec<OsString>> {
        let Kind::Device { command } = &self.kind else { return None };
        let place = command.iter().position(|word| word.contains(SOCKET))?;
        // `--socket-path {socket}` is two words.
        let from = if command[place] == SOCKET { place.saturating_sub(1).max(1) } else { place };
        let fill_all = |words: &[String], socket: &Path| -> Vec<OsString> {
            words.iter().map(|word| fill(word, &[("{src}", src), (SOCKET, socket)])).collect()
        };
        let none = Path::new("");
        let mut words = fill_all(&command[..from], none);
        words.extend(sockets.iter().flat_map(|socket| fill_all(&command[from..=place], socket)));
        words.extend(fill_all(&command[place + 1..], none));
        Some(words)
    }

    /// Whether a process of its own serves it.
    pub fn has_daemon(&self) -> bool {
        matches!(self.kind, Kind::Daemon { .. } | Kind::Pipe { .. } | Kind::Device { .. })
    }

    /// Whether unmounting is how its daemon is ended.
    pub fn ends_by_unmount(&self) -> bool {
        matches!(self.kind, Kind::Daemon { ends_by_unmount: true, .. })
    }

    /// Whether the workload can be done there with so many threads.
    pub fn can_do(&self, workload: &Workload, threads: usize) -> bool {
        match self.kind {
            Kind::Device { .. } => matches!(workload.op, Op::Device(_)),
            _ if matches!(workload.op, Op::Device(_)) => false,
            Kind::Pipe { .. } => workload.op == Op::Ping(Request::Getattr) && threads == 1,
            Kind::Daemon { shows: Shows::Numbers, .. } => matches!(workload.op, Op::Ping(_)),
            Kind::Daemon { shows: Shows::Root, .. } => workload.op == Op::Ping(Request::Getattr),
            _ => true,
        }
    }
}

/// Stands for the path of a device's socket.
pub const SOCKET: &str = "{socket}";

/// A word of a command with what stands for paths replaced by them, and `{cpus}` by the number of CPUs.
fn fill(word: &str, paths: &[(&str, &Path)]) -> OsString {
    if let Some((_, path)) = paths.iter().find(|(name, _)| *name == word) {
        return path.as_os_str().to_owned();
    }
    let cpus = word.replace("{cpus}", &machine::cpus().to_string());
    let filled = paths.iter().fold(cpus, |word, (name, path)| word.replace(name, &path.to_string_lossy()));
    filled.into()
}

/// A target as it is written, one of its alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spec {
    base: String,
    options: Vec<(String, Option<String>)>,
}

impl Spec {
    /// All alternatives that `BASE[:OPTIONS]` stands for.
    fn parse(text: &str) -> Result<Vec<Self>> {
        let (base, list) = text.split_once(':').unwrap_or((text, ""));
        let mut all = vec![Self { base: base.to_owned(), options: Vec::new() }];
        if base == "at" {
            all[0].options.push((list.to_owned(), None));
            return Ok(all);
        }
        for option in list.split(',').filter(|_| !list.is_empty()) {
            let (key, values) = match option.split_once('=') {
                Some((key, values)) => (key, values.split('+').map(|value| Some(value.to_owned())).collect()),
                None => (option, vec![None]),
            };
            ensure!(
                !key.is_empty() && values.iter().all(|value| value.as_deref() != Some("")),
                "target {text}: the option `{option}` lacks a key or a value; write KEY=VALUE"
            );
            let more = |spec: &Self, value: &Option<String>| {
                let mut spec = spec.clone();
                spec.options.push((key.to_owned(), value.clone()));
                spec
            };
            all = all.iter().flat_map(|spec| values.iter().map(move |value| more(spec, value))).collect();
        }
        Ok(all)
    }

    fn name(&self) -> String {
        let options: Vec<_> = self
            .options
            .iter()
            .map(|(key, value)| value.as_ref().map_or_else(|| key.clone(), |value| format!("{key}={value}")))
            .collect();
        if options.is_empty() { self.base.clone() } else { format!("{}:{}", self.base, options.join(",")) }
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.options.iter().rev().find(|(known, _)| known == key)?.1.as_deref()
    }

    /// The options but some as arguments of a command line.
    fn words(&self, but: &[&str]) -> impl Iterator<Item = String> {
        let options = self.options.iter().filter(move |(key, _)| !but.contains(&key.as_str()));
        options.flat_map(|(key, value)| std::iter::once(format!("--{key}")).chain(value.clone()))
    }

    fn profile(&self, default: Profile) -> Result<Profile> {
        self.value("cache").map_or(Ok(default), Profile::from_name)
    }

    fn only_option(&self, known: &str) -> Result<()> {
        match self.options.iter().find(|(key, value)| key != known || value.is_none()) {
            Some((key, _)) => bail!(
                "target {}: the option {key} is unknown; {} takes {known}=... only; use NAME=COMMAND for more",
                self.name(),
                self.base
            ),
            None => Ok(()),
        }
    }
}

impl TargetArgs {
    /// The targets in the order asked for; `default` if none was named, of which those that end in `?` are left out
    /// if they are not on this machine.
    ///
    /// # Errors
    /// If a target is unknown, wrongly written or named twice, or a program is not there.
    pub fn resolve(&self, default: &[String], profile: Profile) -> Result<Vec<Target>> {
        let asked = if self.targets.is_empty() { default } else { &self.targets };
        let mut targets: Vec<Target> = Vec::new();
        for text in asked {
            let found = match text.strip_suffix('?') {
                Some(text) => {
                    let found = self.target(text, profile).and_then(|found| {
                        found.iter().try_for_each(ring_can_be_had)?;
                        Ok(found)
                    });
                    found.unwrap_or_else(|error| {
                        eprintln!("{text} is left out: {error:#}");
                        Vec::new()
                    })
                }
                None => self.target(text, profile)?,
            };
            for target in found {
                if targets.iter().any(|other| other.name == target.name) {
                    bail!(
                        "target {} is named twice; give one of them another name: NAME=TARGET",
                        target.name
                    );
                }
                targets.push(target);
            }
        }
        ensure!(
            !targets.is_empty(),
            "there is nothing to measure: none of {} is on this machine",
            asked.join(", ")
        );
        Ok(targets)
    }

    fn target(&self, text: &str, profile: Profile) -> Result<Vec<Target>> {
        if ["{mnt}", "{src}", SOCKET].iter().any(|place| text.contains(place)) {
            return Ok(vec![custom(text)?]);
        }
        let equals = text.find('=').unwrap_or(text.len());
        let (alias, rest) = match text.find(':') {
            Some(colon) if colon < equals => (None, text),
            _ => text.split_once('=').map_or((None, text), |(name, rest)| (Some(name), rest)),
        };
        let specs = Spec::parse(rest)?;
        if let Some(name) = alias {
            check_name(name)?;
            ensure!(
                specs.len() == 1,
                "target {text}: a name is for one target, and this stands for {}",
                specs.len()
            );
        }
        let make = |spec: &Spec| -> Result<Target> {
            let name = alias.map_or_else(|| spec.name(), str::to_owned);
            let (spec, watch) = self.watched(spec)?;
            Ok(Target { name, kind: self.kind(&spec, profile)?, watch })
        };
        specs.iter().map(make).collect()
    }

    /// What watches the target, and the target without that.
    fn watched(&self, spec: &Spec) -> Result<(Spec, Option<Watch>)> {
        let is_watch = |(key, _): &(String, Option<String>)| key == "watch";
        if spec.base == "at" || !spec.options.iter().any(is_watch) {
            return Ok((spec.clone(), None));
        }
        let how = spec.value("watch").unwrap_or_default();
        let how = How::from_name(how).with_context(|| format!("target {}", spec.name()))?;
        let mut bare = spec.clone();
        bare.options.retain(|option| !is_watch(option));
        let program = program(self.fusewire.as_deref(), "fusewire", "--fusewire")?;
        Ok((bare, Some(Watch { how, program })))
    }

    fn kind(&self, spec: &Spec, profile: Profile) -> Result<Kind> {
        match spec.base.as_str() {
            "native" if spec.options.is_empty() => Ok(Kind::Directory),
            "native" => bail!("target {}: native takes no options", spec.name()),
            "fusewire" | "mem" | "null" => self.fusewire(spec, profile),
            "vhost" => self.vhost(spec, profile),
            "fuser" => {
                let mut command =
                    vec![program(self.fuser.as_deref(), "examples/fuser_passthrough", "--fuser")?];
                command.extend(["{src}", "{mnt}"].map(String::from));
                command.extend(spec.profile(profile)?.fuser_args().map(String::from));
                command.extend(spec.words(&["cache"]));
                command.extend(self.fuser_arg.iter().cloned());
                Ok(Kind::Daemon { command, shows: Shows::Source, ring: false, ends_by_unmount: false })
            }
            "bare" if spec.options.is_empty() => {
                let command = vec![program(None, "examples/bare_ring", "-t bare=COMMAND")?, "{mnt}".into()];
                Ok(Kind::Daemon { command, shows: Shows::Root, ring: true, ends_by_unmount: true })
            }
            "bare" => bail!("target {}: bare takes no options", spec.name()),
            "pipe" => {
                spec.only_option("cpu")?;
                let cpu = match spec.value("cpu") {
                    None | Some("same") => EchoCpu::Same,
                    Some("other") => EchoCpu::Other,
                    Some("free") => EchoCpu::Free,
                    Some(other) => {
                        bail!("target {}: cpu={other} is unknown; it is same, other or free", spec.name())
                    }
                };
                Ok(Kind::Pipe { cpu })
            }
            "at" => already_mounted(Path::new(&spec.options[0].0)),
            _ => self.peer(spec, profile),
        }
    }

    fn fusewire(&self, spec: &Spec, profile: Profile) -> Result<Kind> {
        let fs = match spec.base.as_str() {
            "fusewire" => spec.value("fs").unwrap_or("passthrough"),
            base => base,
        };
        let (src, shows) = match fs {
            "mem" => ("none", Shows::Own),
            "null" => ("none", Shows::Numbers),
            _ => ("{src}", Shows::Source),
        };
        let program = program(self.fusewire.as_deref(), "fusewire", "--fusewire")?;
        let cache = spec.value("cache").unwrap_or(profile.name());
        // It may know more than peers can be told to do.
        if let Err(error) = Profile::from_name(cache)
            && !takes(&program, "--cache", cache)
        {
            return Err(error.context(format!("{program} mount does not take --cache {cache} either")));
        }
        if spec.value("kernel-answers") == Some("always") {
            answers_in_kernel(&program)?;
        }
        let mut command = vec![program];
        command.extend(["mount", src, "{mnt}", "--cache", cache].map(String::from));
        if fs != "passthrough" {
            command.extend(["--fs".into(), fs.to_owned()]);
        }
        command.extend(spec.words(&["cache", "fs"]));
        command.extend(self.fusewire_arg.iter().cloned());
        Ok(Kind::Daemon { command, shows, ring: false, ends_by_unmount: false })
    }

    fn vhost(&self, spec: &Spec, profile: Profile) -> Result<Kind> {
        ensure!(
            ["sandbox", "config", "socket-path", "shared-dir"].iter().all(|key| spec.value(key).is_none()),
            "target {}: sandbox, config, socket-path and shared-dir are the bench's; use NAME=COMMAND for others",
            spec.name()
        );
        let cache = match (spec.value("cache"), profile) {
            (Some(cache), _) => cache,
            (None, Profile::None) => "never",
            (None, other) => other.name(),
        };
        let program = program(self.fusewire.as_deref(), "fusewire", "--fusewire")?;
        let words = [
            "vhost",
            "--sandbox",
            "none",
            "--socket-path",
            SOCKET,
            "--shared-dir",
            "{src}",
            "--cache",
            cache,
        ];
        let mut command = vec![program];
        command.extend(words.map(String::from));
        command.extend(spec.words(&["cache"]));
        Ok(Kind::Device { command })
    }

    fn peer(&self, spec: &Spec, profile: Profile) -> Result<Kind> {
        let peers = self.known_peers()?;
        let Some(peer) = peers.get(&spec.base) else {
            let known: Vec<_> = peers.names().map(|(name, _)| name.to_owned()).collect();
            bail!(
                "target {} is unknown; use native, fusewire, mem, null, vhost, fuser, pipe, at:DIR, {} or NAME=COMMAND",
                spec.name(),
                known.join(", ")
            );
        };
        if !peer.options {
            spec.only_option("cache")?;
        }
        match &peer.mounted {
            Some(fstype) => match mounts::find_type(fstype) {
                Some(mount) => already_mounted(&mount.point),
                None => bail!("{}: no filesystem of type {fstype} is mounted", spec.base),
            },
            None => {
                let mut command = peers.command(&spec.base, peer, spec.profile(profile)?)?;
                command.extend(spec.words(&["cache"]));
                if command.iter().any(|word| word.contains(SOCKET)) {
                    return Ok(Kind::Device { command });
                }
                Ok(Kind::Daemon { command, shows: Shows::Source, ring: peer.ring, ends_by_unmount: true })
            }
        }
    }

    /// Peers that may be on this machine.
    ///
    /// # Errors
    /// If the file of peers cannot be read.
    pub fn known_peers(&self) -> Result<Peers> {
        Peers::new(self.peers.as_deref(), &self.peers_dir)
    }
}

/// Whether `fusewire mount` knows this value of an option: it is looked at before help is given.
fn takes(program: &str, option: &str, value: &str) -> bool {
    let mut command = Command::new(program);
    command.args(["mount", option, value, "--help"]).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Whether this kernel can be had to give answers by itself.
fn answers_in_kernel(program: &str) -> Result<()> {
    try_out(program, ["--kernel-answers", "always"])
}

/// Whether a mount that is to be served over io_uring, and over nothing else, can be so here.
fn ring_can_be_had(target: &Target) -> Result<()> {
    const RING: [&str; 2] = ["--channel", "uring"];
    match &target.kind {
        Kind::Daemon { command, .. } if command.windows(2).any(|words| words == RING) => {
            try_out(&command[0], RING)
        }
        _ => Ok(()),
    }
}

/// Whether a mount with this option can be had, which `fusewire mount` finds out by trying.
fn try_out(program: &str, option: [&str; 2]) -> Result<()> {
    let dir = tempfile::tempdir().context("cannot make a directory to try it on")?;
    let mut command = Command::new(program);
    command.args(["mount", "--dry-run"]).args(option).args(["--fs", "null", "none"]).arg(dir.path());
    let tried = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {program}"))?;
    let said = String::from_utf8_lossy(&tried.stderr);
    let refused = || format!("{} is refused", option.join(" "));
    ensure!(tried.status.success(), "{}", said.lines().next().map_or_else(refused, str::to_owned));
    Ok(())
}

fn custom(text: &str) -> Result<Target> {
    let Some((name, command)) = text.split_once('=') else {
        bail!("target {text} has no name; write NAME=COMMAND");
    };
    let command_words: Vec<String> = command.split_whitespace().map(String::from).collect();
    ensure!(!command_words.is_empty(), "target {text} lacks a command; write NAME=COMMAND");
    check_name(name)?;
    if command.contains(SOCKET) {
        ensure!(
            command.contains("{src}") && !command.contains("{mnt}"),
            "the command of target {name} is for a device; put {{src}} into it, and no {{mnt}}"
        );
        return Ok(Target { name: name.into(), kind: Kind::Device { command: command_words }, watch: None });
    }
    ensure!(
        command.contains("{mnt}"),
        "the command of target {name} does not say where to mount; put {{mnt}} (and {{src}}) into it"
    );
    let shows = if command.contains("{src}") { Shows::Source } else { Shows::Own };
    Ok(Target {
        name: name.into(),
        kind: Kind::Daemon { command: command_words, shows, ring: false, ends_by_unmount: false },
        watch: None,
    })
}

fn check_name(name: &str) -> Result<()> {
    ensure!(
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
        "target name `{name}` must have letters, digits, '-', '_' and '.'"
    );
    Ok(())
}

fn already_mounted(dir: &Path) -> Result<Kind> {
    let dir = dir
        .canonicalize()
        .with_context(|| format!("target at:{}: there is no such directory", dir.display()))?;
    match mounts::holding(&dir) {
        Some(mount) if mount.can_drop_names() => Ok(Kind::Mounted { dir }),
        Some(mount) => bail!(
            "target at:{}: this lies on {}, whose caches cannot be emptied; it must be FUSE or virtiofs",
            dir.display(),
            mount.fstype
        ),
        None => bail!("target at:{}: it is not in the mount table", dir.display()),
    }
}

/// The program at the given place, or beside this one.
fn program(given: Option<&Path>, beside: &str, option: &str) -> Result<String> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => env::current_exe()
            .context("cannot find this program's own file")?
            .parent()
            .map(|dir| dir.join(beside))
            .unwrap_or_default(),
    };
    let path = path.canonicalize().with_context(|| {
        format!(
            "there is no program at {}; build it (cargo build --release --workspace --examples), or say where \
             it is with {option}",
            path.display()
        )
    })?;
    path.into_os_string().into_string().map_err(|path| anyhow::anyhow!("path {path:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(targets: &[&str]) -> TargetArgs {
        TargetArgs {
            targets: targets.iter().map(|text| (*text).to_owned()).collect(),
            fusewire: Some("/bin/sh".into()),
            fuser: Some("/bin/sh".into()),
            fusewire_arg: vec!["--extra".into()],
            ..TargetArgs::default()
        }
    }

    fn resolve(targets: &[&str]) -> Result<Vec<Target>> {
        args(targets).resolve(&[], Profile::None)
    }

    fn filled(target: &Target) -> Option<Vec<String>> {
        let words = target.command_for(Path::new("/s"), Path::new("/m"));
        words.map(|words| words.iter().map(|word| word.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn commands_get_their_directories() {
        let targets = resolve(&["native", "fusewire", "x=peer --from={src} {mnt}"]).unwrap();
        assert_eq!(filled(&targets[0]), None);
        assert_eq!(filled(&targets[1]).unwrap()[1..], ["mount", "/s", "/m", "--cache", "none", "--extra"]);
        assert_eq!(filled(&targets[2]).unwrap(), ["peer", "--from=/s", "/m"]);
    }

    #[test]
    fn options_become_arguments_and_values_alternatives() {
        let targets = resolve(&["fusewire:channel=dev-fuse+uring,cache=none+auto,read-only"]).unwrap();
        let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "fusewire:channel=dev-fuse,cache=none,read-only",
                "fusewire:channel=dev-fuse,cache=auto,read-only",
                "fusewire:channel=uring,cache=none,read-only",
                "fusewire:channel=uring,cache=auto,read-only"
            ]
        );
        let words = ["mount", "/s", "/m", "--cache", "auto", "--channel", "uring", "--read-only", "--extra"];
        assert_eq!(filled(&targets[3]).unwrap()[1..], words);
    }

    #[test]
    fn devices_get_their_sockets() {
        let targets = resolve(&["vhost:queues={cpus}", "own=daemon -d {src} --at={socket} -x"]).unwrap();
        let words = |target: &Target, sockets: &[&str]| -> Vec<String> {
            let sockets: Vec<_> = sockets.iter().map(PathBuf::from).collect();
            let words = target.command_at(Path::new("/s"), &sockets).unwrap();
            words.iter().map(|word| word.to_string_lossy().into_owned()).collect()
        };
        let cpus = machine::cpus().to_string();
        let tail = ["--shared-dir", "/s", "--cache", "never", "--queues", &cpus];
        let one = words(&targets[0], &["/1"]);
        assert_eq!(one[1..], [&["vhost", "--sandbox", "none", "--socket-path", "/1"][..], &tail].concat());
        let two = words(&targets[0], &["/1", "/2"]);
        let sockets = ["vhost", "--sandbox", "none", "--socket-path", "/1", "--socket-path", "/2"];
        assert_eq!(two[1..], [&sockets[..], &tail].concat());
        assert_eq!(words(&targets[1], &["/1"]), ["daemon", "-d", "/s", "--at=/1", "-x"]);
        assert!(targets.iter().all(|target| target.has_daemon()));
        let [device, mount] = ["vhost", "passthrough"].map(|name| crate::suite::Suite::preset(name).unwrap());
        let native = Target::native();
        for (target, can, cannot) in [(&targets[0], &device, &mount), (&native, &mount, &device)] {
            assert!(can.workloads.iter().all(|workload| target.can_do(workload, 1)));
            assert!(!cannot.workloads.iter().any(|workload| target.can_do(workload, 1)));
        }
    }

    #[test]
    fn null_mem_and_commands_without_source_have_files_of_their_own() {
        let targets =
            resolve(&["null:threads=1", "short=fusewire:fs=mem", "own=daemon {mnt}", "pipe:cpu=other"])
                .unwrap();
        let shows = |target: &Target| match target.kind {
            Kind::Daemon { shows, .. } => Some(shows),
            _ => None,
        };
        let all: Vec<_> = targets.iter().map(|target| (target.name.as_str(), shows(target))).collect();
        assert_eq!(
            all,
            [
                ("null:threads=1", Some(Shows::Numbers)),
                ("short", Some(Shows::Own)),
                ("own", Some(Shows::Own)),
                ("pipe:cpu=other", None)
            ]
        );
        let words = filled(&targets[0]).unwrap();
        assert_eq!(
            words[1..],
            ["mount", "none", "/m", "--cache", "none", "--fs", "null", "--threads", "1", "--extra"]
        );
        assert_eq!(targets[3].kind, Kind::Pipe { cpu: EchoCpu::Other });
    }

    #[test]
    fn a_target_can_be_watched() {
        let targets =
            resolve(&["null:watch=top+trace,channel=uring", "seen=pipe:watch=split", "pipe"]).unwrap();
        let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
        assert_eq!(names[..2], ["null:watch=top,channel=uring", "null:watch=trace,channel=uring"]);
        let how: Vec<_> = targets.iter().map(|target| target.watch.as_ref().map(|watch| watch.how)).collect();
        assert_eq!(how, [Some(How::Top), Some(How::Trace), Some(How::Split), None]);
        assert!(filled(&targets[0]).unwrap().join(" ").ends_with("--fs null --channel uring --extra"));
        assert_eq!(targets[2].kind, Kind::Pipe { cpu: EchoCpu::Same });
    }

    #[test]
    fn fuser_takes_a_profile_of_its_own() {
        let targets = resolve(&["fuser:cache=always,threads=1"]).unwrap();
        let words = filled(&targets[0]).unwrap().join(" ");
        assert!(words.contains("--timeout 86400") && words.ends_with("--threads 1"), "{words}");
    }

    #[test]
    fn targets_that_are_not_there_are_left_out_if_the_preset_says_so() {
        let default = ["native".to_owned(), "fuser?".to_owned()];
        let mut args = args(&[]);
        assert_eq!(args.resolve(&default, Profile::Auto).unwrap().len(), 2);
        args.fuser = Some("/no/such".into());
        assert_eq!(args.resolve(&default, Profile::Auto).unwrap().len(), 1);
        assert!(
            args.resolve(&default[1..], Profile::Auto)
                .unwrap_err()
                .to_string()
                .contains("nothing to measure")
        );
        // As it answers where there is no ring; not asked by those who cannot do without one.
        args.fusewire = Some("/bin/false".into());
        let optional = ["native", "dev-fuse=null:channel=dev-fuse", "ring=null:channel=uring?"];
        let names = |default: &[&str]| -> Vec<String> {
            let default: Vec<_> = default.iter().map(|text| (*text).to_owned()).collect();
            let targets = args.resolve(&default, Profile::Auto).unwrap();
            targets.into_iter().map(|target| target.name).collect()
        };
        assert_eq!(names(&optional), ["native", "dev-fuse"]);
        assert_eq!(names(&["ring=null:channel=uring"]), ["ring"]);
    }

    #[test]
    fn bad_targets_say_what_to_do() {
        for (text, advice) in [
            ("nativ", "use native"),
            ("native:x", "takes no options"),
            ("=x {mnt}", "letters"),
            ("a=b", "unknown"),
            ("a=b {src}", "{mnt}"),
            ("../a=b {mnt}", "letters"),
            ("fusewire:cache=some", "none, auto or always"),
            ("fusewire:cache=", "KEY=VALUE"),
            ("x=fusewire:cache=none+auto", "stands for 2"),
            ("pipe:core=1", "pipe takes cpu"),
            ("vhost:sandbox=chroot", "are the bench's"),
            ("own=daemon {socket}", "put {src} into it"),
            ("pipe:cpu=1", "same, other or free"),
            ("null:watch", "top, split or trace"),
            ("at:/no/such", "no such directory"),
            ("at:/proc", "must be FUSE or virtiofs"),
        ] {
            let error = format!("{:#}", resolve(&[text]).unwrap_err());
            assert!(error.contains(advice), "{text}: {error}");
        }
        assert!(resolve(&["fuser", "fuser"]).unwrap_err().to_string().contains("twice"));
        let mut missing = args(&["fuser"]);
        missing.fuser = Some("/no/such".into());
        assert!(missing.resolve(&[], Profile::Auto).unwrap_err().to_string().contains("--fuser"));
    }
}
