//! What to mount and how, from options in two forms: long ones, and words in `-o`.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use fusewire::server;

use crate::args::{
    self, BuffersKind, CacheKind, FileHandles, Forwarding, FsKind, KernelAnswers, LocksKind, LogArgs,
    MountArgs, OpensKind,
};
use crate::failure::{Failure, Outcome};
use crate::stats::ShowArgs;

/// What to mount and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What to mount.
    pub fs: FsKind,
    /// The directory to show; for filesystems without one, the word that stands in its place.
    pub source: PathBuf,
    /// Where.
    pub mountpoint: PathBuf,
    /// How to mount and serve.
    pub server: server::Options,
    /// What the kernel may remember; none leaves it to what can be had.
    pub cache: Option<CacheKind>,
    /// Timeouts that differ from those of `cache`.
    pub timeouts: Timeouts,
    /// Whether files are remembered by file handle.
    pub file_handles: FileHandles,
    /// Where data is on its way.
    pub buffers: BuffersKind,
    /// Whether the kernel reads and writes files by itself.
    pub passthrough: Forwarding,
    /// Whether opening files is told by requests.
    pub opens: OpensKind,
    /// Who sees locks.
    pub locks: LocksKind,
    /// The file with rules on who may do what where.
    pub policy: Option<PathBuf>,
    /// Whether the kernel gives answers again by itself.
    pub kernel_answers: KernelAnswers,
    /// Room for data in a filesystem in memory, bytes.
    pub size: Option<u64>,
    /// How long the null filesystem takes for data.
    pub delay: Option<Duration>,
    /// What to log.
    pub log: LogArgs,
    /// What is told of the mount.
    pub show: ShowArgs,
    /// Whether another FUSE mount is on top at the mount point already.
    pub hides: bool,
    /// Words in `-o` that nobody knows, allowed by `--sloppy`.
    pub ignored: Vec<String>,
}

/// For how long the kernel may trust what it was told; none leaves it to the cache profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Names.
    pub entry: Option<Duration>,
    /// Attributes.
    pub attr: Option<Duration>,
    /// Names that do not exist.
    pub negative: Option<Duration>,
}

/// The words in `-o` that are fusewire's own.
const WORDS: [&str; 26] = [
    "fs=",
    "cache=",
    "entry_timeout=",
    "attr_timeout=",
    "negative_timeout=",
    "file_handles=",
    "passthrough=",
    "opens=",
    "locks=",
    "channel=",
    "memory=",
    "buffers=",
    "threads=",
    "poll=",
    "placement=",
    "max_write=",
    "size=",
    "delay=",
    "log=",
    "log_file=",
    "policy=",
    "kernel_answers=",
    "metrics=",
    "stats",
    "private",
    // The same: of those for a helper, mount(8) takes `private` for itself and makes the mount's propagation of it.
    "noallow_other",
];

impl Plan {
    /// Puts the two forms together. Long options win.
    ///
    /// # Errors
    /// If a word in `-o` is not known or its value is wrong, or options contradict each other.
    pub fn new(args: &MountArgs, log: &LogArgs) -> Outcome<Self> {
        let mut plan = Self {
            fs: FsKind::default(),
            source: args.source.clone(),
            mountpoint: args.mountpoint.clone(),
            server: server::Options { placement: server::Placement::Auto, ..Default::default() },
            cache: None,
            timeouts: Timeouts::default(),
            file_handles: FileHandles::default(),
            buffers: BuffersKind::default(),
            passthrough: Forwarding::default(),
            opens: OpensKind::default(),
            locks: LocksKind::default(),
            policy: None,
            kernel_answers: KernelAnswers::default(),
            size: None,
            delay: None,
            log: LogArgs { log: None, log_file: None, ..log.clone() },
            show: ShowArgs::default(),
            hides: false,
            ignored: Vec::new(),
        };
        let mut private = false;
        for list in &args.options {
            let unknown = plan
                .server
                .mount
                .parse(list)
                .map_err(|error| Failure::usage(format!("-o {list}: {error}")).or_try(SEE_HELP))?;
            for word in unknown {
                match plan.own_word(&word, &mut private)? {
                    true => {}
                    false if args.run.sloppy => plan.ignored.push(word),
                    false => return Err(unknown_word(&word)),
                }
            }
        }
        plan.long_options(args, log);
        plan.access(args.access.private || private, args.access.allow_other)?;
        plan.consistent()?;
        plan.consistent_channel()?;
        Ok(plan)
    }

    /// Takes a word of `-o` that is fusewire's own. Tells whether it is one.
    fn own_word(&mut self, word: &str, private: &mut bool) -> Outcome<bool> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let wrong = |why: String| Failure::usage(format!("-o {word}: {why}")).or_try(SEE_HELP);
        if !WORDS.iter().any(|known| known.trim_end_matches('=') == key) {
            return Ok(false);
        }
        let is_alone = matches!(key, "private" | "noallow_other" | "stats");
        if value.is_empty() != is_alone {
            let why =
                if is_alone { "it takes no value".into() } else { format!("a value is needed: {key}=...") };
            return Err(wrong(why));
        }
        match key {
            "fs" => self.fs = choice(value).map_err(wrong)?,
            "cache" => self.cache = Some(choice(value).map_err(wrong)?),
            "file_handles" => self.file_handles = choice(value).map_err(wrong)?,
            "passthrough" => self.passthrough = choice(value).map_err(wrong)?,
            "opens" => self.opens = choice(value).map_err(wrong)?,
            "locks" => self.locks = choice(value).map_err(wrong)?,
            "entry_timeout" => self.timeouts.entry = Some(args::seconds(value).map_err(wrong)?),
            "attr_timeout" => self.timeouts.attr = Some(args::seconds(value).map_err(wrong)?),
            "negative_timeout" => self.timeouts.negative = Some(args::seconds(value).map_err(wrong)?),
            "channel" => self.server.channel = choice::<args::ChannelKind>(value).map_err(wrong)?.into(),
            "memory" => self.server.memory = Some(args::memory(value).map_err(wrong)?),
            "buffers" => self.buffers = choice(value).map_err(wrong)?,
            "threads" => self.server.threads = Some(args::threads(value).map_err(wrong)?),
            "poll" => {
                self.server.poll =
                    value.parse().map_err(|error: server::PollError| wrong(error.to_string()))?
            }
            "placement" => {
                self.server.placement =
                    value.parse().map_err(|error: server::PlacementError| wrong(error.to_string()))?
            }
            "max_write" => self.server.max_write = Some(args::max_write(value).map_err(wrong)?),
            "size" => self.size = Some(args::bytes(value).map_err(wrong)?),
            "delay" => self.delay = Some(args::delay(value).map_err(wrong)?),
            "log" => self.log.log = Some(value.to_owned()),
            "log_file" => self.log.log_file = Some(value.into()),
            "kernel_answers" => self.kernel_answers = choice(value).map_err(wrong)?,
            "policy" => self.policy = Some(value.into()),
            "metrics" | "stats" => self.show.word(key, value).map_err(wrong)?,
            _ => *private = true,
        }
        Ok(true)
    }

    fn long_options(&mut self, args: &MountArgs, log: &LogArgs) {
        fn set<T: Clone>(place: &mut T, given: &Option<T>) {
            if let Some(value) = given {
                *place = value.clone();
            }
        }
        fn set_some<T: Clone>(place: &mut Option<T>, given: &Option<T>) {
            if given.is_some() {
                place.clone_from(given);
            }
        }
        set(&mut self.fs, &args.fs);
        set_some(&mut self.cache, &args.cache.cache);
        set(&mut self.file_handles, &args.run.file_handles);
        set(&mut self.passthrough, &args.run.passthrough);
        set(&mut self.opens, &args.run.opens);
        set(&mut self.locks, &args.run.locks);
        set_some(&mut self.timeouts.entry, &args.cache.entry_timeout);
        set_some(&mut self.timeouts.attr, &args.cache.attr_timeout);
        set_some(&mut self.timeouts.negative, &args.cache.negative_timeout);
        set(&mut self.server.channel, &args.run.channel.map(Into::into));
        set_some(&mut self.server.memory, &args.run.memory);
        set(&mut self.buffers, &args.run.buffers);
        self.server.buffers = self.buffers.into();
        set_some(&mut self.server.threads, &args.run.threads);
        set(&mut self.server.poll, &args.run.poll);
        set(&mut self.server.placement, &args.run.placement);
        set_some(&mut self.server.max_write, &args.run.max_write);
        set_some(&mut self.policy, &args.access.policy);
        set(&mut self.kernel_answers, &args.access.kernel_answers);
        set_some(&mut self.size, &args.size);
        set_some(&mut self.delay, &args.delay);
        set_some(&mut self.log.log, &log.log);
        set_some(&mut self.log.log_file, &log.log_file);
        set_some(&mut self.show.metrics, &args.show.metrics);
        self.show.stats |= args.show.stats;
        self.server.timed = self.show.is_timed();
        self.server.mount.read_only |= args.read_only;
        self.server.mount.auto_unmount |= args.run.auto_unmount;
    }

    /// Decides who may use the mount. Whoever opens it to others wants the kernel to check permissions: otherwise they
    /// would have the rights of the daemon.
    fn access(&mut self, private: bool, allow_other: bool) -> Outcome<()> {
        let mount = &mut self.server.mount;
        if private && (allow_other || mount.allow_other) {
            return Err(Failure::usage("private (noallow_other) and allow_other exclude each other")
                .or_try("one of them"));
        }
        mount.allow_other |= allow_other || (!private && rustix::process::geteuid().is_root());
        // Rules on the way to a file are kept because the kernel checks permissions there.
        mount.default_permissions |= mount.allow_other || self.policy.is_some();
        Ok(())
    }

    fn consistent(&self) -> Outcome<()> {
        let is_none = self.source.as_os_str() == "none";
        match self.fs {
            FsKind::Passthrough if is_none => Err(Failure::usage(
                "`none` is not a directory to show; it stands for the source of --fs mem and --fs null",
            )
            .or_try("fusewire mount --fs mem none MNT")
            .or_try("./none, if a directory has this name")),
            FsKind::Mem | FsKind::Null if !is_none => Err(Failure::usage(format!(
                "--fs {} has no source directory, so {} would not be shown",
                self.fs,
                self.source.display()
            ))
            .or_try(format!(
                "fusewire mount --fs {} none {}",
                self.fs,
                self.mountpoint.display()
            ))),
            FsKind::Passthrough | FsKind::Null if self.size.is_some() => {
                Err(Failure::usage(format!("size belongs to --fs mem, and this is {}", self.fs))
                    .or_try("the same without it, or fusewire mount --fs mem --size BYTES none MNT"))
            }
            FsKind::Passthrough | FsKind::Mem if self.delay.is_some() => {
                Err(Failure::usage(format!("delay belongs to --fs null, and this is {}", self.fs))
                    .or_try("the same without it, or fusewire mount --fs null --delay TIME none MNT"))
            }
            FsKind::Mem | FsKind::Null => self.consistent_without_directory(),
            FsKind::Passthrough if self.opens == OpensKind::Stateless => self.consistent_stateless(),
            _ => Ok(()),
        }
    }
}

impl Plan {
    /// What opens without requests exclude.
    fn consistent_stateless(&self) -> Outcome<()> {
        let missing = match () {
            () if !matches!(self.cache, Some(CacheKind::Always | CacheKind::Coherent)) => {
                "--cache always, or coherent"
            }
            () if self.locks != LocksKind::Mount => "--locks mount",
            () if self.passthrough == Forwarding::Always => "--passthrough off",
            () if self.file_handles == FileHandles::Never => "--file-handles auto or always",
            () if self.policy.is_some() => "no --policy",
            () => return Ok(()),
        };
        let why = "--opens stateless: nobody tells when a file is opened or closed, so what is cached cannot be checked then, \
                   locks below cannot end then, the kernel reads and writes no file by itself, and files are found by their handles";
        Err(Failure::usage(why).or_try(format!("the same with {missing}")).or_try("--opens auto"))
    }

    /// What belongs to the ring.
    fn consistent_channel(&self) -> Outcome<()> {
        let of_ring =
            [("memory", self.server.memory.is_some()), ("buffers", self.buffers != BuffersKind::default())];
        match of_ring.iter().find(|(_, given)| *given && self.server.channel == server::Channel::DevFuse) {
            Some((option, _)) => {
                let what =
                    format!("{option} is about requests over io_uring, and --channel dev-fuse takes none");
                Err(Failure::usage(what).or_try("--channel uring, or auto").or_try("the same without it"))
            }
            None => Ok(()),
        }
    }

    /// Options that would have no effect are mistakes.
    fn consistent_without_directory(&self) -> Outcome<()> {
        let idle = [
            ("file_handles", self.file_handles != FileHandles::default()),
            ("negative_timeout", self.timeouts.negative.is_some()),
            ("opens", self.opens != OpensKind::default()),
            ("locks", self.locks != LocksKind::default()),
            ("passthrough", self.passthrough != Forwarding::default()),
            ("buffers=zero-copy", self.buffers == BuffersKind::ZeroCopy),
        ];
        match idle.iter().find(|(_, given)| *given) {
            Some((option, _)) => {
                let what = format!("{option} belongs to --fs passthrough, and this is {}", self.fs);
                Err(Failure::usage(what).or_try("the same without it"))
            }
            None => Ok(()),
        }
    }
}

/// Where every option, and the values that it takes, is told of.
const SEE_HELP: &str = "fusewire mount --help, which tells what each option takes";

fn choice<T: ValueEnum>(value: &str) -> Result<T, String> {
    T::from_str(value, false).map_err(|_| {
        let names: Vec<_> = T::value_variants()
            .iter()
            .filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
            .collect();
        format!("the value must be one of {}", names.join(", "))
    })
}

fn unknown_word(word: &str) -> Failure {
    Failure::usage(format!("-o {word}: this mount option is not known")).or_try(format!(
        "fusewire's own: {}; and those of mount(8), see fusewire mount --help",
        WORDS.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn plan(words: &[&str]) -> Outcome<Plan> {
        let line = ["fusewire", "mount"].iter().chain(words);
        let cli = Cli::try_parse_from(line).expect("parses");
        let Command::Mount(args) = cli.command else { panic!("not mount") };
        Plan::new(&args, &cli.log)
    }

    #[test]
    fn opens_without_requests_take_what_makes_them_right() {
        let stateless = ["--opens=stateless", "/a", "/b"];
        let refused = |more: &[&str]| refusal(&[more, &stateless].concat());
        assert!(refused(&[]).contains("--cache always"));
        assert!(refused(&["--cache=always"]).contains("--locks mount"));
        let all = ["--cache=always", "--locks=mount"];
        assert!(refused(&[&all[..], &["--passthrough=always"]].concat()).contains("--passthrough off"));
        assert!(refused(&[&all[..], &["--policy=/rules"]].concat()).contains("no --policy"));
        let answers = ["--kernel-answers=always"];
        let plan = plan(&[&all[..], &answers, &stateless].concat()).expect("plan");
        assert_eq!((plan.opens, plan.locks), (OpensKind::Stateless, LocksKind::Mount));
        assert!(refusal(&["--fs=mem", "--locks=mount", "none", "/b"]).contains("locks belongs to"));
    }

    fn refusal(words: &[&str]) -> String {
        let failure = plan(words).expect_err("must be refused");
        assert_eq!(failure.kind(), crate::failure::Kind::Usage);
        failure.to_string()
    }

    #[test]
    fn words_mean_what_long_options_mean() {
        let words = "cache=none,entry_timeout=2,attr_timeout=0.5,negative_timeout=forever,file_handles=never,channel=uring,memory=8M,buffers=pinned,threads=3,poll=fixed:20,placement=off,\
                     max_write=64K,policy=/tmp/p,kernel_answers=off,log=debug,log_file=/tmp/l,metrics=9100,stats,ro,auto_unmount,defaults,_netdev,x-systemd.automount";
        let short = plan(&["-o", words, "/a", "/b"]).expect("plan");
        let long = plan(&[
            "--cache=none",
            "--entry-timeout=2",
            "--attr-timeout=0.5",
            "--negative-timeout=forever",
            "--file-handles=never",
            "--channel=uring",
            "--memory=8M",
            "--buffers=pinned",
            "--threads=3",
            "--poll=fixed:20",
            "--placement=off",
            "--max-write=64K",
            "--policy=/tmp/p",
            "--kernel-answers=off",
            "--log=debug",
            "--log-file=/tmp/l",
            "--metrics=127.0.0.1:9100",
            "--stats",
            "--read-only",
            "--auto-unmount",
            "/a",
            "/b",
        ])
        .expect("plan");
        assert_eq!(format!("{short:?}"), format!("{long:?}"));
        assert_eq!(short.timeouts.attr, Some(Duration::from_millis(500)));
        assert!(short.server.mount.read_only && short.server.mount.auto_unmount);
    }

    #[test]
    fn long_options_win() {
        let plan = plan(&["-o", "cache=always,threads=3", "--cache", "none", "/a", "/b"]).expect("plan");
        assert_eq!((plan.cache, plan.server.threads), (Some(CacheKind::None), Some(3)));
    }

    #[test]
    fn mistakes_are_named() {
        let refused = |list: &str| refusal(&["-o", list, "/a", "/b"]);
        assert!(
            refused("ro,cahce=none").contains("`cahce=none`")
                || refused("ro,cahce=none").contains("-o cahce=none")
        );
        assert!(refused("cache=some").contains("none, auto, coherent, always"));
        assert!(refused("threads").contains("threads=..."));
        assert!(refused("poll=on").contains("off, auto, or fixed:US"));
        assert!(refused("placement=on").contains("auto or off"));
        assert!(refused("poll=fixed:0").contains("from 1 to 1000"));
        assert!(refused("private=1").contains("no value") && refused("stats=1").contains("no value"));
        assert!(refused("metrics=here").contains("such as 9100"));
        assert!(refused("max_read=x").contains("max_read=x"));
        assert!(refused("private,allow_other").contains("exclude"));
        assert!(refused("noallow_other,allow_other").contains("exclude"));
        assert!(refused("noallow_other=1").contains("no value"));
        assert!(refused("cahce=none").contains("noallow_other"));
        assert!(refusal(&["none", "/b"]).contains("--fs mem none MNT"));
        assert!(refusal(&["--fs", "mem", "/a", "/b"]).contains("--fs mem none /b"));
        assert!(refusal(&["--fs", "null", "-o", "size=1G", "none", "/b"]).contains("size"));
        assert!(refusal(&["--delay", "2ms", "/a", "/b"]).contains("--fs null"));
        assert!(refusal(&["--fs", "null", "-o", "delay=2", "none", "/b"]).contains("500us, 2ms or 1s"));
        assert!(refusal(&["--fs", "null", "-o", "delay=11s", "none", "/b"]).contains("at most 10 s"));
        for option in ["file_handles=always", "negative_timeout=1"] {
            let text = refusal(&["--fs", "mem", "-o", option, "none", "/b"]);
            assert!(
                text.contains(option.split('=').next().unwrap_or_default()) && text.contains("try:"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_would_have_no_effect_is_a_mistake() {
        for option in ["passthrough=always", "passthrough=off", "buffers=zero-copy"] {
            let text = refusal(&["--fs", "mem", "-o", option, "none", "/b"]);
            assert!(text.contains(option.split('=').next().unwrap_or_default()), "{text}");
        }
        assert!(plan(&["--fs", "null", "--buffers", "pinned", "none", "/b"]).is_ok(), "it has data, too");
        for option in ["memory=64M", "buffers=own", "buffers=zero-copy"] {
            let text = refusal(&["--channel", "dev-fuse", "-o", option, "/a", "/b"]);
            assert!(text.contains("over io_uring") && text.contains("--channel uring"), "{text}");
            assert!(plan(&["-o", option, "/a", "/b"]).is_ok());
        }
        assert!(plan(&["--channel", "dev-fuse", "--buffers", "auto", "/a", "/b"]).is_ok());
        let stateless = ["--opens=stateless", "--cache=always", "--locks=mount", "--file-handles=never"];
        assert!(refusal(&[&stateless[..], &["/a", "/b"]].concat()).contains("--file-handles"));
    }

    #[test]
    fn sloppy_keeps_what_nobody_knows() {
        let plan = plan(&["--sloppy", "-o", "ro,uid=5", "/a", "/b"]).expect("plan");
        assert_eq!(plan.ignored, ["uid=5"]);
        assert!(plan.server.mount.read_only);
    }

    #[test]
    fn whoever_lets_others_in_has_permissions_checked() {
        let open = plan(&["--allow-other", "/a", "/b"]).expect("plan").server.mount;
        assert!(open.allow_other && open.default_permissions);
        for words in [&["--private"][..], &["-o", "private"], &["-o", "noallow_other"]] {
            let closed = plan(&[words, &["/a", "/b"]].concat()).expect("plan").server.mount;
            assert!(!closed.allow_other && !closed.default_permissions, "{words:?}");
        }
        let default = plan(&["/a", "/b"]).expect("plan").server.mount;
        assert_eq!(default.allow_other, rustix::process::geteuid().is_root());
        let ruled = plan(&["--private", "--policy", "p", "/a", "/b"]).expect("plan").server.mount;
        assert!(ruled.default_permissions);
    }
}
