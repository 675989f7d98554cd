//! Measuring: the crate `fusewire-bench` under the name of a command.

use fusewire_bench::cli::BenchArgs;

use crate::failure::{Failure, Outcome};

/// What stands below the help of `fusewire bench`.
pub const EXAMPLES: &str = "\
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
      Fails if something is slower than before beyond noise.";

/// Does what was asked for.
///
/// # Errors
/// If it cannot be measured, or a comparison found a regression.
pub fn run(args: BenchArgs) -> Outcome<()> {
    args.run(&["bench"]).map_err(|error| Failure::new(format!("{error:#}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::failure::Kind;

    #[test]
    fn a_result_that_is_not_there_is_a_failure() {
        let words = ["fusewire", "bench", "compare", "/no/such/old", "/no/such/new"];
        let Command::Bench(args) = Cli::try_parse_from(words).expect("parses").command else {
            panic!("another command")
        };
        let failure = run(*args).expect_err("there is no such file");
        assert!(failure.to_string().contains("/no/such/old"), "{failure}");
        assert_eq!(failure.kind(), Kind::Failed);
        assert!(Cli::try_parse_from(["fusewire", "bench"]).is_err(), "nothing to do");
    }
}
