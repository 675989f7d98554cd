//! Whether the kernel can be told of what others change, so that it may remember everything.

use std::path::Path;

use fusewire_fs::passthrough::{COHERENT_MINOR, CacheProfile, Coherence, Options, try_coherence};

use super::report::{Check, Evidence, Protocol};
use crate::mount::{not_coherent, other_filesystem_inside};

/// Checks both `--cache coherent` and what a mount of `dir` does by itself.
pub fn probe(dir: &Path, protocol: &Protocol) -> [Check; 2] {
    [coherent(dir, protocol), default(dir, protocol)]
}

fn coherent(dir: &Path, protocol: &Protocol) -> Check {
    let title = "caches that hear of what others change (--cache coherent)";
    let asked = Options { cache: CacheProfile::Coherent, ..Options::default() };
    check(("dir.coherent", title), dir, (asked, protocol))
}

fn default(dir: &Path, protocol: &Protocol) -> Check {
    let (key, title) = ("dir.coherent_default", "the same without --cache");
    if let Some(inside) = other_filesystem_inside(dir) {
        return Check::no(key, title, Evidence::Read, not_coherent(&inside))
            .remedy("--cache coherent, which remembers no data of what is mounted inside");
    }
    let preferred = Options { prefer_coherent: true, ..Options::default() };
    check((key, title), dir, (preferred, protocol))
}

fn check((key, title): (&'static str, &str), dir: &Path, (options, protocol): (Options, &Protocol)) -> Check {
    match try_coherence(dir, options) {
        Err(error) => Check::unknown(key, title, Evidence::Tried, error.to_string()),
        Ok(Coherence::Refused(refusal)) => {
            Check::no(key, title, Evidence::Tried, refusal.reason()).remedy(refusal.remedy())
        }
        Ok(_) if protocol.minor < COHERENT_MINOR => {
            let reason = format!(
                "the kernel speaks protocol 7.{} and cannot drop all names at once, which takes 7.{COHERENT_MINOR}",
                protocol.minor
            );
            Check::no(key, title, protocol.evidence, reason).remedy("Linux 6.16 or newer")
        }
        Ok(Coherence::ToldOfKnown(refusal)) => Check::yes(key, title, Evidence::Tried)
            .because(format!(
                "file by file, up to a bound; not of the whole filesystem: {}",
                refusal.reason()
            ))
            .remedy(refusal.remedy()),
        Ok(_) => Check::yes(key, title, Evidence::Tried),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn an_old_kernel_cannot_be_told() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let of = |minor| {
            let how = String::new();
            let protocol = Protocol { major: 7, minor, flags: None, evidence: Evidence::Read, how };
            probe(dir.path(), &protocol)
        };
        for check in of(COHERENT_MINOR - 1) {
            assert_eq!(check.verdict, Verdict::No, "{check:?}");
            assert!(check.remedy.is_some() && !check.detail.is_empty(), "{check:?}");
        }
        if rustix::process::geteuid().is_root() {
            let [coherent, _] = of(COHERENT_MINOR);
            assert_ne!(coherent.remedy.as_deref(), Some("Linux 6.16 or newer"), "{coherent:?}");
        }
    }

    #[test]
    fn what_is_not_local_is_not_cached_by_default() {
        let [coherent, default] =
            probe(Path::new("/proc"), &super::super::guessed("6.18.1", &std::io::Error::other("test")));
        assert_eq!(coherent.verdict, Verdict::No, "{coherent:?}");
        assert_eq!(default.verdict, Verdict::No, "{default:?}");
        assert!(default.remedy.is_some(), "{default:?}");
    }
}
