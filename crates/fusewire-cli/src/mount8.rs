//! The command line that mount(8) uses for filesystems it does not know.
//!
//! For `-t fuse.fusewire`, libmount looks for `/sbin/mount.fuse.fusewire` and calls it with `SRC MNT [-sfnv] [-o LIST]`.
//! If there is none it calls `/sbin/mount.fuse` with `-t fuse.fusewire` added; that program (of the package fuse3) runs
//! `fusewire SRC MNT -o LIST` through a shell. Both must return once the mount works, leaving a daemon behind.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::failure::{Failure, Outcome};

/// Name under which mount(8) looks for us.
pub const PROGRAM: &str = "mount.fuse.fusewire";

/// Exit status of mount(8) for a wrong command line or missing permission.
pub const STATUS_USAGE: u8 = 1;
/// Exit status of mount(8) for a mount that failed.
pub const STATUS_FAILED: u8 = 32;

/// Whether mount(8), or `mount.fuse` on its behalf, called this process.
pub fn is_caller(args: &[OsString]) -> bool {
    let name = args.first().and_then(|name| Path::new(name).file_name()).unwrap_or_default();
    if name == PROGRAM || name == "mount.fusewire" {
        return true;
    }
    // `fusewire SRC MNT ...` has no subcommand; a path or `none` stands in its place, and all commands differ from that.
    let source = args.get(1).map_or(OsStr::new(""), OsString::as_os_str);
    let mountpoint = args.get(2).is_some_and(|path| path.as_encoded_bytes().first() == Some(&b'/'));
    mountpoint && (source == "none" || source.as_encoded_bytes().first() == Some(&b'/'))
}

/// The same request in the words of `fusewire mount`.
///
/// # Errors
/// If a word is not one that mount(8) uses.
pub fn translate(args: &[OsString]) -> Outcome<Vec<OsString>> {
    let mut command: Vec<OsString> = ["fusewire", "mount", "--daemon"].map(OsString::from).into();
    let mut places = Vec::new();
    let mut words = args.iter().skip(1);
    while let Some(word) = words.next() {
        let bytes = word.as_encoded_bytes();
        if bytes.first() != Some(&b'-') || bytes.len() < 2 {
            places.push(word.clone());
            continue;
        }
        match word.to_str() {
            Some(letter @ ("-o" | "-t" | "-N")) => {
                let value = words.next().ok_or_else(|| misused(&format!("{letter} needs a value")))?;
                match letter {
                    "-o" => command.extend([OsString::from("-o"), value.clone()]),
                    "-N" => return Err(misused("mounting in another namespace (-N) is not supported")),
                    // The type is known already: it is how mount(8) came to call this program.
                    _ => {}
                }
            }
            Some(letters) => {
                for letter in letters.chars().skip(1) {
                    match letter {
                        's' => command.push("--sloppy".into()),
                        'f' => command.push("--dry-run".into()),
                        'v' => command.push("--verbose".into()),
                        'r' => command.push("--read-only".into()),
                        // There is no mtab to write to any more.
                        'n' | 'w' => {}
                        _ => return Err(misused(&format!("the option {letters} is not known"))),
                    }
                }
            }
            None => return Err(misused("an option is not text")),
        }
    }
    if places.len() != 2 {
        return Err(misused("a source and a mount point are needed"));
    }
    command.push("--".into());
    command.extend(places);
    Ok(command)
}

fn misused(what: &str) -> Failure {
    Failure::usage(format!("{what}; usage: {PROGRAM} SRC MNT [-sfnv] [-o OPTIONS]"))
        .or_try("mount -t fuse.fusewire SRC MNT, or fusewire mount SRC MNT")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn callers_are_told_apart() {
        for line in [
            "/sbin/mount.fuse.fusewire /a /b -o rw",
            "mount.fusewire a b",
            "fusewire /a /b -o rw,dev,suid",
            "/usr/bin/fusewire none /b -o rw",
        ] {
            assert!(is_caller(&words(line)), "{line}");
        }
        for line in
            ["fusewire", "fusewire mount /a /b", "fusewire /a", "fusewire probe /b", "fusewire none b"]
        {
            assert!(!is_caller(&words(line)), "{line}");
        }
    }

    #[test]
    fn what_mount_says_is_translated() {
        let said = "/sbin/mount.fuse.fusewire /a -b/c -sv -n -o ro,cache=none -t fuse.fusewire";
        assert!(translate(&words(said)).is_err(), "-b/c is not a mount point");
        let said = "/sbin/mount.fuse.fusewire /a /b -sv -n -o ro,cache=none -t fuse.fusewire";
        let command = translate(&words(said)).expect("translated");
        assert_eq!(command, words("fusewire mount --daemon --sloppy --verbose -o ro,cache=none -- /a /b"));
        assert_eq!(
            translate(&words("m /a /b -f")).expect("translated"),
            words("fusewire mount --daemon --dry-run -- /a /b")
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for line in ["m /a", "m /a /b /c", "m /a /b -o", "m /a /b -N 1", "m /a /b -x"] {
            let refusal = translate(&words(line)).expect_err(line).to_string();
            assert!(refusal.contains("usage: mount.fuse.fusewire"), "{refusal}");
        }
    }
}
