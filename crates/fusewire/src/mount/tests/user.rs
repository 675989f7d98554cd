//! Mounting as an ordinary user through `fusermount3`, and the roles that copies of this program play.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::*;
use super::guarded::{PLACE, ROLE, mount_and_stay, start};
use super::stage::{ROOT_INO, Server, answer_init, eventually, mounted_below, on_stage, unmount_idle};

const NOBODY: u32 = 65534;

/// A folder of `nobody` with a mount point, and a copy of this program that `nobody` may run. None without
/// `fusermount3`.
fn home_of_nobody(folder: &Path) -> Option<(PathBuf, Command)> {
    if !Path::new("/usr/bin/fusermount3").exists() {
        eprintln!("skipped: fusermount3 is not installed");
        return None;
    }
    let program = folder.join("program");
    fs::copy(std::env::current_exe().expect("this program"), &program).expect("copy");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("chmod");
    open_device_for_all(folder);
    let at = folder.join("m");
    chown(&at, Some(NOBODY), Some(NOBODY)).expect("chown");
    let mut command = Command::new(program);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    Some((at, command))
}

/// `fusermount3` opens the device with the user's permissions, and not every machine grants them: in this namespace
/// a node with the usual mode 0666 goes over it.
fn open_device_for_all(folder: &Path) {
    let node = folder.join("fuse");
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::from_raw_mode(0o666));
    rustix::fs::mknodat(rustix::fs::CWD, &node, kind, mode, rustix::fs::makedev(10, 229)).expect("mknod");
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).expect("chmod");
    rustix::mount::mount_bind(&node, "/dev/fuse").expect("bind mount");
}

#[test]
fn an_ordinary_user_mounts_and_unmounts() {
    on_stage("user", |folder| {
        let Some((at, mut command)) = home_of_nobody(folder) else { return };
        let mut child = start(&mut command, "user", &at);
        assert!(child.wait().expect("ends").success(), "see above");
    });
}

#[test]
fn an_ordinary_users_mount_goes_with_the_killed_process() {
    on_stage("userkill", |folder| {
        let Some((at, mut command)) = home_of_nobody(folder) else { return };
        let mut child = start(&mut command, "user-guarded", &at);
        assert_eq!(mounted_below(folder), std::slice::from_ref(&at));
        child.kill().expect("SIGKILL");
        child.wait().expect("dead");
        eventually("auto_unmount", || mounted_below(folder).is_empty());
    });
}

/// Not a test of its own: what the copies of this program do that other tests start.
#[test]
#[ignore = "played by copies that other tests start"]
fn role() {
    let (Some(role), Some(at)) = (std::env::var_os(ROLE), std::env::var_os(PLACE)) else { return };
    let at = PathBuf::from(at);
    match role.to_str() {
        Some("guarded") => mount_and_stay(Way::choose(), &at),
        Some("guarded-syscall") => mount_and_stay(Way::Syscall, &at),
        Some("user-guarded") => mount_and_stay(Way::choose(), &at),
        Some("user") => play_user(&at),
        _ => panic!("no such role"),
    }
}

fn play_user(at: &Path) {
    assert_eq!(Way::choose(), Way::Fusermount);
    println!("READY");
    let folder = at.parent().expect("not the root");
    let mut options = MountOptions::default();
    options.parse(r"fsname=a\,b,noexec,max_read=65536").expect("parses");
    for _ in 0..2 {
        let (mount, server) = Server::start(mount(at, &options, answer_init).expect("mounts"));
        assert_eq!(fs::metadata(at).expect("served").ino(), ROOT_INO);
        let entry = mount.identity.entry().expect("table").expect("listed");
        assert_eq!((entry.fstype.as_str(), entry.source.to_str()), ("fuse.fusewire", Some("a,b")));
        assert!(entry.options.starts_with("rw,nosuid,nodev,noexec"), "{}", entry.options);
        assert!(entry.super_options.contains("user_id=65534,group_id=65534,max_read=65536"));
        let open = fs::File::open(at).expect("served");
        let busy = mount.unmount(Unmount::IfIdle).expect_err("in use");
        assert!(matches!(busy, MountError::Busy { .. }), "{busy}");
        drop(open);
        unmount_idle(&mount);
        server.end();
    }
    drop(mount(at, &options, answer_init).expect("mounts"));
    assert_eq!(mounted_below(folder), Vec::<PathBuf>::new(), "dropping unmounts");
    auto_unmount(at);
    refusals(at);
    println!("all was as it should be");
}

/// A guard must not take the next mount with it.
fn auto_unmount(at: &Path) {
    let options = MountOptions { auto_unmount: true, ..Default::default() };
    let (first, _server) = Server::start(mount(at, &options, answer_init).expect("mounts"));
    unmount_idle(&first);
    let failed = mount(at, &options, |_| Err(io::Error::other("disk on fire")));
    assert!(failed.expect_err("fails").to_string().contains("disk on fire"));
    assert_eq!(mounted_below(at), Vec::<PathBuf>::new());
    let (second, _other) = Server::start(mount(at, &MountOptions::default(), answer_init).expect("mounts"));
    drop(first);
    assert!(second.is_mounted());
    eventually("by path", || unmount_path(at, false, false).is_ok());
    assert!(!second.is_mounted());
}

fn refusals(at: &Path) {
    let options = MountOptions { allow_other: true, ..Default::default() };
    if !fs::read_to_string("/etc/fuse.conf")
        .unwrap_or_default()
        .lines()
        .any(|line| line == "user_allow_other")
    {
        let text = mount(at, &options, answer_init).expect_err("not allowed").to_string();
        assert!(text.contains("write a line user_allow_other into /etc/fuse.conf"), "{text}");
    }
    let text =
        mount(Path::new("/usr"), &MountOptions::default(), answer_init).expect_err("not ours").to_string();
    assert!(text.contains("/usr") && text.contains("may write"), "{text}");
    let text = unmount_path(Path::new("/proc"), false, false).expect_err("not FUSE").to_string();
    assert!(text.contains("not a FUSE filesystem but proc"), "{text}");
}
