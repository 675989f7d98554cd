//! What `fusewire mount` does when nobody says what is to be cached.

use super::coherent::WINDOW;
use fusewire_tests::command::{self, Cache};
use fusewire_tests::mount::{self, Mount, Plan};
use fusewire_tests::program::{as_user, program};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::wait;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// Without `--cache`, whatever the tests run with otherwise.
fn plain(sandbox: &Sandbox) -> Plan<'_> {
    mount::passthrough(sandbox).default_cache()
}

/// The profile that the line at the start names.
fn said(mount: &Mount) -> String {
    wait::until(wait::SOON, || {
        let log = mount.log();
        let (_, rest) = log.split_once(", cache ")?;
        rest.split(['\n', ',', ')']).next().map(str::to_owned)
    })
    .expect("the line at the start names a profile")
}

fn requests(mount: &Mount) -> Value {
    let text = program(command::binary()).args(["stats", "--json"]).arg(mount.path()).limit(30).ok();
    serde_json::from_str(&text).expect("JSON")
}

/// What a mount of `dir` would do by itself: verdict, and why.
fn probed(dir: &Path) -> (Value, String) {
    let text = program(command::binary()).args(["probe", "--json"]).arg(dir).limit(30).ok();
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let check = report["checks"]["dir.coherent_default"].clone();
    (check["verdict"].clone(), check["detail"].as_str().expect("a reason").to_owned())
}

#[test]
fn caches_are_coherent_where_they_can_be() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = plain(&sandbox).start();
    assert_eq!(said(&mount), "coherent");
    assert_eq!(probed(mount.source()).0, "yes");
    fs::write(mount.below("file"), "one").unwrap();
    let look = || {
        let text = fs::read_to_string(mount.join("file"));
        (fs::metadata(mount.join("file")).map(|meta| meta.len()).ok(), mount.join("none").exists(), text.ok())
    };
    let first = look();
    assert_eq!(first, (Some(3), false, Some("one".to_owned())));
    let names = |report: &Value| {
        let count = |name: &str| {
            let all = report["operations"].as_array().expect("operations");
            all.iter()
                .find(|one| one["name"] == name)
                .map_or(0, |one| one["requests"].as_u64().expect("a number"))
        };
        ["LOOKUP", "GETATTR", "READ"].map(count)
    };
    assert_eq!(requests(&mount)["cache"], "coherent");
    mount.until_told();
    // Where others change so much that events are lost, everything is looked at anew.
    wait::assert_within(wait::SOON, "a second look is no request", || {
        look();
        let before = names(&requests(&mount));
        (0..5).for_each(|_| assert_eq!(look(), first));
        names(&requests(&mount)) == before
    });
    fs::write(mount.below("file"), "two, longer").unwrap();
    fs::write(mount.below("none"), "").unwrap();
    wait::assert_within(WINDOW, "what was changed below", || {
        look() == (Some(11), true, Some("two, longer".to_owned()))
    });
    mount.stop();
}

/// The feed of changes does not reach there.
#[test]
fn with_another_filesystem_inside_they_are_kept_for_a_moment() {
    let Some(sandbox) = sandbox::enter() else { return };
    let source = sandbox.make_dir("a.src");
    sandbox.tmpfs("a.src/inner", "size=1m");
    let mount = plain(&sandbox).source(&source).option("log=info").start();
    assert_eq!(said(&mount), "auto");
    assert!(mount.log().contains("another filesystem (tmpfs) is mounted inside, at "), "{}", mount.log());
    let (verdict, why) = probed(&source);
    assert!(verdict == "no" && why.contains("a.src/inner"), "{verdict} {why}");
    mount.stop();
}

/// A file that stays open is changed on a filesystem inside the source, by name and without a change of its length.
#[test]
fn an_open_file_on_another_filesystem_inside_is_never_old() {
    let Some(sandbox) = sandbox::enter() else { return };
    let source = sandbox.make_dir("a.src");
    let inner = sandbox.tmpfs("a.src/inner", "size=1m");
    fs::write(inner.join("file"), "one").unwrap();
    let plan = mount::passthrough(&sandbox).source(&source).cache(Cache::Coherent).option("passthrough=off");
    let mount = plan.start();
    assert_eq!(said(&mount), "coherent");
    let open = File::open(mount.join("inner/file")).unwrap();
    let read = || {
        let mut bytes = [0; 16];
        let length = open.read_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    assert_eq!(read(), "one");
    for text in ["two", "longer", "short"] {
        let below = File::options().write(true).open(inner.join("file")).unwrap();
        below.set_len(text.len() as u64).unwrap();
        below.write_all_at(text.as_bytes(), 0).unwrap();
        wait::assert_within(Duration::from_secs(8), "what was written below", || read() == text);
    }
    drop(open);
    mount.stop();
}

#[test]
fn where_nobody_knows_whether_the_source_is_local_they_are_kept_for_a_moment() {
    let Some(sandbox) = sandbox::enter() else { return };
    let lower = mount::mem(&sandbox).name("lower").start();
    let mount = plain(&sandbox).source(lower.path()).option("log=info").start();
    assert_eq!(said(&mount), "auto");
    assert!(mount.log().contains("only this machine changes"), "{}", mount.log());
    mount.stop();
    lower.stop();
}

#[test]
fn for_other_users_they_are_coherent_file_by_file() {
    let Some(sandbox) = sandbox::enter() else { return };
    for level in ["warn", "info"] {
        let mount = plain(&sandbox).name(level).option(&format!("log={level}")).user("daemon").start();
        assert_eq!(said(&mount), "coherent");
        assert_eq!(mount.log().contains("file by file"), level == "info", "{}", mount.log());
        let probe = as_user("daemon", sandbox.dir().join("fusewire"));
        let text = probe.args(["probe", "--json"]).arg(mount.source()).limit(30).ok();
        let report: Value = serde_json::from_str(&text).expect("JSON");
        for key in ["dir.coherent", "dir.coherent_default"] {
            let check = &report["checks"][key];
            let why = check["detail"].as_str().expect("a reason");
            assert!(check["verdict"] == "yes" && why.contains("file by file"), "{check}");
        }
        mount.stop();
    }
}

/// Nobody asked for anything that could not be had, so nobody is warned; who did is. What is in force is said, not what was asked for.
#[test]
fn who_asks_for_coherent_caches_in_vain_is_warned() {
    let Some(sandbox) = sandbox::enter() else { return };
    let lower = mount::mem(&sandbox).name("lower").start();
    let mount = mount::passthrough(&sandbox).source(lower.path()).cache(Cache::Coherent).start();
    assert_eq!(said(&mount), "auto");
    assert!(mount.log().contains("WARN") && mount.log().contains("no feed of changes"), "{}", mount.log());
    mount.stop();
    lower.stop();
}
