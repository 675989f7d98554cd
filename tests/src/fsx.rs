//! The file exerciser `fsx` on one file.

use crate::command;
use crate::program::{Finished, program};
use std::path::Path;

/// Every operation it has; sizes that cross the largest FUSE request.
const CONFIGURATION: &str = include_str!("fsx.toml");

/// Runs it on `file` with the seed; files for looking into a failure go to `scratch`.
#[track_caller]
pub fn run(file: &Path, scratch: &Path, operations: u64, seed: u64) -> Finished {
    let configuration = scratch.join("fsx.toml");
    std::fs::write(&configuration, CONFIGURATION).expect("configuration");
    let tool = command::tool("fsx").expect("checked by the caller");
    program(tool)
        .args([Path::new("-f"), &configuration, Path::new("-P"), scratch])
        .args(["-N", &operations.to_string(), "-S", &seed.to_string()])
        .arg(file)
        .limit(60 + operations / 50)
        .run()
}

/// Insists on a clean run.
#[track_caller]
pub fn assert_clean(done: &Finished) {
    // It may also end with code 0 before all operations are done, so both signs are asked for.
    assert!(done.status.success() && done.stdout.contains("All operations completed"), "{done}");
}
