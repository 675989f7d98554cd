//! `fusewire-posix`: the suite from a shell. Exit status 0: clean, 1: failures, 2: could not run.

use clap::Parser;
use fusewire_posix::{
    Case, CaseResult, Options, Outcome, RunError, cases, needs, operations, parse, run_cases,
};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Checks whether a filesystem behaves as POSIX and Linux say, in any directory of it.
///
/// Everything happens in a new directory below DIR, which is removed at the end. Run as root, it also checks what
/// other users may do. Exit status: 0 nothing failed, 1 something failed, 2 could not run.
#[derive(Parser)]
#[command(version, name = "fusewire-posix")]
struct Arguments {
    /// Directory on the filesystem to check
    #[arg(required_unless_present_any = ["list", "operations"])]
    dir: Option<PathBuf>,
    /// List the cases with their rules (after --filter) and what they need
    #[arg(long)]
    list: bool,
    /// List the operations that steps of a case may use
    #[arg(long)]
    operations: bool,
    /// Only cases whose name or topic contains TEXT; may be given several times
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// Do not run this case; the reason goes into the report
    #[arg(long, value_name = "NAME=REASON", value_parser = skip)]
    skip: Vec<(String, String)>,
    /// Fail when the directory lacks this need, instead of skipping; `all` for every need
    #[arg(long, value_name = "NEED")]
    require: Vec<String>,
    /// Write the report as JSON to the standard output
    #[arg(long)]
    json: bool,
    /// Run the cases of this file instead of the suite's own; may be given several times
    #[arg(long, value_name = "FILE.toml")]
    cases: Vec<PathBuf>,
    /// Time limit of a case, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Wait so long where timestamps must differ: more than the filesystem's granularity
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 20)]
    tick: u64,
    /// Leave the directories of failed cases behind
    #[arg(long)]
    keep: bool,
    /// No progress on the standard error
    #[arg(long, short)]
    quiet: bool,
}

fn skip(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, reason)) if !name.is_empty() && !reason.is_empty() => {
            Ok((name.to_owned(), reason.to_owned()))
        }
        _ => Err("give a case's name and a reason, NAME=REASON".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match execute(&arguments) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("fusewire-posix: {why}");
            ExitCode::from(2)
        }
    }
}

fn execute(arguments: &Arguments) -> Result<ExitCode, String> {
    let own = own_cases(&arguments.cases)?;
    let all = if arguments.cases.is_empty() { cases() } else { &own };
    if arguments.operations {
        return print(
            &operations().map(|o| format!("{} [{}]\n    {}\n", o.name, o.args, o.help)).collect::<String>(),
        );
    }
    if arguments.list {
        return print(&list(all, &arguments.filter));
    }
    let mut options = Options::default();
    options.filter.clone_from(&arguments.filter);
    options.skip.clone_from(&arguments.skip);
    options.require.clone_from(&arguments.require);
    options.limit = Duration::from_secs(arguments.limit);
    options.tick = Duration::from_millis(arguments.tick);
    options.keep = arguments.keep;
    let dir = arguments.dir.as_deref().ok_or("no directory given")?;
    let (mut done, mut failed) = (0, 0);
    let live = !arguments.quiet && std::io::stderr().is_terminal();
    let mut progress = |result: &CaseResult| {
        done += 1;
        failed += usize::from(matches!(result.outcome, Outcome::Failed(_)));
        if live {
            eprint!("\r\x1b[K{done} cases, {failed} failed: {}", result.name);
        } else if !arguments.quiet && matches!(result.outcome, Outcome::Failed(_)) {
            eprintln!("FAILED {}", result.name);
        }
    };
    let report = run_cases(dir, all, &options, &mut progress).map_err(|error: RunError| error.to_string())?;
    if live {
        eprint!("\r\x1b[K");
    }
    let text = if arguments.json { format!("{:#}", report.to_json()) } else { report.to_string() };
    print(&format!("{text}\n"))?;
    Ok(ExitCode::from(u8::from(!report.is_clean())))
}

/// Writes to the standard output; a reader that has gone (`| head`) is no error.
fn print(text: &str) -> Result<ExitCode, String> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn own_cases(files: &[PathBuf]) -> Result<Vec<Case>, String> {
    let mut all = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let (cases, needs) = parse(&file.display().to_string(), &text).map_err(|error| error.to_string())?;
        if !needs.is_empty() {
            return Err(format!("{}: needs cannot be added, only cases", file.display()));
        }
        all.extend(cases);
    }
    Ok(all)
}

fn list(all: &[Case], filter: &[String]) -> String {
    let mut text = String::new();
    let wanted = |case: &Case| {
        filter.is_empty() || filter.iter().any(|f| case.name.contains(f) || case.topic.contains(f))
    };
    for case in all.iter().filter(|c| wanted(c)) {
        let needs =
            if case.needs.is_empty() { String::new() } else { format!(" needs {}", case.needs.join(", ")) };
        text.push_str(&format!(
            "{} ({}){needs}\n    {} [{}]\n",
            case.name, case.topic, case.rule, case.source
        ));
    }
    if filter.is_empty() {
        for need in needs() {
            text.push_str(&format!(
                "need {}\n    {} [{}]\n",
                need.probe.name, need.probe.rule, need.probe.source
            ));
        }
    }
    text
}
