//! The file itself; `docs/vhost.toml` is its manual.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, FromArgMatches, Parser};
use fusewire::server::{Poll, PollError};
use serde::Deserialize;
use toml::{Spanned, Value};

use super::super::VhostArgs;
use crate::args::bytes;
use crate::failure::Failure;

/// Options that are about the process or about one guest, not about a tree.
const NOT_OF_SHARES: &[&str] = &[
    "config",
    "fd",
    "gid-map",
    "help",
    "migration-mode",
    "migration-on-error",
    "modcaps",
    "poll",
    "print-capabilities",
    "queues",
    "resume",
    "rlimit-nofile",
    "sandbox",
    "seccomp",
    "socket-group",
    "socket-path",
    "syslog",
    "thread-pool-size",
    "uid-map",
    "upgrade",
];

/// What is wrong, where, and what would be right.
#[derive(Debug)]
pub struct Wrong {
    span: Range<usize>,
    what: String,
    remedy: String,
}

/// What is found, or what is wrong.
pub type Checked<T> = Result<T, Wrong>;

/// Something is wrong there.
pub fn wrong<T>(span: Range<usize>, what: impl Into<String>, remedy: impl Into<String>) -> Checked<T> {
    Err(Wrong { span, what: what.into(), remedy: remedy.into() })
}

impl Wrong {
    /// For whoever wrote the file.
    pub fn tell(self, path: &Path, text: &str) -> Failure {
        let (line, column) = position(text, self.span.start);
        let failure = Failure::new(format!("{}:{line}:{column}: {}", path.display(), self.what));
        failure.or_try(if self.remedy.is_empty() { "what docs/vhost.toml describes" } else { &self.remedy })
    }
}

/// Line and column, from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    (line, String::from_utf8_lossy(&before[begin..]).chars().count() + 1)
}

/// A tree and how it is shared.
#[derive(Debug)]
pub struct Share {
    /// Its name in the file.
    pub name: Spanned<String>,
    /// The tree.
    pub dir: Spanned<PathBuf>,
    /// How, as the command line would have it.
    pub args: Box<VhostArgs>,
}

/// What a guest may have at most, as far as the file says.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Descriptors.
    pub descriptors: Option<Spanned<u64>>,
    /// Bytes.
    pub memory: Option<Spanned<u64>>,
    /// Threads.
    pub threads: Option<Spanned<u64>>,
}

/// A virtual machine.
#[derive(Debug)]
pub struct Guest {
    /// Its name in the file.
    pub name: Spanned<String>,
    /// Where its monitor connects.
    pub socket: Spanned<PathBuf>,
    /// Whose members may connect.
    pub group: Option<String>,
    /// Which of the shares.
    pub share: usize,
    /// Name to mount by.
    pub tag: Option<String>,
    /// Request queues.
    pub queues: Option<u16>,
    /// How their threads wait.
    pub poll: Poll,
    /// Its budgets.
    pub asked: Asked,
}

/// All of it.
#[derive(Debug)]
pub struct File {
    /// The trees, by name.
    pub shares: Vec<Share>,
    /// The virtual machines, by name.
    pub guests: Vec<Guest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    defaults: RawDefaults,
    #[serde(default)]
    shares: BTreeMap<Spanned<String>, BTreeMap<Spanned<String>, Spanned<Value>>>,
    #[serde(default)]
    guests: BTreeMap<Spanned<String>, RawGuest>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawDefaults {
    queues: Option<Spanned<u64>>,
    poll: Option<Spanned<String>>,
    socket_group: Option<String>,
    descriptors: Option<Spanned<u64>>,
    memory: Option<Spanned<Value>>,
    threads: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawGuest {
    socket_path: Spanned<PathBuf>,
    share: Spanned<String>,
    tag: Option<String>,
    queues: Option<Spanned<u64>>,
    poll: Option<Spanned<String>>,
    socket_group: Option<String>,
    descriptors: Option<Spanned<u64>>,
    memory: Option<Spanned<Value>>,
    threads: Option<Spanned<u64>>,
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: VhostArgs,
}

/// Reads what is in a file; directories are not looked at yet.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Checked<File> {
    let raw: Raw = toml::from_str(text).map_err(|error| Wrong {
        span: error.span().unwrap_or(0..0),
        what: error.message().trim_end().replace('\n', ", "),
        remedy: String::new(),
    })?;
    if raw.shares.is_empty() {
        return wrong(0..0, "there is no share", "[shares.NAME], with shared-dir = \"/srv/dir\"");
    }
    if raw.guests.is_empty() {
        let remedy =
            "[guests.NAME], with socket-path = \"/run/name.sock\" and share = \"the name of a share\"";
        return wrong(0..0, "there is no guest", remedy);
    }
    let shares =
        raw.shares.into_iter().map(|(name, keys)| share(name, &keys)).collect::<Checked<Vec<_>>>()?;
    let guests = raw
        .guests
        .into_iter()
        .map(|(name, keys)| guest(name, keys, &raw.defaults, &shares))
        .collect::<Checked<Vec<_>>>()?;
    Ok(File { shares, guests })
}

fn share(name: Spanned<String>, keys: &BTreeMap<Spanned<String>, Spanned<Value>>) -> Checked<Share> {
    let Some(dir) = keys.get("shared-dir") else {
        let what = format!("the share {} has no shared-dir", name.get_ref());
        return wrong(name.span(), what, "shared-dir = \"/srv/dir\" below it");
    };
    let Some(path) = dir.get_ref().as_str() else {
        return wrong(dir.span(), format!("{} is no path", dir.get_ref()), "a string in quotes");
    };
    let path = Spanned::new(dir.span(), PathBuf::from(path));
    let mut words = Vec::new();
    for (key, value) in keys {
        let own = option(key, value)?;
        // Each by itself first: what is wrong with it is to be told of its own line.
        if key.get_ref() != "shared-dir" {
            let alone = of_line(&own).or_else(|why| match needs_others(&why) {
                true => Ok(()),
                false => Err(why),
            });
            if let Err(error) = alone {
                return wrong(value.span(), reason(&error, key.get_ref()), String::new());
            }
        }
        words.extend(own);
    }
    match line(&words) {
        Ok(args) => Ok(Share { name, dir: path, args: Box::new(args) }),
        Err(error) => wrong(name.span(), reason(&error, name.get_ref()), String::new()),
    }
}

/// Options that stand in no file but on the command line, and those of guests, are not of shares.
fn options_of_shares() -> Vec<String> {
    let command = Line::command();
    let longs = command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long());
    longs.filter(|long| !NOT_OF_SHARES.contains(long)).map(str::to_owned).collect()
}

/// A line of a share as words of a command line.
fn option(key: &Spanned<String>, value: &Spanned<Value>) -> Checked<Vec<String>> {
    let long = key.get_ref().as_str();
    let known = options_of_shares();
    if !known.iter().any(|known| known == long) {
        let what = match NOT_OF_SHARES.contains(&long) {
            true => format!("`{long}` is no option of a share"),
            false => format!("`{long}` is not known"),
        };
        return wrong(key.span(), what, format!("one of {}", known.join(", ")));
    }
    let one = |value: &Value| match value {
        Value::Boolean(true) => Some(vec![format!("--{long}")]),
        Value::Boolean(false) if known.iter().any(|known| known == &format!("no-{long}")) => {
            Some(vec![format!("--no-{long}")])
        }
        Value::Boolean(false) => Some(Vec::new()),
        Value::String(text) => Some(vec![format!("--{long}={text}")]),
        Value::Integer(number) => Some(vec![format!("--{long}={number}")]),
        Value::Float(number) => Some(vec![format!("--{long}={number}")]),
        _ => None,
    };
    let words = match value.get_ref() {
        Value::Array(values) => {
            values.iter().map(one).collect::<Option<Vec<_>>>().map(|words| words.concat())
        }
        value => one(value),
    };
    match words {
        Some(words) => Ok(words),
        None => wrong(
            value.span(),
            format!("{long} cannot be {}", value.get_ref().type_str()),
            "true, false, a string, a number, or a list of strings",
        ),
    }
}

fn line(words: &[String]) -> Result<VhostArgs, clap::Error> {
    let words = ["vhost", "--socket-path=/"].iter().copied().chain(words.iter().map(String::as_str));
    let matches = Line::command().try_get_matches_from(words)?;
    Ok(Line::from_arg_matches(&matches)?.args)
}

fn of_line(words: &[String]) -> Result<(), clap::Error> {
    let mut words = words.to_vec();
    words.push("--shared-dir=/".into());
    line(&words).map(drop)
}

/// Does an option want others beside it?
fn needs_others(error: &clap::Error) -> bool {
    error.kind() == clap::error::ErrorKind::MissingRequiredArgument
}

/// What clap says, without what it says of command lines.
fn reason(error: &clap::Error, of: &str) -> String {
    let text = error.render().to_string();
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    format!("{of}: {}", lines.join("; ").trim_start_matches("error: "))
}

fn guest(name: Spanned<String>, raw: RawGuest, defaults: &RawDefaults, shares: &[Share]) -> Checked<Guest> {
    let Some(share) = shares.iter().position(|share| share.name.get_ref() == raw.share.get_ref()) else {
        let names: Vec<_> = shares.iter().map(|share| share.name.get_ref().as_str()).collect();
        let what = format!("there is no share {}", raw.share.get_ref());
        return wrong(raw.share.span(), what, format!("one of {}", names.join(", ")));
    };
    if !raw.socket_path.get_ref().is_absolute() {
        let what = format!("{} is no absolute path", raw.socket_path.get_ref().display());
        return wrong(raw.socket_path.span(), what, "a path that begins with /");
    }
    let queues = match raw.queues.as_ref().or(defaults.queues.as_ref()) {
        None => None,
        Some(queues) => match u16::try_from(*queues.get_ref()) {
            Ok(number @ 1..=fusewire_vhost::MAX_QUEUES) => Some(number),
            _ => {
                let what = format!("{} request queues", queues.get_ref());
                return wrong(queues.span(), what, format!("1 to {}", fusewire_vhost::MAX_QUEUES));
            }
        },
    };
    let poll = raw.poll.as_ref().or(defaults.poll.as_ref()).map(poll).transpose()?.unwrap_or_default();
    let memory = raw.memory.as_ref().or(defaults.memory.as_ref()).map(size).transpose()?;
    let asked = Asked {
        descriptors: raw.descriptors.or_else(|| defaults.descriptors.clone()),
        memory,
        threads: raw.threads.or_else(|| defaults.threads.clone()),
    };
    let tag = raw.tag.or_else(|| shares[share].args.tag.clone());
    let group = raw.socket_group.or_else(|| defaults.socket_group.clone());
    Ok(Guest { name, socket: raw.socket_path, group, share, tag, queues, poll, asked })
}

fn poll(value: &Spanned<String>) -> Checked<Poll> {
    value.get_ref().parse().or_else(|why: PollError| {
        let what = format!("poll = {:?}: {why}", value.get_ref());
        wrong(value.span(), what, "\"off\", \"auto\" or \"fixed:20\"")
    })
}

fn size(value: &Spanned<Value>) -> Checked<Spanned<u64>> {
    let number = match value.get_ref() {
        Value::Integer(number) => u64::try_from(*number).map_err(|_| "it is negative".to_owned()),
        Value::String(text) => bytes(text),
        other => Err(format!("{other} is no size")),
    };
    match number {
        Ok(number) => Ok(Spanned::new(value.span(), number)),
        Err(why) => wrong(value.span(), why, "bytes, such as 67108864 or \"64M\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../../../docs/vhost.toml");

    fn told(text: &str) -> String {
        parse(text).expect_err(text).tell(Path::new("f"), text).to_string()
    }

    #[test]
    fn the_example_in_the_manual_is_understood() {
        let file = parse(EXAMPLE).unwrap_or_else(|wrong| panic!("{}", wrong.tell(Path::new("f"), EXAMPLE)));
        assert!(file.shares.len() >= 2 && file.guests.len() >= 3);
        // All options of shares are in it, if only in comments.
        for option in options_of_shares() {
            let shown = option.strip_prefix("no-").unwrap_or(&option);
            assert!(EXAMPLE.contains(&format!("{shown} = ")), "the manual does not mention {option}");
        }
    }

    #[test]
    fn shares_have_the_options_of_the_command_line() {
        let text = "[shares.a]\nshared-dir = '/a'\ncache = 'shared'\nlease = 2.5\nreadonly = true\nposix-acl = true\n\
            announce-submounts = false\ntranslate-uid = ['map:0:1000:1', 'forbid-guest:5:1']\ntag = 't'\n\
            [defaults]\nmemory = '64M'\nqueues = 3\npoll = 'off'\n[guests.g]\nsocket-path = '/s'\nshare = 'a'\n\
            [guests.h]\nsocket-path = '/t'\nshare = 'a'\npoll = 'fixed:20'\n";
        let file = parse(text).expect("a file");
        let args = &file.shares[0].args;
        assert_eq!(args.cache, super::super::super::args::Cache::Shared);
        assert_eq!(args.lease, Some(std::time::Duration::from_millis(2500)));
        assert!(args.readonly && args.no_announce_submounts && args.translate_uid.len() == 2);
        assert_eq!(args.posix_acl, super::super::super::args::When::Always);
        let guest = &file.guests[0];
        assert_eq!((guest.tag.as_deref(), guest.queues), (Some("t"), Some(3)));
        let fixed = Poll::Fixed(std::time::Duration::from_micros(20));
        assert_eq!((guest.poll, file.guests[1].poll), (Poll::Off, fixed));
        assert_eq!(guest.asked.memory.as_ref().map(|memory| *memory.get_ref()), Some(64 << 20));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let guest = "[guests.g]\nsocket-path = '/s'\nshare = 'a'\n";
        let share = "[shares.a]\nshared-dir = '/a'\n";
        for (text, line, words) in [
            (format!("{share}cash = 1\n{guest}"), "f:3:1:", "`cash` is not known"),
            (format!("{share}cache = 'some'\n{guest}"), "f:3:9:", "never, auto, always, shared"),
            (format!("{share}queues = 1\n{guest}"), "f:3:1:", "no option of a share"),
            (format!("{share}lease = 1979-05-27\n{guest}"), "f:3:9:", "lease cannot be"),
            (format!("{share}dax = 'inode'\n{guest}"), "f:1:9:", "dax-window"),
            (format!("{share}{guest}colour = 1\n"), "f:6:1:", "colour"),
            (format!("{share}[guests.g]\nsocket-path = '/s'\nshare = 'b'\n"), "f:5:9:", "no share b"),
            (format!("{share}[guests.g]\nsocket-path = 's'\nshare = 'a'\n"), "f:4:15:", "absolute"),
            (format!("{share}[guests.g]\nshare = 'a'\n"), "f:3:1:", "socket-path"),
            (format!("{share}{guest}queues = 99\n"), "f:6:10:", "99 request queues"),
            (format!("{share}{guest}poll = 'on'\n"), "f:6:8:", "off, auto, or fixed:US"),
            (format!("{share}{guest}poll = 'fixed:0'\n"), "f:6:8:", "from 1 to 1000"),
            (format!("{share}poll = 'off'\n{guest}"), "f:3:1:", "no option of a share"),
            (format!("{share}{guest}memory = '1X'\n"), "f:6:10:", "unit"),
            (format!("[shares.a]\n{guest}"), "f:1:9:", "no shared-dir"),
            (format!("{share}{share}{guest}"), "f:3:", "duplicate"),
            (guest.to_owned(), "f:1:1:", "no share"),
            (share.to_owned(), "f:1:1:", "no guest"),
        ] {
            let told = told(&text);
            assert!(told.starts_with(line) && told.contains(words), "{text}\n{told}");
        }
    }
}
