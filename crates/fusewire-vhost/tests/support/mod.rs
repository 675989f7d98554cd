//! A device with a guest.
#![allow(dead_code)]

use fusewire::{
    Attr, Context, FileSystem, Result,
    op::{Getattr, Read},
    reply::Sink,
};
use fusewire_fs::passthrough::{self, Passthrough};
use fusewire_vhost::{
    Device, Options, Server,
    kit::{Layout, Monitor},
};
use std::{
    fs, io,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A device that serves a guest made of the kit.
pub struct Guest {
    pub monitor: Monitor,
    pub server: Option<JoinHandle<std::result::Result<(), fusewire_vhost::Error>>>,
    pub _dir: tempfile::TempDir,
}

impl Guest {
    pub fn start<F: FileSystem>(
        make: impl Fn() -> io::Result<F> + Send + Sync + 'static,
        options: Options,
        layout: Layout,
    ) -> Self {
        let tag = options.tag.clone().or(Some("test".into()));
        Self::start_as(make, Options { tag, ..options }, layout)
    }

    pub fn start_as<F: FileSystem>(
        make: impl Fn() -> io::Result<F> + Send + Sync + 'static,
        options: Options,
        layout: Layout,
    ) -> Self {
        Self::of(Device::new(make, options).expect("device"), layout)
    }

    pub fn of<F: FileSystem>(device: Device<F>, layout: Layout) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let listener = UnixListener::bind(dir.path().join("socket")).expect("socket");
        let server = std::thread::spawn(move || Server::accept(device, listener)?.wait());
        let stream = UnixStream::connect(dir.path().join("socket")).expect("connect");
        let monitor = Monitor::start(stream, layout).expect("monitor");
        Self { monitor, server: Some(server), _dir: dir }
    }

    /// End of the guest. The device must end well.
    pub fn end(mut self) {
        let server = self.server.take();
        drop(self);
        server.expect("server").join().expect("no panic").expect("a good end");
    }
}

/// The directory, re-exported.
pub fn passthrough(dir: &Path) -> impl Fn() -> io::Result<Passthrough> + Send + Sync + 'static {
    let dir = dir.to_owned();
    move || {
        let options = passthrough::Options { forward: passthrough::Forward::Off, ..Default::default() };
        Passthrough::new(&dir, options)
    }
}

/// A filesystem whose reads keep their thread until somebody writes into a pipe.
#[derive(Clone, Debug)]
pub struct Hanging(Arc<Pipe>);

/// What makes them end.
pub struct Hung(Arc<Pipe>);

#[derive(Debug)]
struct Pipe {
    file: fs::File,
    begun: AtomicUsize,
}

impl Hanging {
    /// Over a pipe that is made there.
    pub fn over(pipe: &Path) -> (Self, Hung) {
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644));
        rustix::fs::mknodat(rustix::fs::CWD, pipe, kind, mode, 0).expect("pipe");
        let file = fs::File::options().read(true).write(true).open(pipe).expect("pipe");
        let pipe = Arc::new(Pipe { file, begun: AtomicUsize::new(0) });
        (Self(pipe.clone()), Hung(pipe))
    }
}

impl Hung {
    /// Let so many reads end.
    pub fn release(&self, count: usize) {
        for _ in 0..count {
            io::Write::write_all(&mut &self.0.file, b"late").expect("pipe");
        }
    }

    /// Wait until so many reads have begun.
    pub fn wait_for(&self, count: usize) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.0.begun.load(Ordering::SeqCst) < count {
            assert!(Instant::now() < end, "no {count} reads begin");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl FileSystem for Hanging {
    async fn getattr(&self, _cx: &Context, _op: Getattr) -> Result<Attr> {
        Ok(Attr::directory())
    }

    async fn read(&self, _cx: &Context, _op: Read, out: &mut Sink<'_>) -> Result<()> {
        let mut bytes = [0; 4];
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        io::Read::read_exact(&mut &self.0.file, &mut bytes).map_err(|_| fusewire::Errno::IO)?;
        out.put(&bytes);
        Ok(())
    }
}
