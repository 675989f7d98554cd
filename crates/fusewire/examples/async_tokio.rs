//! Files whose content arrives over the network, fetched by a tokio client while other requests go on.
//!
//! Run it with `cargo run -p fusewire --example async_tokio -- MOUNTPOINT`. The example starts its own server on the
//! loopback interface: a store of texts that takes half a second over every answer.
//!
//! What to look at: [`Remote::read`] awaits a task of the tokio runtime from a future which that runtime does not
//! poll. Waking it from a foreign thread is the channel's business. A reader that is interrupted (Ctrl-C in `cat`)
//! gives its request up, and the client drops the connection.

use fusewire::{
    Attr, Context, Entry, Errno, FileSystem, FileType, NodeId, Result,
    mount::Unmount,
    op,
    reply::*,
    server::{Options, Server},
};
use std::{error::Error, io, net::SocketAddr, path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::{Handle, Runtime},
};

/// How long the store thinks about every request.
const DELAY: Duration = Duration::from_millis(500);

/// How many texts the store has.
const TEXTS: u64 = 10;

/// The store: answers each line `NUMBER` with that text and closes the connection.
async fn serve_store(listener: TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut line = String::new();
            BufReader::new(&mut stream).read_line(&mut line).await?;
            tokio::time::sleep(DELAY).await;
            match line.trim().parse() {
                Ok(number) => stream.write_all(text(number).as_bytes()).await,
                Err(_) => Ok(()),
            }
        });
    }
}

fn text(number: u64) -> String {
    format!("This is text {number}, and it took {} ms to get here.\n", DELAY.as_millis())
}

/// The client: fetch one text.
async fn fetch(store: SocketAddr, number: u64) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(store).await?;
    stream.write_all(format!("{number}\n").as_bytes()).await?;
    let mut content = Vec::new();
    stream.read_to_end(&mut content).await?;
    Ok(content)
}

/// The filesystem: text `n` of the store is node `n + 2`, called `n`.
struct Remote {
    runtime: Handle,
    store: SocketAddr,
}

fn number_of(node: NodeId) -> Result<u64> {
    node.raw().checked_sub(2).filter(|number| *number < TEXTS).ok_or(Errno::STALE)
}

fn attr(node: NodeId) -> Result<Attr> {
    if node == NodeId::ROOT {
        return Ok(Attr::directory());
    }
    Ok(Attr::file(text(number_of(node)?).len() as u64))
}

impl FileSystem for Remote {
    async fn lookup(&self, _cx: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        let name = str::from_utf8(op.name.as_bytes()).map_err(|_| Errno::NOENT)?;
        let number = (0..TEXTS).find(|number| number.to_string() == name).ok_or(Errno::NOENT)?;
        let node = NodeId::new(number + 2);
        Ok(Entry::new(node, attr(node)?))
    }

    async fn getattr(&self, _cx: &Context, op: op::Getattr) -> Result<Attr> {
        attr(op.node)
    }

    async fn read(&self, cx: &Context, op: op::Read, out: &mut Sink<'_>) -> Result<()> {
        let mut fetching = self.runtime.spawn(fetch(self.store, number_of(op.node)?));
        let fetched = tokio::select! {
            fetched = &mut fetching => fetched,
            () = cx.cancelled() => {
                fetching.abort();
                return Err(Errno::INTR);
            }
        };
        let content = fetched.map_err(|_| Errno::IO)?;
        let content = content.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        out.put_from(&content, op.offset);
        Ok(())
    }

    async fn readdir(&self, _cx: &Context, op: op::Readdir, out: &mut DirSink<'_>) -> Result<()> {
        let names: Vec<String> = (0..TEXTS).map(|number| number.to_string()).collect();
        let texts =
            names.iter().zip(2..).map(|(name, node)| (NodeId::new(node), FileType::Regular, &name[..]));
        let dots = [".", ".."].map(|name| (NodeId::ROOT, FileType::Directory, name));
        out.put_all(op.cookie, dots.into_iter().chain(texts));
        Ok(())
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mountpoint: PathBuf = std::env::args_os().nth(1).ok_or("usage: async_tokio MOUNTPOINT")?.into();
    let runtime = Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let store = listener.local_addr()?;
    runtime.spawn(serve_store(listener));

    let server =
        Server::mount(Remote { runtime: runtime.handle().clone(), store }, &mountpoint, &Options::default())?;
    println!("Try, and note that it takes half a second, not five (Ctrl-C here ends):");
    println!("  cd {}; time (for n in $(seq 0 {}); do cat $n & done; wait)", mountpoint.display(), TEXTS - 1);
    let handle = server.handle();
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok()
            && let Err(error) = handle.unmount(Unmount::Lazy)
        {
            eprintln!("async_tokio: {error}");
        }
    });
    server.join()?;
    Ok(())
}
