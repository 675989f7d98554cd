//! The program `fusewire-bench`.

use std::process::ExitCode;

use clap::Parser;
use fusewire_bench::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fusewire-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
