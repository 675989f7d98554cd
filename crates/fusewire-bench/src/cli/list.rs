//! `list`: what can be measured here.

use std::fmt::Write;

use anyhow::Result;
use clap::Args;

use crate::program;
use crate::suite::{self, Suite};
use crate::target::{Profile, TargetArgs};

/// What `list` takes.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    targets: TargetArgs,
}

impl ListArgs {
    pub(super) fn run(self) -> Result<()> {
        print!("{}", self.text()?);
        Ok(())
    }

    fn text(&self) -> Result<String> {
        let mut out = String::from("Presets:\n");
        for name in Suite::presets() {
            let suite = Suite::preset(name)?;
            let _ = writeln!(out, "  {name}: {}", suite.title);
            for workload in &suite.workloads {
                let threads: Vec<_> = workload.threads.iter().map(usize::to_string).collect();
                let _ =
                    writeln!(out, "    {:<22} ×{:<15} {}", workload.name, threads.join(","), workload.about);
            }
            if let Err(missing) = program::check_needs(&suite.workloads) {
                let _ = writeln!(out, "    ! {missing}");
            }
        }
        out.push_str("\nTargets on this machine:\n  native, pipe\n");
        for name in ["fusewire", "mem", "null", "vhost", "fuser"] {
            let alone = TargetArgs { targets: vec![name.into()], ..self.targets.clone() };
            match alone.resolve(&[], Profile::Auto) {
                Ok(_) => {
                    let _ = writeln!(out, "  {name}");
                }
                Err(error) => {
                    let _ = writeln!(out, "  {name}: not here: {error:#}");
                }
            }
        }
        for (name, is_here) in self.targets.known_peers()?.names() {
            let _ = writeln!(out, "  {name}{}", if is_here { "" } else { ": not here" });
        }
        out.push_str("\nOperations in workload files, and their keys:\n");
        out.push_str(&suite::describe_keys());
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_targets_and_operations_are_listed() {
        let targets = TargetArgs {
            fuser: Some("/bin/sh".into()),
            fusewire: Some("/no/such".into()),
            ..TargetArgs::default()
        };
        let text = ListArgs { targets }.text().unwrap();
        for needle in [
            "  passthrough: Names and data",
            "    stat ",
            "  fuser\n",
            "  fusewire: not here: ",
            "--fusewire",
            "  passthrough_ll",
            "read-file  ops size",
        ] {
            assert!(text.contains(needle), "`{needle}` is missing in:\n{text}");
        }
    }
}
