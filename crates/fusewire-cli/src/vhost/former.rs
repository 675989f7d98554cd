//! How virtiofsd was called in former times, and by libvirt and Kata still: `-o source=DIR,cache=always`, `-f`, `-d`; and options of
//! its that are as asked for in any case.

use std::ffi::OsString;
use std::path::Path;

use clap::{Args, ValueEnum};

use super::VhostArgs;
use super::args::{Cache, Sandbox, When};
use crate::failure::{Failure, Outcome};

/// Options of former times.
#[derive(Args, Debug)]
#[command(next_help_heading = "As virtiofsd was called once")]
pub struct Former {
    /// source=DIR, cache=WHAT, sandbox=HOW, modcaps=LIST, xattrmap=RULES, xattr, posix_acl, security_label ..., with commas between
    #[arg(short = 'o', value_name = "OPTIONS", id = "compatible")]
    pub compatible: Vec<String>,
    /// No effect: the daemon stays where it is started
    #[arg(short = 'f', hide = true)]
    foreground: bool,
    /// No effect: see --log and -v
    #[arg(short = 'd', hide = true)]
    debug: bool,
    /// No effect: see --log and -v
    #[arg(long, value_name = "LEVEL", hide = true)]
    log_level: Option<String>,
    /// As it is in any case
    #[arg(long, hide = true)]
    killpriv_v2: bool,
    /// No effect: who may keep set-user-id bits is the kernel's to say
    #[arg(long, hide = true)]
    no_killpriv_v2: bool,
    /// As it is in any case
    #[arg(long, hide = true)]
    allow_direct_io: bool,
    /// As it is in any case
    #[arg(long, hide = true)]
    allow_mmap: bool,
}

/// Names of this program under which it is called as virtiofsd is: by libvirt, which reads the first in a file of ours, and by whoever
/// put it in virtiofsd's place.
const PROGRAMS: [&str; 2] = ["fusewire-virtiofsd", "virtiofsd"];

/// The words of a command line, with the subcommand that a caller of virtiofsd leaves out.
pub fn subcommand(mut words: Vec<OsString>) -> Vec<OsString> {
    let name = words.first().and_then(|word| Path::new(word).file_name()).unwrap_or_default();
    if PROGRAMS.iter().any(|program| name == *program) {
        words.insert(1, "vhost".into());
    }
    words
}

/// Puts what stands in `-o` where it stands today. Of two that say different things the one in `-o` counts, as in virtiofsd.
///
/// # Errors
/// If an option is not known, or its value is not.
pub fn translate(args: &mut VhostArgs) -> Outcome<()> {
    let lines = std::mem::take(&mut args.former.compatible);
    for word in lines.iter().flat_map(|line| line.split(',')) {
        match word.split_once('=') {
            Some((name, value)) => set(args, word, (name, value))?,
            None => switch(args, word)?,
        }
    }
    Ok(())
}

fn set(args: &mut VhostArgs, word: &str, (name, value): (&str, &str)) -> Outcome<()> {
    let wrong = |why: String| {
        Failure::usage(format!("-o {word}: {why}")).or_try("the options in full: fusewire vhost --help")
    };
    match name {
        "source" => args.shared_dir = Some(value.into()),
        "cache" => args.cache = Cache::from_str(value, false).map_err(wrong)?,
        "sandbox" => args.sandbox = Sandbox::from_str(value, false).map_err(wrong)?,
        "modcaps" => args.modcaps = Some(value.parse().map_err(wrong)?),
        "xattrmap" => args.xattrmap = Some(value.parse().map_err(wrong)?),
        "loglevel" => {}
        _ => return Err(unknown(word)),
    }
    Ok(())
}

fn switch(args: &mut VhostArgs, word: &str) -> Outcome<()> {
    match word {
        "xattr" => args.xattr = true,
        "no_xattr" => args.xattr = false,
        "posix_acl" => args.posix_acl = When::Always,
        "no_posix_acl" => args.posix_acl = When::Never,
        "security_label" => args.security_label = When::Always,
        "no_security_label" => args.security_label = When::Never,
        "announce_submounts" => args.no_announce_submounts = false,
        "posix_lock" | "flock" => args.shared_locks = true,
        "writeback" => args.caching.writeback = true,
        "no_writeback" => args.caching.writeback = false,
        "readdirplus" => args.caching.no_readdirplus = false,
        "no_readdirplus" => args.caching.no_readdirplus = true,
        "no_posix_lock" | "no_flock" | "killpriv_v2" | "no_killpriv_v2" | "allow_direct_io"
        | "no_allow_direct_io" => {}
        _ => return Err(unknown(word)),
    }
    Ok(())
}

fn unknown(word: &str) -> Failure {
    Failure::usage(format!("-o {word} is not known")).or_try("the options in full: fusewire vhost --help")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches, Parser};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: VhostArgs,
    }

    fn parse(words: &[&str]) -> Outcome<VhostArgs> {
        let words = ["vhost", "--socket-path", "/s"].iter().chain(words);
        let matches =
            Line::command().try_get_matches_from(words).map_err(|error| Failure::usage(error.to_string()))?;
        let mut args =
            Line::from_arg_matches(&matches).map_err(|error| Failure::usage(error.to_string()))?.args;
        translate(&mut args)?;
        Ok(args)
    }

    #[test]
    fn a_line_of_former_times_means_what_it_meant() {
        let args = parse(&[
            "-f",
            "-o",
            "source=/srv/share,cache=none,xattr",
            "-o",
            "sandbox=chroot,no_posix_lock,posix_acl",
        ])
        .expect("a command line");
        assert_eq!(args.shared_dir.as_deref(), Some(Path::new("/srv/share")));
        assert_eq!((args.cache, args.sandbox), (Cache::Never, Sandbox::Chroot));
        assert!(args.xattr && !args.shared_locks && args.posix_acl == When::Always);
        let args = parse(&["-o", "source=/a,modcaps=+sys_admin:-mknod,xattrmap=:map::user.virtiofs.:"])
            .expect("a line");
        assert!(args.modcaps.is_some() && args.xattrmap.is_some());
        let args = parse(&["-o", "source=/a,writeback,no_readdirplus"]).expect("a line");
        assert!(args.caching.writeback && args.caching.no_readdirplus);
    }

    #[test]
    fn under_virtiofsds_name_there_is_no_subcommand() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for name in ["/usr/libexec/fusewire-virtiofsd", "virtiofsd"] {
            assert_eq!(subcommand(words(&format!("{name} --fd 3")))[1..], words("vhost --fd 3"));
        }
        assert_eq!(subcommand(words("/usr/bin/fusewire vhost")), words("/usr/bin/fusewire vhost"));
    }

    #[test]
    fn what_is_not_known_is_said() {
        for words in ["source=/a,cash=none", "source=/a,cache=some", "verbose", "modcaps=chown"] {
            let failure = parse(&["-o", words]).expect_err(words).to_string();
            let last = words.rsplit(',').next().unwrap_or_default();
            assert!(failure.contains(last.split('=').next().unwrap_or_default()), "{words}: {failure}");
        }
    }

    #[test]
    fn how_libvirt_and_kata_call_it_is_understood() {
        for words in [
            &[
                "--shared-dir",
                "/a",
                "--cache",
                "auto",
                "--thread-pool-size=1",
                "--announce-submounts",
                "--sandbox",
                "none",
                "--seccomp",
                "none",
            ][..],
            &[
                "--shared-dir=/a",
                "--posix-acl",
                "--security-label=auto",
                "--inode-file-handles=mandatory",
                "--xattr",
                "--no-announce-submounts",
                "--allow-direct-io",
                "--killpriv-v2",
                "--log-level",
                "info",
                "--syslog",
            ],
            &[
                "--shared-dir",
                "/a",
                "--modcaps=-mknod",
                "--translate-uid",
                "map:0:1000:1",
                "--translate-gid",
                "forbid-guest:0:1",
                "--uid-map",
                ":0:100000:65536:",
                "--gid-map=:0:100000:65536:",
            ],
        ] {
            if let Err(failure) = parse(words) {
                panic!("{words:?}: {failure}");
            }
        }
    }
}
