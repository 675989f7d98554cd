//! `fusewire-test-slow-disk IMAGE MOUNTPOINT MICROSECONDS`: serves the image as the file `disk`, each read of which takes that long,
//! however many there are at a time. What a disk is like whose pages are not in memory, for a loop device.

use fusewire::op::{Getattr, Lookup, Open, Read, Write};
use fusewire::reply::Sink;
use fusewire::server::{Channel, Options, Server};
use fusewire::{Attr, Context, Entry, Errno, FileSystem, Handle, NodeId, Opened, Result};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

const DISK: NodeId = NodeId::new(2);

struct SlowDisk {
    image: File,
    delay: Duration,
}

impl SlowDisk {
    fn attr(&self, node: NodeId) -> Result<Attr> {
        if node == NodeId::ROOT {
            return Ok(Attr::directory());
        }
        self.image.metadata().map(|data| Attr::file(data.len())).map_err(|_| Errno::IO)
    }
}

impl FileSystem for SlowDisk {
    async fn lookup(&self, _: &Context, op: Lookup<'_>) -> Result<Entry> {
        if op.name.as_bytes() != b"disk" {
            return Err(Errno::NOENT);
        }
        Ok(Entry::new(DISK, self.attr(DISK)?))
    }

    async fn getattr(&self, _: &Context, op: Getattr) -> Result<Attr> {
        self.attr(op.node)
    }

    async fn open(&self, _: &Context, _: Open) -> Result<Opened> {
        Ok(Opened::new(Handle(0)))
    }

    async fn read(&self, cx: &Context, op: Read, out: &mut Sink<'_>) -> Result<()> {
        let delay = self.delay;
        cx.blocking(move || std::thread::sleep(delay)).await;
        out.put_file(&self.image, op.offset).await.map(drop)
    }

    async fn write(&self, _: &Context, op: Write<'_>) -> Result<u32> {
        op.data.to_file(&self.image, op.offset).await.map(|written| written as u32)
    }
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let [_, image, mountpoint, delay] = &words[..] else { panic!("IMAGE MOUNTPOINT MICROSECONDS") };
    let image = File::options().read(true).write(true).open(image).expect("the image");
    let delay = Duration::from_micros(delay.parse().expect("microseconds"));
    let options = Options { channel: Channel::DevFuse, ..Options::default() };
    let server = Server::mount(SlowDisk { image, delay }, Path::new(mountpoint), &options).expect("mounting");
    println!("ready");
    server.join().expect("serving");
}
