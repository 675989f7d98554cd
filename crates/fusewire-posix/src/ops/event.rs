//! inotify, poll, sockets.

use super::{Args, Done, Operation, Trouble, wrong};
use crate::process::readable;
use crate::value::Value;
use crate::world::World;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::mem::MaybeUninit;
use std::time::Duration;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new("watch", "path", "inotify for everything but reads on a path; kept as `as`", watch),
    Operation::new("events", "fd", "inotify events so far as `CREATE name`, in order, without ISDIR", events),
    Operation::new(
        "poll",
        "fd events",
        "poll without waiting, `events` of the letters i o; answers those ready",
        poll,
    ),
    Operation::new("bind", "path", "a listening unix socket at this path; kept as `as`", bind),
    Operation::new("connect", "path", "connects to a unix socket; kept as `as`", connect),
    Operation::new("accept", "fd", "accepts a connection; kept as `as`", accept),
];

fn watch(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let quiet = WatchFlags::ACCESS | WatchFlags::OPEN | WatchFlags::CLOSE_NOWRITE;
    inotify::add_watch(&fd, args.bytes("path")?, WatchFlags::ALL_EVENTS - quiet)?;
    world.keep(args, fd)
}

const EVENTS: [(ReadFlags, &str); 9] = [
    (ReadFlags::CREATE, "CREATE"),
    (ReadFlags::DELETE, "DELETE"),
    (ReadFlags::MOVED_FROM, "MOVED_FROM"),
    (ReadFlags::MOVED_TO, "MOVED_TO"),
    (ReadFlags::MODIFY, "MODIFY"),
    (ReadFlags::ATTRIB, "ATTRIB"),
    (ReadFlags::CLOSE_WRITE, "CLOSE_WRITE"),
    (ReadFlags::DELETE_SELF, "DELETE_SELF"),
    (ReadFlags::MOVE_SELF, "MOVE_SELF"),
];

fn events(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let fd = world.arg_fd(args, "fd")?;
    // Events are queued before the call that causes them returns; the wait is for a filesystem that sends its own.
    readable(fd, Duration::from_millis(200));
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut reader = Reader::new(fd, &mut buffer);
    let mut out = Vec::new();
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::AGAIN) => return Ok(Value::List(out)),
            Err(errno) => return Err(errno.into()),
        };
        if let Some((_, name)) = EVENTS.iter().find(|(bit, _)| event.events().contains(*bit)) {
            let mut line = name.as_bytes().to_vec();
            if let Some(file) = event.file_name() {
                line.push(b' ');
                line.extend_from_slice(file.to_bytes());
            }
            out.push(line);
        }
    }
}

fn poll(world: &mut World<'_>, args: &Args<'_>) -> Done {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let letters = args.text("events")?;
    let mut want = PollFlags::empty();
    want.set(PollFlags::IN, letters.contains('i'));
    want.set(PollFlags::OUT, letters.contains('o'));
    let fd = world.arg_fd(args, "fd")?;
    let mut fds = [PollFd::new(&fd, want)];
    rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let ready = fds[0].revents();
    if ready.contains(PollFlags::NVAL) {
        return wrong("a descriptor that can be polled", "POLLNVAL");
    }
    let letter = |flag, name| if ready.contains(flag) { name } else { "" };
    Ok(Value::Bytes(format!("{}{}", letter(PollFlags::IN, "i"), letter(PollFlags::OUT, "o")).into()))
}

fn socket() -> rustix::io::Result<rustix::fd::OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

fn bind(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let fd = socket()?;
    rustix::net::bind(&fd, &SocketAddrUnix::new(args.bytes("path")?)?)?;
    rustix::net::listen(&fd, 1)?;
    world.keep(args, fd)
}

fn connect(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let fd = socket()?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(args.bytes("path")?)?)?;
    world.keep(args, fd)
}

fn accept(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let listener = world.arg_fd(args, "fd")?;
    if !readable(listener, Duration::from_secs(5)) {
        return Err(Trouble::Errno(Errno::TIMEDOUT));
    }
    let fd = rustix::net::accept(listener)?;
    world.keep(args, fd)
}
