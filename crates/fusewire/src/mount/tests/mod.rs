//! Real mounts, each way, and how they come to an end.

mod guarded;
mod stage;
mod user;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use rustix::io::{Errno, FdFlags, fcntl_getfd};

use super::*;
use stage::{
    ROOT_INO, Server, answer_init, eventually, mounted_below, on_stage, read_init, reply, unmount_idle,
};

const EACH_WAY: [Way; 3] = [Way::NewApi { sync_init: true }, Way::NewApi { sync_init: false }, Way::Syscall];

fn plain(way: Way, at: &Path) -> (Mount, Server) {
    Server::start(mount_by(way, at, &MountOptions::default(), answer_init).expect("mounts"))
}

/// Whether this kernel can wait for INIT while mounting.
fn has_sync_init() -> bool {
    init::Synchronous::make(open_device().expect("/dev/fuse").as_fd()).is_some()
}

#[test]
fn a_mount_is_there_with_its_options_until_it_is_unmounted() {
    on_stage("options", |folder| {
        let mut options = MountOptions::default();
        let list = r"fsname=a\,b c,subtype=x.y,nosuid,nodev,noexec,noatime,allow_other,default_permissions,max_read=65536,ro";
        assert_eq!(options.parse(list).expect("parses"), Vec::<String>::new());
        for way in EACH_WAY {
            let at = folder.join("m");
            let mounted = mount_by(way, &at, &options, answer_init).expect("mounts");
            assert!(fcntl_getfd(&mounted.device).expect("open").contains(FdFlags::CLOEXEC));
            let (mount, server) = Server::start(mounted);
            let stat = fs::metadata(&at).expect("served");
            assert_eq!(stat.ino(), ROOT_INO, "{way:?}: the directory below is seen");
            assert_eq!(rustix::fs::minor(stat.dev()) as u64, mount.connection());
            assert_eq!(fs::read_dir(&at).expect("served").count(), 0);
            let mounts = fuse_mounts().expect("mountinfo");
            let entry = mounts.iter().find(|entry| entry.mountpoint == at).expect("listed");
            assert_eq!(
                (entry.fstype.as_str(), entry.source.to_str()),
                ("fuse.x.y", Some("a,b c")),
                "{way:?}"
            );
            assert_eq!(entry.options, "ro,nosuid,nodev,noexec,noatime", "{way:?}");
            let wanted = "ro,user_id=0,group_id=0,default_permissions,allow_other,max_read=65536";
            assert_eq!(entry.super_options, wanted, "{way:?}");
            assert_eq!(fs::create_dir(at.join("x")).expect_err("ro").raw_os_error(), Some(libc::EROFS));

            let open = File::open(&at).expect("served");
            let busy = mount.unmount(Unmount::IfIdle).expect_err("in use");
            assert!(matches!(busy, MountError::Busy { .. }), "{busy}");
            assert!(mount.is_mounted());
            drop(open);
            unmount_idle(&mount);
            assert!(!mount.is_mounted());
            server.end();
            mount.unmount(Unmount::IfIdle).expect("nothing left to do");
        }
    });
}

#[test]
fn the_public_way_mounts_and_dropping_unmounts() {
    on_stage("public", |folder| {
        let at = folder.join("m");
        let mounted = mount(&folder.join("./m/"), &MountOptions::default(), answer_init).expect("mounts");
        assert_eq!(mounted.mount.mountpoint(), at);
        assert_eq!(mounted_below(folder), std::slice::from_ref(&at));
        let (mount, server) = Server::start(mounted);
        let open = File::open(&at).expect("served");
        drop(mount);
        assert_eq!(mounted_below(folder), Vec::<PathBuf>::new());
        assert_eq!(open.metadata().expect("lazily: what is open goes on").ino(), ROOT_INO);
        drop(open);
        server.end();
    });
}

#[test]
fn a_regular_file_can_be_mounted_on() {
    on_stage("file", |folder| {
        let at = folder.join("f");
        fs::write(&at, "below").expect("file");
        for way in EACH_WAY {
            let (mount, _server) = plain(way, &at);
            let stat = fs::metadata(&at).expect("served");
            assert!(stat.is_file() && stat.ino() == ROOT_INO, "{way:?}");
            unmount_idle(&mount);
            assert_eq!(fs::read(&at).expect("uncovered"), b"below");
        }
    });
}

#[test]
fn nobody_sees_the_mount_before_init_was_answered() {
    on_stage("hidden", |folder| {
        for way in [Way::NewApi { sync_init: true }, Way::NewApi { sync_init: false }] {
            let at = folder.join("m");
            let caller = thread::current().id();
            let mounted = mount_by(way, &at, &MountOptions::default(), |device| {
                // The table is per thread, and a thread made here is in the same namespace.
                assert_eq!(mounted_below(folder), Vec::<PathBuf>::new(), "{way:?}");
                let other_thread = thread::current().id() != caller;
                assert_eq!(
                    other_thread,
                    way == Way::NewApi { sync_init: true } && has_sync_init(),
                    "{way:?}"
                );
                answer_init(device)
            });
            assert!(mounted.expect("mounts").mount.is_mounted());
        }
    });
}

fn fail_at_once(_: BorrowedFd<'_>) -> io::Result<()> {
    Err(io::Error::other("disk on fire"))
}

fn fail_after_reading(device: BorrowedFd<'_>) -> io::Result<()> {
    read_init(device)?;
    fail_at_once(device)
}

fn fail_after_refusing(device: BorrowedFd<'_>) -> io::Result<()> {
    let header = read_init(device)?;
    reply(device, header.unique, Err(Errno::PROTO))?;
    fail_at_once(device)
}

#[test]
fn a_filesystem_that_cannot_start_leaves_nothing_mounted() {
    on_stage("failing", |folder| {
        let failures: [fn(BorrowedFd<'_>) -> io::Result<()>; 3] =
            [fail_at_once, fail_after_reading, fail_after_refusing];
        for way in EACH_WAY {
            for (number, answer) in failures.into_iter().enumerate() {
                let error =
                    mount_by(way, &folder.join("m"), &MountOptions::default(), answer).expect_err("fails");
                assert!(matches!(error, MountError::Init { .. }), "{way:?} {number}: {error}");
                assert!(error.to_string().contains("disk on fire"), "{error}");
                assert_eq!(mounted_below(folder), Vec::<PathBuf>::new(), "{way:?} {number}");
            }
            let panicking = std::panic::catch_unwind(|| {
                let at = folder.join("m");
                mount_by(way, &at, &MountOptions::default(), |_| panic!("meant")).map(drop)
            });
            assert!(panicking.is_err(), "{way:?}: a panic must go on");
            assert_eq!(mounted_below(folder), Vec::<PathBuf>::new(), "{way:?}");
        }
    });
}

#[test]
fn a_mount_attempt_that_fails_before_init_does_not_hang() {
    on_stage("attempt", |_| {
        let device = open_device().expect("/dev/fuse");
        let Some(device) = init::Synchronous::make(device.as_fd()) else {
            return eprintln!("skipped: this kernel does not wait for INIT");
        };
        let answer = |_: BorrowedFd<'_>| panic!("there is no INIT to answer");
        let outcome = init::while_mounting(device, answer, || "refused").expect("a thread");
        assert_eq!((outcome.mounted, outcome.answered.is_none()), ("refused", true));
    });
}

#[test]
fn what_is_asked_between_init_and_the_end_of_mounting_is_answered() {
    on_stage("early", |folder| {
        let at = folder.join("m");
        let mounted = mount(&at, &MountOptions::default(), answer_init).expect("mounts");
        let over = init::Over::new().expect("eventfd");
        let asked = thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut value = [0; 64];
                rustix::fs::getxattr(&at, "security.selinux", &mut value)
            });
            scope.spawn(|| init::answer_early_requests(mounted.device.as_fd(), &over));
            let asked = asking.join().expect("no panic");
            over.set();
            asked
        });
        assert_eq!(asked, Err(Errno::NODATA));
    });
}

#[test]
fn the_kernels_own_words_are_in_the_error() {
    on_stage("log", |folder| {
        let place = Place::open(&folder.join("m")).expect("a directory");
        let context = new_api::Context::open(&place).expect("allowed").expect("known to this kernel");
        let error = context.string("nonsense", "1").expect_err("no such option").to_string();
        assert!(error.contains("nonsense") && error.contains("fsconfig"), "{error}");
        assert!(error.contains("Unknown parameter"), "the log is missing: {error}");
    });
}

#[test]
fn a_long_source_is_shortened_and_a_relative_path_works() {
    on_stage("long", |folder| {
        let options = MountOptions { fsname: Some("ä".repeat(300)), ..Default::default() };
        // The working directory is the thread's own here, like the namespace.
        std::env::set_current_dir(folder).expect("enter");
        let mounted = mount(Path::new("m"), &options, answer_init).expect("mounts");
        assert_eq!(mounted.mount.mountpoint(), folder.join("m"));
        let entry = mounted.mount.identity.entry().expect("table").expect("listed");
        assert_eq!(entry.source.to_str(), Some("ä".repeat(127).as_str()));
        std::env::set_current_dir("/").expect("leave");
    });
}

#[test]
fn only_the_own_mount_is_ever_unmounted() {
    on_stage("identity", |folder| {
        let at = folder.join("m");
        let (below, _server) = plain(Way::NewApi { sync_init: true }, &at);
        let (above, _other) = plain(Way::Syscall, &at);
        for how in [Unmount::IfIdle, Unmount::Lazy] {
            let error = below.unmount(how).expect_err("covered");
            assert!(matches!(error, MountError::Covered { .. }), "{error}");
        }
        assert_eq!(mounted_below(folder).len(), 2);
        unmount_idle(&above);

        // Unmounted by somebody else, and something else mounted there.
        eventually("umount", || rustix::mount::unmount(&at, UnmountFlags::empty()).is_ok());
        assert!(!below.is_mounted());
        let (another, _third) = plain(Way::NewApi { sync_init: true }, &at);
        below.unmount(Unmount::Lazy).expect("it is gone");
        drop(below);
        assert!(another.is_mounted());

        // A directory above is renamed: it is found all the same.
        drop(another);
        fs::create_dir_all(folder.join("old/m")).expect("folder");
        let (moved, _fourth) = plain(Way::NewApi { sync_init: true }, &folder.join("old/m"));
        fs::rename(folder.join("old"), folder.join("new")).expect("rename");
        assert_eq!(mounted_below(folder), [folder.join("new/m")]);
        unmount_idle(&moved);
        assert_eq!(mounted_below(folder), Vec::<PathBuf>::new());
    });
}

#[test]
fn dead_mounts_are_named_and_can_be_unmounted() {
    on_stage("dead", |folder| {
        let at = folder.join("m");
        let Mounted { device, mount } = mount(&at, &MountOptions::default(), answer_init).expect("mounts");
        mount.forget();
        drop(device);
        assert_eq!(mounted_below(folder), std::slice::from_ref(&at), "forgotten mounts stay");
        std::os::unix::fs::symlink("m", folder.join("link")).expect("link");
        for path in [at.clone(), at.join("sub"), folder.join("link")] {
            let error = super::mount(&path, &MountOptions::default(), answer_init).expect_err("dead");
            let MountError::Dead { dead, .. } = &error else { panic!("{path:?}: {error}") };
            assert_eq!(*dead, at);
            assert!(error.to_string().contains("fusewire unmount --lazy"), "{error}");
        }
        unmount_path(&folder.join("link"), true, false).expect("unmounts");
        assert_eq!(mounted_below(folder), Vec::<PathBuf>::new());
    });
}

#[test]
fn unmounting_by_path_takes_only_idle_fuse_mounts() {
    on_stage("bypath", |folder| {
        let at = folder.join("m");
        let refusal = |path: &Path| unmount_path(path, false, false).expect_err("refused");
        assert!(
            matches!(refusal(Path::new("/proc")), MountError::NotFuse { fstype, .. } if fstype == "proc")
        );
        assert!(matches!(refusal(&at), MountError::NotMounted { .. }), "{}", refusal(&at));
        assert!(refusal(&at).to_string().contains("it belongs to the mount at /"), "{}", refusal(&at));
        let missing = refusal(&folder.join("none")).to_string();
        assert!(missing.starts_with("cannot unmount") && missing.contains("No such file"), "{missing}");
        assert!(!missing.contains("mkdir"), "{missing}");

        let (mount, server) = plain(Way::NewApi { sync_init: true }, &at);
        let open = File::open(&at).expect("served");
        assert!(matches!(refusal(&at), MountError::Busy { .. }));
        drop(open);
        eventually("unmounting", || unmount_path(&at, false, false).is_ok());
        assert!(!mount.is_mounted());
        server.end();

        let (mount, server) = plain(Way::NewApi { sync_init: true }, &at);
        let open = File::open(&at).expect("served");
        unmount_path(&at, true, true).expect("by force");
        assert!(!mount.is_mounted());
        server.end();
        assert_eq!(open.metadata().expect_err("aborted").raw_os_error(), Some(libc::ENOTCONN));
    });
}

#[test]
fn aborting_frees_whoever_waits() {
    on_stage("abort", |folder| {
        let folder_of_connections = Path::new("/sys/fs/fuse/connections");
        while rustix::mount::unmount(folder_of_connections, UnmountFlags::empty()).is_ok() {}
        for is_usual in [false, true] {
            if is_usual {
                let none = rustix::mount::MountFlags::empty();
                rustix::mount::mount("none", folder_of_connections, "fusectl", none, None).expect("fusectl");
            }
            let at = folder.join("m");
            let mounted = mount(&at, &MountOptions::default(), answer_init).expect("mounts");
            let at_hand = at.clone();
            let waiting = thread::spawn(move || fs::metadata(at_hand).map(drop));
            thread::sleep(std::time::Duration::from_millis(100));
            if waiting.is_finished() {
                panic!("nobody serves, so it must wait: {:?}", waiting.join());
            }
            mounted.mount.abort().expect("aborts");
            let error = waiting.join().expect("no panic").expect_err("aborted").raw_os_error();
            assert!([Some(libc::ENOTCONN), Some(libc::ECONNABORTED)].contains(&error), "{error:?}");
            assert!(mounted.mount.is_mounted(), "aborting does not unmount");
            mounted.mount.abort().expect("once more");

            // Out of sight, but still in use: it can be aborted all the same.
            drop(mounted);
            let mounted = mount(&at, &MountOptions::default(), answer_init).expect("mounts");
            let (lazy, server) = Server::start(mounted);
            let open = File::open(&at).expect("served");
            lazy.unmount(Unmount::Lazy).expect("unmounts");
            lazy.abort().expect("aborts");
            server.end();
            assert_eq!(open.metadata().expect_err("aborted").raw_os_error(), Some(libc::ENOTCONN));
            drop(open);

            // Numbers are given again at once. The old mount's switch must not hit the new one.
            let (other, _server) = plain(Way::choose(), &at);
            lazy.abort().expect("nothing to abort");
            assert_eq!(fs::metadata(&at).expect("still served").ino(), ROOT_INO);
            drop(other);
        }
    });
}
