//! The command line of `fusewire trace`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use fusewire_abi::Opcode;

use crate::args::number;

/// What stands below the help of `fusewire trace`.
pub const EXAMPLES: &str = "\
Examples:
  fusewire trace                         each request of every FUSE mount
  fusewire trace --op lookup,getattr /mnt/data
  fusewire trace --slow 10000            what took 10 ms or more
  fusewire trace --json --count 1000 | jq -r .operation | sort | uniq -c

A line has: the time of sending (UTC), the mount, the operation, the node and the name in it, who asked, how long it took from \
sending to the answer, and the error or the bytes that went to and fro. With --split also how long the request waited for the server.

Requests are told of when they are answered; what is stuck is seen in `fusewire top`. What this process itself causes is left out. \
If requests come faster than they can be printed some are lost; that is said, with their number.";

/// Microseconds of a year.
const SLOWEST: u64 = 365 * 86_400 * 1_000_000;

/// What `fusewire trace` takes.
#[derive(Args, Debug)]
pub struct TraceArgs {
    /// Only this mount
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    pub mountpoint: Option<PathBuf>,
    /// Only these operations, such as lookup,read
    #[arg(long = "op", value_name = "OPERATION", value_delimiter = ',', value_parser = operation)]
    pub operations: Vec<u32>,
    /// Only requests of this process
    #[arg(long, value_name = "PID", value_parser = number(1..=i32::MAX as u32))]
    pub pid: Option<u32>,
    /// Only requests that took so many microseconds or longer
    #[arg(long, value_name = "US", default_value_t = 0, value_parser = number(0..=SLOWEST))]
    pub slow: u64,
    /// End after so many requests
    #[arg(short = 'n', long, value_name = "N", value_parser = number(1..=u64::MAX))]
    pub count: Option<u64>,
    /// Tell how long requests waited for the server, too; costs a little at every system call of the machine
    #[arg(long)]
    pub split: bool,
    /// Print JSON, an object in a line for each request
    #[arg(long)]
    pub json: bool,
}

/// Reads the name of an operation, in capitals or not, with or without `FUSE_`.
fn operation(text: &str) -> Result<u32, String> {
    let name = text.trim().to_ascii_uppercase();
    let name = name.strip_prefix("FUSE_").unwrap_or(&name);
    match Opcode::ALL.iter().find(|opcode| opcode.name() == name) {
        Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt) => {
            Err(format!("{name} has no answer, and the kernel does not show it"))
        }
        Some(opcode) => Ok(*opcode as u32),
        None => Err("there is no such operation; for example lookup, getattr, read, readdirplus".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_names() {
        assert_eq!(operation("lookup"), Ok(1));
        assert_eq!(operation("FUSE_READ"), Ok(15));
        assert!(operation("forget").is_err() && operation("walk").is_err());
    }
}
