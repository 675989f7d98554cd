//! Users and groups of a sandbox: what a user namespace makes of them.

use std::fs;
use std::io::{Read, Write};
use std::process::Command;
use std::str::FromStr;

use rustix::thread::UnshareFlags;

use super::super::sys;
use crate::failure::{Failure, Outcome};

/// A range of ids, as `--uid-map` and `--gid-map` have it: `:INSIDE:OUTSIDE:COUNT:`, with any separator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First id in the sandbox.
    pub inside: u32,
    /// First id of the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not :INSIDE:OUTSIDE:COUNT:, such as :0:100000:65536:");
        let separator = text.chars().next().filter(|first| !first.is_ascii_digit()).ok_or_else(wrong)?;
        let inner = &text[separator.len_utf8()..];
        let inner = inner.strip_suffix(separator).unwrap_or(inner);
        let numbers: Vec<u32> =
            inner.split(separator).map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
        let &[inside, outside, count] = &numbers[..] else { return Err(wrong()) };
        let fits = |first: u32| first.checked_add(count).is_some();
        if count == 0 || !fits(inside) || !fits(outside) {
            return Err(format!("`{text}`: there is no such range of ids"));
        }
        Ok(Self { inside, outside, count })
    }
}

/// Which ids there are in a sandbox.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    /// Users; none asks for the caller alone.
    pub users: Vec<Range>,
    /// Groups; none asks for the caller's alone.
    pub groups: Vec<Range>,
}

impl Ids {
    /// Does the caller want others than its own?
    pub fn is_asked_for(&self) -> bool {
        !self.users.is_empty() || !self.groups.is_empty()
    }

    /// Moves this process, of one thread, into a user namespace that has these ids.
    ///
    /// # Errors
    /// If there can be none; the reason says what to do.
    pub fn enter_namespace(&self) -> Outcome<()> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let or = |asked: &[Range], own| match asked {
            [] => vec![Range { inside: own, outside: own, count: 1 }],
            asked => asked.to_vec(),
        };
        let (users, groups) = (or(&self.users, uid), or(&self.groups, gid));
        let unshare = || {
            sys::unshare(UnshareFlags::NEWUSER).map_err(|error| {
                Failure::new(format!("cannot make a user namespace, which a sandbox without root needs: {error}"))
                    .or_try("a larger /proc/sys/user/max_user_namespaces, and what else this system has to allow them")
                    .or_try("as root; or --sandbox none, where something else keeps the daemon in")
            })
        };
        if !self.is_asked_for() {
            unshare()?;
            let write = |name: &str, text: &str| {
                let path = format!("/proc/self/{name}");
                fs::write(&path, text).map_err(|error| {
                    Failure::because(format_args!("cannot write `{text}` to {path}"), &error)
                })
            };
            // Groups that are not in the namespace cannot be given up in it.
            write("setgroups", "deny")?;
            write("uid_map", &lines(&users))?;
            return write("gid_map", &lines(&groups));
        }
        outside(|pid| map_from_outside(pid, &users, &groups), unshare)
    }

    /// Takes on the first user and group of the sandbox, if there are such ids.
    ///
    /// # Errors
    /// If that is refused.
    pub fn become_root(&self) -> Outcome<()> {
        let has = |ranges: &[Range]| ranges.iter().any(|range| range.inside == 0);
        if !(has(&self.users) && has(&self.groups)) {
            return Ok(());
        }
        sys::become_root()
            .map_err(|error| Failure::because("cannot become root of the user namespace", &error))
    }
}

fn lines(ranges: &[Range]) -> String {
    ranges.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect()
}

/// Has a child, which stays outside, do `map` about this process once that has done `change`.
fn outside(map: impl FnOnce(i32) -> Result<(), String>, change: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    let failed = |error: std::io::Error| Failure::because("cannot start a process that maps ids", &error);
    let (go_reader, go_writer) = std::io::pipe().map_err(failed)?;
    let (done_reader, done_writer) = std::io::pipe().map_err(failed)?;
    let parent = std::process::id();
    let Some(child) = sys::fork().map_err(failed)? else {
        drop((go_writer, done_reader));
        let (mut go, mut done) = (go_reader, done_writer);
        // Nothing comes if the parent has failed.
        if go.read_exact(&mut [0]).is_ok() {
            let text = map(i32::try_from(parent).unwrap_or(0)).err().unwrap_or_default();
            _ = done.write_all(text.as_bytes());
        }
        std::process::exit(0);
    };
    drop((go_reader, done_writer));
    let (mut go, mut done) = (go_writer, done_reader);
    let changed = change();
    let mut why = String::new();
    if changed.is_ok() {
        _ = go.write_all(&[1]);
        _ = done.read_to_string(&mut why);
    }
    drop(go);
    _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
    changed?;
    if why.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(why).or_try("as root, or other --uid-map and --gid-map"))
    }
}

/// Maps ids of a process: root writes them down, others are helped by programs that look at /etc/subuid and /etc/subgid.
fn map_from_outside(pid: i32, users: &[Range], groups: &[Range]) -> Result<(), String> {
    for (file, program, ranges, list) in
        [("uid_map", "newuidmap", users, "/etc/subuid"), ("gid_map", "newgidmap", groups, "/etc/subgid")]
    {
        if rustix::process::geteuid().is_root() {
            let path = format!("/proc/{pid}/{file}");
            fs::write(&path, lines(ranges)).map_err(|error| format!("cannot write to {path}: {error}"))?;
            continue;
        }
        let mut words = vec![pid.to_string()];
        for range in ranges {
            words.extend([range.inside, range.outside, range.count].map(|number| number.to_string()));
        }
        let done = Command::new(program).args(&words).output().map_err(|error| {
            format!("cannot run {program}, which maps ids for users other than root: {error} (Debian has it in the package uidmap)")
        })?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            return Err(format!(
                "{program} refuses the ids: {}; what a user may have stands in {list}",
                said.trim()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_with_any_separator() {
        let range = Range { inside: 0, outside: 100_000, count: 65_536 };
        for text in [":0:100000:65536:", ":0:100000:65536", "/0/100000/65536/"] {
            assert_eq!(text.parse(), Ok(range), "{text}");
        }
        for text in ["", ":", "0:1:2", ":0:1:", ":0:1:x:", ":0:1:2:3:", ":0:0:0:", ":4294967295:0:2:"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }

    #[test]
    fn maps_are_written_as_the_kernel_reads_them() {
        let ranges = [":0:1000:1:", ":1:100000:65536:"].map(|text| text.parse().expect("range"));
        assert_eq!(lines(&ranges), "0 1000 1\n1 100000 65536\n");
    }
}
