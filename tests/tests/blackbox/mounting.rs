//! Mounting and unmounting: the wrong place, the helper of mount(8), an ordinary user, the background.

use fusewire_tests::command::{self, Cache};
use fusewire_tests::mount;
use fusewire_tests::mountinfo;
use fusewire_tests::program::{Finished, Program, as_user, program, shell};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::wait::{self, SOON};
use fusewire_tests::{need, skip_unless};
use rustix::fs::OFlags;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A refusal: exit code 1 (what was asked for cannot be done), the path in the message, no panic, and nothing mounted.
#[track_caller]
fn assert_refused(sandbox: &Sandbox, done: &Finished, path: &Path) {
    assert_eq!(done.code(), Some(1), "{done}");
    assert!(
        done.stderr.contains(&*path.to_string_lossy()),
        "the message does not name {}\n{done}",
        path.display()
    );
    assert!(!done.stderr.contains("panicked"), "{done}");
    let mounted: Vec<_> =
        mountinfo::below(sandbox.dir()).into_iter().filter(mountinfo::Entry::is_fuse).collect();
    assert!(mounted.is_empty(), "{mounted:?}");
}

#[test]
fn a_missing_mount_point_is_refused() {
    let Some(sandbox) = sandbox::enter() else { return };
    let (source, point) = (sandbox.make_dir("src"), sandbox.dir().join("missing"));
    let done = mount::passthrough(&sandbox).refused(&source, &point);
    assert_refused(&sandbox, &done, &point);
    assert!(!point.exists());
}

#[test]
fn a_file_as_mount_point_is_refused() {
    let Some(sandbox) = sandbox::enter() else { return };
    let (source, point) = (sandbox.make_dir("src"), sandbox.dir().join("file"));
    std::fs::write(&point, "text").unwrap();
    let done = mount::passthrough(&sandbox).refused(&source, &point);
    assert_refused(&sandbox, &done, &point);
    assert_eq!(std::fs::read_to_string(&point).unwrap(), "text");
}

#[test]
fn a_missing_source_is_refused() {
    let Some(sandbox) = sandbox::enter() else { return };
    let (source, point) = (sandbox.dir().join("missing"), sandbox.make_dir("mnt"));
    let done = mount::passthrough(&sandbox).refused(&source, &point);
    assert_refused(&sandbox, &done, &source);
}

#[test]
fn a_file_as_source_is_refused() {
    let Some(sandbox) = sandbox::enter() else { return };
    let (source, point) = (sandbox.dir().join("file"), sandbox.make_dir("mnt"));
    std::fs::write(&source, "text").unwrap();
    let done = mount::passthrough(&sandbox).refused(&source, &point);
    assert_refused(&sandbox, &done, &source);
}

#[test]
fn a_dead_mount_at_the_mount_point_is_named_and_left_alone() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mut dead = mount::passthrough(&sandbox).name("dead").start();
    dead.kill();
    let source = sandbox.make_dir("src");
    let done = mount::passthrough(&sandbox).refused(&source, dead.path());
    assert_eq!(done.code(), Some(1), "{done}");
    assert!(done.stderr.contains(&*dead.path().to_string_lossy()), "{done}");
    // The way out is told: unmount it.
    assert!(done.stderr.contains("unmount"), "{done}");
    assert_eq!(mountinfo::below(dead.path()).len(), 1, "a second mount lies over the dead one");
    run(command::unmount(dead.path())).ok();
    assert!(!dead.is_mounted());
}

fn run(command: std::process::Command) -> Program {
    program(command.get_program()).args(command.get_args()).limit(20)
}

#[test]
fn a_wrong_command_line_ends_with_code_2() {
    let Some(sandbox) = sandbox::enter() else { return };
    let (source, point) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"));
    for words in [&["--cache", "sometimes"][..], &["--no-such-option"], &["-o", "no_such_mount_option"]] {
        let done =
            program(command::binary()).arg("mount").args([&source, &point]).args(words).limit(20).run();
        assert_eq!(done.code(), Some(2), "{done}");
        assert!(done.stderr.contains(words.last().unwrap()), "the message does not name the word\n{done}");
    }
    assert_eq!(program(command::binary()).arg("mount").run().code(), Some(2));
    assert!(mountinfo::at(&point).is_none());
}

#[test]
fn with_too_few_descriptors_a_mount_fails_and_does_not_hang() {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server needs others");
    let (source, point) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"));
    let line = r#"ulimit -n "$1"; exec "$2" mount --daemon --channel "$3" "$4" "$5""#;
    let (binary, channel) = (command::binary(), command::channel());
    let mut refused = 0;
    for limit in 8..=24 {
        let limit = limit.to_string();
        let done =
            shell(line, &[Path::new(&limit), &binary, Path::new(&channel), &source, &point]).limit(20).run();
        match done.code() {
            // It works, for those who need few descriptors themselves.
            Some(0) => drop(run(command::unmount(&point)).ok()),
            Some(1) => {
                refused += 1;
                for part in ["Too many open files", "LimitNOFILE="] {
                    assert!(done.stderr.contains(part), "{limit}: {part} is missing: {done}");
                }
            }
            _ => panic!("{limit}: {done}"),
        }
        assert!(mountinfo::at(&point).is_none(), "{limit}: left mounted");
        wait::assert_within(SOON, "the server has ended", || sandbox.processes().is_empty());
    }
    assert!(refused > 0, "8 descriptors are enough for a mount");
}

#[test]
fn unmount_of_what_is_not_mounted_fails() {
    let Some(sandbox) = sandbox::enter() else { return };
    let dir = sandbox.make_dir("dir");
    for path in [dir, sandbox.dir().join("missing")] {
        let done = run(command::unmount(&path)).run();
        assert_refused(&sandbox, &done, &path);
    }
}

#[test]
fn unmount_ends_the_server() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mut mount = mount::passthrough(&sandbox).start();
    run(command::unmount(mount.path())).ok();
    assert!(!mount.is_mounted());
    assert_eq!(mount.end_within(SOON).and_then(|status| status.code()), Some(0), "{}", mount.log());
}

#[test]
fn unmount_of_a_busy_mount_fails_and_names_the_user() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    let held = std::fs::File::create(mount.join("held")).unwrap();
    let done = run(command::unmount(mount.path())).run();
    assert_eq!(done.code(), Some(1), "{done}");
    assert!(done.stderr.contains(&std::process::id().to_string()), "{done}");
    assert!(mount.is_mounted());
    drop(held);
    run(command::unmount(mount.path())).ok();
    assert!(!mount.is_mounted());
}

/// The server of the upper one takes a moment to let go of the lower one.
#[test]
fn mounts_of_mounts_are_unmounted_by_one_command() {
    let Some(sandbox) = sandbox::enter() else { return };
    for _ in 0..5 {
        let lowest = mount::passthrough(&sandbox).name("lowest").start();
        let middle = mount::passthrough(&sandbox).name("middle").source(lowest.path()).start();
        let highest = mount::passthrough(&sandbox).name("highest").source(middle.path()).start();
        std::fs::write(highest.join("file"), "text").unwrap();
        let mut mounts = [highest, middle, lowest];
        let words = command::unmount(mounts[0].path());
        run(words).args([mounts[1].path(), mounts[2].path()]).ok();
        for mount in &mut mounts {
            assert_eq!(mount.end_within(SOON).and_then(|status| status.code()), Some(0), "{}", mount.log());
        }
    }
}

#[test]
fn a_failed_start_leaves_an_existing_mount_alone() {
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).start();
    std::fs::write(mount.join("file"), "text").unwrap();
    let done = mount::passthrough(&sandbox).refused(&sandbox.dir().join("missing"), mount.path());
    assert_eq!(done.code(), Some(1), "{done}");
    assert_eq!(std::fs::read_to_string(mount.join("file")).unwrap(), "text");
    mount.stop();
}

#[test]
fn mount_options_are_in_force() {
    let Some(sandbox) = sandbox::enter() else { return };
    let source = sandbox.make_dir("src");
    std::fs::copy("/bin/true", source.join("true")).unwrap();
    let plan = mount::passthrough(&sandbox).source(&source).name("strict");
    let mount = plan.option("ro,nosuid,nodev,noexec").option("fsname=of-mine").option("subtype=mine").start();
    let entry = mountinfo::at(mount.path()).unwrap();
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(entry.options.split(',').any(|word| word == option), "{option} is not in {entry:?}");
    }
    assert_eq!((entry.source.as_str(), entry.kind.as_str()), ("of-mine", "fuse.mine"));
    let error = std::fs::write(mount.join("new"), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    assert_eq!(
        std::process::Command::new(mount.join("true")).status().unwrap_err().raw_os_error(),
        Some(libc::EACCES)
    );
    mount.stop();
    let mount = mount::passthrough(&sandbox).source(&source).name("plain").start();
    let entry = mountinfo::at(mount.path()).unwrap();
    assert!(
        entry.fs_options.contains("allow_other") && entry.fs_options.contains("default_permissions"),
        "{entry:?}"
    );
    assert!(std::process::Command::new(mount.join("true")).status().unwrap().success());
    mount.stop();
}

#[test]
fn a_read_only_source_can_be_mounted() {
    let Some(sandbox) = sandbox::enter() else { return };
    let source = sandbox.tmpfs("src", "");
    std::fs::write(source.join("file"), "text").unwrap();
    program("mount").args(["-o", "remount,ro"]).arg(&source).ok();
    let mount = mount::passthrough(&sandbox).source(&source).start();
    assert_eq!(std::fs::read_to_string(mount.join("file")).unwrap(), "text");
    assert_eq!(std::fs::write(mount.join("new"), "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
    mount.stop();
}

/// Puts the helper where mount(8) looks for it, in this namespace only.
fn install_helper(sandbox: &Sandbox) -> bool {
    let [upper, work] = ["sbin-upper", "sbin-work"].map(|name| sandbox.make_dir(name));
    std::os::unix::fs::symlink(command::mount_helper(), upper.join("mount.fuse.fusewire")).unwrap();
    let sbin = Path::new("/sbin").canonicalize().unwrap();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", sbin.display(), upper.display(), work.display());
    sandbox::mount("overlay", "overlay", &sbin, &options);
    Path::new("/sbin/mount.fuse.fusewire").exists()
}

#[test]
fn mount_8_mounts_through_the_helper() {
    skip_unless!(command::other_server().is_none(), "the stand-in server has no helper");
    skip_unless!(
        fusewire_tests::skip::kernel_has("overlay"),
        "the kernel has no overlayfs to put the helper in place"
    );
    let Some(sandbox) = sandbox::enter() else { return };
    assert!(install_helper(&sandbox));
    let (source, point) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"));
    std::fs::write(source.join("file"), "text").unwrap();
    let mount = |options: &str| {
        program("mount").args(["-t", "fuse.fusewire", "-o", options]).args([&source, &point]).ok()
    };
    mount("rw,nosuid,noatime,cache=always");
    let entry = mountinfo::at(&point).expect("mount(8) said that it is mounted");
    assert_eq!(entry.kind, "fuse.fusewire");
    assert!(entry.options.contains("nosuid") && entry.options.contains("noatime"), "{entry:?}");
    assert_eq!(std::fs::read_to_string(point.join("file")).unwrap(), "text");
    program("umount").arg(&point).ok();
    wait::assert_within(SOON, "the server ends after umount", || sandbox.processes().is_empty());
    // The word `private` would be mount(8)'s own.
    mount("ro,noallow_other,cache=none");
    let entry = mountinfo::at(&point).expect("mount(8) said that it is mounted");
    assert!(!entry.fs_options.contains("allow_other"), "{entry:?}");
    as_user("nobody", "ls").arg(&point).fails();
    program("umount").arg(&point).ok();
    wait::assert_within(SOON, "the server ends after umount", || sandbox.processes().is_empty());
    // As from fstab at boot: the options there are no filesystem's business.
    let line = format!(
        "{} {} fuse.fusewire defaults,nofail,_netdev,x-systemd.automount,ro 0 0\n",
        source.display(),
        point.display()
    );
    std::fs::write(sandbox.dir().join("fstab"), line).unwrap();
    program("mount").arg("-T").arg(sandbox.dir().join("fstab")).arg("-a").ok();
    assert_eq!(mountinfo::at(&point).map(|entry| entry.options.starts_with("ro")), Some(true));
    program("umount").arg(&point).ok();
    wait::assert_within(SOON, "the server ends after umount", || sandbox.processes().is_empty());
    // What fails is told to the caller, by message and code.
    let point = sandbox.dir().join("missing");
    let done = program("mount").args(["-t", "fuse.fusewire"]).args([&source, &point]).fails();
    assert!(done.stderr.contains(&*point.to_string_lossy()), "{done}");
}

/// The session of a process: 0 where its leader lives outside this pid namespace, for which
/// `getsid` has no number.
fn session_of(process: &str) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn the_background_process_is_ready_when_the_command_returns() {
    skip_unless!(command::other_server().is_none(), "the stand-in server has no background mode");
    let Some(sandbox) = sandbox::enter() else { return };
    let (source, point) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"));
    std::fs::write(source.join("file"), "text").unwrap();
    let mut line = command::MountLine::new(command::Filesystem::Passthrough);
    line.daemon = true;
    let start = |source: &Path, point: &Path| {
        let (binary, words) = line.program_and_words(source, point);
        program(binary).args(words).dir(source.parent().unwrap()).limit(20)
    };
    let done = start(&source, &point).run();
    assert_eq!(done.code(), Some(0), "{done}");
    assert_eq!(std::fs::read_to_string(point.join("file")).unwrap(), "text");
    // Over a ring there is a small one beside it, which has the other's name at first.
    let is_server = |pid: i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() != "fusewire-ask")
    };
    let one = wait::until(SOON, || {
        let mut processes = sandbox.processes();
        processes.retain(|&(pid, _)| is_server(pid));
        <[_; 1]>::try_from(processes).ok()
    });
    let Some([(pid, _)]) = one else { panic!("one server, not {:?}", sandbox.processes()) };
    assert_ne!(
        session_of(&pid.to_string()),
        session_of("self"),
        "the server still belongs to the caller's session"
    );
    assert_eq!(
        std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        Path::new("/"),
        "it keeps a directory busy"
    );
    run(command::unmount(&point)).ok();
    wait::assert_within(SOON, "the server ends after unmount", || sandbox.processes().is_empty());
    // A failure is reported by the command itself, not lost in the background.
    let done = start(&source, &sandbox.dir().join("missing")).run();
    assert_refused(&sandbox, &done, &sandbox.dir().join("missing"));
}

/// Whoever hears that it is ready may unmount at once what the command was started in.
#[test]
fn the_background_process_leaves_the_directory_before_it_is_ready() {
    skip_unless!(command::other_server().is_none(), "the stand-in server has no background mode");
    let Some(sandbox) = sandbox::enter() else { return };
    let (source, point, home) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"), sandbox.make_dir("home"));
    // It cannot say so: nobody reads what is in the pipe already.
    let (unread, full) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&full, OFlags::NONBLOCK).unwrap();
    while (&full).write(&[0; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&full, OFlags::empty()).unwrap();
    let mut line = std::process::Command::new(command::binary());
    line.args(["--report-ready", "mount", "--daemon"]).args([&source, &point]).current_dir(&home);
    let mut server = line.stdout(full).spawn().unwrap();
    drop(line);
    let directory = || std::fs::read_link(format!("/proc/{}/cwd", server.id())).ok();
    let left = wait::until(SOON, || (directory()? == Path::new("/")).then_some(()));
    drop(unread);
    // Who asked has gone, so that the mount is undone.
    wait::assert_within(SOON, "it ends", || server.try_wait().unwrap().is_some());
    assert!(left.is_some(), "it keeps its directory until it is ready");
    assert_eq!(mountinfo::at(&point).map(|entry| entry.kind), None);
}

#[test]
fn a_mount_in_the_background_whose_caller_has_gone_is_undone() {
    skip_unless!(command::other_server().is_none(), "the stand-in server has no background mode");
    let Some(sandbox) = sandbox::enter() else { return };
    let (source, point) = (sandbox.make_dir("src"), sandbox.make_dir("mnt"));
    // As the caller starts it (not the first of its process group), and then nobody reads what it answers.
    let line =
        r#"mkfifo answer; exec 3<>answer 1>answer 3<&-; "$1" --report-ready mount "$2" "$3" || exit $?"#;
    let done = shell(line, &[&command::binary(), &source, &point]).dir(sandbox.dir()).limit(20).run();
    assert_eq!(done.code(), Some(1), "{done}");
    assert!(done.stderr.contains("it is undone"), "{done}");
    assert!(mountinfo::at(&point).is_none(), "{done}");
    assert_eq!(std::fs::read_dir(&point).unwrap().count(), 0);
}

#[test]
fn relative_paths_and_odd_names_are_mounted() {
    let Some(sandbox) = sandbox::enter() else { return };
    let (source, point) =
        (sandbox.make_dir("a source, with = and \\ and \n in it"), sandbox.make_dir("mount, point \n x"));
    std::fs::write(source.join("file"), "text").unwrap();
    let (binary, words) = command::MountLine::new(command::Filesystem::Passthrough)
        .program_and_words(Path::new(source.file_name().unwrap()), Path::new(point.file_name().unwrap()));
    skip_unless!(command::other_server().is_none(), "the stand-in server knows no relative paths");
    let mut running = program(binary).args(words).dir(sandbox.dir()).start();
    wait::assert_within(SOON, "mounted", || mountinfo::at(&point).is_some());
    assert_eq!(std::fs::read_to_string(point.join("file")).unwrap(), "text");
    running.signal(rustix::process::Signal::INT);
    assert_eq!(running.end_within(SOON).and_then(|status| status.code()), Some(0));
    assert!(mountinfo::at(&point).is_none());
}

#[test]
fn an_ordinary_user_may_mount_a_name_with_a_line_break() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    let source = sandbox.make_dir("two\nlines");
    std::fs::write(source.join("file"), "text").unwrap();
    let mount = mount::passthrough(&sandbox).source(&source).user("daemon").start();
    as_user("daemon", "cat").arg(mount.join("file")).ok();
    mount.stop();
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    let plan = mount::passthrough(&sandbox).user("daemon");
    let mount = plan.start();
    let entry = mountinfo::at(mount.path()).unwrap();
    assert!(entry.options.contains("nosuid") && entry.options.contains("nodev"), "{entry:?}");
    let user = |line: &str| as_user("daemon", "sh").args(["-ceu", line]).dir("/").env("MNT", mount.path());
    user(r#"echo text > "$MNT/file"; mkdir "$MNT/dir"; mv "$MNT/file" "$MNT/dir/"; cat "$MNT/dir/file""#)
        .ok();
    let owner = program("id").args(["-u", "daemon"]).ok().trim().parse().ok();
    assert_eq!(mount.below("dir/file").metadata().ok().map(|meta| meta.uid()), owner);
    // Nobody else gets in, not even root, without allow_other.
    assert_eq!(mount.join("dir").metadata().unwrap_err().raw_os_error(), Some(libc::EACCES));
    as_user("nobody", "ls").arg(mount.path()).fails();
    let unmount = command::unmount(mount.path());
    as_user("daemon", sandbox.dir().join("fusewire")).args(unmount.get_args()).ok();
    let mut mount = mount;
    assert!(!mount.is_mounted());
    assert_eq!(mount.end_within(SOON).and_then(|status| status.code()), Some(0), "{}", mount.log());
}

#[test]
fn an_ordinary_user_ends_the_mount_by_a_signal() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).user("daemon").start();
    as_user("daemon", "touch").arg(mount.join("file")).ok();
    mount.stop();
}

#[test]
fn an_ordinary_user_may_not_mount_where_others_own() {
    need!("fusermount3", "setpriv");
    let Some(sandbox) = sandbox::enter() else { return };
    let mount = mount::passthrough(&sandbox).user("daemon").start();
    let point = sandbox.make_dir("of-root");
    let done = as_user("daemon", sandbox.dir().join("fusewire"))
        .arg("mount")
        .args([mount.source(), &point])
        .limit(20)
        .run();
    assert_eq!(done.code(), Some(1), "{done}");
    assert!(done.stderr.contains(&*point.to_string_lossy()), "{done}");
    assert!(mountinfo::at(&point).is_none());
    mount.stop();
}

#[test]
fn the_directory_itself_can_be_the_mount_point() {
    let Some(sandbox) = sandbox::enter() else { return };
    let dir = sandbox.make_dir("a.mnt");
    std::fs::write(dir.join("file"), "text").unwrap();
    let mount = mount::passthrough(&sandbox).source(&dir).start();
    assert_eq!(std::fs::read_to_string(dir.join("file")).unwrap(), "text");
    std::fs::write(dir.join("new"), "through the mount").unwrap();
    mount.stop();
    assert_eq!(std::fs::read_to_string(dir.join("new")).unwrap(), "through the mount");
}

#[test]
fn the_mount_is_ready_when_it_is_visible() {
    let Some(sandbox) = sandbox::enter() else { return };
    let source = sandbox.make_dir("src");
    std::fs::write(source.join("file"), "text").unwrap();
    for round in 0..10 {
        let plan = mount::passthrough(&sandbox)
            .name(&format!("m{round}"))
            .source(&source)
            .cache(Cache::ALL[round % Cache::ALL.len()]);
        let mount = plan.start();
        let read = shell(r#"cat "$1/file""#, &[mount.path()]).limit(10).ok();
        assert_eq!(read, "text");
        mount.stop();
    }
}
