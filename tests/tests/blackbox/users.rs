//! Many users on one mount: whose is what they create, and what may they do.

use fusewire_tests::command::Cache;
use fusewire_tests::mount::{self, Mount};
use fusewire_tests::program::{Program, as_user, program};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::{need, skip};
use rustix::fs::{Access, CWD, FileType, Mode, OFlags, XattrFlags, mknodat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

/// A shell line as a user with these groups.
fn as_ids(uid: u32, gid: u32, groups: &str, line: &str, dir: &Path) -> Program {
    let ids = [format!("--reuid={uid}"), format!("--regid={gid}")];
    let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") };
    program("setpriv").args(ids).arg(groups).args(["--", "sh", "-ceu", line]).dir(dir)
}

/// A mount per profile whose root everybody may write to.
fn public(work: impl Fn(&Sandbox, &Mount)) {
    need!("setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    for cache in Cache::ALL {
        let mount = mount::passthrough(&sandbox).name(cache.word()).cache(cache).start();
        sandbox::chmod(mount.path(), 0o1777);
        work(&sandbox, &mount);
        mount.stop();
    }
}

/// Owner, group and permission bits of what is stored underneath.
fn stored(mount: &Mount, name: &str) -> (u32, u32, u32) {
    let meta = mount.below(name).symlink_metadata().unwrap_or_else(|error| panic!("{name}: {error}"));
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}

#[test]
fn everything_created_belongs_to_the_caller_and_respects_the_umask() {
    public(|_, mount| {
        let line = "umask 027; echo x > file; mkdir dir; ln -s a symlink; mkfifo fifo; touch a; ln a hard";
        as_ids(4321, 8765, "", line, mount.path()).ok();
        for (name, mode) in
            [("file", 0o640), ("dir", 0o750), ("symlink", 0o777), ("fifo", 0o640), ("hard", 0o640)]
        {
            assert_eq!(stored(mount, name), (4321, 8765, mode), "{name}");
        }
        as_ids(4322, 8766, "", "umask 000; echo x > open; mkdir opendir", mount.path()).ok();
        assert_eq!(stored(mount, "open"), (4322, 8766, 0o666));
        assert_eq!(stored(mount, "opendir"), (4322, 8766, 0o777));
    });
}

/// The same for a caller whom a capability of its own lets in.
#[test]
fn files_are_made_for_others_without_the_right_to_give_files_away() {
    need!("setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    for without in [None, Some("chown")] {
        let plan = mount::passthrough(&sandbox).name(without.unwrap_or("all"));
        let mount = without.into_iter().fold(plan, mount::Plan::without_capability).start();
        sandbox::chmod(mount.path(), 0o1777);
        let line = "umask 027; echo x > file; mkdir dir; ln -s a symlink; mkfifo fifo";
        as_ids(4321, 8765, "", line, mount.path()).ok();
        for (name, mode) in [("file", 0o640), ("dir", 0o750), ("symlink", 0o777), ("fifo", 0o640)] {
            assert_eq!(stored(&mount, name), (4321, 8765, mode), "{name}, without {without:?}");
        }
        for (name, group, mode) in [("closed", 0, 0o755), ("passes-on", 7000, 0o2755)] {
            let dir = mount.below(name);
            fs::create_dir(&dir).unwrap();
            std::os::unix::fs::chown(&dir, Some(0), Some(group)).unwrap();
            sandbox::chmod(&dir, mode);
        }
        let both =
            "umask 022; echo x > closed/file; mkdir passes-on/dir; mknod closed/node c 1 3; ! chown 1 file";
        let words = ["--inh-caps", "--ambient-caps"].map(|set| format!("{set}=+dac_override,+mknod"));
        program("setpriv")
            .args(["--reuid=4321", "--regid=8765", "--clear-groups"])
            .args(words)
            .args(["--", "sh", "-ceu", both])
            .dir(mount.path())
            .ok();
        assert_eq!(stored(&mount, "closed/file"), (4321, 8765, 0o644), "without {without:?}");
        assert_eq!(stored(&mount, "closed/node"), (4321, 8765, 0o644), "without {without:?}");
        assert_eq!(stored(&mount, "passes-on/dir"), (4321, 7000, 0o2755), "without {without:?}");
        as_ids(4321, 8765, "", "! touch closed/no 2>&-", mount.path()).ok();
        // To pass it on is another matter.
        let given = program("chown").arg("1:1").arg(mount.join("file")).run();
        assert_eq!(given.status.success(), without.is_none(), "{given}");
        mount.stop();
    }
}

#[test]
fn a_supplementary_group_gives_access_and_can_be_given_away() {
    public(|_, mount| {
        let dir = mount.below("team");
        fs::create_dir(&dir).unwrap();
        std::os::unix::fs::chown(&dir, Some(0), Some(7000)).unwrap();
        sandbox::chmod(&dir, 0o770);
        as_ids(4321, 8765, "", "! ls team 2>&-; ! touch team/no 2>&-", mount.path()).ok();
        as_ids(4321, 8765, "6000,7000,6001", "touch team/yes; ls team; chgrp 7000 team/yes", mount.path())
            .ok();
        assert_eq!(stored(mount, "team/yes"), (4321, 7000, 0o644));
        as_ids(4321, 8765, "6000", "touch mine; ! chgrp 7000 mine 2>&-", mount.path()).ok();
    });
}

/// What `work` says as a user with these groups: in a thread of its own, which alone is that user.
fn acting<R: Send>(uid: u32, gid: u32, groups: &[u32], work: impl FnOnce() -> R + Send) -> R {
    let act = || {
        let groups: Vec<_> = groups.iter().map(|&group| Gid::from_raw(group)).collect();
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_groups(&groups).expect("groups");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("group");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("user");
        work()
    };
    thread::scope(|scope| scope.spawn(act).join().expect("the thread"))
}

/// One of each kind is made in `dir`. What was refused, and why.
fn make_all(dir: &Path) -> Vec<(&'static str, Errno)> {
    let nameless = || {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let stat = rustix::fs::fstat(rustix::fs::open(dir, flags, Mode::from_raw_mode(0o600))?)?;
        assert_eq!((stat.st_uid, stat.st_gid), (4321, 8765), "the file without a name");
        Ok(())
    };
    let fifo = || mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0);
    let file = || {
        let flags = OFlags::CREATE | OFlags::WRONLY;
        rustix::fs::open(dir.join("file"), flags, Mode::from_raw_mode(0o644)).map(drop)
    };
    let made = [
        ("file", file()),
        ("dir", rustix::fs::mkdir(dir.join("dir"), Mode::from_raw_mode(0o755))),
        ("symlink", rustix::fs::symlink("target", dir.join("symlink"))),
        ("fifo", fifo()),
        ("nameless", nameless()),
    ];
    made.into_iter().filter_map(|(what, made)| Some((what, made.err()?))).collect()
}

#[test]
fn whoever_may_write_to_a_directory_by_any_of_their_groups_may_create_in_it() {
    const KINDS: [&str; 5] = ["file", "dir", "symlink", "fifo", "nameless"];
    need!("setfacl");
    public(|_, mount| {
        fs::create_dir(mount.join("team")).unwrap();
        program("setfacl").args(["-m", "g:5000:rwx"]).arg(mount.join("team")).ok();
        let team = mount.join("team");
        let refused = KINDS.map(|kind| (kind, Errno::ACCESS));
        assert_eq!(acting(4321, 8765, &[6000, 6001], || make_all(&team)), refused);
        assert_eq!(acting(4321, 8765, &[6000, 5000, 6001], || make_all(&team)), []);
        for kind in &KINDS[..4] {
            let (uid, gid, _) = stored(mount, &format!("team/{kind}"));
            assert_eq!((uid, gid), (4321, 8765), "{kind}");
        }
        let later = || rustix::fs::mkdir(team.join("later"), Mode::from_raw_mode(0o755));
        assert_eq!(acting(4321, 8765, &[6000], later), Err(Errno::ACCESS));
    });
}

/// The kernel goes by what it remembers of the directory, the daemon by what is there.
#[test]
fn groups_that_a_directory_no_longer_admits_create_nothing_in_it() {
    need!("setfacl");
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).cache(Cache::Always).start();
    fs::create_dir(mount.join("team")).unwrap();
    program("setfacl").args(["-m", "g:5000:rwx,g:6000:rwx"]).arg(mount.join("team")).ok();
    let team = mount.join("team");
    let may_write = || rustix::fs::access(&team, Access::WRITE_OK);
    assert_eq!(acting(4321, 8765, &[5000], may_write), Ok(()), "now the kernel knows the list");
    program("setfacl").args(["-x", "g:5000"]).arg(mount.below("team")).ok();
    let refused = acting(4321, 8765, &[5000], || make_all(&team));
    assert_eq!(refused.len(), 5, "{refused:?}");
    assert!(refused.iter().all(|&(_, error)| error == Errno::ACCESS), "{refused:?}");
    assert_eq!(fs::read_dir(mount.below("team")).unwrap().count(), 0, "nothing is there");
    assert_eq!(acting(4321, 8765, &[5000, 6000], || make_all(&team)), []);
    mount.stop();
}

/// What is there before whoever creates it knows, is opened by what its own ACL says of all their groups.
#[test]
fn opening_an_existing_file_to_create_it_goes_by_all_groups() {
    need!("setfacl");
    public(|_, mount| {
        for (name, mode, acl, admitted, refused) in [
            ("admits", 0o600, "g:5000:rw", [6000, 5000], [6000, 6001]),
            ("refuses", 0o666, "g:5000:-", [6000, 6001], [6000, 5000]),
        ] {
            // The kernel may remember that it is not there.
            assert!(!mount.join(name).exists());
            fs::write(mount.below(name), "x").unwrap();
            sandbox::chmod(&mount.below(name), mode);
            program("setfacl").args(["-m", acl]).arg(mount.below(name)).ok();
            let open = || {
                let flags = OFlags::CREATE | OFlags::RDWR;
                rustix::fs::open(mount.join(name), flags, Mode::from_raw_mode(0o644)).map(drop)
            };
            assert_eq!(acting(4321, 8765, &refused, open), Err(Errno::ACCESS), "{name}");
            assert_eq!(acting(4321, 8765, &admitted, open), Ok(()), "{name}");
            assert_eq!(stored(mount, name).0, 0);
        }
    });
}

#[test]
fn a_sgid_directory_passes_its_group_on() {
    public(|_, mount| {
        fs::create_dir(mount.below("team")).unwrap();
        std::os::unix::fs::chown(mount.below("team"), Some(0), Some(7000)).unwrap();
        sandbox::chmod(&mount.below("team"), 0o2777);
        as_ids(4321, 8765, "", "touch team/file; mkdir team/dir; ln -s x team/link", mount.path()).ok();
        assert_eq!(stored(mount, "team/file"), (4321, 7000, 0o644));
        assert_eq!(stored(mount, "team/dir"), (4321, 7000, 0o2755));
        assert_eq!(stored(mount, "team/link"), (4321, 7000, 0o777));
        // Who is not in that group cannot make a sgid program of it.
        as_ids(4321, 8765, "", "cp /bin/true team/program; chmod 2755 team/program", mount.path()).ok();
        assert_eq!(stored(mount, "team/program"), (4321, 7000, 0o755));
    });
}

#[test]
fn writing_and_chown_take_suid_and_sgid_away() {
    public(|_, mount| {
        let make = |name: &str| {
            fs::write(mount.below(name), "x").unwrap();
            std::os::unix::fs::chown(mount.below(name), Some(4321), Some(8765)).unwrap();
            sandbox::chmod(&mount.below(name), 0o6777);
        };
        ["written", "truncated", "chowned", "by-root"].iter().for_each(|name| make(name));
        as_ids(9999, 9999, "", "echo y >> written; : > truncated", mount.path()).ok();
        assert_eq!(stored(mount, "written").2, 0o777);
        assert_eq!(stored(mount, "truncated").2, 0o777);
        program("chown").arg("4322:8766").arg(mount.join("chowned")).ok();
        assert_eq!(stored(mount, "chowned"), (4322, 8766, 0o777));
        // Root keeps them when it writes (CAP_FSETID).
        fs::OpenOptions::new()
            .append(true)
            .open(mount.join("by-root"))
            .map(|mut file| {
                std::io::Write::write_all(&mut file, b"y").unwrap();
            })
            .unwrap();
        assert_eq!(stored(mount, "by-root").2, 0o6777);
    });
}

/// `chown(-1, -1)`: no change of owner is one, too.
fn assert_voids_set_ids(dir: &Path, mode_of: impl Fn(&str) -> u32) {
    for name in ["of-owner", "of-root", "of-stranger"] {
        fs::write(dir.join(name), "x").unwrap();
        std::os::unix::fs::chown(dir.join(name), Some(4321), Some(8765)).unwrap();
        sandbox::chmod(&dir.join(name), 0o6777);
    }
    std::os::unix::fs::chown(dir.join("of-root"), None, None).unwrap();
    as_ids(4321, 8765, "", "chown : of-owner", dir).ok();
    // The directory refuses this; here it has no effect.
    as_ids(9999, 9999, "", "chown : of-stranger || true", dir).ok();
    assert_eq!(["of-root", "of-owner", "of-stranger"].map(mode_of), [0o777, 0o777, 0o6777]);
}

#[test]
fn a_chown_that_changes_nothing_takes_suid_and_sgid_away() {
    let mode_in = |dir: &Path, name: &str| dir.join(name).metadata().unwrap().mode() & 0o7777;
    public(|sandbox, mount| {
        let bare = mount.source().with_extension("bare");
        fs::create_dir(&bare).unwrap();
        sandbox::chmod(sandbox.dir(), 0o755);
        sandbox::chmod(&bare, 0o777);
        assert_voids_set_ids(&bare, |name| mode_in(&bare, name));
        assert_voids_set_ids(mount.path(), |name| mode_in(&mount.below(""), name));
        assert_eq!(mode_in(mount.path(), "of-owner"), 0o777);
    });
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::mem(&sandbox).start();
    sandbox::chmod(mount.path(), 0o777);
    assert_voids_set_ids(mount.path(), |name| mode_in(mount.path(), name));
    mount.stop();
}

#[test]
fn reserving_and_punching_take_suid_and_sgid_away() {
    need!("setpriv", "fallocate");
    let Some(sandbox) = sandbox::enter() else { return };
    for mount in [mount::passthrough(&sandbox).start(), mount::mem(&sandbox).name("mem").start()] {
        let dir = mount.path();
        for (name, arguments) in [("reserved", "-l 9000"), ("punched", "-p -o 4096 -l 4096")] {
            fs::write(dir.join(name), [b'x'; 8192]).unwrap();
            sandbox::chmod(&dir.join(name), 0o6777);
            as_ids(9999, 9999, "", &format!("fallocate {arguments} {name}"), dir).ok();
            assert_eq!(
                dir.join(name).metadata().unwrap().mode() & 0o7777,
                0o777,
                "{}: {name}",
                dir.display()
            );
        }
        mount.stop();
    }
}

/// A set-group-id bit without the right of the group to execute is no right but a mark, which members of the group keep.
#[test]
fn reserving_keeps_the_mark_of_who_may_keep_it() {
    need!("setpriv", "fallocate");
    public(|sandbox, mount| {
        for dir in [sandbox.dir(), mount.path()] {
            let path = dir.join("marked");
            fs::write(&path, "x").unwrap();
            std::os::unix::fs::chown(&path, Some(4321), Some(8765)).unwrap();
            sandbox::chmod(&path, 0o2644);
            let mode = |group: u32| {
                as_ids(4321, group, "", "fallocate -l 9000 marked", dir).ok();
                path.metadata().unwrap().mode() & 0o7777
            };
            assert_eq!([mode(8765), mode(9999)], [0o2644, 0o644], "{}", path.display());
            fs::remove_file(path).unwrap();
        }
    });
}

#[test]
fn file_capabilities_are_lost_by_writing() {
    need!("setcap", "getcap");
    public(|_, mount| {
        fs::copy("/bin/true", mount.join("program")).unwrap();
        sandbox::chmod(&mount.join("program"), 0o777);
        program("setcap").arg("cap_net_raw+ep").arg(mount.join("program")).ok();
        assert!(program("getcap").arg(mount.below("program")).ok().contains("cap_net_raw"));
        as_ids(4321, 8765, "", "echo >> program", mount.path()).ok();
        assert_eq!(program("getcap").arg(mount.below("program")).ok(), "");
    });
}

#[test]
fn permission_bits_are_kept_between_users() {
    public(|_, mount| {
        as_ids(
            4321,
            8765,
            "",
            "umask 077; mkdir private; echo secret > private/file; echo x > own",
            mount.path(),
        )
        .ok();
        let denied = r#"
            ! cat private/file 2>&-; ! ls private 2>&-; ! rm own 2>&-; ! mv own theirs 2>&-; ! cat own 2>&-
            ! chmod 777 own 2>&-; ! chown 5555 own 2>&-; ! touch own 2>&-
        "#;
        as_ids(5555, 5555, "", denied, mount.path()).ok();
        // A directory opened up is open at once, and closed at once.
        as_ids(4321, 8765, "", "chmod 755 private; chmod 644 private/file", mount.path()).ok();
        assert_eq!(as_ids(5555, 5555, "", "cat private/file", mount.path()).ok(), "secret\n");
        as_ids(4321, 8765, "", "chmod 700 private", mount.path()).ok();
        as_ids(5555, 5555, "", "! cat private/file 2>&-", mount.path()).ok();
    });
}

#[test]
fn access_control_lists_decide_and_are_inherited() {
    need!("setfacl", "getfacl");
    public(|_, mount| {
        let line = "umask 077; mkdir acl; setfacl -m u:5555:rx acl; setfacl -d -m u:5555:rw,m::rw acl; echo x > acl/file";
        as_ids(4321, 8765, "", line, mount.path()).ok();
        assert_eq!(as_ids(5555, 5555, "", "cat acl/file; echo y >> acl/file", mount.path()).ok(), "x\n");
        as_ids(5556, 5556, "", "! cat acl/file 2>&-; ! ls acl 2>&-", mount.path()).ok();
        let list = |path: &Path| program("getfacl").args(["-ncp"]).arg(path).ok();
        assert_eq!(list(&mount.join("acl/file")), list(&mount.below("acl/file")));
        assert!(list(&mount.below("acl/file")).contains("user:5555:rw-"));
        as_ids(4321, 8765, "", "setfacl -b acl", mount.path()).ok();
        as_ids(5555, 5555, "", "! cat acl/file 2>&-", mount.path()).ok();
    });
}

/// What an ACL of this form is stored as: for the owner, the group, another group, the mask, and the rest.
fn acl_for_group(gid: u32) -> Vec<u8> {
    const ANY: u32 = u32::MAX;
    let entries = [(0x01_u16, 6_u16, ANY), (0x04, 0, ANY), (0x08, 4, gid), (0x10, 4, ANY), (0x20, 0, ANY)];
    let mut stored = 2_u32.to_le_bytes().to_vec();
    for (tag, may, id) in entries {
        stored.extend_from_slice(&tag.to_le_bytes());
        stored.extend_from_slice(&may.to_le_bytes());
        stored.extend_from_slice(&id.to_le_bytes());
    }
    stored
}

/// Opens each file that it is told of.
fn open_each(files: &mpsc::Receiver<PathBuf>, opened: &mpsc::Sender<std::io::Result<()>>) {
    files.iter().for_each(|file| opened.send(fs::File::open(file).map(drop)).expect("the test listens"));
}

/// Other files come and go on the same filesystem, and leave their numbers to those on the mount.
#[test]
fn what_an_access_control_list_grants_is_granted_at_once() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).default_cache().start();
    let (elsewhere, is_over) = (sandbox.make_dir("elsewhere"), AtomicBool::new(false));
    let others = || {
        while !is_over.load(Ordering::Relaxed) {
            let files: Vec<_> = (0..8).map(|i| elsewhere.join(i.to_string())).collect();
            files.iter().for_each(|file| fs::write(file, "x").unwrap());
            files.iter().for_each(|file| fs::remove_file(file).unwrap());
        }
    };
    let (tell, told) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(others);
        scope.spawn(move || acting(5555, 5555, &[6666], move || open_each(&told, &answer)));
        let acl = acl_for_group(6666);
        let refused = (0..2000).filter(|i| {
            let path = mount.join(i.to_string());
            let file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path).unwrap();
            rustix::fs::fsetxattr(&file, c"system.posix_acl_access", &acl, XattrFlags::empty()).unwrap();
            tell.send(path.clone()).unwrap();
            let opened = answers.recv().unwrap();
            fs::remove_file(&path).unwrap();
            opened.is_err()
        });
        let refused = refused.count();
        is_over.store(true, Ordering::Relaxed);
        drop(tell);
        // Who gives up waiting on a busy machine, or whose number comes up once more later, may be unlucky; before, every 250th was.
        assert!(refused <= 2, "{refused} files were not opened");
    });
    mount.stop();
}

#[test]
fn users_of_one_mount_work_side_by_side() {
    public(|_, mount| {
        let line = r#"for i in $(seq 60); do umask 0$(($(id -u) % 8))7; echo $i > u$(id -u)-$i; mkdir d$(id -u)-$i; done"#;
        let users = [4001_u32, 4002, 4003, 4004, 4005];
        let running = users.map(|uid| as_ids(uid, uid + 1000, "", line, mount.path()).start());
        for one in running {
            one.finish(std::time::Duration::from_secs(60)).ok();
        }
        for uid in users {
            for i in 1..=60 {
                let mode = 0o666 & !(((uid % 8) << 3) | 7);
                assert_eq!(stored(mount, &format!("u{uid}-{i}")), (uid, uid + 1000, mode));
                assert_eq!(stored(mount, &format!("d{uid}-{i}")).0, uid);
            }
        }
    });
}

#[test]
fn accounts_of_the_system_work_too() {
    need!("setpriv");
    public(|_, mount| {
        as_user("daemon", "touch").arg(mount.join("by-daemon")).ok();
        let id = |flag: &str| program("id").args([flag, "daemon"]).ok().trim().parse().unwrap();
        assert_eq!(stored(mount, "by-daemon"), (id("-u"), id("-g"), 0o644));
    });
}

#[test]
fn the_memory_filesystem_keeps_users_apart() {
    need!("setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    if fusewire_tests::command::other_server().is_some() {
        return skip::report("the stand-in server has no filesystem in memory");
    }
    let mount = mount::mem(&sandbox).start();
    sandbox::chmod(mount.path(), 0o1777);
    as_ids(4321, 8765, "", "umask 027; echo x > file; mkdir dir", mount.path()).ok();
    let meta = mount.join("file").metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (4321, 8765, 0o640));
    as_ids(5555, 5555, "", "! cat file 2>&-; ! rm file 2>&-", mount.path()).ok();
    mount.stop();
}
