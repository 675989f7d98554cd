//! The program `fusewire-bench`.

use std::process::ExitCode;

use clap::Parser;
use fusewire::remedy;
use fusewire_bench::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let remedy = remedy::of(error.as_ref()).map(|remedy| format!("\n  try: {remedy}"));
            eprintln!("fusewire-bench: {error:#}{}", remedy.unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}
