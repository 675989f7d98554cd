//! Getting INIT answered: after mounting, or while the mount system call waits for it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fusewire_abi::{InHeader, MIN_READ_BUFFER, NotifyCode, Opcode, OutHeader};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::{sys, table::FdInfo};

/// How long to sleep between looks at whether the mount attempt has come as far as sending INIT.
const CONNECT_POLL: Duration = Duration::from_micros(200);

/// The longest buffer a read can need: the largest `max_write` there can be (65535 pages), and a page for the headers.
const MAX_READ_BUFFER: usize = 65_536 * 4096;

/// Length of a message without anything after its header.
const OUT_HEADER: u32 = size_of::<OutHeader>() as u32;

/// How a mount attempt ended whose INIT was answered meanwhile.
pub(super) struct Outcome<T> {
    /// What the mount system call said.
    pub mounted: T,
    /// What the callback said; nothing if INIT was never sent.
    pub answered: Option<io::Result<()>>,
}

/// A descriptor with which mounting waits for INIT.
pub(super) struct Synchronous<'a> {
    device: BorrowedFd<'a>,
    info: FdInfo,
}

impl<'a> Synchronous<'a> {
    /// Makes mounting with this descriptor wait for INIT, where the kernel can (Linux 6.18).
    pub fn make(device: BorrowedFd<'a>) -> Option<Self> {
        // Without the line in fdinfo there is no safe moment to begin reading; see `wait_connected`.
        let info = FdInfo::open(device).ok()?;
        info.connection().ok()?;
        sys::request_sync_init(device).ok()?;
        Some(Self { device, info })
    }
}

/// Runs `mount`, which waits for the answer to INIT, and on a second thread `answer`, which gives it.
///
/// If `answer` fails or panics, INIT is refused, so that `mount` comes back. A panic goes on in the caller.
pub(super) fn while_mounting<T>(
    Synchronous { device, info }: Synchronous<'_>,
    answer: impl FnOnce(BorrowedFd<'_>) -> io::Result<()> + Send,
    mount: impl FnOnce() -> T,
) -> io::Result<Outcome<T>> {
    let over = Over::new()?;
    thread::scope(|scope| {
        let answering = thread::Builder::new().name("fusewire-init".into()).spawn_scoped(scope, || {
            if !wait_connected(&info, &over.flag) {
                return None;
            }
            let answered = catch_unwind(AssertUnwindSafe(|| answer(device)));
            if !matches!(answered, Ok(Ok(()))) {
                refuse(device);
            }
            answer_early_requests(device, &over);
            Some(answered)
        })?;
        let mounted = mount();
        over.set();
        match answering.join() {
            Ok(None) => Ok(Outcome { mounted, answered: None }),
            Ok(Some(Ok(answered))) => Ok(Outcome { mounted, answered: Some(answered) }),
            Ok(Some(Err(panic))) | Err(panic) => resume_unwind(panic),
        }
    })
}

/// Tells the second thread that the mount system call has come back.
pub(super) struct Over {
    flag: AtomicBool,
    event: OwnedFd,
}

impl Over {
    pub fn new() -> rustix::io::Result<Self> {
        Ok(Self { flag: AtomicBool::new(false), event: eventfd(0, EventfdFlags::CLOEXEC)? })
    }

    pub fn set(&self) {
        self.flag.store(true, Ordering::Release);
        // Adding 1 to a fresh counter cannot fail.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

/// Waits until the descriptor belongs to a connection, or the mount attempt is over without that.
///
/// On a descriptor in this state `read` and even `poll` block until it is mounted, and nothing but a signal ends
/// that; if mounting failed before, the thread would hang for ever. fdinfo tells without blocking.
fn wait_connected(info: &FdInfo, over: &AtomicBool) -> bool {
    loop {
        // Read before asking, or a connection made in between would be missed.
        let is_over = over.load(Ordering::Acquire);
        if matches!(info.connection(), Ok(Some(_))) {
            return true;
        }
        if is_over {
            return false;
        }
        thread::sleep(CONNECT_POLL);
    }
}

/// Answers INIT with an error, also if it has been read already.
fn refuse(device: BorrowedFd<'_>) {
    while is_readable(device) && answer_one(device, |_| Errno::IO).is_ok() {}
    // What was read and not answered can be had once more.
    let resend = OutHeader { len: OUT_HEADER, error: NotifyCode::Resend as i32, unique: 0 };
    if rustix::io::write(device, resend.as_bytes()).is_ok() {
        while is_readable(device) && answer_one(device, |_| Errno::IO).is_ok() {}
    }
}

/// Answers what a security module asks about the new root before mounting is over, or it would never be: the
/// session that will serve has not begun yet. A label that is asked for is answered "none".
pub(super) fn answer_early_requests(device: BorrowedFd<'_>, over: &Over) {
    let no_label = |opcode| match Opcode::from_raw(opcode) {
        Some(Opcode::Getxattr | Opcode::Listxattr) => Errno::NODATA,
        _ => Errno::IO,
    };
    loop {
        let mut fds =
            [PollFd::from_borrowed_fd(device, PollFlags::IN), PollFd::new(&over.event, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return,
            Ok(_) if fds[0].revents() == PollFlags::IN => {
                if answer_one(device, no_label).is_err() {
                    return;
                }
            }
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

fn is_readable(device: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(device, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|count| count == 1) && fds[0].revents() == PollFlags::IN
}

/// Reads one request and answers it with the error that `choose` gives for its opcode.
fn answer_one(device: BorrowedFd<'_>, choose: impl Fn(u32) -> Errno) -> rustix::io::Result<()> {
    let request = read_request(device)?;
    let opcode = Opcode::from_raw(request.opcode);
    if matches!(opcode, Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt)) {
        return Ok(());
    }
    tracing::debug!(opcode = request.opcode, "answering a request that came before mounting was over");
    let error = -choose(request.opcode).raw_os_error();
    let reply = OutHeader { len: OUT_HEADER, error, unique: request.unique };
    match rustix::io::write(device, reply.as_bytes()) {
        // The request was given up meanwhile.
        Err(Errno::NOENT) => Ok(()),
        other => other.map(drop),
    }
}

/// The buffer must hold `max_write`, which the answer to INIT has set and is unknown here: EINVAL asks for more.
fn read_request(device: BorrowedFd<'_>) -> rustix::io::Result<InHeader> {
    let mut size = MIN_READ_BUFFER;
    loop {
        let mut buffer = vec![0; size];
        match rustix::io::read(device, &mut buffer) {
            Ok(count) => {
                let header = InHeader::read_from_prefix(&buffer[..count]);
                return header.map(|(header, _)| header).map_err(|_| Errno::IO);
            }
            Err(Errno::INVAL) if size < MAX_READ_BUFFER => size *= 2,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
