//! What is measured: a command that mounts a directory, or the directory itself.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// What the kernel may cache, as a user thinks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
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
#[derive(Debug, Clone, clap::Args)]
pub struct TargetArgs {
    /// What to measure: `native` (the directory itself), `fusewire`, `fuser` (a passthrough on the crate fuser), or
    /// NAME=COMMAND, where {src} and {mnt} in COMMAND stand for the two directories and the command stays in the
    /// foreground until it is unmounted.
    #[arg(long = "target", value_name = "TARGET", help_heading = "Targets")]
    pub targets: Vec<String>,
    /// Release binary of fusewire [default: beside this program].
    #[arg(long, value_name = "FILE", help_heading = "Targets")]
    pub fusewire: Option<PathBuf>,
    /// The example `fuser_passthrough` [default: in `examples` beside this program].
    #[arg(long, value_name = "FILE", help_heading = "Targets")]
    pub fuser: Option<PathBuf>,
    /// Caching profile of both.
    #[arg(long, value_enum, default_value_t = Profile::Auto, help_heading = "Targets")]
    pub profile: Profile,
    /// One more argument for `fusewire mount`, such as --fusewire-arg=--no-acl; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true, help_heading = "Targets")]
    pub fusewire_arg: Vec<String>,
    /// One more argument for `fuser_passthrough`; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true, help_heading = "Targets")]
    pub fuser_arg: Vec<String>,
}

/// One thing to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Short name, for the tables.
    pub name: String,
    /// Program and arguments with `{src}` and `{mnt}` still in them; `None` for the directory itself.
    pub command: Option<Vec<String>>,
}

impl Target {
    /// The directory itself.
    pub fn native() -> Self {
        Self { name: "native".into(), command: None }
    }

    /// Program and arguments for these directories, `None` for the directory itself.
    pub fn command_for(&self, src: &Path, mnt: &Path) -> Option<Vec<OsString>> {
        let fill = |word: &String| match word.as_str() {
            "{src}" => src.as_os_str().to_owned(),
            "{mnt}" => mnt.as_os_str().to_owned(),
            _ => {
                word.replace("{src}", &src.to_string_lossy()).replace("{mnt}", &mnt.to_string_lossy()).into()
            }
        };
        self.command.as_ref().map(|words| words.iter().map(fill).collect())
    }
}

impl TargetArgs {
    /// The targets in the order asked for; `default` if none was named.
    ///
    /// # Errors
    /// If a name is unknown or used twice, or a program is not there.
    pub fn resolve(&self, default: &[&str]) -> Result<Vec<Target>> {
        let asked: Vec<&str> = match self.targets.as_slice() {
            [] => default.to_vec(),
            named => named.iter().map(String::as_str).collect(),
        };
        let mut targets: Vec<Target> = Vec::new();
        for text in asked {
            let target = self.target(text)?;
            if targets.iter().any(|other| other.name == target.name) {
                bail!(
                    "target {} is named twice; give one of them another name with NAME=COMMAND",
                    target.name
                );
            }
            targets.push(target);
        }
        Ok(targets)
    }

    fn target(&self, text: &str) -> Result<Target> {
        match text {
            "native" => Ok(Target::native()),
            "fusewire" => {
                let mut words = vec![program(self.fusewire.as_deref(), "fusewire", "--fusewire")?];
                words.extend(["mount", "{src}", "{mnt}", "--cache", self.profile.name()].map(String::from));
                words.extend(self.fusewire_arg.iter().cloned());
                Ok(Target { name: text.into(), command: Some(words) })
            }
            "fuser" => {
                let mut words =
                    vec![program(self.fuser.as_deref(), "examples/fuser_passthrough", "--fuser")?];
                words.extend(["{src}", "{mnt}"].map(String::from));
                words.extend(self.profile.fuser_args().map(String::from));
                words.extend(self.fuser_arg.iter().cloned());
                Ok(Target { name: text.into(), command: Some(words) })
            }
            _ => custom(text),
        }
    }
}

fn custom(text: &str) -> Result<Target> {
    let Some((name, command)) = text.split_once('=') else {
        bail!("target {text} is unknown; use native, fusewire, fuser or NAME=COMMAND");
    };
    let words: Vec<String> = command.split_whitespace().map(String::from).collect();
    if name.is_empty() || words.is_empty() {
        bail!("target {text} lacks a name or a command; write NAME=COMMAND");
    }
    // The name becomes a part of paths.
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) || name.starts_with('.') {
        bail!("target name {name} has characters other than letters, digits, '-', '_' and '.'");
    }
    if !command.contains("{mnt}") {
        bail!("the command of target {name} does not say where to mount; put {{mnt}} (and {{src}}) into it");
    }
    Ok(Target { name: name.into(), command: Some(words) })
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
            profile: Profile::None,
            fusewire_arg: vec!["--extra".into()],
            fuser_arg: vec![],
        }
    }

    #[test]
    fn commands_get_their_directories() {
        let targets = args(&["native", "fusewire", "x=peer --from={src} {mnt}"]).resolve(&[]).unwrap();
        let filled = |target: &Target| {
            let words = target.command_for(Path::new("/s"), Path::new("/m"));
            words
                .map(|words| words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>())
        };
        assert_eq!(filled(&targets[0]), None);
        assert_eq!(filled(&targets[1]).unwrap()[1..], ["mount", "/s", "/m", "--cache", "none", "--extra"]);
        assert_eq!(filled(&targets[2]).unwrap(), ["peer", "--from=/s", "/m"]);
    }

    #[test]
    fn bad_targets_say_what_to_do() {
        for (text, advice) in [
            ("nativ", "use native"),
            ("=x {mnt}", "NAME=COMMAND"),
            ("a=", "NAME=COMMAND"),
            ("a=b", "{mnt}"),
            ("../a=b {mnt}", "letters"),
        ] {
            let error = args(&[text]).resolve(&[]).unwrap_err().to_string();
            assert!(error.contains(advice), "{text}: {error}");
        }
        assert!(args(&["fuser", "fuser"]).resolve(&[]).unwrap_err().to_string().contains("twice"));
        let mut missing = args(&["fuser"]);
        missing.fuser = Some("/no/such".into());
        assert!(missing.resolve(&[]).unwrap_err().to_string().contains("--fuser"));
    }
}
