//! Peers found on the machine: each is one line of `peers.toml`, or of a file of the user's.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

use crate::mounts;
use crate::program;
use crate::target::{Profile, SOCKET};

const BUILT_IN: &str = include_str!("peers.toml");

/// How a peer is started, or where it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    #[serde(default)]
    programs: Vec<String>,
    #[serde(default)]
    run: String,
    #[serde(default)]
    none: String,
    #[serde(default)]
    auto: String,
    #[serde(default)]
    always: String,
    /// Whether it takes long options of its own, as written in a target.
    #[serde(default)]
    pub options: bool,
    /// Filesystem type of one that is mounted already.
    pub mounted: Option<String>,
    /// Whether it has to have a ring of io_uring once it is mounted: one that silently does without is no ring.
    #[serde(default)]
    pub ring: bool,
}

/// Directories with programs of peers, separated as in the PATH.
pub const DIRS_VARIABLE: &str = "FUSEWIRE_BENCH_PEERS_DIR";

/// All known peers by name, and where to look for their programs.
#[derive(Debug, Clone)]
pub struct Peers {
    peers: BTreeMap<String, Peer>,
    dirs: Vec<PathBuf>,
}

impl Peers {
    /// The built-in peers and those of `file`; programs are looked for in `dirs` first, then in those of
    /// [`DIRS_VARIABLE`], then in the PATH.
    ///
    /// # Errors
    /// If the file cannot be read or a line of it makes no sense.
    pub fn new(file: Option<&Path>, dirs: &[PathBuf]) -> Result<Self> {
        let mut peers = parse(BUILT_IN).context("built-in peers")?;
        if let Some(file) = file {
            let text = fs::read_to_string(file)
                .with_context(|| format!("cannot read the file of peers {}", file.display()))?;
            peers.extend(parse(&text).with_context(|| file.display().to_string())?);
        }
        let variable = env::var_os(DIRS_VARIABLE).unwrap_or_default();
        let of_variable: Vec<PathBuf> =
            env::split_paths(&variable).filter(|dir| dir != Path::new("")).collect();
        let dirs = dirs.iter().cloned().chain(of_variable).chain(program::path_dirs()).collect();
        Ok(Self { peers, dirs })
    }

    /// Names of all peers, and whether they are on this machine.
    pub fn names(&self) -> impl Iterator<Item = (&str, bool)> {
        self.peers.iter().map(|(name, peer)| (name.as_str(), self.is_here(peer)))
    }

    /// The peer of this name.
    pub fn get(&self, name: &str) -> Option<&Peer> {
        self.peers.get(name)
    }

    /// Program and arguments with `{src}`, and `{mnt}` or `{socket}`, still in them.
    ///
    /// # Errors
    /// If no program of the peer is found.
    pub fn command(&self, name: &str, peer: &Peer, profile: Profile) -> Result<Vec<String>> {
        let program = self.program(peer).with_context(|| {
            format!(
                "{name} is not on this machine: no {} in the PATH; say where it is with --peers-dir or {DIRS_VARIABLE}",
                peer.programs.join(" or ")
            )
        })?;
        let program = program
            .into_os_string()
            .into_string()
            .map_err(|path| anyhow!("the path {path:?} of {name} is not UTF-8"))?;
        let cache = match profile {
            Profile::None => &peer.none,
            Profile::Auto => &peer.auto,
            Profile::Always => &peer.always,
        };
        let words = peer.run.split_whitespace().chain(cache.split_whitespace()).map(str::to_owned);
        Ok(std::iter::once(program).chain(words).collect())
    }

    fn is_here(&self, peer: &Peer) -> bool {
        match &peer.mounted {
            Some(fstype) => mounts::find_type(fstype).is_some(),
            None => self.program(peer).is_some(),
        }
    }

    fn program(&self, peer: &Peer) -> Option<PathBuf> {
        peer.programs.iter().find_map(|name| program::find_in(name, self.dirs.iter().cloned()))
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, Peer>> {
    let peers: BTreeMap<String, Peer> =
        toml::from_str(text).map_err(|error| anyhow!("{}", error.to_string().trim_end()))?;
    for (name, peer) in &peers {
        match &peer.mounted {
            Some(_) => ensure!(
                peer.programs.is_empty() && peer.run.is_empty(),
                "peer {name}: one that is mounted already has neither programs nor run"
            ),
            None => ensure!(
                !peer.programs.is_empty()
                    && peer.run.contains("{src}")
                    && (peer.run.contains("{mnt}") != peer.run.contains(SOCKET)),
                "peer {name}: it needs programs, and run with {{src}} and {{mnt}}, or {{socket}} for a device, in it"
            ),
        }
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_peer_is_found_and_gets_its_cache_profile() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("passthrough_ll");
        fs::write(&program, "").unwrap();
        let peers = Peers::new(None, &[dir.path().to_owned()]).unwrap();
        let is_here = |name: &str| peers.names().find(|(known, _)| *known == name).unwrap().1;
        assert!(!is_here("passthrough_ll"), "a file that cannot be executed is no program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(is_here("passthrough_ll"));
        let peer = peers.get("passthrough_ll").unwrap();
        let words = peers.command("passthrough_ll", peer, Profile::None).unwrap();
        assert_eq!(words[1..], ["-f", "-o", "source={src}", "{mnt}", "-o", "cache=never"]);
        assert_eq!(words[0], program.to_str().unwrap());
    }

    #[test]
    fn peers_of_ones_own_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("peers.toml");
        fs::write(&file, "mine = { programs = [\"sh\"], run = \"{src} {mnt}\" }\n").unwrap();
        let peers = Peers::new(Some(&file), &[]).unwrap();
        let words = peers.command("mine", peers.get("mine").unwrap(), Profile::Always).unwrap();
        assert_eq!(words[1..], ["{src}", "{mnt}"]);
        for (text, needle) in [
            ("mine = { programs = [\"sh\"], run = \"{mnt}\" }", "{src} and {mnt}"),
            ("mine = { programs = [\"sh\"], run = \"{src} {mnt} {socket}\" }", "{src} and {mnt}"),
            ("mine = { mounted = \"x\", run = \"{src} {mnt}\" }", "mounted already"),
            ("mine = { program = \"sh\" }", "unknown field"),
        ] {
            fs::write(&file, text).unwrap();
            let error = format!("{:#}", Peers::new(Some(&file), &[]).unwrap_err());
            assert!(error.contains(needle) && error.contains("peers.toml"), "{error}");
        }
    }

    #[test]
    fn one_that_is_missing_says_where_to_look() {
        let peers = Peers { dirs: vec![], ..Peers::new(None, &[]).unwrap() };
        let peer = peers.get("bindfs").unwrap();
        let error = peers.command("bindfs", peer, Profile::Auto).unwrap_err().to_string();
        assert!(error.contains("--peers-dir"), "{error}");
    }
}
