//! Suites made by others: pjdfstest and fsx, on every caching profile.

use fusewire_tests::command::{self, Cache};
use fusewire_tests::mount::{self, Plan};
use fusewire_tests::pjdfstest::{self, Cases};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::{fsx, skip_unless};

/// Seeds of fsx, and operations per seed; `FUSEWIRE_TEST_FULL=1` takes more of both.
fn fsx_amount() -> (std::ops::RangeInclusive<u64>, u64) {
    if std::env::var_os("FUSEWIRE_TEST_FULL").is_some() { (1..=10, 100_000) } else { (1..=3, 20_000) }
}

fn run_fsx(mount: impl Fn(&Sandbox) -> Plan<'_>) {
    skip_unless!(command::tool("fsx").is_some(), "fsx is not installed; `cargo xtask setup` does it");
    let (seeds, operations) = fsx_amount();
    let Some(sandbox) = Sandbox::enter(std::time::Duration::from_secs(900)) else { return };
    let mounted = mount(&sandbox).start();
    for seed in seeds {
        let done = fsx::run(&mounted.join(format!("file-{seed}")), sandbox.dir(), operations, seed);
        fsx::assert_clean(&done);
    }
}

/// The C library guesses the greatest link count from the type of the filesystem, and knows none for FUSE. What happens
/// there is the test `lower::one_link_too_many_answers_emlink`.
const UNKNOWN_TO_LIBC: &str = "link::link_count_max";

fn run_pjdfstest(mount: impl Fn(&Sandbox) -> Plan<'_>) {
    skip_unless!(
        command::tool("pjdfstest").is_some(),
        "pjdfstest is not installed; `cargo xtask setup` does it"
    );
    let Some(sandbox) = sandbox::enter() else { return };
    let (native, other) = (sandbox.make_dir("native"), sandbox.tmpfs("other", ""));
    let expected = pjdfstest::run(&native, sandbox.dir(), &other, Cases::All);
    let mounted = mount(&sandbox).start();
    let found = pjdfstest::run(mounted.path(), sandbox.dir(), &other, Cases::All);
    let known = |name: &str| expected.failed.iter().any(|(known, _)| known == name);
    let new: Vec<_> = found.failed.iter().filter(|(name, _)| !known(name)).collect();
    assert!(new.is_empty(), "{} cases fail here and not on the directory:\n{}", new.len(), found.failures());
    // Cases are skipped when a feature is missing; the mount must not lose any.
    let lost = found.skipped.iter().filter(|name| !expected.skipped.contains(name));
    let lost: Vec<_> = lost.filter(|name| *name != UNKNOWN_TO_LIBC).collect();
    assert!(lost.is_empty(), "cases that could not run here: {lost:?}");
    let read_only = pjdfstest::run(mounted.path(), sandbox.dir(), &other, Cases::ReadOnly);
    assert_eq!(read_only.failures(), "", "cases that fail on a filesystem set read-only");
    assert!(read_only.passed > 0 && read_only.skipped.is_empty(), "{read_only:?}");
    println!("{} passed", found.passed + read_only.passed);
}

macro_rules! per_profile {
    ($($name:ident: $cache:expr),+) => {$(
        mod $name {
            use super::*;

            #[test]
            fn pjdfstest_has_no_failure_that_the_directory_has_not() {
                run_pjdfstest(|sandbox| mount::passthrough(sandbox).cache($cache));
            }

            #[test]
            fn fsx_is_clean() {
                run_fsx(|sandbox| mount::passthrough(sandbox).cache($cache));
            }
        }
    )+};
}

per_profile!(
    cache_none: Cache::None,
    cache_auto: Cache::Auto,
    cache_coherent: Cache::Coherent,
    cache_always: Cache::Always
);

mod stateless {
    use super::*;

    #[test]
    fn pjdfstest_has_no_failure_that_the_directory_has_not() {
        run_pjdfstest(mount::stateless);
    }

    #[test]
    fn fsx_is_clean() {
        run_fsx(mount::stateless);
    }
}

mod mem {
    use super::*;

    #[test]
    fn pjdfstest_has_no_failure() {
        run_pjdfstest(mount::mem);
    }

    #[test]
    fn fsx_is_clean() {
        run_fsx(mount::mem);
    }
}
