//! Rules on who may do what where, for two users of one mount. (docs/policy.md)

use fusewire_tests::command::Cache;
use fusewire_tests::mount::{self, Mount};
use fusewire_tests::program::{Program, program};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::{need, wait};
use rustix::process::Signal;
use std::path::Path;

const MAIL: u32 = 10101;
const CHAT: u32 = 10102;

const APPS: &str = r#"
[tables.app]
"mail" = 10101
"chat" = 10102

[[rule]]
path = "/data/{app}"
effect = "allow"
uid = ["{app}", 0]

[[rule]]
path = "/data/*"
effect = "deny"
"#;

/// A shell line as this user, with no other groups.
fn run(uid: u32, line: &str, dir: &Path) -> Program {
    let ids = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()];
    program("setpriv").args(ids).args(["--", "sh", "-ceu", line]).dir(dir)
}

/// Under each caching profile, a mount with these rules and a tree in which permission bits forbid nothing.
fn with_rules(rules: &str, work: impl Fn(&Sandbox, &Mount)) {
    need!("setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    if fusewire_tests::command::other_server().is_some() {
        return fusewire_tests::skip::report("the stand-in server has no rules");
    }
    let file = sandbox.dir().join("rules.toml");
    for cache in Cache::ALL {
        std::fs::write(&file, rules).unwrap();
        let source = sandbox.make_dir(&format!("{}.src", cache.word()));
        let tree = "umask 0; mkdir -p data/mail/deep data/chat free; echo m > data/mail/deep/f; echo c > data/chat/f; echo x > free/f; chmod -R a+rwX .";
        program("sh").args(["-ceu", tree]).dir(&source).ok();
        let option = format!("policy={}", file.display());
        let mount = mount::passthrough(&sandbox)
            .name(cache.word())
            .source(&source)
            .cache(cache)
            .option(&option)
            .start();
        work(&sandbox, &mount);
        mount.stop();
    }
}

#[test]
fn what_is_cached_for_one_user_is_still_refused_to_another() {
    with_rules(APPS, |_, mount| {
        let warm = "cat data/mail/deep/f; ls -lR data/mail >/dev/null; stat -c %s data/mail/deep/f";
        let refused = r#"
            for try in "cat data/mail/deep/f" "ls data/mail" "stat data/mail" "stat data/mail/deep/f" "cd data/mail" \
                "touch data/mail/new" "mkdir data/mail/dir" "rm -f data/mail/deep/f" "mv data/mail/deep data/chat/" \
                "ln data/mail/deep/f data/chat/l" "test -e data/mail/deep/f" "chmod 777 data/mail" "rmdir data/mail" \
                "cp data/chat/f data/mail/f" "mv data/chat/f data/mail/f"; do
                if ( $try ) >/dev/null 2>&1; then echo "not refused: $try"; exit 1; fi
            done
            cat data/chat/f; echo data/*
        "#;
        for _ in 0..3 {
            assert_eq!(run(MAIL, warm, mount.path()).ok(), "m\n2\n");
            assert_eq!(run(CHAT, refused, mount.path()).ok(), "c\ndata/chat data/mail\n");
            // And the other way round, by then with the other's answers in the cache.
            run(MAIL, "! cat data/chat/f 2>&-; ! ls data/chat 2>&-", mount.path()).ok();
        }
        let told = run(CHAT, "cat data/mail/deep/f", mount.path()).fails().stderr;
        assert!(told.contains("Permission denied"), "{told}");
        // Nobody in particular is nobody's owner; root was named.
        run(4321, "! ls data/mail 2>&-; ! ls data/chat 2>&-; cat free/f; echo y >> free/f", mount.path())
            .ok();
        run(0, "cat data/mail/deep/f data/chat/f", mount.path()).ok();
    });
}

#[test]
fn refusals_are_counted() {
    const TRIES: u64 = 50;
    with_rules(APPS, |_, mount| {
        let line = format!("for i in $(seq {TRIES}); do ! cat data/mail/deep/f 2>&-; done");
        run(CHAT, &line, mount.path()).ok();
        let words = ["stats", "--json", mount.path().to_str().unwrap()];
        let text = program(fusewire_tests::command::binary()).args(words).limit(30).ok();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        let count = |of: &str| report["policy"][of].as_u64().unwrap();
        assert!(count("by_requests") > 0, "somebody must have asked first: {text}");
        assert!(count("by_requests") + count("by_kernel") >= TRIES, "{text}");
    });
}

#[test]
fn whoever_is_refused_does_not_disturb_who_is_not() {
    with_rules(APPS, |_, mount| {
        let line = "cd data/mail/deep; exec 3< f; echo in; until test -e ../../../free/go; do sleep 0.02; done; \
            pwd -P; cat f; cat <&3";
        let mut owner = run(MAIL, line, mount.path()).start();
        wait::assert_within(wait::SOON, "the owner is there", || owner.stdout().contains("in"));
        let tries = "! cat data/mail/deep/f 2>&-; ! ls -R data/mail 2>&-; ! stat data/mail/deep 2>&-";
        run(CHAT, tries, mount.path()).ok();
        std::fs::write(mount.join("free/go"), "").unwrap();
        let said = owner.finish(wait::SOON).ok();
        let deep = mount.join("data/mail/deep");
        assert_eq!(said, format!("in\n{}\nm\nm\n", deep.display()), "directory and file stay where they are");
    });
}

#[test]
fn what_is_open_stays_usable() {
    with_rules(APPS, |_, mount| {
        // Handed over: whoever holds it was given it. By its path, because a shell may have another program of that name in it.
        let setpriv = fusewire_tests::command::tool("setpriv").unwrap();
        let setpriv = setpriv.display();
        let line = format!(
            "exec 3< data/mail/deep/f 4< data/mail; {setpriv} --reuid={CHAT} --clear-groups sh -ceu \
             'read line <&3; echo $line; ! ls /proc/self/fd/4/ 2>&-; ! cat /proc/self/fd/4/deep/f 2>&-; ! cat /proc/self/fd/3 2>&-'"
        );
        let both = program("setpriv")
            .args([
                "--reuid=10101",
                "--inh-caps=+setuid,+setgid",
                "--ambient-caps=+setuid,+setgid",
                "--clear-groups",
            ])
            .args(["--", "sh", "-ceu", &line])
            .dir(mount.path());
        assert_eq!(both.ok(), "m\n");
    });
}

#[test]
fn each_operation_can_be_forbidden_by_itself() {
    let rules = r#"
        [[rule]]
        path = "/free/sealed"
        effect = "deny"
        uid = "10000-10999"
        op = ["write", "create", "remove", "change"]
        [[rule]]
        path = "/free/blind"
        below = false
        effect = "deny"
        op = "list"
        [[rule]]
        path = "/free/*.sh"
        effect = "deny"
        op = "execute"
        gid = 10101
        [[rule]]
        path = "/free/log"
        effect = "deny"
        op = ["read"]
    "#;
    with_rules(rules, |_, mount| {
        let make = "cd free; umask 0; mkdir -p sealed/dir blind; echo s > sealed/f; echo b > blind/f; echo l > log; \
            printf '#!/bin/sh\\necho ran\\n' > run.sh; chmod 777 run.sh; cp run.sh other";
        run(0, make, mount.path()).ok();
        let sealed = r#"
            cd free; cat sealed/f; ls sealed; test -w sealed/f
            for try in "cp log2 sealed/f" "touch sealed/f" "truncate -s 0 sealed/f" "rm sealed/f" "touch sealed/g" \
                "mkdir sealed/x" "rmdir sealed/dir" "mv sealed/f ." "chmod 700 sealed/f" "ln sealed/f here" \
                "ln -s a sealed/s" "mkfifo sealed/p" "mv log sealed/" "dd if=/dev/zero of=sealed/f count=1"; do
                if ( $try ) >/dev/null 2>&1; then echo "not refused: $try"; exit 1; fi
            done
        "#;
        assert_eq!(run(MAIL, sealed, mount.path()).ok(), "s\ndir\nf\n");
        run(4321, "cd free; echo t > sealed/f; touch sealed/g; rm sealed/g; rmdir sealed/dir", mount.path())
            .ok();
        assert_eq!(run(CHAT, "cd free; cat blind/f; ! ls blind 2>&-", mount.path()).ok(), "b\n");
        assert_eq!(
            run(MAIL, "cd free; ./other; cat run.sh >/dev/null; ! ./run.sh 2>&-", mount.path()).ok(),
            "ran\n"
        );
        assert_eq!(run(CHAT, "free/run.sh", mount.path()).ok(), "ran\n");
        run(CHAT, "echo more >> free/log; ! cat free/log 2>&-; ! ( : <> free/log ) 2>&-", mount.path()).ok();
    });
}

#[test]
fn moving_to_where_other_rules_hold() {
    with_rules(APPS, |_, mount| {
        // A file goes over; from then on the other rules hold.
        run(MAIL, "mv data/mail/deep/f free/g; cat free/g", mount.path()).ok();
        assert_eq!(
            run(CHAT, "cat free/g; mv free/g data/chat/g; cat data/chat/g", mount.path()).ok(),
            "m\nm\n"
        );
        run(MAIL, "! cat data/chat/g 2>&-", mount.path()).ok();
        // A directory is copied, as from one filesystem to another; within its rules it moves.
        let errno = |from: &str, to: &str| {
            std::fs::rename(mount.join(from), mount.join(to)).err().and_then(|error| error.raw_os_error())
        };
        assert_eq!(errno("free", "data/mail/free"), Some(libc::EXDEV));
        assert_eq!(errno("data/mail", "data/other"), Some(libc::EACCES), "a name of nobody");
        assert_eq!(errno("data/mail/deep", "data/mail/deeper"), None);
        run(
            MAIL,
            "mkdir free/dir; echo d > free/dir/f; mv free/dir data/mail/; cat data/mail/dir/f",
            mount.path(),
        )
        .ok();
        run(CHAT, "! cat data/mail/dir/f 2>&-; ! ls data/mail/deeper 2>&-", mount.path()).ok();
        // No second name under other rules.
        let line = "! ln data/chat/g free/l 2>&-; ln data/chat/g data/chat/l; cat data/chat/l";
        assert_eq!(run(CHAT, line, mount.path()).ok(), "m\n");
    });
}

#[test]
fn a_file_that_is_moved_to_a_closed_name_is_closed_to_the_cache_as_well() {
    let rules = "[[rule]]\npath = \"/free/log\"\neffect = \"deny\"\nuid = 10102\n";
    with_rules(rules, |_, mount| {
        run(CHAT, "stat -c %s free/f; cat free/f", mount.path()).ok();
        run(MAIL, "mv free/f free/log; cat free/log", mount.path()).ok();
        run(CHAT, "! cat free/log 2>&-", mount.path()).ok();
        let sees = || run(CHAT, "stat -c %s free/log", mount.path()).run().code() == Some(0);
        wait::assert_within(wait::SOON, "stat is refused", || !sees());
        run(MAIL, "mv free/log free/f", mount.path()).ok();
        assert_eq!(run(CHAT, "stat -c %s free/f; cat free/f", mount.path()).ok(), "2\nx\n");
    });
}

#[test]
fn a_second_name_made_underneath_does_not_lead_around_the_rules() {
    let rules = "[[rule]]\npath = \"/data/mail\"\neffect = \"deny\"\nuid = 10102\nop = [\"write\"]\n";
    with_rules(rules, |_, mount| {
        std::fs::hard_link(mount.below("data/mail/deep/f"), mount.below("free/second")).unwrap();
        run(CHAT, "cat free/second; cat data/mail/deep/f", mount.path()).ok();
        run(CHAT, "! ( : >> data/mail/deep/f ) 2>&-; ! ( : >> free/second ) 2>&-", mount.path()).ok();
        run(MAIL, "echo more >> free/second", mount.path()).ok();
    });
}

#[test]
fn what_is_moved_out_of_a_closed_place_underneath_is_free_once_the_old_name_is_asked_for() {
    let rules = "[[rule]]\npath = \"/data/mail\"\neffect = \"deny\"\nuid = 10102\n";
    with_rules(rules, |_, mount| {
        if mount.path().ends_with("always.mnt") {
            // Nothing is changed underneath there.
            return;
        }
        let make = "cd data/mail; echo l > linked; chmod a+rw linked; cat deep/f linked";
        assert_eq!(run(MAIL, make, mount.path()).ok(), "m\nl\n");
        std::fs::hard_link(mount.below("data/mail/linked"), mount.below("free/linked")).unwrap();
        run(MAIL, "cat free/linked", mount.path()).ok();
        run(CHAT, "cat free/linked", mount.path()).fails();
        std::fs::rename(mount.below("data/mail/deep/f"), mount.below("free/moved")).unwrap();
        std::fs::remove_file(mount.below("data/mail/linked")).unwrap();
        wait::assert_within(wait::SOON, "the old names are gone, and their rules with them", || {
            run(MAIL, "stat data/mail/deep/f data/mail/linked", mount.path()).run();
            run(CHAT, "cat free/moved free/linked", mount.path()).run().code() == Some(0)
        });
        run(CHAT, "ls data/mail", mount.path()).fails();
    });
}

/// Where the kernel itself takes other spellings for the same name.
#[test]
fn a_closed_directory_is_closed_by_each_spelling_that_the_filesystem_knows() {
    need!("setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    if fusewire_tests::command::other_server().is_some() {
        return fusewire_tests::skip::report("the stand-in server has no rules");
    }
    if !Path::new("/sys/fs/tmpfs/features/casefold").exists() {
        return fusewire_tests::skip::report(
            "tmpfs has no directories that ignore case (Linux 6.13, CONFIG_UNICODE)",
        );
    }
    let source = sandbox.tmpfs("folded", "casefold").join("src");
    std::fs::create_dir(&source).unwrap();
    let casefold = rustix::fs::IFlags::from_bits_retain(0x4000_0000);
    rustix::fs::ioctl_setflags(std::fs::File::open(&source).unwrap(), casefold).unwrap();
    let tree = "umask 0; mkdir secret straße; echo s > secret/f; echo s > straße/f; chmod -R a+rwX .";
    program("sh").args(["-ceu", tree]).dir(&source).ok();
    let file = sandbox.dir().join("rules.toml");
    let rule = |path: &str| format!("[[rule]]\npath = \"/{path}\"\neffect = \"deny\"\nuid = {CHAT}\n");
    std::fs::write(&file, format!("ignore_case = true\n{}{}", rule("Secret"), rule("straße"))).unwrap();
    let option = format!("policy={}", file.display());
    let mount = mount::passthrough(&sandbox).source(&source).cache(Cache::Auto).option(&option).start();
    for name in ["secret", "SECRET", "\u{17f}ecret", "se\u{ad}cret", "straße", "STRASSE", "stra\u{1e9e}e"] {
        let line = format!("cat '{name}/f'");
        assert_eq!(run(MAIL, &line, mount.path()).ok(), "s\n", "{name:?} is a name of it");
        run(CHAT, &line, mount.path()).fails();
        // Nor by the right name, after somebody has used the other.
        run(CHAT, "cat secret/f", mount.path()).fails();
    }
    mount.stop();
}

#[test]
fn sighup_reads_the_rules_again_and_keeps_the_old_ones_if_they_are_wrong() {
    with_rules("", |sandbox, mount| {
        let file = sandbox.dir().join("rules.toml");
        let read = "cat data/mail/deep/f; stat -c %s data/mail";
        let may = || run(CHAT, read, mount.path()).run().code() == Some(0);
        run(CHAT, read, mount.path()).ok();
        std::fs::write(&file, APPS).unwrap();
        assert!(may(), "not read before it is told to");
        mount.signal(Signal::HUP);
        wait::assert_within(wait::SOON, "the new rules hold, cached or not", || !may());
        run(MAIL, read, mount.path()).ok();
        std::fs::write(&file, "[[rule]]\npath = \"data\"\neffect = \"deny\"\n").unwrap();
        mount.signal(Signal::HUP);
        wait::assert_within(wait::SOON, "the mistake is in the log", || {
            mount.log().contains("rules.toml:2:8")
        });
        assert!(mount.log().contains("stays in force"), "{}", mount.log());
        assert!(!may());
        std::fs::write(&file, "").unwrap();
        mount.signal(Signal::HUP);
        wait::assert_within(wait::SOON, "no rules any more", may);
    });
}

#[test]
fn wrong_rules_mount_nothing() {
    let Some(sandbox) = sandbox::enter() else { return };
    if fusewire_tests::command::other_server().is_some() {
        return fusewire_tests::skip::report("the stand-in server has no rules");
    }
    let (source, point) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"));
    let file = sandbox.dir().join("rules.toml");
    std::fs::write(&file, "\n[[rule]]\npath = \"/a\"\neffect = \"refuse\"\n").unwrap();
    let output = std::process::Command::new(fusewire_tests::command::binary())
        .args(["mount", "--policy"])
        .args([&file, &source, &point])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("rules.toml:4:10") && said.contains("\"allow\" or \"deny\""), "{said}");
}

/// Why the kernel of this machine does not answer by itself; `None` if it does.
fn why_not_in_kernel(sandbox: &Sandbox) -> Option<String> {
    let dir = sandbox.make_dir("dry");
    let tried = program(fusewire_tests::command::binary())
        .args(["mount", "--dry-run", "--kernel-answers", "always", "--fs", "mem", "none"])
        .arg(&dir)
        .run();
    if tried.code() == Some(0) {
        return None;
    }
    assert!(std::env::var_os("FUSEWIRE_TEST_NEEDS_GUARD").is_none(), "{tried}");
    assert!(
        tried.stderr.contains("cannot be had to give answers") && tried.stderr.contains("try:"),
        "{tried}"
    );
    Some(tried.stderr)
}

/// A mount whose kernel answers by itself, if this one's does.
fn in_kernel(rules: &str, cache: Cache, work: impl Fn(&Path, &Mount)) {
    need!("setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    if fusewire_tests::command::other_server().is_some() {
        return fusewire_tests::skip::report("the stand-in server has no rules");
    }
    if let Some(why) = why_not_in_kernel(&sandbox) {
        return fusewire_tests::skip::report(&why);
    }
    let file = sandbox.dir().join("rules.toml");
    std::fs::write(&file, rules).unwrap();
    let source = sandbox.make_dir("a.src");
    let tree = "umask 0; mkdir -p data/mail/deep data/chat free; echo m > data/mail/deep/f; echo l > free/log; chmod -R a+rwX .";
    program("sh").args(["-ceu", tree]).dir(&source).ok();
    let option = format!("policy={},kernel_answers=always,log=info", file.display());
    let mount = mount::passthrough(&sandbox).source(&source).cache(cache).option(&option).start();
    // The mount is there a moment before the kernel knows which one it is to answer for.
    wait::assert_within(wait::SOON, "it says that it is ready", || mount.log().contains("Ctrl-C unmounts"));
    work(&file, &mount);
    mount.stop();
}

/// How often was denied by requests and by the kernel, and found absent by the kernel. Has the rules read again.
fn counted(mount: &Mount) -> [u64; 3] {
    let lines = || mount.log().matches("read again and in force").count();
    let before = lines();
    mount.signal(Signal::HUP);
    wait::assert_within(wait::SOON, "the rules are read again", || lines() > before);
    let log = mount.log();
    let line = log.lines().rfind(|line| line.contains("read again and in force")).unwrap();
    ["denied_by_requests=", "denied_by_kernel=", "absent_by_kernel="].map(|key| {
        let number = line.split_once(key).unwrap_or_else(|| panic!("{line}")).1;
        number.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    })
}

#[test]
fn the_kernel_says_again_who_may_not() {
    let rules =
        format!("{APPS}[[rule]]\npath = \"/free/log\"\neffect = \"deny\"\nop = \"read\"\nuid = {CHAT}\n");
    in_kernel(&rules, Cache::Always, |file, mount| {
        run(MAIL, "cat data/mail/deep/f", mount.path()).ok();
        let tries =
            "i=0; while [ $i -lt 10 ]; do i=$((i+1)); ! stat data/mail 2>&-; ! cat free/log 2>&-; done";
        run(CHAT, tries, mount.path()).ok();
        let [asked, denied, _] = counted(mount);
        assert!(denied >= 16, "{denied} of 20 were denied by the kernel, {asked} by requests");
        assert!(asked <= 4, "{asked} of 20 were denied by requests, {denied} by the kernel");
        // Access is decided there altogether, so nothing is asked the first time either.
        let line = "i=0; while [ $i -lt 10 ]; do i=$((i+1)); ! ls data/mail/deep 2>&-; done";
        run(CHAT, line, mount.path()).ok();
        let [asked_then, denied_then, _] = counted(mount);
        assert!(asked_then == asked && denied_then >= denied + 10, "{asked_then} {denied_then}");
        // It is one user's, and nobody else's.
        run(MAIL, "cat data/mail/deep/f; ls data/mail/deep; cat free/log", mount.path()).ok();
        // What is not denied any more is not denied by the kernel either: another name, other rules.
        run(
            CHAT,
            "! cat free/log 2>&-; ! cat free/log 2>&-; mv free/log free/other; cat free/other",
            mount.path(),
        )
        .ok();
        run(
            CHAT,
            "mv free/other free/log; ! cat free/log 2>&-; ! ls data/mail 2>&-; ! ls data/mail 2>&-",
            mount.path(),
        )
        .ok();
        std::fs::write(file, "").unwrap();
        counted(mount);
        run(CHAT, "cat free/log; ls data/mail", mount.path()).ok();
    });
}

/// The same paths for other users: the kernel's own lists are others, too, also of what is known already.
#[test]
fn new_rules_hold_for_what_the_kernel_has_closed() {
    let to = |more: &str| format!("[[rule]]\npath = \"/data/mail\"\neffect = \"deny\"\n{more}\n");
    for cache in [Cache::Always, Cache::Coherent] {
        in_kernel(&to(&format!("uid = {CHAT}")), cache, |file, mount| {
            let line = "ls data/mail/deep; cat data/mail/deep/f; stat -c %s data/mail";
            let may = |uid| run(uid, line, mount.path()).run().code() == Some(0);
            for (rules, mail, chat) in [
                (to(&format!("uid = {CHAT}")), true, false),
                (to(&format!("uid = {MAIL}")), false, true),
                (to(&format!("gid = {CHAT}")), true, false),
                (to(""), false, false),
                (to(&format!("uid = {MAIL}")).replace("deny", "allow"), true, true),
                (to(&format!("uid = {CHAT}")), true, false),
            ] {
                std::fs::write(file, &rules).unwrap();
                counted(mount);
                for _ in 0..2 {
                    assert_eq!((may(MAIL), may(CHAT)), (mail, chat), "{cache:?} {rules}");
                }
            }
        });
    }
}

#[test]
fn the_kernel_says_again_which_attributes_are_absent() {
    let get = |path: &Path, name: &str| {
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(path, name, &mut value[..])?;
        Ok::<_, rustix::io::Errno>(String::from_utf8_lossy(&value[..length]).into_owned())
    };
    in_kernel("", Cache::Always, |_, mount| {
        let file = mount.join("free/log");
        for _ in 0..50 {
            assert_eq!(get(&file, "user.none"), Err(rustix::io::Errno::NODATA));
        }
        let [_, _, absent] = counted(mount);
        assert!(absent >= 45, "{absent} of 50 by the kernel");
        for round in 0..100 {
            let (name, value) = (format!("user.x{}", round % 7), round.to_string());
            assert_eq!(get(&file, &name), Err(rustix::io::Errno::NODATA), "{round}");
            rustix::fs::setxattr(&file, &name, value.as_bytes(), rustix::fs::XattrFlags::empty()).unwrap();
            assert_eq!(get(&file, &name).as_ref(), Ok(&value), "{round}");
            assert_eq!(
                get(&mount.join("free"), &name),
                Err(rustix::io::Errno::NODATA),
                "another file has none"
            );
            rustix::fs::removexattr(&file, &name).unwrap();
        }
        // A new file of the same name, and most likely of the same number, is another one.
        for round in 0..20 {
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, "").unwrap();
            if round % 2 == 0 {
                rustix::fs::setxattr(
                    mount.below("free/log"),
                    "user.early",
                    b"1",
                    rustix::fs::XattrFlags::empty(),
                )
                .unwrap();
            }
            let expected = if round % 2 == 0 { Ok("1".to_owned()) } else { Err(rustix::io::Errno::NODATA) };
            assert_eq!(get(&file, "user.early"), expected, "{round}");
        }
    });
    in_kernel("", Cache::Auto, |_, mount| {
        let file = mount.join("free/log");
        assert_eq!(get(&file, "user.y"), Err(rustix::io::Errno::NODATA));
        // Underneath: seen as soon as attributes are.
        rustix::fs::setxattr(mount.below("free/log"), "user.y", b"1", rustix::fs::XattrFlags::empty())
            .unwrap();
        wait::assert_within(wait::SOON, "it is seen", || get(&file, "user.y").as_deref() == Ok("1"));
    });
}

/// Looks at each file as `ls -l` does, and lists the directories; answers how many files that is.
fn look_at_all(root: &Path) -> usize {
    use rustix::io::Errno;
    let absent = |path: &Path, name: &std::ffi::CStr| {
        let asked = rustix::fs::lgetxattr(path, name, &mut [0_u8; 64][..]);
        // There are filesystems without access control lists.
        assert!(matches!(asked, Err(Errno::NODATA | Errno::OPNOTSUPP)), "{}: {asked:?}", path.display());
    };
    let mut files = 0;
    for dir in std::fs::read_dir(root).unwrap() {
        let dir = dir.unwrap().path();
        for name in [c"security.selinux", c"system.posix_acl_access", c"system.posix_acl_default"] {
            absent(&dir, name);
        }
        for file in std::fs::read_dir(&dir).unwrap() {
            let path = file.unwrap().path();
            assert!(path.symlink_metadata().unwrap().is_file());
            absent(&path, c"security.selinux");
            files += 1;
        }
    }
    files
}

/// With nobody there who could answer, and also where nothing is asked when something is opened.
#[test]
fn what_is_absent_is_known_of_a_large_tree() {
    const DIRS: usize = 50;
    const FILES: usize = 5_000;
    let Some(sandbox) = sandbox::enter() else { return };
    if fusewire_tests::command::other_server().is_some() {
        return fusewire_tests::skip::report("the stand-in server answers everything itself");
    }
    if let Some(why) = why_not_in_kernel(&sandbox) {
        return fusewire_tests::skip::report(&why);
    }
    let source = sandbox.make_dir("a.src");
    for dir in (0..DIRS).map(|number| source.join(format!("d{number}"))) {
        std::fs::create_dir(&dir).unwrap();
        (0..FILES / DIRS).for_each(|file| std::fs::write(dir.join(format!("f{file}")), "").unwrap());
    }
    let mount = mount::stateless(&sandbox).source(&source).option("kernel_answers=always").start();
    wait::assert_within(wait::SOON, "it says that it is ready", || mount.log().contains("Ctrl-C unmounts"));
    // Once for what is absent, and once more for the attributes of directories, which listing has changed.
    for _ in 0..2 {
        assert_eq!(look_at_all(mount.path()), FILES);
    }
    mount.pause();
    let seen = look_at_all(mount.path());
    mount.signal(Signal::CONT);
    assert_eq!(seen, FILES);
    mount.stop();
}
