//! Mounts that no path leads to any more: out of sight, or below another one. Whoever has files of them open is served as before.

use crate::{callers::*, lab::*, options, real};
use fusewire::{mount::Unmount, server::Ended};
use std::{
    fs::File,
    process::Command,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// How long a request takes that came before another thread stood in for the one that sleeps in a handler, on the same CPU.
fn beside_a_stuck_one(stuck: &File, plain: &File, mount: &Mounted) -> Duration {
    let begun = mount.fs.begun.load(Ordering::Acquire);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(allowed_cpus()[0]);
            read_at(stuck, 0);
        });
        let asks = scope.spawn(|| {
            pin(allowed_cpus()[0]);
            wait_until(|| mount.fs.begun.load(Ordering::Acquire) > begun);
            let begin = Instant::now();
            plain.metadata().unwrap();
            begin.elapsed()
        });
        asks.join().unwrap()
    })
}

real! {
    fn requests_of_a_mount_out_of_sight_do_not_wait_for_a_stuck_one() {
        let mount = Mounted::with(options());
        let [stuck, plain] = ["stuck", "plain"].map(|name| File::open(mount.at(name)).unwrap());
        mount.handle().unmount(Unmount::Lazy).unwrap();
        let took = beside_a_stuck_one(&stuck, &plain, &mount);
        drop((stuck, plain));
        assert_eq!(mount.join(), Ended::Unmounted);
        assert!(took < HELD_UP, "{took:?}");
    }

    fn requests_of_a_mount_below_another_do_not_wait_for_a_stuck_one() {
        let mount = Mounted::with(options());
        let [stuck, plain] = ["stuck", "plain"].map(|name| File::open(mount.at(name)).unwrap());
        assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&mount.path).status().unwrap().success());
        let took = beside_a_stuck_one(&stuck, &plain, &mount);
        assert!(Command::new("umount").arg(&mount.path).status().unwrap().success());
        drop((stuck, plain));
        mount.end();
        assert!(took < HELD_UP, "{took:?}");
    }
}
