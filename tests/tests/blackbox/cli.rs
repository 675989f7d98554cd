//! What is around mounting: probe, manual pages, completions, readiness, messages.

use fusewire_tests::command;
use fusewire_tests::program::{Finished, Program, program, shell};
use fusewire_tests::wait::{self, SOON};
use fusewire_tests::{mount, mountinfo, need, sandbox, skip_unless};
use rustix::process::Signal;
use serde_json::Value;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

fn fusewire(words: &[&str]) -> Program {
    program(command::binary()).args(words).limit(30)
}

#[track_caller]
fn assert_complains(done: &Finished, code: i32, about: &str) {
    assert_eq!(done.code(), Some(code), "{done}");
    assert!(done.stderr.contains(about), "the message does not name {about}\n{done}");
    assert!(!done.stderr.contains("panicked"), "{done}");
}

#[test]
fn probe_gives_a_reason_and_a_remedy_for_each_no() {
    let text = fusewire(&["probe", "--json", "/var/tmp"]).ok();
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let checks = report["checks"].as_object().expect("checks");
    assert!(checks.len() > 10, "{text}");
    for (name, check) in checks {
        let verdict = check["verdict"].as_str().unwrap_or_else(|| panic!("{name} has no verdict"));
        assert!(check["title"].as_str().is_some_and(|title| !title.is_empty()), "{name} has no title");
        let detail = check["detail"].as_str().unwrap_or_default();
        assert!(verdict != "no" || !detail.is_empty(), "{name} says no and not why");
    }
    let named = ["ring", "passthrough", "idmap"];
    let missing: Vec<_> =
        named.iter().filter(|part| !checks.keys().any(|name| name.contains(**part))).collect();
    assert!(missing.is_empty(), "nothing about {missing:?} in {:?}", checks.keys());
    // The text for people says the same.
    let words = fusewire(&["probe", "/var/tmp"]).ok();
    let nos = checks.values().filter(|check| check["verdict"] == "no").count();
    assert_eq!(words.lines().filter(|line| line.trim_start().starts_with("no ")).count(), nos, "{words}");
}

#[test]
fn probe_leaves_nothing_behind() {
    let Some(sandbox) = sandbox::enter() else { return };
    let dir = sandbox.make_dir("dir");
    let before = mountinfo::read();
    fusewire(&["probe"]).arg(&dir).ok();
    assert_eq!(mountinfo::read(), before);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    assert_eq!(sandbox.processes(), []);
}

#[test]
fn probe_of_a_missing_directory_fails() {
    assert_complains(&fusewire(&["probe", "/no/such/directory"]).run(), 1, "/no/such/directory");
}

#[test]
fn a_ring_that_is_switched_off_comes_with_its_remedy() {
    const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
    let Some(sandbox) = sandbox::enter() else { return };
    need!("mount");
    skip_unless!(std::path::Path::new(SWITCH).exists(), "the kernel has no FUSE over io_uring");
    skip_unless!(command::other_server().is_none(), "the stand-in server knows no ring");
    let point = sandbox.make_dir("point");
    // It reads as switched off in this mount namespace alone.
    let off = sandbox.dir().join("off");
    std::fs::write(&off, "N\n").unwrap();
    program("mount").arg("--bind").arg(&off).arg(SWITCH).ok();
    let remedy = format!("echo Y > {SWITCH}");
    let report: Value = serde_json::from_str(&fusewire(&["probe", "--json"]).ok()).expect("JSON");
    assert_eq!(report["channel"]["auto"], "dev-fuse", "{report}");
    assert_eq!(report["checks"]["ring"]["verdict"], "no", "{report}");
    assert!(
        report["checks"]["ring"]["remedy"].as_str().is_some_and(|text| text.contains(&remedy)),
        "{report}"
    );
    for words in [&["--channel", "uring"][..], &["--dry-run", "-o", "channel=uring"]] {
        let done = fusewire(&["mount"]).args(words).arg("/usr").arg(&point).run();
        assert_complains(&done, 1, &remedy);
        assert_complains(&done, 1, &point.display().to_string());
    }
    fusewire(&["mount", "--dry-run"]).arg("/usr").arg(&point).ok();
    program("umount").arg(SWITCH).ok();
    assert!(mountinfo::at(&point).is_none(), "it was mounted all the same");
}

/// A port that is taken, files that have no handles, a place that is not there.
#[test]
fn a_dry_run_fails_where_mounting_would() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server checks nothing beforehand");
    let (source, point) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let missing = sandbox.dir().join("missing");
    let other = sandbox.dir().join("other");
    let run = |dry: bool, words: &[&str], source: &std::path::Path, point: &std::path::Path| {
        let dry: &[&str] = if dry { &["--dry-run"] } else { &[] };
        fusewire(&["mount"]).args(dry).args(words).arg(source).arg(point).run()
    };
    let mut cases = vec![
        (vec!["--metrics", &port], source.clone(), &point, port.clone()),
        (vec![], source.clone(), &missing, "missing".to_owned()),
        (vec!["-o", "max_read=1"], source.clone(), &point, "max_read=1".to_owned()),
    ];
    // Where it has none, that is.
    if std::path::Path::new("/proc/sys").exists() {
        cases.push((vec!["--file-handles", "always"], "/proc".into(), &other, "/proc".to_owned()));
        std::fs::create_dir(&other).unwrap();
    }
    for (words, source, point, about) in cases {
        for dry in [true, false] {
            let done = run(dry, &words, &source, point);
            assert!(matches!(done.code(), Some(1 | 2)), "{done}");
            assert!(done.stderr.contains(&about), "{words:?}: {done}");
        }
    }
    assert_eq!(run(true, &["--metrics", "0"], &source, &point).code(), Some(0));
    assert!(mountinfo::at(&point).is_none(), "it was mounted all the same");
}

#[test]
fn words_that_mean_nothing_are_refused_with_code_2() {
    assert_complains(&fusewire(&["mout", "/a", "/b"]).run(), 2, "mout");
    assert_complains(&fusewire(&["probe", "--no-such-option"]).run(), 2, "--no-such-option");
    assert_complains(&fusewire(&[]).run(), 2, "mount");
    assert_complains(&fusewire(&["unmount"]).run(), 2, "MNT");
}

#[test]
fn help_and_version_are_asked_for_with_code_0() {
    for words in
        [&["--help"][..], &["--version"], &["mount", "--help"], &["unmount", "-h"], &["help", "probe"]]
    {
        assert!(!fusewire(words).ok().is_empty(), "{words:?}");
    }
}

#[test]
fn manual_pages_and_completions_are_made() {
    let dir = tempfile::tempdir().unwrap();
    fusewire(&["man"]).arg(dir.path()).ok();
    let pages: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path()).collect();
    for name in ["fusewire.1", "fusewire-mount.1", "fusewire-unmount.1", "fusewire-probe.1"] {
        let page = pages
            .iter()
            .find(|page| page.ends_with(name))
            .unwrap_or_else(|| panic!("no {name} in {pages:?}"));
        assert!(std::fs::read_to_string(page).unwrap().contains(".TH"), "{name} is no manual page");
    }
    let script = fusewire(&["completions", "bash"]).ok();
    std::fs::write(dir.path().join("script"), &script).unwrap();
    skip_unless!(fusewire_tests::skip::find_program("bash").is_some(), "bash is not installed");
    program("bash").arg("-n").arg(dir.path().join("script")).ok();
    assert!(script.contains("unmount") && script.contains("--cache"), "the script knows too little");
}

#[test]
fn systemd_is_told_when_the_mount_is_ready_and_when_it_stops() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server knows no systemd");
    let (source, point) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"));
    std::fs::write(source.join("file"), "text").unwrap();
    let address = sandbox.dir().join("notify");
    let socket = UnixDatagram::bind(&address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut running = fusewire(&["mount"]).args([&source, &point]).env("NOTIFY_SOCKET", &address).start();
    let message = |wanted: &str| {
        let mut bytes = [0; 4096];
        loop {
            let count =
                socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{wanted} was not said: {error}"));
            if String::from_utf8_lossy(&bytes[..count]).lines().any(|line| line == wanted) {
                return;
            }
        }
    };
    message("READY=1");
    assert!(mountinfo::at(&point).is_some(), "ready, but not mounted");
    assert_eq!(std::fs::read_to_string(point.join("file")).unwrap(), "text");
    running.signal(Signal::TERM);
    message("STOPPING=1");
    assert_eq!(running.end_within(SOON).and_then(|status| status.code()), Some(0));
}

#[test]
fn messages_go_where_they_are_sent() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server logs elsewhere");
    let (source, point, log) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"), sandbox.dir().join("log"));
    let mut running = fusewire(&["-vv", "--log-file"]).arg(&log).arg("mount").args([&source, &point]).start();
    wait::assert_within(SOON, "mounted", || mountinfo::at(&point).is_some());
    wait::assert_within(SOON, "the log says what was negotiated", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() > 2)
    });
    running.signal(Signal::INT);
    assert!(running.finish(SOON).status.success());
    let done = fusewire(&["--log", "fusewire=nonsense", "mount"]).args([&source, &point]).run();
    assert_complains(&done, 2, "nonsense");
}

#[test]
fn the_mount_helper_is_installed_where_mount_8_finds_it() {
    need!("mount");
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server has no helper");
    skip_unless!(
        fusewire_tests::skip::kernel_has("overlay"),
        "the kernel has no overlayfs to keep /sbin as it is"
    );
    let [upper, work] = ["upper", "work"].map(|name| sandbox.make_dir(name));
    let sbin = std::path::Path::new("/sbin").canonicalize().unwrap();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", sbin.display(), upper.display(), work.display());
    sandbox::mount("overlay", "overlay", &sbin, &options);
    fusewire(&["install-helper"]).ok();
    assert!(sbin.join("mount.fuse.fusewire").symlink_metadata().is_ok());
    // Once more is no error.
    fusewire(&["install-helper"]).ok();
    let (source, point) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"));
    shell(r#"mount -t fuse.fusewire "$1" "$2""#, &[&source, &point]).ok();
    assert_eq!(mountinfo::at(&point).map(|entry| entry.kind), Some("fuse.fusewire".to_owned()));
    program("umount").arg(&point).ok();
    wait::assert_within(SOON, "the server ends after umount", || sandbox.processes().is_empty());
}

#[test]
fn an_idle_server_is_small_and_sleeps() {
    let Some(sandbox) = sandbox::enter() else { return };
    // On a filesystem of its own: it hears of all that happens on the one that it serves.
    let source = sandbox.tmpfs("a.src", "size=1m");
    let mount = mount::passthrough(&sandbox).source(&source).start();
    std::fs::write(mount.join("file"), "text").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(mount.resident_kib() < 8 << 10, "{} KiB resident", mount.resident_kib());
    let stat = format!("/proc/{}/stat", mount.pid().as_raw_nonzero());
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(&stat).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(2));
    let used = ticks() - before;
    assert!(used <= 2, "{used} clock ticks of CPU in two idle seconds");
    mount.stop();
}
