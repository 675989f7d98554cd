//! What the fuzz targets of virtio-fs do with their input. In a folder of their own, because a test of the crate `fusewire-vhost`
//! runs them too, on a stable compiler and for a few seconds.
//!
//! All of them share a tree with things beside it that no guest may see or change ([`Tree`]): a secret, and the directory of a second
//! guest, which is there all the time and hands the same secret around ([`Neighbour`]).
#![allow(dead_code)]

pub mod chains;
pub mod control;
pub mod races;
pub mod requests;
pub mod tree;

use fusewire_fs::passthrough::{self, Passthrough};
use fusewire_vhost::{
    Device, Options, Server,
    kit::{Layout, Monitor},
};
use std::{
    io,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tree::{Neighbour, Tree};

/// How long the device may take for whatever it is.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const ROOT: u64 = 1;

type Ended = Result<(), fusewire_vhost::Error>;

/// A device, and a guest made of the kit.
pub struct Guest {
    pub monitor: Monitor,
    server: Option<JoinHandle<Ended>>,
}

/// A place for a socket that nobody else has.
fn socket() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!(".fusewire-fuzz-{}-{next}", std::process::id()))
}

/// A device that serves `share`, and a connection to it.
pub fn device(share: &Path, options: Options) -> (JoinHandle<Ended>, UnixStream) {
    let (dir, path) = (share.to_owned(), socket());
    let listener = UnixListener::bind(&path).expect("a socket");
    let stream = UnixStream::connect(&path).expect("a connection");
    _ = std::fs::remove_file(path);
    let make = move || -> io::Result<Passthrough> {
        let options =
            passthrough::Options { forward: passthrough::Forward::Off, xattr: true, ..Default::default() };
        Passthrough::new(&dir, options)
    };
    let options = Options { tag: Some("fuzz".into()), ..options };
    let device = Device::new(make, options).expect("a device");
    (std::thread::spawn(move || Server::accept(device, listener)?.wait()), stream)
}

impl Guest {
    pub fn start(share: &Path, layout: Layout) -> Self {
        let options = Options { queues: layout.queues, ..Options::default() };
        let (server, stream) = device(share, options);
        let monitor = Monitor::start(stream, layout).expect("a monitor");
        Self { monitor, server: Some(server) }
    }

    /// Is the device there, and served by its second request queue?
    pub fn lives(&mut self) {
        let driver = &mut self.monitor.drivers[2];
        if driver.getattr(ROOT).is_err() {
            // The input has sent DESTROY, or INIT.
            driver.init().expect("a session");
            driver.getattr(ROOT).expect("attributes of the root directory");
        }
    }
}

/// A guest, and what it must leave alone.
pub struct World {
    pub tree: Tree,
    pub guest: Guest,
    pub neighbour: Neighbour,
}

impl World {
    pub fn new(layout: Layout) -> Self {
        no_panic_is_small();
        let tree = Tree::new();
        let guest = Guest::start(&tree.share(), layout);
        let neighbour = Neighbour::new(&tree);
        Self { tree, guest, neighbour }
    }

    /// The device is there, and nothing outside of the share has changed.
    pub fn check(&mut self) {
        self.guest.lives();
        self.neighbour.check();
        self.tree.check();
    }
}

/// A panic anywhere in the process, also where it is caught, ends it: that is a finding.
pub fn no_panic_is_small() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let last = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            last(info);
            std::process::abort();
        }));
    });
}
