//! The `fusewire` command.
#![deny(clippy::print_stderr)]

mod args;
mod bench;
mod failure;
mod inherited;
mod install;
mod logging;
mod mount;
mod mount8;
mod pages;
mod probe;
mod stats;
mod tell;
mod top;
mod trace;
mod unmount;
mod users;
mod vhost;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::{Failure, Kind, Outcome};
use logging::Destination;
use mount::Role;
use tell::tell;

fn main() -> ExitCode {
    inherited::settle();
    let words: Vec<OsString> = vhost::former::subcommand(std::env::args_os().collect());
    let is_mount8 = mount8::is_caller(&words);
    let outcome =
        if is_mount8 { mount8::translate(&words).and_then(|words| run(&words)) } else { run(&words) };
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    complain(&failure);
    match (is_mount8, failure.kind()) {
        (true, Kind::Usage) => ExitCode::from(mount8::STATUS_USAGE),
        (true, Kind::Failed) => ExitCode::from(mount8::STATUS_FAILED),
        (false, _) => failure.exit_code(),
    }
}

fn complain(failure: &Failure) {
    if !failure.is_told() {
        tell(format_args!("fusewire: {failure}"));
    }
}

fn run(words: &[OsString]) -> Outcome<()> {
    let Cli { log, report_ready, command } = Cli::parse_from(words);
    // What a mount logs, and where, may stand in its mount options.
    if !matches!(command, Command::Mount(_)) {
        let is_quiet = matches!(&command, Command::Vhost(args) if args.syslog);
        if is_quiet && log.log_file.is_some() {
            return Err(Failure::usage("--syslog and --log-file are two places for the same messages")
                .or_try("one of them"));
        }
        logging::start(&log, if is_quiet { Destination::System } else { Destination::Terminal })?;
    }
    match command {
        Command::Mount(args) => {
            let role = if report_ready { Role::Background } else { Role::Caller(words) };
            mount::run(&args, &log, role)
        }
        Command::Unmount(args) => unmount::run(&args),
        Command::Vhost(args) => vhost::run(*args),
        Command::Probe(args) => probe::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::InstallHelper(args) => install::run(&args),
        Command::Completions { shell } => pages::print_completions(shell),
        Command::Man { dir } => pages::write_manual(&dir),
    }
}
