//! `fusewire bench`: starts the program `fusewire-bench`. It is a program of its own so that no mount carries its code.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::failure::{Failure, Outcome};

const PROGRAM: &str = "fusewire-bench";

/// What stands below the help of `fusewire bench`.
pub const NOTES: &str = "\
Examples:
  fusewire bench list
      Presets, and what can be measured on this machine.
  sudo fusewire bench run passthrough --html report.html
      Names and data of a directory, natively and re-exported, with a page of plots.
  sudo fusewire bench run create dio-read -t native -t fusewire:channel=dev-fuse+uring
      Two presets over both channels, in turn.
  sudo fusewire bench run round-trip -t pipe -t null --cpu 0
      The price of one request, beside that of a byte through a pipe and back.
  sudo fusewire bench run smallfile --json new.json && fusewire bench compare old.json new.json
      Fails if something is slower than before beyond noise.

The rest:
  `fusewire bench --help`, and --help behind each of its commands: run, passthrough, memory, compare, report, list.

Where it is:
  The words go to the program fusewire-bench, which lies beside fusewire or in the PATH
  (cargo install fusewire-bench).";

/// What `fusewire bench` takes.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// What to do, and how
    #[arg(value_name = "WORD", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Becomes the program `fusewire-bench`.
///
/// # Errors
/// If it is not there or cannot be started.
pub fn run(args: &BenchArgs) -> Outcome<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let places: Vec<PathBuf> = beside.into_iter().chain(std::env::split_paths(&path)).collect();
    let Some(program) = find(&places) else {
        return Err(Failure::new(format!(
            "cannot find {PROGRAM}: it is neither beside fusewire nor in the PATH"
        ))
        .or_try(format!("cargo install {PROGRAM}")));
    };
    let error = Command::new(&program).args(&args.words).exec();
    Err(Failure::because(format_args!("cannot start {}", program.display()), &error))
}

fn find(places: &[PathBuf]) -> Option<PathBuf> {
    places.iter().map(|dir| dir.join(PROGRAM)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn all_words_are_passed_on() {
        for words in [&["run", "create", "-t", "native", "--html", "x"][..], &["--help"], &["run", "-h"], &[]]
        {
            let line = [&["fusewire", "bench"], words].concat();
            let Command::Bench(args) = Cli::try_parse_from(line).expect("parses").command else {
                panic!("another command")
            };
            assert_eq!(args.words, words);
        }
    }

    #[test]
    fn the_program_is_found_in_the_first_place_that_has_it() {
        let (empty, full) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        let program = full.path().join(PROGRAM);
        std::fs::write(&program, "").expect("written");
        let places = [empty.path().to_owned(), full.path().to_owned()];
        assert_eq!(find(&places), Some(program));
        assert_eq!(find(&places[..1]), None);
    }
}
