//! The project's own suite, on every filesystem and caching profile.

use fusewire_tests::command::{self, Cache};
use fusewire_tests::mount::{self, Mount, Plan};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::{actor, skip};
use std::collections::BTreeSet;
use std::path::Path;

/// What no FUSE filesystem can do, whatever its server does, because the kernel's client does not let it.
const BEYOND_FUSE: &[(&str, &str)] = &[
    ("allocate-collapse", "fuse_file_fallocate refuses FALLOC_FL_COLLAPSE_RANGE without asking"),
    ("allocate-insert", "fuse_file_fallocate refuses FALLOC_FL_INSERT_RANGE without asking"),
];

/// What one run said: failures as text, names of what was skipped.
struct Verdict {
    failures: String,
    skipped: BTreeSet<String>,
    passed: usize,
}

fn run(dir: &Path) -> Verdict {
    let done = actor::posix(dir).limit(400).run();
    let of = |kind: &str| {
        let lines = done.stdout.lines().filter_map(move |line| line.strip_prefix(kind)?.strip_prefix('\t'));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let [passed] = &of("passed")[..] else { panic!("the suite did not come to its end\n{done}") };
    let passed = passed.parse().unwrap();
    assert!(passed > 0, "not one case passed\n{done}");
    Verdict { failures: of("failed").join("\n"), skipped: of("skipped").into_iter().collect(), passed }
}

fn assert_clean(mount: &Mount) -> Verdict {
    let found = run(mount.path());
    assert!(found.failures.is_empty(), "cases that fail on the mount:\n{}", found.failures);
    println!("{} passed, {} skipped", found.passed, found.skipped.len());
    found
}

fn on_passthrough(plan: impl Fn(&Sandbox) -> Plan<'_>) {
    let Some(sandbox) = sandbox::enter() else { return };
    let native = run(&sandbox.make_dir("native"));
    assert!(native.failures.is_empty(), "cases that fail on the directory itself:\n{}", native.failures);
    let mount = plan(&sandbox).start();
    let found = assert_clean(&mount);
    let mut lost: Vec<_> = found.skipped.difference(&native.skipped).collect();
    lost.retain(|name| !BEYOND_FUSE.iter().any(|(beyond, _)| beyond == name));
    assert!(lost.is_empty(), "the directory can do this and the mount cannot: {lost:#?}");
    mount.stop();
}

#[test]
fn passthrough_is_clean_without_cache() {
    on_passthrough(|sandbox| mount::passthrough(sandbox).cache(Cache::None));
}

#[test]
fn passthrough_is_clean_by_default() {
    on_passthrough(|sandbox| mount::passthrough(sandbox).default_cache());
}

#[test]
fn passthrough_is_clean_with_short_caches() {
    on_passthrough(|sandbox| mount::passthrough(sandbox).cache(Cache::Auto));
}

#[test]
fn passthrough_is_clean_with_stateless_opens() {
    on_passthrough(mount::stateless);
}

#[test]
fn passthrough_is_clean_with_all_caches() {
    on_passthrough(|sandbox| mount::passthrough(sandbox).cache(Cache::Always));
}

#[test]
fn mem_is_clean() {
    if command::other_server().is_some() {
        return skip::report("the stand-in server has no filesystem in memory");
    }
    let Some(sandbox) = sandbox::enter() else { return };
    for cache in Cache::ALL {
        let mount = mount::mem(&sandbox).name(cache.word()).cache(cache).start();
        assert_clean(&mount);
        mount.stop();
    }
}
