//! The command line.

mod growth;
mod list;
mod run;
mod stored;
mod surroundings;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::daemon;
use crate::target::TargetArgs;
use crate::tree::Lower;

pub use growth::MemoryArgs;
pub use list::ListArgs;
pub use run::{MeasureArgs, RunArgs};
pub use stored::{CompareArgs, OutputArgs, ReportArgs};

/// Compares FUSE mounts with each other and with the directory beneath them
#[derive(Debug, Parser)]
#[command(name = "fusewire-bench", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Measure workloads on targets, in turn
    ///
    /// All targets are mounted at once on the same source directory and take turns at each row. Names are cold: before
    /// each turn the kernel forgets all names and files of the mount (by a remount, which drops them for this mount
    /// only), and created and removed names are new ones. The CPU time of what a daemon does after the last answer,
    /// such as RELEASE, counts. Needs root: everything is mounted in a mount namespace of its own and gone
    /// afterwards. The tables go to standard output, progress to standard error.
    #[command(after_long_help = run::NOTES)]
    Run(RunArgs),
    /// Names and data of a re-exported directory: `run passthrough`
    #[command(after_long_help = run::NOTES)]
    Passthrough(MeasureArgs),
    /// Resident memory of a daemon: idle, and per file the kernel knows
    Memory(MemoryArgs),
    /// Fail if a result is worse than another one beyond noise
    ///
    /// CPU time per operation, throughput, median and 99th percentile of the latency are compared, or what --metric says. A
    /// number is worse if its turns are worse than those before by more than --threshold, and that by more than chance, which
    /// a Mann-Whitney test tells: the further turns of one run lie apart, the more it takes. At least five turns on each side
    /// are needed. Rows in which others disturbed are not judged. Exit status 1 if anything is worse, or failed in the new
    /// result only; if rows, targets or numbers of the old result are missing in the new one, unless --only-common; or if
    /// nothing could be judged.
    Compare(CompareArgs),
    /// Tables and plots of a stored result
    Report(ReportArgs),
    /// Presets, targets found on this machine, and what workload files may say
    List(ListArgs),
    /// Send back what comes in: the other end of the target `pipe`.
    #[command(hide = true)]
    Echo,
}

/// What every measurement takes.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    #[command(flatten)]
    targets: TargetArgs,
    /// What the source directory lies on: `tmpfs`, or an existing directory in which a new one is made; may be repeated
    #[arg(long, value_name = "LOWER", default_value = "tmpfs")]
    lower: Vec<Lower>,
    /// Seconds after which a step without end is aborted
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    limit: u64,
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// If the arguments make no sense, a target cannot be mounted, an operation failed, the run was interrupted, or
    /// a comparison found a regression. What was measured until then has been printed.
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::Run(args) => args.run(),
            Action::Passthrough(args) => args.run_presets(&["passthrough".into()]),
            Action::Memory(args) => args.run(),
            Action::Compare(args) => args.run(),
            Action::Report(args) => args.run(),
            Action::List(args) => args.run(),
            Action::Echo => daemon::echo(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn workloads_and_threads_are_lists() {
        let words = ["x", "passthrough", "--workload", "stat", "--workload", "read-1m", "--threads", "1,4"];
        let Action::Passthrough(args) = Cli::try_parse_from(words).unwrap().action else { panic!() };
        assert_eq!(
            (args.workload, args.threads),
            (vec!["stat".to_owned(), "read-1m".to_owned()], vec![1, 4])
        );
        assert!(Cli::try_parse_from(["x", "memory", "--lower", "/no/such"]).is_err());
        assert!(Cli::try_parse_from(["x", "run"]).is_err(), "nothing to run");
        assert!(Cli::try_parse_from(["x", "run", "a", "b", "--workloads", "c"]).is_ok());
    }
}
