//! Programs that people use, at work on the mount.

use fusewire_tests::command::Cache;
use fusewire_tests::mount::{self, Mount};
use fusewire_tests::program::{as_user, program, shell};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::{need, skip, skip_unless, tree, wait};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs the work on a mount with each caching profile.
fn on_every_profile(work: impl Fn(&Sandbox, &Mount)) {
    let Some(sandbox) = Sandbox::enter(Duration::from_secs(500)) else { return };
    for cache in Cache::ALL {
        println!("--cache {}", cache.word());
        let mount = mount::passthrough(&sandbox).name(cache.word()).cache(cache).start();
        work(&sandbox, &mount);
        mount.stop();
    }
}

#[test]
fn git_clone_commit_gc_and_fsck() {
    need!("git");
    on_every_profile(|sandbox, mount| {
        let origin = sandbox.dir().join("origin");
        if !origin.exists() {
            let line = r#"
                mkdir "$1"; cd "$1"; git init -q -b main .
                for round in $(seq 20); do
                    mkdir -p "dir$((round % 4))"
                    for i in $(seq 15); do seq $round $((round * i * 7)) > "dir$((round % 4))/file$i"; done
                    git add -A; git commit -q -m "round $round"
                done
                git tag v1
            "#;
            git(shell(line, &[&origin])).ok();
        }
        let clone = mount.join("clone");
        git(program("git").args(["clone", "-q", "--no-local"]).args([&origin, &clone])).ok();
        let line = r#"
            cd "$1"
            git fsck --full --strict
            test -z "$(git status --porcelain)"
            git checkout -q -b side HEAD~10
            seq 5000 > new; git add new; git commit -q -m side
            git merge -q -m merge main
            git gc -q --aggressive --prune=now
            git fsck --full --strict
            git stash list
            git worktree add -q -b other ../tree HEAD~1
            test -z "$(git -C ../tree status --porcelain)"
            git diff --exit-code v1 main
        "#;
        git(shell(line, &[&clone])).limit(120).ok();
        // The repository is whole underneath, too.
        git(program("git").args(["fsck", "--full"]).dir(mount.below("clone"))).ok();
        git(shell(r#"cd "$1"; test -z "$(git status --porcelain)""#, &[&mount.below("clone")])).ok();
    });
}

/// Git without the settings of whoever runs the tests.
fn git(program: fusewire_tests::program::Program) -> fusewire_tests::program::Program {
    let settings = [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "safe.directory"),
        ("GIT_CONFIG_VALUE_0", "*"),
        ("GIT_AUTHOR_NAME", "A"),
        ("GIT_AUTHOR_EMAIL", "a@example.org"),
        ("GIT_COMMITTER_NAME", "A"),
        ("GIT_COMMITTER_EMAIL", "a@example.org"),
    ];
    settings.into_iter().fold(program, |program, (name, value)| program.env(name, value))
}

#[test]
fn sqlite_in_wal_mode_survives_kill_9_of_its_client() {
    need!("sqlite3");
    on_every_profile(|sandbox, mount| {
        let database = mount.join("test.db");
        // A program that was killed is not waited for, only its shell, and may have locks for a moment still.
        let sql = |database: &Path, text: &str| {
            program("sqlite3").args(["-cmd", ".timeout 5000"]).arg(database).arg(text).ok()
        };
        let mode =
            sql(&database, "PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, text TEXT);");
        assert_eq!(mode.trim(), "wal");
        for round in 0..3_u32 {
            // Each insert is a transaction, and what was acknowledged is counted outside of the mount.
            let counted = sandbox.dir().join("acknowledged");
            let line = r#"
                i=$3
                while :; do i=$((i+1)); echo "INSERT INTO t VALUES($i, printf('%.*c', 500, 'x')); SELECT $i;"; done |
                sqlite3 -cmd ".timeout 5000" "$1" >> "$2"
            "#;
            let start = last(&counted).to_string();
            let mut writer = shell(line, &[&database, &counted, Path::new(&start)]).start();
            let enough = last(&counted) + 300;
            wait::assert_within(Duration::from_secs(60), "300 more rows", || last(&counted) >= enough);
            writer.signal(Signal::KILL);
            assert!(writer.end_within(wait::SOON).is_some(), "round {round}: the writer cannot be killed");
            let rows: u64 = sql(&database, "SELECT count(*) FROM t;").trim().parse().unwrap();
            assert!(rows >= last(&counted), "{rows} rows of {} that were acknowledged", last(&counted));
            assert_eq!(sql(&database, "PRAGMA integrity_check;").trim(), "ok");
        }
        sql(&database, "DELETE FROM t WHERE i % 2; VACUUM; PRAGMA wal_checkpoint(TRUNCATE);");
        assert_eq!(sql(&mount.below("test.db"), "PRAGMA integrity_check;").trim(), "ok");
        std::fs::remove_file(sandbox.dir().join("acknowledged")).unwrap();
    });
}

/// The last complete number in a file of numbers.
fn last(file: &Path) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete.lines().next_back().and_then(|line| line.parse().ok()).unwrap_or(0)
}

/// Two processes that share a database through its shared-memory file see each other's transactions.
#[test]
fn sqlite_with_several_writers_loses_nothing() {
    need!("sqlite3");
    on_every_profile(|_, mount| {
        let database = mount.join("shared.db");
        let setup = "PRAGMA journal_mode=WAL; CREATE TABLE t(who TEXT, i INTEGER);";
        program("sqlite3").arg(&database).arg(setup).ok();
        let writers: Vec<_> = ["a", "b", "c"]
            .map(|who| {
                let line = r#"
                    for i in $(seq 100); do echo "INSERT INTO t VALUES('$2', $i);"; done |
                    sqlite3 -bail -cmd ".timeout 60000" "$1"
                "#;
                shell(line, &[&database, Path::new(who)]).start()
            })
            .into();
        for writer in writers {
            writer.finish(Duration::from_secs(120)).ok();
        }
        let counts = program("sqlite3")
            .arg(&database)
            .arg("SELECT who, count(*) FROM t GROUP BY who ORDER BY who;")
            .ok();
        assert_eq!(counts, "a|100\nb|100\nc|100\n");
    });
}

/// The newest installed PostgreSQL's programs.
fn postgresql() -> Option<PathBuf> {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin"));
    versions.filter(|dir| dir.join("initdb").is_file() && dir.join("pgbench").is_file()).max()
}

#[test]
fn postgresql_initdb_and_pgbench_as_its_own_user() {
    need!("setpriv");
    let Some(bin) = postgresql() else {
        return skip::report("PostgreSQL is not installed; `cargo xtask setup` does it");
    };
    on_every_profile(|sandbox, mount| {
        sandbox::chmod(mount.path(), 0o1777);
        let data = mount.join("data");
        let sockets = sandbox.make_dir("sockets");
        sandbox::chmod(&sockets, 0o1777);
        let pg = |name: &str| as_user("postgres", bin.join(name)).dir("/").limit(180);
        pg("initdb").args(["--data-checksums", "--auth=trust", "-D"]).arg(&data).ok();
        let owner = |path: &Path| {
            let meta = path.metadata().unwrap();
            (std::os::unix::fs::MetadataExt::uid(&meta), std::os::unix::fs::MetadataExt::mode(&meta) & 0o777)
        };
        let account: u32 = program("id").args(["-u", "postgres"]).ok().trim().parse().unwrap();
        assert_eq!(owner(&mount.below("data")), (account, 0o700));
        let options = format!("-c listen_addresses='' -c unix_socket_directories='{}'", sockets.display());
        let control = |words: &[&str]| {
            let log = sandbox.dir().join("sockets/log");
            pg("pg_ctl")
                .args(["-w", "-t", "60", "-D"])
                .arg(&data)
                .arg("-l")
                .arg(log)
                .arg("-o")
                .arg(&options)
                .args(words)
                .ok()
        };
        control(&["start"]);
        let client = |name: &str| pg(name).arg("-h").arg(&sockets).args(["-U", "postgres"]);
        client("pgbench").args(["-i", "-q", "-s", "2", "postgres"]).ok();
        let report = client("pgbench").args(["-c", "4", "-j", "2", "-t", "150", "postgres"]).ok();
        assert!(report.contains("number of transactions actually processed: 600/600"), "{report}");
        // A crash of the database: it recovers from its log.
        control(&["-m", "immediate", "stop"]);
        control(&["start"]);
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches),
                    (SELECT count(*) FROM pgbench_history)";
        assert_eq!(client("psql").args(["-Atc", sums, "postgres"]).ok(), "t|600\n");
        control(&["-m", "fast", "stop"]);
        pg("pg_checksums").args(["--check", "-D"]).arg(&data).ok();
        std::fs::remove_dir_all(&sockets).unwrap();
    });
}

#[test]
fn cargo_builds_and_runs_a_crate() {
    need!("cargo", "cc");
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    let line = r#"
        mkdir -p "$1/crate/src"; cd "$1/crate"
        printf '[package]\nname = "small"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n' > Cargo.toml
        printf 'pub mod part;\npub fn answer() -> u32 { part::half() * 2 }\n#[test] fn works() { assert_eq!(answer(), 42) }\n' > src/lib.rs
        printf 'pub fn half() -> u32 { 21 }\n' > src/part.rs
        printf 'fn main() { println!("{}", small::answer()) }\n' > src/main.rs
        cargo build --offline --quiet
        test "$(target/debug/small)" = 42
        printf 'pub fn half() -> u32 { 22 }\n' > src/part.rs
        cargo build --offline --quiet
        test "$(target/debug/small)" = 44
        printf 'pub fn half() -> u32 { 21 }\n' > src/part.rs
        cargo test --offline --quiet
        cargo clean --quiet
        test ! -e target
    "#;
    // The target directory is the crate's own, on the mount.
    let build =
        shell(line, &[mount.path()]).without_env("CARGO_TARGET_DIR").without_env("CARGO_BUILD_TARGET_DIR");
    build.without_env("RUSTFLAGS").limit(200).ok();
    mount.stop();
}

#[test]
fn a_tree_packed_and_unpacked_is_the_same_tree() {
    need!("rsync", "tar");
    on_every_profile(|sandbox, mount| {
        let original = sandbox.dir().join("original");
        if !original.exists() {
            tree::everything(&sandbox.make_dir("original"));
        }
        let unpack = r#"tar -C "$1" --acls --xattrs --xattrs-include='*' -cSf - . | (mkdir "$2"; tar -C "$2" --acls --xattrs --xattrs-include='*' -xpSf -)"#;
        shell(unpack, &[&original, &mount.join("unpacked")]).limit(120).ok();
        assert_eq!(tree::difference(&original, &mount.join("unpacked")), "", "as seen through the mount");
        assert_eq!(tree::difference(&original, &mount.below("unpacked")), "", "as stored");
        let sparse =
            std::os::unix::fs::MetadataExt::blocks(&mount.below("unpacked/sparse").metadata().unwrap());
        assert!(sparse < 2000, "a hole of 1 GiB became {sparse} blocks");
        // Once more, now read from the mount.
        shell(unpack, &[&mount.join("unpacked"), &mount.join("again")]).limit(120).ok();
        assert_eq!(tree::difference(&original, &mount.below("again")), "", "packed from the mount");
        program("rm").arg("-rf").args(["unpacked", "again"].map(|name| mount.join(name))).ok();
        assert_eq!(std::fs::read_dir(mount.source()).unwrap().count(), 0);
    });
}

#[test]
fn rsync_copies_onto_the_mount_and_finds_no_difference() {
    need!("rsync");
    on_every_profile(|sandbox, mount| {
        let original = sandbox.dir().join("original");
        if !original.exists() {
            tree::everything(&sandbox.make_dir("original"));
        }
        let from = format!("{}/", original.display());
        let copy = |target: &Path| {
            program("rsync").args(["-aHAXS", "--delete"]).arg(&from).arg(target).limit(120).ok()
        };
        copy(&mount.join("copy"));
        assert_eq!(tree::difference(&original, &mount.below("copy")), "");
        assert_eq!(
            tree::difference(&mount.join("copy"), &mount.below("copy")),
            "",
            "mount and directory differ"
        );
        // Again with changes: files rewritten through a temporary name, and removed.
        std::fs::write(mount.join("copy/plain"), "changed").unwrap();
        std::fs::write(mount.join("copy/extra"), "extra").unwrap();
        copy(&mount.join("copy"));
        assert_eq!(tree::difference(&original, &mount.below("copy")), "");
    });
}

#[test]
fn overlayfs_takes_the_mount_as_upper_and_work_directory() {
    skip_unless!(skip::kernel_has("overlay"), "the kernel has no overlayfs");
    on_every_profile(|sandbox, mount| {
        let name = mount.path().file_name().unwrap().to_string_lossy().into_owned();
        let lower = sandbox.make_dir(&format!("{name}-lower"));
        let line = r#"
            cd "$1"; mkdir -p dir/sub gone keep; echo lower > dir/file; echo lower > dir/sub/file
            echo lower > gone/file; echo lower > keep/file; echo lower > plain; echo lower > removed
        "#;
        shell(line, &[&lower]).ok();
        let [upper, work] = ["upper", "work"].map(|name| mount.join(name));
        std::fs::create_dir(&upper).unwrap();
        std::fs::create_dir(&work).unwrap();
        let merged = sandbox.make_dir(&format!("{name}-merged"));
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        sandbox::mount("overlay", "overlay", &merged, &options);
        assert!(!overlay_is_read_only(&merged), "overlayfs took the mount read-only");
        let line = r#"
            cd "$1"
            echo upper >> plain; test "$(cat plain)" = "$(printf 'lower\nupper')"
            rm removed; test ! -e removed
            rm -r gone; test ! -e gone
            mkdir gone; test -z "$(ls gone)"
            mv keep/file keep/moved; test "$(cat keep/moved)" = lower; test ! -e keep/file
            mkdir new; echo x > new/file; mv new renamed; test "$(cat renamed/file)" = x
            ln plain link; chmod 600 link; test "$(stat -c %a plain)" = 600
            cp -r dir dir2; rm -r dir; test ! -e dir
            echo again > removed; test "$(cat removed)" = again
        "#;
        shell(line, &[&merged]).ok();
        // What overlayfs keeps on the mount: a whiteout, an opaque directory.
        let whiteout = mount.below("upper/dir").symlink_metadata().unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::rdev(&whiteout), 0, "the whiteout is the device 0:0");
        if skip::find_program("getfattr").is_some() {
            let opaque = program("getfattr")
                .args(["-n", "trusted.overlay.opaque"])
                .arg(mount.below("upper/gone"))
                .ok();
            assert!(opaque.contains("trusted.overlay.opaque=\"y\""), "{opaque}");
        }
        program("umount").arg(&merged).ok();
        assert_eq!(std::fs::read_to_string(lower.join("plain")).unwrap(), "lower\n");
        // The same layers again, as after a reboot.
        sandbox::mount("overlay", "overlay", &merged, &options);
        shell(r#"cd "$1"; test "$(cat removed)" = again; test ! -e dir; test -e dir2/sub/file"#, &[&merged])
            .ok();
        program("umount").arg(&merged).ok();
    });
}

fn overlay_is_read_only(merged: &Path) -> bool {
    std::fs::create_dir(merged.join("probe"))
        .and_then(|()| std::fs::remove_dir(merged.join("probe")))
        .is_err()
}

#[test]
fn inotify_reports_what_happens_on_the_mount() {
    need!("inotifywait");
    on_every_profile(|sandbox, mount| {
        std::fs::create_dir(mount.join("watched")).unwrap();
        let mut watch = program("inotifywait")
            .args(["-q", "-m", "--format", "%e %f", "-e", "create,modify,close_write,move,delete,attrib"])
            .arg(mount.join("watched"))
            .start();
        // The program is silent about being ready when it is told to be quiet: poke until something is reported.
        wait::assert_within(wait::SOON, "inotifywait watches", || {
            let _ = std::fs::File::create(mount.join("watched/poke"));
            watch.stdout().contains("poke")
        });
        let line = r#"cd "$1/watched"; echo x > a; chmod 600 a; mv a b; mkdir d; rm b; rmdir d"#;
        shell(line, &[mount.path()]).ok();
        let wanted = [
            "CREATE a",
            "MODIFY a",
            "CLOSE_WRITE,CLOSE a",
            "ATTRIB a",
            "MOVED_FROM a",
            "MOVED_TO b",
            "CREATE,ISDIR d",
            "DELETE b",
            "DELETE,ISDIR d",
        ];
        let all = |text: &str| wanted.iter().all(|event| text.lines().any(|line| line == *event));
        let seen = wait::until(wait::SOON, || all(&watch.stdout()).then_some(()));
        assert!(seen.is_some(), "of {wanted:?} only this was reported:\n{}", watch.stdout());
        let _ = sandbox;
    });
}

#[test]
fn mapped_files_are_shared_between_processes() {
    need!("python3");
    on_every_profile(|_, mount| {
        let line = r#"
import mmap, os, sys
path = sys.argv[1]
with open(path, "w+b") as file:
    file.truncate(1 << 20)
    shared = mmap.mmap(file.fileno(), 0)
    pid = os.fork()
    if pid == 0:
        shared[500000:500005] = b"child"
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert shared[500000:500005] == b"child"
    private = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    private[0:7] = b"private"
    assert shared[0:7] == bytes(7)
    shared[1 << 19:(1 << 19) + 4] = b"here"
    shared.flush()
    assert os.pread(file.fileno(), 4, 1 << 19) == b"here"
    os.pwrite(file.fileno(), b"pwrite", 4096)
    assert shared[4096:4102] == b"pwrite"
        "#;
        program("python3").arg("-c").arg(line).arg(mount.join("mapped")).ok();
        let bytes = std::fs::read(mount.below("mapped")).unwrap();
        assert_eq!((&bytes[500_000..500_005], &bytes[4096..4102]), (&b"child"[..], &b"pwrite"[..]));
    });
}
