//! Everything at once on one mount, for long. Not part of a normal run: `cargo xtask soak MINUTES`.

use fusewire_tests::program::{Program, program, shell};
use fusewire_tests::sandbox::Sandbox;
use fusewire_tests::{command, fsx, mount, need, skip_unless, tree};
use std::path::Path;
use std::time::{Duration, Instant};

/// Resident memory may grow by this much over the whole run: caches fill, and then no more.
const GROWTH_KIB: u64 = 16 << 10;

#[test]
#[ignore = "takes as many minutes as FUSEWIRE_SOAK_MINUTES says"]
fn work_of_every_kind_on_one_mount() {
    need!("git", "rsync", "sqlite3", "tar");
    skip_unless!(command::tool("fsx").is_some(), "fsx is not installed; `cargo xtask setup` does it");
    let minutes =
        std::env::var("FUSEWIRE_SOAK_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let time = Duration::from_secs(60 * minutes);
    let Some(sandbox) = Sandbox::enter(time + Duration::from_secs(600)) else { return };
    let original = sandbox.make_dir("original");
    tree::everything(&original);
    let mount = mount::passthrough(&sandbox).start();
    let end = Instant::now() + time;
    let (mut round, mut settled) = (0_u64, None);
    while Instant::now() < end {
        round += 1;
        let dir = mount.join(format!("round-{round}"));
        std::fs::create_dir(&dir).unwrap();
        let scratch = sandbox.dir();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let seed = round + u64::from(std::process::id()) * 1_000_000;
                let done = fsx::run(&dir.join("fsx"), scratch, 20_000, seed);
                fsx::assert_clean(&done);
            });
            scope.spawn(|| copy_and_compare(&original, &dir));
            scope.spawn(|| database(&dir).limit(300).ok());
            scope.spawn(|| history(&dir).limit(300).ok());
        });
        program("rm").arg("-rf").arg(&dir).limit(120).ok();
        let resident = mount.resident_kib();
        println!("round {round}: {resident} KiB resident");
        let settled = *settled.get_or_insert(resident);
        assert!(resident < settled + GROWTH_KIB, "resident memory grew from {settled} to {resident} KiB");
    }
    assert_eq!(std::fs::read_dir(mount.source()).unwrap().count(), 0);
    mount.stop();
}

fn copy_and_compare(original: &Path, dir: &Path) {
    let copy = dir.join("copy");
    program("rsync").args(["-aHAXS"]).arg(format!("{}/", original.display())).arg(&copy).limit(300).ok();
    assert_eq!(tree::difference(original, &copy), "");
    let line = r#"mkdir "$2"; tar -C "$1" -cSf - . | tar -C "$2" -xpSf -; diff -r --no-dereference "$1/many" "$2/many""#;
    shell(line, &[&copy, &dir.join("unpacked")]).limit(300).ok();
}

fn database(dir: &Path) -> Program {
    let line = r#"
        sqlite3 "$1/db" 'PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, text TEXT);'
        for i in $(seq 300); do echo "INSERT INTO t VALUES($i, printf('%.*c', 500, 'x'));"; done | sqlite3 "$1/db"
        test "$(sqlite3 "$1/db" 'PRAGMA integrity_check;')" = ok
    "#;
    shell(line, &[dir])
}

fn history(dir: &Path) -> Program {
    let line = r#"
        git init -q -b main "$1/git"; cd "$1/git"
        for round in $(seq 15); do seq "$((round * 500))" > "file$((round % 5))"; git add -A; git commit -q -m "$round"; done
        git gc -q --prune=now; git fsck --full --strict
    "#;
    let names = ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"];
    let settings = ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"];
    let with_names =
        names.into_iter().fold(shell(line, &[dir]), |shell, name| shell.env(name, "a@example.org"));
    settings.into_iter().fold(with_names, |shell, name| shell.env(name, "/dev/null"))
}
