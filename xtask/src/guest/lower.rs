//! Filesystems on disks in the guest, below the mounts that are tested there: what it takes to make and to mount them.

use super::{image::Program, packages::Store};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What makes filesystems.
const FORMATTERS: [&str; 2] = ["mkfs.ext4", "mkfs.xfs"];
/// What the kernel wants for them, beyond what it has. ext4 is part of it.
const MODULES: [&str; 2] = ["loop", "xfs"];
/// Where the programs lie in the guest, with libraries of their own.
const PLACE: &str = "opt/formatters";

/// All of that, or nothing and a word of explanation: tests that need it say so themselves.
pub fn programs(store: &Store, kernel: &Path) -> Vec<Program> {
    let there = modules(store, kernel).and_then(|modules| Ok((modules, formatters(store)?)));
    there.map_or_else(
        |error| {
            eprintln!("xtask: no disk filesystems in the guest: {error:#}");
            Vec::new()
        },
        |(modules, formatters)| modules.into_iter().chain(formatters).collect(),
    )
}

fn modules(store: &Store, kernel: &Path) -> Result<Vec<Program>> {
    let busybox = store.busybox()?;
    let dir = store.dir().join("modules");
    fs::create_dir_all(&dir)?;
    let packed = store.modules(kernel, &MODULES)?;
    let unpack = |(name, packed): (&str, PathBuf)| {
        let from = dir.join(format!("{name}.ko"));
        if packed.extension().is_some_and(|end| end == "xz") {
            let output = Command::new(&busybox).arg("xzcat").arg(&packed).output()?;
            ensure!(output.status.success(), "cannot unpack {}", packed.display());
            fs::write(&from, output.stdout)?;
        } else {
            fs::copy(&packed, &from).with_context(|| format!("{}", packed.display()))?;
        }
        Ok(Program { from, to: format!("modules/{name}.ko").into() })
    };
    MODULES.into_iter().zip(packed).map(unpack).collect()
}

fn formatters(store: &Store) -> Result<Vec<Program>> {
    let formatters = store.formatters()?;
    let place = Path::new(PLACE);
    let mut programs = vec![Program { from: formatters.loader(), to: place.join("ld.so") }];
    for name in FORMATTERS {
        let program = formatters.program(name)?;
        for library in formatters.libraries(&program)? {
            let name = library.file_name().context("a library has a name")?.to_owned();
            programs.push(Program { from: library, to: place.join("lib").join(name) });
        }
        // Found in the guest's PATH, it starts the program by its own loader.
        let script = store.dir().join(name);
        let line = format!("exec /{PLACE}/ld.so --library-path /{PLACE}/lib /{PLACE}/{name} \"$@\"");
        fs::write(&script, format!("#!/bin/sh\n{line}\n"))?;
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        programs.push(Program { from: program, to: place.join(name) });
        programs.push(Program { from: script, to: Path::new("usr/bin").join(name) });
    }
    Ok(programs)
}
